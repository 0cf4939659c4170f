// SPDX-License-Identifier: Apache-2.0
/* region.c - the memory of the code cache, and which part of it is given up for what is new. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"

/* Blocks and code of a machine that was not told how much they may take. */
#define CACHE_BYTES (64u << 20)
/* What is decoded and not translated has one part in so many. */
#define DECODED_SHARE	6u
#define DECODED_REGIONS 8u
/* No region has less: the largest block, twice and more. */
#define REGION_MIN (4u * BT_BLOCK_MAX)
#define REGION_CODE_MIN (BT_JIT_BLOCK_MAX + 4096u)
/* Large pages are asked for when there are so many bytes of blocks. */
#define LARGE_FROM (256u << 10)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1; before, memory that was touched stays as it is */
#endif
/* An access takes more code than so many bytes. */
#define SITE_BYTES 16u

static void region_begin(struct bt_region *r)
{
	atomic_store(&r->used, r->first);
	atomic_store(&r->code_used, r->code_first);
	atomic_store(&r->sites_used, 0);
	r->slots_used = 0;
	r->live = true;
}

static void divide(struct bt_cache *cache)
{
	struct bt_ring *ring = &cache->ring[BT_TRANSLATED];
	uint32_t code = (uint32_t)align_down((cache->code_size - cache->code_first) / ring->regions, 64);
	uint32_t slots = BT_JIT_SLOTS / ring->regions, sites = cache->sites / ring->regions;

	for (unsigned kind = 0; kind < BT_RINGS; kind++) {
		ring = &cache->ring[kind];
		ring->current = 0;
		for (uint32_t i = 0; i < ring->regions; i++) {
			struct bt_region *r = &ring->region[i];

			r->first = ring->first + i * ring->each;
			r->end = r->first + ring->each;
			if (!r->first)
				r->first = BT_BLOCK_ALIGN; /* offset 0 says "none" */
			if (kind == BT_TRANSLATED) {
				r->code_first = cache->code_first + i * code;
				r->code_end = r->code_first + code;
				r->slot_first = i ? i * slots : 1; /* so does slot 0 */
				r->slot_end = (i + 1) * slots;
				r->site_first = i * sites;
				r->site_end = (i + 1) * sites;
			}
			region_begin(r);
			r->live = i == 0;
		}
	}
}

/* Powers of two, so that no region is too small. */
static void ring_init(struct bt_ring *ring, uint32_t first, uint32_t size, unsigned most)
{
	ring->regions = most;
	ring->first = first;
	ring->each = size / most & ~4095u;
}

/* Of a translated block's share some six tenths are code. */
static void plan(struct bt_cache *cache, uint32_t bytes)
{
	uint32_t decoded = MAX(bytes / DECODED_SHARE, DECODED_REGIONS * REGION_MIN);
	uint32_t rest = bytes > decoded ? bytes - decoded : 0;
	uint32_t code = MAX(rest / 10 * 6, 2 * REGION_CODE_MIN);
	uint32_t blocks = MAX(rest / 10 * 4, 2 * REGION_MIN);
	unsigned regions = BT_REGIONS;

	while (regions > 2 && (code / regions < REGION_CODE_MIN || blocks / regions < REGION_MIN))
		regions /= 2;
	ring_init(&cache->ring[BT_DECODED], 0, decoded, DECODED_REGIONS);
	ring_init(&cache->ring[BT_TRANSLATED], cache->ring[BT_DECODED].each * DECODED_REGIONS, blocks,
		  regions);
	cache->size = cache->ring[BT_TRANSLATED].first + cache->ring[BT_TRANSLATED].each * regions;
	cache->code_first = BT_JIT_STUBS_BYTES;
	cache->code_size = (uint32_t)align_up(cache->code_first + code, 4096);
	cache->sites = cache->code_size / SITE_BYTES;
}

