// SPDX-License-Identifier: Apache-2.0
/*
 * moment.h - what a disk held at one moment, while it is written on.
 *
 * A filter under the device of a running machine, which passes everything on until a view is taken. From then on,
 * before a part of the disk changes for the first time, what it held is copied to a store; the view reads from there
 * what has changed and from the disk what has not. When the store fails, the view does: the machine never waits for
 * more than the copies, and never gets an error of theirs.
 *
 * Everything in the loop's thread.
 */
#pragma once

#include "disk/disk.h"

/* Takes over @below. NULL: no memory, and @below is still the caller's. */
struct disk *disk_moment_new(struct disk *below);

/**
 * disk_moment_take - a read-only disk that shows what @moment holds now.
 *
 * No request to @moment is under way. @store: an empty disk of at least that size, that reads as zeros; taken over
 * when it succeeds. The view is closed before @moment is, when nobody reads it any more. 0, -EBUSY: there is a view,
 * -EINVAL: @moment is another kind of disk, -ENOMEM.
 */
int disk_moment_take(struct disk *moment, struct disk *store, struct disk **ret_view);

/* For tests: how much is copied at a time. */
#define DISK_MOMENT_GRAIN (64u << 10)
