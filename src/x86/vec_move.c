// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_move.c - SSE and AVX moves between registers and memory.
 *
 * One handler serves the legacy and the VEX encoding: insn->vl is 16 for legacy ones, and
 * vec_clear_upper() does what the encoding asks for.
 */
#include "fpu_int.h"
#include "insns.h"

FPU_ALWAYS_INLINE void copy(void *dst, const void *src, unsigned len)
{
	memcpy(dst, src, 16);
	if (len == 32)
		memcpy((uint8_t *)dst + 16, (const uint8_t *)src + 16, 16);
}

FPU_ALWAYS_INLINE int load(struct x86_cpu *cpu, const struct x86_insn *insn, bool aligned)
{
	union vec buf;
	const union vec *src = &buf;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (!vec_is_mem(insn))
		src = vec_reg(cpu, insn->rm);
	else if (insn->vl == 32 ? vec_read(cpu, insn, &buf, 32, aligned ? 32 : 1) :
				  vec_read(cpu, insn, &buf, 16, aligned ? 16 : 1))
		return X86_FAULT;
	copy(vec_reg(cpu, insn->reg), src, insn->vl);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_load(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, false);
}

int x86_op_vec_load_a(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, true);
}

FPU_ALWAYS_INLINE int store(struct x86_cpu *cpu, const struct x86_insn *insn, bool aligned)
{
	const union vec *src = vec_reg(cpu, insn->reg);

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (!vec_is_mem(insn)) {
		copy(vec_reg(cpu, insn->rm), src, insn->vl);
		vec_clear_upper(cpu, insn, insn->rm);
		return X86_NEXT;
	}
	if (insn->vl == 32)
		return vec_write(cpu, insn, src, 32, aligned ? 32 : 1);
	return vec_write(cpu, insn, src, 16, aligned ? 16 : 1);
}

int x86_op_vec_store(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, false);
}

int x86_op_vec_store_a(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, true);
}

/* MOVSS, MOVSD, MOVQ, MOVD from memory: the rest of the 128 bits becomes zero. */
FPU_ALWAYS_INLINE int load_low(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned len)
{
	v2u64 v = { 0, 0 };

	if (vec_check(cpu, insn) || vec_read(cpu, insn, &v, len, 1))
		return X86_FAULT;
	vec_reg(cpu, insn->reg)->lane[0] = v;
	vec_clear_upper_scalar(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_load4_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load_low(cpu, insn, 4);
}

int x86_op_vec_load8_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load_low(cpu, insn, 8);
}

int x86_op_vec_store4_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return vec_write(cpu, insn, vec_reg(cpu, insn->reg), 4, 1);
}

int x86_op_vec_store8_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return vec_write(cpu, insn, vec_reg(cpu, insn->reg), 8, 1);
}

/* MOVSS and MOVSD between registers merge the low element into the first source. */
FPU_ALWAYS_INLINE int merge_low(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned dst,
				unsigned low, unsigned len)
{
	v2u64 v;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	v = vec_reg(cpu, insn->flags & X86_INSN_VEX ? insn->vvvv : dst)->lane[0];
	memcpy(&v, vec_reg(cpu, low), len);
	vec_reg(cpu, dst)->lane[0] = v;
	vec_clear_upper_scalar(cpu, insn, dst);
	return X86_NEXT;
}

int x86_op_vec_load4_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return merge_low(cpu, insn, insn->reg, insn->rm, 4);
}

int x86_op_vec_load8_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return merge_low(cpu, insn, insn->reg, insn->rm, 8);
}

int x86_op_vec_store4_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return merge_low(cpu, insn, insn->rm, insn->reg, 4);
}

int x86_op_vec_store8_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return merge_low(cpu, insn, insn->rm, insn->reg, 8);
}

/* MOVQ xmm, xmm: unlike MOVSD it clears the upper half. */
FPU_ALWAYS_INLINE int movq_reg(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned dst,
			       unsigned src)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	vec_reg(cpu, dst)->lane[0] = (v2u64){ vec_reg(cpu, src)->u64[0], 0 };
	vec_clear_upper(cpu, insn, dst);
	return X86_NEXT;
}

int x86_op_vec_movq_load_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return movq_reg(cpu, insn, insn->reg, insn->rm);
}

int x86_op_vec_movq_store_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return movq_reg(cpu, insn, insn->rm, insn->reg);
}

int x86_op_vec_movq_load_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load_low(cpu, insn, 8);
}

int x86_op_vec_movq_store_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_op_vec_store8_m(cpu, insn);
}

