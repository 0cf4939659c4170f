// SPDX-License-Identifier: Apache-2.0
/*
 * ops.c - random requests on an image, several at a time, against a model in memory.
 *
 * Usage: ops [-f FORMAT] VERB...                 default qcow2
 *        ops create IMAGE SIZE [KEY=VALUE]...   version cluster refcount zstd lazy extended backing
 *                                               format data prealloc
 *                                               other formats: QEMU's options, as one word
 *        ops run IMAGE MODEL SEED COUNT [FLAG]...  MODEL: a raw file, the content before and after;
 *                                               pool: by threads; compress; kill: end without closing;
 *                                               direct: past the host's cache; blocks: of 4 KiB;
 *                                               plain: each write is of one byte; away: requests wait for
 *                                               a server that is lost, and the loop runs meanwhile;
 *                                               tell: where each change is, and how long
 *        ops check|repair IMAGE
 *        ops snapshot create|apply|delete IMAGE NAME
 *        ops resize IMAGE SIZE
 *        ops compare IMAGE RAW
 *        ops load IMAGE SEED                    requests without end, to be killed; a line for each flush
 *        ops loaded IMAGE SEED FLUSHES          what it must have left
 *        ops serve                              these from the standard input, a line each; a status to each
 * Exit status 0: all agreed.
 */
#include <fcntl.h>
#include <glib.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/disk_int.h"
#include "disk/formats/formats.h"
#include "disk/qcow2/qcow2.h"

#define AT_ONCE 8u

struct one {
	struct disk_req req;
	struct iovec iov[5];
	uint8_t *buf;
	int result;
};

static struct loop *loop;
static const char *format = "qcow2";
static uint64_t state;
static bool plain, tells;
static bool by_loop; /* what is waited for is waited for in the loop */
static unsigned under_way;

static uint64_t rnd(uint64_t below)
{
	uint64_t z = state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (z ^ z >> 31) % below;
}

