// SPDX-License-Identifier: Apache-2.0
/* memimage.h - images in memory, of any format, that tests of power cuts and of failing disks use. */
#pragma once

#include "disk/formats/formats.h"
#include "memdisk.h"

struct loop;

struct memimage_kind {
	const struct disk_form *form; /* NULL: qcow2 */
	bool differs; /* on top of a disk of a pattern; some blocks hold a part of their sectors where the
			 format can have that */
};

/* "vhd", or "vhd,differs". */
struct memimage_kind memimage_parse(const char *name);
/* Of the disk in it. */
uint64_t memimage_bytes(struct memimage_kind kind);
/* One that @seed picks, in @m, and what it holds: @content is given memimage_bytes(). False: it is
 * refused. */
bool memimage_create(struct memdisk *m, struct memimage_kind kind, struct loop *loop, uint64_t *seed,
		     uint8_t *content);
/* Takes over @file. */
struct disk *memimage_open_take(struct memdisk *file, struct memimage_kind kind, struct loop *loop,
				GError **err);
/* NULL, or what is wrong with the image; lost clusters are not, but they must be repaired. */
const char *memimage_check(struct disk *disk, struct memimage_kind kind);

/* @disk: qcow2, with an enabled bitmap of that name, which was empty when the disk held @then: whatever differs since
 * must be marked in it, unless it tells that it cannot be used or was disabled. NULL: so it is. */
const char *memimage_check_bitmap(struct disk *disk, const char *name, const uint8_t *then);
/* Bitmaps are stored, as when the disk is closed. 0 or -errno. */
int memimage_settle(struct disk *disk);
/* Something is done with the bitmaps of a qcow2 image, which leaves the one of that name as true as it was: it is stored,
 * another one is made, cleared, removed or merged with it, it is disabled for good, the size changes and changes back.
 * 0 or -errno. */
int memimage_use_bitmaps(struct disk *disk, const char *name, uint64_t *seed);
