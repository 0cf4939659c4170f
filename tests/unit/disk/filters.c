// SPDX-License-Identifier: Apache-2.0
/* filters.c - limits keep, and counts are right. What takes time is checked for not being too fast; how slow it is
 * depends on who else is here. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/filters/stats.h"
#include "disk/filters/throttle.h"

#define NS	 1e9
#define MAX_REQS 2000u

/* A node whose requests are over at once, or when they are let go. */
struct instant {
	struct disk disk;
	int result;
	bool hold;
	struct disk_req *held;
	unsigned seen[8]; /* by op */
};

static void instant_submit(struct disk *disk, struct disk_req *req)
{
	struct instant *d = (struct instant *)disk;

	d->seen[req->op]++;
	if (req->op == DISK_RESIZE)
		disk->size_bytes = req->offset;
	if (req->op == DISK_MAP)
		req->map.len = 77;
	if (d->hold)
		d->held = req;
	else
		req->done(req, d->result);
}

static void instant_drain(struct disk *disk)
{
}

static void instant_close(struct disk *disk)
{
	g_free(disk->path);
	free(disk);
}

static const struct disk_ops instant_ops = {
	.submit = instant_submit,
	.drain = instant_drain,
	.close = instant_close,
};

static struct instant *instant_new(void)
{
	struct instant *d = calloc(1, sizeof(*d));

	d->disk = (struct disk){ .ops = &instant_ops, .format = "raw", .path = g_strdup("x"),
				 .size_bytes = 1u << 20, .block_bytes = 512 };
	return d;
}

static struct loop *loop;
static struct instant *below;
static struct disk *disk;
static struct disk_req reqs[MAX_REQS];
static unsigned over, wanted;

static void open_throttle(struct throttle_limits limits)
{
	loop = loop_new();
	below = instant_new();
	disk = disk_throttle_new(&below->disk, &limits, loop);
	ck_assert_ptr_nonnull(disk);
	over = wanted = 0;
}

static void close_all(void)
{
	disk_close(disk);
	loop_free(loop);
}

static void done(struct disk_req *req, int result)
{
	req->result = result;
	if (++over == wanted)
		loop_stop(loop);
}

static void submit(enum disk_op op, unsigned count, uint64_t len)
{
	static uint8_t bytes[1u << 20];
	static struct iovec iov;

	iov = (struct iovec){ bytes, len };
	for (unsigned i = 0; i < count; i++) {
		struct disk_req *req = &reqs[wanted++];

		*req = (struct disk_req){ .op = op, .len = len, .iov = &iov, .iov_count = 1, .done = done };
		disk_submit(disk, req);
	}
	disk_kick(disk);
}

/* Seconds until all are over. */
static double finish(uint64_t start)
{
	/* It may have been told to stop before. */
	while (over < wanted)
		loop_run(loop);
	return (double)(loop_now_ns() - start) / NS;
}

START_TEST(keeps_the_average)
{
	uint64_t start = loop_now_ns();

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 100, 0, 0 } });
	submit(DISK_READ, 30, 512);
	submit(DISK_WRITE, 30, 512);
	ck_assert_uint_le(over, 22); /* a tenth of a second's worth, one more, and what it took */
	ck_assert_double_ge(finish(start), 0.47);
	close_all();
}
END_TEST

START_TEST(counts_bytes)
{
	uint64_t start = loop_now_ns();

	open_throttle((struct throttle_limits){ .rates[THROTTLE_BYTES_WRITE] = { 1u << 20, 0, 0 } });
	/* Larger than what comes at once: passes, and is paid for by the next. */
	submit(DISK_WRITE, 1, 512u << 10);
	ck_assert_uint_eq(over, 1);
	submit(DISK_WRITE, 1, 512);
	ck_assert_uint_eq(over, 1);
	/* Others have nothing to do with it. */
	submit(DISK_READ, 50, 512u << 10);
	submit(DISK_FLUSH, 1, 0);
	ck_assert_uint_eq(over, 52);
	ck_assert_double_ge(finish(start), 0.39);
	close_all();
}
END_TEST

START_TEST(bursts_are_limited)
{
	uint64_t start = loop_now_ns();

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 100, 1000, 0 } });
	submit(DISK_READ, 1000, 512);
	ck_assert_uint_eq(over, 1000);
	submit(DISK_READ, 50, 512);
	ck_assert_double_ge(finish(start), 0.47);
	close_all();
}
END_TEST

START_TEST(long_bursts_have_a_rate)
{
	uint64_t start = loop_now_ns();

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS_READ] = { 10, 1000, 5 } });
	submit(DISK_READ, 600, 512);
	ck_assert_uint_ge(over, 100);
	ck_assert_uint_lt(over, 600);
	/* With the average alone it would take a minute. */
	ck_assert_double_ge(finish(start), 0.48);
	ck_assert_double_le(finish(start), 20);
	close_all();
}
END_TEST

START_TEST(large_requests_count_more)
{
	uint64_t start = loop_now_ns();

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 100, 0, 0 }, .op_bytes = 4096 });
	submit(DISK_WRITE, 1, 50u * 4096 - 512);
	submit(DISK_DISCARD, 1, 1u << 20);
	ck_assert_uint_eq(over, 1);
	ck_assert_double_ge(finish(start), 0.38);
	close_all();
}
END_TEST

START_TEST(who_drains_does_not_wait)
{
	uint64_t start;

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 10, 0, 0 } });
	submit(DISK_READ, 15, 512);
	ck_assert_uint_lt(over, 15);
	disk_drain(disk);
	ck_assert_uint_eq(over, 15);
	/* It is paid for all the same. */
	start = loop_now_ns();
	submit(DISK_READ, 1, 512);
	ck_assert_double_ge(finish(start), 0.9);
	close_all();
}
END_TEST

