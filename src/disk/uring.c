// SPDX-License-Identifier: Apache-2.0
/*
 * uring.c - requests through io_uring.
 *
 * Requests are queued by submit() and reach the kernel together at kick(). What the host's cache
 * holds is read in that very call, and so kick() looks at once what is over; for the rest the loop
 * watches the ring, which is readable while it holds completions. At most DEPTH requests are with
 * the kernel, so that neither ring overflows; others wait in a list. The ring is touched by the
 * loop's thread only.
 *
 * Writes that need not wait for anything do not go there at all, but are done in kick() (swift.h).
 *
 * A kernel has been seen (6.18) to leave a request that is for its own threads with none of them:
 * the last one ends for want of work as this comes, and nobody looks at it until more comes. So
 * when nothing is over for a while, a request that does nothing is sent the same way.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/disk_int.h"
#include "disk/swift.h"

#define DEPTH	 128u
#define RETRY_NS 1000000u
#define NUDGE_NS 100000000u
#define NUDGES	 8u /* at most under way: a file system may stand still for hours */
/* kick() goes on while more is over, but others of the loop want their turn. */
#define ROUNDS 16u
/* To copy so much takes longer than to wake a thread of the kernel's. */
#define COPY_BYTES (128u << 10)

struct uring {
	struct disk_image image;
	struct io_uring ring;
	struct loop_fd *watch;
	struct loop_timer *retry; /* armed: the kernel did not take all that is queued */
	struct loop_timer *nudge; /* armed while requests are in the kernel, and a little longer */
	bool watched; /* it is armed */
	bool moves; /* and a request was over since then */
	unsigned nudges; /* under way */
	unsigned in_kernel; /* queued or running */
	bool reaping; /* done() is being called: kick() is for afterwards */
	struct disk_req_list waiting; /* for room in the ring */
	struct disk_req_list writes; /* to be tried at once */
	struct disk_swift swift;
};

/* There is room: in_kernel < DEPTH, and the submission ring has DEPTH entries. */
static void queue_call(struct uring *u, struct disk_req *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	uint64_t off = req->offset + req->progress;
	uint64_t left = req->len - req->progress;
	int fd = u->image.fd;

	if (!sqe) {
		(void)io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	u->in_kernel++;
	disk_swift_away(&u->swift, req);
	switch (req->op) {
	case DISK_READ:
		io_uring_prep_readv(sqe, fd, req->iov, req->iov_count, off);
		/* From the host's cache each call copies in this thread; several do at a time. */
		if (left >= COPY_BYTES && u->in_kernel > 1 && !u->image.direct)
			io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
		break;
	case DISK_WRITE:
		io_uring_prep_writev(sqe, fd, req->iov, req->iov_count, off);
		break;
	case DISK_FLUSH:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		if (req->by_hand)
			io_uring_prep_write(
				sqe, fd, u->image.zeros,
				(unsigned)(left < DISK_ZEROS_BYTES ? left : DISK_ZEROS_BYTES), off);
		else
			io_uring_prep_fallocate(sqe, fd, disk_req_fallocate_mode(req), (off_t)off,
						(off_t)left);
		break;
	case DISK_MAP:
	case DISK_RESIZE:
		break; /* disk_req_at_once() */
	}
	io_uring_sqe_set_data(sqe, req);
}

static void uring_submit(struct disk *disk, struct disk_req *req)
{
	struct uring *u = (struct uring *)disk;
	int result;

	if (disk_req_at_once(&u->image, req, &result)) {
		req->done(req, result);
		return;
	}
	if (req->op == DISK_WRITE && req->len <= DISK_SWIFT_BYTES && u->swift.able)
		disk_req_list_put(&u->writes, req);
	else if (u->in_kernel < DEPTH && !u->waiting.head)
		queue_call(u, req);
	else
		disk_req_list_put(&u->waiting, req);
}

static void watch_over(struct uring *u)
{
	if (u->watched || u->in_kernel == 0)
		return;
	u->watched = true;
	u->moves = false;
	loop_timer_arm(u->nudge, loop_now_ns() + NUDGE_NS);
}

/* To the threads of the kernel: they look at all that there is for them. It is no request of
 * anybody's. */
static void nudge(struct uring *u)
{
	struct io_uring_sqe *sqe = u->nudges < NUDGES ? io_uring_get_sqe(&u->ring) : NULL;

	if (!sqe)
		return;
	u->nudges++;
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, NULL);
}

/* What is queued, to the kernel. It may be short of something (EAGAIN, EBUSY), and then nothing
 * need be under way whose completion would bring another try. */
static void enter(struct uring *u)
{
	while (u->waiting.head && u->in_kernel < DEPTH)
		queue_call(u, disk_req_list_get(&u->waiting));
	if (!io_uring_sq_ready(&u->ring))
		return;
	(void)io_uring_submit(&u->ring);
	watch_over(u);
	if (io_uring_sq_ready(&u->ring))
		loop_timer_arm(u->retry, loop_now_ns() + RETRY_NS);
}

