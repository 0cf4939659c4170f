#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_layers.py - every #include of src/ against the table of who may use whom.

A room may use itself and what is listed. Closing line: "P passed, F failed, S skipped", one case a file.
"""
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")

# docs/architecture.md explains it. "engine.h" alone may be used where "engine" is listed: what lies
# in engine/kvm and engine/bt is private to the engines.
MAY_USE = {
    "base": [],
    "x86": [],
    "chip": [],
    "mem": ["base"],
    "engine": ["base", "mem", "x86"],
    "bus": ["base", "mem", "engine"],
    "disk": ["base"],
    "nbd": ["base", "disk"],
    "net": ["base"],
    "char": ["base"],
    "config": ["base", "x86", "disk"],
    "dev": ["base", "chip", "mem", "bus", "disk", "net", "char"],
    "boot": ["base", "mem", "bus", "x86"],
    "vm": ["base", "x86", "mem", "engine", "bus", "disk", "nbd", "net", "char", "config", "dev", "boot"],
    "vmm": ["base", "x86", "config", "engine", "vm"],
    "cli": ["base", "config", "disk", "nbd"],
}
# base/bits.h is freestanding and says so; the x86 core may use it and nothing else.
EXCEPTIONS = {("x86", "base/bits.h")}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def complaints(room, path, text):
    for name in INCLUDE.findall(text):
        if "/" not in name or not os.path.exists(os.path.join(ROOT, name)):
            continue  # of the same directory, or generated
        other = name.split("/")[0]
        if other == room or (room, name) in EXCEPTIONS:
            continue
        if other not in MAY_USE.get(room, []):
            yield f"{path}: {room}/ may not use {name}"
        elif other == "engine" and name != "engine/engine.h":
            yield f"{path}: {name} is private to the engine"
        elif name.endswith("_int.h"):
            yield f"{path}: {name} is private to {other}/"


def main():
    passed = failed = 0
    for directory, _, files in sorted(os.walk(ROOT)):
        for file in sorted(files):
            if not file.endswith((".c", ".h")):
                continue
            path = os.path.relpath(os.path.join(directory, file), ROOT)
            room = path.split("/")[0]
            with open(os.path.join(ROOT, path), encoding="utf-8") as f:
                found = list(complaints(room, path, f.read()))
            if room not in MAY_USE:
                found.append(f"{path}: {room}/ is not in the table of check_layers.py")
            for line in found:
                print(line)
            passed, failed = passed + (not found), failed + bool(found)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


sys.exit(main())
