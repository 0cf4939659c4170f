#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh - run the tiny guests of guests.list under one engine, one line each.
#
# usage: run.sh [--engine bt|kvm] [--build DIR] [--list FILE] [--each-off] [NAME...]
#
# --each-off: under bt with each of its optimizations off, one by one, and with a code cache that is
# always full.
#
# A guest ends through the debug exit port with 0 (status 1) when all its checks held. Exit status: 0 all
# passed, 1 some failed, 77 the engine is not available here.
set -u
here=$(cd "$(dirname "$0")" && pwd)
engine=bt each=no build=$here/../../build list=$here/guests.list
while [ $# -gt 0 ]; do
	case $1 in
	--engine) engine=$2; shift 2 ;;
	--build) build=$2; shift 2 ;;
	--list) list=$2; shift 2 ;;
	--each-off) each=yes; shift ;;
	--) shift; break ;;
	-*) echo "run.sh: no such option: $1" >&2; exit 2 ;;
	*) break ;;
	esac
done
only=" $* "
sika=$build/src/cli/sika

if [ $each = yes ]; then
	status=0
	# Told in the error of a name that there is not.
	known=$("$sika" run --engine bt,off=? --kernel /dev/null 2>&1 | sed -n 's/.*there are: //p' | tr -d ,)
	[ -n "$known" ] || { echo "run.sh: which optimizations are there?" >&2; exit 1; }
	for off in $known; do
		"$0" --engine "bt,off=$off" --build "$build" --list "$list" "$@" || status=1
	done
	GUEST_CACHE="--bt-cache 512K" "$0" --build "$build" --list "$list" "$@" || status=1
	exit $status
fi
out=$(mktemp -d) || exit 2
trap 'rm -rf "$out"' EXIT
trap 'exit 1' INT TERM

if [ "$engine" = kvm ] && ! { : <>/dev/kvm; } 2>/dev/null; then
	echo "SKIP: /dev/kvm cannot be opened here"
	echo "0 passed, 0 failed, $(grep -vc '^#' "$list") skipped"
	exit 77
fi

hardware=no
grep -qwE 'vmx|svm' /proc/cpuinfo && hardware=yes

passed=0 failed=0 skipped=0
while read -r name cpus memory limit needs args; do
	case $name in ''|'#'*) continue ;; esac
	[ "$only" = "  " ] || case $only in *" $name "*) ;; *) continue ;; esac
	label="$name ($engine${GUEST_CACHE:+ $GUEST_CACHE}, $cpus CPU)"
	[ "$args" = - ] && args=
	[ "$engine" = kvm ] && args="$args hw=1"
	if [ "$engine" = kvm ] && [ "$needs" = hw ] && [ $hardware = no ]; then
		echo "SKIP: $label: the host's KVM is not backed by hardware"
		skipped=$((skipped + 1))
		continue
	fi
	# Its CPUs have to run at the same time.
	if [ "$name" = litmus ] && [ "$(nproc)" -lt 2 ]; then
		echo "SKIP: $label: the host has one CPU"
		skipped=$((skipped + 1))
		continue
	fi
	: >"$out/serial"
	timeout -k 5 "$limit" "$sika" run --engine "$engine" --kernel "$build/tests/guest/$name.elf" \
		--append "$args" --cpus "$cpus" --memory "$memory" --net none --debug-exit \
		--no-reboot --serial "$out/serial" ${GUEST_CACHE:-} </dev/null >"$out/log" 2>&1
	status=$?
	if [ $status -eq 1 ] && grep -q '^skipped:' "$out/serial"; then
		echo "SKIP: $label: $(sed -n 's/^skipped: //p' "$out/serial")"
		skipped=$((skipped + 1))
	elif [ $status -eq 1 ] && grep -q ' 0 failed' "$out/serial"; then
		echo "PASS: $label: $(tail -n 1 "$out/serial")"
		passed=$((passed + 1))
	else
		[ $status -eq 124 ] && why="no end within $limit s" || why="status $status"
		echo "FAIL: $label: $why"
		sed 's/^/    /' "$out/log" "$out/serial"
		failed=$((failed + 1))
	fi
done <"$list"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
