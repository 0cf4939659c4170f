// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * gate.c - interrupts and exceptions through the IDT: real mode, protected mode, virtual-8086 mode
 * with its redirection, long mode. SDM vol. 3, chapters 7 and 22; vol. 2, INT.
 *
 * Theory of operation: a delivery first works out the new CS, SS and stack pointer, then puts them
 * into the state, so that pushes go through the ordinary store path with the rights of the new
 * privilege level. When a push faults, what was put is taken back, and the caller sees a fault
 * with nothing changed.
 */
#include "softmmu.h"
#include "sys_int.h"

#include <string.h>

#define FRAME_MAX 10 /* GS FS DS ES SS SP FLAGS CS IP error */

void x86_frame_save(const struct x86_cpu *cpu, struct x86_frame_save *save)
{
	const struct x86_state *s = &cpu->s;

	*save = (struct x86_frame_save){
		.cs = s->seg[X86_CS], .ss = s->seg[X86_SS], .rsp = s->gpr[X86_RSP],
		.rip = s->rip, .rflags = s->rflags
	};
}

void x86_frame_restore(struct x86_cpu *cpu, const struct x86_frame_save *save)
{
	struct x86_state *s = &cpu->s;

	s->seg[X86_CS] = save->cs;
	s->seg[X86_SS] = save->ss;
	s->gpr[X86_RSP] = save->rsp;
	s->rip = save->rip;
	s->rflags = save->rflags;
	x86_update_mode(cpu);
}

void x86_set_sp(struct x86_cpu *cpu, uint64_t sp)
{
	uint64_t mask = x86_size_mask(cpu->stack_bytes);
	uint64_t *rsp = &cpu->s.gpr[X86_RSP];

	/* A 32-bit stack pointer clears the upper half, as any 32-bit write; a 16-bit one keeps
	 * what is above it. */
	*rsp = cpu->stack_bytes == 2 ? (*rsp & ~mask) | (sp & mask) : sp & mask;
}

static void encode(uint8_t *buf, const uint64_t *values, unsigned n, unsigned size)
{
	/* The first value is pushed first, hence lies highest. */
	for (unsigned i = 0; i < n; i++)
		memcpy(buf + (n - 1 - i) * size, &values[i], size);
}

int x86_push_values(struct x86_cpu *cpu, const uint64_t *values, unsigned n, unsigned size)
{
	uint8_t buf[FRAME_MAX * 8];
	uint64_t mask = x86_size_mask(cpu->stack_bytes);
	uint64_t sp = cpu->s.gpr[X86_RSP] & mask;
	unsigned total = n * size;
	int r = X86_NEXT;

	encode(buf, values, n, size);
	if (sp >= total && total <= 64) {
		r = x86_write(cpu, X86_SS, sp - total, buf, total);
	} else {
		for (unsigned i = 1; i <= n && r == X86_NEXT; i++)
			r = x86_write(cpu, X86_SS, (sp - i * size) & mask, buf + (n - i) * size,
				      size);
	}
	if (r == X86_NEXT)
		x86_set_sp(cpu, sp - total);
	return r;
}

int x86_peek(struct x86_cpu *cpu, uint64_t offset, unsigned size, uint64_t *ret)
{
	uint64_t sp = cpu->s.gpr[X86_RSP] + offset;
	uint64_t value = 0;
	int r = x86_read(cpu, X86_SS, sp & x86_size_mask(cpu->stack_bytes), &value, size);

	*ret = value;
	return r;
}

static int tss_read(struct x86_cpu *cpu, uint32_t offset, void *buf, unsigned len, unsigned ext)
{
	const struct x86_segment *tr = &cpu->s.tr;

	if (tr->limit < len - 1 || offset > tr->limit - (len - 1))
		return x86_raise_error(cpu, X86_TS, (tr->selector & X86_SEL_MASK) | ext);
	return x86_read_sys(cpu, tr->base + offset, buf, len);
}

