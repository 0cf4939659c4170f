#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill.py - kill -9 under load: the image is sound, by us and by QEMU, and holds what was flushed. A bitmap of
changed blocks says that it was not stored.

usage: kill.py OPS [--sequences N] [--seconds S] [--seed S] [--keep]

Closing line: "P passed, F failed, S skipped".
"""
import os
import random
import subprocess
import sys
import time

from commands import Failure, run
from sequences import main, parser

# Ours, QEMU's name, options for making one, whether QEMU can check it.
FORMATS = [
    ("qcow2", "qcow2", [], True), ("qcow2", "qcow2", ["cluster=512"], True),
    ("qcow2", "qcow2", ["version=2", "cluster=4096"], True), ("qcow2", "qcow2", ["extended=1"], True),
    ("qcow2", "qcow2", ["lazy=1"], True), ("vdi", "vdi", [], True), ("vhd", "vpc", [], False),
    ("vmdk", "vmdk", [], True), ("vhdx", "vhdx", ["block_size=1M"], True),
]


class Sequence:
    def __init__(self, ops, folder, seed, _direct):
        self.rng = random.Random(seed)
        self.form, self.theirs, self.options, self.checks = self.rng.choice(FORMATS)
        self.ops = (ops, "-f", self.form)
        self.image = os.path.join(folder, "image")
        self.flushes = 0

    def about(self):
        return f"{self.form} {self.options}, killed after {self.flushes} flushes"

    def load(self, seed):
        child = subprocess.Popen([*self.ops, "load", self.image, str(seed)], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        time.sleep(self.rng.random() * 0.25)
        child.kill()
        out, err = child.communicate(timeout=60)
        if child.returncode != -9:
            raise Failure(f"load ended by itself: {child.returncode} {err[-300:]}")
        # A line cut short is one that was on its way when the flush had ended.
        self.flushes = out.count(b"\n")

    def wait_for_lock(self):
        """The kernel ends requests that were under way, and only then gives up the lock."""
        for _ in range(200):
            if "in use by" not in run(*self.ops, "check", self.image, status=(0, 1, 2, 3)).stderr:
                return
            time.sleep(0.02)

    def go(self):
        seed = self.rng.getrandbits(60)
        run(*self.ops, "create", self.image, self.rng.choice([1, 8]) << 20, *self.options)
        bitmap = self.form == "qcow2" and "version=2" not in self.options and self.rng.random() < 0.5
        if bitmap:
            run("qemu-img", "bitmap", "--add", "-f", "qcow2", self.image, "changes")
        self.load(seed)
        self.wait_for_lock()
        # It was not stored, and must say so when anything was written.
        if bitmap and self.flushes and "in-use" not in run("qemu-img", "info", "-f", "qcow2", self.image).stdout:
            raise Failure("a bitmap that was not stored does not tell")
        if "lazy=1" not in self.options:
            run(*self.ops, "check", self.image, status=(0, 3))
            # VDI's header counts what its map names, and no write changes both: between the two QEMU speaks of an error.
            if self.checks and self.form != "vdi":
                run("qemu-img", "check", "-q", "-f", self.theirs, self.image, status=(0, 3))
        run(*self.ops, "loaded", self.image, seed, self.flushes)
        run(*self.ops, "repair", self.image)
        if self.checks:
            run("qemu-img", "check", "-q", "-f", self.theirs, self.image)
        run(*self.ops, "loaded", self.image, seed, self.flushes)


if __name__ == "__main__":
    sys.exit(main(parser().parse_args(), Sequence))
