// SPDX-License-Identifier: GPL-2.0-only
/*
 * page.c - the nested page table: guest-physical to host-physical.
 *
 * Four levels; what the bits of an entry mean is the vendor's (struct page_format). It is filled by faults, and
 * holds no reference to the pages it names: an MMU notifier tells before one of them goes away. Who maps a
 * page therefore looks at the count of ended invalidations before it asks for the page, and again under the
 * lock.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "shadow.h"

bool nested_paging = true, identity_paging;

#define LEVELS	    4u
#define LEVEL_BITS  9u
#define ENTRY_ADDR  GENMASK_ULL(51, 12)
#define ENTRY_THERE BIT_ULL(0) /* present; of an EPT: it may be read */

/* Pages that an entry at @level (1: the last) stands for, as a shift. */
static unsigned int level_shift(unsigned int level)
{
	return (level - 1) * LEVEL_BITS;
}

static unsigned int index_at(gpn_t gpn, unsigned int level)
{
	return gpn >> level_shift(level) & (BIT(LEVEL_BITS) - 1);
}

static u64 *table_of(u64 entry)
{
	return __va(entry & ENTRY_ADDR);
}

static bool is_leaf(const struct page_format *format, u64 entry, unsigned int level)
{
	return level == 1 || entry & format->large;
}

/* ---- made and unmade ---- */

/* Of entries of 4 MiB: SDM vol. 3, figure 4-4. They are accessed and dirty, so no walk writes to it. */
static int identity_init(struct vm *vm)
{
	vm->identity_addr = IDENTITY_DEFAULT;
	if (!identity_paging)
		return 0;
	vm->identity = (u32 *)__get_free_page(GFP_KERNEL_ACCOUNT);
	for (u32 i = 0; vm->identity && i < PAGE_SIZE / sizeof(*vm->identity); i++)
		vm->identity[i] = i << 22 | _PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED |
				  _PAGE_DIRTY | _PAGE_PSE;
	return vm->identity ? 0 : -ENOMEM;
}

int page_table_init(struct vm *vm)
{
	rwlock_init(&vm->page_lock);
	if (!nested_paging)
		return shadow_create(vm);
	vm->table.format = hw->page_format();
	vm->table.root = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (vm->table.root && !identity_init(vm))
		return 0;
	page_table_free(vm);
	return -ENOMEM;
}

static void free_table(const struct page_format *format, u64 *table, unsigned int level)
{
	for (unsigned int i = 0; level > 1 && i < BIT(LEVEL_BITS); i++) {
		if (table[i] & ENTRY_THERE && !is_leaf(format, table[i], level))
			free_table(format, table_of(table[i]), level - 1);
		if (level > 2)
			cond_resched();
	}
	free_page((unsigned long)table);
}

void page_table_free(struct vm *vm)
{
	if (vm->table.root)
		free_table(vm->table.format, vm->table.root, LEVELS);
	free_page((unsigned long)vm->identity);
	shadow_free(vm);
}

static int cache_fill(struct page_cache *cache)
{
	while (cache->count < LEVELS - 1) {
		void *page = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);

		if (!page)
			return -ENOMEM;
		cache->page[cache->count++] = page;
	}
	return 0;
}

void page_cache_free(struct page_cache *cache)
{
	while (cache->count)
		free_page((unsigned long)cache->page[--cache->count]);
}

/* ---- walking [first, last) ---- */

struct walk {
	struct vm *vm;
	const struct page_format *format;
	gpn_t first, last;
	/* Called for each leaf; returns what the entry becomes. */
	u64 (*leaf)(struct walk *walk, u64 entry);
	bool flush; /* a TLB may know of what was changed */
};

static void count_pages(struct vm *vm, unsigned int level, int change)
{
	u64 *counts[] = { &vm->stats.pages_4k, &vm->stats.pages_2m, &vm->stats.pages_1g };

	*counts[level - 1] += change;
}

static void walk(struct walk *w, u64 *table, unsigned int level, gpn_t base)
{
	gpn_t step = 1ull << level_shift(level);
	unsigned int i = w->first > base ? (w->first - base) >> level_shift(level) : 0;

	for (base += i * step; i < BIT(LEVEL_BITS) && base < w->last; i++, base += step) {
		u64 entry = READ_ONCE(table[i]), to;

		if (!(entry & ENTRY_THERE))
			continue;
		if (!is_leaf(w->format, entry, level)) {
			walk(w, table_of(entry), level - 1, base);
			continue;
		}
		/* The processor sets accessed and dirty bits meanwhile. */
		do {
			to = w->leaf(w, entry);
		} while (!try_cmpxchg64(&table[i], &entry, to));
		if (!(to & ENTRY_THERE))
			count_pages(w->vm, level, -1);
	}
}

static bool walk_all(struct vm *vm, gpn_t first, gpn_t last, u64 (*leaf)(struct walk *walk, u64 entry))
{
	struct walk w = { .vm = vm, .format = vm->table.format, .first = first, .last = last, .leaf = leaf };

	lockdep_assert_held_write(&vm->page_lock);
	walk(&w, vm->table.root, LEVELS, 0);
	return w.flush;
}

