// SPDX-License-Identifier: Apache-2.0
/*
 * snapshot.c - internal snapshots, and what else changes a qcow2 header: the backing image.
 *
 * A snapshot is a copy of the L1 table; what it leads to counts one more. The table of snapshots is
 * never changed in place: another one is written and the header made to name it. While counts and
 * tables disagree the dirty bit is set, so that a cut in the middle is repaired by the next opening.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/qcow2/qcow2_int.h"

#define ENTRY_BYTES 40u
#define MAX_EXTRA   1024u

/* One entry: 40 bytes, extra data, number, name, padding. */
static int load_entry(struct qcow2 *s, uint64_t *at, GByteArray *blob,
		      struct qcow2_snapshot_table *ret)
{
	uint8_t head[ENTRY_BYTES];
	uint32_t extra, id, name;
	size_t len, from = blob->len;
	int r = qcow2_file_read(s, head, sizeof(head), *at);

	if (r < 0)
		return r;
	extra = load_be32(head + 36);
	id = load_be16(head + 12);
	name = load_be16(head + 14);
	*ret = (struct qcow2_snapshot_table){ .offset = load_be64(head),
					      .entries = load_be32(head + 8), .extra = extra,
					      .id = id, .name = name, .at = from };
	len = align_up(ENTRY_BYTES + extra + id + name, 8);
	if (extra > MAX_EXTRA || len > QCOW2_MAX_SNAPSHOT_TABLE - from ||
	    ret->entries > QCOW2_MAX_L1_BYTES / 8 || (ret->offset & (s->cluster_bytes - 1)) ||
	    ret->offset >= QCOW2_MAX_FILE)
		return -EIO;
	g_byte_array_set_size(blob, (guint)(from + len));
	*at += len;
	ret->len = len;
	return qcow2_file_read(s, blob->data + from, len, *at - len);
}

static int load_all(struct qcow2 *s, GByteArray **ret_blob, GArray **ret_list)
{
	g_autoptr(GByteArray) blob = g_byte_array_new();
	g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(struct qcow2_snapshot_table));
	uint64_t at = s->h.snapshots_offset;

	for (uint32_t i = 0; i < s->h.snapshot_count; i++) {
		struct qcow2_snapshot_table t;
		int r = load_entry(s, &at, blob, &t);

		if (r < 0)
			return r;
		g_array_append_val(list, t);
	}
	*ret_blob = g_steal_pointer(&blob);
	*ret_list = g_steal_pointer(&list);
	return 0;
}

int qcow2_snapshot_tables(struct qcow2 *s, GArray **ret_list, uint64_t *ret_bytes)
{
	g_autoptr(GByteArray) blob = NULL;
	int r = load_all(s, &blob, ret_list);

	*ret_bytes = r == 0 ? blob->len : 0;
	return r;
}

static void snapshot_free(void *p)
{
	struct qcow2_snapshot *snapshot = p;

	g_free(snapshot->id);
	g_free(snapshot->name);
	g_free(snapshot);
}

static uint64_t extra_field(const uint8_t *entry, const struct qcow2_snapshot_table *t, unsigned at,
			    uint64_t otherwise)
{
	return t->extra >= at + 8 ? load_be64(entry + ENTRY_BYTES + at) : otherwise;
}

int qcow2_snapshots(struct disk *disk, GPtrArray **ret)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	g_autoptr(GByteArray) blob = NULL;
	g_autoptr(GArray) list = NULL;
	int r = load_all(s, &blob, &list);

	if (r < 0)
		return r;
	*ret = g_ptr_array_new_with_free_func(snapshot_free);
	for (guint i = 0; i < list->len; i++) {
		const struct qcow2_snapshot_table *t =
			&g_array_index(list, struct qcow2_snapshot_table, i);
		const uint8_t *entry = blob->data + t->at;
		struct qcow2_snapshot *one = g_new0(struct qcow2_snapshot, 1);

		one->id = g_strndup((const char *)entry + ENTRY_BYTES + t->extra, t->id);
		one->name = g_strndup((const char *)entry + ENTRY_BYTES + t->extra + t->id, t->name);
		one->seconds = load_be32(entry + 16);
		one->nanoseconds = load_be32(entry + 20);
		one->vm_clock_ns = load_be64(entry + 24);
		one->vm_bytes = extra_field(entry, t, 0, load_be32(entry + 32));
		one->size_bytes = extra_field(entry, t, 8, s->disk.size_bytes);
		g_ptr_array_add(*ret, one);
	}
	return 0;
}

