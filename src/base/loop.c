// SPDX-License-Identifier: Apache-2.0
/*
 * loop.c - the event loop of an I/O thread: epoll, one timerfd under a deadline heap, an eventfd.
 *
 * Theory of operation. The heap of armed timers is guarded by timer_lock and may be changed by any
 * thread. One timerfd is programmed with the earliest deadline; whoever makes the earliest deadline
 * earlier reprograms it in place, which wakes the owner only when the time has come (a vCPU that
 * arms its APIC timer costs no context switch). Moving a deadline later leaves the timerfd alone:
 * the owner wakes once too early, finds nothing due and programs the next one.
 *
 * Messages are a list under post_lock; the eventfd is written by the one who makes it non-empty.
 *
 * Lock order: none of the two locks is held across a callback, nor one inside the other.
 */
#include "loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"

#define EVENTS_PER_WAIT 32
#define NOT_QUEUED	SIZE_MAX
#define NEVER		UINT64_MAX

struct loop_fd {
	struct loop *loop;
	int fd; /* borrowed */
	bool dead;
	loop_fd_fn fn;
	void *arg;
	struct loop_fd *next; /* in loop->watches or loop->graveyard */
};

struct loop_timer {
	struct loop *loop;
	loop_fn fn;
	void *arg;
	uint64_t deadline_ns;
	size_t heap_index; /* NOT_QUEUED when disarmed */
	bool freed_inside; /* by its own callback */
};

struct message {
	loop_fn fn;
	void *arg;
	bool *done; /* of loop_call(), under post_lock */
	struct message *next;
};

struct loop {
	int epoll_fd, timer_fd, event_fd;
	atomic_bool stop;

	/* Owner only. */
	struct loop_fd *watches;
	struct loop_fd *graveyard; /* removed, freed once the events in hand are through */
	struct loop_task *tasks, **tasks_tail;

	pthread_mutex_t timer_lock; /* the fields below, and every timer's */
	pthread_cond_t timer_idle;  /* running became NULL */
	struct loop_timer **heap;
	size_t heap_len, heap_room;
	size_t timer_count;	    /* existing timers; the heap always has room for them */
	uint64_t programmed_ns;	    /* what timer_fd is set to */
	struct loop_timer *running; /* whose callback is under way */

	pthread_mutex_t post_lock; /* the fields below */
	pthread_cond_t post_done;
	struct message *head, **tail;
	bool has_owner;
	pthread_t owner;
};

uint64_t loop_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void loop_wake(struct loop *loop)
{
	uint64_t one = 1;
	/* It can only fail with EAGAIN, when the counter is full: then the owner wakes anyway. */
	ssize_t n = write(loop->event_fd, &one, sizeof(one));

	(void)n;
}

static bool loop_is_owner(struct loop *loop)
{
	bool is;

	pthread_mutex_lock(&loop->post_lock);
	is = loop->has_owner && pthread_equal(loop->owner, pthread_self());
	pthread_mutex_unlock(&loop->post_lock);
	return is;
}

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

	if (!loop)
		return NULL;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	loop->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->programmed_ns = NEVER;
	loop->tail = &loop->head;
	loop->tasks_tail = &loop->tasks;
	pthread_mutex_init(&loop->timer_lock, NULL);
	pthread_cond_init(&loop->timer_idle, NULL);
	pthread_mutex_init(&loop->post_lock, NULL);
	pthread_cond_init(&loop->post_done, NULL);
	if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->event_fd < 0)
		goto err;
	/* Told apart from watches by these two addresses. Edge-triggered: neither needs a read. */
	ev.data.ptr = &loop->timer_fd;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->timer_fd, &ev) < 0)
		goto err;
	ev.data.ptr = &loop->event_fd;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->event_fd, &ev) < 0)
		goto err;
	return loop;
err:
	loop_free(loop);
	return NULL;
}

static void watches_free(struct loop_fd **list)
{
	while (*list) {
		struct loop_fd *watch = *list;

		*list = watch->next;
		free(watch);
	}
}

