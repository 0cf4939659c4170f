// SPDX-License-Identifier: Apache-2.0
/* nbd_int.h - what the files of the NBD server share. */
#pragma once

#include <sys/uio.h>

#include "disk/disk.h"
#include "disk/fiber.h"
#include "nbd/nbd.h"

struct nbd_stream;
struct nbd_tls;

#define NBD_MIN_BLOCK	  512u	       /* what a disk is made of */
#define NBD_MAX_NAME	  4096u	       /* "Values", string */
#define NBD_MAX_OPTION	  (64u << 10)  /* bytes of one option's data */
#define NBD_MAX_LEN	  (32u << 20)  /* bytes of one request: what clients may count on without asking */
#define NBD_MAX_UNDER_WAY 128u	       /* requests of one client, */
#define NBD_MAX_BYTES	  (64u << 20)  /* and bytes that they carry */
#define NBD_HANDSHAKE_NS  10000000000ull

/* One that comes and goes. */
struct nbd_client {
	struct nbd_server *server;
	struct nbd_client *next;
	struct nbd_stream *stream;
	struct loop_timer *patience; /* of the handshake */

	bool hung_up; /* by a server that ends */
	bool no_zeroes, structured, allocation; /* what the handshake has found */

	/* nbd_requests.c */
	unsigned fibers;    /* that have not ended */
	unsigned under_way; /* requests, */
	uint64_t bytes;	    /* that they carry */
	unsigned unkicked;  /* of them, the disk has not been told to begin */
	bool ending;	    /* what there is to answer is sent, and no more comes */
	struct fiber *full; /* the reading fiber, while there are too many */
	struct fiber *idle; /* the sending one, while there is nothing to send */
	struct nbd_request *reply, *reply_tail;
};

struct nbd_server {
	struct loop *loop;
	struct disk *disk;
	char *name, *description;
	bool readonly;
	unsigned max_clients, client_count;
	struct nbd_client *clients;
	struct fiber_pool fibers;
	struct nbd_tls *tls; /* NULL: none */
	int fd;
	struct loop_fd *watch;
	char *socket, *uri;
	bool closing;
	void (*left)(void *arg);
	void *arg;
};

/* A client's fibers have ended, and all its requests. */
void nbd_client_free(struct nbd_client *client);

/* ---- nbd_stream.c: in fibers; one may read while another one writes ---- */
/* NULL: no memory. Takes over @fd, which does not block. */
struct nbd_stream *nbd_stream_new(struct loop *loop, struct fiber_pool *fibers, int fd);
void nbd_stream_free(struct nbd_stream *s);
/* Both return 0 or -errno: -ECONNRESET at the other side's end or our own hanging up. */
int nbd_read(struct nbd_stream *s, void *buf, size_t len);
/* Read what there is no memory for, or no sense in. */
int nbd_skip(struct nbd_stream *s, uint32_t len);
int nbd_writev(struct nbd_stream *s, struct iovec *iov, unsigned count); /* the iovec is used up */
int nbd_write(struct nbd_stream *s, const void *buf, size_t len);
/* That can be read without waiting. */
size_t nbd_buffered(const struct nbd_stream *s);
/* Nothing more is read or written: from now on it gives -ECONNRESET; whoever waits is told by the loop, */
void nbd_break(struct nbd_stream *s);
/* or at once. Not in a fiber of the stream's. */
void nbd_hang_up(struct nbd_stream *s);
/* From now on by TLS; after the handshake. 0 or -errno. */
int nbd_start_tls(struct nbd_stream *s, const struct nbd_tls *tls);
struct nbd_tls *nbd_tls_new(const char *folder, GError **err);
void nbd_tls_free(struct nbd_tls *tls);

/* ---- nbd_options.c: 0: it wants to transmit; else it is to be hung up on ---- */
int nbd_handshake(struct nbd_client *client);

/* ---- nbd_requests.c: the two fibers, from the handshake to the end ---- */
void nbd_client_read(void *client);
void nbd_client_send(void *client);
