// SPDX-License-Identifier: GPL-2.0-only
/*
 * shadow.c - shadow paging: which tables the processor has, and what its page faults do to them. The theory is in
 * shadow.h.
 */
#include <linux/mm.h>
#include <linux/slab.h>

#include "pte.h"
#include "shadow.h"
#include "trace.h"

/* Walks of one fault before the guest is let back to have it anew. */
#define TRIES 16u

/* ---- what the hardware has in its registers ---- */

u64 shadow_cr0(const struct vcpu *vcpu)
{
	return vcpu->cpu.s.cr0 | X86_CR0_PG | X86_CR0_WP;
}

u64 shadow_cr3(const struct vcpu *vcpu)
{
	const struct vcpu_shadow *v = vcpu->shadow;

	return v->key.role.paging == SHADOW_LONG ? __pa(v->root[0]->table) : __pa(v->pdpt);
}

/* Without paging SMEP and SMAP mean nothing, but to the processor there is paging. How many levels it walks is said by the
 * tables it is given, and by nothing that user space may set: a page of the guest's would be a table. */
u64 shadow_cr4(const struct vcpu *vcpu)
{
	u64 cr4 = (vcpu->cpu.s.cr4 | X86_CR4_PAE) & ~(u64)(X86_CR4_PCIDE | X86_CR4_LA57);

	return vcpu->cpu.s.cr0 & X86_CR0_PG ? cr4 : cr4 & ~(u64)(X86_CR4_SMEP | X86_CR4_SMAP);
}

/* LME waits for the guest's paging: ours is on before. LMA is as the tables are, whatever KVM_SET_MSRS has made of it. */
u64 shadow_efer(const struct vcpu *vcpu)
{
	const u64 long_mode = X86_EFER_LME | X86_EFER_LMA;
	u64 efer = vcpu->cpu.s.efer | X86_EFER_NXE;

	return vcpu->shadow->key.role.paging == SHADOW_LONG ? efer | long_mode : efer & ~long_mode;
}

/* ---- roots ---- */

/* Of what CR0, CR3, CR4 and EFER say; the level is that of the root. */
static struct shadow_key key_of(const struct vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;
	struct shadow_key key = { .role = { .write = 1, .user = 1, .exec = 1, .level = 3 } };

	if (!(s->cr0 & X86_CR0_PG)) {
		key.role.paging = SHADOW_FLAT;
		return key;
	}
	if (s->efer & X86_EFER_LMA) {
		key.role.paging = SHADOW_LONG;
		key.role.level = 4;
		key.gpn = (s->cr3 & PTE_ADDR) >> 5;
	} else if (s->cr4 & X86_CR4_PAE) {
		key.role.paging = SHADOW_PAE;
		key.gpn = (s->cr3 & 0xffffffe0) >> 5;
	} else {
		key.role.paging = SHADOW_LEGACY;
		key.role.pse = !!(s->cr4 & X86_CR4_PSE);
		key.gpn = (s->cr3 & 0xfffff000) >> 5;
	}
	key.role.nxe = key.role.paging != SHADOW_LEGACY && s->efer & X86_EFER_NXE;
	key.role.no_wp = !(s->cr0 & X86_CR0_WP);
	key.role.smep = key.role.no_wp && s->cr4 & X86_CR4_SMEP;
	key.role.smap = key.role.no_wp && s->cr4 & X86_CR4_SMAP;
	return key;
}

/* Under page_lock. */
static void let_roots_go(struct vcpu_shadow *v)
{
	if (v->pdpt)
		memset(v->pdpt, 0, ARRAY_SIZE(v->root) * sizeof(*v->pdpt));
	for (unsigned int i = 0; i < ARRAY_SIZE(v->root); i++) {
		if (v->root[i])
			v->root[i]->roots--;
		v->root[i] = NULL;
	}
	v->loaded = false;
}

