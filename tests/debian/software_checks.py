# SPDX-License-Identifier: Apache-2.0
"""software_checks.py - the table of software.py: what is run in the guest, and what must come of it."""
import io
import os
import tarfile

from scratch import ROOT
from software_check import Check
from software_jit import jit
from software_kernel import selftests
from software_sources import source_files
from software_suites import suites

# ---- stress-ng ----

STRESSORS = """
cpu 2 --cpu-method all
vm 1 --vm-bytes 128M --vm-method all
memcpy 1
memthrash 1
stream 1
malloc 1
mmap 1 --mmap-bytes 64M
mremap 1
munmap 1
pagemove 1
remap 1
mprotect 1
fault 1
userfaultfd 1
shm 1
stack 1
bigheap 1 --bigheap-growth 64K
memrate 1 --memrate-bytes 64M
prefetch 1
randlist 1
lockbus 1
mcontend 1
membarrier 1
atomic 2
peterson 2
dekker 2
mutex 2
sem 2
futex 2
rseq 1
switch 2
context 1
pipe 1
poll 1
pthread 1
fork 1
vfork 1
clone 1
signal 1
sigfpe 1
sigsegv 1
sigtrap 1
sigsuspend 1
sigq 1
sigrt 1
sigfd 1
bad-altstack 1
longjmp 1
ptrace 1
seccomp 1
vdso 1
timer 1
hrtimers 1
itimer 1
nanosleep 1
fp 1
fp-error 1
vecmath 1
vecfp 1
vecwide 1
vecshuf 1
matrix 1
matrix-3d 1
sparsematrix 1
jpeg 1
hash 1
crypt 1
zlib 1
qsort 1
heapsort 1
mergesort 1
radixsort 1
shellsort 1
bsearch 1
hsearch 1
skiplist 1
tree 1
judy 1
str 1
wcs 1
tsc 1
rdrand 1
branch 1
far-branch 1
icache 1
nop 1
opcode 1
regs 1
x86syscall 1
x86cpuid 1
key 1
mq 1
msg 1
schedpolicy 1
"""


def stress(seconds):
    for line in STRESSORS.strip().splitlines():
        yield Check(f"stress-ng {line.split()[0]}",
                    f"stress-ng --verify --timeout {seconds}s --{line} 2>&1",
                    bad=r"(?i)stress-ng: fail|verification failed|mismatch",
                    skip="No stress workers invoked|skipping stressor", seconds=seconds + 180)


# ---- Python's own tests ----

PYTHON = """
long float math cmath decimal fractions complex int struct array bytes unicode format random
statistics hash hashlib hmac zlib gzip bz2 lzma binascii crypt re json pickle marshal sort heapq bisect
itertools collections dict set list tuple deque generators coroutines exceptions compile ast eintr gc
threading thread queue signal faulthandler mmap subprocess os posix fork1 wait3 wait4 select
poll epoll selectors socket asyncio.test_events ctypes time datetime strptime cmd_line
memoryview buffer audioop colorsys fcntl resource sched lzma tarfile zipfile xml_etree csv textwrap
difflib email.test_email
"""


def python():
    for name in dict.fromkeys(PYTHON.split()):
        package, _, module = name.partition(".")
        test = f"test_{package}.{module}" if module else f"test_{package}"
        yield Check(f"python {test}", f"python3 -m test --timeout 800 {test} 2>&1",
                    bad=r"Tests result: .*FAILURE|^FAILED |tests? failed:",
                    skip="Tests result: (NO TEST|SUCCESS, NO TEST)|No module named .test|skipped: ")


# ---- the same script here and there ----

# Bytes that are the same everywhere, with structure enough to be worth compressing.
DATA = r"""
python3 - <<'PY'
import random
r = random.Random(12345)
words = [bytes(r.randrange(97, 123) for _ in range(r.randrange(2, 11))) for _ in range(5000)]
with open("data", "wb") as f:
    for _ in range(12):
        f.write(b" ".join(r.choices(words, k=20000)))
        f.write(r.randbytes(50000))
PY
"""

DIGESTS = DATA + r"""
for d in md5 sha1 sha224 sha256 sha384 sha512 sha512-256 sha3-256 sha3-512 shake128 blake2b512 blake2s256 \
	sm3 ripemd160; do
	openssl dgst -$d data || echo "no $d"
done
openssl dgst -sha256 -hmac key data
openssl mac -cipher AES-256-CBC -macopt hexkey:000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f \
	-in data CMAC
openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f -in data Poly1305
md5sum <data; sha1sum <data; sha256sum <data; sha512sum <data; b2sum <data; cksum <data
"""

CIPHERS = DATA + r"""
head -c 200017 data >part
key=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f iv=f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff
for c in $(openssl enc -list | tr ' ' '\n' | grep '^-' | grep -v wrap | sort -u); do
	n=$(openssl enc $c -K $key -iv $iv -in part 2>/dev/null | tee out | sha256sum)
	[ -s out ] || continue
	openssl enc -d $c -K $key -iv $iv -in out 2>/dev/null | cmp - part || { echo "$c does not come back"; exit 1; }
	echo "$c $n"
done
"""

