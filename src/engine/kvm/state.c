// SPDX-License-Identifier: Apache-2.0
/* state.c - struct x86_state out of and into the host's KVM. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "engine/xsave.h"

/* ---- general registers ---- */

static void regs_to_state(const struct kvm_regs *r, struct x86_state *s)
{
	const uint64_t gpr[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
				   r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	memcpy(s->gpr, gpr, sizeof(gpr));
	s->rip = r->rip;
	s->rflags = r->rflags;
}

static struct kvm_regs regs_of_state(const struct x86_state *s)
{
	const uint64_t *g = s->gpr;

	return (struct kvm_regs){
		.rax = g[X86_RAX], .rcx = g[X86_RCX], .rdx = g[X86_RDX], .rbx = g[X86_RBX],
		.rsp = g[X86_RSP], .rbp = g[X86_RBP], .rsi = g[X86_RSI], .rdi = g[X86_RDI],
		.r8 = g[X86_R8],   .r9 = g[X86_R9],   .r10 = g[X86_R10], .r11 = g[X86_R11],
		.r12 = g[X86_R12], .r13 = g[X86_R13], .r14 = g[X86_R14], .r15 = g[X86_R15],
		.rip = s->rip,	   .rflags = s->rflags | X86_FL_ONE,
	};
}

/* ---- segments and control registers ---- */

static struct x86_segment seg_to_state(const struct kvm_segment *k)
{
	unsigned attr = k->type | (k->s ? X86_SEG_S : 0) |
			((unsigned)k->dpl << X86_SEG_DPL_SHIFT) | (k->present ? X86_SEG_P : 0) |
			(k->avl ? X86_SEG_AVL : 0) | (k->l ? X86_SEG_L : 0) |
			(k->db ? X86_SEG_DB : 0) | (k->g ? X86_SEG_G : 0) |
			(k->unusable ? X86_SEG_UNUSABLE : 0);

	return (struct x86_segment){ .base = k->base, .limit = k->limit, .selector = k->selector,
				     .attr = (uint16_t)attr };
}

static struct kvm_segment seg_of_state(const struct x86_segment *s)
{
	bool unusable = (s->attr & X86_SEG_UNUSABLE) || !(s->attr & X86_SEG_P);

	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & X86_SEG_TYPE,
		.present = !unusable,
		.dpl = (s->attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT,
		.db = !!(s->attr & X86_SEG_DB),
		.s = !!(s->attr & X86_SEG_S),
		.l = !!(s->attr & X86_SEG_L),
		.g = !!(s->attr & X86_SEG_G),
		.avl = !!(s->attr & X86_SEG_AVL),
		.unusable = unusable,
	};
}

static void sregs_to_state(const struct kvm_sregs *k, struct x86_state *s)
{
	s->seg[X86_ES] = seg_to_state(&k->es);
	s->seg[X86_CS] = seg_to_state(&k->cs);
	s->seg[X86_SS] = seg_to_state(&k->ss);
	s->seg[X86_DS] = seg_to_state(&k->ds);
	s->seg[X86_FS] = seg_to_state(&k->fs);
	s->seg[X86_GS] = seg_to_state(&k->gs);
	s->ldtr = seg_to_state(&k->ldt);
	s->tr = seg_to_state(&k->tr);
	s->gdtr = (struct x86_table){ .base = k->gdt.base, .limit = k->gdt.limit };
	s->idtr = (struct x86_table){ .base = k->idt.base, .limit = k->idt.limit };
	s->cr0 = k->cr0;
	s->cr2 = k->cr2;
	s->cr3 = k->cr3;
	s->cr4 = k->cr4;
	s->efer = k->efer;
}

/* CR8 and IA32_APIC_BASE are no part of the state and keep what @k has. */
static void sregs_of_state(struct kvm_sregs *k, const struct x86_state *s)
{
	k->es = seg_of_state(&s->seg[X86_ES]);
	k->cs = seg_of_state(&s->seg[X86_CS]);
	k->ss = seg_of_state(&s->seg[X86_SS]);
	k->ds = seg_of_state(&s->seg[X86_DS]);
	k->fs = seg_of_state(&s->seg[X86_FS]);
	k->gs = seg_of_state(&s->seg[X86_GS]);
	k->ldt = seg_of_state(&s->ldtr);
	k->tr = seg_of_state(&s->tr);
	k->gdt = (struct kvm_dtable){ .base = s->gdtr.base, .limit = s->gdtr.limit };
	k->idt = (struct kvm_dtable){ .base = s->idtr.base, .limit = s->idtr.limit };
	k->cr0 = s->cr0;
	k->cr2 = s->exception_pending && s->exception_vector == X86_PF ? s->exception_payload
								       : s->cr2;
	k->cr3 = s->cr3;
	k->cr4 = s->cr4;
	k->efer = s->efer;
	memset(k->interrupt_bitmap, 0, sizeof(k->interrupt_bitmap));
}

/* ---- x87, SSE, AVX ---- */

static int fxsave_get(const struct kvm_vcpu *vcpu, struct x86_fpu *f)
{
	struct kvm_fpu k;
	int r = kvm_ioctl(vcpu->fd, KVM_GET_FPU, &k);

	if (r < 0)
		return r;
	memset(f, 0, sizeof(*f));
	for (unsigned i = 0; i < 8; i++)
		memcpy(f->st[i], k.fpr[i], 10);
	for (unsigned i = 0; i < 16; i++)
		memcpy(f->vec[i], k.xmm[i], 16);
	f->fcw = k.fcw;
	f->fsw = k.fsw;
	f->ftw = k.ftwx;
	f->fop = k.last_opcode;
	f->fip = k.last_ip;
	f->fdp = k.last_dp;
	f->mxcsr = k.mxcsr;
	return 0;
}

static int fxsave_set(const struct kvm_vcpu *vcpu, const struct x86_fpu *f)
{
	struct kvm_fpu k = {
		.fcw = f->fcw, .fsw = f->fsw, .ftwx = f->ftw, .last_opcode = f->fop,
		.last_ip = f->fip, .last_dp = f->fdp, .mxcsr = f->mxcsr,
	};

	for (unsigned i = 0; i < 8; i++)
		memcpy(k.fpr[i], f->st[i], 10);
	for (unsigned i = 0; i < 16; i++)
		memcpy(k.xmm[i], f->vec[i], 16);
	return kvm_ioctl(vcpu->fd, KVM_SET_FPU, &k);
}

static int xsave_get(const struct kvm_vcpu *vcpu, uint8_t *x)
{
	size_t size = kvm_of(&vcpu->vcpu)->xsave_bytes;

	return kvm_ioctl(vcpu->fd,
			 size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, x);
}

static int fpu_get(const struct kvm_vcpu *vcpu, struct x86_fpu *f)
{
	size_t size = kvm_of(&vcpu->vcpu)->xsave_bytes;
	g_autofree uint8_t *x = NULL;
	int r;

	if (!size)
		return fxsave_get(vcpu, f);
	x = g_malloc0(size);
	r = xsave_get(vcpu, x);
	if (r >= 0)
		xsave_load(&kvm_of(&vcpu->vcpu)->xsave, x, f);
	return r;
}

static int fpu_set(const struct kvm_vcpu *vcpu, const struct x86_fpu *f)
{
	size_t size = kvm_of(&vcpu->vcpu)->xsave_bytes;
	g_autofree uint8_t *x = NULL;
	int r;

	if (!size)
		return fxsave_set(vcpu, f);
	x = g_malloc0(size);
	r = xsave_get(vcpu, x);
	if (r < 0)
		return r;
	xsave_store(&kvm_of(&vcpu->vcpu)->xsave, x, kvm_cpuid_xcr0(kvm_of(&vcpu->vcpu)), f);
	return kvm_ioctl(vcpu->fd, KVM_SET_XSAVE, x);
}

static int xcr0_get(const struct kvm_vcpu *vcpu, struct x86_state *s)
{
	struct kvm_xcrs x = { 0 };
	int r;

	s->xcr0 = 1;
	if (!kvm_of(&vcpu->vcpu)->xsave_bytes)
		return 0;
	r = kvm_ioctl(vcpu->fd, KVM_GET_XCRS, &x);
	for (unsigned i = 0; r >= 0 && i < MIN(x.nr_xcrs, (uint32_t)KVM_MAX_XCRS); i++) {
		if (x.xcrs[i].xcr == 0)
			s->xcr0 = x.xcrs[i].value;
	}
	return r;
}

static int xcr0_set(const struct kvm_vcpu *vcpu, const struct x86_state *s)
{
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = s->xcr0 } };

	if (!kvm_of(&vcpu->vcpu)->xsave_bytes)
		return 0;
	return kvm_ioctl(vcpu->fd, KVM_SET_XCRS, &x);
}

