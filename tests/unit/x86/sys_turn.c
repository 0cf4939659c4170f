// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * sys_turn.c - the short way of events and IRETQ (gate.c, iret.c) against the one by the book.
 *
 * A 64-bit machine with tables that are right, or have something wrong, takes an event or returns from one,
 * twice from the same state: all of the state, what is derived from it, faults and memory must be alike.
 */
#include "sys_machine.h"

#define ROUNDS	  30000u
#define LOW_BYTES 0x40000u
#define HANDLER	  0x9000u
#define VECTOR	  0x40u

static uint64_t seed = 0x2545f4914f6cdd1dull;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Seldom. */
static bool odd(void)
{
	return rnd() % 24 == 0;
}

static uint64_t odd_or(uint64_t usual)
{
	if (!odd())
		return usual;
	return rnd() & 1 ? rnd() : usual ^ 1ull << (rnd() & 63);
}

static const uint16_t selectors[] = {
	SEL_CODE64, SEL_CODE64_3, SEL_DATA0, SEL_DATA3, SEL_CODE0, SEL_CODE3, SEL_CODE1, SEL_DATA1, 0, 3,
	SEL_CODE64 | 4, SEL_CODE64 | 3, SEL_CONFORMING, SEL_ABSENT, SEL_TSS, 0xfff8, SEL_CODE16,
};

static uint16_t odd_selector(uint16_t usual)
{
	return odd() ? selectors[rnd() % (sizeof(selectors) / sizeof(selectors[0]))] : usual;
}

static uint64_t odd_flags(void)
{
	uint64_t flags = (rnd() & (X86_FL_STATUS | X86_FL_IF | X86_FL_DF | X86_FL_ID | X86_FL_IOPL)) |
			 X86_FL_ONE;

	if (!(rnd() & 3))
		flags |= rnd() & (X86_FL_AC | X86_FL_RF);
	if (odd())
		flags |= rnd() & (X86_FL_TF | X86_FL_NT | X86_FL_VIF | X86_FL_VIP);
	return flags;
}

static uint64_t odd_stack(uint64_t usual)
{
	if (rnd() & 1)
		usual -= rnd() & 0xfff;
	return odd_or(usual);
}

static void put_tables(struct env *e)
{
	uint64_t at;

	put_gate64(e, VECTOR, rnd() & 1 ? X86_DESC_INT32 : X86_DESC_TRAP32, rnd() & 1 ? 3 : 0,
		   odd_selector(SEL_CODE64), odd_or(HANDLER), rnd() & 7 ? 0 : rnd() & 1);
	if (odd())
		e->ram[IDT + VECTOR * 16 + rnd() % 16] ^= (uint8_t)(1u << (rnd() & 7));
	memcpy(e->ram + IDT + X86_PF * 16, e->ram + IDT + VECTOR * 16, 16);
	for (unsigned v = X86_DF; v < X86_PF; v++)
		put_gate64(e, v, X86_DESC_INT32, 0, SEL_CODE64, HANDLER + v * 16, 0);
	if (odd()) {
		at = GDT + (selectors[rnd() % 4] & ~7u) + 4 + rnd() % 4;
		e->ram[at] ^= (uint8_t)(1u << (rnd() & 7));
	}
	env_put(e, TSS + 4, odd_stack(STACK), 8);
	/* Kernel's pages are the kernel's. */
	if (rnd() & 1)
		env_put(e, PML4 + 0x2000, rnd() & 1 ? 0x83 : 0x81, 8);
}

static void put_state(struct env *e)
{
	struct x86_state *s = &e->cpu.s;

	s->rip = odd_or(CODE);
	s->rflags = odd_flags();
	s->gpr[X86_RSP] = odd_stack(s->gpr[X86_RSP]);
	for (unsigned i = X86_DS; i <= X86_GS; i++)
		if (rnd() & 1)
			s->seg[i] = x86_segment_null((uint16_t)(rnd() & 3), 0);
	if (rnd() & 1)
		s->cr4 |= X86_CR4_SMAP;
	if (rnd() & 1)
		s->cr0 |= X86_CR0_AM;
	s->nmi_masked = rnd() & 1;
	if (odd())
		s->dr[7] |= 1u << (rnd() & 7);
	if (odd())
		s->gdtr.limit = rnd() & 0x7f;
	if (odd())
		s->idtr.limit = rnd() % (VECTOR * 16 + 32);
	if (odd())
		s->tr.limit = rnd() & 0x3f;
	if (odd())
		load_seg(e, X86_CS, e->cpu.cpl ? SEL_CODE3 : SEL_CODE0);
}

/* Five words for IRETQ where RSP is, if there is RAM. */
static void put_frame(struct env *e)
{
	uint64_t sp = e->cpu.s.gpr[X86_RSP], user = rnd() & 1;
	uint64_t word[5] = {
		odd_or(CODE), odd_selector(user ? SEL_CODE64_3 : SEL_CODE64), odd_flags(), odd_stack(USTACK),
		odd_selector(user ? SEL_DATA3 : rnd() & 1 ? SEL_DATA0 : 0),
	};

	if (odd())
		word[1] |= rnd() << 16;
	if (sp < LOW_BYTES - sizeof(word))
		memcpy(e->ram + sp, word, sizeof(word));
}