static int fill_spares(struct vcpu_shadow *v)
{
	while (v->spares < ARRAY_SIZE(v->spare)) {
		struct shadow_page *page = shadow_page_new();

		if (!page)
			return -ENOMEM;
		v->spare[v->spares++] = page;
	}
	return 0;
}

/* Found, or made of a spare. *@made: it is tracked only from now on. */
static struct shadow_page *find_or_make(struct vcpu *vcpu, const struct shadow_key *key, bool *made)
{
	struct shadow_page *page = shadow_find(vcpu->vm, key);

	if (page) {
		page->used = true;
		*made |= !list_empty(&page->loose);
		shadow_tighten(vcpu->vm, page);
		return page;
	}
	page = vcpu->shadow->spare[--vcpu->shadow->spares];
	shadow_add(vcpu->vm, page, key);
	*made |= !key->role.direct;
	return page;
}

static void take_root(struct vcpu_shadow *v, unsigned int i, struct shadow_page *page)
{
	page->roots++;
	if (v->root[i])
		v->root[i]->roots--;
	v->root[i] = page;
}

/* What the guest owes a flush for, and has flushed. Roots of other modes are not known yet. */
static void tighten(struct vcpu *vcpu)
{
	struct vcpu_shadow *v = vcpu->shadow;
	struct vm *vm = vcpu->vm;
	int at = srcu_read_lock(&vm->srcu);

	write_lock(&vm->page_lock);
	shadow_tighten_below(vm, v->key.role.paging == SHADOW_LONG ? v->root[0] : NULL);
	shadow_settle(vm);
	write_unlock(&vm->page_lock);
	srcu_read_unlock(&vm->srcu, at);
}

static int load_root(struct vcpu *vcpu, const struct shadow_key *key)
{
	struct vcpu_shadow *v = vcpu->shadow;
	struct shadow_key root = { key->gpn >> (PAGE_SHIFT - 5), key->role };
	bool made = false; /* a root is empty in any case */

	if (fill_spares(v))
		return -ENOMEM;
	write_lock(&vcpu->vm->page_lock);
	let_roots_go(v);
	shadow_make_room(vcpu->vm, ARRAY_SIZE(v->spare));
	if (key->role.paging == SHADOW_LONG)
		take_root(v, 0, find_or_make(vcpu, &root, &made));
	v->key = *key;
	v->loaded = true;
	write_unlock(&vcpu->vm->page_lock);
	vcpu->changed = true;
	set_bit(REQ_FLUSH, &vcpu->requests);
	return 0;
}

int shadow_load(struct vcpu *vcpu)
{
	struct vcpu_shadow *v = vcpu->shadow;
	struct shadow_key key = key_of(vcpu);
	int r = 0;

	/* Of PAE paging the first level is read with CR3: it is not tracked. */
	if (v->reload && key.role.paging == SHADOW_PAE)
		v->loaded = false;
	if (!v->loaded || v->key.gpn != key.gpn || v->key.role.word != key.role.word)
		r = load_root(vcpu, &key);
	if (!r && v->reload) {
		tighten(vcpu);
		v->reload = false;
	}
	return r;
}

void shadow_reload(struct vcpu *vcpu)
{
	vcpu->shadow->reload = true;
}

int shadow_vcpu_create(struct vcpu *vcpu)
{
	struct vcpu_shadow *v = kzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);

	if (!v)
		return -ENOMEM;
	vcpu->shadow = v;
	v->table = ~0ull;
	v->pdpt = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT | GFP_DMA32);
	return v->pdpt ? 0 : -ENOMEM;
}

void shadow_vcpu_free(struct vcpu *vcpu)
{
	struct vcpu_shadow *v = vcpu->shadow;

	if (!v)
		return;
	write_lock(&vcpu->vm->page_lock);
	let_roots_go(v);
	write_unlock(&vcpu->vm->page_lock);
	while (v->spares)
		shadow_page_free(v->spare[--v->spares]);
	free_page((unsigned long)v->pdpt);
	kfree(v);
}

