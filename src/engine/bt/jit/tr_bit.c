// SPDX-License-Identifier: Apache-2.0
/* tr_bit.c - BT, BTS, BTR and BTC of memory by a register, whose offset reaches beyond the operand. */
#include "engine/bt/jit/tr.h"

#define OP_BT 0xa3

/* @to = the offset in bits, sign-extended. */
static void bit_offset(struct tr *t, const struct x86_insn *insn, unsigned to)
{
	unsigned reg = tr_value_reg(t, insn->reg, to);

	if (insn->opsize == 8)
		emit_mov_rr(&t->e, to, reg);
	else
		EMIT(&t->e, .map = insn->opsize == 2, .opcode = insn->opsize == 2 ? 0xbf : 0x63,
		     .w = true, .kind = EMIT_REG, .reg = (uint8_t)to, .rm = (uint8_t)reg);
}

void tr_bit(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit *e = &t->e;

	tr_flags_spoil(t, i);
	tr_ea(t, i, T_2, true);
	bit_offset(t, insn, T_1);
	EMIT(e, .opcode = 0xc1, .w = true, .kind = EMIT_REG, .reg = 7, .rm = T_1, .imm = 3,
	     .imm_len = 1); /* sar */
	tr_alu_imm(e, ALU_AND, true, T_1, -(int32_t)insn->opsize);
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = T_ADDR, .rm = T_2, .index = T_1);
	tr_stack(t, i, T_ADDR, 0, insn->opcode != OP_BT);
	bit_offset(t, insn, T_1);
	tr_alu_imm(e, ALU_AND, false, T_1, insn->opsize * 8 - 1);
	tr_flags_want(t, i);
	EMIT(e, .map = 1, .opcode = insn->opcode, .lock = insn->flags & X86_INSN_LOCK,
	     .w = insn->opsize == 8, .p66 = insn->opsize == 2, .kind = EMIT_MEM, .reg = T_1,
	     .rm = T_ADDR, .index = H_NONE);
	tr_flags_written(t, i);
}
