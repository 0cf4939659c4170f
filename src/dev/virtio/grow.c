// SPDX-License-Identifier: Apache-2.0
/* grow.c - make the image behind a running device larger. */
#include <errno.h>

#include "dev/virtio/device.h"
#include "disk/disk.h"

static int grow(struct disk *disk, uint64_t size_bytes)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = size_bytes };
	int r = disk_run(disk, &req);

	/* The guest will count on what it is told. */
	return r < 0 ? r : disk_flush_wait(disk);
}

int virtio_grow_disk(struct virtio_dev *dev, struct disk *disk, uint64_t size_bytes, uint32_t block_bytes)
{
	bool was_paused = dev->paused;
	int r;

	if (size_bytes % block_bytes || size_bytes > INT64_MAX)
		return -EINVAL;
	if (size_bytes < disk->size_bytes)
		return -ERANGE;
	virtio_pause_in_loop(dev);
	r = size_bytes > disk->size_bytes ? grow(disk, size_bytes) : 0;
	if (!was_paused)
		virtio_resume_in_loop(dev);
	return r;
}
