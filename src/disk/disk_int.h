// SPDX-License-Identifier: Apache-2.0
/*
 * disk_int.h - what the files of this folder share.
 *
 * A raw image is an open descriptor plus a way to run requests on it: io_uring, or threads where
 * the host's kernel refuses io_uring.
 */
#pragma once

#include "disk/disk.h"

#define DISK_ZEROS_BYTES (1u << 20)

struct disk_image {
	struct disk disk;
	struct loop *loop;
	int fd; /* owned */
	const void *zeros; /* DISK_ZEROS_BYTES of them, mapped, costing no memory */
};

enum disk_runner {
	DISK_RUNNER_ANY,
	DISK_RUNNER_URING,
	DISK_RUNNER_POOL,
};

/* disk_open() with the choice of how requests run. */
struct disk *disk_open_with(const char *path, const char *format, bool readonly,
			    struct loop *loop, enum disk_runner runner, GError **err);

/* Each takes over @image's content when it succeeds; 0 or -errno. */
int disk_uring_new(const struct disk_image *image, struct disk **ret_disk);
int disk_pool_new(const struct disk_image *image, struct disk **ret_disk);
void disk_image_fini(struct disk_image *image);

/* ---- lock.c: 0, or -errno; on -EAGAIN someone else holds it */
int disk_lock(int fd, bool readonly);
/* A process that holds a lock on what @fd is open on, or 0. */
int disk_lock_holder(int fd);

/* ---- probe.c: name of a format other than raw that the file carries the mark of, or NULL ---- */
const char *disk_probe(int fd);

/* ---- request.c ---- */
/* Skip @bytes of the iovec. */
void disk_req_advance(struct disk_req *req, uint64_t bytes);
/* The remaining bytes of a read lie behind the end of the file. */
void disk_req_zero_rest(struct disk_req *req);
/* fallocate() mode for a discard or write-zeroes request. */
int disk_req_fallocate_mode(const struct disk_req *req);
/* Digest the result (bytes or -errno) of one system call for @req. True: @req is over, with
 * req->result set; false: go on with the rest. */
bool disk_req_step(struct disk_req *req, int64_t n);
/* Run the whole request by blocking system calls: 0 or -errno. */
int disk_req_run(struct disk_image *image, struct disk_req *req);
