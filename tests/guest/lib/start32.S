// SPDX-License-Identifier: Apache-2.0
/* start32.S - multiboot entry of 32-bit guests: protected mode, no paging. */
	.section .multiboot, "a"
	.align	4
	.long	0x1badb002, 0x3, -(0x1badb002 + 0x3)

	.code32
	.text
	.globl	_start
_start:
	cld
	mov	$stack_top, %esp
	mov	%ebx, multiboot_info
	lgdt	gdt_pointer
	ljmp	$0x08, $1f
1:	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%cr0, %eax
	or	$0x20, %eax	/* NE */
	mov	%eax, %cr0
	mov	$tss, %eax
	mov	%ax, tss_descriptor + 2
	shr	$16, %eax
	mov	%al, tss_descriptor + 4
	mov	%ah, tss_descriptor + 7
	mov	$0x40, %eax
	ltr	%ax
	xor	%ebp, %ebp
	call	guest_main

	.data
	.align	16
	.globl	gdt, gdt_pointer
	.set	GDT_BYTES, 32 * 8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff
	.quad	0x00cf93000000ffff
	.quad	0x00af9b000000ffff
	.quad	0x00cffb000000ffff
	.quad	0x00cff3000000ffff
	.quad	0x00affb000000ffff
	.quad	0
tss_descriptor:
	.word	tss_end - tss - 1, 0	/* base: at run time */
	.byte	0, 0x89, 0, 0
	.rept	23
	.quad	0
	.endr
gdt_pointer:
	.word	GDT_BYTES - 1
	.long	gdt
	.globl	multiboot_info
multiboot_info:
	.long	0
	.globl	tss, tss_stack0
	.align	16
tss:
	.long	0
tss_stack0:
	.long	stack_top, 0x10
	.fill	22, 4, 0
	.word	0, tss_iomap - tss
	.fill	32, 1, 0		/* interrupt redirection bitmap */
tss_iomap:
	.fill	8193, 1, 0xff
tss_end:

	.bss
	.align	4096
	.skip	16384
stack_top:
