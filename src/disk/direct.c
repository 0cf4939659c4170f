// SPDX-License-Identifier: Apache-2.0
/*
 * direct.c - requests of any place and size on a file that is open past the host's cache.
 *
 * O_DIRECT (open(2)) wants offsets, lengths and memory that are multiples of something. What is
 * aligned goes to the file as it is. A server may want the same of offsets and lengths. Other reads take in whole blocks to memory of ours; other writes
 * read the blocks that they do not fill, change them and write them back, and meanwhile no other
 * write may touch those blocks.
 *
 * A padded write may make a file longer than was asked, by zeros. Images of a format do not mind; a
 * raw one would be another disk, so there the last part of a block goes through the cache.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/fd.h"
#include "disk/disk_int.h"
#include "disk/ranges.h"
#include "disk/serving.h"

#define BOUNCE_BYTES (1u << 20)

struct direct {
	struct disk disk;
	int fd;		   /* the file's; -1: it is none */
	uint64_t block;	   /* of offsets and lengths */
	uint64_t memory_block; /* of addresses of memory; 1: any */
	bool keep_end;
	struct serving serving;
	struct range *ranges; /* bytes of blocks that writes are busy with: whole ones are shared,
				 parts of them are the writer's alone */
};

/* A copy of it: who asks goes on with the request. */
static int io(struct direct *d, const struct disk_req *req)
{
	struct disk_req inner = *req;

	return serving_run(&d->serving, d->disk.below, &inner);
}

static int io_bytes(struct direct *d, enum disk_op op, uint8_t *bytes, uint64_t len, uint64_t offset)
{
	return serving_io(&d->serving, d->disk.below, op, bytes, len, offset);
}

static bool is_multiple(const struct direct *d, uint64_t n)
{
	return (n & (d->block - 1)) == 0;
}

