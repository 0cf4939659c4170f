// SPDX-License-Identifier: Apache-2.0
/* dmg_pieces.c - the tables of pieces of a DMG image, in a property list or in resources (dmg.h). */
#include <string.h>

#include "base/bits.h"
#include "disk/formats/dmg.h"

static bool check_kind(const struct dmg *d, uint32_t kind, GError **err)
{
	const char *missing = dmg_missing(kind);

	if (missing)
		return blocks_refuse(&d->b, err, "is compressed by %s, which is not supported", missing);
	if (kind == DMG_ZEROS || kind == DMG_RAW || kind == DMG_NOTHING || dmg_is_packed(kind))
		return true;
	return blocks_refuse(&d->b, err, "has pieces of kind %#x, which is not supported", kind);
}

static bool check_piece(const struct dmg *d, const struct dmg_piece *p, GError **err)
{
	uint64_t size = d->b.file->size_bytes;
	bool packed = dmg_is_packed(p->kind);

	if (!check_kind(d, p->kind, err))
		return false;
	if (p->count == 0 || p->sector > 1ull << 48 || p->count > 1ull << 48)
		return blocks_refuse(&d->b, err, "has a piece of an impossible size");
	if (p->kind == DMG_ZEROS || p->kind == DMG_NOTHING)
		return true;
	if (p->at > size || p->len > size - p->at)
		return blocks_refuse(&d->b, err, "has a piece that reaches behind its end");
	if (packed && (p->count > DMG_MAX_PIECE / DISK_SECTOR_SIZE || p->len > DMG_MAX_PIECE))
		return blocks_refuse(&d->b, err, "has a compressed piece of more than 64 MiB");
	if (!packed && p->len / DISK_SECTOR_SIZE < p->count)
		return blocks_refuse(&d->b, err, "has a piece shorter than its sectors");
	return true;
}

/* One table, if it is one: among resources there are others. */
static bool take_table(struct dmg *d, const uint8_t *t, size_t len, GError **err)
{
	uint64_t first, data;
	uint32_t count;

	if (len < DMG_TABLE || memcmp(t, "mish", 4))
		return true;
	first = load_be64(t + DMG_AT_T_SECTOR);
	data = load_be64(t + DMG_AT_T_DATA);
	count = load_be32(t + DMG_AT_T_COUNT);
	if (count > (len - DMG_TABLE) / DMG_PIECE)
		return blocks_refuse(&d->b, err, "has a table of pieces that is cut short");
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *e = t + DMG_TABLE + (size_t)i * DMG_PIECE;
		struct dmg_piece p = { .sector = first + load_be64(e + 8),
				       .count = load_be64(e + 16),
				       .at = d->data_at + data + load_be64(e + 24),
				       .len = load_be64(e + 32),
				       .kind = (enum dmg_kind)load_be32(e) };

		if (p.kind == DMG_COMMENT)
			continue;
		if (p.kind == DMG_END)
			break;
		if (!check_piece(d, &p, err))
			return false;
		g_array_append_val(d->pieces, p);
	}
	return true;
}

/* NULL: it lies outside of the file, or there is no memory; @err is set. A zero follows. */
static char *load_part(struct dmg *d, uint64_t at, uint64_t len, const char *what, GError **err)
{
	uint64_t size = d->b.file->size_bytes;
	g_autofree char *bytes = NULL;
	int r;

	if (at > size || len > size - at || len > DMG_MAX_TABLES) {
		blocks_refuse(&d->b, err, "has a %s at an impossible place", what);
		return NULL;
	}
	bytes = g_try_malloc0(len + 1);
	r = bytes ? blocks_file_read(&d->b, bytes, len, at) : -ENOMEM;
	if (r == 0)
		return g_steal_pointer(&bytes);
	blocks_refuse(&d->b, err, "its %s cannot be read: %s", what, g_strerror(-r));
	return NULL;
}

/* Whatever <data> holds a table, by its mark; the list's other words do not matter. */
static bool load_list(struct dmg *d, uint64_t at, uint64_t len, GError **err)
{
	g_autofree char *text = load_part(d, at, len, "property list", err);
	char *p = text, *end;

	if (!text)
		return false;
	while ((p = strstr(p, "<data>"))) {
		g_autofree uint8_t *table = NULL;
		gsize bytes = 0;

		p += strlen("<data>");
		end = strstr(p, "</data>");
		if (!end)
			return blocks_refuse(&d->b, err, "has a property list that is cut short");
		*end = 0;
		table = g_base64_decode(p, &bytes);
		if (!take_table(d, table, bytes, err))
			return false;
		p = end + 1;
	}
	return true;
}

/* "Inside Macintosh: More Macintosh Toolbox", Resource Manager: the data of a resource fork is one
 * resource after another, each with its length. */
static bool load_resources(struct dmg *d, uint64_t at, uint64_t len, GError **err)
{
	g_autofree char *text = load_part(d, at, len, "resource fork", err);
	const uint8_t *bytes = (const uint8_t *)text;
	uint64_t from, left, next;

	if (!text)
		return false;
	from = len >= 16 ? load_be32(bytes) : len;
	if (from > len || len < 16)
		return blocks_refuse(&d->b, err, "has a resource fork that is cut short");
	left = MIN(load_be32(bytes + 8), len - from);
	for (; left > 4; from += 4 + next, left -= 4 + next) {
		next = load_be32(bytes + from);
		if (next > left - 4)
			return blocks_refuse(&d->b, err, "has a resource that is cut short");
		if (!take_table(d, bytes + from + 4, next, err))
			return false;
	}
	return true;
}

static int by_sector(const void *a, const void *b)
{
	uint64_t x = ((const struct dmg_piece *)a)->sector,
		 y = ((const struct dmg_piece *)b)->sector;

	return x < y ? -1 : x > y;
}

bool dmg_load_pieces(struct dmg *d, const uint8_t *t, GError **err)
{
	uint64_t resources = load_be64(t + DMG_AT_RESOURCES + 8), size = d->b.file->size_bytes;
	uint64_t most = 0;
	bool ok;

	d->data_at = load_be64(t + DMG_AT_DATA);
	if (d->data_at > size)
		return blocks_refuse(&d->b, err, "has its data at an impossible place");
	ok = resources ? load_resources(d, load_be64(t + DMG_AT_RESOURCES), resources, err)
		       : load_list(d, load_be64(t + DMG_AT_LIST), load_be64(t + DMG_AT_LIST + 8), err);
	if (!ok)
		return false;
	if (d->pieces->len == 0)
		return blocks_refuse(&d->b, err, "has no table of pieces");
	g_array_sort(d->pieces, by_sector);
	for (guint i = 0; i < d->pieces->len; i++) {
		const struct dmg_piece *p = &g_array_index(d->pieces, struct dmg_piece, i);

		if (i > 0 && p[-1].count > p->sector - p[-1].sector)
			return blocks_refuse(&d->b, err, "has pieces that overlap");
		if (dmg_is_packed(p->kind))
			most = MAX(most, p->count * DISK_SECTOR_SIZE);
	}
	d->b.block_bytes = MAX(most, DISK_SECTOR_SIZE);
	return true;
}
