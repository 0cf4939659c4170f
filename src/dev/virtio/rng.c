// SPDX-License-Identifier: Apache-2.0
/*
 * rng.c - the entropy device: virtio 1.2, section 5.4. The model of a virtio device:
 *
 *  1. a struct that embeds struct virtio_dev first;
 *  2. work(): pop elements, do the work, push them, signal;
 *  3. free(): virtio_fini(), then the device's own memory;
 *  4. a struct virtio_class that names these and the PCI identity;
 *  5. a constructor: virtio_init(), features and configuration, virtio_attach().
 */
#include "dev/virtio/device.h"

#include <sys/random.h>

#define QUEUE 0u
/* A turn serves so many requests of at most so many bytes each; a longer buffer comes back partly
 * filled, which 5.4.6.1 allows. */
#define REQUESTS_PER_TURN 64u
#define REQUEST_BYTES	  4096u

struct rng {
	struct virtio_dev dev;
	struct virtq_elem elem;
};

static uint32_t fill(struct virtq_elem *elem)
{
	uint8_t bytes[REQUEST_BYTES];
	size_t want = elem->in_bytes < sizeof(bytes) ? elem->in_bytes : sizeof(bytes);
	/* Never blocks once the host's pool is up; until then an empty answer makes the driver
	 * ask again. */
	ssize_t got = getrandom(bytes, want, GRND_NONBLOCK);

	return got < 0 ? 0 : (uint32_t)virtq_elem_write(elem, 0, bytes, (size_t)got);
}

static bool rng_work(struct virtio_dev *dev, unsigned index)
{
	struct rng *rng = (struct rng *)dev;
	struct virtq *vq = virtio_vq(dev, index);
	unsigned done = 0;

	while (done < REQUESTS_PER_TURN && virtio_pop(dev, index, &rng->elem)) {
		virtq_push(vq, &rng->elem, fill(&rng->elem));
		done++;
	}
	virtio_signal(dev, index);
	/* The ring was looked at to its end, or will be in the next turn; either way the driver's
	 * next kick is wanted. */
	return done == REQUESTS_PER_TURN || virtq_set_kick(vq, true);
}

static void rng_free(struct virtio_dev *dev)
{
	struct rng *rng = (struct rng *)dev;

	virtio_fini(dev);
	g_free(rng);
}

static const struct virtio_class rng_class = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.pci_class = 0x00ff00,
	.queue_count = 1,
	.queue_size = 64,
	.work = rng_work,
	.free = rng_free,
};

struct virtio_dev *virtio_rng_new(const struct virtio_env *env, GError **err)
{
	struct rng *rng = g_new0(struct rng, 1);

	if (virtio_init(&rng->dev, &rng_class, env, err) && virtio_attach(&rng->dev, err))
		return &rng->dev;
	rng_free(&rng->dev);
	return NULL;
}
