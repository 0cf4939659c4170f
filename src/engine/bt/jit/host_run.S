/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_run.S - registers around one instruction of the guest; see host_insn.h.
 *
 * void bt_host_run(struct x86_fpu *fpu, struct x86_host_op *op, const void *code)
 *
 * The code has the general register in RAX and the address of op->mem in RCX, spoils neither RDI nor RSI,
 * and ends in RET.
 */
#define OPMASK(k) (2048 + 8 * k)(%rdi)
#define GPR	  64(%rsi)
#define RFLAGS	  72(%rsi)
#define MXCSR	  80(%rsi)
#define STATUS	  0x8d5 /* CF PF AF ZF SF OF */

	.text
	.globl	bt_host_run
	.type	bt_host_run, @function
	.p2align 4
bt_host_run:
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovaps	64 * \r(%rdi), %zmm\r
	.endr
	.irp	r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovaps	64 * \r(%rdi), %zmm\r
	.endr
	.irp	k, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	OPMASK(\k), %k\k
	.endr
	movq	RFLAGS, %r8
	andl	$STATUS, %r8d
	stmxcsr	-8(%rsp)
	movl	-8(%rsp), %r9d
	ldmxcsr	MXCSR
	movq	GPR, %rax
	movq	%rsi, %rcx
	pushq	%r9
	pushq	%r8
	popfq
	call	*%rdx
	pushfq
	popq	RFLAGS
	movq	%rax, GPR
	stmxcsr	MXCSR
	ldmxcsr	(%rsp)
	addq	$8, %rsp
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovaps	%zmm\r, 64 * \r(%rdi)
	.endr
	.irp	r, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovaps	%zmm\r, 64 * \r(%rdi)
	.endr
	.irp	k, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	%k\k, OPMASK(\k)
	.endr
	vzeroupper
	ret
	.size	bt_host_run, . - bt_host_run

/* IRETQ is the one instruction that serializes which every processor has for programs and no
 * hypervisor intercepts: SDM vol. 3, 9.3. */
	.globl	bt_host_serialize
	.type	bt_host_serialize, @function
	.p2align 4
bt_host_serialize:
	movq	%rsp, %rax
	movl	%ss, %ecx
	pushq	%rcx
	pushq	%rax
	pushfq
	movl	%cs, %ecx
	pushq	%rcx
	leaq	1f(%rip), %rcx
	pushq	%rcx
	iretq
1:	ret
	.size	bt_host_serialize, . - bt_host_serialize

	.section .note.GNU-stack, "", @progbits
