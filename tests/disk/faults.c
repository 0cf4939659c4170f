// SPDX-License-Identifier: Apache-2.0
/*
 * faults.c - a file that fails at its n-th call, for each n until none is left: whoever asked for
 * something hears of it, the image stays sound, and what was flushed is there.
 *
 * Usage: faults [--format F] [--seconds N] [--seed S]
 *
 * A story is a series of requests that a seed picks. It is told to a new image with one call
 * that fails, with all that fail from some call on, or with no more room from some write on; then
 * the image is looked at as who has it open sees it, as it is after it was closed, and as a
 * power cut would leave it. In a third of the stories it is closed while calls fail.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/loop.h"
#include "disk/qcow2/qcow2.h"
#include "memimage.h"

#define ROOM	(9u << 20) /* three blocks of VHDX, and what is in front of and behind them */
#define BATCHES 10u
#define AT_ONCE 4u

struct one {
	struct disk_req req;
	struct iovec iov;
	int result;
};

struct story {
	struct loop *loop;
	struct memimage_kind image;
	uint64_t seed, bytes, sectors;
	unsigned n, kind;
	struct memdisk *start, *file;
	struct disk *disk;
	/* What is to be read, and what must be there after a power cut; where it is known. */
	uint8_t *first, *now, *durable;
	bool *is_now, *is_durable;
	const char *bitmap; /* that was empty when the disk held @first; NULL: none */
	unsigned heard; /* results that were errors */
	bool closes; /* before the file works again */
};

static const char *const kinds[] = { "one call fails", "all fail from there on", "full from there on" };

static void die(const struct story *s, const char *what)
{
	const struct memdisk_faults none = { 0 }, *f = s->file ? &s->file->faults : &none;

	fprintf(stderr, "%s, call %u, %s (operation %d at %#llx+%#llx): %s; repeat with --seed %llu\n",
		s->image.form ? s->image.form->name : "qcow2", s->n, kinds[s->kind], f->op,
		(unsigned long long)f->at, (unsigned long long)f->len, what,
		(unsigned long long)s->seed);
	exit(1);
}

static void one_done(struct disk_req *req, int result)
{
	((struct one *)req)->result = result;
}

static void begin(struct story *s, struct one *o, uint64_t *seed, uint64_t from, uint64_t room)
{
	uint64_t count = 1 + memdisk_random(seed, MIN(room, 80)), kind = memdisk_random(seed, 10);
	uint64_t sector = from + memdisk_random(seed, room - count + 1);

	*o = (struct one){ .req = { .op = kind < 5	? DISK_WRITE
					  : kind < 7	? DISK_WRITE_ZEROES
					  : kind == 7 ? DISK_DISCARD
						      : DISK_READ,
				    .unmap = memdisk_random(seed, 2),
				    .offset = sector * 512,
				    .len = count * 512,
				    .iov_count = 1,
				    .done = one_done } };
	o->req.iov = &o->iov;
	o->iov = (struct iovec){ g_malloc(o->req.len), o->req.len };
	memset(o->iov.iov_base, (int)memdisk_random(seed, 255) + 1, o->req.len);
	if (o->req.op != DISK_READ)
		memset(s->is_durable + sector, 0, count);
	disk_submit(s->disk, &o->req);
}

static void end(struct story *s, struct one *o)
{
	uint64_t sector = o->req.offset / 512, count = o->req.len / 512;
	uint8_t *bytes = o->iov.iov_base;

	s->heard += o->result < 0;
	for (uint64_t i = sector; i < sector + count; i++) {
		uint8_t *now = s->now + i * 512;

		if (o->req.op == DISK_READ) {
			if (o->result == 0 && s->is_now[i] &&
			    memcmp(bytes + (i - sector) * 512, now, 512))
				die(s, "reads something else than was written");
			continue;
		}
		s->is_now[i] = o->result == 0 && o->req.op != DISK_DISCARD;
		if (o->req.op == DISK_WRITE)
			memcpy(now, bytes + (i - sector) * 512, 512);
		else
			memset(now, 0, 512);
	}
	g_free(bytes);
}

