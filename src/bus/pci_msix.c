// SPDX-License-Identifier: Apache-2.0
/*
 * pci_msix.c - interrupts of a PCI device: the MSI-X table and pending bits, and the INTx line.
 *
 * PCI Local Bus 3.0, 6.8.2. A message is sent with the device's msix_lock held, so that once the
 * guest has read back a mask bit no further message leaves.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "bus/irq.h"
#include "bus/pci_int.h"

#define CONTROL_OFF    2u
#define CONTROL_ENABLE 0x8000u
#define CONTROL_MASK   0x4000u
#define ENTRY_SIZE     16u
#define ENTRY_MASKED   1u

int pci_dev_add_msix(struct pci_dev *dev, unsigned count, unsigned bar, uint64_t table_off,
		     uint64_t pba_off)
{
	uint8_t *cap;

	if (count == 0 || count > PCI_MSIX_MAX)
		return -EINVAL;
	dev->msix_table = calloc(count, sizeof(*dev->msix_table));
	if (!dev->msix_table)
		return -ENOMEM;
	for (unsigned i = 0; i < count; i++)
		dev->msix_table[i].masked = true;
	dev->msix_count = count;
	dev->msix_bar = bar;
	dev->msix_table_off = table_off;
	dev->msix_pba_off = pba_off;
	dev->msix_cap = pci_dev_add_cap(dev, PCI_CAP_MSIX, 12);
	cap = dev->config + dev->msix_cap;
	store_le16(cap + CONTROL_OFF, (uint16_t)(count - 1));
	store_le32(cap + 4, (uint32_t)table_off | bar);
	store_le32(cap + 8, (uint32_t)pba_off | bar);
	store_le16(dev->write_mask + dev->msix_cap + CONTROL_OFF, CONTROL_ENABLE | CONTROL_MASK);
	return 0;
}

/* msix_lock held. */
static void fire_pending(struct pci_dev *dev, struct pci_msix_entry *entry)
{
	if (!entry->pending || !dev->msix_enabled || dev->msix_function_masked || entry->masked)
		return;
	entry->pending = false;
	irq_send_msi(dev->bus->irq, entry->address, entry->data);
}

void pci_intx_update(struct pci_dev *dev)
{
	bool drive = dev->intx_level && !dev->intx_disabled && !dev->msix_enabled;
	struct pci_bus *pci = dev->bus;
	unsigned *holders;

	if (!pci || drive == dev->intx_driven)
		return;
	dev->intx_driven = drive;
	pthread_mutex_lock(&pci->intx_lock);
	holders = &pci->intx_holders[pci_slot_gsi(dev->slot) - IRQ_GSI_PCI0];
	if (drive ? (*holders)++ == 0 : --*holders == 0)
		irq_set_line(pci->irq, pci_slot_gsi(dev->slot), drive);
	pthread_mutex_unlock(&pci->intx_lock);
}

void pci_msix_config_written(struct pci_dev *dev)
{
	uint16_t control = 0;

	if (dev->msix_cap)
		control = load_le16(dev->config + dev->msix_cap + CONTROL_OFF);
	pthread_mutex_lock(&dev->msix_lock);
	dev->msix_enabled = control & CONTROL_ENABLE;
	dev->msix_function_masked = control & CONTROL_MASK;
	dev->intx_disabled = load_le16(dev->config + PCI_COMMAND) & PCI_COMMAND_NOINTX;
	for (unsigned i = 0; i < dev->msix_count; i++)
		fire_pending(dev, &dev->msix_table[i]);
	pci_intx_update(dev);
	pthread_mutex_unlock(&dev->msix_lock);
}

static uint64_t pba_size(const struct pci_dev *dev)
{
	return (dev->msix_count + 63) / 64 * 8;
}

