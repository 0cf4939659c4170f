# SPDX-License-Identifier: Apache-2.0
"""runner.py - what the tests of this folder share: run functions one by one, wait, skip, look at a process."""
import contextlib
import os
import subprocess
import sys
import time


class Skip(Exception):
    """Why a test cannot run here."""


def read(path):
    with open(path, encoding="ascii", errors="replace") as f:
        return f.read()


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {seconds} s")


def threads(pid):
    """Thread id to name."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            found[int(tid)] = read(f"/proc/{pid}/task/{tid}/comm").strip()
    return found


def ticks(pid):
    """Clock ticks that a process has used."""
    return sum(map(int, read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[11:13]))


def run(tests, only=()):
    """Run all, or those whose names are in @only; says how each ended, and the totals. The exit status."""
    passed = failed = skipped = 0
    for test in tests:
        if only and test.__name__ not in only:
            continue
        try:
            test()
            passed += 1
            print(f"ok: {test.__name__}", flush=True)
        except Skip as e:
            skipped += 1
            print(f"skipped: {test.__name__}: {e}", flush=True)
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            failed += 1
            print(f"failed: {test.__name__}: {e}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def main(tests):
    """For scripts whose arguments are the programs, their guests, and names of tests."""
    sys.exit(run(tests, sys.argv[3:]))
