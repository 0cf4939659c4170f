// SPDX-License-Identifier: Apache-2.0
/* segments.c - a request's memory, part by part (segments.h). */
#include "disk/segments.h"

#include <errno.h>
#include <string.h>


#define VECTOR 128u

/* Aligned for requests past the host's cache. */
static const uint8_t zeros[64u << 10] __attribute__((aligned(4096)));

unsigned segments_take(struct segments *v, uint64_t len, struct iovec *out, unsigned max,
		       uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	unsigned n = 0;

	while (bytes < len && n < max && (!v->iov || v->count)) {
		uint64_t part;

		if (!v->iov) {
			part = MIN(len - bytes, sizeof(zeros));
			out[n++] = (struct iovec){ (void *)zeros, part };
			bytes += part;
			continue;
		}
		part = MIN(len - bytes, v->iov->iov_len - v->skip);
		if (part)
			out[n++] = (struct iovec){ (char *)v->iov->iov_base + v->skip, part };
		bytes += part;
		v->skip += part;
		if (v->skip == v->iov->iov_len) {
			v->iov++;
			v->count--;
			v->skip = 0;
		}
	}
	*ret_bytes = bytes;
	return n;
}

void segments_fill(struct segments *to, const uint8_t *from, uint64_t len)
{
	while (len > 0) {
		struct iovec part;
		uint64_t n;

		/* No segments are left only by a mistake of ours. */
		if (segments_take(to, len, &part, 1, &n) == 0)
			return;
		if (from)
			memcpy(part.iov_base, from, n);
		else
			memset(part.iov_base, 0, n);
		from = from ? from + n : NULL;
		len -= n;
	}
}

bool segments_copy(struct segments *from, uint8_t *to, uint64_t len)
{
	while (len > 0) {
		struct iovec part;
		uint64_t n;

		if (segments_take(from, len, &part, 1, &n) == 0)
			return false;
		memcpy(to, part.iov_base, n);
		to += n;
		len -= n;
	}
	return true;
}

int segments_run(struct serving *s, struct disk *below, enum disk_op op, uint64_t offset, uint64_t len,
		 struct segments *v)
{
	int r = 0;

	while (len > 0 && r == 0) {
		struct iovec iov[VECTOR];
		struct disk_req part = { .op = op, .offset = offset, .iov = iov };

		part.iov_count = segments_take(v, len, iov, VECTOR, &part.len);
		if (part.len == 0)
			return -EINVAL; /* segments that do not make up the length */
		offset += part.len;
		len -= part.len;
		r = serving_run(s, below, &part);
	}
	return r;
}

int segments_read(struct serving *s, struct disk *below, uint64_t offset, uint64_t len,
		  struct segments *to)
{
	uint64_t size = below ? below->size_bytes : 0;
	uint64_t inside = offset < size ? MIN(len, size - offset) : 0;
	int r = segments_run(s, below, DISK_READ, offset, inside, to);

	if (r == 0)
		segments_fill(to, NULL, len - inside);
	return r;
}
