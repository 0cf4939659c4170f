// SPDX-License-Identifier: Apache-2.0
/*
 * tr_run.c - runs: accesses of a block that lie near each other, with one look at the TLB for all.
 *
 * Theory of operation. Registers are given numbers for the values they hold, and offsets from these;
 * moves, additions of constants, pushes and pops keep the number. Accesses whose addresses differ by
 * a constant only, and by little, are a run. At the first one the TLB is asked for all bytes of the run, with
 * the rights of all of it; where they are in one page that may be so accessed, the host address of the
 * lowest byte is kept (jit.run), and no access of the run can fault. Else these instructions are left to their
 * handlers, one by one, so that a fault is that of the instruction that has it, and bits of page table entries
 * are set for accesses that happen. A block in which that happens often (BT_JIT_FALLBACKS) is made anew
 * with a copy of them in which each access stands alone ("plain"). It joins the block behind the run. Most blocks
 * never get one: copies were a quarter of all code.
 *
 * What is kept holds to the end of the block at most, in which no translation is dropped: instructions that
 * could do so are left to their handlers, and no run goes over one of those.
 */
#include "engine/bt/jit/tr.h"

/* The longer, the more often one lies on two pages. */
#define RUN_BYTES 256
/* Instructions in all copies of a block. */
#define PLAIN_INSNS 80u

#define NO_VALUE  0u
#define RIP_VALUE 1u
#define DISP_MAX  (1 << 30)

struct value {
	unsigned id;
	int64_t off;
};

struct access {
	struct value base, index;
	unsigned scale, seg, len, align;
	int64_t off;
	bool write;
};

struct analysis {
	struct value reg[16];
	unsigned ids;
};

static void forget(struct analysis *a, unsigned reg)
{
	if (reg < 16)
		a->reg[reg] = (struct value){ .id = a->ids++ };
}

/* ---- what an instruction accesses ---- */

static bool operand(const struct tr *t, unsigned i, const struct analysis *a, struct access *ret)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	struct value base = { 0 }, index = { 0 };

	if (!(insn->flags & X86_INSN_MEM) || insn->disp > DISP_MAX || insn->disp < -DISP_MAX)
		return false;
	if (insn->base == X86_REG_RIP)
		base = (struct value){ RIP_VALUE, t->next_off[i] };
	else if (insn->base != X86_NO_REG)
		base = a->reg[insn->base];
	if (insn->index != X86_NO_REG)
		index = a->reg[insn->index];
	*ret = (struct access){
		.base = base, .index = index, .scale = index.id ? insn->scale : 0,
		.seg = insn->seg >= X86_FS ? insn->seg : 0,
		.len = d->kind == JIT_COPY ? d->mem_len : insn->opsize,
		.align = d->kind == JIT_COPY ? d->mem_align : 1,
		.off = base.off + (int64_t)((uint64_t)index.off << insn->scale) + insn->disp,
		.write = d->rm_use & JIT_W,
	};
	return true;
}

static bool stack(const struct analysis *a, unsigned reg, int64_t disp, bool write,
		  struct access *ret)
{
	*ret = (struct access){ .base = a->reg[reg], .len = 8, .align = 1, .write = write,
				.off = a->reg[reg].off + disp };
	return true;
}

static bool access_of(const struct tr *t, unsigned i, const struct analysis *a, struct access *ret)
{
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
	case JIT_DIV:
	case JIT_IDIV:
		return operand(t, i, a, ret);
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
	case JIT_CALL:
		return stack(a, X86_RSP, -8, true, ret);
	case JIT_POP_REG:
	case JIT_RET:
		return stack(a, X86_RSP, 0, false, ret);
	case JIT_LEAVE:
		return stack(a, X86_RBP, 0, false, ret);
	default:
		return false;
	}
}

/* ---- what it does to registers ---- */

