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

#define MAX_AT_ONCE (16u << 20) /* of new blocks of one request, in a row */

/* The file as far as it goes, and zeros where it ends inside of a block. */
static int read_data(struct blocks *b, struct disk *from, uint64_t offset, uint64_t len,
		     struct segments *to)
{
	return segments_read(&b->serving, from, offset, len, to);
}

static int read_packed(struct blocks *b, const struct blocks_extent *e, uint64_t offset,
		       struct segments *to)
{
	int r = 0;

	fiber_lock(&b->serving.fibers, &b->meta);
	if (!b->unpacked && !(b->unpacked = g_try_malloc(b->block_bytes)))
		r = -ENOMEM;
	if (r == 0 && b->unpacked_number != e->block + 1) {
		b->unpacked_number = 0;
		r = b->ops->unpack(b, e->block, e->place.host);
		b->unpacked_number = r == 0 ? e->block + 1 : 0;
	}
	if (r == 0)
		segments_fill(to, b->unpacked + (offset - e->block_at), e->len);
	fiber_unlock(&b->meta);
	return r;
}

int blocks_read(struct blocks *b, uint64_t offset, uint64_t len, struct segments *to)
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
			r = read_packed(b, &e, offset, to);
			break;
		case BLOCKS_ABSENT:
			r = read_data(b, b->parent, offset, e.len, to);
			break;
		case BLOCKS_PARTIAL: /* never found */
		case BLOCKS_ZERO:
			segments_fill(to, NULL, e.len);
			break;
		}
		if (r < 0)
			return r;
		offset += e.len;
		len -= e.len;
	}
	return 0;
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

int blocks_copy_below(struct blocks *b, uint64_t offset, uint64_t len, uint64_t host)
{
	g_autofree uint8_t *bytes = len ? g_try_malloc(len) : NULL;
	struct iovec iov = { bytes, len };
	struct segments v = { &iov, 1, 0 };
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
		r = blocks_copy_below(b, start, head, p->host);
		return r < 0 ? r
			     : blocks_copy_below(b, end - tail, tail,
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
		     struct segments *from)
{
	struct placing p = {
		.offset = offset, .len = *len, .first = offset / b->block_bytes, .below = below
	};
	int r;

	p.count = (offset + p.len - 1) / b->block_bytes - p.first + 1;
	fiber_lock(&b->serving.fibers, &b->meta);
	r = take_places(b, &p);
	fiber_unlock(&b->meta);
	if (r == 0)
		r = fill_up(b, &p);
	if (r == 0)
		r = segments_run(&b->serving, b->file, DISK_WRITE, p.host + (offset - p.first * b->block_bytes),
			     p.len, from);
	fiber_lock(&b->serving.fibers, &b->meta);
	if (r == 0)
		r = name_places(b, &p);
	fiber_unlock(&b->meta);
	*len = p.len;
	return r;
}

/* A whole new block, packed. The range is the caller's. */
static int write_packed(struct blocks *b, uint64_t offset, uint64_t *len, struct segments *from)
{
	g_autofree uint8_t *bytes = g_try_malloc0(b->block_bytes);
	struct blocks_place place = { BLOCKS_PACKED, 0 };
	uint64_t n = MIN(b->block_bytes, b->disk.size_bytes - offset);
	int r;

	if (!bytes)
		return -ENOMEM;
	if (offset % b->block_bytes || *len < n)
		return -EOPNOTSUPP;
	if (!segments_copy(from, bytes, n))
		return -EINVAL;
	*len = n;
	fiber_lock(&b->serving.fibers, &b->meta);
	r = blocks_change(b);
	if (r == 0)
		r = b->ops->pack(b, offset / b->block_bytes, bytes, &place.host);
	if (r == 0)
		r = blocks_set(b, offset / b->block_bytes, place);
	fiber_unlock(&b->meta);
	return r;
}

/* Somebody may have given places to some of them meanwhile: as far as they are all alike. *len 0: to be
 * tried again. */
static int write_alone(struct blocks *b, uint64_t offset, uint64_t *len, struct segments *from)
{
	struct blocks_extent e;
	int r = blocks_lookup(b, offset, *len, &e);

	if (r < 0)
		return r;
	*len = e.len;
	if (e.place.kind == BLOCKS_DATA)
		return segments_run(&b->serving, e.in, DISK_WRITE, e.place.host, e.len, from);
	if (e.place.kind == BLOCKS_PACKED)
		return -EOPNOTSUPP; /* such an image is written once */
	if (b->pack_only)
		return write_packed(b, offset, len, from);
	if (e.placed) {
		*len = 0;
		return blocks_sectors_complete(b, offset);
	}
	return write_new(b, offset, len, e.place.kind == BLOCKS_ABSENT && b->parent, from);
}

int blocks_write(struct blocks *b, uint64_t offset, uint64_t len, struct segments *from)
{
	while (len > 0) {
		struct range range = { .first = offset / b->block_bytes, .alone = true };
		struct blocks_extent e;
		uint64_t n = MIN(len, MAX_AT_ONCE);
		int r = blocks_lookup(b, offset, n, &e);

		if (r < 0)
			return r;
		n = e.len;
		if (e.place.kind == BLOCKS_DATA) {
			r = segments_run(&b->serving, e.in, DISK_WRITE, e.place.host, n, from);
		} else {
			range.last = (offset + n - 1) / b->block_bytes;
			range_enter(&b->serving.fibers, &b->ranges, &range);
			r = b->broken ? -EIO : write_alone(b, offset, &n, from);
			range_leave(&b->ranges, &range);
		}
		if (r < 0)
			return r;
		offset += n;
		len -= n;
	}
	return 0;
}

/* Zeros, or a discard: what has a place keeps it and becomes a hole in the host's file. */
int blocks_empty(struct blocks *b, const struct disk_req *req)
{
	uint64_t offset = req->offset, len = req->len;
	int r = b->pack_only ? -EOPNOTSUPP : 0;

	while (len > 0 && r == 0) {
		struct disk_req below = { .op = req->op, .unmap = req->unmap };
		struct segments zeros = { NULL, 0, 0 };
		struct blocks_extent e;

		r = blocks_lookup(b, offset, len, &e);
		if (r < 0)
			return r;
		below.offset = e.place.host;
		below.len = e.len;
		if (e.place.kind == BLOCKS_DATA)
			r = blocks_io(b, e.in, &below);
		else if (e.place.kind == BLOCKS_ABSENT && b->parent && req->op == DISK_WRITE_ZEROES)
			r = blocks_write(b, offset, e.len, &zeros);
		else if (e.place.kind == BLOCKS_PACKED)
			r = -EOPNOTSUPP;
		offset += e.len;
		len -= e.len;
	}
	return r;
}
