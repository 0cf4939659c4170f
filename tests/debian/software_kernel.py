# SPDX-License-Identifier: Apache-2.0
"""software_kernel.py - checks of software.py: Linux's own selftests of x86, from Debian's source of the kernel.

They are built here, in both sizes, and run in the guest and, where one fails there, on the host: what fails
on the host in the same way is no fault of ours.
"""
import functools
import os
import subprocess
import tempfile

from scratch import ROOT
from software_check import Check

DIRECTORY = os.path.join(ROOT, "out", "sources", "linux")
TESTS = "tools/testing/selftests/x86"

# Only what is wanted of 1.4 GB is unpacked; no list of packages of the host's is touched.
FETCH = r"""
set -e
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
	>"$d/sources.list"
: >"$d/status" # what the host has installed may be from elsewhere
o="-q -o Dir::Etc::SourceList=$d/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$d/lists"
o="$o -o Dir::Cache=$d/cache -o Dir::State::status=$d/status -o APT::Sandbox::User=root -o Acquire::Retries=2"
cd "$d"
apt-get $o update >/dev/null && apt-get $o download linux-source-6.1 >/dev/null
rm -rf '%(to)s.part' && mkdir -p '%(to)s.part'
dpkg-deb --fsys-tarfile linux-source-6.1_*.deb | tar -xO ./usr/src/linux-source-6.1.tar.xz |
	tar -xJ -C '%(to)s.part' --strip-components 1 --wildcards '*/tools/testing/selftests/x86/*' \
	'*/tools/testing/selftests/kselftest.h' '*/arch/x86/include/asm/desc_defs.h'
rm -rf '%(to)s' && mv '%(to)s.part' '%(to)s'
"""

BOTH = ("single_step_syscall sysret_ss_attrs syscall_nt test_mremap_vdso check_initial_reg_state sigreturn iopl "
        "ioperm test_vsyscall mov_ss_trap sigtrap_loop syscall_arg_fault fsgsbase_restore sigaltstack ldt_gdt "
        "ptrace_syscall").split()
ONLY_32 = "entry_from_vm86 test_syscall_vdso unwind_vdso test_FCMOV test_FCOMI test_FISTTP vdso_restorer".split()
ONLY_64 = "fsgsbase sysret_rip syscall_numbering corrupt_xstate_header amx".split()
# As in the Makefile there.
MORE = {"sysret_ss_attrs_64": ["thunks.S"], "ptrace_syscall_32": ["raw_syscall_helper_32.S"],
        "test_syscall_vdso_32": ["thunks_32.S"], "check_initial_reg_state_32": ["-Wl,-ereal_start", "-static"],
        "check_initial_reg_state_64": ["-Wl,-ereal_start", "-static"]}

# Some print without end where they fail.
RUN = """
[ -e /tmp/files/%(name)s ] || { echo "not built: neither source nor compiler"; exit 77; }
cp /tmp/files/%(name)s t && chmod 755 t && timeout 240 ./t 2>&1 | { head -c 20000; cat >/dev/null; } >out
status=${PIPESTATUS[0]}
cat out
[ $status != 4 ] || exit 77
exit $status
"""


@functools.cache
def source():
    """The folder of the selftests, or None: there is no network. Said by the checks, which miss their program then."""
    if not os.path.isdir(DIRECTORY):
        subprocess.run(["bash", "-c", FETCH % {"to": DIRECTORY}], check=False, stdin=subprocess.DEVNULL,
                       capture_output=True, timeout=900)
    path = os.path.join(DIRECTORY, TESTS)
    return path if os.path.isdir(path) else None


def build(name):
    """The program as the only file that the guest needs; nothing where it cannot be built."""
    at = source()
    if not at:
        return
    test, _, bits = name.rpartition("_")
    with tempfile.NamedTemporaryFile() as out:
        r = subprocess.run(["gcc", "-m" + bits, "-o", out.name, "-O2", "-std=gnu99", "-pthread", "-w", "-no-pie",
                            "-static-libgcc", "-DCAN_BUILD_32", "-DCAN_BUILD_64", test + ".c",
                            *MORE.get(name, ()), "-lrt", "-ldl", "-lm"], cwd=at, capture_output=True, check=False)
        if r.returncode == 0:
            with open(out.name, "rb") as f:
                yield name, f.read()


def selftests():
    for test in BOTH + ONLY_32 + ONLY_64:
        for bits in ("32", "64"):
            if test in BOTH or (test in ONLY_32) == (bits == "32"):
                name = f"{test}_{bits}"
                yield Check(f"linux selftest {name}", RUN % {"name": name}, host_excuses=True,
                            bad=r"(?m)^\[FAIL\]", seconds=360, files=lambda name=name: build(name))
