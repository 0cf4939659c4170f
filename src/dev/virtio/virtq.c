// SPDX-License-Identifier: Apache-2.0
/* virtq.c - what both kinds of virtqueue do alike: placing rings, mapping buffers, copying. */
#include "dev/virtio/virtq.h"

#include <errno.h>
#include <string.h>

#include "dev/virtio/virtq_int.h"

int virtq_break(struct virtq *vq, const char *why)
{
	vq->broken = true;
	vq->why = why;
	return -EINVAL;
}

/* Sizes and alignments: virtio 1.2, tables in 2.7 and 2.8.10. */
int virtq_start(struct virtq *vq, struct mem *mem, const struct virtq_config *config)
{
	uint32_t n = config->size;
	uint64_t desc_len = (uint64_t)n * DESC_SIZE;
	uint64_t driver_len = config->packed ? 4 : 6 + 2ull * n;
	uint64_t device_len = config->packed ? 4 : 6 + 8ull * n;
	unsigned align = config->packed ? 4 : 2;

	*vq = (struct virtq){ .mem = mem, .cfg = *config, .avail_wrap = true, .used_wrap = true };
	if (n == 0 || n > VIRTQ_MAX_SIZE || (!config->packed && (n & (n - 1)) != 0))
		return virtq_break(vq, "impossible size");
	if (config->desc % DESC_SIZE || config->driver % align || config->device % 4)
		return virtq_break(vq, "misaligned ring");
	vq->desc = mem_ptr(mem, config->desc, desc_len);
	vq->driver = mem_ptr(mem, config->driver, driver_len);
	vq->device = mem_ptr(mem, config->device, device_len);
	if (!vq->desc || !vq->driver || !vq->device)
		return virtq_break(vq, "ring outside memory");
	return 0;
}

struct desc virtq_desc_load(const uint8_t *p)
{
	uint8_t copy[DESC_SIZE];

	memcpy(copy, p, sizeof(copy));
	return (struct desc){
		.addr = load_le64(copy),
		.len = load_le32(copy + 8),
		.flags = load_le16(copy + 12),
		.next = load_le16(copy + 14),
	};
}

void virtq_elem_init(struct virtq_elem *elem)
{
	elem->out_count = 0;
	elem->in_count = 0;
	elem->out_bytes = 0;
	elem->in_bytes = 0;
}

/* The part of [gpa, gpa+len) that lies in the slot where it begins; NULL outside RAM. */
static void *map_part(struct mem *mem, gpa_t gpa, uint64_t len, uint64_t *ret_len)
{
	size_t count;
	const struct mem_slot *slots = mem_slots(mem, &count);

	for (size_t i = 0; i < count; i++) {
		uint64_t off = gpa - slots[i].gpa;

		if (gpa < slots[i].gpa || off >= slots[i].size)
			continue;
		*ret_len = len < slots[i].size - off ? len : slots[i].size - off;
		return mem_ptr(mem, gpa, *ret_len);
	}
	return NULL;
}

int virtq_elem_add(struct virtq *vq, struct virtq_elem *elem, const struct desc *d)
{
	bool in = d->flags & DESC_WRITE;
	uint64_t left = d->len;
	gpa_t gpa = d->addr;

	if (!in && elem->in_count)
		return virtq_break(vq, "readable buffer behind a writable one");
	while (left > 0) {
		unsigned n = elem->out_count + elem->in_count;
		uint64_t part;
		void *p = map_part(vq->mem, gpa, left, &part);

		if (!p)
			return virtq_break(vq, "buffer outside memory");
		if (n == VIRTQ_MAX_IOV)
			return virtq_break(vq, "too many segments");
		elem->iov[n] = (struct iovec){ .iov_base = p, .iov_len = part };
		elem->gpa[n] = gpa;
		if (in)
			elem->in_count++;
		else
			elem->out_count++;
		gpa += part;
		left -= part;
	}
	if (in)
		elem->in_bytes += d->len;
	else
		elem->out_bytes += d->len;
	return 0;
}

