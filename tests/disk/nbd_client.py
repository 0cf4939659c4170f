#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nbd_client.py - disks at NBD servers: ours, QEMU's, and some that lie.

usage: nbd_client.py SIKA DISK_OPS

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from cases import main
from commands import MIB, run
from servers import SIZE, URI, Qemu, Serve, make, take
from sika import SIKA, refused

OPS = os.path.abspath(sys.argv[2])


def model(content=None):
    with open("model", "wb") as f:
        f.write(content if content is not None else bytes(SIZE))


# ---- requests against a model ----

def random_requests(server, form="raw"):
    model()
    with server as s:
        if form == "qcow2":
            run(OPS, "compare", s.uri, "model")
        for _ in range(3):
            run(OPS, "-f", form, "run", s.uri, "model", random.getrandbits(40), 400)
        run(OPS, "-f", form, "compare", s.uri, "model")


def random_requests_at_ours():
    random_requests(Serve(make()))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "model")
    run("qemu-img", "check", "disk.qcow2")


def random_requests_at_qemus():
    random_requests(Qemu("-f", "qcow2", "--discard=unmap", make()))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "model")
    run("qemu-img", "check", "disk.qcow2")


def an_image_of_a_format_at_a_server():
    """Its tables are smaller than the server's blocks."""
    for server in (Serve, Qemu):
        make()
        run("truncate", "-s", 3 * SIZE, "disk.qcow2")
        more = ("-f", "raw") if server is Qemu else ("--format", "raw")
        random_requests(server(*more, "disk.qcow2"), "qcow2")
        run("qemu-img", "check", "-f", "qcow2", "disk.qcow2")
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "model")


def served_again():
    """A server's disk is another one's: requests run while a loop does."""
    with Serve(make()) as below:
        random_requests(Serve(below.uri, where=("--socket", "t")))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", "disk.qcow2", "model")


def random_requests_without_commands():
    """Of a server that knows but reading and writing, in blocks of 4096 bytes."""
    fake = Fake(flags=1, block=4096, limit=65536)
    model()
    run(OPS, "-f", "raw", "run", fake.uri, "model", random.getrandbits(40), 300)
    with open("model", "rb") as f:
        assert f.read() == bytes(fake.disk)
    assert fake.seen <= {0, 1, 2}, fake.seen


def writethrough_is_by_fua():
    fake = Fake(flags=1 | 4 | 8)
    run(SIKA, "image", "bench", "--write", "--count", 50, "--cache", "writethrough", fake.uri)
    assert fake.fua and 3 not in fake.seen, (fake.fua, fake.seen)
    fake = Fake(flags=1 | 4 | 8, path="t")
    run(SIKA, "image", "bench", "--write", "--count", 50, "--flush-interval", 10, fake.uri)
    assert not fake.fua and 3 in fake.seen, (fake.fua, fake.seen)


# ---- what the verbs make of it ----

def verbs():
    with open("source", "wb") as f:
        f.write(os.urandom(3 * MIB) + bytes(10 * MIB) + os.urandom(3 * MIB))
    run(SIKA, "image", "convert", "--format", "raw", "source", "disk.qcow2")
    with Serve("--name", "a b/ü", "disk.qcow2") as s:
        info = json.loads(run(SIKA, "image", "info", "--json", s.uri).stdout)
        assert info["format"] == "raw" and info["size_bytes"] == SIZE and info["host_bytes"] is None, info
        parts = json.loads(run(SIKA, "image", "map", "--json", s.uri).stdout)
        assert [(p["offset"], p["len"], p["state"]) for p in parts] == [
            (0, 3 * MIB, "data"), (3 * MIB, 10 * MIB, "zero"), (13 * MIB, 3 * MIB, "data")], parts
        run(SIKA, "image", "compare", s.uri, "source")
        run(SIKA, "image", "convert", "--to", "raw", s.uri, "copy")
        run("cmp", "source", "copy")
        run(SIKA, "image", "bench", "--count", 500, s.uri)
        refused("check", s.uri, words="nothing to check")
        refused("create", "--force", s.uri, "1M", words="no file")
        refused("resize", s.uri, "+1M", words="cannot be resized")
    with Serve("--format", "raw", "disk.qcow2") as s:
        run(SIKA, "image", "check", s.uri)
        run(SIKA, "image", "compare", s.uri, "source")


# ---- converting to an export ----

