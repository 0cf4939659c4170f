// SPDX-License-Identifier: Apache-2.0
/*
 * vclock.c - the machine's clock, host time minus the time spent paused, and its timers.
 *
 * offset and frozen change together under a generation counter (odd while changing), so that
 * reading the clock takes no lock. Lock order: clock->lock, timer->lock, the loop's.
 *
 * A timer goes by one of the loop's timers, or by a timerfd of its own. That is only ever programmed towards
 * an earlier deadline, as the loop's is: moved to a later one it fires too early once, finds nothing due and
 * is programmed again, so that arming is seldom a system call.
 */
#include "vclock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/loop.h"

#define RUNNING UINT64_MAX
#define NEVER	UINT64_MAX

struct vtimer {
	struct vclock *clock;
	vtimer_fn fn;
	void *arg;
	struct loop_timer *loop_timer; /* NULL on a manual clock, and with a descriptor */
	int fd;			       /* -1: none */
	struct loop_fd *watch;	       /* of fd */
	struct vtimer *next;	       /* clock->lock */

	pthread_mutex_t lock; /* what follows */
	bool armed;
	uint64_t deadline_ns;
	uint64_t programmed_ns; /* what fd is set to, of the host's time */
};

struct vclock {
	struct loop *loop; /* NULL: manual */
	atomic_uint generation;
	_Atomic uint64_t offset_ns; /* host time at the clock's zero */
	_Atomic uint64_t frozen_ns; /* what a paused or manual clock shows; RUNNING else */

	pthread_mutex_t lock; /* timers */
	struct vtimer *timers;
};

static struct vclock *clock_alloc(struct loop *loop)
{
	struct vclock *clock = calloc(1, sizeof(*clock));

	if (!clock)
		return NULL;
	clock->loop = loop;
	pthread_mutex_init(&clock->lock, NULL);
	return clock;
}

struct vclock *vclock_new(struct loop *loop)
{
	struct vclock *clock = clock_alloc(loop);

	if (!clock)
		return NULL;
	atomic_store(&clock->offset_ns, loop_now_ns());
	atomic_store(&clock->frozen_ns, RUNNING);
	return clock;
}

struct vclock *vclock_new_manual(void)
{
	return clock_alloc(NULL);
}

void vclock_free(struct vclock *clock)
{
	if (!clock)
		return;
	pthread_mutex_destroy(&clock->lock);
	free(clock);
}

uint64_t vclock_now_ns(struct vclock *clock)
{
	unsigned before, after;
	uint64_t now, frozen;

	do {
		before = atomic_load(&clock->generation);
		frozen = atomic_load(&clock->frozen_ns);
		now = frozen == RUNNING ? loop_now_ns() - atomic_load(&clock->offset_ns) : frozen;
		after = atomic_load(&clock->generation);
	} while ((before & 1) || before != after);
	return now;
}

static void state_set(struct vclock *clock, uint64_t frozen_ns, uint64_t offset_ns)
{
	atomic_fetch_add(&clock->generation, 1);
	atomic_store(&clock->frozen_ns, frozen_ns);
	atomic_store(&clock->offset_ns, offset_ns);
	atomic_fetch_add(&clock->generation, 1);
}

/* timer->lock held. */
static void timer_fd_program(struct vtimer *timer, uint64_t ns)
{
	struct itimerspec its = {
		.it_value.tv_sec = (time_t)(ns / 1000000000ull),
		/* All zeros would disarm. */
		.it_value.tv_nsec = ns ? (long)(ns % 1000000000ull) : 1,
	};

	if (ns >= timer->programmed_ns)
		return;
	timer->programmed_ns = ns;
	(void)timerfd_settime(timer->fd, TFD_TIMER_ABSTIME, &its, NULL);
}

/* timer->lock held. A paused clock arms nothing: vclock_resume() will. */
static void timer_arm_host(struct vtimer *timer)
{
	struct vclock *clock = timer->clock;
	uint64_t offset, ns;

	if ((!timer->loop_timer && timer->fd < 0) || atomic_load(&clock->frozen_ns) != RUNNING)
		return;
	offset = atomic_load(&clock->offset_ns);
	ns = timer->deadline_ns > INT64_MAX - offset ? INT64_MAX : timer->deadline_ns + offset;
	if (timer->loop_timer)
		loop_timer_arm(timer->loop_timer, ns);
	else
		timer_fd_program(timer, ns);
}

void vclock_pause(struct vclock *clock)
{
	if (atomic_load(&clock->frozen_ns) != RUNNING)
		return;
	state_set(clock, vclock_now_ns(clock), 0);
}

void vclock_resume(struct vclock *clock)
{
	uint64_t frozen = atomic_load(&clock->frozen_ns);

	if (!clock->loop || frozen == RUNNING)
		return;
	state_set(clock, RUNNING, loop_now_ns() - frozen);
	pthread_mutex_lock(&clock->lock);
	for (struct vtimer *t = clock->timers; t; t = t->next) {
		pthread_mutex_lock(&t->lock);
		if (t->armed)
			timer_arm_host(t);
		pthread_mutex_unlock(&t->lock);
	}
	pthread_mutex_unlock(&clock->lock);
}

void vclock_set(struct vclock *clock, uint64_t now_ns)
{
	if (atomic_load(&clock->frozen_ns) != RUNNING)
		state_set(clock, now_ns, 0);
}

/* The armed timer with the earliest deadline not after @limit_ns, disarmed; or NULL. */
static struct vtimer *take_due(struct vclock *clock, uint64_t limit_ns, uint64_t *ret_deadline)
{
	struct vtimer *best = NULL;

