// SPDX-License-Identifier: Apache-2.0
/* threads.c - two threads on two processors, against one that does the work of both. */
#include <pthread.h>
#include <unistd.h>

#include "programs.h"

#define WORK 40000000u
#define TURNS 4000000u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t shared;

static void *alone(void *arg)
{
	uint64_t x = 88172645463325252ull + (uintptr_t)arg;

	for (unsigned i = 0; i < WORK; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	program_sink = x;
	return NULL;
}

/* Some work of its own, then some under a lock that the other wants too. */
static void *locked(void *arg)
{
	uint64_t x = 1 + (uintptr_t)arg;

	for (unsigned i = 0; i < TURNS / 64; i++) {
		for (int j = 0; j < 600; j++)
			x = x * 6364136223846793005ull + 1442695040888963407ull;
		pthread_mutex_lock(&lock);
		shared += x >> 60;
		pthread_mutex_unlock(&lock);
	}
	program_sink = shared;
	return NULL;
}

static void run(void *(*work)(void *), int at_once)
{
	pthread_t other;

	if (at_once && pthread_create(&other, NULL, work, (void *)1) == 0) {
		work(NULL);
		pthread_join(other, NULL);
		return;
	}
	work(NULL);
	work((void *)1);
}

static void alone_serial(void)
{
	run(alone, 0);
}

static void alone_two(void)
{
	run(alone, 1);
}

static void locked_serial(void)
{
	run(locked, 0);
}

static void locked_two(void)
{
	run(locked, 1);
}

const struct program programs_threads[] = {
	{ "independent-serial", alone_serial },
	{ "independent-two", alone_two },
	{ "locked-serial", locked_serial },
	{ "locked-two", locked_two },
	{ 0 },
};