def bytes_of(*parts):
    """Random bytes and zeros, in turn, of these many KiB."""
    return b"".join(os.urandom(n << 10) if i % 2 == 0 else bytes(n << 10) for i, n in enumerate(parts))


def convert_to(server, *options, form="qcow2", source_size=None):
    """Data and holes of all sizes, over an export that holds other bytes and is larger."""
    content = bytes_of(4, 60, 1, 3, 700, 5000, 68, 132, 3000, 64)[:source_size]
    with open("source", "wb") as f:
        f.write(content)
    run("fallocate", "-d", "source")
    run(SIKA, "image", "convert", "--force", "--format", "raw", "source", "source.qcow2")
    with server as s:
        for source in (("--format", "raw", "source"), ("source.qcow2",)):
            run(OPS, "-f", "raw", "run", s.uri, "model", random.getrandbits(40), 200)
            run(SIKA, "image", "convert", *options, *source, s.uri)
            model(content + bytes(SIZE - len(content)))
            run(OPS, "-f", "raw", "compare", s.uri, "model")
            assert "equal" in run(SIKA, "image", "compare", "--format", "raw", "source", s.uri).stdout
        assert open("source", "rb").read() == content  # pylint: disable=consider-using-with
    run("qemu-img", "compare", "-f", form, "-F", "raw", "disk.qcow2", "model")


def converts_to_ours():
    model()
    convert_to(Serve(make()))
    run("qemu-img", "check", "disk.qcow2")
    model()
    convert_to(Serve("--format", "raw", make(form="raw")), "--cache", "writethrough", form="raw", source_size=-512)


def converts_to_qemus():
    model()
    convert_to(Qemu("-f", "qcow2", "--discard=unmap", make()), "--to", "raw")
    run("qemu-img", "check", "disk.qcow2")


def converts_to_who_knows_little():
    """No zeroing, no flushing, blocks of 4096 bytes, an end within a block of ours."""
    content = bytes_of(4, 60, 1, 3, 700, 5000, 68, 131)
    with open("source", "wb") as f:
        f.write(content)
    fake = Fake(flags=1, block=4096, limit=65536, size=SIZE + 4096)
    fake.disk[:SIZE + 4096] = os.urandom(SIZE + 4096)
    run(SIKA, "image", "convert", "source", fake.uri)
    assert bytes(fake.disk[:SIZE + 4096]) == content + bytes(SIZE + 4096 - len(content))
    assert fake.seen <= {0, 1, 2}, fake.seen


def converts_by_keys():
    os.makedirs("keys")
    run("psktool", "-u", "me", "-p", "keys/keys.psk")
    uri = "nbds+unix://me@/?socket=s&tls-psk-file=keys/keys.psk"
    content = os.urandom(SIZE)
    with open("source", "wb") as f:
        f.write(content)
    with Serve("--tls", "keys", make()):
        run(SIKA, "image", "convert", "source", uri)
        refused("convert", "source", URI, words="cannot be reached")
        run(SIKA, "image", "convert", "--to", "raw", uri, "copy")
    run("cmp", "source", "copy")


def converting_ends_with_a_flush():
    fake = Fake()
    with open("source", "wb") as f:
        f.write(os.urandom(MIB))
    run(SIKA, "image", "convert", "source", fake.uri)
    assert fake.order.index(3) > max(i for i, kind in enumerate(fake.order) if kind in (1, 6)), fake.order
    fake = Fake(path="t")
    run(SIKA, "image", "convert", "--cache", "unsafe", "source", fake.uri)
    assert 3 not in fake.seen


def converts_to_no_other():
    """One sentence each, the source and the target untouched."""
    with open("source", "wb") as f:
        f.write(os.urandom(2 * MIB))
    with Serve(make(size=MIB)) as s:
        refused("convert", "source", s.uri, words="too few for the 2097152")
        refused("convert", s.uri, s.uri.replace("///", "///x"), words="x")
        run("truncate", "-s", 512, "source")
        for wrong in (("--to", "qcow2"), ("--compress",), ("--to", "vmdk")):
            done = run(SIKA, "image", "convert", *wrong, "source", s.uri, status=2)
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "source and as target" in run(SIKA, "image", "convert", s.uri, s.uri, status=2).stderr
        assert "equal" in run(SIKA, "image", "compare", s.uri, s.uri).stdout
    with Serve("--read-only", make()) as s:
        refused("convert", "source", s.uri, words="lets nobody write")
    refused("convert", "source", URI, words="cannot be reached")
    assert run(SIKA, "image", "map", "--json", "disk.qcow2").stdout.count("data") == 0

    def full(_, s, request):
        return request[0] in (1, 6) and not s.sendall(struct.pack(">IIQ", 0x67446698, 28, request[1]))
    refused("convert", "source", Fake(lie=full, path="full").uri, words="cannot be written: No space")

    def unflushed(_, s, request):
        return request[0] == 3 and not s.sendall(struct.pack(">IIQ", 0x67446698, 5, request[1]))
    refused("convert", "source", Fake(lie=unflushed, path="unflushed").uri, words="cannot be written")


