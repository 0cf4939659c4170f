// SPDX-License-Identifier: Apache-2.0
/* tr_copy.c - instructions that are emitted as they are, with their operands renamed. */
#include "engine/bt/jit/tr.h"

static bool is_high(unsigned reg8)
{
	return reg8 & 7;
}

/* AH CH DH BH can be named only without REX: by registers that need none. */
bool tr_high_bytes_fit(const struct x86_insn *insn, const struct jit_desc *d)
{
	bool high_reg = d->reg_use && d->byte_reg && is_high(insn->reg8);
	bool high_rm = !(insn->flags & X86_INSN_MEM) && d->byte_rm && is_high(insn->rm8);
	unsigned reg = d->byte_reg ? insn->reg8 >> 3 : insn->reg;
	unsigned rm = d->byte_rm ? insn->rm8 >> 3 : insn->rm;

	if (!high_reg && !high_rm)
		return true;
	if (insn->flags & X86_INSN_MEM || insn->opsize == 8)
		return false;
	if (d->reg_use && (reg >= (d->byte_reg ? 4 : 8) || reg == X86_RSP))
		return false;
	return rm < (d->byte_rm ? 4 : 8) && rm != X86_RSP;
}

/* A byte register that needs REX to be named. */
static bool needs_rex(unsigned host)
{
	return host >= 4;
}

static bool copies_from_cpu(const struct x86_insn *insn, const struct jit_desc *d)
{
	/* Not all of these have a form with memory, or rounding with it. */
	if (x86_host_info(insn))
		return false;
	/* XCHG would lock; BT and its kin address beyond the operand. */
	if (insn->map == 0 && (insn->opcode & 0xfe) == 0x86)
		return false;
	if (insn->map == 1 && (insn->opcode & 0xe7) == 0xa3)
		return false;
	if (d->reg_use & JIT_W && d->rm_use & JIT_W) /* XADD: the order of results matters */
		return false;
	return !(d->rm_use & JIT_W) || (insn->opsize == 8 && !d->vec);
}

static void name_opcode(const struct x86_insn *insn, const struct jit_desc *d, struct emit_op *op)
{
	op->map = insn->map;
	op->opcode = insn->opcode;
	op->imm = insn->imm;
	op->imm_len = d->imm_len;
	op->lock = insn->flags & X86_INSN_LOCK;
	if (insn->flags & (X86_INSN_VEX | X86_INSN_EVEX)) {
		op->evex = insn->flags & X86_INSN_EVEX;
		op->vex = !op->evex;
		op->z_ll_b_aaa = insn->evex;
		op->w = insn->flags & X86_INSN_W;
		op->l256 = insn->vl == 32;
		op->p66 = d->vex_pp == 1;
		op->rep = d->vex_pp == 2 ? 0xf3 : d->vex_pp == 3 ? 0xf2 : 0;
		op->vvvv = insn->vvvv;
		return;
	}
	op->w = insn->opsize == 8;
	op->p66 = insn->opsize == 2;
	if (d->prefix) {
		op->w = insn->flags & X86_INSN_W;
		op->p66 = insn->flags & X86_INSN_OPSIZE;
		/* F2 and F3 outrank 66; where both count the operand size is 2. */
		if (d->vec && insn->flags & (X86_INSN_REP | X86_INSN_REPNE))
			op->p66 = false;
		op->rep = insn->flags & X86_INSN_REP ? 0xf3 : insn->flags & X86_INSN_REPNE ? 0xf2 : 0;
	}
}

/* The register in ModRM.reg. Returns the guest register to be stored behind, or H_NONE. */
static unsigned name_reg(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned guest = d->byte_reg ? insn->reg8 >> 3 : insn->reg;
	unsigned host = host_of(guest);

	if (!d->reg_use) {
		op->reg = insn->reg;
		return H_NONE;
	}
	if (d->byte_reg && is_high(insn->reg8)) {
		op->reg = (uint8_t)(guest + 4);
		return H_NONE;
	}
	if (host == H_NONE) {
		host = T_1;
		if (d->reg_use & JIT_R || insn->opsize < 4)
			emit_load_gs(&t->e, T_1, GS_GPR(guest));
	} else {
		guest = H_NONE;
	}
	op->reg = (uint8_t)host;
	op->rex |= d->byte_reg && needs_rex(host);
	return d->reg_use & JIT_W ? guest : H_NONE;
}

