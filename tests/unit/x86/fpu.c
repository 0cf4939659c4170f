// SPDX-License-Identifier: Apache-2.0
/*
 * fpu.c - what vec.c cannot ask of a user process: checks by control registers, pending exceptions,
 * faults in the middle of gathers and masked moves, XSAVE images, environments outside 64-bit mode.
 */
#include "sys_env.h"

#include <stdio.h>

#define MEM 0x2000u /* where rbx points */

static struct env *env64(void)
{
	struct env *e = env_new();
	struct x86_cpu *cpu = &e->cpu;

	cpu->s.cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_ET;
	cpu->s.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	cpu->s.xcr0 = 7;
	cpu->code_bytes = 8;
	cpu->stack_bytes = 8;
	cpu->cpl = 0;
	cpu->s.gpr[X86_RBX] = MEM;
	cpu->features = ~0ull;
	return e;
}

/* X86_FAULT gives the vector, anything else -1. */
static int run(struct env *e, const char *hex)
{
	struct x86_cpu *cpu = &e->cpu;
	struct x86_insn insn;
	uint8_t bytes[15];
	unsigned n = 0, v;
	int used;

	for (; *hex; hex += used, n++) {
		ck_assert_int_eq(sscanf(hex, "%2x %n", &v, &used), 1);
		bytes[n] = v;
	}
	ck_assert_int_eq(x86_decode(bytes, n, cpu->code_bytes, &insn), n);
	cpu->s.rip += n;
	if (insn.exec(cpu, &insn) != X86_FAULT)
		return -1;
	return cpu->fault.vector;
}

#define ADDPS	"0f 58 03"    /* addps xmm0, [rbx] */
#define VADDPS	"c5 f8 58 03" /* vaddps xmm0, xmm0, [rbx] */
#define PADDB	"0f fc c1"    /* paddb mm0, mm1 */
#define FADD	"d8 c1"	      /* fadd st0, st1 */
#define FNSTSW	"df e0"
#define WAIT	"9b"
#define FXSAVE	"0f ae 03"
#define XSAVE	"0f ae 23"

START_TEST(control_registers_decide)
{
	static const struct {
		const char *insn;
		uint64_t cr0_set, cr4_clear, xcr0;
		int vector;
	} cases[] = {
		{ ADDPS, 0, 0, 7, -1 },
		{ ADDPS, X86_CR0_TS, 0, 7, X86_NM },
		{ ADDPS, X86_CR0_EM, 0, 7, X86_UD },
		{ ADDPS, X86_CR0_EM | X86_CR0_TS, 0, 7, X86_UD },
		{ ADDPS, X86_CR0_TS, X86_CR4_OSFXSR, 7, X86_UD },
		{ ADDPS, 0, X86_CR4_OSXSAVE, 1, -1 },
		{ VADDPS, 0, 0, 7, -1 },
		{ VADDPS, X86_CR0_EM, X86_CR4_OSFXSR, 7, -1 },
		{ VADDPS, X86_CR0_TS, 0, 7, X86_NM },
		{ VADDPS, 0, 0, 3, X86_UD },
		{ VADDPS, X86_CR0_TS, X86_CR4_OSXSAVE, 7, X86_UD },
		{ PADDB, 0, X86_CR4_OSFXSR, 1, -1 },
		{ PADDB, X86_CR0_TS, 0, 7, X86_NM },
		{ PADDB, X86_CR0_EM | X86_CR0_TS, 0, 7, X86_UD },
		{ FADD, X86_CR0_EM, 0, 7, X86_NM },
		{ FADD, X86_CR0_TS, 0, 7, X86_NM },
		{ FADD, X86_CR0_MP, 0, 7, -1 },
		{ FNSTSW, X86_CR0_TS, 0, 7, X86_NM },
		{ WAIT, X86_CR0_TS, 0, 7, -1 },
		{ WAIT, X86_CR0_TS | X86_CR0_MP, 0, 7, X86_NM },
		{ WAIT, X86_CR0_EM, 0, 7, -1 },
		{ FXSAVE, 0, X86_CR4_OSFXSR, 7, -1 },
		{ FXSAVE, X86_CR0_EM, 0, 7, X86_NM },
		{ XSAVE, X86_CR0_EM, 0, 7, -1 },
		{ XSAVE, X86_CR0_TS, 0, 7, X86_NM },
		{ XSAVE, X86_CR0_TS, X86_CR4_OSXSAVE, 7, X86_UD },
	};
	const unsigned n = sizeof(cases) / sizeof(cases[0]);
	unsigned i;

	for (i = 0; i < n; i++) {
		struct env *e = env64();

		e->cpu.s.cr0 |= cases[i].cr0_set;
		e->cpu.s.cr4 &= ~cases[i].cr4_clear;
		e->cpu.s.xcr0 = cases[i].xcr0;
		ck_assert_msg(run(e, cases[i].insn) == cases[i].vector, "case %u: %s", i,
			      cases[i].insn);
		env_free(e);
	}
}
END_TEST

