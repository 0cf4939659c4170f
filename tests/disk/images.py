#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""images.py - `sika image` as a user has it, its results judged by qemu-img.

usage: images.py SIKA

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import udif
from cases import Skip, main
from commands import MIB, run
from servers import Serve
from sika import SIKA, image, refused


def same(a, b):
    run("qemu-img", "compare", "-q", a, b)
    image("compare", a, b)


def opens_direct(path):
    try:
        os.close(os.open(path, os.O_RDWR | os.O_DIRECT))
        return True
    except OSError:
        return False


def sparse_disk(path):
    """Data, holes, and zeros that are written out."""
    rng = random.Random(5)
    with open(path, "wb") as f:
        f.truncate(24 * MIB + 1536)
        for _ in range(30):
            f.seek(512 * rng.randrange(24 * 2048))
            f.write(rng.choice([rng.randbytes(70000), bytes(70000), b"abc" * 40000]))
        f.truncate(24 * MIB + 1536)


def converts():
    sparse_disk("raw")
    for n, options in enumerate([(), ("--compress",), ("--compress", "--compression", "zstd"),
                                 ("--cluster-size", "512"), ("--cluster-size=2M", "--subclusters"),
                                 ("--compat", "2", "--compress", "--cluster-size", "4K"),
                                 ("--refcount-bits", "1", "--lazy-refcounts"), ("--refcount-bits=64",)]):
        image("convert", *options, "raw", f"q{n}")
        run("qemu-img", "check", "-q", f"q{n}")
        image("check", f"q{n}")
        same("raw", f"q{n}")
        image("convert", "--to", "raw", f"q{n}", f"r{n}")
        run("cmp", "raw", f"r{n}")
        assert os.stat(f"r{n}").st_blocks * 512 < 20 * MIB, "zeros were written"
    for options in (["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "cluster_size=2M,extended_l2=on"]):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, "raw", "theirs")
        image("convert", "--to", "raw", "--force", "theirs", "back")
        run("cmp", "raw", "back")


def creates():
    for options in ([], ["--compat", "2"], ["--cluster-size", "512"], ["--subclusters", "--cluster-size=128K"],
                    ["--preallocate", "metadata"], ["--preallocate=falloc"], ["--preallocate=full"],
                    ["--refcount-bits", "1"], ["--data-file", "data"],
                    ["--data-file", "data", "--data-file-raw"]):
        image("create", *options, "new", "7M")
        run("qemu-img", "check", "-q", "new")
        info = json.loads(run("qemu-img", "info", "--output=json", "new").stdout)
        assert info["virtual-size"] == 7 * MIB and info["format"] == "qcow2"
        assert json.loads(image("info", "--json", "new"))["size_bytes"] == 7 * MIB
        os.unlink("new")
        if os.path.exists("data"):
            os.unlink("data")
    image("create", "--format", "raw", "plain", "3M")
    assert os.path.getsize("plain") == 3 * MIB


def chains():
    sparse_disk("base")
    image("create", "--backing", "base", "--backing-format", "raw", "top")
    run("qemu-io", "-c", "write -q -P 7 1M 300k", "-c", "write -q -z 3M 1M", "top")
    shutil.copy("base", "want")
    run("qemu-io", "-f", "raw", "-c", "write -q -P 7 1M 300k", "-c", "write -q -z 3M 1M", "want")
    same("top", "want")
    states = {(e["state"], e["depth"]) for e in json.loads(image("map", "--json", "top"))}
    assert ("data", 0) in states and ("data", 1) in states, states
    image("convert", "--format", "raw", "base", "other")
    run("qemu-io", "-c", "write -q -P 9 9M 64k", "other")
    image("rebase", "--backing", "other", "top")
    same("top", "want")
    image("rebase", "--backing", "none", "top")
    run("qemu-img", "check", "-q", "top")
    same("top", "want")
    image("create", "--backing", "other", "layer")
    ours = json.loads(image("info", "--chain", "--json", "layer"))
    theirs = json.loads(run("qemu-img", "info", "--backing-chain", "--output=json", "layer").stdout)
    assert [(i["format"], i["size_bytes"], i["backing"]) for i in ours] == \
        [(i["format"], i["virtual-size"], i.get("backing-filename")) for i in theirs], (ours, theirs)
    run("qemu-io", "-c", "write -q -P 8 5M 1M", "layer")
    image("convert", "--to", "raw", "layer", "layer.raw")
    image("commit", "layer")
    same("other", "layer.raw")
    run("qemu-img", "check", "-q", "other")


def header(path):
    """The bytes in front of the extensions, those as (type, data), and the backing file's name."""
    with open(path, "rb") as f:
        raw = f.read(65536)
    version, at, length, bits = struct.unpack_from(">IQII", raw, 4)
    raw = raw[:1 << bits]
    end = struct.unpack_from(">I", raw, 100)[0] if version == 3 else 72
    fields, found = raw[:end], []
    while struct.unpack_from(">I", raw, end)[0]:
        kind, size = struct.unpack_from(">II", raw, end)
        found.append((kind, raw[end + 8:end + 8 + size]))
        assert not any(raw[end + 8 + size:end + 8 + (size + 7) // 8 * 8]), "padding is of zeros"
        end += 8 + (size + 7) // 8 * 8
    return fields, found, raw[at:at + length] if at else b""


def put_extensions(path, *more, fields=b""):
    """As a program might that knows of them, and of more fields than there were."""
    known, found, name = header(path)
    raw = bytearray(known + fields)
    if fields:
        struct.pack_into(">I", raw, 100, len(raw))
    raw += b"".join(struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
                                       for kind, data in (*found, *more)) + bytes(8)
    struct.pack_into(">QI", raw, 8, len(raw) if name else 0, len(name))
    with open(path, "r+b") as f:
        f.write(raw + name)


def extensions():
    """Those that we do not know, and fields behind ours, are there after all that writes the header, as they are with QEMU."""
    strange = [(0x12345678, bytes(range(1, 14))), (0x0badcafe, b""), (0x12345678, b"again"), (0xfffffffe, b"x" * 24)]
    more = b""

    def stay(what, order=list):
        fields, found, _ = header(what)
        kept = [e for e in found if e in strange]
        assert order(kept) == order(strange), (what, kept)
        assert fields[112:] == more, (what, fields)
        run("qemu-img", "check", "-q", what)

    run("qemu-img", "create", "-q", "-f", "qcow2", "below", "1M")
    for n, options in enumerate(["compat=1.1", "compat=0.10", "compat=1.1,cluster_size=512", "compat=1.1,cluster_size=2M"]):
        name = f"q{n}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, "1M")
        more = b"" if n == 1 else bytes(range(200, 200 + 8 * n + 16))
        put_extensions(name, *strange, fields=more)
        stay(name)
        shutil.copy(name, "theirs")
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "below", "-F", "qcow2", "theirs")
        stay("theirs", sorted)  # QEMU turns them round
        image("rebase", "--backing", "below", name)
        stay(name)
        assert header(name)[2] == header("theirs")[2] == b"below"
        if n != 1:
            image("bitmap", "add", name, "since")
            stay(name)
            image("bench", "--write", "--count", "1", name)
            image("bitmap", "clear", name, "since")
            image("resize", name, "+1M")
            image("bitmap", "remove", name, "since")
            stay(name)
        image("snapshot", "create", name, "one")
        image("snapshot", "apply", name, "one")
        image("rebase", "--backing", "none", name)
        stay(name)
    # So much that there is room for few bytes more in the first cluster, or that what others have put behind the first
    # 4 KiB would move: that is told, and nothing is lost.
    more = b""
    for size, left in ((s, left) for s in (512, 4096, 65536) for left in (0, 16, 24, 32)):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={size}", "full", "1M")
        strange = [(0x12345678, b"y" * (size - 112 - 8 - 8 - left))]
        with open("full", "r+b") as f:
            f.write(header("full")[0] + struct.pack(">II", *(strange[0][0], len(strange[0][1]))) + strange[0][1] + bytes(8 + left))
        shutil.copy("full", "was")
        for need, verb in ((32, ("bitmap", "add", "full", "since")), (21, ("rebase", "--backing", "below", "--unsafe", "full"))):
            if left >= need and size <= 4096:
                image(*verb)
                break
            refused(*verb, words=["full", "header"])
            assert header("full") == header("was")
        stay("full")


def snapshots():
    sparse_disk("raw")
    image("convert", "raw", "q")
    image("snapshot", "create", "q", "first")
    run("qemu-io", "-c", "write -q -P 3 0 2M", "q")
    assert [s["name"] for s in json.loads(image("snapshot", "list", "--json", "q"))] == ["first"]
    assert "first" in run("qemu-img", "snapshot", "-l", "q").stdout
    image("convert", "--snapshot", "first", "--to", "raw", "q", "was")
    same("raw", "was")
    image("compare", "--snapshot", "first", "q", "was")
    image("compare", "q", "was", status=1)
    want = json.loads(run("qemu-img", "measure", "--output=json", "-l", "snapshot.name=first", "-O", "qcow2", "q").stdout)
    assert json.loads(image("measure", "--json", "--snapshot", "first", "q"))["required"] == want["required"]
    refused("convert", "--snapshot", "second", "q", "none", words=["second"])
    refused("map", "--snapshot", "first", "raw", words=["raw"])
    assert not os.path.exists("none")
    image("snapshot", "apply", "q", "first")
    same("raw", "q")
    run("qemu-img", "check", "-q", "q")
    image("snapshot", "delete", "q", "first")
    run("qemu-img", "check", "-q", "q")
    refused("snapshot", "apply", "q", "nothing", words=["nothing"])


def resizes():
    sparse_disk("raw")
    image("convert", "raw", "q")
    for size in ("+40M", "3M", "100G"):
        image("resize", "--shrink", "q", size)
        run("qemu-img", "resize", "-q", "--shrink", "-f", "raw", "raw", size)
        run("qemu-img", "check", "-q", "q")
        same("raw", "q")
    refused("resize", "q", "1M", words=["--shrink"])
    image("create", "--format", "vmdk", "v", "1G")
    refused("resize", "v", "2G", words=["vmdk", "cannot be changed"])


def repairs():
    sparse_disk("raw")
    image("convert", "raw", "q")
    with open("q", "r+b") as f:  # the first block of counts: all is free
        f.seek(2 * 65536)
        f.write(bytes(64))
    image("check", "q", status=1)
    image("check", "--repair", "q")
    run("qemu-img", "check", "-q", "q")
    same("raw", "q")


def measures():
    sparse_disk("raw")
    for options, theirs in (([], ""), (["--cluster-size", "512"], "cluster_size=512"),
                            (["--subclusters"], "extended_l2=on")):
        ours = json.loads(image("measure", "--json", *options, "raw"))
        image("convert", "--force", *options, "raw", "q")
        assert os.path.getsize("q") <= ours["required"], (ours, os.path.getsize("q"))
        command = ["qemu-img", "measure", "--output=json", "-f", "raw", "-O", "qcow2"]
        peer = json.loads(run(*command, *(["-o", theirs] if theirs else []), "raw").stdout)
        assert abs(ours["fully_allocated"] - peer["fully-allocated"]) <= 2 * MIB // 8, (ours, peer)
    want = json.loads(run("qemu-img", "measure", "--output=json", "--size", "10G", "-O", "qcow2").stdout)
    assert json.loads(image("measure", "--json", "--size", "10G"))["fully_allocated"] == want["fully-allocated"]
    refused("measure", words=["--size"])
    refused("measure", "--size", "1G", "raw", words=["--size"])


def mistakes():
    sparse_disk("raw")
    image("convert", "raw", "q")
    os.mkdir("folder")
    refused("info", "nowhere", words=["nowhere"])
    refused("create", "q", "1G", words=["q", "exists"])
    refused("create", "x", "--cluster-size", "3000", "1G", words=["power of two"])
    refused("create", "x", "--backing", "nowhere", words=["nowhere"])
    refused("convert", "raw", "folder/none/x", words=["folder/none/x"])
    refused("convert", "raw", "x", "--what", words=["--what"])
    refused("check", "raw", words=["raw"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "loop", "-F", "qcow2", "pool", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "pool", "-F", "qcow2", "loop", "1M")
    refused("compare", "loop", "raw", words=["loop"])
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", "thief", "1M")
    refused("convert", "thief", "x", words=["/etc/passwd", "outside"])
    refused("commit", "thief", words=["/etc/passwd", "outside"])
    image("create", "locked", "1M")
    with open("locked", "r+b") as f:  # LUKS, says the header
        f.seek(32)
        f.write(bytes([0, 0, 0, 2]))
    refused("convert", "locked", "x", words=["encrypted"])
    assert not [n for n in os.listdir(".") if n == "x" or ".sika-" in n], os.listdir(".")


def benches():
    sparse_disk("raw")
    shutil.copy("raw", "before")
    image("convert", "raw", "q")
    for name in ("raw", "q"):
        assert " 4 KiB" in image("bench", "--count", "5000", name)
        for options in (["--depth", "1"], ["-d", "3", "-s", "96K", "-S", "1536", "-o", "5M"], ["--random"],
                        ["--random", "--buffer-size", "1M", "--step", "512"], ["--step", "0"]):
            found = json.loads(image("bench", "--json", "-c", "300", *options, name))
            assert found["count"] == 300 and found["operation"] == "read" and found["per_second"] > 0, found
        same("before", name)
    # Each piece of 64 KiB is written once, then the first half of them again.
    for name, form in (("raw", "raw"), ("q", "qcow2")):
        pieces = (24 * MIB + 1536) // 65536
        found = json.loads(image("bench", "--json", "--format", form, "--write", "--pattern", "7", "--count", pieces,
                                 "--buffer-size", "64K", "--flush-interval", "50", name))
        assert found["flushes"] == pieces // 50, found
        image("bench", "-f", form, "-w", "--pattern=9", "-c", pieces // 2, "-s", "64K", "-d", "5", name)
        half = pieces // 2 * 65536
        run("qemu-io", "-f", form, "-r", "-c", f"read -q -P 9 0 {half}",
            "-c", f"read -q -P 7 {half} {pieces * 65536 - half}", name)
    run("qemu-img", "check", "-q", "q")
    modes = ("writeback", "writethrough", "unsafe") + (("none", "directsync") if opens_direct("raw") else ())
    for number, mode in enumerate(modes):
        image("bench", "-f", "qcow2", "--write", f"--pattern={number}", "--cache", mode, "-c", "200", "-s", "1536", "q")
        run("qemu-io", "-f", "qcow2", "-r", "-c", f"read -q -P {number} 0 300k", "q")
        image("bench", "--json", "--cache", mode, "--random", "-c", "200", "-s", "5K", "q")
        image("convert", "--cache", mode, "-T", mode, "--force", "before", "copy")
        same("before", "copy")
        image("convert", f"--cache={mode}", "--to", "raw", "--force", "--source-cache", mode, "copy", "copy.raw")
        run("cmp", "before", "copy.raw")
    refused("bench", "--cache", "sometimes", "raw", words=["--cache", "sometimes", "writeback"])
    refused("convert", "-T", "x", "raw", "x", words=["'x'", "none"])
    refused("info", "--cache", "none", "raw", words=["--cache"])
    for wrong, words in (((), ["FILE"]), (("nowhere",), ["nowhere"]), (("--count", "0", "raw"), ["--count", "'0'"]),
                         (("--depth", "x", "raw"), ["--depth", "'x'"]), (("--depth", "-1", "raw"), ["--depth"]),
                         (("--buffer-size", "1000", "raw"), ["--buffer-size", "512"]),
                         (("--buffer-size", "0", "raw"), ["--buffer-size"]), (("--step=-5", "raw"), ["--step"]),
                         (("--random", "--step=0", "raw"), ["--random", "step"]),
                         (("--offset", "24M", "--buffer-size", "64K", "raw"), ["raw", "ends"]),
                         (("--pattern", "3", "raw"), ["--write"]), (("--pattern", "256", "-w", "raw"), ["256"]),
                         (("-x", "raw"), ["-x"]), (("-c",), ["-c"])):
        refused("bench", *wrong, words=words)


# Format, what QEMU calls it, options for it.
FORMS = [("vdi", "vdi", ""), ("vdi", "vdi", "static=on"), ("vhd", "vpc", "force_size=on"),
         ("vhd", "vpc", "subformat=fixed,force_size=on"), ("vmdk", "vmdk", ""),
         ("vmdk", "vmdk", "subformat=streamOptimized"),
         ("vhdx", "vhdx", ""), ("vhdx", "vhdx", "subformat=fixed,block_size=1M")]


def forms():
    sparse_disk("raw")
    for form, theirs, options in FORMS:
        more = ["-o", options] if options else []
        image("convert", "-O", form, *more, "raw", "ours")
        run("qemu-img", "compare", "-q", "-f", theirs, "-F", "raw", "ours", "raw")
        image("compare", "--format", form, "ours", "raw")
        image("check", "--format", form, "ours")
        size = os.path.getsize("ours")
        measured = json.loads(image("measure", "--json", "--to", form, *more, "raw"))
        # Zeros that are written out count as data until they are looked at.
        assert size <= measured["required"] <= measured["fully_allocated"], (form, options, size, measured)
        assert os.stat("ours").st_blocks * 512 < 20 * MIB, "zeros were written"
        info = json.loads(image("info", "--json", "--format", form, "ours"))
        assert info["format"] == form and info["size_bytes"] == os.path.getsize("raw"), info
        image("convert", "--format", form, "--to", "raw", "ours", "back")
        run("cmp", "raw", "back")
        run("qemu-img", "convert", "-f", "raw", "-O", theirs, *more, "raw", "their")
        image("convert", "-f", form, "-O", "qcow2", "their", "q")
        run("qemu-img", "compare", "-q", "-F", "raw", "q", "raw")
        image("create", "-f", form, *more, "new", "5M")
        assert json.loads(image("map", "--json", "--format", form, "new"))[-1]["len"] <= 5 * MIB
        refused("create", "-f", form, "-o", "wrong=1", "x", "5M", words=["wrong"])
        refused("create", "-f", form, "--cluster-size", "4K", "x", "5M", words=["cluster-size"])
        refused("resize", "--format", form, "new", "+1M", words=["new"])
        for name in ("ours", "back", "their", "q", "new"):
            os.unlink(name)


def streams():
    """As VMware writes them: the directory is named in a footer, for who reads from the start."""
    sparse_disk("raw")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "raw", "s.vmdk")
    with open("s.vmdk", "rb") as f:
        content = f.read()
    content += bytes(-len(content) % 512)
    header = content[:56] + b"\xff" * 8 + content[64:512]
    marker = (1).to_bytes(8, "little") + bytes(4) + (3).to_bytes(4, "little")
    with open("footer.vmdk", "wb") as f:
        f.write(header + content[512:] + marker.ljust(512, b"\0") + content[:512] + bytes(512))
    same("raw", "footer.vmdk")
    with open("cut.vmdk", "wb") as f:
        f.write(header + content[512:])
    refused("convert", "cut.vmdk", "x", words=["cut.vmdk"])
    refused("bench", "--write", "--count", "1", "s.vmdk", words=["s.vmdk", "once"])
    run("qemu-img", "create", "-q", "-f", "vmdk", "below.vmdk", "5M")
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", "below.vmdk", "-F", "vmdk", "top.vmdk")
    image("compare", "top.vmdk", "below.vmdk")
    run("qemu-io", "-c", "write -q 0 4k", "below.vmdk")
    refused("convert", "top.vmdk", "x", words=["below.vmdk", "changed"])


def fixed_vhds():
    """A guest of a fixed one cannot make it another image by what it writes into its first sectors."""
    image("create", "-f", "vhd", "-o", "subformat=fixed", "fixed", "3M")
    image("create", "-f", "vhd", "forged", "3M")
    with open("forged", "rb") as forged, open("fixed", "r+b") as fixed:
        fixed.write(forged.read(4096))
    assert json.loads(image("info", "--json", "fixed"))["about"] == "fixed"
    with open("plain", "wb") as plain, open("fixed", "rb") as fixed:
        fixed.seek(2 * MIB)  # a raw disk that ends like one
        plain.write(bytes(2 * MIB) + fixed.read())
    assert json.loads(image("info", "--json", "plain"))["format"] == "raw"
    assert json.loads(image("info", "--json", "--format", "vhd", "plain"))["size_bytes"] == 3 * MIB


def cloops():
    """Made here, for QEMU reads them only."""
    sparse_disk("raw")
    with open("raw", "rb") as f:
        content = f.read()
    for block in (512, 65536, 1 << 20):
        count = -(-len(content) // block)
        packed = [zlib.compress(content[i * block:(i + 1) * block].ljust(block, b"\0")) for i in range(count)]
        at, table = 136 + 8 * (count + 1), b""
        for p in packed + [b""]:
            table += at.to_bytes(8, "big")
            at += len(p)
        head = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".ljust(128, b"\0")
        with open("c", "wb") as f:
            f.write(head + block.to_bytes(4, "big") + count.to_bytes(4, "big") + table + b"".join(packed))
        assert json.loads(image("info", "--json", "c"))["format"] == "cloop"
        image("compare", "c", "raw")
        image("convert", "--force", "c", "q")
        run("qemu-img", "compare", "-q", "-f", "cloop", "-F", "qcow2", "c", "q")
        image("check", "c")
    refused("create", "-f", "cloop", "x", "1M", words=["only be read"])
    refused("bench", "--write", "--count", "1", "c", words=["only be read"])
    with open("c", "r+b") as f:
        f.seek(136 + 8)
        f.write((1 << 60).to_bytes(8, "big"))
    image("convert", "c", "x", status=1)


def dmgs():
    """Made here, for nothing in Debian writes them."""
    sparse_disk("raw")
    with open("raw", "rb") as f:
        content = f.read()
    for seed in range(6):
        rng = random.Random(seed)
        # QEMU reads bzip2 by a module that is seldom installed, and wants the tables in the order of the disk.
        kinds = [udif.RAW, udif.ZLIB] + [udif.BZIP2] * (seed % 2)
        udif.build("d", content, rng, kinds, resources=seed in (2, 3), reverse=seed % 2)
        assert json.loads(image("info", "--json", "--format", "dmg", "d"))["size_bytes"] == len(content)
        image("compare", "--format", "dmg", "d", "raw")
        image("check", "--format", "dmg", "d")
        image("convert", "--force", "--format", "dmg", "d", "q")
        image("compare", "q", "raw")
        if udif.BZIP2 not in kinds:
            run("qemu-img", "compare", "-q", "-f", "dmg", "-F", "raw", "d", "raw")
    assert json.loads(image("info", "--json", "d"))["format"] == "raw", "a raw disk may end like one"
    refused("create", "-f", "dmg", "x", "1M", words=["only be read"])
    refused("bench", "--format", "dmg", "--write", "--count", "1", "d", words=["only be read"])
    with open("d", "rb") as f:
        good = f.read()
    for kind, name in ((udif.LZFSE, "LZFSE"), (77, "0x4d")):
        udif.build("d", content[:MIB], random.Random(1), [udif.RAW], resources=True)
        with open("d", "rb") as f:
            other = f.read().replace(udif.number(udif.RAW, 4) + bytes(4), udif.number(kind, 4) + bytes(4))
        with open("d", "wb") as f:
            f.write(other)
        refused("convert", "--format", "dmg", "d", "x", words=["d", name])
    with open("d", "wb") as f:  # where a compressed piece was there is something else
        f.write(bytes(len(good) // 2) + good[len(good) // 2:])
    image("convert", "--format", "dmg", "d", "x", status=1)
    refused("info", "--format", "dmg", "raw", words=["not a DMG"])


def packed_dmgs():
    """Pieces that QEMU does not know; 7-Zip judges the images."""
    rng = random.Random(8)
    words = [rng.randbytes(rng.choice([3, 9, 30, 200])) for _ in range(40)]
    content = b"".join(rng.choice([rng.choice(words), words[0] * 9, rng.randbytes(50), bytes(5000)]) for _ in range(3000))[:2 * MIB]
    content += bytes(2 * MIB - len(content))
    with open("raw", "wb") as f:
        f.write(content)
    for kinds in ([udif.ADC], [udif.LZMA], [udif.RAW, udif.ADC, udif.ZLIB, udif.BZIP2, udif.LZMA]):
        udif.build("d.dmg", content, rng, kinds)
        if shutil.which("7zz"):
            run("7zz", "x", "-bd", "-y", "-oparts", "d.dmg")
            parts = b""
            for name in sorted(os.listdir("parts")):
                with open("parts/" + name, "rb") as f:
                    parts += f.read()
            assert parts == content, "7-Zip reads something else"
            shutil.rmtree("parts")
        if udif.LZMA in kinds and "LZMA" in run(SIKA, "image", "info", "--format", "dmg", "d.dmg", status=(0, 1)).stderr:
            continue  # built without liblzma
        image("compare", "--format", "dmg", "d.dmg", "raw")
        image("check", "--format", "dmg", "d.dmg")
        # Where a piece is damaged that is told, or something else is read: bytes that are kept as they are have no sum.
        with open("d.dmg", "rb") as f:
            good = f.read()
        for _ in range(20):
            at = rng.randrange(len(good) - 8192)
            with open("bad", "wb") as f:
                f.write(good[:at] + rng.randbytes(6) + good[at + 6:])
            image("convert", "--force", "--format", "dmg", "--to", "raw", "bad", "x", status=(0, 1))


def split_vmdks():
    """Images of several files."""
    sparse_disk("raw")
    for kind, parts in (("monolithicFlat", ["ours-flat.vmdk"]), ("twoGbMaxExtentFlat", ["ours-f001.vmdk"]),
                        ("twoGbMaxExtentSparse", ["ours-s001.vmdk"])):
        image("convert", "-O", "vmdk", "-o", "subformat=" + kind, "raw", "ours.vmdk")
        assert sorted(n for n in os.listdir(".") if n != "raw") == sorted(parts + ["ours.vmdk"]), os.listdir(".")
        run("qemu-img", "compare", "-q", "-f", "vmdk", "-F", "raw", "ours.vmdk", "raw")
        image("compare", "ours.vmdk", "raw")
        assert json.loads(image("info", "--json", "ours.vmdk"))["about"].startswith(kind)
        run("qemu-io", "-f", "vmdk", "-c", "write -q -P 9 5M 100k", "ours.vmdk")
        run("qemu-io", "-f", "vmdk", "-r", "-c", "read -q -P 9 5M 100k", "ours.vmdk")
        image("bench", "-f", "vmdk", "-w", "--pattern", "7", "-c", "100", "-s", "64K", "ours.vmdk")
        run("qemu-io", "-f", "vmdk", "-r", "-c", "read -q -P 7 0 6400k", "ours.vmdk")
        refused("create", "-f", "vmdk", "-o", "subformat=" + kind, "new/x.vmdk", "1M", words=["new/x.vmdk"])
        os.unlink("ours.vmdk")
        refused("create", "-f", "vmdk", "-o", "subformat=" + kind, "ours.vmdk", "1M", words=[parts[0], "exists"])
        assert os.path.exists(parts[0]) and not os.path.exists("ours.vmdk"), "somebody else's file is gone"
        os.unlink(parts[0])
        # Four extents of 2047 MiB and the rest.
        image("create", "-f", "vmdk", "-o", "subformat=" + kind, "big.vmdk", "8G")
        info = json.loads(run("qemu-img", "info", "--output=json", "big.vmdk").stdout)
        assert info["virtual-size"] == 8 << 30, info
        run("qemu-io", "-f", "vmdk", "-c", "write -q -P 3 2146435000 8192".replace("2146435000", str(2047 * MIB - 4096)),
            "big.vmdk")
        run("qemu-io", "-f", "vmdk", "-c", "write -q -P 4 8000M 4k", "big.vmdk")
        image("convert", "big.vmdk", "q")
        run("qemu-io", "-f", "qcow2", "-r", "-c", f"read -q -P 3 {2047 * MIB - 4096} 8192", "-c", "read -q -P 4 8000M 4k", "q")
        image("check", "big.vmdk")
        for name in os.listdir("."):
            if name != "raw":
                os.unlink(name)
    limit = (MIB, MIB)
    done = subprocess.run([SIKA, "image", "convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "raw", "x.vmdk"],
                          capture_output=True, text=True, timeout=60, check=False, restore_signals=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert done.returncode == 1 and os.listdir(".") == ["raw"], (done.stderr, os.listdir("."))


def nothing_half_made():
    with open("big", "wb") as f:
        for _ in range(64):
            f.write(os.urandom(MIB))
    child = subprocess.Popen([SIKA, "image", "convert", "--compress", "big", "x"], stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    status = child.wait(timeout=60)
    names = os.listdir(".")
    assert status and "x" not in names and not [n for n in names if ".sika-" in n], (status, names)


def cut_off():
    """Somebody makes the image below smaller while it is in use: errors, and no zeros made up."""
    with open("base", "wb") as f:
        f.write(b"x" * 8 * MIB)
    image("convert", "base", "base.qcow2")
    for base, form in (("base", "raw"), ("base.qcow2", "qcow2")):
        image("create", "--force", "--backing", base, "--backing-format", form, "top")
        with Serve("top") as s:
            os.truncate(base, 4 * MIB)
            run("qemu-io", "-f", "raw", "-c", "read -q -P 120 0 1M", s.uri)
            assert "Input/output error" in run("qemu-io", "-f", "raw", "-c", "read 7M 4k", s.uri, status=1).stdout
            run("qemu-io", "-f", "raw", "-c", "write -q -P 5 7M 64k", "-c", "read -q -P 5 7M 64k", s.uri)
        run("qemu-io", "-f", "qcow2", "-r", "-U", "-c", "read -q -P 5 7M 64k", "top")
        image("check", "top")


def full_disks():
    """No room for what is made: one sentence, nothing half-made, the source as it was."""
    with open("raw", "wb") as f:
        f.write(os.urandom(8 * MIB))
    shutil.copy("raw", "before")
    image("create", "small", "8M")
    limit = (4 * MIB, 4 * MIB)
    for arguments in (("convert", "raw", "x"), ("convert", "--compress", "raw", "x"), ("convert", "-O", "raw", "raw", "x"),
                      ("convert", "-O", "vmdk", "raw", "x"), ("convert", "-O", "vhdx", "raw", "x"),
                      ("create", "-f", "raw", "--preallocate", "full", "x", "8M"),
                      ("create", "--preallocate", "falloc", "x", "8M")):
        # A limit of the size of files; SIGXFSZ stays ignored as Python has it.
        done = subprocess.run([SIKA, "image", *arguments], capture_output=True, text=True, timeout=60, check=False,
                              restore_signals=False,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 1 and len(lines) == 1 and "x" in lines[0], (arguments, done.returncode, done.stderr)
        assert sorted(os.listdir(".")) == ["before", "raw", "small"], (arguments, os.listdir("."))
    run("cmp", "raw", "before")


def full_file_systems():
    """The same where the host's disk is full, if we may mount a small one."""
    os.mkdir("disk")
    with open("raw", "wb") as f:
        f.write(os.urandom(8 * MIB))
    script = ("mount -t tmpfs -o size=4M none disk || exit 77; " + SIKA + " image convert -O \"$1\" raw disk/x 2>err; "
              "echo $? >status; ls disk >left")
    for form in ("raw", "qcow2", "vdi", "vhd", "vmdk", "vhdx"):
        done = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", form], capture_output=True, timeout=60,
                              check=False)
        if done.returncode:
            return  # no user namespaces, or no tmpfs in them
        said, status, left = (open(n).read() for n in ("err", "status", "left"))
        assert status == "1\n" and left == "" and len(said.splitlines()) == 1, (form, status, left, said)
        assert "No space left on device" in said, said


def block_devices():
    """Written over only when asked to, and never replaced by a file of their name."""
    sparse_disk("raw")
    size = os.stat("raw").st_size
    with open("below", "wb") as f:
        f.write(os.urandom(size + MIB))
    if not shutil.which("losetup"):
        raise Skip("losetup is not installed")
    done = subprocess.run(["losetup", "--find", "--show", "below"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skip("losetup: " + done.stderr.strip())
    device = done.stdout.strip()
    try:
        refused("convert", "raw", device, words=("block device", "--force"))
        refused("convert", "--force", "--to", "qcow2", "raw", device, words=(device, "qcow2"))
        image("convert", "--force", "raw", device)
        run("cmp", "-n", size, "raw", device)
        same("raw", device)
        image("resize", "raw", "+2M")
        refused("convert", "--force", "raw", device, words=(device, "too few"))
        assert not os.path.isfile(device)
    finally:
        run("losetup", "--detach", device)


CASES = [converts, block_devices, creates, chains, extensions, snapshots, resizes, repairs, measures, forms, streams, fixed_vhds, cloops, dmgs, packed_dmgs, split_vmdks, benches,
         mistakes, nothing_half_made, full_disks, full_file_systems, cut_off]

if __name__ == "__main__":
    sys.exit(main(CASES, {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils"}, "sika-images-", memory=True))
