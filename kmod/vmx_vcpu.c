// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx_vcpu.c - a vCPU's VMCS: made, loaded, entered. Sections are of the SDM, volume 3: see vmcs.h.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <asm/debugreg.h>
#include <asm/msr.h>

#include "vmx.h"
#include "x86_int.h"

/* ---- life ---- */

/* A guest whose handler of #DB or #AC raises the same again would never let an interrupt in. Of #PF all exit where it is
 * for shadow paging (25.2: mask and match are 0); in virtual-8086 mode all that is there, since none is to go by the
 * IDT. */
void vmx_choose_exceptions(struct vcpu *vcpu)
{
	u32 some = BIT(X86_DB) | BIT(X86_UD) | BIT(X86_AC) | BIT(X86_MC);

	if (vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP)
		some |= BIT(X86_BP);
	if (vcpu->shadow)
		some |= BIT(X86_PF);
	vmx_set(vmx_of(vcpu), VMX_EXCEPTIONS, vmx_of(vcpu)->shape == SHAPE_V86 ? ~0u : some);
}

/* What is the same for all, and for always: 24.4 to 24.8. Fields that are not named are 0. */
static void set_fields(struct vcpu *vcpu)
{
	const struct vmx_features *has = &vmx_features;
	const struct {
		u8 field;
		u64 value;
	} values[] = {
		{ VMX_LINK_POINTER, ~0ull },
		{ VMX_PIN_CONTROLS, has->pin },
		{ VMX_CONTROLS, has->proc },
		{ VMX_CONTROLS2, has->proc2 },
		{ VMX_EXIT_CONTROLS, has->exit },
		{ VMX_ENTRY_CONTROLS, has->entry },
		{ VMX_TSC_OFFSET, vcpu->tsc_offset },
		{ VMX_CR0_MASK, ~(u64)X86_CR0_TS }, /* as vmx_state.c has it */
		{ VMX_CR4_MASK, vcpu->shadow ? ~0ull : ~(u64)X86_CR4_PGE },
		{ VMX_EPTP, vcpu->shadow ? 0 : vmx_eptp(vcpu->vm) },
		/* A loop of PAUSEs: no further apart than this, and as long as this in all, in cycles (25.1.3). */
		{ VMX_PLE_GAP, 128 },
		{ VMX_PLE_WINDOW, 4096 },
		{ VMX_ENCLS_EXITS, ~0ull }, /* enclaves are not the guest's: 25.1.3 */
		{ VMX_HOST_CS, __KERNEL_CS },
		{ VMX_HOST_SS, __KERNEL_DS },
		{ VMX_HOST_TR, GDT_ENTRY_TSS * 8 },
		{ VMX_HOST_RIP, (u64)vmx_exited },
	};
	struct vmx_vcpu *vmx = vcpu->hw;

	for (unsigned int i = 0; i < ARRAY_SIZE(values); i++)
		vmx->field[values[i].field] = values[i].value;
	/* A field that the processor lacks is not written. */
	bitmap_fill(vmx->unwritten, VMX_FIELDS);
	if (!(has->proc2 & PROC2_ENCLS))
		__clear_bit(VMX_ENCLS_EXITS, vmx->unwritten);
	if (!(has->proc2 & PROC2_VPID))
		__clear_bit(VMX_VPID, vmx->unwritten);
	if (!(has->proc2 & PROC2_EPT))
		__clear_bit(VMX_EPTP, vmx->unwritten);
	if (!(has->proc2 & PROC2_PAUSE_LOOP)) {
		__clear_bit(VMX_PLE_GAP, vmx->unwritten);
		__clear_bit(VMX_PLE_WINDOW, vmx->unwritten);
	}
}

