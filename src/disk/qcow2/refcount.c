// SPDX-License-Identifier: Apache-2.0
/*
 * refcount.c - how many refer to each cluster of a qcow2 file, and finding free ones.
 *
 * Where no block of counts exists all clusters are free. A block is made in the first cluster of
 * the range that it describes, so it counts itself; and where the table of blocks has no entry
 * left, the longer table follows it (extend()).
 */
#include <errno.h>
#include <string.h>

#include "disk/qcow2/qcow2_int.h"

#define MAX_USED (1ull << 29) /* clusters looked at for a free one */

uint64_t qcow2_refs_per_block(const struct qcow2 *s)
{
	return s->cluster_bytes * 8 >> s->h.refcount_order;
}

uint64_t qcow2_ref_max(const struct qcow2 *s)
{
	unsigned bits = 1u << s->h.refcount_order;

	return bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
}

uint64_t qcow2_ref_load(const void *block, uint64_t index, unsigned order)
{
	const uint8_t *b = block;
	unsigned bits = 1u << order;

	if (bits < 8)
		return b[index * bits / 8] >> (index * bits % 8) & ((1u << bits) - 1);
	b += index * bits / 8;
	return bits == 8  ? *b :
	       bits == 16 ? load_be16(b) :
	       bits == 32 ? load_be32(b) :
			    load_be64(b);
}

void qcow2_ref_store(void *block, uint64_t index, unsigned order, uint64_t value)
{
	uint8_t *b = block;
	unsigned bits = 1u << order;

	if (bits < 8) {
		unsigned shift = (unsigned)(index * bits % 8), mask = (1u << bits) - 1;

		b += index * bits / 8;
		*b = (uint8_t)((*b & ~(mask << shift)) | (value & mask) << shift);
		return;
	}
	b += index * bits / 8;
	if (bits == 8)
		*b = (uint8_t)value;
	else if (bits == 16)
		store_be16(b, (uint16_t)value);
	else if (bits == 32)
		store_be32(b, (uint32_t)value);
	else
		store_be64(b, value);
}

/* The cached part that holds the count of @cluster. NULL in *ret: there is no block. */
static int unit_get(struct qcow2 *s, uint64_t cluster, struct qcow2_table **ret, uint64_t *ret_index)
{
	uint64_t per_block = qcow2_refs_per_block(s);
	uint64_t per_unit = s->refs.unit_bytes * 8 >> s->h.refcount_order;
	uint64_t block = cluster / per_block, index = cluster % per_block;
	uint64_t at;

	*ret = NULL;
	*ret_index = index % per_unit;
	if (block >= s->reftable_entries || s->reftable[block] == 0)
		return 0;
	at = s->reftable[block];
	if (at & (s->cluster_bytes - 1) || at >= QCOW2_MAX_FILE)
		return qcow2_corrupt(s, "a refcount block at an impossible place", at);
	return qcow2_cache_get(s, &s->refs, at + index / per_unit * s->refs.unit_bytes, false, ret);
}

int qcow2_ref_get(struct qcow2 *s, uint64_t cluster, uint64_t *ret)
{
	struct qcow2_table *t;
	uint64_t index;
	int r = unit_get(s, cluster, &t, &index);

	if (r == 0)
		*ret = t ? qcow2_ref_load(t->bytes, index, s->h.refcount_order) : 0;
	return r;
}

static int ref_set(struct qcow2 *s, uint64_t cluster, uint64_t value)
{
	struct qcow2_table *t;
	uint64_t index;
	int r = unit_get(s, cluster, &t, &index);

	if (r < 0 || !t)
		return r < 0 ? r : -EIO;
	qcow2_ref_store(t->bytes, index, s->h.refcount_order, value);
	qcow2_cache_dirty(&s->refs, t);
	return 0;
}

static int write_entries(struct qcow2 *s, uint64_t offset, const uint64_t *entries, uint64_t count)
{
	g_autofree uint8_t *bytes = g_try_malloc(count * 8);

	if (!bytes)
		return -ENOMEM;
	for (uint64_t i = 0; i < count; i++)
		store_be64(bytes + i * 8, entries[i]);
	return qcow2_file_write(s, bytes, count * 8, offset);
}

