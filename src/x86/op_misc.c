// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_misc.c - segment register moves, random numbers, cache hints, and what does nothing. */
#include "insns.h"
#include "operand.h"

X86_HANDLER(ud)
{
	return x86_ud(cpu);
}

X86_HANDLER(nop)
{
	return X86_NEXT;
}

X86_HANDLER(fence)
{
	__asm__ volatile("mfence" : : : "memory");
	return X86_NEXT;
}

/* Caches are coherent here; what is left is that the line must be readable. */
X86_HANDLER(clflush)
{
	uint8_t byte;

	return x86_load_rm(cpu, insn, &byte, 1);
}

X86_HANDLER(rdpid)
{
	x86_set_sized(cpu, insn->rm, insn->opsize == 2 ? 4 : insn->opsize, cpu->s.tsc_aux);
	return X86_NEXT;
}

#define RANDOM(S, name, op)                                                                        \
	X86_HANDLER(name##S)                                                                       \
	{                                                                                          \
		X86_T(S) v;                                                                        \
		bool ok;                                                                           \
                                                                                                   \
		__asm__ volatile(op " %0" : "=r"(v), "=@ccc"(ok));                                 \
		x86_set_rm_##S(cpu, insn, v);                                                      \
		x86_flags_set(cpu, X86_FL_STATUS, ok ? X86_FL_CF : 0);                             \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(RANDOM, rdrand, "rdrand")
X86_EACH_WIDE(RANDOM, rdseed, "rdseed")

/* ---- segment registers ---- */

X86_HANDLER(mov_rsreg)
{
	if ((insn->modrm >> 3 & 7) > X86_GS)
		return x86_ud(cpu);
	x86_set_sized(cpu, insn->rm, insn->opsize, cpu->s.seg[insn->modrm >> 3 & 7].selector);
	return X86_NEXT;
}

X86_HANDLER(mov_msreg)
{
	if ((insn->modrm >> 3 & 7) > X86_GS)
		return x86_ud(cpu);
	return x86_store_2(cpu, insn, cpu->s.seg[insn->modrm >> 3 & 7].selector);
}

static int mov_sreg(struct x86_cpu *cpu, unsigned seg, uint16_t selector)
{
	if (x86_load_segment(cpu, seg, selector) != X86_NEXT)
		return X86_FAULT;
	if (seg != X86_SS)
		return X86_NEXT;
	cpu->s.interrupt_shadow |= 2;
	return X86_STOP;
}

static bool is_loadable(unsigned seg)
{
	return seg <= X86_GS && seg != X86_CS;
}

X86_HANDLER(mov_sreg_r)
{
	unsigned seg = insn->modrm >> 3 & 7;

	return is_loadable(seg) ? mov_sreg(cpu, seg, x86_rm_2(cpu, insn)) : x86_ud(cpu);
}

X86_HANDLER(mov_sreg_m)
{
	unsigned seg = insn->modrm >> 3 & 7;
	uint16_t selector;

	if (!is_loadable(seg))
		return x86_ud(cpu);
	if (x86_load_2(cpu, insn, &selector) != X86_NEXT)
		return X86_FAULT;
	return mov_sreg(cpu, seg, selector);
}

/* LES, LDS, LSS, LFS, LGS: offset, then selector. */
static int load_far(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned seg, unsigned size)
{
	uint8_t buf[10];
	uint64_t off = 0;
	uint16_t selector;
	int r;

	if (x86_load_rm(cpu, insn, buf, size + 2) != X86_NEXT)
		return X86_FAULT;
	for (unsigned i = 0; i < size; i++)
		off |= (uint64_t)buf[i] << (8 * i);
	selector = (uint16_t)(buf[size] | buf[size + 1] << 8);
	r = mov_sreg(cpu, seg, selector);
	if (r != X86_FAULT)
		x86_set_sized(cpu, insn->reg, size, off);
	return r;
}

#define FAR_SIZE(S, name, seg)                                                                     \
	X86_HANDLER(name##S)                                                                       \
	{                                                                                          \
		return load_far(cpu, insn, seg, S);                                                \
	}
FAR_SIZE(2, les, X86_ES)
FAR_SIZE(4, les, X86_ES)
FAR_SIZE(2, lds, X86_DS)
FAR_SIZE(4, lds, X86_DS)
X86_EACH_WIDE(FAR_SIZE, lss, X86_SS)
X86_EACH_WIDE(FAR_SIZE, lfs, X86_FS)
X86_EACH_WIDE(FAR_SIZE, lgs, X86_GS)
