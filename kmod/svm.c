// SPDX-License-Identifier: GPL-2.0-only
/*
 * svm.c - AMD's virtualization: on and off, the VMCB, into the guest and out. Sections are of the APM,
 * volume 2.
 */
#define pr_fmt(fmt) "sika-kvm: " fmt

#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <asm/debugreg.h>
#include <asm/io.h>
#include <asm/msr.h>

#include "shadow.h"
#include "svm.h"

#define VM_CR_SVMDIS BIT(4) /* 15.30.1 */

static bool npt = true;
module_param(npt, bool, 0444);

/* ---- every CPU ---- */

struct svm_cpu {
	struct page *save;   /* VMRUN keeps the host's state here: 15.30.4 */
	struct page *host;   /* and VMSAVE its other part, in the form of a VMCB */
	struct tag_pool asids;
	bool on; /* changed with interrupts off */
};

static DEFINE_PER_CPU(struct svm_cpu, svm_cpu);
/* Of all machines: port bits, and MSR bits, 15.10 and 15.11; those of machines whose filter asks for all. */
static struct page *port_map, *msr_map, *msr_map_closed;

/* What XSAVES saves beside XCR0. A guest can execute it, whatever it was shown: no intercept, and no state of the host's. */
static u64 xss_of_host;

#define PORT_MAP_ORDER 2 /* 12 KiB */
#define MSR_MAP_ORDER  1

/* Of the host's own tables. Nested ones are walked as user accesses: 15.25.5. */
static struct page_format npt_format __ro_after_init = {
	.table = _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY,
	.page = _PAGE_PRESENT | _PAGE_USER,
	.write = _PAGE_RW,
	.accessed = _PAGE_ACCESSED,
	.dirty = _PAGE_DIRTY,
	.large = _PAGE_PSE,
	.marks = true,
};

static int svm_probe(void)
{
	u64 control;

	if (!boot_cpu_has(X86_FEATURE_SVM)) {
		pr_err("this processor offers neither VT-x nor AMD-V\n");
		return -EOPNOTSUPP;
	}
	if (!rdmsrl_safe(MSR_VM_CR, &control) && control & (VM_CR_SVMDIS)) {
		pr_err("AMD-V is off in the firmware\n");
		return -EOPNOTSUPP;
	}
	npt &= boot_cpu_has(X86_FEATURE_NPT);
	nested_paging = npt;
	npt_format.levels = boot_cpu_has(X86_FEATURE_GBPAGES) ? 3 : 2;
	return 0;
}

static int svm_enable(void)
{
	struct svm_cpu *cpu = this_cpu_ptr(&svm_cpu);
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	if (efer & EFER_SVME)
		return -EBUSY; /* another driver */
	tag_pool_start(&cpu->asids, cpuid_ebx(0x8000000a) - 1);
	wrmsrl(MSR_EFER, efer | EFER_SVME);
	wrmsrl(MSR_VM_HSAVE_PA, page_to_phys(cpu->save));
	cpu->on = true;
	return 0;
}

static void svm_disable(void)
{
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	if (!(efer & EFER_SVME))
		return;
	this_cpu_ptr(&svm_cpu)->on = false;
	wrmsrl(MSR_VM_HSAVE_PA, 0);
	wrmsrl(MSR_EFER, efer & ~(u64)EFER_SVME);
}

/* ---- the maps ---- */

/* MSRs of which VMLOAD and VMSAVE, or the VMCB, keep the guest's value apart from the host's. */
static const u32 own_msrs[] = {
	MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SYSCALL_MASK, MSR_KERNEL_GS_BASE, MSR_FS_BASE,
	MSR_GS_BASE, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_EIP,
};

/* Two bits for each of three ranges of 8192 MSRs, read and write: 15.11. */
static void open_msr(void *map, u32 msr)
{
	static const u32 base[] = { 0, 0xc0000000, 0xc0010000 };

	for (unsigned int i = 0; i < ARRAY_SIZE(base); i++) {
		unsigned int bit = i * 0x4000 + (msr - base[i]) * 2;

		if (msr - base[i] >= 8192)
			continue;
		__clear_bit(bit, map);
		__clear_bit(bit + 1, map);
	}
}

