// SPDX-License-Identifier: Apache-2.0
/*
 * image_bench.c - `sika image bench`: how fast an image is.
 *
 * Requests of one size, so many at a time, go through the very graph and loop that a machine's disk
 * has, without a guest before them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "base/units.h"
#include "cli/image.h"

#define MAX_DEPTH	 1024u
#define MAX_BUFFER_BYTES (256 * MIB)
#define MAX_ALL_BYTES	 (4 * GIB)

struct bench;

struct slot {
	struct disk_req req;
	struct iovec iov;
	uint8_t *bytes;
	struct bench *bench;
	struct slot *next; /* free ones */
};

struct bench {
	const struct image_args *a;
	struct disk *disk;
	uint64_t count, depth, buffer_bytes, step, start, pattern, flush_interval;
	struct slot *slots, *free_slots;
	uint8_t *bytes; /* of all slots */
	uint64_t offset; /* of the next request */
	uint64_t random; /* state */
	uint64_t issued, over, in_flight, flushes;
	bool flush_due, pumping;
	int result;
};

static int read_number(const struct image_args *a, const char *name, const char *text, uint64_t from,
		       uint64_t to, uint64_t *ret)
{
	char *end;

	if (!text)
		return 0;
	errno = 0;
	*ret = g_ascii_strtoull(text, &end, 0);
	if (errno == 0 && g_ascii_isdigit(*text) && !*end && *ret >= from && *ret <= to)
		return 0;
	return cli_complain(CLI_USAGE, a->verb,
			    "--%s: '%s' is not a number from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
			    name, text, from, to);
}

static int read_size(const struct image_args *a, const char *name, const char *text, uint64_t *ret)
{
	g_autoptr(GError) err = NULL;

	if (!text)
		return 0;
	if (!size_parse(text, 1, ret, &err))
		return cli_complain(CLI_USAGE, a->verb, "--%s: %s", name, err->message);
	if (*ret % DISK_SECTOR_SIZE == 0)
		return 0;
	return cli_complain(CLI_USAGE, a->verb, "--%s: '%s' is no multiple of %u bytes", name, text,
			    DISK_SECTOR_SIZE);
}

static int read_options(const struct image_args *a, struct bench *b)
{
	int status = read_number(a, "count", a->count, 1, 1ull << 40, &b->count);

	status = status ? status : read_number(a, "depth", a->depth, 1, MAX_DEPTH, &b->depth);
	status = status ? status : read_number(a, "pattern", a->pattern, 0, 255, &b->pattern);
	status = status ? status :
			  read_number(a, "flush-interval", a->flush_interval, 1, 1ull << 40,
				      &b->flush_interval);
	status = status ? status : read_size(a, "buffer-size", a->buffer_size, &b->buffer_bytes);
	b->step = b->buffer_bytes;
	status = status ? status : read_size(a, "step", a->step, &b->step);
	status = status ? status : read_size(a, "offset", a->offset, &b->start);
	if (status)
		return status;
	if (b->buffer_bytes == 0 || b->buffer_bytes > MAX_BUFFER_BYTES ||
	    b->buffer_bytes * b->depth > MAX_ALL_BYTES)
		return cli_complain(CLI_USAGE, a->verb,
				    "--buffer-size is from 512 to 256M, and 4G with all of --depth");
	if (b->step == 0 && a->random)
		return cli_complain(CLI_USAGE, a->verb, "--random needs a step that is not 0");
	if ((a->flush_interval || a->pattern) && !a->write)
		return cli_complain(CLI_USAGE, a->verb, "--%s needs --write",
				    a->pattern ? "pattern" : "flush-interval");
	return 0;
}

/* Random numbers of the same sequence in each run (splitmix64). */
static uint64_t random_below(struct bench *b, uint64_t below)
{
	uint64_t z = b->random += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (uint64_t)((unsigned __int128)(z ^ z >> 31) * below >> 64);
}

static void next_offset(struct bench *b)
{
	uint64_t last = b->disk->size_bytes - b->buffer_bytes;

	if (b->a->random) {
		b->offset = b->start + b->step * random_below(b, (last - b->start) / b->step + 1);
		return;
	}
	/* Round the disk; what does not fit before its end begins anew. */
	b->offset = (b->offset + b->step % b->disk->size_bytes) % b->disk->size_bytes;
	if (b->offset > last)
		b->offset = 0;
}

static bool can_issue(const struct bench *b)
{
	if (b->flush_due)
		return b->result == 0 && b->in_flight == 0;
	return b->result == 0 && b->issued < b->count && b->in_flight < b->depth;
}

static void issue(struct bench *b)
{
	struct slot *s = b->free_slots;

	b->free_slots = s->next;
	b->in_flight++;
	if (b->flush_due) {
		s->req.op = DISK_FLUSH;
		disk_submit(b->disk, &s->req);
		return;
	}
	s->iov = (struct iovec){ s->bytes, b->buffer_bytes };
	s->req.op = b->a->write ? DISK_WRITE : DISK_READ;
	s->req.iov = &s->iov;
	s->req.iov_count = 1;
	s->req.offset = b->offset;
	s->req.len = b->buffer_bytes;
	b->issued++;
	if (b->flush_interval && b->issued % b->flush_interval == 0)
		b->flush_due = true;
	next_offset(b);
	disk_submit(b->disk, &s->req);
}

