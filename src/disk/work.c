// SPDX-License-Identifier: Apache-2.0
/* work.c - threads that compute for fibers. They take from one list and put on another; an eventfd
 * tells the loop, which lets the fibers go on. */
#include "disk/work.h"

#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/loop.h"

#define MAX_WORKERS 8u

/* On the stack of the fiber that waits. */
struct work {
	void (*fn)(void *arg);
	void *arg;
	struct fiber_queue waiting;
	bool done;
	struct work *next;
};

struct list {
	struct work *head, **tail;
};

struct work_pool {
	pthread_t workers[MAX_WORKERS];
	unsigned worker_count;
	int event_fd;
	struct loop_fd *watch;
	unsigned under_way; /* loop's thread */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t begin, finished;
	struct list todo, done;
	bool ending;
};

static void list_put(struct list *l, struct work *w)
{
	w->next = NULL;
	*l->tail = w;
	l->tail = &w->next;
}

static struct work *list_get(struct list *l)
{
	struct work *w = l->head;

	if (!w)
		return NULL;
	l->head = w->next;
	if (!l->head)
		l->tail = &l->head;
	return w;
}

static void *worker(void *arg)
{
	struct work_pool *p = arg;
	uint64_t one = 1;

	pthread_setname_np(pthread_self(), "disk work");
	pthread_mutex_lock(&p->lock);
	while (!p->ending) {
		struct work *w = list_get(&p->todo);
		ssize_t n;

		if (!w) {
			pthread_cond_wait(&p->begin, &p->lock);
			continue;
		}
		pthread_mutex_unlock(&p->lock);
		w->fn(w->arg);
		pthread_mutex_lock(&p->lock);
		list_put(&p->done, w);
		pthread_cond_signal(&p->finished);
		n = write(p->event_fd, &one, sizeof(one)); /* fails only when already high */
		(void)n;
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static struct work *take_done(struct work_pool *p, bool wait)
{
	struct work *w;

	pthread_mutex_lock(&p->lock);
	while (wait && !p->done.head)
		pthread_cond_wait(&p->finished, &p->lock);
	w = list_get(&p->done);
	pthread_mutex_unlock(&p->lock);
	return w;
}

static void complete(struct work_pool *p, struct work *w)
{
	p->under_way--;
	w->done = true;
	(void)fiber_queue_wake(&w->waiting); /* after which w is gone */
}

static void completed(void *arg, uint32_t events)
{
	struct work_pool *p = arg;
	struct work *w;
	uint64_t count;
	/* Only lowers the eventfd. */
	ssize_t n = read(p->event_fd, &count, sizeof(count));

	(void)n;
	while ((w = take_done(p, false)))
		complete(p, w);
}

struct work_pool *work_pool_new(struct loop *loop)
{
	struct work_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->todo.tail = &p->todo.head;
	p->done.tail = &p->done.head;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->begin, NULL);
	pthread_cond_init(&p->finished, NULL);
	p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->event_fd >= 0)
		p->watch = loop_fd_add(loop, p->event_fd, EPOLLIN, completed, p);
	if (p->watch)
		return p;
	work_pool_free(p);
	return NULL;
}

void work_pool_free(struct work_pool *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_broadcast(&p->begin);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->worker_count; i++)
		pthread_join(p->workers[i], NULL);
	if (p->watch)
		loop_fd_remove(p->watch);
	if (p->event_fd >= 0)
		close(p->event_fd);
	pthread_cond_destroy(&p->finished);
	pthread_cond_destroy(&p->begin);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* Signals are for the threads that wait for them. */
static void start_worker(struct work_pool *p)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (pthread_create(&p->workers[p->worker_count], NULL, worker, p) == 0)
		p->worker_count++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void work_run(struct work_pool *p, struct fiber_pool *fibers, void (*fn)(void *arg), void *arg)
{
	struct work w = { .fn = fn, .arg = arg };
	unsigned most = MIN(g_get_num_processors(), MAX_WORKERS);

	if (p && fibers->current && p->under_way >= p->worker_count && p->worker_count < most)
		start_worker(p);
	if (!p || !fibers->current || p->worker_count == 0) {
		fn(arg);
		return;
	}
	p->under_way++;
	pthread_mutex_lock(&p->lock);
	list_put(&p->todo, &w);
	pthread_cond_signal(&p->begin);
	pthread_mutex_unlock(&p->lock);
	while (!w.done)
		fiber_queue_wait(fibers, &w.waiting);
}

void work_drain(struct work_pool *p)
{
	if (p->under_way > 0)
		complete(p, take_done(p, true));
}
