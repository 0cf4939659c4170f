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

/* LEA @to with the operand's address, segment left out. Spoils T_ADDR and T_1. */
void tr_ea(struct tr *t, unsigned i, unsigned to, bool wide)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = insn->disp;

	if (insn->base == X86_REG_RIP) {
		base = T_ADDR;
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.rip_page));
		disp += t->next_off[i];
		if (disp != (int32_t)disp)
			t->failed = true;
	} else if (insn->base != X86_NO_REG) {
		base = tr_value_reg(t, insn->base, T_ADDR);
	}
	if (insn->index != X86_NO_REG)
		index = tr_value_reg(t, insn->index, T_1);
	if (wide && index == H_NONE && !disp && base != H_NONE) {
		emit_mov_rr(&t->e, to, base);
		return;
	}
	EMIT(&t->e, .opcode = 0x8d, .w = wide, .kind = EMIT_MEM, .reg = (uint8_t)to,
	     .rm = (uint8_t)base, .index = (uint8_t)index, .scale = insn->scale,
	     .disp = (int32_t)disp);
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

/*
 * T_ADDR: linear address on entry, host address behind. Low bits left in the tag by @align make it one
 * that no entry has. Spoils T_1, T_2 and flags.
 */
static void emit_tlb(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	struct emit *e = &t->e;
	uint8_t *retry = e->p;

	EMIT(e, .vex = true, .map = 3, .opcode = 0xf0, .rep = 0xf2, .kind = EMIT_REG, .reg = T_1,
	     .rm = T_ADDR, .imm = 7, .imm_len = 1); /* rorx */
	EMIT(e, .opcode = 0x23, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_CPU(tlb_mask));
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_CPU(tlb_table));
	if (align > 1 || len == 1)
		emit_mov_rr(e, T_2, T_ADDR);
	else
		emit_lea(e, T_2, T_ADDR, (int32_t)len - 1);
	tr_alu_imm(e, ALU_AND, true, T_2, (int32_t)(0xfffff000u | (align - 1)));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_MEM, .reg = T_2, .rm = T_1, .index = H_NONE,
	     .disp = write ? (int32_t)offsetof(struct x86_tlb_entry, write_tag) :
			     (int32_t)offsetof(struct x86_tlb_entry, read_tag));
	tr_miss_if(t, i, CC_NE, retry, write);
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_MEM, .reg = T_ADDR, .rm = T_1,
	     .index = H_NONE, .disp = (int32_t)offsetof(struct x86_tlb_entry, addend));
}

/* T_ADDR = host address of the memory operand. */
void tr_operand(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	const struct x86_insn *insn = &t->block->insn[i];

	tr_flags_spoil(t, i);
	tr_ea(t, i, T_ADDR, true);
	if (insn->seg >= X86_FS)
		EMIT(&t->e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = H_NONE,
		     .disp = (int32_t)(offsetof(struct x86_cpu, s.seg) +
				       insn->seg * sizeof(struct x86_segment) +
				       offsetof(struct x86_segment, base)));
	emit_tlb(t, i, len, align, write);
}

/* T_ADDR = host address of @disp from the stack pointer, or from @base. */
void tr_stack(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write)
{
	tr_flags_spoil(t, i);
	if (disp)
		emit_lea(&t->e, T_ADDR, base, disp);
	else
		emit_mov_rr(&t->e, T_ADDR, base);
	emit_tlb(t, i, 8, 1, write);
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
