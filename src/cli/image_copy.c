// SPDX-License-Identifier: Apache-2.0
/* image_copy.c - `sika image` compare, commit and rebase: what moves content in place. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/image.h"

#define CHUNK	 (1u << 20)

/* The disk's bytes, and zeros behind its end. */
static int read_padded(struct disk *disk, uint8_t *to, uint64_t len, uint64_t at)
{
	uint64_t inside = disk && at < disk->size_bytes ? MIN(len, disk->size_bytes - at) : 0;

	memset(to + inside, 0, len - inside);
	return inside ? disk_read_wait(disk, to, inside, at) : 0;
}

/* Bytes from @at on that the disk's map calls zeros, or has not. */
static uint64_t zeros_at(struct disk *disk, uint64_t at, uint64_t len)
{
	struct disk_req req = { .op = DISK_MAP, .offset = at, .len = len };

	if (at >= disk->size_bytes)
		return len;
	req.len = MIN(len, disk->size_bytes - at);
	if (disk_run(disk, &req) < 0 || req.map.state == DISK_DATA ||
	    req.map.state == DISK_COMPRESSED)
		return 0;
	return req.map.len;
}

struct comparison {
	const struct image_args *a;
	struct disk *x, *y;
	uint64_t end;
	uint8_t *p, *q; /* CHUNK */
};

/* @len bytes at most, from @at on. 0, and how many are the same; or an exit status. */
static int compare_some(const struct comparison *c, uint64_t at, uint64_t len, uint64_t *ret_same)
{
	uint64_t zeros = zeros_at(c->x, at, c->end - at), i = 0;
	int r;

	zeros = zeros ? MIN(zeros, zeros_at(c->y, at, zeros)) : 0;
	*ret_same = zeros;
	if (zeros)
		return 0;
	image_progress("comparing", at, c->end);
	r = read_padded(c->x, c->p, len, at);
	if (r < 0)
		return image_fail(c->a, c->x->path, "cannot be read", r);
	r = read_padded(c->y, c->q, len, at);
	if (r < 0)
		return image_fail(c->a, c->y->path, "cannot be read", r);
	*ret_same = len;
	if (memcmp(c->p, c->q, len) == 0)
		return 0;
	while (c->p[i] == c->q[i])
		i++;
	image_progress("comparing", c->end, c->end);
	printf("they differ at byte %" G_GUINT64_FORMAT "\n", at + i);
	return CLI_FAILURE;
}

static int compare_disks(const struct image_args *a, struct disk *x, struct disk *y)
{
	uint64_t end = MAX(x->size_bytes, y->size_bytes);
	g_autofree uint8_t *p = g_malloc(CHUNK), *q = g_malloc(CHUNK);
	const struct comparison c = { a, x, y, end, p, q };

	for (uint64_t at = 0, n; at < end; at += n) {
		int status = compare_some(&c, at, MIN(CHUNK, end - at), &n);

		if (status)
			return status;
	}
	image_progress("comparing", end, end);
	puts(x->size_bytes == y->size_bytes ? "they are equal" :
					      "they are equal but for zeros at the end of one");
	return 0;
}

int image_compare_main(struct image_args *a)
{
	struct disk *x = image_open(a, a->files[0], (struct image_open){ .format = a->format,
									  .snapshot = a->snapshot }), *y;
	int status;

	if (!x)
		return CLI_FAILURE;
	y = image_open(a, a->files[1], (struct image_open){ 0 });
	status = y ? compare_disks(a, x, y) : CLI_FAILURE;
	disk_close(y);
	disk_close(x);
	return status;
}

/* @how, of the image that the user named. */
static struct disk *open_qcow2(const struct image_args *a, struct image_open how)
{
	how.format = a->format;
	return image_open_qcow2(a, a->files[0], how, "; this is for qcow2 images");
}

static int zero_below(struct disk *to, uint64_t at, uint64_t len)
{
	struct disk_req req = { .op = DISK_WRITE_ZEROES, .offset = at, .len = len, .unmap = true };

	return disk_run(to, &req);
}

