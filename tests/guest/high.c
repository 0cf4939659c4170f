// SPDX-License-Identifier: Apache-2.0
/* high.c - memory above 4 GiB: where the map says it is, data, large pages, code, its end. */
#include "guest.h"

#define FOUR_GIB 0x100000000ull

/* Multiboot memory map: entries of a size field and then base, length, type. */
struct entry {
	uint32_t size;
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

extern uint32_t multiboot_info;

static bool find_high_memory(uint64_t *ret_base, uint64_t *ret_end)
{
	const uint32_t *info = (const uint32_t *)(uintptr_t)multiboot_info;
	uint32_t at = info[12], end = at + info[11];

	check(info[0] & 1u << 6);
	while (info[0] & 1u << 6 && at < end) {
		const struct entry *e = (const struct entry *)(uintptr_t)at;

		if (e->type == 1 && e->base >= FOUR_GIB) {
			*ret_base = e->base;
			*ret_end = e->base + e->length;
			return true;
		}
		at += e->size + 4;
	}
	return false;
}

static volatile uint64_t *map(unsigned slot, uint64_t phys)
{
	uint64_t virt = FREE_VIRT + slot * 4096ull;

	page_map(virt, phys & ~0xfffull, PTE_P | PTE_W);
	return (volatile uint64_t *)(virt + (phys & 0xfff));
}

/* Each page keeps what is its own, and none is another's, nor one below 4 GiB, by another name. */
static void pages_are_distinct(uint64_t base, uint64_t end)
{
	uint64_t step = (end - base) / 16 & ~0xfffull;
	uint64_t *low = page_alloc();

	low[0] = 0x10;
	for (unsigned i = 0; i < 16; i++)
		*map(i, base + i * step) = 0x1234567800000000ull + i;
	*map(16, end - 8) = 0x55;
	*map(17, base + ((uintptr_t)low & 0xffffffff)) = 0x20;
	for (unsigned i = 0; i < 16; i++)
		check_equal(*map(i, base + i * step), 0x1234567800000000ull + i);
	check_equal(*map(16, end - 8), 0x55);
	check_equal(low[0], 0x10);
}

static void page_crossing(uint64_t base)
{
	volatile uint8_t *first = (volatile uint8_t *)map(0, base + 0x5000);
	uint64_t v = 0x1122334455667788ull;

	(void)map(1, base + 0x9000);
	*(volatile uint64_t *)(first + 4092) = v;
	check_equal(*(volatile uint32_t *)((uint8_t *)map(2, base + 0x5000) + 4092), 0x55667788);
	check_equal(*(volatile uint32_t *)map(2, base + 0x9000), 0x11223344);
	asm volatile("lock incq %0" : "+m"(*(uint64_t *)(first + 4088)));
	check_equal(*(volatile uint64_t *)(first + 4092) >> 32, 0x11223344);
}

static void code_runs(uint64_t base)
{
	static const uint8_t body[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */
	volatile uint64_t *page = map(20, base + 0x20000);
	unsigned (*fn)(void) = (unsigned (*)(void))(uintptr_t)page;

	memcpy((void *)page, body, sizeof(body));
	check_equal(fn(), 42);
	*(volatile uint8_t *)((uintptr_t)page + 1) = 43;
	check_equal(fn(), 43);
}

/* Page tables may lie there themselves. */
static void tables_there(uint64_t base)
{
	extern uint64_t boot_pml4[512];
	volatile uint64_t *table = map(30, base + 0x30000);

	memcpy((void *)table, boot_pml4, 4096);
	write_cr3(base + 0x30000);
	check_equal(read_cr3(), base + 0x30000);
	check_equal(*map(31, base + 0x30000) & PTE_P, PTE_P);
	write_cr3((uintptr_t)boot_pml4);
}

int main(void)
{
	uint64_t base, end;

	if (!find_high_memory(&base, &end)) {
		check(!"the memory map shows nothing above 4 GiB");
		return 1;
	}
	print("%lx to %lx\n", base, end);
	check_equal(base, FOUR_GIB);
	pages_are_distinct(base, end);
	page_crossing(base);
	code_runs(base);
	tables_there(base);
	/* Behind its end there is nothing. */
	*map(40, end) = 0;
	check_equal(*map(40, end), ~0ull);
	return 0;
}
