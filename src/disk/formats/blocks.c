// SPDX-License-Identifier: Apache-2.0
/* blocks.c - images of blocks: opening, closing, requests, and the order of writes (blocks.h). */
#include "disk/formats/blocks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"

int blocks_io(struct blocks *b, struct disk *disk, struct disk_req *req)
{
	return serving_run(&b->serving, disk, req);
}

static int file_io(struct blocks *b, enum disk_op op, void *buf, uint64_t len, uint64_t offset)
{
	return serving_io(&b->serving, b->file, op, buf, len, offset);
}

int blocks_file_read(struct blocks *b, void *buf, uint64_t len, uint64_t offset)
{
	uint64_t size = b->file->size_bytes, inside = offset < size ? MIN(len, size - offset) : 0;

	memset((char *)buf + inside, 0, len - inside);
	return inside ? file_io(b, DISK_READ, buf, inside, offset) : 0;
}

int blocks_file_write(struct blocks *b, const void *buf, uint64_t len, uint64_t offset)
{
	return file_io(b, DISK_WRITE, (void *)buf, len, offset);
}

int blocks_file_flush(struct blocks *b)
{
	int r = file_io(b, DISK_FLUSH, NULL, 0, 0);

	for (unsigned i = 0; i < b->part_count && r == 0; i++) {
		struct disk_req req = { .op = DISK_FLUSH };

		r = blocks_io(b, b->parts[i].disk, &req);
	}

	/* The kernel tells once that it could not write, and then counts the pages as written. */
	if (r < 0)
		b->broken = true;
	return r;
}

int blocks_damaged(struct blocks *b, const char *what, uint64_t offset)
{
	if (!b->broken)
		log_guest("disk '%s': damaged, has %s (%#llx); check it with: sika image check",
			  b->disk.path, what, (unsigned long long)offset);
	b->broken = true;
	return -EIO;
}

int blocks_change(struct blocks *b)
{
	int r = 0;

	if (b->changed)
		return 0;
	if (b->ops->first)
		r = b->ops->first(b);
	/* Others wait for b->meta until it is done. */
	b->changed = r == 0;
	return r;
}

/* Blocks that are not written to their end lie in the file all the same. */
static int lengthen(struct blocks *b)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = b->end };

	if (!b->file->growable || b->file->size_bytes >= b->end)
		return 0;
	return blocks_io(b, b->file, &req);
}

int blocks_commit(struct blocks *b)
{
	int r = 0;

	if (b->broken)
		return -EIO;
	if (b->pages_dirty == 0 && !b->unfinished)
		return blocks_file_flush(b);
	b->unfinished = true;
	if (b->ops->before)
		r = b->ops->before(b);
	if (r == 0)
		r = lengthen(b);
	if (r == 0)
		r = blocks_file_flush(b);
	if (r == 0)
		r = blocks_table_write(b);
	if (r == 0)
		r = blocks_file_flush(b);
	if (r == 0 && b->ops->after)
		r = b->ops->after(b);
	b->unfinished = r < 0;
	return r;
}

static int map(struct blocks *b, struct disk_req *req)
{
	struct disk_req below = { .op = DISK_MAP, .offset = req->offset };
	struct blocks_extent e;
	int r = blocks_lookup(b, req->offset, req->len, &e);

	if (r < 0)
		return r;
	req->map = (struct disk_map){ .len = e.len, .host_offset = DISK_NO_OFFSET };
	req->map.state = e.place.kind == BLOCKS_DATA	 ? DISK_DATA
			 : e.place.kind == BLOCKS_ZERO	 ? DISK_ZERO
			 : e.place.kind == BLOCKS_PACKED ? DISK_COMPRESSED
							 : DISK_ABSENT;
	if (e.place.kind == BLOCKS_DATA)
		req->map.host_offset = e.place.host;
	/* What the host's file system knows of holes inside of a flat image. */
	if (b->flat) {
		below.offset = e.place.host;
		below.len = e.len;
		r = blocks_io(b, e.in, &below);
		if (r == 0 && (below.map.state == DISK_ZERO || b->parts))
			req->map.state = below.map.state;
		if (r == 0 && b->parts)
			req->map.host_offset = below.map.host_offset;
		if (r == 0)
			req->map.len = below.map.len;
		return r;
	}
	if (e.place.kind != BLOCKS_ABSENT || !b->parent || req->offset >= b->parent->size_bytes)
		return 0;
	below.len = MIN(e.len, b->parent->size_bytes - req->offset);
	r = blocks_io(b, b->parent, &below);
	if (r == 0) {
		req->map = below.map;
		req->map.depth++;
	}
	return r;
}

static int flush(struct blocks *b)
{
	int r;

	fiber_lock(&b->serving.fibers, &b->meta);
	r = blocks_commit(b);
	fiber_unlock(&b->meta);
	return r;
}

/* Before anything in the image is different. */
static int about_to_change(struct blocks *b)
{
	int r;

	if (b->changed)
		return 0;
	fiber_lock(&b->serving.fibers, &b->meta);
	r = blocks_change(b);
	fiber_unlock(&b->meta);
	return r;
}

