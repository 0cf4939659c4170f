// SPDX-License-Identifier: Apache-2.0
/* image_make.c - `sika image` create, resize, snapshot and measure. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/image.h"

static int make_qcow2(const struct image_args *a, const char *path, const struct qcow2_create *o)
{
	g_autofree char *folder = o->data_file ? g_path_get_dirname(o->data_file) : NULL;
	const char *allow[] = { folder, NULL };
	const struct disk_options again = { .format = "qcow2", .no_backing = true, .allow = allow };
	g_autoptr(GError) err = NULL;
	struct disk *disk;
	int r;

	if (!qcow2_create_file(path, o, a->loop, &err))
		return cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
	if (o->prealloc == DISK_PREALLOC_OFF)
		return 0;
	disk = disk_open_options(path, &again, a->loop, &err);
	if (!disk)
		return cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
	r = qcow2_preallocate(disk, o->prealloc);
	disk_close(disk);
	return r < 0 ? image_fail(a, path, "cannot be preallocated", r) : 0;
}

static int make_raw(const struct image_args *a, const char *path, const struct qcow2_create *o)
{
	auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
	int r = fd < 0 || ftruncate(fd, (off_t)o->size_bytes) < 0 ? -errno : 0;

	if (r == 0 && o->prealloc != DISK_PREALLOC_OFF && o->size_bytes)
		r = -posix_fallocate(fd, 0, (off_t)o->size_bytes);
	return r < 0 ? image_fail(a, path, "cannot be made", r) : 0;
}

int image_make(struct image_args *a, const char *path, const struct qcow2_create *o,
	       const char *format)
{
	const struct disk_form *form = disk_form_find(format);

	if (form)
		return image_form_make(a, path, o, form);
	return !strcmp(format, "raw") ? make_raw(a, path, o) : make_qcow2(a, path, o);
}

/* The image below: its size is the default, and its format is written down. */
static int look_below(const struct image_args *a, struct qcow2_create *o, const char **ret_format)
{
	g_autofree char *path = disk_beside(a->files[0], a->backing);
	struct disk *disk = image_open(a, path, (struct image_open){ .format = a->backing_format });

	if (!disk)
		return CLI_FAILURE;
	*ret_format = disk->format;
	if (o->size_bytes == 0)
		o->size_bytes = disk->size_bytes;
	disk_close(disk);
	return 0;
}

static int make_data_file(const struct image_args *a, struct qcow2_create *o, char **ret_path)
{
	auto_fd int fd = -1;

	if (!o->data_file)
		return 0;
	*ret_path = g_canonicalize_filename(o->data_file, NULL);
	fd = open(*ret_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0 || ftruncate(fd, (off_t)o->size_bytes) < 0)
		return image_fail(a, o->data_file, "cannot be created", -errno);
	o->data_file = *ret_path;
	return 0;
}

int image_create_main(struct image_args *a)
{
	const char *format = a->format ? a->format : "qcow2";
	const struct disk_form *form = disk_form_find(format);
	g_autofree char *data_file = NULL;
	g_autoptr(GError) err = NULL;
	struct image_output out;
	struct qcow2_create o;
	int status = image_create_options(a, &o);

	status = status ? status : image_form_options(a, format);
	if (!status && a->files[1] && !size_parse(a->files[1], 1, &o.size_bytes, &err))
		status = cli_complain(CLI_USAGE, a->verb, "%s", err->message);
	if (!status && !a->files[1] && !a->backing)
		status = cli_complain(CLI_USAGE, a->verb, "the size is missing, as 10G");
	if (!status && strcmp(format, "qcow2") && a->data_file)
		status = cli_complain(CLI_USAGE, a->verb, "a %s image has no data file; take qcow2", format);
	if (!status && a->backing && strcmp(format, "qcow2") && !(form && form->stacks))
		status = cli_complain(CLI_USAGE, a->verb, "a %s image has no image below it; take qcow2",
				      format);
	if (!status && a->backing)
		status = look_below(a, &o, &o.backing_format);
	if (!status && a->backing && form && strcmp(o.backing_format, form->name))
		status = cli_complain(CLI_USAGE, a->verb, "'%s' is %s; a %s image stands on %s images only",
				      a->backing, o.backing_format, form->title, form->title);
	o.backing = a->backing;
	o.size_bytes = (o.size_bytes + DISK_SECTOR_SIZE - 1) & ~(uint64_t)(DISK_SECTOR_SIZE - 1);
	if (!status && o.size_bytes == 0)
		status = cli_complain(CLI_USAGE, a->verb, "a disk of no bytes is of no use");
	if (!status)
		status = image_output_begin(&out, a, a->files[0]);
	if (status)
		return status;
	status = make_data_file(a, &o, &data_file);
	if (!status)
		status = image_make(a, out.temporary, &o, format);
	status = image_output_end(&out, a, status);
	if (status && data_file && o.data_file == data_file)
		(void)unlink(data_file);
	return status;
}

