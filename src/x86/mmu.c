// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * mmu.c - the page walk: 32-bit with PSE and PSE-36, PAE, and four levels. SDM vol. 3, chapter 5.
 *
 * Theory of operation: a walk goes down without writing, collecting the entries it used and the
 * rights they combine to. Rights are checked at the leaf. Only a walk that is allowed then sets
 * accessed bits in the entries used, and the dirty bit in the leaf, each with a compare-and-swap
 * against the value that was judged; when one has changed under it the walk starts again. So no
 * bit is ever set in an entry that another vCPU has meanwhile replaced.
 *
 * PDPTEs are read on every walk rather than kept in registers (AMD APM vol. 2, 5.3.2 does the same
 * under nested paging); loads of CR3 check their reserved bits.
 */
#include "insns.h"
#include "pte.h"
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

#define PAGE_MASK 0xfffull
#define MAX_LEVELS 4

/* Other vCPUs may fight over the same entries; after so many lost races the access faults, the
 * guest retries it, and this thread stays interruptible. */
#define MAX_RETRIES 1000

struct step {
	uint64_t gpa;
	uint64_t entry;
	bool no_accessed; /* a PDPTE of PAE paging has no accessed bit */
};

struct walk {
	struct step step[MAX_LEVELS];
	unsigned steps;
	unsigned page_bits;
	unsigned entry_bytes;
	uint64_t frame;	 /* physical address of the page */
	uint64_t rights; /* PTE_W and PTE_U anded, PTE_NX ored */
};

bool x86_phys_read(struct x86_cpu *cpu, uint64_t gpa, void *buf, unsigned len)
{
	uint8_t *out = buf;

	while (len) {
		unsigned off = gpa & PAGE_MASK;
		unsigned part = len < 4096 - off ? len : 4096 - off;
		bool direct;
		const uint8_t *page = cpu->ops->ram_page(cpu, gpa & ~PAGE_MASK, false, &direct);

		if (!page) {
			memset(out, 0xff, len);
			return false;
		}
		memcpy(out, page + off, part);
		out += part;
		gpa += part;
		len -= part;
	}
	return true;
}

static uint64_t read_entry(struct x86_cpu *cpu, uint64_t gpa, unsigned bytes)
{
	const uint8_t *page;
	bool direct;

	if (gpa < cpu->ram_bytes)
		page = cpu->ram + (gpa & ~PAGE_MASK);
	else
		page = cpu->ops->ram_page(cpu, gpa & ~PAGE_MASK, false, &direct);
	/* Entries are aligned, so that one load sees a whole one (as the manual promises). */
	if (!page)
		return bytes == 8 ? ~0ull : 0xffffffffull;
	page += gpa & PAGE_MASK;
	if (bytes == 8)
		return __atomic_load_n((const uint64_t *)(const void *)page, __ATOMIC_RELAXED);
	return __atomic_load_n((const uint32_t *)(const void *)page, __ATOMIC_RELAXED);
}

/* Set @bits in an entry if it still is what was judged. False: it changed, or it is @quiet and the
 * store would have to be reported. */
