# SPDX-License-Identifier: Apache-2.0
"""soak_guest.py - what soak.py runs inside the guest: a load that never rests, and answers about it.

Each worker goes through its programs for ever; what one prints must be what it printed the first time.
Requests are lines on standard input: "clock" is answered by CLOCK_MONOTONIC and CLOCK_REALTIME in
nanoseconds, "state" by what has been done, what was wrong and what the kernel complained about, as JSON.
"""
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

COMPILE = r"""
python3 - >p.c <<'PY'
print("#include <stdio.h>")
for i in range(150):
    print(f"static int f{i}(int *v, int n) {{ int s = {i}; for (int i = 0; i < n; i++) "
          f"s += v[i] * {i + 3} ^ (s >> {i % 13}); return s > {i} ? s : -s; }}")
print("int main(void) { int v[8] = {1, 2, 3, 4, 5, 6, 7, 8}, s = 0;")
print("".join(f"s += f{i}(v, 8);" for i in range(150)))
print('printf("%d\\n", s); return 0; }')
PY
gcc -O2 -c -o p.o p.c && sha256sum <p.o && gcc -o p p.o && ./p
"""

PYTHON = r"""
import hashlib, json, math, random, re, zlib
r = random.Random(1)
d = {}
for i in range(60000):
    d["key%d" % (i % 1000)] = d.get("key%d" % (i % 1000), 0) + r.random() * i
s = json.dumps(d)
assert json.loads(s) == d
print(hashlib.sha256(s.encode()).hexdigest(), zlib.crc32(zlib.compress(s.encode(), 9)),
      len(re.findall(r"(\d)\1", s)), math.fsum(math.sin(x) * math.exp(-x / 1e4) for x in range(40000)),
      pow(3, 1 << 14, (1 << 1279) - 1) % 1000003)
"""

SQLITE = r"""
sqlite3 t.db <<'SQL'
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);
WITH RECURSIVE n(i, x) AS (SELECT 1, 12345 UNION ALL
	SELECT i + 1, (x * 1103515245 + 12345) % 2147483648 FROM n WHERE i < 20000)
INSERT INTO t SELECT i, printf('%x', x), x / 3.0 FROM n;
CREATE INDEX tb ON t(b);
SELECT count(*), max(b), printf('%.17g', sum(c)) FROM t WHERE b > '3';
PRAGMA integrity_check;
SQL
sqlite3 t.db .dump | xz -1 | sha256sum
"""

NODE = r"""
let x = 1, f = 0.5;
const m = new Map(), a = [];
for (let i = 0; i < 400000; i++) {
	x = (Math.imul(x, 1103515245) + 12345) >>> 0;
	f = Math.sin(f * x) + Math.sqrt(i);
	m.set("k" + x % 3000, (m.get("k" + x % 3000) || 0) + i);
	if (i % 4 == 0) a.push({ v: x, w: [i] });
}
a.sort((p, q) => p.v - q.v || p.w[0] - q.w[0]);
console.log(f, a[1000].v, require("crypto").createHash("sha256").update(JSON.stringify([...m])).digest("hex"));
"""

JAVA = r"""
import java.util.*;
class Load {
	static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
	public static void main(String[] s) throws Exception {
		Map<String, Integer> m = new HashMap<>();
		long x = 1;
		for (int i = 0; i < 400000; i++) {
			x = x * 6364136223846793005L + 1442695040888963407L;
			m.merge("k" + Math.floorMod(x >> 33, 5000), i, Integer::sum);
		}
		System.out.println(fib(27) + " " + new TreeMap<>(m).hashCode() + " " + x);
	}
}
"""

STRESSORS = """
cpu 1 --cpu-method all
vm 1 --vm-bytes 64M --vm-method all
mmap 1 --mmap-bytes 32M
atomic 2
signal 1
fork 1
futex 2
pipe 1
hrtimers 1
timer 1
nanosleep 1
switch 2
userfaultfd 1
memcpy 1
vecmath 1
sigsegv 1
icache 1
poll 1
""".strip().splitlines()

# Each as a worker of its own. The pause lets the CPUs sleep now and then.
WORKERS = (
    (("compile", COMPILE), ("sqlite3", SQLITE), ("pause", "sleep 1")),
    (("python3", f"python3 - <<'PY'\n{PYTHON}\nPY"), ("node", f"node - <<'JS'\n{NODE}\nJS"),
     ("java", f"cat >Load.java <<'J'\n{JAVA}\nJ\njava -Xmx128m Load.java"), ("pause", "sleep 2")),
    tuple(("stress-ng " + s.split()[0], f"stress-ng --verify --timeout 10s --{s} >log 2>&1 || "
           "{ cat log; exit 1; }") for s in STRESSORS),
)

COMPLAINTS = (r"BUG:|Oops|WARNING:|soft lockup|rcu.*stall|mce: .*[Ee]rror|Bad page|hrtimer: interrupt took|"
              r"[Cc]locksource.*(unstable|skew|slow)|hung_task|blocked for more than|Out of memory|"
              r"TSC.*unstable|I/O error|Lost .*timer")


class Load:
    def __init__(self):
        self.lock = threading.Lock()
        self.done, self.wrong, self.first = {}, [], {}

    def once(self, name, script):
        with tempfile.TemporaryDirectory() as d:
            r = subprocess.run(["timeout", "1800", "bash", "-c", script], cwd=d, capture_output=True,
                               stdin=subprocess.DEVNULL)
        digest = hashlib.sha256(r.stdout).hexdigest()
        with self.lock:
            self.done[name] = self.done.get(name, 0) + 1
            if r.returncode or self.first.setdefault(name, digest) != digest:
                self.wrong.append(f"{name}: status {r.returncode}: "
                                  f"{(r.stdout + r.stderr)[-300:].decode(errors='replace')}")

    def work(self, programs):
        for name, script in itertools.cycle(programs):
            self.once(name, script)

    def state(self):
        log = subprocess.run(["dmesg"], capture_output=True, check=False).stdout.decode(errors="replace")
        with open("/proc/meminfo") as f:
            free = int(re.search(r"MemAvailable:\s+(\d+)", f.read())[1])
        with open("/sys/devices/system/clocksource/clocksource0/current_clocksource") as f:
            source = f.read().strip()
        with self.lock:
            return {"done": dict(self.done), "wrong": self.wrong[:20], "available_kib": free,
                    "clocksource": source,
                    "complaints": [x for x in log.splitlines() if re.search(COMPLAINTS, x)]}


def main():
    load = Load()
    os.environ["HOME"] = "/root"
    for programs in WORKERS:
        threading.Thread(target=load.work, args=(programs,), daemon=True).start()
    for line in sys.stdin:
        if line == "clock\n":
            print(time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_REALTIME))
        elif line == "state\n":
            print(json.dumps(load.state()))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
