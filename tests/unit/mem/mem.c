// SPDX-License-Identifier: Apache-2.0
/* mem.c - tests of guest-physical memory: layout, bounds, dirty log. */
#include "mem/mem.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/units.h"

static struct mem *mem_of(uint64_t size, bool merge)
{
	const struct mem_config config = {.size_bytes = size, .merge = merge, .node = -1};
	g_autoptr(GError) err = NULL;
	struct mem *mem = mem_new(&config, &err);

	ck_assert_msg(mem != NULL, "%s", err ? err->message : "");
	return mem;
}

START_TEST(lays_small_memory_into_one_slot)
{
	struct mem *mem = mem_of(MIB, false);
	const struct mem_slot *slots;
	size_t n;

	slots = mem_slots(mem, &n);
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(slots[0].gpa, 0);
	ck_assert_uint_eq(slots[0].size, MIB);
	ck_assert_int_ge(slots[0].fd, 0);
	ck_assert_uint_eq((uintptr_t)slots[0].hva % (2 * MIB), 0);
	mem_free(mem);
}
END_TEST

START_TEST(leaves_a_hole_below_4_gib)
{
	struct mem *mem = mem_of(6 * GIB, _i);
	const struct mem_slot *slots;
	uint32_t v = 0x12345678, w = 0;
	size_t n;

	slots = mem_slots(mem, &n);
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(slots[0].size, MEM_HOLE_START);
	ck_assert_uint_eq(slots[1].gpa, MEM_HIGH_START);
	ck_assert_uint_eq(slots[1].size, 3 * GIB);
	ck_assert_uint_eq(slots[1].fd_offset, 3 * GIB);
	ck_assert_int_eq(slots[0].fd >= 0, !_i);
	/* Taken as touched: the last word of six gigabytes costs one page. */
	ck_assert_int_eq(mem_write(mem, MEM_HIGH_START + 3 * GIB - 4, &v, 4), 0);
	ck_assert_int_eq(mem_read(mem, MEM_HIGH_START + 3 * GIB - 4, &w, 4), 0);
	ck_assert_uint_eq(w, v);
	mem_free(mem);
}
END_TEST

static const struct {
	gpa_t gpa;
	uint64_t len;
	bool ok;
} ranges[] = {
	{0, 0, true},
	{0, 1, true},
	{0, MEM_HOLE_START, true},
	{0, MEM_HOLE_START + 1, false},
	{MEM_HOLE_START - 1, 1, true},
	{MEM_HOLE_START - 1, 2, false}, /* into the hole */
	{MEM_HOLE_START, 1, false},
	{MEM_HIGH_START - 1, 1, false},
	{MEM_HIGH_START - 1, 2, false}, /* out of the hole */
	{MEM_HIGH_START, 1 * GIB, true},
	{MEM_HIGH_START, 1 * GIB + 1, false},
	{MEM_HIGH_START + GIB, 0, false},
	{1, UINT64_MAX, false}, /* sum wraps to zero */
	{UINT64_MAX, 1, false},
	{UINT64_MAX, UINT64_MAX, false},
};

START_TEST(checks_bounds)
{
	struct mem *mem = mem_of(4 * GIB, false);
	char byte = 0;

	ck_assert_int_eq(mem_ptr(mem, ranges[_i].gpa, ranges[_i].len) != NULL, ranges[_i].ok);
	if (!ranges[_i].ok && ranges[_i].len) {
		ck_assert_int_eq(mem_read(mem, ranges[_i].gpa, &byte, ranges[_i].len), -EFAULT);
		ck_assert_int_eq(mem_write(mem, ranges[_i].gpa, &byte, ranges[_i].len), -EFAULT);
	}
	mem_free(mem);
}
END_TEST

static const struct mem_config bad_configs[] = {
	{.size_bytes = 0, .node = -1},
	{.size_bytes = MIB - 4096, .node = -1},
	{.size_bytes = MIB + 1, .node = -1},
	{.size_bytes = 2048 * GIB, .node = -1},
	{.size_bytes = 3 * MIB, .hugepages = true, .node = -1},
	{.size_bytes = 2 * MIB, .hugepages = true, .merge = true, .node = -1},
	{.size_bytes = 2 * MIB, .node = 1000},
	{.size_bytes = 2 * MIB, .node = 5000},
};

