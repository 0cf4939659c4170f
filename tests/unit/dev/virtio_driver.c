// SPDX-License-Identifier: Apache-2.0
/* virtio_driver.c - a small machine without CPUs and a small virtio driver, for tests. */
#include "virtio_driver.h"

#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"

#define NEXT	 1u
#define WRITE	 2u
#define INDIRECT 4u
#define AVAIL	 0x80u
#define USED	 0x8000u

/* ---- the rig ---- */

static void set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	struct rig *rig = container_of(chip, struct rig, irq);

	if (level && !rig->line[gsi])
		rig->line_raised[gsi]++;
	rig->line[gsi] = level;
}

static void send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
	struct rig *rig = container_of(chip, struct rig, irq);

	__atomic_fetch_add(&rig->msi_count[data & 0xff], 1, __ATOMIC_RELAXED);
}

static const struct irq_chip_ops irq_ops = { .set_line = set_line, .send_msi = send_msi };

static void tick(void *arg)
{
	struct rig *rig = arg;

	rig->met = rig->until(rig->until_arg);
	if (rig->met || loop_now_ns() > rig->deadline_ns)
		loop_stop(rig->loop);
	else
		loop_timer_arm(rig->tick, loop_now_ns() + 100000);
}

void rig_init(struct rig *rig, uint64_t memory)
{
	struct mem_config config = { .size_bytes = memory, .node = -1 };

	memset(rig, 0, sizeof(*rig));
	rig->irq.ops = &irq_ops;
	rig->mem = mem_new(&config, NULL);
	rig->bus = bus_new();
	rig->pci = pci_bus_new(rig->bus, &rig->irq);
	rig->loop = loop_new();
	rig->tick = loop_timer_new(rig->loop, tick, rig);
	g_assert(rig->mem && rig->pci && rig->tick);
}

void rig_fini(struct rig *rig)
{
	loop_timer_free(rig->tick);
	pci_bus_free(rig->pci);
	bus_free(rig->bus);
	loop_free(rig->loop);
	mem_free(rig->mem);
}

static void *run_loop(void *arg)
{
	loop_run(arg);
	return NULL;
}

void rig_thread_start(struct rig *rig)
{
	g_assert(pthread_create(&rig->thread, NULL, run_loop, rig->loop) == 0);
	rig->threaded = true;
}

void rig_thread_stop(struct rig *rig)
{
	loop_stop(rig->loop);
	pthread_join(rig->thread, NULL);
	rig->threaded = false;
}

bool rig_wait(struct rig *rig, bool (*until)(void *arg), void *arg)
{
	if (until(arg))
		return true;
	if (rig->threaded) {
		bool met = false;

		for (unsigned i = 0; i < 50000 && !(met = until(arg)); i++)
			usleep(20);
		return met;
	}
	rig->until = until;
	rig->until_arg = arg;
	rig->deadline_ns = loop_now_ns() + 2000000000ull;
	loop_timer_arm(rig->tick, 0);
	loop_run(rig->loop);
	return rig->met;
}

static bool after_rounds(void *arg)
{
	unsigned *rounds = arg;

	return (*rounds)-- == 0;
}

void rig_settle(struct rig *rig)
{
	unsigned rounds = 20;

	rig_wait(rig, after_rounds, &rounds);
}

