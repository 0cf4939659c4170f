// SPDX-License-Identifier: Apache-2.0
/*
 * char.c - bytes between a device and a pair of descriptors.
 *
 * Output: char_write() puts bytes into a ring and, when nothing waits there, tries the descriptor at
 * once, so that a line of a guest's console costs no thread switch. What the descriptor does not
 * take is the loop's to write when it can. Without a descriptor (nobody connected) the newest bytes
 * are kept.
 *
 * Input: the loop reads into a small buffer, lets the backend filter it, and hands on what the client
 * has room for.
 */
#include "char/char.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "char/char_int.h"

/* What a ready but blocking terminal or pipe surely takes. */
#define POLLED_CHUNK   512u
#define CLOSE_WAIT_NS  1000000000ull
#define CLOSE_STEP_MS  50

static void wake(struct chardev *chr)
{
	uint64_t one = 1;
	/* Fails only on a full counter, which wakes as well. */
	ssize_t n = write(chr->wake_fd, &one, sizeof(one));

	(void)n;
}

/* ---- output ---- */

static size_t out_contiguous(const struct chardev *chr)
{
	size_t to_end = CHAR_OUT_BYTES - chr->out_head;

	return chr->out_len < to_end ? chr->out_len : to_end;
}

static ssize_t out_once(struct chardev *chr, size_t len)
{
	const uint8_t *p = chr->out + chr->out_head;
	struct pollfd pfd = { .fd = chr->out_fd, .events = POLLOUT };

	if (chr->out_is_socket)
		return send(chr->out_fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (chr->out_must_poll) {
		if (poll(&pfd, 1, 0) <= 0) {
			errno = EAGAIN;
			return -1;
		}
		if (len > POLLED_CHUNK)
			len = POLLED_CHUNK;
	}
	return write(chr->out_fd, p, len);
}

/* lock held. Write until the ring is empty or the descriptor does not take more. */
static void out_flush(struct chardev *chr)
{
	while (chr->out_len > 0 && chr->out_fd >= 0 && !chr->out_dead) {
		ssize_t n = out_once(chr, out_contiguous(chr));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			chr->out_dead = true;
			break;
		}
		chr->out_head = (chr->out_head + (size_t)n) % CHAR_OUT_BYTES;
		chr->out_len -= (size_t)n;
	}
	if (chr->out_dead)
		chr->out_len = 0;
}

/* lock held. */
static void out_append(struct chardev *chr, const uint8_t *bytes, size_t len)
{
	size_t tail = (chr->out_head + chr->out_len) % CHAR_OUT_BYTES;
	size_t first = len < CHAR_OUT_BYTES - tail ? len : CHAR_OUT_BYTES - tail;

	memcpy(chr->out + tail, bytes, first);
	memcpy(chr->out, bytes + first, len - first);
	chr->out_len += len;
}

/* lock held. Nobody reads: drop the oldest. Always takes all of @len. */
static void out_keep_newest(struct chardev *chr, const uint8_t *bytes, size_t len)
{
	size_t excess;

	if (len > CHAR_OUT_BYTES) {
		bytes += len - CHAR_OUT_BYTES;
		len = CHAR_OUT_BYTES;
	}
	excess = chr->out_len + len > CHAR_OUT_BYTES ? chr->out_len + len - CHAR_OUT_BYTES : 0;
	chr->out_head = (chr->out_head + excess) % CHAR_OUT_BYTES;
	chr->out_len -= excess;
	out_append(chr, bytes, len);
}

size_t char_write(struct chardev *chr, const void *buf, size_t len)
{
	size_t taken = len;

	pthread_mutex_lock(&chr->lock);
	if (chr->out_dead)
		goto out;
	if (chr->out_fd < 0) {
		out_keep_newest(chr, buf, len);
		goto out;
	}
	taken = 0;
	do {
		size_t room = CHAR_OUT_BYTES - chr->out_len;
		size_t part = len - taken < room ? len - taken : room;

		out_append(chr, (const uint8_t *)buf + taken, part);
		taken += part;
		if (!chr->out_pending)
			out_flush(chr);
	} while (taken < len && !chr->out_pending && !chr->out_dead && chr->out_len == 0);
	/* Whatever is left, and whoever waits, is the loop's from here on. */
	if (!chr->out_pending && (chr->out_len > 0 || chr->out_dead)) {
		chr->out_pending = true;
		wake(chr);
	}
	if (chr->out_dead)
		taken = len;
	if (taken < len)
		chr->client_waits = true;
out:
	pthread_mutex_unlock(&chr->lock);
	return taken;
}

