// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * iret.c - returns to the same or an outer privilege level, and IRET in every mode.
 *
 * SDM vol. 2, RET and IRET; vol. 3, 22.2 for virtual-8086 mode.
 */
#include "insns.h"
#include "softmmu.h"
#include "sys_int.h"

#include <string.h>

/* What an IRET or POPF of 32 bits may change at all. */
#define FLAGS_FREE                                                                                 \
	(X86_FL_STATUS | X86_FL_TF | X86_FL_DF | X86_FL_NT | X86_FL_RF | X86_FL_AC | X86_FL_ID)

uint64_t x86_flags_from_image(const struct x86_cpu *cpu, uint64_t image, unsigned opsize)
{
	uint64_t change = FLAGS_FREE;

	if (cpu->cpl <= x86_iopl(cpu) || x86_is_real(cpu))
		change |= X86_FL_IF;
	if (cpu->cpl == 0)
		change |= X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP;
	if (opsize == 2)
		change &= 0xffff;
	return (cpu->s.rflags & ~change) | (image & change) | X86_FL_ONE;
}

static int check_return_code(struct x86_cpu *cpu, const struct x86_return_to *to,
			     struct x86_desc *ret)
{
	unsigned rpl = to->cs & X86_SEL_RPL, dpl, attr;
	uint32_t error = to->cs & X86_SEL_MASK;
	int r;

	if (!error)
		return x86_gp(cpu, 0);
	r = x86_read_desc(cpu, to->cs, ret, X86_GP, 0);
	if (r != X86_NEXT)
		return r;
	dpl = x86_desc_dpl(ret);
	attr = x86_desc_attr(ret);
	if (!x86_desc_is_code(ret) || rpl < cpu->cpl ||
	    (x86_desc_is_conforming(ret) ? dpl > rpl : dpl != rpl))
		return x86_gp(cpu, error);
	if (cpu->long_mode && (attr & X86_SEG_L) && (attr & X86_SEG_DB))
		return x86_gp(cpu, error);
	if (!x86_desc_is_present(ret))
		return x86_raise_error(cpu, X86_NP, error);
	return X86_NEXT;
}

static int check_return_stack(struct x86_cpu *cpu, const struct x86_return_to *to, bool to_64_bit,
			      struct x86_segment *ret)
{
	unsigned rpl = to->cs & X86_SEL_RPL;
	struct x86_desc d;
	int r;

	if (!(to->ss & X86_SEL_MASK)) {
		if (!to_64_bit || rpl == 3 || (to->ss & X86_SEL_RPL) != rpl)
			return x86_gp(cpu, 0);
		*ret = x86_segment_null(to->ss, rpl);
		return X86_NEXT;
	}
	r = x86_check_stack_desc(cpu, to->ss, rpl, X86_GP, 0, &d);
	if (r == X86_NEXT)
		*ret = x86_segment_from_desc(to->ss, &d);
	return r;
}

/* An outer level must not inherit segments it could not have loaded. A null selector loses its RPL too (SDM 2A,
 * IRET, "RETURN-TO-OUTER-PRIVILEGE-LEVEL"); its base stays: 64-bit programs have one in FS with selector 0. */
