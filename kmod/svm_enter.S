/* SPDX-License-Identifier: GPL-2.0-only */
/* svm_enter.S - into the guest and back: APM vol. 2, 15.5. */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/frame.h>
#include <asm/nospec-branch.h>

#include "enter.h"

	.text

/* void svm_run(u64 vmcb_pa, u64 *gpr, u64 host_pa)
 *
 * At host_pa there is what VMSAVE has saved of the host.
 *
 * Interrupts are off, and GIF is set. Behind CLGI nothing comes in between the guest's state and the
 * host's; an interrupt that makes the guest exit is taken after STGI, when the caller lets it. RFLAGS.IF as
 * VMRUN finds it tells whether the host's interrupts make the guest exit at all (15.21.1). */
SYM_FUNC_START(svm_run)
	PUSH_HOST
	push	%rdx
	push	%rsi

	clgi
	sti		/* not next to VMRUN: its shadow would go on in the guest */
	mov	%rdi, %rax
	vmload	%rax

	mov	%rsi, %rdi
	LOAD_GUEST

#ifdef X86_FEATURE_CLEAR_CPU_BUF_VM
	VM_CLEAR_CPU_BUFFERS	/* where the processor lets a guest see what they hold */
#endif
	push	%rax		/* the VMCB's address; RAX of the guest is in it */
	vmrun	%rax
	cli

	pop	%rax
	vmsave	%rax

	xchg	(%rsp), %rdi	/* the guest's RDI, where gpr was */
	STORE_GUEST

	/* What the guest trained must not lead returns of the host astray. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RETPOLINE

	pop	%rax		/* the host's */
	vmload	%rax
	stgi

	/* Nor returns by a table that it shares with the guest; takes RAX, RCX and RDX. */
	UNTRAIN_RET
	ALTERNATIVE "", "call entry_ibpb", X86_FEATURE_IBPB_ON_VMEXIT

	POP_HOST
	RET
SYM_FUNC_END(svm_run)