START_TEST(legacy_operands_are_aligned)
{
	struct env *e = env64();

	e->cpu.s.gpr[X86_RBX] = MEM + 4;
	ck_assert_int_eq(run(e, ADDPS), X86_GP);
	ck_assert_uint_eq(e->cpu.fault.error, 0);
	ck_assert_int_eq(run(e, VADDPS), -1);
	ck_assert_int_eq(run(e, "0f 28 03"), X86_GP);	      /* movaps */
	ck_assert_int_eq(run(e, "0f 10 03"), -1);	      /* movups */
	ck_assert_int_eq(run(e, "c5 f8 28 03"), X86_GP);      /* vmovaps */
	ck_assert_int_eq(run(e, "66 0f 3a 63 03 0c"), -1);    /* pcmpistri */
	ck_assert_int_eq(run(e, FXSAVE), X86_GP);
	e->cpu.s.gpr[X86_RBX] = MEM + 16;
	ck_assert_int_eq(run(e, ADDPS), -1);
	ck_assert_int_eq(run(e, "c5 f8 29 03"), -1);	/* vmovaps [rbx], xmm0 */
	ck_assert_int_eq(run(e, "c5 fc 29 03"), X86_GP); /* ymm0 */
	ck_assert_int_eq(run(e, XSAVE), X86_GP);
	/* The linear address counts. */
	e->cpu.s.seg[X86_FS].base = 8;
	ck_assert_int_eq(run(e, "64 0f 58 43 08"), -1); /* addps xmm0, fs:[rbx+8] */
	ck_assert_int_eq(run(e, "64 0f 58 03"), X86_GP);
	env_free(e);
}
END_TEST

START_TEST(pending_x87_exception_waits)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;

	ck_assert_int_eq(run(e, "db e3"), -1); /* fninit */
	f->fcw = 0x37b;			       /* zero divide unmasked */
	ck_assert_int_eq(run(e, "d9 e8"), -1); /* fld1 */
	ck_assert_int_eq(run(e, "d9 ee"), -1); /* fldz */
	e->cpu.s.rip = 0x1000;
	ck_assert_int_eq(run(e, "de f9"), -1); /* fdivp: not signalled here */
	ck_assert_uint_eq(f->fsw & 0x80ff, 0x8084);
	ck_assert_uint_eq(f->fsw >> 11 & 7, 6); /* and not done */
	ck_assert_uint_eq(f->fip, 0x1000);
	ck_assert_uint_eq(f->fop, 0x6f9);
	ck_assert_int_eq(run(e, "d9 e8"), X86_MF);
	ck_assert_int_eq(run(e, PADDB), X86_MF);
	ck_assert_int_eq(run(e, WAIT), X86_MF);
	ck_assert_int_eq(run(e, ADDPS), -1);
	ck_assert_int_eq(run(e, FNSTSW), -1);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX] & 0xffff, f->fsw);
	ck_assert_int_eq(run(e, "db e2"), -1); /* fnclex */
	ck_assert_int_eq(run(e, "d9 e8"), -1);
	env_free(e);
}
END_TEST

START_TEST(unmasked_simd_exception)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	uint8_t before[16];

	memset(f->vec[0], 0x3f, 16);
	memcpy(before, f->vec[0], 16);
	f->mxcsr = 0x1d80;						 /* divide by zero unmasked */
	ck_assert_int_eq(run(e, "0f 5e c1"), X86_XM);			 /* divps xmm0, xmm1 */
	ck_assert_uint_eq(f->mxcsr, 0x1d84);
	ck_assert_mem_eq(f->vec[0], before, 16);
	e->cpu.s.cr4 &= ~(uint64_t)X86_CR4_OSXMMEXCPT;
	ck_assert_int_eq(run(e, "0f 5e c1"), X86_UD);
	/* A flag already set does not raise by itself. */
	ck_assert_int_eq(run(e, "0f 57 c9"), -1); /* xorps */
	f->mxcsr = 0x1d84;
	ck_assert_int_eq(run(e, "0f 58 c0"), -1); /* addps */
	env_free(e);
}
END_TEST

/* vpgatherdd ymm2, [rbx + ymm1*4], ymm3 */
#define GATHER "c4 e2 65 90 14 8b"

