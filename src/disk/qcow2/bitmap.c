// SPDX-License-Identifier: Apache-2.0
/*
 * bitmap.c - bitmaps of changed blocks, kept true while the image is written to (qcow2_int.h tells
 * the order).
 *
 * What has changed is kept for all of them in one set of marks, as fine as the finest. Each takes
 * from it what it needs when it is stored, so that of what it held before only the clusters that
 * change are read.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "disk/qcow2/qcow2_int.h"

#define MARKS_BYTES (64u << 20) /* of memory; blocks of 64 KiB of a disk of 32 TiB */

static struct qcow2_bitmap *bitmap_at(const struct qcow2 *s, guint i)
{
	return g_ptr_array_index(s->bitmaps.list, i);
}

static guint bitmap_count(const struct qcow2 *s)
{
	return s->bitmaps.list ? s->bitmaps.list->len : 0;
}

static bool is_tracked(const struct qcow2_bitmap *b)
{
	return (b->flags & QCOW2_BITMAP_AUTO) && qcow2_bitmap_is_usable(b);
}

int qcow2_bitmaps_start(struct qcow2 *s)
{
	struct qcow2_bitmaps *m = &s->bitmaps;
	bool tracked = false;
	unsigned shift = 63;
	int r;

	qcow2_marks_fini(&m->marks);
	m->tracks = m->in_use = false;
	m->size_bytes = s->h.size_bytes;
	for (guint i = 0; i < bitmap_count(s); i++) {
		const struct qcow2_bitmap *b = bitmap_at(s, i);

		/* One that we do not know is to say so, when something changes. */
		m->tracks |=
			(b->flags & (QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE)) == QCOW2_BITMAP_AUTO;
		if (!is_tracked(b))
			continue;
		tracked = true;
		shift = MIN(shift, b->shift);
	}
	r = tracked ? qcow2_marks_init(&m->marks, m->size_bytes, shift, MARKS_BYTES) : 0;
	if (r < 0)
		s->broken = true; /* nobody would know of a write */
	return r;
}

bool qcow2_bitmaps_open(struct qcow2 *s, GError **err)
{
	int r;

	if (qcow2_has_bitmaps(s) && !qcow2_bitmap_dir_load(s, &s->bitmaps.list, err))
		return false;
	r = qcow2_bitmaps_start(s);
	return r == 0 ||
	       base_fail(err, -r, "disk '%s': no memory for its bitmaps of changed blocks",
			 s->disk.path);
}

void qcow2_bitmaps_fini(struct qcow2 *s)
{
	g_clear_pointer(&s->bitmaps.list, g_ptr_array_unref);
	qcow2_marks_fini(&s->bitmaps.marks);
	s->bitmaps.tracks = s->bitmaps.in_use = false;
}

/* ---- in use, and not ---- */

/* Those that are auto, or all. Durable on return. */
static int mark(struct qcow2 *s, bool all)
{
	guint count = bitmap_count(s), n = 0;
	g_autofree struct qcow2_bitmap **list = g_new(struct qcow2_bitmap *, count + 1);
	int r;

	for (guint i = 0; i < count; i++) {
		struct qcow2_bitmap *b = bitmap_at(s, i);

		if ((b->flags & QCOW2_BITMAP_IN_USE) || !(all || (b->flags & QCOW2_BITMAP_AUTO)))
			continue;
		b->ours = qcow2_bitmap_is_usable(b);
		b->flags |= QCOW2_BITMAP_IN_USE;
		list[n++] = b;
	}
	r = n ? qcow2_bitmap_dir_flags(s, s->bitmaps.list) : 0;
	/* They may be marked or not, and so are to be marked again. */
	for (guint i = 0; i < n && r < 0; i++) {
		list[i]->flags &= ~QCOW2_BITMAP_IN_USE;
		list[i]->ours = false;
	}
	if (r == 0)
		s->bitmaps.in_use = true;
	return r;
}

