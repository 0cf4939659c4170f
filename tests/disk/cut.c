// SPDX-License-Identifier: Apache-2.0
/*
 * cut.c - power cuts: whatever subset of the unflushed writes reached the disk, an image opens, has no
 * errors (clusters may be lost, and repair finds them), and what was flushed is there. In half of the stories of
 * qcow2 snapshots are made, given up and gone back to; those that are there hold what they did. Bitmaps of changed
 * blocks tell of each change, or that they cannot be used.
 *
 * Usage: cut [--format F] [--seconds N] [--seed S]
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/loop.h"
#include "disk/qcow2/qcow2_int.h"
#include "memimage.h"

#define ROOM	 (9u << 20)
#define REQUESTS 60u
#define CUTS	 40u
#define AT_ONCE	 4u
#define SOON	 12u /* changes of the file: in which a bitmap is told of the next request */
#define NAMES	 3u /* of snapshots, which are made and given up again and again */

struct flushed {
	unsigned changes;  /* how many there were when it had completed */
	unsigned requests; /* submitted before it */
	uint8_t *model;
};

/* What an image of snapshots has, from a change on that is durable up to the next one that begins. */
struct snapshots {
	unsigned from, until; /* changes of the file */
	uint8_t *content[NAMES]; /* NULL: there is none of that name; borrowed */
};

struct did {
	uint64_t sector, count;
	bool discard;
};

struct story {
	struct memdisk *start, *file;
	struct disk *disk;
	uint8_t *model, *first;
	uint64_t bytes; /* of the disk */
	struct flushed flushes[2 * REQUESTS + 1];
	unsigned flush_count;
	struct did did[REQUESTS * (AT_ONCE + 1)];
	unsigned did_count;
	struct snapshots taken[REQUESTS + 1];
	unsigned taken_count;
	struct used {
		unsigned from, to; /* changes of the file */
	} used[REQUESTS]; /* bitmaps */
	unsigned used_count;
	GPtrArray *contents; /* owns those of @taken */
	bool snapshots; /* are taken */
	const char *bitmap; /* that is there from the beginning, and empty then; NULL: none */
	uint64_t seed;
	struct loop *loop;
	struct memimage_kind kind;
};

static void die(const struct story *s, const char *what, unsigned cut)
{
	fprintf(stderr, "cut %u: %s; repeat with --seed %llu\n", cut, what, (unsigned long long)s->seed);
	exit(1);
}

static struct disk *open_take(struct story *s, struct memdisk *file, GError **err)
{
	return memimage_open_take(file, s->kind, s->loop, err);
}

static void request_done(struct disk_req *req, int result)
{
	if (result < 0)
		abort();
	g_free(req->iov ? req->iov->iov_base : NULL);
	g_free(req->iov);
	g_free(req);
}

static void submit(struct story *s, uint64_t *seed, uint64_t from, uint64_t room)
{
	struct disk_req *req = g_new0(struct disk_req, 1);
	uint64_t count = 1 + memdisk_random(seed, MIN(room, 100));
	uint64_t sector = from + memdisk_random(seed, room - count + 1), kind = memdisk_random(seed, 8);

	req->offset = sector * 512;
	req->len = count * 512;
	req->done = request_done;
	req->unmap = kind & 1;
	req->op = kind < 5 ? DISK_WRITE : kind < 7 ? DISK_WRITE_ZEROES : DISK_DISCARD;
	if (req->op == DISK_WRITE) {
		req->iov = g_new(struct iovec, 1);
		*req->iov = (struct iovec){ g_malloc(req->len), req->len };
		req->iov_count = 1;
		memset(req->iov->iov_base, (int)memdisk_random(seed, 255) + 1, req->len);
		memcpy(s->model + req->offset, req->iov->iov_base, req->len);
	} else {
		/* Discarded sectors are known again only once they are written. */
		memset(s->model + req->offset, 0, req->len);
	}
	s->did[s->did_count++] = (struct did){ sector, count, req->op == DISK_DISCARD };
	disk_submit(s->disk, req);
}

