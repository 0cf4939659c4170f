// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * mmx.c - MMX, on the host's own MMX instructions, and its exchange with SSE.
 *
 * MM(i) is the significand of physical x87 register i. The state keeps ST-relative order, so an MMX
 * instruction first turns the registers until TOP is zero; then MM(i) is st[i].
 */
#include "fpu_int.h"
#include "insns.h"

static void mmx_enter(struct x86_cpu *cpu)
{
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned top = f->fsw >> 11 & 7, i;

	if (top) {
		uint8_t old[8][16];

		memcpy(old, f->st, sizeof(old));
		for (i = 0; i < 8; i++)
			memcpy(f->st[i], old[(i - top) & 7], 16);
		f->fsw &= ~(7u << 11);
	}
	f->ftw = 0xff;
}

static uint64_t mm_get(const struct x86_cpu *cpu, unsigned i)
{
	uint64_t v;

	memcpy(&v, cpu->s.fpu.st[i & 7], 8);
	return v;
}

/* A written register gets all ones in its sign and exponent. */
static void mm_set(struct x86_cpu *cpu, unsigned i, uint64_t v)
{
	memcpy(cpu->s.fpu.st[i & 7], &v, 8);
	memset(cpu->s.fpu.st[i & 7] + 8, 0xff, 2);
}

/* MM(i) before mmx_enter(): where a fault may still come. */
static uint64_t mm_peek(const struct x86_cpu *cpu, unsigned i)
{
	return mm_get(cpu, i - (cpu->s.fpu.fsw >> 11 & 7));
}

/* The Qq operand. */
static int load_q(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t *v, unsigned size)
{
	*v = 0;
	if (vec_is_mem(insn))
		return x86_load_rm(cpu, insn, v, size);
	*v = mm_peek(cpu, insn->rm);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int op(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t a, b;

	if (x86_check_mmx(cpu) || load_q(cpu, insn, &b, size))
		return X86_FAULT;
	mmx_enter(cpu);
	a = mm_get(cpu, insn->reg);
	vec_stub(insn, insn->imm)(&a, &a, &b, 0);
	mm_set(cpu, insn->reg, a);
	return X86_NEXT;
}

int x86_op_mmx_op(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return op(cpu, insn, 8);
}

int x86_op_mmx_op4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return op(cpu, insn, 4);
}

int x86_op_mmx_shift_imm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t a, count = insn->imm & 0xff;

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	a = mm_get(cpu, insn->rm);
	vec_stub(insn, 0)(&a, &a, &count, 0);
	mm_set(cpu, insn->rm, a);
	return X86_NEXT;
}

int x86_op_mmx_palignr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned shift = insn->imm & 0xff;
	uint8_t both[24] = { 0 };
	uint64_t a, b;

	if (x86_check_mmx(cpu) || load_q(cpu, insn, &b, 8))
		return X86_FAULT;
	mmx_enter(cpu);
	a = mm_get(cpu, insn->reg);
	memcpy(both, &b, 8);
	memcpy(both + 8, &a, 8);
	memcpy(&a, both + (shift < 16 ? shift : 16), 8);
	mm_set(cpu, insn->reg, a);
	return X86_NEXT;
}

int x86_op_mmx_pshufw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t b, out = 0;
	unsigned i;

	if (x86_check_mmx(cpu) || load_q(cpu, insn, &b, 8))
		return X86_FAULT;
	mmx_enter(cpu);
	for (i = 0; i < 4; i++)
		out |= (b >> (insn->imm >> i * 2 & 3) * 16 & 0xffff) << i * 16;
	mm_set(cpu, insn->reg, out);
	return X86_NEXT;
}

/* ---- moves ---- */

int x86_op_mmx_movd_load(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool wide = insn->opsize == 8;
	uint64_t v = wide ? cpu->s.gpr[insn->rm] : (uint32_t)cpu->s.gpr[insn->rm];

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	if (vec_is_mem(insn)) {
		v = 0;
		if (x86_load_rm(cpu, insn, &v, wide ? 8 : 4))
			return X86_FAULT;
	}
	mmx_enter(cpu);
	mm_set(cpu, insn->reg, v);
	return X86_NEXT;
}

int x86_op_mmx_movd_store(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool wide = insn->opsize == 8;
	uint64_t v;

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	v = mm_peek(cpu, insn->reg);
	if (!vec_is_mem(insn))
		cpu->s.gpr[insn->rm] = wide ? v : (uint32_t)v;
	else if (x86_store_rm(cpu, insn, &v, wide ? 8 : 4))
		return X86_FAULT;
	mmx_enter(cpu);
	return X86_NEXT;
}

int x86_op_mmx_movq_load(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v;

	if (x86_check_mmx(cpu) || load_q(cpu, insn, &v, 8))
		return X86_FAULT;
	mmx_enter(cpu);
	mm_set(cpu, insn->reg, v);
	return X86_NEXT;
}

int x86_op_mmx_movq_store(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v;

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	v = mm_peek(cpu, insn->reg);
	if (vec_is_mem(insn) && x86_store_rm(cpu, insn, &v, 8))
		return X86_FAULT;
	mmx_enter(cpu);
	if (!vec_is_mem(insn))
		mm_set(cpu, insn->rm, v);
	return X86_NEXT;
}

