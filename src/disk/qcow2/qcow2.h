// SPDX-License-Identifier: Apache-2.0
/*
 * qcow2.h - what can be done with a qcow2 image beside reading and writing it.
 *
 * For programs, not for machines that run: calls wait, and no request may be under way. Each disk
 * given was opened by disk_open_options() and its format is "qcow2". Results are 0 or -errno.
 */
#pragma once

#include "disk/disk.h"

enum disk_prealloc {
	DISK_PREALLOC_OFF,
	DISK_PREALLOC_METADATA, /* the tables */
	DISK_PREALLOC_FALLOC,	/* and the file's room */
	DISK_PREALLOC_FULL,	/* and zeros written to it */
};

struct qcow2_create {
	uint64_t size_bytes;
	unsigned version;	 /* 2 or 3 */
	uint64_t cluster_bytes;	 /* a power of two, 512 to 2 MiB */
	unsigned refcount_bits;	 /* a power of two, 1 to 64 */
	bool zstd, lazy_refcounts, extended_l2;
	const char *backing;	 /* as it is to be written; NULL: none */
	const char *backing_format;
	const char *data_file;	 /* NULL: none */
	bool data_file_raw;
	enum disk_prealloc prealloc;
};

/* @file: an empty file that may be written. An error is one sentence. */
bool qcow2_create(struct disk *file, const struct qcow2_create *o, GError **err);
bool qcow2_create_file(const char *path, const struct qcow2_create *o, struct loop *loop,
		       GError **err);
/* Give all clusters their place. */
int qcow2_preallocate(struct disk *disk, enum disk_prealloc how);
/* The bytes of a file that holds @data_bytes of data in whole clusters. */
uint64_t qcow2_measure(const struct qcow2_create *o, uint64_t data_bytes);

/* Strings are the disk's. */
struct qcow2_info {
	unsigned version, refcount_bits, snapshot_count;
	uint64_t cluster_bytes;
	bool zstd, lazy_refcounts, extended_l2, dirty, corrupt, data_file_raw;
	const char *backing, *backing_format, *data_file;
};

void qcow2_get_info(const struct disk *disk, struct qcow2_info *ret);
/* The image below, or NULL. */
struct disk *qcow2_backing(const struct disk *disk);
/* Name another backing image, or with NULL none. What is read changes, unless the caller has
 * copied what differs. -ENOSPC: the name does not fit the header. */
int qcow2_set_backing(struct disk *disk, const char *name, const char *format);

struct qcow2_check {
	uint64_t errors;  /* what may lose data */
	uint64_t leaks;	  /* clusters that nobody uses and that are not free */
	uint64_t clusters_used, clusters_total, compressed; /* of the disk */
	uint64_t end_bytes; /* of the last cluster in use */
	bool repaired;
};

/* @tell: one line for each of the first findings; may be NULL. */
int qcow2_check(struct disk *disk, bool repair, void (*tell)(void *arg, const char *line), void *arg,
		struct qcow2_check *ret);

struct qcow2_snapshot {
	char *id, *name;
	uint64_t size_bytes;   /* of the disk */
	uint64_t vm_bytes;     /* of a machine's state */
	uint32_t seconds, nanoseconds; /* since 1970 */
	uint64_t vm_clock_ns;
};

/* Caller frees with g_ptr_array_unref(); struct qcow2_snapshot. */
int qcow2_snapshots(struct disk *disk, GPtrArray **ret);
/* -EEXIST: there is one of that name. -ENOENT: there is none of that name, or number. */
int qcow2_snapshot_create(struct disk *disk, const char *name, uint32_t seconds,
			  uint32_t nanoseconds);
int qcow2_snapshot_apply(struct disk *disk, const char *name);
int qcow2_snapshot_delete(struct disk *disk, const char *name);
/* Read from now on what the snapshot holds, without changing the image. The disk is read-only, else -EINVAL. */
int qcow2_snapshot_show(struct disk *disk, const char *name);

/* ---- bitmaps of changed blocks: an error is one sentence with the path ---- */

struct qcow2_bitmap_info {
	char *name;
	uint64_t granularity; /* bytes to a bit */
	bool enabled;	      /* each change is marked */
	bool inconsistent;    /* was not stored when it was used last: can only be removed */
	bool foreign;	      /* has something that nobody here knows: kept as it is */
};

/* Caller frees with g_ptr_array_unref(); struct qcow2_bitmap_info. None for another format. */
bool qcow2_bitmaps(struct disk *disk, GPtrArray **ret, GError **err);
/* @granularity: 0: the default. */
bool qcow2_bitmap_add(struct disk *disk, const char *name, uint64_t granularity, bool enabled, GError **err);
bool qcow2_bitmap_remove(struct disk *disk, const char *name, GError **err);
bool qcow2_bitmap_clear(struct disk *disk, const char *name, GError **err);
bool qcow2_bitmap_enable(struct disk *disk, const char *name, bool enabled, GError **err);
/* What is set in @from_name of @from, which may be @disk, is set in @name as well. */
bool qcow2_bitmap_merge(struct disk *disk, const char *name, struct disk *from, const char *from_name,
			GError **err);
/* Bytes of a file that bitmaps of @disk, those that can be copied, take in one with such clusters. */
bool qcow2_bitmaps_measure(struct disk *disk, uint64_t cluster_bytes, uint64_t *ret, GError **err);
