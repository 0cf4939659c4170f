#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh - the kvm engine on a real hardware-KVM interface, without such hardware.
#
# QEMU's software CPU offers AMD-V; Debian's stock kernel with its own kvm-amd runs inside it, and in there
# our programs boot the same kernel again, to user space, under `--engine kvm`. Tiny guests and
# the engine's own test run there too. Some minutes; nothing is installed but Debian packages.
#
# usage: tests/kvm/run.sh [BUILD_DIR]     (default: build)
# environment: KVM_LAB_TIMEOUT seconds after which no further piece is begun that may be left out (200),
# KVM_LAB_ONLY="PIECE..." (names at the end; one:GUEST,...:NPT for those tiny guests alone, and in Bochs
# vmx-one:GUEST,...:EPT:REAL:CPUS), KVM_LAB_THREADS=single|multi, KVM_LAB_CPU (of QEMU, or a model of Bochs),
# KVM_LAB_DRIVER=FILE.ko (another driver instead of the stock one),
# KVM_LAB_KERNEL=FILE (of the machine in the middle, instead of Debian's), KVM_LAB_ARGS="WORD..." (for it),
# KVM_LAB_KEEP=1 (leaves what was made, and what the second serial port said: the uptime, the last of a console),
# KVM_LAB_WORDS=WORD,... (of the innermost kernel's command line, instead of quiet; forks=N and faults=N make it
# tell how long that many processes take, and that many times 32 MiB touched),
# KVM_LAB_ICOUNT=1 (the emulated machine's time is what it has executed: for a host so busy that a kernel would
# miss its timers), KVM_LAB_PATIENCE=N (limits times N),
# KVM_LAB_SECONDS=N, KVM_LAB_SEED=N (of the pieces that fuzz our own driver), KVM_LAB_BOOTS=N (of row-*, 20),
# KVM_LAB_MACHINE=bochs (VT-x instead, in Bochs, with pieces of its own: about a minute of its time to start each)
set -u

here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../../build}" && pwd) || exit 1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sika/kvm-lab
budget=${KVM_LAB_TIMEOUT:-200}
threads=${KVM_LAB_THREADS:-single}
patience=${KVM_LAB_PATIENCE:-1}
silence=$((40 * patience))
machine=${KVM_LAB_MACHINE:-qemu}
[ "$machine" = qemu ] || silence=$((300 * patience))
cpu=${KVM_LAB_CPU:-EPYC,+svm,+npt}
started=$(date +%s)

skip() {
	echo "tests/kvm: skipped: $1"
	echo "0 passed, 0 failed, 1 skipped"
	exit 77
}

fail() {
	echo "tests/kvm: $1" >&2
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
}

need() { # command or file, package
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null ;;
	esac && return
	[ "$(id -u)" = 0 ] || skip "$1 is missing: apt-get install $2"
	apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 || skip "cannot install $2"
}

if [ "$machine" = bochs ]; then
	need bochs bochs
	need /usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so bochs-term
	need /usr/share/bochs/BIOS-bochs-latest bochsbios
	need /usr/share/vgabios/vgabios.bin vgabios
	need /usr/lib/ISOLINUX/isolinux.bin isolinux
	need /usr/lib/syslinux/modules/bios/ldlinux.c32 syslinux-common
	need xorriso xorriso
	need script bsdutils
else
	need qemu-system-x86_64 qemu-system-x86
fi
need busybox busybox-static
need dpkg dpkg
need apt-get apt
file=$(command -v busybox)
ldd "$file" >/dev/null 2>&1 && need /bin/busybox busybox-static
[ -x "$build/src/cli/sika" ] && [ -x "$build/src/vmm/sika-vmm" ] ||
	fail "no sika and sika-vmm in $build: build first"

# Debian's kernel for clouds, taken out of its package.
package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
	awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
