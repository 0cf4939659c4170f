// SPDX-License-Identifier: Apache-2.0
/*
 * stats.c - what the host's KVM counts of a machine: files of counters that describe themselves
 * (KVM_GET_STATS_FD, Documentation/virt/kvm/api.rst, 4.133), read twice.
 */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/json.h"

/* More than any kernel has; a file that says otherwise is not read. */
#define ROWS_MAX 4096u
#define NAME_MAX_BYTES 256u
#define DATA_MAX (1u << 20)

struct row {
	char *name;
	uint32_t flags;
	int16_t exponent;
	size_t at;   /* of its first counter, in data */
	size_t size; /* counters: more than one is a histogram */
};

/* One file. */
struct source {
	int fd; /* borrowed */
	struct row *rows;
	size_t count;
	off_t data_at;
	uint64_t *first, *data; /* then, and now */
	size_t words;
};

struct engine_stats {
	gint64 begun_us;
	struct source vm;
	struct source vcpu[ENGINE_MAX_VCPUS];
	unsigned vcpus;
};

int kvm_stats_open(int fd)
{
	int r = kvm_ioctl(fd, KVM_GET_STATS_FD, NULL);

	return r < 0 ? -1 : r;
}

/* ---- a file's description ---- */

static void source_clear(struct source *s)
{
	for (size_t i = 0; i < s->count; i++)
		g_free(s->rows[i].name);
	g_free(s->rows);
	g_free(s->first);
	g_free(s->data);
	*s = (struct source){ .fd = -1 };
}

static bool read_rows(struct source *s, const struct kvm_stats_header *head)
{
	size_t each = sizeof(struct kvm_stats_desc) + head->name_size;
	g_autofree uint8_t *bytes = g_malloc(each * head->num_desc);
	size_t end = 0;

	if (fd_pread_all(s->fd, bytes, each * head->num_desc, head->desc_offset) < 0)
		return false;
	s->rows = g_new0(struct row, head->num_desc);
	for (size_t i = 0; i < head->num_desc; i++) {
		struct row *row = &s->rows[i];
		struct kvm_stats_desc d;

		memcpy(&d, bytes + i * each, sizeof(d));
		if (!d.size || d.offset % sizeof(uint64_t) || d.offset >= DATA_MAX)
			return false;
		*row = (struct row){
			.name = g_strndup((const char *)bytes + i * each + sizeof(d), head->name_size),
			.flags = d.flags, .exponent = d.exponent,
			.at = d.offset / sizeof(uint64_t), .size = d.size,
		};
		s->count = i + 1;
		end = MAX(end, row->at + row->size);
	}
	s->words = end;
	return true;
}

static bool read_data(struct source *s, uint64_t **ret)
{
	*ret = g_new0(uint64_t, s->words);
	return fd_pread_all(s->fd, *ret, s->words * sizeof(uint64_t), s->data_at) == 0;
}

static bool source_open(struct source *s, int fd)
{
	struct kvm_stats_header head;

	*s = (struct source){ .fd = fd };
	if (fd < 0 || fd_pread_all(fd, &head, sizeof(head), 0) < 0 || !head.num_desc ||
	    head.num_desc > ROWS_MAX || !head.name_size || head.name_size > NAME_MAX_BYTES)
		return false;
	s->data_at = head.data_offset;
	return read_rows(s, &head) && read_data(s, &s->first);
}

/* ---- begin and end ---- */

static void stats_free(struct engine_stats *stats)
{
	source_clear(&stats->vm);
	for (unsigned i = 0; i < stats->vcpus; i++)
		source_clear(&stats->vcpu[i]);
	g_free(stats);
}

struct engine_stats *kvm_stats_begin(struct engine *engine)
{
	const struct kvm *kvm = (const struct kvm *)engine;
	struct engine_stats *stats = g_new0(struct engine_stats, 1);
	bool good = source_open(&stats->vm, kvm->stats_fd);

	stats->begun_us = g_get_monotonic_time();
	stats->vcpus = kvm->vcpus;
	for (unsigned i = 0; i < stats->vcpus; i++)
		good = source_open(&stats->vcpu[i], kvm->vcpu_stats_fd[i]) && good;
	if (good)
		return stats;
	stats_free(stats);
	return NULL;
}

/* ---- told ---- */

