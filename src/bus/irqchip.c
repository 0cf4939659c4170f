// SPDX-License-Identifier: Apache-2.0
/*
 * irqchip.c - the interrupt bus: who gets a message; lines to the 8259 pair and the I/O APIC.
 *
 *	device line --+-- 8259 pair -- INT --- LINT0 --+
 *	              |                                |
 *	              +-- I/O APIC ------ messages ----+--- local APIC --- vCPU
 *	device MSI ---------------------- messages ----+
 *	local APIC ICR ------------------ messages ----+
 */
#include "irqchip.h"

#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"
#include "irqchip_int.h"

#define LEGACY_LINES 16u
#define PIN_PIT	     2u /* the interrupt source override of IRQ 0 */

#define MSI_ADDRESS_MASK 0xfff00000u
#define MSI_LOGICAL	 (1u << 2)
#define MSI_REDIRECT	 (1u << 3) /* redirection hint: lowest priority */
#define MSI_REMAPPABLE	 (1u << 4)
#define MSI_LEVEL	 (1u << 15)

bool irqchip_deliver_to(struct lapic *lapic, const struct apic_msg *msg)
{
	struct irqchip *chip = lapic->chip;

	switch (msg->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return lapic_accept(lapic, msg->vector, msg->level);
	case APIC_NMI:
		chip->ops->nmi(chip->arg, lapic->index);
		return true;
	case APIC_INIT:
		atomic_store(&lapic->init_pending, true);
		chip->ops->init(chip->arg, lapic->index);
		return true;
	case APIC_SIPI:
		chip->ops->sipi(chip->arg, lapic->index, msg->vector);
		return true;
	default: /* SMI: there is no SMM. ExtINT: the 8259's only way is LINT0. */
		return false;
	}
}

/* SDM vol. 3 11.6.2.2 and 11.12.10: does a logical destination name this APIC? */
static bool logical_match(const struct lapic *lapic, const struct apic_msg *msg)
{
	uint32_t ldr = atomic_load_explicit(&lapic->ldr, memory_order_relaxed);
	uint32_t dfr = atomic_load_explicit(&lapic->dfr, memory_order_relaxed);

	if (lapic_is_x2(lapic))
		return (msg->dest >> 16) == (ldr >> 16) && (msg->dest & ldr & 0xffff);
	ldr >>= 24;
	if (dfr >> 28 == 0xf)
		return msg->dest <= 0xff && (msg->dest & ldr);
	/* Cluster 15 is all clusters. */
	if ((msg->dest >> 4) != (ldr >> 4) && (msg->dest >> 4) != 0xf)
		return false;
	return msg->dest & ldr & 0xf;
}

static bool dest_match(const struct lapic *lapic, const struct apic_msg *msg)
{
	if (msg->dest == APIC_BROADCAST)
		return true;
	return msg->logical ? logical_match(lapic, msg) : msg->dest == lapic->index;
}

/* The one with the lowest processor priority; equals take turns. */
static bool deliver_lowest(struct irqchip *chip, const struct apic_msg *msg)
{
	unsigned start = atomic_fetch_add_explicit(&chip->lowest_turn, 1, memory_order_relaxed);
	struct lapic *best = NULL;
	uint32_t best_ppr = 0;

	for (unsigned i = 0; i < chip->lapic_count; i++) {
		struct lapic *lapic = &chip->lapics[(start + i) % chip->lapic_count];
		uint32_t ppr = atomic_load_explicit(&lapic->ppr, memory_order_relaxed) >> 4;

		if (!dest_match(lapic, msg) || !lapic_is_on(lapic) ||
		    !(atomic_load(&lapic->svr) & SVR_ENABLED))
			continue;
		if (!best || ppr < best_ppr) {
			best = lapic;
			best_ppr = ppr;
		}
	}
	return best && irqchip_deliver_to(best, msg);
}

bool irqchip_deliver(struct irqchip *chip, const struct apic_msg *msg)
{
	bool taken = false;

	if (msg->mode == APIC_LOWEST)
		return deliver_lowest(chip, msg);
	/* The common case needs no search: ids are indices. */
	if (!msg->logical && msg->dest != APIC_BROADCAST)
		return msg->dest < chip->lapic_count &&
		       irqchip_deliver_to(&chip->lapics[msg->dest], msg);
	for (unsigned i = 0; i < chip->lapic_count; i++) {
		if (dest_match(&chip->lapics[i], msg))
			taken |= irqchip_deliver_to(&chip->lapics[i], msg);
	}
	return taken;
}