[ -n "$package" ] || skip "apt knows no linux-image-cloud-amd64"
kernel_dir=$cache/$package
if [ ! -e "$kernel_dir/.complete" ]; then
	rm -rf "$kernel_dir" && mkdir -p "$kernel_dir"
	(cd "$kernel_dir" && apt-get download "$package" >/dev/null 2>&1 && dpkg -x ./*.deb . &&
		rm -f ./*.deb && touch .complete) || skip "cannot download $package"
fi
vmlinuz=$(echo "$kernel_dir"/boot/vmlinuz-*)
modules=$(echo "$kernel_dir"/lib/modules/*/kernel)

work=$(mktemp -d "${TMPDIR:-/tmp}/sika-kvm-lab-XXXXXX") || exit 1
trap '[ -n "${KVM_LAB_KEEP:-}" ] || rm -rf "$work"' EXIT

# Not compressed, since it is the emulated CPU that would have to unpack it; whole blocks, so that what
# follows begins where the kernel looks for it.
pack() { # directory archive
	(cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null) >"$2"
	truncate -s %512 "$2"
}

# The innermost guest: says that it lives, and powers off.
inner=$work/inner
mkdir -p "$inner"/{bin,proc,sys,dev}
cp "$(command -v busybox)" "$inner/bin/busybox"
cat >"$inner/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "SIKA-GUEST-ALIVE cpus=$(/bin/busybox grep -c ^processor /proc/cpuinfo) kernel=$(/bin/busybox uname -r)"
/bin/busybox grep -m1 MemTotal /proc/meminfo
echo "SIKA-PV $(/bin/busybox dmesg |
	/bin/busybox grep -cE 'setup PV IPIs|setup pv remote TLB flush|setup PV sched yield|PV spinlocks enabled')"
# The interrupt by which it would hear of pages that have come.
echo "SIKA-APF $(/bin/busybox grep -c 'HYP:' /proc/interrupts)"
# By words of the command line: processes, and pages touched for the first time, in hundredths of a second.
word() { /bin/busybox sed -n "s/.*$1=\([0-9]*\).*/\1/p" /proc/cmdline; }
now() { /bin/busybox sed 's/\([0-9]*\)[.]\([0-9]*\) .*/\1\2/' /proc/uptime; }
timed() { # name times command...
	name=$1 times=$2 n=0 begun=$(now)
	shift 2
	while [ $n -lt "${times:-0}" ]; do
		"$@" 2>/dev/null
		n=$((n + 1))
	done
	[ $n = 0 ] || echo "SIKA-FIGURE $name $n: $(($(now) - begun))"
}
timed forks "$(word forks)" /bin/busybox true
timed faults "$(word faults)" /bin/busybox dd if=/dev/zero of=/dev/null bs=32M count=1
# What goes on while a machine moves: memory, arithmetic and time are as they were. One line for each look.
count() { # looks
	/bin/busybox dd if=/dev/urandom of=/blob bs=1M count=4 2>/dev/null
	sum=$(/bin/busybox md5sum </blob) first='' last=0 i=0
	while [ $i -lt "$1" ]; do
		i=$((i + 1)) at=$(now)
		pi=$(/bin/busybox awk 'BEGIN { for (k = 1; k < 20000; k++) s += 1 / (k * k); printf "%.12f", s }')
		: "${first:=$pi}"
		[ "$at" -ge "$last" ] || echo "SIKA-BAD the clock goes back from $last to $at"
		[ "$pi" = "$first" ] || echo "SIKA-BAD $pi is not $first"
		[ "$(/bin/busybox md5sum </blob)" = "$sum" ] || echo "SIKA-BAD memory has changed"
		last=$at
		echo "SIKA-COUNT $i"
	done
	echo "SIKA-COUNTED $i"
}
looks=$(word looks)
megabytes=$(word dirty)
# What runs in the background reads /dev/null.
[ -z "$looks" ] || /bin/busybox mount -t devtmpfs dev /dev
[ -z "$megabytes" ] || /bin/dirty "$megabytes" 2 40 &
[ -z "$looks" ] || count "$looks"
[ -z "$megabytes" ] || { kill $! && wait $!; }
/bin/busybox sleep 1 # the serial port sends on while the kernel goes down without asking
/bin/busybox poweroff -f
INIT
chmod +x "$inner/init"
pack "$inner" "$work/inner.cpio"

