// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * sys_mmu.c - page walks of every mode against an independent model.
 *
 * Each case puts random rights and reserved bits into one chain of entries, walks it, and compares
 * the outcome, the error code, the address and the accessed and dirty bits with what a model
 * written from the manual's text says.
 */
#include "sys_env.h"

enum mode { MODE_32, MODE_PAE, MODE_LONG, MODES };

#define TABLE(n) (0x100000u + (n) * 0x1000u)
#define P	 1ull
#define W	 2ull
#define U	 4ull
#define A	 0x20ull
#define D	 0x40ull
#define PS	 0x80ull
#define G	 0x100ull
#define NX	 (1ull << 63)

struct chain {
	enum mode mode;
	unsigned levels; /* to the leaf */
	unsigned bytes;
	uint64_t addr[4], entry[4];
	unsigned leaf_shift;
};

struct expect {
	bool fault;
	uint32_t error;
	uint64_t gpa;
	uint64_t after[4];
};

static uint64_t seed = 88172645463325252ull;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static bool one_in(unsigned n)
{
	return rnd() % n == 0;
}

static const unsigned shifts[MODES][4] = {
	[MODE_32] = { 22, 12 }, [MODE_PAE] = { 30, 21, 12 }, [MODE_LONG] = { 39, 30, 21, 12 }
};
static const unsigned depth[MODES] = { 2, 3, 4 };

static uint64_t random_flags(void)
{
	uint64_t f = P;

	if (one_in(24))
		f &= ~P;
	f |= one_in(3) ? 0 : W;
	f |= one_in(3) ? 0 : U;
	f |= one_in(2) ? A : 0;
	f |= one_in(2) ? D : 0;
	f |= one_in(2) ? G : 0;
	return f;
}

/* Lay out the chain for @linear; the frame of the leaf is at or above 2 MiB where large. */
static void build(struct env *e, struct chain *c, uint64_t linear)
{
	const unsigned *shift = shifts[c->mode];
	uint64_t table = TABLE(0);

	c->bytes = c->mode == MODE_32 ? 4 : 8;
	c->levels = depth[c->mode];
	for (unsigned i = 0; i < depth[c->mode]; i++) {
		bool pdpte = c->mode == MODE_PAE && i == 0;
		unsigned index_bits = c->mode == MODE_32 ? 10 : pdpte ? 2 : 9;
		uint64_t index = linear >> shift[i] & ((1u << index_bits) - 1);
		bool last = i == depth[c->mode] - 1;
		uint64_t f = random_flags();

		if (c->mode == MODE_PAE && i == 0)
			f &= P;
		else if (c->mode != MODE_32 && one_in(4))
			f |= NX;
		if (!last && !(c->mode == MODE_PAE && i == 0) && one_in(4)) {
			f |= PS;
			last = true;
		}
		c->addr[i] = table + index * c->bytes;
		c->leaf_shift = shift[i];
		if (last && shift[i] > 12)
			f |= 1ull << shift[i];
		else
			f |= table = TABLE(i + 1);
		if (one_in(24)) /* anything reserved or not */
			f ^= (1ull << (rnd() % (c->bytes * 8))) & (shift[i] > 12 ? ~PS : ~0ull);
		c->entry[i] = c->bytes == 4 ? (uint32_t)f : f;
		env_put(e, c->addr[i], f, c->bytes);
		if (last) {
			c->levels = i + 1;
			return;
		}
		/* A flipped address bit must not lead astray: put the link back. */
		if (((f & 0xffffffffff000ull) != table) || (f & PS)) {
			f = (f & ~(0xffffffffff000ull | PS)) | table;
			c->entry[i] = f;
			env_put(e, c->addr[i], f, c->bytes);
		}
	}
}

