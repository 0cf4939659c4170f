// SPDX-License-Identifier: Apache-2.0
/* silence.c - how long drains wait for servers that say nothing. */
#include "disk/protocols/silence.h"

#include <check.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/loop.h"

#define MS	    1000000ull
#define PATIENCE_MS 4000u /* nobody waits for it; and the host has been up for longer than its tenfold */

static const struct disk disk = { .path = (char *)"far" };

START_TEST(nobody_to_hurry_is_waited_for_without_end)
{
	struct silence s = { 0 };

	silence_asked(&s);
	ck_assert_int_eq(silence_wait_ms(&s, &disk, loop_now_ns()), SILENCE_FOREVER);
}
END_TEST

START_TEST(patience_without_end_looks_again)
{
	struct disk_patience patience = { 0 };
	struct silence s = { .patience = &patience, .heard_ns = loop_now_ns() - 10 * 1000 * MS };
	uint64_t begin_ns = s.heard_ns;

	ck_assert_int_gt(silence_wait_ms(&s, &disk, begin_ns), 0);
	/* Another thread ends meanwhile. */
	atomic_store(&patience.ms, DISK_PATIENCE_END_MS);
	ck_assert_int_eq(silence_wait_ms(&s, &disk, begin_ns), 0);
}
END_TEST

START_TEST(a_silence_is_over_when_something_is_heard)
{
	struct disk_patience patience = { .ms = PATIENCE_MS };
	struct silence s = { .patience = &patience };
	uint64_t begin_ns = loop_now_ns();

	/* A time without a request is no silence. */
	s.heard_ns = begin_ns - 10 * 1000 * MS;
	silence_asked(&s);
	ck_assert_int_gt(silence_wait_ms(&s, &disk, begin_ns), 0);
	s.heard_ns -= (PATIENCE_MS + 1) * MS;
	ck_assert_int_eq(silence_wait_ms(&s, &disk, begin_ns), 0);
	silence_heard(&s);
	ck_assert_int_gt(silence_wait_ms(&s, &disk, begin_ns), 0);
}
END_TEST

START_TEST(who_was_given_up_has_no_second_chance_before_it_speaks)
{
	struct disk_patience patience = { .ms = PATIENCE_MS };
	struct silence s = { .patience = &patience };
	uint64_t begin_ns = loop_now_ns();

	silence_asked(&s);
	s.heard_ns -= (PATIENCE_MS + 1) * MS;
	silence_give_up(&s, &disk, 3);
	silence_asked(&s);
	ck_assert_int_eq(silence_wait_ms(&s, &disk, begin_ns), 0);
	silence_heard(&s);
	silence_asked(&s);
	ck_assert_int_gt(silence_wait_ms(&s, &disk, begin_ns), 0);
}
END_TEST

START_TEST(a_word_now_and_then_does_not_hold_it_up)
{
	struct disk_patience patience = { .ms = PATIENCE_MS };
	struct silence s = { .patience = &patience };

	silence_heard(&s);
	ck_assert_int_gt(silence_wait_ms(&s, &disk, loop_now_ns() - 11 * PATIENCE_MS * MS), 0);
	ck_assert_int_eq(silence_wait_ms(&s, &disk, loop_now_ns() - 13 * PATIENCE_MS * MS), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("disk silence");
	TCase *tc = tcase_create("silence");
	SRunner *runner = srunner_create(suite);
	int failed;

	log_set_level(LOG_LEVEL_ERROR);
	tcase_add_test(tc, nobody_to_hurry_is_waited_for_without_end);
	tcase_add_test(tc, patience_without_end_looks_again);
	tcase_add_test(tc, a_silence_is_over_when_something_is_heard);
	tcase_add_test(tc, who_was_given_up_has_no_second_chance_before_it_speaks);
	tcase_add_test(tc, a_word_now_and_then_does_not_hold_it_up);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
