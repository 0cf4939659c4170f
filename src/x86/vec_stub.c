// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* vec_stub.c - integer SIMD instructions that run as the host's own. */
#include "fpu_int.h"
#include "insns.h"

/* dst = op(first source, r/m), lane by lane; the r/m operand alone where the operation has one. */
int x86_op_vec_op(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, *dst = vec_reg(cpu, insn->reg);
	const union vec *a = vec_src1(cpu, insn), *b;
	vec_stub_fn fn = vec_stub(insn, insn->imm);

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	fn(&dst->lane[0], &a->lane[0], &b->lane[0], 0);
	if (insn->vl == 32)
		fn(&dst->lane[1], &a->lane[1], &b->lane[1], 0);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* The SHA instructions: AMD's processors do not ask for alignment; neither do we. */
int x86_op_vec_op_u(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec b, *dst = vec_reg(cpu, insn->reg);

	if (vec_check(cpu, insn))
		return X86_FAULT;
	b.lane[0] = vec_reg(cpu, insn->rm)->lane[0];
	if (vec_is_mem(insn) && vec_read(cpu, insn, &b, 16, 1))
		return X86_FAULT;
	vec_stub(insn, insn->imm)(dst, dst, &b, 0);
	return X86_NEXT;
}

/* imm bit 0 chooses the half of the first source, bit 4 that of the second. */
int x86_op_vec_pclmulqdq(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, a, b, *dst = vec_reg(cpu, insn->reg);
	const union vec *src;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 16, &src))
		return X86_FAULT;
	a.lane[0] = vec_src1(cpu, insn)->lane[0];
	b.lane[0] = src->lane[0];
	if (insn->imm & 1)
		a.u64[0] = a.u64[1];
	if (insn->imm & 16)
		b.u64[0] = b.u64[1];
	vec_stub(insn, 0)(&dst->lane[0], &a, &b, 0);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* The third operand is XMM0. */
int x86_op_vec_sha256rnds2(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec b, *dst = vec_reg(cpu, insn->reg);

	if (vec_check(cpu, insn))
		return X86_FAULT;
	b.lane[0] = vec_reg(cpu, insn->rm)->lane[0];
	if (vec_is_mem(insn) && vec_read(cpu, insn, &b, 16, 1))
		return X86_FAULT;
	vec_stub(insn, 0)(dst, dst, &b, (uintptr_t)vec_reg(cpu, 0));
	return X86_NEXT;
}

/* All elements shift by the same count, the low quadword of a 16-byte operand. */
int x86_op_vec_shift(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	union vec buf, count, *dst = vec_reg(cpu, insn->reg);
	const union vec *a = vec_src1(cpu, insn), *b;
	vec_stub_fn fn = vec_stub(insn, 0);

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, 16, &b))
		return X86_FAULT;
	count.lane[0] = b->lane[0]; /* may be the destination too */
	fn(&dst->lane[0], &a->lane[0], &count, 0);
	if (insn->vl == 32)
		fn(&dst->lane[1], &a->lane[1], &count, 0);
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

/* The VEX forms write VEX.vvvv. */
int x86_op_vec_shift_imm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned reg = insn->flags & X86_INSN_VEX ? insn->vvvv : insn->rm;
	union vec count, *dst = vec_reg(cpu, reg);
	const union vec *a = vec_reg(cpu, insn->rm);
	vec_stub_fn fn = vec_stub(insn, 0);

	if (vec_check(cpu, insn))
		return X86_FAULT;
	count.lane[0] = (v2u64){ insn->imm & 0xff, 0 };
	fn(&dst->lane[0], &a->lane[0], &count, 0);
	if (insn->vl == 32)
		fn(&dst->lane[1], &a->lane[1], &count, 0);
	vec_clear_upper(cpu, insn, reg);
	return X86_NEXT;
}

/* PMOVSX, PMOVZX: each lane of the result comes from @size bytes of the source. */
FPU_ALWAYS_INLINE int extend(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned size)
{
	union vec in, buf, *dst = vec_reg(cpu, insn->reg);
	vec_stub_fn fn = vec_stub(insn, 0);
	const union vec *src;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl / 16u * size, &src))
		return X86_FAULT;
	memset(&in, 0, sizeof(in));
	memcpy(&in, src, insn->vl / 16u * size);
	fn(&dst->lane[0], &in, &in, 0);
	if (insn->vl == 32) {
		in.u64[0] = size == 8 ? in.u64[1] : in.u64[0] >> size * 8;
		fn(&dst->lane[1], &in, &in, 0);
	}
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

int x86_op_vec_pmovx8(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extend(cpu, insn, 8);
}

int x86_op_vec_pmovx4(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extend(cpu, insn, 4);
}

int x86_op_vec_pmovx2(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return extend(cpu, insn, 2);
}

/* ---- PCMPxSTRx: SDM vol. 1, 12.10; lengths of the E forms in rAX and rDX, saturated ---- */

static uint32_t length(const struct x86_cpu *cpu, const struct x86_insn *insn, enum x86_gpr reg)
{
	int64_t v = (int64_t)cpu->s.gpr[reg];

	if (!(insn->flags & X86_INSN_W) || cpu->code_bytes != 8)
		return (uint32_t)v;
	if (v > 16 || v < -16)
		v = 16;
	return (uint32_t)v;
}

static int compare_strings(struct x86_cpu *cpu, const struct x86_insn *insn, bool gives_index)
{
	uint64_t lengths = length(cpu, insn, X86_RAX) |
			   (uint64_t)length(cpu, insn, X86_RDX) << 32;
	union vec buf, out;
	const union vec *b;
	uint64_t r;

	/* Unaligned in the legacy encoding too. */
	if (vec_check(cpu, insn))
		return X86_FAULT;
	b = vec_reg(cpu, insn->rm);
	if (vec_is_mem(insn)) {
		b = &buf;
		if (x86_load_rm(cpu, insn, &buf, 16))
			return X86_FAULT;
	}
	r = vec_stub(insn, insn->imm)(&out, vec_reg(cpu, insn->reg), b, lengths);
	cpu->s.rflags &= ~(uint64_t)X86_FL_STATUS;
	cpu->s.rflags |= r >> 32 & X86_FL_STATUS;
	if (gives_index) {
		cpu->s.gpr[X86_RCX] = (uint32_t)r;
	} else {
		vec_reg(cpu, 0)->lane[0] = out.lane[0];
		vec_clear_upper(cpu, insn, 0);
	}
	return X86_NEXT;
}

int x86_op_vec_pcmpestri(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare_strings(cpu, insn, true);
}

int x86_op_vec_pcmpestrm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare_strings(cpu, insn, false);
}

int x86_op_vec_pcmpistri(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare_strings(cpu, insn, true);
}

int x86_op_vec_pcmpistrm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare_strings(cpu, insn, false);
}
