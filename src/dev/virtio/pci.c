// SPDX-License-Identifier: Apache-2.0
/*
 * pci.c - virtio over PCI, modern form only: virtio 1.2, section 4.1.
 *
 * One memory BAR holds every structure; vendor capabilities point into it:
 *
 *	0000 common configuration   1000 ISR status   2000 device configuration
 *	3000 notifications, 4 bytes a queue           4000 MSI-X table   4800 pending bits
 */
#include "dev/virtio/device.h"

#include <string.h>

#include "base/bits.h"

#define BAR	   0u
#define BAR_SIZE   0x8000u
#define PART_SIZE  0x1000u
#define COMMON_OFF 0x0000u
#define ISR_OFF	   0x1000u
#define DEVICE_OFF 0x2000u
#define NOTIFY_OFF 0x3000u
#define TABLE_OFF  0x4000u
#define PBA_OFF	   0x4800u

#define NOTIFY_STEP 4u

#define CAP_COMMON 1u
#define CAP_NOTIFY 2u
#define CAP_ISR	   3u
#define CAP_DEVICE 4u
#define CAP_PCI	   5u

#define CAP_LEN	       16u
#define CAP_NOTIFY_LEN 20u /* and the multiplier */
#define CAP_PCI_LEN    20u /* and the data window */

/* Common configuration, 4.1.4.3. */
#define COMMON_DEVICE_FEATURE_SELECT 0u
#define COMMON_DEVICE_FEATURE	     4u
#define COMMON_DRIVER_FEATURE_SELECT 8u
#define COMMON_DRIVER_FEATURE	     12u
#define COMMON_CONFIG_VECTOR	     16u
#define COMMON_NUM_QUEUES	     18u
#define COMMON_STATUS		     20u
#define COMMON_GENERATION	     21u
#define COMMON_QUEUE_SELECT	     22u
#define COMMON_QUEUE_SIZE	     24u
#define COMMON_QUEUE_VECTOR	     26u
#define COMMON_QUEUE_ENABLE	     28u
#define COMMON_QUEUE_NOTIFY_OFF	     30u
#define COMMON_QUEUE_DESC	     32u
#define COMMON_QUEUE_DRIVER	     40u
#define COMMON_QUEUE_DEVICE	     48u
#define COMMON_QUEUE_NOTIFY_DATA     56u
#define COMMON_SIZE		     64u

static struct virtio_dev *from_pci(struct pci_dev *pci)
{
	return container_of(pci, struct virtio_dev, pci);
}

/* lock held. */
static struct virtio_queue *selected(struct virtio_dev *dev)
{
	return dev->queue_select < dev->queue_count ? &dev->queues[dev->queue_select] : NULL;
}

/* lock held. The whole structure as it stands; reads of any width are cut out of it. */
static void common_image(struct virtio_dev *dev, uint8_t *c)
{
	const struct virtio_queue *q = selected(dev);

	memset(c, 0, COMMON_SIZE);
	store_le32(c + COMMON_DEVICE_FEATURE_SELECT, dev->feature_select);
	if (dev->feature_select < 2)
		store_le32(c + COMMON_DEVICE_FEATURE,
			   (uint32_t)(dev->features >> (32 * dev->feature_select)));
	store_le32(c + COMMON_DRIVER_FEATURE_SELECT, dev->driver_feature_select);
	if (dev->driver_feature_select < 2)
		store_le32(c + COMMON_DRIVER_FEATURE,
			   (uint32_t)(dev->driver_features >> (32 * dev->driver_feature_select)));
	store_le16(c + COMMON_CONFIG_VECTOR, dev->config_vector);
	store_le16(c + COMMON_NUM_QUEUES, (uint16_t)dev->queue_count);
	c[COMMON_STATUS] = dev->status;
	c[COMMON_GENERATION] = dev->generation;
	store_le16(c + COMMON_QUEUE_SELECT, dev->queue_select);
	if (!q) /* 4.1.4.3.1: size 0 says that there is no such queue */
		return;
	store_le16(c + COMMON_QUEUE_SIZE, q->cfg.size);
	store_le16(c + COMMON_QUEUE_VECTOR, q->msix_vector);
	store_le16(c + COMMON_QUEUE_ENABLE, q->enabled);
	store_le16(c + COMMON_QUEUE_NOTIFY_OFF, dev->queue_select);
	store_le64(c + COMMON_QUEUE_DESC, q->cfg.desc);
	store_le64(c + COMMON_QUEUE_DRIVER, q->cfg.driver);
	store_le64(c + COMMON_QUEUE_DEVICE, q->cfg.device);
	store_le16(c + COMMON_QUEUE_NOTIFY_DATA, dev->queue_select);
}

static uint64_t window(const uint8_t *bytes, unsigned total, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	if (off < total)
		memcpy(&value, bytes + off, size < total - off ? size : total - off);
	return value;
}

