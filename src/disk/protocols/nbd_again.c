// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_again.c - an NBD server that went away and comes back.
 *
 * Theory of operation. When the connection is lost, requests are held and a thread tries to reach the server
 * (nbd_dial.c), at once and then in growing intervals, until it is there. What is held for longer than the user's delay
 * fails; later requests fail at once, and go through again when the server is back.
 *
 * A server may have ended with what it had acknowledged and not flushed, and nobody who asks would notice: so each change
 * is noted with its bytes until a flush made it durable. After connecting anew they are written
 * again, one by one in the order in which they were acknowledged, then what was under way is sent again, then the rest.
 * Reads wait for it, and see no older bytes. Where there is too much of it, we flush by ourselves, and where that does not
 * keep up, changes wait. A server that is another one now (its size tells, or that it takes no writes)
 * is not used: the disk is lost for good then, as it is where what was noted cannot be written.
 *
 * Where changes are durable when they complete (FUA) nothing is noted, and nothing where the user wants no flushes or the server
 * knows none.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/bits.h"
#include "base/log.h"
#include "base/loop.h"
#include "disk/protocols/nbd_int.h"

#define MS		 1000000ull
#define BACKOFF_FIRST_MS 100u
#define BACKOFF_MAX_MS	 5000u
#define STEADY_MS	 5000u /* a connection that lasted this long was one */
#define NOTED_FLUSH	 (16u << 20) /* bytes: more, and we flush */
#define NOTED_MAX	 (64u << 20) /* more, and changes wait until we have */

struct change {
	GList link;
	uint64_t number;
	enum disk_op op; /* DISK_WRITE, DISK_WRITE_ZEROES or DISK_DISCARD */
	bool unmap;
	uint64_t offset, len;
	uint8_t bytes[]; /* of a write */
};

struct nbd_again {
	struct nbd_disk *d;
	char *name;
	bool named;
	uint64_t delay_ns;
	struct loop_timer *timer;
	struct nbd_dial *dial;
	struct loop_fd *dial_watch;
	uint64_t dial_ns; /* when to try next */
	unsigned backoff_ms;
	uint64_t connected_ns;
	uint64_t patience_ns; /* until when requests are held; 0: all is well */
	bool is_late;	      /* the log has said that it is over */
	GQueue changes;
	uint64_t number; /* of the last one */
	size_t noted;	 /* bytes */
	uint64_t unnoted; /* the last one that there was no memory for, and is not durable; 0: none */
	struct change *writing; /* again */
	struct disk_req write, flush;
	struct iovec iov;
	bool flushing;
	int flush_error;
};

/* ---- changes that are not durable ---- */

static bool is_change(enum disk_op op)
{
	return op == DISK_WRITE || op == DISK_WRITE_ZEROES || op == DISK_DISCARD;
}

static void drop_changes(struct nbd_again *a, uint64_t up_to)
{
	struct change *change;

	while (a->changes.head && (change = a->changes.head->data)->number <= up_to) {
		g_queue_unlink(&a->changes, &change->link);
		a->noted -= sizeof(*change) + (change->op == DISK_WRITE ? change->len : 0);
		free(change);
	}
	if (a->unnoted <= up_to)
		a->unnoted = 0;
}

/* A discard as well: what was read since then must not change. */
static void note(struct nbd_again *a, const struct nbd_command *c)
{
	const struct disk_req *req = c->req;
	size_t bytes = req->op == DISK_WRITE ? c->len : 0;
	struct change *change = malloc(sizeof(*change) + bytes);

	a->number++;
	if (!change) {
		a->unnoted = a->number;
		return;
	}
	*change = (struct change){ .link.data = change, .number = a->number, .op = req->op, .unmap = req->unmap,
				   .offset = req->offset + req->progress, .len = c->len };
	if (bytes)
		memcpy(change->bytes, c->bounce ? c->bounce : req->iov->iov_base, bytes);
	g_queue_push_tail_link(&a->changes, &change->link);
	a->noted += sizeof(*change) + bytes;
}

static void let_go(struct nbd_disk *d)
{
	for (guint n = d->held.length; n > 0; n--) {
		GList *link = g_queue_pop_head_link(&d->held);

		nbd_start(link->data); /* or it is held again */
	}
}

static void flushed(struct disk_req *req, int result)
{
	struct nbd_again *a = container_of(req, struct nbd_again, flush);

	a->flushing = false;
	if (result < 0) {
		/* The next flush from above says so; what it was about nobody can know. */
		a->flush_error = result;
		drop_changes(a, a->number);
		a->unnoted = a->number;
	}
	let_go(a->d);
}

static void flush_if_much(struct nbd_again *a)
{
	if (a->noted < NOTED_FLUSH || a->flushing || a->writing || !a->d->nbd)
		return;
	a->flush = (struct disk_req){ .op = DISK_FLUSH, .done = flushed };
	a->flushing = nbd_start_own(a->d, &a->flush);
}

