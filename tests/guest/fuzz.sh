#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fuzz.sh - run the guest that programs every device at random, seed after seed, for a time.
#
# usage: fuzz.sh [--seconds N] [--engine bt|kvm] [--build DIR | --asan SIKA] [--seed N] [--cpus N]
#
# --asan names the sika of a build with sanitizers; without it DIR/src/cli/sika is run. Each seed is one
# machine with 1, 2 or 4 CPUs, a scratch disk and the user-mode network. It passes when the guest ended
# through the debug exit (status 85), or had lost itself and the machine was reset (0, or the odd status
# its stray code wrote), or when the process still ran at the end of its time and SIGTERM ended it within
# ten seconds. A signal, a failure of the VMM, or a line of a sanitizer fails. A failed seed is told with
# the command that repeats it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
seconds=10 engine=bt build=$here/../../build sika='' seed=$((RANDOM * 32768 + RANDOM)) only_cpus=
while [ $# -gt 0 ]; do
	case $1 in
	--seconds) seconds=$2 ;;
	--engine) engine=$2 ;;
	--build) build=$2 ;;
	--asan) sika=$2 ;;
	--seed) seed=$2 ;;
	--cpus) only_cpus=$2 ;;
	*) echo "fuzz.sh: no such option: $1" >&2; exit 2 ;;
	esac
	shift 2
done
sika=${sika:-$build/src/cli/sika}
[ -x "$sika" ] || { echo "fuzz.sh: '$sika' cannot be run" >&2; exit 2; }
# The guest is data: any build's will do, and lies beside the program.
image=$(dirname "$sika")/../../tests/guest/fuzz.elf
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-halt_on_error=1:print_stacktrace=1}
if [ "$engine" = kvm ] && ! { : <>/dev/kvm; } 2>/dev/null; then
	echo "SKIP: /dev/kvm cannot be opened here"
	echo "0 passed, 0 failed, 1 skipped"
	exit 77
fi
tmp=$(mktemp -d) || exit 2
pid=
cleanup() {
	[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# Wait for $pid for at most $1 seconds; its status goes to $status.
await() {
	local end=$((SECONDS + $1))

	while kill -0 "$pid" 2>/dev/null; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
	wait "$pid"
	status=$?
	pid=
}

# One machine; $verdict and $why tell how it went.
one() { # SEED CPUS GUEST_SECONDS
	local how=

	truncate -s 1M "$tmp/disk"
	"$sika" run --engine "$engine" --kernel "$image" --append "seed=$1 cpus=$2 seconds=$3" --cpus "$2" \
		--memory 64M --net user --disk "$tmp/disk" --serial "$tmp/serial" --debug-exit --no-reboot \
		</dev/null >"$tmp/log" 2>&1 &
	pid=$!
	verdict=FAIL
	if ! await $(($3 + 5)); then
		kill -TERM "$pid"
		if ! await 10; then
			why="does not end on SIGTERM"
			kill -KILL "$pid"
			wait "$pid" 2>/dev/null
			pid=
			return
		fi
		how="astray, "
	fi
	why="${how}status $status"
	if grep -qE 'Sanitizer|runtime error:' "$tmp/log"; then
		why="$why, a sanitizer speaks"
	elif grep -q 'error: vcpu' "$tmp/log"; then
		why="$why, the engine gave up"
	elif [ -n "$how" ] && [ $status -eq 143 ]; then
		verdict=PASS
	elif [ $status -eq 0 ] || { [ $((status & 1)) -eq 1 ] && [ $status -gt 1 ] && [ $status -lt 128 ]; }; then
		verdict=PASS
	fi
}

passed=0 failed=0 finished=0 end=$((SECONDS + seconds))
# Short lives, so that starts and ends meet requests under way.
life=$((seconds < 20 ? 3 : 5))
while [ $SECONDS -lt $end ]; do
	cpus=${only_cpus:-$((1 << seed % 3))}
	one "$seed" "$cpus" "$life"
	if [ $verdict = PASS ]; then
		passed=$((passed + 1))
		[ "$why" != "status 85" ] || finished=$((finished + 1))
	else
		echo "FAIL: seed $seed: $why; again: tests/guest/fuzz.sh --engine $engine --asan $sika" \
			"--seed $seed --cpus $cpus --seconds 1"
		sed 's/^/    /' "$tmp/log" | head -n 80
		failed=$((failed + 1))
	fi
	seed=$((seed + 1))
done
echo "$finished of $passed machines ran to their end, the others lost themselves"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
