# SPDX-License-Identifier: Apache-2.0
"""guest_console.py - drive a Debian guest of ours over its serial console, as a person would."""
import os
import re
import selectors
import subprocess
import sys
import time

TIMEOUT = float(os.environ.get("SIKA_TIMEOUT", "600"))


class Failure(Exception):
    pass


RAM_MEMFD = "/memfd:guest-ram"  # src/mem/mem.c


def memory_beyond_guest(pid):
    """KiB resident that are not the guest's RAM: every mapping but the RAM's memfd, pages that are mapped
    twice (the code cache) counted once."""
    kib, ram = 0, False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                ram = RAM_MEMFD in line
            elif line.startswith("Pss:") and not ram:
                kib += int(line.split()[1])
    return kib


class Guest:
    """One run of the machine; its console on pipes, copied to our standard output."""

    def __init__(self, command, echo=True):
        self.echo = echo
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.seen = ""
        self.mark = 0

    def show(self, text):
        if self.echo:
            sys.stdout.write(text)
            sys.stdout.flush()

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def expect(self, pattern, what, timeout=TIMEOUT):
        end = time.monotonic() + timeout
        while True:
            m = re.search(pattern, self.seen)
            if m:
                self.seen = self.seen[m.end():]
                return m
            left = end - time.monotonic()
            if left <= 0:
                raise Failure(f"{what}: nothing like it within {timeout:.0f} s, only {self.seen[-1000:]!r}")
            if not self.selector.select(min(left, 1)):
                continue
            data = self.process.stdout.read(65536)
            if data == b"":
                raise Failure(f"{what}: the machine ended before, status {self.process.wait()}")
            if data:
                text = data.decode(errors="replace")
                self.show(text)
                self.seen += text

    def login(self):
        self.expect(r"login: ", "a login")
        self.send("root")
        self.expect(r"Password: ", "a password prompt")
        self.send("sika")
        self.expect(r"# ", "a shell")
        # Plain output from here on, and no kernel messages amid it.
        self.send("export TERM=dumb PS1= PS2=; bind 'set enable-bracketed-paste off' 2>/dev/null; "
                  "stty -echo; dmesg -n 1")
        self.run("true")

    def run(self, command, timeout=TIMEOUT):
        """Output of a command; Failure when its status is not 0."""
        self.mark += 1
        # Typed with quotes inside, so that only the output matches.
        self.send(f"echo \"<\"{self.mark}\"[\"; {command}; echo \"]\"{self.mark}\":$?>\"")
        m = self.expect(rf"<{self.mark}\[\r?\n((?s:.*?))\]{self.mark}:(\d+)>", command, timeout)
        if m[2] != "0":
            raise Failure(f"'{command}' in the guest: status {m[2]}")
        return m[1].replace("\r", "")

    def power_off(self):
        self.send("poweroff")
        end = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Failure("the machine does not power off")
            if self.selector.select(1):
                data = self.process.stdout.read(65536)
                if data:
                    self.show(data.decode(errors="replace"))
        if self.process.returncode != 0:
            raise Failure(f"power off: status {self.process.returncode} instead of 0")

    def kill(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
