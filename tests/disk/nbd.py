#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nbd.py - `sika image serve`, its clients being those of QEMU and of libnbd.

usage: nbd.py SIKA

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

from cases import main
from commands import MIB, run
from servers import SIZE, Serve, make, take
from sika import SIKA


def io(uri, *commands, status=0):
    return run("qemu-io", "-f", "raw", *[x for c in commands for x in ("-c", c)], uri, status=status)


# ---- what clients ask for ----

def tells_what_it_offers():
    with Serve("--name", "a disk/ü", "--description", "of mine", make()) as s:
        told = json.loads(run("nbdinfo", "--json", s.uri).stdout)["exports"][0]
        assert told["export-name"] == "a disk/ü" and told["description"] == "of mine", told
        assert told["export-size"] == SIZE and told["can_fua"] and told["can_multi_conn"] and not told["is_read_only"]
        listed = json.loads(run("nbdinfo", "--list", "--json", "nbd+unix:///?socket=s").stdout)["exports"]
        assert [x["export-name"] for x in listed] == ["a disk/ü"]
        wrong = run("nbdinfo", "nbd+unix:///other?socket=s", status=None)
        assert wrong.returncode and "other" in wrong.stderr, wrong


def tells_where_data_is():
    with Serve(make()) as s:
        io(s.uri, "write -P 1 0 64k", "write -P 2 1M 128k", "write -z -u 1M 64k")
        extents = json.loads(run("nbdinfo", "--json", "--map", s.uri).stdout)
        assert [(x["offset"], x["length"], x["type"]) for x in extents] == [
            (0, 65536, 0), (65536, MIB, 3), (MIB + 65536, 65536, 0), (MIB + 131072, SIZE - MIB - 131072, 3)], extents


