// SPDX-License-Identifier: GPL-2.0-only
/* shadow_page.c - the pool of shadow pages: found by what they stand for, linked to trees, and taken down. */
#include <linux/mm.h>
#include <linux/slab.h>

#include "shadow.h"

/* Shadow pages of a machine: at least, and as a share of its pages of RAM beyond that. */
#define LIMIT_LEAST 1024u
#define LIMIT_SHARE 50u

/* ---- made and unmade ---- */

struct shadow_page *shadow_page_new(void)
{
	struct shadow_page *page = kzalloc(sizeof(*page), GFP_KERNEL_ACCOUNT);

	if (!page)
		return NULL;
	page->table = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	page->gpns = (gpn_t *)__get_free_page(GFP_KERNEL_ACCOUNT);
	if (!page->table || !page->gpns) {
		shadow_page_free(page);
		return NULL;
	}
	set_page_private(virt_to_page(page->table), (unsigned long)page);
	return page;
}

void shadow_page_free(struct shadow_page *page)
{
	if (page->table)
		set_page_private(virt_to_page(page->table), 0);
	free_page((unsigned long)page->table);
	free_page((unsigned long)page->gpns);
	kfree(page);
}

int shadow_create(struct vm *vm)
{
	struct shadow *shadow = kvzalloc(sizeof(*shadow), GFP_KERNEL_ACCOUNT);

	if (!shadow)
		return -ENOMEM;
	hash_init(shadow->hash);
	INIT_LIST_HEAD(&shadow->pages);
	INIT_LIST_HEAD(&shadow->dead);
	xa_init_flags(&shadow->rmap, XA_FLAGS_ACCOUNT);
	shadow->limit = LIMIT_LEAST;
	vm->shadow = shadow;
	return 0;
}

static void bury(struct shadow *shadow)
{
	struct shadow_page *page, *next;

	list_for_each_entry_safe(page, next, &shadow->dead, list) {
		list_del(&page->list);
		shadow_page_free(page);
	}
}

/* No vCPU is left. */
void shadow_free(struct vm *vm)
{
	struct shadow *shadow = vm->shadow;
	struct shadow_page *page, *next;

	if (!shadow)
		return;
	write_lock(&vm->page_lock);
	list_for_each_entry_safe(page, next, &shadow->pages, list)
		shadow_drop(vm, page);
	write_unlock(&vm->page_lock);
	bury(shadow);
	xa_destroy(&shadow->rmap);
	kvfree(shadow);
}

/* ---- by what they stand for ---- */

struct shadow_page *shadow_find(struct vm *vm, const struct shadow_key *key)
{
	struct shadow_page *page;

	hash_for_each_possible(vm->shadow->hash, page, hash, key->gpn) {
		if (page->key.gpn == key->gpn && page->key.role.word == key->role.word)
			return page;
	}
	return NULL;
}

bool shadow_is_tracked(struct vm *vm, gpn_t gpn)
{
	struct shadow_page *page;

	hash_for_each_possible(vm->shadow->hash, page, hash, gpn) {
		if (page->key.gpn == gpn && !page->key.role.direct)
			return true;
	}
	return false;
}

void shadow_add(struct vm *vm, struct shadow_page *page, const struct shadow_key *key)
{
	struct shadow *shadow = vm->shadow;

	lockdep_assert_held_write(&vm->page_lock);
	page->key = *key;
	page->used = true;
	hash_add(shadow->hash, &page->hash, key->gpn);
	list_add(&page->list, &shadow->pages);
	shadow->count++;
	if (key->role.direct || key->role.level > 1) {
		free_page((unsigned long)page->gpns);
		page->gpns = NULL;
	}
	if (key->role.direct)
		return;
	WRITE_ONCE(shadow->changes, shadow->changes + 1);
	if (shadow_protect(vm, key->gpn))
		vm_flush_tlbs(vm);
}

/* ---- links ---- */

bool shadow_link(struct shadow_page *parent, u64 *entry, struct shadow_page *child)
{
	if (!chain_add(&child->parents, entry))
		return false;
	WRITE_ONCE(*entry, __pa(child->table) | SHADOW_LINK);
	parent->writes = 0;
	return true;
}

void shadow_drop_entry(struct vm *vm, struct shadow_page *page, unsigned int i)
{
	u64 *entry = &page->table[i], old = READ_ONCE(*entry);

	if (!(old & _PAGE_PRESENT))
		return;
	WRITE_ONCE(*entry, 0);
	vm->shadow->stale = true;
	if (page->key.role.level == 1) {
		rmap_remove(vm, shadow_gpn_at(page, i), entry);
		return;
	}
	chain_remove(&shadow_child(old)->parents, entry);
	if (shadow_child(old)->key.role.direct)
		vm->shadow->pieces = true;
}

void shadow_drop(struct vm *vm, struct shadow_page *page)
{
	struct shadow *shadow = vm->shadow;
	u64 *entry;

	for (unsigned int i = 0; i < SHADOW_ENTRIES; i++)
		shadow_drop_entry(vm, page, i);
	while ((entry = chain_any(&page->parents))) {
		WRITE_ONCE(*entry, 0);
		chain_remove(&page->parents, entry);
	}
	shadow->stale = true;
	WRITE_ONCE(shadow->changes, shadow->changes + 1);
	page->writes = 0;
	if (page->roots)
		return;
	hash_del(&page->hash);
	list_move(&page->list, &shadow->dead);
	shadow->count--;
}

void shadow_settle(struct vm *vm)
{
	struct shadow *shadow = vm->shadow;

	if (!list_empty(&shadow->dead) || shadow->pieces)
		vm_flush_tlbs(vm);
	bury(shadow);
}

void shadow_forget(struct vm *vm, gpn_t first, gpn_t last)
{
	struct shadow_page *page, *next;

	list_for_each_entry_safe(page, next, &vm->shadow->pages, list) {
		if (!page->key.role.direct && page->key.gpn >= first && page->key.gpn < last)
			shadow_drop(vm, page);
	}
	shadow_settle(vm);
}

/* ---- not too many ---- */

void shadow_set_limit(struct vm *vm, u64 pages)
{
	WRITE_ONCE(vm->shadow->limit, max_t(u64, LIMIT_LEAST, pages / LIMIT_SHARE));
}

/* Second chance: those used since the last look go to the front. */
static void drop_old(struct vm *vm, unsigned long count)
{
	struct shadow *shadow = vm->shadow;
	unsigned long looks = shadow->count * 2;

	while (count && looks-- && !list_empty(&shadow->pages)) {
		struct shadow_page *page = list_last_entry(&shadow->pages, struct shadow_page, list);

		if (page->roots || page->used) {
			page->used = false;
			list_move(&page->list, &shadow->pages);
			continue;
		}
		shadow_drop(vm, page);
		count--;
	}
}

void shadow_make_room(struct vm *vm, unsigned int count)
{
	struct shadow *shadow = vm->shadow;

	if (shadow->count + count <= shadow->limit)
		return;
	drop_old(vm, shadow->limit / 16);
	shadow_settle(vm);
}
