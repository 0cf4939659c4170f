// SPDX-License-Identifier: Apache-2.0
/*
 * vhd.c - VHD images (QEMU's "vpc"), fixed, dynamic, and differencing (vhd.h).
 *
 * A fixed image is the disk and a footer. A dynamic one has a copy of the footer in front, a
 * header, a table of where blocks lie, and the footer behind the last block: a new block takes the
 * footer's place, and the footer is written anew behind it ahead of the table. A power cut between
 * the two leaves the copy, which is what is read first.
 *
 * In front of each block lies a bitmap of its sectors that hold something. All bits are set when
 * the block gets its place, and in a dynamic image nothing else is looked for there: sectors never
 * written are zeros in the block as well. In a differencing one the sectors whose bits are clear are
 * the parent's (blocks_sectors.c). It knows the parent by its UUID and by several names.
 *
 * Size. Virtual PC takes it from the geometry, and so do we for its images and those that QEMU made
 * the same way; others write down the size in bytes, and mean it.
 */
#include "disk/formats/vhd.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "disk/formats/blocks.h"
#include "disk/formats/formats_int.h"

struct vhd {
	struct blocks b;
	uint8_t footer[VHD_FOOTER];
	uint64_t bitmap_bytes;
	uint64_t footer_at; /* behind the blocks; 0: not there */
	uint64_t header_at;
	bool differs; /* stands on another one */
	uint8_t parent_uuid[16];
	char *parent_name; /* owned; NULL: not told */
	uint64_t locators_end;
};

const uint8_t *vhd_footer(const struct disk *disk)
{
	return ((const struct vhd *)disk)->footer;
}

uint32_t vhd_sum(const uint8_t *bytes, unsigned len, unsigned sum_at)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < len; i++)
		if (i - sum_at >= 4)
			sum += bytes[i];
	return ~sum;
}

bool vhd_is_footer(const uint8_t *f)
{
	return memcmp(f, "conectix", 8) == 0 &&
	       load_be32(f + VHD_AT_SUM) == vhd_sum(f, VHD_FOOTER, VHD_AT_SUM);
}

uint64_t vhd_bitmap_bytes(uint64_t block_bytes)
{
	return align_up((block_bytes / DISK_SECTOR_SIZE + 7) / 8, DISK_SECTOR_SIZE);
}

static struct blocks_place vhd_decode(const struct blocks *b, uint64_t block, const uint8_t *entry)
{
	const struct vhd *v = (const struct vhd *)b;
	uint32_t sector = load_be32(entry);

	(void)block;
	if (sector == VHD_ABSENT)
		return (struct blocks_place){ BLOCKS_ABSENT, 0 };
	return (struct blocks_place){ v->differs ? BLOCKS_PARTIAL : BLOCKS_DATA,
				      (uint64_t)sector * DISK_SECTOR_SIZE + v->bitmap_bytes };
}

