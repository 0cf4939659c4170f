// SPDX-License-Identifier: Apache-2.0
/*
 * qcow2_int.h - what the files of the qcow2 format share.
 *
 * Theory of operation. The file is cut into clusters. The disk's bytes are found through two levels
 * of tables: L1 (in memory as a whole) names L2 tables, their entries name clusters. Each cluster
 * of the file has a count of those who refer to it, kept in refcount blocks, which the reftable (in
 * memory as a whole) names. Numbers in the file are big-endian; sections cited are those of the
 * format's specification, "The QCOW2 format", as QEMU's documentation has it.
 *
 *	qcow2.c		 open and close, what happens with a request
 *	header.c	 the header, its extensions; bytes only
 *	cache.c	 tables in memory, and the order in which they reach the file
 *	refcount.c counts, and finding free clusters
 *	map.c	 L1 and L2: where a byte lies, and making it lie elsewhere
 *	data.c	 reading, writing, zeroing and discarding
 *	compress.c clusters of zlib and zstd
 *	resize.c	 another size, another L1 table
 *	check.c	 counting again, and repair
 *	create.c	 making an image
 *	snapshot.c internal snapshots
 *	bitmap_dir.c the directory of bitmaps of changed blocks, and which of them may be used
 *	bitmap.c	 keeping them true
 *	bitmap_ops.c making, removing, merging them
 *	marks.c	 which parts of a disk have changed, in memory
 *
 * What a power cut may find. Tables change in memory and reach the file in qcow2_commit():
 *
 *	1. refcounts	      may be written at any time, for they err on one side only: a count is
 *			      raised before a reference is written, and lowered after one is gone.
 *	2. flush	      all data that was written before is durable as well.
 *	3. L2 tables, flush, L1
 *	4. flush
 *	5. the counts of clusters that nobody refers to any more are lowered, and only then may they
 *	   be used again.
 *
 * So at any moment, whatever subset of the writes since the last flush has reached the disk, no
 * table refers to a cluster that is not counted or that holds something else. Clusters may be lost
 * ("leaked"), which check --repair gives back. With lazy refcounts step 1 waits for the end, behind
 * the header's dirty bit.
 *
 * A snapshot changes counts and bit 63 of the entries that name those clusters, in different
 * sectors: whatever the order, a cut may leave one without the other, which check calls an error.
 * Version 3 has the dirty bit to tell it by; version 2 has no mark that others know, and repair
 * mends what errs on the safe side: a count that is too large, or a bit that is missing.
 *
 * Bitmaps of changed blocks (section "Bitmaps"). One that is "auto" has a bit for each block that
 * was written, discarded or zeroed. It may say too much, never too little. So:
 *
 *	1. Before the first change of a session all that are auto are marked "in use" in the
 *	   directory, and that is durable before any byte of the disk changes. From then on nobody
 *	   trusts them.
 *	2. Changes are marked in memory, by the finest of them, whatever becomes of the request.
 *	3. When the image is closed, they are added to what the file has; counts of clusters taken
 *	   for that are durable before a table names them.
 *	4. flush, and only then the marks of 1 are taken back.
 *
 * A power cut between 1 and 4 leaves bitmaps that say so of themselves; who opens the image without
 * a change leaves them as they are (QEMU marks all bitmaps when it opens an image). A guest's flush
 * does not store them: that would cost three flushes more each time. A change of the size marks all
 * of them, also those that are not auto, writes tables that fit, and a directory elsewhere that the
 * header then names.
 *
 * Fibers. Requests run in fibers (serving.h). Who changes tables, or waits for one to be loaded, holds s->meta. A
 * table that is in memory may be read without it, up to the next wait. Data is read and written
 * without it. Requests that change which cluster a range lies in keep that range for themselves
 * (ranges.h), so that no write goes to a cluster that has been given away.
 *
 * An image is hostile. What an entry says is checked where it is used; a wrong one gives -EIO, is
 * logged once, and the image is marked corrupt, after which it takes no writes.
 */
#pragma once

