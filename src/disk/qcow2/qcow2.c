// SPDX-License-Identifier: Apache-2.0
/* qcow2.c - qcow2 images: opening, closing, and what becomes of a request (qcow2_int.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "disk/qcow2/qcow2_int.h"

#define L2_CACHE_BYTES	(16u << 20)
#define REF_CACHE_BYTES (4u << 20)
#define MAX_UNIT_BYTES	(64u << 10)

/* ---- requests below ---- */

int qcow2_io(struct qcow2 *s, struct disk *disk, struct disk_req *req)
{
	/* Who submits to us kicks, and we hand it on; otherwise nobody would. */
	return serving_run(&s->serving, disk, req);
}

static int file_io(struct qcow2 *s, enum disk_op op, void *buf, uint64_t len, uint64_t offset)
{
	return serving_io(&s->serving, s->file, op, buf, len, offset);
}

int qcow2_file_read(struct qcow2 *s, void *buf, uint64_t len, uint64_t offset)
{
	return file_io(s, DISK_READ, buf, len, offset);
}

int qcow2_file_write(struct qcow2 *s, const void *buf, uint64_t len, uint64_t offset)
{
	return file_io(s, DISK_WRITE, (void *)buf, len, offset);
}

int qcow2_file_flush(struct qcow2 *s)
{
	int r = file_io(s, DISK_FLUSH, NULL, 0, 0);

	/* The kernel tells once that it could not write, and then counts the pages as written. */
	if (r < 0)
		s->broken = true;
	return r;
}

int qcow2_file_write_flush(struct qcow2 *s, const void *buf, uint64_t len, uint64_t offset)
{
	int r = qcow2_file_write(s, buf, len, offset);

	return r == 0 ? qcow2_file_flush(s) : r;
}

int qcow2_header_name(struct qcow2 *s, const void *field, uint64_t len, uint64_t offset)
{
	int r = qcow2_file_write_flush(s, field, len, offset);

	if (r < 0)
		s->broken = true;
	return r;
}

static int set_features(struct qcow2 *s, uint64_t at, uint64_t *have, uint64_t features)
{
	uint8_t field[8];
	int r;

	store_be64(field, features);
	r = qcow2_file_write_flush(s, field, sizeof(field), at);
	/* What failed may have been done or not: nobody may rely on a mark that is perhaps not there. */
	*have = r == 0 ? features : *have & features;
	return r;
}

int qcow2_set_incompatible(struct qcow2 *s, uint64_t features)
{
	return set_features(s, QCOW2_AT_INCOMPAT, &s->h.incompatible, features);
}

int qcow2_set_autoclear(struct qcow2 *s, uint64_t features)
{
	return set_features(s, QCOW2_AT_AUTOCLEAR, &s->h.autoclear, features);
}

int qcow2_corrupt(struct qcow2 *s, const char *what, uint64_t offset)
{
	if (!s->broken)
		log_guest("disk '%s': damaged, has %s (%#llx); check it with: sika image check",
			  s->disk.path, what, (unsigned long long)offset);
	/* Marked before anything else happens to it; an image of version 2 has no mark. */
	if (!s->broken && !s->disk.readonly && s->h.version >= 3 &&
	    !(s->h.incompatible & QCOW2_INCOMPAT_CORRUPT)) {
		s->broken = true;
		(void)qcow2_set_incompatible(s, s->h.incompatible | QCOW2_INCOMPAT_CORRUPT);
	}
	s->broken = true;
	return -EIO;
}

/* ---- requests ---- */

