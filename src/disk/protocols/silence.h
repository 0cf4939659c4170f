// SPDX-License-Identifier: Apache-2.0
/*
 * silence.h - a server that says nothing, and who waits for it in a drain.
 *
 * Outside of drains requests wait for as long as it takes. A drain holds up its thread, and at the end of a machine the
 * user: how long it waits is what struct disk_patience says. When that is over the protocol gives its requests up.
 *
 * Embedded by the node of a protocol. All calls are the disk's thread's.
 */
#pragma once

#include "disk/disk.h"

#define SILENCE_FOREVER (-1)

/* All zeros to begin with. */
struct silence {
	const struct disk_patience *patience;
	uint64_t heard_ns; /* when it was last heard; or first asked for something, after all had been answered */
	bool given_up;	   /* requests were, and it has not been heard since */
	bool told;	   /* in the log, that a drain waits for it */
};

/* A request goes to the server, which has answered all others. */
void silence_asked(struct silence *s);
/* The server has said something. */
void silence_heard(struct silence *s);
/* For how many milliseconds a drain that began at @begin_ns may sleep before it asks again; SILENCE_FOREVER; or 0: it has
 * waited for long enough. @disk: for the log. */
int silence_wait_ms(struct silence *s, const struct disk *disk, uint64_t begin_ns);
/* So many requests are given up, as silence_wait_ms() wanted: says so. */
void silence_give_up(struct silence *s, const struct disk *disk, unsigned requests);
