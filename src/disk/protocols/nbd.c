// SPDX-License-Identifier: Apache-2.0
/*
 * nbd.c - a disk that an NBD server offers, by libnbd.
 *
 * Theory of operation. libnbd keeps the connection and its own queue of commands; it is called when
 * the loop sees the socket ready, or in drain() by poll(2), and tells of commands that are over by
 * on_complete(). There it must not be called, and so those wait in a queue for nbd_digest(), which
 * completes their requests or issues the next piece of a long one.
 *
 * A piece goes straight from or to the request's memory where it lies in one segment, and else by
 * memory of ours: NBD's commands have one buffer.
 *
 * When the connection is lost, so is what was under way: each request fails with -EIO, those that come later
 * as well, and the log says so once. Unless the user gave a delay: then nbd_again.c takes over.
 *
 * Source: "The NBD protocol", doc/proto.md of the NetworkBlockDevice project; libnbd(3).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/nbd_int.h"

#define GOODBYE_MS  500
#define DRAIN_MS    1000u      /* that a drain waits for a server which is away */
#define MAX_RANGE   (1u << 30) /* bytes that one command trims, zeroes, or asks about */
#define STATE_ZERO  2u	       /* NBD_STATE_ZERO */

/* ---- commands ---- */

void nbd_put_over(struct nbd_command *c, int error)
{
	c->error = error;
	g_queue_push_tail_link(&c->d->over, &c->link);
}

/* libnbd's lock is held. */
static int on_complete(void *arg, int *error)
{
	struct nbd_command *c = arg;

	c->answered = true;
	g_queue_unlink(&c->d->out, &c->link);
	nbd_put_over(c, *error ? -*error : 0);
	return 1; /* libnbd may forget it */
}

/* The first piece of the map that is alike; pieces are in order. What is hostile is cut later. */
static int on_extents(void *arg, const char *context, uint64_t at, uint32_t *entries, size_t count,
		      int *error)
{
	struct nbd_command *c = arg;
	struct disk_req *req = c->req;
	struct disk_map *map = &req->map;

	(void)error;
	if (strcmp(context, NBD_CONTEXT))
		return 0;
	for (size_t i = 0; i + 1 < count; i += 2) {
		enum disk_state state = entries[i + 1] & STATE_ZERO ? DISK_ZERO : DISK_DATA;

		at += entries[i];
		if (at <= req->offset)
			continue;
		if (map->len > 0 && state != map->state)
			break;
		map->state = state;
		map->len = at - req->offset;
	}
	return 0;
}

static int64_t issue_map(struct nbd_command *c, nbd_completion_callback done)
{
	struct nbd_disk *d = c->d;
	struct disk_req *req = c->req;
	uint64_t from = align_down(req->offset, d->block);
	uint64_t end = MIN(align_up(req->offset + req->len, d->block), d->disk.size_bytes);
	const nbd_extent_callback extents = { .callback = on_extents, .user_data = c };

	req->map = (struct disk_map){ .host_offset = req->offset };
	return d->calls.nbd_aio_block_status(d->nbd, MIN(end - from, MAX_RANGE), from, extents, done, 0);
}

/* Memory for the piece of @c: the request's, or ours. */
static uint8_t *piece_memory(struct nbd_command *c)
{
	struct disk_req *req = c->req;
	uint64_t at = 0;

	if (req->iov_count > 0 && req->iov->iov_len >= c->len)
		return req->iov->iov_base;
	c->bounce = malloc(c->len);
	for (unsigned i = 0; c->bounce && req->op == DISK_WRITE && at < c->len; i++) {
		uint64_t n = MIN(req->iov[i].iov_len, c->len - at);

		memcpy(c->bounce + at, req->iov[i].iov_base, n);
		at += n;
	}
	return c->bounce;
}

static int64_t issue_data(struct nbd_command *c, uint64_t at, nbd_completion_callback done)
{
	struct nbd_disk *d = c->d;
	bool read = c->req->op == DISK_READ;
	uint8_t *memory;

	/* What lies behind the end of an odd export is zeros, see step(). */
	c->len = MIN(MIN(c->req->len - c->req->progress, d->max_data), d->disk.size_bytes - at);
	memory = piece_memory(c);
	if (!memory) {
		c->error = -ENOMEM;
		return -1;
	}
	return read ? d->calls.nbd_aio_pread(d->nbd, memory, c->len, at, done, 0) :
		      d->calls.nbd_aio_pwrite(d->nbd, memory, c->len, at, done,
				     d->fua ? LIBNBD_CMD_FLAG_FUA : 0);
}

