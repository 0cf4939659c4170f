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
	t->exit[n].forward = off >= (int64_t)t->next_off[t->count - 1];
}

static bool crosses(int64_t off)
{
	return (uint64_t)off > 0xfff;
}

/* Calls and returns go by the host's own. */
static bool pairs(const struct tr *t, unsigned i)
{
	return !(t->vcpu->jit.off & BT_OFF_RETURNS) && !crosses(t->next_off[i]);
}

static void emit_jmp_or_call(struct emit *e, bool call, int32_t disp, unsigned rm)
{
	EMIT(e, .opcode = 0xff, .kind = EMIT_GS, .reg = call ? 2 : 4, .rm = (uint8_t)rm,
	     .disp = disp);
}

/* To another page, by the exit's slot. Flags are saved. What is not there leads to emit_cross_miss(). */
static void emit_cross(struct tr *t, unsigned n, int64_t off, bool call)
{
	struct bt_region *r = t->region;
	struct emit *e = &t->e;
	int32_t slot;

	emit_load_gs(e, T_ADDR, GS_VCPU(jit.rip_page));
	emit_lea(e, T_ADDR, T_ADDR, (int32_t)(off & ~(int64_t)0xfff));
	t->exit[n].slot = r->slots_used < r->slot_end - r->slot_first ?
				  (uint16_t)(r->slot_first + r->slots_used++) : 0;
	if (!t->exit[n].slot) {
		t->exit[n].miss = emit_jmp(e);
		return;
	}
	slot = GS_VCPU(jit.slot) + t->exit[n].slot * (int32_t)sizeof(struct bt_jit_slot);
	emit_load_gs(e, T_1, GS_VCPU(jit.context));
	EMIT(e, .opcode = 0x01, .w = true, .kind = EMIT_REG, .reg = T_ADDR, .rm = T_1);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = slot + (int32_t)offsetof(struct bt_jit_slot, key));
	t->exit[n].miss = emit_jcc(e, CC_NE);
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
	emit_jmp_or_call(e, call, slot + (int32_t)offsetof(struct bt_jit_slot, code), H_NONE);
}

static void emit_cross_miss(struct tr *t, unsigned n, int64_t off, const uint8_t *return_point)
{
	struct emit *e = &t->e;

	emit_patch_here(e, t->exit[n].miss);
	emit_lea(e, T_ADDR, T_ADDR, (int32_t)(off & 0xfff));
	emit_lea_rip(e, T_1, bt_jit_left(t->to, n));
	if (!return_point) {
		emit_jmp_to(e, t->vcpu->jit.cross);
		return;
	}
	emit_call_to(e, t->vcpu->jit.cross);
	emit_jmp_to(e, return_point);
}

/* @save: the flags, first. */
static void emit_leave_exit(struct tr *t, unsigned n, bool save)
{
	const struct bt_jit *jit = &t->vcpu->jit;

	emit_call_to(&t->e, save ? jit->leave_exit_flags : jit->leave_exit);
	emit_u32(&t->e, bt_block_offset(bt_engine_of(t->vcpu)->cache, t->to) | n);
}

/* Within the page: the jump at @site is what is linked, or one behind the code that saves flags. */
static void finish_near(struct tr *t, unsigned n, struct bt_exit *exit)
{
	uint8_t *site = t->exit[n].site;

	exit->full = t->exit[n].full || t->vcpu->jit.off & BT_OFF_ENTRIES;
	exit->host_flags = t->exit[n].save && !exit->full && !(t->vcpu->jit.off & BT_OFF_FLAGS);
	emit_patch_here(&t->e, site);
	if (t->exit[n].save && !exit->host_flags) {
		jit_emit_flags_save(&t->e);
		emit_align_site(&t->e, 1);
		site = emit_jmp(&t->e);
		emit_patch_here(&t->e, site);
	}
	exit->site = tr_from_code(t, site);
	exit->stub = tr_from_code(t, t->e.p);
	emit_leave_exit(t, n, exit->host_flags);
}