int x86_tss_stack(struct x86_cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ret_ss,
		  uint64_t *ret_sp)
{
	uint8_t buf[8];
	int r;

	*ret_sp = 0;
	if (cpu->long_mode) {
		*ret_ss = (uint16_t)cpl;
		return tss_read(cpu, cpl * 8 + 4, ret_sp, 8, ext);
	}
	if (cpu->s.tr.attr & 8) {
		r = tss_read(cpu, cpl * 8 + 4, buf, 6, ext);
		memcpy(ret_sp, buf, 4);
		memcpy(ret_ss, buf + 4, 2);
	} else {
		r = tss_read(cpu, cpl * 4 + 2, buf, 4, ext);
		memcpy(ret_sp, buf, 2);
		memcpy(ret_ss, buf + 2, 2);
	}
	return r;
}

/* ---- real mode, and virtual-8086 mode's redirection to its own handlers ---- */

static void enter_8086_handler(struct x86_cpu *cpu, uint32_t far_pointer)
{
	uint16_t cs = (uint16_t)(far_pointer >> 16);

	cpu->s.seg[X86_CS] = x86_is_v86(cpu) ? x86_segment_v86(cs)
					     : x86_segment_real(cpu, X86_CS, cs);
	cpu->s.rip = far_pointer & 0xffff;
}

static int deliver_real(struct x86_cpu *cpu, const struct x86_event *event)
{
	struct x86_state *s = &cpu->s;
	uint64_t frame[3] = { s->rflags, s->seg[X86_CS].selector, s->rip };
	unsigned off = event->vector * 4u;
	uint32_t entry;
	int r;

	if (off + 3 > s->idtr.limit)
		return x86_gp(cpu, off + X86_ERR_IDT + (event->software ? 0 : X86_ERR_EXT));
	r = x86_read_sys(cpu, s->idtr.base + off, &entry, 4);
	if (r == X86_NEXT)
		r = x86_push_values(cpu, frame, 3, 2);
	if (r != X86_NEXT)
		return r;
	s->rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_TF | X86_FL_AC | X86_FL_RF);
	enter_8086_handler(cpu, entry);
	x86_update_mode(cpu);
	return X86_STOP;
}

/* INT n in virtual-8086 mode whose bit in the redirection map is clear: SDM vol. 3, 22.3.1. */
static int deliver_redirected(struct x86_cpu *cpu, uint8_t vector)
{
	struct x86_state *s = &cpu->s;
	bool virtual_if = x86_iopl(cpu) < 3;
	uint64_t flags = s->rflags;
	uint32_t entry;
	int r;

	if (virtual_if) {
		flags |= X86_FL_IOPL;
		flags = (flags & ~(uint64_t)X86_FL_IF) | ((flags & X86_FL_VIF) ? X86_FL_IF : 0);
	}

	uint64_t frame[3] = { flags, s->seg[X86_CS].selector, s->rip };

	/* The table lies at linear 0 and belongs to the program. */
	r = x86_read_sys(cpu, vector * 4u, &entry, 4);
	if (r == X86_NEXT)
		r = x86_push_values(cpu, frame, 3, 2);
	if (r != X86_NEXT)
		return r;
	s->rflags &= ~(uint64_t)(X86_FL_TF | X86_FL_RF | X86_FL_NT |
				 (virtual_if ? X86_FL_VIF : X86_FL_IF));
	enter_8086_handler(cpu, entry);
	x86_update_mode(cpu);
	return X86_STOP;
}

/* *@ret_redirected: the bit of @vector in the map below the I/O map is clear. */
static int redirection_bit(struct x86_cpu *cpu, uint8_t vector, bool *ret_redirected)
{
	const struct x86_segment *tr = &cpu->s.tr;
	uint16_t map;
	uint8_t byte;
	int r;

	if (tr->limit < 0x67 || !(tr->attr & 8))
		return x86_gp(cpu, 0);
	r = x86_read_sys(cpu, tr->base + 0x66, &map, 2);
	if (r != X86_NEXT)
		return r;
	if (map < 32 || map - 32u + vector / 8u > tr->limit)
		return x86_gp(cpu, 0);
	r = x86_read_sys(cpu, tr->base + map - 32u + vector / 8u, &byte, 1);
	*ret_redirected = !(byte & (1u << (vector & 7)));
	return r;
}

