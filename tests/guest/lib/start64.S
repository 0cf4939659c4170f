// SPDX-License-Identifier: Apache-2.0
/* start64.S - multiboot entry, to 64-bit mode with the low 4 GiB identity mapped; other CPUs too. */
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
	/* Four page directories of 2 MiB pages. */
	mov	$boot_pd, %edi
	mov	$0x83, %eax
	mov	$2048, %ecx
1:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	1b
	movl	$boot_pdpt + 0x7, boot_pml4
	movl	$boot_pd + 0x0007, boot_pdpt
	movl	$boot_pd + 0x1007, boot_pdpt + 8
	movl	$boot_pd + 0x2007, boot_pdpt + 16
	movl	$boot_pd + 0x3007, boot_pdpt + 24
	call	long_mode_on
	ljmp	$0x18, $start64

/* Paging, long mode, NX, SSE. */
long_mode_on:
	mov	%cr4, %eax
	or	$0x6a0, %eax	/* PAE, PGE, OSFXSR, OSXMMEXCPT */
	mov	%eax, %cr4
	mov	$boot_pml4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x900, %eax	/* LME, NXE */
	wrmsr
	mov	$0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ret

	.code64
start64:
	call	load_segments
	lea	tss(%rip), %rax
	mov	%ax, tss_descriptor + 2(%rip)
	shr	$16, %eax
	mov	%al, tss_descriptor + 4(%rip)
	mov	%ah, tss_descriptor + 7(%rip)
	mov	$SEL_TSS, %eax
	ltr	%ax
	xor	%ebp, %ebp
	call	guest_main

load_segments:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	ret

/* Other CPUs: copied to 0x8000. */
	.globl	smp_trampoline, smp_trampoline_end
	.code16
smp_trampoline:
	cli
	xor	%ax, %ax
	mov	%ax, %ds
	lgdtl	gdt_pointer_low - smp_trampoline + 0x8000
	mov	%cr0, %eax
	or	$1, %eax
	mov	%eax, %cr0
	ljmpl	$0x08, $smp_start32
gdt_pointer_low:
	.word	GDT_BYTES - 1
	.long	gdt
smp_trampoline_end:

	.code32
smp_start32:
	mov	$0x10, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	/* A stack for each, in order of arrival. */
	mov	$1, %eax
	lock xadd %eax, smp_arrived
	inc	%eax
	and	$0xffff, %eax
	imul	$4096, %eax, %ebx
	lea	smp_stacks(%ebx), %esp
	push	%eax
	call	long_mode_on
	pop	%edi
	add	$4, %esp
	ljmp	$0x18, $smp_start64
	.code64
smp_start64:
	call	load_segments
	mov	%edi, %edi
	and	$-16, %rsp
	call	smp_main

	.data
	.align	16
	.globl	gdt
	.set	SEL_TSS, 0x40
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
	.quad	0
	.rept	22
	.quad	0
	.endr
gdt_pointer:
	.word	GDT_BYTES - 1
	.quad	gdt
	.globl	tss, tss_stack0
	.align	16
tss:
	.long	0
tss_stack0:
	.quad	stack_top
	.fill	22, 4, 0
	.word	0, tss_end - tss	/* no I/O bitmap */
tss_end:
	.globl	multiboot_info, smp_arrived
multiboot_info:
	.long	0
smp_arrived:
	.long	0

	.bss
	.align	4096
	.globl	boot_pml4
boot_pml4:
	.skip	4096
boot_pdpt:
	.skip	4096
boot_pd:
	.skip	4 * 4096
	.skip	16384
stack_top:
	.globl	smp_stacks
smp_stacks:
	.skip	65 * 4096