START_TEST(gather_stops_at_a_fault)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	uint32_t v[8], mask[8];
	unsigned i;

	for (i = 0; i < 8; i++) {
		env_put(e, MEM + 4 * i, 100 + i, 4);
		memcpy(f->vec[1] + 4 * i, &i, 4);
		memset(f->vec[3] + 4 * i, i == 1 ? 0x7f : 0xff, 4);
	}
	memset(f->vec[2], 0xaa, 32);
	/* Element 5 alone lies beyond the canonical addresses. */
	e->cpu.s.gpr[X86_RBX] = 0x7fffffffffff - 0x7f;
	i = 0x20;
	memcpy(f->vec[1] + 20, &i, 4);
	ck_assert_int_eq(run(e, GATHER), X86_GP);
	memcpy(mask, f->vec[3], 32);
	for (i = 0; i < 8; i++)
		ck_assert_uint_eq(mask[i], i < 5 ? 0 : ~0u);
	/* Resumed with a good address. */
	e->cpu.s.gpr[X86_RBX] = MEM;
	i = 5;
	memcpy(f->vec[1] + 20, &i, 4);
	ck_assert_int_eq(run(e, GATHER), -1);
	memcpy(v, f->vec[2], 32);
	memcpy(mask, f->vec[3], 32);
	for (i = 0; i < 8; i++) {
		ck_assert_uint_eq(mask[i], 0);
		ck_assert_uint_eq(v[i], i == 1 ? 0xaaaaaaaa : i < 5 ? ~0u : 100 + i);
	}
	ck_assert_int_eq(run(e, "c4 e2 65 90 1c 8b"), X86_UD); /* destination is the mask */
	env_free(e);
}
END_TEST

/* Under alignment checking elements are read byte by byte. */
START_TEST(gather_leaves_the_element_that_faults)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	uint32_t v;

	e->cpu.s.cr0 |= X86_CR0_AM;
	e->cpu.s.rflags |= X86_FL_AC;
	e->cpu.cpl = 3;
	memset(f->vec[1], 0, 32);
	memset(f->vec[2], 0xaa, 32);
	memset(f->vec[3], 0xff, 32);
	e->cpu.s.gpr[X86_RBX] = 0x7ffffffffffd;
	ck_assert_int_eq(run(e, GATHER), X86_GP);
	memcpy(&v, f->vec[2], 4);
	ck_assert_uint_eq(v, 0xaaaaaaaa);
	env_free(e);
}
END_TEST

START_TEST(masked_moves_look_only_where_selected)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	uint32_t v;

	/* vpmaskmovd [rbx], xmm1, xmm2 with the last element beyond canonical addresses */
	e->cpu.s.gpr[X86_RBX] = 0x800000000000 - 12;
	memset(f->vec[1], 0xff, 16);
	ck_assert_int_eq(run(e, "c4 e2 71 8e 13"), X86_GP);
	memset(f->vec[1] + 12, 0x7f, 4);
	ck_assert_int_eq(run(e, "c4 e2 71 8e 13"), -1);
	ck_assert_int_eq(run(e, "c4 e2 71 8c 13"), -1); /* load */
	memcpy(&v, f->vec[2] + 8, 4);
	ck_assert_uint_eq(v, ~0u); /* nothing there: all ones */
	memcpy(&v, f->vec[2] + 12, 4);
	ck_assert_uint_eq(v, 0);
	env_free(e);
}
END_TEST

static void fill(struct x86_fpu *f, unsigned from)
{
	unsigned i;

	for (i = 0; i < 16; i++) {
		memset(f->vec[i], from + i, 16);
		memset(f->vec[i] + 16, from + 100 + i, 16);
	}
	for (i = 0; i < 8; i++)
		memset(f->st[i], from + 50 + i, 10);
	f->fcw = 0x27f;
	f->fsw = 0x3800;
	f->ftw = 0x81;
	f->fip = 0x123456789abc;
	f->fdp = 0x7fffdeadbeef;
	f->fop = 0x123;
	f->mxcsr = 0x3fa0;
}

static void set_mask(struct env *e, uint32_t mask)
{
	e->cpu.s.gpr[X86_RAX] = mask;
	e->cpu.s.gpr[X86_RDX] = 0;
}

