// SPDX-License-Identifier: Apache-2.0
/*
 * stdio.c - standard input and output as a console.
 *
 * Descriptors 0 and 1 are usually shared with a shell, whose blocking mode is not ours to change. A
 * terminal or pipe is therefore opened a second time, through /proc, without blocking; where that
 * is refused, writes are small and only made when poll() promises room.
 */
#include "char/char.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"
#include "char/char_int.h"
#include "char/terminal.h"

#define ESCAPE 0x01 /* Ctrl-A */

struct char_stdio {
	struct chardev chr;
	struct char_stdio_config config;
	bool is_terminal;
	bool escaped; /* the last byte was the escape */
	int winch_fd;
	struct loop_fd *winch_watch;
};

static const char help[] = "\r\n"
			   "Ctrl-A x       end the machine at once\r\n"
			   "Ctrl-A h       this help\r\n"
			   "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

static void escape(struct char_stdio *s, uint8_t key)
{
	switch (key) {
	case 'x':
	case 'X':
		if (s->config.quit)
			s->config.quit(s->config.arg);
		break;
	case 'h':
	case 'H':
	case '?':
		char_write(&s->chr, help, sizeof(help) - 1);
		break;
	default:
		break;
	}
}

static size_t stdio_filter(struct chardev *chr, uint8_t *bytes, size_t len)
{
	struct char_stdio *s = (struct char_stdio *)chr;
	size_t keep = 0;

	if (!s->is_terminal)
		return len;
	for (size_t i = 0; i < len; i++) {
		uint8_t byte = bytes[i];

		if (!s->escaped && byte == ESCAPE) {
			s->escaped = true;
			continue;
		}
		if (s->escaped && byte != ESCAPE)
			escape(s, byte);
		else
			bytes[keep++] = byte;
		s->escaped = false;
	}
	return keep;
}

/* End of input of a pipe just ends the input; a terminal has been hung up. */
static void stdio_gone(struct chardev *chr)
{
	struct char_stdio *s = (struct char_stdio *)chr;

	if (s->is_terminal && s->config.hangup)
		s->config.hangup(s->config.arg);
}

static void stdio_close(struct chardev *chr)
{
	struct char_stdio *s = (struct char_stdio *)chr;

	loop_fd_remove(s->winch_watch);
	if (s->winch_fd >= 0)
		close(s->winch_fd);
	if (s->is_terminal)
		terminal_restore();
}

static const struct char_ops stdio_ops = {
	.filter = stdio_filter,
	.gone = stdio_gone,
	.close = stdio_close,
};

static void window_changed(void *arg, uint32_t events)
{
	struct char_stdio *s = arg;
	struct signalfd_siginfo info;
	unsigned columns, rows;
	/* One look covers any number of signals. */
	ssize_t n = read(s->winch_fd, &info, sizeof(info));

	(void)n;
	if (terminal_size(STDIN_FILENO, &columns, &rows))
		char_set_size(&s->chr, columns, rows);
}

static int watch_size(struct char_stdio *s)
{
	unsigned columns, rows;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	s->winch_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->winch_fd < 0)
		return -errno;
	s->winch_watch = loop_fd_add(s->chr.loop, s->winch_fd, EPOLLIN, window_changed, s);
	if (terminal_size(STDIN_FILENO, &columns, &rows))
		char_set_size(&s->chr, columns, rows);
	return s->winch_watch ? 0 : -ENOMEM;
}

/* A descriptor of our own for @fd; *ret_must_poll when it may still block. */
static int own_fd(int fd, int flags, bool *ret_must_poll)
{
	char path[32];
	struct stat st;
	int own = -1;

	*ret_must_poll = false;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (isatty(fd) || S_ISFIFO(st.st_mode)) {
		g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		*ret_must_poll = own < 0;
	}
	if (own < 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return own < 0 ? -errno : own;
}

struct chardev *char_stdio_open(const struct char_stdio_config *config, GError **err)
{
	struct char_stdio *s = calloc(1, sizeof(*s));
	bool must_poll, ignored;
	int r, in, out;

	if (!s)
		g_error("out of memory");
	s->config = *config;
	s->winch_fd = -1;
	s->is_terminal = isatty(STDIN_FILENO);
	r = char_init(&s->chr, &stdio_ops, config->loop);
	if (r < 0)
		goto err;
	/* A reader that goes away is an error of write(), not the end of the machine. */
	signal(SIGPIPE, SIG_IGN);
	if (s->is_terminal && (r = watch_size(s)) < 0)
		goto err;
	out = own_fd(STDOUT_FILENO, O_WRONLY, &must_poll);
	if (out >= 0) {
		s->chr.out_must_poll = must_poll;
		char_set_output(&s->chr, out);
	}
	/* With either closed by the caller there is simply no such direction. */
	in = own_fd(STDIN_FILENO, O_RDONLY, &ignored);
	if (in >= 0)
		char_set_input(&s->chr, in);
	s->chr.in_discards = s->is_terminal;
	if (s->is_terminal && (r = terminal_raw(STDIN_FILENO)) < 0)
		goto err;
	return &s->chr;
err:
	g_set_error(err, BASE_ERROR, -r, "terminal: %s", g_strerror(-r));
	char_close(&s->chr);
	return NULL;
}