# What a program needs of libraries.
libraries() { # programs...
	local p
	for p; do
		ldd "$p" | awk '/=> \// { print $3 } /^[ \t]*\// { print $1 }'
	done | sort -u
}

# The same with a program that writes to its memory while the machine moves.
if [[ " ${KVM_LAB_ONLY:-} " == *" qemu-live "* ]]; then
	cp -r "$inner" "$work/live"
	cp "$build/tests/kmod/dirty" "$work/live/bin/" || fail "no tests/kmod/dirty in $build"
	for lib in $(libraries "$build/tests/kmod/dirty"); do
		mkdir -p "$work/live/$(dirname "$lib")"
		cp -L "$lib" "$work/live/$lib"
	done
	pack "$work/live" "$work/live.cpio"
fi

# The same with drivers of disks, each of which is written from both CPUs and read back.
mkdir -p "$inner/modules"
for m in virtio/virtio_ring virtio/virtio virtio/virtio_pci_legacy_dev \
	virtio/virtio_pci_modern_dev virtio/virtio_pci block/virtio_blk scsi/scsi_common \
	scsi/scsi_mod scsi/virtio_scsi scsi/sd_mod; do
	cp "$modules/drivers/$m.ko" "$inner/modules/" || fail "the kernel's package has no $m.ko"
	echo "/modules/${m##*/}.ko" >>"$inner/modules/order"
done
cat >"$inner/init" <<'INIT'
#!/bin/busybox sh
bb() { /bin/busybox "$@"; }
bb mount -t proc proc /proc
bb mount -t sysfs sys /sys
bb mount -t devtmpfs dev /dev
while read -r m; do bb insmod "$m"; done </modules/order
half() { # disk CPU's-mask, 1 or 2, which is that of the half as well
	at=$((16 * ($2 - 1)))
	bb taskset "$2" /bin/busybox dd if=/noise of=/dev/"$1" bs=64k count=16 skip=$at seek=$at \
		oflag=direct conv=fsync
}
for disk in vda sda; do
	n=0
	while [ ! -b /dev/$disk ] && [ $n -lt 100 ]; do bb sleep 0.1; n=$((n + 1)); done
	bb dd if=/dev/urandom of=/noise bs=64k count=32 2>/dev/null
	half $disk 1 2>/dev/null &
	half $disk 2 2>/dev/null
	wait
	bb dd if=/dev/$disk of=/read bs=64k count=32 iflag=direct 2>/dev/null
	bb cmp /noise /read || continue
	echo "SIKA-DISK $disk $(bb md5sum </noise) queues $(bb ls /sys/block/$disk/mq | bb wc -l)"
done
bb sleep 1
bb poweroff -f
INIT
pack "$inner" "$work/disks.cpio"

# The machine in the middle, with our programs and their libraries.
outer=$work/outer
mkdir -p "$outer"/{bin,proc,sys,dev,tmp,run,modules,sika,guests,build/src,build/tests/guest}
cp "$(command -v busybox)" "$outer/bin/busybox"
for applet in $(busybox --list); do # Debian's cannot --install itself
	[ "$applet" = busybox ] || ln -s busybox "$outer/bin/$applet"
done
for m in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd arch/x86/kvm/kvm-intel; do
	[ -z "${KVM_LAB_DRIVER:-}" ] || break
	cp "$modules/$m.ko" "$outer/modules/" || fail "the kernel's package has no $m.ko"
done
[ -z "${KVM_LAB_DRIVER:-}" ] || cp "$KVM_LAB_DRIVER" "$outer/modules/driver.ko" || fail "no $KVM_LAB_DRIVER"
if [ -n "${KVM_LAB_DRIVER:-}" ] && [[ " ${KVM_LAB_ONLY:-} " =~ " qemu-moves "|" qemu-live " ]]; then
	for m in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
		cp "$modules/$m.ko" "$outer/modules/" || fail "the kernel's package has no $m.ko"
	done
