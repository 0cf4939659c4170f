// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * cr.c - control registers, descriptor-table registers, and what invalidates translations.
 *
 * Checks: SDM vol. 2, MOV to control registers; vol. 3, 2.5.
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

#define CR0_KNOWN                                                                                  \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE |             \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR4_KNOWN                                                                                  \
	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |        \
	 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |           \
	 X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP |        \
	 X86_CR4_SMAP)
#define CR4_PAGING                                                                                 \
	(X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP)
#define CR3_NOFLUSH (1ull << 63)

static bool is_64_bit(const struct x86_cpu *cpu)
{
	return cpu->code_bytes == 8;
}

static int write_cr0(struct x86_cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t change;
	bool enable, disable;

	if (value >> 32)
		return x86_gp(cpu, 0);
	value = (value & CR0_KNOWN) | X86_CR0_ET;
	if ((value & X86_CR0_PG) && !(value & X86_CR0_PE))
		return x86_gp(cpu, 0);
	if ((value & X86_CR0_NW) && !(value & X86_CR0_CD))
		return x86_gp(cpu, 0);
	change = value ^ s->cr0;
	enable = change & value & X86_CR0_PG;
	disable = change & s->cr0 & X86_CR0_PG;
	if (disable && (is_64_bit(cpu) || (s->cr4 & X86_CR4_PCIDE)))
		return x86_gp(cpu, 0);
	if (enable && (s->efer & X86_EFER_LME)) {
		/* Long mode needs PAE, and starts in compatibility mode. */
		if (!(s->cr4 & X86_CR4_PAE) || (s->seg[X86_CS].attr & X86_SEG_L))
			return x86_gp(cpu, 0);
	} else if (enable && (s->cr4 & X86_CR4_PAE) && !x86_pdptes_valid(cpu, s->cr3)) {
		return x86_gp(cpu, 0);
	}

	s->cr0 = value;
	if (enable && (s->efer & X86_EFER_LME))
		s->efer |= X86_EFER_LMA;
	if (disable)
		s->efer &= ~(uint64_t)X86_EFER_LMA;
	x86_update_mode(cpu);
	if (change & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP))
		x86_tlb_flush(cpu);
	return X86_STOP;
}

static int write_cr3(struct x86_cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	bool keep = false;

	if (s->cr4 & X86_CR4_PCIDE) {
		keep = value & CR3_NOFLUSH;
		value &= ~CR3_NOFLUSH;
	}
	if (cpu->long_mode && value >> x86_phys_bits(cpu))
		return x86_gp(cpu, 0);
	if (!cpu->long_mode && (s->cr0 & X86_CR0_PG) && (s->cr4 & X86_CR4_PAE) &&
	    !x86_pdptes_valid(cpu, value))
		return x86_gp(cpu, 0);
	s->cr3 = value;
	x86_tlb_switch(cpu, s->cr4 & X86_CR4_PCIDE ? value & 0xfff : 0, keep);
	return X86_STOP;
}

/* Bits that exist only with a feature, SDM vol. 3, 2.5: reserved without it. */
static const struct {
	uint32_t bits;
	uint8_t leaf, reg, bit;
} cr4_needs[] = {
	{ X86_CR4_VME | X86_CR4_PVI, 1, X86_CPUID_EDX, 1 },
	{ X86_CR4_TSD, 1, X86_CPUID_EDX, 4 },
	{ X86_CR4_DE, 1, X86_CPUID_EDX, 2 },
	{ X86_CR4_PSE, 1, X86_CPUID_EDX, 3 },
	{ X86_CR4_PAE, 1, X86_CPUID_EDX, 6 },
	{ X86_CR4_MCE, 1, X86_CPUID_EDX, 7 },
	{ X86_CR4_PGE, 1, X86_CPUID_EDX, 13 },
	{ X86_CR4_OSFXSR, 1, X86_CPUID_EDX, 24 },
	{ X86_CR4_OSXMMEXCPT, 1, X86_CPUID_EDX, 25 },
	{ X86_CR4_PCIDE, 1, X86_CPUID_ECX, 17 },
	{ X86_CR4_OSXSAVE, 1, X86_CPUID_ECX, 26 },
	{ X86_CR4_FSGSBASE, 7, X86_CPUID_EBX, 0 },
	{ X86_CR4_SMEP, 7, X86_CPUID_EBX, 7 },
	{ X86_CR4_SMAP, 7, X86_CPUID_EBX, 20 },
	{ X86_CR4_UMIP, 7, X86_CPUID_ECX, 2 },
};