static unsigned name_rm(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned guest = d->byte_rm ? insn->rm8 >> 3 : insn->rm;
	unsigned host = host_of(guest);

	if (insn->flags & X86_INSN_MEM) {
		op->kind = EMIT_MEM;
		op->rm = t->mem_base;
		op->index = t->mem_index;
		op->disp = t->mem_disp;
		return H_NONE;
	}
	op->kind = EMIT_REG;
	if (!d->rm_use || d->vec_rm) { /* no general register */
		op->rm = insn->rm;
		return H_NONE;
	}
	if (d->byte_rm && is_high(insn->rm8)) {
		op->rm = (uint8_t)(guest + 4);
		return H_NONE;
	}
	if (host == H_NONE && copies_from_cpu(insn, d)) {
		op->kind = EMIT_GS;
		op->rm = H_NONE;
		op->disp = GS_GPR(guest);
		return H_NONE;
	}
	if (host == H_NONE) {
		host = T_2;
		if (d->rm_use & JIT_R || insn->opsize < 4 || d->byte_rm)
			emit_load_gs(&t->e, T_2, GS_GPR(guest));
	} else {
		guest = H_NONE;
	}
	op->rm = (uint8_t)host;
	op->rex |= d->byte_rm && needs_rex(host);
	return d->rm_use & JIT_W ? guest : H_NONE;
}

static unsigned name_vvvv(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned host = host_of(insn->vvvv);
	/* T_ADDR is in use by a memory operand, T_2 by a register one. */
	unsigned scratch = insn->flags & X86_INSN_MEM ? T_2 : T_ADDR;

	if (!d->vvvv_use)
		return H_NONE;
	op->vvvv = (uint8_t)(host == H_NONE ? scratch : host);
	if (host == H_NONE && d->vvvv_use & JIT_R)
		emit_load_gs(&t->e, scratch, GS_GPR(insn->vvvv));
	return host == H_NONE && d->vvvv_use & JIT_W ? insn->vvvv : H_NONE;
}

/* Opmasks, and what tells instructions of a group apart, are fields of three bits. */
static void narrow(const struct x86_insn *insn, struct emit_op *op)
{
	const struct x86_host_info *info = x86_host_info(insn);

	if (!info)
		return;
	if (info->reg == X86_HOST_MASK || info->reg == X86_HOST_NONE)
		op->reg &= 7;
	if (info->rm == X86_HOST_MASK && op->kind == EMIT_REG)
		op->rm &= 7;
	if (info->vvvv == X86_HOST_MASK)
		op->vvvv &= 7;
}

void tr_copy_registers(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit_op op = { 0 };

	name_opcode(insn, &t->desc[i], &op);
	if (insn->flags & X86_INSN_MODRM) {
		(void)name_rm(t, i, &op);
		(void)name_reg(t, i, &op);
	}
	narrow(insn, &op);
	emit_op(&t->e, &op);
}

void tr_copy(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned store_reg = H_NONE, store_rm = H_NONE, store_vvvv = H_NONE;
	struct emit_op op = { 0 };

	if (insn->flags & X86_INSN_MEM)
		tr_operand(t, i, d->mem_len, d->mem_align, d->rm_use & JIT_W);
	tr_flags_want(t, i);
	name_opcode(insn, d, &op);
	if (insn->flags & X86_INSN_MODRM) {
		store_rm = name_rm(t, i, &op);
		store_reg = name_reg(t, i, &op);
		store_vvvv = name_vvvv(t, i, &op);
	}
	narrow(insn, &op);
	emit_op(&t->e, &op);
	if (store_vvvv != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_vvvv), op.vvvv);
	/* Where two results go to one register, MULX leaves the upper half and XADD the sum. */
	if (store_reg != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_reg), T_1);
	if (store_rm != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_rm), T_2);
	tr_flags_written(t, i);
}
