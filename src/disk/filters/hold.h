// SPDX-License-Identifier: Apache-2.0
/*
 * hold.h - what becomes of requests that fail: reported, ignored, or held until they can be done.
 *
 * A filter over the disk of a machine. A write that finds the host's file system full is not the guest's fault, and most
 * guests give a file system up for it; held here, it is done when there is room, and the guest knows nothing. Whoever
 * opened the disk is told that requests are held, stops the guest, and asks for another try now and then.
 *
 * Everything in the loop's thread.
 */
#pragma once

#include "disk/disk.h"

enum disk_on_error {
	DISK_ERROR_REPORT,
	DISK_ERROR_IGNORE, /* as if it had been done */
	DISK_ERROR_STOP,   /* held */
	DISK_ERROR_ENOSPC, /* without room it is held, else reported */
};

#define DISK_ON_ERROR_NAMES "report, ignore, stop, enospc"

struct disk_hold_options {
	enum disk_on_error on_read, on_write; /* a flush, a discard are as a write */
	/* Requests are held, the first of them for -@error; or (0) no longer. */
	void (*changed)(void *arg, int error);
	void *arg;
};

/* Takes over @below. NULL: no memory, and @below is still the caller's. */
struct disk *disk_hold_new(struct disk *below, const struct disk_hold_options *options);
/* Try again what is held. @disk: of disk_hold_new(), or another, of which nothing is held. */
void disk_hold_retry(struct disk *disk);
/* Whoever made the requests that are held is gone: their done() is not called. */
void disk_hold_forget(struct disk *disk);

/* False: nothing is called that. */
bool disk_on_error_parse(const char *name, enum disk_on_error *ret);
