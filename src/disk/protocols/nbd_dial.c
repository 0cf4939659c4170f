// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_dial.c - reaching an NBD server in a thread, because finding its address and shaking hands by TLS
 * take the time they take.
 *
 * Whoever began it may go before it is over: what is left then belongs to the thread.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"
#include "disk/protocols/nbd_int.h"

struct nbd_dial {
	gint users;	/* the thread, and whoever began it */
	gint cancelled; /* read by the thread */
	struct nbd_calls calls;
	char *name;
	bool named;
	int fd;			/* an eventfd that the thread writes to at the end */
	struct nbd_handle *nbd; /* the thread's until then */
};

static void put(struct nbd_dial *dial)
{
	if (!g_atomic_int_dec_and_test(&dial->users))
		return;
	if (dial->nbd)
		dial->calls.nbd_close(dial->nbd);
	(void)close(dial->fd);
	g_free(dial->name);
	g_free(dial);
}

static void *dial_main(void *arg)
{
	struct nbd_dial *dial = arg;
	const struct nbd_place place = { .name = dial->name, .named = dial->named, .fd = -1 };
	g_autofree char *why = NULL;
	const uint64_t one = 1;

	dial->nbd = nbd_reach(&dial->calls, &place, &dial->cancelled, &why);
	(void)!write(dial->fd, &one, sizeof(one)); /* of an eventfd at 0: it takes it */
	put(dial);
	return NULL;
}

struct nbd_dial *nbd_dial_begin(const struct nbd_calls *calls, const struct nbd_place *place)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct nbd_dial *dial;
	GThread *thread;

	if (fd < 0)
		return NULL;
	dial = g_new0(struct nbd_dial, 1);
	dial->users = 2;
	dial->calls = *calls;
	dial->name = g_strdup(place->name);
	dial->named = place->named;
	dial->fd = fd;
	thread = g_thread_try_new("nbd", dial_main, dial, NULL);
	if (thread) {
		g_thread_unref(thread);
		return dial;
	}
	dial->users = 1;
	put(dial);
	return NULL;
}

int nbd_dial_fd(const struct nbd_dial *dial)
{
	return dial->fd;
}

struct nbd_handle *nbd_dial_end(struct nbd_dial *dial)
{
	struct nbd_handle *nbd = dial->nbd;

	dial->nbd = NULL;
	put(dial);
	return nbd;
}

void nbd_dial_cancel(struct nbd_dial *dial)
{
	g_atomic_int_set(&dial->cancelled, 1);
	put(dial);
}
