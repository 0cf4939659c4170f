// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* x87_stack.c - the x87 register stack, and the instructions that only move registers about. */
#include "x87_int.h"
#include "insns.h"

const uint8_t x87_indefinite[16] = { 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff };

void x87_set_top(struct x86_fpu *f, unsigned top)
{
	unsigned turn = (top - x87_top(f)) & 7, i;
	uint8_t old[8][16];

	if (turn) {
		memcpy(old, f->st, sizeof(old));
		for (i = 0; i < 8; i++)
			memcpy(f->st[i], old[(i + turn) & 7], 16);
	}
	f->fsw = (f->fsw & ~(7u << 11)) | (top & 7) << 11;
}

void x87_pop(struct x86_fpu *f)
{
	f->ftw &= ~x87_tag_bit(f, 0);
	x87_set_top(f, x87_top(f) + 1);
}

void x87_run(const struct x86_fpu *f, x87_stub *fn, struct x87_io *io, unsigned a, unsigned b,
	     unsigned uses)
{
	unsigned tags = (x87_is_empty(f, a) ? X87_A_EMPTY : 0) |
			(x87_is_empty(f, b) ? X87_B_EMPTY : 0) |
			(x87_is_empty(f, 7) ? 0 : X87_FULL);

	memcpy(io->a, f->st[a], 16);
	memcpy(io->b, f->st[b], 16);
	io->cw = f->fcw;
	io->sw = f->fsw;
	io->tags = (tags & uses) | ((f->fcw & 0x3f) == 0x3f ? 0 : X87_UNMASKED);
	fn(io);
}

bool x87_flags(struct x86_fpu *f, uint16_t sw, uint16_t cc, uint16_t stop)
{
	cc |= X87_C1;
	f->fsw = (f->fsw & ~cc) | (sw & (cc | 0x7f));
	fpu_update_es(f);
	return sw & ~f->fcw & stop;
}

bool x87_underflow(struct x86_fpu *f)
{
	return !x87_flags(f, X87_IE | X87_SF, 0, X87_IE);
}

void x87_note(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_fpu *f = &cpu->s.fpu;

	f->fip = cpu->s.rip - insn->len;
	f->fop = (insn->opcode & 7) << 8 | insn->modrm;
	if (vec_is_mem(insn))
		f->fdp = x86_ea(cpu, insn);
}

/* Registers that an instruction reads and finds empty become the default NaN. False: unmasked. */
static bool fill_empty(struct x86_fpu *f, unsigned i, unsigned k)
{
	if (!x87_is_empty(f, i) && !x87_is_empty(f, k))
		return true;
	if (!x87_underflow(f))
		return false;
	if (x87_is_empty(f, i))
		x87_set(f, i, x87_indefinite);
	if (x87_is_empty(f, k))
		x87_set(f, k, x87_indefinite);
	return true;
}

int x86_op_x87_fxch(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned i = insn->modrm & 7;
	uint8_t v[10];

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	f->fsw &= ~X87_C1;
	if (!fill_empty(f, 0, i))
		return X86_NEXT;
	memcpy(v, f->st[0], 10);
	memcpy(f->st[0], f->st[i], 10);
	memcpy(f->st[i], v, 10);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int store_register(struct x86_cpu *cpu, const struct x86_insn *insn, bool pop)
{
	struct x86_fpu *f = &cpu->s.fpu;
	const uint8_t *value = f->st[0];

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	f->fsw &= ~X87_C1;
	if (x87_is_empty(f, 0) && insn->opcode == 0xd9) {
		/* D9 D8+i, undocumented, does not look for stack underflow. */
		x87_pop(f);
		return X86_NEXT;
	}
	if (x87_is_empty(f, 0)) {
		if (!x87_underflow(f))
			return X86_NEXT;
		value = x87_indefinite;
	}
	if (insn->modrm & 7 || value == x87_indefinite)
		x87_set(f, insn->modrm & 7, value);
	if (pop)
		x87_pop(f);
	return X86_NEXT;
}

int x86_op_x87_fst_sti(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store_register(cpu, insn, false);
}

int x86_op_x87_fst_sti_pop(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store_register(cpu, insn, true);
}

/* DA C0+i.. move when B, E, BE, U holds, DB C0+i.. when it does not. */
int x86_op_x87_fcmov(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	static const uint16_t flags[4] = { X86_FL_CF, X86_FL_ZF, X86_FL_CF | X86_FL_ZF, X86_FL_PF };
	bool holds = cpu->s.rflags & flags[insn->modrm >> 3 & 3];
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned i = insn->modrm & 7;

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	if (x87_is_empty(f, 0) || x87_is_empty(f, i)) {
		if (x87_underflow(f))
			x87_set(f, 0, x87_indefinite);
	} else if (holds == !(insn->opcode & 1)) {
		memcpy(f->st[0], f->st[i], 10);
	}
	return X86_NEXT;
}

int x86_op_x87_ffree(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_fpu *f = &cpu->s.fpu;

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	f->ftw &= ~x87_tag_bit(f, insn->modrm & 7);
	f->fsw &= ~X87_C1; /* undefined by the manuals */
	return X86_NEXT;
}

/* Undocumented by Intel, in AMD's APM: FFREE and a pop. */
int x86_op_x87_ffreep(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (x86_op_x87_ffree(cpu, insn))
		return X86_FAULT;
	x87_pop(&cpu->s.fpu);
	return X86_NEXT;
}

FPU_ALWAYS_INLINE int move_top(struct x86_cpu *cpu, const struct x86_insn *insn, int by)
{
	struct x86_fpu *f = &cpu->s.fpu;

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	x87_set_top(f, x87_top(f) + (unsigned)by);
	f->fsw &= ~X87_C1;
	return X86_NEXT;
}

int x86_op_x87_fincstp(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return move_top(cpu, insn, 1);
}

int x86_op_x87_fdecstp(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return move_top(cpu, insn, -1);
}

int x86_op_x87_fnop(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_note(cpu, insn);
	return X86_NEXT;
}
