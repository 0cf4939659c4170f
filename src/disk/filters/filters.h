// SPDX-License-Identifier: Apache-2.0
/* filters.h - nodes that stand on one other node and change how it is reached, not what it holds. */
#pragma once

#include "disk/disk_int.h"

/* ---- copies.c ---- */
/* Copies of what is read from @from, which changes only when @tag does (NULL: no one can tell, and nothing is kept for the next
 * time; "": no one can tell, the user says that it does not, and some copies are compared), as o->cache_file
 * and o->cache_bytes say. Takes over @from, also when it fails. */
struct disk *disk_copies_open_take(struct disk *from, const char *tag, const struct disk_options *o,
				   struct loop *loop, GError **err);
