// SPDX-License-Identifier: Apache-2.0
/*
 * moment.c - copy before write.
 *
 * The disk is cut into grains. A change to grains that are not copied runs in a fiber: it waits until it has them
 * alone, copies those that nobody has copied meanwhile, and only then goes on to the disk. A read by the view shares
 * the grains that it reads with other reads, so that no change to them gets through while it looks at the disk.
 * Changes to what is copied, reads, and everything without a view, pass as they are.
 */
#include "disk/filters/moment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "disk/disk_int.h"
#include "disk/ranges.h"
#include "disk/segments.h"
#include "disk/serving.h"

#define GRAIN	 DISK_MOMENT_GRAIN
#define MAX_COPY (16u * GRAIN) /* bytes under way for one change, and for one read of the view */

struct moment;

struct view {
	struct disk disk;
	struct moment *moment;
	struct disk *store; /* owned */
	uint8_t *copied;    /* a bit for each grain */
	uint64_t grains;
	bool is_broken; /* something could not be copied */
	struct range *ranges;
	struct serving serving; /* changes that copy, and reads */
};

struct moment {
	struct disk disk;
	struct view *view; /* NULL: none */
	struct disk_req resize;
	struct disk_req *resize_outer;
};

static bool is_copied(const struct view *v, uint64_t grain)
{
	return v->copied[grain / 8] & 1u << grain % 8;
}

static uint64_t bytes_of(const struct view *v, uint64_t first, uint64_t last)
{
	uint64_t start = first * GRAIN, end = (last + 1) * GRAIN;

	return MIN(end, v->disk.size_bytes) - start;
}

static void give_up(struct view *v, int r)
{
	if (!v->is_broken)
		log_warn("disk '%s': what it held before cannot be kept any more: %s", v->disk.path,
			 g_strerror(-r));
	v->is_broken = true;
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return !*p && !memcmp(p, p + 1, len - 1);
}

/* ---- changes ---- */

/* These grains are the caller's alone, and not copied. The store reads as zeros where nothing was written. */
static void copy_run(struct view *v, uint64_t first, uint64_t last)
{
	uint64_t len = bytes_of(v, first, last);
	uint8_t *bytes = malloc(len);
	int r = -ENOMEM;

	if (bytes)
		r = serving_io(&v->serving, v->moment->disk.below, DISK_READ, bytes, len, first * GRAIN);
	if (r == 0 && !is_zero(bytes, len))
		r = serving_io(&v->serving, v->store, DISK_WRITE, bytes, len, first * GRAIN);
	free(bytes);
	if (r < 0)
		give_up(v, r);
	for (uint64_t i = first; i <= last; i++)
		v->copied[i / 8] |= (uint8_t)(1u << i % 8);
}

static void copy_all(struct view *v, uint64_t first, uint64_t last)
{
	for (uint64_t i = first; i <= last && !v->is_broken; i++) {
		uint64_t end = i;

		if (is_copied(v, i))
			continue;
		while (end < last && end - i + 1 < MAX_COPY / GRAIN && !is_copied(v, end + 1))
			end++;
		copy_run(v, i, end);
		i = end;
	}
}

/* What the request changes of that which the view shows; false: nothing that is not copied. */
static bool must_copy(const struct view *v, const struct disk_req *req, uint64_t *ret_first,
		      uint64_t *ret_last)
{
	uint64_t end = MIN(req->offset + req->len, v->disk.size_bytes);

	if (v->is_broken || req->offset >= end)
		return false;
	*ret_first = req->offset / GRAIN;
	*ret_last = (end - 1) / GRAIN;
	for (uint64_t i = *ret_first; i <= *ret_last; i++)
		if (!is_copied(v, i))
			return true;
	return false;
}

static int copy_and_pass(struct disk *view, struct disk_req *req)
{
	struct view *v = (struct view *)view;
	struct disk *below = v->moment->disk.below;
	struct range range = { .alone = true };

	if (must_copy(v, req, &range.first, &range.last)) {
		range_enter(&v->serving.fibers, &v->ranges, &range);
		copy_all(v, range.first, range.last);
		range_leave(&v->ranges, &range);
	}
	below->ops->submit(below, req);
	if (!v->serving.submitting)
		disk_kick(below);
	return SERVING_PASSED;
}

static void change(struct view *v, struct disk_req *req)
{
	struct disk *below = v->moment->disk.below;

	if (serving_start(&v->serving, copy_and_pass, &v->disk, req) == 0)
		return;
	give_up(v, -ENOMEM);
	below->ops->submit(below, req);
}

/* ---- the filter ---- */

static void resized(struct disk_req *req, int result)
{
	struct moment *m = container_of(req, struct moment, resize);

	m->disk.size_bytes = m->disk.below->size_bytes;
	m->resize_outer->done(m->resize_outer, result);
}

static void moment_submit(struct disk *disk, struct disk_req *req)
{
	struct moment *m = (struct moment *)disk;
	bool changes = req->op == DISK_WRITE || req->op == DISK_DISCARD || req->op == DISK_WRITE_ZEROES;
	uint64_t first, last;

	if (req->op == DISK_RESIZE) {
		/* Nothing else is under way, another one neither. */
		m->resize_outer = req;
		m->resize = (struct disk_req){ .op = DISK_RESIZE, .offset = req->offset, .done = resized };
		m->disk.below->ops->submit(m->disk.below, &m->resize);
	} else if (m->view && changes && must_copy(m->view, req, &first, &last)) {
		change(m->view, req);
	} else {
		m->disk.below->ops->submit(m->disk.below, req);
	}
}

