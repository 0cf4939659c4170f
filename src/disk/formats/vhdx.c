// SPDX-License-Identifier: Apache-2.0
/*
 * vhdx.c - Hyper-V's disk images, dynamic, fixed and differencing (vhdx.h).
 *
 * The table has an entry for a bitmap of sectors behind each chunk of blocks. A chunk is a page of
 * the table here. Only differencing images use the bitmaps, for blocks that are there in part
 * (blocks_sectors.c).
 *
 * The specification has changes of the table go through the log, so that a sector that is half
 * written can be written again. We change it in place: an entry has eight bytes and lies in one
 * sector, and it is written when what it names is durable (blocks.h). Whatever sectors of it reach
 * the disk, each entry is the old one or the new one. A log that others left is replayed before
 * anything else.
 */
#include "disk/formats/vhdx.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/formats_int.h"

static struct blocks_place vhdx_decode(const struct blocks *b, uint64_t block, const uint8_t *entry)
{
	uint64_t e = load_le64(entry);

	(void)b;
	(void)block;
	switch ((enum vhdx_state)(e & 7)) {
	case VHDX_NOT_PRESENT:
		return (struct blocks_place){ BLOCKS_ABSENT, 0 };
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED:
		return (struct blocks_place){ BLOCKS_ZERO, 0 };
	case VHDX_PRESENT:
		return (struct blocks_place){ BLOCKS_DATA, e & ~(uint64_t)(VHDX_ALIGN - 1) };
	case VHDX_PARTIAL:
		if (((const struct vhdx *)b)->has_parent)
			return (struct blocks_place){ BLOCKS_PARTIAL,
						      e & ~(uint64_t)(VHDX_ALIGN - 1) };
		break;
	}
	return (struct blocks_place){ BLOCKS_DATA, 0 }; /* where none can be */
}

