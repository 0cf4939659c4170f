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

u64 *chain_any(const struct chain *chain)
{
	struct node *node = node_of(chain->head);

	return node ? node->entry[0] : chain->head;
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

static void chain_free(const void *head)
{
	struct node *node = node_of(head), *next;

	for (; node; node = next) {
		next = node->next;
		kfree(node);
	}
}

/* ---- of guest pages ---- */

static bool entry_zap(u64 *entry)
{
	WRITE_ONCE(*entry, 0);
	return true;
}

/* Take down what there is. */
static void zap_head(struct vm *vm, gpn_t gpn, const void *head)
{
	(void)chain_each(head, entry_zap);
	chain_free(head);
	xa_erase(&vm->shadow->rmap, gpn);
	vm->shadow->stale = true;
}

bool rmap_add(struct vm *vm, gpn_t gpn, u64 *entry)
{
	void *head = xa_load(&vm->shadow->rmap, gpn);
	struct chain chain = { head };

	if (!chain_add(&chain, entry)) {
		zap_head(vm, gpn, head); /* they come back by faults */
		chain.head = entry;
		head = NULL;
	}
	if (chain.head != head && xa_err(xa_store(&vm->shadow->rmap, gpn, chain.head, GFP_LOCKED))) {
		chain_remove(&chain, entry);
		return false;
	}
	return true;
}

void rmap_remove(struct vm *vm, gpn_t gpn, u64 *entry)
{
	void *head = xa_load(&vm->shadow->rmap, gpn);
	struct chain chain = { head };

	chain_remove(&chain, entry);
	if (!chain.head)
		xa_erase(&vm->shadow->rmap, gpn);
	else if (chain.head != head)
		/* Its place is there: nothing is allocated. */
		(void)xa_store(&vm->shadow->rmap, gpn, chain.head, GFP_LOCKED);
}

bool shadow_zap(struct vm *vm, gpn_t first, gpn_t last)
{
	unsigned long gpn;
	void *head;

	lockdep_assert_held_write(&vm->page_lock);
	xa_for_each_range(&vm->shadow->rmap, gpn, head, first, last - 1)
		zap_head(vm, gpn, head);
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
	const void *head = xa_load(&vm->shadow->rmap, gpn);

	if (head && chain_each(head, entry_protect))
		vm->shadow->stale = true;
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
	unsigned long gpn;
	bool any = false;
	void *head;

	xa_for_each_range(&vm->shadow->rmap, gpn, head, first, last - 1)
		any |= chain_each(head, clear ? entry_age : entry_is_young);
	return any;
}
