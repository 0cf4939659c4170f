// SPDX-License-Identifier: Apache-2.0
/* paging32.c - two-level paging with 4 MiB pages, PAE paging, and the way between them. */
#include "guest.h"

#define EFER_MSR 0xc0000080u

static uint32_t *pd;
static uint64_t *pdpt;
static volatile uint8_t *const virt = (uint8_t *)0xd0000000;

static word error_of(bool write)
{
	if (write)
		TRY("movb $0x5a, (%0);", : : "r"(virt) : "memory");
	else
		TRY("movb (%0), %%al;", : : "r"(virt) : "eax", "memory");
	return fault.happened ? fault.error : ~0ul;
}

static word user_touch(word write)
{
	if (write)
		*virt = 1;
	else
		(void)*virt;
	return ~0ul;
}

static void user_pf(struct frame *f)
{
	static const uint8_t leave[] = { 0xcd, 0x81 };

	f->ax = f->error;
	f->ip = (word)leave;
}

static word user_error(bool write)
{
	trap_set(14, user_pf);
	word r = user_call(user_touch, write);
	trap_set(14, NULL);
	return r;
}

static void rights(volatile uint32_t *low, uint32_t page)
{
	*low = 0;
	invlpg((void *)virt);
	check_equal(error_of(false), 0);
	check_equal(error_of(true), 2);
	*low = page | 1;
	check_equal(error_of(false), ~0ul);
	check_equal(*low & 0x60, 0x20);
	write_cr0(read_cr0() | CR0_WP);
	check_equal(error_of(true), 3);
	check_equal(user_error(false), 5);
	write_cr0(read_cr0() & ~(word)CR0_WP);
	check_equal(error_of(true), ~0ul);
	check_equal(*low & 0x60, 0x60);
	*low = page | 7;
	invlpg((void *)virt);
	check_equal(user_error(true), ~0ul);
	check_equal(*(uint8_t *)page, 1);
}

static void two_level(void)
{
	uint32_t *pt = page_alloc();
	uint32_t page = (uint32_t)page_alloc();

	pd = page_alloc();
	for (unsigned i = 0; i < 1024; i++)
		pd[i] = i << 22 | 0x87;
	pd[0xd0000000u >> 22] = (uint32_t)pt | 7;
	write_cr4(read_cr4() | CR4_PSE);
	write_cr3((word)pd);
	write_cr0(read_cr0() | CR0_PG);
	rights((volatile uint32_t *)pt, page);
	check_equal(pd[0xd0000000u >> 22] & 0x20, 0x20);
	/* PSE-36: bits 13..16 are address bits 32..35: there is no RAM up there. */
	pd[0xd4000000u >> 22] = 0x00000000 | 0x87;
	*(volatile uint32_t *)0x7000 = 0xabcd;
	check_equal(*(volatile uint32_t *)0xd4007000u, 0xabcd);
	check_equal(pd[0xd4000000u >> 22] & 0x60, 0x20);
	/* Without PSE the same entry points to a table. */
	write_cr0(read_cr0() & ~(word)CR0_PG);
}

static void pae(void)
{
	uint64_t *pt = page_alloc();
	uint32_t page = (uint32_t)page_alloc();
	uint64_t *pds = pages_alloc(4);

	pdpt = page_alloc();
	for (unsigned i = 0; i < 4; i++)
		pdpt[i] = ((uint32_t)pds + i * 4096) | 1;
	for (unsigned i = 0; i < 2048; i++)
		pds[i] = (uint64_t)i << 21 | 0x87;
	pds[0xd0000000u >> 21] = (uint32_t)pt | 7;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((word)pdpt);
	write_cr0(read_cr0() | CR0_PG);
	rights((volatile uint32_t *)pt, page);
	/* NX */
	wrmsr(EFER_MSR, rdmsr(EFER_MSR) | EFER_NXE);
	*(volatile uint8_t *)page = 0xc3;
	pt[0] = page | 7 | 1ull << 63;
	invlpg((void *)virt);
	TRY("call *%0;", : : "r"(virt) : "memory");
	check_fault(14, 0x11);
	asm volatile("add $4, %%esp" : : : "memory");
	pt[0] = page | 7;
	invlpg((void *)virt);
	TRY("call *%0;", : : "r"(virt) : "memory");
	check_no_fault();
	/* A reserved bit in a PDPTE is refused by the load of CR3. */
	uint64_t *bad = page_alloc();
	memcpy(bad, pdpt, 32);
	bad[3] |= 2;
	TRY("mov %0, %%cr3;", : : "r"(bad) : "memory");
	check_fault(13, 0);
	check_equal(read_cr3(), (word)pdpt);
	write_cr0(read_cr0() & ~(word)CR0_PG);
	write_cr4(read_cr4() & ~(word)CR4_PAE);
}

int main(void)
{
	two_level();
	pae();
	/* And back: the modes do not see each other's translations. */
	write_cr3((word)pd);
	write_cr0(read_cr0() | CR0_PG);
	check_equal(*(volatile uint32_t *)0xd4007000u, 0xabcd);
	write_cr0(read_cr0() & ~(word)CR0_PG);
	return 0;
}