static void svm_teardown(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = per_cpu_ptr(&svm_cpu, cpu);

		if (c->save)
			__free_page(c->save);
		if (c->host)
			__free_page(c->host);
		*c = (struct svm_cpu){ 0 };
	}
	if (port_map)
		__free_pages(port_map, PORT_MAP_ORDER);
	if (msr_map)
		__free_pages(msr_map, MSR_MAP_ORDER);
	if (msr_map_closed)
		__free_pages(msr_map_closed, MSR_MAP_ORDER);
	port_map = msr_map = msr_map_closed = NULL;
}

static int svm_setup(void)
{
	int cpu;

	port_map = alloc_pages(GFP_KERNEL, PORT_MAP_ORDER);
	msr_map = alloc_pages(GFP_KERNEL, MSR_MAP_ORDER);
	msr_map_closed = alloc_pages(GFP_KERNEL, MSR_MAP_ORDER);
	if (!port_map || !msr_map || !msr_map_closed)
		goto fail;
	memset(page_address(msr_map_closed), 0xff, PAGE_SIZE << MSR_MAP_ORDER);
	memset(page_address(port_map), 0xff, PAGE_SIZE << PORT_MAP_ORDER);
	memset(page_address(msr_map), 0xff, PAGE_SIZE << MSR_MAP_ORDER);
	for (unsigned int i = 0; i < ARRAY_SIZE(own_msrs); i++)
		open_msr(page_address(msr_map), own_msrs[i]);
	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = per_cpu_ptr(&svm_cpu, cpu);

		c->save = alloc_page(GFP_KERNEL | __GFP_ZERO);
		c->host = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!c->save || !c->host)
			goto fail;
	}
	if (boot_cpu_has(X86_FEATURE_XSAVES))
		rdmsrl(MSR_IA32_XSS, xss_of_host);
	return 0;
fail:
	svm_teardown();
	return -ENOMEM;
}

static void svm_filter_changed(struct vm *vm)
{
	/* From each vCPU's next entry on. */
	WRITE_ONCE(vm->msrs_closed, !msr_all_allowed(vm, own_msrs, ARRAY_SIZE(own_msrs)));
}

/* ---- a vCPU ---- */

static const u8 intercepts[] = {
	INTERCEPT_CR0_WRITE, INTERCEPT_CR4_WRITE, INTERCEPT_CR8_READ, INTERCEPT_CR8_WRITE,
	INTERCEPT_INTR, INTERCEPT_NMI, INTERCEPT_SMI, INTERCEPT_INIT, INTERCEPT_RDPMC,
	INTERCEPT_CPUID, INTERCEPT_RSM, INTERCEPT_INVD, INTERCEPT_HLT, INTERCEPT_INVLPGA,
	INTERCEPT_IOIO_PROT, INTERCEPT_MSR_PROT, INTERCEPT_TASK_SWITCH, INTERCEPT_SHUTDOWN,
	INTERCEPT_VMRUN, INTERCEPT_VMMCALL, INTERCEPT_VMLOAD, INTERCEPT_VMSAVE, INTERCEPT_STGI,
	INTERCEPT_CLGI, INTERCEPT_SKINIT, INTERCEPT_WBINVD, INTERCEPT_MONITOR, INTERCEPT_MWAIT,
	INTERCEPT_XSETBV, INTERCEPT_RDPRU,
	/* A guest whose handler of these raises the same again would never let an interrupt in. */
	INTERCEPT_EXCEPTION_OFFSET + X86_DB, INTERCEPT_EXCEPTION_OFFSET + X86_AC,
	INTERCEPT_EXCEPTION_OFFSET + X86_UD, INTERCEPT_EXCEPTION_OFFSET + X86_MC,
};

/* Of shadow paging: 15.25.1 names what nested paging saves. */
static const u8 intercepts_shadow[] = {
	INTERCEPT_CR3_READ, INTERCEPT_CR3_WRITE, INTERCEPT_INVLPG, INTERCEPT_EXCEPTION_OFFSET + X86_PF,
};

