// SPDX-License-Identifier: Apache-2.0
/*
 * blocks_data.c - reading, writing, zeroing and discarding in images of blocks (blocks.h).
 *
 * What has a place is read and written there. For what has none, places are taken, filled up with
 * what was to be seen before, and named in the table when all of it is written.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/blocks.h"

#define VECTOR	    128u
#define MAX_AT_ONCE (16u << 20) /* of new blocks of one request, in a row */

/* Move up to @len bytes of @v, at most @max segments, into @out. */
static unsigned iov_take(struct blocks_iov *v, uint64_t len, struct iovec *out, unsigned max,
			 uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	unsigned n = 0;

	while (bytes < len && n < max && v->count) {
		uint64_t part = MIN(len - bytes, v->iov->iov_len - v->skip);

		if (part)
			out[n++] = (struct iovec){ (char *)v->iov->iov_base + v->skip, part };
		bytes += part;
		v->skip += part;
		if (v->skip == v->iov->iov_len) {
			v->iov++;
			v->count--;
			v->skip = 0;
		}
	}
	*ret_bytes = bytes;
	return n;
}

static int child_io(struct blocks *b, struct disk *disk, enum disk_op op, uint64_t offset,
		    uint64_t len, struct blocks_iov *v)
{
	while (len > 0) {
		struct iovec iov[VECTOR];
		struct disk_req req = { .op = op, .offset = offset, .iov = iov };
		int r;

		req.iov_count = iov_take(v, len, iov, VECTOR, &req.len);
		if (req.len == 0)
			return -EINVAL; /* segments that do not make up the length */
		offset += req.len;
		len -= req.len;
		r = blocks_io(b, disk, &req);
		if (r < 0)
			return r;
	}
	return 0;
}

/* @from: NULL: zeros. */
static void fill(struct blocks_iov *to, const uint8_t *from, uint64_t len)
{
	while (len > 0) {
		struct iovec part;
		uint64_t n;

		/* No segments are left only by a mistake of ours. */
		if (iov_take(to, len, &part, 1, &n) == 0)
			return;
		if (from)
			memcpy(part.iov_base, from, n);
		else
			memset(part.iov_base, 0, n);
		from = from ? from + n : NULL;
		len -= n;
	}
}

/* The file as far as it goes, and zeros where it ends inside of a block. */
static int read_data(struct blocks *b, struct disk *from, uint64_t offset, uint64_t len,
		     struct blocks_iov *to)
{
	uint64_t size = from ? from->size_bytes : 0;
	uint64_t inside = offset < size ? MIN(len, size - offset) : 0;
	int r = inside ? child_io(b, from, DISK_READ, offset, inside, to) : 0;

	if (r == 0)
		fill(to, NULL, len - inside);
	return r;
}

static int read_packed(struct blocks *b, uint64_t host, uint64_t offset, uint64_t len,
		       struct blocks_iov *to)
{
	int r = 0;

	fiber_lock(&b->fibers, &b->meta);
	if (!b->unpacked && !(b->unpacked = g_try_malloc(b->block_bytes)))
		r = -ENOMEM;
	if (r == 0 && b->unpacked_host != host) {
		b->unpacked_host = 0;
		r = b->ops->unpack(b, offset / b->block_bytes, host);
		b->unpacked_host = r == 0 ? host : 0;
	}
	if (r == 0)
		fill(to, b->unpacked + offset % b->block_bytes, len);
	fiber_unlock(&b->meta);
	return r;
}

int blocks_read(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_iov *to)
{
	while (len > 0) {
		struct blocks_extent e;
		int r = blocks_lookup(b, offset, len, &e);

		if (r < 0)
			return r;
		switch (e.place.kind) {
		case BLOCKS_DATA:
			r = read_data(b, e.in, e.place.host, e.len, to);
			break;
		case BLOCKS_PACKED:
			r = read_packed(b, e.place.host, offset, e.len, to);
			break;
		case BLOCKS_ABSENT:
			r = read_data(b, b->parent, offset, e.len, to);
			break;
		case BLOCKS_ZERO:
			fill(to, NULL, e.len);
			break;
		}
		if (r < 0)
			return r;
		offset += e.len;
		len -= e.len;
	}
	return 0;
}

