// SPDX-License-Identifier: Apache-2.0
/*
 * stats.h - what a vCPU counts about itself, and what it says it is doing.
 *
 * Written by the vCPU's own thread with plain stores, read by others whenever they like: each number is
 * whole, but they may be of slightly different moments. Counted is only what is off the fast path.
 * Time is sampled: somebody looks now and then what the vCPU is doing (stats.c).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum bt_doing {
	BT_DOING_OUTSIDE, /* not in vcpu_run() */
	BT_DOING_LOOP,	  /* between blocks */
	BT_DOING_NATIVE,
	BT_DOING_USER, /* user code as it is, in a runner */
	BT_DOING_HANDLER, /* an instruction that native code left to the core */
	BT_DOING_INTERPRET,
	BT_DOING_STEP, /* one instruction outside a block */
	BT_DOING_FIND, /* by physical address; decoding */
	BT_DOING_TRANSLATE,
	BT_DOING_DELIVER, /* exceptions and interrupts */
	BT_DOING_DEVICE,  /* ports and MMIO */
	BT_DOING_HALT,
	BT_DOING_KINDS
};

#define BT_STATS_EXITS 8

struct bt_stats {
	uint64_t insns; /* retired, where bt_engine.count_insns; native code adds a block's at entry */
	uint64_t entries;	       /* of native code from the loop */
	uint64_t exits[BT_STATS_EXITS]; /* by enum bt_jit_exit */
	uint64_t handlers;	       /* called by native code */
	uint64_t interpreted;	       /* blocks */
	uint64_t steps;		       /* instructions outside blocks */
	uint64_t finds, map_misses, hash_misses; /* blocks asked for by the loop; not in map; in neither */
	uint64_t compared;			 /* blocks with memory */
	uint64_t decoded_insns;
	uint64_t contexts;   /* changes of the fetch context that made all links stale */
	uint64_t tlb_fills;  /* pages asked for by a walk */
	uint64_t stores;     /* reported: to code, or for the dirty log */
	uint64_t ports, mmio;
	uint64_t faults[32]; /* by vector; the last for all others */
	uint64_t interrupts;
	uint64_t halts;
	uint64_t user_begun, user_given_up, user_lost; /* address spaces that got a runner, ... */
	uint64_t user_runs; /* stretches between two stops */
	uint64_t user_maps; /* pages mapped there */
	uint64_t user_calls, user_faults, user_hidden, user_watched; /* what ended them, beside requests */
	uint64_t user_pauses; /* left to the translator for a while */
	uint64_t *rows; /* handlers by row of the instruction table; NULL: nobody asks. Owned by
			 * stats.c, set by the control thread, never taken away. */
	uint8_t doing; /* enum bt_doing */
};

/* The owner's store is whole for who reads it, and costs no more than an increment. */
static inline void bt_count_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline void bt_count(uint64_t *counter)
{
	bt_count_add(counter, 1);
}

/* What it was doing before. */
static inline uint8_t bt_doing_set(struct bt_stats *stats, uint8_t doing)
{
	uint8_t old = stats->doing;

	__atomic_store_n(&stats->doing, doing, __ATOMIC_RELAXED);
	return old;
}

static inline void bt_count_row(struct bt_stats *stats, unsigned row)
{
	/* Acquire pairs with the release in bt_stats_begin(): the array is zeroed. */
	uint64_t *rows = __atomic_load_n(&stats->rows, __ATOMIC_ACQUIRE);

	if (__builtin_expect(rows != NULL, 0))
		bt_count(&rows[row]);
}