#include "base/bits.h"
#include "disk/disk_int.h"
#include "disk/fiber.h"
#include "disk/qcow2/qcow2.h"
#include "disk/ranges.h"
#include "disk/segments.h"
#include "disk/work.h"

#define QCOW2_MAGIC	       0x514649fbu
#define QCOW2_MIN_CLUSTER_BITS 9u
#define QCOW2_MAX_CLUSTER_BITS 21u
#define QCOW2_HEADER_V2	       72u
#define QCOW2_HEADER_V3	       104u
#define QCOW2_HEADER_KNOWN     112u /* all fields that we know, as we write them */
#define QCOW2_MAX_L1_BYTES     (32u << 20)
#define QCOW2_MAX_REFTABLE     (8u << 20) /* bytes */
#define QCOW2_MAX_SNAPSHOTS    65536u
#define QCOW2_MAX_SNAPSHOT_TABLE (64u << 20) /* bytes */
#define QCOW2_MAX_BITMAPS      65535u
#define QCOW2_MAX_BITMAP_DIR   (64u << 20) /* bytes */
#define QCOW2_MAX_BITMAP_BYTES (512u << 20) /* of one, in the file: what QEMU takes */
#define QCOW2_MAX_BITMAP_NAME  1023u
#define QCOW2_MAX_BACKING_NAME 1023u
#define QCOW2_MAX_FILE	       (1ull << 56)
#define QCOW2_SUBCLUSTERS      32u

#define QCOW2_INCOMPAT_DIRTY	   (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT	   (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define QCOW2_INCOMPAT_KNOWN	   0x1full
#define QCOW2_COMPAT_LAZY	   (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS	   (1ull << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA   (1ull << 1)

#define QCOW2_OFFSET	 0x00fffffffffffe00ull /* of L1, L2 and reftable entries */
#define QCOW2_COPIED	 (1ull << 63)	       /* the count is one: may be written in place */
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO	 (1ull << 0)

#define QCOW2_ZLIB 0u
#define QCOW2_ZSTD 1u

/* Where fields lie that are written one by one. */
#define QCOW2_AT_SIZE	   24u
#define QCOW2_AT_L1	   36u /* size, offset */
#define QCOW2_AT_REFTABLE  48u /* offset, clusters */
#define QCOW2_AT_SNAPSHOTS 60u /* count, offset */
#define QCOW2_AT_INCOMPAT  72u
#define QCOW2_AT_AUTOCLEAR 88u

/* ---- header.c ---- */
struct qcow2_header {
	uint32_t version, cluster_bits, refcount_order, compression;
	uint64_t size_bytes;
	uint32_t l1_entries, reftable_clusters, snapshot_count;
	uint64_t l1_offset, reftable_offset, snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t bitmaps_at;  /* the data of that extension in the header; 0: there is none */
	uint32_t bitmap_count;
	uint64_t bitmaps_bytes, bitmaps_offset; /* the directory */
	char *backing;	      /* as it is written; NULL: none */
	char *backing_format; /* NULL: not told */
	char *data_file;      /* NULL: none */
	GByteArray *fields;   /* those of no meaning here, behind the ones that we know; NULL: none */
	GByteArray *unknown;  /* extensions of no meaning here, as they lie there; NULL: none */
};

/* @bytes are the file's first, a whole cluster where the file has one. False: a sentence without
 * the path in @err. */
bool qcow2_header_parse(const uint8_t *bytes, size_t len, struct qcow2_header *ret, GError **err);
/* The size of the first cluster by the header's own word, or 0. */
size_t qcow2_header_cluster_bytes(const uint8_t *bytes, size_t len);
/* Fills the first cluster; returns the bytes that say something. -ENOSPC: names, or what else stands
 * there, do not fit. */
int qcow2_header_write(const struct qcow2_header *h, uint8_t *cluster, size_t cluster_bytes);
/* Where that writes the data of the extension of bitmaps. */
uint32_t qcow2_header_bitmaps_at(const struct qcow2_header *h);
void qcow2_header_fini(struct qcow2_header *h);