int qcow2_bitmaps_note(struct qcow2 *s, uint64_t offset, uint64_t len)
{
	struct qcow2_bitmaps *m = &s->bitmaps;
	int r = 0;

	if (!m->tracks)
		return 0;
	if (!m->in_use) {
		fiber_lock(&s->serving.fibers, &m->lock);
		if (!m->in_use)
			r = mark(s, false);
		fiber_unlock(&m->lock);
	}
	qcow2_marks_set(&m->marks, offset, len);
	return r;
}

/* All marks are in the file, or none of those that are in use will be believed again. */
static int unmark(struct qcow2 *s, int r)
{
	bool changed = false;

	for (guint i = 0; i < bitmap_count(s); i++) {
		struct qcow2_bitmap *b = bitmap_at(s, i);

		if (r == 0 && b->ours) {
			b->flags &= ~QCOW2_BITMAP_IN_USE;
			changed = true;
		}
		b->ours = false;
	}
	if (changed)
		r = qcow2_bitmap_dir_flags(s, s->bitmaps.list);
	if (r < 0)
		log_warn("disk '%s': its bitmaps of changed blocks could not be stored and cannot "
			 "be used "
			 "any more: %s",
			 s->disk.path, g_strerror(-r));
	return r;
}

/* ---- tables and clusters ---- */

void qcow2_bitmap_give_up(struct qcow2 *s, uint64_t table_offset, const uint64_t *entries,
			  uint32_t count, bool clusters)
{
	uint64_t bytes = count * 8ull;

	for (uint32_t i = 0; i < count && clusters; i++)
		if ((entries[i] & QCOW2_OFFSET) && qcow2_bitmap_entry_is_sound(s, entries[i]))
			qcow2_free(s, entries[i] & QCOW2_OFFSET, 1);
	qcow2_free(s, table_offset, (bytes + s->cluster_bytes - 1) / s->cluster_bytes);
}

static int write_table(struct qcow2 *s, uint64_t at, const uint64_t *entries, uint32_t count)
{
	g_autofree uint8_t *bytes = g_try_malloc(count * 8ul);

	if (!bytes)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		store_be64(bytes + i * 8ul, entries[i]);
	return qcow2_file_write(s, bytes, count * 8ull, at);
}

int qcow2_bitmap_new_table(struct qcow2 *s, struct qcow2_bitmap *b, const uint64_t *from,
			   uint32_t count, uint32_t entries)
{
	g_autofree uint64_t *table = g_try_new0(uint64_t, entries);
	uint64_t at, clusters = (entries * 8ull + s->cluster_bytes - 1) / s->cluster_bytes;
	int r = table ? qcow2_alloc(s, clusters, true, &at, NULL) : -ENOMEM;

	if (r < 0)
		return r;
	if (count)
		memcpy(table, from, MIN(count, entries) * sizeof(*table));
	r = write_table(s, at, table, entries);
	if (r < 0) {
		qcow2_unalloc(s, at, clusters);
		return r;
	}
	b->table_offset = at;
	b->table_entries = entries;
	return 0;
}

static int load_cluster(struct qcow2 *s, uint64_t entry, uint8_t *buf)
{
	memset(buf, entry & 1 ? 0xff : 0, s->cluster_bytes);
	if (!qcow2_bitmap_entry_is_sound(s, entry))
		return qcow2_corrupt(s, "an impossible entry in the table of a bitmap", entry);
	return entry & QCOW2_OFFSET
		       ? qcow2_file_read(s, buf, s->cluster_bytes, entry & QCOW2_OFFSET)
		       : 0;
}

/* Where it lay, when nothing else lies there. The bitmap is in use, so that half of it may be
 * written. */
static int store_cluster(struct qcow2 *s, uint64_t *entry, const uint8_t *buf)
{
	uint64_t at = *entry & QCOW2_OFFSET, refs = 0;
	int r = at ? qcow2_ref_get(s, at >> s->h.cluster_bits, &refs) : 0;

	if (r == 0 && refs != 1)
		r = qcow2_alloc(s, 1, true, &at, NULL);
	if (r == 0)
		r = qcow2_file_write(s, buf, s->cluster_bytes, at);
	if (r == 0)
		*entry = at;
	return r;
}

