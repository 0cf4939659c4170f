#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# checks.sh - other tools' opinions of the tree, part of `make test`: spelling, cppcheck, clang-tidy, and
# under ThreadSanitizer the suites with threads and a whole machine.
#
# usage: checks.sh [BUILD [codespell|cppcheck|clang-tidy|tsan]...]
#
# BUILD is a configured build directory (default build). What a tool has found good it does not look at
# again until it changes. A missing tool is skipped aloud. Closes with "P passed, F failed, S skipped".
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
[[ $# == 0 ]] || shift
passed=0 failed=0 skipped=0
state=$build/checks
mkdir -p "$state"

# Words that are names: Nd (asm, mdoc), ExtINT, the mark of VPC images, FPR, IST, DAA, and a field of user_desc.
words=nd,extint,conectix,fpr,ist,daa,useable

codespell_check() {
	git ls-files | grep -v '^tests/fuzz/corpus/' | xargs codespell -q 3 -L $words
}

# The x86 core is left to the oracle: tables and macros of a size that no checker takes kindly.
cppcheck_check() {
	mkdir -p "$state/cppcheck"
	cppcheck -q -j2 --cppcheck-build-dir="$state/cppcheck" --enable=warning,portability --std=c11 \
		--inline-suppr --suppressions-list=tools/cppcheck.supp --suppress=missingInclude \
		-D__x86_64__ -D__linux__ -D__GNUC__=12 -Isrc --error-exitcode=1 \
		--template='{file}:{line}: {id}: {message}' $(git ls-files 'src/*.c' | grep -v '^src/x86/')
}

tidy_one() { # FILE
	local mark=$state/tidy/${1//\//_}

	if [[ -e $mark && ! $1 -nt $mark && ! $headers -nt $mark && ! .clang-tidy -nt $mark ]]; then
		return 0
	fi
	# The option is gcc's here, and clang 14 wants a promise with it. The analyzer follows a third of the paths
	# that it would by itself, in less than half of the time.
	clang-tidy --quiet -p "$build" --extra-arg=-ftrivial-auto-var-init=uninitialized \
		--extra-arg=-Xclang --extra-arg=-analyzer-config --extra-arg=-Xclang --extra-arg=max-nodes=75000 \
		"$1" >"$mark.log" 2>/dev/null && touch "$mark" || { cat "$mark.log"; return 1; }
}

# About a second a file: where bytes of guests and files are taken in, and no more.
tidy_check() {
	mkdir -p "$state/tidy"
	headers=$(git ls-files 'src/*.h' | xargs ls -t | head -n 1)
	export state build headers
	export -f tidy_one
	# Only what is built here: some files wait for libraries that this host may not have.
	git ls-files 'src/*.c' | grep -E '^src/(boot|char|config|disk|mem|net|dev/virtio)/' |
		while read -r file; do grep -q "/$file\"" "$build/compile_commands.json" && echo "$file"; done |
		xargs -P2 -I{} bash -c 'tidy_one {}'
}

tsan_suites=(tests/unit/base/test_base_loop tests/unit/bus/test_bus_bus tests/unit/dev/test_dev_virtio
	tests/unit/disk/test_disk tests/unit/engine/engine_bt_test)

tsan_check() {
	local dir=build-tsan suite status=0

	[[ -e $dir/build.ninja ]] ||
		meson setup $dir -Db_sanitize=thread -Db_lundef=false -Doptimization=1 -Dc_args=-g1 >/dev/null ||
		return 1
	ninja -C $dir --quiet "${tsan_suites[@]}" src/cli/sika src/vmm/sika-vmm tests/guest/fuzz.elf || return 1
	export CK_DEFAULT_TIMEOUT=60
	export TSAN_OPTIONS="suppressions=$PWD/tools/tsan.supp exitcode=66"
	for suite in "${tsan_suites[@]}"; do
		timeout 120 $dir/"$suite" >"$state/tsan-suite.log" 2>&1 ||
			{ echo "$suite: status $?"; cat "$state/tsan-suite.log"; status=1; }
	done
	# And all of it at once, under a guest with several CPUs that spares no device.
	tests/guest/fuzz.sh --seconds 5 --asan $dir/src/cli/sika || status=1
	return $status
}

check() { # NAME TOOL FUNCTION
	if ! command -v "$2" >/dev/null; then
		echo "SKIP: $1: $2 is not installed"
		skipped=$((skipped + 1))
	elif "$3" >"$state/$1.log" 2>&1; then
		echo "PASS: $1"
		passed=$((passed + 1))
	else
		echo "FAIL: $1"
		head -n 100 "$state/$1.log" | sed 's/^/    /'
		failed=$((failed + 1))
	fi
}

wanted() {
	[[ $only == '  ' || $only == *" $1 "* ]]
}
only=" $* "
wanted codespell && check codespell codespell codespell_check
wanted cppcheck && check cppcheck cppcheck cppcheck_check
wanted clang-tidy && check clang-tidy clang-tidy tidy_check
wanted tsan && check tsan meson tsan_check
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed == 0 ]]
