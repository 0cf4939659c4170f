// SPDX-License-Identifier: Apache-2.0
/*
 * check.c - counting again what refers to what in a qcow2 file, and repair.
 *
 * One count per cluster of the file in memory, from walking all tables. Compared with the file's
 * own counts: less there is an error (two may come to own a cluster), more is a leak. Repair does
 * not patch: it writes all counts anew behind everything in use and makes the header name them
 * with one write, so that a cut in the middle leaves the old ones.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "disk/qcow2/qcow2_int.h"

#define MAX_TOLD 20u

struct count {
	struct qcow2 *s;
	uint32_t *refs; /* by cluster of the file */
	uint32_t *seen; /* number of the walk that last saw the L2 table there */
	uint64_t clusters;
	uint32_t walk;
	bool repair;
	unsigned told;
	void (*tell)(void *arg, const char *line);
	void *arg;
	struct qcow2_check *out;
};

static void say(struct count *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void say(struct count *c, const char *fmt, ...)
{
	g_autofree char *line = NULL;
	va_list ap;

	if (!c->tell || c->told++ >= MAX_TOLD)
		return;
	va_start(ap, fmt);
	line = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	c->tell(c->arg, line);
}

static bool add(struct count *c, uint64_t offset, uint64_t len, const char *what)
{
	uint64_t first = offset / c->s->cluster_bytes, last;

	if (len == 0)
		return true;
	last = (offset + len - 1) / c->s->cluster_bytes;
	if (last >= c->clusters) {
		say(c, "%s at %#" PRIx64 " lies behind the end of the file", what, offset);
		c->out->errors++;
		return false;
	}
	for (uint64_t i = first; i <= last; i++)
		c->refs[i]++;
	if ((last + 1) * c->s->cluster_bytes > c->out->end_bytes)
		c->out->end_bytes = (last + 1) * c->s->cluster_bytes;
	return true;
}

/* False: the entry means nothing. */
static bool add_entry(struct count *c, struct qcow2_entry e, bool active)
{
	struct qcow2 *s = c->s;
	uint64_t at, len;

	if (e.entry & QCOW2_COMPRESSED) {
		qcow2_compressed_span(s, e.entry, &at, &len);
		/* The last sector may reach behind the file's end. */
		if (at < s->file->size_bytes && len > s->file->size_bytes - at)
			len = s->file->size_bytes - at;
		c->out->compressed += active;
		c->out->clusters_used += active;
		return add(c, at, len, "a compressed cluster");
	}
	if (!qcow2_entry_cluster(s, e.entry, &at))
		return true;
	if (at & (s->cluster_bytes - 1)) {
		say(c, "a cluster at the impossible place %#" PRIx64, at);
		c->out->errors++;
		return false;
	}
	c->out->clusters_used += active;
	return qcow2_has_data_file(s) || add(c, at, s->cluster_bytes, "a cluster");
}

static int walk_l2(struct count *c, uint64_t at, uint8_t *table, bool active)
{
	struct qcow2 *s = c->s;
	bool changed = false;
	int r = qcow2_file_read(s, table, s->cluster_bytes, at);

	for (uint64_t i = 0; r == 0 && i < s->cluster_bytes; i += s->entry_bytes) {
		struct qcow2_entry e = { load_be64(table + i), 0 };

		if (s->entry_bytes == 16)
			e.bitmap = load_be64(table + i + 8);
		if (add_entry(c, e, active) || !c->repair)
			continue;
		memset(table + i, 0, s->entry_bytes);
		changed = true;
	}
	if (r == 0 && changed)
		r = qcow2_file_write(s, table, s->cluster_bytes, at);
	return r;
}

/* @entries: as numbers; repair clears what means nothing. */
static int walk_l1(struct count *c, uint64_t *entries, uint32_t count, bool active)
{
	struct qcow2 *s = c->s;
	g_autofree uint8_t *table = g_try_malloc(s->cluster_bytes);
	int r = table ? 0 : -ENOMEM;

	c->walk++;
	for (uint32_t i = 0; i < count && r == 0; i++) {
		uint64_t at = entries[i] & QCOW2_OFFSET;
		bool good = true;

		if (at == 0)
			continue;
		if (at & (s->cluster_bytes - 1)) {
			say(c, "an L2 table at the impossible place %#" PRIx64, at);
			c->out->errors++;
			good = false;
		} else {
			good = add(c, at, s->cluster_bytes, "an L2 table");
		}
		if (good && c->seen[at / s->cluster_bytes] == c->walk) {
			say(c, "an L2 table at %#" PRIx64 " is used twice", at);
			c->out->errors++;
			good = false;
			c->refs[at / s->cluster_bytes]--;
		}
		if (good) {
			c->seen[at / s->cluster_bytes] = c->walk;
			r = walk_l2(c, at, table, active);
		} else if (c->repair) {
			entries[i] = 0;
		}
	}
	return r;
}

static int walk_snapshots(struct count *c)
{
	struct qcow2 *s = c->s;
	g_autoptr(GArray) list = NULL;
	uint64_t bytes;
	int r = qcow2_snapshot_tables(s, &list, &bytes);

	if (r < 0) {
		say(c, "the snapshot table cannot be read");
		c->out->errors++;
		return c->repair ? r : 0;
	}
	if (list->len)
		add(c, s->h.snapshots_offset, bytes, "the snapshot table");
	for (guint i = 0; i < list->len && r == 0; i++) {
		struct qcow2_snapshot_table *t =
			&g_array_index(list, struct qcow2_snapshot_table, i);
		g_autofree uint64_t *entries = NULL;

		if (!add(c, t->offset, t->entries * 8ull, "a snapshot's L1 table"))
			continue;
		r = qcow2_load_table(s, t->offset, t->entries, &entries);
		/* A snapshot's own table is not repaired. */
		if (r == 0)
			r = walk_l1(c, entries, t->entries, false);
	}
	return r;
}

/* What its table says. Repair clears entries that mean nothing, and the bitmap tells that it lacks something. */
static int walk_bitmap(struct count *c, struct qcow2_bitmap *b, bool *changed)
{
	struct qcow2 *s = c->s;
	g_autofree uint64_t *entries = NULL;
	static const uint8_t nothing[8];
	int r;

	add(c, b->table_offset, b->table_entries * 8ull, "a bitmap's table");
	r = qcow2_load_table(s, b->table_offset, b->table_entries, &entries);
	for (uint32_t i = 0; i < b->table_entries && r == 0; i++) {
		uint64_t at = entries[i] & QCOW2_OFFSET;
		bool good = qcow2_bitmap_entry_is_sound(s, entries[i]);

		if (!good) {
			say(c, "an impossible entry %#" PRIx64 " in the table of bitmap '%s'", entries[i], b->name);
			c->out->errors++;
		} else if (at) {
			good = add(c, at, s->cluster_bytes, "a cluster of a bitmap");
		}
		if (good || !c->repair)
			continue;
		*changed |= !(b->flags & QCOW2_BITMAP_IN_USE);
		b->flags |= QCOW2_BITMAP_IN_USE;
		r = qcow2_file_write(s, nothing, sizeof(nothing), b->table_offset + i * 8ull);
	}
	return r;
}

/* As the file has them, and not as they are in memory. */
static int walk_bitmaps(struct count *c)
{
	struct qcow2 *s = c->s;
	g_autoptr(GPtrArray) list = NULL;
	g_autoptr(GError) err = NULL;
	bool changed = false;
	int r = 0;

	if (!qcow2_has_bitmaps(s))
		return 0;
	if (!qcow2_bitmap_dir_load(s, &list, &err)) {
		say(c, "%s", err->message);
		/* Damaged is what was read. What cannot be read today may be sound. */
		if (err->code != EINVAL)
			return -err->code;
		c->out->errors++;
		return c->repair ? qcow2_bitmap_dir_drop(s) : 0;
	}
	add(c, s->h.bitmaps_offset, s->h.bitmaps_bytes, "the directory of bitmaps");
	for (guint i = 0; i < list->len && r == 0; i++)
		r = walk_bitmap(c, g_ptr_array_index(list, i), &changed);
	return r == 0 && changed ? qcow2_bitmap_dir_flags(s, list) : r;
}

/* The counts' own clusters. */
static int walk_refs(struct count *c)
{
	struct qcow2 *s = c->s;

	add(c, s->h.reftable_offset, s->h.reftable_clusters * s->cluster_bytes,
	    "the reference count table");
	for (uint32_t i = 0; i < s->reftable_entries; i++) {
		uint64_t at = s->reftable[i];

		if (at == 0)
			continue;
		if (at & (s->cluster_bytes - 1)) {
			say(c, "a refcount block at the impossible place %#" PRIx64, at);
			c->out->errors++;
		} else if (add(c, at, s->cluster_bytes, "a refcount block") &&
			   c->refs[at / s->cluster_bytes] > 1) {
			say(c, "a refcount block at %#" PRIx64 " is used twice", at);
			c->out->errors++;
		}
	}
	return 0;
}

static int count_init(struct count *c)
{
	c->clusters = (c->s->file->size_bytes + c->s->cluster_bytes - 1) / c->s->cluster_bytes;
	c->refs = g_try_new0(uint32_t, c->clusters + 1);
	c->seen = g_try_new0(uint32_t, c->clusters + 1);
	return c->refs && c->seen ? 0 : -ENOMEM;
}

static void count_fini(struct count *c)
{
	g_free(c->refs);
	g_free(c->seen);
}

static int walk_all(struct count *c)
{
	struct qcow2 *s = c->s;
	int r;

	add(c, 0, s->cluster_bytes, "the header");
	add(c, s->h.l1_offset, s->h.l1_entries * 8ull, "the L1 table");
	r = walk_l1(c, s->l1, s->h.l1_entries, true);
	if (r == 0)
		r = walk_snapshots(c);
	return r < 0 ? r : walk_bitmaps(c);
}

/* As the file has it; a block that is not where it could be counts nothing. */
static uint64_t file_refs(struct qcow2 *s, uint64_t cluster)
{
	uint64_t block = cluster / qcow2_refs_per_block(s), refs = 0;

	if (block >= s->reftable_entries || (s->reftable[block] & (s->cluster_bytes - 1)))
		return 0;
	return qcow2_ref_get(s, cluster, &refs) < 0 ? 0 : refs;
}

static void compare(struct count *c)
{
	struct qcow2 *s = c->s;

	for (uint64_t i = 0; i < c->clusters; i++) {
		uint64_t there = file_refs(s, i);

		if (there == c->refs[i])
			continue;
		if (there < c->refs[i])
			c->out->errors++;
		else
			c->out->leaks++;
		say(c, "%s: cluster %" PRIu64 " counts %" PRIu64 " references and has %u",
		    there < c->refs[i] ? "error" : "leak", i, there, c->refs[i]);
	}
}

/* Whether bit 63 says what the counts say; sets it right. */
static uint64_t copied(struct count *c, uint64_t entry, const char *what)
{
	uint64_t at = entry & QCOW2_OFFSET;
	bool alone = qcow2_has_data_file(c->s) && what[0] == 'c';

	if (!alone && at / c->s->cluster_bytes < c->clusters)
		alone = c->refs[at / c->s->cluster_bytes] == 1;
	if (alone == !!(entry & QCOW2_COPIED))
		return entry;
	say(c, "error: %s at %#" PRIx64 " is %s to be owned alone", what, at,
	    alone ? "not said" : "wrongly said");
	c->out->errors++;
	return entry ^ QCOW2_COPIED;
}

static int copied_l2(struct count *c, uint64_t at, uint8_t *table)
{
	struct qcow2 *s = c->s;
	bool changed = false;
	int r = qcow2_file_read(s, table, s->cluster_bytes, at);

	for (uint64_t i = 0; r == 0 && i < s->cluster_bytes; i += s->entry_bytes) {
		uint64_t old = load_be64(table + i), host, entry = old;

		if (qcow2_entry_cluster(s, old, &host))
			entry = copied(c, old, "cluster");
		if (entry == old)
			continue;
		store_be64(table + i, entry);
		changed = true;
	}
	if (r == 0 && changed && c->repair)
		r = qcow2_file_write(s, table, s->cluster_bytes, at);
	return r;
}

static int check_copied(struct count *c)
{
	struct qcow2 *s = c->s;
	g_autofree uint8_t *table = g_try_malloc(s->cluster_bytes);
	int r = table ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < s->h.l1_entries && r == 0; i++) {
		uint64_t at = s->l1[i] & QCOW2_OFFSET, entry;

		if (at == 0 || (at & (s->cluster_bytes - 1)) ||
		    at / s->cluster_bytes >= c->clusters)
			continue;
		entry = copied(c, s->l1[i], "L2 table");
		if (c->repair)
			s->l1[i] = entry;
		r = copied_l2(c, at, table);
	}
	return r;
}