def converting_may_be_interrupted():
    with open("source", "wb") as f:
        f.write(os.urandom(4 * MIB))
    asked = threading.Event()

    def slow(_, __, request):
        if request[0] == 1:
            asked.set()
            time.sleep(0.2)
    fake = Fake(lie=slow)
    client = subprocess.Popen([SIKA, "image", "convert", "source", fake.uri], stderr=subprocess.PIPE, text=True)
    assert asked.wait(30)
    client.send_signal(signal.SIGTERM)
    _, err = client.communicate(timeout=30)
    assert client.returncode == 1 and "holds but a part" in err, err


def rebased_onto_an_export():
    with open("source", "wb") as f:
        f.write(os.urandom(SIZE))
    run(SIKA, "image", "convert", "--format", "raw", "source", "disk.qcow2")
    run(SIKA, "image", "create", "--backing", "disk.qcow2", "top.qcow2")
    run(SIKA, "image", "bench", "--write", "--pattern", 7, "--random", "--count", 50, "top.qcow2")
    run(SIKA, "image", "convert", "--to", "raw", "top.qcow2", "model")
    with Serve("--read-only", "disk.qcow2") as s:
        run(SIKA, "image", "rebase", "--backing", s.uri, "top.qcow2")
        assert json.loads(run(SIKA, "image", "info", "--json", "--allow", s.uri, "top.qcow2").stdout)["backing"] == s.uri
        run(SIKA, "image", "compare", "--allow", s.uri, "top.qcow2", "model")
    with Serve("disk.qcow2") as s:
        run(SIKA, "image", "commit", "--allow", s.uri, "top.qcow2")
        run(SIKA, "image", "compare", s.uri, "model")
    run("qemu-img", "check", "disk.qcow2")
    run(SIKA, "image", "compare", "disk.qcow2", "model")


def all_its_names():
    make()
    with Serve("--name", "x", "disk.qcow2"):
        for name in ("nbd:unix:s", "nbd:unix:s:exportname=x", URI, "nbd+unix:///x?socket=s"):
            run(SIKA, "image", "info", name)
        refused("info", "nbd:unix:s:exportname=y", words="y")
    with Serve("disk.qcow2", where=("--listen", "127.0.0.1:0")) as s:
        port = s.uri.split(":")[2].split("/")[0]
        for name in (f"nbd:127.0.0.1:{port}", f"nbd:[::ffff:127.0.0.1]:{port}", f"nbd://127.0.0.1:{port}",
                     f"nbd://127.0.0.1:{port}/"):
            run(SIKA, "image", "info", name)
    os.rename("disk.qcow2", "nbd:file")
    run(SIKA, "image", "info", "./nbd:file")


def says_what_is_wrong():
    refused("info", URI, words="cannot be reached")
    refused("info", "nbd:127.0.0.1:1", words="cannot be reached")
    refused("info", "nbd://no.such.host.invalid/", words="cannot be reached")
    refused("info", "nbd:", words="cannot be reached")
    refused("info", "nbd:[", words="cannot be reached")
    with Serve("--read-only", make()) as s:
        refused("bench", "--write", s.uri, words="readonly")
        run(SIKA, "image", "bench", "--count", 10, s.uri)


