/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * tag.h - numbers that tell one vCPU's translations from another's in the TLB of a CPU: AMD's ASID (APM vol. 2,
 * 15.16), Intel's VPID (SDM vol. 3, 28.1).
 *
 * Each CPU gives out its own. A fresh one knows no translation, so a vCPU forgets its own by taking another;
 * when none is left all are forgotten, and a generation of them starts. Generations are never given again.
 */
#pragma once

#include <linux/types.h>

struct tag_pool {
	u64 generation; /* 0: not started */
	u32 next, max;
};

struct tag {
	u64 generation; /* of the CPU it last ran on; 0: none */
	u32 number;
};

#define TAG_FIRST 1u

/* The first one asked for starts a generation. */
static inline void tag_pool_start(struct tag_pool *pool, u32 max)
{
	pool->max = max;
	pool->next = max + 1;
}

/* True: all translations of this CPU are to be forgotten before @tag is used. */
static inline bool tag_renew(struct tag_pool *pool, struct tag *tag)
{
	bool all = pool->next > pool->max;

	if (all) {
		pool->generation++;
		pool->next = TAG_FIRST;
	}
	tag->generation = pool->generation;
	tag->number = pool->next++;
	return all;
}
