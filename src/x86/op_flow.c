// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_flow.c - near jumps, calls and returns, loops, software interrupts, BOUND. */
#include "insns.h"
#include "stack.h"

/* A near target outside the code segment, or not canonical, is #GP(0) before anything changes. */
static inline bool target_is_bad(const struct x86_cpu *cpu, uint64_t target)
{
	if (likely(cpu->code_bytes == 8))
		return (uint64_t)((int64_t)(target << 16) >> 16) != target;
	return target > cpu->s.seg[X86_CS].limit;
}

static inline int jump(struct x86_cpu *cpu, uint64_t target)
{
	if (unlikely(target_is_bad(cpu, target)))
		return x86_gp(cpu, 0);
	cpu->s.rip = target;
	return X86_JUMP;
}

#define RELATIVE(S) ((X86_T(S))(cpu->s.rip + insn->imm))

#define JCC(c, S)                                                                                  \
	X86_HANDLER(j##c##S)                                                                       \
	{                                                                                          \
		if (x86_cond_##c(cpu->s.rflags))                                                   \
			return jump(cpu, RELATIVE(S));                                             \
		return X86_NEXT;                                                                   \
	}
X86_EACH_COND(JCC, 2)
X86_EACH_COND(JCC, 4)
X86_EACH_COND(JCC, 8)

/* LOOPcc: the counter is written only when the jump cannot fault any more. */
static int loop(struct x86_cpu *cpu, const struct x86_insn *insn, bool condition, uint64_t target)
{
	uint64_t count = x86_get_sized(cpu, X86_RCX, insn->adsize) - 1;
	bool taken = x86_get_sized(cpu, X86_RCX, insn->adsize) != 1 && condition;

	if (taken && jump(cpu, target) == X86_FAULT)
		return X86_FAULT;
	x86_set_sized(cpu, X86_RCX, insn->adsize, count);
	return taken ? X86_JUMP : X86_NEXT;
}

/* A stack that cannot be written comes first, but it is not written. */
static int bad_call(struct x86_cpu *cpu, unsigned size)
{
	uint64_t off = (cpu->s.gpr[X86_RSP] - size) & x86_sp_mask(cpu);

	if (x86_probe_write(cpu, X86_SS, off, size) != X86_NEXT)
		return X86_FAULT;
	return x86_gp(cpu, 0);
}

#define CALL_TO(S, target)                                                                         \
	do {                                                                                       \
		X86_T(S) to = target;                                                              \
                                                                                                   \
		if (unlikely(target_is_bad(cpu, to)))                                              \
			return bad_call(cpu, S);                                                   \
		if (unlikely(x86_push_##S(cpu, (X86_T(S))cpu->s.rip) != X86_NEXT))                 \
			return X86_FAULT;                                                          \
		cpu->s.rip = to;                                                                   \
		return X86_JUMP;                                                                   \
	} while (0)

static inline int ret(struct x86_cpu *cpu, uint64_t target, int pop)
{
	if (unlikely(target_is_bad(cpu, target)))
		return x86_gp(cpu, 0);
	x86_move_sp(cpu, pop);
	cpu->s.rip = target;
	return X86_JUMP;
}

#define FLOW_SIZE(S, unused)                                                                       \
	X86_HANDLER(jmp_i##S)                                                                      \
	{                                                                                          \
		return jump(cpu, RELATIVE(S));                                                     \
	}                                                                                          \
	X86_HANDLER(jmp_r##S)                                                                      \
	{                                                                                          \
		return jump(cpu, x86_rm_##S(cpu, insn));                                           \
	}                                                                                          \
	X86_HANDLER(jmp_m##S)                                                                      \
	{                                                                                          \
		X86_T(S) to;                                                                       \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &to) != X86_NEXT))                            \
			return X86_FAULT;                                                          \
		return jump(cpu, to);                                                              \
	}                                                                                          \
	X86_HANDLER(call_i##S)                                                                     \
	{                                                                                          \
		CALL_TO(S, RELATIVE(S));                                                           \
	}                                                                                          \
	X86_HANDLER(call_r##S)                                                                     \
	{                                                                                          \
		CALL_TO(S, x86_rm_##S(cpu, insn));                                                 \
	}                                                                                          \
	X86_HANDLER(call_m##S)                                                                     \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		CALL_TO(S, v);                                                                     \
	}                                                                                          \
	X86_HANDLER(ret##S)                                                                        \
	{                                                                                          \
		X86_T(S) to;                                                                       \
                                                                                                   \
		if (unlikely(x86_top_##S(cpu, &to) != X86_NEXT))                                   \
			return X86_FAULT;                                                          \
		return ret(cpu, to, S);                                                            \
	}                                                                                          \
	X86_HANDLER(ret_i##S)                                                                      \
	{                                                                                          \
		X86_T(S) to;                                                                       \
                                                                                                   \
		if (unlikely(x86_top_##S(cpu, &to) != X86_NEXT))                                   \
			return X86_FAULT;                                                          \
		return ret(cpu, to, S + (uint16_t)insn->imm);                                      \
	}                                                                                          \
	X86_HANDLER(jcxz##S)                                                                       \
	{                                                                                          \
		if (x86_get_sized(cpu, X86_RCX, insn->adsize))                                     \
			return X86_NEXT;                                                           \
		return jump(cpu, RELATIVE(S));                                                     \
	}                                                                                          \
	X86_HANDLER(loop##S)                                                                       \
	{                                                                                          \
		return loop(cpu, insn, true, RELATIVE(S));                                         \
	}                                                                                          \
	X86_HANDLER(loope##S)                                                                      \
	{                                                                                          \
		return loop(cpu, insn, cpu->s.rflags & X86_FL_ZF, RELATIVE(S));                    \
	}                                                                                          \
	X86_HANDLER(loopne##S)                                                                     \
	{                                                                                          \
		return loop(cpu, insn, !(cpu->s.rflags & X86_FL_ZF), RELATIVE(S));                 \
	}
X86_EACH_WIDE(FLOW_SIZE, )

/* ---- software interrupts ---- */

X86_HANDLER(int)
{
	return x86_int_n(cpu, (uint8_t)insn->imm);
}

X86_HANDLER(int3)
{
	return x86_software_interrupt(cpu, X86_BP);
}

X86_HANDLER(into)
{
	return cpu->s.rflags & X86_FL_OF ? x86_software_interrupt(cpu, X86_OF) : X86_NEXT;
}

/* A debug trap that no gate's privilege holds back: SDM vol. 2, INT n/INTO/INT3/INT1. */
X86_HANDLER(int1)
{
	(void)x86_raise(cpu, X86_DB);
	cpu->fault.trap = true;
	return X86_FAULT;
}

#define BOUND(S)                                                                                   \
	X86_HANDLER(bound##S)                                                                      \
	{                                                                                          \
		X86_I_##S v = (X86_I_##S)x86_reg_##S(cpu, insn), low, high;                        \
		uint64_t ea = x86_ea(cpu, insn);                                                   \
                                                                                                   \
		if (x86_read(cpu, insn->seg, ea, &low, S) != X86_NEXT ||                           \
		    x86_read(cpu, insn->seg, insn->adsize == 2 ? (uint16_t)(ea + S) :              \
							 (uint32_t)(ea + S),                       \
			     &high, S) != X86_NEXT)                                                \
			return X86_FAULT;                                                          \
		return v < low || v > high ? x86_raise(cpu, X86_BR) : X86_NEXT;                    \
	}
#define X86_I_2 int16_t
#define X86_I_4 int32_t
BOUND(2)
BOUND(4)