static void vhd_encode(const struct blocks *b, struct blocks_place place, uint8_t *entry)
{
	uint64_t at = place.host - ((const struct vhd *)b)->bitmap_bytes;

	store_be32(entry, (uint32_t)(at / DISK_SECTOR_SIZE));
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* The header and the table need not lie in front of the blocks. */
static bool vhd_is_possible(const struct blocks *b, uint64_t host)
{
	const struct vhd *v = (const struct vhd *)b;
	uint64_t at = host - v->bitmap_bytes, len = v->bitmap_bytes + b->block_bytes;

	return at >= VHD_FOOTER && !overlaps(at, len, v->header_at, VHD_HEADER) &&
	       !overlaps(at, len, b->table_at, b->block_count * 4);
}

static int vhd_take(struct blocks *b, uint64_t count, uint64_t *ret_host, uint64_t *ret_count)
{
	struct vhd *v = (struct vhd *)b;
	uint64_t host = align_up(b->end, DISK_SECTOR_SIZE) + v->bitmap_bytes;

	(void)count;
	if (host / DISK_SECTOR_SIZE >= VHD_ABSENT)
		return -ENOSPC;
	if (!b->file->growable && host + b->block_bytes + VHD_FOOTER > b->file->size_bytes)
		return -ENOSPC;
	b->end = host + b->block_bytes;
	*ret_host = host;
	*ret_count = 1;
	return 0;
}

static int vhd_bitmap(struct blocks *b, uint64_t block, uint64_t host, uint8_t *to, uint64_t len)
{
	(void)block;
	return blocks_file_read(b, to, len, host - ((struct vhd *)b)->bitmap_bytes);
}

/* It takes the footer's place, or comes behind one that is never written. */
static int vhd_prepare(struct blocks *b, uint64_t host)
{
	struct vhd *v = (struct vhd *)b;
	g_autofree uint8_t *bitmap = g_try_malloc(v->bitmap_bytes);

	if (!bitmap)
		return -ENOMEM;
	memset(bitmap, 0xff, v->bitmap_bytes);
	return blocks_file_write(b, bitmap, v->bitmap_bytes, host - v->bitmap_bytes);
}

/* The sectors are there before the bits say so. */
static int vhd_complete(struct blocks *b, uint64_t block, uint64_t host)
{
	int r = blocks_file_flush(b);

	(void)block;
	return r == 0 ? vhd_prepare(b, host) : r;
}

static int vhd_before(struct blocks *b)
{
	struct vhd *v = (struct vhd *)b;
	int r;

	if (v->footer_at == b->end)
		return 0;
	r = blocks_file_write(b, v->footer, VHD_FOOTER, b->end);
	if (r == 0)
		v->footer_at = b->end;
	return r;
}

/* Places that were taken in vain are in front of the footer as well. */
static int vhd_finish(struct blocks *b)
{
	int r = b->flat ? 0 : vhd_before(b);

	return r == 0 ? blocks_file_flush(b) : r;
}

static int vhd_check(struct blocks *b, bool repair, struct disk_found *found)
{
	struct vhd *v = (struct vhd *)b;
	uint8_t last[VHD_FOOTER] = { 0 };
	int r = 0;

	if (b->flat)
		return 0;
	if (b->file->size_bytes >= VHD_FOOTER)
		r = blocks_file_read(b, last, VHD_FOOTER, b->file->size_bytes - VHD_FOOTER);
	if (r < 0 || (b->file->size_bytes >= VHD_FOOTER && vhd_is_footer(last)))
		return r;
	/* After a power cut; the copy in front tells the same. */
	found->leaks++;
	disk_found_tell(found, "there is no footer at the end of the file");
	if (!repair)
		return 0;
	b->end = align_up(MAX(b->end, b->file->size_bytes), DISK_SECTOR_SIZE);
	v->footer_at = 0;
	r = vhd_finish(b);
	found->repaired = r == 0 && !found->errors;
	return r;
}

static void vhd_fini(struct blocks *b)
{
	g_free(((struct vhd *)b)->parent_name);
}

static const struct blocks_ops vhd_ops = {
	.decode = vhd_decode,
	.encode = vhd_encode,
	.is_possible = vhd_is_possible,
	.take = vhd_take,
	.prepare = vhd_prepare,
	.before = vhd_before,
	.bitmap = vhd_bitmap,
	.complete = vhd_complete,
	.finish = vhd_finish,
	.fini = vhd_fini,
	.check = vhd_check,
};

/* The copy in front, where there is one, or what lies at the end. In front of a fixed image lies
 * what its guest wrote, so that there the end has the word. */
static bool find_footer(struct vhd *v, GError **err)
{
	uint64_t size = v->b.file->size_bytes;
	uint8_t last[VHD_FOOTER] = { 0 };

	if (!blocks_file_load(&v->b, v->footer, VHD_FOOTER, 0, err) ||
	    (size >= VHD_FOOTER &&
	     !blocks_file_load(&v->b, last, VHD_FOOTER, size - VHD_FOOTER, err)))
		return false;
	if (vhd_is_footer(last) &&
	    (load_be32(last + VHD_AT_TYPE) == VHD_FIXED || !vhd_is_footer(v->footer)))
		memcpy(v->footer, last, VHD_FOOTER);
	if (vhd_is_footer(v->footer))
		return true;
	if (!memcmp(v->footer, "conectix", 8) || !memcmp(last, "conectix", 8))
		return blocks_refuse(&v->b, err, "has VHD footers with wrong checksums");
	return blocks_refuse(&v->b, err, "is not a VHD image");
}

static uint64_t size_of(const uint8_t *f)
{
	uint64_t sectors =
		(uint64_t)load_be16(f + VHD_AT_CYLINDERS) * f[VHD_AT_HEADS] * f[VHD_AT_SECTORS];

	if ((memcmp(f + VHD_AT_CREATOR, "vpc ", 4) && memcmp(f + VHD_AT_CREATOR, "qemu", 4)) ||
	    sectors == VHD_MAX_CHS_SECTORS)
		return load_be64(f + VHD_AT_SIZE) & ~(uint64_t)(DISK_SECTOR_SIZE - 1);
	return sectors * DISK_SECTOR_SIZE;
}

/* A path from here on, where there is one; else the name alone. */
static bool load_parent_name(struct vhd *v, const uint8_t *h, GError **err)
{
	memcpy(v->parent_uuid, h + VHD_AT_H_PARENT, 16);
	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const uint8_t *l = h + VHD_AT_H_LOCATORS + i * 24ul;
		uint32_t bytes = load_be32(l + VHD_AT_L_BYTES), space = load_be32(l + VHD_AT_L_SPACE);
		uint64_t at = load_be64(l + VHD_AT_L_OFFSET), size = v->b.file->size_bytes;
		uint8_t text[2048];

		if (load_be32(l + VHD_AT_L_CODE) == 0 || at > size || bytes > sizeof(text))
			continue;
		/* Some count the space in sectors, some in bytes. */
		v->locators_end = MAX(v->locators_end, at + align_up(bytes, DISK_SECTOR_SIZE));
		if (space <= size - at)
			v->locators_end = MAX(v->locators_end, at + align_up(space, DISK_SECTOR_SIZE));
		if (load_be32(l + VHD_AT_L_CODE) != VHD_RELATIVE || v->parent_name)
			continue;
		if (!blocks_file_load(&v->b, text, bytes, at, err))
			return false;
		v->parent_name = disk_form_parent_name(text, bytes, false);
	}
	if (!v->parent_name)
		v->parent_name = disk_form_parent_name(h + VHD_AT_H_NAME, VHD_NAME, true);
	return true;
}

