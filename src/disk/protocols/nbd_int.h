// SPDX-License-Identifier: Apache-2.0
/*
 * nbd_int.h - what the files of the NBD client share: nbd.c has the requests, nbd_open.c reaches a server,
 * nbd_again.c does when it was lost.
 */
#pragma once

#include <libnbd.h>

#include "disk/protocols/library.h"
#include "disk/protocols/protocols.h"
#include "disk/protocols/silence.h"

struct loop_fd;
struct loop_timer;

#define NBD_CONTEXT "base:allocation"

#define NBD_CALLS(X) \
	X(nbd_add_meta_context) X(nbd_aio_block_status) X(nbd_aio_connect_socket) \
	X(nbd_aio_connect_tcp) X(nbd_aio_connect_unix) X(nbd_aio_connect_uri) \
	X(nbd_aio_disconnect) X(nbd_aio_flush) X(nbd_aio_get_direction) X(nbd_aio_get_fd) \
	X(nbd_aio_is_closed) X(nbd_aio_is_dead) X(nbd_aio_is_ready) X(nbd_aio_notify_read) \
	X(nbd_aio_notify_write) X(nbd_aio_pread) X(nbd_aio_pwrite) X(nbd_aio_trim) \
	X(nbd_aio_zero) X(nbd_can_flush) X(nbd_can_fua) X(nbd_can_meta_context) \
	X(nbd_can_trim) X(nbd_can_zero) X(nbd_close) X(nbd_create) X(nbd_get_block_size) \
	X(nbd_get_errno) X(nbd_get_error) X(nbd_get_size) X(nbd_is_read_only) X(nbd_poll) \
	X(nbd_set_export_name) X(nbd_set_uri_allow_local_file)

struct nbd_calls {
	NBD_CALLS(LIBRARY_FIELD)
};

/* A request on its way: in one of the disk's queues out, over and held. */
struct nbd_command {
	GList link;
	struct nbd_disk *d;
	struct disk_req *req;
	uint8_t *bounce; /* of this piece; NULL: straight */
	uint64_t len;	 /* of this piece */
	int error;	 /* 0 or -errno */
	bool own;	 /* nobody above asked for it */
	bool answered;	 /* since it was issued, or libnbd told that there will be no answer */
	uint64_t give_up_ns; /* it is held until then at most; 0: its connection was never lost */
	uint64_t flushes;    /* of a flush: what was noted up to this number is durable behind it */
};

struct nbd_disk {
	struct disk disk;
	struct loop *loop;
	struct nbd_calls calls;
	struct nbd_handle *nbd; /* NULL: no connection */
	struct loop_fd *watch;
	uint32_t events;   /* that are watched for */
	uint64_t block;	   /* offsets and lengths are multiples of it */
	uint64_t max_data; /* a multiple of the block */
	bool can_flush, can_fua, can_trim, can_zero, can_map;
	bool through;  /* the user wants changes to be durable when they complete */
	bool fua;      /* they are, and flushes have nothing to do */
	bool no_flush; /* the user wants none */
	bool lost;     /* for good: all fails */
	bool digesting; /* done() is being called: kick() is for afterwards */
	GQueue out;  /* the server has them */
	GQueue over; /* it has answered, or never will */
	GQueue held; /* until there is a connection again, or room for what they change */
	GQueue spare;
	unsigned under_way; /* requests from above */
	struct silence silence;
	void *zeros; /* max_data of them, once they are needed */
	struct nbd_again *again; /* NULL: a lost connection is lost for good */
};

/* ---- nbd.c ---- */
extern const struct disk_ops nbd_ops;
void nbd_drop_watch(struct nbd_disk *d);
/* The loop's. */
void nbd_on_ready(void *arg, uint32_t events);
/* Have the loop watch for what libnbd waits for, and see whether there still is a connection. */
void nbd_look(struct nbd_disk *d);
/* To the server, or held: @c is in no queue. */
void nbd_start(struct nbd_command *c);
/* A request of our own. False: no memory. */
bool nbd_start_own(struct nbd_disk *d, struct disk_req *req);
/* It is over with @error: @c is in no queue. */
void nbd_put_over(struct nbd_command *c, int error);
/* Complete what is over. Whoever is called there may submit more. */
void nbd_digest(struct nbd_disk *d);
/* For good: the connection goes, and all requests fail. */
void nbd_lose(struct nbd_disk *d);
void nbd_free(struct nbd_disk *d);

/* ---- nbd_open.c ---- */
/* Where a server is. */
struct nbd_place {
	const char *name;
	bool named; /* by an image, not by the user */
	int fd;	    /* connected already, taken over; -1: not */
};

/* A connection whose handshake is through; NULL, and why: caller frees. @cancelled: not 0: nobody waits for it. */
struct nbd_handle *nbd_reach(const struct nbd_calls *calls, const struct nbd_place *place,
			     const gint *cancelled, char **ret_why);
/* Look at what the server of d->nbd can do. 0; or -errno, and why it is of no use: caller frees. */
int nbd_ask(struct nbd_disk *d, char **ret_why);
/* Have the loop watch the connection. */
bool nbd_watch(struct nbd_disk *d);

/* ---- nbd_dial.c: reaching it in a thread ---- */
struct nbd_dial;
/* NULL: the host gives no thread or descriptor. */
struct nbd_dial *nbd_dial_begin(const struct nbd_calls *calls, const struct nbd_place *place);
/* Readable when it is over. */
int nbd_dial_fd(const struct nbd_dial *dial);
/* When it is over: the connection, or NULL. Frees @dial. */
struct nbd_handle *nbd_dial_end(struct nbd_dial *dial);
/* Nobody waits for it any more, nor does this. */
void nbd_dial_cancel(struct nbd_dial *dial);

/* ---- nbd_again.c: each may be called where d->again is NULL, but for nbd_again_begin() and _wait() ---- */
/* False: no memory. */
bool nbd_again_new(struct nbd_disk *d, const struct nbd_place *place, unsigned delay_s);
void nbd_again_free(struct nbd_disk *d);
/* The connection is lost: what the server had is held, and it is tried to be reached. May be called again. */
void nbd_again_begin(struct nbd_disk *d);
/* Whether @c must be held for now. */
bool nbd_again_holds(struct nbd_command *c);
/* The number of the last change that was noted. */
uint64_t nbd_again_noted(const struct nbd_disk *d);
/* A piece of @c was done: a change is noted until it is durable. */
void nbd_again_done(struct nbd_command *c);
/* The connection is lost, and requests are not held any more. */
bool nbd_again_is_late(const struct nbd_disk *d);
/* Without a connection, and while the loop does not run: go on for a moment; from @end_ns on all that is held fails. */
void nbd_again_wait(struct nbd_disk *d, uint64_t end_ns);
/* The error of a flush that nobody above had asked for, once; or 0. */
int nbd_again_flush_error(struct nbd_disk *d);