static void restores_what_it_saved(const char *save, const char *restore)
{
	static const uint32_t masks[] = { 1, 2, 4, 3, 5, 6, 7 };
	unsigned i, k;

	for (i = 0; i < sizeof(masks) / sizeof(masks[0]); i++) {
		struct env *e = env64();
		struct x86_fpu *f = &e->cpu.s.fpu, saved, other;

		fill(f, 1);
		saved = *f;
		set_mask(e, masks[i]);
		ck_assert_int_eq(run(e, save), -1);
		fill(f, 77);
		f->fip = f->fdp = f->fsw = 0;
		f->mxcsr = 0x1f80;
		other = *f;
		ck_assert_int_eq(run(e, restore), -1);
		for (k = 0; k < 16; k++) {
			ck_assert_mem_eq(f->vec[k], (masks[i] & 2 ? &saved : &other)->vec[k], 16);
			ck_assert_mem_eq(f->vec[k] + 16,
					 (masks[i] & 4 ? &saved : &other)->vec[k] + 16, 16);
		}
		for (k = 0; k < 8; k++)
			ck_assert_mem_eq(f->st[k], (masks[i] & 1 ? &saved : &other)->st[k], 10);
		ck_assert_uint_eq(f->fip, (masks[i] & 1 ? &saved : &other)->fip);
		ck_assert_uint_eq(f->fsw, (masks[i] & 1 ? &saved : &other)->fsw);
		env_free(e);
	}
}

START_TEST(xsave_images)
{
	restores_what_it_saved("48 0f ae 23", "48 0f ae 2b"); /* xsave64, xrstor64 */
	restores_what_it_saved("48 0f ae 33", "48 0f ae 2b"); /* xsaveopt64 */
	restores_what_it_saved("48 0f c7 23", "48 0f ae 2b"); /* xsavec64 */
}
END_TEST

START_TEST(xsave_knows_the_initial_state)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	unsigned i;

	memset(f->vec, 0, sizeof(f->vec));
	memset(f->st, 0, sizeof(f->st));
	f->mxcsr = 0x1f80;
	ck_assert_int_eq(run(e, "db e3"), -1);
	set_mask(e, 7);
	ck_assert_int_eq(run(e, "48 0f c7 23"), -1); /* xsavec64 */
	for (i = 0; i < 16; i++)
		ck_assert_uint_eq(e->ram[MEM + 512 + i], i == 8 ? 7 : i == 15 ? 0x80 : 0);
	/* and XRSTOR goes back to it */
	fill(f, 9);
	ck_assert_int_eq(run(e, "48 0f ae 2b"), -1);
	ck_assert_uint_eq(f->mxcsr, 0x1f80);
	ck_assert_uint_eq(f->fcw, 0x37f);
	ck_assert_uint_eq(f->ftw, 0);
	ck_assert_uint_eq(f->vec[5][3] | f->vec[15][31], 0);
	e->cpu.s.gpr[X86_RCX] = 1;
	ck_assert_int_eq(run(e, "0f 01 d0"), -1); /* xgetbv */
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 0);
	env_free(e);
}
END_TEST

START_TEST(xrstor_refuses_a_bad_header)
{
	static const struct {
		unsigned at;
		uint64_t value;
	} cases[] = { { 512, 8 },		 { 520, 1 },	 { 528, 1 },
		      { 520, 1ull << 63 | 8 }, { 24, 0x10000 } };
	unsigned i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct env *e = env64();

		env_put(e, MEM + 512, 7, 8);
		env_put(e, MEM + 24, 0x1f80, 4);
		set_mask(e, 7);
		ck_assert_int_eq(run(e, "48 0f ae 2b"), -1);
		env_put(e, MEM + cases[i].at, cases[i].value, 8);
		ck_assert_msg(run(e, "48 0f ae 2b") == X86_GP, "case %u", i);
		env_free(e);
	}
}
END_TEST

START_TEST(xsetbv_takes_only_valid_sets)
{
	static const struct {
		uint64_t value;
		int vector;
	} cases[] = { { 1, -1 }, { 3, -1 }, { 0, X86_GP }, { 2, X86_GP }, { 5, X86_GP },
		      { 0x10003, X86_GP } };
	struct env *e = env64();
	unsigned i;

	e->cpu.s.gpr[X86_RCX] = 0;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		set_mask(e, cases[i].value);
		ck_assert_int_eq(run(e, "0f 01 d1"), cases[i].vector);
		if (cases[i].vector < 0)
			ck_assert_uint_eq(e->cpu.s.xcr0, cases[i].value);
	}
	e->cpu.cpl = 3;
	set_mask(e, 3);
	ck_assert_int_eq(run(e, "0f 01 d1"), X86_GP);
	env_free(e);
}
END_TEST

