// SPDX-License-Identifier: Apache-2.0
/*
 * nbd.h - a disk for others: a server of the NBD protocol.
 *
 * Theory of operation. A server listens on one socket and offers one disk. Each client has two fibers (disk/fiber.h): one
 * reads what it says, first options, then requests, and hands these to the disk; the other sends what
 * there is to answer. Requests run at the same time and are answered as they complete.
 *
 *	nbd_server.c	listening, clients that come and go
 *	nbd_stream.c	bytes from and to a client, as they are or by TLS
 *	nbd_options.c	the fixed newstyle handshake
 *	nbd_requests.c	reading, writing, and telling where data is
 *
 * A client is hostile: it can waste what it is given (a descriptor, NBD_MAX_UNDER_WAY requests and as many bytes as
 * NBD_MAX_BYTES), until the handshake's time is over, and nothing else.
 *
 * Source: "The NBD protocol", doc/proto.md of the NetworkBlockDevice project; the sections of the comments are its.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct disk;
struct loop;
struct nbd_server;

struct nbd_offer {
	const char *name;	 /* for which clients ask; "" too leads here */
	const char *description; /* or NULL */
	struct disk *disk;	 /* the caller's, open until the server is freed */
	bool readonly;		 /* even where the disk is not */

	const char *socket;  /* path; or, where it is NULL: */
	const char *address; /* numbers, of IPv4 or IPv6; NULL too: nobody listens, see nbd_server_welcome() */
	uint16_t port;	     /* 0: any that is free */
	unsigned max_clients; /* at a time; 0: no limit */

	/* A folder with server-cert.pem and server-key.pem, and with ca-cert.pem where clients have to show who they
	 * are; or with keys.psk. NULL: no TLS; else nothing is said without it. */
	const char *tls;

	void (*left)(void *arg); /* the last client has; may be NULL; not to free the server in */
	void *arg;
};

/* Strings are copied. All calls in the loop's thread. A file at @socket that is a socket nobody listens on is replaced. */
struct nbd_server *nbd_server_new(struct loop *loop, const struct nbd_offer *offer, GError **err);
/* One more client, at a connected socket that does not block and is now the server's. */
void nbd_server_welcome(struct nbd_server *server, int fd);
/* As clients name it: "nbd+unix:///NAME?socket=PATH", "nbds://ADDRESS:PORT/NAME"... Caller frees. */
char *nbd_server_uri(const struct nbd_server *server);
/* Clients are hung up on, what they asked for is waited for, and the socket goes. */
void nbd_server_free(struct nbd_server *server);
