// SPDX-License-Identifier: Apache-2.0
/*
 * mem.c - guest-physical memory: RAM slots, bounds-checked access, dirty log.
 *
 * RAM is one mapping; low and high slot lie behind each other in it and in the memfd. Around it
 * stays a reservation without rights, so that it can begin on a 2 MiB boundary (host huge pages
 * then line up with the guest's) and so that nothing of ours directly neighbours guest RAM.
 */
#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/units.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
/* <numaif.h> belongs to libnuma, which is not needed for one system call. */
#define POLICY_BIND 2
#define NODE_LIMIT  1024

#define HUGE_BYTES (2 * MIB)
#define SLOT_COUNT 2

struct dirty_map {
	_Atomic uint64_t *words;
	size_t word_count;
};

struct mem {
	struct mem_slot slots[SLOT_COUNT];
	size_t slot_count;
	uint64_t size;
	int fd;
	uint8_t *reservation;
	size_t reservation_bytes;
	struct mem_observer *observers; /* fixed once vCPUs run */

	/* The maps are made by the first mem_dirty_start() and live as long as @mem, so that a
	 * writer that saw the log on never meets a freed map. */
	atomic_bool dirty_on;
	struct dirty_map dirty[SLOT_COUNT];
};

static void *mem_error(GError **err, const char *what, int error, const char *hint)
{
	g_set_error(err, BASE_ERROR, error, "memory: %s: %s%s", what, g_strerror(error), hint);
	return NULL;
}

static bool config_check(const struct mem_config *config, GError **err)
{
	g_autofree char *size = size_format(config->size_bytes);

	if (config->size_bytes % MEM_PAGE_SIZE || config->size_bytes < MIB ||
	    config->size_bytes > 1024 * GIB) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "memory: %s is not a multiple of 4 KiB between 1 MiB and 1 TiB", size);
		return false;
	}
	if (config->hugepages && config->size_bytes % HUGE_BYTES) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "memory: %s is not a multiple of 2 MiB, which 'hugepages' needs", size);
		return false;
	}
	if (config->hugepages && config->merge) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "memory: 'merge' works on small pages only, leave out 'hugepages'");
		return false;
	}
	if (config->node >= NODE_LIMIT) {
		g_set_error(err, BASE_ERROR, EINVAL, "memory: there is no NUMA node %d",
			    config->node);
		return false;
	}
	return true;
}

static bool backing_open(struct mem *mem, const struct mem_config *config, GError **err)
{
	unsigned flags = MFD_CLOEXEC | (config->hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);

	if (config->merge)
		return true;
	mem->fd = memfd_create("guest-ram", flags);
	if (mem->fd < 0) {
		mem_error(err, config->hugepages ? "cannot use 2 MiB huge pages" : "cannot be had",
			  errno, "");
		return false;
	}
	if (ftruncate(mem->fd, (off_t)mem->size) < 0) {
		mem_error(err, "cannot be sized", errno, "");
		return false;
	}
	return true;
}

static uint8_t *backing_map(struct mem *mem, const struct mem_config *config, GError **err)
{
	int flags = MAP_FIXED;
	uint8_t *base;

	mem->reservation_bytes = mem->size + 2 * HUGE_BYTES;
	mem->reservation = mmap(NULL, mem->reservation_bytes, PROT_NONE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->reservation == MAP_FAILED) {
		mem->reservation = NULL;
		return mem_error(err, "no room in the address space", errno, "");
	}
	base = (uint8_t *)align_up((uintptr_t)mem->reservation + MEM_PAGE_SIZE, HUGE_BYTES);
	flags |= config->merge ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	/* Huge pages are reserved at once: without a reservation a missing one is a SIGBUS
	 * later. */
	if (!config->hugepages)
		flags |= MAP_NORESERVE;
	base = mmap(base, mem->size, PROT_READ | PROT_WRITE, flags, mem->fd, 0);
	if (base == MAP_FAILED)
		return mem_error(err,
				 config->hugepages ? "too few 2 MiB huge pages are reserved"
						   : "cannot be mapped",
				 errno,
				 config->hugepages ? " (see /proc/sys/vm/nr_hugepages)" : "");
	return base;
}

