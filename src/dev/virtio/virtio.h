// SPDX-License-Identifier: Apache-2.0
/*
 * virtio.h - virtio 1.2 devices on the PCI bus.
 *
 * A device is made by its constructor, which puts it into a PCI slot, and ends with virtio_free().
 * Its queues are worked in the thread of env.loop, which also must own the backend; its registers
 * are reached from vCPU threads. virtio_free() is called while no vCPU runs and, when the loop has
 * a thread, from that thread or after it has ended.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct chardev;
struct disk;
struct loop;
struct mem;
struct net;
struct pci_bus;
struct virtio_dev;

struct virtio_env {
	struct pci_bus *pci; /* all borrowed */
	struct mem *mem;
	struct loop *loop;
	unsigned slot; /* PCI_SLOT_ANY or 1..31 */
};

/* Each returns NULL with a sentence in @err when the bus is full or the host refuses a descriptor.
 * Backends are borrowed: they are closed after virtio_free(). */

#define VIRTIO_MAX_IO_QUEUES   16u
#define VIRTIO_BLK_SERIAL_BYTES 20u

struct virtio_blk_options {
	const char *serial;   /* what the guest finds in /sys/block/vdX/serial; NULL: none */
	unsigned queues;      /* 1..VIRTIO_MAX_IO_QUEUES; 0: one */
	unsigned block_bytes; /* what the guest addresses: 512 or 4096; 0: 512 */
};

struct virtio_dev *virtio_blk_new(const struct virtio_env *env, struct disk *disk,
				  const struct virtio_blk_options *options, GError **err);
/* Make the image so large and tell the guest, requests being held meanwhile. 0 or -errno: -EINVAL for a size that
 * is no multiple of a block, -ERANGE for a smaller one, else what the disk says. Any thread but a vCPU's. */
int virtio_blk_resize(struct virtio_dev *dev, uint64_t size_bytes);

struct virtio_scsi_unit {
	struct disk *disk;
	bool cdrom; /* a drive with the disk as its medium */
	unsigned lun; /* 0..255 */
	const char *serial; /* at most VIRTIO_BLK_SERIAL_BYTES; NULL: made of the number */
	uint32_t block_bytes; /* of a disk: 512 or 4096; 0: 512 */
};

/* A controller with these units, at most 16. @queues: as above. */
struct virtio_dev *virtio_scsi_new(const struct virtio_env *env, const struct virtio_scsi_unit *units,
				   unsigned count, unsigned queues, GError **err);
/* As virtio_blk_resize(), and -ENODEV. */
int virtio_scsi_resize(struct virtio_dev *dev, unsigned lun, uint64_t size_bytes);

struct virtio_dev *virtio_net_new(const struct virtio_env *env, struct net *net,
				  const uint8_t mac[6], GError **err);
/* hvc0. */
struct virtio_dev *virtio_console_new(const struct virtio_env *env, struct chardev *chr,
				      GError **err);
struct virtio_dev *virtio_rng_new(const struct virtio_env *env, GError **err);

void virtio_free(struct virtio_dev *dev);

/* Stop working the queues and wait until no request is under way, so that guest memory rests;
 * resume. For pausing, and before virtio_free(). Any thread but a vCPU's. */
void virtio_pause(struct virtio_dev *dev);
/* The same, without waiting for it: @done is called then, in the thread of the device's loop, which must run. */
void virtio_pause_post(struct virtio_dev *dev, void (*done)(void *arg), void *arg);
void virtio_resume(struct virtio_dev *dev);
