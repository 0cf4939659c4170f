// SPDX-License-Identifier: Apache-2.0
/*
 * tr_string.c - MOVS, STOS and LODS forwards on the host's addresses; repeated ones where all of it lies in one
 * page at each end, which cannot fault then and is soon done. The rest is left to the handlers.
 */
#include "engine/bt/jit/tr.h"

/* By the operand size. */
static uint8_t size_shift(const struct x86_insn *insn, bool byte)
{
	return byte ? 0 : insn->opsize == 8 ? 3 : insn->opsize == 4 ? 2 : 1;
}

/* Of one element, at host address @base, to or from @reg. */
static void element(struct tr *t, bool store, uint8_t shift, unsigned reg, unsigned base)
{
	uint8_t opcode = (uint8_t)((store ? 0x88 : 0x8a) | (shift != 0));

	EMIT(&t->e, .opcode = opcode, .w = shift == 3, .p66 = shift == 1, .rex = true,
	     .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = (uint8_t)base, .index = H_NONE);
}

static void test_direction(struct tr *t, unsigned i)
{
	tr_flags_spoil(t, i);
	EMIT(&t->e, .opcode = 0xf7, .kind = EMIT_GS, .rm = H_NONE,
	     .disp = (int32_t)offsetof(struct x86_cpu, s.rflags), .imm = X86_FL_DF, .imm_len = 4);
	tr_slow_if(t, i, CC_NE);
}

/* RCX elements from @reg on do not reach the next page. */
static void within_page(struct tr *t, unsigned i, unsigned reg, uint8_t shift)
{
	struct emit *e = &t->e;

	EMIT(e, .opcode = 0x89, .kind = EMIT_REG, .reg = (uint8_t)reg, .rm = T_2);
	tr_alu_imm(e, ALU_AND, false, T_2, 0xfff);
	emit_mov_rr(e, T_1, H_RCX);
	EMIT(e, .opcode = 0xc1, .w = true, .kind = EMIT_REG, .reg = 4, .rm = T_1, .imm = shift,
	     .imm_len = 1);
	EMIT(e, .opcode = 0x01, .kind = EMIT_REG, .reg = T_1, .rm = T_2);
	tr_alu_imm(e, ALU_CMP, false, T_2, 0x1000);
	tr_slow_if(t, i, CC_A);
}

static void repeated(struct tr *t, unsigned i, bool movs, uint8_t shift)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit *e = &t->e;
	uint8_t *none;

	EMIT(e, .opcode = 0x85, .w = true, .kind = EMIT_REG, .reg = H_RCX, .rm = H_RCX);
	none = emit_jcc(e, CC_E);
	tr_alu_imm(e, ALU_CMP, true, H_RCX, 0x1000 >> shift);
	tr_slow_if(t, i, CC_A);
	within_page(t, i, H_RDI, shift);
	if (movs) {
		within_page(t, i, H_RSI, shift);
		tr_stack(t, i, H_RSI, 0, false);
		emit_store_gs(e, GS_VCPU(jit.tmp_host), T_ADDR);
	}
	tr_stack(t, i, H_RDI, 0, true);
	emit_mov_rr(e, T_1, H_RCX);
	emit_mov_rr(e, T_2, H_RDI);
	emit_mov_rr(e, H_RDI, T_ADDR);
	if (movs) {
		emit_mov_rr(e, T_ADDR, H_RSI);
		emit_load_gs(e, H_RSI, GS_VCPU(jit.tmp_host));
	}
	EMIT(e, .opcode = insn->opcode, .rep = 0xf3, .w = shift == 3, .p66 = shift == 1);
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = H_RDI, .rm = T_2, .index = T_1,
	     .scale = shift);
	if (movs)
		EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = H_RSI, .rm = T_ADDR,
		     .index = T_1, .scale = shift);
	emit_patch_here(e, none);
}

void tr_string(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	bool byte = !(insn->opcode & 1), rep = insn->flags & (X86_INSN_REP | X86_INSN_REPNE);
	bool movs = insn->opcode < 0xa8, lods = insn->opcode >= 0xac;
	uint8_t shift = size_shift(insn, byte);
	struct emit *e = &t->e;

	if (bt_engine_of(t->vcpu)->off & BT_OFF_SYSTEM) {
		tr_handler(t, i);
		return;
	}
	test_direction(t, i);
	if (rep) {
		repeated(t, i, movs, shift);
		return;
	}
	if (movs || lods) {
		tr_stack(t, i, H_RSI, 0, false);
		element(t, false, shift, lods ? (unsigned)H_RAX : T_1, T_ADDR);
	}
	if (movs)
		emit_store_gs(e, GS_VCPU(jit.tmp), T_1);
	if (!lods) {
		tr_stack(t, i, H_RDI, 0, true);
		if (movs)
			emit_load_gs(e, T_1, GS_VCPU(jit.tmp));
		element(t, true, shift, movs ? T_1 : (unsigned)H_RAX, T_ADDR);
		emit_lea(e, H_RDI, H_RDI, 1 << shift);
	}
	if (movs || lods)
		emit_lea(e, H_RSI, H_RSI, 1 << shift);
}
