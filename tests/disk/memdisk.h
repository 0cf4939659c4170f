// SPDX-License-Identifier: Apache-2.0
/*
 * memdisk.h - a file node in memory: hostile images, power cuts, and disks that fail.
 *
 * Requests wait until the disk is drained and then run in an order of the seed's. What changes the
 * file is noted; memdisk_cut() is what a power cut in the middle would leave.
 *
 * A call that is to fail does nothing, or what it should, by chance. When a flush fails, of what was
 * written since the last one a part never reaches the disk, though it can be read: so it is with the
 * host's cache, whatever later flushes say.
 */
#pragma once

#include "disk/disk_int.h"

struct memdisk_change {
	bool flush;
	uint64_t offset, len;
	uint8_t *bytes; /* NULL: zeros */
	bool lost;
};

struct memdisk_faults {
	unsigned from, to; /* calls that fail, [from, to), the first being number 1 */
	bool full; /* for want of room: only what writes is counted and fails, with -ENOSPC */
	unsigned calls, failed; /* discards, which are hints, are not counted as failed */
	enum disk_op op; /* the last that failed */
	uint64_t at, len;
};

struct memdisk {
	struct disk disk;
	uint8_t *bytes;	 /* room_bytes */
	uint64_t room_bytes;
	uint64_t seed;
	bool note; /* changes */
	GArray *changes; /* struct memdisk_change */
	struct disk_req *queue;
	struct memdisk_faults faults; /* to be set by the test */
	bool keep; /* closing it the first time does nothing */
};

/* Closed as a disk. Writes behind @room_bytes fail with -ENOSPC, reads there give zeros. */
struct memdisk *memdisk_new(uint64_t room_bytes, uint64_t seed);
/* The file after the first @count changes: those up to the last flush, and of the others as many
 * sectors as chance has it. Closed as a disk. */
struct memdisk *memdisk_cut(const struct memdisk *from, const struct memdisk *start, unsigned count,
			    uint64_t seed);
/* The file as it is to be read. Closed as a disk. */
struct memdisk *memdisk_copy(const struct memdisk *from, uint64_t seed);
uint64_t memdisk_random(uint64_t *seed, uint64_t below);