/* By name first, then by number; -1: none. */
static int find(const GByteArray *blob, const GArray *list, const char *name)
{
	for (int pass = 0; pass < 2; pass++) {
		for (guint i = 0; i < list->len; i++) {
			const struct qcow2_snapshot_table *t =
				&g_array_index(list, struct qcow2_snapshot_table, i);
			const uint8_t *text = blob->data + t->at + ENTRY_BYTES + t->extra;
			size_t len = pass ? t->id : t->name;

			if (!pass)
				text += t->id;
			if (strlen(name) == len && !memcmp(text, name, len))
				return (int)i;
		}
	}
	return -1;
}

/* One more or one less for all that an entry of an L2 table names. */
static int ref_entry(struct qcow2 *s, uint64_t entry, int delta)
{
	uint64_t at, len, first, last;
	int r = 0;

	if (entry & QCOW2_COMPRESSED) {
		qcow2_compressed_span(s, entry, &at, &len);
	} else if (qcow2_entry_cluster(s, entry, &at)) {
		len = s->cluster_bytes;
		if (at & (s->cluster_bytes - 1))
			return qcow2_corrupt(s, "a cluster at an impossible place", at);
	} else {
		return 0;
	}
	first = at >> s->h.cluster_bits;
	last = (at + len - 1) >> s->h.cluster_bits;
	for (uint64_t c = first; c <= last && r == 0; c++)
		r = qcow2_ref_add(s, c, delta);
	return r;
}

static int ref_tree(struct qcow2 *s, const uint64_t *l1, uint32_t count, int delta)
{
	g_autofree uint8_t *table = g_try_malloc(s->cluster_bytes);
	int r = table && l1 ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < count && r == 0; i++) {
		uint64_t at = l1[i] & QCOW2_OFFSET;

		if (at == 0)
			continue;
		if (at & (s->cluster_bytes - 1))
			return qcow2_corrupt(s, "an L2 table at an impossible place", at);
		r = qcow2_file_read(s, table, s->cluster_bytes, at);
		for (uint64_t e = 0; e < s->cluster_bytes && r == 0; e += s->entry_bytes)
			r = ref_entry(s, load_be64(table + e), delta);
		if (r == 0)
			r = qcow2_ref_add(s, at >> s->h.cluster_bits, delta);
	}
	return r;
}

static int copied_bit(struct qcow2 *s, uint64_t *entry)
{
	uint64_t refs;
	int r = qcow2_ref_get(s, (*entry & QCOW2_OFFSET) >> s->h.cluster_bits, &refs);

	if (r == 0)
		*entry = refs == 1 ? *entry | QCOW2_COPIED : *entry & ~QCOW2_COPIED;
	return r;
}

static int copied_table(struct qcow2 *s, uint64_t at, uint8_t *table)
{
	bool changed = false;
	int r = qcow2_file_read(s, table, s->cluster_bytes, at);

	for (uint64_t i = 0; i < s->cluster_bytes && r == 0; i += s->entry_bytes) {
		uint64_t old = load_be64(table + i), entry = old, host;

		if (qcow2_entry_cluster(s, old, &host))
			r = copied_bit(s, &entry);
		if (entry != old)
			store_be64(table + i, entry);
		changed |= entry != old;
	}
	return r == 0 && changed ? qcow2_file_write(s, table, s->cluster_bytes, at) : r;
}

/* Bit 63 of all entries of the active tables, from the counts. Nothing is dirty. */
static int set_copied(struct qcow2 *s)
{
	g_autofree uint8_t *table = g_try_malloc(s->cluster_bytes);
	int r = table ? 0 : -ENOMEM;

	qcow2_cache_clear(&s->l2);
	for (uint32_t i = 0; i < s->h.l1_entries && r == 0; i++) {
		if (!(s->l1[i] & QCOW2_OFFSET))
			continue;
		r = copied_bit(s, &s->l1[i]);
		if (r == 0)
			r = copied_table(s, s->l1[i] & QCOW2_OFFSET, table);
	}
	s->l1_dirty_from = 0;
	s->l1_dirty_to = s->h.l1_entries;
	return r;
}

