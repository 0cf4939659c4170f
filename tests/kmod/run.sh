#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh - builds the kernel driver for Debian's stock kernel, and runs on it what tests/kvm runs on the stock
# driver: tiny guests, and a kernel up to user space, by our own monitor and by Debian's QEMU, inside an emulated
# machine with AMD-V, and some of it in one with VT-x, which is Bochs and slow. Some twenty minutes, and no part of
# `make test`.
#
# usage: tests/kmod/run.sh [BUILD_DIR]     (default: build)
# environment: as of tests/kvm/run.sh; KVM_LAB_LONG=1: all that there is for VT-x, a kernel to user space among it
set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
build=$(cd "${1:-$top/build}" && pwd) || exit 1

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

mkdir -p "$build/kmod"
if ! make -C "$top/kmod" OUT="$build/kmod" KDIR="$headers" >"$build/kmod/log" 2>&1; then
	grep -E 'error|undefined|\*\*\*' "$build/kmod/log" | head -n 20
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
fi
strip -g -o "$build/kmod/driver.ko" "$build/kmod/sika-kvm.ko"
pieces="boot-1 boot-2 boot-chips engine trace models guests-1 guests-2 guests-smp"
pieces+=" qemu-guests-on qemu-moves qemu-on-1 qemu-on-2 qemu-split-1 qemu-split-2 qemu-off-1"
pieces+=" shadow-engine shadow-boot shadow-boot-2 shadow-guests-1 shadow-guests-2 shadow-guests-smp"
pieces+=" fuzz-1 fuzz-0 hostile-1 hostile-0"
pieces+=" vmx-engine vmx-guests"
[ -z "${KVM_LAB_LONG:-}" ] || pieces+=" vmx-boot vmx-guests-1 vmx-guests-2 vmx-guests-smp"

amd='' intel=''
for piece in ${KVM_LAB_ONLY:-$pieces}; do
	case $piece in
	vmx-*) intel+="$piece " ;;
	*) amd+="$piece " ;;
	esac
done

lab() { # machine pieces
	[ -z "$2" ] || KVM_LAB_DRIVER=$build/kmod/driver.ko KVM_LAB_TIMEOUT=${KVM_LAB_TIMEOUT:-900} \
		KVM_LAB_MACHINE=$1 KVM_LAB_ONLY=$2 "$top/tests/kvm/run.sh" "$build"
}

# Two summaries, of which the worse counts; 77 is skipped.
lab qemu "$amd"
status=$?
lab bochs "$intel"
other=$?
case $status:$other in
*:0) exit $status ;;
0:*) exit $other ;;
77:77) exit 77 ;;
*) exit 1 ;;
esac
