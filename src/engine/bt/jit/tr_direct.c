// SPDX-License-Identifier: Apache-2.0
/* tr_direct.c - from a guest's address to the host's in direct blocks: by its own MMU. See direct.h. */
#include "engine/bt/jit/tr.h"

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

void tr_direct_begin(struct tr *t, unsigned i)
{
	t->access[i].used = false;
	t->access[i].start = t->e.p;
}

void tr_direct_end(struct tr *t, unsigned i, bool ended)
{
	t->access[i].end = t->e.p;
	t->access[i].resume = ended ? NULL : t->e.p;
}

/* @to = what is to be added to addresses near @base. */
static void emit_addend(struct emit *e, unsigned to, unsigned base)
{
	EMIT(e, .vex = true, .map = 2, .opcode = 0xf5, .rep = 0xf3, .w = true, .kind = EMIT_GS,
	     .reg = (uint8_t)to, .vvvv = (uint8_t)base, .rm = H_NONE, .disp = GS_VCPU(direct.mask));
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_GS_INDEX, .reg = (uint8_t)to, .rm = H_NONE,
	     .index = (uint8_t)to, .scale = 3, .disp = GS_VCPU(direct.addend));
}

static void emit_sum(struct emit *e, unsigned to, unsigned base, unsigned index, int32_t disp)
{
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)to, .rm = (uint8_t)base,
	     .index = (uint8_t)index, .disp = disp);
}

void tr_direct_operand(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned base = insn->base < 16 ? host_of(insn->base) : H_NONE;
	struct emit *e = &t->e;

	open_access(t, i);
	if (t->desc[i].kind == JIT_COPY && base != H_NONE && insn->index == X86_NO_REG &&
	    insn->seg < X86_FS) {
		emit_addend(e, T_ADDR, base);
		t->mem_base = (uint8_t)base;
		t->mem_index = T_ADDR;
		t->mem_disp = insn->disp;
		return;
	}
	tr_ea(t, i, T_ADDR, true);
	if (insn->seg >= X86_FS) {
		emit_load_gs(e, T_1, (int32_t)(offsetof(struct x86_cpu, s.seg) +
					       insn->seg * sizeof(struct x86_segment) +
					       offsetof(struct x86_segment, base)));
		emit_sum(e, T_ADDR, T_ADDR, T_1, 0);
	}
	emit_addend(e, T_1, T_ADDR);
	/* T_1 will do as the index unless it has to hold a register. */
	if (t->desc[i].kind == JIT_COPY && (!t->desc[i].reg_use || host_of(insn->reg) != H_NONE))
		t->mem_index = T_1;
	else
		emit_sum(e, T_ADDR, T_ADDR, T_1, 0);
}

void tr_direct_stack(struct tr *t, unsigned i, unsigned base, int32_t disp)
{
	open_access(t, i);
	emit_addend(&t->e, T_ADDR, base);
	emit_sum(&t->e, T_ADDR, base, T_ADDR, disp);
}

void tr_direct_finish(struct tr *t)
{
	for (unsigned i = 0; t->block->direct && i < t->block->count; i++) {
		if (!t->access[i].used)
			continue;
		t->access[i].slow = t->e.p;
		if (t->access[i].save)
			jit_emit_flags_save(&t->e);
		if (t->access[i].replay != TR_NO_MAKER)
			tr_replay(t, t->access[i].replay);
		tr_handler_call(t, i);
		if (t->access[i].resume)
			emit_jmp_to(&t->e, t->access[i].resume);
		else /* a branch: its handler does not come back */
			EMIT(&t->e, .map = 1, .opcode = 0x0b);
	}
}

bool tr_direct_sites(struct tr *t)
{
	struct bt_direct *d = &t->vcpu->direct;

	if (!t->block->direct)
		return true;
	if (d->sites_room - d->sites < t->block->count)
		return false;
	for (unsigned i = 0; i < t->block->count; i++) {
		if (!t->access[i].used)
			continue;
		d->site[d->sites++] = (struct bt_direct_site){
			.start = tr_offset(t, t->access[i].start),
			.end = tr_offset(t, t->access[i].end),
			.slow = tr_offset(t, t->access[i].slow),
		};
	}
	return true;
}
