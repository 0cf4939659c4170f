// SPDX-License-Identifier: Apache-2.0
/* translate.c - from a decoded block to native code, in one pass. See jit.h for how it works. */
#include <string.h>

#include "engine/bt/jit/tr.h"

static void analyse(struct tr *t)
{
	const struct bt_block *block = t->block;
	const uint8_t *bytes = bt_block_bytes(block);
	uint32_t off = block->gpa & 0xfff;

	for (unsigned i = 0; i < block->count; i++) {
		jit_describe(&block->insn[i], bytes, &t->desc[i]);
		if (t->desc[i].kind == JIT_COPY && !tr_high_bytes_fit(&block->insn[i], &t->desc[i]))
			t->desc[i] = (struct jit_desc){ .kind = JIT_HANDLER, .fr = X86_FL_STATUS,
							.fm = X86_FL_STATUS };
		bytes += block->insn[i].len;
		off += block->insn[i].len;
		t->next_off[i] = off;
	}
	t->last_vec = t->last_wide = -1;
	t->first_unit = block->count;
	for (unsigned i = block->count; i-- > 0;) {
		if (t->desc[i].vec && t->last_vec < 0)
			t->last_vec = (int)i;
		if (t->desc[i].wide && t->last_wide < 0)
			t->last_wide = (int)i;
		if (t->desc[i].vec || t->desc[i].x87)
			t->first_unit = i;
	}
}

/* It may fault, or leave the block behind it: a handler may do anything. @plain: accesses stand alone. */
static bool may_fault(const struct tr *t, unsigned i, bool plain)
{
	bool mem = t->block->insn[i].flags & X86_INSN_MEM;
	bool look = plain || t->run_of[i] == TR_NO_RUN || t->run[t->run_of[i]].first == i;

	if (i == t->first_unit) /* there may be no unit */
		return true;
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
		return mem && look;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_POP_REG:
	case JIT_LEAVE:
	case JIT_CALL:
	case JIT_RET:
		return look;
	case JIT_X87:
		return mem;
	case JIT_NOTHING:
	case JIT_LEA:
	case JIT_MOV_IMM:
	case JIT_XCHG_AX:
	case JIT_BSWAP:
	case JIT_JCC:
	case JIT_JMP:
		return false;
	default:
		return true;
	}
}

/* All flags matter in front of what may fault. One that writes some of them reads the others. */
static void liveness(struct tr *t)
{
	unsigned n = t->count;

	t->live[n] = t->live_plain[n] = t->read[n] = X86_FL_STATUS;
	if (n > t->block->count) { /* behind a look, which may lead to a handler */
		n = t->block->count;
		t->live[n] = t->live_plain[n] = t->read[n] = X86_FL_STATUS;
	}
	for (unsigned i = n; i-- > 0;) {
		const struct jit_desc *d = &t->desc[i];
		uint32_t kept = t->live_plain[i + 1] & ~d->fw;

		t->read[i] = (t->read[i + 1] & ~d->fw) | d->fr | (d->fm ? kept : 0);
		t->live_plain[i] = may_fault(t, i, true) ? X86_FL_STATUS : kept | d->fr;
		t->live[i] = may_fault(t, i, false) ? X86_FL_STATUS :
						      (t->live[i + 1] & ~d->fw) | d->fr;
	}
}

const uint8_t jit_entry_bytes[5] = { 0x65, 0x48, 0x3b, 0x24, 0x25 };

static uint8_t *emit_request_test(struct emit *e)
{
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = H_RSP, .rm = H_NONE,
	     .disp = GS_VCPU(jit.limit));
	return emit_jcc(e, CC_B);
}

/* The first instruction that has to do with flags wants them in the host's. */
static bool wants_flags(const struct tr *t)
{
	for (unsigned i = 0; i < t->block->count; i++) {
		const struct jit_desc *d = &t->desc[i];

		if (d->kind == JIT_JCC)
			return true;
		if (d->kind == JIT_COPY && !(t->block->insn[i].flags & X86_INSN_MEM)) {
			if (d->fr || d->fm)
				return d->fr || t->live[i + 1] & ~d->fw;
		} else if (d->kind != JIT_LEA && d->kind != JIT_MOV_IMM && d->kind != JIT_NOTHING) {
			return false;
		}
	}
	return false;
}