static void set_paging(struct vcpu *vcpu)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;

	if (vcpu->shadow) {
		for (unsigned int i = 0; i < ARRAY_SIZE(intercepts_shadow); i++)
			svm_intercept(vmcb, intercepts_shadow[i], true);
		return;
	}
	vmcb->control.nested_ctl = SVM_NESTED_CTL_NP_ENABLE;
	vmcb->control.nested_cr3 = __pa(vcpu->vm->table.root);
}

static void svm_debug_window(struct vcpu *vcpu, bool on)
{
	for (unsigned int i = 0; i < 8; i++) {
		svm_intercept(svm_of(vcpu)->vmcb, INTERCEPT_DR0_READ + i, !on);
		svm_intercept(svm_of(vcpu)->vmcb, INTERCEPT_DR0_WRITE + i, !on);
	}
}

static void svm_debug_changed(struct vcpu *vcpu)
{
	svm_intercept(svm_of(vcpu)->vmcb, INTERCEPT_EXCEPTION_OFFSET + X86_BP,
		      vcpu->debug.control & KVM_GUESTDBG_USE_SW_BP);
}

/* What of the guest's is put aside while a debugger's is in the VMCB. */
struct put_aside {
	u64 dr6, dr7;
	bool trap_flag;
};

static void debugger_in(const struct vcpu *vcpu, struct vmcb_save_area *save, struct put_aside *ret)
{
	*ret = (struct put_aside){ save->dr6, save->dr7, save->rflags & X86_FL_TF };
	save->dr6 = DR6_RESERVED;
	if (vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP)
		save->dr7 = vcpu->debug.dr7;
	if (debug_steps(vcpu))
		save->rflags |= X86_FL_TF;
}

static void debugger_out(struct vcpu *vcpu, struct vmcb_save_area *save, const struct put_aside *own)
{
	vcpu->debug.dr6 = save->dr6;
	save->dr6 = own->dr6;
	save->dr7 = own->dr7;
	if (debug_steps(vcpu) && !own->trap_flag)
		save->rflags &= ~(u64)X86_FL_TF;
}

static int svm_vcpu_create(struct vcpu *vcpu)
{
	struct svm_vcpu *svm = kzalloc(sizeof(*svm), GFP_KERNEL_ACCOUNT);
	struct vmcb_control_area *c;

	if (!svm)
		return -ENOMEM;
	svm->vmcb = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!svm->vmcb) {
		kfree(svm);
		return -ENOMEM;
	}
	vcpu->hw = svm;
	svm->vmcb_pa = __pa(svm->vmcb);
	c = &svm->vmcb->control;
	for (unsigned int i = 0; i < ARRAY_SIZE(intercepts); i++)
		svm_intercept(svm->vmcb, intercepts[i], true);
	svm_debug_window(vcpu, false);
	c->iopm_base_pa = page_to_phys(port_map);
	svm_masks_interrupts(vcpu);
	set_paging(vcpu);
	c->tsc_offset = vcpu->tsc_offset;
	return 0;
}

static void svm_vcpu_free(struct vcpu *vcpu)
{
	free_page((unsigned long)svm_of(vcpu)->vmcb);
	kfree(vcpu->hw);
}

static void svm_load(struct vcpu *vcpu, bool moved)
{
	svm_of(vcpu)->host_saved = false;
	if (moved) {
		svm_of(vcpu)->asid.generation = 0;
		svm_of(vcpu)->vmcb->control.clean = 0;
	}
}

/* ---- the state, between the VMCB and ours ---- */

static void segment_out(const struct vmcb_seg *from, struct x86_segment *to)
{
	*to = (struct x86_segment){ .base = from->base, .limit = from->limit,
				    .selector = from->selector, .attr = from->attrib };
}

static void segment_in(const struct x86_segment *from, struct vmcb_seg *to)
{
	*to = (struct vmcb_seg){ .base = from->base, .limit = from->limit,
				 .selector = from->selector,
				 .attrib = from->attr & X86_SEG_P ? from->attr & 0xfff :
								    from->attr & 0xfff & ~X86_SEG_P };
}