fi
# A wire between two of them.
if [ -e "$work/live.cpio" ]; then
	mkdir "$outer/modules/net"
	for m in net/core/failover drivers/net/net_failover drivers/virtio/virtio_ring drivers/virtio/virtio \
		drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci \
		drivers/net/virtio_net; do
		cp "$modules/$m.ko" "$outer/modules/net/" || fail "the kernel's package has no $m.ko"
		echo "/modules/net/${m##*/}.ko" >>"$outer/modules/net/order"
	done
	cp "$work/live.cpio" "$outer/"
fi
cp "$vmlinuz" "$outer/vmlinuz"
cp "$work/inner.cpio" "$work/disks.cpio" "$outer/"
cp "$here/inside.sh" "$outer/init"
chmod +x "$outer/init"
programs=("$build/src/cli/sika" "$build/src/vmm/sika-vmm")
for p in kvm/test_kvm_engine kvm/test_engine_state kvm/test_kvm_abi kmod/fuzz_ioctl kmod/hostile; do
	[ -x "$build/tests/$p" ] && programs+=("$build/tests/$p")
done
for p in "${programs[@]}"; do
	strip -o "$outer/sika/${p##*/}" "$p"
done
for lib in $(libraries "${programs[@]}"); do
	mkdir -p "$outer/$(dirname "$lib")"
	cp -L "$lib" "$outer/$lib"
