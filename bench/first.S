// SPDX-License-Identifier: Apache-2.0
/*
 * first.S - a guest whose first instruction ends the machine: `out` to the debug exit port 0xf4.
 *
 * Carries a PVH note (for microvm and others) and a multiboot 1 header, both entering here in 32-bit
 * protected mode. The value written is 0x10, so the exit status is (0x10 << 1) | 1 = 33.
 */
	.section .note.pvh, "a", @note
	.align 4
	.long 4, 4, 18		/* name size, value size, XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.section .text
	.code32
	.align 4
	.long 0x1badb002, 0, -0x1badb002
	.global _start
_start:
	movl $0x10, %eax
	movw $0xf4, %dx
	outb %al, %dx
1:	hlt
	jmp 1b
