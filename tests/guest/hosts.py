#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hosts.py - engine bt on hosts with other processors than this one.

usage: hosts.py BUILD KERNEL [CPU...]

What the translator emits, and what a program of the guest executes as it is, depends on the host's processor. QEMU
emulates two others: one with AVX2, on which all is translated but nothing has AVX-512, and one without AVX, on which all
is interpreted. On a Linux there (KERNEL) tiny guests run under our monitor, and the same Linux once more, up to a
program of its own. QEMU's own mistakes are not ours, so these are the guests that meet none. Closing line: "P passed, F failed, S skipped".
"""
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

CPUS = ["Haswell-noTSX", "Nehalem"]
GUESTS = ["user", "smc", "modes", "strings", "fpu", "flow", "syscall"]
SECONDS = 600

# In the guest's guest: busybox computes as it is, from its first instruction on (user-wait).
INNER = """#!/bin/busybox sh
/bin/busybox seq 1 2000 | /bin/busybox sha256sum
/bin/busybox poweroff -f
"""
SUM = hashlib.sha256(b"".join(b"%d\n" % n for n in range(1, 2001))).hexdigest()

INIT = """#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs dev /dev
$bb mkdir -p /dev/shm
$bb mount -t tmpfs shm /dev/shm
export HOME=/tmp XDG_RUNTIME_DIR=/tmp
for g in GUESTS; do
	echo "BEGIN $g"
	/bin/sika run --engine bt --memory 64M --net none --debug-exit --kernel /$g.elf
	echo "END $g $?"
done
echo "BEGIN linux"
/bin/sika run --engine bt,off=user-wait --memory 256M --net none --no-reboot --kernel /kernel --initrd /inner \\
	--append "console=ttyS0 quiet panic=-1"
echo "END linux $?"
$bb poweroff -f
"""


def libraries(program):
    """Files that it is loaded with."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", said)


def copy_in(root, path, to=None):
    target = os.path.join(root, (to or path).lstrip("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(path, target)


def pack(root, init, packed):
    """An initial RAM disk of what is in the folder, and busybox."""
    for name in ("dev", "proc", "tmp"):
        os.makedirs(os.path.join(root, name))
    copy_in(root, "/bin/busybox")
    path = os.path.join(root, "init")
    with open(path, "w", encoding="ascii") as f:
        f.write(init)
    os.chmod(path, 0o755)
    with open(packed, "wb") as f:
        names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=f, check=True)


def archive(build, kernel, folder):
    root, packed = os.path.join(folder, "root"), os.path.join(folder, "initrd")
    pack(os.path.join(folder, "inner"), INNER, os.path.join(folder, "inner.cpio"))
    copy_in(root, os.path.join(folder, "inner.cpio"), "inner")
    copy_in(root, kernel, "kernel")
    for program in ("src/cli/sika", "src/vmm/sika-vmm"):
        path = os.path.join(build, program)
        copy_in(root, path, "bin/" + os.path.basename(program))
        for library in libraries(path):
            copy_in(root, library)
    for guest in GUESTS:
        copy_in(root, os.path.join(build, "tests/guest", guest + ".elf"), guest + ".elf")
    pack(root, INIT.replace("GUESTS", " ".join(GUESTS)), packed)
    return packed


def start(kernel, initrd, cpu):
    return subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-cpu", cpu, "-m", "1G", "-nodefaults", "-display", "none", "-serial",
         "stdio", "-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def said(machine):
    try:
        out = machine.communicate(timeout=SECONDS)[0]
    except subprocess.TimeoutExpired:
        machine.kill()
        out = machine.communicate()[0]
    return out.decode(errors="replace").replace("\r", "")


def judge(cpu, guest, out):
    """What is wrong, or None."""
    part = re.search(rf"^BEGIN {guest}$(.*?)^END {guest} (\d+)$", out, re.M | re.S)
    if not part:
        return f"no end: {out[-300:]!r}"
    if guest == "linux" and SUM in part[1]:
        print(f"ok      {cpu}: a Linux guest")
        return None
    # The debug exit's value is twice what the guest gave, and one.
    counts = re.search(r"(\d+) checks, (\d+) failed", part[1])
    if part[2] != "1" or not counts or counts[2] != "0":
        return f"status {part[2]}: {part[1][-300:]!r}"
    print(f"ok      {cpu}: guest {guest}: {counts[0]}")
    return None


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    build, kernel, cpus = sys.argv[1], sys.argv[2], sys.argv[3:] or CPUS
    missing = [p for p in ("qemu-system-x86_64", "cpio", "ldd") if not shutil.which(p)]
    missing += [p for p in ("/bin/busybox", kernel) if not os.path.exists(p)]
    if missing:
        print(f"skipped: there is no {missing[0]}\n0 passed, 0 failed, 1 skipped")
        return 77
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        initrd = archive(build, kernel, folder)
        machines = [(cpu, start(kernel, initrd, cpu)) for cpu in cpus]
        for cpu, machine in machines:
            out = said(machine)
            for guest in GUESTS + ["linux"]:
                wrong = judge(cpu, guest, out)
                failed += wrong is not None
                passed += wrong is None
                if wrong:
                    print(f"FAILED  {cpu}: guest {guest}: {wrong}")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


sys.exit(main())