static void drop_inner_segments(struct x86_cpu *cpu)
{
	static const uint8_t segs[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	for (unsigned i = 0; i < sizeof(segs); i++) {
		struct x86_segment *seg = &cpu->s.seg[segs[i]];
		unsigned dpl = (seg->attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT;
		bool conforming = (seg->attr & 0xcu) == 0xcu;

		if (!(seg->selector & X86_SEL_MASK))
			seg->selector = 0;
		if (seg->attr & X86_SEG_UNUSABLE)
			continue;
		if (dpl < cpu->cpl && (seg->attr & X86_SEG_S) && !conforming)
			*seg = x86_segment_null(0, 0);
	}
}

int x86_return_protected(struct x86_cpu *cpu, const struct x86_return_to *to)
{
	struct x86_state *s = &cpu->s;
	unsigned old_cpl = cpu->cpl, rpl = to->cs & X86_SEL_RPL;
	struct x86_segment ss = s->seg[X86_SS];
	struct x86_desc cs;
	bool to_64_bit;
	int r = check_return_code(cpu, to, &cs);

	if (r != X86_NEXT)
		return r;
	to_64_bit = cpu->long_mode && (x86_desc_attr(&cs) & X86_SEG_L);
	if (to->pops_stack)
		r = check_return_stack(cpu, to, to_64_bit, &ss);
	if (r != X86_NEXT)
		return r;
	if (to_64_bit ? !x86_is_canonical(to->rip) : to->rip > x86_desc_limit(&cs))
		return x86_gp(cpu, 0);
	r = x86_set_accessed(cpu, to->cs, &cs);
	if (r != X86_NEXT)
		return r;

	if (!to->pops_stack)
		x86_set_sp(cpu, s->gpr[X86_RSP] + to->drop_bytes);
	s->seg[X86_CS] = x86_segment_from_desc(to->cs, &cs);
	s->seg[X86_SS] = ss;
	s->rip = to->rip;
	if (to->pops_stack) {
		x86_update_mode(cpu); /* SP has the width of the new stack */
		x86_set_sp(cpu, to->rsp + to->extra_bytes);
	}
	if (rpl > old_cpl) {
		cpu->cpl = (uint8_t)rpl;
		drop_inner_segments(cpu);
	}
	x86_update_mode(cpu);
	return X86_STOP;
}

static int iret_8086(struct x86_cpu *cpu, unsigned opsize)
{
	struct x86_state *s = &cpu->s;
	bool v86 = x86_is_v86(cpu) && !x86_is_real(cpu);
	bool virtual_if = v86 && x86_iopl(cpu) < 3;
	uint64_t ip, cs, flags, change;
	int r;

	if (virtual_if && (!(s->cr4 & X86_CR4_VME) || opsize != 2))
		return x86_gp(cpu, 0);
	r = x86_peek(cpu, 0, opsize, &ip);
	if (r == X86_NEXT)
		r = x86_peek(cpu, opsize, opsize, &cs);
	if (r == X86_NEXT)
		r = x86_peek(cpu, 2 * opsize, opsize, &flags);
	if (r != X86_NEXT)
		return r;
	if (ip > (v86 ? 0xffff : s->seg[X86_CS].limit))
		return x86_gp(cpu, 0);
	if (virtual_if && ((flags & X86_FL_TF) ||
			   ((flags & X86_FL_IF) && (s->rflags & X86_FL_VIP))))
		return x86_gp(cpu, 0);

	change = FLAGS_FREE | (virtual_if ? 0 : X86_FL_IF) | (v86 ? 0 : X86_FL_IOPL);
	if (opsize == 2)
		change &= 0xffff;
	x86_set_sp(cpu, s->gpr[X86_RSP] + 3 * opsize);
	s->rflags = (s->rflags & ~change) | (flags & change) | X86_FL_ONE;
	if (virtual_if)
		s->rflags = (s->rflags & ~(uint64_t)X86_FL_VIF) |
			    ((flags & X86_FL_IF) ? X86_FL_VIF : 0);
	s->seg[X86_CS] = v86 ? x86_segment_v86((uint16_t)cs)
			     : x86_segment_real(cpu, X86_CS, (uint16_t)cs);
	s->rip = ip;
	x86_update_mode(cpu);
	return X86_STOP;
}

/* IRET with NT: back to the task that called this one. */
static int iret_task(struct x86_cpu *cpu)
{
	struct x86_desc d;
	uint16_t selector;
	uint32_t error;
	int r = x86_read_sys(cpu, cpu->s.tr.base, &selector, 2);

	if (r != X86_NEXT)
		return r;
	error = selector & X86_SEL_MASK;
	if (!error || (selector & X86_SEL_TI))
		return x86_raise_error(cpu, X86_TS, error);
	r = x86_read_desc(cpu, selector, &d, X86_TS, 0);
	if (r != X86_NEXT)
		return r;
	if (x86_desc_is_segment(&d) || (x86_desc_type(&d) != X86_DESC_TSS16_BUSY &&
					x86_desc_type(&d) != X86_DESC_TSS32_BUSY))
		return x86_raise_error(cpu, X86_TS, error);
	if (!x86_desc_is_present(&d))
		return x86_raise_error(cpu, X86_NP, error);
	return x86_task_transfer(cpu, selector, &d, X86_TASK_IRET);
}

static int iret_to_v86(struct x86_cpu *cpu, uint64_t ip, uint64_t cs, uint64_t flags)
{
	static const uint8_t order[] = { X86_SS, X86_ES, X86_DS, X86_FS, X86_GS };
	struct x86_state *s = &cpu->s;
	uint64_t value[6]; /* ESP, then the segments */

	for (unsigned i = 0; i < 6; i++) {
		int r = x86_peek(cpu, 12 + i * 4, 4, &value[i]);

		if (r != X86_NEXT)
			return r;
	}
	if (ip > 0xffff)
		return x86_gp(cpu, 0);
	s->rflags = x86_flags_from_image(cpu, flags, 4) | X86_FL_VM;
	s->seg[X86_CS] = x86_segment_v86((uint16_t)cs);
	for (unsigned i = 0; i < sizeof(order); i++)
		s->seg[order[i]] = x86_segment_v86((uint16_t)value[i + 1]);
	s->gpr[X86_RSP] = value[0];
	s->rip = ip;
	x86_update_mode(cpu);
	return X86_STOP;
}

/* IRETQ of 64-bit code: all five words at once. A fault of the access is the first word's that has it, as
 * they lie in two pages at most. */
static int iret_64(struct x86_cpu *cpu)
{
	uint64_t word[5], old = cpu->s.rflags, flags;
	struct x86_return_to to;
	int r = x86_read(cpu, X86_SS, cpu->s.gpr[X86_RSP], word, sizeof(word));

	if (r != X86_NEXT)
		return r;
	to = (struct x86_return_to){
		.rip = word[0], .cs = (uint16_t)word[1], .rsp = word[3], .ss = (uint16_t)word[4],
		.pops_stack = true,
	};
	flags = x86_flags_from_image(cpu, word[2], 8);
	r = x86_return_protected(cpu, &to);
	if (r == X86_FAULT)
		return r;
	cpu->s.rflags = flags;
	if ((old ^ flags) & (X86_FL_TF | X86_FL_AC))
		x86_update_mode(cpu);
	return r;
}

/* IRETQ from the kernel to 64-bit code at privilege 0 or 3, where the TLB answers each look at memory. False:
 * nothing was done. */
static bool usual_iret(struct x86_cpu *cpu)
{
	struct x86_state *s = &cpu->s;
	struct x86_segment ss;
	struct x86_desc d;
	const uint8_t *p;
	uint64_t word[5];
	unsigned rpl;

	if (cpu->code_bytes != 8 || cpu->cpl || cpu->debug_armed || cpu->by_the_book ||
	    s->rflags & X86_FL_NT)
		return false;
	p = x86_host_read(cpu, s->gpr[X86_RSP], sizeof(word));
	if (!p)
		return false;
	memcpy(word, p, sizeof(word));
	rpl = word[1] & X86_SEL_RPL;
	if (word[2] & (X86_FL_TF | X86_FL_VM) || (rpl && rpl != 3) || !x86_is_canonical(word[0]) ||
	    (word[4] & X86_SEL_RPL) != rpl)
		return false;
	if (!(word[4] & X86_SEL_MASK) && !rpl)
		ss = x86_segment_null(0, 0);
	else if (x86_desc_quickly(cpu, (uint16_t)word[4], X86_DESC_DATA, rpl, &d))
		ss = x86_segment_from_desc((uint16_t)word[4], &d);
	else
		return false;
	if (!x86_desc_quickly(cpu, (uint16_t)word[1], X86_DESC_CODE64, rpl, &d))
		return false;

	s->seg[X86_CS] = x86_segment_from_desc((uint16_t)word[1], &d);
	s->seg[X86_SS] = ss;
	s->rip = word[0];
	s->gpr[X86_RSP] = word[3];
	s->rflags = x86_flags_from_image(cpu, word[2], 8);
	if (rpl) {
		cpu->cpl = 3;
		drop_inner_segments(cpu);
	}
	x86_turn_mode(cpu, rpl);
	return true;
}

static int iret_protected(struct x86_cpu *cpu, unsigned opsize)
{
	struct x86_return_to to = { .drop_bytes = 3 * opsize };
	uint64_t cs, ss = 0, flags, new_flags;
	int r;

	if (cpu->s.rflags & X86_FL_NT)
		return cpu->long_mode ? x86_gp(cpu, 0) : iret_task(cpu);
	if (opsize == 8 && cpu->code_bytes == 8)
		return iret_64(cpu);
	r = x86_peek(cpu, 0, opsize, &to.rip);
	if (r == X86_NEXT)
		r = x86_peek(cpu, opsize, opsize, &cs);
	if (r == X86_NEXT)
		r = x86_peek(cpu, 2 * opsize, opsize, &flags);
	if (r != X86_NEXT)
		return r;
	if (opsize == 4 && (flags & X86_FL_VM) && cpu->cpl == 0 && !cpu->long_mode)
		return iret_to_v86(cpu, to.rip, cs, flags);
	to.cs = (uint16_t)cs;
	/* 64-bit code always pops a stack. */
	to.pops_stack = cpu->code_bytes == 8 || (to.cs & X86_SEL_RPL) > cpu->cpl;
	if (to.pops_stack) {
		r = x86_peek(cpu, 3 * opsize, opsize, &to.rsp);
		if (r == X86_NEXT)
			r = x86_peek(cpu, 4 * opsize, opsize, &ss);
		if (r != X86_NEXT)
			return r;
		to.ss = (uint16_t)ss;
	}
	new_flags = x86_flags_from_image(cpu, flags, opsize);
	r = x86_return_protected(cpu, &to);
	if (r == X86_FAULT)
		return r;
	cpu->s.rflags = new_flags;
	x86_update_mode(cpu);
	return r;
}

int x86_iret(struct x86_cpu *cpu, unsigned opsize)
{
	int r;

	if (opsize == 8 && usual_iret(cpu)) {
		cpu->s.nmi_masked = false;
		return X86_STOP;
	}
	r = x86_is_protected(cpu) ? iret_protected(cpu, opsize) : iret_8086(cpu, opsize);
	if (r != X86_FAULT)
		cpu->s.nmi_masked = false;
	return r;
}

int x86_op_iret(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_iret(cpu, insn->opsize);
}
