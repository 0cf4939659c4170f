// SPDX-License-Identifier: Apache-2.0
/*
 * form.c - one input of an image format's fuzz target.
 *
 * Whatever the header and the tables hold: no crash, no hang, nothing outside of the file; a
 * refusal is one sentence.
 */
#include "form.h"

#include <stdlib.h>
#include <string.h>

#include "../disk/memdisk.h"
#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/formats/blocks.h"
#include "requests.h"

#define MAX_REQUESTS 16u
/* Blocks are walked often: few mostly, and more than one page of the table now and then. */
#define FEW_BLOCKS  64u
#define MANY_BLOCKS 1100u

/* Where tables lie, more often than elsewhere. */
static void image_spoil(const struct form_fuzz *f, struct memdisk *m, struct input *in)
{
	unsigned count = input_byte(in) % 32;

	while (count-- && !input_is_empty(in)) {
		uint8_t kind = input_byte(in);
		uint64_t at = input_take(in, kind & 1 ? 2 : kind & 2 ? 3 : 1), v;
		unsigned n = 1u << (kind >> 2 & 3);

		/* The end of the file is where some keep their footer. */
		if (kind & 16)
			at = m->disk.size_bytes - MIN(at % 512 + 1, m->disk.size_bytes);
		if (kind & 32)
			at &= ~3ull;
		if (f->place_count && (kind & 0xc0))
			at = at % 128 + f->places[at / 128 % f->place_count];
		v = input_take(in, n);
		if (at + 8 > m->room_bytes)
			continue;
		memcpy(m->bytes + at, &v, n);
		m->disk.size_bytes = MAX(m->disk.size_bytes, at + n);
	}
	if (count & 1)
		m->disk.size_bytes = MIN(m->disk.size_bytes, input_take(in, 3));
}

static void use(struct disk *disk, struct input *in)
{
	unsigned count = input_byte(in) % MAX_REQUESTS;
	uint8_t what = input_byte(in);
	struct disk_found found = { 0 };

	while (count--)
		fuzz_request(disk, in);
	if (what & 1)
		(void)disk_form_check(disk, (what & 2) && !disk->readonly, &found);
	if (what & 4)
		fuzz_request(disk, in);
}

int form_fuzz(const struct form_fuzz *f, const uint8_t *bytes, size_t size)
{
	struct input in = { bytes, size };
	const struct disk_chain chain = { 0 };
	const struct disk_form *form = disk_form_find(f->name);
	struct memdisk *m = memdisk_new(f->room, size);
	uint8_t how = input_byte(&in);
	struct disk_options o = { .repair = how & 1, .no_backing = how & 2 };
	struct disk_form_create create = {
		.size_bytes = 512 * (1 + input_take(&in, 2)),
		.name = "fuzz",
		.block_bytes = 4096ull << (how >> 4 & 3),
		.options = f->options ? f->options[(how >> 6) % f->option_count] : NULL
	};
	static struct loop *loop; /* one for all inputs: making it takes longer than most of them */
	g_autoptr(GError) err = NULL;
	struct disk *disk;

	loop = loop ? loop : loop_new();
	log_set_level(LOG_LEVEL_ERROR);
	create.size_bytes = MIN(create.size_bytes,
				create.block_bytes * (size % 8 == 1 ? MANY_BLOCKS : FEW_BLOCKS));
	if (form->create)
		(void)form->create(&m->disk, &create, NULL);
	if (f->make)
		f->make(m->bytes, &m->disk.size_bytes);
	image_spoil(f, m, &in);
	if (f->mend && !(how & 8))
		f->mend(m->bytes, f->room);
	m->disk.readonly = (how & 4) || f->make;
	disk = form->open_take(&m->disk, &o, loop, &chain, &err);
	/* Where the image says that it stands on another one, this is it. */
	if (disk && o.no_backing && !((struct blocks *)disk)->flat) {
		struct memdisk *parent = memdisk_new(64u << 10, size);

		memset(parent->bytes, 0x5a, parent->room_bytes);
		parent->disk.size_bytes = parent->room_bytes;
		((struct blocks *)disk)->parent = &parent->disk;
	}
	if (disk)
		use(disk, &in);
	else if (!err || strlen(err->message) < 8)
		abort();
	disk_close(disk);
	return 0;
}
