// SPDX-License-Identifier: Apache-2.0
/*
 * tr_direct.c - from a guest's address to the host's in direct blocks: by its own MMU. See direct.h.
 *
 * Before anything is emitted each access is given a class by what its registers hold now, and is put into a
 * group with those whose addresses are known to differ from its own by a constant (tr_run.c follows
 * values): the first of a group looks its address up for all. T_2 is the base of the class last used,
 * class_now, until something else needs the register.
 *
 * Behind the block each of these instructions is emitted again in the other form, which looks its
 * window up. Where a look finds the class to be wrong, the handler of the signal lets all of
 * the group jump there from now on.
 */
#include "engine/bt/jit/tr.h"

/* How far a register may move away from where it was looked up. */
#define MOVED_MAX (1ll << 30)
/* The jump to the other form. */
#define JUMP_BYTES 5
/* What is below is no pointer. */
#define POINTER_MIN 0x10000u

bool tr_direct_is_for(const struct tr *t, unsigned i)
{
	if (!t->block->direct)
		return false;
	/* What is emitted for these changes nothing that the guest can see before its last access. */
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
	case JIT_POP_REG:
	case JIT_LEAVE:
	case JIT_DIV:
	case JIT_IDIV:
	case JIT_CALL:
	case JIT_RET:
	case JIT_JMP_MEM:
	case JIT_CALL_REG:
	case JIT_CALL_MEM:
		return true;
	default:
		return false;
	}
}

/* ---- classes and groups ---- */

static unsigned class_of(uint64_t address)
{
	uint64_t slot = address >> 39;

	if (slot == 0)
		return address >= POINTER_MIN ? (unsigned)BT_DIRECT_LOW : TR_NO_CLASS;
	return (slot >= 0xaa && slot <= 0xac) || (slot >= 0xfd && slot <= 0xff) ?
		       (unsigned)BT_DIRECT_HIGH : TR_NO_CLASS;
}

/* Small numbers look like pointers into slot 0: but only programs at fixed addresses have such. */
static unsigned guess_class(const struct tr *t, const struct tr_address *a)
{
	const struct bt_direct *d = &t->vcpu->direct;
	unsigned class = class_of(a->guess), code = class_of(t->vcpu->cpu.s.rip);

	if (class == BT_DIRECT_LOW && code != BT_DIRECT_LOW && !d->window[0].used)
		class = code;
	if (class == TR_NO_CLASS)
		class = code;
	return class != TR_NO_CLASS && d->has_class[class] ? class : TR_NO_CLASS;
}

static bool is_near(const struct tr_address *a, const struct tr_address *b)
{
	return a->base == b->base && a->index == b->index && a->scale == b->scale &&
	       a->seg == b->seg && a->off - b->off <= MOVED_MAX && b->off - a->off <= MOVED_MAX;
}

void tr_direct_place(struct tr *t, unsigned i, unsigned n, const struct tr_address *a)
{
	struct tr_place *place = &t->place[i][n];

	for (unsigned g = t->group_first; g < t->group_count; g++)
		if (is_near(a, &t->group[g])) {
			*place = (struct tr_place){ t->group_class[g], (uint8_t)g, false };
			return;
		}
	if (t->group_count == TR_GROUPS)
		return;
	*place = (struct tr_place){ (uint8_t)guess_class(t, a), (uint8_t)t->group_count, true };
	if (place->class == TR_NO_CLASS)
		return;
	t->group[t->group_count] = *a;
	t->group_class[t->group_count++] = place->class;
}

void tr_direct_forget(struct tr *t)
{
	t->group_first = t->group_count;
}

/* ---- around an instruction ---- */

/* @i may fault from here on. */
static void open_access(struct tr *t, unsigned i)
{
	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
	case JIT_POP_REG:
	case JIT_LEAVE:
	case JIT_CALL:
		break;
	default: /* flags are spoiled behind the access, for a slow path that wants them saved */
		tr_flags_spoil(t, i);
	}
	t->mem_base = T_ADDR;
	t->mem_index = H_NONE;
	t->mem_disp = 0;
	if (t->access[i].used)
		return;
	t->access[i].used = true;
	t->access[i].save = t->in_host && !t->in_mem;
	t->access[i].replay = t->in_host || t->in_mem ? TR_NO_MAKER : t->replay;
}

