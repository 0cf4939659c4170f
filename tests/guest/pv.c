// SPDX-License-Identifier: Apache-2.0
/*
 * pv.c - what KVM offers guests that know it (Linux, Documentation/virt/kvm/x86): the time that a CPU does not get, a
 * TLB flushed while its CPU is away, IPIs, kicks and yields by hypercall, the end of an interrupt without an exit.
 */
#include "guest.h"

/* Bits of CPUID leaf 0x40000001, EAX. */
enum feature { STEAL_TIME = 5, EOI = 6, UNHALT = 7, TLB_FLUSH = 9, SEND_IPI = 11, SCHED_YIELD = 13 };

#define MSR_STEAL_TIME 0x4b564d03u
#define MSR_EOI	       0x4b564d04u
#define MSR_ON	       1u

enum hypercall { HC_POLL = 1, HC_KICK = 5, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11 };

#define NOT_PERMITTED (-(word)1)
#define BAD_VALUE     (-(word)22)
#define NO_SUCH_CALL  (-(word)1000)

#define VECTOR	    0x70u
#define HIGH_VECTOR 0x90u
#define NOT_RAM	    0x40000000u

static uint32_t features;

static bool offers(enum feature f)
{
	return features >> f & 1;
}

/* ---- hypercalls ---- */

static bool amd;

