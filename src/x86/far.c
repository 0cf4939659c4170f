// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * far.c - far jumps, calls and returns: direct, through call gates of all three sizes, to tasks.
 *
 * Order of checks: SDM vol. 2, JMP, CALL, RET; vol. 3, 6.8.
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

static int far_jump_8086(struct x86_cpu *cpu, uint16_t selector, uint64_t offset)
{
	struct x86_state *s = &cpu->s;
	bool v86 = x86_is_v86(cpu);

	if (offset > (v86 ? 0xffff : s->seg[X86_CS].limit))
		return x86_gp(cpu, 0);
	s->seg[X86_CS] = v86 ? x86_segment_v86(selector) : x86_segment_real(cpu, X86_CS, selector);
	s->rip = offset;
	x86_update_mode(cpu);
	return X86_STOP;
}

/* A code segment for a direct jump or call (@gate false), or as the target of a call gate.
 * Checks type, privilege, presence and the L and D bits. */
static int check_code_desc(struct x86_cpu *cpu, uint16_t selector, bool gate, bool call,
			   struct x86_desc *ret)
{
	uint32_t error = selector & X86_SEL_MASK;
	unsigned dpl = x86_desc_dpl(ret), attr = x86_desc_attr(ret);
	bool ok;

	if (!x86_desc_is_code(ret))
		return x86_gp(cpu, error);
	if (x86_desc_is_conforming(ret))
		ok = dpl <= cpu->cpl;
	else if (gate)
		ok = call ? dpl <= cpu->cpl : dpl == cpu->cpl;
	else
		ok = dpl == cpu->cpl && (selector & X86_SEL_RPL) <= cpu->cpl;
	if (!ok)
		return x86_gp(cpu, error);
	if (cpu->long_mode && (attr & X86_SEG_L) && ((attr & X86_SEG_DB)))
		return x86_gp(cpu, error);
	if (cpu->long_mode && gate && !(attr & X86_SEG_L))
		return x86_gp(cpu, error);
	if (!x86_desc_is_present(ret))
		return x86_raise_error(cpu, X86_NP, error);
	return X86_NEXT;
}

static bool goes_to_64_bit(const struct x86_cpu *cpu, const struct x86_desc *cs)
{
	return cpu->long_mode && (x86_desc_attr(cs) & X86_SEG_L);
}

static int check_offset(struct x86_cpu *cpu, const struct x86_desc *cs, uint64_t offset)
{
	bool ok = goes_to_64_bit(cpu, cs) ? x86_is_canonical(offset) : offset <= x86_desc_limit(cs);

	return ok ? X86_NEXT : x86_gp(cpu, 0);
}

/* The last step of a transfer at privilege @cpl. */
static int enter_code(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *cs, unsigned cpl,
		      uint64_t offset)
{
	int r = x86_set_accessed(cpu, selector, cs);

	if (r != X86_NEXT)
		return r;
	cpu->s.seg[X86_CS] = x86_segment_from_desc((uint16_t)((selector & ~X86_SEL_RPL) | cpl), cs);
	cpu->s.rip = offset;
	x86_update_mode(cpu);
	return X86_STOP;
}

/* Read what @selector names and sort it: *@ret_system when it is a gate or a TSS whose privilege
 * allows the use. */
static int read_target(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *ret)
{
	unsigned dpl;
	int r;

	if (!(selector & X86_SEL_MASK))
		return x86_gp(cpu, 0);
	r = x86_read_desc(cpu, selector, ret, X86_GP, 0);
	if (r != X86_NEXT || x86_desc_is_segment(ret))
		return r;
	dpl = x86_desc_dpl(ret);
	if (dpl < cpu->cpl || dpl < (selector & X86_SEL_RPL))
		return x86_gp(cpu, selector & X86_SEL_MASK);
	return X86_NEXT;
}

struct call_gate {
	uint16_t selector;
	unsigned size;	 /* of a pushed word */
	unsigned params; /* words to copy */
	uint64_t offset;
	struct x86_desc cs;
};

