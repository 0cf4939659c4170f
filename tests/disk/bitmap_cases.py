#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bitmap_cases.py - bitmaps of changed blocks that no tool makes: damaged, strange, left in use; and what users do wrong.

usage: bitmap_cases.py SIKA

QEMU's tools judge what becomes of them. Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import shutil
import struct
import subprocess
import sys
import time

from cases import main
from commands import MIB, run
from sika import SIKA, image, refused

CLUSTER = 65536
AUTOCLEAR = 88
IN_USE, AUTO, EXTRA_OK = 1, 2, 4


def make(*bitmaps, size="8M"):
    """With a bitmap of 64 KiB to a bit for each name, in which the first block is set."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "q", size)
    for name in bitmaps:
        run("qemu-img", "bitmap", "--add", "-g", "64k", "q", name)
    run("qemu-io", "-f", "qcow2", "-c", "write -q 0 64k", "q")


def write(at, path="q"):
    """64 KiB by us."""
    image("bench", "--write", "--count", "1", "--depth", "1", "--buffer-size", "64K", "--offset", at, path)


def bits(name, path="q", unit=CLUSTER):
    """The ranges that are set, in blocks, as QEMU serves them."""
    with subprocess.Popen(["qemu-nbd", "-r", "-f", "qcow2", "-B", name, "-k", os.path.abspath("nbd"), path]) as server:
        for _ in range(500):
            if os.path.exists("nbd") or server.poll() is not None:
                break
            time.sleep(0.01)
        try:
            found = run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "nbd+unix:///?socket=nbd").stdout
        finally:
            server.terminate()
            server.wait()
    if os.path.exists("nbd"):
        os.unlink("nbd")
    return [(x["offset"] // unit, x["length"] // unit) for x in json.loads(found) if x["type"]]


def listed(path="q"):
    return {b["name"]: b["flags"] for b in json.loads(image("bitmap", "list", "--json", path))}


class Raw:
    """The bytes of an image."""

    def __init__(self, path="q"):
        self.path = path
        with open(path, "rb") as f:
            self.bytes = bytearray(f.read())
        self.at = self.bytes.index(struct.pack(">II", 0x23852875, 24)) + 8
        self.count, _, self.size, self.directory = struct.unpack(">IIQQ", self.bytes[self.at:self.at + 24])

    def get(self, form, at):
        return struct.unpack_from(">" + form, self.bytes, at)[0]

    def put(self, form, at, value):
        struct.pack_into(">" + form, self.bytes, at, value)
        return self

    def table(self):
        return self.get("Q", self.directory)

    def save(self, path=None):
        with open(path or self.path, "wb") as f:
            f.write(self.bytes)


def damaged():
    """A sentence for who would write, the content for who reads, and repair that gives up the bitmaps and no more."""
    make("one", "two")
    raw = Raw()
    d, at = raw.directory, raw.at
    spoiled = [("I", at, 0), ("I", at, 1), ("I", at, 3), ("I", at, 0xffffffff), ("Q", at + 8, 0), ("Q", at + 8, 1 << 60), ("Q", at + 8, 56),
               ("Q", at + 16, 512), ("Q", at + 16, 0), ("Q", at + 16, 1 << 55), ("Q", at + 16, (1 << 64) - CLUSTER),
               ("Q", d, 0), ("Q", d, 512), ("Q", d, 1 << 50), ("I", d + 8, 0), ("I", d + 8, 0xffffffff), ("I", d + 8, 9000),
               ("I", d + 12, 8), ("B", d + 16, 0), ("B", d + 17, 64), ("H", d + 18, 0), ("H", d + 18, 0xffff), ("I", d + 20, 0xffffffff),
               ("I", d + 20, 64), ("B", d + 24, 0), ("I", at - 4, 16), ("I", at + 4, 1)]
    for form, where, value in spoiled:
        Raw().put(form, where, value).save("bad")
        refused("resize", "bad", "+1M", words=["bad", "bitmaps", "check --repair"])
        image("convert", "--force", "bad", "copy")
        assert "damaged" in subprocess.run([SIKA, "image", "info", "bad"], capture_output=True, text=True, check=False).stderr
        image("check", "bad", status=1)
        image("check", "--repair", "bad")
        run("qemu-img", "check", "-q", "bad")
        run("qemu-img", "compare", "-q", "q", "bad")
        write("1M", "bad")
    refused("bitmap", "add", "bad", "x" * 1024, words=["bad", "name"])
    image("bitmap", "add", "bad", "x" * 1023)
    run("qemu-img", "check", "-q", "bad")
    assert list(listed("bad")) == ["x" * 1023]


def damaged_tables():
    """A bitmap whose table leads nowhere tells that it cannot be used; the others stay."""
    make("one", "two")
    for entry in (2, 1 << 56, 1 << 40, CLUSTER + 512, CLUSTER + 1):
        raw = Raw()
        raw.put("Q", raw.table(), entry).save("bad")
        image("check", "bad", status=1)
        image("check", "--repair", "bad")
        run("qemu-img", "check", "-q", "bad")
        assert listed("bad") == {"one": ["in-use", "auto"], "two": ["auto"]}, listed("bad")
        assert bits("two", "bad") == [(0, 1)]
        image("bitmap", "remove", "bad", "one")
        run("qemu-img", "check", "-q", "bad")


def tables_of_one_place():
    """Tables may be as long as the file, but not all of them: they would be walked again and again."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "q", "8M")
    for i in range(3):
        image("bitmap", "add", "q", i)
    os.truncate("q", 9 * MIB)
    raw = Raw()
    for at in range(raw.directory, raw.directory + raw.size, 32):
        raw.put("I", at + 8, MIB)
    raw.save()
    refused("resize", "q", "+1M", words=["tables", "check --repair"])
    image("check", "--repair", "q")
    assert not listed()


