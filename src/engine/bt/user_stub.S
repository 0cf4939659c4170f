/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user_stub.S - the only code of ours in a runner (user.h). It is copied there, and uses no memory but the list of
 * system calls, which the runner cannot write.
 *
 * bt_user_stub: one system call, its registers set already.
 * At bt_user_stub_list_at from there: RBX points to struct bt_user_call, one after another, the last with number -1. Stops with
 * RAX a number from -4095 to -1 where one failed, and RBX at it.
 */
	.section .rodata
	.globl	bt_user_stub, bt_user_stub_list_at, bt_user_stub_bytes
bt_user_stub:
	syscall
	int3
list:
	movq	(%rbx), %rax
	cmpq	$-1, %rax
	je	2f
	movq	8(%rbx), %rdi
	movq	16(%rbx), %rsi
	movq	24(%rbx), %rdx
	movq	32(%rbx), %r10
	movq	40(%rbx), %r8
	movq	48(%rbx), %r9
	syscall
	cmpq	$-4095, %rax
	jae	1f
	addq	$56, %rbx
	jmp	list
2:	xorl	%eax, %eax
1:	int3
end:
	.p2align 2
bt_user_stub_list_at:
	.long	list - bt_user_stub
bt_user_stub_bytes:
	.long	end - bt_user_stub
	.section .note.GNU-stack, "", @progbits
