#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# debug-kernel.sh - a kernel that looks after drivers: Debian's source with KASAN, lockdep, PROVE_RCU,
# DEBUG_ATOMIC_SLEEP and kmemleak, as small as the lab takes it (debug.config). Built once, some ten minutes on two
# processors, and kept with the lab's other kernels; a new version of the source or of the configuration is built anew.
#
# usage: tests/kmod/debug-kernel.sh     prints the folder that it was built in, which modules are built against;
#                                       status 77, with a reason, where it cannot be had
set -u

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sika/kvm-lab/debug

skip() {
	echo "debug-kernel.sh: $1" >&2
	exit 77
}

source=/usr/src/linux-source-6.1.tar.xz
want=()
[ -e "$source" ] || want+=(linux-source-6.1)
[ -e /usr/include/libelf.h ] || want+=(libelf-dev) # of objtool
for tool in flex bison bc; do
	command -v $tool >/dev/null || want+=($tool)
done
if [ ${#want[@]} != 0 ]; then
	[ "$(id -u)" = 0 ] || skip "missing: apt-get install ${want[*]}"
	apt-get install -y --no-install-recommends "${want[@]}" >/dev/null 2>&1 || skip "cannot install ${want[*]}"
fi

name=$(stat -L -c %Y "$source")-$(sha256sum <"$here/debug.config" | cut -c 1-12)
build=$cache/$name
if [ -e "$build/.complete" ]; then
	echo "$build"
	exit
fi
[ "$(df -Pk "$(mkdir -p "$cache" && echo "$cache")" | awk 'NR == 2 { print $4 }')" -gt 4000000 ] ||
	skip "there is less than 4 GB of room in $cache"
exec 9>"$cache/lock"
flock 9
if [ ! -e "$build/.complete" ]; then
	rm -rf "$cache"/*/
	mkdir -p "$build"
	echo "debug-kernel.sh: building, $(date +%H:%M)" >&2
	# Without what is large and not used.
	tar -C "$cache" --exclude='*/drivers/gpu/drm/amd/include/*' -xf "$source" || skip "cannot unpack $source"
	src=$cache/linux-source-6.1
	{
		make -s -C "$src" O="$build" tinyconfig &&
			"$src/scripts/kconfig/merge_config.sh" -m -O "$build" "$build/.config" "$here/debug.config" &&
			make -s -C "$src" O="$build" olddefconfig &&
			nice make -s -C "$build" -j"$(nproc)" bzImage modules_prepare
	} >"$cache/log" 2>&1 || skip "cannot build it: $cache/log"
	# A choice that was not taken would go unnoticed.
	grep -E '^CONFIG_[A-Z_]*=y$' "$here/debug.config" | grep -vxFf "$build/.config" &&
		skip "the configuration lacks what is named above"
	# modpost of the kernel alone has written it: no module is built.
	cp "$build/vmlinux.symvers" "$build/Module.symvers"
	touch "$build/.complete"
fi
echo "$build"
