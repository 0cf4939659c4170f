# SPDX-License-Identifier: Apache-2.0
"""real.py - real programs in a Debian guest of each kind, and in the same Debian on the host itself (chroot)."""
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

PACKAGES = "gcc,libc6-dev,python3,sqlite3,openssl,xz-utils,bzip2,nodejs"
REAL = os.path.join(os.path.dirname(IMAGE), "real.img")
SCRIPT = os.path.join(ROOT, "bench", "real.sh")
LIMIT = 1800  # seconds


def build_image():
    if not os.path.exists(REAL):
        subprocess.run([SIKA, "image", "build", "debian", "--include", PACKAGES, REAL], check=True)
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


def parse(text):
    return {name: float(t) for name, t in re.findall(r"B (\S+) ([0-9.]+)", text)}


def on_host(root):
    r = subprocess.run(["unshare", "--mount", "sh", "-c", 'mount --rbind /dev "$0/dev" && '
                        'mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" && '
                        'exec chroot "$0" sh /real.sh', root],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT)
    if r.returncode:
        sys.exit(f"bench: real.sh on the host: {r.stdout[-300:]}{r.stderr[-300:]}")
    return parse(r.stdout)


def in_guest(who, tmp):
    disk, second = os.path.join(tmp, "disk.img"), os.path.join(tmp, "script.tar")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", REAL, disk], check=True)
    with tarfile.open(second, "w") as tar:
        tar.add(SCRIPT, "real.sh")
    guest = Guest(linux(who, 1, "2G", REAL + ".initrd", "root=/dev/vda rw console=ttyS0 quiet",
                        [disk, second]), echo=False)
    try:
        guest.login()
        # /tmp of the host is a tmpfs too.
        return parse(guest.run("mount -t tmpfs tmpfs /tmp; tar -xf /dev/vdb -C /root; "
                               "sh /root/real.sh 2>&1", LIMIT))
    except Failure as e:
        sys.exit(f"bench: real.sh under {who}: {e}; {guest.seen[-300:]}")
    finally:
        guest.kill()


def measure(runs, progress):
    if os.geteuid():
        print("bench: real programs skipped: they want root, for a chroot", file=sys.stderr)
        return []
    build_image()
    times = {"native": {}, "bt": {}, "tcg": {}}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(IMAGE)) as tmp:
        root = os.path.join(tmp, "root")
        os.mkdir(root)
        progress("real: unpacking")
        unpack_host_root(root)
        for i in range(runs):
            for who, found in times.items():
                progress(f"real {i + 1} of {runs}, {who}")
                for name, t in (on_host(root) if who == "native" else in_guest(who, tmp)).items():
                    found.setdefault(name, []).append(t)
    return [report.Row(name, "s", times["bt"][name], times["tcg"][name], native)
            for name, native in times["native"].items()
            if name in times["bt"] and name in times["tcg"]]