static void flush(struct story *s)
{
	if (disk_flush_wait(s->disk) < 0) {
		s->heard++;
		return;
	}
	memcpy(s->durable, s->now, s->bytes);
	memcpy(s->is_durable, s->is_now, s->sectors);
}

/* Neither changes the content. */
static void snapshot(struct story *s, unsigned batch)
{
	struct qcow2_info info;
	int r;

	/* Version 2 has no mark that its counts are being changed, so that they and the entries' bits
	 * may contradict each other afterwards. */
	qcow2_get_info(s->disk, &info);
	if (info.version < 3)
		return;
	r = batch % 2 ? qcow2_snapshot_create(s->disk, "one", 0, 0)
		      : qcow2_snapshot_delete(s->disk, "one");
	/* There may be none, or one already. Where counts are too narrow that is what is told. */
	s->heard += r < 0 && r != -EEXIST && r != -ENOENT;
}

static void tell(struct story *s, uint64_t *seed)
{
	for (unsigned i = 0; i < BATCHES; i++) {
		unsigned n = 1 + (unsigned)memdisk_random(seed, AT_ONCE);
		struct one batch[AT_ONCE];

		for (unsigned k = 0; k < n; k++)
			begin(s, &batch[k], seed, k * (s->sectors / n), s->sectors / n);
		disk_drain(s->disk);
		for (unsigned k = 0; k < n; k++)
			end(s, &batch[k]);
		if (memdisk_random(seed, 3) == 0)
			flush(s);
		if (memdisk_random(seed, 4) == 0 && !s->image.form)
			snapshot(s, i);
		if (s->bitmap && memdisk_random(seed, 3) == 0)
			s->heard += memimage_use_bitmaps(s->disk, s->bitmap, seed) < 0;
	}
	flush(s);
	if (s->bitmap)
		s->heard += memimage_settle(s->disk) < 0;
}

static void compare(struct story *s, struct disk *disk, const uint8_t *model, const bool *is_known,
		    const char *what)
{
	g_autofree uint8_t *bytes = g_malloc(s->bytes);

	if (disk_read_wait(disk, bytes, s->bytes, 0) < 0)
		die(s, "cannot be read when nothing fails any more");
	for (uint64_t i = 0; i < s->sectors; i++)
		if (is_known[i] && memcmp(bytes + i * 512, model + i * 512, 512))
			die(s, what);
}

/* Takes over @file. */
static void look_again(struct story *s, struct memdisk *file, const char *what)
{
	g_autoptr(GError) err = NULL;
	struct disk *disk = memimage_open_take(file, s->image, s->loop, &err);
	const char *wrong;

	if (!disk)
		die(s, err->message);
	compare(s, disk, s->durable, s->is_durable, what);
	wrong = s->bitmap ? memimage_check_bitmap(disk, s->bitmap, s->first) : NULL;
	if (!wrong)
		wrong = memimage_check(disk, s->image);
	if (!wrong && s->bitmap)
		wrong = memimage_check_bitmap(disk, s->bitmap, s->first);
	if (wrong)
		die(s, wrong);
	compare(s, disk, s->durable, s->is_durable, what);
	disk_close(disk);
}

