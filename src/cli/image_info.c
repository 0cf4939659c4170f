// SPDX-License-Identifier: Apache-2.0
/* image_info.c - `sika image` info, check and map. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/image.h"

static uint64_t bytes_on_host(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static char *quoted(const char *text)
{
	GString *s = g_string_new(NULL);

	json_append_string(s, text);
	return g_string_free(s, FALSE);
}

static void json_qcow2(const struct qcow2_info *i, const GPtrArray *bitmaps)
{
	g_autofree char *backing = i->backing ? quoted(i->backing) : g_strdup("null");
	g_autofree char *format = i->backing_format ? quoted(i->backing_format) : g_strdup("null");
	g_autofree char *data = i->data_file ? quoted(i->data_file) : g_strdup("null");

	printf(", \"compat\": %u, \"cluster_bytes\": %" G_GUINT64_FORMAT ", \"refcount_bits\": %u, "
	       "\"compression\": \"%s\", \"lazy_refcounts\": %s, \"extended_l2\": %s, "
	       "\"dirty\": %s, \"corrupt\": %s, \"snapshots\": %u, "
	       "\"backing\": %s, \"backing_format\": %s, \"data_file\": %s, \"data_file_raw\": %s",
	       i->version, i->cluster_bytes, i->refcount_bits, i->zstd ? "zstd" : "zlib",
	       i->lazy_refcounts ? "true" : "false", i->extended_l2 ? "true" : "false",
	       i->dirty ? "true" : "false", i->corrupt ? "true" : "false",
	       i->snapshot_count, backing, format, data, i->data_file_raw ? "true" : "false");
	if (bitmaps) {
		fputs(", \"bitmaps\": ", stdout);
		image_bitmaps_json(bitmaps);
	}
}

static void print_qcow2(const struct qcow2_info *i, const GPtrArray *bitmaps)
{
	g_autofree char *cluster = size_format(i->cluster_bytes);

	printf("version:     %u\nclusters:    %s\nrefcounts:   %u bits%s\ncompression: %s\n", i->version,
	       cluster, i->refcount_bits, i->lazy_refcounts ? ", lazy" : "",
	       i->zstd ? "zstd" : "zlib");
	if (i->extended_l2)
		puts("subclusters: yes");
	if (i->backing)
		printf("on top of:   %s (%s)\n", i->backing,
		       i->backing_format ? i->backing_format : "format not noted");
	if (i->data_file)
		printf("data file:   %s%s\n", i->data_file, i->data_file_raw ? " (raw)" : "");
	if (i->snapshot_count)
		printf("snapshots:   %u\n", i->snapshot_count);
	if (bitmaps)
		image_bitmaps_print(bitmaps, "bitmap:      ");
	if (i->dirty)
		puts("not closed:  its reference counts are made anew when it is next written to");
	if (i->corrupt)
		puts("DAMAGED:     repair it with: sika image check --repair");
}

static void show(const struct image_args *a, struct disk *disk, const char *path)
{
	bool qcow2 = !strcmp(disk->format, "qcow2"), remote = disk_is_remote(path);
	g_autofree char *size = size_format(disk->size_bytes), *host = NULL, *name = quoted(path);
	const char *about = disk_form_about(disk);
	g_autoptr(GPtrArray) bitmaps = NULL;
	struct qcow2_info info = { 0 };
	g_autoptr(GError) err = NULL;

	if (qcow2)
		qcow2_get_info(disk, &info);
	/* All else is to be seen nonetheless. */
	if (qcow2 && !qcow2_bitmaps(disk, &bitmaps, &err))
		log_warn("%s", err->message);
	host = remote ? g_strdup(a->json ? "null" : "elsewhere") :
	       a->json ? g_strdup_printf("%" G_GUINT64_FORMAT, bytes_on_host(path)) :
			 size_format(bytes_on_host(path));
	if (a->json) {
		printf("{\"file\": %s, \"format\": \"%s\", \"size_bytes\": %" G_GUINT64_FORMAT
		       ", \"host_bytes\": %s",
		       name, disk->format, disk->size_bytes, host);
		if (qcow2)
			json_qcow2(&info, bitmaps);
		if (about) {
			g_autofree char *text = quoted(about);

			printf(", \"about\": %s", text);
		}
		fputs("}", stdout);
	} else {
		printf("format:      %s\ndisk:        %s (%" G_GUINT64_FORMAT " bytes)\nhost:        %s\n",
		       disk->format, size, disk->size_bytes, host);
		if (qcow2)
			print_qcow2(&info, bitmaps);
		if (about)
			printf("kind:        %s\n", about);
	}
}

/* All that qcow2 images stand on, the user's own first. */
static void show_chain(const struct image_args *a, struct disk *disk)
{
	fputs(a->json ? "[" : "", stdout);
	for (bool first = true; disk; first = false) {
		fputs(first ? "" : a->json ? ",\n " : "\n", stdout);
		if (!a->json)
			printf("image:       %s\n", disk->path);
		show(a, disk, disk->path);
		disk = !strcmp(disk->format, "qcow2") ? qcow2_backing(disk) : NULL;
	}
	fputs(a->json ? "]\n" : "", stdout);
}

int image_info_main(struct image_args *a)
{
	const char *path = a->files[0];
	struct disk *disk = image_open(a, path, (struct image_open){ .format = a->format,
								      .no_backing = !a->chain,
								      .unlocked = true });

	if (!disk)
		return CLI_FAILURE;
	if (a->chain) {
		show_chain(a, disk);
	} else {
		show(a, disk, path);
		fputs(a->json ? "\n" : "", stdout);
	}
	disk_close(disk);
	return 0;
}

