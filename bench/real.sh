#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# real.sh - real programs, timed: runs in a guest of each kind and in the same Debian on the host itself.
# usage: real.sh DIRECTORY prepare      make the inputs, the same everywhere, and print the programs' names
#        real.sh DIRECTORY NAME         run one: "B name microseconds digest-of-what-it-made"
set -eu
mkdir -p "$1"
cd "$1"
export LC_ALL=C

prepare() {
	python3 - <<'PY'
words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
x = 12345
with open("text", "w") as f:
    for _ in range(200000):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        f.write(words[x >> 16 & 7] + str(x >> 12 & 63) + (" " if x >> 20 & 7 else "\n"))
with open("program.c", "w") as f:
    f.write("#include <stdio.h>\n")
    for i in range(250):
        f.write(f"static int f{i}(int *v, int n)\n{{\n\tint s = {i};\n\tfor (int i = 0; i < n; i++)\n"
                f"\t\ts += v[i] * {i + 3} ^ (s >> {i % 13});\n\treturn s > {i} ? s : -s;\n}}\n")
    f.write("int main(void)\n{\n\tint v[8] = {1, 2, 3, 4, 5, 6, 7, 8}, s = 0;\n")
    f.writelines(f"\ts += f{i}(v, 8);\n" for i in range(250))
    f.write('\tprintf("%d\\n", s);\n\treturn 0;\n}\n')
with open("rows.sql", "w") as f:
    f.write("create table t(a integer primary key, b text, c real);\nbegin;\n")
    for i in range(60000):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        f.write(f"insert into t values({i}, 'name{x % 5000}', {x % 1000}.5);\n")
    f.write("commit;\ncreate index i on t(b);\nselect b, count(*), sum(c) from t group by b order by 3 "
            "desc limit 5;\nselect count(*) from t x join t y on x.b = y.b where x.a < 9000;\n")
PY
	cat >loop.py <<'PY'
import json, re
d = {}
for i in range(300000):
    k = "key%d" % (i % 1000)
    d[k] = d.get(k, 0) + i * 3 % 7
s = json.dumps(d)
for _ in range(100):
    assert json.loads(s) == d
class V:
    def __init__(self, v): self.v = v
    def add(self, o): return V(self.v + o.v)
v = V(0)
for i in range(200000): v = v.add(V(i))
print(len(re.findall(r"key(\d+)5\"", s * 20)), sum(x * x for x in range(500000)), v.v)
PY
	cat >loop.js <<'JS'
const m = new Map();
for (let i = 0; i < 1500000; i++) m.set("k" + i % 5000, (m.get("k" + i % 5000) || 0) + i);
const f = (n) => n < 2 ? n : f(n - 1) + f(n - 2);
const s = JSON.stringify([...m]);
for (let i = 0; i < 40; i++) JSON.parse(s);
const a = [];
for (let i = 0; i < 200000; i++) a.push({ v: i * 7919 % 100003, w: [i] });
a.sort((x, y) => x.v - y.v || x.w[0] - y.w[0]);
console.log(f(30), s.length, a[777].w[0]);
JS
	mkdir -p java
	cat >java/Loop.java <<'JAVA'
import java.util.*;
public class Loop {
	static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
	public static void main(String[] args) {
		Map<String, Integer> m = new HashMap<>();
		long x = 1;
		for (int i = 0; i < 1000000; i++) {
			x = x * 6364136223846793005L + 1442695040888963407L;
			m.merge("k" + Math.floorMod(x >> 33, 5000), i, Integer::sum);
		}
		Integer[] a = new Random(1).ints(200000).boxed().toArray(Integer[]::new);
		Arrays.sort(a, Comparator.reverseOrder());
		System.out.println(fib(32) + " " + new TreeMap<>(m).hashCode() + " " + a[777]);
	}
}
JAVA
	cat >loop.lua <<'LUA'
local t, n, s = {}, 0, 0
for i = 1, 200000 do t[i] = (i * 7919) % 100003 + 0.5 end
table.sort(t)
for k = 1, 400 do for i = 1, 100000 do s = (s + t[i] * k) % 1e9 end end
local parts = {}
for i = 1, 300000 do parts[#parts + 1] = "k" .. i % 977 end
local count = {}
for _, p in ipairs(parts) do count[p] = (count[p] or 0) + 1 end
print(string.format("%.17g", s), #table.concat(parts), count.k5)
LUA
	names="gcc python3 sqlite3 openssl xz bzip2"
	command -v node >/dev/null && names="$names node"
	command -v javac >/dev/null && javac -d java java/Loop.java && names="$names java javac"
	command -v luajit >/dev/null && names="$names luajit"
	echo "P $names."
}

program() {
	case $1 in
	gcc) gcc -O2 -o program program.c && cat program ;;
	python3) python3 loop.py ;;
	sqlite3) rm -f db && sqlite3 db <rows.sql ;;
	openssl)
		for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do cat text text text text text text text text; done |
			openssl enc -aes-256-cbc -pbkdf2 -iter 50000 -S 0011223344556677 -pass pass:x |
			openssl dgst -sha256
		openssl prime -checks 12 $((1 << 61))1 >/dev/null
		;;
	xz) xz -6 -c text >text.xz && xz -dc text.xz | cmp - text && cat text.xz ;;
	bzip2) bzip2 -c text >text.bz2 && bzip2 -dc text.bz2 | cmp - text && cat text.bz2 ;;
	node) node loop.js ;;
	java) java -cp java Loop ;;
	javac) javac -d java java/Loop.java && cat java/Loop.class ;;
	luajit) luajit loop.lua ;;
	esac
}

if [ "$2" = prepare ]; then
	prepare
else
	start=$(date +%s%N)
	program "$2" >out 2>errors </dev/null || { cat errors; exit 1; }
	end=$(date +%s%N)
	echo "B $2 $(((end - start) / 1000)) $(sha256sum <out | cut -c1-16)."
fi