done
# Laid out as tests/guest/run.sh expects a build tree.
ln -s /sika "$outer/build/src/cli"
cp "$here/../guest/run.sh" "$here/../guest/guests.list" "$here/known.list" "$outer/guests/"
cp "$build"/tests/guest/*.elf "$outer/build/tests/guest/" || fail "no tiny guests in $build"
mkdir -p "$outer/build/bench"
cp "$build/bench/kernel.elf" "$outer/build/bench/" || fail "no kernel.elf in $build"
pack "$outer" "$work/outer.cpio"

# Debian's QEMU as the monitor, for the pieces that want it: a second archive.
pack_qemu() {
	local at=$work/qemu p
	[ ! -e "$work/with-qemu" ] || return 0
	mkdir -p "$at"/{bin,usr/share/qemu,usr/share/seabios}
	cp "$(command -v qemu-system-x86_64)" "$at/bin/"
	for p in $(libraries "$at/bin/qemu-system-x86_64"); do
		mkdir -p "$at/$(dirname "$p")"
		cp -L "$p" "$at/$p"
	done
	cp -L /usr/share/qemu/{linuxboot,linuxboot_dma,multiboot,multiboot_dma,kvmvapic}.bin "$at/usr/share/qemu/" &&
		cp -L /usr/share/seabios/{bios-256k,vgabios-stdvga}.bin "$at/usr/share/seabios/" ||
		fail "QEMU's firmware is missing"
	pack "$at" "$work/qemu.cpio"
	cat "$work/qemu.cpio" "$work/outer.cpio" >"$work/with-qemu"
	rm "$work/qemu.cpio"
}

# The tools that read tracepoints, as far as they can be had: another one.
pack_tools() {
	local at=$work/tools p
	[ ! -e "$work/with-tools" ] || return 0
	mkdir -p "$at/bin"
	for p in perf:linux-perf trace-cmd:trace-cmd; do
		(need "${p%:*}" "${p#*:}") >/dev/null && cp "$(readlink -f "$(command -v "${p%:*}")")" "$at/bin/${p%:*}"
	done
	for p in $(libraries "$at"/bin/*); do
		mkdir -p "$at/$(dirname "$p")"
		cp -L "$p" "$at/$p"
	done
	pack "$at" "$work/tools.cpio"
	cat "$work/tools.cpio" "$work/outer.cpio" >"$work/with-tools"
	rm "$work/tools.cpio"
}

# One emulated machine for each piece of work, in turn. All its CPUs are in one thread: with one each, two that
# wait for one another by PAUSE burn the host's time slices against each other, since QEMU's PAUSE gives way
# only within a thread. On a busy host the hundreds of turns of the guest smp then take most of a minute, which
# looks like a hang (code_done goes on, watched in QEMU's monitor); bt and KVM take less than a second.
# The heartbeat on the second serial port tells a machine that died from a guest that hangs.
beat_file=$work/beat
logs=$build/tests/kvm${KVM_LAB_KERNEL:+/debug}
mkdir -p "$logs"
passed=0 failed=0 skipped=0

kill_qemu() {
	[ -s "$work/bochs.pid" ] && kill -KILL "$(cat "$work/bochs.pid")" 2>/dev/null && rm "$work/bochs.pid"
	[ -n "$qemu" ] && kill -KILL "$qemu" 2>/dev/null && wait "$qemu" 2>/dev/null
	[ -n "$far" ] && kill -KILL "$far" 2>/dev/null && wait "$far" 2>/dev/null
	qemu='' far=''
}
qemu='' far=''
trap 'kill_qemu; [ -n "${KVM_LAB_KEEP:-}" ] || rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

left() { echo $((started + budget - $(date +%s))); }

wire=() # QEMU's arguments for it
# In the background, its process in $qemu.
start_qemu() { # CPUs initrd words-for-the-kernel
	local mib=2048
	[[ " $3 " != *" hugepages="* ]] || mib=3072 # all of the second gibibyte is to be one page
	# shellcheck disable=SC2086
	qemu-system-x86_64 -accel "tcg,thread=$threads" ${KVM_LAB_ICOUNT:+-icount shift=3,sleep=off} -cpu "$cpu" -smp "$1" -m $mib \
		-display none -no-reboot -nodefaults -serial "file:$log" -serial "file:$beat_file" "${wire[@]}" \
		-kernel "${KVM_LAB_KERNEL:-$vmlinuz}" -initrd "$2" -append "$3" </dev/null 2>"$work/qemu.log" &
	qemu=$!
}

# A second machine beside the next one, $far, and a wire between them.
start_far() { # as start_qemu
	local log=$log.far words=$3 beat_file=$work/beat.far
	wire=(-netdev "stream,id=wire,server=on,addr.type=unix,addr.path=$work/wire"
		-device virtio-net-pci,netdev=wire,romfile=)
	rm -f "$work/wire"
	start_qemu "$1" "$2" "$words lab_side=far"
	far=$qemu
	for _ in $(seq 300); do
		[ -S "$work/wire" ] && break
		sleep 0.1
	done
	wire=("${wire[0]}" "${wire[1]/server=on/server=off}" "${wire[@]:2}")
}

# What it has to say is told with the rest.
end_far() {
	for _ in $(seq 60); do
		grep -aq '^RESULTS-END' "$log.far" && break
		sleep 0.5
	done
	sed '/^RESULTS-END/d' "$log.far" >>"$log"
	wire=()
}

# It boots from a CD. There is no display for it but a terminal's, and its debugger has to be told to go on.
start_bochs() { # CPUs initrd words-for-the-kernel
	local at=$work/bochs
	rm -rf "$at" && mkdir -p "$at/cd/isolinux"
	cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$at/cd/isolinux/"
	cp "$vmlinuz" "$at/cd/vmlinuz"
	cp "$2" "$at/cd/initrd"
	printf 'default lab\nprompt 0\nlabel lab\nkernel /vmlinuz\nappend initrd=/initrd nokaslr %s\n' "$3" \
		>"$at/cd/isolinux/isolinux.cfg"
	xorriso -as mkisofs -quiet -o "$at/cd.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
		-boot-load-size 4 -boot-info-table "$at/cd" 2>"$work/qemu.log" || fail "xorriso makes no CD"
	rm -rf "$at/cd"
	cat >"$at/rc" <<-END
		display_library: term
		cpu: model=${KVM_LAB_CPU:-corei7_haswell_4770}, count=$1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1
		memory: guest=1024, host=1024
		romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
		vgaromimage: file=/usr/share/vgabios/vgabios.bin
		ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
		ata0-master: type=cdrom, path=$at/cd.iso, status=inserted
		boot: cdrom
		clock: sync=none, time0=local
		log: $at/log
		panic: action=fatal
		com1: enabled=1, mode=file, dev=$log
		com2: enabled=1, mode=file, dev=$work/beat
	END
	echo c >"$at/go"
	TERM=vt100 script -qfc "echo \$\$ >$work/bochs.pid; exec bochs -q -f $at/rc -rc $at/go" /dev/null \
		</dev/null >"$at/screen" 2>&1 &
	qemu=$!
}

# One try: 0 it came to its end, 1 its time is over, 2 the emulated machine is dead.
emulate() { # name CPUs limit words-for-the-kernel
	local begun beat size=0 new words
	local initrd=$work/outer.cpio
	log=$logs/$1.log
	case $1 in qemu-* | shadow-qemu | row-* | vmx-*qemu*)
		pack_qemu
		initrd=$work/with-qemu
		;;
	tools)
		pack_tools
		initrd=$work/with-tools
		;;
	esac
	: >"$work/beat"
	: >"$log"
	begun=$(date +%s) beat=$begun
	words="console=ttyS0 panic=-1 quiet no_timer_check ${KVM_LAB_ARGS:-} lab_words=${KVM_LAB_WORDS:-quiet} $4"
	wire=()
	[ "$1" != qemu-live ] || start_far "$2" "$initrd" "$words"
	"start_$machine" "$2" "$initrd" "$words"
	while kill -0 "$qemu" 2>/dev/null; do
		sleep 0.5
		grep -aq '^RESULTS-END' "$log" 2>/dev/null && break
		new=$(stat -c %s "$work/beat")
		if [ "$new" != "$size" ]; then
			size=$new beat=$(date +%s)
		fi
		if [ $(($(date +%s) - beat)) -gt "$silence" ]; then
			kill_qemu
			return 2
		fi
		if [ $(($(date +%s) - begun)) -gt $(($3 * patience)) ]; then
			kill_qemu
			return 1
		fi
	done
	[ ${#wire[@]} = 0 ] || end_far
	kill_qemu
	grep -aq '^RESULTS-END' "$log" && return
	sed 's/^/INFO the emulator: /' "$work/qemu.log" >>"$log"
	return 2
}

# must: it is a failure when no try came to its end. may: it is skipped when the emulated machine
# died, and when the time for all is over.
piece() { # must|may name CPUs limit words
	local kind=$1 name=$2 try result why
	shift
	for try in 1 2 3; do
		if [ "$kind" = may ] && [ "$(left)" -lt 20 ]; then
			echo "skip $name: the time for all of these tests ($budget s) is over"
			skipped=$((skipped + 1))
			return
		fi
		emulate "$@"
		result=$?
		case $result in
		0) grep -aq '^RESULT fail' "$log" || break
		   why="failed" ;;
		1) why="did not end within $3 s, though the emulated machine lives" ;;
		2) why="the emulated machine itself stopped" ;;
		esac
		[ $try = 3 ] && break
		[ $result != 2 ] && [ $try = 2 ] && break
		[ "$(left)" -lt 30 ] && break
		echo "INFO $name: $why; once more"
		cp "$log" "$log.$try"
	done
	tr -d '\r' <"$log" | grep -aE '^(RESULT|INFO) ' | sed 's/^RESULT //'
	passed=$((passed + $(grep -ac '^RESULT pass' "$log")))
	skipped=$((skipped + $(grep -ac '^RESULT skip' "$log")))
	failed=$((failed + $(grep -ac '^RESULT fail' "$log")))
	if [ $result = 2 ] && [ "$kind" = may ]; then
		echo "skip $name: $why, $try times"
		skipped=$((skipped + 1))
		return
	fi
	if [ $result != 0 ]; then
		echo "fail $name: $why"
		failed=$((failed + 1))
	fi
	if [ $result != 0 ] || grep -aq '^RESULT fail' "$log"; then
		echo "--- $log says"
		tr -d '\r' <"$log" | grep -avE '^RESULT (pass|skip)' | tail -n 40
	fi
}

names() { # of the guests that $1 (an awk condition) picks, with commas
	awk '!/^#/ && NF && !seen[$1]++ && ('"$1"') { printf "%s%s", n++ ? "," : "", $1 }' \
		"$here/../guest/guests.list"
}

only=${KVM_LAB_ONLY:-}
want() { [ -z "$only" ] || [[ " $only " == *" $1 "* ]]; }

# VT-x: about two minutes each, the kernel's boot several.
if [ "$machine" = bochs ]; then
	want vmx-engine && piece may vmx-engine 1 500 "lab_npt=1 lab_work=engine"
	[ -n "$only" ] && want vmx-abi && piece may vmx-abi 1 500 "lab_npt=1 lab_work=abi"
	want vmx-guests && piece must vmx-guests 1 500 \
		"lab_npt=1 lab_work=guests:modes,real,vm86,paging32,exceptions,gates,debug,io"
	want vmx-boot && piece may vmx-boot 1 1500 "lab_npt=1 lab_work=boot:1:256M:kvm"
	want vmx-guests-1 && piece may vmx-guests-1 1 900 "lab_npt=1 lab_work=guests:$(names 'NR % 2 && $2 == 1')"
	want vmx-guests-2 && piece may vmx-guests-2 1 900 "lab_npt=1 lab_work=guests:$(names '!(NR % 2) && $2 == 1')"
	want vmx-guests-smp && piece may vmx-guests-smp 1 900 "lab_npt=1 lab_work=guests:smp"
	# By Debian's QEMU, through its SeaBIOS.
	[ -n "$only" ] && want vmx-qemu && piece may vmx-qemu 1 1200 "lab_npt=1 lab_work=qemu-guests:on:modes:1"
	[ -n "$only" ] && want vmx-qemu-boot && piece may vmx-qemu-boot 1 2400 "lab_npt=1 lab_work=qemu:1:on"
	# The two CPUs of this one are in one thread of Bochs's.
	want vmx-two-smp && piece may vmx-two-smp 2 900 "lab_npt=1 lab_work=guests:smp"
	# Shadow tables, and real mode by the driver; real mode alone, above nested tables.
	for kind in ept0:0 real:1; do
		words="lab_npt=${kind#*:} lab_real=1"
		kind=vmx-${kind%:*}
		want $kind-engine && piece may $kind-engine 1 700 "$words lab_work=engine"
		want $kind-guests && piece must $kind-guests 1 700 \
			"$words lab_work=guests:modes,real,vm86,paging32,exceptions,gates,debug,io"
		want $kind-tables && piece may $kind-tables 1 900 "$words lab_work=guests:tables,tables32,paging"
		want $kind-boot && piece may $kind-boot 1 1500 "$words lab_work=boot:1:256M:kvm"
		[ -n "$only" ] && want $kind-qemu && piece may $kind-qemu 1 1200 "$words lab_work=qemu-guests:on:modes:1"
		[ -n "$only" ] && want $kind-qemu-boot && piece may $kind-qemu-boot 1 2400 "$words lab_work=qemu:1:on"
		[ -n "$only" ] && want $kind-hostile && piece may $kind-hostile 1 700 \
			"$words lab_work=hostile:${KVM_LAB_SECONDS:-10}:${KVM_LAB_SEED:-$(date +%s)}"
	done
	[[ $only =~ vmx-one:([a-z0-9,]+):([01]):([01]):([12]) ]] && piece must vmx-one "${BASH_REMATCH[4]}" 900 \
		"lab_npt=${BASH_REMATCH[2]} lab_real=${BASH_REMATCH[3]} lab_work=guests:${BASH_REMATCH[1]}"
	only=none
fi

# A page for the slot of a test.
one_gib="hugepagesz=1G hugepages=1"

want boot-1 && piece must boot-1 1 80 "lab_npt=1 lab_work=boot:1:256M:kvm"
want boot-2 && piece must boot-2 1 80 "lab_npt=1 lab_work=boot:2:512M:kvm"
want engine && piece may engine 1 60 "lab_npt=1 lab_work=engine $one_gib"
[ -n "$only" ] && want trace && piece may trace 1 60 "lab_npt=1 lab_work=trace"
[ -n "$only" ] && want abi && piece may abi 1 60 "lab_npt=1 lab_work=abi $one_gib"
want boot-chips && piece may boot-chips 1 90 "lab_npt=1 lab_work=boot:1:256M:kvm,irqchip=off"
want boot-chips-2 && piece may boot-chips-2 1 90 "lab_npt=1 lab_work=boot:2:256M:kvm,irqchip=off"
want guests-1 && piece may guests-1 1 150 "lab_npt=1 lab_work=guests:$(names 'NR % 2 && $2 == 1')"
want guests-2 && piece may guests-2 1 150 "lab_npt=1 lab_work=guests:$(names '!(NR % 2) && $2 == 1')"
want models && piece may models 1 60 "lab_npt=1 lab_work=models"
want guests-smp && piece may guests-smp 1 90 "lab_npt=1 lab_work=guests:smp,pv"
want shadow-engine && piece may shadow-engine 1 60 "lab_npt=0 lab_work=engine $one_gib"
want shadow-boot && piece may shadow-boot 1 100 "lab_npt=0 lab_work=boot:1:256M:kvm"
want disks && piece may disks 1 120 "lab_npt=1 lab_work=disks"
# Of our own driver, where they are named.
if [ -n "$only" ]; then
	want shadow-boot-2 && piece must shadow-boot-2 1 120 "lab_npt=0 lab_work=boot:2:512M:kvm"
	want shadow-chips && piece must shadow-chips 1 120 "lab_npt=0 lab_work=boot:1:256M:kvm,irqchip=off"
	want shadow-guests-1 && piece must shadow-guests-1 1 300 "lab_npt=0 lab_work=guests:$(names 'NR % 2 && $2 == 1')"
	want shadow-guests-2 && piece must shadow-guests-2 1 300 "lab_npt=0 lab_work=guests:$(names '!(NR % 2) && $2 == 1')"
	want shadow-guests-smp && piece must shadow-guests-smp 1 120 "lab_npt=0 lab_work=guests:smp,pv"
	want shadow-qemu && piece must shadow-qemu 1 180 "lab_npt=0 lab_work=qemu:2:on"
	want shrinks && piece must shrinks 1 300 "lab_npt=0 lab_work=shrinks"
	for npt in 1 0; do
		want row-$npt && piece must row-$npt 1 2400 "lab_npt=$npt lab_work=row:${KVM_LAB_BOOTS:-20}"
		for what in fuzz hostile; do
			seconds=${KVM_LAB_SECONDS:-15}
			want $what-$npt && piece must $what-$npt 2 $((seconds * 2 + 100)) \
				"lab_npt=$npt lab_work=$what:$seconds:${KVM_LAB_SEED:-$(date +%s)}"
		done
	done
	[[ $only =~ one:([a-z0-9,]+):([01]) ]] &&
		piece may "one-npt${BASH_REMATCH[2]}" 1 120 "lab_npt=${BASH_REMATCH[2]} lab_work=guests:${BASH_REMATCH[1]}"
fi

[ -n "$only" ] && want boots-pair && piece must boots-pair 1 200 "lab_npt=1 lab_work=boots-pair"
[ -n "$only" ] && want both && piece must both 1 150 "lab_npt=1 lab_work=both $one_gib"
[ -n "$only" ] && want costs && piece may costs 1 100 "lab_npt=1 lab_work=costs"
[ -n "$only" ] && want tools && piece may tools 1 100 "lab_npt=1 lab_work=tools"
[ -n "$only" ] && want qemu-live && piece must qemu-live 1 400 "lab_npt=1 lab_work=qemu-live"
[ -n "$only" ] && want qemu-moves && piece must qemu-moves 1 400 "lab_npt=1 lab_work=qemu-moves"

# QEMU as the monitor: what our own driver is asked for by others. Not where nothing is named.
for irqchip in off split on; do
	name=qemu-guests-$irqchip
	[ -n "$only" ] && want $name && piece must $name 1 120 "lab_npt=1 lab_work=qemu-guests:$irqchip"
	for cpus in 1 2; do
		name=qemu-$irqchip-$cpus
		[ -n "$only" ] && want $name && piece must $name 1 180 "lab_npt=1 lab_work=qemu:$cpus:$irqchip"
	done
done

if [ -z "$only" ]; then
	echo "skip guest many: 64 vCPUs take minutes on one emulated CPU"
	skipped=$((skipped + 1))
fi

echo "tests/kvm: $(($(date +%s) - started)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
