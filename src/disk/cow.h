// SPDX-License-Identifier: Apache-2.0
/* cow.h - a disk over an image that stays as it is: copy on write, with one call. */
#pragma once

#include "disk/disk.h"

/**
 * disk_open_cow - open @base to be read, and over it an image that takes what is written.
 *
 * @base: a file or a remote name; o->format is its format. Its folder may hold what lies below it.
 * @layer: a qcow2 image, which is made where there is none, and must lie over @base where there is one; NULL: a file
 *	without a name, which is gone when the disk is closed.
 */
struct disk *disk_open_cow(const char *base, const char *layer, const struct disk_options *o,
			   struct loop *loop, GError **err);
