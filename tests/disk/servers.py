# SPDX-License-Identifier: Apache-2.0
"""servers.py - NBD servers for tests, ours and QEMU's, each in a folder of the test's own, and what they serve."""
import os
import signal
import subprocess
import time

from commands import MIB, run
from sika import SIKA

SIZE = 16 * MIB
URI = "nbd+unix:///?socket=s"


class Serve:
    """`sika image serve` at the socket s, or elsewhere. It listens when we go on."""

    def __init__(self, *arguments, where=("--socket", "s")):
        self.process = subprocess.Popen([SIKA, "image", "serve", *where, *arguments], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.uri = self.process.stdout.readline().strip()
        assert self.uri, self.process.stderr.read()
        self.socket = where[1] if where[0] == "--socket" else None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.end(check=kind is None)

    def end(self, how=signal.SIGTERM, check=True):
        """It ends as it should, and leaves nothing."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=60)
        if check and how != signal.SIGKILL:
            self.check_end(out, err)

    def check_end(self, out, err):
        assert self.process.returncode == 0 and not out, (self.process.returncode, out, err)
        assert not self.socket or not os.path.exists(self.socket)

    def left(self):
        """The status, once it ends by itself."""
        self.process.communicate(timeout=60)
        return self.process.returncode


class Qemu(Serve):
    """qemu-nbd at the socket s."""

    def __init__(self, *arguments):  # pylint: disable=super-init-not-called
        self.process = subprocess.Popen(["qemu-nbd", "--persistent", "--shared=4", "--socket=" + os.path.abspath("s"),
                                         *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.uri = URI
        for _ in range(600):
            if os.path.exists("s"):
                return
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)
        raise AssertionError("qemu-nbd does not listen")

    def check_end(self, out, err):
        pass


def make(path="disk.qcow2", form="qcow2", size=SIZE):
    """An image to serve."""
    run(SIKA, "image", "create", "--force", "--format", form, path, size)
    return path


def take(s, n):
    """So many bytes from a socket."""
    got = b""
    while len(got) < n:
        part = s.recv(n - len(got))
        if not part:
            raise EOFError
        got += part
    return got
