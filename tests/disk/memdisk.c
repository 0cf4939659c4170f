// SPDX-License-Identifier: Apache-2.0
/* memdisk.c - a file node in memory: hostile images, power cuts, disks that fail (memdisk.h). */
#include "memdisk.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "base/sanitizer.h"

#define GUARD_BYTES 4096u

/* The sanitizer gets large pieces of memory anew each time and sweeps them, most of which no image touches:
 * fuzzing would be all about that. Without it malloc(3) has the pieces still at hand. */
static uint8_t *room_new(uint64_t bytes)
{
	uint64_t room = align_up(bytes, GUARD_BYTES);
	uint8_t *map;

	if (!WITH_ASAN)
		return g_malloc0(bytes);
	map = mmap(NULL, room + GUARD_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED || mprotect(map + room, GUARD_BYTES, PROT_NONE) < 0)
		g_error("no memory for an image");
	return map;
}

static void room_free(uint8_t *bytes, uint64_t room_bytes)
{
	if (WITH_ASAN)
		(void)munmap(bytes, align_up(room_bytes, GUARD_BYTES) + GUARD_BYTES);
	else
		g_free(bytes);
}

uint64_t memdisk_random(uint64_t *seed, uint64_t below)
{
	uint64_t z = *seed += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

static void change(struct memdisk *m, bool flush, uint64_t offset, uint64_t len, bool zeros)
{
	struct memdisk_change c = { flush, offset, len, NULL, false };

	if (!m->note)
		return;
	if (len && !zeros)
		c.bytes = g_memdup2(m->bytes + offset, len);
	g_array_append_val(m->changes, c);
}

static int move(struct memdisk *m, struct disk_req *req)
{
	uint64_t at = req->offset;

	if (req->op == DISK_WRITE && (at > m->room_bytes || req->len > m->room_bytes - at))
		return -ENOSPC;
	for (unsigned i = 0; i < req->iov_count; i++) {
		uint8_t *p = req->iov[i].iov_base;
		size_t n = req->iov[i].iov_len;
		size_t inside = at < m->room_bytes ? MIN(n, m->room_bytes - at) : 0;

		if (req->op == DISK_WRITE) {
			memcpy(m->bytes + at, p, n);
		} else {
			memcpy(p, m->bytes + (inside ? at : 0), inside);
			memset(p + inside, 0, n - inside);
		}
		at += n;
	}
	if (req->op == DISK_WRITE)
		m->disk.size_bytes = MAX(m->disk.size_bytes, at);
	if (req->op == DISK_WRITE)
		change(m, false, req->offset, req->len, false);
	return 0;
}

/* What lies behind the end is zeros, if the file gets longer again. */
static void cut_off(struct memdisk *m, uint64_t size)
{
	uint64_t end = MIN(m->disk.size_bytes, m->room_bytes);

	if (size < end) {
		memset(m->bytes + size, 0, end - size);
		change(m, false, size, end - size, true);
	}
	m->disk.size_bytes = size;
}

static int perform(struct memdisk *m, struct disk_req *req)
{
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
		return move(m, req);
	case DISK_FLUSH:
		change(m, true, 0, 0, false);
		return 0;
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		if (req->offset > m->room_bytes || req->len > m->room_bytes - req->offset)
			return -ENOSPC;
		/* Behind the end there is nothing else, and no page that was touched. */
		if (req->offset < m->disk.size_bytes)
			memset(m->bytes + req->offset, 0,
			       MIN(req->len, m->disk.size_bytes - req->offset));
		change(m, false, req->offset, req->len, true);
		return 0;
	case DISK_RESIZE:
		cut_off(m, req->offset);
		return 0;
	case DISK_MAP:
		req->map = (struct disk_map){ .state = DISK_DATA, .len = req->len,
					      .host_offset = req->offset };
		return 0;
	}
	return -EOPNOTSUPP;
}

/* What the host's cache held and could not write. */
static void lose(struct memdisk *m)
{
	for (guint i = m->changes->len; i > 0; i--) {
		struct memdisk_change *c = &g_array_index(m->changes, struct memdisk_change, i - 1);

		if (c->flush)
			break;
		c->lost |= memdisk_random(&m->seed, 2) == 0;
	}
}

static bool fails(struct memdisk *m, const struct disk_req *req)
{
	struct memdisk_faults *f = &m->faults;

	if (f->full && req->op != DISK_WRITE && req->op != DISK_WRITE_ZEROES)
		return false;
	f->calls++;
	return f->calls >= f->from && f->calls < f->to;
}

