// SPDX-License-Identifier: Apache-2.0
/* blocks_table.c - the table of where blocks lie: pages of it in memory (blocks.h). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/formats/blocks.h"

#define CACHE_BYTES (16u << 20)

static uint64_t page_bytes(const struct blocks *b)
{
	return (uint64_t)b->page_entries * b->entry_bytes;
}

static uint64_t page_limit(const struct blocks *b)
{
	return MAX(CACHE_BYTES / page_bytes(b), 16);
}

bool blocks_table_init(struct blocks *b)
{
	b->page_count = (b->block_count + b->page_entries - 1) / b->page_entries;
	b->pages = g_try_new0(struct blocks_page, b->page_count ? b->page_count : 1);
	return b->pages != NULL;
}

void blocks_table_fini(struct blocks *b)
{
	for (uint64_t i = 0; b->pages && i < b->page_count; i++)
		g_free(b->pages[i].bytes);
	g_free(b->pages);
}

static uint64_t page_at(const struct blocks *b, uint64_t page)
{
	return b->ops->page_at ? b->ops->page_at(b, page) : b->table_at + page * page_bytes(b);
}

/* Forget a clean page; where all are dirty there is one more, until they are written. */
static void make_room(struct blocks *b)
{
	if (b->pages_loaded < page_limit(b) || b->pages_dirty >= b->pages_loaded)
		return;
	for (uint64_t i = 0; i < b->page_count; i++) {
		struct blocks_page *p = &b->pages[b->hand];

		b->hand = (b->hand + 1) % b->page_count;
		if (!p->bytes || p->dirty)
			continue;
		g_clear_pointer(&p->bytes, g_free);
		b->pages_loaded--;
		return;
	}
}

/* What lies behind the last entry is not part of the table. */
static uint64_t bytes_in_file(const struct blocks *b, uint64_t page)
{
	return MIN(b->block_count - page * b->page_entries, b->page_entries) * b->entry_bytes;
}

static int load_page(struct blocks *b, uint64_t page)
{
	uint64_t at = page_at(b, page);
	uint8_t *bytes;
	int r;

	if (b->pages[page].bytes)
		return 0;
	make_room(b);
	bytes = g_try_malloc0(page_bytes(b));
	if (!bytes)
		return -ENOMEM;
	r = at ? blocks_file_read(b, bytes, bytes_in_file(b, page), at) : 0;
	if (r < 0) {
		g_free(bytes);
		return r;
	}
	b->pages[page].bytes = bytes;
	b->pages_loaded++;
	return 0;
}

static uint8_t *entry_of(const struct blocks *b, uint64_t block)
{
	return b->pages[block / b->page_entries].bytes + block % b->page_entries * b->entry_bytes;
}

static bool is_place(const struct blocks *b, struct blocks_place p)
{
	if (p.kind == BLOCKS_ABSENT || p.kind == BLOCKS_ZERO)
		return true;
	if (p.host < b->data_at || p.host >= MAX(b->file->size_bytes, b->end))
		return false;
	return !b->ops->is_possible || b->ops->is_possible(b, p.host);
}

static bool goes_on(const struct blocks *b, struct blocks_place first, struct blocks_place next,
		    uint64_t blocks)
{
	if (next.kind != first.kind || next.kind == BLOCKS_PACKED || next.kind == BLOCKS_PARTIAL)
		return false;
	return next.kind != BLOCKS_DATA || next.host == first.host + blocks * b->block_bytes;
}

/* The page is in memory. */
static int scan(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret)
{
	uint64_t block = offset / b->block_bytes, skip = offset % b->block_bytes, n = 1;
	uint64_t left = b->page_entries - block % b->page_entries;
	struct blocks_place first = b->ops->decode(b, block, entry_of(b, block)), next;

	if (!is_place(b, first))
		return blocks_damaged(b, "a block at an impossible place", first.host);
	for (; n < left && n * b->block_bytes - skip < len; n++) {
		next = b->ops->decode(b, block + n, entry_of(b, block + n));
		if (!goes_on(b, first, next, n) || !is_place(b, next))
			break;
	}
	ret->place = first;
	if (first.kind == BLOCKS_DATA || first.kind == BLOCKS_PARTIAL)
		ret->place.host += skip;
	ret->len = MIN(len, n * b->block_bytes - skip);
	ret->in = b->file;
	ret->placed = false;
	ret->block = block;
	ret->block_at = block * b->block_bytes;
	return 0;
}

static void find_part(const struct blocks *b, uint64_t offset, uint64_t len,
		      struct blocks_extent *ret)
{
	unsigned low = 0, high = b->part_count;