static void tell(void *arg, const char *line)
{
	fprintf(stderr, "%s\n", line);
	(void)arg;
}

static int report_check(const struct image_args *a, const struct qcow2_check *c)
{
	bool wrong = c->errors || c->leaks;

	if (a->json)
		printf("{\"errors\": %" G_GUINT64_FORMAT ", \"leaks\": %" G_GUINT64_FORMAT
		       ", \"repaired\": %s, \"clusters_used\": %" G_GUINT64_FORMAT
		       ", \"clusters_total\": %" G_GUINT64_FORMAT ", \"compressed\": %" G_GUINT64_FORMAT
		       ", \"end_bytes\": %" G_GUINT64_FORMAT "}\n",
		       c->errors, c->leaks, c->repaired ? "true" : "false", c->clusters_used,
		       c->clusters_total, c->compressed, c->end_bytes);
	else if (c->repaired)
		printf("repaired: %" G_GUINT64_FORMAT " errors, %" G_GUINT64_FORMAT " lost clusters\n",
		       c->errors, c->leaks);
	else if (!wrong)
		puts("no errors");
	else if (a->repair)
		printf("%" G_GUINT64_FORMAT " errors, %" G_GUINT64_FORMAT
		       " lost clusters, of which none can be repaired\n",
		       c->errors, c->leaks);
	else
		printf("%" G_GUINT64_FORMAT " errors, %" G_GUINT64_FORMAT
		       " lost clusters; repair it with: sika image check --repair\n",
		       c->errors, c->leaks);
	return wrong && !c->repaired ? CLI_FAILURE : 0;
}

/* What other formats than qcow2 tell, in its words. */
static int check_form(const struct image_args *a, struct disk *disk, struct qcow2_check *ret)
{
	struct disk_found found = { .tell = a->json ? NULL : tell };
	int r = disk_form_check(disk, a->repair, &found);

	*ret = (struct qcow2_check){ .errors = found.errors, .leaks = found.leaks,
				     .clusters_used = found.used, .clusters_total = found.total,
				     .end_bytes = found.end_bytes, .repaired = found.repaired };
	return r;
}

int image_check_main(struct image_args *a)
{
	const struct image_open how = { .write = a->repair, .repair = a->repair, .no_backing = true,
					.format = a->format };
	struct disk *disk = image_open(a, a->files[0], how);
	struct qcow2_check found;
	int status = 0, r;

	if (!disk)
		return CLI_FAILURE;
	if (!strcmp(disk->format, "raw")) {
		status = cli_complain(CLI_FAILURE, a->verb, "'%s' is %s, in which there is nothing to check",
				      a->files[0], disk->format);
	} else {
		r = strcmp(disk->format, "qcow2") ?
			    check_form(a, disk, &found) :
			    qcow2_check(disk, a->repair, a->json ? NULL : tell, NULL, &found);
		status = r < 0 ? image_fail(a, a->files[0], "cannot be checked", r) :
				 report_check(a, &found);
	}
	disk_close(disk);
	return status;
}

static const char *state_name(enum disk_state state)
{
	return state == DISK_DATA ? "data" : state == DISK_ZERO ? "zero" :
	       state == DISK_COMPRESSED ? "compressed" : "absent";
}

static bool is_more_of(const struct disk_map *a, const struct disk_map *b)
{
	return a->len && a->state == b->state && a->depth == b->depth &&
	       (a->host_offset == DISK_NO_OFFSET ? b->host_offset == DISK_NO_OFFSET :
						   a->host_offset + a->len == b->host_offset);
}

static void print_map(const struct disk_map *m, uint64_t at, bool json)
{
	g_autofree char *host = m->host_offset == DISK_NO_OFFSET ?
					g_strdup(json ? "null" : "-") :
					g_strdup_printf("%" G_GUINT64_FORMAT, m->host_offset);

	if (m->len == 0)
		return;
	if (json)
		printf("%s\n  {\"offset\": %" G_GUINT64_FORMAT ", \"len\": %" G_GUINT64_FORMAT
		       ", \"state\": \"%s\", \"depth\": %u, \"host_offset\": %s}",
		       at ? "," : "", at, m->len, state_name(m->state), m->depth, host);
	else
		printf("%16" G_GUINT64_FORMAT " %16" G_GUINT64_FORMAT " %-10s %5u %16s\n", at, m->len,
		       state_name(m->state), m->depth, host);
}

int image_map_main(struct image_args *a)
{
	struct disk *disk = image_open(a, a->files[0], (struct image_open){ .format = a->format,
									   .snapshot = a->snapshot });
	struct disk_map run = { 0 };
	uint64_t at = 0, start = 0;
	int r = 0;

	if (!disk)
		return CLI_FAILURE;
	fputs(a->json ? "[" : "          offset           length state      depth    in its file at\n",
	      stdout);
	while (at < disk->size_bytes) {
		struct disk_req req = { .op = DISK_MAP, .offset = at, .len = disk->size_bytes - at };

		r = disk_run(disk, &req);
		if (r < 0)
			break;
		if (is_more_of(&run, &req.map)) {
			run.len += req.map.len;
		} else {
			print_map(&run, start, a->json);
			run = req.map;
			start = at;
		}
		at += req.map.len;
	}
	print_map(&run, start, a->json);
	if (a->json)
		puts("\n]");
	disk_close(disk);
	return r < 0 ? image_fail(a, a->files[0], "cannot be read", r) : 0;
}
