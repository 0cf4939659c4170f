// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmx_real.c - guests in real mode, and on their way out of it, on a processor that is to run neither. Sections are of the
 * SDM, volume 3: see vmcs.h.
 *
 * Theory of operation
 *
 * Without "unrestricted guest" an entry wants protection and paging on (26.3.1.1), and segments that protected mode could
 * have loaded (26.3.1.2). What the guest's state says is one of three things to the processor (enum vmx_shape).
 *
 * Real mode whose segments are those of the 8086 becomes virtual-8086 mode, at privilege 3. IOPL is 0 and CR4.VME clear there, and
 * the task state segment is too short for a map of ports: so each instruction that tells the one mode from the other is #GP
 * (20.2.3 to 20.2.8, 20.3), exits, and the x86 core executes it in real mode, PUSHF and INT n among them. Nothing of
 * the guest's memory is needed for it: neither a task state segment nor a map for redirection in one. An event that the processor
 * would inject goes by the IDT and to privilege 0; so the x86 core delivers it, by the table of real mode.
 *
 * What is neither is executed by the x86 core, one instruction at a time, until it is: with limits beyond 64 KiB,
 * behind a reset, or between the MOV to CR0 and the far jump.
 *
 * Paging is on whatever the guest says: shadow tables, or, with EPT, a table that maps all to itself (vmx_state.c).
 */
#include "vmx.h"

#include "sys_int.h"

/* Of the type of code and data. */
#define TYPE_CODE	8u
#define TYPE_CONFORMING 4u
#define TYPE_WRITABLE	2u /* of code: readable */

/* ---- what the state is to the processor ---- */

static bool is_there(const struct x86_segment *seg)
{
	return seg->attr & X86_SEG_P && !(seg->attr & X86_SEG_UNUSABLE);
}

/* 26.3.1.2, "if the guest will be virtual-8086"; and 16 bits, to be read and written. */
static bool is_8086(const struct x86_state *s)
{
	for (unsigned int i = 0; i < X86_SEG_COUNT; i++) {
		const struct x86_segment *seg = &s->seg[i];
		bool data = (seg->attr & (X86_SEG_S | 0xe)) == (X86_SEG_S | TYPE_WRITABLE);

		if (!is_there(seg) || seg->base != (u32)seg->selector << 4 || seg->limit != 0xffff)
			return false;
		if (i == X86_CS ? seg->attr & X86_SEG_DB : !data)
			return false;
	}
	return !(s->seg[X86_SS].attr & X86_SEG_DB);
}

static unsigned int dpl_of(const struct x86_segment *seg)
{
	return (seg->attr & X86_SEG_DPL) >> X86_SEG_DPL_SHIFT;
}

static bool code_is_valid(const struct x86_state *s)
{
	const struct x86_segment *cs = &s->seg[X86_CS];
	unsigned int dpl = dpl_of(cs), ss = dpl_of(&s->seg[X86_SS]);

	if (!is_there(cs) || !(cs->attr & X86_SEG_S) || !(cs->attr & TYPE_CODE))
		return false;
	if (s->efer & X86_EFER_LMA && cs->attr & X86_SEG_L && cs->attr & X86_SEG_DB)
		return false;
	return cs->attr & TYPE_CONFORMING ? dpl <= ss : dpl == ss;
}

static bool stack_is_valid(const struct x86_state *s)
{
	const struct x86_segment *ss = &s->seg[X86_SS];
	unsigned int rpl = ss->selector & X86_SEL_RPL;

	if (rpl != (s->seg[X86_CS].selector & X86_SEL_RPL) || dpl_of(ss) != rpl)
		return false;
	return !is_there(ss) || (ss->attr & (X86_SEG_S | TYPE_CODE | TYPE_WRITABLE)) == (X86_SEG_S | TYPE_WRITABLE);
}

static bool data_is_valid(const struct x86_segment *seg)
{
	bool code = seg->attr & TYPE_CODE;

	if (!is_there(seg))
		return true;
	if (!(seg->attr & X86_SEG_S) || (code && !(seg->attr & TYPE_WRITABLE)))
		return false;
	return (code && seg->attr & TYPE_CONFORMING) || dpl_of(seg) >= (seg->selector & X86_SEL_RPL);
}