void tr_exit_finish(struct tr *t, unsigned n)
{
	struct bt_exit *exit = &t->to->native.exit[n];
	int64_t off = t->exit[n].off;

	*exit = (struct bt_exit){
		.off = (int32_t)off,
		.cross = crosses(off),
		.forward = t->exit[n].forward,
	};
	if (!t->exit[n].used)
		return;
	t->failed |= off != (int32_t)off;
	if (!exit->cross) {
		finish_near(t, n, exit);
		return;
	}
	if (t->exit[n].site) { /* else a call, which was emitted in its place */
		emit_patch_here(&t->e, t->exit[n].site);
		if (t->exit[n].save)
			jit_emit_flags_save(&t->e);
		emit_cross(t, n, off, false);
		emit_cross_miss(t, n, off, NULL);
	} else {
		emit_cross_miss(t, n, off, t->return_point);
	}
	exit->slot = t->exit[n].slot;
}

static void exit_here(struct tr *t, unsigned n, int64_t off)
{
	emit_align_site(&t->e, 1);
	exit_at(t, n, emit_jmp(&t->e), off);
}

/* An instruction that ends a block and is no branch may serialize: what follows is fetched anew. */
void tr_end(struct tr *t)
{
	unsigned last = t->count - 1u;

	if (t->count == t->block->count && t->block->insn[t->count].exec == bt_exec_cross) {
		tr_handler(t, t->count);
		EMIT(&t->e, .map = 1, .opcode = 0x0b); /* it does not come back */
		return;
	}
	exit_here(t, 0, t->next_off[last]);
	t->exit[0].full = t->block->insn[last].flags & X86_INSN_ENDS;
}

static int64_t target_of(const struct tr *t, unsigned i)
{
	return (int64_t)t->next_off[i] + (int64_t)t->block->insn[i].imm;
}

void tr_jcc(struct tr *t, unsigned i)
{
	tr_flags_want(t, i);
	emit_align_site(&t->e, 2);
	exit_at(t, 0, emit_jcc(&t->e, t->block->insn[i].opcode & 15), target_of(t, i));
	exit_here(t, 1, t->next_off[i]);
}

/* Where RET comes back to: T_ADDR is the RIP, flags are in memory, the pair's second half is on the stack. */
static void emit_return_point(struct tr *t, unsigned i)
{
	t->return_point = t->e.p;
	emit_lea(&t->e, H_RSP, H_RSP, 8);
	emit_lea(&t->e, T_ADDR, T_ADDR, -(int32_t)t->next_off[i]);
	emit_store_gs(&t->e, GS_VCPU(jit.rip_page), T_ADDR);
	t->in_host = false;
	t->in_mem = true;
	exit_here(t, 1, t->next_off[i]);
	t->exit[1].full = t->vcpu->jit.off & BT_OFF_RETURN_ENTRY;
}

/* @reg = RIP of the next instruction. */
static void emit_return_address(struct tr *t, unsigned i, unsigned reg)
{
	emit_load_gs(&t->e, reg, GS_VCPU(jit.rip_page));
	emit_lea(&t->e, reg, reg, (int32_t)t->next_off[i]);
}

/* It is the first half of a pair. */
static void emit_half_pair(struct tr *t, unsigned i, unsigned reg)
{
	if (pairs(t, i))
		EMIT(&t->e, .opcode = (uint8_t)(0x50 | (reg & 7)), .kind = EMIT_NO_MODRM,
		     .rm = (uint8_t)reg);
}

/* T_1 = the place in jit.map of the target, T_ADDR. What is not there is left to the handler, which begins
 * anew. */
static void emit_find(struct tr *t, unsigned i)
{
	jit_emit_lookup(&t->e);
	tr_slow_if(t, i, CC_NE);
	jit_emit_lookup_epoch(&t->e);
	tr_slow_if(t, i, CC_NE);
	t->class_now = TR_NO_CLASS; /* T_2 was used */
}