static int map(struct qcow2 *s, struct disk_req *req)
{
	struct disk_req below = { .op = DISK_MAP, .offset = req->offset };
	struct qcow2_extent e;
	int r = qcow2_lookup(s, req->offset, req->len, &e);

	if (r < 0)
		return r;
	req->map = (struct disk_map){ .len = e.len, .host_offset = DISK_NO_OFFSET };
	req->map.state = e.kind == QCOW2_K_DATA	      ? DISK_DATA :
			 e.kind == QCOW2_K_ZERO	      ? DISK_ZERO :
			 e.kind == QCOW2_K_COMPRESSED ? DISK_COMPRESSED :
							DISK_ABSENT;
	if (e.kind == QCOW2_K_DATA)
		req->map.host_offset = e.host;
	if (e.kind != QCOW2_K_ABSENT || !s->backing || req->offset >= s->backing->size_bytes)
		return 0;
	below.len = s->backing->size_bytes - req->offset;
	below.len = e.len < below.len ? e.len : below.len;
	r = qcow2_io(s, s->backing, &below);
	if (r == 0) {
		req->map = below.map;
		req->map.depth++;
	}
	return r;
}

static int write_data(struct qcow2 *s, struct disk_req *req, struct segments *v)
{
	bool whole = !(req->offset & (s->cluster_bytes - 1)) && req->len <= s->cluster_bytes &&
		     (req->len == s->cluster_bytes ||
		      req->offset + req->len == s->disk.size_bytes);
	struct range range = { .first = req->offset >> s->h.cluster_bits, .alone = true };
	int r;

	if (!req->compress || !whole || qcow2_has_data_file(s))
		return qcow2_write(s, req->offset, req->len, v);
	range.last = range.first;
	range_enter(&s->serving.fibers, &s->ranges, &range);
	r = qcow2_write_packed(s, req->offset, v, req->len);
	range_leave(&s->ranges, &range);
	return r == 1 ? qcow2_write(s, req->offset, req->len, v) : r;
}

static int flush(struct qcow2 *s)
{
	int r;

	fiber_lock(&s->serving.fibers, &s->meta);
	r = qcow2_commit(s);
	fiber_unlock(&s->meta);
	return r;
}

static int serve(struct disk *disk, struct disk_req *req)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	struct segments v = { req->iov, req->iov_count, 0 };

	int r;

	if (s->broken && req->op != DISK_READ && req->op != DISK_MAP)
		return -EIO;
	if (req->op == DISK_WRITE || req->op == DISK_DISCARD || req->op == DISK_WRITE_ZEROES) {
		r = qcow2_bitmaps_note(s, req->offset, req->len);
		if (r < 0)
			return r;
	}
	switch (req->op) {
	case DISK_READ:
		return qcow2_read(s, req->offset, req->len, &v);
	case DISK_WRITE:
		return write_data(s, req, &v);
	case DISK_FLUSH:
		return s->disk.readonly ? 0 : flush(s);
	case DISK_DISCARD:
		return qcow2_discard(s, req->offset, req->len);
	case DISK_WRITE_ZEROES:
		return qcow2_write_zeroes(s, req->offset, req->len, req->unmap);
	case DISK_MAP:
		return map(s, req);
	case DISK_RESIZE:
		return qcow2_resize(s, req->offset);
	}
	return -EOPNOTSUPP;
}

static void qcow2_submit(struct disk *disk, struct disk_req *req)
{
	serving_submit(&((struct qcow2 *)disk)->serving, serve, disk, req);
}

static void each_below(struct disk *disk, void (*fn)(struct disk *below))
{
	struct qcow2 *s = (struct qcow2 *)disk;

	fn(s->file);
	if (qcow2_has_data_file(s))
		fn(s->data);
	if (s->backing)
		fn(s->backing);
}

static void qcow2_kick(struct disk *disk)
{
	each_below(disk, disk_kick);
}

static void drain_each(struct disk *disk, void (*fn)(struct disk *below))
{
	struct qcow2 *s = (struct qcow2 *)disk;

	each_below(disk, fn);
	if (s->work)
		work_drain(s->work);
}

static void qcow2_drain(struct disk *disk)
{
	serving_drain(&((struct qcow2 *)disk)->serving, disk, drain_each);
}

/* ---- closing and opening ---- */

