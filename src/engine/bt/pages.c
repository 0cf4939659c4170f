// SPDX-License-Identifier: Apache-2.0
/* pages.c - which pages hold code, who may still write to them unseen, and the dirty log. */
#include "engine/bt/bt_int.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <time.h>

#include "base/bits.h"

/* In sync_ring: not one page but all of them. */
#define BT_SYNC_ALL (~0ull)
/* Nor a page: blocks were evicted. */
#define BT_SYNC_FORGET 2ull
/* With the page: its word changed. Without: it became code, stores to it must be reported. */
#define BT_SYNC_CHANGED 1ull

static void bt_observed(struct mem_observer *observer, gpa_t gpa, uint64_t len)
{
	struct bt_engine *engine = container_of(observer, struct bt_engine, observer);

	/* A device need not know where RAM ends: clip to each slot. */
	for (unsigned i = 0; i < engine->ram_count; i++) {
		const struct bt_ram *ram = &engine->ram[i];
		uint64_t start = gpa > ram->gpa ? gpa : ram->gpa;
		uint64_t end = ram->gpa + ram->size;

		if (len > UINT64_MAX - gpa)
			len = UINT64_MAX - gpa;
		if (gpa + len < end)
			end = gpa + len;
		if (start < end)
			bt_page_stored(engine, start, end - start);
	}
}

int bt_pages_init(struct bt_engine *engine)
{
	size_t count = 0;
	const struct mem_slot *slots = mem_slots(engine->mem, &count);

	for (size_t i = 0; i < count && i < ARRAY_SIZE(engine->ram); i++)
		engine->ram[engine->ram_count++] = (struct bt_ram){
			.gpa = slots[i].gpa,
			.size = slots[i].size,
			.hva = slots[i].hva,
			.fd = slots[i].fd,
			.fd_offset = slots[i].fd_offset,
		};
	if (!engine->ram_count || count > ARRAY_SIZE(engine->ram))
		return -EINVAL;
	engine->page_count = (slots[count - 1].gpa + slots[count - 1].size) >> 12;
	/* Indexed by page number, the hole included: untouched parts cost no memory. */
	engine->page = mmap(NULL, engine->page_count * sizeof(*engine->page),
			    PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (engine->page == MAP_FAILED) {
		engine->page = NULL;
		return -errno;
	}
	pthread_mutex_init(&engine->sync_lock, NULL);
	engine->observer.written = bt_observed;
	mem_observe(engine->mem, &engine->observer);
	return 0;
}

void bt_pages_fini(struct bt_engine *engine)
{
	if (!engine->page)
		return;
	munmap(engine->page, engine->page_count * sizeof(*engine->page));
	pthread_mutex_destroy(&engine->sync_lock);
}

bool bt_ram_is_file(const struct bt_engine *engine)
{
	for (unsigned i = 0; i < engine->ram_count; i++) {
		struct statfs fs;

		if (engine->ram[i].fd < 0 || fstatfs(engine->ram[i].fd, &fs) < 0 ||
		    fs.f_type == HUGETLBFS_MAGIC)
			return false;
	}
	return true;
}

bool bt_may_write(struct bt_vcpu *vcpu, gpa_t gpa)
{
	bool direct = false;

	return vcpu->cpu.ops->ram_page(&vcpu->cpu, gpa, true, &direct) && direct;
}

/* Tell all vCPUs. Returns the number to wait for. */
static uint64_t bt_sync_post(struct bt_engine *engine, gpa_t gpa)
{
	uint64_t seq;

	pthread_mutex_lock(&engine->sync_lock);
	seq = atomic_load_explicit(&engine->sync_seq, memory_order_relaxed) + 1;
	engine->sync_ring[seq % BT_SYNC_RING] = gpa;
	/* seq_cst: pairs with in_guest in bt_guest_enter(). Either a vCPU that comes in sees
	 * this number, or we see it inside. */
	atomic_store(&engine->sync_seq, seq);
	pthread_mutex_unlock(&engine->sync_lock);
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);

		if (vcpu)
			bt_request(vcpu, BT_REQ_SYNC, false);
	}
	return seq;
}

uint64_t bt_sync_forget(struct bt_engine *engine)
{
	return bt_sync_post(engine, BT_SYNC_FORGET);
}

static bool bt_sync_acked_by_all(struct bt_engine *engine, const struct bt_vcpu *self,
				 uint64_t seq)
{
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);

		if (!vcpu || vcpu == self)
			continue;
		if (atomic_load(&vcpu->in_guest) && atomic_load(&vcpu->sync_acked) < seq)
			return false;
	}
	return true;
}

bool bt_sync_done(struct bt_engine *engine, uint64_t seq)
{
	return bt_sync_acked_by_all(engine, NULL, seq);
}

bool bt_sync_all_acked(struct bt_vcpu *vcpu, uint64_t seq)
{
	if (seq <= vcpu->all_acked)
		return true;
	if (atomic_load_explicit(&vcpu->sync_acked, memory_order_relaxed) < seq ||
	    !bt_sync_acked_by_all(bt_engine_of(vcpu), vcpu, seq))
		return false;
	vcpu->all_acked = seq;
	return true;
}

