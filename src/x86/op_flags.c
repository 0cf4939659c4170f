// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_flags.c - LAHF SAHF, CLC STC CMC CLD STD, CLI STI. */
#include "insns.h"
#include "operand.h"

X86_HANDLER(sahf)
{
	x86_flags_set(cpu, X86_FL_LOW, cpu->s.gpr[X86_RAX] >> 8);
	return X86_NEXT;
}

X86_HANDLER(lahf)
{
	x86_set_byte(cpu, 1, (uint8_t)((cpu->s.rflags & X86_FL_LOW) | X86_FL_ONE));
	return X86_NEXT;
}

X86_HANDLER(cmc)
{
	cpu->s.rflags ^= X86_FL_CF;
	return X86_NEXT;
}

X86_HANDLER(clc)
{
	cpu->s.rflags &= ~(uint64_t)X86_FL_CF;
	return X86_NEXT;
}

X86_HANDLER(stc)
{
	cpu->s.rflags |= X86_FL_CF;
	return X86_NEXT;
}

X86_HANDLER(cld)
{
	cpu->s.rflags &= ~(uint64_t)X86_FL_DF;
	return X86_NEXT;
}

X86_HANDLER(std)
{
	cpu->s.rflags |= X86_FL_DF;
	return X86_NEXT;
}

/* Which flag CLI and STI act on: IF, VIF, or 0 for #GP. SDM vol. 2, CLI and STI. */
static uint64_t interrupt_flag(const struct x86_cpu *cpu)
{
	unsigned iopl = (cpu->s.rflags & X86_FL_IOPL) >> 12;

	if (!(cpu->s.cr0 & X86_CR0_PE))
		return X86_FL_IF;
	if (cpu->s.rflags & X86_FL_VM)
		return iopl == 3 ? X86_FL_IF : cpu->s.cr4 & X86_CR4_VME ? X86_FL_VIF : 0;
	if (cpu->cpl <= iopl)
		return X86_FL_IF;
	return cpu->cpl == 3 && cpu->s.cr4 & X86_CR4_PVI ? X86_FL_VIF : 0;
}

X86_HANDLER(cli)
{
	uint64_t flag = interrupt_flag(cpu);

	if (!flag)
		return x86_gp(cpu, 0);
	cpu->s.rflags &= ~flag;
	return X86_NEXT;
}

/* Interrupts stay shut for one more instruction where IF was clear. */
X86_HANDLER(sti)
{
	uint64_t flag = interrupt_flag(cpu);

	if (!flag || (flag == X86_FL_VIF && cpu->s.rflags & X86_FL_VIP))
		return x86_gp(cpu, 0);
	if (flag == X86_FL_IF && !(cpu->s.rflags & X86_FL_IF))
		cpu->s.interrupt_shadow |= 1;
	cpu->s.rflags |= flag;
	return X86_STOP;
}
