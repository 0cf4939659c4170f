// SPDX-License-Identifier: Apache-2.0
/*
 * bus.c - port and MMIO dispatch through tables that are published whole.
 *
 * Theory of operation. struct table holds, sorted, all regions and ioeventfds of both spaces. A
 * reader enters (adds one to a counter of the present parity, in a slot chosen by its thread),
 * loads the table pointer, looks up, calls the handler, and leaves (takes its one off the same
 * counter). A writer, under bus->lock, builds a new table, swaps the pointer and retires the old
 * one.
 *
 *	slots[]   parity 0   parity 1
 *	thread A     1          0	entered before the flip
 *	thread B     0          1	entered after it
 *
 * A reader that can hold a retired table entered before the swap and so keeps a counter of one of
 * the parities above zero. Hence a retired table is free once both parities were seen at zero, each
 * at some time after the swap. Writers look each time they change something, and flip the parity
 * for newcomers whenever the other one is at rest, so that the busy one drains: a handler that
 * changes the bus (and is itself counted) never waits, and the number of retired tables stays
 * small.
 */
#include "bus.h"

#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPACES	   2
#define SLOT_COUNT 64
#define CACHE_LINE 64

struct range {
	uint64_t base;
	uint64_t last; /* inclusive, so that a range may end at 2^64 - 1 */
	struct bus_region *region;
	int fd; /* of an ioeventfd */
};

/* Sorted by base, without overlap. */
struct ranges {
	struct range *v;
	size_t n;
};

struct table {
	struct ranges regions[SPACES];
	struct ranges eventfds[SPACES];
	struct table *next_retired;
	bool seen_idle[2]; /* since it was retired */
};

struct reader_slot {
	_Alignas(CACHE_LINE) atomic_uint active[2];
};

struct bus {
	struct reader_slot slots[SLOT_COUNT];
	struct table *_Atomic table;
	atomic_uint parity;

	pthread_mutex_t lock; /* writers: publishing, and the fields below */
	struct table *retired;
	const struct bus_ioeventfd_ops *eventfd_ops;
	void *eventfd_arg;
};

/* Readers. */

struct reader {
	struct reader_slot *slot;
	unsigned parity;
};

static unsigned thread_slot(void)
{
	/* Where a thread's own storage lies tells threads apart well enough. */
	static _Thread_local char anchor;

	return (unsigned)(((uintptr_t)&anchor * 0x9e3779b97f4a7c15ull) >> 58) % SLOT_COUNT;
}

static struct reader reader_enter(struct bus *bus)
{
	struct reader r = {.slot = &bus->slots[thread_slot()]};

	r.parity = atomic_load_explicit(&bus->parity, memory_order_relaxed);
	/* seq_cst, as the table load that follows it: either the writer's scan sees this reader, or
	 * this reader sees the writer's table. */
	atomic_fetch_add(&r.slot->active[r.parity], 1);
	return r;
}

static void reader_leave(struct reader r)
{
	/* Release: pairs with parity_is_idle(), all use of the table lies before. */
	atomic_fetch_sub_explicit(&r.slot->active[r.parity], 1, memory_order_release);
}

static const struct range *ranges_find(const struct ranges *ranges, uint64_t addr)
{
	size_t low = 0, high = ranges->n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (ranges->v[mid].last < addr)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == ranges->n || ranges->v[low].base > addr)
		return NULL;
	return &ranges->v[low];
}

/* Writers. */

static bool parity_is_idle(struct bus *bus, unsigned parity)
{
	for (size_t i = 0; i < SLOT_COUNT; i++) {
		if (atomic_load(&bus->slots[i].active[parity]))
			return false;
	}
	return true;
}

static void table_free(struct table *t)
{
	if (!t)
		return;
	for (unsigned s = 0; s < SPACES; s++) {
		g_free(t->regions[s].v);
		g_free(t->eventfds[s].v);
	}
	g_free(t);
}

static void ranges_copy(struct ranges *to, const struct ranges *from, size_t room)
{
	to->n = from->n;
	to->v = g_new0(struct range, from->n + room);
	for (size_t i = 0; i < from->n; i++)
		to->v[i] = from->v[i];
}

/* bus->lock held. With room for one more range in each list. */
static struct table *table_copy(struct bus *bus)
{
	const struct table *from = atomic_load(&bus->table);
	struct table *t = g_new0(struct table, 1);

	for (unsigned s = 0; s < SPACES; s++) {
		ranges_copy(&t->regions[s], &from->regions[s], 1);
		ranges_copy(&t->eventfds[s], &from->eventfds[s], 1);
	}
	return t;
}

