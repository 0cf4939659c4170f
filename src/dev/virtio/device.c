// SPDX-License-Identifier: Apache-2.0
/* device.c - the life of a virtio device: status, queues, kicks, interrupts. */
#include "dev/virtio/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"

#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

#define TRANSPORT_FEATURES                                                                         \
	(VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)

/* MSI-X where the guest enabled it, else INTx with its status register (4.1.4.5). */
static void interrupt(struct virtio_dev *dev, uint16_t vector, uint8_t isr)
{
	if (pci_msix_is_enabled(&dev->pci)) {
		pci_msix_notify(&dev->pci, vector);
		return;
	}
	/* Together under the lock: a read of the status register must not lower a line that was
	 * raised for a bit it has not seen. */
	pthread_mutex_lock(&dev->lock);
	dev->isr |= isr;
	pci_set_intx(&dev->pci, true);
	pthread_mutex_unlock(&dev->lock);
}

uint8_t virtio_read_isr(struct virtio_dev *dev)
{
	uint8_t isr;

	pthread_mutex_lock(&dev->lock);
	isr = dev->isr;
	dev->isr = 0;
	pci_set_intx(&dev->pci, false);
	pthread_mutex_unlock(&dev->lock);
	return isr;
}

void virtio_signal(struct virtio_dev *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];

	if (!virtq_should_notify(&q->vq))
		return;
	interrupt(dev, __atomic_load_n(&q->msix_vector, __ATOMIC_RELAXED), ISR_QUEUE);
}

static void interrupt_config(struct virtio_dev *dev)
{
	uint16_t vector;
	bool ok;

	pthread_mutex_lock(&dev->lock);
	ok = dev->status & VIRTIO_STATUS_DRIVER_OK;
	vector = dev->config_vector;
	pthread_mutex_unlock(&dev->lock);
	if (ok)
		interrupt(dev, vector, ISR_CONFIG);
}

void virtio_config_set(struct virtio_dev *dev, unsigned off, const void *bytes, unsigned len)
{
	pthread_mutex_lock(&dev->lock);
	memcpy(dev->config + off, bytes, len);
	dev->generation++;
	pthread_mutex_unlock(&dev->lock);
	interrupt_config(dev);
}

/* Section 2.1.2. The device does nothing more until the driver resets it. */
void virtio_fail(struct virtio_dev *dev, const char *why)
{
	if (!dev->running)
		return;
	dev->running = false;
	/* Whoever is working a queue further up the stack finds nothing more in it. */
	for (unsigned i = 0; i < dev->queue_count; i++)
		dev->queues[i].vq.broken = true;
	pthread_mutex_lock(&dev->lock);
	dev->status |= VIRTIO_STATUS_NEEDS_RESET;
	pthread_mutex_unlock(&dev->lock);
	log_guest("%s in slot %u: the driver broke the rules (%s); stopped until it resets",
		  dev->class->name, dev->pci.slot, why);
	interrupt_config(dev);
}

struct virtq *virtio_vq(struct virtio_dev *dev, unsigned index)
{
	return dev->running && dev->queues[index].running ? &dev->queues[index].vq : NULL;
}

bool virtio_pop(struct virtio_dev *dev, unsigned index, struct virtq_elem *elem)
{
	struct virtq *vq = virtio_vq(dev, index);
	int r = vq && !dev->paused ? virtq_pop(vq, elem) : 0;

	if (r < 0)
		virtio_fail(dev, vq->why);
	return r > 0;
}

void virtio_kick(struct virtio_dev *dev, unsigned index)
{
	uint64_t one = 1;
	/* Fails only on a full counter, which wakes the loop just as well. */
	ssize_t n = write(dev->queues[index].kick_fd, &one, sizeof(one));

	(void)n;
}

void virtio_work(struct virtio_queue *q)
{
	struct virtio_dev *dev = q->dev;
	unsigned index = (unsigned)(q - dev->queues);

	if (!dev->paused && virtio_vq(dev, index) && dev->class->work(dev, index))
		virtio_kick(dev, index);
}

static void kicked(void *arg, uint32_t events)
{
	struct virtio_queue *q = arg;
	uint64_t count;

	if (read(q->kick_fd, &count, sizeof(count)) == sizeof(count))
		virtio_work(q);
}

