// SPDX-License-Identifier: Apache-2.0
/* blocks_check.c - whether the blocks of an image overlap, or lie where none can (blocks.h). */
#include <errno.h>
#include <stdlib.h>

#include "disk/formats/blocks.h"

#define MAX_TOLD 20u

void disk_found_tell(struct disk_found *found, const char *fmt, ...)
{
	g_autofree char *line = NULL;
	va_list ap;

	if (!found->tell || found->told++ >= MAX_TOLD)
		return;
	va_start(ap, fmt);
	line = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	found->tell(found->arg, line);
}

struct placed {
	uint64_t host, block;
};

struct gather {
	GArray *places; /* struct placed */
	struct disk_found *found;
};

static int note_block(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	struct gather *g = arg;
	struct placed p = { place.host, block };
	uint64_t len = place.kind == BLOCKS_PACKED ? DISK_SECTOR_SIZE : b->block_bytes;

	if (place.kind == BLOCKS_ABSENT)
		return 0;
	g->found->used++;
	if (place.kind == BLOCKS_ZERO)
		return 0;
	if (place.host < b->data_at || place.host >= b->file->size_bytes ||
	    (b->ops->is_possible && !b->ops->is_possible(b, place.host))) {
		g->found->errors++;
		disk_found_tell(g->found,
				"block %" G_GUINT64_FORMAT
				" lies at an impossible place, %#" G_GINT64_MODIFIER "x",
				block, place.host);
		return 0;
	}
	g->found->end_bytes = MAX(g->found->end_bytes, place.host + len);
	g_array_append_val(g->places, p);
	return 0;
}

static int by_host(const void *a, const void *b)
{
	uint64_t x = ((const struct placed *)a)->host, y = ((const struct placed *)b)->host;

	return x < y ? -1 : x > y;
}

static void find_overlaps(struct blocks *b, struct gather *g)
{
	g_array_sort(g->places, by_host);
	for (guint i = 1; i < g->places->len; i++) {
		const struct placed *p = &g_array_index(g->places, struct placed, i - 1),
				    *q = p + 1;

		if (q->host - p->host >= (b->pack_only ? 1 : b->block_bytes))
			continue;
		g->found->errors++;
		disk_found_tell(g->found,
				"blocks %" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT
				" share a place",
				p->block, q->block);
	}
}

int blocks_check(struct blocks *b, bool repair, struct disk_found *found)
{
	struct gather g = { .found = found };
	int r = 0;

	found->total = b->block_count;
	found->end_bytes = b->data_at;
	if (!b->flat && !b->ops->lookup) {
		g.places = g_array_new(FALSE, FALSE, sizeof(struct placed));
		r = blocks_each(b, note_block, &g);
		if (r == 0)
			find_overlaps(b, &g);
		g_array_unref(g.places);
	}
	if (r == 0 && b->ops->check)
		r = b->ops->check(b, repair, found);
	return r;
}
