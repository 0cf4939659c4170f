// SPDX-License-Identifier: GPL-2.0-only
/*
 * msr.c - model-specific registers: those of the state by the x86 core, the few of a hypervisor here; what
 * user space may see of the guest's accesses (KVM_X86_SET_MSR_FILTER, KVM_CAP_X86_USER_SPACE_MSR).
 */
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "chips.h"
#include "trace.h"
#include "x86_int.h"

#define MSR_APIC_BASE 0x1bu
#define TSC	  0x10u
#define EFER	  0xc0000080u
#define TSC_DEADLINE  0x6e0u

/* What a saved machine has to carry. */
static const u32 saved[] = {
	TSC, MSR_APIC_BASE, 0x6e0, 0x174, 0x175, 0x176, 0x17a, 0x1a0, 0x1d9, 0x277, 0x2ff,
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207,
	0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
	0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
	0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d06, 0x4b564d07,
	0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102, 0xc0000103,
};

/* ---- one register ---- */

bool msr_read(struct vcpu *vcpu, u32 msr, u64 *ret, bool host)
{
	int r;

	(void)vcpu_peek(vcpu);

	if (msr == MSR_APIC_BASE) {
		*ret = vcpu->apic_base;
		return true;
	}
	if (msr == TSC_DEADLINE && !vcpu->lapic) { /* its timer is in user space: as the stock driver */
		*ret = 0;
		return true;
	}
	r = vcpu->lapic ? lapic_read_msr(vcpu->lapic, msr, ret) : -ENOENT;
	if (r == -ENOENT)
		r = mce_read_msr(vcpu, msr, ret);
	if (r == -ENOENT)
		r = steal_read_msr(vcpu, msr, ret);
	if (r == -ENOENT)
		r = eoi_read_msr(vcpu, msr, ret);
	if (r == -ENOENT)
		r = apf_read_msr(vcpu, msr, ret);
	if (r != -ENOENT)
		return r == 0;
	if (clock_read_msr(vcpu, msr, ret))
		return true;
	return x86_rdmsr(&vcpu->cpu, msr, ret);
}

bool msr_write(struct vcpu *vcpu, u32 msr, u64 value, bool host)
{
	struct x86_state *s = vcpu_state(vcpu);
	int r;

	if (msr == MSR_APIC_BASE && !vcpu->lapic) {
		vcpu->apic_base = value;
		return true;
	}
	if (msr == TSC_DEADLINE && !vcpu->lapic)
		return true;
	if (vcpu->lapic) {
		r = msr == MSR_APIC_BASE ? lapic_set_base(vcpu->lapic, value, host) :
					   lapic_write_msr(vcpu->lapic, msr, value);
		if (r != -ENOENT)
			return r == 0;
	}
	r = mce_write_msr(vcpu, msr, value, host);
	if (r == -ENOENT)
		r = steal_write_msr(vcpu, msr, value);
	if (r == -ENOENT)
		r = eoi_write_msr(vcpu, msr, value);
	if (r == -ENOENT)
		r = apf_write_msr(vcpu, msr, value);
	if (r != -ENOENT)
		return r == 0;
	if (msr == TSC && host) {
		tsc_set_by_host(vcpu, value);
		return true;
	}
	if (clock_write_msr(vcpu, msr, value))
		return true;
	/* Whatever the paging mode: user space sets it before or after. LMA is the processor's, or KVM_SET_SREGS'. */
	if (msr == EFER && host) {
		s->efer = (value & ~(u64)X86_EFER_LMA) | (s->efer & X86_EFER_LMA);
		x86_update_mode(&vcpu->cpu);
		return true;
	}
	return x86_wrmsr(&vcpu->cpu, msr, value);
}

/* ---- lists ---- */

/* What a guest may be told of the processor by MSRs: the revision of the microcode that means nothing, and
 * that LFENCE waits for what is before it (APM vol. 3, LFENCE). */
static const struct {
	u32 msr;
	u64 value;
} feature[] = {
	{ MSR_IA32_UCODE_REV, 0x01000065 },
	{ MSR_AMD64_DE_CFG, 1 << 1 },
};