def all_ones():
    """An entry without a cluster: of ones. With the last bits beyond the disk."""
    make("one", size="8M")
    raw = Raw()
    cluster = raw.get("Q", raw.table())
    raw.put("Q", raw.table(), 1).save()
    image("check", "q", status=1)  # what lay there before is lost
    image("check", "--repair", "q")
    assert cluster and bits("one") == [(0, 128)]
    write("1M")
    assert bits("one") == [(0, 128)]
    image("resize", "q", "16M")
    assert bits("one") == [(0, 128)], bits("one")
    write("12M")
    assert bits("one") == [(0, 128), (192, 1)], bits("one")
    image("bitmap", "add", "-g", "1M", "q", "two")
    image("bitmap", "merge", "q", "two", "one")
    assert bits("two") == [(0, 128), (192, 16)], bits("two")
    run("qemu-img", "check", "-q", "q")


def ones_are_made():
    """8 GiB at 512 bytes: a cluster of ones costs none. Going back to a snapshot marks everything."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "q", "64M")
    image("bitmap", "add", "-g", "512", "q", "fine")
    image("snapshot", "create", "q", "s")
    image("snapshot", "apply", "q", "s")
    raw = Raw()
    assert [raw.get("Q", raw.table() + 8 * i) for i in range(4)] == [1] * 4
    assert bits("fine") == [(0, 1024)]
    run("qemu-img", "check", "-q", "q")


def in_use():
    """Left by who did not close it: it stays so, is refused where it is needed, and can be removed."""
    make("one", "two")
    raw = Raw()
    raw.put("I", raw.directory + 12, IN_USE | AUTO).save()
    write("1M")
    assert listed() == {"one": ["in-use", "auto"], "two": ["auto"]}
    assert bits("two") == [(0, 1), (16, 1)]
    for verb in ("clear", "enable", "disable"):
        refused("bitmap", verb, "q", "one", words=["one", "removed"])
    refused("bitmap", "merge", "q", "two", "one", words=["one", "removed"])
    refused("convert", "--bitmaps", "q", "new", words=["one", "--skip-broken-bitmaps"])
    assert not os.path.exists("new")
    image("convert", "--bitmaps", "--skip-broken-bitmaps", "q", "new")
    assert listed("new") == {"two": ["auto"]}
    image("resize", "q", "9M")
    assert listed() == {"one": ["in-use", "auto"], "two": ["auto"]}
    run("qemu-img", "check", "-q", "q")
    image("bitmap", "remove", "q", "one")
    run("qemu-img", "check", "-q", "q")


def not_believed():
    """Without the header's bit: not shown, not counted; and one that is made then is alone."""
    make("one")
    Raw().put("Q", AUTOCLEAR, 0).save()
    assert not listed()
    write("1M")
    image("check", "q", status=1)
    image("check", "--repair", "q")
    image("bitmap", "add", "q", "new")
    assert listed() == {"new": ["auto"]}
    run("qemu-img", "check", "-q", "q")
    # The bit without bitmaps goes when the image is written to.
    run("qemu-img", "create", "-q", "-f", "qcow2", "r", "8M")
    with open("r", "r+b") as f:
        f.seek(AUTOCLEAR)
        f.write(bytes([0] * 7 + [1]))
    write("1M", "r")
    with open("r", "rb") as f:
        f.seek(AUTOCLEAR)
        assert f.read(8) == bytes(8)