/* The new counts: @first is the first cluster behind everything in use. */
static int write_counts(struct count *c, uint64_t first, uint64_t blocks, uint64_t table)
{
	struct qcow2 *s = c->s;
	uint64_t per_block = qcow2_refs_per_block(s), entries = table * s->cluster_bytes / 8;
	g_autofree uint8_t *bytes = g_try_malloc(s->cluster_bytes);
	g_autofree uint8_t *image = g_try_malloc0(entries * 8);
	uint64_t *reftable = g_try_new0(uint64_t, entries);
	int r = bytes && image && reftable ? 0 : -ENOMEM;

	for (uint64_t b = 0; b < blocks && r == 0; b++) {
		memset(bytes, 0, s->cluster_bytes);
		for (uint64_t i = 0; i < per_block; i++) {
			uint64_t n = b * per_block + i;
			uint64_t refs = n < first ? c->refs[n] : n < first + blocks + table;

			if (refs > qcow2_ref_max(s))
				r = -EMLINK;
			if (refs)
				qcow2_ref_store(bytes, i, s->h.refcount_order, refs);
		}
		reftable[b] = (first + b) * s->cluster_bytes;
		store_be64(image + b * 8, reftable[b]);
		if (r == 0)
			r = qcow2_file_write(s, bytes, s->cluster_bytes, reftable[b]);
	}
	if (r == 0)
		r = qcow2_file_write(s, image, entries * 8, (first + blocks) * s->cluster_bytes);
	if (r == 0)
		r = qcow2_file_flush(s);
	if (r < 0) {
		g_free(reftable);
		return r;
	}
	g_free(s->reftable);
	s->reftable = reftable;
	s->reftable_entries = (uint32_t)entries;
	return 0;
}