/* One call for @req has given @n. */
static void step(struct uring *u, struct disk_req *req, int64_t n)
{
	if (disk_req_step(&u->image, req, n))
		req->done(req, req->result);
	else
		disk_req_list_put(&u->waiting, req);
}

static void reap(struct uring *u)
{
	struct io_uring_cqe *cqe;
	bool before = u->reaping;

	u->reaping = true;
	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		struct disk_req *req = io_uring_cqe_get_data(cqe);
		int n = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		if (!req) {
			u->nudges--;
			continue;
		}
		u->moves = true;
		u->in_kernel--;
		disk_swift_back(&u->swift, req);
		step(u, req, n);
	}
	u->reaping = before;
}

/* With those that are submitted meanwhile. False: there was nothing to do. */
static bool write_at_once(struct uring *u, uint64_t end_ns)
{
	bool any = u->writes.head, before = u->reaping;

	u->reaping = true;
	while (u->writes.head && loop_now_ns() < end_ns) {
		struct disk_req *req = disk_req_list_get(&u->writes);

		step(u, req, disk_swift_try(&u->swift, &u->image, req, true));
	}
	u->reaping = before;
	return any;
}

static void uring_kick(struct disk *disk)
{
	struct uring *u = (struct uring *)disk;
	bool more = true;
	uint64_t end_ns;

	if (u->reaping)
		return;
	end_ns = loop_now_ns() + DISK_SWIFT_TURN_NS;
	for (unsigned i = 0; i < ROUNDS && more; i++) {
		/* What can go on without this thread does so first. */
		enter(u);
		more = write_at_once(u, end_ns);
		if (io_uring_cq_ready(&u->ring)) {
			reap(u);
			more = true;
		}
	}
	enter(u);
	if (u->writes.head)
		loop_timer_arm(u->retry, loop_now_ns());
}

static void on_retry(void *arg)
{
	uring_kick(arg);
}

static void on_nudge(void *arg)
{
	struct uring *u = arg;

	u->watched = false;
	if (u->in_kernel > 0 && !u->moves)
		nudge(u);
	watch_over(u);
	uring_kick(&u->image.disk);
}

static void completed(void *arg, uint32_t events)
{
	uring_kick(arg);
}

static void uring_drain(struct disk *disk)
{
	struct __kernel_timespec patience = { .tv_nsec = NUDGE_NS };
	struct uring *u = (struct uring *)disk;

	for (enter(u); u->in_kernel > 0 || u->writes.head; enter(u)) {
		struct io_uring_cqe *cqe;
		int r;

		if (write_at_once(u, UINT64_MAX))
			continue;
		r = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &patience, NULL);
		if (r == -ETIME)
			nudge(u);
		else if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY &&
			 io_uring_peek_cqe(&u->ring, &cqe) < 0)
			return; /* the ring itself is broken */
		reap(u);
	}
}

static void uring_close(struct disk *disk)
{
	struct uring *u = (struct uring *)disk;

	loop_timer_free(u->retry);
	loop_timer_free(u->nudge);
	loop_fd_remove(u->watch);
	io_uring_queue_exit(&u->ring);
	disk_image_fini(&u->image);
	free(u);
}

static const struct disk_ops uring_ops = {
	.submit = uring_submit,
	.kick = uring_kick,
	.drain = uring_drain,
	.close = uring_close,
};

/* What is over need not interrupt this thread, which soon calls the kernel anyway and then hears of
 * it; asleep it is woken (io_uring_setup(2); Linux 5.19). */
static int init_ring(struct io_uring *ring)
{
	int r = io_uring_queue_init(DEPTH, ring, IORING_SETUP_COOP_TASKRUN);

	return r == -EINVAL ? io_uring_queue_init(DEPTH, ring, 0) : r;
}

int disk_uring_new(const struct disk_image *image, struct disk **ret_disk)
{
	struct uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	disk_req_list_init(&u->waiting);
	disk_req_list_init(&u->writes);
	r = init_ring(&u->ring);
	if (r < 0)
		goto err_free;
	r = -ENOMEM;
	u->retry = loop_timer_new(image->loop, on_retry, u);
	u->nudge = loop_timer_new(image->loop, on_nudge, u);
	if (u->retry && u->nudge)
		u->watch = loop_fd_add(image->loop, u->ring.ring_fd, EPOLLIN, completed, u);
	if (!u->watch)
		goto err_ring;
	u->image = *image;
	u->image.disk.ops = &uring_ops;
	disk_swift_init(&u->swift, &u->image);
	*ret_disk = &u->image.disk;
	return 0;

err_ring:
	loop_timer_free(u->retry);
	loop_timer_free(u->nudge);
	io_uring_queue_exit(&u->ring);
err_free:
	free(u);
	return r;
}