/* ---- cache.c ---- */
struct qcow2_table {
	uint64_t offset; /* in the file */
	bool dirty;
	uint8_t *bytes;
	struct qcow2_table *chain;	   /* of the bucket */
	struct qcow2_table *newer, *older; /* by use */
};

#define QCOW2_BUCKETS 512u

/* Tables, or parts of unit_bytes of them. */
struct qcow2_cache {
	size_t unit_bytes;
	unsigned count, limit;
	unsigned dirty;
	struct qcow2_table *buckets[QCOW2_BUCKETS];
	struct qcow2_table *newest, *oldest;
};

/* ---- marks.c ---- */

/* A bit for each 1 << shift bytes of a disk. All zeros: nothing, of no disk. */
struct qcow2_marks {
	uint8_t *bits;
	uint64_t size_bytes; /* of the disk */
	unsigned shift;
};

/* ---- bitmap_dir.c ---- */

#define QCOW2_BITMAP_IN_USE   (1u << 0)
#define QCOW2_BITMAP_AUTO     (1u << 1)
#define QCOW2_BITMAP_EXTRA_OK (1u << 2)
#define QCOW2_BITMAP_KNOWN    7u
#define QCOW2_BITMAP_DIRTY    1u /* the type */

/* As the directory has it. */
struct qcow2_bitmap {
	char *name;
	uint64_t table_offset;
	uint32_t table_entries;
	uint32_t flags;
	uint8_t type, shift; /* 1 << shift bytes to a bit */
	GByteArray *extra;   /* data that nobody here knows */
	bool ours; /* in use by us: not so any more when it is stored */
};

/* Of an image that is open for writing. */
struct qcow2_bitmaps {
	GPtrArray *list; /* struct qcow2_bitmap; NULL: there are none */
	bool tracks;	 /* some must know of each change */
	bool in_use;	 /* and are marked so in the file */
	uint64_t size_bytes; /* of the disk that they describe */
	struct qcow2_marks marks; /* changes since they were read */
	struct fiber_lock lock; /* of marking them in use */
};

/* ---- qcow2.c ---- */

struct qcow2_span {
	uint64_t offset, len; /* bytes of the file, whole clusters */
};

struct qcow2 {
	struct disk disk;
	struct disk *file;    /* owned */
	struct disk *data;    /* the file, or the external data file, then owned */
	struct disk *backing; /* owned; NULL: none */
	struct qcow2_header h;
	uint64_t cluster_bytes;
	unsigned entry_bytes;	   /* of L2: 8, or 16 with subclusters */
	unsigned l2_bits;	   /* log2 of the entries of an L2 table */
	unsigned sub_bits;	   /* log2 of the bytes of a subcluster; cluster_bits without */
	uint64_t *l1;		   /* as numbers */
	uint64_t *reftable;	   /* as numbers */
	uint32_t reftable_entries;
	uint32_t l1_dirty_from, l1_dirty_to; /* entries [from, to) */
	struct qcow2_cache l2, refs;
	GArray *freed;		   /* struct qcow2_span: step 5 */
	struct qcow2_bitmaps bitmaps;
	uint64_t free_hint;	   /* no cluster before this one is free */
	uint64_t packed_at;	   /* where the next compressed cluster may start; 0: nowhere yet */
	bool lazy, broken;	   /* broken: no writes any more */
	struct serving serving;
	struct fiber_lock meta;
	struct range *ranges; /* clusters: changes in place share them, those that make them lie
				 elsewhere have them alone */
	uint8_t *unpacked;	   /* the compressed cluster that was read last */
	uint64_t unpacked_entry;   /* its L2 entry; 0: none */
	uint64_t packed_count;	   /* clusters packed: an entry may since mean something else */
	struct loop *loop;
	struct work_pool *work;	   /* with the first compressed cluster */
	struct qcow2_packer *packers; /* that nobody uses */
};

static inline bool qcow2_has_subclusters(const struct qcow2 *s)
{
	return s->entry_bytes == 16;
}