static void finish(struct qcow2 *s)
{
	int r = qcow2_commit(s);

	if (r == 0)
		(void)qcow2_bitmaps_settle(s); /* which tells of it */
	/* A flush that failed in there may have lost counts as well. */
	if (s->broken)
		r = -EIO;
	/* Freed clusters have changed counts behind the last step. */
	if (r == 0)
		r = qcow2_cache_write(s, &s->refs);
	if (r == 0)
		r = qcow2_file_flush(s);
	if (r == 0 && (s->h.incompatible & QCOW2_INCOMPAT_DIRTY))
		r = qcow2_set_incompatible(s, s->h.incompatible & ~QCOW2_INCOMPAT_DIRTY);
	if (r < 0)
		log_warn("disk '%s': its tables could not be written: %s; check it with: sika "
			 "image check",
			 s->disk.path, g_strerror(-r));
}

static void qcow2_close(struct disk *disk)
{
	struct qcow2 *s = (struct qcow2 *)disk;

	if (!disk->readonly && !s->broken && s->l1 && !disk->abandoned)
		finish(s);
	serving_fini(&s->serving);
	qcow2_cache_fini(&s->l2);
	qcow2_cache_fini(&s->refs);
	qcow2_bitmaps_fini(s);
	if (s->freed)
		g_array_unref(s->freed);
	if (s->data && s->data != s->file)
		disk_close(s->data);
	disk_close(s->backing);
	disk_over_fini(disk);
	qcow2_header_fini(&s->h);
	qcow2_compress_fini(s);
	g_free(s->l1);
	g_free(s->reftable);
	g_free(s);
}

static const struct disk_ops qcow2_ops = {
	.submit = qcow2_submit,
	.kick = qcow2_kick,
	.drain = qcow2_drain,
	.close = qcow2_close,
};

static bool fail(const struct qcow2 *s, int error, GError **err, const char *what)
{
	g_set_error(err, BASE_ERROR, error, "disk '%s': %s: %s", s->disk.path, what,
		    g_strerror(error));
	return false;
}

static bool refuse(const struct qcow2 *s, GError **err, const char *why)
{
	g_set_error(err, BASE_ERROR, ENOTSUP, "disk '%s': %s", s->disk.path, why);
	return false;
}

static bool load_header(struct qcow2 *s, GError **err)
{
	uint8_t head[QCOW2_HEADER_V3];
	g_autofree uint8_t *cluster = NULL;
	g_autoptr(GError) why = NULL;
	size_t len;
	int r = disk_read_wait(s->file, head, sizeof(head), 0);

	len = r < 0 ? 0 : qcow2_header_cluster_bytes(head, sizeof(head));
	len = len ? len : 512;
	cluster = g_try_malloc(len);
	if (!cluster)
		r = -ENOMEM;
	if (r == 0)
		r = disk_read_wait(s->file, cluster, len, 0);
	if (r < 0)
		return fail(s, -r, err, "cannot be read");
	if (!qcow2_header_parse(cluster, len, &s->h, &why)) {
		g_set_error(err, BASE_ERROR, why->code, "disk '%s': %s", s->disk.path, why->message);
		return false;
	}
	return true;
}

static bool check_writable(struct qcow2 *s, bool repair, GError **err)
{
	if (s->disk.readonly)
		return true;
	if ((s->h.incompatible & QCOW2_INCOMPAT_CORRUPT) && !repair)
		return refuse(s, err,
			      "is marked as damaged; repair it with: sika image check --repair "
			      "(or read it with 'readonly')");
	return true;
}

static void set_geometry(struct qcow2 *s)
{
	bool sub = s->h.incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
	size_t unit;

	s->cluster_bytes = 1ull << s->h.cluster_bits;
	unit = s->cluster_bytes < MAX_UNIT_BYTES ? s->cluster_bytes : MAX_UNIT_BYTES;
	s->entry_bytes = sub ? 16 : 8;
	s->l2_bits = s->h.cluster_bits - (sub ? 4 : 3);
	s->sub_bits = s->h.cluster_bits - (sub ? 5 : 0);
	s->disk.size_bytes = align_up(s->h.size_bytes, DISK_SECTOR_SIZE);
	s->lazy = s->h.compatible & QCOW2_COMPAT_LAZY;
	qcow2_cache_init(&s->l2, unit, L2_CACHE_BYTES);
	qcow2_cache_init(&s->refs, unit, REF_CACHE_BYTES);
	s->freed = g_array_new(FALSE, FALSE, sizeof(struct qcow2_span));
}

