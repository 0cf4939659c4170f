// SPDX-License-Identifier: Apache-2.0
/* engine_irq.c - lines and messages for an engine that has the interrupt controllers itself. */
#include "irqchip.h"

#include "base/bits.h"
#include "engine/engine.h"

struct engine_irq {
	struct irq_chip chip;
	struct engine *engine; /* borrowed */
};

static void engine_set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	struct engine *engine = container_of(chip, struct engine_irq, chip)->engine;

	if (gsi < IRQ_GSI_COUNT)
		engine->ops->irq_line(engine, gsi, level);
}

static void engine_send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
	struct engine *engine = container_of(chip, struct engine_irq, chip)->engine;

	engine->ops->send_msi(engine, address, data);
}

static const struct irq_chip_ops engine_irq_ops = {
	.set_line = engine_set_line,
	.send_msi = engine_send_msi,
};

struct irq_chip *engine_irq_new(struct engine *engine)
{
	struct engine_irq *irq = g_new0(struct engine_irq, 1);

	irq->chip.ops = &engine_irq_ops;
	irq->engine = engine;
	return &irq->chip;
}

void engine_irq_free(struct irq_chip *chip)
{
	if (chip)
		g_free(container_of(chip, struct engine_irq, chip));
}
