// SPDX-License-Identifier: GPL-2.0-only
/* svm_exit.c - why the guest was left, and who sees to it: APM vol. 2, 15.9 to 15.14 and appendix C. */
#include "shadow.h"
#include "svm.h"

/* 1: go on, 0: to user space, or -errno. */
typedef int (*exit_fn)(struct vcpu *vcpu);

static struct vmcb_control_area *control_of(struct vcpu *vcpu)
{
	return &svm_of(vcpu)->vmcb->control;
}

/* 15.10.2: the port, and what kind of access. */
static int on_port(struct vcpu *vcpu)
{
	u32 info = control_of(vcpu)->exit_info_1;

	vcpu->stats.io_exits++;
	if (info & SVM_IOIO_STR_MASK)
		return emulate(vcpu);
	return exit_port(vcpu, info >> 16, (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT,
			 info & SVM_IOIO_TYPE_MASK);
}

static int on_msr(struct vcpu *vcpu)
{
	return msr_exit(vcpu, control_of(vcpu)->exit_info_1 & 1);
}

/* 15.25.6: info 1 is the error code of a page fault, and whether it was the access itself; info 2 the guest-physical
 * address. */
#define NPF_LAST BIT_ULL(32)

static int on_nested_fault(struct vcpu *vcpu)
{
	u64 error = control_of(vcpu)->exit_info_1;
	const struct memory_access a = { .gpa = control_of(vcpu)->exit_info_2, .write = error & X86_PF_W,
					 .exec = error & X86_PF_FETCH, .last = error & NPF_LAST };

	return exit_memory(vcpu, &a);
}

/* 15.12.15: the same, and the linear address, which is not in CR2 yet. */
static int on_page_fault(struct vcpu *vcpu)
{
	return shadow_fault(vcpu, control_of(vcpu)->exit_info_2, control_of(vcpu)->exit_info_1);
}

/* The end of an NMI. It is not executed yet; the x86 core does, and NMIs are open behind it. */
static int on_iret(struct vcpu *vcpu)
{
	vcpu->stats.nmi_window_exits++;
	hw->nmi_window(vcpu, false);
	return emulate(vcpu);
}

static int on_exception(struct vcpu *vcpu)
{
	unsigned int vector = control_of(vcpu)->exit_code - SVM_EXIT_EXCP_BASE;

	if (vector == X86_MC) /* the host's, which has seen to it */
		return 1;
	if (vector == X86_BP)
		return debug_exit(vcpu, vector, vcpu->debug.dr6);
	if (vector == X86_DB && debug_has_db(vcpu))
		return debug_exit(vcpu, vector, vcpu->debug.dr6);
	event_raise(vcpu, vector, vector == X86_AC, control_of(vcpu)->exit_info_1);
	return 1;
}

static const exit_fn exits[] = {
	[SVM_EXIT_READ_CR0] = emulate,
	[SVM_EXIT_READ_CR3] = emulate,
	[SVM_EXIT_READ_CR4] = emulate,
	[SVM_EXIT_READ_CR8] = emulate,
	[SVM_EXIT_WRITE_CR0] = emulate,
	[SVM_EXIT_WRITE_CR3] = emulate,
	[SVM_EXIT_WRITE_CR4] = emulate,
	[SVM_EXIT_WRITE_CR8] = emulate,
	[SVM_EXIT_READ_DR0... SVM_EXIT_READ_DR7] = exit_debug_register,
	[SVM_EXIT_WRITE_DR0... SVM_EXIT_WRITE_DR7] = exit_debug_register,
	[SVM_EXIT_EXCP_BASE + X86_DB] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_BP] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_UD] = exit_invalid,
	[SVM_EXIT_EXCP_BASE + X86_PF] = on_page_fault,
	[SVM_EXIT_EXCP_BASE + X86_AC] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_MC] = on_exception,
	[SVM_EXIT_INTR] = exit_host_interrupt,
	[SVM_EXIT_NMI] = exit_nothing,
	[SVM_EXIT_SMI] = exit_nothing,
	[SVM_EXIT_INIT] = exit_nothing,
	[SVM_EXIT_VINTR] = exit_interrupt_window,
	[SVM_EXIT_RDPMC] = emulate,
	[SVM_EXIT_CPUID] = exit_cpuid,
	[SVM_EXIT_IRET] = on_iret,
	[SVM_EXIT_INVD] = exit_skip,
	[SVM_EXIT_HLT] = exit_hlt,
	[SVM_EXIT_INVLPG] = emulate,
	[SVM_EXIT_INVLPGA] = exit_undefined,
	[SVM_EXIT_IOIO] = on_port,
	[SVM_EXIT_MSR] = on_msr,
	[SVM_EXIT_TASK_SWITCH] = emulate,
	[SVM_EXIT_SHUTDOWN] = exit_shutdown,
	[SVM_EXIT_RSM] = exit_undefined,
	[SVM_EXIT_VMRUN] = exit_undefined,
	[SVM_EXIT_VMMCALL] = exit_hypercall,
	[SVM_EXIT_VMLOAD] = exit_undefined,
	[SVM_EXIT_VMSAVE] = exit_undefined,
	[SVM_EXIT_STGI] = exit_undefined,
	[SVM_EXIT_CLGI] = exit_undefined,
	[SVM_EXIT_SKINIT] = exit_undefined,
	[SVM_EXIT_WBINVD] = exit_skip,
	[SVM_EXIT_MONITOR] = exit_skip,
	[SVM_EXIT_MWAIT] = exit_skip,
	[SVM_EXIT_XSETBV] = emulate,
	[SVM_EXIT_RDPRU] = exit_undefined,
	[SVM_EXIT_NPF] = on_nested_fault,
};

int svm_handle_exit(struct vcpu *vcpu)
{
	const struct vmcb_control_area *c = control_of(vcpu);
	u32 code = c->exit_code;

	if (code == (u32)SVM_EXIT_ERR) {
		svm_masks_interrupts(vcpu);
		return exit_refused(vcpu, (u64)-1);
	}
	event_take_back(vcpu, c->exit_int_info, c->exit_int_info_err); /* 15.7.2 */
	if (code < ARRAY_SIZE(exits) && exits[code])
		return exits[code](vcpu);
	return exit_failure(vcpu);
}

void svm_exit_info(struct vcpu *vcpu, struct exit_info *ret)
{
	const struct vmcb_control_area *c = control_of(vcpu);

	*ret = (struct exit_info){ .reason = c->exit_code, .event = c->exit_int_info, .error = c->exit_int_info_err,
				   .info1 = c->exit_info_1, .info2 = c->exit_info_2 };
}