/* bus->lock held. */
static void retired_reclaim(struct bus *bus)
{
	unsigned now = atomic_load(&bus->parity);
	bool idle[2] = {parity_is_idle(bus, 0), parity_is_idle(bus, 1)};
	struct table **p = &bus->retired;

	while (*p) {
		struct table *t = *p;

		t->seen_idle[0] |= idle[0];
		t->seen_idle[1] |= idle[1];
		if (t->seen_idle[0] && t->seen_idle[1]) {
			*p = t->next_retired;
			table_free(t);
		} else {
			p = &t->next_retired;
		}
	}
	if (!idle[now] && idle[!now])
		atomic_store(&bus->parity, !now);
}

/* bus->lock held. */
static void table_publish(struct bus *bus, struct table *t)
{
	struct table *old = atomic_exchange(&bus->table, t);

	old->next_retired = bus->retired;
	bus->retired = old;
	retired_reclaim(bus);
}

static bool ranges_insert(struct ranges *ranges, struct range range)
{
	size_t at = 0;

	while (at < ranges->n && ranges->v[at].last < range.base)
		at++;
	if (at < ranges->n && ranges->v[at].base <= range.last)
		return false;
	for (size_t i = ranges->n++; i > at; i--)
		ranges->v[i] = ranges->v[i - 1];
	ranges->v[at] = range;
	return true;
}

static void ranges_remove_at(struct ranges *ranges, size_t at)
{
	ranges->n--;
	for (size_t i = at; i < ranges->n; i++)
		ranges->v[i] = ranges->v[i + 1];
}

static bool ranges_remove_region(struct ranges *ranges, const struct bus_region *region)
{
	for (size_t i = 0; i < ranges->n; i++) {
		if (ranges->v[i].region == region) {
			ranges_remove_at(ranges, i);
			return true;
		}
	}
	return false;
}

static bool range_is_valid(enum bus_space space, uint64_t base, uint64_t size)
{
	uint64_t top = space == BUS_PIO ? 0xffff : UINT64_MAX;

	return size > 0 && base <= top && size - 1 <= top - base;
}

struct bus *bus_new(void)
{
	/* Aligned by hand: g_new0() promises 16 bytes only. */
	struct bus *bus = aligned_alloc(CACHE_LINE, sizeof(*bus));

	if (!bus)
		abort(); /* as GLib does */
	memset(bus, 0, sizeof(*bus));
	atomic_store(&bus->table, g_new0(struct table, 1));
	pthread_mutex_init(&bus->lock, NULL);
	return bus;
}

