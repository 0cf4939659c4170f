// SPDX-License-Identifier: Apache-2.0
/* cache.c - tests of cache modes: when the host is told to flush, and requests of any place and size
 * past its cache, several at a time, against a model. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk/disk_int.h"
#include "disk/qcow2/qcow2.h"
#include "image_file.h"

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);

static unsigned flushes; /* the host's; by the one thread that has a request at a time */

int __wrap_fdatasync(int fd)
{
	__atomic_add_fetch(&flushes, 1, __ATOMIC_SEQ_CST);
	return __real_fdatasync(fd);
}

static struct disk *open_or_null(const char *format, enum disk_cache cache, enum disk_runner runner,
				 uint32_t block)
{
	const struct disk_options o = { .format = format, .cache = cache, .runner = runner,
					.direct_block = block };

	return disk_open_options(path, &o, loop, NULL);
}

static const struct {
	enum disk_cache cache;
	unsigned with_writes, with_flush; /* of three writes, one at a time; of one flush */
} modes[] = {
	{ DISK_CACHE_WRITEBACK, 0, 1 },	 { DISK_CACHE_NONE, 0, 1 },	{ DISK_CACHE_WRITETHROUGH, 3, 1 },
	{ DISK_CACHE_DIRECTSYNC, 3, 1 }, { DISK_CACHE_UNSAFE, 0, 0 },
};

static void make_raw(uint64_t bytes)
{
	ck_assert_int_eq(truncate(path, (off_t)bytes), 0);
}

START_TEST(flushes_what_the_mode_says)
{
	uint8_t bytes[1536] = { 1, 2, 3 }, back[1536];
	struct disk_req zeroes = { .op = DISK_WRITE_ZEROES, .offset = 4096, .len = 4096 };
	struct disk *disk;

	make_raw(1 << 20);
	disk = open_or_null("raw", modes[_i].cache, DISK_RUNNER_POOL, 0);
	if (!disk)
		return; /* a file system without O_DIRECT */
	flushes = 0;
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(disk_write_wait(disk, bytes, sizeof(bytes), 512), 0);
	ck_assert_int_eq(disk_run(disk, &zeroes), 0);
	ck_assert_int_eq(zeroes.op, DISK_WRITE_ZEROES);
	ck_assert_uint_eq(flushes, modes[_i].with_writes);
	ck_assert_int_eq(disk_read_wait(disk, back, sizeof(back), 512), 0);
	ck_assert_mem_eq(back, bytes, sizeof(back));
	ck_assert_uint_eq(flushes, modes[_i].with_writes);
	ck_assert_int_eq(disk_flush_wait(disk), 0);
	ck_assert_uint_eq(flushes, modes[_i].with_writes + modes[_i].with_flush);
	disk_close(disk);
}
END_TEST

static void make_qcow2(void)
{
	const struct qcow2_create o = { .size_bytes = 1 << 20, .version = 3, .cluster_bytes = 65536,
					.refcount_bits = 16 };

	ck_assert(qcow2_create_file(path, &o, loop, NULL));
}

/* Tables reach the file with their barriers, whoever asks: each write with writethrough, flushes
 * otherwise, and never with unsafe, where closing is no flush either. */
START_TEST(flushes_tables_as_the_mode_says)
{
	uint8_t bytes[512] = { 7 }, back[512];
	unsigned wrote, flushed;
	struct disk *disk;

	make_qcow2();
	disk = open_or_null("qcow2", modes[_i].cache, DISK_RUNNER_POOL, 0);
	if (!disk)
		return;
	flushes = 0;
	ck_assert_int_eq(disk_write_wait(disk, bytes, sizeof(bytes), 1024), 0);
	wrote = flushes;
	ck_assert_int_eq(disk_flush_wait(disk), 0);
	flushed = flushes - wrote;
	/* Its counts and data, its L2 table, L1; then only what may be new. */
	ck_assert_uint_eq(wrote, modes[_i].with_writes ? 3 : 0);
	ck_assert_uint_eq(flushed, modes[_i].with_writes ? 1 : modes[_i].with_flush ? 3 : 0);
	flushes = 0;
	disk_close(disk);
	ck_assert(modes[_i].with_flush ? flushes > 0 : flushes == 0);
	disk = open_or_null("qcow2", DISK_CACHE_WRITEBACK, DISK_RUNNER_POOL, 0);
	ck_assert_ptr_nonnull(disk);
	ck_assert_int_eq(disk_read_wait(disk, back, sizeof(back), 1024), 0);
	ck_assert_mem_eq(back, bytes, sizeof(back));
	disk_close(disk);
}
END_TEST

/* ---- past the cache ---- */

#define ODD_BYTES (512u * 1111u) /* ends in the middle of a block of 4096 */
#define AT_ONCE	  8u

struct one {
	struct disk_req req;
	struct iovec iov[3];
	uint8_t *bytes;
	int result;
};

static void one_done(struct disk_req *req, int result)
{
	((struct one *)req)->result = result;
}

