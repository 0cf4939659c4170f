# SPDX-License-Identifier: Apache-2.0
"""software_sources.py - Debian's source packages for software.py: fetched once, some built here once.

What is built here is handed to the guest as one file, with the sources that its tests read.
"""
import os
import subprocess
import tempfile

from scratch import ROOT

DIRECTORY = os.path.join(ROOT, "out", "sources")

# A directory of its own for apt's lists, so that no list of the host's is touched.
FETCH = r"""
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
echo 'deb-src http://deb.debian.org/debian bookworm main' >"$d/sources.list"
o="-q -o Dir::Etc::SourceList=$d/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$d/lists"
o="$o -o Dir::Cache=$d/cache -o APT::Sandbox::User=root -o Acquire::Retries=2"
cd '%(to)s'
apt-get $o update >/dev/null && apt-get $o source --download-only '%(name)s' >/dev/null
"""


def is_source(name, file):
    return file.startswith(name + "_") and ".orig.tar" in file and not file.endswith(".asc")


def archives(name):
    """The tar files of the source package @name; none where there is no network, which the checks then say."""
    os.makedirs(DIRECTORY, exist_ok=True)
    found = [x for x in sorted(os.listdir(DIRECTORY)) if is_source(name, x)]
    if not found:
        subprocess.run(["bash", "-c", FETCH % {"to": DIRECTORY, "name": name}], check=False,
                       stdin=subprocess.DEVNULL, capture_output=True, timeout=300)
        found = [x for x in sorted(os.listdir(DIRECTORY)) if is_source(name, x)]
    return [os.path.join(DIRECTORY, x) for x in found]


def source_files(name):
    """As files of a check."""
    for path in archives(name):
        with open(path, "rb") as f:
            yield os.path.basename(path), f.read()


def built_files(name, script):
    """@script is run in the unpacked source of @name and leaves ../built.tar.zst, kept for the next time."""
    kept = os.path.join(DIRECTORY, name + "-built.tar.zst")
    if not os.path.exists(kept):
        sources = [x for x in archives(name) if ".orig.tar" in x]
        if not sources:
            return
        with tempfile.TemporaryDirectory() as tmp:
            at = os.path.join(tmp, "source")
            os.mkdir(at)
            subprocess.run(["tar", "xf", sources[0], "-C", at, "--strip-components", "1"], check=True)
            with open(kept + ".log", "wb") as log:
                r = subprocess.run(["bash", "-c", script], cwd=at, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, check=False)
            if r.returncode:
                return
            subprocess.run(["cp", os.path.join(tmp, "built.tar.zst"), kept + ".part"], check=True)
            os.rename(kept + ".part", kept)
    with open(kept, "rb") as f:
        yield name + "-built.tar.zst", f.read()
