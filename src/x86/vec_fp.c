// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_fp.c - SSE, AVX and FMA floating point, on the host's own unit.
 *
 * Each handler: check, load, compute into a buffer between fpu_begin() and fpu_end(), and store only
 * when no unmasked exception came up. `check` says which results can underflow: with underflow
 * unmasked, a denormal result is reported even when it is exact.
 */
#include "fpu_int.h"
#include "insns.h"

enum check { CHECK_NONE, CHECK_PS, CHECK_PD, CHECK_SS, CHECK_SD };

static bool tiny32(uint32_t v)
{
	return !(v & 0x7f800000u) && (v & 0x007fffffu);
}

static bool tiny64(uint64_t v)
{
	return !(v & 0x7ff0000000000000ull) && (v & 0x000fffffffffffffull);
}

static bool has_tiny(const union vec *v, enum check check, unsigned len)
{
	unsigned i;

	switch (check) {
	case CHECK_NONE:
		return false;
	case CHECK_SS:
		return tiny32(v->u32[0]);
	case CHECK_SD:
		return tiny64(v->u64[0]);
	case CHECK_PS:
		for (i = 0; i < len / 4; i++)
			if (tiny32(v->u32[i]))
				return true;
		return false;
	case CHECK_PD:
		for (i = 0; i < len / 8; i++)
			if (tiny64(v->u64[i]))
				return true;
		return false;
	}
	return false;
}

FPU_ALWAYS_INLINE int finish(struct x86_cpu *cpu, const struct x86_insn *insn, struct fpu_op *op,
			     const union vec *out, enum check check, unsigned len)
{
	union vec *dst = vec_reg(cpu, insn->reg);

	if (check != CHECK_NONE && (cpu->s.fpu.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)
		op->tiny = has_tiny(out, check, len);
	if (fpu_end(cpu, op))
		return X86_FAULT;
	dst->lane[0] = out->lane[0];
	if (insn->vl == 32)
		dst->lane[1] = out->lane[1];
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int packed(struct x86_cpu *cpu, const struct x86_insn *insn, enum check check)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	vec_stub_fn fn = vec_stub(insn, insn->imm);
	struct fpu_op op;
	union vec buf, out = { 0 };

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	fn(&out.lane[0], &a->lane[0], &b->lane[0], 0);
	if (insn->vl == 32)
		fn(&out.lane[1], &a->lane[1], &b->lane[1], 0);
	return finish(cpu, insn, &op, &out, check, insn->vl);
}

int x86_op_fp_x(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return packed(cpu, insn, CHECK_NONE);
}

int x86_op_fp_ps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return packed(cpu, insn, CHECK_PS);
}

int x86_op_fp_pd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return packed(cpu, insn, CHECK_PD);
}

/* The low element of the r/m operand, from a register or @size bytes of memory. */
FPU_ALWAYS_INLINE int load_scalar(struct x86_cpu *cpu, const struct x86_insn *insn, union vec *b,
				  unsigned size)
{
	b->lane[0] = (v2u64){ 0, 0 };
	if (vec_is_mem(insn))
		return vec_read(cpu, insn, b, size, 1);
	b->lane[0] = vec_reg(cpu, insn->rm)->lane[0];
	return X86_NEXT;
}

/* Scalar operations keep the rest of the first source. VEX ones ignore the vector length. */
FPU_ALWAYS_INLINE int scalar(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			     enum check check)
{
	const union vec *a = vec_src1(cpu, insn);
	struct fpu_op op;
	union vec b, out = { 0 };

	if (vec_check(cpu, insn) || load_scalar(cpu, insn, &b, size))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	vec_stub(insn, insn->imm)(&out, a, &b, 0);
	return finish(cpu, insn, &op, &out, check, 16);
}

int x86_op_fp_x4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return scalar(cpu, insn, 4, CHECK_NONE);
}

int x86_op_fp_x8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return scalar(cpu, insn, 8, CHECK_NONE);
}

int x86_op_fp_ss(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return scalar(cpu, insn, 4, CHECK_SS);
}

int x86_op_fp_sd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return scalar(cpu, insn, 8, CHECK_SD);
}

int x86_op_fp_cvtsd2ss(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return scalar(cpu, insn, 8, CHECK_SS);
}

/* ---- FMA: the destination is an operand too ---- */

FPU_ALWAYS_INLINE int fma_packed(struct x86_cpu *cpu, const struct x86_insn *insn,
				 enum check check)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	vec_stub_fn fn = vec_stub(insn, 0);
	struct fpu_op op;
	union vec buf, out = { 0 };

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	memcpy(&out, vec_reg(cpu, insn->reg), 32);
	fpu_begin(cpu, &op);
	fn(&out.lane[0], &a->lane[0], &b->lane[0], 0);
	if (insn->vl == 32)
		fn(&out.lane[1], &a->lane[1], &b->lane[1], 0);
	return finish(cpu, insn, &op, &out, check, insn->vl);
}

int x86_op_fp_fma_ps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return fma_packed(cpu, insn, CHECK_PS);
}

int x86_op_fp_fma_pd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return fma_packed(cpu, insn, CHECK_PD);
}

FPU_ALWAYS_INLINE int fma_scalar(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
				 enum check check)
{
	const union vec *a = vec_src1(cpu, insn);
	struct fpu_op op;
	union vec b, out = { 0 };

	if (vec_check(cpu, insn) || load_scalar(cpu, insn, &b, size))
		return X86_FAULT;
	out.lane[0] = vec_reg(cpu, insn->reg)->lane[0];
	fpu_begin(cpu, &op);
	vec_stub(insn, 0)(&out, a, &b, 0);
	return finish(cpu, insn, &op, &out, check, 16);
}

