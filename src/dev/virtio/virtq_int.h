// SPDX-License-Identifier: Apache-2.0
/* virtq_int.h - what the two kinds of ring share. */
#pragma once

#include "dev/virtio/virtq.h"

#include "base/bits.h"

#define DESC_SIZE 16u

/* Flags of a descriptor; the last two are the packed ring's. */
#define DESC_NEXT     0x0001u
#define DESC_WRITE    0x0002u
#define DESC_INDIRECT 0x0004u
#define DESC_AVAIL    0x0080u
#define DESC_USED     0x8000u

/* The copy of a descriptor that is believed. */
struct desc {
	gpa_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next; /* packed: buffer id */
};

/* Ring words are naturally aligned (virtq_start() has checked) and shared with running vCPUs. */
static inline uint16_t ring_load(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

/* Acquire: pairs with the driver's barrier between filling descriptors and publishing them. */
static inline uint16_t ring_load_acquire(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static inline void ring_store(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELAXED);
}

/* Release: pairs with the driver's barrier between seeing a used entry and reading its data. */
static inline void ring_store_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
}

/* virtio 1.2, 2.7.10: has the index moved past @event on its way from @old to @now? */
static inline bool event_passed(uint16_t event, uint16_t now, uint16_t old)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* Mark broken; returns -EINVAL. */
int virtq_break(struct virtq *vq, const char *why);
struct desc virtq_desc_load(const uint8_t *p);
/* Start an element; append the buffer of one descriptor. 0 or -EINVAL with the queue broken. */
void virtq_elem_init(struct virtq_elem *elem);
int virtq_elem_add(struct virtq *vq, struct virtq_elem *elem, const struct desc *d);
/* The table an indirect descriptor names, or NULL with the queue broken. */
const uint8_t *virtq_indirect(struct virtq *vq, const struct desc *d, unsigned *ret_count);

int split_pop(struct virtq *vq, struct virtq_elem *elem);
void split_unpop(struct virtq *vq, const struct virtq_elem *elem);
void split_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written);
void split_flush(struct virtq *vq);
bool split_should_notify(struct virtq *vq);
/* After how many more, or 0 for never. More than one needs event indices. */
bool split_set_kick(struct virtq *vq, unsigned after);

int packed_pop(struct virtq *vq, struct virtq_elem *elem);
void packed_unpop(struct virtq *vq, const struct virtq_elem *elem);
void packed_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written);
void packed_flush(struct virtq *vq);
bool packed_should_notify(struct virtq *vq);
bool packed_set_kick(struct virtq *vq, unsigned after);
