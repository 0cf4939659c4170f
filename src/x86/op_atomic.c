// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_atomic.c - XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. */
#include "insns.h"
#include "operand.h"

#define XADD_MEM(S, form, lock)                                                                    \
	X86_RMW_HANDLER(xadd_##form##S, S, {                                                       \
		X86_T(S) v = x86_reg_##S(cpu, insn);                                               \
		uint32_t ax;                                                                       \
		__asm__ volatile(lock "xadd" X86_SFX_##S " %1, %0\n\t" X86_FL_SAVE                 \
				 : "+m"(*(X86_M(S) *)p), "+&r"(v), "=&a"(ax)                       \
				 :                                                                 \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_reg_##S(cpu, insn, v);                                                     \
	})

/* The sum is written last: it wins where both are one register. */
#define XADD_SIZE(S, unused)                                                                       \
	X86_HANDLER(xadd_rr##S)                                                                    \
	{                                                                                          \
		X86_T(S) d = x86_rm_##S(cpu, insn), v = x86_reg_##S(cpu, insn);                    \
		uint32_t ax;                                                                       \
                                                                                                   \
		__asm__("xadd" X86_SFX_##S " %1, %0\n\t" X86_FL_SAVE                               \
			: "+&r"(d), "+&r"(v), "=&a"(ax)                                            \
			:                                                                          \
			: "cc");                                                                   \
		x86_flags_unpack(cpu, ax);                                                         \
		x86_set_reg_##S(cpu, insn, v);                                                     \
		x86_set_rm_##S(cpu, insn, d);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	XADD_MEM(S, mr, "")                                                                        \
	XADD_MEM(S, lr, "lock ")
X86_EACH_SIZE(XADD_SIZE, )

/* Both end with AX holding the flags, and what became of RAX in @rax. */
#define CMPXCHG(S, lock, dst, src, rax)                                                            \
	do {                                                                                       \
		uint32_t ax;                                                                       \
                                                                                                   \
		__asm__ volatile("movq %[acc], %%rax\n\t" lock "cmpxchg" X86_SFX_##S               \
				 " %[s], %[d]\n\tmovq %%rax, %[acc]\n\t" X86_FL_SAVE               \
				 : [d] dst, [acc] "+&r"(rax), "=&a"(ax)                            \
				 : [s] "r"(src)                                                    \
				 : "cc", "memory");                                                \
		x86_flags_unpack(cpu, ax);                                                         \
	} while (0)

#define CMPXCHG_MEM(S, form, lock)                                                                 \
	X86_RMW_HANDLER(cmpxchg_##form##S, S, {                                                    \
		X86_T(S) v = x86_reg_##S(cpu, insn);                                               \
		uint64_t rax = cpu->s.gpr[X86_RAX];                                                \
		CMPXCHG(S, lock, "+m"(*(X86_M(S) *)p), v, rax);                                    \
		cpu->s.gpr[X86_RAX] = rax;                                                         \
	})

/* In registers: what is left of the upper half of a 32-bit destination or accumulator depends on
 * whether it was written, and is the host's to say. RAX is written before the destination, which may
 * be RAX itself. */
#define CMPXCHG_SIZE(S, unused)                                                                    \
	X86_HANDLER(cmpxchg_rr##S)                                                                 \
	{                                                                                          \
		X86_T(S) v = x86_reg_##S(cpu, insn), d = x86_rm_##S(cpu, insn), old = d;           \
		uint64_t rax = cpu->s.gpr[X86_RAX];                                                \
		bool equal = (X86_T(S))rax == old;                                                 \
                                                                                                   \
		CMPXCHG(S, "", "+&r"(d), v, rax);                                                  \
		if (!equal)                                                                        \
			cpu->s.gpr[X86_RAX] = rax;                                                 \
		if (equal || S != 4)                                                               \
			x86_set_rm_##S(cpu, insn, d);                                              \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	CMPXCHG_MEM(S, mr, "")                                                                     \
	CMPXCHG_MEM(S, lr, "lock ")
X86_EACH_SIZE(CMPXCHG_SIZE, )

static int cmpxchg8b(struct x86_cpu *cpu, const struct x86_insn *insn, bool locked)
{
	uint32_t low = x86_get_4(cpu, X86_RAX), high = x86_get_4(cpu, X86_RDX);
	uint32_t b = x86_get_4(cpu, X86_RBX), c = x86_get_4(cpu, X86_RCX);
	struct x86_rmw rmw;
	void *p = x86_rmw(cpu, insn, 8, &rmw);
	bool equal;

	if (!p)
		return X86_FAULT;
	if (locked)
		__asm__ volatile("lock cmpxchg8b %0"
				 : "+m"(*(x86_u64u *)p), "+a"(low), "+d"(high), "=@ccz"(equal)
				 : "b"(b), "c"(c)
				 : "memory");
	else
		__asm__ volatile("cmpxchg8b %0"
				 : "+m"(*(x86_u64u *)p), "+a"(low), "+d"(high), "=@ccz"(equal)
				 : "b"(b), "c"(c)
				 : "memory");
	x86_rmw_done(cpu, &rmw);
	x86_flags_set(cpu, X86_FL_ZF, equal ? X86_FL_ZF : 0);
	if (!equal) {
		x86_set_4(cpu, X86_RAX, low);
		x86_set_4(cpu, X86_RDX, high);
	}
	return X86_NEXT;
}

X86_HANDLER(cmpxchg8b_m)
{
	return cmpxchg8b(cpu, insn, false);
}

X86_HANDLER(cmpxchg8b_l)
{
	return cmpxchg8b(cpu, insn, true);
}

static int cmpxchg16b(struct x86_cpu *cpu, const struct x86_insn *insn, bool locked)
{
	uint64_t low = cpu->s.gpr[X86_RAX], high = cpu->s.gpr[X86_RDX];
	uint64_t b = cpu->s.gpr[X86_RBX], c = cpu->s.gpr[X86_RCX], linear;
	struct x86_rmw rmw;
	uint8_t *p;
	bool equal;

	if (x86_linear(cpu, insn->seg, x86_ea(cpu, insn), 16, true, &linear) != X86_NEXT)
		return X86_FAULT;
	if (linear & 15)
		return x86_gp(cpu, 0);
	p = x86_rmw(cpu, insn, 16, &rmw);
	if (!p)
		return X86_FAULT;
	if (locked)
		__asm__ volatile("lock cmpxchg16b %0"
				 : "+m"(*(uint8_t(*)[16])p), "+a"(low), "+d"(high), "=@ccz"(equal)
				 : "b"(b), "c"(c)
				 : "memory");
	else
		__asm__ volatile("cmpxchg16b %0"
				 : "+m"(*(uint8_t(*)[16])p), "+a"(low), "+d"(high), "=@ccz"(equal)
				 : "b"(b), "c"(c)
				 : "memory");
	x86_rmw_done(cpu, &rmw);
	x86_flags_set(cpu, X86_FL_ZF, equal ? X86_FL_ZF : 0);
	if (!equal) {
		cpu->s.gpr[X86_RAX] = low;
		cpu->s.gpr[X86_RDX] = high;
	}
	return X86_NEXT;
}

X86_HANDLER(cmpxchg16b_m)
{
	return cmpxchg16b(cpu, insn, false);
}

X86_HANDLER(cmpxchg16b_l)
{
	return cmpxchg16b(cpu, insn, true);
}