static int64_t issue_zeroes(struct nbd_command *c, uint64_t at, nbd_completion_callback done)
{
	struct nbd_disk *d = c->d;
	uint64_t left = c->req->len - c->req->progress;
	uint32_t flags = d->fua ? LIBNBD_CMD_FLAG_FUA : 0;

	if (d->can_zero) {
		c->len = MIN(left, MAX_RANGE);
		return d->calls.nbd_aio_zero(d->nbd, c->len, at, done,
				    flags | (c->req->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE));
	}
	if (!d->zeros)
		d->zeros = calloc(1, d->max_data);
	if (!d->zeros) {
		c->error = -ENOMEM;
		return -1;
	}
	c->len = MIN(left, d->max_data);
	return d->calls.nbd_aio_pwrite(d->nbd, d->zeros, c->len, at, done, flags);
}

static int64_t issue_as(struct nbd_command *c, nbd_completion_callback done)
{
	struct nbd_disk *d = c->d;
	struct disk_req *req = c->req;
	uint64_t at = req->offset + req->progress;

	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
		return issue_data(c, at, done);
	case DISK_FLUSH:
		c->flushes = nbd_again_noted(d);
		return d->calls.nbd_aio_flush(d->nbd, done, 0);
	case DISK_DISCARD:
		c->len = MIN(c->len, MAX_RANGE);
		return d->calls.nbd_aio_trim(d->nbd, c->len, at, done, d->fua ? LIBNBD_CMD_FLAG_FUA : 0);
	case DISK_WRITE_ZEROES:
		return issue_zeroes(c, at, done);
	case DISK_MAP:
		return issue_map(c, done);
	case DISK_RESIZE:
		break; /* at_once() */
	}
	return -1;
}

static bool is_broken(const struct nbd_disk *d)
{
	return d->calls.nbd_aio_is_dead(d->nbd) == 1 || d->calls.nbd_aio_is_closed(d->nbd) == 1;
}

static void issue(struct nbd_command *c)
{
	const nbd_completion_callback done = { .callback = on_complete, .user_data = c };
	struct nbd_disk *d = c->d;
	int error;

	c->error = 0;
	c->answered = false;
	c->len = c->req->len - c->req->progress;
	if (!d->out.length)
		silence_asked(&d->silence);
	g_queue_push_tail_link(&d->out, &c->link);
	/* A connection that breaks in here has it answered in here; libnbd 1.14 then reads what it returns from memory
	 * that it has freed. */
	if (issue_as(c, done) >= 0 || c->answered)
		return;
	/* on_complete() is not called for this one. */
	error = c->error ? c->error : is_broken(d) ? -ENOTCONN : -d->calls.nbd_get_errno();
	g_queue_unlink(&d->out, &c->link);
	nbd_put_over(c, error ? error : -EIO);
}

void nbd_start(struct nbd_command *c)
{
	struct nbd_disk *d = c->d;

	if (d->lost)
		nbd_put_over(c, -EIO);
	else if (nbd_again_holds(c))
		g_queue_push_tail_link(&d->held, &c->link);
	else
		issue(c);
}

static struct nbd_command *command_new(struct nbd_disk *d, struct disk_req *req)
{
	GList *link = g_queue_pop_head_link(&d->spare);
	struct nbd_command *c = link ? link->data : calloc(1, sizeof(*c));

	if (c)
		*c = (struct nbd_command){ .link.data = c, .d = d, .req = req };
	return c;
}

bool nbd_start_own(struct nbd_disk *d, struct disk_req *req)
{
	struct nbd_command *c = command_new(d, req);

	if (!c)
		return false;
	c->own = true;
	issue(c);
	return true;
}

static void map_end(struct disk_req *req)
{
	struct disk_map *map = &req->map;

	/* A server that says nothing has data everywhere. */
	if (map->len == 0) {
		map->state = DISK_DATA;
		map->len = req->len;
	}
	map->len = MIN(map->len, req->len);
}

static void copy_in(struct disk_req *req, const uint8_t *bytes, uint64_t len)
{
	for (unsigned i = 0; i < req->iov_count && len > 0; i++) {
		uint64_t n = MIN(req->iov[i].iov_len, len);

		memcpy(req->iov[i].iov_base, bytes, n);
		bytes += n;
		len -= n;
	}
}

