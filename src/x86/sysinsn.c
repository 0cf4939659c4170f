// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sysinsn.c - system instructions that need no file of their own: HLT, MSRs, clocks, CPUID,
 * bases. */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

/* Those that are written often; msr.c has all. */
enum {
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_X2APIC_LAST = 0x8ff,
	MSR_FS_BASE = 0xc0000100u,
	MSR_GS_BASE = 0xc0000101u,
	MSR_KERNEL_GS_BASE = 0xc0000102u,
};

static void set_edx_eax(struct x86_cpu *cpu, uint64_t value)
{
	cpu->s.gpr[X86_RAX] = (uint32_t)value;
	cpu->s.gpr[X86_RDX] = value >> 32;
}

int x86_op_hlt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	cpu->monitor_gpa = ~0ull;
	cpu->s.activity = X86_HALTED;
	return X86_STOP;
}

/* MONITOR checks its address as a load would. */
int x86_op_monitor(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t addr = cpu->s.gpr[X86_RAX] & x86_size_mask(insn->adsize);
	uint8_t byte;
	uint64_t linear;
	int r;

	if (cpu->cpl)
		return x86_ud(cpu);
	if ((uint32_t)cpu->s.gpr[X86_RCX])
		return x86_gp(cpu, 0);
	r = x86_read(cpu, insn->seg, addr, &byte, 1);
	if (r == X86_NEXT)
		r = x86_linear(cpu, insn->seg, addr, 1, false, &linear);
	if (r == X86_NEXT)
		r = x86_translate(cpu, linear, 0, &cpu->monitor_gpa);
	return r;
}

/* Halts with an armed monitor. Stores of other CPUs are not watched: the holder ends the wait
 * early and now and then, which is one of the "implementation-dependent events" of SDM vol. 2,
 * MWAIT. */
int x86_op_mwait(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->cpl)
		return x86_ud(cpu);
	if ((uint32_t)cpu->s.gpr[X86_RCX] > 1)
		return x86_gp(cpu, 0);
	if (cpu->monitor_gpa != ~0ull)
		cpu->s.activity = X86_HALTED;
	return X86_STOP;
}

/* WBINVD, INVD: guest RAM is coherent. */
int x86_op_wbinvd(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return cpu->cpl ? x86_gp(cpu, 0) : X86_NEXT;
}

/* Where in the state the bases are that kernels set all day. */
static uint64_t *base_msr(struct x86_state *s, uint32_t msr)
{
	switch (msr) {
	case MSR_FS_BASE:
		return &s->seg[X86_FS].base;
	case MSR_GS_BASE:
		return &s->seg[X86_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &s->kernel_gs_base;
	default:
		return NULL;
	}
}

int x86_op_rdmsr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint32_t msr = (uint32_t)cpu->s.gpr[X86_RCX];
	const uint64_t *base = base_msr(&cpu->s, msr);
	uint64_t value;

	if (base && !cpu->cpl) {
		set_edx_eax(cpu, *base);
		return X86_NEXT;
	}
	if (cpu->cpl || !x86_rdmsr(cpu, msr, &value))
		return x86_gp(cpu, 0);
	set_edx_eax(cpu, value);
	return X86_NEXT;
}

/* Changes nothing that a run loop keeps; what the local APIC has to say it says by itself. */
static bool is_harmless(uint32_t msr)
{
	return msr == MSR_SPEC_CTRL || msr == MSR_PRED_CMD || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC && msr <= MSR_X2APIC_LAST);
}

int x86_op_wrmsr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t value = (uint32_t)cpu->s.gpr[X86_RAX] | cpu->s.gpr[X86_RDX] << 32;
	uint32_t msr = (uint32_t)cpu->s.gpr[X86_RCX];
	uint64_t *base = base_msr(&cpu->s, msr);

	if (base && !cpu->cpl && x86_is_canonical(value)) {
		*base = value;
		return X86_NEXT;
	}
	if (cpu->cpl || !x86_wrmsr(cpu, msr, value))
		return x86_gp(cpu, 0);
	return is_harmless(msr) ? X86_NEXT : X86_STOP;
}