/* Flags to memory, where they matter, in front of the entry whose first bytes lie in one aligned quadword. */
static void emit_saved_entry(struct tr *t)
{
	struct emit *e = &t->e;
	uint8_t *start = e->p;
	size_t pad;

	if (t->live[0])
		jit_emit_flags_save(e);
	pad = ((uintptr_t)e->p & 7) > 8 - sizeof(jit_entry_bytes) ? 8 - ((uintptr_t)e->p & 7) : 0;
	if (e->full || e->end - e->p < 8)
		e->full = true;
	else
		memmove(start + pad, start, (size_t)(e->p - start));
	e->p += pad;
	t->back = start + pad;
}

/* See jit.h for the entries. */
static void emit_entry(struct tr *t)
{
	const struct bt_block *block = t->block;
	struct bt_native *native = &t->to->native;
	struct emit *e = &t->e;
	bool vec = t->last_vec >= 0;

	emit_saved_entry(t);
	t->code = tr_offset(t, e->p);
	native->back = tr_from_code(t, t->back);
	t->request = emit_request_test(e);
	if (!t->live[0]) {
		/* From above, too: but then the block is good whatever this finds. */
		native->back = tr_from_code(t, e->p);
		t->lost = emit_request_test(e);
	}
	if (bt_engine_of(t->vcpu)->deterministic) { /* all come by the full entry, with flags in memory */
		emit_load_gs(e, T_1, GS_VCPU(stats.insns));
		emit_lea(e, T_1, T_1, block->count + 1);
		EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
		     .disp = GS_VCPU(count.limit));
		t->due = emit_jcc(e, CC_AE);
	}
	native->next = native->next_host = tr_from_code(t, e->p);
	tr_x87_entry(t); /* it may put away vector registers */
	if (vec) {
		bool wide = t->last_wide >= 0;

		EMIT(e, .opcode = 0x80, .kind = EMIT_GS, .reg = 7, .rm = H_NONE,
		     .disp = GS_VCPU(jit.vec_loaded), .imm = wide ? BT_JIT_WIDE : 0, .imm_len = 1);
		t->vector = emit_jcc(e, wide ? CC_NE : CC_E);
		t->vector_back = e->p;
	}
	t->in_host = t->live[0] && wants_flags(t) && !(t->vcpu->jit.off & BT_OFF_FLAGS);
	t->in_mem = !t->in_host;
	t->maker = t->replay = TR_NO_MAKER;
	if (t->in_host)
		jit_emit_flags_restore(e);
	if (t->in_host && !vec && !t->x87)
		native->next_host = tr_from_code(t, e->p);
	else if (t->live[0])
		native->next_host = native->back; /* a comparison is less than a jump */
	if (bt_engine_of(t->vcpu)->count_insns) { /* flags may be the guest's */
		emit_load_gs(e, T_1, GS_VCPU(stats.insns));
		emit_lea(e, T_1, T_1, block->count);
		emit_store_gs(e, GS_VCPU(stats.insns), T_1);
	}
}

/* The ways into and out of the block that are not in its line. */
static void emit_entry_rest(struct tr *t)
{
	struct emit *e = &t->e;

	/* Calls, that each of them knows how far it is to the block's offset: see stub_leave_call(). */
	if (t->lost) {
		emit_patch_here(e, t->lost);
		emit_call_to(e, t->vcpu->jit.leave_entered);
	}
	emit_patch_here(e, t->request);
	if (t->due)
		emit_patch_here(e, t->due);
	emit_call_to(e, t->vcpu->jit.leave_request);
	t->to->native.stale = tr_from_code(t, e->p);
	emit_call_to(e, t->vcpu->jit.leave_stale);
	emit_u32(e, bt_block_offset(bt_engine_of(t->vcpu)->cache, t->to));
	tr_x87_finish(t);
	if (t->vector) {
		emit_patch_here(e, t->vector);
		emit_lea_rip(e, T_1, t->to);
		emit_call_to(e, t->last_wide >= 0 ? t->vcpu->jit.vec_load_wide : t->vcpu->jit.vec_load);
		emit_jmp_to(e, t->vector_back);
	}
}