/* Some processors have the one, some the other. */
static word call_by(bool vmmcall, word number, word a0, word a1, word a2, word a3)
{
	if (vmmcall)
		asm volatile("vmmcall" : "+a"(number) : "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
	else
		asm volatile("vmcall" : "+a"(number) : "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
	return number;
}

static word call(word number, word a0, word a1, word a2, word a3)
{
	return call_by(amd, number, a0, a1, a2, a3);
}

static word call_as_user(word number)
{
	return call(number, 0, 0, 0, 0);
}

static void hypercalls(void)
{
	check_equal(call(1000, 0, 0, 0, 0), NO_SUCH_CALL);
	check_equal(call((word)-1, -1, -1, -1, -1), NO_SUCH_CALL);
	/* The other vendor's instruction: of a machine that has come from elsewhere. */
	check_equal(call_by(!amd, 1000, 0, 0, 0, 0), NO_SUCH_CALL);
	check_equal(user_call(call_as_user, HC_KICK), NOT_PERMITTED);
	if (offers(SEND_IPI))
		check_equal(call(HC_POLL, 0, 0, 0, 0), 0);
}

/* ---- IPIs ---- */

static volatile unsigned ipis_of[2], nmis;

static void on_ipi(struct frame *f)
{
	ipis_of[smp_index()]++;
	apic_eoi();
}

static void on_nmi(struct frame *f)
{
	nmis++;
}

static void open_interrupts(void *arg)
{
	sti();
}

static void ipis(void)
{
	static const struct {
		word low, high, first, icr, answer;
		uint8_t to[2];
	} row[] = {
		{ 2, 0, 0, VECTOR, 1, { 0, 1 } },
		{ 1, 0, 1, VECTOR, 1, { 0, 1 } },
		{ 3, 0, 0, VECTOR, 2, { 1, 1 } },
		{ ~0ul, ~0ul, 0, VECTOR, 2, { 1, 1 } },
		{ ~3ul, ~0ul, 0, VECTOR, 0, { 0, 0 } },
		{ ~0ul, ~0ul, ~0ul, VECTOR, 0, { 0, 0 } },
		{ 3, 0, 0, VECTOR | 0x800, BAD_VALUE, { 0, 0 } },   /* logical */
		{ 3, 0, 0, VECTOR | 0x40000, BAD_VALUE, { 0, 0 } }, /* self */
	};

	trap_set(VECTOR, on_ipi);
	trap_set(2, on_nmi);
	for (unsigned i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		ipis_of[0] = ipis_of[1] = 0;
		check_equal(call(HC_SEND_IPI, row[i].low, row[i].high, row[i].first, row[i].icr), row[i].answer);
		for (unsigned cpu = 0; cpu < 2; cpu++)
			check(wait_for(&ipis_of[cpu], row[i].to[cpu], 2000));
		delay_us(1000);
		check_equal(ipis_of[0] << 8 | ipis_of[1], row[i].to[0] << 8 | row[i].to[1]);
	}
	check_equal(call(HC_SEND_IPI, 2, 0, 0, 0x400), 1);
	check(wait_for(&nmis, 1, 2000));
}

/* ---- kicks and yields ---- */

static volatile unsigned halting, awake, may_halt;

/* With interrupts off nothing else wakes it. */
static void halt_closed(void *arg)
{
	cli();
	halting++;
	while (!may_halt)
		pause();
	asm volatile("hlt" : : : "memory");
	awake++;
	sti();
}

static void kicks(void)
{
	for (unsigned round = 1; round <= 10; round++) {
		bool before = round & 1; /* it is not lost on a CPU that halts later */

		may_halt = !before;
		smp_call(1, halt_closed, NULL);
		check(wait_for(&halting, round, 2000));
		delay_us(2000);
		check_equal(awake, round - 1);
		check_equal(call(HC_KICK, 0, 1, 0, 0), 0);
		may_halt = 1;
		if (!wait_for(&awake, round, 2000))
			check(!"a CPU is awake that was kicked"), finish(1);
		smp_wait(1);
	}
	check_equal(call(HC_KICK, 0, 200, 0, 0), 0);
	check_equal(call(HC_KICK, -1, -1, -1, -1), 0);
}

static void yields(void)
{
	for (word to = 0; to < 3; to++)
		check_equal(call(HC_SCHED_YIELD, to, 0, 0, 0), 0);
	check_equal(call(HC_SCHED_YIELD, -1, 0, 0, 0), 0);
}

/* ---- a CPU that is away ---- */

static struct {
	volatile uint64_t steal;
	volatile uint32_t version, flags;
	volatile uint8_t preempted;
} page __attribute__((aligned(64)));

#define PREEMPTED  1u
#define FLUSH	   2u
#define A_WHILE	   2000000u

static volatile uint64_t *const shown = (uint64_t *)FREE_VIRT;
static volatile uint64_t seen;
static volatile unsigned laps, wrong;
static volatile bool enough;

static void watch(void *arg)
{
	TRY("wrmsr", : : "c"(MSR_STEAL_TIME), "a"((uint32_t)(word)&page | MSR_ON | 2), "d"(0) : "memory");
	check_fault(13, 0);
	wrmsr(MSR_STEAL_TIME, NOT_RAM | MSR_ON);
	wrmsr(MSR_STEAL_TIME, (word)&page | MSR_ON);
	check_equal(rdmsr(MSR_STEAL_TIME), (word)&page | MSR_ON);
	while (!enough) {
		wrong += page.preempted != 0; /* one that runs is not away */
		wrong += page.version & 1;
		seen = *shown;
		laps++;
	}
	wrmsr(MSR_STEAL_TIME, 0);
}

/* The entry is changed, and who is away is left a note instead of an interrupt. */
static bool change_while_away(uint64_t *pte, uint64_t to)
{
	uint8_t mark = PREEMPTED;
	bool noted;

	for (unsigned i = 0; page.preempted != PREEMPTED; i++) {
		if (i == A_WHILE)
			return false;
		pause();
	}
	*(volatile uint64_t *)pte = to;
	asm volatile("lock cmpxchgb %3, %0; setz %1" : "+m"(page.preempted), "=q"(noted), "+a"(mark)
		     : "q"((uint8_t)(PREEMPTED | FLUSH)) : "memory", "cc");
	return noted;
}

static void flushes(void)
{
	uint64_t *value[2] = { page_alloc(), page_alloc() };
	uint64_t *pte = page_map(FREE_VIRT, (uintptr_t)value[0], PTE_P | PTE_W);
	unsigned done = 0, lap, stolen_ms;

	*value[0] = 0;
	*value[1] = 1;
	smp_call(1, watch, NULL);
	while (!laps)
		pause();
	for (unsigned i = 1; i <= 40; i++) {
		if (!change_while_away(pte, (uintptr_t)value[i & 1] | PTE_P | PTE_W)) {
			*(volatile uint64_t *)pte = (uintptr_t)value[~i & 1] | PTE_P | PTE_W;
			continue;
		}
		for (lap = laps; laps - lap < 3;)
			pause();
		check_equal(seen, i & 1);
		done++;
	}
	stolen_ms = page.steal / 1000000;
	enough = true;
	smp_wait(1);
	check_equal(wrong, 0);
	check(page.version && !(page.version & 1));
	print("%u TLBs were flushed of a CPU that was away, %u ms\n", done, stolen_ms);
	/* Whose CPU others want is found without it. */
	check(done || stolen_ms < 100);
}

/* ---- the end of an interrupt ---- */

static volatile uint32_t eoi_word __attribute__((aligned(4)));
static volatile unsigned taken, avoided, high_taken;

static void end_interrupt(void)
{
	bool set;

	asm volatile("btrl $0, %0; setc %1" : "+m"(eoi_word), "=q"(set) : : "memory", "cc");
	avoided += set;
	if (!set)
		apic_eoi();
}

static void on_interrupt(struct frame *f)
{
	/* Each second time there is an exit before, which may take the offer back. */
	if (taken++ & 1)
		(void)cpuid(0, 0);
	end_interrupt();
}

static void on_high(struct frame *f)
{
	end_interrupt();
	high_taken++;
}

/* Another one waits behind it: to let that in its end has to be told. */
static void on_first_of_two(struct frame *f)
{
	apic_send(0, 0x4000 | HIGH_VECTOR);
	check_equal(eoi_word & 1, 0);
	end_interrupt();
	taken++;
}

static bool in_service(unsigned vector)
{
	return apic_read(APIC_ISR + vector / 32 * 0x10) >> (vector & 31) & 1;
}

static void interrupt_once(unsigned vector)
{
	apic_send(0, 0x4000 | vector);
	asm volatile("sti; nop; nop; cli" : : : "memory");
	check(!in_service(vector));
}

static void ends(void)
{
	uint64_t where = (word)&eoi_word;

	cli();
	TRY("wrmsr", : : "c"(MSR_EOI), "a"((uint32_t)where | MSR_ON | 2), "d"(0) : "memory");
	check_fault(13, 0);
	TRY("wrmsr", : : "c"(MSR_EOI), "a"(NOT_RAM | MSR_ON), "d"(0) : "memory");
	check_fault(13, 0);
	wrmsr(MSR_EOI, where | MSR_ON);
	check_equal(rdmsr(MSR_EOI), where | MSR_ON);
	trap_set(VECTOR, on_interrupt);
	trap_set(HIGH_VECTOR, on_high);
	for (unsigned i = 1; i <= 10; i++) {
		interrupt_once(VECTOR);
		check_equal(taken, i);
	}
	print("%u of 10 ends without an exit\n", avoided);
	trap_set(VECTOR, on_first_of_two);
	interrupt_once(VECTOR);
	check_equal(taken, 11);
	check_equal(high_taken, 1);
	check(!in_service(HIGH_VECTOR));
	wrmsr(MSR_EOI, 0);
	avoided = 0;
	trap_set(VECTOR, on_interrupt);
	interrupt_once(VECTOR);
	check_equal(taken, 12);
	check_equal(avoided, 0);
}

int main(void)
{
	struct cpuid hypervisor = cpuid(0x40000000, 0);

	if (hypervisor.b != 0x4b4d564b) /* KVMK */
		skip("another hypervisor");
	features = cpuid(0x40000001, 0).a;
	amd = cpuid(0, 0).b == 0x68747541; /* Auth */
	print("features %x\n", features);
	user_open();
	if (offers(UNHALT))
		hypercalls();
	if (smp_start() != 2)
		skip("not two CPUs");
	smp_call(1, open_interrupts, NULL);
	smp_wait(1);
	if (offers(SEND_IPI))
		ipis();
	if (offers(UNHALT))
		kicks();
	if (offers(SCHED_YIELD))
		yields();
	if (offers(STEAL_TIME) && offers(TLB_FLUSH))
		flushes();
	if (offers(EOI))
		ends();
	return 0;
}
