// SPDX-License-Identifier: Apache-2.0
/* direct_map.c - windows of the host's address space, and the guest's pages in them. See direct.h. */
#include <sys/mman.h>

#include "engine/bt/bt_int.h"
#include "x86/pte.h"

#define PAGE	   4096ull
#define PAGE_MASK  (PAGE - 1)
#define LARGE	   (2ull << 20)
#define SLOT_BITS  39
#define SLOT_BYTES (1ull << SLOT_BITS)
#define GUARD	   (4ull << 30)
#define NO_WINDOW  ((1ull << 47) + (1ull << 46))
#define USER_END   (1ull << 47)

/* ---- windows ---- */

static unsigned slot_of(uint64_t linear)
{
	return linear >> SLOT_BITS & 511;
}

static void set_addend(struct bt_direct *d, unsigned slot, uint64_t at)
{
	d->addend[slot] = at - ((uint64_t)slot << SLOT_BITS);
}

static bool is_within(const struct bt_direct_window *w, uint64_t linear)
{
	return (linear >> SLOT_BITS) - w->slot < w->slots;
}

static struct bt_direct_window *window_of(struct bt_direct *d, uint64_t linear)
{
	for (unsigned i = 0; i < BT_DIRECT_WINDOWS; i++)
		if (d->window[i].used && is_within(&d->window[i], linear))
			return &d->window[i];
	return NULL;
}

static uint8_t *host_of_linear(struct bt_direct *d, uint64_t linear)
{
	const struct bt_direct_window *w = window_of(d, linear);

	return w->base + (linear - ((uint64_t)w->slot << SLOT_BITS));
}

/* MAP_FIXED over what was there, which in a window is ours. */
static void make_inaccessible(struct bt_direct *d, uint8_t *at, uint64_t len)
{
	/* What could not be unmapped must not be used again. */
	if (mmap(at, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		 0) == MAP_FAILED) {
		(void)mprotect(at, len, PROT_NONE);
		d->able = false;
	}
}

/* Of @slots; anywhere where @at is NULL. */
static bool reserve(struct bt_direct_window *w, unsigned slots, uint8_t *at)
{
	uint64_t len = slots * SLOT_BYTES + 2 * GUARD;
	uint8_t *p;

	p = mmap(at ? at - GUARD : NULL, len, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0), -1,
		 0);
	if (p == MAP_FAILED)
		return false;
	if (at && p != at - GUARD) { /* Linux before 4.17 takes the flag for a hint */
		munmap(p, len);
		return false;
	}
	(void)madvise(p, len, MADV_DONTDUMP);
	w->base = p + GUARD;
	w->slots = slots;
	return true;
}

static void release(struct bt_direct_window *w)
{
	if (w->base)
		munmap(w->base - GUARD, w->slots * SLOT_BYTES + 2 * GUARD);
	w->base = NULL;
	w->slots = 0;
}

/* ---- the classes ---- */

#define HIGH_SLOTS 3u
/* Where Linux puts programs, and stacks and mappings, with all that is chosen at random. */
static const unsigned high_slot[2] = { 0xaa, 0xfd };

/* The low table ends a page: what is behind it faults. */
#define LOW_TABLE_AT (BT_DIRECT_LOW_BYTES + PAGE)

#define TABLES_BYTES (LOW_TABLE_AT + BT_VCPU_BYTES + BT_DIRECT_HIGH_BYTES)

static struct bt_vcpu *alloc_between_tables(void)
{
	struct bt_vcpu *vcpu;
	uint8_t *p;

	p = mmap(NULL, TABLES_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	vcpu = (struct bt_vcpu *)(void *)(p + LOW_TABLE_AT);
	if (mprotect(vcpu, BT_VCPU_BYTES, PROT_READ | PROT_WRITE) < 0) {
		munmap(p, TABLES_BYTES);
		return NULL;
	}
	(void)madvise(p, LOW_TABLE_AT, MADV_DONTDUMP);
	(void)madvise(p + LOW_TABLE_AT + BT_VCPU_BYTES, BT_DIRECT_HIGH_BYTES, MADV_DONTDUMP);
	vcpu->direct.tables = true;
	return vcpu;
}

struct bt_vcpu *bt_direct_alloc(void)
{
	struct bt_vcpu *vcpu = alloc_between_tables();