const uint8_t *virtq_indirect(struct virtq *vq, const struct desc *d, unsigned *ret_count)
{
	const uint8_t *table;

	if (!vq->cfg.indirect) {
		virtq_break(vq, "indirect descriptor without the feature");
		return NULL;
	}
	/* 2.7.5.3.1: no longer than the queue. */
	if (d->len == 0 || d->len % DESC_SIZE || d->len / DESC_SIZE > vq->cfg.size) {
		virtq_break(vq, "indirect table of impossible length");
		return NULL;
	}
	table = mem_ptr(vq->mem, d->addr, d->len);
	if (!table)
		virtq_break(vq, "indirect table outside memory");
	*ret_count = d->len / DESC_SIZE;
	return table;
}

int virtq_pop(struct virtq *vq, struct virtq_elem *elem)
{
	if (vq->broken)
		return -EINVAL;
	return vq->cfg.packed ? packed_pop(vq, elem) : split_pop(vq, elem);
}

void virtq_unpop(struct virtq *vq, const struct virtq_elem *elem)
{
	if (vq->cfg.packed)
		packed_unpop(vq, elem);
	else
		split_unpop(vq, elem);
}

void virtq_elem_written(struct virtq *vq, const struct virtq_elem *elem, uint64_t len)
{
	for (unsigned i = elem->out_count; len > 0 && i < elem->out_count + elem->in_count; i++) {
		uint64_t part = elem->iov[i].iov_len < len ? elem->iov[i].iov_len : len;

		mem_written(vq->mem, elem->gpa[i], part);
		len -= part;
	}
}

void virtq_fill(struct virtq *vq, const struct virtq_elem *elem, uint32_t written)
{
	virtq_elem_written(vq, elem, written);
	if (vq->cfg.packed)
		packed_fill(vq, elem, written);
	else
		split_fill(vq, elem, written);
}

void virtq_flush(struct virtq *vq)
{
	if (vq->filled == 0)
		return;
	if (vq->cfg.packed)
		packed_flush(vq);
	else
		split_flush(vq);
}

void virtq_push(struct virtq *vq, const struct virtq_elem *elem, uint32_t written)
{
	virtq_fill(vq, elem, written);
	virtq_flush(vq);
}

bool virtq_should_notify(struct virtq *vq)
{
	bool notify;

	if (vq->signalled == 0)
		return false;
	/* The used entry must be visible before the driver's wish is read; pairs with the
	 * driver's barrier between announcing its wish and looking at the ring again. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	notify = vq->cfg.packed ? packed_should_notify(vq) : split_should_notify(vq);
	vq->signalled = 0;
	return notify;
}

bool virtq_set_kick(struct virtq *vq, bool wanted)
{
	if (vq->broken)
		return false;
	return vq->cfg.packed ? packed_set_kick(vq, wanted ? 1 : 0) : split_set_kick(vq, wanted ? 1 : 0);
}

bool virtq_kick_after(struct virtq *vq, unsigned n)
{
	if (vq->broken)
		return false;
	if (!vq->cfg.event_idx)
		n = 1;
	return vq->cfg.packed ? packed_set_kick(vq, n) : split_set_kick(vq, n);
}

static size_t copy_iov(const struct iovec *iov, unsigned count, size_t off, void *buf, size_t len,
		       bool to_iov)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < len; i++) {
		size_t part = iov[i].iov_len;
		uint8_t *p = iov[i].iov_base;

		if (off >= part) {
			off -= part;
			continue;
		}
		part -= off;
		if (part > len - done)
			part = len - done;
		if (to_iov)
			memcpy(p + off, (uint8_t *)buf + done, part);
		else
			memcpy((uint8_t *)buf + done, p + off, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t virtq_elem_read(const struct virtq_elem *elem, size_t off, void *buf, size_t len)
{
	return copy_iov(elem->iov, elem->out_count, off, buf, len, false);
}

size_t virtq_elem_write(const struct virtq_elem *elem, size_t off, const void *buf, size_t len)
{
	return copy_iov(elem->iov + elem->out_count, elem->in_count, off, (void *)buf, len, true);
}
