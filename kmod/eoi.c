// SPDX-License-Identifier: GPL-2.0-only
/*
 * eoi.c - ends of interrupts that a guest tells by a bit of its memory (Documentation/virt/kvm/x86/msr.rst,
 * MSR_KVM_EOI_EN).
 *
 * The bit is set with an interrupt whose end leads to nothing else: the guest may clear it, where it would write to the
 * EOI register. The offer is for one stay in the guest. Behind the exit, before anybody looks at the local APIC, it is
 * taken back: a bit that is clear was the end.
 */
#include <linux/align.h>
#include <uapi/asm/kvm_para.h>

#include "chips.h"

#define MSR_EOI_EN 0x4b564d04u

static u64 place_of(const struct vcpu *vcpu)
{
	return vcpu->eoi_msr & ~(u64)KVM_MSR_ENABLED;
}

void eoi_offer(struct vcpu *vcpu)
{
	static const u8 offer = KVM_PV_EOI_ENABLED;

	if (!(vcpu->eoi_msr & KVM_MSR_ENABLED) || !vcpu->lapic || !lapic_ends_alone(vcpu->lapic))
		return;
	vcpu->eoi_offered = ram_write(vcpu, place_of(vcpu), &offer, sizeof(offer));
}

void eoi_collect(struct vcpu *vcpu)
{
	u8 bit = KVM_PV_EOI_DISABLED;

	if (!vcpu->eoi_offered)
		return;
	vcpu->eoi_offered = false;
	/* From RAM that has gone the guest cannot tell either. */
	if (!ram_exchange(vcpu, place_of(vcpu), &bit) || !(bit & KVM_PV_EOI_MASK))
		lapic_eoi(vcpu->lapic);
}

int eoi_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret)
{
	if (msr != MSR_EOI_EN)
		return -ENOENT;
	*ret = vcpu->eoi_msr;
	return 0;
}

int eoi_write_msr(struct vcpu *vcpu, u32 msr, u64 value)
{
	u64 gpa = value & ~(u64)KVM_MSR_ENABLED;

	if (msr != MSR_EOI_EN)
		return -ENOENT;
	if (!IS_ALIGNED(gpa, 4) || (value & KVM_MSR_ENABLED && !ram_is_there(vcpu, gpa)))
		return -EINVAL;
	vcpu->eoi_msr = value;
	return 0;
}
