// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * tlb.c - what the TLB may remember, and until when: SDM vol. 3, 4.10.
 *
 * The first test changes page tables at random, without telling and with, in several address spaces, and
 * compares what is read with a model: the entry as it is, or one that was read since it was last invalidated
 * for the PCID in use.
 */
#include "sys_machine.h"

#define PCIDS  9u /* more than the TLB has spaces for */
#define PAGES  10u
#define FRAMES 4u
#define LOWER  0x40000000ull
#define UPPER  0xffff800040000000ull
#define TABLES 0x240000u
#define FRAME(f) (0x310000u + (f) * 0x1000u)

struct page {
	uint64_t linear, entry; /* address of the entry that maps it */
	unsigned first, last;	/* pages that entry maps */
	bool large;
};

static const struct page pages[PAGES] = {
	{ LOWER, TABLES + 0x2000, 0, 0, false },
	{ LOWER + 0x1000, TABLES + 0x2008, 1, 1, false },
	{ LOWER + 0x5000, TABLES + 0x2028, 2, 2, false },
	{ UPPER, TABLES + 0x4000, 3, 3, false },
	{ UPPER + 0x1000, TABLES + 0x4008, 4, 4, false },
	{ UPPER + 0x5000, TABLES + 0x4028, 5, 5, false },
	{ LOWER + 0x300000, TABLES + 0x1008, 6, 7, true },
	{ LOWER + 0x301000, TABLES + 0x1008, 6, 7, true },
	{ UPPER + 0x300000, TABLES + 0x3008, 8, 9, true },
	{ UPPER + 0x301000, TABLES + 0x3008, 8, 9, true },
};

struct model {
	unsigned pcid;
	unsigned now[PAGES]; /* frame */
	bool global[PAGES];
	/* Frames that may be cached. */
	unsigned own[PCIDS][PAGES], all[PAGES];
};

static uint64_t seed = 88172645463325252ull;

static unsigned rnd(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 20) % n;
}

static struct env *paged_machine(void)
{
	struct env *e = machine64(0);

	/* PDPT 1 and PML4 256: page directories, each with a table and a large page. */
	env_put(e, PML4 + 0x1008, (TABLES + 0x1000) | 7, 8);
	env_put(e, TABLES + 0x1000, (TABLES + 0x2000) | 7, 8);
	env_put(e, PML4 + 256 * 8, TABLES | 7, 8);
	env_put(e, TABLES + 8, (TABLES + 0x3000) | 7, 8);
	env_put(e, TABLES + 0x3000, (TABLES + 0x4000) | 7, 8);
	for (unsigned f = 0; f < FRAMES; f++)
		env_put(e, FRAME(f), f, 8);
	for (unsigned f = 0; f < 2; f++) {
		env_put(e, f * 0x200000 + 0x100000, f, 8);
		env_put(e, f * 0x200000 + 0x101000, f, 8);
	}
	e->cpu.s.cr4 |= X86_CR4_PGE;
	x86_cpu_sync(&e->cpu);
	return e;
}

static void set_entry(struct env *e, unsigned page, unsigned frame, uint64_t flags)
{
	const struct page *p = &pages[page];

	if (p->large)
		env_put(e, p->entry, frame * 0x200000u | flags | 0x87, 8);
	else
		env_put(e, p->entry, FRAME(frame) | flags | 7, 8);
}

static void run(struct env *e, const char *code, size_t n)
{
	memcpy(e->ram + CODE, code, n);
	e->cpu.s.rip = CODE;
	x86_step(&e->cpu);
	ck_assert_uint_eq(e->cpu.s.rip, CODE + n);
}

#define RUN(code) run(e, code, sizeof(code) - 1)

static void write_cr3(struct env *e, uint64_t value)
{
	e->cpu.s.gpr[X86_RAX] = value;
	RUN("\x0f\x22\xd8");
}

static void write_cr4(struct env *e, uint64_t value)
{
	e->cpu.s.gpr[X86_RAX] = value;
	RUN("\x0f\x22\xe0");
}

static void invlpg(struct env *e, uint64_t linear)
{
	e->cpu.s.gpr[X86_RBX] = linear;
	RUN("\x0f\x01\x3b");
}

static void invpcid(struct env *e, unsigned type, uint64_t pcid, uint64_t linear)
{
	env_put(e, 0x6000, pcid, 8);
	env_put(e, 0x6008, linear, 8);
	e->cpu.s.gpr[X86_RBX] = 0x6000;
	e->cpu.s.gpr[X86_RAX] = type;
	RUN("\x66\x0f\x38\x82\x03");
}

/* Privilege 0, 0 with EFLAGS.AC, 3. */
static void set_rights(struct env *e, unsigned rights)
{
	load_seg(e, X86_CS, rights == 2 ? SEL_CODE64_3 : SEL_CODE64);
	load_seg(e, X86_SS, rights == 2 ? SEL_DATA3 : SEL_DATA0);
	e->cpu.s.rflags = X86_FL_ONE | (rights == 1 ? X86_FL_AC : 0);
	x86_update_mode(&e->cpu);
}

