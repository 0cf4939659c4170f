#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# inside.sh - /init of the machine that run.sh emulates: runs the one piece of work the kernel command line
# names over its /dev/kvm, and writes RESULT lines. The second serial port carries a heartbeat.
export PATH=/bin:/sika HOME=/tmp XDG_RUNTIME_DIR=/run TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm
# Interrupted lines of the kernel would garble the results.
echo 1 >/proc/sys/kernel/printk
while :; do
	cat /proc/uptime
	tail -qn 2 /tmp/console /tmp/firmware 2>/dev/null
	sleep 2
done >/dev/ttyS1 &

# Of a kernel that looks for what nobody points to any more: it is believed to be lost when it is some seconds old.
leaks_nothing() {
	sleep 6
	echo scan >/sys/kernel/debug/kmemleak
	echo scan >/sys/kernel/debug/kmemleak
	! grep . /sys/kernel/debug/kmemleak
}

# A driver of our own must have left no complaint in the kernel's log, and go without one. A kernel that looks after
# locks stops with its first complaint.
leaves_no_trace() {
	rmmod sika_kvm || return 1
	[ ! -e /proc/lockdep_stats ] || grep -q 'debug_locks: *1' /proc/lockdep_stats || echo "locks are not looked after"
	# What came first says most.
	! dmesg | sed '1,/sika-kvm: /d' |
		grep -m 1 -B3 -A24 -E 'WARNING:|BUG:|Oops|general protection|soft lockup|INFO: (task|rcu|trying)|ODEBUG:|Call Trace'
}

finish() {
	if [ -e /modules/driver.ko ]; then
		check "the driver, after $work" leaves_no_trace
		[ ! -e /sys/kernel/debug/kmemleak ] || check "nothing is lost, after $work" leaks_nothing
	fi
	echo RESULTS-END
	sleep 1 # for the serial port
	poweroff -f
}