bool pci_msix_covers(const struct pci_dev *dev, unsigned bar, uint64_t off)
{
	if (!dev->msix_cap || bar != dev->msix_bar)
		return false;
	return (off >= dev->msix_table_off &&
		off - dev->msix_table_off < (uint64_t)dev->msix_count * ENTRY_SIZE) ||
	       (off >= dev->msix_pba_off && off - dev->msix_pba_off < pba_size(dev));
}

/* msix_lock held. The aligned doubleword at @off of the BAR. */
static uint32_t read_word(const struct pci_dev *dev, uint64_t off)
{
	uint64_t at = off - dev->msix_table_off;
	const struct pci_msix_entry *entry;
	uint32_t bits = 0;

	if (off < dev->msix_table_off || at / ENTRY_SIZE >= dev->msix_count) {
		at = (off - dev->msix_pba_off) * 8;
		for (unsigned i = 0; i < 32 && at + i < dev->msix_count; i++)
			bits |= (uint32_t)dev->msix_table[at + i].pending << i;
		return bits;
	}
	entry = &dev->msix_table[at / ENTRY_SIZE];
	switch (at % ENTRY_SIZE / 4) {
	case 0:
		return (uint32_t)entry->address;
	case 1:
		return (uint32_t)(entry->address >> 32);
	case 2:
		return entry->data;
	default:
		return entry->masked ? ENTRY_MASKED : 0;
	}
}

/* msix_lock held. Pending bits are read-only. */
static void write_word(struct pci_dev *dev, uint64_t off, uint32_t value)
{
	uint64_t at = off - dev->msix_table_off;
	struct pci_msix_entry *entry;

	if (off < dev->msix_table_off || at / ENTRY_SIZE >= dev->msix_count)
		return;
	entry = &dev->msix_table[at / ENTRY_SIZE];
	switch (at % ENTRY_SIZE / 4) {
	case 0:
		entry->address = (entry->address & ~0xffffffffull) | (value & ~3u);
		break;
	case 1:
		entry->address = (entry->address & 0xffffffffu) | (uint64_t)value << 32;
		break;
	case 2:
		entry->data = value;
		break;
	default:
		entry->masked = value & ENTRY_MASKED;
		fire_pending(dev, entry);
	}
}

/* 6.8.2: aligned doublewords and quadwords; the rest is undefined, and here reads zero. */
uint64_t pci_msix_read(struct pci_dev *dev, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	if ((size != 4 && size != 8) || off % size)
		return 0;
	pthread_mutex_lock(&dev->msix_lock);
	value = read_word(dev, off);
	if (size == 8)
		value |= (uint64_t)read_word(dev, off + 4) << 32;
	pthread_mutex_unlock(&dev->msix_lock);
	return value;
}

void pci_msix_write(struct pci_dev *dev, uint64_t off, unsigned size, uint64_t value)
{
	if ((size != 4 && size != 8) || off % size)
		return;
	pthread_mutex_lock(&dev->msix_lock);
	write_word(dev, off, (uint32_t)value);
	if (size == 8)
		write_word(dev, off + 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&dev->msix_lock);
}

bool pci_msix_is_enabled(struct pci_dev *dev)
{
	bool enabled;

	pthread_mutex_lock(&dev->msix_lock);
	enabled = dev->msix_enabled;
	pthread_mutex_unlock(&dev->msix_lock);
	return enabled;
}

void pci_msix_notify(struct pci_dev *dev, unsigned vector)
{
	pthread_mutex_lock(&dev->msix_lock);
	if (vector < dev->msix_count && dev->msix_enabled && dev->bus) {
		dev->msix_table[vector].pending = true;
		fire_pending(dev, &dev->msix_table[vector]);
	}
	pthread_mutex_unlock(&dev->msix_lock);
}

void pci_set_intx(struct pci_dev *dev, bool level)
{
	pthread_mutex_lock(&dev->msix_lock);
	dev->intx_level = level;
	pci_intx_update(dev);
	pthread_mutex_unlock(&dev->msix_lock);
}
