// SPDX-License-Identifier: GPL-2.0-only
/*
 * shadow_rmap.c - reverse maps: which shadow entries map a guest page.
 *
 * Most pages have one entry or two, so a chain of one is the entry's address itself, and else a list of small
 * nodes, told apart by the lowest bit. Of a page's chain the head is in an array by page number.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "shadow.h"

#define GFP_LOCKED (GFP_ATOMIC | __GFP_ACCOUNT | __GFP_NOWARN)

/* ---- chains ---- */

struct node {
	struct node *next;
	unsigned int count; /* at least one */
	u64 *entry[6];
};

static struct node *node_of(const void *head)
{
	return (unsigned long)head & 1 ? (struct node *)((unsigned long)head - 1) : NULL;
}

static void *head_of(struct node *node)
{
	return (void *)((unsigned long)node + 1);
}

bool chain_add(struct chain *chain, u64 *entry)
{
	struct node *node = node_of(chain->head), *more;

	if (!chain->head) {
		chain->head = entry;
		return true;
	}
	if (node && node->count < ARRAY_SIZE(node->entry)) {
		node->entry[node->count++] = entry;
		return true;
	}
	more = kmalloc(sizeof(*more), GFP_LOCKED);
	if (!more)
		return false;
	*more = (struct node){ .next = node };
	if (!node)
		more->entry[more->count++] = chain->head;
	more->entry[more->count++] = entry;
	chain->head = head_of(more);
	return true;
}

/* The last entry of the first node takes the place of the one that goes. */
void chain_remove(struct chain *chain, u64 *entry)
{
	struct node *first = node_of(chain->head);

	if (!first) {
		if (chain->head == entry)
			chain->head = NULL;
		return;
	}
	for (struct node *node = first; node; node = node->next) {
		for (unsigned int i = 0; i < node->count; i++) {
			if (node->entry[i] != entry)
				continue;
			node->entry[i] = first->entry[--first->count];
			if (!first->count) {
				chain->head = first->next ? head_of(first->next) : NULL;
				kfree(first);
			}
			return;
		}
	}
}

u64 *chain_at(const struct chain *chain, unsigned int i)
{
	const struct node *node = node_of(chain->head);

	if (!node)
		return i ? NULL : chain->head;
	for (; node; i -= node->count, node = node->next) {
		if (i < node->count)
			return node->entry[i];
	}
	return NULL;
}

typedef bool (*entry_fn)(u64 *entry);

static bool chain_each(const void *head, entry_fn fn)
{
	bool any = false;

	if (!node_of(head))
		return fn((u64 *)head);
	for (struct node *node = node_of(head); node; node = node->next) {
		for (unsigned int i = 0; i < node->count; i++)
			any |= fn(node->entry[i]);
	}
	return any;
}

static unsigned int chain_count(const void *head)
{
	unsigned int count = 0;

	if (!node_of(head))
		return 1;
	for (const struct node *node = node_of(head); node; node = node->next)
		count += node->count;
	return count;
}

static void chain_free(const void *head)
{
	struct node *node = node_of(head), *next;

	for (; node; node = next) {
		next = node->next;
		kfree(node);
	}
}

/* ---- of guest pages ---- */

static struct xarray *rmap_of(struct vm *vm, unsigned int level)
{
	return &vm->shadow->rmap[level - 1];
}

static unsigned long rmap_index(unsigned int level, gpn_t gpn)
{
	return gpn >> shadow_shift(level);
}

static u64 *pages_of(struct vm *vm, unsigned int level)
{
	u64 *const pages[SHADOW_LEAVES] = { &vm->stats.pages_4k, &vm->stats.pages_2m, &vm->stats.pages_1g };

	return pages[level - 1];
}

static bool entry_zap(u64 *entry)
{
	WRITE_ONCE(*entry, 0);
	return true;
}

/* Take down what there is. */
static void zap_head(struct vm *vm, unsigned int level, unsigned long index, const void *head)
{
	*pages_of(vm, level) -= chain_count(head);
	(void)chain_each(head, entry_zap);
	chain_free(head);
	xa_erase(rmap_of(vm, level), index);
	vm->shadow->stale = true;
}

int rmap_reserve(struct vm *vm, unsigned int level, gpn_t gpn)
{
	return xa_reserve(rmap_of(vm, level), rmap_index(level, gpn), GFP_KERNEL_ACCOUNT);
}

bool rmap_add(struct vm *vm, unsigned int level, gpn_t gpn, u64 *entry)
{
	unsigned long index = rmap_index(level, gpn);
	void *head = xa_load(rmap_of(vm, level), index);
	struct chain chain = { head };

	if (!chain_add(&chain, entry)) {
		zap_head(vm, level, index, head); /* they come back by faults */
		chain.head = entry;
		head = NULL;
	}
	if (chain.head != head && xa_err(xa_store(rmap_of(vm, level), index, chain.head, GFP_LOCKED))) {
		chain_remove(&chain, entry);
		return false;
	}
	(*pages_of(vm, level))++;
	return true;
}

void rmap_remove(struct vm *vm, unsigned int level, gpn_t gpn, u64 *entry)
{
	unsigned long index = rmap_index(level, gpn);
	void *head = xa_load(rmap_of(vm, level), index);
	struct chain chain = { head };

	(*pages_of(vm, level))--;
	chain_remove(&chain, entry);
	if (!chain.head)
		xa_erase(rmap_of(vm, level), index);
	else if (chain.head != head)
		/* Its place is there: nothing is allocated. */
		(void)xa_store(rmap_of(vm, level), index, chain.head, GFP_LOCKED);
}

bool shadow_zap(struct vm *vm, gpn_t first, gpn_t last)
{
	unsigned long index;
	void *head;

	lockdep_assert_held_write(&vm->page_lock);
	for (unsigned int level = 1; level <= SHADOW_LEAVES; level++) {
		xa_for_each_range(rmap_of(vm, level), index, head, rmap_index(level, first),
				  rmap_index(level, last - 1))
			zap_head(vm, level, index, head);
	}
	return vm->shadow->stale;
}

/* The processor sets accessed and dirty bits meanwhile. */
static bool entry_protect(u64 *entry)
{
	u64 old = READ_ONCE(*entry);

	while (!try_cmpxchg64(entry, &old, old & ~(u64)_PAGE_RW))
		;
	return old & _PAGE_RW;
}

bool shadow_protect(struct vm *vm, gpn_t gpn)
{
	const void *head = xa_load(rmap_of(vm, 1), gpn);

	if (head && chain_each(head, entry_protect))
		vm->shadow->stale = true;
	for (unsigned int level = 2; level <= SHADOW_LEAVES; level++) {
		const void *large = xa_load(rmap_of(vm, level), rmap_index(level, gpn));

		if (large) /* it comes back in pieces */
			zap_head(vm, level, rmap_index(level, gpn), large);
	}
	return vm->shadow->stale;
}

static bool entry_age(u64 *entry)
{
	return test_and_clear_bit(_PAGE_BIT_ACCESSED, (unsigned long *)entry);
}

static bool entry_is_young(u64 *entry)
{
	return READ_ONCE(*entry) & _PAGE_ACCESSED;
}

bool shadow_age(struct vm *vm, gpn_t first, gpn_t last, bool clear)
{
	unsigned long index;
	bool any = false;
	void *head;

	for (unsigned int level = 1; level <= SHADOW_LEAVES; level++) {
		xa_for_each_range(rmap_of(vm, level), index, head, rmap_index(level, first),
				  rmap_index(level, last - 1))
			any |= chain_each(head, clear ? entry_age : entry_is_young);
	}
	return any;
}
