// SPDX-License-Identifier: Apache-2.0
/*
 * vmdk_sparse.c - an extent of grains (vmdk.h; section "Hosted Sparse Extents").
 *
 * A directory, in memory as a whole, names tables; their entries name grains. There may be a second
 * directory with tables of its own that say the same; it is written behind the first. A table that
 * is missing is made when it is needed, and named in the directory when it is durable.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/vmdk.h"

static struct blocks_place sparse_decode(const struct blocks *b, uint64_t block,
					 const uint8_t *entry)
{
	uint32_t sector = load_le32(entry);

	(void)block;
	if (sector == 0)
		return (struct blocks_place){ BLOCKS_ABSENT, 0 };
	if (sector == 1 && (((const struct vmdk *)b)->flags & VMDK_FLAG_ZEROS))
		return (struct blocks_place){ BLOCKS_ZERO, 0 };
	return (struct blocks_place){ b->pack_only ? BLOCKS_PACKED : BLOCKS_DATA,
				      (uint64_t)sector * DISK_SECTOR_SIZE };
}

static void sparse_encode(const struct blocks *b, struct blocks_place place, uint8_t *entry)
{
	(void)b;
	store_le32(entry, (uint32_t)(place.host / DISK_SECTOR_SIZE));
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return b_len && a < b + b_len && b < a + a_len;
}

static bool sparse_is_possible(const struct blocks *b, uint64_t host)
{
	const struct vmdk *v = (const struct vmdk *)b;
	uint64_t len = b->pack_only ? DISK_SECTOR_SIZE : b->block_bytes;
	uint64_t directory = v->directory_count * 4ull;

	return !overlaps(host, len, v->text_at, v->text_len) &&
	       !overlaps(host, len, v->directory_at, directory) &&
	       !overlaps(host, len, v->copy_at, v->copy_at ? directory : 0);
}

static int sparse_take(struct blocks *b, uint64_t count, uint64_t *ret_host, uint64_t *ret_count)
{
	uint64_t host = align_up(b->end, b->place_align), end = host + count * b->block_bytes;

	if (end / DISK_SECTOR_SIZE > UINT32_MAX)
		return -EFBIG;
	if (!b->file->growable && end > b->file->size_bytes)
		return -ENOSPC;
	b->end = end;
	*ret_host = host;
	*ret_count = count;
	return 0;
}

static uint64_t sparse_page_at(const struct blocks *b, uint64_t page)
{
	return (uint64_t)((const struct vmdk *)b)->directory[page] * DISK_SECTOR_SIZE;
}

static int make_table(struct vmdk *v, uint32_t *ret_sector)
{
	uint64_t at = align_up(v->b.end, DISK_SECTOR_SIZE), len = v->b.page_entries * 4ull;
	g_autofree uint8_t *zeros = g_try_malloc0(len);
	int r = zeros ? 0 : -ENOMEM;

	if (at / DISK_SECTOR_SIZE > UINT32_MAX)
		r = -EFBIG;
	if (r == 0)
		r = blocks_file_write(&v->b, zeros, len, at);
	if (r < 0)
		return r;
	v->b.end = at + align_up(len, DISK_SECTOR_SIZE);
	*ret_sector = (uint32_t)(at / DISK_SECTOR_SIZE);
	return 0;
}

static int sparse_page_make(struct blocks *b, uint64_t page)
{
	struct vmdk *v = (struct vmdk *)b;
	uint32_t first = 0, second = 0;
	int r = make_table(v, &first);

	if (r == 0 && v->copy)
		r = make_table(v, &second);
	if (r < 0)
		return r;
	v->directory[page] = first;
	if (v->copy)
		v->copy[page] = second;
	v->directory_dirty = true;
	return 0;
}

static int sparse_copy_page(struct blocks *b, uint64_t page, const uint8_t *bytes, uint64_t len)
{
	struct vmdk *v = (struct vmdk *)b;

	if (!v->copy || v->copy[page] == 0 || v->copy[page] == v->directory[page])
		return 0;
	return blocks_file_write(b, bytes, len, (uint64_t)v->copy[page] * DISK_SECTOR_SIZE);
}

static int write_directory(struct vmdk *v, const uint32_t *directory, uint64_t at)
{
	return blocks_file_write(&v->b, directory, v->directory_count * 4ull, at);
}

static int sparse_after(struct blocks *b)
{
	struct vmdk *v = (struct vmdk *)b;
	int r;

	if (!v->directory_dirty)
		return 0;
	r = write_directory(v, v->directory, v->directory_at);
	if (r == 0 && v->copy)
		r = write_directory(v, v->copy, v->copy_at);
	if (r == 0)
		r = blocks_file_flush(b);
	v->directory_dirty = r < 0;
	return r;
}

static void sparse_fini(struct blocks *b)
{
	struct vmdk *v = (struct vmdk *)b;

	g_free(v->directory);
	g_free(v->copy);
}

static const struct blocks_ops sparse_ops = {
	.decode = sparse_decode,
	.encode = sparse_encode,
	.is_possible = sparse_is_possible,
	.take = sparse_take,
	.page_at = sparse_page_at,
	.page_make = sparse_page_make,
	.first = vmdk_change_cid,
	.copy_page = sparse_copy_page,
	.after = sparse_after,
	.unpack = vmdk_unpack,
	.pack = vmdk_pack,
	.fini = sparse_fini,
};

static bool check_header(struct vmdk *v, const uint8_t *h, GError **err)
{
	struct blocks *b = &v->b;
	uint64_t grain = load_le64(h + VMDK_AT_GRAIN), capacity = load_le64(h + VMDK_AT_CAPACITY);
	uint32_t entries = load_le32(h + VMDK_AT_ENTRIES);

	v->version = load_le32(h + VMDK_AT_VERSION);
	v->flags = load_le32(h + VMDK_AT_FLAGS);
	if (load_le32(h + VMDK_AT_MAGIC) != VMDK_MAGIC)
		return blocks_refuse(b, err, "is not a sparse VMDK extent");
	if (v->version < 1 || v->version > 3)
		return blocks_refuse(b, err, "is of VMDK version %u; 1 to 3 are supported",
				     v->version);
	if (grain < 8 || grain > VMDK_MAX_GRAIN / 512 || (grain & (grain - 1)))
		return blocks_refuse(b, err, "has grains of %" G_GUINT64_FORMAT " sectors", grain);
	if (entries == 0 || entries > 512)
		return blocks_refuse(b, err, "has tables of %u grains; 1 to 512 are possible",
				     entries);
	if (capacity == 0 || capacity >= 1ull << 48)
		return blocks_refuse(b, err, "claims a size of %" G_GUINT64_FORMAT " sectors",
				     capacity);
	if (capacity / grain > BLOCKS_MAX_TABLE / 4)
		return blocks_refuse(b, err,
				     "claims a size of %" G_GUINT64_FORMAT
				     " sectors, which is too many",
				     capacity);
	if ((v->flags & VMDK_FLAG_COMPRESSED) &&
	    (load_le16(h + VMDK_AT_COMPRESSION) != 1 || !(v->flags & VMDK_FLAG_MARKERS)))
		return blocks_refuse(b, err, "is compressed by a method that is not supported");
	if ((v->flags & VMDK_FLAG_NEWLINES) && memcmp(h + VMDK_AT_NEWLINES, "\n \r\n", 4))
		return blocks_refuse(b, err, "was damaged by a transfer as text");
	b->block_bytes = grain * DISK_SECTOR_SIZE;
	b->page_entries = entries;
	b->entry_bytes = 4;
	b->data_at = VMDK_HEADER;
	b->place_align = b->block_bytes;
	b->pack_only = v->flags & VMDK_FLAG_COMPRESSED;
	b->disk.size_bytes = capacity * DISK_SECTOR_SIZE;
	v->directory_count = (uint32_t)((capacity + grain * entries - 1) / (grain * entries));
	if (v->directory_count > VMDK_MAX_DIRECTORY)
		return blocks_refuse(b, err, "asks for a directory of %u tables; %u are the most",
				     v->directory_count, VMDK_MAX_DIRECTORY);
	return true;
}

static bool load_directory(struct vmdk *v, uint64_t at, const char *what, uint32_t **ret,
			   GError **err)
{
	struct blocks *b = &v->b;
	uint64_t size = b->file->size_bytes, bytes = v->directory_count * 4ull;
	g_autofree uint32_t *entries = NULL;
	int r;

	if (at < VMDK_HEADER || at > size || bytes > size - at)
		return blocks_refuse(b, err, "has a %s at an impossible place", what);
	entries = g_try_malloc(bytes);
	r = entries ? blocks_file_read(b, entries, bytes, at) : -ENOMEM;
	if (r < 0)
		return blocks_refuse(b, err, "its %s cannot be read: %s", what, g_strerror(-r));
	for (uint32_t i = 0; i < v->directory_count; i++) {
		uint64_t table = entries[i] * (uint64_t)DISK_SECTOR_SIZE;

		v->b.tables_end = MAX(v->b.tables_end, table + b->page_entries * 4ull);
		/* The last table may be cut off behind its last entry. */
		if (table && (table >= size || table < VMDK_HEADER))
			return blocks_refuse(b, err, "has a %s with a table at an impossible place",
					     what);
	}
	v->b.tables_end = MAX(v->b.tables_end, at + bytes);
	*ret = g_steal_pointer(&entries);
	return true;
}