/* In the order of enum x86_seg_reg. */
static struct vmcb_seg *segment_at(struct vmcb_save_area *save, unsigned int i)
{
	struct vmcb_seg *const at[X86_SEG_COUNT] = {
		[X86_ES] = &save->es, [X86_CS] = &save->cs, [X86_SS] = &save->ss,
		[X86_DS] = &save->ds, [X86_FS] = &save->fs, [X86_GS] = &save->gs,
	};

	return at[i];
}

static void svm_pull(struct vcpu *vcpu)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;
	struct vmcb_save_area *save = &vmcb->save;
	struct x86_state *s = &vcpu->cpu.s;

	s->gpr[X86_RSP] = save->rsp;
	s->rip = save->rip;
	s->rflags = save->rflags;
	for (unsigned int i = 0; i < X86_SEG_COUNT; i++) {
		segment_out(segment_at(save, i), &s->seg[i]);
		/* A null selector has P clear; processors keep what else was there. */
		if (!(s->seg[i].attr & X86_SEG_P))
			s->seg[i].attr |= X86_SEG_UNUSABLE;
	}
	/* CPL is SS.DPL here: 15.5.1, "the CPL is kept in its own field". */
	s->seg[X86_SS].attr = (s->seg[X86_SS].attr & ~X86_SEG_DPL) |
			      (save->cpl & 3) << X86_SEG_DPL_SHIFT;
	segment_out(&save->ldtr, &s->ldtr);
	segment_out(&save->tr, &s->tr);
	s->gdtr = (struct x86_table){ .base = save->gdtr.base, .limit = save->gdtr.limit };
	s->idtr = (struct x86_table){ .base = save->idtr.base, .limit = save->idtr.limit };
	s->cr2 = save->cr2;
	s->dr[6] = save->dr6;
	s->dr[7] = save->dr7;
	s->star = save->star;
	s->lstar = save->lstar;
	s->cstar = save->cstar;
	s->sfmask = save->sfmask;
	s->kernel_gs_base = save->kernel_gs_base;
	s->sysenter_cs = save->sysenter_cs;
	s->sysenter_esp = save->sysenter_esp;
	s->sysenter_eip = save->sysenter_eip;
	s->pat = save->g_pat;
	s->interrupt_shadow = vmcb->control.int_state & SVM_INTERRUPT_SHADOW_MASK ? 1 : 0;
	if (vcpu->shadow) /* these are ours, and each write to the guest's exits */
		return;
	s->cr0 = save->cr0;
	s->cr3 = save->cr3;
	s->cr4 = save->cr4; /* EFER changes by writes that exit */
}

/* What decides how tables are read. */
static void push_paging(struct vcpu *vcpu)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;
	const struct x86_state *s = &vcpu->cpu.s;

	if (!vcpu->shadow) {
		vmcb->save.cr0 = s->cr0;
		vmcb->save.cr3 = s->cr3;
		vmcb->save.cr4 = s->cr4;
		vmcb->save.efer = s->efer | EFER_SVME;
		/* It means nothing then. Of a guest that has it, and not CR4.PAE, QEMU 7.2's emulator leaves CR0 to the
		 * host behind an exit, and the host stops. */
		if (!(s->cr0 & X86_CR0_PG))
			vmcb->save.efer &= ~(u64)EFER_LME;
		return;
	}
	vmcb->save.cr0 = shadow_cr0(vcpu);
	vmcb->save.cr3 = shadow_cr3(vcpu);
	vmcb->save.cr4 = shadow_cr4(vcpu);
	vmcb->save.efer = shadow_efer(vcpu) | EFER_SVME;
	/* The guest is to read its own. */
	svm_intercept(vmcb, INTERCEPT_CR0_READ, vmcb->save.cr0 != s->cr0);
	svm_intercept(vmcb, INTERCEPT_CR4_READ, vmcb->save.cr4 != s->cr4);
}