/* SDM vol. 3 11.11 "Message Signalled Interrupts". */
static void face_send_msi(struct irq_chip *face, uint64_t address, uint32_t data)
{
	struct irqchip *chip = container_of(face, struct irqchip, face);
	uint8_t dest = (uint8_t)(address >> 12);
	struct apic_msg msg = {
		.dest = dest == 0xff ? APIC_BROADCAST : dest,
		.logical = address & MSI_LOGICAL,
		.level = data & MSI_LEVEL,
		.mode = (data >> 8) & 7,
		.vector = (uint8_t)data,
	};

	/* Remappable messages need an IOMMU to mean something. */
	if (address >> 32 || (address & MSI_ADDRESS_MASK) != IRQ_LAPIC_BASE ||
	    (address & MSI_REMAPPABLE))
		return;
	/* With the hint one of several is chosen; alone it names a single one. */
	if ((address & MSI_REDIRECT) && msg.logical && msg.mode == APIC_FIXED)
		msg.mode = APIC_LOWEST;
	(void)irqchip_deliver(chip, &msg);
}

static void face_set_line(struct irq_chip *face, unsigned gsi, bool level)
{
	struct irqchip *chip = container_of(face, struct irqchip, face);

	if (gsi >= IRQ_GSI_COUNT)
		return;
	/* Input 2 of the 8259 is the cascade, pin 0 of the I/O APIC is not connected. */
	if (gsi < LEGACY_LINES && gsi != 2)
		pic_set_line(&chip->pic, gsi, level);
	if (gsi == IRQ_GSI_PIT)
		ioapic_set_line(&chip->ioapic, PIN_PIT, level);
	else if (gsi != PIN_PIT)
		ioapic_set_line(&chip->ioapic, gsi, level);
}

static const struct irq_chip_ops face_ops = {
	.set_line = face_set_line,
	.send_msi = face_send_msi,
};

/* 8259 lock held. */
static void pic_output(void *arg)
{
	struct irqchip *chip = arg;

	for (unsigned i = 0; i < chip->lapic_count; i++)
		lapic_lint0_raise(&chip->lapics[i]);
}

static bool chips_attach(struct irqchip *chip, GError **err)
{
	int r = pic_attach(&chip->pic, chip->bus);

	if (r == 0) {
		r = bus_add(chip->bus, &chip->ioapic.region);
		if (r < 0)
			pic_detach(&chip->pic, chip->bus);
	}
	if (r < 0)
		g_set_error(err, BASE_ERROR, -r,
			    "interrupt controllers: their ports or addresses are taken");
	return r == 0;
}

struct irqchip *irqchip_new(const struct irqchip_config *config, GError **err)
{
	struct irqchip *chip = g_new0(struct irqchip, 1);

	chip->face.ops = &face_ops;
	chip->ops = config->ops;
	chip->arg = config->arg;
	chip->bus = config->bus;
	chip->clock = config->clock;
	/* Aligned, so that two vCPUs never share a line. */
	chip->lapics = aligned_alloc(64, config->vcpus * sizeof(*chip->lapics));
	if (!chip->lapics)
		abort(); /* as GLib does */
	memset(chip->lapics, 0, config->vcpus * sizeof(*chip->lapics));
	pic_init(&chip->pic, pic_output, chip);
	ioapic_init(&chip->ioapic, chip);
	for (unsigned i = 0; i < config->vcpus; i++) {
		chip->lapic_count++;
		if (lapic_init(&chip->lapics[i], chip, i) < 0) {
			g_set_error(err, BASE_ERROR, ENOSPC,
				    "interrupt controllers: no timer for vCPU %u", i);
			goto err;
		}
		lapic_reset(&chip->lapics[i]);
	}
	if (!chips_attach(chip, err))
		goto err;
	return chip;
err:
	chip->bus = NULL;
	irqchip_free(chip);
	return NULL;
}