/* ---- one fault ---- */

enum outcome {
	DONE,	/* the guest goes on, or tries again */
	AGAIN,	/* the tables changed under the walk */
	REFUSED, /* by the guest's tables: cpu.fault */
	CORE,	/* the instruction is for the x86 core */
	NO_MEMORY,
	LATER,	/* the page is to come, and the guest has been told */
	NO_PAGE, /* the program's own memory is not there */
};

struct attempt {
	u64 linear;
	u32 access; /* X86_PF_* */
	bool was_present; /* what the processor saw */
	bool no_memory;
	bool device; /* the walk has led to what is no RAM, or not to be written */

	struct x86_walk walk;
	struct x86_path path;
	unsigned int leaf; /* level of the guest's last entry; without paging, above all */
	unsigned int level; /* of ours, as far as the host is asked */
	bool write, user, exec; /* rights by the guest's entries */
	bool dirty;

	const struct slot *slot;
	struct page *page;
	bool writable; /* as far as the host is asked */
	struct shadow_beside beside;
};

/* Of the levels of the processor's tables, the guest's entry there. Legacy paging has two. */
static unsigned int step_at(const struct vcpu *vcpu, unsigned int level)
{
	unsigned int top = vcpu->shadow->key.role.paging == SHADOW_LEGACY ? 2 :
								vcpu->shadow->key.role.level;

	return top - level;
}

/* Rights that the guest's entries above @level leave. */
static void narrow(const struct vcpu *vcpu, const struct attempt *a, unsigned int level,
		   union shadow_role *role)
{
	unsigned int first = vcpu->shadow->key.role.paging == SHADOW_PAE ? 1 : 0; /* no rights in a PDPTE */

	for (unsigned int i = first; i < step_at(vcpu, level); i++) {
		role->write &= !!(a->path.entry[i] & PTE_W);
		role->user &= !!(a->path.entry[i] & PTE_U);
		role->exec &= !(a->path.entry[i] & PTE_NX);
	}
}

/* What the shadow page at @level, below the root, stands for. */
static struct shadow_key key_at(const struct vcpu *vcpu, const struct attempt *a, unsigned int level)
{
	struct shadow_key key = { .role = vcpu->shadow->key.role };

	key.role.level = level;
	if (level < a->leaf) {
		u64 pages = 1ull << level * 9;

		key.role.direct = 1;
		key.role.write = a->write;
		key.role.user = a->user;
		key.role.exec = a->exec;
		key.role.dirty = a->dirty;
		key.gpn = a->walk.gpa >> PAGE_SHIFT & ~(pages - 1);
		return key;
	}
	narrow(vcpu, a, level, &key.role);
	key.gpn = a->path.gpa[step_at(vcpu, level)] >> PAGE_SHIFT;
	if (key.role.paging == SHADOW_LEGACY)
		key.role.quadrant = level == 1 ? a->linear >> 21 & 1 : a->linear >> 30 & 3;
	return key;
}

static unsigned int index_at(u64 linear, unsigned int level)
{
	return linear >> (PAGE_SHIFT + (level - 1) * 9) & (SHADOW_ENTRIES - 1);
}

static bool stands_for(const struct shadow_page *page, const struct shadow_key *key)
{
	return page->key.gpn == key->gpn && page->key.role.word == key->role.word;
}

/* The root of four that @a is below. */
static struct shadow_page *first_of_four(struct vcpu *vcpu, const struct attempt *a, bool *made)
{
	struct vcpu_shadow *v = vcpu->shadow;
	struct shadow_key key = key_at(vcpu, a, 2);
	unsigned int i = a->linear >> 30 & 3;

	if (v->root[i] && stands_for(v->root[i], &key))
		return v->root[i];
	take_root(v, i, find_or_make(vcpu, &key, made));
	WRITE_ONCE(v->pdpt[i], __pa(v->root[i]->table) | _PAGE_PRESENT);
	set_bit(REQ_FLUSH, &vcpu->requests); /* the processor may have read all four */
	return v->root[i];
}