/* Messages that were never run are dropped: what they speak of may be gone. */
void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	while (loop->head) {
		struct message *m = loop->head;

		loop->head = m->next;
		free(m);
	}
	watches_free(&loop->watches);
	watches_free(&loop->graveyard);
	free(loop->heap);
	if (loop->event_fd >= 0)
		close(loop->event_fd);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_cond_destroy(&loop->post_done);
	pthread_mutex_destroy(&loop->post_lock);
	pthread_cond_destroy(&loop->timer_idle);
	pthread_mutex_destroy(&loop->timer_lock);
	free(loop);
}

/* Tasks. */

void loop_soon(struct loop *loop, struct loop_task *task)
{
	if (task->queued)
		return;
	task->queued = true;
	task->next = NULL;
	*loop->tasks_tail = task;
	loop->tasks_tail = &task->next;
}

void loop_soon_cancel(struct loop *loop, struct loop_task *task)
{
	struct loop_task **p = &loop->tasks;

	if (!task->queued)
		return;
	while (*p != task)
		p = &(*p)->next;
	*p = task->next;
	if (!*p)
		loop->tasks_tail = p;
	task->queued = false;
}

/* What tasks ask for comes behind the next callback, so that none keeps the loop to itself. */
static void tasks_run(struct loop *loop)
{
	unsigned n = 0;

	for (const struct loop_task *t = loop->tasks; t; t = t->next)
		n++;
	while (n-- > 0 && loop->tasks) {
		struct loop_task *task = loop->tasks;

		loop_soon_cancel(loop, task);
		task->fn(task->arg);
	}
}

/* Timers. */

static void heap_place(struct loop *loop, struct loop_timer *timer, size_t i)
{
	loop->heap[i] = timer;
	timer->heap_index = i;
}

static void heap_up(struct loop *loop, size_t i)
{
	struct loop_timer *timer = loop->heap[i];

	while (i > 0) {
		size_t parent = (i - 1) / 2;

		if (loop->heap[parent]->deadline_ns <= timer->deadline_ns)
			break;
		heap_place(loop, loop->heap[parent], i);
		i = parent;
	}
	heap_place(loop, timer, i);
}

static void heap_down(struct loop *loop, size_t i)
{
	struct loop_timer *timer = loop->heap[i];

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= loop->heap_len)
			break;
		if (child + 1 < loop->heap_len &&
		    loop->heap[child + 1]->deadline_ns < loop->heap[child]->deadline_ns)
			child++;
		if (timer->deadline_ns <= loop->heap[child]->deadline_ns)
			break;
		heap_place(loop, loop->heap[child], i);
		i = child;
	}
	heap_place(loop, timer, i);
}

static void heap_remove(struct loop *loop, struct loop_timer *timer)
{
	size_t i = timer->heap_index;
	struct loop_timer *last = loop->heap[--loop->heap_len];

	timer->heap_index = NOT_QUEUED;
	if (last == timer)
		return;
	heap_place(loop, last, i);
	heap_up(loop, i);
	heap_down(loop, last->heap_index);
}

/* timer_lock held. Only ever towards an earlier deadline, see the top of the file. */
static void timer_fd_program(struct loop *loop)
{
	uint64_t ns;
	struct itimerspec its = {0};

	if (loop->heap_len == 0)
		return;
	ns = loop->heap[0]->deadline_ns;
	if (ns >= loop->programmed_ns)
		return;
	loop->programmed_ns = ns;
	/* All zeros would disarm; a deadline in the past fires at once. */
	its.it_value.tv_sec = (time_t)(ns / 1000000000ull);
	its.it_value.tv_nsec = ns ? (long)(ns % 1000000000ull) : 1;
	(void)timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

struct loop_timer *loop_timer_new(struct loop *loop, loop_fn fn, void *arg)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));

	if (!timer)
		return NULL;
	timer->loop = loop;
	timer->fn = fn;
	timer->arg = arg;
	timer->heap_index = NOT_QUEUED;

	/* Room is made here, so that arming cannot fail. */
	pthread_mutex_lock(&loop->timer_lock);
	if (loop->timer_count == loop->heap_room) {
		size_t room = loop->heap_room ? loop->heap_room * 2 : 16;
		struct loop_timer **heap = realloc(loop->heap, room * sizeof(*heap));

		if (!heap) {
			pthread_mutex_unlock(&loop->timer_lock);
			free(timer);
			return NULL;
		}
		loop->heap = heap;
		loop->heap_room = room;
	}
	loop->timer_count++;
	pthread_mutex_unlock(&loop->timer_lock);
	return timer;
}