static int read_call_gate(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *d,
			  bool call, struct call_gate *ret)
{
	uint32_t high = 0;
	int r;

	if (!x86_desc_is_present(d))
		return x86_raise_error(cpu, X86_NP, selector & X86_SEL_MASK);
	if (cpu->long_mode) {
		r = x86_read_desc_high(cpu, selector, &high, X86_GP, 0);
		if (r != X86_NEXT)
			return r;
	}
	ret->selector = (uint16_t)(d->lo >> 16);
	ret->offset = (d->lo & 0xffffu) | (d->hi & 0xffff0000u) | ((uint64_t)high << 32);
	ret->size = cpu->long_mode ? 8 : (x86_desc_type(d) & 8) ? 4 : 2;
	ret->offset &= x86_size_mask(ret->size);
	ret->params = cpu->long_mode ? 0 : d->hi & 31;
	if (!(ret->selector & X86_SEL_MASK))
		return x86_gp(cpu, 0);
	r = x86_read_desc(cpu, ret->selector, &ret->cs, X86_GP, 0);
	return r != X86_NEXT ? r : check_code_desc(cpu, ret->selector, true, call, &ret->cs);
}

static int jump_through_gate(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *d)
{
	struct call_gate gate;
	int r = read_call_gate(cpu, selector, d, false, &gate);

	if (r == X86_NEXT)
		r = check_offset(cpu, &gate.cs, gate.offset);
	if (r != X86_NEXT)
		return r;
	return enter_code(cpu, gate.selector, &gate.cs, cpu->cpl, gate.offset);
}

/* TSS and task gate, legacy mode only. */
static int transfer_to_task(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *d,
			    enum x86_task_source source)
{
	int r;

	if (x86_desc_type(d) == X86_DESC_TASK) {
		if (!x86_desc_is_present(d))
			return x86_raise_error(cpu, X86_NP, selector & X86_SEL_MASK);
		selector = (uint16_t)(d->lo >> 16);
		if (!(selector & X86_SEL_MASK) || (selector & X86_SEL_TI))
			return x86_gp(cpu, selector & X86_SEL_MASK);
		r = x86_read_desc(cpu, selector, d, X86_GP, 0);
		if (r != X86_NEXT)
			return r;
	}
	if ((selector & X86_SEL_TI) || x86_desc_is_segment(d) ||
	    (x86_desc_type(d) != X86_DESC_TSS16 && x86_desc_type(d) != X86_DESC_TSS32))
		return x86_gp(cpu, selector & X86_SEL_MASK);
	if (!x86_desc_is_present(d))
		return x86_raise_error(cpu, X86_NP, selector & X86_SEL_MASK);
	return x86_task_transfer(cpu, selector, d, source);
}

static bool is_call_gate(const struct x86_cpu *cpu, const struct x86_desc *d)
{
	unsigned type = x86_desc_type(d);

	return type == X86_DESC_CALL32 || (type == X86_DESC_CALL16 && !cpu->long_mode);
}

int x86_far_jump(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize)
{
	struct x86_desc d;
	int r;

	offset &= x86_size_mask(opsize);
	if (!x86_is_protected(cpu))
		return far_jump_8086(cpu, selector, offset);
	r = read_target(cpu, selector, &d);
	if (r != X86_NEXT)
		return r;
	if (x86_desc_is_segment(&d)) {
		r = check_code_desc(cpu, selector, false, false, &d);
		if (r == X86_NEXT)
			r = check_offset(cpu, &d, offset);
		return r != X86_NEXT ? r : enter_code(cpu, selector, &d, cpu->cpl, offset);
	}
	if (is_call_gate(cpu, &d))
		return jump_through_gate(cpu, selector, &d);
	if (cpu->long_mode)
		return x86_gp(cpu, selector & X86_SEL_MASK);
	return transfer_to_task(cpu, selector, &d, X86_TASK_JUMP);
}

static int push_return(struct x86_cpu *cpu, unsigned size)
{
	uint64_t frame[2] = { cpu->s.seg[X86_CS].selector, cpu->s.rip };

	return x86_push_values(cpu, frame, 2, size);
}

