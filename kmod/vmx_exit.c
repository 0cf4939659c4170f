// SPDX-License-Identifier: GPL-2.0-only
/* vmx_exit.c - why the guest was left, and who sees to it: SDM vol. 3, chapter 27 and appendix C. */
#include <linux/nospec.h>
#include <linux/sched.h>
#include <asm/debugreg.h>

#include "shadow.h"
#include "vmx.h"
#include "x86_int.h"

/* 17.2.4: general detection, which every debug exception ends. */
#define DR7_GD BIT(13)

/* 1: go on, 0: to user space, or -errno. */
typedef int (*exit_fn)(struct vcpu *vcpu);

/* Table 27-5: the port, and what kind of access. */
static int on_port(struct vcpu *vcpu)
{
	u64 info = vmread(VMCS_QUALIFICATION);

	vcpu->stats.io_exits++;
	if (info & PORT_STRING)
		return emulate(vcpu);
	return exit_port(vcpu, info >> PORT_SHIFT, (info & PORT_SIZE_MASK) + 1, info & PORT_IN);
}

static int on_rdmsr(struct vcpu *vcpu)
{
	return msr_exit(vcpu, false);
}

static int on_wrmsr(struct vcpu *vcpu)
{
	return msr_exit(vcpu, true);
}

static int on_violation(struct vcpu *vcpu)
{
	u64 info = vmread(VMCS_QUALIFICATION);
	const struct memory_access a = { .gpa = vmread(VMCS_PHYSICAL_ADDRESS), .write = info & VIOLATION_WRITE,
					 .exec = info & VIOLATION_FETCH, .last = (info & VIOLATION_LAST) == VIOLATION_LAST };

	return exit_memory(vcpu, &a);
}

/* 27.2.1: an exit by it leaves the debug registers as they were; INT1 still is to be passed. */
static int on_debug(struct vcpu *vcpu, u32 type)
{
	u64 bits = vmread(VMCS_QUALIFICATION) & DEBUG_BITS;
	struct x86_state *s;

	if (debug_has_db(vcpu))
		return debug_exit(vcpu, X86_DB, DR6_RESERVED | bits);
	if (type == EVENT_TYPE_INT1)
		hw->set_rip(vcpu, hw->next_rip(vcpu));
	s = vcpu_state(vcpu);
	s->dr[6] = (s->dr[6] & ~(u64)DR_TRAP_BITS) | bits;
	s->dr[7] &= ~(u64)DR7_GD;
	event_raise(vcpu, X86_DB, false, 0);
	return 1;
}

/* Where the host looks for locks across two lines of the cache, they raise #AC whatever the guest has asked for
 * (volume 4, IA32_TEST_CTRL): the host's, unless the guest wants to be told of all that is not aligned. */
static bool is_split_lock(struct vcpu *vcpu)
{
	const struct x86_state *s;

	if (!boot_cpu_has(X86_FEATURE_SPLIT_LOCK_DETECT))
		return false;
	s = vcpu_peek(vcpu);
	return x86_state_cpl(s) != 3 || !(s->cr0 & X86_CR0_AM) || !(s->rflags & X86_FL_AC);
}

/* The host has warned of it, and lets it pass; or has sent a signal. */
static int on_split_lock(struct vcpu *vcpu)
{
	if (host_split_lock(hw->rip(vcpu)))
		return 1;
	vcpu->run->exit_reason = KVM_EXIT_EXCEPTION;
	vcpu->run->ex.exception = X86_AC;
	vcpu->run->ex.error_code = 0;
	return 0;
}

static int on_exception(struct vcpu *vcpu)
{
	u32 event = vmread(VMCS_EXIT_EVENT), vector = event & EVENT_INFO_VECTOR;
	u32 type = event >> EVENT_TYPE_SHIFT & EVENT_TYPE_MASK;

	if (type == EVENT_TYPE_NMI || vector == X86_MC) /* the host's, which has seen to it */
		return 1;
	if (vector == X86_PF && vcpu->shadow) /* 27.2.1: the linear address */
		return shadow_fault(vcpu, vmread(VMCS_QUALIFICATION), vmread(VMCS_EXIT_ERROR));
	if (vector == X86_BP && vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP)
		return debug_exit(vcpu, vector, vcpu->debug.dr6);
	if (vector == X86_AC && is_split_lock(vcpu))
		return on_split_lock(vcpu);
	if (vmx_of(vcpu)->shape == SHAPE_V86 && vector != X86_DB)
		return vmx_exception_v86(vcpu, vector);
	if (vector == X86_UD)
		return exit_invalid(vcpu);
	if (vector == X86_DB)
		return on_debug(vcpu, type);
	event_raise(vcpu, vector, event & EVENT_INFO_ERROR, vmread(VMCS_EXIT_ERROR));
	return 1;
}

