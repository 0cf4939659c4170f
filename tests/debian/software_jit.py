# SPDX-License-Identifier: Apache-2.0
"""software_jit.py - checks of software.py: programs that write machine code while they run."""
from software_check import Check

NODE = r"""
node -e '
let x = 12345, f = 0.5, h = new Map(), s = 0n;
for (let i = 1; i < 3e6; i++) {
	x = (Math.imul(x, 1103515245) + 12345) >>> 0;
	f = Math.sin(f * x) + Math.sqrt(i) % 3 - Math.atan2(x, i);
	if (i % 1000 == 0) { h.set(String(x % 5000), (h.get(String(x % 5000)) || 0) + x); s = s * 31n + BigInt(x) & ((1n << 200n) - 1n); }
}
console.log(f, s.toString(), JSON.stringify([...h].sort()).length);
class A { constructor(v) { this.v = v; } get w() { return this.v * 2; } }
class B extends A { get w() { return super.w + 1; } }
let t = 0; for (let i = 0; i < 2e6; i++) t += (i & 1 ? new A(i) : new B(i)).w % 7;
const a = Float64Array.from({ length: 200000 }, (_, i) => Math.cos(i) * i).sort();
console.log(t, a[1000], a[199999], "x".repeat(1000).replace(/x(?=x)/g, (m, i) => i % 10).slice(0, 40));
console.log(require("crypto").createHash("sha256").update(a).digest("hex"));
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
console.log(fib(27), [3, 1, 2].map((v) => v ** 20).toString());
const add = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96,
	2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0, 10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11]))).exports.add;
for (let i = t = 0; i < 1e6; i++) t = add(t, i);
console.log(t);'
"""

# Optimized, thrown away and optimized anew; code that moves; several isolates with code of their own.
NODE_CODE = r"""
cat >work.js <<'JS'
const { isMainThread, Worker, parentPort, workerData } = require("worker_threads");
function run(seed) {
	let out = [];
	// A function that was compiled for integers meets doubles, strings, objects, and is thrown away.
	for (let round = 0; round < 4; round++) {
		const add = new Function("a", "b", `return a + b + ${round};`);
		const kinds = [seed, seed + 0.5, "s" + seed, 10n, { valueOf: () => seed }, [seed]];
		for (const k of kinds) {
			let t;
			try {
				for (let i = 0; i < 20000; i++) t = add(k, typeof k == "bigint" ? 2n : i % 3);
			} catch (e) { t = e.name; }
			out.push(String(t));
		}
	}
	// Hundreds of functions, each compiled, called, dropped.
	let sum = 0;
	for (let i = 0; i < 150; i++) {
		const f = new Function("x", "let s = 0; for (let j = 0; j < 300; j++) s = (s * 31 + x * " + (i + 1) + ") | 0; return s;");
		for (let j = 0; j < 30; j++) sum = (sum + f(j)) | 0;
	}
	out.push(sum);
	// Regular expressions are compiled too.
	const text = Array.from({ length: 3000 }, (_, i) => "w" + (i * 7919 + seed) % 10007).join(" ");
	for (let i = 0; i < 15; i++) out.push((text.match(new RegExp("w(\\d)" + i + "(?=\\d* )", "g")) || []).length);
	// Closures, exceptions, generators, typed arrays.
	function* g(n) { for (let i = 0; i < n; i++) { try { if (i % 17 == 0) throw i; yield i * 2; } catch (e) { yield -e; } } }
	let z = 0; for (const v of g(40000)) z += v;
	const a = new Int32Array(65536); for (let i = 0; i < 5e5; i++) a[i * 40503 & 65535] += i;
	out.push(z, a.reduce((p, v) => (p * 33 + v) | 0, 0));
	return require("crypto").createHash("sha256").update(out.join(",")).digest("hex");
}
if (isMainThread) {
	const done = {};
	let left = 2;
	for (let i = 0; i < 2; i++)
		new Worker(__filename, { workerData: i }).on("message", (m) => {
			done[i] = m;
			if (--left == 0) { console.log(run(9)); for (let j = 0; j < 2; j++) console.log(j, done[j]); }
		});
} else parentPort.postMessage(run(workerData));
JS
node work.js
"""

# A loop of products, rotations and stores, assembled here.
WASM = r"""
cat >w.js <<'JS'
function leb(n){const o=[];for(;;){const b=n&127;n>>=7;if((n==0&&!(b&64))||(n==-1&&(b&64))){o.push(b);return o}o.push(b|128)}}
const body=[1,2,127, 3,64,
 0x20,1,0x20,1,0x6c, 0x20,2,0x41,5,0x77, 0x6a, 0x21,2,
 0x20,1,0x41,...leb(65532),0x71, 0x20,2,0x36,2,0,
 0x20,1,0x41,1,0x6a,0x22,1, 0x20,0,0x48,0x0d,0, 0x0b,
 0x20,2,0x41,8,0x28,2,0,0x73, 0x0b];
const code=[1,...leb(body.length),...body];
const bytes=[0,97,115,109,1,0,0,0, 1,6,1,96,1,127,1,127, 3,2,1,0, 5,3,1,0,1, 7,5,1,1,102,0,0, 10,...leb(code.length),...code];
const f=new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(bytes))).exports.f;
let t=0; for(let i=0;i<300;i++) t=(t*31+f(10000+i))|0;
console.log(t);
JS
node w.js && node --liftoff-only w.js && node --no-liftoff w.js
"""