void bus_free(struct bus *bus)
{
	if (!bus)
		return;
	while (bus->retired) {
		struct table *t = bus->retired;

		bus->retired = t->next_retired;
		table_free(t);
	}
	table_free(atomic_load(&bus->table));
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

int bus_add(struct bus *bus, struct bus_region *region)
{
	struct range range = {
		.base = region->base,
		.last = region->base + region->size - 1,
		.region = region,
		.fd = -1,
	};
	struct table *t;
	int r = 0;

	if (!range_is_valid(region->space, region->base, region->size))
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	t = table_copy(bus);
	if (ranges_insert(&t->regions[region->space], range)) {
		table_publish(bus, t);
	} else {
		table_free(t);
		r = -EEXIST;
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

void bus_remove(struct bus *bus, struct bus_region *region)
{
	struct table *t;

	pthread_mutex_lock(&bus->lock);
	t = table_copy(bus);
	if (ranges_remove_region(&t->regions[region->space], region))
		table_publish(bus, t);
	else
		table_free(t);
	pthread_mutex_unlock(&bus->lock);
}

int bus_move(struct bus *bus, struct bus_region *region, uint64_t base)
{
	struct range range = {
		.base = base, .last = base + region->size - 1, .region = region, .fd = -1};
	struct table *t;
	int r = 0;

	if (!range_is_valid(region->space, base, region->size))
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	t = table_copy(bus);
	if (!ranges_remove_region(&t->regions[region->space], region)) {
		r = -ENOENT;
	} else if (!ranges_insert(&t->regions[region->space], range)) {
		r = -EEXIST;
	} else {
		region->base = base;
		table_publish(bus, t);
		t = NULL;
	}
	table_free(t);
	pthread_mutex_unlock(&bus->lock);
	return r;
}

void bus_quiesce(struct bus *bus)
{
	bool seen[2] = {false, false};

	while (!seen[0] || !seen[1]) {
		pthread_mutex_lock(&bus->lock);
		seen[0] |= parity_is_idle(bus, 0);
		seen[1] |= parity_is_idle(bus, 1);
		retired_reclaim(bus); /* flips the parity where that helps */
		pthread_mutex_unlock(&bus->lock);
		if (!seen[0] || !seen[1])
			sched_yield();
	}
}

/* Access. */

static uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

/* Whole within @range and of a size that its handler knows. */
static bool access_fits(const struct range *range, uint64_t addr, unsigned size)
{
	unsigned max = range->region->ops->max_size;

	if (size == 1)
		return true;
	return size - 1 <= range->last - addr && (size & (size - 1)) == 0 && (!max || size <= max);
}

/* The region that takes the whole access, or NULL. */
static const struct range *access_find(const struct table *t, enum bus_space space, uint64_t addr,
				       unsigned size)
{
	const struct range *range = ranges_find(&t->regions[space], addr);

	return range && access_fits(range, addr, size) ? range : NULL;
}

static uint64_t read_bytes(const struct table *t, enum bus_space space, uint64_t addr,
			   unsigned size)
{
	uint64_t top = space == BUS_PIO ? 0xffff : UINT64_MAX;
	uint64_t value = size_mask(size);

	for (unsigned i = 0; i < size; i++) {
		const struct range *range = access_find(t, space, (addr + i) & top, 1);
		uint64_t byte;

		if (!range)
			continue;
		byte = range->region->ops->read(range->region, ((addr + i) & top) - range->base, 1);
		value &= ~(0xffull << (8 * i));
		value |= (byte & 0xff) << (8 * i);
	}
	return value;
}

uint64_t bus_read(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size)
{
	struct reader reader;
	const struct table *t;
	const struct range *range;
	uint64_t value;

	if (size == 0 || size > 8)
		return ~0ull;
	reader = reader_enter(bus);
	t = atomic_load(&bus->table);
	range = access_find(t, space, addr, size);
	if (range)
		value = range->region->ops->read(range->region, addr - range->base, size);
	else
		value = read_bytes(t, space, addr, size);
	reader_leave(reader);
	return value & size_mask(size);
}

static void write_bytes(const struct table *t, enum bus_space space, uint64_t addr,
			unsigned size, uint64_t value)
{
	uint64_t top = space == BUS_PIO ? 0xffff : UINT64_MAX;

	for (unsigned i = 0; i < size; i++) {
		const struct range *range = access_find(t, space, (addr + i) & top, 1);

		if (!range)
			continue;
		range->region->ops->write(range->region, ((addr + i) & top) - range->base, 1,
					  (value >> (8 * i)) & 0xff);
	}
}

static bool eventfd_signal(const struct table *t, enum bus_space space, uint64_t addr)
{
	const struct range *range = ranges_find(&t->eventfds[space], addr);
	uint64_t one = 1;
	ssize_t n;

	if (!range)
		return false;
	/* Fails only on a full counter, which is as good as signalled. */
	n = write(range->fd, &one, sizeof(one));
	(void)n;
	return true;
}

void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, uint64_t value)
{
	struct reader reader;
	const struct table *t;
	const struct range *range;

	if (size == 0 || size > 8)
		return;
	value &= size_mask(size);
	reader = reader_enter(bus);
	t = atomic_load(&bus->table);
	if (!eventfd_signal(t, space, addr)) {
		range = access_find(t, space, addr, size);
		if (range)
			range->region->ops->write(range->region, addr - range->base, size, value);
		else
			write_bytes(t, space, addr, size, value);
	}
	reader_leave(reader);
}

/* ioeventfds. */

void bus_set_ioeventfd_ops(struct bus *bus, const struct bus_ioeventfd_ops *ops, void *arg)
{
	pthread_mutex_lock(&bus->lock);
	bus->eventfd_ops = ops;
	bus->eventfd_arg = arg;
	pthread_mutex_unlock(&bus->lock);
}

int bus_ioeventfd_add(struct bus *bus, enum bus_space space, uint64_t addr, unsigned len, int fd)
{
	struct range range = {.base = addr, .last = addr + len - 1, .fd = fd};
	struct table *t;
	int r = 0;

	if (!range_is_valid(space, addr, len))
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	t = table_copy(bus);
	if (ranges_insert(&t->eventfds[space], range)) {
		table_publish(bus, t);
		/* Where the engine cannot, the write comes to bus_write() and is matched there. */
		if (bus->eventfd_ops)
			(void)bus->eventfd_ops->add(bus->eventfd_arg, space, addr, len, fd);
	} else {
		table_free(t);
		r = -EEXIST;
	}
	pthread_mutex_unlock(&bus->lock);
	return r;
}

void bus_ioeventfd_remove(struct bus *bus, enum bus_space space, uint64_t addr, unsigned len,
			  int fd)
{
	struct ranges *ranges;
	struct table *t;

	pthread_mutex_lock(&bus->lock);
	t = table_copy(bus);
	ranges = &t->eventfds[space];
	for (size_t i = 0; i < ranges->n; i++) {
		if (ranges->v[i].base != addr || ranges->v[i].fd != fd)
			continue;
		ranges_remove_at(ranges, i);
		table_publish(bus, t);
		if (bus->eventfd_ops)
			bus->eventfd_ops->remove(bus->eventfd_arg, space, addr, len, fd);
		t = NULL;
		break;
	}
	table_free(t);
	pthread_mutex_unlock(&bus->lock);
}