# Deterministic signatures agree; the others are verified.
PUBLIC_KEYS = DATA + r"""
set -e
head -c 100000 data >part
openssl genrsa -out rsa.pem 2048 2>/dev/null
openssl dgst -sha256 -sign rsa.pem -out sig part
openssl rsa -in rsa.pem -pubout -out rsa.pub 2>/dev/null
openssl dgst -sha256 -verify rsa.pub -signature sig part
for curve in prime256v1 secp384r1 secp521r1 secp256k1; do
	openssl ecparam -name $curve -genkey -noout -out ec.pem
	openssl dgst -sha512 -sign ec.pem -out sig part
	openssl ec -in ec.pem -pubout -out ec.pub 2>/dev/null
	openssl dgst -sha512 -verify ec.pub -signature sig part
done
printf '%s\n' '-----BEGIN PRIVATE KEY-----' MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g \
	'-----END PRIVATE KEY-----' >ed.pem
openssl pkeyutl -sign -inkey ed.pem -rawin -in part | sha256sum
openssl prime -generate -bits 256 | xargs openssl prime | grep -c 'is prime'
openssl prime 170141183460469231731687303715884105727
"""

COMPRESS = DATA + r"""
set -e
for c in 'gzip -n -1' 'gzip -n -9' 'bzip2 -9' 'xz -0' 'xz -6' 'xz -9e' 'xz --x86 --lzma2' 'zstd -q -1' 'zstd -q -19' \
	'zstd -q -T2 -9'; do
	$c -c <data >out
	${c%% *} -dc <out | cmp - data
	echo "$c $(sha256sum <out)"
done
tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - data | sha256sum
"""

NUMBERS = r"""
python3 - <<'PY'
import cmath, hashlib, math, random, struct, zlib, binascii
r = random.Random(7)
h = hashlib.sha256()
values = [struct.unpack("<d", r.randbytes(8))[0] for _ in range(10000)]
values += [r.uniform(-50, 50) for _ in range(20000)] + [0.0, -0.0, 1e308, 5e-324, math.inf, -math.inf]
for name in ("sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp expm1 exp2 log log2 log10 "
             "log1p sqrt cbrt erf erfc gamma lgamma floor ceil trunc degrees").split():
    f, h = getattr(math, name), hashlib.sha256()
    for v in values:
        try:
            h.update(repr(f(v)).encode())
        except (ValueError, OverflowError) as e:
            h.update(type(e).__name__.encode())
    print(name, h.hexdigest())
h = hashlib.sha256()
for a, b in zip(values, values[1:]):
    for f in (math.fmod, math.atan2, math.hypot, math.pow, math.remainder, math.nextafter):
        try:
            h.update(repr(f(a, b)).encode())
        except (ValueError, OverflowError) as e:
            h.update(type(e).__name__.encode())
    h.update(repr((a + b, a - b, a * b, a / b if b else 0, a // b if b and math.isfinite(a / b) else 0)).encode())
    h.update(struct.pack("<f", a) if abs(a) < 3e38 else b"x")
print("pairs", h.hexdigest())
h = hashlib.sha256()
for _ in range(2000):
    a, b, c = (r.getrandbits(r.randrange(1, 3000)) + 1 for _ in range(3))
    h.update(str((a * b, a // b, a % b, pow(a, 65537, c), math.isqrt(a), math.gcd(a, b), a ^ b, a >> 5)).encode())
print("integers", h.hexdigest())
data = r.randbytes(3000000)
print(zlib.crc32(data), zlib.adler32(data), binascii.crc_hqx(data, 0))
from decimal import Decimal, getcontext
getcontext().prec = 2000
print(hashlib.sha256(str(Decimal(2).sqrt() + Decimal(3).ln() + Decimal(5).exp()).encode()).hexdigest())
PY
"""

PERL = r"""
perl -e '
my $x = 12345; my $s = ""; my $f = 0.5;
for my $i (1 .. 300000) {
	$x = ($x * 1103515245 + 12345) % 2147483648;
	$f = sin($f * $x) + exp(-$i / 1e5) * sqrt($i) - int($f * 7) / 3;
	$s .= pack("NvC", $x, $x % 65536, $x % 256) if $i % 7 == 0;
	$h{substr($x, 0, 5)} += $x % 97;
}
printf "%.17g %s %s\n", $f, unpack("%32C*", $s), join(",", map { "$_$h{$_}" } (sort keys %h)[0 .. 40]);
my $t = join(" ", sort { $a <=> $b } map { ($_ * 7919) % 100003 } 1 .. 50000);
my $n = () = $t =~ /(\d)\1(?!0)/g;
print "$n ", length($t), "\n";
(my $u = $t) =~ s/(\d+) (\d+)/$2-$1/g;
print unpack("%32C*", $u), " ", crypt("secret", "\$6\$salt\$"), "\n";'
"""