/* A base alone, whose displacement the access itself adds. */
static bool is_base_only(const struct x86_insn *insn)
{
	return insn->base != X86_NO_REG && insn->index == X86_NO_REG && insn->seg < X86_FS;
}

/* ---- where the jump to the other form may be put while others execute: jit.h, cache.c ---- */

static bool guesses(const struct tr *t, unsigned i)
{
	return t->place[i][0].class != TR_NO_CLASS || t->place[i][1].class != TR_NO_CLASS;
}

/* What is emitted for it begins with an instruction no shorter than the jump. */
static bool begins_long(const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY: /* PEXT, or the base's load */
		return is_base_only(insn) && (t->place[i][0].looks || insn->base >= 16 ||
					      host_of(insn->base) == H_NONE);
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_POP_REG:
	case JIT_CALL: /* PEXT */
		return t->place[i][1].looks;
	default:
		return false;
	}
}

/* The next bytes are one instruction, which no aligned quadword ends in: a NOP unless what follows will do. */
static void emit_patchable(struct tr *t, bool long_follows)
{
	static const uint8_t nop[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };

	while (((uintptr_t)t->e.p & 7) > 8 - JUMP_BYTES && !t->e.full)
		emit_byte(&t->e, 0x90);
	for (unsigned n = 0; n < sizeof(nop) && !long_follows; n++)
		emit_byte(&t->e, nop[n]);
}

void tr_direct_begin(struct tr *t, unsigned i)
{
	t->access[i].used = false;
	t->access[i].groups = 0;
	t->access[i].other = NULL;
	t->access[i].in_host = t->in_host;
	t->access[i].in_mem = t->in_mem;
	t->access[i].maker = t->maker;
	t->access[i].replay_before = t->replay;
	if (guesses(t, i))
		emit_patchable(t, begins_long(t, i));
	t->access[i].start = t->e.p - (guesses(t, i) && !begins_long(t, i) ? JUMP_BYTES : 0);
}

/* What is emitted for it may use T_2 for something else. */
static bool keeps_class(const struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_COPY:
		return insn->flags & X86_INSN_MEM ?
			       !t->desc[i].vvvv_use || host_of(insn->vvvv) != H_NONE :
			       !t->desc[i].rm_use || t->desc[i].vec_rm ||
				       host_of(t->desc[i].byte_rm ? insn->rm8 >> 3 : insn->rm) != H_NONE;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
	case JIT_POP_REG:
	case JIT_LEAVE:
	case JIT_LEA:
	case JIT_MOV_IMM:
	case JIT_NOTHING:
		return true;
	default:
		return false;
	}
}

void tr_direct_end(struct tr *t, unsigned i, bool ended)
{
	if (!keeps_class(t, i))
		t->class_now = TR_NO_CLASS;
	t->access[i].end = t->e.p;
	t->access[i].resume = ended ? NULL : t->e.p;
	t->access[i].class_behind = t->class_now;
}

/* ---- the address ---- */

static void emit_sum(struct emit *e, unsigned to, unsigned base, unsigned index, int32_t disp)
{
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)to, .rm = (uint8_t)base,
	     .index = (uint8_t)index, .disp = disp);
}

static void emit_pext(struct emit *e, unsigned to, unsigned from, int32_t mask)
{
	EMIT(e, .vex = true, .map = 2, .opcode = 0xf5, .rep = 0xf3, .w = true, .kind = EMIT_GS,
	     .reg = (uint8_t)to, .vvvv = (uint8_t)from, .rm = H_NONE, .disp = mask);
}

/* @to = what is to be added to addresses near @base. */
static void emit_addend(struct emit *e, unsigned to, unsigned base)
{
	emit_pext(e, to, base, GS_VCPU(direct.mask));
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_GS_INDEX, .reg = (uint8_t)to, .rm = H_NONE,
	     .index = (uint8_t)to, .scale = 3, .disp = GS_VCPU(direct.addend));
}

