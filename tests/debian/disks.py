#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""disks.py - the disks of a machine as Linux' drivers find them: virtio-blk and virtio-scsi.

usage: disks.py SIKA IMAGE [OPTION of sika run]...
Beside the system's own disk the guest has a data disk of either kind, a CD-ROM drive with an ISO image, and a disk with
programs of this host (sg3-utils, fio) and the libraries that they need. What those are for is skipped where this host
has none.
"""
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time

from scratch import Failure, Guest, copy_image, report, run_command

MIB = 1 << 20
SIZE = 192 * MIB
NUMBER_SECTOR = 2000
TOOLS = ["sg_inq", "sg_vpd", "sg_readcap", "sg_luns", "sg_modes", "sg_turs", "sg_requests", "sg_start", "sg_unmap", "sg_reset",
         "sg_write_same", "sg_sync", "sg_get_config", "sg_prevent", "fio"]


def sparse(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


def tools_disk(folder):
    """An ext4 image with the programs that this host has, or None."""
    root = os.path.join(folder, "tools")
    os.makedirs(root)
    found = [p for p in map(shutil.which, TOOLS) if p]
    for path in found:
        out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for lib in re.findall(r"(/\S+)", out):
            shutil.copy(lib, root)
        shutil.copy(path, root)
    image = os.path.join(folder, "tools.img")
    sparse(image, 96 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, image], check=True)
    return image, {os.path.basename(p) for p in found}


def iso(folder):
    tool = shutil.which("xorriso")
    if not tool:
        return None, None
    root, image = os.path.join(folder, "iso"), os.path.join(folder, "cd.iso")
    os.makedirs(root)
    token = secrets.token_hex(16)
    with open(os.path.join(root, "token"), "w", encoding="ascii") as f:
        f.write(token)
    with open(os.path.join(root, "noise"), "wb") as f:
        f.write(os.urandom(3 * MIB))
    subprocess.run([tool, "-as", "mkisofs", "-quiet", "-R", "-V", "SIKACD", "-o", image, root], check=True)
    return image, token


class Machine:
    def __init__(self, sika, image, folder, options):
        self.sika = sika
        self.env = dict(os.environ, XDG_RUNTIME_DIR=folder)
        os.environ["XDG_RUNTIME_DIR"] = folder
        self.files = {n: os.path.join(folder, n) for n in ("blk.img", "scsi.img")}
        for path in self.files.values():
            sparse(path, SIZE)
        tools, self.tools = tools_disk(folder)
        self.iso, self.token = iso(folder)
        disks = ["--disk", f"{self.files['blk.img']},format=raw,serial=DATA-1,queues=4,iothread=fast",
                 "--disk", f"{tools},format=raw,readonly",
                 "--disk", f"{self.files['scsi.img']},format=raw,bus=scsi,serial=SDISK,iothread=second"]
        if self.iso:
            disks += ["--disk", f"{self.iso},format=raw,media=cdrom,lun=5,iothread=second"]
        disk = copy_image(image, folder)
        self.guest = Guest(run_command(sika, image, disk, "--cpus", "2", "--name", "disks", *disks, *options), echo=False)

    def run(self, command, timeout=600):
        return self.guest.run(command, timeout)

    def tool(self, command):
        """A program of the tools' disk, by its own loader."""
        name, *rest = command.split(" ", 1)
        if name not in self.tools:
            raise Skip(f"this host has no {name}")
        return self.run(f"/mnt/ld-linux-x86-64.so.2 --library-path /mnt /mnt/{name} {' '.join(rest)}")

    def resize(self, *args):
        return subprocess.run([self.sika, "resize", "disks", *args], env=self.env, capture_output=True, text=True,
                              timeout=60)


class Skip(Exception):
    pass


def expect(text, *patterns):
    for p in patterns:
        if not re.search(p, text):
            raise Failure(f"nothing like '{p}' in: {text}")


