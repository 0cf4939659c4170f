# SPDX-License-Identifier: Apache-2.0
"""disks.py - disk images beside qemu-img, and beside fio on the bare file.

Three things: requests of one size on an image (`bench`), images made of others (`convert`), and a long
chain opened. All files lie in one folder (SIKA_BENCH_DIR, else the working directory) and fit the host's
memory, so that the programs are compared and not the disk below. qemu-img knows no random order: a long
odd step takes its place, for all three.
"""
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import report
from machines import IMAGE, SIKA, linux

MIB = 1 << 20
SIZE = 512 * MIB
SMALL, LARGE = 4096, MIB
STEP = 9973 * SMALL  # a prime number of blocks: all are reached before one is again
COUNT = {SMALL: 50000, LARGE: 1000}
CHAIN = 50


def run(*command):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600)
    if r.returncode:
        sys.exit(f"bench: {' '.join(map(str, command))}: {r.stderr}")
    return r.stdout


# ---- requests ----

def ours(path, form, size, depth, write):
    step = STEP if size == SMALL else size
    out = run(SIKA, "image", "bench", "--json", "--format", form, "-c", COUNT[size], "-s", size, "-S", step, "-d",
              depth, *(["--write"] if write else []), path)
    return json.loads(out)["seconds"] / COUNT[size] * 1e6


def theirs(path, form, size, depth, write):
    step = STEP if size == SMALL else size
    out = run("qemu-img", "bench", "-f", form, "-c", COUNT[size], "-s", size, "-S", step, "-d", depth,
              *(["-w"] if write else []), path)
    return float(re.search(r"in ([0-9.]+) seconds", out)[1]) / COUNT[size] * 1e6


def fio(path, size, depth, write):
    # A thread and not a process, which would have a session and so a share of the processor of its own.
    kind = ("rand" if size == SMALL else "") + ("write" if write else "read")
    out = run("fio", "--name=x", "--thread", f"--filename={path}", f"--rw={kind}", "--ioengine=io_uring",
              f"--bs={size}", f"--iodepth={depth}", f"--io_size={size * COUNT[size]}", f"--size={SIZE}",
              "--invalidate=0", "--norandommap", "--output-format=json")
    job = json.loads(out[out.index("{"):])["jobs"][0]["write" if write else "read"]
    return job["runtime"] * 1e3 / COUNT[size]