int msr_list(struct kvm_msr_list __user *arg, bool features)
{
	u32 count = features ? ARRAY_SIZE(feature) : ARRAY_SIZE(saved), room;

	if (get_user(room, &arg->nmsrs))
		return -EFAULT;
	if (put_user(count, &arg->nmsrs))
		return -EFAULT;
	if (room < count)
		return -E2BIG;
	for (u32 i = 0; i < count; i++) {
		if (put_user(features ? feature[i].msr : saved[i], &arg->indices[i]))
			return -EFAULT;
	}
	return 0;
}

static bool feature_read(u32 msr, u64 *ret)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(feature); i++) {
		if (feature[i].msr != msr)
			continue;
		*ret = feature[i].value;
		return true;
	}
	return false;
}

int msr_feature_io(struct kvm_msrs __user *arg)
{
	struct kvm_msr_entry e;
	u32 count, i;

	if (get_user(count, &arg->nmsrs))
		return -EFAULT;
	if (count > 256)
		return -E2BIG;
	for (i = 0; i < count; i++) {
		if (copy_from_user(&e, &arg->entries[i], sizeof(e)))
			return -EFAULT;
		if (!feature_read(e.index, &e.data))
			break;
		if (copy_to_user(&arg->entries[i], &e, sizeof(e)))
			return -EFAULT;
	}
	return i;
}

/* Returns how many were done. */
int msr_io(struct vcpu *vcpu, struct kvm_msrs __user *arg, bool write)
{
	struct kvm_msr_entry __user *at = arg->entries;
	u32 count, i;

	if (get_user(count, &arg->nmsrs))
		return -EFAULT;
	if (count > 256)
		return -E2BIG;
	for (i = 0; i < count; i++, at++) {
		struct kvm_msr_entry e;

		if (copy_from_user(&e, at, sizeof(e)))
			return -EFAULT;
		if (write ? !msr_write(vcpu, e.index, e.data, true) :
			    !msr_read(vcpu, e.index, &e.data, true))
			break;
		if (!write && copy_to_user(at, &e, sizeof(e)))
			return -EFAULT;
	}
	return i;
}

/* ---- the filter ---- */

struct msr_range {
	u32 flags, base, count;
	unsigned long *bitmap; /* set: allowed */
};

struct msr_filter {
	bool deny_others;
	unsigned int count;
	struct msr_range range[KVM_MSR_FILTER_MAX_RANGES];
};

void msr_filter_free(struct msr_filter *filter)
{
	for (unsigned int i = 0; filter && i < filter->count; i++)
		kvfree(filter->range[i].bitmap);
	kvfree(filter);
}

static int filter_add(struct msr_filter *filter, const struct kvm_msr_filter_range *from)
{
	struct msr_range *to = &filter->range[filter->count];
	unsigned long *bitmap;

	if (from->flags & ~(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) || !from->flags ||
	    from->nmsrs > KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8)
		return -EINVAL;
	bitmap = vmemdup_user((void __user *)from->bitmap, BITS_TO_LONGS(from->nmsrs) * sizeof(long));
	if (IS_ERR(bitmap))
		return PTR_ERR(bitmap);
	*to = (struct msr_range){ from->flags, from->base, from->nmsrs, bitmap };
	filter->count++;
	return 0;
}

int msr_filter_set(struct vm *vm, struct kvm_msr_filter __user *arg)
{
	struct msr_filter *filter = kvzalloc(sizeof(*filter), GFP_KERNEL_ACCOUNT), *old;
	struct kvm_msr_filter *from = vmemdup_user(arg, sizeof(*from));
	int r = 0;

	if (!filter || IS_ERR(from)) {
		r = filter ? PTR_ERR(from) : -ENOMEM;
		kvfree(filter);
		if (!IS_ERR(from))
			kvfree(from);
		return r;
	}
	if (from->flags & ~KVM_MSR_FILTER_DEFAULT_DENY)
		r = -EINVAL;
	filter->deny_others = from->flags & KVM_MSR_FILTER_DEFAULT_DENY;
	for (unsigned int i = 0; !r && i < ARRAY_SIZE(from->ranges); i++)
		if (from->ranges[i].nmsrs)
			r = filter_add(filter, &from->ranges[i]);
	kvfree(from);
	if (r) {
		msr_filter_free(filter);
		return r;
	}
	mutex_lock(&vm->lock);
	old = rcu_replace_pointer(vm->filter, filter, lockdep_is_held(&vm->lock));
	synchronize_srcu(&vm->srcu);
	hw->filter_changed(vm);
	mutex_unlock(&vm->lock);
	msr_filter_free(old);
	return 0;
}

