#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""stats.py - `sika bt-stats` and the control socket of a running machine.

usage: stats.py SIKA DIRECTORY_OF_GUESTS
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

SIKA, GUESTS = sys.argv[1:3]
results = {"passed": 0, "failed": 0, "skipped": 0}
tmp = tempfile.TemporaryDirectory()
ENV = dict(os.environ, XDG_RUNTIME_DIR=tmp.name)
RUN = os.path.join(tmp.name, "sika")


def start(guest, *args):
    p = subprocess.Popen([SIKA, "run", "--engine", "bt", "--net", "none", "--serial", "none",
                          "--kernel", os.path.join(GUESTS, guest + ".elf"), *args], env=ENV,
                         stdin=subprocess.DEVNULL)
    deadline = time.time() + 20
    while not any(f.endswith(f".{p.pid}") for f in listed()):
        assert p.poll() is None and time.time() < deadline, "no socket"
        time.sleep(0.02)
    return p


def listed():
    return os.listdir(RUN) if os.path.isdir(RUN) else []


def stop(*machines):
    for p in machines:
        if p.poll() is None:
            p.terminate()
        p.wait(20)


def stats(*args, env=ENV):
    return subprocess.run([SIKA, "bt-stats", *args], env=env, capture_output=True, text=True,
                          timeout=60)


def is_refused(r, status, *names):
    assert r.returncode == status, (r.returncode, r.stderr)
    assert r.stderr.count("\n") == 1 and not r.stdout, (r.stderr, r.stdout)
    assert all(n in r.stderr for n in names), r.stderr


def tells_where_time_goes():
    p = start("spin", "--name", "busy", "--cpus", "2")
    try:
        for who in ("busy", str(p.pid)):
            r = stats(who, "--json", "--top", "3")
            assert r.returncode == 0, r.stderr
            s = json.loads(r.stdout)
            assert s["measured"]["vcpus"] == 2 and s["measured"]["samples"] > 10, s["measured"]
            # The first runs a loop of one jump, whichever way; the other waits to be started.
            time0 = s["time"]["vcpu 0"]
            busy = time0["native"] + time0["interpret"] + time0["loop"]
            assert busy > 0.9, time0
            assert s["time"]["vcpu 1"]["halt"] > 0.9, s["time"]
            assert 0.99 < sum(time0.values()) < 1.01, time0
            assert s["cache"]["blocks_decoded"] > 0 and s["cache"]["evictions"] == 0, s["cache"]
            assert s["counters"]["halts"]["total"] > 0, s["counters"]
            pages = s["pages"]
            assert max(pages, key=pages.get).endswith("kernel"), pages
        text = stats("busy")
        assert text.returncode == 0 and "TIME, SAMPLED" in text.stdout, text
    finally:
        stop(p)


def socket_is_for_the_owner_and_goes_with_the_machine():
    p = start("idle", "--name", "quiet")
    try:
        assert os.stat(RUN).st_mode & 0o777 == 0o700, oct(os.stat(RUN).st_mode)
        assert listed() == [f"quiet.{p.pid}"], listed()
        p.send_signal(signal.SIGTERM)
        p.wait(20)
        assert not listed(), listed()
    finally:
        stop(p)


