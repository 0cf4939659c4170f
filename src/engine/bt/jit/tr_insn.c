// SPDX-License-Identifier: Apache-2.0
/* tr_insn.c - instructions that are emitted in a way of their own. */
#include "engine/bt/jit/tr.h"

void tr_lea(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned to = host_of(insn->reg);

	tr_ea(t, i, to == H_NONE ? T_ADDR : to, insn->opsize == 8);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->reg), T_ADDR);
}

void tr_mov_imm(struct tr *t, const struct x86_insn *insn)
{
	unsigned to = host_of(insn->rm), reg = to == H_NONE ? T_1 : to;

	emit_mov_imm64(&t->e, reg, insn->opsize == 8 ? insn->imm : (uint32_t)insn->imm);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->rm), reg);
}

void tr_xchg_ax(struct tr *t, const struct x86_insn *insn)
{
	unsigned reg = tr_value_reg(t, insn->rm, T_1);

	EMIT(&t->e, .opcode = 0x87, .w = insn->opsize == 8, .p66 = insn->opsize == 2,
	     .kind = EMIT_REG, .reg = H_RAX, .rm = (uint8_t)reg);
	if (reg == T_1)
		emit_store_gs(&t->e, GS_GPR(insn->rm), T_1);
}

void tr_bswap(struct tr *t, const struct x86_insn *insn)
{
	unsigned reg = tr_value_reg(t, insn->rm, T_1);

	EMIT(&t->e, .map = 1, .opcode = (uint8_t)(0xc8 | (reg & 7)), .w = insn->opsize == 8,
	     .kind = EMIT_NO_MODRM, .rm = (uint8_t)reg);
	if (reg == T_1)
		emit_store_gs(&t->e, GS_GPR(insn->rm), T_1);
}

void tr_push(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned kind = t->desc[i].kind;

	if (kind == JIT_PUSH_MEM) {
		tr_operand(t, i, 8, 1, false);
		tr_load_mem(&t->e, T_ADDR, T_ADDR);
		emit_store_gs(&t->e, GS_VCPU(jit.tmp), T_ADDR);
	}
	tr_stack_near(t, i, HOST_SP, -8, true);
	if (kind == JIT_PUSH_IMM) {
		EMIT(&t->e, .opcode = 0xc7, .w = true, .kind = EMIT_MEM, .rm = t->mem_base,
		     .index = t->mem_index, .disp = t->mem_disp, .imm = insn->imm, .imm_len = 4);
	} else {
		unsigned reg = kind == JIT_PUSH_MEM ? T_1 : tr_value_reg(t, insn->rm, T_1);

		if (kind == JIT_PUSH_MEM)
			emit_load_gs(&t->e, T_1, GS_VCPU(jit.tmp));
		tr_store_near(t, reg);
	}
	emit_lea(&t->e, HOST_SP, HOST_SP, -8);
}

void tr_pop(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned to = host_of(insn->rm), reg = to == H_NONE ? T_1 : to;

	tr_stack_near(t, i, HOST_SP, 0, false);
	tr_load_near(t, reg);
	if (reg != HOST_SP) /* POP RSP keeps what was popped */
		emit_lea(&t->e, HOST_SP, HOST_SP, 8);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->rm), reg);
}

void tr_leave(struct tr *t, unsigned i)
{
	tr_stack(t, i, H_RBP, 0, false);
	tr_load_mem(&t->e, T_ADDR, T_ADDR); /* which may fault: nothing has changed yet */
	emit_lea(&t->e, HOST_SP, H_RBP, 8);
	emit_mov_rr(&t->e, H_RBP, T_ADDR);
}

/*
 * The host must not raise #DE. DIV does not when the upper half is below the divisor; IDIV does not when
 * the dividend fits its lower half and the divisor is neither 0 nor -1. The handler does the rest.
 */
void tr_div(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	bool w = insn->opsize == 8;
	struct emit *e = &t->e;
	unsigned by;

	if (insn->flags & X86_INSN_MEM) {
		tr_operand(t, i, insn->opsize, 1, false);
		by = T_2;
		EMIT(e, .opcode = 0x8b, .w = w, .kind = EMIT_MEM, .reg = T_2, .rm = T_ADDR,
		     .index = H_NONE);
	} else {
		tr_flags_spoil(t, i);
		by = tr_value_reg(t, insn->rm, T_2);
	}
	if (t->desc[i].kind == JIT_DIV) {
		EMIT(e, .opcode = 0x39, .w = w, .kind = EMIT_REG, .reg = (uint8_t)by, .rm = H_RDX);
		tr_slow_if(t, i, CC_AE);
	} else {
		EMIT(e, .opcode = 0x89, .w = w, .kind = EMIT_REG, .reg = H_RAX, .rm = T_1);
		EMIT(e, .opcode = 0xc1, .w = w, .kind = EMIT_REG, .reg = 7, .rm = T_1,
		     .imm = w ? 63 : 31, .imm_len = 1);
		EMIT(e, .opcode = 0x39, .w = w, .kind = EMIT_REG, .reg = T_1, .rm = H_RDX);
		tr_slow_if(t, i, CC_NE);
		EMIT(e, .opcode = 0x8d, .w = w, .kind = EMIT_MEM, .reg = T_1, .rm = (uint8_t)by,
		     .index = H_NONE, .disp = 1);
		EMIT(e, .opcode = 0x83, .w = w, .kind = EMIT_REG, .reg = 7, .rm = T_1, .imm = 1,
		     .imm_len = 1);
		tr_slow_if(t, i, CC_BE);
	}
	EMIT(e, .opcode = 0xf7, .w = w, .kind = EMIT_REG, .reg = t->desc[i].kind == JIT_DIV ? 6 : 7,
	     .rm = (uint8_t)by);
	tr_flags_written(t, i);
}