void loop_timer_free(struct loop_timer *timer)
{
	struct loop *loop;
	bool owner;

	if (!timer)
		return;
	loop = timer->loop;
	owner = loop_is_owner(loop);
	pthread_mutex_lock(&loop->timer_lock);
	if (timer->heap_index != NOT_QUEUED)
		heap_remove(loop, timer);
	if (loop->running == timer && owner) {
		timer->freed_inside = true;
		pthread_mutex_unlock(&loop->timer_lock);
		return;
	}
	while (loop->running == timer)
		pthread_cond_wait(&loop->timer_idle, &loop->timer_lock);
	/* The callback may have armed it again. */
	if (timer->heap_index != NOT_QUEUED)
		heap_remove(loop, timer);
	loop->timer_count--;
	pthread_mutex_unlock(&loop->timer_lock);
	free(timer);
}

void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns)
{
	struct loop *loop = timer->loop;

	/* What timerfd can express; some 290 years. */
	if (deadline_ns > INT64_MAX)
		deadline_ns = INT64_MAX;
	pthread_mutex_lock(&loop->timer_lock);
	timer->deadline_ns = deadline_ns;
	if (timer->heap_index == NOT_QUEUED)
		heap_place(loop, timer, loop->heap_len++);
	heap_up(loop, timer->heap_index);
	heap_down(loop, timer->heap_index);
	timer_fd_program(loop);
	pthread_mutex_unlock(&loop->timer_lock);
}

void loop_timer_disarm(struct loop_timer *timer)
{
	struct loop *loop = timer->loop;

	pthread_mutex_lock(&loop->timer_lock);
	if (timer->heap_index != NOT_QUEUED)
		heap_remove(loop, timer);
	pthread_mutex_unlock(&loop->timer_lock);
}

/* A timer that arms itself in the past from its callback runs in the next round: descriptors and
 * messages get their turn in between. */
static void timers_run(struct loop *loop)
{
	uint64_t now = loop_now_ns();

	pthread_mutex_lock(&loop->timer_lock);
	loop->programmed_ns = NEVER;
	for (size_t budget = loop->heap_len; budget > 0 && loop->heap_len > 0; budget--) {
		struct loop_timer *timer = loop->heap[0];

		if (timer->deadline_ns > now)
			break;
		heap_remove(loop, timer);
		loop->running = timer;
		pthread_mutex_unlock(&loop->timer_lock);
		timer->fn(timer->arg);
		tasks_run(loop);
		pthread_mutex_lock(&loop->timer_lock);
		loop->running = NULL;
		if (timer->freed_inside) {
			if (timer->heap_index != NOT_QUEUED)
				heap_remove(loop, timer);
			loop->timer_count--;
			free(timer);
		} else {
			pthread_cond_broadcast(&loop->timer_idle);
		}
	}
	/* A callback may have programmed it meanwhile: start from scratch. */
	loop->programmed_ns = NEVER;
	timer_fd_program(loop);
	pthread_mutex_unlock(&loop->timer_lock);
}

/* Messages. */

static void message_put(struct loop *loop, struct message *m)
{
	bool was_empty = !loop->head;

	m->next = NULL;
	*loop->tail = m;
	loop->tail = &m->next;
	if (was_empty)
		loop_wake(loop);
}

void loop_post(struct loop *loop, loop_fn fn, void *arg)
{
	struct message *m = malloc(sizeof(*m));

	if (!m)
		abort(); /* as GLib does: a lost message would hang the machine */
	*m = (struct message){.fn = fn, .arg = arg};
	pthread_mutex_lock(&loop->post_lock);
	message_put(loop, m);
	pthread_mutex_unlock(&loop->post_lock);
}

