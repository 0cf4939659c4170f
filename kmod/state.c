// SPDX-License-Identifier: GPL-2.0-only
/* state.c - the architectural state in the forms of KVM's ABI: Documentation/virt/kvm/api.rst, 4. */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "chips.h"
#include "x86_int.h"

/* ---- general registers ---- */

static void get_regs(struct vcpu *vcpu, struct kvm_regs *r)
{
	const struct x86_state *s = vcpu_peek(vcpu);
	const u64 *g = s->gpr;

	*r = (struct kvm_regs){
		.rax = g[X86_RAX], .rbx = g[X86_RBX], .rcx = g[X86_RCX], .rdx = g[X86_RDX],
		.rsi = g[X86_RSI], .rdi = g[X86_RDI], .rsp = g[X86_RSP], .rbp = g[X86_RBP],
		.r8 = g[X86_R8], .r9 = g[X86_R9], .r10 = g[X86_R10], .r11 = g[X86_R11],
		.r12 = g[X86_R12], .r13 = g[X86_R13], .r14 = g[X86_R14], .r15 = g[X86_R15],
		.rip = s->rip, .rflags = s->rflags,
	};
}

static int set_regs(struct vcpu *vcpu, const struct kvm_regs *r)
{
	struct x86_state *s = vcpu_state(vcpu);
	const u64 gpr[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
			      r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	memcpy(s->gpr, gpr, sizeof(gpr));
	s->rip = r->rip;
	s->rflags = r->rflags | X86_FL_ONE;
	s->exception_pending = false;
	return 0;
}

/* ---- segments, tables, control registers ---- */

static void segment_out(const struct x86_segment *from, struct kvm_segment *to)
{
	*to = (struct kvm_segment){
		.base = from->base,
		.limit = from->limit,
		.selector = from->selector,
		.type = from->attr & X86_SEG_TYPE,
		.s = !!(from->attr & X86_SEG_S),
		.dpl = (from->attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT,
		.present = !!(from->attr & X86_SEG_P),
		.avl = !!(from->attr & X86_SEG_AVL),
		.l = !!(from->attr & X86_SEG_L),
		.db = !!(from->attr & X86_SEG_DB),
		.g = !!(from->attr & X86_SEG_G),
		.unusable = !(from->attr & X86_SEG_P) || from->attr & X86_SEG_UNUSABLE,
	};
}

static void segment_in(const struct kvm_segment *from, struct x86_segment *to)
{
	*to = (struct x86_segment){
		.base = from->base,
		.limit = from->limit,
		.selector = from->selector,
		.attr = (from->type & X86_SEG_TYPE) | (from->s ? X86_SEG_S : 0) |
			(from->dpl & 3) << X86_SEG_DPL_SHIFT |
			(from->present && !from->unusable ? X86_SEG_P : 0) |
			(from->avl ? X86_SEG_AVL : 0) | (from->l ? X86_SEG_L : 0) |
			(from->db ? X86_SEG_DB : 0) | (from->g ? X86_SEG_G : 0) |
			(from->unusable ? X86_SEG_UNUSABLE : 0),
	};
}

/* Both ways in one place: which of KVM's segments is which of ours. */
struct segment_pair {
	struct kvm_segment *abi;
	struct x86_segment *own;
};

#define SEGMENTS 8

static void pair_segments(struct kvm_sregs *r, struct x86_state *s, struct segment_pair ret[SEGMENTS])
{
	const struct segment_pair pairs[SEGMENTS] = {
		{ &r->cs, &s->seg[X86_CS] }, { &r->ds, &s->seg[X86_DS] }, { &r->es, &s->seg[X86_ES] },
		{ &r->fs, &s->seg[X86_FS] }, { &r->gs, &s->seg[X86_GS] }, { &r->ss, &s->seg[X86_SS] },
		{ &r->tr, &s->tr },	     { &r->ldt, &s->ldtr },
	};

	memcpy(ret, pairs, sizeof(pairs));
}

static void get_sregs(struct vcpu *vcpu, struct kvm_sregs *r)
{
	struct x86_state *s = (struct x86_state *)vcpu_peek(vcpu);
	struct segment_pair pair[SEGMENTS];

	*r = (struct kvm_sregs){
		.gdt = { .base = s->gdtr.base, .limit = s->gdtr.limit },
		.idt = { .base = s->idtr.base, .limit = s->idtr.limit },
		.cr0 = s->cr0, .cr2 = s->cr2, .cr3 = s->cr3, .cr4 = s->cr4,
		.cr8 = vcpu->lapic ? lapic_get(vcpu->lapic, LAPIC_TPR) >> 4 : vcpu->run->cr8 & 15,
		.efer = s->efer,
		.apic_base = vcpu->apic_base,
	};
	pair_segments(r, s, pair);
	for (unsigned int i = 0; i < SEGMENTS; i++)
		segment_out(pair[i].own, pair[i].abi);
	if (s->interrupt_pending)
		__set_bit(s->interrupt_vector, (unsigned long *)r->interrupt_bitmap);
}

/* What the hardware would refuse to enter with. */
static bool sregs_are_valid(const struct kvm_sregs *r)
{
	if (r->cr0 >> 32 || (r->cr0 & X86_CR0_PG && !(r->cr0 & X86_CR0_PE)) ||
	    (r->cr0 & X86_CR0_NW && !(r->cr0 & X86_CR0_CD)))
		return false;
	if (r->efer & X86_EFER_LME && r->cr0 & X86_CR0_PG)
		return r->cr4 & X86_CR4_PAE && r->efer & X86_EFER_LMA;
	return !(r->efer & X86_EFER_LMA) && !(r->cs.l && r->efer & X86_EFER_LMA);
}

static int set_sregs(struct vcpu *vcpu, struct kvm_sregs *r)
{
	struct segment_pair pair[SEGMENTS];
	struct x86_state *s;

	if (!sregs_are_valid(r))
		return -EINVAL;
	if (!vcpu->lapic)
		vcpu->apic_base = r->apic_base;
	else if (lapic_set_base(vcpu->lapic, r->apic_base, true))
		return -EINVAL;
	s = vcpu_state(vcpu);
	pair_segments(r, s, pair);
	for (unsigned int i = 0; i < SEGMENTS; i++)
		segment_in(pair[i].abi, pair[i].own);
	s->gdtr = (struct x86_table){ .base = r->gdt.base, .limit = r->gdt.limit };
	s->idtr = (struct x86_table){ .base = r->idt.base, .limit = r->idt.limit };
	s->cr0 = r->cr0 | X86_CR0_ET;
	s->cr2 = r->cr2;
	s->cr3 = r->cr3;
	s->cr4 = r->cr4;
	s->efer = r->efer;
	vcpu->run->cr8 = r->cr8;
	if (vcpu->lapic)
		lapic_mmio_write(vcpu->lapic, LAPIC_TPR, (r->cr8 & 15) << 4);
	s->interrupt_pending = false;
	for (unsigned int i = 0; i < 256; i++) {
		if (test_bit(i, (unsigned long *)r->interrupt_bitmap)) {
			s->interrupt_pending = true;
			s->interrupt_vector = i;
		}
	}
	x86_update_mode(&vcpu->cpu);
	set_bit(REQ_FLUSH, &vcpu->requests);
	return 0;
}

/* ---- floating point, vectors ---- */

static void get_fpu(struct vcpu *vcpu, struct kvm_fpu *r)
{
	const struct fxregs_state *fx = &vcpu->fpu.fpstate->regs.fxsave;

	memset(r, 0, sizeof(*r));
	memcpy(r->fpr, fx->st_space, sizeof(r->fpr));
	r->fcw = fx->cwd;
	r->fsw = fx->swd;
	r->ftwx = fx->twd;
	r->last_opcode = fx->fop;
	r->last_ip = fx->rip;
	r->last_dp = fx->rdp;
	memcpy(r->xmm, fx->xmm_space, sizeof(r->xmm));
	r->mxcsr = fx->mxcsr;
}

static int set_fpu(struct vcpu *vcpu, const struct kvm_fpu *r)
{
	struct fxregs_state *fx = &vcpu->fpu.fpstate->regs.fxsave;

	memcpy(fx->st_space, r->fpr, sizeof(r->fpr));
	fx->cwd = r->fcw;
	fx->swd = r->fsw;
	fx->twd = r->ftwx;
	fx->fop = r->last_opcode;
	fx->rip = r->last_ip;
	fx->rdp = r->last_dp;
	memcpy(fx->xmm_space, r->xmm, sizeof(r->xmm));
	fx->mxcsr = r->mxcsr & 0xffff;
	if (boot_cpu_has(X86_FEATURE_XSAVE))
		vcpu->fpu.fpstate->regs.xsave.header.xfeatures |= XFEATURE_MASK_FPSSE;
	return 0;
}

static long xsave(struct vcpu *vcpu, void __user *arg, bool set)
{
	struct kvm_xsave *area = kzalloc(sizeof(*area), GFP_KERNEL_ACCOUNT);
	long r = -EFAULT;

	if (!area)
		return -ENOMEM;
	if (set) {
		if (!copy_from_user(area, arg, sizeof(*area)))
			r = fpu_copy_uabi_to_guest_fpstate(&vcpu->fpu, area->region,
							   vcpu->fpu.fpstate->user_xfeatures, NULL);
	} else {
		fpu_copy_guest_fpstate_to_uabi(&vcpu->fpu, area->region, sizeof(area->region),
					       vcpu->fpu.fpstate->user_xfeatures, 0);
		r = copy_to_user(arg, area, sizeof(*area)) ? -EFAULT : 0;
	}
	kfree(area);
	return r;
}

static void get_xcrs(struct vcpu *vcpu, struct kvm_xcrs *r)
{
	memset(r, 0, sizeof(*r));
	r->nr_xcrs = 1;
	r->xcrs[0].value = vcpu_peek(vcpu)->xcr0;
}

static int set_xcrs(struct vcpu *vcpu, const struct kvm_xcrs *r)
{
	if (r->nr_xcrs > KVM_MAX_XCRS || r->flags)
		return -EINVAL;
	for (unsigned int i = 0; i < r->nr_xcrs; i++) {
		u64 value = r->xcrs[i].value;

		if (r->xcrs[i].xcr)
			continue;
		if (!(value & 1) || value & ~vcpu->model->xcr0 || (value & 6) == 4)
			return -EINVAL;
		vcpu_state(vcpu)->xcr0 = value;
	}
	return 0;
}

/* ---- debug registers ---- */

static void get_debug(struct vcpu *vcpu, struct kvm_debugregs *r)
{
	const struct x86_state *s = vcpu_peek(vcpu);

	memset(r, 0, sizeof(*r));
	memcpy(r->db, s->dr, sizeof(r->db));
	r->dr6 = s->dr[6];
	r->dr7 = s->dr[7];
}

static int set_debug(struct vcpu *vcpu, const struct kvm_debugregs *r)
{
	struct x86_state *s;

	if (r->flags || r->dr6 >> 32 || r->dr7 >> 32)
		return -EINVAL;
	s = vcpu_state(vcpu);
	memcpy(s->dr, r->db, sizeof(r->db));
	s->dr[6] = r->dr6;
	s->dr[7] = r->dr7;
	x86_debug_update(&vcpu->cpu);
	return 0;
}

/* ---- events ---- */

#define EVENT_FLAGS (KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | \
		     KVM_VCPUEVENT_VALID_SHADOW)

static void get_events(struct vcpu *vcpu, struct kvm_vcpu_events *r)
{
	const struct x86_state *s = vcpu_peek(vcpu);

	memset(r, 0, sizeof(*r));
	r->exception.injected = s->exception_pending;
	r->exception.nr = s->exception_vector;
	r->exception.has_error_code = s->exception_has_error;
	r->exception.error_code = s->exception_error;
	r->interrupt.injected = s->interrupt_pending;
	r->interrupt.nr = s->interrupt_vector;
	r->interrupt.shadow = (s->interrupt_shadow & 1 ? KVM_X86_SHADOW_INT_STI : 0) |
			      (s->interrupt_shadow & 2 ? KVM_X86_SHADOW_INT_MOV_SS : 0);
	r->nmi.injected = vcpu->nmi_injected;
	r->nmi.pending = s->nmi_pending;
	r->nmi.masked = s->nmi_masked;
	r->flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
	if (vcpu->lapic) {
		r->sipi_vector = vcpu->lapic->sipi_vector;
		r->flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	}
}

static int set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *r)
{
	struct x86_state *s;

	if (r->flags & ~EVENT_FLAGS || (r->exception.injected && r->exception.nr > 31) ||
	    (r->exception.injected && r->exception.nr == X86_NMI))
		return -EINVAL;
	s = vcpu_state(vcpu);
	s->exception_pending = r->exception.injected;
	s->exception_vector = r->exception.nr;
	s->exception_has_error = r->exception.has_error_code;
	s->exception_error = r->exception.error_code;
	s->interrupt_pending = r->interrupt.injected;
	s->interrupt_vector = r->interrupt.nr;
	if (r->flags & KVM_VCPUEVENT_VALID_SHADOW)
		s->interrupt_shadow = (r->interrupt.shadow & KVM_X86_SHADOW_INT_STI ? 1 : 0) |
				      (r->interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2 : 0);
	vcpu->nmi_injected = r->nmi.injected;
	if (r->flags & KVM_VCPUEVENT_VALID_NMI_PENDING)
		s->nmi_pending = r->nmi.pending;
	if (r->flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR && vcpu->lapic)
		vcpu->lapic->sipi_vector = r->sipi_vector;
	s->nmi_masked = r->nmi.masked;
	hw->nmi_window(vcpu, s->nmi_masked);
	return 0;
}