def data_agrees(m, dev):
    """What is written is read, also by another way, and is in the file."""
    m.run("dd if=/dev/urandom of=/tmp/noise bs=1M count=24 status=none")
    m.run(f"dd if=/tmp/noise of={dev} bs=1M oflag=direct status=none")
    m.run(f"dd if={dev} bs=1M count=24 iflag=direct status=none | cmp - /tmp/noise")
    m.run(f"dd if=/tmp/noise of={dev} bs=61440 seek=33 status=none && sync && echo 3 >/proc/sys/vm/drop_caches")
    m.run(f"dd if={dev} bs=61440 skip=33 status=none count=409 | cmp - /tmp/noise -n {409 * 61440}")


def allocated(path):
    return os.stat(path).st_blocks * 512


def discards(m, dev, path):
    before = allocated(path)
    m.run(f"blkdiscard {dev} && sync")
    if not (before > 20 * MIB and allocated(path) < 2 * MIB):
        raise Failure(f"blkdiscard left {allocated(path)} of {before} bytes")
    m.run(f"dd if={dev} bs=1M count=24 iflag=direct status=none | cmp -n {24 * MIB} - /dev/zero")
    m.run(f"dd if=/tmp/noise of={dev} bs=1M oflag=direct status=none")
    m.run(f"blkdiscard -z -o 1M -l 3M {dev}")
    m.run(f"dd if={dev} bs=1M skip=1 count=3 iflag=direct status=none | cmp -n {3 * MIB} - /dev/zero")
    m.run(f"dd if={dev} bs=1M skip=4 count=20 iflag=direct status=none | cmp -i 0:{4 * MIB} -n {20 * MIB} - /tmp/noise")


def grows(m, dev, name):
    size = int(m.run(f"blockdev --getsize64 {dev}"))
    r = m.resize(name, "+64M")
    if r.returncode:
        raise Failure(r.stderr)
    m.run(f"for i in $(seq 50); do [ $(blockdev --getsize64 {dev}) = {size + 64 * MIB} ] && break; sleep 0.2; done; "
          f"[ $(blockdev --getsize64 {dev}) = {size + 64 * MIB} ]")
    m.run(f"dd if=/tmp/noise of={dev} bs=1M seek={size // MIB + 8} count=8 oflag=direct status=none")
    m.run(f"dd if={dev} bs=1M skip={size // MIB + 8} count=8 iflag=direct status=none | cmp -n {8 * MIB} - /tmp/noise")
    r = m.resize(name, "1M")
    if r.returncode != 1 or "larger already" not in r.stderr:
        raise Failure(f"a smaller size: {r}")


def fio_verifies(m, dev):
    out = m.tool(f"fio --name=v --filename={dev} --rw=randwrite --bsrange=512-64k --size=64M --io_size=24M --direct=1 "
                 "--ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --group_reporting --numjobs=1")
    expect(out, r"err= 0")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(f.read()).hexdigest()


def is_served_as_it_was(m, dev, name, path):
    """A copy by NBD, while the guest overwrites all of it, is what the disk held when the export began."""
    m.run(f"for i in 0 1 2 3 4; do dd if=/tmp/noise of={dev} bs=1M seek=$((i * 30)) oflag=direct status=none; done; sync")
    then = digest(path)
    uri_socket = os.path.join(os.path.dirname(path), "served")
    copy = os.path.join(os.path.dirname(path), "copy.img")
    with subprocess.Popen([m.sika, "image", "serve", "--machine", "disks", "--socket", uri_socket, name], env=m.env,
                          stdout=subprocess.PIPE, text=True) as server:
        try:
            uri = server.stdout.readline().strip()
            expect(uri, "^nbd")
            m.guest.send(f"(while :; do for i in 0 1 2 3 4; do dd if=/dev/urandom of={dev} bs=256k count=100 seek=$((i * 120)) "
                         "oflag=direct status=none; done; done) & echo $! >/tmp/writer")
            wait_for_change(path, then)
            subprocess.run([m.sika, "image", "convert", "--format", "raw", "--to", "raw", uri, copy], check=True,
                           capture_output=True, timeout=300)
            again = subprocess.run([m.sika, "image", "serve", "--machine", "disks", "--socket", uri_socket + "2", name],
                                   env=m.env, capture_output=True, text=True, timeout=60)
            if again.returncode != 1 or "already" not in again.stderr:
                raise Failure(f"a second export: {again}")
        finally:
            server.terminate()
            m.run("kill $(cat /tmp/writer); wait $(cat /tmp/writer) 2>/dev/null; sync")
    if digest(copy) != then:
        raise Failure("the copy is not what the disk held")
    if digest(path) == then:
        raise Failure("the guest has written nothing")
    os.remove(copy)


