// SPDX-License-Identifier: Apache-2.0
/* smc.c - code that is written: the next instruction, other pages, aliases, often, mixed with data. */
#include "guest.h"

typedef unsigned (*code_fn)(unsigned);

/* mov $imm, %eax; ret */
static void put_return(uint8_t *at, uint32_t value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static void whole_function(uint8_t *page)
{
	for (unsigned i = 0; i < 5000; i++) {
		put_return(page, i);
		if (((code_fn)page)(0) != i) {
			check_equal(i, ~0u);
			return;
		}
	}
}

/* Only the immediate changes, now and then, while the rest runs often. */
static void rarely(uint8_t *page)
{
	unsigned sum = 0, want = 0;

	put_return(page, 0);
	for (unsigned i = 0; i < 3000; i++) {
		if (i % 100 == 0)
			*(volatile uint32_t *)(page + 1) = i;
		sum += ((code_fn)page)(0);
		want += i / 100 * 100;
	}
	check_equal(sum, want);
}

/* A store into the instruction right behind it. */
static void next_instruction(void)
{
	for (unsigned i = 0; i < 3; i++) {
		uint32_t r;

		asm volatile("lea 1f+1(%%rip), %%rdx; mov %1, (%%rdx); 1: mov $0, %0; movl $0, (%%rdx)"
			     : "=&a"(r)
			     : "r"(100 + i)
			     : "rdx", "memory");
		check_equal(r, 100 + i);
	}
}

/* REP MOVS over what follows it. */
static void string_store(void)
{
	static const uint8_t patch[5] = { 0xb8, 0x21, 0x43, 0, 0 };
	uint32_t r;

	asm volatile("lea 1f(%%rip), %%rdi; mov $5, %%ecx; rep movsb; 1: mov $0, %%eax"
		     : "=a"(r)
		     : "S"(patch)
		     : "rdi", "rcx", "memory");
	check_equal(r, 0x4321);
}

static void through_alias(uint8_t *page)
{
	uint8_t *alias = (uint8_t *)FREE_VIRT;

	page_map((uintptr_t)alias, (uintptr_t)page, PTE_P | PTE_W);
	for (unsigned i = 0; i < 50; i++) {
		put_return(alias + 64, i);
		check_equal(((code_fn)(page + 64))(0), i);
		put_return(page + 64, i + 1000);
		check_equal(((code_fn)(alias + 64))(0), i + 1000);
	}
}

/* An instruction over two pages, each half changed by itself. */
static void across_pages(uint8_t *pages)
{
	uint8_t *at = pages + 4096 - 3;

	for (unsigned i = 0; i < 50; i++) {
		put_return(at, i * 0x01010101u);
		check_equal(((code_fn)at)(0), i * 0x01010101u);
		at[1] ^= 0x55;
		check_equal(((code_fn)at)(0), (i * 0x01010101u) ^ 0x55);
		at[4] ^= 0x77;
		check_equal(((code_fn)at)(0), (i * 0x01010101u) ^ 0x77000055u);
	}
}

#define HOT 40u

static unsigned hot(const uint8_t *at)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < HOT; i++)
		sum += ((code_fn)at)(0);
	return sum;
}

/* So often that it is translated: bytes of either half change, and which page is the second, for one of two
 * mappings of the first. */
static void across_pages_often(void)
{
	uint8_t *first = page_alloc(), *second[2] = { page_alloc(), page_alloc() };
	uint8_t *virt[2] = { (uint8_t *)FREE_VIRT + 0x20000, (uint8_t *)FREE_VIRT + 0x30000 };
	uint8_t *at[2];
	uint64_t *pte = NULL;

	for (unsigned i = 0; i < 2; i++) {
		page_map((uintptr_t)virt[i], (uintptr_t)first, PTE_P | PTE_W);
		pte = page_map((uintptr_t)virt[i] + 4096, (uintptr_t)second[i], PTE_P | PTE_W);
		at[i] = virt[i] + 4096 - 3;
		at[i][-1] = 0x90;
		put_return(at[i], 0x01020304);
	}
	for (unsigned i = 0; i < 12; i++) {
		second[1][0] = (uint8_t)i;
		check_equal(hot(at[0] - 1), 0x01020304 * HOT);
		check_equal(hot(at[1] - 1), (0x01000304 | i << 16) * HOT);
		at[1][2] ^= 0x40;
		check_equal(hot(at[0] - 1), 0x01024304 * HOT);
		check_equal(hot(at[1] - 1), (0x01004304 | i << 16) * HOT);
		at[1][2] ^= 0x40;
		page_map((uintptr_t)virt[1] + 4096, (uintptr_t)second[0], PTE_P | PTE_W);
		check_equal(hot(at[1] - 1), 0x01020304 * HOT);
		*pte = (uintptr_t)second[1] | PTE_P | PTE_W;
		write_cr3(read_cr3());
		check_equal(hot(at[1] - 1), (0x01000304 | i << 16) * HOT);
	}
}