/* The shadow page that the last entry, at @last, is in. NULL: walk anew, for some were made, or there is no memory. */
static struct shadow_page *reach(struct vcpu *vcpu, struct attempt *a, unsigned int last)
{
	bool made = false;
	struct shadow_page *page = vcpu->shadow->key.role.paging == SHADOW_LONG ?
		vcpu->shadow->root[0] : first_of_four(vcpu, a, &made);

	for (unsigned int level = page->key.role.level; level > last; level--) {
		u64 *entry = &page->table[index_at(a->linear, level)];
		struct shadow_key key = key_at(vcpu, a, level - 1);
		struct shadow_page *child = shadow_below(page, *entry);

		page->used = true;
		if (!child || !stands_for(child, &key)) {
			child = find_or_make(vcpu, &key, &made);
			/* What was made is filled only by what a later walk sees. */
			if (!made) {
				shadow_drop_entry(vcpu->vm, page, entry - page->table);
				a->no_memory |= !shadow_link(page, entry, child);
			}
		}
		page = child;
	}
	page->used = true;
	return made || a->no_memory ? NULL : page;
}

/* The last entry. */
static u64 leaf_of(const struct vcpu *vcpu, const struct attempt *a, unsigned int level)
{
	u64 pfn = page_to_pfn(a->page);
	bool write = a->write, user = a->user, exec = a->exec;

	/* The supervisor writes in spite of it, CR0.WP being clear: then nobody else reads. */
	if (a->access & X86_PF_W && !write) {
		exec &= !(user && vcpu->shadow->key.role.smep);
		write = true;
		user = false;
	}
	if (level > 1)
		pfn = round_down(pfn, BIT(shadow_shift(level)));
	return shadow_leaf(pfn, write && a->dirty && a->writable, user, exec) | (level > 1 ? _PAGE_PSE : 0);
}

/* Of a large entry only where: half of the guest's page, perhaps, and it is never compared. */
static void remember(const struct attempt *a, struct shadow_page *page, unsigned int i, gpn_t gpn)
{
	if (page->guest)
		page->guest[i] = page->key.role.level > 1 ? gpn << PAGE_SHIFT : a->path.entry[a->path.steps - 1];
}

/* False: it was as it is to be, or there is no memory. */
static bool set_leaf(struct vcpu *vcpu, struct attempt *a, struct shadow_page *page, u64 leaf)
{
	unsigned int level = page->key.role.level, i = index_at(a->linear, level);
	u64 *entry = &page->table[i], old = READ_ONCE(*entry);
	gpn_t gpn = a->walk.gpa >> PAGE_SHIFT & ~((1ull << shadow_shift(level)) - 1);

	page->writes = 0;
	if (!((old ^ leaf) & ~(u64)(_PAGE_ACCESSED | _PAGE_DIRTY)) && shadow_gpn_at(page, i) == gpn) {
		remember(a, page, i, gpn);
		return false;
	}
	if (old & _PAGE_PRESENT &&
	    (!shadow_is_leaf(page, old) || (old ^ leaf) & SHADOW_ADDR || shadow_gpn_at(page, i) != gpn)) {
		shadow_drop_entry(vcpu->vm, page, i);
		old = 0;
	}
	remember(a, page, i, gpn);
	if (!(old & _PAGE_PRESENT)) {
		if (!rmap_add(vcpu->vm, level, gpn, entry)) {
			a->no_memory = true;
			return false;
		}
	}
	WRITE_ONCE(*entry, leaf);
	/* Nothing that was allowed is kept from TLBs. */
	vcpu->vm->shadow->stale |= old & _PAGE_PRESENT;
	return true;
}

/* SMAP holds for the processor's own reads whatever EFLAGS.AC says, but the error code does not tell those apart. When
 * the entry was right before it may have been one: the core knows. */
