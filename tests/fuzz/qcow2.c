// SPDX-License-Identifier: Apache-2.0
/*
 * qcow2.c - fuzz target: a qcow2 image with bytes of the fuzzer's choice in its header and tables.
 *
 * Whatever they are: no crash, no hang, nothing outside of the file; a refusal is one sentence.
 */
#include <stdlib.h>
#include <string.h>

#include "../disk/memdisk.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/qcow2/qcow2_int.h"
#include "input.h"
#include "requests.h"

#define ROOM	     (1u << 20)
#define MAX_REQUESTS 24u

/* Where the directory of bitmaps lies; 0: there are none. */
static uint64_t add_bitmaps(struct memdisk *m, struct loop *loop, struct input *in)
{
	const struct disk_options o = { 0 };
	const struct disk_chain chain = { 0 };
	struct disk *disk;

	m->keep = true;
	disk = qcow2_open_take(&m->disk, &o, loop, &chain, NULL);
	if (!disk)
		return 0;
	for (unsigned i = 0, n = input_byte(in) % 4; i < n; i++) {
		uint8_t how = input_byte(in);
		const char name[] = { (char)('a' + i), 0 };

		(void)qcow2_bitmap_add(disk, name, 512ull << (how & 15), how & 0x80, NULL);
	}
	disk_close(disk);
	return load_be64(m->bytes + QCOW2_HEADER_KNOWN + 8 + 16);
}

/* An extension that nobody knows, behind the others. */
static void add_extension(struct memdisk *m, const struct qcow2_create *o, struct input *in)
{
	uint64_t at = o->version < 3 ? QCOW2_HEADER_V2 : QCOW2_HEADER_KNOWN;

	while (load_be32(m->bytes + at))
		at += 8 + ((load_be32(m->bytes + at + 4) + 7) & ~7ull);
	store_be32(m->bytes + at, 0x12345678);
	store_be32(m->bytes + at + 4, input_byte(in) * 2);
}

static uint64_t image_make(struct memdisk *m, struct loop *loop, struct input *in)
{
	uint8_t kind = input_byte(in), more = input_byte(in);
	struct qcow2_create o = { .version = kind & 1 ? 3 : 2, .cluster_bytes = 512ull << (kind >> 1) % 7,
				  .refcount_bits = 16, .size_bytes = 512ull * (1 + input_take(in, 2)) };

	if (o.version == 3) {
		o.refcount_bits = 1u << (kind >> 4) % 7;
		o.lazy_refcounts = more & 1;
		o.zstd = more & 2;
		o.extended_l2 = (more & 4) && o.cluster_bytes >= 16384;
	}
	if (more & 8) /* nothing but the fuzzer's bytes */
		return 0;
	if (!qcow2_create(&m->disk, &o, NULL))
		return 0;
	if (more & 32)
		add_extension(m, &o, in);
	if (!(more & 16) || o.version < 3)
		return 0;
	return add_bitmaps(m, loop, in);
}

/* Where tables lie, more often than elsewhere. */
static void image_spoil(struct memdisk *m, struct input *in, uint64_t bitmaps)
{
	unsigned count = input_byte(in) % 32;

	while (count-- && !input_is_empty(in)) {
		uint8_t kind = input_byte(in);
		uint64_t at = input_take(in, kind & 1 ? 1 : kind & 2 ? 3 : 2), v;
		unsigned n = 1u << (kind >> 2 & 3);

		if (!(kind & 1))
			at &= ~7ull;
		else if (kind & 0x40)
			at += bitmaps;
		v = input_take(in, n);
		if (kind & 0x80) /* a cluster near the start, with flags */
			v = (v & 0xff) << 9 | (v & 0xc000) << 48 | (v >> 8 & 1);
		if (at + 8 > m->room_bytes)
			continue;
		if (n == 8)
			store_be64(m->bytes + at, v);
		else
			memcpy(m->bytes + at, &v, n);
		m->disk.size_bytes = MAX(m->disk.size_bytes, at + 8);
	}
}

static void use_bitmaps(struct disk *disk, struct input *in)
{
	uint64_t size = 512ull * (1 + input_take(in, 2));
	struct disk_req resize = { .op = DISK_RESIZE, .offset = size };
	g_autoptr(GPtrArray) list = NULL;
	uint64_t bytes;

	(void)qcow2_bitmaps(disk, &list, NULL);
	(void)qcow2_bitmaps_measure(disk, 512, &bytes, NULL);
	if (disk->readonly)
		return;
	(void)qcow2_bitmap_merge(disk, "a", disk, "b", NULL);
	(void)disk_run(disk, &resize);
	(void)qcow2_bitmap_clear(disk, "b", NULL);
	(void)qcow2_bitmap_add(disk, "d", 512, true, NULL);
	(void)qcow2_bitmap_remove(disk, "a", NULL);
}

static void use(struct disk *disk, struct input *in)
{
	unsigned count = input_byte(in) % MAX_REQUESTS;
	uint8_t what = input_byte(in);
	struct qcow2_check found;

	while (count--)
		fuzz_request(disk, in);
	if (what & 1)
		(void)qcow2_check(disk, what & 2, NULL, NULL, &found);
	if ((what & 4) && !disk->readonly)
		(void)qcow2_snapshot_create(disk, "a", 0, 0);
	if ((what & 8) && !disk->readonly)
		(void)qcow2_snapshot_apply(disk, "1");
	if ((what & 16) && !disk->readonly)
		(void)qcow2_snapshot_delete(disk, "1");
	if ((what & 128) && !disk->readonly)
		(void)qcow2_set_backing(disk, input_byte(in) & 1 ? "below" : NULL, "raw");
	if (what & 64)
		use_bitmaps(disk, in);
	if (what & 32)
		fuzz_request(disk, in);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input in = { bytes, size };
	const struct disk_chain chain = { 0 };
	struct memdisk *m = memdisk_new(ROOM, size);
	uint8_t how = input_byte(&in);
	struct disk_options o = { .repair = how & 1, .no_backing = how & 2 };
	static struct loop *loop; /* one for all inputs */
	g_autoptr(GError) err = NULL;
	struct disk *disk;
	uint64_t bitmaps;

	loop = loop ? loop : loop_new();
	log_set_level(LOG_LEVEL_ERROR);
	m->disk.readonly = false;
	bitmaps = image_make(m, loop, &in);
	image_spoil(m, &in, bitmaps);
	m->disk.readonly = how & 4;
	disk = qcow2_open_take(&m->disk, &o, loop, &chain, &err);
	if (disk)
		use(disk, &in);
	else if (!err || strlen(err->message) < 8)
		abort();
	disk_close(disk);
	return 0;
}
