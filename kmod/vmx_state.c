// SPDX-License-Identifier: GPL-2.0-only
/* vmx_state.c - the guest's state, between the VMCS and ours. Sections are of the SDM, volume 3: see vmcs.h. */
#include <linux/mm.h>
#include <linux/uaccess.h>
#include <asm/msr.h>

#include "shadow.h"
#include "vmx.h"

#define VMCS_ENCODING(name, encoding) [VMX_##name] = encoding,
static const u16 encoding[VMX_FIELDS] = {
	VMCS_GUEST_FIELDS(VMCS_ENCODING)
	VMCS_OTHER_FIELDS(VMCS_ENCODING)
};

/* Bits that the guest changes without an exit; of the others it reads the shadow, which is what it wrote. */
#define CR0_OWN X86_CR0_TS
#define CR4_OWN X86_CR4_PGE /* where its tables are its own */
/* Entries leave these alone, so they are the host's: 26.3.1.1. */
#define CR0_NOT_LOADED (X86_CR0_CD | X86_CR0_NW)

/* ---- fields ---- */

u64 vmx_get(struct vcpu *vcpu, enum vmx_field field)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	if (vcpu->in_hardware && !test_bit(field, vmx->unwritten))
		vmx->field[field] = vmread(encoding[field]);
	return vmx->field[field];
}

void vmx_write_fields(struct vmx_vcpu *vmx)
{
	unsigned int i;

	for_each_set_bit(i, vmx->unwritten, VMX_FIELDS)
		vmwrite(encoding[i], vmx->field[i]);
	bitmap_zero(vmx->unwritten, VMX_FIELDS);
}

/* ---- what is the same in both ---- */

/* Read back behind an exit, and only written. */
static const struct {
	u8 field;
	u16 offset; /* in struct x86_state, of a u64 */
} read_back[] = {
	{ VMX_DR7, offsetof(struct x86_state, dr[7]) },
	{ VMX_RSP, offsetof(struct x86_state, gpr[X86_RSP]) },
	{ VMX_RIP, offsetof(struct x86_state, rip) },
	{ VMX_GDTR_BASE, offsetof(struct x86_state, gdtr.base) },
	{ VMX_IDTR_BASE, offsetof(struct x86_state, idtr.base) },
}, only_written[] = {
	{ VMX_SYSENTER_CS, offsetof(struct x86_state, sysenter_cs) },
	{ VMX_SYSENTER_ESP, offsetof(struct x86_state, sysenter_esp) },
	{ VMX_SYSENTER_EIP, offsetof(struct x86_state, sysenter_eip) },
	{ VMX_CR0_SHADOW, offsetof(struct x86_state, cr0) },
	{ VMX_CR4_SHADOW, offsetof(struct x86_state, cr4) },
};

static u64 *at(struct x86_state *s, u16 offset)
{
	return (u64 *)((u8 *)s + offset);
}

/* In the order of the VMCS. */
static struct x86_segment *segment_at(struct x86_state *s, unsigned int i)
{
	return i == VMX_LDTR ? &s->ldtr : i == VMX_TR ? &s->tr : &s->seg[i];
}

/* ---- from the VMCS ---- */

/* 24.4.1: of a segment that is not usable only the DPL means something, of SS: it is the CPL. */
static u16 attr_of(u32 access)
{
	if (access & ACCESS_UNUSABLE)
		return (access & X86_SEG_DPL) | X86_SEG_UNUSABLE;
	return (access & 0xff) | (access >> 4 & 0xf00);
}

void vmx_code_place(struct vcpu *vcpu, struct code_place *ret)
{
	bool own = vmx_has_own_tables(vcpu);

	*ret = (struct code_place){
		.rip = vmx_get(vcpu, VMX_RIP), .base = vmx_get(vcpu, VMX_BASE + X86_CS),
		.attr = attr_of(vmx_get(vcpu, VMX_ACCESS + X86_CS)),
		.cr3 = own ? vmx_get(vcpu, VMX_CR3) : vcpu->cpu.s.cr3,
	};
}

static void pull_own(struct vmx_vcpu *vmx, struct x86_state *s)
{
	const u64 *f = vmx->field;

	s->rflags = f[VMX_RFLAGS];
	for (unsigned int i = 0; i <= VMX_TR; i++)
		*segment_at(s, i) = (struct x86_segment){
			.selector = f[VMX_SELECTOR + i], .limit = f[VMX_LIMIT + i],
			.base = f[VMX_BASE + i], .attr = attr_of(f[VMX_ACCESS + i]),
		};
}