/* The header names this table of snapshots, durably; the one before is given up. */
static int switch_table(struct qcow2 *s, const GByteArray *blob, uint32_t count, uint64_t old_bytes)
{
	uint64_t old_at = s->h.snapshots_offset, at = 0, clusters;
	uint8_t field[12];
	int r = 0;

	clusters = (blob->len + s->cluster_bytes - 1) / s->cluster_bytes;
	if (clusters)
		r = qcow2_alloc(s, clusters, true, &at, NULL);
	if (r == 0 && clusters)
		r = qcow2_file_write(s, blob->data, blob->len, at);
	if (r == 0)
		r = qcow2_commit(s);
	store_be32(field, count);
	store_be64(field + 4, at);
	if (r == 0)
		r = qcow2_header_name(s, field, sizeof(field), QCOW2_AT_SNAPSHOTS);
	if (r < 0)
		return r;
	s->h.snapshot_count = count;
	s->h.snapshots_offset = at;
	qcow2_unalloc(s, old_at, (old_bytes + s->cluster_bytes - 1) / s->cluster_bytes);
	return 0;
}

static int begin(struct qcow2 *s)
{
	int r = s->broken || s->disk.readonly ? -EROFS : qcow2_commit(s);

	if (r == 0 && qcow2_has_data_file(s))
		r = -EOPNOTSUPP;
	if (r == 0 && s->h.version >= 3)
		r = qcow2_set_incompatible(s, s->h.incompatible | QCOW2_INCOMPAT_DIRTY);
	s->packed_at = 0;
	return r;
}

/* @r: how it went so far. What went wrong in the middle is counted again. */
static int end(struct qcow2 *s, int r)
{
	int e = r;

	if (r == 0)
		r = qcow2_commit(s);
	if (r == 0)
		r = set_copied(s);
	if (r == 0)
		r = qcow2_cache_write(s, &s->refs);
	if (r == 0)
		r = qcow2_commit(s);
	/* What the header names is not known any more: counts stay as they are, too large if not right. */
	if (r < 0 && s->broken)
		return r;
	e = r < 0 ? qcow2_rebuild(s) : 0;
	/* Who opens it next sees the mark and counts again. */
	if (e < 0)
		s->broken = true;
	if (e == 0 && s->h.version >= 3)
		e = qcow2_set_incompatible(s, s->h.incompatible & ~QCOW2_INCOMPAT_DIRTY);
	return r < 0 ? r : e;
}

static void put_entry(struct qcow2 *s, GByteArray *blob, uint64_t l1_at, const char *id,
		      const char *name, uint32_t seconds, uint32_t nanoseconds)
{
	uint8_t head[ENTRY_BYTES + 16] = { 0 };
	static const uint8_t padding[8];

	store_be64(head, l1_at);
	store_be32(head + 8, s->h.l1_entries);
	store_be16(head + 12, (uint16_t)strlen(id));
	store_be16(head + 14, (uint16_t)strlen(name));
	store_be32(head + 16, seconds);
	store_be32(head + 20, nanoseconds);
	store_be32(head + 36, 16);
	store_be64(head + ENTRY_BYTES + 8, s->disk.size_bytes);
	g_byte_array_append(blob, head, sizeof(head));
	g_byte_array_append(blob, (const guint8 *)id, (guint)strlen(id));
	g_byte_array_append(blob, (const guint8 *)name, (guint)strlen(name));
	g_byte_array_append(blob, padding, (8 - blob->len % 8) % 8);
}

static int copy_l1(struct qcow2 *s, uint64_t *ret_at)
{
	uint64_t clusters = (s->h.l1_entries * 8ull + s->cluster_bytes - 1) / s->cluster_bytes;
	g_autofree uint8_t *bytes = NULL;
	int r;

	clusters = clusters ? clusters : 1;
	bytes = g_try_malloc0(clusters * s->cluster_bytes);
	r = bytes ? qcow2_alloc(s, clusters, true, ret_at, NULL) : -ENOMEM;
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < s->h.l1_entries; i++)
		store_be64(bytes + i * 8ul, s->l1[i] & ~QCOW2_COPIED);
	return qcow2_file_write(s, bytes, clusters * s->cluster_bytes, *ret_at);
}

static char *unused_id(const GByteArray *blob, const GArray *list)
{
	uint64_t top = 0;

	for (guint i = 0; i < list->len; i++) {
		const struct qcow2_snapshot_table *t =
			&g_array_index(list, struct qcow2_snapshot_table, i);
		g_autofree char *id = g_strndup(
			(const char *)blob->data + t->at + ENTRY_BYTES + t->extra, t->id);
		uint64_t n = g_ascii_strtoull(id, NULL, 10);

		top = n > top && n < UINT32_MAX ? n : top;
	}
	return g_strdup_printf("%llu", (unsigned long long)top + 1);
}

