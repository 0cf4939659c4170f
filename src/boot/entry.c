// SPDX-License-Identifier: Apache-2.0
/* entry.c - the register states in which kernels are entered. */
#include "boot/boot_int.h"

#include "base/bits.h"

/* Access bytes and flags as in struct x86_segment. */
#define ATTR_CODE32 (0xbu | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G)
#define ATTR_CODE64 (0xbu | X86_SEG_S | X86_SEG_P | X86_SEG_L | X86_SEG_G)
#define ATTR_DATA   (0x3u | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G)
#define ATTR_TSS    (0xbu | X86_SEG_P)
#define TSS_LIMIT   0x67u

#define GDT_ENTRIES 6u /* null, unused, code, data, TSS in two halves */

#define PTE_P  0x01u
#define PTE_RW 0x02u
#define PTE_PS 0x80u

/* A segment descriptor, SDM vol. 3 figure "Segment Descriptor"; @limit in units of the granularity. */
static uint64_t descriptor(uint32_t limit, unsigned attr)
{
	return (limit & 0xffffu) | ((uint64_t)(attr & 0xffu) << 40) |
	       ((uint64_t)((limit >> 16) & 0xfu) << 48) | ((uint64_t)((attr >> 8) & 0xfu) << 52);
}

static bool load_segments(struct boot *boot, unsigned code_attr, GError **err)
{
	struct x86_state *s = boot->bsp;
	uint8_t gdt[GDT_ENTRIES * 8] = { 0 };
	gpa_t at;

	store_le64(gdt + BOOT_SEL_CODE, descriptor(0xfffff, code_attr));
	store_le64(gdt + BOOT_SEL_DATA, descriptor(0xfffff, ATTR_DATA));
	store_le64(gdt + BOOT_SEL_TSS, descriptor(TSS_LIMIT, ATTR_TSS));
	at = boot_put(boot, gdt, sizeof(gdt), err);
	if (!at)
		return false;

	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .limit = UINT32_MAX,
						  .selector = BOOT_SEL_DATA,
						  .attr = ATTR_DATA };
	s->seg[X86_CS].selector = BOOT_SEL_CODE;
	s->seg[X86_CS].attr = (uint16_t)code_attr;
	s->tr = (struct x86_segment){ .limit = TSS_LIMIT,
				      .selector = BOOT_SEL_TSS,
				      .attr = ATTR_TSS };
	s->ldtr = (struct x86_segment){ .attr = X86_SEG_UNUSABLE };
	s->gdtr = (struct x86_table){ .base = at, .limit = sizeof(gdt) - 1 };
	s->idtr = (struct x86_table){ 0 };
	s->rflags = X86_FL_ONE;
	s->activity = X86_RUNNING;
	return true;
}

bool boot_enter_flat32(struct boot *boot, uint32_t entry, GError **err)
{
	struct x86_state *s = boot->bsp;

	if (!load_segments(boot, ATTR_CODE32, err))
		return false;
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	s->cr3 = 0;
	s->cr4 = 0;
	s->efer = 0;
	s->rip = entry;
	return true;
}

/* PML4, PDPT and four page directories of 2 MiB pages, one after the other. */
static gpa_t identity_map(struct boot *boot, GError **err)
{
	g_autofree uint8_t *tables = g_malloc0(6 * MEM_PAGE_SIZE);
	gpa_t at = boot_take_low(boot, 6 * MEM_PAGE_SIZE);

	if (!at) {
		boot_file_fail(&boot->kernel, err, "leaves no room in memory for page tables");
		return 0;
	}
	store_le64(tables, (at + MEM_PAGE_SIZE) | PTE_P | PTE_RW);
	for (unsigned i = 0; i < 4; i++)
		store_le64(tables + MEM_PAGE_SIZE + 8 * i,
			   (at + (2 + i) * MEM_PAGE_SIZE) | PTE_P | PTE_RW);
	for (unsigned i = 0; i < 4 * 512; i++)
		store_le64(tables + 2 * MEM_PAGE_SIZE + 8 * i,
			   ((uint64_t)i << 21) | PTE_P | PTE_RW | PTE_PS);
	(void)mem_write(boot->mem, at, tables, 6 * MEM_PAGE_SIZE); /* taken from RAM: cannot fail */
	return at;
}

bool boot_enter_flat64(struct boot *boot, uint64_t entry, GError **err)
{
	struct x86_state *s = boot->bsp;
	gpa_t cr3;

	if (!load_segments(boot, ATTR_CODE64, err))
		return false;
	cr3 = identity_map(boot, err);
	if (!cr3)
		return false;
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
	s->cr3 = cr3;
	s->cr4 = X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	s->rip = entry;
	return true;
}