static bool is_reserved(const struct x86_state *s, const struct chain *c, unsigned i)
{
	uint64_t x = c->entry[i];
	unsigned shift = shifts[c->mode][i];
	bool leaf = i == c->levels - 1;

	if (c->mode == MODE_32)
		return leaf && shift == 22 && (x >> 21 & 1);
	for (unsigned bit = 46; bit < 52; bit++)
		if (x >> bit & 1)
			return true;
	if (c->mode == MODE_PAE) {
		for (unsigned bit = 52; bit < 63; bit++)
			if (x >> bit & 1)
				return true;
		if (i == 0)
			return (x >> 63) || (x & 0x1e6);
	}
	if ((x & NX) && !(s->efer & X86_EFER_NXE))
		return true;
	if (leaf && shift > 12) {
		if (shift == 39)
			return true;
		for (unsigned bit = 13; bit < shift; bit++)
			if (x >> bit & 1)
				return true;
	}
	return false;
}

static void model(const struct x86_state *s, const struct chain *c, uint64_t linear,
		  unsigned access, bool lifted, struct expect *x)
{
	bool user = access & X86_PF_U, write = access & X86_PF_W, fetch = access & X86_PF_FETCH;
	bool all_w = true, all_u = true, any_nx = false;
	bool nx_on = s->efer & X86_EFER_NXE && s->cr4 & X86_CR4_PAE;

	memcpy(x->after, c->entry, sizeof(x->after));
	x->error = (write ? 2 : 0) | (user ? 4 : 0) |
		   (fetch && (nx_on || s->cr4 & X86_CR4_SMEP) ? 16 : 0);
	x->fault = true;
	for (unsigned i = 0; i < c->levels; i++) {
		if (!(c->entry[i] & P))
			return;
		if (is_reserved(s, c, i)) {
			x->error |= 9;
			return;
		}
		if (c->mode == MODE_PAE && i == 0)
			continue;
		all_w &= !!(c->entry[i] & W);
		all_u &= !!(c->entry[i] & U);
		any_nx |= nx_on && c->entry[i] & NX;
	}

	bool ok;

	if (user)
		ok = all_u && (!write || all_w) && (!fetch || !any_nx);
	else if (fetch)
		ok = !any_nx && !(all_u && s->cr4 & X86_CR4_SMEP);
	else
		ok = (!write || all_w || !(s->cr0 & X86_CR0_WP)) &&
		     !(all_u && s->cr4 & X86_CR4_SMAP && !lifted);
	if (!ok) {
		x->error |= 1;
		return;
	}
	x->fault = false;
	uint64_t frame = c->entry[c->levels - 1] & 0x3ffffffff000ull;

	if (c->mode == MODE_32) {
		frame &= 0xfffff000;
		if (c->leaf_shift == 22)
			frame = (frame & 0xffc00000) | (frame >> 13 & 0xff) << 32;
	}
	frame &= ~((1ull << c->leaf_shift) - 1);
	x->gpa = frame + (linear & ((1ull << c->leaf_shift) - 1));
	for (unsigned i = 0; i < c->levels; i++) {
		if (!(c->mode == MODE_PAE && i == 0))
			x->after[i] |= A;
		if (write && i == c->levels - 1)
			x->after[i] |= D;
	}
}

static void set_mode(struct x86_state *s, enum mode mode)
{
	s->cr0 = X86_CR0_PE | X86_CR0_PG | (one_in(2) ? X86_CR0_WP : 0);
	s->cr3 = TABLE(0);
	s->cr4 = X86_CR4_PSE | (one_in(2) ? X86_CR4_SMEP : 0) | (one_in(2) ? X86_CR4_SMAP : 0) |
		 (one_in(2) ? X86_CR4_PGE : 0) | (mode != MODE_32 ? X86_CR4_PAE : 0);
	s->efer = (one_in(4) ? 0 : X86_EFER_NXE) |
		  (mode == MODE_LONG ? X86_EFER_LME | X86_EFER_LMA : 0);
}

