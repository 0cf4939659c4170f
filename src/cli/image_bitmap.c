// SPDX-License-Identifier: Apache-2.0
/* image_bitmap.c - `sika image bitmap`, and the bitmaps of changed blocks in what info and convert
 * do. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/units.h"
#include "cli/image.h"

#define NO_BITMAPS ", which holds no bitmaps"

static void json_bitmap(const struct qcow2_bitmap_info *b, bool first)
{
	g_autoptr(GString) name = g_string_new(NULL);

	json_append_string(name, b->name);
	printf("%s{\"name\": %s, \"granularity\": %" G_GUINT64_FORMAT ", \"flags\": [%s%s%s]}",
	       first ? "" : ", ", name->str, b->granularity, b->inconsistent ? "\"in-use\"" : "",
	       b->inconsistent && b->enabled ? ", " : "", b->enabled ? "\"auto\"" : "");
}

void image_bitmaps_json(const GPtrArray *list)
{
	putchar('[');
	for (guint i = 0; i < list->len; i++)
		json_bitmap(g_ptr_array_index(list, i), i == 0);
	putchar(']');
}

void image_bitmaps_print(const GPtrArray *list, const char *before)
{
	for (guint i = 0; i < list->len; i++) {
		const struct qcow2_bitmap_info *b = g_ptr_array_index(list, i);
		g_autofree char *size = size_format(b->granularity);
		g_autofree char *name = g_strdup(b->name);

		/* It is an image's, and this a terminal. */
		for (char *c = name; *c; c++)
			if (g_ascii_iscntrl(*c))
				*c = '?';
		printf("%s%s (%s to a bit, %s%s)\n", before, name, size,
		       b->enabled ? "enabled" : "disabled",
		       b->inconsistent ? ", IN USE, or inconsistent when nobody uses it"
		       : b->foreign    ? ", of another kind"
				       : "");
	}
}

static int complain(const struct image_args *a, const GError *err)
{
	return cli_complain(CLI_FAILURE, a->verb, "%s", err->message);
}

static int list_bitmaps(const struct image_args *a, struct disk *disk)
{
	g_autoptr(GPtrArray) list = NULL;
	g_autoptr(GError) err = NULL;

	if (!qcow2_bitmaps(disk, &list, &err))
		return complain(a, err);
	if (a->json) {
		image_bitmaps_json(list);
		putchar('\n');
	} else {
		image_bitmaps_print(list, "");
	}
	return 0;
}

static int add(const struct image_args *a, struct disk *disk, const char *name)
{
	g_autoptr(GError) err = NULL;
	uint64_t granularity = 0;

	if (a->granularity && !size_parse(a->granularity, 1, &granularity, &err))
		return cli_complain(CLI_USAGE, a->verb, "--granularity: %s", err->message);
	return qcow2_bitmap_add(disk, name, granularity, !a->disabled, &err) ? 0 : complain(a, err);
}

/* A bitmap of this image, or of the one that --from names. */
static int merge(const struct image_args *a, struct disk *disk, const char *name,
		 const char *source)
{
	g_autoptr(GError) err = NULL;
	struct disk *from = disk;
	int status = 0;

	if (a->from)
		from = image_open_qcow2(a, a->from, (struct image_open){ .no_backing = true },
					NO_BITMAPS);
	if (!from)
		return CLI_FAILURE;
	if (!qcow2_bitmap_merge(disk, name, from, source, &err))
		status = complain(a, err);
	if (from != disk)
		disk_close(from);
	return status;
}

static int change(const struct image_args *a, struct disk *disk)
{
	const char *what = a->files[0], *name = a->files[2];
	g_autoptr(GError) err = NULL;
	bool done;

	if (!strcmp(what, "add"))
		return add(a, disk, name);
	if (!strcmp(what, "merge"))
		return merge(a, disk, name, a->files[3]);
	if (!strcmp(what, "remove"))
		done = qcow2_bitmap_remove(disk, name, &err);
	else if (!strcmp(what, "clear"))
		done = qcow2_bitmap_clear(disk, name, &err);
	else
		done = qcow2_bitmap_enable(disk, name, !strcmp(what, "enable"), &err);
	return done ? 0 : complain(a, err);
}

int image_bitmap_main(struct image_args *a)
{
	static const char *const verbs[] = { "list",   "add",	  "remove", "clear",
					     "enable", "disable", "merge",  NULL };
	const char *what = a->files[0];
	bool list = !strcmp(what, "list"), merges = !strcmp(what, "merge");
	struct disk *disk;
	int status;

	if (!g_strv_contains(verbs, what))
		return cli_complain(
			CLI_USAGE, a->verb,
			"'%s' is none of list, add, remove, clear, enable, disable, merge", what);
	if (a->file_count != (list ? 2 : merges ? 4 : 3))
		return cli_complain(CLI_USAGE, a->verb, "%s takes an image%s", what,
				    list     ? " and no name"
				    : merges ? ", the bitmap to add to, and the one that is added"
					     : " and the bitmap's name");
	if (((a->granularity || a->disabled) && strcmp(what, "add")) || (a->from && !merges))
		return cli_complain(
			CLI_USAGE, a->verb,
			"--granularity and --disabled are for add, --from is for merge");
	disk = image_open_qcow2(
		a, a->files[1],
		(struct image_open){ .write = !list, .no_backing = true, .format = a->format },
		NO_BITMAPS);
	if (!disk)
		return CLI_FAILURE;
	status = list ? list_bitmaps(a, disk) : change(a, disk);
	disk_close(disk);
	return status;
}

int image_bitmaps_check(const struct image_args *a, struct disk *from)
{
	g_autoptr(GPtrArray) list = NULL;
	g_autoptr(GError) err = NULL;

	if (!qcow2_bitmaps(from, &list, &err))
		return complain(a, err);
	for (guint i = 0; i < list->len && !a->skip_broken; i++) {
		const struct qcow2_bitmap_info *b = g_ptr_array_index(list, i);

		if (b->inconsistent || b->foreign)
			return cli_complain(CLI_FAILURE, a->verb,
					    "'%s' has the bitmap '%s', which cannot be copied; "
					    "--skip-broken-bitmaps "
					    "leaves it out",
					    a->files[0], b->name);
	}
	return 0;
}

int image_bitmaps_copy(const struct image_args *a, struct disk *from, struct disk *to)
{
	g_autoptr(GPtrArray) list = NULL;
	g_autoptr(GError) err = NULL;

	if (!qcow2_bitmaps(from, &list, &err))
		return complain(a, err);
	for (guint i = 0; i < list->len && !image_interrupted(); i++) {
		const struct qcow2_bitmap_info *b = g_ptr_array_index(list, i);

		if (b->inconsistent || b->foreign)
			continue;
		if (!qcow2_bitmap_add(to, b->name, b->granularity, b->enabled, &err) ||
		    !qcow2_bitmap_merge(to, b->name, from, b->name, &err))
			return complain(a, err);
	}
	return 0;
}
