// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_stack.c - PUSH and POP in all forms, PUSHA POPA, ENTER LEAVE, PUSHF POPF. */
#include "insns.h"
#include "stack.h"

#define PUSH_POP(S, unused)                                                                        \
	X86_HANDLER(push_r##S)                                                                     \
	{                                                                                          \
		return x86_push_##S(cpu, x86_rm_##S(cpu, insn));                                   \
	}                                                                                          \
	X86_HANDLER(push_i##S)                                                                     \
	{                                                                                          \
		return x86_push_##S(cpu, (X86_T(S))insn->imm);                                     \
	}                                                                                          \
	X86_HANDLER(push_m##S)                                                                     \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_load_##S(cpu, insn, &v) != X86_NEXT))                             \
			return X86_FAULT;                                                          \
		return x86_push_##S(cpu, v);                                                       \
	}                                                                                          \
	/* The pointer moves first, so that POP SP keeps what was popped. */                       \
	X86_HANDLER(pop_r##S)                                                                      \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_top_##S(cpu, &v) != X86_NEXT))                                    \
			return X86_FAULT;                                                          \
		x86_move_sp(cpu, S);                                                               \
		x86_set_rm_##S(cpu, insn, v);                                                      \
		return X86_NEXT;                                                                   \
	}                                                                                          \
	/* An address by RSP is that behind the pop: SDM vol. 2, POP. */                           \
	X86_HANDLER(pop_m##S)                                                                      \
	{                                                                                          \
		uint64_t rsp = cpu->s.gpr[X86_RSP];                                                \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_top_##S(cpu, &v) != X86_NEXT))                                    \
			return X86_FAULT;                                                          \
		x86_move_sp(cpu, S);                                                               \
		if (likely(x86_store_##S(cpu, insn, v) == X86_NEXT))                               \
			return X86_NEXT;                                                           \
		cpu->s.gpr[X86_RSP] = rsp;                                                         \
		return X86_FAULT;                                                                  \
	}
X86_EACH_WIDE(PUSH_POP, )

/* ---- segment registers ---- */

static int pop_segment(struct x86_cpu *cpu, unsigned seg, unsigned size)
{
	uint16_t selector;

	/* Only the selector's two bytes are read: SDM vol. 2, POP. */
	if (x86_top_2(cpu, &selector) != X86_NEXT ||
	    x86_load_segment(cpu, seg, selector) != X86_NEXT)
		return X86_FAULT;
	x86_move_sp(cpu, size);
	if (seg != X86_SS)
		return X86_NEXT;
	cpu->s.interrupt_shadow |= 2;
	return X86_STOP;
}

#define SEGMENT_PUSH(S, name, which)                                                               \
	X86_HANDLER(push_##name##S)                                                                \
	{                                                                                          \
		return x86_push_##S(cpu, cpu->s.seg[which].selector);                              \
	}
#define SEGMENT_POP(S, name, seg)                                                                  \
	X86_HANDLER(pop_##name##S)                                                                 \
	{                                                                                          \
		return pop_segment(cpu, seg, S);                                                   \
	}
X86_EACH_WIDE(SEGMENT_PUSH, es, X86_ES)
X86_EACH_WIDE(SEGMENT_PUSH, cs, X86_CS)
X86_EACH_WIDE(SEGMENT_PUSH, ss, X86_SS)
X86_EACH_WIDE(SEGMENT_PUSH, ds, X86_DS)
X86_EACH_WIDE(SEGMENT_PUSH, fs, X86_FS)
X86_EACH_WIDE(SEGMENT_PUSH, gs, X86_GS)
X86_EACH_WIDE(SEGMENT_POP, es, X86_ES)
X86_EACH_WIDE(SEGMENT_POP, ss, X86_SS)
X86_EACH_WIDE(SEGMENT_POP, ds, X86_DS)
X86_EACH_WIDE(SEGMENT_POP, fs, X86_FS)
X86_EACH_WIDE(SEGMENT_POP, gs, X86_GS)

/* ---- PUSHA, POPA, ENTER, LEAVE: memory first, registers when nothing can fault any more ---- */

static int pusha(struct x86_cpu *cpu, unsigned size)
{
	uint64_t sp = cpu->s.gpr[X86_RSP];

	for (unsigned i = 0; i < 8; i++) {
		sp -= size;
		if (x86_write(cpu, X86_SS, sp & x86_sp_mask(cpu), &cpu->s.gpr[i], size) != X86_NEXT)
			return X86_FAULT;
	}
	x86_move_sp(cpu, -8 * (int)size);
	return X86_NEXT;
}

static int popa(struct x86_cpu *cpu, unsigned size)
{
	uint64_t sp = cpu->s.gpr[X86_RSP], value[8] = { 0 };

	for (unsigned i = 8; i-- > 0; sp += size)
		if (x86_read(cpu, X86_SS, sp & x86_sp_mask(cpu), &value[i], size) != X86_NEXT)
			return X86_FAULT;
	for (unsigned i = 0; i < 8; i++)
		if (i != X86_RSP)
			x86_set_sized(cpu, i, size, value[i]);
	x86_move_sp(cpu, 8 * (int)size);
	return X86_NEXT;
}

static int enter(struct x86_cpu *cpu, unsigned size, unsigned alloc, unsigned level)
{
	uint64_t mask = x86_sp_mask(cpu), sp = cpu->s.gpr[X86_RSP] - size;
	uint64_t bp = cpu->s.gpr[X86_RBP], frame = sp, v;

	if (x86_write(cpu, X86_SS, sp & mask, &bp, size) != X86_NEXT)
		return X86_FAULT;
	for (unsigned i = 1; i < level; i++) {
		bp -= size;
		sp -= size;
		if (x86_read(cpu, X86_SS, bp & mask, &v, size) != X86_NEXT ||
		    x86_write(cpu, X86_SS, sp & mask, &v, size) != X86_NEXT)
			return X86_FAULT;
	}
	if (level) {
		sp -= size;
		if (x86_write(cpu, X86_SS, sp & mask, &frame, size) != X86_NEXT)
			return X86_FAULT;
	}
	sp -= alloc;
	/* A write at the final stack pointer must be possible: SDM vol. 2, ENTER. */
	if (x86_probe_write(cpu, X86_SS, sp & mask, size) != X86_NEXT)
		return X86_FAULT;
	x86_set_sized(cpu, X86_RBP, size, frame);
	x86_set_sized(cpu, X86_RSP, cpu->stack_bytes, sp);
	return X86_NEXT;
}

#define FRAME(S, unused)                                                                           \
	X86_HANDLER(pusha##S)                                                                      \
	{                                                                                          \
		return pusha(cpu, S);                                                              \
	}                                                                                          \
	X86_HANDLER(popa##S)                                                                       \
	{                                                                                          \
		return popa(cpu, S);                                                               \
	}                                                                                          \
	X86_HANDLER(enter##S)                                                                      \
	{                                                                                          \
		return enter(cpu, S, (uint16_t)insn->imm, insn->imm2 & 31);                        \
	}                                                                                          \
	X86_HANDLER(leave##S)                                                                      \
	{                                                                                          \
		uint64_t off = cpu->s.gpr[X86_RBP] & x86_sp_mask(cpu);                             \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (unlikely(x86_stack_load_##S(cpu, off, &v) != X86_NEXT))                        \
			return X86_FAULT;                                                          \
		x86_set_sized(cpu, X86_RSP, cpu->stack_bytes, off + S);                            \
		x86_set_##S(cpu, X86_RBP, v);                                                      \
		return X86_NEXT;                                                                   \
	}
X86_EACH_WIDE(FRAME, )

/* ---- PUSHF, POPF: SDM vol. 2; vol. 3, 20.2.7 and 20.3 for virtual-8086 mode ---- */

static bool in_vm86(const struct x86_cpu *cpu)
{
	return cpu->s.rflags & X86_FL_VM;
}

static unsigned iopl(const struct x86_cpu *cpu)
{
	return (cpu->s.rflags & X86_FL_IOPL) >> 12;
}

static int pushf_value(struct x86_cpu *cpu, unsigned size, uint64_t *ret)
{
	uint64_t fl = cpu->s.rflags & ~(uint64_t)(X86_FL_VM | X86_FL_RF);

	if (in_vm86(cpu) && iopl(cpu) < 3) {
		if (!(cpu->s.cr4 & X86_CR4_VME) || size != 2)
			return x86_gp(cpu, 0);
		fl = (fl & ~(uint64_t)X86_FL_IF) | X86_FL_IOPL;
		if (fl & X86_FL_VIF)
			fl |= X86_FL_IF;
	}
	*ret = fl;
	return X86_NEXT;
}

#define POPF_ALL                                                                                   \
	(X86_FL_STATUS | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL | X86_FL_NT | X86_FL_RF | \
	 X86_FL_AC | X86_FL_ID)

/* POPF of 16 bits in virtual-8086 mode with VME: IF is VIF. */
static int popf_vme(struct x86_cpu *cpu, uint64_t v, uint64_t *ret_mask, uint64_t *ret_value)
{
	if (v & X86_FL_TF || (v & X86_FL_IF && cpu->s.rflags & X86_FL_VIP))
		return x86_gp(cpu, 0);
	*ret_mask = (POPF_ALL & 0xffff & ~(uint64_t)(X86_FL_IOPL | X86_FL_IF)) | X86_FL_VIF;
	*ret_value = (v & 0xffff) | (v & X86_FL_IF ? X86_FL_VIF : 0);
	return X86_NEXT;
}

/* Which bits a popped @v may change, and to what. */
static int popf_rules(struct x86_cpu *cpu, unsigned size, uint64_t v, uint64_t *ret_mask,
		      uint64_t *ret_value)
{
	uint64_t mask = size == 2 ? POPF_ALL & 0xffff : POPF_ALL;

	if (in_vm86(cpu)) {
		if (iopl(cpu) < 3) {
			if (size == 2 && cpu->s.cr4 & X86_CR4_VME)
				return popf_vme(cpu, v, ret_mask, ret_value);
			return x86_gp(cpu, 0);
		}
		mask &= ~(uint64_t)X86_FL_IOPL;
	} else if (cpu->cpl > 0) {
		mask &= ~(uint64_t)X86_FL_IOPL;
		if (cpu->cpl > iopl(cpu))
			mask &= ~(uint64_t)X86_FL_IF;
	}
	*ret_mask = mask;
	*ret_value = v & ~(uint64_t)X86_FL_RF; /* RF is cleared */
	return X86_NEXT;
}

static int popf(struct x86_cpu *cpu, unsigned size, uint64_t v)
{
	uint64_t mask, value, old = cpu->s.rflags, changed;

	if (popf_rules(cpu, size, v, &mask, &value) != X86_NEXT)
		return X86_FAULT;
	value &= POPF_ALL | X86_FL_VIF;
	x86_flags_set(cpu, mask, value);
	x86_move_sp(cpu, (int)size);
	changed = old ^ cpu->s.rflags;
	if (changed & (X86_FL_AC | X86_FL_TF))
		x86_update_mode(cpu);
	return changed & (X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_VIF | X86_FL_RF) ? X86_STOP :
											X86_NEXT;
}

#define FLAGS_SIZE(S, unused)                                                                      \
	X86_HANDLER(pushf##S)                                                                      \
	{                                                                                          \
		uint64_t v;                                                                        \
                                                                                                   \
		if (pushf_value(cpu, S, &v) != X86_NEXT)                                           \
			return X86_FAULT;                                                          \
		return x86_push_##S(cpu, (X86_T(S))v);                                             \
	}                                                                                          \
	X86_HANDLER(popf##S)                                                                       \
	{                                                                                          \
		X86_T(S) v;                                                                        \
                                                                                                   \
		if (x86_top_##S(cpu, &v) != X86_NEXT)                                              \
			return X86_FAULT;                                                          \
		return popf(cpu, S, v);                                                            \
	}
X86_EACH_WIDE(FLAGS_SIZE, )
