// SPDX-License-Identifier: Apache-2.0
/*
 * ticks.c - all that a clock can do to a program, in one number: where timer interrupts hit it, what the
 * counters show there and elsewhere, how long it slept. Twice the same where time is counted by instructions.
 */
#include "guest.h"

#define APIC_VECTOR 0x40
#define TICKS	    300u

static volatile unsigned ticks;
static uint64_t hash = 0xcbf29ce484222325ull;

static void mix(uint64_t v)
{
	hash = (hash ^ v) * 0x100000001b3ull;
}

static void on_tick(struct frame *f)
{
	mix(f->ip);
	mix(f->flags);
	mix(f->ax);
	mix(f->cx);
	mix(rdtsc());
	mix(apic_read(APIC_CURRENT));
	ticks++;
	apic_eoi();
}

/* Loops of all sorts of length: blocks that are left early, a long one, instructions that repeat. */
static void work(unsigned n)
{
	static uint8_t from[512], to[512];
	uint64_t v = n;

	for (unsigned i = 0; i < n; i++) {
		v = v * 6364136223846793005ull + 1442695040888963407ull;
		if (v >> 61 == 5)
			mix(v);
		if (v >> 60 == 9) {
			const void *src = from;
			void *dest = to;
			unsigned long count = v >> 52 & 255;

			asm volatile("rep movsb" : "+S"(src), "+D"(dest), "+c"(count) : : "memory");
		}
		if (v >> 58 == 7)
			mix(rdtsc());
	}
}

int main(void)
{
	trap_set(APIC_VECTOR, on_tick);
	apic_init();
	apic_write(APIC_DIVIDE, 0xb); /* by 1 */
	apic_write(APIC_TIMER, 0x20000 | APIC_VECTOR);
	apic_write(APIC_INITIAL, 54321);
	while (ticks < TICKS) {
		sti();
		work(700 + ticks * 13);
		if (ticks & 1) {
			asm volatile("cli");
			mix(rdtsc());
			asm volatile("sti; hlt");
			mix(rdtsc());
		}
		cli();
		mix(inb(0x40)); /* the 8254's, and the clock chip's */
		outb(0x70, 0);
		mix(inb(0x71));
	}
	apic_write(APIC_INITIAL, 0);
	check(ticks >= TICKS);
	print("hash %lx after %u\n", (unsigned long)hash, ticks);
	return 0;
}