static bool load_header(struct vhd *v, GError **err)
{
	struct blocks *b = &v->b;
	uint8_t h[VHD_HEADER];
	uint64_t blocks;

	v->header_at = load_be64(v->footer + VHD_AT_HEADER);
	if (v->header_at < VHD_FOOTER || v->header_at > b->file->size_bytes ||
	    b->file->size_bytes - v->header_at < VHD_HEADER)
		return blocks_refuse(b, err, "has a VHD header at an impossible place");
	if (!blocks_file_load(b, h, VHD_HEADER, v->header_at, err))
		return false;
	if (memcmp(h, "cxsparse", 8) ||
	    load_be32(h + VHD_AT_H_SUM) != vhd_sum(h, VHD_HEADER, VHD_AT_H_SUM))
		return blocks_refuse(b, err, "has a damaged VHD header");
	b->block_bytes = load_be32(h + VHD_AT_H_BLOCK);
	b->table_at = load_be64(h + VHD_AT_H_TABLE);
	blocks = load_be32(h + VHD_AT_H_BLOCKS);
	if (b->block_bytes < 4096 || b->block_bytes > 256u << 20 ||
	    (b->block_bytes & (b->block_bytes - 1)))
		return blocks_refuse(b, err, "has blocks of %u bytes, which is not supported",
				     (unsigned)b->block_bytes);
	if (b->table_at < VHD_FOOTER || b->table_at % DISK_SECTOR_SIZE ||
	    overlaps(b->table_at, blocks * 4, v->header_at, VHD_HEADER))
		return blocks_refuse(b, err, "has a table of blocks at an impossible place");
	if (b->disk.size_bytes > blocks * b->block_bytes)
		return blocks_refuse(b, err, "has a table of blocks too small for its size");
	if (v->differs && !load_parent_name(v, h, err))
		return false;
	v->bitmap_bytes = vhd_bitmap_bytes(b->block_bytes);
	b->data_at = VHD_FOOTER + v->bitmap_bytes;
	b->entry_bytes = 4;
	b->page_entries = BLOCKS_PAGE / 4;
	return true;
}

