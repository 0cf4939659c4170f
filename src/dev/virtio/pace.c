// SPDX-License-Identifier: Apache-2.0
/*
 * pace.c - how seldom a disk's driver has to kick, and how seldom it is interrupted.
 *
 * Theory of operation. A kick wakes the I/O thread, which costs the guest's processor
 * microseconds, and tens of them where the host is a guest itself: more than all else there is to
 * a request that the host's cache answers. With event indices (virtio 1.2, 2.7.10 and 2.8.10) a
 * device says after how many more requests it wants to be kicked. So a turn ends with the wish for
 * a kick after some of them, and a timer for when they do not come.
 *
 * How many is found by trial. While the disk is quicker than the guest, so that nothing is under
 * way when a kick comes, waiting costs nothing as long as the guest has more to ask for. After
 * p->gap kicks half as many again are asked for. Where the timer ends the wait instead, time after
 * time, the guest had no more: half of what came is asked for, so that it goes on with the rest
 * meanwhile, and the next trial comes after twice as many kicks. A guest that makes one request at
 * a time loses one wait in thousands of them. Waits are three times what as many requests took to
 * come before, WAIT_MAX_NS at most. One that ended with nothing to do, or with this thread itself
 * having had to wait for a processor, tells nothing: there the guest may have had to wait, too.
 *
 * While requests are under way the disk has its work, and their completions look for new ones as
 * well: a quarter of what is under way may wait for them.
 *
 * Interrupts: completions within one callback of the loop are told together, SIGNAL_EVERY at most.
 */
#include "dev/virtio/device.h"

#include "base/bits.h"
#include "base/loop.h"

#define AFTER_MAX    17u /* 1, 2, 4, 7, 11, 17 */
#define EACH_MAX_NS  250000u /* requests that come more slowly may kick each */
#define WAIT_MIN_NS  100000u
#define WAIT_MAX_NS  2000000u
#define OVERSLEPT_NS 125000u
#define GAP_MIN	     8u
#define GAP_MAX	     4096u
#define GAP_AGAIN    64u /* once more than one has proved right */
#define CREDIT_MAX   16
#define CREDIT_LATE  4
#define SIGNAL_EVERY 16u

/* ---- interrupts ---- */

static void signal_one(struct virtio_queue *q)
{
	unsigned index = (unsigned)(q - q->dev->queues);

	q->unsignalled = 0;
	if (virtio_vq(q->dev, index))
		virtio_signal(q->dev, index);
}

static void signal_all(void *arg)
{
	struct virtio_dev *dev = arg;

	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		if (!q->unsignalled)
			continue;
		signal_one(q);
		/* See the top: nobody may have kicked, and completions look. */
		if (q->pace.asked > 1 && q->vq.in_use > 0)
			virtio_work(q);
	}
}

void virtio_signal_soon(struct virtio_dev *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	if (++q->unsignalled == SIGNAL_EVERY)
		signal_one(q);
	else
		loop_soon(dev->env.loop, &dev->signal_task);
}

/* ---- kicks ---- */

static void waited(void *arg)
{
	struct virtio_queue *q = arg;

	/* Where this thread had to wait for a processor, so may the guest have had. */
	q->pace.late = loop_now_ns() - q->pace.due_ns < OVERSLEPT_NS;
	virtio_work(q);
}

bool virtio_pace_init(struct virtio_dev *dev)
{
	dev->signal_task = (struct loop_task){ .fn = signal_all, .arg = dev };
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		virtio_pace_reset(q);
		q->pace.timer = loop_timer_new(dev->env.loop, waited, q);
		if (!q->pace.timer)
			return false;
	}
	return true;
}

void virtio_pace_reset(struct virtio_queue *q)
{
	struct loop_timer *timer = q->pace.timer;

	if (timer)
		loop_timer_disarm(timer);
	q->pace = (struct virtio_pace){ .timer = timer, .after = 1, .gap = GAP_MIN };
	q->unsignalled = 0;
}

void virtio_pace_fini(struct virtio_dev *dev)
{
	loop_soon_cancel(dev->env.loop, &dev->signal_task);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		loop_timer_free(dev->queues[i].pace.timer);
		dev->queues[i].pace.timer = NULL;
	}
}

void virtio_turn_begin(struct virtio_dev *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	q->pace.busy = q->vq.in_use;
	virtq_set_kick(&q->vq, false);
}

static void smooth(struct virtio_pace *p, uint64_t each_ns)
{
	p->each_ns = (7 * p->each_ns + MIN(each_ns, 2 * EACH_MAX_NS)) / 8;
}

/* As many as were asked for came, while the disk had nothing to do. */
static void more(struct virtio_pace *p)
{
	unsigned after = p->after + p->after / 2 + 1;

	p->credit = MIN(p->credit + 1, CREDIT_MAX);
	if (++p->good < (p->after > 1 ? MIN(p->gap, GAP_AGAIN) : p->gap))
		return;
	p->good = 0;
	if (after > AFTER_MAX || p->each_ns > EACH_MAX_NS)
		return;
	if (p->after > 1)
		p->gap = MAX(p->gap / 2, GAP_MIN);
	p->after = after;
	p->credit = 0;
}

static void fewer(struct virtio_pace *p, unsigned came)
{
	p->credit -= CREDIT_LATE;
	if (p->credit >= 0)
		return;
	p->after = MAX(came / 2, 1u);
	p->gap = MIN(2 * p->gap, GAP_MAX);
	p->good = 0;
	p->credit = 0;
}

static void learn(struct virtio_pace *p, unsigned taken, uint64_t now)
{
	if (taken >= p->asked)
		smooth(p, (now - p->since_ns) / taken);
	if (taken >= p->asked && p->busy == 0)
		more(p);
	else if (taken >= p->asked && p->busy > p->after)
		p->after = MAX(p->after / 2, 1u);
	else if (p->late && taken && p->asked == p->after)
		fewer(p, taken);
	p->late = false;
}

bool virtio_turn_end(struct virtio_dev *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];
	struct virtio_pace *p = &q->pace;
	uint64_t now = loop_now_ns();

	if (!virtio_vq(dev, index))
		return false;
	if (p->asked)
		learn(p, q->vq.popped - p->popped, now);
	p->asked = MIN(MAX(p->after, 1u + q->vq.in_use / 4), AFTER_MAX);
	if (!q->vq.cfg.event_idx)
		p->asked = 1;
	p->popped = q->vq.popped;
	p->since_ns = now;
	p->due_ns = now + MIN(MAX(3 * p->asked * p->each_ns, WAIT_MIN_NS), WAIT_MAX_NS);
	if (p->asked > 1)
		loop_timer_arm(p->timer, p->due_ns);
	else
		loop_timer_disarm(p->timer);
	return virtq_kick_after(&q->vq, p->asked);
}
