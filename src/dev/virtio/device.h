// SPDX-License-Identifier: Apache-2.0
/*
 * device.h - what every virtio device builds on; private to this folder.
 *
 * Threading. Registers are written by vCPU threads under dev->lock. Queues are worked by the loop's
 * thread only: DRIVER_OK, reset and pause reach it by loop_call(), made without the lock. A class's
 * functions all run in the loop's thread (free(): see virtio_free()).
 *
 * Life of the queues:
 *
 *	stopped --DRIVER_OK--> running --status 0--> resetting --no request under way--> stopped
 *
 * While resetting the driver still reads a non-zero status (virtio 1.2, 2.4.2), so that its memory is
 * left alone once it reads zero. A broken rule sets DEVICE_NEEDS_RESET and ends all work.
 */
#pragma once

#include <glib.h>
#include <pthread.h>

#include "base/loop.h"
#include "bus/pci.h"
#include "dev/virtio/virtio.h"
#include "dev/virtio/virtq.h"

/* Device types, virtio 1.2 section 5. */
#define VIRTIO_ID_NET	  1u
#define VIRTIO_ID_BLK	  2u
#define VIRTIO_ID_CONSOLE 3u
#define VIRTIO_ID_RNG	  4u
#define VIRTIO_ID_SCSI	  8u

/* Feature bits that belong to the transport, section 6. */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)
#define VIRTIO_F_RING_PACKED   (1ull << 34)

/* Device status, section 2.1. */
#define VIRTIO_STATUS_DRIVER_OK	  0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_NEEDS_RESET 0x40u

/* A SCSI controller has a control and an event queue beside these. */
#define VIRTIO_MAX_QUEUES   (2u + VIRTIO_MAX_IO_QUEUES)
#define VIRTIO_CONFIG_BYTES 64u

struct virtio_class {
	const char *name; /* for the log */
	uint16_t id;
	uint32_t pci_class;
	unsigned queue_count; /* unless the device says, before virtio_init() */
	uint16_t queue_size;
	/* The driver is ready: dev->driver_features holds, queues run. Optional. */
	void (*start)(struct virtio_dev *dev);
	/* Forget what the driver had set up; requests under way may still end. Optional. */
	void (*stop)(struct virtio_dev *dev);
	/* The driver has put buffers into queue @index. Returns true when it left some for
	 * another turn, so that one queue cannot hold the loop. */
	bool (*work)(struct virtio_dev *dev, unsigned index);
	/* Wait for all requests under way, whose completions run inside. Optional. */
	void (*drain)(struct virtio_dev *dev);
	/* The driver writes to the device configuration: in a vCPU's thread, without dev->lock. Optional. */
	void (*config_write)(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t value);
	void (*free)(struct virtio_dev *dev);
};

/* How seldom a queue's driver is to kick, pace.c. Loop. */
struct virtio_pace {
	struct loop_timer *timer;
	unsigned after, asked; /* requests before a kick: as found out, and as told the driver; 0: not yet */
	uint32_t popped;       /* of the queue, when it was told */
	unsigned good, gap;    /* kicks that came in time, and how many are to come before more is tried */
	unsigned busy;	       /* under way when the turn began */
	uint64_t since_ns;     /* when the driver was told */
	uint64_t each_ns;      /* from one request to the next, smoothed */
	uint64_t due_ns;       /* the timer's */
	bool late;	       /* no kick, but the timer */
	int credit;	       /* kicks in time, less what others cost; below 0: too many asked for */
};

struct virtio_queue {
	struct virtio_dev *dev;
	int kick_fd; /* eventfd: the driver's notification */
	struct loop_fd *watch;

	/* dev->lock */
	struct virtq_config cfg;
	bool enabled;
	uint16_t msix_vector;

	/* Loop. */
	struct virtq vq;
	bool running;
	struct virtio_pace pace;
	unsigned unsignalled; /* pushed without an interrupt having been thought of */
};

