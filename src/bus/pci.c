// SPDX-License-Identifier: Apache-2.0
/* pci.c - the PCI root bus: slots, configuration accesses by port and by ECAM, the host bridge. */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "bus/irq.h"
#include "bus/pci_int.h"

#define PORT_ADDRESS 0xcf8u
#define PORT_RESET   0xcf9u
#define PORT_DATA    0xcfcu

#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_BITS   0x80fffffcu
#define RESET_BITS     0x0eu
#define RESET_CPU      0x04u

/* Decode on, bus mastering, INTx off. The rest of the register reads as zero. */
#define COMMAND_BITS (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NOINTX)

static uint64_t all_ones(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

/* Bus 0, function 0 of each slot; anything else is absent. pci->lock held. */
static struct pci_dev *find_dev(struct pci_bus *pci, unsigned bus, unsigned devfn)
{
	return bus == 0 && (devfn & 7) == 0 ? pci->devs[devfn >> 3] : NULL;
}

static uint64_t config_read(struct pci_dev *dev, unsigned off, unsigned size)
{
	uint64_t value = 0;
	bool intx;

	if (off >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - off)
		return all_ones(size);
	if (dev->ops->config_read)
		dev->ops->config_read(dev, off, size);
	pthread_mutex_lock(&dev->msix_lock);
	intx = dev->intx_level;
	pthread_mutex_unlock(&dev->msix_lock);
	dev->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTX;
	if (intx)
		dev->config[PCI_STATUS] |= PCI_STATUS_INTX;
	memcpy(&value, dev->config + off, size);
	return value;
}

static void config_write(struct pci_dev *dev, unsigned off, unsigned size, uint64_t value)
{
	if (off >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - off)
		return;
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = dev->write_mask[off + i];
		uint8_t byte = (uint8_t)(value >> (i * 8));

		dev->config[off + i] = (dev->config[off + i] & ~mask) | (byte & mask);
	}
	pci_msix_config_written(dev);
	pci_bar_update(dev, false);
	if (dev->ops->config_written)
		dev->ops->config_written(dev, off, size);
}

static uint64_t address_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, address_port);
	uint64_t value = all_ones(size);

	pthread_mutex_lock(&pci->lock);
	if (off == 0 && size == 4)
		value = pci->address;
	else if (off == PORT_RESET - PORT_ADDRESS && size == 1)
		value = pci->reset_control;
	pthread_mutex_unlock(&pci->lock);
	return value;
}

/* PCI Local Bus 3.0, 3.2.2.3.2: only a whole doubleword reaches the address register. */
static void address_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, address_port);
	bool reset = false;

	pthread_mutex_lock(&pci->lock);
	if (off == 0 && size == 4) {
		pci->address = (uint32_t)value & ADDRESS_BITS;
	} else if (off == PORT_RESET - PORT_ADDRESS && size == 1) {
		pci->reset_control = value & RESET_BITS & ~RESET_CPU;
		reset = value & RESET_CPU;
	}
	pthread_mutex_unlock(&pci->lock);
	if (reset && pci->reset)
		pci->reset(pci->reset_arg);
}

static uint64_t data_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, data_port);
	uint64_t value = all_ones(size);
	struct pci_dev *dev;
	uint32_t a;

	pthread_mutex_lock(&pci->lock);
	a = pci->address;
	dev = find_dev(pci, (a >> 16) & 0xff, (a >> 8) & 0xff);
	if ((a & ADDRESS_ENABLE) && dev)
		value = config_read(dev, (a & 0xfc) + (unsigned)off, size);
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void data_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, data_port);
	struct pci_dev *dev;
	uint32_t a;

	pthread_mutex_lock(&pci->lock);
	a = pci->address;
	dev = find_dev(pci, (a >> 16) & 0xff, (a >> 8) & 0xff);
	if ((a & ADDRESS_ENABLE) && dev)
		config_write(dev, (a & 0xfc) + (unsigned)off, size, value);
	pthread_mutex_unlock(&pci->lock);
}

/* PCI Express 5.0, 7.2.2: bus in bits 20..27, device and function in 12..19, register below. */
static uint64_t ecam_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, ecam);
	uint64_t value = all_ones(size);
	struct pci_dev *dev;

	pthread_mutex_lock(&pci->lock);
	dev = find_dev(pci, (unsigned)(off >> 20), (off >> 12) & 0xff);
	if (dev)
		value = config_read(dev, off & 0xfff, size);
	pthread_mutex_unlock(&pci->lock);
	return value;
}

static void ecam_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bus *pci = container_of(region, struct pci_bus, ecam);
	struct pci_dev *dev;

	pthread_mutex_lock(&pci->lock);
	dev = find_dev(pci, (unsigned)(off >> 20), (off >> 12) & 0xff);
	if (dev)
		config_write(dev, off & 0xfff, size, value);
	pthread_mutex_unlock(&pci->lock);
}

static const struct bus_region_ops address_ops = { .read = address_read, .write = address_write };
static const struct bus_region_ops data_ops = { .read = data_read, .write = data_write };
static const struct bus_region_ops ecam_ops = { .read = ecam_read, .write = ecam_write };
static const struct pci_dev_ops bridge_ops = { 0 };

/* The generic PCIe host bridge that QEMU's "gpex" shows: no guest has quirks for it. */
static const struct pci_id bridge_id = {
	.vendor = 0x1b36,
	.device = 0x0008,
	.subsystem_vendor = 0x1af4,
	.subsystem = 0x1100,
	.class_code = 0x060000,
};

