// SPDX-License-Identifier: Apache-2.0
/* bt_direct.c - windows of the host's MMU: the table of what they hold has an end, and a guest cannot get beyond it. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/bt/bt_int.h"

#define PAGE	     4096u
#define ROOM	     (PAGE / sizeof(struct bt_direct_extent))
#define EACH	     3u /* pages of an extent, and one between them */
#define LINEAR(n)    (UINT64_C(0x400000) + (uint64_t)(n) * (EACH + 1) * PAGE)
#define GPA(n)	     (UINT64_C(0x100000) + (uint64_t)(n) * EACH * PAGE)
#define WINDOW_BYTES (LINEAR(ROOM) + PAGE)

struct fixture {
	struct bt_vcpu *vcpu;
	uint8_t *table, *window;
	int pipe[2];
};

static struct fixture f;

/* A table that ends where nothing is mapped, full of extents that can be written. */
static void set_up(void)
{
	struct bt_direct *d;

	f.vcpu = calloc(1, sizeof(*f.vcpu));
	f.table = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f.window = mmap(NULL, WINDOW_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert(f.vcpu && f.table != MAP_FAILED && f.window != MAP_FAILED);
	ck_assert_int_eq(mprotect(f.table, PAGE, PROT_READ | PROT_WRITE), 0);
	ck_assert_int_eq(pipe(f.pipe), 0);
	d = &f.vcpu->direct;
	d->able = d->ready = true;
	d->room = ROOM;
	/* At the very end. */
	d->extent = (struct bt_direct_extent *)(void *)(f.table + PAGE - ROOM * sizeof(*d->extent));
	d->window[0] = (struct bt_direct_window){ .base = f.window, .used = true, .slots = 1 };
	for (d->count = 0; d->count < ROOM; d->count++) {
		d->extent[d->count] = (struct bt_direct_extent){
			.linear = LINEAR(d->count), .gpa = GPA(d->count), .pages = EACH, .writable = true
		};
		ck_assert_int_eq(mprotect(f.window + LINEAR(d->count), EACH * PAGE, PROT_READ | PROT_WRITE), 0);
	}
}

static void tear_down(void)
{
	munmap(f.table, 2 * PAGE);
	munmap(f.window, WINDOW_BYTES);
	close(f.pipe[0]);
	close(f.pipe[1]);
	free(f.vcpu);
}

static bool can_read(uint64_t linear)
{
	char byte;

	if (write(f.pipe[1], f.window + linear, 1) != 1)
		return false;
	ck_assert_int_eq(read(f.pipe[0], &byte, 1), 1);
	return true;
}

static bool can_write(uint64_t linear)
{
	char byte = 1;

	ck_assert_int_eq(write(f.pipe[1], &byte, 1), 1);
	if (read(f.pipe[0], f.window + linear, 1) == 1)
		return true;
	ck_assert_int_eq(errno, EFAULT);
	ck_assert_int_eq(read(f.pipe[0], &byte, 1), 1);
	return false;
}

static const struct bt_direct_extent *extent_of(uint64_t linear)
{
	const struct bt_direct *d = &f.vcpu->direct;

	for (unsigned i = 0; i < d->count; i++)
		if (linear - d->extent[i].linear < d->extent[i].pages * (uint64_t)PAGE)
			return &d->extent[i];
	return NULL;
}

/* What is mapped is what the table says, which is in order and no longer than its room. */
static void check(void)
{
	const struct bt_direct *d = &f.vcpu->direct;

	ck_assert_uint_le(d->count, d->room);
	for (unsigned i = 1; i < d->count; i++)
		ck_assert_uint_le(d->extent[i - 1].linear + d->extent[i - 1].pages * (uint64_t)PAGE,
				  d->extent[i].linear);
	for (uint64_t linear = LINEAR(0); linear < LINEAR(ROOM); linear += PAGE) {
		const struct bt_direct_extent *e = extent_of(linear);

		ck_assert_msg(can_read(linear) == (e != NULL), "%lx", linear);
		ck_assert_msg(can_write(linear) == (e && e->writable), "%lx", linear);
	}
}

/* Code appears in the middle of one extent after the other: each becomes three. */
START_TEST(test_pages_that_become_code)
{
	check();
	for (unsigned n = 0; n < ROOM; n++) {
		bt_direct_protect(f.vcpu, GPA(n) + PAGE);
		ck_assert_uint_le(f.vcpu->direct.count, ROOM);
		ck_assert(!can_write(LINEAR(n) + PAGE));
	}
	check();
	ck_assert(f.vcpu->direct.able);
}
END_TEST

/* With room they stay, the middle one to be read. */
START_TEST(test_pages_that_become_code_with_room)
{
	f.vcpu->direct.count -= 2;
	ck_assert_int_eq(mprotect(f.window + LINEAR(ROOM - 2), 2 * (EACH + 1) * PAGE, PROT_NONE), 0);
	bt_direct_protect(f.vcpu, GPA(5) + PAGE);
	ck_assert_uint_eq(f.vcpu->direct.count, ROOM);
	check();
	ck_assert(can_write(LINEAR(5)) && can_read(LINEAR(5) + PAGE) && can_write(LINEAR(5) + 2 * PAGE));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("bt_direct");
	TCase *table = tcase_create("table");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(table, set_up, tear_down);
	tcase_add_test(table, test_pages_that_become_code);
	tcase_add_test(table, test_pages_that_become_code_with_room);
	suite_add_tcase(suite, table);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
