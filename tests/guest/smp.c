// SPDX-License-Identifier: Apache-2.0
/* smp.c - several CPUs: start-up, IPIs, locked instructions, ordering, TLB shootdown, written code. */
#include "guest.h"

#define MAX 64
#define IPI_VECTOR 0x70

static unsigned cpus;
static volatile unsigned ipi_count[MAX];

static void on_ipi(struct frame *f)
{
	__atomic_fetch_add(&ipi_count[smp_index()], 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void on_all(void (*fn)(void *), void *arg)
{
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, fn, arg);
	fn(arg);
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
}

/* ---- locked instructions ---- */

static struct {
	volatile uint64_t inc, add, exchange_lock, plain, bits[16], pair[2] __attribute__((aligned(16)));
	volatile uint64_t cas;
	volatile uint8_t byte;
	volatile uint16_t half;
} __attribute__((aligned(64))) shared;

#define ROUNDS 500

static void hammer(void *arg)
{
	unsigned me = smp_index();

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t one = 1, old, next;

		asm volatile("lock incq %0" : "+m"(shared.inc) : : "memory", "cc");
		asm volatile("lock xaddq %1, %0" : "+m"(shared.add), "+r"(one) : : "memory", "cc");
		asm volatile("lock addb $1, %0" : "+m"(shared.byte) : : "memory", "cc");
		asm volatile("lock subw $1, %0" : "+m"(shared.half) : : "memory", "cc");
		do {
			old = shared.cas;
			next = old + 3;
			asm volatile("lock cmpxchgq %2, %0" : "+m"(shared.cas), "+a"(old) : "r"(next)
				     : "memory", "cc");
		} while (old + 3 != next);
		/* XCHG locks by itself. */
		uint64_t taken = 1;
		do {
			taken = 1;
			asm volatile("xchgq %1, %0" : "+m"(shared.exchange_lock), "+r"(taken) : : "memory");
		} while (taken);
		shared.plain++;
		asm volatile("movq $0, %0" : "=m"(shared.exchange_lock) : : "memory");
		/* Pair: both halves move together. */
		uint64_t lo = shared.pair[0], hi = shared.pair[1];
		uint8_t done;
		do {
			asm volatile("lock cmpxchg16b %0; setz %1"
				     : "+m"(shared.pair), "=q"(done), "+a"(lo), "+d"(hi)
				     : "b"(lo + 1), "c"(hi + 2)
				     : "memory", "cc");
		} while (!done);
		asm volatile("lock btcq %1, %0" : "+m"(shared.bits[0]) : "r"((uint64_t)me) : "memory", "cc");
		asm volatile("lock notq %0" : "+m"(shared.bits[2 + (me & 7)]) : : "memory");
		asm volatile("lock negq %0" : "+m"(shared.bits[2 + (me & 7)]) : : "memory", "cc");
	}
}

static void atomics(void)
{
	on_all(hammer, NULL);
	uint64_t n = (uint64_t)ROUNDS * cpus;

	check_equal(shared.inc, n);
	check_equal(shared.add, n);
	check_equal(shared.cas, 3 * n);
	check_equal(shared.plain, n);
	check_equal(shared.pair[0], n);
	check_equal(shared.pair[1], 2 * n);
	check_equal(shared.byte, n & 0xff);
	check_equal(shared.half, -n & 0xffff);
	check_equal(shared.bits[0], 0);
}

/* ---- IPIs ---- */

static void ipis(void)
{
	for (unsigned round = 1; round <= 5; round++) {
		apic_send(0, 0xc4000 | IPI_VECTOR); /* all but self */
		for (unsigned i = 1; i < cpus; i++) {
			for (unsigned n = 0; n < 100000 && ipi_count[i] < round; n++)
				delay_us(10);
			check_equal(ipi_count[i], round);
		}
	}
	for (unsigned i = 1; i < cpus; i++) {
		apic_send(i, 0x4000 | IPI_VECTOR);
		for (unsigned n = 0; n < 100000 && ipi_count[i] < 6; n++)
			delay_us(10);
		check_equal(ipi_count[i], 6);
	}
}

static volatile unsigned sleepers_awake;

static void sleep_until_ipi(void *arg)
{
	unsigned seen = ipi_count[smp_index()];

	cli();
	while (ipi_count[smp_index()] == seen)
		asm volatile("sti; hlt; cli" : : : "memory");
	__atomic_fetch_add(&sleepers_awake, 1, __ATOMIC_SEQ_CST);
	sti();
}