def requests(runs, folder, progress):
    rows = []
    paths = {"raw": os.path.join(folder, "raw"), "qcow2": os.path.join(folder, "qcow2")}
    with open(paths["raw"], "wb") as f:
        for _ in range(SIZE // MIB):
            f.write(os.urandom(MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", paths["raw"], paths["qcow2"])
    has_fio = shutil.which("fio") is not None
    for form, path in paths.items():
        for write in (False, True):
            for size in (SMALL, LARGE):
                for depth in (1, 32):
                    what = f"{form}, {'4 KiB random' if size == SMALL else '1 MiB in order'}, " \
                           f"{'write' if write else 'read'}, depth {depth}"
                    a, b, c = [], [], []
                    for i in range(runs):
                        progress(f"{what}: {i + 1} of {runs}")
                        a.append(ours(path, form, size, depth, write))
                        b.append(theirs(path, form, size, depth, write))
                        if has_fio and form == "raw":
                            c.append(fio(path, size, depth, write))
                    rows.append(report.Row(what, "us", a, b, c))
    return rows


# ---- convert ----

def make_disk(path):
    """A gibibyte like a system's: this host's programs, bytes at random, and holes."""
    rng, size = random.Random(1), 1024 * MIB
    programs = b"".join(open(p, "rb").read() for p in sorted(
        e.path for e in os.scandir("/usr/bin") if e.is_file() and not e.is_symlink())[:400])
    with open(path, "wb") as f:
        at = 0
        while at < size:
            n = min(rng.randrange(1, 64) * 65536, size - at)
            kind = rng.random()
            f.seek(at)
            if kind < 0.5:
                start = rng.randrange(0, max(1, len(programs) - n))
                f.write(programs[start:start + n])
            elif kind < 0.65:
                f.write(rng.randbytes(n))
            at += n
        f.truncate(size)


def seconds(out, *command):
    if os.path.exists(out):
        os.unlink(out)
    os.sync()  # nobody pays for what was written before
    t = time.perf_counter()
    run(*command)
    return time.perf_counter() - t


def conversions(runs, folder, progress):
    raw, qcow2, packed, out, big = (os.path.join(folder, n) for n in ("disk", "disk.q", "disk.z", "out", "big"))
    make_disk(raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", raw, packed)
    with open(big, "wb") as f:
        f.truncate(1 << 40)
        f.seek(300 << 30)
        f.write(os.urandom(64 * MIB))
    cases = {
        "raw to qcow2": (["raw", "qcow2"], [], [], raw),
        "qcow2 to raw": (["qcow2", "raw"], [], [], qcow2),
        "raw to qcow2, zstd": (["raw", "qcow2"], ["--compress", "--compression", "zstd"],
                               ["-c", "-o", "compression_type=zstd"], raw),
        "qcow2 of zstd to raw": (["qcow2", "raw"], [], [], packed),
        "64 MiB in 1 TiB, raw to qcow2": (["raw", "qcow2"], [], [], big),
    }
    rows = []
    for name, ((source, target), mine, his, path) in cases.items():
        for mode in ("writeback", "unsafe"):
            a, b = [], []
            what = f"{name}, {'durable' if mode == 'writeback' else 'unsafe'}"
            for i in range(runs):
                progress(f"{what}: {i + 1} of {runs}")
                a.append(seconds(out, SIKA, "image", "convert", "--format", source, "--to", target, "--cache", mode,
                                 *mine, path, out))
                if i == 0:
                    run("qemu-img", "compare", "-q", "-f", source, "-F", target, path, out)
                b.append(seconds(out, "qemu-img", "convert", "-f", source, "-O", target, "-t", mode, *his, path, out))
            rows.append(report.Row(what, "s", a, b))
    return rows


# ---- a chain ----

def usage(*command):
    """Milliseconds from exec to exit, and MiB resident at most, 0 where nobody tells (a child of Python's own
    has Python's peak from before its exec)."""
    peak = os.path.join(os.path.dirname(command[-1]), "peak")
    t = time.perf_counter()
    run(*command)
    t = time.perf_counter() - t
    if not shutil.which("time"):
        return t * 1e3, 0
    run("time", "-f", "%M", "-o", peak, *command)
    with open(peak, encoding="ascii") as f:
        return t * 1e3, int(f.read()) / 1024


def chain(runs, folder, progress):
    path = [os.path.join(folder, f"chain{i}") for i in range(CHAIN + 1)]
    run("qemu-img", "create", "-q", "-f", "qcow2", path[0], "1T")
    for below, image in zip(path, path[1:]):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", image)
    a, b = [], []
    for i in range(runs * 3):
        progress(f"chain: {i + 1} of {runs * 3}")
        a.append(usage(SIKA, "image", "bench", "--count", "1", "--depth", "1", path[-1]))
        b.append(usage("qemu-img", "bench", "-f", "qcow2", "-c", "1", "-d", "1", path[-1]))
    return [report.Row(f"first byte through {CHAIN} backing files of 1 TiB", "ms", [x[0] for x in a],
                       [x[0] for x in b]),
            report.Row("resident then", "MiB", [x[1] for x in a], [x[1] for x in b])]


# ---- a guest ----

GUEST_INIT = """#!/bin/sh
bb() { /bin/busybox "$@"; }
bb mount -t devtmpfs dev /dev
bb mount -t proc proc /proc
bb mount -t sysfs sys /sys
bb mkdir /dev/shm
bb mount -t tmpfs shm /dev/shm
while read -r m; do bb insmod "$m"; done </modules/order
n=0
while [ ! -b /dev/vdb ] && [ $n -lt 100 ]; do bb sleep 0.1; n=$((n + 1)); done
bb mount -o ro /dev/vdb /root
for rw in randread randwrite; do
echo "F $rw $(/root/ld-linux-x86-64.so.2 --library-path /root /root/fio --name=x --thread --filename=/dev/vda --rw=$rw \
--ioengine=libaio --direct=1 --bs=4k --iodepth=32 --time_based --ramp_time=2 --runtime=8 --output-format=terse)" >/dev/console
done
bb poweroff -f
"""


def guest_initrd(folder):
    """The image's own, with another init."""
    root, path = os.path.join(folder, "initrd.root"), os.path.join(folder, "initrd")
    os.makedirs(root)
    packed = open(IMAGE + ".initrd", "rb")
    with packed, subprocess.Popen(["gzip", "-dc"], stdin=packed, stdout=subprocess.PIPE) as unzip:
        subprocess.run(["cpio", "-id", "--quiet"], cwd=root, stdin=unzip.stdout, check=True)
    with open(os.path.join(root, "init"), "w", encoding="ascii") as f:
        f.write(GUEST_INIT)
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with open(path, "wb") as f:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, stdout=f, check=True, input=names)
    return path


def guest_tools(folder):
    """fio of this host with its libraries, in an ext4 image."""
    root, path, fio_path = os.path.join(folder, "fio.root"), os.path.join(folder, "fio.img"), shutil.which("fio")
    os.makedirs(root)
    for lib in [fio_path, *re.findall(r"(/\S+)", run("ldd", fio_path))]:
        shutil.copy(lib, root)
    with open(path, "wb") as f:
        f.truncate(192 * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, path)
    return path


def guest(runs, folder, progress):
    """4 KiB requests at depth 32 by fio in a guest, in microseconds each."""
    if not shutil.which("fio") or not os.path.exists(IMAGE + ".initrd"):
        return []
    initrd, tools, data = guest_initrd(folder), guest_tools(folder), os.path.join(folder, "raw")
    with open(data, "wb") as f:
        for _ in range(SIZE // MIB):
            f.write(os.urandom(MIB))
    found = {(who, rw): [] for who in ("bt", "tcg") for rw in ("randread", "randwrite")}
    for i in range(runs):
        for who in ("bt", "tcg"):
            progress(f"fio in a guest: {i + 1} of {runs}, {who}")
            r = subprocess.run(linux(who, 1, "512M", initrd, "console=ttyS0 quiet", disks=(data, tools)),
                               stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=False)
            # Terse output: operations a second of reads are field 8, of writes field 49.
            for rw, line in re.findall(r"F (rand\w+) (.*)", r.stdout.decode(errors="replace")):
                ops = float(line.split(";")[7 if rw == "randread" else 48])
                found[who, rw].append(1e6 / ops)
    return [report.Row(f"in the guest, 4 KiB random, {rw[4:]}, depth 32", "us", found["bt", rw], found["tcg", rw])
            for rw in ("randread", "randwrite")]


def measure(runs, progress):
    if not shutil.which("qemu-img"):
        sys.exit("bench: disks: qemu-img is not installed (qemu-utils)")
    with tempfile.TemporaryDirectory(dir=os.environ.get("SIKA_BENCH_DIR", ".")) as folder:
        rows = chain(runs, folder, progress)
        rows += requests(runs, folder, progress)
        rows += guest(runs, folder, progress)
        return rows + conversions(runs, folder, progress)