static uint64_t common_read(struct virtio_dev *dev, uint64_t off, unsigned size)
{
	uint8_t image[COMMON_SIZE];

	pthread_mutex_lock(&dev->lock);
	common_image(dev, image);
	pthread_mutex_unlock(&dev->lock);
	return window(image, sizeof(image), off, size);
}

static uint64_t device_read(struct virtio_dev *dev, uint64_t off, unsigned size)
{
	uint64_t value;

	pthread_mutex_lock(&dev->lock);
	value = window(dev->config, dev->config_size, off, size);
	pthread_mutex_unlock(&dev->lock);
	return value;
}

static uint16_t valid_vector(const struct virtio_dev *dev, uint64_t vector)
{
	return vector < dev->pci.msix_count ? (uint16_t)vector : PCI_MSIX_NO_VECTOR;
}

/* lock held. Not once the features are settled. */
static void write_features(struct virtio_dev *dev, uint32_t value)
{
	unsigned shift = 32 * dev->driver_feature_select;

	if (dev->driver_feature_select >= 2 || (dev->status & VIRTIO_STATUS_FEATURES_OK))
		return;
	dev->driver_features &= ~(0xffffffffull << shift);
	dev->driver_features |= (uint64_t)value << shift;
}

/* lock held. Addresses are written as one quadword or as two doublewords. */
static void write_address(gpa_t *address, bool upper, unsigned size, uint64_t value)
{
	if (size == 8 && !upper)
		*address = value;
	else if (size == 4 && upper)
		*address = (*address & 0xffffffffu) | value << 32;
	else if (size == 4)
		*address = (*address & ~0xffffffffull) | (uint32_t)value;
}

/* lock held. The registers of the selected queue, which rest once it is enabled. */
static void write_queue(struct virtio_dev *dev, uint64_t off, unsigned size, uint64_t value)
{
	struct virtio_queue *q = selected(dev);

	if (!q)
		return;
	if (off == COMMON_QUEUE_VECTOR) {
		__atomic_store_n(&q->msix_vector, valid_vector(dev, value), __ATOMIC_RELAXED);
		return;
	}
	if (q->enabled)
		return;
	switch (off) {
	case COMMON_QUEUE_SIZE:
		if (value <= dev->class->queue_size)
			q->cfg.size = (uint16_t)value;
		break;
	case COMMON_QUEUE_DESC:
	case COMMON_QUEUE_DESC + 4:
		write_address(&q->cfg.desc, off & 4, size, value);
		break;
	case COMMON_QUEUE_DRIVER:
	case COMMON_QUEUE_DRIVER + 4:
		write_address(&q->cfg.driver, off & 4, size, value);
		break;
	case COMMON_QUEUE_DEVICE:
	case COMMON_QUEUE_DEVICE + 4:
		write_address(&q->cfg.device, off & 4, size, value);
		break;
	default:
		break;
	}
}

static void common_write(struct virtio_dev *dev, uint64_t off, unsigned size, uint64_t value)
{
	unsigned enable = VIRTIO_MAX_QUEUES;

	if (off == COMMON_STATUS) {
		virtio_set_status(dev, (uint8_t)value);
		return;
	}
	pthread_mutex_lock(&dev->lock);
	switch (off) {
	case COMMON_DEVICE_FEATURE_SELECT:
		dev->feature_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE_SELECT:
		dev->driver_feature_select = (uint32_t)value;
		break;
	case COMMON_DRIVER_FEATURE:
		write_features(dev, (uint32_t)value);
		break;
	case COMMON_CONFIG_VECTOR:
		dev->config_vector = valid_vector(dev, value);
		break;
	case COMMON_QUEUE_SELECT:
		dev->queue_select = (uint16_t)value;
		break;
	case COMMON_QUEUE_ENABLE:
		if (value == 1 && !dev->resetting && selected(dev))
			enable = dev->queue_select;
		break;
	default:
		write_queue(dev, off, size, value);
		break;
	}
	pthread_mutex_unlock(&dev->lock);
	if (enable < VIRTIO_MAX_QUEUES)
		virtio_enable_queue(dev, enable);
}

static uint64_t bar_read(struct pci_dev *pci, unsigned bar, uint64_t off, unsigned size)
{
	struct virtio_dev *dev = from_pci(pci);

	switch (off / PART_SIZE * PART_SIZE) {
	case COMMON_OFF:
		return common_read(dev, off, size);
	case ISR_OFF:
		return off == ISR_OFF ? virtio_read_isr(dev) : 0;
	case DEVICE_OFF:
		return device_read(dev, off - DEVICE_OFF, size);
	default:
		return 0;
	}
}

static void bar_write(struct pci_dev *pci, unsigned bar, uint64_t off, unsigned size,
		      uint64_t value)
{
	struct virtio_dev *dev = from_pci(pci);
	uint64_t queue = (off - NOTIFY_OFF) / NOTIFY_STEP;

	if (off < ISR_OFF)
		common_write(dev, off, size, value);
	else if (off >= DEVICE_OFF && off < NOTIFY_OFF && dev->class->config_write)
		dev->class->config_write(dev, (unsigned)(off - DEVICE_OFF), size, value);
	else if (off >= NOTIFY_OFF && queue < dev->queue_count)
		virtio_kick(dev, (unsigned)queue);
}

