// SPDX-License-Identifier: Apache-2.0
/*
 * cache.h - the code cache of a machine: decoded blocks and their native code, for all its vCPUs.
 *
 * Theory of operation
 *
 * Blocks, native code, and the table by which blocks are found belong to the machine. What depends on a
 * vCPU (where a RIP leads now, what an exit of a page leads to) is in tables of its own, struct bt_maps
 * and struct bt_jit, which native code reaches by GS.
 *
 * Everything here is changed under one lock. Without it a vCPU reads the hash, and uses blocks: what
 * it reads of those is either fixed before the block is published (the store to the hash releases), or
 * atomic (stamp, code, runs, dead). Native code is run without a lock too, while another vCPU patches
 * it: each patch is one store to an aligned quadword, which others execute either as it was or as it is
 * then (emit.h, emit_live()), and both are right (jit.h).
 *
 * Kinds of blocks. One that is interpreted holds its decoded instructions. One that is translated holds what its
 * code refers to: ways out, and those instructions that it leaves to their handlers. Where another is asked
 * for, in a slow path, it is decoded again (bt_block_insn()). Each kind has a ring of regions of its own, so
 * that code which runs a few times takes no room from code that runs often: a block that is translated is made
 * anew in the other ring, and the one that was interpreted dies.
 *
 * Eviction. Each region has blocks and, in the ring of those that are translated, their code, its exits'
 * slots and its sites of direct.h; a block and its code are in one region. When the current region of a ring is
 * half full the oldest one is retired: nothing of it is found any more in the hash, no jump of other regions
 * leads into it, and each vCPU is asked (a request, no waiting) to forget what of it its tables hold. Once all
 * have done so, or are outside the guest, nobody can be in it, and it is the next to be filled. While somebody is
 * late who needs room gives its place on the host away and goes on with one instruction at a time (bt_step()),
 * so nobody ever waits.
 *
 * A vCPU holds pointers to blocks, and is in native code, only inside bt_execute(); it does what is asked of
 * it outside (bt_sync_drain()).
 *
 * Blocks that run on the host's MMU (direct.h) lie in the cache like others, but each is of one vCPU.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/bt/direct.h"
#include "engine/bt/jit/jit.h"
#include "x86/insn.h"

#define BT_HASH_BITS 15
#define BT_HASH_WAYS 8u
#define BT_REGIONS   8u /* of a ring, at most */
#define BT_BLOCK_ALIGN 8u
#define BT_LARGE_PAGE (2u << 20)
#define BT_NO_STAMP  0u /* no page word with CODE set equals it */

struct bt_engine;
struct bt_vcpu;

/* A jump of a block's code that leads to another block: of its exits, or at its closed entry. */
struct bt_link {
	uint32_t to;   /* offset in the arena; 0: it leads out */
	uint32_t next; /* to the same block: offset of the block it is of, and its number there */
};

#define BT_LINK_BY 2u /* behind those of bt_block.exit */
#define BT_LINKS   3u

/* What a translated block has. Its instructions of @kept are behind it, in their order, and then its bytes. */
struct bt_native {
	uint32_t kept;	       /* a bit each, by number; the end mark is behind the last */
	uint32_t next_in_page; /* offset in the arena: see bt_cache.page_blocks */
	uint32_t linked;       /* what leads here: the first of a list of links (link.c) */
	struct bt_link link[BT_LINKS];
	struct bt_exit exit[2];
	/* Entries (jit.h), and the way out of a closed one: from bt_block.code on. */
	int16_t back, next, next_host, stale;
	bool closed; /* there is a jump at the entry */
	_Atomic uint8_t fallbacks; /* of its runs (tr_run.c), about */
	/* Of jit.slot: where native code finds the rest of the instruction that goes on in the next page
	 * (tr_cross.c). 0: it does not look. */
	uint16_t cross_slot;
};

struct bt_block {
	_Atomic uint32_t *page; /* the page's word; never NULL */
	uint64_t gpa;
	_Atomic uint32_t stamp; /* the word for which it is trusted, or BT_NO_STAMP */
	_Atomic uint32_t code;	/* the full entry (jit.h); 0: it is not translated. The last that is set */
	uint8_t code_bytes;
	uint8_t count; /* instructions, without the end mark */
	uint8_t len;   /* bytes */
	bool translated;
	/* To run on the host's MMU: direct.h. Of vCPU direct - 1 alone, which patches it as it sees fit. */
	uint16_t direct;
	uint8_t tail; /* bytes behind them to the end of the page, of an instruction that goes on there */
	uint32_t trust_word; /* the page's word when trust_seq was taken */
	uint64_t trust_seq;  /* trusted once all vCPUs acknowledged this sync: that its page is code */
	_Atomic uint32_t runs; /* times interpreted, about */
	/* Never trusted again. Apart from what is fixed: compilers compare several of those at once. */
	_Atomic bool dead;
	union {
		struct bt_native native; /* where it is translated */
		struct {
			/* What followed in the same page, by a jump and behind it: offset << 32 | evictions
			 * (bt_maps) that were known then. */
			_Atomic uint64_t follow[2];
			struct x86_insn insn[]; /* and the end mark, and its bytes */
		};
	};
};