size_t char_room(struct chardev *chr)
{
	size_t room;

	pthread_mutex_lock(&chr->lock);
	room = chr->out_fd < 0 || chr->out_dead ? CHAR_OUT_BYTES : CHAR_OUT_BYTES - chr->out_len;
	pthread_mutex_unlock(&chr->lock);
	return room;
}

static void out_ready(void *arg, uint32_t events);

/* Loop's thread: write what waits, watch the descriptor while some is left, tell who waits for room
 * or of the descriptor's end. */
static void out_service(struct chardev *chr)
{
	bool room, dead, left;

	pthread_mutex_lock(&chr->lock);
	out_flush(chr);
	left = chr->out_len > 0 && chr->out_fd >= 0;
	dead = chr->out_dead && chr->out_pending;
	chr->out_pending = left;
	room = chr->client_waits && (!left || chr->out_len <= CHAR_OUT_BYTES / 2);
	if (room)
		chr->client_waits = false;
	pthread_mutex_unlock(&chr->lock);

	if (left && !chr->out_watch)
		chr->out_watch = loop_fd_add(chr->loop, chr->out_fd, EPOLLOUT, out_ready, chr);
	if (!left && chr->out_watch) {
		loop_fd_remove(chr->out_watch);
		chr->out_watch = NULL;
	}
	if (room && chr->client && chr->client->writable)
		chr->client->writable(chr->client_arg);
	if (dead && chr->ops->gone)
		chr->ops->gone(chr);
}

static void out_ready(void *arg, uint32_t events)
{
	out_service(arg);
}

/* ---- input ---- */

static void in_ready(void *arg, uint32_t events);

static void in_deliver(struct chardev *chr)
{
	const struct char_client *client = chr->client;
	size_t at = 0;

	while (client && at < chr->in_len) {
		size_t room = client->input_room ? client->input_room(chr->client_arg) : SIZE_MAX;
		size_t n = chr->in_len - at < room ? chr->in_len - at : room;

		if (n == 0)
			break;
		if (client->input)
			client->input(chr->client_arg, chr->in + at, n);
		at += n;
	}
	chr->in_len -= at;
	memmove(chr->in, chr->in + at, chr->in_len);
}

/* One read. False at end of file or error. */
static bool in_read(struct chardev *chr)
{
	uint8_t bytes[512];
	size_t room = CHAR_IN_BYTES - chr->in_len;
	size_t want = room < sizeof(bytes) && !chr->in_discards ? room : sizeof(bytes);
	ssize_t n = read(chr->in_fd, bytes, want);
	size_t keep;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	keep = chr->ops->filter ? chr->ops->filter(chr, bytes, (size_t)n) : (size_t)n;
	room = CHAR_IN_BYTES - chr->in_len;
	if (keep > room)
		keep = room;
	memcpy(chr->in + chr->in_len, bytes, keep);
	chr->in_len += keep;
	return true;
}

/* Loop's thread: hand on, read on, and stop watching while there is no room. */
static void in_service(struct chardev *chr, bool ready)
{
	bool want, open = true;

	in_deliver(chr);
	if (chr->in_fd < 0)
		return;
	if (ready || chr->in_polled) {
		do {
			if (chr->in_len == CHAR_IN_BYTES && !chr->in_discards)
				break;
			open = in_read(chr);
			in_deliver(chr);
		} while (open && chr->in_polled && chr->in_fd >= 0);
	}
	if (!open) {
		char_drop_input(chr);
		if (chr->ops->gone)
			chr->ops->gone(chr);
		return;
	}
	want = chr->in_discards || chr->in_len < CHAR_IN_BYTES;
	if (want && !chr->in_watch && !chr->in_polled && chr->in_fd >= 0)
		chr->in_watch = loop_fd_add(chr->loop, chr->in_fd, EPOLLIN, in_ready, chr);
	if (!want && chr->in_watch) {
		loop_fd_remove(chr->in_watch);
		chr->in_watch = NULL;
	}
}

static void in_ready(void *arg, uint32_t events)
{
	in_service(arg, true);
}

void char_input_ready(struct chardev *chr)
{
	wake(chr);
}

static void woken(void *arg, uint32_t events)
{
	struct chardev *chr = arg;
	uint64_t count;
	/* Only lowers the eventfd. */
	ssize_t n = read(chr->wake_fd, &count, sizeof(count));

	(void)n;
	out_service(chr);
	in_service(chr, false);
}

