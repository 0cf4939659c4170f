// SPDX-License-Identifier: Apache-2.0
/* memimage.h - images in memory, of any format, that tests of power cuts and of failing disks use. */
#pragma once

#include "disk/formats/formats.h"
#include "memdisk.h"

struct loop;

/* Of the disk in it. */
uint64_t memimage_bytes(const struct disk_form *form);
/* An image of a kind that @seed picks, in @m. @form: NULL: qcow2. False: it is refused. */
bool memimage_create(struct memdisk *m, const struct disk_form *form, uint64_t *seed);
/* Takes over @file. */
struct disk *memimage_open_take(struct memdisk *file, const struct disk_form *form, bool repair,
				struct loop *loop, GError **err);
/* NULL, or what is wrong with the image; lost clusters are not, but they must be repaired. */
const char *memimage_check(struct disk *disk, const struct disk_form *form);
