# SPDX-License-Identifier: Apache-2.0
"""real.py - real programs in a Debian guest of each kind, and in the same Debian on the host itself (chroot).

The two guests are up at once, and idle while it is another's turn: each program runs on the host, under bt
and under TCG, one after the other, and a machine's bad moment meets all three. What a program made must be
the same everywhere.
"""
import os
import re
import subprocess
import sys
import tarfile
import tempfile

import report
from machines import IMAGE, ROOT, SIKA, linux

sys.path.insert(0, os.path.join(ROOT, "tools"))

from guest_console import Failure, Guest  # noqa: E402

PACKAGES = "gcc,libc6-dev,python3,sqlite3,openssl,xz-utils,bzip2,nodejs,luajit,openjdk-17-jdk-headless"
REAL = os.environ.get("SIKA_REAL_IMAGE", os.path.join(os.path.dirname(IMAGE), "real.img"))
SCRIPT = os.path.join(ROOT, "bench", "real.sh")
BOOT_LIMIT, LIMIT = 900, 900  # seconds
HOST_SCRIPT = "/real.sh"
# In a mount namespace of its own; /tmp is a tmpfs in the guests too.
ON_HOST = ('mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" && '
           'exec chroot "$0" taskset 1 bash')  # one CPU, as the guests have


def build_image():
    if not os.path.exists(REAL):
        subprocess.run([SIKA, "image", "build", "debian", "--size", "8G", "--include", PACKAGES, REAL],
                       check=True)
    for suffix in ("vmlinuz", "initrd"):
        if not os.path.exists(f"{REAL}.{suffix}"):
            sys.exit(f"bench: {REAL}.{suffix} is missing: remove {REAL} and begin again")


def unpack_host_root(directory):
    """The image's files as a root for chroot: the host then runs the very same programs."""
    subprocess.run(["debugfs", "-R", f"rdump / {directory}", REAL], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for name in ("dev", "proc", "tmp"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    with open(SCRIPT, "rb") as f, open(os.path.join(directory, "real.sh"), "wb") as g:
        g.write(f.read())


def start_host(tmp):
    root = os.path.join(tmp, "root")
    os.mkdir(root)
    unpack_host_root(root)
    return Guest(["unshare", "--mount", "sh", "-c", ON_HOST, root], echo=False), HOST_SCRIPT


def start_guest(who, tmp):
    disk, second = os.path.join(tmp, who + ".img"), os.path.join(tmp, who + ".tar")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", REAL, disk], check=True)
    with tarfile.open(second, "w") as tar:
        tar.add(SCRIPT, "real.sh")
    guest = Guest(linux(who, 1, "2G", REAL + ".initrd", "root=/dev/vda rw console=ttyS0 quiet",
                        [disk, second], kernel=REAL + ".vmlinuz"), echo=False)
    try:
        guest.login()
        guest.run("mount -t tmpfs tmpfs /tmp; tar -xf /dev/vdb -C /root", BOOT_LIMIT)
    except Failure:
        guest.kill()
        raise
    return guest, "/root/real.sh"


def scheduled(pid):
    """Seconds that the threads of a process and of its children ran (Documentation/scheduler/sched-stats.rst):
    user code of a guest may run in a process of its own."""
    ran = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                ran += int(f.read().split()[0]) / 1e9
            with open(f"/proc/{pid}/task/{task}/children") as f:
                ran += sum(scheduled(child) for child in f.read().split())
        except FileNotFoundError:
            pass  # a worker that has gone
    return ran


def ended(pid):
    """Seconds that the children of a process ran which it has waited for."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def once(where, name):
    """Seconds, and a digest of what was made. With SIKA_BENCH_CPU=1 they are of CPU time, the machine's
    own: what is left to compare where others use the host too."""
    guest, script = where
    used = ended if script == HOST_SCRIPT else scheduled
    before = used(guest.process.pid)
    out = guest.run(f"sh {script} /tmp/real {name} 2>&1", LIMIT)
    m = re.search(rf"B {name} (\d+) (\w+)\.", out)
    if not m:
        raise Failure(f"{name}: {out[-300:]}")
    took = used(guest.process.pid) - before if os.environ.get("SIKA_BENCH_CPU") else int(m[1]) / 1e6
    return took, m[2]


def rounds(places, names, runs, progress):
    """Times by place and name. The first round warms caches, also of translations, and is not counted."""
    times = {who: {} for who in places}
    for i in range(runs + 1):
        for name in names:
            made = {}
            for who, where in places.items():
                progress(f"real {i} of {runs}, {name}, {who}")
                t, made[who] = once(where, name)
                if i:
                    times[who].setdefault(name, []).append(t)
            if len(set(made.values())) != 1:
                raise Failure(f"{name} made something else somewhere: {made}")
        if i:
            print(f"\nreal, after {i} of {runs} rounds\n{report.text(rows_of(times))}", file=sys.stderr,
                  flush=True)
    return times


def rows_of(times):
    return [report.Row(name, "s", times["bt"][name], times["tcg"][name], native)
            for name, native in times["native"].items()]


def measure(runs, progress):
    if os.geteuid():
        print("bench: real programs skipped: they want root, for a chroot", file=sys.stderr)
        return []
    build_image()
    places = {}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(REAL))) as tmp:
        try:
            progress("real: unpacking")
            places["native"] = start_host(tmp)
            for who in ("bt", "tcg"):
                progress(f"real: booting {who}")
                places[who] = start_guest(who, tmp)
            for guest, script in places.values():
                out = guest.run(f"sh {script} /tmp/real prepare 2>&1", LIMIT)
            names = re.search(r"P (.*)\.", out)[1].split()
            return rows_of(rounds(places, names, runs, progress))
        except Failure as e:
            sys.exit(f"bench: real programs: {e}")
        finally:
            for guest, _ in places.values():
                guest.kill()
