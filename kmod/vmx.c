// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx.c - Intel's virtualization: what the processor has of it, on and off on every CPU, and the table of
 * what the driver asks of it. Sections are of the SDM, volume 3: see vmcs.h.
 */
#define pr_fmt(fmt) "sika-kvm: " fmt

#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <asm/debugreg.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/tlbflush.h>
#include <asm/vmx.h>

#include "vmx.h"
#include "x86_int.h"

/* Stock's names. Unrestricted guests need EPT: 26.2.1.1. */
static bool use_ept = true, use_unrestricted = true;
module_param_named(ept, use_ept, bool, 0444);
module_param_named(unrestricted_guest, use_unrestricted, bool, 0444);

struct vmx_features vmx_features;
DEFINE_PER_CPU(struct vmx_cpu, vmx_cpu);
/* Of all machines: MSR bits, 24.6.9; those of machines whose filter asks for all. */
static void *msr_map, *msr_map_closed;

/* ---- what the processor has ---- */

/*
 * The controls of a vCPU: what each must have, what it has where the processor can, and what is switched later; and
 * what else it must have with either kind of paging. The low half of an MSR says what must be 1, the high half what may
 * be: A.2 to A.5.
 */
struct control {
	u32 msr;
	u32 must, may, later;
	u32 nested, shadow;
	u32 *ret;
	const char *name;
};

static const struct control control[] = {
	{ MSR_IA32_VMX_TRUE_PINBASED_CTLS, PIN_INTERRUPTS | PIN_NMI | PIN_VIRTUAL_NMIS, 0, 0, 0, 0,
	  &vmx_features.pin, "exits by interrupts and virtual NMIs" },
	{ MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
	  PROC_TSC_OFFSET | PROC_HLT | PROC_MWAIT | PROC_RDPMC | PROC_CR8_LOAD | PROC_CR8_STORE |
		  PROC_MOV_DR | PROC_ALL_PORTS | PROC_MSR_MAP | PROC_MONITOR | PROC_SECONDARY,
	  0, PROC_INTERRUPT_WINDOW | PROC_NMI_WINDOW | PROC_CR3_LOAD | PROC_CR3_STORE, 0, PROC_INVLPG,
	  &vmx_features.proc, "processor-based controls" },
	{ MSR_IA32_VMX_PROCBASED_CTLS2, 0,
	  PROC2_VPID | PROC2_RDTSCP | PROC2_INVPCID | PROC2_PAUSE_LOOP | PROC2_WBINVD | PROC2_ENCLS, 0,
	  PROC2_EPT, 0,
	  &vmx_features.proc2, "secondary controls" },
	{ MSR_IA32_VMX_TRUE_EXIT_CTLS, EXIT_SAVE_DEBUG | EXIT_HOST_64 | EXIT_LOAD_EFER, 0, 0, 0, 0,
	  &vmx_features.exit, "exit controls" },
	{ MSR_IA32_VMX_TRUE_ENTRY_CTLS, ENTRY_LOAD_DEBUG | ENTRY_LOAD_EFER, 0, ENTRY_LONG_MODE, 0, 0,
	  &vmx_features.entry, "entry controls" },
};

static bool choose(const struct control *c)
{
	u32 must = c->must | (nested_paging ? c->nested : c->shadow);
	u64 allowed;

	rdmsrl(c->msr, allowed);
	*c->ret = (u32)allowed | must | (c->may & allowed >> 32);
	return !((must | c->later) & ~(allowed >> 32)) && !((u32)allowed & c->later);
}

/* One line says why not. */
static int refuse(const char *why)
{
	pr_err("%s\n", why);
	return -EOPNOTSUPP;
}

