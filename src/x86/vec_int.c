// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_int.c - the most used integer SIMD instructions, as vector expressions of the compiler.
 *
 * The rest of the integer instructions go through host stubs, see vec_stub.c.
 */
#include "fpu_int.h"
#include "insns.h"

typedef v2u64 (*lane_fn)(v2u64 a, v2u64 b);

/* dst = fn(first source, r/m), lane by lane. */
FPU_ALWAYS_INLINE int binary(struct x86_cpu *cpu, const struct x86_insn *insn, lane_fn fn)
{
	union vec buf, *dst = vec_reg(cpu, insn->reg);
	const union vec *a = vec_src1(cpu, insn), *b;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	if (insn->vl == 32) {
		v2u64 low = fn(a->lane[0], b->lane[0]);

		dst->lane[1] = fn(a->lane[1], b->lane[1]);
		dst->lane[0] = low;
	} else {
		dst->lane[0] = fn(a->lane[0], b->lane[0]);
	}
	vec_clear_upper(cpu, insn, insn->reg);
	return X86_NEXT;
}

#define BINARY(name, type, expr)                                                                   \
	FPU_ALWAYS_INLINE v2u64 lane_##name(v2u64 va, v2u64 vb)                                    \
	{                                                                                          \
		type a = (type)va, b = (type)vb;                                                   \
                                                                                                   \
		return (v2u64)(expr);                                                              \
	}                                                                                          \
	int x86_op_vec_##name(struct x86_cpu *cpu, const struct x86_insn *insn)                    \
	{                                                                                          \
		return binary(cpu, insn, lane_##name);                                             \
	}

BINARY(pand, v2u64, a & b)
BINARY(pandn, v2u64, ~a & b)
BINARY(por, v2u64, a | b)
BINARY(pxor, v2u64, a ^ b)
BINARY(paddb, v16u8, a + b)
BINARY(paddw, v8u16, a + b)
BINARY(paddd, v4u32, a + b)
BINARY(paddq, v2u64, a + b)
BINARY(psubb, v16u8, a - b)
BINARY(psubw, v8u16, a - b)
BINARY(psubd, v4u32, a - b)
BINARY(psubq, v2u64, a - b)
BINARY(pcmpeqb, v16u8, a == b)
BINARY(pcmpeqw, v8u16, a == b)
BINARY(pcmpeqd, v4u32, a == b)
BINARY(pcmpgtb, v16i8, a > b)
BINARY(pcmpgtw, v8i16, a > b)
BINARY(pcmpgtd, v4i32, a > b)
BINARY(pminub, v16u8, ((v16u8)(a < b) & a) | (~(v16u8)(a < b) & b))
BINARY(pmaxub, v16u8, ((v16u8)(a > b) & a) | (~(v16u8)(a > b) & b))
BINARY(punpcklbw, v16u8, __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21,
						 6, 22, 7, 23))
BINARY(punpckhbw, v16u8, __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13,
						 29, 14, 30, 15, 31))
BINARY(punpcklwd, v8u16, __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11))
BINARY(punpckhwd, v8u16, __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15))
BINARY(punpckldq, v4u32, __builtin_shufflevector(a, b, 0, 4, 1, 5))
BINARY(punpckhdq, v4u32, __builtin_shufflevector(a, b, 2, 6, 3, 7))
BINARY(punpcklqdq, v2u64, __builtin_shufflevector(a, b, 0, 2))
BINARY(punpckhqdq, v2u64, __builtin_shufflevector(a, b, 1, 3))

/* PTEST: ZF tells that no bit is common, CF that no bit of the source is missing in the destination. */
static void set_test_flags(struct x86_cpu *cpu, bool zf, bool cf)
{
	cpu->s.rflags &= ~(uint64_t)X86_FL_STATUS;
	cpu->s.rflags |= (zf ? X86_FL_ZF : 0) | (cf ? X86_FL_CF : 0);
}

FPU_ALWAYS_INLINE int test(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t mask)
{
	const union vec *a = vec_reg(cpu, insn->reg), *b;
	uint64_t both = 0, missing = 0;
	union vec buf;
	unsigned i;

	if (vec_check(cpu, insn) || vec_load(cpu, insn, &buf, insn->vl, &b))
		return X86_FAULT;
	for (i = 0; i < insn->vl / 8u; i++) {
		both |= a->u64[i] & b->u64[i] & mask;
		missing |= ~a->u64[i] & b->u64[i] & mask;
	}
	set_test_flags(cpu, !both, !missing);
	return X86_NEXT;
}

int x86_op_vec_ptest(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return test(cpu, insn, ~0ull);
}

int x86_op_vec_testps(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return test(cpu, insn, 0x8000000080000000ull);
}

int x86_op_vec_testpd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return test(cpu, insn, 0x8000000000000000ull);
}
