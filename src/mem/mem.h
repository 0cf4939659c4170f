// SPDX-License-Identifier: Apache-2.0
/*
 * mem.h - guest-physical memory: RAM slots, bounds-checked access, who is told of a write.
 *
 * Layout: RAM from GPA 0 up to MEM_HOLE_START, the rest from MEM_HIGH_START on; between the two
 * lies the hole for PCI, ECAM, interrupt controllers. RAM is one shared memfd (or private
 * anonymous memory where samepage merging is wanted), mapped once, taken as the guest touches it.
 *
 * Threading: slots are fixed after mem_new(); every other call is thread-safe and lock-free.
 *
 * Whoever writes guest RAM other than through mem_write() (an iovec given to the kernel, say) calls
 * mem_written() after the bytes are in place and before the guest is told: the dirty log and
 * translated code depend on it.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t gva_t; /* guest-virtual (linear) address */

#define MEM_PAGE_SIZE  4096u
#define MEM_HOLE_START 0xc0000000ull  /* 3 GiB: end of low RAM at most */
#define MEM_HIGH_START 0x100000000ull /* 4 GiB: RAM above the hole */

struct mem;

struct mem_config {
	uint64_t size_bytes; /* multiple of 4 KiB, 1 MiB to 1 TiB */
	bool hugepages;	     /* explicit 2 MiB hugetlb pages; fails where none are reserved */
	bool prealloc;	     /* touch everything before the guest starts */
	bool merge;	     /* private anonymous memory, MADV_MERGEABLE */
	bool lock;	     /* mlock */
	int node;	     /* bind to this NUMA node; -1: host's choice */
};

struct mem_slot {
	gpa_t gpa;
	uint64_t size;
	uint8_t *hva;
	int fd; /* -1 for anonymous memory */
	uint64_t fd_offset;
};

/* Told of each range of RAM that was written by other than a vCPU, see mem_written(). */
struct mem_observer {
	void (*written)(struct mem_observer *self, gpa_t gpa, uint64_t len);
	struct mem_observer *next;
};

/* NULL with a sentence in @err when the host cannot give what was asked. */
struct mem *mem_new(const struct mem_config *config, GError **err);
void mem_free(struct mem *mem);

/* One or two slots, ascending by gpa. Borrowed for the life of @mem. */
const struct mem_slot *mem_slots(const struct mem *mem, size_t *ret_count);
uint64_t mem_size(const struct mem *mem);

/* Host address of [gpa, gpa+len), or NULL unless all of it lies in one slot. len may be 0. */
void *mem_ptr(const struct mem *mem, gpa_t gpa, uint64_t len);

/* 0, or -EFAULT with nothing copied. Ranges may not straddle slots. */
int mem_read(const struct mem *mem, gpa_t gpa, void *buf, uint64_t len);
int mem_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len);

void mem_written(struct mem *mem, gpa_t gpa, uint64_t len);
/* Before any vCPU runs. The observer is borrowed. */
void mem_observe(struct mem *mem, struct mem_observer *observer);

/* Dirty log, one bit per 4 KiB page. While on, mem_written() and the engine record pages. */
int mem_dirty_start(struct mem *mem);
void mem_dirty_stop(struct mem *mem);
bool mem_dirty_is_on(const struct mem *mem);
void mem_dirty_mark(struct mem *mem, gpa_t gpa, uint64_t len);
/* Move the bits of slot @slot into @bitmap (one bit a page, size/4096 bits) and clear them.
 * Returns how many pages were dirty. */
uint64_t mem_dirty_fetch(struct mem *mem, size_t slot, uint64_t *bitmap);
