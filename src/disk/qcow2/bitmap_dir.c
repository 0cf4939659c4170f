// SPDX-License-Identifier: Apache-2.0
/*
 * bitmap_dir.c - the directory of bitmaps of changed blocks (sections "Bitmaps extension", "Bitmap
 * directory").
 *
 * A damaged one makes all of them useless, and who wrote to the image could not keep them true, so
 * that it is refused then. A bitmap that is sound and that we do not understand is kept as it is;
 * when it should know of changes, it says from the first one on that it does not.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/qcow2/qcow2_int.h"

#define ENTRY_BYTES 24u
#define MAX_SHIFT   63u

void qcow2_bitmap_free(void *bitmap)
{
	struct qcow2_bitmap *b = bitmap;

	g_free(b->name);
	g_byte_array_unref(b->extra);
	g_free(b);
}

uint64_t qcow2_bitmap_bits(uint64_t size_bytes, unsigned shift)
{
	return size_bytes ? ((size_bytes - 1) >> shift) + 1 : 0;
}

uint64_t qcow2_bitmap_clusters(const struct qcow2 *s, uint64_t size_bytes, unsigned shift)
{
	uint64_t bits = qcow2_bitmap_bits(size_bytes, shift);

	return bits ? ((bits - 1) >> (s->h.cluster_bits + 3)) + 1
		    : 1; /* a table has an entry at least */
}

bool qcow2_bitmap_is_usable(const struct qcow2_bitmap *b)
{
	return !(b->flags & QCOW2_BITMAP_IN_USE) && b->type == QCOW2_BITMAP_DIRTY &&
	       (b->extra->len == 0 || (b->flags & QCOW2_BITMAP_EXTRA_OK));
}

struct qcow2_bitmap *qcow2_bitmap_find(const GPtrArray *list, const char *name)
{
	for (guint i = 0; list && i < list->len; i++) {
		struct qcow2_bitmap *b = g_ptr_array_index(list, i);

		if (!strcmp(b->name, name))
			return b;
	}
	return NULL;
}

bool qcow2_bitmap_entry_is_sound(const struct qcow2 *s, uint64_t entry)
{
	uint64_t at = entry & QCOW2_OFFSET;

	return !(entry & ~(QCOW2_OFFSET | 1)) && !(at && (entry & 1)) &&
	       !(at & (s->cluster_bytes - 1));
}

/* What is wrong with the place of the directory; NULL: nothing. */
static const char *look_at_place(const struct qcow2 *s)
{
	const struct qcow2_header *h = &s->h;

	if (h->bitmap_count == 0 || h->bitmap_count > QCOW2_MAX_BITMAPS)
		return "their number is none, or too large";
	if (h->bitmaps_bytes < h->bitmap_count * (uint64_t)ENTRY_BYTES ||
	    h->bitmaps_bytes > QCOW2_MAX_BITMAP_DIR)
		return "their directory is too short or too long";
	if (h->bitmaps_offset == 0 || (h->bitmaps_offset & (s->cluster_bytes - 1)) ||
	    h->bitmaps_offset >= s->file->size_bytes ||
	    h->bitmaps_bytes > s->file->size_bytes - h->bitmaps_offset)
		return "their directory is at an impossible place";
	return NULL;
}

static const char *look_at_bitmap(const struct qcow2 *s, const struct qcow2_bitmap *b)
{
	if (b->shift > MAX_SHIFT || (b->flags & ~QCOW2_BITMAP_KNOWN) || b->type == 0)
		return "one of them has flags, a kind or blocks that cannot be";
	if (b->table_entries == 0 || b->table_entries > QCOW2_MAX_BITMAP_BYTES >> s->h.cluster_bits)
		return "one of them is empty, or larger than 512 MiB";
	if (b->table_offset == 0 || (b->table_offset & (s->cluster_bytes - 1)) ||
	    b->table_offset >= s->file->size_bytes ||
	    align_up(b->table_entries * 8ull, s->cluster_bytes) >
		    align_up(s->file->size_bytes, s->cluster_bytes) - b->table_offset)
		return "one of them has its table at an impossible place";
	if (qcow2_bitmap_is_usable(b) &&
	    b->table_entries < qcow2_bitmap_clusters(s, s->h.size_bytes, b->shift))
		return "one of them is too small for the disk";
	return NULL;
}