static inline bool qcow2_has_bitmaps(const struct qcow2 *s)
{
	/* Without the bit somebody has written who did not know them. */
	return s->h.bitmaps_at && (s->h.autoclear & QCOW2_AUTOCLEAR_BITMAPS);
}

static inline bool qcow2_has_data_file(const struct qcow2 *s)
{
	return s->data != s->file;
}

/* Takes over @file, also when it fails. */
struct disk *qcow2_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err);

/* One request below, waited for: in a fiber by leaving it, elsewhere by draining. */
int qcow2_io(struct qcow2 *s, struct disk *disk, struct disk_req *req);
int qcow2_file_read(struct qcow2 *s, void *buf, uint64_t len, uint64_t offset);
int qcow2_file_write(struct qcow2 *s, const void *buf, uint64_t len, uint64_t offset);
int qcow2_file_flush(struct qcow2 *s);
/* Durable on return: fields of the header. */
int qcow2_file_write_flush(struct qcow2 *s, const void *buf, uint64_t len, uint64_t offset);
/* The same where the header then names another table, or more of it. When that fails nobody can tell
 * which one it names, and there are no writes any more. */
int qcow2_header_name(struct qcow2 *s, const void *field, uint64_t len, uint64_t offset);
/* @what is wrong in the image: logs it once, marks it corrupt; returns -EIO. */
int qcow2_corrupt(struct qcow2 *s, const char *what, uint64_t offset);
/* Numbers, @count of them; caller frees. */
int qcow2_load_table(struct qcow2 *s, uint64_t offset, uint64_t count, uint64_t **ret);
int qcow2_set_incompatible(struct qcow2 *s, uint64_t features);
int qcow2_set_autoclear(struct qcow2 *s, uint64_t features);

/* The rest: s->meta held where tables are changed or loaded. */

/* ---- cache.c ---- */
void qcow2_cache_init(struct qcow2_cache *c, size_t unit_bytes, size_t limit_bytes);
void qcow2_cache_fini(struct qcow2_cache *c);
struct qcow2_table *qcow2_cache_find(struct qcow2_cache *c, uint64_t offset);
/* Valid until the next call. @fresh: zeros, not what the file holds. */
int qcow2_cache_get(struct qcow2 *s, struct qcow2_cache *c, uint64_t offset, bool fresh,
		    struct qcow2_table **ret);
void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_table *t);
/* Forget clean tables; and what was known of a part of the file, clean or not. */
void qcow2_cache_clear(struct qcow2_cache *c);
void qcow2_cache_forget(struct qcow2_cache *c, uint64_t offset, uint64_t len);
int qcow2_cache_write(struct qcow2 *s, struct qcow2_cache *c);
bool qcow2_is_dirty(const struct qcow2 *s);
int qcow2_commit(struct qcow2 *s);

/* ---- refcount.c ---- */
uint64_t qcow2_refs_per_block(const struct qcow2 *s);
uint64_t qcow2_ref_max(const struct qcow2 *s);
uint64_t qcow2_ref_load(const void *block, uint64_t index, unsigned order);
void qcow2_ref_store(void *block, uint64_t index, unsigned order, uint64_t value);
int qcow2_ref_get(struct qcow2 *s, uint64_t cluster, uint64_t *ret);
/* Make the header name the table at @offset, durably; s->h stays as it is. */
int qcow2_reftable_name(struct qcow2 *s, uint64_t offset, uint64_t clusters);
int qcow2_ref_add(struct qcow2 *s, uint64_t cluster, int delta);
/* 1..@count clusters in a row; with @whole all of them. They count one. */
int qcow2_alloc(struct qcow2 *s, uint64_t count, bool whole, uint64_t *ret_offset,
		uint64_t *ret_count);
/* Nothing in the file has ever referred to them. */
void qcow2_unalloc(struct qcow2 *s, uint64_t offset, uint64_t count);
/* A reference in a table that has yet to reach the file is gone. */
void qcow2_free(struct qcow2 *s, uint64_t offset, uint64_t count);
int qcow2_apply_freed(struct qcow2 *s);

