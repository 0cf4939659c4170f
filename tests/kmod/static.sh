#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# static.sh - what compiler, objtool, sparse and checkpatch have to say of the kernel driver: nothing, but for what is named here.
#
# usage: tests/kmod/static.sh HEADERS BUILD     checkpatch needs linux-source-6.1 or a tree of the kernel in $KERNEL_TREE
# It is compiled for the newest of each series of kernels whose headers are installed (linux-headers-*-cloud-amd64).
set -u

here=$(cd "$(dirname "$0")" && pwd)
top=$here/../..
headers=$1 build=$2
failed=0 skipped=0 passed=0

result() { # name file
	if [ -s "$2" ] || [ ! -e "$2" ]; then
		echo "fail $1:"
		head -n 20 "$2"
		failed=$((failed + 1))
	else
		echo "pass $1"
		passed=$((passed + 1))
	fi
}

mkdir -p "$build" || exit 1
if command -v sparse >/dev/null; then
	# The driver's own files: the x86 core, which user space has too, knows nothing of what sparse looks for. Left out:
	# statistics of the ABI have a name of any length, and are in an array.
	mapfile -t files < <(cd "$top/kmod" && printf '%s\n' ./*.c | sed 's|^./||; s|c$|o|')
	make -C "$top/kmod" OUT="$build" KDIR="$headers" "$build/.mirror" "$build/.tables" >"$build/sparse.log" 2>&1
	make -k -C "$headers" M="$build" C=2 CHECK=sparse CF=-Wno-flexible-array-array "${files[@]}" \
		>>"$build/sparse.log" 2>&1
	grep -E 'warning:|error:|\*\*\*' "$build/sparse.log" | sort -u >"$build/sparse.out"
	result "sparse" "$build/sparse.out"
else
	echo "skip sparse: apt-get install sparse"
	skipped=$((skipped + 1))
fi

for series in $(find /usr/src -maxdepth 1 -name 'linux-headers-*-cloud-amd64' -printf '%f\n' | cut -d- -f3 | cut -d. -f1,2 | sort -u); do
	newest=$(printf '%s\n' /usr/src/linux-headers-"$series".*-cloud-amd64 | sort -V | tail -n 1)
	make -C "$top/kmod" OUT="$build/$series" KDIR="$newest" >"$build/$series.log" 2>&1 || echo "error: it does not build" >>"$build/$series.log"
	grep -E 'warning:|error:|\*\*\*' "$build/$series.log" >"$build/$series.out"
	result "compiled for Linux ${newest#/usr/src/linux-headers-}" "$build/$series.out"
done

tree=${KERNEL_TREE:-}
[ -n "$tree" ] || tree=$(find "${XDG_CACHE_HOME:-$HOME/.cache}/sika/kvm-lab/debug" -maxdepth 1 -name 'linux-source-*' 2>/dev/null | head -n 1)
if [ -x "$tree/scripts/checkpatch.pl" ]; then
	# What is not asked of this driver, and why: docs/kvm.md, "What tools say".
	ignore=SPACING,BLOCK_COMMENT_STYLE,MEMORY_BARRIER,COMPLEX_MACRO,MACRO_WITH_FLOW_CONTROL,EMBEDDED_FUNCTION_NAME
	ignore+=,CONSTANT_COMPARISON,MASK_THEN_SHIFT,YIELD,BRACKET_SPACE,TRAILING_SEMICOLON,LINUX_VERSION_CODE
	perl "$tree/scripts/checkpatch.pl" --no-tree --terse --show-types --max-line-length=120 --ignore "$ignore" -f \
		"$top"/kmod/*.[chS] "$top"/kmod/shim/*.h 2>/dev/null | grep -v '^total:' >"$build/checkpatch.out"
	result "checkpatch" "$build/checkpatch.out"
else
	echo "skip checkpatch: no tree of the kernel"
	skipped=$((skipped + 1))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