def number_at(m, uri, copy):
    subprocess.run([m.sika, "image", "convert", "--force", "--format", "raw", "--to", "raw", uri, copy], check=True,
                   capture_output=True, timeout=300)
    with open(copy, "rb") as f:
        f.seek(NUMBER_SECTOR * 512)
        return int(f.read(512))


def moments_of_two_disks_are_one(m):
    """The guest numbers what it writes to one disk and then to the other: what is served of both is no two moments."""
    folder = os.path.dirname(m.files["blk.img"])
    place, copy = os.path.join(folder, "both"), os.path.join(folder, "copy.img")
    one = f"bs=512 count=1 seek={NUMBER_SECTOR} oflag=direct conv=fsync status=none"
    m.run("printf '%511d\\n' 0 >/tmp/zero; for d in vdb sda; do dd if=/tmp/zero of=/dev/$d " + one + "; done")
    m.guest.send("(i=0; while i=$((i+1)); do printf '%511d\\n' $i >/tmp/number; for d in vdb sda; do dd if=/tmp/number "
                 f"of=/dev/$d {one}; done; done) & echo $! >/tmp/writer")
    seen = []
    try:
        for i in range(8):
            time.sleep(0.3 + 0.1 * i)
            with subprocess.Popen([m.sika, "image", "serve", "--machine", "disks", "--socket", place, "DATA-1", "3"],
                                  env=m.env, stdout=subprocess.PIPE, text=True) as server:
                try:
                    uris = [server.stdout.readline().strip() for _ in range(2)]
                    seen.append([number_at(m, uri, copy) for uri in uris])
                    if [number_at(m, uri, copy) for uri in uris] != seen[-1]:
                        raise Failure("what is served changes")
                finally:
                    server.terminate()
    finally:
        m.run("kill $(cat /tmp/writer); wait $(cat /tmp/writer) 2>/dev/null; sync")
    os.remove(copy)
    if any(first - second not in (0, 1) for first, second in seen):
        raise Failure(f"the disks are of several moments: {seen}")
    if seen[-1][1] < len(seen) or len({second for _, second in seen}) < len(seen):
        raise Failure(f"the guest hardly writes: {seen}")
    for wrong in (("DATA-1", "DATA-1"), ("DATA-1", "99")):
        done = subprocess.run([m.sika, "image", "serve", "--machine", "disks", "--socket", place, *wrong], env=m.env,
                              capture_output=True, text=True, timeout=60)
        if done.returncode != 1 or len(done.stderr.strip().splitlines()) != 1:
            raise Failure(f"served: {done}")


def wait_for_change(path, then):
    for _ in range(300):
        if digest(path) != then:
            return
        time.sleep(0.1)
    raise Failure("the guest does not write")


# ---- virtio-blk ----

