// SPDX-License-Identifier: Apache-2.0
/*
 * blk.c - the block device: virtio 1.2, section 5.2.
 *
 * A request's data segments go to the disk as they lie in guest RAM. There are as many requests
 * as the queues have entries; the free ones form a stack, so that only those that were ever in use
 * at a time take memory.
 *
 * Several queues let the guest's processors submit without waiting for each other, each with an
 * interrupt of its own. All are worked by one thread, the disk's.
 */
#include "dev/virtio/device.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bits.h"
#include "base/loop.h"
#include "disk/disk.h"

#define QUEUE_SIZE 256u
#define SEG_MAX	   (VIRTQ_MAX_IOV - 2u) /* beside header and status */
#define ID_BYTES   VIRTIO_BLK_SERIAL_BYTES
#define TURN	   QUEUE_SIZE /* requests per turn of the loop */

#define F_SEG_MAX      (1ull << 2)
#define F_RO	       (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH	       (1ull << 9)
#define F_TOPOLOGY     (1ull << 10)
#define F_CONFIG_WCE   (1ull << 11)
#define F_MQ	       (1ull << 12)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

#define T_IN	       0u
#define T_OUT	       1u
#define T_FLUSH	       4u
#define T_GET_ID       8u
#define T_DISCARD      11u
#define T_WRITE_ZEROES 13u

#define S_OK	 0u
#define S_IOERR	 1u
#define S_UNSUPP 2u

/* struct virtio_blk_config, 5.2.4. */
#define CONFIG_CAPACITY		    0u
#define CONFIG_SEG_MAX		    12u
#define CONFIG_BLOCK_SIZE	    20u
#define CONFIG_PHYSICAL_EXP	    24u
#define CONFIG_WRITEBACK	    32u
#define CONFIG_NUM_QUEUES	    34u
#define CONFIG_DISCARD_SECTORS	    36u
#define CONFIG_DISCARD_SEGS	    40u
#define CONFIG_DISCARD_ALIGN	    44u
#define CONFIG_ZEROES_SECTORS	    48u
#define CONFIG_ZEROES_SEGS	    52u
#define CONFIG_ZEROES_MAY_UNMAP	    56u
#define CONFIG_BYTES		    60u

#define HEADER_BYTES	   16u
#define RANGE_BYTES	   16u
#define RANGE_UNMAP	   1u
#define MAX_RANGE_SECTORS  (1u << 22) /* 2 GiB in one discard or write-zeroes */

struct blk_req {
	struct disk_req disk_req;
	struct blk *blk;
	struct blk_req *next_free;
	unsigned queue;
	uint32_t written; /* data bytes for the used ring */
	uint8_t *status;
	struct virtq_elem elem;
	struct iovec iov[VIRTQ_MAX_IOV]; /* the disk's to change */
};

struct blk {
	struct virtio_dev dev;
	struct disk *disk;
	char id[ID_BYTES];
	uint32_t block_bytes;
	/* What the driver says with CONFIG_WCE; written by vCPU threads. */
	atomic_bool writeback;
	struct blk_req *free;
	struct blk_req *reqs; /* QUEUE_SIZE for each queue */
	unsigned fresh;	      /* those from here on were never used */
};

static void finish(struct blk_req *req, uint8_t status)
{
	struct blk *blk = req->blk;
	struct virtq *vq = virtio_vq(&blk->dev, req->queue);

	*req->status = status;
	if (vq) {
		/* Data that came before an error is in guest RAM as well; and the status byte is
		 * the last one, wherever data ended. */
		if (req->written + 1ull != req->elem.in_bytes)
			virtq_elem_written(vq, &req->elem, req->elem.in_bytes);
		virtq_push(vq, &req->elem, req->written + 1);
		virtio_signal_soon(&blk->dev, req->queue);
	}
	req->next_free = blk->free;
	blk->free = req;
	virtio_release(&blk->dev);
}

/* 5.2.5.1 and 5.2.6.2: without FLUSH, and where the driver turned the cache off, a change is durable when it
 * completes. */