static uint64_t read_tsc(struct x86_cpu *cpu)
{
	return cpu->ops->rdtsc ? cpu->ops->rdtsc(cpu) : 0;
}

static bool tsc_is_denied(const struct x86_cpu *cpu)
{
	return cpu->cpl && (cpu->s.cr4 & X86_CR4_TSD);
}

int x86_op_rdtsc(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (tsc_is_denied(cpu))
		return x86_gp(cpu, 0);
	set_edx_eax(cpu, read_tsc(cpu));
	return X86_NEXT;
}

int x86_op_rdtscp(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (tsc_is_denied(cpu))
		return x86_gp(cpu, 0);
	set_edx_eax(cpu, read_tsc(cpu));
	cpu->s.gpr[X86_RCX] = (uint32_t)cpu->s.tsc_aux;
	return X86_NEXT;
}

/* There are no counters. AMD's four legacy ones exist on every CPU of theirs and stand still. */
int x86_op_rdpmc(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->cpl && !(cpu->s.cr4 & X86_CR4_PCE))
		return x86_gp(cpu, 0);
	if (!x86_model_is_amd(cpu->model) || (uint32_t)cpu->s.gpr[X86_RCX] > 3)
		return x86_gp(cpu, 0);
	set_edx_eax(cpu, 0);
	return X86_NEXT;
}

int x86_op_cpuid(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t *gpr = cpu->s.gpr;
	uint32_t regs[4];

	x86_cpuid(cpu, (uint32_t)gpr[X86_RAX], (uint32_t)gpr[X86_RCX], regs);
	gpr[X86_RAX] = regs[0];
	gpr[X86_RBX] = regs[1];
	gpr[X86_RCX] = regs[2];
	gpr[X86_RDX] = regs[3];
	return X86_NEXT;
}

static int set_ac(struct x86_cpu *cpu, uint64_t ac)
{
	if (cpu->cpl)
		return x86_ud(cpu);
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_FL_AC) | ac;
	x86_update_mode(cpu);
	return X86_NEXT;
}

int x86_op_clac(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return set_ac(cpu, 0);
}

int x86_op_stac(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return set_ac(cpu, X86_FL_AC);
}

int x86_op_swapgs(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint64_t base = s->seg[X86_GS].base;

	if (cpu->cpl)
		return x86_gp(cpu, 0);
	s->seg[X86_GS].base = s->kernel_gs_base;
	s->kernel_gs_base = base;
	return X86_NEXT;
}

static int read_base(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned seg)
{
	if (!(cpu->s.cr4 & X86_CR4_FSGSBASE))
		return x86_ud(cpu);
	cpu->s.gpr[insn->rm] = cpu->s.seg[seg].base & x86_size_mask(insn->opsize);
	return X86_NEXT;
}

static int write_base(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned seg)
{
	uint64_t base = cpu->s.gpr[insn->rm] & x86_size_mask(insn->opsize);

	if (!(cpu->s.cr4 & X86_CR4_FSGSBASE))
		return x86_ud(cpu);
	if (!x86_is_canonical(base))
		return x86_gp(cpu, 0);
	cpu->s.seg[seg].base = base;
	return X86_NEXT;
}

int x86_op_rdfsbase(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return read_base(cpu, insn, X86_FS);
}

int x86_op_rdgsbase(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return read_base(cpu, insn, X86_GS);
}

int x86_op_wrfsbase(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return write_base(cpu, insn, X86_FS);
}

int x86_op_wrgsbase(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return write_base(cpu, insn, X86_GS);
}

int x86_op_vmcall(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->ops->hypercall && cpu->ops->hypercall(cpu))
		return X86_STOP;
	return x86_ud(cpu);
}
