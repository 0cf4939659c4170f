#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rbd.py - images of Ceph clusters: names, and a cluster that nobody can reach. With SIKA_TEST_RBD=rbd:POOL/IMAGE..., an image that may
be overwritten, requests against a model as well. Run by ceph.sh, all that needs a cluster, which is stopped and killed for it.

usage: rbd.py SIKA DISK_OPS

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import signal
import subprocess
import sys
import time

from cases import Skip, main

SIKA, OPS = (os.path.abspath(p) for p in sys.argv[1:3])
IMAGE = os.environ.get("SIKA_TEST_RBD")
CLUSTER = os.environ.get("CEPH_FOLDER")
MIB = 1 << 20
SIZE = 24 * MIB


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120, check=False)


def sentence(name, words):
    done = run(SIKA, "image", "info", name)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and words in lines[0], (name, done)


def names():
    for name in ("rbd:", "rbd:pool", "rbd:pool/", "rbd:/image", "rbd:pool/image:x", "rbd:pool/image:=x", "rbd:pool/:mon_host=x"):
        sentence(name, "is not rbd:POOL/IMAGE")
    sentence("rbd:pool/image:mon_host=x:no_such_option=1", "no option 'no_such_option'")
    sentence("rbd:pool/image:conf=/no/where", "configuration cannot be read")


def nobody_answers():
    begin = time.monotonic()
    sentence(r"rbd:pool/image:mon_host=127.0.0.1\:1:client_mount_timeout=2", "cluster cannot be reached")
    assert time.monotonic() - begin < 20
    if not os.path.exists("/etc/ceph/ceph.conf") and not os.environ.get("CEPH_CONF"):
        sentence("rbd:pool/image", "no /etc/ceph/ceph.conf")


def images_do_not_lead_there():
    assert run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", r"rbd:pool/image:mon_host=127.0.0.1\:1", "-F", "raw", "a.qcow2",
               "1M").returncode == 0
    done = run(SIKA, "image", "map", "a.qcow2")
    assert done.returncode == 1 and "allow that name" in done.stderr, done
    done = run(SIKA, "image", "map", "--allow", r"rbd:pool/image:mon_host=127.0.0.1\:1", "a.qcow2")
    assert done.returncode == 1 and "without options" in done.stderr, done


def requests_against_a_model(image, form="raw"):
    size = json.loads(good(SIKA, "image", "info", "--json", "--format", form, image).stdout)["size_bytes"]
    good(SIKA, "image", "convert", "--force", "--format", form, "--to", "raw", image, "model")
    assert os.path.getsize("model") == size
    for _ in range(3):
        good(OPS, "-f", form, "run", image, "model", random.getrandbits(40), 300)
    good(OPS, "-f", form, "compare", image, "model")


def random_requests():
    requests_against_a_model(IMAGE)


# ---- in a cluster of ours ----

def good(*command):
    done = run(*command)
    assert done.returncode == 0, (command, done)
    return done


def make(name, size=SIZE):
    subprocess.run(["rbd", "rm", "--no-progress", f"disks/{name}"], capture_output=True, check=False, timeout=60)
    good("rbd", "create", "--size", f"{size}B", f"disks/{name}")
    return f"rbd:disks/{name}"


def noise(path, *parts):
    """Random bytes and zeros, in turn, of these many KiB."""
    content = b"".join(os.urandom(n << 10) if i % 2 == 0 else bytes(n << 10) for i, n in enumerate(parts))
    with open(path, "wb") as f:
        f.write(content)
    return len(content)


def daemon(name, how):
    with open(os.path.join(CLUSTER, name + ".pid"), encoding="ascii") as f:
        os.kill(int(f.read()), how)


def random_requests_and_qemus():
    image = make("model")
    requests_against_a_model(image)
    good("qemu-img", "compare", "-f", "raw", "-F", "raw", image, "model")
    good("qemu-io", "-f", "raw", "-c", f"write -P 7 {SIZE // 2} 1M", "-c", "discard 1M 3M", "-c", "write -z 8M 1M", image)
    requests_against_a_model(image)
    with open("model", "rb") as f:
        assert len(f.read()) == SIZE
    good("qemu-img", "compare", "-f", "raw", "-F", "raw", image, "model")


