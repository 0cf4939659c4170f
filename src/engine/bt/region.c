// SPDX-License-Identifier: Apache-2.0
/* region.c - the memory of the code cache, and which part of it is given up for what is new. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"

/* Blocks and code of a machine that was not told how much they may take. */
#define CACHE_BYTES (64u << 20)
/* No region has less code, which holds the largest block. */
#define REGION_CODE_MIN (BT_JIT_BLOCK_MAX + 4096u)
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
	uint32_t blocks = cache->size / cache->regions;
	uint32_t code = (uint32_t)align_down((cache->code_size - cache->code_first) / cache->regions, 64);
	uint32_t slots = BT_JIT_SLOTS / cache->regions, sites = cache->sites / cache->regions;

	for (uint32_t i = 0; i < cache->regions; i++) {
		struct bt_region *r = &cache->region[i];

		r->first = i ? i * blocks : 64; /* offset 0 says "none" */
		r->end = (i + 1) * blocks;
		r->code_first = cache->code_first + i * code;
		r->code_end = r->code_first + code;
		r->slot_first = i ? i * slots : 1; /* so does slot 0 */
		r->slot_end = (i + 1) * slots;
		r->site_first = i * sites;
		r->site_end = (i + 1) * sites;
		region_begin(r);
		r->live = i == 0;
	}
}

int bt_cache_init(struct bt_engine *engine)
{
	uint32_t blocks = engine->cache_bytes ? engine->cache_bytes : BT_CACHE_BLOCKS(CACHE_BYTES);
	uint32_t code = MAX(BT_CACHE_CODE(blocks), 2 * REGION_CODE_MIN);
	struct bt_cache *cache;
	void *p;

	cache = mmap(NULL, sizeof(*cache), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (cache == MAP_FAILED)
		return -errno;
	engine->cache = cache;
	pthread_mutex_init(&cache->lock, NULL);
	cache->regions = BT_REGIONS;
	while (cache->regions > 2 && code / cache->regions < REGION_CODE_MIN)
		cache->regions /= 2;
	cache->size = (uint32_t)align_up(blocks, 4096);
	cache->code_first = BT_JIT_STUBS_BYTES;
	cache->code_size = (uint32_t)align_up(cache->code_first + code, 4096);
	cache->sites = cache->code_size / SITE_BYTES;
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

static void forget_code(struct bt_cache *cache, const struct bt_region *old)
{
	struct bt_block *block;

	memset(cache->page_blocks[old - cache->region], 0, sizeof(cache->page_blocks[0]));
	for (uint32_t at = old->first; at < old->used; at += bt_block_size(block)) {
		block = (struct bt_block *)(cache->arena + at);
		if (block->code)
			bt_jit_forget(cache, block);
	}
}

static void retire(struct bt_engine *engine, struct bt_region *old)
{
	struct bt_cache *cache = engine->cache;

	old->live = false;
	forget_hash(cache, old);
	forget_code(cache, old);
	atomic_fetch_add(&cache->evictions, 1);
	old->seq = bt_sync_forget(engine);
}

/* ---- room ---- */

static struct bt_region *next_region(struct bt_cache *cache)
{
	return &cache->region[(cache->current + 1) % cache->regions];
}

/* Half full: the next one should be free by the time it is full. A vCPU whose thread waits for its place on
 * the host is late by milliseconds. */
static bool is_half_full(const struct bt_region *r)
{
	uint32_t left = r->end - r->used, code_left = r->code_end - r->code_used;

	return left < (r->end - r->first) / 2 ||
	       code_left < MAX((r->code_end - r->code_first) / 2, BT_JIT_BLOCK_MAX);
}

struct bt_region *bt_cache_room(struct bt_engine *engine, uint32_t bytes, uint32_t code)
{
	struct bt_cache *cache = engine->cache;
	struct bt_region *r = &cache->region[cache->current], *next = next_region(cache);

	if (is_half_full(r) && next->live)
		retire(engine, next);
	if (r->end - r->used >= bytes && r->code_end - r->code_used >= code)
		return r;
	if (!bt_sync_done(engine, next->seq))
		return NULL;
	region_begin(next);
	cache->current = (cache->current + 1) % cache->regions;
	return next;
}

void bt_cache_empty(struct bt_engine *engine)
{
	struct bt_cache *cache = engine->cache;

	memset(cache->hash, 0, sizeof(cache->hash));
	memset(cache->page_blocks, 0, sizeof(cache->page_blocks));
	cache->current = 0;
	divide(cache);
	atomic_fetch_add(&cache->evictions, 1);
}
