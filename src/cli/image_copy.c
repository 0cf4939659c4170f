// SPDX-License-Identifier: Apache-2.0
/*
 * image_copy.c - `sika image` convert, compare, commit and rebase: what moves content.
 *
 * Content is copied in chunks, several at a time: while the chunks of one turn are written those of
 * the next are read. What the source's map calls zeros is not read, and what is zeros is not
 * written, so that a sparse disk costs what it holds.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/image.h"

#define CHUNK	 (1u << 20)
#define AT_ONCE	 8u

/* Part of the disk on its way. */
struct chunk {
	uint64_t offset, len;
	uint8_t *bytes;
	struct disk_req read, write[CHUNK / 4096];
	struct iovec read_iov, write_iov[CHUNK / 4096];
	int result;
};

struct copy {
	const struct image_args *a;
	struct disk *from, *to;
	uint64_t end;	/* of the part that both have */
	uint64_t piece; /* zeros are looked for in pieces of this size */
	bool compress;
	struct chunk *chunks; /* two turns of AT_ONCE */
	const char *failed;   /* path that an error is about */
};

static void read_done(struct disk_req *req, int result)
{
	struct chunk *c = (struct chunk *)((char *)req - offsetof(struct chunk, read));

	c->result = result;
}

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* The next part from *at on that is not zeros by the map; len 0: none. */
static int next_part(struct copy *c, uint64_t *at, uint64_t *ret_len)
{
	*ret_len = 0;
	while (*at < c->end) {
		struct disk_req req = { .op = DISK_MAP, .offset = *at, .len = c->end - *at };
		int r = disk_run(c->from, &req);
		uint64_t end, limit;

		if (r < 0) {
			c->failed = c->from->path;
			return r;
		}
		if (req.map.state == DISK_ABSENT || req.map.state == DISK_ZERO) {
			*at += req.map.len;
			continue;
		}
		/* Whole pieces, so that no cluster is written twice. */
		end = *at + req.map.len;
		*at -= *at % c->piece;
		end += c->piece - 1;
		end -= end % c->piece;
		limit = *at + CHUNK - *at % CHUNK;
		end = MIN(MIN(end, limit), c->end);
		*ret_len = end - *at;
		return 0;
	}
	return 0;
}

/* Start to read up to AT_ONCE chunks; how many. */
static int start_reads(struct copy *c, struct chunk *turn, uint64_t *at, unsigned *ret_count)
{
	unsigned n = 0;

	while (n < AT_ONCE) {
		struct chunk *k = &turn[n];
		int r = next_part(c, at, &k->len);

		if (r < 0)
			return r;
		if (k->len == 0)
			break;
		k->offset = *at;
		*at += k->len;
		k->read_iov = (struct iovec){ k->bytes, k->len };
		k->read = (struct disk_req){ .op = DISK_READ, .offset = k->offset, .len = k->len,
					     .iov = &k->read_iov, .iov_count = 1, .done = read_done };
		disk_submit(c->from, &k->read);
		n++;
	}
	disk_kick(c->from);
	*ret_count = n;
	return 0;
}

/* A write's result stays in its request: map.len is ours there. */
static void write_done(struct disk_req *req, int result)
{
	req->map.len = (uint64_t)-result;
}

static unsigned start_writes(struct copy *c, struct chunk *k)
{
	unsigned n = 0;

	for (uint64_t at = 0; at < k->len;) {
		uint64_t len = 0;

		while (at + len < k->len && (!c->compress || len == 0)) {
			uint64_t piece = MIN(c->piece, k->len - at - len);

			if (is_zero(k->bytes + at + len, piece))
				break;
			len += piece;
		}
		if (len == 0) {
			at += c->piece;
			continue;
		}
		k->write_iov[n] = (struct iovec){ k->bytes + at, len };
		k->write[n] = (struct disk_req){ .op = DISK_WRITE, .offset = k->offset + at, .len = len,
						 .iov = &k->write_iov[n], .iov_count = 1,
						 .compress = c->compress, .done = write_done };
		disk_submit(c->to, &k->write[n++]);
		at += len;
	}
	return n;
}

