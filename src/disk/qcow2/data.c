// SPDX-License-Identifier: Apache-2.0
/*
 * data.c - reading, writing, zeroing and discarding parts of a qcow2 disk.
 *
 * A write to clusters that this image alone owns goes where they lie. Otherwise new clusters are
 * taken, filled up with what was there before and what is written, in one request, and only then
 * named in the L2 table.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/qcow2/qcow2_int.h"

#define VECTOR 128u

/* What no cluster of ours holds: the backing image as far as it goes, then zeros. */
static int read_absent(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *to)
{
	return segments_read(&s->serving, s->backing, offset, len, to);
}

/* Written anew since it was looked up, where it was packed may hold something else by now. */
static bool has_moved(struct qcow2 *s, uint64_t offset, uint64_t entry)
{
	struct qcow2_extent e;

	return qcow2_lookup(s, offset, 1, &e) == 0 &&
	       (e.kind != QCOW2_K_COMPRESSED || e.host != entry);
}

static int read_compressed(struct qcow2 *s, uint64_t entry, uint64_t offset, uint64_t len,
			   struct segments *to)
{
	const uint8_t *bytes;
	int r = qcow2_unpack(s, entry, &bytes);

	if (r < 0)
		return r == -EIO && has_moved(s, offset, entry) ? -EAGAIN : r;
	segments_fill(to, bytes + (offset & (s->cluster_bytes - 1)), len);
	return 0;
}

int qcow2_read(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *to)
{
	while (len > 0) {
		struct qcow2_extent e;
		int r = qcow2_lookup(s, offset, len, &e);

		if (r < 0)
			return r;
		switch (e.kind) {
		case QCOW2_K_DATA:
			r = segments_run(&s->serving, s->data, DISK_READ, e.host, e.len, to);
			break;
		case QCOW2_K_COMPRESSED:
			e.len = MIN(e.len, s->cluster_bytes - (offset & (s->cluster_bytes - 1)));
			r = read_compressed(s, e.host, offset, e.len, to);
			if (r == -EAGAIN)
				continue;
			break;
		case QCOW2_K_ABSENT:
			r = read_absent(s, offset, e.len, to);
			break;
		case QCOW2_K_ZERO:
			segments_fill(to, NULL, e.len);
			break;
		}
		if (r < 0)
			return r;
		offset += e.len;
		len -= e.len;
	}
	return 0;
}

static int read_buffer(struct qcow2 *s, uint64_t offset, uint64_t len, uint8_t *to)
{
	struct iovec iov = { to, len };
	struct segments v = { &iov, 1, 0 };
	/* The last cluster may reach behind the end of the disk. */
	uint64_t inside = offset < s->disk.size_bytes ? MIN(len, s->disk.size_bytes - offset) : 0;

	memset(to + inside, 0, len - inside);
	return inside ? qcow2_read(s, offset, inside, &v) : 0;
}

/* A write to clusters that are not ours alone, as it goes on. */
struct placing {
	uint64_t offset, len;	/* what the guest writes, a part of one L2 slice */
	uint64_t from, to;	/* what is written: whole clusters or subclusters around it */
	uint64_t clusters;	/* of the disk, from that of offset on */
	uint64_t host;		/* where the first of them lies or will lie */
	bool fresh;		/* taken now */
	bool whole;		/* all subclusters are written */
};

static uint64_t cluster_start(const struct qcow2 *s, uint64_t offset)
{
	return offset & ~(s->cluster_bytes - 1);
}

/* s->meta held. Which clusters will hold it. */
static int place(struct qcow2 *s, struct placing *p)
{
	uint64_t start = cluster_start(s, p->offset), sub = 1ull << s->sub_bits, n = 1;
	struct qcow2_entry e = { 0 };
	int r = qcow2_prepare(s, p->offset);

	if (r == 0)
		r = qcow2_entry_get(s, p->offset, &e);
	if (r < 0)
		return r;
	p->fresh = true;
	p->whole = true;
	if (qcow2_has_subclusters(s)) {
		bool has = qcow2_entry_cluster(s, e.entry, &p->host);

		p->fresh = !(has && (e.entry & QCOW2_COPIED));
		p->whole = (has && p->fresh) || (e.entry & QCOW2_COMPRESSED);
		p->len = MIN(p->len, start + s->cluster_bytes - p->offset);
	} else {
		n = (p->offset + p->len - start + s->cluster_bytes - 1) >> s->h.cluster_bits;
	}
	if (p->fresh && qcow2_has_data_file(s))
		p->host = start;
	else if (p->fresh)
		r = qcow2_alloc(s, n, false, &p->host, &n);
	if (r < 0)
		return r;
	p->clusters = n;
	p->len = MIN(p->len, start + n * s->cluster_bytes - p->offset);
	if (p->whole)
		sub = s->cluster_bytes;
	p->from = align_down(p->offset, sub);
	p->to = align_up(p->offset + p->len, sub);
	return 0;
}