void irqchip_free(struct irqchip *chip)
{
	if (!chip)
		return;
	if (chip->bus) {
		bus_remove(chip->bus, &chip->ioapic.region);
		pic_detach(&chip->pic, chip->bus);
	}
	for (unsigned i = 0; i < chip->lapic_count; i++)
		lapic_fini(&chip->lapics[i]);
	ioapic_fini(&chip->ioapic);
	pic_fini(&chip->pic);
	free(chip->lapics);
	g_free(chip);
}

void irqchip_reset(struct irqchip *chip)
{
	pic_reset(&chip->pic);
	ioapic_reset(&chip->ioapic);
	for (unsigned i = 0; i < chip->lapic_count; i++)
		lapic_reset(&chip->lapics[i]);
}

struct irq_chip *irqchip_face(struct irqchip *chip)
{
	return &chip->face;
}

void irqchip_nmi(struct irqchip *chip)
{
	for (unsigned i = 0; i < chip->lapic_count; i++)
		lapic_nmi_pin(&chip->lapics[i]);
}

uint64_t irqchip_tsc_hz(struct irqchip *chip)
{
	uint64_t hz = atomic_load(&chip->tsc_hz);

	if (!hz && chip->ops->tsc) {
		hz = chip->ops->tsc_hz(chip->arg);
		atomic_store(&chip->tsc_hz, hz);
	}
	return hz;
}

int irqchip_vcpu_pending(struct irqchip *chip, unsigned vcpu)
{
	return lapic_pending(&chip->lapics[vcpu]);
}

int irqchip_vcpu_ack(struct irqchip *chip, unsigned vcpu)
{
	return lapic_ack(&chip->lapics[vcpu]);
}

uint64_t irqchip_vcpu_timer(struct irqchip *chip, unsigned vcpu)
{
	return lapic_timer_look(&chip->lapics[vcpu]);
}

uint8_t irqchip_vcpu_get_cr8(struct irqchip *chip, unsigned vcpu)
{
	lapic_sync(&chip->lapics[vcpu]);
	return (uint8_t)(atomic_load(&chip->lapics[vcpu].tpr) >> 4);
}

void irqchip_vcpu_set_cr8(struct irqchip *chip, unsigned vcpu, uint8_t cr8)
{
	lapic_sync(&chip->lapics[vcpu]);
	lapic_set_tpr(&chip->lapics[vcpu], (uint8_t)(cr8 << 4));
}

bool irqchip_vcpu_read_msr(struct irqchip *chip, unsigned vcpu, uint32_t msr, uint64_t *ret)
{
	return lapic_read_msr(&chip->lapics[vcpu], msr, ret);
}

bool irqchip_vcpu_write_msr(struct irqchip *chip, unsigned vcpu, uint32_t msr, uint64_t value)
{
	return lapic_write_msr(&chip->lapics[vcpu], msr, value);
}

/* Offset into the APIC page, or false. In x2APIC mode there is no page. */
static bool page_offset(const struct lapic *lapic, uint64_t gpa, uint32_t *ret_off)
{
	uint64_t base = atomic_load_explicit(&lapic->base, memory_order_relaxed);

	if (gpa - (base & APIC_BASE_ADDR) >= 0x1000)
		return false;
	*ret_off = (uint32_t)(gpa & 0xfff);
	return (base & (APIC_BASE_ENABLE | APIC_BASE_X2)) == APIC_BASE_ENABLE;
}

bool irqchip_vcpu_mmio_read(struct irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned size,
			    uint64_t *ret)
{
	uint32_t off = 0;

	if (!page_offset(&chip->lapics[vcpu], gpa, &off))
		return false;
	*ret = lapic_mmio_read(&chip->lapics[vcpu], off, size);
	return true;
}

bool irqchip_vcpu_mmio_write(struct irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned size,
			     uint64_t value)
{
	uint32_t off = 0;

	if (!page_offset(&chip->lapics[vcpu], gpa, &off))
		return false;
	lapic_mmio_write(&chip->lapics[vcpu], off, size, (uint32_t)value);
	return true;
}

bool irqchip_vcpu_apic_is_enabled(struct irqchip *chip, unsigned vcpu)
{
	return lapic_is_on(&chip->lapics[vcpu]);
}