int vmx_vcpu_create(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = kzalloc(sizeof(*vmx), GFP_KERNEL_ACCOUNT);

	if (!vmx)
		return -ENOMEM;
	vmx->vmcs = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!vmx->vmcs) {
		kfree(vmx);
		return -ENOMEM;
	}
	*(u32 *)vmx->vmcs = vmx_features.revision; /* 24.2 */
	vmx->vmcs_pa = __pa(vmx->vmcs);
	vcpu->hw = vmx;
	set_fields(vcpu);
	return 0;
}

void vmx_vcpu_free(struct vcpu *vcpu)
{
	free_page((unsigned long)vmx_of(vcpu)->vmcs);
	kfree(vcpu->hw);
}

/* ---- the host's state ---- */

/* Base of the task state segment, by the descriptor itself: figure 7-4. */
static u64 tss_base(const struct desc_ptr *gdt, u16 selector)
{
	const struct ldttss_desc *d = (const void *)(gdt->address + (selector & ~7));

	return d->base0 | d->base1 << 16 | (u32)d->base2 << 24 | (u64)d->base3 << 32;
}

/* What differs between CPUs. */
static void set_host_cpu(struct vmx_vcpu *vmx)
{
	static const struct {
		u8 field;
		u32 msr;
	} msrs[] = {
		{ VMX_HOST_EFER, MSR_EFER },
		{ VMX_HOST_GS_BASE, MSR_GS_BASE },
		{ VMX_HOST_SYSENTER_CS, MSR_IA32_SYSENTER_CS },
		{ VMX_HOST_SYSENTER_ESP, MSR_IA32_SYSENTER_ESP },
		{ VMX_HOST_SYSENTER_EIP, MSR_IA32_SYSENTER_EIP },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(msrs); i++) {
		u64 value;

		rdmsrl(msrs[i].msr, value);
		vmx_set(vmx, msrs[i].field, value);
	}
	vmx_set(vmx, VMX_HOST_CR0, read_cr0() & ~(u64)X86_CR0_TS);
	vmx_set(vmx, VMX_HOST_GDTR_BASE, vmx->host.gdt.address);
	vmx_set(vmx, VMX_HOST_IDTR_BASE, vmx->host.idt.address);
	vmx_set(vmx, VMX_HOST_TR_BASE, tss_base(&vmx->host.gdt, GDT_ENTRY_TSS * 8));
}

/* What the thread has. An exit loads only selectors of the kernel (26.2.3); programs of 64 bits have no others than 0
 * in these. */
static void keep_host(struct vmx_host *h)
{
	native_store_gdt(&h->gdt);
	store_idt(&h->idt);
	savesegment(ds, h->ds);
	savesegment(es, h->es);
	savesegment(fs, h->fs);
	savesegment(gs, h->gs);
	asm volatile("sldt %0" : "=m"(h->ldt));
	rdmsrl(MSR_FS_BASE, h->fs_base);
	rdmsrl(MSR_KERNEL_GS_BASE, h->kernel_gs_base);
	if (rdmsrl_safe(MSR_IA32_DEBUGCTLMSR, &h->debugctl))
		h->debugctl = 0;
}

static void restore_host(const struct vmx_host *h)
{
	native_load_gdt(&h->gdt);
	native_load_idt(&h->idt);
	if (h->ldt)
		asm volatile("lldt %0" : : "m"(h->ldt));
	if (h->ds | h->es) {
		loadsegment(ds, h->ds);
		loadsegment(es, h->es);
	}
	if (h->fs) {
		loadsegment(fs, h->fs);
		wrmsrl(MSR_FS_BASE, h->fs_base);
	}
	if (h->gs)
		load_gs_index(h->gs);
	wrmsrl(MSR_KERNEL_GS_BASE, h->kernel_gs_base);
	invalidate_tss_limit(); /* an exit has made it 67h: 27.5.2 */
}

/* ---- on its CPU, and off again ---- */

static const u32 syscall_msr[SYSCALL_MSRS] = {
	[SYSCALL_STAR] = MSR_STAR, [SYSCALL_LSTAR] = MSR_LSTAR, [SYSCALL_SFMASK] = MSR_SYSCALL_MASK,
};

