// SPDX-License-Identifier: Apache-2.0
/*
 * rbd.c - an image of a Ceph cluster, by librbd. Built where that library's headers are.
 *
 * Theory of operation. Operations are over in librbd's threads, which put them on a list; an eventfd tells the loop, and a
 * condition who drains.
 *
 * librbd waits for its cluster without end, and nothing takes an operation back. So each has memory of its own,
 * and who must not wait any longer leaves it: its request fails, and what becomes of it one day
 * concerns nobody.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/protocols/rbd_int.h"

struct rbd_operation {
	GList link; /* in r->out */
	struct rbd *r;
	struct disk_req *req; /* may be gone where it was left */
	enum disk_op op;
	uint64_t offset, len;
	uint8_t *bytes; /* of a read or a write */
	int result;
	bool over, left; /* r->lock */
	struct rbd_operation *next; /* in r->over */
};

static void operation_free(struct rbd_operation *o)
{
	free(o->bytes);
	free(o);
}

/* ---- in librbd's threads, and in ours for resizing ---- */

static void put_over(struct rbd_operation *o, int result)
{
	struct rbd *r = o->r;
	const uint64_t one = 1;
	bool left;

	o->result = result;
	pthread_mutex_lock(&r->lock);
	left = o->left;
	if (left) {
		r->left--;
	} else {
		o->over = true;
		*r->over_tail = o;
		r->over_tail = &o->next;
		(void)!write(r->event_fd, &one, sizeof(one)); /* fails only when already high */
	}
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	if (left)
		operation_free(o);
}

static void on_complete(rbd_completion_t c, void *arg)
{
	struct rbd_operation *o = arg;
	ssize_t n = o->r->ceph.rbd_aio_get_return_value(c);
	bool is_short = o->op == DISK_READ && n >= 0 && (uint64_t)n < o->len;

	o->r->ceph.rbd_aio_release(c);
	put_over(o, n < 0 ? (int)n : is_short ? -EIO : 0);
}

static void *resize_main(void *arg)
{
	struct rbd_operation *o = arg;

	put_over(o, o->r->ceph.rbd_resize(o->r->image, o->offset));
	return NULL;
}

/* ---- requests ---- */

