# SPDX-License-Identifier: Apache-2.0
"""machines.py - the command lines that bench.py compares: ours, QEMU's, and the host itself."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIKA = os.environ.get("SIKA", os.path.join(ROOT, "build", "src", "cli", "sika"))
IMAGE = os.environ.get("SIKA_IMAGE", os.path.join(ROOT, "out", "debian.img"))
PROGRAMS = os.path.join(ROOT, "build", "bench", "programs")
FIRST = os.path.join(ROOT, "build", "bench", "first.elf")
KERNEL = os.path.join(ROOT, "build", "bench", "kernel.elf")
APPEND = "root=/dev/vda rw console=ttyS0 quiet"

_qemu = []


def qemu():
    """The command of the newest QEMU, in words."""
    if not _qemu:
        r = subprocess.run([os.path.join(ROOT, "bench", "qemu.sh")], stdout=subprocess.PIPE, text=True)
        if r.returncode:
            sys.exit(r.returncode)
        _qemu.extend(r.stdout.split())
    return _qemu


def qemu_version():
    r = subprocess.run([qemu()[0], "--version"], stdout=subprocess.PIPE, text=True, check=True)
    return r.stdout.split()[3]


def kvm_opens():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
        return True
    except OSError:
        return False


def first(who):
    """A guest that ends at its first instruction. @who: bt, kvm, or QEMU's tcg, qemu-kvm."""
    if who in ("bt", "kvm"):
        return [SIKA, "run", "--engine", who, "--memory", "512M", "--net", "none", "--serial",
                "none", "--debug-exit", "--kernel", FIRST]
    # Its quickest firmware: the other one takes seconds where KVM is backed by software.
    return [*qemu(), "-M", "microvm", "-bios", "qboot.rom", "-accel", who.replace("qemu-", ""),
            "-m", "512", "-nodefaults", "-nographic", "-no-reboot", "-kernel", FIRST, "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4"]


def kernel(who):
    """The guest that times what kernels do, two CPUs. It ends the machine by the debug exit."""
    if who == "bt":
        return [SIKA, "run", "--engine", "bt", "--memory", "64M", "--cpus", "2", "--net", "none",
                "--debug-exit", "--no-reboot", "--kernel", KERNEL, "--append", "cpus=2"]
    return [*qemu(), "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "64", "-smp", "2",
            "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", KERNEL,
            "-append", "cpus=2", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]


def linux(who, cpus, memory, initrd, append, disks=(), net=False, kernel=IMAGE + ".vmlinuz"):
    """A guest with Debian's kernel, its console on standard input and output. @who: bt or tcg."""
    if who == "bt":
        command = [SIKA, "run", "--engine", "bt", "--memory", memory, "--cpus", str(cpus),
                   "--no-reboot", "--kernel", kernel, "--initrd", initrd, "--append", append,
                   "--net", "user" if net else "none"]
        for disk in disks:
            command += ["--disk", disk]
        return command
    # RAM in a memfd, as ours is; it can be told from the rest of the process by that.
    command = [*qemu(), "-M", "q35,memory-backend=ram", "-accel", "tcg,thread=multi", "-cpu", "max",
               "-m", memory, "-object", f"memory-backend-memfd,id=ram,size={memory}", "-smp",
               str(cpus), "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio", "-kernel",
               kernel, "-initrd", initrd, "-append", append]
    if net:
        command += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile="]
    for disk in disks:
        command += ["-drive", f"file={disk},format=raw,if=virtio"]
    return command
