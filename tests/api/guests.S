// SPDX-License-Identifier: Apache-2.0
/* guests.S - tiny multiboot guests; which one is chosen by -DGUEST_name. They start in 32-bit
 * protected mode with interrupts off. */
	.section .text
	.code32
	.align 4
	.long 0x1badb002, 0, -0x1badb002
	.global _start
_start:
	movl $0x200000, %esp
#if defined(GUEST_first)
	movb $0x10, %al
	jmp leave

#elif defined(GUEST_hello)
	movl $text, %esi
	call print
	movb $0x10, %al
	jmp leave
text:	.asciz "hello from the guest\r\n"

#elif defined(GUEST_spin)
1:	jmp 1b

#elif defined(GUEST_fault)
	/* No gate can be found in an empty table, not even for the double fault. */
	movl $text, %esi
	call print
	lidt empty
	int3
text:	.asciz "before the fault\r\n"
empty:	.word 0
	.long 0

#elif defined(GUEST_pattern)
	/* 4096 pages from 16 MiB on, each full of its own number. */
	cld
	movl $0x1000000, %edi
1:	movl %edi, %eax
	movl $1024, %ecx
	rep stosl
	cmpl $0x2000000, %edi
	jb 1b

#elif !defined(GUEST_idle)
#error "which guest?"
#endif
idle:	cli
	hlt
	jmp idle

print:	movw $0x3f8, %dx
1:	lodsb
	testb %al, %al
	jz 2f
	outb %al, %dx
	jmp 1b
2:	ret

leave:	movw $0xf4, %dx
	outb %al, %dx
	jmp idle
