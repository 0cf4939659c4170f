#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""peers.py - images made by us and changed by QEMU's tools, and the other way round.

usage: peers.py OPS [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image by one side with features picked at random, lets both sides write to it in
turn (ours several requests at a time), takes, applies and deletes snapshots, resizes, and after each
step asks both sides whether the image is sound and holds what the model holds. Closing line:
"P passed, F failed, S skipped".
"""
import os
import random
import shutil
import sys

from commands import MIB, Failure, run
from kinds import Qcow2
from sequences import by_qemu_io, main, parser


class Sequence:
    def __init__(self, ops, folder, seed, direct):
        self.rng = random.Random(seed)
        self.ops, self.direct, self.last, self.refused = ops, direct, "create", False
        self.image = Qcow2(self.rng, folder, self.our)
        self.snapshots = {}

    def our(self, *words, status=0):
        return run(self.ops, *words, status=status)

    def about(self):
        return f"after {self.last}: {self.image}"

    def ours(self):
        flags = [x for x in ("pool", "compress", "kill", "blocks") if self.rng.random() < 0.25]
        flags += ["direct"] if self.direct else []
        if self.image.features["data"] and "compress" in flags:
            flags.remove("compress")
        # Tiny clusters take a table's update each: fewer requests in the same time.
        count = 40 if self.image.features["cluster"] >= 4096 else 15
        self.our("run", self.image.path, self.image.model, self.rng.getrandbits(60), count, *flags)

    def theirs(self):
        run("qemu-io", "-f", "qcow2", *by_qemu_io(self.rng, self.image.model), self.image.path)

    def snapshot(self):
        features, path, model = self.image.features, self.image.path, self.image.model
        if features["data"] or features["refcount"] < 4:
            return
        us = self.rng.random() < 0.6
        kind = self.rng.choice(["create", "create", "apply", "delete"])
        if kind != "create" and not self.snapshots:
            kind = "create"
        if kind == "create" and len(self.snapshots) >= 3:
            kind = "delete"
        name = f"s{self.rng.getrandbits(30)}" if kind == "create" else self.rng.choice(list(self.snapshots))
        sides = [(self.ops, "snapshot", kind, path, name),
                 ("qemu-img", "snapshot", {"create": "-c", "apply": "-a", "delete": "-d"}[kind], name, path)]
        first, second = sides if us else sides[::-1]
        if run(*first, status=(0, 1)).returncode:
            # Compressed clusters share a cluster, whose count may be too narrow for another snapshot: for both.
            if run(*second, status=(0, 1)).returncode == 0:
                raise Failure(f"{' '.join(second)} succeeded where the other side refused")
            self.refused = True
            return
        if kind == "create":
            self.snapshots[name] = shutil.copy(model, f"{model}.{name}")
        elif kind == "apply":
            shutil.copy(self.snapshots[name], model)
        else:
            del self.snapshots[name]

    def resize(self):
        us = self.rng.random() < 0.5
        size = self.image.new_size(8 * MIB, us)
        if self.snapshots or self.image.features["prealloc"] or size is None:
            return
        if us:
            self.our("resize", self.image.path, size)
        else:
            run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.image.path, size)
        os.truncate(self.image.model, size)

    def verify(self, leaks):
        # A process that ended without closing leaves leaks; a dirty image is repaired when opened.
        path, model = self.image.path, self.image.model
        if leaks and self.image.features["lazy"]:
            run("qemu-img", "check", "-q", "-f", "qcow2", "-r", "all", path, status=(0, 2, 3))
        theirs = self.image.judge((0, 3) if leaks else 0)
        ours = self.our("check", path, status=(0, 3) if leaks else 0)
        if theirs.returncode != ours.returncode:
            raise Failure(f"check: theirs {theirs.returncode}, ours {ours.returncode}: {theirs.stdout[-300:]}")
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", path, model)
        self.our("compare", path, model)
        if theirs.returncode == 3:
            self.our("repair", path)
            self.image.judge()

    def go(self):
        self.image.create()
        self.verify(True)
        for _ in range(self.rng.randint(2, 4)):
            step = self.rng.choice([self.ours, self.ours, self.ours, self.theirs, self.snapshot, self.resize])
            self.last, self.refused = step.__name__, False
            step()
            self.verify(step == self.ours or self.refused)


if __name__ == "__main__":
    sys.exit(main(parser().parse_args(), Sequence))
