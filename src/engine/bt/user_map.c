// SPDX-License-Identifier: Apache-2.0
/* user_map.c - pages of the guest's user code in a runner: what the guest's tables say. See user.h. */
#include "engine/bt/user.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "engine/bt/bt_int.h"
#include "x86/pte.h"

#define PAGE	  UINT64_C(4096)
#define LARGE	  (UINT64_C(2) << 20)
#define MAX_INSN  15u /* bytes */
/* Linux lets nobody map what is below, by default (vm.mmap_min_addr). */
#define USER_FIRST UINT64_C(0x10000)
#define GPA_END	  (UINT64_C(1) << (32 - BT_USER_GPA_SHIFT + 12))

/* ---- regions ---- */

/* The first that is not below @linear, or count. */
static unsigned region_from(const struct bt_runner *r, uint64_t linear)
{
	unsigned low = 0, high = r->count;

	while (low < high) {
		unsigned mid = (low + high) / 2;

		if (r->region[mid]->linear >= linear)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

static struct bt_user_region *region_at(const struct bt_runner *r, uint64_t linear)
{
	uint64_t first = linear & ~(BT_USER_REGION - 1);
	unsigned i = region_from(r, first);

	return i < r->count && r->region[i]->linear == first ? r->region[i] : NULL;
}

static struct bt_user_region *region_add(struct bt_runner *r, uint64_t linear)
{
	uint64_t first = linear & ~(BT_USER_REGION - 1);
	unsigned i = region_from(r, first);
	struct bt_user_region *region;

	if (r->count == BT_USER_REGIONS)
		return NULL;
	if (!r->region)
		r->region = calloc(BT_USER_REGIONS, sizeof(*r->region));
	region = r->region ? calloc(1, sizeof(*region)) : NULL;
	if (!region)
		return NULL;
	region->linear = first;
	memmove(&r->region[i + 1], &r->region[i], (r->count - i) * sizeof(r->region[0]));
	r->region[i] = region;
	r->count++;
	return region;
}

uint32_t bt_user_word(const struct bt_runner *r, uint64_t linear)
{
	const struct bt_user_region *region = region_at(r, linear);

	return region ? region->page[linear / PAGE % BT_USER_PAGES] : 0;
}

static uint64_t gpa_of(uint32_t word)
{
	return (uint64_t)(word >> BT_USER_GPA_SHIFT) * PAGE;
}

/* ---- what the guest's tables say ---- */

/* Of a region: the entry for all of it, or the table of its pages. */
struct tables {
	uint64_t rights; /* of the levels above */
	uint64_t large;	 /* the entry; 0: there is a table */
	const uint64_t *table;
};

/* Four levels; SDM vol. 3, 5.5.4. Nothing is set, and nothing is said of why not. */
static bool find_tables(struct bt_vcpu *vcpu, const struct bt_runner *r, uint64_t linear,
			struct tables *ret)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t table = r->cr3;

	*ret = (struct tables){ .rights = PTE_W };
	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		const uint8_t *at = bt_ram_host(engine, table + (linear >> shift & 511) * 8);
		uint64_t entry;

		if (!at)
			return false;
		entry = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
		if ((entry & (PTE_P | PTE_U | PTE_A)) != (PTE_P | PTE_U | PTE_A))
			return false;
		table = entry & PTE_ADDR;
		if (entry & PTE_PS) {
			ret->large = entry;
			return shift == 21 && !(table & (LARGE - 1) & ~UINT64_C(0x1fff));
		}
		/* Of the levels above only what takes away: writing, and execution. */
		ret->rights = (ret->rights & entry & PTE_W) | ((ret->rights | entry) & PTE_NX);
	}
	ret->table = (const uint64_t *)(const void *)bt_ram_host(engine, table);
	return ret->table != NULL;
}

/* The code at @linear, or NULL: @t is where the tables of its region were found. */
static const uint8_t *code_at(struct bt_vcpu *vcpu, const struct tables *t, uint64_t linear)
{
	const uint64_t i = linear / PAGE % BT_USER_PAGES;
	uint64_t entry = t->large ? (t->large & ~(LARGE - 1)) + i * PAGE : t->table[i];

	return t->large || entry & PTE_P ? bt_ram_host(bt_engine_of(vcpu), entry & PTE_ADDR) : NULL;
}

/* What must not be executed as it is in the page of @linear, which is at @host: bt_user_scan(). What lies behind it
 * matters seldom, and is looked at again only where it was not there and what may be such an instruction is executed. */
