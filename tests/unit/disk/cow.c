// SPDX-License-Identifier: Apache-2.0
/* cow.c - disks over images that stay as they are, and disks in memory. */
#include "disk/cow.h"

#include <check.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "disk/qcow2/qcow2.h"

#define SIZE (1u << 20)

static struct loop *loop;
static char *folder, *base, *layer;

static void setup(void)
{
	g_autofree char *bytes = g_malloc(SIZE);

	loop = loop_new();
	folder = g_dir_make_tmp("sika-cow-XXXXXX", NULL);
	base = g_build_filename(folder, "base", NULL);
	layer = g_build_filename(folder, "layer", NULL);
	memset(bytes, 'b', SIZE);
	ck_assert(g_file_set_contents(base, bytes, SIZE, NULL));
}

static void teardown(void)
{
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	const char *name;

	while ((name = g_dir_read_name(dir))) {
		g_autofree char *path = g_build_filename(folder, name, NULL);

		(void)g_unlink(path);
	}
	ck_assert_int_eq(g_rmdir(folder), 0);
	g_free(folder);
	g_free(base);
	g_free(layer);
	loop_free(loop);
}

static struct disk *open_cow(const char *over, const char *in, const char *format)
{
	const struct disk_options o = { .format = format };
	g_autoptr(GError) err = NULL;
	struct disk *disk = disk_open_cow(over, in, &o, loop, &err);

	ck_assert_msg(disk != NULL, "%s", err ? err->message : "?");
	ck_assert(!disk->readonly);
	return disk;
}

static void refused(const char *over, const char *in, const char *words)
{
	const struct disk_options o = { 0 };
	g_autoptr(GError) err = NULL;
	struct disk *disk = disk_open_cow(over, in, &o, loop, &err);

	ck_assert_ptr_null(disk);
	ck_assert_ptr_nonnull(err);
	ck_assert_msg(strstr(err->message, words) != NULL, "%s", err->message);
}

static char byte_at(struct disk *disk, uint64_t at)
{
	char sector[512];

	ck_assert_int_eq(disk_read_wait(disk, sector, 512, at - at % 512), 0);
	return sector[at % 512];
}

static void put(struct disk *disk, char c, uint64_t at)
{
	char sector[512];

	memset(sector, c, sizeof(sector));
	ck_assert_int_eq(disk_write_wait(disk, sector, 512, at), 0);
	ck_assert_int_eq(disk_flush_wait(disk), 0);
}

static void base_is_as_it_was(void)
{
	g_autofree char *bytes = NULL;
	gsize len;

	ck_assert(g_file_get_contents(base, &bytes, &len, NULL));
	ck_assert_uint_eq(len, SIZE);
	/* All alike: each byte is the next one. */
	ck_assert(bytes[0] == 'b' && !memcmp(bytes, bytes + 1, len - 1));
}

static unsigned files(void)
{
	g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
	unsigned n = 0;

	while (g_dir_read_name(dir))
		n++;
	return n;
}

START_TEST(nothing_is_left)
{
	struct disk *disk = open_cow(base, NULL, NULL), *other = open_cow(base, NULL, "raw");

	ck_assert_uint_eq(disk->size_bytes, SIZE);
	put(disk, 'x', 4096);
	put(other, 'y', 4096);
	ck_assert_int_eq(byte_at(disk, 4096), 'x');
	ck_assert_int_eq(byte_at(other, 4100), 'y');
	ck_assert_int_eq(byte_at(disk, 5000), 'b');
	/* Nobody changes what is below. */
	ck_assert_ptr_null(disk_open(base, "raw", false, loop, NULL));
	disk_close(disk);
	disk_close(other);
	base_is_as_it_was();
	ck_assert_uint_eq(files(), 1);
	disk = open_cow(base, NULL, NULL);
	ck_assert_int_eq(byte_at(disk, 4096), 'b');
	disk_close(disk);
}
END_TEST

START_TEST(a_layer_with_a_name_is_kept)
{
	struct disk *disk = open_cow(base, layer, NULL);

	put(disk, 'x', 512);
	refused(base, layer, "given twice");
	disk_close(disk);
	disk = open_cow(base, layer, "raw");
	ck_assert_int_eq(byte_at(disk, 512), 'x');
	ck_assert_int_eq(byte_at(disk, 1024), 'b');
	disk_close(disk);
	base_is_as_it_was();
}
END_TEST