/* Of one-byte opcodes: these write no register that is not named. */
static bool names_all(const struct x86_insn *insn)
{
	unsigned op = insn->opcode;

	if (insn->map == 0)
		return (op < 0x40 && (op & 7) < 4) || op == 0x63 || op == 0x69 || op == 0x6b ||
		       (op >= 0x80 && op <= 0x8b) || op == 0xc0 || op == 0xc1 ||
		       (op >= 0xc6 && op <= 0xc7) || (op >= 0xd0 && op <= 0xd3) || op == 0xfe ||
		       op == 0xff;
	if (insn->map == 1)
		return (op >= 0x40 && op <= 0x4f) || (op >= 0x90 && op <= 0x9f) || op == 0xa3 ||
		       op == 0xa4 || op == 0xa5 || (op >= 0xab && op <= 0xaf) ||
		       (op >= 0xb3 && op <= 0xc1);
	return false;
}

/* Elsewhere at most the string comparisons of SSE4.2 do. */
static void forget_implicit(struct analysis *a, const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	bool vec = t->desc[i].vec && !(insn->map == 3 && insn->opcode >= 0x60 && insn->opcode <= 0x63);

	if (vec || names_all(insn))
		return;
	forget(a, X86_RAX);
	forget(a, X86_RCX);
	forget(a, X86_RDX);
}

/* MOV, ADD, SUB, INC and DEC of whole registers. */
static bool moves_value(struct analysis *a, const struct x86_insn *insn)
{
	unsigned op = insn->opcode, group = insn->modrm >> 3 & 7;
	struct value *rm = &a->reg[insn->rm & 15];

	if (insn->map || insn->flags & (X86_INSN_MEM | X86_INSN_VEX) || insn->opsize != 8)
		return false;
	if (op == 0x89)
		*rm = a->reg[insn->reg & 15];
	else if (op == 0x8b)
		a->reg[insn->reg & 15] = *rm;
	else if ((op == 0x81 || op == 0x83) && (group == 0 || group == 5))
		rm->off += (group ? -1 : 1) * (int64_t)(op == 0x83 ? (int8_t)insn->imm :
								     (int32_t)insn->imm);
	else if (op == 0xff && group < 2)
		rm->off += group ? -1 : 1;
	else
		return false;
	return true;
}

static void copy_effects(struct analysis *a, const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];

	if (moves_value(a, insn))
		return;
	if (d->reg_use & JIT_W)
		forget(a, d->byte_reg ? insn->reg8 >> 3 : insn->reg);
	if (d->rm_use & JIT_W && !(insn->flags & X86_INSN_MEM) && !d->vec_rm)
		forget(a, d->byte_rm ? insn->rm8 >> 3 : insn->rm);
	if (d->vvvv_use & JIT_W)
		forget(a, insn->vvvv);
	forget_implicit(a, t, i);
}

static void lea_effects(struct analysis *a, const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct value v;

	if (insn->opsize != 8 || insn->index != X86_NO_REG || insn->base == X86_NO_REG) {
		forget(a, insn->reg);
		return;
	}
	v = insn->base == X86_REG_RIP ? (struct value){ RIP_VALUE, t->next_off[i] } :
					a->reg[insn->base];
	v.off += insn->disp;
	a->reg[insn->reg & 15] = v;
}

/* False: what the instruction does is not known here. */
static bool effects(struct analysis *a, const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
		copy_effects(a, t, i);
		return true;
	case JIT_NOTHING:
	case JIT_BIT:
		return true;
	case JIT_X87: /* FNSTSW AX; its handlers leave the block */
		forget(a, X86_RAX);
		return true;
	case JIT_LEA:
		lea_effects(a, t, i);
		return true;
	case JIT_MOV_IMM:
	case JIT_BSWAP:
		forget(a, insn->rm);
		return true;
	case JIT_XCHG_AX:
		forget(a, X86_RAX);
		forget(a, insn->rm);
		return true;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
		a->reg[X86_RSP].off -= 8;
		return true;
	case JIT_POP_REG:
		a->reg[X86_RSP].off += 8;
		forget(a, insn->rm);
		return true;
	case JIT_LEAVE:
		a->reg[X86_RSP] = a->reg[X86_RBP];
		a->reg[X86_RSP].off += 8;
		forget(a, X86_RBP);
		return true;
	case JIT_DIV:
	case JIT_IDIV:
		forget(a, X86_RAX);
		forget(a, X86_RDX);
		return true;
	default: /* it ends the block, or runs */
		return false;
	}
}

