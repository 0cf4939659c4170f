# SPDX-License-Identifier: Apache-2.0
"""software_suites.py - checks of software.py: the test suites of OpenSSL and SQLite themselves.

Built here from Debian's source packages, run in the guest, and where one fails there, on the host too.
"""
from software_check import Check
from software_sources import built_files

# OpenSSL chooses among its assembly by CPUID: what the guest's processor has is what runs.
OPENSSL_BUILD = r"""
set -e
pwd >built-at
./Configure linux-x86_64 shared
make -s -j2 build_sw
find apps engines fuzz providers test -type f -perm -u+x ! -name '*.pl' -exec strip --strip-unneeded {} + 2>/dev/null || true
tar cf - --exclude='*.o' --exclude='*.a' --exclude='*.d' --exclude=./doc --exclude=./demos . |
	zstd -q -T2 --long=27 -o ../built.tar.zst
"""

# Unpacked once for all of them. Configure writes down where it was.
OPENSSL = r"""
[ -s /tmp/files/openssl-built.tar.zst ] || { echo 'not built'; exit 77; }
[ -d /tmp/files/openssl ] || {
	mkdir /tmp/files/part && zstd -dc --long=27 /tmp/files/openssl-built.tar.zst | tar xf - -C /tmp/files/part &&
		sed -i "s|$(cat /tmp/files/part/built-at)|/tmp/files/openssl|g" /tmp/files/part/{configdata.pm,util/wrap.pl} &&
		mv /tmp/files/part /tmp/files/openssl || exit 1
}
cd /tmp/files/openssl
export HARNESS_JOBS=2 SRCTOP=. BLDTOP=. PERL=perl EXE_EXT=
%(more)s
perl test/run_tests.pl %(tests)s 2>&1
"""

# By number: the library's parts, its mathematics and keys, the program, everything behind EVP, certificates,
# TLS record by record, CMS and handshakes, threads and time, fuzzers' findings.
OPENSSL_GROUPS = ("'0?'", "'1?'", "'2?'", "'[3-5]?'", "'6?'", "'7?'", "'8?'", "'9?'")

# The ways that are left without this: AES-NI and PCLMULQDQ; AVX; that and SSSE3; AVX2, BMI, ADX, SHA and AVX-512
# (OPENSSL_ia32cap(3); what is set in the second word is CPUID.7.EBX).
OPENSSL_WAYS = ("~0x200000200000000", "~0x1000000000000000", "~0x1000020000000000", ":~0xf02b0128")
OPENSSL_KERNELS = ("test_evp test_bn test_exp test_ec test_ecdsa test_sha test_aesgcm test_ige test_internal_modes "
                   "test_internal_chacha test_internal_poly1305 test_internal_curve448 test_rsa")

SQLITE_BUILD = r"""
set -e
mkdir -p b && cd b
../configure --with-tcl=/usr/lib/tcl8.6 --disable-amalgamation --disable-shared CFLAGS=-O2
make -s testfixture
cp -L "$(ldd testfixture | sed -n 's/.*=> \(.*libtcl8[^ ]*\) .*/\1/p')" .
cp -r /usr/share/tcltk/tcl8.6 tcl
cd ..
tar cf - b/testfixture b/libtcl8* b/tcl test ext src | zstd -q -T2 -o ../built.tar.zst
"""

# It will not be run as root.
SQLITE = r"""
at=$PWD
trap 'cd / && rm -rf "$at/s"' EXIT
[ -s /tmp/files/sqlite3-built.tar.zst ] || { echo 'not built'; exit 77; }
mkdir s && zstd -dc /tmp/files/sqlite3-built.tar.zst | tar xf - -C s && cd s/b || exit 1
export LD_LIBRARY_PATH=$PWD TCL_LIBRARY=$PWD/tcl
as=
[ "$(id -u)" != 0 ] || { chmod 711 "$at" && chown -R nobody .. && as='runuser -u nobody --'; }
$as ./testfixture ../test/%(set)s.test >log 2>&1
status=$?
grep -v '\.\.\. Ok$' log | tail -n 400
grep -q ' errors out of ' log || status=1
exit $status
"""


def suites():
    for group in OPENSSL_GROUPS:
        yield openssl(f"openssl's own tests {group}", group)
    for way in OPENSSL_WAYS:
        yield openssl(f"openssl's own tests, its code for OPENSSL_ia32cap={way}", OPENSSL_KERNELS,
                      f"export OPENSSL_ia32cap='{way}'")
    yield Check("sqlite3's own tests", SQLITE % {"set": "extraquick"}, host_excuses=True,
                bad=r"(?m)^!|[1-9][0-9]* errors out of", seconds=5400,
                files=lambda: built_files("sqlite3", SQLITE_BUILD))


def openssl(name, tests, more=""):
    return Check(name, OPENSSL % {"tests": tests, "more": more}, host_excuses=True, bad=r"(?m)Wstat: |^Result: FAIL",
                 seconds=3600, files=lambda: built_files("openssl", OPENSSL_BUILD))
