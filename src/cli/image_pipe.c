// SPDX-License-Identifier: Apache-2.0
/*
 * image_pipe.c - the content of a disk into another one, many parts at a time.
 *
 * Parts of the disk are read, looked at and written, each as soon as it can be; writes begin in the
 * order of the disk, so that its clusters lie in order. What the source's map calls zeros is not
 * read, and what is zeros is not written, so that a sparse disk costs what it holds; to a target that
 * is not new zeros are written by requests that say so. Where the copy
 * is to be durable, a thread has the kernel begin to write what is in its cache, so that at the end
 * little is left to wait for.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "cli/image.h"

#define PART		 (1u << 20)
#define AT_ONCE		 16u
#define ZEROES_MAX	 (1u << 30) /* of one request */
#define MAX_WRITES	 (PART / 4096)
#define WRITE_BACK_BYTES (32u << 20)

struct pipe;

struct part_write {
	struct disk_req req;
	struct iovec iov;
	struct part *part;
};

/* Part of the disk on its way. */
struct part {
	struct pipe *pipe;
	uint64_t offset, len;
	uint8_t *bytes;
	struct disk_req read;
	struct iovec iov;
	struct part_write writes[MAX_WRITES];
	unsigned writing; /* requests */
	bool zero; /* all of it, and not read */
	bool is_read;
};

struct write_back {
	GThread *thread;
	GMutex lock;
	GCond wake;
	int fd;
	uint64_t bytes; /* since the last time */
	bool ending;
};

struct pipe {
	const struct image_copy *o;
	uint64_t at; /* of the source, to be looked at next */
	struct disk_map map; /* of the source, up to mapped_to */
	uint64_t mapped_to;
	struct part *parts;
	unsigned first, count; /* those in use, a ring, in the order of the disk */
	unsigned to_write;     /* of them, how many are handed to the target or over */
	bool pumping, changed, all_read;
	int result;
	const char *failed;
	struct write_back back;
};

