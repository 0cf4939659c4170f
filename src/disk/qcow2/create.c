// SPDX-License-Identifier: Apache-2.0
/* create.c - making a qcow2 image: header, empty tables, and preallocation. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "disk/qcow2/qcow2_int.h"

static bool is_power_in(uint64_t v, uint64_t from, uint64_t to)
{
	return v >= from && v <= to && (v & (v - 1)) == 0;
}

static bool refuse(GError **err, const char *why)
{
	g_set_error_literal(err, BASE_ERROR, EINVAL, why);
	return false;
}

static bool check_options(const struct qcow2_create *o, GError **err)
{
	if (o->version != 2 && o->version != 3)
		return refuse(err, "the version of a qcow2 image is 2 or 3");
	if (!is_power_in(o->cluster_bytes, 512, 2u << 20))
		return refuse(err, "clusters are a power of two from 512 bytes to 2 MiB");
	if (!is_power_in(o->refcount_bits, 1, 64))
		return refuse(err, "reference counts have 1, 2, 4, 8, 16, 32 or 64 bits");
	if (o->version == 2 && (o->refcount_bits != 16 || o->zstd || o->lazy_refcounts ||
				o->extended_l2 || o->data_file))
		return refuse(err, "version 2 has none of these features; take version 3");
	if (o->extended_l2 && o->cluster_bytes < 16384)
		return refuse(err, "extended L2 entries need clusters of at least 16 KiB");
	if (o->data_file_raw && (!o->data_file || o->backing))
		return refuse(err, "a raw data file goes with a data file and without a backing image");
	if (o->backing && o->prealloc != DISK_PREALLOC_OFF)
		return refuse(err, "what is preallocated would hide the backing image");
	return true;
}

/* In clusters: header, table of blocks, blocks, L1. */
struct plan {
	uint64_t table, blocks, l1, l1_entries;
};

static struct plan make_plan(const struct qcow2_create *o)
{
	uint64_t c = o->cluster_bytes, per_block = c * 8 / o->refcount_bits;
	uint64_t span = c * (c / (o->extended_l2 ? 16 : 8)), total, old = 0;
	struct plan p = { .l1_entries = o->size_bytes / span + (o->size_bytes % span != 0) };

	p.l1 = (p.l1_entries * 8 + c - 1) / c;
	p.l1 = p.l1 ? p.l1 : 1;
	p.table = p.blocks = 1;
	for (;;) {
		total = 1 + p.table + p.blocks + p.l1;
		if (total == old)
			return p;
		old = total;
		p.blocks = (total + per_block - 1) / per_block;
		p.table = (p.blocks * 8 + c - 1) / c;
	}
}

static unsigned log2_of(uint64_t v)
{
	return (unsigned)__builtin_ctzll(v);
}

static struct qcow2_header make_header(const struct qcow2_create *o, const struct plan *p)
{
	struct qcow2_header h = {
		.version = o->version,
		.cluster_bits = log2_of(o->cluster_bytes),
		.refcount_order = log2_of(o->refcount_bits),
		.compression = o->zstd ? QCOW2_ZSTD : QCOW2_ZLIB,
		.size_bytes = o->size_bytes,
		.l1_entries = (uint32_t)p->l1_entries,
		.reftable_clusters = (uint32_t)p->table,
		.reftable_offset = o->cluster_bytes,
		.l1_offset = (1 + p->table + p->blocks) * o->cluster_bytes,
		.backing = (char *)o->backing,
		.backing_format = (char *)o->backing_format,
		.data_file = (char *)o->data_file,
	};

	h.incompatible = (o->zstd ? QCOW2_INCOMPAT_COMPRESSION : 0) |
			 (o->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0) |
			 (o->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0);
	h.compatible = o->lazy_refcounts ? QCOW2_COMPAT_LAZY : 0;
	h.autoclear = o->data_file_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0;
	return h;
}

/* All of it lies in one piece at the start of the file. */
static int write_tables(struct disk *file, const struct qcow2_create *o, const struct plan *p,
			uint8_t *bytes)
{
	uint64_t c = o->cluster_bytes, total = 1 + p->table + p->blocks + p->l1;
	unsigned order = log2_of(o->refcount_bits);

	for (uint64_t i = 0; i < p->blocks; i++)
		store_be64(bytes + c + i * 8, (1 + p->table + i) * c);
	for (uint64_t i = 0; i < total; i++)
		qcow2_ref_store(bytes + (1 + p->table) * c, i, order, 1);
	return disk_write_wait(file, bytes, total * c, 0);
}

