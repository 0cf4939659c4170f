// SPDX-License-Identifier: Apache-2.0
/* modes.c - out of 64-bit mode through compatibility and protected mode without paging, and back. */
#include "guest.h"

uint32_t modes_seen[8];
uint64_t modes_sp;
void modes_trip(void);

/* Interrupts stay off; the low 4 GiB are the same with and without paging. */
asm("modes_trip:\n"
    "	push %rbx\n"
    "	push %rbp\n"
    "	push %r12\n"
    "	push %r13\n"
    "	push %r14\n"
    "	push %r15\n"
    "	mov $0x1122334455667788, %r15\n"
    "	mov %rsp, modes_sp(%rip)\n"
    "	pushq $0x08\n"
    "	lea 1f(%rip), %rax\n"
    "	push %rax\n"
    "	lretq\n"
    ".code32\n"
    "1:	mov $0x10, %eax\n" /* compatibility mode */
    "	mov %eax, %ss\n"
    "	mov %eax, %ds\n"
    "	mov %cs, modes_seen\n"
    "	xor %eax, %eax\n"
    "	inc %eax\n" /* a REX prefix in 64-bit mode */
    "	mov %eax, modes_seen+4\n"
    "	mov %cr0, %eax\n"
    "	and $0x7fffffff, %eax\n"
    "	mov %eax, %cr0\n" /* protected mode, long mode not active */
    "	mov $0xc0000080, %ecx\n"
    "	rdmsr\n"
    "	mov %eax, modes_seen+8\n"
    "	and $~0x100, %eax\n"
    "	wrmsr\n"
    "	mov %cr4, %eax\n"
    "	and $~0x20, %eax\n"
    "	mov %eax, %cr4\n"
    "	mov %eax, modes_seen+12\n"
    "	push $0x55aa\n"
    "	pop %edx\n"
    "	mov %edx, modes_seen+16\n"
    /* And up again: PAE, LME, PG. */
    "	or $0x20, %eax\n"
    "	mov %eax, %cr4\n"
    "	mov $0xc0000080, %ecx\n"
    "	rdmsr\n"
    "	or $0x100, %eax\n"
    "	wrmsr\n"
    "	mov %cr0, %eax\n"
    "	or $0x80000000, %eax\n"
    "	mov %eax, %cr0\n"
    "	rdmsr\n"
    "	mov %eax, modes_seen+20\n"
    "	ljmp $0x18, $2f\n"
    ".code64\n"
    "2:	mov modes_sp(%rip), %rsp\n"
    "	shr $32, %r15\n"
    "	mov %r15d, modes_seen+24(%rip)\n"
    "	pop %r15\n"
    "	pop %r14\n"
    "	pop %r13\n"
    "	pop %r12\n"
    "	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n");

int main(void)
{
	for (unsigned i = 0; i < 50; i++) {
		memset(modes_seen, 0, sizeof(modes_seen));
		asm volatile("" : : : "memory");
		modes_trip();
		check_equal(modes_seen[0] & 0xffff, SEL_CODE32);
		check_equal(modes_seen[1], 1);
		check_equal(modes_seen[2] & (EFER_LME | EFER_LMA), EFER_LME);
		check_equal(modes_seen[3] & CR4_PAE, 0);
		check_equal(modes_seen[4], 0x55aa);
		check_equal(modes_seen[5] & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
		/* The upper halves are undefined outside 64-bit mode; nothing says they are lost. */
		check(modes_seen[6] == 0x11223344 || modes_seen[6] == 0);
	}
	/* LME cannot change while paging is on. */
	TRY("wrmsr;", : : "c"(EFER), "a"((uint32_t)rdmsr(EFER) & ~EFER_LME), "d"(0));
	check_fault(13, 0);
	TRY("mov %0, %%cr4;", : : "r"(read_cr4() & ~(word)CR4_PAE));
	check_fault(13, 0);
	return 0;
}
