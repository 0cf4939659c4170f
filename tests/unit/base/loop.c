// SPDX-License-Identifier: Apache-2.0
/* loop.c - tests of the event loop and of the machine's clock on top of it. */
#include "base/loop.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/vclock.h"

#define MS 1000000ull

static struct loop *loop;
static pthread_t thread;
static atomic_int hits;

static void *loop_main(void *arg)
{
	loop_run(loop);
	return NULL;
}

static void thread_start(void)
{
	ck_assert_int_eq(pthread_create(&thread, NULL, loop_main, NULL), 0);
}

static void thread_stop(void)
{
	loop_stop(loop);
	pthread_join(thread, NULL);
}

static void setup(void)
{
	loop = loop_new();
	ck_assert_ptr_nonnull(loop);
	atomic_store(&hits, 0);
}

static void teardown(void)
{
	loop_free(loop);
}

static void hit(void *arg)
{
	atomic_fetch_add(&hits, 1);
}

static void stop(void *arg)
{
	loop_stop(loop);
}

/* Orders of timers are written down as digits. */
static void digit(void *arg)
{
	atomic_store(&hits, atomic_load(&hits) * 10 + (int)(intptr_t)arg);
}

START_TEST(fires_timers_in_order_of_deadline)
{
	static const int order[] = {4, 1, 3, 2, 5};
	uint64_t now = loop_now_ns();
	struct loop_timer *timers[5], *end = loop_timer_new(loop, stop, NULL);

	for (int i = 0; i < 5; i++) {
		timers[i] = loop_timer_new(loop, digit, (void *)(intptr_t)order[i]);
		loop_timer_arm(timers[i], now + (uint64_t)order[i] * MS);
	}
	loop_timer_disarm(timers[2]);
	loop_timer_arm(end, now + 8 * MS);
	loop_run(loop);
	ck_assert_int_eq(atomic_load(&hits), 1245);
	ck_assert_uint_ge(loop_now_ns(), now + 8 * MS);
	for (int i = 0; i < 5; i++)
		loop_timer_free(timers[i]);
	loop_timer_free(end);
}
END_TEST

START_TEST(moves_a_deadline_both_ways)
{
	struct loop_timer *t = loop_timer_new(loop, stop, NULL);
	uint64_t now = loop_now_ns();

	loop_timer_arm(t, now + 3600000 * MS);
	loop_timer_arm(t, now + MS);
	loop_timer_arm(t, now + 5 * MS);
	loop_run(loop);
	ck_assert_uint_ge(loop_now_ns(), now + 5 * MS);
	loop_timer_arm(t, 0); /* long past */
	loop_run(loop);
	loop_timer_free(t);
}
END_TEST

static struct loop_timer *own;

static void free_own(void *arg)
{
	loop_timer_arm(own, loop_now_ns());
	loop_timer_free(own);
	atomic_fetch_add(&hits, 1);
}

START_TEST(frees_a_timer_in_its_callback)
{
	struct loop_timer *end = loop_timer_new(loop, stop, NULL);

	own = loop_timer_new(loop, free_own, NULL);
	loop_timer_arm(own, loop_now_ns());
	loop_timer_arm(end, loop_now_ns() + 3 * MS);
	loop_run(loop);
	ck_assert_int_eq(atomic_load(&hits), 1);
	loop_timer_free(end);
}
END_TEST

START_TEST(wakes_for_a_timer_armed_by_another_thread)
{
	struct loop_timer *t = loop_timer_new(loop, hit, NULL);

	thread_start();
	for (int i = 1; i <= 20; i++) {
		loop_timer_arm(t, loop_now_ns() + MS / 2);
		while (atomic_load(&hits) < i)
			usleep(100);
	}
	/* Waits for a callback under way. */
	loop_timer_arm(t, loop_now_ns());
	loop_timer_free(t);
	thread_stop();
}
END_TEST