static void range_enter(struct blocks *b, struct blocks_range *range)
{
	for (;;) {
		struct blocks_range *r = b->ranges;

		while (r && (r->first > range->last || range->first > r->last))
			r = r->next;
		if (!r)
			break;
		fiber_queue_wait(&b->fibers, &r->waiting);
	}
	range->next = b->ranges;
	b->ranges = range;
}

static void range_leave(struct blocks *b, struct blocks_range *range)
{
	struct blocks_range **p = &b->ranges;

	while (*p != range)
		p = &(*p)->next;
	*p = range->next;
	while (fiber_queue_wake(&range->waiting))
		;
}

/* A write to blocks that have no place, as it goes on. */
struct placing {
	uint64_t offset, len; /* what is written */
	uint64_t first, count; /* blocks */
	uint64_t host; /* of the first of them */
	bool below; /* what is not written comes from the parent */
};

static int take_end(struct blocks *b, uint64_t count, uint64_t *ret_host, uint64_t *ret_count)
{
	uint64_t host = align_up(b->end, b->place_align);

	if (!b->file->growable && host + count * b->block_bytes > b->file->size_bytes)
		return -ENOSPC;
	b->end = host + count * b->block_bytes;
	*ret_host = host;
	*ret_count = count;
	return 0;
}

/* b->meta held. */
static int take_places(struct blocks *b, struct placing *p)
{
	int r = blocks_change(b);

	if (r == 0)
		r = (b->ops->take ? b->ops->take : take_end)(b, p->count, &p->host, &p->count);
	if (r == 0 && b->ops->prepare)
		r = b->ops->prepare(b, p->host);
	p->len = MIN(p->len, (p->first + p->count) * b->block_bytes - p->offset);
	return r;
}

static int zero_file(struct blocks *b, uint64_t at, uint64_t len)
{
	struct disk_req req = { .op = DISK_WRITE_ZEROES, .offset = at, .len = len, .unmap = true };

	return len ? blocks_io(b, b->file, &req) : 0;
}

/* What the parent shows of the blocks at @offset of the disk goes to @host. */
static int copy_below(struct blocks *b, uint64_t offset, uint64_t len, uint64_t host)
{
	g_autofree uint8_t *bytes = len ? g_try_malloc(len) : NULL;
	struct iovec iov = { bytes, len };
	struct blocks_iov v = { &iov, 1, 0 };
	int r;

	if (len == 0)
		return 0;
	r = bytes ? read_data(b, b->parent, offset, len, &v) : -ENOMEM;
	return r < 0 ? r : blocks_file_write(b, bytes, len, host);
}

/* The parts of the first and the last block that are not written. */
static int fill_up(struct blocks *b, const struct placing *p)
{
	uint64_t start = p->first * b->block_bytes, head = p->offset - start;
	uint64_t end = start + p->count * b->block_bytes, tail = end - p->offset - p->len;
	int r = 0;

	if (p->below) {
		r = copy_below(b, start, head, p->host);
		return r < 0 ? r
			     : copy_below(b, end - tail, tail,
					  p->host + p->count * b->block_bytes - tail);
	}
	/* Beyond what was in use before, the file is a hole. */
	if (p->host >= b->stale_end)
		return 0;
	r = zero_file(b, p->host, head);
	return r < 0 ? r : zero_file(b, p->host + p->count * b->block_bytes - tail, tail);
}

/* b->meta held. */
static int name_places(struct blocks *b, const struct placing *p)
{
	int r = 0;

	for (uint64_t i = 0; i < p->count && r == 0; i++) {
		struct blocks_place place = { BLOCKS_DATA, p->host + i * b->block_bytes };

		r = blocks_set(b, p->first + i, place);
	}
	return r;
}

/* All of it, within blocks of one kind that have no place. *len comes back smaller. */
static int write_new(struct blocks *b, uint64_t offset, uint64_t *len, bool below,
		     struct blocks_iov *from)
{
	struct placing p = {
		.offset = offset, .len = *len, .first = offset / b->block_bytes, .below = below
	};
	int r;

	p.count = (offset + p.len - 1) / b->block_bytes - p.first + 1;
	fiber_lock(&b->fibers, &b->meta);
	r = take_places(b, &p);
	fiber_unlock(&b->meta);
	if (r == 0)
		r = fill_up(b, &p);
	if (r == 0)
		r = child_io(b, b->file, DISK_WRITE, p.host + (offset - p.first * b->block_bytes),
			     p.len, from);
	fiber_lock(&b->fibers, &b->meta);
	if (r == 0)
		r = name_places(b, &p);
	fiber_unlock(&b->meta);
	*len = p.len;
	return r;
}

