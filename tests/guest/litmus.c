// SPDX-License-Identifier: Apache-2.0
/*
 * litmus.c - what several CPUs may see of each other's stores: x86-TSO, and code that one writes and
 * another runs.
 *
 * After "x86-TSO: A Rigorous and Usable Programmer's Model for x86 Multiprocessors" (Sewell et al., CACM
 * 2010) and SDM vol. 3, "Memory Ordering". Each test runs over an array of places, each at a time of
 * the TSC that all keep, so that they meet.
 */
#include "guest.h"

#define PLACES	64u
#define BATCHES 120u
#define SLOT	1500u /* ticks of the TSC between places */

struct place {
	volatile uint64_t x __attribute__((aligned(64)));
	volatile uint64_t y __attribute__((aligned(64)));
	uint64_t r[4] __attribute__((aligned(64)));
};

static struct place place[PLACES];
static unsigned cpus;

/* ---- a CPU's part of each test ---- */

typedef void (*part_fn)(struct place *p);

#define STORE(where, v) asm volatile("movq %1, %0" : "=m"(where) : "r"((uint64_t)(v)) : "memory")
#define LOAD(where)                                                                                \
	({                                                                                         \
		uint64_t v_;                                                                       \
		asm volatile("movq %1, %0" : "=r"(v_) : "m"(where) : "memory");                    \
		v_;                                                                                \
	})

static void mfence(void)
{
	asm volatile("mfence" : : : "memory");
}

static void locked(void)
{
	uint64_t local = 0;

	asm volatile("lock addq $0, %0" : "+m"(local) : : "memory", "cc");
}

static void exchange(volatile uint64_t *where, uint64_t v)
{
	asm volatile("xchgq %0, %1" : "+m"(*where), "+r"(v) : : "memory");
}

/* Store buffering. */
static void sb_0(struct place *p) { STORE(p->x, 1); p->r[0] = LOAD(p->y); }
static void sb_1(struct place *p) { STORE(p->y, 1); p->r[1] = LOAD(p->x); }
static void sb_fence_0(struct place *p) { STORE(p->x, 1); mfence(); p->r[0] = LOAD(p->y); }
static void sb_fence_1(struct place *p) { STORE(p->y, 1); mfence(); p->r[1] = LOAD(p->x); }
static void sb_lock_0(struct place *p) { STORE(p->x, 1); locked(); p->r[0] = LOAD(p->y); }
static void sb_lock_1(struct place *p) { STORE(p->y, 1); locked(); p->r[1] = LOAD(p->x); }
static void sb_xchg_0(struct place *p) { exchange(&p->x, 1); p->r[0] = LOAD(p->y); }
static void sb_xchg_1(struct place *p) { exchange(&p->y, 1); p->r[1] = LOAD(p->x); }
static bool sb(const struct place *p) { return !p->r[0] && !p->r[1]; }

/* Message passing. */
static void mp_0(struct place *p) { STORE(p->x, 1); STORE(p->y, 1); }
static void mp_1(struct place *p) { p->r[0] = LOAD(p->y); p->r[1] = LOAD(p->x); }
static bool mp(const struct place *p) { return p->r[0] && !p->r[1]; }

/* The message is a string instruction's, and a read-modify-write's. */
static void mp_string_0(struct place *p)
{
	volatile uint64_t *to = &p->x;
	uint64_t count = 1;

	asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(1ull) : "memory");
	asm volatile("orq $1, %0" : "+m"(p->y) : : "memory", "cc");
}

/* Load buffering. */
static void lb_0(struct place *p) { p->r[0] = LOAD(p->x); STORE(p->y, 1); }
static void lb_1(struct place *p) { p->r[1] = LOAD(p->y); STORE(p->x, 1); }
static bool lb(const struct place *p) { return p->r[0] && p->r[1]; }

/* Two stores to each of two places: the last ones cannot both have been first. */
static void two_0(struct place *p) { STORE(p->x, 1); STORE(p->y, 2); }
static void two_1(struct place *p) { STORE(p->y, 1); STORE(p->x, 2); }
static bool two(const struct place *p) { return p->x == 1 && p->y == 1; }

