// SPDX-License-Identifier: Apache-2.0
/*
 * virtq.h - virtqueues, split and packed: virtio 1.2, sections 2.7 and 2.8.
 *
 * A queue is worked by one thread, its device's loop. Everything in the rings is the guest's:
 * a descriptor is copied once and only the copy is believed; whatever breaks the rules makes
 * virtq_pop() fail, after which the queue gives nothing more until it is started again.
 *
 *	virtq_pop() -> element -> work -> virtq_push() -> virtq_should_notify() -> interrupt
 *
 * Elements may be pushed in any order. virtq_fill() with one virtq_flush() makes several visible at
 * once.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mem/mem.h"

#define VIRTQ_MAX_SIZE 256u
/* Segments of one element; with a block device's header and status byte, 126 of data. */
#define VIRTQ_MAX_IOV 128u

/* Where the driver has put the queue. */
struct virtq_config {
	uint16_t size; /* split: a power of two */
	bool packed;
	bool event_idx;
	bool indirect;
	gpa_t desc;   /* descriptor table, or packed ring */
	gpa_t driver; /* available ring, or driver event suppression */
	gpa_t device; /* used ring, or device event suppression */
};

struct virtq {
	struct mem *mem;
	struct virtq_config cfg;
	bool broken;
	const char *why; /* when broken: half a sentence for the log */
	uint8_t *desc, *driver, *device; /* host addresses of the three parts */
	uint16_t in_use;    /* elements (split) or descriptors (packed) popped and not pushed */
	uint32_t popped;    /* the same unit, ever; wraps */
	uint16_t filled;    /* of virtq_fill(): elements (split) or descriptors (packed) */
	uint16_t signalled; /* the same unit, flushed since the last notification */
	uint16_t next_avail, next_used; /* split: free running; packed: ring positions */
	bool avail_wrap, used_wrap;	/* packed */
	uint16_t first_flags;		/* packed: of the first descriptor filled, written last */
};

struct virtq_elem {
	uint16_t id;	     /* descriptor head, or buffer id */
	uint16_t desc_count; /* ring slots it occupies */
	uint16_t out_count;  /* segments to read, iov[0..out_count) */
	uint16_t in_count;   /* segments to write, behind them */
	uint64_t out_bytes, in_bytes;
	struct iovec iov[VIRTQ_MAX_IOV];
	gpa_t gpa[VIRTQ_MAX_IOV];
};

/* 0, or -EINVAL when size, alignment or place of the rings are impossible. */
int virtq_start(struct virtq *vq, struct mem *mem, const struct virtq_config *config);

/* 1 with @elem filled, 0 when the queue is empty, -EINVAL when it is broken. */
int virtq_pop(struct virtq *vq, struct virtq_elem *elem);
/* Put back the element popped last. */
void virtq_unpop(struct virtq *vq, const struct virtq_elem *elem);

/* Return @elem with @written bytes at the front of its writable part. */
void virtq_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written);
void virtq_flush(struct virtq *vq);
void virtq_push(struct virtq *vq, const struct virtq_elem *elem, uint32_t written);
/* Tell mem of @len bytes written at the front; virtq_fill() does it for @written. */
void virtq_elem_written(struct virtq *vq, const struct virtq_elem *elem, uint64_t len);

/* Does the driver want an interrupt for what was flushed since the last call? */
bool virtq_should_notify(struct virtq *vq);
/* Ask the driver (not) to kick. When asking, true says: look again, there is work already. */
bool virtq_set_kick(struct virtq *vq, bool wanted);
/* Ask for one kick once @n more elements (packed: descriptors) are there, 1 to the queue's size; each of them, where the
 * driver has no event indices. True says that they are there already. */
bool virtq_kick_after(struct virtq *vq, unsigned n);

/* Copy between a flat buffer and the readable or writable part; returns bytes copied. */
size_t virtq_elem_read(const struct virtq_elem *elem, size_t off, void *buf, size_t len);
size_t virtq_elem_write(const struct virtq_elem *elem, size_t off, const void *buf, size_t len);