static bool writes_through(const struct blk *blk)
{
	if (virtio_has(&blk->dev, F_CONFIG_WCE))
		return !atomic_load(&blk->writeback);
	return !virtio_has(&blk->dev, F_FLUSH);
}

static void disk_done(struct disk_req *disk_req, int result)
{
	struct blk_req *req = container_of(disk_req, struct blk_req, disk_req);

	if (result == 0 && disk_req->op != DISK_READ && disk_req->op != DISK_FLUSH &&
	    writes_through(req->blk)) {
		disk_req->op = DISK_FLUSH;
		disk_submit(req->blk->disk, disk_req);
		disk_kick(req->blk->disk);
		return;
	}
	if (result < 0)
		req->written = 0;
	finish(req, result < 0 ? S_IOERR : S_OK);
}

/* Segments [first, first+count) of the element, without @skip bytes in front and @drop behind. */
static unsigned cut_iov(struct blk_req *req, unsigned first, unsigned count, size_t skip,
			size_t drop)
{
	unsigned n = 0;

	for (unsigned i = first; i < first + count; i++) {
		struct iovec iov = req->elem.iov[i];
		size_t cut = skip < iov.iov_len ? skip : iov.iov_len;

		skip -= cut;
		iov.iov_base = (uint8_t *)iov.iov_base + cut;
		iov.iov_len -= cut;
		if (i == first + count - 1)
			iov.iov_len -= drop < iov.iov_len ? drop : iov.iov_len;
		if (iov.iov_len)
			req->iov[n++] = iov;
	}
	return n;
}

static void submit(struct blk_req *req, enum disk_op op, uint64_t sector, uint64_t len)
{
	struct disk_req *d = &req->disk_req;

	if (sector > UINT64_MAX / DISK_SECTOR_SIZE) {
		finish(req, S_IOERR);
		return;
	}
	d->op = op;
	d->offset = sector * DISK_SECTOR_SIZE;
	d->len = len;
	d->iov = req->iov;
	d->done = disk_done;
	disk_submit(req->blk->disk, d);
}

static void start_data(struct blk_req *req, bool write, uint64_t sector)
{
	const struct virtq_elem *e = &req->elem;
	uint64_t len = write ? e->out_bytes - HEADER_BYTES : e->in_bytes - 1;

	if (write)
		req->disk_req.iov_count = cut_iov(req, 0, e->out_count, HEADER_BYTES, 0);
	else
		req->disk_req.iov_count = cut_iov(req, e->out_count, e->in_count, 0, 1);
	/* The used length is 32 bits wide. */
	if (len % DISK_SECTOR_SIZE || len > UINT32_MAX - 1) {
		finish(req, S_IOERR);
		return;
	}
	if (len == 0) {
		finish(req, S_OK);
		return;
	}
	req->written = write ? 0 : (uint32_t)len;
	submit(req, write ? DISK_WRITE : DISK_READ, sector, len);
}

/* 5.2.6: one range, as the configuration announces. */
static void start_range(struct blk_req *req, bool zeroes)
{
	uint8_t range[RANGE_BYTES];
	uint64_t len = req->elem.out_bytes - HEADER_BYTES;
	uint32_t sectors, flags;

	if (!virtio_has(&req->blk->dev, zeroes ? F_WRITE_ZEROES : F_DISCARD)) {
		finish(req, S_UNSUPP);
		return;
	}
	if (len != RANGE_BYTES) {
		finish(req, S_IOERR);
		return;
	}
	virtq_elem_read(&req->elem, HEADER_BYTES, range, sizeof(range));
	sectors = load_le32(range + 8);
	flags = load_le32(range + 12);
	if ((flags & ~RANGE_UNMAP) || (flags && !zeroes)) {
		finish(req, S_UNSUPP);
		return;
	}
	if (sectors == 0 || sectors > MAX_RANGE_SECTORS) {
		finish(req, sectors ? S_IOERR : S_OK);
		return;
	}
	req->disk_req.unmap = flags & RANGE_UNMAP;
	submit(req, zeroes ? DISK_WRITE_ZEROES : DISK_DISCARD, load_le64(range),
	       (uint64_t)sectors * DISK_SECTOR_SIZE);
}