uint32_t tr_changed(const struct tr *t, unsigned i)
{
	struct analysis a = { .ids = RIP_VALUE + 1 };
	uint32_t changed = 0;

	for (unsigned r = 0; r < 16; r++)
		forget(&a, r);
	if (!effects(&a, t, i))
		return 0xffff;
	for (unsigned r = 0; r < 16; r++)
		if (a.reg[r].id != RIP_VALUE + 1 + r || a.reg[r].off)
			changed |= 1u << r;
	return changed;
}

/* ---- accesses of direct blocks ---- */

/* What a register holds, or held when the block was entered. */
static uint64_t guess_value(const struct tr *t, const struct value *v, unsigned reg)
{
	const uint64_t *gpr = t->vcpu->cpu.s.gpr;

	if (!v->id)
		return 0;
	if (v->id == RIP_VALUE)
		return t->vcpu->cpu.s.rip;
	if (v->id <= RIP_VALUE + 16)
		return gpr[v->id - RIP_VALUE - 1] + (uint64_t)v->off;
	return gpr[reg & 15];
}

/* A base alone is looked up without the displacement. */
static void place_operand(struct tr *t, unsigned i, const struct analysis *a)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct access m;
	struct tr_address at;

	if (!operand(t, i, a, &m))
		return;
	at = (struct tr_address){
		.base = m.base.id, .index = m.index.id, .scale = m.scale, .seg = m.seg, .off = m.off,
		.guess = guess_value(t, &m.base, insn->base) +
			 (guess_value(t, &m.index, insn->index) << m.scale),
	};
	if (m.seg)
		at.guess += t->vcpu->cpu.s.seg[m.seg].base;
	if (insn->index != X86_NO_REG || m.seg || !m.base.id)
		at.guess += (uint64_t)(int64_t)insn->disp;
	else
		at.off = insn->base == X86_REG_RIP ? 0 : m.base.off;
	tr_direct_place(t, i, 0, &at);
}

static void place_stack(struct tr *t, unsigned i, const struct value *v, unsigned reg)
{
	tr_direct_place(t, i, 1, &(struct tr_address){ .base = v->id, .off = v->off,
						       .guess = guess_value(t, v, reg) });
}

/* An indirect call reaches the stack when it has spoiled flags: it could not begin anew. */
static void place(struct tr *t, unsigned i, const struct analysis *a)
{
	if (t->block->insn[i].flags & X86_INSN_MEM)
		place_operand(t, i, a);
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
	case JIT_POP_REG:
	case JIT_CALL:
	case JIT_RET:
		place_stack(t, i, &a->reg[X86_RSP], X86_RSP);
		break;
	case JIT_LEAVE:
		place_stack(t, i, &a->reg[X86_RBP], X86_RBP);
		break;
	default:
		break;
	}
}

/* ---- which are together ---- */

static bool same_place(const struct access *a, const struct tr_run *run)
{
	return a->base.id == run->base && a->index.id == run->index && a->scale == run->scale &&
	       a->seg == run->seg;
}

/* Whether what is aligned in both can be looked at together. */
static bool align_fits(const struct access *a, const struct tr_run *run)
{
	unsigned least = a->align < run->align ? a->align : run->align;

	return ((a->off - run->align_off) & (least - 1)) == 0;
}