static void set_syscall(struct vmx_vcpu *vmx, const u64 value[SYSCALL_MSRS])
{
	for (unsigned int i = 0; i < SYSCALL_MSRS; i++) {
		if (vmx->syscall[i] == value[i])
			continue;
		wrmsrl(syscall_msr[i], value[i]);
		vmx->syscall[i] = value[i];
	}
}

void vmx_load_syscall(struct vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;
	const u64 value[SYSCALL_MSRS] = {
		[SYSCALL_STAR] = s->star, [SYSCALL_LSTAR] = s->lstar, [SYSCALL_SFMASK] = s->sfmask,
	};

	if (s->efer & X86_EFER_SCE)
		set_syscall(vmx_of(vcpu), value);
}

void vmx_load_kernel_gs(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	if (vmx->kernel_gs_base == vcpu->cpu.s.kernel_gs_base)
		return;
	vmx->kernel_gs_base = vcpu->cpu.s.kernel_gs_base;
	wrmsrl(MSR_KERNEL_GS_BASE, vmx->kernel_gs_base);
}

void vmx_load(struct vcpu *vcpu, bool moved)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	keep_host(&vmx->host);
	memcpy(vmx->syscall, this_cpu_ptr(&vmx_cpu)->syscall, sizeof(vmx->syscall));
	vmx_load_syscall(vcpu);
	vmx->kernel_gs_base = vmx->host.kernel_gs_base;
	vmx_load_kernel_gs(vcpu);
	vmx_set(vmx, VMX_HOST_FS_BASE, vmx->host.fs_base);
	if (moved) {
		set_host_cpu(vmx);
		vmx->vpid.generation = 0;
		vmx->flush = true;
		(void)vmclear(vmx->vmcs_pa); /* before its first use; else it is clear since vmx_put() */
	}
	(void)vmptrld(vmx->vmcs_pa);
	vmx->launched = false;
	vmx->loaded = true;
}

/* Nothing of a vCPU stays on a CPU that it has left: no other has to be asked for it. */
void vmx_put(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	if (vcpu->in_hardware)
		rdmsrl(MSR_KERNEL_GS_BASE, vcpu->cpu.s.kernel_gs_base);
	set_syscall(vmx, this_cpu_ptr(&vmx_cpu)->syscall);
	restore_host(&vmx->host);
	(void)vmclear(vmx->vmcs_pa);
	vmx->loaded = false;
}

/* ---- into the guest ---- */

/* What is cached of the EPT alone goes by its pointer, what of linear addresses by the VPID: 28.3.1. */
static void choose_vpid(struct vmx_vcpu *vmx, bool flush)
{
	struct tag_pool *pool = &this_cpu_ptr(&vmx_cpu)->vpids;

	if (nested_paging && (flush || vmx->flush))
		vmx_forget_ept(vmx->field[VMX_EPTP]);
	vmx->flush = false;
	if (!(vmx_features.proc2 & PROC2_VPID))
		return;
	if (!flush && vmx->vpid.generation == pool->generation)
		return;
	if (tag_renew(pool, &vmx->vpid))
		vmx_forget_vpids();
	vmx_set(vmx, VMX_VPID, vmx->vpid.number);
}

/* What of the guest's is put aside while a debugger's is in the VMCS. */
struct put_aside {
	u64 dr7;
	bool trap_flag;
};

static void debugger_in(struct vcpu *vcpu, struct put_aside *ret)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	u64 rflags = vmx_get(vcpu, VMX_RFLAGS);

	*ret = (struct put_aside){ vmx_get(vcpu, VMX_DR7), rflags & X86_FL_TF };
	if (vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP)
		vmx_set(vmx, VMX_DR7, vcpu->debug.dr7);
	if (!debug_steps(vcpu))
		return;
	vmx_set(vmx, VMX_RFLAGS, rflags | X86_FL_TF);
	/* A step is pending where a shadow keeps it (26.3.1.5); Bochs leaves it behind other exits too. */
	(void)vmx_get(vcpu, VMX_PENDING_DEBUG);
	vmx_set_bits(vmx, VMX_PENDING_DEBUG, PENDING_STEP,
		     vmx_get(vcpu, VMX_INTERRUPTIBILITY) & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS));
}

