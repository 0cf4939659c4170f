/* SPDX-License-Identifier: GPL-2.0-only */
/* vmx_enter.S - into the guest and back: SDM vol. 3, chapters 26 and 27. */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

#define HOST_RSP 0x6c14 /* table B-15 */

#define RCX 8
#define RDX 16
#define RBX 24
#define RBP 40
#define RSI 48
#define RDI 56
#define R8  64

	.text

/* bool vmx_run(u64 *gpr, bool launched)
 *
 * Interrupts are off. An exit comes to vmx_exited with the host's RSP and cleared flags; an entry that is
 * refused falls through to it, with the carry or the zero flag set and all registers as they were. */
SYM_FUNC_START(vmx_run)
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi

	mov	$HOST_RSP, %eax
.Lwrite:
	vmwrite	%rsp, %rax
.Lwritten:
	test	%sil, %sil	/* moves leave the flags as they are */

	mov	R8+0(%rdi), %r8
	mov	R8+8(%rdi), %r9
	mov	R8+16(%rdi), %r10
	mov	R8+24(%rdi), %r11
	mov	R8+32(%rdi), %r12
	mov	R8+40(%rdi), %r13
	mov	R8+48(%rdi), %r14
	mov	R8+56(%rdi), %r15
	mov	(%rdi), %rax
	mov	RCX(%rdi), %rcx
	mov	RDX(%rdi), %rdx
	mov	RBX(%rdi), %rbx
	mov	RBP(%rdi), %rbp
	mov	RSI(%rdi), %rsi
	mov	RDI(%rdi), %rdi
	jz	.Llaunch
.Lresume:
	vmresume
	jmp	.Lexited
.Llaunch:
	vmlaunch
.Lexited:
SYM_INNER_LABEL(vmx_exited, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR
	xchg	(%rsp), %rdi	/* the guest's RDI, where gpr was */
	mov	%rax, (%rdi)
	setbe	%al
	mov	%r8, R8+0(%rdi)
	mov	%r9, R8+8(%rdi)
	mov	%r10, R8+16(%rdi)
	mov	%r11, R8+24(%rdi)
	mov	%r12, R8+32(%rdi)
	mov	%r13, R8+40(%rdi)
	mov	%r14, R8+48(%rdi)
	mov	%r15, R8+56(%rdi)
	mov	%rcx, RCX(%rdi)
	mov	%rdx, RDX(%rdi)
	mov	%rbx, RBX(%rdi)
	mov	%rbp, RBP(%rdi)
	mov	%rsi, RSI(%rdi)
	pop	%rcx
	mov	%rcx, RDI(%rdi)
	movzbl	%al, %eax

	/* What the guest trained must not lead returns of the host astray. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RETPOLINE

	/* No value of the guest is left for speculation to use. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET

	/* Undefined: the host has left VMX operation, on its way down. */
.Lundefined:
	stc
	jmp	.Lexited
	_ASM_EXTABLE(.Lresume, .Lundefined)
	_ASM_EXTABLE(.Llaunch, .Lundefined)
	_ASM_EXTABLE(.Lwrite, .Lwritten)
SYM_FUNC_END(vmx_run)