def random_requests(form):
    """Several clients, each with a part of the disk, requests of each at the same time; a model beside."""
    path, rng = make("disk." + form, form), random.Random()
    part, clients, model = SIZE // 4, [], bytearray(SIZE)
    with Serve("--format", form, path) as s:
        for n in range(4):
            commands = []
            for _ in range(60):
                # Those under way at a time do not overlap.
                for piece in rng.sample(range(16), 4):
                    at = n * part + piece * (part // 16)
                    length = 512 * rng.randint(1, part // 16 // 512)
                    at += 512 * rng.randint(0, (part // 16 - length) // 512)
                    kind, byte = rng.choice("wwwwzurf"), rng.randint(1, 255)
                    if kind == "r":
                        commands.append(f"aio_read -q {at} {length}")
                    elif kind in "wf":
                        commands.append(f"aio_write -q {'-f ' if kind == 'f' else ''}-P {byte} {at} {length}")
                        model[at:at + length] = bytes([byte]) * length
                    else:
                        commands.append(f"aio_write -q -z {'-u ' if kind == 'u' else ''}{at} {length}")
                        model[at:at + length] = bytes(length)
                commands.append("aio_flush")
            script = "\n".join(commands + ["flush", "quit"])
            clients.append((subprocess.Popen(["qemu-io", "-f", "raw", s.uri], stdin=subprocess.PIPE, text=True,
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT), script))
        for client, script in clients:
            client.stdin.write(script)
            client.stdin.flush()
        for client, _ in clients:
            out = client.communicate(timeout=120)[0]
            assert client.returncode == 0 and "rror" not in out and "ailed" not in out, out[-500:]
        with open("model", "wb") as f:
            f.write(model)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", s.uri, "model")
    run("qemu-img", "compare", "-f", form, "-F", "raw", path, "model")
    if form == "qcow2":
        run("qemu-img", "check", path)


def random_requests_qcow2():
    random_requests("qcow2")


def random_requests_raw():
    random_requests("raw")


def copies():
    """Four connections, requests of many sizes."""
    with open("source", "wb") as f:
        f.write(os.urandom(5 * MIB) + bytes(6 * MIB) + os.urandom(5 * MIB))
    with Serve(make()) as s:
        run("nbdcopy", "--flush", "source", s.uri)
        run("nbdcopy", s.uri, "copy")
    run("cmp", "source", "copy")
    run("qemu-img", "compare", "-F", "qcow2", "-f", "raw", "source", "disk.qcow2")


def read_only_is_kept():
    path = make()
    with Serve("--read-only", path) as s:
        assert json.loads(run("nbdinfo", "--json", s.uri).stdout)["exports"][0]["is_read_only"]
        io(s.uri, "write 0 4k", status=1)
        with Client("s") as c:
            c.go()
            assert c.request(1, 0, 512, data=bytes(512)) == 1, "EPERM"
            assert c.request(6, 0, 512) == 1
        # Readers share.
        run(SIKA, "image", "compare", path, path)


# ---- TLS ----

def snapshots_are_served():
    """What an internal snapshot holds, by name and number, and of another size; the image is not changed."""
    path = make()
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 3M", "-c", "write -P 2 5M 64k", path)
    run("qemu-img", "convert", "-O", "raw", path, "then.raw")
    run("qemu-img", "snapshot", "-c", "first", path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 8M", "-c", "discard 0 512k", path)
    run(SIKA, "image", "snapshot", "create", path, "second")
    run("qemu-img", "resize", path, str(SIZE + 4 * MIB))
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 4 {SIZE} 4M", path)
    with open(path, "rb") as f:
        before = f.read()
    for name in ("first", "1"):
        with Serve("--snapshot", name, path) as s:
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", "then.raw", s.uri)
            assert json.loads(run("nbdinfo", "--json", s.uri).stdout)["exports"][0]["is_read_only"]
    with Serve("--snapshot", "second", path) as s:
        run("qemu-io", "-r", "-f", "raw", "-c", "read -P 3 1M 8M", "-c", "read -P 0 0 512k", "-c", "read -P 1 512k 512k", s.uri)
    with open(path, "rb") as f:
        assert f.read() == before
    for name, image, why in (("third", path, "third"), ("x", "then.raw", "no qcow2 image")):
        wrong = run(SIKA, "image", "serve", "--socket", "s", "--snapshot", name, image, status=1)
        assert why in wrong.stderr and wrong.stderr.count("\n") == 1, wrong


def psk():
    os.makedirs("keys", exist_ok=True)
    run("psktool", "-u", "me", "-p", "keys/keys.psk")
    with Serve("--tls", "keys", make()) as s:
        assert s.uri.startswith("nbds+unix:"), s.uri
        uri = s.uri.replace("///", "//me@/") + "&tls-psk-file=keys/keys.psk"
        told = json.loads(run("nbdinfo", "--json", uri).stdout)
        assert told["TLS"], told
        with open("source", "wb") as f:
            f.write(os.urandom(SIZE))
        run("nbdcopy", "source", uri)
        run("nbdcopy", uri, "copy")
        run("cmp", "source", "copy")
        assert run("nbdinfo", "nbd+unix:///?socket=s", status=None).returncode
        with Client("s") as c:
            assert c.option(7, struct.pack(">IH", 0, 0)) == [0x80000005], "TLS comes first"
        run("psktool", "-u", "me", "-p", "other.psk")
        assert run("nbdinfo", uri.replace("keys/keys.psk", "other.psk"), status=None).returncode


def certificates():
    os.makedirs("pki", exist_ok=True)
    os.makedirs("client", exist_ok=True)

    def certify(name, text, *more):
        with open("template", "w", encoding="utf-8") as f:
            f.write(text)
        run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", name + "-key.pem")
        run("certtool", "--load-privkey", name + "-key.pem", "--template", "template", "--outfile", name + "-cert.pem",
            *more)

    ca = ("--generate-certificate", "--load-ca-certificate", "pki/ca-cert.pem", "--load-ca-privkey", "pki/ca-key.pem")
    certify("pki/ca", "cn = ours\nca\ncert_signing_key\n", "--generate-self-signed")
    certify("pki/server", "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\n", *ca)
    certify("client/client", "cn = me\ntls_www_client\n", *ca)
    shutil.copy("pki/ca-cert.pem", "client")
    creds = "tls-creds-x509,id=t,dir=client,endpoint=client"
    with Serve("--tls", "pki", make(), where=("--listen", "127.0.0.1:0")) as s:
        port = s.uri.split(":")[2].split("/")[0]
        image = f"driver=nbd,host=127.0.0.1,port={port},tls-creds=t"
        out = run("qemu-io", "--object", creds, "--image-opts", image, "-c", "write -P 9 0 1M", "-c",
                  "read -P 9 0 1M").stdout
        assert "erification failed" not in out, out
        # Nobody without a certificate of ours.
        os.makedirs("stranger", exist_ok=True)
        shutil.copy("pki/ca-cert.pem", "stranger")
        assert run("qemu-io", "--object", creds.replace("dir=client", "dir=stranger"), "--image-opts", image, "-c",
                   "read 0 512", status=None).returncode
    run(SIKA, "image", "check", "disk.qcow2")


# ---- by hand: what those clients never say ----

class Client:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(30)
        self.s.connect(path)
        hello = take(self.s, 18)
        assert hello[:16] == b"NBDMAGICIHAVEOPT", hello
        self.s.sendall(struct.pack(">I", 3))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def option(self, number, data=b"", length=None):
        """The types of what is answered, up to the last."""
        self.s.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data) if length is None else length) + data)
        types = []
        while not types or types[-1] in (2, 3, 4):
            magic, _, kind, n = struct.unpack(">QIII", take(self.s, 20))
            assert magic == 0x3E889045565A9
            take(self.s, n)
            types.append(kind)
        return types

    def go(self):
        assert self.option(7, struct.pack(">IH", 0, 0))[-1] == 1

    def request(self, kind, at, length, flags=0, data=b""):
        """The error of a simple reply."""
        self.s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, kind, 77, at, length) + data)
        magic, error, cookie = struct.unpack(">IIQ", take(self.s, 16))
        assert magic == 0x67446698 and cookie == 77
        if kind == 0 and not error:
            take(self.s, length)
        return error


