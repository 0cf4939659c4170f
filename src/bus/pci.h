// SPDX-License-Identifier: Apache-2.0
/*
 * pci.h - a PCI root bus: host bridge, configuration space, BARs, MSI-X, INTx.
 *
 * The guest reaches configuration space through ports 0xcf8/0xcfc and through ECAM; both end in
 * the same registers. A device describes itself once (identity, BARs, capabilities), is put into a
 * slot with pci_bus_add(), and from then on its BARs follow what the guest programs: they are on
 * the bus while memory (or I/O) decoding is on and at the address last written.
 *
 * BARs are given addresses in the 32-bit window when the device is added, so that a kernel
 * started without firmware finds them placed; decoding stays off until the guest enables it.
 *
 * Threading: configuration accesses come from vCPU threads and are serialised by the bus's own
 * lock, held across config_* and bar_mapped callbacks; those must not access configuration
 * space through the bus. bar_read and bar_write run without a lock. pci_msix_notify() and
 * pci_set_intx() are thread-safe. pci_bus_add() and pci_bus_remove() may be called at any time.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/bus.h"

struct irq_chip;
struct pci_bus;
struct pci_dev;

/* The machine's address map for PCI; boot/ puts the same figures into ACPI (MCFG, _CRS). ECAM
 * has room for 256 buses; only bus 0 is populated. */
#define PCI_ECAM_BASE	0xe0000000u
#define PCI_ECAM_SIZE	0x10000000u
#define PCI_MMIO32_BASE 0xc0000000u
#define PCI_MMIO32_SIZE 0x20000000u
#define PCI_PIO_BASE	0xc000u
#define PCI_PIO_SIZE	0x4000u

#define PCI_SLOTS	32u
#define PCI_SLOT_ANY	(~0u)
#define PCI_CONFIG_SIZE 256u
#define PCI_BARS	6u

/* Offsets of the common configuration header, PCI Local Bus 3.0 section 6.1. */
#define PCI_COMMAND	   0x04
#define PCI_COMMAND_IO	   0x0001u
#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define PCI_COMMAND_NOINTX 0x0400u
#define PCI_STATUS	   0x06
#define PCI_STATUS_INTX	   0x0008u
#define PCI_STATUS_CAPS	   0x0010u
#define PCI_BAR0	   0x10
#define PCI_CAP_PTR	   0x34
#define PCI_INT_LINE	   0x3c
#define PCI_INT_PIN	   0x3d

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX   0x11

#define PCI_MSIX_MAX	   128u
#define PCI_MSIX_NO_VECTOR 0xffffu

enum pci_bar_kind {
	PCI_BAR_NONE,
	PCI_BAR_IO,
	PCI_BAR_MEM32,
	PCI_BAR_MEM64, /* takes the next BAR as its upper half */
};

/* Absent operations mean: reads are all ones, writes go nowhere, nobody is told. */
struct pci_dev_ops {
	/* @size 1, 2, 4, 8; the access lies within the BAR and outside the MSI-X structures. */
	uint64_t (*bar_read)(struct pci_dev *dev, unsigned bar, uint64_t off, unsigned size);
	void (*bar_write)(struct pci_dev *dev, unsigned bar, uint64_t off, unsigned size,
			  uint64_t value);
	/* The BAR has appeared at, or is about to vanish from, @base: the place to register
	 * ioeventfds. */
	void (*bar_mapped)(struct pci_dev *dev, unsigned bar, uint64_t base, bool mapped);
	/* Before a read, and after a write, of configuration bytes [off, off+len). */
	void (*config_read)(struct pci_dev *dev, unsigned off, unsigned len);
	void (*config_written)(struct pci_dev *dev, unsigned off, unsigned len);
};

struct pci_bar {
	struct bus_region region; /* on the bus while mapped */
	struct pci_dev *dev;
	enum pci_bar_kind kind;
	bool mapped;
};

struct pci_msix_entry {
	uint64_t address;
	uint32_t data;
	bool masked;
	bool pending;
};

/* Embedded in a device, which recovers itself with container_of. Owned by its pci_bus's lock,
 * but for msix_* and intx_*, which have the device's own. */
struct pci_dev {
	const struct pci_dev_ops *ops;
	const char *name;
	struct pci_bus *bus; /* NULL until pci_bus_add() */
	unsigned slot;
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits that the guest may change */
	unsigned cap_end;		     /* first free byte for a capability */
	unsigned cap_last;		     /* the one whose next pointer ends the list */
	struct pci_bar bars[PCI_BARS];

	pthread_mutex_t msix_lock; /* guards what follows */
	struct pci_msix_entry *msix_table;
	unsigned msix_count;
	unsigned msix_cap; /* 0: none */
	unsigned msix_bar;
	uint64_t msix_table_off, msix_pba_off;
	bool msix_enabled, msix_function_masked;
	bool intx_level;    /* what the device asserts */
	bool intx_driven;   /* what the bus has been told */
	bool intx_disabled; /* command register */
};

struct pci_id {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* 24 bits: class, subclass, programming interface */
	uint8_t revision;
};

/* NULL when the ports or the ECAM range are taken. @bus and @irq are borrowed. */
struct pci_bus *pci_bus_new(struct bus *bus, struct irq_chip *irq);
/* Devices must have been removed. */
void pci_bus_free(struct pci_bus *pci);
/* Takes slot @slot or, for PCI_SLOT_ANY, the first free one from 1 on. 0, -EBUSY when
 * the slot is taken, -ENOSPC without a free slot or address range. */
int pci_bus_add(struct pci_bus *pci, struct pci_dev *dev, unsigned slot);
void pci_bus_remove(struct pci_bus *pci, struct pci_dev *dev);
/* Called in a vCPU's thread when the guest asks for a reset through port 0xcf9 (bit 2), which lies
 * inside the address register's range. Set before vCPUs run. */
void pci_bus_set_reset(struct pci_bus *pci, void (*reset)(void *arg), void *arg);
/* The memory bus on which BARs live, for ioeventfds. */
struct bus *pci_bus_memory(struct pci_bus *pci);
/* The GSI that INTA of @slot reaches: 16..19, swizzled by slot. The ACPI _PRT says the same. */
unsigned pci_slot_gsi(unsigned slot);

/* Building a device, before pci_bus_add(). */
void pci_dev_init(struct pci_dev *dev, const char *name, const struct pci_dev_ops *ops,
		  const struct pci_id *id);
void pci_dev_fini(struct pci_dev *dev);
/* @size: a power of two, at least 16 (4 for I/O). */
void pci_dev_set_bar(struct pci_dev *dev, unsigned bar, enum pci_bar_kind kind, uint64_t size);
/* Append a capability of @len bytes, header included, all read-only; returns its offset. */
unsigned pci_dev_add_cap(struct pci_dev *dev, uint8_t id, unsigned len);
/* MSI-X with @count vectors: table at @table_off and pending bits at @pba_off of BAR @bar.
 * 0 or -ENOMEM. */
int pci_dev_add_msix(struct pci_dev *dev, unsigned count, unsigned bar, uint64_t table_off,
		     uint64_t pba_off);
/* Declare that the device drives INTA. */
void pci_dev_add_intx(struct pci_dev *dev);

/* As the guest has it right now. */
bool pci_msix_is_enabled(struct pci_dev *dev);
/* Send vector @vector, or set its pending bit while masked. Does nothing for a vector beyond the
 * table or while MSI-X is off. */
void pci_msix_notify(struct pci_dev *dev, unsigned vector);
void pci_set_intx(struct pci_dev *dev, bool level);
