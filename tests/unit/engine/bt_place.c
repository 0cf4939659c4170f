// SPDX-License-Identifier: Apache-2.0
/* bt_place.c - on which processors of the host the threads of vCPUs with runners are. */
#include <check.h>
#include <sched.h>
#include <stdlib.h>

#include "base/bits.h"
#include "engine/bt/bt_int.h"

/* Both vCPUs are this one thread's, in turn. */
static struct bt_engine engine;
static struct bt_vcpu *vcpu[2];
static struct bt_runner runner; /* pid 0: it is this thread, too */
static cpu_set_t before;

static void set_up(void)
{
	engine = (struct bt_engine){ .vcpu_count = 2 };
	for (unsigned i = 0; i < 2; i++) {
		vcpu[i] = calloc(1, sizeof(*vcpu[i]));
		vcpu[i]->base.engine = &engine.base;
		ck_assert(bt_user_place_init(&vcpu[i]->user));
	}
	runner = (struct bt_runner){ .cpu = -1 };
	ck_assert_int_eq(sched_getaffinity(0, sizeof(before), &before), 0);
}

static void tear_down(void)
{
	for (unsigned i = 0; i < 2; i++) {
		bt_user_unbind(vcpu[i]);
		bt_user_place_fini(vcpu[i]);
		free(vcpu[i]);
	}
	(void)sched_setaffinity(0, sizeof(before), &before);
}

static int bound_to(unsigned i)
{
	cpu_set_t set;

	bt_user_bind(vcpu[i], &runner);
	ck_assert(vcpu[i]->user.bound);
	ck_assert_int_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	ck_assert_int_eq(CPU_COUNT(&set), 1);
	ck_assert(CPU_ISSET(vcpu[i]->user.bound_cpu, &set));
	return vcpu[i]->user.bound_cpu;
}

/* As a thread of another vCPU begins: where it happens to be, that is where the first one is bound. */
static void be_another(void)
{
	ck_assert_int_eq(sched_setaffinity(0, sizeof(before), &before), 0);
}

START_TEST(two_are_not_bound_to_one_processor)
{
	int first, second;

	if (CPU_COUNT(&before) < 2)
		return;
	for (int i = 0; i < 100; i++) {
		first = bound_to(0);
		be_another();
		second = bound_to(1);
		ck_assert_int_ne(first, second);
		bt_user_unbind(vcpu[1]);
		be_another();
		bt_user_unbind(vcpu[0]);
		for (size_t w = 0; w < ARRAY_SIZE(engine.user_cpus); w++)
			ck_assert_uint_eq(engine.user_cpus[w], 0);
	}
}
END_TEST

/* A user's pinning counts for more: there are threads that share a processor because they were told to. */
START_TEST(pinned_threads_stay)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
	ck_assert_int_eq(bound_to(0), cpu);
	ck_assert_int_eq(bound_to(1), cpu);
	bt_user_unbind(vcpu[1]);
	ck_assert_uint_ne(engine.user_cpus[cpu / 64], 0); /* still the first one's */
	bt_user_unbind(vcpu[0]);
	ck_assert_uint_eq(engine.user_cpus[cpu / 64], 0);
}
END_TEST

START_TEST(ended_vcpu_leaves_its_processor)
{
	int cpu = bound_to(0);

	bt_user_place_fini(vcpu[0]);
	ck_assert_uint_eq(engine.user_cpus[cpu / 64], 0);
	ck_assert(bt_user_place_init(&vcpu[0]->user));
	vcpu[0]->user.bound = false;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("bt place");
	TCase *c = tcase_create("place");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(c, set_up, tear_down);
	tcase_add_test(c, two_are_not_bound_to_one_processor);
	tcase_add_test(c, pinned_threads_stay);
	tcase_add_test(c, ended_vcpu_leaves_its_processor);
	suite_add_tcase(suite, c);
	r = srunner_create(suite);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
