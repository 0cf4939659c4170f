// SPDX-License-Identifier: Apache-2.0
/* pci_int.h - what the files of the PCI bus share. */
#pragma once

#include "bus/pci.h"

struct pci_bus {
	struct bus *bus;
	struct irq_chip *irq;
	struct bus_region address_port, data_port, ecam;
	struct pci_dev bridge; /* 00.0 */
	void (*reset)(void *arg);
	void *reset_arg;

	pthread_mutex_t lock; /* configuration space of all devices, and the next five */
	struct pci_dev *devs[PCI_SLOTS];
	uint32_t address; /* last written to 0xcf8 */
	uint64_t next_mmio32;
	uint64_t next_pio;
	uint8_t reset_control; /* port 0xcf9 */

	pthread_mutex_t intx_lock; /* innermost; guards: */
	unsigned intx_holders[4];  /* devices that drive GSI 16 + i */
};

/* Lock order: pci_bus.lock, pci_dev.msix_lock, pci_bus.intx_lock. */

/* ---- pci_bar.c, pci_bus.lock held ---- */
/* Give unplaced BARs an address in the bus's windows. 0 or -ENOSPC. */
int pci_bar_assign(struct pci_bus *pci, struct pci_dev *dev);
/* Make the bus agree with command register and BARs; all off with @vanish. */
void pci_bar_update(struct pci_dev *dev, bool vanish);

/* ---- pci_msix.c ---- */
/* The guest has written configuration bytes: MSI-X control and interrupt disable. */
void pci_msix_config_written(struct pci_dev *dev);
bool pci_msix_covers(const struct pci_dev *dev, unsigned bar, uint64_t off);
uint64_t pci_msix_read(struct pci_dev *dev, uint64_t off, unsigned size);
void pci_msix_write(struct pci_dev *dev, uint64_t off, unsigned size, uint64_t value);
void pci_intx_update(struct pci_dev *dev); /* msix_lock held */