static int write_bytes(struct qcow2 *s, uint8_t *bytes, uint64_t len, uint64_t host)
{
	struct iovec iov = { bytes, len };
	struct segments v = { &iov, 1, 0 };

	return len ? segments_run(&s->serving, s->data, DISK_WRITE, host, len, &v) : 0;
}

static int write_parts(struct qcow2 *s, const struct placing *p, struct segments *from,
		       uint8_t *head, uint8_t *tail)
{
	uint64_t host = p->host + (p->offset - cluster_start(s, p->offset));
	int r = segments_run(&s->serving, s->data, DISK_WRITE, host, p->len, from);

	if (r == 0)
		r = write_bytes(s, head, p->offset - p->from, host - (p->offset - p->from));
	return r < 0 ? r : write_bytes(s, tail, p->to - p->offset - p->len, host + p->len);
}

/* Everything in one request where it has room for that. */
static int write_filled(struct qcow2 *s, const struct placing *p, struct segments *from,
			uint8_t *head, uint8_t *tail)
{
	uint64_t host = p->host + (p->from - cluster_start(s, p->offset));
	uint64_t head_len = p->offset - p->from, tail_len = p->to - p->offset - p->len, body;
	struct iovec iov[VECTOR + 2];
	struct disk_req req = { .op = DISK_WRITE, .offset = host, .iov = iov };
	struct segments rest = *from;
	unsigned n = 0;

	if (head_len)
		iov[n++] = (struct iovec){ head, head_len };
	n += segments_take(&rest, p->len, iov + n, VECTOR, &body);
	if (body < p->len)
		return write_parts(s, p, from, head, tail);
	if (tail_len)
		iov[n++] = (struct iovec){ tail, tail_len };
	*from = rest;
	req.iov_count = n;
	req.len = p->to - p->from;
	return qcow2_io(s, s->data, &req);
}

static int fill_and_write(struct qcow2 *s, const struct placing *p, struct segments *from)
{
	uint64_t head_len = p->offset - p->from, tail_len = p->to - p->offset - p->len;
	g_autofree uint8_t *head = head_len ? g_try_malloc(head_len) : NULL;
	g_autofree uint8_t *tail = tail_len ? g_try_malloc(tail_len) : NULL;
	int r = 0;

	if ((head_len && !head) || (tail_len && !tail))
		return -ENOMEM;
	if (head_len)
		r = read_buffer(s, p->from, head_len, head);
	if (r == 0 && tail_len)
		r = read_buffer(s, p->offset + p->len, tail_len, tail);
	return r < 0 ? r : write_filled(s, p, from, head, tail);
}

/* s->meta held. The data is written: say so in the L2 table. */
static int name_clusters(struct qcow2 *s, const struct placing *p)
{
	uint64_t start = cluster_start(s, p->offset);
	uint64_t first = (p->from - start) >> s->sub_bits, last = (p->to - 1 - start) >> s->sub_bits;
	int r = 0;

	for (uint64_t i = 0; i < p->clusters && r == 0; i++) {
		struct qcow2_entry e = { 0 }, old;

		r = qcow2_entry_get(s, start + i * s->cluster_bytes, &old);
		e.entry = (p->host + i * s->cluster_bytes) | QCOW2_COPIED;
		if (qcow2_has_subclusters(s)) {
			uint64_t mask = (2ull << last) - (1ull << first);

			e.bitmap = p->whole ? 0 : old.bitmap & ~(mask << QCOW2_SUBCLUSTERS);
			e.bitmap |= mask;
		}
		if (r == 0)
			r = qcow2_entry_set(s, start + i * s->cluster_bytes, e);
	}
	return r;
}

