// SPDX-License-Identifier: GPL-2.0-only
/*
 * mce.c - machine checks of a guest: the banks, which only user space fills (KVM_X86_SET_MCE), and its control
 * registers. SDM vol. 3, 16.3; Documentation/virt/kvm/api.rst, 4.104 to 4.106.
 */
#include <linux/uaccess.h>
#include <asm/mce.h>

#include "vm.h"
#include "x86_int.h"

#define MSR_CAP	     0x179u
#define MSR_CTL	     0x17bu
#define MSR_BANKS    0x400u
#define BANK_WORDS   4u
#define CR4_MCE	     (1ull << 6)

/* Of a bank, in the order of its MSRs: SDM vol. 3, 16.3.2. */
enum { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC };

u64 mce_supported(void)
{
	return MCG_CTL_P | MCG_SER_P;
}

static unsigned int banks(const struct vcpu *vcpu)
{
	return vcpu->mce.cap & MCG_BANKCNT_MASK;
}

static u64 *bank_word(struct vcpu *vcpu, u32 msr)
{
	return msr - MSR_BANKS < banks(vcpu) * BANK_WORDS ? &vcpu->mce.bank[msr - MSR_BANKS] : NULL;
}

/* ---- MSRs: -ENOENT: none of them, or as without banks ---- */

int mce_read_msr(struct vcpu *vcpu, u32 msr, u64 *ret)
{
	const u64 *word = bank_word(vcpu, msr);

	if (word)
		*ret = *word;
	else if (msr == MSR_CAP)
		*ret = vcpu->mce.cap;
	else if (msr == MSR_CTL && vcpu->mce.cap & MCG_CTL_P)
		*ret = vcpu->mce.ctl;
	else
		return -ENOENT;
	return 0;
}

int mce_write_msr(struct vcpu *vcpu, u32 msr, u64 value, bool host)
{
	u64 *word = bank_word(vcpu, msr);

	if (msr == MSR_CTL && vcpu->mce.cap & MCG_CTL_P) {
		if (value && value != ~0ull)
			return -EINVAL;
		vcpu->mce.ctl = value;
		return 0;
	}
	if (!word)
		return -ENOENT;
	/* All or nothing; Linux clears bit 10 of bank 4 for a fault of some AMD processors, and bit 0 of
	 * bank 0 for one of Intel's. What is noted can only be cleared. */
	if (msr % BANK_WORDS == BANK_CTL && value && (value | 1 << 10 | 1) != ~0ull)
		return -EINVAL;
	if (msr % BANK_WORDS == BANK_STATUS && value && !host)
		return -EINVAL;
	*word = value;
	return 0;
}

/* ---- user space ---- */

long mce_enable(struct vcpu *vcpu, const void __user *arg)
{
	u64 cap;

	if (get_user(cap, (const u64 __user *)arg))
		return -EFAULT;
	if (!(cap & MCG_BANKCNT_MASK) || (cap & MCG_BANKCNT_MASK) > MCE_BANKS ||
	    cap & ~(MCG_BANKCNT_MASK | mce_supported()))
		return -EINVAL;
	vcpu->mce.cap = cap;
	vcpu->mce.ctl = cap & MCG_CTL_P ? ~0ull : 0;
	for (unsigned int i = 0; i < banks(vcpu); i++)
		vcpu->mce.bank[i * BANK_WORDS + BANK_CTL] = ~0ull;
	return 0;
}

/* SDM vol. 3, 16.3.2.2.1: an uncorrected error stays when another one comes; what is corrected does not
 * take its place. */
static void note(u64 *bank, const struct kvm_x86_mce *mce, u64 overflow)
{
	bank[BANK_STATUS] = mce->status | overflow;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
}

long mce_inject(struct vcpu *vcpu, const void __user *arg)
{
	struct x86_state *s = vcpu_state(vcpu);
	struct kvm_x86_mce mce;
	u64 *bank;

	if (copy_from_user(&mce, arg, sizeof(mce)))
		return -EFAULT;
	if (mce.bank >= banks(vcpu) || !(mce.status & MCI_STATUS_VAL))
		return -EINVAL;
	bank = &vcpu->mce.bank[mce.bank * BANK_WORDS];
	if (!(mce.status & MCI_STATUS_UC)) {
		if (!(bank[BANK_STATUS] & MCI_STATUS_VAL) || !(bank[BANK_STATUS] & MCI_STATUS_UC))
			note(bank, &mce, bank[BANK_STATUS] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
		else
			bank[BANK_STATUS] |= MCI_STATUS_OVER;
		return 0;
	}
	/* Not reported where that is turned off. */
	if ((vcpu->mce.cap & MCG_CTL_P && vcpu->mce.ctl != ~0ull) || bank[BANK_CTL] != ~0ull)
		return 0;
	/* A second one while the first is handled: SDM vol. 3, 16.3.1.2. */
	if (s->mcg_status & MCG_STATUS_MCIP || !(s->cr4 & CR4_MCE)) {
		s->activity = X86_SHUTDOWN;
		return 0;
	}
	note(bank, &mce, bank[BANK_STATUS] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
	s->mcg_status = mce.mcg_status;
	event_raise(vcpu, X86_MC, false, 0);
	return 0;
}
