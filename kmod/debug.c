// SPDX-License-Identifier: GPL-2.0-only
/*
 * debug.c - a debugger of the guest in user space: KVM_SET_GUEST_DEBUG, Documentation/virt/kvm/api.rst, 4.69.
 *
 * The debugger's breakpoints and its trap flag are in the hardware while the guest runs, and nowhere else: the
 * state has the guest's own. The vendor's code puts them in before an entry and takes them out behind it.
 */
#include <linux/uaccess.h>
#include <asm/debugreg.h>

#include "vm.h"
#include "x86_int.h"

/* SDM vol. 3, 17.2.4: bit 10 is one; GD would trap the debugger's own exits, above are reserved bits. */
#define DR7_SET	 0x400u
#define DR7_KEPT 0xffff03ffu

long debug_set(struct vcpu *vcpu, const void __user *arg)
{
	struct guest_debug *debug = &vcpu->debug;
	struct kvm_guest_debug set;

	if (copy_from_user(&set, arg, sizeof(set)))
		return -EFAULT;
	if (set.control & ~DEBUG_FLAGS)
		return -EINVAL;
	if (set.control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
		if (vcpu_peek(vcpu)->exception_pending)
			return -EBUSY;
		event_raise(vcpu, set.control & KVM_GUESTDBG_INJECT_DB ? X86_DB : X86_BP, false, 0);
	}
	debug->control = set.control & KVM_GUESTDBG_ENABLE ? set.control : 0;
	memcpy(debug->dr, set.arch.debugreg, sizeof(debug->dr));
	debug->dr7 = (set.arch.debugreg[7] & DR7_KEPT) | DR7_SET;
	hw->debug_changed(vcpu);
	return 0;
}

int debug_exit(struct vcpu *vcpu, u8 vector, u64 dr6)
{
	const struct x86_state *s = vcpu_peek(vcpu);
	struct kvm_debug_exit_arch *to = &vcpu->run->debug.arch;
	u64 pc = s->seg[X86_CS].base + s->rip;

	vcpu->run->exit_reason = KVM_EXIT_DEBUG;
	*to = (struct kvm_debug_exit_arch){
		.exception = vector,
		.pc = vcpu->cpu.code_bytes == 8 ? s->rip : (u32)pc,
		.dr6 = dr6,
		.dr7 = vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP ? vcpu->debug.dr7 : s->dr[7],
	};
	return 0;
}

int debug_trap(struct vcpu *vcpu)
{
	if (!debug_steps(vcpu))
		return 1;
	return debug_exit(vcpu, X86_DB, DR6_RESERVED | DR_STEP);
}
