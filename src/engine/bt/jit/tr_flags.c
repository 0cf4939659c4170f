// SPDX-License-Identifier: Apache-2.0
/* tr_flags.c - where the guest's status flags are, and the slow paths that want them in memory. */
#include "engine/bt/jit/tr.h"

/* Code that follows changes the host's flags. */
void tr_flags_spoil(struct tr *t, unsigned i)
{
	if (t->in_host)
		t->replay = TR_NO_MAKER;
	if (t->in_host && !t->in_mem && t->live[i]) {
		if (!t->read[i] && tr_replay_holds(t, i))
			t->replay = t->maker;
		if (t->replay == TR_NO_MAKER) {
			jit_emit_flags_save(&t->e);
			t->in_mem = true;
			t->class_now = TR_NO_CLASS;
		}
	}
	t->in_host = false;
}

/* The instruction reads flags, or leaves some as they were. */
void tr_flags_want(struct tr *t, unsigned i)
{
	const struct jit_desc *d = &t->desc[i];

	uint32_t need = d->fr | (d->fm ? t->live[i + 1] & ~d->fw : 0);

	if (!need || t->in_host)
		return;
	jit_emit_flags_restore(&t->e);
	t->in_host = true;
	t->class_now = TR_NO_CLASS;
}

void tr_flags_written(struct tr *t, unsigned i)
{
	if (t->desc[i].fm) {
		t->in_host = true;
		t->in_mem = false;
		t->maker = (uint8_t)(t->desc[i].fw == X86_FL_STATUS ? i : TR_NO_MAKER);
	}
}

static uint8_t replay_here(const struct tr *t)
{
	return t->in_host || t->in_mem ? TR_NO_MAKER : t->replay;
}

static void slow_at(struct tr *t, const struct tr_slow *slow)
{
	if (t->slow_count == BT_JIT_SLOW) {
		t->failed = true;
		return;
	}
	t->slow[t->slow_count] = *slow;
	t->slow[t->slow_count++].replay = replay_here(t);
}

void tr_slow_if(struct tr *t, unsigned i, unsigned cc)
{
	slow_at(t, &(struct tr_slow){ .site = emit_jcc(&t->e, cc), .insn = (uint8_t)i,
				      .run = TR_NO_RUN });
}

void tr_miss_if(struct tr *t, unsigned i, unsigned cc, uint8_t *retry, bool write)
{
	slow_at(t, &(struct tr_slow){ .site = emit_jcc(&t->e, cc), .retry = retry,
				      .insn = (uint8_t)i, .run = TR_NO_RUN, .write = write });
}

/* The page is filled in for the first access, which is about to happen. A later store must not mark it
 * dirty before its time. */
void tr_miss_run_if(struct tr *t, unsigned n, unsigned cc, uint8_t *retry)
{
	struct tr_run *run = &t->run[n];

	run->in_mem = t->in_mem;
	run->replay = replay_here(t);
	slow_at(t, &(struct tr_slow){ .site = emit_jcc(&t->e, cc),
				      .retry = run->first_write == run->write ? retry : NULL,
				      .insn = run->first, .run = (uint8_t)n, .write = run->write });
}

/* Of stubs: what is wanted of vector registers behind @last. */
static unsigned vectors_behind(const struct tr *t, unsigned last)
{
	return (int)last < t->last_wide ? 2 : (int)last < t->last_vec ? 1 : 0;
}

/* How many bytes of the block are before @i. */
static unsigned bytes_before(const struct tr *t, unsigned i)
{
	if (i == t->block->count) /* the end mark */
		return t->block->len;
	return (t->next_off[i] - t->block->insn[i].len - (unsigned)t->block->gpa) & 0xfff;
}

void tr_handler_call(struct tr *t, unsigned i)
{
	const struct bt_jit *jit = &t->vcpu->jit;
	const uint8_t *stub[] = { jit->call, jit->call_vec, jit->call_wide };

	emit_lea_rip(&t->e, T_1, t->to);
	emit_mov_imm32(&t->e, T_2, BT_JIT_WHICH(i, i, bytes_before(t, i)));
	emit_call_to(&t->e, stub[vectors_behind(t, i)]);
}

