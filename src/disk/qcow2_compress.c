// SPDX-License-Identifier: Apache-2.0
/*
 * qcow2_compress.c - compressed clusters of qcow2 images.
 *
 * They lie one behind the other without regard for clusters of the file, each of which counts
 * the compressed ones that touch it. Deflate streams have no header and a window of 4 KiB.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "disk/qcow2_int.h"

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

static bool unzstd_cluster(const uint8_t *from, size_t from_len, uint8_t *to, size_t to_len)
{
	ZSTD_inBuffer in = { from, from_len, 0 };
	ZSTD_outBuffer out = { to, to_len, 0 };
	ZSTD_DCtx *d = ZSTD_createDCtx();
	bool going = d != NULL;

	while (going && out.pos < out.size) {
		size_t in_was = in.pos, out_was = out.pos;
		size_t r = ZSTD_decompressStream(d, &out, &in);

		going = !ZSTD_isError(r) && (in.pos != in_was || out.pos != out_was);
	}
	ZSTD_freeDCtx(d);
	return out.pos == out.size;
}

int qcow2_unpack(struct qcow2 *s, uint64_t entry)
{
	g_autofree uint8_t *packed = NULL;
	uint64_t at, len;
	bool ok;
	int r;

	if (s->unpacked && s->unpacked_entry == entry)
		return 0;
	if (!s->unpacked && !(s->unpacked = g_try_malloc(s->cluster_bytes)))
		return -ENOMEM;
	s->unpacked_entry = 0;
	qcow2_compressed_span(s, entry, &at, &len);
	packed = g_try_malloc(len);
	if (!packed)
		return -ENOMEM;
	r = qcow2_file_read(s, packed, len, at);
	if (r < 0)
		return r;
	if (s->h.compression == QCOW2_ZSTD)
		ok = unzstd_cluster(packed, len, s->unpacked, s->cluster_bytes);
	else
		ok = inflate_cluster(packed, len, s->unpacked, s->cluster_bytes);
	if (!ok)
		return -EIO;
	s->unpacked_entry = entry;
	return 0;
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

static size_t pack(const struct qcow2 *s, const uint8_t *from, uint8_t *to)
{
	size_t n;

	if (s->h.compression != QCOW2_ZSTD)
		return deflate_cluster(from, s->cluster_bytes, to);
	n = ZSTD_compress(to, s->cluster_bytes - 1, from, s->cluster_bytes, 3);
	return ZSTD_isError(n) ? 0 : n;
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

int qcow2_write_packed(struct qcow2 *s, uint64_t offset, struct qcow2_iov *from, uint64_t len)
{
	g_autofree uint8_t *bytes = g_try_malloc0(s->cluster_bytes);
	g_autofree uint8_t *packed = g_try_malloc(s->cluster_bytes);
	struct qcow2_entry old;
	uint64_t at, done = 0;
	size_t n;
	int r;

	if (!bytes || !packed)
		return -ENOMEM;
	for (const struct iovec *v = from->iov; done < len; v++) {
		memcpy(bytes + done, v->iov_base, v->iov_len);
		done += v->iov_len;
	}
	n = pack(s, bytes, packed);
	if (n == 0)
		return 1;
	fiber_lock(&s->fibers, &s->meta);
	r = qcow2_prepare(s, offset);
	if (r == 0)
		r = qcow2_entry_get(s, offset, &old);
	if (r == 0 && old.entry)
		r = 1; /* in place, or where it was: the ordinary way knows */
	if (r == 0)
		r = alloc_packed(s, n, &at);
	if (r == 0 && at >> (62 - (s->h.cluster_bits - 8)))
		r = -EFBIG;
	if (r == 0)
		r = qcow2_file_write(s, packed, n, at);
	if (r == 0) {
		/* It may lie where another one was, and be of the same length: the same entry, other bytes. */
		s->unpacked_entry = 0;
		r = name_packed(s, offset, at, n);
	}
	fiber_unlock(&s->meta);
	return r;
}
