#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""install.py - what `make install` puts below DESTDIR works from there, wherever it is moved; uninstalling leaves nothing.

usage: install.py BUILD_DIRECTORY KERNEL
"""
import os
import shutil
import subprocess
import sys
import tempfile

BUILD, KERNEL = sys.argv[1], sys.argv[2]


def files(directory):
    return [os.path.join(d, f) for d, _, names in os.walk(directory) for f in names]


def run(*command, status=0):
    r = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert r.returncode == status, f"{command}: status {r.returncode}: {r.stdout}{r.stderr}"
    return r.stdout


def main():
    with tempfile.TemporaryDirectory() as tmp:
        first = os.path.join(tmp, "first")
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", first)
        found = {os.path.basename(f) for f in files(first)}
        missing = {"sika", "sika-vmm", "image-debian", "sika.1", "sika-run.1"} - found
        assert not missing, f"not installed: {missing}"
        moved = os.path.join(tmp, "moved")
        shutil.copytree(first, moved, symlinks=True)
        sika = next(f for f in files(moved) if f.endswith("/bin/sika"))
        assert run(sika, "--version").startswith("sika ")
        run(sika, "run", "--engine", "bt", "--memory", "64M", "--net", "none", "--serial", "none",
            "--debug-exit", "--kernel", KERNEL, status=33)
        run("ninja", "-C", BUILD, "uninstall")
        left = files(first)
        assert not left, f"left behind: {left}"
    print("1 passed, 0 failed, 0 skipped")


try:
    main()
except (AssertionError, OSError, subprocess.SubprocessError) as e:
    print(f"failed: {e}\n0 passed, 1 failed, 0 skipped")
    sys.exit(1)