static int issue_by(struct rbd_operation *o, rbd_completion_t c)
{
	struct rbd *r = o->r;
	const struct ceph *f = &r->ceph;

	switch (o->op) {
	case DISK_READ:
		return f->rbd_aio_read(r->image, o->offset, o->len, (char *)o->bytes, c);
	case DISK_WRITE:
		return f->rbd_aio_write(r->image, o->offset, o->len, (char *)o->bytes, c);
	case DISK_FLUSH:
		return f->rbd_aio_flush(r->image, c);
	case DISK_DISCARD:
		return f->rbd_aio_discard(r->image, o->offset, o->len, c);
	case DISK_WRITE_ZEROES:
		return f->rbd_aio_write_zeroes(r->image, o->offset, o->len, c,
					       o->req->unmap ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
	case DISK_MAP:
	case DISK_RESIZE:
		break; /* at_once(), issue_resize() */
	}
	return -EOPNOTSUPP;
}

static int issue(struct rbd_operation *o)
{
	const struct ceph *f = &o->r->ceph;
	rbd_completion_t c;
	int result = f->rbd_aio_create_completion(o, on_complete, &c);

	if (result < 0)
		return result;
	result = issue_by(o, c);
	if (result < 0)
		f->rbd_aio_release(c);
	return result;
}

/* librbd does that while its caller waits. */
static int issue_resize(struct rbd_operation *o)
{
	GThread *thread = g_thread_try_new("rbd", resize_main, o, NULL);

	if (!thread)
		return -EAGAIN;
	g_thread_unref(thread);
	return 0;
}

static bool has_data(const struct disk_req *req)
{
	return req->op == DISK_READ || req->op == DISK_WRITE;
}

static struct rbd_operation *operation_new(struct rbd *r, struct disk_req *req)
{
	struct rbd_operation *o = calloc(1, sizeof(*o));
	uint8_t *to;

	if (!o)
		return NULL;
	*o = (struct rbd_operation){ .link.data = o, .r = r, .req = req, .op = req->op, .offset = req->offset,
				     .len = req->len };
	if (!has_data(req))
		return o;
	o->bytes = to = malloc(req->len);
	if (!to) {
		free(o);
		return NULL;
	}
	for (unsigned i = 0; req->op == DISK_WRITE && i < req->iov_count; i++) {
		memcpy(to, req->iov[i].iov_base, req->iov[i].iov_len);
		to += req->iov[i].iov_len;
	}
	return o;
}

static bool at_once(const struct rbd *r, struct disk_req *req)
{
	if (req->op == DISK_MAP)
		req->map = (struct disk_map){ .state = DISK_DATA, .len = req->len, .host_offset = req->offset };
	return req->op == DISK_MAP || (req->op == DISK_FLUSH && r->no_flush);
}

static void rbd_submit(struct disk *disk, struct disk_req *req)
{
	struct rbd *r = (struct rbd *)disk;
	struct rbd_operation *o;
	int result;

	if (at_once(r, req)) {
		req->done(req, 0);
		return;
	}
	o = operation_new(r, req);
	if (!o) {
		req->done(req, -ENOMEM);
		return;
	}
	if (!r->out.length)
		silence_asked(&r->silence);
	/* It may be over before this returns, and is looked at in this thread alone. */
	g_queue_push_tail_link(&r->out, &o->link);
	result = req->op == DISK_RESIZE ? issue_resize(o) : issue(o);
	if (result >= 0)
		return;
	g_queue_unlink(&r->out, &o->link);
	operation_free(o);
	req->done(req, result);
}

static void finish(struct rbd *r, struct rbd_operation *o)
{
	struct disk_req *req = o->req;
	const uint8_t *from = o->bytes;
	int result = o->result;

	g_queue_unlink(&r->out, &o->link);
	for (unsigned i = 0; result == 0 && o->op == DISK_READ && i < req->iov_count; i++) {
		memcpy(req->iov[i].iov_base, from, req->iov[i].iov_len);
		from += req->iov[i].iov_len;
	}
	if (result == 0 && o->op == DISK_RESIZE)
		r->disk.size_bytes = o->offset;
	operation_free(o);
	req->done(req, result);
}

void rbd_wait(struct rbd *r, int ms)
{
	struct timespec until;

	if (ms == SILENCE_FOREVER) {
		pthread_cond_wait(&r->changed, &r->lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ms * 1000000l;
	until.tv_sec += until.tv_nsec / 1000000000l;
	until.tv_nsec %= 1000000000l;
	(void)pthread_cond_timedwait(&r->changed, &r->lock, &until);
}

/* What is over, after waiting for it for so long. */
static void complete(struct rbd *r, int wait_ms)
{
	struct rbd_operation *list, *o;

	pthread_mutex_lock(&r->lock);
	if (wait_ms && !r->over)
		rbd_wait(r, wait_ms);
	list = r->over;
	r->over = NULL;
	r->over_tail = &r->over;
	pthread_mutex_unlock(&r->lock);
	if (list)
		silence_heard(&r->silence);
	while ((o = list)) {
		list = o->next;
		finish(r, o);
	}
}

void rbd_on_event(void *arg, uint32_t events)
{
	struct rbd *r = arg;
	uint64_t count;

	(void)events;
	(void)!read(r->event_fd, &count, sizeof(count)); /* only lowers it */
	complete(r, 0);
}

/* What librbd has not answered is left to it. */
static void give_up(struct rbd *r)
{
	GQueue over = G_QUEUE_INIT;
	struct disk_req_list failed;
	struct disk_req *req;
	GList *link;

	disk_req_list_init(&failed);
	silence_give_up(&r->silence, &r->disk, r->out.length);
	pthread_mutex_lock(&r->lock);
	while ((link = g_queue_pop_head_link(&r->out))) {
		struct rbd_operation *o = link->data;

		if (o->over) {
			g_queue_push_tail_link(&over, link);
			continue;
		}
		o->left = true;
		r->left++;
		disk_req_list_put(&failed, o->req);
	}
	pthread_mutex_unlock(&r->lock);
	while ((link = g_queue_pop_head_link(&over)))
		g_queue_push_tail_link(&r->out, link); /* the next complete() ends them */
	while ((req = disk_req_list_get(&failed)))
		req->done(req, -EIO);
}

static void rbd_drain(struct disk *disk)
{
	struct rbd *r = (struct rbd *)disk;
	uint64_t begin_ns = loop_now_ns();

	complete(r, 0);
	while (r->out.length > 0) {
		int ms = silence_wait_ms(&r->silence, disk, begin_ns);

		if (!ms)
			give_up(r);
		complete(r, ms);
	}
}

const struct disk_ops rbd_ops = {
	.submit = rbd_submit,
	.drain = rbd_drain,
	.close = rbd_disk_close,
};