def below_another_image():
    with open("source", "wb") as f:
        f.write(os.urandom(SIZE))
    run(SIKA, "image", "convert", "--format", "raw", "source", "disk.qcow2")
    with Serve("--name", "base", "--read-only", "disk.qcow2", where=("--listen", "127.0.0.1:0")) as s:
        place = s.uri.rsplit("/", 1)[0] + "/"
        run(SIKA, "image", "create", "--backing", s.uri, "top.qcow2")
        refused("compare", "top.qcow2", "source", words="allow that name")
        for wrong in (place[:-1], place[:-2] + "/", s.uri + "/", "nbd:"):
            refused("compare", "--allow", wrong, "top.qcow2", "source", words="allow that name")
        for right in (place, s.uri):
            run(SIKA, "image", "compare", "--allow", right, "top.qcow2", "source")
    # What a server gives does not lead to files of the host.
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", os.path.abspath("source"), "-F", "raw", "evil.qcow2")
    with Serve("--format", "raw", "evil.qcow2") as s:
        refused("compare", s.uri, "source", words="name its folder")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "source", "-F", "raw", "evil.qcow2")
    with Serve("--format", "raw", "evil.qcow2") as s:
        refused("compare", s.uri, "source", words="no files")


def copies_are_kept():
    """What was read once is not read again, from run to run, until the server has something else."""
    content = os.urandom(SIZE)
    with open("model", "wb") as f:
        f.write(content)
    fake = Fake()
    fake.disk[:] = content

    def convert():
        """Reads that it took."""
        fake.order.clear()
        run(SIKA, "image", "convert", "--force", "--cache-file", "kept", "--to", "raw", fake.uri, "copy")
        assert open("copy", "rb").read() == bytes(fake.disk)  # pylint: disable=consider-using-with
        return fake.order.count(0)

    assert convert() >= SIZE // MIB
    assert convert() <= 8
    fake.disk[:] = os.urandom(SIZE)
    assert convert() >= SIZE // MIB
    assert convert() <= 8
    run(SIKA, "image", "create", "--backing", fake.uri, "top.qcow2")
    fake.order.clear()
    run(SIKA, "image", "convert", "--cache-file", "kept", "--allow", fake.uri, "top.qcow2", "flat.qcow2")
    assert fake.order.count(0) <= 8, fake.order.count(0)
    # To an export, from one.
    other = Fake(path="other")
    run(SIKA, "image", "convert", "--cache-file", "kept", fake.uri, other.uri)
    assert other.disk == fake.disk
    # Where it is of no use somebody says so.
    done = run(SIKA, "image", "compare", "--cache-file", "none", "copy", "copy")
    assert "of no use" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for disk in (fake.uri, "copy,readonly"):
        done = run(SIKA, "run", "--engine", "bt", "--kernel", "/dev/null", "--disk", disk + ",format=raw,cache-file=none", status=1)
        assert "cache-file" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def by_keys():
    os.makedirs("keys")
    run("psktool", "-u", "me", "-p", "keys/keys.psk")
    run("psktool", "-u", "me", "-p", "other.psk")
    with open("source", "wb") as f:
        f.write(os.urandom(SIZE))
    run(SIKA, "image", "convert", "--format", "raw", "source", "disk.qcow2")
    with Serve("--tls", "keys", "disk.qcow2") as s:
        uri = "nbds+unix://me@/?socket=s&tls-psk-file="
        run(SIKA, "image", "compare", uri + "keys/keys.psk", "source")
        refused("info", uri + "other.psk", words="cannot be reached")
        refused("info", URI, words="cannot be reached")
        model(open("source", "rb").read())  # pylint: disable=consider-using-with
        run(OPS, "-f", "raw", "run", uri + "keys/keys.psk", "model", random.getrandbits(40), 200)
        assert s.process.poll() is None


# ---- servers that are not what they seem ----

class Fake:
    """A server of one's own. @lie(server, connection, request) may answer instead of it: then it returns true."""

    def __init__(self, flags=0x6d, size=SIZE, block=0, limit=0, lie=None, path="s"):
        self.flags, self.size, self.lie = flags, size, lie
        self.block = struct.pack(">HIII", 3, block, 4096, limit) if block else b""
        self.disk, self.seen, self.fua = bytearray(min(size, 128 * MIB)), set(), False
        self.order = []
        self.uri = f"nbd+unix:///?socket={path}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            s, _ = self.listener.accept()
            threading.Thread(target=self.talk, args=(s,), daemon=True).start()

    def talk(self, s):
        try:
            self.handshake(s)
            while self.request(s):
                pass
        except (OSError, EOFError):
            pass
        s.close()

    def handshake(self, s):
        s.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        take(s, 4)
        option = 0
        while option != 7:
            _, option, n = struct.unpack(">QII", take(s, 16))
            take(s, n)
            if option == 7:
                for data in (struct.pack(">HQH", 0, self.size, self.flags), self.block):
                    if data:
                        s.sendall(struct.pack(">QIII", 0x3e889045565a9, option, 3, len(data)) + data)
            s.sendall(struct.pack(">QIII", 0x3e889045565a9, option, 1 if option == 7 else 0x80000001, 0))

    def request(self, s):
        _, flags, kind, cookie, at, n = struct.unpack(">IHHQQI", take(s, 28))
        data = take(s, n) if kind == 1 else b""
        self.seen.add(kind)
        self.order.append(kind)
        self.fua |= bool(flags & 1)
        if self.lie and self.lie(self, s, (kind, cookie, at, n)):
            return True
        if kind == 2:
            return False
        if kind == 1:
            self.disk[at:at + n] = data
        if kind == 6:
            self.disk[at:at + n] = bytes(n)
        s.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + (self.disk[at:at + n] if kind == 0 else b""))
        return True