/* One entry: 24 bytes, extra data, name, padding. The sentence of what is wrong, or NULL. */
static const char *parse_entry(const struct qcow2 *s, const uint8_t *e, size_t left,
			       size_t *ret_len, struct qcow2_bitmap **ret)
{
	struct qcow2_bitmap *b;
	const uint8_t *name;
	uint32_t extra, len;

	if (left < ENTRY_BYTES)
		return "their directory ends too early";
	len = load_be16(e + 18);
	extra = load_be32(e + 20);
	if (extra > left - ENTRY_BYTES || align_up(len, 8) > left)
		return "their directory ends too early";
	*ret_len = align_up(ENTRY_BYTES + (size_t)extra + len, 8);
	if (*ret_len > left)
		return "their directory ends too early";
	name = e + ENTRY_BYTES + extra;
	if (len == 0 || len > QCOW2_MAX_BITMAP_NAME || memchr(name, 0, len))
		return "one of them has a name that is none";
	b = g_new0(struct qcow2_bitmap, 1);
	*b = (struct qcow2_bitmap){ .name = g_strndup((const char *)name, len),
				    .table_offset = load_be64(e),
				    .table_entries = load_be32(e + 8),
				    .flags = load_be32(e + 12),
				    .type = e[16],
				    .shift = e[17],
				    .extra = g_byte_array_append(g_byte_array_new(),
								 e + ENTRY_BYTES, extra) };
	*ret = b;
	return look_at_bitmap(s, b);
}

static const char *parse(const struct qcow2 *s, const uint8_t *bytes, GPtrArray *list)
{
	g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
	size_t at = 0, len = s->h.bitmaps_bytes;
	uint64_t tables = 0;

	for (uint32_t i = 0; i < s->h.bitmap_count; i++) {
		struct qcow2_bitmap *b = NULL;
		size_t n = 0;
		const char *wrong = parse_entry(s, bytes + at, len - at, &n, &b);

		if (b)
			g_ptr_array_add(list, b);
		if (wrong)
			return wrong;
		if (!g_hash_table_add(names, b->name))
			return "two of them have the same name";
		at += n;
		/* Who walks them all is to see no byte of the file twice. */
		tables += align_up(b->table_entries * 8ull, s->cluster_bytes);
		if (tables > align_up(s->file->size_bytes, s->cluster_bytes))
			return "their tables are larger than the file";
	}
	return at == len ? NULL : "their directory is too long";
}

bool qcow2_bitmap_dir_load(struct qcow2 *s, GPtrArray **ret_list, GError **err)
{
	g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(qcow2_bitmap_free);
	const char *wrong = look_at_place(s);
	g_autofree uint8_t *bytes = NULL;
	int r = 0;

	if (!wrong && !(bytes = g_try_malloc(s->h.bitmaps_bytes)))
		r = -ENOMEM;
	if (!wrong && r == 0)
		r = qcow2_file_read(s, bytes, s->h.bitmaps_bytes, s->h.bitmaps_offset);
	if (r < 0)
		return base_fail(err, -r, "disk '%s': its directory of bitmaps cannot be read: %s",
				 s->disk.path, g_strerror(-r));
	if (!wrong)
		wrong = parse(s, bytes, list);
	if (wrong)
		return base_fail(
			err, EINVAL,
			"disk '%s': its bitmaps of changed blocks are damaged: %s; to write to "
			"it, give them up with: sika image check --repair",
			s->disk.path, wrong);
	*ret_list = g_steal_pointer(&list);
	return true;
}