/* ---- away ---- */

static void lose(struct nbd_disk *d, const char *why)
{
	log_warn("disk '%s': %s, requests fail from now on", d->disk.path, why);
	nbd_lose(d);
}

/* What is held for long enough fails. */
static void expire(struct nbd_disk *d, uint64_t now)
{
	for (guint n = d->held.length; n > 0; n--) {
		GList *link = g_queue_pop_head_link(&d->held);
		struct nbd_command *c = link->data;

		if (c->give_up_ns && c->give_up_ns <= now)
			nbd_put_over(c, -EIO);
		else
			g_queue_push_tail_link(&d->held, link);
	}
}

static void arm(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;
	uint64_t at = !d->nbd && !a->dial ? a->dial_ns : UINT64_MAX;

	if (!a->is_late && a->patience_ns)
		at = MIN(at, a->patience_ns);
	for (GList *link = d->held.head; link; link = link->next) {
		const struct nbd_command *c = link->data;

		if (c->give_up_ns)
			at = MIN(at, c->give_up_ns);
	}
	if (at == UINT64_MAX)
		loop_timer_disarm(a->timer);
	else
		loop_timer_arm(a->timer, at);
}

/* When to try next. */
static void plan(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;

	a->dial_ns = loop_now_ns() + a->backoff_ms * MS;
	a->backoff_ms = MIN(MAX(BACKOFF_FIRST_MS, 2 * a->backoff_ms), BACKOFF_MAX_MS);
	arm(d);
}

static void stamp(const struct nbd_again *a, struct nbd_command *c)
{
	if (!c->give_up_ns)
		c->give_up_ns = a->patience_ns;
}

static void take_back(struct nbd_disk *d)
{
	GList *link;

	while ((link = g_queue_pop_head_link(&d->out))) {
		struct nbd_command *c = link->data;

		g_clear_pointer(&c->bounce, free);
		g_queue_push_tail_link(c->own ? &d->spare : &d->held, link);
	}
	for (link = d->held.head; link; link = link->next)
		stamp(d->again, link->data);
}

void nbd_again_begin(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;
	uint64_t now = loop_now_ns();

	a->writing = NULL;
	a->flushing = false;
	if (!d->nbd) {
		take_back(d);
		return;
	}
	if (a->unnoted) {
		lose(d, "the connection to its server is lost, and with it perhaps what was not flushed");
		return;
	}
	if (!a->patience_ns || now - a->connected_ns >= STEADY_MS * MS) {
		a->patience_ns = now + a->delay_ns;
		a->backoff_ms = 0;
		a->is_late = false;
		log_warn("disk '%s': the connection to its server is lost, requests wait for it for %" G_GUINT64_FORMAT
			 " seconds", d->disk.path, (uint64_t)(a->delay_ns / (1000 * MS)));
	}
	nbd_drop_watch(d);
	d->calls.nbd_close(d->nbd);
	d->nbd = NULL;
	take_back(d);
	plan(d);
}

/* ---- back ---- */

static void write_again(struct nbd_again *a, GList *next);

static void written_again(struct disk_req *req, int result)
{
	struct nbd_again *a = container_of(req, struct nbd_again, write);

	if (result < 0)
		lose(a->d, "its server is back and does not take what it had acknowledged before");
	else
		write_again(a, a->writing->link.next);
}

/* From @next on; then all that is held may go on. */
static void write_again(struct nbd_again *a, GList *next)
{
	struct change *change = next ? next->data : NULL;

	a->writing = change;
	if (!change) {
		flush_if_much(a);
		let_go(a->d);
		return;
	}
	a->iov = (struct iovec){ change->bytes, change->len };
	a->write = (struct disk_req){ .op = change->op, .unmap = change->unmap, .offset = change->offset,
				      .len = change->len, .iov = &a->iov,
				      .iov_count = change->op == DISK_WRITE, .done = written_again };
	if (!nbd_start_own(a->d, &a->write))
		lose(a->d, "there is no memory to go on with its server");
}

/* Whether the server that is there now is the one that was lost. */
static bool is_the_same(struct nbd_disk *d)
{
	uint64_t size = d->disk.size_bytes, block = d->block;
	g_autofree char *why = NULL;
	int r = nbd_ask(d, &why);
	bool same = r == 0 && d->disk.size_bytes == size && d->block <= block;

	d->disk.size_bytes = size;
	d->block = block;
	d->max_data = MAX(align_down(d->max_data, block), block);
	g_clear_pointer(&d->zeros, free);
	return same;
}

