// SPDX-License-Identifier: Apache-2.0
/*
 * hpet.h - High Precision Event Timer 1.0a: 64-bit counter at 100 MHz, three comparators.
 *
 * Comparators reach GSIs by routing, MSI ("FSB") delivery, or legacy replacement.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct bus;
struct hpet;
struct irq_chip;
struct vclock;
struct state_reader;

struct hpet_config {
	struct bus *bus; /* borrowed, as the next two */
	struct irq_chip *irq;
	struct vclock *clock;
	uint64_t base;
	/* Legacy replacement went on or off: disconnect the 8254 and the RTC. Optional. Called in
	 * a vCPU's thread with the HPET's lock held. */
	void (*legacy)(void *arg, bool on);
	void *arg;
};

struct hpet *hpet_new(const struct hpet_config *config);
void hpet_free(struct hpet *hpet);
void hpet_reset(struct hpet *hpet);

/* Machine state (base/state.h). Loading is for a machine that does not run yet; its clock has been
 * set, and the interrupt controllers have their own state. */
void hpet_save(struct hpet *hpet, GByteArray *out);
bool hpet_load(struct hpet *hpet, struct state_reader *in, GError **err);