/* What is marked of the part of the disk that the @index-th cluster describes. */
static int add_to_cluster(struct qcow2 *s, const struct qcow2_bitmap *b,
			  const struct qcow2_marks *m, uint64_t *entry, uint64_t index,
			  uint8_t *buf)
{
	uint64_t per = s->cluster_bytes * 8, first = index * per, from, to, end;
	uint64_t bits = qcow2_bitmap_bits(m->size_bytes, b->shift);
	int r;

	if (first >= bits || *entry == 1)
		return 0;
	end = bits - first <= per ? m->size_bytes : (first + per) << b->shift;
	if (!qcow2_marks_next(m, first << b->shift, end, &from, &to))
		return 0;
	r = load_cluster(s, *entry, buf);
	if (r < 0)
		return r;
	do
		qcow2_bits_set(buf, (from >> b->shift) - first, ((to - 1) >> b->shift) - first);
	while (qcow2_marks_next(m, to, end, &from, &to));
	/* Nothing but ones needs no cluster. */
	if (bits - first >= per && buf[0] == 0xff && !memcmp(buf, buf + 1, s->cluster_bytes - 1)) {
		*entry = 1;
		return 0;
	}
	return store_cluster(s, entry, buf);
}

int qcow2_bitmap_add_marks(struct qcow2 *s, struct qcow2_bitmap *b, const struct qcow2_marks *m)
{
	g_autofree uint8_t *buf = g_try_malloc(s->cluster_bytes);
	g_autofree uint64_t *entries = NULL, *old = NULL;
	size_t bytes = b->table_entries * sizeof(*entries);
	int r = buf ? qcow2_load_table(s, b->table_offset, b->table_entries, &entries) : -ENOMEM;

	old = r == 0 ? g_try_malloc(bytes) : NULL;
	if (r < 0 || !old)
		return r < 0 ? r : -ENOMEM;
	memcpy(old, entries, bytes);
	for (uint32_t i = 0; i < b->table_entries && r == 0; i++)
		r = add_to_cluster(s, b, m, &entries[i], i, buf);
	if (r < 0 || !memcmp(old, entries, bytes))
		return r;
	r = qcow2_commit(s); /* counts first */
	if (r == 0)
		r = write_table(s, b->table_offset, entries, b->table_entries);
	for (uint32_t i = 0; i < b->table_entries && r == 0; i++)
		if (old[i] != entries[i] && (old[i] & QCOW2_OFFSET))
			qcow2_free(s, old[i] & QCOW2_OFFSET, 1);
	return r;
}

/* ---- storing, and other sizes ---- */

/* What is marked is in the file, durably. Those that are in use stay so. */
static int store(struct qcow2 *s)
{
	int r = 0;

	for (guint i = 0; i < bitmap_count(s) && r == 0; i++) {
		struct qcow2_bitmap *b = bitmap_at(s, i);

		if (b->ours && (b->flags & QCOW2_BITMAP_AUTO) && s->bitmaps.marks.bits)
			r = qcow2_bitmap_add_marks(s, b, &s->bitmaps.marks);
	}
	return r < 0 ? r : qcow2_commit(s);
}

int qcow2_bitmaps_settle(struct qcow2 *s)
{
	int r;

	if (!s->bitmaps.in_use)
		return 0;
	r = unmark(s, store(s));
	return qcow2_bitmaps_start(s) < 0 ? -ENOMEM : r;
}

int qcow2_bitmaps_detach(struct qcow2 *s)
{
	int r = bitmap_count(s) ? mark(s, true) : 0;

	return r == 0 && bitmap_count(s) ? store(s) : r;
}

/* Bits from @keep on within the cluster that holds it and bits before it: they may come into sight.
 */
static int clear_tail(struct qcow2 *s, uint64_t *entry, uint64_t keep)
{
	g_autofree uint8_t *buf = g_try_malloc(s->cluster_bytes);
	uint64_t bit = keep & (s->cluster_bytes * 8 - 1);
	int r;

	if (bit == 0 || *entry == 0)
		return 0;
	r = buf ? load_cluster(s, *entry, buf) : -ENOMEM;
	if (r < 0)
		return r;
	if (bit % 8)
		buf[bit / 8] &= (uint8_t)((1u << bit % 8) - 1);
	memset(buf + (bit + 7) / 8, 0, s->cluster_bytes - (bit + 7) / 8);
	return store_cluster(s, entry, buf);
}