static int raise_end(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	uint64_t *end = arg;

	(void)block;
	if (place.kind != BLOCKS_ABSENT && place.host < b->file->size_bytes)
		*end = MAX(*end, place.host + b->block_bytes);
	return 0;
}

/* The next block comes behind all others, in the place of the footer. */
static int find_end(struct vhd *v)
{
	struct blocks *b = &v->b;
	uint64_t end =
		MAX(v->header_at + VHD_HEADER, align_up(b->table_at + b->block_count * 4, 512));
	uint64_t size = b->file->size_bytes;
	uint8_t last[VHD_FOOTER] = { 0 };
	int r;

	end = MAX(end, v->locators_end);
	r = blocks_each(b, raise_end, &end);
	b->end = end;
	if (r == 0 && size >= VHD_FOOTER)
		r = blocks_file_read(b, last, VHD_FOOTER, size - VHD_FOOTER);
	/* What lies between the last block and the footer has no name. */
	if (r == 0 && size == end + VHD_FOOTER && vhd_is_footer(last))
		v->footer_at = end;
	return r;
}

static bool check_type(struct vhd *v, GError **err)
{
	struct blocks *b = &v->b;
	uint32_t type = load_be32(v->footer + VHD_AT_TYPE);

	v->differs = type == VHD_DIFFERENCING;
	if (type != VHD_FIXED && type != VHD_DYNAMIC && !v->differs)
		return blocks_refuse(b, err, "is a VHD image of type %u, which is not supported",
				     type);
	if (b->disk.size_bytes == 0 || b->disk.size_bytes > VHD_MAX_BYTES)
		return blocks_refuse(b, err, "claims a size of %" G_GUINT64_FORMAT " bytes",
				     b->disk.size_bytes);
	b->flat = type == VHD_FIXED;
	if (b->flat && b->disk.size_bytes > b->file->size_bytes - VHD_FOOTER)
		return blocks_refuse(b, err, "is shorter than the disk that it holds");
	return true;
}

static bool open_parent(struct vhd *v, const struct disk_options *o, struct loop *loop,
			const struct disk_chain *chain, GError **err)
{
	struct disk_options below = *o;
	struct blocks *b = &v->b;

	if (!v->differs || o->no_backing)
		return true;
	if (!v->parent_name)
		return blocks_refuse(b, err, "stands on another image and does not say on which");
	below.readonly = true;
	below.repair = false;
	b->parent = disk_open_named(b->disk.path, v->parent_name, "backing file", "vhd", &below,
				    loop, chain, err);
	if (!b->parent)
		return false;
	if (memcmp(vhd_footer(b->parent) + VHD_AT_UUID, v->parent_uuid, 16))
		return blocks_refuse(b, err, "its backing file '%s' is not the one it was put on",
				     v->parent_name);
	return true;
}

static char *about(const struct vhd *v)
{
	if (v->b.flat)
		return g_strdup("fixed");
	return g_strdup_printf("%s, blocks of %" G_GUINT64_FORMAT " KiB%s%s",
			       v->differs ? "differencing" : "dynamic", v->b.block_bytes / 1024,
			       v->parent_name ? ", on top of " : "",
			       v->parent_name ? v->parent_name : "");
}

struct disk *vhd_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			   const struct disk_chain *chain, GError **err)
{
	struct vhd *v = (struct vhd *)blocks_new(sizeof(*v), file, "vhd", &vhd_ops);
	struct blocks *b = &v->b;
	struct disk *disk;

	disk_direct_keep_end(file); /* the footer's place */
	if (!find_footer(v, err))
		return blocks_fail_take(b);
	b->disk.size_bytes = size_of(v->footer);
	if (!check_type(v, err) || (!b->flat && !load_header(v, err)) ||
	    !open_parent(v, o, loop, chain, err))
		return blocks_fail_take(b);
	b->about = about(v);
	disk = blocks_open_take(b, err);
	if (!disk || b->flat || disk->readonly || find_end(v) == 0)
		return disk;
	blocks_refuse(b, err, "its table of blocks cannot be read");
	return blocks_fail_take(b);
}