void vmx_pull(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	struct x86_state *s = &vcpu->cpu.s;
	const u64 *f = vmx->field;

	for (unsigned int i = 0; i < VMX_GUEST_FIELDS; i++)
		(void)vmx_get(vcpu, i);
	if (vmx->shape == SHAPE_V86)
		vmx_pull_v86(vmx, s);
	else
		pull_own(vmx, s);
	for (unsigned int i = 0; i < ARRAY_SIZE(read_back); i++)
		*at(s, read_back[i].offset) = f[read_back[i].field];
	if (vmx_has_own_tables(vcpu))
		s->cr3 = f[VMX_CR3];
	s->gdtr.limit = f[VMX_GDTR_LIMIT];
	s->idtr.limit = f[VMX_IDTR_LIMIT];
	s->cr0 = (s->cr0 & ~(u64)CR0_OWN) | (f[VMX_CR0] & CR0_OWN);
	s->cr4 = (s->cr4 & f[VMX_CR4_MASK]) | (f[VMX_CR4] & ~f[VMX_CR4_MASK]);
	s->interrupt_shadow = f[VMX_INTERRUPTIBILITY] & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS);
	s->nmi_masked = f[VMX_INTERRUPTIBILITY] & BLOCKED_BY_NMI;
	/* SWAPGS changes it; vmx_put() has taken it where the thread has left this CPU since. */
	if (vmx->loaded)
		rdmsrl(MSR_KERNEL_GS_BASE, s->kernel_gs_base);
	vmx->kernel_gs_base = s->kernel_gs_base;
}

/* ---- to the VMCS, in a form that an entry accepts: 26.3.1 ---- */

static bool long_mode(const struct x86_state *s)
{
	return s->efer & X86_EFER_LMA;
}

static bool code_is_64(const struct x86_state *s)
{
	return long_mode(s) && s->seg[X86_CS].attr & X86_SEG_L;
}

/* G has to agree with the limit. */
static u32 granularity(u32 access, u32 limit)
{
	const u32 g = X86_SEG_G << 4;

	if ((limit & 0xfff) != 0xfff)
		return access & ~g;
	return limit >> 20 ? access | g : access;
}

static u32 access_of(const struct x86_segment *seg)
{
	u32 access = (seg->attr & 0xff) | (seg->attr & 0xf00) << 4;

	if (!(seg->attr & X86_SEG_P) || seg->attr & X86_SEG_UNUSABLE)
		return (access & X86_SEG_DPL) | ACCESS_UNUSABLE;
	/* What user space sets may not have been accessed. */
	if (access & X86_SEG_S)
		access |= X86_SEG_ACCESSED;
	return granularity(access, seg->limit);
}

/* There always is one, and it is busy. */
static u32 tr_access_of(const struct x86_state *s)
{
	u32 type = s->tr.attr & X86_SEG_TYPE;
	bool is_16 = !long_mode(s) && type == 3;

	return granularity(X86_SEG_P | (is_16 ? 3 : 11), s->tr.limit);
}

static void push_own(struct vmx_vcpu *vmx, struct x86_state *s)
{
	bool vm86 = s->rflags & X86_FL_VM && s->cr0 & X86_CR0_PE && !long_mode(s);

	for (unsigned int i = 0; i <= VMX_TR; i++) {
		const struct x86_segment *seg = segment_at(s, i);
		bool fixed = vm86 && i < X86_SEG_COUNT;

		vmx_set(vmx, VMX_SELECTOR + i, seg->selector);
		vmx_set(vmx, VMX_LIMIT + i, fixed ? 0xffff : seg->limit);
		vmx_set(vmx, VMX_BASE + i, fixed ? (u32)seg->selector << 4 : seg->base);
		vmx_set(vmx, VMX_ACCESS + i, fixed ? 0xf3 : access_of(seg));
	}
	vmx_set(vmx, VMX_ACCESS + VMX_TR, tr_access_of(s));
	vmx_set(vmx, VMX_RFLAGS, (s->rflags & 0x3f7fd5) | X86_FL_ONE);
}

/* The registers that decide how tables are read, and which. What the guest reads is the shadow of CR0 and CR4. */
static void push_paging(struct vcpu *vcpu)
{
	const u64 unpaged = X86_CR4_PAE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE;
	const struct x86_state *s = &vcpu->cpu.s;
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	u64 cr0 = s->cr0, cr3 = s->cr3, cr4 = s->cr4, efer = s->efer;

	if (vcpu->shadow) {
		cr0 = shadow_cr0(vcpu);
		cr3 = shadow_cr3(vcpu);
		cr4 = shadow_cr4(vcpu);
		efer = shadow_efer(vcpu);
	} else if (!vmx_has_own_tables(vcpu)) { /* all is mapped to itself, in pages of 4 MiB */
		cr3 = vcpu->vm->identity_addr;
		cr4 = (cr4 & ~unpaged) | X86_CR4_PSE;
		efer &= ~(u64)X86_EFER_LME; /* with paging on it is as LMA: 26.3.1.1 */
	}
	if (vmx->shape == SHAPE_V86) { /* real mode has no privilege 3, and no virtual interrupt flag */
		cr0 &= ~(u64)X86_CR0_AM;
		cr4 &= ~(u64)X86_CR4_VME;
	}
	/* A machine check is the host's. */
	cr4 |= vmx_features.cr4_set | (native_read_cr4() & X86_CR4_MCE);
	vmx_set(vmx, VMX_CR0, (cr0 & ~(u64)CR0_NOT_LOADED) | vmx_features.cr0_set);
	vmx_set(vmx, VMX_CR3, cr3);
	vmx_set(vmx, VMX_CR4, cr4);
	vmx_set(vmx, VMX_EFER, efer);
	vmx_set_bits(vmx, VMX_ENTRY_CONTROLS, ENTRY_LONG_MODE, efer & X86_EFER_LMA);
	vmx_set_bits(vmx, VMX_CONTROLS, PROC_CR3_LOAD | PROC_CR3_STORE, !vmx_has_own_tables(vcpu));
}