/* A stream's header was written before its directory: the header at the end of the file tells. */
static bool load_footer(struct vmdk *v, uint8_t *h, GError **err)
{
	uint64_t size = v->b.file->size_bytes;
	int r;

	if (load_le64(h + VMDK_AT_DIRECTORY) != VMDK_AT_END)
		return true;
	if (size < 4 * VMDK_HEADER)
		return blocks_refuse(&v->b, err, "ends before its footer");
	r = blocks_file_read(&v->b, h, VMDK_HEADER, size - 2 * VMDK_HEADER);
	if (r < 0 || load_le32(h + VMDK_AT_MAGIC) != VMDK_MAGIC ||
	    load_le64(h + VMDK_AT_DIRECTORY) == VMDK_AT_END)
		return blocks_refuse(&v->b, err,
				     "has no footer at its end, and is not whole perhaps");
	return true;
}

static uint64_t sector_at(const uint8_t *h, enum vmdk_field field)
{
	uint64_t sector = load_le64(h + field);

	return sector < 1ull << 48 ? sector * DISK_SECTOR_SIZE : VMDK_AT_END;
}

static bool load(struct vmdk *v, GError **err)
{
	struct blocks *b = &v->b;
	uint8_t h[VMDK_HEADER];
	uint64_t sectors, overhead;

	if (!blocks_file_load(b, h, sizeof(h), 0, err))
		return false;
	if (!check_header(v, h, err) || !load_footer(v, h, err) || !check_header(v, h, err))
		return false;
	sectors = load_le64(h + VMDK_AT_TEXT_SECTORS);
	v->text_at = sector_at(h, VMDK_AT_TEXT);
	if (sectors == 0)
		v->text_at = 0;
	if (v->text_at) {
		if (sectors > VMDK_MAX_DESCRIPTOR / 512 || v->text_at >= b->file->size_bytes)
			return blocks_refuse(b, err, "has a descriptor at an impossible place");
		v->text_len = (uint32_t)sectors * DISK_SECTOR_SIZE;
	}
	v->directory_at = sector_at(h, VMDK_AT_DIRECTORY);
	if (!load_directory(v, v->directory_at, "directory", &v->directory, err))
		return false;
	overhead = sector_at(h, VMDK_AT_OVERHEAD);
	b->tables_end = MAX(b->tables_end, v->text_at + v->text_len);
	if (overhead <= b->file->size_bytes)
		b->tables_end = MAX(b->tables_end, overhead);
	if (!(v->flags & VMDK_FLAG_COPY) || b->pack_only)
		return true;
	v->copy_at = sector_at(h, VMDK_AT_COPY);
	return load_directory(v, v->copy_at, "second directory", &v->copy, err);
}

static int stop_at_first(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	(void)b;
	(void)block;
	(void)arg;
	return place.kind == BLOCKS_PACKED;
}

struct disk *vmdk_sparse_open_take(struct disk *file, GError **err)
{
	struct vmdk *v = (struct vmdk *)blocks_new(sizeof(*v), file, "vmdk", &sparse_ops);
	struct disk *disk;

	v->cid_at = -1;
	if (!load(v, err))
		return blocks_fail_take(&v->b);
	disk = blocks_open_take(&v->b, err);
	if (!disk || !v->b.pack_only || disk->readonly ||
	    blocks_each(&v->b, stop_at_first, NULL) == 0)
		return disk;
	blocks_refuse(&v->b, err,
		      "is a stream-optimized VMDK image, which is written once; add "
		      "'readonly', or convert it");
	return blocks_fail_take(&v->b);
}