/* Offsets in the arena and in the code; numbers of slots (bt_exit.slot) and sites. */
struct bt_region {
	uint32_t first, end, code_first, code_end, slot_first, slot_end, site_first, site_end;
	_Atomic uint32_t used, code_used; /* up to where; others read them for statistics */
	uint32_t slots_used;
	_Atomic uint32_t sites_used; /* the handler of the signal reads it */
	bool live;
	bool large; /* pages were asked for */
	uint64_t seq; /* when it was retired: free once all have acknowledged this sync */
};

enum bt_ring_kind { BT_DECODED, BT_TRANSLATED, BT_RINGS };

struct bt_ring {
	struct bt_region region[BT_REGIONS];
	unsigned regions, current;
	uint32_t first, each; /* in the arena; each: of one region */
};

/* One line of the host's cache. A way is a tag and, below, the offset of a block; 0: empty. What falls
 * out is only decoded again. */
struct bt_hash_set {
	_Atomic uint64_t way[BT_HASH_WAYS];
} __attribute__((aligned(64)));

struct bt_cache {
	pthread_mutex_t lock;
	uint8_t *arena; /* lazily touched; block at offset 0 does not exist */
	uint32_t size;
	size_t mapped; /* from the arena on */
	/* Two mappings of the code, or NULL; the stubs lie in front of all regions. */
	uint8_t *code, *exec;
	uint32_t code_size, code_first;
	bool on; /* native code can be made */
	bool large; /* pages were asked for */
	struct bt_jit_stubs stubs;
	struct bt_ring ring[BT_RINGS];
	_Atomic uint32_t evictions; /* of regions */
	/* Jumps that were linked. Whoever leaves native code reads it, and thereby sees all that was written
	 * of the blocks that he came to: native code acquires nothing that a compiler, or a tool
	 * that looks for races, knows of. */
	_Atomic uint32_t links_made;
	struct bt_direct_site *site;
	uint32_t sites;
	uint32_t next_way; /* to be replaced in a full set */
	/* By region and page number: translated blocks. */
	uint32_t page_blocks[BT_REGIONS][1u << BT_JIT_PAGE_BITS];
	struct bt_hash_set hash[1u << BT_HASH_BITS];
};

/* ---- cache.c: with the lock held ---- */
/* @block is found, in place of a dead one of its kind; or not any more. */
void bt_hash_insert(struct bt_cache *cache, const struct bt_block *block);
void bt_hash_remove(struct bt_cache *cache, const struct bt_block *block);

/* ---- block.c: with the lock held ---- */
/* Decode what is at @gpa, for the context in use. NULL when the first instruction is undefined, or does not fit the
 * page in code that is not 64-bit; or when there is no room now. */
struct bt_block *bt_block_new(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host);
/* Maps may still lead to it, and vCPUs be in it. */
void bt_block_kill(struct bt_block *block);

/* ---- region.c ---- */
int bt_cache_init(struct bt_engine *engine);
void bt_cache_fini(struct bt_engine *engine);
/* What follows is called with the lock held. */
/* Room for @bytes of blocks (at most BT_BLOCK_MAX) and for @code bytes of code in the current region of a
 * ring. NULL: not now. */
struct bt_region *bt_cache_room(struct bt_engine *engine, enum bt_ring_kind kind, uint32_t bytes,
				uint32_t code);
/* Forget everything. For tests, while no vCPU runs. */
void bt_cache_empty(struct bt_engine *engine);

/* In the arena. */
static inline uint32_t bt_block_offset(const struct bt_cache *cache, const struct bt_block *block)
{
	return (uint32_t)((const uint8_t *)block - cache->arena);
}

/* Of a translated block. */
static inline struct bt_region *bt_region_of(struct bt_cache *cache, const struct bt_block *block)
{
	struct bt_ring *ring = &cache->ring[BT_TRANSLATED];

	return &ring->region[(bt_block_offset(cache, block) - ring->first) / ring->each];
}

/* The end of its header, where it has any instructions. */
static inline struct x86_insn *bt_block_insns(const struct bt_block *block)
{
	size_t at = block->translated ? offsetof(struct bt_block, native) + sizeof(struct bt_native) :
					offsetof(struct bt_block, insn);

	return (struct x86_insn *)((uint8_t *)(uintptr_t)block + at);
}

static inline const uint8_t *bt_block_bytes(const struct bt_block *block)
{
	unsigned n = block->translated ? (unsigned)__builtin_popcount(block->native.kept) :
					 block->count + 1u;

	return (const uint8_t *)(bt_block_insns(block) + n);
}

static inline size_t bt_block_size(const struct bt_block *block)
{
	size_t size = (size_t)(bt_block_bytes(block) - (const uint8_t *)block) + block->len +
		      block->tail;

	return (size + BT_BLOCK_ALIGN - 1) & ~(size_t)(BT_BLOCK_ALIGN - 1);
}