static void die(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static struct disk *open_with(const char *path, const struct disk_options *o)
{
	g_autoptr(GError) err = NULL;
	struct disk *disk = disk_open_options(path, o, loop, &err);

	if (!disk)
		die("%s", err->message);
	return disk;
}

static struct disk *open_image(const char *path, bool readonly, bool repair)
{
	const struct disk_options o = { .format = format, .readonly = readonly, .repair = repair };

	return open_with(path, &o);
}

static void done(struct disk_req *req, int result)
{
	((struct one *)req)->result = result;
	under_way--;
	loop_stop(loop);
}

static void submit(struct disk *disk, struct one *o)
{
	under_way++;
	disk_submit(disk, &o->req);
}

static void settle_all(struct disk *disk)
{
	disk_kick(disk);
	if (!by_loop)
		disk_drain(disk);
	while (under_way > 0)
		loop_run(loop);
}

static int flush(struct disk *disk)
{
	struct one o = { .req = { .op = DISK_FLUSH, .done = done } };

	submit(disk, &o);
	settle_all(disk);
	return o.result;
}

static int read_back(struct disk *disk, uint8_t *buf, uint64_t len, uint64_t at)
{
	struct one o = { .req = { .op = DISK_READ, .offset = at, .len = len, .iov_count = 1, .done = done } };

	o.iov[0] = (struct iovec){ buf, len };
	o.req.iov = o.iov;
	submit(disk, &o);
	settle_all(disk);
	return o.result;
}

static void make(struct one *o, uint64_t from, uint64_t room, const uint8_t *model, bool compress)
{
	uint64_t sectors = room / 512, len, at, split = 0;
	unsigned n = 1 + (unsigned)rnd(4), kind = (unsigned)rnd(16);

	len = 512 * (1 + (rnd(3) ? rnd(MIN(sectors, 40)) : rnd(sectors)));
	at = from + 512 * rnd(sectors - len / 512 + 1);
	if (compress) {
		at = align_up(from, 65536);
		len = MIN(65536, room);
		kind = rnd(2) ? 0 : 15;
		if (at + len > from + room || len < 65536)
			kind = 15;
		at = MIN(at, from + room - len);
	}
	o->req = (struct disk_req){ .offset = at, .len = len, .iov = o->iov, .iov_count = n,
				    .done = done, .unmap = rnd(2), .compress = compress };
	o->buf = g_malloc(len);
	for (unsigned i = 0; i < n; i++) {
		uint64_t part = i + 1 == n ? len - split : rnd(len - split) & ~31ull;

		o->iov[i] = (struct iovec){ o->buf + split, part };
		split += part;
	}
	o->req.op = kind < 7 ? DISK_WRITE : kind < 9 ? DISK_WRITE_ZEROES : kind < 11 ? DISK_DISCARD : DISK_READ;
	if (kind < 7) {
		uint8_t fill = (uint8_t)rnd(256);

		memset(o->buf, fill, len);
		for (uint64_t i = 0; i < len && !plain; i += 512)
			memcpy(o->buf + i, &state, sizeof(state));
	}
	(void)model;
}

static void settle(struct disk *disk, struct one *o, uint8_t *model)
{
	uint8_t *m = model + o->req.offset;
	uint64_t len = o->req.len;

	if (tells && o->req.op != DISK_READ)
		printf("%llu %llu\n", (unsigned long long)o->req.offset, (unsigned long long)len);
	if (o->result < 0)
		die("op %d at %#llx+%#llx: %s", o->req.op, (unsigned long long)o->req.offset,
		    (unsigned long long)len, strerror(-o->result));
	if (o->req.op == DISK_WRITE)
		memcpy(m, o->buf, len);
	else if (o->req.op == DISK_WRITE_ZEROES)
		memset(m, 0, len);
	else if (o->req.op == DISK_READ && memcmp(m, o->buf, len))
		die("read at %#llx+%#llx differs", (unsigned long long)o->req.offset,
		    (unsigned long long)len);
	else if (o->req.op == DISK_DISCARD) {
		/* Each sector is what it was, or zeros. */
		static const uint8_t zeros[512];

		if (read_back(disk, o->buf, len, o->req.offset) < 0)
			die("read after discard fails");
		for (uint64_t i = 0; i < len; i += 512)
			if (memcmp(o->buf + i, m + i, 512) && memcmp(o->buf + i, zeros, 512))
				die("discard made something up");
		memcpy(m, o->buf, len);
	}
	g_free(o->buf);
}

static void run(struct disk *disk, uint8_t *model, unsigned count, bool compress)
{
	struct one batch[AT_ONCE];

	while (count > 0) {
		/* A sector each at least. */
		unsigned n = 1 + (unsigned)rnd(MIN(AT_ONCE, disk->size_bytes / 512));
		uint64_t part = align_down(disk->size_bytes / n, 512);

		for (unsigned i = 0; i < n; i++) {
			make(&batch[i], i * part, part, model, compress);
			submit(disk, &batch[i]);
		}
		settle_all(disk);
		for (unsigned i = 0; i < n; i++)
			settle(disk, &batch[i], model);
		if (rnd(6) == 0 && flush(disk) < 0)
			die("flush fails");
		count -= MIN(count, n);
	}
}

static void compare(struct disk *disk, const uint8_t *model)
{
	uint8_t *buf = g_malloc(1 << 20);

	for (uint64_t at = 0; at < disk->size_bytes; at += 1 << 20) {
		uint64_t n = MIN(1u << 20, disk->size_bytes - at);

		if (read_back(disk, buf, n, at) < 0)
			die("reading %#llx fails", (unsigned long long)at);
		if (memcmp(buf, model + at, n))
			die("content differs within %#llx+%#llx", (unsigned long long)at, (unsigned long long)n);
	}
	g_free(buf);
}

static uint8_t *load(const char *path, uint64_t size)
{
	g_autofree char *bytes = NULL;
	uint8_t *model = g_malloc0(size);
	gsize len;

	if (!g_file_get_contents(path, &bytes, &len, NULL) || len != size)
		die("%s: is not a model of %llu bytes", path, (unsigned long long)size);
	memcpy(model, bytes, size);
	return model;
}

static int do_run(int argc, char **argv)
{
	struct disk_options o = { .format = format };
	bool compress = false, kill = false;
	struct disk *disk;
	uint8_t *model;

	for (int i = 4; i < argc; i++) {
		if (!strcmp(argv[i], "pool"))
			o.runner = DISK_RUNNER_POOL;
		if (!strcmp(argv[i], "direct"))
			o.cache = DISK_CACHE_NONE;
		if (!strcmp(argv[i], "blocks"))
			o.direct_block = 4096;
		plain |= !strcmp(argv[i], "plain");
		tells |= !strcmp(argv[i], "tell");
		if (!strcmp(argv[i], "away")) {
			o.reconnect_s = 60;
			by_loop = true;
		}
		compress |= !strcmp(argv[i], "compress");
		kill |= !strcmp(argv[i], "kill");
	}
	state = strtoull(argv[2], NULL, 0);
	disk = open_with(argv[0], &o);
	model = load(argv[1], disk->size_bytes);
	compare(disk, model);
	run(disk, model, (unsigned)atoi(argv[3]), compress);
	compare(disk, model);
	if (!g_file_set_contents(argv[1], (char *)model, (gssize)disk->size_bytes, NULL))
		die("%s: cannot be written", argv[1]);
	/* A server that is killed now may lose what was not flushed, and nobody is here any more to write it again. */
	if ((kill || by_loop) && flush(disk) < 0)
		die("flush fails");
	if (kill)
		(void)fflush(stdout);
	if (kill)
		_exit(0);
	disk_close(disk);
	g_free(model);
	return 0;
}

static void set_key(struct qcow2_create *o, const char *key, const char *v)
{
	unsigned long long n = strtoull(v, NULL, 0);

	if (!strcmp(key, "version"))
		o->version = (unsigned)n;
	else if (!strcmp(key, "cluster"))
		o->cluster_bytes = n;
	else if (!strcmp(key, "refcount"))
		o->refcount_bits = (unsigned)n;
	else if (!strcmp(key, "zstd"))
		o->zstd = n;
	else if (!strcmp(key, "lazy"))
		o->lazy_refcounts = n;
	else if (!strcmp(key, "extended"))
		o->extended_l2 = n;
	else if (!strcmp(key, "backing"))
		o->backing = v;
	else if (!strcmp(key, "format"))
		o->backing_format = v;
	else if (!strcmp(key, "data"))
		o->data_file = v;
	else if (!strcmp(key, "prealloc"))
		o->prealloc = (enum disk_prealloc)n;
	else
		die("unknown key %s", key);
}

static int create_form(const struct disk_form *form, int argc, char **argv)
{
	const struct disk_form_create o = { .size_bytes = strtoull(argv[1], NULL, 0), .name = argv[0],
					    .options = argc > 2 ? argv[2] : NULL };
	const struct disk_options options = { 0 };
	g_autoptr(GError) err = NULL;
	struct disk *file;

	close(open(argv[0], O_WRONLY | O_CREAT | O_TRUNC, 0600));
	file = disk_file_open(argv[0], &options, loop, &err);
	if (!file || !form->create(file, &o, &err))
		die("%s", err->message);
	disk_close(file);
	return 0;
}

static int do_create(int argc, char **argv)
{
	struct qcow2_create o = { .size_bytes = strtoull(argv[1], NULL, 0), .version = 3,
				  .cluster_bytes = 65536, .refcount_bits = 16 };
	const struct disk_options options = { 0 };
	g_autoptr(GError) err = NULL;
	struct disk *file;

	if (disk_form_find(format))
		return create_form(disk_form_find(format), argc, argv);
	for (int i = 2; i < argc; i++) {
		char *eq = strchr(argv[i], '=');

		*eq = 0;
		set_key(&o, argv[i], eq + 1);
	}
	close(open(argv[0], O_WRONLY | O_CREAT | O_TRUNC, 0600));
	file = disk_file_open(argv[0], &options, loop, &err);
	if (!file || !qcow2_create(file, &o, &err))
		die("%s", err->message);
	disk_close(file);
	if (o.prealloc) {
		struct disk *disk = open_image(argv[0], false, false);

		if (qcow2_preallocate(disk, o.prealloc) < 0)
			die("cannot preallocate");
		disk_close(disk);
	}
	return 0;
}

static void tell(void *arg, const char *line)
{
	fprintf(stderr, "  %s\n", line);
	(void)arg;
}

static int do_check(const char *path, bool repair)
{
	struct disk *disk = open_image(path, !repair, repair);
	struct disk_found form = { .tell = tell };
	struct qcow2_check found = { 0 };
	int r;

	if (disk_form_find(format)) {
		r = disk_form_check(disk, repair, &form);
		found.errors = form.errors;
		found.leaks = form.leaks;
		found.repaired = form.repaired;
	} else {
		r = qcow2_check(disk, repair, tell, NULL, &found);
	}
	disk_close(disk);
	if (r < 0)
		die("check: %s", strerror(-r));
	if (repair && (found.errors || found.leaks) && !found.repaired)
		die("not repaired");
	return repair ? 0 : found.errors ? 2 : found.leaks ? 3 : 0;
}

static int do_snapshot(const char *what, const char *path, const char *name)
{
	struct disk *disk = open_image(path, false, false);
	int r = !strcmp(what, "create") ? qcow2_snapshot_create(disk, name, 1000000000, 5) :
		!strcmp(what, "apply")	? qcow2_snapshot_apply(disk, name) :
					  qcow2_snapshot_delete(disk, name);

	disk_close(disk);
	if (r < 0)
		die("snapshot: %s", strerror(-r));
	return 0;
}

static int do_resize(const char *path, const char *size)
{
	struct disk *disk = open_image(path, false, false);
	struct disk_req req = { .op = DISK_RESIZE, .offset = strtoull(size, NULL, 0) };
	int r = disk_run(disk, &req);

	disk_close(disk);
	if (r < 0)
		die("resize: %s", strerror(-r));
	return 0;
}

/* ---- load, and what it leaves ---- */

struct load {
	uint64_t bytes; /* of the disk */
	unsigned count;
	struct one batch[AT_ONCE];
	bool flush; /* behind it */
};

/* The next requests of the series that the seed picks, in parts of the disk of their own. */
static void load_next(struct load *l)
{
	uint64_t part;

	l->count = 1 + (unsigned)rnd(MIN(AT_ONCE, l->bytes / 512));
	part = align_down(l->bytes / l->count, 512);
	for (unsigned i = 0; i < l->count; i++) {
		struct one *o = &l->batch[i];
		uint64_t len = 512 * (1 + rnd(MIN(part / 512, 200)));

		*o = (struct one){ .req = { .op = rnd(5) ? DISK_WRITE : DISK_WRITE_ZEROES,
					    .offset = i * part + 512 * rnd((part - len) / 512 + 1),
					    .len = len, .iov = o->iov, .iov_count = 1,
					    .unmap = rnd(2), .done = done } };
		o->buf = g_malloc0(len);
		o->iov[0] = (struct iovec){ o->buf, len };
		for (uint64_t at = 0; at < len && o->req.op == DISK_WRITE; at += 512)
			memcpy(o->buf + at, &state, sizeof(state));
	}
	l->flush = rnd(4) == 0;
}

static void do_load(const char *path, const char *seed)
{
	struct disk *disk = open_image(path, false, false);
	struct load l = { .bytes = disk->size_bytes };
	unsigned flushes = 0;

	state = strtoull(seed, NULL, 0);
	for (;;) {
		load_next(&l);
		for (unsigned i = 0; i < l.count; i++)
			submit(disk, &l.batch[i]);
		settle_all(disk);
		for (unsigned i = 0; i < l.count; i++) {
			if (l.batch[i].result < 0)
				die("request: %s", strerror(-l.batch[i].result));
			g_free(l.batch[i].buf);
		}
		if (!l.flush)
			continue;
		if (disk_flush_wait(disk) < 0)
			die("flush fails");
		printf("%u\n", ++flushes);
		fflush(stdout);
	}
}

/* Each sector is what it was when the last flush that was told of ended, or what was written to it up
 * to the next one. */
static int do_loaded(const char *path, const char *seed, unsigned flushes)
{
	struct disk *disk = open_image(path, true, false);
	struct load l = { .bytes = disk->size_bytes };
	uint8_t *found = g_malloc(l.bytes), *model = g_malloc0(l.bytes);
	bool *right = g_new0(bool, l.bytes / 512);

	if (disk_read_wait(disk, found, l.bytes, 0) < 0)
		die("cannot be read");
	state = strtoull(seed, NULL, 0);
	for (unsigned told = 0; told <= flushes; told += l.flush) {
		for (uint64_t i = 0; told == flushes && i < l.bytes / 512; i++)
			right[i] |= !memcmp(found + i * 512, model + i * 512, 512);
		load_next(&l);
		for (unsigned i = 0; i < l.count; i++) {
			memcpy(model + l.batch[i].req.offset, l.batch[i].buf, l.batch[i].req.len);
			g_free(l.batch[i].buf);
		}
	}
	for (uint64_t i = 0; i < l.bytes / 512; i++)
		if (!right[i] && memcmp(found + i * 512, model + i * 512, 512))
			die("sector %llu is nothing that was written", (unsigned long long)i);
	disk_close(disk);
	g_free(found);
	g_free(model);
	g_free(right);
	return 0;
}

static int do_compare(const char *path, const char *raw)
{
	struct disk *disk = open_image(path, true, false);
	uint8_t *model = load(raw, disk->size_bytes);

	compare(disk, model);
	disk_close(disk);
	g_free(model);
	return 0;
}

static int do_verb(int argc, char **argv)
{
	format = "qcow2";
	if (argc > 2 && !strcmp(argv[1], "-f")) {
		format = argv[2];
		argv += 2;
		argc -= 2;
	}
	if (argc > 5 && !strcmp(argv[1], "run"))
		return do_run(argc - 2, argv + 2);
	if (argc > 3 && !strcmp(argv[1], "create"))
		return do_create(argc - 2, argv + 2);
	if (argc == 4 && !strcmp(argv[1], "load"))
		do_load(argv[2], argv[3]);
	if (argc == 5 && !strcmp(argv[1], "loaded"))
		return do_loaded(argv[2], argv[3], (unsigned)atoi(argv[4]));
	if (argc == 3)
		return do_check(argv[2], !strcmp(argv[1], "repair"));
	if (argc == 5 && !strcmp(argv[1], "snapshot"))
		return do_snapshot(argv[2], argv[3], argv[4]);
	if (argc == 4 && !strcmp(argv[1], "resize"))
		return do_resize(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "compare"))
		return do_compare(argv[2], argv[3]);
	return 2;
}

static void serve(void)
{
	char line[4096];

	/* Large pieces are wanted again and again: no new pages for each. */
	(void)mallopt(M_MMAP_THRESHOLD, 64 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
	while (fgets(line, sizeof(line), stdin)) {
		g_auto(GStrv) words = g_strsplit(g_strstrip(line), " ", -1);

		/* The first word is in the place of the program's name. */
		printf("%d\n", do_verb((int)g_strv_length(words), words));
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	int status = 0;

	loop = loop_new();
	if (argc == 2 && !strcmp(argv[1], "serve"))
		serve();
	else
		status = do_verb(argc, argv);
	loop_free(loop);
	return status;
}