/* 28.2.2. What not all processors have is added by choose_paging(). */
static struct page_format ept_format __ro_after_init = {
	.table = EPT_READ | EPT_WRITE | EPT_EXECUTE,
	.page = EPT_READ | EPT_EXECUTE | EPT_WB | EPT_IPAT,
	.write = EPT_WRITE,
	.accessed = EPT_ACCESSED,
	.dirty = EPT_DIRTY,
	.large = EPT_LARGE,
};

/* With all of it that nested tables are made of. */
static bool has_ept(u32 proc2)
{
	const u64 needed = CAP_EPT_LEVELS | CAP_EPT_WB | CAP_EPT_LARGE | CAP_INVEPT;

	return proc2 & PROC2_EPT && (vmx_features.ept & needed) == needed &&
	       vmx_features.ept & (CAP_INVEPT_ONE | CAP_INVEPT_ALL);
}

static void choose_paging(void)
{
	u64 proc2;

	rdmsrl(MSR_IA32_VMX_PROCBASED_CTLS2, proc2);
	if (rdmsrl_safe(MSR_IA32_VMX_EPT_VPID_CAP, &vmx_features.ept))
		vmx_features.ept = 0;
	use_ept &= has_ept(proc2 >> 32);
	ept_format.marks = vmx_features.ept & CAP_EPT_MARKS; /* else they are ignored */
	ept_format.levels = vmx_features.ept & CAP_EPT_1G ? 3 : 2;
	use_unrestricted &= use_ept && proc2 >> 32 & PROC2_UNRESTRICTED;
	nested_paging = use_ept;
	vmx_features.unrestricted = use_unrestricted;
	identity_paging = use_ept && !use_unrestricted;
}

static int vmx_probe(void)
{
	u64 basic, control_msr;

	/* The kernel takes the flag away where the firmware has locked it off: 23.7. */
	if (!boot_cpu_has(X86_FEATURE_VMX) || rdmsrl_safe(MSR_IA32_FEAT_CTL, &control_msr) ||
	    !(control_msr & FEAT_CTL_LOCKED) || !(control_msr & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX))
		return refuse("VT-x is off in the firmware");
	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	vmx_features.revision = basic & BASIC_REVISION;
	if (!(basic & BASIC_TRUE))
		return refuse("VT-x of this processor is of the first generation");
	choose_paging();
	for (unsigned int i = 0; i < ARRAY_SIZE(control); i++) {
		if (choose(&control[i]))
			continue;
		pr_err("VT-x of this processor lacks some of what is needed: %s\n", control[i].name);
		return -EOPNOTSUPP;
	}
	if (vmx_features.unrestricted)
		vmx_features.proc2 |= PROC2_UNRESTRICTED;
	/* Where VPIDs cannot be forgotten, do without. */
	if (!(vmx_features.ept & CAP_INVVPID) || !(vmx_features.ept & CAP_INVVPID_ALL))
		vmx_features.proc2 &= ~PROC2_VPID;
	rdmsrl(MSR_IA32_VMX_CR0_FIXED0, vmx_features.cr0_set);
	rdmsrl(MSR_IA32_VMX_CR4_FIXED0, vmx_features.cr4_set);
	if (vmx_features.unrestricted) /* A.7 */
		vmx_features.cr0_set &= ~(u64)(X86_CR0_PE | X86_CR0_PG);
	return 0;
}

/* ---- every CPU ---- */

static void invalidate(bool ept, unsigned long type, u64 what)
{
	const struct { u64 what, address; } descriptor = { what, 0 };

	if (ept)
		asm volatile("1: invept %0, %1\n2:" _ASM_EXTABLE(1b, 2b)
			     : : "m"(descriptor), "r"(type) : "cc", "memory");
	else
		asm volatile("1: invvpid %0, %1\n2:" _ASM_EXTABLE(1b, 2b)
			     : : "m"(descriptor), "r"(type) : "cc", "memory");
}

void vmx_forget_ept(u64 eptp)
{
	if (vmx_features.ept & CAP_INVEPT_ONE)
		invalidate(true, INVALIDATE_ONE, eptp);
	else
		invalidate(true, INVALIDATE_ALL, 0);
}

