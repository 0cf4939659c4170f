// SPDX-License-Identifier: Apache-2.0
/*
 * rtc.h - MC146818 real-time clock and CMOS memory at ports 0x70..0x73, interrupt on GSI 8.
 *
 * The time of day is the host's UTC plus what the guest has set it off by.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct bus;
struct irq_chip;
struct rtc;
struct vclock;
struct state_reader;

struct rtc_config {
	struct bus *bus;      /* borrowed, as the next two */
	struct irq_chip *irq;
	struct vclock *clock; /* for interrupts */
	uint64_t ram_low;     /* bytes of RAM below 4 GiB, for the CMOS size bytes */
	uint64_t ram_high;    /* bytes of RAM above 4 GiB */
	/* Nanoseconds since 1970 UTC; NULL: the host's. */
	int64_t (*utc_ns)(void *arg);
	void *utc_arg;
};

struct rtc *rtc_new(const struct rtc_config *config);
void rtc_free(struct rtc *rtc);
/* Interrupts off; time and memory are kept, as a battery would. */
void rtc_reset(struct rtc *rtc);
/* False: no longer reaches GSI 8 (HPET legacy replacement). */
void rtc_connect_irq(struct rtc *rtc, bool connected);

/* Machine state (base/state.h). Loading is for a machine that does not run yet; its clock has been
 * set, and the interrupt controllers have their own state. */
void rtc_save(struct rtc *rtc, GByteArray *out);
bool rtc_load(struct rtc *rtc, struct state_reader *in, GError **err);
