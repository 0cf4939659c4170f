/* SPDX-License-Identifier: GPL-2.0-only */
/* enter.h - what entering a guest and coming back have in common with both vendors; assembler only. */
#pragma once

/* In a vCPU's registers, by the processor's numbers of them. */
#define RAX 0
#define RCX 8
#define RDX 16
#define RBX 24
#define RBP 40
#define RSI 48
#define RDI 56
#define R8  64

/* What a C function must leave as it was. */
.macro PUSH_HOST
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
.endm

/* From (%rdi), which comes last. Flags stay. RAX and RSP are the vendor's. */
.macro LOAD_GUEST
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
.endm

/* To (%rdi); RDI itself is on the stack. Flags stay. */
.macro STORE_GUEST
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
.endm

/* No value of the guest is left for speculation to use. */
.macro POP_HOST
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
.endm
