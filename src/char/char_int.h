// SPDX-License-Identifier: Apache-2.0
/*
 * char_int.h - what the character backends share.
 *
 * char.c moves the bytes between descriptors and client; a backend provides the descriptors and
 * hears of their end.
 */
#pragma once

#include "char/char.h"

#include <pthread.h>

#define CHAR_OUT_BYTES (64u * 1024u)
#define CHAR_IN_BYTES  4096u

struct loop_fd;

struct char_ops {
	/* Look through @len bytes of fresh input and take out what is not for the guest; returns how
	 * many remain in front. Optional. */
	size_t (*filter)(struct chardev *chr, uint8_t *bytes, size_t len);
	/* End of file or an error on either descriptor. Optional. */
	void (*gone)(struct chardev *chr);
	/* Undo what the backend did; descriptors given to char.c are closed by it. Optional. */
	void (*close)(struct chardev *chr);
};

/* Embedded first by a backend; made by char_init(). */
struct chardev {
	const struct char_ops *ops;
	struct loop *loop;
	int wake_fd; /* eventfd: some thread wants the loop to look after us */
	struct loop_fd *wake_watch;

	/* Loop. */
	const struct char_client *client;
	void *client_arg;
	int in_fd; /* owned, or -1 */
	struct loop_fd *in_watch;
	bool in_polled;	 /* by hand: a regular file, which epoll does not take */
	bool in_discards; /* when full, go on reading (for the filter) and drop */
	size_t in_len;
	uint8_t in[CHAR_IN_BYTES];
	struct loop_fd *out_watch;
	struct chardev *follower; /* has our size; or NULL */
	struct chardev *followed; /* whose size we have; or NULL */

	pthread_mutex_t lock; /* guards what follows */
	int out_fd;	      /* owned, or -1 */
	bool out_is_socket;
	bool out_must_poll; /* the descriptor is shared with others and may block */
	bool out_pending;   /* the loop has been woken for output, or watches the descriptor */
	bool out_dead;	    /* swallow everything */
	bool client_waits;  /* for room */
	size_t out_head, out_len;
	unsigned columns, rows; /* 0: not known */
	uint8_t out[CHAR_OUT_BYTES];
};

/* 0 or -errno. The descriptors start as -1. */
int char_init(struct chardev *chr, const struct char_ops *ops, struct loop *loop);
/* Loop's thread, or before the loop runs. Takes over the descriptor. */
void char_set_input(struct chardev *chr, int fd);
void char_drop_input(struct chardev *chr);
void char_set_output(struct chardev *chr, int fd);
void char_drop_output(struct chardev *chr);
/* Tell the client, if the size is another. */
void char_set_size(struct chardev *chr, unsigned columns, unsigned rows);
void char_fini(struct chardev *chr);