static bool may_be_implicit(const struct vcpu *vcpu, const struct attempt *a)
{
	return a->was_present && a->user && vcpu->cpu.s.cr4 & X86_CR4_SMAP &&
	       vcpu->cpu.s.rflags & X86_FL_AC && !(a->access & (X86_PF_U | X86_PF_FETCH));
}

/* Under the lock, and nothing has changed since the walk. */
static enum outcome map(struct vcpu *vcpu, struct attempt *a)
{
	gpn_t gpn = a->walk.gpa >> PAGE_SHIFT;
	unsigned int level = a->level;
	struct shadow_page *page;

	/* When one of its tables was just made a later walk is back here. */
	while (level > 1 && *shadow_tables_at(vcpu->vm, level, gpn))
		level--;
	page = reach(vcpu, a, level);
	if (!page)
		return AGAIN;
	/* Behind it: what was just walked through is tracked. */
	if (shadow_is_tracked(vcpu->vm, gpn)) {
		/* Not the one that is about to be filled: it may be dropped. */
		bool other = page->key.role.direct || page->key.gpn != gpn;

		if (a->access & X86_PF_W && !(other && shadow_loosen(vcpu->vm, gpn))) {
			vcpu->shadow->table = gpn;
			return CORE;
		}
		a->writable &= !!(a->access & X86_PF_W);
	}
	if (a->writable && a->access & X86_PF_W)
		slot_mark_dirty(vcpu, a->slot, gpn);
	if (!set_leaf(vcpu, a, page, leaf_of(vcpu, a, level))) {
		if (a->no_memory)
			return AGAIN;
		/* Another vCPU was first; or this one's TLB does not know yet. */
		set_bit(REQ_FLUSH, &vcpu->requests);
		return may_be_implicit(vcpu, a) ? CORE : DONE;
	}
	if (level == 1) {
		a->beside = (struct shadow_beside){ .write = a->write, .user = a->user, .exec = a->exec };
		if (page->key.role.direct)
			a->beside.write &= a->dirty;
		shadow_fill_beside(vcpu->vm, page, index_at(a->linear, 1), &a->beside);
	}
	return DONE;
}

/* The level of the largest entry that may stand for the guest's page. Where it has no paging our tables begin below that
 * of 1 GiB. */
static unsigned int largest(const struct attempt *a)
{
	return a->leaf == 3 && boot_cpu_has(X86_FEATURE_GBPAGES) ? 3 : 2;
}

/* The page of the host's that the walk has come to, with a reference. */
static enum outcome find_page(struct vcpu *vcpu, struct attempt *a)
{
	bool write = a->access & X86_PF_W;
	gpn_t gpn = a->walk.gpa >> PAGE_SHIFT;
	bool later;

	a->slot = slot_of(vcpu->vm, gpn);
	a->device = !a->slot || (write && a->slot->flags & KVM_MEM_READONLY);
	if (a->device)
		return CORE;
	a->page = page_get(vcpu, slot_hva(a->slot, gpn), write, &a->writable, &later);
	if (later)
		return LATER;
	if (!a->page)
		return NO_PAGE;
	/* The first write of a page that is logged is to fault. */
	if (a->slot->flags & KVM_MEM_READONLY || (slot_is_logged(a->slot) && !write))
		a->writable = false;
	a->level = a->leaf > 1 ? page_best_level(vcpu->vm, a->slot, gpn, largest(a)) : 1;
	return DONE;
}

static enum outcome walk(struct vcpu *vcpu, struct attempt *a)
{
	struct vcpu_shadow *v = vcpu->shadow;
	bool ac = vcpu->cpu.s.rflags & X86_FL_AC && vcpu->cpu.cpl < 3;
	union shadow_role role = { .write = 1, .user = 1, .exec = 1 };
	int r;