static void one_case(struct env *e, enum mode mode)
{
	static const unsigned kinds[] = { 0, X86_PF_W, X86_PF_FETCH, X86_PF_U, X86_PF_U | X86_PF_W,
					  X86_PF_U | X86_PF_FETCH };
	uint64_t linear = mode == MODE_LONG ? (uint64_t)((int64_t)(rnd() << 16) >> 16)
					    : (uint32_t)rnd();
	struct chain c = { .mode = mode };
	struct x86_walk walk;

	memset(e->ram + TABLE(0), 0, 0x5000);
	set_mode(&e->cpu.s, mode);
	x86_cpu_sync(&e->cpu);
	build(e, &c, linear);
	for (unsigned k = 0; k < 6; k++) {
		bool lifted = one_in(2);
		struct expect x = { 0 };
		int r;

		model(&e->cpu.s, &c, linear, kinds[k], lifted, &x);
		r = x86_walk(&e->cpu, linear, kinds[k], lifted, &walk);
		ck_assert_int_eq(r, x.fault ? X86_FAULT : X86_NEXT);
		if (x.fault) {
			ck_assert_uint_eq(e->cpu.fault.vector, X86_PF);
			ck_assert_uint_eq(e->cpu.fault.error, x.error);
			ck_assert_uint_eq(e->cpu.fault.payload, linear);
		} else {
			ck_assert_uint_eq(walk.gpa, x.gpa);
			ck_assert_uint_eq(walk.page_bits, c.leaf_shift);
			ck_assert(!walk.writable || (x.after[c.levels - 1] & D));
			if (kinds[k] & X86_PF_W)
				ck_assert(walk.writable);
		}
		for (unsigned i = 0; i < c.levels; i++) {
			ck_assert_uint_eq(env_get(e, c.addr[i], c.bytes), x.after[i]);
			c.entry[i] = x.after[i];
		}
	}
}

START_TEST(walks_agree_with_the_model)
{
	struct env *e = env_new();

	for (unsigned i = 0; i < 60000; i++)
		one_case(e, (enum mode)(i % MODES));
	env_free(e);
}
END_TEST

START_TEST(tables_outside_ram_are_reserved_entries)
{
	struct env *e = env_new();
	struct x86_walk walk;

	e->cpu.s.cr0 = X86_CR0_PE | X86_CR0_PG;
	e->cpu.s.cr4 = X86_CR4_PAE;
	e->cpu.s.efer = X86_EFER_LME | X86_EFER_LMA;
	e->cpu.s.cr3 = 0x40000000;
	x86_cpu_sync(&e->cpu);
	ck_assert_int_eq(x86_walk(&e->cpu, 0x1234, 0, false, &walk), X86_FAULT);
	ck_assert_uint_eq(e->cpu.fault.error, X86_PF_P | X86_PF_RSVD);
	env_free(e);
}
END_TEST

START_TEST(reports_accessed_bits_set_in_watched_pages)
{
	struct env *e = env_new();
	struct x86_walk walk;

	e->cpu.s.cr0 = X86_CR0_PE | X86_CR0_PG;
	e->cpu.s.cr3 = TABLE(0);
	x86_cpu_sync(&e->cpu);
	env_put(e, TABLE(0), TABLE(1) | 7, 4);
	env_put(e, TABLE(1) + 4, 0x5000 | 7, 4);
	e->indirect = true;
	ck_assert_int_eq(x86_walk(&e->cpu, 0x1000, X86_PF_W, false, &walk), X86_NEXT);
	ck_assert_uint_eq(e->written, 2);
	ck_assert_uint_eq(walk.gpa, 0x5000);
	ck_assert_int_eq(x86_walk(&e->cpu, 0x1000, X86_PF_W, false, &walk), X86_NEXT);
	ck_assert_uint_eq(e->written, 2);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 mmu");
	TCase *tc = tcase_create("walk");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, walks_agree_with_the_model);
	tcase_add_test(tc, tables_outside_ram_are_reserved_entries);
	tcase_add_test(tc, reports_accessed_bits_set_in_watched_pages);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
