// SPDX-License-Identifier: Apache-2.0
/*
 * virtq_split.c - the split virtqueue: virtio 1.2, section 2.7.
 *
 *	available ring (driver)   flags  idx  ring[size]        used_event
 *	used ring (device)        flags  idx  ring[size]{id,len} avail_event
 */
#include "dev/virtio/virtq_int.h"

#include <errno.h>

#define RING_FLAGS 0u
#define RING_IDX   2u
#define RING_START 4u

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY	   1u

static uint8_t *avail_entry(const struct virtq *vq, uint16_t idx)
{
	return vq->driver + RING_START + 2u * (idx & (vq->cfg.size - 1u));
}

static unsigned used_entry_off(const struct virtq *vq, uint16_t idx)
{
	return RING_START + 8u * (idx & (vq->cfg.size - 1u));
}

static uint8_t *used_event(const struct virtq *vq)
{
	return vq->driver + RING_START + 2u * vq->cfg.size;
}

static unsigned avail_event_off(const struct virtq *vq)
{
	return RING_START + 8u * vq->cfg.size;
}

/* Follow a chain through @table from @index. The table is the queue's own or an indirect one, which
 * may not lead to another. Bounded by the queue's size: a loop is a chain too long. */
static int walk(struct virtq *vq, struct virtq_elem *elem, const uint8_t *table, unsigned count,
		unsigned index, bool is_indirect)
{
	for (unsigned steps = 0; steps < vq->cfg.size; steps++) {
		struct desc d;
		int r;

		if (index >= count)
			return virtq_break(vq, "descriptor index out of range");
		d = virtq_desc_load(table + (size_t)index * DESC_SIZE);
		if (d.flags & DESC_INDIRECT) {
			const uint8_t *inner;
			unsigned inner_count;

			if (is_indirect || (d.flags & DESC_NEXT))
				return virtq_break(vq, "misplaced indirect descriptor");
			inner = virtq_indirect(vq, &d, &inner_count);
			return inner ? walk(vq, elem, inner, inner_count, 0, true) : -EINVAL;
		}
		r = virtq_elem_add(vq, elem, &d);
		if (r < 0)
			return r;
		if (!(d.flags & DESC_NEXT))
			return 0;
		index = d.next;
	}
	return virtq_break(vq, "descriptor chain too long");
}

int split_pop(struct virtq *vq, struct virtq_elem *elem)
{
	uint16_t waiting = ring_load_acquire(vq->driver + RING_IDX) - vq->next_avail;
	uint16_t head;
	int r;

	if (waiting == 0)
		return 0;
	if (waiting > vq->cfg.size)
		return virtq_break(vq, "available index out of range");
	if (vq->in_use >= vq->cfg.size)
		return virtq_break(vq, "more buffers available than descriptors");
	head = ring_load(avail_entry(vq, vq->next_avail));
	virtq_elem_init(elem);
	elem->id = head;
	elem->desc_count = 1;
	r = walk(vq, elem, vq->desc, vq->cfg.size, head, false);
	if (r < 0)
		return r;
	vq->next_avail++;
	vq->in_use++;
	vq->popped++;
	return 1;
}

void split_unpop(struct virtq *vq, const struct virtq_elem *elem)
{
	vq->next_avail--;
	vq->in_use--;
	vq->popped--;
}

void split_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written)
{
	unsigned off = used_entry_off(vq, vq->next_used + vq->filled);

	store_le32(vq->device + off, elem->id);
	store_le32(vq->device + off + 4, written);
	mem_written(vq->mem, vq->cfg.device + off, 8);
	vq->filled++;
	vq->in_use--;
}

void split_flush(struct virtq *vq)
{
	vq->next_used += vq->filled;
	vq->signalled += vq->filled;
	vq->filled = 0;
	ring_store_release(vq->device + RING_IDX, vq->next_used);
	mem_written(vq->mem, vq->cfg.device + RING_IDX, 2);
}

bool split_should_notify(struct virtq *vq)
{
	if (!vq->cfg.event_idx)
		return !(ring_load(vq->driver + RING_FLAGS) & AVAIL_NO_INTERRUPT);
	return event_passed(ring_load(used_event(vq)), vq->next_used,
			    vq->next_used - vq->signalled);
}

bool split_set_kick(struct virtq *vq, unsigned after)
{
	uint16_t there;

	/* With event indices, not moving avail_event is how not to ask. */
	if (vq->cfg.event_idx) {
		if (!after)
			return false;
		ring_store(vq->device + avail_event_off(vq), (uint16_t)(vq->next_avail + after - 1));
		mem_written(vq->mem, vq->cfg.device + avail_event_off(vq), 2);
	} else {
		ring_store(vq->device + RING_FLAGS, after ? 0 : USED_NO_NOTIFY);
		mem_written(vq->mem, vq->cfg.device + RING_FLAGS, 2);
		if (!after)
			return false;
	}
	/* The wish must be visible before the ring is looked at; pairs with the driver's barrier
	 * between publishing a buffer and reading the wish. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	there = ring_load(vq->driver + RING_IDX) - vq->next_avail;
	return there >= after;
}
