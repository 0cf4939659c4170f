// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_shuffle.c - shuffles, blends, inserts and extracts within 128-bit lanes.
 *
 * Each is a choice of elements by an immediate, simpler in C than as 256 stubs.
 */
#include "fpu_int.h"
#include "insns.h"

#define LANE_COUNT(insn) ((insn)->vl / 16u)

static int finish(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned reg,
		  const union vec *value)
{
	memcpy(vec_reg(cpu, reg), value, insn->vl);
	vec_clear_upper(cpu, insn, reg);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE v2u64 choose(const uint32_t *src, unsigned imm)
{
	return (v2u64)(v4u32){ src[imm & 3], src[imm >> 2 & 3], src[imm >> 4 & 3],
			       src[imm >> 6 & 3] };
}

/* PSHUFD; VPERMILPS by immediate is the same choice. */
int x86_op_vec_pshufd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, *dst = vec_reg(cpu, insn->reg);
	const union vec *src;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &src))
		return X86_FAULT;
	dst->lane[0] = choose(&src->u32[0], insn->imm);
	if (insn->vl == 32)
		dst->lane[1] = choose(&src->u32[4], insn->imm);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* PSHUFLW and PSHUFHW: four words of each lane from @first on are chosen, the others are copied. */
FPU_ALWAYS_INLINE int shuffle_words(struct x86_cpu *cpu, const struct x86_insn *insn,
				    unsigned first)
{
	union vec buf, out = { 0 };
	const union vec *src;
	unsigned lane, i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &src))
		return X86_FAULT;
	memcpy(&out, src, insn->vl);
	for (lane = 0; lane < LANE_COUNT(insn); lane++)
		for (i = 0; i < 4; i++)
			out.u16[lane * 8 + first + i] =
				src->u16[lane * 8 + first + (insn->imm >> i * 2 & 3)];
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_pshuflw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return shuffle_words(cpu, insn, 0);
}

int x86_op_vec_pshufhw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return shuffle_words(cpu, insn, 4);
}

int x86_op_vec_shufps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 4u; i++)
		out.u32[i] = (i & 2 ? b : a)->u32[(i & ~3u) | (insn->imm >> (i & 3) * 2 & 3)];
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_shufpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++)
		out.u64[i] = (i & 1 ? b : a)->u64[(i & ~1u) | (insn->imm >> i & 1)];
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_permilpd_imm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, out = { 0 };
	const union vec *src;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &src))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++)
		out.u64[i] = src->u64[(i & ~1u) | (insn->imm >> i & 1)];
	return finish(cpu, insn, insn->reg, &out);
}

/* Variable VPERMILPS, VPERMILPD: control in the second source; PD takes its bit 1. */
int x86_op_vec_permilps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 4u; i++)
		out.u32[i] = a->u32[(i & ~3u) | (b->u32[i] & 3)];
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_permilpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++)
		out.u64[i] = a->u64[(i & ~1u) | (b->u64[i] >> 1 & 1)];
	return finish(cpu, insn, insn->reg, &out);
}

/* Sixteen bytes out of first source : r/m, @imm bytes up; zeros come in from above. */
int x86_op_vec_palignr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	unsigned lane, shift = insn->imm & 0xff;
	uint8_t both[64] = { 0 };
	union vec buf, out = { 0 };

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (lane = 0; lane < LANE_COUNT(insn); lane++) {
		memcpy(both, &b->lane[lane], 16);
		memcpy(both + 16, &a->lane[lane], 16);
		memcpy(&out.lane[lane], both + (shift < 32 ? shift : 32), 16);
	}
	return finish(cpu, insn, insn->reg, &out);
}

/* PSLLDQ and PSRLDQ: the VEX forms write VEX.vvvv. */
FPU_ALWAYS_INLINE int shift_bytes(struct x86_cpu *cpu, const struct x86_insn *insn, bool left)
{
	unsigned dst = insn->flags & X86_INSN_VEX ? insn->vvvv : insn->rm;
	const union vec *src = vec_reg(cpu, insn->rm);
	unsigned lane, n = (insn->imm & 0xff) < 16 ? insn->imm & 0xff : 16;
	union vec out = { 0 };

	if (vec_check(cpu, insn))
		return X86_FAULT;
	for (lane = 0; lane < LANE_COUNT(insn); lane++) {
		uint8_t wide[48] = { 0 };

		memcpy(wide + 16, &src->lane[lane], 16);
		memcpy(&out.lane[lane], wide + (left ? 16 - n : 16 + n), 16);
	}
	return finish(cpu, insn, dst, &out);
}

int x86_op_vec_pslldq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return shift_bytes(cpu, insn, true);
}

int x86_op_vec_psrldq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return shift_bytes(cpu, insn, false);
}

/* Elements of @size bytes whose bit of @mask is set come from r/m. */
FPU_ALWAYS_INLINE int blend(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size,
			    unsigned mask_period)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / size; i++)
		memcpy(&out.u8[i * size],
		       &(insn->imm >> i % mask_period & 1 ? b : a)->u8[i * size], size);
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_blendps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend(cpu, insn, 4, 8);
}

