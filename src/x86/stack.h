// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* stack.h - pushing and popping, for the integer handlers. */
#pragma once

#include "operand.h"

#define x86_stack_load_2  x86_stack_ld16
#define x86_stack_load_4  x86_stack_ld32
#define x86_stack_load_8  x86_stack_ld64
#define x86_stack_store_2 x86_stack_st16
#define x86_stack_store_4 x86_stack_st32
#define x86_stack_store_8 x86_stack_st64

static inline uint64_t x86_sp_mask(const struct x86_cpu *cpu)
{
	return cpu->stack_bytes == 8 ? ~(uint64_t)0 : cpu->stack_bytes == 4 ? 0xffffffff : 0xffff;
}

/* Add to the stack pointer, by the size of the stack segment. */
static inline void x86_move_sp(struct x86_cpu *cpu, int by)
{
	uint64_t sp = cpu->s.gpr[X86_RSP] + (uint64_t)(int64_t)by;

	if (likely(cpu->stack_bytes == 8))
		cpu->s.gpr[X86_RSP] = sp;
	else
		x86_set_sized(cpu, X86_RSP, cpu->stack_bytes, sp);
}

/* x86_push_<S>(): push. x86_top_<S>(): read what POP would, without moving the pointer. */
#define X86_DEFINE_STACK(S, unused)                                                                \
	static inline int x86_push_##S(struct x86_cpu *cpu, X86_T(S) v)                            \
	{                                                                                          \
		uint64_t off = (cpu->s.gpr[X86_RSP] - S) & x86_sp_mask(cpu);                       \
                                                                                                   \
		if (unlikely(x86_stack_store_##S(cpu, off, v) != X86_NEXT))                        \
			return X86_FAULT;                                                          \
		x86_move_sp(cpu, -S);                                                              \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	static inline int x86_top_##S(struct x86_cpu *cpu, X86_T(S) *v)                            \
	{                                                                                          \
		return x86_stack_load_##S(cpu, cpu->s.gpr[X86_RSP] & x86_sp_mask(cpu), v);         \
	}
X86_EACH_WIDE(X86_DEFINE_STACK, )
#undef X86_DEFINE_STACK
