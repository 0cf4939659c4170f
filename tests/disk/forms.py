#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""forms.py - images of formats other than qcow2, made by us and changed by QEMU's tools, and the other way round.

usage: forms.py OPS FORMAT [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image by one side with options picked at random, lets both sides write to it in turn (ours
several requests at a time), and after each step asks both sides whether it is sound, as far as they can tell, and
whether it holds what the model holds. Closing line: "P passed, F failed, S skipped".
"""
import random
import sys

from commands import MIB, Failure, run
from kinds import FORMS, Form
from sequences import by_qemu_io, main, parser


def read_at(file, at, count):
    file.seek(at)
    return file.read(count)


def crc32c(content):
    total = 0xffffffff
    for byte in content:
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82f63b78 if total & 1 else 0)
    return total ^ 0xffffffff


def find_table(image):
    """Of a VHDX image: the region of that name."""
    regions = read_at(image, 0x30000, 4096)
    at = regions.index(bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"))
    return int.from_bytes(regions[at + 16:at + 24], "little")


class Sequence:
    def __init__(self, ops, form, folder, seed, direct):
        self.rng = random.Random(seed)
        self.form, self.direct, self.last = form, direct, "create"
        self.ops = (ops, "-f", form)
        self.image = Form(form, self.rng, folder, self.our)

    def our(self, *words, status=0):
        return run(*self.ops, *words, status=status)

    def ours(self):
        flags = [x for x in ("pool", "kill") if self.rng.random() < 0.25] + ["direct"] * self.direct
        self.our("run", self.image.path, self.image.model, self.rng.getrandbits(60), 40, *flags)

    def crash(self):
        """As if a change of the table by QEMU had reached the log, and no more of it the file."""
        with open(self.image.path, "r+b", buffering=0) as image:
            table_at = find_table(image)
            table, log = read_at(image, table_at, 4096), read_at(image, MIB, MIB)
            self.theirs(1)
            after = read_at(image, MIB, MIB)
            entries = [at for at in range(0, MIB, 4096)
                       if after[at:at + 4] == b"loge" and after[at:at + 4096] != log[at:at + 4096]]
            if len(entries) != 1:
                return  # nothing had to be allocated, or there are entries of several sessions
            headers = {int.from_bytes(read_at(image, at, 16)[8:], "little"): at for at in (0x10000, 0x20000)}
            at = headers[max(headers)]
            header = bytearray(read_at(image, at, 4096))
            header[48:64] = after[entries[0] + 32:entries[0] + 48]
            header[4:8] = bytes(4)
            header[4:8] = crc32c(header).to_bytes(4, "little")
            for where, content in ((at, header), (table_at, table)):
                image.seek(where)
                image.write(content)
        if self.rng.random() < 0.3:
            run("qemu-img", "check", "-q", "-f", "vhdx", "-r", "all", self.image.path, status=(0, 2, 3))
            return
        refused = self.our("check", self.image.path, status=1)
        if "was not closed" not in refused.stderr:
            raise Failure(f"no word about the log: {refused.stderr}")
        self.our("repair", self.image.path)

    def theirs(self, most=8):
        run("qemu-io", "-f", self.image.theirs, *by_qemu_io(self.rng, self.image.model, most), self.image.path)

    def verify(self):
        self.image.judge()
        self.our("check", self.image.path)
        run("qemu-img", "compare", "-q", "-f", self.image.theirs, "-F", "raw", self.image.path, self.image.model)
        self.our("compare", self.image.path, self.image.model)

    def about(self):
        return f"after {self.last}: {self.image}"

    def go(self):
        self.image.create()
        self.verify()
        for _ in range(self.rng.randint(2, 4)):
            steps = ([self.ours] if self.image.writable else []) + [self.theirs] + [self.crash] * (self.form == "vhdx")
            step = self.rng.choice(steps)
            self.last = step.__name__
            step()
            self.verify()


def arguments():
    p = parser()
    p.add_argument("form", choices=FORMS)
    return p.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    sys.exit(main(ARGS, lambda ops, *more: Sequence(ops, ARGS.form, *more)))
