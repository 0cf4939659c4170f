// SPDX-License-Identifier: Apache-2.0
/*
 * irq.h - from a device's line or message to a vCPU.
 *
 * struct irq_chip is the face a device sees; who stands behind it (our 8259 pair, I/O APIC and
 * local APICs, or those in the host's kernel) is decided when the machine is built. Lines are GSIs
 * 0..23: 0..15 reach the 8259 pair and the I/O APIC (GSI 0 is I/O APIC pin 2), 16..23 the I/O
 * APIC only. All calls are thread-safe and never block for long.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define IRQ_GSI_COUNT	24
#define IRQ_GSI_PIT	0
#define IRQ_GSI_COM1	4
#define IRQ_GSI_RTC	8
#define IRQ_GSI_ACPI	9
#define IRQ_GSI_PCI0	16 /* PCI INTA..INTD swizzled on to 16..19 */
#define IRQ_IOAPIC_BASE 0xfec00000u
#define IRQ_LAPIC_BASE	0xfee00000u
#define IRQ_HPET_BASE	0xfed00000u

struct irq_chip;

struct irq_chip_ops {
	void (*set_line)(struct irq_chip *chip, unsigned gsi, bool level);
	/* Message-signalled interrupt, SDM vol. 3 "Message Signalled Interrupts". */
	void (*send_msi)(struct irq_chip *chip, uint64_t address, uint32_t data);
};

/* Embedded by the implementation. */
struct irq_chip {
	const struct irq_chip_ops *ops;
};

/* A GSI that one device drives; see irq_line for shared ones. */
static inline void irq_set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	chip->ops->set_line(chip, gsi, level);
}

static inline void irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
	chip->ops->send_msi(chip, address, data);
}

/*
 * A level-triggered GSI several devices may drive (PCI INTx): it is high while any holder holds it.
 * Each device keeps a struct irq_holder; setting it twice to the same level does nothing.
 */
struct irq_line {
	struct irq_chip *chip; /* borrowed */
	unsigned gsi;
	pthread_mutex_t lock; /* holders; taken before any lock of the chip */
	unsigned holders;
};

struct irq_holder {
	struct irq_line *line; /* borrowed */
	bool level;	       /* line->lock */
};

void irq_line_init(struct irq_line *line, struct irq_chip *chip, unsigned gsi);
void irq_line_fini(struct irq_line *line);
void irq_holder_set(struct irq_holder *holder, bool level);
