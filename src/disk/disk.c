// SPDX-License-Identifier: Apache-2.0
/* disk.c - the graph: choosing the format of an image, and the checks before a request runs. */
#include "disk/disk.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "disk/disk_int.h"

/* What to take the file as. False: neither told nor found to be a format that we have. */
static bool choose_format(struct disk *file, const char *told, const char **ret_format,
			  GError **err)
{
	uint8_t head[DISK_PROBE_BYTES];
	const char *found;
	int r;

	if (told && strcmp(told, "raw") == 0) {
		*ret_format = told;
		return true;
	}
	if (told) {
		g_set_error(err, BASE_ERROR, ENOTSUP,
			    "disk '%s': format '%s' is not supported; only raw is supported",
			    file->path, told);
		return false;
	}
	r = disk_read_wait(file, head, sizeof(head), 0);
	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r, "disk '%s': cannot be read: %s", file->path,
			    g_strerror(-r));
		return false;
	}
	found = disk_probe(head, sizeof(head));
	if (found) {
		g_set_error(err, BASE_ERROR, ENOTSUP,
			    "disk '%s': is a %s image; only raw is supported (format=raw takes it "
			    "as it is)",
			    file->path, found);
		return false;
	}
	*ret_format = "raw";
	return true;
}

struct disk *disk_open_options(const char *path, const struct disk_options *o, struct loop *loop,
			       GError **err)
{
	struct disk *file = disk_file_open(path, o, loop, err);
	const char *format;

	if (!file)
		return NULL;
	if (!choose_format(file, o->format, &format, err)) {
		disk_close(file);
		return NULL;
	}
	return disk_raw_open_take(file, o->format == NULL, err);
}

struct disk *disk_open(const char *path, const char *format, bool readonly, struct loop *loop,
		       GError **err)
{
	const struct disk_options o = { .format = format, .readonly = readonly };

	return disk_open_options(path, &o, loop, err);
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	disk_drain(disk);
	disk->ops->close(disk);
}

static bool is_change(enum disk_op op)
{
	return op == DISK_WRITE || op == DISK_DISCARD || op == DISK_WRITE_ZEROES ||
	       op == DISK_RESIZE;
}

static int check(const struct disk *disk, const struct disk_req *req)
{
	/* What a file offset can say. */
	uint64_t end = disk->growable ? (uint64_t)INT64_MAX : disk->size_bytes;

	if (is_change(req->op) && disk->readonly)
		return -EROFS;
	if (req->op == DISK_FLUSH)
		return 0;
	if (req->op == DISK_RESIZE)
		return req->offset > INT64_MAX ? -EINVAL : 0;
	if (req->len == 0 || req->offset > end || req->len > end - req->offset)
		return -EINVAL;
	if ((req->op == DISK_READ || req->op == DISK_WRITE) &&
	    (req->iov_count == 0 || req->iov_count > DISK_MAX_IOV))
		return -EINVAL;
	return 0;
}

void disk_submit(struct disk *disk, struct disk_req *req)
{
	int r = check(disk, req);

	req->progress = 0;
	req->result = 0;
	req->by_hand = false;
	if (r < 0)
		req->done(req, r);
	else
		disk->ops->submit(disk, req);
}

void disk_kick(struct disk *disk)
{
	if (disk->ops->kick)
		disk->ops->kick(disk);
}

void disk_drain(struct disk *disk)
{
	disk->ops->drain(disk);
}

static void waited_done(struct disk_req *req, int result)
{
	req->result = result;
	req->next = req; /* the mark that it is over */
}

int disk_run(struct disk *disk, struct disk_req *req)
{
	req->done = waited_done;
	req->next = NULL;
	disk_submit(disk, req);
	disk_kick(disk);
	if (req->next != req)
		disk_drain(disk);
	return req->next == req ? req->result : -EIO; /* else the way to the kernel is broken */
}

static int run_data(struct disk *disk, enum disk_op op, void *buf, uint64_t len, uint64_t offset)
{
	struct iovec iov = { buf, len };
	struct disk_req req = {
		.op = op, .offset = offset, .len = len, .iov = &iov, .iov_count = 1
	};

	return disk_run(disk, &req);
}

int disk_read_wait(struct disk *disk, void *buf, uint64_t len, uint64_t offset)
{
	return run_data(disk, DISK_READ, buf, len, offset);
}

int disk_write_wait(struct disk *disk, const void *buf, uint64_t len, uint64_t offset)
{
	return run_data(disk, DISK_WRITE, (void *)buf, len, offset);
}

int disk_flush_wait(struct disk *disk)
{
	struct disk_req req = { .op = DISK_FLUSH };

	return disk_run(disk, &req);
}