static void queue_start(struct virtio_dev *dev, unsigned index)
{
	struct virtio_queue *q = &dev->queues[index];
	struct virtq_config cfg;
	bool enabled;

	pthread_mutex_lock(&dev->lock);
	enabled = q->enabled;
	cfg = q->cfg;
	cfg.packed = virtio_has(dev, VIRTIO_F_RING_PACKED);
	cfg.event_idx = virtio_has(dev, VIRTIO_F_EVENT_IDX);
	cfg.indirect = virtio_has(dev, VIRTIO_F_INDIRECT_DESC);
	pthread_mutex_unlock(&dev->lock);
	if (!enabled || q->running)
		return;
	if (virtq_start(&q->vq, dev->env.mem, &cfg) < 0) {
		virtio_fail(dev, q->vq.why);
		return;
	}
	q->running = true;
}

static void start_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;
	bool ok;

	pthread_mutex_lock(&dev->lock);
	ok = (dev->status & VIRTIO_STATUS_DRIVER_OK) && !dev->resetting &&
	     !(dev->status & VIRTIO_STATUS_NEEDS_RESET);
	pthread_mutex_unlock(&dev->lock);
	if (!ok)
		return;
	if (!dev->running) {
		dev->running = true;
		for (unsigned i = 0; i < dev->queue_count; i++)
			queue_start(dev, i);
		if (dev->running && dev->class->start)
			dev->class->start(dev);
	}
	/* Some drivers fill, and even kick, a queue before DRIVER_OK. */
	for (unsigned i = 0; i < dev->queue_count; i++) {
		if (dev->running)
			queue_start(dev, i);
		virtio_kick(dev, i);
	}
}

/* Loop's thread, with no request under way: back to the state after power-up, 2.4.1. */
static void reset_finish(struct virtio_dev *dev)
{
	dev->reset_waits = false;
	pthread_mutex_lock(&dev->lock);
	dev->resetting = false;
	dev->status = 0;
	dev->isr = 0;
	dev->driver_features = 0;
	dev->feature_select = 0;
	dev->driver_feature_select = 0;
	dev->queue_select = 0;
	dev->config_vector = PCI_MSIX_NO_VECTOR;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		q->cfg = (struct virtq_config){ .size = dev->class->queue_size };
		q->enabled = false;
		__atomic_store_n(&q->msix_vector, PCI_MSIX_NO_VECTOR, __ATOMIC_RELAXED);
		q->running = false;
		virtio_pace_reset(q);
	}
	pci_set_intx(&dev->pci, false);
	pthread_mutex_unlock(&dev->lock);
}

static void reset_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;
	bool resetting;

	pthread_mutex_lock(&dev->lock);
	resetting = dev->resetting;
	pthread_mutex_unlock(&dev->lock);
	if (!resetting)
		return;
	dev->running = false;
	if (dev->class->stop)
		dev->class->stop(dev);
	if (dev->under_way == 0)
		reset_finish(dev);
	else
		dev->reset_waits = true;
}

void virtio_hold(struct virtio_dev *dev)
{
	dev->under_way++;
}

void virtio_release(struct virtio_dev *dev)
{
	/* A reset that is asked for but has not come to the loop finds nothing under way when it does. To
	 * finish it here would pull the queues from under whoever works one further up the stack. */
	if (--dev->under_way == 0 && dev->reset_waits)
		reset_finish(dev);
}

/* FEATURES_OK holds only over a subset that includes VERSION_1, 2.2.2 and 3.1.1. */
static bool features_fit(const struct virtio_dev *dev)
{
	return !(dev->driver_features & ~dev->features) && virtio_has(dev, VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio_dev *dev, uint8_t status)
{
	bool start = false;

	pthread_mutex_lock(&dev->lock);
	if (dev->resetting) {
		pthread_mutex_unlock(&dev->lock);
		return;
	}
	if (status == 0) {
		dev->resetting = true;
		pthread_mutex_unlock(&dev->lock);
		loop_call(dev->env.loop, reset_in_loop, dev);
		return;
	}
	if ((status & VIRTIO_STATUS_FEATURES_OK) && !features_fit(dev))
		status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	if (!(status & VIRTIO_STATUS_FEATURES_OK))
		status &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
	/* Bits are only ever added, but for reset. */
	status |= dev->status;
	start = (status & ~dev->status) & VIRTIO_STATUS_DRIVER_OK;
	dev->status = status;
	pthread_mutex_unlock(&dev->lock);
	if (start)
		loop_call(dev->env.loop, start_in_loop, dev);
}

void virtio_enable_queue(struct virtio_dev *dev, unsigned index)
{
	bool live;

	pthread_mutex_lock(&dev->lock);
	dev->queues[index].enabled = true;
	live = dev->status & VIRTIO_STATUS_DRIVER_OK;
	pthread_mutex_unlock(&dev->lock);
	if (live)
		loop_call(dev->env.loop, start_in_loop, dev);
}

void virtio_pause_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;

	dev->paused = true;
	if (dev->class->drain)
		dev->class->drain(dev);
}

