#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""merge.py - two Debian guests started with --mem-backing merge share pages (KSM).

usage: merge.py SIKA IMAGE [OPTION of sika run]...
Turns the kernel's samepage merging on for the time of the test and puts it back as it was.
"""
import os
import sys
import tempfile
import time

from scratch import Failure, Guest, copy_image, report, run_command

KSM = "/sys/kernel/mm/ksm/"
WANT = 2000  # pages: far more than two idle guests without merging could have (none)


def knob(name, value=None):
    if value is None:
        with open(KSM + name) as f:
            return int(f.read())
    with open(KSM + name, "w") as f:
        f.write(str(value))


def sharing(sika, image, options, tmp):
    """Pages shared while both guests run."""
    guests = []
    try:
        for name in ("a", "b"):
            os.mkdir(os.path.join(tmp, name))
            disk = copy_image(image, os.path.join(tmp, name))
            guests.append(Guest(run_command(sika, image, disk, "--memory", "256M", "--mem-backing",
                                            "merge", "--net", "none", *options), echo=False))
        for guest in guests:
            guest.login()
        end = time.monotonic() + 120
        while knob("pages_sharing") < WANT and time.monotonic() < end:
            time.sleep(1)
        return knob("pages_sharing")
    finally:
        for guest in guests:
            guest.kill()


def main():
    sika, image, options = sys.argv[1], sys.argv[2], sys.argv[3:]
    if not os.access(KSM + "run", os.W_OK):
        print("skipped: " + KSM + "run is not there or not ours to write")
        return report(0, 0, 1)
    before = {name: knob(name) for name in ("run", "pages_to_scan", "sleep_millisecs")}
    try:
        for name, value in (("pages_to_scan", 20000), ("sleep_millisecs", 20), ("run", 1)):
            knob(name, value)
        with tempfile.TemporaryDirectory() as tmp:
            pages = sharing(sika, image, options, tmp)
    except Failure as e:
        print(f"FAILED  {e}")
        return report(0, 1)
    finally:
        for name, value in before.items():
            knob(name, value)
    print(f"{'ok     ' if pages >= WANT else 'FAILED '} two guests share {pages} pages")
    return report(int(pages >= WANT), int(pages < WANT))


if __name__ == "__main__":
    sys.exit(main())
