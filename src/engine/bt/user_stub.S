/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user_stub.S - the only code of ours in a runner (user.h). It is copied there, and uses no memory but struct
 * bt_user_area, to which RSP points.
 *
 * bt_user_stub: one system call, its registers set already.
 * At bt_user_stub_list_at from there: RBX points to struct bt_user_call, one after another, the last with number -1;
 * R12 is the key with which the host lets them pass. Then what was done is wiped, and it goes on with the
 * registers of the frame; or stops, where @stop is set, with RAX 0. Where one failed it stops with RAX from -4095 to -1,
 * and RBX at it. R12 is the key until the very last instruction, which is at bt_user_stub_iret_at. At
 * bt_user_stub_called_at is what follows the one system call of lists; from bt_user_stub_asked_at on @stop comes too late.
 */
#define AREA_STOP 128
#define AREA_CALL 256
#define CALL_BYTES 56

	.section .rodata
	.globl	bt_user_stub, bt_user_stub_list_at, bt_user_stub_called_at, bt_user_stub_asked_at, bt_user_stub_iret_at, bt_user_stub_bytes
bt_user_stub:
	syscall
	int3
list:
	movq	(%rbx), %rax
	cmpq	$-1, %rax
	je	wipe
	movq	8(%rbx), %rdi
	movq	16(%rbx), %rsi
	movq	24(%rbx), %rdx
	movq	32(%rbx), %r10
	movq	40(%rbx), %r8
	orq	%r12, %r8
	movq	48(%rbx), %r9
	syscall
called:
	cmpq	$-4095, %rax
	jae	stop
	addq	$CALL_BYTES, %rbx
	jmp	list
wipe:
	leaq	AREA_CALL(%rsp), %rdi
	movq	%rbx, %rcx
	subq	%rdi, %rcx
	shrq	$3, %rcx
	xorl	%eax, %eax
	rep stosq
	cmpl	$0, AREA_STOP(%rsp)
asked:
	jne	stop
	popq	%rax
	popq	%rbx
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	popq	%r8
	popq	%r9
	popq	%r10
	popq	%r11
	popq	%r12
iret:
	iretq
stop:
	int3
end:
	.p2align 2
bt_user_stub_list_at:
	.long	list - bt_user_stub
bt_user_stub_called_at:
	.long	called - bt_user_stub
bt_user_stub_asked_at:
	.long	asked - bt_user_stub
bt_user_stub_iret_at:
	.long	iret - bt_user_stub
bt_user_stub_bytes:
	.long	end - bt_user_stub
	.section .note.GNU-stack, "", @progbits