START_TEST(refuses_with_a_sentence)
{
	g_autoptr(GError) err = NULL;

	ck_assert_ptr_null(mem_new(&bad_configs[_i], &err));
	ck_assert_ptr_nonnull(err);
	ck_assert_ptr_nonnull(strstr(err->message, "memory: "));
}
END_TEST

START_TEST(preallocates)
{
	const struct mem_config config = {.size_bytes = 4 * MIB, .prealloc = true, .node = -1};
	unsigned char resident[1024] = {0};
	const struct mem_slot *slots;
	struct mem *mem = mem_new(&config, NULL);
	size_t n;

	ck_assert_ptr_nonnull(mem);
	slots = mem_slots(mem, &n);
	ck_assert_int_eq(mincore(slots[0].hva, slots[0].size, resident), 0);
	for (size_t i = 0; i < sizeof(resident); i++)
		ck_assert_int_eq(resident[i] & 1, 1);
	mem_free(mem);
}
END_TEST

START_TEST(logs_dirty_pages_once)
{
	struct mem *mem = mem_of(4 * GIB, false);
	uint64_t *map = calloc(3 * GIB / 4096 / 64, 8);
	uint8_t bytes[8192 + 2] = {0};

	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, map), 0);
	ck_assert_int_eq(mem_write(mem, 0, bytes, 1), 0); /* the log is off */
	ck_assert_int_eq(mem_dirty_start(mem), 0);
	ck_assert(mem_dirty_is_on(mem));
	ck_assert_int_eq(mem_write(mem, 64 * 4096 - 1, bytes, sizeof(bytes)), 0);
	ck_assert_int_eq(mem_write(mem, MEM_HIGH_START + GIB - 1, bytes, 1), 0);
	mem_dirty_mark(mem, MEM_HOLE_START - 4096, 3 * 4096); /* clipped */
	mem_dirty_mark(mem, MEM_HOLE_START, 4096);	      /* not RAM */
	mem_dirty_mark(mem, 4096, 0);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, map), 5);
	ck_assert_uint_eq(map[0], 1ull << 63);
	ck_assert_uint_eq(map[1], 7);
	ck_assert_uint_eq(map[3 * GIB / 4096 / 64 - 1], 1ull << 63);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, map), 0);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 1, map), 1);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 2, map), 0);
	/* A long range fills whole words. */
	mem_dirty_mark(mem, 10 * 4096, 200 * 4096);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, map), 200);
	ck_assert_uint_eq(map[1], ~0ull);
	mem_dirty_stop(mem);
	ck_assert(!mem_dirty_is_on(mem));
	/* What was marked and not fetched is gone with the next start. */
	mem_dirty_mark(mem, 0, 1);
	ck_assert_int_eq(mem_dirty_start(mem), 0);
	ck_assert_uint_eq(mem_dirty_fetch(mem, 0, map), 0);
	free(map);
	mem_free(mem);
}
END_TEST

struct spy {
	struct mem_observer observer;
	gpa_t gpa;
	uint64_t len;
	int calls;
};

static void spy_written(struct mem_observer *self, gpa_t gpa, uint64_t len)
{
	struct spy *spy = (struct spy *)self;

	spy->gpa = gpa;
	spy->len = len;
	spy->calls++;
}

START_TEST(tells_every_observer)
{
	struct mem *mem = mem_of(MIB, false);
	struct spy a = {.observer.written = spy_written}, b = {.observer.written = spy_written};

	mem_observe(mem, &a.observer);
	mem_observe(mem, &b.observer);
	mem_write(mem, 5, "abc", 3);
	mem_write(mem, 5, "", 0);
	mem_write(mem, MIB, "x", 1); /* fails */
	ck_assert_int_eq(a.calls, 1);
	ck_assert_int_eq(b.calls, 1);
	ck_assert_uint_eq(a.gpa, 5);
	ck_assert_uint_eq(a.len, 3);
	mem_free(mem);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mem");
	TCase *t = tcase_create("mem");
	SRunner *r;
	int failed;

	tcase_add_test(t, lays_small_memory_into_one_slot);
	tcase_add_loop_test(t, leaves_a_hole_below_4_gib, 0, 2);
	tcase_add_loop_test(t, checks_bounds, 0, G_N_ELEMENTS(ranges));
	tcase_add_loop_test(t, refuses_with_a_sentence, 0, G_N_ELEMENTS(bad_configs));
	tcase_add_test(t, preallocates);
	tcase_add_test(t, logs_dirty_pages_once);
	tcase_add_test(t, tells_every_observer);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