static u64 leaf_zap(struct walk *walk, u64 entry)
{
	walk->flush = true;
	return 0;
}

bool page_zap(struct vm *vm, gpn_t first, gpn_t last)
{
	return vm->shadow ? shadow_zap(vm, first, last) : walk_all(vm, first, last, leaf_zap);
}

static u64 leaf_protect(struct walk *walk, u64 entry)
{
	walk->flush |= !!(entry & walk->format->write);
	/* A large page comes back as small ones. */
	return entry & walk->format->large ? 0 : entry & ~walk->format->write;
}

bool page_protect(struct vm *vm, gpn_t first, unsigned long mask)
{
	bool flush = false;

	for (; mask; mask &= mask - 1) {
		gpn_t gpn = first + __ffs(mask);

		flush |= vm->shadow ? shadow_protect(vm, gpn) :
				      walk_all(vm, gpn, gpn + 1, leaf_protect);
	}
	return flush;
}

static u64 leaf_young(struct walk *walk, u64 entry)
{
	walk->flush |= !!(entry & walk->format->accessed);
	return entry;
}

/* Of a processor that does not mark what it accesses the next access is a fault, which does. */
static u64 leaf_age(struct walk *walk, u64 entry)
{
	walk->flush |= !!(entry & walk->format->accessed);
	return walk->format->marks ? entry & ~walk->format->accessed : 0;
}

bool page_age(struct vm *vm, gpn_t first, gpn_t last, bool clear)
{
	return vm->shadow ? shadow_age(vm, first, last, clear) :
			    walk_all(vm, first, last, clear ? leaf_age : leaf_young);
}

/* ---- mapping ---- */

/* On which level of its tables the host has the page of @hva. */
static unsigned int host_level(struct mm_struct *mm, unsigned long hva)
{
	unsigned int level = 1;
	unsigned long flags;
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;

	/* Tables are not freed while this CPU takes no interrupts (mm/gup.c, fast walks). */
	local_irq_save(flags);
	pgd = pgd_offset(mm, hva);
	if (pgd_none(READ_ONCE(*pgd)))
		goto out;
	p4d = p4d_offset(pgd, hva);
	if (p4d_none(READ_ONCE(*p4d)) || !p4d_present(READ_ONCE(*p4d)))
		goto out;
	pud = pud_offset(p4d, hva);
	if (pud_none(READ_ONCE(*pud)) || !pud_present(READ_ONCE(*pud)))
		goto out;
	if (pud_leaf(READ_ONCE(*pud))) {
		level = 3;
	} else {
		pmd = READ_ONCE(*pmd_offset(pud, hva));
		level = pmd_present(pmd) && pmd_leaf(pmd) ? 2 : 1;
	}
out:
	local_irq_restore(flags);
	return level;
}

/* Whether all of the page of @level around @gpn is the slot's, and lies in the host's memory as it
 * lies in the guest's. */
static bool fits(const struct slot *slot, gpn_t gpn, unsigned int level)
{
	u64 pages = 1ull << level_shift(level);
	gpn_t base = gpn & ~(pages - 1);

	return base >= slot->gpn && base + pages <= slot->gpn + slot->pages &&
	       !(slot_hva(slot, base) & ((pages << PAGE_SHIFT) - 1));
}

unsigned int page_best_level(struct vm *vm, const struct slot *slot, gpn_t gpn, unsigned int most)
{
	unsigned int level;

	if (slot_is_logged(slot) || !fits(slot, gpn, 2))
		return 1;
	level = min(host_level(vm->mm, slot_hva(slot, gpn)), most);
	while (level > 2 && !fits(slot, gpn, level))
		level--;
	return level;
}

/* A large page takes the place of a table of small ones, which may have become empty. */
static void collapse(struct vm *vm, u64 *at, u64 entry)
{
	u64 *table = table_of(*at);

	for (unsigned int i = 0; i < BIT(LEVEL_BITS); i++)
		count_pages(vm, 1, table[i] & ENTRY_THERE ? -1 : 0);
	WRITE_ONCE(*at, entry);
	vm_flush_tlbs(vm); /* a processor may have been walking it */
	free_page((unsigned long)table);
	vm->table.tables--;
}

static u64 entry_of(const struct page_format *format, u64 pfn, unsigned int level, bool writable)
{
	u64 entry = (pfn & ~((1ull << level_shift(level)) - 1)) << PAGE_SHIFT;

	entry |= format->page | format->accessed | (level > 1 ? format->large : 0);
	return writable ? entry | format->write | format->dirty : entry;
}

/* The page of @level, or a smaller one of those that it consists of: one of 1 GiB takes no table's
 * place, which would be long work under the lock. */
