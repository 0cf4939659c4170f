// SPDX-License-Identifier: Apache-2.0
/* trap32.S - entry stubs of all vectors; in and out of ring 3. */
	.code32
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
	.long	stub_\n
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
	pusha
	push	%ds
	push	%es
	push	%fs
	push	%gs
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	cld
	push	%esp
	call	trap_c
	add	$4, %esp
	.globl	trap_exit
trap_exit:
	pop	%gs
	pop	%fs
	pop	%es
	pop	%ds
	popa
	add	$8, %esp
	iret

/* user_enter(fn, arg, stack, &save_sp) */
	.globl	user_enter
user_enter:
	push	%ebp
	push	%ebx
	push	%esi
	push	%edi
	mov	20(%esp), %esi
	mov	24(%esp), %edi
	mov	28(%esp), %edx
	mov	32(%esp), %ecx
	mov	%esp, (%ecx)
	mov	%esp, tss_stack0
	mov	$0x2b, %eax
	mov	%eax, %ds
	mov	%eax, %es
	push	$0x2b
	push	%edx
	push	user_flags
	push	$0x23
	push	$user_start
	iret
user_start:
	push	%edi
	call	*%esi
	int	$0x81

	.globl	user_leave
user_leave:
	mov	4(%esp), %eax
	mov	%eax, %esp
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	pop	%edi
	pop	%esi
	pop	%ebx
	pop	%ebp
	ret
