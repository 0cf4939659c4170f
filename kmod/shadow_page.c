// SPDX-License-Identifier: GPL-2.0-only
/* shadow_page.c - shadow pages: found by what they stand for, linked to trees, and taken down. */
#include <linux/mm.h>
#include <linux/slab.h>

#include "pte.h"
#include "shadow.h"

#define PARENTS_MANY 8u

/* ---- made and unmade ---- */

struct shadow_page *shadow_page_new(void)
{
	struct shadow_page *page = kzalloc(sizeof(*page), GFP_KERNEL_ACCOUNT);

	if (!page)
		return NULL;
	page->table = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	page->guest = (u64 *)__get_free_page(GFP_KERNEL_ACCOUNT);
	INIT_LIST_HEAD(&page->loose);
	if (!page->table || !page->guest) {
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
	free_page((unsigned long)page->guest);
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
	INIT_LIST_HEAD(&shadow->loose);
	for (unsigned int i = 0; i < ARRAY_SIZE(shadow->rmap); i++)
		xa_init_flags(&shadow->rmap[i], XA_FLAGS_ACCOUNT);
	vm->shadow = shadow;
	shadow_set_limit(vm, 0);
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
	for (unsigned int i = 0; i < ARRAY_SIZE(shadow->rmap); i++)
		xa_destroy(&shadow->rmap[i]);
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
		if (page->key.gpn == gpn && !page->key.role.direct && list_empty(&page->loose))
			return true;
	}
	return false;
}

static void count_table(struct vm *vm, gpn_t gpn, int change)
{
	for (unsigned int level = 2; level <= SHADOW_LEAVES; level++)
		*shadow_tables_at(vm, level, gpn) += change;
}

void shadow_add(struct vm *vm, struct shadow_page *page, const struct shadow_key *key)
{
	struct shadow *shadow = vm->shadow;

	lockdep_assert_held_write(&vm->page_lock);
	page->key = *key;
	page->used = true;
	hash_add(shadow->hash, &page->hash, key->gpn);
	list_add(&page->list, &shadow->pages);
	shadow_count(vm, 1);
	vm->stats.mmu_cache_miss++;
	if (key->role.direct || key->role.level > SHADOW_LEAVES) {
		free_page((unsigned long)page->guest);
		page->guest = NULL;
	}
	if (key->role.direct)
		return;
	count_table(vm, key->gpn, 1);
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
	if (shadow_is_leaf(page, old)) {
		rmap_remove(vm, page->key.role.level, shadow_gpn_at(page, i), entry);
		return;
	}
	chain_remove(&shadow_child(old)->parents, entry);
	if (shadow_child(old)->key.role.direct)
		vm->shadow->pieces = true;
}

/* It is not loose any more. */
static void take_from_loose(struct vm *vm, struct shadow_page *page)
{
	vm->stats.mmu_unsync -= !list_empty(&page->loose);
	list_del_init(&page->loose);
}