/* Reads of one place do not go back. */
static void co_0(struct place *p) { STORE(p->x, 1); }
static void co_1(struct place *p) { p->r[0] = LOAD(p->x); p->r[1] = LOAD(p->x); }
static bool co(const struct place *p) { return p->r[0] && !p->r[1]; }

/* Causality over a third CPU; independent reads of independent writes. */
static void wrc_1(struct place *p) { if (LOAD(p->x)) STORE(p->y, 1); }
static void wrc_2(struct place *p) { p->r[0] = LOAD(p->y); p->r[1] = LOAD(p->x); }
static void iriw_1(struct place *p) { STORE(p->y, 1); }
static void iriw_2(struct place *p) { p->r[0] = LOAD(p->x); p->r[1] = LOAD(p->y); }
static void iriw_3(struct place *p) { p->r[2] = LOAD(p->y); p->r[3] = LOAD(p->x); }
static bool iriw(const struct place *p) { return p->r[0] && !p->r[1] && p->r[2] && !p->r[3]; }

static const struct test {
	const char *name;
	part_fn part[4];
	bool (*outcome)(const struct place *p);
	bool allowed;
} tests[] = {
	{ "store buffering", { sb_0, sb_1 }, sb, true },
	{ "store buffering, MFENCE", { sb_fence_0, sb_fence_1 }, sb, false },
	{ "store buffering, LOCK", { sb_lock_0, sb_lock_1 }, sb, false },
	{ "store buffering, XCHG", { sb_xchg_0, sb_xchg_1 }, sb, false },
	{ "store buffering, XCHG and MFENCE", { sb_xchg_0, sb_fence_1 }, sb, false },
	{ "message passing", { mp_0, mp_1 }, mp, false },
	{ "message passing, string", { mp_string_0, mp_1 }, mp, false },
	{ "load buffering", { lb_0, lb_1 }, lb, false },
	{ "2+2 writes", { two_0, two_1 }, two, false },
	{ "coherence", { co_0, co_1 }, co, false },
	{ "causality", { co_0, wrc_1, wrc_2 }, mp, false },
	{ "independent reads", { co_0, iriw_1, iriw_2, iriw_3 }, iriw, false },
};

/* ---- running them: all CPUs are at the same place at the same time ---- */

static volatile unsigned arrived;
static const struct test *current;

static void barrier(unsigned parts, unsigned *turn)
{
	*turn += parts;
	__atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
	while ((int)(arrived - *turn) < 0)
		pause();
}

static unsigned parts_of(const struct test *t)
{
	unsigned n = 0;

	while (n < 4 && t->part[n])
		n++;
	return n;
}

static unsigned collect(const struct test *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < PLACES; i++) {
		struct place *p = &place[i];

		n += t->outcome(p);
		p->x = p->y = 0;
		for (unsigned j = 0; j < 4; j++)
			p->r[j] = 0;
	}
	return n;
}

static unsigned seen;

static volatile uint64_t start;

static void take_part(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg, parts = parts_of(current), turn = 0;
	part_fn fn = current->part[me];

	for (unsigned batch = 0; batch < BATCHES; batch++) {
		uint64_t when;

		if (me == 0)
			start = rdtsc() + 4 * SLOT;
		barrier(parts, &turn);
		when = start + batch * (me + 1) % 13 * 8; /* and a little apart, this way and that */
		for (unsigned i = 0; i < PLACES; i++, when += SLOT) {
			/* Shared by all, so that loads are quick and stores have to wait. */
			(void)LOAD(place[i].x);
			(void)LOAD(place[i].y);
			while ((int64_t)(rdtsc() - when) < 0)
				;
			fn(&place[i]);
		}
		barrier(parts, &turn);
		if (me == 0)
			seen += collect(current);
	}
}