void tr_jmp(struct tr *t, unsigned i)
{
	exit_here(t, 0, target_of(t, i));
}

void tr_call(struct tr *t, unsigned i)
{
	int64_t off = target_of(t, i);
	bool pair = pairs(t, i);

	tr_stack_near(t, i, HOST_SP, -8, true);
	emit_return_address(t, i, T_1);
	/* It may fault: nothing has changed yet. */
	tr_store_near(t, T_1);
	emit_half_pair(t, i, T_1);
	emit_lea(&t->e, HOST_SP, HOST_SP, -8);
	if (tr_joins(t, i))
		return;
	if (!pair) {
		exit_here(t, 0, off);
		return;
	}
	if (!crosses(off)) {
		emit_align_site(&t->e, 1);
		exit_at(t, 0, emit_call(&t->e), off);
		t->exit[0].forward = false;
	} else {
		tr_flags_spoil(t, i);
		emit_cross(t, 0, off, true);
		exit_at(t, 0, NULL, off);
	}
	emit_return_point(t, i);
}

void tr_ret(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	int32_t pop = 8 + (insn->opcode == 0xc2 ? (uint16_t)insn->imm : 0);
	struct emit *e = &t->e;
	uint8_t *miss;

	tr_stack_near(t, i, HOST_SP, 0, false);
	tr_load_near(t, T_ADDR);
	if (tr_joins(t, i))
		return;
	tr_flags_spoil(t, i);
	if (!(t->vcpu->jit.off & BT_OFF_RETURNS)) {
		EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_MEM, .reg = T_ADDR, .rm = H_RSP,
		     .index = H_NONE, .disp = 8);
		miss = emit_jcc(e, CC_NE);
		emit_lea(e, HOST_SP, HOST_SP, pop);
		emit_byte(e, 0xc3);
		emit_patch_here(e, miss);
	}
	emit_call_to(e, t->vcpu->jit.lookup);
	tr_slow_if(t, i, CC_NE);
	emit_lea(e, HOST_SP, HOST_SP, pop);
	emit_jmp_to(e, t->vcpu->jit.ret_pop);
}

/* T_ADDR = where to. */
static void emit_target(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	if (insn->flags & X86_INSN_MEM) {
		tr_operand(t, i, 8, 1, false);
		tr_load_mem(&t->e, T_ADDR, T_ADDR);
	} else {
		emit_mov_rr(&t->e, T_ADDR, tr_value_reg(t, insn->rm, T_ADDR));
	}
}

void tr_jmp_indirect(struct tr *t, unsigned i)
{
	tr_flags_spoil(t, i);
	emit_target(t, i);
	emit_find(t, i);
	jit_emit_set_page(&t->e);
	emit_jmp_or_call(&t->e, false, GS_VCPU(jit.map[0].code), T_1);
}

/* The return address is stored when all else is known: that may fault, and nothing has changed yet. */
void tr_call_indirect(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;

	tr_flags_spoil(t, i);
	emit_target(t, i);
	emit_find(t, i);
	emit_store_gs(e, GS_VCPU(jit.tmp), T_1);
	tr_stack_near(t, i, HOST_SP, -8, true);
	emit_return_address(t, i, T_1);
	tr_store_near(t, T_1);
	if (tr_joins(t, i))
		return;
	emit_half_pair(t, i, T_1);
	emit_lea(e, HOST_SP, HOST_SP, -8);
	emit_load_gs(e, T_1, GS_VCPU(jit.tmp));
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = T_1,
	     .disp = GS_VCPU(jit.map[0].rip));
	jit_emit_set_page(e);
	emit_jmp_or_call(e, pairs(t, i), GS_VCPU(jit.map[0].code), T_1);
	if (pairs(t, i))
		emit_return_point(t, i);
}