static bool is_over(const struct bench *b)
{
	return b->in_flight == 0 && !can_issue(b);
}

/* Requests may be over inside disk_submit() and disk_kick(), so this is a loop and not a recursion. */
static void pump(struct bench *b)
{
	if (b->pumping)
		return;
	b->pumping = true;
	do {
		while (can_issue(b))
			issue(b);
		disk_kick(b->disk);
	} while (can_issue(b));
	b->pumping = false;
	if (is_over(b))
		loop_stop(b->a->loop);
}

static void done(struct disk_req *req, int result)
{
	struct slot *s = (struct slot *)req;
	struct bench *b = s->bench;

	if (result < 0 && b->result == 0)
		b->result = result;
	if (req->op == DISK_FLUSH) {
		b->flush_due = false;
		b->flushes++;
	} else if (++b->over % (b->count / 100 + 1) == 0) {
		image_progress(b->a->write ? "writing" : "reading", b->over, b->count);
	}
	s->next = b->free_slots;
	b->free_slots = s;
	b->in_flight--;
	pump(b);
}

static bool make_slots(struct bench *b)
{
	b->bytes = image_buffer(b->buffer_bytes * b->depth);
	if (!b->bytes)
		return false;
	memset(b->bytes, (int)b->pattern, b->buffer_bytes * b->depth);
	b->slots = g_new0(struct slot, b->depth);
	for (uint64_t i = 0; i < b->depth; i++) {
		struct slot *s = &b->slots[i];

		s->bytes = b->bytes + i * b->buffer_bytes;
		s->bench = b;
		s->req.done = done;
		s->next = b->free_slots;
		b->free_slots = s;
	}
	return true;
}

static void report(const struct bench *b, double seconds)
{
	const char *what = b->a->write ? "write" : "read", *order = b->a->random ? "random" : "step";
	double rate = (double)b->count / seconds;
	g_autofree char *size = size_format(b->buffer_bytes), *step = size_format(b->step);
	g_autofree char *per_second = size_format((uint64_t)(rate * (double)b->buffer_bytes));
	char number[G_ASCII_DTOSTR_BUF_SIZE];

	if (!b->a->json) {
		printf("%" G_GUINT64_FORMAT " %ss of %s, %s %s, %" G_GUINT64_FORMAT
		       " at a time: %.3f s, %.0f per second, %s/s\n",
		       b->count, what, size, order, step, b->depth, seconds, rate, per_second);
		return;
	}
	printf("{\"operation\": \"%s\", \"order\": \"%s\", \"format\": \"%s\", \"count\": %" G_GUINT64_FORMAT
	       ", \"depth\": %" G_GUINT64_FORMAT ", \"buffer_bytes\": %" G_GUINT64_FORMAT
	       ", \"step_bytes\": %" G_GUINT64_FORMAT ", \"flushes\": %" G_GUINT64_FORMAT,
	       what, order, b->disk->format, b->count, b->depth, b->buffer_bytes, b->step, b->flushes);
	printf(", \"seconds\": %s", g_ascii_formatd(number, sizeof(number), "%.6f", seconds));
	printf(", \"per_second\": %s", g_ascii_formatd(number, sizeof(number), "%.1f", rate));
	printf(", \"bytes_per_second\": %s}\n",
	       g_ascii_formatd(number, sizeof(number), "%.0f", rate * (double)b->buffer_bytes));
}

static int run(struct bench *b)
{
	uint64_t began;

	if (b->disk->size_bytes < b->buffer_bytes ||
	    b->start > b->disk->size_bytes - b->buffer_bytes)
		return cli_complain(CLI_USAGE, b->a->verb, "'%s' ends before the first request does",
				    b->disk->path);
	if (!make_slots(b))
		return cli_complain(CLI_FAILURE, b->a->verb, "no memory for the buffers");
	b->offset = b->start;
	if (b->a->random)
		next_offset(b);
	began = loop_now_ns();
	pump(b);
	while (!is_over(b))
		loop_run(b->a->loop);
	image_progress("", 1, 1);
	if (b->result < 0)
		return image_fail(b->a, b->disk->path,
				  b->a->write ? "cannot be written" : "cannot be read", b->result);
	report(b, (double)(loop_now_ns() - began) / 1e9);
	return 0;
}

int image_bench_main(struct image_args *a)
{
	struct bench b = { .a = a, .count = 75000, .depth = 64, .buffer_bytes = 4096 };
	const struct image_open how = { .write = a->write, .format = a->format,
				       .cache = a->cache };
	int status = read_options(a, &b);

	if (!status)
		b.disk = image_open(a, a->files[0], how);
	if (!status)
		status = b.disk ? run(&b) : CLI_FAILURE;
	disk_close(b.disk);
	free(b.bytes);
	g_free(b.slots);
	return status;
}