/* A piece is over. True: so is the request, with req->result. */
static bool step(struct nbd_command *c)
{
	struct disk_req *req = c->req;

	if (c->error == 0 && c->bounce && req->op == DISK_READ)
		copy_in(req, c->bounce, c->len);
	if (c->error == 0)
		nbd_again_done(c);
	g_clear_pointer(&c->bounce, free);
	/* A hint: where it cannot be followed, nothing is lost. */
	if (req->op == DISK_DISCARD && (c->error == -ENOTSUP || c->error == -EINVAL))
		c->error = 0;
	/* What libnbd calls it when there is no connection, and the server when it is about to end. */
	req->result = c->error == -ENOTCONN || c->error == -ESHUTDOWN ? -EIO : c->error;
	if (c->error || req->op == DISK_FLUSH)
		return true;
	if (req->op == DISK_MAP) {
		map_end(req);
		return true;
	}
	req->progress += c->len;
	if (req->op == DISK_READ || req->op == DISK_WRITE)
		disk_req_advance(req, c->len);
	if (req->op == DISK_READ && req->offset + req->progress >= c->d->disk.size_bytes) {
		disk_req_zero_rest(req);
		return true;
	}
	return req->progress >= req->len;
}

/* ---- the connection ---- */

void nbd_drop_watch(struct nbd_disk *d)
{
	loop_fd_remove(d->watch);
	d->watch = NULL;
	d->events = 0;
}

void nbd_lose(struct nbd_disk *d)
{
	GList *link;

	d->lost = true;
	nbd_drop_watch(d);
	if (d->nbd)
		d->calls.nbd_close(d->nbd);
	d->nbd = NULL;
	while ((link = g_queue_pop_head_link(&d->out)) || (link = g_queue_pop_head_link(&d->held))) {
		struct nbd_command *c = link->data;

		g_clear_pointer(&c->bounce, free);
		if (c->own)
			g_queue_push_head_link(&d->spare, link);
		else
			nbd_put_over(c, -EIO);
	}
}

void nbd_look(struct nbd_disk *d)
{
	unsigned way;
	uint32_t events;

	if (d->lost || !d->nbd)
		return;
	if (is_broken(d) && d->again) {
		nbd_again_begin(d);
		return;
	}
	if (is_broken(d)) {
		d->lost = true;
		nbd_drop_watch(d);
		log_warn("disk '%s': the connection to its server is lost, requests fail from now on",
			 d->disk.path);
		return;
	}
	way = d->calls.nbd_aio_get_direction(d->nbd);
	events = (way & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0u) |
		 (way & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0u);
	if (d->watch && events != d->events)
		loop_fd_modify(d->watch, events);
	d->events = events;
}

/* It was not done because the connection is lost, or is about to be. */
static bool is_for_later(const struct nbd_command *c)
{
	return c->d->again && !c->d->lost && (c->error == -ENOTCONN || c->error == -ESHUTDOWN);
}

static void end(struct nbd_command *c)
{
	struct nbd_disk *d = c->d;
	struct disk_req *req = c->req;

	if (!c->own)
		d->under_way--;
	g_queue_push_head_link(&d->spare, &c->link);
	req->done(req, req->result);
}

void nbd_digest(struct nbd_disk *d)
{
	bool before = d->digesting;
	GList *link;

	d->digesting = true;
	/* A request may be done without the server, and a look may find that there are more. */
	do {
		while ((link = g_queue_pop_head_link(&d->over))) {
			struct nbd_command *c = link->data;

			if (is_for_later(c)) {
				g_queue_push_tail_link(&d->out, &c->link);
				nbd_again_begin(d);
			} else if (step(c)) {
				end(c);
			} else {
				nbd_start(c);
			}
		}
		nbd_look(d);
	} while (d->over.length > 0);
	d->digesting = before;
}

void nbd_on_ready(void *arg, uint32_t events)
{
	struct nbd_disk *d = arg;
	unsigned way = d->calls.nbd_aio_get_direction(d->nbd);
	bool broken = events & (EPOLLHUP | EPOLLERR);

	if (events & EPOLLIN)
		silence_heard(&d->silence);
	/* Errors are found in the state of the handle. */
	if ((way & LIBNBD_AIO_DIRECTION_READ) && (broken || (events & EPOLLIN)))
		(void)d->calls.nbd_aio_notify_read(d->nbd);
	else if ((way & LIBNBD_AIO_DIRECTION_WRITE) && (broken || (events & EPOLLOUT)))
		(void)d->calls.nbd_aio_notify_write(d->nbd);
	nbd_digest(d);
}