enum what { EVENT_FAULT, EVENT_INTERRUPT, EVENT_INT_N, EVENT_IRET, EVENT_KINDS };

static int run(struct env *e, enum what what, uint32_t error)
{
	switch (what) {
	case EVENT_FAULT:
		x86_raise_pf(&e->cpu, 0x123456789000 + error, error);
		x86_deliver_fault(&e->cpu);
		return 0;
	case EVENT_INTERRUPT:
		x86_deliver_interrupt(&e->cpu, VECTOR);
		return 0;
	case EVENT_INT_N:
		return x86_int_n(&e->cpu, VECTOR);
	default:
		return x86_iret(&e->cpu, 8);
	}
}

/* What the TLB knows is part of what is tried. */
static void begin(struct env *e, const struct x86_state *s, const uint8_t *low, const uint8_t *tables,
		  unsigned warm)
{
	uint8_t buf[8];

	memcpy(e->ram, low, LOW_BYTES);
	memcpy(e->ram + PML4, tables, 0x3000);
	e->cpu.s = *s;
	memset(&e->cpu.fault, 0, sizeof(e->cpu.fault));
	x86_cpu_sync(&e->cpu);
	for (uint64_t page = 0; page < LOW_BYTES; page += 4096) {
		if (warm & 1)
			(void)x86_read_sys(&e->cpu, page, buf, 8);
		if (warm & 2 && page >= TSS + 0x1000 && !x86_read_sys(&e->cpu, page, buf, 8))
			(void)x86_write_sys(&e->cpu, page, buf, 8);
		if (warm & 4)
			(void)x86_read(&e->cpu, X86_SS, page, buf, 8);
	}
	memset(&e->cpu.fault, 0, sizeof(e->cpu.fault));
}

static void check_same(const struct env *a, const struct env *b)
{
	ck_assert_mem_eq(&a->cpu.s, &b->cpu.s, sizeof(a->cpu.s));
	ck_assert_mem_eq(&a->cpu.fault, &b->cpu.fault, sizeof(a->cpu.fault));
	ck_assert_uint_eq(a->cpu.cpl, b->cpu.cpl);
	ck_assert_uint_eq(a->cpu.code_bytes, b->cpu.code_bytes);
	ck_assert_uint_eq(a->cpu.stack_bytes, b->cpu.stack_bytes);
	ck_assert_uint_eq(a->cpu.tlb_mode, b->cpu.tlb_mode);
	ck_assert_uint_eq(a->cpu.long_mode, b->cpu.long_mode);
	ck_assert_uint_eq(a->cpu.flat, b->cpu.flat);
	ck_assert_uint_eq(a->cpu.debug_armed, b->cpu.debug_armed);
	ck_assert_uint_eq(a->cpu.debug_data, b->cpu.debug_data);
	ck_assert_int_eq(a->cpu.tlb_table - a->tlb.entry, b->cpu.tlb_table - b->tlb.entry);
	ck_assert_uint_eq(a->cpu.tlb_mask, b->cpu.tlb_mask);
	ck_assert_mem_eq(a->ram, b->ram, LOW_BYTES);
	ck_assert_mem_eq(a->ram + PML4, b->ram + PML4, 0x3000);
}

/* As @from is, with something wrong. */
static void make(struct env *e, const struct env *from)
{
	memcpy(e->ram, from->ram, LOW_BYTES);
	memcpy(e->ram + PML4, from->ram + PML4, 0x3000);
	e->cpu.s = from->cpu.s;
	x86_cpu_sync(&e->cpu);
	put_tables(e);
	put_state(e);
	put_frame(e);
}

START_TEST(the_short_way_leads_where_the_long_one_does)
{
	struct env *fresh[2] = { machine64(0), machine64(3) }, *e = env_new(), *book = env_new();
	uint8_t *low = malloc(LOW_BYTES), tables[0x3000];
	unsigned went_well = 0;

	book->cpu.by_the_book = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		enum what what = (enum what)(rnd() % EVENT_KINDS);
		uint32_t error = rnd() & 7, warm = rnd() & 3 ? 7 : rnd() & 7;
		struct x86_state s;
		int r;

		make(e, fresh[what == EVENT_IRET ? odd() : rnd() & 1]);
		s = e->cpu.s;
		memcpy(low, e->ram, LOW_BYTES);
		memcpy(tables, e->ram + PML4, sizeof(tables));
		begin(e, &s, low, tables, warm);
		begin(book, &s, low, tables, warm);
		r = run(e, what, error);
		ck_assert_int_eq(r, run(book, what, error));
		check_same(e, book);
		went_well += r != X86_FAULT && e->cpu.s.activity == X86_RUNNING;
	}
	ck_assert_uint_gt(went_well, ROUNDS / 4);
	env_free(fresh[0]);
	env_free(fresh[1]);
	env_free(e);
	env_free(book);
	free(low);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 turn");
	TCase *tc = tcase_create("turn");

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, the_short_way_leads_where_the_long_one_does);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