/* Stores of this vCPU to a page are to be reported from now on. */
static void bt_protect(struct bt_vcpu *vcpu, gpa_t gpa)
{
	x86_tlb_protect(&vcpu->cpu, gpa);
	bt_direct_protect(vcpu, gpa);
	bt_user_protect(vcpu, gpa);
}

void bt_sync_drain(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t acked = atomic_load_explicit(&vcpu->sync_acked, memory_order_relaxed);
	gpa_t pages[BT_SYNC_RING];
	uint64_t count, seq;
	bool all = false;
	uint32_t evictions;

	pthread_mutex_lock(&engine->sync_lock);
	seq = atomic_load_explicit(&engine->sync_seq, memory_order_relaxed);
	count = seq - acked;
	if (count > BT_SYNC_RING)
		all = true;
	for (uint64_t i = 0; !all && i < count; i++) {
		pages[i] = engine->sync_ring[(acked + 1 + i) % BT_SYNC_RING];
		all = pages[i] == BT_SYNC_ALL;
	}
	pthread_mutex_unlock(&engine->sync_lock);

	if (all) {
		x86_tlb_flush(&vcpu->cpu);
		bt_jit_close_all(engine->cache);
	}
	for (uint64_t i = 0; !all && i < count; i++) {
		if (pages[i] & BT_SYNC_CHANGED)
			bt_jit_close_page(engine->cache, pages[i]);
		else if (pages[i] != BT_SYNC_FORGET)
			bt_protect(vcpu, pages[i]);
	}
	/* Counted before it was posted. */
	evictions = atomic_load(&engine->cache->evictions);
	if (evictions != vcpu->maps.evictions) {
		bt_maps_forget(vcpu, acked);
		vcpu->maps.evictions = evictions;
	}
	atomic_store(&vcpu->sync_acked, seq);
}

void bt_guest_enter(struct bt_vcpu *vcpu)
{
	/* seq_cst store, then the load in the drain: see bt_sync_post(). */
	atomic_store(&vcpu->in_guest, true);
	if (atomic_load(&bt_engine_of(vcpu)->sync_seq) != atomic_load(&vcpu->sync_acked))
		bt_sync_drain(vcpu);
}

void bt_guest_leave(struct bt_vcpu *vcpu)
{
	atomic_store(&vcpu->in_guest, false);
}

uint32_t bt_page_make_code(struct bt_vcpu *vcpu, gpa_t gpa)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	_Atomic uint32_t *page = bt_page_word(engine, gpa);
	uint32_t old = atomic_load(page);
	uint32_t word;

	do {
		word = (old | BT_PAGE_CODE) & ~BT_PAGE_WRITTEN;
	} while (!atomic_compare_exchange_weak(page, &old, word));
	if (old & BT_PAGE_WRITTEN) {
		bt_protect(vcpu, gpa & ~0xfffull);
		if (engine->vcpu_count > 1)
			engine->code_seq = bt_sync_post(engine, gpa & ~0xfffull);
	}
	return word;
}

/* Each vCPU, the caller's own included, is told before the store is complete: see jit.h. */
static void bt_page_uncode(struct bt_engine *engine, uint64_t pfn)
{
	_Atomic uint32_t *page = &engine->page[pfn];
	uint32_t old = atomic_load(page);
	uint32_t word;

	do {
		if (!(old & BT_PAGE_CODE))
			return;
		word = old & ~BT_PAGE_CODE;
		if ((word & BT_PAGE_HEAT_MASK) != BT_PAGE_HEAT_MASK)
			word += BT_PAGE_HEAT;
		/* The last generation lasts: see bt_page_is_hot(). */
		if ((word & BT_PAGE_GEN_MASK) != BT_PAGE_GEN_MASK)
			word += BT_PAGE_GEN;
	} while (!atomic_compare_exchange_weak(page, &old, word));
	bt_sync_post(engine, pfn << 12 | BT_SYNC_CHANGED);
}

void bt_page_stored(struct bt_engine *engine, gpa_t gpa, uint64_t len)
{
	uint64_t last = (gpa + len - 1) >> 12;

	/* The bytes before the flag: pairs with the locked update in bt_page_make_code(), after
	 * which bytes are read. One of the two sees the other. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&engine->dirty_on, memory_order_relaxed))
		mem_dirty_mark(engine->mem, gpa, len);
	for (uint64_t pfn = gpa >> 12; pfn <= last; pfn++) {
		if (atomic_load_explicit(&engine->page[pfn], memory_order_relaxed) & BT_PAGE_CODE)
			bt_page_uncode(engine, pfn);
	}
}

int bt_dirty_start(struct engine *base)
{
	struct bt_engine *engine = (struct bt_engine *)base;
	const struct timespec pause = { .tv_nsec = 50000 };
	uint64_t seq;

	atomic_store(&engine->dirty_on, true);
	seq = bt_sync_post(engine, BT_SYNC_ALL);
	/* Rare, and bounded by the longest time a vCPU takes from one block to the next. */
	while (!bt_sync_acked_by_all(engine, NULL, seq))
		nanosleep(&pause, NULL);
	return 0;
}

int bt_dirty_sync(struct engine *base)
{
	/* Pages are marked as they are written: nothing is held back. */
	return 0;
}

void bt_dirty_stop(struct engine *base)
{
	struct bt_engine *engine = (struct bt_engine *)base;

	atomic_store(&engine->dirty_on, false);
}