int qcow2_load_table(struct qcow2 *s, uint64_t offset, uint64_t count, uint64_t **ret)
{
	g_autofree uint64_t *table = g_try_malloc0(count ? count * 8 : 8);
	int r = table ? 0 : -ENOMEM;

	if (r == 0 && count)
		r = qcow2_file_read(s, table, count * 8, offset);
	for (uint64_t i = 0; i < count && r == 0; i++)
		table[i] = load_be64(&table[i]);
	if (r == 0)
		*ret = g_steal_pointer(&table);
	return r;
}

static bool load_tables(struct qcow2 *s, GError **err)
{
	int r;

	s->reftable_entries = (uint32_t)(s->h.reftable_clusters * (s->cluster_bytes / 8));
	/* Who only reads needs no counts. */
	r = qcow2_load_table(s, s->h.reftable_offset, s->reftable_entries, &s->reftable);
	for (uint32_t i = 0; r == 0 && i < s->reftable_entries; i++)
		s->reftable[i] &= ~511ull;
	if (r == 0)
		r = qcow2_load_table(s, s->h.l1_offset, s->h.l1_entries, &s->l1);
	return r == 0 || fail(s, -r, err, "its tables cannot be read");
}

static bool open_others(struct qcow2 *s, const struct disk_options *o, struct loop *loop,
			const struct disk_chain *chain, GError **err)
{
	struct disk_options below = *o;

	s->data = s->file;
	if (s->h.incompatible & QCOW2_INCOMPAT_DATA_FILE) {
		struct disk *data = disk_open_named(s->disk.path, s->h.data_file, "data file",
						    "file", o, loop, chain, err);

		if (!data)
			return false;
		s->data = data;
	}
	if (!s->h.backing || o->no_backing)
		return true;
	below.readonly = true;
	below.repair = false;
	s->backing = disk_open_named(s->disk.path, s->h.backing, "backing file",
				     s->h.backing_format, &below, loop, chain, err);
	return s->backing != NULL;
}

/* What must be done to the file before it is written to. */
static bool prepare_writing(struct qcow2 *s, GError **err)
{
	uint64_t known = QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
	int r = 0;

	if (!s->h.bitmaps_at)
		known &= ~QCOW2_AUTOCLEAR_BITMAPS;
	if (!qcow2_bitmaps_open(s, err))
		return false;
	if (s->h.autoclear & ~known)
		r = qcow2_set_autoclear(s, s->h.autoclear & known);
	if (r == 0 && (s->h.incompatible & QCOW2_INCOMPAT_DIRTY)) {
		log_info("disk '%s': was not closed; its reference counts are made anew",
			 s->disk.path);
		r = qcow2_rebuild(s);
	}
	return r == 0 || fail(s, -r, err, "cannot be made ready for writing");
}

struct disk *qcow2_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err)
{
	struct qcow2 *s = g_new0(struct qcow2, 1);

	disk_over_init(&s->disk, &qcow2_ops, file);
	s->disk.format = "qcow2";
	s->disk.growable = false;
	s->disk.can_discard = !file->readonly;
	s->file = file;
	s->loop = loop;
	if (!load_header(s, err) || !check_writable(s, o->repair, err))
		goto err;
	set_geometry(s);
	if (!load_tables(s, err) || !open_others(s, o, loop, chain, err))
		goto err;
	if (!file->readonly && !o->repair && !prepare_writing(s, err))
		goto err;
	return &s->disk;

err:
	s->disk.readonly = true; /* nothing is to be written any more */
	qcow2_close(&s->disk);
	return NULL;
}
