// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * syscall.c - SYSCALL, SYSRET, SYSENTER, SYSEXIT, as the vendor that CPUID names does them.
 *
 * SDM vol. 2 and AMD APM vol. 3 differ: Intel's SYSCALL exists in 64-bit mode only, AMD's SYSENTER
 * outside long mode only; Intel's SYSRET faults on a RIP that is not canonical and reloads all of
 * SS, AMD's leaves SS's attributes alone.
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

#define ATTR_CODE (X86_SEG_P | X86_SEG_S | X86_SEG_G | 0xbu)
#define ATTR_DATA (X86_SEG_P | X86_SEG_S | X86_SEG_G | X86_SEG_DB | 0x3u)

static struct x86_segment flat(unsigned selector, unsigned attr, unsigned dpl)
{
	return (struct x86_segment){
		.limit = 0xffffffff,
		.selector = (uint16_t)selector,
		.attr = (uint16_t)(attr | dpl << X86_SEG_DPL_SHIFT),
	};
}

static bool is_amd(const struct x86_cpu *cpu)
{
	return x86_model_is_amd(cpu->model);
}

int x86_op_syscall(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	unsigned selector = (s->star >> 32) & 0xfffc;
	bool from_64_bit = cpu->code_bytes == 8;

	if (!(s->efer & X86_EFER_SCE) || !x86_is_protected(cpu) || (!from_64_bit && !is_amd(cpu)))
		return x86_ud(cpu);
	if (cpu->long_mode) {
		s->gpr[X86_RCX] = s->rip;
		s->gpr[X86_R11] = s->rflags & ~(uint64_t)X86_FL_RF;
		s->rip = from_64_bit ? s->lstar : s->cstar;
		s->rflags = (s->rflags & ~(s->sfmask | X86_FL_RF)) | X86_FL_ONE;
		s->seg[X86_CS] = flat(selector, ATTR_CODE | X86_SEG_L, 0);
	} else {
		s->gpr[X86_RCX] = (uint32_t)s->rip;
		s->rip = (uint32_t)s->star;
		s->rflags &= ~(uint64_t)(X86_FL_IF | X86_FL_RF | X86_FL_VM);
		s->seg[X86_CS] = flat(selector, ATTR_CODE | X86_SEG_DB, 0);
	}
	s->seg[X86_SS] = flat(selector + 8, ATTR_DATA, 0);
	x86_update_mode(cpu);
	return X86_STOP;
}

/* What SYSRET of 64-bit mode may set: everything but RF and VM. */
#define SYSRET_FLAGS 0x3c7fd7u

int x86_op_sysret(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	unsigned selector = (s->star >> 48) & 0xffff;
	bool to_64_bit = insn->opsize == 8, amd = is_amd(cpu);

	if (!(s->efer & X86_EFER_SCE) || !x86_is_protected(cpu) ||
	    (cpu->code_bytes != 8 && !amd))
		return x86_ud(cpu);
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	if (to_64_bit && !amd && !x86_is_canonical(s->gpr[X86_RCX]))
		return x86_gp(cpu, 0);

	s->rip = to_64_bit ? s->gpr[X86_RCX] : (uint32_t)s->gpr[X86_RCX];
	if (to_64_bit)
		s->seg[X86_CS] = flat((selector + 16) | 3, ATTR_CODE | X86_SEG_L, 3);
	else
		s->seg[X86_CS] = flat(selector | 3, ATTR_CODE | X86_SEG_DB, 3);
	if (cpu->long_mode)
		s->rflags = (s->gpr[X86_R11] & SYSRET_FLAGS) | X86_FL_ONE;
	else
		s->rflags |= X86_FL_IF;
	if (amd) {
		s->seg[X86_SS].selector = (uint16_t)((selector + 8) | 3);
		s->seg[X86_SS].attr |= X86_SEG_DPL; /* CPL lives there */
	} else {
		s->seg[X86_SS] = flat((selector + 8) | 3, ATTR_DATA, 3);
	}
	x86_update_mode(cpu);
	return X86_STOP;
}

int x86_op_sysenter(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	unsigned selector = s->sysenter_cs & 0xfffc;
	bool wide = cpu->long_mode;

	if (wide && is_amd(cpu))
		return x86_ud(cpu);
	if (x86_is_real(cpu) || !selector)
		return x86_gp(cpu, 0);
	s->rflags &= ~(uint64_t)(X86_FL_VM | X86_FL_IF | X86_FL_RF);
	s->seg[X86_CS] = flat(selector, ATTR_CODE | (wide ? X86_SEG_L : X86_SEG_DB), 0);
	s->seg[X86_SS] = flat(selector + 8, ATTR_DATA, 0);
	s->rip = wide ? s->sysenter_eip : (uint32_t)s->sysenter_eip;
	s->gpr[X86_RSP] = wide ? s->sysenter_esp : (uint32_t)s->sysenter_esp;
	x86_update_mode(cpu);
	return X86_STOP;
}

int x86_op_sysexit(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	unsigned selector = s->sysenter_cs & 0xfffc;
	bool wide = insn->opsize == 8;
	uint64_t rip = s->gpr[X86_RDX], rsp = s->gpr[X86_RCX];

	if (cpu->long_mode && is_amd(cpu))
		return x86_ud(cpu);
	if (x86_is_real(cpu) || !selector || cpu->cpl)
		return x86_gp(cpu, 0);
	if (wide && (!x86_is_canonical(rip) || !x86_is_canonical(rsp)))
		return x86_gp(cpu, 0);
	s->rip = wide ? rip : (uint32_t)rip;
	s->gpr[X86_RSP] = wide ? rsp : (uint32_t)rsp;
	s->seg[X86_CS] = flat((selector + (wide ? 32 : 16)) | 3,
			      ATTR_CODE | (wide ? X86_SEG_L : X86_SEG_DB), 3);
	s->seg[X86_SS] = flat((selector + (wide ? 40 : 24)) | 3, ATTR_DATA, 3);
	x86_update_mode(cpu);
	return X86_STOP;
}