/* ---- set-up ---- */

int char_init(struct chardev *chr, const struct char_ops *ops, struct loop *loop)
{
	chr->ops = ops;
	chr->loop = loop;
	chr->in_fd = -1;
	chr->out_fd = -1;
	pthread_mutex_init(&chr->lock, NULL);
	chr->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (chr->wake_fd < 0)
		return -errno;
	chr->wake_watch = loop_fd_add(loop, chr->wake_fd, EPOLLIN, woken, chr);
	return chr->wake_watch ? 0 : -ENOMEM;
}

/* A regular file is read by hand when the client is ready for it: nobody waits for a file. */
void char_set_input(struct chardev *chr, int fd)
{
	chr->in_fd = fd;
	chr->in_watch = loop_fd_add(chr->loop, fd, EPOLLIN, in_ready, chr);
	chr->in_polled = !chr->in_watch;
}

void char_drop_input(struct chardev *chr)
{
	loop_fd_remove(chr->in_watch);
	chr->in_watch = NULL;
	if (chr->in_fd >= 0)
		close(chr->in_fd);
	chr->in_fd = -1;
	chr->in_polled = false;
}

void char_set_output(struct chardev *chr, int fd)
{
	struct stat st;

	pthread_mutex_lock(&chr->lock);
	chr->out_fd = fd;
	chr->out_dead = false;
	chr->out_is_socket = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
	chr->out_pending = chr->out_len > 0;
	pthread_mutex_unlock(&chr->lock);
	wake(chr);
}

void char_drop_output(struct chardev *chr)
{
	loop_fd_remove(chr->out_watch);
	chr->out_watch = NULL;
	pthread_mutex_lock(&chr->lock);
	if (chr->out_fd >= 0)
		close(chr->out_fd);
	chr->out_fd = -1;
	chr->out_dead = false;
	chr->out_pending = false;
	pthread_mutex_unlock(&chr->lock);
	/* Who waited for room has it: the newest bytes are kept. */
	wake(chr);
}

void char_set_size(struct chardev *chr, unsigned columns, unsigned rows)
{
	bool changed;

	pthread_mutex_lock(&chr->lock);
	changed = columns != chr->columns || rows != chr->rows;
	chr->columns = columns;
	chr->rows = rows;
	pthread_mutex_unlock(&chr->lock);
	if (changed && chr->client && chr->client->resized)
		chr->client->resized(chr->client_arg, columns, rows);
	if (chr->follower)
		char_set_size(chr->follower, columns, rows);
}

bool char_size(struct chardev *chr, unsigned *ret_columns, unsigned *ret_rows)
{
	bool known;

	pthread_mutex_lock(&chr->lock);
	known = chr->columns && chr->rows;
	if (known) {
		*ret_columns = chr->columns;
		*ret_rows = chr->rows;
	}
	pthread_mutex_unlock(&chr->lock);
	return known;
}

void char_set_client(struct chardev *chr, const struct char_client *client, void *arg)
{
	unsigned columns, rows;

	chr->client = client;
	chr->client_arg = arg;
	if (!client)
		return;
	if (client->resized && char_size(chr, &columns, &rows))
		client->resized(arg, columns, rows);
	wake(chr);
}

/* Give a slow reader a second. */
static void out_finish(struct chardev *chr)
{
	uint64_t deadline = loop_now_ns() + CLOSE_WAIT_NS;

	pthread_mutex_lock(&chr->lock);
	while (chr->out_fd >= 0) {
		struct pollfd pfd = { .fd = chr->out_fd, .events = POLLOUT };

		out_flush(chr);
		if (chr->out_len == 0 || loop_now_ns() > deadline)
			break;
		(void)poll(&pfd, 1, CLOSE_STEP_MS);
	}
	pthread_mutex_unlock(&chr->lock);
}

void char_fini(struct chardev *chr)
{
	chr->client = NULL;
	if (chr->follower)
		chr->follower->followed = NULL;
	if (chr->followed)
		chr->followed->follower = NULL;
	out_finish(chr);
	char_drop_input(chr);
	char_drop_output(chr);
	loop_fd_remove(chr->wake_watch);
	if (chr->wake_fd >= 0)
		close(chr->wake_fd);
	pthread_mutex_destroy(&chr->lock);
}

void char_close(struct chardev *chr)
{
	if (!chr)
		return;
	char_fini(chr);
	if (chr->ops->close)
		chr->ops->close(chr);
	free(chr);
}