static void note_flush(struct story *s)
{
	unsigned requests = s->did_count;

	if (disk_flush_wait(s->disk) < 0)
		die(s, "flush fails", 0);
	s->flushes[s->flush_count++] = (struct flushed){ s->file->changes->len, requests,
							 g_memdup2(s->model, s->bytes) };
}

static const char *const names[NAMES] = { "one", "two", "three" };

/* What there was before, and what there is when it is over; in between either may be found. */
static void snapshot(struct story *s, uint64_t *seed)
{
	struct snapshots *last = &s->taken[s->taken_count - 1], *next = &s->taken[s->taken_count];
	unsigned i = (unsigned)memdisk_random(seed, NAMES);
	uint8_t *now;
	int r;

	*next = *last;
	last->until = s->file->changes->len;
	if (!last->content[i]) {
		r = qcow2_snapshot_create(s->disk, names[i], 0, 0);
		if (r == 0) {
			/* As it is, and not the model: of what was discarded a part may be there still. */
			now = g_malloc(s->bytes);
			g_ptr_array_add(s->contents, now);
			if (disk_read_wait(s->disk, now, s->bytes, 0) < 0)
				die(s, "cannot be read", s->file->changes->len);
			next->content[i] = now;
		}
	} else if (memdisk_random(seed, 2)) {
		r = qcow2_snapshot_delete(s->disk, names[i]);
		if (r == 0)
			next->content[i] = NULL;
	} else {
		r = qcow2_snapshot_apply(s->disk, names[i]);
		if (r == 0)
			memcpy(s->model, last->content[i], s->bytes);
		if (r == 0) /* which writes all of the disk, as to what a cut may leave */
			s->did[s->did_count++] = (struct did){ 0, s->bytes / 512, false };
	}
	/* Counts may be too narrow for one more. */
	if (r < 0 && r != -EMLINK)
		die(s, "a snapshot fails", s->file->changes->len);
	next->from = s->file->changes->len;
	next->until = UINT_MAX;
	s->taken_count++;
	note_flush(s);
}

/* Version 2 has none. */
static void add_bitmap(struct story *s, uint64_t *seed)
{
	uint64_t granularity = 512ull << memdisk_random(seed, 10);
	struct qcow2_info info;
	struct disk *disk;

	s->start->keep = true;
	disk = open_take(s, s->start, NULL);
	qcow2_get_info(disk, &info);
	if (info.version >= 3) {
		s->bitmap = "all";
		/* Where clusters have their place, a write can be found without a table. */
		if (memdisk_random(seed, 2) && qcow2_preallocate(disk, DISK_PREALLOC_METADATA) < 0)
			die(s, "cannot be preallocated", 0);
		if (!qcow2_bitmap_add(disk, s->bitmap, granularity, true, NULL))
			die(s, "a bitmap cannot be made", 0);
	}
	disk_close(disk);
}

static void create(struct story *s, uint64_t *seed)
{
	s->start = memdisk_new(ROOM, s->seed);
	if (!memimage_create(s->start, s->kind, s->loop, seed, s->model))
		die(s, "cannot be created", 0);
	if (!s->kind.form && memdisk_random(seed, 2))
		add_bitmap(s, seed);
	memcpy(s->first, s->model, s->bytes);
	s->file = memdisk_copy(s->start, s->seed);
	s->file->note = true;
	s->disk = open_take(s, s->file, NULL);
	if (!s->disk)
		die(s, "does not open", 0);
}

static void use_bitmaps(struct story *s, uint64_t *seed)
{
	struct used *used = &s->used[s->used_count++];

	used->from = s->file->changes->len;
	if (memimage_use_bitmaps(s->disk, s->bitmap, seed) < 0)
		die(s, "a bitmap fails", s->file->changes->len);
	used->to = s->file->changes->len;
}