bool msr_is_allowed(struct vm *vm, u32 msr, u32 kind)
{
	const struct msr_filter *filter;
	bool allowed = true;
	int at = srcu_read_lock(&vm->srcu);

	filter = srcu_dereference(vm->filter, &vm->srcu);
	if (filter) {
		allowed = !filter->deny_others;
		for (unsigned int i = 0; i < filter->count; i++) {
			const struct msr_range *r = &filter->range[i];

			if (!(r->flags & kind) || msr - r->base >= r->count)
				continue;
			allowed = test_bit(msr - r->base, r->bitmap);
			break;
		}
	}
	srcu_read_unlock(&vm->srcu, at);
	return allowed;
}

bool msr_all_allowed(struct vm *vm, const u32 *msrs, unsigned int count)
{
	bool all = true;

	for (unsigned int i = 0; i < count; i++)
		all &= msr_is_allowed(vm, msrs[i], KVM_MSR_FILTER_READ) &&
		       msr_is_allowed(vm, msrs[i], KVM_MSR_FILTER_WRITE);
	return all;
}

/* ---- the guest's RDMSR and WRMSR ---- */

static void set_result(struct vcpu *vcpu, u64 value)
{
	struct x86_state *s = &vcpu->cpu.s;

	s->gpr[X86_RAX] = (u32)value;
	s->gpr[X86_RDX] = value >> 32;
}

static int refuse(struct vcpu *vcpu)
{
	event_raise(vcpu, X86_GP, true, 0);
	return 1;
}

static int finish_msr(struct vcpu *vcpu)
{
	if (vcpu->run->msr.error)
		return refuse(vcpu);
	if (!vcpu->msr_was_write)
		set_result(vcpu, vcpu->run->msr.data);
	return vcpu_skip(vcpu);
}

static int ask(struct vcpu *vcpu, u32 msr, bool write, u64 value, u32 reason)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	run->msr.error = 0;
	memset(run->msr.pad, 0, sizeof(run->msr.pad));
	run->msr.reason = reason;
	run->msr.index = msr;
	run->msr.data = value;
	vcpu->msr_was_write = write;
	vcpu->finish = finish_msr;
	return 0;
}

/* It is not there, or not for that value. */
static int refuse_or_ask(struct vcpu *vcpu, u32 msr, bool write, u64 value)
{
	u64 old;

	if (write && msr_read(vcpu, msr, &old, false))
		return vcpu->vm->msr_exits_invalid ?
			       ask(vcpu, msr, write, value, KVM_MSR_EXIT_REASON_INVAL) :
			       refuse(vcpu);
	return vcpu->vm->msr_exits_unknown ?
		       ask(vcpu, msr, write, value, KVM_MSR_EXIT_REASON_UNKNOWN) :
		       refuse(vcpu);
}

int msr_exit(struct vcpu *vcpu, bool write)
{
	const struct x86_state *s = &vcpu->cpu.s;
	u32 msr = s->gpr[X86_RCX];
	u64 value = write ? (u32)s->gpr[X86_RAX] | s->gpr[X86_RDX] << 32 : 0;
	bool ok;

	if (!msr_is_allowed(vcpu->vm, msr, write ? KVM_MSR_FILTER_WRITE : KVM_MSR_FILTER_READ))
		return vcpu->vm->msr_exits_filter ?
			       ask(vcpu, msr, write, value, KVM_MSR_EXIT_REASON_FILTER) :
			       refuse(vcpu);
	ok = write ? msr_write(vcpu, msr, value, false) : msr_read(vcpu, msr, &value, false);
	trace_kvm_msr(write, msr, value, !ok);
	if (!ok)
		return refuse_or_ask(vcpu, msr, write, value);
	if (!write)
		set_result(vcpu, value);
	return vcpu_skip(vcpu);
}
