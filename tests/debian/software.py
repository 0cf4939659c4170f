#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""software.py - real programs in a Debian guest give the answers that they give on the host.

usage: software.py SIKA [--image IMAGE] [--only REGEX] [--cpus N] [--memory SIZE] [--seconds N] [-- OPTION...]
An image with the programs is built where IMAGE (out/software.img) is not there yet, its ssh key beside
it. Checks come from the table in software_checks.py; --seconds is what each stressor of stress-ng gets.
What follows `--` goes to sika run.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from remote import Remote, Wrong, build_image
from scratch import ROOT, report
from software_checks import checks


class Skip(Exception):
    pass


def on_host(text, timeout, files=()):
    """The same on the host: what is /tmp/files in the guest is a directory of the test's here."""
    with tempfile.TemporaryDirectory() as tmp, tempfile.TemporaryDirectory() as at:
        for name, data in files:
            with open(os.path.join(at, name), "wb") as f:
                f.write(data)
        text = text.replace("/tmp/files", at)
        r = subprocess.run(["bash", "-s"], input=text.encode(), capture_output=True, cwd=tmp,
                           timeout=timeout, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8",
                                                 "HOME": tmp})
        return r.returncode, r.stdout.decode(errors="replace"), r.stderr.decode(errors="replace")


def tail(text, lines=6):
    return " | ".join(text.strip().splitlines()[-lines:])


def first_difference(a, b):
    one, two = a.splitlines(), b.splitlines()
    for x, y in zip(one, two):
        if x != y:
            return f"host '{x[:200]}', guest '{y[:200]}'"
    return f"host {len(one)} lines, guest {len(two)}"


def failure(check, status, out, err):
    """What is wrong with the output as it stands, or None."""
    if check.bad and re.search(check.bad, out + err):
        return tail("\n".join(x for x in (out + err).splitlines() if re.search(check.bad, x)))
    return f"status {status}: {tail(out)} | {tail(err)}" if status else None


def compare(check, out):
    """With the same on the host."""
    status, ours, err = on_host(check.script, check.seconds, check.files())
    if status:
        raise Skip(f"on the host status {status}: {tail(err, 2)}")
    if ours != out:
        raise Wrong(first_difference(ours, out))
    return f"{len(out.splitlines())} lines as on the host"


def run_check(guest, check):
    """Returns a remark, or raises."""
    for program in check.programs:
        if check.same and not shutil.which(program):
            raise Skip(f"the host has no {program}")
    if check.version:
        ours, theirs = on_host(check.version, 60), guest.script(check.version, 60)
        if ours[1] != theirs[1]:
            raise Skip("versions differ: " + first_difference(ours[1], theirs[1]))
    for name, data in check.files():
        if guest.ssh(f"mkdir -p /tmp/files && cat >/tmp/files/{name}", data).returncode:
            raise Wrong(f"cannot copy {name} into the guest")
    status, out, err = guest.script(check.script, check.seconds)
    # What failed is not excused by something that was skipped beside it.
    if status == 77 or (check.skip and re.search(check.skip, out + err)):
        if not (check.bad and re.search(check.bad, out + err)):
            raise Skip(tail(out + err, 2))
    why = failure(check, status, out, err)
    if why and check.host_excuses:
        theirs = failure(check, *on_host(check.script, check.seconds, check.files()))
        if theirs == why:
            raise Skip(f"the same fails on the host: {why}")
        raise Wrong(f"{why}; on the host: {theirs or 'right'}")
    if why:
        raise Wrong(why)
    return compare(check, out) if check.same else ""


def run_all(guest, table):
    tally = {"ok": 0, "FAILED": 0, "skipped": 0}
    for i, check in enumerate(table):
        start = time.monotonic()
        try:
            word, remark = "ok", run_check(guest, check)
        except Skip as e:
            word, remark = "skipped", str(e)
        except (Wrong, OSError, subprocess.SubprocessError) as e:
            word, remark = "FAILED", str(e)
        tally[word] += 1
        took = time.monotonic() - start
        print(f"{word:8}{i + 1}/{len(table)} {check.name} ({took:.0f} s)"
              f"{': ' if remark else ''}{remark}", flush=True)
        if guest.process.poll() is not None:
            print(f"FAILED  the machine ended, status {guest.process.returncode}", flush=True)
            tally["FAILED"] += 1
            break
    return tally


def kernel_complaints(guest):
    """Oopses, soft lockups and machine checks are failures even where every program was content."""
    log = guest.ssh("dmesg").stdout.decode(errors="replace")
    return [x for x in log.splitlines()
            if re.search(r"BUG:|Oops|WARNING:|soft lockup|rcu.*stall|mce: .*[Ee]rror|Bad page", x)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("sika")
    ap.add_argument("--image", default=os.path.join(ROOT, "out", "software.img"))
    ap.add_argument("--only", default="")
    ap.add_argument("--cpus", type=int, default=2)
    ap.add_argument("--memory", default="4G")
    ap.add_argument("--seconds", type=int, default=5)
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, options = ap.parse_args(sys.argv[1:end]), sys.argv[end + 1:]
    os.makedirs(os.path.dirname(os.path.abspath(args.image)), exist_ok=True)
    build_image(args.sika, args.image)
    table = [c for c in checks(args.seconds) if re.search(args.only, c.name)]
    with tempfile.TemporaryDirectory() as tmp:
        guest = Remote(args.sika, args.image, tmp, args.cpus, args.memory, options)
        try:
            guest.wait()
            tally = run_all(guest, table)
            if guest.process.poll() is None:
                bad = kernel_complaints(guest)
                tally["FAILED" if bad else "ok"] += 1
                print(f"FAILED  the guest's kernel: {tail(chr(10).join(bad))}" if bad else
                      "ok      the guest's kernel had nothing to complain about", flush=True)
        except Wrong as e:
            print(f"FAILED  {e}", flush=True)
            return report(0, 1)
        finally:
            guest.stop()
    return report(tally["ok"], tally["FAILED"], tally["skipped"])


if __name__ == "__main__":
    sys.exit(main())
