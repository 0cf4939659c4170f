// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * tlb.c - the software TLB: filled, looked up, flushed by page, by address space and as a whole.
 *
 * Theory of operation. An address space is what goes by one PCID (SDM vol. 3, 4.10.1), or all there is
 * without PCIDs. User rights, and the kernel's while EFLAGS.AC lifts SMAP, have a table for each of the
 * last few spaces, which stays as it is while others are in use. The kernel has one table: global pages
 * of the upper half stay in it over a change of space, and the few others, which are listed, are dropped.
 * Dropping too much is always allowed (4.10.3.1).
 *
 * A large page comes in by pieces of 4 KiB. INVLPG has to drop all of them (4.10.4.1); where there may
 * be any, the space is flushed.
 *
 * Flushes write to what was filled since the last one, a 64th part of a table at a time.
 */
#include "softmmu.h"

#include <string.h>

#define NO_TAG	 (~(uint64_t)0)
#define NO_SPACE X86_TLB_SPACES
#define OVERFLOW (~(uint32_t)0) /* in the first way of a set: there were more */

struct table {
	unsigned id, first, size; /* in struct x86_tlb: bit of touched; entries */
};

static const struct {
	unsigned id, ids, first, size; /* ids: 1, there is one per space */
} tables[X86_TLB_MODES] = {
	[X86_TLB_KERNEL] = { 0, 0, 0, X86_TLB_KERNEL_SIZE },
	[X86_TLB_KERNEL_AC] = { 2, 1, X86_TLB_AC_AT, X86_TLB_AC_SIZE },
	[X86_TLB_USER] = { 2 + X86_TLB_SPACES, 1, X86_TLB_USER_AT, X86_TLB_USER_SIZE },
	[X86_TLB_SLOW] = { 1, 0, X86_TLB_SLOW_AT, 1 },
};

static struct table table_of(unsigned mode, unsigned space)
{
	unsigned n = tables[mode].ids * space;

	return (struct table){ tables[mode].id + n, tables[mode].first + n * tables[mode].size,
			       tables[mode].size };
}

void x86_tlb_select(struct x86_cpu *cpu)
{
	struct table t = table_of(cpu->tlb_mode, cpu->space_now);

	cpu->tlb_table = &cpu->tlb->entry[t.first];
	cpu->tlb_mask = (uint64_t)(t.size - 1) * sizeof(struct x86_tlb_entry);
}

static void drop(struct x86_tlb_entry *e)
{
	e->read_tag = e->write_tag = NO_TAG;
}

static void clear_table(struct x86_cpu *cpu, unsigned mode, unsigned space)
{
	struct table t = table_of(mode, space);
	struct x86_tlb_entry *e = &cpu->tlb->entry[t.first];
	unsigned part = t.size / 64;

	for (uint64_t left = cpu->tlb->touched[t.id]; left && part; left &= left - 1)
		memset(&e[(unsigned)__builtin_ctzll(left) * part], 0xff, part * sizeof(*e));
	cpu->tlb->touched[t.id] = 0;
	/* Where a tag of 0 could match, see x86.h. */
	drop(&e[0]);
	drop(&e[t.size - 1]);
}

/* ---- who may write to a guest-physical page ---- */

static unsigned back_set(uint64_t gpa)
{
	return (gpa >> 12) % X86_TLB_BACK_SETS;
}

static bool may_write(const struct x86_tlb_entry *e)
{
	return !(e->write_tag & 0xfff);
}

static void back_add(struct x86_cpu *cpu, const struct x86_tlb_entry *e)
{
	unsigned set = back_set(e->gpa);
	uint32_t *way = cpu->tlb->back[set];
	uint32_t id = (uint32_t)(e - cpu->tlb->entry) + 1, *room = NULL;

	if (way[0] == OVERFLOW)
		return;
	for (unsigned i = 0; i < X86_TLB_BACK_WAYS; i++) {
		const struct x86_tlb_entry *old = way[i] ? &cpu->tlb->entry[way[i] - 1] : NULL;

		if (way[i] == id)
			return;
		if (!old || !may_write(old) || back_set(old->gpa) != set)
			room = &way[i];
	}
	if (room)
		*room = id;
	else
		way[0] = OVERFLOW;
}

static bool is_page(const struct x86_tlb_entry *e, uint64_t gpa)
{
	return ((e->gpa ^ gpa) & ~(uint64_t)X86_TLB_FLAGS) == 0;
}