/* ---- the node ---- */

/* What needs no command, or is none: true, and the result. */
static bool at_once(struct nbd_disk *d, struct disk_req *req, int *ret_result)
{
	uint64_t inside = req->offset < d->disk.size_bytes ? d->disk.size_bytes - req->offset : 0;

	*ret_result = 0;
	if (req->op == DISK_RESIZE) {
		*ret_result = -EOPNOTSUPP;
		return true;
	}
	if (d->lost || nbd_again_is_late(d)) {
		*ret_result = -EIO;
		return true;
	}
	if (req->op == DISK_FLUSH && (*ret_result = nbd_again_flush_error(d)) < 0)
		return true;
	if (req->op == DISK_FLUSH)
		return d->no_flush || d->fua || !d->can_flush;
	if (req->op == DISK_DISCARD && !d->can_trim)
		return true;
	if (req->op == DISK_MAP && !d->can_map) {
		req->map = (struct disk_map){ .state = DISK_DATA, .len = req->len,
					      .host_offset = req->offset };
		return true;
	}
	/* Behind the end of an export of an odd size, up to a whole sector. */
	if (inside >= req->len)
		return false;
	if (req->op == DISK_MAP || req->op == DISK_READ) {
		if (inside > 0)
			return false;
		disk_req_zero_rest(req);
		req->map = (struct disk_map){ .state = DISK_ZERO, .len = req->len,
					      .host_offset = req->offset };
		return true;
	}
	*ret_result = -ENOSPC;
	return true;
}

static void nbd_submit(struct disk *disk, struct disk_req *req)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;
	struct nbd_command *c;
	int result;

	if (at_once(d, req, &result)) {
		req->done(req, result);
		return;
	}
	c = command_new(d, req);
	if (!c) {
		req->done(req, -ENOMEM);
		return;
	}
	d->under_way++;
	nbd_start(c);
}

static void nbd_kick(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;

	if (!d->digesting)
		nbd_digest(d);
}

/* The server says nothing. Where it may come back, it is tried to be reached anew. */
static void give_up(struct nbd_disk *d)
{
	silence_give_up(&d->silence, &d->disk, d->under_way);
	if (d->again)
		nbd_again_begin(d);
	else
		nbd_lose(d);
}

static void nbd_drain(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;
	uint64_t begin_ns = loop_now_ns(), end_ns = begin_ns + DRAIN_MS * 1000000ull;
	int ms;

	/* Once lost all commands are over. */
	for (nbd_digest(d); d->under_way > 0 && !d->lost; nbd_digest(d)) {
		if (!d->nbd)
			nbd_again_wait(d, end_ns);
		else if ((ms = silence_wait_ms(&d->silence, disk, begin_ns)) == 0)
			give_up(d);
		else if (d->calls.nbd_poll(d->nbd, ms) > 0)
			silence_heard(&d->silence);
	}
}

static void say_goodbye(struct nbd_disk *d)
{
	if (d->lost || !d->nbd || d->calls.nbd_aio_disconnect(d->nbd, 0) < 0)
		return;
	while (!is_broken(d))
		if (d->calls.nbd_poll(d->nbd, GOODBYE_MS) <= 0)
			return;
}

static void free_queue(GQueue *queue)
{
	GList *link;

	while ((link = g_queue_pop_head_link(queue)))
		free(link->data);
}

void nbd_free(struct nbd_disk *d)
{
	nbd_drop_watch(d);
	nbd_again_free(d);
	if (d->nbd)
		d->calls.nbd_close(d->nbd);
	/* Ours may be under way still. */
	free_queue(&d->out);
	free_queue(&d->over);
	free_queue(&d->held);
	free_queue(&d->spare);
	free(d->zeros);
	g_free(d->disk.path);
	free(d);
}

static void nbd_disk_close(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;

	nbd_drop_watch(d);
	say_goodbye(d);
	nbd_free(d);
}

const struct disk_ops nbd_ops = {
	.submit = nbd_submit,
	.kick = nbd_kick,
	.drain = nbd_drain,
	.close = nbd_disk_close,
};