/* With the image as it was made, and the n-th call failing. False: there were not so many. */
static bool tell_with_fault(struct story *s, uint64_t seed)
{
	g_autoptr(GError) err = NULL;
	bool came;

	s->file = memdisk_copy(s->start, s->seed + s->n);
	s->file->note = s->file->keep = true;
	s->file->faults = (struct memdisk_faults){ .from = s->n,
						   .to = s->kind ? UINT32_MAX : s->n + 1,
						   .full = s->kind == 2 };
	memcpy(s->now, s->first, s->bytes);
	memcpy(s->durable, s->first, s->bytes);
	memset(s->is_now, 1, s->sectors);
	memset(s->is_durable, 1, s->sectors);
	s->heard = 0;
	s->disk = memimage_open_take(s->file, s->image, s->loop, &err);
	came = s->file->faults.calls >= s->n;
	if (!s->disk && (!err || !came))
		die(s, "does not open, for no reason");
	s->heard += !s->disk;
	if (s->disk)
		tell(s, &seed);
	came = s->file->faults.calls >= s->n;
	if (s->file->faults.failed && !s->heard)
		die(s, "nobody heard of it");
	/* Whether that could be done nobody is told. */
	if (s->closes && s->disk) {
		disk_close(s->disk);
		came = s->file->faults.calls >= s->n;
	}
	s->file->faults.from = s->file->faults.to = 0;
	if (s->disk && s->closes) {
		look_again(s, memdisk_cut(s->file, s->start, s->file->changes->len, seed),
			   "what was flushed is lost by a power cut behind closing");
	} else if (s->disk) {
		compare(s, s->disk, s->now, s->is_now, "what was written cannot be read");
		look_again(s, memdisk_cut(s->file, s->start, s->file->changes->len, seed),
			   "what was flushed is lost by a power cut");
		disk_close(s->disk);
	}
	look_again(s, memdisk_copy(s->file, seed), "what was flushed is lost");
	disk_close(&s->file->disk);
	return came;
}

/* Of version 3, half of the time. */
static void add_bitmap(struct story *s, uint64_t *seed)
{
	uint64_t granularity = 512ull << memdisk_random(seed, 10);
	struct qcow2_info info;
	struct disk *disk;

	if (s->image.form || memdisk_random(seed, 2))
		return;
	s->start->keep = true;
	disk = memimage_open_take(s->start, s->image, s->loop, NULL);
	qcow2_get_info(disk, &info);
	if (info.version >= 3) {
		s->bitmap = "all";
		if (!qcow2_bitmap_add(disk, s->bitmap, granularity, true, NULL))
			die(s, "a bitmap cannot be made");
	}
	disk_close(disk);
}

/* Each call of one story, as far as there is time; 0: without end. Returns how many. */
static unsigned tell_all(struct loop *loop, struct memimage_kind image, uint64_t first_seed, time_t last)
{
	uint64_t seed = first_seed;
	struct story s = { .loop = loop, .image = image, .seed = first_seed,
			   .bytes = memimage_bytes(image) };
	unsigned count = 0;

	s.sectors = s.bytes / 512;
	s.start = memdisk_new(ROOM, seed);
	s.first = g_malloc(s.bytes);
	s.now = g_malloc(s.bytes);
	s.durable = g_malloc(s.bytes);
	s.is_now = g_malloc(s.sectors);
	s.is_durable = g_malloc(s.sectors);
	if (!memimage_create(s.start, image, loop, &seed, s.first))
		die(&s, "cannot be created");
	add_bitmap(&s, &seed);
	s.closes = first_seed % 3 == 0;
	for (s.kind = 0; s.kind < G_N_ELEMENTS(kinds); s.kind++)
		for (s.n = 1; (!last || time(NULL) <= last) && tell_with_fault(&s, seed); s.n++)
			count++;
	disk_close(&s.start->disk);
	g_free(s.first);
	g_free(s.now);
	g_free(s.durable);
	g_free(s.is_now);
	g_free(s.is_durable);
	return count;
}

int main(int argc, char **argv)
{
	struct loop *loop = loop_new();
	struct memimage_kind image = { 0 };
	uint64_t seed = (uint64_t)time(NULL) << 20;
	int seconds = 20;
	unsigned count = 0;
	time_t last;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seconds"))
			seconds = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--format"))
			image = memimage_parse(argv[i + 1]);
		else
			seed = strtoull(argv[i + 1], NULL, 0), seconds = 0;
	}
	log_set_level(LOG_LEVEL_ERROR);
	last = time(NULL) + seconds;
	do {
		count += tell_all(loop, image, seed++, seconds ? last : 0);
	} while (time(NULL) < last);
	printf("%u passed, 0 failed, 0 skipped\n", count);
	loop_free(loop);
	return 0;
}
