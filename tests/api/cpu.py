#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cpu.py - --cpu as a guest sees it: leaves of CPUID, and instructions that raise #UD without their flag.

usage: cpu.py SIKA CPUID_ELF
"""
import json
import os
import re
import struct
import subprocess
import sys

SIKA, ELF = sys.argv[1:3]
results = {"passed": 0, "failed": 0, "skipped": 0}
LEAF = re.compile(r"^leaf (\w+)\.(\w+): (\w+) (\w+) (\w+) (\w+)\r?$", re.M)
# (leaf, register, bit)
PNI, AVX, XSAVE, POPCNT = (1, 2, 0), (1, 2, 28), (1, 2, 26), (1, 2, 23)
AVX2, BMI2, SMAP = (7, 1, 5), (7, 1, 8), (7, 1, 20)
AVX512 = [(7, 1, 16), (7, 1, 17), (7, 1, 28), (7, 1, 30), (7, 1, 31), (0xd, 0, 5), (0xd, 0, 6), (0xd, 0, 7)]
HYPERVISOR, RDTSCP = (1, 2, 31), (0x80000001, 3, 27)
# model: flags that must be there, and must not
CASES = {
    "max": ([HYPERVISOR], []),
    "host": ([HYPERVISOR], []),
    "x86-64-v1": ([HYPERVISOR], [PNI, POPCNT, AVX, XSAVE, BMI2, SMAP, RDTSCP]),
    "x86-64-v2": ([PNI, POPCNT, RDTSCP], [AVX, XSAVE, AVX2, BMI2, SMAP]),
    "x86-64-v3": ([AVX, AVX2, BMI2, XSAVE], [SMAP] + AVX512),
    "x86-64-v4": ([AVX, AVX2, BMI2, XSAVE, SMAP] + AVX512, []),
    "x86-64-v4,-avx512f": ([AVX, AVX2], AVX512),
    "x86-64-v3,+avx512bw": ([(7, 1, 16), (7, 1, 30), (0xd, 0, 7)], [(7, 1, 17), (7, 1, 31)]),
    "x86-64-v2,+avx2": ([AVX, AVX2, XSAVE], [BMI2]),
    "x86-64-v2,-popcnt,+smap": ([PNI, SMAP], [POPCNT]),
    "max,-avx": ([XSAVE], [AVX, AVX2]),
    "max,-xsave,-bmi2,-smap,-hypervisor": ([], [XSAVE, AVX, AVX2, BMI2, SMAP, HYPERVISOR]),
    "max,-avx2,-aes,-sha_ni,-movbe,-cx16,-umip,-fsgsbase,-pcid,-smep,-erms": ([], [AVX2]),
}


def offers():
    out = subprocess.run([SIKA, "run", "--cpu", "help", "--json"], check=True,
                         capture_output=True).stdout
    return {e["engine"]: e for e in json.loads(out)}


def leaves(engine, model):
    append = "hw=1" if engine == "kvm" else ""
    r = subprocess.run([SIKA, "run", "--engine", engine, "--cpu", model, "--kernel", ELF,
                        "--append", append, "--net",
                        "none", "--memory", "64M", "--debug-exit", "--no-reboot"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert r.returncode == 1 and ", 0 failed" in r.stdout, \
        f"status {r.returncode}: {r.stderr}{r.stdout[-600:]}"
    found = {}
    for m in LEAF.findall(r.stdout):
        found[int(m[0], 16), int(m[1], 16)] = tuple(int(v, 16) for v in m[2:])
    return found


def brand(found):
    return b"".join(struct.pack("<4I", *found[0x80000002 + i, 0]) for i in range(3)).rstrip(b"\0")


def check_model(engine, model, flags):
    has, lacks = CASES[model]
    if (engine, model) == ("bt", "max") and "avx512f" in flags:
        has = has + [b for b in AVX512 if b != (7, 1, 28)]  # that one is not with every F
    found = leaves(engine, model)
    for leaf, reg, bit in has + lacks:
        assert (found[leaf, 0][reg] >> bit & 1) == ((leaf, reg, bit) in has), (hex(leaf), reg, bit)
    if model.startswith("x86-64"):
        name = "Virtual CPU " + model.split(",")[0]
        assert brand(found) == name.encode(), brand(found)
    return found


def available(offer, model):
    if not offer["available"]:
        return offer["text"]
    row = next(m for m in offer["models"] if m["name"] == model.split(",")[0])
    wanted = [f[1:] for f in model.split(",")[1:] if f[0] == "+"]
    missing = [row["lacks"]] if row["lacks"] else [f for f in wanted if f not in offer["flags"]]
    return f"no {missing[0]}" if missing else None


def attempt(label, why_not, fn):
    if why_not:
        print(f"skipped: {label}: {why_not}")
        results["skipped"] += 1
        return None
    try:
        value = fn()
        results["passed"] += 1
        print(f"ok: {label}", flush=True)
        return value
    except (AssertionError, KeyError, subprocess.SubprocessError) as e:
        results["failed"] += 1
        print(f"failed: {label}: {e!r}", flush=True)
        return None


def same_words(a, b):
    """The feature words of a level are the same under every engine, but for what tells of the host."""
    kept = {(1, 2): 1 << 31 | 1 << 21 | 1 << 24, (7, 1): 1 << 6 | 1 << 13,
            (0x80000001, 2): 1 << 22 | 2}
    for leaf, regs in ((1, (2, 3)), (7, (1, 2)), (0xd, (0,)), (0x80000001, (2, 3))):
        for reg in regs:
            x, y = (f[leaf, 0][reg] & ~kept.get((leaf, reg), 0) for f in (a, b))
            assert x == y, f"leaf {leaf:x} register {reg}: {x:x} and {y:x}"
    assert brand(a) == brand(b), (brand(a), brand(b))


def main():
    offer = offers()
    hardware = any(w in open("/proc/cpuinfo", encoding="ascii").read().split()
                   for w in ("vmx", "svm"))
    if not hardware and not os.environ.get("SIKA_TEST_SOFT_KVM"):
        offer["kvm"] = {"available": False, "text": "the host's KVM is not backed by hardware"}
    for model in CASES:
        found = {}
        for engine, o in offer.items():
            found[engine] = attempt(f"{model} under {engine}", available(o, model),
                                    lambda e=engine, f=o.get("flags", []): check_model(e, model, f))
        if model.startswith("x86-64") and all(found.values()):
            attempt(f"{model} alike", None, lambda f=found: same_words(*f.values()))
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**results))
    return 1 if results["failed"] else 0


sys.exit(main())