static unsigned last_done;

static void in_order(struct disk_req *req, int result)
{
	unsigned i = (unsigned)(req - reqs);

	ck_assert_uint_eq(i, last_done);
	last_done = i + 1;
	done(req, result);
}

START_TEST(order_is_kept)
{
	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 200, 0, 0 } });
	last_done = 0;
	wanted = 60;
	for (unsigned i = 0; i < 60; i++) {
		reqs[i] = (struct disk_req){ .op = DISK_DISCARD, .len = 512, .done = in_order };
		disk_submit(disk, &reqs[i]);
	}
	ck_assert_uint_lt(over, 60);
	(void)finish(0);
	ck_assert_uint_eq(below->seen[DISK_DISCARD], 60);
	close_all();
}
END_TEST

START_TEST(a_new_size_is_seen_on_top)
{
	struct disk_req req = { .op = DISK_RESIZE, .offset = 2u << 20 };

	open_throttle((struct throttle_limits){ .rates[THROTTLE_OPS] = { 1000, 0, 0 } });
	disk = disk_stats_new(disk);
	ck_assert_int_eq(disk_run(disk, &req), 0);
	ck_assert_uint_eq(disk->size_bytes, 2u << 20);
	wanted = 0;
	over = 0;
	submit(DISK_READ, 1, 512);
	reqs[0].offset = 0;
	ck_assert_uint_eq(over, 1);
	close_all();
}
END_TEST

START_TEST(flushes_behind_each_change_are_kept)
{
	loop = loop_new();
	below = instant_new();
	below->disk.writethrough = true;
	disk = disk_stats_new(&below->disk);
	over = wanted = 0;
	ck_assert(disk->writethrough);
	submit(DISK_WRITE, 3, 512);
	ck_assert_uint_eq(over, 3);
	ck_assert_uint_eq(below->seen[DISK_FLUSH], 3);
	close_all();
}
END_TEST

static uint64_t in_buckets(const struct disk_stats_of *of)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < DISK_STATS_BUCKETS; i++)
		n += of->buckets[i];
	return n;
}

START_TEST(counts_what_is_done)
{
	struct disk_stats s;
	struct disk_req map = { .op = DISK_MAP, .len = 512 };

	loop = loop_new();
	below = instant_new();
	disk = disk_stats_new(&below->disk);
	over = wanted = 0;
	submit(DISK_READ, 7, 1024);
	submit(DISK_WRITE, 3, 512);
	submit(DISK_FLUSH, 2, 0);
	submit(DISK_DISCARD, 1, 4096);
	below->result = -EIO;
	submit(DISK_WRITE_ZEROES, 4, 512);
	ck_assert_int_eq(reqs[wanted - 1].result, -EIO);
	below->result = 0;
	ck_assert_int_eq(disk_run(disk, &map), 0);
	ck_assert_uint_eq(map.map.len, 77);
	disk_stats_get(disk, &s);
	ck_assert_uint_eq(s.of[DISK_STATS_READ].ops, 7);
	ck_assert_uint_eq(s.of[DISK_STATS_READ].bytes, 7 * 1024);
	ck_assert_uint_eq(s.of[DISK_STATS_WRITE].bytes, 3 * 512);
	ck_assert_uint_eq(s.of[DISK_STATS_FLUSH].ops, 2);
	ck_assert_uint_eq(s.of[DISK_STATS_FLUSH].bytes, 0);
	ck_assert_uint_eq(s.of[DISK_STATS_DISCARD].bytes, 4096);
	ck_assert_uint_eq(s.of[DISK_STATS_ZEROES].errors, 4);
	ck_assert_uint_eq(s.of[DISK_STATS_ZEROES].bytes, 0);
	for (unsigned k = 0; k < DISK_STATS_KINDS; k++)
		ck_assert_uint_eq(in_buckets(&s.of[k]), s.of[k].ops);
	ck_assert_uint_eq(s.under_way, 0);
	close_all();
}
END_TEST

START_TEST(time_goes_into_its_bucket)
{
	struct disk_stats s;

	loop = loop_new();
	below = instant_new();
	disk = disk_stats_new(&below->disk);
	over = wanted = 0;
	below->hold = true;
	submit(DISK_READ, 1, 512);
	disk_stats_get(disk, &s);
	ck_assert_uint_eq(s.under_way, 1);
	g_usleep(40000);
	below->held->done(below->held, 0);
	disk_stats_get(disk, &s);
	ck_assert_uint_eq(s.under_way, 0);
	ck_assert_uint_ge(s.of[DISK_STATS_READ].time_ns, 40000000);
	/* 2^25 ns are 34 ms */
	for (unsigned i = 0; i < 25; i++)
		ck_assert_uint_eq(s.of[DISK_STATS_READ].buckets[i], 0);
	ck_assert_uint_eq(in_buckets(&s.of[DISK_STATS_READ]), 1);
	close_all();
}
END_TEST

int main(void)
{
	TCase *tc = tcase_create("filters");
	Suite *suite = suite_create("disk filters");
	SRunner *runner;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, keeps_the_average);
	tcase_add_test(tc, counts_bytes);
	tcase_add_test(tc, bursts_are_limited);
	tcase_add_test(tc, long_bursts_have_a_rate);
	tcase_add_test(tc, large_requests_count_more);
	tcase_add_test(tc, who_drains_does_not_wait);
	tcase_add_test(tc, order_is_kept);
	tcase_add_test(tc, a_new_size_is_seen_on_top);
	tcase_add_test(tc, flushes_behind_each_change_are_kept);
	tcase_add_test(tc, counts_what_is_done);
	tcase_add_test(tc, time_goes_into_its_bucket);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
