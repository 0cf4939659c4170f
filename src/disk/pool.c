// SPDX-License-Identifier: Apache-2.0
/*
 * pool.c - requests through a few threads, for hosts whose kernel refuses io_uring.
 *
 * Reads and writes that need not wait are done in kick() (swift.h). Workers take the others from one
 * list and put finished ones on another; an eventfd tells the loop, which calls done().
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/loop.h"
#include "disk/disk_int.h"
#include "disk/swift.h"

#define WORKERS 4u

struct pool {
	struct disk_image image;
	pthread_t workers[WORKERS];
	unsigned worker_count;
	int event_fd;
	struct loop_fd *watch;
	/* The loop's thread's: */
	unsigned under_way; /* with the workers */
	bool trying;	    /* done() is being called: kick() is for afterwards */
	struct disk_req_list tries;
	struct disk_swift swift;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t work, finished;
	struct disk_req_list todo, done;
	bool ending;
};

static void *worker(void *arg)
{
	struct pool *p = arg;

	pthread_setname_np(pthread_self(), "disk");
	pthread_mutex_lock(&p->lock);
	while (!p->ending || p->todo.head) {
		struct disk_req *req = disk_req_list_get(&p->todo);
		uint64_t one = 1;
		ssize_t n;

		if (!req) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		pthread_mutex_unlock(&p->lock);
		disk_req_run(&p->image, req);
		pthread_mutex_lock(&p->lock);
		disk_req_list_put(&p->done, req);
		pthread_cond_signal(&p->finished);
		n = write(p->event_fd, &one, sizeof(one)); /* fails only when already high */
		(void)n;
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static void hand_over(struct pool *p, struct disk_req *req)
{
	p->under_way++;
	disk_swift_away(&p->swift, req);
	pthread_mutex_lock(&p->lock);
	disk_req_list_put(&p->todo, req);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static void pool_submit(struct disk *disk, struct disk_req *req)
{
	struct pool *p = (struct pool *)disk;
	int result;

	if (disk_req_at_once(&p->image, req, &result))
		req->done(req, result);
	else if (req->op == DISK_READ || req->op == DISK_WRITE)
		disk_req_list_put(&p->tries, req);
	else
		hand_over(p, req);
}

static void try_at_once(struct pool *p, struct disk_req *req, bool alone)
{
	if (disk_req_step(&p->image, req, disk_swift_try(&p->swift, &p->image, req, alone)))
		req->done(req, req->result);
	else
		hand_over(p, req);
}

static void pool_kick(struct disk *disk)
{
	struct pool *p = (struct pool *)disk;
	struct disk_req *req;
	uint64_t end_ns;

	if (p->trying)
		return;
	end_ns = loop_now_ns() + DISK_SWIFT_TURN_NS;
	p->trying = true;
	while ((req = disk_req_list_get(&p->tries)) && loop_now_ns() < end_ns)
		try_at_once(p, req, !p->tries.head && p->under_way == 0);
	/* Others of the loop want their turn. */
	for (; req; req = disk_req_list_get(&p->tries))
		hand_over(p, req);
	p->trying = false;
}

static struct disk_req *take_done(struct pool *p, bool wait)
{
	struct disk_req *req;

	pthread_mutex_lock(&p->lock);
	while (wait && !p->done.head)
		pthread_cond_wait(&p->finished, &p->lock);
	req = disk_req_list_get(&p->done);
	pthread_mutex_unlock(&p->lock);
	return req;
}

static void complete(struct pool *p, struct disk_req *req)
{
	p->under_way--;
	disk_swift_back(&p->swift, req);
	req->done(req, req->result);
}

static void completed(void *arg, uint32_t events)
{
	struct pool *p = arg;
	struct disk_req *req;
	uint64_t count;
	/* Only lowers the eventfd. */
	ssize_t n = read(p->event_fd, &count, sizeof(count));

	(void)n;
	while ((req = take_done(p, false)))
		complete(p, req);
}

static void pool_drain(struct disk *disk)
{
	struct pool *p = (struct pool *)disk;

	for (pool_kick(disk); p->under_way > 0 || p->tries.head; pool_kick(disk))
		if (p->under_way > 0)
			complete(p, take_done(p, true));
}

static void pool_close(struct disk *disk)
{
	struct pool *p = (struct pool *)disk;

	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->worker_count; i++)
		pthread_join(p->workers[i], NULL);
	loop_fd_remove(p->watch);
	if (p->event_fd >= 0)
		close(p->event_fd);
	pthread_cond_destroy(&p->finished);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	disk_image_fini(&p->image);
	free(p);
}

static const struct disk_ops pool_ops = {
	.submit = pool_submit,
	.kick = pool_kick,
	.drain = pool_drain,
	.close = pool_close,
};

/* Signals are for the threads that wait for them. */
static int start_worker(struct pool *p)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&p->workers[p->worker_count], NULL, worker, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0)
		p->worker_count++;
	return -r;
}

int disk_pool_new(const struct disk_image *image, struct disk **ret_disk)
{
	struct pool *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return -ENOMEM;
	p->image.fd = -1; /* the caller's until success */
	disk_req_list_init(&p->todo);
	disk_req_list_init(&p->done);
	disk_req_list_init(&p->tries);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->finished, NULL);
	p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->event_fd < 0)
		r = -errno;
	else
		p->watch = loop_fd_add(image->loop, p->event_fd, EPOLLIN, completed, p);
	if (r == 0 && !p->watch)
		r = -ENOMEM;
	while (r == 0 && p->worker_count < WORKERS)
		r = start_worker(p);
	if (r < 0) {
		pool_close(&p->image.disk);
		return r;
	}
	/* Workers look at it only once a request has passed through the lock. */
	p->image = *image;
	p->image.disk.ops = &pool_ops;
	disk_swift_init(&p->swift, &p->image);
	*ret_disk = &p->image.disk;
	return 0;
}