static int call_same_level(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *cs,
			   uint64_t offset, unsigned size)
{
	struct x86_frame_save save;
	int r = check_offset(cpu, cs, offset);

	if (r != X86_NEXT)
		return r;
	x86_frame_save(cpu, &save);
	r = push_return(cpu, size);
	if (r != X86_NEXT)
		return r;
	r = enter_code(cpu, selector, cs, cpu->cpl, offset);
	if (r == X86_FAULT)
		x86_frame_restore(cpu, &save);
	return r;
}

/* Parameters go from the caller's stack to the new one, the last pushed lowest on both. */
static int read_params(struct x86_cpu *cpu, const struct call_gate *gate, uint64_t *params)
{
	for (unsigned i = 0; i < gate->params; i++) {
		unsigned from = (gate->params - 1 - i) * gate->size;
		int r = x86_peek(cpu, from, gate->size, &params[i]);

		if (r != X86_NEXT)
			return r;
	}
	return X86_NEXT;
}

static int inner_stack(struct x86_cpu *cpu, unsigned cpl, struct x86_segment *ret_ss,
		       uint64_t *ret_sp)
{
	struct x86_desc d;
	uint16_t ss;
	int r = x86_tss_stack(cpu, cpl, 0, &ss, ret_sp);

	if (r != X86_NEXT)
		return r;
	if (cpu->long_mode) {
		*ret_ss = x86_segment_null(ss, cpl);
		return x86_is_canonical(*ret_sp) ? X86_NEXT : x86_raise_error(cpu, X86_SS_FAULT, 0);
	}
	if (!(ss & X86_SEL_MASK))
		return x86_raise_error(cpu, X86_TS, 0);
	r = x86_check_stack_desc(cpu, ss, cpl, X86_TS, 0, &d);
	if (r == X86_NEXT)
		*ret_ss = x86_segment_from_desc(ss, &d);
	return r;
}

static int call_inner_level(struct x86_cpu *cpu, struct call_gate *gate, unsigned cpl)
{
	struct x86_state *s = &cpu->s;
	uint64_t params[31] = { 0 }, sp;
	uint64_t old_stack[2] = { s->seg[X86_SS].selector, s->gpr[X86_RSP] };
	uint64_t old_code[2] = { s->seg[X86_CS].selector, s->rip };
	struct x86_frame_save save;
	struct x86_segment ss;
	int r = inner_stack(cpu, cpl, &ss, &sp);

	if (r == X86_NEXT)
		r = check_offset(cpu, &gate->cs, gate->offset);
	if (r == X86_NEXT)
		r = read_params(cpu, gate, params);
	if (r == X86_NEXT)
		r = x86_set_accessed(cpu, gate->selector, &gate->cs);
	if (r != X86_NEXT)
		return r;
	x86_frame_save(cpu, &save);
	s->seg[X86_CS] = x86_segment_from_desc((uint16_t)((gate->selector & ~X86_SEL_RPL) | cpl),
					       &gate->cs);
	s->seg[X86_SS] = ss;
	s->gpr[X86_RSP] = sp;
	x86_update_mode(cpu);
	r = x86_push_values(cpu, old_stack, 2, gate->size);
	for (unsigned i = 0; i < gate->params && r == X86_NEXT; i++)
		r = x86_push_values(cpu, &params[i], 1, gate->size);
	if (r == X86_NEXT)
		r = x86_push_values(cpu, old_code, 2, gate->size);
	if (r != X86_NEXT) {
		x86_frame_restore(cpu, &save);
		if (cpu->fault.vector == X86_SS_FAULT)
			cpu->fault.error |= ss.selector & X86_SEL_MASK;
		return r;
	}
	s->rip = gate->offset;
	return X86_STOP;
}

static int call_through_gate(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *d)
{
	struct call_gate gate;
	int r = read_call_gate(cpu, selector, d, true, &gate);

	if (r != X86_NEXT)
		return r;
	if (!x86_desc_is_conforming(&gate.cs) && x86_desc_dpl(&gate.cs) < cpu->cpl)
		return call_inner_level(cpu, &gate, x86_desc_dpl(&gate.cs));
	return call_same_level(cpu, gate.selector, &gate.cs, gate.offset, gate.size);
}