def blk_tells_who_it_is(m):
    expect(m.run("cat /sys/block/vdb/serial"), "^DATA-1$")
    expect(m.run("ls -d /sys/block/vdb/mq/* | wc -l"), "^2$")
    expect(m.run("cat /proc/interrupts"), r"req\.0", r"req\.1", r"config")
    expect(m.run("cat /sys/block/vdb/queue/write_cache"), "write back")
    threads = [open(f"/proc/{m.guest.process.pid}/task/{t}/comm", encoding="ascii").read().strip()
               for t in os.listdir(f"/proc/{m.guest.process.pid}/task")]
    if "io fast" not in threads:
        raise Failure(f"no thread of its own: {threads}")


def blk_cache_is_turned_off(m):
    m.run("echo 'write through' >/sys/block/vdb/cache_type && grep -q through /sys/block/vdb/queue/write_cache")
    m.run("dd if=/tmp/noise of=/dev/vdb bs=64k count=40 oflag=direct status=none")
    m.run("echo 'write back' >/sys/block/vdb/cache_type && grep -q back /sys/block/vdb/queue/write_cache")


# ---- virtio-scsi ----

def scsi_tells_who_it_is(m):
    expect(m.tool("sg_inq /dev/sda"), "SIKA", "DISK", r"version=0x06")
    expect(m.tool("sg_vpd -p 0 /dev/sda"), r"\[sv\]", r"\[sn\]", r"\[di\]", r"\[bl\]", r"\[bdc\]", r"\[lbpv\]")
    expect(m.tool("sg_vpd -p 0x80 /dev/sda"), "SDISK")
    expect(m.tool("sg_vpd -p 0x83 /dev/sda"), "NAA", "0x3[0-9a-f]{15}", "vendor id: SIKA")
    expect(m.tool("sg_vpd -p 0xb0 /dev/sda"), r"Maximum unmap LBA count: 4194304", r"Maximum write same length: 0x400000")
    expect(m.tool("sg_vpd -p 0xb1 /dev/sda"), "Non-rotating")
    expect(m.tool("sg_vpd -p 0xb2 /dev/sda"), r"Unmap command supported \(LBPU\): 1", "thin")
    expect(m.tool("sg_readcap -l /dev/sda"), r"lbpme=1", rf"Last LBA=(393215|{SIZE // 512 - 1})")
    expect(m.tool("sg_luns /dev/sda"), "0005000000000000" if m.iso else "0000000000000000")
    expect(m.tool("sg_modes /dev/sda"), "Caching", "Control")
    m.tool("sg_turs /dev/sda")
    m.tool("sg_requests /dev/sda")
    m.tool("sg_sync /dev/sda")
    expect(m.run("cat /sys/block/sda/queue/write_cache"), "write back")
    m.tool("sg_reset --device /dev/sda")


def scsi_cache_is_turned_off(m):
    mode = "/sys/class/scsi_disk/*:0/cache_type"
    m.run(f"echo 'write through' >$(ls {mode} | head -1) && grep -q through /sys/block/sda/queue/write_cache")
    expect(m.tool("sg_modes -p 8 -c 0 /dev/sda"), "Caching")
    m.run("dd if=/tmp/noise of=/dev/sda bs=64k count=40 oflag=direct status=none")
    m.run(f"echo 'write back' >$(ls {mode} | head -1) && grep -q back /sys/block/sda/queue/write_cache")


def scsi_unmaps_and_writes_the_same(m):
    m.run("dd if=/tmp/noise of=/dev/sda bs=1M oflag=direct status=none")
    m.tool("sg_unmap --lba=0 --num=2048 --force /dev/sda")
    m.run("printf 'sika%.0s' $(seq 128) >/tmp/block")
    m.tool("sg_write_same --in=/tmp/block --lba=4096 --num=3000 --16 /dev/sda")
    m.run("dd if=/dev/sda bs=512 skip=4096 count=3000 iflag=direct status=none | "
          "tr -d sika | wc -c | grep -qx 0")
    m.run("dd if=/dev/sda bs=512 skip=7096 count=1000 iflag=direct status=none | "
          "cmp -i 0:3633152 -n 512000 - /tmp/noise")


