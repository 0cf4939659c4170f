// SPDX-License-Identifier: Apache-2.0
/*
 * irqchip.h - the PC's interrupt controllers in user space: 8259 pair, I/O APIC, local APICs.
 *
 * For engines without ENGINE_CAP_IRQCHIP. Devices see it as a struct irq_chip; the machine's
 * struct engine_host forwards its apic_* calls, and accesses to the local APIC page, to it; it
 * reaches vCPUs through struct irqchip_vcpu_ops, which the machine maps to engine calls.
 *
 * vCPU i has APIC id i. vCPU 0 is the bootstrap processor; its LINT0 takes the 8259's interrupts
 * (virtual wire) from reset on, as a PC's firmware would have left it.
 *
 * Threading: irqchip_vcpu_* calls with @vcpu come from that vCPU's thread; everything else from any
 * thread. Sending an interrupt to a local APIC takes no lock; the I/O APIC and the 8259 pair have
 * one lock each. Order: device, irq_line, 8259, I/O APIC, local APIC timer.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "bus/irq.h"

struct bus;
struct engine;
struct irqchip;
struct state_reader;
struct vclock;

/* Towards vCPUs. Any thread, with locks of the controllers held: must not call back. */
struct irqchip_vcpu_ops {
	/* An interrupt became deliverable: irqchip_vcpu_pending() is worth a call. */
	void (*irq)(void *arg, unsigned vcpu);
	void (*nmi)(void *arg, unsigned vcpu);
	void (*init)(void *arg, unsigned vcpu);
	void (*sipi)(void *arg, unsigned vcpu, uint8_t vector);
	/* The vCPU's time stamp counter now, for the TSC-deadline timer. Optional. */
	uint64_t (*tsc)(void *arg, unsigned vcpu);
	/* Its rate, with tsc(); asked for when a guest first uses that timer, since an engine may
	 * have to measure it. 0: no TSC-deadline timer. */
	uint64_t (*tsc_hz)(void *arg);
};

struct irqchip_config {
	unsigned vcpus;
	struct bus *bus;      /* borrowed; ports 20, 21, a0, a1, 4d0, 4d1 and the I/O APIC page */
	struct vclock *clock; /* borrowed */
	const struct irqchip_vcpu_ops *ops;
	void *arg;
};

/* NULL with a sentence where ports or addresses are taken. */
struct irqchip *irqchip_new(const struct irqchip_config *config, GError **err);
/* No vCPU runs and no device is left that drives a line. */
void irqchip_free(struct irqchip *chip);
/* All controllers to their power-up state. No vCPU runs. */
void irqchip_reset(struct irqchip *chip);
/* What devices get. */
struct irq_chip *irqchip_face(struct irqchip *chip);
/* The external NMI button: to LINT1 of every local APIC. */
void irqchip_nmi(struct irqchip *chip);

/* Machine state (base/state.h) of all controllers. No vCPU runs; before loading the clock is
 * set. */
void irqchip_save(struct irqchip *chip, GByteArray *out);
bool irqchip_load(struct irqchip *chip, struct state_reader *in, GError **err);

/* The engine_host calls of engine.h, same meaning. */
int irqchip_vcpu_pending(struct irqchip *chip, unsigned vcpu);
int irqchip_vcpu_ack(struct irqchip *chip, unsigned vcpu);
uint64_t irqchip_vcpu_timer(struct irqchip *chip, unsigned vcpu);
uint8_t irqchip_vcpu_get_cr8(struct irqchip *chip, unsigned vcpu);
void irqchip_vcpu_set_cr8(struct irqchip *chip, unsigned vcpu, uint8_t cr8);
bool irqchip_vcpu_read_msr(struct irqchip *chip, unsigned vcpu, uint32_t msr, uint64_t *ret);
bool irqchip_vcpu_write_msr(struct irqchip *chip, unsigned vcpu, uint32_t msr, uint64_t value);
/* An access to the page at this vCPU's APIC base: true when it was one and is done. Ask before
 * the bus. */
bool irqchip_vcpu_mmio_read(struct irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned size,
			    uint64_t *ret);
bool irqchip_vcpu_mmio_write(struct irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned size,
			     uint64_t value);
/* IA32_APIC_BASE.EN: what CPUID.1:EDX.APIC shows. */
bool irqchip_vcpu_apic_is_enabled(struct irqchip *chip, unsigned vcpu);

/* engine_irq.c: the same face for an engine with ENGINE_CAP_IRQCHIP. The engine is borrowed. */
struct irq_chip *engine_irq_new(struct engine *engine);
void engine_irq_free(struct irq_chip *chip);