/* An NMI's entry blocks further ones itself. */
static u64 blocked(const struct vmx_vcpu *vmx, const struct x86_state *s)
{
	u64 event = vmx->field[VMX_ENTRY_EVENT], r = 0;
	bool nmi = event & EVENT_INFO_VALID && (event >> EVENT_TYPE_SHIFT & EVENT_TYPE_MASK) == EVENT_TYPE_NMI;

	if (s->interrupt_shadow & 2)
		r = BLOCKED_BY_MOV_SS;
	else if (s->interrupt_shadow & 1 && s->rflags & X86_FL_IF)
		r = BLOCKED_BY_STI;
	return r | (s->nmi_masked && !nmi ? BLOCKED_BY_NMI : 0);
}

void vmx_push(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	struct x86_state *s = &vcpu->cpu.s;

	for (unsigned int i = 0; i < ARRAY_SIZE(read_back); i++)
		vmx_set(vmx, read_back[i].field, *at(s, read_back[i].offset));
	for (unsigned int i = 0; i < ARRAY_SIZE(only_written); i++)
		vmx_set(vmx, only_written[i].field, *at(s, only_written[i].offset));
	if (!code_is_64(s))
		vmx_set(vmx, VMX_RIP, (u32)s->rip);
	if (vmx->shape == SHAPE_V86)
		vmx_push_v86(vmx, s);
	else
		push_own(vmx, s);
	vmx_choose_exceptions(vcpu);
	vmx_set(vmx, VMX_GDTR_LIMIT, s->gdtr.limit);
	vmx_set(vmx, VMX_IDTR_LIMIT, s->idtr.limit);
	push_paging(vcpu);
	vmx_set(vmx, VMX_INTERRUPTIBILITY, blocked(vmx, s));
	/* 26.3.1.5: a step that ends in a shadow is still to be told. */
	if (vmx->field[VMX_INTERRUPTIBILITY] & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS))
		vmx_set_bits(vmx, VMX_PENDING_DEBUG, PENDING_STEP, s->rflags & X86_FL_TF);
	else
		vmx_set(vmx, VMX_PENDING_DEBUG, 0);
	vmx_load_syscall(vcpu);
	vmx_load_kernel_gs(vcpu);
}

/* ---- PAE paging: 26.3.2.4 ---- */

static bool is_pae(u64 cr0, u64 cr4, u64 efer)
{
	return cr0 & X86_CR0_PG && cr4 & X86_CR4_PAE && !(efer & X86_EFER_LMA);
}

static void read_pdptes(struct vcpu *vcpu, u64 ret[4])
{
	u64 gpa = vcpu->cpu.s.cr3 & 0xffffffe0;
	int lock = srcu_read_lock(&vcpu->vm->srcu);
	const struct slot *slot = slot_of(vcpu->vm, gpa >> PAGE_SHIFT);

	if (!slot || copy_from_user(ret, (void __user *)(slot_hva(slot, gpa >> PAGE_SHIFT) +
							  offset_in_page(gpa)), 32))
		memset(ret, 0, 32);
	srcu_read_unlock(&vcpu->vm->srcu, lock);
}

/* With EPT an entry takes them from the VMCS. They are as MOV to CR3, or to a bit of these, has found them in memory
 * (4.4.1); what the guest does itself the processor has seen to. */
void vmx_prepare(struct vcpu *vcpu)
{
	const u64 cr0_bits = X86_CR0_CD | X86_CR0_NW | X86_CR0_PG;
	const u64 cr4_bits = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP;
	struct vmx_vcpu *vmx = vmx_of(vcpu);
	const struct x86_state *s = &vcpu->cpu.s;
	const u64 *f = vmx->field;
	u64 pdpte[4];

	if (vcpu->shadow || !is_pae(s->cr0, s->cr4, s->efer))
		return;
	if (is_pae(f[VMX_CR0], f[VMX_CR4], f[VMX_EFER]) && s->cr3 == f[VMX_CR3] &&
	    !((s->cr0 ^ f[VMX_CR0_SHADOW]) & cr0_bits) &&
	    !((s->cr4 ^ f[VMX_CR4_SHADOW]) & cr4_bits & ~(u64)CR4_OWN) &&
	    !((s->cr4 ^ f[VMX_CR4]) & CR4_OWN))
		return;
	read_pdptes(vcpu, pdpte);
	for (unsigned int i = 0; i < ARRAY_SIZE(pdpte); i++) {
		vmx->field[VMX_PDPTE0 + i] = pdpte[i];
		__set_bit(VMX_PDPTE0 + i, vmx->unwritten);
	}
}