static uint64_t read_as(struct env *e, unsigned rights, uint64_t linear)
{
	uint64_t v = ~0ull;

	set_rights(e, rights);
	if (rnd(2))
		(void)x86_tlb_fill(&e->cpu, linear, linear & ~0xfffull, false);
	ck_assert_int_eq(x86_read(&e->cpu, X86_DS, linear, &v, 8), X86_NEXT);
	set_rights(e, 0);
	return v;
}

static void model_invlpg(struct model *m, unsigned pcid, unsigned page, bool global)
{
	for (unsigned i = pages[page].first; i <= pages[page].last; i++) {
		m->own[pcid][i] = 0;
		if (global)
			m->all[i] = 0;
	}
}

static void do_invpcid(struct env *e, struct model *m)
{
	unsigned type = rnd(4), pcid = rnd(PCIDS), page = rnd(PAGES);

	invpcid(e, type, pcid, pages[page].linear);
	if (type == 0)
		model_invlpg(m, pcid, page, false);
	if (type == 1)
		memset(m->own[pcid], 0, sizeof(m->own[pcid]));
	if (type >= 2)
		memset(m->own, 0, sizeof(m->own));
	if (type == 2)
		memset(m->all, 0, sizeof(m->all));
}

static void do_change(struct env *e, struct model *m, unsigned page)
{
	unsigned frame = rnd(pages[page].large ? 2 : FRAMES);
	bool global = rnd(2);

	set_entry(e, page, frame, global ? 0x100 : 0);
	for (unsigned i = pages[page].first; i <= pages[page].last; i++) {
		m->now[i] = frame;
		m->global[i] = global;
	}
}

static void do_switch(struct env *e, struct model *m)
{
	bool keep = rnd(3);

	m->pcid = rnd(PCIDS);
	write_cr3(e, PML4 | m->pcid | (uint64_t)keep << 63);
	if (!keep)
		memset(m->own[m->pcid], 0, sizeof(m->own[0]));
}

/* Returns whether an old translation was used. */
static bool do_read(struct env *e, struct model *m, unsigned page)
{
	unsigned rights = rnd(3);
	uint64_t f = read_as(e, rights, pages[page].linear);
	unsigned may = 1u << m->now[page] | m->own[m->pcid][page] | m->all[page];

	ck_assert_uint_lt(f, FRAMES);
	ck_assert_msg(may >> f & 1, "page %u as %u with PCID %u reads frame %u, may be of %#x", page,
		      rights, m->pcid, (unsigned)f, may);
	if (m->global[page])
		m->all[page] |= 1u << m->now[page];
	else
		m->own[m->pcid][page] |= 1u << m->now[page];
	return f != m->now[page];
}

START_TEST(pcids_at_random)
{
	struct env *e = paged_machine();
	struct model m = { 0 };
	unsigned old = 0;

	for (unsigned i = 0; i < PAGES; i++)
		do_change(e, &m, i);
	write_cr4(e, e->cpu.s.cr4 | X86_CR4_PCIDE);
	for (unsigned i = 0; i < 150000; i++) {
		unsigned page = rnd(PAGES), what = rnd(64);

		if (what < 40) {
			old += do_read(e, &m, page);
		} else if (what < 50) {
			do_change(e, &m, page);
		} else if (what < 56) {
			do_switch(e, &m);
		} else if (what < 61) {
			invlpg(e, pages[page].linear);
			model_invlpg(&m, m.pcid, page, true);
		} else if (what < 63) {
			do_invpcid(e, &m);
		} else if (!rnd(4)) {
			write_cr4(e, e->cpu.s.cr4 ^ X86_CR4_PGE);
			write_cr4(e, e->cpu.s.cr4 ^ X86_CR4_PGE);
			memset(m.own, 0, sizeof(m.own));
			memset(m.all, 0, sizeof(m.all));
		}
	}
	ck_assert_uint_gt(old, 1000); /* else there is no TLB */
	env_free(e);
}
END_TEST

START_TEST(a_space_stays_while_others_are_used)
{
	struct env *e = paged_machine();

	write_cr4(e, e->cpu.s.cr4 | X86_CR4_PCIDE);
	write_cr3(e, PML4 | 1);
	set_entry(e, 0, 1, 0);
	ck_assert_uint_eq(read_as(e, 2, LOWER), 1);
	set_entry(e, 0, 2, 0);
	for (unsigned pcid = 2; pcid <= X86_TLB_SPACES; pcid++) {
		write_cr3(e, PML4 | pcid | 1ull << 63);
		ck_assert_uint_eq(read_as(e, 2, LOWER), 2);
	}
	write_cr3(e, PML4 | 1 | 1ull << 63);
	ck_assert_uint_eq(read_as(e, 2, LOWER), 1);
	write_cr3(e, PML4 | 1);
	ck_assert_uint_eq(read_as(e, 2, LOWER), 2);
	env_free(e);
}
END_TEST