static unsigned scan(struct bt_vcpu *vcpu, const struct bt_runner *r, uint64_t linear, const uint8_t *host,
		     unsigned max, uint16_t ret_at[])
{
	const uint8_t *next = NULL;
	struct tables t;

	if ((host[PAGE - 1] == 0x0f || host[PAGE - 2] == 0x0f) && find_tables(vcpu, r, linear + PAGE, &t))
		next = code_at(vcpu, &t, linear + PAGE);
	return bt_user_scan(host, next, vcpu->user.telling, max, ret_at);
}

/* EXEC or HIDDEN. Known already where the page was executable before. */
static uint32_t execution(struct bt_vcpu *vcpu, const struct bt_runner *r, uint64_t linear, uint32_t have,
			  uint64_t gpa, const uint8_t *host)
{
	const uint32_t known = have & (BT_USER_EXEC | BT_USER_HIDDEN);

	if (known && gpa_of(have) == gpa)
		return known;
	return scan(vcpu, r, linear, host, 0, NULL) ? BT_USER_HIDDEN : BT_USER_EXEC;
}

/* A page that may be written and executed is one of the two at a time, hidden while it is written: virtual machines
 * of languages write what asks for the processor's features there, too. */
static uint32_t writing_or_execution(uint32_t have, uint64_t gpa)
{
	if (have & BT_USER_EXEC && gpa_of(have) == gpa)
		return BT_USER_EXEC | BT_USER_HIDDEN;
	return BT_USER_WRITE | BT_USER_HIDDEN;
}

/* What may be mapped of the page of @linear, where @have is now. */
static uint32_t wanted_word(struct bt_vcpu *vcpu, const struct bt_runner *r, const struct tables *t, uint64_t linear,
			    uint32_t have)
{
	const uint64_t i = linear / PAGE % BT_USER_PAGES;
	uint64_t entry = t->large ? t->large : __atomic_load_n(&t->table[i], __ATOMIC_RELAXED);
	uint64_t gpa = entry & PTE_ADDR;
	bool nx = vcpu->cpu.s.efer & X86_EFER_NXE;
	const uint8_t *host;
	bool writable;
	uint32_t word;

	if ((entry & (PTE_P | PTE_U | PTE_A)) != (PTE_P | PTE_U | PTE_A) ||
	    ((entry | t->rights) & PTE_NX && !nx))
		return 0;
	if (t->large)
		gpa = (gpa & ~(LARGE - 1)) + i * PAGE;
	host = gpa < GPA_END ? bt_ram_host(bt_engine_of(vcpu), gpa) : NULL;
	if (!host)
		return 0;
	word = (uint32_t)(gpa / PAGE) << BT_USER_GPA_SHIFT | BT_USER_IN |
	       (t->large ? BT_USER_LARGE : 0);
	writable = entry & t->rights & PTE_W && entry & PTE_D && bt_may_write(vcpu, gpa);
	if ((entry | t->rights) & PTE_NX)
		return word | (writable ? BT_USER_WRITE : 0);
	return word | (writable ? writing_or_execution(have, gpa)
				: execution(vcpu, r, linear, have, gpa, host));
}

/* ---- changes ---- */

static int prot_of(uint32_t word)
{
	return PROT_READ | (word & BT_USER_WRITE ? PROT_WRITE : 0) |
	       (word & BT_USER_EXEC ? PROT_EXEC : 0);
}

static bool map_run(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear, uint32_t word,
		    unsigned pages)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	const struct bt_ram *ram = bt_ram_of(engine, gpa_of(word));
	const struct bt_user_call call = {
		SYS_mmap,
		{ linear, pages * PAGE, (uint64_t)prot_of(word),
		  MAP_SHARED | MAP_FIXED | MAP_POPULATE, 1 + (uint64_t)(ram - engine->ram),
		  ram->fd_offset + (gpa_of(word) - ram->gpa) }
	};

	bt_count(&vcpu->stats.user_maps);
	return bt_runner_call(r, &call);
}

static bool unmap(struct bt_runner *r, uint64_t linear, uint64_t bytes)
{
	const struct bt_user_call call = { SYS_munmap, { linear, bytes } };

	return bt_runner_call(r, &call);
}