def sizes_that_are_no_sectors():
    content = os.urandom(SIZE + 100)
    fake = Fake(size=SIZE + 100)
    fake.disk[:] = content
    run(SIKA, "image", "convert", "--format", "raw", "--to", "raw", fake.uri, "copy")
    with open("copy", "rb") as f:
        assert f.read() == content + bytes(412)


def lies():
    """Whatever the server does, there is an end, and a sentence."""
    def wrong_magic(_, s, request):
        return request[0] == 0 and request[2] > 0 and not s.sendall(b"?" * 16)

    def wrong_cookie(_, s, request):
        return request[0] == 0 and request[2] > 0 and not s.sendall(struct.pack(">IIQ", 0x67446698, 0, 1 << 60))

    def errors(_, s, request):
        return request[0] == 0 and request[2] > 0 and not s.sendall(struct.pack(">IIQ", 0x67446698, 5, request[1]))

    def hangs_up(_, s, request):
        return request[0] == 0 and request[2] > 0 and not s.shutdown(socket.SHUT_RDWR)

    def half(_, s, request):
        if request[0] != 0 or request[2] == 0:
            return False
        s.sendall(struct.pack(">IIQ", 0x67446698, 0, request[1]) + b"half")
        s.shutdown(socket.SHUT_RDWR)
        return True

    def structured(_, s, request):
        return request[0] == 0 and request[2] > 0 and not s.sendall(
            struct.pack(">IHHQI", 0x668e33ef, 1, 1, request[1], 0xffffffff))

    for i, lie in enumerate((wrong_magic, wrong_cookie, errors, hangs_up, half, structured)):
        fake = Fake(lie=lie, path=f"lie{i}")
        begin = time.monotonic()
        done = run(SIKA, "image", "convert", "--to", "raw", fake.uri, "copy", status=1)
        assert "cannot be read" in done.stderr and time.monotonic() - begin < 20, (lie.__name__, done.stderr)
        assert not os.path.exists("copy")
    refused("info", Fake(size=2 ** 63, path="size").uri, words="size")


def servers_may_die():
    """In the middle of it: what was asked for fails, and so does the rest."""
    for kind in (Serve, Qemu):
        make("big.raw", "raw", 256 * MIB)
        more = ("-f", "raw") if kind is Qemu else ("--format", "raw")
        with kind(*more, "big.raw") as s:
            client = subprocess.Popen([SIKA, "image", "bench", "--format", "raw", "--write", "--count", "100000000", s.uri],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            time.sleep(0.5)
            assert client.poll() is None
            s.end(signal.SIGKILL)
            _, err = client.communicate(timeout=30)
            lines = err.strip().splitlines()
            assert client.returncode == 1 and len(lines) == 2 and "connection" in lines[0], err
        if os.path.exists("s"):
            os.unlink("s")


CASES = [random_requests_at_ours, random_requests_at_qemus, an_image_of_a_format_at_a_server,
         served_again, random_requests_without_commands, writethrough_is_by_fua, verbs, all_its_names, says_what_is_wrong,
         converts_to_ours,
         converts_to_qemus, converts_to_who_knows_little, converts_by_keys, converting_ends_with_a_flush, converts_to_no_other,
         converting_may_be_interrupted, rebased_onto_an_export, below_another_image, copies_are_kept, by_keys, sizes_that_are_no_sectors, lies, servers_may_die]
NEEDED = {"qemu-nbd": "qemu-utils", "qemu-img": "qemu-utils", "psktool": "gnutls-bin"}

if __name__ == "__main__":
    sys.exit(main(CASES, NEEDED, "sika-nbd-client-"))