int x86_op_mmx_pinsrw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint16_t w = cpu->s.gpr[insn->rm];
	unsigned shift = (insn->imm & 3) * 16;
	uint64_t v;

	if (x86_check_mmx(cpu) || (vec_is_mem(insn) && x86_load_rm(cpu, insn, &w, 2)))
		return X86_FAULT;
	mmx_enter(cpu);
	v = mm_get(cpu, insn->reg);
	v = (v & ~(0xffffull << shift)) | (uint64_t)w << shift;
	mm_set(cpu, insn->reg, v);
	return X86_NEXT;
}

int x86_op_mmx_pextrw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (x86_check_mmx(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	cpu->s.gpr[insn->reg] = mm_get(cpu, insn->rm) >> (insn->imm & 3) * 16 & 0xffff;
	return X86_NEXT;
}

int x86_op_mmx_pmovmskb(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v, mask = 0;
	unsigned i;

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	v = mm_get(cpu, insn->rm);
	for (i = 0; i < 8; i++)
		mask |= (v >> (i * 8 + 7) & 1) << i;
	cpu->s.gpr[insn->reg] = mask;
	return X86_NEXT;
}

int x86_op_mmx_maskmovq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t wrap = insn->adsize == 8 ? ~0ull : insn->adsize == 4 ? 0xffffffffull : 0xffffull;
	uint64_t off = cpu->s.gpr[X86_RDI], v, mask;
	unsigned i;

	if (x86_check_mmx(cpu))
		return X86_FAULT;
	mmx_enter(cpu); /* before any fault of the memory operand, as AMD family 25 does */
	if (vec_check_mask_store(cpu, insn, 8))
		return X86_FAULT;
	v = mm_get(cpu, insn->reg);
	mask = mm_get(cpu, insn->rm);
	for (i = 0; i < 8; i++)
		if ((mask >> (i * 8 + 7) & 1) &&
		    x86_probe_write(cpu, insn->seg, (off + i) & wrap, 1))
			return X86_FAULT;
	for (i = 0; i < 8; i++)
		if ((mask >> (i * 8 + 7) & 1) &&
		    x86_write(cpu, insn->seg, (off + i) & wrap, (uint8_t *)&v + i, 1))
			return X86_FAULT;
	return X86_NEXT;
}

int x86_op_mmx_emms(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (x86_check_mmx(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	cpu->s.fpu.ftw = 0;
	return X86_NEXT;
}

/* ---- between MMX and SSE: both sets of checks (SDM vol. 2, exceptions of each) ---- */

static int check_both(struct x86_cpu *cpu)
{
	if (x86_check_sse(cpu))
		return X86_FAULT;
	return x86_check_mmx(cpu);
}

int x86_op_mmx_movq2dq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (check_both(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	vec_reg(cpu, insn->reg)->lane[0] = (v2u64){ mm_get(cpu, insn->rm), 0 };
	return X86_NEXT;
}

int x86_op_mmx_movdq2q(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (check_both(cpu))
		return X86_FAULT;
	mmx_enter(cpu);
	mm_set(cpu, insn->reg, vec_reg(cpu, insn->rm)->u64[0]);
	return X86_NEXT;
}

static int from_mmx(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool enter = !vec_is_mem(insn);
	union vec out = { 0 }, *dst = vec_reg(cpu, insn->reg);
	struct fpu_op state;
	uint64_t v;

	if (x86_check_sse(cpu) || (enter && x86_check_mmx(cpu)) || load_q(cpu, insn, &v, 8))
		return X86_FAULT;
	fpu_begin(cpu, &state);
	vec_stub(insn, 0)(&out, dst, &v, 0);
	if (enter)
		mmx_enter(cpu);
	if (fpu_end(cpu, &state))
		return X86_FAULT;
	dst->lane[0] = out.lane[0];
	return X86_NEXT;
}

/* With a memory operand they neither touch nor check the x87 state: AMD APM vol. 5, and for CVTPI2PD also
 * SDM vol. 2. */
int x86_op_mmx_cvtpi2ps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return from_mmx(cpu, insn);
}

int x86_op_mmx_cvtpi2pd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return from_mmx(cpu, insn);
}

static int to_mmx(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	const union vec *src;
	struct fpu_op state;
	union vec buf = { 0 };
	uint64_t v = 0;

	if (check_both(cpu) || vec_load(cpu, insn, &buf, size, &src))
		return X86_FAULT;
	fpu_begin(cpu, &state);
	vec_stub(insn, 0)(&v, NULL, src, 0);
	mmx_enter(cpu); /* also when an unmasked exception follows, as AMD family 25 does */
	if (fpu_end(cpu, &state))
		return X86_FAULT;
	mm_set(cpu, insn->reg, v);
	return X86_NEXT;
}

int x86_op_mmx_cvtps2pi(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return to_mmx(cpu, insn, 8);
}

int x86_op_mmx_cvtpd2pi(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return to_mmx(cpu, insn, 16);
}