def a_qcow2_image_in_an_image():
    image = "rbd:disks/packed"
    good("qemu-img", "create", "-q", "-f", "qcow2", image, SIZE)
    good("rbd", "resize", "--no-progress", "--size", f"{2 * SIZE}B", image[4:])  # we do not make it grow
    requests_against_a_model(image, "qcow2")
    good("qemu-img", "check", "-q", "-f", "qcow2", image)
    good("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, "model")


def verbs():
    size = noise("source", 4, 60, 1, 3, 700, 5000, 68, 132, 3000, 8192, 512)
    image = make("verbs", size)
    good(SIKA, "image", "convert", "--format", "raw", "source", image)
    assert "equal" in good(SIKA, "image", "compare", "--format", "raw", "source", image).stdout
    good("qemu-img", "compare", "-f", "raw", "-F", "raw", "source", image)
    good(SIKA, "image", "convert", image, "copy.qcow2")
    good("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "source", "copy.qcow2")
    good("rbd", "export", "--no-progress", image[4:], "exported")
    good("cmp", "source", "exported")
    good(SIKA, "image", "map", image)
    good(SIKA, "image", "bench", "--random", "--count", 500, image)
    # As it was, while it changes.
    good("rbd", "snap", "create", "--no-progress", image[4:] + "@then")
    good(SIKA, "image", "bench", "--write", "--pattern", 3, "--count", 300, image)
    good(SIKA, "image", "compare", "--format", "raw", "source", image + "@then")
    assert "differ" in run(SIKA, "image", "compare", "--format", "raw", "source", image).stdout
    done = run(SIKA, "image", "bench", "--write", image + "@then")
    assert done.returncode == 1 and "can only be read" in done.stderr, done
    good(SIKA, "image", "create", "--backing", image + "@then", "--backing-format", "raw", "top.qcow2")
    good(SIKA, "image", "compare", "--allow", image + "@then", "top.qcow2", "source")
    # Larger, and beyond what it had.
    good(SIKA, "image", "resize", image, "+1M")
    assert json.loads(good("rbd", "info", "--format", "json", image[4:]).stdout)["size"] == size + MIB
    assert json.loads(good(SIKA, "image", "info", "--json", image).stdout)["size_bytes"] == size + MIB


def mistakes():
    make("here")
    sentence("rbd:disks/nothing", "cannot be opened: No such file")
    sentence("rbd:disks/here@never", "cannot be opened: No such file")
    sentence("rbd:nowhere/here", "pool cannot be used: No such file")


def keys():
    """With cephx: who has no key comes to nothing, and who may only read does not write."""
    if good("ceph-conf", "--lookup", "auth_client_required").stdout.strip() == "none":
        raise Skip("the cluster asks for no keys")
    make("here")
    good("ceph", "auth", "get-or-create", "client.reader", "mon", "profile rbd", "osd", "profile rbd-read-only pool=disks", "-o",
         os.path.abspath("reader.keyring"))
    user = ":id=reader:keyring=" + os.path.abspath("reader.keyring")
    good(SIKA, "image", "info", "rbd:disks/here" + user)
    sentence("rbd:disks/here:id=nobody", "cluster cannot be reached")
    sentence("rbd:disks/here:keyring=/no/where", "cluster cannot be reached")
    sentence("rbd:disks/here:id=nobody:keyring=" + os.path.abspath("reader.keyring"), "cluster cannot be reached")
    done = run(SIKA, "image", "bench", "--write", "--count", 5, "rbd:disks/here" + user)
    assert done.returncode == 1 and "Operation not permitted" in done.stderr, done


def resized_by_others():
    """What is behind the end now fails, and what was added is not seen before it is opened again."""
    image = make("resized")
    with Served(image) as s:
        for size in (SIZE // 2, 2 * SIZE):
            good("rbd", "resize", "--no-progress", "--allow-shrink", "--size", f"{size}B", image[4:])
            out = run("qemu-io", "-f", "raw", "-c", "read 0 64k", "-c", f"read {SIZE - 65536} 64k", s.uri)
            assert out.stdout.count("65536/65536 bytes") == (1 if size < SIZE else 2), out
            assert json.loads(good(SIKA, "image", "info", "--json", s.uri).stdout)["size_bytes"] == SIZE
    assert json.loads(good(SIKA, "image", "info", "--json", image).stdout)["size_bytes"] == 2 * SIZE


class Served:
    """`sika image serve`, and somebody who writes without pause."""

    def __init__(self, image):
        self.process = subprocess.Popen([SIKA, "image", "serve", "--format", "raw", "--socket", "s", image], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.uri = self.process.stdout.readline().strip()
        assert self.uri, self.process.stderr.read()
        self.client = None

    def load(self, count=100000000):
        self.client = subprocess.Popen([SIKA, "image", "bench", "--write", "--random", "--depth", "16", "--count", str(count),
                                        "--flush-interval", "20", self.uri], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(1)
        assert self.client.poll() is None, self.client.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in (self.process, self.client):
            if process and process.returncode is None:
                process.kill()
                process.communicate()

    def end(self, least, most):
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=100)
        took = time.monotonic() - begin
        assert least <= took < most and self.process.returncode >= 0, (took, self.process.returncode, err)
        return err


def ends_under_load():
    with Served(make("load")) as s:
        s.load()
        assert s.end(0, 5) == ""


def stopped_for_a_while():
    with Served(make("load")) as s:
        s.load(3000)
        daemon("osd", signal.SIGSTOP)
        time.sleep(7)
        assert s.client.poll() is None
        daemon("osd", signal.SIGCONT)
        _, err = s.client.communicate(timeout=60)
        assert s.client.returncode == 0 and err == "", err
        assert s.end(0, 5) == ""


def ends_while_silent():
    image = make("load")
    with Served(image) as s:
        s.load()
        daemon("osd", signal.SIGSTOP)
        try:
            time.sleep(1)
            err = s.end(3, 16)
            assert err.count("has said nothing for") == 1 and "given up" in err, err
            # Whoever is in the middle of opening it can be ended as well.
            with subprocess.Popen([SIKA, "image", "info", image], stderr=subprocess.DEVNULL) as look:
                time.sleep(1)
                look.terminate()
                assert look.wait(10) == -signal.SIGTERM
        finally:
            daemon("osd", signal.SIGCONT)
    good(SIKA, "image", "bench", "--count", 100, image)


def killed():
    """Last: it does not come back."""
    with Served(make("load")) as s:
        s.load()
        daemon("osd", signal.SIGKILL)
        daemon("mon", signal.SIGKILL)
        time.sleep(1)
        err = s.end(3, 16)
        assert err.count("has said nothing for") == 1, err
    done = run(SIKA, "image", "info", "rbd:disks/load:client_mount_timeout=3")
    assert done.returncode == 1 and "cluster cannot be reached" in done.stderr, done


CASES = [names, nobody_answers, images_do_not_lead_there]
if IMAGE:
    CASES.append(random_requests)
if CLUSTER:
    CASES += [random_requests_and_qemus, a_qcow2_image_in_an_image, verbs, mistakes, keys, resized_by_others, ends_under_load,
              stopped_for_a_while, ends_while_silent, killed]
NEEDED = {"qemu-img": "qemu-utils"}

if __name__ == "__main__":
    if "no file" in run(SIKA, "image", "info", "rbd:").stderr or "cannot open" in run(SIKA, "image", "info", "rbd:").stderr:
        print(f"SKIP: built without librbd-dev\n0 passed, 0 failed, {len(CASES)} skipped")
        sys.exit(77)
    if "not installed" in run(SIKA, "image", "info", "rbd:pool/image").stderr:
        print(f"SKIP: librbd1 is not installed\n0 passed, 0 failed, {len(CASES)} skipped")
        sys.exit(77)
    sys.exit(main(CASES, NEEDED, "sika-rbd-"))
