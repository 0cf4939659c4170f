// SPDX-License-Identifier: Apache-2.0
/* paging.c - four-level paging: rights, accessed and dirty bits, large pages, flushes. */
#include "guest.h"

static uint8_t *const virt = (uint8_t *)FREE_VIRT;
static uint64_t *pte;
static uint8_t *phys;

static word access_error(bool write)
{
	if (write)
		TRY("movb $0x5a, (%0);", : : "r"(virt) : "memory");
	else
		TRY("movb (%0), %%al;", : : "r"(virt) : "rax", "memory");
	return fault.happened ? fault.error : ~0ul;
}

static word user_access(word write)
{
	if (write)
		*(volatile uint8_t *)virt = 1;
	else
		(void)*(volatile uint8_t *)virt;
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
	word r;

	trap_set(14, user_pf);
	r = user_call(user_access, write);
	trap_set(14, NULL);
	return r;
}

static void set(uint64_t flags)
{
	*pte = (uintptr_t)phys | flags;
	invlpg(virt);
}

static void rights(void)
{
	set(0);
	check_equal(access_error(false), 0);
	check_equal(access_error(true), 2);
	check_equal(user_error(false), 4);
	check_equal(user_error(true), 6);
	set(PTE_P);
	check_equal(access_error(false), ~0ul);
	check_equal(access_error(true), 3);
	check_equal(user_error(false), 5);
	check_equal(user_error(true), 7);
	set(PTE_P | PTE_U);
	check_equal(user_error(false), ~0ul);
	check_equal(user_error(true), 7);
	check_equal(access_error(true), 3);
	write_cr0(read_cr0() & ~(word)CR0_WP);
	check_equal(access_error(true), ~0ul);
	check_equal(phys[0], 0x5a);
	check_equal(user_error(true), 7);
	write_cr0(read_cr0() | CR0_WP);
	check_equal(access_error(true), 3);
	set(PTE_P | PTE_U | PTE_W);
	check_equal(user_error(true), ~0ul);
	check_equal(phys[0], 1);
	/* The right is the conjunction over the levels. */
	set(PTE_P | PTE_U | PTE_W | (1ull << 51)); /* beyond the physical address width */
	check_equal(access_error(false), 9);
	check_equal(access_error(true), 11);
}

static void accessed_dirty(void)
{
	set(PTE_P | PTE_W | PTE_U);
	check_equal(access_error(false), ~0ul);
	check_equal(*pte & (PTE_A | PTE_D), PTE_A);
	check_equal(access_error(true), ~0ul);
	check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	*pte &= ~(PTE_A | PTE_D);
	invlpg(virt);
	check_equal(access_error(true), ~0ul);
	check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	/* A refused access leaves no mark. */
	set(PTE_P);
	check_equal(access_error(true), 3);
	check_equal(*pte & PTE_D, 0);
	/* Read first, then written: the dirty bit must not be lost to a cached translation. */
	set(PTE_P | PTE_W);
	(void)*(volatile uint8_t *)virt;
	*(volatile uint8_t *)virt = 3;
	check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
}

static void no_execute(void)
{
	set(PTE_P | PTE_W | PTE_NX);
	phys[0] = 0xc3;
	TRY("call *%0;", : : "r"(virt) : "memory");
	check_fault(14, 0x11);
	check_equal(fault.cr2, (word)virt);
	check_equal(fault.ip, (word)virt);
	asm volatile("add $8, %%rsp" : : : "memory"); /* the return address */
	set(PTE_P | PTE_W);
	TRY("call *%0;", : : "r"(virt) : "memory");
	check_no_fault();
	wrmsr(EFER, rdmsr(EFER) & ~(uint64_t)EFER_NXE);
	set(PTE_P | PTE_W | PTE_NX); /* reserved without NXE */
	check_equal(access_error(false), 9);
	wrmsr(EFER, rdmsr(EFER) | EFER_NXE);
}

static void smep_smap(void)
{
	struct cpuid c = cpuid(7, 0);

	set(PTE_P | PTE_W | PTE_U);
	phys[0] = 0xc3;
	if (c.b & (1u << 7)) {
		page_map((uintptr_t)virt + 4096, (uintptr_t)phys, PTE_P | PTE_W);
		/* The identity mapping is the user's: SMEP would end this guest. */
		print("SMEP is there\n");
	}
	if (!(c.b & (1u << 20)))
		return;
	/* Close the identity mapping again for the rest. */
	extern uint64_t boot_pml4[512];
	uint64_t *pdpt = (uint64_t *)(uintptr_t)(boot_pml4[0] & ~0xfffull);
	uint64_t *pd = (uint64_t *)(uintptr_t)(pdpt[0] & 0xffffffffff000ull);

	for (unsigned i = 0; i < 512; i++)
		pd[i] &= ~PTE_U;
	pd = (uint64_t *)(uintptr_t)(pdpt[3] & 0xffffffffff000ull);
	for (unsigned i = 0; i < 512; i++)
		pd[i] &= ~PTE_U;
	write_cr3(read_cr3());
	write_cr4(read_cr4() | CR4_SMAP | CR4_SMEP);
	check_equal(access_error(false), 1);
	check_equal(access_error(true), 3);
	asm volatile("stac" : : : "memory", "cc");
	check_equal(access_error(false), ~0ul);
	check_equal(access_error(true), ~0ul);
	asm volatile("clac" : : : "memory", "cc");
	check_equal(access_error(true), 3);
	phys[0] = 0xc3;
	TRY("call *%0;", : : "r"(virt) : "memory");
	check_fault(14, 0x11);
	asm volatile("add $8, %%rsp" : : : "memory");
	write_cr4(read_cr4() & ~(word)(CR4_SMAP | CR4_SMEP));
	check_equal(access_error(true), ~0ul);
}