struct pci_bus *pci_bus_new(struct bus *bus, struct irq_chip *irq)
{
	struct pci_bus *pci = calloc(1, sizeof(*pci));

	if (!pci)
		return NULL;
	pci->bus = bus;
	pci->irq = irq;
	pci->next_mmio32 = PCI_MMIO32_BASE;
	pci->next_pio = PCI_PIO_BASE;
	pthread_mutex_init(&pci->lock, NULL);
	pthread_mutex_init(&pci->intx_lock, NULL);
	pci->address_port = (struct bus_region){
		.name = "pci address", .space = BUS_PIO, .base = PORT_ADDRESS, .size = 4,
		.ops = &address_ops,
	};
	pci->data_port = (struct bus_region){
		.name = "pci data", .space = BUS_PIO, .base = PORT_DATA, .size = 4,
		.ops = &data_ops,
	};
	pci->ecam = (struct bus_region){
		.name = "pci ecam", .space = BUS_MMIO, .base = PCI_ECAM_BASE,
		.size = PCI_ECAM_SIZE, .ops = &ecam_ops,
	};
	pci_dev_init(&pci->bridge, "host bridge", &bridge_ops, &bridge_id);
	if (bus_add(bus, &pci->address_port) < 0)
		goto err_free;
	if (bus_add(bus, &pci->data_port) < 0)
		goto err_address;
	if (bus_add(bus, &pci->ecam) < 0)
		goto err_data;
	pci->bridge.bus = pci;
	pci->devs[0] = &pci->bridge;
	return pci;

err_data:
	bus_remove(bus, &pci->data_port);
err_address:
	bus_remove(bus, &pci->address_port);
err_free:
	pci_dev_fini(&pci->bridge);
	free(pci);
	return NULL;
}

void pci_bus_free(struct pci_bus *pci)
{
	if (!pci)
		return;
	bus_remove(pci->bus, &pci->ecam);
	bus_remove(pci->bus, &pci->data_port);
	bus_remove(pci->bus, &pci->address_port);
	pci_dev_fini(&pci->bridge);
	pthread_mutex_destroy(&pci->intx_lock);
	pthread_mutex_destroy(&pci->lock);
	free(pci);
}

int pci_bus_add(struct pci_bus *pci, struct pci_dev *dev, unsigned slot)
{
	int r = 0;

	pthread_mutex_lock(&pci->lock);
	if (slot == PCI_SLOT_ANY)
		for (slot = 1; slot < PCI_SLOTS && pci->devs[slot]; slot++)
			;
	if (slot >= PCI_SLOTS)
		r = -ENOSPC;
	else if (pci->devs[slot])
		r = -EBUSY;
	else
		r = pci_bar_assign(pci, dev);
	if (r == 0) {
		dev->bus = pci;
		dev->slot = slot;
		if (dev->config[PCI_INT_PIN])
			dev->config[PCI_INT_LINE] = (uint8_t)pci_slot_gsi(slot);
		pci->devs[slot] = dev;
	}
	pthread_mutex_unlock(&pci->lock);
	return r;
}

void pci_bus_remove(struct pci_bus *pci, struct pci_dev *dev)
{
	pci_set_intx(dev, false);
	pthread_mutex_lock(&pci->lock);
	if (dev->bus == pci && pci->devs[dev->slot] == dev) {
		pci_bar_update(dev, true);
		pci->devs[dev->slot] = NULL;
	}
	pthread_mutex_unlock(&pci->lock);
}

struct bus *pci_bus_memory(struct pci_bus *pci)
{
	return pci->bus;
}

void pci_bus_set_reset(struct pci_bus *pci, void (*reset)(void *arg), void *arg)
{
	pci->reset = reset;
	pci->reset_arg = arg;
}

unsigned pci_slot_gsi(unsigned slot)
{
	return IRQ_GSI_PCI0 + slot % 4;
}

void pci_dev_init(struct pci_dev *dev, const char *name, const struct pci_dev_ops *ops,
		  const struct pci_id *id)
{
	memset(dev, 0, sizeof(*dev));
	dev->ops = ops;
	dev->name = name;
	dev->cap_end = 0x40;
	pthread_mutex_init(&dev->msix_lock, NULL);
	store_le16(dev->config + 0x00, id->vendor);
	store_le16(dev->config + 0x02, id->device);
	store_le32(dev->config + 0x08, (id->class_code << 8) | id->revision);
	store_le16(dev->config + 0x2c, id->subsystem_vendor);
	store_le16(dev->config + 0x2e, id->subsystem);
	store_le16(dev->write_mask + PCI_COMMAND, COMMAND_BITS);
	dev->write_mask[0x0c] = 0xff; /* cache line size: plain storage */
	dev->write_mask[PCI_INT_LINE] = 0xff;
}

void pci_dev_fini(struct pci_dev *dev)
{
	free(dev->msix_table);
	dev->msix_table = NULL;
	pthread_mutex_destroy(&dev->msix_lock);
}

unsigned pci_dev_add_cap(struct pci_dev *dev, uint8_t id, unsigned len)
{
	unsigned off = dev->cap_end;

	dev->config[dev->cap_last ? dev->cap_last + 1 : PCI_CAP_PTR] = (uint8_t)off;
	dev->config[PCI_STATUS] |= PCI_STATUS_CAPS;
	dev->config[off] = id;
	dev->cap_last = off;
	dev->cap_end = (unsigned)align_up(off + len, 4);
	return off;
}

void pci_dev_add_intx(struct pci_dev *dev)
{
	dev->config[PCI_INT_PIN] = 1; /* INTA */
}