/* ---- map.c ---- */
enum qcow2_kind { QCOW2_K_ABSENT, QCOW2_K_ZERO, QCOW2_K_DATA, QCOW2_K_COMPRESSED };

struct qcow2_extent {
	enum qcow2_kind kind;
	uint64_t len;	/* bytes alike, in a row in the file as well */
	uint64_t host;	/* offset in the data file; of compressed ones the L2 entry */
	bool copied;
};

struct qcow2_entry {
	uint64_t entry, bitmap;
};

/* Without s->meta: takes it where it must. */
int qcow2_lookup(struct qcow2 *s, uint64_t offset, uint64_t len, struct qcow2_extent *ret);
/* Bytes from @offset to the end of what its part of an L2 table describes. */
uint64_t qcow2_slice_left(const struct qcow2 *s, uint64_t offset);
/* An L2 table that may be changed is there. */
int qcow2_prepare(struct qcow2 *s, uint64_t offset);
int qcow2_entry_get(struct qcow2 *s, uint64_t offset, struct qcow2_entry *ret);
/* Gives up what the entry named before. */
int qcow2_entry_set(struct qcow2 *s, uint64_t offset, struct qcow2_entry entry);
bool qcow2_entry_cluster(const struct qcow2 *s, uint64_t entry, uint64_t *ret_host);
enum qcow2_kind qcow2_entry_kind(const struct qcow2 *s, struct qcow2_entry e, unsigned sub);
/* Clusters that a compressed entry touches. */
void qcow2_compressed_span(const struct qcow2 *s, uint64_t entry, uint64_t *ret_at,
			   uint64_t *ret_len);

/* ---- data.c ---- */
int qcow2_read(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *to);
int qcow2_write(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *from);
int qcow2_write_zeroes(struct qcow2 *s, uint64_t offset, uint64_t len, bool unmap);
int qcow2_discard(struct qcow2 *s, uint64_t offset, uint64_t len);
/* Whole clusters, behind the end of the disk as well, are absent. */
int qcow2_drop(struct qcow2 *s, uint64_t offset, uint64_t len);

/* ---- resize.c ---- */
int qcow2_resize(struct qcow2 *s, uint64_t bytes);
/* s->meta held. The active L1 table becomes @entries, durably, at another place. The old one's
 * clusters are given up. */
int qcow2_l1_switch(struct qcow2 *s, const uint64_t *entries, uint32_t count);

/* ---- check.c ---- */
/* All counts anew, from what refers to what. */
int qcow2_rebuild(struct qcow2 *s);

/* ---- snapshot.c ---- */
struct qcow2_snapshot_table {
	uint64_t offset;  /* of its L1 table */
	uint32_t entries;
	uint32_t extra, id, name; /* bytes of each */
	size_t at, len;	  /* of its entry, in the table of snapshots */
};

/* struct qcow2_snapshot_table of each, and the size of the table of snapshots. */
int qcow2_snapshot_tables(struct qcow2 *s, GArray **ret_list, uint64_t *ret_bytes);
/* Write a whole header, durably; s->h stays as it is. -ENOSPC: it does not fit, or what lies behind
 * the first 4 KiB would not stay. */
int qcow2_header_replace(struct qcow2 *s, const struct qcow2_header *h);

/* ---- marks.c ---- */
/* So fine, or as fine as @limit_bytes of memory let it be. */
int qcow2_marks_init(struct qcow2_marks *m, uint64_t size_bytes, unsigned shift,
		     uint64_t limit_bytes);
void qcow2_marks_fini(struct qcow2_marks *m);
/* What lies behind the end of the disk is left out. */
void qcow2_marks_set(struct qcow2_marks *m, uint64_t offset, uint64_t len);
/* The first bytes in a row that are marked, within [@from, @to). False: none are. */
bool qcow2_marks_next(const struct qcow2_marks *m, uint64_t from, uint64_t to, uint64_t *ret_from,
		      uint64_t *ret_to);