int x86_op_fp_fma_ss(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return fma_scalar(cpu, insn, 4, CHECK_SS);
}

int x86_op_fp_fma_sd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return fma_scalar(cpu, insn, 8, CHECK_SD);
}

/* ---- compares that set flags ---- */

FPU_ALWAYS_INLINE int compare(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	const union vec *a = vec_reg(cpu, insn->reg);
	struct fpu_op op;
	uint64_t flags;
	union vec b;

	if (vec_check(cpu, insn) || load_scalar(cpu, insn, &b, size))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	flags = vec_stub(insn, 0)(NULL, a, &b, 0);
	if (fpu_end(cpu, &op))
		return X86_FAULT;
	cpu->s.rflags &= ~(uint64_t)X86_FL_STATUS;
	cpu->s.rflags |= flags & X86_FL_STATUS;
	return X86_NEXT;
}

int x86_op_fp_comi4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, 4);
}

int x86_op_fp_comi8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, 8);
}

/* ---- conversions ---- */

int x86_op_fp_from_gpr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool wide = insn->opsize == 8;
	const union vec *a = vec_src1(cpu, insn);
	uint64_t v = cpu->s.gpr[insn->rm];
	struct fpu_op op;
	union vec out = { 0 };

	if (vec_check(cpu, insn) ||
	    (vec_is_mem(insn) && vec_read(cpu, insn, &v, wide ? 8 : 4, 1)))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	vec_stub_variant(insn, wide)(&out, a, NULL, v);
	return finish(cpu, insn, &op, &out, CHECK_NONE, 16);
}

FPU_ALWAYS_INLINE int to_gpr(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	struct fpu_op op;
	uint64_t v;
	union vec b;

	if (vec_check(cpu, insn) || load_scalar(cpu, insn, &b, size))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	v = vec_stub_variant(insn, insn->opsize == 8)(NULL, NULL, &b, 0);
	if (fpu_end(cpu, &op))
		return X86_FAULT;
	cpu->s.gpr[insn->reg] = v;
	return X86_NEXT;
}

int x86_op_fp_to_gpr4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return to_gpr(cpu, insn, 4);
}

int x86_op_fp_to_gpr8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return to_gpr(cpu, insn, 8);
}

/* CVTPS2PD, CVTDQ2PD, VCVTPH2PS: 8 bytes of source make a lane. */
int x86_op_fp_widen(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	vec_stub_fn fn = vec_stub(insn, 0);
	union vec in = { 0 }, out = { 0 };
	unsigned len = insn->vl / 2;
	struct fpu_op op;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (!vec_is_mem(insn))
		memcpy(&in, vec_reg(cpu, insn->rm), len);
	else if (vec_read(cpu, insn, &in, len, 1))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	fn(&out.lane[0], &in, &in, 0);
	if (len == 16) {
		in.u64[0] = in.u64[1];
		fn(&out.lane[1], &in, &in, 0);
	}
	return finish(cpu, insn, &op, &out, CHECK_NONE, insn->vl);
}

/* CVTPD2PS, CVTPD2DQ, CVTTPD2DQ: a lane makes 8 bytes; the rest of the destination is zero. */
FPU_ALWAYS_INLINE int narrow(struct x86_cpu *cpu, const struct x86_insn *insn, enum check check)
{
	vec_stub_fn fn = vec_stub(insn, 0);
	union vec buf, high, out = { 0 };
	const union vec *b;
	struct fpu_op op;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	fn(&out.lane[0], &b->lane[0], &b->lane[0], 0);
	if (insn->vl == 32) {
		fn(&high, &b->lane[1], &b->lane[1], 0);
		out.u64[1] = high.u64[0];
		out.lane[1] = (v2u64){ 0, 0 };
	}
	return finish(cpu, insn, &op, &out, check, 16);
}

int x86_op_fp_narrow(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return narrow(cpu, insn, CHECK_NONE);
}

int x86_op_fp_narrow_ps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return narrow(cpu, insn, CHECK_PS);
}

/* VCVTPS2PH stores half of the vector length. MXCSR.FTZ does not apply to it, DAZ does. */
int x86_op_fp_cvtps2ph(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned len = insn->vl / 2, i;
	const union vec *src = vec_reg(cpu, insn->reg);
	vec_stub_fn fn = vec_stub(insn, insn->imm);
	union vec high, out = { 0 }, *dst;
	struct fpu_op op;

	if (vec_check(cpu, insn) ||
	    (vec_is_mem(insn) && x86_probe_write(cpu, insn->seg, x86_ea(cpu, insn), len)))
		return X86_FAULT;
	fpu_begin(cpu, &op);
	fn(&out, &src->lane[0], &src->lane[0], 0);
	if (len == 16) {
		fn(&high, &src->lane[1], &src->lane[1], 0);
		out.u64[1] = high.u64[0];
	}
	for (i = 0; i < len / 2; i++)
		if (!(out.u16[i] & 0x7c00) && (out.u16[i] & 0x3ff))
			op.tiny = true;
	if (fpu_end(cpu, &op))
		return X86_FAULT;
	if (vec_is_mem(insn))
		return x86_store_rm(cpu, insn, &out, len);
	dst = vec_reg(cpu, insn->rm);
	dst->lane[0] = out.lane[0];
	vec_clear_upper_scalar(cpu, insn, insn->rm);
	return X86_NEXT;
}