static int copy_turn(struct copy *c, struct chunk *turn, unsigned count, unsigned *written)
{
	for (unsigned i = 0; i < count; i++) {
		if (turn[i].result < 0) {
			c->failed = c->from->path;
			return turn[i].result;
		}
		written[i] = start_writes(c, &turn[i]);
	}
	disk_kick(c->to);
	return 0;
}

static int settle_turn(struct copy *c, const struct chunk *turn, unsigned count,
		       const unsigned *written)
{
	disk_drain(c->to);
	for (unsigned i = 0; i < count; i++)
		for (unsigned k = 0; k < written[i]; k++)
			if (turn[i].write[k].map.len) {
				c->failed = c->to->path;
				return -(int)turn[i].write[k].map.len;
			}
	return 0;
}

/* c->to is zeros. */
static int copy_all(struct copy *c, const char *what)
{
	struct chunk *now = c->chunks, *next = c->chunks + AT_ONCE, *swap;
	unsigned count = 0, next_count, written[AT_ONCE] = { 0 };
	uint64_t at = 0;
	int r = start_reads(c, now, &at, &count);

	disk_drain(c->from);
	while (r == 0 && count > 0 && !image_interrupted()) {
		next_count = 0;
		image_progress(what, at, c->end);
		r = copy_turn(c, now, count, written);
		if (r == 0)
			r = start_reads(c, next, &at, &next_count);
		disk_drain(c->from);
		if (r == 0)
			r = settle_turn(c, now, count, written);
		else
			disk_drain(c->to);
		swap = now;
		now = next;
		next = swap;
		count = next_count;
	}
	image_progress(what, c->end, c->end);
	if (r == 0 && (r = disk_flush_wait(c->to)) < 0)
		c->failed = c->to->path;
	return r;
}

static int copy_run(struct copy *c, const char *what)
{
	int r;

	c->chunks = g_new0(struct chunk, 2 * AT_ONCE);
	for (unsigned i = 0; i < 2 * AT_ONCE; i++)
		c->chunks[i].bytes = g_malloc(CHUNK);
	r = copy_all(c, what);
	for (unsigned i = 0; i < 2 * AT_ONCE; i++)
		g_free(c->chunks[i].bytes);
	g_free(c->chunks);
	return r;
}

static int convert_into(const struct image_args *a, struct disk *from, const char *path,
			const struct qcow2_create *o, const char *format)
{
	/* Nobody sees the file before it is synchronized as a whole: flushes on the way are for nothing. */
	const struct image_open how = { .write = true, .format = format,
					.cache = a->cache ? a->cache : "unsafe" };
	const struct disk_form *form = disk_form_find(format);
	struct copy c = { .a = a, .from = from, .end = from->size_bytes, .compress = a->compress };
	int status = image_make(a, path, o, format), r;

	if (status)
		return status;
	c.to = image_open(a, path, how);
	if (!c.to)
		return CLI_FAILURE;
	c.piece = form ? MIN(form->piece, 64 * KIB) : !strcmp(format, "raw") ? 4096 : a->compress ? o->cluster_bytes : MIN(MAX(o->cluster_bytes, 4096), CHUNK);
	c.compress |= disk_form_packs(c.to);
	r = copy_run(&c, "converting");
	disk_close(c.to);
	if (r < 0)
		return image_fail(a, c.failed == from->path ? from->path : a->files[1],
				  c.failed == from->path ? "cannot be read" : "cannot be written", r);
	return 0;
}

int image_convert_main(struct image_args *a)
{
	const char *format = a->to ? a->to : "qcow2";
	struct image_output out;
	struct qcow2_create o;
	struct disk *from;
	int status = image_create_options(a, &o);

	status = status ? status : image_form_options(a, format);
	if (!status && !strcmp(format, "raw") && a->compress)
		status = cli_complain(CLI_USAGE, a->verb, "a raw image cannot be compressed");
	if (!status && a->compress && (o.cluster_bytes > CHUNK || o.cluster_bytes < 4096))
		status = cli_complain(CLI_USAGE, a->verb,
				      "clusters of 4 KiB to 1 MiB can be written compressed");
	if (status)
		return status;
	from = image_open(a, a->files[0], (struct image_open){ .format = a->format,
							       .cache = a->source_cache });
	if (!from)
		return CLI_FAILURE;
	o.size_bytes = from->size_bytes;
	status = image_output_begin(&out, a, a->files[1]);
	if (!status)
		status = image_output_end(&out, a, convert_into(a, from, out.temporary, &o, format));
	disk_close(from);
	return status;
}

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

