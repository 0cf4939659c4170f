// SPDX-License-Identifier: Apache-2.0
/*
 * parallels.c - Parallels' expanding disk images (.hdd), read.
 *
 * The layout is that of "Parallels Expandable Image File Format" in QEMU's documentation
 * (docs/interop/parallels.txt): a header of 64 bytes and a table of 32-bit numbers, little-endian.
 * There are two marks: with the first one the table counts sectors, with the second one blocks.
 * Blocks have any number of sectors, 63 in old images.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/blocks.h"
#include "disk/formats/formats_int.h"

#define HEADER_BYTES 64u
#define MAX_TRACK    (64u << 11) /* sectors of a block: 64 MiB */

enum parallels_field {
	AT_VERSION = 16,
	AT_TRACK = 28,
	AT_ENTRIES = 32,
	AT_SECTORS = 36,
};

struct parallels {
	struct blocks b;
	uint64_t unit; /* bytes that an entry counts */
};

static struct blocks_place parallels_decode(const struct blocks *b, uint64_t block,
					    const uint8_t *entry)
{
	uint32_t at = load_le32(entry);

	(void)block;
	if (at == 0)
		return (struct blocks_place){ BLOCKS_ABSENT, 0 };
	return (struct blocks_place){ BLOCKS_DATA, at * ((const struct parallels *)b)->unit };
}

static const struct blocks_ops parallels_ops = {
	.decode = parallels_decode,
};

static bool load(struct parallels *p, GError **err)
{
	struct blocks *b = &p->b;
	uint8_t h[HEADER_BYTES];
	uint64_t sectors;
	uint32_t track;
	bool extended;

	if (!blocks_file_load(b, h, sizeof(h), 0, err))
		return false;
	extended = !memcmp(h, "WithouFreSpacExt", 16);
	if (!extended && memcmp(h, "WithoutFreeSpace", 16))
		return blocks_refuse(b, err, "is not a Parallels image");
	if (load_le32(h + AT_VERSION) != 2)
		return blocks_refuse(b, err, "is of Parallels version %u; 2 is supported",
				     load_le32(h + AT_VERSION));
	track = load_le32(h + AT_TRACK);
	sectors = load_le64(h + AT_SECTORS);
	/* The upper half of the number is something else in old images. */
	if (!extended)
		sectors &= UINT32_MAX;
	if (track == 0 || track > MAX_TRACK)
		return blocks_refuse(b, err, "has blocks of %u sectors", track);
	if (sectors == 0 || sectors > 1ull << 44)
		return blocks_refuse(b, err, "claims a size of %" G_GUINT64_FORMAT " sectors",
				     sectors);
	if ((sectors + track - 1) / track > load_le32(h + AT_ENTRIES))
		return blocks_refuse(b, err, "has a table of blocks too small for its size");
	b->disk.size_bytes = sectors * DISK_SECTOR_SIZE;
	b->block_bytes = (uint64_t)track * DISK_SECTOR_SIZE;
	b->table_at = HEADER_BYTES;
	b->entry_bytes = 4;
	b->page_entries = BLOCKS_PAGE / 4;
	b->data_at = DISK_SECTOR_SIZE;
	p->unit = extended ? b->block_bytes : DISK_SECTOR_SIZE;
	return true;
}

struct disk *parallels_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
				 const struct disk_chain *chain, GError **err)
{
	struct parallels *p =
		(struct parallels *)blocks_new(sizeof(*p), file, "parallels", &parallels_ops);

	(void)o;
	(void)loop;
	(void)chain;
	if (!load(p, err))
		return blocks_fail_take(&p->b);
	if (!file->readonly) {
		blocks_refuse(&p->b, err,
			      "is a Parallels image, which can only be read; add "
			      "'readonly', or convert it");
		return blocks_fail_take(&p->b);
	}
	p->b.about = g_strdup_printf("expanding, blocks of %u sectors",
				     (unsigned)(p->b.block_bytes / DISK_SECTOR_SIZE));
	return blocks_open_take(&p->b, err);
}