static bool node_bind(struct mem *mem, uint8_t *base, int node, GError **err)
{
	unsigned long mask[NODE_LIMIT / (8 * sizeof(unsigned long))] = {0};
	g_autofree char *what = NULL;

	mask[(unsigned)node / (8 * sizeof(long))] = 1ul << ((unsigned)node % (8 * sizeof(long)));
	if (syscall(SYS_mbind, base, mem->size, POLICY_BIND, mask, NODE_LIMIT + 1ul, 0u) == 0)
		return true;
	what = g_strdup_printf("cannot be bound to NUMA node %d", node);
	mem_error(err, what, errno, errno == EINVAL ? " (no such node with memory)" : "");
	return false;
}

/* Before Linux 5.14 by hand: fallocate() fails where a touch would be a SIGBUS. */
static bool populate(struct mem *mem, uint8_t *base, GError **err)
{
	if (madvise(base, mem->size, MADV_POPULATE_WRITE) == 0)
		return true;
	if (errno == EINVAL && mem->fd >= 0 && fallocate(mem->fd, 0, 0, (off_t)mem->size) == 0)
		return true;
	if (errno == EINVAL && mem->fd < 0) {
		for (uint64_t off = 0; off < mem->size; off += MEM_PAGE_SIZE)
			*(volatile uint8_t *)(base + off) = 0;
		return true;
	}
	mem_error(err, "cannot be preallocated", errno, "");
	return false;
}

static bool backing_advise(struct mem *mem, uint8_t *base, const struct mem_config *config,
			   GError **err)
{
	/* Advice only: a core dump without guest RAM, huge pages where the host has them free. */
	(void)madvise(base, mem->size, MADV_DONTDUMP);
	if (!config->merge && !config->hugepages)
		(void)madvise(base, mem->size, MADV_HUGEPAGE);
	if (config->merge && madvise(base, mem->size, MADV_MERGEABLE) < 0) {
		mem_error(err, "cannot be merged", errno, " (the host's kernel has no KSM)");
		return false;
	}
	if (config->node >= 0 && !node_bind(mem, base, config->node, err))
		return false;
	if (config->prealloc && !populate(mem, base, err))
		return false;
	if (config->lock && mlock(base, mem->size) < 0) {
		mem_error(err, "cannot be locked", errno,
			  " (raise the limit: ulimit -l, or LimitMEMLOCK=)");
		return false;
	}
	return true;
}

static void slots_fill(struct mem *mem, uint8_t *base)
{
	uint64_t low = mem->size < MEM_HOLE_START ? mem->size : MEM_HOLE_START;

	mem->slots[0] = (struct mem_slot){.gpa = 0, .size = low, .hva = base, .fd = mem->fd};
	mem->slot_count = 1;
	if (mem->size == low)
		return;
	mem->slots[1] = (struct mem_slot){
		.gpa = MEM_HIGH_START,
		.size = mem->size - low,
		.hva = base + low,
		.fd = mem->fd,
		.fd_offset = low,
	};
	mem->slot_count = 2;
}

struct mem *mem_new(const struct mem_config *config, GError **err)
{
	struct mem *mem;
	uint8_t *base;

	if (!config_check(config, err))
		return NULL;
	mem = g_new0(struct mem, 1);
	mem->size = config->size_bytes;
	mem->fd = -1;
	if (!backing_open(mem, config, err))
		goto err;
	base = backing_map(mem, config, err);
	if (!base || !backing_advise(mem, base, config, err))
		goto err;
	slots_fill(mem, base);
	return mem;
err:
	mem_free(mem);
	return NULL;
}

void mem_free(struct mem *mem)
{
	if (!mem)
		return;
	for (size_t i = 0; i < SLOT_COUNT; i++) {
		if (mem->dirty[i].words)
			munmap((void *)mem->dirty[i].words, mem->dirty[i].word_count * 8);
	}
	if (mem->reservation)
		munmap(mem->reservation, mem->reservation_bytes);
	if (mem->fd >= 0)
		close(mem->fd);
	g_free(mem);
}

const struct mem_slot *mem_slots(const struct mem *mem, size_t *ret_count)
{
	*ret_count = mem->slot_count;
	return mem->slots;
}