START_TEST(what_lies_below_the_base_is_found)
{
	g_autofree char *middle = g_build_filename(folder, "middle", NULL);
	struct disk *disk = open_cow(base, middle, NULL);

	put(disk, 'm', 0);
	disk_close(disk);
	disk = open_cow(middle, layer, NULL);
	put(disk, 'l', 512);
	ck_assert_int_eq(byte_at(disk, 0), 'm');
	ck_assert_int_eq(byte_at(disk, 1024), 'b');
	disk_close(disk);
	disk = open_cow(middle, NULL, "qcow2");
	ck_assert_int_eq(byte_at(disk, 0), 'm');
	ck_assert_int_eq(byte_at(disk, 512), 'b');
	disk_close(disk);
}
END_TEST

START_TEST(relative_names_are_of_here)
{
	g_autofree char *here = g_get_current_dir();
	struct disk *disk;

	ck_assert_int_eq(chdir(folder), 0);
	disk = open_cow("base", "layer", NULL);
	put(disk, 'x', 0);
	disk_close(disk);
	ck_assert_int_eq(chdir(here), 0);
	disk = open_cow(base, layer, NULL);
	ck_assert_int_eq(byte_at(disk, 0), 'x');
	disk_close(disk);
}
END_TEST

START_TEST(mistakes_are_told)
{
	g_autofree char *other = g_build_filename(folder, "other", NULL);
	g_autofree char *none = g_build_filename(folder, "none", NULL);
	g_autofree char *deep = g_build_filename(folder, "no", "where", NULL);

	refused(none, layer, "none");
	refused(base, deep, "cannot create");
	ck_assert_uint_eq(files(), 1); /* nothing half-made */
	disk_close(open_cow(base, layer, NULL));
	ck_assert(g_file_set_contents(other, "other", 5, NULL));
	refused(other, layer, "lies over");
	refused(base, other, "other");
	base_is_as_it_was();
}
END_TEST

START_TEST(memory_is_a_disk)
{
	g_autoptr(GError) err = NULL;
	const struct disk_options o = { .cache = DISK_CACHE_NONE };
	struct disk *disk = disk_open_options("scratch:64G", &o, loop, &err), *other;
	struct disk_req zero = { .op = DISK_WRITE_ZEROES, .offset = 1u << 20, .len = 512 };
	char mark[512] = "QFI\xfb";

	ck_assert_msg(disk != NULL, "%s", err ? err->message : "?");
	ck_assert_uint_eq(disk->size_bytes, 64ull << 30);
	ck_assert_str_eq(disk->format, "raw");
	put(disk, 'x', 1u << 20);
	put(disk, 'y', (64ull << 30) - 512);
	ck_assert_int_eq(byte_at(disk, 1u << 20), 'x');
	ck_assert_int_eq(byte_at(disk, (64ull << 30) - 1), 'y');
	ck_assert_int_eq(byte_at(disk, 5u << 20), 0);
	ck_assert_int_eq(disk_run(disk, &zero), 0);
	ck_assert_int_eq(byte_at(disk, 1u << 20), 0);
	/* Whatever a guest writes, nobody will take it for a format. */
	ck_assert_int_eq(disk_write_wait(disk, mark, 512, 0), 0);
	other = disk_open("scratch:64G", NULL, false, loop, NULL);
	ck_assert_int_eq(byte_at(other, (64ull << 30) - 1), 0);
	disk_close(other);
	disk_close(disk);
	ck_assert_ptr_null(disk_open("scratch:", NULL, false, loop, NULL));
	ck_assert_ptr_null(disk_open("scratch:0", NULL, false, loop, NULL));
	ck_assert_ptr_null(disk_open("scratch:-1", NULL, false, loop, NULL));
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("cow");
	Suite *suite = suite_create("disk cow");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, nothing_is_left);
	tcase_add_test(tc, a_layer_with_a_name_is_kept);
	tcase_add_test(tc, what_lies_below_the_base_is_found);
	tcase_add_test(tc, relative_names_are_of_here);
	tcase_add_test(tc, mistakes_are_told);
	tcase_add_test(tc, memory_is_a_disk);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
