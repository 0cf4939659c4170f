/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * shadow.h - shadow page tables: linear to host-physical, where nested paging is missing or not wanted.
 *
 * Theory of operation. Sections are of the APM, volume 2.
 *
 * What the processor walks are tables of ours. A shadow page stands for a table of the guest's, and is known
 * by what it stands for: the table's page number, and a role (its level, the paging mode, and what else decides
 * how entries are read). They are in a hash, so a table that several roots or vCPUs use has one shadow page, and a
 * load of CR3 finds the root that was used before.
 *
 * Entries come by page faults, which all exit. The x86 core walks the guest's tables (src/x86/mmu.c): it says
 * whether the access is allowed, and sets accessed and dirty bits as a processor would (5.4.2). What it refuses goes to
 * the guest. Else one entry is made. There is none without the guest's accessed bit, and it lets writes through only
 * once the guest's dirty bit is set. Rights are all in the last entry; those above let everything through, so what
 * they would forbid is part of the role of what is below them.
 *
 * A guest's page may be large, of 2 MiB or 1 GiB. Where the host's is too, and nothing in it is a table of the guest's or
 * logged, so is our entry. Else there is a direct shadow page below it, which stands for a piece of guest-physical memory
 * instead of a table, and whose entries may be large in turn. Without paging in the guest everything is direct.
 *
 * A table that is shadowed is tracked: no entry lets the guest write to it. A store faults, is emulated, and
 * takes down the entries made of what it overwrote. TLBs need not hear of it: INVLPG and loads of CR3 are the guest's
 * to do, as without us. But then TLBs know more than the tables do (stale), and where it is us who must be sure,
 * they are flushed though no entry was found: before a host page goes, when a page becomes tracked or its writes are
 * to be noticed, and before a shadow page is freed. The pieces of a large page are flushed at once: INVLPG would
 * find one of them.
 *
 * Tables of the last level are written most. A store lets them loose: the guest writes at will, and their entries may
 * be as wrong as those of a TLB (5.5.2). An entry remembers what it was made of. INVLPG compares one, and loads of CR3
 * and the like all of the loose tables below that root, and track them again; so does a new link to one, since for
 * what was not there before the guest owes no flush. A loose table that nothing leads to is dropped.
 *
 * With an entry its neighbours are made, where the guest has used them and the host has their pages.
 *
 * A walk takes no lock. Whoever tracks a page or overwrites an entry counts it (changes), and an entry is made under
 * the lock, when nothing was counted since the walk began; else the walk is done anew. So a shadow page is made first,
 * and filled by another walk, which sees what was written before the page was tracked.
 *
 * A page that is written time and again and never walked through is no table any more; its shadow pages are freed.
 * The same becomes of those long unused, when there are too many (limit).
 *
 * Reverse maps name the entries for each guest page, and the large ones for each 2 MiB and each 1 GiB, for what the
 * host's memory management and the dirty log ask.
 *
 * The processor has paging on at all times, in long mode four levels, else PAE with 8 bytes an entry; a guest's
 * table of 1024 entries has two or four shadow pages (quadrants). Without paging in the guest, PE may be clear: paged
 * real mode, 15.19. CR0.WP is set at all times. With the guest's clear, a page that only the supervisor's privilege
 * makes writable is either readable for all or writable for the supervisor, by turns.
 *
 * All of struct shadow is under vm->page_lock, but changes may be read without.
 */
#pragma once

#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/xarray.h>

#include "vm.h"
#include "x86_int.h"

#define SHADOW_ENTRIES	 512u
#define SHADOW_WRITES	 3u /* to a table between two walks through it, before it is taken for none */
#define SHADOW_HASH_BITS 10
#define SHADOW_LEAVES	 3u /* levels whose entries may map pages: of 4 KiB, 2 MiB, 1 GiB */
#define SHADOW_REGIONS	 2048u
#define SHADOW_ADDR	 GENMASK_ULL(51, 12)
#define SHADOW_LINK	 (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED)

enum shadow_paging { SHADOW_FLAT, SHADOW_LEGACY, SHADOW_PAE, SHADOW_LONG };

union shadow_role {
	struct {
		u32 level : 3;	  /* of the tables that the processor walks; 1 is the last */
		u32 paging : 2;	  /* enum shadow_paging */
		u32 quadrant : 2; /* of SHADOW_LEGACY */
		u32 direct : 1;
		u32 write : 1; /* allowed by the guest's entries above; of direct ones, by the last as well */
		u32 user : 1;
		u32 exec : 1;
		u32 dirty : 1; /* of direct ones: by the last */
		u32 no_wp : 1; /* CR0.WP is clear */
		u32 smep : 1, smap : 1; /* where no_wp: what one lets the supervisor do the other refuses */
		u32 nxe : 1;
		u32 pse : 1;
	};
	u32 word;
};

