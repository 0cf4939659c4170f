#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""count_tests.py - add up the cases of meson's test logs (.json) and of the logs of other programs.

A program may report many cases: Check's "N%: Checks: C, Failures: F, Errors: E", or a line of its own,
"P passed, F failed, S skipped" (the last one counts). Any other program is one case by its status. Lines
"WHAT: N sequences" are added up as well.
"""
import json
import re
import sys

CHECK = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)
SEQUENCES = re.compile(r"^\S+: (\d+) sequences$", re.M)
TOTAL = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped", re.M)


def cases(test):
    text = (test.get("stdout") or "") + "\n" + (test.get("stderr") or "")
    failed_as_whole = test["result"] not in ("OK", "EXPECTEDFAIL", "SKIP")
    checks, totals = CHECK.findall(text), TOTAL.findall(text)
    if test["result"] == "SKIP":
        return 0, 0, 1
    if totals:
        passed, failed, skipped = map(int, totals[-1])
    elif checks:
        ran = sum(int(c[0]) for c in checks)
        failed = sum(int(c[1]) + int(c[2]) for c in checks)
        passed, skipped = ran - failed, 0
    else:
        passed, failed, skipped = (0, 1, 0) if failed_as_whole else (1, 0, 0)
    if failed_as_whole and not failed:
        failed = 1  # it crashed, or ran out of time, behind what it had reported
    return passed, failed, skipped


def tests_of(path):
    """Each test as meson describes one; another program's log is one test."""
    with open(path, encoding="utf-8", errors="replace") as f:
        if path.endswith(".json"):
            yield from map(json.loads, f)
            return
        text = f.read()
    found = TOTAL.findall(text)
    good = found and found[-1][1] == "0"
    yield {"name": path.split("/")[-1], "result": "OK" if good else "FAIL", "stdout": text}


def main():
    total, sequences = [0, 0, 0], 0
    for path in sys.argv[1:]:
        for test in tests_of(path):
            counts = cases(test)
            sequences += sum(map(int, SEQUENCES.findall(test.get("stdout") or "")))
            total = [a + b for a, b in zip(total, counts)]
            if counts[1]:
                print(f"failed: {test['name']} ({path.split('/')[0]})")
            if counts[2]:
                print(f"skipped: {counts[2]} of {test['name']} ({path.split('/')[0]})")
    if sequences:
        print(f"{sequences} sequences of random operations on disk images among them")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] or not total[0] else 0


sys.exit(main())