void loop_call(struct loop *loop, loop_fn fn, void *arg)
{
	bool done = false, is_owner;
	struct message m = {.fn = fn, .arg = arg, .done = &done};

	pthread_mutex_lock(&loop->post_lock);
	if (!loop->has_owner || pthread_equal(loop->owner, pthread_self())) {
		is_owner = loop->has_owner;
		pthread_mutex_unlock(&loop->post_lock);
		fn(arg);
		if (!is_owner)
			tasks_run(loop);
		return;
	}
	message_put(loop, &m);
	while (!done)
		pthread_cond_wait(&loop->post_done, &loop->post_lock);
	pthread_mutex_unlock(&loop->post_lock);
}

/* post_lock held, and released around each call. Runs what was queued at entry. */
static void messages_run(struct loop *loop)
{
	struct message *list = loop->head;

	loop->head = NULL;
	loop->tail = &loop->head;
	while (list) {
		struct message *m = list;
		bool *done = m->done;

		list = m->next;
		pthread_mutex_unlock(&loop->post_lock);
		m->fn(m->arg);
		tasks_run(loop);
		if (!done)
			free(m);
		pthread_mutex_lock(&loop->post_lock);
		if (done) {
			/* @m lives on the waiter's stack: not touched after this. */
			*done = true;
			pthread_cond_broadcast(&loop->post_done);
		}
	}
}

/* Descriptors. */

struct loop_fd *loop_fd_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *arg)
{
	struct loop_fd *watch = calloc(1, sizeof(*watch));
	struct epoll_event ev = {.events = events, .data.ptr = watch};

	if (!watch)
		return NULL;
	*watch = (struct loop_fd){.loop = loop, .fd = fd, .fn = fn, .arg = arg};
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		free(watch);
		return NULL;
	}
	watch->next = loop->watches;
	loop->watches = watch;
	return watch;
}

void loop_fd_modify(struct loop_fd *watch, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = watch};

	(void)epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev);
}

void loop_fd_remove(struct loop_fd *watch)
{
	struct loop *loop;

	if (!watch)
		return;
	loop = watch->loop;
	/* Fails when the descriptor was closed before; then epoll has forgotten it by itself. */
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	for (struct loop_fd **p = &loop->watches; *p; p = &(*p)->next) {
		if (*p == watch) {
			*p = watch->next;
			break;
		}
	}
	watch->dead = true;
	watch->next = loop->graveyard;
	loop->graveyard = watch;
}

static void events_run(struct loop *loop, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		struct loop_fd *watch = events[i].data.ptr;

		if (events[i].data.ptr == &loop->timer_fd || events[i].data.ptr == &loop->event_fd)
			continue;
		if (!watch->dead)
			watch->fn(watch->arg, events[i].events);
		tasks_run(loop);
	}
	watches_free(&loop->graveyard);
}

static bool timer_fired(struct loop *loop, const struct epoll_event *events, int n)
{
	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr == &loop->timer_fd)
			return true;
	}
	return false;
}

static bool someone_waits(const struct loop *loop)
{
	for (const struct message *m = loop->head; m; m = m->next) {
		if (m->done)
			return true;
	}
	return false;
}

void loop_run(struct loop *loop)
{
	struct epoll_event events[EVENTS_PER_WAIT];

	pthread_mutex_lock(&loop->post_lock);
	loop->has_owner = true;
	loop->owner = pthread_self();
	pthread_mutex_unlock(&loop->post_lock);

	while (!atomic_load(&loop->stop)) {
		int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_WAIT, loop->tasks ? 0 : -1);

		if (n < 0 && errno != EINTR)
			break; /* our own descriptor is broken: nothing to wait on */
		tasks_run(loop);
		if (n > 0 && timer_fired(loop, events, n))
			timers_run(loop);
		if (n > 0)
			events_run(loop, events, n);
		pthread_mutex_lock(&loop->post_lock);
		messages_run(loop);
		pthread_mutex_unlock(&loop->post_lock);
	}

	/* Nobody in loop_call() may be left waiting; from then on callers run by themselves. */
	pthread_mutex_lock(&loop->post_lock);
	while (someone_waits(loop))
		messages_run(loop);
	loop->has_owner = false;
	pthread_mutex_unlock(&loop->post_lock);
	atomic_store(&loop->stop, false);
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	loop_wake(loop);
}