void vmx_forget_vpids(void)
{
	invalidate(false, INVALIDATE_ALL, 0);
}

/* 23.7, 24.11.5. */
static int vmx_enable(void)
{
	struct vmx_cpu *cpu = this_cpu_ptr(&vmx_cpu);

	if (__read_cr4() & X86_CR4_VMXE)
		return -EBUSY; /* another driver */
	rdmsrl(MSR_STAR, cpu->syscall[SYSCALL_STAR]);
	rdmsrl(MSR_LSTAR, cpu->syscall[SYSCALL_LSTAR]);
	rdmsrl(MSR_SYSCALL_MASK, cpu->syscall[SYSCALL_SFMASK]);
	intel_pt_handle_vmx(1);
	cr4_set_bits(X86_CR4_VMXE);
	if (!vmxon(__pa(cpu->region))) {
		cr4_clear_bits(X86_CR4_VMXE);
		intel_pt_handle_vmx(0);
		return -EIO;
	}
	if (nested_paging && vmx_features.ept & CAP_INVEPT_ALL)
		invalidate(true, INVALIDATE_ALL, 0);
	tag_pool_start(&cpu->vpids, 0xffff);
	return 0;
}

static void vmx_disable(void)
{
	if (!(__read_cr4() & X86_CR4_VMXE))
		return;
	asm volatile("1: vmxoff\n2:" _ASM_EXTABLE(1b, 2b) : : : "cc", "memory");
	cr4_clear_bits(X86_CR4_VMXE);
	intel_pt_handle_vmx(0);
}

static void vmx_teardown(void)
{
	int cpu;

	l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_AUTO;
	for_each_possible_cpu(cpu) {
		struct vmx_cpu *c = per_cpu_ptr(&vmx_cpu, cpu);

		free_page((unsigned long)c->region);
		c->region = NULL;
	}
	free_page((unsigned long)msr_map);
	free_page((unsigned long)msr_map_closed);
	msr_map = msr_map_closed = NULL;
}

/* ---- the map of MSRs ---- */

/* MSRs of which the VMCS, or the switch of threads, keeps the guest's value apart from the host's. */
static const u32 own_msrs[] = { MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE };

/* A bit for each of two ranges of 8192 MSRs, to be read; and again, to be written: 24.6.9. */
static void open_msr(u32 msr)
{
	static const u32 base[] = { 0, 0xc0000000 };

	for (unsigned int i = 0; i < ARRAY_SIZE(base); i++) {
		if (msr - base[i] >= 8192)
			continue;
		__clear_bit(i * 8192 + msr - base[i], msr_map);
		__clear_bit((i + 2) * 8192 + msr - base[i], msr_map);
	}
}

u64 vmx_msr_map(bool closed)
{
	return __pa(closed ? msr_map_closed : msr_map);
}

static void vmx_filter_changed(struct vm *vm)
{
	/* From each vCPU's next entry on. */
	WRITE_ONCE(vm->msrs_closed, !msr_all_allowed(vm, own_msrs, ARRAY_SIZE(own_msrs)));
}

/* By the administrator (l1tf=off). Kernels without a driver of their own for VT-x do not tell modules. */
static bool l1tf_is_accepted(void)
{
#if IS_ENABLED(CONFIG_KVM_INTEL)
	return l1tf_mitigation == L1TF_MITIGATION_OFF;
#else
	return false;
#endif
}

/* A guest may see what its own tables point to in the first cache, present or not: L1TF. With each entry the host is shown
 * what it asks for; only what it has given up by its own parameter is left out. */