def hostile_clients():
    invalid, unsup, unknown, big, policy = 0x80000003, 0x80000001, 0x80000006, 0x80000009, 0x80000002
    with Serve(make()) as s:
        with Client("s") as c:
            assert c.option(7, b"\xff" * 4) == [invalid]
            assert c.option(7, struct.pack(">I", 3) + b"ab") == [invalid]
            assert c.option(6, struct.pack(">IH", 0, 9)) == [invalid]
            assert c.option(6, struct.pack(">I", 5) + b"other" + b"\0\0") == [unknown]
            assert c.option(3, b"x") == [invalid]
            assert c.option(5) == [policy]
            assert c.option(10, struct.pack(">II", 0, 0)) == [invalid], "structured replies come first"
            assert c.option(9, struct.pack(">IIII", 0, 0xffffffff, 3, 1)) == [invalid]
            assert c.option(99, b"?") == [unsup]
            assert c.option(99, b"?" * 70000) == [big]
            c.go()
            assert c.request(0, 0, 512) == 0
            assert c.request(0, SIZE - 512, 1024) == 22
            assert c.request(0, 2 ** 64 - 512, 512) == 22
            assert c.request(0, 0, 2 ** 32 - 512) == 22
            assert c.request(0, 1, 512) == 22 and c.request(0, 0, 0) == 22
            assert c.request(1, SIZE, 512, data=bytes(512)) == 28, "ENOSPC, and the data is not taken for a request"
            assert c.request(4, 0, 2 ** 32 - 512) == 28
            assert c.request(0, 0, 512, flags=1 << 9) == 22
            assert c.request(7, 0, 512) == 22 and c.request(42, 0, 512) == 22
            assert c.request(0, 0, 512) == 0, "and goes on"
        for bad in (b"\0" * 28, struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 2 ** 32 - 1)):
            with Client("s") as c:
                c.go()
                c.s.sendall(bad)
                try:
                    take(c.s, 1)
                    raise AssertionError("it listens on")
                except (EOFError, ConnectionResetError):
                    pass
        # One who asks for much and reads nothing takes no more than is its own.
        with Client("s") as c:
            c.go()
            c.s.settimeout(1)
            try:
                for _ in range(4000):
                    c.s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, SIZE) * 16)
                raise AssertionError("64000 requests of 16 MiB were taken")
            except socket.timeout:
                pass
            with open(f"/proc/{s.process.pid}/statm", encoding="utf-8") as f:
                assert int(f.read().split()[1]) * 4096 < 200 * MIB
            io(s.uri, "read 0 4k")  # others are served
        io(s.uri, "write -P 5 0 4k", "read -P 5 0 4k")


