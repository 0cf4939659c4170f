// SPDX-License-Identifier: Apache-2.0
/*
 * hold.c - a filter that holds failed requests.
 *
 * A request that may be held goes down as a copy with an iovec of its own, since below it is changed; what the caller
 * gave stays whole for another try. Draining waits for what is under way, and leaves what is held.
 */
#include "disk/filters/hold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "disk/disk_int.h"

#define IOV_ROOM 128u /* of copies that are kept for the next request */

struct copy {
	struct disk_req req;
	struct disk_req *outer; /* the caller's */
	struct hold *hold;
	struct copy *next;
	bool again; /* it was held */
	unsigned room;
	struct iovec iov[];
};

struct hold {
	struct disk disk;
	struct disk_hold_options options;
	struct copy *free;
	struct copy *held;
	struct copy **held_end;
	unsigned trying; /* of those that were held */
	bool is_holding;
};

static void hold_submit(struct disk *disk, struct disk_req *req);

static struct copy *copy_take(struct hold *h, unsigned iov_count)
{
	struct copy *c = h->free;
	unsigned room = iov_count > IOV_ROOM ? iov_count : IOV_ROOM;

	if (c && iov_count <= IOV_ROOM) {
		h->free = c->next;
		return c;
	}
	c = malloc(sizeof(*c) + room * sizeof(c->iov[0]));
	if (c)
		c->room = room;
	return c;
}

static void copy_give(struct hold *h, struct copy *c)
{
	if (c->room > IOV_ROOM) {
		free(c);
		return;
	}
	c->next = h->free;
	h->free = c;
}

static enum disk_on_error policy(const struct hold *h, enum disk_op op)
{
	if (op == DISK_READ)
		return h->options.on_read;
	return op == DISK_MAP || op == DISK_RESIZE ? DISK_ERROR_REPORT : h->options.on_write;
}

static bool is_held(const struct hold *h, enum disk_op op, int error)
{
	enum disk_on_error p = policy(h, op);

	return p == DISK_ERROR_STOP || (p == DISK_ERROR_ENOSPC && (error == -ENOSPC || error == -EDQUOT));
}

/* All that was tried again has ended. */
static void tried(struct hold *h)
{
	if (h->trying || h->held || !h->is_holding)
		return;
	h->is_holding = false;
	h->options.changed(h->options.arg, 0);
}

static void hold(struct hold *h, struct copy *c, int error)
{
	bool first = !h->is_holding;

	c->next = NULL;
	*h->held_end = c;
	h->held_end = &c->next;
	h->is_holding = true;
	if (first)
		h->options.changed(h->options.arg, -error);
}

static void copy_done(struct disk_req *req, int result)
{
	struct copy *c = container_of(req, struct copy, req);
	struct hold *h = c->hold;
	struct disk_req *outer = c->outer;
	bool again = c->again;

	if (again)
		h->trying--;
	if (result < 0 && is_held(h, outer->op, result)) {
		hold(h, c, result);
		return;
	}
	if (result < 0 && policy(h, outer->op) == DISK_ERROR_IGNORE)
		result = 0;
	outer->map = req->map;
	if (outer->op == DISK_RESIZE)
		h->disk.size_bytes = h->disk.below->size_bytes;
	copy_give(h, c);
	outer->done(outer, result);
	if (again)
		tried(h);
}

static void copy_submit(struct hold *h, struct copy *c)
{
	const struct disk_req *outer = c->outer;

	c->req = (struct disk_req){
		.op = outer->op,
		.unmap = outer->unmap,
		.compress = outer->compress,
		.offset = outer->offset,
		.len = outer->len,
		.iov = c->iov,
		.iov_count = outer->iov_count,
		.done = copy_done,
	};
	if (outer->iov_count)
		memcpy(c->iov, outer->iov, outer->iov_count * sizeof(c->iov[0]));
	h->disk.below->ops->submit(h->disk.below, &c->req);
}

static void hold_submit(struct disk *disk, struct disk_req *req)
{
	struct hold *h = (struct hold *)disk;
	bool has_data = req->op == DISK_READ || req->op == DISK_WRITE;
	struct copy *c;

	if (policy(h, req->op) == DISK_ERROR_REPORT && req->op != DISK_RESIZE) {
		h->disk.below->ops->submit(h->disk.below, req);
		return;
	}
	if (!has_data)
		req->iov_count = 0;
	c = copy_take(h, req->iov_count);
	if (!c) {
		req->done(req, -ENOMEM);
		return;
	}
	c->outer = req;
	c->hold = h;
	c->again = false;
	copy_submit(h, c);
}

void disk_hold_retry(struct disk *disk)
{
	struct hold *h = (struct hold *)disk;
	struct copy *c;

	/* One try at a time. */
	if (disk->ops->submit != hold_submit || h->trying || !h->held)
		return;
	c = h->held;
	h->held = NULL;
	h->held_end = &h->held;
	for (struct copy *i = c; i; i = i->next) {
		i->again = true;
		h->trying++;
	}
	while (c) {
		struct copy *next = c->next;

		copy_submit(h, c);
		c = next;
	}
	disk_kick(h->disk.below);
}

void disk_hold_forget(struct disk *disk)
{
	struct hold *h = (struct hold *)disk;

	if (disk->ops->submit != hold_submit)
		return;
	while (h->held) {
		struct copy *c = h->held;

		h->held = c->next;
		copy_give(h, c);
	}
	h->held_end = &h->held;
	h->is_holding = false;
}

static void hold_close(struct disk *disk)
{
	struct hold *h = (struct hold *)disk;

	disk_hold_forget(disk);
	while (h->free) {
		struct copy *c = h->free;

		h->free = c->next;
		free(c);
	}
	disk_over_fini(disk);
	free(h);
}

static const struct disk_ops hold_ops = {
	.submit = hold_submit,
	.close = hold_close,
};

struct disk *disk_hold_new(struct disk *below, const struct disk_hold_options *options)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	disk_over_init(&h->disk, &hold_ops, below);
	h->options = *options;
	h->held_end = &h->held;
	return &h->disk;
}

bool disk_on_error_parse(const char *name, enum disk_on_error *ret)
{
	static const char *const names[] = {
		[DISK_ERROR_REPORT] = "report",
		[DISK_ERROR_IGNORE] = "ignore",
		[DISK_ERROR_STOP] = "stop",
		[DISK_ERROR_ENOSPC] = "enospc",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
		if (strcmp(name, names[i]))
			continue;
		*ret = (enum disk_on_error)i;
		return true;
	}
	return false;
}