/* MOVD/MOVQ xmm, r/m32 or r/m64: the size is REX.W's, the 66 prefix is part of the opcode. */
int x86_op_vec_movd_load(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	bool wide = insn->opsize == 8;
	uint64_t v = cpu->s.gpr[insn->rm];

	if (vec_is_mem(insn))
		return wide ? load_low(cpu, insn, 8) : load_low(cpu, insn, 4);
	if (vec_check(cpu, insn))
		return X86_FAULT;
	vec_reg(cpu, insn->reg)->lane[0] = (v2u64){ wide ? v : (uint32_t)v, 0 };
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_movd_store(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned len = insn->opsize == 8 ? 8 : 4;
	const union vec *src = vec_reg(cpu, insn->reg);

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (vec_is_mem(insn))
		return vec_write(cpu, insn, src, len, 1);
	cpu->s.gpr[insn->rm] = len == 8 ? src->u64[0] : src->u32[0];
	return X86_NEXT;
}

/* One half is replaced, the other comes from the first source. */
FPU_ALWAYS_INLINE int set_half(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned half,
			       uint64_t value)
{
	uint64_t other = vec_src1(cpu, insn)->u64[!half];
	union vec *dst = vec_reg(cpu, insn->reg);

	dst->u64[half] = value;
	dst->u64[!half] = other;
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* MOVLPS, MOVLPD from memory; the register form of MOVLPS is MOVHLPS. */
int x86_op_vec_movlp_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v;

	if (vec_check(cpu, insn) || vec_read(cpu, insn, &v, 8, 1))
		return X86_FAULT;
	return set_half(cpu, insn, 0, v);
}

int x86_op_vec_movlp_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return set_half(cpu, insn, 0, vec_reg(cpu, insn->rm)->u64[1]);
}

int x86_op_vec_movhp_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t v;

	if (vec_check(cpu, insn) || vec_read(cpu, insn, &v, 8, 1))
		return X86_FAULT;
	return set_half(cpu, insn, 1, v);
}

int x86_op_vec_movhp_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return set_half(cpu, insn, 1, vec_reg(cpu, insn->rm)->u64[0]);
}

int x86_op_vec_movhp_store(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	return vec_write(cpu, insn, &vec_reg(cpu, insn->reg)->u64[1], 8, 1);
}

int x86_op_vec_movddup(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, out = { 0 };
	const union vec *src;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl == 32 ? 32 : 8, &src))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++)
		out.u64[i] = src->u64[i & ~1u];
	copy(vec_reg(cpu, insn->reg), &out, insn->vl);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int movxdup(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned odd)
{
	union vec buf, out = { 0 };
	const union vec *src;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &src))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 4u; i++)
		out.u32[i] = src->u32[(i & ~1u) | odd];
	copy(vec_reg(cpu, insn->reg), &out, insn->vl);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_movsldup(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return movxdup(cpu, insn, 0);
}

int x86_op_vec_movshdup(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return movxdup(cpu, insn, 1);
}

/* One bit per element, taken from its sign. */
int x86_op_vec_pmovmskb(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *src = vec_reg(cpu, insn->rm);
	uint64_t mask;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	mask = (uint16_t)__builtin_ia32_pmovmskb128(*(const v16char *)&src->lane[0]);
	if (insn->vl == 32)
		mask |= (uint64_t)(uint16_t)__builtin_ia32_pmovmskb128(
				*(const v16char *)&src->lane[1]) << 16;
	cpu->s.gpr[insn->reg] = mask;
	return X86_NEXT;
}

int x86_op_vec_movmskps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *src = vec_reg(cpu, insn->rm);
	uint64_t mask = 0;
	unsigned i;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 4u; i++)
		mask |= (uint64_t)(src->u32[i] >> 31) << i;
	cpu->s.gpr[insn->reg] = mask;
	return X86_NEXT;
}

int x86_op_vec_movmskpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *src = vec_reg(cpu, insn->rm);
	uint64_t mask = 0;
	unsigned i;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++)
		mask |= (src->u64[i] >> 63) << i;
	cpu->s.gpr[insn->reg] = mask;
	return X86_NEXT;
}

/* Bytes whose mask has the sign bit set go to DS:rDI. Bytes not selected are neither written nor
 * checked. */
int x86_op_vec_maskmovdqu(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *src = vec_reg(cpu, insn->reg), *mask = vec_reg(cpu, insn->rm);
	uint64_t wrap = insn->adsize == 8 ? ~0ull : insn->adsize == 4 ? 0xffffffffull : 0xffffull;
	uint64_t off = cpu->s.gpr[X86_RDI];
	unsigned i, pass;

	if (vec_check(cpu, insn) || vec_check_mask_store(cpu, insn, 8))
		return X86_FAULT;
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < 16; i++) {
			if (!(mask->u8[i] & 0x80))
				continue;
			if (pass == 0 && x86_probe_write(cpu, insn->seg, (off + i) & wrap, 1))
				return X86_FAULT;
			if (pass == 1 &&
			    x86_write(cpu, insn->seg, (off + i) & wrap, &src->u8[i], 1))
				return X86_FAULT;
		}
	}
	return X86_NEXT;
}
