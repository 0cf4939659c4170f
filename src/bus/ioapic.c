// SPDX-License-Identifier: Apache-2.0
/* ioapic.c - I/O APIC with 24 pins and an EOI register (82093AA; ICH2 for the version and EOI). */
#include "irqchip_int.h"

#include "base/bits.h"

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI	   0x40

#define INDEX_ID      0x00
#define INDEX_VERSION 0x01
#define INDEX_ARB     0x02
#define INDEX_REDIR   0x10

/* Version 0x20 says that the EOI register exists. */
#define VERSION (0x20u | ((IOAPIC_PINS - 1) << 16))

#define RTE_LOGICAL    (1ull << 11)
#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_LEVEL      (1ull << 15)
#define RTE_MASKED     (1ull << 16)
#define RTE_WRITABLE   0xff0000000001afffull /* all but status and reserved */

/* lock held. The pin has a request: send it unless it is masked or waits for an EOI. */
static void pin_service(struct ioapic *ioapic, unsigned pin)
{
	uint64_t *rte = &ioapic->redirect[pin];
	uint8_t dest = (uint8_t)(*rte >> 56);
	struct apic_msg msg = {
		.dest = dest == 0xff ? APIC_BROADCAST : dest,
		.logical = *rte & RTE_LOGICAL,
		.level = *rte & RTE_LEVEL,
		.mode = (*rte >> 8) & 7,
		.vector = (uint8_t)*rte,
	};

	if (*rte & RTE_MASKED)
		return;
	if (msg.level && (*rte & RTE_REMOTE_IRR))
		return;
	/* Nobody there to send an EOI: the pin stays ready. */
	if (irqchip_deliver(ioapic->chip, &msg) && msg.level &&
	    (msg.mode == APIC_FIXED || msg.mode == APIC_LOWEST))
		*rte |= RTE_REMOTE_IRR;
}

void ioapic_set_line(struct ioapic *ioapic, unsigned pin, bool level)
{
	uint32_t bit = 1u << pin;
	bool before;

	pthread_mutex_lock(&ioapic->lock);
	before = ioapic->lines & bit;
	if (level)
		ioapic->lines |= bit;
	else
		ioapic->lines &= ~bit;
	if (level && (!before || (ioapic->redirect[pin] & RTE_LEVEL)))
		pin_service(ioapic, pin);
	pthread_mutex_unlock(&ioapic->lock);
}

/* lock held. */
static void pin_eoi(struct ioapic *ioapic, unsigned pin)
{
	ioapic->redirect[pin] &= ~RTE_REMOTE_IRR;
	if (ioapic->lines & (1u << pin))
		pin_service(ioapic, pin);
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
	pthread_mutex_lock(&ioapic->lock);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t rte = ioapic->redirect[pin];

		if ((uint8_t)rte == vector && (rte & RTE_LEVEL) && (rte & RTE_REMOTE_IRR))
			pin_eoi(ioapic, pin);
	}
	pthread_mutex_unlock(&ioapic->lock);
}

/* lock held. */
static uint32_t index_read(struct ioapic *ioapic)
{
	unsigned pin = (ioapic->select - INDEX_REDIR) / 2u;

	switch (ioapic->select) {
	case INDEX_ID:
	case INDEX_ARB:
		return ioapic->id << 24;
	case INDEX_VERSION:
		return VERSION;
	default:
		if (ioapic->select < INDEX_REDIR || pin >= IOAPIC_PINS)
			return 0;
		return (uint32_t)(ioapic->redirect[pin] >> (ioapic->select & 1 ? 32 : 0));
	}
}

/* lock held. */
static void redirect_write(struct ioapic *ioapic, unsigned pin, bool high, uint32_t value)
{
	uint64_t *rte = &ioapic->redirect[pin];
	uint64_t mask = RTE_WRITABLE & (high ? 0xffffffff00000000ull : 0xffffffffull);

	*rte = (*rte & ~mask) | (((uint64_t)value << (high ? 32 : 0)) & mask);
	/* An edge-triggered pin waits for no EOI. Linux clears a stuck pin so. */
	if (!(*rte & RTE_LEVEL))
		*rte &= ~RTE_REMOTE_IRR;
	/* Edges that came while it was masked are lost; a level is still there. */
	else if (ioapic->lines & (1u << pin))
		pin_service(ioapic, pin);
}

/* lock held. */
static void index_write(struct ioapic *ioapic, uint32_t value)
{
	unsigned pin = (ioapic->select - INDEX_REDIR) / 2u;

	if (ioapic->select == INDEX_ID)
		ioapic->id = (value >> 24) & 0xf;
	else if (ioapic->select >= INDEX_REDIR && pin < IOAPIC_PINS)
		redirect_write(ioapic, pin, ioapic->select & 1, value);
}

static uint64_t region_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct ioapic *ioapic = container_of(region, struct ioapic, region);
	uint64_t value = 0;

	pthread_mutex_lock(&ioapic->lock);
	if (off == REG_SELECT)
		value = ioapic->select;
	else if (off == REG_WINDOW)
		value = index_read(ioapic);
	pthread_mutex_unlock(&ioapic->lock);
	return value;
}

static void region_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct ioapic *ioapic = container_of(region, struct ioapic, region);

	if (off == REG_EOI) {
		ioapic_eoi(ioapic, (uint8_t)value);
		return;
	}
	pthread_mutex_lock(&ioapic->lock);
	if (off == REG_SELECT)
		ioapic->select = (uint8_t)value;
	else if (off == REG_WINDOW && size >= 4)
		index_write(ioapic, (uint32_t)value);
	pthread_mutex_unlock(&ioapic->lock);
}

static const struct bus_region_ops region_ops = {.read = region_read, .write = region_write};

void ioapic_reset(struct ioapic *ioapic)
{
	pthread_mutex_lock(&ioapic->lock);
	ioapic->id = 0;
	ioapic->select = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic->redirect[pin] = RTE_MASKED;
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_loaded(struct ioapic *ioapic)
{
	pthread_mutex_lock(&ioapic->lock);
	ioapic->id &= 0xf;
	ioapic->lines &= (1u << IOAPIC_PINS) - 1;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic->redirect[pin] &= RTE_WRITABLE | RTE_REMOTE_IRR;
	pthread_mutex_unlock(&ioapic->lock);
}

void ioapic_init(struct ioapic *ioapic, struct irqchip *chip)
{
	*ioapic = (struct ioapic){.chip = chip};
	ioapic->region = (struct bus_region){
		.name = "ioapic",
		.space = BUS_MMIO,
		.base = IRQ_IOAPIC_BASE,
		.size = 0x1000,
		.ops = &region_ops,
	};
	pthread_mutex_init(&ioapic->lock, NULL);
	ioapic_reset(ioapic);
}

void ioapic_fini(struct ioapic *ioapic)
{
	pthread_mutex_destroy(&ioapic->lock);
}
