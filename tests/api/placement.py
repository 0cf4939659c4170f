#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""placement.py - where a machine's threads, memory, network and serial line end up on the host.

usage: placement.py SIKA DIRECTORY_OF_ELF_FILES [TEST...]
"""
import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from runner import Skip, main, read, threads, ticks, wait_for

SIKA, ELFS = sys.argv[1], sys.argv[2]
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
NOBODY = 65534
MIB = 1 << 20
CLONE_NEWNET = 0x40000000


def command(kernel, *args):
    if "--net" not in args:
        args += ("--net", "none")
    if "--serial" not in args:
        args += ("--serial", "none")
    if "--memory" not in args:
        args += ("--memory", "64M")
    if not os.path.isabs(kernel):
        kernel = os.path.join(ELFS, kernel + ".elf")
    return [SIKA, "run", "--engine", "bt", "--kernel", kernel, *args]


@contextlib.contextmanager
def machine(kernel, *args, ready=None):
    """A machine whose first vCPU runs, or that is @ready. It has to end when it is told to."""
    p = subprocess.Popen(command(kernel, *args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ready = ready or (lambda: "vcpu 0" in threads(p.pid).values())
    try:
        wait_for("machine", lambda: p.poll() is not None or ready())
        if p.poll() is not None:
            raise AssertionError(f"status {p.returncode}: {p.stderr.read().decode()}")
        yield p
    finally:
        p.terminate()
        try:
            p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        p.stderr.close()
    assert p.returncode == 128 + signal.SIGTERM, f"status {p.returncode} after SIGTERM"


def refusal(kernel, *args, user=None):
    """The one sentence with which a machine does not start."""
    r = subprocess.run(command(kernel, *args), stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=30, user=user)
    text = r.stderr.decode(errors="replace")
    assert r.returncode > 0, f"status {r.returncode}: {text}"
    assert text.count("\n") == 1, f"not one line: {text!r}"
    return text


class Mapping:
    """One entry of /proc/PID/smaps."""

    def __init__(self, head):
        fields = head.split(None, 5)
        start, end = (int(x, 16) for x in fields[0].split("-"))
        self.start, self.size, self.rights = start, end - start, fields[1]
        self.name = fields[5].strip() if len(fields) > 5 else ""
        self.kib, self.flags = {}, []


def mappings(pid):
    found = []
    for line in read(f"/proc/{pid}/smaps").splitlines():
        key, _, value = line.partition(":")
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            found.append(Mapping(line))
        elif key == "VmFlags":
            found[-1].flags = value.split()
        elif value.endswith(" kB"):
            found[-1].kib[key] = int(value[:-3])
    return found


def guest_ram(pid, size=64 * MIB):
    """The one writable mapping of that size."""
    found = [m for m in mappings(pid) if m.size == size and m.rights.startswith("rw")]
    assert len(found) == 1, [(m.rights, m.name) for m in found]
    return found[0]


# ---- threads ----

def every_thread_has_its_name():
    with machine("idle", "--cpus", "64") as p:
        wanted = {f"vcpu {i}" for i in range(64)} | {"io", "sika-vmm"}
        wait_for("64 vCPU threads", lambda: wanted <= set(threads(p.pid).values()))
        names = [n for n in threads(p.pid).values() if not n.startswith("iou-")]
        assert sorted(names) == sorted(wanted), sorted(names)
        assert threads(p.pid)[p.pid] == "sika-vmm"


def pins_hold_and_bind_nobody_else():
    cpus = sorted(os.sched_getaffinity(0))
    with machine("spin", "--cpus", "3", "--pin", f"0={cpus[-1]},2={cpus[0]}") as p:
        wanted = {"vcpu 0": {cpus[-1]}, "vcpu 1": set(cpus), "vcpu 2": {cpus[0]}, "io": set(cpus),
                  "sika-vmm": set(cpus)}
        wait_for("threads", lambda: set(wanted) <= set(threads(p.pid).values()))
        for tid, name in threads(p.pid).items():
            if name in wanted:
                assert os.sched_getaffinity(tid) == wanted[name], (name, os.sched_getaffinity(tid))
        # Where it ran last is the 39th field.
        tid = next(t for t, name in threads(p.pid).items() if name == "vcpu 0")
        ran = {int(read(f"/proc/{p.pid}/task/{tid}/stat").rsplit(")", 1)[1].split()[36])
               for _ in range(20) if not time.sleep(0.02)}
        assert ran == {cpus[-1]}, ran


def sleeping_guest_costs_under_two_percent():
    with machine("idle", "--cpus", "4", "--net", "user") as p:
        time.sleep(0.5)

        before = ticks(p.pid)
        time.sleep(5)
        used = (ticks(p.pid) - before) / os.sysconf("SC_CLK_TCK") / 5
        assert used < 0.02, f"{used:.3f} of a core"


def name_is_seen_in_the_process_list():
    with machine("idle", "--name", "walnut") as p:
        words = read(f"/proc/{p.pid}/cmdline").split("\0")
        assert "sika-vmm" in words[0], words
        assert "walnut" in words, words


# ---- memory ----

def memory_is_a_shared_memfd():
    with machine("idle") as p:
        m = guest_ram(p.pid)
        assert m.rights == "rw-s" and m.name.startswith("/memfd:"), (m.rights, m.name)
        assert "dd" in m.flags, f"in core dumps: {m.flags}"


def memory_is_anonymous_for_merging():
    with machine("idle", "--mem-backing", "merge") as p:
        m = guest_ram(p.pid)
        assert m.rights == "rw-p" and not m.name.startswith("/"), (m.rights, m.name)
        assert "mg" in m.flags, m.flags


def memory_is_taken_as_it_is_touched():
    with machine("idle", "--memory", "4G") as p:
        m = guest_ram(p.pid, 4096 * MIB)
        assert m.kib["Rss"] < 16 * 1024, f"{m.kib['Rss']} KiB of an untouched guest are resident"
    # This one fills the second 16 MiB and then sleeps.
    with machine("pattern") as p:
        wait_for("16 MiB", lambda: guest_ram(p.pid).kib["Rss"] >= 16 * 1024)
        time.sleep(0.2)
        kib = guest_ram(p.pid).kib["Rss"]
        assert kib < 24 * 1024, f"{kib} KiB are resident where 16 MiB were touched"


def prealloc_takes_all():
    for more in ("", ",merge"):
        with machine("idle", "--mem-backing", "prealloc" + more) as p:
            kib = guest_ram(p.pid).kib["Rss"]
            assert kib == 64 * 1024, f"prealloc{more}: {kib} KiB are resident"


def lock_keeps_it_resident():
    if os.geteuid() and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < 80 * MIB:
        raise Skip("the limit of locked memory is below 80 MiB")
    with machine("idle", "--mem-backing", "lock") as p:
        locked = int(re.search(r"VmLck:\s*(\d+)", read(f"/proc/{p.pid}/status"))[1])
        assert locked >= 64 * 1024, f"{locked} KiB are locked"
        assert "lo" in guest_ram(p.pid).flags


def node_binds():
    if not os.path.exists("/proc/self/numa_maps"):
        raise Skip("the kernel has no NUMA policies")
    with machine("idle", "--mem-backing", "node=0,prealloc") as p:
        start = guest_ram(p.pid).start
        line = next(x for x in read(f"/proc/{p.pid}/numa_maps").splitlines()
                    if int(x.split()[0], 16) == start)
        assert line.split()[1].startswith("bind"), line
    text = refusal("idle", "--mem-backing", "node=1000")
    assert "1000" in text, text


def hugepages_are_used():
    knob = "/proc/sys/vm/nr_hugepages"
    if not os.access(knob, os.W_OK):
        raise Skip(f"{knob} is not ours to write")
    before = read(knob)
    try:
        with open(knob, "w", encoding="ascii") as f:
            f.write(str(int(before) + 32))
        if int(read(knob)) < int(before) + 32:
            raise Skip("the host has no 64 MiB in huge pages to give")
        if "Hugepagesize:       2048 kB" not in read("/proc/meminfo"):
            raise Skip("the host's huge pages are not 2 MiB")
        with machine("idle", "--mem-backing", "hugepages,prealloc") as p:
            m = guest_ram(p.pid)
            assert m.kib["KernelPageSize"] == 2048, m.kib
            assert m.kib["Shared_Hugetlb"] + m.kib["Private_Hugetlb"] == 64 * 1024, m.kib
            # All are taken: the next machine is told so.
            text = refusal("idle", "--mem-backing", "hugepages")
            assert "huge" in text and "nr_hugepages" in text, text
    finally:
        with open(knob, "w", encoding="ascii") as f:
            f.write(before)


# ---- the serial line ----

def talk(path, until, seconds=20):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(seconds)
        s.connect(path)
        seen = b""
        while until not in seen:
            data = s.recv(4096)
            assert data, f"closed after {seen!r}"
            seen += data


def serial_is_a_socket():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "serial")
        # This guest writes a line, faults, starts again: for ever. Its vCPUs' threads live for
        # moments only, the socket stays.
        with machine("fault", "--serial", "unix:" + path, ready=lambda: os.path.exists(path)) as p:
            talk(path, b"before the fault")
            talk(path, b"before the fault")
            assert p.poll() is None
            text = refusal("idle", "--serial", "unix:" + path)
            assert path in text, text
        assert not os.path.exists(path), "the socket is left behind"


# ---- tap ----

def in_own_network(test):
    """Run @test in a child with a network namespace of its own."""
    def run():
        if os.geteuid():
            raise Skip("needs root for a network namespace")
        if not os.path.exists("/dev/net/tun") or not shutil.which("ip"):
            raise Skip("no /dev/net/tun, or no ip (iproute2)")
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise Skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        test()

    def parent():
        out, into = os.pipe()
        pid = os.fork()
        if not pid:
            text = "ok"
            try:
                run()
            except Skip as e:
                text = f"skip {e}"
            except BaseException as e:  # a test's failure, whatever it is, belongs to the parent
                text = f"failed {type(e).__name__}: {e}"
            os.write(into, text.encode())
            os._exit(0)
        os.close(into)
        with os.fdopen(out) as f:
            text = f.read()
        os.waitpid(pid, 0)
        if text.startswith("skip "):
            raise Skip(text[5:])
        assert text == "ok", text

    parent.__name__ = test.__name__
    return parent


def ip(*args):
    return subprocess.run(["ip", *args], check=True, capture_output=True).stdout.decode()


@in_own_network
def tap_is_taken_and_given_back():
    ip("tuntap", "add", "sika0", "mode", "tap")
    ip("link", "set", "sika0", "up")
    assert "NO-CARRIER" in ip("link", "show", "sika0")
    with machine("idle", "--net", "tap=sika0"):
        assert "LOWER_UP" in ip("link", "show", "sika0"), ip("link", "show", "sika0")
        text = refusal("idle", "--net", "tap=sika0")
        assert "sika0" in text and "in use" in text, text
    assert "NO-CARRIER" in ip("link", "show", "sika0"), "still held"
    with machine("idle", "--net", "tap=sika0"):
        pass


@in_own_network
def tap_that_cannot_be_had_is_explained():
    text = refusal("idle", "--net", "tap=lo")
    assert "'lo'" in text and "not a tap" in text, text
    ip("tuntap", "add", "sika0", "mode", "tap", "user", "root")  # nobody else's, whoever may open /dev/net/tun
    if subprocess.run([SIKA, "--version"], user=NOBODY, stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("the program cannot be run by nobody")
    for name in ("sika0", "missing0"):
        text = refusal("idle", "--net", "tap=" + name, user=NOBODY)
        assert f"'{name}'" in text and ("not permitted" in text or "denied" in text), text


# ---- figures, reported and not judged ----

def own_kib(pid):
    """Resident memory that is not the guest's: all of it, and what no other process shares."""
    rss = pss = 0
    for m in mappings(pid):
        if "guest-ram" not in m.name:
            rss += m.kib["Rss"]
            pss += m.kib["Pss"]
    return rss, pss


