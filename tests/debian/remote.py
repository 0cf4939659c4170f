# SPDX-License-Identifier: Apache-2.0
"""remote.py - a Debian guest with real programs that is reached by ssh over a forwarded port."""
import os
import socket
import subprocess
import sys
import time

from scratch import copy_image, run_command

BOOT_SECONDS = 1200
# Beside the programs themselves: 32-bit libraries for the kernel's selftests, and Java's compiler.
PACKAGES = ("gcc libc6-dev libc6-i386 make python3 libpython3.11-testsuite openssl sqlite3 stress-ng perl "
            "xz-utils gzip bzip2 zstd netbase nodejs luajit openjdk-17-jdk-headless").split()
SSH = ["-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
       "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60"]


class Wrong(Exception):
    pass


def packages_of(image):
    """What the image was built with, or None."""
    try:
        with open(image + ".packages") as f:
            return f.read()
    except FileNotFoundError:
        return None


def build_image(sika, image):
    key = image + ".key"
    if not os.path.exists(key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sika", "-f", key],
                       check=True)
    wanted = ",".join(PACKAGES)
    if not os.path.exists(image) or packages_of(image) != wanted:
        print(f"building {image}", file=sys.stderr, flush=True)
        if os.path.exists(image):  # of other packages
            os.unlink(image)
        subprocess.run([sika, "image", "build", "debian", "--size", "8G", "--ssh-key", key + ".pub",
                        "--include", wanted, image], check=True, stdout=subprocess.DEVNULL)
        with open(image + ".packages", "w") as f:
            f.write(wanted)


class Remote:
    """A guest that is reached by ssh over a forwarded port; its own session, so that a dead guest
    cannot take the test with it."""

    def __init__(self, sika, image, directory, cpus, memory, options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.key = image + ".key"
        self.console = os.path.join(directory, "console")
        disk = copy_image(image, directory)
        self.process = subprocess.Popen(
            run_command(sika, image, disk, "--cpus", str(cpus), "--memory", memory, "--net",
                        f"user,forward=tcp:{self.port}:22", "--serial", self.console, *options),
            stdin=subprocess.DEVNULL)

    def command(self):
        return ["ssh", *SSH, "-i", self.key, "-p", str(self.port), "root@127.0.0.1"]

    def ssh(self, command, data=None, timeout=600):
        return subprocess.run([*self.command(), command], input=data, capture_output=True,
                              timeout=timeout)

    def wait(self):
        end = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Wrong(f"the machine ended, status {self.process.returncode}")
            try:
                if self.ssh("true", timeout=90).returncode == 0:
                    return
            except subprocess.TimeoutExpired:
                pass
            time.sleep(0.5)
        raise Wrong(f"no ssh within {BOOT_SECONDS} s")

    def script(self, text, timeout):
        """What @text, a bash script, prints, and its status; in an empty directory."""
        r = self.ssh(f"cd $(mktemp -d) && exec timeout {timeout} bash -s", text.encode(),
                     timeout + 60)
        return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