static void orders(void)
{
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		unsigned parts = parts_of(&tests[i]);

		if (parts > cpus)
			continue;
		current = &tests[i];
		arrived = seen = 0;
		for (unsigned j = 1; j < parts; j++)
			smp_call(j, take_part, (void *)(uintptr_t)j);
		take_part((void *)0);
		for (unsigned j = 1; j < parts; j++)
			smp_wait(j);
		print("%s: %u of %u\n", tests[i].name, seen, PLACES * BATCHES);
		if (!tests[i].allowed)
			check_equal(seen, 0);
	}
}

/* ---- no store is seen in halves ---- */

#define APART 0x140000000ull

static struct {
	uint8_t before[64 - 4];
	volatile uint64_t split; /* over two lines */
	uint64_t whole __attribute__((aligned(64)));
} __attribute__((aligned(64))) words;

static volatile bool stop;
static volatile unsigned torn, torn_line, torn_page, torn_apart;
static uint64_t *page_split; /* over two pages */
static uint64_t *apart;	     /* over two that lie apart */

static void watch(void *arg)
{
	while (!stop) {
		uint64_t v = LOAD(words.whole);

		if (v != 0 && v != ~0ull)
			torn++;
		v = 0;
		/* A locked access is whole wherever it lies: SDM vol. 3, "Bus Locking". */
		asm volatile("lock xaddq %0, %1" : "+r"(v), "+m"(words.split) : : "memory", "cc");
		if (v != 0 && v != ~0ull)
			torn_line++;
		v = 0;
		asm volatile("lock xaddq %0, %1" : "+r"(v), "+m"(*page_split) : : "memory", "cc");
		if (v != 0 && v != ~0ull)
			torn_page++;
		v = 0;
		asm volatile("lock xaddq %0, %1" : "+r"(v), "+m"(*apart) : : "memory", "cc");
		if (v != 0 && v != ~0ull)
			torn_apart++;
	}
}

static void map_apart(void)
{
	uint64_t first = (uintptr_t)page_alloc(), second = (uintptr_t)page_alloc();

	page_map(APART, second, 3);
	page_map(APART + 0x1000, first, 3);
	apart = (uint64_t *)(APART + 0x1000 - 3);
	*apart = 0;
}

#define APART_COUNT 200000u

static void count_apart(void *arg)
{
	for (unsigned i = 0; i < APART_COUNT; i++)
		asm volatile("lock incq %0" : "+m"(*apart) : : "memory", "cc");
}

static void halves(void)
{
	stop = false;
	torn = torn_line = torn_page = torn_apart = 0;
	map_apart();
	page_split = (uint64_t *)((uint8_t *)page_alloc() - 3);
	*page_split = 0;
	smp_call(1, watch, NULL);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t v = i & 1 ? ~0ull : 0;

		STORE(words.whole, v);
		exchange(&words.split, v);
		exchange(page_split, v);
		exchange(apart, v);
	}
	stop = true;
	smp_wait(1);
	check_equal(torn, 0);
	check_equal(torn_line, 0);
	check_equal(torn_page, 0);
	check_equal(torn_apart, 0);
	*apart = 0;
	smp_call(1, count_apart, NULL);
	count_apart(NULL);
	smp_wait(1);
	check_equal(*apart, 2 * APART_COUNT);
}

/* Sums of locked additions that lie across lines and pages. */
static volatile unsigned locked_rounds = 3000;

static void add_across(void *arg)
{
	for (unsigned i = 0; i < locked_rounds; i++) {
		uint64_t one = 1, old, next;

		asm volatile("lock incq %0" : "+m"(words.split) : : "memory", "cc");
		asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(*page_split) : : "memory", "cc");
		do {
			old = *page_split;
			next = old + 2;
			asm volatile("lock cmpxchgq %2, %0" : "+m"(*page_split), "+a"(old) : "r"(next)
				     : "memory", "cc");
		} while (old + 2 != next);
	}
}

static void across(void)
{
	words.split = 0;
	*page_split = 0;
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, add_across, NULL);
	add_across(NULL);
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
	check_equal(words.split, (uint64_t)cpus * locked_rounds);
	check_equal(*page_split, 3ull * cpus * locked_rounds);
}

/* ---- code by one CPU for another ---- */

#define SLOTS  64u
#define ROUNDS 4000u