static void svm_push(struct vcpu *vcpu)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;
	struct vmcb_save_area *save = &vmcb->save;
	const struct x86_state *s = &vcpu->cpu.s;

	save->rsp = s->gpr[X86_RSP];
	save->rip = s->rip;
	save->rflags = s->rflags;
	for (unsigned int i = 0; i < X86_SEG_COUNT; i++)
		segment_in(&s->seg[i], segment_at(save, i));
	save->cpl = x86_state_cpl(s);
	segment_in(&s->ldtr, &save->ldtr);
	segment_in(&s->tr, &save->tr);
	save->gdtr = (struct vmcb_seg){ .base = s->gdtr.base, .limit = s->gdtr.limit };
	save->idtr = (struct vmcb_seg){ .base = s->idtr.base, .limit = s->idtr.limit };
	save->cr2 = s->cr2;
	push_paging(vcpu);
	save->dr6 = s->dr[6];
	save->dr7 = s->dr[7];
	save->star = s->star;
	save->lstar = s->lstar;
	save->cstar = s->cstar;
	save->sfmask = s->sfmask;
	save->kernel_gs_base = s->kernel_gs_base;
	save->sysenter_cs = s->sysenter_cs;
	save->sysenter_esp = s->sysenter_esp;
	save->sysenter_eip = s->sysenter_eip;
	save->g_pat = s->pat;
	vmcb->control.int_state = s->interrupt_shadow ? SVM_INTERRUPT_SHADOW_MASK : 0;
	vmcb->control.clean = 0;
}

/* ---- events ---- */

static void svm_inject(struct vcpu *vcpu, const struct event *event)
{
	struct vmcb_control_area *c = &svm_of(vcpu)->vmcb->control;

	c->event_inj = event ? event_info(event) : 0;
	c->event_inj_err = event ? event->error : 0;
}

/* A virtual interrupt that is intercepted before it is taken: 15.21.4. */
static void svm_interrupt_window(struct vcpu *vcpu, bool on)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;

	svm_intercept(vmcb, INTERCEPT_VINTR, on);
	vmcb->control.int_ctl &= ~(V_IRQ_MASK | V_INTR_PRIO_MASK | V_IGN_TPR_MASK);
	if (on)
		vmcb->control.int_ctl |= V_IRQ_MASK | V_INTR_PRIO_MASK | V_IGN_TPR_MASK;
}

static void svm_nmi_window(struct vcpu *vcpu, bool on)
{
	svm_intercept(svm_of(vcpu)->vmcb, INTERCEPT_IRET, on);
}

/* ---- into the guest ---- */

static void choose_asid(struct svm_vcpu *svm, bool flush)
{
	struct tag_pool *pool = &this_cpu_ptr(&svm_cpu)->asids;
	struct vmcb_control_area *c = &svm->vmcb->control;

	c->tlb_ctl = TLB_CONTROL_DO_NOTHING;
	if (!flush && svm->asid.generation == pool->generation)
		return;
	if (tag_renew(pool, &svm->asid))
		c->tlb_ctl = TLB_CONTROL_FLUSH_ALL_ASID;
	c->asid = svm->asid.number;
	c->clean = 0;
}

/* FS, GS, TR, LDTR and the MSRs of system calls, of which all but LDTR stay while the thread is in the kernel, on this
 * CPU. Another thread may change the table that LDTR names, but not take it away: modify_ldt(2). */
static void save_host(struct svm_vcpu *svm, u64 host_pa)
{
	if (svm->host_saved && !host_has_ldt())
		return;
	asm volatile("vmsave %%rax" : : "a"(host_pa) : "memory");
	svm->host_saved = true;
}

