// SPDX-License-Identifier: Apache-2.0
/*
 * pci_bar.c - base address registers: sizing, placing, following the guest.
 *
 * A BAR's address bits below its size are read-only zeros, so that the guest sizes it by writing
 * ones (PCI Local Bus 3.0, 6.2.5.1). Whatever address is there while decoding is on is tried on
 * the bus; one that does not fit (the all-ones of a sizing guest, an overlap) is simply unmapped.
 */
#include <errno.h>

#include "base/bits.h"
#include "bus/pci_int.h"

#define BAR_FLAG_IO    0x1u
#define BAR_FLAG_MEM64 0x4u

static uint64_t bar_region_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pci_bar *bar = container_of(region, struct pci_bar, region);
	struct pci_dev *dev = bar->dev;
	unsigned index = (unsigned)(bar - dev->bars);

	if (pci_msix_covers(dev, index, off))
		return pci_msix_read(dev, off, size);
	return dev->ops->bar_read ? dev->ops->bar_read(dev, index, off, size) : ~0ull;
}

static void bar_region_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bar *bar = container_of(region, struct pci_bar, region);
	struct pci_dev *dev = bar->dev;
	unsigned index = (unsigned)(bar - dev->bars);

	if (pci_msix_covers(dev, index, off))
		pci_msix_write(dev, off, size, value);
	else if (dev->ops->bar_write)
		dev->ops->bar_write(dev, index, off, size, value);
}

static const struct bus_region_ops bar_region_ops = {
	.read = bar_region_read,
	.write = bar_region_write,
};

void pci_dev_set_bar(struct pci_dev *dev, unsigned bar, enum pci_bar_kind kind, uint64_t size)
{
	unsigned reg = PCI_BAR0 + bar * 4;
	uint64_t mask = ~(size - 1);

	dev->bars[bar] = (struct pci_bar){
		.region = {
			.name = dev->name,
			.space = kind == PCI_BAR_IO ? BUS_PIO : BUS_MMIO,
			.size = size,
			.ops = &bar_region_ops,
		},
		.dev = dev,
		.kind = kind,
	};
	dev->config[reg] = kind == PCI_BAR_IO	 ? BAR_FLAG_IO :
			   kind == PCI_BAR_MEM64 ? BAR_FLAG_MEM64 :
						   0;
	store_le32(dev->write_mask + reg, (uint32_t)mask & (kind == PCI_BAR_IO ? ~3u : ~15u));
	if (kind == PCI_BAR_MEM64)
		store_le32(dev->write_mask + reg + 4, (uint32_t)(mask >> 32));
}

static uint64_t bar_address(const struct pci_dev *dev, unsigned bar)
{
	const uint8_t *reg = dev->config + PCI_BAR0 + bar * 4;

	switch (dev->bars[bar].kind) {
	case PCI_BAR_IO:
		return load_le32(reg) & ~3u;
	case PCI_BAR_MEM64:
		return load_le64(reg) & ~15ull;
	default:
		return load_le32(reg) & ~15u;
	}
}

/* Bump allocation: devices come once, at start; the guest may move them as it likes. */
int pci_bar_assign(struct pci_bus *pci, struct pci_dev *dev)
{
	uint64_t mmio = pci->next_mmio32, pio = pci->next_pio;

	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bars[i];
		bool io = bar->kind == PCI_BAR_IO;
		uint64_t *next = io ? &pio : &mmio;
		uint64_t end = io ? PCI_PIO_BASE + PCI_PIO_SIZE :
				    (uint64_t)PCI_MMIO32_BASE + PCI_MMIO32_SIZE;
		uint8_t *reg = dev->config + PCI_BAR0 + i * 4;
		uint64_t base;

		if (bar->kind == PCI_BAR_NONE)
			continue;
		base = align_up(*next, bar->region.size);
		if (base > end || bar->region.size > end - base)
			return -ENOSPC;
		*next = base + bar->region.size;
		store_le32(reg, load_le32(reg) | (uint32_t)base);
	}
	pci->next_mmio32 = mmio;
	pci->next_pio = pio;
	return 0;
}

static void bar_unmap(struct pci_dev *dev, unsigned index)
{
	struct pci_bar *bar = &dev->bars[index];

	if (dev->ops->bar_mapped)
		dev->ops->bar_mapped(dev, index, bar->region.base, false);
	bus_remove(dev->bus->bus, &bar->region);
	bar->mapped = false;
}

static void bar_map(struct pci_dev *dev, unsigned index, uint64_t address)
{
	struct pci_bar *bar = &dev->bars[index];

	bar->region.base = address;
	if (bus_add(dev->bus->bus, &bar->region) < 0)
		return;
	bar->mapped = true;
	if (dev->ops->bar_mapped)
		dev->ops->bar_mapped(dev, index, address, true);
}

void pci_bar_update(struct pci_dev *dev, bool vanish)
{
	uint16_t command = load_le16(dev->config + PCI_COMMAND);

	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bars[i];
		uint64_t address;
		bool on;

		if (bar->kind == PCI_BAR_NONE)
			continue;
		address = bar_address(dev, i);
		on = command & (bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY);
		on = on && address != 0 && !vanish;
		if (bar->mapped && (!on || bar->region.base != address))
			bar_unmap(dev, i);
		if (on && !bar->mapped)
			bar_map(dev, i, address);
	}
}