static void put_entry(GByteArray *blob, const struct qcow2_bitmap *b)
{
	static const uint8_t padding[8];
	uint8_t head[ENTRY_BYTES];
	size_t name = strlen(b->name);

	store_be64(head, b->table_offset);
	store_be32(head + 8, b->table_entries);
	store_be32(head + 12, b->flags);
	head[16] = b->type;
	head[17] = b->shift;
	store_be16(head + 18, (uint16_t)name);
	store_be32(head + 20, b->extra->len);
	g_byte_array_append(blob, head, sizeof(head));
	if (b->extra->len)
		g_byte_array_append(blob, b->extra->data, b->extra->len);
	g_byte_array_append(blob, (const uint8_t *)b->name, (guint)name);
	g_byte_array_append(blob, padding, (8 - blob->len % 8) % 8);
}

static GByteArray *directory(const GPtrArray *list)
{
	GByteArray *blob = g_byte_array_new();

	for (guint i = 0; i < list->len; i++)
		put_entry(blob, g_ptr_array_index(list, i));
	return blob;
}

int qcow2_bitmap_dir_flags(struct qcow2 *s, const GPtrArray *list)
{
	g_autoptr(GByteArray) blob = directory(list);

	/* Nothing but flags differs, each of which lies in one sector: any part of this may be
	 * done. */
	return qcow2_file_write_flush(s, blob->data, blob->len, s->h.bitmaps_offset);
}

/* The header, which is not yet written, names @len bytes at @at. */
static int name(struct qcow2 *s, uint32_t count, uint64_t at, uint64_t len)
{
	struct qcow2_header h = s->h;
	uint8_t field[8];
	int r;

	h.bitmap_count = count;
	h.bitmaps_bytes = len;
	h.bitmaps_offset = at;
	h.autoclear = count ? h.autoclear | QCOW2_AUTOCLEAR_BITMAPS
			    : h.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS;
	if (qcow2_has_bitmaps(s) && count == s->h.bitmap_count && len == s->h.bitmaps_bytes) {
		store_be64(field, at);
		r = qcow2_header_name(s, field, sizeof(field), s->h.bitmaps_at + 16);
	} else {
		r = qcow2_header_replace(s, &h);
		h.bitmaps_at = count ? qcow2_header_bitmaps_at(&h) : 0;
	}
	if (r == 0)
		s->h = h;
	return r;
}

int qcow2_bitmap_dir_switch(struct qcow2 *s, const GPtrArray *list)
{
	g_autoptr(GByteArray) blob = directory(list);
	uint64_t clusters = (blob->len + s->cluster_bytes - 1) / s->cluster_bytes, at = 0;
	uint64_t old_at = s->h.bitmaps_offset, old_bytes = s->h.bitmaps_bytes;
	bool had = qcow2_has_bitmaps(s);
	int r = blob->len > QCOW2_MAX_BITMAP_DIR ? -EFBIG : 0;

	if (r == 0 && clusters)
		r = qcow2_alloc(s, clusters, true, &at, NULL);
	if (r < 0)
		return r;
	if (clusters)
		r = qcow2_file_write(s, blob->data, blob->len, at);
	if (r == 0)
		r = qcow2_commit(s);
	if (r == 0)
		r = name(s, list->len, at, blob->len);
	if (r < 0 && !s->broken && clusters)
		qcow2_unalloc(s, at, clusters);
	if (r == 0 && had)
		qcow2_free(s, old_at, (old_bytes + s->cluster_bytes - 1) / s->cluster_bytes);
	return r;
}

int qcow2_bitmap_dir_drop(struct qcow2 *s)
{
	struct qcow2_header h = s->h;
	int r;

	qcow2_bitmaps_fini(s);
	h.bitmap_count = 0;
	h.bitmaps_at = 0;
	h.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
	r = qcow2_header_replace(s, &h);
	/* No room for a header as we write it: what it says of bitmaps stays, and is not believed.
	 */
	if (r == -ENOSPC && !s->broken)
		return qcow2_set_autoclear(s, h.autoclear);
	if (r == 0)
		s->h = h;
	return r;
}