static void svm_enter(struct vcpu *vcpu, bool flush)
{
	struct svm_vcpu *svm = svm_of(vcpu);
	struct svm_cpu *cpu = this_cpu_ptr(&svm_cpu);
	u64 host_pa = page_to_phys(cpu->host);
	struct put_aside own;

	/* On the way to a reboot it is off while there are programs still. */
	if (!cpu->on) {
		svm->vmcb->control.exit_code = (u32)SVM_EXIT_ERR;
		return;
	}
	choose_asid(svm, flush);
	svm->vmcb->control.msrpm_base_pa =
		page_to_phys(READ_ONCE(vcpu->vm->msrs_closed) ? msr_map_closed : msr_map);
	if (debug_has_db(vcpu))
		debugger_in(vcpu, &svm->vmcb->save, &own);
	svm->vmcb->save.rax = vcpu->cpu.s.gpr[X86_RAX];
	if (xss_of_host)
		wrmsrl(MSR_IA32_XSS, 0);
	save_host(svm, host_pa);
	svm_run(svm->vmcb_pa, vcpu->cpu.s.gpr, host_pa);
	host_leave_guest();
	if (xss_of_host)
		wrmsrl(MSR_IA32_XSS, xss_of_host);
	if (debug_has_db(vcpu))
		debugger_out(vcpu, &svm->vmcb->save, &own);
	vcpu->cpu.s.gpr[X86_RAX] = svm->vmcb->save.rax;
	svm->vmcb->control.event_inj = 0;
	vcpu->has_injected = false;
	if (svm->vmcb->control.exit_code == SVM_EXIT_EXCP_BASE + X86_MC)
		host_machine_check();
}

/* ---- the little that is asked for without the rest ---- */

/* Of ports each processor tells: 15.10.2. */
static u64 svm_next_rip(struct vcpu *vcpu)
{
	const struct vmcb_control_area *c = &svm_of(vcpu)->vmcb->control;

	if (c->exit_code == SVM_EXIT_IOIO)
		return c->exit_info_2;
	return boot_cpu_has(X86_FEATURE_NRIPS) ? c->next_rip : 0;
}

/* Both forms are kept alike, whichever is newest. */
static u64 svm_rip(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? svm_of(vcpu)->vmcb->save.rip : vcpu->cpu.s.rip;
}

static void svm_set_rip(struct vcpu *vcpu, u64 rip)
{
	struct vmcb *vmcb = svm_of(vcpu)->vmcb;

	vmcb->save.rip = vcpu->cpu.s.rip = rip;
	vmcb->control.int_state = 0;
	vcpu->cpu.s.interrupt_shadow = 0;
}

static u64 svm_rflags(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? svm_of(vcpu)->vmcb->save.rflags : vcpu->cpu.s.rflags;
}

static bool svm_interrupt_shadow(struct vcpu *vcpu)
{
	return vcpu->in_hardware ? svm_of(vcpu)->vmcb->control.int_state & SVM_INTERRUPT_SHADOW_MASK :
				   vcpu->cpu.s.interrupt_shadow;
}

static void svm_code_place(struct vcpu *vcpu, struct code_place *ret)
{
	const struct vmcb_save_area *save = &svm_of(vcpu)->vmcb->save;

	*ret = (struct code_place){ .rip = save->rip, .base = save->cs.base, .attr = save->cs.attrib,
				    .cr3 = vcpu->shadow ? vcpu->cpu.s.cr3 : save->cr3 };
}

static void svm_set_tsc_offset(struct vcpu *vcpu)
{
	svm_of(vcpu)->vmcb->control.tsc_offset = vcpu->tsc_offset;
	svm_of(vcpu)->vmcb->control.clean = 0;
}

static const struct page_format *svm_page_format(void)
{
	return &npt_format;
}

const struct hw hw_svm = {
	.name = "AMD-V",
	.probe = svm_probe,
	.setup = svm_setup,
	.teardown = svm_teardown,
	.enable = svm_enable,
	.disable = svm_disable,
	.page_format = svm_page_format,
	.vcpu_create = svm_vcpu_create,
	.vcpu_free = svm_vcpu_free,
	.load = svm_load,
	.pull = svm_pull,
	.push = svm_push,
	.set_tsc_offset = svm_set_tsc_offset,
	.filter_changed = svm_filter_changed,
	.inject = svm_inject,
	.interrupt_window = svm_interrupt_window,
	.nmi_window = svm_nmi_window,
	.debug_window = svm_debug_window,
	.debug_changed = svm_debug_changed,
	.next_rip = svm_next_rip,
	.rip = svm_rip,
	.set_rip = svm_set_rip,
	.rflags = svm_rflags,
	.interrupt_shadow = svm_interrupt_shadow,
	.code_place = svm_code_place,
	.enter = svm_enter,
	.handle_exit = svm_handle_exit,
	.exit_info = svm_exit_info,
};
