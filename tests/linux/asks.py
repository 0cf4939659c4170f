#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""asks.py - a program of a Linux guest is told of its own processor, not of the host's.

usage: asks.py SIKA ASKS KERNEL
ASKS (asks.c) is the only program of a guest with KERNEL; once all of it is translated, and twice it runs as it is from its
first instruction on, where the counter may be read and where it may not. What CPUID and the rest say must be the same, and time must go on. So with each of some models of a
processor. Closing line: "P passed, F failed, S skipped".
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

MODELS = ["max", "x86-64-v2"]
ENGINES = ["bt,off=user", "bt,off=user-wait", "bt,off=user-wait+counter"]
SECONDS = 120


def pack(asks, folder):
    root, packed = os.path.join(folder, "root"), os.path.join(folder, "initrd")
    os.makedirs(os.path.join(root, "dev"))
    shutil.copy(asks, os.path.join(root, "init"))
    with open(packed, "wb") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=b"init\ndev\n", stdout=f, check=True)
    return packed


def said(sika, kernel, initrd, model, engine):
    out = subprocess.run(
        [sika, "run", "--engine", engine, "--cpu", model, "--memory", "256M", "--net", "none", "--no-reboot", "--kernel", kernel,
         "--initrd", initrd, "--append", "console=ttyS0 quiet panic=-1"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False).stdout
    return [line for line in out.decode(errors="replace").replace("\r", "").splitlines() if re.match(r"[A-Z]+( |$)", line)]


def judge(translated, *others):
    """What is wrong, or None."""
    for lines in translated, *others:
        if not lines or lines[-1] != "END":
            return f"no end: {lines[-3:]}"
        wrong = [line for line in lines if re.match(r"T (?!apart little)|A .* by ", line)]
        if wrong:
            return f"{len(wrong)} wrong, the first: {wrong[0]}"
    for as_it_is in others:
        for a, b in zip(translated, as_it_is):
            if a != b:
                return f"translated {a!r}, as it is {b!r}"
    return None


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sika, asks, kernel = sys.argv[1:]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        initrd = pack(asks, folder)
        for model in MODELS:
            wrong = judge(*(said(sika, kernel, initrd, model, e) for e in ENGINES))
            passed += wrong is None
            failed += wrong is not None
            print(f"FAILED  {model}: {wrong}" if wrong else f"ok      {model}", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


sys.exit(main())
