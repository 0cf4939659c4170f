#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh - builds the kernel driver for Debian's stock kernel, and runs on it what tests/kvm runs on the stock
# driver: tiny guests, and a kernel up to user space, by our own monitor and by Debian's QEMU, inside an emulated
# machine with AMD-V, and some of it in one with VT-x, which is Bochs and slow. Some twenty minutes; `make test` has the
# piece `both` of it, which takes one.
#
# usage: tests/kmod/run.sh [BUILD_DIR] [PIECE...]     (default: build, all)
# environment: as of tests/kvm/run.sh; KVM_LAB_LONG=1: twenty boots in a row, and all that there is for VT-x;
# KVM_LAB_DEBUG=1: much of it once more under a kernel that looks after drivers (debug-kernel.sh)
set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
build=$(cd "${1:-$top/build}" && pwd) || exit 1
shift
[ $# = 0 ] || KVM_LAB_ONLY=$*

skip() {
	echo "tests/kmod: skipped: $1"
	echo "0 passed, 0 failed, 1 skipped"
	exit 77
}

package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
	awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
[ -n "$package" ] || skip "apt knows no linux-image-cloud-amd64"
version=${package#linux-image-}
headers=/usr/src/linux-headers-$version
if [ ! -d "$headers" ]; then
	[ "$(id -u)" = 0 ] || skip "$headers is missing: apt-get install linux-headers-$version"
	apt-get install -y --no-install-recommends "linux-headers-$version" >/dev/null 2>&1 ||
		skip "cannot install linux-headers-$version"
fi

# The driver for a kernel, as OUT/driver.ko. What the compiler says is in OUT/log.
build_driver() { # out, headers
	mkdir -p "$1"
	make -C "$top/kmod" OUT="$1" KDIR="$2" >"$1/log" 2>&1 && ! grep -q 'warning:' "$1/log" &&
		strip -g -o "$1/driver.ko" "$1/sika-kvm.ko" && return
	grep -E 'error|warning:|undefined|\*\*\*' "$1/log" | head -n 20
	return 1
}
if ! build_driver "$build/kmod" "$headers"; then
	echo "fail the driver does not build without a warning"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
fi
pieces="both boot-1 boot-2 boots-pair boot-chips engine trace tools models guests-1 guests-2 guests-smp"
pieces+=" qemu-guests-on qemu-moves qemu-live qemu-on-1 qemu-on-2 qemu-split-1 qemu-split-2 qemu-off-1"
pieces+=" shadow-engine shadow-boot shadow-boot-2 shadow-guests-1 shadow-guests-2 shadow-guests-smp"
pieces+=" shrinks fuzz-1 fuzz-0 hostile-1 hostile-0"
[ -z "${KVM_LAB_LONG:-}" ] || pieces+=" row-1 row-0"
# Under a kernel that looks after drivers, which takes long: debug-kernel.sh.
if [ -n "${KVM_LAB_DEBUG:-}" ]; then
	pieces+=" debug-engine debug-shadow-engine debug-guests-1 debug-guests-2 debug-guests-smp debug-shadow-guests-1"
	pieces+=" debug-shadow-guests-2 debug-shadow-guests-smp debug-shrinks debug-fuzz-1 debug-fuzz-0 debug-hostile-1 debug-hostile-0"
fi
pieces+=" vmx-engine vmx-guests vmx-ept0-engine vmx-ept0-guests vmx-real-engine vmx-real-guests"
[ -z "${KVM_LAB_LONG:-}" ] || pieces+=" vmx-boot vmx-guests-1 vmx-guests-2 vmx-guests-smp vmx-two-smp vmx-ept0-tables vmx-ept0-boot"
[ -z "${KVM_LAB_LONG:-}" ] || pieces+=" vmx-ept0-hostile vmx-real-hostile"

amd='' intel='' debug=''
for piece in ${KVM_LAB_ONLY:-$pieces}; do
	case $piece in
	vmx-*) intel+="$piece " ;;
	debug-*) debug+="${piece#debug-} " ;;
	*) amd+="$piece " ;;
	esac
done

lab() { # machine pieces driver
	[ -z "$2" ] || KVM_LAB_DRIVER=$3 KVM_LAB_TIMEOUT=${KVM_LAB_TIMEOUT:-900} \
		KVM_LAB_MACHINE=$1 KVM_LAB_ONLY=$2 "$top/tests/kvm/run.sh" "$build"
}

# All is some four times slower there.
lab_debug() { # pieces
	local kernel khz
	[ -n "$1" ] || return 0
	kernel=$("$top/tests/kmod/debug-kernel.sh") || return
	build_driver "$build/kmod-debug" "$kernel" || return 1
	# It knows no clock but this one, which a busy host would have it measure wrong: QEMU's is the host's.
	khz=$(awk '/^cpu MHz/ { printf "%d", $4 * 1000; exit }' /proc/cpuinfo)
	KVM_LAB_KERNEL=$kernel/arch/x86/boot/bzImage \
		KVM_LAB_ARGS="tsc_early_khz=$khz tsc=reliable rcupdate.rcu_cpu_stall_suppress=1" KVM_LAB_PATIENCE=${KVM_LAB_PATIENCE:-5} \
		KVM_LAB_TIMEOUT=${KVM_LAB_TIMEOUT:-3600} lab qemu "$1" "$build/kmod-debug/driver.ko"
}

# Summaries, of which the worst counts; 77 is skipped.
worst=0 ran=
for kind in amd debug intel; do
	[ -n "${!kind}" ] || continue
	case $kind in
	amd) lab qemu "$amd" "$build/kmod/driver.ko" ;;
	debug) lab_debug "$debug" ;;
	intel) lab bochs "$intel" "$build/kmod/driver.ko" ;;
	esac
	status=$?
	case $status in
	0) ran=1 ;;
	77) echo "skip all of $kind" ;;
	*) worst=1 ;;
	esac
done
[ $worst = 1 ] && exit 1
[ -n "$ran" ] || exit 77
