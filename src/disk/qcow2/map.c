// SPDX-License-Identifier: Apache-2.0
/* map.c - the two levels of qcow2 tables: where a byte of the disk lies. */
#include <errno.h>

#include "disk/qcow2/qcow2_int.h"

static uint64_t table_span_bits(const struct qcow2 *s)
{
	return s->h.cluster_bits + s->l2_bits;
}

/* Entry of the L2 table, and where in the file the part lies that holds it. */
static uint64_t slice_of(const struct qcow2 *s, uint64_t offset, uint64_t table, uint64_t *ret_index)
{
	uint64_t index = offset >> s->h.cluster_bits & ((1ull << s->l2_bits) - 1);
	uint64_t per_unit = s->l2.unit_bytes / s->entry_bytes;

	*ret_index = index % per_unit;
	return table + index / per_unit * s->l2.unit_bytes;
}

uint64_t qcow2_slice_left(const struct qcow2 *s, uint64_t offset)
{
	uint64_t span = s->l2.unit_bytes / s->entry_bytes * s->cluster_bytes;

	return span - (offset & (span - 1));
}

/* 0 in *ret: no table. */
static int table_of(struct qcow2 *s, uint64_t offset, uint64_t *ret)
{
	uint64_t i = offset >> table_span_bits(s);

	*ret = i < s->h.l1_entries ? s->l1[i] & QCOW2_OFFSET : 0;
	if (*ret & (s->cluster_bytes - 1))
		return qcow2_corrupt(s, "an L2 table at an impossible place", *ret);
	return 0;
}

static struct qcow2_entry load_entry(const struct qcow2 *s, const struct qcow2_table *t,
				     uint64_t index)
{
	const uint8_t *p = t->bytes + index * s->entry_bytes;

	return (struct qcow2_entry){ load_be64(p), s->entry_bytes == 16 ? load_be64(p + 8) : 0 };
}

bool qcow2_entry_cluster(const struct qcow2 *s, uint64_t entry, uint64_t *ret_host)
{
	*ret_host = entry & QCOW2_OFFSET;
	if (entry & QCOW2_COMPRESSED)
		return false;
	/* In a data file the first cluster may lie at 0. */
	return *ret_host != 0 || (qcow2_has_data_file(s) && (entry & QCOW2_COPIED));
}

enum qcow2_kind qcow2_entry_kind(const struct qcow2 *s, struct qcow2_entry e, unsigned sub)
{
	uint64_t host;

	if (e.entry & QCOW2_COMPRESSED)
		return QCOW2_K_COMPRESSED;
	if (qcow2_has_subclusters(s)) {
		if (e.bitmap >> (QCOW2_SUBCLUSTERS + sub) & 1)
			return QCOW2_K_ZERO;
		return e.bitmap >> sub & 1 ? QCOW2_K_DATA : QCOW2_K_ABSENT;
	}
	if (s->h.version >= 3 && (e.entry & QCOW2_ZERO))
		return QCOW2_K_ZERO;
	return qcow2_entry_cluster(s, e.entry, &host) ? QCOW2_K_DATA : QCOW2_K_ABSENT;
}

void qcow2_compressed_span(const struct qcow2 *s, uint64_t entry, uint64_t *ret_at,
			   uint64_t *ret_len)
{
	unsigned size_bits = s->h.cluster_bits - 8, shift = 62 - size_bits;
	uint64_t sectors = (entry >> shift & ((1ull << size_bits) - 1)) + 1;

	*ret_at = entry & ((1ull << shift) - 1);
	*ret_len = sectors * 512 - (*ret_at & 511);
}

