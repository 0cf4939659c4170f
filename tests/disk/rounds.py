#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rounds.py - as peers.py and forms.py, by the thousand: both sides are processes that stay.

usage: rounds.py OPS FORMAT [--sequences N] [--seconds S] [--seed S] [--keep]

A sequence makes an image by one side with features picked at random and lets both sides write to it in turn, several
requests at a time: to QEMU they go by NBD, to a qemu-storage-daemon that has the image open. Who writes reads all of
it before and after; in the end the other side does, and both check it. Closing line: "P passed, F failed, S skipped".
"""
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

from commands import MIB, Failure, run
from kinds import FORMS, image
from sequences import TheirFault, main, parser


class Tool:
    """A program that takes commands by its standard input, and answers by lines. It starts when it is asked something."""

    def __init__(self, *command):
        self.command, self.process = command, None

    def greet(self):
        """What is to be done once it has started."""

    def send(self, text):
        if not self.process or self.process.poll() is not None:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, text=True, bufsize=1 << 16)
            self.greet()
        try:
            self.process.stdin.write(text + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said at its end is read

    def end(self, last=None):
        if self.process:
            if last:
                self.send(last)
            else:
                self.process.kill()
            self.process.communicate(timeout=60)
            self.process = None


class Ops(Tool):
    def do(self, *words):
        self.send(" ".join(map(str, ("ops", *words))))
        said = []
        for line in self.process.stdout:
            if line.strip().isdigit():
                if int(line):
                    raise Failure(f"ops {words}: status {line.strip()}: {''.join(said)[-600:]}")
                return
            said.append(line)
        raise Failure(f"ops {words}: ended: {''.join(said)[-600:]}")


class Qemu(Tool):
    """qemu-storage-daemon, by QMP."""

    def __init__(self, socket):
        super().__init__("qemu-storage-daemon", "--chardev", "stdio,id=q", "--monitor", "chardev=q",
                         "--nbd-server", f"addr.type=unix,addr.path={socket}")
        self.uri = f"nbd+unix:///image?socket={socket}"

    def greet(self):
        self.answer("QMP")
        self.do("qmp_capabilities")

    def answer(self, key):
        for line in self.process.stdout:
            said = json.loads(line) if line.startswith("{") else {"error": line}
            if "error" in said:
                raise Failure(f"QEMU: {said['error']}")
            if key in said:
                return said[key]
        raise Failure("QEMU: ended")

    def do(self, command, **arguments):
        self.send(json.dumps({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}))
        return self.answer("return")

    @contextlib.contextmanager
    def has(self, driver, path, **more):
        """It has the image open, as the node "image"."""
        self.do("blockdev-add", driver=driver, node_name="image", file={"driver": "file", "filename": path}, **more)
        yield
        self.do("blockdev-del", node_name="image")

    @contextlib.contextmanager
    def serves(self, driver, path, writable, **more):
        with self.has(driver, path, read_only=not writable, **more):
            self.do("block-export-add", type="nbd", id="image", node_name="image", writable=writable)
            yield self.uri
            # It is over when the client's connection is.
            self.send(json.dumps({"execute": "block-export-del", "arguments": {"id": "image", "mode": "hard"}}))
            gone, done = False, False
            while not gone or not done:
                said = json.loads(self.process.stdout.readline() or '{"error": "ended"}')
                if "error" in said:
                    raise Failure(f"QEMU: {said['error']}")
                gone |= said.get("event") == "BLOCK_EXPORT_DELETED"
                done |= "return" in said


class Sequence:
    def __init__(self, ops, qemu, form, folder, seed):
        self.rng = random.Random(seed)
        self.ops, self.qemu, self.form, self.last = ops, qemu, form, "create"
        self.image = image(form, self.rng, folder, self.our, most=self.rng.choice([MIB // 2, MIB, 3 * MIB]))
        self.image.share = 0.75  # qemu-img takes as long as a step
        # Those with narrow counts may have none at all, which peers.py goes into.
        self.snapshots = None if form != "qcow2" or self.image.features["data"] or self.image.features["refcount"] < 16 else {}

    def about(self):
        return f"{self.image}, after {self.last}"

    def our(self, *words):
        self.ops.do("-f", self.form, *words)

    def run_words(self, count):
        return self.image.model, self.rng.getrandbits(60), count

    def ours(self):
        flags = [x for x in ("pool", "compress", "blocks") if self.rng.random() < 0.25]
        if "compress" in flags and (self.form != "qcow2" or self.image.features["data"]):
            flags.remove("compress")
        self.our("run", self.image.path, *self.run_words(25), *flags)

    def is_sound(self, path):
        return run("qemu-img", "check", "-f", "qcow2", path, status=None).returncode in (0, 3)

    def theirs(self):
        """A server whose image has a cluster twice after any requests has done it itself: QEMU 7.2 rarely does, amid
        discards and writes within one cluster at a time. So it is asked, once it has ended as it should."""
        before = self.form == "qcow2" and shutil.copy(self.image.path, self.image.path + ".before")
        try:
            self.requests_of_theirs()
        except Failure as failure:
            self.qemu.end('{"execute": "quit"}')
            if before and self.is_sound(before) and not self.is_sound(self.image.path):
                raise TheirFault(f"QEMU has spoiled its image: {failure}") from None
            raise

    def requests_of_theirs(self):
        more = {"discard": self.rng.choice(["unmap", "ignore"]), "detect_zeroes": self.rng.choice(["off", "on"])}
        with self.qemu.serves(self.image.theirs, self.image.path, True, **more) as uri:
            self.ops.do("-f", "raw", "run", uri, *self.run_words(25))

    def snapshot(self):
        """One is taken, gone back to, or given up, by either side; but QEMU's daemon does not go back."""
        name = self.rng.choice(["one", "two"])
        kind = "create" if name not in self.snapshots else self.rng.choice(["apply", "delete"])
        if kind == "apply" or self.rng.random() < 0.5:
            self.our("snapshot", kind, self.image.path, name)
        else:
            command = "blockdev-snapshot-internal-sync" if kind == "create" else "blockdev-snapshot-delete-internal-sync"
            with self.qemu.has("qcow2", self.image.path):
                self.qemu.do(command, device="image", name=name)
        if kind == "create":
            self.snapshots[name] = shutil.copy(self.image.model, f"{self.image.model}.{name}")
        elif kind == "apply":
            shutil.copy(self.snapshots[name], self.image.model)
        else:
            del self.snapshots[name]

    def resize(self):
        us = self.rng.random() < 0.5
        size = self.image.new_size(4 * MIB, us)
        if self.snapshots or self.image.features["prealloc"] or size is None:
            return
        # QEMU's daemon ends by an assertion of its own where there is a data file.
        if us or self.image.features["data"]:
            self.our("resize", self.image.path, size)
        else:
            with self.qemu.has("qcow2", self.image.path):
                self.qemu.do("block_resize", node_name="image", size=size)
        os.truncate(self.image.model, size)

    def verify(self):
        """Who wrote last has read it since."""
        if self.last == "theirs":
            self.our("compare", self.image.path, self.image.model)
        else:
            with self.qemu.serves(self.image.theirs, self.image.path, False) as uri:
                self.ops.do("-f", "raw", "compare", uri, self.image.model)
        self.our("check", self.image.path)
        self.image.judge()

    def steps(self):
        """Each side's at least once."""
        steps = [self.theirs] + ([self.ours] if self.image.writable else [])
        more = steps + ([self.snapshot] if self.snapshots is not None else []) + ([self.resize] if self.form == "qcow2" else [])
        steps += self.rng.choices(more, k=3 - len(steps))
        self.rng.shuffle(steps)
        return steps

    def go(self):
        try:
            self.image.create()
            for step in self.steps():
                self.last = step.__name__
                step()
            self.verify()
        except (Failure, TheirFault):
            # The next one begins with others.
            self.ops.end()
            self.qemu.end()
            raise


def arguments():
    p = parser()
    p.add_argument("form", choices=["qcow2", *FORMS])
    return p.parse_args()


def run_all(args):
    with tempfile.TemporaryDirectory(prefix="sika-rounds-") as folder:
        ops, qemu = Ops(os.path.abspath(args.ops), "serve"), Qemu(os.path.join(folder, "nbd"))
        status = main(args, lambda _, where, seed, __: Sequence(ops, qemu, args.form, where, seed), on_disk=False)
        ops.end()
        qemu.end()
    return status


if __name__ == "__main__":
    sys.exit(run_all(arguments()))
