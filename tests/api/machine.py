#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""machine.py - a machine is a process, a vCPU is a thread of it: names, pins, statuses, signals.

usage: machine.py SIKA DIRECTORY_OF_ELF_FILES
"""
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time

from runner import Skip, main, threads, ticks, wait_for

SIKA, ELFS = sys.argv[1], sys.argv[2]


def elf(name):
    return os.path.join(ELFS, name + ".elf")


def command(kernel, *args, engine="bt", serial="none", net="none"):
    return [SIKA, "run", "--engine", engine, "--memory", "64M", "--net", net, "--serial", serial,
            "--kernel", elf(kernel), *args]


def start(kernel, *args, **kw):
    p = subprocess.Popen(command(kernel, *args, **kw), stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
    return p


def status(kernel, *args, **kw):
    r = subprocess.run(command(kernel, *args, **kw), stdin=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, stdout=subprocess.PIPE, timeout=60)
    return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


def ends_with_status_of_exit_port():
    code, _, err = status("first", "--debug-exit")
    assert code == 33, (code, err)
    assert err == "", err


def writes_to_serial():
    code, out, err = status("hello", "--debug-exit", serial="stdio")
    assert code == 33 and "hello from the guest" in out, (code, out, err)


def writes_serial_to_file():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "out")
        code, _, err = status("hello", "--debug-exit", serial=path)
        with open(path, encoding="ascii") as f:
            assert code == 33 and "hello from the guest" in f.read(), (code, err)


def triple_fault_resets_and_no_reboot_ends():
    code, out, err = status("fault", "--no-reboot", serial="stdio")
    assert code == 0, (code, err)
    assert out.count("before the fault") == 1, out
    p = subprocess.Popen(command("fault", serial="stdio"), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE)
    seen = b""
    while seen.count(b"before the fault") < 3:
        data = os.read(p.stdout.fileno(), 4096)
        assert data, "it ended instead of starting again"
        seen += data
    p.terminate()
    p.stdout.close()
    assert p.wait(20) == 128 + signal.SIGTERM


def threads_have_names_and_pins():
    cpus = sorted(os.sched_getaffinity(0))
    p = start("idle", "--cpus", "2", "--pin", f"0={cpus[-1]},1={cpus[0]}")
    try:
        wait_for("threads", lambda: {"vcpu 0", "vcpu 1", "io"} <= set(threads(p.pid).values()))
        t = {name: tid for tid, name in threads(p.pid).items()}
        for vcpu, cpu in (("vcpu 0", cpus[-1]), ("vcpu 1", cpus[0])):
            with open(f"/proc/{p.pid}/task/{t[vcpu]}/status", encoding="ascii") as f:
                allowed = re.search(r"Cpus_allowed_list:\s*(\S+)", f.read())[1]
            assert allowed == str(cpu), (vcpu, allowed, cpu)
    finally:
        p.terminate()
        p.wait(20)


def idle_guest_costs_little():
    p = start("idle")
    try:
        wait_for("threads", lambda: "vcpu 0" in threads(p.pid).values())
        time.sleep(0.5)

        before = ticks(p.pid)
        time.sleep(2)
        used = (ticks(p.pid) - before) / os.sysconf("SC_CLK_TCK") / 2
        assert used < 0.02, f"{used:.3f} of a core"
    finally:
        p.terminate()
        p.wait(20)


def signals_end_it():
    for sig in (signal.SIGTERM, signal.SIGINT):
        p = start("idle", "--cpus", "2")
        wait_for("threads", lambda: {"vcpu 0", "vcpu 1"} <= set(threads(p.pid).values()))
        p.send_signal(sig)
        assert p.wait(20) == 128 + sig, p.returncode
    p = start("spin")
    wait_for("threads", lambda: "vcpu 0" in threads(p.pid).values())
    p.terminate()
    assert p.wait(20) == 128 + signal.SIGTERM, p.returncode


def terminal_is_restored():
    for end in ("keys", "kill"):
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        p = subprocess.Popen(command("idle", serial="stdio"), stdin=slave, stdout=slave,
                             stderr=slave)
        wait_for("raw mode", lambda: termios.tcgetattr(slave) != before)
        if end == "keys":
            os.write(master, b"\x01x")
            expected = 0
        else:
            p.terminate()
            expected = 128 + signal.SIGTERM
        assert p.wait(20) == expected, (end, p.returncode)
        assert termios.tcgetattr(slave) == before, f"{end}: not restored"
        os.close(master)
        os.close(slave)


def memory_is_taken_as_touched():
    p = subprocess.Popen(command("idle", "--memory", "4G"), stdin=subprocess.DEVNULL)
    try:
        wait_for("threads", lambda: "vcpu 0" in threads(p.pid).values())
        with open(f"/proc/{p.pid}/status", encoding="ascii") as f:
            kib = int(re.search(r"VmRSS:\s*(\d+)", f.read())[1])
        assert kib < 80 * 1024, f"{kib} KiB resident"
    finally:
        p.terminate()
        p.wait(20)


def engines_are_listed():
    out = subprocess.run([SIKA, "engines", "--json"], check=True, capture_output=True).stdout
    rows = {r["name"]: r for r in json.loads(out)}
    assert set(rows) == {"kvm", "bt"}, rows
    assert rows["bt"]["available"] and not rows["bt"]["hardware"], rows
    assert all(r["text"] for r in rows.values()), rows
    text = subprocess.run([SIKA, "engines"], check=True, capture_output=True).stdout
    assert text.count(b"\n") == 3, text


def equal_pages_of_two_machines_are_merged():
    ksm = "/sys/kernel/mm/ksm/"

    def read(name):
        with open(ksm + name, encoding="ascii") as f:
            return int(f.read())

    def write(name, value):
        with open(ksm + name, "w", encoding="ascii") as f:
            f.write(str(value))

    if not os.access(ksm + "run", os.W_OK):
        raise Skip(f"{ksm}run is missing or not ours to write")
    old = {n: read(n) for n in ("run", "pages_to_scan", "sleep_millisecs")}
    machines = []
    try:
        write("pages_to_scan", 20000)
        write("sleep_millisecs", 10)
        write("run", 1)
        # Pages of machines that have ended are counted until they are looked at again; where there is nothing
        # to look at nobody does.
        scans = read("full_scans")
        with contextlib.suppress(AssertionError):
            wait_for("a look at all pages", lambda: read("full_scans") >= scans + 2, 3)
        before = read("pages_sharing")
        machines = [start("pattern", "--mem-backing", "merge") for _ in range(2)]
        # The guest fills 16 MiB with pages that differ within a machine and agree between the two.
        wait_for("shared pages", lambda: read("pages_sharing") >= before + 3500, 60)
    finally:
        for p in machines:
            p.terminate()
            p.wait(20)
        for name, value in old.items():
            write(name, value)


TESTS = [
    ends_with_status_of_exit_port,
    writes_to_serial,
    writes_serial_to_file,
    triple_fault_resets_and_no_reboot_ends,
    threads_have_names_and_pins,
    idle_guest_costs_little,
    signals_end_it,
    terminal_is_restored,
    memory_is_taken_as_touched,
    engines_are_listed,
    equal_pages_of_two_machines_are_merged,
]

main(TESTS)