START_TEST(runs_posts_in_order_and_calls_to_the_end)
{
	loop_post(loop, digit, (void *)1);
	thread_start();
	while (!atomic_load(&hits))
		usleep(100);
	loop_post(loop, digit, (void *)2);
	loop_call(loop, digit, (void *)3);
	ck_assert_int_eq(atomic_load(&hits), 123);
	thread_stop();
	loop_call(loop, digit, (void *)4); /* nobody runs it: at once */
	ck_assert_int_eq(atomic_load(&hits), 1234);
}
END_TEST

static void *caller(void *arg)
{
	for (int i = 0; i < 200; i++)
		loop_call(loop, hit, NULL);
	return NULL;
}

START_TEST(leaves_no_caller_waiting_when_it_stops)
{
	pthread_t callers[3];

	thread_start();
	for (int i = 0; i < 3; i++)
		pthread_create(&callers[i], NULL, caller, NULL);
	usleep(1000);
	thread_stop();
	for (int i = 0; i < 3; i++)
		pthread_join(callers[i], NULL);
	ck_assert_int_eq(atomic_load(&hits), 600);
}
END_TEST

static struct loop_fd *watches[2];

/* Whichever comes first removes both; the other must not be called. */
static void remove_both(void *arg, uint32_t events)
{
	ck_assert_uint_eq(events & EPOLLIN, EPOLLIN);
	atomic_fetch_add(&hits, 1);
	loop_fd_remove(watches[0]);
	loop_fd_remove(watches[1]);
	loop_stop(loop);
}

START_TEST(removes_a_watch_whose_event_is_in_hand)
{
	int pipes[2][2];

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(pipe(pipes[i]), 0);
		ck_assert_int_eq(write(pipes[i][1], "x", 1), 1);
		watches[i] = loop_fd_add(loop, pipes[i][0], EPOLLIN, remove_both, NULL);
		ck_assert_ptr_nonnull(watches[i]);
	}
	loop_run(loop);
	ck_assert_int_eq(atomic_load(&hits), 1);
	ck_assert_ptr_null(loop_fd_add(loop, 9999, EPOLLIN, remove_both, NULL));
	for (int i = 0; i < 4; i++)
		close(pipes[i / 2][i % 2]);
}
END_TEST

static struct loop_task task;

static void again(void *arg)
{
	atomic_fetch_add(&hits, 1);
	if (atomic_load(&hits) < 5)
		loop_soon(loop, &task);
}

static void ask_twice(void *arg)
{
	loop_soon(loop, &task);
	loop_soon(loop, &task);
	*(int *)arg = atomic_load(&hits);
}

/* A task runs once behind the callback that asked, also where it asks for itself again and nothing
 * else happens; one that was taken back does not. */
START_TEST(runs_tasks_behind_the_callback)
{
	int seen = -1;

	task = (struct loop_task){.fn = hit};
	thread_start();
	loop_call(loop, ask_twice, &seen);
	ck_assert_int_eq(seen, 0);
	loop_call(loop, ask_twice, &seen);
	ck_assert_int_eq(seen, 1);
	thread_stop();
	ck_assert_int_eq(atomic_load(&hits), 2);
	loop_call(loop, ask_twice, &seen); /* without a thread */
	ck_assert_int_eq(atomic_load(&hits), 3);
	loop_soon(loop, &task);
	loop_soon_cancel(loop, &task);
	loop_soon_cancel(loop, &task);
	atomic_store(&hits, 0);
	task.fn = again;
	thread_start();
	loop_call(loop, ask_twice, &seen);
	for (unsigned i = 0; i < 5000 && atomic_load(&hits) < 5; i++)
		usleep(1000);
	thread_stop();
	ck_assert_int_eq(atomic_load(&hits), 5);
}
END_TEST

START_TEST(manual_clock_fires_in_order)
{
	struct vclock *clock = vclock_new_manual();
	struct vtimer *a = vtimer_new(clock, digit, (void *)1);
	struct vtimer *b = vtimer_new(clock, digit, (void *)2);

	vtimer_arm(a, 200);
	vtimer_arm(b, 100);
	vclock_advance(clock, 99);
	ck_assert_int_eq(atomic_load(&hits), 0);
	vclock_advance(clock, 101);
	ck_assert_int_eq(atomic_load(&hits), 21);
	ck_assert_uint_eq(vclock_now_ns(clock), 200);
	vtimer_free(a);
	vtimer_free(b);
	vclock_free(clock);
}
END_TEST

