#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run-tests.sh - behind `make test`: build and run every suite, add all of them up.
set -euo pipefail
cd "$(dirname "$0")/.."

werror=-Dwerror=true
logs=()
status=0

setup() { # DIR OPTION...
	local dir=$1
	shift
	[[ -e $dir/build.ninja ]] || CC=${CC:-gcc} meson setup "$dir" "$@" >/dev/null
	ninja -C "$dir" --quiet
}

suite() { # DIR ARGUMENT of meson test...
	local dir=$1
	shift
	echo "== $dir"
	meson test -C "$dir" --no-rebuild --print-errorlogs "$@" || status=1
	logs+=("$dir/meson-logs/testlog.json")
}

setup build
suite build
# The unit suites again, where a slip of the pointer is loud.
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
setup build-asan -Db_sanitize=address,undefined -Db_lundef=false
suite build-asan --suite unit --timeout-multiplier 4
if command -v clang >/dev/null; then
	CC=clang setup build-clang $werror
fi
python3 tools/count_tests.py "${logs[@]}" || status=1
exit $status