def clients_may_die():
    with Serve(make()) as s:
        for _ in range(20):
            client = subprocess.Popen(["qemu-io", "-f", "raw", s.uri], stdin=subprocess.PIPE,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
            client.stdin.write("".join(f"aio_write -q -P 3 {i * 65536} 64k\n" for i in range(128)))
            client.stdin.flush()
            time.sleep(random.random() / 20)
            client.kill()
            client.wait()
        io(s.uri, "write -P 5 0 4k", "read -P 5 0 4k")
    run("qemu-img", "check", "disk.qcow2")


def ends_beside_its_clients():
    """Those who are under way, too; what they have flushed is there."""
    for how in (signal.SIGTERM, signal.SIGINT):
        s = Serve(make())
        client = subprocess.Popen(["qemu-io", "-f", "raw", s.uri], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, text=True)
        with Client("s"):  # in the middle of its handshake
            client.stdin.write("write -P 5 0 1M\nflush\n" + "aio_write -q -P 3 4M 1M\n" * 50)
            client.stdin.flush()
            time.sleep(0.3)
            s.end(how)
        client.kill()
        client.communicate()
        run("qemu-img", "check", "disk.qcow2")


def ends_with_its_last_client():
    s = Serve("--once", make())
    with Client("s") as a:
        a.go()
        with Client("s") as b:
            b.go()
        assert s.process.poll() is None
    assert s.left() == 0


def keeps_to_its_number_of_clients():
    with Serve("--clients", "2", make()):
        with Client("s") as a, Client("s") as b:
            a.go()
            b.go()
            try:
                with Client("s"):
                    raise AssertionError("a third")
            except (EOFError, ConnectionResetError):
                pass
        for _ in range(50):  # until it has noticed
            try:
                with Client("s") as c:
                    c.go()
                break
            except (EOFError, ConnectionResetError):
                time.sleep(0.1)
        else:
            raise AssertionError("their places stay taken")


def replaces_what_a_dead_server_left():
    s = Serve(make())
    s.end(signal.SIGKILL, check=False)
    assert os.path.exists("s")
    with Serve("disk.qcow2") as t:
        io(t.uri, "read 0 512")
        done = run(SIKA, "image", "serve", "--socket", "s", "--read-only", make("b.qcow2"), status=1)
        assert "cannot listen at 's': Address already in use" in done.stderr, done.stderr


def says_what_is_wrong():
    make()
    for arguments, status, words in (
            (("none.qcow2",), 1, "none.qcow2"), (("--listen", "x", "disk.qcow2"), 2, "'x' is no port"),
            (("--listen", "nowhere:1", "disk.qcow2"), 1, "nowhere"), (("--clients", "-1", "disk.qcow2"), 2, "-1"),
            (("--socket", "s", "--listen", "1", "disk.qcow2"), 2, "--listen"),
            (("--socket", "x" * 200, "disk.qcow2"), 1, "too long"), (("--tls", ".", "disk.qcow2"), 1, "keys.psk"),
            (("--socket", "no/where", "disk.qcow2"), 1, "no/where")):
        done = run(SIKA, "image", "serve", *arguments, status=status)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and words in lines[0] and not done.stdout, (arguments, done.stderr)


CASES = [tells_what_it_offers, tells_where_data_is, random_requests_qcow2, random_requests_raw, copies,
         read_only_is_kept, snapshots_are_served, psk, certificates, hostile_clients, clients_may_die, ends_beside_its_clients,
         ends_with_its_last_client, keeps_to_its_number_of_clients, replaces_what_a_dead_server_left,
         says_what_is_wrong]
NEEDED = {"qemu-io": "qemu-utils", "qemu-img": "qemu-utils", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin",
          "certtool": "gnutls-bin", "psktool": "gnutls-bin"}

if __name__ == "__main__":
    sys.exit(main(CASES, NEEDED, "sika-nbd-"))