static bool may_join(const struct access *a, const struct tr_run *run)
{
	int64_t lo = a->off < run->lo ? a->off : run->lo;
	int64_t hi = a->off + a->len > run->hi ? a->off + a->len : run->hi;

	return hi - lo <= RUN_BYTES && align_fits(a, run);
}

static void join(struct tr *t, unsigned i, const struct access *a, unsigned n)
{
	struct tr_run *run = &t->run[n];

	run->last = (uint8_t)i;
	run->count++;
	run->lo = a->off < run->lo ? a->off : run->lo;
	run->hi = a->off + a->len > run->hi ? a->off + a->len : run->hi;
	run->write |= a->write;
	if (a->align > run->align) {
		run->align = (uint8_t)a->align;
		run->align_off = a->off;
	}
	t->run_of[i] = (uint8_t)n;
	t->run_off[i] = a->off;
}

static void add(struct tr *t, unsigned i, const struct access *a)
{
	struct tr_run *run;

	for (unsigned n = t->run_count; n-- > 0;) {
		if (!t->run[n].open || !same_place(a, &t->run[n]))
			continue;
		if (may_join(a, &t->run[n])) {
			join(t, i, a, n);
			return;
		}
	}
	/* PUSH's own operand may leave it to its handler before its place on the stack is looked at. */
	if (t->run_count == BT_JIT_RUNS || t->desc[i].kind == JIT_PUSH_MEM)
		return;
	run = &t->run[t->run_count++];
	*run = (struct tr_run){
		.open = true, .first = (uint8_t)i, .align = 1, .first_write = a->write,
		.base = a->base.id, .index = a->index.id, .scale = (uint8_t)a->scale,
		.seg = (uint8_t)a->seg, .lo = a->off, .hi = a->off, .align_off = a->off,
	};
	join(t, i, a, t->run_count - 1);
}

static void drop(struct tr *t, unsigned n)
{
	t->run[n].count = 0;
	for (unsigned i = 0; i < t->block->count; i++)
		if (t->run_of[i] == n)
			t->run_of[i] = TR_NO_RUN;
}

/* The copy for a run goes on to where every run that begins in it has ended. */
static unsigned plain_end(const struct tr *t, unsigned n)
{
	unsigned end = t->run[n].last;

	for (unsigned i = t->run[n].first; i <= end; i++)
		if (t->run_of[i] != TR_NO_RUN && t->run[t->run_of[i]].first == i &&
		    t->run[t->run_of[i]].last > end)
			end = t->run[t->run_of[i]].last;
	return end;
}

/* The least useful go until the copies are few enough. */
static void limit_copies(struct tr *t)
{
	for (;;) {
		unsigned insns = 0, least = 0;

		for (unsigned n = 0; n < t->run_count; n++) {
			if (!t->run[n].count)
				continue;
			t->run[n].end = (uint8_t)plain_end(t, n);
			insns += t->run[n].end - t->run[n].first + 1u;
			if (!t->run[least].count || t->run[n].count < t->run[least].count)
				least = n;
		}
		if (insns <= PLAIN_INSNS || !t->copies)
			return;
		drop(t, least);
	}
}

/* The instruction may have changed anything. */
static void forget_all(struct tr *t, struct analysis *a)
{
	for (unsigned r = 0; r < 16; r++)
		forget(a, r);
	for (unsigned n = 0; n < t->run_count; n++)
		t->run[n].open = false;
	tr_direct_forget(t);
}