/* @b can be mapped together with @a, of the page in front of it. */
static bool follows(const struct bt_engine *engine, uint32_t a, uint32_t b)
{
	const uint32_t flags = BT_USER_IN | BT_USER_WRITE | BT_USER_EXEC;

	if (!((a | b) & BT_USER_IN))
		return true;
	return (a & flags) == (b & flags) &&
	       (b >> BT_USER_GPA_SHIFT) == (a >> BT_USER_GPA_SHIFT) + 1 &&
	       bt_ram_of(engine, gpa_of(a)) == bt_ram_of(engine, gpa_of(b));
}

/* Make the runner's pages of @region those of @next. */
static bool change(struct bt_vcpu *vcpu, struct bt_runner *r, struct bt_user_region *region,
		   const uint32_t next[BT_USER_PAGES])
{
	const struct bt_engine *engine = bt_engine_of(vcpu);
	unsigned i = 0, end;
	bool ok = true;

	while (i < BT_USER_PAGES && ok) {
		if (next[i] == region->page[i]) {
			i++;
			continue;
		}
		for (end = i + 1; end < BT_USER_PAGES && next[end] != region->page[end] &&
				  follows(engine, next[end - 1], next[end]);)
			end++;
		if (next[i])
			ok = map_run(vcpu, r, region->linear + i * PAGE, next[i], end - i);
		else
			ok = unmap(r, region->linear + i * PAGE, (end - i) * PAGE);
		i = end;
	}
	memcpy(region->page, next, sizeof(region->page));
	return ok;
}

/* Pages that were not there come in only where @fill. */
static bool renew(struct bt_vcpu *vcpu, struct bt_runner *r, struct bt_user_region *region, bool fill)
{
	uint32_t next[BT_USER_PAGES] = { 0 };
	struct tables t;

	if (find_tables(vcpu, r, region->linear, &t)) {
		for (unsigned i = 0; i < BT_USER_PAGES; i++)
			if (fill || region->page[i])
				next[i] = wanted_word(vcpu, r, &t, region->linear + i * PAGE, region->page[i]);
	}
	return change(vcpu, r, region, next);
}

bool bt_user_map(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	struct bt_user_region *region;
	struct tables t;
	uint32_t had;

	if (linear < USER_FIRST || linear >= BT_USER_END ||
	    linear >> BT_USER_REGION_BITS == BT_USER_STUB_LINEAR >> BT_USER_REGION_BITS)
		return false;
	/* Most faults are the guest's own: nothing to be done for them here. */
	if (!find_tables(vcpu, r, linear, &t))
		return false;
	had = bt_user_word(r, linear);
	if (wanted_word(vcpu, r, &t, linear, had) == had)
		return false;
	region = region_at(r, linear);
	if (!region)
		region = region_add(r, linear);
	return region && renew(vcpu, r, region, true) && bt_user_word(r, linear) != had;
}

void bt_user_revalidate(struct bt_vcpu *vcpu, struct bt_runner *r)
{
	struct tables t;

	for (unsigned i = 0; i < r->count; i++)
		(void)renew(vcpu, r, r->region[i], false);
	/* The stub is in the guest's way: it must do without a runner. */
	if (find_tables(vcpu, r, BT_USER_STUB_LINEAR, &t))
		r->ready = false;
}

/* One page only, unless it is part of a large one, which is dropped as a whole: SDM vol. 3, 5.10.4.1. */
static void flush_page(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	struct bt_user_region *region = region_at(r, linear);
	unsigned i = linear / PAGE % BT_USER_PAGES;
	uint32_t next[BT_USER_PAGES];
	struct tables t;

	if (!region || !region->page[i])
		return;
	if (region->page[i] & BT_USER_LARGE) {
		(void)renew(vcpu, r, region, false);
		return;
	}
	memcpy(next, region->page, sizeof(next));
	next[i] = find_tables(vcpu, r, linear, &t) ? wanted_word(vcpu, r, &t, linear, region->page[i]) : 0;
	(void)change(vcpu, r, region, next);
}

void bt_user_flush_page(struct bt_vcpu *vcpu, uint64_t linear)
{
	if (linear >= BT_USER_END)
		return;
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++) {
		struct bt_runner *r = &vcpu->user.runner[i];

		if (!r->ready || r->stale)
			continue;
		if (r->space == vcpu->cpu.space_now)
			flush_page(vcpu, r, linear);
		else if (vcpu->cpu.tlb_foreign)
			r->stale = true;
	}
}

