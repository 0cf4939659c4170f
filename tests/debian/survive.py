#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""survive.py - what the guest has synced is there after SIGKILL, SIGTERM, SIGINT and a full host disk.

usage: survive.py SIKA IMAGE [OPTION of sika run]...
The guest syncs a file and keeps writing another; the machine is ended from outside; after a journal
replay of the image (e2fsck) debugfs reads the file back. The full disk is a small tmpfs in a mount
namespace of this test's own.
"""
import os
import secrets
import signal
import subprocess
import sys
import tempfile

from scratch import Failure, Guest, copy_image, report, run_command

NAMESPACE = "SIKA_SURVIVE_NAMESPACE"


def read_back(disk, path):
    """A file out of the image. e2fsck's 0 and 1 mean clean and mended; more means damage."""
    fsck = subprocess.run(["e2fsck", "-p", disk], capture_output=True, text=True)
    if fsck.returncode > 1:
        raise Failure(f"e2fsck -p: status {fsck.returncode}: {fsck.stdout}{fsck.stderr}")
    return subprocess.run(["debugfs", "-R", f"cat {path}", disk], capture_output=True,
                          text=True).stdout


def synced_then_busy(guest, token):
    guest.login()
    guest.run(f"echo {token} >/root/synced && sync")
    guest.send("while :; do dd if=/dev/zero of=/root/busy bs=1M count=64 conv=fsync 2>/dev/null; done")


def ended_by(sig, command, disk):
    token = secrets.token_hex(8)
    guest = Guest(command, echo=False)
    try:
        synced_then_busy(guest, token)
        try:
            guest.expect("never printed", "", timeout=3)
        except Failure:
            pass
        guest.process.send_signal(sig)
        status = guest.process.wait(60)
    finally:
        guest.kill()
    if token not in read_back(disk, "/root/synced"):
        raise Failure("the synced file is gone")
    return status


def full_disk(command, disk):
    """The file system that holds the image has room for some 40 MiB more than it takes."""
    token = secrets.token_hex(8)
    guest = Guest(command, echo=False)
    try:
        guest.login()
        guest.run(f"echo {token} >/root/synced && sync")
        guest.send("dd if=/dev/urandom of=/root/big bs=1M count=400 conv=fsync; echo di''d")
        guest.expect("did", "an answer from dd on a full host disk", timeout=300)
        guest.process.send_signal(signal.SIGTERM)
        guest.process.wait(60)
    finally:
        guest.kill()
    # Read from a copy: mending needs room.
    with tempfile.TemporaryDirectory() as tmp:
        if token not in read_back(copy_image(disk, tmp), "/root/synced"):
            raise Failure("the synced file is gone")


def in_small_tmpfs(sika, image, options):
    """Runs below `unshare -m`."""
    used = os.stat(image).st_blocks * 512
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + (40 << 20)}", "none", tmp],
                       check=True)
        disk = copy_image(image, tmp)
        try:
            full_disk(run_command(sika, image, disk, *options), disk)
        finally:
            subprocess.run(["umount", "-l", tmp], check=True)


def main():
    sika, image, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    if os.environ.get(NAMESPACE):
        try:
            in_small_tmpfs(sika, image, options)
            return 0
        except (Failure, OSError, subprocess.SubprocessError) as e:
            print(e)
            return 1
    tally = [0, 0, 0]

    def say(what, why):
        tally[1 if why else 0] += 1
        print(f"FAILED  {what}: {why}" if why else f"ok      {what}", flush=True)

    for sig in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with tempfile.TemporaryDirectory() as tmp:
            why = None
            try:
                disk = copy_image(image, tmp)
                ended_by(sig, run_command(sika, image, disk, *options), disk)
            except (Failure, OSError, subprocess.SubprocessError) as e:
                why = e
            say(f"synced data survives {sig.name}", why)
    if os.geteuid() == 0:
        r = subprocess.run(["unshare", "-m", "--propagation", "unchanged", sys.executable,
                            *sys.argv], text=True, capture_output=True,
                           env={**os.environ, NAMESPACE: "1"})
        say("synced data survives a full host disk", r.stdout + r.stderr if r.returncode else None)
    else:
        tally[2] += 1
        print("skipped a full host disk: mounting a small tmpfs needs root")
    return report(*tally)


if __name__ == "__main__":
    sys.exit(main())