bool qcow2_create(struct disk *file, const struct qcow2_create *o, GError **err)
{
	g_autofree uint8_t *bytes = NULL;
	struct qcow2_header h;
	struct plan p;
	uint64_t total;
	int r = -ENOMEM;

	if (!check_options(o, err))
		return false;
	if (o->size_bytes > (uint64_t)INT64_MAX - DISK_SECTOR_SIZE)
		return refuse(err, "a disk has less than 2^63 bytes");
	p = make_plan(o);
	if (p.l1_entries > QCOW2_MAX_L1_BYTES / 8)
		return refuse(err, "the disk is too large for clusters of that size; take larger ones");
	total = (1 + p.table + p.blocks + p.l1) * o->cluster_bytes;
	h = make_header(o, &p);
	bytes = g_try_malloc0(total);
	if (bytes)
		r = qcow2_header_write(&h, bytes, o->cluster_bytes);
	if (r == -ENOSPC)
		return refuse(err, "the names of the other files do not fit the header");
	if (r >= 0)
		r = write_tables(file, o, &p, bytes);
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r, "the tables cannot be written: %s", g_strerror(-r));
	return r == 0;
}

bool qcow2_create_file(const char *path, const struct qcow2_create *o, struct loop *loop,
		       GError **err)
{
	/* Who makes a file synchronizes it when all is in it. */
	const struct disk_options options = { .cache = DISK_CACHE_UNSAFE };
	struct disk *file = disk_file_open(path, &options, loop, err);
	bool made = file && qcow2_create(file, o, err);

	disk_close(file);
	return made;
}

/* s->meta is nobody's: this runs alone. */
static int preallocate_run(struct qcow2 *s, uint64_t offset, uint64_t *ret_end, uint64_t *ret_done)
{
	uint64_t left = qcow2_slice_left(s, offset), n, host, i;
	int r = qcow2_prepare(s, offset);

	if (left > s->disk.size_bytes - offset)
		left = s->disk.size_bytes - offset;
	n = (left + s->cluster_bytes - 1) >> s->h.cluster_bits;
	host = offset;
	if (r == 0 && !qcow2_has_data_file(s))
		r = qcow2_alloc(s, n, false, &host, &n);
	for (i = 0; i < n && r == 0; i++) {
		struct qcow2_entry e = { .entry = (host + i * s->cluster_bytes) | QCOW2_COPIED };

		if (qcow2_has_subclusters(s))
			e.bitmap = UINT32_MAX;
		r = qcow2_entry_set(s, offset + i * s->cluster_bytes, e);
	}
	if (host + n * s->cluster_bytes > *ret_end)
		*ret_end = host + n * s->cluster_bytes;
	*ret_done = n * s->cluster_bytes;
	return r;
}

static int write_full(struct disk *disk)
{
	static const uint8_t zeros[1u << 20];
	int r = 0;

	for (uint64_t at = 0; at < disk->size_bytes && r == 0; at += sizeof(zeros)) {
		uint64_t left = disk->size_bytes - at;

		r = disk_write_wait(disk, zeros, left < sizeof(zeros) ? left : sizeof(zeros), at);
	}
	return r;
}

int qcow2_preallocate(struct disk *disk, enum disk_prealloc how)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	uint64_t end = 0, done = 0;
	struct disk_req req = { .op = DISK_RESIZE };
	int r = 0;

	if (how == DISK_PREALLOC_OFF)
		return 0;
	for (uint64_t at = 0; at < disk->size_bytes && r == 0; at += done)
		r = preallocate_run(s, at, &end, &done);
	if (r == 0)
		r = qcow2_commit(s);
	/* A file that ends behind its last cluster. */
	req.offset = end;
	if (r == 0 && end > s->data->size_bytes)
		r = disk_run(s->data, &req);
	if (r == 0 && how == DISK_PREALLOC_FULL)
		r = write_full(disk);
	else if (r == 0 && how == DISK_PREALLOC_FALLOC)
		r = disk_file_allocate(s->data, 0, end);
	return r;
}

uint64_t qcow2_measure(const struct qcow2_create *o, uint64_t data_bytes)
{
	struct plan p = make_plan(o);
	uint64_t c = o->cluster_bytes, per_l2 = c / (o->extended_l2 ? 16 : 8);
	uint64_t per_block = c * 8 / o->refcount_bits;
	uint64_t data = (data_bytes + c - 1) / c, disk = (o->size_bytes + c - 1) / c;
	/* At worst every table of the disk is needed, at best only as many as hold the data. */
	uint64_t tables = (disk + per_l2 - 1) / per_l2;
	uint64_t total, blocks = 1, table = 1, old = 0;

	tables = data < tables ? data : tables;
	for (;;) {
		total = 1 + p.l1 + tables + data + blocks + table;
		if (total == old)
			return total * c;
		old = total;
		blocks = (total + per_block - 1) / per_block;
		table = (blocks * 8 + c - 1) / c;
	}
}
