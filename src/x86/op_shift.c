// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * op_shift.c - ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD.
 *
 * The host shifts with the guest's flags loaded: a count of zero then leaves them alone, and what the
 * manual leaves undefined is what this processor does.
 */
#include "insns.h"
#include "operand.h"

#define SHIFT(op, S, dst, count)                                                                   \
	do {                                                                                       \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__ volatile(X86_FL_LOAD op X86_SFX_##S " %%cl, %0\n\t" X86_FL_SAVE            \
				 : dst, "+a"(ax)                                                   \
				 : "c"(count)                                                      \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

#define SHIFT_FORM(S, name, op, form, count_from)                                                  \
	X86_HANDLER(name##_r##form##S)                                                             \
	{                                                                                          \
		X86_T(S) d = x86_rm_##S(cpu, insn);                                                \
		uint8_t count = count_from;                                                        \
                                                                                                   \
		SHIFT(op, S, "+r"(d), count);                                                      \
		x86_set_rm_##S(cpu, insn, d);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_RMW_HANDLER(name##_m##form##S, S, {                                                    \
		uint8_t count = count_from;                                                        \
		SHIFT(op, S, "+m"(*(X86_M(S) *)p), count);                                         \
	})

#define SHIFT_SIZE(S, name, op)                                                                    \
	SHIFT_FORM(S, name, op, i, (uint8_t)insn->imm)                                             \
	SHIFT_FORM(S, name, op, 1, 1)                                                              \
	SHIFT_FORM(S, name, op, c, (uint8_t)cpu->s.gpr[X86_RCX])

X86_EACH_SIZE(SHIFT_SIZE, rol, "rol")
X86_EACH_SIZE(SHIFT_SIZE, ror, "ror")
X86_EACH_SIZE(SHIFT_SIZE, rcl, "rcl")
X86_EACH_SIZE(SHIFT_SIZE, rcr, "rcr")
X86_EACH_SIZE(SHIFT_SIZE, shl, "shl")
X86_EACH_SIZE(SHIFT_SIZE, shr, "shr")
X86_EACH_SIZE(SHIFT_SIZE, sar, "sar")

#define DOUBLE(op, S, dst, src, count)                                                             \
	do {                                                                                       \
		uint32_t ax = x86_flags_pack(cpu);                                                 \
                                                                                                   \
		__asm__ volatile(X86_FL_LOAD op X86_SFX_##S " %%cl, %2, %0\n\t" X86_FL_SAVE        \
				 : dst, "+a"(ax)                                                   \
				 : "r"(src), "c"(count)                                            \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

#define DOUBLE_FORM(S, name, op, form, count_from)                                                 \
	X86_HANDLER(name##_r##form##S)                                                             \
	{                                                                                          \
		X86_T(S) d = x86_rm_##S(cpu, insn), s = x86_reg_##S(cpu, insn);                    \
		uint8_t count = count_from;                                                        \
                                                                                                   \
		DOUBLE(op, S, "+r"(d), s, count);                                                  \
		x86_set_rm_##S(cpu, insn, d);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	X86_HANDLER(name##_m##form##S)                                                             \
	{                                                                                          \
		X86_T(S) s = x86_reg_##S(cpu, insn);                                               \
		uint8_t count = count_from;                                                        \
		struct x86_rmw rmw;                                                                \
		void *p = x86_rmw(cpu, insn, S, &rmw);                                             \
                                                                                                   \
		if (unlikely(!p))                                                                  \
			return X86_FAULT;                                                          \
		DOUBLE(op, S, "+m"(*(X86_M(S) *)p), s, count);                                     \
		x86_rmw_done(cpu, &rmw);                                                           \
		return X86_NEXT;                                                                   \
	}

#define DOUBLE_SIZE(S, name, op)                                                                   \
	DOUBLE_FORM(S, name, op, i, (uint8_t)insn->imm)                                            \
	DOUBLE_FORM(S, name, op, c, (uint8_t)cpu->s.gpr[X86_RCX])

X86_EACH_WIDE(DOUBLE_SIZE, shld, "shld")
X86_EACH_WIDE(DOUBLE_SIZE, shrd, "shrd")