struct shadow_key {
	gpn_t gpn; /* of the guest's table; of direct ones, the first that it maps */
	union shadow_role role;
};

/* A set of entries: one, or a list of nodes. */
struct chain {
	void *head;
};

struct shadow_page {
	struct shadow_key key;
	struct hlist_node hash;
	struct list_head list; /* struct shadow's pages, the newest first; or dead */
	u64 *table;	       /* whose struct page leads back here */
	u64 *guest;	       /* what each entry was made of, where it may map a page: of the last level; of large ones where */
	struct list_head loose; /* struct shadow's loose, or empty */
	struct chain parents;  /* entries that lead here */
	unsigned int roots;    /* vCPUs that it is a root of: not freed */
	unsigned int writes;   /* since the last walk through it */
	bool used;	       /* since it was last asked whether */
};

struct shadow {
	DECLARE_HASHTABLE(hash, SHADOW_HASH_BITS);
	struct list_head pages, dead; /* dead: until TLBs are flushed */
	struct list_head loose;	      /* the guest may write to what they stand for */
	unsigned long count, limit;
	struct xarray rmap[SHADOW_LEAVES]; /* by level, chain.head of entries: by number of the guest's page of that size */
	/* How many stand for tables in these 2 MiB, and in this GiB; far ones share a count. */
	u32 tables[SHADOW_LEAVES - 1][SHADOW_REGIONS];
	unsigned long changes;
	bool stale;  /* TLBs may know of what is in no table */
	bool pieces; /* of large pages, that is */
};

/* Of a vCPU, under its lock. */
struct vcpu_shadow {
	struct shadow_key key; /* of what is loaded; gpn: CR3 by 32 bytes */
	bool loaded, reload;
	struct shadow_page *root[4]; /* of long mode the first; else by the entries of pdpt */
	u64 *pdpt;		     /* below 4 GiB, where CR3 of legacy mode reaches */
	bool walking;		     /* what the core writes are accessed and dirty bits */
	gpn_t table;		     /* that the instruction to be emulated writes to, or ~0 */
	bool table_needed;	     /* for that very access */
	/* Made before the lock is taken. */
	struct shadow_page *spare[3];
	unsigned int spares;
};

/* ---- shadow.c: modes, roots, faults ---- */
int shadow_vcpu_create(struct vcpu *vcpu);
void shadow_vcpu_free(struct vcpu *vcpu);
/* Before an entry: the root of what the state says. 0 or -ENOMEM. */
int shadow_load(struct vcpu *vcpu);
/* CR3 was written, or the like. */
void shadow_reload(struct vcpu *vcpu);
/* #PF, with the processor's error code. As handle_exit(). */
int shadow_fault(struct vcpu *vcpu, u64 linear, u32 error);
/* A store by the core. */
void shadow_written(struct vcpu *vcpu, u64 gpa, unsigned int len);
/* INVLPG. */
void shadow_invalidate(struct vcpu *vcpu, u64 linear);
/* The instruction that writes to a table cannot be emulated. True: let the guest try again. */
bool shadow_yield(struct vcpu *vcpu);
/* What the hardware is to have in its registers while the guest has those of the state. */
u64 shadow_cr0(const struct vcpu *vcpu);
u64 shadow_cr3(const struct vcpu *vcpu);
u64 shadow_cr4(const struct vcpu *vcpu);
u64 shadow_efer(const struct vcpu *vcpu);

/* ---- shadow_page.c: the pool, and what leads from page to page ---- */
int shadow_create(struct vm *vm);
void shadow_free(struct vm *vm);
/* Not in the hash, no entries. NULL: no memory. */
struct shadow_page *shadow_page_new(void);
void shadow_page_free(struct shadow_page *page);
/* All below under page_lock. */
struct shadow_page *shadow_find(struct vm *vm, const struct shadow_key *key);
/* @page, which is new, stands for @key. A table is tracked from now on. */
void shadow_add(struct vm *vm, struct shadow_page *page, const struct shadow_key *key);
/* Out of all tables and the hash; a root is only emptied. */
void shadow_drop(struct vm *vm, struct shadow_page *page);
/* Entry @i, if there is one. */
void shadow_drop_entry(struct vm *vm, struct shadow_page *page, unsigned int i);
/* False: no memory. */
bool shadow_link(struct shadow_page *parent, u64 *entry, struct shadow_page *child);
bool shadow_is_tracked(struct vm *vm, gpn_t gpn);
/* Let the guest write to the table, if it is of the last level alone. */
bool shadow_loosen(struct vm *vm, gpn_t gpn);
/* Track what was let loose, and drop what does not hold any more. Under vm->srcu. */
void shadow_tighten(struct vm *vm, struct shadow_page *page);
/* All that is below @root, or all. */
void shadow_tighten_below(struct vm *vm, const struct shadow_page *root);
/* Under vm->srcu: the guest's table, with a reference, if that can be had without sleeping; and an entry of it. */
struct page *shadow_table_now(struct vm *vm, const struct shadow_page *page);
u64 shadow_guest_entry(struct page *table, const struct shadow_page *page, unsigned int i);
/* The same for one entry, and the table stays loose. */
void shadow_recheck(struct vm *vm, struct shadow_page *page, unsigned int i);
/* Drop all that stands for tables in [first, last). */
void shadow_forget(struct vm *vm, gpn_t first, gpn_t last);
/* Behind drops: what cannot wait for the guest to flush. */
void shadow_settle(struct vm *vm);

