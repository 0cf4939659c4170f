// SPDX-License-Identifier: Apache-2.0
/* stats.c - counting requests on their way to a disk, and back. */
#include "disk/filters/stats.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/disk_int.h"

struct entry {
	struct disk_req req;
	struct stats *stats;
	struct disk_req *outer;
	uint64_t start_ns;
	struct entry *next; /* spare */
};

struct stats {
	struct disk disk;
	struct entry *spare;
	struct disk_stats counts; /* written by the disk's thread, read by any, both by words */
};

const char *const disk_stats_names[DISK_STATS_KINDS] = { "read", "write", "flush", "discard", "zeroes" };

static void count(uint64_t *n, uint64_t more)
{
	/* One thread writes; the order in which others see it does not matter. */
	__atomic_store_n(n, *n + more, __ATOMIC_RELAXED);
}

/* Others are not counted. */
static bool kind_of(enum disk_op op, enum disk_stats_kind *ret)
{
	static const enum disk_stats_kind kinds[] = {
		[DISK_READ] = DISK_STATS_READ,	     [DISK_WRITE] = DISK_STATS_WRITE,
		[DISK_FLUSH] = DISK_STATS_FLUSH,     [DISK_DISCARD] = DISK_STATS_DISCARD,
		[DISK_WRITE_ZEROES] = DISK_STATS_ZEROES,
	};

	if (op >= G_N_ELEMENTS(kinds))
		return false;
	*ret = kinds[op];
	return true;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned bit = ns ? 63u - (unsigned)__builtin_clzll(ns) : 0;

	return MIN(bit, DISK_STATS_BUCKETS - 1);
}

static void over(struct disk_req *req, int result)
{
	struct entry *e = container_of(req, struct entry, req);
	struct stats *s = e->stats;
	struct disk_req *outer = e->outer;
	uint64_t ns = loop_now_ns() - e->start_ns;
	enum disk_stats_kind kind;

	if (kind_of(outer->op, &kind)) {
		struct disk_stats_of *of = &s->counts.of[kind];

		count(&of->ops, 1);
		count(&of->bytes, result == 0 && outer->op != DISK_FLUSH ? outer->len : 0);
		count(&of->errors, result < 0);
		count(&of->time_ns, ns);
		count(&of->buckets[bucket_of(ns)], 1);
	}
	count(&s->counts.under_way, UINT64_MAX); /* one less */
	outer->map = req->map;
	s->disk.size_bytes = s->disk.below->size_bytes; /* a resize */
	e->next = s->spare;
	s->spare = e;
	outer->done(outer, result);
}

static void stats_submit(struct disk *disk, struct disk_req *req)
{
	struct stats *s = (struct stats *)disk;
	struct entry *e = s->spare;

	if (e)
		s->spare = e->next;
	else
		e = malloc(sizeof(*e));
	if (!e) {
		req->done(req, -ENOMEM);
		return;
	}
	e->req = *req;
	e->req.done = over;
	e->stats = s;
	e->outer = req;
	e->start_ns = loop_now_ns();
	count(&s->counts.under_way, 1);
	disk_submit(s->disk.below, &e->req);
}

static void stats_close(struct disk *disk)
{
	struct stats *s = (struct stats *)disk;
	struct entry *e;

	disk_over_fini(disk);
	while ((e = s->spare)) {
		s->spare = e->next;
		free(e);
	}
	free(s);
}

static const struct disk_ops stats_ops = {
	.submit = stats_submit,
	.close = stats_close,
};

struct disk *disk_stats_new(struct disk *below)
{
	struct stats *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	disk_over_init(&s->disk, &stats_ops, below);
	below->writethrough = false; /* the one on top flushes */
	return &s->disk;
}

void disk_stats_get(const struct disk *disk, struct disk_stats *ret)
{
	const struct stats *s = (const struct stats *)disk;
	const uint64_t *from = (const uint64_t *)(const void *)&s->counts;
	uint64_t *to = (uint64_t *)(void *)ret;

	static_assert(sizeof(struct disk_stats) % sizeof(uint64_t) == 0, "copied by words");
	for (size_t i = 0; i < sizeof(*ret) / sizeof(*to); i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
