// SPDX-License-Identifier: Apache-2.0
/* many.c - as many CPUs as there can be: all start, know who they are, sleep, and are woken. */
#include "guest.h"

#define MAX	    64
#define WAKE_VECTOR 0x70

static volatile unsigned seen[MAX], woken;

static void on_wake(struct frame *f)
{
	__atomic_fetch_add(&woken, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void visit(void *arg)
{
	unsigned index = smp_index();

	if (cpuid(1, 0).b >> 24 == index)
		__atomic_fetch_add(&seen[index], 1, __ATOMIC_SEQ_CST);
}

/* They spin no more, so that many of them leave room on few host CPUs. */
static void sleep(void *arg)
{
	for (;;)
		asm volatile("sti; hlt; cli" : : : "memory");
}

int main(void)
{
	unsigned cpus;

	trap_set(WAKE_VECTOR, on_wake);
	cpus = smp_start();
	print("%u CPUs\n", cpus);
	for (unsigned i = 1; i < cpus; i++) {
		smp_call(i, visit, NULL);
		smp_wait(i);
		check_equal(seen[i], 1);
		smp_call(i, sleep, NULL);
	}
	for (unsigned round = 1; round <= 3; round++) {
		apic_send(0, 0xc4000 | WAKE_VECTOR); /* all but self */
		for (unsigned n = 0; n < 10000 && woken < round * (cpus - 1); n++)
			delay_us(1000);
		check_equal(woken, round * (cpus - 1));
	}
	return 0;
}
