# SPDX-License-Identifier: Apache-2.0
"""cases.py - what tests of tools share: each case runs in an empty folder of its own."""
import os
import shutil
import subprocess
import tempfile


class Skip(Exception):
    """This case cannot run here, for the reason it gives."""


def main(cases, needed, prefix, memory=False):
    """@needed: programs and the packages they come from. The exit status."""
    missing = [p for p in needed if not shutil.which(p)]
    if missing:
        print(f"SKIP: not installed: {', '.join(missing)} ({', '.join(sorted({needed[p] for p in missing}))})")
        print(f"0 passed, 0 failed, {len(cases)} skipped")
        return 77
    passed = failed = skipped = 0
    where = "/dev/shm" if memory and os.access("/dev/shm", os.W_OK) else None
    for case in cases:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
            os.chdir(folder)
            try:
                case()
                passed += 1
            except Skip as why:
                skipped += 1
                print(f"{case.__name__}: skipped: {why}", flush=True)
            except (AssertionError, subprocess.TimeoutExpired, OSError, EOFError, ValueError) as error:
                failed += 1
                print(f"{case.__name__}: {type(error).__name__}: {error}", flush=True)
            os.chdir("/")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0
