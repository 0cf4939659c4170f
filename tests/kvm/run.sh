#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run.sh - the kvm engine on a real hardware-KVM interface, without such hardware.
#
# QEMU's software CPU offers AMD-V; Debian's stock kernel with its own kvm-amd runs inside it, and in there
# our programs boot the same kernel again, to user space, under `--engine kvm`. Tiny guests and
# the engine's own test run there too. Two minutes; nothing is installed but Debian packages.
#
# usage: tests/kvm/run.sh [BUILD_DIR]     (default: build)
# environment: KVM_LAB_TIMEOUT seconds for one of at most two attempts (270), KVM_LAB_CPU, KVM_LAB_KEEP=1
set -u

here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${1:-$here/../../build}" && pwd) || exit 1
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sika/kvm-lab
limit=${KVM_LAB_TIMEOUT:-270}
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

need() { # command package
	command -v "$1" >/dev/null && return
	[ "$(id -u)" = 0 ] || skip "$1 is missing: apt-get install $2"
	apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 || skip "cannot install $2"
}

need qemu-system-x86_64 qemu-system-x86
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

pack() { # directory archive
	(cd "$1" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$2"
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
/bin/busybox sleep 1 # the serial port sends on while the kernel goes down without asking
/bin/busybox poweroff -f
INIT
chmod +x "$inner/init"
pack "$inner" "$work/inner.gz"

# The machine in the middle, with our programs and their libraries.
outer=$work/outer
mkdir -p "$outer"/{bin,proc,sys,dev,tmp,run,modules,sika,guests,build/src,build/tests/guest}
cp "$(command -v busybox)" "$outer/bin/busybox"
for applet in $(busybox --list); do # Debian's cannot --install itself
	[ "$applet" = busybox ] || ln -s busybox "$outer/bin/$applet"
done
for m in virt/lib/irqbypass arch/x86/kvm/kvm arch/x86/kvm/kvm-amd; do
	cp "$modules/$m.ko" "$outer/modules/" || fail "the kernel's package has no $m.ko"
done
cp "$vmlinuz" "$outer/vmlinuz"
cp "$work/inner.gz" "$outer/inner.gz"
cp "$here/inside.sh" "$outer/init"
chmod +x "$outer/init"
programs=("$build/src/cli/sika" "$build/src/vmm/sika-vmm")
[ -x "$build/tests/kvm/test_kvm_engine" ] && programs+=("$build/tests/kvm/test_kvm_engine")
for p in "${programs[@]}"; do
	cp "$p" "$outer/sika/"
	ldd "$p" | awk '/=> \// { print $3 } /^[ \t]*\// { print $1 }'
done | sort -u | while read -r lib; do
	mkdir -p "$outer/$(dirname "$lib")"
	cp -L "$lib" "$outer/$lib"
done
# Laid out as tests/guest/run.sh expects a build tree.
ln -s /sika "$outer/build/src/cli"
cp "$here/../guest/run.sh" "$here/../guest/guests.list" "$here/known.list" "$outer/guests/"
sed -n 's/^\([a-z0-9]*\) .*/\1/p' "$here/known.list" >"$outer/guests/known.names"
cp "$build"/tests/guest/*.elf "$outer/build/tests/guest/" || fail "no tiny guests in $build"
pack "$outer" "$work/outer.gz"

# QEMU's software AMD-V now and then stops dead, kernel and all: one more attempt then.
log=$build/tests/kvm/serial.log
for attempt in 1 2; do
	timeout --kill-after=5 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu "$cpu" \
		-smp 2 -m 3072 -display none -no-reboot -nodefaults -serial "file:$log" \
		-kernel "$vmlinuz" -initrd "$work/outer.gz" \
		-append "console=ttyS0 panic=-1 quiet" </dev/null 2>"$work/qemu.log"
	status=$?
	grep -v "TCG doesn't support requested feature" "$work/qemu.log"
	grep -aq '^RESULTS-END' "$log" && break
	echo "INFO attempt $attempt did not come to its end within $limit s"
done

tr -d '\r' <"$log" | grep -aE '^(RESULT|INFO) ' | sed 's/^RESULT //'
passed=$(grep -ac '^RESULT pass' "$log")
failed=$(grep -ac '^RESULT fail' "$log")
skipped=$(grep -ac '^RESULT skip' "$log")
if ! grep -aq '^RESULTS-END' "$log"; then
	failed=$((failed + 1))
	echo "fail the machine inside did not come to its end (qemu: status $status)"
fi
if [ "$failed" -gt 0 ]; then
	echo "--- $log says"
	tr -d '\r' <"$log" | grep -aA 12 '^RESULT fail'
	tr -d '\r' <"$log" | tail -n 20
	[ -n "${KVM_LAB_KEEP:-}" ] && echo "kept: $work"
fi
echo "tests/kvm: $(($(date +%s) - started)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
