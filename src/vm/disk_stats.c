// SPDX-License-Identifier: Apache-2.0
/* disk_stats.c - what each disk of a running machine was used for, as text or JSON. */
#include "base/json.h"
#include "base/units.h"
#include "disk/disk.h"
#include "disk/filters/stats.h"
#include "vm/vm.h"
#include "vm/vm_int.h"

#define BAR 40u

/* The end of the bucket in which the @part-th (0..1) of all requests lies, in nanoseconds. */
static uint64_t percentile(const struct disk_stats_of *of, double part)
{
	uint64_t seen = 0, wanted = 0;
	unsigned i;

	for (i = 0; i < DISK_STATS_BUCKETS; i++)
		wanted += of->buckets[i];
	wanted = (uint64_t)((double)wanted * part + 0.5);
	for (i = 0; i + 1 < DISK_STATS_BUCKETS && (seen += of->buckets[i]) < MAX(wanted, 1u); i++)
		;
	return 2ull << i;
}

static char *time_text(double ns)
{
	if (ns < 1e3)
		return g_strdup_printf("%.0f ns", ns);
	if (ns < 1e6)
		return g_strdup_printf("%.1f us", ns / 1e3);
	if (ns < 1e9)
		return g_strdup_printf("%.1f ms", ns / 1e6);
	return g_strdup_printf("%.1f s", ns / 1e9);
}

static void text_of(GString *s, const char *name, const struct disk_stats_of *of)
{
	g_autofree char *bytes = size_format(of->bytes);
	g_autofree char *mean = time_text(of->ops ? (double)of->time_ns / (double)of->ops : 0);
	g_autofree char *half = time_text(of->ops ? (double)percentile(of, 0.5) : 0);
	g_autofree char *most = time_text(of->ops ? (double)percentile(of, 0.99) : 0);

	g_string_append_printf(s, "  %-8s%12" G_GUINT64_FORMAT "%14s%10" G_GUINT64_FORMAT "%12s%12s%12s\n", name,
			       of->ops, bytes, of->errors, mean, half, most);
}

static void text_histogram(GString *s, const char *name, const struct disk_stats_of *of)
{
	uint64_t most = 1;

	for (unsigned i = 0; i < DISK_STATS_BUCKETS; i++)
		most = MAX(most, of->buckets[i]);
	if (of->ops)
		g_string_append_printf(s, "  %s, up to\n", name);
	for (unsigned i = 0; i < DISK_STATS_BUCKETS; i++) {
		g_autofree char *end = time_text((double)(2ull << i));
		g_autofree char *bar = g_strnfill((gsize)((double)of->buckets[i] / (double)most * BAR), '#');

		if (of->buckets[i])
			g_string_append_printf(s, "  %12s%12" G_GUINT64_FORMAT "  %s\n", end, of->buckets[i], bar);
	}
}

static void text_disk(GString *s, unsigned n, const struct vm_disk *d, const struct disk_stats *stats,
		      bool histogram)
{
	g_string_append_printf(s, "disk %u%s%s (%s), %" G_GUINT64_FORMAT " requests under way\n", n,
			       d->serial ? " " : "", d->serial ? d->serial : "", d->path, stats->under_way);
	g_string_append_printf(s, "  %-8s%12s%14s%10s%12s%12s%12s\n", "", "requests", "bytes", "errors", "mean",
			       "half within", "99 % within");
	for (unsigned k = 0; k < DISK_STATS_KINDS; k++)
		text_of(s, disk_stats_names[k], &stats->of[k]);
	for (unsigned k = 0; k < DISK_STATS_KINDS && histogram; k++)
		text_histogram(s, disk_stats_names[k], &stats->of[k]);
}

static void json_of(GString *s, const char *name, const struct disk_stats_of *of)
{
	const char *comma = "";

	g_string_append_printf(s, ",\"%s\":{\"ops\":%" G_GUINT64_FORMAT ",\"bytes\":%" G_GUINT64_FORMAT
				  ",\"errors\":%" G_GUINT64_FORMAT ",\"time_ns\":%" G_GUINT64_FORMAT
				  ",\"latency\":[",
			       name, of->ops, of->bytes, of->errors, of->time_ns);
	for (unsigned i = 0; i < DISK_STATS_BUCKETS; i++) {
		if (!of->buckets[i])
			continue;
		g_string_append_printf(s, "%s{\"from_ns\":%" G_GUINT64_FORMAT ",\"ops\":%" G_GUINT64_FORMAT "}", comma,
				       i ? (uint64_t)1 << i : 0, of->buckets[i]);
		comma = ",";
	}
	g_string_append(s, "]}");
}

static void json_disk(GString *s, unsigned n, const struct vm_disk *d, const struct disk_stats *stats)
{
	g_string_append_printf(s, "%s{\"disk\":%u,\"path\":", n ? "," : "", n);
	json_append_string(s, d->path);
	if (d->serial) {
		g_string_append(s, ",\"serial\":");
		json_append_string(s, d->serial);
	}
	g_string_append_printf(s, ",\"under_way\":%" G_GUINT64_FORMAT, stats->under_way);
	for (unsigned k = 0; k < DISK_STATS_KINDS; k++)
		json_of(s, disk_stats_names[k], &stats->of[k]);
	g_string_append_c(s, '}');
}

char *vm_disk_stats(const struct vm *vm, bool json, bool histogram)
{
	const struct vm_config *c = vm->config;
	GString *s = g_string_new(json ? "[" : "");

	for (unsigned i = 0; i < c->disk_count; i++) {
		struct disk_stats stats;

		disk_stats_get(vm->back.counts[i], &stats);
		if (json)
			json_disk(s, i, &c->disks[i], &stats);
		else
			text_disk(s, i, &c->disks[i], &stats, histogram);
	}
	if (json)
		g_string_append_c(s, ']');
	else if (!c->disk_count)
		g_string_append(s, "no disks\n");
	return g_string_free(s, FALSE);
}
