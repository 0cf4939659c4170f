// SPDX-License-Identifier: Apache-2.0
/* irq_line.c - a level-triggered interrupt line shared by several devices. */
#include "irq.h"

void irq_line_init(struct irq_line *line, struct irq_chip *chip, unsigned gsi)
{
	*line = (struct irq_line){.chip = chip, .gsi = gsi};
	pthread_mutex_init(&line->lock, NULL);
}

void irq_line_fini(struct irq_line *line)
{
	pthread_mutex_destroy(&line->lock);
}

void irq_holder_set(struct irq_holder *holder, bool level)
{
	struct irq_line *line = holder->line;
	unsigned before;

	/* The chip is told under the lock, so that it sees edges in the order they happened. */
	pthread_mutex_lock(&line->lock);
	before = line->holders;
	if (holder->level != level) {
		holder->level = level;
		line->holders += level ? 1 : -1u;
	}
	if (!before != !line->holders)
		irq_set_line(line->chip, line->gsi, line->holders > 0);
	pthread_mutex_unlock(&line->lock);
}
