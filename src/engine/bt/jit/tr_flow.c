// SPDX-License-Identifier: Apache-2.0
/* tr_flow.c - ways out of a block: links, indirect branches, calls and returns. */
#include "engine/bt/jit/tr.h"

/* The exit's jump is emitted here, or was at @site; what it leads to follows in tr_exit_finish(). */
static void exit_at(struct tr *t, unsigned n, uint8_t *site, int64_t off)
{
	t->exit[n].site = site;
	t->exit[n].off = off;
	t->exit[n].used = true;
	t->exit[n].save = t->in_host && !t->in_mem;
}

/* In front of a link to another page: it must be the same page of RIP and the same context as when
 * it was made. Returns the jump to be linked. */
static uint8_t *emit_cross(struct tr *t, struct bt_exit *exit, uint8_t *miss[2])
{
	struct emit *e = &t->e;
	uint8_t *site;

	emit_load_gs(e, T_ADDR, GS_VCPU(jit.rip_page));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_RIP, .reg = T_ADDR, .target = &exit->from_page);
	miss[0] = emit_jcc(e, CC_NE);
	emit_load_gs32(e, T_1, GS_VCPU(epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_RIP, .reg = T_1, .target = &exit->epoch);
	miss[1] = emit_jcc(e, CC_NE);
	emit_lea(e, T_ADDR, T_ADDR, (int32_t)(exit->off & ~(int64_t)0xfff));
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
	site = emit_jmp(e);
	return site;
}

void tr_exit_finish(struct tr *t, unsigned n)
{
	struct bt_exit *exit = &t->block->exit[n];
	int64_t off = t->exit[n].off;
	uint8_t *miss[2];

	*exit = (struct bt_exit){ .off = off };
	if (!t->exit[n].used)
		return;
	exit->cross = (uint64_t)off > 0xfff;
	exit->host_flags = t->exit[n].save && !exit->cross;
	emit_patch_here(&t->e, t->exit[n].site);
	if (t->exit[n].save)
		jit_emit_flags_save(&t->e);
	if (!exit->cross) {
		exit->site = tr_offset(t, t->exit[n].site);
	} else if (off == (int32_t)off) {
		uint8_t *site = emit_cross(t, exit, miss);

		exit->site = tr_offset(t, site);
		emit_patch_here(&t->e, site);
		emit_patch_here(&t->e, miss[0]);
		emit_patch_here(&t->e, miss[1]);
	}
	emit_lea_rip(&t->e, T_1, exit);
	emit_jmp_to(&t->e, t->vcpu->jit.leave_link);
}

/* To @off, which ends the block. */
void tr_exit(struct tr *t, unsigned n, int64_t off)
{
	exit_at(t, n, emit_jmp(&t->e), off);
}

static int64_t target_of(const struct tr *t, unsigned i)
{
	return (int64_t)t->next_off[i] + (int64_t)t->block->insn[i].imm;
}

void tr_jcc(struct tr *t, unsigned i)
{
	tr_flags_want(t, i);
	exit_at(t, 0, emit_jcc(&t->e, t->block->insn[i].opcode & 15), target_of(t, i));
	tr_exit(t, 1, t->next_off[i]);
}

/* T_ADDR: where to. On a hit the stack pointer moves by @pop, and a call writes its return address to
 * jit.tmp_host; else the handler does it all. */
static void emit_indirect(struct tr *t, unsigned i, int32_t pop, bool call)
{
	const int32_t map = GS_VCPU(jit.map);
	struct emit *e = &t->e;

	emit_mov_rr(e, T_1, T_ADDR);
	tr_shr(e, true, T_1, 12);
	EMIT(e, .opcode = 0x31, .kind = EMIT_REG, .reg = T_ADDR, .rm = T_1);
	tr_alu_imm(e, ALU_AND, false, T_1, (1 << BT_JIT_MAP_BITS) - 1);
	EMIT(e, .opcode = 0xc1, .kind = EMIT_REG, .reg = 4, .rm = T_1, .imm = 4, .imm_len = 1);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, rip));
	tr_slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0x8b, .kind = EMIT_GS, .reg = T_2, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE, .disp = GS_VCPU(epoch));
	tr_slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0x8b, .kind = EMIT_GS, .reg = T_1, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, code));
	if (call) {
		emit_load_gs(e, T_ADDR, GS_VCPU(jit.tmp_host));
		emit_load_gs(e, T_2, GS_VCPU(jit.rip_page));
		emit_lea(e, T_2, T_2, (int32_t)t->next_off[i]);
		tr_store_mem(e, T_ADDR, T_2);
		emit_load_gs(e, T_ADDR, GS_VCPU(jit.tmp));
	}
	if (pop)
		emit_lea(e, HOST_SP, HOST_SP, pop);
	tr_alu_imm(e, ALU_AND, true, T_ADDR, -4096);
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
	emit_lea_rip(e, T_2, t->vcpu->jit.exec);
	EMIT(e, .opcode = 0x01, .w = true, .kind = EMIT_REG, .reg = T_2, .rm = T_1);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
}

/* [T_ADDR] = RIP of the next instruction. */
static void emit_return_address(struct tr *t, unsigned i)
{
	emit_load_gs(&t->e, T_1, GS_VCPU(jit.rip_page));
	emit_lea(&t->e, T_1, T_1, (int32_t)t->next_off[i]);
	tr_store_mem(&t->e, T_ADDR, T_1);
}

void tr_jmp(struct tr *t, unsigned i)
{
	tr_exit(t, 0, target_of(t, i));
}

void tr_call(struct tr *t, unsigned i)
{
	tr_stack(t, i, HOST_SP, -8, true);
	emit_return_address(t, i);
	emit_lea(&t->e, HOST_SP, HOST_SP, -8);
	if (tr_joins(t, i))
		return;
	tr_exit(t, 0, target_of(t, i));
}

void tr_ret(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	tr_stack(t, i, HOST_SP, 0, false);
	tr_load_mem(&t->e, T_ADDR, T_ADDR);
	if (tr_joins(t, i))
		return;
	emit_indirect(t, i, 8 + (insn->opcode == 0xc2 ? (uint16_t)insn->imm : 0), false);
}

void tr_indirect(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned kind = t->desc[i].kind;
	bool call = kind == JIT_CALL_REG || kind == JIT_CALL_MEM;

	tr_flags_spoil(t, i);
	if (insn->flags & X86_INSN_MEM) {
		tr_operand(t, i, 8, 1, false);
		tr_load_mem(&t->e, T_ADDR, T_ADDR);
	} else {
		emit_mov_rr(&t->e, T_ADDR, tr_value_reg(t, insn->rm, T_ADDR));
	}
	if (call) {
		emit_store_gs(&t->e, GS_VCPU(jit.tmp), T_ADDR);
		tr_stack(t, i, HOST_SP, -8, true);
		emit_store_gs(&t->e, GS_VCPU(jit.tmp_host), T_ADDR);
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.tmp));
	}
	emit_indirect(t, i, call ? -8 : 0, call);
}

void tr_leave_at(struct tr *t, uint8_t *site, enum bt_jit_exit why)
{
	emit_patch_here(&t->e, site);
	emit_lea_rip(&t->e, T_1, t->block);
	emit_mov_imm32(&t->e, T_2, why);
	emit_jmp_to(&t->e, t->vcpu->jit.leave);
}
