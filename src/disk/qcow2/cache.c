// SPDX-License-Identifier: Apache-2.0
/* cache.c - qcow2 tables in memory, and the order in which they reach the file
 * (qcow2_int.h tells why). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/qcow2/qcow2_int.h"

#define MIN_TABLES 8u

void qcow2_cache_init(struct qcow2_cache *c, size_t unit_bytes, size_t limit_bytes)
{
	*c = (struct qcow2_cache){ .unit_bytes = unit_bytes,
				   .limit = (unsigned)(limit_bytes / unit_bytes) };
	if (c->limit < MIN_TABLES)
		c->limit = MIN_TABLES;
}

static struct qcow2_table **bucket(struct qcow2_cache *c, uint64_t offset)
{
	return &c->buckets[offset / c->unit_bytes % QCOW2_BUCKETS];
}

static void unlink_use(struct qcow2_cache *c, struct qcow2_table *t)
{
	*(t->newer ? &t->newer->older : &c->newest) = t->older;
	*(t->older ? &t->older->newer : &c->oldest) = t->newer;
}

static void link_newest(struct qcow2_cache *c, struct qcow2_table *t)
{
	t->newer = NULL;
	t->older = c->newest;
	*(c->newest ? &c->newest->newer : &c->oldest) = t;
	c->newest = t;
}

struct qcow2_table *qcow2_cache_find(struct qcow2_cache *c, uint64_t offset)
{
	struct qcow2_table *t = *bucket(c, offset);

	while (t && t->offset != offset)
		t = t->chain;
	if (t && t != c->newest) {
		unlink_use(c, t);
		link_newest(c, t);
	}
	return t;
}

static void take_out(struct qcow2_cache *c, struct qcow2_table *t)
{
	struct qcow2_table **p = bucket(c, t->offset);

	while (*p != t)
		p = &(*p)->chain;
	*p = t->chain;
	unlink_use(c, t);
}

static void table_free(struct qcow2_cache *c, struct qcow2_table *t)
{
	take_out(c, t);
	c->count--;
	g_free(t->bytes);
	g_free(t);
}

void qcow2_cache_clear(struct qcow2_cache *c)
{
	for (struct qcow2_table *t = c->oldest, *next; t; t = next) {
		next = t->newer;
		if (!t->dirty)
			table_free(c, t);
	}
}

void qcow2_cache_forget(struct qcow2_cache *c, uint64_t offset, uint64_t len)
{
	for (uint64_t at = offset; at < offset + len; at += c->unit_bytes) {
		struct qcow2_table *t = qcow2_cache_find(c, at);

		if (!t)
			continue;
		if (t->dirty)
			c->dirty--;
		table_free(c, t);
	}
}

void qcow2_cache_fini(struct qcow2_cache *c)
{
	while (c->oldest)
		table_free(c, c->oldest);
}

static int write_table(struct qcow2 *s, struct qcow2_cache *c, struct qcow2_table *t)
{
	int r = qcow2_file_write(s, t->bytes, c->unit_bytes, t->offset);

	if (r < 0)
		return r;
	t->dirty = false;
	c->dirty--;
	return 0;
}

/* Room for one more: a table that is out of the lists, its bytes anything. */
static int make_room(struct qcow2 *s, struct qcow2_cache *c, struct qcow2_table **ret)
{
	struct qcow2_table *t = c->oldest;
	int r = 0;

	if (c->count < c->limit) {
		t = g_try_new0(struct qcow2_table, 1);
		if (t && !(t->bytes = g_try_malloc(c->unit_bytes)))
			g_clear_pointer(&t, g_free);
		if (!t)
			return -ENOMEM;
		c->count++;
		*ret = t;
		return 0;
	}
	while (t && t->dirty)
		t = t->newer;
	if (!t) {
		/* Refcounts may be written in any order, L2 tables in one. */
		t = c->oldest;
		r = !t ? -EIO : c == &s->refs ? write_table(s, c, t) : qcow2_commit(s);
		t = c->oldest;
		if (r == 0 && (!t || t->dirty))
			r = -EIO;
	}
	if (r < 0 || !t)
		return r < 0 ? r : -EIO;
	take_out(c, t);
	*ret = t;
	return 0;
}

