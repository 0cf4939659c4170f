#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""web.py - disks at web servers: good ones, some that know no ranges, that lie, change, and break off.

usage: web.py SIKA DISK_OPS

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cases import main
from commands import ENVIRONMENT, MIB, run
from sika import SIKA, refused

OPS = os.path.abspath(sys.argv[2])
SIZE = 8 * MIB
HEAD = 1 << 16  # the table of a cache file ends there, where it has few chunks


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):  # pylint: disable=arguments-differ
        pass

    def do_GET(self):
        web = self.server.web
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(n) for n in found.groups()) if found else (0, len(web.content) - 1)
        last = min(last, len(web.content) - 1)
        with web.lock:
            web.requests += 1
            web.bytes += last - first + 1 if last else 0
        if web.answer and web.answer(self, first, last):
            return
        self.part(first, last)

    def part(self, first, last, status=206, said=None, body=None, etag=None):
        """What is right, but for what is given."""
        web = self.server.web
        body = web.content[first:last + 1] if body is None else body
        self.send_response(status)
        self.send_header("Content-Range", said or f"bytes {first}-{last}/{len(web.content)}")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("ETag", etag or web.etag), ("Last-Modified", web.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def head(self, status, *lines):
        self.send_response(status)
        for name, value in lines:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def hang_up(self, first, last, after):
        """In the middle of a good answer."""
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.server.web.content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", self.server.web.etag)
        self.end_headers()
        self.wfile.write(self.server.web.content[first:first + after])
        self.wfile.flush()
        self.close_connection = True


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):  # clients hang up
        pass


class Web:
    def __init__(self, content, answer=None, etag='"one"', modified=None):
        self.content, self.answer, self.etag, self.modified = content, answer, etag, modified
        self.requests = self.bytes = 0
        self.lock = threading.Lock()
        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.web = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/disk.img"


def noise(size=SIZE):
    return os.urandom(size)


def write(path, content):
    with open(path, "wb") as f:
        f.write(content)
    return path


def convert(url, *more, form="raw"):
    run(SIKA, "image", "convert", "--force", "--format", form, "--to", "raw", *more, url, "copy")
    with open("copy", "rb") as f:
        return f.read()


# ---- reading ----

def reads():
    content = noise(SIZE - 3 * MIB) + bytes(MIB) + noise(2 * MIB)
    web = Web(content)
    assert convert(web.url) == content
    assert web.bytes < 1.2 * SIZE, web.bytes
    write("source", content)
    run(OPS, "-f", "raw", "compare", web.url, "source", status=None)
    run(SIKA, "image", "compare", web.url, "source")
    info = json.loads(run(SIKA, "image", "info", "--json", web.url).stdout)
    assert info["format"] == "raw" and info["size_bytes"] == SIZE, info
    run(SIKA, "image", "bench", "--random", "--count", 2000, "--depth", 32, web.url)
    run(SIKA, "image", "map", web.url)


def odd_sizes():
    for size in (1, 511, 513, 65537, MIB + 100):
        content = noise(size)
        assert convert(Web(content).url) == content + bytes(-size % 512)


def an_image_of_a_format():
    write("source", noise())
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "source", "packed.qcow2")
    with open("packed.qcow2", "rb") as f:
        web = Web(f.read())
    run(SIKA, "image", "compare", web.url, "source")
    run(SIKA, "image", "check", web.url)


def below_another_image():
    content = noise()
    web = Web(content)
    run(SIKA, "image", "create", "--backing", web.url, "--backing-format", "raw", "top.qcow2")
    refused("compare", "top.qcow2", web.url, words="allow that name")
    place = web.url.rsplit("/", 1)[0] + "/"
    run(SIKA, "image", "compare", "--allow", place, "top.qcow2", web.url)
    # Where an image leads, the server does not lead on.
    web.answer = lambda h, *_: not h.head(302, ("Location", "/other"))
    refused("compare", "--allow", place, "top.qcow2", "top.qcow2", words="answers 302")
    web.answer = None
    # What is written goes to the image on top.
    write("model", content)
    run(SIKA, "image", "create", "--force", "--backing", write("base", content), "--backing-format", "raw", "top.qcow2")
    run(SIKA, "image", "rebase", "--unsafe", "--backing", web.url, "--backing-format", "raw", "top.qcow2")


