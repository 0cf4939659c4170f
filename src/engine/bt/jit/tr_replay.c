// SPDX-License-Identifier: Apache-2.0
/*
 * tr_replay.c - flags that only a fault would show: not saved, but made again in its slow path.
 *
 * Most flags are overwritten before anything reads them. Only what may fault in between has to know
 * them, and where the operands of the instruction that made them, or its result, are still in their
 * registers, its slow path can make them once more: CMP and TEST by doing them again, AND, OR and XOR
 * by a TEST of the result, ADD, SUB and NEG by undoing them in a scratch register first. Others are
 * saved, in front of what spoils them.
 */
#include "engine/bt/jit/tr.h"

/* How: of registers, 32 or 64 bits wide save AGAIN. */
enum how { REPLAY_NONE, REPLAY_AGAIN, REPLAY_TEST, REPLAY_ADD, REPLAY_SUB, REPLAY_NEG };

struct replay {
	enum how how;
	unsigned dest, src; /* guest registers; src: H_NONE when it is the immediate */
};

static enum how how_of_group1(unsigned op)
{
	static const uint8_t how[8] = {
		[0] = REPLAY_ADD, [1] = REPLAY_TEST, [4] = REPLAY_TEST, [5] = REPLAY_SUB,
		[6] = REPLAY_TEST, [7] = REPLAY_AGAIN,
	};

	return (enum how)how[op];
}

static bool names_high_byte(const struct x86_insn *insn, const struct jit_desc *d)
{
	return (d->byte_reg && insn->reg8 & 7) || (d->byte_rm && insn->rm8 & 7);
}

static struct replay describe(const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned op = insn->opcode, group = insn->modrm >> 3 & 7;
	unsigned rm = insn->rm & 15u, reg = insn->reg & 15u;

	if (d->kind != JIT_COPY || insn->map || d->fw != X86_FL_STATUS || names_high_byte(insn, d) ||
	    insn->flags & (X86_INSN_MEM | X86_INSN_VEX | X86_INSN_LOCK))
		return (struct replay){ REPLAY_NONE, 0, 0 };
	if (d->byte_rm || d->byte_reg) {
		reg = insn->reg8 >> 3 & 15u;
		rm = insn->rm8 >> 3 & 15u;
	}
	if (op < 0x40 && (op & 7) < 2)
		return (struct replay){ how_of_group1(op >> 3), rm, reg };
	if (op < 0x40 && (op & 7) < 4)
		return (struct replay){ how_of_group1(op >> 3), reg, rm };
	if (op < 0x40)
		return (struct replay){ how_of_group1(op >> 3), X86_RAX, H_NONE };
	if (op == 0x80 || op == 0x81 || op == 0x83)
		return (struct replay){ how_of_group1(group), rm, H_NONE };
	if (op == 0x84 || op == 0x85)
		return (struct replay){ REPLAY_AGAIN, rm, reg };
	if (op == 0xa8 || op == 0xa9)
		return (struct replay){ REPLAY_AGAIN, X86_RAX, H_NONE };
	if ((op == 0xf6 || op == 0xf7) && group < 2)
		return (struct replay){ REPLAY_AGAIN, rm, H_NONE };
	if (op == 0xf7 && group == 3)
		return (struct replay){ REPLAY_NEG, rm, H_NONE };
	return (struct replay){ REPLAY_NONE, 0, 0 };
}

/* The operands are as wide as the rest of this file wants them. */
static bool is_fit(const struct x86_insn *insn, const struct jit_desc *d, const struct replay *r)
{
	if (r->how == REPLAY_NONE || r->how == REPLAY_AGAIN)
		return r->how != REPLAY_NONE;
	if (insn->opsize < 4 || d->byte_rm || d->byte_reg ||
	    (insn->opcode < 0x40 && !(insn->opcode & 1)))
		return false;
	return r->how == REPLAY_TEST || r->dest != r->src;
}

bool tr_replay_holds(const struct tr *t, unsigned i)
{
	struct replay r;
	uint32_t mask;

	if (t->maker == TR_NO_MAKER)
		return false;
	r = describe(t, t->maker);
	if (!is_fit(&t->block->insn[t->maker], &t->desc[t->maker], &r))
		return false;
	mask = 1u << r.dest | (r.src < 16 && r.how != REPLAY_TEST ? 1u << r.src : 0);
	for (unsigned k = t->maker + 1u; k < t->block->count; k++) {
		/* Overwritten before or by @k, which changes registers only when it has not faulted. */
		if (k >= i && (!t->live_plain[k] || t->desc[k].fw == X86_FL_STATUS))
			return true;
		if ((k < i || t->live_plain[k + 1]) && tr_changed(t, k) & mask)
			return false;
	}
	return true;
}

/* T_1 = what dest was. T_2 is what T_1 is to be changed by, unless it is the immediate. */
static void undo(struct tr *t, const struct x86_insn *insn, const struct replay *r)
{
	bool wide = insn->opsize == 8, add = r->how == REPLAY_ADD;
	int32_t imm = insn->opcode == 0x83 ? (int8_t)insn->imm : (int32_t)insn->imm;
	unsigned src;

	emit_mov_rr(&t->e, T_1, tr_value_reg(t, r->dest, T_1));
	if (r->src == H_NONE) {
		tr_alu_imm(&t->e, add ? ALU_SUB : ALU_ADD, wide, T_1, imm);
		tr_alu_imm(&t->e, add ? ALU_ADD : ALU_SUB, wide, T_1, imm);
		return;
	}
	src = tr_value_reg(t, r->src, T_2);
	EMIT(&t->e, .opcode = add ? 0x29 : 0x01, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)src,
	     .rm = T_1);
	EMIT(&t->e, .opcode = add ? 0x01 : 0x29, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)src,
	     .rm = T_1);
}

void tr_replay(struct tr *t, unsigned maker)
{
	const struct x86_insn *insn = &t->block->insn[maker];
	struct replay r = describe(t, maker);
	bool wide = insn->opsize == 8;
	unsigned dest;

	switch (r.how) {
	case REPLAY_AGAIN:
		tr_copy_registers(t, maker);
		break;
	case REPLAY_TEST:
		dest = tr_value_reg(t, r.dest, T_1);
		EMIT(&t->e, .opcode = 0x85, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)dest,
		     .rm = (uint8_t)dest);
		break;
	case REPLAY_NEG:
		emit_mov_rr(&t->e, T_1, tr_value_reg(t, r.dest, T_1));
		for (unsigned n = 0; n < 2; n++)
			EMIT(&t->e, .opcode = 0xf7, .w = wide, .kind = EMIT_REG, .reg = 3, .rm = T_1);
		break;
	case REPLAY_ADD:
	case REPLAY_SUB:
		undo(t, insn, &r);
		break;
	case REPLAY_NONE:
		break;
	}
	jit_emit_flags_save(&t->e);
}