static void large(void)
{
	extern uint64_t boot_pml4[512];
	uint64_t *pdpt = page_alloc(), *pd = page_alloc();
	volatile uint32_t *at = (uint32_t *)0x10000000000ull;

	boot_pml4[2] = (uintptr_t)pdpt | PTE_P | PTE_W;
	pdpt[0] = (uintptr_t)pd | PTE_P | PTE_W;
	pd[0] = 0 | PTE_P | PTE_W | PTE_PS;
	*(volatile uint32_t *)0x6000 = 0x12345678;
	check_equal(at[0x6000 / 4], 0x12345678);
	check_equal(pd[0] & (PTE_A | PTE_D), PTE_A);
	at[0x6000 / 4] = 7;
	check_equal(pd[0] & (PTE_A | PTE_D), PTE_A | PTE_D);
	check_equal(*(volatile uint32_t *)0x6000, 7);
	/* INVLPG of one piece drops the large page. */
	pd[0] = 0;
	invlpg((void *)&at[0x100000 / 4]);
	TRY("mov (%0), %%eax;", : : "r"(&at[0x6000 / 4]) : "rax");
	check_fault(14, 0);
	/* 1 GiB page. */
	if (cpuid(0x80000001, 0).d & (1u << 26)) {
		pdpt[1] = 0 | PTE_P | PTE_W | PTE_PS;
		check_equal(at[0x40006000 / 4], 7);
	}
	pd[0] = (1ull << 13) | PTE_P | PTE_PS; /* reserved in a large page */
	invlpg((void *)at);
	TRY("mov (%0), %%eax;", : : "r"(at) : "rax");
	check_fault(14, 9);
}

#define NO_FLUSH (1ull << 63)

static void invpcid(word type, word pcid, const void *linear)
{
	struct {
		uint64_t pcid, linear;
	} descriptor = { pcid, (uintptr_t)linear };

	asm volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

static void go_to_pcid(word pcid)
{
	write_cr3((read_cr3() & ~0xffful) | pcid | NO_FLUSH);
}

static void put_code(uint8_t *at, uint8_t value)
{
	at[0] = 0xb8; /* mov eax, value */
	memset(at + 1, 0, 4);
	at[1] = value;
	at[5] = 0xc3;
}

static unsigned run_code(void)
{
	return ((unsigned (*)(void))(uintptr_t)virt)();
}

/* What was read and run with one PCID, and is invalidated with another one in use, is gone. */
static void invpcid_from_another(uint8_t *other)
{
	uint8_t *page[2] = { phys, other };

	put_code(phys, 1);
	put_code(other, 2);
	for (unsigned i = 0; i < 200; i++) {
		unsigned type = i & 3;

		go_to_pcid(5);
		*pte = (uintptr_t)page[i & 1] | PTE_P | PTE_W;
		invlpg(virt);
		check_equal(run_code(), 1 + (i & 1));
		check_equal(*(volatile uint32_t *)(virt + 1), 1 + (i & 1));
		go_to_pcid(6);
		*pte = (uintptr_t)page[~i & 1] | PTE_P | PTE_W;
		invpcid(type, 5, virt);
		go_to_pcid(5);
		check_equal(run_code(), 1 + (~i & 1));
		check_equal(*(volatile uint32_t *)(virt + 1), 1 + (~i & 1));
	}
	/* Global pages are of all PCIDs. */
	*pte = (uintptr_t)phys | PTE_P | PTE_W | PTE_G;
	invlpg(virt);
	check_equal(run_code(), 1);
	go_to_pcid(6);
	*pte = (uintptr_t)other | PTE_P | PTE_W | PTE_G;
	invlpg(virt);
	check_equal(run_code(), 2);
	go_to_pcid(5);
	check_equal(run_code(), 2);
	*pte = (uintptr_t)phys | PTE_P | PTE_W;
	invpcid(2, 0, virt);
	check_equal(run_code(), 1);
	TRY("invpcid (%0), %1;", : : "r"(other), "r"(4ul) : "memory");
	check_fault(13, 0);
}

static void global_and_pcid(void)
{
	uint8_t *other = page_alloc();

	*phys = 1;
	*other = 2;
	set(PTE_P | PTE_W | PTE_G);
	check_equal(*(volatile uint8_t *)virt, 1);
	*pte = (uintptr_t)other | PTE_P | PTE_W;
	write_cr3(read_cr3());
	/* A global entry may outlive CR3, and must not outlive a change of CR4.PGE. */
	write_cr4(read_cr4() ^ CR4_PGE);
	check_equal(*(volatile uint8_t *)virt, 2);
	write_cr4(read_cr4() | CR4_PGE);
	if (!(cpuid(1, 0).c & (1u << 17)))
		return;
	write_cr4(read_cr4() | CR4_PCIDE);
	write_cr3(read_cr3() | 5);
	check_equal(*(volatile uint8_t *)virt, 2);
	*pte = (uintptr_t)phys | PTE_P | PTE_W;
	write_cr3((read_cr3() & ~0xffful) | 6);
	check_equal(*(volatile uint8_t *)virt, 1);
	write_cr3((read_cr3() & ~0xffful) | 5); /* flushes 5 */
	check_equal(*(volatile uint8_t *)virt, 1);
	if (cpuid(7, 0).b & (1u << 10))
		invpcid_from_another(other);
	write_cr3(read_cr3() & ~0xffful);
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}

int main(void)
{
	user_open();
	phys = page_alloc();
	pte = page_map((uintptr_t)virt, (uintptr_t)phys, PTE_P);
	rights();
	accessed_dirty();
	large();
	global_and_pcid();
	no_execute();
	smep_smap();
	return 0;
}
