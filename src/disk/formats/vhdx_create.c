// SPDX-License-Identifier: Apache-2.0
/* vhdx_create.c - making VHDX images, dynamic and fixed (vhdx.h). */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/formats/formats_int.h"
#include "disk/formats/vhdx.h"

#define ITEMS_BYTES 16384u
#define FRONT_BYTES (VHDX_REGIONS_2 + VHDX_REGIONS_BYTES)

struct options {
	unsigned fixed, zero;
	uint64_t block, log;
};

static bool refuse(GError **err, const char *why)
{
	g_set_error_literal(err, BASE_ERROR, EINVAL, why);
	return false;
}

/* Larger blocks for larger disks, as QEMU has it. */
static uint64_t block_for(uint64_t size)
{
	return size > 32ull << 40    ? 64u << 20
	       : size > 100ull << 30 ? 32u << 20
	       : size > 1ull << 30   ? 16u << 20
				     : 8u << 20;
}

static bool parse_options(const struct disk_form_create *o, struct options *ret, GError **err)
{
	static const char *const kinds[] = { "dynamic", "fixed", NULL };
	static const char *const off_on[] = { "off", "on", NULL };
	const struct disk_form_option known[] = { { "subformat", kinds, &ret->fixed, NULL },
						  { "block_state_zero", off_on, &ret->zero, NULL },
						  { "block_size", NULL, NULL, &ret->block },
						  { "log_size", NULL, NULL, &ret->log } };

	*ret = (struct options){ .log = VHDX_ALIGN };
	if (!disk_form_options(o->options, known, ARRAY_SIZE(known), err))
		return false;
	if (ret->block == 0)
		ret->block = block_for(o->size_bytes);
	if (ret->block < VHDX_ALIGN || ret->block > 256u << 20 || (ret->block & (ret->block - 1)))
		return refuse(
			err,
			"option 'block_size': blocks are a power of two from 1 MiB to 256 MiB");
	if (ret->log == 0 || ret->log % VHDX_ALIGN || ret->log > VHDX_MAX_LOG)
		return refuse(err, "option 'log_size': a log has 1 to 64 MiB, in whole ones");
	return true;
}

struct layout {
	uint64_t blocks, chunk, table_at, table_bytes, metadata_at, data_at;
};

static struct layout lay_out(uint64_t size, const struct options *o, bool differs)
{
	struct layout l = { .blocks = (size + o->block - 1) / o->block,
			    .chunk = (1ull << 32) / o->block,
			    .table_at = VHDX_ALIGN + o->log };

	l.table_bytes = align_up((l.blocks + (l.blocks - 1) / l.chunk) * 8, VHDX_ALIGN);
	/* The last chunk has a bitmap as well, behind as many blocks as the others have. */
	if (differs)
		l.table_bytes = align_up(((l.blocks - 1) / l.chunk + 1) * (l.chunk + 1) * 8,
					 VHDX_ALIGN);
	l.metadata_at = l.table_at + l.table_bytes;
	l.data_at = l.metadata_at + VHDX_ALIGN;
	return l;
}

static void put_region(uint8_t *entry, const uint8_t *guid, uint64_t at, uint64_t bytes)
{
	memcpy(entry, guid, 16);
	store_le64(entry + 16, at);
	store_le32(entry + 24, (uint32_t)bytes);
	store_le32(entry + 28, 1);
}

static void make_header(uint8_t *h, const struct options *o, uint64_t sequence)
{
	store_le32(h, VHDX_HEADER_MARK);
	store_le64(h + VHDX_AT_SEQUENCE, sequence);
	store_le16(h + VHDX_AT_VERSION, 1);
	store_le32(h + VHDX_AT_LOG_BYTES, (uint32_t)o->log);
	store_le64(h + VHDX_AT_LOG, VHDX_ALIGN);
	store_le32(h + VHDX_AT_SUM, vhdx_sum(h, VHDX_HEADER_BYTES, VHDX_AT_SUM));
}

/* 2.2: the mark and the creator, the headers, the tables of regions */
static void make_front(uint8_t *f, const struct options *o, const struct layout *l)
{
	static const char creator[] = "Sika";
	uint8_t *first = f + VHDX_HEADER_1, *second = f + VHDX_HEADER_2,
		*regions = f + VHDX_REGIONS_1;

	memcpy(f, "vhdxfile", 8);
	for (unsigned i = 0; creator[i]; i++)
		f[8 + i * 2] = (uint8_t)creator[i];
	disk_form_guid(first + VHDX_AT_FILE_GUID);
	disk_form_guid(first + VHDX_AT_DATA_GUID);
	memcpy(second, first, VHDX_HEADER_BYTES);
	make_header(first, o, 1);
	make_header(second, o, 2);
	store_le32(regions, VHDX_REGIONS_MARK);
	store_le32(regions + 8, 2);
	put_region(regions + 16, vhdx_guid_table, l->table_at, l->table_bytes);
	put_region(regions + 48, vhdx_guid_metadata, l->metadata_at, VHDX_ALIGN);
	store_le32(regions + 4, vhdx_sum(regions, VHDX_REGIONS_BYTES, 4));
	memcpy(f + VHDX_REGIONS_2, regions, VHDX_REGIONS_BYTES);
}

