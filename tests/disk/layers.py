#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""layers.py - images of VDI, VHD, VHDX and VMDK on top of others, against a model, and QEMU where it reads them.

usage: layers.py SIKA

QEMU knows no parents of VDI, VHD and VHDX images. As other programs make them, blocks of VHD and VHDX may hold a
part of their sectors; such ones are made here, by taking bits away. Closing line: "P passed, F failed, S skipped".
"""
import os
import random
import shutil
import sys

from cases import main
from commands import MIB, SECTOR, run
from servers import Serve
from sika import image, refused

SIZE = 9 * MIB + 3 * SECTOR
# Ours, QEMU's name for it, options.
FORMATS = {"vdi": ("vdi", []), "vhd": ("vpc", []), "vhdx": ("vhdx", ["-o", "block_size=1M"]), "vmdk": ("vmdk", [])}


def change(form, path, model, rng, count=25):
    """Random writes by a client of ours, to the image and to the model."""
    commands = []
    with open(model, "r+b") as f:
        for _ in range(count):
            length = SECTOR * rng.choice([1, 3, 64, 300, 2500])
            at = SECTOR * rng.randrange((SIZE - length) // SECTOR)
            byte, zeros = rng.randrange(1, 256), rng.random() < 0.3
            commands += ["-c", f"write -q {'-z' if zeros else f'-P {byte}'} {at} {length}"]
            f.seek(at)
            f.write(bytes([0 if zeros else byte]) * length)
    with Serve("--format", form, path) as s:
        run("qemu-io", "-f", "raw", *commands, s.uri)


def same(form, path, model):
    image("compare", "--format", form, path, model)
    image("check", "--format", form, path)


def make_base(form, rng, name):
    """A model and an image of the same content."""
    with open(name + ".raw", "wb") as f:
        for _ in range(20):
            f.seek(SECTOR * rng.randrange(SIZE // SECTOR - 600))
            f.write(rng.randbytes(SECTOR * rng.randrange(1, 600)))
        f.truncate(SIZE)
    image("convert", "-O", form, *FORMATS[form][1], name + ".raw", f"{name}.{form}")


def put_on(form, base, top):
    image("create", "-f", form, *FORMATS[form][1], "--backing", f"{base}.{form}", f"{top}.{form}")
    shutil.copy(base + ".raw", top + ".raw")
    same(form, f"{top}.{form}", top + ".raw")


def forget(chosen, top, base, at, length):
    """Those sectors of the block at @at are the lower image's again; their bits, the first byte's highest first."""
    bits = 0
    with open(top + ".raw", "r+b") as model, open(base + ".raw", "rb") as below:
        for i in range(length // SECTOR):
            bits = bits << 1 | (i not in chosen)
            if i in chosen and at + i * SECTOR < SIZE:
                below.seek(at + i * SECTOR)
                model.seek(at + i * SECTOR)
                model.write(below.read(SECTOR))
    return bits.to_bytes(length // SECTOR // 8, "big")


def pick(rng, count):
    return {i for start in range(0, count, 16) if rng.random() < 0.4 for i in range(start, start + rng.randrange(1, 17))}


def thin_vhd(rng, top, base):
    with open(top + ".vhd", "r+b") as f:
        f.seek(512 + 28)
        count, block = (int.from_bytes(f.read(4), "big") for _ in range(2))
        for i in range(count):
            f.seek(1536 + i * 4)
            sector = int.from_bytes(f.read(4), "big")
            if sector == 0xffffffff or rng.random() < 0.3:
                continue
            f.seek(sector * SECTOR)
            f.write(forget(pick(rng, block // SECTOR), top, base, i * block, block))
            # What lies there is nothing.
            f.seek(sector * SECTOR + 512)


def thin_vhdx(rng, top, base):
    with open(top + ".vhdx", "r+b") as f:
        f.seek(0x30000)
        regions = f.read(4096)
        at = regions.index(bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"))
        table = int.from_bytes(regions[at + 16:at + 24], "little")
        bitmap = -(-f.seek(0, os.SEEK_END) // MIB) * MIB
        f.truncate(bitmap + MIB)
        for i in range(SIZE // MIB + 1):
            f.seek(table + i * 8)
            entry = int.from_bytes(f.read(8), "little")
            if entry & 7 != 6 or rng.random() < 0.3:
                continue
            bits = forget(pick(rng, MIB // SECTOR), top, base, i * MIB, MIB)
            f.seek(bitmap + i * MIB // SECTOR // 8)
            f.write(bytes(int(f"{b:08b}"[::-1], 2) for b in bits))
            f.seek(table + i * 8)
            f.write((entry & ~7 | 7).to_bytes(8, "little"))
        f.seek(table + 4096 * 8)  # behind a chunk of blocks of 1 MiB
        f.write((bitmap | 6).to_bytes(8, "little"))


def stack(form, seed):
    rng = random.Random(seed)
    make_base(form, rng, "base")
    put_on(form, "base", "middle")
    change(form, f"middle.{form}", "middle.raw", rng)
    same(form, f"middle.{form}", "middle.raw")
    thin = {"vhd": thin_vhd, "vhdx": thin_vhdx}.get(form)
    if thin:
        thin(rng, "middle", "base")
        same(form, f"middle.{form}", "middle.raw")
        before = os.path.getsize(f"middle.{form}")
        change(form, f"middle.{form}", "middle.raw", rng, 12)
        same(form, f"middle.{form}", "middle.raw")
        assert os.path.getsize(f"middle.{form}") <= before + 9 * (2 * MIB + 512), "blocks that had a place got another one"
    put_on(form, "middle", "top")
    change(form, f"top.{form}", "top.raw", rng)
    for name in ("base", "middle", "top"):
        same(form, f"{name}.{form}", name + ".raw")
    if form == "vmdk":
        run("qemu-img", "compare", "-q", "-f", "vmdk", "-F", "raw", "top.vmdk", "top.raw")
        run("qemu-img", "check", "-q", "-f", "vmdk", "top.vmdk")
    image("convert", "--format", form, "--to", "qcow2", f"top.{form}", "flat")
    image("compare", "flat", "top.raw")
    for name in os.listdir("."):
        os.unlink(name)


def vdis():
    for seed in range(2):
        stack("vdi", seed)


def vhds():
    for seed in range(2):
        stack("vhd", seed)


def vhdxs():
    for seed in range(2):
        stack("vhdx", seed)


def vmdks():
    for seed in range(2):
        stack("vmdk", seed)


def parents_are_checked():
    rng = random.Random(1)
    for form, word in (("vdi", "changed"), ("vhdx", "changed"), ("vmdk", "changed"), ("vhd", "not the one")):
        make_base(form, rng, "base")
        put_on(form, "base", "top")
        if form == "vhd":  # its UUID stays the same when it is written to
            make_base(form, rng, "other")
            os.rename("other.vhd", "base.vhd")
        else:
            change(form, f"base.{form}", "base.raw", rng, 1)
        if form != "vhd" and form != "vdi":
            refused("convert", "--format", form, f"top.{form}", "x", words=[f"base.{form}", word])
        else:
            refused("convert", "--format", form, f"top.{form}", "x", words=["base", word])
        os.unlink(f"base.{form}")
        refused("convert", "--format", form, f"top.{form}", "x", words=[f"top.{form}"])
        assert form in image("info", "--format", form, f"top.{form}")


def mistakes():
    rng = random.Random(2)
    make_base("vdi", rng, "base")
    make_base("vhd", rng, "base")
    refused("create", "-f", "vhd", "--backing", "base.vdi", "x.vhd", words=["base.vdi", "VHD"])
    refused("create", "-f", "vhd", "-o", "subformat=fixed", "--backing", "base.vhd", "x.vhd", words=["fixed"])
    refused("create", "-f", "vdi", "-o", "static=on", "--backing", "base.vdi", "x.vdi", words=["static"])
    refused("create", "-f", "cloop", "--backing", "base.vdi", "x", words=["read"])
    refused("create", "-f", "vhdx", "--backing", "nowhere.vhdx", "x.vhdx", words=["nowhere.vhdx"])
    os.mkdir("elsewhere")
    shutil.move("base.vhd", "elsewhere/base.vhd")
    image("create", "-f", "vhd", "--backing", "elsewhere/base.vhd", "top.vhd")
    same("vhd", "top.vhd", "base.raw")
    os.mkdir("deep")
    os.symlink("../elsewhere/base.vhd", "deep/base.vhd")
    shutil.copy("top.vhd", "deep/top.vhd")
    refused("convert", "deep/top.vhd", "x", words=["elsewhere/base.vhd"])
    assert not [n for n in os.listdir(".") if n.startswith("x") or ".sika-" in n], os.listdir(".")


if __name__ == "__main__":
    sys.exit(main([vdis, vhds, vhdxs, vmdks, parents_are_checked, mistakes],
                  {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils"}, "sika-layers-", memory=True))