	v->walking = true;
	r = x86_walk_path(&vcpu->cpu, a->linear, a->access, ac, &a->walk, &a->path);
	v->walking = false;
	emulate_put_pages(vcpu);
	if (r != X86_NEXT)
		return REFUSED;
	a->leaf = !a->path.steps ? 5 : a->walk.page_bits == 12 ? 1 : a->walk.page_bits == 30 ? 3 : 2;
	if (a->path.steps)
		narrow(vcpu, a, a->leaf - 1, &role);
	a->write = role.write;
	a->user = role.user;
	a->exec = role.exec;
	a->dirty = !a->path.steps || a->path.entry[a->path.steps - 1] & PTE_D;
	/* Readable for all under SMAP is not what the supervisor's write could be let through by. */
	if (a->access & X86_PF_W && !a->write && a->user && vcpu->cpu.s.cr4 & X86_CR4_SMAP)
		return CORE;
	return DONE;
}

/* For an entry of whichever size. */
static int reserve_places(struct vm *vm, const struct attempt *a)
{
	int r = 0;

	for (unsigned int level = 1; !r && level <= a->level; level++)
		r = rmap_reserve(vm, level, a->walk.gpa >> PAGE_SHIFT);
	return r;
}

static enum outcome attempt(struct vcpu *vcpu, struct attempt *a)
{
	struct vm *vm = vcpu->vm;
	unsigned long changes = READ_ONCE(vm->shadow->changes), ended = READ_ONCE(vm->invalidated);
	enum outcome o;

	smp_rmb(); /* the counts before what they count: a change in between is noticed below */
	a->page = NULL;
	o = walk(vcpu, a);
	if (o == DONE)
		o = find_page(vcpu, a);
	if (o != DONE)
		return o;
	/* What is else allocated under the lock, once that failed. */
	if (fill_spares(vcpu->shadow) ||
	    (a->no_memory && reserve_places(vm, a))) {
		put_page(a->page);
		return NO_MEMORY;
	}
	a->no_memory = false;
	o = AGAIN;
	write_lock(&vm->page_lock);
	shadow_make_room(vm, ARRAY_SIZE(vcpu->shadow->spare));
	if (vm->invalidating || vm->invalidated != ended)
		o = DONE;
	else if (vm->shadow->changes == changes)
		o = map(vcpu, a);
	shadow_settle(vm);
	write_unlock(&vm->page_lock);
	if (a->writable)
		set_page_dirty_lock(a->page);
	put_page(a->page);
	shadow_put_beside(&a->beside);
	return o;
}

/* Whether the instruction that writes to a table needs it for that. */
static bool is_on_path(const struct attempt *a, gpn_t gpn)
{
	for (unsigned int i = 0; i < a->path.steps; i++) {
		if (a->path.gpa[i] >> PAGE_SHIFT == gpn)
			return true;
	}
	return false;
}

static int to_core(struct vcpu *vcpu, const struct attempt *a)
{
	struct vcpu_shadow *v = vcpu->shadow;
	int r;

	if (a->device && !(a->access & X86_PF_FETCH) && mmio_short(vcpu, a->walk.gpa, a->access & X86_PF_W, &r))
		return r;
	v->table_needed = v->table != ~0ull && is_on_path(a, v->table);
	r = emulate(vcpu);
	v->table = ~0ull;
	return r;
}

int shadow_fault(struct vcpu *vcpu, u64 linear, u32 error)
{
	struct attempt a = { .linear = linear,
			     .access = error & (X86_PF_W | X86_PF_U | X86_PF_FETCH),
			     .was_present = error & X86_PF_P };
	enum outcome o = AGAIN;
	int at;

	vcpu->stats.pf_taken++;
	trace_kvm_page_fault(vcpu, linear, error);
	(void)vcpu_peek(vcpu);
	at = srcu_read_lock(&vcpu->vm->srcu);
	for (unsigned int i = 0; o == AGAIN && i < TRIES; i++)
		o = attempt(vcpu, &a);
	srcu_read_unlock(&vcpu->vm->srcu, at);
	switch (o) {
	case AGAIN:
		return a.no_memory ? -ENOMEM : 1;
	case NO_MEMORY:
		return -ENOMEM;
	case REFUSED:
		event_page_fault(vcpu, vcpu->cpu.fault.payload, vcpu->cpu.fault.error);
		return 1;
	case CORE:
		vcpu->stats.pf_emulate++;
		return to_core(vcpu, &a);
	case LATER:
		return 1;
	case NO_PAGE:
		return signal_pending(current) ? -EINTR : -EFAULT;
	default:
		vcpu->stats.pf_fixed++;
		return 1;
	}
}