static int on_nmi_window(struct vcpu *vcpu)
{
	vcpu->stats.nmi_window_exits++;
	vmx_set_bits(vmx_of(vcpu), VMX_CONTROLS, PROC_NMI_WINDOW, false);
	return 1;
}

/* It waits for another vCPU, most likely, which another thread would like to run. */
static int on_pause(struct vcpu *vcpu)
{
	yield();
	return vcpu_skip(vcpu);
}

static const exit_fn exits[] = {
	[REASON_EXCEPTION_OR_NMI] = on_exception,
	[REASON_INTERRUPT] = exit_host_interrupt,
	[REASON_TRIPLE_FAULT] = exit_shutdown,
	[REASON_INIT] = exit_nothing,
	[REASON_SIPI] = exit_nothing,
	[REASON_INTERRUPT_WINDOW] = exit_interrupt_window,
	[REASON_NMI_WINDOW] = on_nmi_window,
	[REASON_TASK_SWITCH] = emulate,
	[REASON_CPUID] = exit_cpuid,
	[REASON_GETSEC] = exit_undefined,
	[REASON_HLT] = exit_hlt,
	[REASON_INVD] = exit_skip,
	[REASON_INVLPG] = emulate,
	[REASON_RDPMC] = emulate,
	[REASON_RSM] = exit_undefined,
	[REASON_VMCALL] = exit_hypercall,
	[REASON_VMCLEAR ... REASON_VMXON] = exit_undefined,
	[REASON_CR] = emulate,
	[REASON_DR] = exit_debug_register,
	[REASON_PORT] = on_port,
	[REASON_RDMSR] = on_rdmsr,
	[REASON_WRMSR] = on_wrmsr,
	[REASON_MWAIT] = exit_skip,
	[REASON_MONITOR] = exit_skip,
	[REASON_PAUSE] = on_pause,
	[REASON_EPT_VIOLATION] = on_violation,
	[REASON_INVEPT] = exit_undefined,
	[REASON_INVVPID] = exit_undefined,
	[REASON_WBINVD] = exit_skip,
	[REASON_XSETBV] = emulate,
	[REASON_INVPCID] = emulate,
	[REASON_VMFUNC] = exit_undefined,
	[REASON_ENCLS] = exit_undefined,
};

/* An IRET has let NMIs in, and then has faulted: they stay out until it is done. 27.2.3. */
static void block_nmis_again(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	u32 event;

	switch (vmx->reason) {
	case REASON_EXCEPTION_OR_NMI:
		event = vmread(VMCS_EXIT_EVENT);
		if (!(event & EVENT_IRET_UNBLOCKED) || (event & EVENT_INFO_VECTOR) == X86_DF)
			return;
		break;
	case REASON_EPT_VIOLATION:
		if (!(vmread(VMCS_QUALIFICATION) & VIOLATION_IRET_UNBLOCKED))
			return;
		break;
	default:
		return;
	}
	(void)vmx_get(vcpu, VMX_INTERRUPTIBILITY);
	vmx_set_bits(vmx, VMX_INTERRUPTIBILITY, BLOCKED_BY_NMI, true);
}

int vmx_handle_exit(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	exit_fn row;
	u32 event;

	if (vmx->refused)
		return exit_refused(vcpu, vmread(VMCS_INSTRUCTION_ERROR));
	if (vmx->reason & EXIT_ENTRY_FAILED)
		return exit_refused(vcpu, vmx->reason);
	event = vmread(VMCS_VECTORING_EVENT);
	if (!(event & EVENT_INFO_VALID))
		block_nmis_again(vcpu);
	event_take_back(vcpu, event, event & EVENT_INFO_VALID ? vmread(VMCS_VECTORING_ERROR) : 0);
	row = vmx->reason < ARRAY_SIZE(exits) ? exits[array_index_nospec(vmx->reason, ARRAY_SIZE(exits))] : NULL;
	return row ? row(vcpu) : exit_failure(vcpu);
}

void vmx_exit_info(struct vcpu *vcpu, struct exit_info *ret)
{
	const struct vmx_vcpu *vmx = vmx_of(vcpu);

	*ret = (struct exit_info){ .reason = vmx->reason };
	if (vmx->refused || vmx->reason & EXIT_ENTRY_FAILED)
		return;
	ret->info1 = vmread(VMCS_QUALIFICATION);
	ret->info2 = vmread(VMCS_VECTORING_EVENT);
	ret->event = vmread(VMCS_EXIT_EVENT);
	if (ret->event & EVENT_INFO_VALID && ret->event & EVENT_INFO_ERROR)
		ret->error = vmread(VMCS_EXIT_ERROR);
}
