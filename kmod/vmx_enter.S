/* SPDX-License-Identifier: GPL-2.0-only */
/* vmx_enter.S - into the guest and back: SDM vol. 3, chapters 26 and 27. */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

#include "enter.h"

#define HOST_RSP 0x6c14 /* table B-15 */

	.text

/* bool vmx_run(u64 *gpr, bool launched)
 *
 * Interrupts are off. An exit comes to vmx_exited with the host's RSP and cleared flags; an entry that is
 * refused falls through to it, with the carry or the zero flag set and all registers as they were. */
SYM_FUNC_START(vmx_run)
	PUSH_HOST
	push	%rdi

	mov	$HOST_RSP, %eax
.Lwrite:
	vmwrite	%rsp, %rax
.Lwritten:
	bt	$0, %esi	/* launched; moves leave the flags as they are, and what comes below the carry */

	mov	RAX(%rdi), %rax
	LOAD_GUEST
	CLEAR_CPU_BUFFERS	/* where the processor lets a guest see what they hold */
	jnc	.Llaunch
.Lresume:
	vmresume
	jmp	.Lexited
.Llaunch:
	vmlaunch
.Lexited:
SYM_INNER_LABEL(vmx_exited, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR
	xchg	(%rsp), %rdi	/* the guest's RDI, where gpr was */
	mov	%rax, RAX(%rdi)
	setbe	%al
	STORE_GUEST
	movzbl	%al, %ebx

	/* What the guest trained must not lead returns of the host astray, nor, by the history of branches, its jumps;
	 * that takes RAX and RCX. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE
#ifdef X86_FEATURE_CLEAR_BHB_LOOP_ON_VMEXIT
	CLEAR_BRANCH_HISTORY_VMEXIT
#endif

	mov	%ebx, %eax
	POP_HOST
	RET

	/* Undefined: the host has left VMX operation, on its way down. */
.Lundefined:
	stc
	jmp	.Lexited
	_ASM_EXTABLE(.Lresume, .Lundefined)
	_ASM_EXTABLE(.Llaunch, .Lundefined)
	_ASM_EXTABLE(.Lwrite, .Lwritten)
SYM_FUNC_END(vmx_run)
