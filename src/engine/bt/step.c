// SPDX-License-Identifier: Apache-2.0
/* step.c - one instruction outside a block. */
#include "engine/bt/bt_int.h"

void bt_deliver(struct bt_vcpu *vcpu, uint64_t rip, uint64_t next)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	uint8_t old = bt_doing_set(&vcpu->stats, BT_DOING_DELIVER);

	bt_count(&vcpu->stats.faults[MIN(cpu->fault.vector, 31u)]);
	cpu->s.rip = cpu->fault.trap ? next : rip;
	x86_deliver_fault(cpu);
	bt_doing_set(&vcpu->stats, old);
	bt_context_turn(vcpu);
}

/* It crosses a page, or its page mixes code and data: fetched each time, decoded when it changed. */
static void bt_step_plain(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	const struct x86_insn *insn;
	uint64_t rip = cpu->s.rip;
	int result;

	insn = bt_cross_find(vcpu);
	if (!insn)
		insn = bt_cross_fetch(vcpu);
	if (!insn) {
		(void)x86_step(cpu); /* finds out which fault it is, and delivers it */
		bt_count_add(&vcpu->stats.insns, cpu->retired);
		return;
	}
	cpu->s.interrupt_shadow = 0;
	cpu->s.rip = rip + insn->len;
	result = insn->exec(cpu, insn);
	bt_count_add(&vcpu->stats.insns, bt_is_retired(cpu, result));
	if (result == X86_FAULT)
		bt_deliver(vcpu, rip, rip + insn->len);
	else if (result == X86_REPEAT)
		cpu->s.rip = rip;
}

void bt_step(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;

	bt_count(&vcpu->stats.steps);
	bt_doing_set(&vcpu->stats, BT_DOING_STEP);
	if (vcpu->trace)
		vcpu->trace(vcpu, vcpu->trace_arg);
	vcpu->current = NULL;
	if (cpu->debug_armed || cpu->s.rflags & X86_FL_RF) {
		(void)x86_step(cpu);
		bt_count_add(&vcpu->stats.insns, cpu->retired);
	} else {
		bt_step_plain(vcpu);
	}
	cpu->stop_requested = false;
	bt_context_update(vcpu);
}