/* ---- activity ---- */

static void get_activity(struct vcpu *vcpu, struct kvm_mp_state *r)
{
	if (vcpu->lapic)
		lapic_take_requests(vcpu);
	switch (vcpu_peek(vcpu)->activity) {
	case X86_HALTED:
		/* A kick goes along with a saved machine as what it does. */
		r->mp_state = READ_ONCE(vcpu->requests) & BIT(REQ_UNHALT) ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_HALTED;
		break;
	case X86_WAIT_SIPI:
		r->mp_state = KVM_MP_STATE_INIT_RECEIVED;
		break;
	default:
		r->mp_state = KVM_MP_STATE_RUNNABLE;
	}
}

/* Halted, or waiting to be started, is the business of who has the local APIC. */
static int set_activity(struct vcpu *vcpu, const struct kvm_mp_state *r)
{
	if (!vcpu->lapic && r->mp_state != KVM_MP_STATE_RUNNABLE)
		return -EINVAL;
	switch (r->mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		vcpu_state(vcpu)->activity = X86_RUNNING;
		break;
	case KVM_MP_STATE_HALTED:
		vcpu_state(vcpu)->activity = X86_HALTED;
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		vcpu_state(vcpu)->activity = X86_WAIT_SIPI;
		break;
	case KVM_MP_STATE_SIPI_RECEIVED:
		vcpu_state(vcpu)->activity = X86_WAIT_SIPI;
		vcpu_request(vcpu, REQ_SIPI);
		break;
	default:
		return -EINVAL;
	}
	return 0;
}