/* From GS to where the tables are that bt_direct_alloc() has put around the vCPU. */
static int32_t table_of(unsigned class)
{
	int64_t vcpu = -(int64_t)offsetof(struct bt_vcpu, cpu);

	if (class == BT_DIRECT_HIGH)
		return (int32_t)(vcpu + (int64_t)BT_VCPU_BYTES);
	return (int32_t)(vcpu - (int64_t)BT_DIRECT_LOW_BYTES - 4 * 8);
}

/* Fault unless @reg is of the class. Spoils T_1. */
static void emit_class_look(struct emit *e, unsigned class, unsigned reg)
{
	emit_pext(e, T_1, reg, GS_VCPU(direct.class_mask) + (int32_t)class * 8);
	EMIT(e, .map = 1, .opcode = 0xb6, .kind = EMIT_GS_INDEX, .reg = T_1, .rm = H_NONE, .index = T_1,
	     .scale = 3, .disp = table_of(class));
}

/* The class of access @n of @i; TR_NO_CLASS: use the other form. */
static unsigned class_at(struct tr *t, unsigned i, unsigned n)
{
	const struct tr_place *place = &t->place[i][n];

	if (t->other || place->class == TR_NO_CLASS)
		return TR_NO_CLASS;
	t->access[i].groups |= 1u << place->group;
	return place->class;
}

static void want_class(struct tr *t, unsigned class)
{
	if (t->class_now != class)
		emit_load_gs(&t->e, T_2, GS_VCPU(direct.base) + (int32_t)class * 8);
	t->class_now = (uint8_t)class;
}

/* The instruction itself needs T_2 between here and its access. */
static bool lacks_index(const struct tr *t, unsigned i)
{
	const struct jit_desc *d = &t->desc[i];
	uint32_t need = d->fr | (d->fm ? t->live[i + 1] & ~d->fw : 0);

	return t->desc[i].kind != JIT_COPY || (need && !t->in_host) || !keeps_class(t, i);
}

/* [@base + T_2 + @disp] is the operand. */
static void by_class(struct tr *t, unsigned i, unsigned class, unsigned base, int32_t disp)
{
	want_class(t, class);
	t->mem_base = (uint8_t)base;
	t->mem_index = T_2;
	t->mem_disp = disp;
	if (!lacks_index(t, i))
		return;
	emit_sum(&t->e, T_ADDR, base, T_2, disp);
	t->mem_base = T_ADDR;
	t->mem_index = H_NONE;
	t->mem_disp = 0;
}

static void emit_linear(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit *e = &t->e;

	tr_ea(t, i, T_ADDR, true);
	if (insn->seg < X86_FS)
		return;
	emit_load_gs(e, T_1, (int32_t)(offsetof(struct x86_cpu, s.seg) +
				       insn->seg * sizeof(struct x86_segment) +
				       offsetof(struct x86_segment, base)));
	emit_sum(e, T_ADDR, T_ADDR, T_1, 0);
}

static void operand_by_class(struct tr *t, unsigned i, unsigned class)
{
	const struct x86_insn *insn = &t->block->insn[i];
	bool looks = t->place[i][0].looks;
	unsigned base = T_ADDR;
	int64_t disp = 0;

	if (!is_base_only(insn)) {
		emit_linear(t, i);
	} else if (insn->base == X86_REG_RIP) {
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.rip_page));
		disp = (int64_t)insn->disp + t->next_off[i];
	} else {
		base = tr_value_reg(t, insn->base, T_ADDR);
		disp = insn->disp;
	}
	if (disp != (int32_t)disp)
		t->failed = true;
	if (looks)
		emit_class_look(&t->e, class, base);
	by_class(t, i, class, base, (int32_t)disp);
}

void tr_direct_operand(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned base = insn->base < 16 ? host_of(insn->base) : H_NONE, class;
	struct emit *e = &t->e;

	open_access(t, i);
	class = class_at(t, i, 0);
	if (class != TR_NO_CLASS) {
		operand_by_class(t, i, class);
		return;
	}
	if (t->desc[i].kind == JIT_COPY && base != H_NONE && is_base_only(insn)) {
		emit_addend(e, T_ADDR, base);
		t->mem_base = (uint8_t)base;
		t->mem_index = T_ADDR;
		t->mem_disp = insn->disp;
		return;
	}
	emit_linear(t, i);
	emit_addend(e, T_1, T_ADDR);
	/* T_1 will do as the index unless it has to hold a register. */
	if (t->desc[i].kind == JIT_COPY && (!t->desc[i].reg_use || host_of(insn->reg) != H_NONE))
		t->mem_index = T_1;
	else
		emit_sum(e, T_ADDR, T_ADDR, T_1, 0);
}