int x86_op_vec_blendpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend(cpu, insn, 8, 8);
}

int x86_op_vec_pblendw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend(cpu, insn, 2, 8);
}

/* Blends by the sign of each element of XMM0, or of the register in imm[7:4]. */
FPU_ALWAYS_INLINE int blend_variable(struct x86_cpu *cpu, const struct x86_insn *insn,
				     unsigned size)
{
	unsigned limit = cpu->code_bytes == 8 ? 15 : 7;
	const union vec *a = vec_src1(cpu, insn), *b;
	const union vec *mask = vec_reg(cpu, insn->flags & X86_INSN_VEX ?
					     insn->imm >> 4 & limit : 0);
	union vec buf, out = { 0 };
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl; i += size)
		memcpy(&out.u8[i], &(mask->u8[i + size - 1] & 0x80 ? b : a)->u8[i], size);
	return finish(cpu, insn, insn->reg, &out);
}

int x86_op_vec_pblendvb(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend_variable(cpu, insn, 1);
}

int x86_op_vec_blendvps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend_variable(cpu, insn, 4);
}

int x86_op_vec_blendvpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return blend_variable(cpu, insn, 8);
}

/* PINSRB, PINSRW, PINSRD, PINSRQ: one element from a general register or memory. */
FPU_ALWAYS_INLINE int insert(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	union vec out = { 0 };
	uint64_t v;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	v = cpu->s.gpr[insn->rm];
	if (vec_is_mem(insn) && x86_load_rm(cpu, insn, &v, size))
		return X86_FAULT;
	out.lane[0] = vec_src1(cpu, insn)->lane[0];
	memcpy(&out.u8[(insn->imm * size) & 15], &v, size);
	vec_reg(cpu, insn->reg)->lane[0] = out.lane[0];
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_pinsrb(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return insert(cpu, insn, 1);
}

int x86_op_vec_pinsrw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return insert(cpu, insn, 2);
}

int x86_op_vec_pinsrd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return insert(cpu, insn, insn->opsize);
}

/* PEXTRx to r/m: a register is zero-extended. */
FPU_ALWAYS_INLINE int extract(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	uint64_t v = 0;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	memcpy(&v, &vec_reg(cpu, insn->reg)->u8[(insn->imm * size) & 15], size);
	if (vec_is_mem(insn))
		return x86_store_rm(cpu, insn, &v, size);
	cpu->s.gpr[insn->rm] = v;
	return X86_NEXT;
}

int x86_op_vec_pextrb(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extract(cpu, insn, 1);
}

int x86_op_vec_pextrw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extract(cpu, insn, 2);
}

int x86_op_vec_pextrd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extract(cpu, insn, insn->opsize);
}

int x86_op_vec_extractps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extract(cpu, insn, 4);
}

/* The SSE2 form of PEXTRW has its destination in ModRM.reg. */
int x86_op_vec_pextrw_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (vec_check(cpu, insn))
		return X86_FAULT;
	cpu->s.gpr[insn->reg] = vec_reg(cpu, insn->rm)->u16[insn->imm & 7];
	return X86_NEXT;
}

/* imm: source element in 7:6 (registers only), place in 5:4, elements to clear in 3:0. */
int x86_op_vec_insertps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec out = { 0 };
	uint32_t v;
	unsigned i;

	if (vec_check(cpu, insn))
		return X86_FAULT;
	if (!vec_is_mem(insn))
		v = vec_reg(cpu, insn->rm)->u32[insn->imm >> 6 & 3];
	else if (x86_load_rm(cpu, insn, &v, 4))
		return X86_FAULT;
	out.lane[0] = vec_src1(cpu, insn)->lane[0];
	out.u32[insn->imm >> 4 & 3] = v;
	for (i = 0; i < 4; i++)
		if (insn->imm >> i & 1)
			out.u32[i] = 0;
	vec_reg(cpu, insn->reg)->lane[0] = out.lane[0];
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* Eight sums of absolute differences per lane; the high lane has its own three bits of imm. */
int x86_op_vec_mpsadbw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const union vec *a = vec_src1(cpu, insn), *b;
	union vec buf, out = { 0 };
	unsigned lane, i, k;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (lane = 0; lane < LANE_COUNT(insn); lane++) {
		unsigned control = insn->imm >> lane * 3 & 7;
		const uint8_t *pa = &a->u8[lane * 16 + (control >> 2) * 4];
		const uint8_t *pb = &b->u8[lane * 16 + (control & 3) * 4];

		for (i = 0; i < 8; i++) {
			unsigned sum = 0;

			for (k = 0; k < 4; k++)
				sum += pa[i + k] > pb[k] ? pa[i + k] - pb[k] : pb[k] - pa[i + k];
			out.u16[lane * 8 + i] = sum;
		}
	}
	return finish(cpu, insn, insn->reg, &out);
}