static void protect(struct bt_vcpu *vcpu, struct bt_runner *r, uint32_t pfn)
{
	const uint32_t is = pfn << BT_USER_GPA_SHIFT | BT_USER_IN | BT_USER_WRITE;
	const uint32_t mask = ~(BT_USER_EXEC | BT_USER_HIDDEN | BT_USER_LARGE);

	for (unsigned n = 0; n < r->count; n++) {
		struct bt_user_region *region = r->region[n];

		for (unsigned i = 0; i < BT_USER_PAGES; i++) {
			if ((region->page[i] & mask) != is)
				continue;
			region->page[i] &= ~BT_USER_WRITE;
			(void)map_run(vcpu, r, region->linear + i * PAGE, region->page[i], 1);
		}
	}
}

void bt_user_protect(struct bt_vcpu *vcpu, uint64_t gpa)
{
	for (unsigned i = 0; i < BT_USER_RUNNERS; i++) {
		if (vcpu->user.runner[i].count && gpa < GPA_END)
			protect(vcpu, &vcpu->user.runner[i], (uint32_t)(gpa / PAGE));
	}
}

/* Change what the page of @linear is mapped for. */
static bool set_word(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear, uint32_t word)
{
	struct bt_user_region *region = region_at(r, linear);

	if (!region)
		return true;
	region->page[linear / PAGE % BT_USER_PAGES] = word;
	return map_run(vcpu, r, linear & ~(PAGE - 1), word, 1);
}

static void forget_watches(struct bt_runner *r, uint64_t linear)
{
	for (unsigned i = 0; i < BT_USER_WATCHES; i++)
		if (r->watch[i] / PAGE == linear / PAGE)
			r->watch[i] = 0;
}

/* Nobody stops at the instructions of the page any more. */
static void hide(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	uint32_t word = bt_user_word(r, linear);

	forget_watches(r, linear);
	if (word & BT_USER_HIDDEN && word & BT_USER_EXEC)
		(void)set_word(vcpu, r, linear, word & ~BT_USER_EXEC);
}

void bt_user_hide(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	if (bt_user_word(r, linear) & BT_USER_HIDDEN)
		hide(vcpu, r, linear);
}

bool bt_user_unhide(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	uint64_t *crowded = &r->crowded[linear / PAGE % BT_USER_CROWDED];
	uint32_t word = bt_user_word(r, linear);
	uint16_t at[BT_USER_WATCHES];
	unsigned count;

	if (*crowded == linear / PAGE)
		return false;
	count = scan(vcpu, r, linear & ~(PAGE - 1), bt_ram_host(bt_engine_of(vcpu), gpa_of(word)), BT_USER_WATCHES,
		     at);
	if (count > BT_USER_WATCHES) {
		*crowded = linear / PAGE;
		return false;
	}
	forget_watches(r, linear);
	for (unsigned i = 0; i < count; i++) {
		uint64_t *watch = &r->watch[r->next_watch++ % BT_USER_WATCHES];

		if (*watch)
			hide(vcpu, r, *watch);
		*watch = (linear & ~(PAGE - 1)) + at[i];
	}
	word = (word | BT_USER_EXEC) & ~BT_USER_WRITE;
	return set_word(vcpu, r, linear, word) && bt_runner_watch(r);
}

bool bt_user_unwatch(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear)
{
	const uint8_t *host = bt_ram_host(bt_engine_of(vcpu), gpa_of(bt_user_word(r, linear)));
	uint16_t at[BT_USER_WATCHES];
	unsigned count;

	if (linear % PAGE + MAX_INSN < PAGE)
		return false;
	count = scan(vcpu, r, linear & ~(PAGE - 1), host, BT_USER_WATCHES, at);
	for (unsigned i = 0; i < MIN(count, BT_USER_WATCHES); i++)
		if (at[i] == linear % PAGE)
			return false;
	for (unsigned i = 0; i < BT_USER_WATCHES; i++)
		if (r->watch[i] == linear)
			r->watch[i] = 0;
	return bt_runner_watch(r);
}

void bt_user_drop(struct bt_runner *r)
{
	/* Behind the region of the stub and the list. */
	const uint64_t behind = BT_USER_STUB_LINEAR + BT_USER_REGION;

	/* What was to be changed goes, too. That may have been the same as what follows: so it follows always. */
	bt_runner_wipe(r);
	if (r->pid) {
		(void)unmap(r, 0, BT_USER_STUB_LINEAR);
		(void)unmap(r, behind, BT_USER_END - behind);
	}
	for (unsigned i = 0; i < r->count; i++)
		free(r->region[i]);
	r->count = 0;
	memset(r->watch, 0, sizeof(r->watch));
	(void)bt_runner_watch(r);
}