/* ---- debug registers ---- */

static int debugregs_get(const struct kvm_vcpu *vcpu, struct x86_state *s)
{
	struct kvm_debugregs d;
	int r = kvm_ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &d);

	if (r < 0)
		return r;
	memcpy(s->dr, d.db, sizeof(d.db));
	s->dr[6] = d.dr6;
	s->dr[7] = d.dr7;
	return 0;
}

static int debugregs_set(const struct kvm_vcpu *vcpu, const struct x86_state *s)
{
	struct kvm_debugregs d = { .dr6 = s->dr[6], .dr7 = s->dr[7] };

	memcpy(d.db, s->dr, sizeof(d.db));
	return kvm_ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &d);
}

/* ---- events ---- */

static int events_get(const struct kvm_vcpu *vcpu, struct x86_state *s)
{
	struct kvm_vcpu_events e = { 0 };
	int r = kvm_ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &e);

	if (r < 0)
		return r;
	s->exception_pending = e.exception.injected;
	s->exception_vector = e.exception.nr;
	s->exception_has_error = e.exception.has_error_code;
	s->exception_error = e.exception.error_code;
	s->exception_payload = e.exception.nr == X86_PF ? s->cr2 : 0;
	s->interrupt_pending = e.interrupt.injected && !e.interrupt.soft;
	s->interrupt_vector = e.interrupt.nr;
	s->interrupt_shadow = (uint8_t)((e.interrupt.shadow & KVM_X86_SHADOW_INT_STI ? 1 : 0) |
					(e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? 2 : 0));
	/* One injected but not delivered is given back; its mask comes with the delivery. */
	s->nmi_pending = e.nmi.pending || e.nmi.injected;
	s->nmi_masked = e.nmi.masked && !e.nmi.injected;
	return 0;
}