uint32_t cfg_read(struct rig *rig, unsigned slot, unsigned off, unsigned size)
{
	bus_write(rig->bus, BUS_PIO, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	return (uint32_t)bus_read(rig->bus, BUS_PIO, 0xcfc + (off & 3), size);
}

void cfg_write(struct rig *rig, unsigned slot, unsigned off, unsigned size, uint32_t value)
{
	bus_write(rig->bus, BUS_PIO, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	bus_write(rig->bus, BUS_PIO, 0xcfc + (off & 3), size, value);
}

/* ---- queues ---- */

static uint8_t *at(struct drv_queue *q, gpa_t gpa)
{
	return mem_ptr(q->rig->mem, gpa, 1);
}

void drv_queue_init(struct drv_queue *q, struct rig *rig, bool packed, bool event_idx,
		    uint16_t size, gpa_t base)
{
	memset(q, 0, sizeof(*q));
	q->rig = rig;
	q->packed = packed;
	q->event_idx = event_idx;
	q->size = size;
	q->desc = base;
	q->driver = base + 0x1000;
	q->device = base + 0x1400;
	q->avail_wrap = q->used_wrap = true;
	memset(mem_ptr(rig->mem, base, 0x2000), 0, 0x2000);
	for (unsigned i = 0; i < size; i++)
		q->free_list[q->free_count++] = (uint16_t)(size - 1 - i);
}

static void put_desc(uint8_t *p, gpa_t addr, uint32_t len, uint16_t a, uint16_t b)
{
	store_le64(p, addr);
	store_le32(p + 8, len);
	store_le16(p + 12, a);
	store_le16(p + 14, b);
}

static void put_indirect(struct drv_queue *q, const struct drv_buf *bufs, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint16_t flags = bufs[i].in ? WRITE : 0;
		uint8_t *p = at(q, q->indirect + i * 16);

		if (q->packed)
			put_desc(p, bufs[i].gpa, bufs[i].len, 0, flags);
		else
			put_desc(p, bufs[i].gpa, bufs[i].len,
				 i + 1 < count ? flags | NEXT : flags, (uint16_t)(i + 1));
	}
}

static uint16_t add_split(struct drv_queue *q, const struct drv_buf *bufs, unsigned count,
			  bool indirect)
{
	unsigned n = indirect ? 1 : count;
	uint16_t head, idx;

	g_assert(q->free_count >= n);
	head = q->free_list[--q->free_count];
	q->chain_len[head] = (uint16_t)n;
	idx = head;
	for (unsigned i = 0; i < n; i++) {
		uint16_t next = i + 1 < n ? q->free_list[--q->free_count] : 0;
		uint16_t flags = (i + 1 < n ? NEXT : 0) | (bufs[i].in ? WRITE : 0);

		if (indirect)
			put_desc(at(q, q->desc + idx * 16u), q->indirect, count * 16, INDIRECT, 0);
		else
			put_desc(at(q, q->desc + idx * 16u), bufs[i].gpa, bufs[i].len, flags, next);
		idx = next;
	}
	store_le16(at(q, q->driver + 4 + 2u * (q->avail_idx % q->size)), head);
	q->avail_idx++;
	__atomic_store_n((uint16_t *)at(q, q->driver + 2), q->avail_idx, __ATOMIC_SEQ_CST);
	return head;
}

static void store_flags(uint8_t *desc, uint16_t flags)
{
	__atomic_store_n((uint16_t *)(desc + 14), flags, __ATOMIC_SEQ_CST);
}

static uint16_t add_packed(struct drv_queue *q, const struct drv_buf *bufs, unsigned count,
			   bool indirect)
{
	unsigned n = indirect ? 1 : count;
	uint16_t id = q->free_list[--q->free_count], first_flags = 0;
	uint16_t first = q->next_avail;

	q->chain_len[id] = (uint16_t)n;
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = q->avail_wrap ? AVAIL : USED;
		uint8_t *p = at(q, q->desc + q->next_avail * 16u);

		flags |= i + 1 < n ? NEXT : 0;
		flags |= indirect ? INDIRECT : bufs[i].in ? WRITE : 0;
		/* The device may be looking at the first one's flags, which come last. */
		store_le64(p, indirect ? q->indirect : bufs[i].gpa);
		store_le32(p + 8, indirect ? count * 16 : bufs[i].len);
		store_le16(p + 12, id);
		if (i == 0)
			first_flags = flags;
		else
			store_flags(p, flags);
		if (++q->next_avail == q->size) {
			q->next_avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
	}
	store_flags(at(q, q->desc + first * 16u), first_flags);
	return id;
}

uint16_t drv_add(struct drv_queue *q, const struct drv_buf *bufs, unsigned count)
{
	bool indirect = q->indirect != 0;

	if (indirect)
		put_indirect(q, bufs, count);
	return q->packed ? add_packed(q, bufs, count, indirect) :
			   add_split(q, bufs, count, indirect);
}

static void free_chain(struct drv_queue *q, uint16_t id)
{
	uint16_t idx = id;

	for (unsigned i = q->chain_len[id]; i > 0; i--) {
		q->free_list[q->free_count++] = idx;
		idx = load_le16(at(q, q->desc + idx * 16u + 14));
	}
}

bool drv_used(struct drv_queue *q, uint16_t *ret_id, uint32_t *ret_len)
{
	uint16_t flags;
	uint8_t *p;

	if (!q->packed) {
		if (__atomic_load_n((uint16_t *)at(q, q->device + 2), __ATOMIC_ACQUIRE) ==
		    q->used_idx)
			return false;
		p = at(q, q->device + 4 + 8u * (q->used_idx++ % q->size));
		*ret_id = (uint16_t)load_le32(p);
		*ret_len = load_le32(p + 4);
		free_chain(q, *ret_id);
		return true;
	}
	p = at(q, q->desc + q->next_used * 16u);
	flags = __atomic_load_n((uint16_t *)(p + 14), __ATOMIC_ACQUIRE);
	if (!!(flags & AVAIL) != q->used_wrap || !!(flags & USED) != q->used_wrap)
		return false;
	*ret_id = load_le16(p + 12);
	*ret_len = load_le32(p + 8);
	q->free_list[q->free_count++] = *ret_id;
	q->next_used += q->chain_len[*ret_id];
	if (q->next_used >= q->size) {
		q->next_used -= q->size;
		q->used_wrap = !q->used_wrap;
	}
	return true;
}

void drv_want_interrupt(struct drv_queue *q)
{
	if (!q->packed) {
		store_le16(at(q, q->driver + 4 + 2u * q->size), q->used_idx);
		return;
	}
	store_le16(at(q, q->driver), q->next_used | (q->used_wrap ? 0x8000 : 0));
	store_le16(at(q, q->driver + 2), 2);
}

/* 2.8.10: positions of the lap before count below zero. */
static bool packed_kick_wanted(struct drv_queue *q, uint16_t old_pos)
{
	uint16_t off = load_le16(at(q, q->device)), event = off & 0x7fff, now = q->next_avail;
	uint16_t added = (uint16_t)((now + q->size - old_pos) % q->size);

	if ((load_le16(at(q, q->device + 2)) & 3) != 2)
		return (load_le16(at(q, q->device + 2)) & 3) != 1;
	if ((off >> 15) != q->avail_wrap)
		event -= q->size;
	return (uint16_t)(now - event - 1) < added;
}

uint16_t drv_position(const struct drv_queue *q)
{
	return q->packed ? q->next_avail : q->avail_idx;
}

bool drv_kick_wanted(struct drv_queue *q, uint16_t old_idx)
{
	uint16_t event;

	if (q->packed && !q->event_idx)
		return (load_le16(at(q, q->device + 2)) & 3) != 1;
	if (q->packed)
		return packed_kick_wanted(q, old_idx);
	if (!q->event_idx)
		return !(load_le16(at(q, q->device)) & 1);
	event = load_le16(at(q, q->device + 4 + 8u * q->size));
	return (uint16_t)(q->avail_idx - event - 1) < (uint16_t)(q->avail_idx - old_idx);
}

/* ---- a device ---- */

uint64_t drv_read(struct drv *d, unsigned off, unsigned size)
{
	return bus_read(d->rig->bus, BUS_MMIO, d->bar + off, size);
}

void drv_write(struct drv *d, unsigned off, unsigned size, uint64_t value)
{
	bus_write(d->rig->bus, BUS_MMIO, d->bar + off, size, value);
}

uint8_t drv_status(struct drv *d)
{
	return (uint8_t)drv_read(d, 20, 1);
}

static bool is_reset(void *arg)
{
	return drv_status(arg) == 0;
}

void drv_reset(struct drv *d)
{
	drv_write(d, 20, 1, 0);
	g_assert(rig_wait(d->rig, is_reset, d));
}

static unsigned find_cap(struct rig *rig, unsigned slot, uint8_t id)
{
	unsigned at_off = cfg_read(rig, slot, 0x34, 1);

	while (at_off && cfg_read(rig, slot, at_off, 1) != id)
		at_off = cfg_read(rig, slot, at_off + 1, 1);
	return at_off;
}

void drv_probe(struct drv *d, struct rig *rig, unsigned slot, uint64_t features, bool msix)
{
	uint64_t offered;

	memset(d, 0, sizeof(*d));
	d->rig = rig;
	d->slot = slot;
	d->msix = msix;
	cfg_write(rig, slot, 4, 2, 6);
	d->bar = cfg_read(rig, slot, 0x10, 4) & ~15u;
	if (msix)
		cfg_write(rig, slot, find_cap(rig, slot, 0x11) + 2, 2, 0x8000);
	drv_reset(d);
	drv_write(d, 20, 1, 1);
	drv_write(d, 20, 1, 3);
	drv_write(d, 0, 4, 0);
	offered = drv_read(d, 4, 4);
	drv_write(d, 0, 4, 1);
	offered |= drv_read(d, 4, 4) << 32;
	d->features = offered & features;
	drv_write(d, 8, 4, 0);
	drv_write(d, 12, 4, (uint32_t)d->features);
	drv_write(d, 8, 4, 1);
	drv_write(d, 12, 4, d->features >> 32);
	drv_write(d, 20, 1, 0xb);
}

void drv_queue_setup(struct drv *d, unsigned index, uint16_t size, gpa_t base)
{
	struct drv_queue *q = &d->q[index];

	drv_queue_init(q, d->rig, d->features & DRV_PACKED, d->features & DRV_EVENT_IDX, size, base);
	drv_write(d, 22, 2, index);
	drv_write(d, 24, 2, size);
	drv_write(d, 32, 4, (uint32_t)q->desc);
	drv_write(d, 36, 4, q->desc >> 32);
	drv_write(d, 40, 8, q->driver);
	drv_write(d, 48, 8, q->device);
	if (d->msix) {
		unsigned entry = DRV_MSIX_TABLE + 16 * (index + 1);

		drv_write(d, entry, 8, 0xfee00000u);
		drv_write(d, entry + 8, 4, 0x40 + index);
		drv_write(d, entry + 12, 4, 0);
		drv_write(d, 26, 2, index + 1);
	}
	drv_write(d, 28, 2, 1);
}

void drv_ready(struct drv *d)
{
	drv_write(d, 20, 1, 0xf);
}

void drv_notify(struct drv *d, unsigned index)
{
	drv_write(d, DRV_NOTIFY + 4 * index, 2, index);
}

struct waiter {
	struct drv_queue *q;
	uint16_t id;
	uint32_t len;
};

static bool has_used(void *arg)
{
	struct waiter *w = arg;

	return drv_used(w->q, &w->id, &w->len);
}

bool drv_wait_used(struct drv *d, unsigned index, uint16_t *ret_id, uint32_t *ret_len)
{
	struct waiter w = { .q = &d->q[index] };

	if (!rig_wait(d->rig, has_used, &w))
		return false;
	*ret_id = w.id;
	*ret_len = w.len;
	return true;
}