def report_own_memory(what, pid):
    rss, pss = own_kib(pid)
    print(f"info: resident beyond guest RAM, bt, {what}: {rss / 1024:.1f} MiB "
          f"({pss / 1024:.1f} MiB not shared)", flush=True)
    return rss


def busybox_initrd(tmp):
    """An initial RAM disk whose init says READY and sleeps."""
    root = os.path.join(tmp, "root")
    for d in ("bin", "dev", "proc"):
        os.makedirs(os.path.join(root, d))
    shutil.copy(shutil.which("busybox"), os.path.join(root, "bin", "busybox"))
    init = os.path.join(root, "init")
    with open(init, "w", encoding="ascii") as f:
        f.write("#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n"
                "echo READY >/dev/ttyS0\nwhile :; do /bin/busybox sleep 1000; done\n")
    os.chmod(init, 0o755)
    path = os.path.join(tmp, "initrd")
    subprocess.run(f"find . | cpio -o -H newc --quiet >'{path}'", shell=True, cwd=root, check=True)
    return path


def own_memory_is_reported():
    with machine("idle") as p:
        time.sleep(0.3)
        # The promise is 60 MiB with Linux inside; without it something is wrong far below that.
        assert report_own_memory("a guest that sleeps", p.pid) < 60 * 1024
    kernel = os.path.join(ROOT, "out", "debian.img.vmlinuz")
    if not os.path.exists(kernel):
        raise Skip("no Linux: out/debian.img.vmlinuz is not built (make run)")
    if not shutil.which("busybox") or not shutil.which("cpio"):
        raise Skip("no Linux: busybox or cpio is missing")
    with tempfile.TemporaryDirectory() as tmp:
        serial = os.path.join(tmp, "serial")
        with machine(os.path.abspath(kernel), "--initrd", busybox_initrd(tmp), "--memory", "256M",
                     "--append", "console=ttyS0 quiet", "--serial", serial, "--net", "user") as p:
            try:
                wait_for("READY", lambda: "READY" in read(serial), 90)
            except AssertionError as e:
                raise Skip(f"Linux is not up in time: {e}") from e
            time.sleep(1)
            report_own_memory("Linux at rest, 256 MiB", p.pid)


TESTS = [
    every_thread_has_its_name,
    pins_hold_and_bind_nobody_else,
    sleeping_guest_costs_under_two_percent,
    name_is_seen_in_the_process_list,
    memory_is_a_shared_memfd,
    memory_is_anonymous_for_merging,
    memory_is_taken_as_it_is_touched,
    prealloc_takes_all,
    lock_keeps_it_resident,
    node_binds,
    hugepages_are_used,
    serial_is_a_socket,
    tap_is_taken_and_given_back,
    tap_that_cannot_be_had_is_explained,
    own_memory_is_reported,
]

main(TESTS)
