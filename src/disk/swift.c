// SPDX-License-Identifier: Apache-2.0
/* swift.c - which requests are tried at once, and what follows when a write took long. */
#include "disk/swift.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include "base/loop.h"

/* A copy of 2 MiB is over by then, a thread that waits for a disk is mostly not. */
#define SLOW_NS	     2000000u
#define PAUSE_NS     50000000u
#define MAX_PAUSE_NS 10000000000u
/* So many pauses without a slow write, and the next pause is a short one again. */
#define FORGET 4u

/* Those of which a copy to the host's cache is all there is to a write, and that do not say
 * themselves when they would wait. Those of a network wait for a host that may never answer. */
static bool is_swift(int fd)
{
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0)
		return false;
	return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC;
}

void disk_swift_init(struct disk_swift *swift, const struct disk_image *image)
{
	*swift = (struct disk_swift){ .able = !image->direct && !image->disk.readonly &&
					      is_swift(image->fd) };
}

static void took_long(struct disk_swift *swift, uint64_t end_ns)
{
	bool anew = end_ns > swift->resume_ns + FORGET * swift->pause_ns;

	swift->pause_ns = anew ? PAUSE_NS : 2 * swift->pause_ns;
	if (swift->pause_ns > MAX_PAUSE_NS)
		swift->pause_ns = MAX_PAUSE_NS;
	swift->resume_ns = end_ns + swift->pause_ns;
}

static ssize_t timed_write(struct disk_swift *swift, int fd, const struct disk_req *req,
			   off_t offset)
{
	uint64_t begin_ns = loop_now_ns(), end_ns;
	ssize_t n;

	if (!swift->able || swift->changing > 0 || begin_ns < swift->resume_ns) {
		errno = EAGAIN;
		return -1;
	}
	n = pwritev(fd, req->iov, (int)req->iov_count, offset);
	end_ns = loop_now_ns();
	if (end_ns - begin_ns > SLOW_NS)
		took_long(swift, end_ns);
	return n;
}

int64_t disk_swift_try(struct disk_swift *swift, const struct disk_image *image,
		       const struct disk_req *req, bool alone)
{
	off_t offset = (off_t)(req->offset + req->progress);
	uint64_t most = req->op == DISK_READ && !alone ? DISK_SWIFT_READ_BYTES : DISK_SWIFT_BYTES;
	ssize_t n;

	if (req->len > most || image->direct)
		return -EAGAIN;
	if (req->op == DISK_READ)
		n = preadv2(image->fd, req->iov, (int)req->iov_count, offset, RWF_NOWAIT);
	else
		n = timed_write(swift, image->fd, req, offset);
	/* A file system that knows no such reads says so: the other way knows all. */
	if (n < 0 && req->op == DISK_READ && errno == EOPNOTSUPP)
		return -EAGAIN;
	return n < 0 ? -errno : n;
}

void disk_swift_away(struct disk_swift *swift, const struct disk_req *req)
{
	swift->changing += req->op != DISK_READ;
}

void disk_swift_back(struct disk_swift *swift, const struct disk_req *req)
{
	swift->changing -= req->op != DISK_READ;
}