JAVA_WORK = r"""
cat >Work.java <<'J'
import java.math.BigInteger;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

public class Work {
	interface Shape { double area(); }
	record Circle(double r) implements Shape { public double area() { return Math.PI * r * r; } }
	record Box(double a, double b) implements Shape { public double area() { return a * b; } }
	record Line(double l) implements Shape { public double area() { return 0; } }

	static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

	static double shapes(int n) {
		double s = 0;
		for (int i = 0; i < n; i++) {
			Shape x = i < n / 2 ? new Circle(i) : i % 3 == 0 ? new Box(i, 2) : new Line(i); // deoptimizes half way
			s += x.area();
		}
		return s;
	}

	static long exceptions(int n) {
		long s = 0;
		int[] a = new int[16];
		String nothing = null;
		for (int i = 0; i < n; i++)
			try {
				if (i % 3 == 0) a[i % 20]++;         // out of bounds now and then
				else if (i % 1001 == 0) s += nothing.length(); // a fault that the VM turns into an exception
				else s += 1000 / (i % 7);             // so is this
			} catch (ArrayIndexOutOfBoundsException e) { s += 1;
			} catch (NullPointerException e) { s += 10;
			} catch (ArithmeticException e) { s += 100; }
		return s;
	}

	static long threads() throws Exception {
		AtomicLong atomic = new AtomicLong();
		long[] locked = { 0 };
		Object lock = new Object();
		ConcurrentHashMap<Integer, Integer> map = new ConcurrentHashMap<>();
		ExecutorService pool = Executors.newFixedThreadPool(4);
		List<Future<?>> all = new ArrayList<>();
		for (int t = 0; t < 4; t++)
			all.add(pool.submit(() -> {
				for (int i = 0; i < 50000; i++) {
					atomic.addAndGet(i);
					synchronized (lock) { locked[0]++; }
					if (i % 10 == 0) map.merge(i % 500, 1, Integer::sum);
				}
			}));
		for (Future<?> f : all) f.get();
		pool.shutdown();
		return atomic.get() ^ locked[0] ^ map.values().stream().mapToInt(x -> x).sum();
	}

	public static void main(String[] args) throws Exception {
		System.out.println("fib " + fib(28));
		System.out.println("shapes " + shapes(1000000));
		System.out.println("exceptions " + exceptions(300000));
		System.out.println("threads " + threads());
		Random r = new Random(42);
		double[] m = r.doubles(22500).toArray(), p = new double[22500];
		for (int k = 0; k < 2; k++)
			for (int i = 0; i < 150; i++)
				for (int j = 0; j < 150; j++) {
					double s = 0;
					for (int q = 0; q < 150; q++) s += m[i * 150 + q] * m[q * 150 + j];
					p[i * 150 + j] = s;
				}
		System.out.println("matrix " + Arrays.hashCode(p));
		System.out.println("sort " + Arrays.hashCode(r.ints(200000).sorted().toArray()));
		System.out.println("parallel " + IntStream.range(0, 500000).parallel().mapToLong(i -> (long) i * i % 7919).sum());
		Map<String, Long> words = IntStream.range(0, 100000).mapToObj(i -> "w" + (i * 7919L) % 1009)
			.collect(Collectors.groupingBy(w -> w, TreeMap::new, Collectors.counting()));
		System.out.println("words " + words.hashCode());
		byte[] data = new byte[500000];
		r.nextBytes(data);
		for (String d : new String[] { "MD5", "SHA-1", "SHA-256", "SHA-512", "SHA3-256" })
			System.out.println(d + " " + new BigInteger(1, MessageDigest.getInstance(d).digest(data)).toString(16));
		var crc = new java.util.zip.CRC32();
		for (int i = 0; i < 20; i++) crc.update(data);
		System.out.println("crc " + crc.getValue());
		var c = javax.crypto.Cipher.getInstance("AES/GCM/NoPadding");
		c.init(1, new javax.crypto.spec.SecretKeySpec(new byte[16], "AES"), new javax.crypto.spec.GCMParameterSpec(128, new byte[12]));
		System.out.println("gcm " + Arrays.hashCode(c.doFinal(data)));
		System.out.println("big " + BigInteger.TWO.pow(1279).subtract(BigInteger.ONE).isProbablePrime(2) + " "
			+ new BigInteger("3").pow(5000).mod(new BigInteger("1000000007")));
		double f = 0.5;
		for (int i = 1; i < 400000; i++) f = StrictMath.sin(f * i) + Math.sqrt(i) % 3 + Math.fma(f, 0.5, 1.0 / i);
		System.out.println("floats " + f + " " + (int) 1e20 + " " + (long) Double.NaN + " " + (-7 / 2) + " " + (-7 % 3) + " " + (1 << 33));
		StringBuilder b = new StringBuilder();
		for (int i = 0; i < 50000; i++) b.append(i % 97).append((char) (0x3b1 + i % 24));
		System.out.println("text " + b.toString().hashCode() + " " + b.toString().toUpperCase().replaceAll("(\\d)\u0391", "$1").hashCode());
	}
}
J
javac -d . Work.java
"""

