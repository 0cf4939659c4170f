// SPDX-License-Identifier: Apache-2.0
/*
 * request.c - a request as a series of system calls.
 *
 * One call may do only part of a request: a read ends at the end of the file, a write is
 * cut short by a full disk, zeroing may have to be done by hand. Both runners issue a call, give
 * its result to disk_req_step() and go on until that is satisfied.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <unistd.h>

#include "disk/disk_int.h"

void disk_req_advance(struct disk_req *req, uint64_t bytes)
{
	while (bytes > 0 && req->iov_count > 0) {
		struct iovec *iov = req->iov;

		if (bytes < iov->iov_len) {
			iov->iov_base = (char *)iov->iov_base + bytes;
			iov->iov_len -= bytes;
			return;
		}
		bytes -= iov->iov_len;
		req->iov++;
		req->iov_count--;
	}
}

void disk_req_zero_rest(struct disk_req *req)
{
	for (unsigned i = 0; i < req->iov_count; i++)
		memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
}

int disk_req_fallocate_mode(const struct disk_req *req)
{
	if (req->op == DISK_DISCARD || req->unmap)
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
}

static bool finish(struct disk_req *req, int result)
{
	req->result = result;
	return true;
}

/* Before the file is measured: it may be getting longer. */
static uint64_t known_size(const struct disk_image *image)
{
	/* In a thread of pool.c; the loop's writes it in disk_wait(). */
	return __atomic_load_n(&image->disk.size_bytes, __ATOMIC_RELAXED);
}

static bool was_cut_off(const struct disk_image *image)
{
	uint64_t size = known_size(image);

	return (uint64_t)lseek(image->fd, 0, SEEK_END) < size;
}

/* The file ended, when it was read. Behind the end it had are zeros; what is missing in front of
 * that was cut off by somebody else, and is no zeros. But a write that ran at the same time may
 * have made it longer, and its end be known before this one's. */
static bool finish_at_end(const struct disk_image *image, struct disk_req *req)
{
	if (req->offset + req->progress < known_size(image) && was_cut_off(image))
		return finish(req, -EIO);
	disk_req_zero_rest(req);
	return finish(req, 0);
}

static bool step_data(const struct disk_image *image, struct disk_req *req, int64_t n)
{
	/* No call goes on in the middle of a block there. */
	bool cut = image->direct && n % image->direct;

	if (n == 0 && req->op == DISK_READ)
		return finish_at_end(image, req);
	if (n == 0)
		return finish(req, -ENOSPC);
	req->progress += (uint64_t)n;
	if (req->progress >= req->len)
		return finish(req, 0);
	if (cut && req->op != DISK_READ)
		return finish(req, -ENOSPC);
	if (!req->by_hand)
		disk_req_advance(req, (uint64_t)n);
	return cut ? finish_at_end(image, req) : false;
}

/* What file systems and devices answer when they cannot do it their way. */
static bool is_unsupported(int error)
{
	return error == EOPNOTSUPP || error == EINVAL || error == ENOSYS || error == ENODEV;
}

bool disk_req_step(const struct disk_image *image, struct disk_req *req, int64_t n)
{
	if (n == -EINTR || n == -EAGAIN)
		return false;
	switch (req->op) {
	case DISK_READ:
	case DISK_WRITE:
		return n < 0 ? finish(req, (int)n) : step_data(image, req, n);
	case DISK_FLUSH:
		return finish(req, n < 0 ? (int)n : 0);
	case DISK_DISCARD:
		/* A hint: where it cannot be followed, nothing is lost. */
		return finish(req, n < 0 && !is_unsupported((int)-n) ? (int)n : 0);
	case DISK_WRITE_ZEROES:
		if (req->by_hand)
			return n < 0 ? finish(req, (int)n) : step_data(image, req, n);
		if (n < 0 && is_unsupported((int)-n)) {
			req->by_hand = true;
			return false;
		}
		return finish(req, n < 0 ? (int)n : 0);
	case DISK_MAP:
	case DISK_RESIZE:
		break; /* disk_req_at_once() */
	}
	return finish(req, -EINVAL);
}

static int64_t call(struct disk_image *image, struct disk_req *req)
{
	off_t off = (off_t)(req->offset + req->progress);
	uint64_t left = req->len - req->progress;
	ssize_t n = -1;

	switch (req->op) {
	case DISK_READ:
		n = preadv(image->fd, req->iov, (int)req->iov_count, off);
		break;
	case DISK_WRITE:
		n = pwritev(image->fd, req->iov, (int)req->iov_count, off);
		break;
	case DISK_FLUSH:
		n = fdatasync(image->fd);
		break;
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		if (req->by_hand)
			n = pwrite(image->fd, image->zeros,
				   left < DISK_ZEROS_BYTES ? left : DISK_ZEROS_BYTES, off);
		else
			n = fallocate(image->fd, disk_req_fallocate_mode(req), off, (off_t)left);
		break;
	case DISK_MAP:
	case DISK_RESIZE:
		break; /* disk_req_at_once() */
	}
	return n < 0 ? -errno : n;
}

int disk_req_run(struct disk_image *image, struct disk_req *req)
{
	while (!disk_req_step(image, req, call(image, req)))
		;
	return req->result;
}

/* The file system knows holes; where it does not, all is data. */
static int map(struct disk_image *image, struct disk_req *req)
{
	off_t start = (off_t)req->offset, end;
	off_t data = lseek(image->fd, start, SEEK_DATA);

	req->map = (struct disk_map){ .state = DISK_DATA, .len = req->len,
				      .host_offset = req->offset };
	/* What is missing is data that cannot be read. */
	if (data > start || (data < 0 && errno == ENXIO && !was_cut_off(image))) {
		req->map.state = DISK_ZERO;
		end = data;
	} else {
		end = data < 0 ? -1 : lseek(image->fd, start, SEEK_HOLE);
	}
	if (end > start && (uint64_t)(end - start) < req->len)
		req->map.len = (uint64_t)(end - start);
	return 0;
}

bool disk_req_at_once(struct disk_image *image, struct disk_req *req, int *ret_result)
{
	int r;

	if (req->op == DISK_MAP) {
		*ret_result = map(image, req);
		return true;
	}
	if (req->op == DISK_FLUSH && image->no_flush) {
		*ret_result = 0;
		return true;
	}
	if (req->op != DISK_RESIZE)
		return false;
	r = image->disk.growable ? ftruncate(image->fd, (off_t)req->offset) : -1;
	if (r == 0) /* known_size() reads it */
		__atomic_store_n(&image->disk.size_bytes, req->offset, __ATOMIC_RELAXED);
	*ret_result = r == 0 ? 0 : image->disk.growable ? -errno : -EOPNOTSUPP;
	return true;
}
