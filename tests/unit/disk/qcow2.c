// SPDX-License-Identifier: Apache-2.0
/* qcow2.c - tests of qcow2 images that need a certain course of events. */
#include <check.h>
#include <string.h>

#include "disk/disk_int.h"
#include "disk/qcow2/qcow2_int.h"
#include "image_file.h"
#include "memimage.h"

#define CLUSTER 65536u

static struct disk *open_new(struct qcow2_create o)
{
	const struct disk_options raw = { 0 }, options = { .format = "qcow2" };
	g_autoptr(GError) err = NULL;
	struct disk *file = disk_file_open(path, &raw, loop, &err), *disk;

	ck_assert_msg(file && qcow2_create(file, &o, &err), "%s", err ? err->message : "");
	disk_close(file);
	disk = disk_open_options(path, &options, loop, &err);
	ck_assert_msg(disk != NULL, "%s", err ? err->message : "");
	return disk;
}

static void write_cluster(struct disk *disk, unsigned number, uint8_t byte, bool compress)
{
	static uint8_t bytes[CLUSTER];
	struct iovec iov = { bytes, CLUSTER };
	struct disk_req req = { .op = DISK_WRITE, .offset = (uint64_t)number * CLUSTER, .len = CLUSTER,
				.iov = &iov, .iov_count = 1, .compress = compress };

	memset(bytes, byte, CLUSTER);
	ck_assert_int_eq(disk_run(disk, &req), 0);
}

static void expect_cluster(struct disk *disk, unsigned number, uint8_t byte)
{
	static uint8_t bytes[CLUSTER], wanted[CLUSTER];

	memset(wanted, byte, CLUSTER);
	ck_assert_int_eq(disk_read_wait(disk, bytes, CLUSTER, (uint64_t)number * CLUSTER), 0);
	ck_assert_mem_eq(bytes, wanted, CLUSTER);
}

/* The compressed cluster that was read last is kept, unpacked. */
START_TEST(compressed_cluster_takes_the_place_of_another)
{
	struct disk *disk = open_new((struct qcow2_create){
		.size_bytes = 16 * CLUSTER, .version = 3, .cluster_bytes = CLUSTER, .refcount_bits = 16, .zstd = _i });

	write_cluster(disk, 0, 1, true);
	expect_cluster(disk, 0, 1);
	for (unsigned i = 1; i < 8; i++) {
		/* Given up, and free to be used again behind the flush. */
		write_cluster(disk, i - 1, (uint8_t)(i + 100), false);
		ck_assert_int_eq(disk_flush_wait(disk), 0);
		write_cluster(disk, i, (uint8_t)(i + 1), true);
		expect_cluster(disk, i, (uint8_t)(i + 1));
		expect_cluster(disk, i - 1, (uint8_t)(i + 100));
	}
	disk_close(disk);
}
END_TEST

/* NULL: it is refused. */
static struct disk *open_file(struct memdisk *m)
{
	static const struct disk_options as_it_is;
	static const struct disk_chain no_chain;

	return qcow2_open_take(&m->disk, &as_it_is, loop, &no_chain, NULL);
}

/* Which was not closed, so that who opens it counts anew. */
static struct memdisk *new_unclosed_with_bitmap(void)
{
	const struct qcow2_create o = { .size_bytes = 1u << 20, .version = 3, .cluster_bytes = 4096,
					.refcount_bits = 16 };
	struct memdisk *m = memdisk_new(4u << 20, 1);
	struct disk *disk;

	m->keep = true;
	ck_assert(qcow2_create(&m->disk, &o, NULL));
	disk = open_file(m);
	ck_assert(disk && qcow2_bitmap_add(disk, "kept", 0, true, NULL));
	disk_close(disk);
	m->bytes[79] |= 1; /* incompatible features, 72 to 79: dirty */
	return m;
}

static void expect_bitmap(struct memdisk *m)
{
	struct disk *disk = open_file(memdisk_copy(m, 0));
	g_autoptr(GPtrArray) list = NULL;

	ck_assert(disk && qcow2_bitmaps(disk, &list, NULL));
	ck_assert_uint_eq(list->len, 1);
	disk_close(disk);
}

START_TEST(what_cannot_be_read_once_is_not_given_up)
{
	struct memdisk *start = new_unclosed_with_bitmap(), *m;
	bool came = true;

	for (unsigned n = 1; came; n++) {
		m = memdisk_copy(start, n);
		m->keep = true;
		m->faults = (struct memdisk_faults){ .from = n, .to = n + 1 };
		disk_close(open_file(m));
		came = m->faults.calls >= n;
		m->faults.from = m->faults.to = 0;
		expect_bitmap(m);
		disk_close(&m->disk);
	}
	disk_close(&start->disk);
}
END_TEST

#define PIECE 4096u

/* A byte for each piece: its number. 0 or -errno. */
static int write_piece(struct disk *disk, unsigned number)
{
	uint8_t bytes[PIECE];

	memset(bytes, (int)(number % 255) + 1, PIECE);
	return disk_write_wait(disk, bytes, PIECE, (uint64_t)number * PIECE);
}