static int compare_disks(const struct image_args *a, struct disk *x, struct disk *y)
{
	uint64_t end = MAX(x->size_bytes, y->size_bytes);
	g_autofree uint8_t *p = g_malloc(CHUNK), *q = g_malloc(CHUNK);

	for (uint64_t at = 0; at < end;) {
		uint64_t skip = zeros_at(x, at, end - at), n = MIN(CHUNK, end - at);
		int r;

		skip = skip ? MIN(skip, zeros_at(y, at, skip)) : 0;
		if (skip) {
			at += skip;
			continue;
		}
		image_progress("comparing", at, end);
		r = read_padded(x, p, n, at);
		if (r < 0)
			return image_fail(a, x->path, "cannot be read", r);
		r = read_padded(y, q, n, at);
		if (r < 0)
			return image_fail(a, y->path, "cannot be read", r);
		if (memcmp(p, q, n)) {
			uint64_t i = 0;

			while (p[i] == q[i])
				i++;
			image_progress("comparing", end, end);
			printf("they differ at byte %" G_GUINT64_FORMAT "\n", at + i);
			return CLI_FAILURE;
		}
		at += n;
	}
	image_progress("comparing", end, end);
	puts(x->size_bytes == y->size_bytes ? "they are equal" :
					      "they are equal but for zeros at the end of one");
	return 0;
}

int image_compare_main(struct image_args *a)
{
	struct disk *x = image_open(a, a->files[0], (struct image_open){ .format = a->format }), *y;
	int status;

	if (!x)
		return CLI_FAILURE;
	y = image_open(a, a->files[1], (struct image_open){ 0 });
	status = y ? compare_disks(a, x, y) : CLI_FAILURE;
	disk_close(y);
	disk_close(x);
	return status;
}

static char *beside(const char *image, const char *name)
{
	g_autofree char *folder = g_path_get_dirname(image);

	return g_path_is_absolute(name) ? g_strdup(name) : g_build_filename(folder, name, NULL);
}

/* A qcow2 image, or a complaint. */
static struct disk *open_qcow2(const struct image_args *a, struct image_open how)
{
	struct disk *disk;

	how.format = a->format;
	disk = image_open(a, a->files[0], how);
	if (!disk || !strcmp(disk->format, "qcow2"))
		return disk;
	cli_complain(CLI_FAILURE, a->verb, "'%s' is %s, which has no image below it", a->files[0],
		     disk->format);
	disk_close(disk);
	return NULL;
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
		path = beside(a->files[0], info.backing);
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

int image_rebase_main(struct image_args *a)
{
	bool none = a->backing && !strcmp(a->backing, "none");
	struct disk *disk, *below = NULL;
	g_autofree char *path = NULL;
	int r = 0;

	if (!a->backing)
		return cli_complain(CLI_USAGE, a->verb, "--backing is missing; 'none' makes the image stand alone");
	disk = open_qcow2(a, (struct image_open){ .write = true, .no_backing = a->unsafe });
	if (!disk)
		return CLI_FAILURE;
	path = none ? NULL : beside(a->files[0], a->backing);
	if (path && !(below = image_open(a, path, (struct image_open){ .format = a->backing_format }))) {
		disk_close(disk);
		return CLI_FAILURE;
	}
	if (!a->unsafe)
		r = keep_content(disk, below);
	if (r == 0)
		r = qcow2_set_backing(disk, none ? NULL : a->backing, below ? below->format : NULL);
	disk_close(below);
	disk_close(disk);
	if (r == -ENOSPC)
		return cli_complain(CLI_FAILURE, a->verb, "'%s': the name does not fit the header, or the host's disk is full",
				    a->files[0]);
	return r < 0 ? image_fail(a, a->files[0], "cannot be put on top of it", r) : 0;
}