/* A whole new block, packed. The range is the caller's. */
static int write_packed(struct blocks *b, uint64_t offset, uint64_t *len, struct blocks_iov *from)
{
	g_autofree uint8_t *bytes = g_try_malloc0(b->block_bytes);
	struct blocks_place place = { BLOCKS_PACKED, 0 };
	uint64_t n = MIN(b->block_bytes, b->disk.size_bytes - offset), at = 0;
	int r;

	if (!bytes)
		return -ENOMEM;
	if (offset % b->block_bytes || *len < n)
		return -EOPNOTSUPP;
	while (at < n) {
		struct iovec part;
		uint64_t took;

		if (iov_take(from, n - at, &part, 1, &took) == 0)
			return -EINVAL;
		memcpy(bytes + at, part.iov_base, took);
		at += took;
	}
	*len = n;
	fiber_lock(&b->fibers, &b->meta);
	r = blocks_change(b);
	if (r == 0)
		r = b->ops->pack(b, offset / b->block_bytes, bytes, &place.host);
	if (r == 0)
		r = blocks_set(b, offset / b->block_bytes, place);
	fiber_unlock(&b->meta);
	return r;
}

/* Somebody may have given places to some of them meanwhile: as far as they are all alike. */
static int write_alone(struct blocks *b, uint64_t offset, uint64_t *len, struct blocks_iov *from)
{
	struct blocks_extent e;
	int r = blocks_lookup(b, offset, *len, &e);

	if (r < 0)
		return r;
	*len = e.len;
	if (e.place.kind == BLOCKS_DATA)
		return child_io(b, e.in, DISK_WRITE, e.place.host, e.len, from);
	if (e.place.kind == BLOCKS_PACKED)
		return -EOPNOTSUPP; /* such an image is written once */
	if (b->pack_only)
		return write_packed(b, offset, len, from);
	return write_new(b, offset, len, e.place.kind == BLOCKS_ABSENT && b->parent, from);
}

int blocks_write(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_iov *from)
{
	while (len > 0) {
		struct blocks_range range = { .first = offset / b->block_bytes };
		struct blocks_extent e;
		uint64_t n = MIN(len, MAX_AT_ONCE);
		int r = blocks_lookup(b, offset, n, &e);

		if (r < 0)
			return r;
		n = e.len;
		if (e.place.kind == BLOCKS_DATA) {
			r = child_io(b, e.in, DISK_WRITE, e.place.host, n, from);
		} else {
			range.last = (offset + n - 1) / b->block_bytes;
			range_enter(b, &range);
			r = b->broken ? -EIO : write_alone(b, offset, &n, from);
			range_leave(b, &range);
		}
		if (r < 0)
			return r;
		offset += n;
		len -= n;
	}
	return 0;
}

static int write_zeros_over_parent(struct blocks *b, uint64_t offset, uint64_t len)
{
	static const uint8_t zeros[64u << 10];
	int r = 0;

	while (len > 0 && r == 0) {
		uint64_t n = MIN(len, sizeof(zeros));
		struct iovec iov = { (void *)zeros, n };
		struct blocks_iov v = { &iov, 1, 0 };

		r = blocks_write(b, offset, n, &v);
		offset += n;
		len -= n;
	}
	return r;
}

/* Zeros, or a discard: what has a place keeps it and becomes a hole in the host's file. */
int blocks_empty(struct blocks *b, const struct disk_req *req)
{
	uint64_t offset = req->offset, len = req->len;
	int r = b->pack_only ? -EOPNOTSUPP : 0;

	while (len > 0 && r == 0) {
		struct disk_req below = { .op = req->op, .unmap = req->unmap };
		struct blocks_extent e;

		r = blocks_lookup(b, offset, len, &e);
		if (r < 0)
			return r;
		below.offset = e.place.host;
		below.len = e.len;
		if (e.place.kind == BLOCKS_DATA)
			r = blocks_io(b, e.in, &below);
		else if (e.place.kind == BLOCKS_ABSENT && b->parent && req->op == DISK_WRITE_ZEROES)
			r = write_zeros_over_parent(b, offset, e.len);
		else if (e.place.kind == BLOCKS_PACKED)
			r = -EOPNOTSUPP;
		offset += e.len;
		len -= e.len;
	}
	return r;
}