static uint8_t *slots;
static volatile uint64_t published, consumed;
static volatile unsigned wrong;

/* MOV EAX, imm32; RET */
static void write_function(uint8_t *at, uint32_t v)
{
	at[0] = 0xb8;
	memcpy(at + 1, &v, 4);
	at[5] = 0xc3;
}

static uint32_t call(const void *code)
{
	return ((uint32_t (*)(void))(uintptr_t)code)();
}

/* Fresh code, found through a pointer; a slot's second code after a serializing instruction. */
static void consume(void *arg)
{
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		while (published < i)
			pause();
		if (i > SLOTS)
			(void)cpuid(0, 0);
		if (call(slots + i % SLOTS * 16) != (uint32_t)i)
			wrong++;
		consumed = i;
	}
}

static void publication(void)
{
	slots = page_alloc();
	published = consumed = 0;
	wrong = 0;
	smp_call(1, consume, NULL);
	for (uint64_t i = 1; i <= ROUNDS; i++) {
		while (i - consumed > SLOTS / 2)
			pause();
		write_function(slots + i % SLOTS * 16, (uint32_t)i);
		published = i;
	}
	smp_wait(1);
	check_equal(wrong, 0);
}

/*
 * Running code is changed as kernels do it: INT3 over the first byte, the rest, the first byte; each step
 * known to all before the next. Whoever meets the INT3 tries again.
 */
#define POKES 300u

static volatile unsigned acknowledged, met;
static volatile uint32_t poke_low, poke_high;

static void on_breakpoint(struct frame *f)
{
	met++;
	f->ip--;
}

static void on_sync(struct frame *f)
{
	(void)cpuid(0, 0);
	__atomic_fetch_add(&acknowledged, 1, __ATOMIC_SEQ_CST);
	apic_eoi();
}

static void sync_others(void)
{
	acknowledged = 0;
	apic_send(0, 0xc4000 | 0x72); /* all but self */
	while (acknowledged < cpus - 1)
		pause();
}

static void run_poked(void *arg)
{
	sti();
	while (!stop) {
		uint32_t low = poke_low, v = call(slots);

		if (v < low || v > poke_high)
			wrong++;
	}
}

static void pokes(void)
{
	slots = page_alloc();
	write_function(slots, 0);
	poke_low = poke_high = 0;
	wrong = met = 0;
	stop = false;
	trap_set(3, on_breakpoint);
	trap_set(0x72, on_sync);
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, run_poked, NULL);
	for (uint32_t i = 1; i <= POKES; i++) {
		poke_high = i;
		*(volatile uint8_t *)slots = 0xcc;
		sync_others();
		memcpy(slots + 1, &i, 4);
		sync_others();
		*(volatile uint8_t *)slots = 0xb8;
		sync_others();
		poke_low = i;
	}
	stop = true;
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
	print("pokes: %u breakpoints met\n", met);
	check_equal(wrong, 0);
}

/* An aligned immediate of running code, without any ceremony: old or new, in that order. */
static void run_immediate(void *arg)
{
	uint32_t last = 0;

	while (!stop) {
		uint32_t v = call(slots + 3);

		if (v < last)
			wrong++;
		last = v;
	}
}

static void immediates(void)
{
	slots = page_alloc();
	write_function(slots + 3, 0);
	wrong = 0;
	stop = false;
	for (unsigned i = 1; i < cpus; i++)
		smp_call(i, run_immediate, NULL);
	for (uint32_t i = 1; i <= ROUNDS; i++)
		*(volatile uint32_t *)(slots + 4) = i * 0x10001u;
	stop = true;
	for (unsigned i = 1; i < cpus; i++)
		smp_wait(i);
	check_equal(wrong, 0);
	check_equal(call(slots + 3), ROUNDS * 0x10001u);
}

int main(void)
{
	cpus = smp_start();
	print("%u CPUs\n", cpus);
	if (cpus < 2)
		skip("one CPU");
	orders();
	print("halves\n");
	halves();
	print("across\n");
	across();
	print("publication\n");
	publication();
	print("pokes\n");
	pokes();
	print("immediates\n");
	immediates();
	return 0;
}