int bt_cache_init(struct bt_engine *engine)
{
	struct bt_cache *cache;
	void *p;

	cache = mmap(NULL, sizeof(*cache), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (cache == MAP_FAILED)
		return -errno;
	engine->cache = cache;
	pthread_mutex_init(&cache->lock, NULL);
	plan(cache, engine->cache_bytes ? engine->cache_bytes : CACHE_BYTES);
	p = mmap(NULL, cache->sites * sizeof(*cache->site), PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p != MAP_FAILED)
		cache->site = p;
	if (p == MAP_FAILED || bt_jit_map(cache) < 0)
		return -ENOMEM;
	divide(cache);
	return 0;
}

void bt_cache_fini(struct bt_engine *engine)
{
	struct bt_cache *cache = engine->cache;

	if (!cache)
		return;
	bt_jit_unmap(cache);
	if (cache->site)
		munmap(cache->site, cache->sites * sizeof(*cache->site));
	pthread_mutex_destroy(&cache->lock);
	munmap(cache, sizeof(*cache));
	engine->cache = NULL;
}

/* ---- retiring ---- */

static void forget_hash(struct bt_cache *cache, const struct bt_region *old)
{
	const struct bt_block *block;

	for (uint32_t at = old->first; at < old->used; at += bt_block_size(block)) {
		block = (const struct bt_block *)(cache->arena + at);
		bt_hash_remove(cache, block);
	}
}

/* Translated blocks. */
static void forget_code(struct bt_cache *cache, const struct bt_region *old)
{
	size_t n = (size_t)(old - cache->ring[BT_TRANSLATED].region);
	struct bt_block *block;

	memset(cache->page_blocks[n], 0, sizeof(cache->page_blocks[n]));
	for (uint32_t at = old->first; at < old->used; at += bt_block_size(block)) {
		block = (struct bt_block *)(cache->arena + at);
		bt_jit_forget(cache, block);
	}
}

static void retire(struct bt_engine *engine, enum bt_ring_kind kind, struct bt_region *old)
{
	struct bt_cache *cache = engine->cache;

	old->live = false;
	forget_hash(cache, old);
	if (kind == BT_TRANSLATED)
		forget_code(cache, old);
	atomic_fetch_add(&cache->evictions, 1);
	old->seq = bt_sync_forget(engine);
}

/* ---- what vCPUs forget ---- */

struct gone {
	uint32_t first, end, code_first, code_end, slot_first, slot_end;
};

/* Returns how many; *ret_all: no region is left out. */
static unsigned find_gone(struct bt_cache *cache, uint64_t acked, struct gone *gone, bool *ret_all)
{
	unsigned regions = 0, n = 0;

	pthread_mutex_lock(&cache->lock);
	for (unsigned kind = 0; kind < BT_RINGS; kind++) {
		const struct bt_ring *ring = &cache->ring[kind];

		for (unsigned i = 0; i < ring->regions; i++) {
			const struct bt_region *r = &ring->region[i];

			if (r->seq > acked)
				gone[n++] = (struct gone){ r->first, r->end, r->code_first,
							   r->code_end, r->slot_first,
							   r->slot_end };
		}
		regions += ring->regions;
	}
	pthread_mutex_unlock(&cache->lock);
	*ret_all = n == regions;
	return n;
}

static void forget_targets(const struct bt_jit *jit, struct bt_jit_target *at, size_t count,
			   const struct gone *old)
{
	uint64_t first = (uintptr_t)jit->exec + old->code_first;

	for (size_t i = 0; i < count; i++)
		if (at[i].code - first < old->code_end - old->code_first)
			at[i] = (struct bt_jit_target){ 0 };
}

static void forget_slots(struct bt_jit *jit, const struct gone *old)
{
	uint64_t first = (uintptr_t)jit->exec + old->code_first;

	for (uint32_t i = 0; i < jit->slots_end; i++)
		if (jit->slot[i].code - first < old->code_end - old->code_first ||
		    i - old->slot_first < old->slot_end - old->slot_first)
			jit->slot[i] = (struct bt_jit_slot){ 0 };
}

static void forget_region(struct bt_vcpu *vcpu, const struct gone *old)
{
	struct bt_maps *maps = &vcpu->maps;
	struct bt_jit *jit = &vcpu->jit;

	for (size_t i = 0; i < 1u << BT_MAP_BITS; i++)
		if (maps->map[i].block - old->first < old->end - old->first)
			maps->map[i] = (struct bt_map){ 0 };
	if (!old->code_end)
		return;
	for (size_t i = 0; i < 1u << BT_DECODED_BITS; i++)
		if (maps->decoded[i].block - old->first < old->end - old->first)
			maps->decoded[i].block = 0;
	for (size_t i = 0; i < 1u << BT_HANDLED_BITS; i++)
		if (maps->handled[i].block - old->first < old->end - old->first)
			maps->handled[i].block = 0;
	forget_targets(jit, jit->map, 1u << BT_JIT_MAP_BITS, old);
	forget_targets(jit, jit->back, 1u << BT_JIT_BACK_BITS, old);
	forget_slots(jit, old);
}

void bt_maps_forget(struct bt_vcpu *vcpu, uint64_t acked)
{
	struct gone gone[BT_RINGS * BT_REGIONS];
	bool all;
	unsigned count = find_gone(bt_engine_of(vcpu)->cache, acked, gone, &all);

	vcpu->current = NULL;
	if (all) {
		bt_maps_renew(vcpu);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		forget_region(vcpu, &gone[i]);
}

/* ---- room ---- */

/* Half full: the next one should be free by the time it is full. A vCPU whose thread waits for its place on
 * the host is late by milliseconds. */
static bool is_half_full(const struct bt_region *r)
{
	uint32_t left = r->end - r->used, code_left = r->code_end - r->code_used;

	return left < MAX((r->end - r->first) / 2, BT_BLOCK_MAX) ||
	       (r->code_end &&
		code_left < MAX((r->code_end - r->code_first) / 2, BT_JIT_BLOCK_MAX));
}

/*
 * What is looked up at random is more than the host's TLB knows in small pages (a boot takes 5 % less with large ones).
 * Not from the start, for the sake of a guest that is small or short: when there are some hundreds of blocks.
 */
static void want_large_pages(struct bt_engine *engine)
{
	struct bt_cache *cache = engine->cache;

	cache->large = true;
	(void)madvise(cache->arena, cache->size, MADV_HUGEPAGE);
	(void)madvise(cache, sizeof(*cache), MADV_HUGEPAGE);
	(void)madvise(cache, sizeof(*cache), MADV_COLLAPSE);
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		struct bt_vcpu *vcpu = atomic_load(&engine->vcpu[i]);

		if (vcpu)
			(void)madvise(vcpu, BT_VCPU_BYTES, MADV_HUGEPAGE);
		if (vcpu && atomic_load(&vcpu->in_guest))
			(void)madvise(vcpu, BT_VCPU_BYTES, MADV_COLLAPSE);
	}
}

/* Linux gives shared memory large pages by itself only where it is set up to. Once: it takes a while. */
static void collapse_code(struct bt_cache *cache, struct bt_region *full)
{
	size_t first = align_down(full->code_first, BT_LARGE_PAGE);
	size_t end = align_down(full->code_end, BT_LARGE_PAGE);

	if (!full->large && end > first)
		(void)madvise(cache->exec + first, end - first, MADV_COLLAPSE);
	full->large = true;
}

struct bt_region *bt_cache_room(struct bt_engine *engine, enum bt_ring_kind kind, uint32_t bytes,
				uint32_t code)
{
	struct bt_ring *ring = &engine->cache->ring[kind];
	struct bt_region *r = &ring->region[ring->current];
	unsigned after = (ring->current + 1) % ring->regions;
	struct bt_region *next = &ring->region[after];

	if (unlikely(!engine->cache->large) && r->used - r->first > LARGE_FROM)
		want_large_pages(engine);
	if (is_half_full(r) && next->live)
		retire(engine, kind, next);
	if (r->end - r->used >= bytes && r->code_end - r->code_used >= code)
		return r;
	if (!bt_sync_done(engine, next->seq))
		return NULL;
	if (kind == BT_TRANSLATED && engine->cache->large)
		collapse_code(engine->cache, r);
	region_begin(next);
	ring->current = after;
	return next;
}

void bt_cache_empty(struct bt_engine *engine)
{
	struct bt_cache *cache = engine->cache;
	uint64_t seq = bt_sync_forget(engine);

	memset(cache->hash, 0, sizeof(cache->hash));
	memset(cache->page_blocks, 0, sizeof(cache->page_blocks));
	divide(cache);
	for (unsigned kind = 0; kind < BT_RINGS; kind++)
		for (unsigned i = 0; i < cache->ring[kind].regions; i++)
			cache->ring[kind].region[i].seq = seq;
	atomic_fetch_add(&cache->evictions, 1);
}