/* What an entry must not say. */
static int check_entry(struct qcow2 *s, struct qcow2_entry e)
{
	uint64_t host = e.entry & QCOW2_OFFSET;
	uint32_t data = (uint32_t)e.bitmap, zero = (uint32_t)(e.bitmap >> 32);

	if (e.entry & QCOW2_COMPRESSED)
		return qcow2_has_data_file(s) ?
			       qcow2_corrupt(s, "a compressed cluster in a data file", host) :
			       0;
	if (host & (s->cluster_bytes - 1))
		return qcow2_corrupt(s, "a cluster at an impossible place", host);
	if (data & zero || (data && !qcow2_entry_cluster(s, e.entry, &host)))
		return qcow2_corrupt(s, "subclusters that are two things at once", e.bitmap);
	return 0;
}

/* How many bytes from @offset on are like the first one, within the loaded part. */
static int scan(struct qcow2 *s, const struct qcow2_table *t, uint64_t index, uint64_t offset,
		uint64_t len, struct qcow2_extent *ret)
{
	uint64_t sub_bytes = 1ull << s->sub_bits, at = offset;
	uint64_t per_unit = s->l2.unit_bytes / s->entry_bytes;

	ret->len = 0;
	for (; index < per_unit && at - offset < len; index++) {
		struct qcow2_entry e = load_entry(s, t, index);
		uint64_t in = at & (s->cluster_bytes - 1), host;
		int r = check_entry(s, e);

		if (r < 0)
			return ret->len ? 0 : r;
		(void)qcow2_entry_cluster(s, e.entry, &host);
		for (; in < s->cluster_bytes && at - offset < len;) {
			enum qcow2_kind kind = qcow2_entry_kind(s, e, (unsigned)(in >> s->sub_bits));
			bool copied = e.entry & QCOW2_COPIED;
			uint64_t n = sub_bytes - (in & (sub_bytes - 1));

			if (ret->len == 0) {
				ret->kind = kind;
				ret->copied = copied;
				ret->host = kind == QCOW2_K_COMPRESSED ? e.entry : host + in;
			} else if (kind != ret->kind || copied != ret->copied ||
				   (kind == QCOW2_K_DATA && host + in != ret->host + ret->len) ||
				   (kind == QCOW2_K_COMPRESSED && e.entry != ret->host)) {
				return 0;
			}
			ret->len += n < len - ret->len ? n : len - ret->len;
			at += n;
			in += n;
		}
	}
	return 0;
}

int qcow2_lookup(struct qcow2 *s, uint64_t offset, uint64_t len, struct qcow2_extent *ret)
{
	uint64_t table, slice, index, left;
	struct qcow2_table *t;
	int r = table_of(s, offset, &table);

	if (r < 0)
		return r;
	if (table == 0) {
		left = (1ull << table_span_bits(s)) -
		       (offset & ((1ull << table_span_bits(s)) - 1));
		*ret = (struct qcow2_extent){ .len = len < left ? len : left };
		return 0;
	}
	slice = slice_of(s, offset, table, &index);
	t = qcow2_cache_find(&s->l2, slice);
	if (t)
		return scan(s, t, index, offset, len, ret);
	fiber_lock(&s->serving.fibers, &s->meta);
	/* It may have moved while this waited. */
	r = table_of(s, offset, &table);
	if (r == 0 && table)
		r = qcow2_cache_get(s, &s->l2, slice_of(s, offset, table, &index), false, &t);
	if (r == 0 && table)
		r = scan(s, t, index, offset, len, ret);
	else if (r == 0)
		r = -EIO; /* nothing takes tables away from under a request */
	fiber_unlock(&s->meta);
	return r;
}

static void l1_set(struct qcow2 *s, uint32_t i, uint64_t entry)
{
	s->l1[i] = entry;
	if (s->l1_dirty_to == 0 || i < s->l1_dirty_from)
		s->l1_dirty_from = i;
	if (i >= s->l1_dirty_to)
		s->l1_dirty_to = i + 1;
}

static int copy_cluster(struct qcow2 *s, uint64_t from, uint64_t to)
{
	g_autofree uint8_t *bytes = g_try_malloc(s->cluster_bytes);
	int r = bytes ? qcow2_file_read(s, bytes, s->cluster_bytes, from) : -ENOMEM;

	return r < 0 ? r : qcow2_file_write(s, bytes, s->cluster_bytes, to);
}