/* Embedded first in every device. */
struct virtio_dev {
	const struct virtio_class *class;
	struct pci_dev pci;
	struct virtio_env env;
	uint64_t features; /* offered; fixed after construction */
	unsigned queue_count; /* the same */
	struct virtio_queue queues[VIRTIO_MAX_QUEUES];

	/* Loop. */
	bool running; /* between DRIVER_OK and reset, and not broken */
	bool paused;
	unsigned under_way; /* requests that hold guest memory */
	bool reset_waits;   /* for the last of them to end */
	struct loop_task signal_task;

	pthread_mutex_t lock; /* guards what follows */
	bool resetting;
	uint8_t status;
	uint8_t isr;
	uint8_t generation;
	uint8_t config[VIRTIO_CONFIG_BYTES];
	unsigned config_size;
	uint32_t feature_select, driver_feature_select;
	uint64_t driver_features; /* the loop may read it without the lock while running */
	uint16_t config_vector, queue_select;
	unsigned cfg_cap; /* offset of the PCI configuration access capability */
};

/* Construction: init, then fill features and config, then attach. On failure of either the
 * constructor frees its device with virtio_fini() and its own memory. */
bool virtio_init(struct virtio_dev *dev, const struct virtio_class *class,
		 const struct virtio_env *env, GError **err);
bool virtio_attach(struct virtio_dev *dev, GError **err);
void virtio_fini(struct virtio_dev *dev);

static inline bool virtio_has(const struct virtio_dev *dev, uint64_t feature)
{
	return dev->driver_features & feature;
}

/* Loop's thread. The queue, or NULL when the driver expects nothing more in it. */
struct virtq *virtio_vq(struct virtio_dev *dev, unsigned index);
/* Interrupt for queue @index if the driver wants one. */
void virtio_signal(struct virtio_dev *dev, unsigned index);
/* The driver broke the rules. */
void virtio_fail(struct virtio_dev *dev, const char *why);
/* Pop; a broken queue fails the device and looks empty, as does any queue while paused. */
bool virtio_pop(struct virtio_dev *dev, unsigned index, struct virtq_elem *elem);
/* Around each request that outlives its work() call. */
void virtio_hold(struct virtio_dev *dev);
void virtio_release(struct virtio_dev *dev);
/* Change the device configuration and tell the driver. Any thread. */
void virtio_config_set(struct virtio_dev *dev, unsigned off, const void *bytes, unsigned len);
/* virtio_pause() and virtio_resume() for those who are in the loop's thread. */
void virtio_pause_in_loop(void *dev);
void virtio_resume_in_loop(void *dev);
/* Look at queue @index in the next turn of the loop. Any thread. */
void virtio_kick(struct virtio_dev *dev, unsigned index);

/* The queue's turn, unless it is paused or stopped. */
void virtio_work(struct virtio_queue *q);

/* ---- pace.c: for classes whose work() takes all that is there; loop's thread ---- */
/* Around a turn: kicks are not wanted, and then wanted after some more requests. True: they are there, look again. */
void virtio_turn_begin(struct virtio_dev *dev, unsigned index);
bool virtio_turn_end(struct virtio_dev *dev, unsigned index);
/* As virtio_signal(), behind the callback of the loop that is under way, for all of its completions together. */
void virtio_signal_soon(struct virtio_dev *dev, unsigned index);
/* For device.c. */
bool virtio_pace_init(struct virtio_dev *dev);
void virtio_pace_reset(struct virtio_queue *q);
void virtio_pace_fini(struct virtio_dev *dev);

/* ---- grow.c ---- */
struct disk;
/* Loop's thread: wait for the requests under way, make the image so large, go on. 0 or -errno, as virtio_blk_resize(). */
int virtio_grow_disk(struct virtio_dev *dev, struct disk *disk, uint64_t size_bytes, uint32_t block_bytes);

/* ---- device.c for pci.c ---- */
void virtio_set_status(struct virtio_dev *dev, uint8_t status);
void virtio_enable_queue(struct virtio_dev *dev, unsigned index);
uint8_t virtio_read_isr(struct virtio_dev *dev);
/* ---- pci.c for device.c ---- */
int virtio_pci_init(struct virtio_dev *dev);
