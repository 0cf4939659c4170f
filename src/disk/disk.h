// SPDX-License-Identifier: Apache-2.0
/*
 * disk.h - what stands behind a block device: asynchronous requests on a graph of nodes.
 *
 * Theory of operation. A disk is a node; a node may stand on others:
 *
 *	virtio-blk --> raw ----> file (io_uring or threads)
 *	virtio-blk --> qcow2 --> file
 *	                 `-----> its backing image, read-only: raw or qcow2, and so on down
 *
 * The file node at the bottom moves bytes between memory and a file. A format above it says where
 * in the file a byte of the disk lies. What goes down the graph is a struct disk_req with an iovec
 * straight into guest memory: nothing is copied unless a format must (compression, filling a
 * cluster up). raw.c hands on the very request; qcow2 runs each one in a fiber (fiber.h), a stack
 * of its own that is left while a request below is under way, so that the format reads as if it
 * waited.
 *
 * A graph belongs to one loop. Everything but opening is called in the loop's thread, and
 * requests complete there, possibly inside disk_submit(), disk_kick() or disk_drain(). No lock is
 * taken on the way. Requests run in parallel and in any order; DISK_FLUSH makes durable every write
 * that completed before it was submitted.
 *
 * The size of what a guest sees is a multiple of DISK_SECTOR_SIZE: the tail of an odd raw image
 * reads as zeros, and a write there makes the image whole.
 */
#pragma once

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct disk;
struct loop;

#define DISK_SECTOR_SIZE 512u
#define DISK_MAX_IOV	 1024u /* of one request: the kernel's IOV_MAX */

enum disk_op {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,
	DISK_DISCARD,	   /* the range's content no longer matters */
	DISK_WRITE_ZEROES, /* may deallocate where flag unmap is set */
	DISK_MAP,	   /* where the bytes from offset on, at most len, come from: map is set */
	DISK_RESIZE,	   /* to offset bytes; nothing else may be under way */
};

enum disk_state {
	DISK_ABSENT, /* in no image of the chain: zeros */
	DISK_ZERO,   /* zeros without data in the file */
	DISK_DATA,
	DISK_COMPRESSED,
};

#define DISK_NO_OFFSET UINT64_MAX

/* Answer of DISK_MAP: @len bytes are alike. */
struct disk_map {
	enum disk_state state;
	unsigned depth;	      /* 0: of this image, 1: of its backing image... */
	uint64_t len;	      /* 1..len of the request */
	uint64_t host_offset; /* in that image's file, or DISK_NO_OFFSET */
};

/* Embedded by the caller, which owns it and all it points to until done() is called. */
struct disk_req {
	enum disk_op op;
	bool unmap;
	bool compress; /* a write of a whole cluster: packed, where the format can and it gains */
	uint64_t offset;    /* bytes */
	uint64_t len;	    /* bytes; for reads and writes the sum of the iovec */
	struct iovec *iov;  /* may be changed by the disk on the way */
	unsigned iov_count; /* 1..DISK_MAX_IOV for reads and writes */
	/* @result: 0 or -errno. The request may be reused or freed inside. */
	void (*done)(struct disk_req *req, int result);
	struct disk_map map;

	/* Private to the disk. */
	struct disk_req *next;
	uint64_t progress; /* bytes done */
	int result;
	bool by_hand; /* writing zeros as data, for want of a better way */
	/* Of a disk that flushes behind each change, the flush being this request again: */
	struct disk *through;
	void (*through_done)(struct disk_req *req, int result);
	enum disk_op through_op;
};

/* What a node does. A request of a kind that it does not know completes with -EOPNOTSUPP. */
struct disk_ops {
	void (*submit)(struct disk *disk, struct disk_req *req);
	/* NULL: nothing but to do so with the node below. */
	void (*kick)(struct disk *disk);
	void (*drain)(struct disk *disk);
	void (*close)(struct disk *disk);
};

/* Embedded first by the implementation; read-only for others. */
struct disk {
	const struct disk_ops *ops;
	struct disk *below; /* the one that it stands on, owned; NULL: it is the lowest */
	const char *format; /* "file", "raw", "qcow2" or one of formats.h */
	char *path;	    /* owned */
	uint64_t size_bytes;
	uint32_t block_bytes; /* preferred for requests: 512 or 4096 */
	bool readonly;
	bool can_discard;
	bool growable; /* a file: a write behind its end makes it longer */
	bool writethrough; /* a change completes when it is durable */
	bool abandoned; /* set by who will delete the file: closing it writes nothing */
};

