// SPDX-License-Identifier: Apache-2.0
/*
 * throttle.c - requests wait until they may run.
 *
 * Theory of operation. Each rate is a bucket that leaks: a request pours its bytes or its one in, the average leaks
 * out, and who finds more in it than it holds waits until that much has leaked. A burst is a larger bucket, and
 * where it lasts longer than a second, a second bucket that leaks at the burst's rate keeps it from
 * coming all at once.
 *
 * Reads and writes wait in a queue each, in order. Who drains the disk (a reset, the end) has them all run at once;
 * they are poured in all the same, and who comes later waits for them.
 */
#include "disk/filters/throttle.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/disk_int.h"

#define TENTH 0.1

struct bucket {
	double level, burst_level; /* bytes or operations */
};

struct throttle {
	struct disk disk;
	struct throttle_limits limits;
	struct bucket buckets[THROTTLE_KINDS];
	uint64_t leaked_ns; /* up to then */
	struct disk_req_list queues[2]; /* reads, writes */
	struct loop_timer *timer;
};

static bool is_write(const struct disk_req *req)
{
	return req->op != DISK_READ;
}

/* The others pass. */
static bool is_counted(const struct disk_req *req)
{
	return req->op == DISK_READ || req->op == DISK_WRITE || req->op == DISK_DISCARD ||
	       req->op == DISK_WRITE_ZEROES;
}

/* Does that rate hold for reads, or writes? */
static bool concerns(enum throttle_kind kind, bool write)
{
	unsigned which = kind % 3u;

	return which == 0 || (which == 2) == write;
}

static void leak(struct throttle *t)
{
	uint64_t now = loop_now_ns();
	double seconds = (double)(now - t->leaked_ns) / 1e9;

	t->leaked_ns = now;
	for (unsigned k = 0; k < THROTTLE_KINDS; k++) {
		const struct throttle_rate *r = &t->limits.rates[k];
		struct bucket *b = &t->buckets[k];

		b->level = fmax(0, b->level - (double)r->avg * seconds);
		b->burst_level = fmax(0, b->burst_level - (double)r->max * seconds);
	}
}

/* Seconds until the bucket takes more. */
static double bucket_wait(const struct throttle_rate *r, const struct bucket *b)
{
	double length = r->length_s ? (double)r->length_s : 1, wait, burst = 0;
	double room = r->max ? (double)r->max * length : (double)r->avg * TENTH;

	if (!r->avg)
		return 0;
	wait = (b->level - room) / (double)r->avg;
	if (r->max && length > 1)
		burst = (b->burst_level - (double)r->max * TENTH) / (double)r->max;
	return fmax(0, fmax(wait, burst));
}

static double wait_of(const struct throttle *t, bool write)
{
	double wait = 0;

	for (unsigned k = 0; k < THROTTLE_KINDS; k++)
		if (concerns(k, write))
			wait = fmax(wait, bucket_wait(&t->limits.rates[k], &t->buckets[k]));
	return wait;
}

static void pour(struct throttle *t, const struct disk_req *req)
{
	bool data = req->op == DISK_READ || req->op == DISK_WRITE;
	double bytes = data ? (double)req->len : 0, ops = 1;

	if (t->limits.op_bytes && data)
		ops = ceil(bytes / (double)t->limits.op_bytes);
	for (unsigned k = 0; k < THROTTLE_KINDS; k++) {
		double units = k < THROTTLE_OPS ? bytes : ops;

		if (!concerns(k, is_write(req)))
			continue;
		t->buckets[k].level += units;
		t->buckets[k].burst_level += units;
	}
}

static void let(struct throttle *t, struct disk_req *req)
{
	pour(t, req);
	disk_submit(t->disk.below, req);
}

/* Those whose time has come, reads and writes by turns; and the time of the next. */
static void dispatch(struct throttle *t, bool all)
{
	double wait = INFINITY;
	bool any = true;

	leak(t);
	while (any) {
		any = false;
		for (unsigned w = 0; w < 2; w++) {
			struct disk_req_list *q = &t->queues[w];

			if (!q->head || (!all && wait_of(t, w) > 0))
				continue;
			let(t, disk_req_list_get(q));
			any = true;
		}
	}
	for (unsigned w = 0; w < 2; w++)
		if (t->queues[w].head)
			wait = fmin(wait, wait_of(t, w));
	/* Nobody waits for more than a day without another look. */
	if (isfinite(wait))
		loop_timer_arm(t->timer, t->leaked_ns + (uint64_t)(fmin(wait, 86400) * 1e9) + 1);
}

static void on_time(void *arg)
{
	struct throttle *t = arg;

	dispatch(t, false);
	disk_kick(t->disk.below);
}

struct resize {
	struct disk_req req;
	struct throttle *t;
	struct disk_req *outer;
};

static void resized(struct disk_req *req, int result)
{
	struct resize *r = container_of(req, struct resize, req);
	struct disk_req *outer = r->outer;

	r->t->disk.size_bytes = r->t->disk.below->size_bytes;
	free(r);
	outer->done(outer, result);
}

static void resize(struct throttle *t, struct disk_req *req)
{
	struct resize *r = malloc(sizeof(*r));

	if (!r) {
		req->done(req, -ENOMEM);
		return;
	}
	*r = (struct resize){ .req = *req, .t = t, .outer = req };
	r->req.done = resized;
	disk_submit(t->disk.below, &r->req);
}

static void throttle_submit(struct disk *disk, struct disk_req *req)
{
	struct throttle *t = (struct throttle *)disk;
	struct disk_req_list *q = &t->queues[is_write(req)];

	if (req->op == DISK_RESIZE) {
		resize(t, req);
		return;
	}
	if (!is_counted(req)) {
		disk_submit(t->disk.below, req);
		return;
	}
	leak(t);
	if (!q->head && wait_of(t, is_write(req)) <= 0) {
		let(t, req);
		return;
	}
	disk_req_list_put(q, req);
	dispatch(t, false);
}

static void throttle_drain(struct disk *disk)
{
	struct throttle *t = (struct throttle *)disk;

	do {
		dispatch(t, true);
		disk_drain(t->disk.below);
	} while (t->queues[0].head || t->queues[1].head);
	loop_timer_disarm(t->timer);
}

static void throttle_close(struct disk *disk)
{
	struct throttle *t = (struct throttle *)disk;

	loop_timer_free(t->timer);
	disk_over_fini(disk);
	free(t);
}

static const struct disk_ops throttle_ops = {
	.submit = throttle_submit,
	.drain = throttle_drain,
	.close = throttle_close,
};

struct disk *disk_throttle_new(struct disk *below, const struct throttle_limits *limits,
			       struct loop *loop)
{
	struct throttle *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->timer = loop_timer_new(loop, on_time, t);
	if (!t->timer) {
		free(t);
		return NULL;
	}
	disk_over_init(&t->disk, &throttle_ops, below);
	below->writethrough = false; /* the one on top flushes */
	t->limits = *limits;
	t->leaked_ns = loop_now_ns();
	for (unsigned w = 0; w < 2; w++)
		disk_req_list_init(&t->queues[w]);
	return &t->disk;
}
