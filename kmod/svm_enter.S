/* SPDX-License-Identifier: GPL-2.0-only */
/* svm_enter.S - into the guest and back: APM vol. 2, 15.5. */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/frame.h>
#include <asm/nospec-branch.h>

#define RCX 8
#define RDX 16
#define RBX 24
#define RBP 40
#define RSI 48
#define RDI 56
#define R8  64

	.text

/* void svm_run(u64 vmcb_pa, u64 *gpr, u64 host_pa)
 *
 * Interrupts are off, and GIF is set. Behind CLGI nothing comes in between the guest's state and the
 * host's; an interrupt that makes the guest exit is taken after STGI, when the caller lets it. RFLAGS.IF as
 * VMRUN finds it tells whether the host's interrupts make the guest exit at all (15.21.1). */
SYM_FUNC_START(svm_run)
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdx
	push	%rsi

	clgi
	sti		/* not next to VMRUN: its shadow would go on in the guest */
	mov	%rdx, %rax
	vmsave	%rax
	mov	%rdi, %rax
	vmload	%rax

	mov	%rsi, %rdi
	mov	R8+0(%rdi), %r8
	mov	R8+8(%rdi), %r9
	mov	R8+16(%rdi), %r10
	mov	R8+24(%rdi), %r11
	mov	R8+32(%rdi), %r12
	mov	R8+40(%rdi), %r13
	mov	R8+48(%rdi), %r14
	mov	R8+56(%rdi), %r15
	mov	RCX(%rdi), %rcx
	mov	RDX(%rdi), %rdx
	mov	RBX(%rdi), %rbx
	mov	RBP(%rdi), %rbp
	mov	RSI(%rdi), %rsi
	mov	RDI(%rdi), %rdi

	push	%rax		/* the VMCB's address; RAX of the guest is in it */
	vmrun	%rax
	cli

	pop	%rax
	vmsave	%rax

	xchg	(%rsp), %rdi	/* the guest's RDI, where gpr was */
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
	pop	%rax
	mov	%rax, RDI(%rdi)

	/* What the guest trained must not lead returns of the host astray. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RETPOLINE

	pop	%rax		/* the host's */
	vmload	%rax
	stgi

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
SYM_FUNC_END(svm_run)
