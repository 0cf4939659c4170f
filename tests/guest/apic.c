// SPDX-License-Identifier: Apache-2.0
/* apic.c - the local APIC alone: timer in its three modes, self-IPI, priorities, x2APIC, sleep. */
#include "guest.h"

#define TIMER_VECTOR 0x40
#define LOW_VECTOR   0x50
#define HIGH_VECTOR  0xa0
#define APIC_BASE_MSR 0x1bu
#define TSC_DEADLINE  0x6e0u

static volatile unsigned timer_count, low_count, high_count, nmi_count, order[8], order_count;
static volatile unsigned nested_high;

static void on_timer(struct frame *f)
{
	timer_count++;
	apic_eoi();
}

static void on_low(struct frame *f)
{
	order[order_count++ & 7] = LOW_VECTOR;
	check_equal(apic_read(APIC_ISR + 0x20) & (1u << 16), 1u << 16);
	check_equal(apic_read(APIC_PPR) & 0xf0, 0x50);
	low_count++;
	if (nested_high) {
		/* A higher priority comes in, a lower one does not. */
		unsigned before = high_count;

		apic_send(0, 0x44000 | HIGH_VECTOR);
		apic_send(0, 0x44000 | TIMER_VECTOR);
		sti();
		asm volatile("nop; nop");
		cli();
		check_equal(high_count, before + 1);
		check_equal(timer_count, 0);
	}
	apic_eoi();
}

static void on_high(struct frame *f)
{
	order[order_count++ & 7] = HIGH_VECTOR;
	high_count++;
	apic_eoi();
}

static void on_nmi(struct frame *f)
{
	nmi_count++;
}

static void one_shot(void)
{
	timer_count = 0;
	apic_write(APIC_DIVIDE, 0xb); /* by 1 */
	apic_write(APIC_TIMER, TIMER_VECTOR);
	apic_write(APIC_INITIAL, 100000);
	check(wait_for(&timer_count, 1, 2000));
	delay_us(2000);
	check_equal(timer_count, 1);
	check_equal(apic_read(APIC_CURRENT), 0);
	/* Masked: counts, does not interrupt. */
	apic_write(APIC_TIMER, TIMER_VECTOR | 0x10000);
	apic_write(APIC_INITIAL, 1000);
	sti();
	delay_us(1000);
	cli();
	check_equal(timer_count, 1);
	/* The count runs down. */
	apic_write(APIC_INITIAL, 0xffffffff);
	unsigned a = apic_read(APIC_CURRENT);
	delay_us(100);
	unsigned b = apic_read(APIC_CURRENT);
	check(b < a);
	apic_write(APIC_INITIAL, 0);
	check_equal(apic_read(APIC_CURRENT), 0);
}

static void periodic(void)
{
	timer_count = 0;
	apic_write(APIC_TIMER, TIMER_VECTOR | 0x20000);
	apic_write(APIC_INITIAL, 1000000);
	check(wait_for(&timer_count, 5, 5000));
	apic_write(APIC_INITIAL, 0);
	apic_write(APIC_TIMER, 0x10000);
}

static void deadline(void)
{
	if (!(cpuid(1, 0).c & (1u << 24))) {
		print("no TSC deadline\n");
		return;
	}
	/* A period that ended before its timer was taken away may wait still. */
	sti();
	asm volatile("nop; nop");
	cli();
	timer_count = 0;
	apic_write(APIC_TIMER, TIMER_VECTOR | 0x40000);
	wrmsr(TSC_DEADLINE, rdtsc() + 50000000);
	check(rdmsr(TSC_DEADLINE) != 0);
	check(wait_for(&timer_count, 1, 2000));
	check_equal(rdmsr(TSC_DEADLINE), 0);
	/* In the past: at once. */
	wrmsr(TSC_DEADLINE, 1);
	check(wait_for(&timer_count, 2, 1000));
	/* Taken back. */
	wrmsr(TSC_DEADLINE, rdtsc() + 100000000000ull);
	wrmsr(TSC_DEADLINE, 0);
	check_equal(rdmsr(TSC_DEADLINE), 0);
	apic_write(APIC_TIMER, 0x10000);
}

static void priorities(void)
{
	timer_count = 0;
	/* Both wait while IF is clear; the higher goes first. */
	apic_send(0, 0x44000 | LOW_VECTOR);
	apic_send(0, 0x44000 | HIGH_VECTOR);
	check_equal(apic_read(APIC_IRR + 0x20) & (1u << 16), 1u << 16);
	check_equal(low_count + high_count, 0);
	sti();
	asm volatile("nop; nop; nop");
	cli();
	check_equal(low_count, 1);
	check_equal(high_count, 1);
	check_equal(order[0], HIGH_VECTOR);
	check_equal(order[1], LOW_VECTOR);
	/* Task priority holds the low one back. */
	apic_write(APIC_TPR, 0x50);
	apic_send(0, 0x44000 | LOW_VECTOR);
	apic_send(0, 0x44000 | HIGH_VECTOR);
	sti();
	asm volatile("nop; nop; nop");
	check_equal(low_count, 1);
	check_equal(high_count, 2);
	asm volatile("mov %0, %%cr8" : : "r"(0x4ul) : "memory");
	asm volatile("nop; nop; nop");
	cli();
	check_equal(low_count, 2);
	check_equal(apic_read(APIC_TPR), 0x40);
	word cr8;
	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	check_equal(cr8, 4);
	apic_write(APIC_TPR, 0);
	nested_high = 1;
	apic_send(0, 0x44000 | LOW_VECTOR);
	sti();
	asm volatile("nop; nop; nop");
	cli();
	check_equal(low_count, 3);
	check_equal(timer_count, 1);
	nested_high = 0;
}