static int zero_cluster(struct qcow2 *s, uint64_t at)
{
	static const uint8_t zeros[DISK_SECTOR_SIZE];
	struct disk_req req = { .op = DISK_WRITE_ZEROES, .offset = at, .len = s->cluster_bytes };
	uint64_t end = at + s->cluster_bytes;
	int r = qcow2_io(s, s->file, &req);

	/* That makes no file longer; and a table that stays empty is never written again. */
	if (r == 0 && s->file->growable && end > s->file->size_bytes)
		r = qcow2_file_write(s, zeros, sizeof(zeros), end - sizeof(zeros));
	return r;
}

int qcow2_prepare(struct qcow2 *s, uint64_t offset)
{
	uint32_t i = (uint32_t)(offset >> table_span_bits(s));
	uint64_t old, at;
	int r = table_of(s, offset, &old);

	if (r < 0 || (old && (s->l1[i] & QCOW2_COPIED)))
		return r;
	r = qcow2_alloc(s, 1, true, &at, NULL);
	if (r < 0)
		return r;
	/* A table that snapshots share is never dirty: making one has committed all. */
	qcow2_cache_forget(&s->l2, at, s->cluster_bytes);
	r = old ? copy_cluster(s, old, at) : zero_cluster(s, at);
	if (r < 0) {
		qcow2_unalloc(s, at, 1);
		return r;
	}
	l1_set(s, i, at | QCOW2_COPIED);
	if (old)
		qcow2_free(s, old, 1);
	return 0;
}

static int entry_table(struct qcow2 *s, uint64_t offset, struct qcow2_table **ret, uint64_t *ret_index)
{
	uint64_t table;
	int r = table_of(s, offset, &table);

	*ret = NULL;
	if (r < 0 || table == 0)
		return r;
	return qcow2_cache_get(s, &s->l2, slice_of(s, offset, table, ret_index), false, ret);
}

int qcow2_entry_get(struct qcow2 *s, uint64_t offset, struct qcow2_entry *ret)
{
	struct qcow2_table *t;
	uint64_t index;
	int r = entry_table(s, offset, &t, &index);

	if (r < 0)
		return r;
	*ret = t ? load_entry(s, t, index) : (struct qcow2_entry){ 0 };
	return check_entry(s, *ret);
}

static void give_up(struct qcow2 *s, struct qcow2_entry old)
{
	uint64_t at, len, first;

	if (qcow2_has_data_file(s))
		return;
	if (old.entry & QCOW2_COMPRESSED) {
		qcow2_compressed_span(s, old.entry, &at, &len);
		first = at >> s->h.cluster_bits;
		qcow2_free(s, first << s->h.cluster_bits,
			   ((at + len - 1) >> s->h.cluster_bits) - first + 1);
	} else if (qcow2_entry_cluster(s, old.entry, &at)) {
		qcow2_free(s, at, 1);
	}
}

int qcow2_entry_set(struct qcow2 *s, uint64_t offset, struct qcow2_entry entry)
{
	struct qcow2_entry old;
	struct qcow2_table *t;
	uint64_t index, old_host, new_host;
	int r = entry_table(s, offset, &t, &index);

	if (r < 0)
		return r;
	if (!t)
		return -EIO; /* qcow2_prepare() was forgotten */
	old = load_entry(s, t, index);
	store_be64(t->bytes + index * s->entry_bytes, entry.entry);
	if (s->entry_bytes == 16)
		store_be64(t->bytes + index * s->entry_bytes + 8, entry.bitmap);
	qcow2_cache_dirty(&s->l2, t);
	if (!qcow2_entry_cluster(s, old.entry, &old_host) ||
	    !qcow2_entry_cluster(s, entry.entry, &new_host) || old_host != new_host)
		give_up(s, old);
	return 0;
}
