# SPDX-License-Identifier: Apache-2.0
"""sequences.py - what tests of random sequences on images share: writes by QEMU, and the loop over seeds."""
import argparse
import os
import random
import shutil
import subprocess
import tempfile
import time

from commands import SECTOR, Failure


class TheirFault(Exception):
    """QEMU did wrong, which is proven; nothing can be said of us."""


def opens_direct(folder):
    path = os.path.join(folder, "try")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT))
        return True
    except OSError:
        return False
    finally:
        os.unlink(path)


def by_qemu_io(rng, model_path, most=8):
    """Writes of qemu-io's, as options for it; they are done to the model at once."""
    size = os.path.getsize(model_path)
    commands = []
    with open(model_path, "r+b") as model:
        for _ in range(rng.randint(1, most)):
            sectors = size // SECTOR
            length = SECTOR * rng.randint(1, min(sectors, 300))
            at = SECTOR * rng.randint(0, (size - length) // SECTOR)
            kind, byte = rng.choice(["write", "write", "zero", "zeru"]), rng.randint(1, 255)
            model.seek(at)
            if kind == "write":
                commands.append(f"write -q -P {byte} {at} {length}")
                model.write(bytes([byte]) * length)
            else:
                commands.append(f"write -q -z {'-u ' if kind == 'zeru' else ''}{at} {length}")
                model.write(bytes(length))
    return [x for c in commands for x in ("-c", c)]


def parser():
    p = argparse.ArgumentParser()
    p.add_argument("ops")
    p.add_argument("--sequences", type=int, default=50)
    p.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    p.add_argument("--seconds", type=int, help="begin none after so long")
    p.add_argument("--keep", action="store_true", help="the folder of the first that fails")
    return p


def main(args, make, on_disk=True):
    """make(ops, folder, seed, direct) gives a sequence: go(), and about() when it has failed. The exit status.
    Some run on a disk, if @on_disk."""
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("SKIP: qemu-img is not installed (qemu-utils)\n0 passed, 0 failed, 1 skipped")
        return 77
    passed = failed = skipped = 0
    end = time.monotonic() + args.seconds if args.seconds else None
    for seed in range(args.seed, args.seed + args.sequences):
        if end and time.monotonic() > end:
            break
        # What is tested is the order of writes, not the disk below: memory is faster. But only a disk is
        # particular about what lies where in requests past the host's cache.
        direct = on_disk and seed % 5 == 0
        memory = not direct and os.access("/dev/shm", os.W_OK)
        folder = tempfile.mkdtemp(prefix="sika-disk-", dir="/dev/shm" if memory else None)
        sequence = make(os.path.abspath(args.ops), folder, seed, direct and opens_direct(folder))
        try:
            sequence.go()
            passed += 1
        except TheirFault as why:
            skipped += 1
            print(f"seed {seed}: skipped: {sequence.about()}\n  {why}", flush=True)
        except (Failure, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"seed {seed}: {sequence.about()}\n  {error}", flush=True)
        if args.keep and failed:
            print(folder)
            break
        shutil.rmtree(folder)
    # tools/count_tests.py adds these up.
    print(f"{getattr(args, 'form', 'qcow2')}: {passed + failed} sequences")
    if skipped > 2 + passed // 100:
        failed += 1
        print(f"{skipped} skipped are too many to be QEMU's faults alone")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failed > 0
