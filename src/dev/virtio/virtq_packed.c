// SPDX-License-Identifier: Apache-2.0
/*
 * virtq_packed.c - the packed virtqueue: virtio 1.2, section 2.8.
 *
 * One ring of descriptors, written by both sides. A descriptor is available when its AVAIL bit
 * equals the reader's wrap counter and its USED bit does not; used when both equal it. The
 * counters flip each time the respective position passes the end of the ring.
 */
#include "dev/virtio/virtq_int.h"

#include <errno.h>

#define DESC_ID	   12u /* byte offsets in a packed descriptor */
#define DESC_FLAGS 14u

/* Event suppression structures, 2.8.10. */
#define EVENT_OFF   0u
#define EVENT_FLAGS 2u

#define EVENT_ENABLE  0u
#define EVENT_DISABLE 1u
#define EVENT_DESC    2u
#define EVENT_WRAP    0x8000u

static uint8_t *slot(const struct virtq *vq, unsigned pos)
{
	return vq->desc + (size_t)pos * DESC_SIZE;
}

/* id and flags lie the other way round than next and flags of a split descriptor. */
static struct desc packed_load(const uint8_t *p)
{
	struct desc d = virtq_desc_load(p);

	return (struct desc){ .addr = d.addr, .len = d.len, .flags = d.next, .next = d.flags };
}

static bool is_available(uint16_t flags, bool wrap)
{
	return !!(flags & DESC_AVAIL) == wrap && !!(flags & DESC_USED) != wrap;
}

/* 2.8.7: a table's descriptors stand in order; NEXT means nothing there. */
static int walk_indirect(struct virtq *vq, struct virtq_elem *elem, const struct desc *d)
{
	unsigned count;
	const uint8_t *table = virtq_indirect(vq, d, &count);

	if (!table)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++) {
		struct desc inner = packed_load(table + (size_t)i * DESC_SIZE);
		int r;

		if (inner.flags & DESC_INDIRECT)
			return virtq_break(vq, "misplaced indirect descriptor");
		r = virtq_elem_add(vq, elem, &inner);
		if (r < 0)
			return r;
	}
	return 0;
}

static void advance(struct virtq *vq, uint16_t *pos, bool *wrap, unsigned by)
{
	unsigned next = *pos + by;

	if (next >= vq->cfg.size) {
		next -= vq->cfg.size;
		*wrap = !*wrap;
	}
	*pos = (uint16_t)next;
}

int packed_pop(struct virtq *vq, struct virtq_elem *elem)
{
	unsigned pos = vq->next_avail;
	unsigned free_slots = (unsigned)vq->cfg.size - vq->in_use;
	struct desc d;
	unsigned n = 0;

	if (!is_available(ring_load_acquire(slot(vq, pos) + DESC_FLAGS), vq->avail_wrap))
		return 0;
	virtq_elem_init(elem);
	do {
		int r;

		if (n == free_slots)
			return virtq_break(vq, "descriptor chain too long");
		d = packed_load(slot(vq, pos));
		if ((d.flags & DESC_INDIRECT) && ((d.flags & DESC_NEXT) || n > 0))
			return virtq_break(vq, "misplaced indirect descriptor");
		if (d.flags & DESC_INDIRECT)
			r = walk_indirect(vq, elem, &d);
		else
			r = virtq_elem_add(vq, elem, &d);
		if (r < 0)
			return r;
		n++;
		pos = pos + 1 == vq->cfg.size ? 0 : pos + 1;
	} while (d.flags & DESC_NEXT);
	elem->id = d.next; /* of the last descriptor in the chain */
	elem->desc_count = (uint16_t)n;
	advance(vq, &vq->next_avail, &vq->avail_wrap, n);
	vq->in_use += n;
	vq->popped += n;
	return 1;
}

void packed_unpop(struct virtq *vq, const struct virtq_elem *elem)
{
	if (vq->next_avail < elem->desc_count) {
		vq->next_avail += vq->cfg.size;
		vq->avail_wrap = !vq->avail_wrap;
	}
	vq->next_avail -= elem->desc_count;
	vq->in_use -= elem->desc_count;
	vq->popped -= elem->desc_count;
}

void packed_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written)
{
	uint16_t pos = vq->next_used;
	bool wrap = vq->used_wrap;
	uint16_t flags;
	uint8_t *p;

	advance(vq, &pos, &wrap, vq->filled);
	flags = (wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0);
	p = slot(vq, pos);
	store_le32(p + 8, written);
	store_le16(p + DESC_ID, elem->id);
	if (vq->filled == 0) /* the driver stops at it until the flush */
		vq->first_flags = flags;
	else
		ring_store_release(p + DESC_FLAGS, flags);
	mem_written(vq->mem, vq->cfg.desc + (uint64_t)pos * DESC_SIZE, DESC_SIZE);
	vq->filled += elem->desc_count;
	vq->in_use -= elem->desc_count;
}

void packed_flush(struct virtq *vq)
{
	ring_store_release(slot(vq, vq->next_used) + DESC_FLAGS, vq->first_flags);
	mem_written(vq->mem, vq->cfg.desc + (uint64_t)vq->next_used * DESC_SIZE, DESC_SIZE);
	advance(vq, &vq->next_used, &vq->used_wrap, vq->filled);
	vq->signalled += vq->filled;
	vq->filled = 0;
}

bool packed_should_notify(struct virtq *vq)
{
	uint16_t flags = ring_load_acquire(vq->driver + EVENT_FLAGS) & 3u;
	uint16_t off = ring_load(vq->driver + EVENT_OFF);
	uint16_t event = off & (uint16_t)~EVENT_WRAP;

	if (flags != EVENT_DESC || !vq->cfg.event_idx)
		return flags != EVENT_DISABLE;
	/* Positions of the previous lap count below zero. */
	if (!!(off & EVENT_WRAP) != vq->used_wrap)
		event -= vq->cfg.size;
	return event_passed(event, vq->next_used, vq->next_used - vq->signalled);
}

static bool pos_is_available(const struct virtq *vq, uint16_t pos, bool wrap)
{
	return is_available(ring_load(slot(vq, pos) + DESC_FLAGS), wrap);
}

bool packed_set_kick(struct virtq *vq, unsigned after)
{
	uint16_t flags = EVENT_DISABLE, last = vq->next_avail;
	bool wrap = vq->avail_wrap;

	if (after && vq->cfg.event_idx) {
		advance(vq, &last, &wrap, after - 1);
		ring_store(vq->device + EVENT_OFF, last | (wrap ? EVENT_WRAP : 0));
		flags = EVENT_DESC;
	} else if (after) {
		flags = EVENT_ENABLE;
	}
	/* Release: the offset before the flags that give it meaning. */
	ring_store_release(vq->device + EVENT_FLAGS, flags);
	mem_written(vq->mem, vq->cfg.device, 4);
	if (!after)
		return false;
	/* As in the split ring: the wish before the look. The last one may belong to a chain that is not
	 * published yet, for which there will be a kick: only behind the first is there anything. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return pos_is_available(vq, vq->next_avail, vq->avail_wrap) && pos_is_available(vq, last, wrap);
}
