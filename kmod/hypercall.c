// SPDX-License-Identifier: GPL-2.0-only
/*
 * hypercall.c - what a guest's kernel asks for by VMCALL or VMMCALL: Documentation/virt/kvm/x86/hypercalls.rst.
 *
 * The number is in RAX, and the answer; arguments are in RBX, RCX, RDX and RSI. All of them lead to other vCPUs by the
 * ids of their local APICs, so without these in here they come to nothing.
 */
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/stat.h>
#include <linux/sched/task.h>
#include <uapi/linux/kvm_para.h>

#include "chips.h"
#include "trace.h"

struct call {
	u64 number, arg[4];
	bool wide; /* by 64-bit code */
};

static struct vcpu *by_id(struct vm *vm, u64 id)
{
	for (unsigned int i = 0; vm->chips && i < smp_load_acquire(&vm->vcpu_count); i++) {
		if (vm->vcpu[i]->id == id)
			return vm->vcpu[i];
	}
	return NULL;
}

/* It halts with interrupts off until somebody frees the lock that it waits for. */
static void kick(struct vcpu *vcpu, u64 id)
{
	struct vcpu *other = by_id(vcpu->vm, id);

	if (other)
		vcpu_request(other, REQ_UNHALT);
}

/* The rest of this thread's time is that one's, if it could use it. */
static void yield_for(struct vcpu *vcpu, u64 id)
{
	struct vcpu *other = by_id(vcpu->vm, id);
	struct task_struct *thread;

	vcpu->stats.directed_yield_attempted++;
	if (!other || other == vcpu || single_task_running())
		return;
	rcu_read_lock();
	thread = rcu_dereference(other->runner);
	if (thread)
		get_task_struct(thread);
	rcu_read_unlock();
	if (!thread)
		return;
	vcpu->stats.directed_yield_successful += yield_to(thread, true) > 0;
	put_task_struct(thread);
}

/* Bit 0 of @set is who has the id @first. */
static bool is_in(u64 set, u32 first, u32 id)
{
	return id >= first && id - first < 64 && set >> (id - first) & 1;
}

static u64 send_ipis(struct vcpu *vcpu, const struct call *call)
{
	u32 icr = call->arg[3], first = call->arg[2], second = first + (call->wide ? 64 : 32);
	struct apic_msg msg = { .mode = ICR_MODE(icr), .vector = icr };
	struct vm *vm = vcpu->vm;
	u64 count = 0;

	if (!vm->chips)
		return -KVM_EOPNOTSUPP;
	if (icr & (ICR_LOGICAL | ICR_SHORTHAND))
		return -KVM_EINVAL;
	for (unsigned int i = 0; !icr_is_idle(icr) && i < smp_load_acquire(&vm->vcpu_count); i++) {
		u32 id = vm->vcpu[i]->id;

		if (is_in(call->arg[0], first, id) || is_in(call->arg[1], second, id))
			count += apic_deliver_to(vm->vcpu[i], &msg);
	}
	return count;
}

static u64 answer(struct vcpu *vcpu, const struct call *call)
{
	if (x86_state_cpl(vcpu_peek(vcpu)))
		return -KVM_EPERM;
	switch (call->number) {
	case KVM_HC_VAPIC_POLL_IRQ: /* the exit was all it wanted */
		return 0;
	case KVM_HC_KICK_CPU:
		kick(vcpu, call->arg[1]);
		yield_for(vcpu, call->arg[1]);
		return 0;
	case KVM_HC_SEND_IPI:
		return send_ipis(vcpu, call);
	case KVM_HC_SCHED_YIELD:
		yield_for(vcpu, call->arg[0]);
		return 0;
	default:
		return -KVM_ENOSYS;
	}
}

void hypercall(struct vcpu *vcpu)
{
	static const u8 from[] = { X86_RBX, X86_RCX, X86_RDX, X86_RSI };
	struct x86_state *s = &vcpu->cpu.s;
	struct call call;
	u64 mask;

	(void)vcpu_peek(vcpu);
	call.wide = vcpu->cpu.code_bytes == 8;
	mask = call.wide ? ~0ull : U32_MAX;
	call.number = s->gpr[X86_RAX] & mask;
	for (unsigned int i = 0; i < ARRAY_SIZE(from); i++)
		call.arg[i] = s->gpr[from[i]] & mask;
	trace_kvm_hypercall(call.number, call.arg);
	vcpu->stats.hypercalls++;
	s->gpr[X86_RAX] = answer(vcpu, &call) & mask;
}

int exit_hypercall(struct vcpu *vcpu)
{
	hypercall(vcpu);
	return vcpu_skip(vcpu);
}
