// SPDX-License-Identifier: Apache-2.0
/*
 * blocks.h - what the formats share that cut the disk into blocks and have one table of where in
 * the file each block lies: VDI, VHD, VHDX, VMDK.
 *
 * Theory of operation. A block has a place in the file or none. Once it has one it stays there, so
 * that reads, and writes to blocks that have a place, need no lock. A write to one without takes a
 * place that nothing refers to, fills the block up with what was to be seen there before, and then
 * changes the table, in memory. Zeros that are written to a place become a hole in the host's file.
 *
 *	blocks.c	open and close, what becomes of a request, the order of writes
 *	blocks_table.c	the table, of which pages are in memory
 *	blocks_data.c	reading, writing, zeroing and discarding
 *	blocks_sectors.c blocks of which some sectors are the parent's
 *	blocks_check.c	whether blocks overlap, or lie outside of the file
 *
 * What a power cut may find. The table's changed pages reach the file when the guest flushes:
 *
 *	1. what the format wants ahead (its ops' before()), and the file's new length
 *	2. flush, which makes the data durable as well
 *	3. changed pages of the table, and the format's copy of them where it has one
 *	4. flush
 *
 * So an entry that has reached the disk names a place whose content has, whatever subset of the
 * later writes is lost. Places that were taken and not named lie behind the last block mostly, and
 * are free again for who opens the image next; those in the middle are lost (VDI finds them as
 *well).
 *
 * Fibers. As with qcow2 (qcow2_int.h): requests run in fibers, b->meta is held by who changes the
 * table or waits for a page of it. What is in memory may be read without it up to the next wait.
 *
 * An image is hostile. An entry is checked where it is used: a wrong one gives -EIO, is logged
 *once, and there are no writes any more. The table's size is limited, and it must lie inside of the
 *file.
 */
#pragma once

#include "disk/disk_int.h"
#include "disk/formats/formats.h"
#include "disk/ranges.h"
#include "disk/segments.h"
#include "disk/serving.h"

#define BLOCKS_MAX_TABLE (256ull << 20) /* bytes */
#define BLOCKS_PAGE	 4096u

enum blocks_kind {
	BLOCKS_ABSENT,
	BLOCKS_ZERO,
	BLOCKS_DATA,
	BLOCKS_PACKED,
	BLOCKS_PARTIAL, /* has a place, but a bitmap says which of its sectors lie there */
};

struct blocks_place {
	enum blocks_kind kind;
	uint64_t host; /* of data and what is packed: offset in the file */
};

struct blocks;

struct blocks_extent {
	struct blocks_place place;
	uint64_t len; /* bytes alike, in a row in the file as well */
	struct disk *in; /* the file, or a part */
	bool placed; /* what is absent has a place all the same, that of the block's other sectors */
	uint64_t block, block_at; /* of one that is packed: its number, and where in the disk it begins */
};

struct blocks_ops {
	/* What an entry says, no matter whether it makes sense. */
	struct blocks_place (*decode)(const struct blocks *b, uint64_t block, const uint8_t *entry);
	void (*encode)(const struct blocks *b, struct blocks_place place, uint8_t *entry);
	/* NULL: such blocks lie anywhere behind the table. */
	bool (*is_possible)(const struct blocks *b, uint64_t host);

	/* All below: b->meta held, and optional. */

	/* Places for 1..@count blocks in a row; NULL: at the end of the file. */
	int (*take)(struct blocks *b, uint64_t count, uint64_t *ret_host, uint64_t *ret_count);
	/* What lies in front of a new block. */
	int (*prepare)(struct blocks *b, uint64_t host);
	/* Where a page of the table lies, 0: nowhere, all its blocks are absent; and make it lie
	 * somewhere. NULL: they lie in a row from table_at on. */
	uint64_t (*page_at)(const struct blocks *b, uint64_t page);
	int (*page_make)(struct blocks *b, uint64_t page);
	/* Called once, before the first change of the image since it was opened. */
	int (*first)(struct blocks *b);
	int (*before)(struct blocks *b);
	/* The other copy of a page. */
	int (*copy_page)(struct blocks *b, uint64_t page, const uint8_t *bytes, uint64_t len);
	/* Behind step 4. */
	int (*after)(struct blocks *b);
	/* Pieces of any size, found by the format's own means, in place of blocks and their table. */
	int (*lookup)(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret);
	/* A block that is packed, into b->unpacked; and one to be packed, of which @len bytes are
	 * the disk's. */
	int (*unpack)(struct blocks *b, uint64_t block, uint64_t host);
	int (*pack)(struct blocks *b, uint64_t block, const uint8_t *bytes, uint64_t *ret_host);
	/* Of a partial block: its bitmap, the first sector being the first byte's highest bit; and
	 * from now on all its sectors are there, as what is in them is. */
	int (*bitmap)(struct blocks *b, uint64_t block, uint64_t host, uint8_t *to, uint64_t len);
	int (*complete)(struct blocks *b, uint64_t block, uint64_t host);
	/* Everything is in the file: what is to be done when it is closed; @b->broken may be set.
	 */
	int (*finish)(struct blocks *b);
	/* What the format has allocated. The disk is not used any more. */
	void (*fini)(struct blocks *b);
	/* Further findings. NULL: none. */
	int (*check)(struct blocks *b, bool repair, struct disk_found *found);
};

struct blocks_page {
	uint8_t *bytes; /* NULL: not in memory */
	bool dirty;
};

