// SPDX-License-Identifier: GPL-2.0-only
/* host.c - what of the host's CPU a guest borrows, and gives back, whichever the vendor. */
#include <linux/smp.h>
#include <linux/topology.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/ptrace.h>

/* Its struct x86_cpu is another than the x86 core's. */
#define x86_cpu host_x86_cpu
#include <asm/cpu.h>
#undef x86_cpu

#include "vm.h"

/* Neither vendor's entry loads IA32_TSC_AUX, and the kernel does not use it. */
static bool has_tsc_aux(void)
{
	return boot_cpu_has(X86_FEATURE_RDTSCP) || boot_cpu_has(X86_FEATURE_RDPID);
}

void host_load(struct vcpu *vcpu)
{
	vcpu->tsc_aux = vcpu->cpu.s.tsc_aux;
	if (has_tsc_aux())
		wrmsrl(MSR_TSC_AUX, vcpu->tsc_aux);
}

void host_push(struct vcpu *vcpu)
{
	if (vcpu->tsc_aux != (u32)vcpu->cpu.s.tsc_aux)
		host_load(vcpu);
}

void host_put(void)
{
	u64 node_and_cpu = (u64)cpu_to_node(smp_processor_id()) << 12 | smp_processor_id();

	/* What user space finds in it: arch/x86/include/asm/segment.h, vdso_encode_cpunode(). */
	if (has_tsc_aux())
		wrmsrl(MSR_TSC_AUX, node_and_cpu);
}

bool host_has_ldt(void)
{
#ifdef CONFIG_MODIFY_LDT_SYSCALL
	return READ_ONCE(current->mm->context.ldt);
#else
	return false;
#endif
}

/* ---- what of one guest's speculation must not reach another, or the host: as the stock driver has it ---- */

/* By number: a vCPU that comes later may be at the same place in memory. */
static DEFINE_PER_CPU(u64, last_guest);
static atomic64_t guests;

void host_name_guest(struct vcpu *vcpu)
{
	vcpu->serial = atomic64_inc_return(&guests);
}

void host_part_guests(struct vcpu *vcpu)
{
	if (this_cpu_read(last_guest) == vcpu->serial)
		return;
	this_cpu_write(last_guest, vcpu->serial);
	indirect_branch_prediction_barrier();
}

void host_leave_guest(void)
{
	/* What restricts indirect branches holds back what was learned before only when it is written. */
	if (cpu_feature_enabled(X86_FEATURE_KERNEL_IBRS)) {
		native_wrmsrl(MSR_IA32_SPEC_CTRL, spec_ctrl_current());
		barrier_nospec();
	}
#ifdef X86_FEATURE_IBPB_EXIT_TO_USER
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
#endif
}

bool host_split_lock(u64 rip)
{
	return handle_guest_split_lock(rip);
}

/* The host's handler is called as if it had come here. */
void host_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = { .cs = __KERNEL_CS, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}
