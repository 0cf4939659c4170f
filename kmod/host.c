// SPDX-License-Identifier: GPL-2.0-only
/* host.c - what of the host's CPU a guest borrows, and gives back, whichever the vendor. */
#include <linux/smp.h>
#include <linux/topology.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/ptrace.h>

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

/* The host's handler is called as if it had come here. */
void host_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	struct pt_regs regs = { .cs = __KERNEL_CS, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}