int qcow2_reftable_name(struct qcow2 *s, uint64_t offset, uint64_t clusters)
{
	uint8_t field[12];

	store_be64(field, offset);
	store_be32(field + 8, (uint32_t)clusters);
	return qcow2_header_name(s, field, sizeof(field), QCOW2_AT_REFTABLE);
}

/* The longer table is complete in the file: make the header name it. */
static int switch_reftable(struct qcow2 *s, uint64_t offset, uint64_t clusters)
{
	uint64_t old_offset = s->h.reftable_offset, old_clusters = s->h.reftable_clusters;
	int r = qcow2_reftable_name(s, offset, clusters);

	if (r < 0)
		return r;
	s->h.reftable_offset = offset;
	s->h.reftable_clusters = (uint32_t)clusters;
	qcow2_unalloc(s, old_offset, old_clusters);
	return 0;
}

/* What extend() lays out from the start of the first block's range on. */
struct layout {
	uint64_t blocks, table; /* clusters; table 0: the present one is long enough */
};

static struct layout plan(const struct qcow2 *s, uint64_t first_block, uint64_t run)
{
	uint64_t per_block = qcow2_refs_per_block(s), per_cluster = s->cluster_bytes / 8;
	struct layout l = { 1, 0 }, old;

	do {
		old = l;
		l.blocks = (l.blocks + l.table + run + per_block - 1) / per_block;
		if (first_block + l.blocks > s->reftable_entries)
			l.table = ((first_block + l.blocks) * 3 / 2 + per_cluster - 1) / per_cluster;
	} while (l.blocks != old.blocks || l.table != old.table);
	return l;
}

static int grow_table_memory(struct qcow2 *s, uint64_t entries)
{
	uint64_t *table = g_try_realloc_n(s->reftable, entries, sizeof(*table));

	if (!table)
		return -ENOMEM;
	memset(table + s->reftable_entries, 0, (entries - s->reftable_entries) * sizeof(*table));
	s->reftable = table;
	s->reftable_entries = (uint32_t)entries;
	return 0;
}

static int zero_clusters(struct qcow2 *s, uint64_t cluster, uint64_t count)
{
	struct disk_req req = { .op = DISK_WRITE_ZEROES, .offset = cluster * s->cluster_bytes,
				.len = count * s->cluster_bytes };

	return qcow2_io(s, s->file, &req);
}

/* Blocks from @first on, none of which exists, so many that @run clusters in a row are free behind
 * them. All is durable on return. */
static int extend(struct qcow2 *s, uint64_t first, uint64_t run)
{
	struct layout l = plan(s, first, run);
	uint64_t at = first * qcow2_refs_per_block(s);
	int r;

	if (at == 0)
		return qcow2_corrupt(s, "no reference counts for the header", 0);
	if ((at + l.blocks + l.table + run) >= QCOW2_MAX_FILE / s->cluster_bytes ||
	    l.table > QCOW2_MAX_REFTABLE / s->cluster_bytes)
		return -EFBIG;
	/* Memory last: entries that the file's table has no room for are not to stay behind. */
	r = zero_clusters(s, at, l.blocks);
	if (r == 0 && l.table)
		r = grow_table_memory(s, l.table * (s->cluster_bytes / 8));
	if (r < 0)
		return r;
	for (uint64_t i = 0; i < l.blocks; i++)
		s->reftable[first + i] = (at + i) * s->cluster_bytes;
	for (uint64_t i = 0; i < l.blocks + l.table && r == 0; i++)
		r = ref_set(s, at + i, 1);
	if (r == 0)
		r = qcow2_cache_write(s, &s->refs);
	if (r == 0 && l.table)
		r = write_entries(s, (at + l.blocks) * s->cluster_bytes, s->reftable,
				  s->reftable_entries);
	if (r == 0)
		r = qcow2_file_flush(s);
	if (r == 0 && l.table)
		return switch_reftable(s, (at + l.blocks) * s->cluster_bytes, l.table);
	if (r == 0)
		r = write_entries(s, s->h.reftable_offset + first * 8, s->reftable + first,
				  l.blocks);
	if (r == 0)
		r = qcow2_file_flush(s);
	/* What the file has and what memory has may differ from here on. */
	if (r < 0)
		s->broken = true;
	return r;
}

