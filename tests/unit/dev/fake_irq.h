// SPDX-License-Identifier: Apache-2.0
/* fake_irq.h - an interrupt controller that counts, for tests of devices. */
#pragma once

#include "base/bits.h"
#include "bus/irq.h"

struct fake_irq {
	struct irq_chip chip;
	bool level[IRQ_GSI_COUNT];
	unsigned rises[IRQ_GSI_COUNT];
	unsigned msis;
	uint64_t msi_address;
	uint32_t msi_data;
};

static inline void fake_irq_set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	struct fake_irq *fake = container_of(chip, struct fake_irq, chip);

	if (level && !fake->level[gsi])
		fake->rises[gsi]++;
	fake->level[gsi] = level;
}

static inline void fake_irq_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
	struct fake_irq *fake = container_of(chip, struct fake_irq, chip);

	fake->msis++;
	fake->msi_address = address;
	fake->msi_data = data;
}

static const struct irq_chip_ops fake_irq_ops = {
	.set_line = fake_irq_set_line,
	.send_msi = fake_irq_send_msi,
};
