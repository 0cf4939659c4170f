// SPDX-License-Identifier: Apache-2.0
/* wait.c - a request below, waited for. */
#include "disk/wait.h"

#include "base/bits.h"

struct waiting {
	struct disk_req req;
	struct fiber *fiber; /* NULL: it has not left yet */
	bool over;
	int result;
};

static void io_done(struct disk_req *req, int result)
{
	struct waiting *w = container_of(req, struct waiting, req);

	w->result = result;
	w->over = true;
	if (w->fiber)
		fiber_wake(w->fiber);
}

static int in_fiber(struct fiber_pool *fibers, bool batch, struct disk *disk, struct disk_req *req)
{
	struct waiting w = { .req = *req };

	w.req.done = io_done;
	disk_submit(disk, &w.req);
	if (!w.over && !batch)
		disk_kick(disk);
	if (!w.over) {
		w.fiber = fibers->current;
		fiber_yield(fibers);
	}
	req->map = w.req.map;
	return w.result;
}

int disk_wait(struct fiber_pool *fibers, bool batch, struct disk *disk, struct disk_req *req)
{
	uint64_t end = req->op == DISK_WRITE ? req->offset + req->len : 0;
	int r = fibers->current ? in_fiber(fibers, batch, disk, req) : disk_run(disk, req);

	if (r == 0 && disk->growable && end > disk->size_bytes)
		__atomic_store_n(&disk->size_bytes, end, __ATOMIC_RELAXED); /* request.c reads it */
	return r;
}