static void finish_dial(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;

	loop_fd_remove(a->dial_watch);
	a->dial_watch = NULL;
	d->nbd = nbd_dial_end(a->dial);
	a->dial = NULL;
	if (!d->nbd) {
		plan(d);
		return;
	}
	a->connected_ns = loop_now_ns();
	silence_heard(&d->silence);
	if (!is_the_same(d)) {
		lose(d, "its server is back with another size, or lets nobody write");
		return;
	}
	if (!nbd_watch(d)) {
		lose(d, "its server is back and cannot be watched");
		return;
	}
	log_warn("disk '%s': connected to its server again", d->disk.path);
	write_again(a, a->changes.head);
	arm(d);
}

static void on_dialled(void *arg, uint32_t events)
{
	struct nbd_disk *d = arg;

	(void)events;
	finish_dial(d);
	nbd_digest(d);
}

static void dial(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;
	const struct nbd_place place = { .name = a->name, .named = a->named, .fd = -1 };

	a->dial = nbd_dial_begin(&d->calls, &place);
	if (a->dial)
		a->dial_watch = loop_fd_add(d->loop, nbd_dial_fd(a->dial), EPOLLIN, on_dialled, d);
	if (a->dial_watch)
		return;
	if (a->dial)
		nbd_dial_cancel(a->dial);
	a->dial = NULL;
	plan(d);
}

static void look_at_clock(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;
	uint64_t now = loop_now_ns();

	if (d->lost)
		return;
	if (!a->is_late && a->patience_ns && now >= a->patience_ns) {
		a->is_late = true;
		if (!d->nbd)
			log_warn("disk '%s': its server is still away, requests fail until it is back", d->disk.path);
	}
	expire(d, now);
	if (!d->nbd && !a->dial && now >= a->dial_ns)
		dial(d);
	arm(d);
}

static void on_timer(void *arg)
{
	struct nbd_disk *d = arg;

	look_at_clock(d);
	nbd_digest(d);
}

void nbd_again_wait(struct nbd_disk *d, uint64_t end_ns)
{
	struct nbd_again *a = d->again;
	uint64_t now = loop_now_ns(), until;
	struct pollfd fd = { .fd = -1, .events = POLLIN };

	if (now >= end_ns) {
		expire(d, UINT64_MAX);
		return;
	}
	look_at_clock(d);
	until = a->dial ? end_ns : MIN(end_ns, MAX(a->dial_ns, now));
	if (a->dial)
		fd.fd = nbd_dial_fd(a->dial);
	if (poll(&fd, 1, (int)((until - now) / MS) + 1) > 0)
		finish_dial(d);
}

/* ---- what the requests ask ---- */

bool nbd_again_holds(struct nbd_command *c)
{
	struct nbd_disk *d = c->d;
	struct nbd_again *a = d->again;

	if (!a)
		return false;
	if (d->nbd && !a->writing)
		return is_change(c->req->op) && a->flushing && a->noted >= NOTED_MAX;
	stamp(a, c);
	return true;
}

uint64_t nbd_again_noted(const struct nbd_disk *d)
{
	return d->again ? d->again->number : 0;
}

void nbd_again_done(struct nbd_command *c)
{
	struct nbd_disk *d = c->d;
	struct nbd_again *a = d->again;
	enum disk_op op = c->req->op;

	if (!a)
		return;
	if (op == DISK_FLUSH)
		drop_changes(a, c->flushes);
	if (c->own)
		return;
	a->patience_ns = 0;
	a->backoff_ms = 0;
	if (!is_change(op) || d->fua || d->no_flush || !d->can_flush)
		return;
	note(a, c);
	flush_if_much(a);
}

bool nbd_again_is_late(const struct nbd_disk *d)
{
	return d->again && !d->nbd && loop_now_ns() >= d->again->patience_ns;
}

int nbd_again_flush_error(struct nbd_disk *d)
{
	int error = d->again ? d->again->flush_error : 0;

	if (error)
		d->again->flush_error = 0;
	return error;
}

bool nbd_again_new(struct nbd_disk *d, const struct nbd_place *place, unsigned delay_s)
{
	struct nbd_again *a = g_new0(struct nbd_again, 1);

	a->timer = loop_timer_new(d->loop, on_timer, d);
	if (!a->timer) {
		g_free(a);
		return false;
	}
	a->d = d;
	a->name = g_strdup(place->name);
	a->named = place->named;
	a->delay_ns = (uint64_t)delay_s * 1000 * MS;
	a->connected_ns = loop_now_ns();
	d->again = a;
	return true;
}

void nbd_again_free(struct nbd_disk *d)
{
	struct nbd_again *a = d->again;

	if (!a)
		return;
	loop_fd_remove(a->dial_watch);
	if (a->dial)
		nbd_dial_cancel(a->dial);
	loop_timer_free(a->timer);
	drop_changes(a, UINT64_MAX);
	g_free(a->name);
	g_free(a);
}
