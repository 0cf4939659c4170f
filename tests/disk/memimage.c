// SPDX-License-Identifier: Apache-2.0
/* memimage.c - images in memory, of any format (memimage.h). */
#include "memimage.h"

#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "disk/formats/blocks.h"
#include "disk/formats/vhd.h"
#include "disk/formats/vhdx.h"
#include "disk/qcow2/qcow2_int.h"

struct memimage_kind memimage_parse(const char *name)
{
	g_auto(GStrv) words = g_strsplit(name, ",", 2);

	return (struct memimage_kind){ .form = disk_form_find(words[0]), .differs = words[1] != NULL };
}

static bool is(struct memimage_kind kind, const char *name)
{
	return kind.form && !strcmp(kind.form->name, name);
}

uint64_t memimage_bytes(struct memimage_kind kind)
{
	return is(kind, "vhdx") ? 3u << 20 : 512u << 10;
}

static bool create_qcow2(struct memdisk *m, uint64_t *seed)
{
	struct qcow2_create o = { .size_bytes = memimage_bytes((struct memimage_kind){ 0 }),
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

static const struct disk_options nothing_below = { .no_backing = true };
static const struct disk_chain no_chain;

/* What an image is put on top of: only who it is matters. */
static struct disk *make_parent(struct memimage_kind kind, struct disk_form_create o, struct loop *loop)
{
	struct memdisk *m = memdisk_new(4u << 20, 0);

	if (kind.form->create(&m->disk, &o, NULL))
		return kind.form->open_take(&m->disk, &nothing_below, loop, &no_chain, NULL);
	disk_close(&m->disk);
	return NULL;
}

static bool create_form(struct memdisk *m, struct memimage_kind kind, struct loop *loop, uint64_t *seed)
{
	struct disk_form_create o = {
		.size_bytes = memimage_bytes(kind),
		.name = "image",
		.options = is(kind, "vhdx") ? "block_size=1M" : NULL,
		.block_bytes = 4096ull << memdisk_random(seed, 6),
	};
	bool made;

	if (kind.differs) {
		o.parent = make_parent(kind, o, loop);
		o.backing = "below";
		if (!o.parent)
			return false;
	}
	made = kind.form->create(&m->disk, &o, NULL);
	disk_close(o.parent);
	if (made && is(kind, "vmdk") && memdisk_random(seed, 2))
		forget_tables(m);
	return made;
}

static void put_bits(struct memdisk *m, uint64_t at, uint64_t sectors, uint64_t *seed)
{
	for (uint64_t i = 0; i < sectors / 8; i++)
		m->bytes[at + i] = memdisk_random(seed, 3) ? (uint8_t)memdisk_random(seed, 256) : 0xff;
}

static void thin_vhd(struct memdisk *m, uint64_t *seed)
{
	const uint8_t *h = m->bytes + VHD_FOOTER;

	for (uint32_t i = 0; i < load_be32(h + VHD_AT_H_BLOCKS); i++) {
		uint32_t sector = load_be32(h + VHD_HEADER + i * 4ul);

		if (sector != VHD_ABSENT && memdisk_random(seed, 4))
			put_bits(m, sector * 512ull, load_be32(h + VHD_AT_H_BLOCK) / 512, seed);
	}
}

/* Blocks of 1 MiB: 4096 in a chunk. The bitmaps lie behind everything. */
static void thin_vhdx(struct memdisk *m, uint64_t *seed)
{
	uint64_t table = load_le64(m->bytes + VHDX_REGIONS_1 + 32), blocks = 3;
	uint64_t bits = align_up(m->disk.size_bytes, VHDX_ALIGN);

	for (uint64_t i = 0; i < blocks; i++) {
		uint64_t entry = load_le64(m->bytes + table + i * 8);

		if ((entry & 7) != VHDX_PRESENT || memdisk_random(seed, 4) == 0)
			continue;
		store_le64(m->bytes + table + i * 8, (entry & ~7ull) | VHDX_PARTIAL);
		put_bits(m, bits + i * 256, VHDX_ALIGN / 512, seed);
	}
	store_le64(m->bytes + table + 4096 * 8, bits | VHDX_PRESENT);
	m->disk.size_bytes = bits + VHDX_ALIGN;
}

/* Some content, of which the image then forgets a part. */
static bool write_some(struct memdisk *m, struct memimage_kind kind, struct loop *loop, uint64_t *seed)
{
	uint64_t bytes = memimage_bytes(kind);
	g_autofree uint8_t *piece = g_malloc(64u << 10);
	struct disk *disk;

	m->keep = true;
	disk = memimage_open_take(m, kind, loop, NULL);
	for (unsigned i = 0; disk && i < 4; i++) {
		uint64_t len = 512 * (1 + memdisk_random(seed, 100));

		memset(piece, 0x80 + (int)i, len);
		if (disk_write_wait(disk, piece, len, 512 * memdisk_random(seed, (bytes - len) / 512)) < 0)
			return false;
	}
	disk_close(disk);
	if (disk && is(kind, "vhd"))
		thin_vhd(m, seed);
	if (disk && is(kind, "vhdx"))
		thin_vhdx(m, seed);
	return disk;
}

static bool read_all(struct memdisk *m, struct memimage_kind kind, struct loop *loop, uint8_t *content)
{
	struct memdisk *copy = memdisk_copy(m, 0);
	struct disk *disk = memimage_open_take(copy, kind, loop, NULL);
	bool ok = disk && disk_read_wait(disk, content, memimage_bytes(kind), 0) == 0;

	disk_close(disk);
	return ok;
}

bool memimage_create(struct memdisk *m, struct memimage_kind kind, struct loop *loop, uint64_t *seed,
		     uint8_t *content)
{
	if (!(kind.form ? create_form(m, kind, loop, seed) : create_qcow2(m, seed)))
		return false;
	if (kind.differs && !write_some(m, kind, loop, seed))
		return false;
	return read_all(m, kind, loop, content);
}

struct disk *memimage_open_take(struct memdisk *file, struct memimage_kind kind, struct loop *loop,
				GError **err)
{
	static const struct disk_options all;
	const struct disk_options *o = kind.differs ? &nothing_below : &all;
	struct memdisk *below;
	struct disk *disk;

	if (!kind.form)
		return qcow2_open_take(&file->disk, o, loop, &no_chain, err);
	disk = kind.form->open_take(&file->disk, o, loop, &no_chain, err);
	if (!disk || !kind.differs)
		return disk;
	below = memdisk_new(memimage_bytes(kind), 0);
	below->disk.size_bytes = below->room_bytes;
	for (uint64_t i = 0; i < below->room_bytes; i += 512)
		memset(below->bytes + i, (int)(i / 512 % 127) + 1, 512);
	((struct blocks *)disk)->parent = &below->disk;
	return disk;
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

const char *memimage_check(struct disk *disk, struct memimage_kind kind)
{
	struct disk_found found = { 0 }, again = { .tell = tell };

	if (!kind.form)
		return check_qcow2(disk);
	if (disk_form_check(disk, false, &found) == 0 && !found.errors)
		return NULL;
	(void)disk_form_check(disk, false, &again);
	return "has errors";
}

const char *memimage_check_bitmap(struct disk *disk, const char *name, const uint8_t *then)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	uint64_t bytes = memimage_bytes((struct memimage_kind){ 0 }), from, to;
	g_autofree uint8_t *now = g_malloc(bytes);
	g_autoptr(GPtrArray) list = NULL;
	struct qcow2_marks marks = { 0 };
	const struct qcow2_bitmap *b;
	const char *wrong = NULL;

	if (!qcow2_has_bitmaps(s) || !qcow2_bitmap_dir_load(s, &list, NULL))
		return "its bitmaps are lost";
	b = qcow2_bitmap_find(list, name);
	if (!b)
		return "its bitmap is lost";
	if (!qcow2_bitmap_is_usable(b) || !(b->flags & QCOW2_BITMAP_AUTO))
		return NULL;
	if (qcow2_marks_init(&marks, s->h.size_bytes, 9, 1u << 20) < 0 || qcow2_bitmap_read(s, b, &marks) < 0 ||
	    disk_read_wait(disk, now, bytes, 0) < 0)
		wrong = "its bitmap cannot be read";
	for (uint64_t at = 0; at < bytes && !wrong; at += 512)
		if (memcmp(now + at, then + at, 512) && !qcow2_marks_next(&marks, at, at + 512, &from, &to))
			wrong = "what has changed is not marked";
	qcow2_marks_fini(&marks);
	return wrong;
}

static int resize(struct disk *disk, uint64_t *seed)
{
	uint64_t bytes = disk->size_bytes;
	struct disk_req more = { .op = DISK_RESIZE, .offset = bytes + 512 * memdisk_random(seed, 10000) };
	struct disk_req less = { .op = DISK_RESIZE, .offset = bytes };
	int r = disk_run(disk, &more);

	return r < 0 ? r : disk_run(disk, &less);
}

int memimage_settle(struct disk *disk)
{
	struct qcow2 *s = (struct qcow2 *)disk;
	int r = qcow2_commit(s);

	return r < 0 ? r : qcow2_bitmaps_settle(s);
}

int memimage_use_bitmaps(struct disk *disk, const char *name, uint64_t *seed)
{
	static const char other[] = "other";
	struct qcow2 *s = (struct qcow2 *)disk;
	uint64_t what = memdisk_random(seed, 10);
	g_autoptr(GError) err = NULL;
	bool done, has = qcow2_bitmap_find(s->bitmaps.list, other) != NULL;

	if (what < 4)
		return memimage_settle(disk);
	if (what == 4 && !(s->h.snapshot_count && s->h.version < 3))
		return resize(disk, seed);
	if (what == 9 && memdisk_random(seed, 4) == 0)
		done = qcow2_bitmap_enable(disk, name, false, &err);
	else if (!has)
		done = qcow2_bitmap_add(disk, other, 512ull << memdisk_random(seed, 12), what & 1, &err);
	else if (what == 5)
		done = qcow2_bitmap_clear(disk, other, &err);
	else if (what == 6)
		done = qcow2_bitmap_merge(disk, other, disk, name, &err);
	else if (what == 8)
		done = qcow2_bitmap_merge(disk, name, disk, other, &err);
	else
		done = qcow2_bitmap_remove(disk, other, &err);
	return done ? 0 : -err->code;
}
