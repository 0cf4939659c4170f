// SPDX-License-Identifier: GPL-2.0-only
/* shadow_room.c - not too many shadow pages: of a machine, and of all when the host wants memory back. */
#include <linux/mm.h>

#include "compat.h"
#include "shadow.h"

/* Shadow pages of a machine: at least, and as a share of its pages of RAM beyond that. */
#define LIMIT_LEAST 1024u
#define LIMIT_SHARE 50u

static struct shrinker *shrinker;
static atomic_long_t all; /* shadow pages of all machines */

void shadow_count(struct vm *vm, long change)
{
	vm->shadow->count += change;
	atomic_long_add(change, &all);
}

void shadow_set_limit(struct vm *vm, u64 pages)
{
	WRITE_ONCE(vm->shadow->limit, max_t(u64, LIMIT_LEAST, pages / LIMIT_SHARE));
}

/* Second chance: those used since the last look go to the front. Returns how many were dropped. */
static unsigned long drop_old(struct vm *vm, unsigned long count)
{
	struct shadow *shadow = vm->shadow;
	unsigned long looks = shadow->count * 2, dropped = 0;

	while (dropped < count && looks-- && !list_empty(&shadow->pages)) {
		struct shadow_page *page = list_last_entry(&shadow->pages, struct shadow_page, list);

		if (page->roots || page->used) {
			page->used = false;
			list_move(&page->list, &shadow->pages);
			continue;
		}
		shadow_drop(vm, page);
		dropped++;
	}
	vm->stats.mmu_recycled += dropped;
	return dropped;
}

void shadow_make_room(struct vm *vm, unsigned int count)
{
	struct shadow *shadow = vm->shadow;

	if (shadow->count + count <= shadow->limit)
		return;
	(void)drop_old(vm, shadow->limit / 16);
	shadow_settle(vm);
}

/* ---- the host wants memory back ---- */

static unsigned long on_count(struct shrinker *unused, struct shrink_control *control)
{
	return atomic_long_read(&all) ?: SHRINK_EMPTY;
}

/* A machine that has given some is the last to be asked again. */
static unsigned long on_scan(struct shrinker *unused, struct shrink_control *control)
{
	unsigned long dropped = 0;
	struct vm *vm, *next;
	LIST_HEAD(asked);

	if (!mutex_trylock(&vms_lock))
		return SHRINK_STOP;
	list_for_each_entry_safe(vm, next, &vms, list) {
		if (dropped >= control->nr_to_scan)
			break;
		write_lock(&vm->page_lock);
		dropped += drop_old(vm, control->nr_to_scan - dropped);
		shadow_settle(vm);
		write_unlock(&vm->page_lock);
		list_move_tail(&vm->list, &asked);
	}
	list_splice_tail(&asked, &vms);
	mutex_unlock(&vms_lock);
	return dropped ?: SHRINK_STOP;
}

int shadow_start(void)
{
	if (nested_paging)
		return 0;
	/* As the stock driver's: a page of these is dear to make again. */
	shrinker = compat_shrinker_new("sika-shadow", on_count, on_scan, DEFAULT_SEEKS * 10);
	return shrinker ? 0 : -ENOMEM;
}

void shadow_stop(void)
{
	compat_shrinker_free(shrinker);
}
