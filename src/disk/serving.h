// SPDX-License-Identifier: Apache-2.0
/*
 * serving.h - nodes that serve each request in a fiber of its own.
 *
 * Embedded by the node. All calls are the disk's thread's.
 */
#pragma once

#include "disk/disk.h"
#include "disk/fiber.h"

/* All zeros to begin with. */
struct serving {
	struct fiber_pool fibers;
	unsigned under_way; /* requests in fibers */
	bool submitting; /* who submits to the node kicks it later, which it hands on: nobody else need kick */
};

/* What a request's fiber does: 0 or -errno, or SERVING_PASSED. It is not looked at again then. */
typedef int (*serving_fn)(struct disk *disk, struct disk_req *req);

/* The request was given to another node, which completes it. */
#define SERVING_PASSED 1

/* Run @fn for @req in a fiber, and complete it. 0, or -ENOMEM: nothing has happened. */
int serving_start(struct serving *s, serving_fn fn, struct disk *disk, struct disk_req *req);
/* The same; without memory the request has failed. */
void serving_submit(struct serving *s, serving_fn fn, struct disk *disk, struct disk_req *req);
/* Drain the nodes below, for each of which @each calls what it is given, until no request is in a fiber. */
void serving_drain(struct serving *s, struct disk *disk,
		   void (*each)(struct disk *disk, void (*fn)(struct disk *below)));
/* No request is under way. */
void serving_fini(struct serving *s);

/* Requests below, waited for as disk_wait() does. */
int serving_run(struct serving *s, struct disk *below, struct disk_req *req);
/* Bytes to or from one piece of memory, or an operation without any. */
int serving_io(struct serving *s, struct disk *below, enum disk_op op, void *bytes, uint64_t len,
	       uint64_t offset);