static unsigned below(unsigned n)
{
	return (unsigned)rand() % n;
}

/* A request within sectors [from, to); what a write will leave is put into the model. */
static void make(struct one *o, unsigned from, unsigned to, uint8_t *model)
{
	unsigned sectors = 1 + below(to - from), at = from + below(to - from - sectors + 1);
	unsigned kind = below(8), shift = below(3) ? 0 : 1 + below(511);
	void *bytes;
	uint64_t len = sectors * 512ull, half = below(2) ? len / 2 : len / 2 / 512 * 512;

	/* Memory that is aligned to nothing, or to enough. */
	ck_assert_int_eq(posix_memalign(&bytes, 4096, len + 512), 0);
	o->bytes = bytes;
	for (uint64_t i = 0; i < len; i++)
		o->bytes[shift + i] = (uint8_t)rand();
	o->iov[0] = (struct iovec){ o->bytes + shift, half };
	o->iov[1] = (struct iovec){ o->bytes + shift + half, len - half };
	o->req = (struct disk_req){ .op = kind < 4 ? DISK_WRITE : kind < 7 ? DISK_READ : DISK_WRITE_ZEROES,
				    .unmap = below(2), .offset = at * 512ull, .len = len,
				    .iov = o->iov, .iov_count = 2, .done = one_done };
	o->result = 1;
	if (o->req.op == DISK_WRITE)
		memcpy(model + at * 512ull, o->bytes + shift, len);
	else if (o->req.op == DISK_WRITE_ZEROES)
		memset(model + at * 512ull, 0, len);
	o->iov[2] = (struct iovec){ o->bytes + shift, len };
}

static void check_one(struct one *o, const uint8_t *model)
{
	ck_assert_int_eq(o->result, 0);
	if (o->req.op == DISK_READ)
		ck_assert_mem_eq(o->iov[2].iov_base, model + o->req.offset, o->req.len);
	free(o->bytes);
}

/* Neighbours share blocks: a part of one that is read, changed and written back must not undo
 * what another writes at the same time. */
START_TEST(parts_of_blocks_past_the_cache)
{
	static const uint32_t blocks[] = { 0, 4096, 16384 };
	static uint8_t model[ODD_BYTES], back[ODD_BYTES];
	struct one batch[AT_ONCE];
	struct disk *disk;
	struct stat st;

	srand(3 + (unsigned)_i);
	memset(model, 0, sizeof(model));
	make_raw(ODD_BYTES);
	disk = open_or_null("raw", DISK_CACHE_NONE, _i < 3 ? DISK_RUNNER_URING : DISK_RUNNER_POOL,
			    blocks[_i % 3]);
	if (!disk)
		return; /* no O_DIRECT, or no io_uring */
	for (unsigned turn = 0; turn < 300; turn++) {
		unsigned n = 1 + below(AT_ONCE), base = below(ODD_BYTES / 512 - 200);
		unsigned step = below(2) ? 1 + below(3) : 25;

		if (turn % 10 == 0)
			base = ODD_BYTES / 512 - n * step; /* up to the end */
		for (unsigned i = 0; i < n; i++) {
			make(&batch[i], base + i * step, base + (i + 1) * step, model);
			disk_submit(disk, &batch[i].req);
		}
		disk_kick(disk);
		disk_drain(disk);
		for (unsigned i = 0; i < n; i++)
			check_one(&batch[i], model);
	}
	ck_assert_int_eq(disk_read_wait(disk, back, ODD_BYTES, 0), 0);
	ck_assert_mem_eq(back, model, ODD_BYTES);
	disk_close(disk);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, ODD_BYTES); /* no longer than it was */
	disk = open_or_null("raw", DISK_CACHE_WRITEBACK, DISK_RUNNER_POOL, 0);
	ck_assert_int_eq(disk_read_wait(disk, back, ODD_BYTES, 0), 0);
	ck_assert_mem_eq(back, model, ODD_BYTES);
	disk_close(disk);
}
END_TEST

START_TEST(knows_the_modes_by_name)
{
	g_auto(GStrv) names = g_strsplit(DISK_CACHE_NAMES, ", ", -1);
	unsigned seen = 0;
	enum disk_cache cache;

	for (unsigned i = 0; names[i]; i++) {
		ck_assert(disk_cache_parse(names[i], &cache));
		seen |= 1u << cache;
	}
	ck_assert_uint_eq(seen, 31);
	ck_assert(!disk_cache_parse("", &cache) && !disk_cache_parse("writebac", &cache));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("disk cache");
	TCase *t = tcase_create("cache");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 40);
	tcase_add_loop_test(t, flushes_what_the_mode_says, 0, G_N_ELEMENTS(modes));
	tcase_add_loop_test(t, flushes_tables_as_the_mode_says, 0, G_N_ELEMENTS(modes));
	tcase_add_loop_test(t, parts_of_blocks_past_the_cache, 0, 6);
	tcase_add_test(t, knows_the_modes_by_name);
	suite_add_tcase(s, t);
	return run_suite(s);
}