/* The exit is behind us: the fields are to be read before they are changed. */
static void debugger_out(struct vcpu *vcpu, const struct put_aside *own)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	(void)vmx_get(vcpu, VMX_DR7);
	vmx_set(vmx, VMX_DR7, own->dr7);
	if (debug_steps(vcpu) && !own->trap_flag)
		vmx_set(vmx, VMX_RFLAGS, vmx_get(vcpu, VMX_RFLAGS) & ~(u64)X86_FL_TF);
}

/* 27.5.1: the host's CR3 is that of the thread, CR4 changes with it. */
static void set_host_registers(struct vmx_vcpu *vmx)
{
	vmx_set(vmx, VMX_HOST_CR3, __native_read_cr3());
	vmx_set(vmx, VMX_HOST_CR4, native_read_cr4());
}

/* The guest's CR2 is not in the VMCS; its DR6 is in the register while it has the others. */
static void load_unsaved(const struct vcpu *vcpu)
{
	native_write_cr2(vcpu->cpu.s.cr2);
	if (vcpu->debug_open)
		set_debugreg(vcpu->cpu.s.dr[6], 6);
}

static void save_unsaved(struct vcpu *vcpu)
{
	vcpu->cpu.s.cr2 = native_read_cr2();
	if (!vcpu->debug_open)
		return;
	get_debugreg(vcpu->cpu.s.dr[6], 6);
	set_debugreg(DR6_RESERVED, 6);
}

/* What the exit has swallowed of the host's, before anything else can come in. */
static void hand_to_host(struct vmx_vcpu *vmx)
{
	u32 event;

	if ((u16)vmx->reason == REASON_MACHINE_CHECK)
		host_machine_check();
	if ((u16)vmx->reason != REASON_EXCEPTION_OR_NMI || vmx->reason & EXIT_ENTRY_FAILED)
		return;
	event = vmread(VMCS_EXIT_EVENT);
	if ((event >> EVENT_TYPE_SHIFT & EVENT_TYPE_MASK) == EVENT_TYPE_NMI)
		asm volatile("int $2" : : : "memory"); /* its IRET ends the blocking of others: 27.5.5 */
	else if ((event & EVENT_INFO_VECTOR) == X86_MC)
		host_machine_check();
}

void vmx_enter(struct vcpu *vcpu, bool flush)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	struct put_aside own;

	choose_vpid(vmx, flush);
	set_host_registers(vmx);
	vmx_set(vmx, VMX_MSR_MAP, vmx_msr_map(READ_ONCE(vcpu->vm->msrs_closed)));
	if (debug_has_db(vcpu))
		debugger_in(vcpu, &own);
	vmx_write_fields(vmx);
	load_unsaved(vcpu);
	if (vmx_features.flush_l1)
		native_wrmsrl(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
	vmx->refused = vmx_run(vcpu->cpu.s.gpr, vmx->launched);
	host_leave_guest();
	save_unsaved(vcpu);
	vcpu->in_hardware = true;
	vcpu->has_injected = false;
	vmx->reason = vmx->refused ? 0 : vmread(VMCS_EXIT_REASON);
	vmx->launched |= !vmx->refused && !(vmx->reason & EXIT_ENTRY_FAILED);
	/* An exit clears its valid bit: 27.2.4. A refused entry does not. */
	vmx_set(vmx, VMX_ENTRY_EVENT, 0);
	if (debug_has_db(vcpu))
		debugger_out(vcpu, &own);
	if (vmx->host.debugctl)
		wrmsrl(MSR_IA32_DEBUGCTLMSR, vmx->host.debugctl);
	if (!vmx->refused)
		hand_to_host(vmx);
}
