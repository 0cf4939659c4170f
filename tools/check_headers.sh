#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# check_headers.sh - every header compiles by itself. usage: check_headers.sh BUILDDIR
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
read -ra flags < <(pkg-config --cflags glib-2.0)
# Generated headers are where ninja has put them.
while read -r dir; do flags+=("-I$dir"); done < <(find "$build/src" -name '*.h' -printf '%h\n' | sort -u)
passed=0 failed=0 skipped=0
while read -r header; do
	# What wraps a library that is no must.
	if [[ $header == */rbd_int.h ]] && ! gcc -fsyntax-only -x c - <<<'#include <rbd/librbd.h>' 2>/dev/null; then
		skipped=$((skipped + 1))
		continue
	fi
	if gcc -D_GNU_SOURCE -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Werror -Isrc -Isrc/x86 "${flags[@]}" \
		-fsyntax-only -x c - <<<"#include \"${header#src/}\""; then
		passed=$((passed + 1))
	else
		echo "$header does not compile alone"
		failed=$((failed + 1))
	fi
done < <(find src -name '*.h' | sort)
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