void tr_runs(struct tr *t)
{
	struct analysis a = { .ids = RIP_VALUE + 1 };
	struct access access;

	t->run_count = 0;
	t->plain = TR_NOT_PLAIN;
	t->addr_run = TR_NO_RUN;
	t->group_count = 0;
	forget_all(t, &a);
	for (unsigned i = 0; i < t->block->count; i++) {
		t->run_of[i] = TR_NO_RUN;
		t->place[i][0].class = t->place[i][1].class = TR_NO_CLASS;
		if (t->no_runs && !t->block->direct)
			continue;
		if (tr_direct_is_for(t, i))
			place(t, i, &a);
		else if (!t->no_runs && access_of(t, i, &a, &access))
			add(t, i, &access);
		if (!effects(&a, t, i))
			forget_all(t, &a);
	}
	for (unsigned n = 0; n < t->run_count; n++)
		if (t->run[n].count < 2)
			drop(t, n);
	limit_copies(t);
}

/* ---- the copies ---- */

const struct tr_run *tr_run_at(const struct tr *t, unsigned i)
{
	const struct tr_run *run;

	if (t->run_of[i] == TR_NO_RUN)
		return NULL;
	run = &t->run[t->run_of[i]];
	return t->plain != TR_NOT_PLAIN && run->first >= t->plain ? NULL : run;
}

bool tr_joins(struct tr *t, unsigned i)
{
	struct tr_join *join = &t->join[i];

	if (t->plain == TR_NOT_PLAIN && !t->other) {
		*join = (struct tr_join){ t->e.p, t->in_host, t->in_mem };
		return false;
	}
	if (!t->other && i != t->plain_end)
		return false;
	if (!t->in_mem && !t->in_host && t->replay != TR_NO_MAKER && (join->in_mem || join->in_host)) {
		tr_replay(t, t->replay);
		t->in_mem = true;
	}
	if (join->in_mem && !t->in_mem && t->in_host) {
		jit_emit_flags_save(&t->e);
		t->in_mem = true;
	}
	if (join->in_host && !t->in_host && t->in_mem)
		jit_emit_flags_restore(&t->e);
	emit_jmp_to(&t->e, join->at);
	return true;
}

/* What is emitted for it uses T_ADDR for accesses alone, as tr_operand() and tr_stack_near() leave it. */
static bool keeps_addr(const struct tr *t, unsigned i)
{
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
		return t->block->insn[i].flags & X86_INSN_MEM || !t->desc[i].vvvv_use;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_POP_REG:
	case JIT_NOTHING:
	case JIT_MOV_IMM:
		return true;
	default:
		return false;
	}
}

/* A copy may go on behind @i, and has used T_ADDR for something else. */
static bool is_joined(const struct tr *t, unsigned i)
{
	for (unsigned n = 0; n < t->run_count; n++)
		if (t->run[n].count && t->run[n].end == i)
			return true;
	return false;
}

bool tr_insn_joined(struct tr *t, unsigned i)
{
	unsigned slow = t->slow_count;
	bool keeps = keeps_addr(t, i), ended;

	if (!keeps)
		t->addr_run = TR_NO_RUN;
	tr_direct_begin(t, i);
	ended = tr_insn(t, i);
	tr_direct_end(t, i, ended);
	if (!keeps || is_joined(t, i))
		t->addr_run = TR_NO_RUN;
	for (; slow < t->slow_count; slow++)
		t->slow[slow].resume = ended ? NULL : t->e.p;
	if (!ended)
		(void)tr_joins(t, i);
	return ended;
}

void tr_runs_finish(struct tr *t)
{
	for (unsigned n = 0; t->copies && n < t->run_count; n++) {
		struct tr_run *run = &t->run[n];

		if (!run->count)
			continue;
		run->code = t->e.p;
		t->plain = run->first;
		t->plain_end = run->end;
		t->in_host = false;
		t->in_mem = run->in_mem;
		t->replay = run->replay;
		t->maker = TR_NO_MAKER;
		t->addr_run = TR_NO_RUN;
		for (unsigned i = run->first; i <= run->end; i++)
			t->live[i] = t->live_plain[i];
		for (unsigned i = run->first; i <= run->end; i++)
			tr_insn_joined(t, i);
	}
	t->plain = TR_NOT_PLAIN;
}