static bool fill(struct env *e, uint64_t linear, unsigned len, bool write)
{
	return x86_tlb_fill(&e->cpu, linear, (linear + len - 1) & ~0xfffull, write);
}

START_TEST(fill_does_what_an_access_would)
{
	struct env *e = paged_machine();

	set_entry(e, 0, 1, 0);
	ck_assert(fill(e, LOWER + 0xff8, 8, false));
	ck_assert_uint_eq(env_get(e, pages[0].entry, 1), 0x27);
	ck_assert(fill(e, LOWER + 0xff8, 8, true));
	ck_assert_uint_eq(env_get(e, pages[0].entry, 1), 0x67);
	ck_assert(fill(e, LOWER, 1, true));
	/* And no more than that: what crosses, is not there, not canonical, not aligned, not RAM. */
	ck_assert(!fill(e, LOWER + 0xff9, 8, false));
	set_entry(e, 1, 1, 0);
	ck_assert(!fill(e, LOWER + 0xff9, 8, false));
	ck_assert(!x86_tlb_fill(&e->cpu, LOWER + 8, LOWER | 8, false));
	env_put(e, pages[2].entry, 0, 8);
	ck_assert(!fill(e, pages[2].linear, 8, false));
	env_put(e, pages[2].entry, FRAME(0) | 5, 8);
	ck_assert(!fill(e, pages[2].linear, 8, true));
	ck_assert_uint_eq(env_get(e, pages[2].entry, 1), 5);
	ck_assert(fill(e, pages[2].linear, 8, false));
	ck_assert(!fill(e, 0x800000000000, 8, false));
	ck_assert(!fill(e, ~0ull - 3, 8, false));
	env_put(e, pages[3].entry, 0xfee00000 | 7, 8);
	ck_assert(!fill(e, pages[3].linear, 8, false));
	set_rights(e, 2);
	env_put(e, pages[4].entry, FRAME(0) | 3, 8);
	ck_assert(!fill(e, pages[4].linear, 8, false));
	env_free(e);
}
END_TEST

START_TEST(fill_leaves_what_is_reported)
{
	struct env *e = paged_machine();

	set_entry(e, 0, 1, 0);
	e->indirect = true;
	ck_assert(!fill(e, LOWER, 8, true));
	ck_assert(!fill(e, LOWER, 8, false));
	ck_assert_uint_eq(e->written, 0);
	ck_assert_uint_eq(env_get(e, pages[0].entry, 1), 7);
	/* With the bits set, reads need no store; writes stay watched. */
	env_put(e, pages[0].entry, 0x67, 1);
	for (unsigned i = 0; i < 3; i++) {
		static const uint64_t upper[] = { PML4, PML4 + 0x1008, TABLES + 0x1000 };

		env_put(e, upper[i], env_get(e, upper[i], 8) | 0x20, 8);
	}
	ck_assert(fill(e, LOWER, 8, false));
	ck_assert(!fill(e, LOWER, 8, true));
	ck_assert_uint_eq(e->written, 0);
	env_free(e);
}
END_TEST

START_TEST(protect_finds_every_alias)
{
	struct env *e = paged_machine();
	uint64_t v = 0;

	/* One frame by all pages and all rights; others whose page numbers share its place. */
	for (unsigned round = 0; round < 2; round++) {
		unsigned n = round ? 6 : 2;

		x86_tlb_flush(&e->cpu);
		for (unsigned i = 0; i < n; i++)
			set_entry(e, i, 1, 0);
		for (unsigned rights = 0; rights < 3; rights++) {
			set_rights(e, rights);
			for (unsigned i = 0; i < n; i++)
				ck_assert(fill(e, pages[i].linear, 8, true));
		}
		e->indirect = true;
		x86_tlb_protect(&e->cpu, FRAME(1));
		for (unsigned rights = 0; rights < 3; rights++) {
			set_rights(e, rights);
			for (unsigned i = 0; i < n; i++) {
				e->written = 0;
				ck_assert_int_eq(x86_write(&e->cpu, X86_DS, pages[i].linear, &v, 8),
						 X86_NEXT);
				ck_assert_uint_eq(e->written, 1);
			}
		}
		e->indirect = false;
	}
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 tlb");
	TCase *tc = tcase_create("tlb");

	tcase_set_timeout(tc, 40);
	tcase_add_test(tc, pcids_at_random);
	tcase_add_test(tc, a_space_stays_while_others_are_used);
	tcase_add_test(tc, fill_does_what_an_access_would);
	tcase_add_test(tc, fill_leaves_what_is_reported);
	tcase_add_test(tc, protect_finds_every_alias);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
