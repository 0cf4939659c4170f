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
