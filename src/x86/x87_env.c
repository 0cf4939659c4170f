// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * x87_env.c - x87 control: control and status word, environment, FNSAVE and FRSTOR.
 *
 * Environment formats: SDM vol. 1, 8.1.10, figures 8-9 to 8-12. Selectors read zero, as in xsave.c.
 */
#include "x87_int.h"
#include "insns.h"

#define SAVE_REGS 80u

static void init(struct x86_fpu *f)
{
	x87_set_top(f, 0);
	f->fcw = FPU_FCW_DEFAULT;
	f->fsw = 0;
	f->ftw = 0;
	f->fop = 0;
	f->fip = 0;
	f->fdp = 0;
}

static void set_fcw(struct x86_fpu *f, uint16_t v)
{
	f->fcw = (v & 0x1f7f) | 0x40;
	fpu_update_es(f);
}

/* ---- words ---- */

int x86_op_x87_fninit(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	init(&cpu->s.fpu);
	return X86_NEXT;
}

int x86_op_x87_fnclex(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	cpu->s.fpu.fsw &= 0x7f00;
	return X86_NEXT;
}

/* FENI, FDISI, FSETPM of the 8087 and 80287: no operation since the 80387. */
int x86_op_x87_nop_nowait(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return fpu_check_x87_nowait(cpu);
}

int x86_op_x87_fldcw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint16_t v;

	if (x86_check_x87(cpu) || x86_load_rm(cpu, insn, &v, 2))
		return X86_FAULT;
	set_fcw(&cpu->s.fpu, v);
	return X86_NEXT;
}

int x86_op_x87_fnstcw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	return x86_store_rm(cpu, insn, &cpu->s.fpu.fcw, 2);
}

int x86_op_x87_fnstsw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	return x86_store_rm(cpu, insn, &cpu->s.fpu.fsw, 2);
}

int x86_op_x87_fnstsw_ax(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	cpu->s.gpr[X86_RAX] = (cpu->s.gpr[X86_RAX] & ~0xffffull) | cpu->s.fpu.fsw;
	return X86_NEXT;
}

/* WAIT looks at CR0.MP besides TS, and not at EM (SDM vol. 3, table 2-2). */
int x86_op_x87_wait(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const uint64_t both = X86_CR0_MP | X86_CR0_TS;

	if ((cpu->s.cr0 & both) == both)
		return x86_raise(cpu, X86_NM);
	if ((cpu->s.fpu.fsw & FPU_FSW_ES) && (cpu->s.cr0 & X86_CR0_NE))
		return x86_raise(cpu, X86_MF);
	return X86_NEXT;
}

/* ---- environment ---- */

/* Two bits for each physical register: valid, zero, special, empty. */
static uint16_t full_tags(const struct x86_fpu *f)
{
	uint16_t tags = 0;
	unsigned i;

	for (i = 0; i < 8; i++) {
		unsigned phys = (x87_top(f) + i) & 7, tag = 0;
		uint64_t mantissa;
		uint16_t exponent;

		memcpy(&mantissa, f->st[i], 8);
		memcpy(&exponent, f->st[i] + 8, 2);
		exponent &= 0x7fff;
		if (x87_is_empty(f, i))
			tag = 3;
		else if (!exponent && !mantissa)
			tag = 1;
		else if (!exponent || exponent == 0x7fff || !(mantissa >> 63))
			tag = 2;
		tags |= tag << phys * 2;
	}
	return tags;
}

static bool real_format(const struct x86_cpu *cpu)
{
	return !(cpu->s.cr0 & X86_CR0_PE) || (cpu->s.rflags & X86_FL_VM);
}

static unsigned env_bytes(const struct x86_insn *insn)
{
	return insn->opsize == 2 ? 14 : 28;
}

/* The seven fields of the environment as they are stored. */
static void env_fields(const struct x86_cpu *cpu, uint32_t v[7])
{
	const struct x86_fpu *f = &cpu->s.fpu;

	v[0] = f->fcw;
	v[1] = f->fsw;
	v[2] = full_tags(f);
	v[3] = f->fip;
	v[4] = (uint32_t)(f->fop & 0x7ff) << 16;
	v[5] = f->fdp;
	v[6] = 0;
}

