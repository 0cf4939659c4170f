// SPDX-License-Identifier: Apache-2.0
/* place.c - which guest memory is free for the loaders, and what goes there. */
#include "boot/boot_int.h"

#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/units.h"

/* Below this lie the real-mode vectors and the BIOS data area; nothing is placed there. */
#define PLACE_FIRST 0x1000u

static void map_add(struct boot_region *map, unsigned *n, uint64_t base, uint64_t end,
		    uint32_t type)
{
	if (end <= base || *n == BOOT_MAP_MAX)
		return;
	map[(*n)++] = (struct boot_region){ .base = base, .size = end - base, .type = type };
}

unsigned boot_memory_map(const struct mem *mem, struct boot_region map[BOOT_MAP_MAX])
{
	size_t slots;
	const struct mem_slot *slot = mem_slots(mem, &slots);
	uint64_t low_end = slot[0].gpa + slot[0].size;
	unsigned n = 0;

	map_add(map, &n, 0, LAYOUT_LOW_RAM_END, BOOT_RAM);
	map_add(map, &n, LAYOUT_LOW_RAM_END, LAYOUT_RESERVED_END, BOOT_RESERVED);
	map_add(map, &n, LAYOUT_RESERVED_END, low_end, BOOT_RAM);
	/* Linux uses ECAM only where the map, or a motherboard device, reserves it. */
	map_add(map, &n, LAYOUT_ECAM_BASE, (uint64_t)LAYOUT_ECAM_BASE + LAYOUT_ECAM_SIZE,
		BOOT_RESERVED);
	map_add(map, &n, LAYOUT_ENGINE_BASE, LAYOUT_ENGINE_BASE + LAYOUT_ENGINE_SIZE,
		BOOT_RESERVED);
	for (size_t i = 1; i < slots; i++)
		map_add(map, &n, slot[i].gpa, slot[i].gpa + slot[i].size, BOOT_RAM);
	return n;
}

void boot_take(struct boot *boot, gpa_t start, uint64_t size)
{
	struct boot_range range = { start, start + size };

	if (size > 0)
		g_array_append_val(boot->taken, range);
}

/* The range that [start, start+size) runs into, or NULL. */
static const struct boot_range *taken_by(const struct boot *boot, gpa_t start, uint64_t size)
{
	for (guint i = 0; i < boot->taken->len; i++) {
		const struct boot_range *r = &g_array_index(boot->taken, struct boot_range, i);

		if (start < r->end && r->start < start + size)
			return r;
	}
	return NULL;
}

bool boot_is_taken(const struct boot *boot, gpa_t start, uint64_t size)
{
	return taken_by(boot, start, size) != NULL;
}

static gpa_t find_up(const struct boot *boot, gpa_t from, gpa_t to, uint64_t size)
{
	const struct boot_range *hit;

	while (from < to && size <= to - from) {
		hit = taken_by(boot, from, size);
		if (!hit)
			return from;
		from = align_up(hit->end, MEM_PAGE_SIZE);
	}
	return 0;
}

gpa_t boot_take_low(struct boot *boot, uint64_t size)
{
	gpa_t at = find_up(boot, PLACE_FIRST, LAYOUT_LOW_RAM_END, size);

	if (!at)
		at = find_up(boot, LAYOUT_RESERVED_END, boot->low_end, size);
	if (at)
		boot_take(boot, at, size);
	return at;
}

gpa_t boot_take_high(struct boot *boot, uint64_t size, gpa_t limit)
{
	const struct boot_range *hit;

	limit = MIN(limit, boot->low_end);
	while (limit > LAYOUT_RESERVED_END && size <= limit - LAYOUT_RESERVED_END) {
		gpa_t at = align_down(limit - size, MEM_PAGE_SIZE);

		hit = taken_by(boot, at, size);
		if (!hit) {
			boot_take(boot, at, size);
			return at;
		}
		limit = hit->start;
	}
	return 0;
}

gpa_t boot_put(struct boot *boot, const void *bytes, uint64_t size, GError **err)
{
	gpa_t at = boot_take_low(boot, size);

	if (at && mem_write(boot->mem, at, bytes, size) == 0)
		return at;
	boot_file_fail(&boot->kernel, err,
		       "leaves no room in memory for what the machine tells it (%" PRIu64
		       " bytes)",
		       size);
	return 0;
}

bool boot_put_initrd(struct boot *boot, gpa_t limit, gpa_t *ret_gpa, uint64_t *ret_size,
		     GError **err)
{
	struct boot_file file;
	gpa_t at = 0;
	bool ok;

	*ret_gpa = 0;
	*ret_size = 0;
	if (!boot->config->initrd)
		return true;
	ok = boot_file_open(&file, "initrd", boot->config->initrd, err);
	if (ok) {
		at = boot_take_high(boot, file.size, limit);
		if (!at) {
			g_autofree char *size = size_format(file.size);
			g_autofree char *memory = size_format(mem_size(boot->mem));

			g_set_error(
				err, BASE_ERROR, ENOSPC,
				"initrd '%s' (%s) does not fit beside the kernel in %s of memory",
				file.path, size, memory);
			ok = false;
		}
	}
	ok = ok && boot_file_load(&file, boot->mem, 0, at, file.size, err);
	if (ok) {
		*ret_gpa = at;
		*ret_size = file.size;
	}
	boot_file_close(&file);
	return ok;
}

bool boot_put_cmdline(struct boot *boot, uint64_t max_bytes, gpa_t *ret_gpa, GError **err)
{
	size_t len = strlen(boot->cmdline);

	if (len >= max_bytes) {
		g_set_error(err, BASE_ERROR, EINVAL,
			    "command line of %zu bytes is too long: kernel '%s' takes %" PRIu64,
			    len, boot->kernel.path, max_bytes - 1);
		return false;
	}
	*ret_gpa = boot_put(boot, boot->cmdline, len + 1, err);
	return *ret_gpa != 0;
}