uint64_t mem_size(const struct mem *mem)
{
	return mem->size;
}

void *mem_ptr(const struct mem *mem, gpa_t gpa, uint64_t len)
{
	for (size_t i = 0; i < mem->slot_count; i++) {
		const struct mem_slot *slot = &mem->slots[i];
		uint64_t off = gpa - slot->gpa;

		if (gpa < slot->gpa || off >= slot->size)
			continue;
		return len <= slot->size - off ? slot->hva + off : NULL;
	}
	return NULL;
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, uint64_t len)
{
	const void *p = mem_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len)
{
	void *p = mem_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	mem_written(mem, gpa, len);
	return 0;
}

void mem_written(struct mem *mem, gpa_t gpa, uint64_t len)
{
	if (len == 0)
		return;
	for (struct mem_observer *o = mem->observers; o; o = o->next)
		o->written(o, gpa, len);
	if (atomic_load_explicit(&mem->dirty_on, memory_order_relaxed))
		mem_dirty_mark(mem, gpa, len);
}

void mem_observe(struct mem *mem, struct mem_observer *observer)
{
	observer->next = mem->observers;
	mem->observers = observer;
}

/* Dirty log. */

int mem_dirty_start(struct mem *mem)
{
	for (size_t i = 0; i < mem->slot_count; i++) {
		struct dirty_map *map = &mem->dirty[i];
		uint64_t pages = mem->slots[i].size / MEM_PAGE_SIZE;
		void *p;

		if (map->words)
			continue;
		map->word_count = (size_t)((pages + 63) / 64);
		p = mmap(NULL, map->word_count * 8, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED)
			return -errno;
		map->words = p;
	}
	for (size_t i = 0; i < mem->slot_count; i++) {
		for (size_t w = 0; w < mem->dirty[i].word_count; w++)
			atomic_store_explicit(&mem->dirty[i].words[w], 0, memory_order_relaxed);
	}
	atomic_store(&mem->dirty_on, true);
	return 0;
}

void mem_dirty_stop(struct mem *mem)
{
	atomic_store(&mem->dirty_on, false);
}

bool mem_dirty_is_on(const struct mem *mem)
{
	return atomic_load_explicit(&mem->dirty_on, memory_order_relaxed);
}

static void map_set(struct dirty_map *map, uint64_t first, uint64_t last)
{
	for (uint64_t w = first / 64; w <= last / 64; w++) {
		uint64_t bits = ~0ull;

		if (w == first / 64)
			bits &= ~0ull << (first % 64);
		if (w == last / 64)
			bits &= ~0ull >> (63 - last % 64);
		/* Pairs with the exchange in mem_dirty_fetch(): whoever sees the bit sees the
		 * bytes. No look first: a bit read as set may be fetched before the bytes are. */
		atomic_fetch_or(&map->words[w], bits);
	}
}

void mem_dirty_mark(struct mem *mem, gpa_t gpa, uint64_t len)
{
	if (len == 0)
		return;
	for (size_t i = 0; i < mem->slot_count; i++) {
		const struct mem_slot *slot = &mem->slots[i];
		uint64_t off = gpa - slot->gpa;

		if (gpa < slot->gpa || off >= slot->size || !mem->dirty[i].words)
			continue;
		if (len > slot->size - off)
			len = slot->size - off;
		map_set(&mem->dirty[i], off / MEM_PAGE_SIZE, (off + len - 1) / MEM_PAGE_SIZE);
	}
}

uint64_t mem_dirty_fetch(struct mem *mem, size_t slot, uint64_t *bitmap)
{
	struct dirty_map *map = slot < mem->slot_count ? &mem->dirty[slot] : NULL;
	uint64_t pages = 0;

	if (!map || !map->words)
		return 0;
	for (size_t w = 0; w < map->word_count; w++) {
		bitmap[w] = 0;
		if (atomic_load_explicit(&map->words[w], memory_order_relaxed) == 0)
			continue;
		/* Pairs with map_set(). */
		bitmap[w] = atomic_exchange(&map->words[w], 0);
		pages += (uint64_t)__builtin_popcountll(bitmap[w]);
	}
	return pages;
}