static void setup_l1(void)
{
	u64 capabilities = 0;

	if (!boot_cpu_has_bug(X86_BUG_L1TF)) {
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NOT_REQUIRED;
		return;
	}
	if (boot_cpu_has(X86_FEATURE_ARCH_CAPABILITIES))
		rdmsrl(MSR_IA32_ARCH_CAPABILITIES, capabilities);
	vmx_features.flush_l1 = !l1tf_is_accepted() &&
				!(capabilities & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH) &&
				boot_cpu_has(X86_FEATURE_FLUSH_L1D);
	if (capabilities & ARCH_CAP_SKIP_VMENTRY_L1DFLUSH)
		l1tf_vmx_mitigation = VMENTER_L1D_FLUSH_NOT_REQUIRED;
	else
		l1tf_vmx_mitigation = vmx_features.flush_l1 ? VMENTER_L1D_FLUSH_ALWAYS : VMENTER_L1D_FLUSH_NEVER;
	if (l1tf_vmx_mitigation == VMENTER_L1D_FLUSH_NEVER)
		pr_warn("guests may read what the host has in its first cache (L1TF)\n");
}

static int vmx_setup(void)
{
	int cpu;

	msr_map = (void *)__get_free_page(GFP_KERNEL);
	msr_map_closed = (void *)__get_free_page(GFP_KERNEL);
	if (!msr_map || !msr_map_closed)
		goto fail;
	memset(msr_map, 0xff, PAGE_SIZE);
	memset(msr_map_closed, 0xff, PAGE_SIZE);
	for (unsigned int i = 0; i < ARRAY_SIZE(own_msrs); i++)
		open_msr(own_msrs[i]);
	for_each_possible_cpu(cpu) {
		struct vmx_cpu *c = per_cpu_ptr(&vmx_cpu, cpu);

		c->region = (void *)get_zeroed_page(GFP_KERNEL);
		if (!c->region)
			goto fail;
		*(u32 *)c->region = vmx_features.revision;
	}
	setup_l1();
	return 0;
fail:
	vmx_teardown();
	return -ENOMEM;
}

/* ---- nested tables: 28.2.2 ---- */

static const struct page_format *vmx_page_format(void)
{
	return &ept_format;
}

u64 vmx_eptp(const struct vm *vm)
{
	return __pa(vm->table.root) | EPTP_WB | EPTP_LEVELS |
	       (vmx_features.ept & CAP_EPT_MARKS ? EPTP_MARKS : 0);
}

/* ---- events ---- */

/* Vectors with an error code; an entry refuses any other mixture: 26.2.1.3. */
#define HAS_ERROR (BIT(X86_DF) | BIT(X86_TS) | BIT(X86_NP) | BIT(X86_SS_FAULT) | BIT(X86_GP) | \
		   BIT(X86_PF) | BIT(X86_AC))

static void vmx_inject(struct vcpu *vcpu, const struct event *event)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	struct event own;

	if (!event) {
		vmx_set(vmx, VMX_ENTRY_EVENT, 0);
		return;
	}
	own = *event;
	own.has_error = own.kind == EVENT_EXCEPTION && vcpu->cpu.s.cr0 & X86_CR0_PE &&
			own.vector < 32 && HAS_ERROR & BIT(own.vector);
	vmx_set(vmx, VMX_ENTRY_EVENT, event_info(&own));
	vmx_set(vmx, VMX_ENTRY_ERROR, own.has_error ? own.error & 0x7fff : 0);
}

/* An NMI that waits for the end of another, or of MOV SS's shadow, has a window of its own. In STI's shadow it
 * may open at once (25.2), though an NMI may be refused there: then the interrupts' will do. */
static void vmx_interrupt_window(struct vcpu *vcpu, bool on)
{
	const struct x86_state *s = &vcpu->cpu.s;
	bool nmi = s->nmi_pending && !(vcpu->debug.control & KVM_GUESTDBG_BLOCKIRQ) &&
		   (s->nmi_masked || !(s->interrupt_shadow & 1));

	vmx_set_bits(vmx_of(vcpu), VMX_CONTROLS, PROC_INTERRUPT_WINDOW, on);
	vmx_set_bits(vmx_of(vcpu), VMX_CONTROLS, PROC_NMI_WINDOW, nmi);
}