def cdrom_is_mounted_and_ejected(m):
    if not m.iso:
        raise Skip("this host has no xorriso")
    m.run("modprobe isofs; mkdir -p /cd && mount -o ro /dev/sr0 /cd")
    expect(m.run("cat /cd/token; echo"), m.token)
    noise = subprocess.run(["sha256sum"], stdin=open(os.path.join(os.path.dirname(m.iso), "iso", "noise"), "rb"),
                           capture_output=True, text=True, check=True).stdout.split()[0]
    expect(m.run("sha256sum /cd/noise"), noise)
    m.run("umount /cd; ! dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>/dev/null")
    expect(m.tool("sg_inq /dev/sr0"), "CD-ROM", r"RMB=1")
    expect(m.tool("sg_get_config /dev/sr0"), "CD-ROM|CD ROM")
    # udev locks the tray; then nobody ejects.
    m.run("! /mnt/ld-linux-x86-64.so.2 --library-path /mnt /mnt/sg_start --eject /dev/sr0 2>/dev/null")
    # Opening would load it again.
    m.run("echo 0 >/proc/sys/dev/cdrom/autoclose")
    m.tool("sg_prevent --allow /dev/sr0")
    m.tool("sg_start --eject /dev/sr0")
    m.run("! dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2>/dev/null")
    m.tool("sg_start --load /dev/sr0")
    m.run("mount -o ro /dev/sr0 /cd && umount /cd")


def run_all(m, say):
    m.guest.login()
    m.run("modprobe -a sd_mod sr_mod sg virtio_scsi; mount -o ro /dev/vdc /mnt; udevadm settle")
    tests = [blk_tells_who_it_is, ("blk_data_agrees", lambda: data_agrees(m, "/dev/vdb")),
             ("blk_discards", lambda: discards(m, "/dev/vdb", m.files["blk.img"])),
             blk_cache_is_turned_off,
             ("blk_fio_verifies", lambda: fio_verifies(m, "/dev/vdb")),
             ("blk_is_served_as_it_was", lambda: is_served_as_it_was(m, "/dev/vdb", "DATA-1", m.files["blk.img"])),
             ("blk_grows", lambda: grows(m, "/dev/vdb", "DATA-1")),
             scsi_tells_who_it_is, ("scsi_data_agrees", lambda: data_agrees(m, "/dev/sda")),
             ("scsi_discards", lambda: discards(m, "/dev/sda", m.files["scsi.img"])),
             scsi_cache_is_turned_off, scsi_unmaps_and_writes_the_same,
             ("scsi_fio_verifies", lambda: fio_verifies(m, "/dev/sda")),
             ("scsi_is_served_as_it_was", lambda: is_served_as_it_was(m, "/dev/sda", "3", m.files["scsi.img"])),
             moments_of_two_disks_are_one, ("scsi_grows", lambda: grows(m, "/dev/sda", "3")), cdrom_is_mounted_and_ejected]
    for test in tests:
        name, call = test if isinstance(test, tuple) else (test.__name__, lambda t=test: t(m))
        try:
            call()
            say(name, None)
        except Skip as e:
            say(name, e, skipped=True)
        except (Failure, OSError, subprocess.SubprocessError) as e:
            say(name, e)
            if m.guest.process.poll() is not None:
                return
    m.guest.power_off()


def main():
    sika, image, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    tally = [0, 0, 0]

    def say(what, why, skipped=False):
        tally[2 if skipped else 1 if why else 0] += 1
        print(f"{'skipped' if skipped else 'FAILED ' if why else 'ok     '} {what}{f': {why}' if why else ''}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        m = Machine(sika, image, folder, options)
        try:
            run_all(m, say)
        except Failure as e:
            say("the guest", e)
        finally:
            with contextlib.suppress(Exception):
                m.guest.kill()
    return report(*tally)


if __name__ == "__main__":
    sys.exit(main())