/* What lies in @from itself goes to @to. */
static int commit_into(struct disk *from, struct disk *to)
{
	g_autofree uint8_t *bytes = g_malloc(CHUNK);
	struct disk_req resize = { .op = DISK_RESIZE, .offset = from->size_bytes };
	int r = to->size_bytes < from->size_bytes ? disk_run(to, &resize) : 0;

	for (uint64_t at = 0; r == 0 && at < from->size_bytes;) {
		struct disk_req map = { .op = DISK_MAP, .offset = at,
					.len = MIN(CHUNK, from->size_bytes - at) };

		image_progress("committing", at, from->size_bytes);
		r = disk_run(from, &map);
		if (r < 0)
			break;
		if (map.map.state == DISK_ZERO)
			r = zero_below(to, at, map.map.len);
		else if (map.map.state != DISK_ABSENT &&
			 (r = disk_read_wait(from, bytes, map.map.len, at)) == 0)
			r = disk_write_wait(to, bytes, map.map.len, at);
		at += map.map.len;
	}
	image_progress("committing", 1, 1);
	return r < 0 ? r : disk_flush_wait(to);
}

int image_commit_main(struct image_args *a)
{
	struct disk *from = open_qcow2(a, (struct image_open){ 0 }), *to = NULL;
	g_autofree char *path = NULL;
	struct qcow2_info info;
	int status = CLI_FAILURE, r;

	/* With what is below, to hear whether it may lie there; then alone, because a reader of the
	 * image below keeps its writer out. */
	if (from) {
		disk_close(from);
		from = open_qcow2(a, (struct image_open){ .no_backing = true });
	}
	if (!from)
		return CLI_FAILURE;
	qcow2_get_info(from, &info);
	if (!info.backing) {
		cli_complain(CLI_FAILURE, a->verb, "'%s' has no image below it", a->files[0]);
	} else {
		path = disk_beside(a->files[0], info.backing);
		to = image_open(a, path, (struct image_open){ .write = true, .format = info.backing_format });
	}
	if (to) {
		r = commit_into(from, to);
		status = r < 0 ? image_fail(a, path, "cannot be written", r) : 0;
	}
	disk_close(to);
	disk_close(from);
	return status;
}

/* Where the image itself holds nothing, and the old image below and the new one differ, the
 * image gets what was to be seen. */
static int keep_content(struct disk *disk, struct disk *below)
{
	g_autofree uint8_t *old = g_malloc(CHUNK), *new = g_malloc(CHUNK);
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < disk->size_bytes;) {
		struct disk_req map = { .op = DISK_MAP, .offset = at,
					.len = MIN(64 * KIB, disk->size_bytes - at) };

		image_progress("rebasing", at, disk->size_bytes);
		r = disk_run(disk, &map);
		if (r == 0 && (map.map.depth > 0 || map.map.state == DISK_ABSENT)) {
			r = disk_read_wait(disk, old, map.map.len, at);
			if (r == 0)
				r = read_padded(below, new, map.map.len, at);
			if (r == 0 && memcmp(old, new, map.map.len))
				r = disk_write_wait(disk, old, map.map.len, at);
		}
		at += map.map.len;
	}
	image_progress("rebasing", 1, 1);
	return r < 0 ? r : disk_flush_wait(disk);
}

/* @below: NULL: it stands alone from now on. */
static int rebase(const struct image_args *a, struct disk *disk, struct disk *below)
{
	int r = a->unsafe ? 0 : keep_content(disk, below);

	if (r == 0)
		r = qcow2_set_backing(disk, below ? a->backing : NULL, below ? below->format : NULL);
	if (r == -ENOSPC)
		return cli_complain(CLI_FAILURE, a->verb,
				    "'%s': the name does not fit the header, or the host's disk is full",
				    a->files[0]);
	return r < 0 ? image_fail(a, a->files[0], "cannot be put on top of it", r) : 0;
}

int image_rebase_main(struct image_args *a)
{
	struct disk *disk, *below = NULL;
	g_autofree char *path = NULL;
	int status = CLI_FAILURE;

	if (!a->backing)
		return cli_complain(CLI_USAGE, a->verb,
				    "--backing is missing; 'none' makes the image stand alone");
	disk = open_qcow2(a, (struct image_open){ .write = true, .no_backing = a->unsafe });
	if (!disk)
		return CLI_FAILURE;
	if (strcmp(a->backing, "none"))
		path = disk_beside(a->files[0], a->backing);
	if (path)
		below = image_open(a, path, (struct image_open){ .format = a->backing_format });
	if (!path || below)
		status = rebase(a, disk, below);
	disk_close(below);
	disk_close(disk);
	return status;
}
