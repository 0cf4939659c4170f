// SPDX-License-Identifier: Apache-2.0
/*
 * bitmap_ops.c - making, removing, clearing and merging bitmaps of changed blocks.
 *
 * What makes another table writes a directory that names it, elsewhere, and the header then names
 * that: with one write all is done or nothing. Only a merge changes clusters where they lie, of a
 * bitmap that is in use meanwhile.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/qcow2/qcow2_int.h"

#define MIN_SHIFT   9u /* what QEMU takes */
#define MAX_SHIFT   31u
#define MIN_DEFAULT 4096u
#define MAX_DEFAULT 65536u

static void info_free(void *p)
{
	struct qcow2_bitmap_info *info = p;

	g_free(info->name);
	g_free(info);
}

/* Those of the image, as it is open; an empty list when there are none. */
static bool load(struct qcow2 *s, GPtrArray **ret, GError **err)
{
	if (s->bitmaps.list) {
		*ret = g_ptr_array_ref(s->bitmaps.list);
		return true;
	}
	if (qcow2_has_bitmaps(s))
		return qcow2_bitmap_dir_load(s, ret, err);
	*ret = g_ptr_array_new_with_free_func(qcow2_bitmap_free);
	return true;
}

bool qcow2_bitmaps(struct disk *disk, GPtrArray **ret, GError **err)
{
	g_autoptr(GPtrArray) list = NULL;

	*ret = g_ptr_array_new_with_free_func(info_free);
	if (strcmp(disk->format, "qcow2"))
		return true;
	if (!load((struct qcow2 *)disk, &list, err)) {
		g_clear_pointer(ret, g_ptr_array_unref);
		return false;
	}
	for (guint i = 0; i < list->len; i++) {
		const struct qcow2_bitmap *b = g_ptr_array_index(list, i);
		struct qcow2_bitmap_info *info = g_new0(struct qcow2_bitmap_info, 1);

		*info = (struct qcow2_bitmap_info){
			.name = g_strdup(b->name),
			.granularity = 1ull << b->shift,
			.enabled = b->flags & QCOW2_BITMAP_AUTO,
			.inconsistent = b->flags & QCOW2_BITMAP_IN_USE,
			.foreign = !(b->flags & QCOW2_BITMAP_IN_USE) && !qcow2_bitmap_is_usable(b),
		};
		g_ptr_array_add(*ret, info);
	}
	return true;
}

static bool fail(const struct qcow2 *s, int r, GError **err)
{
	if (r == -ENOSPC)
		return base_fail(
			err, ENOSPC,
			"disk '%s': there is no room for it, in the header or on the host's disk",
			s->disk.path);
	return r == 0 || base_fail(err, -r, "disk '%s': its bitmaps cannot be changed: %s",
				   s->disk.path, g_strerror(-r));
}

/* Before a change: the list is the image's, what was marked is stored. */
static bool begin(struct qcow2 *s, GError **err)
{
	int r;

	if (s->disk.readonly || s->broken)
		return fail(s, -EROFS, err);
	if (s->h.version < 3)
		return base_fail(err, ENOTSUP, "disk '%s': is of version 2, which has no bitmaps",
				 s->disk.path);
	r = qcow2_commit(s);
	return fail(s, r < 0 ? r : qcow2_bitmaps_settle(s), err);
}

/* Behind one. What was given up is free when nothing names it any more. */
static int end(struct qcow2 *s, int r)
{
	if (r == 0)
		r = qcow2_commit(s);
	return qcow2_bitmaps_start(s) < 0 && r == 0 ? -ENOMEM : r;
}

static bool complain(const struct qcow2 *s, const char *name, const char *what, GError **err)
{
	return base_fail(err, EINVAL, "disk '%s': %s '%s'", s->disk.path, what, name);
}

/* @usable: it can be read, and written. */
static struct qcow2_bitmap *find(const struct qcow2 *s, const GPtrArray *list, const char *name,
				 bool usable, GError **err)
{
	struct qcow2_bitmap *b = qcow2_bitmap_find(list, name);

	if (!b)
		complain(s, name, "has no bitmap", err);
	else if (usable && (b->flags & QCOW2_BITMAP_IN_USE))
		complain(s, name,
			 "was not closed when this bitmap was in use, so that it can only be "
			 "removed:",
			 err);
	else if (usable && !qcow2_bitmap_is_usable(b))
		complain(s, name,
			 "has more than is known here to this bitmap, so that it can only be "
			 "removed:",
			 err);
	else
		return b;
	return NULL;
}

static struct qcow2_bitmap *begin_with(struct qcow2 *s, const char *name, bool usable, GError **err)
{
	return begin(s, err) ? find(s, s->bitmaps.list, name, usable, err) : NULL;
}

/* ---- making and removing ---- */

static unsigned log2_of(uint64_t v)
{
	return (unsigned)__builtin_ctzll(v);
}

