// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * sys_hostile.c - guests that program the system half at random.
 *
 * Nothing is compared: the CPU must come to a boundary after each step, whatever tables, modes and
 * code it is given, touch nothing outside RAM (ASan sees to that), and keep its derived state in
 * line with the architectural one.
 */
#include "sys_machine.h"

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* A descriptor of any kind that points somewhere useful more often than chance would have it. */
static void random_desc(struct env *e, uint64_t at)
{
	uint64_t base = rnd() & 3 ? rnd() & 0x3ff000 : rnd();
	uint64_t limit = rnd() & 1 ? 0xfffff : rnd() & 0xfffff;
	uint64_t d = (limit & 0xffff) | (base & 0xffffff) << 16 | (rnd() & 0xff) << 40 |
		     (limit & 0xf0000) << 32 | (rnd() & 0xf) << 52 | (base & 0xff000000) << 32;

	if (rnd() & 7)
		d |= 1ull << 47;
	env_put(e, at, d, 8);
}

static void random_gate(struct env *e, uint64_t at)
{
	env_put(e, at, (rnd() & 0xffff) | (rnd() & 0xff) << 16 | (rnd() & 0xff) << 40, 8);
}

static void random_tables(struct env *e)
{
	for (unsigned i = 1; i < 32; i++)
		if (rnd() & 1)
			random_desc(e, GDT + i * 8);
	for (unsigned i = 0; i < 256; i++)
		if (rnd() & 3)
			random_gate(e, IDT + i * 8);
	for (unsigned i = 0; i < 0x200; i += 2)
		if (rnd() & 1)
			env_put(e, TSS + i, rnd() & 0xff, 2);
	if (!(rnd() & 3))
		env_put(e, PML4 + 0x2000 + (rnd() & 8), rnd(), 8);
}

/* Far transfers, INT, IRET, segment loads, system instructions, and noise. */
static void random_code(struct env *e, uint64_t at)
{
	static const char *const some[] = {
		"\xea", "\x9a", "\xcb", "\xca\x08", "\xcf", "\x48\xcf", "\xcc", "\xcd", "\xf1", "\x8e",
		"\x0f\x00", "\x0f\x01", "\x0f\x02", "\x0f\x03", "\x0f\x20", "\x0f\x22", "\x0f\x23",
		"\x0f\x05", "\x0f\x07", "\x0f\x34", "\x0f\x35", "\x0f\x30", "\x0f\x32", "\x63", "\xff",
		"\x0f\x01\xf8", "\x0f\xb2", "\xc4", "\x9d", "\xfb", "\xf4", "\x66\x0f\x38\x82", "\x6d",
		"\xe4", "\xee", "\x66\xcf", "\x66\x9a", "\x0f\xa9", "\x17",
	};
	uint8_t buf[16];

	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)rnd();
	if (rnd() & 7) {
		const char *s = some[rnd() % (sizeof(some) / sizeof(some[0]))];

		memcpy(buf, s, strlen(s));
	}
	memcpy(e->ram + (at % (ENV_RAM_BYTES - 16)), buf, sizeof(buf));
}

static struct env *random_machine(void)
{
	unsigned cpl = rnd() & 1 ? 3 : 0;
	struct env *e;

	switch (rnd() % 3) {
	case 0:
		e = machine64(cpl);
		break;
	case 1:
		e = machine32(cpl);
		break;
	default:
		e = machine32(0);
		e->cpu.s.cr0 = X86_CR0_ET;
		e->cpu.s.seg[X86_CS].limit = 0xffff;
		if (rnd() & 1) {
			e->cpu.s.cr0 |= X86_CR0_PE;
			e->cpu.s.rflags |= X86_FL_VM | (rnd() & X86_FL_IOPL);
			e->cpu.s.cr4 |= rnd() & (X86_CR4_VME | X86_CR4_PVI);
			for (unsigned i = 0; i < X86_SEG_COUNT; i++)
				e->cpu.s.seg[i] = x86_segment_v86((uint16_t)rnd());
			e->cpu.s.rip &= 0xffff;
		}
	}
	e->cpu.s.dr[7] |= rnd() & 1 ? 0 : rnd() & 0xffff00ff;
	e->cpu.s.dr[0] = CODE;
	x86_cpu_sync(&e->cpu);
	return e;
}

static void check_derived(const struct x86_cpu *cpu)
{
	struct x86_cpu copy = *cpu;

	x86_update_mode(&copy);
	ck_assert_uint_eq(copy.cpl, cpu->cpl);
	ck_assert_uint_eq(copy.code_bytes, cpu->code_bytes);
	ck_assert_uint_eq(copy.stack_bytes, cpu->stack_bytes);
	ck_assert_uint_eq(copy.tlb_mode, cpu->tlb_mode);
	ck_assert_uint_eq(copy.flat, cpu->flat);
	ck_assert_uint_eq(copy.long_mode, cpu->long_mode);
	ck_assert_uint_eq(copy.debug_armed, cpu->debug_armed);
	ck_assert(!(cpu->s.efer & X86_EFER_LMA) || (cpu->s.cr0 & X86_CR0_PG));
	ck_assert(!(cpu->s.rflags & X86_FL_VM) || !cpu->long_mode);
	ck_assert(cpu->s.rflags & X86_FL_ONE);
	ck_assert_uint_eq(cpu->s.zero, 0);
}

static void one_guest(void)
{
	struct env *e = random_machine();
	struct x86_state *s = &e->cpu.s;

	random_tables(e);
	for (unsigned i = 0; i < 40 && s->activity != X86_SHUTDOWN; i++) {
		uint64_t gpa, linear;

		for (unsigned r = 0; r < 16; r++)
			if (!(rnd() & 7) && r != X86_RSP)
				s->gpr[r] = rnd() & 1 ? rnd() & 0xff : rnd();
		if (!(rnd() & 7))
			s->gpr[X86_RSP] = rnd() & 0x3fffff;
		if (x86_fetch_address(&e->cpu, &linear, &gpa) == X86_NEXT && gpa < ENV_RAM_BYTES)
			random_code(e, gpa);
		s->activity = X86_RUNNING;
		(void)x86_step(&e->cpu);
		check_derived(&e->cpu);
		if (!(rnd() & 15) && (s->rflags & X86_FL_IF))
			x86_deliver_interrupt(&e->cpu, (uint8_t)rnd());
		if (!(rnd() & 31))
			x86_deliver_nmi(&e->cpu);
		check_derived(&e->cpu);
	}
	env_free(e);
}

START_TEST(comes_to_a_boundary_whatever_it_is_given)
{
	for (unsigned i = 0; i < 30; i++) {
		seed = (uint64_t)_i * 1000003u + i * 7919u + 1;
		rnd();
		one_guest();
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 hostile");
	TCase *tc = tcase_create("random");

	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, comes_to_a_boundary_whatever_it_is_given, 1, 21);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