static void pack_env(const struct x86_cpu *cpu, const struct x86_insn *insn, uint8_t *p)
{
	uint32_t v[7], fop = cpu->s.fpu.fop & 0x7ff;
	unsigned i;

	env_fields(cpu, v);
	if (real_format(cpu)) {
		unsigned shift = insn->opsize == 2 ? 4 : 12;
		uint32_t mask = insn->opsize == 2 ? 0xf000 : 0x0ffff000;

		if (insn->opsize == 2)
			v[4] = ((v[3] >> shift) & mask) | fop;
		else
			v[4] = ((v[3] >> 16 << shift) & mask) | fop;
		v[6] = insn->opsize == 2 ? (v[5] >> shift) & mask : (v[5] >> 16 << shift) & mask;
		v[3] = (uint16_t)v[3];
		v[5] = (uint16_t)v[5];
	}
	for (i = 0; i < 7; i++) {
		bool filled = i < 3 || i == 6 || (real_format(cpu) && (i == 3 || i == 5));
		uint32_t wide = v[i] | (filled && v[i] <= 0xffff ? 0xffff0000u : 0);

		if (insn->opsize == 2)
			memcpy(p + i * 2, &v[i], 2);
		else
			memcpy(p + i * 4, i == 6 && real_format(cpu) ? &v[i] : &wide, 4);
	}
}

static void unpack_env(struct x86_cpu *cpu, const struct x86_insn *insn, const uint8_t *p)
{
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned n = insn->opsize == 2 ? 2 : 4, i;
	uint32_t v[7] = { 0 };

	for (i = 0; i < 7; i++)
		memcpy(&v[i], p + i * n, n);
	if (real_format(cpu)) {
		f->fop = v[4] & 0x7ff;
		f->fip = (v[3] & 0xffff) | (n == 2 ? (v[4] & 0xf000) << 4 : v[4] >> 12 << 16);
		f->fdp = (v[5] & 0xffff) | (n == 2 ? (v[6] & 0xf000) << 4 : v[6] >> 12 << 16);
	} else {
		f->fop = n == 2 ? 0 : v[4] >> 16 & 0x7ff;
		f->fip = v[3];
		f->fdp = v[5];
	}
	x87_set_top(f, v[1] >> 11 & 7);
	f->fsw = v[1];
	f->ftw = 0;
	for (i = 0; i < 8; i++)
		if ((v[2] >> i * 2 & 3) != 3)
			f->ftw |= 1u << i;
	set_fcw(f, v[0]);
}

/* Stores, and masks all exceptions. */
int x86_op_x87_fnstenv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t env[28];

	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	pack_env(cpu, insn, env);
	if (x86_store_rm(cpu, insn, env, env_bytes(insn)))
		return X86_FAULT;
	set_fcw(&cpu->s.fpu, cpu->s.fpu.fcw | 0x3f);
	return X86_NEXT;
}

int x86_op_x87_fldenv(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint8_t env[28];

	if (x86_check_x87(cpu) || x86_load_rm(cpu, insn, env, env_bytes(insn)))
		return X86_FAULT;
	unpack_env(cpu, insn, env);
	return X86_NEXT;
}

static uint64_t part(const struct x86_insn *insn, uint64_t off, unsigned add)
{
	off += add;
	return insn->adsize == 8 ? off : insn->adsize == 4 ? (uint32_t)off : (uint16_t)off;
}

int x86_op_x87_fnsave(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned env = env_bytes(insn), i;
	struct x86_fpu *f = &cpu->s.fpu;
	uint8_t buf[28 + SAVE_REGS];
	uint64_t off;

	if (fpu_check_x87_nowait(cpu))
		return X86_FAULT;
	pack_env(cpu, insn, buf);
	for (i = 0; i < 8; i++)
		memcpy(buf + env + i * 10, f->st[i], 10);
	off = x86_ea(cpu, insn);
	if (x86_probe_write(cpu, insn->seg, off, 64) ||
	    x86_probe_write(cpu, insn->seg, part(insn, off, 64), env + SAVE_REGS - 64) ||
	    x86_write(cpu, insn->seg, off, buf, 64) ||
	    x86_write(cpu, insn->seg, part(insn, off, 64), buf + 64, env + SAVE_REGS - 64))
		return X86_FAULT;
	init(f);
	return X86_NEXT;
}

int x86_op_x87_frstor(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned env = env_bytes(insn), i;
	struct x86_fpu *f = &cpu->s.fpu;
	uint8_t buf[28 + SAVE_REGS];
	uint64_t off;

	if (x86_check_x87(cpu))
		return X86_FAULT;
	off = x86_ea(cpu, insn);
	if (x86_read(cpu, insn->seg, off, buf, 64) ||
	    x86_read(cpu, insn->seg, part(insn, off, 64), buf + 64, env + SAVE_REGS - 64))
		return X86_FAULT;
	unpack_env(cpu, insn, buf);
	for (i = 0; i < 8; i++)
		memcpy(f->st[i], buf + env + i * 10, 10);
	return X86_NEXT;
}
