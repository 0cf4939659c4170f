// SPDX-License-Identifier: Apache-2.0
/*
 * swift.h - reads and writes that need not wait, done at once by the loop's own thread.
 *
 * To hand a request to another thread and to hear of its end costs two wake-ups, where a copy from
 * or to the host's cache takes some microseconds. What can be read without waiting the kernel tells
 * (RWF_NOWAIT, preadv2(2)), and io_uring looks by itself. Of writes some file systems do not tell,
 * and io_uring hands each of them to a thread of the kernel's; though nearly all wait for nothing.
 * So they are tried here, with a clock beside them: when one took long (too much is dirty, a
 * journal is full), those that follow go the other way for a while, longer each time. The loop is
 * held up so by a small part of its time.
 */
#pragma once

#include "disk/disk_int.h"

struct disk_swift {
	bool able; /* to write so */
	uint64_t resume_ns; /* no sooner (CLOCK_MONOTONIC) */
	uint64_t pause_ns; /* the last one; 0: none yet */
	unsigned changing; /* requests that go the other way just now, all but reads */
};

/* So much at most. What is read can be copied by several threads at a time, and is in company when
 * it is long; writes to one file the file system takes one by one, whoever calls. */
#define DISK_SWIFT_BYTES      (2u << 20)
#define DISK_SWIFT_READ_BYTES (64u << 10)
/* The loop's turn for what is done at once: then others of it want theirs. */
#define DISK_SWIFT_TURN_NS 2000000u

/* @image: opened, and not past the host's cache. */
void disk_swift_init(struct disk_swift *swift, const struct disk_image *image);

/* One call for @req, a read or a write: bytes or -errno, as for disk_req_step(); -EAGAIN: to be
 * done another way. @alone: no other request is under way. */
int64_t disk_swift_try(struct disk_swift *swift, const struct disk_image *image,
		       const struct disk_req *req, bool alone);

/* @req goes the other way, and is back. A write would wait for what changes the file meanwhile. */
void disk_swift_away(struct disk_swift *swift, const struct disk_req *req);
void disk_swift_back(struct disk_swift *swift, const struct disk_req *req);
