// SPDX-License-Identifier: Apache-2.0
/*
 * image_convert.c - `sika image convert`: the content of a disk into a new image, or onto a disk that is there.
 *
 * An image is made as a file of another name, which it loses when it is whole. What is there already, an export of a
 * server or a block device, is not made: its bytes are written over, zeros with them, and what it
 * has behind the source's end becomes zeros.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/units.h"
#include "cli/image.h"

#define CHUNK	    (1u << 20)
#define THERE_PIECE (64u << 10) /* shorter runs of zeros are sent as data */

/* Kept in the host's cache, until all is made durable at the end. */
static bool is_durable(const char *cache)
{
	return !cache || !strcmp(cache, "writeback");
}

/* The status, with a complaint. */
static int copy(struct image_args *a, const struct image_copy *c)
{
	const char *failed = NULL, *source = c->from->path;
	int r = image_copy_run(c, &failed);

	if (r >= 0)
		return 0;
	return image_fail(a, failed == source ? source : a->files[1],
			  failed == source ? "cannot be read" : "cannot be written", r);
}

static int convert_into(struct image_args *a, struct disk *from, const char *path,
			const struct qcow2_create *o, const char *format)
{
	/* Nobody sees the file before it is synchronized as a whole: flushes on the way are for nothing. */
	const struct image_open how = { .write = true, .format = format,
					.cache = a->cache ? a->cache : "unsafe" };
	const struct disk_form *form = disk_form_find(format);
	struct image_copy c = { .a = a, .what = "converting", .from = from, .end = from->size_bytes,
				.compress = a->compress, .write_back = is_durable(a->cache) ? path : NULL };
	int status = image_make(a, path, o, format);

	if (status)
		return status;
	c.to = image_open(a, path, how);
	if (!c.to)
		return CLI_FAILURE;
	c.piece = form			  ? MIN(form->piece, 64 * KIB)
		  : !strcmp(format, "raw") ? 4096
		  : a->compress		  ? o->cluster_bytes
					  : MIN(MAX(o->cluster_bytes, 4096), CHUNK);
	c.compress |= disk_form_packs(c.to);
	status = copy(a, &c);
	if (!status && a->bitmaps)
		status = image_bitmaps_copy(a, from, c.to);
	c.to->abandoned = status != 0;
	disk_close(c.to);
	return status;
}

static int make(struct image_args *a, struct disk *from, struct qcow2_create *o, const char *format)
{
	struct image_output out;
	int status;

	o->size_bytes = from->size_bytes;
	status = image_output_begin(&out, a, a->files[1]);
	return status ? status : image_output_end(&out, a, convert_into(a, from, out.temporary, o, format));
}

/* What a server or the kernel has, and nobody here can make. */
static bool is_there(const char *path)
{
	struct stat st;

	return disk_is_remote(path) || (stat(path, &st) == 0 && S_ISBLK(st.st_mode));
}

static int check_there(const struct image_args *a, const char *format)
{
	if (strcmp(format, "raw"))
		return cli_complain(CLI_USAGE, a->verb,
				    "'%s' is there already and takes a disk's bytes, no %s image; --to raw, or nothing, "
				    "is what there is", a->files[1], format);
	if (!strcmp(a->files[0], a->files[1]))
		return cli_complain(CLI_USAGE, a->verb, "'%s' is named as source and as target", a->files[0]);
	if (!a->force && !disk_is_remote(a->files[1]))
		return cli_complain(CLI_FAILURE, a->verb,
				    "'%s' is a block device; --force writes over what is on it", a->files[1]);
	return 0;
}

static int write_over(struct image_args *a, struct disk *from)
{
	const struct image_open how = { .write = true, .format = "raw", .cache = a->cache };
	struct image_copy c = { .a = a, .what = "converting", .from = from, .end = from->size_bytes,
				.piece = THERE_PIECE, .zeroes = true };
	int status;

	c.to = image_open(a, a->files[1], how);
	if (!c.to)
		return CLI_FAILURE;
	if (c.to->size_bytes < from->size_bytes) {
		status = cli_complain(CLI_FAILURE, a->verb,
				      "'%s' has %" G_GUINT64_FORMAT " bytes, too few for the %" G_GUINT64_FORMAT
				      " of '%s'", a->files[1], c.to->size_bytes, from->size_bytes, a->files[0]);
	} else {
		image_catch_signals(a);
		status = copy(a, &c);
		if (!status && image_interrupted())
			status = cli_complain(CLI_FAILURE, a->verb, "interrupted, '%s' holds but a part",
					      a->files[1]);
	}
	disk_close(c.to);
	return status;
}

int image_convert_main(struct image_args *a)
{
	bool there = is_there(a->files[1]);
	const char *format = a->to ? a->to : there ? "raw" : "qcow2";
	struct qcow2_create o;
	struct disk *from;
	int status = image_create_options(a, &o);

	status = status ? status : image_form_options(a, format);
	if (!status && !strcmp(format, "raw") && a->compress)
		status = cli_complain(CLI_USAGE, a->verb, "a raw image cannot be compressed");
	if (!status && a->compress && (o.cluster_bytes > CHUNK || o.cluster_bytes < 4096))
		status = cli_complain(CLI_USAGE, a->verb,
				      "clusters of 4 KiB to 1 MiB can be written compressed");
	if (!status && a->bitmaps && (there || strcmp(format, "qcow2") || o.version < 3))
		status = cli_complain(CLI_USAGE, a->verb, "--bitmaps: only a qcow2 image of version 3 holds bitmaps");
	if (!status && a->bitmaps && a->snapshot)
		status = cli_complain(CLI_USAGE, a->verb, "--bitmaps are of the disk as it is, and not of a snapshot");
	if (!status && a->skip_broken && !a->bitmaps)
		status = cli_complain(CLI_USAGE, a->verb, "--skip-broken-bitmaps goes with --bitmaps");
	if (!status && there)
		status = check_there(a, format);
	if (status)
		return status;
	from = image_open(a, a->files[0], (struct image_open){ .format = a->format,
							       .cache = a->source_cache,
							       .snapshot = a->snapshot });
	if (!from)
		return CLI_FAILURE;
	status = a->bitmaps ? image_bitmaps_check(a, from) : 0;
	if (!status)
		status = there ? write_over(a, from) : make(a, from, &o, format);
	disk_close(from);
	return status;
}