static int events_set(const struct kvm_vcpu *vcpu, const struct x86_state *s)
{
	struct kvm_vcpu_events e = {
		.exception.injected = s->exception_pending,
		.exception.nr = s->exception_vector,
		.exception.has_error_code = s->exception_has_error,
		.exception.error_code = s->exception_error,
		.interrupt.injected = s->interrupt_pending,
		.interrupt.nr = s->interrupt_vector,
		.interrupt.shadow = (uint8_t)((s->interrupt_shadow & 1 ? KVM_X86_SHADOW_INT_STI : 0) |
					      (s->interrupt_shadow & 2 ? KVM_X86_SHADOW_INT_MOV_SS
								       : 0)),
		.nmi.pending = s->nmi_pending,
		.nmi.masked = s->nmi_masked,
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
	};

	return kvm_ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &e);
}

/* ---- activity ---- */

static int activity_get(const struct kvm_vcpu *vcpu, struct x86_state *s)
{
	struct kvm_mp_state mp;
	int r;

	s->activity = vcpu->activity;
	if (!kvm_has_irqchip(kvm_of(&vcpu->vcpu)) || vcpu->activity == X86_SHUTDOWN)
		return 0;
	r = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);
	if (r < 0)
		return r;
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
		s->activity = X86_WAIT_SIPI;
		break;
	case KVM_MP_STATE_HALTED:
		s->activity = X86_HALTED;
		break;
	default:
		s->activity = X86_RUNNING;
	}
	return 0;
}

static int activity_set(struct kvm_vcpu *vcpu, const struct x86_state *s)
{
	static const uint8_t mp_states[] = {
		[X86_RUNNING] = KVM_MP_STATE_RUNNABLE,
		[X86_HALTED] = KVM_MP_STATE_HALTED,
		[X86_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
		[X86_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,
	};
	struct kvm_mp_state mp = { .mp_state = mp_states[s->activity & 3] };

	vcpu->activity = s->activity;
	if (!kvm_has_irqchip(kvm_of(&vcpu->vcpu)))
		return 0;
	return kvm_ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
}

int kvm_vcpu_get_state(struct engine_vcpu *base, struct x86_state *state)
{
	struct kvm_vcpu *vcpu = (struct kvm_vcpu *)base;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	int r;

	memset(state, 0, sizeof(*state));
	r = kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	if (r >= 0)
		r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (r < 0)
		return r;
	regs_to_state(&regs, state);
	sregs_to_state(&sregs, state);
	r = fpu_get(vcpu, &state->fpu);
	if (r >= 0)
		r = xcr0_get(vcpu, state);
	if (r >= 0)
		r = debugregs_get(vcpu, state);
	if (r >= 0)
		r = kvm_msrs_load(vcpu, state);
	if (r >= 0)
		r = events_get(vcpu, state);
	if (r >= 0)
		r = activity_get(vcpu, state);
	return r < 0 ? r : 0;
}

/* XCR0 before the XSAVE area, control registers before MSRs, events last: setting registers clears
 * pending exceptions. */
static int state_set(struct kvm_vcpu *vcpu, const struct x86_state *state, bool with_tsc)
{
	struct kvm_regs regs = regs_of_state(state);
	struct kvm_sregs sregs;
	int r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);

	if (r < 0)
		return r;
	sregs_of_state(&sregs, state);
	r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (r >= 0)
		r = xcr0_set(vcpu, state);
	if (r >= 0)
		r = fpu_set(vcpu, &state->fpu);
	if (r >= 0)
		r = debugregs_set(vcpu, state);
	if (r >= 0)
		r = kvm_msrs_store(vcpu, state, with_tsc);
	if (r >= 0)
		r = kvm_ioctl(vcpu->fd, KVM_SET_REGS, &regs);
	if (r >= 0)
		r = events_set(vcpu, state);
	if (r >= 0)
		r = activity_set(vcpu, state);
	/* What the last KVM_RUN said of interrupts is about the state that was. */
	vcpu->run->ready_for_interrupt_injection = 0;
	vcpu->run->if_flag = !!(state->rflags & X86_FL_IF);
	kvm_vcpu_note_tsc(vcpu);
	return r < 0 ? r : 0;
}

int kvm_vcpu_set_state(struct engine_vcpu *base, const struct x86_state *state)
{
	return state_set((struct kvm_vcpu *)base, state, true);
}

int kvm_state_continue(struct kvm_vcpu *vcpu, const struct x86_state *state)
{
	return state_set(vcpu, state, false);
}