/* Bits [@first, @last]; and the first in a row that are set, within [@from, @count). */
void qcow2_bits_set(uint8_t *bits, uint64_t first, uint64_t last);
bool qcow2_bits_run(const uint8_t *bits, uint64_t from, uint64_t count, uint64_t *ret_first,
		    uint64_t *ret_end);

/* ---- bitmap_dir.c ---- */
void qcow2_bitmap_free(void *bitmap);
/* What the file has. A sentence with the path when that cannot be. */
bool qcow2_bitmap_dir_load(struct qcow2 *s, GPtrArray **ret_list, GError **err);
/* It describes this disk, and we know how. */
bool qcow2_bitmap_is_usable(const struct qcow2_bitmap *b);
struct qcow2_bitmap *qcow2_bitmap_find(const GPtrArray *list, const char *name);
/* Bits that a disk of so many bytes has, and clusters of them. */
uint64_t qcow2_bitmap_bits(uint64_t size_bytes, unsigned shift);
uint64_t qcow2_bitmap_clusters(const struct qcow2 *s, uint64_t size_bytes, unsigned shift);
/* False: an entry of a bitmap table that means nothing. */
bool qcow2_bitmap_entry_is_sound(const struct qcow2 *s, uint64_t entry);
/* Flags have changed, nothing else: in place, durably. */
int qcow2_bitmap_dir_flags(struct qcow2 *s, const GPtrArray *list);
/* Another directory, elsewhere, which the header names durably. Counts are durable before. The old
 * one is given up, as qcow2_free() does it. */
int qcow2_bitmap_dir_switch(struct qcow2 *s, const GPtrArray *list);
/* Nobody believes them any more; the header says so durably. */
int qcow2_bitmap_dir_drop(struct qcow2 *s);

/* ---- bitmap.c ---- */
/* Of an image that will be written to. */
bool qcow2_bitmaps_open(struct qcow2 *s, GError **err);
void qcow2_bitmaps_fini(struct qcow2 *s);
/* Marks of nothing for those that are to be kept true. Nobody uses them. */
int qcow2_bitmaps_start(struct qcow2 *s);
/* In a request's fiber, without s->meta, before anything changes. */
int qcow2_bitmaps_note(struct qcow2 *s, uint64_t offset, uint64_t len);
/* s->meta held: they are as true in the file as they are here, and nobody uses them. */
int qcow2_bitmaps_settle(struct qcow2 *s);
/* Around a change of the size, or of all that is in the disk. @r: how it went; the result of both.
 */
int qcow2_bitmaps_detach(struct qcow2 *s);
int qcow2_bitmaps_refit(struct qcow2 *s, bool all_changed, int r);
/* s->meta held; it is in use, durably. What is marked is set in it. Durable with the next flush. */
int qcow2_bitmap_add_marks(struct qcow2 *s, struct qcow2_bitmap *b, const struct qcow2_marks *m);
/* Another table of @entries, zeros where there are no more of @from. It is named by the next
 * directory. What @b had of clusters is the caller's to give up. */
int qcow2_bitmap_new_table(struct qcow2 *s, struct qcow2_bitmap *b, const uint64_t *from,
			   uint32_t count, uint32_t entries);
/* Nothing refers to the table that lies there, and to its clusters, any more. */
void qcow2_bitmap_give_up(struct qcow2 *s, uint64_t table_offset, const uint64_t *entries,
			  uint32_t count, bool clusters);

/* ---- bitmap_ops.c ---- */
/* What is set in one that is usable is marked. */
int qcow2_bitmap_read(struct qcow2 *s, const struct qcow2_bitmap *b, struct qcow2_marks *to);

/* ---- compress.c ---- */
/* One compressed cluster: all its bytes, the image's until the next wait. Without s->meta. */
int qcow2_unpack(struct qcow2 *s, uint64_t entry, const uint8_t **ret_bytes);
/* What packing keeps. */
void qcow2_compress_fini(struct qcow2 *s);
/* One whole cluster. 1: it does not get smaller, write it as it is. */
int qcow2_write_packed(struct qcow2 *s, uint64_t offset, struct segments *from, uint64_t len);
