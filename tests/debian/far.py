#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""far.py - Debian from a web server, copy on write, with disks at NBD servers, which die, come back and fall silent, and one in
memory that is held to a rate.

usage: far.py SIKA IMAGE [OPTION of sika run]...
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scratch import Failure, Guest, report, run_command

MIB = 1 << 20


class Ranges(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):  # pylint: disable=arguments-differ
        pass

    def do_GET(self):
        path, size = self.server.path, os.path.getsize(self.server.path)
        first, last = (int(n) for n in re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        with open(path, "rb") as f:
            f.seek(first)
            body = f.read(last - first + 1)
        self.server.bytes += len(body)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"image"')
        self.end_headers()
        self.wfile.write(body)


def web_server(path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.path, server.bytes, server.daemon_threads = path, 0, True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Server:
    """`sika image serve` of an image of its own."""

    def __init__(self, sika, folder, name):
        self.command = [sika, "image", "serve", "--socket", os.path.join(folder, name + ".sock"),
                        os.path.join(folder, name + ".qcow2")]
        subprocess.run([sika, "image", "create", self.command[-1], "256M"], check=True)
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self.uri = self.process.stdout.readline().strip()

    def signal(self, how):
        self.process.send_signal(how)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def expect(text, pattern):
    if not re.search(pattern, text):
        raise Failure(f"nothing like '{pattern}' in: {text}")


def seconds(text):
    return float(re.search(r"([\d.]+) s,", text).group(1))


class Machine:
    def __init__(self, sika, image, folder, options):
        self.sika, self.folder = sika, folder
        os.environ.update(XDG_RUNTIME_DIR=folder, TMPDIR=folder)
        for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
            del os.environ[name]
        self.web = web_server(image)
        self.nbd, self.stops, self.tells = (Server(sika, folder, name) for name in ("far", "stops", "tells"))
        root = f"http://127.0.0.1:{self.web.server_port}/disk,format=raw,cow,cache-file={folder}/kept"
        self.guest = Guest(run_command(sika, image, root, "--name", "far", "--disk", self.nbd.uri.replace(",", ",,") + ",iothread=far",
                                       "--disk", "scratch:1G,bps=20M,iops=2000",
                                       "--disk", self.stops.uri + ",reconnect-delay=2,werror=stop,rerror=stop",
                                       "--disk", self.tells.uri + ",reconnect-delay=2,werror=report", *options), echo=False)

    def run(self, command):
        return self.guest.run(command, 600)

    def status(self):
        return subprocess.run([self.sika, "status", "far"], check=True, capture_output=True, text=True, timeout=10).stdout

    def wait_for_status(self, pattern, timeout):
        end = time.monotonic() + timeout
        while not re.match(pattern, self.status()):
            if time.monotonic() > end:
                raise Failure(f"not {pattern} but {self.status()}")
            time.sleep(0.2)

    def end(self):
        self.guest.kill()
        for server in (self.nbd, self.stops, self.tells):
            server.kill()

    def stats(self):
        out = subprocess.run([self.sika, "disk-stats", "far", "--json"], check=True, capture_output=True, text=True).stdout
        return json.loads(out)


def boots_and_forgets(m):
    """The system came over the web; what it writes does not go there."""
    m.run("dd if=/dev/urandom of=/root/noise bs=1M count=32 status=none conv=fsync && sync")
    m.run("sha256sum /root/noise > /tmp/sum && echo 3 > /proc/sys/vm/drop_caches && sha256sum -c /tmp/sum")
    if not 10 * MIB < m.web.bytes < 1 << 30:
        raise Failure(f"{m.web.bytes} bytes came from the web")


def a_disk_at_a_server(m):
    m.run("dd if=/dev/urandom of=/tmp/n bs=1M count=24 status=none && dd if=/tmp/n of=/dev/vdb bs=64K oflag=direct status=none")
    m.run("dd if=/dev/vdb bs=1M count=24 iflag=direct status=none | cmp - /tmp/n")
    m.run("mkfs.ext4 -q /dev/vdb && mount -o discard /dev/vdb /mnt && cp /tmp/n /mnt && sync && rm /mnt/n && fstrim /mnt && "
          "cp /tmp/n /mnt && umount /mnt && mount /dev/vdb /mnt && cmp /tmp/n /mnt/n && umount /mnt && fsck.ext4 -fn /dev/vdb")


def a_rate_is_kept(m):
    """20 MiB/s and 2000 requests a second."""
    took = seconds(m.run("dd if=/dev/zero of=/dev/vdc bs=1M count=100 oflag=direct 2>&1 | tail -1"))
    if not 4.4 < took < 15:
        raise Failure(f"100 MiB took {took} s")
    took = seconds(m.run("dd if=/dev/vdc of=/dev/null bs=512 count=4000 iflag=direct 2>&1 | tail -1"))
    if took < 1.8:
        raise Failure(f"4000 requests took {took} s")
    m.run("blkdiscard /dev/vdc && cmp -n 1048576 /dev/zero /dev/vdc")


def counts(m):
    before = m.stats()
    m.run("dd if=/dev/vdc of=/dev/null bs=4096 count=500 iflag=direct status=none && dd if=/dev/zero of=/dev/vdc bs=4096 count=300 "
          "oflag=direct status=none")
    after = m.stats()
    for kind, ops in (("read", 500), ("write", 300)):
        now, then = after[2][kind], before[2][kind]
        # Whoever watches for new disks has a look at one that was written to.
        more, moved = now["ops"] - then["ops"] - ops, now["bytes"] - then["bytes"] - ops * 4096
        if not 0 <= more < 300 or not 0 <= moved < 16 * MIB or now["errors"]:
            raise Failure(f"{kind}: {then} became {now}")
        if sum(b["ops"] for b in now["latency"]) != now["ops"]:
            raise Failure(f"a histogram of {now}")
    text = subprocess.run([m.sika, "disk-stats", "far", "--histogram"], check=True, capture_output=True, text=True).stdout
    expect(text, r"disk 2 \(scratch:1G\)")


def a_server_dies(m):
    """Its disk fails at once, the others go on."""
    m.run("dd if=/dev/vdb of=/dev/null bs=1M count=1 iflag=direct status=none")
    m.nbd.kill()
    expect(m.run("dd if=/dev/vdb of=/dev/null bs=1M count=1 iflag=direct 2>&1 || true"), "Input/output error")
    m.run("dd if=/dev/vdc of=/dev/null bs=1M count=1 iflag=direct status=none && ls / > /dev/null")


def the_machine_stops_for_a_server(m):
    """werror=stop: away for longer than the delay, and the guest knows nothing of it."""
    m.run("dd if=/dev/urandom of=/tmp/n bs=1M count=24 status=none")
    m.guest.send("for i in 1 2 3 4 5 6 7 8; do dd if=/tmp/n of=/dev/vdd bs=64K oflag=direct conv=fsync status=none || break; done; "
                 "echo di''d $?")
    time.sleep(1)
    m.stops.kill()
    m.wait_for_status(r"paused: disk 3 .*: Input/output error", 60)
    time.sleep(3)
    m.wait_for_status("paused", 0)
    m.stops.start()
    m.wait_for_status("running", 60)
    if m.guest.expect(r"did (\d+)", "an answer from dd", timeout=300)[1] != "0":
        raise Failure("the guest saw an error")
    m.run("dd if=/dev/vdd bs=1M count=24 iflag=direct status=none | cmp - /tmp/n && ! dmesg | grep -i 'I/O error.*vdd'")


def the_guest_hears_of_a_server(m):
    """werror=report: the guest has an error when the delay is over, and its disk again when the server is back."""
    m.run("dd if=/dev/zero of=/dev/vde bs=1M count=1 oflag=direct status=none")
    m.tells.kill()
    expect(m.run("dd if=/tmp/n of=/dev/vde bs=1M count=1 oflag=direct 2>&1 || true"), "Input/output error")
    m.wait_for_status("running", 0)
    m.tells.start()
    m.run("for i in $(seq 30); do dd if=/tmp/n of=/dev/vde bs=1M oflag=direct status=none 2>/dev/null && break; sleep 1; done; "
          "dd if=/dev/vde bs=1M count=24 iflag=direct status=none | cmp - /tmp/n")


def fall_silent(m):
    m.guest.send("dd if=/dev/zero of=/dev/vdd bs=64K oflag=direct status=none &")
    time.sleep(1)
    m.stops.signal(signal.SIGSTOP)
    time.sleep(1)


def refused(m, words, *verb):
    done = subprocess.run([m.sika, *verb], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 1 or words not in done.stderr:
        raise Failure(f"{verb}: {done}")


def a_silent_server_holds_up_nobody(m):
    """Others go on, what needs a standstill is refused, and a reset waits while the control socket answers."""
    fall_silent(m)
    m.run("dd if=/dev/vdc of=/dev/null bs=1M count=1 iflag=direct status=none")
    refused(m, "requests are not answered", "resize", "far", "3", "512M")
    refused(m, "requests are not answered", "image", "serve", "--machine", "far", "--socket", os.path.join(m.folder, "x"), "3")
    m.run("dd if=/dev/vdc of=/dev/null bs=1M count=1 iflag=direct status=none")
    m.guest.send("echo b > /proc/sysrq-trigger")
    time.sleep(7)
    m.wait_for_status("resetting", 0)
    refused(m, "about to end, or to reset", "resize", "far", "2", "2G")
    m.stops.signal(signal.SIGCONT)
    m.guest.login()
    m.wait_for_status("running", 0)
    m.run("dd if=/dev/vdd of=/dev/null bs=1M count=1 iflag=direct status=none")


def ends_in_spite_of_a_silent_server(m):
    """A reset first, which waits; the end is heard all the same."""
    fall_silent(m)
    m.guest.send("echo b > /proc/sysrq-trigger")
    m.wait_for_status("resetting", 30)
    began = time.monotonic()
    m.guest.process.send_signal(signal.SIGTERM)
    status = m.guest.process.wait(60)
    took = time.monotonic() - began
    if status != 128 + signal.SIGTERM or took > 15:
        raise Failure(f"status {status} after {took:.1f} s")


CASES = [boots_and_forgets, a_disk_at_a_server, a_rate_is_kept, counts, a_server_dies, the_machine_stops_for_a_server,
         the_guest_hears_of_a_server, a_silent_server_holds_up_nobody, ends_in_spite_of_a_silent_server]


def main():
    sika, image = (os.path.abspath(p) for p in sys.argv[1:3])
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="sika-far-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        before = os.stat(image)
        began = time.monotonic()
        m = Machine(sika, image, folder, sys.argv[3:])
        try:
            m.guest.login()
            print(f"login after {time.monotonic() - began:.1f} s, {m.web.bytes >> 20} MiB from the web", flush=True)
            for case in CASES:
                try:
                    case(m)
                    passed += 1
                    print(f"ok: {case.__name__}", flush=True)
                except Failure as error:
                    failed += 1
                    print(f"failed: {case.__name__}: {error}", flush=True)
        finally:
            m.end()
        after = os.stat(image)
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            print("failed: the image has changed", flush=True)
            failed += 1
    return report(passed, failed)


if __name__ == "__main__":
    sys.exit(main())