static bool grows(const struct row *row)
{
	return (row->flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_CUMULATIVE;
}

static double per_second(const struct source *s, const struct row *row, double seconds)
{
	return (double)(s->data[row->at] - s->first[row->at]) / seconds;
}

static const char *unit_of(const struct row *row, char text[32])
{
	static const char *const units[] = { "", "bytes", "s", "cycles", "" };
	unsigned unit = (row->flags & KVM_STATS_UNIT_MASK) >> KVM_STATS_UNIT_SHIFT;
	bool binary = (row->flags & KVM_STATS_BASE_MASK) == KVM_STATS_BASE_POW2;

	if (unit >= G_N_ELEMENTS(units))
		return "";
	if (!row->exponent)
		return units[unit];
	if (unit == 2 && row->exponent == -9 && !binary)
		return "ns";
	g_snprintf(text, 32, "%d^%d %s", binary ? 2 : 10, row->exponent, units[unit]);
	return text;
}

/* Rows that are 0, and histograms, are for programs. */
static void tell_source(GString *out, const struct source *s, double seconds)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct row *row = &s->rows[i];
		char unit[32];

		if (row->size > 1 || !s->data[row->at])
			continue;
		g_string_append_printf(out, "  %-32s %20" G_GUINT64_FORMAT, row->name, s->data[row->at]);
		if (grows(row))
			g_string_append_printf(out, " %14.0f", per_second(s, row, seconds));
		else if (*unit_of(row, unit))
			g_string_append_printf(out, " %14s", "");
		if (*unit_of(row, unit))
			g_string_append_printf(out, "  %s", unit_of(row, unit));
		g_string_append_c(out, '\n');
	}
}

static char *tell_text(const struct engine_stats *stats, double seconds)
{
	GString *out = g_string_new(NULL);

	g_string_append_printf(out, "%-34s %20s %14s\n", "MACHINE", "TOTAL", "PER SECOND");
	tell_source(out, &stats->vm, seconds);
	for (unsigned i = 0; i < stats->vcpus; i++) {
		g_string_append_printf(out, "VCPU %u\n", i);
		tell_source(out, &stats->vcpu[i], seconds);
	}
	return g_string_free(out, FALSE);
}

static void tell_source_json(GString *out, const struct source *s, double seconds)
{
	g_string_append_c(out, '{');
	for (size_t i = 0; i < s->count; i++) {
		const struct row *row = &s->rows[i];
		char number[G_ASCII_DTOSTR_BUF_SIZE];

		g_string_append(out, i ? "," : "");
		json_append_string(out, row->name);
		g_string_append(out, row->size > 1 ? ":{\"histogram\":[" : ":{\"value\":");
		for (size_t j = 0; j < row->size; j++)
			g_string_append_printf(out, "%s%" G_GUINT64_FORMAT, j ? "," : "", s->data[row->at + j]);
		g_string_append(out, row->size > 1 ? "]" : "");
		if (grows(row) && row->size == 1)
			g_string_append_printf(out, ",\"per_second\":%s",
					       g_ascii_formatd(number, sizeof(number), "%.1f",
							       per_second(s, row, seconds)));
		g_string_append_c(out, '}');
	}
	g_string_append_c(out, '}');
}

static char *tell_json(const struct engine_stats *stats, double seconds)
{
	GString *out = g_string_new(NULL);
	char number[G_ASCII_DTOSTR_BUF_SIZE];

	g_string_append_printf(out, "{\"seconds\":%s,\"vm\":",
			       g_ascii_formatd(number, sizeof(number), "%.3f", seconds));
	tell_source_json(out, &stats->vm, seconds);
	g_string_append(out, ",\"vcpus\":[");
	for (unsigned i = 0; i < stats->vcpus; i++) {
		g_string_append(out, i ? "," : "");
		tell_source_json(out, &stats->vcpu[i], seconds);
	}
	g_string_append(out, "]}");
	return g_string_free(out, FALSE);
}

char *kvm_stats_end(struct engine_stats *stats, bool json, unsigned top)
{
	double seconds = (double)(g_get_monotonic_time() - stats->begun_us) / 1e6;
	bool good = read_data(&stats->vm, &stats->vm.data);
	char *text = NULL;

	for (unsigned i = 0; i < stats->vcpus; i++)
		good = read_data(&stats->vcpu[i], &stats->vcpu[i].data) && good;
	seconds = MAX(seconds, 1e-6);
	if (good)
		text = json ? tell_json(stats, seconds) : tell_text(stats, seconds);
	stats_free(stats);
	return text;
}
