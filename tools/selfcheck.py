#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""selfcheck.py - boot the Debian image twice without a terminal and look whether all of it holds.

usage: selfcheck.py SIKA IMAGE [OPTION of sika run]...

Boot 1: log in, show the machine, fetch a page from an HTTP server on the host's loopback, reach the
guest's ssh through a forwarded port, write a file, power off. Boot 2: the file is there.
Exit status 0 when every check held.
"""
import http.server
import secrets
import socket
import subprocess
import sys
import threading
import time

from guest_console import TIMEOUT, Failure, Guest

FILE = "/root/sika-selfcheck"


class Page(http.server.BaseHTTPRequestHandler):
    text = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *args):
        pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ssh_banner(port):
    """What a server behind the forwarded port says first; sshd may still be starting."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as s:
                banner = s.recv(64)
                if banner:
                    return banner.decode(errors="replace").strip()
        except OSError:
            pass
        time.sleep(1)
    return ""


def command(sika, image, port, extra):
    return [sika, "run", "--name", "selfcheck", "--memory", "1G", "--cpus", "2",
            "--kernel", image + ".vmlinuz", "--initrd", image + ".initrd", "--disk", image,
            "--append", "console=ttyS0 root=/dev/vda", "--net", f"user,forward=tcp:{port}:22",
            *extra]


def first_boot(guest, page_port, ssh_port, token, say):
    guest.login()
    say("boots to a login and logs in", True)
    guest.run("uname -a")
    cpus = guest.run("nproc; grep -m1 'model name' /proc/cpuinfo")
    say("CPUs: " + " ".join(cpus.split()), True)
    guest.run("free -m")
    guest.run("lsblk")
    fetched = guest.run(f"wget -T 60 -qO- http://10.0.2.2:{page_port}/")
    say("fetched over its network what the host serves", token in fetched)
    banner = ssh_banner(ssh_port)
    say(f"forwarded port reaches ssh: {banner}", banner.startswith("SSH-2.0"))
    guest.run(f"echo {token} >{FILE} && sync")
    guest.power_off()
    say("powers off", True)


def second_boot(guest, token, say):
    guest.login()
    found = guest.run(f"cat {FILE}")
    say("the second boot finds the file of the first", token in found)
    guest.run(f"rm {FILE}")
    guest.power_off()


def main():
    sika, image, extra = sys.argv[1], sys.argv[2], sys.argv[3:]
    token = secrets.token_hex(16)
    results = []

    def say(what, held):
        results.append((what, held))

    Page.text = f"sika says {token}\n".encode()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    guest = None
    try:
        port = free_port()
        guest = Guest(command(sika, image, port, extra))
        first_boot(guest, server.server_port, port, token, say)
        guest = Guest(command(sika, image, free_port(), extra))
        second_boot(guest, token, say)
    except (Failure, OSError, subprocess.TimeoutExpired) as e:
        say(str(e), False)
    except KeyboardInterrupt:
        say("interrupted", False)
    finally:
        if guest:
            guest.kill()
    print("\n---- self-check")
    for what, held in results:
        print(("ok      " if held else "FAILED  ") + what)
    failed = sum(not held for _, held in results)
    print(f"{len(results) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