static void expect_pieces(struct disk *disk, unsigned count)
{
	uint8_t bytes[PIECE], wanted[PIECE];

	for (unsigned i = 0; i < count; i++) {
		memset(wanted, (int)(i % 255) + 1, PIECE);
		ck_assert_int_eq(disk_read_wait(disk, bytes, PIECE, (uint64_t)i * PIECE), 0);
		ck_assert_mem_eq(bytes, wanted, PIECE);
	}
}

static void expect_sound(struct memdisk *m, unsigned pieces)
{
	struct disk *disk = open_file(memdisk_copy(m, 0));
	struct qcow2_check found;

	ck_assert(disk && qcow2_check(disk, false, NULL, NULL, &found) == 0);
	ck_assert_uint_eq(found.errors, 0);
	expect_pieces(disk, pieces);
	disk_close(disk);
}

/* So full that the next block of counts needs a longer table of them. Returns how many pieces it holds. */
static unsigned fill_table_of_counts(struct memdisk *m)
{
	const struct qcow2_create o = { .size_bytes = 4u << 20, .version = 3, .cluster_bytes = 512,
					.refcount_bits = 64 };
	const struct qcow2 *s;
	struct disk *disk;
	unsigned pieces = 0;

	m->keep = true;
	ck_assert(qcow2_create(&m->disk, &o, NULL));
	disk = open_file(m);
	for (s = (struct qcow2 *)disk; !s->reftable[s->reftable_entries - 1]; pieces++)
		ck_assert_int_eq(write_piece(disk, pieces), 0);
	disk_close(disk);
	return pieces;
}

START_TEST(table_of_counts_that_cannot_grow_has_no_more_entries)
{
	struct memdisk *start = memdisk_new(8u << 20, 1), *m;
	unsigned had = fill_table_of_counts(start), longer = 0;
	bool came = true;

	for (unsigned n = 1; came; n++) {
		struct disk *disk;

		m = memdisk_copy(start, n);
		m->keep = true;
		disk = open_file(m);
		m->faults = (struct memdisk_faults){ .from = n, .to = n + 1 };
		for (unsigned i = had; i < had + 16; i++)
			(void)write_piece(disk, i);
		longer += ((struct qcow2 *)disk)->h.reftable_clusters > 1;
		came = m->faults.calls >= n;
		m->faults.from = m->faults.to = 0;
		disk_close(disk);
		expect_sound(m, had);
		disk_close(&m->disk);
	}
	ck_assert_uint_gt(longer, 0);
	disk_close(&start->disk);
}
END_TEST

#define RESIZED 64u /* pieces */

static struct memdisk *new_full_of_pieces(void)
{
	const struct qcow2_create o = { .size_bytes = RESIZED * PIECE, .version = 3, .cluster_bytes = 4096,
					.refcount_bits = 16 };
	struct memdisk *m = memdisk_new(4u << 20, 1);
	struct disk *disk;

	m->keep = true;
	ck_assert(qcow2_create(&m->disk, &o, NULL));
	disk = open_file(m);
	for (unsigned i = 0; i < RESIZED; i++)
		ck_assert_int_eq(write_piece(disk, i), 0);
	disk_close(disk);
	return m;
}

static int resize_to(struct disk *disk, unsigned pieces)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = pieces * PIECE };

	return disk_run(disk, &req);
}

/* As large as it was, it holds what it held; or zeros behind the end that it has now. */
static void expect_regrown(struct disk *disk)
{
	unsigned kept = (unsigned)(disk->size_bytes / PIECE);
	uint8_t bytes[PIECE];

	expect_pieces(disk, kept);
	ck_assert_int_eq(resize_to(disk, RESIZED), 0);
	for (unsigned i = kept; i < RESIZED; i++) {
		ck_assert_int_eq(disk_read_wait(disk, bytes, PIECE, (uint64_t)i * PIECE), 0);
		ck_assert(bytes[0] == 0 && memcmp(bytes, bytes + 1, PIECE - 1) == 0);
	}
}

START_TEST(disk_that_could_not_be_made_smaller_grows_by_zeros)
{
	struct memdisk *start = new_full_of_pieces(), *m;
	bool came = true, again = _i;
	unsigned cut_off = 0;

	for (unsigned n = 1; came; n++) {
		struct disk *disk;
		int r;

		m = memdisk_copy(start, n);
		m->keep = true;
		disk = open_file(m);
		m->faults = (struct memdisk_faults){ .from = n, .to = n + (again ? 1000 : 1) };
		r = resize_to(disk, 5);
		came = m->faults.calls >= n;
		if (again) { /* opened again: nothing that it knew reached the file */
			disk_close(disk);
			m->faults.from = m->faults.to = 0;
			m->keep = true;
			disk = open_file(m);
			ck_assert(disk != NULL);
		}
		m->faults.from = m->faults.to = 0;
		cut_off += r < 0 && disk->size_bytes < RESIZED * PIECE;
		if (!((struct qcow2 *)disk)->broken)
			expect_regrown(disk);
		disk_close(disk);
		disk_close(&m->disk);
	}
	ck_assert_uint_gt(cut_off, 0);
	disk_close(&start->disk);
}
END_TEST

