// SPDX-License-Identifier: Apache-2.0
/* marks.c - which parts of a disk have changed, in memory: a bit for each block. */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/qcow2/qcow2_int.h"

int qcow2_marks_init(struct qcow2_marks *m, uint64_t size_bytes, unsigned shift,
		     uint64_t limit_bytes)
{
	/* A block too large says too much, which is allowed. */
	while (qcow2_bitmap_bits(size_bytes, shift) / 8 > limit_bytes)
		shift++;
	/* The kernel gives memory as it is touched. Words are looked at whole. */
	*m = (struct qcow2_marks){ .bits = g_try_malloc0(
					   qcow2_bitmap_bits(size_bytes, shift) / 64 * 8 + 8),
				   .size_bytes = size_bytes,
				   .shift = shift };
	return m->bits ? 0 : -ENOMEM;
}

void qcow2_marks_fini(struct qcow2_marks *m)
{
	g_free(m->bits);
	*m = (struct qcow2_marks){ 0 };
}

void qcow2_bits_set(uint8_t *bits, uint64_t first, uint64_t last)
{
	uint8_t head = (uint8_t)(0xff << first % 8), tail = (uint8_t)(0xff >> (7 - last % 8));

	if (first / 8 == last / 8) {
		bits[first / 8] |= head & tail;
		return;
	}
	bits[first / 8] |= head;
	memset(bits + first / 8 + 1, 0xff, last / 8 - first / 8 - 1);
	bits[last / 8] |= tail;
}

/* The first from @from on that is as @set says, or @count. */
static uint64_t next(const uint8_t *bits, uint64_t from, uint64_t count, bool set)
{
	uint64_t skip = set ? 0 : UINT64_MAX;

	while (from < count) {
		if (from % 64 == 0 && count - from >= 64 && load_le64(bits + from / 8) == skip)
			from += 64;
		else if (!!(bits[from / 8] >> from % 8 & 1) == set)
			return from;
		else
			from++;
	}
	return count;
}

bool qcow2_bits_run(const uint8_t *bits, uint64_t from, uint64_t count, uint64_t *ret_first,
		    uint64_t *ret_end)
{
	uint64_t first = next(bits, from, count, true);

	if (first >= count)
		return false;
	*ret_first = first;
	*ret_end = next(bits, first, count, false);
	return true;
}

void qcow2_marks_set(struct qcow2_marks *m, uint64_t offset, uint64_t len)
{
	if (!m->bits || len == 0 || offset >= m->size_bytes)
		return;
	len = MIN(len, m->size_bytes - offset);
	qcow2_bits_set(m->bits, offset >> m->shift, (offset + len - 1) >> m->shift);
}

bool qcow2_marks_next(const struct qcow2_marks *m, uint64_t from, uint64_t to, uint64_t *ret_from,
		      uint64_t *ret_to)
{
	uint64_t count, first, end;

	to = MIN(to, m->size_bytes);
	if (from >= to)
		return false;
	count = ((to - 1) >> m->shift) + 1;
	if (!qcow2_bits_run(m->bits, from >> m->shift, count, &first, &end))
		return false;
	*ret_from = MAX(first << m->shift, from);
	*ret_to = end == count ? to : end << m->shift;
	return true;
}
