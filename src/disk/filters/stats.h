// SPDX-License-Identifier: Apache-2.0
/*
 * stats.h - what a disk was used for, and how long that took.
 *
 * The disk's thread counts; any thread may look, without a lock. A look in the middle of a count may see
 * one of two numbers that belong together before the other.
 */
#pragma once

#include "disk/disk.h"

enum disk_stats_kind {
	DISK_STATS_READ,
	DISK_STATS_WRITE,
	DISK_STATS_FLUSH,
	DISK_STATS_DISCARD,
	DISK_STATS_ZEROES,
	DISK_STATS_KINDS,
};

#define DISK_STATS_BUCKETS 40u

struct disk_stats_of {
	uint64_t ops, bytes, errors; /* ops: that are over, with those that failed */
	uint64_t time_ns; /* of all of them, from submission to completion */
	uint64_t buckets[DISK_STATS_BUCKETS]; /* [i]: ops of 2^i..2^(i+1)-1 ns; longer ones in the last */
};

struct disk_stats {
	struct disk_stats_of of[DISK_STATS_KINDS];
	uint64_t under_way;
};

extern const char *const disk_stats_names[DISK_STATS_KINDS];

/* A node over @below, which it takes over when it succeeds. NULL: no memory. */
struct disk *disk_stats_new(struct disk *below);
/* @disk: what disk_stats_new() gave, open. */
void disk_stats_get(const struct disk *disk, struct disk_stats *ret);