int qcow2_ref_add(struct qcow2 *s, uint64_t cluster, int delta)
{
	struct qcow2_table *t;
	uint64_t index, value;
	int r = unit_get(s, cluster, &t, &index);

	if (r == 0 && !t && delta > 0) {
		if (cluster >= QCOW2_MAX_FILE / s->cluster_bytes)
			return qcow2_corrupt(s, "a reference far behind its end", cluster);
		r = extend(s, cluster / qcow2_refs_per_block(s), 0);
		if (r == 0)
			r = unit_get(s, cluster, &t, &index);
	}
	if (r < 0)
		return r;
	value = t ? qcow2_ref_load(t->bytes, index, s->h.refcount_order) : 0;
	if (delta < 0 && value == 0)
		return qcow2_corrupt(s, "a cluster in use that counts no references",
				     cluster * s->cluster_bytes);
	if (delta > 0 && value == qcow2_ref_max(s))
		return -EMLINK;
	value = delta > 0 ? value + 1 : value - 1;
	qcow2_ref_store(t->bytes, index, s->h.refcount_order, value);
	qcow2_cache_dirty(&s->refs, t);
	if (value == 0 && cluster < s->free_hint)
		s->free_hint = cluster;
	return 0;
}

static bool overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a_len && b_len && a < b + b_len && b < a + a_len;
}

/* Counts that call a table free would have it overwritten: look before a cluster is given out. */
static bool holds_tables(const struct qcow2 *s, uint64_t at, uint64_t len)
{
	uint64_t c = s->cluster_bytes;

	if (overlap(at, len, 0, c) || overlap(at, len, s->h.l1_offset, s->h.l1_entries * 8ull) ||
	    overlap(at, len, s->h.reftable_offset, s->h.reftable_clusters * c))
		return true;
	if (s->h.snapshot_count && overlap(at, len, s->h.snapshots_offset, c))
		return true;
	if (qcow2_has_bitmaps(s) && overlap(at, len, s->h.bitmaps_offset, s->h.bitmaps_bytes))
		return true;
	for (guint i = 0; s->bitmaps.list && i < s->bitmaps.list->len; i++) {
		const struct qcow2_bitmap *b = g_ptr_array_index(s->bitmaps.list, i);

		if (overlap(at, len, b->table_offset, b->table_entries * 8ull))
			return true;
	}
	for (uint32_t i = 0; i < s->reftable_entries; i++)
		if (s->reftable[i] && overlap(at, len, s->reftable[i], c))
			return true;
	for (uint32_t i = 0; i < s->h.l1_entries; i++)
		if ((s->l1[i] & QCOW2_OFFSET) && overlap(at, len, s->l1[i] & QCOW2_OFFSET, c))
			return true;
	return false;
}

/* Take [first, first + count), which are free. */
static int take(struct qcow2 *s, uint64_t first, uint64_t count)
{
	uint64_t i;
	int r = 0;

	if (holds_tables(s, first * s->cluster_bytes, count * s->cluster_bytes))
		return qcow2_corrupt(s, "a table in a cluster that counts no references",
				     first * s->cluster_bytes);
	for (i = 0; i < count && r == 0; i++)
		r = qcow2_ref_add(s, first + i, 1);
	if (r < 0 && i > 1)
		qcow2_unalloc(s, first * s->cluster_bytes, i - 1);
	return r;
}

/* Behind everything. */
static int find_at_end(struct qcow2 *s, uint64_t count, uint64_t *ret_first)
{
	uint64_t block = s->reftable_entries;
	struct layout l;
	int r;

	while (block > 0 && s->reftable[block - 1] == 0)
		block--;
	l = plan(s, block, count);
	r = extend(s, block, count);
	*ret_first = block * qcow2_refs_per_block(s) + l.blocks + l.table;
	return r;
}

