// SPDX-License-Identifier: GPL-2.0-only
/*
 * steal.c - what a guest is told of its vCPU's time: how long it has waited for a CPU, and whether it has one
 * (Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).
 *
 * A vCPU that loses its CPU is marked as preempted: others need not wait for it. Instead of interrupting it to have its
 * TLB flushed they add that to the mark (KVM_FEATURE_PV_TLB_FLUSH), and it is done when the vCPU comes back. So the mark
 * is set only where the vCPU executes nothing for the guest, and taken back before it does: between steal_open() and
 * steal_close(). One that has walked the guest's tables, to emulate an instruction, would still use what it found.
 */
#include <linux/sched.h>
#include <linux/sched/stat.h>
#include <uapi/asm/kvm_para.h>

#include "vm.h"

#define MSR_STEAL_TIME 0x4b564d03u

static u64 place_of(const struct vcpu *vcpu, size_t offset)
{
	return (vcpu->steal.msr & KVM_STEAL_VALID_BITS) + offset;
}

static bool is_on(const struct vcpu *vcpu)
{
	return vcpu->steal.msr & KVM_MSR_ENABLED;
}

/* ---- the thread, and its CPU ---- */

void steal_came(struct vcpu *vcpu)
{
	vcpu->steal.due = true;
}

/* In the scheduler: nothing may sleep. */
void steal_left(struct vcpu *vcpu)
{
	static const u8 preempted = KVM_VCPU_PREEMPTED;
	u64 at = place_of(vcpu, offsetof(struct kvm_steal_time, preempted));

	/* Marked still: others may have written to it since. */
	if (!vcpu->steal.open || !is_on(vcpu) || vcpu->steal.marked)
		return;
	vcpu->steal.marked = ram_write_now(vcpu, at, &preempted, sizeof(preempted));
	vcpu->stats.preemption_reported += vcpu->steal.marked;
}

/* ---- the page ---- */

/* Its version is odd while it is being written; guest and driver go on from what is there. */
static void add(struct vcpu *vcpu, u64 ns)
{
	u64 at_version = place_of(vcpu, offsetof(struct kvm_steal_time, version));
	u64 at_steal = place_of(vcpu, offsetof(struct kvm_steal_time, steal));
	u32 version;
	u64 steal;

	if (!ram_read(vcpu, at_version, &version, sizeof(version)) ||
	    !ram_read(vcpu, at_steal, &steal, sizeof(steal)))
		return;
	version = (version | 1) + (version & 1 ? 2 : 0);
	steal += ns;
	ram_write(vcpu, at_version, &version, sizeof(version));
	smp_wmb();
	ram_write(vcpu, at_steal, &steal, sizeof(steal));
	smp_wmb();
	version++;
	ram_write(vcpu, at_version, &version, sizeof(version));
}

static void update(struct vcpu *vcpu)
{
	struct steal *steal = &vcpu->steal;
	u64 delay = current->sched_info.run_delay, at;
	u8 mark = 0;

	steal->due = false;
	if (!is_on(vcpu))
		return;
	/* At first, and with another thread, there is nothing to go on from. */
	if (steal->fresh || delay < steal->last)
		steal->last = delay;
	if (!steal->fresh && !steal->marked && delay == steal->last)
		return;
	at = place_of(vcpu, offsetof(struct kvm_steal_time, preempted));
	if (!ram_exchange(vcpu, at, &mark)) {
		steal->due = steal->marked; /* a mark must not stay */
		return;
	}
	if (mark & KVM_VCPU_FLUSH_TLB)
		vcpu_flush_tlb(vcpu);
	steal->marked = steal->fresh = false;
	add(vcpu, delay - steal->last);
	steal->last = delay;
}

void steal_close(struct vcpu *vcpu)
{
	vcpu->steal.open = false;
	barrier(); /* the scheduler may come at any place */
	if (vcpu->steal.due)
		update(vcpu);
}

/* ---- the MSR ---- */

int steal_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret)
{
	if (msr != MSR_STEAL_TIME)
		return -ENOENT;
	*ret = vcpu->steal.msr;
	return 0;
}

int steal_write_msr(struct vcpu *vcpu, u32 msr, u64 value)
{
	if (msr != MSR_STEAL_TIME)
		return -ENOENT;
	if (!sched_info_on() || value & KVM_STEAL_RESERVED_MASK)
		return -EINVAL;
	vcpu->steal = (struct steal){ .msr = value, .due = true, .fresh = true };
	return 0;
}

void steal_reset(struct vcpu *vcpu)
{
	vcpu->steal = (struct steal){ 0 };
}
