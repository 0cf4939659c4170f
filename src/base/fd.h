// SPDX-License-Identifier: Apache-2.0
/* fd.h - file descriptors that close themselves at the end of a scope, and whole reads and
 * writes. */
#pragma once

#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

static inline void fd_auto_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Declare as: auto_fd int fd = -1; hand over with fd_steal(&fd). */
#define auto_fd __attribute__((cleanup(fd_auto_close)))

static inline int fd_steal(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

/* Whole-length I/O, restarted on EINTR. Return 0 or -errno; a short file is -EIO for reads. */
int fd_read_all(int fd, void *buf, size_t len);
int fd_write_all(int fd, const void *buf, size_t len);
int fd_pread_all(int fd, void *buf, size_t len, off_t off);
