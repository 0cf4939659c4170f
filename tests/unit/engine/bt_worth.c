// SPDX-License-Identifier: Apache-2.0
/*
 * bt_worth.c - who executes user code of a program that enters it more or less often: runner or translator.
 */
#include <check.h>
#include <stdlib.h>
#include <time.h>

#include "engine/bt/bt_int.h"

#define TICK_NS 4000000u
#define MANY 100000u /* entries: more than any pause */

static struct bt_runner runner;
static uint64_t now_ns;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

/* Linked in place of clock_gettime(2): a program takes the time that a test gives it. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	*ts = (struct timespec){ (time_t)(now_ns / 1000000000u), (long)(now_ns % 1000000000u) };
	return 0;
}

static void set_up(void)
{
	now_ns = 1000000000;
	runner = (struct bt_runner){ 0 };
	bt_worth_begin(&runner);
}

/* A program is executed until @entries of user code are over; each takes what the one takes who executes it. A timer
 * interrupt comes every TICK_NS. How many were the runner's. */
static unsigned run(unsigned entries, uint64_t runner_ns, uint64_t translator_ns)
{
	unsigned count = 0;
	bool runners;

	for (unsigned i = 0; i < entries; i++) {
		uint64_t end;

		runners = bt_worth_entered(&runner, true);
		count += runners;
		end = now_ns + (runners ? runner_ns : translator_ns);
		while (now_ns / TICK_NS < end / TICK_NS) {
			now_ns = (now_ns / TICK_NS + 1) * TICK_NS;
			ck_assert(bt_worth_tick(&runner, false));
		}
		now_ns = end;
	}
	return count;
}

START_TEST(test_far_apart_is_not_tried)
{
	ck_assert_uint_eq(run(10000, 400000, 1), 10000);
}
END_TEST

START_TEST(test_slower_translator_has_little)
{
	unsigned count = run(MANY, 100000, 700000);

	ck_assert_uint_gt(count, MANY - MANY / 100);
	ck_assert_uint_lt(count, MANY);
}
END_TEST

START_TEST(test_faster_translator_has_nearly_all)
{
	unsigned count = run(MANY, 50000, 20000);

	ck_assert_uint_gt(count, 0);
	ck_assert_uint_lt(count, MANY / 20);
}
END_TEST

/* What is equal but for noise stays where it is. */
START_TEST(test_equal_stays)
{
	ck_assert_uint_gt(run(MANY, 100000, 95000), MANY - MANY / 50);
}
END_TEST

/* The translator had won: a program that computes now is the runner's within some milliseconds. */
START_TEST(test_program_that_changes)
{
	uint64_t since;

	run(MANY, 50000, 20000);
	since = now_ns;
	run(1, 100000000, 100000000);
	ck_assert_uint_ge(run(1, 1, 1), 1);
	ck_assert_uint_le(now_ns - since, 120000000);
	/* And back, when it is as before. */
	ck_assert_uint_lt(run(MANY, 50000, 20000), MANY / 10);
}
END_TEST

/* Much slower now than while it won: its trials of the runner find out. */
START_TEST(test_translator_loses_again)
{
	run(MANY, 50000, 20000);
	run(MANY, 100000, 290000);
	ck_assert_uint_gt(run(10000, 100000, 290000), 9000);
}
END_TEST

/* A trial that does not come to its end costs little. */
START_TEST(test_long_trial_ends)
{
	uint64_t since;

	run(256 * 2, 100000, 0);
	since = now_ns;
	ck_assert(!bt_worth_entered(&runner, true));
	for (unsigned i = 0; i < 10; i++) {
		now_ns += TICK_NS;
		ck_assert(bt_worth_tick(&runner, false));
		if (bt_worth_entered(&runner, false))
			break;
	}
	ck_assert_uint_le(now_ns - since, 20000000);
}
END_TEST

/* Stops that leave no time to compute need no trial. */
START_TEST(test_stops_too_close)
{
	unsigned stops = 0;

	while (bt_worth_stopped(&runner) && stops < 1000)
		stops++;
	ck_assert_uint_lt(stops, 1000);
	ck_assert(!bt_worth_entered(&runner, true));
}
END_TEST

/* The translator stands in for a runner nearly always: that is not for trials to find out. */
START_TEST(test_paused_is_given_up)
{
	unsigned ticks = 0;

	while (bt_worth_tick(&runner, true) && ticks < 100)
		ticks++;
	ck_assert_uint_lt(ticks, 20);
	bt_worth_begin(&runner);
	for (ticks = 0; ticks < 1000; ticks++)
		ck_assert(bt_worth_tick(&runner, ticks % 4 == 0));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("bt_worth");
	TCase *tests = tcase_create("worth");
	SRunner *srunner;
	int failed;

	tcase_add_checked_fixture(tests, set_up, NULL);
	tcase_add_test(tests, test_far_apart_is_not_tried);
	tcase_add_test(tests, test_slower_translator_has_little);
	tcase_add_test(tests, test_faster_translator_has_nearly_all);
	tcase_add_test(tests, test_equal_stays);
	tcase_add_test(tests, test_program_that_changes);
	tcase_add_test(tests, test_translator_loses_again);
	tcase_add_test(tests, test_long_trial_ends);
	tcase_add_test(tests, test_stops_too_close);
	tcase_add_test(tests, test_paused_is_given_up);
	suite_add_tcase(suite, tests);
	srunner = srunner_create(suite);
	srunner_run_all(srunner, CK_ENV);
	failed = srunner_ntests_failed(srunner);
	srunner_free(srunner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
