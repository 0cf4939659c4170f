#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nbd_away.py - disks at NBD servers that are killed and come back, or say nothing any more.

usage: nbd_away.py SIKA DISK_OPS

Closing line: "P passed, F failed, S skipped".
"""
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from cases import main
from commands import MIB, run
from nbd_client import NEEDED, OPS, Fake, model
from servers import SIZE, Qemu, Serve, make
from sika import SIKA


def again(server, *arguments):
    """Another one at the same place. The kernel may need a moment to take back a killed one's locks, and qemu-nbd
    listens before it finds that out."""
    for tries in range(50):
        if os.path.exists("s"):
            os.unlink("s")
        try:
            s = server(*arguments)
            if run(SIKA, "image", "info", "--format", "raw", s.uri, status=None).returncode == 0:
                return s
            s.end()
        except AssertionError:
            if tries == 49:
                raise
        time.sleep(0.2)
    raise AssertionError("no server can be started again")


def kill_and_start(server, arguments, form, how=signal.SIGKILL):
    """Requests against a model while their server goes and comes."""
    model()
    s = again(server, *arguments)
    client = subprocess.Popen([OPS, "-f", "raw", "run", s.uri, "model", str(random.getrandbits(40)), "2500", "away"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(4):
        time.sleep(random.uniform(0.2, 0.8))
        if client.poll() is not None:
            break
        s.end(how)
        time.sleep(random.choice((0, 0, 0.3, 1.2)))
        s = again(server, *arguments)
    _, err = client.communicate(timeout=100)
    assert client.returncode == 0, err
    assert err.count("is lost") <= err.count("again"), err
    with s:
        run(OPS, "-f", "raw", "compare", s.uri, "model")
    run("qemu-img", "compare", "-f", form, "-F", "raw", "disk.qcow2", "model")
    return err.count("is lost")


def servers_come_back():
    """Ours keeps an image's tables in memory until it is flushed: what was written again is needed."""
    assert kill_and_start(Serve, (make(),), "qcow2") > 0
    assert run("qemu-img", "check", "disk.qcow2", status=None).returncode in (0, 3)
    assert kill_and_start(Serve, ("--format", "raw", make(form="raw")), "raw", how=signal.SIGTERM) > 0


def qemus_come_back():
    assert kill_and_start(Qemu, ("-f", "qcow2", "--discard=unmap", make()), "qcow2") > 0
    assert run("qemu-img", "check", "disk.qcow2", status=None).returncode in (0, 3)
    assert kill_and_start(Qemu, ("-f", "qcow2", make()), "qcow2", how=signal.SIGTERM) > 0


class Forgetful:
    """A server that loses what it has not flushed whenever it hangs up, which it does when it has answered some requests
    more than those that it will be sent again."""

    def __init__(self, every, **more):
        self.every, self.count, self.next, self.changes, self.lost = every, 0, every, 0, 0
        self.fake = Fake(lie=self.lie, **more)
        self.safe = bytes(self.fake.disk)

    def lie(self, fake, s, request):
        self.count += 1
        self.changes += request[0] in (1, 4, 6)
        if request[0] == 3:
            self.safe, self.changes = bytes(fake.disk), 0
        if self.count < self.next:
            return False
        self.next, self.changes = self.count + self.every + self.changes, 0
        self.lost += bytes(fake.disk) != self.safe
        fake.disk[:] = self.safe
        s.shutdown(socket.SHUT_RDWR)
        raise EOFError


def nothing_acknowledged_is_lost():
    for i, every in enumerate((30, 120)):
        server = Forgetful(every, path=f"f{i}")
        model()
        run(OPS, "-f", "raw", "run", server.fake.uri, "model", random.getrandbits(40), 400, "away")
        assert server.lost > 1, server.lost
        with open("model", "rb") as f:
            assert f.read() == bytes(server.fake.disk[:SIZE])


def more_than_is_noted():
    """We flush by ourselves where nobody does, and a big disk is written again from then on."""
    server = Forgetful(15, path="big", size=40 * MIB)
    with open("source", "wb") as f:
        f.write(os.urandom(36 * MIB))
    run(SIKA, "image", "convert", "--reconnect-delay", 60, "source", server.fake.uri)
    assert server.lost > 0 and server.fake.order.count(3) > 1, (server.lost, server.fake.order.count(3))
    with open("source", "rb") as f:
        assert f.read() == bytes(server.fake.disk[:36 * MIB])