static void vhdx_encode(const struct blocks *b, struct blocks_place place, uint8_t *entry)
{
	(void)b;
	store_le64(entry, place.host | VHDX_PRESENT);
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static bool vhdx_is_possible(const struct blocks *b, uint64_t host)
{
	const struct vhdx *v = (const struct vhdx *)b;

	return !overlaps(host, b->block_bytes, v->log_at, v->log_bytes) &&
	       !overlaps(host, b->block_bytes, b->table_at, v->table_bytes) &&
	       !overlaps(host, b->block_bytes, v->metadata_at, v->metadata_bytes);
}

static uint64_t vhdx_page_at(const struct blocks *b, uint64_t page)
{
	return b->table_at + page * (b->page_entries + 1ull) * 8;
}

/* 2.5.1.2: the bits of a chunk's blocks lie in a row, at a place that the entry behind the chunk's
 * others names; the lowest bit of a byte is its first sector's. */
static int vhdx_bitmap(struct blocks *b, uint64_t block, uint64_t host, uint8_t *to, uint64_t len)
{
	uint64_t page = block / b->page_entries, at;
	uint8_t entry[8];
	int r = blocks_file_read(b, entry, sizeof(entry),
				 vhdx_page_at(b, page) + b->page_entries * 8ull);

	(void)host;
	if (r < 0)
		return r;
	at = load_le64(entry) & ~(uint64_t)(VHDX_ALIGN - 1);
	if ((load_le64(entry) & 7) != VHDX_PRESENT || at < VHDX_ALIGN || at >= b->file->size_bytes)
		return blocks_damaged(b, "a bitmap of sectors at an impossible place", at);
	r = blocks_file_read(b, to, len, at + block % b->page_entries * len);
	for (uint64_t i = 0; i < len; i++)
		to[i] = (uint8_t)((to[i] * 0x0202020202ull & 0x010884422010ull) % 1023);
	return r;
}

/* The entry of the table changes, as with a new block: behind the data. */
static int vhdx_complete(struct blocks *b, uint64_t block, uint64_t host)
{
	return blocks_set(b, block, (struct blocks_place){ BLOCKS_DATA, host });
}

static void vhdx_fini(struct blocks *b)
{
	g_free(((struct vhdx *)b)->parent_name);
}

/* 2.2.2: who keeps something about the content must notice that it changes. */
static int vhdx_first(struct blocks *b)
{
	struct vhdx *v = (struct vhdx *)b;

	disk_form_guid(v->header + VHDX_AT_FILE_GUID);
	disk_form_guid(v->header + VHDX_AT_DATA_GUID);
	return vhdx_write_header(v);
}

static const struct blocks_ops vhdx_ops = {
	.decode = vhdx_decode,
	.encode = vhdx_encode,
	.is_possible = vhdx_is_possible,
	.page_at = vhdx_page_at,
	.first = vhdx_first,
	.bitmap = vhdx_bitmap,
	.complete = vhdx_complete,
	.fini = vhdx_fini,
};

/* The table has an entry for each block, and lies where nothing else does. */
static bool check_table(struct vhdx *v, GError **err)
{
	struct blocks *b = &v->b;
	uint64_t blocks = (b->disk.size_bytes + b->block_bytes - 1) / b->block_bytes;

	b->page_entries = (unsigned)((1ull << 23) * v->logical_sector / b->block_bytes);
	b->entry_bytes = 8;
	b->data_at = VHDX_ALIGN;
	b->place_align = VHDX_ALIGN;
	b->unit_bytes = v->logical_sector;
	if ((v->has_parent ? ((blocks - 1) / b->page_entries + 1) * (b->page_entries + 1ull)
			   : blocks + (blocks - 1) / b->page_entries) * 8 > v->table_bytes)
		return blocks_refuse(b, err, "has a table of blocks too small for its size");
	if (overlaps(b->table_at, v->table_bytes, v->metadata_at, v->metadata_bytes) ||
	    overlaps(b->table_at, v->table_bytes, v->log_at, v->log_bytes) ||
	    overlaps(v->log_at, v->log_bytes, v->metadata_at, v->metadata_bytes))
		return blocks_refuse(b, err, "has regions that overlap");
	return true;
}

/* Bitmaps of sectors lie among the blocks: none may take their places. */
static bool spare_bitmaps(struct vhdx *v, GError **err)
{
	struct blocks *b = &v->b;
	uint64_t blocks = (b->disk.size_bytes + b->block_bytes - 1) / b->block_bytes;

	for (uint64_t page = 0; v->has_parent && page * b->page_entries < blocks; page++) {
		uint8_t entry[8];
		uint64_t end;

		if (!blocks_file_load(b, entry, sizeof(entry),
				      vhdx_page_at(b, page) + b->page_entries * 8ull, err))
			return false;
		end = (load_le64(entry) & ~(uint64_t)(VHDX_ALIGN - 1)) + VHDX_ALIGN;
		if ((load_le64(entry) & 7) == VHDX_PRESENT && end <= b->file->size_bytes)
			b->tables_end = MAX(b->tables_end, end);
	}
	return true;
}

static bool load(struct vhdx *v, GError **err)
{
	if (!vhdx_load_header(v, err))
		return false;
	if (!vhdx_log_is_empty(v) && v->b.disk.readonly)
		return blocks_refuse(
			&v->b, err,
			"was not closed, and its log is replayed when it is opened for writing, as "
			"with: sika image check --repair");
	if (!vhdx_log_is_empty(v) && !vhdx_log_replay(v, err))
		return false;
	return vhdx_load_regions(v, err) && vhdx_load_metadata(v, err) && check_table(v, err) &&
	       spare_bitmaps(v, err);
}

struct disk *vhdx_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			    const struct disk_chain *chain, GError **err)
{
	struct vhdx *v = (struct vhdx *)blocks_new(sizeof(*v), file, "vhdx", &vhdx_ops);

	if (!load(v, err) || !vhdx_open_parent(v, o, loop, chain, err))
		return blocks_fail_take(&v->b);
	v->b.about = g_strdup_printf("%s, blocks of %u MiB, sectors of %u bytes%s%s",
				     v->has_parent ? "differencing"
				     : v->fixed	   ? "fixed"
						   : "dynamic",
				     (unsigned)(v->b.block_bytes / VHDX_ALIGN), v->logical_sector,
				     v->parent_name ? ", on top of " : "",
				     v->parent_name ? v->parent_name : "");
	return blocks_open_take(&v->b, err);
}
