#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh - behind `make fuzz`: every fuzz target and the oracle for long, under ASan and UBSan.
#
# SECONDS_EACH: how long each target runs (default 600). With clang the targets are coverage-guided
# and keep what they learn in out/corpus/; elsewhere they run pseudo-random inputs.
# Ends with "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
seconds=${SECONDS_EACH:-600}
passed=0 failed=0
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

if command -v clang >/dev/null; then
	dir=build-fuzz
	[[ -e $dir/build.ninja ]] || CC=clang CFLAGS=-fsanitize=fuzzer-no-link meson setup $dir \
		-Db_sanitize=address,undefined -Db_lundef=false >/dev/null || exit 1
else
	dir=build-asan
	[[ -e $dir/build.ninja ]] || meson setup $dir -Db_sanitize=address,undefined \
		-Db_lundef=false >/dev/null || exit 1
fi
ninja -C $dir --quiet || exit 1

tally() { # NAME COMMAND...
	echo "== $1"
	shift
	if "$@"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $*"
	fi
}

for target in $dir/tests/fuzz/fuzz_*; do
	[[ -f $target && -x $target ]] || continue
	name=${target##*/fuzz_}
	if [[ $dir == build-fuzz ]]; then
		mkdir -p "out/corpus/$name"
		seeds=()
		[[ -d tests/fuzz/corpus/$name ]] && seeds=("tests/fuzz/corpus/$name")
		tally "$name" "$target" -max_total_time="$seconds" -max_len=4096 -timeout=20 \
			-print_final_stats=1 -verbosity=0 -artifact_prefix="out/corpus/$name-" \
			"out/corpus/$name" "${seeds[@]}"
	else
		tally "$name" "$target" --seconds "$seconds"
	fi
done
# The oracle without sanitizers, whose shadow memory lies where random addresses have to fault. It does
# some 20,000 cases a second, and prints the seed.
[[ -e build/build.ninja ]] || meson setup build >/dev/null || exit 1
ninja -C build --quiet tests/oracle/oracle tests/oracle/oracle-jit tests/oracle/oracle-seq || exit 1
tally oracle build/tests/oracle/oracle --cases $((seconds * 20000)) --seed "$RANDOM"
tally 'oracle of the translator' build/tests/oracle/oracle-jit --cases $((seconds * 10000)) --seed "$RANDOM"
tally 'oracle of programs' build/tests/oracle/oracle-seq --seconds "$seconds" --seed "$RANDOM"
# The same from a guest that programs every device.
tally 'devices at random' tests/guest/fuzz.sh --seconds "$seconds" --asan $dir/src/cli/sika
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed == 0 && $passed != 0 ]]
