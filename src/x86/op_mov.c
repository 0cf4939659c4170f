// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_mov.c - MOV in all forms, MOVZX, MOVSX, MOVBE, LEA, XCHG, BSWAP, CMOVcc, SETcc, CBW, CWD, XLAT. */
#include "insns.h"
#include "operand.h"

#define MOV_SIZE(S, unused)                                                                        \
	X86_HANDLER(mov_rr##S)                                                                     \
	{                                                                                          \
		x86_set_rm_##S(cpu, insn, x86_reg_##S(cpu, insn));                                 \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(mov_mr##S)                                                                     \
	{                                                                                          \
		return x86_store_##S(cpu, insn, x86_reg_##S(cpu, insn));                           \
	}                                                                                          \
	X86_HANDLER(mov_gr##S)                                                                     \
	{                                                                                          \
		x86_set_reg_##S(cpu, insn, x86_rm_##S(cpu, insn));                                 \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(mov_gm##S)                                                                     \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		x86_set_reg_##S(cpu, insn, v);                                                     \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(mov_ri##S)                                                                     \
	{                                                                                          \
		x86_set_rm_##S(cpu, insn, (X86_T(S))insn->imm);                                    \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(mov_mi##S)                                                                     \
	{                                                                                          \
		return x86_store_##S(cpu, insn, (X86_T(S))insn->imm);                              \
	}                                                                                          \
	/* With an absolute offset. */                                                             \
	X86_HANDLER(mov_ao##S)                                                                     \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_read(cpu, insn->seg, insn->imm, &v, S) != X86_NEXT))              \
			return X86_FAULT;                                                          \
		x86_set_##S(cpu, X86_RAX, v);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(mov_oa##S)                                                                     \
	{                                                                                          \
		X86_T(S) v = x86_get_##S(cpu, X86_RAX);                                            \
                                                                                                   \
		return x86_write(cpu, insn->seg, insn->imm, &v, S);                                \
	}
X86_EACH_SIZE(MOV_SIZE, )

/* ---- widening: F bytes to S ---- */

#define EXTEND(S, name, F, type)                                                                   \
	X86_HANDLER(name##_gr##S)                                                                  \
	{                                                                                          \
		x86_set_reg_##S(cpu, insn, (X86_T(S))(type)x86_rm_##F(cpu, insn));                 \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##_gm##S)                                                                  \
	{                                                                                          \
		X86_T(F) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##F(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		x86_set_reg_##S(cpu, insn, (X86_T(S))(type)v);                                     \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(EXTEND, movzxb, 1, uint8_t)
X86_EACH_WIDE(EXTEND, movzxw, 2, uint16_t)
X86_EACH_WIDE(EXTEND, movsxb, 1, int8_t)
X86_EACH_WIDE(EXTEND, movsxw, 2, int16_t)
EXTEND(4, movsxd, 4, int32_t)
EXTEND(8, movsxd, 4, int32_t)
/* With a 16-bit operand size it is a plain move, though AMD reads four bytes. */
EXTEND(2, movsxd, 4, int32_t)

X86_HANDLER(cbw2)
{
	x86_set_2(cpu, X86_RAX, (uint16_t)(int8_t)cpu->s.gpr[X86_RAX]);
	return X86_NEXT;
}

X86_HANDLER(cbw4)
{
	x86_set_4(cpu, X86_RAX, (uint32_t)(int16_t)cpu->s.gpr[X86_RAX]);
	return X86_NEXT;
}

X86_HANDLER(cbw8)
{
	x86_set_8(cpu, X86_RAX, (uint64_t)(int32_t)cpu->s.gpr[X86_RAX]);
	return X86_NEXT;
}

#define CWD_SIZE(S, unused)                                                                        \
	X86_HANDLER(cwd##S)                                                                        \
	{                                                                                          \
		bool sign = x86_get_##S(cpu, X86_RAX) >> (X86_BITS_##S - 1);                       \
                                                                                                   \
		x86_set_##S(cpu, X86_RDX, sign ? (X86_T(S)) ~(X86_T(S))0 : 0);                     \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(CWD_SIZE, )

/* ---- byte order ---- */

#define SWAP_2(v) ((uint16_t)((v) << 8 | (v) >> 8))
#define SWAP_4(v) __builtin_bswap32(v)
#define SWAP_8(v) __builtin_bswap64(v)

#define MOVBE_SIZE(S, unused)                                                                      \
	X86_HANDLER(movbe_gm##S)                                                                   \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		x86_set_reg_##S(cpu, insn, SWAP_##S(v));                                           \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(movbe_mr##S)                                                                   \
	{                                                                                          \
		X86_T(S) v = x86_reg_##S(cpu, insn);                                               \
                                                                                                   \
		return x86_store_##S(cpu, insn, SWAP_##S(v));                                      \
	}
X86_EACH_WIDE(MOVBE_SIZE, )

/* Undefined for 16 bits; processors give 0. */
X86_HANDLER(bswap2)
{
	x86_set_2(cpu, insn->rm, 0);
	return X86_NEXT;
}

X86_HANDLER(bswap4)
{
	x86_set_4(cpu, insn->rm, __builtin_bswap32(x86_get_4(cpu, insn->rm)));
	return X86_NEXT;
}

X86_HANDLER(bswap8)
{
	x86_set_8(cpu, insn->rm, __builtin_bswap64(x86_get_8(cpu, insn->rm)));
	return X86_NEXT;
}

/* ---- addresses ---- */

#define LEA_SIZE(S, unused)                                                                        \
	X86_HANDLER(lea##S)                                                                        \
	{                                                                                          \
		uint64_t ea = likely(insn->flags & X86_INSN_A64) ? x86_ea_sum(cpu, insn) :         \
								   x86_ea(cpu, insn);              \
                                                                                                   \
		x86_set_reg_##S(cpu, insn, (X86_T(S))ea);                                          \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(LEA_SIZE, )

X86_HANDLER(xlat)
{
	uint64_t ea = cpu->s.gpr[X86_RBX] + (uint8_t)cpu->s.gpr[X86_RAX];
	uint8_t v;

	ea = insn->adsize == 8 ? ea : insn->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
	if (x86_read(cpu, insn->seg, ea, &v, 1) != X86_NEXT)
		return X86_FAULT;
	x86_set_1(cpu, X86_RAX, v);
	return X86_NEXT;
}

/* ---- exchange: with memory always locked, SDM vol. 2, XCHG ---- */

#define XCHG_MEM(S, form)                                                                          \
	X86_RMW_HANDLER(xchg_##form##S, S, {                                                       \
		X86_T(S) v = x86_reg_##S(cpu, insn);                                               \
		__asm__ volatile("xchg" X86_SFX_##S " %0, %1"                                      \
				 : "+m"(*(X86_M(S) *)p), "+r"(v)                                   \
				 :                                                                 \
				 : "memory");                                                      \
		x86_set_reg_##S(cpu, insn, v);                                                     \
	})

#define XCHG_SIZE(S, unused)                                                                       \
	X86_HANDLER(xchg_rr##S)                                                                    \
	{                                                                                          \
		X86_T(S) a = x86_reg_##S(cpu, insn), b = x86_rm_##S(cpu, insn);                    \
                                                                                                   \
		x86_set_reg_##S(cpu, insn, b);                                                     \
		x86_set_rm_##S(cpu, insn, a);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	XCHG_MEM(S, mr)                                                                            \
	XCHG_MEM(S, lr)
X86_EACH_SIZE(XCHG_SIZE, )

#define XCHG_A_SIZE(S, unused)                                                                     \
	X86_HANDLER(xchg_ra##S)                                                                    \
	{                                                                                          \
		X86_T(S) a = x86_get_##S(cpu, X86_RAX), b = x86_rm_##S(cpu, insn);                 \
                                                                                                   \
		x86_set_##S(cpu, X86_RAX, b);                                                      \
		x86_set_rm_##S(cpu, insn, a);                                                      \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(XCHG_A_SIZE, )

/* ---- by condition ---- */

/* The source is read, and 32 bits zero-extended, whatever the condition: SDM vol. 2, CMOVcc. */
#define CMOV(c, S)                                                                                 \
	X86_HANDLER(cmov##c##_gr##S)                                                               \
	{                                                                                          \
		X86_T(S) v = x86_reg_##S(cpu, insn);                                               \
                                                                                                   \
		if (x86_cond_##c(cpu->s.rflags))                                                   \
			v = x86_rm_##S(cpu, insn);                                                 \
		x86_set_reg_##S(cpu, insn, v);                                                     \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(cmov##c##_gm##S)                                                               \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		if (!x86_cond_##c(cpu->s.rflags))                                                  \
			v = x86_reg_##S(cpu, insn);                                                \
		x86_set_reg_##S(cpu, insn, v);                                                     \
		return X86_NEXT;                                                                   \
	}
X86_EACH_COND(CMOV, 2)
X86_EACH_COND(CMOV, 4)
X86_EACH_COND(CMOV, 8)

#define SETCC(c, unused)                                                                           \
	X86_HANDLER(set##c##_r)                                                                    \
	{                                                                                          \
		x86_set_rm_1(cpu, insn, x86_cond_##c(cpu->s.rflags));                              \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(set##c##_m)                                                                    \
	{                                                                                          \
		return x86_store_1(cpu, insn, x86_cond_##c(cpu->s.rflags));                        \
	}
X86_EACH_COND(SETCC, )

X86_HANDLER(salc)
{
	x86_set_1(cpu, X86_RAX, cpu->s.rflags & X86_FL_CF ? 0xff : 0);
	return X86_NEXT;
}
