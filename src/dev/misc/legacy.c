// SPDX-License-Identifier: Apache-2.0
/* legacy.c - keyboard controller reset, fast reset and POST codes of a PC. */
#include "legacy.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/bits.h"
#include "bus/bus.h"

#define KBC_PULSE	0xf0 /* pulse output lines; line 0, active low, is the reset */
#define FAST_RESET	0x01
#define FAST_A20	0x02

enum { PORT_KBC, PORT_FAST, PORT_POST, PORT_COUNT };

struct legacy {
	struct bus_region regions[PORT_COUNT];
	unsigned on_bus; /* how many of them */
	struct bus *bus;
	void (*reset)(void *arg);
	void *arg;
	atomic_uchar fast; /* port 0x92 */
	atomic_uchar post; /* port 0x80, for whoever debugs */
};

/* No keyboard controller: all ones tell Linux so. Only the reset pulse works. */
static uint64_t kbc_read(struct bus_region *region, uint64_t off, unsigned size)
{
	return 0xff;
}

static void kbc_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct legacy *legacy = container_of(region, struct legacy, regions[PORT_KBC]);

	if ((value & 0xf0) == KBC_PULSE && !(value & 1))
		legacy->reset(legacy->arg);
}

/* A20 is always on; the bit is kept for software that reads it back. */
static uint64_t fast_read(struct bus_region *region, uint64_t off, unsigned size)
{
	return atomic_load(&container_of(region, struct legacy, regions[PORT_FAST])->fast);
}

static void fast_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct legacy *legacy = container_of(region, struct legacy, regions[PORT_FAST]);
	uint8_t before = atomic_exchange(&legacy->fast, (unsigned char)value);

	if ((value & FAST_RESET) && !(before & FAST_RESET))
		legacy->reset(legacy->arg);
}

static uint64_t post_read(struct bus_region *region, uint64_t off, unsigned size)
{
	return atomic_load(&container_of(region, struct legacy, regions[PORT_POST])->post);
}

static void post_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	atomic_store(&container_of(region, struct legacy, regions[PORT_POST])->post,
		     (unsigned char)value);
}

static const struct bus_region_ops kbc_ops = {.read = kbc_read, .write = kbc_write, .max_size = 1};
static const struct bus_region_ops fast_ops = {
	.read = fast_read, .write = fast_write, .max_size = 1};
static const struct bus_region_ops post_ops = {
	.read = post_read, .write = post_write, .max_size = 1};

static const struct bus_region region_table[PORT_COUNT] = {
	[PORT_KBC] = {.name = "kbc", .space = BUS_PIO, .base = 0x64, .size = 1, .ops = &kbc_ops},
	[PORT_FAST] = {.name = "fast reset", .space = BUS_PIO, .base = 0x92, .size = 1,
		       .ops = &fast_ops},
	[PORT_POST] = {.name = "post", .space = BUS_PIO, .base = 0x80, .size = 1,
		       .ops = &post_ops},
};

void legacy_reset(struct legacy *legacy)
{
	atomic_store(&legacy->fast, FAST_A20);
	atomic_store(&legacy->post, 0);
}

struct legacy *legacy_new(struct bus *bus, void (*reset)(void *arg), void *arg)
{
	struct legacy *legacy = calloc(1, sizeof(*legacy));

	if (!legacy)
		return NULL;
	legacy->bus = bus;
	legacy->reset = reset;
	legacy->arg = arg;
	legacy_reset(legacy);
	for (unsigned i = 0; i < PORT_COUNT; i++) {
		legacy->regions[i] = region_table[i];
		if (bus_add(bus, &legacy->regions[i]) < 0) {
			legacy_free(legacy);
			return NULL;
		}
		legacy->on_bus++;
	}
	return legacy;
}

void legacy_free(struct legacy *legacy)
{
	if (!legacy)
		return;
	while (legacy->on_bus > 0)
		bus_remove(legacy->bus, &legacy->regions[--legacy->on_bus]);
	free(legacy);
}
