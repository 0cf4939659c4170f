// SPDX-License-Identifier: Apache-2.0
/*
 * disk_int.h - what the files of this folder share: the file node, requests as system calls, the
 * formats.
 */
#pragma once

#include "disk/disk.h"

#define DISK_ZEROS_BYTES (1u << 20)

/* A file node: an open descriptor plus a way to run requests on it, which is io_uring, or threads
 * where the host's kernel refuses io_uring. */
struct disk_image {
	struct disk disk;
	struct loop *loop;
	int fd; /* owned */
	uint32_t direct; /* opened past the host's cache: what all must be aligned to; 0: not */
	bool no_flush; /* flushes do nothing */
	const void *zeros; /* DISK_ZEROS_BYTES of them, mapped, costing no memory */
};

/* Requests in the order that they came, linked by what is private to the disk. */
struct disk_req_list {
	struct disk_req *head, **tail;
};

static inline void disk_req_list_init(struct disk_req_list *list)
{
	list->head = NULL;
	list->tail = &list->head;
}

static inline void disk_req_list_put(struct disk_req_list *list, struct disk_req *req)
{
	req->next = NULL;
	*list->tail = req;
	list->tail = &req->next;
}

/* NULL: empty. */
static inline struct disk_req *disk_req_list_get(struct disk_req_list *list)
{
	struct disk_req *req = list->head;

	if (!req)
		return NULL;
	list->head = req->next;
	if (!list->head)
		list->tail = &list->head;
	return req;
}

/* The images above one that is being opened, the user's own last. */
struct disk_chain {
	const struct disk_chain *above;
	unsigned depth;
	uint64_t device, inode;
	const char *home; /* the folder of the user's own, without symbolic links; NULL: none */
};

#define DISK_MAX_CHAIN 200u

/* ---- disk.c ---- */
/* Begin a node that stands on @below, and owns it: like that, but for its ops. */
void disk_over_init(struct disk *disk, const struct disk_ops *ops, struct disk *below);
void disk_over_fini(struct disk *disk);

/* An image that another one names: beside it, unless the name says otherwise, and where the user
 * allows it. @format: NULL: not told; "file": nothing but the file. Caller closes. */
struct disk *disk_open_named(const char *image, const char *name, const char *what,
			     const char *format, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err);

/* ---- file.c ---- */
struct disk *disk_file_open(const char *path, const struct disk_options *options,
			    struct loop *loop, GError **err);

/* One without a name, in TMPDIR or /var/tmp; -1: errno tells. */
int disk_anonymous_file(void);

/* Room for these bytes, as fallocate(2) gives it. @disk: -EOPNOTSUPP where it is no file node. */
int disk_file_allocate(struct disk *disk, uint64_t offset, uint64_t len);

/* ---- direct.c ---- */
/* Takes over @file, opened with O_DIRECT, when it succeeds. NULL: no memory. */
struct disk *disk_direct_new(struct disk *file);
/* The same for a node that is no file, for offsets and lengths alone. @block: a power of two. */
struct disk *disk_direct_over(struct disk *below, uint32_t block);
/* The file node itself. @disk: that, or what disk_direct_new() gave. */
struct disk *disk_direct_below(struct disk *disk);
/* Its size means something: no write makes it longer than it reaches itself. */
void disk_direct_keep_end(struct disk *disk);

/* ---- raw.c: takes over @file, also when it fails. @guard: the format was found by content, so
 * the guest must not be able to change what the next look finds. */
struct disk *disk_raw_open_take(struct disk *file, bool guard, GError **err);

/* Each takes over @image's content when it succeeds; 0 or -errno. */
int disk_uring_new(const struct disk_image *image, struct disk **ret_disk);
int disk_pool_new(const struct disk_image *image, struct disk **ret_disk);
void disk_image_fini(struct disk_image *image);

/* ---- lock.c: 0, or -errno; on -EAGAIN someone else holds it */
int disk_lock(int fd, bool readonly);
/* A process that holds a lock on what @fd is open on, or 0. */
int disk_lock_holder(int fd);

/* ---- probe.c: name of a format other than raw whose mark these first bytes of an image carry, or
 * NULL */
#define DISK_PROBE_BYTES 512u
const char *disk_probe(const void *head, size_t bytes);

/* ---- request.c ---- */
/* DISK_MAP and DISK_RESIZE of a file, and flushes that do nothing, do not wait for anything: true,
 * and the result. */
bool disk_req_at_once(struct disk_image *image, struct disk_req *req, int *ret_result);
/* Skip @bytes of the iovec. */
void disk_req_advance(struct disk_req *req, uint64_t bytes);
/* The remaining bytes of a read lie behind the end of the file. */
void disk_req_zero_rest(struct disk_req *req);
/* fallocate() mode for a discard or write-zeroes request. */
int disk_req_fallocate_mode(const struct disk_req *req);
/* Digest the result (bytes or -errno) of one system call for @req. True: @req is over, with
 * req->result set; false: go on with the rest. */
bool disk_req_step(const struct disk_image *image, struct disk_req *req, int64_t n);
/* Run the whole request by blocking system calls: 0 or -errno. */
int disk_req_run(struct disk_image *image, struct disk_req *req);