void shadow_drop(struct vm *vm, struct shadow_page *page)
{
	struct shadow *shadow = vm->shadow;
	u64 *entry;

	for (unsigned int i = 0; i < SHADOW_ENTRIES; i++)
		shadow_drop_entry(vm, page, i);
	while ((entry = chain_at(&page->parents, 0))) {
		WRITE_ONCE(*entry, 0);
		chain_remove(&page->parents, entry);
	}
	shadow->stale = true;
	WRITE_ONCE(shadow->changes, shadow->changes + 1);
	page->writes = 0;
	take_from_loose(vm, page);
	if (page->roots)
		return;
	hash_del(&page->hash);
	list_move(&page->list, &shadow->dead);
	shadow_count(vm, -1);
	vm->stats.mmu_shadow_zapped++;
	if (!page->key.role.direct)
		count_table(vm, page->key.gpn, -1);
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

/* ---- loose tables ---- */

bool shadow_loosen(struct vm *vm, gpn_t gpn)
{
	struct shadow_page *page;
	struct hlist_node *next;

	hash_for_each_possible(vm->shadow->hash, page, hash, gpn) {
		if (page->key.gpn == gpn && !page->key.role.direct && page->key.role.level > 1)
			return false;
	}
	hash_for_each_possible_safe(vm->shadow->hash, page, next, hash, gpn) {
		if (page->key.gpn != gpn || page->key.role.direct || !list_empty(&page->loose))
			continue;
		if (++page->writes > SHADOW_WRITES) {
			vm->stats.mmu_flooded++;
			shadow_drop(vm, page);
		} else {
			vm->stats.mmu_unsync++;
			list_add(&page->loose, &vm->shadow->loose);
		}
	}
	return true;
}

struct page *shadow_table_now(struct vm *vm, const struct shadow_page *page)
{
	const struct slot *slot = slot_of(vm, page->key.gpn);
	struct page *table;

	if (slot && get_user_page_fast_only(slot_hva(slot, page->key.gpn), 0, &table))
		return table;
	return NULL;
}

u64 shadow_guest_entry(struct page *table, const struct shadow_page *page, unsigned int i)
{
	const void *at = page_address(table);

	if (page->key.role.paging == SHADOW_LEGACY)
		return READ_ONCE(((const u32 *)at)[page->key.role.quadrant * SHADOW_ENTRIES + i]);
	return READ_ONCE(((const u64 *)at)[i]);
}

/* Accessed and dirty bits may have come. */
static bool holds(u64 made_of, u64 now)
{
	return !((made_of ^ now) & ~(u64)(PTE_A | PTE_D)) && !(made_of & ~now);
}

static void recheck(struct vm *vm, struct shadow_page *page, struct page *table, unsigned int i)
{
	if (READ_ONCE(page->table[i]) & _PAGE_PRESENT &&
	    !(table && holds(page->guest[i], shadow_guest_entry(table, page, i))))
		shadow_drop_entry(vm, page, i);
}

void shadow_recheck(struct vm *vm, struct shadow_page *page, unsigned int i)
{
	struct page *table = shadow_table_now(vm, page);

	recheck(vm, page, table, i);
	if (table)
		put_page(table);
}

/* It is tracked, and has been since before: what it holds now, it will. */
static void recheck_all(struct vm *vm, struct shadow_page *page)
{
	struct page *table = shadow_table_now(vm, page);

	for (unsigned int i = 0; i < SHADOW_ENTRIES; i++)
		recheck(vm, page, table, i);
	if (table)
		put_page(table);
}

static void track_again(struct vm *vm, struct shadow_page *page)
{
	take_from_loose(vm, page);
	WRITE_ONCE(vm->shadow->changes, vm->shadow->changes + 1);
	(void)shadow_protect(vm, page->key.gpn);
}

void shadow_tighten(struct vm *vm, struct shadow_page *page)
{
	if (list_empty(&page->loose))
		return;
	track_again(vm, page);
	if (vm->shadow->stale)
		vm_flush_tlbs(vm);
	recheck_all(vm, page);
}

/* Of what has more parents than a table of a usual guest, it is believed. */
static bool is_below(const struct shadow_page *page, const struct shadow_page *root)
{
	const u64 *entry;

	for (unsigned int i = 0; page != root && i < PARENTS_MANY; i++) {
		entry = chain_at(&page->parents, i);
		if (!entry)
			return false;
		if (is_below(shadow_page_of(entry), root))
			return true;
	}
	return true;
}

void shadow_tighten_below(struct vm *vm, const struct shadow_page *root)
{
	struct shadow_page *page, *next;
	LIST_HEAD(loose);

	list_for_each_entry_safe(page, next, &vm->shadow->loose, loose) {
		if (!chain_at(&page->parents, 0)) {
			shadow_drop(vm, page);
			continue;
		}
		if (root && !is_below(page, root))
			continue;
		list_move(&page->loose, &loose);
		(void)shadow_protect(vm, page->key.gpn);
	}
	if (vm->shadow->stale)
		vm_flush_tlbs(vm);
	list_for_each_entry_safe(page, next, &loose, loose) {
		track_again(vm, page);
		recheck_all(vm, page);
	}
}