SQLITE = r"""
sqlite3 t.db <<'SQL'
PRAGMA journal_mode=WAL;
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL, d BLOB);
WITH RECURSIVE n(i, x) AS (SELECT 1, 12345 UNION ALL
	SELECT i + 1, (x * 1103515245 + 12345) % 2147483648 FROM n WHERE i < 60000)
INSERT INTO t SELECT i, printf('%x', x * 7919), x / 3.0, CAST(printf('%d', x) AS BLOB) FROM n;
CREATE INDEX tb ON t(b); CREATE INDEX tc ON t(c, a DESC);
UPDATE t SET c = c * 1.000001 + a WHERE a % 7 = 0;
DELETE FROM t WHERE a % 11 = 3;
SELECT count(*), sum(a), printf('%.17g', sum(c)), max(b), min(b) FROM t;
SELECT substr(b, 1, 2), count(*), printf('%.10g', avg(c)) FROM t GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20;
SELECT count(*) FROM t x JOIN t y ON x.b = substr(y.b, 1, 8) WHERE x.a < 3000;
SELECT json_group_array(a) FROM (SELECT a FROM t ORDER BY c LIMIT 10);
SELECT round(sin(1) + exp(2) + ln(3), 12), hex(zeroblob(3)), 9223372036854775807 + 1, -7 / 2, 7 % -3;
BEGIN; DELETE FROM t; ROLLBACK;
VACUUM;
PRAGMA integrity_check;
PRAGMA wal_checkpoint(TRUNCATE);
SQL
sqlite3 t.db .dump | sha256sum
sqlite3 t.db 'PRAGMA integrity_check; PRAGMA page_count;'
"""

GCC_VERSION = "gcc -dumpfullversion -dumpmachine; gcc --version | head -1; as --version | head -1"

# As the project's own object files, but for what depends on the path.
GCC = r"""
set -e
tar xf /tmp/files/x86.tar.xz
status=0
for o in '-O0' '-O2' '-O3 -mavx2 -funroll-loops' '-Os -g1'; do
	for f in x86/src/x86/*.c; do
		gcc $o -std=gnu11 -w -ffile-prefix-map=$PWD=. -I x86/src -I x86/src/x86 -I x86/generated/x86 \
			-c $f -o out.o 2>err || { head -3 err; status=1; }
		echo "$o $f $(sha256sum <out.o)"
	done
done
exit $status
"""


def x86_sources():
    """The freestanding part of this tree and what is generated for it, as a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        tar.add(os.path.join(ROOT, "src", "x86"), "x86/src/x86")
        generated = os.path.join(ROOT, "build", "src", "x86")
        for name in sorted(os.listdir(generated)):
            if name.endswith((".h", ".inc", ".c")):
                tar.add(os.path.join(generated, name), "x86/generated/x86/" + name)
    return out.getvalue()


# ---- a source package of Debian, built and tested in the guest ----

PACKAGE = r"""
set -e
[ -n "$(ls /tmp/files/%(name)s_*.orig.tar.* 2>/dev/null)" ] || { echo 'no source'; exit 77; }
mkdir s && tar xf /tmp/files/%(name)s_*.orig.tar.* -C s --strip-components 1
cd s
%(build)s
# Debug information names the directory.
find . -name '*.o' -exec strip -g {} +
find . -name '*.o' | sort | xargs sha256sum
"""

# Name, files of the source package, how to build and check it. What is checked prints to stderr.
SOURCE_PACKAGES = (
    ("zlib", "./configure --static >/dev/null && make -s -j2 >&2 && make -s test >&2"),
    ("bzip2", "make -s -j2 >&2 && make -s check >&2"),
    ("lua5.4", "make -s -C src -j2 posix >&2 && "
               "src/lua -e 'local t={} for i=1,2e5 do t[i]=(i*7919)%100003+0.5 end table.sort(t) "
               "print(t[1],t[77777],#t, string.format(\"%.17g\", math.sin(t[5])^0.3)) "
               "print(#string.rep(\"ab\",1e5):gsub(\"(a)(b)\",\"%2%1\"))'"),
)


def here_and_there():
    return (
        Check("digests", DIGESTS, True, ("openssl", "python3")),
        Check("ciphers there and back", CIPHERS, True, ("openssl", "python3")),
        Check("signatures", PUBLIC_KEYS, False),
        Check("numbers", NUMBERS, True, ("python3",)),
        Check("perl", PERL, True, ("perl",), version="perl -e 'print $^V'"),
        Check("sqlite3", SQLITE, True, ("sqlite3",), version="sqlite3 --version | cut -c1-30"),
        Check("compression", COMPRESS, True, ("xz", "gzip", "bzip2", "zstd", "python3"),
              version="for p in gzip bzip2 xz zstd; do $p --version 2>&1 </dev/null | head -1; done"),
        Check("gcc: objects of this project", GCC, True, ("gcc", "as"),
              version=GCC_VERSION, seconds=3600, files=lambda: [("x86.tar.xz", x86_sources())]),
        *(Check(f"gcc: {name}, its own tests, its objects", PACKAGE % {"name": name, "build": build},
                True, ("gcc", "as", "make"), version=GCC_VERSION, seconds=1800,
                files=lambda name=name: source_files(name)) for name, build in SOURCE_PACKAGES),
    )


def checks(seconds):
    return [*here_and_there(), *selftests(), *jit(), *stress(seconds), *python(), *suites()]
