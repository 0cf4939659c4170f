#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""boots.py - Debian boots to a login and powers off, for every number of vCPUs and size of memory.

usage: boots.py SIKA IMAGE [--engine E] [--cpus 1,2,4] [--memory 256M,1G,6G] [--times N] [OPTION...]
What follows `--` goes to sika run. Each boot logs in, counts CPUs and memory, powers off.
"""
import argparse
import subprocess
import sys
import tempfile
import time

from scratch import Failure, Guest, copy_image, report, run_command

UNITS = {"M": 1 << 10, "G": 1 << 20}  # KiB


def boot(command, cpus, memory):
    guest = Guest(command, echo=False)
    try:
        start = time.monotonic()
        guest.login()
        took = time.monotonic() - start
        found = int(guest.run("nproc"))
        if found != cpus:
            raise Failure(f"{found} CPUs instead of {cpus}")
        kib = int(guest.run("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"))
        want = int(memory[:-1]) * UNITS[memory[-1]]
        if not want * 0.75 < kib < want:
            raise Failure(f"{kib} KiB of memory instead of nearly {want}")
        guest.power_off()
        return took
    except Failure as e:
        raise Failure(f"{e}; the console ended with: {guest.seen[-300:]!r}") from e
    finally:
        guest.kill()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("sika")
    ap.add_argument("image")
    ap.add_argument("--engine", default="bt")
    ap.add_argument("--cpus", default="1,2,4")
    ap.add_argument("--memory", default="256M,1G,6G")
    ap.add_argument("--times", type=int, default=1)
    ap.add_argument("options", nargs="*")
    args = ap.parse_args()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as tmp:
        for cpus in map(int, args.cpus.split(",")):
            for memory in args.memory.split(","):
                for i in range(args.times):
                    disk = copy_image(args.image, tmp)
                    what = f"{args.engine}: {cpus} vCPUs, {memory}, boot {i + 1}"
                    try:
                        took = boot(run_command(args.sika, args.image, disk, "--engine", args.engine,
                                                "--cpus", str(cpus), "--memory", memory,
                                                *args.options), cpus, memory)
                        print(f"ok      {what}: login after {took:.1f} s", flush=True)
                        passed += 1
                    except (Failure, OSError, subprocess.TimeoutExpired) as e:
                        print(f"FAILED  {what}: {e}", flush=True)
                        failed += 1
    return report(passed, failed)


if __name__ == "__main__":
    sys.exit(main())