static bool is_aligned(const struct direct *d, const struct disk_req *req)
{
	if (!is_multiple(d, req->offset | req->len))
		return false;
	if (req->op != DISK_READ && req->op != DISK_WRITE)
		return true;
	for (unsigned i = 0; i < req->iov_count && d->memory_block > 1; i++)
		if (!is_multiple(d, (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len))
			return false;
	return true;
}

/* To the next segment that holds anything. */
static void skip(struct disk_req *req, uint64_t bytes)
{
	disk_req_advance(req, bytes);
	while (req->iov_count > 0 && req->iov->iov_len == 0) {
		req->iov++;
		req->iov_count--;
	}
}

/* Between the bytes of a request, from its progress on, and @bytes. */
static void copy(struct disk_req *req, uint8_t *bytes, uint64_t len)
{
	while (len > 0 && req->iov_count > 0) {
		uint64_t n = req->iov->iov_len < len ? req->iov->iov_len : len;

		if (req->op == DISK_READ)
			memcpy(req->iov->iov_base, bytes, n);
		else
			memcpy(bytes, req->iov->iov_base, n);
		skip(req, n);
		bytes += n;
		len -= n;
	}
}

/* The blocks of a part that are not written whole. */
static int read_edges(struct direct *d, uint8_t *bytes, uint64_t from, uint64_t to, uint64_t at,
		      uint64_t end)
{
	uint64_t last = to - d->block;
	int r = 0;

	if (at > from)
		r = io_bytes(d, DISK_READ, bytes, d->block, from);
	if (r == 0 && end < to && (last > from || at == from))
		r = io_bytes(d, DISK_READ, bytes + (last - from), d->block, last);
	return r;
}

/* By blocks, in memory of ours. */
static int bounce(struct direct *d, struct disk_req *req)
{
	uint64_t end = req->offset + req->len, room = align_up(req->len, d->block) + d->block;
	void *bytes;
	int r = 0;

	if (room > BOUNCE_BYTES)
		room = BOUNCE_BYTES;
	if (posix_memalign(&bytes, d->block, room))
		return -ENOMEM;
	for (uint64_t at = req->offset, n; at < end && r == 0; at += n) {
		uint64_t from = align_down(at, d->block), to = align_up(end, d->block);

		if (to > from + room)
			to = from + room;
		n = (end < to ? end : to) - at;
		if (req->op == DISK_READ) {
			r = io_bytes(d, DISK_READ, bytes, to - from, from);
			if (r == 0)
				copy(req, (uint8_t *)bytes + (at - from), n);
			continue;
		}
		r = read_edges(d, bytes, from, to, at, at + n);
		if (r < 0)
			break;
		if (req->op == DISK_WRITE)
			copy(req, (uint8_t *)bytes + (at - from), n);
		else
			memset((uint8_t *)bytes + (at - from), 0, n);
		r = io_bytes(d, DISK_WRITE, bytes, to - from, from);
	}
	free(bytes);
	return r;
}

/* The end of a file that may not get longer. Rare and short, so that waiting here is right. */
static int write_cached(struct direct *d, struct disk_req *req)
{
	char name[32];
	auto_fd int fd = -1;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", d->fd);
	fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (skip(req, 0); req->iov_count > 0;) {
		ssize_t n = pwrite(fd, req->iov->iov_base, req->iov->iov_len, (off_t)req->offset);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return -ENOSPC;
		if (n < 0)
			continue;
		req->offset += (uint64_t)n;
		skip(req, (uint64_t)n);
	}
	return 0;
}

static bool reaches_behind_end(const struct direct *d, uint64_t to)
{
	struct stat st;

	return d->keep_end && fstat(d->fd, &st) == 0 && S_ISREG(st.st_mode) &&
	       to > (uint64_t)st.st_size;
}

static int zero_part(struct direct *d, const struct disk_req *outer, uint64_t from, uint64_t to)
{
	struct disk_req req = *outer;

	struct iovec iov;
	void *zeros;
	int r;

	req.offset = from;
	req.len = to - from;
	if (from >= to)
		return 0;
	if (is_multiple(d, from | to))
		return io(d, &req);
	if (!reaches_behind_end(d, align_up(to, d->block)))
		return bounce(d, &req);
	zeros = calloc(1, req.len);
	iov = (struct iovec){ zeros, req.len };
	req.iov = &iov;
	req.iov_count = 1;
	r = zeros ? write_cached(d, &req) : -ENOMEM;
	free(zeros);
	return r;
}

static int write_zeroes(struct direct *d, struct disk_req *req)
{
	uint64_t end = req->offset + req->len;
	uint64_t first = align_up(req->offset, d->block), last = align_down(end, d->block);
	int r;

	if (first >= last)
		return zero_part(d, req, req->offset, end);
	r = zero_part(d, req, req->offset, first);
	if (r == 0)
		r = zero_part(d, req, first, last);
	return r < 0 ? r : zero_part(d, req, last, end);
}

static int serve(struct direct *d, struct disk_req *req, bool aligned)
{
	if (req->op == DISK_WRITE_ZEROES)
		return write_zeroes(d, req);
	if (aligned || req->op == DISK_DISCARD || req->op == DISK_RESIZE)
		return io(d, req);
	if (req->op == DISK_WRITE &&
	    reaches_behind_end(d, align_up(req->offset + req->len, d->block)))
		return write_cached(d, req);
	return bounce(d, req);
}

static int request(struct disk *disk, struct disk_req *req)
{
	struct direct *d = (struct direct *)disk;
	struct disk_req inner = *req;
	bool changes = inner.op == DISK_WRITE || inner.op == DISK_WRITE_ZEROES ||
		       inner.op == DISK_DISCARD;
	bool aligned = is_aligned(d, req);
	struct range range = { .first = align_down(inner.offset, d->block),
			       .last = align_up(inner.offset + inner.len, d->block) - 1,
			       .alone = !aligned };
	int r;

	if (changes)
		range_enter(&d->serving.fibers, &d->ranges, &range);
	r = serve(d, &inner, aligned);
	if (changes)
		range_leave(&d->ranges, &range);
	if (r == 0 && inner.op == DISK_RESIZE)
		d->disk.size_bytes = req->offset;
	return r;
}

static void direct_submit(struct disk *disk, struct disk_req *req)
{
	struct direct *d = (struct direct *)disk;

	if (req->op == DISK_FLUSH || req->op == DISK_MAP || (req->op == DISK_READ && is_aligned(d, req)))
		disk->below->ops->submit(disk->below, req);
	else
		serving_submit(&d->serving, request, disk, req);
}

static void each_below(struct disk *disk, void (*fn)(struct disk *below))
{
	fn(disk->below);
}

static void direct_drain(struct disk *disk)
{
	serving_drain(&((struct direct *)disk)->serving, disk, each_below);
}

static void direct_close(struct disk *disk)
{
	serving_fini(&((struct direct *)disk)->serving);
	disk_over_fini(disk);
	free(disk);
}

static const struct disk_ops direct_ops = {
	.submit = direct_submit,
	.drain = direct_drain,
	.close = direct_close,
};

static struct direct *direct_new(struct disk *file, uint32_t block)
{
	struct direct *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	disk_over_init(&d->disk, &direct_ops, file);
	if (d->disk.block_bytes < block)
		d->disk.block_bytes = block;
	d->fd = -1;
	d->block = block;
	d->memory_block = 1;
	return d;
}

struct disk *disk_direct_new(struct disk *file)
{
	const struct disk_image *image = (struct disk_image *)file;
	struct direct *d = direct_new(file, image->direct);

	if (!d)
		return NULL;
	d->fd = image->fd;
	d->memory_block = image->direct;
	return &d->disk;
}

struct disk *disk_direct_over(struct disk *below, uint32_t block)
{
	struct direct *d = direct_new(below, block);

	return d ? &d->disk : NULL;
}

struct disk *disk_direct_below(struct disk *disk)
{
	return disk->ops == &direct_ops ? disk->below : disk;
}

void disk_direct_keep_end(struct disk *disk)
{
	if (disk->ops == &direct_ops)
		((struct direct *)disk)->keep_end = true;
}