START_TEST(paused_clock_stands_still_and_fires_later)
{
	struct vclock *clock = vclock_new(loop);
	struct vtimer *t = vtimer_new(clock, hit, NULL);
	uint64_t at;

	thread_start();
	vtimer_arm(t, vclock_now_ns(clock) + 5 * MS);
	vclock_pause(clock);
	at = vclock_now_ns(clock);
	usleep(10000);
	ck_assert_uint_eq(vclock_now_ns(clock), at);
	ck_assert_int_eq(atomic_load(&hits), 0);
	vclock_resume(clock);
	ck_assert_uint_lt(vclock_now_ns(clock) - at, 1000 * MS);
	while (!atomic_load(&hits))
		usleep(100);
	ck_assert_uint_ge(vclock_now_ns(clock), at);
	vtimer_free(t);
	thread_stop();
	vclock_free(clock);
}
END_TEST

static void wait_hits(int n)
{
	while (atomic_load(&hits) < n)
		usleep(100);
}

/* Each arming fires once, not before its time, however it was moved. */
START_TEST(a_timer_with_its_own_descriptor_is_moved_both_ways)
{
	struct vclock *clock = vclock_new(loop);
	struct vtimer *t = vtimer_new_own(clock, hit, NULL);
	uint64_t at;

	vtimer_arm(t, 0); /* past, before anybody runs the loop */
	thread_start();
	wait_hits(1);
	vtimer_arm(t, at = vclock_now_ns(clock) + 3 * MS);
	vtimer_arm(t, at += 5 * MS);
	wait_hits(2);
	ck_assert_uint_ge(vclock_now_ns(clock), at);
	vtimer_arm(t, vclock_now_ns(clock) + 100000 * MS);
	vtimer_arm(t, at = vclock_now_ns(clock) + 2 * MS);
	wait_hits(3);
	ck_assert_uint_ge(vclock_now_ns(clock), at);
	vtimer_arm(t, vclock_now_ns(clock) + 2 * MS);
	vtimer_disarm(t);
	usleep(5000);
	ck_assert_int_eq(atomic_load(&hits), 3);
	vtimer_arm(t, at = vclock_now_ns(clock) + 3 * MS);
	vclock_pause(clock);
	usleep(6000);
	ck_assert_int_eq(atomic_load(&hits), 3);
	vclock_resume(clock);
	wait_hits(4);
	ck_assert_uint_ge(vclock_now_ns(clock), at);
	for (int i = 0; i < 2000; i++)
		vtimer_arm(t, vclock_now_ns(clock) + (uint64_t)(i * 7919 % 200) * 1000);
	vtimer_arm(t, vclock_now_ns(clock));
	thread_stop();
	atomic_store(&hits, 0);
	vtimer_arm(t, 0);
	thread_start();
	wait_hits(1);
	thread_stop();
	vtimer_free(t);
	vclock_free(clock);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("loop");
	TCase *t = tcase_create("loop");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, fires_timers_in_order_of_deadline);
	tcase_add_test(t, moves_a_deadline_both_ways);
	tcase_add_test(t, frees_a_timer_in_its_callback);
	tcase_add_test(t, wakes_for_a_timer_armed_by_another_thread);
	tcase_add_test(t, runs_posts_in_order_and_calls_to_the_end);
	tcase_add_test(t, leaves_no_caller_waiting_when_it_stops);
	tcase_add_test(t, removes_a_watch_whose_event_is_in_hand);
	tcase_add_test(t, runs_tasks_behind_the_callback);
	tcase_add_test(t, manual_clock_fires_in_order);
	tcase_add_test(t, paused_clock_stands_still_and_fires_later);
	tcase_add_test(t, a_timer_with_its_own_descriptor_is_moved_both_ways);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