void tr_direct_stack(struct tr *t, unsigned i, unsigned base, int32_t disp)
{
	unsigned class;

	open_access(t, i);
	class = class_at(t, i, 1);
	if (class == TR_NO_CLASS) {
		emit_addend(&t->e, T_ADDR, base);
		t->mem_base = (uint8_t)base;
		t->mem_index = T_ADDR;
	} else {
		if (t->place[i][1].looks)
			emit_class_look(&t->e, class, base);
		want_class(t, class);
		t->mem_base = (uint8_t)base;
		t->mem_index = T_2;
	}
	t->mem_disp = disp;
}

/* ---- behind the block ---- */

/* As it has to be where the instruction is gone on behind. */
static void restore_class(struct tr *t, unsigned i)
{
	t->class_now = TR_NO_CLASS;
	if (t->access[i].class_behind != TR_NO_CLASS)
		want_class(t, t->access[i].class_behind);
}

static void emit_other(struct tr *t, unsigned i)
{
	unsigned slow = t->slow_count;

	t->access[i].other = t->e.p;
	t->in_host = t->access[i].in_host;
	t->in_mem = t->access[i].in_mem;
	t->maker = t->access[i].maker;
	t->replay = t->access[i].replay_before;
	t->class_now = TR_NO_CLASS;
	if (!tr_insn(t, i)) {
		restore_class(t, i);
		(void)tr_joins(t, i);
	}
	for (; slow < t->slow_count; slow++)
		t->slow[slow].resume = t->access[i].resume;
	t->access[i].other_end = t->e.p;
}

void tr_direct_others(struct tr *t)
{
	if (!t->block->direct)
		return;
	t->other = true;
	for (unsigned i = 0; i < t->count; i++)
		if (t->access[i].used && t->access[i].groups)
			emit_other(t, i);
	t->other = false;
}

void tr_direct_finish(struct tr *t)
{
	for (unsigned i = 0; t->block->direct && i < t->count; i++) {
		if (!t->access[i].used)
			continue;
		t->access[i].slow = t->e.p;
		if (t->access[i].save)
			jit_emit_flags_save(&t->e);
		if (t->access[i].replay != TR_NO_MAKER)
			tr_replay(t, t->access[i].replay);
		tr_handler_call(t, i);
		if (t->access[i].resume) {
			restore_class(t, i);
			emit_jmp_to(&t->e, t->access[i].resume);
		} else { /* a branch: its handler does not come back */
			EMIT(&t->e, .map = 1, .opcode = 0x0b);
		}
	}
}

static struct bt_direct_site site_of(const struct tr *t, unsigned i, const uint8_t *start,
				     const uint8_t *end)
{
	return (struct bt_direct_site){
		.start = tr_offset(t, start),
		.end = tr_offset(t, end),
		.slow = tr_offset(t, t->access[i].slow),
		.other = t->access[i].groups ? tr_offset(t, t->access[i].other) : 0,
		.groups = t->access[i].groups,
	};
}

bool tr_direct_sites(struct tr *t)
{
	struct bt_cache *cache = bt_engine_of(t->vcpu)->cache;
	uint32_t first = t->region->site_first + t->region->sites_used, n = first;
	struct bt_direct_site *site = cache->site;

	if (!t->block->direct)
		return true;
	if (t->region->site_end - first < 2u * t->count)
		return false;
	for (unsigned i = 0; i < t->count; i++)
		if (t->access[i].used)
			site[n++] = site_of(t, i, t->access[i].start, t->access[i].end);
	for (uint32_t k = first; k < n; k++) {
		site[k].first = first;
		site[k].count = n - first;
	}
	for (unsigned i = 0; i < t->count; i++)
		if (t->access[i].used && t->access[i].groups) {
			site[n] = site_of(t, i, t->access[i].other, t->access[i].other_end);
			site[n++].other = 0;
		}
	atomic_store_explicit(&t->region->sites_used, n - t->region->site_first,
			      memory_order_release);
	return true;
}