static int switch_counts(struct qcow2 *s, uint64_t offset, uint64_t clusters)
{
	int r = qcow2_reftable_name(s, offset, clusters);

	s->h.reftable_offset = offset;
	s->h.reftable_clusters = (uint32_t)clusters;
	s->free_hint = 0;
	s->packed_at = 0;
	return r;
}

static int rebuild(struct count *c)
{
	struct qcow2 *s = c->s;
	uint64_t first = c->out->end_bytes / s->cluster_bytes, blocks = 1, table = 1, old;
	uint64_t per_block = qcow2_refs_per_block(s), per_table = s->cluster_bytes / 8;
	int r;

	do {
		old = blocks + table;
		blocks = (first + blocks + table + per_block - 1) / per_block;
		table = (blocks + per_table - 1) / per_table;
	} while (blocks + table != old);
	if (table > QCOW2_MAX_REFTABLE / s->cluster_bytes)
		return -EFBIG;
	r = write_counts(c, first, blocks, table);
	if (r == 0)
		r = switch_counts(s, (first + blocks) * s->cluster_bytes, table);
	qcow2_cache_fini(&s->refs);
	qcow2_cache_init(&s->refs, s->refs.unit_bytes, s->refs.limit * s->refs.unit_bytes);
	return r;
}

/* Tables that repair may have changed in memory. */
static int write_whole_l1(struct qcow2 *s)
{
	s->l1_dirty_from = 0;
	s->l1_dirty_to = s->h.l1_entries;
	return s->h.l1_entries ? qcow2_commit(s) : 0;
}