static bool check_new(const struct qcow2 *s, const char *name, uint64_t granularity, GError **err)
{
	const GPtrArray *list = s->bitmaps.list;

	if (!*name || strlen(name) > QCOW2_MAX_BITMAP_NAME)
		return base_fail(err, EINVAL, "disk '%s': a bitmap's name has 1 to %u bytes",
				 s->disk.path, QCOW2_MAX_BITMAP_NAME);
	if (qcow2_bitmap_find(list, name))
		return complain(s, name, "has already a bitmap", err);
	if ((granularity & (granularity - 1)) || granularity < 1ull << MIN_SHIFT ||
	    granularity > 1ull << MAX_SHIFT)
		return base_fail(
			err, EINVAL,
			"disk '%s': a bitmap has a bit for 512 bytes to 2 GiB, a power of two",
			s->disk.path);
	if (qcow2_bitmap_clusters(s, s->h.size_bytes, log2_of(granularity)) >
	    QCOW2_MAX_BITMAP_BYTES >> s->h.cluster_bits)
		return base_fail(
			err, EFBIG,
			"disk '%s': the bitmap would have more than 512 MiB; take larger blocks",
			s->disk.path);
	if (list && list->len >= QCOW2_MAX_BITMAPS)
		return base_fail(err, EFBIG, "disk '%s': has %u bitmaps, and more are not possible",
				 s->disk.path, QCOW2_MAX_BITMAPS);
	return true;
}

bool qcow2_bitmap_add(struct disk *disk, const char *name, uint64_t granularity, bool enabled,
		      GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct qcow2_bitmap *b;
	int r;

	if (!granularity)
		granularity = CLAMP(s->cluster_bytes, MIN_DEFAULT, MAX_DEFAULT);
	if (!begin(s, err) || !check_new(s, name, granularity, err))
		return false;
	if (!s->bitmaps.list)
		s->bitmaps.list = g_ptr_array_new_with_free_func(qcow2_bitmap_free);
	b = g_new0(struct qcow2_bitmap, 1);
	*b = (struct qcow2_bitmap){ .name = g_strdup(name),
				    .type = QCOW2_BITMAP_DIRTY,
				    .shift = (uint8_t)log2_of(granularity),
				    .extra = g_byte_array_new(),
				    .flags = enabled ? QCOW2_BITMAP_AUTO : 0 };
	r = qcow2_bitmap_new_table(s, b, NULL, 0,
				   (uint32_t)qcow2_bitmap_clusters(s, s->h.size_bytes, b->shift));
	g_ptr_array_add(s->bitmaps.list, b);
	if (r == 0) {
		r = qcow2_bitmap_dir_switch(s, s->bitmaps.list);
		if (r < 0 && !s->broken)
			qcow2_bitmap_give_up(s, b->table_offset, NULL, b->table_entries, false);
	}
	if (r < 0)
		g_ptr_array_remove_index(s->bitmaps.list, s->bitmaps.list->len - 1);
	return fail(s, end(s, r), err);
}

/* The table that it has goes; it gets an empty one, or goes as well. What fails leaves the list as
 * the file has it: the next change of flags writes the whole of it where it lies. */
static int let_table_go(struct qcow2 *s, struct qcow2_bitmap *b, bool stays)
{
	const struct qcow2_bitmap was = *b;
	GPtrArray *list = s->bitmaps.list;
	g_autofree uint64_t *entries = NULL;
	int r = qcow2_load_table(s, was.table_offset, was.table_entries, &entries);
	guint index = 0;

	if (r == 0 && stays)
		r = qcow2_bitmap_new_table(s, b, NULL, 0,
					   (uint32_t)qcow2_bitmap_clusters(s, s->h.size_bytes,
									   b->shift));
	if (r < 0)
		return r;
	if (!stays) {
		(void)g_ptr_array_find(list, b, &index);
		g_ptr_array_steal_index(list, index);
	}
	r = qcow2_bitmap_dir_switch(s, list);
	if (r == 0) {
		qcow2_bitmap_give_up(s, was.table_offset, entries, was.table_entries, true);
		if (!stays)
			qcow2_bitmap_free(b);
	} else if (!stays) {
		g_ptr_array_insert(list, (gint)index, b);
	} else {
		if (!s->broken)
			qcow2_bitmap_give_up(s, b->table_offset, NULL, b->table_entries, false);
		*b = was;
	}
	return r;
}

bool qcow2_bitmap_remove(struct disk *disk, const char *name, GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct qcow2_bitmap *b = begin_with(s, name, false, err);

	return b && fail(s, end(s, let_table_go(s, b, false)), err);
}

bool qcow2_bitmap_clear(struct disk *disk, const char *name, GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct qcow2_bitmap *b = begin_with(s, name, true, err);

	return b && fail(s, end(s, let_table_go(s, b, true)), err);
}

bool qcow2_bitmap_enable(struct disk *disk, const char *name, bool enabled, GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct qcow2_bitmap *b = begin_with(s, name, true, err);
	int r;

	if (!b)
		return false;
	b->flags = enabled ? b->flags | QCOW2_BITMAP_AUTO : b->flags & ~QCOW2_BITMAP_AUTO;
	r = qcow2_bitmap_dir_flags(s, s->bitmaps.list);
	/* The file may say that it is enabled, and so it is to know of changes. */
	if (r < 0)
		b->flags |= QCOW2_BITMAP_AUTO;
	return fail(s, end(s, r), err);
}