int qcow2_snapshot_create(struct disk *disk, const char *name, uint32_t seconds,
			  uint32_t nanoseconds)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	g_autoptr(GByteArray) blob = NULL;
	g_autoptr(GArray) list = NULL;
	g_autofree char *id = NULL;
	uint64_t old_bytes, l1_at = 0;
	int r = load_all(s, &blob, &list);

	if (r < 0)
		return r;
	if (find(blob, list, name) >= 0)
		return -EEXIST;
	if (list->len >= QCOW2_MAX_SNAPSHOTS || strlen(name) > UINT16_MAX)
		return -EINVAL;
	old_bytes = blob->len;
	id = unused_id(blob, list);
	r = begin(s);
	if (r < 0)
		return r;
	r = ref_tree(s, s->l1, s->h.l1_entries, 1);
	/* From here on nothing is written in place, be the snapshot named or not. */
	if (r == 0)
		r = qcow2_commit(s);
	if (r == 0)
		r = set_copied(s);
	if (r == 0)
		r = qcow2_commit(s);
	if (r == 0)
		r = copy_l1(s, &l1_at);
	if (r == 0) {
		put_entry(s, blob, l1_at, id, name, seconds, nanoseconds);
		r = switch_table(s, blob, list->len + 1, old_bytes);
	}
	return end(s, r);
}

static int apply(struct qcow2 *s, const struct qcow2_snapshot_table *t, uint64_t size)
{
	uint64_t span = s->cluster_bytes << s->l2_bits;
	uint32_t old_count = s->h.l1_entries;
	uint64_t need = size / span + (size % span != 0);
	g_autofree uint64_t *old = g_memdup2(s->l1, old_count * sizeof(*old));
	g_autofree uint64_t *entries = NULL;
	uint8_t field[8];
	int r = qcow2_load_table(s, t->offset, t->entries, &entries);

	if (r < 0)
		return r;
	if (t->entries < need)
		return -EIO;
	r = ref_tree(s, entries, t->entries, 1);
	if (r == 0)
		r = qcow2_l1_switch(s, entries, t->entries);
	store_be64(field, size);
	if (r == 0 && size != s->disk.size_bytes)
		r = qcow2_header_name(s, field, sizeof(field), QCOW2_AT_SIZE);
	if (r < 0)
		return r;
	s->h.size_bytes = size;
	s->disk.size_bytes = align_up(size, DISK_SECTOR_SIZE);
	qcow2_cache_clear(&s->l2);
	s->unpacked_entry = 0;
	return ref_tree(s, old, old_count, -1);
}

int qcow2_snapshot_apply(struct disk *disk, const char *name)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	g_autoptr(GByteArray) blob = NULL;
	g_autoptr(GArray) list = NULL;
	const struct qcow2_snapshot_table *t;
	int r = load_all(s, &blob, &list), i;

	if (r < 0)
		return r;
	i = find(blob, list, name);
	if (i < 0)
		return -ENOENT;
	t = &g_array_index(list, struct qcow2_snapshot_table, i);
	r = begin(s);
	if (r < 0)
		return r;
	/* Bitmaps are the disk's and not the snapshot's: all of it changes. */
	r = qcow2_bitmaps_detach(s);
	if (r == 0)
		r = apply(s, t, extra_field(blob->data + t->at, t, 8, s->disk.size_bytes));
	return end(s, qcow2_bitmaps_refit(s, true, r));
}

int qcow2_snapshot_show(struct disk *disk, const char *name)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	uint64_t span = s->cluster_bytes << s->l2_bits, size;
	g_autoptr(GByteArray) blob = NULL;
	g_autoptr(GArray) list = NULL;
	const struct qcow2_snapshot_table *t;
	uint64_t *entries = NULL;
	int r = disk->readonly ? load_all(s, &blob, &list) : -EINVAL, i;

	if (r < 0)
		return r;
	i = find(blob, list, name);
	if (i < 0)
		return -ENOENT;
	t = &g_array_index(list, struct qcow2_snapshot_table, i);
	size = extra_field(blob->data + t->at, t, 8, disk->size_bytes);
	if (t->entries < size / span + (size % span != 0))
		return -EIO;
	r = qcow2_load_table(s, t->offset, t->entries, &entries);
	if (r < 0)
		return r;
	g_free(s->l1);
	s->l1 = entries;
	s->h.l1_entries = t->entries;
	s->h.size_bytes = size;
	disk->size_bytes = align_up(size, DISK_SECTOR_SIZE);
	qcow2_cache_clear(&s->l2);
	s->unpacked_entry = 0;
	return 0;
}

