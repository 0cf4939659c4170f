// SPDX-License-Identifier: Apache-2.0
/*
 * rbd_int.h - what the files of Ceph's images share: rbd.c has the requests, rbd_open.c finds an image, and leaves it.
 */
#pragma once

#include <pthread.h>
#include <rados/librados.h>
#include <rbd/librbd.h>

#include "disk/protocols/library.h"
#include "disk/protocols/protocols.h"
#include "disk/protocols/silence.h"

struct loop_fd;

#define RBD_CALLS(X) \
	X(rados_create) X(rados_shutdown) X(rados_conf_read_file) X(rados_conf_set) X(rados_connect) \
	X(rados_ioctx_create) X(rados_ioctx_destroy) X(rbd_open) X(rbd_open_read_only) X(rbd_close) \
	X(rbd_get_size) X(rbd_resize) X(rbd_aio_create_completion) X(rbd_aio_get_return_value) \
	X(rbd_aio_release) X(rbd_aio_read) X(rbd_aio_write) X(rbd_aio_flush) X(rbd_aio_discard) \
	X(rbd_aio_write_zeroes)

struct ceph {
	RBD_CALLS(LIBRARY_FIELD)
};

/* What a name says, without the meaning of backslashes. */
struct rbd_name {
	char *pool, *image, *snapshot; /* the last: NULL: none */
	char *id, *conf;	       /* "": not given */
	GPtrArray *pairs;	       /* key, value, key... */
};

struct rbd {
	struct disk disk;
	struct ceph ceph;
	struct rbd_name name;
	rados_t cluster;
	rados_ioctx_t pool;
	rbd_image_t image;
	int event_fd;
	struct loop_fd *watch;
	bool no_flush;
	struct silence silence;
	GQueue out; /* operations that somebody waits for; loop's thread */
	GError *why; /* of opening */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	struct rbd_operation *over, **over_tail;
	unsigned left;	   /* operations that were given up, and that librbd still has */
	bool errand_over; /* rbd_open.c */
	bool errand_left;
};

/* ---- rbd.c ---- */
extern const struct disk_ops rbd_ops;
/* The loop's. */
void rbd_on_event(void *arg, uint32_t events);
/* Wait for r->changed, at most @ms, which may be SILENCE_FOREVER. r->lock held. */
void rbd_wait(struct rbd *r, int ms);

/* ---- rbd_open.c ---- */
void rbd_disk_close(struct disk *disk);
