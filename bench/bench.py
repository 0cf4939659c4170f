#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bench.py - Sika beside the newest QEMU that Debian offers, and beside the host itself.

Runs of the three alternate and medians are compared: absolute times of a shared machine mean little, ratios
of one run more. What is measured:

  start     from exec to the guest's first instruction
  boot      Debian with systemd to its login, and what is resident beyond the guest's RAM then
  kernel    system calls, faults, interrupts and system instructions, one by one (kernel.c)
  programs  classes of work (programs/), one vCPU
  threads   the same work by one thread and by two, two vCPUs
  disks     images beside qemu-img, and beside fio on the bare file (disks.py)
  real      gcc, python3, sqlite3, openssl, xz, node, java, luajit in a Debian with them (real.py)
"""
import argparse
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

import report
from machines import APPEND, IMAGE, PROGRAMS, ROOT, first, kernel, kvm_opens, linux, qemu_version

sys.path.insert(0, os.path.join(ROOT, "tools"))

from guest_console import memory_beyond_guest  # noqa: E402


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


# ---- start ----

def wall(command):
    """Milliseconds from exec to the end of a guest whose first instruction ends it (status 33)."""
    t = time.perf_counter()
    r = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, timeout=60)
    t = time.perf_counter() - t
    if r.returncode != 33:
        sys.exit(f"bench: {' '.join(command)}: status {r.returncode}: {r.stderr.decode()}")
    return t * 1e3


def bench_start(runs):
    rows = []
    pairs = [("bt", "tcg")]
    if kvm_opens():
        pairs.append(("kvm", "qemu-kvm"))
    for ours, theirs in pairs:
        a, b = [], []
        wall(first(ours)), wall(first(theirs))
        for i in range(runs * 3):
            progress(f"start, {ours}: {i + 1} of {runs * 3}")
            a.append(wall(first(ours)))
            b.append(wall(first(theirs)))
        rows.append(report.Row(f"exec to first instruction, {ours}", "ms", a, b))
    return rows


# ---- boot ----

def boot(who, limit=600):
    """Boot a scratch copy of the image: seconds until `login:`, and MiB beyond the guest's RAM then."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(IMAGE)) as tmp:
        disk = os.path.join(tmp, "disk.img")
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", IMAGE, disk], check=True)
        command = linux(who, 1, "1G", IMAGE + ".initrd", APPEND, [disk], net=True)
        t = time.perf_counter()
        p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
        seen = b""
        try:
            while b"login:" not in seen:
                left = limit - (time.perf_counter() - t)
                if left < 0 or not select.select([p.stdout], [], [], left)[0]:
                    sys.exit(f"bench: {who}: no login within {limit} s: {seen[-400:]!r}")
                chunk = os.read(p.stdout.fileno(), 4096)
                if not chunk:
                    sys.exit(f"bench: {who}: ended before login: {seen[-400:]!r}")
                seen += chunk
            return time.perf_counter() - t, memory_beyond_guest(p.pid) / 1024
        finally:
            p.kill()
            p.wait()


def bench_boot(runs):
    took = {"bt": [], "tcg": []}
    for i in range(runs):
        for who, found in took.items():
            progress(f"boot {i + 1} of {runs}, {who}")
            found.append(boot(who))
    times, sizes = ({who: [f[k] for f in found] for who, found in took.items()} for k in (0, 1))
    return [report.Row("boot to login", "s", times["bt"], times["tcg"]),
            report.Row("resident beyond guest RAM at login", "MiB", sizes["bt"], sizes["tcg"])]


# ---- what kernels do ----