/* STI holds interrupts back for one instruction; the next one may close the window again. */
static void windows_once(void)
{
	unsigned before = high_count;

	apic_send(0, 0x44000 | HIGH_VECTOR);
	asm volatile("sti; cli" : : : "memory");
	check_equal(high_count, before);
	asm volatile("sti; nop; cli" : : : "memory");
	check_equal(high_count, before + 1);
	apic_send(0, 0x44000 | HIGH_VECTOR);
	asm volatile("pushf; orl $0x200, (%%rsp); popf; cli" : : : "memory", "cc");
	check_equal(high_count, before + 2);
	/* MOV SS right behind STI would extend it; STI; HLT wakes in any case. */
	apic_send(0, 0x44000 | HIGH_VECTOR);
	asm volatile("sti; hlt; cli" : : : "memory");
	check_equal(high_count, before + 3);
}

static void windows(void)
{
	/* Often enough to be translated. */
	for (unsigned i = 0; i < 40; i++)
		windows_once();
	/* NMI comes with interrupts off. */
	apic_send(0, 0x4400); /* to id 0: the shorthand "self" takes no NMI */
	for (unsigned i = 0; i < 1000 && !nmi_count; i++)
		delay_us(10);
	check_equal(nmi_count, 1);
}

static void sleeping(void)
{
	unsigned before;

	apic_write(APIC_DIVIDE, 0xb);
	for (unsigned i = 0; i < 20; i++) {
		before = timer_count;
		apic_write(APIC_TIMER, TIMER_VECTOR);
		apic_write(APIC_INITIAL, i * 5000 + 1);
		while (timer_count == before)
			asm volatile("sti; hlt; cli" : : : "memory");
		check_equal(timer_count, before + 1);
	}
	/* A loop without exits is interrupted as well. */
	before = timer_count;
	apic_write(APIC_INITIAL, 1000000);
	asm volatile("sti; 1: cmp %1, (%0); je 1b; cli" : : "r"(&timer_count), "r"(before) : "memory", "cc");
	check_equal(timer_count, before + 1);
	/* And a long REP. */
	static uint8_t area[1 << 16];
	before = timer_count;
	apic_write(APIC_INITIAL, 100000);
	sti();
	for (unsigned i = 0; i < 10000 && timer_count == before; i++) {
		word n = sizeof(area), to = (word)area;

		asm volatile("rep stosb" : "+c"(n), "+D"(to) : "a"(0) : "memory");
		check_equal(n, 0);
		if (n)
			break;
	}
	cli();
	check_equal(timer_count, before + 1);
}

static void x2apic_eoi(struct frame *f)
{
	low_count++;
	wrmsr(0x80b, 0);
}

static void x2apic(void)
{
	if (!(cpuid(1, 0).c & (1u << 21))) {
		print("no x2APIC\n");
		return;
	}
	wrmsr(APIC_BASE_MSR, rdmsr(APIC_BASE_MSR) | 1u << 10);
	check_equal(rdmsr(0x802), 0);
	check_equal(rdmsr(0x803) & 0xff, 0x14);
	trap_set(LOW_VECTOR, x2apic_eoi);
	unsigned before = low_count;
	wrmsr(0x83f, LOW_VECTOR); /* self IPI */
	asm volatile("sti; nop; nop; cli" : : : "memory");
	check_equal(low_count, before + 1);
	wrmsr(0x830, 0x4000 | LOW_VECTOR); /* to id 0, in one write */
	asm volatile("sti; nop; nop; cli" : : : "memory");
	check_equal(low_count, before + 2);
	TRY("rdmsr;", : : "c"(0x80e) : "rax", "rdx"); /* no DFR in x2APIC */
	check_fault(13, 0);
	TRY("wrmsr;", : : "c"(0x80b), "a"(1), "d"(0) : "memory"); /* EOI: only 0 */
	check_fault(13, 0);
	/* Back to xAPIC only through "off". */
	TRY("wrmsr;", : : "c"(APIC_BASE_MSR), "a"(0xfee00900), "d"(0) : "memory");
	check_fault(13, 0);
}

int main(void)
{
	trap_set(TIMER_VECTOR, on_timer);
	trap_set(LOW_VECTOR, on_low);
	trap_set(HIGH_VECTOR, on_high);
	trap_set(2, on_nmi);
	apic_init();
	check_equal(rdmsr(APIC_BASE_MSR) & 0xfffff000, 0xfee00000);
	check_equal(rdmsr(APIC_BASE_MSR) & 0x900, 0x900);
	priorities();
	windows();
	one_shot();
	periodic();
	deadline();
	sleeping();
	x2apic();
	return 0;
}