def bench(uri, *options):
    return subprocess.Popen([SIKA, "image", "bench", "--write", "--count", "100000000", *options, uri],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def away_for_too_long():
    begin = time.monotonic()
    with Serve(make()) as s:
        client = bench(s.uri, "--reconnect-delay", "2")
        time.sleep(0.5)
        s.end(signal.SIGKILL)
        killed = time.monotonic()
        _, err = client.communicate(timeout=30)
    lines = err.strip().splitlines()
    assert client.returncode == 1 and len(lines) == 3 and "wait for it for 2 seconds" in lines[0], err
    assert "still away" in lines[1] and "Input/output error" in lines[2], err
    assert 1.5 < time.monotonic() - killed < 15, (begin, killed)


def comes_back_as_another():
    for options in ((2 * SIZE,), (SIZE, "--read-only")):
        with Serve(make()) as s:
            client = bench(s.uri, "--reconnect-delay", "60")
            time.sleep(0.5)
            s.end(signal.SIGKILL)
        with again(Serve, *options[1:], make(size=options[0])):
            _, err = client.communicate(timeout=30)
        assert client.returncode == 1 and "another size" in err, err


def ends_while_away():
    """Nobody who ends waits for a server that is away, and nobody asks for it too often."""
    make()
    with Serve("disk.qcow2") as below, Serve("--reconnect-delay", "600", below.uri, where=("--socket", "t")) as proxy:
        client = bench(proxy.uri)
        time.sleep(0.5)
        below.end(signal.SIGKILL)
        time.sleep(1)
        assert client.poll() is None
        begin = time.monotonic()
        proxy.end(check=False)
        assert time.monotonic() - begin < 10
        assert proxy.process.returncode == 1, "its disk could not be made durable"
        client.communicate(timeout=30)


def a_server_that_hangs_up_always():
    connections = []

    def hangs_up(_, s, __):
        connections.append(time.monotonic())
        s.shutdown(socket.SHUT_RDWR)
        raise EOFError
    fake = Fake()
    client = bench(fake.uri, "--reconnect-delay", "3")
    time.sleep(0.5)
    fake.lie = hangs_up
    _, err = client.communicate(timeout=30)
    assert client.returncode == 1 and "Input/output error" in err, err
    assert 2 < len(connections) < 12, connections
    assert connections[-1] - connections[0] < 10, connections


def end_of(processes, least, most):
    """Their lines when they are asked to end, which takes so many seconds."""
    begin = time.monotonic()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    lines = [process.communicate(timeout=60)[1] for process in processes]
    assert least < time.monotonic() - begin < most, (time.monotonic() - begin, lines)
    return lines


def ends_while_silent():
    """Who ends gives a server that says nothing five seconds, whether it might come back or not."""
    with Serve(make(), where=("--socket", "u")) as ours, Qemu("-f", "qcow2", make("other.qcow2")) as qemus, \
            Serve("--format", "raw", ours.uri, where=("--socket", "t")) as one, \
            Serve("--reconnect-delay", "600", "--format", "raw", qemus.uri, where=("--socket", "v")) as other:
        clients = [bench(one.uri), bench(other.uri)]
        time.sleep(0.5)
        for below in (ours, qemus):
            below.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(1)
            assert all(client.poll() is None for client in clients)
            for err in end_of([one.process, other.process], 3, 12):
                assert err.count("has said nothing for") == 1 and "given up, and what it had not made durable may be lost" in err, err
            for client in clients:
                client.communicate(timeout=30)
        finally:
            for below in (ours, qemus):
                below.process.send_signal(signal.SIGCONT)


def nothing_is_given_up_without_need():
    """A server that takes its time while nobody ends; and one that speaks again while somebody does."""
    with Serve(make()) as below, Serve("--format", "raw", below.uri, where=("--socket", "t")) as proxy:
        client = bench(proxy.uri)
        time.sleep(0.5)
        below.process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        assert client.poll() is None
        below.process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        below.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        proxy.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        below.process.send_signal(signal.SIGCONT)
        _, err = proxy.process.communicate(timeout=60)
        assert proxy.process.returncode == 0 and err == "", err
        client.communicate(timeout=30)


def converting_to_a_silent_one_can_be_interrupted():
    with open("source", "wb") as f:
        f.write(os.urandom(8 * MIB))
    asked = threading.Event()

    def silent(_, __, request):
        if request[0] == 1:
            asked.set()
            time.sleep(60)
    client = subprocess.Popen([SIKA, "image", "convert", "source", Fake(lie=silent).uri], stderr=subprocess.PIPE, text=True)
    assert asked.wait(30)
    err = end_of([client], 3, 12)[0]
    assert client.returncode == 1 and "has said nothing for" in err, err


CASES = [servers_come_back, qemus_come_back, nothing_acknowledged_is_lost, more_than_is_noted, away_for_too_long,
         comes_back_as_another, ends_while_away, a_server_that_hangs_up_always, ends_while_silent,
         nothing_is_given_up_without_need, converting_to_a_silent_one_can_be_interrupted]

if __name__ == "__main__":
    sys.exit(main(CASES, NEEDED, "sika-nbd-away-", memory=True))