static void each_below(struct disk *disk, void (*fn)(struct disk *below))
{
	struct moment *m = (struct moment *)disk;

	if (m->view)
		fn(m->view->store);
	fn(disk->below);
}

static void moment_kick(struct disk *disk)
{
	each_below(disk, disk_kick);
}

static void moment_drain(struct disk *disk)
{
	struct moment *m = (struct moment *)disk;

	if (m->view)
		serving_drain(&m->view->serving, disk, each_below);
	/* What the last fibers have handed on. */
	disk_drain(disk->below);
}

static void moment_close(struct disk *disk)
{
	disk_over_fini(disk);
	free(disk);
}

static const struct disk_ops moment_ops = {
	.submit = moment_submit,
	.kick = moment_kick,
	.drain = moment_drain,
	.close = moment_close,
};

struct disk *disk_moment_new(struct disk *below)
{
	struct moment *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	disk_over_init(&m->disk, &moment_ops, below);
	return &m->disk;
}

/* ---- the view ---- */

/* How far grains go on being copied, or not, as that of @at is; at most to @end, and @max bytes. */
static uint64_t alike_until(const struct view *v, uint64_t at, uint64_t end, uint64_t max)
{
	uint64_t grain = at / GRAIN, stop = max < end - at ? at + max : end;
	bool copied = is_copied(v, grain);

	do {
		grain++;
	} while (grain * GRAIN < stop && is_copied(v, grain) == copied);
	return MIN(grain * GRAIN, stop);
}

static int read_all(struct view *v, struct disk_req *req)
{
	struct segments to = { .iov = req->iov, .count = req->iov_count };
	uint64_t at = req->offset, end = req->offset + req->len;
	uint8_t *bytes = malloc(MIN(req->len, MAX_COPY));
	int r = bytes ? 0 : -ENOMEM;

	while (at < end && r == 0) {
		uint64_t until = alike_until(v, at, end, MAX_COPY);
		struct disk *from = is_copied(v, at / GRAIN) ? v->store : v->moment->disk.below;

		r = serving_io(&v->serving, from, DISK_READ, bytes, until - at, at);
		if (r == 0)
			segments_fill(&to, bytes, until - at);
		at = until;
	}
	free(bytes);
	return v->is_broken ? -EIO : r;
}

static int map(struct view *v, struct disk_req *req)
{
	uint64_t until = alike_until(v, req->offset, req->offset + req->len, req->len);
	struct disk *from = is_copied(v, req->offset / GRAIN) ? v->store : v->moment->disk.below;
	struct disk_req below = { .op = DISK_MAP, .offset = req->offset, .len = until - req->offset };
	int r = serving_run(&v->serving, from, &below);

	req->map = below.map;
	req->map.depth = 0;
	req->map.host_offset = DISK_NO_OFFSET;
	return v->is_broken ? -EIO : r;
}

static int look(struct disk *view, struct disk_req *req)
{
	struct view *v = (struct view *)view;
	struct range range = { .first = req->offset / GRAIN,
			       .last = (req->offset + req->len - 1) / GRAIN };
	int r;

	range_enter(&v->serving.fibers, &v->ranges, &range);
	r = req->op == DISK_READ ? read_all(v, req) : map(v, req);
	range_leave(&v->ranges, &range);
	return r;
}

static void view_submit(struct disk *disk, struct disk_req *req)
{
	if (req->op == DISK_READ || req->op == DISK_MAP)
		serving_submit(&((struct view *)disk)->serving, look, disk, req);
	else
		req->done(req, req->op == DISK_FLUSH ? 0 : -EOPNOTSUPP);
}

static void view_kick(struct disk *disk)
{
	moment_kick(&((struct view *)disk)->moment->disk);
}

static void view_drain(struct disk *disk)
{
	moment_drain(&((struct view *)disk)->moment->disk);
}

/* disk_close() has drained: no fiber is left. */
static void view_close(struct disk *disk)
{
	struct view *v = (struct view *)disk;

	v->moment->view = NULL;
	serving_fini(&v->serving);
	disk_close(v->store);
	free(v->copied);
	g_free(disk->path);
	free(v);
}

static const struct disk_ops view_ops = {
	.submit = view_submit,
	.kick = view_kick,
	.drain = view_drain,
	.close = view_close,
};

int disk_moment_take(struct disk *moment, struct disk *store, struct disk **ret_view)
{
	struct moment *m = (struct moment *)moment;
	uint64_t grains = (moment->size_bytes + GRAIN - 1) / GRAIN;
	struct view *v;

	if (moment->ops != &moment_ops || store->size_bytes < moment->size_bytes)
		return -EINVAL;
	if (m->view)
		return -EBUSY;
	v = calloc(1, sizeof(*v));
	if (!v || !(v->copied = calloc(1, grains / 8 + 1))) {
		free(v);
		return -ENOMEM;
	}
	v->disk = (struct disk){ .ops = &view_ops,
				 .format = "moment",
				 .path = g_strdup(moment->path),
				 .size_bytes = moment->size_bytes,
				 .block_bytes = moment->block_bytes,
				 .readonly = true };
	v->moment = m;
	v->store = store;
	v->grains = grains;
	m->view = v;
	*ret_view = &v->disk;
	return 0;
}
