// SPDX-License-Identifier: Apache-2.0
/* file.c - a file that collects output, and the console that swallows it. */
#include "char/char.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "char/char_int.h"

struct char_file {
	struct chardev chr;
	char *path;
};

/* The host's disk is full, or the reader of a FIFO has gone. */
static void file_gone(struct chardev *chr)
{
	struct char_file *f = (struct char_file *)chr;

	log_warn("serial '%s': cannot be written any more; further output is dropped", f->path);
}

static void file_close(struct chardev *chr)
{
	struct char_file *f = (struct char_file *)chr;

	g_free(f->path);
}

static const struct char_ops file_ops = { .gone = file_gone, .close = file_close };
static const struct char_ops null_ops = { 0 };

struct chardev *char_file_open(const char *path, struct loop *loop, GError **err)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	struct char_file *f = calloc(1, sizeof(*f));
	int fd, r;

	if (!f)
		g_error("out of memory");
	f->path = g_strdup(path);
	r = char_init(&f->chr, &file_ops, loop);
	if (r == 0) {
		fd = open(path, flags, 0666);
		r = fd < 0 ? -errno : 0;
	}
	if (r == 0) {
		char_set_output(&f->chr, fd);
		return &f->chr;
	}
	g_set_error(err, BASE_ERROR, -r, "serial '%s': cannot open: %s%s", path, g_strerror(-r),
		    r == -ENXIO ? " (nobody reads this FIFO)" : "");
	char_close(&f->chr);
	return NULL;
}

struct chardev *char_null_open(struct loop *loop)
{
	struct chardev *chr = calloc(1, sizeof(*chr));

	if (!chr)
		g_error("out of memory");
	chr->out_dead = true;
	if (char_init(chr, &null_ops, loop) == 0)
		return chr;
	char_close(chr);
	return NULL;
}

struct chardev *char_size_open(struct chardev *of, struct loop *loop)
{
	struct chardev *chr = char_null_open(loop);
	unsigned columns, rows;

	if (!chr)
		return NULL;
	chr->followed = of;
	of->follower = chr;
	if (char_size(of, &columns, &rows))
		char_set_size(chr, columns, rows);
	return chr;
}
