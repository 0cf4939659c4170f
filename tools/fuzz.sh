#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh - behind `make fuzz`: every fuzz target and the oracle for long, under ASan and UBSan.
# SECONDS_EACH: how long each runs (default 600). Ends with "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
seconds=${SECONDS_EACH:-600}
passed=0 failed=0
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

[[ -e build-asan/build.ninja ]] ||
	meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false >/dev/null || exit 1
ninja -C build-asan --quiet || exit 1
for target in build-asan/tests/fuzz/fuzz_*; do
	[[ -f $target && -x $target ]] || continue
	echo "== ${target##*/}"
	# Each target takes how long it may run; it prints its seed, and takes one to repeat a run.
	if "$target" --seconds "$seconds"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed, 0 skipped"
[[ $failed == 0 && $passed != 0 ]]
