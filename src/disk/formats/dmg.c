// SPDX-License-Identifier: Apache-2.0
/* dmg.c - Apple's disk images, read (dmg.h). */
#include "disk/formats/dmg.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/formats_int.h"

static const struct dmg_piece *piece(const struct dmg *d, guint i)
{
	return &g_array_index(d->pieces, struct dmg_piece, i);
}

/* The first piece that ends behind the sector; or how many there are. */
static guint find_piece(const struct dmg *d, uint64_t sector)
{
	guint low = 0, high = d->pieces->len;

	while (low < high) {
		guint middle = low + (high - low) / 2;
		const struct dmg_piece *p = piece(d, middle);

		if (p->sector + p->count > sector)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static int dmg_lookup(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret)
{
	const struct dmg *d = (const struct dmg *)b;
	guint i = find_piece(d, offset / DISK_SECTOR_SIZE);
	uint64_t start = i < d->pieces->len ? piece(d, i)->sector * DISK_SECTOR_SIZE : UINT64_MAX;
	const struct dmg_piece *p;

	*ret = (struct blocks_extent){ .place = { BLOCKS_ZERO, 0 }, .in = b->file, .block = i };
	/* What no piece describes. */
	if (start > offset) {
		ret->len = MIN(len, start - offset);
		return 0;
	}
	p = piece(d, i);
	ret->len = MIN(len, start + p->count * DISK_SECTOR_SIZE - offset);
	ret->block_at = start;
	if (p->kind == DMG_RAW)
		ret->place = (struct blocks_place){ BLOCKS_DATA, p->at + (offset - start) };
	else if (dmg_is_packed(p->kind))
		ret->place = (struct blocks_place){ BLOCKS_PACKED, p->at };
	return 0;
}

static int dmg_unpack(struct blocks *b, uint64_t block, uint64_t host)
{
	const struct dmg_piece *p = piece((const struct dmg *)b, (guint)block);
	g_autofree uint8_t *packed = g_try_malloc(p->len + 1);
	int r = packed ? blocks_file_read(b, packed, p->len, host) : -ENOMEM;

	if (r < 0)
		return r;
	return dmg_unpack_piece(p, packed, b->unpacked)
		       ? 0
		       : blocks_damaged(b, "a compressed piece that cannot be read", host);
}

static void dmg_fini(struct blocks *b)
{
	g_array_unref(((struct dmg *)b)->pieces);
}

static const struct blocks_ops dmg_ops = {
	.lookup = dmg_lookup,
	.unpack = dmg_unpack,
	.fini = dmg_fini,
};

/* At the end of the file, or a little in front of it. */
static bool find_trailer(struct dmg *d, uint8_t *ret, GError **err)
{
	uint64_t size = d->b.file->size_bytes, len = MIN(size, 2 * DMG_TRAILER);
	uint8_t tail[2 * DMG_TRAILER];

	if (!blocks_file_load(&d->b, tail, len, size - len, err))
		return false;
	for (uint64_t at = len < DMG_TRAILER ? 0 : len - DMG_TRAILER + 1; at > 0; at--) {
		const uint8_t *t = tail + at - 1;

		if (memcmp(t + DMG_AT_MARK, "koly", 4) || load_be32(t + DMG_AT_BYTES) != DMG_TRAILER)
			continue;
		memcpy(ret, t, DMG_TRAILER);
		return true;
	}
	return blocks_refuse(&d->b, err, "is not a DMG image");
}

static bool load(struct dmg *d, GError **err)
{
	uint8_t t[DMG_TRAILER];
	uint64_t sectors;

	if (!find_trailer(d, t, err))
		return false;
	sectors = load_be64(t + DMG_AT_SECTORS);
	if (sectors == 0 || sectors > 1ull << 44)
		return blocks_refuse(&d->b, err, "claims a size of %" G_GUINT64_FORMAT " sectors",
				     sectors);
	d->b.disk.size_bytes = sectors * DISK_SECTOR_SIZE;
	return dmg_load_pieces(d, t, err);
}

struct disk *dmg_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err)
{
	struct dmg *d = (struct dmg *)blocks_new(sizeof(*d), file, "dmg", &dmg_ops);

	(void)o;
	(void)loop;
	(void)chain;
	d->pieces = g_array_new(FALSE, FALSE, sizeof(struct dmg_piece));
	if (!load(d, err))
		return blocks_fail_take(&d->b);
	if (!file->readonly) {
		blocks_refuse(&d->b, err,
			      "is a DMG image, which can only be read; add 'readonly', or convert "
			      "it");
		return blocks_fail_take(&d->b);
	}
	d->b.about = g_strdup_printf("%u pieces", d->pieces->len);
	return blocks_open_take(&d->b, err);
}