int qcow2_snapshot_delete(struct disk *disk, const char *name)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	g_autoptr(GByteArray) blob = NULL;
	g_autoptr(GArray) list = NULL;
	g_autofree uint64_t *entries = NULL;
	struct qcow2_snapshot_table t;
	uint64_t old_bytes;
	int r = load_all(s, &blob, &list), i;

	if (r < 0)
		return r;
	i = find(blob, list, name);
	if (i < 0)
		return -ENOENT;
	t = g_array_index(list, struct qcow2_snapshot_table, i);
	r = begin(s);
	if (r == 0)
		r = qcow2_load_table(s, t.offset, t.entries, &entries);
	if (r < 0)
		return r;
	old_bytes = blob->len;
	g_byte_array_remove_range(blob, (guint)t.at, (guint)t.len);
	r = switch_table(s, blob, list->len - 1, old_bytes);
	if (r == 0)
		r = ref_tree(s, entries, t.entries, -1);
	if (r == 0) {
		uint64_t clusters = (t.entries * 8ull + s->cluster_bytes - 1) / s->cluster_bytes;

		qcow2_unalloc(s, t.offset, clusters ? clusters : t.offset != 0);
	}
	return end(s, r);
}

void qcow2_get_info(const struct disk *disk, struct qcow2_info *ret)
{
	const struct qcow2 *s = (const struct qcow2 *)disk;

	*ret = (struct qcow2_info){
		.version = s->h.version,
		.refcount_bits = 1u << s->h.refcount_order,
		.snapshot_count = s->h.snapshot_count,
		.cluster_bytes = s->cluster_bytes,
		.zstd = s->h.compression == QCOW2_ZSTD,
		.lazy_refcounts = s->h.compatible & QCOW2_COMPAT_LAZY,
		.extended_l2 = qcow2_has_subclusters(s),
		.dirty = s->h.incompatible & QCOW2_INCOMPAT_DIRTY,
		.corrupt = s->h.incompatible & QCOW2_INCOMPAT_CORRUPT,
		.data_file_raw = s->h.autoclear & QCOW2_AUTOCLEAR_RAW_DATA,
		.backing = s->h.backing,
		.backing_format = s->h.backing_format,
		.data_file = s->h.data_file,
	};
}

struct disk *qcow2_backing(const struct disk *disk)
{
	return ((const struct qcow2 *)disk)->backing;
}

/* What reaches the disk as one; all that we know ends within it. */
#define PAGE 4096u

int qcow2_header_replace(struct qcow2 *s, const struct qcow2_header *h)
{
	g_autofree uint8_t *bytes = g_try_malloc(s->cluster_bytes), *old = g_try_malloc(s->cluster_bytes);
	size_t page = MIN(s->cluster_bytes, PAGE);
	int r;

	if (!bytes || !old)
		return -ENOMEM;
	r = qcow2_header_write(h, bytes, s->cluster_bytes);
	if (r > (int)page) {
		/* Extensions of others, which may not move. */
		int e = qcow2_file_read(s, old, (size_t)r, 0);

		if (e < 0 || memcmp(bytes + page, old + page, (size_t)r - page))
			return e < 0 ? e : -ENOSPC;
	}
	return r < 0 ? r : qcow2_header_name(s, bytes, page, 0);
}

int qcow2_set_backing(struct disk *disk, const char *name, const char *format)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct qcow2_header h = s->h;
	int r = qcow2_commit(s);

	if (r < 0)
		return r;
	h.backing = (char *)name;
	h.backing_format = (char *)format;
	r = qcow2_header_replace(s, &h);
	if (r < 0)
		return r;
	s->h.bitmaps_at = qcow2_has_bitmaps(s) ? qcow2_header_bitmaps_at(&h) : 0;
	g_free(s->h.backing);
	g_free(s->h.backing_format);
	s->h.backing = g_strdup(name);
	s->h.backing_format = g_strdup(format);
	return 0;
}
