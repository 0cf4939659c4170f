// SPDX-License-Identifier: GPL-2.0-only
/* svm_exit.c - why the guest was left, and who sees to it: APM vol. 2, 15.9 to 15.14 and appendix C. */
#include "svm.h"
#include "x86_int.h"

/* 1: go on, 0: to user space, or -errno. */
typedef int (*exit_fn)(struct vcpu *vcpu);

static struct vmcb_control_area *control_of(struct vcpu *vcpu)
{
	return &svm_of(vcpu)->vmcb->control;
}

static int on_nothing(struct vcpu *vcpu)
{
	return 1;
}

/* 15.10.2: the port, and what kind of access. */
static int on_port(struct vcpu *vcpu)
{
	u32 info = control_of(vcpu)->exit_info_1;

	if (info & SVM_IOIO_STR_MASK)
		return emulate(vcpu);
	return exit_port(vcpu, info >> 16, (info & SVM_IOIO_SIZE_MASK) >> SVM_IOIO_SIZE_SHIFT,
			 info & SVM_IOIO_TYPE_MASK);
}

static int on_msr(struct vcpu *vcpu)
{
	return msr_exit(vcpu, control_of(vcpu)->exit_info_1 & 1);
}

/* 15.25.6: info 1 is the error code of a page fault, info 2 the guest-physical address. */
static int on_nested_fault(struct vcpu *vcpu)
{
	u64 error = control_of(vcpu)->exit_info_1, gpa = control_of(vcpu)->exit_info_2;
	int r = page_fault(vcpu, gpa, error & X86_PF_W, error & X86_PF_FETCH);

	return r ? r : emulate(vcpu);
}

static int on_interrupt_window(struct vcpu *vcpu)
{
	hw->interrupt_window(vcpu, false);
	return 1;
}

/* The end of an NMI. It is not executed yet; the x86 core does, and NMIs are open behind it. */
static int on_iret(struct vcpu *vcpu)
{
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

static int on_undefined(struct vcpu *vcpu)
{
	event_raise(vcpu, X86_UD, false, 0);
	return 1;
}

/* Whoever touches one touches several: all are the guest's until the next exit. */
static int on_debug_register(struct vcpu *vcpu)
{
	if (debug_has_db(vcpu))
		return emulate(vcpu);
	vcpu->debug_open = true;
	hw->debug_window(vcpu, true);
	return 1;
}

/* Instructions that only tell the caches something. */
static int on_skip(struct vcpu *vcpu)
{
	return vcpu_skip(vcpu);
}

static const exit_fn exits[] = {
	[SVM_EXIT_READ_CR8] = emulate,
	[SVM_EXIT_WRITE_CR0] = emulate,
	[SVM_EXIT_WRITE_CR4] = emulate,
	[SVM_EXIT_WRITE_CR8] = emulate,
	[SVM_EXIT_READ_DR0... SVM_EXIT_READ_DR7] = on_debug_register,
	[SVM_EXIT_WRITE_DR0... SVM_EXIT_WRITE_DR7] = on_debug_register,
	[SVM_EXIT_EXCP_BASE + X86_DB] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_BP] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_AC] = on_exception,
	[SVM_EXIT_EXCP_BASE + X86_MC] = on_exception,
	[SVM_EXIT_INTR] = on_nothing,
	[SVM_EXIT_NMI] = on_nothing,
	[SVM_EXIT_SMI] = on_nothing,
	[SVM_EXIT_INIT] = on_nothing,
	[SVM_EXIT_VINTR] = on_interrupt_window,
	[SVM_EXIT_RDPMC] = emulate,
	[SVM_EXIT_CPUID] = exit_cpuid,
	[SVM_EXIT_IRET] = on_iret,
	[SVM_EXIT_INVD] = on_skip,
	[SVM_EXIT_HLT] = exit_hlt,
	[SVM_EXIT_INVLPGA] = on_undefined,
	[SVM_EXIT_IOIO] = on_port,
	[SVM_EXIT_MSR] = on_msr,
	[SVM_EXIT_TASK_SWITCH] = emulate,
	[SVM_EXIT_SHUTDOWN] = exit_shutdown,
	[SVM_EXIT_RSM] = on_undefined,
	[SVM_EXIT_VMRUN] = on_undefined,
	[SVM_EXIT_VMMCALL] = on_undefined,
	[SVM_EXIT_VMLOAD] = on_undefined,
	[SVM_EXIT_VMSAVE] = on_undefined,
	[SVM_EXIT_STGI] = on_undefined,
	[SVM_EXIT_CLGI] = on_undefined,
	[SVM_EXIT_SKINIT] = on_undefined,
	[SVM_EXIT_WBINVD] = on_skip,
	[SVM_EXIT_MONITOR] = on_skip,
	[SVM_EXIT_MWAIT] = on_skip,
	[SVM_EXIT_XSETBV] = emulate,
	[SVM_EXIT_RDPRU] = on_undefined,
	[SVM_EXIT_NPF] = on_nested_fault,
};

/* 15.7.2: the exit came while an event was being delivered. INT n and its like begin anew. */
static void take_back(struct vcpu *vcpu)
{
	const struct vmcb_control_area *c = control_of(vcpu);
	struct event event = { .vector = c->exit_int_info & SVM_EVTINJ_VEC_MASK };

	if (!(c->exit_int_info & SVM_EXITINTINFO_VALID))
		return;
	switch (c->exit_int_info & SVM_EXITINTINFO_TYPE_MASK) {
	case SVM_EXITINTINFO_TYPE_INTR:
		event.kind = EVENT_INTERRUPT;
		break;
	case SVM_EXITINTINFO_TYPE_NMI:
		event.kind = EVENT_NMI;
		break;
	case SVM_EXITINTINFO_TYPE_EXEPT:
		if (event.vector == X86_BP || event.vector == X86_OF)
			return;
		event.kind = EVENT_EXCEPTION;
		event.has_error = c->exit_int_info & SVM_EXITINTINFO_VALID_ERR;
		event.error = c->exit_int_info_err;
		break;
	default:
		return;
	}
	vcpu->taken_back = true;
	event_again(vcpu, &event);
}

static int refused(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	run->fail_entry.hardware_entry_failure_reason = (u64)-1;
	run->fail_entry.cpu = vcpu->last_cpu;
	return 0;
}

int svm_handle_exit(struct vcpu *vcpu)
{
	u32 code = control_of(vcpu)->exit_code;

	if (code == (u32)SVM_EXIT_ERR)
		return refused(vcpu);
	vcpu->taken_back = false;
	take_back(vcpu);
	if (code < ARRAY_SIZE(exits) && exits[code])
		return exits[code](vcpu);
	return exit_failure(vcpu);
}