int qcow2_rebuild(struct qcow2 *s)
{
	struct qcow2_check found = { 0 };
	struct count c = { .s = s, .repair = true, .out = &found };
	int r = count_init(&c);

	if (r == 0)
		r = walk_all(&c);
	if (r == 0)
		r = rebuild(&c);
	if (r == 0)
		r = check_copied(&c);
	/* Which has written tables that may be known as they were. */
	qcow2_cache_clear(&s->l2);
	s->unpacked_entry = 0;
	if (r == 0)
		r = write_whole_l1(s);
	if (r == 0 && (s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT)))
		r = qcow2_set_incompatible(s, s->h.incompatible & ~(QCOW2_INCOMPAT_DIRTY |
								    QCOW2_INCOMPAT_CORRUPT));
	count_fini(&c);
	return r;
}

static int look(struct qcow2 *s, void (*tell)(void *arg, const char *line), void *arg,
		struct qcow2_check *ret)
{
	struct count c = { .s = s, .tell = tell, .arg = arg, .out = ret };
	int r;

	*ret = (struct qcow2_check){ .clusters_total = (s->disk.size_bytes + s->cluster_bytes - 1) /
						       s->cluster_bytes };
	r = count_init(&c);
	if (r == 0)
		r = walk_all(&c);
	if (r == 0)
		r = walk_refs(&c);
	if (r == 0)
		compare(&c);
	if (r == 0)
		r = check_copied(&c);
	count_fini(&c);
	return r;
}

int qcow2_check(struct disk *disk, bool fix, void (*tell)(void *arg, const char *line), void *arg,
		struct qcow2_check *ret)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	bool flagged = s->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	struct qcow2_check after = { 0 };
	int r = look(s, tell, arg, ret);

	if (r == 0 && fix && (ret->errors || ret->leaks || flagged)) {
		s->broken = false;
		r = qcow2_rebuild(s);
		if (r == 0)
			r = look(s, NULL, NULL, &after);
		ret->repaired = r == 0 && after.errors == 0 && after.leaks == 0;
	}
	/* Closing would take the mark away that counts are to be made anew. */
	if (r < 0 && fix)
		s->broken = true;
	return r;
}