void virtio_resume_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;

	dev->paused = false;
	for (unsigned i = 0; i < dev->queue_count; i++)
		virtio_kick(dev, i);
}

void virtio_pause(struct virtio_dev *dev)
{
	loop_call(dev->env.loop, virtio_pause_in_loop, dev);
}

struct pause {
	struct virtio_dev *dev;
	void (*done)(void *arg);
	void *arg;
};

static void run_pause(void *arg)
{
	struct pause *p = arg;

	virtio_pause_in_loop(p->dev);
	p->done(p->arg);
	g_free(p);
}

void virtio_pause_post(struct virtio_dev *dev, void (*done)(void *arg), void *arg)
{
	struct pause *p = g_new(struct pause, 1);

	*p = (struct pause){ dev, done, arg };
	loop_post(dev->env.loop, run_pause, p);
}

void virtio_resume(struct virtio_dev *dev)
{
	loop_call(dev->env.loop, virtio_resume_in_loop, dev);
}

static bool set_error(const struct virtio_dev *dev, int error, const char *what, GError **err)
{
	g_set_error(err, BASE_ERROR, error, "%s: %s: %s", dev->class->name, what,
		    g_strerror(error));
	return false;
}

bool virtio_init(struct virtio_dev *dev, const struct virtio_class *class,
		 const struct virtio_env *env, GError **err)
{
	dev->class = class;
	dev->env = *env;
	dev->features = TRANSPORT_FEATURES;
	pthread_mutex_init(&dev->lock, NULL);
	if (!dev->queue_count)
		dev->queue_count = class->queue_count;
	for (unsigned i = 0; i < dev->queue_count; i++) {
		dev->queues[i].dev = dev;
		dev->queues[i].kick_fd = -1;
	}
	if (!virtio_pace_init(dev) || virtio_pci_init(dev) < 0)
		return set_error(dev, ENOMEM, "cannot be made", err);
	reset_finish(dev);
	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->kick_fd < 0)
			return set_error(dev, errno, "cannot make an eventfd", err);
	}
	return true;
}

static void watch_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;

	for (unsigned i = 0; i < dev->queue_count; i++) {
		struct virtio_queue *q = &dev->queues[i];

		q->watch = loop_fd_add(dev->env.loop, q->kick_fd, EPOLLIN, kicked, q);
	}
}

bool virtio_attach(struct virtio_dev *dev, GError **err)
{
	int r;

	loop_call(dev->env.loop, watch_in_loop, dev);
	for (unsigned i = 0; i < dev->queue_count; i++)
		if (!dev->queues[i].watch)
			return set_error(dev, ENOMEM, "cannot watch an eventfd", err);
	r = pci_bus_add(dev->env.pci, &dev->pci, dev->env.slot);
	return r == 0 || set_error(dev, -r, "no room on the PCI bus", err);
}

static void unwatch_in_loop(void *arg)
{
	struct virtio_dev *dev = arg;

	for (unsigned i = 0; i < dev->queue_count; i++)
		loop_fd_remove(dev->queues[i].watch);
	virtio_pace_fini(dev);
}

void virtio_fini(struct virtio_dev *dev)
{
	pci_bus_remove(dev->env.pci, &dev->pci);
	loop_call(dev->env.loop, virtio_pause_in_loop, dev);
	loop_call(dev->env.loop, unwatch_in_loop, dev);
	for (unsigned i = 0; i < dev->queue_count; i++)
		if (dev->queues[i].kick_fd >= 0)
			close(dev->queues[i].kick_fd);
	pci_dev_fini(&dev->pci);
	pthread_mutex_destroy(&dev->lock);
}

void virtio_free(struct virtio_dev *dev)
{
	if (dev)
		dev->class->free(dev);
}