def ask(path, *lines):
    """Answers to @lines, sent at once."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(path)
        s.sendall(b"".join(lines))
        s.shutdown(socket.SHUT_WR)
        data = b""
        try:
            while part := s.recv(65536):
                data += part
        except ConnectionResetError:
            pass  # it hung up with something unread
    return [json.loads(a) for a in data.splitlines()]


def bad_requests_are_answered():
    p = start("idle", "--name", "asked")
    path = os.path.join(RUN, f"asked.{p.pid}")
    try:
        bad = [b"\n", b"{}\n", b"\xff\xfe\n", b'{"command":"fly"}\n', b'{"command":{}}\n',
               b'{"command":"bt-stats","time_ms":0}\n', b'{"command":"bt-stats","top":"x"}\n',
               b'{"command":"bt-stats","format":"xml"}\n', b'{"command":"bt-\0stats"}\n']
        answers = ask(path, *bad)
        assert len(answers) == len(bad), answers
        assert all(a["ok"] is False and a["error"] for a in answers), answers
        assert not ask(path, b"x" * 5000), "a line without an end"
        idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for s in idle:
            s.connect(path)
        for s in idle:
            s.close()
        r = stats("asked", "--time", "1")
        assert r.returncode == 0, r.stderr
        # Somebody who goes away in the middle disturbs nobody.
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            s.sendall(b'{"command":"bt-stats","time_ms":300}\n')
            busy = ask(path, b'{"command":"bt-stats","time_ms":10}\n')
            time.sleep(0.05)
        assert not busy or not busy[0]["ok"] or busy[0]["stats"], busy
        time.sleep(0.6)
        assert stats("asked").returncode == 0
    finally:
        stop(p)


def verb(*args):
    return subprocess.run([SIKA, *args], env=ENV, capture_output=True, text=True, timeout=60)


def is_served(path):
    """While its guest sleeps: the export lives as long as who asked for it; disks.py looks at what it holds."""
    where = os.path.join(tmp.name, "nbd")
    is_refused(verb("image", "serve", "--machine", "sized", "--socket", where, "9"), 1, "'9'")
    is_refused(verb("image", "serve", "--machine", "nobody", "--socket", where, "0"), 1, "nobody")
    is_refused(verb("image", "serve", "--machine", "sized", "--once", "0"), 2, "--once")
    for how in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([SIKA, "image", "serve", "--machine", "sized", "--name", "x", "--socket", where, "one"],
                              env=ENV, stdout=subprocess.PIPE, text=True) as s:
            try:
                assert s.stdout.readline().startswith("nbd+unix:///x?socket="), "no URI"
                assert os.path.exists(where)
                is_refused(verb("image", "serve", "--machine", "sized", "--socket", where + "2", "0"), 1, "already")
                r = verb("image", "convert", "--force", "--format", "raw", "--to", "raw", f"nbd+unix:///x?socket={where}",
                         path + ".copy")
                assert r.returncode == 0, r
                with open(path, "rb") as a, open(path + ".copy", "rb") as b:
                    assert a.read() == b.read()
            finally:
                s.send_signal(how)
        deadline = time.time() + 20
        while os.path.exists(where):
            assert time.time() < deadline, "it is still served"
            time.sleep(0.02)


def status_and_sizes_of_disks():
    """Without a guest that looks: test_dev_blk and disks.py have those."""
    paths = [os.path.join(tmp.name, n) for n in ("raw", "scsi", "vhd")]
    for path in paths[:2]:
        with open(path, "wb") as f:
            f.truncate(1 << 20)
    assert verb("image", "create", "--format", "vhd", paths[2], "1M").returncode == 0
    p = start("idle", "--name", "sized", "--disk", f"{paths[0]},format=raw,serial=one,iothread=x", "--disk",
              f"{paths[1]},format=raw,bus=scsi,werror=stop,rerror=ignore", "--disk", paths[2])
    try:
        r = verb("status", "sized")
        assert r.returncode == 0 and r.stdout == "running\n", r
        assert json.loads(verb("status", "sized", "--json").stdout) == {"state": "running"}
        is_refused(verb("resume", "sized"), 1, "sized", "not paused")
        for disk, size, bytes_ in (("one", "2M", 2 << 20), ("0", "+1M", 3 << 20)):
            assert verb("resize", "sized", disk, size).returncode == 0
            assert os.path.getsize(paths[0]) == bytes_
        assert verb("resize", str(p.pid), "1", "4M").returncode == 0
        assert os.path.getsize(paths[1]) == 4 << 20
        is_refused(verb("resize", "sized", "one", "1M"), 1, "'one'", paths[0], "shrink")
        is_refused(verb("resize", "sized", "0", "4000001"), 1, "multiple")
        is_refused(verb("resize", "sized", "3", "4M"), 1, "'3'")
        is_refused(verb("resize", "sized", "2", "4M"), 1, paths[2], "one size")
        is_refused(verb("resize", "sized", "0", "much"), 2, "much")
        is_refused(verb("resize", "sized", "0"), 2, "expected")
        is_refused(verb("resize", "nobody", "0", "4M"), 1, "nobody")
        is_refused(verb("status", "nobody"), 1, "nobody")
        is_refused(verb("status"), 2, "which machine")
        is_served(paths[0])
        path = os.path.join(RUN, f"sized.{p.pid}")
        bad = [b'{"command":"resize"}\n', b'{"command":"resize","disk":"0"}\n',
               b'{"command":"resize","disk":"0","size":"x"}\n', b'{"command":"resize","disk":"0","size":1,"more":1}\n',
               b'{"command":"resize","disk":"0","more":9223372036854775807}\n']
        assert all(a["ok"] is False and a["error"] for a in ask(path, *bad))
    finally:
        stop(p)


def kvm_keeps_counters():
    """Of the guest there is only who waits for it, so that the host's KVM may be of any kind."""
    r = verb("kvm-stat", "--time", "0", "x")
    is_refused(r, 2, "'0'")
    is_refused(verb("kvm-stat"), 2, "which machine")
    is_refused(verb("kvm-stat", "nobody"), 1, "nobody")
    p = start("idle", "--name", "translated")
    try:
        is_refused(verb("kvm-stat", "translated"), 1, "'bt'", "'kvm'")
    finally:
        stop(p)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        results["skipped"] += 1
        return
    p = start("idle", "--name", "counted", "--cpus", "2", "--engine", "kvm")
    try:
        is_refused(stats("counted"), 1, "'bt'", "'kvm'")
        r = verb("kvm-stat", "counted", "--json", "--time=1")
        if r.returncode:
            is_refused(r, 1, "keeps no statistics")
            results["skipped"] += 1
            return
        s = json.loads(r.stdout)
        assert len(s["vcpus"]) == 2 and 0.9 < s["seconds"] < 20, s
        assert s["vcpus"][0]["exits"]["value"] > 0 and s["vcpus"][0]["exits"]["per_second"] >= 0, s
        assert "remote_tlb_flush" in s["vm"], s
        text = verb("kvm-stat", str(p.pid))
        assert text.returncode == 0 and text.stdout.startswith("MACHINE"), text
        assert "VCPU 1\n" in text.stdout and " exits " in text.stdout, text
    finally:
        stop(p)