static void start_get_id(struct blk_req *req)
{
	size_t room = req->elem.in_bytes - 1;

	req->written = (uint32_t)virtq_elem_write(&req->elem, 0, req->blk->id,
						  room < ID_BYTES ? room : ID_BYTES);
	finish(req, S_OK);
}

static void start(struct blk_req *req, const uint8_t *header)
{
	uint64_t sector = load_le64(header + 8);

	switch (load_le32(header)) {
	case T_IN:
		start_data(req, false, sector);
		break;
	case T_OUT:
		start_data(req, true, sector);
		break;
	case T_FLUSH:
		submit(req, DISK_FLUSH, 0, 0);
		break;
	case T_GET_ID:
		start_get_id(req);
		break;
	case T_DISCARD:
		start_range(req, false);
		break;
	case T_WRITE_ZEROES:
		start_range(req, true);
		break;
	default:
		finish(req, S_UNSUPP);
	}
}

/* One that is free, or NULL. It stays free until free_take(). */
static struct blk_req *free_peek(struct blk *blk)
{
	struct blk_req *req;

	if (!blk->free && blk->fresh < blk->dev.queue_count * QUEUE_SIZE) {
		req = &blk->reqs[blk->fresh++];
		req->blk = blk;
		blk->free = req;
	}
	return blk->free;
}

/* One request; false when there is none. */
static bool take(struct blk *blk, unsigned queue)
{
	struct blk_req *req = free_peek(blk);
	struct virtq_elem *e;
	uint8_t header[HEADER_BYTES];
	struct iovec *last;

	/* Free ones run out only under a driver that offers a descriptor twice. */
	if (!req) {
		virtio_fail(&blk->dev, "more requests than descriptors");
		return false;
	}
	e = &req->elem;
	if (!virtio_pop(&blk->dev, queue, e))
		return false;
	if (virtq_elem_read(e, 0, header, sizeof(header)) < sizeof(header) || e->in_bytes == 0) {
		virtio_fail(&blk->dev, "request without header or status");
		return false;
	}
	blk->free = req->next_free;
	virtio_hold(&blk->dev);
	last = &e->iov[e->out_count + e->in_count - 1];
	req->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	req->queue = queue;
	req->written = 0;
	req->disk_req.unmap = false;
	start(req, header);
	return true;
}

static bool blk_work(struct virtio_dev *dev, unsigned index)
{
	struct blk *blk = (struct blk *)dev;
	struct virtq *vq = virtio_vq(dev, index);
	unsigned n = 0, before;
	bool more;

	virtio_turn_begin(dev, index);
	do {
		before = n;
		while (n < TURN && take(blk, index))
			n++;
		disk_kick(blk->disk);
		/* With every descriptor in use there is nothing to look for, only a kick to wish for. */
		more = virtio_turn_end(dev, index) && vq->in_use < vq->cfg.size;
	} while (more && n > before && n < TURN);
	return more;
}

static void blk_drain(struct virtio_dev *dev)
{
	struct blk *blk = (struct blk *)dev;

	if (blk->disk)
		disk_drain(blk->disk);
}

static void blk_free(struct virtio_dev *dev)
{
	struct blk *blk = (struct blk *)dev;

	virtio_fini(dev);
	g_free(blk->reqs);
	g_free(blk);
}

static void capacity_store(const struct blk *blk, uint8_t *bytes)
{
	uint64_t blocks = blk->disk->size_bytes / blk->block_bytes;

	store_le64(bytes, blocks * (blk->block_bytes / DISK_SECTOR_SIZE));
}

static void fill_config(struct blk *blk)
{
	uint8_t *c = blk->dev.config;

	capacity_store(blk, c + CONFIG_CAPACITY);
	store_le32(c + CONFIG_SEG_MAX, SEG_MAX);
	store_le32(c + CONFIG_BLOCK_SIZE, blk->block_bytes);
	/* A physical block has 2^n logical ones. */
	c[CONFIG_PHYSICAL_EXP] = blk->disk->block_bytes == 8 * blk->block_bytes ? 3 : 0;
	c[CONFIG_WRITEBACK] = 1;
	store_le16(c + CONFIG_NUM_QUEUES, (uint16_t)blk->dev.queue_count);
	store_le32(c + CONFIG_DISCARD_SECTORS, MAX_RANGE_SECTORS);
	store_le32(c + CONFIG_DISCARD_SEGS, 1);
	store_le32(c + CONFIG_DISCARD_ALIGN, blk->disk->block_bytes / DISK_SECTOR_SIZE);
	store_le32(c + CONFIG_ZEROES_SECTORS, MAX_RANGE_SECTORS);
	store_le32(c + CONFIG_ZEROES_SEGS, 1);
	c[CONFIG_ZEROES_MAY_UNMAP] = 1;
	blk->dev.config_size = CONFIG_BYTES;
}