/* Two bytes long, as drivers write the queue's number, so that an engine can match it. */
static void bar_mapped(struct pci_dev *pci, unsigned bar, uint64_t base, bool mapped)
{
	struct virtio_dev *dev = from_pci(pci);
	struct bus *bus = pci_bus_memory(pci->bus);

	for (unsigned i = 0; i < dev->queue_count; i++) {
		uint64_t addr = base + NOTIFY_OFF + i * NOTIFY_STEP;

		/* Refused, a notification is an ordinary write and ends in bar_write(). */
		if (mapped)
			(void)bus_ioeventfd_add(bus, BUS_MMIO, addr, 2, dev->queues[i].kick_fd);
		else
			bus_ioeventfd_remove(bus, BUS_MMIO, addr, 2, dev->queues[i].kick_fd);
	}
}

/* 4.1.4.9: a window through configuration space, for firmware that cannot map BARs. Returns the
 * offset into the BAR, or -1 unless the driver has set the window up properly and [off, off+len)
 * of configuration space touches it. */
static int64_t pci_window(const struct virtio_dev *dev, unsigned off, unsigned len,
			  unsigned *ret_size)
{
	const uint8_t *cap = dev->pci.config + dev->cfg_cap;
	unsigned data = dev->cfg_cap + CAP_LEN;
	uint32_t at = load_le32(cap + 8);
	uint32_t size = load_le32(cap + 12);

	if (off >= data + 4 || off + len <= data)
		return -1;
	if (cap[4] != BAR || (size != 1 && size != 2 && size != 4) || at % size ||
	    at >= TABLE_OFF)
		return -1;
	*ret_size = size;
	return at;
}

static void config_read(struct pci_dev *pci, unsigned off, unsigned len)
{
	struct virtio_dev *dev = from_pci(pci);
	unsigned size;
	int64_t at = pci_window(dev, off, len, &size);

	if (at >= 0)
		store_le32(pci->config + dev->cfg_cap + CAP_LEN,
			   (uint32_t)bar_read(pci, BAR, (uint64_t)at, size));
}

static void config_written(struct pci_dev *pci, unsigned off, unsigned len)
{
	struct virtio_dev *dev = from_pci(pci);
	uint32_t value = load_le32(pci->config + dev->cfg_cap + CAP_LEN);
	unsigned size;
	int64_t at = pci_window(dev, off, len, &size);

	if (at >= 0)
		bar_write(pci, BAR, (uint64_t)at, size,
			  size == 4 ? value : value & ((1u << (size * 8)) - 1));
}

static const struct pci_dev_ops pci_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.bar_mapped = bar_mapped,
	.config_read = config_read,
	.config_written = config_written,
};

static unsigned add_cap(struct virtio_dev *dev, uint8_t type, unsigned len, uint32_t off,
			uint32_t size)
{
	unsigned at = pci_dev_add_cap(&dev->pci, PCI_CAP_VENDOR, len);
	uint8_t *cap = dev->pci.config + at;

	cap[2] = (uint8_t)len;
	cap[3] = type;
	cap[4] = BAR;
	store_le32(cap + 8, off);
	store_le32(cap + 12, size);
	return at;
}

int virtio_pci_init(struct virtio_dev *dev)
{
	const struct pci_id id = {
		.vendor = 0x1af4,
		.device = 0x1040 + dev->class->id,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = dev->class->pci_class,
		.revision = 1, /* 4.1.2.1: modern only */
	};
	unsigned at;

	pci_dev_init(&dev->pci, dev->class->name, &pci_ops, &id);
	pci_dev_set_bar(&dev->pci, BAR, PCI_BAR_MEM64, BAR_SIZE);
	pci_dev_add_intx(&dev->pci);
	add_cap(dev, CAP_COMMON, CAP_LEN, COMMON_OFF, COMMON_SIZE);
	at = add_cap(dev, CAP_NOTIFY, CAP_NOTIFY_LEN, NOTIFY_OFF,
		     dev->queue_count * NOTIFY_STEP);
	store_le32(dev->pci.config + at + CAP_LEN, NOTIFY_STEP);
	add_cap(dev, CAP_ISR, CAP_LEN, ISR_OFF, 1);
	add_cap(dev, CAP_DEVICE, CAP_LEN, DEVICE_OFF, PART_SIZE);
	dev->cfg_cap = add_cap(dev, CAP_PCI, CAP_PCI_LEN, 0, 0);
	memset(dev->pci.write_mask + dev->cfg_cap + 4, 0xff, 1);
	memset(dev->pci.write_mask + dev->cfg_cap + 8, 0xff, CAP_PCI_LEN - 8);
	/* A vector for the configuration, one for each queue. */
	return pci_dev_add_msix(&dev->pci, dev->queue_count + 1, BAR, TABLE_OFF, PBA_OFF);
}