/* ---- protected and long mode ---- */

struct gate {
	unsigned type;
	unsigned dpl;
	bool present;
	bool wide; /* a 16-byte gate of long mode */
	unsigned ist;
	uint16_t selector;
	uint64_t offset;
};

static int read_gate(struct x86_cpu *cpu, uint8_t vector, unsigned error, struct gate *ret)
{
	const struct x86_table *idt = &cpu->s.idtr;
	unsigned bytes = cpu->long_mode ? 16 : 8;
	uint32_t off = vector * bytes;
	uint32_t w[4] = { 0 };
	int r;

	if (off + bytes - 1 > idt->limit)
		return x86_gp(cpu, error);
	r = x86_read_sys(cpu, idt->base + off, w, bytes);
	if (r != X86_NEXT)
		return r;
	*ret = (struct gate){
		.type = (w[1] >> 8) & 0x1f, /* with the S bit, which must be clear */
		.dpl = (w[1] >> 13) & 3,
		.present = w[1] & (1u << 15),
		.wide = cpu->long_mode,
		.ist = cpu->long_mode ? w[1] & 7 : 0,
		.selector = (uint16_t)(w[0] >> 16),
		.offset = (w[0] & 0xffffu) | (w[1] & 0xffff0000u) | ((uint64_t)w[2] << 32),
	};
	return X86_NEXT;
}

static bool gate_type_is_valid(const struct x86_cpu *cpu, unsigned type)
{
	if (type == X86_DESC_INT32 || type == X86_DESC_TRAP32)
		return true;
	return !cpu->long_mode &&
	       (type == X86_DESC_TASK || type == X86_DESC_INT16 || type == X86_DESC_TRAP16);
}

/* The code segment of a gate, checked; *@ret_cpl is the privilege of the handler. */
static int check_handler(struct x86_cpu *cpu, const struct gate *gate, unsigned ext,
			 struct x86_desc *ret, unsigned *ret_cpl)
{
	uint32_t error = (gate->selector & X86_SEL_MASK) | ext;
	int r;

