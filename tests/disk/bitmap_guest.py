#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bitmap_guest.py - bitmaps of changed blocks under a machine: they have what its guest has written, and nothing else.

usage: bitmap_guest.py SIKA DISK_ELF

The guest (tests/guest/disk.c) does what the first sector says. QEMU judges. Closing line: "P passed, F failed, S skipped".
"""
import os
import random
import struct
import subprocess
import sys

from bitmap_cases import bits, listed
from cases import main
from commands import MIB, SECTOR, Failure, run
from sika import SIKA, image

ELF = os.path.abspath(sys.argv[2])
SIZE = 16 * MIB
WRITE, FLUSH, DISCARD, ZEROES, STAY = 1, 4, 11, 13, 99


def orders(rng, count, quantum):
    """Of changes in pieces of @quantum bytes, anywhere but in the first 64 KiB."""
    step, found = quantum // SECTOR, []
    for _ in range(count):
        first = rng.randrange(65536 // SECTOR // step + 1, SIZE // SECTOR // step)
        most = min(rng.choice([1, 3, 40, 600]), SIZE // SECTOR // step - first)
        found.append((rng.choice([WRITE, WRITE, DISCARD, ZEROES, FLUSH]), rng.randint(1, most) * step, first * step))
    return found


def make(listing, *options):
    """An image with that list and data, and bitmaps from here on; and what it holds."""
    content = bytearray(random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2))
    content[:SECTOR] = b"".join(struct.pack("<IIQ", *o) for o in listing).ljust(SECTOR, b"\0")
    with open("raw", "wb") as f:
        f.write(content)
    image("convert", "--force", *options, "raw", "q")
    for name, unit in (("fine", "4K"), ("coarse", "1M")):
        run("qemu-img", "bitmap", "--add", "-g", unit, "q", name)
    run("qemu-img", "bitmap", "--add", "--disable", "q", "off")
    return content


def machine():
    return subprocess.Popen([SIKA, "run", "--engine", "bt", "--kernel", ELF, "--memory", "64M", "--net", "none", "--serial", "stdio",
                             "--debug-exit", "--no-reboot", "--disk", "q"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ended():
    """A machine that did all of it."""
    with machine() as p:
        text = p.communicate(timeout=60)[0]
    if p.returncode != 1 or " 0 failed" not in text:
        raise Failure(f"status {p.returncode}: {text}")


def blocks(listing, unit):
    changed = set()
    for op, count, first in listing:
        if op in (WRITE, DISCARD, ZEROES):
            changed.update(range(first * SECTOR // unit, ((first + count) * SECTOR - 1) // unit + 1))
    return changed


def has(name, unit):
    return {b for first, n in bits(name, unit=unit) for b in range(first, first + n)}


def ends():
    """Each block that was written, discarded or zeroed, and no other one."""
    rng = random.Random(5)
    for options, quantum in (([], 512), (["--cluster-size", "4K"], 4096), (["--cluster-size=2M"], 65536), ([], 65536)):
        listing = orders(rng, 24, quantum)
        content = make(listing, *options)
        ended()
        unsure = []
        for n, (op, count, first) in enumerate(listing, 1):
            if op in (WRITE, ZEROES):
                content[first * SECTOR:(first + count) * SECTOR] = bytes([n if op == WRITE else 0]) * (count * SECTOR)
            elif op == DISCARD:  # what is there then is nobody's promise
                unsure.append((first * SECTOR, count * SECTOR))
        image("convert", "--force", "--to", "raw", "q", "raw")
        with open("raw", "rb") as f:
            now = bytearray(f.read())
        for at, n in unsure:
            now[at:at + n] = content[at:at + n] = bytes(n)
        assert now == content, "the disk has something else"
        for name, unit in (("fine", 4096), ("coarse", MIB)):
            wanted, found = blocks(listing, unit), has(name, unit)
            assert wanted == found, (name, listing, sorted(wanted ^ found))
        assert not has("off", 65536)
        assert listed() == {"fine": ["auto"], "coarse": ["auto"], "off": []}
        run("qemu-img", "check", "-q", "q")


def is_killed():
    """They say so of themselves, and those that were off stay what they were."""
    listing = orders(random.Random(6), 20, 4096)
    make(listing + [(STAY, 0, 0)])
    with machine() as p:
        stays = any("stays" in line for line in p.stdout)
        p.kill()
    assert stays, "the guest has come to an end"
    assert listed() == {"fine": ["in-use", "auto"], "coarse": ["in-use", "auto"], "off": []}, listed()
    # Leaks are what a kill may leave.
    run("qemu-img", "check", "-q", "q", status=(0, 3))


def changes_nothing():
    """A guest that only reads leaves the image as it is."""
    make([(FLUSH, 0, 0)])
    with open("q", "rb") as f:
        was = f.read()
    ended()
    with open("q", "rb") as f:
        assert f.read() == was


CASES = [ends, is_killed, changes_nothing]

if __name__ == "__main__":
    sys.exit(main(CASES, {"qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "nbdinfo": "libnbd-bin"}, "sika-bitmap-guest-", memory=True))
