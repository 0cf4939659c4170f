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

from sequences import SECTOR, Failure, by_qemu_io, main, parser, run


class Sequence:
    def __init__(self, ops, folder, seed, direct):
        self.ops, self.seed = ops, seed
        self.rng = random.Random(seed)
        self.image, self.model = os.path.join(folder, "image"), os.path.join(folder, "model")
        self.folder = folder
        self.features = self.pick()
        self.direct = direct
        self.snapshots = {}
        self.last = "create"

    def pick(self):
        r = self.rng
        f = {"version": r.choice([2, 3, 3, 3]), "cluster": 1 << r.randint(9, 21), "refcount": 16,
             "zstd": 0, "lazy": 0, "extended": 0, "backing": None, "data": None, "prealloc": 0}
        f["size"] = SECTOR * r.randint(1, 8 * (1 << 20) // SECTOR)
        if f["cluster"] == 512:
            f["size"] //= 4
            f["size"] -= f["size"] % SECTOR
            f["size"] = max(f["size"], SECTOR)
        if f["version"] == 3:
            f["refcount"] = 1 << r.randint(0, 6)
            f["zstd"], f["lazy"] = r.randint(0, 1), r.choice([0, 0, 1])
            f["extended"] = int(f["cluster"] >= 16384 and r.random() < 0.4)
            if r.random() < 0.12:
                f["data"] = "data"
        if not f["data"] and r.random() < 0.4:
            f["backing"] = r.choice(["raw", "qcow2", "short"])
        elif r.random() < 0.2:
            f["prealloc"] = r.randint(1, 3)
        return f

    def make_backing(self):
        kind, size = self.features["backing"], self.features["size"]
        if kind == "short":
            size = max(SECTOR, size // 2 - size // 2 % SECTOR)
        base = os.path.join(self.folder, "base")
        content = self.rng.randbytes(size)
        with open(base + ".raw", "wb") as f:
            f.write(content)
        if kind == "qcow2":
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", base + ".raw", base)
            os.unlink(base + ".raw")
        else:
            os.rename(base + ".raw", base)
        return content + bytes(self.features["size"] - size)

    def create(self):
        f = self.features
        content = self.make_backing() if f["backing"] else bytes(f["size"])
        form = "qcow2" if f["backing"] == "qcow2" else "raw"
        if f["data"]:
            open(os.path.join(self.folder, "data"), "wb").close()
        if self.rng.random() < 0.5:
            keys = [f"{k}={f[k]}" for k in ("version", "cluster", "refcount", "zstd", "lazy", "extended",
                                           "prealloc")]
            # QEMU takes a relative name as relative to where it was started.
            keys += [f"data={self.folder}/data"] if f["data"] else []
            keys += ["backing=base", "format=" + form] if f["backing"] else []
            run(self.ops, "create", self.image, f["size"], *keys)
        else:
            options = f"cluster_size={f['cluster']},compat={'1.1' if f['version'] == 3 else '0.10'}"
            options += ",preallocation=" + ["off", "metadata", "falloc", "full"][f["prealloc"]]
            if f["version"] == 3:
                options += f",refcount_bits={f['refcount']},lazy_refcounts={'on' if f['lazy'] else 'off'}"
                options += f",compression_type={'zstd' if f['zstd'] else 'zlib'}"
                options += f",extended_l2={'on' if f['extended'] else 'off'}"
            if f["data"]:
                options += f",data_file={self.folder}/data"
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
            command += ["-b", "base", "-F", form] if f["backing"] else []
            run(*command, self.image, f["size"])
        with open(self.model, "wb") as out:
            out.write(content)

    def ours(self):
        flags = [x for x in ("pool", "compress", "kill", "blocks") if self.rng.random() < 0.25]
        flags += ["direct"] if self.direct else []
        if self.features["data"] and "compress" in flags:
            flags.remove("compress")
        # Tiny clusters take a table's update each: fewer requests in the same time.
        count = 40 if self.features["cluster"] >= 4096 else 15
        run(self.ops, "run", self.image, self.model, self.rng.getrandbits(60), count, *flags)

    def theirs(self):
        run("qemu-io", "-f", "qcow2", *by_qemu_io(self.rng, self.model), self.image)

    def snapshot(self):
        if self.features["data"] or self.features["refcount"] < 4:
            return
        us = self.rng.random() < 0.6
        kind = self.rng.choice(["create", "create", "apply", "delete"])
        if kind != "create" and not self.snapshots:
            kind = "create"
        if kind == "create" and len(self.snapshots) >= 3:
            kind = "delete"
        name = f"s{self.rng.getrandbits(30)}" if kind == "create" else self.rng.choice(list(self.snapshots))
        sides = [(self.ops, "snapshot", kind, self.image, name),
                 ("qemu-img", "snapshot", {"create": "-c", "apply": "-a", "delete": "-d"}[kind], name, self.image)]
        first, second = sides if us else sides[::-1]
        if run(*first, ok=(0, 1)).returncode:
            # Compressed clusters share a cluster, whose count may be too narrow for another snapshot: for both.
            if run(*second, ok=(0, 1)).returncode == 0:
                raise Failure(f"{' '.join(second)} succeeded where the other side refused")
            self.refused = True
            return
        if kind == "create":
            self.snapshots[name] = shutil.copy(self.model, f"{self.model}.{name}")
        elif kind == "apply":
            shutil.copy(self.snapshots[name], self.model)
        else:
            del self.snapshots[name]

    def resize(self):
        if self.snapshots or self.features["prealloc"]:
            return
        size = SECTOR * self.rng.randint(1, 8 * (1 << 20) // SECTOR)
        # QEMU does not grow an overlay of version 2: it has no clusters of zeros to hide what is below.
        theirs_can = self.features["version"] > 2 or not self.features["backing"]
        if not theirs_can or self.rng.random() < 0.5:
            run(self.ops, "resize", self.image, size)
        else:
            if size < os.path.getsize(self.model):
                # What QEMU cuts off within a cluster comes back when the disk grows again.
                size += -size % self.features["cluster"]
            run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", self.image, size)
        os.truncate(self.model, size)

    def verify(self, leaks):
        # A process that ended without closing leaves leaks; a dirty image is repaired when opened.
        lazy = self.features["lazy"]
        if leaks and lazy:
            run("qemu-img", "check", "-q", "-f", "qcow2", "-r", "all", self.image, ok=(0, 2, 3))
        theirs = run("qemu-img", "check", "-f", "qcow2", self.image, ok=(0, 3) if leaks else (0,))
        ours = run(self.ops, "check", self.image, ok=(0, 3) if leaks else (0,))
        if theirs.returncode != ours.returncode:
            raise Failure(f"check: theirs {theirs.returncode}, ours {ours.returncode}: {theirs.stdout[-300:]}")
        run("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", self.image, self.model)
        run(self.ops, "compare", self.image, self.model)
        if theirs.returncode == 3:
            run(self.ops, "repair", self.image)
            run("qemu-img", "check", "-q", "-f", "qcow2", self.image)

    def about(self):
        return f"after {self.last}: {self.features}"

    def go(self):
        self.create()
        self.verify(True)
        for _ in range(self.rng.randint(2, 4)):
            step = self.rng.choice([self.ours, self.ours, self.ours, self.theirs, self.snapshot, self.resize])
            self.last, self.refused = step.__name__, False
            step()
            self.verify(step == self.ours or self.refused)


if __name__ == "__main__":
    sys.exit(main(parser().parse_args(), Sequence))