	if (!(gate->selector & X86_SEL_MASK))
		return x86_gp(cpu, ext);
	r = x86_read_desc(cpu, gate->selector, ret, X86_GP, ext);
	if (r != X86_NEXT)
		return r;
	if (!x86_desc_is_code(ret) || x86_desc_dpl(ret) > cpu->cpl)
		return x86_gp(cpu, error);
	if (cpu->long_mode && (x86_desc_attr(ret) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
		return x86_gp(cpu, error);
	if (!x86_desc_is_present(ret))
		return x86_raise_error(cpu, X86_NP, error);
	*ret_cpl = x86_desc_is_conforming(ret) ? cpu->cpl : x86_desc_dpl(ret);
	/* Virtual-8086 mode is left for privilege 0 only. */
	if (x86_is_v86(cpu) && *ret_cpl != 0)
		return x86_gp(cpu, error);
	return X86_NEXT;
}

/* Puts the handler's stack into the state. *@ret_ss_error: what an #SS on it carries. */
static int enter_stack(struct x86_cpu *cpu, const struct gate *gate, unsigned cpl, unsigned ext,
		       struct x86_segment *ret_ss, uint64_t *ret_sp)
{
	bool inner = cpl < cpu->cpl;
	struct x86_desc d;
	uint16_t ss;
	int r;

	*ret_ss = cpu->s.seg[X86_SS];
	*ret_sp = cpu->s.gpr[X86_RSP];
	if (cpu->long_mode) {
		r = X86_NEXT;
		if (gate->ist)
			r = tss_read(cpu, 28 + gate->ist * 8, ret_sp, 8, ext);
		else if (inner)
			r = x86_tss_stack(cpu, cpl, ext, &ss, ret_sp);
		if (r != X86_NEXT)
			return r;
		if (inner)
			*ret_ss = x86_segment_null((uint16_t)cpl, cpl);
		if (!x86_is_canonical(*ret_sp))
			return x86_raise_error(cpu, X86_SS_FAULT, ext);
		*ret_sp &= ~0xfull;
		return X86_NEXT;
	}
	if (!inner)
		return X86_NEXT;
	r = x86_tss_stack(cpu, cpl, ext, &ss, ret_sp);
	if (r != X86_NEXT)
		return r;
	if (!(ss & X86_SEL_MASK))
		return x86_raise_error(cpu, X86_TS, ext);
	r = x86_check_stack_desc(cpu, ss, cpl, X86_TS, ext, &d);
	if (r == X86_NEXT)
		*ret_ss = x86_segment_from_desc(ss, &d);
	return r;
}

static unsigned build_frame(const struct x86_cpu *cpu, const struct x86_event *event, bool stack,
			    uint64_t *frame)
{
	const struct x86_state *s = &cpu->s;
	unsigned n = 0;

	if (x86_is_v86(cpu)) {
		frame[n++] = s->seg[X86_GS].selector;
		frame[n++] = s->seg[X86_FS].selector;
		frame[n++] = s->seg[X86_DS].selector;
		frame[n++] = s->seg[X86_ES].selector;
	}
	if (stack) {
		frame[n++] = s->seg[X86_SS].selector;
		frame[n++] = s->gpr[X86_RSP];
	}
	frame[n++] = s->rflags;
	frame[n++] = s->seg[X86_CS].selector;
	frame[n++] = s->rip;
	if (event->has_error)
		frame[n++] = event->error;
	return n;
}

static bool offset_is_valid(const struct gate *gate, const struct x86_desc *cs)
{
	if (gate->wide)
		return x86_is_canonical(gate->offset);
	return gate->offset <= x86_desc_limit(cs);
}

/* A store to the new stack failed: the error code tells the new stack segment and EXT. */
static int stack_fault(struct x86_cpu *cpu, bool inner, uint16_t ss, unsigned ext)
{
	if (cpu->fault.vector == X86_SS_FAULT || cpu->fault.vector == X86_GP) {
		cpu->fault.error |= ext;
		if (inner)
			cpu->fault.error |= ss & X86_SEL_MASK;
	}
	return X86_FAULT;
}

static int through_gate(struct x86_cpu *cpu, const struct x86_event *event, struct gate *gate,
			unsigned ext)
{
	struct x86_state *s = &cpu->s;
	bool v86 = x86_is_v86(cpu), inner;
	unsigned size = gate->wide ? 8 : (gate->type & 8) ? 4 : 2;
	uint64_t frame[FRAME_MAX], sp;
	struct x86_frame_save save;
	struct x86_segment ss;
	struct x86_desc cs;
	unsigned cpl = 0, n;
	int r;

	gate->offset &= x86_size_mask(size);
	r = check_handler(cpu, gate, ext, &cs, &cpl);
	if (r != X86_NEXT)
		return r;
	inner = cpl < cpu->cpl;
	r = enter_stack(cpu, gate, cpl, ext, &ss, &sp);
	if (r != X86_NEXT)
		return r;
	if (!offset_is_valid(gate, &cs))
		return x86_gp(cpu, ext);
	r = x86_set_accessed(cpu, gate->selector, &cs);
	if (r != X86_NEXT)
		return r;

	n = build_frame(cpu, event, inner || gate->wide, frame);
	x86_frame_save(cpu, &save);
	s->seg[X86_CS] = x86_segment_from_desc((uint16_t)((gate->selector & ~X86_SEL_RPL) | cpl),
					       &cs);
	s->seg[X86_SS] = ss;
	s->gpr[X86_RSP] = sp;
	s->rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_TF | X86_FL_NT | X86_FL_RF |
				 ((gate->type & 1) ? 0 : X86_FL_IF));
	x86_update_mode(cpu);
	r = x86_push_values(cpu, frame, n, size);
	if (r != X86_NEXT) {
		x86_frame_restore(cpu, &save);
		return stack_fault(cpu, inner, ss.selector, ext);
	}
	s->rip = gate->offset;
	if (v86) {
		s->seg[X86_ES] = s->seg[X86_DS] = x86_segment_null(0, 0);
		s->seg[X86_FS] = s->seg[X86_GS] = x86_segment_null(0, 0);
		x86_update_mode(cpu);
	}
	return X86_STOP;
}

static int through_task_gate(struct x86_cpu *cpu, const struct x86_event *event,
			     const struct gate *gate, unsigned ext)
{
	uint32_t error = (gate->selector & X86_SEL_MASK) | ext;
	bool committed = false;
	struct x86_desc tss;
	uint64_t value = event->error;
	int r;

	if (!(gate->selector & X86_SEL_MASK) || (gate->selector & X86_SEL_TI))
		return x86_gp(cpu, error);
	r = x86_read_desc(cpu, gate->selector, &tss, X86_GP, ext);
	if (r != X86_NEXT)
		return r;
	if (x86_desc_is_segment(&tss) || (x86_desc_type(&tss) & 7) != X86_DESC_TSS16)
		return x86_gp(cpu, error);
	if (!x86_desc_is_present(&tss))
		return x86_raise_error(cpu, X86_NP, error);
	r = x86_task_switch(cpu, gate->selector, &tss, X86_TASK_INT, ext, &committed);
	if (r != X86_FAULT && event->has_error) {
		r = x86_push_values(cpu, &value, 1, (cpu->s.tr.attr & 8) ? 4 : 2);
		if (r == X86_NEXT)
			r = X86_STOP;
	}
	if (r == X86_FAULT && committed && event->software) {
		/* It belongs to the new task; no instruction of the old one may be restarted. */
		x86_deliver_fault(cpu);
		return X86_STOP;
	}
	return r;
}

/* ---- the usual event: from 64-bit code to the kernel's ---- */

/* False: its place in the TSS is not known. */
static bool usual_stack(const struct x86_cpu *cpu, unsigned ist, uint64_t *ret_sp)
{
	const struct x86_segment *tr = &cpu->s.tr;
	uint32_t off = ist ? 28 + ist * 8 : 4;
	const uint8_t *p;

	*ret_sp = cpu->s.gpr[X86_RSP];
	if (!ist && cpu->cpl == 0)
		return true;
	if (tr->limit < 7 || off > tr->limit - 7)
		return false;
	p = x86_host_read_sys(cpu, tr->base + off, 8);
	if (p)
		*ret_sp = *(const volatile x86_u64u *)p;
	return p;
}

static uint8_t *usual_frame(const struct x86_cpu *cpu, uint64_t sp, unsigned len)
{
	unsigned mode = cpu->s.rflags & X86_FL_AC ? X86_TLB_KERNEL_AC : X86_TLB_KERNEL;
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mode, sp - len);