static int serve(struct disk *disk, struct disk_req *req)
{
	struct blocks *b = (struct blocks *)disk;
	struct segments v = { req->iov, req->iov_count, 0 };
	int r;

	if (b->broken && req->op != DISK_READ && req->op != DISK_MAP)
		return -EIO;
	switch (req->op) {
	case DISK_READ:
		return blocks_read(b, req->offset, req->len, &v);
	case DISK_WRITE:
		r = about_to_change(b);
		return r < 0 ? r : blocks_write(b, req->offset, req->len, &v);
	case DISK_FLUSH:
		return b->disk.readonly ? 0 : flush(b);
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		r = about_to_change(b);
		return r < 0 ? r : blocks_empty(b, req);
	case DISK_MAP:
		return map(b, req);
	case DISK_RESIZE:
		break;
	}
	return -EOPNOTSUPP;
}

static void blocks_submit(struct disk *disk, struct disk_req *req)
{
	serving_submit(&((struct blocks *)disk)->serving, serve, disk, req);
}

static void each_below(struct disk *disk, void (*fn)(struct disk *below))
{
	struct blocks *b = (struct blocks *)disk;

	fn(b->file);
	for (unsigned i = 0; i < b->part_count; i++)
		fn(b->parts[i].disk);
	if (b->parent)
		fn(b->parent);
}

static void blocks_kick(struct disk *disk)
{
	each_below(disk, disk_kick);
}

static void blocks_drain(struct disk *disk)
{
	serving_drain(&((struct blocks *)disk)->serving, disk, each_below);
}

static void finish(struct blocks *b)
{
	int r = blocks_commit(b);

	if (r == 0 && b->ops->finish)
		r = b->ops->finish(b);
	if (r < 0)
		log_warn("disk '%s': its table could not be written: %s; check it with: sika image "
			 "check",
			 b->disk.path, g_strerror(-r));
}

static void blocks_close(struct disk *disk)
{
	struct blocks *b = (struct blocks *)disk;

	if (b->changed && !b->broken && !disk->abandoned)
		finish(b);
	serving_fini(&b->serving);
	blocks_table_fini(b);
	blocks_sectors_fini(b);
	if (b->ops->fini)
		b->ops->fini(b);
	for (unsigned i = 0; i < b->part_count; i++)
		disk_close(b->parts[i].disk);
	g_free(b->parts);
	disk_close(b->parent);
	disk_over_fini(disk);
	g_free(b->unpacked);
	g_free(b->about);
	g_free(b);
}

static const struct disk_ops blocks_disk_ops = {
	.submit = blocks_submit,
	.kick = blocks_kick,
	.drain = blocks_drain,
	.close = blocks_close,
};

struct blocks *blocks_new(size_t bytes, struct disk *file, const char *format,
			  const struct blocks_ops *ops)
{
	struct blocks *b = g_malloc0(bytes);

	disk_over_init(&b->disk, &blocks_disk_ops, file);
	b->disk.format = format;
	b->disk.growable = false;
	b->disk.can_discard = !file->readonly;
	b->file = file;
	b->ops = ops;
	b->page_entries = 1;
	b->unit_bytes = DISK_SECTOR_SIZE;
	b->place_align = DISK_SECTOR_SIZE;
	return b;
}

struct disk *blocks_fail_take(struct blocks *b)
{
	b->changed = false; /* nothing is to be written */
	blocks_close(&b->disk);
	return NULL;
}

bool blocks_refuse(const struct blocks *b, GError **err, const char *fmt, ...)
{
	g_autofree char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	g_set_error(err, BASE_ERROR, ENOTSUP, "disk '%s': %s", b->disk.path, text);
	return false;
}

bool blocks_file_load(struct blocks *b, void *buf, uint64_t len, uint64_t offset, GError **err)
{
	int r = blocks_file_read(b, buf, len, offset);

	return r == 0 || blocks_refuse(b, err, "cannot be read: %s", g_strerror(-r));
}

static bool open_table(struct blocks *b, GError **err)
{
	int r;

	b->block_count =
		b->disk.size_bytes / b->block_bytes + (b->disk.size_bytes % b->block_bytes != 0);
	if (b->block_count > BLOCKS_MAX_TABLE / b->entry_bytes)
		return blocks_refuse(b, err,
				     "has a table of %" G_GUINT64_FORMAT
				     " blocks, which is too many",
				     b->block_count);
	/* Only a file that is that long can make us allocate for it. */
	if (!b->ops->page_at &&
	    (b->table_at > b->file->size_bytes ||
	     b->block_count * b->entry_bytes > b->file->size_bytes - b->table_at))
		return blocks_refuse(b, err, "has a table of blocks that reaches behind its end");
	if (!blocks_table_init(b))
		return blocks_refuse(b, err, "no memory for its table of blocks");
	b->end = b->stale_end = b->file->size_bytes;
	if (b->disk.readonly)
		return true;
	r = blocks_find_end(b);
	b->stale_end = MAX(b->end, b->file->size_bytes);
	return r == 0 ||
	       blocks_refuse(b, err, "its table of blocks cannot be read: %s", g_strerror(-r));
}

struct disk *blocks_open_take(struct blocks *b, GError **err)
{
	b->disk.size_bytes = align_up(b->disk.size_bytes, DISK_SECTOR_SIZE);
	if (b->flat)
		b->block_bytes = DISK_SECTOR_SIZE; /* all have a place */
	else if (!b->ops->lookup && !open_table(b, err))
		return blocks_fail_take(b);
	return &b->disk;
}