int image_resize_main(struct image_args *a)
{
	const char *text = a->files[1];
	bool more = *text == '+', less = *text == '-';
	struct disk_req req = { .op = DISK_RESIZE };
	g_autoptr(GError) err = NULL;
	struct disk *disk;
	int r;

	if (!size_parse(text + (more || less), 1, &req.offset, &err))
		return cli_complain(CLI_USAGE, a->verb, "%s", err->message);
	disk = image_open(a, a->files[0], (struct image_open){ .write = true, .format = a->format });
	if (!disk)
		return CLI_FAILURE;
	if (more)
		req.offset += disk->size_bytes;
	if (less)
		req.offset = disk->size_bytes > req.offset ? disk->size_bytes - req.offset : 0;
	req.offset = (req.offset + DISK_SECTOR_SIZE - 1) & ~(uint64_t)(DISK_SECTOR_SIZE - 1);
	if (req.offset == 0)
		r = cli_complain(CLI_USAGE, a->verb, "nothing would be left of '%s'", a->files[0]);
	else if (req.offset < disk->size_bytes && !a->shrink)
		r = cli_complain(CLI_USAGE, a->verb,
				 "'%s' would become smaller and lose its end; --shrink allows it",
				 a->files[0]);
	else if ((r = disk_run(disk, &req)) == -EOPNOTSUPP && strcmp(disk->format, "raw"))
		r = cli_complain(CLI_FAILURE, a->verb,
				 "'%s' is %s, whose size cannot be changed; converted to qcow2 or raw it can",
				 a->files[0], disk->format);
	else if (r < 0 || (r = disk_flush_wait(disk)) < 0)
		r = image_fail(a, a->files[0], "cannot be resized", r);
	disk_close(disk);
	return r;
}

static void print_snapshot(const struct qcow2_snapshot *s, bool json, bool first)
{
	g_autoptr(GString) name = g_string_new(NULL);
	g_autoptr(GDateTime) when = g_date_time_new_from_unix_utc(s->seconds);
	g_autofree char *time = g_date_time_format(when, "%Y-%m-%d %H:%M:%S");

	json_append_string(name, s->name);
	if (json)
		printf("%s\n  {\"id\": \"%s\", \"name\": %s, \"seconds\": %u, \"size_bytes\": %" G_GUINT64_FORMAT
		       ", \"vm_bytes\": %" G_GUINT64_FORMAT "}",
		       first ? "" : ",", s->id, name->str, s->seconds, s->size_bytes, s->vm_bytes);
	else
		printf("%-6s %s  %s\n", s->id, time, s->name);
}

static int list_snapshots(const struct image_args *a, struct disk *disk)
{
	g_autoptr(GPtrArray) list = NULL;
	int r = qcow2_snapshots(disk, &list);

	if (r < 0)
		return image_fail(a, disk->path, "has a table of snapshots that cannot be read", r);
	if (a->json)
		putchar('[');
	for (guint i = 0; i < list->len; i++)
		print_snapshot(g_ptr_array_index(list, i), a->json, i == 0);
	if (a->json)
		puts(list->len ? "\n]" : "]");
	return 0;
}

static int change_snapshot(const struct image_args *a, struct disk *disk)
{
	const char *what = a->files[0], *name = a->files[2];
	struct timespec now;
	int r;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (!strcmp(what, "create"))
		r = qcow2_snapshot_create(disk, name, (uint32_t)now.tv_sec, (uint32_t)now.tv_nsec);
	else if (!strcmp(what, "apply"))
		r = qcow2_snapshot_apply(disk, name);
	else
		r = qcow2_snapshot_delete(disk, name);
	if (r == -ENOENT)
		return cli_complain(CLI_FAILURE, a->verb, "'%s' has no snapshot '%s'", disk->path, name);
	if (r == -EEXIST)
		return cli_complain(CLI_FAILURE, a->verb, "'%s' has a snapshot '%s' already", disk->path,
				    name);
	if (r == -EMLINK)
		return cli_complain(CLI_FAILURE, a->verb,
				    "'%s' has reference counts too small for one more snapshot",
				    disk->path);
	return r < 0 ? image_fail(a, disk->path, "cannot be changed", r) : 0;
}

