// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * task.c - hardware task switches between 16- and 32-bit TSSs. SDM vol. 3, chapter 8.
 *
 * Everything that can fault on behalf of the old task (limits, reading both TSSs) comes first.
 * Then the old task is saved and the new one is current: what is wrong with its segments is its
 * own fault.
 */
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

#define TSS32_BYTES 104u
#define TSS16_BYTES 44u
#define TSS_BUSY    (1u << 9) /* in the upper half of the descriptor */

/* Offsets of the dynamic fields; the link is at 0 in both. */
#define TSS32_CR3   28u
#define TSS32_EIP   32u
#define TSS32_FLAGS 36u
#define TSS32_GPR   40u
#define TSS32_SEG   72u
#define TSS32_LDT   96u
#define TSS32_TRAP  100u
#define TSS32_IO_MAP 102u
#define TSS16_IP    14u
#define TSS16_FLAGS 16u
#define TSS16_GPR   18u
#define TSS16_SEG   34u
#define TSS16_LDT   42u

/* What a TSS holds of a task, in one form for both sizes. */
struct task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[X86_SEG_COUNT], ldt;
	bool trap;
};

static uint32_t get(const uint8_t *p, unsigned bytes)
{
	uint32_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

static void decode_task(const uint8_t *tss, bool wide, struct task *t)
{
	unsigned size = wide ? 4 : 2;
	const uint8_t *gpr = tss + (wide ? TSS32_GPR : TSS16_GPR);
	const uint8_t *seg = tss + (wide ? TSS32_SEG : TSS16_SEG);

	memset(t, 0, sizeof(*t));
	t->eip = get(tss + (wide ? TSS32_EIP : TSS16_IP), size);
	t->eflags = get(tss + (wide ? TSS32_FLAGS : TSS16_FLAGS), size);
	for (unsigned i = 0; i < 8; i++) {
		t->gpr[i] = get(gpr + i * size, size);
		if (!wide)
			t->gpr[i] |= 0xffff0000u;
	}
	for (unsigned i = 0; i < (wide ? 6u : 4u); i++)
		t->seg[i] = (uint16_t)get(seg + i * size, 2);
	t->ldt = (uint16_t)get(tss + (wide ? TSS32_LDT : TSS16_LDT), 2);
	if (wide) {
		t->cr3 = get(tss + TSS32_CR3, 4);
		t->trap = tss[TSS32_TRAP] & 1;
	}
}

/* The dynamic part of the old task, over what its TSS holds. */
static void encode_task(uint8_t *tss, bool wide, const struct x86_state *s, uint32_t eflags)
{
	unsigned size = wide ? 4 : 2;
	uint8_t *gpr = tss + (wide ? TSS32_GPR : TSS16_GPR);
	uint8_t *seg = tss + (wide ? TSS32_SEG : TSS16_SEG);

	memcpy(tss + (wide ? TSS32_EIP : TSS16_IP), &s->rip, size);
	memcpy(tss + (wide ? TSS32_FLAGS : TSS16_FLAGS), &eflags, size);
	for (unsigned i = 0; i < 8; i++)
		memcpy(gpr + i * size, &s->gpr[i], size);
	for (unsigned i = 0; i < (wide ? 6u : 4u); i++)
		memcpy(seg + i * size, &s->seg[i].selector, 2);
}

static int copy_in(struct x86_cpu *cpu, uint64_t linear, uint8_t *buf, unsigned len)
{
	int r = x86_read_sys(cpu, linear, buf, len < 64 ? len : 64);

	if (r == X86_NEXT && len > 64)
		r = x86_read_sys(cpu, linear + 64, buf + 64, len - 64);
	return r;
}

static int copy_out(struct x86_cpu *cpu, uint64_t linear, const uint8_t *buf, unsigned from,
		    unsigned to)
{
	int r = X86_NEXT;

	for (unsigned i = from; i < to && r == X86_NEXT; i += 64) {
		unsigned len = to - i < 64 ? to - i : 64;

		r = x86_write_sys(cpu, linear + i, buf + i, len);
	}
	return r;
}

static int set_busy(struct x86_cpu *cpu, uint16_t selector, bool busy)
{
	struct x86_desc d;
	int r = x86_read_desc(cpu, selector, &d, X86_TS, 0);

	if (r != X86_NEXT)
		return r;
	return x86_write_desc_access(cpu, selector, &d,
				     busy ? d.hi | TSS_BUSY : d.hi & ~TSS_BUSY);
}

static int save_old(struct x86_cpu *cpu, enum x86_task_source source)
{
	const struct x86_segment *tr = &cpu->s.tr;
	bool wide = tr->attr & 8;
	uint32_t eflags = (uint32_t)cpu->s.rflags;
	unsigned from = wide ? TSS32_EIP : TSS16_IP, to = wide ? TSS32_LDT : TSS16_LDT;
	uint8_t tss[TSS32_BYTES];
	int r;

	if (tr->limit < (wide ? TSS32_BYTES : TSS16_BYTES) - 1)
		return x86_raise_error(cpu, X86_TS, tr->selector & X86_SEL_MASK);
	r = copy_in(cpu, tr->base, tss, wide ? TSS32_BYTES : TSS16_BYTES);
	if (r != X86_NEXT)
		return r;
	if (source == X86_TASK_IRET)
		eflags &= ~X86_FL_NT;
	encode_task(tss, wide, &cpu->s, eflags);
	r = copy_out(cpu, tr->base, tss, from, to);
	/* The descriptor is marked idle last: a fault above leaves the old task current. */
	if (r == X86_NEXT && (source == X86_TASK_JUMP || source == X86_TASK_IRET))
		r = set_busy(cpu, tr->selector, false);
	return r;
}

static int load_code(struct x86_cpu *cpu, uint16_t selector, unsigned cpl)
{
	uint32_t error = selector & X86_SEL_MASK;
	struct x86_desc d;
	unsigned dpl;
	int r;

	if (!error)
		return x86_raise_error(cpu, X86_TS, 0);
	r = x86_read_desc(cpu, selector, &d, X86_TS, 0);
	if (r != X86_NEXT)
		return r;
	dpl = x86_desc_dpl(&d);
	if (!x86_desc_is_code(&d) || (x86_desc_is_conforming(&d) ? dpl > cpl : dpl != cpl))
		return x86_raise_error(cpu, X86_TS, error);
	if (!x86_desc_is_present(&d))
		return x86_raise_error(cpu, X86_NP, error);
	r = x86_set_accessed(cpu, selector, &d);
	if (r == X86_NEXT)
		cpu->s.seg[X86_CS] = x86_segment_from_desc(selector, &d);
	return r;
}

static int load_stack(struct x86_cpu *cpu, uint16_t selector, unsigned cpl)
{
	struct x86_desc d;
	int r;

	if (!(selector & X86_SEL_MASK))
		return x86_raise_error(cpu, X86_TS, 0);
	r = x86_check_stack_desc(cpu, selector, cpl, X86_TS, 0, &d);
	if (r == X86_NEXT)
		cpu->s.seg[X86_SS] = x86_segment_from_desc(selector, &d);
	return r;
}

/* Segments in the order of SDM vol. 3, table "Exception Conditions Checked During a Task
 * Switch". */
static int load_segments(struct x86_cpu *cpu, const struct task *t)
{
	static const uint8_t data[] = { X86_DS, X86_ES, X86_FS, X86_GS };
	unsigned cpl = t->seg[X86_CS] & X86_SEL_RPL;
	int r = x86_load_ldtr(cpu, t->ldt, X86_TS);

	if (r != X86_NEXT)
		return r;
	if (cpu->s.rflags & X86_FL_VM) {
		for (unsigned i = 0; i < X86_SEG_COUNT; i++)
			cpu->s.seg[i] = x86_segment_v86(t->seg[i]);
		x86_update_mode(cpu);
		return X86_NEXT;
	}
	r = load_stack(cpu, t->seg[X86_SS], cpl);
	if (r == X86_NEXT)
		r = load_code(cpu, t->seg[X86_CS], cpl);
	x86_update_mode(cpu);
	for (unsigned i = 0; i < sizeof(data) && r == X86_NEXT; i++)
		r = x86_check_data_segment(cpu, t->seg[data[i]], cpl, X86_TS,
					   &cpu->s.seg[data[i]]);
	x86_update_mode(cpu);
	return r;
}

static int load_cr3(struct x86_cpu *cpu, uint32_t cr3)
{
	if (!(cpu->s.cr0 & X86_CR0_PG))
		return X86_NEXT;
	if ((cpu->s.cr4 & X86_CR4_PAE) && !x86_pdptes_valid(cpu, cr3))
		return x86_gp(cpu, 0);
	cpu->s.cr3 = cr3;
	x86_tlb_flush(cpu);
	return X86_NEXT;
}

/* Registers and selectors without their descriptors: all that can be taken before a check. */
static void take_registers(struct x86_cpu *cpu, const struct task *t, bool link)
{
	struct x86_state *s = &cpu->s;
	unsigned cpl = t->seg[X86_CS] & X86_SEL_RPL;

	s->rip = t->eip;
	s->rflags = (t->eflags & 0x3f7fd5u) | X86_FL_ONE | (link ? X86_FL_NT : 0);
	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = t->gpr[i];
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = x86_segment_null(t->seg[i], cpl);
	s->cr0 |= X86_CR0_TS;
	s->dr[7] &= ~0x155ull; /* local breakpoints belong to the old task */
	x86_update_mode(cpu);
}

static int start_new(struct x86_cpu *cpu, const struct task *t, bool wide, bool link)
{
	int r;

	take_registers(cpu, t, link);
	r = wide ? load_cr3(cpu, t->cr3) : X86_NEXT;
	if (r == X86_NEXT)
		r = load_segments(cpu, t);
	if (r != X86_NEXT)
		return r;
	if (cpu->s.rip > ((t->eflags & X86_FL_VM) ? 0xffff : cpu->s.seg[X86_CS].limit))
		return x86_gp(cpu, 0);
	if (t->trap) {
		cpu->debug_pending |= X86_DR6_BT;
		x86_debug_update(cpu);
	}
	return X86_STOP;
}

int x86_task_switch(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *desc,
		    enum x86_task_source source, unsigned ext, bool *ret_committed)
{
	bool wide = x86_desc_type(desc) & 8;
	bool link = source == X86_TASK_CALL || source == X86_TASK_INT;
	unsigned bytes = wide ? TSS32_BYTES : TSS16_BYTES;
	uint16_t old = cpu->s.tr.selector;
	struct x86_segment tr = x86_segment_from_desc(selector, desc);
	uint8_t tss[TSS32_BYTES];
	struct task task;
	int r;

	if (tr.limit < bytes - 1)
		return x86_raise_error(cpu, X86_TS, (selector & X86_SEL_MASK) | ext);
	r = copy_in(cpu, tr.base, tss, bytes);
	if (r == X86_NEXT)
		r = save_old(cpu, source);
	if (r == X86_NEXT && link)
		r = x86_write_sys(cpu, tr.base, &old, 2);
	if (r == X86_NEXT && source != X86_TASK_IRET)
		r = set_busy(cpu, selector, true);
	if (r != X86_NEXT)
		return r;

	/* A task that switches to itself finds what was just saved. */
	if (selector == old)
		(void)copy_in(cpu, tr.base, tss, bytes); /* was readable above */
	decode_task(tss, wide, &task);
	*ret_committed = true;
	tr.attr |= 2;
	cpu->s.tr = tr;
	return start_new(cpu, &task, wide, link);
}

int x86_task_transfer(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *desc,
		      enum x86_task_source source)
{
	bool committed = false;
	int r = x86_task_switch(cpu, selector, desc, source, 0, &committed);

	if (r == X86_FAULT && committed) {
		x86_deliver_fault(cpu);
		return X86_STOP;
	}
	return r;
}

int x86_io_check(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	const struct x86_segment *tr = &cpu->s.tr;
	unsigned mask = ((1u << size) - 1) << (port & 7), off;
	uint16_t map, bits;
	int r;

	if (cpu->debug_data)
		x86_debug_port(cpu, port, size);
	if (x86_is_real(cpu) || (!x86_is_v86(cpu) && cpu->cpl <= x86_iopl(cpu)))
		return X86_NEXT;
	/* Only a 32-bit TSS has a map. */
	if ((tr->attr & X86_SEG_UNUSABLE) || !(tr->attr & 8) || tr->limit < TSS32_BYTES - 1)
		return x86_gp(cpu, 0);
	r = x86_read_sys(cpu, tr->base + TSS32_IO_MAP, &map, 2);
	if (r != X86_NEXT)
		return r;
	/* Two bytes are always read, hence the byte of ones that has to end a map. */
	off = map + port / 8u;
	if (off + 1 > tr->limit)
		return x86_gp(cpu, 0);
	r = x86_read_sys(cpu, tr->base + off, &bits, 2);
	if (r != X86_NEXT)
		return r;
	return bits & mask ? x86_gp(cpu, 0) : X86_NEXT;
}
