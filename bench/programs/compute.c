// SPDX-License-Identifier: Apache-2.0
/* compute.c - work in registers and caches: loops, calls, branches. */
#include <stdlib.h>
#include <string.h>

#include "programs.h"

static void integer_loop(void)
{
	uint64_t x = 88172645463325252ull;

	for (int i = 0; i < 60000000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	program_sink = x;
}

static void sieve(void)
{
	static uint8_t prime[1 << 20];
	uint64_t count = 0;

	for (int r = 0; r < 4; r++) {
		memset(prime, 1, sizeof(prime));
		for (unsigned i = 2; i < sizeof(prime); i++) {
			count += prime[i];
			for (unsigned j = i * 2; prime[i] && j < sizeof(prime); j += i)
				prime[j] = 0;
		}
	}
	program_sink = count;
}

static __attribute__((noinline)) int fibonacci(int n)
{
	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static void recursive_calls(void)
{
	program_sink = (uint64_t)fibonacci(35);
}

static int add1(int x)
{
	return x + 1;
}

static int xor3(int x)
{
	return x ^ 3;
}

static int sub7(int x)
{
	return x - 7;
}

static void indirect_calls(void)
{
	static int (*volatile const table[4])(int) = { add1, xor3, sub7, add1 };
	int x = 1;

	for (int i = 0; i < 20000000; i++)
		x = table[x & 3](x);
	program_sink = (uint64_t)x;
}

/* A bytecode interpreter in the usual form: one jump table, taken at random. */
static void switches(void)
{
	static uint8_t code[4096];
	uint32_t seed = 1, a = 1, b = 2;

	for (unsigned i = 0; i < sizeof(code); i++) {
		seed = seed * 1664525 + 1013904223;
		code[i] = (seed >> 24) & 7;
	}
	for (int r = 0; r < 3000; r++)
		for (unsigned i = 0; i < sizeof(code); i++)
			switch (code[i]) {
			case 0: a += b; break;
			case 1: b ^= a; break;
			case 2: a = a << 3 | a >> 29; break;
			case 3: b -= 7; break;
			case 4: a *= 3; break;
			case 5: b += code[a & 4095]; break;
			case 6: a ^= b >> 5; break;
			default: b = ~b; break;
			}
	program_sink = a + b;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void sorting(void)
{
	static uint32_t v[300000];
	uint32_t x = 12345;

	for (unsigned i = 0; i < 300000; i++) {
		x = x * 1664525 + 1013904223;
		v[i] = x;
	}
	qsort(v, 300000, sizeof(v[0]), compare);
	program_sink = v[1000];
}

#define WORDS 50000u
#define SLOTS (1u << 17)

/* Strings hashed (FNV-1a) into an open table and counted. */
static void hashing(void)
{
	static char text[WORDS][12];
	static uint32_t slot[SLOTS], count[SLOTS];
	uint32_t x = 99;

	memset(slot, 0, sizeof(slot));
	memset(count, 0, sizeof(count));
	for (unsigned i = 0; i < WORDS; i++)
		for (unsigned j = 0; j < sizeof(text[0]); j++) {
			x = x * 1664525 + 1013904223;
			text[i][j] = (char)('a' + (x >> 24) % (j < 4 ? 26 : 3));
		}
	for (int r = 0; r < 20; r++)
		for (unsigned i = 0; i < WORDS; i++) {
			uint32_t h = 2166136261u;

			for (unsigned j = 0; j < sizeof(text[0]); j++)
				h = (h ^ (uint8_t)text[i][j]) * 16777619u;
			h &= SLOTS - 1;
			while (slot[h] && memcmp(text[slot[h] - 1], text[i], sizeof(text[0])) != 0)
				h = (h + 1) & (SLOTS - 1);
			slot[h] = i + 1;
			count[h]++;
		}
	program_sink = count[77];
}

#define TEXT (1u << 20)

/* LZ77 with one candidate a hash, into literals and matches. */
static void compression(void)
{
	static uint8_t in[TEXT + 8], out[2 * TEXT];
	static uint32_t last[1 << 14];
	uint32_t x = 7, to = 0;

	for (unsigned i = 0; i < TEXT; i++) {
		x = x * 1664525 + 1013904223;
		in[i] = (x >> 28) ? in[i > 200 ? i - 190 - (i & 7) : 0] : (uint8_t)('a' + (x >> 20) % 20);
	}
	for (int r = 0; r < 8; r++) {
		memset(last, 0, sizeof(last));
		to = 0;
		for (uint32_t i = 0; i < TEXT - 4;) {
			uint32_t four, h, from, len = 0;

			memcpy(&four, in + i, 4);
			h = four * 2654435761u >> 18;
			from = last[h];
			last[h] = i;
			while (from < i && len < 255 && i + len < TEXT && in[from + len] == in[i + len])
				len++;
			if (len < 4) {
				out[to++] = in[i++];
				continue;
			}
			out[to++] = (uint8_t)len;
			memcpy(out + to, &from, 3);
			to += 3;
			i += len;
		}
	}
	program_sink = to + out[to / 2];
}

const struct program programs_compute[] = {
	{ "integer-loop", integer_loop },
	{ "sieve", sieve },
	{ "recursive-calls", recursive_calls },
	{ "indirect-calls", indirect_calls },
	{ "switches", switches },
	{ "sorting", sorting },
	{ "hashing", hashing },
	{ "compression", compression },
	{ 0 },
};
