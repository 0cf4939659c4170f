#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""forms.py - images of formats other than qcow2, made by us and changed by QEMU's tools, and the other way round.

usage: forms.py OPS FORMAT [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image by one side with options picked at random, lets both sides write to it in turn (ours
several requests at a time), and after each step asks both sides whether it is sound, as far as they can tell, and
whether it holds what the model holds. Closing line: "P passed, F failed, S skipped".
"""
import os
import random
import sys

from sequences import SECTOR, Failure, by_qemu_io, main, parser, run

MIB = 1 << 20


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


def vdi(rng):
    return rng.choice(["", "", "", "static=on"]), None


def vhd(rng):
    kind = rng.choice(["subformat=dynamic", "subformat=dynamic", "subformat=fixed"])
    return kind, kind + ",force_size=on"


def vmdk(rng):
    kind = "subformat=" + rng.choice(["monolithicSparse"] * 3 + ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
    return kind + rng.choice(["", "", ",zeroed_grain=on"] if "Sparse" in kind else [""]), None


def vhdx(rng):
    kind = rng.choice(["subformat=dynamic", "subformat=dynamic", "subformat=fixed"])
    return kind + rng.choice(["", ",block_size=1M", ",block_size=1M,block_state_zero=off", ",log_size=2M"]), None


def parallels(rng):
    return rng.choice(["", "cluster_size=64k", "cluster_size=2M"]), None


# What we only read.
READ_ONLY = ["parallels"]
# What QEMU calls the format; options by chance, for us and for QEMU where it needs others; does it check.
FORMATS = {
    "vdi": ("vdi", vdi, True),
    "vhd": ("vpc", vhd, False),
    "vmdk": ("vmdk", vmdk, True),
    "vhdx": ("vhdx", vhdx, True),
    "parallels": ("parallels", parallels, True),
}


class Sequence:
    def __init__(self, ops, form, folder, seed, direct):
        self.direct = direct
        self.rng = random.Random(seed)
        self.folder, self.form = folder, form
        self.theirs_name, pick, self.checks = FORMATS[form]
        self.ops = (ops, "-f", form)
        self.image, self.model = os.path.join(folder, "image.x"), os.path.join(folder, "model")
        self.options, self.their_options = pick(self.rng)
        self.size = SECTOR * self.rng.randint(1, self.rng.choice([1, 4, 16]) * MIB // SECTOR)
        self.last = "create"

    def make_base(self):
        """What a VMDK image of QEMU's may stand on."""
        base = os.path.join(self.folder, "base.vmdk")
        with open(base + ".raw", "wb") as f:
            f.write(self.rng.randbytes(self.size))
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", base + ".raw", base)
        os.rename(base + ".raw", self.model)
        return ["-b", base, "-F", "vmdk"]

    def create(self):
        self.by_us = self.rng.random() < 0.5 and "Extent" not in self.options and "Flat" not in self.options
        self.by_us &= self.form not in READ_ONLY
        if self.by_us:
            run(*self.ops, "create", self.image, self.size, *([self.options] if self.options else []))
        else:
            options = self.options if self.their_options is None else self.their_options
            based = "monolithicSparse" in self.options and self.rng.random() < 0.5
            run("qemu-img", "create", "-q", "-f", self.theirs_name, *(["-o", options] if options else []),
                *(self.make_base() if based else []), self.image, self.size)
            if based:
                return
        with open(self.model, "wb") as f:
            f.truncate(self.size)

    def ours(self):
        flags = [x for x in ("pool", "kill") if self.rng.random() < 0.25] + ["direct"] * self.direct
        run(*self.ops, "run", self.image, self.model, self.rng.getrandbits(60), 40, *flags)

    def crash(self):
        """As if a change of the table by QEMU had reached the log, and no more of it the file."""
        with open(self.image, "r+b", buffering=0) as image:
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
            run("qemu-img", "check", "-q", "-f", "vhdx", "-r", "all", self.image, ok=(0, 2, 3))
            return
        refused = run(*self.ops, "check", self.image, ok=(1,))
        if b"was not closed" not in refused.stdout:
            raise Failure(f"no word about the log: {refused.stdout}")
        run(*self.ops, "repair", self.image)

    def theirs(self, most=8):
        run("qemu-io", "-f", self.theirs_name, *by_qemu_io(self.rng, self.model, most), self.image)

    def verify(self):
        if self.checks:
            run("qemu-img", "check", "-q", "-f", self.theirs_name, self.image)
        run(*self.ops, "check", self.image)
        run("qemu-img", "compare", "-q", "-f", self.theirs_name, "-F", "raw", self.image, self.model)
        run(*self.ops, "compare", self.image, self.model)

    def about(self):
        return f"after {self.last}: {self.size} '{self.options}' {'ours' if self.by_us else 'theirs'}"

    def go(self):
        self.create()
        self.verify()
        for _ in range(self.rng.randint(2, 4)):
            step = self.theirs if self.form in READ_ONLY else self.rng.choice([self.ours, self.theirs] + [self.crash] * (self.form == "vhdx"))
            self.last = step.__name__
            step()
            self.verify()


def arguments():
    p = parser()
    p.add_argument("form", choices=FORMATS)
    return p.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    sys.exit(main(ARGS, lambda ops, *more: Sequence(ops, ARGS.form, *more)))