/* @from is written as far as it fits: *len comes back smaller. The range is the caller's alone. */
static int write_elsewhere(struct qcow2 *s, uint64_t offset, uint64_t *len, struct segments *from)
{
	struct placing p = { .offset = offset, .len = MIN(*len, qcow2_slice_left(s, offset)) };
	int r;

	fiber_lock(&s->serving.fibers, &s->meta);
	r = place(s, &p);
	fiber_unlock(&s->meta);
	if (r < 0)
		return r;
	r = fill_and_write(s, &p, from);
	fiber_lock(&s->serving.fibers, &s->meta);
	if (r == 0)
		r = name_clusters(s, &p);
	else if (p.fresh && !qcow2_has_data_file(s))
		qcow2_unalloc(s, p.host, p.clusters);
	fiber_unlock(&s->meta);
	*len = p.len;
	return r;
}

static struct range range_of(const struct qcow2 *s, uint64_t offset, uint64_t len, bool alone)
{
	return (struct range){ .first = offset >> s->h.cluster_bits,
				     .last = (offset + len - 1) >> s->h.cluster_bits,
				     .alone = alone };
}

/* As far as the clusters are ours alone. *done: how far that was. */
static int write_in_place(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *from,
			  uint64_t *done)
{
	for (*done = 0; *done < len;) {
		struct qcow2_extent e;
		int r = qcow2_lookup(s, offset + *done, len - *done, &e);

		if (r < 0)
			return r;
		if (e.kind != QCOW2_K_DATA || !e.copied)
			return 0;
		r = segments_run(&s->serving, s->data, DISK_WRITE, e.host, e.len, from);
		if (r < 0)
			return r;
		*done += e.len;
	}
	return 0;
}

/* The range is the caller's alone. */
static int write_alone(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *from)
{
	while (len > 0) {
		struct qcow2_extent e;
		uint64_t n;
		int r = write_in_place(s, offset, len, from, &n);

		if (r < 0)
			return r;
		offset += n;
		len -= n;
		if (len == 0)
			break;
		/* Up to the next cluster that may be written in place. */
		r = qcow2_lookup(s, offset, len, &e);
		n = r == 0 && !qcow2_has_subclusters(s) ? e.len : len;
		if (r == 0)
			r = write_elsewhere(s, offset, &n, from);
		if (r < 0)
			return r;
		offset += n;
		len -= n;
	}
	return 0;
}

int qcow2_write(struct qcow2 *s, uint64_t offset, uint64_t len, struct segments *from)
{
	struct range range = range_of(s, offset, len, false);
	uint64_t n;
	int r;

	range_enter(&s->serving.fibers, &s->ranges, &range);
	r = write_in_place(s, offset, len, from, &n);
	range_leave(&s->ranges, &range);
	if (r < 0 || n == len)
		return r;
	offset += n;
	len -= n;
	range = range_of(s, offset, len, true);
	range_enter(&s->serving.fibers, &s->ranges, &range);
	r = write_alone(s, offset, len, from);
	range_leave(&s->ranges, &range);
	return r;
}

/* A whole cluster becomes zeros, or nothing. s->meta held, the range the caller's alone. */
static int empty_cluster(struct qcow2 *s, uint64_t offset, bool zero, bool unmap)
{
	struct qcow2_entry e = { 0 }, old;
	uint64_t host;
	int r = qcow2_entry_get(s, offset, &old);

	if (r < 0)
		return r;
	/* Nothing lies there, and nothing would shine through. */
	if (old.entry == 0 && old.bitmap == 0 && !s->backing)
		return 0;
	if (!unmap && (old.entry & QCOW2_COPIED) && qcow2_entry_cluster(s, old.entry, &host))
		e.entry = host | QCOW2_COPIED;
	if (zero && qcow2_has_subclusters(s))
		e.bitmap = (uint64_t)UINT32_MAX << 32;
	else if (zero)
		e.entry |= QCOW2_ZERO;
	if (e.entry == old.entry && e.bitmap == old.bitmap)
		return 0;
	r = qcow2_prepare(s, offset);
	return r < 0 ? r : qcow2_entry_set(s, offset, e);
}

