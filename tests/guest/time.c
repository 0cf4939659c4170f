// SPDX-License-Identifier: Apache-2.0
/* time.c - TSC, TSC_ADJUST, RDTSCP, and the paravirtual clock where CPUID offers it. */
#include "guest.h"

#define TSC	   0x10u
#define TSC_ADJUST 0x3bu
#define TSC_AUX	   0xc0000103u

static void tsc(void)
{
	uint64_t last = rdtsc();

	for (unsigned i = 0; i < 10000; i++) {
		uint64_t now = rdtsc();

		if (now < last)
			check(now >= last);
		last = now;
	}
	if (cpuid(0x80000001, 0).d & (1u << 27)) {
		uint32_t lo, hi, aux;

		wrmsr(TSC_AUX, 0x1234);
		asm volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		check_equal(aux, 0x1234);
		check(((uint64_t)hi << 32 | lo) >= last);
	}
	wrmsr(TSC, 1ull << 40);
	uint64_t v = rdtsc();
	check(v >= 1ull << 40 && v < (1ull << 40) + (1ull << 34));
	if (cpuid(7, 0).b & 2) {
		uint64_t adjust = rdmsr(TSC_ADJUST);

		wrmsr(TSC_ADJUST, adjust + (1ull << 41));
		v = rdtsc();
		check(v >= 3ull << 40 && v < (3ull << 40) + (1ull << 34));
		check_equal(rdmsr(TSC_ADJUST), adjust + (1ull << 41));
	}
	write_cr4(read_cr4() | 4); /* TSD binds ring 3 only */
	(void)rdtsc();
	write_cr4(read_cr4() & ~4ul);
}

static struct {
	volatile uint32_t version, pad;
	volatile uint64_t tsc, ns;
	volatile uint32_t mul;
	volatile int8_t shift;
	volatile uint8_t flags, pad2[2];
} clock __attribute__((aligned(64)));

static uint64_t clock_ns(void)
{
	uint32_t version;
	uint64_t ns;

	do {
		version = clock.version & ~1u;
		asm volatile("" : : : "memory");
		uint64_t delta = rdtsc() - clock.tsc;

		delta = clock.shift < 0 ? delta >> -clock.shift : delta << clock.shift;
		ns = clock.ns + (uint64_t)(((unsigned __int128)delta * clock.mul) >> 32);
		asm volatile("" : : : "memory");
	} while (version != clock.version);
	return ns;
}

static void paravirtual(void)
{
	struct cpuid c = cpuid(0x40000000, 0);

	if (c.b != 0x4b4d564b || !(cpuid(0x40000001, 0).a & (1u << 3))) {
		print("no paravirtual clock\n");
		return;
	}
	check(cpuid(1, 0).c & (1u << 31));
	wrmsr(0x4b564d01, (uintptr_t)&clock | 1);
	check(clock.version && !(clock.version & 1));
	uint64_t a = clock_ns();
	delay_us(20000);
	uint64_t b = clock_ns();
	/* At least as long as the PIT says, and not wildly more. */
	check(b - a > 18000000);
	check(b - a < 3000000000u);
	/* It does not jump when the TSC is set. */
	wrmsr(TSC, 5ull << 40);
	uint64_t d = clock_ns();
	check(d >= b);
	check(d - b < 3000000000u);
	static volatile uint32_t wall[3] __attribute__((aligned(16)));
	wrmsr(0x4b564d00, (uintptr_t)wall);
	check(wall[1] > 1700000000u);
	check(wall[2] < 1000000000u);
	wrmsr(0x4b564d01, 0);
}

int main(void)
{
	tsc();
	paravirtual();
	return 0;
}
