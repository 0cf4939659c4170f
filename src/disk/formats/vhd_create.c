// SPDX-License-Identifier: Apache-2.0
/* vhd_create.c - making VHD images, fixed and dynamic (vhd.h). */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/formats/formats_int.h"
#include "disk/formats/vhd.h"

#define VHD_BLOCK    (2u << 20)
#define SECONDS_2000 946684800u /* from 1970 to 2000 */

/* The specification's appendix "CHS Calculation". */
static void set_geometry(uint8_t *f, uint64_t sectors)
{
	uint64_t tracks, heads = 16, per_track = 17;

	sectors = MIN(sectors, VHD_MAX_CHS_SECTORS);
	if (sectors >= 65535ull * 16 * 63) {
		per_track = 255;
		tracks = sectors / per_track;
	} else {
		tracks = sectors / per_track;
		heads = MAX((tracks + 1023) / 1024, 4);
		for (unsigned i = 0; i < 2 && (tracks >= heads * 1024 || heads > 16); i++) {
			per_track = i ? 63 : 31;
			heads = 16;
			tracks = sectors / per_track;
		}
	}
	store_be16(f + VHD_AT_CYLINDERS, (uint16_t)(tracks / heads));
	f[VHD_AT_HEADS] = (uint8_t)heads;
	f[VHD_AT_SECTORS] = (uint8_t)per_track;
}

/* Others take the size from the geometry unless they know the creator. "win " is what Hyper-V
 * writes, and all take it at its word. */
static void make_footer(uint8_t *f, uint64_t size, uint32_t type)
{
	memset(f, 0, VHD_FOOTER);
	memcpy(f + VHD_AT_COOKIE, "conectix", 8);
	store_be32(f + VHD_AT_FEATURES, 2); /* a bit that is always set */
	store_be32(f + VHD_AT_VERSION, 0x00010000);
	store_be64(f + VHD_AT_HEADER, type == VHD_FIXED ? VHD_NONE : VHD_FOOTER);
	store_be32(f + VHD_AT_TIME, (uint32_t)(time(NULL) - SECONDS_2000));
	memcpy(f + VHD_AT_CREATOR, "win ", 4);
	store_be32(f + VHD_AT_CREATOR_VERSION, 0x00060001);
	memcpy(f + VHD_AT_HOST, "Wi2k", 4);
	store_be64(f + VHD_AT_ORIGINAL_SIZE, size);
	store_be64(f + VHD_AT_SIZE, size);
	set_geometry(f, size / DISK_SECTOR_SIZE);
	store_be32(f + VHD_AT_TYPE, type);
	disk_form_guid(f + VHD_AT_UUID);
	store_be32(f + VHD_AT_SUM, vhd_sum(f, VHD_FOOTER, VHD_AT_SUM));
}

#define LOCATOR_BYTES 1024u /* behind the table */

/* By UUID, by name, and by a path from here on. False: the name is no UTF-8, or too long. */
static bool put_on(uint8_t *h, uint8_t *locator, uint64_t locator_at, const struct disk_form_create *o)
{
	const uint8_t *footer = vhd_footer(o->parent);
	g_autofree char *base = g_path_get_basename(o->backing);
	g_autofree char *path = g_path_is_absolute(o->backing) ? g_strdup(o->backing)
							       : g_strconcat("./", o->backing, NULL);
	uint8_t *l = h + VHD_AT_H_LOCATORS;
	size_t len = disk_form_put_name(path, false, locator, LOCATOR_BYTES);

	memcpy(h + VHD_AT_H_PARENT, footer + VHD_AT_UUID, 16);
	memcpy(h + VHD_AT_H_PARENT_TIME, footer + VHD_AT_TIME, 4);
	store_be32(l + VHD_AT_L_CODE, VHD_RELATIVE);
	store_be32(l + VHD_AT_L_SPACE, LOCATOR_BYTES);
	store_be32(l + VHD_AT_L_BYTES, (uint32_t)len);
	store_be64(l + VHD_AT_L_OFFSET, locator_at);
	return len && disk_form_put_name(base, true, h + VHD_AT_H_NAME, VHD_NAME);
}

