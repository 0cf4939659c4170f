#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rounds.py - as peers.py and forms.py, by the thousand: both sides are processes that stay.

usage: rounds.py OPS FORMAT [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image with features picked at random, lets ours (several requests at a time) and QEMU write to it
in turn, and reads all of it by us after each step, and by QEMU in the end and after one in three. All that is written
is of one byte, so that qemu-io can compare. In the end we check the image, and now and then qemu-img. Closing line: "P passed, F failed, S skipped".
"""
import itertools
import os
import random
import shutil
import subprocess
import sys

from sequences import SECTOR, Failure, by_qemu_io, main, parser, run

MIB = 1 << 20


class Tool:
    """A program that takes commands by its standard input."""

    def __init__(self, *command):
        self.command, self.process = command, None

    def start(self):
        if not self.process or self.process.poll() is not None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True, bufsize=1 << 16)

    def send(self, text):
        self.start()
        try:
            self.process.stdin.write(text)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said at its end is read

    def end(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait(timeout=60)
            self.process = None


class Ops(Tool):
    def do(self, *words, ok=(0,)):
        self.send(" ".join(map(str, ("ops", *words))) + "\n")
        said = []
        for line in self.process.stdout:
            if line.strip().isdigit():
                if int(line) not in ok:
                    raise Failure(f"ops {words}: status {line.strip()}: {''.join(said)}")
                return int(line)
            said.append(line)
        raise Failure(f"ops {words}: ended: {''.join(said)[-600:]}")


class Io(Tool):
    PROMPT = "qemu-io> "

    def answer(self):
        """What it says up to its prompt: it takes one line whenever there is something to read, and no more."""
        said = ""
        while not said.endswith(self.PROMPT):
            more = os.read(self.process.stdout.fileno(), 65536).decode(errors="replace")
            if not more:
                raise Failure(f"qemu-io: ended: {said[-600:]}")
            said += more
        return said[:-len(self.PROMPT)].strip()

    def do(self, commands):
        if not self.process:
            self.start()
            self.answer()
        for command in commands:
            self.send(command + "\n")
            said = self.answer()
            if said:
                self.end()
                raise Failure(f"qemu-io: {command}: {said[:600]}")


OPS, IO = None, Io("stdbuf", "-o0", "qemu-io")


def qcow2(r):
    f = {"version": r.choice([2, 3, 3]), "cluster": 1 << r.randint(9, 21), "refcount": 16, "zstd": 0, "lazy": 0, "extended": 0}
    if f["version"] == 3:
        f.update(refcount=1 << r.randint(0, 6), zstd=r.randint(0, 1), lazy=r.choice([0, 0, 1]),
                 extended=int(f["cluster"] >= 16384 and r.random() < 0.4))
    return [f"{k}={v}" for k, v in f.items()]


# QEMU's name, options by chance, does QEMU check it.
FORMATS = {
    "qcow2": ("qcow2", qcow2, True),
    "vdi": ("vdi", lambda r: r.choice([[], ["static=on"]]), True),
    "vhd": ("vpc", lambda r: r.choice([[], [], ["subformat=fixed"]]), False),
    "vmdk": ("vmdk", lambda r: r.choice([[], ["zeroed_grain=on"]]), True),
    "vhdx": ("vhdx", lambda r: r.choice([["block_size=1M"], ["block_size=1M", "subformat=fixed"], ["block_size=2M"]]), True),
}


class Sequence:
    def __init__(self, form, ops, folder, seed, _direct):
        self.rng = random.Random(seed)
        self.ops, self.form, self.folder, self.last = ops, form, folder, "create"
        self.theirs_name, pick, self.checks = FORMATS[form]
        self.image, self.model = os.path.join(folder, "image"), os.path.join(folder, "model")
        self.options = pick(self.rng)
        most = 1 if "cluster=512" in self.options else self.rng.choice([1, 2, 6])
        self.size = SECTOR * self.rng.randint(1, most * MIB // SECTOR)

    def about(self):
        return f"{self.form} of {self.size}, {self.options}, after {self.last}"

    def our(self, *words, ok=(0,)):
        return OPS.do("-f", self.form, *words, ok=ok)

    def create(self):
        below = self.form == "qcow2" and self.rng.random() < 0.3
        with open(self.model, "wb") as f:
            while below and f.tell() < self.size:
                f.write(bytes([self.rng.randrange(256)]) * (SECTOR * self.rng.randint(1, 600)))
            f.truncate(self.size)
        if below:
            shutil.copy(self.model, os.path.join(self.folder, "base"))
        options = self.options if self.form == "qcow2" else [",".join(self.options)] * bool(self.options)
        self.our("create", self.image, self.size, *options, *(["backing=base", "format=raw"] if below else []))

    def ours(self):
        flags = [x for x in ("pool", "compress") if self.rng.random() < 0.25]
        count = 10 if "cluster=512" in self.options else 25
        self.our("run", self.image, self.model, self.rng.getrandbits(60), count, "plain", *flags)

    def theirs(self):
        IO.do([f"open -o driver={self.theirs_name} {self.image}", *by_qemu_io(self.rng, self.model)[1::2], "close"])

    def snapshot(self):
        """One is taken, and after the next step another, and the first is given up: neither is seen."""
        if self.form != "qcow2" or "refcount=1" in self.options or "refcount=2" in self.options:
            self.ours()
        elif self.rng.random() < 0.5:
            self.our("snapshot", "create", self.image, "s")
            self.ours()
            self.our("snapshot", "delete", self.image, "s")

    def verify(self):
        self.our("compare", self.image, self.model)

    def verify_by_qemu(self):
        with open(self.model, "rb") as f:
            firsts = f.read()[::SECTOR]  # each sector is of one byte
        at, reads = 0, []
        for byte, run_of in itertools.groupby(firsts):
            length = SECTOR * len(list(run_of))
            reads.append(f"read -q -P {byte} {at} {length}")
            at += length
        IO.do([f"open -r -o driver={self.theirs_name} {self.image}", *reads, "close"])

    def go(self):
        self.create()
        for i in range(3):
            step = self.rng.choice([self.ours, self.ours, self.theirs, self.snapshot])
            self.last = step.__name__
            step()
            self.verify()
            # A command for each run of equal bytes. What it would see in between is there in the end mostly.
            if i == 2 or self.rng.random() < 0.3:
                self.verify_by_qemu()
        self.our("check", self.image)
        # A new process each time, which peers.py and forms.py have after each step.
        if self.checks and self.rng.random() < 0.1:
            run("qemu-img", "check", "-q", "-f", self.theirs_name, self.image)


def arguments():
    p = parser()
    p.add_argument("form", choices=FORMATS)
    return p.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    OPS = Ops(os.path.abspath(ARGS.ops), "serve")
    STATUS = main(ARGS, lambda *more: Sequence(ARGS.form, *more), on_disk=False)
    OPS.end()
    IO.end()
    sys.exit(STATUS)