def mistakes_are_told():
    is_refused(stats(), 2, "which machine")
    is_refused(stats("a", "b"), 2, "'b'")
    is_refused(stats("a", "--time", "soon"), 2, "soon")
    is_refused(stats("a", "--top=-1"), 2, "-1")
    is_refused(stats("nobody"), 1, "nobody")
    a, b = start("idle", "--name", "twin"), start("idle", "--name", "twin")
    try:
        is_refused(stats("twin"), 1, "twin", str(a.pid), str(b.pid))
        assert stats(str(a.pid)).returncode == 0
        # What a killed machine leaves is no machine.
        a.kill()
        a.wait(20)
        assert stats("twin").returncode == 0
        assert listed() == [f"twin.{b.pid}"], listed()
    finally:
        stop(a, b)


def machine_can_do_without_a_socket():
    for value in ("/nowhere", "/" + "x" * 200):
        env = dict(ENV, XDG_RUNTIME_DIR=value)
        r = subprocess.run([SIKA, "run", "--engine", "bt", "--net", "none", "--serial", "none",
                            "--debug-exit", "--kernel", os.path.join(GUESTS, "first.elf")],
                           env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert r.returncode == 0x21 and not r.stderr, r


def perf_map_names_code():
    p = start("spin", "--name", "mapped", "--perf-map")
    path = f"/tmp/perf-{p.pid}.map"
    try:
        assert os.stat(path).st_mode & 0o777 == 0o600, oct(os.stat(path).st_mode)
        with open(f"/proc/{p.pid}/maps", encoding="ascii") as f:
            code = [m for m in f.read().splitlines() if "r-xs" in m]
        stop(p)
        with open(path, encoding="ascii") as f:
            lines = [line.split() for line in f]
        if not lines:
            return  # a host that the translator does not support
        # Not a memfd: perf would look for symbols in the file.
        assert code and all("/dev/zero" in m for m in code), code
        spans = [tuple(int(a, 16) for a in m.split()[0].split("-")) for m in code]
        low, high = max(spans, key=lambda span: span[1] - span[0])  # the other runs single instructions
        end = low
        for start_, size, name in lines:
            assert name.startswith(("sika_", "guest_")), name
            assert end <= int(start_, 16) and int(size, 16) > 0, (start_, size, name)
            end = int(start_, 16) + int(size, 16)
            assert end <= high, (start_, size)
        assert "sika_enter" in [line[2] for line in lines], lines[:16]
    finally:
        stop(p)
        if os.path.exists(path):
            os.unlink(path)


def disks_are_counted():
    images = [os.path.join(tmp.name, n) for n in ("one.img", "two.img")]
    for image in images:
        with open(image, "wb") as f:
            f.truncate(1 << 20)
    p = start("spin", "--name", "disks", "--disk", images[0] + ",format=raw,serial=first,iops=100,bps-rd=1M,bps-rd-max=2M",
              "--disk", images[1] + ",format=raw")
    try:
        def ask(*args):
            return subprocess.run([SIKA, "disk-stats", *args], env=ENV, capture_output=True, text=True, timeout=60)
        r = ask("disks", "--json")
        assert r.returncode == 0, r.stderr
        disks = json.loads(r.stdout)
        assert [(d["disk"], d["path"], d.get("serial")) for d in disks] == [
            (0, images[0], "first"), (1, images[1], None)], disks
        for kind in ("read", "write", "flush", "discard", "zeroes"):
            assert disks[0][kind] == {"ops": 0, "bytes": 0, "errors": 0, "time_ns": 0, "latency": []}, disks
        text = ask(str(p.pid), "--histogram")
        assert text.returncode == 0 and text.stdout.count("requests under way") == 2 and "first" in text.stdout, text
        is_refused(ask("nobody"), 1, "'nobody'")
        is_refused(ask(), 2, "which machine")
        is_refused(ask("disks", "--colour"), 2, "--colour")
    finally:
        stop(p)


TESTS = [
    disks_are_counted,
    kvm_keeps_counters,
    perf_map_names_code,
    tells_where_time_goes,
    socket_is_for_the_owner_and_goes_with_the_machine,
    bad_requests_are_answered,
    status_and_sizes_of_disks,
    mistakes_are_told,
    machine_can_do_without_a_socket,
]


def main():
    for test in TESTS:
        try:
            test()
            results["passed"] += 1
            print(f"ok: {test.__name__}", flush=True)
        except (AssertionError, KeyError, OSError, ValueError, subprocess.SubprocessError) as e:
            results["failed"] += 1
            print(f"failed: {test.__name__}: {e!r}", flush=True)
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**results))
    return 1 if results["failed"] else 0


sys.exit(main())
