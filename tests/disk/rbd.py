#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""rbd.py - names of Ceph's images, and a cluster that nobody can reach. With SIKA_TEST_RBD=rbd:POOL/IMAGE..., an image that may be
overwritten, requests against a model as well.

usage: rbd.py SIKA DISK_OPS

Closing line: "P passed, F failed, S skipped".
"""
import json
import os
import random
import subprocess
import sys
import time

from cases import main

SIKA, OPS = (os.path.abspath(p) for p in sys.argv[1:3])
IMAGE = os.environ.get("SIKA_TEST_RBD")


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
    if not os.path.exists("/etc/ceph/ceph.conf"):
        sentence("rbd:pool/image", "no /etc/ceph/ceph.conf")


def images_do_not_lead_there():
    assert run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", r"rbd:pool/image:mon_host=127.0.0.1\:1", "-F", "raw", "a.qcow2",
               "1M").returncode == 0
    done = run(SIKA, "image", "map", "a.qcow2")
    assert done.returncode == 1 and "allow that name" in done.stderr, done
    done = run(SIKA, "image", "map", "--allow", r"rbd:pool/image:mon_host=127.0.0.1\:1", "a.qcow2")
    assert done.returncode == 1 and "without options" in done.stderr, done


def random_requests():
    size = json.loads(run(SIKA, "image", "info", "--json", "--format", "raw", IMAGE).stdout)["size_bytes"]
    assert run(SIKA, "image", "convert", "--format", "raw", "--to", "raw", IMAGE, "model").returncode == 0
    assert os.path.getsize("model") == size
    done = run(OPS, "-f", "raw", "run", IMAGE, "model", random.getrandbits(40), 500)
    assert done.returncode == 0, done


CASES = [names, nobody_answers, images_do_not_lead_there] + ([random_requests] if IMAGE else [])
NEEDED = {"qemu-img": "qemu-utils"}

if __name__ == "__main__":
    if "no file" in run(SIKA, "image", "info", "rbd:").stderr or "cannot open" in run(SIKA, "image", "info", "rbd:").stderr:
        print(f"SKIP: built without librbd-dev\n0 passed, 0 failed, {len(CASES)} skipped")
        sys.exit(77)
    if "not installed" in run(SIKA, "image", "info", "rbd:pool/image").stderr:
        print(f"SKIP: librbd1 is not installed\n0 passed, 0 failed, {len(CASES)} skipped")
        sys.exit(77)
    sys.exit(main(CASES, NEEDED, "sika-rbd-"))
