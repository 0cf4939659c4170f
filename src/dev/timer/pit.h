// SPDX-License-Identifier: Apache-2.0
/*
 * pit.h - 8254 interval timer at ports 0x40..0x43, with the speaker gate at port 0x61.
 *
 * Channel 0 drives GSI 0. Register accesses come from vCPU threads, the timer from the clock's.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

struct bus;
struct irq_chip;
struct pit;
struct vclock;
struct state_reader;

/* Everything is borrowed. NULL when the ports are taken. */
struct pit *pit_new(struct bus *bus, struct irq_chip *irq, struct vclock *clock);
void pit_free(struct pit *pit);
void pit_reset(struct pit *pit);
/* False: channel 0 no longer reaches GSI 0 (HPET legacy replacement). */
void pit_connect_irq(struct pit *pit, bool connected);

/* Machine state (base/state.h). Loading is for a machine that does not run yet; its clock has been
 * set, and the interrupt controllers have their own state. */
void pit_save(struct pit *pit, GByteArray *out);
bool pit_load(struct pit *pit, struct state_reader *in, GError **err);
