// SPDX-License-Identifier: Apache-2.0
/* strings.c - string instructions across pages, faults in the middle, page-crossing code and data. */
#include "guest.h"

static uint8_t *const virt = (uint8_t *)FREE_VIRT;
static uint8_t *back;

/* Pages at virt: 0 and 1 there, 2 missing, 3 and 4 in reverse physical order. */
static void map(void)
{
	back = pages_alloc(6);
	page_map(FREE_VIRT + 0x0000, (uintptr_t)back, PTE_P | PTE_W);
	page_map(FREE_VIRT + 0x1000, (uintptr_t)back + 0x4000, PTE_P | PTE_W);
	page_map(FREE_VIRT + 0x3000, (uintptr_t)back + 0x3000, PTE_P | PTE_W);
	page_map(FREE_VIRT + 0x4000, (uintptr_t)back + 0x2000, PTE_P | PTE_W);
}

static void copy_across(void)
{
	for (unsigned i = 0; i < 0x2000; i++)
		virt[i] = (uint8_t)(i * 7 + (i >> 8));
	word n = 0x1f00, to = (word)virt + 0x3080, from = (word)virt + 3;

	asm volatile("rep movsb" : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_equal(n, 0);
	check_equal(memcmp(virt + 0x3080, virt + 3, 0x1f00), 0);
	/* Overlapping by one: a pattern fill. */
	virt[0] = 0xa5;
	n = 0x1ffe / 2, to = (word)virt + 1, from = (word)virt;
	asm volatile("rep movsb" : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_equal(virt[0xfff], 0xa5);
	check_equal(virt[0x800], 0xa5);
	/* Backwards. */
	for (unsigned i = 0; i < 0x1800; i++)
		virt[0x3000 + i] = (uint8_t)i;
	n = 0x1800 / 8, from = (word)virt + 0x3000 + 0x1800 - 8, to = (word)virt + 0x1800 - 8 + 5;
	asm volatile("std; rep movsq; cld" : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_equal(memcmp(virt + 5, virt + 0x3000, 0x1800), 0);
	/* Words of 4 that straddle each page end. */
	n = 0x700, to = (word)virt + 3;
	asm volatile("rep stosl" : "+c"(n), "+D"(to) : "a"(0x04030201) : "memory");
	check_equal(virt[0xfff], 1);
	check_equal(virt[0x1000], 2);
	check_equal(back[0x4000], 2);
	check_equal(virt[0x1002], 4);
}

static void fault_in_the_middle(void)
{
	word n = 0x1000, to = (word)virt + 0x1800, from = (word)virt;

	memset(virt + 0x1000, 0x11, 0x1000);
	memset(virt, 0x22, 0x1000);
	TRY("rep movsb;", : "+c"(n), "+D"(to), "+S"(from) : : "memory");
	check_fault(14, 2);
	check_equal(fault.cr2, FREE_VIRT + 0x2000);
	check_equal(n, 0x800);
	check_equal(to, FREE_VIRT + 0x2000);
	check_equal(from, FREE_VIRT + 0x800);
	check_equal(virt[0x1fff], 0x22);
	check_equal(virt[0x17ff], 0x11);
	n = 100, from = (word)virt + 0x2000 - 4 * 10;
	TRY("rep lodsl;", : "+c"(n), "+S"(from) : : "rax", "memory");
	check_fault(14, 0);
	check_equal(n, 90);
	/* A single store over the edge writes nothing. */
	memset(virt + 0x1ff0, 0x33, 16);
	TRY("movq $-1, (%0);", : : "r"(virt + 0x1ffc) : "memory");
	check_fault(14, 2);
	check_equal(fault.cr2, FREE_VIRT + 0x2000);
	check_equal(virt[0x1fff], 0x33);
	TRY("lock addq $1, (%0);", : : "r"(virt + 0x1ffc) : "memory");
	check(fault.happened && fault.vector == 14);
}

static void compare_scan(void)
{
	word n, at;
	uint8_t z;

	memset(virt, 0, 0x2000);
	virt[0x1234] = 9;
	n = 0x2000, at = (word)virt;
	asm volatile("repne scasb; setz %2" : "+c"(n), "+D"(at), "=r"(z) : "a"(9) : "memory", "cc");
	check_equal(z, 1);
	check_equal(at, FREE_VIRT + 0x1235);
	n = 0x2000 / 8, at = (word)virt;
	asm volatile("repe scasq; setz %2" : "+c"(n), "+D"(at), "=r"(z) : "a"(0) : "memory", "cc");
	check_equal(z, 0);
	check_equal(at, FREE_VIRT + 0x1238);
	memset(virt + 0x3000, 0, 0x2000);
	word b = (word)virt + 0x3000;
	n = 0x2000, at = (word)virt;
	asm volatile("repe cmpsb; setb %3" : "+c"(n), "+D"(at), "+S"(b), "=r"(z) : : "memory", "cc");
	check_equal(at, FREE_VIRT + 0x1235);
	check_equal(z, 1);
	/* RCX = 0 does nothing and leaves the flags. */
	n = 0;
	asm volatile("stc; repe cmpsb; setc %3" : "+c"(n), "+D"(at), "+S"(b), "=r"(z) : : "memory", "cc");
	check_equal(z, 1);
	check_equal(at, FREE_VIRT + 0x1235);
	/* 32-bit address size: counts in ECX, upper halves go. */
	n = 0xffffffff00000003ull, at = 0x6000;
	asm volatile("addr32 rep stosb" : "+c"(n), "+D"(at) : "a"(0x5b) : "memory");
	check_equal(n, 0);
	check_equal(at, 0x6003);
	check_equal(*(volatile uint8_t *)0x6002, 0x5b);
}

/* Each instruction of a run laid so that every one of its bytes is once the last of a page. */
static void code_across(void)
{
	static const uint8_t code[] = {
		0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* mov $imm64, rax */
		0x48, 0x05, 0x01, 0x00, 0x00, 0x00,			     /* add $1, rax */
		0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00,	     /* nopw */
		0x48, 0x8d, 0x84, 0x00, 0x10, 0x00, 0x00, 0x00,		     /* lea 16(rax,rax), rax */
		0xc3,
	};

	for (unsigned i = 1; i <= sizeof(code); i++) {
		word r, want = 0x1122334455667789ull * 2 + 16;

		memcpy(virt + 0x1000 - i, code, sizeof(code));
		for (unsigned again = 0; again < 3; again++) {
			asm volatile("call *%1" : "=a"(r) : "r"(virt + 0x1000 - i) : "memory");
			check_equal(r, want);
		}
	}
	/* The second page is missing: the fault names its first byte. */
	memcpy(virt + 0x2000 - 4, code, 4);
	word r;
	TRY("call *%1;", : "=a"(r) : "r"(virt + 0x2000 - 4) : "memory");
	check_fault(14, fault.error & 0x10);
	check_equal(fault.cr2, FREE_VIRT + 0x2000);
	check_equal(fault.ip, FREE_VIRT + 0x1ffc);
	asm volatile("add $8, %%rsp" : : : "memory");
	/* A whole instruction that ends with its page does not touch the next. */
	virt[0x1fff] = 0xc3;
	TRY("call *%1;", : "=a"(r) : "r"(virt + 0x1fff) : "memory");
	check_no_fault();
}

int main(void)
{
	map();
	copy_across();
	fault_in_the_middle();
	compare_scan();
	code_across();
	return 0;
}