static int merge(struct disk *disk)
{
	return qcow2_bitmap_merge(disk, "kept", disk, "given", NULL) ? 0 : -EIO;
}

static int disable(struct disk *disk)
{
	return qcow2_bitmap_enable(disk, "kept", false, NULL) ? 0 : -EIO;
}

/* To a size that needs a longer bitmap. */
static int grow(struct disk *disk)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = 4u << 20 };

	return disk_run(disk, &req);
}

static int (*const changes_of_bitmaps[])(struct disk *disk) = { merge, disable, grow };

static struct memdisk *new_with_two_bitmaps(void)
{
	const struct qcow2_create o = { .size_bytes = 1u << 20, .version = 3, .cluster_bytes = 512,
					.refcount_bits = 16 };
	struct memdisk *m = memdisk_new(8u << 20, 1);
	struct disk *disk;

	m->keep = true;
	ck_assert(qcow2_create(&m->disk, &o, NULL));
	disk = open_file(m);
	ck_assert(qcow2_bitmap_add(disk, "kept", 512, true, NULL));
	ck_assert(qcow2_bitmap_add(disk, "given", 512, false, NULL));
	disk_close(disk);
	return m;
}

/* What has changed since all was zeros is marked, or the bitmap says that it knows nothing. */
static void expect_true_bitmap(struct memdisk *m)
{
	struct disk *disk = open_file(memdisk_copy(m, 0));
	g_autofree uint8_t *zeros = g_malloc0(1u << 20);

	ck_assert(disk != NULL);
	ck_assert_ptr_eq(memimage_check_bitmap(disk, "kept", zeros), NULL);
	disk_close(disk);
}

START_TEST(bitmap_knows_of_writes_behind_a_change_that_failed)
{
	struct memdisk *start = new_with_two_bitmaps(), *m;
	bool came = true;

	/* A call that fails does nothing, or all of it: by the seed. */
	for (unsigned n = 2; came || n % 2; n++) {
		struct disk *disk;

		m = memdisk_copy(start, n);
		m->keep = true;
		disk = open_file(m);
		m->faults = (struct memdisk_faults){ .from = n / 2, .to = n / 2 + 1 };
		ck_assert(changes_of_bitmaps[_i](disk) == 0 || m->faults.calls >= n / 2);
		came = m->faults.calls >= n / 2;
		m->faults.from = m->faults.to = 0;
		(void)write_piece(disk, 1);
		disk_close(disk);
		expect_true_bitmap(m);
		disk_close(&m->disk);
	}
	disk_close(&start->disk);
}
END_TEST

/* Which was not closed, and has a cluster that nothing counts. */
static struct memdisk *new_with_wrong_count(void)
{
	struct memdisk *m = new_unclosed_with_bitmap();
	struct disk *disk;

	m->keep = true;
	disk = open_file(m);
	ck_assert(disk && write_piece(disk, 0) == 0 && disk_flush_wait(disk) == 0);
	/* The last one of the file; there is one block of counts of 16 bits. */
	m->bytes[((struct qcow2 *)disk)->reftable[0] + (m->disk.size_bytes - 1) / 4096 * 2 + 1] = 0;
	disk->abandoned = true;
	disk_close(disk);
	m->bytes[79] |= 1;
	return m;
}

START_TEST(repair_that_fails_leaves_the_mark_that_counts_are_wrong)
{
	static const struct disk_chain no_chain;
	const struct disk_options repair = { .repair = true };
	struct memdisk *start = new_with_wrong_count(), *m;
	struct qcow2_check found;
	bool came = true;

	for (unsigned n = 1; came; n++) {
		struct disk *disk;

		m = memdisk_copy(start, n);
		m->keep = true;
		m->faults = (struct memdisk_faults){ .from = n, .to = n + 1 };
		disk = qcow2_open_take(&m->disk, &repair, loop, &no_chain, NULL);
		if (disk)
			(void)qcow2_check(disk, true, NULL, NULL, &found);
		disk_close(disk);
		came = m->faults.calls >= n;
		m->faults.from = m->faults.to = 0;
		expect_sound(m, 1);
		disk_close(&m->disk);
	}
	disk_close(&start->disk);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("qcow2");
	TCase *c = tcase_create("qcow2");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 50);
	tcase_add_loop_test(c, compressed_cluster_takes_the_place_of_another, 0, 2);
	tcase_add_test(c, what_cannot_be_read_once_is_not_given_up);
	tcase_add_test(c, table_of_counts_that_cannot_grow_has_no_more_entries);
	tcase_add_loop_test(c, disk_that_could_not_be_made_smaller_grows_by_zeros, 0, 2);
	tcase_add_loop_test(c, bitmap_knows_of_writes_behind_a_change_that_failed, 0, G_N_ELEMENTS(changes_of_bitmaps));
	tcase_add_test(c, repair_that_fails_leaves_the_mark_that_counts_are_wrong);
	suite_add_tcase(suite, c);
	return run_suite(suite);
}
