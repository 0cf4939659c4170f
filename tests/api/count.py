#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""count.py - --bt-count: what the processor retires is counted exactly, however it is executed; and
--engine bt,deterministic: where that is the time, all that a clock does to a guest is the same in each run.

usage: count.py SIKA DIRECTORY_OF_API_GUESTS DIRECTORY_OF_TINY_GUESTS
"""
import os
import re
import signal
import subprocess
import sys
import time

SIKA, API, TINY = sys.argv[1:4]
results = {"passed": 0, "failed": 0}
LINE = re.compile(r"^sika: vcpu (\d+): (\d+) instructions$", re.M)
WAYS = {
    "translated": ["bt"],
    "interpreted": ["bt,interpret"],
    "without links": ["bt,off=links"],
    "with little": ["bt,off=cross+entries+flags+returns+map+system+runs"],
    "without the host's page tables": ["bt,off=direct"],
    "with them at once": ["bt,off=direct-wait"],
    "in a small cache": ["bt", "--bt-cache", "128K"],
}
# They look at no clock and take no timer's interrupt.
GUESTS = ["strings", "exceptions", "gates", "fpu", "smc", "syscall", "debug", "paging", "cpuid"]
# Up to HLT: set the stack, CLD, set EDI; 4096 times two moves, REP STOS, compare, branch; CLI, HLT.
PATTERN = 3 + 4096 * 5 + 2


def command(elf, way):
    return [SIKA, "run", "--bt-count", "--engine", *way, "--kernel", elf, "--net", "none",
            "--memory", "64M", "--serial", "none", "--debug-exit", "--no-reboot"]


def count(elf, way):
    r = subprocess.run(command(elf, way), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=120)
    found = LINE.findall(r.stderr)
    assert len(found) == 1 and found[0][0] == "0", r.stderr
    return r.returncode, int(found[0][1])


def halted(way):
    """Of a guest that halts for ever, ended once it sleeps."""
    p = subprocess.Popen(command(os.path.join(API, "pattern.elf"), way), text=True,
                         stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline, before = time.time() + 60, -1
    while time.time() < deadline:
        time.sleep(0.3)
        with open(f"/proc/{p.pid}/stat", encoding="ascii") as f:
            ticks = sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        if ticks == before:
            break
        before = ticks
    p.send_signal(signal.SIGTERM)
    return int(LINE.findall(p.communicate(timeout=30)[1])[0][1])


def ticks(way, deterministic=True):
    """What a guest of timer interrupts, counters and sleep makes of its run, and the instructions."""
    engine = way[0] + (",deterministic" if deterministic else "")
    line = command(os.path.join(TINY, "ticks.elf"), [engine] + way[1:])
    line[line.index("--serial") + 1] = "stdio"
    r = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=120)
    return re.search(r"hash (\w+) after", r.stdout)[1] + " " + LINE.findall(r.stderr)[0][1]


def judge(what, expected, found):
    ok = found == expected
    results["passed" if ok else "failed"] += 1
    print(f"{'ok' if ok else 'failed'}: {what}: {found}" + ("" if ok else f", not {expected}"),
          flush=True)


def main():
    for name, way in WAYS.items():
        judge(f"known number, {name}", PATTERN, halted(way))
    for guest in GUESTS:
        elf = os.path.join(TINY, guest + ".elf")
        reference = count(elf, WAYS["interpreted"])
        for name, way in WAYS.items():
            judge(f"{guest}, {name}", reference, count(elf, way))
    reference = ticks(WAYS["interpreted"])
    for n in range(10):
        name = list(WAYS)[n % len(WAYS)]
        judge(f"deterministic, {name}", reference, ticks(WAYS[name]))
    judge("another one where time is the host's", True, ticks(WAYS["translated"], False) != reference)
    print("{passed} passed, {failed} failed, 0 skipped".format(**results))
    return 1 if results["failed"] else 0


sys.exit(main())
