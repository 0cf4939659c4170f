// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_mul.c - MUL IMUL DIV IDIV, and the decimal adjustments. */
#include "insns.h"
#include "operand.h"

/* ---- multiplication ---- */

/* RDX:RAX, or AX, = RAX * src. */
#define MUL_1(name, op)                                                                            \
	static int name##_by1(struct x86_cpu *cpu, uint8_t s)                                      \
	{                                                                                          \
		uint64_t save = (uint8_t)cpu->s.gpr[X86_RAX];                                      \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__(X86_FL_LOAD "movl %k[save], %%eax\n\t" op "b %[s]\n\t"                      \
			"movl %%eax, %k[save]\n\t" X86_FL_SAVE                                     \
			: "+&a"(ax), [save] "+&r"(save)                                            \
			: [s] "r"(s)                                                               \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_2(cpu, X86_RAX, (uint16_t)save);                                           \
		return X86_NEXT;                                                                   \
	}

#define MUL_WIDE(S, name, op)                                                                      \
	static int name##_by##S(struct x86_cpu *cpu, X86_T(S) s)                                   \
	{                                                                                          \
		uint64_t low = cpu->s.gpr[X86_RAX], high;                                          \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__(X86_FL_LOAD "movq %[low], %%rax\n\t" op X86_SFX_##S " %[s]\n\t"            \
			"movq %%rax, %[low]\n\t" X86_FL_SAVE                                       \
			: "+&a"(ax), [low] "+&r"(low), "=&d"(high)                                 \
			: [s] "r"(s)                                                               \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_##S(cpu, X86_RAX, (X86_T(S))low);                                          \
		x86_set_##S(cpu, X86_RDX, (X86_T(S))high);                                         \
		return X86_NEXT;                                                                   \
	}

MUL_1(mul, "mul")
MUL_1(imul, "imul")
X86_EACH_WIDE(MUL_WIDE, mul, "mul")
X86_EACH_WIDE(MUL_WIDE, imul, "imul")

#define IMUL(S, dst, src)                                                                          \
	do {                                                                                       \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__(X86_FL_LOAD "imul" X86_SFX_##S " %2, %0\n\t" X86_FL_SAVE                   \
			: "+&r"(dst), "+&a"(ax)                                                    \
			: "r"(src)                                                                 \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

#define IMUL_FORM(S, form, first, mem)                                                             \
	X86_HANDLER(imul_g##mem##form##S)                                                          \
	{                                                                                          \
		X86_T(S) d = first, s;                                                             \
                                                                                                   \
		IMUL_LOAD_##mem(S);                                                                \
		IMUL(S, d, s);                                                                     \
		x86_set_reg_##S(cpu, insn, d);                                                     \
		return X86_NEXT;                                                                   \
	}
#define IMUL_LOAD_r(S) s = x86_rm_##S(cpu, insn)
#define IMUL_LOAD_m(S)                                                                             \
	if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                                     \
	return X86_FAULT

#define IMUL_SIZE(S, unused)                                                                       \
	IMUL_FORM(S, , x86_reg_##S(cpu, insn), r)                                                  \
	IMUL_FORM(S, , x86_reg_##S(cpu, insn), m)                                                  \
	IMUL_FORM(S, i, (X86_T(S))insn->imm, r)                                                    \
	IMUL_FORM(S, i, (X86_T(S))insn->imm, m)
X86_EACH_WIDE(IMUL_SIZE, )

/* ---- division ----
 * Done on magnitudes, so that a quotient out of range is seen before anything can trap. */

struct quotient {
	uint64_t q, r;
};

/* @high:@low / @divisor where high < divisor. */
static struct quotient divide(uint64_t high, uint64_t low, uint64_t divisor)
{
	struct quotient ret;

	__asm__("divq %4" : "=a"(ret.q), "=d"(ret.r) : "0"(low), "1"(high), "r"(divisor) : "cc");
	return ret;
}

static uint64_t size_mask(unsigned size)
{
	return ~(uint64_t)0 >> (64 - size * 8);
}

/* The dividend of an operation of @size is 2 * size bytes: high in the low half of @high. */
static void get_dividend(const struct x86_cpu *cpu, unsigned size, uint64_t *high, uint64_t *low)
{
	if (size == 1) {
		*high = cpu->s.gpr[X86_RAX] >> 8 & 0xff;
		*low = cpu->s.gpr[X86_RAX] & 0xff;
		return;
	}
	*high = cpu->s.gpr[X86_RDX] & size_mask(size);
	*low = cpu->s.gpr[X86_RAX] & size_mask(size);
}

static void set_quotient(struct x86_cpu *cpu, unsigned size, struct quotient v)
{
	if (size == 1) {
		x86_set_2(cpu, X86_RAX, (uint16_t)((v.q & 0xff) | (v.r & 0xff) << 8));
		return;
	}
	x86_set_sized(cpu, X86_RAX, size, v.q);
	x86_set_sized(cpu, X86_RDX, size, v.r);
}

static int div_by(struct x86_cpu *cpu, unsigned size, uint64_t divisor)
{
	unsigned bits = size * 8;
	uint64_t high, low;

	get_dividend(cpu, size, &high, &low);
	if (high >= divisor) /* zero, too */
		return x86_raise(cpu, X86_DE);
	if (size == 8)
		set_quotient(cpu, size, divide(high, low, divisor));
	else
		set_quotient(cpu, size, divide(0, high << bits | low, divisor));
	return X86_NEXT;
}

static int idiv_by(struct x86_cpu *cpu, unsigned size, uint64_t divisor)
{
	unsigned bits = size * 8;
	uint64_t sign = (uint64_t)1 << (bits - 1), mask = size_mask(size), high, low, limit;
	bool negative, flip;
	struct quotient v;

	get_dividend(cpu, size, &high, &low);
	negative = high & sign;
	flip = negative != !!(divisor & sign);
	if (negative) {
		low = -low & mask;
		high = (~high + !low) & mask;
	}
	if (divisor & sign)
		divisor = -divisor & mask;
	if (high >= divisor)
		return x86_raise(cpu, X86_DE);
	v = size == 8 ? divide(high, low, divisor) : divide(0, high << bits | low, divisor);
	limit = flip ? sign : sign - 1;
	if (v.q > limit)
		return x86_raise(cpu, X86_DE);
	if (flip)
		v.q = -v.q;
	if (negative)
		v.r = -v.r;
	set_quotient(cpu, size, v);
	return X86_NEXT;
}

#define DIV_SIZE(S, name)                                                                          \
	static int name##_by##S(struct x86_cpu *cpu, X86_T(S) s)                                   \
	{                                                                                          \
		return name##_by(cpu, S, s);                                                       \
	}
X86_EACH_SIZE(DIV_SIZE, div)
X86_EACH_SIZE(DIV_SIZE, idiv)

#define GROUP3(S, name)                                                                            \
	X86_HANDLER(name##_r##S)                                                                   \
	{                                                                                          \
		return name##_by##S(cpu, x86_rm_##S(cpu, insn));                                   \
	}                                                                                          \
	X86_HANDLER(name##_m##S)                                                                   \
	{                                                                                          \
		X86_T(S) s;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		return name##_by##S(cpu, s);                                                       \
	}
X86_EACH_SIZE(GROUP3, mul)
X86_EACH_SIZE(GROUP3, imul)
X86_EACH_SIZE(GROUP3, div)
X86_EACH_SIZE(GROUP3, idiv)

/* ---- decimal: the pseudo-code of SDM vol. 2. Undefined flags are left alone. ---- */

static bool even_parity(uint8_t v)
{
	v ^= v >> 4;
	return !(0x6996 >> (v & 15) & 1);
}

static uint64_t szp_flags(uint8_t v)
{
	return (v & 0x80 ? X86_FL_SF : 0) | (v ? 0 : X86_FL_ZF) | (even_parity(v) ? X86_FL_PF : 0);
}

#define SZP_FLAGS (X86_FL_SF | X86_FL_ZF | X86_FL_PF)

static int decimal_adjust(struct x86_cpu *cpu, bool subtract)
{
	uint8_t al = (uint8_t)cpu->s.gpr[X86_RAX], old = al;
	bool cf = cpu->s.rflags & X86_FL_CF, af = cpu->s.rflags & X86_FL_AF, carry = false;

	if ((al & 15) > 9 || af) {
		carry = cf || (subtract ? al < 6 : al > 0xff - 6);
		al = subtract ? al - 6 : al + 6;
		af = true;
	}
	if (old > 0x99 || cf) {
		al = subtract ? al - 0x60 : al + 0x60;
		carry = true;
	}
	x86_set_1(cpu, X86_RAX, al);
	x86_flags_set(cpu, SZP_FLAGS | X86_FL_CF | X86_FL_AF,
		      szp_flags(al) | (carry ? X86_FL_CF : 0) | (af ? X86_FL_AF : 0));
	return X86_NEXT;
}

X86_HANDLER(daa)
{
	return decimal_adjust(cpu, false);
}

X86_HANDLER(das)
{
	return decimal_adjust(cpu, true);
}

static int ascii_adjust(struct x86_cpu *cpu, int by)
{
	uint16_t ax = (uint16_t)cpu->s.gpr[X86_RAX];
	bool adjust = (ax & 15) > 9 || cpu->s.rflags & X86_FL_AF;

	if (adjust)
		ax += by;
	x86_set_2(cpu, X86_RAX, ax & 0xff0f);
	x86_flags_set(cpu, X86_FL_CF | X86_FL_AF, adjust ? X86_FL_CF | X86_FL_AF : 0);
	return X86_NEXT;
}

X86_HANDLER(aaa)
{
	return ascii_adjust(cpu, 0x106);
}

X86_HANDLER(aas)
{
	return ascii_adjust(cpu, -0x106);
}

X86_HANDLER(aam)
{
	uint8_t al = (uint8_t)cpu->s.gpr[X86_RAX], base = (uint8_t)insn->imm;

	if (!base)
		return x86_raise(cpu, X86_DE);
	x86_set_2(cpu, X86_RAX, (uint16_t)(al / base << 8 | al % base));
	x86_flags_set(cpu, SZP_FLAGS, szp_flags(al % base));
	return X86_NEXT;
}

X86_HANDLER(aad)
{
	uint16_t ax = (uint16_t)cpu->s.gpr[X86_RAX];
	uint8_t al = (uint8_t)(ax + (ax >> 8) * (uint8_t)insn->imm);

	x86_set_2(cpu, X86_RAX, al);
	x86_flags_set(cpu, SZP_FLAGS, szp_flags(al));
	return X86_NEXT;
}
