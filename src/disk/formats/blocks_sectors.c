// SPDX-License-Identifier: Apache-2.0
/*
 * blocks_sectors.c - blocks of which only some sectors are in the image, and the others in its
 * parent: differencing images of VHD and VHDX (blocks.h).
 *
 * A bitmap says which. We write no such blocks: before a sector that is the parent's is written, the
 * block is completed. The parent's sectors are copied to where nobody looks yet, and only then does
 * the format say that all are there.
 */
#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/blocks.h"

#define AT_ONCE (1u << 20)

void blocks_sectors_fini(struct blocks *b)
{
	for (unsigned i = 0; i < BLOCKS_BITMAPS; i++)
		g_free(b->bitmaps[i].bits);
}

/* b->meta held. The bitmap of a block, until the next call. */
static int bitmap(struct blocks *b, uint64_t block, uint64_t host, const uint8_t **ret)
{
	struct blocks_bitmap *m = &b->bitmaps[block % BLOCKS_BITMAPS];
	uint64_t len = (b->block_bytes / b->unit_bytes + 7) / 8;
	int r = 0;

	if (!m->bits && !(m->bits = g_try_malloc(len)))
		return -ENOMEM;
	if (m->number != block + 1) {
		m->number = 0;
		r = b->ops->bitmap(b, block, host, m->bits, len);
		m->number = r == 0 ? block + 1 : 0;
	}
	*ret = m->bits;
	return r;
}

static bool is_here(const uint8_t *bits, uint64_t i)
{
	return bits[i / 8] & 0x80u >> i % 8;
}

int blocks_sectors_resolve(struct blocks *b, uint64_t offset, struct blocks_extent *e)
{
	uint64_t within = offset % b->block_bytes, i = within / b->unit_bytes, end;
	const uint8_t *bits;
	bool here;
	int r;

	fiber_lock(&b->serving.fibers, &b->meta);
	r = bitmap(b, e->block, e->place.host - within, &bits);
	if (r == 0) {
		here = is_here(bits, i);
		for (end = i + 1; end * b->unit_bytes < within + e->len; end++)
			if (is_here(bits, end) != here)
				break;
		e->len = MIN(e->len, end * b->unit_bytes - within);
		e->place.kind = here ? BLOCKS_DATA : BLOCKS_ABSENT;
		e->placed = true;
	}
	fiber_unlock(&b->meta);
	return r;
}

static int copy_missing(struct blocks *b, uint64_t at, uint64_t end)
{
	int r = 0;

	while (at < end && r == 0) {
		struct blocks_extent e;

		r = blocks_lookup(b, at, MIN(end - at, AT_ONCE), &e);
		if (r == 0 && e.place.kind == BLOCKS_ABSENT)
			r = e.placed ? blocks_copy_below(b, at, e.len, e.place.host) : -EIO;
		at += e.len;
	}
	return r;
}

int blocks_sectors_complete(struct blocks *b, uint64_t offset)
{
	uint64_t block = offset / b->block_bytes, start = block * b->block_bytes;
	struct blocks_place place;
	int r = copy_missing(b, start, MIN(start + b->block_bytes, b->disk.size_bytes));

	if (r < 0)
		return r;
	fiber_lock(&b->serving.fibers, &b->meta);
	r = blocks_get(b, block, &place);
	if (r == 0)
		r = b->ops->complete(b, block, place.host);
	b->bitmaps[block % BLOCKS_BITMAPS].number = 0;
	fiber_unlock(&b->meta);
	return r;
}
