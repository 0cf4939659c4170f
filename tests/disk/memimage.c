// SPDX-License-Identifier: Apache-2.0
/* memimage.c - images in memory, of any format (memimage.h). */
#include "memimage.h"

#include <stdio.h>
#include <string.h>

#include "disk/qcow2/qcow2_int.h"

uint64_t memimage_bytes(const struct disk_form *form)
{
	return form && !strcmp(form->name, "vhdx") ? 3u << 20 : 512u << 10;
}

static bool create_qcow2(struct memdisk *m, uint64_t *seed)
{
	struct qcow2_create o = { .size_bytes = memimage_bytes(NULL),
				  .version = 2 + !!memdisk_random(seed, 3),
				  .cluster_bytes = 512ull << memdisk_random(seed, 8),
				  .refcount_bits = 16 };

	if (o.version == 3) {
		o.refcount_bits = 1u << memdisk_random(seed, 7);
		o.lazy_refcounts = memdisk_random(seed, 4) == 0;
		o.extended_l2 = o.cluster_bytes >= 16384 && memdisk_random(seed, 2);
	}
	return qcow2_create(&m->disk, &o, NULL);
}

/* As VMware makes them: a table is there when it is needed. */
static void forget_tables(struct memdisk *m)
{
	uint64_t sectors, tables;

	memcpy(&sectors, m->bytes + 12, 8);
	memcpy(&tables, m->bytes + 20, 8);
	tables = (sectors + tables * 512 - 1) / (tables * 512);
	for (unsigned at = 48; at <= 56; at += 8) {
		memcpy(&sectors, m->bytes + at, 8);
		memset(m->bytes + sectors * 512, 0, tables * 4);
	}
}

static bool create_form(struct memdisk *m, const struct disk_form *form, uint64_t *seed)
{
	const struct disk_form_create o = {
		.size_bytes = memimage_bytes(form),
		.name = "image",
		.options = !strcmp(form->name, "vhdx") ? "block_size=1M" : NULL,
		.block_bytes = 4096ull << memdisk_random(seed, 6),
	};

	if (!form->create(&m->disk, &o, NULL))
		return false;
	if (!strcmp(form->name, "vmdk") && memdisk_random(seed, 2))
		forget_tables(m);
	return true;
}

bool memimage_create(struct memdisk *m, const struct disk_form *form, uint64_t *seed)
{
	return form ? create_form(m, form, seed) : create_qcow2(m, seed);
}

struct disk *memimage_open_take(struct memdisk *file, const struct disk_form *form, bool repair,
				struct loop *loop, GError **err)
{
	const struct disk_options o = { .repair = repair };
	const struct disk_chain chain = { 0 };

	return form ? form->open_take(&file->disk, &o, loop, &chain, err)
		    : qcow2_open_take(&file->disk, &o, loop, &chain, err);
}

static void tell(void *arg, const char *line)
{
	fprintf(stderr, "  %s\n", line);
	(void)arg;
}

static const char *check_qcow2(struct disk *disk)
{
	struct qcow2_check found;

	if (qcow2_check(disk, false, NULL, NULL, &found) < 0 || found.errors) {
		(void)qcow2_check(disk, false, tell, NULL, &found);
		return "has errors";
	}
	if (qcow2_check(disk, true, NULL, NULL, &found) < 0 ||
	    ((found.errors || found.leaks) && !found.repaired))
		return "is not repaired";
	return NULL;
}

const char *memimage_check(struct disk *disk, const struct disk_form *form)
{
	struct disk_found found = { 0 }, again = { .tell = tell };

	if (!form)
		return check_qcow2(disk);
	if (disk_form_check(disk, false, &found) == 0 && !found.errors)
		return NULL;
	(void)disk_form_check(disk, false, &again);
	return "has errors";
}
