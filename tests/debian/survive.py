#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""survive.py - what the guest has synced is there after SIGKILL, SIGTERM, SIGINT and a full host disk, which only pauses it.

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
import time

from scratch import Failure, Guest, copy_image, report, run_command

NAMESPACE = "SIKA_SURVIVE_NAMESPACE"
FULL_MIB = 120


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


def status_of(sika, guest):
    return subprocess.run([sika, "status", str(guest.process.pid)], capture_output=True, text=True, check=True).stdout


def wait_for_status(sika, guest, wanted, seconds):
    end = time.monotonic() + seconds
    while not status_of(sika, guest).startswith(wanted):
        if time.monotonic() > end:
            raise Failure(f"not {wanted} but {status_of(sika, guest)}")
        time.sleep(0.2)


def paused_and_on(sika, guest, folder, used, resume):
    """The guest writes until its host's disk is full, stands still, and when there is room it goes on as if nothing was."""
    guest.send(f"dd if=/dev/urandom of=/root/big bs=1M count={FULL_MIB} conv=fsync && sha256sum /root/big >/root/sum; echo di''d $?")
    wait_for_status(sika, guest, "paused", 300)
    if "No space left" not in status_of(sika, guest):
        raise Failure(f"no reason: {status_of(sika, guest)}")
    before = os.times().elapsed, open(f"/proc/{guest.process.pid}/stat", encoding="ascii").read().split()[13]
    time.sleep(3)
    used_ticks = int(open(f"/proc/{guest.process.pid}/stat", encoding="ascii").read().split()[13]) - int(before[1])
    if used_ticks > 60:
        raise Failure(f"paused, it used {used_ticks} ticks in 3 s")
    subprocess.run(["mount", "-o", f"remount,size={used + (3 * FULL_MIB << 20)}", folder], check=True)
    if resume:
        subprocess.run([sika, "resume", str(guest.process.pid)], check=False)
    wait_for_status(sika, guest, "running", 60)
    if guest.expect(r"did (\d+)", "an answer from dd", timeout=300)[1] != "0":
        raise Failure("the guest saw an error")
    guest.run("echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /root/sum && ! dmesg | grep -i 'I/O error'")


def full_disk(sika, command, disk, folder, used, resume):
    """The file system that holds the image has room for some 40 MiB more than it takes."""
    token = secrets.token_hex(8)
    guest = Guest(command, echo=False)
    try:
        guest.login()
        guest.run(f"echo {token} >/root/synced && sync")
        paused_and_on(sika, guest, folder, used, resume)
        guest.process.send_signal(signal.SIGTERM)
        guest.process.wait(60)
    finally:
        guest.kill()
    if command[command.index("--disk") + 1] != disk:
        return # of another format
    # Read from a copy: mending needs room.
    with tempfile.TemporaryDirectory() as tmp:
        if token not in read_back(copy_image(disk, tmp), "/root/synced"):
            raise Failure("the synced file is gone")


def in_small_tmpfs(sika, image, form, options):
    """Runs below `unshare -m`."""
    used = os.stat(image).st_blocks * 512
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used + (40 << 20)}", "none", tmp],
                       check=True)
        try:
            disk = os.path.join(tmp, "disk")
            if form == "qcow2":
                subprocess.run([sika, "image", "convert", "--to", "qcow2", image, disk], check=True, capture_output=True)
            else:
                disk = copy_image(image, tmp)
            command = run_command(sika, image, f"{disk},format={form}", *options)
            if form == "raw":
                command = run_command(sika, image, disk, *options)
            full_disk(sika, command, disk, tmp, used, form == "raw")
        finally:
            subprocess.run(["umount", "-l", tmp], check=True)


def main():
    sika, image, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    if os.environ.get(NAMESPACE):
        try:
            in_small_tmpfs(sika, image, os.environ[NAMESPACE], options)
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
        for form in ("raw", "qcow2"):
            r = subprocess.run(["unshare", "-m", "--propagation", "unchanged", sys.executable,
                                *sys.argv], text=True, capture_output=True,
                               env={**os.environ, NAMESPACE: form})
            say(f"a full host disk pauses it: {form}", r.stdout + r.stderr if r.returncode else None)
    else:
        tally[2] += 1
        print("skipped a full host disk: mounting a small tmpfs needs root")
    return report(*tally)


if __name__ == "__main__":
    sys.exit(main())