static int far_call_8086(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize)
{
	uint32_t limit = x86_is_v86(cpu) ? 0xffff : cpu->s.seg[X86_CS].limit;
	int r;

	if (offset > limit)
		return x86_gp(cpu, 0);
	r = push_return(cpu, opsize);
	return r != X86_NEXT ? r : far_jump_8086(cpu, selector, offset);
}

int x86_far_call(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize)
{
	struct x86_desc d;
	int r;

	offset &= x86_size_mask(opsize);
	if (!x86_is_protected(cpu))
		return far_call_8086(cpu, selector, offset, opsize);
	r = read_target(cpu, selector, &d);
	if (r != X86_NEXT)
		return r;
	if (x86_desc_is_segment(&d)) {
		r = check_code_desc(cpu, selector, false, true, &d);
		return r != X86_NEXT ? r : call_same_level(cpu, selector, &d, offset, opsize);
	}
	if (is_call_gate(cpu, &d))
		return call_through_gate(cpu, selector, &d);
	if (cpu->long_mode)
		return x86_gp(cpu, selector & X86_SEL_MASK);
	return transfer_to_task(cpu, selector, &d, X86_TASK_CALL);
}

int x86_far_return(struct x86_cpu *cpu, unsigned opsize, unsigned pop_bytes)
{
	struct x86_return_to to = { .drop_bytes = 2 * opsize + pop_bytes };
	uint64_t selector;
	int r = x86_peek(cpu, 0, opsize, &to.rip);

	/* Only the lower half of a selector's word counts. */
	if (r == X86_NEXT)
		r = x86_peek(cpu, opsize, opsize, &selector);
	if (r != X86_NEXT)
		return r;
	to.cs = (uint16_t)selector;
	if (!x86_is_protected(cpu)) {
		uint32_t limit = x86_is_v86(cpu) ? 0xffff : cpu->s.seg[X86_CS].limit;

		if (to.rip > limit)
			return x86_gp(cpu, 0);
		x86_set_sp(cpu, cpu->s.gpr[X86_RSP] + to.drop_bytes);
		return far_jump_8086(cpu, to.cs, to.rip);
	}
	to.pops_stack = (to.cs & X86_SEL_RPL) > cpu->cpl;
	if (to.pops_stack) {
		r = x86_peek(cpu, to.drop_bytes, opsize, &to.rsp);
		if (r == X86_NEXT)
			r = x86_peek(cpu, to.drop_bytes + opsize, opsize, &selector);
		if (r != X86_NEXT)
			return r;
		to.ss = (uint16_t)selector;
		to.extra_bytes = pop_bytes;
	}
	return x86_return_protected(cpu, &to);
}

/* ---- the instructions ---- */

static int load_far_pointer(struct x86_cpu *cpu, const struct x86_insn *insn, uint16_t *ret_sel,
			    uint64_t *ret_offset)
{
	uint8_t buf[10] = { 0 };
	int r = x86_load_rm(cpu, insn, buf, insn->opsize + 2u);

	if (r != X86_NEXT)
		return r;
	*ret_offset = 0;
	memcpy(ret_offset, buf, insn->opsize);
	memcpy(ret_sel, buf + insn->opsize, 2);
	return X86_NEXT;
}

int x86_op_jmp_far(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_far_jump(cpu, insn->sel, insn->imm, insn->opsize);
}

int x86_op_call_far(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_far_call(cpu, insn->sel, insn->imm, insn->opsize);
}

int x86_op_jmp_far_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t offset;
	uint16_t selector;
	int r = load_far_pointer(cpu, insn, &selector, &offset);

	return r != X86_NEXT ? r : x86_far_jump(cpu, selector, offset, insn->opsize);
}

int x86_op_call_far_m(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t offset;
	uint16_t selector;
	int r = load_far_pointer(cpu, insn, &selector, &offset);

	return r != X86_NEXT ? r : x86_far_call(cpu, selector, offset, insn->opsize);
}

int x86_op_ret_far(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_far_return(cpu, insn->opsize, 0);
}

int x86_op_ret_far_imm(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_far_return(cpu, insn->opsize, (uint16_t)insn->imm);
}