/* SDM vol. 1, figures 8-9 to 8-12. */
START_TEST(environment_formats)
{
	static const struct {
		bool real, wide;
		uint8_t bytes[28];
	} cases[] = {
		{ false, true, { 0x7f, 2, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xfc, 0x3f, 0xff, 0xff, 0x78,
				 0x56, 0x34, 0x12, 0, 0, 0x23, 1, 0xef, 0xbe, 0xad, 0xde, 0, 0, 0xff,
				 0xff } },
		{ false, false, { 0x7f, 2, 0, 0x38, 0xfc, 0x3f, 0x78, 0x56, 0, 0, 0xef, 0xbe, 0, 0 } },
		{ true, false, { 0x7f, 2, 0, 0x38, 0xfc, 0x3f, 0x78, 0x56, 0x23, 0x41, 0xef, 0xbe, 0,
				 0xd0 } },
		{ true, true, { 0x7f, 2, 0xff, 0xff, 0, 0x38, 0xff, 0xff, 0xfc, 0x3f, 0xff, 0xff, 0x78,
				0x56, 0xff, 0xff, 0x23, 0x41, 0x23, 1, 0xef, 0xbe, 0xff, 0xff, 0,
				0xd0, 0xea, 0x0d } },
	};
	unsigned i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct env *e = env64();
		struct x86_fpu *f = &e->cpu.s.fpu;

		memset(f, 0, sizeof(*f));
		fill(f, 1);
		memset(f->st, 0x80, sizeof(f->st)); /* ST(0), ST(1) valid */
		f->fip = 0x12345678;
		f->fdp = 0xdeadbeef;
		if (cases[i].real)
			e->cpu.s.cr0 &= ~(uint64_t)X86_CR0_PE;
		ck_assert_int_eq(run(e, cases[i].wide ? "d9 33" : "66 d9 33"), -1); /* fnstenv */
		ck_assert_msg(!memcmp(e->ram + MEM, cases[i].bytes, cases[i].wide ? 28 : 14),
			      "case %u", i);
		ck_assert_uint_eq(f->fcw, 0x27f);
		f->fip = f->fdp = 0;
		ck_assert_int_eq(run(e, cases[i].wide ? "d9 23" : "66 d9 23"), -1); /* fldenv */
		ck_assert_uint_eq(f->ftw, 0x81);
		ck_assert_uint_eq(f->fsw, 0x3800);
		ck_assert_uint_eq(f->fip & 0xffff, 0x5678);
		env_free(e);
	}
}
END_TEST

/* Outside 64-bit mode VEX.W does not widen general registers, and there are eight vector registers. */
START_TEST(vex_in_32_bit_code)
{
	struct env *e = env64();
	struct x86_fpu *f = &e->cpu.s.fpu;
	uint64_t v;
	unsigned i;

	e->cpu.code_bytes = 4;
	e->cpu.s.seg[X86_DS] = (struct x86_segment){ .limit = ~0u, .attr = 0xc93 };
	e->cpu.s.gpr[X86_RBX] = 0x1122334455667788;
	ck_assert_int_eq(run(e, "c4 e1 f9 6e cb"), -1); /* vmovd xmm1, ebx with W */
	memcpy(&v, f->vec[1], 8);
	ck_assert_uint_eq(v, 0x55667788);
	ck_assert_int_eq(run(e, "c4 e3 71 22 cb 01"), -1); /* vpinsrd xmm1, xmm1, ebx, 1 */
	memcpy(&v, f->vec[1], 8);
	ck_assert_uint_eq(v, 0x5566778855667788);
	memset(f->vec, 0xee, sizeof(f->vec));
	ck_assert_int_eq(run(e, "c5 fc 77"), -1); /* vzeroall */
	for (i = 0; i < 16; i++)
		ck_assert_uint_eq(f->vec[i][17], i < 8 ? 0 : 0xee);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("x86 fpu");
	TCase *tc = tcase_create("rules");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, control_registers_decide);
	tcase_add_test(tc, legacy_operands_are_aligned);
	tcase_add_test(tc, pending_x87_exception_waits);
	tcase_add_test(tc, unmasked_simd_exception);
	tcase_add_test(tc, gather_stops_at_a_fault);
	tcase_add_test(tc, gather_leaves_the_element_that_faults);
	tcase_add_test(tc, masked_moves_look_only_where_selected);
	tcase_add_test(tc, xsave_images);
	tcase_add_test(tc, xsave_knows_the_initial_state);
	tcase_add_test(tc, xrstor_refuses_a_bad_header);
	tcase_add_test(tc, xsetbv_takes_only_valid_sets);
	tcase_add_test(tc, environment_formats);
	tcase_add_test(tc, vex_in_32_bit_code);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