static inline struct shadow_page *shadow_page_of(const u64 *entry)
{
	return (struct shadow_page *)page_private(virt_to_page(entry));
}

static inline struct shadow_page *shadow_child(u64 entry)
{
	return shadow_page_of(__va(entry & SHADOW_ADDR));
}

/* Of an entry that is present: it maps a page, and leads to no table. */
static inline bool shadow_is_leaf(const struct shadow_page *page, u64 entry)
{
	return page->key.role.level == 1 || entry & _PAGE_PSE;
}

/* An entry of the last level. */
static inline u64 shadow_leaf(u64 pfn, bool write, bool user, bool exec)
{
	return pfn << PAGE_SHIFT | _PAGE_PRESENT | _PAGE_ACCESSED | (write ? _PAGE_RW | _PAGE_DIRTY : 0) |
	       (user ? _PAGE_USER : 0) | (exec ? 0 : _PAGE_NX);
}

/* What an entry of @page leads to, or NULL. */
static inline struct shadow_page *shadow_below(const struct shadow_page *page, u64 entry)
{
	return entry & _PAGE_PRESENT && !shadow_is_leaf(page, entry) ? shadow_child(entry) : NULL;
}

/* Pages that an entry of @level covers, as a shift. */
static inline unsigned int shadow_shift(unsigned int level)
{
	return (level - 1) * 9;
}

/* What entry @i maps, where it does. */
static inline gpn_t shadow_gpn_at(const struct shadow_page *page, unsigned int i)
{
	if (page->key.role.direct)
		return page->key.gpn + ((gpn_t)i << shadow_shift(page->key.role.level));
	return (page->guest[i] & SHADOW_ADDR) >> PAGE_SHIFT;
}

/* Tables where an entry of @level, which is a large one, would map. */
static inline u32 *shadow_tables_at(struct vm *vm, unsigned int level, gpn_t gpn)
{
	return &vm->shadow->tables[level - 2][gpn >> shadow_shift(level) & (SHADOW_REGIONS - 1)];
}

/* ---- shadow_beside.c: entries ahead of the faults ---- */
#define SHADOW_BESIDE 8u /* entries that are made together */

struct shadow_beside {
	bool write, user, exec; /* rights by the guest's entries; of those without a table, by its dirty bit as well */
	unsigned long written;	/* bits of page[] */
	unsigned int count;
	struct page *page[SHADOW_BESIDE]; /* with a reference, until the lock is let go */
};

/* Under page_lock and vm->srcu: beside entry @at, which is of the last level and was just made. */
void shadow_fill_beside(struct vm *vm, struct shadow_page *page, unsigned int at, struct shadow_beside *beside);
/* Not under page_lock. */
void shadow_put_beside(struct shadow_beside *beside);

/* ---- shadow_room.c: not too many ---- */
/* With the module. */
int shadow_start(void);
void shadow_stop(void);
/* The machine has so many pages of RAM. */
void shadow_set_limit(struct vm *vm, u64 pages);
/* Both under page_lock: there are so many more; drop old ones until there is room for so many. */
void shadow_count(struct vm *vm, long change);
void shadow_make_room(struct vm *vm, unsigned int count);

/* ---- shadow_rmap.c: which entries map a guest page ---- */
/* False: no memory. */
bool chain_add(struct chain *chain, u64 *entry);
void chain_remove(struct chain *chain, u64 *entry);
/* One of them by its number, in no order, or NULL: there are not so many. */
u64 *chain_at(const struct chain *chain, unsigned int i);

/* Of an entry at @level, 1 to SHADOW_LEAVES. */
bool rmap_add(struct vm *vm, unsigned int level, gpn_t gpn, u64 *entry);
void rmap_remove(struct vm *vm, unsigned int level, gpn_t gpn, u64 *entry);
/* Not under page_lock: the next one finds its place. 0 or -ENOMEM. */
int rmap_reserve(struct vm *vm, unsigned int level, gpn_t gpn);
/* As page_zap() and so on, of which these are the halves. */
bool shadow_zap(struct vm *vm, gpn_t first, gpn_t last);
bool shadow_protect(struct vm *vm, gpn_t gpn);
bool shadow_age(struct vm *vm, gpn_t first, gpn_t last, bool clear);