/* Look through all tables, and make the set of @gpa anew. */
static void protect_all(struct x86_cpu *cpu, uint64_t gpa)
{
	uint32_t *way = cpu->tlb->back[back_set(gpa)];

	memset(way, 0, sizeof(cpu->tlb->back[0]));
	for (unsigned i = 0; i < X86_TLB_SLOW_AT; i++) {
		struct x86_tlb_entry *e = &cpu->tlb->entry[i];

		if (!may_write(e) || back_set(e->gpa) != back_set(gpa))
			continue;
		if (is_page(e, gpa))
			e->write_tag = NO_TAG;
		else
			back_add(cpu, e);
	}
}

void x86_tlb_protect(struct x86_cpu *cpu, uint64_t gpa)
{
	const uint32_t *way = cpu->tlb->back[back_set(gpa)];

	if (way[0] == OVERFLOW) {
		protect_all(cpu, gpa);
		return;
	}
	for (unsigned i = 0; i < X86_TLB_BACK_WAYS; i++) {
		struct x86_tlb_entry *e = way[i] ? &cpu->tlb->entry[way[i] - 1] : NULL;

		if (e && is_page(e, gpa))
			e->write_tag = NO_TAG;
	}
}

/* ---- flushes ---- */

static void clear_kernel(struct x86_cpu *cpu)
{
	clear_table(cpu, X86_TLB_KERNEL, 0);
	cpu->tlb_local_count = 0;
}

/* What in the kernel's table is of the space in use. */
static void clear_local(struct x86_cpu *cpu)
{
	if (cpu->tlb_local_count > X86_TLB_LOCAL) {
		clear_kernel(cpu);
		return;
	}
	for (unsigned i = 0; i < cpu->tlb_local_count; i++) {
		struct x86_tlb_entry *e = &cpu->tlb->entry[cpu->tlb_local[i]];

		if (!(e->gpa & X86_TLB_GLOBAL))
			drop(e);
	}
	cpu->tlb_local_count = 0;
}

static void clear_space(struct x86_cpu *cpu, unsigned space)
{
	clear_table(cpu, X86_TLB_KERNEL_AC, space);
	clear_table(cpu, X86_TLB_USER, space);
	memset(cpu->space[space].large, 0, sizeof(cpu->space[space].large));
}

static uint16_t current_pcid(const struct x86_cpu *cpu)
{
	return cpu->s.cr4 & X86_CR4_PCIDE ? cpu->s.cr3 & 0xfff : 0;
}

void x86_tlb_flush(struct x86_cpu *cpu)
{
	clear_table(cpu, X86_TLB_SLOW, 0);
	clear_kernel(cpu);
	for (unsigned i = 0; i < X86_TLB_SPACES; i++) {
		clear_space(cpu, i);
		cpu->space[i].used = i == cpu->space_now;
	}
	cpu->space[cpu->space_now].pcid = current_pcid(cpu);
	memset(cpu->tlb_large, 0, sizeof(cpu->tlb_large));
	for (unsigned half = 0; half < 2; half++) {
		cpu->tlb_huge[half].first = ~(uint64_t)0;
		cpu->tlb_huge[half].last = 0;
	}
	cpu->tlb_foreign = false;
	if (cpu->ops->tlb_flushed)
		cpu->ops->tlb_flushed(cpu);
}

static unsigned find_space(const struct x86_cpu *cpu, uint16_t pcid)
{
	for (unsigned i = 0; i < X86_TLB_SPACES; i++)
		if (cpu->space[i].used && cpu->space[i].pcid == pcid)
			return i;
	return NO_SPACE;
}

/* Never the one in use, which is the youngest. */
static unsigned oldest_space(const struct x86_cpu *cpu)
{
	unsigned oldest = NO_SPACE;

	for (unsigned i = 0; i < X86_TLB_SPACES; i++) {
		if (!cpu->space[i].used)
			return i;
		if (i != cpu->space_now &&
		    (oldest == NO_SPACE || cpu->space[i].last < cpu->space[oldest].last))
			oldest = i;
	}
	return oldest;
}

static void space_changed(struct x86_cpu *cpu, unsigned changed, bool kept)
{
	if (cpu->ops->tlb_switched)
		cpu->ops->tlb_switched(cpu, cpu->space_now, changed, kept);
	else if (cpu->ops->tlb_flushed)
		cpu->ops->tlb_flushed(cpu);
}

void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool keep)
{
	unsigned space = find_space(cpu, pcid);

	if (space == NO_SPACE) {
		space = oldest_space(cpu);
		keep = false;
	}
	if (!keep)
		clear_space(cpu, space);
	if (!keep || space != cpu->space_now)
		clear_local(cpu);
	cpu->space[space].used = true;
	cpu->space[space].pcid = pcid;
	cpu->space[space].last = ++cpu->space_clock;
	cpu->space_now = (uint8_t)space;
	x86_tlb_select(cpu);
	space_changed(cpu, space, keep);
}

