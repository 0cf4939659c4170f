#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run-tests.sh - behind `make test`: build and run every suite, add all of them up.
set -euo pipefail
cd "$(dirname "$0")/.."

logs=()
beside_names=()
status=0

setup() { # COMPILER DIR OPTION...
	local cc=$1 dir=$2
	shift 2
	[[ -e $dir/build.ninja ]] || CC=$cc meson setup "$dir" "$@" >/dev/null
	ninja -C "$dir" --quiet
}

suite() { # DIR ARGUMENT of meson test...
	local dir=$1
	shift
	echo "== $dir"
	meson test -C "$dir" --no-rebuild --print-errorlogs "$@" || status=1
	logs+=("$dir/meson-logs/testlog.json")
}

# A program that closes with "P passed, F failed, S skipped". Its output is shown and kept.
program() { # NAME COMMAND...
	local log=build/meson-logs/$1.txt result=0
	echo "== $1"
	shift
	"$@" </dev/null 2>&1 | tee "$log" || result=$?
	# 77: skipped, which the line of totals says too.
	[[ $result == 0 || $result == 77 ]] || status=1
	logs+=("$log")
}

# The same, one after the other, beside what follows, which has a processor to spare. Shown by await.
beside() { # NAME COMMAND-as-one-word...
	local -A commands=()
	local name child=
	while [[ $# != 0 ]]; do
		beside_names+=("$1")
		commands[$1]=$2
		rm -f "build/meson-logs/$1.status"
		shift 2
	done
	(
		trap '[[ -z $child ]] || kill "$child" 2>/dev/null; exit 1' TERM
		for name in "${beside_names[@]}"; do
			${commands[$name]} </dev/null >"build/meson-logs/$name.txt" 2>&1 &
			child=$! result=0
			wait "$child" || result=$?
			echo $result >"build/meson-logs/$name.status"
		done
	) &
	beside_pid=$!
	trap 'kill "$beside_pid" 2>/dev/null' EXIT
}

await() {
	local name
	wait "$beside_pid" || status=1
	trap - EXIT
	for name in "${beside_names[@]}"; do
		echo "== $name, beside the last ones"
		cat "build/meson-logs/$name.txt"
		grep -Eqx '0|77' "build/meson-logs/$name.status" || status=1
		logs+=("build/meson-logs/$name.txt")
	done
}

setup gcc build
suite build
# Both compilers, and no warning from either. What clang makes is not run, so that it need not be quick.
if command -v clang >/dev/null; then
	setup clang build-clang -Dwerror=true -Doptimization=0
fi
# What needs no machine, again, where a slip of the pointer is loud.
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# Optimized more it takes twice as long to build, and is hardly quicker to run.
setup gcc build-asan -Db_sanitize=address,undefined -Db_lundef=false -Dtest_time=40 -Doptimization=1 -Dc_args=-g1
suite build-asan --no-suite api --no-suite guest --no-suite tree --no-suite oracle --no-suite patient \
	--timeout-multiplier 4
unset ASAN_OPTIONS UBSAN_OPTIONS

program debian tools/run.sh build
sika=build/src/cli/sika
program debian-boots tests/debian/boots.py $sika out/debian.img --cpus 1,2,4 --memory 256M,6G --at-once 2
program debian-boots-off tests/debian/boots.py $sika out/debian.img --off user,cache --cpus 2 --memory 512M --at-once 2
program linux-asks tests/linux/asks.py $sika build/tests/linux/asks out/debian.img.vmlinuz
beside kvm-nested 'tests/kvm/run.sh build' kvm-driver 'tests/kmod/run.sh build both'
program debian-survive tests/debian/survive.py $sika out/debian.img --engine bt
program debian-merge tests/debian/merge.py $sika out/debian.img --engine bt
program debian-tap tests/debian/tap.py $sika out/debian.img --engine bt
program checks tools/checks.sh build
await
python3 tools/count_tests.py "${logs[@]}" || status=1
exit $status