static bool is_zero(const uint8_t *p, uint64_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void fail(struct pipe *p, const struct disk *disk, int r)
{
	if (p->result == 0) {
		p->result = r;
		p->failed = disk->path;
	}
}

/* ---- writing back ---- */

static void *write_back_main(void *arg)
{
	struct write_back *b = arg;

	g_mutex_lock(&b->lock);
	while (!b->ending) {
		if (b->bytes < WRITE_BACK_BYTES) {
			g_cond_wait(&b->wake, &b->lock);
			continue;
		}
		b->bytes = 0;
		g_mutex_unlock(&b->lock);
		/* Only a beginning: what fails is told by the synchronization at the end. */
		(void)sync_file_range(b->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		g_mutex_lock(&b->lock);
	}
	g_mutex_unlock(&b->lock);
	return NULL;
}

static void write_back_begin(struct write_back *b, const char *path)
{
	b->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (b->fd < 0)
		return;
	g_mutex_init(&b->lock);
	g_cond_init(&b->wake);
	b->thread = g_thread_new("write back", write_back_main, b);
}

static void write_back_more(struct write_back *b, uint64_t bytes)
{
	if (!b->thread)
		return;
	g_mutex_lock(&b->lock);
	b->bytes += bytes;
	if (b->bytes >= WRITE_BACK_BYTES)
		g_cond_signal(&b->wake);
	g_mutex_unlock(&b->lock);
}

static void write_back_end(struct write_back *b)
{
	if (!b->thread)
		return;
	g_mutex_lock(&b->lock);
	b->ending = true;
	g_cond_signal(&b->wake);
	g_mutex_unlock(&b->lock);
	g_thread_join(b->thread);
	g_cond_clear(&b->wake);
	g_mutex_clear(&b->lock);
	close(b->fd);
}

/* ---- parts ---- */

static void pump(struct pipe *p);

/* What lies at p->at. A map far away costs a trip, and is used up first. */
static int look(struct pipe *p)
{
	struct disk_req req = { .op = DISK_MAP, .offset = p->at, .len = p->o->end - p->at };
	int r;

	if (p->at < p->mapped_to)
		return 0;
	r = disk_run(p->o->from, &req);
	p->map = req.map;
	p->mapped_to = r < 0 ? p->at : p->at + req.map.len;
	return r;
}

/* Zeros to be written, whole pieces of them, beginning at one. 0: there is no whole one. */
static uint64_t zeros_here(const struct pipe *p)
{
	uint64_t len = MIN(p->mapped_to - p->at, ZEROES_MAX);

	return p->mapped_to >= p->o->end && len < ZEROES_MAX ? len : len - len % p->o->piece;
}

/* Behind the end of the source. */
static void next_behind(const struct pipe *p, struct part *part)
{
	uint64_t size = p->o->to->size_bytes;

	part->zero = true;
	part->len = p->o->zeroes && p->at < size ? MIN(size - p->at, ZEROES_MAX) : 0;
}

/* The next part of the source that is not zeros by the map, or is to be written all the same;
 * len 0: none. */
static int next_part(struct pipe *p, struct part *part)
{
	const struct image_copy *o = p->o;

	while (p->at < o->end) {
		uint64_t end, limit;
		int r = look(p);

		if (r < 0)
			return r;
		part->zero = p->map.state == DISK_ABSENT || p->map.state == DISK_ZERO;
		if (part->zero && !o->zeroes) {
			p->at = p->mapped_to;
			continue;
		}
		part->len = part->zero ? zeros_here(p) : 0;
		if (part->len > 0)
			return 0;
		part->zero = false;
		/* Whole pieces, so that no cluster is written twice. */
		end = p->mapped_to;
		p->at -= p->at % o->piece;
		end += o->piece - 1;
		end -= end % o->piece;
		limit = p->at + PART - p->at % PART;
		end = MIN(MIN(end, limit), o->end);
		part->len = end - p->at;
		return 0;
	}
	next_behind(p, part);
	return 0;
}

static void read_done(struct disk_req *req, int result)
{
	struct part *part = (struct part *)((char *)req - offsetof(struct part, read));

	if (result < 0)
		fail(part->pipe, part->pipe->o->from, result);
	part->is_read = true;
	part->pipe->changed = true;
	pump(part->pipe);
}

static void write_done(struct disk_req *req, int result)
{
	struct part *part = ((struct part_write *)req)->part;

	if (result < 0)
		fail(part->pipe, part->pipe->o->to, result);
	part->writing--;
	part->pipe->changed = true;
	pump(part->pipe);
}

static bool begin_read(struct pipe *p)
{
	struct part *part = &p->parts[(p->first + p->count) % AT_ONCE];
	int r = next_part(p, part);

	if (r < 0)
		fail(p, p->o->from, r);
	if (r < 0 || part->len == 0) {
		p->all_read = true;
		return false;
	}
	part->offset = p->at;
	part->is_read = part->zero;
	part->writing = 0;
	p->at += part->len;
	p->count++;
	if (part->zero)
		return true;
	part->iov = (struct iovec){ part->bytes, part->len };
	part->read = (struct disk_req){ .op = DISK_READ, .offset = part->offset, .len = part->len,
					.iov = &part->iov, .iov_count = 1, .done = read_done };
	disk_submit(p->o->from, &part->read);
	return true;
}

/* How much from @at on is written by one request, and whether it is zeros. */
static uint64_t run_at(const struct image_copy *o, const struct part *part, uint64_t at, bool *ret_zero)
{
	uint64_t len = 0;

	*ret_zero = true;
	if (part->zero)
		return part->len;
	while (at + len < part->len) {
		uint64_t piece = MIN(o->piece, part->len - at - len);
		bool zero = is_zero(part->bytes + at + len, piece);

		if (len > 0 && zero != *ret_zero)
			break;
		*ret_zero = zero;
		len += piece;
		if (!zero && o->compress)
			break;
	}
	return len;
}

static void begin_writes(struct pipe *p, struct part *part)
{
	const struct image_copy *o = p->o;
	unsigned n = 0;
	bool zero;

	part->writing = 1; /* until all have begun */
	for (uint64_t at = 0, len; at < part->len; at += len) {
		struct part_write *w = &part->writes[n];

		len = run_at(o, part, at, &zero);
		if (zero && !o->zeroes)
			continue;
		w->part = part;
		w->iov = (struct iovec){ part->bytes + at, len };
		w->req = (struct disk_req){ .op = zero ? DISK_WRITE_ZEROES : DISK_WRITE,
					    .offset = part->offset + at, .len = len, .unmap = zero,
					    .iov = &w->iov, .iov_count = zero ? 0 : 1,
					    .compress = o->compress, .done = write_done };
		part->writing++;
		n++;
		disk_submit(o->to, &w->req);
	}
	part->writing--;
	write_back_more(&p->back, part->zero ? 0 : part->len);
}

/* What can begin, begins. p->changed: something did, or ended. */
static void step(struct pipe *p)
{
	struct part *part;

	p->changed = false;

	/* Read ones, in order. After a failure nothing new begins. */
	while (p->to_write < p->count &&
	       (part = &p->parts[(p->first + p->to_write) % AT_ONCE])->is_read) {
		if (p->result == 0)
			begin_writes(p, part);
		p->to_write++;
		p->changed = true;
	}
	disk_kick(p->o->to);
	while (p->to_write > 0 && p->parts[p->first].writing == 0) {
		image_progress(p->o->what, p->parts[p->first].offset, p->o->end);
		p->first = (p->first + 1) % AT_ONCE;
		p->count--;
		p->to_write--;
		p->changed = true;
	}
	while (p->count < AT_ONCE && !p->all_read && p->result == 0 && !image_interrupted())
		p->changed = begin_read(p) || p->changed;
	disk_kick(p->o->from);
}

static bool is_over(const struct pipe *p)
{
	return p->count == 0 && (p->all_read || p->result < 0 || image_interrupted());
}

/* Requests may be over inside of what begins them, so this is a loop and not a recursion. */
static void pump(struct pipe *p)
{
	if (p->pumping)
		return;
	p->pumping = true;
	do
		step(p);
	while (p->changed);
	p->pumping = false;
	if (is_over(p))
		loop_stop(p->o->a->loop);
}

int image_copy_run(const struct image_copy *o, const char **ret_failed)
{
	uint8_t *bytes = image_buffer((size_t)AT_ONCE * PART);
	struct pipe p = { .o = o };
	int r;

	if (!bytes)
		return -ENOMEM;
	p.parts = g_new0(struct part, AT_ONCE);
	for (unsigned i = 0; i < AT_ONCE; i++) {
		p.parts[i].pipe = &p;
		p.parts[i].bytes = bytes + (size_t)i * PART;
	}
	if (o->write_back)
		write_back_begin(&p.back, o->write_back);
	pump(&p);
	while (!is_over(&p)) {
		loop_run(o->a->loop);
		/* The loop would wait for a server that says nothing. */
		if (image_interrupted()) {
			disk_drain(o->from);
			disk_drain(o->to);
		}
	}
	image_progress(o->what, o->end, o->end);
	r = p.result;
	*ret_failed = p.failed;
	if (r == 0 && (r = disk_flush_wait(o->to)) < 0)
		*ret_failed = o->to->path;
	write_back_end(&p.back);
	g_free(p.parts);
	free(bytes);
	return r;
}