/* The same virtual page, other physical ones. */
static void remapped(void)
{
	uint8_t *a = page_alloc(), *b = page_alloc(), *virt = (uint8_t *)FREE_VIRT + 0x10000;

	put_return(a, 1);
	put_return(b, 2);
	for (unsigned i = 0; i < 200; i++) {
		page_map((uintptr_t)virt, (uintptr_t)(i & 1 ? b : a), PTE_P | PTE_W);
		check_equal(((code_fn)virt)(0), i & 1 ? 2 : 1);
	}
	/* By CR3 instead of INVLPG. */
	uint64_t *pte = page_map((uintptr_t)virt, (uintptr_t)a, PTE_P);

	check_equal(((code_fn)virt)(0), 1);
	*pte = (uintptr_t)b | PTE_P;
	write_cr3(read_cr3());
	check_equal(((code_fn)virt)(0), 2);
}

/* Data that changes all the time beside the code that changes it. */
static void mixed(uint8_t *page)
{
	/* inc dword [rip+250]; dec edi; jnz -10; mov eax,edi; ret */
	static const uint8_t code[] = { 0xff, 0x05, 0xfa, 0x00, 0x00, 0x00, 0xff,
					0xcf, 0x75, 0xf6, 0x89, 0xf8, 0xc3 };
	volatile uint32_t *counter = (uint32_t *)(page + 256);

	memset(page, 0, 512);
	memcpy(page, code, sizeof(code));
	check_equal(((code_fn)page)(20000), 0);
	check_equal(*counter, 20000);
}

/* A page of code becomes data, then code again. */
static void recycled(uint8_t *page)
{
	for (unsigned round = 0; round < 20; round++) {
		volatile uint32_t *words = (uint32_t *)page;

		put_return(page + 128, round);
		check_equal(((code_fn)(page + 128))(0), round);
		for (unsigned i = 0; i < 1024; i++)
			words[i] = i * round;
		for (unsigned i = 0; i < 1024; i++)
			if (words[i] != i * round) {
				check_equal(words[i], i * round);
				return;
			}
	}
}

/* What a call returns to is changed by what it calls, now and then: from its own page, or another one. */
static void changed_by_callee(uint8_t *page, uint8_t *callee)
{
	/* call callee; mov eax, 0; ret */
	uint8_t caller[] = { 0xe8, 0, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3 };
	static const uint8_t store[] = { 0x89, 0x3e, 0xc3 }; /* mov [rsi], edi; ret */
	int32_t rel = (int32_t)(callee - (page + 5));
	volatile uint32_t *value = (uint32_t *)(page + 6);
	uint32_t elsewhere, want = 0;

	memcpy(caller + 1, &rel, 4);
	memcpy(page, caller, sizeof(caller));
	memcpy(callee, store, sizeof(store));
	for (unsigned i = 1; i < 3000; i++) {
		bool here = i % 150 == 0;
		unsigned got = ((unsigned (*)(unsigned, volatile uint32_t *))page)(
			i, here ? value : &elsewhere);

		want = here ? i : want;
		if (got != want) {
			check_equal(got, want);
			return;
		}
	}
}

int main(void)
{
	uint8_t *pages = pages_alloc(2);

	whole_function(page_alloc());
	rarely(page_alloc());
	next_instruction();
	string_store();
	through_alias(page_alloc());
	across_pages(pages);
	across_pages_often();
	remapped();
	mixed(page_alloc());
	recycled(page_alloc());
	pages = pages_alloc(2);
	changed_by_callee(pages, pages + 4096);
	changed_by_callee(pages, pages + 256);
	return 0;
}