void tr_handler(struct tr *t, unsigned i)
{
	tr_flags_spoil(t, i);
	if (replay_here(t) != TR_NO_MAKER)
		tr_replay(t, t->replay);
	t->to->native.kept |= 1u << i;
	tr_handler_call(t, i);
	t->in_host = t->in_mem = true;
	t->maker = TR_NO_MAKER;
}

/* Call @stub, which goes on as what is behind the call tells it. */
static void emit_slow_call(struct tr *t, const uint8_t *stub, const struct tr_slow *slow, unsigned last,
			   const uint8_t *resume)
{
	struct bt_cache *cache = bt_engine_of(t->vcpu)->cache;
	unsigned first = slow->insn;
	const uint8_t *from;

	emit_call_to(&t->e, stub);
	from = t->e.p;
	emit_u32(&t->e, bt_block_offset(cache, t->to));
	emit_u32(&t->e, BT_JIT_WHICH(first, last, bytes_before(t, first)));
	/* No block is as large as 32 KiB. */
	emit_u32(&t->e, (uint16_t)(resume ? resume - from : 0) |
				(uint32_t)(uint16_t)(slow->retry ? slow->retry - from : 0) << 16);
}

/* Fill the TLB and try again; what that does not help is left to the handlers of the instructions
 * up to @last. @resume: behind them, or NULL. */
static void emit_slow(struct tr *t, const struct tr_slow *slow, unsigned last, const uint8_t *resume)
{
	const struct bt_jit *jit = &t->vcpu->jit;
	unsigned vec = vectors_behind(t, last);

	if (slow->retry && slow->replay == TR_NO_MAKER) {
		emit_slow_call(t, jit->miss[vec][slow->write], slow, last, resume);
		return;
	}
	if (slow->retry) {
		emit_call_to(&t->e, slow->write ? jit->fill_write : jit->fill_read);
		emit_jcc_to(&t->e, CC_NE, slow->retry);
	}
	if (slow->replay != TR_NO_MAKER)
		tr_replay(t, slow->replay);
	emit_slow_call(t, jit->slow[vec], slow, last, resume);
}

/* Of a run: to its copy, or all of its instructions by their handlers. */
static void finish_run(struct tr *t, const struct tr_slow *slow)
{
	const struct tr_run *run = &t->run[slow->run];
	unsigned kind = t->desc[run->end].kind;
	bool ends = kind == JIT_CALL || kind == JIT_RET;

	if (!t->copies) {
		emit_patch_here(&t->e, slow->site);
		emit_slow(t, slow, run->end, ends ? NULL : t->join[run->end].at);
		return;
	}
	if (!slow->retry) {
		if (!t->e.full)
			emit_patch(slow->site, run->code);
		return;
	}
	emit_patch_here(&t->e, slow->site);
	emit_call_to(&t->e, slow->write ? t->vcpu->jit.fill_write : t->vcpu->jit.fill_read);
	emit_jcc_to(&t->e, CC_NE, slow->retry);
	emit_jmp_to(&t->e, run->code);
}

/* Those of an instruction that have nothing to try again share one. */
void tr_slow_finish(struct tr *t)
{
	for (unsigned n = 0, end; n < t->slow_count; n = end) {
		const struct tr_slow *first = &t->slow[n];

		end = n + 1;
		if (first->run != TR_NO_RUN) {
			finish_run(t, first);
			continue;
		}
		emit_patch_here(&t->e, first->site);
		for (; !first->retry && end < t->slow_count && t->slow[end].run == TR_NO_RUN &&
		       !t->slow[end].retry && t->slow[end].insn == first->insn &&
		       t->slow[end].resume == first->resume && t->slow[end].replay == first->replay;
		     end++)
			emit_patch_here(&t->e, t->slow[end].site);
		emit_slow(t, first, first->insn, first->resume);
	}
}