word() { # of the kernel command line
	sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

now() { cut -d. -f1 /proc/uptime; }

# check NAME COMMAND...: passes when the command does; its output follows when it does not.
check() {
	name=$1
	shift
	t=$(now)
	s=fail
	"$@" >/tmp/out 2>&1 </dev/null && s=pass
	echo "RESULT $s $name ($(($(now) - t)) s)"
	[ $s = pass ] || tail -n 30 /tmp/out
}

beyond_ram() { # pid: KiB of it that are resident and not the guest's RAM
	awk '/^[0-9a-f]+-[0-9a-f]+ / { ram = /memfd:guest-ram/ }
	     /^Pss:/ && !ram { kib += $2 }
	     END { print kib + 0 }' "/proc/$1/smaps"
}

# Up to user space, as many CPUs as asked for, which go by what KVM offers to several, and at most 20 MiB of the host's memory beyond the guest's.
boots() { # cpus memory engine
	: >/tmp/console # what the boot before it has said is not to be taken for this one's
	sika run --engine "$3" --kernel /vmlinuz --initrd /inner.cpio \
		--append "console=ttyS0 $(word lab_words | tr , " ") panic=-1" --memory "$2" --cpus "$1" \
		--net user --serial stdio --no-reboot >/tmp/console 2>&1 &
	machine=$! kib=
	while kill -0 $machine 2>/dev/null; do
		if grep -q "^SIKA-GUEST-ALIVE" /tmp/console; then
			kib=$(beyond_ram $machine)
			break
		fi
		sleep 0.2
	done
	wait $machine
	status=$?
	cat /tmp/console
	echo "status $status, ${kib:-unknown} KiB beyond the guest's RAM"
	[ $status = 0 ] && grep -q "^SIKA-GUEST-ALIVE cpus=$1 " /tmp/console || return 1
	[ "$1" = 1 ] || [ "$3" != kvm ] || { grep -q "^SIKA-PV 4" /tmp/console &&
		grep -q "^SIKA-APF 1" /tmp/console; } || return 1
	[ "${kib:-0}" -gt 0 ] && [ "$kib" -le 20480 ] || return 1
	echo "INFO $kib KiB beyond the guest's RAM" >/dev/console
	tr -d '\r' </tmp/console | sed -n 's/^SIKA-FIGURE/INFO figure/p' >/dev/console
}

# Disks of both kinds, with a queue for each CPU and a thread of their own: what the guest says to have
# written and read is in the images.
disks() {
	truncate -s 4M /tmp/blk
	sika image create --format qcow2 /tmp/scsi 4M || return 1
	sika run --engine kvm --kernel /vmlinuz --initrd /disks.cpio \
		--append "console=ttyS0 quiet panic=-1" --memory 256M --cpus 2 --net none --serial stdio \
		--no-reboot --disk /tmp/blk,format=raw,queues=2,iothread=one \
		--disk /tmp/scsi,format=qcow2,bus=scsi,queues=2,iothread=one >/tmp/console 2>&1
	status=$?
	tr -d '\r' </tmp/console
	sika image check /tmp/scsi && sika image convert --to raw /tmp/scsi /tmp/scsi.raw || return 1
	for disk in "vda /tmp/blk" "sda /tmp/scsi.raw"; do
		sum=$(head -c 2097152 "${disk#* }" | md5sum | cut -d' ' -f1)
		echo "${disk% *}: $sum in the image"
		grep -q "^SIKA-DISK ${disk% *} $sum .*queues 2" /tmp/console || return 1
	done
	[ $status = 0 ]
}

# Two at once, with two vCPUs each.
boots_pair() {
	pids=
	for n in 1 2; do
		sika run --engine kvm --kernel /vmlinuz --initrd /inner.cpio \
			--append "console=ttyS0 $(word lab_words | tr , " ") panic=-1" --memory 256M --cpus 2 --net none \
			--serial stdio --no-reboot >/tmp/console.$n 2>&1 </dev/null &
		pids="$pids $!"
	done
	# shellcheck disable=SC2086
	wait $pids
	cat /tmp/console.1 /tmp/console.2
	grep -q "^SIKA-GUEST-ALIVE cpus=2 " /tmp/console.1 && grep -q "^SIKA-GUEST-ALIVE cpus=2 " /tmp/console.2
}

# The same through firmware, by QEMU.
qemu_boots() { # cpus irqchip
	qemu-system-x86_64 -accel "kvm,kernel-irqchip=$2" -cpu host -smp "$1" -m 256M -nodefaults -display none \
		-L /usr/share/seabios -L /usr/share/qemu -no-reboot -serial stdio \
		-kernel /vmlinuz -initrd /inner.cpio -append "console=ttyS0 $(word lab_words | tr , " ") panic=-1" >/tmp/console 2>&1
	status=$?
	cat /tmp/console
	echo "status $status"
	[ $status = 0 ] && grep -q "^SIKA-GUEST-ALIVE cpus=$1 " /tmp/console
}

# One after the other, by our monitor and by QEMU, with one vCPU and with two: none of them fails.
boots_row() { # times
	for n in $(seq "$1"); do
		cpus=$((2 - n % 2))
		boots $cpus 256M kvm || { echo "boot $n of $1, $cpus vCPU, by our monitor"; return 1; }
		qemu_boots $cpus on || { echo "boot $n of $1, $cpus vCPU, by QEMU"; return 1; }
		echo "$n of $1 boots, $(now) s" >/dev/ttyS1
	done
}

# A tiny guest by QEMU: 0 on the debug exit port is status 1. Where VT-x is, all takes longer.
qemu_guest() { # name cpus irqchip
	grep -qw vmx /proc/cpuinfo && limit=300 || limit=60
	timeout $limit qemu-system-x86_64 -accel "kvm,kernel-irqchip=$3" -cpu host -smp "$2" -m 64M -nodefaults \
		-display none -L /usr/share/seabios -L /usr/share/qemu -no-reboot -serial stdio \
		-debugcon file:/tmp/firmware -global isa-debugcon.iobase=0x402 \
		-device isa-debug-exit,iobase=0xf4,iosize=4 -kernel "/build/tests/guest/$1.elf" -append "cpus=$2 hw=1"
	status=$?
	echo "status $status, firmware's last words:"
	tail -n 5 /tmp/firmware
	[ $status = 1 ]
}

# A guest that fails is judged by known.list: failed checks, and no others, at the lines named there. What is of Bochs
# is not heard elsewhere: VT-x is its.
judge() {
	awk -v vmx="$(grep -cw vmx /proc/cpuinfo)" '
	# The lines, N in a row as LINExN.
	function gather() {
		if (line_at == "") return
		at = at (at == "" ? "" : ",") line_at (times > 1 ? "x" times : "")
		line_at = ""
	}
	function flush(  i, known) {
		if (!name) return
		gather()
		if (label ~ /: status 143$/) at = at ",stands"
		for (i = 1; i <= rows[name] && !known; i++)
			if (at ~ "^" lines[name, i] "$") known = why[name, i]
		print "RESULT " (known ? "skip" : "fail") " guest " label ": " (known ? known : "lines " at)
		name = ""
	}
	FILENAME == "/guests/known.list" {
		if ($1 !~ /^#/ && NF > 2) {
			line = $0
			sub(/^[^ ]+ +[^ ]+ +/, "", line)
			if (line ~ /^Bochs:/ && !vmx) next
			i = ++rows[$1]
			why[$1, i] = line
			lines[$1, i] = $2
			gsub(/x[*]/, "(x[0-9]+)?", lines[$1, i])
		}
		next
	}
	/^[A-Z]+: / || /passed, .* skipped$/ { flush() }
	/^PASS: / { sub(/^PASS: /, ""); print "RESULT pass guest " $0; next }
	/^SKIP: / { sub(/^SKIP: /, ""); print "RESULT skip guest " $0; next }
	/^FAIL: / { name = $2; at = ""; line_at = ""; label = $0; sub(/^FAIL: /, "", label); next }
	name && match($0, /[a-z0-9]+\.c:[0-9]+: /) {
		split(substr($0, RSTART, RLENGTH), part, ":")
		if (part[2] == line_at) { times++; next }
		gather()
		line_at = part[2]
		times = 1
	}
	END { flush() }' /guests/known.list "$1"
}

guests() { # comma-separated names
	t=$(now)
	sh /guests/run.sh --engine kvm --build /build $(echo "$1" | tr , ' ') >/tmp/guests 2>&1
	judge /tmp/guests
	grep -A20 '^FAIL' /tmp/guests
	echo "INFO guests $1: $(($(now) - t)) s"
}

# One model under both engines: its name, its signature, and feature words where nothing tells of the host
# are the same. What CPUID prints: leaf, EAX, EBX, ECX, EDX.
leaves() { # engine model
	sika run --engine "$1" --cpu "$2" --kernel /build/tests/guest/cpuid.elf --append hw=1 --memory 64M \
		--net none --debug-exit --no-reboot --serial stdio </dev/null 2>&1 | tr -d '\r' >/tmp/leaves
	grep -q ', 0 failed' /tmp/leaves || cat /tmp/leaves >&2
	sed -n -e 's/^\(leaf 1.0: [0-9a-f]*\) [0-9a-f]*/\1/p' \
		-e '/^leaf d.0/s/^\(leaf d.0: [0-9a-f]*\) [0-9a-f]* /\1 /p' \
		-e '/^leaf 8000000[234]/p' -e 's/, 0 failed/ held/p' /tmp/leaves
}

models() {
	for model in x86-64-v1 x86-64-v2 x86-64-v2,-popcnt; do
		leaves bt "$model" >/tmp/bt
		leaves kvm "$model" >/tmp/kvm
		diff /tmp/bt /tmp/kvm && grep -q "held" /tmp/kvm || { echo "model $model"; return 1; }
	done
}

# bench/kernel.c: nanoseconds of what a kernel does, with exits among it.
costs() {
	sika run --engine kvm --cpus 1 --memory 64M --net none --debug-exit --no-reboot --serial stdio \
		--kernel /build/bench/kernel.elf --append cpus=1
	grep -q "^K cpuid " /tmp/out
}

# Tracepoints by the names and fields that tools look for, and that a guest leaves there.
traces() {
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
	cd /sys/kernel/tracing/events/kvm || return 1
	while read -r event fields; do
		for field in $fields; do
			grep -q "field:.*[ ]$field;" "$event/format" || { echo "$event has no field $field"; return 1; }
		done
		echo 1 >"$event/enable" || return 1
	done <<-END
		kvm_entry vcpu_id rip
		kvm_exit exit_reason guest_rip isa info1 info2 intr_info error_code vcpu_id
		kvm_pio rw port size count val
		kvm_mmio type len gpa val
		kvm_msr write ecx data exception
		kvm_inj_virq vector soft reinjected
		kvm_page_fault vcpu_id guest_rip fault_address error_code
	END
	cd /
	sika run --engine kvm --kernel /build/tests/guest/ticks.elf --memory 64M --net none --debug-exit --no-reboot \
		--serial stdio </dev/null
	echo 0 >/sys/kernel/tracing/tracing_on
	for word in "kvm_entry: vcpu 0, rip 0x" "kvm_exit: .*reason [a-z_]* rip 0x" "kvm_exit: .*reason msr" \
		"kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x" "kvm_pio: pio_read" "kvm_mmio: mmio write len 4 gpa 0xfee000" \
		"kvm_inj_virq: IRQ 0x" "kvm_page_fault: vcpu 0 rip 0x"; do
		grep -q "$word" /sys/kernel/tracing/trace || { echo "no $word"; sed -n '1,40p' /sys/kernel/tracing/trace; return 1; }
	done
	grep -c kvm_exit /sys/kernel/tracing/trace
}

# What they make of a guest's exits: the reasons by their names, each with a share.
tools() {
	guest="sika run --engine kvm --kernel /build/tests/guest/ticks.elf --memory 64M --net none --debug-exit
		--no-reboot --serial stdio"
	mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
	if [ -x /bin/perf ]; then
		# shellcheck disable=SC2086
		perf kvm stat record -a -o /tmp/perf.data $guest # its status is the guest's
		perf kvm -i /tmp/perf.data stat report --event=vmexit >/tmp/report 2>&1
		cat /tmp/report
		for reason in msr io npf; do
			grep -Eq "^ *$reason +[1-9][0-9]* +[0-9.]+%" /tmp/report || { echo "perf: no $reason"; return 1; }
		done
		echo "INFO perf kvm stat: $(grep -c '%' /tmp/report) reasons" >/dev/console
	fi
	if [ -x /bin/trace-cmd ]; then
		# shellcheck disable=SC2086
		trace-cmd record -e kvm -o /tmp/trace.dat $guest
		trace-cmd report -i /tmp/trace.dat >/tmp/report 2>&1
		head -n 40 /tmp/report
		for line in "kvm_entry: .*vcpu 0" "kvm_exit: .*reason [a-z]" "kvm_pio: .*pio_write at 0x3f8"; do
			grep -q "$line" /tmp/report || { echo "trace-cmd: no $line"; return 1; }
		done
		! grep -m 5 "FAILED TO PARSE" /tmp/report || return 1
		echo "INFO trace-cmd: $(grep -c kvm_exit /tmp/report) exits" >/dev/console
	fi
}

# A machine of QEMU's goes from the stock driver to ours and back, by way of a file: nobody but the two drivers tells
# it from one that stays. Of features that only one of them knows it is shown none.
MOVED="-cpu EPYC,-svm,kvm-poll-control=off"

use_driver() { # ours|stock
	if [ "$1" = ours ]; then
		rmmod kvm_amd kvm irqbypass 2>/dev/null
		insmod /modules/driver.ko
	else
		rmmod sika_kvm 2>/dev/null
		insmod /modules/irqbypass.ko && insmod /modules/kvm.ko && insmod /modules/kvm-amd.ko
	fi
}

# Until the last console has the line, or is bad.
waits_for() { # console line
	until grep -q "$2" "$1"; do
		kill -0 "$machine" 2>/dev/null && ! grep -q SIKA-BAD "$1" || return 1
		sleep 0.2
	done
}

# QEMU in the background: its console in /tmp/console, its monitor behind descriptor 3 and in /tmp/monitor.
qemu_begins() { # number initrd words-for-the-kernel QEMU's-words...
	log=/tmp/qemu.$1 initrd=$2 words=$3
	shift 3
	rm -f /tmp/mon.in /tmp/mon.out
	mkfifo /tmp/mon.in /tmp/mon.out
	# shellcheck disable=SC2086
	qemu-system-x86_64 -accel kvm,kernel-irqchip=on $MOVED -smp 2 -m 128M -nodefaults -display none \
		-L /usr/share/seabios -L /usr/share/qemu -no-reboot -serial "file:/tmp/console" -monitor pipe:/tmp/mon \
		-kernel /vmlinuz -initrd "$initrd" "$@" \
		-append "console=ttyS0 $(word lab_words | tr , " ") panic=-1 $words" >"$log" 2>&1 &
	machine=$!
	exec 3>/tmp/mon.in
	cat /tmp/mon.out >/tmp/monitor &
}

# Asks the monitor until it answers so.
says() { # question answer
	until grep -q "$2" /tmp/monitor; do
		kill -0 "$machine" 2>/dev/null || return 1
		echo "$1" >&3
		sleep 0.5
	done
}

qemu_stays() { # number driver: from where the last left it, until it has counted ten more; it is then in /tmp/state
	use_driver "$2" || return 1
	if [ "$1" = 1 ]; then
		qemu_begins "$1" /inner.cpio looks=60
	else
		qemu_begins "$1" /inner.cpio looks=60 -incoming "exec:cat</tmp/state"
	fi
	last=$(sed -n 's/.*SIKA-COUNT \([0-9]*\).*/\1/p' /tmp/moves 2>/dev/null | tail -n 1)
	waits_for /tmp/console "SIKA-COUNT $((${last:-0} + 12))" || return 1
	[ "$1" != 3 ] || return 0
	echo 'migrate "exec:cat>/tmp/state.new"' >&3
	says "info status" "paused (postmigrate)" || return 1
	echo quit >&3
	wait $machine
	mv /tmp/state.new /tmp/state
	cat /tmp/console >>/tmp/moves
}

qemu_moves() {
	for step in 1:stock 2:ours 3:stock; do
		qemu_stays "${step%:*}" "${step#*:}" && continue
		echo "on the driver ${step#*:}:"
		tail -n 5 "/tmp/qemu.${step%:*}" /tmp/monitor
		cat /tmp/moves /tmp/console
		return 1
	done
	wait $machine
	status=$?
	cat /tmp/console >>/tmp/moves
	use_driver ours || return 1
	cat /tmp/qemu.* /tmp/moves
	# Every line once, in turn.
	[ $status = 0 ] && grep -q "SIKA-COUNTED 60" /tmp/moves && ! grep -q SIKA-BAD /tmp/moves &&
		[ "$(tr -d '\r' </tmp/moves | sed -n 's/^SIKA-COUNT //p' | tr '\n' ' ')" = "$(seq 60 | tr '\n' ' ')" ]
}

# Under VT-x real mode is the processor's, unless the piece says otherwise.
unrestricted() { [ "$(word lab_real)" = 1 ] && echo 0 || echo 1; }

# ---- by a wire, while it runs: from the stock driver, which this machine (near) has, to ours in the other one (far),
# and back ----

joins() { # address
	while read -r m; do insmod "$m" || return 1; done </modules/net/order
	ip link set lo up
	ip addr add "$1/24" dev eth0 && ip link set eth0 up
}

# One waits here until the other asks.
offers() { echo ready | nc -l -p 5000; }

asks() { # address
	until [ "$(nc -w 2 "$1" 5000 </dev/null)" = ready ]; do sleep 0.5; done
}

counted() { grep -c '^SIKA-COUNT ' /tmp/console; }

# Looks and rounds: on a busy host the looks are slow, while the rounds, which sleep, are not.
heard() { grep -c -E '^SIKA-(COUNT|ROUND) ' /tmp/console; }

counts_to() { # looks that this console has
	until [ "$(counted)" -ge "$1" ]; do
		kill -0 "$machine" 2>/dev/null && ! grep -q SIKA-BAD /tmp/console || return 1
		sleep 0.2
	done
}

arrives() { # number
	rm -f /tmp/console
	qemu_begins "$1" /live.cpio "looks=$LOOKS dirty=24" -incoming tcp:0.0.0.0:4444
	says "info status" "inmigrate" && offers
}

# Memory is written meanwhile, so it takes several passes, and the guest counts on during them.
moves_off() { # address
	asks "$1"
	before=$(heard)
	echo "migrate_set_parameter downtime-limit 1000" >&3
	echo "migrate_set_parameter max-bandwidth 8M" >&3
	echo "migrate -d tcp:$1:4444" >&3
	says "info migrate" "Migration status: completed" || return 1
	after=$(heard)
	passes=$(tr -d '\r' </tmp/monitor | sed -n 's/^dirty sync count: //p' | tail -n 1)
	echo "quit" >&3
	wait "$machine"
	echo "$before looks and rounds, then $((after - before)) in $passes passes; $(grep -a 'downtime:' /tmp/monitor | tail -n 1)"
	[ "$passes" -ge 3 ] && [ "$after" -gt $((before + 2)) ]
}

goes_near() {
	joins 10.0.0.1 && use_driver stock || return 1
	qemu_begins 1 /live.cpio "looks=$LOOKS dirty=24"
	counts_to 8 && moves_off 10.0.0.2 || return 1
	mv /tmp/console /tmp/moves
	arrives 2 && waits_for /tmp/console "SIKA-COUNTED $LOOKS" || return 1
	wait "$machine"
	status=$?
	nc -w 5 10.0.0.2 5001 </dev/null >>/tmp/moves || return 1
	cat /tmp/console >>/tmp/moves
	rounds=$(grep -c "SIKA-ROUND [1-9]" /tmp/moves)
	echo "status $status, $rounds rounds of the writers, $(grep -c SIKA-BAD /tmp/moves) bad pages"
	grep -m 3 SIKA-BAD /tmp/moves
	[ $status = 0 ] && ! grep -q SIKA-BAD /tmp/moves && [ "$rounds" -ge 4 ] &&
		[ "$(grep -c "SIKA-WROTE" /tmp/console)" = 2 ] &&
		[ "$(tr -d '\r' </tmp/moves | sed -n 's/^SIKA-COUNT //p' | tr '\n' ' ')" = "$(seq $LOOKS | tr '\n' ' ')" ]
}

goes_far() {
	joins 10.0.0.2 && use_driver ours && arrives far || return 1
	counts_to 10 && moves_off 10.0.0.1 || return 1
	nc -l -p 5001 </tmp/console
}

LOOKS=120
qemu_live() {
	"goes_$1"
	status=$?
	kill "$machine" 2>/dev/null && wait "$machine"
	[ "$1" = near ] && use_driver ours # which finish() looks for
	cat /tmp/qemu.* | grep -v "doesn't support requested feature"
	[ $status = 0 ] || tail -n 12 /tmp/moves /tmp/console /tmp/monitor
	return $status
}

# ---- ours, in one machine with nested and with shadow paging: what `make test` has of it ----

# The host's pages are large where they can be, and so are entries for them.
seen() { # counter's values, one a line
	sort -n "$1" | tail -n 1
	[ "$(sort -n "$1" | tail -n 1)" -gt 0 ]
}

both() {
	echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled
	for npt in 1 0; do
		insmod /modules/driver.ko npt=$npt || return
		check "engine on our driver, npt=$npt" test_kvm_engine
		check "what other monitors ask for of our driver, npt=$npt" test_kvm_abi
		check "state of both engines, our driver, npt=$npt" test_engine_state
		while sleep 0.1; do cat /sys/kernel/debug/kvm/pages_2m; done >/tmp/large 2>/dev/null &
		watcher=$!
		guests modes,paging,tables,ticks,chips,io
		kill $watcher
		check "large pages on our driver, npt=$npt" seen /tmp/large
		[ $npt = 0 ] || check "our driver, after npt=$npt" leaves_no_trace
	done
}

# The host wants memory back, again and again: shadow pages go under a running guest, which must not notice.
shrinks() {
	echo 4 >/proc/sys/vm/drop_caches # no line in the log for each time
	while sleep 0.1; do
		echo 2 >/proc/sys/vm/drop_caches
		cat /sys/kernel/debug/kvm/mmu_recycled
	done >/tmp/recycled 2>/dev/null &
	host=$!
	guests tables,tables32,paging
	check "kernel to user space while shadow pages are taken back" boots 2 256M kvm
	kill $host
	check "shadow pages were taken back" seen /tmp/recycled
	echo "INFO shadow pages taken back of one machine: $(sort -n /tmp/recycled | tail -n 1)"
}

if [ "$(word lab_work)" = qemu-moves ] || [ "$(word lab_work)" = qemu-live ] || [ "$(word lab_work)" = both ]; then
	: # it loads them in turn
elif [ -e /modules/driver.ko ]; then
	insmod /modules/driver.ko npt="$(word lab_npt)" ept="$(word lab_npt)" \
		unrestricted_guest="$(unrestricted)" || dmesg | tail -n 20
else
	for m in irqbypass kvm; do
		insmod /modules/$m.ko || echo "INFO cannot load $m"
	done
	if grep -qw vmx /proc/cpuinfo; then
		insmod /modules/kvm-intel.ko ept="$(word lab_npt)" unrestricted_guest="$(unrestricted)" || echo "INFO cannot load kvm-intel"
	else
		insmod /modules/kvm-amd.ko npt="$(word lab_npt)" || echo "INFO cannot load kvm-amd"
	fi
fi
work=$(word lab_work)
if [ "$work" != qemu-moves ] && [ "$work" != qemu-live ] && [ "$work" != both ] && [ ! -c /dev/kvm ]; then
	echo "RESULT fail $work: /dev/kvm is missing inside"
	finish
fi
case $work in
engine)
	check "engine against kvm-amd, npt=$(word lab_npt)" test_kvm_engine
	check "what other monitors ask for, npt=$(word lab_npt)" test_kvm_abi
	check "state of both engines, npt=$(word lab_npt)" test_engine_state
	;;