static void write_story(struct story *s, uint64_t *seed)
{
	note_flush(s);
	for (unsigned i = 0; i < REQUESTS - 1; i++) {
		unsigned n = 1 + (unsigned)memdisk_random(seed, AT_ONCE);

		for (unsigned k = 0; k < n; k++)
			submit(s, seed, k * ((s->bytes / 512) / n), (s->bytes / 512) / n);
		disk_drain(s->disk);
		if (memdisk_random(seed, 3) == 0)
			note_flush(s);
		if (s->snapshots && memdisk_random(seed, 3) == 0)
			snapshot(s, seed);
		if (s->bitmap && memdisk_random(seed, 4) == 0)
			use_bitmaps(s, seed);
	}
}

/* Sectors that nobody has touched since the last flush are as they were then. */
static void check_content(struct story *s, struct disk *disk, unsigned cut)
{
	const struct flushed *last = NULL;
	uint8_t *now = g_malloc(s->bytes);
	g_autofree bool *touched = g_new0(bool, s->bytes / 512);

	for (unsigned i = 0; i < s->flush_count; i++)
		if (s->flushes[i].changes <= cut)
			last = &s->flushes[i];
	if (disk_read_wait(disk, now, s->bytes, 0) < 0)
		die(s, "cannot be read", cut);
	for (unsigned i = 0; i < s->did_count; i++) {
		/* Discards: as the model has it only where they were done in whole clusters. */
		if (last && i < last->requests && !s->did[i].discard)
			for (uint64_t k = 0; k < s->did[i].count; k++)
				touched[s->did[i].sector + k] = false;
		else
			for (uint64_t k = 0; k < s->did[i].count; k++)
				touched[s->did[i].sector + k] = true;
	}
	for (unsigned i = 0; last && i < (s->bytes / 512); i++)
		if (!touched[i] && memcmp(now + i * 512, last->model + i * 512, 512))
			die(s, "flushed data is lost", cut);
	g_free(now);
}

/* Each that was there before and behind the cut is there, and holds what it did. */
static void check_snapshots(struct story *s, unsigned cut, uint64_t seed)
{
	const struct disk_options o = { 0 };
	const struct disk_chain chain = { 0 };
	const struct snapshots *before = NULL, *behind = NULL;
	g_autofree uint8_t *now = g_malloc(s->bytes);

	for (unsigned i = 0; i < s->taken_count; i++) {
		const struct snapshots *t = &s->taken[i];

		if (t->from <= cut)
			before = t, behind = t->until < cut ? t + 1 : t;
	}
	for (unsigned i = 0; before && i < NAMES; i++) {
		struct memdisk *file;
		struct disk *disk;

		if (!before->content[i] || before->content[i] != behind->content[i])
			continue;
		file = memdisk_cut(s->file, s->start, cut, seed);
		file->disk.readonly = true;
		disk = qcow2_open_take(&file->disk, &o, s->loop, &chain, NULL);
		if (!disk || qcow2_snapshot_show(disk, names[i]) < 0)
			die(s, "a snapshot is lost", cut);
		if (disk_read_wait(disk, now, s->bytes, 0) < 0 || memcmp(now, before->content[i], s->bytes))
			die(s, "a snapshot does not hold what it did", cut);
		disk_close(disk);
	}
}

static void check(struct story *s, struct disk *disk, unsigned cut)
{
	const char *wrong = s->bitmap ? memimage_check_bitmap(disk, s->bitmap, s->first) : NULL;
	struct qcow2_check found;
	struct qcow2_info info;

	if (wrong)
		die(s, wrong, cut);
	/* Version 2 cannot say that counts are being changed, so that they and the entries' bits may
	 * contradict each other in the middle of that. Repair must mend it, and lose nothing. */
	if (s->snapshots) {
		qcow2_get_info(disk, &info);
		if (info.version == 2 && qcow2_check(disk, true, NULL, NULL, &found) < 0)
			die(s, "is not repaired", cut);
	}
	wrong = memimage_check(disk, s->kind);
	if (wrong)
		die(s, wrong, cut);
}