	if (e->write_tag != x86_tlb_tag(sp - len, len))
		return NULL;
	return (uint8_t *)(uintptr_t)(e->addend + (sp - len));
}

/*
 * All of it where each look at memory is one that the TLB answers and nothing is out of the ordinary.
 * X86_NEXT: nothing was done. The tables are read each time, so that no change of them can be missed.
 */
static int usual_event(struct x86_cpu *cpu, const struct x86_event *event)
{
	struct x86_state *s = &cpu->s;
	uint32_t off = event->vector * 16u, w[4];
	unsigned total = event->has_error ? 48 : 40;
	const uint8_t *p;
	uint64_t offset, sp, *frame;
	struct x86_desc cs;

	if (cpu->code_bytes != 8 || cpu->debug_armed || cpu->by_the_book || off + 15 > s->idtr.limit)
		return X86_NEXT;
	p = x86_host_read_sys(cpu, s->idtr.base + off, 16);
	if (!p)
		return X86_NEXT;
	memcpy(w, p, sizeof(w));
	offset = (w[0] & 0xffffu) | (w[1] & 0xffff0000u) | ((uint64_t)w[2] << 32);
	/* Present, an interrupt or a trap gate. */
	if ((w[1] & 0x9e00u) != 0x8e00u || !x86_is_canonical(offset) ||
	    (event->software && (w[1] >> 13 & 3) < cpu->cpl) ||
	    !x86_desc_quickly(cpu, (uint16_t)(w[0] >> 16), X86_DESC_CODE64, 0, &cs) ||
	    !usual_stack(cpu, w[1] & 7, &sp) || !x86_is_canonical(sp))
		return X86_NEXT;
	sp &= ~0xfull;
	frame = (uint64_t *)(void *)usual_frame(cpu, sp, total);
	if (!frame)
		return X86_NEXT;
	if (event->has_error)
		*frame++ = event->error;
	frame[0] = s->rip;
	frame[1] = s->seg[X86_CS].selector;
	frame[2] = s->rflags;
	frame[3] = s->gpr[X86_RSP];
	frame[4] = s->seg[X86_SS].selector;

	s->seg[X86_CS] = x86_segment_from_desc((uint16_t)(w[0] >> 16 & ~X86_SEL_RPL), &cs);
	if (cpu->cpl)
		s->seg[X86_SS] = x86_segment_null(0, 0);
	s->gpr[X86_RSP] = sp - total;
	s->rip = offset;
	s->rflags &= ~(uint64_t)(X86_FL_TF | X86_FL_NT | X86_FL_RF |
				 ((w[1] & 1u << 8) ? 0 : X86_FL_IF));
	x86_turn_mode(cpu, 0);
	return X86_STOP;
}