static bool update_entry(struct x86_cpu *cpu, const struct step *step, uint64_t bits,
			 unsigned bytes, bool quiet)
{
	bool direct = true, done;
	uint64_t want = step->entry | bits;
	uint8_t *page = cpu->ops->ram_page(cpu, step->gpa & ~PAGE_MASK, true, &direct);

	if (!page)
		return true; /* a table outside RAM keeps no bits */
	if (quiet && !direct)
		return false;
	page += step->gpa & PAGE_MASK;
	if (bytes == 8) {
		uint64_t old = step->entry;

		done = __atomic_compare_exchange_n((uint64_t *)(void *)page, &old, want, false,
						   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	} else {
		uint32_t old = (uint32_t)step->entry;

		done = __atomic_compare_exchange_n((uint32_t *)(void *)page, &old, (uint32_t)want,
						   false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	}
	if (done && !direct && cpu->ops->ram_written(cpu, step->gpa, bytes))
		cpu->stop_requested = true;
	return done;
}

static uint64_t reserved_high(const struct x86_cpu *cpu)
{
	return PTE_ADDR & ~((1ull << x86_phys_bits(cpu)) - 1);
}

/* The descent of each paging mode returns 0, or the error bits (P, RSVD) of the page fault. */
#define NOT_PRESENT 0x80000000u

static void add_step(struct walk *w, uint64_t gpa, uint64_t entry, bool no_accessed)
{
	w->step[w->steps++] = (struct step){ gpa, entry, no_accessed };
}

static uint32_t descend_legacy(struct x86_cpu *cpu, uint32_t linear, struct walk *w)
{
	uint64_t gpa = (cpu->s.cr3 & 0xfffff000u) | ((linear >> 22) << 2);
	uint32_t entry = (uint32_t)read_entry(cpu, gpa, 4);

	w->entry_bytes = 4;
	if (!(entry & PTE_P))
		return NOT_PRESENT;
	add_step(w, gpa, entry, false);
	w->rights = entry & (PTE_W | PTE_U);
	if ((entry & PTE_PS) && (cpu->s.cr4 & X86_CR4_PSE)) {
		/* PSE-36: bits 13..20 are bits 32..39 of the address, bit 21 is reserved. */
		if (entry & (1u << 21))
			return X86_PF_P | X86_PF_RSVD;
		w->page_bits = 22;
		w->frame = (entry & 0xffc00000u) | ((uint64_t)(entry & 0x1fe000u) << 19);
		return 0;
	}

	gpa = (entry & 0xfffff000u) | (((linear >> 12) & 0x3ff) << 2);
	entry = (uint32_t)read_entry(cpu, gpa, 4);
	if (!(entry & PTE_P))
		return NOT_PRESENT;
	add_step(w, gpa, entry, false);
	w->rights &= entry;
	w->page_bits = 12;
	w->frame = entry & 0xfffff000u;
	return 0;
}

/* Levels of eight-byte entries from @shift down; @table is where the first lies. */
static uint32_t descend_wide(struct x86_cpu *cpu, uint64_t linear, uint64_t table, unsigned shift,
			     struct walk *w)
{
	uint64_t reserved = reserved_high(cpu);

	if (!(cpu->s.efer & X86_EFER_NXE))
		reserved |= PTE_NX;
	if (!cpu->long_mode)
		reserved |= 0x7ff0000000000000ull; /* bits 52..62 are free in 4-level paging only */

	for (;; shift -= 9) {
		uint64_t gpa = table + (((linear >> shift) & 0x1ff) << 3);
		uint64_t entry = read_entry(cpu, gpa, 8);

		if (!(entry & PTE_P))
			return NOT_PRESENT;
		if (entry & reserved)
			return X86_PF_P | X86_PF_RSVD;
		add_step(w, gpa, entry, false);
		w->rights = (w->rights & entry & (PTE_W | PTE_U)) | ((w->rights | entry) & PTE_NX);
		table = entry & PTE_ADDR;
		if (shift == 12) {
			w->page_bits = 12;
			w->frame = table;
			return 0;
		}
		if (!(entry & PTE_PS))
			continue;
		if (shift == 39 || (shift == 30 && (!cpu->long_mode ||
						    !x86_has_feature(cpu, X86_FEATURE_PDPE1GB))))
			return X86_PF_P | X86_PF_RSVD;
		/* Bit 12 of a large page is PAT; the rest below the frame is reserved. */
		if (table & ((1ull << shift) - 1) & ~0x1fffull)
			return X86_PF_P | X86_PF_RSVD;
		w->page_bits = shift;
		w->frame = table & ~((1ull << shift) - 1);
		return 0;
	}
}

/* PDPTE of PAE paging: reserved are 1, 2, 5..8 and everything above the physical address width. */
static uint64_t pdpte_reserved(const struct x86_cpu *cpu)
{
	uint64_t low = cpu->pdptes_accessed ? 0x1c6 : 0x1e6;

	return 0xfff0000000000000ull | reserved_high(cpu) | low;
}

static uint32_t descend_pae(struct x86_cpu *cpu, uint32_t linear, struct walk *w)
{
	uint64_t gpa = (cpu->s.cr3 & 0xffffffe0u) + ((linear >> 30) << 3);
	uint64_t entry = read_entry(cpu, gpa, 8);

	if (!(entry & PTE_P))
		return NOT_PRESENT;
	if (entry & pdpte_reserved(cpu))
		return X86_PF_P | X86_PF_RSVD;
	add_step(w, gpa, entry, true);
	return descend_wide(cpu, linear, entry & PTE_ADDR, 21, w);
}

bool x86_pdptes_valid(struct x86_cpu *cpu, uint64_t cr3)
{
	for (unsigned i = 0; i < 4; i++) {
		uint64_t entry = read_entry(cpu, (cr3 & 0xffffffe0u) + i * 8, 8);

		if ((entry & PTE_P) && (entry & pdpte_reserved(cpu)))
			return false;
	}
	return true;
}

static uint32_t descend(struct x86_cpu *cpu, uint64_t linear, struct walk *w)
{
	w->steps = 0;
	w->entry_bytes = 8;
	w->rights = PTE_W | PTE_U;
	if (cpu->long_mode)
		return descend_wide(cpu, linear, cpu->s.cr3 & PTE_ADDR, 39, w);
	if (cpu->s.cr4 & X86_CR4_PAE)
		return descend_pae(cpu, (uint32_t)linear, w);
	return descend_legacy(cpu, (uint32_t)linear, w);
}

/* SDM vol. 3, 5.6.1 "Determination of Access Rights". */
static bool may_write(const struct x86_cpu *cpu, uint64_t rights, bool user)
{
	return (rights & PTE_W) || (!user && !(cpu->s.cr0 & X86_CR0_WP));
}

static bool is_allowed(const struct x86_cpu *cpu, uint64_t rights, unsigned access,
		       bool smap_lifted)
{
	bool user = access & X86_PF_U;

	if (user && !(rights & PTE_U))
		return false;
	if (access & X86_PF_FETCH) {
		if (rights & PTE_NX)
			return false;
		return user || !(rights & PTE_U) || !(cpu->s.cr4 & X86_CR4_SMEP);
	}
	if (!user && (rights & PTE_U) && (cpu->s.cr4 & X86_CR4_SMAP) && !smap_lifted)
		return false;
	return !(access & X86_PF_W) || may_write(cpu, rights, user);
}

static int page_fault(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint32_t why)
{
	const struct x86_state *s = &cpu->s;
	uint32_t error = (why & ~NOT_PRESENT) | (access & (X86_PF_W | X86_PF_U));
	bool nx = (s->cr4 & X86_CR4_PAE) && (s->efer & X86_EFER_NXE);

	/* The I/D bit exists only where fetches can be told from reads. */
	if ((access & X86_PF_FETCH) && (nx || (s->cr4 & X86_CR4_SMEP)))
		error |= X86_PF_FETCH;
	return x86_raise_pf(cpu, linear, error);
}

/* False when an entry changed and the walk has to start again. @quiet: see update_entry(). */
static bool mark_used(struct x86_cpu *cpu, struct walk *w, bool write, bool quiet)
{
	for (unsigned i = 0; i < w->steps; i++) {
		struct step *step = &w->step[i];
		uint64_t bits = PTE_A;

		if (step->no_accessed)
			continue;
		if (write && i == w->steps - 1)
			bits |= PTE_D;
		if ((step->entry & bits) == bits)
			continue;
		if (!update_entry(cpu, step, bits, w->entry_bytes, quiet))
			return false;
		step->entry |= bits;
	}
	return true;
}

static void identity(uint64_t linear, struct x86_walk *ret)
{
	*ret = (struct x86_walk){
		.gpa = (uint32_t)linear, .page_bits = 12, .writable = true, .user = true,
		.executable = true
	};
}

static void walk_result(const struct x86_cpu *cpu, const struct walk *w, uint64_t linear,
			unsigned access, struct x86_walk *ret)
{
	uint64_t leaf = w->step[w->steps - 1].entry;

	*ret = (struct x86_walk){
		.gpa = w->frame | (linear & ((1ull << w->page_bits) - 1)),
		.page_bits = w->page_bits,
		.writable = (leaf & PTE_D) && may_write(cpu, w->rights, access & X86_PF_U),
		.user = w->rights & PTE_U,
		.executable = !(w->rights & PTE_NX),
		.global = (leaf & PTE_G) && (cpu->s.cr4 & X86_CR4_PGE),
	};
}

/* With paging. X86_NEXT, and accessed and dirty bits are set; or X86_FAULT. */
static int walk_allowed(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
			struct walk *w)
{
	for (unsigned i = 0;; i++) {
		uint32_t why = descend(cpu, linear, w);

		if (why)
			return page_fault(cpu, linear, access, why);
		if (!is_allowed(cpu, w->rights, access, smap_lifted))
			return page_fault(cpu, linear, access, X86_PF_P);
		if (mark_used(cpu, w, access & X86_PF_W, false))
			return X86_NEXT;
		if (i == MAX_RETRIES)
			return page_fault(cpu, linear, access, 0);
	}
}

/* @w->steps is 0 without paging. */
static int walk_to(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted, struct walk *w,
		   struct x86_walk *ret)
{
	w->steps = 0;
	if (!(cpu->s.cr0 & X86_CR0_PG)) {
		identity(linear, ret);
		return X86_NEXT;
	}
	if (!cpu->long_mode)
		linear = (uint32_t)linear;
	if (walk_allowed(cpu, linear, access, smap_lifted, w) != X86_NEXT)
		return X86_FAULT;
	walk_result(cpu, w, linear, access, ret);
	return X86_NEXT;
}

int x86_walk(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
	     struct x86_walk *ret)
{
	struct walk w;

	return walk_to(cpu, linear, access, smap_lifted, &w, ret);
}

int x86_walk_path(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
		  struct x86_walk *ret, struct x86_path *ret_path)
{
	struct walk w;

	ret_path->steps = 0;
	if (walk_to(cpu, linear, access, smap_lifted, &w, ret) != X86_NEXT)
		return X86_FAULT;
	for (; ret_path->steps < w.steps; ret_path->steps++) {
		ret_path->gpa[ret_path->steps] = w.step[ret_path->steps].gpa;
		ret_path->entry[ret_path->steps] = w.step[ret_path->steps].entry;
	}
	return X86_NEXT;
}

bool x86_walk_quietly(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
		      struct x86_walk *ret)
{
	struct walk w;

	if (!cpu->long_mode || descend(cpu, linear, &w) ||
	    !is_allowed(cpu, w.rights, access, smap_lifted) ||
	    !mark_used(cpu, &w, access & X86_PF_W, true))
		return false;
	walk_result(cpu, &w, linear, access, ret);
	return true;
}

int x86_translate(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint64_t *ret_gpa)
{
	struct x86_walk walk;
	int r = x86_walk(cpu, linear, access, cpu->s.rflags & X86_FL_AC, &walk);

	if (r == X86_NEXT)
		*ret_gpa = walk.gpa;
	return r;
}