/* Goes on after the cut: what is free must be free. */
static void use_on(struct story *s, struct disk *disk, unsigned cut, uint64_t seed)
{
	uint8_t *now = g_malloc(s->bytes), *then = g_malloc(s->bytes);

	if (disk_read_wait(disk, now, s->bytes, 0) < 0)
		die(s, "cannot be read", cut);
	for (unsigned i = 0; i < 12; i++) {
		uint64_t count = 1 + memdisk_random(&seed, 64);
		uint64_t at = 512 * memdisk_random(&seed, (s->bytes / 512) - count);

		memset(now + at, (int)memdisk_random(&seed, 256), count * 512);
		if (disk_write_wait(disk, now + at, count * 512, at) < 0)
			die(s, "cannot be written", cut);
	}
	if (disk_flush_wait(disk) < 0 || disk_read_wait(disk, then, s->bytes, 0) < 0 ||
	    memcmp(now, then, s->bytes))
		die(s, "does not hold what was written behind the cut", cut);
	g_free(now);
	g_free(then);
}

static void cut_at(struct story *s, unsigned cut, uint64_t seed)
{
	struct memdisk *file = memdisk_cut(s->file, s->start, cut, seed);
	g_autoptr(GError) err = NULL;
	struct disk *disk = open_take(s, file, &err);

	if (!disk)
		die(s, err->message, cut);
	check_content(s, disk, cut);
	check_snapshots(s, cut, seed);
	check(s, disk, cut);
	check_content(s, disk, cut);
	use_on(s, disk, cut, seed);
	check(s, disk, cut);
	disk_close(disk);
}

/* Anywhere, and half of those of a story with snapshots, or bitmaps, in the middle of what is done with one, or
 * soon after it. */
static unsigned pick(const struct story *s, uint64_t *seed)
{
	unsigned from = 0, to = s->file->changes->len;

	if (s->taken_count > 1 && memdisk_random(seed, 2)) {
		unsigned i = 1 + (unsigned)memdisk_random(seed, s->taken_count - 1);

		from = s->taken[i - 1].until;
		to = s->taken[i].from;
	}
	if (s->used_count && memdisk_random(seed, 2)) {
		const struct used *used = &s->used[memdisk_random(seed, s->used_count)];

		from = used->from;
		to = MIN(used->to + SOON, s->file->changes->len);
	}
	return from + (unsigned)memdisk_random(seed, to - from + 1);
}

static unsigned tell(struct loop *loop, struct memimage_kind kind, uint64_t first_seed)
{
	struct story *s = g_new0(struct story, 1);
	uint64_t seed = first_seed;

	s->seed = first_seed;
	s->loop = loop;
	s->kind = kind;
	s->bytes = memimage_bytes(kind);
	s->contents = g_ptr_array_new_with_free_func(g_free);
	s->snapshots = !kind.form && memdisk_random(&seed, 2);
	s->taken[s->taken_count++] = (struct snapshots){ .until = UINT_MAX };
	s->model = g_malloc0(s->bytes);
	s->first = g_malloc0(s->bytes);
	create(s, &seed);
	write_story(s, &seed);
	for (unsigned i = 0; i < CUTS; i++)
		cut_at(s, pick(s, &seed), seed);
	disk_close(s->disk);
	disk_close(&s->start->disk);
	g_free(s->model);
	g_free(s->first);
	g_ptr_array_unref(s->contents);
	for (unsigned i = 0; i < s->flush_count; i++)
		g_free(s->flushes[i].model);
	g_free(s);
	return CUTS;
}

int main(int argc, char **argv)
{
	struct loop *loop = loop_new();
	struct memimage_kind kind = { 0 };
	uint64_t seed = (uint64_t)time(NULL) << 20;
	int seconds = 20;
	unsigned count = 0;
	time_t end;

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seconds"))
			seconds = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--format"))
			kind = memimage_parse(argv[i + 1]);
		else
			seed = strtoull(argv[i + 1], NULL, 0), seconds = 0;
	}
	end = time(NULL) + seconds;
	do {
		count += tell(loop, kind, seed++);
	} while (time(NULL) < end);
	printf("%u passed, 0 failed, 0 skipped\n", count);
	loop_free(loop);
	return 0;
}
