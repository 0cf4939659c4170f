// SPDX-License-Identifier: Apache-2.0
/*
 * pit.h - 8254 interval timer at ports 0x40..0x43, with the speaker gate at port 0x61.
 *
 * Channel 0 drives GSI 0. Register accesses come from vCPU threads, the timer from the clock's.
 */
#pragma once

#include <stdbool.h>

struct bus;
struct irq_chip;
struct pit;
struct vclock;

/* Everything is borrowed. NULL when the ports are taken. */
struct pit *pit_new(struct bus *bus, struct irq_chip *irq, struct vclock *clock);
void pit_free(struct pit *pit);
void pit_reset(struct pit *pit);
/* False: channel 0 no longer reaches GSI 0 (HPET legacy replacement). */
void pit_connect_irq(struct pit *pit, bool connected);
