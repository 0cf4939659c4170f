#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench.py - Sika beside QEMU on this machine: start-up, boot to login, resident memory.

Runs alternate between the two, medians are printed; absolute times of a shared machine mean
little, ratios of one run more. Usage: bench.py [--runs N] [--json F] [start] [boot] [programs] [programs]
"""
import argparse
import json
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))

from guest_console import memory_beyond_guest  # noqa: E402

SIKA = os.environ.get("SIKA", os.path.join(ROOT, "build", "src", "cli", "sika"))
IMAGE = os.environ.get("SIKA_IMAGE", os.path.join(ROOT, "out", "debian.img"))
PROGRAMS = os.path.join(ROOT, "build", "bench", "programs")
FIRST = os.path.join(ROOT, "build", "bench", "first.elf")
QEMU = shutil.which("qemu-system-x86_64")
APPEND = "root=/dev/vda rw console=ttyS0 quiet"


def kvm_opens():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
        return True
    except OSError:
        return False


def sika_first(engine):
    return [SIKA, "run", "--engine", engine, "--memory", "512M", "--net", "none", "--serial",
            "none", "--debug-exit", "--kernel", FIRST]


def qemu_first(accel):
    return [QEMU, "-M", "microvm", "-accel", accel, "-m", "512", "-nodefaults", "-nographic",
            "-no-reboot", "-kernel", FIRST, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]


def wall(cmd):
    """Seconds from exec to the end of a guest whose first instruction ends it (status 33)."""
    t = time.perf_counter()
    r = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, timeout=60)
    t = time.perf_counter() - t
    if r.returncode != 33:
        sys.exit(f"bench: {' '.join(cmd)}: status {r.returncode}: {r.stderr.decode()}")
    return t


def bench_start(runs):
    rows = []
    pairs = [("bt / TCG", sika_first("bt"), qemu_first("tcg"))]
    if kvm_opens():
        pairs.append(("kvm / KVM", sika_first("kvm"), qemu_first("kvm")))
    for name, ours, theirs in pairs:
        a, b = [], []
        wall(ours), wall(theirs)
        for _ in range(max(runs, 5) * 3):
            a.append(wall(ours))
            b.append(wall(theirs))
        rows.append(row("exec to first instruction, " + name, "ms", 1e3, a, b))
    return rows


def row(name, unit, factor, ours, theirs):
    a = statistics.median(ours) * factor
    b = statistics.median(theirs) * factor
    return {"what": name, "unit": unit, "sika": round(a, 2), "qemu": round(b, 2),
            "ratio": round(a / b, 3), "runs": len(ours)}


def boot_cmd(who, disk):
    kernel, initrd = IMAGE + ".vmlinuz", IMAGE + ".initrd"
    if who == "qemu":
        return [QEMU, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024",
                "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
                "-initrd", initrd, "-append", APPEND,
                "-drive", f"file={disk},format=raw,if=virtio",
                "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]
    return [SIKA, "run", "--engine", who, "--memory", "1G", "--no-reboot", "--kernel", kernel,
            "--initrd", initrd, "--append", APPEND, "--disk", disk]


def boot(who, limit=600):
    """Boot a scratch copy of the image; seconds until `login:`, and KiB beyond guest RAM then."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(IMAGE)) as tmp:
        disk = os.path.join(tmp, "disk.img")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", IMAGE, disk], check=True)
        t = time.perf_counter()
        p = subprocess.Popen(boot_cmd(who, disk), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        seen, kib = b"", 0
        try:
            while b"login:" not in seen:
                left = limit - (time.perf_counter() - t)
                if left < 0 or not select.select([p.stdout], [], [], left)[0]:
                    sys.exit(f"bench: {who}: no login within {limit} s: {seen[-400:]!r}")
                chunk = os.read(p.stdout.fileno(), 4096)
                if not chunk:
                    sys.exit(f"bench: {who}: ended before login: {seen[-400:]!r}")
                seen += chunk
            t = time.perf_counter() - t
            kib = memory_beyond_guest(p.pid)
        finally:
            p.kill()
            p.wait()
        return t, kib


def bench_boot(runs):
    ours, theirs, kib = [], [], []
    for _ in range(runs):
        t, k = boot("bt")
        ours.append(t)
        kib.append(k)
        theirs.append(boot("qemu")[0])
    return [row("boot to login, bt / TCG", "s", 1, ours, theirs),
            {"what": "resident beyond guest RAM at login, bt", "unit": "MiB",
             "sika": round(statistics.median(kib) / 1024, 1), "runs": runs}]


def programs_initrd(directory):
    """programs.c as the only file of an initial RAM disk, with the console it writes to."""
    os.makedirs(os.path.join(directory, "dev"))
    shutil.copy(PROGRAMS, os.path.join(directory, "init"))
    with open(os.path.join(directory, "..", "initrd"), "wb") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=directory, stdout=f, check=True,
                       input=b"init\ndev\n")
    return f.name


def programs_cmd(who, initrd):
    kernel = IMAGE + ".vmlinuz"
    if who == "native":
        return [PROGRAMS]
    if who == "qemu":
        return [QEMU, "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512",
                "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", kernel,
                "-initrd", initrd, "-append", "console=ttyS0 quiet"]
    return [SIKA, "run", "--engine", who, "--memory", "512M", "--net", "none", "--no-reboot",
            "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet"]


def bench_programs(runs):
    """Medians, in milliseconds; native beside both."""
    times = {who: {} for who in ("native", "bt", "qemu")}
    with tempfile.TemporaryDirectory() as tmp:
        initrd = programs_initrd(os.path.join(tmp, "root"))
        for _ in range(runs):
            for who, found in times.items():
                r = subprocess.run(programs_cmd(who, initrd), stdin=subprocess.DEVNULL,
                                   capture_output=True, timeout=900)
                for name, t in re.findall(r"B (\S+) ([0-9.]+)", r.stdout.decode(errors="replace")):
                    found.setdefault(name, []).append(float(t))
    rows = []
    for name, native in times["native"].items():
        if name not in times["bt"] or name not in times["qemu"]:
            sys.exit(f"bench: {name} did not run to its end in a guest")
        r = row(name, "ms", 1e3, times["bt"][name], times["qemu"][name])
        r["native"] = round(statistics.median(native) * 1e3, 2)
        r["against_native"] = round(r["sika"] / r["native"], 2)
        rows.append(r)
    return rows


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--json")
    ap.add_argument("what", nargs="*", help="start, boot, programs; default all")
    args = ap.parse_args()
    if not QEMU:
        sys.exit("bench: qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)")
    rows = []
    for what in args.what or ["start", "boot", "programs"]:
        rows += {"start": bench_start, "boot": bench_boot, "programs": bench_programs}[what](args.runs)
    for r in rows:
        qemu = f"{r['qemu']:>10} {r['ratio']:>8}" if "qemu" in r else " " * 19
        native = f", {r['against_native']} of native" if "native" in r else ""
        print(f"{r['what']:<44} {r['unit']:>4} {r['sika']:>10} {qemu}  (median of {r['runs']}{native})")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
