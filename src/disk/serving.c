// SPDX-License-Identifier: Apache-2.0
/* serving.c - requests in fibers (serving.h). */
#include "disk/serving.h"

#include <errno.h>

#include "disk/wait.h"

struct start {
	struct serving *s;
	serving_fn fn;
	struct disk *disk;
	struct disk_req *req;
};

static void request_fiber(void *arg)
{
	struct start start = *(struct start *)arg; /* the caller's stack, until the first wait */
	int r = start.fn(start.disk, start.req);

	start.s->under_way--;
	if (r != SERVING_PASSED)
		start.req->done(start.req, r);
}

int serving_start(struct serving *s, serving_fn fn, struct disk *disk, struct disk_req *req)
{
	struct start start = { s, fn, disk, req };
	bool before = s->submitting;
	int r;

	s->under_way++;
	s->submitting = true;
	r = fiber_start(&s->fibers, request_fiber, &start);
	s->submitting = before;
	if (r < 0)
		s->under_way--;
	return r;
}

void serving_submit(struct serving *s, serving_fn fn, struct disk *disk, struct disk_req *req)
{
	if (serving_start(s, fn, disk, req) < 0)
		req->done(req, -ENOMEM);
}

void serving_drain(struct serving *s, struct disk *disk,
		   void (*each)(struct disk *disk, void (*fn)(struct disk *below)))
{
	do
		each(disk, disk_drain);
	while (s->under_way > 0);
}

void serving_fini(struct serving *s)
{
	fiber_pool_fini(&s->fibers);
}

int serving_run(struct serving *s, struct disk *below, struct disk_req *req)
{
	return disk_wait(&s->fibers, s->submitting, below, req);
}

int serving_io(struct serving *s, struct disk *below, enum disk_op op, void *bytes, uint64_t len,
	       uint64_t offset)
{
	struct iovec iov = { bytes, len };
	struct disk_req req = { .op = op, .offset = offset, .len = len, .iov = &iov, .iov_count = 1 };

	return serving_run(s, below, &req);
}
