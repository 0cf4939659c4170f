// SPDX-License-Identifier: Apache-2.0
/* real.c - down to real mode and back: vectors, wrapping, 32-bit prefixes, big segments, APIC-less. */
#include "guest.h"

/* What real-mode code leaves behind. */
struct result {
	uint16_t marker, flags, int_ip, int_cs, div_ip, sp_before, sp_after, high;
	uint32_t wide, big, string;
} __attribute__((packed));

#define RESULT ((volatile struct result *)0x7000)
#define CODE   0x8000u

extern char real_code[], real_code_end[], real_return[];
void real_call(void);

/*
 * real_code is copied to 0:8000 and entered in 16-bit protected mode. It may use 7000..7fff.
 * Vectors 0 and 0x60 are its own.
 */
asm("real_call:\n"
    "	pusha\n"
    "	mov %esp, real_esp\n"
    "	sidt real_idt\n"
    "	lidt real_ivt\n"
    "	ljmp $0x58, $0x8000\n"
    "real_return:\n"
    "	mov $0x10, %eax\n"
    "	mov %eax, %ds\n"
    "	mov %eax, %es\n"
    "	mov %eax, %ss\n"
    "	mov real_esp, %esp\n"
    "	lidt real_idt\n"
    "	popa\n"
    "	ret\n"
    ".data\n"
    "real_esp: .long 0\n"
    "real_idt: .skip 8\n"
    "real_ivt: .word 0x3ff; .long 0\n"
    ".text\n"
    ".code16\n"
    "real_code:\n"
    "	mov $0x60, %ax\n" /* 64 KiB data: real-mode limits */
    "	mov %ax, %ds\n"
    "	mov %ax, %es\n"
    "	mov %ax, %ss\n"
    "	mov $0x10, %ax\n" /* but FS keeps four gigabytes */
    "	mov %ax, %fs\n"
    "	mov %cr0, %eax\n"
    "	and $~1, %eax\n"
    "	mov %eax, %cr0\n"
    "	ljmp $0, $(1f - real_code + 0x8000)\n"
    "1:	xor %ax, %ax\n"
    "	mov %ax, %ds\n"
    "	mov %ax, %es\n"
    "	mov %ax, %ss\n"
    "	mov $0x7ffe, %sp\n"
    "	movw $0x5aa5, 0x7000\n"
    "	pushf\n"
    "	popw 0x7002\n"
    /* INT through the vector table; IRET. */
    "	movw %sp, 0x700a\n"
    "	mov $0x1234, %dx\n"
    "	int $0x60\n"
    "2:	movw %sp, 0x700c\n"
    /* A fault: DIV by zero, return past it (two bytes). */
    "	xor %cx, %cx\n"
    "3:	div %cx\n"
    /* 32-bit operands and addresses. */
    "	mov $0x12345678, %eax\n"
    "	mov $0x7010, %ebx\n"
    "	mov %eax, (%ebx)\n"
    /* Beyond 1 MiB through the big segment. */
    "	mov $0x100000, %ebx\n"
    "	mov %fs:(%ebx), %eax\n"
    "	mov %eax, 0x7014\n"
    /* ffff:0010 is 1 MiB: the A20 line is on. */
    "	mov $0xffff, %ax\n"
    "	mov %ax, %es\n"
    "	mov %es:0x10, %ax\n"
    "	mov %ax, 0x700e\n"
    /* REP with 16-bit registers wraps DI at 64 KiB. */
    "	mov $0x1000, %ax\n"
    "	mov %ax, %es\n"
    "	mov $0xfffe, %di\n"
    "	mov $4, %cx\n"
    "	mov $0x77, %al\n"
    "	rep stosb\n"
    "	movzx %di, %eax\n"
    "	mov %eax, 0x7018\n"
    /* Back to protected mode. */
    "	mov %cr0, %eax\n"
    "	or $1, %eax\n"
    "	mov %eax, %cr0\n"
    "	ljmpl $0x08, $real_return\n"
    "real_int:\n"
    "	push %bp\n"
    "	mov %sp, %bp\n"
    "	mov 2(%bp), %ax\n"
    "	mov %ax, 0x7004\n"
    "	mov 4(%bp), %ax\n"
    "	mov %ax, 0x7006\n"
    "	pop %bp\n"
    "	iret\n"
    "real_div:\n"
    "	push %bp\n"
    "	mov %sp, %bp\n"
    "	mov 2(%bp), %ax\n"
    "	mov %ax, 0x7008\n"
    "	addw $2, 2(%bp)\n"
    "	pop %bp\n"
    "	iret\n"
    "real_code_end:\n"
    ".code32\n"
    ".globl real_int, real_div\n");
extern char real_int[], real_div[];

static uint16_t low(const char *p)
{
	return (uint16_t)(p - real_code + CODE);
}

int main(void)
{
	volatile uint32_t *vectors = (uint32_t *)0;

	gdt[0x58 / 8] = 0x00009b000000ffff; /* 16-bit code */
	gdt[0x60 / 8] = 0x000093000000ffff; /* 16-bit data */
	for (unsigned round = 0; round < 3; round++) {
		memcpy((void *)CODE, real_code, (size_t)(real_code_end - real_code));
		memset((void *)0x7000, 0, 0x40);
		asm volatile("" : "+r"(vectors));
		vectors[0] = low(real_div);
		vectors[0x60] = low(real_int);
		*(volatile uint8_t *)0x1fffe = 0;
		*(volatile uint8_t *)0x10001 = 0;
		real_call();
		check_equal(RESULT->marker, 0x5aa5);
		check_equal(RESULT->flags & 2, 2);
		check_equal(RESULT->int_cs, 0);
		check_equal(*(volatile uint16_t *)(uintptr_t)(RESULT->int_ip - 2u), 0x60cd);
		check_equal(RESULT->sp_before, RESULT->sp_after);
		check_equal(*(volatile uint16_t *)(uintptr_t)RESULT->div_ip, 0xf1f7);
		check_equal(RESULT->wide, 0x12345678);
		check_equal(RESULT->big, *(volatile uint32_t *)0x100000);
		check_equal(RESULT->high, *(volatile uint16_t *)0x100000);
		check_equal(RESULT->string, 2);
		check_equal(*(volatile uint8_t *)0x1fffe, 0x77);
		check_equal(*(volatile uint8_t *)0x10001, 0x77);
		check_equal(*(volatile uint8_t *)0x20000, 0);
	}
	return 0;
}