int image_snapshot_main(struct image_args *a)
{
	static const char *const verbs[] = { "create", "apply", "delete", NULL };
	bool list = !strcmp(a->files[0], "list");
	struct disk *disk;
	int status;

	if (!list && !g_strv_contains(verbs, a->files[0]))
		return cli_complain(CLI_USAGE, a->verb,
				    "'%s' is none of list, create, apply, delete", a->files[0]);
	if (list != (a->file_count == 2))
		return cli_complain(CLI_USAGE, a->verb, list ? "list takes no name" : "the name is missing");
	disk = image_open_qcow2(a, a->files[1],
				(struct image_open){ .write = !list, .format = a->format },
				", which holds no snapshots");
	if (!disk)
		return CLI_FAILURE;
	status = list ? list_snapshots(a, disk) : change_snapshot(a, disk);
	disk_close(disk);
	return status;
}

/* Bytes in clusters that hold data, counted along the map. */
static int count_data(struct disk *disk, uint64_t cluster, uint64_t *ret)
{
	uint64_t next = 0; /* no cluster before this one counts again */

	*ret = 0;
	for (uint64_t at = 0; at < disk->size_bytes;) {
		struct disk_req req = { .op = DISK_MAP, .offset = at, .len = disk->size_bytes - at };
		int r = disk_run(disk, &req);

		if (r < 0)
			return r;
		if (req.map.state == DISK_DATA || req.map.state == DISK_COMPRESSED) {
			uint64_t from = MAX(at / cluster, next);

			next = (at + req.map.len + cluster - 1) / cluster;
			*ret += next > from ? (next - from) * cluster : 0;
		}
		at += req.map.len;
	}
	return 0;
}

/* The size of the disk, how much of it is data in pieces of @piece bytes, and what its bitmaps take: of a file, or
 * of --size. */
static int look_at_source(struct image_args *a, uint64_t piece, struct qcow2_create *o, uint64_t *ret_data,
			  uint64_t *ret_bitmaps)
{
	g_autoptr(GError) err = NULL;
	struct disk *disk;
	int r;

	*ret_data = *ret_bitmaps = 0;
	if (!a->size == !a->file_count)
		return cli_complain(CLI_USAGE, a->verb, "what it takes is either FILE or --size; see 'sika image --help'");
	if (a->size && !size_parse(a->size, 1, &o->size_bytes, &err))
		return cli_complain(CLI_USAGE, a->verb, "--size: %s", err->message);
	if (a->size)
		return 0;
	disk = image_open(a, a->files[0], (struct image_open){ .format = a->format, .snapshot = a->snapshot });
	if (!disk)
		return CLI_FAILURE;
	o->size_bytes = disk->size_bytes;
	r = count_data(disk, piece, ret_data);
	if (r == 0 && !qcow2_bitmaps_measure(disk, o->cluster_bytes, ret_bitmaps, &err))
		log_warn("%s", err->message);
	disk_close(disk);
	return r < 0 ? image_fail(a, a->files[0], "cannot be read", r) : 0;
}

int image_measure_main(struct image_args *a)
{
	const char *format = a->to ? a->to : "qcow2";
	const struct disk_form *form = disk_form_find(format);
	bool raw = !strcmp(format, "raw");
	uint64_t data, bitmaps = 0, required, full;
	struct qcow2_create o;
	int status = image_create_options(a, &o);

	status = status ? status : image_form_options(a, format);
	if (status)
		return status;
	if (o.cluster_bytes < 512 || o.cluster_bytes > 2 * MIB ||
	    (o.cluster_bytes & (o.cluster_bytes - 1)) || o.refcount_bits < 1 || o.refcount_bits > 64)
		return cli_complain(CLI_USAGE, a->verb, "no image has such clusters or counts");
	status = look_at_source(a, form ? form->piece : o.cluster_bytes, &o, &data, &bitmaps);
	if (status)
		return status;
	required = raw ? o.size_bytes : qcow2_measure(&o, data);
	full = raw ? o.size_bytes : qcow2_measure(&o, o.size_bytes);
	if (form) {
		status = image_form_measure(a, form, o.size_bytes, data, &required);
		status = status ? status :
				  image_form_measure(a, form, o.size_bytes, o.size_bytes, &full);
	}
	if (status)
		return status;
	/* What convert --bitmaps adds. */
	if (strcmp(format, "qcow2"))
		bitmaps = 0;
	if (a->json)
		printf("{\"required\": %" G_GUINT64_FORMAT ", \"fully_allocated\": %" G_GUINT64_FORMAT
		       ", \"bitmaps\": %" G_GUINT64_FORMAT "}\n",
		       required, full, bitmaps);
	else
		printf("required: %" G_GUINT64_FORMAT "\nfully allocated: %" G_GUINT64_FORMAT "\n",
		       required, full);
	if (!a->json && bitmaps)
		printf("bitmaps: %" G_GUINT64_FORMAT "\n", bitmaps);
	return 0;
}