static void wake_ups(void)
{
	for (unsigned round = 0; round < 5; round++) {
		sleepers_awake = 0;
		for (unsigned i = 1; i < cpus; i++)
			smp_call(i, sleep_until_ipi, NULL);
		delay_us(round * 50);
		/* Sent again until all are up: an IPI may come before the first look. */
		for (unsigned n = 0; n < 1000 && sleepers_awake < cpus - 1; n++) {
			apic_send(0, 0xc4000 | IPI_VECTOR);
			delay_us(1000);
		}
		check_equal(sleepers_awake, cpus - 1);
	}
}

/* ---- message passing: stores become visible in order ---- */

static volatile uint64_t message, flag;
static volatile unsigned wrong;

static void reader(void *arg)
{
	for (uint64_t i = 1; i <= 500; i++) {
		while (flag < i)
			pause();
		if (message < i)
			wrong = 1;
	}
}

static void ordering(void)
{
	message = flag = 0;
	smp_call(1, reader, NULL);
	for (uint64_t i = 1; i <= 500; i++) {
		message = i;
		flag = i;
	}
	smp_wait(1);
	check_equal(wrong, 0);
}

/* ---- TLB shootdown ---- */

static volatile uint64_t *const shot = (uint64_t *)FREE_VIRT;
static volatile unsigned shoot_turn, shoot_seen;

static void shoot_ack(struct frame *f)
{
	invlpg((void *)shot);
	__atomic_fetch_add(&shoot_seen, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void shoot_watch(void *arg)
{
	sti();
	while (shoot_turn != ~0u)
		(void)*shot;
}

static void shootdown(void)
{
	uint64_t *page[2] = { page_alloc(), page_alloc() };

	*page[0] = 1;
	*page[1] = 2;
	uint64_t *pte = page_map(FREE_VIRT, (uintptr_t)page[0], PTE_P | PTE_W);
	trap_set(0x71, shoot_ack);
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, shoot_watch, NULL);
	for (unsigned i = 1; i <= 20; i++) {
		shoot_seen = 0;
		*pte = (uintptr_t)page[i & 1] | PTE_P | PTE_W;
		invlpg((void *)shot);
		apic_send(0, 0xc4000 | 0x71);
		for (unsigned n = 0; n < 100000 && shoot_seen < cpus - 1; n++)
			delay_us(10);
		check_equal(shoot_seen, cpus - 1);
		check_equal(*shot, (i & 1) + 1);
	}
	shoot_turn = ~0u;
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
}

/* ---- code written by one CPU and run by another ---- */

static uint8_t *code;
static volatile uint32_t code_turn, code_done;

static void run_code(void *arg)
{
	unsigned (*fn)(void) = (unsigned (*)(void))code;

	for (uint32_t i = 1; i <= 300; i++) {
		while (code_turn < i)
			pause();
		(void)cpuid(0, 0); /* serialize: SDM vol. 3, "Handling Self- and Cross-Modifying Code" */
		if (fn() != i)
			wrong++;
		code_done = i;
	}
}

static void cross_modified(void)
{
	code = page_alloc();
	code[0] = 0xb8;
	code[5] = 0xc3;
	wrong = 0;
	smp_call(1, run_code, NULL);
	for (uint32_t i = 1; i <= 300; i++) {
		memcpy(code + 1, &i, 4);
		code_turn = i;
		while (code_done < i)
			pause();
	}
	smp_wait(1);
	check_equal(wrong, 0);
	/* One byte of a running loop: it ends. */
	static const uint8_t loop[] = { 0xf3, 0x90, 0xeb, 0xfc, 0xc3 }; /* 1: pause; jmp 1b; ret */
	for (unsigned i = 0; i < 20; i++) {
		memcpy(code + 64, loop, sizeof(loop));
		smp_call(1, (void (*)(void *))(void *)(code + 64), NULL);
		delay_us(i * 10);
		*(volatile uint8_t *)(code + 66) = 0x90;
		*(volatile uint8_t *)(code + 67) = 0x90;
		/* eb fc -> 90 fc (nop; cld) -> 90 90 */
		smp_wait(1);
	}
}

int main(void)
{
	trap_set(IPI_VECTOR, on_ipi);
	cpus = smp_start();
	print("%u CPUs\n", cpus);
	if (cpus < 2)
		skip("one CPU");
	sti();
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, (void (*)(void *))sti, NULL);
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
	print("atomics\n");
	atomics();
	print("ipis\n");
	ipis();
	print("wake_ups\n");
	wake_ups();
	print("ordering\n");
	ordering();
	print("shootdown\n");
	shootdown();
	print("cross_modified\n");
	cross_modified();
	return 0;
}