bool tr_insn(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_HANDLER:
		tr_handler(t, i);
		t->vcpu->jit.handler_insns++;
		return false;
	case JIT_COPY:
		tr_copy(t, i);
		return false;
	case JIT_NOTHING:
		return false;
	case JIT_LEA:
		tr_lea(t, i);
		return false;
	case JIT_MOV_IMM:
		tr_mov_imm(t, insn);
		return false;
	case JIT_XCHG_AX:
		tr_xchg_ax(t, insn);
		return false;
	case JIT_BSWAP:
		tr_bswap(t, insn);
		return false;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
		tr_push(t, i);
		return false;
	case JIT_POP_REG:
		tr_pop(t, i);
		return false;
	case JIT_LEAVE:
		tr_leave(t, i);
		return false;
	case JIT_DIV:
	case JIT_IDIV:
		tr_div(t, i);
		return false;
	case JIT_SYS:
		tr_sys(t, i);
		return false;
	case JIT_BIT:
		tr_bit(t, i);
		return false;
	case JIT_STRING:
		tr_string(t, i);
		return false;
	case JIT_X87:
		tr_x87(t, i);
		return false;
	case JIT_JCC:
		tr_jcc(t, i);
		return true;
	case JIT_JMP:
		tr_jmp(t, i);
		return true;
	case JIT_CALL:
		tr_call(t, i);
		return true;
	case JIT_RET:
		tr_ret(t, i);
		return true;
	case JIT_JMP_REG:
	case JIT_JMP_MEM:
		tr_jmp_indirect(t, i);
		return true;
	case JIT_CALL_REG:
	case JIT_CALL_MEM:
		tr_call_indirect(t, i);
		return true;
	case JIT_SYSCALL:
		tr_syscall(t, i);
		return true;
	case JIT_SYSRET:
		tr_sysret(t, i);
		return true;
	}
	return false;
}

static void tr_block(struct tr *t)
{
	const struct bt_block *block = t->block;
	bool ended = false;

	analyse(t);
	tr_runs(t);
	tr_cross_take(t);
	liveness(t);
	emit_entry(t);
	for (unsigned i = 0; i < block->count && !ended; i++)
		ended = tr_insn_joined(t, i);
	if (t->count > block->count)
		ended = tr_cross(t);
	if (!ended)
		tr_end(t);
	tr_exit_finish(t, 0);
	tr_exit_finish(t, 1);
	emit_entry_rest(t);
	tr_runs_finish(t);
	tr_direct_others(t);
	tr_slow_finish(t);
	tr_direct_finish(t);
}

/* False: it did not fit, or cannot be done. */
static bool tr_try(struct tr *t, struct bt_vcpu *vcpu, struct bt_region *region,
		   const struct bt_block *block, struct bt_block *to, bool copies, bool no_runs)
{
	struct bt_jit *jit = &vcpu->jit;

	memset(t, 0, offsetof(struct tr, desc));
	memset(t->exit, 0, sizeof(t->exit));
	t->failed = false;
	t->slow_count = 0;
	t->vector = t->x87 = t->lost = t->due = NULL;
	t->vcpu = vcpu;
	t->region = region;
	t->block = block;
	t->to = to;
	to->native = (struct bt_native){ 0 };
	t->copies = copies || jit->off & BT_OFF_FALLBACKS;
	t->no_runs = no_runs || block->direct;
	t->class_now = TR_NO_CLASS;
	t->other = false;
	t->e.p = jit->code + region->code_used;
	t->e.end = t->e.p + BT_JIT_BLOCK_MAX;
	t->e.to_exec = jit->exec - jit->code;
	tr_block(t);
	return !t->e.full && !t->failed && tr_direct_sites(t);
}

/* Behind @to: the instructions that are left to their handlers, and its bytes. */
static void keep(const struct bt_block *block, struct bt_block *to)
{
	struct x86_insn *insn = bt_block_insns(to);

	for (unsigned i = 0; i < 32; i++)
		if (to->native.kept >> i & 1)
			*insn++ = block->insn[i];
	memcpy(insn, bt_block_bytes(block), block->len + block->tail);
}

bool bt_jit_translate(struct bt_vcpu *vcpu, struct bt_region *region, const struct bt_block *block,
		      struct bt_block *to, bool copies)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	bool no_runs = engine->off & BT_OFF_RUNS;
	uint32_t from = region->code_used, end;
	struct tr t;

	if (block->code_bytes != 8)
		return false;
	if (!tr_try(&t, vcpu, region, block, to, copies, no_runs) &&
	    (no_runs || !tr_try(&t, vcpu, region, block, to, copies, true)))
		return false;
	keep(t.block, to);
	region->used += (uint32_t)bt_block_size(to);
	end = tr_offset(&t, t.e.p);
	region->code_used = (end + 15) & ~15u;
	bt_jit_list_block(engine->cache, to);
	/* All of it is there for who sees this. */
	atomic_store_explicit(&to->code, t.code, memory_order_release);
	vcpu->jit.translated++;
	vcpu->jit.translated_insns += block->count;
	if (unlikely(engine->perf_map))
		bt_perf_map_block(vcpu, from, end - from);
	return true;
}
