// SPDX-License-Identifier: Apache-2.0
/* memory64.c - page tables of 64-bit guests. */
#include "guest.h"

extern uint64_t boot_pml4[512];

static uint64_t *table_below(uint64_t *entry)
{
	if (!(*entry & PTE_P))
		*entry = (uintptr_t)page_alloc() | PTE_P | PTE_W | PTE_U;
	return (uint64_t *)(uintptr_t)(*entry & 0xffffffffff000ull);
}

uint64_t *page_map(uint64_t virt, uint64_t phys, uint64_t flags)
{
	uint64_t *table = boot_pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		table = table_below(&table[(virt >> shift) & 511]);
	table += (virt >> 12) & 511;
	*table = phys | flags;
	invlpg((void *)(uintptr_t)virt);
	return table;
}

void user_open(void)
{
	uint64_t *pdpt = (uint64_t *)(uintptr_t)(boot_pml4[0] & ~0xfffull);

	for (unsigned i = 0; i < 4; i++) {
		uint64_t *pd = (uint64_t *)(uintptr_t)(pdpt[i] & ~0xfffull);

		for (unsigned j = 0; j < 512; j++)
			pd[j] |= PTE_U;
	}
	write_cr3(read_cr3());
	/* As Linux has its programs, which bt may leave to the host's processor as they are. */
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
}
