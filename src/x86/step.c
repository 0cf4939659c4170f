// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * step.c - one instruction by the book: breakpoints, fetch, execute, faults, traps. Engines run
 * blocks; this is for what blocks cannot do, and the reference they are held to.
 *
 * Order: SDM vol. 3 table "Priority Among Concurrent Events".
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

static uint64_t rip_linear(const struct x86_cpu *cpu)
{
	if (cpu->code_bytes == 8)
		return cpu->s.rip;
	return (uint32_t)(cpu->s.seg[X86_CS].base + cpu->s.rip);
}

/* These look at the TF they leave, not at the one they found: SDM vol. 3, 18.3.1.4; SYSCALL. */
static bool traps_by_new_flags(const struct x86_insn *insn)
{
	if (insn->map == 0)
		return insn->opcode == 0xf1 || (insn->opcode >= 0xcc && insn->opcode <= 0xce);
	return insn->map == 1 && (insn->opcode == 0x05 || insn->opcode == 0x34);
}

static int deliver(struct x86_cpu *cpu, uint64_t rip)
{
	if (!cpu->fault.trap)
		cpu->s.rip = rip;
	cpu->debug_pending = 0; /* what did not complete does not trap */
	x86_deliver_fault(cpu);
	return X86_STOP;
}

int x86_step(struct x86_cpu *cpu)
{
	struct x86_state *s = &cpu->s;
	struct x86_insn insn;
	uint64_t rip = s->rip, flags = s->rflags;
	uint8_t shadow = s->interrupt_shadow;
	bool single_step = flags & X86_FL_TF;
	int r, len;

	cpu->retired = false;
	/* Left by a block, which does not look for traps itself. */
	if (cpu->debug_pending && x86_debug_trap(cpu, false))
		return X86_STOP;
	/* MOV SS holds back every debug exception of its successor: SDM vol. 3, 6.8.3. */
	if (cpu->debug_armed && !(s->interrupt_shadow & 2) &&
	    x86_debug_fetch(cpu, rip_linear(cpu)) == X86_FAULT)
		return deliver(cpu, rip);
	len = x86_fetch_insn(cpu, &insn);
	if (!len)
		return deliver(cpu, rip);

	s->interrupt_shadow = 0;
	s->rip += (unsigned)len;
	if (cpu->code_bytes != 8)
		s->rip = (uint32_t)s->rip;
	r = insn.exec(cpu, &insn);
	cpu->retired = r == X86_FAULT ? cpu->fault.trap : r != X86_REPEAT;
	if (r == X86_FAULT && cpu->device_waits) {
		s->interrupt_shadow = shadow;
		s->rip = rip;
		return X86_REPEAT;
	}
	if (r == X86_FAULT)
		return deliver(cpu, rip);
	if (r == X86_REPEAT)
		s->rip = rip;
	/* Each instruction uses RF up; IRET has just loaded it. */
	else if ((flags & X86_FL_RF) && insn.exec != x86_op_iret)
		s->rflags &= ~(uint64_t)X86_FL_RF;

	if (traps_by_new_flags(&insn))
		single_step = single_step && (s->rflags & X86_FL_TF);
	if ((single_step || cpu->debug_pending) && x86_debug_trap(cpu, single_step))
		return X86_STOP;
	return r;
}