def foreign():
    """Extra data that nobody knows is kept; the bitmap is used where it says that it may be."""
    for flags, used in ((AUTO, False), (AUTO | EXTRA_OK, True)):
        make("one")
        raw = Raw()
        d = raw.directory
        raw.bytes[d + 24:d + 40] = b"EXTRADAT" + b"one" + bytes(5)
        raw.put("I", d + 20, 8).put("I", d + 12, flags).put("Q", raw.at + 8, 40).save()
        if not used:
            refused("bitmap", "clear", "q", "one", words=["one", "removed"])
        image("check", "q")
        write("1M")
        raw = Raw()
        assert raw.bytes[raw.directory + 24:raw.directory + 35] == b"EXTRADATone"
        assert raw.get("I", raw.directory + 12) == (flags if used else flags | IN_USE)
        cluster = raw.get("Q", raw.table())
        assert raw.bytes[cluster:cluster + 3] == (bytes([1, 0, 1]) if used else bytes([1, 0, 0]))
        image("resize", "q", "64M")
        image("check", "q")
        raw = Raw()
        assert raw.bytes[raw.directory + 24:raw.directory + 35] == b"EXTRADATone"


def untouched():
    """Who opens an image for writing and writes nothing changes nothing; who reads it neither."""
    make("one")
    with open("q", "rb") as f:
        before = f.read()
    refused("bitmap", "remove", "q", "none", words=["none"])
    image("convert", "q", "copy")
    with open("q", "rb") as f:
        assert f.read() == before
    assert not listed("copy")