static uint64_t cr4_allowed(struct x86_cpu *cpu)
{
	uint64_t allowed = CR4_KNOWN;
	uint32_t regs[2][4] = { 0 };

	x86_cpuid(cpu, 1, 0, regs[0]);
	x86_cpuid(cpu, 7, 0, regs[1]);
	for (unsigned i = 0; i < sizeof(cr4_needs) / sizeof(cr4_needs[0]); i++)
		if (!(regs[cr4_needs[i].leaf == 7][cr4_needs[i].reg] >> cr4_needs[i].bit & 1))
			allowed &= ~(uint64_t)cr4_needs[i].bits;
	return allowed;
}

static int write_cr4(struct x86_cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t change = value ^ s->cr4;

	if (value & ~cr4_allowed(cpu))
		return x86_gp(cpu, 0);
	if (cpu->long_mode && !(value & X86_CR4_PAE))
		return x86_gp(cpu, 0);
	if ((change & value & X86_CR4_PCIDE) && (!cpu->long_mode || (s->cr3 & 0xfff)))
		return x86_gp(cpu, 0);
	if (!cpu->long_mode && (s->cr0 & X86_CR0_PG) && (value & X86_CR4_PAE) &&
	    (change & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)) &&
	    !x86_pdptes_valid(cpu, s->cr3))
		return x86_gp(cpu, 0);
	s->cr4 = value;
	x86_update_mode(cpu);
	if (change & CR4_PAGING)
		x86_tlb_flush(cpu);
	return X86_STOP;
}

static int write_cr8(struct x86_cpu *cpu, uint64_t value)
{
	if (value > 15)
		return x86_gp(cpu, 0);
	if (cpu->ops->set_cr8)
		cpu->ops->set_cr8(cpu, (uint8_t)value);
	return X86_STOP;
}

static bool cr_exists(unsigned n)
{
	return n == 0 || (n >= 2 && n <= 4) || n == 8;
}

int x86_op_mov_cr_r(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t value = cpu->s.gpr[insn->rm];

	if (!cr_exists(insn->reg))
		return x86_ud(cpu);
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	if (!is_64_bit(cpu))
		value = (uint32_t)value;
	switch (insn->reg) {
	case 0:
		return write_cr0(cpu, value);
	case 2:
		cpu->s.cr2 = value;
		return X86_NEXT;
	case 3:
		return write_cr3(cpu, value);
	case 4:
		return write_cr4(cpu, value);
	default:
		return write_cr8(cpu, value);
	}
}

int x86_op_mov_r_cr(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const struct x86_state *s = &cpu->s;
	uint64_t value;

	if (!cr_exists(insn->reg))
		return x86_ud(cpu);
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	switch (insn->reg) {
	case 0:
		value = s->cr0;
		break;
	case 2:
		value = s->cr2;
		break;
	case 3:
		value = s->cr3;
		break;
	case 4:
		value = s->cr4;
		break;
	default:
		value = cpu->ops->get_cr8 ? cpu->ops->get_cr8(cpu) : 0;
	}
	cpu->s.gpr[insn->rm] = is_64_bit(cpu) ? value : (uint32_t)value;
	return X86_NEXT;
}

int x86_op_clts(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	cpu->s.cr0 &= ~(uint64_t)X86_CR0_TS;
	return X86_STOP;
}

int x86_op_lmsw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const uint64_t mask = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;
	uint16_t value = (uint16_t)cpu->s.gpr[insn->rm & 15];
	int r;

	if (cpu->cpl)
		return x86_gp(cpu, 0);
	if (insn->flags & X86_INSN_MEM) {
		r = x86_load_rm(cpu, insn, &value, 2);
		if (r != X86_NEXT)
			return r;
	}
	/* It can set PE and not clear it. */
	return write_cr0(cpu, (cpu->s.cr0 & ~(mask & ~(uint64_t)X86_CR0_PE)) | (value & mask));
}

/* UMIP keeps applications from reading system registers. */
static int check_umip(struct x86_cpu *cpu)
{
	return cpu->cpl && (cpu->s.cr4 & X86_CR4_UMIP) ? x86_gp(cpu, 0) : X86_NEXT;
}