/* ---- stores to tables ---- */

/* Drop what was made of the bytes from @at on. */
static void overwrite(struct vm *vm, struct shadow_page *page, unsigned int at, unsigned int len)
{
	union shadow_role role = page->key.role;
	bool legacy = role.paging == SHADOW_LEGACY;
	unsigned int size = legacy ? 4 : 8, each = legacy && role.level == 2 ? 2 : 1;
	/* Guest's entries of this quadrant. */
	unsigned int first = role.quadrant * (SHADOW_ENTRIES / each);

	for (unsigned int i = at / size; i <= (at + len - 1) / size; i++) {
		if (i - first >= SHADOW_ENTRIES / each)
			continue;
		for (unsigned int j = 0; j < each; j++)
			shadow_drop_entry(vm, page, (i - first) * each + j);
	}
}

void shadow_written(struct vcpu *vcpu, u64 gpa, unsigned int len)
{
	struct vm *vm = vcpu->vm;
	struct hlist_node *next;
	struct shadow_page *page;
	gpn_t gpn = gpa >> PAGE_SHIFT;

	/* Bits that a walk of ours sets let nothing become less. */
	if (vcpu->shadow->walking)
		return;
	write_lock(&vm->page_lock);
	hash_for_each_possible_safe(vm->shadow->hash, page, next, hash, gpn) {
		if (page->key.gpn != gpn || page->key.role.direct)
			continue;
		WRITE_ONCE(vm->shadow->changes, vm->shadow->changes + 1);
		if (++page->writes > SHADOW_WRITES) {
			vm->stats.mmu_flooded++;
			shadow_drop(vm, page);
		} else {
			overwrite(vm, page, offset_in_page(gpa), len);
		}
	}
	shadow_settle(vm);
	write_unlock(&vm->page_lock);
}

/* Under page_lock: where the entry of the last level for @linear is, if there is one. */
static struct shadow_page *last_of(const struct vcpu *vcpu, u64 linear)
{
	const struct vcpu_shadow *v = vcpu->shadow;
	struct shadow_page *page = v->key.role.paging == SHADOW_LONG ? v->root[0] : v->root[linear >> 30 & 3];

	while (page && page->key.role.level > 1)
		page = shadow_below(page, READ_ONCE(page->table[index_at(linear, page->key.role.level)]));
	return page;
}

void shadow_invalidate(struct vcpu *vcpu, u64 linear)
{
	struct vm *vm = vcpu->vm;
	int at = srcu_read_lock(&vm->srcu);
	struct shadow_page *page;

	write_lock(&vm->page_lock);
	page = vcpu->shadow->loaded ? last_of(vcpu, linear) : NULL;
	if (page && !list_empty(&page->loose))
		shadow_recheck(vm, page, index_at(linear, 1));
	shadow_settle(vm);
	write_unlock(&vm->page_lock);
	srcu_read_unlock(&vm->srcu, at);
}

bool shadow_yield(struct vcpu *vcpu)
{
	struct vcpu_shadow *v = vcpu->shadow;
	gpn_t gpn = v->table;
	bool tracked;

	if (gpn == ~0ull)
		return false;
	write_lock(&vcpu->vm->page_lock);
	shadow_forget(vcpu->vm, gpn, gpn + 1);
	tracked = shadow_is_tracked(vcpu->vm, gpn);
	write_unlock(&vcpu->vm->page_lock);
	return !tracked && !v->table_needed;
}
