// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* op_misc.c - instructions that do little. */
#include "insns.h"
#include "x86_int.h"

int x86_op_ud(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return x86_ud(cpu);
}

int x86_op_nop(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return X86_NEXT;
}