/* The processor itself knows when an IRET ends an NMI. */
static void vmx_nmi_window(struct vcpu *vcpu, bool on)
{
}

static void vmx_debug_window(struct vcpu *vcpu, bool on)
{
	vmx_set_bits(vmx_of(vcpu), VMX_CONTROLS, PROC_MOV_DR, !on);
}

static void vmx_debug_changed(struct vcpu *vcpu)
{
	vmx_choose_exceptions(vcpu);
}

/* ---- the little that is asked for without the rest ---- */

static u64 vmx_rip(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? vmx_get(vcpu, VMX_RIP) : vcpu->cpu.s.rip;
}

/* Of the exits that are instructions: 27.2.5. */
static u64 vmx_next_rip(struct vcpu *vcpu)
{
	u64 next = vmx_rip(vcpu) + vmread(VMCS_EXIT_LENGTH);
	bool is_64 = vcpu->cpu.code_bytes == 8;

	if (vcpu->in_hardware)
		is_64 = vcpu->cpu.s.efer & X86_EFER_LMA &&
			vmx_get(vcpu, VMX_CS_ACCESS) & X86_SEG_L << 4;
	return is_64 ? next : (u32)next;
}

/* Both forms are kept alike, whichever is newest. */
static void vmx_set_rip(struct vcpu *vcpu, u64 rip)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	u64 blocked = vmx_get(vcpu, VMX_INTERRUPTIBILITY);

	(void)vmx_get(vcpu, VMX_RIP);
	vmx_set(vmx, VMX_RIP, rip);
	vmx_set(vmx, VMX_INTERRUPTIBILITY, blocked & ~(u64)(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS));
	(void)vmx_get(vcpu, VMX_PENDING_DEBUG);
	vmx_set(vmx, VMX_PENDING_DEBUG, 0);
	vcpu->cpu.s.rip = rip;
	vcpu->cpu.s.interrupt_shadow = 0;
}

static u64 vmx_rflags(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? vmx_get(vcpu, VMX_RFLAGS) : vcpu->cpu.s.rflags;
}

static bool vmx_interrupt_shadow(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? vmx_get(vcpu, VMX_INTERRUPTIBILITY) & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) :
				   vcpu->cpu.s.interrupt_shadow;
}

static void vmx_set_tsc_offset(struct vcpu *vcpu)
{
	vmx_set(vmx_of(vcpu), VMX_TSC_OFFSET, vcpu->tsc_offset);
}

const struct hw hw_vmx = {
	.name = "VT-x",
	.form_is_cpus = true,
	.probe = vmx_probe,
	.setup = vmx_setup,
	.teardown = vmx_teardown,
	.enable = vmx_enable,
	.disable = vmx_disable,
	.page_format = vmx_page_format,
	.vcpu_create = vmx_vcpu_create,
	.vcpu_free = vmx_vcpu_free,
	.load = vmx_load,
	.put = vmx_put,
	.pull = vmx_pull,
	.prepare = vmx_prepare,
	.push = vmx_push,
	.needs_core = vmx_needs_core,
	.set_tsc_offset = vmx_set_tsc_offset,
	.filter_changed = vmx_filter_changed,
	.inject = vmx_inject,
	.interrupt_window = vmx_interrupt_window,
	.nmi_window = vmx_nmi_window,
	.debug_window = vmx_debug_window,
	.debug_changed = vmx_debug_changed,
	.next_rip = vmx_next_rip,
	.rip = vmx_rip,
	.set_rip = vmx_set_rip,
	.rflags = vmx_rflags,
	.interrupt_shadow = vmx_interrupt_shadow,
	.code_place = vmx_code_place,
	.enter = vmx_enter,
	.handle_exit = vmx_handle_exit,
	.exit_info = vmx_exit_info,
};