/* The first free cluster from s->free_hint on, and how many in a row. */
static int find(struct qcow2 *s, uint64_t count, bool whole, uint64_t *ret_first,
		uint64_t *ret_count)
{
	uint64_t per_unit = s->refs.unit_bytes * 8 >> s->h.refcount_order;
	uint64_t c = s->free_hint, first = 0, run = 0, index;
	uint64_t used = 0;
	bool seen = false;

	while (run < count) {
		struct qcow2_table *t;
		int r = unit_get(s, c, &t, &index);

		if (r < 0)
			return r;
		/* Counts can be made up so that none is ever free. */
		if (used > MAX_USED)
			return qcow2_corrupt(s, "more clusters in use than can be", c);
		if (!t && run > 0 && !whole)
			break;
		if (!t && whole) {
			*ret_count = count;
			return find_at_end(s, count, ret_first);
		}
		if (!t) {
			r = extend(s, c / qcow2_refs_per_block(s), 0);
			if (r < 0)
				return r;
			continue;
		}
		for (; index < per_unit && run < count; index++, c++) {
			if (qcow2_ref_load(t->bytes, index, s->h.refcount_order) == 0) {
				if (run++ == 0)
					first = c;
				if (!seen)
					s->free_hint = c;
				seen = true;
			} else if (run > 0 && !whole) {
				*ret_first = first;
				*ret_count = run;
				return 0;
			} else {
				run = 0;
				used++;
			}
		}
	}
	*ret_first = first;
	*ret_count = run;
	return 0;
}

int qcow2_alloc(struct qcow2 *s, uint64_t count, bool whole, uint64_t *ret_offset,
		uint64_t *ret_count)
{
	uint64_t first = 0, n = 0;
	int r;

	if (s->broken)
		return -EIO;
	r = find(s, count, whole, &first, &n);
	if (r == 0)
		r = take(s, first, n);
	if (r < 0)
		return r;
	if (first == s->free_hint)
		s->free_hint = first + n;
	*ret_offset = first * s->cluster_bytes;
	if (ret_count)
		*ret_count = n;
	return 0;
}

void qcow2_unalloc(struct qcow2 *s, uint64_t offset, uint64_t count)
{
	/* What cannot be given back is lost until a check, no more. */
	for (uint64_t i = 0; i < count; i++)
		if (qcow2_ref_add(s, offset / s->cluster_bytes + i, -1) < 0)
			break;
}

void qcow2_free(struct qcow2 *s, uint64_t offset, uint64_t count)
{
	struct qcow2_span span = { offset, count * s->cluster_bytes };
	struct qcow2_span *last =
		s->freed->len ? &g_array_index(s->freed, struct qcow2_span, s->freed->len - 1) : NULL;

	if (last && last->offset + last->len == offset)
		last->len += span.len;
	else
		g_array_append_val(s->freed, span);
}

/* Give the room back to the host. A hint: whatever comes of it. */
static void punch(struct qcow2 *s, uint64_t first, uint64_t count)
{
	struct disk_req req = { .op = DISK_DISCARD, .offset = first * s->cluster_bytes,
				.len = count * s->cluster_bytes };

	if (count && s->file->can_discard)
		(void)qcow2_io(s, s->file, &req);
}

static int apply_span(struct qcow2 *s, struct qcow2_span span)
{
	uint64_t first = span.offset / s->cluster_bytes, hole = first, hole_count = 0;
	int r = 0;

	for (uint64_t c = first; c < first + span.len / s->cluster_bytes && r == 0; c++) {
		uint64_t left = 0;

		r = qcow2_ref_add(s, c, -1);
		if (r == 0)
			r = qcow2_ref_get(s, c, &left);
		if (r == 0 && left == 0) {
			if (c == s->packed_at >> s->h.cluster_bits)
				s->packed_at = 0;
			if (hole + hole_count != c) {
				punch(s, hole, hole_count);
				hole = c;
				hole_count = 0;
			}
			hole_count++;
		}
	}
	punch(s, hole, hole_count);
	return r;
}

int qcow2_apply_freed(struct qcow2 *s)
{
	g_autoptr(GArray) list = s->freed;
	int r = 0;

	s->freed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_span));
	for (guint i = 0; i < list->len; i++) {
		int e = apply_span(s, g_array_index(list, struct qcow2_span, i));

		r = r < 0 ? r : e;
	}
	return r;
}
