// SPDX-License-Identifier: Apache-2.0
/* debug_exit.c - a port through which a test image ends the machine with a status. */
#include "debug_exit.h"

#include <stdlib.h>

#include "base/bits.h"
#include "bus/bus.h"

struct debug_exit {
	struct bus_region region;
	struct bus *bus;
	void (*fn)(void *arg, uint32_t status);
	void *arg;
};

static uint64_t port_read(struct bus_region *region, uint64_t off, unsigned size)
{
	return 0;
}

/* Bytes behind the first belong to a wider write that came whole. */
static void port_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct debug_exit *dev = container_of(region, struct debug_exit, region);

	if (off == 0)
		dev->fn(dev->arg, (uint32_t)value << 1 | 1);
}

static const struct bus_region_ops port_ops = {
	.read = port_read, .write = port_write, .max_size = 4};

struct debug_exit *debug_exit_new(struct bus *bus, uint16_t port,
				  void (*fn)(void *arg, uint32_t status), void *arg)
{
	struct debug_exit *dev = calloc(1, sizeof(*dev));

	if (!dev)
		return NULL;
	*dev = (struct debug_exit){
		.region = {.name = "debug exit", .space = BUS_PIO, .base = port, .size = 4,
			   .ops = &port_ops},
		.bus = bus,
		.fn = fn,
		.arg = arg,
	};
	if (bus_add(bus, &dev->region) < 0) {
		free(dev);
		return NULL;
	}
	return dev;
}

void debug_exit_free(struct debug_exit *dev)
{
	if (!dev)
		return;
	bus_remove(dev->bus, &dev->region);
	free(dev);
}
