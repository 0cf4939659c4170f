// SPDX-License-Identifier: Apache-2.0
/*
 * protocols.h - the lowest nodes that are no files: what a disk's name begins with says how its bytes
 * are reached.
 *
 * Each opens, talks in the loop, and waits by itself where it is drained while the loop does not run.
 * What is on the other side is hostile: it may give wrong bytes, errors, or nothing; not more.
 */
#pragma once

#include "disk/disk_int.h"

struct disk_protocol {
	const char *prefix; /* of names: "nbd://" */
	const char *format; /* of what is there; NULL: its content is looked at */
	bool far; /* copies may be kept of what is there, and it keeps none itself */
	/* @named: by an image, not by the user: the name must not lead to further files. */
	struct disk *(*open)(const char *name, const struct disk_options *o, bool named,
			     struct loop *loop, GError **err);
};

/* NULL: a file. One of that name is reached as "./NAME". */
const struct disk_protocol *disk_protocol_find(const char *name);

/* ---- scratch.c ---- */
struct disk *scratch_disk_open(const char *name, const struct disk_options *o, bool named,
			       struct loop *loop, GError **err);

/* ---- nbd.c ---- */
struct disk *nbd_disk_open(const char *name, const struct disk_options *o, bool named,
			   struct loop *loop, GError **err);
/* At a connected socket, which is closed in any case. */
struct disk *nbd_disk_open_socket(int fd, const char *name, const struct disk_options *o,
				  struct loop *loop, GError **err);

/* ---- rbd.c: where it is built ---- */
struct disk *rbd_disk_open(const char *name, const struct disk_options *o, bool named,
			   struct loop *loop, GError **err);

/* ---- http.c: with copies (filters/filters.h) ---- */
struct disk *http_disk_open(const char *url, const struct disk_options *o, bool named,
			    struct loop *loop, GError **err);
