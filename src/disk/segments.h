// SPDX-License-Identifier: Apache-2.0
/*
 * segments.h - a request's memory, of which a format takes one part after another.
 */
#pragma once

#include "disk/disk.h"
#include "disk/serving.h"

/* From @skip bytes into the first of them on. */
struct segments {
	const struct iovec *iov; /* NULL: zeros without end, to be written */
	unsigned count;
	size_t skip;
};

/* Move up to @len bytes, at most @max segments, into @out. Returns how many, and their bytes. */
unsigned segments_take(struct segments *v, uint64_t len, struct iovec *out, unsigned max,
		       uint64_t *ret_bytes);
/* Copy @len bytes into memory. @from: NULL: zeros. */
void segments_fill(struct segments *to, const uint8_t *from, uint64_t len);
/* Copy @len bytes out of memory. False: there are less. */
bool segments_copy(struct segments *from, uint8_t *to, uint64_t len);

/* A read or write below, waited for, of as many requests as @v needs. */
int segments_run(struct serving *s, struct disk *below, enum disk_op op, uint64_t offset, uint64_t len,
		 struct segments *v);
/* A read, of zeros where the disk ends. @below: NULL: of nothing but zeros. */
int segments_read(struct serving *s, struct disk *below, uint64_t offset, uint64_t len,
		  struct segments *to);
