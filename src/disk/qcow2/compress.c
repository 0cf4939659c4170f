// SPDX-License-Identifier: Apache-2.0
/*
 * compress.c - compressed clusters of qcow2 images.
 *
 * They lie one behind the other without regard for clusters of the file, each of which counts
 * the compressed ones that touch it. Deflate streams have no header and a window of 4 KiB.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "disk/qcow2/qcow2_int.h"

#define DEFLATE_WINDOW (-12)

static bool inflate_cluster(const uint8_t *from, size_t from_len, uint8_t *to, size_t to_len)
{
	z_stream z = { .next_in = (Bytef *)from, .avail_in = (uInt)from_len, .next_out = to,
		       .avail_out = (uInt)to_len };
	int r;

	if (inflateInit2(&z, DEFLATE_WINDOW) != Z_OK)
		return false;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* Behind the stream there may be bytes of something else. */
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0;
}

static bool unzstd_cluster(ZSTD_DCtx *d, const uint8_t *from, size_t from_len, uint8_t *to,
			   size_t to_len)
{
	ZSTD_inBuffer in = { from, from_len, 0 };
	ZSTD_outBuffer out = { to, to_len, 0 };
	bool going = d != NULL;

	if (d)
		ZSTD_DCtx_reset(d, ZSTD_reset_session_only);
	while (going && out.pos < out.size) {
		size_t in_was = in.pos, out_was = out.pos;
		size_t r = ZSTD_decompressStream(d, &out, &in);

		going = !ZSTD_isError(r) && (in.pos != in_was || out.pos != out_was);
	}
	return out.pos == out.size;
}

/* 0: it does not get smaller. */
static size_t deflate_cluster(const uint8_t *from, size_t len, uint8_t *to)
{
	z_stream z = { .next_in = (Bytef *)from, .avail_in = (uInt)len, .next_out = to,
		       .avail_out = (uInt)len - 1 };
	int r;

	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, DEFLATE_WINDOW, 9,
			 Z_DEFAULT_STRATEGY) != Z_OK)
		return 0;
	r = deflate(&z, Z_FINISH);
	deflateEnd(&z);
	return r == Z_STREAM_END ? z.total_out : 0;
}

static size_t zstd_cluster(ZSTD_CCtx *c, const uint8_t *from, size_t len, uint8_t *to)
{
	size_t n = c ? ZSTD_compressCCtx(c, to, len - 1, from, len, 3) : 0;

	return ZSTD_isError(n) ? 0 : n;
}

/* What zstd works with, which takes long to make. One job at a time has it. */
struct qcow2_packer {
	ZSTD_CCtx *pack;
	ZSTD_DCtx *unpack;
	struct qcow2_packer *next;
};

struct job {
	bool zstd, pack;
	struct qcow2_packer *packer; /* with zstd */
	const uint8_t *from;
	size_t from_len;
	uint8_t *to;
	size_t to_len;
	size_t packed; /* bytes; 0: it does not get smaller */
	bool ok;
};

/* In any thread. */
static void do_job(void *arg)
{
	struct job *j = arg;

	if (j->pack && !j->zstd) {
		j->packed = deflate_cluster(j->from, j->from_len, j->to);
	} else if (j->pack) {
		if (!j->packer->pack)
			j->packer->pack = ZSTD_createCCtx();
		j->packed = zstd_cluster(j->packer->pack, j->from, j->from_len, j->to);
	} else if (!j->zstd) {
		j->ok = inflate_cluster(j->from, j->from_len, j->to, j->to_len);
	} else {
		if (!j->packer->unpack)
			j->packer->unpack = ZSTD_createDCtx();
		j->ok = unzstd_cluster(j->packer->unpack, j->from, j->from_len, j->to, j->to_len);
	}
}

static int run_job(struct qcow2 *s, struct job *j)
{
	j->zstd = s->h.compression == QCOW2_ZSTD;
	j->packer = s->packers;
	if (j->packer)
		s->packers = j->packer->next;
	else if (!(j->packer = g_try_new0(struct qcow2_packer, 1)))
		return -ENOMEM;
	if (!s->work)
		s->work = work_pool_new(s->loop); /* without one it takes place here */
	work_run(s->work, &s->serving.fibers, do_job, j);
	j->packer->next = s->packers;
	s->packers = j->packer;
	return 0;
}

void qcow2_compress_fini(struct qcow2 *s)
{
	struct qcow2_packer *p;

	while ((p = s->packers)) {
		s->packers = p->next;
		ZSTD_freeCCtx(p->pack);
		ZSTD_freeDCtx(p->unpack);
		g_free(p);
	}
	work_pool_free(s->work);
	g_free(s->unpacked);
}