	while (high - low > 1) {
		unsigned middle = (low + high) / 2;

		*(b->parts[middle].start <= offset ? &low : &high) = middle;
	}
	ret->place = (struct blocks_place){ BLOCKS_DATA,
					    b->parts[low].at + (offset - b->parts[low].start) };
	ret->len = MIN(len, b->parts[low].start + b->parts[low].len - offset);
	ret->in = b->parts[low].disk;
}

static int look_up(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret)
{
	uint64_t page, span;
	int r;

	if (b->ops->lookup)
		return b->ops->lookup(b, offset, len, ret);
	if (b->flat) {
		*ret = (struct blocks_extent){ .place = { BLOCKS_DATA, b->data_at + offset },
					       .len = len,
					       .in = b->file };
		if (b->parts)
			find_part(b, offset, len, ret);
		return 0;
	}
	page = offset / b->block_bytes / b->page_entries;
	if (b->pages[page].bytes)
		return scan(b, offset, len, ret);
	if (page_at(b, page) == 0) {
		span = (page + 1) * b->page_entries * b->block_bytes - offset;
		*ret = (struct blocks_extent){ .len = MIN(len, span), .in = b->file };
		return 0;
	}
	fiber_lock(&b->serving.fibers, &b->meta);
	r = load_page(b, page);
	if (r == 0)
		r = scan(b, offset, len, ret);
	fiber_unlock(&b->meta);
	return r;
}

int blocks_lookup(struct blocks *b, uint64_t offset, uint64_t len, struct blocks_extent *ret)
{
	int r = look_up(b, offset, len, ret);

	return r == 0 && ret->place.kind == BLOCKS_PARTIAL ? blocks_sectors_resolve(b, offset, ret) : r;
}

int blocks_get(struct blocks *b, uint64_t block, struct blocks_place *ret)
{
	int r = load_page(b, block / b->page_entries);

	if (r == 0)
		*ret = b->ops->decode(b, block, entry_of(b, block));
	return r;
}

int blocks_set(struct blocks *b, uint64_t block, struct blocks_place place)
{
	struct blocks_page *page = &b->pages[block / b->page_entries];
	int r = blocks_change(b);

	if (r == 0 && page_at(b, block / b->page_entries) == 0)
		r = b->ops->page_make ? b->ops->page_make(b, block / b->page_entries) : -EIO;
	if (r == 0 && b->pages_dirty >= page_limit(b) / 2)
		r = blocks_commit(b);
	if (r == 0)
		r = load_page(b, block / b->page_entries);
	if (r < 0)
		return r;
	b->ops->encode(b, place, entry_of(b, block));
	if (!page->dirty)
		b->pages_dirty++;
	page->dirty = true;
	return 0;
}

static int write_page(struct blocks *b, uint64_t page)
{
	uint64_t len = bytes_in_file(b, page);
	int r = blocks_file_write(b, b->pages[page].bytes, len, page_at(b, page));

	if (r == 0 && b->ops->copy_page)
		r = b->ops->copy_page(b, page, b->pages[page].bytes, len);
	return r;
}

int blocks_table_write(struct blocks *b)
{
	int r = 0;

	for (uint64_t i = 0; i < b->page_count && b->pages_dirty && r == 0; i++) {
		if (!b->pages[i].dirty)
			continue;
		r = write_page(b, i);
		if (r < 0)
			break;
		b->pages[i].dirty = false;
		b->pages_dirty--;
	}
	return r;
}

int blocks_each(struct blocks *b,
		int (*fn)(struct blocks *b, uint64_t block, struct blocks_place place, void *arg),
		void *arg)
{
	int r = 0;

	for (uint64_t i = 0; i < b->block_count && r == 0; i++) {
		struct blocks_place place;

		if (i % b->page_entries == 0 && page_at(b, i / b->page_entries) == 0) {
			i += b->page_entries - 1;
			continue;
		}
		r = blocks_get(b, i, &place);
		if (r == 0)
			r = fn(b, i, place, arg);
	}
	return r;
}

static int take_end(struct blocks *b, uint64_t block, struct blocks_place place, void *arg)
{
	uint64_t *end = arg;

	(void)block;
	if ((place.kind == BLOCKS_DATA || place.kind == BLOCKS_PARTIAL) && is_place(b, place))
		*end = MAX(*end, place.host + b->block_bytes);
	return 0;
}

int blocks_find_end(struct blocks *b)
{
	uint64_t end = b->tables_end ? b->tables_end : MAX(b->file->size_bytes, b->data_at);
	int r = blocks_each(b, take_end, &end);

	b->end = end;
	return r;
}
