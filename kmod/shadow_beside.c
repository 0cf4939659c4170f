// SPDX-License-Identifier: GPL-2.0-only
/* shadow_beside.c - entries made ahead of the faults: the neighbours of one that was asked for. */
#include <linux/mm.h>

#include "pte.h"
#include "shadow.h"

/* Of the guest's entries, what may differ between neighbours that are read alike: where, dirty, global, and what is left
 * to software. */
#define MAY_DIFFER (SHADOW_ADDR | PTE_A | PTE_D | 0xf00)

/* Whether an entry of the guest's is read as one beside it was, and has been used. */
static bool is_alike(u64 entry, u64 other)
{
	return !((entry ^ other) & ~MAY_DIFFER) && entry & PTE_A;
}

/* False: no memory. */
static bool make(struct vm *vm, struct shadow_page *page, unsigned int i, gpn_t gpn, bool write,
		 struct shadow_beside *beside)
{
	const struct slot *slot = slot_of(vm, gpn);
	struct page *host;

	if (!slot)
		return true;
	/* The first write of what is logged is to fault, and each to a table. */
	write &= !(slot->flags & KVM_MEM_READONLY) && !slot_is_logged(slot) && !shadow_is_tracked(vm, gpn);
	if (!get_user_page_fast_only(slot_hva(slot, gpn), write ? FOLL_WRITE : 0, &host))
		return true;
	if (!rmap_add(vm, 1, gpn, &page->table[i])) {
		put_page(host);
		return false;
	}
	WRITE_ONCE(page->table[i], shadow_leaf(page_to_pfn(host), write, beside->user, beside->exec));
	beside->written |= write ? BIT(beside->count) : 0;
	beside->page[beside->count++] = host;
	return true;
}

void shadow_fill_beside(struct vm *vm, struct shadow_page *page, unsigned int at, struct shadow_beside *beside)
{
	unsigned int first = at & ~(SHADOW_BESIDE - 1);
	bool direct = page->key.role.direct;
	struct page *table = direct ? NULL : shadow_table_now(vm, page);

	if (!direct && !table)
		return;
	for (unsigned int i = first; i < first + SHADOW_BESIDE; i++) {
		bool write = beside->write;
		gpn_t gpn;

		if (READ_ONCE(page->table[i]) & _PAGE_PRESENT)
			continue;
		if (direct) {
			gpn = page->key.gpn + i;
		} else {
			u64 entry = shadow_guest_entry(table, page, i);

			if (!is_alike(entry, page->guest[at]))
				continue;
			page->guest[i] = entry;
			gpn = (entry & SHADOW_ADDR) >> PAGE_SHIFT;
			write &= !!(entry & PTE_D);
		}
		if (!make(vm, page, i, gpn, write, beside))
			break;
	}
	if (table)
		put_page(table);
}

void shadow_put_beside(struct shadow_beside *beside)
{
	while (beside->count) {
		struct page *page = beside->page[--beside->count];

		if (beside->written & BIT(beside->count))
			set_page_dirty_lock(page);
		put_page(page);
	}
}