def while_a_loop_runs():
    """As a machine has it: offered by our NBD server."""
    content = noise()
    web = Web(content)
    write("source", content)
    server = subprocess.Popen([SIKA, "image", "serve", "--read-only", "--socket", "s", web.url], stdout=subprocess.PIPE,
                              text=True, env=ENVIRONMENT)
    try:
        uri = server.stdout.readline().strip()
        run(OPS, "-f", "raw", "compare", uri, "source", status=None)
        clients = [subprocess.Popen(["qemu-io", "-r", "-f", "raw", uri, *[x for _ in range(40) for x in (
            "-c", f"aio_read -q {random.randrange(SIZE // 4096) * 4096} 4k")], "-c", "aio_flush"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(3)]
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, "source")
        for client in clients:
            out = client.communicate(timeout=60)[0]
            assert client.returncode == 0 and "rror" not in out and "ailed" not in out, out
        # Under way while the server ends.
        web.answer = lambda *_: time.sleep(0.5)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        server.stdout.close()


def ends_while_silent():
    """Whoever ends does not wait for a server that accepts and says nothing, nor for one that stops in the middle."""
    def half(h, first, last):
        h.hang_up(first, last, (last - first) // 2)
        time.sleep(60)
        return True
    servers = []
    for i, answer in enumerate((lambda *_: time.sleep(60) or True, half)):
        web = Web(noise())
        server = subprocess.Popen([SIKA, "image", "serve", "--read-only", "--format", "raw", "--socket", f"s{i}", web.url],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        uri = server.stdout.readline().strip()
        web.answer = answer
        client = subprocess.Popen([SIKA, "image", "bench", "--random", "--depth", "32", "--count", "1000", uri], env=ENVIRONMENT,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        servers.append((server, client))
    time.sleep(1)
    begin = time.monotonic()
    for server, _ in servers:
        server.send_signal(signal.SIGTERM)
    for server, client in servers:
        _, err = server.communicate(timeout=60)
        assert 3 < time.monotonic() - begin < 12 and server.returncode == 0, (time.monotonic() - begin, err)
        assert err.count("has said nothing for") == 1 and "given up" in err, err
        client.communicate(timeout=30)


def other_places():
    content = noise(MIB)
    web = Web(content)
    far = Web(b"", lambda h, *_: not h.head(302, ("Location", web.url)))
    assert convert(far.url) == content
    for place in ("file:///etc/passwd", "gopher://127.0.0.1/", far.url):
        far.answer = lambda h, *_, place=place: not h.head(302, ("Location", place))
        refused("info", far.url, words="cannot be reached")


# ---- servers that are not what they seem ----

def says_what_is_wrong():
    web = Web(noise(MIB))
    whole = Web(web.content, lambda h, *_: not h.part(0, MIB - 1, status=200))
    refused("info", whole.url, words="no parts")
    for status in (404, 403, 416, 500):
        web.answer = lambda h, *_, status=status: not h.head(status)
        refused("info", web.url, words=f"answers {status}")
    for said in ("bytes 0-0/*", "bytes 1-1/100", "lines 0-0/100", "bytes 0-0/0", "bytes 5-0/9", "bytes 0-0/99999999999999999999",
                 "bytes 0-0/9223372036854775808", "", "bytes"):
        web.answer = lambda h, first, last, said=said: not h.part(first, last, said=said or " ")
        refused("info", web.url, words="makes no sense")
    web.answer = lambda h, first, last: not h.part(first, last, said="bytes 0-0/4611686018427387904")
    refused("info", web.url, words="too large")
    refused("info", "http://127.0.0.1:1/", words="cannot be reached")
    refused("info", "http://", words="cannot be reached")
    refused("info", "http://no.such.host.invalid/", words="cannot be reached")
    web.answer = lambda h, *_: not h.head(401)
    line = refused("info", web.url.replace("://", "://me:secret@"), words="answers 401")
    assert "secret" not in line, line
    refused("bench", "--write", Web(noise(MIB)).url, words="can only be read")


def lies():
    content = noise(MIB)
    good = [True]

    def part(**wrong):
        def answer(h, first, last):
            return last > 0 and not good[0] and not h.part(first, last, **wrong)
        return answer

    for name, answer in (
            ("another place", part(said=f"bytes 512-1023/{MIB}")), ("more", part(body=bytes(2 * MIB))),
            ("less", part(body=b"x")), ("nothing", part(body=b"")),
            ("another size", part(said=f"bytes 0-{MIB - 1}/{MIB + 512}")),
            ("not found", lambda h, first, last: last > 0 and not h.head(404))):
        good[0] = False
        web = Web(content, answer)
        begin = time.monotonic()
        done = run(SIKA, "image", "convert", "--force", "--format", "raw", "--to", "raw", web.url, "copy", status=None)
        # One who gives less is asked for the rest, again and again, up to a limit.
        assert done.returncode == 1 and "cannot be read" in done.stderr, (name, done)
        assert time.monotonic() - begin < 20 and not os.path.exists("copy")


def breaks_off():
    content = noise()
    count = [0]

    def now_and_then(h, first, last):
        with h.server.web.lock:
            count[0] += 1
            if count[0] % 3 or not last:
                return False
        if count[0] % 2:
            h.head(503)
        else:
            h.hang_up(first, last, random.randrange(last - first + 1))
        return True

    web = Web(content, now_and_then)
    assert convert(web.url) == content
    assert count[0] > 9, count
    web.answer = lambda h, first, last: last > 0 and not h.hang_up(first, last, 0)
    done = run(SIKA, "image", "convert", "--to", "raw", "--format", "raw", web.url, "none", status=1)
    assert "a read failed" in done.stderr and "cannot be read" in done.stderr, done.stderr


def changes():
    """A disk of two halves is not seen."""
    def later(h, first, last):
        if first >= SIZE // 2:
            h.server.web.etag = '"two"'
        return False

    done = run(SIKA, "image", "convert", "--to", "raw", "--format", "raw", Web(noise(), later).url, "copy", status=1)
    assert "has changed" in done.stderr and not os.path.exists("copy"), done.stderr


def only_known_certificates():
    run("certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", "key.pem")
    write("template", b"cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\n")
    run("certtool", "--generate-self-signed", "--load-privkey", "key.pem", "--template", "template", "--outfile",
        "cert.pem")
    web = Web(noise(MIB))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("cert.pem", "key.pem")
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    refused("info", web.url.replace("http:", "https:"), words="cannot be reached")
    assert web.requests == 0


# ---- what is kept ----

def keeps_copies():
    content = noise()
    for validators in ({"etag": '"a"'}, {"etag": None, "modified": "Sat, 21 Nov 2026 10:00:00 GMT"}):
        web = Web(content, **validators)
        keep = ("--cache-file", "kept")
        assert convert(web.url, *keep) == content
        first = web.bytes
        assert first >= SIZE
        assert convert(web.url, *keep) == content
        assert web.bytes - first < 65536, web.bytes - first
        # Another version.
        web.content = content = noise()
        web.etag, web.modified = (v and v.replace("a", "b") for v in (web.etag, web.modified))
        before = web.bytes
        assert convert(web.url, *keep) == content
        assert web.bytes - before >= SIZE
        os.unlink("kept")
    # One that nobody can tell from another.
    web = Web(content, etag=None)
    assert convert(web.url, *keep) == content and convert(web.url, *keep) == content
    assert web.bytes >= 2 * SIZE


def does_not_believe_its_copies():
    content = noise()
    web = Web(content)
    assert convert(web.url, "--cache-file", "kept") == content
    before = web.bytes
    with open("kept", "r+b") as f:
        for _ in range(20):
            f.seek(HEAD + random.randrange(SIZE))
            f.write(b"?")
    assert convert(web.url, "--cache-file", "kept") == content
    assert 65536 <= web.bytes - before < 25 * 65536, web.bytes - before
    # A table of nonsense, a file cut off.
    with open("kept", "r+b") as f:
        f.seek(4096)
        f.write(b"\1\0\0\0" * 2 * (SIZE // 65536))
    assert convert(web.url, "--cache-file", "kept") == content
    os.truncate("kept", HEAD + SIZE // 2)
    assert convert(web.url, "--cache-file", "kept") == content
    os.truncate("kept", 5000)
    assert convert(web.url, "--cache-file", "kept") == content


def survives_kills():
    content = noise()
    web = Web(content, lambda *_: time.sleep(0.01))
    for _ in range(8):
        process = subprocess.Popen([SIKA, "image", "bench", "--random", "--format", "raw", "--count", "100000000",
                                    "--cache-file", "kept", web.url], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        time.sleep(0.05 + random.random() / 5)
        process.kill()
        process.wait()
    web.answer = None
    before = web.bytes
    assert convert(web.url, "--cache-file", "kept") == content
    assert web.bytes - before < SIZE


def keeps_within_bounds():
    content = noise(4 * SIZE)
    web = Web(content)
    assert convert(web.url, "--cache-file", "kept", "--cache-size", "4M") == content
    assert os.stat("kept").st_blocks * 512 < 5 * MIB, os.stat("kept").st_blocks
    run(SIKA, "image", "bench", "--random", "--count", 3000, "--depth", 16, "--cache-file", "kept", "--cache-size", "4M",
        web.url)
    assert os.stat("kept").st_blocks * 512 < 5 * MIB, os.stat("kept").st_blocks
    assert convert(web.url, "--cache-file", "kept", "--cache-size", "4M") == content


def other_peoples_files():
    web = Web(noise(MIB))
    write("mine", b"a letter")
    refused("info", "--cache-file", "mine", web.url, words="something else")
    with open("mine", "rb") as f:
        assert f.read() == b"a letter"
    refused("info", "--cache-file", "no/where", web.url, words="no/where")
    web.answer = lambda *_: time.sleep(0.05)
    process = subprocess.Popen([SIKA, "image", "bench", "--random", "--format", "raw", "--count", "100000000",
                                "--cache-file", "kept", web.url], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    time.sleep(0.7)
    refused("info", "--cache-file", "kept", web.url, words="in use")
    process.kill()
    process.wait()


CASES = [reads, odd_sizes, an_image_of_a_format, below_another_image, while_a_loop_runs, ends_while_silent, other_places,
         says_what_is_wrong, lies, breaks_off, changes, only_known_certificates, keeps_copies, does_not_believe_its_copies, survives_kills,
         keeps_within_bounds, other_peoples_files]
NEEDED = {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "certtool": "gnutls-bin"}

if __name__ == "__main__":
    sys.exit(main(CASES, NEEDED, "sika-web-"))