/* A table for the disk's size. @freed: struct qcow2_span of what it does not need any more. */
static int refit(struct qcow2 *s, struct qcow2_bitmap *b, GArray *freed)
{
	uint64_t old_bits = qcow2_bitmap_bits(s->bitmaps.size_bytes, b->shift);
	uint64_t keep = MIN(old_bits, qcow2_bitmap_bits(s->h.size_bytes, b->shift));
	uint64_t need = qcow2_bitmap_clusters(s, s->h.size_bytes, b->shift), full;
	g_autofree uint64_t *entries = NULL;
	struct qcow2_span span = { b->table_offset,
				   align_up(b->table_entries * 8ull, s->cluster_bytes) };
	uint32_t count = b->table_entries;
	int r;

	if (need > QCOW2_MAX_BITMAP_BYTES >> s->h.cluster_bits)
		return -EFBIG;
	r = qcow2_load_table(s, b->table_offset, count, &entries);
	if (r < 0)
		return r;
	g_array_append_val(freed, span);
	full = MIN(keep ? ((keep - 1) >> (s->h.cluster_bits + 3)) + 1 : 0, count);
	for (uint64_t i = full; i < count; i++) {
		span = (struct qcow2_span){ entries[i] & QCOW2_OFFSET, s->cluster_bytes };
		if (span.offset && qcow2_bitmap_entry_is_sound(s, entries[i]))
			g_array_append_val(freed, span);
		entries[i] = 0;
	}
	if (full) {
		uint64_t was = entries[full - 1] & QCOW2_OFFSET;

		r = clear_tail(s, &entries[full - 1], keep);
		span = (struct qcow2_span){ was, s->cluster_bytes };
		if (r == 0 && was && was != (entries[full - 1] & QCOW2_OFFSET))
			g_array_append_val(freed, span);
	}
	return r < 0 ? r : qcow2_bitmap_new_table(s, b, entries, count, (uint32_t)need);
}

static int refit_all(struct qcow2 *s)
{
	g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_span));
	int r = s->broken ? -EIO : 0;

	for (guint i = 0; i < bitmap_count(s) && r == 0; i++) {
		struct qcow2_bitmap *b = bitmap_at(s, i);

		if (!b->ours)
			continue;
		r = refit(s, b, freed);
		/* It stays in use, and of another size. */
		b->ours = r == 0;
		r = r == -EFBIG ? 0 : r;
	}
	if (r == 0)
		r = qcow2_bitmap_dir_switch(s, s->bitmaps.list);
	for (guint i = 0; i < freed->len && r == 0; i++) {
		struct qcow2_span span = g_array_index(freed, struct qcow2_span, i);

		qcow2_free(s, span.offset, span.len / s->cluster_bytes);
	}
	return r;
}

/* As the file has them, where tables are named that it perhaps has not. */
static void reload(struct qcow2 *s)
{
	g_clear_pointer(&s->bitmaps.list, g_ptr_array_unref);
	if (!qcow2_bitmap_dir_load(s, &s->bitmaps.list, NULL))
		s->broken = true;
}

int qcow2_bitmaps_refit(struct qcow2 *s, bool all_changed, int r)
{
	struct qcow2_bitmaps *m = &s->bitmaps;
	int e = 0;

	if (!m->in_use)
		return r;
	if (m->size_bytes != s->h.size_bytes) {
		e = refit_all(s);
		if (e == 0 && m->marks.bits) {
			struct qcow2_marks old = m->marks;

			e = qcow2_marks_init(&m->marks, s->h.size_bytes, old.shift, MARKS_BYTES);
			qcow2_marks_fini(&old);
		}
	}
	if (all_changed)
		qcow2_marks_set(&m->marks, 0, s->h.size_bytes);
	if (e == 0)
		e = store(s);
	e = unmark(s, e);
	if (e < 0)
		reload(s);
	if (qcow2_bitmaps_start(s) < 0)
		e = -ENOMEM;
	return r < 0 ? r : e;
}
