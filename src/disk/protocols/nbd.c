// SPDX-License-Identifier: Apache-2.0
/*
 * nbd.c - a disk that an NBD server offers, by libnbd.
 *
 * Theory of operation. libnbd keeps the connection and its own queue of commands; it is called when
 * the loop sees the socket ready, or in drain() by poll(2), and tells of commands that are over by
 * on_complete(). There it must not be called, and so those wait in a list for digest(), which
 * completes their requests or issues the next piece of a long one.
 *
 * A piece goes straight from or to the request's memory where it lies in one segment, and else by
 * memory of ours: NBD's commands have one buffer.
 *
 * When the connection is lost, so is what was under way: each request fails with -EIO, those that come later
 * as well, and the log says so once. Nothing is sent again: whether the server's disk still holds what it had
 * acknowledged and not yet flushed cannot be known.
 *
 * Source: "The NBD protocol", doc/proto.md of the NetworkBlockDevice project; libnbd(3).
 */
#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/library.h"
#include "disk/protocols/protocols.h"

#define DEFAULT_PORT   "10809" /* IANA's for nbd */
#define CONNECT_MS     30000u
#define GOODBYE_MS     500
#define MAX_DATA       (4u << 20) /* bytes that one command moves */
#define MAX_RANGE      (1u << 30) /* bytes that one command trims, zeroes, or asks about */
#define MAX_BLOCK      (64u << 10) /* the largest smallest one */
#define CONTEXT	       "base:allocation"
#define STATE_ZERO     2u /* NBD_STATE_ZERO */

#define CALLS(X) \
	X(nbd_add_meta_context) X(nbd_aio_block_status) X(nbd_aio_connect_socket) \
	X(nbd_aio_connect_tcp) X(nbd_aio_connect_unix) X(nbd_aio_connect_uri) \
	X(nbd_aio_disconnect) X(nbd_aio_flush) X(nbd_aio_get_direction) X(nbd_aio_get_fd) \
	X(nbd_aio_is_closed) X(nbd_aio_is_dead) X(nbd_aio_is_ready) X(nbd_aio_notify_read) \
	X(nbd_aio_notify_write) X(nbd_aio_pread) X(nbd_aio_pwrite) X(nbd_aio_trim) \
	X(nbd_aio_zero) X(nbd_can_flush) X(nbd_can_fua) X(nbd_can_meta_context) \
	X(nbd_can_trim) X(nbd_can_zero) X(nbd_close) X(nbd_create) X(nbd_get_block_size) \
	X(nbd_get_errno) X(nbd_get_error) X(nbd_get_size) X(nbd_is_read_only) X(nbd_poll) \
	X(nbd_set_export_name) X(nbd_set_uri_allow_local_file)

struct calls {
	CALLS(LIBRARY_FIELD)
};

static const char *const call_names[] = { CALLS(LIBRARY_NAME) };
static const char *const library_files[] = { "libnbd.so.0", NULL };

struct command {
	struct nbd_disk *d;
	struct disk_req *req;
	struct command *next; /* spare, or over */
	uint8_t *bounce;      /* of this piece; NULL: straight */
	uint64_t len;	      /* of this piece */
	int error;	      /* 0 or -errno */
};

struct nbd_disk {
	struct disk disk;
	struct loop *loop;
	struct calls calls;
	struct nbd_handle *nbd;
	struct loop_fd *watch;
	uint32_t events;   /* that are watched for */
	uint64_t block;	   /* offsets and lengths are multiples of it */
	uint64_t max_data; /* a multiple of the block */
	bool can_flush, can_fua, can_trim, can_zero, can_map;
	bool fua;      /* changes are durable when they complete, flushes have nothing to do */
	bool no_flush; /* the user wants none */
	bool lost;
	bool digesting; /* done() is being called: kick() is for afterwards */
	struct command *spare;
	struct command *over, **over_tail;
	unsigned under_way;
	void *zeros; /* max_data of them, once they are needed */
};

/* ---- commands ---- */

static void put_over(struct command *c)
{
	struct nbd_disk *d = c->d;

	c->next = NULL;
	*d->over_tail = c;
	d->over_tail = &c->next;
}

/* libnbd's lock is held. */
static int on_complete(void *arg, int *error)
{
	struct command *c = arg;

	c->error = *error ? -*error : 0;
	put_over(c);
	return 1; /* libnbd may forget it */
}