static void flush_space(struct x86_cpu *cpu, unsigned space)
{
	clear_space(cpu, space);
	if (space == cpu->space_now)
		clear_local(cpu);
	space_changed(cpu, space, false);
}

void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid)
{
	unsigned space = find_space(cpu, pcid);

	if (space != NO_SPACE)
		flush_space(cpu, space);
}

void x86_tlb_flush_local(struct x86_cpu *cpu)
{
	for (unsigned i = 0; i < X86_TLB_SPACES; i++)
		if (cpu->space[i].used)
			flush_space(cpu, i);
}

/* ---- one page ---- */

static uint64_t *large_word(struct x86_cpu *cpu, unsigned space, uint64_t linear)
{
	uint64_t *words = linear >> 63 ? cpu->tlb_large : cpu->space[space].large;

	return &words[(linear >> 27) % 16];
}

static bool is_large(struct x86_cpu *cpu, unsigned space, uint64_t linear)
{
	return *large_word(cpu, space, linear) >> (linear >> 21 & 63) & 1;
}

static bool is_huge(const struct x86_cpu *cpu, uint64_t linear)
{
	unsigned half = linear >> 63;

	return linear >= cpu->tlb_huge[half].first && linear <= cpu->tlb_huge[half].last;
}

static void note_large(struct x86_cpu *cpu, uint64_t linear, unsigned page_bits)
{
	uint64_t first = linear & ~(((uint64_t)1 << page_bits) - 1);
	uint64_t last = first + ((uint64_t)1 << page_bits) - 1;
	unsigned half = linear >> 63;

	if (page_bits == 12)
		return;
	if (page_bits == 21) {
		*large_word(cpu, cpu->space_now, linear) |= (uint64_t)1 << (linear >> 21 & 63);
		return;
	}
	if (first < cpu->tlb_huge[half].first)
		cpu->tlb_huge[half].first = first;
	if (last > cpu->tlb_huge[half].last)
		cpu->tlb_huge[half].last = last;
}

static void drop_page(struct x86_cpu *cpu, unsigned mode, unsigned space, uint64_t linear)
{
	struct x86_tlb_entry *e = x86_tlb_slot_in(cpu, mode, space, linear);

	if (e->read_tag == (linear & X86_TLB_PAGE_MASK))
		drop(e);
}

static void page_dropped(struct x86_cpu *cpu, uint64_t linear)
{
	if (cpu->ops->tlb_flushed_page)
		cpu->ops->tlb_flushed_page(cpu, linear);
	else if (cpu->ops->tlb_flushed)
		cpu->ops->tlb_flushed(cpu);
}

static bool is_large_anywhere(struct x86_cpu *cpu, uint64_t linear)
{
	for (unsigned i = 0; i < X86_TLB_SPACES; i++)
		if (is_large(cpu, i, linear))
			return true;
	return false;
}

/* Of the space in use, and global pages in all: SDM vol. 3, 4.10.4.1. */
void x86_tlb_flush_page(struct x86_cpu *cpu, uint64_t linear)
{
	bool everywhere = linear >> 63 || cpu->tlb_foreign;

	if (is_huge(cpu, linear) || (everywhere && is_large_anywhere(cpu, linear))) {
		x86_tlb_flush(cpu);
		return;
	}
	if (is_large(cpu, cpu->space_now, linear)) {
		flush_space(cpu, cpu->space_now);
		return;
	}
	drop_page(cpu, X86_TLB_KERNEL, 0, linear);
	for (unsigned i = 0; i < X86_TLB_SPACES; i++) {
		if (i != cpu->space_now && !(everywhere && cpu->space[i].used))
			continue;
		drop_page(cpu, X86_TLB_KERNEL_AC, i, linear);
		drop_page(cpu, X86_TLB_USER, i, linear);
	}
	page_dropped(cpu, linear);
}

void x86_tlb_flush_pcid_page(struct x86_cpu *cpu, uint16_t pcid, uint64_t linear)
{
	unsigned space = find_space(cpu, pcid);

	if (space == NO_SPACE)
		return;
	if (space == cpu->space_now || linear >> 63) {
		x86_tlb_flush_page(cpu, linear);
	} else if (is_huge(cpu, linear) || is_large(cpu, space, linear)) {
		flush_space(cpu, space);
	} else {
		drop_page(cpu, X86_TLB_KERNEL_AC, space, linear);
		drop_page(cpu, X86_TLB_USER, space, linear);
		space_changed(cpu, space, false);
	}
}

