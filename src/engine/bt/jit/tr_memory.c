// SPDX-License-Identifier: Apache-2.0
/* tr_memory.c - from a guest's address to the host's: the inlined TLB. */
#include "engine/bt/jit/tr.h"

unsigned tr_value_reg(struct tr *t, unsigned guest, unsigned scratch)
{
	unsigned h = host_of(guest);

	if (h != H_NONE)
		return h;
	emit_load_gs(&t->e, scratch, GS_GPR(guest));
	return scratch;
}

/* LEA @to with what is at @disp from the operand, segment left out. Spoils T_ADDR and T_1. */
static void emit_ea(struct tr *t, unsigned i, unsigned to, bool wide, int64_t disp)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned base = H_NONE, index = H_NONE;

	disp += insn->disp;

	if (insn->base == X86_REG_RIP) {
		base = T_ADDR;
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.rip_page));
		disp += t->next_off[i];
	} else if (insn->base != X86_NO_REG) {
		base = tr_value_reg(t, insn->base, T_ADDR);
	}
	if (insn->index != X86_NO_REG)
		index = tr_value_reg(t, insn->index, T_1);
	if (disp != (int32_t)disp)
		t->failed = true;
	if (wide && index == H_NONE && !disp && base != H_NONE) {
		emit_mov_rr(&t->e, to, base);
		return;
	}
	EMIT(&t->e, .opcode = 0x8d, .w = wide, .kind = EMIT_MEM, .reg = (uint8_t)to,
	     .rm = (uint8_t)base, .index = (uint8_t)index, .scale = insn->scale,
	     .disp = (int32_t)disp);
}

void tr_ea(struct tr *t, unsigned i, unsigned to, bool wide)
{
	emit_ea(t, i, to, wide, 0);
}

/* Group 1 with an immediate of 32 bits. */
void tr_alu_imm(struct emit *e, unsigned op, bool wide, unsigned reg, int32_t v)
{
	bool byte = v == (int8_t)v;

	EMIT(e, .opcode = byte ? 0x83 : 0x81, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)op,
	     .rm = (uint8_t)reg, .imm = (uint32_t)v, .imm_len = byte ? 1 : 4);
}

void tr_shr(struct emit *e, bool wide, unsigned reg, uint8_t n)
{
	EMIT(e, .opcode = 0xc1, .w = wide, .kind = EMIT_REG, .reg = 5, .rm = (uint8_t)reg, .imm = n,
	     .imm_len = 1);
}

#define GS_CPU(field) ((int32_t)offsetof(struct x86_cpu, field))

_Static_assert(sizeof(struct x86_tlb_entry) == 32, "the rotation below");

/* What is looked at: the tag of the byte at @tag_off, with the low bits of its address that @align says
 * have to be 0: these make a tag that no entry has. */
struct look {
	unsigned tag_off, align;
	bool write;
};

/* T_1 = the entry for linear address T_ADDR, compared with the tag, which is in T_2. */
static void emit_look(struct emit *e, struct look look)
{
	EMIT(e, .vex = true, .map = 3, .opcode = 0xf0, .rep = 0xf2, .kind = EMIT_REG, .reg = T_1,
	     .rm = T_ADDR, .imm = 7, .imm_len = 1); /* rorx */
	EMIT(e, .opcode = 0x23, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_CPU(tlb_mask));
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_CPU(tlb_table));
	if (look.tag_off)
		emit_lea(e, T_2, T_ADDR, (int32_t)look.tag_off);
	else
		emit_mov_rr(e, T_2, T_ADDR);
	tr_alu_imm(e, ALU_AND, true, T_2, (int32_t)(0xfffff000u | (look.align - 1)));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_MEM, .reg = T_2, .rm = T_1, .index = H_NONE,
	     .disp = look.write ? (int32_t)offsetof(struct x86_tlb_entry, write_tag) :
				  (int32_t)offsetof(struct x86_tlb_entry, read_tag));
}

static void emit_to_host(struct emit *e)
{
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_MEM, .reg = T_ADDR, .rm = T_1,
	     .index = H_NONE, .disp = (int32_t)offsetof(struct x86_tlb_entry, addend));
}

/* T_ADDR: linear address on entry, host address behind. Spoils T_1, T_2 and flags. */
static void emit_tlb(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	uint8_t *retry = t->e.p;

	emit_look(&t->e, (struct look){ align > 1 ? 0 : len - 1, align, write });
	tr_miss_if(t, i, CC_NE, retry, write);
	emit_to_host(&t->e);
}

