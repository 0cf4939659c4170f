// SPDX-License-Identifier: Apache-2.0
/*
 * bus.h - port and MMIO dispatch.
 *
 * A flat table per space, sorted by base, published whole. Readers (vCPU threads) take no lock;
 * bus_add(), bus_remove() and bus_move() build a copy, swap the pointer and reclaim the old table
 * once no reader can hold it. They may be called from inside a region's handler (a BAR write).
 *
 * A handler runs in the thread of the vCPU that made the access; the device guards its state with
 * a lock of its own. Accesses that hit nothing read all ones and write nowhere. An access that
 * straddles two regions is split by bytes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bus;
struct bus_region;

enum bus_space {
	BUS_PIO,  /* 16-bit ports */
	BUS_MMIO, /* guest-physical addresses that are not RAM */
};

struct bus_region_ops {
	/* @off: from the region's base. @size: 1, 2, 4 or 8, naturally within the region. */
	uint64_t (*read)(struct bus_region *region, uint64_t off, unsigned size);
	void (*write)(struct bus_region *region, uint64_t off, unsigned size, uint64_t value);
	/* Wider accesses come byte by byte; 0: none is too wide. */
	unsigned max_size;
};

/* Embedded in a device, which recovers itself with container_of. base and size are read-only
 * while the region is on a bus. */
struct bus_region {
	const char *name;
	enum bus_space space;
	uint64_t base;
	uint64_t size;
	const struct bus_region_ops *ops;
};

/* The engine's part of an ioeventfd, if it has one: 0 or -errno. See engine.h. */
struct bus_ioeventfd_ops {
	int (*add)(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd);
	void (*remove)(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd);
};

struct bus *bus_new(void);
void bus_free(struct bus *bus);

/* 0; -EEXIST where it would overlap another region; -EINVAL for an empty or wrapping range.
 * The region is borrowed until bus_remove(). */
int bus_add(struct bus *bus, struct bus_region *region);
/* On return no new handler call starts; one under way in another thread may still finish. */
void bus_remove(struct bus *bus, struct bus_region *region);

/* To another base, in one step for readers; base is updated. Errors as bus_add(), nothing moved. */
int bus_move(struct bus *bus, struct bus_region *region, uint64_t base);
/* Wait until every handler call under way when it was called has ended: after bus_remove(), before
 * the region's memory is freed. Never from a handler, nor holding a lock that a handler takes. */
void bus_quiesce(struct bus *bus);

/* @size 1..8. */
uint64_t bus_read(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, enum bus_space space, uint64_t addr, unsigned size, uint64_t value);

/*
 * A write of any size to [addr, addr+len) signals eventfd @fd instead of calling the device. With
 * @ops set (once, before vCPUs run) the engine is asked to do it in the kernel; where it
 * cannot, the bus writes the descriptor itself. Reads still reach the region.
 */
void bus_set_ioeventfd_ops(struct bus *bus, const struct bus_ioeventfd_ops *ops, void *arg);
int bus_ioeventfd_add(struct bus *bus, enum bus_space space, uint64_t addr, unsigned len, int fd);
void bus_ioeventfd_remove(struct bus *bus, enum bus_space space, uint64_t addr, unsigned len,
			  int fd);