/* ---- merging ---- */

/* What is set in a cluster of @b, of which bit 0 is the disk's bit @first. */
static int read_cluster(struct qcow2 *s, const struct qcow2_bitmap *b, uint64_t entry,
			uint64_t first, uint8_t *buf, struct qcow2_marks *to)
{
	uint64_t bits = qcow2_bitmap_bits(s->h.size_bytes, b->shift) - first, from, end = 0;
	int r = 0;

	bits = MIN(bits, s->cluster_bytes * 8);
	if (entry & QCOW2_OFFSET)
		r = qcow2_file_read(s, buf, s->cluster_bytes, entry & QCOW2_OFFSET);
	else
		memset(buf, entry & 1 ? 0xff : 0, s->cluster_bytes);
	while (r == 0 && qcow2_bits_run(buf, end, bits, &from, &end))
		qcow2_marks_set(to, (first + from) << b->shift,
				((first + end - 1) << b->shift) + (1ull << b->shift) -
					((first + from) << b->shift));
	return r;
}

int qcow2_bitmap_read(struct qcow2 *s, const struct qcow2_bitmap *b, struct qcow2_marks *to)
{
	g_autofree uint8_t *buf = g_try_malloc(s->cluster_bytes);
	g_autofree uint64_t *entries = NULL;
	uint64_t clusters = qcow2_bitmap_clusters(s, s->h.size_bytes, b->shift);
	int r = buf ? qcow2_load_table(s, b->table_offset, b->table_entries, &entries) : -ENOMEM;

	for (uint64_t i = 0; i < clusters && s->h.size_bytes && r == 0; i++) {
		if (!qcow2_bitmap_entry_is_sound(s, entries[i]))
			r = -EIO;
		else if (entries[i])
			r = read_cluster(s, b, entries[i], i * s->cluster_bytes * 8, buf, to);
	}
	return r;
}

static int add_durably(struct qcow2 *s, struct qcow2_bitmap *b, const struct qcow2_marks *m)
{
	int r;

	b->flags |= QCOW2_BITMAP_IN_USE;
	r = qcow2_bitmap_dir_flags(s, s->bitmaps.list);
	/* The file may not say so, and then it is to know of changes. */
	if (r < 0) {
		b->flags &= ~QCOW2_BITMAP_IN_USE;
		return r;
	}
	r = qcow2_bitmap_add_marks(s, b, m);
	if (r == 0)
		r = qcow2_commit(s);
	if (r < 0)
		return r;
	b->flags &= ~QCOW2_BITMAP_IN_USE;
	return qcow2_bitmap_dir_flags(s, s->bitmaps.list);
}

bool qcow2_bitmap_merge(struct disk *disk, const char *name, struct disk *from,
			const char *from_name, GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk, *source = (struct qcow2 *)from;
	struct qcow2_bitmap *b = begin_with(s, name, true, err);
	g_autoptr(GPtrArray) list = NULL;
	struct qcow2_marks marks = { 0 };
	const struct qcow2_bitmap *given;
	int r;

	if (!b || !load(source, &list, err))
		return false;
	given = find(source, list, from_name, true, err);
	if (!given)
		return false;
	if (from->size_bytes != disk->size_bytes)
		return base_fail(
			err, EINVAL,
			"disk '%s': is not as large as '%s', so that their bitmaps do not fit",
			disk->path, from->path);
	r = qcow2_marks_init(&marks, s->h.size_bytes, b->shift, QCOW2_MAX_BITMAP_BYTES);
	if (r == 0)
		r = qcow2_bitmap_read(source, given, &marks);
	if (r < 0) {
		qcow2_marks_fini(&marks);
		return base_fail(err, -r, "disk '%s': its bitmap '%s' cannot be read: %s",
				 from->path, from_name, g_strerror(-r));
	}
	r = end(s, add_durably(s, b, &marks));
	qcow2_marks_fini(&marks);
	return fail(s, r, err);
}

bool qcow2_bitmaps_measure(struct disk *disk, uint64_t cluster_bytes, uint64_t *ret, GError **err)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	g_autoptr(GPtrArray) list = NULL;
	uint64_t directory = 0;

	*ret = 0;
	if (strcmp(disk->format, "qcow2"))
		return true;
	if (!load(s, &list, err))
		return false;
	for (guint i = 0; i < list->len; i++) {
		const struct qcow2_bitmap *b = g_ptr_array_index(list, i);
		uint64_t bits = qcow2_bitmap_bits(s->h.size_bytes, b->shift);
		uint64_t clusters =
			(bits / 8 + (bits % 8 != 0) + cluster_bytes - 1) / cluster_bytes;

		if (!qcow2_bitmap_is_usable(b))
			continue;
		*ret += align_up(clusters * 8, cluster_bytes) + clusters * cluster_bytes;
		directory += align_up(24 + strlen(b->name), 8);
	}
	*ret += align_up(directory, cluster_bytes);
	return true;
}
