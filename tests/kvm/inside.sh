#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# inside.sh - /init of the machine that run.sh emulates: runs our programs over its /dev/kvm and writes one
# RESULT line each.
export PATH=/bin:/sika HOME=/tmp XDG_RUNTIME_DIR=/run TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm
# Interrupted lines of the kernel would garble the results.
echo 1 >/proc/sys/kernel/printk

for m in irqbypass kvm kvm-amd; do
	insmod /modules/$m.ko || echo "INFO cannot load $m"
done
if [ ! -c /dev/kvm ]; then
	echo "RESULT fail /dev/kvm is missing inside"
	echo RESULTS-END
	poweroff -f
fi

report() { # status name seconds
	if [ "$1" = 0 ]; then
		echo "RESULT pass $2 (${3} s)"
	else
		echo "RESULT fail $2 (${3} s)"
	fi
}

now() { cut -d. -f1 /proc/uptime; }

# check NAME COMMAND...: passes when the command does; its output follows when it does not.
check() {
	name=$1
	shift
	t=$(now)
	"$@" >/tmp/out 2>&1 </dev/null
	s=$?
	report $s "$name" $(($(now) - t))
	[ $s = 0 ] || tail -n 30 /tmp/out
}

boots() { # cpus memory engine-options...
	n=$1
	memory=$2
	shift 2
	timeout -s KILL 150 sika run --engine kvm --kernel /vmlinuz --initrd /inner.gz \
		--append "console=ttyS0 quiet panic=-1" --memory "$memory" --cpus "$n" \
		--net none --serial stdio --no-reboot "$@" || return 1
	grep -q "^SIKA-GUEST-ALIVE cpus=$n " /tmp/out
}

# Without nested paging first.
rmmod kvm-amd && insmod /modules/kvm-amd.ko npt=0
check "engine against kvm-amd, npt=0" test_kvm_engine
rmmod kvm-amd && insmod /modules/kvm-amd.ko
check "engine against kvm-amd" test_kvm_engine
check "kernel to user space, 1 vCPU" boots 1 256M
check "kernel to user space, 2 vCPUs" boots 2 512M
# The tiny guests, with the same script and list as everywhere else. What fails gets a second try:
# QEMU's threads lose a store to code that runs on another CPU now and then.
t=$(now)
sh /guests/run.sh --engine kvm --build /build >/tmp/guests 2>&1
echo "INFO tiny guests: $(($(now) - t)) s"
again=$(sed -n 's/^FAIL: \([a-z0-9]*\) .*/\1/p' /tmp/guests | sort -u |
	grep -vxFf /guests/known.names)
if [ -n "$again" ]; then
	grep -v "^FAIL: \($(echo $again | sed 's/ /\\|/g')\) " /tmp/guests >/tmp/first
	sh /guests/run.sh --engine kvm --build /build $again >/tmp/second 2>&1
	cat /tmp/first /tmp/second >/tmp/guests
fi
awk '
	function flush() {
		if (!name) return
		if ((name in known) && (known[name] == "*" || (count != "" && count <= known[name])))
			print "RESULT skip guest " label ": " why[name]
		else
			print "RESULT fail guest " label
		name = ""
	}
	FILENAME == "/guests/known.list" {
		if ($1 !~ /^#/ && NF > 2) {
			known[$1] = $2
			line = $0
			sub(/^[^ ]+ +[^ ]+ +/, "", line)
			why[$1] = line
		}
		next
	}
	/^[A-Z]+: / || /passed, .* skipped$/ { flush() }
	/^PASS: / { sub(/^PASS: /, ""); print "RESULT pass guest " $0; next }
	/^SKIP: / { sub(/^SKIP: /, ""); print "RESULT skip guest " $0; next }
	/^FAIL: / { name = $2; count = ""; label = $0; sub(/^FAIL: /, "", label); next }
	/ checks, [0-9]+ failed/ { count = $(NF - 1) + 0 }
	END { flush() }
' /guests/known.list /tmp/guests
grep -A20 '^FAIL' /tmp/guests

echo RESULTS-END
poweroff -f