/* ---- dispatch ---- */

/* Get: into a zeroed structure, and out. Set: in, and then. */
#define GET(type, fn) ({ type r_ = { 0 }; fn(vcpu, &r_); copy_to_user(arg, &r_, sizeof(r_)) ? -EFAULT : 0; })
#define SET(type, fn) ({ type r_; copy_from_user(&r_, arg, sizeof(r_)) ? -EFAULT : fn(vcpu, &r_); })

long state_ioctl(struct vcpu *vcpu, unsigned int number, void __user *arg)
{
	switch (number) {
	case KVM_GET_REGS:
		return GET(struct kvm_regs, get_regs);
	case KVM_SET_REGS:
		return SET(struct kvm_regs, set_regs);
	case KVM_GET_SREGS:
		return GET(struct kvm_sregs, get_sregs);
	case KVM_SET_SREGS:
		return SET(struct kvm_sregs, set_sregs);
	case KVM_GET_FPU:
		return GET(struct kvm_fpu, get_fpu);
	case KVM_SET_FPU:
		return SET(struct kvm_fpu, set_fpu);
	case KVM_GET_XSAVE:
		return xsave(vcpu, arg, false);
	case KVM_SET_XSAVE:
		return xsave(vcpu, arg, true);
	case KVM_GET_XCRS:
		return GET(struct kvm_xcrs, get_xcrs);
	case KVM_SET_XCRS:
		return SET(struct kvm_xcrs, set_xcrs);
	case KVM_GET_DEBUGREGS:
		return GET(struct kvm_debugregs, get_debug);
	case KVM_SET_DEBUGREGS:
		return SET(struct kvm_debugregs, set_debug);
	case KVM_GET_VCPU_EVENTS:
		return GET(struct kvm_vcpu_events, get_events);
	case KVM_SET_VCPU_EVENTS:
		return SET(struct kvm_vcpu_events, set_events);
	case KVM_GET_MP_STATE:
		return GET(struct kvm_mp_state, get_activity);
	case KVM_SET_MP_STATE:
		return SET(struct kvm_mp_state, set_activity);
	default:
		return -ENOTTY;
	}
}