/* ---- lookup and fill ---- */

static void allow_write(struct x86_cpu *cpu, struct x86_tlb_entry *e)
{
	e->write_tag = e->read_tag;
	back_add(cpu, e);
}

static void note_local(struct x86_cpu *cpu, const struct x86_tlb_entry *e)
{
	if (cpu->tlb_local_count < X86_TLB_LOCAL)
		cpu->tlb_local[cpu->tlb_local_count] = (uint16_t)(e - cpu->tlb->entry);
	if (cpu->tlb_local_count <= X86_TLB_LOCAL)
		cpu->tlb_local_count++;
}

/* Find the RAM of a translated page and let the TLB remember it. */
void x86_tlb_insert(struct x86_cpu *cpu, unsigned mode, uint64_t linear, unsigned access,
		    const struct x86_walk *walk, struct x86_part *part)
{
	struct table t = table_of(mode, cpu->space_now);
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, mode, linear);
	uint64_t page = walk->gpa & X86_TLB_PAGE_MASK;
	/* A page of the user's that is dirty already is likely to be stored to again. */
	bool write = access & X86_PF_W ||
		     (mode == X86_TLB_USER && walk->writable && !(access & X86_PF_FETCH));
	bool direct = true, global = walk->global && linear >> 63;
	bool exec = walk->executable && (mode >= X86_TLB_USER ? walk->user :
					 !walk->user || !(cpu->s.cr4 & X86_CR4_SMEP));
	uint8_t *host = cpu->ops->ram_page(cpu, page, write, &direct);

	part->gpa = walk->gpa;
	part->direct = direct;
	part->host = host ? host + (walk->gpa & 0xfff) : NULL;
	if (!host)
		return;
	note_large(cpu, linear, walk->page_bits);
	cpu->tlb_foreign |= walk->global && !global;
	if (mode == X86_TLB_KERNEL && !global)
		note_local(cpu, e);
	cpu->tlb->touched[t.id] |= (uint64_t)1 << ((linear >> 12) % t.size / (t.size / 64));
	e->read_tag = linear & X86_TLB_PAGE_MASK;
	e->write_tag = NO_TAG;
	e->addend = (uint64_t)(uintptr_t)host - (linear & X86_TLB_PAGE_MASK);
	e->gpa = page | (exec ? X86_TLB_EXEC : 0) | (write && !direct ? X86_TLB_WATCHED : 0) |
		 (global ? X86_TLB_GLOBAL : 0);
	if (write && direct)
		allow_write(cpu, e);
}

bool x86_tlb_lookup(struct x86_cpu *cpu, unsigned mode, uint64_t linear, bool write,
		    struct x86_part *part)
{
	struct x86_tlb_entry *e = x86_tlb_slot(cpu, mode, linear);
	uint64_t tag = linear & X86_TLB_PAGE_MASK;

	if (e->read_tag != tag)
		return false;
	part->gpa = (e->gpa & X86_TLB_PAGE_MASK) | (linear & 0xfff);
	part->host = (uint8_t *)(uintptr_t)(e->addend + linear);
	part->direct = true;
	if (!write || e->write_tag == tag)
		return true;
	if (!(e->gpa & X86_TLB_WATCHED))
		return false;
	if (!cpu->ops->ram_page(cpu, e->gpa & X86_TLB_PAGE_MASK, true, &part->direct))
		return false;
	if (part->direct)
		allow_write(cpu, e);
	return true;
}

bool x86_tlb_fill(struct x86_cpu *cpu, uint64_t linear, uint64_t tag, bool write)
{
	unsigned mode = cpu->tlb_mode;
	unsigned access = (write ? X86_PF_W : 0) | (mode >= X86_TLB_USER ? X86_PF_U : 0);
	const struct x86_tlb_entry *e = x86_tlb_slot(cpu, mode, linear);
	struct x86_walk walk;
	struct x86_part part;

	if (mode == X86_TLB_SLOW || cpu->code_bytes != 8 ||
	    (linear & X86_TLB_PAGE_MASK) != tag || !x86_is_canonical(linear))
		return false;
	if (!x86_tlb_lookup(cpu, mode, linear, write, &part)) {
		if (!x86_walk_quietly(cpu, linear, access, mode == X86_TLB_KERNEL_AC, &walk))
			return false;
		x86_tlb_insert(cpu, mode, linear, access, &walk, &part);
	}
	return (write ? e->write_tag : e->read_tag) == tag;
}
