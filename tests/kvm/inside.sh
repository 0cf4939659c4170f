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

# A tiny guest writes 0 to the debug exit port when all its checks held: status 1.
guest() { # file cpus
	timeout -s KILL 60 sika run --engine kvm --kernel "$1" --memory 64M --cpus "$2" --net none \
		--serial stdio --debug-exit --no-reboot
	[ $? = 1 ]
}

check "engine against kvm-amd" test_kvm_engine
check "kernel to user space, 1 vCPU" boots 1 256M
check "kernel to user space, 2 vCPUs" boots 2 512M
for g in /guests/*.elf; do
	[ -e "$g" ] || continue
	cpus=1
	case $g in
	*smp*) cpus=2 ;;
	esac
	check "guest $(basename "$g" .elf)" guest "$g" $cpus
done

# Once more without nested paging.
rmmod kvm-amd && insmod /modules/kvm-amd.ko npt=0
check "engine against kvm-amd, npt=0" test_kvm_engine

echo RESULTS-END
poweroff -f