/* The first piece of the map that is alike; pieces are in order. What is hostile is cut later. */
static int on_extents(void *arg, const char *context, uint64_t at, uint32_t *entries, size_t count,
		      int *error)
{
	struct command *c = arg;
	struct disk_req *req = c->req;
	struct disk_map *map = &req->map;

	(void)error;
	if (strcmp(context, CONTEXT))
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

static int64_t issue_map(struct command *c, nbd_completion_callback done)
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
static uint8_t *piece_memory(struct command *c)
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

static int64_t issue_data(struct command *c, uint64_t at, nbd_completion_callback done)
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

static int64_t issue_zeroes(struct command *c, uint64_t at, nbd_completion_callback done)
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

static void issue(struct command *c)
{
	const nbd_completion_callback done = { .callback = on_complete, .user_data = c };
	struct nbd_disk *d = c->d;
	struct disk_req *req = c->req;
	uint64_t at = req->offset + req->progress;
	int64_t cookie = -1;

	c->error = 0;
	c->len = req->len - req->progress;
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
		cookie = issue_data(c, at, done);
		break;
	case DISK_FLUSH:
		cookie = d->calls.nbd_aio_flush(d->nbd, done, 0);
		break;
	case DISK_DISCARD:
		c->len = MIN(c->len, MAX_RANGE);
		cookie = d->calls.nbd_aio_trim(d->nbd, c->len, at, done, d->fua ? LIBNBD_CMD_FLAG_FUA : 0);
		break;
	case DISK_WRITE_ZEROES:
		cookie = issue_zeroes(c, at, done);
		break;
	case DISK_MAP:
		cookie = issue_map(c, done);
		break;
	case DISK_RESIZE:
		break; /* at_once() */
	}
	if (cookie >= 0)
		return;
	/* on_complete() is not called for this one. */
	if (!c->error)
		c->error = d->lost || !d->calls.nbd_get_errno() ? -EIO : -d->calls.nbd_get_errno();
	put_over(c);
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
static bool step(struct command *c)
{
	struct disk_req *req = c->req;

	if (c->error == 0 && c->bounce && req->op == DISK_READ)
		copy_in(req, c->bounce, c->len);
	g_clear_pointer(&c->bounce, free);
	/* A hint: where it cannot be followed, nothing is lost. */
	if (req->op == DISK_DISCARD && (c->error == -ENOTSUP || c->error == -EINVAL))
		c->error = 0;
	req->result = c->error;
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

static void drop_watch(struct nbd_disk *d)
{
	loop_fd_remove(d->watch);
	d->watch = NULL;
	d->events = 0;
}

static void on_ready(void *arg, uint32_t events);

/* What libnbd waits for, to the loop; and whether there still is a connection. */
static void look(struct nbd_disk *d)
{
	unsigned way;
	uint32_t events;

	if (d->lost)
		return;
	if (d->calls.nbd_aio_is_dead(d->nbd) == 1 || d->calls.nbd_aio_is_closed(d->nbd) == 1) {
		d->lost = true;
		drop_watch(d);
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

/* Complete what is over. Whoever is called there may submit more. */
static void digest(struct nbd_disk *d)
{
	bool before = d->digesting;
	struct command *c;

	d->digesting = true;
	while ((c = d->over)) {
		struct disk_req *req = c->req;

		d->over = c->next;
		if (!d->over)
			d->over_tail = &d->over;
		if (!step(c)) {
			issue(c);
			continue;
		}
		c->next = d->spare;
		d->spare = c;
		d->under_way--;
		req->done(req, req->result);
	}
	d->digesting = before;
	look(d);
}

static void on_ready(void *arg, uint32_t events)
{
	struct nbd_disk *d = arg;
	unsigned way = d->calls.nbd_aio_get_direction(d->nbd);
	bool broken = events & (EPOLLHUP | EPOLLERR);

	/* Errors are found in the state of the handle. */
	if ((way & LIBNBD_AIO_DIRECTION_READ) && (broken || (events & EPOLLIN)))
		(void)d->calls.nbd_aio_notify_read(d->nbd);
	else if ((way & LIBNBD_AIO_DIRECTION_WRITE) && (broken || (events & EPOLLOUT)))
		(void)d->calls.nbd_aio_notify_write(d->nbd);
	digest(d);
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
	if (d->lost) {
		*ret_result = -EIO;
		return true;
	}
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
	struct command *c = d->spare;
	int result;

	if (at_once(d, req, &result)) {
		req->done(req, result);
		return;
	}
	if (c)
		d->spare = c->next;
	else
		c = calloc(1, sizeof(*c));
	if (!c) {
		req->done(req, -ENOMEM);
		return;
	}
	c->d = d;
	c->req = req;
	d->under_way++;
	issue(c);
}

static void nbd_kick(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;

	if (!d->digesting)
		digest(d);
}

static void nbd_drain(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;

	/* Without a connection all commands are over. */
	for (digest(d); d->under_way > 0 && !d->lost; digest(d))
		(void)d->calls.nbd_poll(d->nbd, -1);
}

static void say_goodbye(struct nbd_disk *d)
{
	if (d->lost || d->calls.nbd_aio_disconnect(d->nbd, 0) < 0)
		return;
	while (d->calls.nbd_aio_is_closed(d->nbd) == 0 && d->calls.nbd_aio_is_dead(d->nbd) == 0)
		if (d->calls.nbd_poll(d->nbd, GOODBYE_MS) <= 0)
			return;
}

static void nbd_free(struct nbd_disk *d)
{
	struct command *c;

	drop_watch(d);
	if (d->nbd)
		d->calls.nbd_close(d->nbd);
	while ((c = d->spare)) {
		d->spare = c->next;
		free(c);
	}
	free(d->zeros);
	g_free(d->disk.path);
	free(d);
}

static void nbd_disk_close(struct disk *disk)
{
	struct nbd_disk *d = (struct nbd_disk *)disk;

	drop_watch(d);
	say_goodbye(d);
	nbd_free(d);
}

static const struct disk_ops nbd_ops = {
	.submit = nbd_submit,
	.kick = nbd_kick,
	.drain = nbd_drain,
	.close = nbd_disk_close,
};

/* ---- opening ---- */

/* libnbd begins its sentences with the name of the call; and a server's words stand in them. */
static bool fail(const struct nbd_disk *d, const char *what, const char *why, GError **err)
{
	const char *colon = why && g_str_has_prefix(why, "nbd_") ? strstr(why, ": ") : NULL;
	g_autofree char *text = g_strdup(colon ? colon + 2 : why ? why : "it does not answer");

	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return base_fail(err, EIO, "disk '%s': %s: %s", d->disk.path, what, text);
}

/* QEMU's older form: nbd:unix:PATH[:exportname=NAME], nbd:HOST:PORT[:exportname=NAME]. */
static int begin_plain(struct nbd_disk *d, const char *name)
{
	g_autofree char *rest = g_strdup(name + strlen("nbd:"));
	char *export = strstr(rest, ":exportname="), *port;

	if (export) {
		*export = 0;
		if (d->calls.nbd_set_export_name(d->nbd, export + strlen(":exportname=")) < 0)
			return -1;
	}
	if (g_str_has_prefix(rest, "unix:"))
		return d->calls.nbd_aio_connect_unix(d->nbd, rest + strlen("unix:"));
	port = strrchr(rest, ':');
	if (port && port[-1] != ']' && strchr(rest, ':') != port)
		port = NULL; /* an address of IPv6 without brackets has no port */
	if (port)
		*port++ = 0;
	if (rest[0] == '[' && rest[strlen(rest) - 1] == ']') {
		rest[strlen(rest) - 1] = 0;
		return d->calls.nbd_aio_connect_tcp(d->nbd, rest + 1, port ? port : DEFAULT_PORT);
	}
	return d->calls.nbd_aio_connect_tcp(d->nbd, rest, port ? port : DEFAULT_PORT);
}

static int begin(struct nbd_disk *d, const char *name, bool named)
{
	bool plain = g_str_has_prefix(name, "nbd:") && !g_str_has_prefix(name, "nbd://");

	if (d->calls.nbd_set_uri_allow_local_file(d->nbd, !named) < 0)
		return -1;
	return plain ? begin_plain(d, name) : d->calls.nbd_aio_connect_uri(d->nbd, name);
}

/* Until the handshake is through; there is no hurry, but an end. */
static bool finish_handshake(struct nbd_disk *d, GError **err)
{
	uint64_t end = loop_now_ns() + CONNECT_MS * 1000000ull, now;

	while (d->calls.nbd_aio_is_ready(d->nbd) != 1) {
		if (d->calls.nbd_aio_is_dead(d->nbd) == 1 || d->calls.nbd_aio_is_closed(d->nbd) == 1)
			return fail(d, "cannot be reached", "the server hung up", err);
		now = loop_now_ns();
		if (now >= end)
			return fail(d, "cannot be reached", NULL, err);
		if (d->calls.nbd_poll(d->nbd, (int)((end - now) / 1000000) + 1) < 0)
			return fail(d, "cannot be reached", d->calls.nbd_get_error(), err);
	}
	return true;
}

/* A host that is gone without a word is noticed within a minute. */
static void keep_alive(int fd)
{
	const int on = 1, idle_s = 20, every_s = 10, times = 4, unanswered_ms = 60000;

	/* Unix sockets refuse all of it. */
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof(unanswered_ms));
}

static bool ask_sizes(struct nbd_disk *d, GError **err)
{
	int64_t size = d->calls.nbd_get_size(d->nbd);
	int64_t least = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_MINIMUM);
	int64_t good = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_PREFERRED);
	int64_t most = d->calls.nbd_get_block_size(d->nbd, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return fail(d, "its size is not told", d->calls.nbd_get_error(), err);
	d->disk.size_bytes = (uint64_t)size;
	d->disk.block_bytes = good >= 4096 ? 4096 : DISK_SECTOR_SIZE;
	d->block = least > 0 ? (uint64_t)least : 1;
	if (d->block > MAX_BLOCK || (d->block & (d->block - 1)))
		return base_fail(err, EINVAL, "disk '%s': its server has blocks of %" G_GINT64_FORMAT " bytes",
				 d->disk.path, least);
	d->max_data = most > 0 ? MIN((uint64_t)most, MAX_DATA) : MAX_DATA;
	d->max_data = MAX(align_down(d->max_data, d->block), d->block);
	return true;
}

static bool ask(struct nbd_disk *d, const struct disk_options *o, GError **err)
{
	bool through = o->cache == DISK_CACHE_WRITETHROUGH || o->cache == DISK_CACHE_DIRECTSYNC;

	if (!ask_sizes(d, err))
		return false;
	if (!o->readonly && d->calls.nbd_is_read_only(d->nbd) == 1)
		return base_fail(err, EROFS, "disk '%s': its server lets nobody write (add 'readonly' to use "
					     "it as it is)", d->disk.path);
	d->can_flush = d->calls.nbd_can_flush(d->nbd) == 1;
	d->can_fua = d->calls.nbd_can_fua(d->nbd) == 1;
	d->can_trim = d->calls.nbd_can_trim(d->nbd) == 1;
	d->can_zero = d->calls.nbd_can_zero(d->nbd) == 1;
	d->can_map = d->calls.nbd_can_meta_context(d->nbd, CONTEXT) == 1;
	d->no_flush = o->cache == DISK_CACHE_UNSAFE;
	d->fua = d->can_fua && !d->no_flush && (through || !d->can_flush);
	if (!d->can_flush && !d->can_fua && !o->readonly)
		log_info("disk '%s': its server knows no flush: when what is written is durable is its "
			 "own affair", d->disk.path);
	d->disk.readonly = o->readonly;
	d->disk.can_discard = !o->readonly;
	return true;
}

static struct nbd_disk *nbd_disk_new(const char *name, struct loop *loop, GError **err)
{
	struct nbd_disk *d = calloc(1, sizeof(*d));

	if (!d) {
		base_fail(err, ENOMEM, "disk '%s': no memory", name);
		return NULL;
	}
	d->loop = loop;
	d->over_tail = &d->over;
	d->disk = (struct disk){ .ops = &nbd_ops, .format = "nbd", .path = g_strdup(name) };
	if (!library_load(library_files, call_names, G_N_ELEMENTS(call_names), &d->calls, name, err)) {
		nbd_free(d);
		return NULL;
	}
	d->nbd = d->calls.nbd_create();
	if (d->nbd && d->calls.nbd_add_meta_context(d->nbd, CONTEXT) == 0)
		return d;
	fail(d, "cannot be opened", d->calls.nbd_get_error(), err);
	nbd_free(d);
	return NULL;
}

/* Takes over @d. */
static struct disk *finish_open(struct nbd_disk *d, const struct disk_options *o, GError **err)
{
	struct disk *aligned;
	int fd;

	if (!finish_handshake(d, err) || !ask(d, o, err))
		goto err;
	fd = d->calls.nbd_aio_get_fd(d->nbd);
	keep_alive(fd);
	d->events = EPOLLIN;
	d->watch = loop_fd_add(d->loop, fd, d->events, on_ready, d);
	if (!d->watch) {
		base_fail(err, ENOMEM, "disk '%s': cannot be watched", d->disk.path);
		goto err;
	}
	look(d);
	if (d->block == 1)
		return &d->disk;
	aligned = disk_direct_over(&d->disk, (uint32_t)d->block);
	if (aligned)
		return aligned;
	base_fail(err, ENOMEM, "disk '%s': no memory", d->disk.path);
err:
	nbd_disk_close(&d->disk);
	return NULL;
}

struct disk *nbd_disk_open(const char *name, const struct disk_options *o, bool named,
			   struct loop *loop, GError **err)
{
	struct nbd_disk *d = nbd_disk_new(name, loop, err);

	if (!d)
		return NULL;
	if (begin(d, name, named) == 0)
		return finish_open(d, o, err);
	fail(d, "cannot be reached", d->calls.nbd_get_error(), err);
	nbd_free(d);
	return NULL;
}

struct disk *nbd_disk_open_socket(int fd, const char *name, const struct disk_options *o,
				  struct loop *loop, GError **err)
{
	struct nbd_disk *d = nbd_disk_new(name, loop, err);

	if (!d || d->calls.nbd_aio_connect_socket(d->nbd, fd) < 0) {
		if (d)
			fail(d, "cannot be reached", d->calls.nbd_get_error(), err);
		if (d)
			nbd_free(d);
		(void)close(fd);
		return NULL;
	}
	return finish_open(d, o, err);
}
