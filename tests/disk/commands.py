# SPDX-License-Identifier: Apache-2.0
"""commands.py - what tests of disks share: running tools."""
import os
import subprocess

MIB = 1 << 20
SECTOR = 512
# Servers of the tests' own are no proxy's business.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}


class Failure(AssertionError):
    """Something is not as it should be, in a sentence."""


def run(*command, status=0):
    """The process that has ended, what it said being text. @status: that, or one of those, or None: any will do."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", timeout=120,
                          check=False, env=ENVIRONMENT)
    wanted = (status,) if isinstance(status, int) else status
    if wanted is not None and done.returncode not in wanted:
        raise Failure(f"{' '.join(map(str, command))}: status {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")
    return done
