// SPDX-License-Identifier: Apache-2.0
/*
 * raw.c - the file is the disk.
 *
 * Requests go to the file node as they are. One exception: where nobody said that the image is raw,
 * the guest must not write another format's mark into the first sector, because the next look at
 * the image would take it for that format, with backing files of the guest's choice. Such a write
 * fails. The first bytes are then copied before they are looked at, for the guest may change its
 * memory between the look and the write.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "disk/disk_int.h"

struct raw {
	struct disk disk;
	bool guard;
};

/* A write to the first sector, its bytes there copied. */
struct guarded {
	struct disk_req req;
	struct disk_req *outer;
	uint8_t head[DISK_PROBE_BYTES];
	struct iovec iov[];
};

static void guarded_done(struct disk_req *req, int result)
{
	struct guarded *g = container_of(req, struct guarded, req);
	struct disk_req *outer = g->outer;

	free(g);
	outer->done(outer, result);
}

static void copy_head(struct guarded *g, uint64_t bytes)
{
	uint64_t at = 0;

	for (unsigned i = 0; at < bytes; i++) {
		const struct iovec *iov = &g->outer->iov[i];
		uint64_t n = iov->iov_len < bytes - at ? iov->iov_len : bytes - at;

		memcpy(g->head + at, iov->iov_base, n);
		at += n;
	}
}

static int guard_write(struct raw *raw, struct disk_req *req)
{
	uint64_t bytes = req->len < DISK_PROBE_BYTES ? req->len : DISK_PROBE_BYTES;
	struct guarded *g;

	/* Nobody writes in the middle of a sector; and no guest has so many segments. */
	if (req->offset > 0 || req->iov_count == DISK_MAX_IOV)
		return -EINVAL;
	g = malloc(sizeof(*g) + (req->iov_count + 1) * sizeof(g->iov[0]));
	if (!g)
		return -ENOMEM;
	g->outer = req;
	copy_head(g, bytes);
	if (disk_probe(g->head, bytes)) {
		log_guest("disk '%s': refused to write another format's mark into the first sector "
			  "(format=raw allows it)",
			  raw->disk.path);
		free(g);
		return -EPERM;
	}
	disk_req_advance(req, bytes);
	g->iov[0] = (struct iovec){ g->head, bytes };
	memcpy(g->iov + 1, req->iov, req->iov_count * sizeof(g->iov[0]));
	g->req = (struct disk_req){ .op = DISK_WRITE,
				    .len = req->len,
				    .iov = g->iov,
				    .iov_count = req->iov_count + 1,
				    .done = guarded_done };
	raw->disk.below->ops->submit(raw->disk.below, &g->req);
	return 0;
}

struct resize {
	struct disk_req req;
	struct disk_req *outer;
	struct raw *raw;
};

static void resized(struct disk_req *req, int result)
{
	struct resize *r = container_of(req, struct resize, req);
	struct disk_req *outer = r->outer;

	if (result == 0)
		r->raw->disk.size_bytes = align_up(outer->offset, DISK_SECTOR_SIZE);
	free(r);
	outer->done(outer, result);
}

/* The disk is as large as the file is, also where that cannot be had. */
static void resize(struct raw *raw, struct disk_req *outer)
{
	struct resize *r = calloc(1, sizeof(*r));

	if (!r) {
		outer->done(outer, -ENOMEM);
		return;
	}
	*r = (struct resize){ .req = { .op = DISK_RESIZE, .offset = outer->offset, .done = resized },
			      .outer = outer, .raw = raw };
	raw->disk.below->ops->submit(raw->disk.below, &r->req);
}

static void raw_submit(struct disk *disk, struct disk_req *req)
{
	struct raw *raw = (struct raw *)disk;
	int r;

	if (raw->guard && req->op == DISK_WRITE && req->offset < DISK_PROBE_BYTES) {
		r = guard_write(raw, req);
		if (r < 0)
			req->done(req, r);
		return;
	}
	if (req->op == DISK_RESIZE)
		resize(raw, req);
	else
		raw->disk.below->ops->submit(raw->disk.below, req);
}

static void raw_close(struct disk *disk)
{
	disk_over_fini(disk);
	free(disk);
}

static const struct disk_ops raw_ops = {
	.submit = raw_submit,
	.close = raw_close,
};

struct disk *disk_raw_open_take(struct disk *file, bool guard, GError **err)
{
	struct raw *raw = NULL;

	if (file->size_bytes == 0)
		g_set_error(err, BASE_ERROR, EINVAL,
			    "disk '%s': is empty (make it with: truncate -s 4G FILE)", file->path);
	else if (!(raw = calloc(1, sizeof(*raw))))
		g_set_error(err, BASE_ERROR, ENOMEM, "disk '%s': no memory", file->path);
	if (!raw) {
		disk_close(file);
		return NULL;
	}
	disk_over_init(&raw->disk, &raw_ops, file);
	raw->disk.format = "raw";
	raw->disk.size_bytes = align_up(file->size_bytes, DISK_SECTOR_SIZE);
	raw->disk.growable = false;
	raw->guard = guard && !file->readonly;
	disk_direct_keep_end(file);
	return &raw->disk;
}
