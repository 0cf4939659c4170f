// SPDX-License-Identifier: Apache-2.0
/* smp.c - start the other CPUs and give them work. */
#include "guest.h"

#define MAX_CPUS 64

struct cpu {
	void (*volatile fn)(void *);
	void *arg;
};

static struct cpu cpus[MAX_CPUS];
extern char smp_trampoline[], smp_trampoline_end[];
extern volatile unsigned smp_arrived;

unsigned smp_index(void)
{
	return apic_read(APIC_ID) >> 24;
}

void smp_main(void);

void smp_main(void)
{
	struct cpu *self = &cpus[smp_index()];

	trap_load_idt();
	apic_init();
	__atomic_fetch_add(&smp_arrived, 0x10000, __ATOMIC_SEQ_CST);
	for (;;) {
		if (self->fn) {
			self->fn(self->arg);
			__atomic_store_n(&self->fn, (void (*)(void *))0, __ATOMIC_RELEASE);
		}
		pause();
	}
}

void smp_call(unsigned cpu, void (*fn)(void *), void *arg)
{
	smp_wait(cpu);
	cpus[cpu].arg = arg;
	__atomic_store_n(&cpus[cpu].fn, fn, __ATOMIC_RELEASE);
}

void smp_wait(unsigned cpu)
{
	while (__atomic_load_n(&cpus[cpu].fn, __ATOMIC_ACQUIRE))
		pause();
}

unsigned smp_start(void)
{
	unsigned expected = argument("cpus"), quiet_ms = 0, seen = 0;

	memcpy((void *)0x8000, smp_trampoline, (size_t)(smp_trampoline_end - smp_trampoline));
	apic_init();
	/* All but self: INIT, then start at 0x8000. SDM vol. 3, "Typical BSP Initialization". */
	apic_send(0, 0xc4500);
	delay_us(10000);
	apic_send(0, 0xc4608);
	delay_us(200);
	apic_send(0, 0xc4608);
	while (quiet_ms < (expected ? 10000 : 300) && (!expected || seen + 1 < expected)) {
		delay_us(1000);
		quiet_ms++;
		if (smp_arrived >> 16 != seen)
			quiet_ms = 0;
		seen = smp_arrived >> 16;
	}
	if (expected)
		check_equal(seen + 1, expected);
	return seen + 1;
}
