// SPDX-License-Identifier: Apache-2.0
/* memory.c - work bound by the memory hierarchy, from the first-level cache to far beyond the last. */
#include <string.h>
#include <sys/mman.h>

#include "programs.h"

#define LARGE (64u << 20)

static void copying(void)
{
	static char a[1 << 20], b[1 << 20];

	for (int i = 0; i < 1000; i++) {
		memcpy(a, b, sizeof(a));
		a[i] = (char)i;
		memcpy(b, a, sizeof(b));
	}
	program_sink = (uint64_t)a[5];
}

static void pointer_chasing(void)
{
	static uint32_t next[1 << 16];
	uint32_t p = 0;

	for (unsigned i = 0; i < (1 << 16); i++)
		next[i] = (i * 40503u + 12345) & 0xffff;
	for (int i = 0; i < 20000000; i++)
		p = next[p];
	program_sink = p;
}

static void *large(void)
{
	void *p = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		       -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* The same in 64 MiB: every step misses. */
static void chasing_far(void)
{
	const uint32_t count = LARGE / sizeof(uint32_t);
	uint32_t *next = large(), p = 0;

	if (!next)
		return;
	for (uint32_t i = 0; i < count; i++)
		next[i] = (i * 2654435761u + 12345) & (count - 1);
	for (int i = 0; i < 2000000; i++)
		p = next[p];
	program_sink = p;
	munmap(next, LARGE);
}

static void streaming(void)
{
	uint64_t *v = large(), sum = 0;

	if (!v)
		return;
	for (int r = 0; r < 5; r++)
		for (uint32_t i = 0; i < LARGE / sizeof(*v); i++) {
			sum += v[i];
			v[i] = sum;
		}
	program_sink = sum;
	munmap(v, LARGE);
}

const struct program programs_memory[] = {
	{ "memcpy", copying },
	{ "pointer-chasing", pointer_chasing },
	{ "pointer-chasing-far", chasing_far },
	{ "large-arrays", streaming },
	{ 0 },
};