def bench_kernel(runs):
    times = {"bt": {}, "tcg": {}}
    for i in range(runs):
        for who, found in times.items():
            progress(f"kernel {i + 1} of {runs}, {who}")
            r = subprocess.run(kernel(who), stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
            for name, t in re.findall(r"K (\S+) ([0-9.]+)", r.stdout.decode(errors="replace")):
                found.setdefault(name, []).append(float(t))
    # What a machine does not offer it does not time.
    return [report.Row(name, "ns", ours, times["tcg"].get(name, ())) for name, ours in times["bt"].items()]


# ---- programs and threads ----

def programs_initrd(directory):
    """The programs as the only file of an initial RAM disk, with the folders they want."""
    root = os.path.join(directory, "root")
    for d in ("dev", "proc"):
        os.makedirs(os.path.join(root, d))
    shutil.copy(PROGRAMS, os.path.join(root, "init"))
    path = os.path.join(directory, "initrd")
    with open(path, "wb") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, stdout=f, check=True,
                       input=b"init\ndev\nproc\n")
    return path


def run_programs(runs, cpus, words):
    """Milliseconds by who and class."""
    times = {"native": {}, "bt": {}, "tcg": {}}
    with tempfile.TemporaryDirectory() as tmp:
        initrd = programs_initrd(tmp)
        for i in range(runs):
            for who, found in times.items():
                progress(f"{'programs' if cpus == 1 else 'threads'} {i + 1} of {runs}, {who}")
                command = [PROGRAMS, *words] if who == "native" else linux(
                    who, cpus, "512M", initrd, "console=ttyS0 quiet -- " + " ".join(words))
                r = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                                   timeout=1800)
                for name, t in re.findall(r"B (\S+) ([0-9.]+)", r.stdout.decode(errors="replace")):
                    found.setdefault(name, []).append(float(t) * 1e3)
    for name in times["native"]:
        for who in ("bt", "tcg"):
            if len(times[who].get(name, [])) != runs:
                sys.exit(f"bench: {name} did not run to its end under {who}")
    return times


def bench_programs(runs):
    times = run_programs(runs, 1, ["compute", "memory", "vector", "system"])
    # A class that cannot run somewhere takes no time there.
    return [report.Row(name, "ms", times["bt"][name], times["tcg"][name], native)
            for name, native in times["native"].items()
            if min(min(times[who][name]) for who in times) > 0.1]


def bench_threads(runs):
    words = ["pipe-across", "threads"]
    times = run_programs(runs, 2, words)
    rows = [report.Row("pipe-across", "ms", *(times[w]["pipe-across"] for w in ("bt", "tcg", "native")))]
    for kind in ("independent", "locked"):
        scale = [[s / t for s, t in zip(times[w][kind + "-serial"], times[w][kind + "-two"])]
                 for w in ("bt", "tcg", "native")]
        rows.append(report.Row(f"{kind} threads, two against one", "x", *scale))
    return rows


def bench_real(runs):
    import real  # it wants root and an image of its own
    return real.measure(runs, progress)


def bench_disks(runs):
    import disks  # fio and qemu-img, which the others do not need
    return disks.measure(runs, progress)


BENCHES = {"start": bench_start, "boot": bench_boot, "kernel": bench_kernel, "programs": bench_programs,
           "threads": bench_threads, "real": bench_real, "disks": bench_disks}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--json", metavar="FILE")
    ap.add_argument("--markdown", metavar="FILE")
    ap.add_argument("--svg", metavar="FILE")
    ap.add_argument("what", nargs="*", help=", ".join(BENCHES) + "; default all")
    args = ap.parse_args()
    unknown = [w for w in args.what if w not in BENCHES]
    if unknown:
        ap.error(f"unknown: {unknown[0]}; known are {', '.join(BENCHES)}")
    rows = []
    for what in args.what or BENCHES:
        rows += BENCHES[what](args.runs)
    progress("")
    if args.what == ["disks"]:
        print(subprocess.run(["qemu-img", "--version"], capture_output=True, text=True).stdout.splitlines()[0])
    else:
        print(f"QEMU {qemu_version()}")
    print(report.text(rows))
    if args.json:
        report.save_json(rows, args.json)
    for path, make in ((args.markdown, report.markdown), (args.svg, report.svg)):
        if path:
            with open(path, "w", encoding="utf-8") as f:
                f.write(make(rows))


if __name__ == "__main__":
    main()