static void make_header(uint8_t *h, uint32_t blocks, uint32_t block)
{
	memcpy(h, "cxsparse", 8);
	store_be64(h + VHD_AT_H_NEXT, VHD_NONE);
	store_be64(h + VHD_AT_H_TABLE, VHD_FOOTER + VHD_HEADER);
	store_be32(h + VHD_AT_H_VERSION, 0x00010000);
	store_be32(h + VHD_AT_H_BLOCKS, blocks);
	store_be32(h + VHD_AT_H_BLOCK, block);
}

static uint64_t table_end(uint64_t blocks)
{
	return VHD_FOOTER + VHD_HEADER + align_up(blocks * 4, DISK_SECTOR_SIZE);
}

/* Footer, header, an empty table, footer. */
static int write_dynamic(struct disk *file, const struct disk_form_create *o)
{
	uint32_t block = o->block_bytes ? (uint32_t)o->block_bytes : VHD_BLOCK;
	uint32_t blocks = (uint32_t)((o->size_bytes + block - 1) / block);
	uint64_t locator_at = table_end(blocks), end = locator_at + (o->parent ? LOCATOR_BYTES : 0);
	g_autofree uint8_t *bytes = g_try_malloc0(end + VHD_FOOTER);

	if (!bytes)
		return -ENOMEM;
	make_footer(bytes, o->size_bytes, o->parent ? VHD_DIFFERENCING : VHD_DYNAMIC);
	make_header(bytes + VHD_FOOTER, blocks, block);
	if (o->parent && !put_on(bytes + VHD_FOOTER, bytes + locator_at, locator_at, o))
		return -ENAMETOOLONG;
	store_be32(bytes + VHD_FOOTER + VHD_AT_H_SUM,
		   vhd_sum(bytes + VHD_FOOTER, VHD_HEADER, VHD_AT_H_SUM));
	memset(bytes + VHD_FOOTER + VHD_HEADER, 0xff, locator_at - VHD_FOOTER - VHD_HEADER);
	memcpy(bytes + end, bytes, VHD_FOOTER);
	return disk_write_wait(file, bytes, end + VHD_FOOTER, 0);
}

static bool parse_options(const struct disk_form_create *o, unsigned *ret_fixed, GError **err)
{
	static const char *const kinds[] = { "dynamic", "fixed", NULL }, *const on[] = { "on",
											 NULL };
	unsigned exact = 0;
	const struct disk_form_option known[] = { { "subformat", kinds, ret_fixed, NULL },
						  { "force_size", on, &exact, NULL } };

	return disk_form_options(o->options, known, ARRAY_SIZE(known), err);
}

bool vhd_create(struct disk *file, const struct disk_form_create *o, GError **err)
{
	uint8_t footer[VHD_FOOTER];
	unsigned fixed = 0;
	int r;

	if (!parse_options(o, &fixed, err))
		return false;
	if (o->size_bytes > VHD_MAX_BYTES) {
		g_set_error(err, BASE_ERROR, EINVAL, "a VHD image has at most 2040 GiB");
		return false;
	}
	if (fixed && o->parent) {
		g_set_error(err, BASE_ERROR, EINVAL, "a fixed image stands on no other one");
		return false;
	}
	make_footer(footer, o->size_bytes, VHD_FIXED);
	r = fixed ? disk_write_wait(file, footer, VHD_FOOTER, o->size_bytes)
		  : write_dynamic(file, o);
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "the image cannot be written: %s", g_strerror(-r));
	return r == 0;
}

uint64_t vhd_measure(const struct disk_form_create *o, uint64_t data)
{
	uint64_t blocks = (o->size_bytes + VHD_BLOCK - 1) / VHD_BLOCK;
	unsigned fixed = 0;

	if (parse_options(o, &fixed, NULL) && fixed)
		return o->size_bytes + VHD_FOOTER;
	return table_end(blocks) + VHD_FOOTER +
	       (data + VHD_BLOCK - 1) / VHD_BLOCK * (VHD_BLOCK + vhd_bitmap_bytes(VHD_BLOCK));
}