static void map(struct vm *vm, struct page_cache *cache, gpn_t gpn, unsigned int level, u64 pfn,
		bool writable)
{
	const struct page_format *format = vm->table.format;
	u64 *table = vm->table.root, *last, entry;

	for (unsigned int at = LEVELS; at > level; at--) {
		u64 *p = &table[index_at(gpn, at)];

		/* A large page that must be split, for a write to one of its pages: drop it, the rest
		 * comes back by faults. Whoever protected it has flushed. */
		if (!(*p & ENTRY_THERE) || is_leaf(format, *p, at)) {
			u64 *below = cache->page[--cache->count];

			vm->table.tables++;
			if (*p & ENTRY_THERE)
				count_pages(vm, at, -1);
			WRITE_ONCE(*p, __pa(below) | format->table);
		}
		table = table_of(*p);
	}
	last = &table[index_at(gpn, level)];
	if (level > 2 && *last & ENTRY_THERE && !is_leaf(format, *last, level)) {
		table = table_of(*last);
		last = &table[index_at(gpn, --level)];
	}
	entry = entry_of(format, pfn, level, writable);
	if (!(*last & ENTRY_THERE && is_leaf(format, *last, level)))
		count_pages(vm, level, 1);
	if (*last & ENTRY_THERE && !is_leaf(format, *last, level))
		collapse(vm, last, entry);
	else
		WRITE_ONCE(*last, entry);
}

/* Without sleep for what the host has to fetch. *later: that is what it needs. */
static struct page *get_now(unsigned long hva, bool write, bool *writable, bool *later)
{
	struct page *page;
	long r;

	*writable = true;
	*later = false;
	if (get_user_page_fast_only(hva, FOLL_WRITE, &page))
		return page;
	r = get_user_pages_unlocked(hva, 1, &page, FOLL_WRITE | FOLL_NOWAIT);
	if (r <= 0 && !write) { /* it may be that only writes have to wait */
		*writable = false;
		r = get_user_pages_unlocked(hva, 1, &page, FOLL_NOWAIT);
	}
	*later = r == 0;
	return r == 1 ? page : NULL;
}

struct page *page_get(struct vcpu *vcpu, unsigned long hva, bool write, bool *writable, bool *later)
{
	struct page *page;

	*later = false;
	if (apf_is_on(vcpu)) {
		page = get_now(hva, write, writable, later);
		if (*later)
			*later = apf_begin(vcpu, hva, write);
		if (page || *later)
			return page;
	}
	*writable = true;
	if (get_user_pages_fast(hva, 1, FOLL_WRITE, &page) == 1)
		return page;
	*writable = false;
	if (!write && get_user_pages_fast(hva, 1, 0, &page) == 1)
		return page;
	return NULL;
}

void page_bring_in(struct mm_struct *mm, unsigned long hva, bool write)
{
	(void)compat_bring_in(mm, hva, write ? FOLL_WRITE : 0);
}

static int map_page(struct vcpu *vcpu, const struct slot *slot, gpn_t gpn, bool write)
{
	struct page_cache *cache = &vcpu->spare_tables;
	struct vm *vm = vcpu->vm;
	unsigned long ended = READ_ONCE(vm->invalidated);
	bool writable, later, read_only = slot->flags & KVM_MEM_READONLY;
	struct page *page;
	unsigned int level;

	if (cache_fill(cache))
		return -ENOMEM;
	smp_rmb(); /* the count before the page: an invalidation between them is noticed below */
	page = page_get(vcpu, slot_hva(slot, gpn), write, &writable, &later);
	if (later)
		return 1;
	if (!page)
		return signal_pending(current) ? -EINTR : -EFAULT;
	level = page_best_level(vm, slot, gpn, vm->table.format->levels);
	if (read_only)
		writable = false;
	/* Its first write is to fault, and to be noted. */
	if (slot_is_logged(slot) && !write)
		writable = false;
	write_lock(&vm->page_lock);
	if (!vm->invalidating && vm->invalidated == ended) {
		if (writable && write)
			slot_mark_dirty(vcpu, slot, gpn);
		map(vm, cache, gpn, level, page_to_pfn(page), writable);
	}
	write_unlock(&vm->page_lock);
	if (writable)
		set_page_dirty_lock(page);
	put_page(page);
	return 1;
}

/* The guest has the machine's page there, whatever slots say: it would not run without. */
static int map_identity(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	u64 pfn = __pa(vm->identity) >> PAGE_SHIFT;

	if (cache_fill(&vcpu->spare_tables))
		return -ENOMEM;
	write_lock(&vm->page_lock);
	map(vm, &vcpu->spare_tables, vm->identity_addr >> PAGE_SHIFT, 1, pfn, true);
	write_unlock(&vm->page_lock);
	return 1;
}

int page_fault(struct vcpu *vcpu, u64 gpa, bool write, bool exec)
{
	gpn_t gpn = gpa >> PAGE_SHIFT;
	const struct slot *slot;
	int r = 0, at;

	at = srcu_read_lock(&vcpu->vm->srcu);
	slot = slot_of(vcpu->vm, gpn);
	if (vcpu->vm->identity && gpn == vcpu->vm->identity_addr >> PAGE_SHIFT)
		r = map_identity(vcpu);
	else if (slot && !(write && slot->flags & KVM_MEM_READONLY))
		r = map_page(vcpu, slot, gpn, write);
	srcu_read_unlock(&vcpu->vm->srcu, at);
	return r;
}