static int empty_clusters(struct qcow2 *s, uint64_t offset, uint64_t len, bool zero, bool unmap)
{
	struct range range = range_of(s, offset, len, true);
	int r = 0;

	range_enter(&s->serving.fibers, &s->ranges, &range);
	for (uint64_t at = 0; at < len && r == 0; at += s->cluster_bytes) {
		struct qcow2_extent e;

		/* Nothing there at all, and it may stay so: a whole table's span at once. */
		r = qcow2_lookup(s, offset + at, len - at, &e);
		if (r == 0 && e.kind == QCOW2_K_ABSENT && !(zero && s->backing) && e.len > s->cluster_bytes) {
			at += align_down(e.len, s->cluster_bytes) - s->cluster_bytes;
			continue;
		}
		if (r < 0)
			break;
		fiber_lock(&s->serving.fibers, &s->meta);
		r = empty_cluster(s, offset + at, zero, unmap);
		fiber_unlock(&s->meta);
	}
	range_leave(&s->ranges, &range);
	return r;
}

int qcow2_drop(struct qcow2 *s, uint64_t offset, uint64_t len)
{
	return len ? empty_clusters(s, offset, len, false, true) : 0;
}

/* A raw data file is read by others as it is, so zeros and holes must be in it. */
static int empty_data_file(struct qcow2 *s, enum disk_op op, uint64_t offset, uint64_t len, bool unmap)
{
	struct disk_req req = { .op = op, .offset = offset, .len = len, .unmap = unmap };

	return qcow2_has_data_file(s) ? qcow2_io(s, s->data, &req) : 0;
}

/* The whole clusters of a range; the last one of the disk counts as whole. */
static void whole_clusters(const struct qcow2 *s, uint64_t offset, uint64_t len, uint64_t *ret_from,
			   uint64_t *ret_to)
{
	uint64_t end = offset + len;

	*ret_from = align_up(offset, s->cluster_bytes);
	*ret_to = end == s->disk.size_bytes ? align_up(end, s->cluster_bytes) :
					      align_down(end, s->cluster_bytes);
	if (*ret_to < *ret_from)
		*ret_to = *ret_from;
}

static int write_zeros_as_data(struct qcow2 *s, uint64_t offset, uint64_t len)
{
	while (len > 0) {
		struct segments zeros = { NULL, 0, 0 };
		struct qcow2_extent e;
		uint64_t n;
		int r = qcow2_lookup(s, offset, len, &e);

		if (r < 0)
			return r;
		n = MIN(e.len, s->cluster_bytes);
		/* What reads as zeros already stays as it is. */
		if (e.kind != QCOW2_K_ZERO && (e.kind != QCOW2_K_ABSENT || s->backing))
			r = qcow2_write(s, offset, n, &zeros);
		if (r < 0)
			return r;
		offset += n;
		len -= n;
	}
	return 0;
}

int qcow2_write_zeroes(struct qcow2 *s, uint64_t offset, uint64_t len, bool unmap)
{
	bool can_zero = s->h.version >= 3;
	uint64_t from, to, end = offset + len;
	int r = 0;

	whole_clusters(s, offset, len, &from, &to);
	/* Version 2 knows no zero clusters, but without a backing image absent ones are. */
	if (from == to || (!can_zero && s->backing))
		return write_zeros_as_data(s, offset, len);
	if (from > offset)
		r = write_zeros_as_data(s, offset, from - offset);
	if (r == 0 && end > to)
		r = write_zeros_as_data(s, to, end - to);
	if (r == 0)
		r = empty_data_file(s, DISK_WRITE_ZEROES, from, MIN(to, end) - from, unmap);
	return r < 0 ? r : empty_clusters(s, from, to - from, can_zero, unmap || !can_zero);
}

int qcow2_discard(struct qcow2 *s, uint64_t offset, uint64_t len)
{
	bool can_zero = s->h.version >= 3;
	uint64_t from, to;
	int r;

	whole_clusters(s, offset, len, &from, &to);
	/* Without zero clusters what is discarded would show the backing image's old data. */
	if (from == to || (s->backing && !can_zero))
		return 0;
	r = empty_data_file(s, DISK_DISCARD, from, MIN(to, offset + len) - from, true);
	return r < 0 ? r : empty_clusters(s, from, to - from, can_zero && s->backing, true);
}