JAVA_MODES = (("", "the usual way"), ("-XX:+UseSerialGC -Xmx64m", "a small heap"),
              ("-XX:+UseG1GC -Xmx64m", "G1 in a small heap"), ("-XX:+UseZGC -Xmx256m", "ZGC"),
              ("-XX:TieredStopAtLevel=1", "the first compiler only"),
              ("-XX:-TieredCompilation", "the second compiler only"),
              ("-XX:ReservedCodeCacheSize=4m -XX:InitialCodeCacheSize=2496k", "a small code cache"))

LUA_WORK = r"""
cat >work.lua <<'L'
local bit = require("bit")
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
print("fib", fib(25))
local t = {}
for i = 1, 80000 do t[i] = (i * 7919) % 100003 + 0.5 end
table.sort(t)
print("sort", t[1], t[77777], #t)
local x, h = 12345, 0
for i = 1, 4000000 do x = bit.tobit(x * 69069 + 1) h = bit.bxor(bit.rol(h, 5), x) end
print("bits", x, h)
local f = 0.5
for i = 1, 600000 do f = math.sin(f * i) + math.sqrt(i) % 3 - math.exp(-i / 1e6) end
print("floats", string.format("%.17g", f))
local parts = {}
for i = 1, 100000 do parts[#parts + 1] = string.format("%d:%x", i, i * 31) end
local s = table.concat(parts, ",")
print("text", #s, select(2, s:gsub("(%x)%1", "")), s:reverse():sub(1, 30))
-- Traces that leave by the side, one for each kind of value.
local function mix(v) if type(v) == "number" then return v * 2 elseif type(v) == "string" then return #v else return 1 end end
local sum, kinds = 0, { 1, "abc", {}, 2.5, "x", true }
for i = 1, 800000 do sum = sum + mix(kinds[i * 7 % 6 + 1]) end
print("traces", sum)
-- Many small functions: the machine code area fills and is emptied.
local total = 0
for i = 1, 1500 do
	local g = loadstring("local a = ... local s = 0 for i = 1, 200 do s = s + a * " .. i .. " % (i + 1) end return s")
	total = total + g(i)
end
print("functions", string.format("%.17g", total))
local ok, ffi = pcall(require, "ffi")
ffi.cdef("typedef struct { int32_t a; double b; uint8_t c[8]; } sika_t; double pow(double, double); int abs(int);")
local a = ffi.new("sika_t[?]", 1000)
for k = 1, 80 do for i = 0, 999 do a[i].a = a[i].a + i * k a[i].b = a[i].b + ffi.C.pow(i, 0.5) a[i].c[k % 8] = a[i].a % 256 end end
local p, q, r = 0, 0, 0
for i = 0, 999 do p = p + a[i].a q = q + a[i].b r = r + a[i].c[i % 8] + ffi.C.abs(-i) end
print("ffi", p, string.format("%.17g", q), r)
local co = coroutine.wrap(function() for i = 1, 150000 do coroutine.yield(i * 3) end end)
local c = 0
for i = 1, 150000 do c = c + co() end
print("coroutines", c)
local i64 = 0LL
for i = 1, 1000000 do i64 = i64 * 6364136223846793005LL + 1442695040888963407LL end
print("int64", i64)
L
"""

VERSIONS = {"java": "java -version 2>&1 | sed -n 's/.*version \"\\([0-9]*\\).*/\\1/p'",
            "luajit": "luajit -v | cut -c1-20"}


def jit():
    yield Check("node: many things", NODE, True, ("node",))
    yield Check("node: code that comes and goes, in three threads", NODE_CODE, True, ("node",))
    for options in ("--jitless", "--always-sparkplug", "--no-opt", "--stress-compaction --gc-interval=20000"):
        yield Check(f"node {options}: code that comes and goes",
                    NODE_CODE.replace("node work.js", f"node {options} work.js"), True, ("node",))
    yield Check("node: WebAssembly", WASM, True, ("node",))
    for options, what in JAVA_MODES:
        yield Check(f"java: {what}", JAVA_WORK + f"java -Xshare:auto {options} Work 2>/dev/null", True,
                    ("java", "javac"), version=VERSIONS["java"])
    for options in ("", "-joff", "-O0", "-Ohotloop=2 -Ohotexit=2", "-Omaxmcode=64 -Osizemcode=32"):
        yield Check(f"luajit {options}", LUA_WORK + f"luajit {options} work.lua", True, ("luajit",),
                    version=VERSIONS["luajit"])
    # On one CPU, code is written and run by the same.
    yield Check("java: on one CPU", JAVA_WORK + "taskset 1 java Work 2>/dev/null", True, ("java", "javac"),
                version=VERSIONS["java"])
    yield Check("node: on one CPU", NODE_CODE.replace("node work.js", "taskset 1 node work.js"), True, ("node",))