int x86_deliver_event(struct x86_cpu *cpu, const struct x86_event *event)
{
	unsigned ext = event->software ? 0 : X86_ERR_EXT;
	unsigned error = event->vector * 8u + X86_ERR_IDT + ext;
	struct gate gate = { 0 };
	int r;

	r = usual_event(cpu, event);
	if (r != X86_NEXT)
		return r;
	if (x86_is_real(cpu))
		return deliver_real(cpu, event);
	r = read_gate(cpu, event->vector, error, &gate);
	if (r != X86_NEXT)
		return r;
	if (!gate_type_is_valid(cpu, gate.type))
		return x86_gp(cpu, error);
	if (event->software && gate.dpl < cpu->cpl)
		return x86_gp(cpu, error);
	if (!gate.present)
		return x86_raise_error(cpu, X86_NP, error);
	if (gate.type == X86_DESC_TASK)
		return through_task_gate(cpu, event, &gate, ext);
	return through_gate(cpu, event, &gate, ext);
}

int x86_software_interrupt(struct x86_cpu *cpu, uint8_t vector)
{
	struct x86_event event = { .vector = vector, .software = true };

	return x86_deliver_event(cpu, &event);
}

int x86_int_n(struct x86_cpu *cpu, uint8_t vector)
{
	bool redirected = false;
	int r;

	if (!x86_is_v86(cpu) || x86_is_real(cpu))
		return x86_software_interrupt(cpu, vector);
	if (cpu->s.cr4 & X86_CR4_VME) {
		r = redirection_bit(cpu, vector, &redirected);
		if (r != X86_NEXT)
			return r;
	}
	if (redirected)
		return deliver_redirected(cpu, vector);
	if (x86_iopl(cpu) < 3)
		return x86_gp(cpu, 0);
	return x86_software_interrupt(cpu, vector);
}