int qcow2_unpack(struct qcow2 *s, uint64_t entry, const uint8_t **ret_bytes)
{
	g_autofree uint8_t *packed = NULL, *bytes = NULL;
	uint64_t at, len, before = s->packed_count;
	struct job job = { 0 };
	int r;

	*ret_bytes = s->unpacked;
	if (s->unpacked && s->unpacked_entry == entry)
		return 0;
	qcow2_compressed_span(s, entry, &at, &len);
	packed = g_try_malloc(len);
	bytes = g_try_malloc(s->cluster_bytes);
	if (!packed || !bytes)
		return -ENOMEM;
	r = qcow2_file_read(s, packed, len, at);
	if (r < 0)
		return r;
	job.from = packed;
	job.from_len = len;
	job.to = bytes;
	job.to_len = s->cluster_bytes;
	r = run_job(s, &job);
	if (r < 0 || !job.ok)
		return r < 0 ? r : -EIO;
	g_free(s->unpacked);
	*ret_bytes = s->unpacked = g_steal_pointer(&bytes);
	s->unpacked_entry = s->packed_count == before ? entry : 0;
	return 0;
}

/* Behind the last one where that cluster of the file may count one more, else in new clusters. */
static int alloc_packed(struct qcow2 *s, size_t len, uint64_t *ret_at)
{
	uint64_t at = s->packed_at, c = s->cluster_bytes, left = 0, refs, fresh, n;
	int r;

	if (at & (c - 1)) {
		r = qcow2_ref_get(s, at >> s->h.cluster_bits, &refs);
		if (r < 0)
			return r;
		if (refs > 0 && refs < qcow2_ref_max(s))
			left = c - (at & (c - 1));
	}
	if (left < len) {
		/* A cluster is longer than what is packed of one, so one more is enough. */
		r = qcow2_alloc(s, 1, true, &fresh, &n);
		if (r < 0)
			return r;
		if (left == 0 || fresh != at + left) {
			*ret_at = fresh;
			s->packed_at = fresh + len;
			return 0;
		}
	}
	r = qcow2_ref_add(s, at >> s->h.cluster_bits, 1);
	if (r < 0)
		return r;
	*ret_at = at;
	s->packed_at = at + len;
	return 0;
}

static int name_packed(struct qcow2 *s, uint64_t offset, uint64_t at, size_t len)
{
	unsigned shift = 62 - (s->h.cluster_bits - 8);
	uint64_t sectors = ((at & 511) + len + 511) / 512;
	struct qcow2_entry e = { .entry = QCOW2_COMPRESSED | (sectors - 1) << shift | at };

	return qcow2_entry_set(s, offset, e);
}

/* s->meta held. Room for @len bytes of the cluster at @offset. 1: not this way. */
static int place_packed(struct qcow2 *s, uint64_t offset, size_t len, uint64_t *ret_at)
{
	struct qcow2_entry old;
	int r = qcow2_prepare(s, offset);

	if (r == 0)
		r = qcow2_entry_get(s, offset, &old);
	if (r == 0 && old.entry)
		r = 1; /* in place, or where it was: the ordinary way knows */
	if (r == 0)
		r = alloc_packed(s, len, ret_at);
	if (r == 0 && *ret_at >> (62 - (s->h.cluster_bits - 8)))
		r = -EFBIG;
	return r;
}

/* The range is the caller's alone, so that what place_packed() found stays. */
static int put_packed(struct qcow2 *s, uint64_t offset, const uint8_t *bytes, size_t len)
{
	uint64_t at = 0, first;
	int r;

	fiber_lock(&s->serving.fibers, &s->meta);
	r = place_packed(s, offset, len, &at);
	fiber_unlock(&s->meta);
	if (r != 0)
		return r;
	r = qcow2_file_write(s, bytes, len, at);
	fiber_lock(&s->serving.fibers, &s->meta);
	if (r == 0)
		r = name_packed(s, offset, at, len);
	if (r == 0) {
		s->packed_count++;
		s->unpacked_entry = 0;
	} else {
		first = at >> s->h.cluster_bits;
		qcow2_free(s, first << s->h.cluster_bits,
			   ((at + len - 1) >> s->h.cluster_bits) - first + 1);
	}
	fiber_unlock(&s->meta);
	return r;
}

int qcow2_write_packed(struct qcow2 *s, uint64_t offset, struct segments *from, uint64_t len)
{
	g_autofree uint8_t *bytes = g_try_malloc0(s->cluster_bytes);
	g_autofree uint8_t *packed = g_try_malloc(s->cluster_bytes);
	struct job job = { .pack = true, .from = bytes, .from_len = s->cluster_bytes, .to = packed };
	struct segments all = *from;
	int r;

	if (!bytes || !packed)
		return -ENOMEM;
	if (!segments_copy(&all, bytes, len))
		return -EINVAL;
	r = run_job(s, &job);
	if (r < 0)
		return r;
	return job.packed ? put_packed(s, offset, packed, job.packed) : 1;
}
