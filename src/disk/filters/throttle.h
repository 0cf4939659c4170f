// SPDX-License-Identifier: Apache-2.0
/*
 * throttle.h - how fast a disk may be used.
 *
 * Each rate has an average, and may have a burst: up to @max a second for @length_s seconds, after which
 * the average is all there is until there was less to do. Without a burst a tenth of a second's worth may come
 * at once. Rates of all, of reading and of writing stand beside each other, each holds.
 *
 * Discarding and writing zeros are operations of writing without bytes. Flushes pass. Any size of a request is
 * let through once those before it are paid for, so that the average is kept in the long run.
 */
#pragma once

#include "disk/disk.h"

enum throttle_kind {
	THROTTLE_BYTES,
	THROTTLE_BYTES_READ,
	THROTTLE_BYTES_WRITE,
	THROTTLE_OPS,
	THROTTLE_OPS_READ,
	THROTTLE_OPS_WRITE,
	THROTTLE_KINDS,
};

struct throttle_rate {
	uint64_t avg;	   /* bytes or operations a second; 0: no limit */
	uint64_t max;	   /* 0: no burst, else at least avg */
	uint64_t length_s; /* of a burst; 0: 1 */
};

struct throttle_limits {
	struct throttle_rate rates[THROTTLE_KINDS];
	uint64_t op_bytes; /* a request counts once for each so many bytes; 0: once */
};

/* Takes over @below when it succeeds. NULL: no memory. */
struct disk *disk_throttle_new(struct disk *below, const struct throttle_limits *limits,
			       struct loop *loop);
