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

void tr_handler_call(struct tr *t, unsigned i)
{
	unsigned at = (t->next_off[i] - t->block->insn[i].len - (unsigned)t->block->gpa) & 0xfff;

	emit_lea_rip(&t->e, T_1, t->to);
	emit_mov_imm32(&t->e, T_2, BT_JIT_WHICH(i, at));
	emit_call_to(&t->e, (int)i < t->last_wide ? t->vcpu->jit.call_wide :
			    (int)i < t->last_vec  ? t->vcpu->jit.call_vec :
						    t->vcpu->jit.call);
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

/* Fill the TLB and try again; go on behind this where that is not possible. */
static void emit_fill(struct tr *t, const struct tr_slow *slow)
{
	const struct bt_jit *jit = &t->vcpu->jit;

	emit_patch_here(&t->e, slow->site);
	emit_call_to(&t->e, slow->write ? jit->fill_write : jit->fill_read);
	emit_jcc_to(&t->e, CC_NE, slow->retry);
}

static void finish_run(struct tr *t, const struct tr_slow *slow)
{
	uint8_t *site = slow->site;

	if (slow->retry) {
		emit_fill(t, slow);
		site = emit_jmp(&t->e);
	}
	if (!t->e.full)
		emit_patch(site, t->run[slow->run].code);
}

/* Slow paths of an instruction share one call of its handler. */
void tr_slow_finish(struct tr *t)
{
	for (unsigned n = 0, end; n < t->slow_count; n = end) {
		const struct tr_slow first = t->slow[n];

		end = n + 1;
		if (first.run != TR_NO_RUN) {
			finish_run(t, &first);
			continue;
		}
		while (end < t->slow_count && t->slow[end].run == TR_NO_RUN &&
		       t->slow[end].insn == first.insn && t->slow[end].resume == first.resume &&
		       t->slow[end].replay == first.replay)
			end++;
		for (unsigned k = n; k < end; k++) {
			if (!t->slow[k].retry)
				continue;
			emit_fill(t, &t->slow[k]);
			t->slow[k].site = k + 1 < end ? emit_jmp(&t->e) : NULL;
		}
		for (unsigned k = n; k < end; k++)
			if (t->slow[k].site)
				emit_patch_here(&t->e, t->slow[k].site);
		if (first.replay != TR_NO_MAKER)
			tr_replay(t, first.replay);
		tr_handler_call(t, first.insn);
		if (first.resume)
			emit_jmp_to(&t->e, first.resume);
		else /* a branch: its handler does not come back */
			EMIT(&t->e, .map = 1, .opcode = 0x0b);
	}
}