	if (vcpu)
		return vcpu;
	/* The process may have little address space. */
	vcpu = mmap(NULL, BT_VCPU_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return vcpu != MAP_FAILED ? vcpu : NULL;
}

void bt_direct_free(struct bt_vcpu *vcpu)
{
	if (vcpu->direct.tables)
		munmap((uint8_t *)vcpu - LOW_TABLE_AT, TABLES_BYTES);
	else
		munmap(vcpu, BT_VCPU_BYTES);
}

/* Code that guesses may be executed by a vCPU that has no such class: its table says so, and becomes
 * accessible last. */
static void make_low_class(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	if (!reserve(&d->window[0], 1, NULL))
		return;
	d->base[BT_DIRECT_LOW] = (uintptr_t)d->window[0].base;
	d->has_class[BT_DIRECT_LOW] =
		mprotect((uint8_t *)vcpu - LOW_TABLE_AT, PAGE, PROT_READ) == 0;
}

static bool place_high(struct bt_direct *d, uint64_t base)
{
	for (unsigned i = 0; i < 2; i++) {
		struct bt_direct_window *w = &d->window[1 + i];
		uint64_t at = ((uint64_t)high_slot[i] << SLOT_BITS) + base;

		/* The address is nobody's yet: made of a number. */
		w->slot = high_slot[i];
		if (reserve(w, HIGH_SLOTS, (uint8_t *)(uintptr_t)at))
			continue;
		release(&d->window[1]);
		return false;
	}
	return true;
}

/* Below the host's own mappings, each vCPU somewhere else. */
static void make_high_class(struct bt_vcpu *vcpu)
{
	uint8_t *table = (uint8_t *)vcpu + BT_VCPU_BYTES;
	struct bt_direct *d = &vcpu->direct;

	for (unsigned down = HIGH_SLOTS + 1; down < high_slot[0]; down++) {
		uint64_t base = -((uint64_t)down << SLOT_BITS);

		if (!place_high(d, base))
			continue;
		d->base[BT_DIRECT_HIGH] = base;
		for (unsigned i = 0; i < 2; i++)
			if (mprotect(table + high_slot[i] * PAGE, HIGH_SLOTS * PAGE, PROT_READ) < 0)
				return;
		d->has_class[BT_DIRECT_HIGH] = true;
		return;
	}
}

void bt_direct_classes(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	d->class_mask[BT_DIRECT_LOW] = ~0ull << (64 - BT_DIRECT_LOW_BITS);
	d->class_mask[BT_DIRECT_HIGH] = ~0ull << (64 - BT_DIRECT_HIGH_BITS);
	make_low_class(vcpu);
	make_high_class(vcpu);
}

/* ---- opened and closed ---- */

static void open_window(struct bt_direct *d, struct bt_direct_window *w)
{
	w->used = true;
	for (unsigned i = 0; i < w->slots; i++)
		set_addend(d, w->slot + i, (uintptr_t)w->base + i * SLOT_BYTES);
}

bool bt_direct_open(struct bt_vcpu *vcpu, uint64_t linear)
{
	struct bt_direct *d = &vcpu->direct;

	if (linear >= USER_END)
		return false;
	if (window_of(d, linear))
		return true;
	for (unsigned i = 0; i < BT_DIRECT_WINDOWS; i++) {
		struct bt_direct_window *w = &d->window[i];

		if (w->used || (i < BT_DIRECT_FIXED && !(w->base && is_within(w, linear))))
			continue;
		if (!w->base && !reserve(w, 1, NULL))
			return false;
		if (i >= BT_DIRECT_FIXED)
			w->slot = slot_of(linear);
		open_window(d, w);
		return true;
	}
	return false;
}

uint64_t bt_direct_linear(const struct bt_direct *d, uint64_t host)
{
	for (unsigned i = 0; i < BT_DIRECT_WINDOWS; i++) {
		const struct bt_direct_window *w = &d->window[i];

		/* Nothing is mapped in those of the classes before they are used, but they are reached. */
		if ((w->used || i < BT_DIRECT_FIXED) &&
		    host - (uintptr_t)w->base < w->slots * SLOT_BYTES)
			return ((uint64_t)w->slot << SLOT_BITS) + (host - (uintptr_t)w->base);
	}
	return BT_DIRECT_NOWHERE;
}

void bt_direct_drop(struct bt_vcpu *vcpu)
{
	struct bt_direct *d = &vcpu->direct;

	for (unsigned i = 0; i < BT_DIRECT_WINDOWS; i++) {
		struct bt_direct_window *w = &d->window[i];

		if (w->used && d->count)
			make_inaccessible(d, w->base, w->slots * SLOT_BYTES);
		w->used = false;
	}
	d->count = 0;
	for (unsigned slot = 0; slot < 512; slot++)
		set_addend(d, slot, NO_WINDOW);
}

void bt_direct_close(struct bt_direct *d)
{
	for (unsigned i = 0; i < BT_DIRECT_WINDOWS; i++)
		release(&d->window[i]);
}

/* ---- extents ---- */

static uint64_t end_of(const struct bt_direct_extent *e)
{
	return e->linear + e->pages * PAGE;
}

/* The first that ends behind @linear, or d->count. */
static unsigned extent_from(const struct bt_direct *d, uint64_t linear)
{
	unsigned low = 0, high = d->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (end_of(&d->extent[mid]) > linear)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static struct bt_direct_extent *extent_at(const struct bt_direct *d, uint64_t linear)
{
	unsigned i = extent_from(d, linear);

	return i < d->count && d->extent[i].linear <= linear ? &d->extent[i] : NULL;
}

/* Pages for which there is no more room in the table are unmapped: the guest decides how often extents are split. */
static void extent_insert_at(struct bt_direct *d, unsigned i, struct bt_direct_extent e)
{
	if (d->count == d->room) {
		make_inaccessible(d, host_of_linear(d, e.linear), e.pages * PAGE);
		return;
	}
	memmove(&d->extent[i + 1], &d->extent[i], (d->count - i) * sizeof(e));
	d->extent[i] = e;
	d->count++;
}

static void extent_remove_at(struct bt_direct *d, unsigned i)
{
	d->count--;
	memmove(&d->extent[i], &d->extent[i + 1], (d->count - i) * sizeof(d->extent[0]));
}

/* Forget what lies in [linear, end): one more extent at most. */
static void extents_carve(struct bt_direct *d, uint64_t linear, uint64_t end)
{
	unsigned i = extent_from(d, linear);

	while (i < d->count && d->extent[i].linear < end) {
		struct bt_direct_extent *e = &d->extent[i], right = *e;
		bool keep_left = e->linear < linear, keep_right = end_of(e) > end;

		right.linear = end;
		right.gpa = e->gpa + (end - e->linear);
		right.pages = (uint32_t)((end_of(e) - end) / PAGE);
		if (keep_left)
			e->pages = (uint32_t)((linear - e->linear) / PAGE);
		if (keep_left && keep_right)
			extent_insert_at(d, i + 1, right);
		else if (keep_right)
			*e = right;
		else if (!keep_left) {
			extent_remove_at(d, i);
			continue;
		}
		i++;
	}
}

static bool extents_join(const struct bt_direct_extent *a, const struct bt_direct_extent *b)
{
	return end_of(a) == b->linear && a->gpa + a->pages * PAGE == b->gpa &&
	       a->writable == b->writable && a->large == b->large &&
	       slot_of(a->linear) == slot_of(b->linear);
}

/* What it covers was carved out. */
static void extent_add(struct bt_direct *d, struct bt_direct_extent e)
{
	unsigned i = extent_from(d, e.linear);

	if (i < d->count && extents_join(&e, &d->extent[i])) {
		e.pages += d->extent[i].pages;
		extent_remove_at(d, i);
	}
	if (i && extents_join(&d->extent[i - 1], &e))
		d->extent[i - 1].pages += e.pages;
	else
		extent_insert_at(d, i, e);
}

static void unmap(struct bt_direct *d, uint64_t linear, uint64_t end)
{
	extents_carve(d, linear, end);
	make_inaccessible(d, host_of_linear(d, linear), end - linear);
	d->unmaps++;
}

/* ---- what the guest's tables say ---- */

struct page {
	uint64_t gpa;
	bool writable, large;
};

/*
 * What a processor may cache of the page at @linear for user accesses: four levels, all entries accessed.
 * Nothing is set, and nothing is said of why not. Addresses outside RAM, reserved bits among them, fail.
 */
static bool walk(struct bt_vcpu *vcpu, uint64_t linear, struct page *ret)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t table = vcpu->direct.cr3, rights = PTE_W;

	vcpu->direct.walks++;
	for (unsigned shift = 39;; shift -= 9) {
		const uint8_t *at = bt_ram_host(engine, table + (linear >> shift & 511) * 8);
		uint64_t entry;

		if (!at)
			return false;
		entry = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
		if ((entry & (PTE_P | PTE_U | PTE_A)) != (PTE_P | PTE_U | PTE_A))
			return false;
		if (entry & PTE_NX && !(vcpu->cpu.s.efer & X86_EFER_NXE))
			return false;
		rights &= entry;
		table = entry & PTE_ADDR;
		if (shift > 12 && !(entry & PTE_PS))
			continue;
		if (shift > 21 || (shift == 21 && table & (LARGE - 1) & ~0x1fffull))
			return false; /* 1 GiB is left to the TLB */
		ret->large = shift == 21;
		ret->writable = rights && entry & PTE_D;
		ret->gpa = table;
		if (ret->large)
			ret->gpa = (table & ~(LARGE - 1)) | (linear & (LARGE - 1) & ~PAGE_MASK);
		return bt_ram_host(engine, ret->gpa) != NULL;
	}
}

static bool look_up(struct bt_vcpu *vcpu, uint64_t linear, struct page *ret)
{
	if (!walk(vcpu, linear, ret))
		return false;
	ret->writable = ret->writable && bt_may_write(vcpu, ret->gpa);
	return true;
}

/* @e still is what the tables say of its page at @linear, and its stores need not be reported: where
 * many pages became code at once, all that a vCPU is told is to flush. */
static bool still_holds(struct bt_vcpu *vcpu, const struct bt_direct_extent *e, uint64_t linear)
{
	struct page page;

	return walk(vcpu, linear, &page) && page.gpa == e->gpa + (linear - e->linear) &&
	       (!e->writable || (page.writable && bt_may_write(vcpu, page.gpa)));
}

/* In [linear, end), which lies in one window. */
static void revalidate(struct bt_vcpu *vcpu, uint64_t linear, uint64_t end)
{
	struct bt_direct *d = &vcpu->direct;

	for (unsigned i; (i = extent_from(d, linear)) < d->count;) {
		struct bt_direct_extent e = d->extent[i];
		uint64_t bad;

		if (linear < e.linear)
			linear = e.linear;
		while (linear < end && linear < end_of(&e) && still_holds(vcpu, &e, linear))
			linear += PAGE;
		bad = linear;
		while (linear < end && linear < end_of(&e) && !still_holds(vcpu, &e, linear))
			linear += PAGE;
		if (linear > bad)
			unmap(d, bad, linear);
		if (linear >= end)
			break;
	}
}

void bt_direct_revalidate(struct bt_vcpu *vcpu)
{
	revalidate(vcpu, 0, USER_END);
}

void bt_direct_flush_page(struct bt_vcpu *vcpu, uint64_t linear)
{
	struct bt_direct *d = &vcpu->direct;
	uint64_t first = linear & ~PAGE_MASK, end = first + PAGE;
	struct bt_direct_extent *e;

	if (!d->ready || d->stale || linear >= USER_END)
		return;
	e = extent_at(d, linear);
	if (!e)
		return;
	if (e->large) { /* all of a large page is dropped: SDM vol. 3, 5.10.4.1 */
		first = linear & ~(LARGE - 1);
		end = first + LARGE;
	}
	if (vcpu->cpu.space_now == d->space) {
		revalidate(vcpu, first, end);
		return;
	}
	d->stale = true;
	bt_ways_close(vcpu);
}

void bt_direct_protect(struct bt_vcpu *vcpu, uint64_t gpa)
{
	struct bt_direct *d = &vcpu->direct;

	for (unsigned i = 0; i < d->count; i++) {
		struct bt_direct_extent *e = &d->extent[i], one;
		uint8_t *host;

		if (!e->writable || gpa - e->gpa >= e->pages * PAGE)
			continue;
		one = (struct bt_direct_extent){
			.linear = e->linear + (gpa - e->gpa),
			.gpa = gpa,
			.pages = 1,
			.large = e->large,
		};
		host = host_of_linear(d, one.linear);
		extents_carve(d, one.linear, one.linear + PAGE);
		if (mprotect(host, PAGE, PROT_READ) == 0)
			extent_add(d, one);
		else
			make_inaccessible(d, host, PAGE);
	}
}

/* @linear may be mapped together with its neighbour. */
static bool fits(struct bt_vcpu *vcpu, uint64_t linear, uint64_t gpa, const struct page *beside)
{
	const struct bt_direct_extent *have = extent_at(&vcpu->direct, linear);
	struct page page;

	if (have && (have->writable || !beside->writable))
		return false;
	return walk(vcpu, linear, &page) && page.gpa == gpa && page.large == beside->large &&
	       (page.writable && bt_may_write(vcpu, gpa)) == beside->writable;
}

/* Grown to both sides, within its 2 MiB and its part of RAM. */
static struct bt_direct_extent grow(struct bt_vcpu *vcpu, uint64_t linear, const struct page *page,
				    const struct bt_ram *ram)
{
	uint64_t low = linear & ~(LARGE - 1), first = linear, end = linear + PAGE;
	uint64_t gpa = page->gpa;

	while (first > low && gpa > ram->gpa && fits(vcpu, first - PAGE, gpa - PAGE, page)) {
		first -= PAGE;
		gpa -= PAGE;
	}
	while (end < low + LARGE && gpa + (end - first) < ram->gpa + ram->size &&
	       fits(vcpu, end, gpa + (end - first), page))
		end += PAGE;
	return (struct bt_direct_extent){
		.linear = first,
		.gpa = gpa,
		.pages = (uint32_t)((end - first) / PAGE),
		.writable = page->writable,
		.large = page->large,
	};
}

bool bt_direct_map(struct bt_vcpu *vcpu, uint64_t linear)
{
	struct bt_direct *d = &vcpu->direct;
	const struct bt_direct_extent *have;
	const struct bt_ram *ram;
	struct bt_direct_extent e;
	struct page page;
	uint8_t *host;

	linear &= ~PAGE_MASK;
	if (!bt_direct_open(vcpu, linear) || d->room - d->count < 4 ||
	    !look_up(vcpu, linear, &page))
		return false;
	have = extent_at(d, linear);
	if (have && (have->writable || !page.writable))
		return false;
	ram = bt_ram_of(bt_engine_of(vcpu), page.gpa);
	e = grow(vcpu, linear, &page, ram);
	host = host_of_linear(d, e.linear);
	extents_carve(d, e.linear, end_of(&e));
	if (mmap(host, e.pages * PAGE, PROT_READ | (e.writable ? PROT_WRITE : 0),
		 MAP_SHARED | MAP_FIXED | MAP_POPULATE, ram->fd,
		 (off_t)(ram->fd_offset + (e.gpa - ram->gpa))) == MAP_FAILED) {
		make_inaccessible(d, host, e.pages * PAGE);
		d->able = false;
		return false;
	}
	extent_add(d, e);
	d->maps++;
	return true;
}