struct item {
	const uint8_t *guid;
	uint32_t len, flags; /* 2: of the disk, 4: must be known */
	uint64_t value;
};

static void put_item(uint8_t *m, unsigned i, const struct item *item, uint32_t at)
{
	uint8_t *entry = m + 32 + i * 32ul;

	store_le16(m + 10, (uint16_t)(i + 1));
	memcpy(entry, item->guid, 16);
	store_le32(entry + 16, at);
	store_le32(entry + 20, item->len);
	store_le32(entry + 24, item->flags);
}

/* False: the parent's name is no UTF-8, or too long. */
static bool make_metadata(uint8_t *m, const struct disk_form_create *create,
			  const struct options *o)
{
	const struct item items[] = {
		{ vhdx_guid_parameters, 8, 4,
		  o->block | (uint64_t)o->fixed << 32 | (uint64_t)!!create->parent << 33 },
		{ vhdx_guid_size, 8, 6, create->size_bytes },
		{ vhdx_guid_page83, 16, 6, 0 },
		{ vhdx_guid_logical, 4, 6, 512 },
		{ vhdx_guid_physical, 4, 6, 4096 },
	};
	struct item parent = { vhdx_guid_parent, 0, 4, 0 };
	uint32_t at = VHDX_METADATA_BYTES;

	memcpy(m, "metadata", 8);
	for (unsigned i = 0; i < ARRAY_SIZE(items); i++) {
		put_item(m, i, &items[i], at);
		if (items[i].len == 16)
			disk_form_guid(m + at);
		else
			memcpy(m + at, &items[i].value, items[i].len);
		at += items[i].len;
	}
	if (!create->parent)
		return true;
	parent.len = vhdx_make_locator((const struct vhdx *)create->parent, create->backing, m + at,
				       VHDX_METADATA_BYTES + ITEMS_BYTES - at);
	put_item(m, ARRAY_SIZE(items), &parent, at);
	return parent.len > 0;
}

/* Of a dynamic image with blocks that are not there, it is a hole. */
static int write_table(struct disk *file, const struct options *o, const struct layout *l)
{
	uint64_t last = l->blocks - 1, bytes = (last + last / l->chunk + 1) * 8;
	g_autofree uint8_t *table = o->fixed || o->zero ? g_try_malloc0(bytes) : NULL;

	if (!o->fixed && !o->zero)
		return 0;
	if (!table)
		return -ENOMEM;
	for (uint64_t i = 0; i < l->blocks; i++)
		store_le64(table + (i + i / l->chunk) * 8,
			   o->fixed ? (l->data_at + i * o->block) | VHDX_PRESENT : VHDX_ZERO);
	return disk_write_wait(file, table, bytes, l->table_at);
}

static int write_image(struct disk *file, const struct disk_form_create *create,
		       const struct options *o)
{
	const struct layout l = lay_out(create->size_bytes, o, create->parent);
	struct disk_req grow = { .op = DISK_RESIZE, .offset = l.data_at };
	g_autofree uint8_t *front = g_try_malloc0(FRONT_BYTES);
	g_autofree uint8_t *metadata = g_try_malloc0(VHDX_METADATA_BYTES + ITEMS_BYTES);
	int r = !front || !metadata		      ? -ENOMEM
		: make_metadata(metadata, create, o) ? 0
						      : -ENAMETOOLONG;

	if (o->fixed)
		grow.offset += l.blocks * o->block;
	if (r == 0)
		r = disk_run(file, &grow);
	if (r < 0)
		return r;
	make_front(front, o, &l);
	r = disk_write_wait(file, metadata, VHDX_METADATA_BYTES + ITEMS_BYTES, l.metadata_at);
	if (r == 0)
		r = write_table(file, o, &l);
	return r == 0 ? disk_write_wait(file, front, FRONT_BYTES, 0) : r;
}

bool vhdx_create(struct disk *file, const struct disk_form_create *create, GError **err)
{
	struct options o;
	int r;

	if (!parse_options(create, &o, err))
		return false;
	if (create->size_bytes > VHDX_MAX_BYTES ||
	    create->size_bytes / o.block >= BLOCKS_MAX_TABLE / 8)
		return refuse(err, "a VHDX image has at most 64 TiB, and 32 Mi blocks");
	if (create->parent && (o.fixed || o.zero))
		return refuse(err, "an image on top of another one is dynamic");
	r = write_image(file, create, &o);
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "the image cannot be written: %s", g_strerror(-r));
	return r == 0;
}

uint64_t vhdx_measure(const struct disk_form_create *create, uint64_t data)
{
	struct layout l;
	struct options o;

	if (!parse_options(create, &o, NULL))
		return 0;
	l = lay_out(create->size_bytes, &o, create->parent);
	/* Counted in blocks of 8 MiB, which may lie in as many larger ones. */
	data = MIN((data + (8u << 20) - 1) / (8u << 20), l.blocks) * MAX(o.block, 8u << 20);
	return l.data_at + (o.fixed ? l.blocks * o.block : MIN(data, l.blocks * o.block));
}
