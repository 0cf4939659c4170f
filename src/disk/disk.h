// SPDX-License-Identifier: Apache-2.0
/*
 * disk.h - what stands behind a block device: asynchronous requests on an image.
 *
 * A disk belongs to one loop. Everything but opening is called in the loop's thread, and
 * requests complete there, possibly inside disk_submit(), disk_kick() or disk_drain(). Requests
 * run in parallel and in any order; DISK_FLUSH makes durable every write that completed before it was submitted.
 *
 * The size is a multiple of DISK_SECTOR_SIZE: the tail of an odd image reads as zeros, and a
 * write there makes the image whole.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk;
struct loop;

#define DISK_SECTOR_SIZE 512u
#define DISK_MAX_IOV	 1024u /* of one request: the kernel's IOV_MAX */

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,
	DISK_DISCARD,	   /* the range's content no longer matters */
	DISK_WRITE_ZEROES, /* may deallocate where flag unmap is set */
};

/* Embedded by the caller, which owns it and all it points to until done() is called. */
struct disk_req {
	enum disk_op op;
	bool unmap;
	uint64_t offset;    /* bytes */
	uint64_t len;	    /* bytes; for reads and writes the sum of the iovec */
	struct iovec *iov;  /* may be changed by the disk on the way */
	unsigned iov_count; /* 1..DISK_MAX_IOV for reads and writes */
	/* @result: 0 or -errno. The request may be reused or freed inside. */
	void (*done)(struct disk_req *req, int result);

	/* Private to the disk. */
	struct disk_req *next;
	uint64_t progress; /* bytes done */
	int result;
	bool by_hand; /* writing zeros as data, for want of a better way */
};

struct disk_ops {
	void (*submit)(struct disk *disk, struct disk_req *req);
	void (*kick)(struct disk *disk); /* optional */
	void (*drain)(struct disk *disk);
	void (*close)(struct disk *disk);
};

/* Embedded first by the implementation; read-only for others. */
struct disk {
	const struct disk_ops *ops;
	uint64_t size_bytes;
	uint32_t block_bytes; /* preferred for requests: 512 or 4096 */
	bool readonly;
	bool can_discard;
};

/**
 * disk_open - open and lock an image or a block device.
 * @format: "raw", or NULL to look: whatever carries another format's magic is refused.
 *
 * A writer excludes everyone else, readers share. Closed with disk_close(), which drains.
 */
struct disk *disk_open(const char *path, const char *format, bool readonly, struct loop *loop,
		       GError **err);
void disk_close(struct disk *disk);

/* A request that lies outside the disk, or writes to a readonly one, completes with -EINVAL or
 * -EROFS. */
void disk_submit(struct disk *disk, struct disk_req *req);
/* Hand all requests submitted so far to the host. Call once behind a batch. */
void disk_kick(struct disk *disk);
/* Wait for all requests under way. */
void disk_drain(struct disk *disk);