/* 16 bits to memory; to a register as wide as the operand. */
static int store_word(struct x86_cpu *cpu, const struct x86_insn *insn, uint64_t value)
{
	uint64_t *reg = &cpu->s.gpr[insn->rm & 15];
	int r = check_umip(cpu);

	if (r != X86_NEXT)
		return r;
	if (insn->flags & X86_INSN_MEM)
		return x86_store_rm(cpu, insn, &value, 2);
	if (insn->opsize == 2)
		*reg = (*reg & ~0xffffull) | (value & 0xffff);
	else
		*reg = value & x86_size_mask(insn->opsize);
	return X86_NEXT;
}

int x86_op_smsw(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store_word(cpu, insn, cpu->s.cr0);
}

int x86_op_sldt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_is_protected(cpu) ? store_word(cpu, insn, cpu->s.ldtr.selector) : x86_ud(cpu);
}

int x86_op_str(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_is_protected(cpu) ? store_word(cpu, insn, cpu->s.tr.selector) : x86_ud(cpu);
}

static int store_table(struct x86_cpu *cpu, const struct x86_insn *insn,
		       const struct x86_table *table)
{
	uint8_t buf[10];
	int r = check_umip(cpu);

	if (r != X86_NEXT)
		return r;
	memcpy(buf, &table->limit, 2);
	memcpy(buf + 2, &table->base, 8);
	return x86_store_rm(cpu, insn, buf, is_64_bit(cpu) ? 10 : 6);
}

int x86_op_sgdt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store_table(cpu, insn, &cpu->s.gdtr);
}

int x86_op_sidt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store_table(cpu, insn, &cpu->s.idtr);
}

static int load_table(struct x86_cpu *cpu, const struct x86_insn *insn, struct x86_table *table)
{
	uint8_t buf[10] = { 0 };
	struct x86_table value;
	int r;

	if (cpu->cpl)
		return x86_gp(cpu, 0);
	r = x86_load_rm(cpu, insn, buf, is_64_bit(cpu) ? 10 : 6);
	if (r != X86_NEXT)
		return r;
	memcpy(&value.limit, buf, 2);
	memcpy(&value.base, buf + 2, 8);
	if (!is_64_bit(cpu) && insn->opsize == 2)
		value.base &= 0xffffff;
	if (!x86_is_canonical(value.base))
		return x86_gp(cpu, 0);
	*table = value;
	return X86_NEXT;
}

int x86_op_lgdt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load_table(cpu, insn, &cpu->s.gdtr);
}

int x86_op_lidt(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load_table(cpu, insn, &cpu->s.idtr);
}

static uint64_t operand_linear(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t ea = x86_ea(cpu, insn);

	if (!is_64_bit(cpu))
		return (uint32_t)(ea + cpu->s.seg[insn->seg].base);
	if (insn->seg == X86_FS || insn->seg == X86_GS)
		ea += cpu->s.seg[insn->seg].base;
	return ea;
}

int x86_op_invlpg(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	x86_tlb_flush_page(cpu, operand_linear(cpu, insn));
	return X86_STOP;
}

int x86_op_invpcid(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	uint64_t type = cpu->s.gpr[insn->reg], desc[2] = { 0 };
	int r;

	if (x86_is_v86(cpu) && !x86_is_real(cpu))
		return x86_gp(cpu, 0);
	if (cpu->cpl)
		return x86_gp(cpu, 0);
	if (!is_64_bit(cpu))
		type = (uint32_t)type;
	r = x86_load_rm(cpu, insn, desc, 16);
	if (r != X86_NEXT)
		return r;
	if (type > 3 || desc[0] >> 12)
		return x86_gp(cpu, 0);
	if (type <= 1 && desc[0] && !(cpu->s.cr4 & X86_CR4_PCIDE))
		return x86_gp(cpu, 0);
	if (type == 0 && !x86_is_canonical(desc[1]))
		return x86_gp(cpu, 0);
	if (type == 0)
		x86_tlb_flush_pcid_page(cpu, (uint16_t)desc[0], desc[1]);
	else if (type == 1)
		x86_tlb_flush_pcid(cpu, (uint16_t)desc[0]);
	else if (type == 2)
		x86_tlb_flush(cpu);
	else
		x86_tlb_flush_local(cpu);
	return X86_STOP;
}