static int serve(struct memdisk *m, struct disk_req *req)
{
	if (!fails(m, req))
		return perform(m, req);
	m->faults.failed += req->op != DISK_DISCARD;
	m->faults.op = req->op;
	m->faults.at = req->offset;
	m->faults.len = req->len;
	if (req->op == DISK_FLUSH)
		lose(m);
	else if (!m->faults.full && req->op != DISK_READ && memdisk_random(&m->seed, 2))
		(void)perform(m, req);
	return m->faults.full ? -ENOSPC : -EIO;
}

static void mem_submit(struct disk *disk, struct disk_req *req)
{
	struct memdisk *m = (struct memdisk *)disk;

	req->next = m->queue;
	m->queue = req;
}

static void mem_drain(struct disk *disk)
{
	struct memdisk *m = (struct memdisk *)disk;

	while (m->queue) {
		struct disk_req **p = &m->queue, *req;

		while ((*p)->next && memdisk_random(&m->seed, 2))
			p = &(*p)->next;
		req = *p;
		*p = req->next;
		req->next = NULL;
		req->done(req, serve(m, req));
	}
}

static void mem_close(struct disk *disk)
{
	struct memdisk *m = (struct memdisk *)disk;

	if (m->keep) {
		m->keep = false;
		return;
	}
	for (guint i = 0; i < m->changes->len; i++)
		g_free(g_array_index(m->changes, struct memdisk_change, i).bytes);
	g_array_unref(m->changes);
	room_free(m->bytes, m->room_bytes);
	g_free(m->disk.path);
	g_free(m);
}

static const struct disk_ops mem_ops = {
	.submit = mem_submit,
	.drain = mem_drain,
	.close = mem_close,
};

struct memdisk *memdisk_new(uint64_t room_bytes, uint64_t seed)
{
	struct memdisk *m = g_new0(struct memdisk, 1);

	m->disk = (struct disk){ .ops = &mem_ops, .format = "file", .path = g_strdup("memory"),
				 .block_bytes = 512, .can_discard = true, .growable = true };
	m->room_bytes = room_bytes;
	m->bytes = room_new(room_bytes);
	m->seed = seed;
	m->changes = g_array_new(FALSE, FALSE, sizeof(struct memdisk_change));
	return m;
}

struct memdisk *memdisk_copy(const struct memdisk *from, uint64_t seed)
{
	struct memdisk *m = memdisk_new(from->room_bytes, seed);

	memcpy(m->bytes, from->bytes, MIN(from->disk.size_bytes, from->room_bytes));
	m->disk.size_bytes = from->disk.size_bytes;
	return m;
}

static void apply(struct memdisk *m, const struct memdisk_change *c, uint64_t from, uint64_t len)
{
	if (c->bytes)
		memcpy(m->bytes + c->offset + from, c->bytes + from, len);
	else
		memset(m->bytes + c->offset + from, 0, len);
	m->disk.size_bytes = MAX(m->disk.size_bytes, c->offset + from + len);
}

struct memdisk *memdisk_cut(const struct memdisk *from, const struct memdisk *start, unsigned count,
			    uint64_t seed)
{
	struct memdisk *m = memdisk_copy(start, seed);
	unsigned flushed = 0, mode;

	for (unsigned i = 0; i < count; i++)
		if (g_array_index(from->changes, struct memdisk_change, i).flush)
			flushed = i;
	/* All, none, whole requests, or sectors by chance. */
	mode = (unsigned)memdisk_random(&m->seed, 4);
	for (unsigned i = 0; i < count; i++) {
		const struct memdisk_change *c = &g_array_index(from->changes, struct memdisk_change, i);

		if (c->lost)
			continue;
		if (i < flushed || mode == 0) {
			apply(m, c, 0, c->len);
			continue;
		}
		if (mode == 2 && memdisk_random(&m->seed, 2))
			apply(m, c, 0, c->len);
		for (uint64_t at = 0; mode == 3 && at < c->len;) {
			/* A disk writes sectors, whatever the request's start. */
			uint64_t n = MIN(c->len - at, 512 - (c->offset + at) % 512);

			if (memdisk_random(&m->seed, 2))
				apply(m, c, at, n);
			at += n;
		}
	}
	return m;
}
