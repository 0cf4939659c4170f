// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_alu.c - ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT. */
#include "insns.h"
#include "operand.h"

/* Set up for the operations: nothing, or the guest's CF. */
#define CF_NONE ""
#define CF_IN	"btl $0, %k[fl_in]\n\t"

/* dst op= src. */
#define ALU(op, S, cf, dst, src)                                                                   \
	do {                                                                                       \
		uint32_t ax;                                                                       \
                                                                                                   \
		__asm__(cf op X86_SFX_##S " %[s], %[d]\n\t" X86_FL_SAVE                            \
			: [d] "+r"(dst), "=&a"(ax)                                                 \
			: [s] "r"(src), [fl_in] "r"((uint32_t)cpu->s.rflags)                       \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

/* The same on guest memory. */
#define ALU_MEM(lock, op, S, cf, p, src)                                                           \
	do {                                                                                       \
		uint32_t ax;                                                                       \
                                                                                                   \
		__asm__ volatile(cf lock op X86_SFX_##S " %[s], %[d]\n\t" X86_FL_SAVE              \
				 : [d] "+m"(*(X86_M(S) *)(p)), "=&a"(ax)                           \
				 : [s] "r"(src), [fl_in] "r"((uint32_t)cpu->s.rflags)              \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

#define IMM(S) ((X86_T(S))insn->imm)
#define REG(S) (x86_reg_##S(cpu, insn))

#define ALU_TO_REG(S, name, op, cf, form, set, dst, src)                                           \
	X86_HANDLER(name##_##form##S)                                                              \
	{                                                                                          \
		X86_T(S) d = dst, s = src;                                                         \
                                                                                                   \
		ALU(op, S, cf, d, s);                                                              \
		set;                                                                               \
		return X86_NEXT;                                                                   \
	}

#define ALU_FROM_MEM(S, name, op, cf, set)                                                         \
	X86_HANDLER(name##_gm##S)                                                                  \
	{                                                                                          \
		X86_T(S) d = REG(S), s;                                                            \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &s) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		ALU(op, S, cf, d, s);                                                              \
		set;                                                                               \
		return X86_NEXT;                                                                   \
	}

#define ALU_TO_MEM(S, name, op, cf, form, lock, src)                                               \
	X86_RMW_HANDLER(name##_##form##S, S, {                                                     \
		X86_T(S) s = src;                                                                  \
		ALU_MEM(lock, op, S, cf, p, s);                                                    \
	})

#define ALU_READ_MEM(S, name, op, form, src)                                                       \
	X86_HANDLER(name##_##form##S)                                                              \
	{                                                                                          \
		X86_T(S) d, s = src;                                                               \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &d) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		ALU(op, S, CF_NONE, d, s);                                                         \
		return X86_NEXT;                                                                   \
	}

#define SET_RM(S)  x86_set_rm_##S(cpu, insn, d)
#define SET_REG(S) x86_set_reg_##S(cpu, insn, d)
#define SET_AX(S)  x86_set_##S(cpu, X86_RAX, d)

#define ALU_SIZE(S, name, op, cf)                                                                  \
	ALU_TO_REG(S, name, op, cf, rr, SET_RM(S), x86_rm_##S(cpu, insn), REG(S))                  \
	ALU_TO_REG(S, name, op, cf, gr, SET_REG(S), REG(S), x86_rm_##S(cpu, insn))                 \
	ALU_TO_REG(S, name, op, cf, ri, SET_RM(S), x86_rm_##S(cpu, insn), IMM(S))                  \
	ALU_TO_REG(S, name, op, cf, ai, SET_AX(S), x86_get_##S(cpu, X86_RAX), IMM(S))              \
	ALU_FROM_MEM(S, name, op, cf, SET_REG(S))                                                  \
	ALU_TO_MEM(S, name, op, cf, mr, "", REG(S))                                                \
	ALU_TO_MEM(S, name, op, cf, mi, "", IMM(S))                                                \
	ALU_TO_MEM(S, name, op, cf, lr, "lock ", REG(S))                                           \
	ALU_TO_MEM(S, name, op, cf, li, "lock ", IMM(S))

X86_EACH_SIZE(ALU_SIZE, add, "add", CF_NONE)
X86_EACH_SIZE(ALU_SIZE, or, "or", CF_NONE)
X86_EACH_SIZE(ALU_SIZE, adc, "adc", CF_IN)
X86_EACH_SIZE(ALU_SIZE, sbb, "sbb", CF_IN)
X86_EACH_SIZE(ALU_SIZE, and, "and", CF_NONE)
X86_EACH_SIZE(ALU_SIZE, sub, "sub", CF_NONE)
X86_EACH_SIZE(ALU_SIZE, xor, "xor", CF_NONE)

#define CMP_SIZE(S, name, op)                                                                      \
	ALU_TO_REG(S, name, op, CF_NONE, rr, (void)d, x86_rm_##S(cpu, insn), REG(S))               \
	ALU_TO_REG(S, name, op, CF_NONE, ri, (void)d, x86_rm_##S(cpu, insn), IMM(S))               \
	ALU_TO_REG(S, name, op, CF_NONE, ai, (void)d, x86_get_##S(cpu, X86_RAX), IMM(S))           \
	ALU_READ_MEM(S, name, op, mr, REG(S))                                                      \
	ALU_READ_MEM(S, name, op, mi, IMM(S))

X86_EACH_SIZE(CMP_SIZE, cmp, "cmp")
X86_EACH_SIZE(CMP_SIZE, test, "test")

#define CMP_REG_SIZE(S, name, op)                                                                  \
	ALU_TO_REG(S, name, op, CF_NONE, gr, (void)d, REG(S), x86_rm_##S(cpu, insn))               \
	ALU_FROM_MEM(S, name, op, CF_NONE, (void)d)

X86_EACH_SIZE(CMP_REG_SIZE, cmp, "cmp")

/* ---- one operand ---- */

#define UNARY_REG(S, name, op, keep)                                                               \
	X86_HANDLER(name##_r##S)                                                                   \
	{                                                                                          \
		X86_T(S) d = x86_rm_##S(cpu, insn);                                                \
		uint32_t ax;                                                                       \
                                                                                                   \
		__asm__(op X86_SFX_##S " %0\n\t" X86_FL_SAVE : "+r"(d), "=&a"(ax) : : "cc");       \
		x86_flags_unpack##keep(cpu, ax);                                                   \
		SET_RM(S);                                                                         \
		return X86_NEXT;                                                                   \
	}

#define UNARY_MEM(S, name, op, keep, form, lock)                                                   \
	X86_RMW_HANDLER(name##_##form##S, S, {                                                     \
		uint32_t ax;                                                                       \
		__asm__ volatile(lock op X86_SFX_##S " %0\n\t" X86_FL_SAVE                         \
				 : "+m"(*(X86_M(S) *)p), "=&a"(ax)                                 \
				 :                                                                 \
				 : "cc", "memory");                                                \
		x86_flags_unpack##keep(cpu, ax);                                                   \
	})

#define UNARY_SIZE(S, name, op, keep)                                                              \
	UNARY_REG(S, name, op, keep)                                                               \
	UNARY_MEM(S, name, op, keep, m, "")                                                        \
	UNARY_MEM(S, name, op, keep, l, "lock ")

X86_EACH_SIZE(UNARY_SIZE, inc, "inc", _keep_cf)
X86_EACH_SIZE(UNARY_SIZE, dec, "dec", _keep_cf)
X86_EACH_SIZE(UNARY_SIZE, neg, "neg", )

#define NOT_MEM(S, form, lock)                                                                     \
	X86_RMW_HANDLER(not_##form##S, S,                                                          \
			__asm__ volatile(lock "not" X86_SFX_##S " %0"                              \
					 : "+m"(*(X86_M(S) *)p)                                    \
					 :                                                         \
					 : "memory"))

#define NOT_SIZE(S, unused)                                                                        \
	X86_HANDLER(not_r##S)                                                                      \
	{                                                                                          \
		x86_set_rm_##S(cpu, insn, (X86_T(S)) ~x86_rm_##S(cpu, insn));                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	NOT_MEM(S, m, "")                                                                          \
	NOT_MEM(S, l, "lock ")

X86_EACH_SIZE(NOT_SIZE, )