int qcow2_cache_get(struct qcow2 *s, struct qcow2_cache *c, uint64_t offset, bool fresh,
		    struct qcow2_table **ret)
{
	struct qcow2_table *t = qcow2_cache_find(c, offset);
	int r = 0;

	if (!t) {
		r = make_room(s, c, &t);
		if (r < 0)
			return r;
		if (!fresh)
			r = qcow2_file_read(s, t->bytes, c->unit_bytes, offset);
		if (r < 0) {
			c->count--;
			g_free(t->bytes);
			g_free(t);
			return r;
		}
		t->offset = offset;
		t->dirty = false;
		t->chain = *bucket(c, offset);
		*bucket(c, offset) = t;
		link_newest(c, t);
	}
	if (fresh)
		memset(t->bytes, 0, c->unit_bytes);
	*ret = t;
	return 0;
}

void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_table *t)
{
	if (!t->dirty)
		c->dirty++;
	t->dirty = true;
}

/* In the order of the file. */
static int by_offset(const void *a, const void *b)
{
	uint64_t x = (*(struct qcow2_table *const *)a)->offset;
	uint64_t y = (*(struct qcow2_table *const *)b)->offset;

	return x < y ? -1 : x > y;
}

int qcow2_cache_write(struct qcow2 *s, struct qcow2_cache *c)
{
	g_autofree struct qcow2_table **list = NULL;
	unsigned n = 0;
	int r = 0;

	if (c->dirty == 0)
		return 0;
	list = g_try_new(struct qcow2_table *, c->dirty);
	if (!list)
		return -ENOMEM;
	for (struct qcow2_table *t = c->oldest; t; t = t->newer)
		if (t->dirty)
			list[n++] = t;
	qsort(list, n, sizeof(*list), by_offset);
	for (unsigned i = 0; i < n && r == 0; i++)
		r = write_table(s, c, list[i]);
	return r;
}

bool qcow2_is_dirty(const struct qcow2 *s)
{
	return s->l2.dirty || s->freed->len || s->l1_dirty_to || (s->refs.dirty && !s->lazy);
}

static int write_l1(struct qcow2 *s)
{
	uint32_t from = s->l1_dirty_from, count = s->l1_dirty_to - from;
	g_autofree uint8_t *bytes = g_try_malloc(count * 8ul);
	int r;

	if (!bytes)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		store_be64(bytes + i * 8ul, s->l1[from + i]);
	r = qcow2_file_write(s, bytes, count * 8ul, s->h.l1_offset + from * 8ull);
	if (r == 0)
		s->l1_dirty_from = s->l1_dirty_to = 0;
	return r;
}

int qcow2_commit(struct qcow2 *s)
{
	int r = 0;

	if (s->broken)
		return -EIO;
	if (qcow2_has_data_file(s)) {
		struct disk_req req = { .op = DISK_FLUSH };

		r = qcow2_io(s, s->data, &req);
	}
	/* Counts that wait for the end: whoever opens the image before must make them anew. */
	if (r == 0 && s->lazy && s->refs.dirty && !(s->h.incompatible & QCOW2_INCOMPAT_DIRTY))
		r = qcow2_set_incompatible(s, s->h.incompatible | QCOW2_INCOMPAT_DIRTY);
	if (r == 0 && !s->lazy)
		r = qcow2_cache_write(s, &s->refs);
	if (r == 0)
		r = qcow2_file_flush(s);
	if (r < 0 || (s->l2.dirty == 0 && s->l1_dirty_to == 0 && s->freed->len == 0))
		return r;
	r = qcow2_cache_write(s, &s->l2);
	if (r == 0 && s->l1_dirty_to) {
		r = qcow2_file_flush(s);
		if (r == 0)
			r = write_l1(s);
	}
	if (r == 0)
		r = qcow2_file_flush(s);
	return r < 0 ? r : qcow2_apply_freed(s);
}