def large():
    """2 TiB at 512 bytes: marks in memory are coarser, and cover what was written."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "q", "2T")
    image("bitmap", "add", "-g", "512", "q", "fine")
    refused("bitmap", "add", "-g", "511", "q", "x", words=["q", "512"])
    refused("bitmap", "add", "-g", "4G", "q", "x", words=["q", "2 GiB"])
    write("1T")
    assert any(at <= MIB * MIB // CLUSTER < at + n for at, n in bits("fine"))
    run("qemu-img", "check", "-q", "q")
    run("qemu-img", "create", "-q", "-f", "qcow2", "r", "4T")
    refused("bitmap", "add", "-g", "512", "r", "x", words=["512 MiB"])
    # It would not fit any more: it stays behind, and says so.
    image("resize", "q", "4T")
    assert listed() == {"fine": ["in-use", "auto"]}
    run("qemu-img", "check", "-q", "q")


def mistakes():
    make("one")
    run("qemu-img", "create", "-q", "-f", "raw", "raw", "8M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "old", "8M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "small", "4M")
    image("bitmap", "add", "small", "one")
    refused("bitmap", "add", "q", "one", words=["one", "already"])
    refused("bitmap", "add", "old", "one", words=["version 2"])
    refused("bitmap", "add", "raw", "one", words=["raw"])
    refused("bitmap", "merge", "q", "one", "none", words=["none"])
    refused("bitmap", "merge", "--from", "small", "q", "one", "one", words=["small"])
    refused("bitmap", "merge", "--from", "raw", "q", "one", "one", words=["raw"])
    refused("bitmap", "merge", "q", "one", words=["merge"])
    refused("bitmap", "list", "q", "one", words=["list"])
    refused("bitmap", "spoil", "q", "one", words=["spoil"])
    refused("bitmap", "clear", "--granularity", "4K", "q", "one", words=["--granularity"])
    refused("convert", "--bitmaps", "--to", "raw", "q", "x", words=["--bitmaps"])
    refused("convert", "--bitmaps", "--compat", "2", "q", "x", words=["--bitmaps"])
    refused("convert", "--bitmaps", "--snapshot", "s", "q", "x", words=["--bitmaps", "snapshot"])
    refused("convert", "--skip-broken-bitmaps", "q", "x", words=["--bitmaps"])
    assert listed() == {"one": ["auto"]} and bits("one") == [(0, 1)]


def backups():
    """What has changed since a full copy, and only that, makes the copy the same again. Merging from another image too."""
    make("since")
    shutil.copy("q", "full")
    image("bitmap", "clear", "q", "since")
    write("3M")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 5M 100k", "-c", "write -q -z 0 64k", "q")
    for at, n in bits("since"):
        run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"bs={CLUSTER}", f"skip={at}", f"count={at + n}", "if=q", "of=part")
        with open("part", "rb") as f:
            content = f.read()
        with open("piece", "wb") as f:
            f.write(content[:n * CLUSTER].ljust(n * CLUSTER, b"\0"))
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -s piece {at * CLUSTER} {n * CLUSTER}", "full")
    run("qemu-img", "compare", "-q", "q", "full")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "other", "8M")
    image("bitmap", "add", "--disabled", "-g", "4K", "other", "sum")
    image("bitmap", "merge", "-b", "q", "other", "sum", "since")
    assert bits("sum", "other") == bits("since")
    run("qemu-img", "check", "-q", "other")


def measures():
    make("one", "two")
    for more in ([], ["-o", "cluster_size=512"], ["-o", "cluster_size=2M"]):
        theirs = json.loads(run("qemu-img", "measure", "--output=json", "-O", "qcow2", *more, "q").stdout)["bitmaps"]
        size = ["--cluster-size", more[1].split("=")[1]] if more else []
        assert json.loads(image("measure", "--json", *size, "q"))["bitmaps"] == theirs, (more, theirs)
    assert json.loads(image("measure", "--json", "--to", "raw", "q"))["bitmaps"] == 0


def commits_and_rebases():
    """The image below has a bitmap as well, which a commit marks; a rebase that copies marks above."""
    make("below")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "q", "-F", "qcow2", "top")
    image("bitmap", "add", "-g", "64K", "top", "above")
    write("2M", "top")
    image("rebase", "--backing", "none", "top")
    assert bits("above", "top") in ([(32, 1)], [(0, 1), (32, 1)])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "q", "-F", "qcow2", "-F", "qcow2", "over")
    write("4M", "over")
    image("commit", "over")
    assert bits("below") == [(0, 1), (64, 1)]
    for name in ("q", "top", "over"):
        run("qemu-img", "check", "-q", name)


CASES = [damaged, damaged_tables, tables_of_one_place, all_ones, ones_are_made, in_use, not_believed, foreign, untouched, large, mistakes, backups, measures,
         commits_and_rebases]

if __name__ == "__main__":
    sys.exit(main(CASES, {"qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "qemu-io": "qemu-utils", "nbdinfo": "libnbd-bin"},
                  "sika-bitmaps-", memory=True))
