#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# real.sh - real programs, timed: runs in a guest of each kind and in the same Debian on the host itself.
# One line each: "B name seconds". Works in a directory of its own below /tmp.
set -eu
work=$(mktemp -d /tmp/real.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
export LC_ALL=C

# Input that is the same everywhere.
python3 - <<'PY'
words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
x = 12345
with open("text", "w") as f:
    for _ in range(400000):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        f.write(words[x >> 16 & 7] + (" " if x >> 20 & 7 else "\n"))
with open("program.c", "w") as f:
    f.write("#include <stdio.h>\n")
    for i in range(600):
        f.write(f"static int f{i}(int *v, int n)\n{{\n\tint s = {i};\n\tfor (int i = 0; i < n; i++)\n"
                f"\t\ts += v[i] * {i + 3} ^ (s >> {i % 13});\n\treturn s > {i} ? s : -s;\n}}\n")
    f.write("int main(void)\n{\n\tint v[8] = {1, 2, 3, 4, 5, 6, 7, 8}, s = 0;\n")
    f.writelines(f"\ts += f{i}(v, 8);\n" for i in range(600))
    f.write('\tprintf("%d\\n", s);\n\treturn 0;\n}\n')
with open("rows.sql", "w") as f:
    f.write("create table t(a integer primary key, b text, c real);\nbegin;\n")
    for i in range(60000):
        x = (x * 1103515245 + 12345) & 0x7fffffff
        f.write(f"insert into t values({i}, 'name{x % 5000}', {x % 1000}.5);\n")
    f.write("commit;\ncreate index i on t(b);\nselect b, count(*), sum(c) from t group by b order by 3 "
            "desc limit 5;\nselect count(*) from t x join t y on x.b = y.b where x.a < 2000;\n")
PY
cat >loop.py <<'PY'
import json, re
d = {}
for i in range(300000):
    k = "key%d" % (i % 1000)
    d[k] = d.get(k, 0) + i * 3 % 7
s = json.dumps(d)
for _ in range(30):
    assert json.loads(s) == d
print(len(re.findall(r"key(\d+)5\"", s * 20)), sum(x * x for x in range(500000)))
PY
cat >loop.js <<'JS'
const m = new Map();
for (let i = 0; i < 2000000; i++) m.set("k" + i % 5000, (m.get("k" + i % 5000) || 0) + i);
let f = (n) => n < 2 ? n : f(n - 1) + f(n - 2);
const s = JSON.stringify([...m]);
for (let i = 0; i < 20; i++) JSON.parse(s);
console.log(f(32), s.length);
JS

timed() { # name command...
	name=$1
	shift
	for _ in 1 2; do # the first one warms the caches
		start=$(date +%s%N)
		"$@" >out 2>&1 || { cat out; exit 1; }
		end=$(date +%s%N)
	done
	echo "B $name $(((end - start) / 1000000)).$(((end - start) / 1000 % 1000))" |
		awk '{ split($3, t, "."); printf "B %s %.6f\n", $2, (t[1] + t[2] / 1000) / 1000 }'
}

timed gcc gcc -O2 -o program program.c
timed python3 python3 loop.py
timed sqlite3 sh -c 'rm -f db; sqlite3 db <rows.sql'
timed openssl sh -c 'for i in 1 2 3 4 5 6; do cat text text text text; done |
	openssl enc -aes-256-cbc -pbkdf2 -iter 20000 -pass pass:x | openssl dgst -sha256'
timed xz sh -c 'xz -6 -c text >text.xz; xz -dc text.xz | cmp - text'
timed bzip2 sh -c 'bzip2 -c text | bunzip2 | cmp - text'
if command -v node >/dev/null; then
	timed node node loop.js
fi
