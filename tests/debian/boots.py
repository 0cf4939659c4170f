#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""boots.py - Debian boots to a login and powers off, for every number of vCPUs and size of memory.

usage: boots.py SIKA IMAGE [--engine E | --off NAME,...|all] [--cpus 1,2,4] [--memory 256M,1G,6G] [--times N]
	[--at-once N] [--beyond MIB] [-- OPTION...]
What follows `--` goes to sika run. Each boot logs in, looks for complaints of the kernel, counts CPUs and
memory, powers off; what the machine has resident beyond its guest's RAM at the login may not be more than --beyond.
With --off it boots under bt with each of these optimizations off, one by one; cache means a code cache that is
always full.
"""
import argparse
import itertools
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from scratch import Failure, Guest, copy_image, memory_beyond_guest, report, run_command

# What the kernel warns of on any machine: how it was configured, and that a host was busy.
HARMLESS = re.compile(r"CONFIG_IMA_DISABLE_HTABLE|interrupt took too long|hrtimer: interrupt took|"
                      r"clocksource: .*(watchdog|marked unstable|skew)|Long readout interval|"
                      r"soft lockup|rcu: |rcu_|workqueue: ")
UNITS = {"M": 1 << 10, "G": 1 << 20}  # KiB


def complaints(guest):
    """Warnings and errors of the kernel that a real machine would not have."""
    lines = guest.run("dmesg --level=emerg,alert,crit,err,warn").splitlines()
    return [line for line in lines if line.strip() and not HARMLESS.search(line)]


def boot(command, cpus, memory, beyond):
    """Seconds to the login, and MiB beyond the guest's RAM then."""
    guest = Guest(command, echo=False)
    try:
        start = time.monotonic()
        guest.login()
        took = time.monotonic() - start
        mib = memory_beyond_guest(guest.process.pid) / 1024
        if mib > beyond:
            raise Failure(f"{mib:.0f} MiB are resident beyond the guest's RAM")
        if found := complaints(guest):
            raise Failure("the kernel complains: " + "; ".join(found))
        found = int(guest.run("nproc"))
        if found != cpus:
            raise Failure(f"{found} CPUs instead of {cpus}")
        kib = int(guest.run("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
        want = int(memory[:-1]) * UNITS[memory[-1]]
        if not want * 0.75 < kib < want:
            raise Failure(f"{kib} KiB of memory instead of nearly {want}")
        guest.power_off()
        return took, mib
    except Failure as e:
        raise Failure(f"{e}; the console ended with: {guest.seen[-300:]!r}") from e
    finally:
        guest.kill()


def each_off(sika, wanted):
    """Options of sika run for what is named. The optimizations' names are in the error of one that there is not."""
    r = subprocess.run([sika, "run", "--engine", "bt,off=?", "--kernel", "/dev/null"], capture_output=True,
                       text=True, check=False)
    known = r.stderr.partition("there are: ")[2].replace(",", " ").split() + ["cache"]
    names = known if wanted == "all" else wanted.split(",")
    if len(known) == 1 or not set(names) <= set(known):
        sys.exit(f"boots.py: --off {wanted}: there are: {', '.join(known)}")
    return [["--engine", "bt", "--bt-cache", "6M"] if name == "cache" else ["--engine", f"bt,off={name}"] for name in names]


def one(args, case):
    """A boot with a disk of its own: what to print, and whether it is right."""
    engine, cpus, memory, n = case
    what = f"{' '.join(engine[1:])}: {cpus} vCPUs, {memory}, boot {n + 1}"
    with tempfile.TemporaryDirectory() as tmp:
        command = run_command(args.sika, args.image, copy_image(args.image, tmp), *engine, "--cpus", str(cpus),
                              "--memory", memory, *args.options)
        try:
            took, mib = boot(command, cpus, memory, args.beyond)
        except (Failure, OSError, subprocess.TimeoutExpired) as e:
            return f"FAILED  {what}: {e}", False
    return f"ok      {what}: login after {took:.1f} s, {mib:.0f} MiB beyond RAM", True


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("sika")
    ap.add_argument("image")
    ap.add_argument("--engine", default="bt")
    ap.add_argument("--off")
    ap.add_argument("--cpus", default="1,2,4")
    ap.add_argument("--memory", default="256M,1G,6G")
    ap.add_argument("--times", type=int, default=1)
    ap.add_argument("--at-once", type=int, default=1)
    ap.add_argument("--beyond", type=float, default=100, help="MiB (100)")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = ap.parse_args(sys.argv[1:end])
    args.options = sys.argv[end + 1:]
    engines = each_off(args.sika, args.off) if args.off else [["--engine", args.engine]]
    cases = itertools.product(engines, map(int, args.cpus.split(",")), args.memory.split(","), range(args.times))
    passed = failed = 0
    with ThreadPoolExecutor(args.at_once) as pool:
        for line, right in pool.map(lambda case: one(args, case), cases):
            print(line, flush=True)
            passed += right
            failed += not right
    return report(passed, failed)


if __name__ == "__main__":
    sys.exit(main())
