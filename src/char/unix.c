// SPDX-License-Identifier: Apache-2.0
/*
 * unix.c - a console behind a listening Unix socket.
 *
 * One client at a time: while it is there, the listening socket is not watched and others wait in
 * its backlog. The socket file goes with the machine.
 */
#include "char/char.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/loop.h"
#include "char/char_int.h"

struct char_unix {
	struct chardev chr;
	char *path; /* NULL until it is ours to unlink */
	int listen_fd;
	struct loop_fd *listen_watch;
};

static void listen_ready(void *arg, uint32_t events)
{
	struct char_unix *u = arg;
	int fd = accept4(u->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int out;

	if (fd < 0)
		return;
	/* Two descriptors, because the loop watches each for one thing. */
	out = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (out < 0) {
		close(fd);
		return;
	}
	loop_fd_remove(u->listen_watch);
	u->listen_watch = NULL;
	char_set_input(&u->chr, fd);
	char_set_output(&u->chr, out);
}

static void unix_gone(struct chardev *chr)
{
	struct char_unix *u = (struct char_unix *)chr;

	char_drop_input(chr);
	char_drop_output(chr);
	if (!u->listen_watch)
		u->listen_watch = loop_fd_add(chr->loop, u->listen_fd, EPOLLIN, listen_ready, u);
}

static void unix_close(struct chardev *chr)
{
	struct char_unix *u = (struct char_unix *)chr;

	loop_fd_remove(u->listen_watch);
	if (u->listen_fd >= 0)
		close(u->listen_fd);
	if (u->path)
		unlink(u->path);
	g_free(u->path);
}

static const struct char_ops unix_ops = { .gone = unix_gone, .close = unix_close };

/* A socket file that nobody listens on is left over from a machine that was killed. */
static bool is_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || stat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	return connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
	       errno == ECONNREFUSED;
}

static int listen_at(struct char_unix *u, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	u->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (u->listen_fd < 0)
		return -errno;
	if (is_stale(&addr))
		unlink(path);
	if (bind(u->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	u->path = g_strdup(path);
	if (listen(u->listen_fd, 1) < 0)
		return -errno;
	u->listen_watch = loop_fd_add(u->chr.loop, u->listen_fd, EPOLLIN, listen_ready, u);
	return u->listen_watch ? 0 : -ENOMEM;
}

static const char *explain(int error)
{
	switch (error) {
	case EADDRINUSE:
		return "the path is taken, by another machine or by a file";
	case ENAMETOOLONG:
		return "the path is too long for a socket (107 bytes at most)";
	default:
		return g_strerror(error);
	}
}

struct chardev *char_unix_open(const char *path, struct loop *loop, GError **err)
{
	struct char_unix *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		g_error("out of memory");
	u->listen_fd = -1;
	r = char_init(&u->chr, &unix_ops, loop);
	if (r == 0)
		r = listen_at(u, path);
	if (r == 0)
		return &u->chr;
	g_set_error(err, BASE_ERROR, -r, "serial 'unix:%s': %s", path, explain(-r));
	char_close(&u->chr);
	return NULL;
}
