// SPDX-License-Identifier: Apache-2.0
/* trap64.S - entry stubs of all vectors; in and out of ring 3. */
	.code64
	.altmacro
	.macro stub n
	.text
	.align	8
stub_\n:
	.if (\n == 8) || (\n == 17) || (\n == 21) || ((\n >= 10) && (\n <= 14))
	.else
	push	$0
	.endif
	push	$\n
	jmp	trap_common
	.data
	.quad	stub_\n
	.endm

	.data
	.align	8
	.globl	trap_stubs
trap_stubs:
	.set	i, 0
	.rept	256
	stub	%i
	.set	i, i + 1
	.endr

	.text
trap_common:
	push	%rax
	push	%rcx
	push	%rdx
	push	%rbx
	push	%rbp
	push	%rsi
	push	%rdi
	push	%r8
	push	%r9
	push	%r10
	push	%r11
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	cld
	mov	%rsp, %rdi
	mov	%rsp, %rbx
	and	$-16, %rsp
	call	trap_c
	mov	%rbx, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%r11
	pop	%r10
	pop	%r9
	pop	%r8
	pop	%rdi
	pop	%rsi
	pop	%rbp
	pop	%rbx
	pop	%rdx
	pop	%rcx
	pop	%rax
	add	$16, %rsp
	iretq

/* user_enter(fn, arg, stack, &save_sp) */
	.globl	user_enter
user_enter:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, (%rcx)
	mov	%rsp, tss_stack0(%rip)
	push	$0x2b
	push	%rdx
	push	user_flags(%rip)
	push	$0x33
	lea	user_start(%rip), %rax
	push	%rax
	iretq
user_start:
	mov	%rdi, %rax
	mov	%rsi, %rdi
	call	*%rax
	int	$0x81

	.globl	user_leave
user_leave:
	mov	%rdi, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
