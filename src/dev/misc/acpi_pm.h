// SPDX-License-Identifier: Apache-2.0
/*
 * acpi_pm.h - ACPI fixed hardware: PM1 event and control blocks, PM timer, power button.
 *
 * The callback runs in a vCPU's thread, under no lock of ours, and only notes what to do.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct acpi_pm;
struct bus;
struct irq_chip;
struct vclock;
struct state_reader;

struct acpi_pm_config {
	struct bus *bus; /* borrowed, as the next two */
	struct irq_chip *irq;
	struct vclock *clock;
	uint16_t base;	   /* PM1_EVT at +0, PM1_CNT at +4, PM timer at +8; 16 ports */
	unsigned sci_gsi;
	unsigned s5_type;  /* SLP_TYP that means power off */
	void (*power_off)(void *arg);
	void *arg;
};

/* NULL when the ports are taken. */
struct acpi_pm *acpi_pm_new(const struct acpi_pm_config *config);
void acpi_pm_free(struct acpi_pm *pm);
void acpi_pm_reset(struct acpi_pm *pm);
/* Any thread. */
void acpi_pm_press_power_button(struct acpi_pm *pm);

/* Machine state (base/state.h). Loading is for a machine that does not run yet; its clock has been
 * set, and the interrupt controllers have their own state. */
void acpi_pm_save(struct acpi_pm *pm, GByteArray *out);
bool acpi_pm_load(struct acpi_pm *pm, struct state_reader *in, GError **err);