/* 5.2.5.2: the one field that a driver may write, and only when it has accepted CONFIG_WCE. What was written
 * before the cache is turned off becomes durable with the next change, whose flush holds for all. */
static void blk_config_write(struct virtio_dev *dev, unsigned off, unsigned size, uint64_t value)
{
	struct blk *blk = (struct blk *)dev;

	if (off != CONFIG_WRITEBACK || size != 1 || value > 1)
		return;
	pthread_mutex_lock(&dev->lock);
	if (virtio_has(dev, F_CONFIG_WCE)) {
		dev->config[CONFIG_WRITEBACK] = (uint8_t)value;
		atomic_store(&blk->writeback, value != 0);
	}
	pthread_mutex_unlock(&dev->lock);
}

/* A driver that has not been heard finds the cache turned on. */
static void blk_stop(struct virtio_dev *dev)
{
	struct blk *blk = (struct blk *)dev;

	pthread_mutex_lock(&dev->lock);
	dev->config[CONFIG_WRITEBACK] = 1;
	pthread_mutex_unlock(&dev->lock);
	atomic_store(&blk->writeback, true);
}

struct resize {
	struct blk *blk;
	uint64_t size_bytes;
	int result;
};

static void resize_in_loop(void *arg)
{
	struct resize *r = arg;
	struct blk *blk = r->blk;
	uint8_t capacity[8];

	r->result = virtio_grow_disk(&blk->dev, blk->disk, r->size_bytes, blk->block_bytes);
	if (r->result < 0)
		return;
	capacity_store(blk, capacity);
	virtio_config_set(&blk->dev, CONFIG_CAPACITY, capacity, sizeof(capacity));
}

int virtio_blk_resize(struct virtio_dev *dev, uint64_t size_bytes)
{
	struct resize r = { .blk = (struct blk *)dev, .size_bytes = size_bytes };

	loop_call(dev->env.loop, resize_in_loop, &r);
	return r.result;
}

static const struct virtio_class blk_class = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLK,
	.pci_class = 0x010000,
	.queue_count = 1,
	.queue_size = QUEUE_SIZE,
	.stop = blk_stop,
	.work = blk_work,
	.drain = blk_drain,
	.config_write = blk_config_write,
	.free = blk_free,
};

struct virtio_dev *virtio_blk_new(const struct virtio_env *env, struct disk *disk,
				  const struct virtio_blk_options *options, GError **err)
{
	const char *serial = options->serial ? options->serial : "";
	struct blk *blk = g_new0(struct blk, 1);

	blk->disk = disk;
	blk->block_bytes = options->block_bytes ? options->block_bytes : DISK_SECTOR_SIZE;
	blk->dev.queue_count = options->queues;
	atomic_init(&blk->writeback, true);
	if (!virtio_init(&blk->dev, &blk_class, env, err))
		goto err;
	memcpy(blk->id, serial, strnlen(serial, ID_BYTES));
	blk->dev.features |= F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
	if (blk->dev.queue_count > 1)
		blk->dev.features |= F_MQ;
	if (disk->readonly)
		blk->dev.features |= F_RO;
	else if (disk->can_discard)
		blk->dev.features |= F_DISCARD | F_WRITE_ZEROES;
	fill_config(blk);
	blk->reqs = g_new0(struct blk_req, (size_t)QUEUE_SIZE * blk->dev.queue_count);
	if (virtio_attach(&blk->dev, err))
		return &blk->dev;
err:
	blk_free(&blk->dev);
	return NULL;
}