/* T_ADDR: linear address of the lowest byte of a run, on entry; the host's behind, which is kept. */
static void emit_tlb_run(struct tr *t, const struct tr_run *run)
{
	unsigned n = (unsigned)(run - t->run), bytes = (unsigned)(run->hi - run->lo);
	unsigned aligned = (unsigned)(run->align_off - run->lo);
	/* No page begins between the last aligned place and the end. */
	struct look look = { aligned + ((bytes - 1 - aligned) & ~(run->align - 1u)), run->align,
			     run->write };
	uint8_t *retry = t->e.p;

	emit_look(&t->e, look);
	tr_miss_run_if(t, n, CC_NE, retry);
	emit_to_host(&t->e);
	emit_store_gs(&t->e, GS_VCPU(jit.run[n]), T_ADDR);
	t->addr_run = (uint8_t)n;
}

static void emit_segment(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	if (insn->seg >= X86_FS)
		EMIT(&t->e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = H_NONE,
		     .disp = (int32_t)(offsetof(struct x86_cpu, s.seg) +
				       insn->seg * sizeof(struct x86_segment) +
				       offsetof(struct x86_segment, base)));
}

/* Of an access that is not the first of its run. */
static bool later_in_run(struct tr *t, unsigned i, const struct tr_run *run)
{
	t->mem_base = T_ADDR;
	t->mem_index = H_NONE;
	t->mem_disp = run ? (int32_t)(t->run_off[i] - run->lo) : 0;
	if (!run || run->first == i) {
		t->addr_run = TR_NO_RUN;
		return false;
	}
	if (t->addr_run != run - t->run)
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.run[run - t->run]));
	t->addr_run = (uint8_t)(run - t->run);
	return true;
}

static void emit_exact(struct tr *t)
{
	if (t->mem_disp || t->mem_index != H_NONE || t->mem_base != T_ADDR)
		EMIT(&t->e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = T_ADDR,
		     .rm = t->mem_base, .index = t->mem_index, .disp = t->mem_disp);
	t->mem_base = T_ADDR;
	t->mem_index = H_NONE;
	t->mem_disp = 0;
	t->addr_run = TR_NO_RUN;
}

void tr_operand(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	unsigned kind = t->desc[i].kind;
	/* Others may be in one with their access to the stack. */
	bool runs = kind == JIT_COPY || kind == JIT_DIV || kind == JIT_IDIV;
	const struct tr_run *run = runs ? tr_run_at(t, i) : NULL;

	if (tr_direct_is_for(t, i))
		tr_direct_operand(t, i);
	else if (!later_in_run(t, i, run)) {
		tr_flags_spoil(t, i);
		emit_ea(t, i, T_ADDR, true, -(int64_t)t->mem_disp);
		emit_segment(t, i);
		if (run)
			emit_tlb_run(t, run);
		else
			emit_tlb(t, i, len, align, write);
	}
	if (kind != JIT_COPY)
		emit_exact(t);
}

void tr_stack_near(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write)
{
	unsigned kind = t->desc[i].kind;
	const struct tr_run *run =
		kind == JIT_CALL_REG || kind == JIT_CALL_MEM ? NULL : tr_run_at(t, i);

	if (tr_direct_is_for(t, i)) {
		tr_direct_stack(t, i, base, disp);
		return;
	}
	if (later_in_run(t, i, run))
		return;
	tr_flags_spoil(t, i);
	disp -= t->mem_disp;
	if (disp)
		emit_lea(&t->e, T_ADDR, base, disp);
	else
		emit_mov_rr(&t->e, T_ADDR, base);
	if (run)
		emit_tlb_run(t, run);
	else
		emit_tlb(t, i, 8, 1, write);
}

void tr_stack(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write)
{
	tr_stack_near(t, i, base, disp, write);
	emit_exact(t);
}

static void emit_near(struct tr *t, uint8_t opcode, unsigned reg)
{
	EMIT(&t->e, .opcode = opcode, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg,
	     .rm = t->mem_base, .index = t->mem_index, .disp = t->mem_disp);
}

void tr_load_near(struct tr *t, unsigned reg)
{
	emit_near(t, 0x8b, reg);
}

void tr_store_near(struct tr *t, unsigned reg)
{
	emit_near(t, 0x89, reg);
}

void tr_load_mem(struct emit *e, unsigned reg, unsigned base)
{
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = (uint8_t)base,
	     .index = H_NONE);
}

void tr_store_mem(struct emit *e, unsigned base, unsigned reg)
{
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = (uint8_t)base,
	     .index = H_NONE);
}
