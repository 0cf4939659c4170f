// SPDX-License-Identifier: Apache-2.0
/*
 * tr_cross.c - the instruction behind a block of which a part lies in the next page.
 *
 * It is emitted behind the block's own, as what this vCPU has found there. What of it lies in the block's page is
 * compared with memory when the block is. The rest is compared each time: where that lies differs from one address
 * space to another, so a slot of the vCPU holds its host address, for the page of RIP and the fetch context, and
 * what a processor fetches is what is there now. Where either differs, the end mark's handler does all.
 */
#include <string.h>

#include "engine/bt/jit/tr.h"

#define REST_MAX 8u

static bool can_follow(const struct jit_desc *d)
{
	switch ((enum jit_kind)d->kind) {
	case JIT_COPY:
	case JIT_NOTHING:
	case JIT_LEA:
	case JIT_MOV_IMM:
	case JIT_XCHG_AX:
	case JIT_BSWAP:
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_POP_REG:
	case JIT_JCC:
	case JIT_JMP:
		return true;
	default:
		return false;
	}
}

/* At @at in the page of RIP, which is one of two: blocks are made in front of them, and while they run. */
static const struct bt_cross *known(struct bt_vcpu *vcpu, unsigned at)
{
	const struct bt_cross *cross = bt_cross_known(vcpu, (vcpu->cpu.s.rip & ~0xfffull) + at);

	return cross ? cross : bt_cross_known(vcpu, vcpu->jit.rip_page + at);
}

/* The end mark gets its fields, but is executed as what it is. */
static void take_fields(struct tr *t, const struct bt_cross *cross)
{
	struct x86_insn *end = &t->with_cross.block.insn[t->block->count];

	memcpy(t->with_cross.room, t->block, bt_block_size(t->block));
	t->block = &t->with_cross.block;
	*end = cross->insn;
	end->exec = bt_exec_cross;
	end->len = 0;
}

static bool describe(struct tr *t, const struct bt_cross *cross)
{
	struct jit_desc *d = &t->desc[t->block->count];

	jit_describe(&cross->insn, cross->bytes, d);
	return can_follow(d) && !d->x87 && (d->kind != JIT_COPY || tr_high_bytes_fit(&cross->insn, d));
}

/* In front of all vector registers are there, if it needs any. */
static void note_vectors(struct tr *t, unsigned n)
{
	if (t->desc[n].vec) {
		t->last_vec = (int)n;
		t->first_unit = t->first_unit < n ? t->first_unit : n;
	}
	if (t->desc[n].wide)
		t->last_wide = (int)n;
}

void tr_cross_take(struct tr *t)
{
	const struct bt_block *block = t->block;
	unsigned n = block->count, at = ((uint32_t)block->gpa & 0xfff) + block->len, tail = block->tail;
	struct bt_region *r = t->region;
	const struct bt_cross *cross;

	t->count = n;
	if (block->insn[n].exec != bt_exec_cross || t->vcpu->jit.off & BT_OFF_CROSS || at + tail != 0x1000 ||
	    r->slots_used >= r->slot_end - r->slot_first)
		return;
	cross = known(t->vcpu, at);
	if (!cross || cross->insn.len <= tail || cross->insn.len > tail + REST_MAX ||
	    memcmp(cross->bytes, bt_block_bytes(block) + block->len, tail) != 0 || !describe(t, cross))
		return;
	t->to->native.cross_slot = (uint16_t)(r->slot_first + r->slots_used++);
	t->to->native.kept |= 1u << n;
	take_fields(t, cross);
	t->cross_len = cross->insn.len - tail;
	t->cross_rest = 0;
	memcpy(&t->cross_rest, cross->bytes + tail, t->cross_len);
	t->cross_rest <<= 64 - 8 * t->cross_len;
	t->next_off[n] = at + cross->insn.len;
	t->run_of[n] = TR_NO_RUN;
	t->place[n][0].class = t->place[n][1].class = TR_NO_CLASS;
	note_vectors(t, n);
	t->count = n + 1;
}

/* It is there, and is what it was. */
static void emit_look(struct tr *t, unsigned i)
{
	int32_t slot = GS_VCPU(jit.slot) + t->to->native.cross_slot * (int32_t)sizeof(struct bt_jit_slot);
	struct emit *e = &t->e;

	tr_flags_spoil(t, i);
	if (!t->in_mem && t->replay != TR_NO_MAKER) {
		tr_replay(t, t->replay);
		t->in_mem = true;
	}
	emit_load_gs(e, T_1, GS_VCPU(jit.rip_page));
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_VCPU(jit.context));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = slot + (int32_t)offsetof(struct bt_jit_slot, key));
	tr_slow_if(t, i, CC_NE);
	emit_load_gs(e, T_1, slot + (int32_t)offsetof(struct bt_jit_slot, code));
	tr_load_mem(e, T_1, T_1);
	if (t->cross_len < REST_MAX)
		EMIT(e, .opcode = 0xc1, .w = true, .kind = EMIT_REG, .reg = 4, .rm = T_1,
		     .imm = 64 - 8 * t->cross_len, .imm_len = 1); /* shl */
	emit_mov_imm64(e, T_2, t->cross_rest);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_REG, .reg = T_1, .rm = T_2);
	tr_slow_if(t, i, CC_NE);
	t->class_now = TR_NO_CLASS;
	t->addr_run = TR_NO_RUN;
}

static void emit_counted(struct tr *t)
{
	struct emit *e = &t->e;

	if (!bt_engine_of(t->vcpu)->count_insns)
		return;
	emit_load_gs(e, T_1, GS_VCPU(stats.insns));
	emit_lea(e, T_1, T_1, 1);
	emit_store_gs(e, GS_VCPU(stats.insns), T_1);
}

bool tr_cross(struct tr *t)
{
	unsigned i = t->block->count;
	bool branches = t->desc[i].kind == JIT_JCC || t->desc[i].kind == JIT_JMP;

	emit_look(t, i);
	/* Its handler counts, too. */
	if (branches)
		emit_counted(t);
	if (tr_insn_joined(t, i))
		return true;
	emit_counted(t);
	return false;
}