enum disk_runner {
	DISK_RUNNER_ANY,
	DISK_RUNNER_URING,
	DISK_RUNNER_POOL,
};

/* What the host's cache is used for, and what a flush means. */
enum disk_cache {
	DISK_CACHE_WRITEBACK,	 /* the cache is used; a flush makes durable what is written */
	DISK_CACHE_NONE,	 /* past the cache (O_DIRECT); a flush empties the device's own */
	DISK_CACHE_WRITETHROUGH, /* the cache is used; each change is flushed before it completes */
	DISK_CACHE_DIRECTSYNC,	 /* past the cache, each change flushed */
	DISK_CACHE_UNSAFE,	 /* the cache is used; flushes do nothing, a power cut loses all */
};

#define DISK_CACHE_NAMES "none, writeback, writethrough, directsync, unsafe"

/* False: no mode is called that. */
bool disk_cache_parse(const char *name, enum disk_cache *ret);

#define DISK_MAX_RECONNECT_S 86400u

/* How long a drain waits for a server that says nothing, and gives its requests up then. Any thread may change it while
 * disks use it. */
struct disk_patience {
	_Atomic unsigned ms; /* 0: without end */
};

#define DISK_PATIENCE_MS     30000u /* of who has others to care for */
#define DISK_PATIENCE_END_MS 5000u  /* of who ends */

/* "nbd://HOST/EXPORT"...: no file (protocols/protocols.h). */
bool disk_is_remote(const char *name);
/* An image that @image names, relative to its folder. Caller frees. */
char *disk_beside(const char *image, const char *name);

struct disk_options {
	/* "raw", "qcow2" or one of formats.h; NULL to look at the content: another format's mark makes it that
	 * format's image. Where nothing is found it is raw, and a guest that tries to write such
	 * a mark gets an error, because the next look would believe it. */
	const char *format;
	bool readonly;
	/* Folders that backing and data files may lie in, beside that of the image, at whatever
	 * depth; and remote names, of which those that end in "/" stand for all that begin with them.
	 * NULL-terminated; NULL: none. */
	const char *const *allow;
	bool no_backing; /* what is not in the image reads as zeros: to look at one layer */
	bool repair;	 /* opened to be repaired: as it is, however broken */
	bool unlocked; /* only to look, at an image that may be in use */
	enum disk_runner runner; /* how a file's requests run */
	enum disk_cache cache;
	/* Of a disk that a server has, to be read: where copies of what was read are kept from run to run, and how
	 * much at most (0: 1 GiB). NULL: of a web server's until it is closed, of another's none. */
	const char *cache_file;
	uint64_t cache_bytes;
	bool *cache_taken; /* set when some disk of the chain uses it; NULL: nobody asks */
	/* Of a disk at an NBD server: seconds that requests wait for it when the connection is lost; 0: they
	 * fail, and so do all later ones. */
	unsigned reconnect_s;
	/* Of disks at servers; borrowed until they are closed. NULL: drains wait without end. */
	const struct disk_patience *patience;
	/* A name that the user gave, should an image name it below it; NULL: none. */
	const char *given;
	/* Past the cache: at least so many bytes to a block, a power of two; 0: what the host needs.
	 * For tests. */
	uint32_t direct_block;
};

/**
 * disk_open - open and lock an image or a block device.
 *
 * @path: of a file, or where a server offers the image (protocols/protocols.h).
 * A writer excludes everyone else, readers share. Closed with disk_close(), which drains.
 */
struct disk *disk_open(const char *path, const char *format, bool readonly, struct loop *loop,
		       GError **err);
struct disk *disk_open_options(const char *path, const struct disk_options *options,
			       struct loop *loop, GError **err);
void disk_close(struct disk *disk);

/* A request that lies outside the disk, or writes to a readonly one, completes with -EINVAL or
 * -EROFS. */
void disk_submit(struct disk *disk, struct disk_req *req);
/* Hand all requests submitted so far to the host. Call once behind a batch. */
void disk_kick(struct disk *disk);
/* Wait for all requests under way; for those at a server that says nothing, see struct disk_patience. */
void disk_drain(struct disk *disk);

/* For programs with nothing else to do: submit the request and wait. 0 or -errno. done is set. */
int disk_run(struct disk *disk, struct disk_req *req);
int disk_read_wait(struct disk *disk, void *buf, uint64_t len, uint64_t offset);
int disk_write_wait(struct disk *disk, const void *buf, uint64_t len, uint64_t offset);
int disk_flush_wait(struct disk *disk);