abi) check "what other monitors ask for, npt=$(word lab_npt)" test_kvm_abi ;;
boot:*)
	IFS=: read -r _ cpus memory engine <<-END
		$work
	END
	check "kernel to user space, $cpus vCPU, --engine $engine, npt=$(word lab_npt)" \
		boots "$cpus" "$memory" "$engine"
	;;
row:*) check "${work#row:} boots in a row by our monitor and by QEMU, npt=$(word lab_npt)" boots_row "${work#row:}" ;;
shrinks) shrinks ;;
boots-pair) check "two guests at once" boots_pair ;;
qemu:*)
	IFS=: read -r _ cpus irqchip <<-END
		$work
	END
	check "kernel to user space, $cpus vCPU, QEMU with kernel-irqchip=$irqchip, npt=$(word lab_npt)" \
		qemu_boots "$cpus" "$irqchip"
	;;
both) both ;;
qemu-live)
	side=$(word lab_side)
	check "QEMU's machine, alive, between the stock driver and ours (${side:-near})" qemu_live "${side:-near}"
	sed -n 's/^\([0-9]* looks and rounds, then.*\|status .*writers.*\)/INFO \1/p' /tmp/out | tr -d '\r'
	;;
qemu-moves) check "QEMU's machine, from the stock driver to ours and back" qemu_moves ;;
qemu-guests:*)
	IFS=: read -r _ irqchip names <<-END
		$work
	END
	for guest in ${names:-modes:1 ticks:1 smp:2}; do
		check "guest ${guest%:*}, QEMU with kernel-irqchip=$irqchip" \
			qemu_guest "${guest%:*}" "${guest#*:}" "$irqchip"
	done
	;;
fuzz:* | hostile:*)
	IFS=: read -r what seconds seed <<-END
		$work
	END
	case $what in
	fuzz) check "every ioctl, at random, npt=$(word lab_npt)" fuzz_ioctl "$seconds" "$seed" ;;
	hostile) check "hostile guests, npt=$(word lab_npt)" hostile "$seconds" "$seed" ;;
	esac
	echo "INFO $(cat /tmp/out)"
	;;
costs)
	check "what exits cost, npt=$(word lab_npt)" costs
	sed -n 's/^K /INFO cost /p' /tmp/out
	;;
trace) check "tracepoints, npt=$(word lab_npt)" traces ;;
tools)
	if [ -x /bin/perf ] || [ -x /bin/trace-cmd ]; then
		check "perf and trace-cmd on our tracepoints, npt=$(word lab_npt)" tools
	else
		echo "RESULT skip perf and trace-cmd: neither is here"
	fi
	;;
disks) check "disks of a kernel, 2 vCPUs, --engine kvm" disks ;;
models) check "a processor's level under both engines" models ;;
guests:*) guests "${work#guests:}" ;;
esac
finish
