#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bitmaps.py - bitmaps of changed blocks, kept by us and by QEMU's tools in turn.

usage: bitmaps.py OPS SIKA [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image with features picked at random and puts bitmaps into it. Then both sides write, resize, take
snapshots, go back to them, change the bitmaps and their list, and sometimes ours ends without closing. After each step both check
the image, and QEMU tells what some of the bitmaps say, which a model must say as well: qemu-nbd serves them, nbdinfo lists
them. Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import shutil
import subprocess
import sys
import time

from commands import MIB, SECTOR, Failure, run
from sequences import by_qemu_io, main, parser


class Bitmap:
    def __init__(self, granularity, auto):
        self.granularity, self.auto, self.broken, self.bits = granularity, auto, False, set()

    def mark(self, at, length):
        self.bits.update(range(at // self.granularity, (at + length - 1) // self.granularity + 1))

    def runs(self, size):
        """What is set, as ranges of bytes."""
        found = []
        for bit in sorted(self.bits):
            at, end = bit * self.granularity, min((bit + 1) * self.granularity, size)
            if found and found[-1][1] == at:
                found[-1][1] = end
            else:
                found.append([at, end])
        return found


class Sequence:
    def __init__(self, sika, ops, folder, seed, direct):
        self.sika, self.ops, self.folder, self.direct = sika, ops, folder, direct
        self.rng, self.last = random.Random(seed), "create"
        self.image, self.model = os.path.join(folder, "image"), os.path.join(folder, "model")
        r = self.rng
        self.cluster = 1 << r.randint(9, 21)
        self.size = SECTOR * r.randint(1, (MIB if self.cluster < 4096 else 8 * MIB) // SECTOR)
        self.keys = {"cluster": self.cluster, "refcount": 1 << r.randint(0, 6), "lazy": r.choice([0, 0, 1]),
                     "extended": int(self.cluster >= 16384 and r.random() < 0.4)}
        self.data = r.random() < 0.15
        self.backing = not self.data and r.random() < 0.3
        self.bitmaps, self.snapshots, self.leaks = {}, {}, False

    def about(self):
        sizes = {n: (b.granularity, "auto" * b.auto, "broken" * b.broken) for n, b in self.bitmaps.items()}
        return f"after {self.last}: size {self.size}, {self.keys}, data {self.data}, backing {self.backing}, {sizes}"

    def create(self):
        more = []
        with open(self.model, "wb") as f:
            f.write(self.rng.randbytes(self.size) if self.backing else bytes(self.size))
        if self.backing:
            shutil.copy(self.model, os.path.join(self.folder, "base"))
            more = ["backing=base", "format=raw"]
        if self.data:
            open(os.path.join(self.folder, "data"), "wb").close()
            more = [f"data={self.folder}/data"]
        run(self.ops, "create", self.image, self.size, *[f"{k}={v}" for k, v in self.keys.items()], *more)
        for _ in range(self.rng.randint(1, 3)):
            self.add()

    # ---- the list ----

    def bitmap(self, verb, name, *more):
        """By either side."""
        if self.rng.random() < 0.5:
            return run(self.sika, "image", "bitmap", verb, *more, self.image, name)
        more = ["-g" if x == "--granularity" else "--disable" if x == "--disabled" else x for x in more]
        return run("qemu-img", "bitmap", "--" + verb, *more, "-f", "qcow2", self.image, name)

    def add(self):
        if len(self.bitmaps) > 4:
            return
        name = self.rng.choice(["a", "b", "long" * 100, "with space", "ä"]) + str(self.rng.getrandbits(20))
        granularity = 1 << self.rng.choice([9, 9, 10, 12, 12, 16, 16, 17, 22, 31])
        auto = self.rng.random() < 0.7
        self.bitmap("add", name, "--granularity", granularity, *([] if auto else ["--disabled"]))
        self.bitmaps[name] = Bitmap(granularity, auto)

    def pick(self):
        good = [n for n, b in self.bitmaps.items() if not b.broken]
        return self.rng.choice(good) if good else None

    def remove(self):
        if self.bitmaps and self.rng.random() < 0.5:
            name = self.rng.choice(list(self.bitmaps))
            self.bitmap("remove", name)
            del self.bitmaps[name]

    def clear(self):
        name = self.pick()
        if name:
            self.bitmap("clear", name)
            self.bitmaps[name].bits = set()

    def switch(self):
        name = self.pick()
        if name:
            b = self.bitmaps[name]
            self.bitmap("disable" if b.auto else "enable", name)
            b.auto = not b.auto

    def merge(self):
        to, source = self.pick(), self.pick()
        if not to or to == source:
            return
        if self.rng.random() < 0.5:
            run(self.sika, "image", "bitmap", "merge", self.image, to, source)
        else:
            run("qemu-img", "bitmap", "--merge", source, "-f", "qcow2", self.image, to)
        for at, end in self.bitmaps[source].runs(self.size):
            self.bitmaps[to].mark(at, end - at)

    # ---- what changes the disk ----

    def mark(self, at, length):
        for b in self.bitmaps.values():
            if b.auto and not b.broken:
                b.mark(at, length)

    def ours(self):
        flags = [x for x in ("pool", "compress", "blocks") if self.rng.random() < 0.25]
        flags += ["kill"] if self.rng.random() < 0.1 else []
        flags += ["direct"] if self.direct else []
        if self.data and "compress" in flags:
            flags.remove("compress")
        said = run(self.ops, "run", self.image, self.model, self.rng.getrandbits(60), self.rng.randint(1, 12), "tell",
                   *flags).stdout
        changes = [tuple(map(int, line.split())) for line in said.splitlines()]
        for change in changes:
            self.mark(*change)
        if "kill" in flags:
            self.leaks = True
            for b in self.bitmaps.values():
                b.broken |= b.auto and bool(changes)

    def theirs(self):
        commands = by_qemu_io(self.rng, self.model, 4)
        run("qemu-io", "-f", "qcow2", *commands, self.image)
        for command in commands[1::2]:
            self.mark(*map(int, command.split()[-2:]))

    def resize(self):
        if self.snapshots and self.rng.random() < 0.5:
            return
        size = SECTOR * self.rng.randint(1, 2 * self.size // SECTOR + 1)
        # QEMU resizes no image with bitmaps that are in use already, and with snapshots not to a smaller size.
        if self.rng.random() < 0.5 or any(b.broken for b in self.bitmaps.values()) or self.snapshots:
            run(self.sika, "image", "resize", "--shrink", self.image, size)
        else:
            if size < self.size:
                size += -size % self.cluster
            run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.image, size)
        os.truncate(self.model, size)
        self.size = size
        for b in self.bitmaps.values():
            b.bits = {bit for bit in b.bits if bit * b.granularity < size}

    def snapshot(self):
        """Going back to one by ours alone: QEMU refuses that where there are bitmaps."""
        if self.data or self.keys["refcount"] < 4:
            return
        kind = self.rng.choice(["create", "apply", "apply"]) if self.snapshots else "create"
        name = f"s{self.rng.getrandbits(30)}" if kind == "create" else self.rng.choice(list(self.snapshots))
        if run(self.ops, "snapshot", kind, self.image, name, status=(0, 1)).returncode:
            self.leaks = True
            return
        if kind == "create":
            self.snapshots[name] = shutil.copy(self.model, f"{self.model}.{name}")
            return
        shutil.copy(self.snapshots[name], self.model)
        self.size = os.path.getsize(self.model)
        for b in self.bitmaps.values():
            b.bits = {bit for bit in b.bits if bit * b.granularity < self.size}
        self.mark(0, self.size)

    def convert(self):
        """Into another image, by either side; bitmaps that are broken stay behind."""
        if self.data:
            return
        other, by = self.image + ".new", self.rng.randrange(3)
        cluster = self.rng.choice([512, 4096, 65536, 1 << 20])
        if by:
            run(self.sika, "image", "convert", "--bitmaps", "--skip-broken-bitmaps", "--cluster-size", cluster, self.image, other)
        else:
            run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-o", f"cluster_size={cluster}", "--bitmaps",
                "--skip-broken-bitmaps", self.image, other)
        os.rename(other, self.image)
        self.cluster, self.backing, self.snapshots = cluster, False, {}
        self.keys = {"cluster": cluster, "refcount": 16, "lazy": 0, "extended": 0}
        self.bitmaps = {n: b for n, b in self.bitmaps.items() if not b.broken}

    def rebase(self):
        if self.backing:
            run(self.sika, "image", "rebase", "--unsafe", "--backing", "base", self.image)

    # ---- looking ----

    def by_nbd(self, name):
        """What is set, as QEMU serves it."""
        socket = os.path.join(self.folder, "nbd")
        with subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-B", name, "-k", socket, self.image],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
            for _ in range(500):
                if os.path.exists(socket) or server.poll() is not None:
                    break
                time.sleep(0.01)
            try:
                found = run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", f"nbd+unix:///?socket={socket}").stdout
            finally:
                server.terminate()
                said = server.communicate()[0]
        if os.path.exists(socket):
            os.unlink(socket)
        try:
            return [[x["offset"], x["offset"] + x["length"]] for x in json.loads(found) if x["type"]]
        except ValueError as error:
            raise Failure(f"nbdinfo: {found[:300]} {said[-300:]}") from error

    def verify_list(self):
        told = json.loads(run("qemu-img", "info", "--output=json", "-f", "qcow2", self.image).stdout)
        theirs = told["format-specific"]["data"].get("bitmaps", [])
        ours = json.loads(run(self.sika, "image", "info", "--json", self.image).stdout)["bitmaps"]
        want = {n: (b.granularity, b.auto, b.broken) for n, b in self.bitmaps.items()}
        for side in (theirs, ours):
            found = {b["name"]: (b["granularity"], "auto" in b["flags"], "in-use" in b["flags"]) for b in side}
            if found != want:
                raise Failure(f"bitmaps are {found}")

    def verify_content(self, names):
        for name in names:
            b = self.bitmaps[name]
            if b.broken:
                continue
            want, found = b.runs(self.size), self.by_nbd(name)
            merged = []
            for at, end in found:
                if merged and merged[-1][1] == at:
                    merged[-1][1] = end
                else:
                    merged.append([at, end])
            if merged != want:
                raise Failure(f"bitmap {name[:20]} of {b.granularity} says {merged[:9]}, and not {want[:9]}")

    def verify(self):
        if self.leaks:
            if self.keys["lazy"]:
                run(self.sika, "image", "check", "--repair", self.image)
            run("qemu-img", "check", "-q", "-f", "qcow2", self.image, status=(0, 3))
            run(self.ops, "repair", self.image)
            self.leaks = False
        run("qemu-img", "check", "-q", "-f", "qcow2", self.image)
        run(self.ops, "check", self.image)
        run(self.ops, "compare", self.image, self.model)
        self.verify_list()

    def go(self):
        self.create()
        self.verify()
        steps = [self.ours] * 4 + [self.theirs] * 2 + [self.resize] * 2 + [self.snapshot, self.convert, self.rebase, self.add,
                                                                     self.remove, self.clear, self.switch, self.merge]
        for _ in range(self.rng.randint(2, 6)):
            step = self.rng.choice(steps)
            self.last = step.__name__
            step()
            self.verify()
            if self.bitmaps and self.rng.random() < 0.3:
                self.verify_content([self.rng.choice(list(self.bitmaps))])
        self.verify_content(self.bitmaps)
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", self.image, self.model)


def arguments():
    p = parser()
    p.add_argument("sika")
    return p.parse_args()


if __name__ == "__main__":
    if not shutil.which("nbdinfo"):
        print("SKIP: nbdinfo is not installed (libnbd-bin)\n0 passed, 0 failed, 1 skipped")
        sys.exit(77)
    ARGS = arguments()
    sys.exit(main(ARGS, lambda *more: Sequence(os.path.abspath(ARGS.sika), *more)))