#define BLOCKS_BITMAPS 64u /* in memory */

struct blocks_bitmap {
	uint64_t number; /* of the block, from 1 on; 0: none */
	uint8_t *bits;
};

/* A disk of which a part of this one consists. */
struct blocks_part {
	struct disk *disk; /* owned */
	uint64_t start, len; /* of the part */
	uint64_t at; /* in @disk */
};

/* Embedded first by each format, which fills in what is above the line before it calls
 * blocks_open(). */
struct blocks {
	struct disk disk;
	struct disk *file; /* disk.below */
	struct disk *parent; /* owned; NULL: none, then absent means zeros */
	const struct blocks_ops *ops;
	uint64_t block_bytes; /* a multiple of 512 */
	uint64_t table_at;
	unsigned entry_bytes; /* 4 or 8 */
	unsigned page_entries;
	bool flat; /* no table: the disk lies in one piece from data_at on, or in @parts */
	struct blocks_part *parts; /* owned; NULL: none. In order, without gaps */
	unsigned part_count;
	bool pack_only; /* only new, whole blocks are written, packed */
	uint64_t data_at; /* no block lies before it */
	uint64_t place_align; /* of a new block at the end of the file */
	uint64_t unit_bytes; /* of a bit in a partial block's bitmap */
	uint64_t tables_end; /* behind it lie but blocks; 0: not known, new ones come behind the
				file */
	char *about; /* for `sika image info`; owned */
	/* ---- */
	uint64_t block_count, page_count;
	struct blocks_page *pages;
	uint64_t pages_loaded, pages_dirty, hand;
	uint64_t end; /* of what is in use in the file: the next place */
	uint64_t stale_end; /* free places before it may hold something */
	bool changed, broken;
	bool unfinished; /* a commit failed: the next one does all of it again */
	struct serving serving;
	struct fiber_lock meta;
	struct range *ranges; /* blocks that a request gives a place to */
	struct blocks_bitmap bitmaps[BLOCKS_BITMAPS];
	uint8_t *unpacked; /* block_bytes: the packed block that was read last */
	uint64_t unpacked_number; /* of the block, from 1 on; 0: none */
};

/* ---- blocks.c ---- */
/* A node over @file whose fields are yet to be filled in: @bytes of a struct with a struct blocks
 * in front. It owns @file. */
struct blocks *blocks_new(size_t bytes, struct disk *file, const char *format,
			  const struct blocks_ops *ops);
/* Allocate what it needs: NULL and an error when the sizes are absurd. disk.size_bytes is set.
 * Takes over @b also when it fails. */
struct disk *blocks_open_take(struct blocks *b, GError **err);
struct disk *blocks_fail_take(struct blocks *b);
/* "disk PATH: WHY", and false. */
bool blocks_refuse(const struct blocks *b, GError **err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
int blocks_damaged(struct blocks *b, const char *what, uint64_t offset);
int blocks_io(struct blocks *b, struct disk *disk, struct disk_req *req);
int blocks_file_read(struct blocks *b, void *buf, uint64_t len, uint64_t offset);
int blocks_file_write(struct blocks *b, const void *buf, uint64_t len, uint64_t offset);
int blocks_file_flush(struct blocks *b);
/* The same as blocks_file_read(), for who opens the image: false, and why. */
bool blocks_file_load(struct blocks *b, void *buf, uint64_t len, uint64_t offset, GError **err);
int blocks_commit(struct blocks *b);
/* b->meta held. The image is about to change. */
int blocks_change(struct blocks *b);

/* ---- blocks_table.c ---- */
bool blocks_table_init(struct blocks *b);
void blocks_table_fini(struct blocks *b);
/* Without b->meta: takes it where it must. */
int blocks_lookup(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret);
/* b->meta held. */
int blocks_get(struct blocks *b, uint64_t block, struct blocks_place *ret);
int blocks_set(struct blocks *b, uint64_t block, struct blocks_place place);
int blocks_table_write(struct blocks *b);
/* Each block's place, in order; stops at the first result that is not 0. For who is alone. */
int blocks_each(struct blocks *b,
		int (*fn)(struct blocks *b, uint64_t block, struct blocks_place place, void *arg),
		void *arg);
/* b->end is behind all blocks, and where other things may lie behind the file's end; for who is
 * alone. */
int blocks_find_end(struct blocks *b);

/* ---- blocks_data.c ---- */
int blocks_read(struct blocks *b, uint64_t offset, uint64_t len, struct segments *to);
int blocks_write(struct blocks *b, uint64_t offset, uint64_t len, struct segments *from);
int blocks_empty(struct blocks *b, const struct disk_req *req);

/* What the parent shows at @offset of the disk goes to @host of the file. */
int blocks_copy_below(struct blocks *b, uint64_t offset, uint64_t len, uint64_t host);

/* ---- blocks_sectors.c ---- */
void blocks_sectors_fini(struct blocks *b);
/* Of an extent of a partial block that begins at @offset of the disk: is it here or the parent's? */
int blocks_sectors_resolve(struct blocks *b, uint64_t offset, struct blocks_extent *e);
/* All sectors of the block are here. The range is the caller's alone. */
int blocks_sectors_complete(struct blocks *b, uint64_t offset);

/* ---- blocks_check.c: what `sika image check` finds ---- */
int blocks_check(struct blocks *b, bool repair, struct disk_found *found);
