// SPDX-License-Identifier: Apache-2.0
/* resize.c - another size of a qcow2 disk, and the L1 table that goes with it. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/qcow2/qcow2_int.h"

int qcow2_l1_switch(struct qcow2 *s, const uint64_t *entries, uint32_t count)
{
	uint64_t clusters = (count * 8ull + s->cluster_bytes - 1) / s->cluster_bytes, at;
	uint64_t old_at = s->h.l1_offset, old_bytes = s->h.l1_entries * 8ull;
	size_t bytes = clusters * s->cluster_bytes;
	g_autofree uint8_t *image = g_try_malloc0(bytes);
	uint64_t *table = g_try_new0(uint64_t, count);
	uint8_t field[12];
	int r = image && table ? qcow2_alloc(s, clusters, true, &at, NULL) : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < count; i++) {
		table[i] = entries[i];
		store_be64(image + i * 8ul, entries[i]);
	}
	if (r == 0)
		r = qcow2_file_write(s, image, bytes, at);
	if (r == 0)
		r = qcow2_commit(s); /* with the counts of the new table's clusters */
	if (r == 0) {
		store_be32(field, count);
		store_be64(field + 4, at);
		r = qcow2_header_name(s, field, sizeof(field), QCOW2_AT_L1);
	}
	if (r < 0) {
		g_free(table);
		return r;
	}
	g_free(s->l1);
	s->l1 = table;
	s->h.l1_entries = count;
	s->h.l1_offset = at;
	qcow2_unalloc(s, old_at, (old_bytes + s->cluster_bytes - 1) / s->cluster_bytes);
	return 0;
}

static int grow_l1(struct qcow2 *s, uint64_t bytes)
{
	uint64_t span = s->cluster_bytes << s->l2_bits;
	uint64_t need = bytes / span + (bytes % span != 0);
	g_autofree uint64_t *entries = NULL;
	int r;

	if (need <= s->h.l1_entries)
		return 0;
	if (need > QCOW2_MAX_L1_BYTES / 8)
		return -EFBIG;
	entries = g_try_new0(uint64_t, need);
	if (!entries)
		return -ENOMEM;
	fiber_lock(&s->serving.fibers, &s->meta);
	r = qcow2_commit(s);
	memcpy(entries, s->l1, s->h.l1_entries * sizeof(*entries));
	if (r == 0)
		r = qcow2_l1_switch(s, entries, (uint32_t)need);
	fiber_unlock(&s->meta);
	return r;
}

/* The file has the size that memory has, when it fails too: bitmaps are as long as the disk. */
static int write_size(struct qcow2 *s, uint64_t bytes)
{
	uint8_t field[8];
	int r;

	store_be64(field, bytes);
	r = qcow2_file_write_flush(s, field, sizeof(field), QCOW2_AT_SIZE);
	if (r < 0) {
		store_be64(field, s->h.size_bytes);
		(void)qcow2_header_name(s, field, sizeof(field), QCOW2_AT_SIZE);
		return r;
	}
	s->h.size_bytes = bytes;
	s->disk.size_bytes = bytes;
	return 0;
}

static int resize_data_file(struct qcow2 *s, uint64_t bytes)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = bytes };

	return qcow2_has_data_file(s) ? qcow2_io(s, s->data, &req) : 0;
}

/* What comes into sight is zeros, whatever lay behind the old end. */
static int clear_growth(struct qcow2 *s, uint64_t from, uint64_t to)
{
	uint64_t end = align_up(from, s->cluster_bytes);

	if (s->backing && end < s->backing->size_bytes)
		end = s->backing->size_bytes;
	end = end < to ? end : to;
	return end > from ? qcow2_write_zeroes(s, from, end - from, true) : 0;
}

/* Not everyone who makes the disk larger again looks whether its last cluster holds something. */
static int clear_tail(struct qcow2 *s, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct segments zeros = { NULL, 0, 0 };
		struct qcow2_extent e;
		int r = qcow2_lookup(s, from, to - from, &e);

		if (r == 0 && (e.kind == QCOW2_K_DATA || e.kind == QCOW2_K_COMPRESSED))
			r = qcow2_write(s, from, e.len, &zeros);
		if (r < 0)
			return r;
		from += e.len;
	}
	return 0;
}

/* A disk that was made smaller, and failed or was cut off in between, has clusters behind its end. */
static int drop_behind_end(struct qcow2 *s, uint64_t end, uint64_t bytes)
{
	uint64_t from = align_up(end, s->cluster_bytes), to = align_up(bytes, s->cluster_bytes);
	int r = qcow2_drop(s, from, to > from ? to - from : 0);

	if (r < 0)
		return r;
	fiber_lock(&s->serving.fibers, &s->meta);
	r = qcow2_commit(s);
	fiber_unlock(&s->meta);
	return r;
}

static int resize(struct qcow2 *s, uint64_t bytes)
{
	uint64_t old = s->disk.size_bytes, from;
	int r;

	if (bytes >= old) {
		r = grow_l1(s, bytes);
		if (r == 0)
			r = drop_behind_end(s, old, bytes);
		if (r == 0)
			r = resize_data_file(s, bytes);
		if (r == 0)
			r = write_size(s, bytes);
		return r < 0 ? r : clear_growth(s, old, bytes);
	}
	r = write_size(s, bytes);
	from = align_up(bytes, s->cluster_bytes);
	if (r == 0 && old > from)
		r = qcow2_drop(s, from, align_up(old, s->cluster_bytes) - from);
	if (r == 0)
		r = clear_tail(s, bytes, MIN(from, old));
	return r < 0 ? r : resize_data_file(s, bytes);
}

int qcow2_resize(struct qcow2 *s, uint64_t bytes)
{
	int r;

	if (bytes % DISK_SECTOR_SIZE || bytes > (uint64_t)INT64_MAX - DISK_SECTOR_SIZE)
		return -EINVAL;
	/* Snapshots of version 2 do not note their size. */
	if (s->h.snapshot_count && s->h.version < 3)
		return -EOPNOTSUPP;
	fiber_lock(&s->serving.fibers, &s->meta);
	r = qcow2_bitmaps_detach(s);
	fiber_unlock(&s->meta);
	if (r == 0)
		r = resize(s, bytes);
	fiber_lock(&s->serving.fibers, &s->meta);
	r = qcow2_bitmaps_refit(s, false, r);
	fiber_unlock(&s->meta);
	return r;
}