/* 26.3.1.2, of what can become of segments that were loaded in real mode; vmx_push() mends the rest. */
static bool is_protected(const struct x86_state *s)
{
	static const u8 data[] = { X86_DS, X86_ES, X86_FS, X86_GS };

	if (s->rflags & X86_FL_VM && !(s->efer & X86_EFER_LMA))
		return true;
	for (unsigned int i = 0; i < ARRAY_SIZE(data); i++) {
		if (!data_is_valid(&s->seg[data[i]]))
			return false;
	}
	return code_is_valid(s) && stack_is_valid(s) && !(s->tr.selector & X86_SEL_TI) &&
	       !(is_there(&s->ldtr) && s->ldtr.selector & X86_SEL_TI);
}

static enum vmx_shape shape_of(const struct x86_state *s)
{
	if (s->cr0 & X86_CR0_PE)
		return is_protected(s) ? SHAPE_OWN : SHAPE_NONE;
	return is_8086(s) ? SHAPE_V86 : SHAPE_NONE;
}

bool vmx_needs_core(struct vcpu *vcpu)
{
	struct vmx_vcpu *vmx = vmx_of(vcpu);

	if (vmx_features.unrestricted)
		return false;
	if (vcpu->changed) /* what the processor itself does to the state is valid */
		vmx->shape = shape_of(&vcpu->cpu.s);
	return vmx->shape == SHAPE_NONE || (vmx->shape == SHAPE_V86 && vcpu->has_injected);
}

/* ---- virtual-8086 mode ---- */

#define V86_ACCESS (X86_SEG_P | X86_SEG_S | X86_SEG_DPL | 3) /* 26.3.1.2 */
#define TSS_BUSY   (X86_SEG_P | 11)

void vmx_push_v86(struct vmx_vcpu *vmx, const struct x86_state *s)
{
	for (unsigned int i = 0; i <= VMX_TR; i++) {
		bool own = i < X86_SEG_COUNT;

		vmx_set(vmx, VMX_SELECTOR + i, own ? s->seg[i].selector : 0);
		vmx_set(vmx, VMX_LIMIT + i, own ? s->seg[i].limit : 0);
		vmx_set(vmx, VMX_BASE + i, own ? s->seg[i].base : 0);
		vmx_set(vmx, VMX_ACCESS + i, own ? V86_ACCESS : i == VMX_TR ? TSS_BUSY : ACCESS_UNUSABLE);
	}
	vmx_set(vmx, VMX_RFLAGS, (s->rflags & 0x3f7fd5 & ~(u64)X86_FL_IOPL) | X86_FL_ONE | X86_FL_VM);
}

/* A segment was loaded with what real mode loads as well: base and selector. */
void vmx_pull_v86(struct vmx_vcpu *vmx, struct x86_state *s)
{
	const u64 *f = vmx->field;

	for (unsigned int i = 0; i < X86_SEG_COUNT; i++) {
		s->seg[i].selector = f[VMX_SELECTOR + i];
		s->seg[i].base = f[VMX_BASE + i];
	}
	s->rflags = (f[VMX_RFLAGS] & ~(u64)(X86_FL_VM | X86_FL_IOPL)) | (s->rflags & X86_FL_IOPL);
}

/* What real mode has no such thing of, or has in another way, it executes anew; of instructions that the core lacks, and of
 * those that have none, the exception is real mode's too. */
int vmx_exception_v86(struct vcpu *vcpu, u8 vector)
{
	switch (vector) {
	case X86_GP:
	case X86_SS_FAULT:
		if (!emulate_length(vcpu) || !vcpu->emu.floating)
			return emulate_any(vcpu);
		break;
	case X86_UD:
		return exit_invalid(vcpu);
	case X86_BP:
	case X86_OF:
		return emulate_any(vcpu);
	}
	event_raise(vcpu, vector, false, 0);
	return 1;
}
