# SPDX-License-Identifier: Apache-2.0
"""scratch.py - a Debian guest on a throw-away copy of the image, for the tests of this folder."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))

from guest_console import Failure, Guest, memory_beyond_guest  # noqa: E402,F401 (handed on)


def copy_image(image, directory):
    """A sparse copy: the tests write into it, and the image stays as it was built."""
    disk = os.path.join(directory, "disk.img")
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, disk], check=True)
    return disk


def run_command(sika, image, disk, *options):
    return [sika, "run", "--kernel", image + ".vmlinuz", "--initrd", image + ".initrd", "--disk",
            disk, "--append", "console=ttyS0 root=/dev/vda quiet", *options]


def report(passed, failed, skipped=0):
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0