	pthread_mutex_lock(&clock->lock);
	for (struct vtimer *t = clock->timers; t; t = t->next) {
		pthread_mutex_lock(&t->lock);
		if (t->armed && t->deadline_ns <= limit_ns &&
		    (!best || t->deadline_ns < *ret_deadline)) {
			best = t;
			*ret_deadline = t->deadline_ns;
		}
		pthread_mutex_unlock(&t->lock);
	}
	if (best) {
		pthread_mutex_lock(&best->lock);
		best->armed = false;
		pthread_mutex_unlock(&best->lock);
	}
	pthread_mutex_unlock(&clock->lock);
	return best;
}

uint64_t vclock_next_ns(struct vclock *clock)
{
	uint64_t next = UINT64_MAX;

	pthread_mutex_lock(&clock->lock);
	for (struct vtimer *t = clock->timers; t; t = t->next) {
		pthread_mutex_lock(&t->lock);
		if (t->armed && t->deadline_ns < next)
			next = t->deadline_ns;
		pthread_mutex_unlock(&t->lock);
	}
	pthread_mutex_unlock(&clock->lock);
	return next;
}

void vclock_advance(struct vclock *clock, uint64_t ns)
{
	uint64_t end = atomic_load(&clock->frozen_ns) + ns;
	uint64_t deadline = 0;
	struct vtimer *timer;

	while ((timer = take_due(clock, end, &deadline))) {
		if (deadline > atomic_load(&clock->frozen_ns))
			atomic_store(&clock->frozen_ns, deadline);
		timer->fn(timer->arg);
	}
	atomic_store(&clock->frozen_ns, end);
}

/* In the loop's thread. The timer may be freed by its function. */
static void timer_fired(void *arg)
{
	struct vtimer *timer = arg;
	bool due = false;

	pthread_mutex_lock(&timer->lock);
	if (timer->armed && atomic_load(&timer->clock->frozen_ns) == RUNNING) {
		due = timer->deadline_ns <= vclock_now_ns(timer->clock);
		if (due)
			timer->armed = false;
		else
			timer_arm_host(timer);
	}
	pthread_mutex_unlock(&timer->lock);
	if (due)
		timer->fn(timer->arg);
}

/* In the loop's thread. What it was set to has come, or somebody has just set it to what is yet to come. */
static void timer_fd_fired(void *arg, uint32_t events)
{
	struct vtimer *timer = arg;
	uint64_t times;
	ssize_t n;

	pthread_mutex_lock(&timer->lock);
	n = read(timer->fd, &times, sizeof(times));
	(void)n; /* EAGAIN: set anew meanwhile */
	timer->programmed_ns = NEVER;
	pthread_mutex_unlock(&timer->lock);
	timer_fired(timer);
}

static void timer_fd_open(struct vtimer *timer)
{
	timer->programmed_ns = NEVER;
	timer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer->fd < 0)
		return;
	timer->watch = loop_fd_add(timer->clock->loop, timer->fd, EPOLLIN, timer_fd_fired, timer);
	if (!timer->watch) {
		close(timer->fd);
		timer->fd = -1;
	}
}

static struct vtimer *timer_new(struct vclock *clock, vtimer_fn fn, void *arg, bool own)
{
	struct vtimer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return NULL;
	timer->clock = clock;
	timer->fn = fn;
	timer->arg = arg;
	timer->fd = -1;
	pthread_mutex_init(&timer->lock, NULL);
	if (clock->loop && own)
		timer_fd_open(timer);
	if (clock->loop && timer->fd < 0) {
		timer->loop_timer = loop_timer_new(clock->loop, timer_fired, timer);
		if (!timer->loop_timer) {
			pthread_mutex_destroy(&timer->lock);
			free(timer);
			return NULL;
		}
	}
	pthread_mutex_lock(&clock->lock);
	timer->next = clock->timers;
	clock->timers = timer;
	pthread_mutex_unlock(&clock->lock);
	return timer;
}

struct vtimer *vtimer_new(struct vclock *clock, vtimer_fn fn, void *arg)
{
	return timer_new(clock, fn, arg, false);
}

struct vtimer *vtimer_new_own(struct vclock *clock, vtimer_fn fn, void *arg)
{
	return timer_new(clock, fn, arg, true);
}

void vtimer_free(struct vtimer *timer)
{
	struct vclock *clock;

	if (!timer)
		return;
	clock = timer->clock;
	pthread_mutex_lock(&clock->lock);
	for (struct vtimer **p = &clock->timers; *p; p = &(*p)->next) {
		if (*p == timer) {
			*p = timer->next;
			break;
		}
	}
	pthread_mutex_unlock(&clock->lock);
	loop_timer_free(timer->loop_timer);
	loop_fd_remove(timer->watch);
	if (timer->fd >= 0)
		close(timer->fd);
	pthread_mutex_destroy(&timer->lock);
	free(timer);
}

void vtimer_arm(struct vtimer *timer, uint64_t deadline_ns)
{
	pthread_mutex_lock(&timer->lock);
	timer->armed = true;
	timer->deadline_ns = deadline_ns;
	timer_arm_host(timer);
	pthread_mutex_unlock(&timer->lock);
}

void vtimer_disarm(struct vtimer *timer)
{
	pthread_mutex_lock(&timer->lock);
	timer->armed = false;
	/* The host's timer is left alone: timer_fired() finds nothing to do, and the next
	 * arming usually comes before that. */
	pthread_mutex_unlock(&timer->lock);
}
