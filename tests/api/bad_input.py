#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""bad_input.py - a user's mistake gets one sentence, a status other than 0, and leaves nothing behind.

usage: bad_input.py SIKA BOOTABLE_ELF
"""
import contextlib
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
import time

SIKA, ELF = sys.argv[1], sys.argv[2]
results = {"passed": 0, "failed": 0, "skipped": 0}


def note(result, what, why=""):
    results[result] += 1
    if result != "passed":
        print(f"{result}: {what}: {why}", flush=True)


NOBODY = 65534


def refused(what, args, status=None, names=(), user=None):
    """The command ends with a status (any but 0) and one line that holds each of @names."""
    try:
        r = subprocess.run([SIKA, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=30, user=user)
    except subprocess.TimeoutExpired:
        return note("failed", what, "does not end")
    text = r.stderr.decode(errors="replace")
    if r.returncode <= 0 or (status is not None and r.returncode != status):
        note("failed", what, f"status {r.returncode}: {text}")
    elif text.count("\n") != 1 or not text.startswith("sika"):
        note("failed", what, f"not one line: {text!r}")
    elif not all(n in text for n in names):
        note("failed", what, f"does not name {names}: {text!r}")
    else:
        note("passed", what)


def run(what, *args, status=None, names=(), engine="bt", user=None):
    base = ["run", "--net", "none", "--debug-exit"]
    if engine:
        base += ["--engine", engine]
    refused(what, base + list(args), status, names, user)


@contextlib.contextmanager
def unprivileged():
    """Who to be so that permissions count: ourselves, or nobody, for whom the programs and the guest are
    copied where anybody may go (a build may lie below /root). False when neither works."""
    global SIKA, ELF
    if os.geteuid():
        yield True, None
        return
    kept = SIKA, ELF
    vmm = os.path.join(os.path.dirname(SIKA), "..", "vmm", "sika-vmm")
    with tempfile.TemporaryDirectory() as programs:
        os.chmod(programs, 0o755)
        SIKA, ELF = [shutil.copy(f, programs) for f in (SIKA, ELF, vmm)][:2]
        try:
            works = subprocess.run([SIKA, "--version"], user=NOBODY,
                                   stdout=subprocess.DEVNULL).returncode == 0
        except OSError:
            works = False
        yield works, NOBODY
        SIKA, ELF = kept


def usage_cases():
    refused("no verb", [], 2)
    refused("unknown verb", ["rum"], 2, ["rum"])
    refused("no kernel named", ["run"], 2, ["--kernel"])
    refused("unknown option", ["run", "--kernl", "k"], 2, ["--kernl"])
    run("memory is not a size", "--kernel", ELF, "--memory", "lots", status=2, names=["lots"])
    run("no such engine", "--kernel", ELF, "--engine", "warp", status=2, names=["warp"])
    run("no such processor", "--kernel", ELF, "--cpu", "z80", status=2, names=["z80", "x86-64-v3"])
    run("no such flag", "--kernel", ELF, "--cpu", "max,+warp", status=2, names=["warp", "help"])
    run("flag without a sign", "--kernel", ELF, "--cpu", "max,avx", status=2, names=["'avx'"])
    run("flag that no engine has", "--kernel", ELF, "--cpu", "max,+3dnow", status=1,
        names=["bt", "3dnow"])
    refused("no such optimization", ["run", "--engine", "bt,off=links+warp", "--net", "none",
                                     "--kernel", ELF], 1, ["'warp'", "links"])
    run("pin to a host CPU that is not there", "--kernel", ELF, "--pin", "0=8000", names=["8000"])
    refused("image: size", ["image", "build", "debian", "--size", "1", "/tmp/x"], 2, ["'1'"])
    refused("image: suite", ["image", "build", "debian", "--suite", "$(x)", "/tmp/x"], 2, ["$(x)"])
    refused("image: key", ["image", "build", "debian", "--ssh-key", "/nowhere", "/tmp/x"], 2,
            ["/nowhere"])
    refused("image: directory", ["image", "build", "debian", "/nowhere/x"], 1, ["/nowhere/x"])
    refused("image: exists", ["image", "build", "debian", ELF], 1, [ELF])


def file_cases(tmp):
    text = os.path.join(tmp, "text")
    with open(text, "w", encoding="ascii") as f:
        f.write("This is not a kernel.\n" * 1000)
    empty = os.path.join(tmp, "empty")
    open(empty, "w", encoding="ascii").close()
    big = os.path.join(tmp, "big")
    with open(big, "wb") as f:
        f.truncate(1 << 30)
    qcow = os.path.join(tmp, "qcow")
    with open(qcow, "wb") as f:
        f.write(b"QFI\xfb\0\0\0\3" + bytes(1 << 16))
    secret = os.path.join(tmp, "secret")
    with open(secret, "w", encoding="ascii") as f:
        f.write("x")
    os.chmod(secret, 0)
    nowhere = os.path.join(tmp, "nowhere")
    run("missing kernel", "--kernel", nowhere, status=1, names=[nowhere])
    run("kernel is a directory", "--kernel", tmp, status=1, names=[tmp])
    run("not a kernel", "--kernel", text, status=1, names=[text])
    run("empty kernel", "--kernel", empty, status=1, names=[empty])
    run("missing initrd", "--kernel", ELF, "--initrd", nowhere, status=1, names=[nowhere])
    run("initrd larger than memory", "--kernel", ELF, "--initrd", big, "--memory", "64M", status=1,
        names=[big])
    run("missing disk", "--kernel", ELF, "--disk", nowhere, status=1, names=[nowhere])
    run("disk of another format", "--kernel", ELF, "--disk", qcow, status=1, names=[qcow])
    run("no such format", "--kernel", ELF, "--disk", text + ",format=floppy", status=2,
        names=["floppy"])
    known = subprocess.run([SIKA, "image", "info", "--format", "floppy", text], capture_output=True, text=True,
                           check=False).stderr.strip().split(" none of ")[1].split(", ")
    for form in known + ["vpc"]:
        if form != "raw":  # which it is
            run(f"not a {form} image", "--kernel", ELF, "--disk", f"{text},format={form}", status=1, names=[text])
    run("serial file in no directory", "--kernel", ELF, "--serial", nowhere + "/x", status=1,
        names=[nowhere])
    run("more memory than the host can map", "--kernel", ELF, "--memory", "1T", "--mem-backing",
        "prealloc,hugepages", status=1, names=["huge"])
    os.chmod(tmp, 0o755)
    with unprivileged() as (can, user):
        if can:
            run("unreadable kernel", "--kernel", secret, status=1, names=[secret], user=user)
        else:
            note("skipped", "unreadable kernel", "root can read everything")


def engine_case():
    """Where the rights on /dev/kvm let everybody in, the engine is available."""
    with unprivileged() as (can, user):
        if not can or (os.path.exists("/dev/kvm") and os.stat("/dev/kvm").st_mode & 0o006):
            return note("skipped", "engine not available", "/dev/kvm opens here")
        run("engine not available", "--kernel", ELF, "--engine", "kvm", status=1, names=["kvm"],
            user=user)


def port_case():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = str(s.getsockname()[1])
        refused("port in use", ["run", "--engine", "bt", "--kernel", ELF, "--net",
                                f"user,forward=tcp:{port}:22"], 1, [port])


@contextlib.contextmanager
def idle_machine(tmp, *args):
    """A machine that waits for ever; its serial socket tells when it is there."""
    path = os.path.join(tmp, "serial")
    p = subprocess.Popen([SIKA, "run", "--engine", "bt", "--net", "none", "--serial",
                          "unix:" + path, "--memory", "16M", "--kernel",
                          os.path.join(os.path.dirname(ELF), "idle.elf"), *args])
    end = time.monotonic() + 20
    while not os.path.exists(path) and p.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    try:
        yield p
    finally:
        p.terminate()
        p.wait(20)


def lock_case(tmp):
    disk = os.path.join(tmp, "disk")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    with idle_machine(tmp, "--disk", disk) as p:
        run("disk locked by a running machine", "--kernel", ELF, "--disk", disk, status=1,
            names=[disk])
        run("nor may it be read", "--kernel", ELF, "--disk", disk + ",readonly", status=1,
            names=[disk])
        if p.poll() is not None:
            note("failed", "the machine that holds the lock", f"ended, status {p.returncode}")


def terminal_case():
    """The terminal is hung up: one sentence, failure, and no machine is left."""
    master, slave = pty.openpty()
    idle = os.path.join(os.path.dirname(ELF), "idle.elf")
    p = subprocess.Popen([SIKA, "run", "--engine", "bt", "--net", "none", "--kernel", idle],
                         stdin=slave, stdout=slave, stderr=subprocess.PIPE)
    os.close(slave)
    time.sleep(1)
    os.close(master)
    try:
        _, err = p.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        p.kill()
        return note("failed", "terminal gone", "the machine goes on")
    text = err.decode(errors="replace")
    good = p.returncode > 0 and "terminal" in text and text.count("\n") == 1
    note("passed" if good else "failed", "terminal gone", f"status {p.returncode}: {text!r}")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        usage_cases()
        file_cases(tmp)
        engine_case()
        port_case()
        lock_case(tmp)
        terminal_case()
        left = [n for n in os.listdir(tmp) if n not in
                ("text", "empty", "big", "qcow", "secret", "disk")]
        note("failed" if left else "passed", "nothing is left behind", str(left))
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**results))
    return 1 if results["failed"] else 0


sys.exit(main())
