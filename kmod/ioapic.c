// SPDX-License-Identifier: GPL-2.0-only
/* ioapic.c - I/O APIC with 24 pins and an EOI register (82093AA; ICH2 for version and EOI). */
#include <linux/nospec.h>

#include "chips.h"

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI	   0x40

#define INDEX_ID      0x00
#define INDEX_VERSION 0x01
#define INDEX_ARB     0x02
#define INDEX_REDIR   0x10

/* Version 0x20 says that there is an EOI register. */
#define VERSION (0x20u | (KVM_IOAPIC_NUM_PINS - 1) << 16)

#define RTE_LOGICAL    (1ull << 11)
#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_LEVEL      (1ull << 15)
#define RTE_MASKED     (1ull << 16)
#define RTE_WRITABLE   0xff0000000001afffull /* all but status and reserved */

/* Below the functions of the file's end ioapic->lock is held. */

/* The pin has a request: send it unless it is masked or waits for an EOI. */
static void pin_service(struct ioapic *ioapic, unsigned int pin)
{
	u64 *rte = &ioapic->s.redirtbl[pin].bits;
	u8 dest = *rte >> 56;
	struct apic_msg msg = {
		.dest = dest == 0xff ? APIC_BROADCAST : dest,
		.logical = *rte & RTE_LOGICAL,
		.level = *rte & RTE_LEVEL,
		.mode = *rte >> 8 & 7,
		.vector = *rte,
	};

	if (*rte & RTE_MASKED || (msg.level && *rte & RTE_REMOTE_IRR))
		return;
	/* Nobody there to send an EOI: the pin stays ready. */
	if (apic_deliver(ioapic->vm, &msg) && msg.level &&
	    (msg.mode == APIC_FIXED || msg.mode == APIC_LOWEST))
		*rte |= RTE_REMOTE_IRR;
}

static u32 index_read(const struct ioapic *ioapic)
{
	unsigned int index = ioapic->s.ioregsel, pin = (index - INDEX_REDIR) / 2;

	switch (index) {
	case INDEX_ID:
	case INDEX_ARB:
		return ioapic->s.id << 24;
	case INDEX_VERSION:
		return VERSION;
	default:
		if (index < INDEX_REDIR || pin >= KVM_IOAPIC_NUM_PINS)
			return 0;
		pin = array_index_nospec(pin, KVM_IOAPIC_NUM_PINS);
		return ioapic->s.redirtbl[pin].bits >> (index & 1 ? 32 : 0);
	}
}

static void redirect_write(struct ioapic *ioapic, unsigned int pin, bool high, u32 value)
{
	u64 *rte = &ioapic->s.redirtbl[pin].bits;
	u64 mask = RTE_WRITABLE & (high ? 0xffffffff00000000ull : 0xffffffffull);
	bool was_masked = *rte & RTE_MASKED;

	*rte = (*rte & ~mask) | ((u64)value << (high ? 32 : 0) & mask);
	if (was_masked && !(*rte & RTE_MASKED))
		pit_pulse_lost(ioapic->vm); /* its vector may be another than that of what was sent */
	/* An edge-triggered pin waits for no EOI. Linux clears a stuck pin so. */
	if (!(*rte & RTE_LEVEL))
		*rte &= ~RTE_REMOTE_IRR;
	/* Edges that came while it was masked are lost; a level is still there. */
	else if (ioapic->s.irr & BIT(pin))
		pin_service(ioapic, pin);
}

static void index_write(struct ioapic *ioapic, u32 value)
{
	unsigned int index = ioapic->s.ioregsel, pin = (index - INDEX_REDIR) / 2;

	if (index == INDEX_ID)
		ioapic->s.id = value >> 24 & 0xf;
	else if (index >= INDEX_REDIR && pin < KVM_IOAPIC_NUM_PINS)
		redirect_write(ioapic, array_index_nospec(pin, KVM_IOAPIC_NUM_PINS), index & 1, value);
}

/* ---- from outside ---- */

void ioapic_set_line(struct ioapic *ioapic, unsigned int pin, bool level)
{
	unsigned long flags;
	bool before;

	spin_lock_irqsave(&ioapic->lock, flags);
	before = ioapic->s.irr & BIT(pin);
	if (level)
		ioapic->s.irr |= BIT(pin);
	else
		ioapic->s.irr &= ~BIT(pin);
	if (level && (!before || ioapic->s.redirtbl[pin].bits & RTE_LEVEL))
		pin_service(ioapic, pin);
	spin_unlock_irqrestore(&ioapic->lock, flags);
}

void ioapic_acked(struct ioapic *ioapic, u8 vector)
{
	for (unsigned int pin = 0; acks_matter(ioapic->vm) && pin < KVM_IOAPIC_NUM_PINS; pin++) {
		if ((u8)READ_ONCE(ioapic->s.redirtbl[pin].bits) == vector)
			irq_acked(ioapic->vm, KVM_IRQCHIP_IOAPIC, pin);
	}
}

bool ioapic_is_open(const struct ioapic *ioapic, unsigned int pin)
{
	return !(READ_ONCE(ioapic->s.redirtbl[pin].bits) & RTE_MASKED);
}

bool ioapic_tells(const struct ioapic *ioapic, u8 vector)
{
	for (unsigned int pin = 0; acks_matter(ioapic->vm) && pin < KVM_IOAPIC_NUM_PINS; pin++) {
		if ((u8)READ_ONCE(ioapic->s.redirtbl[pin].bits) == vector)
			return true;
	}
	return false;
}

void ioapic_eoi(struct ioapic *ioapic, u8 vector)
{
	unsigned long flags;

	ioapic_acked(ioapic, vector); /* before a level that is still there is sent again */
	spin_lock_irqsave(&ioapic->lock, flags);
	for (unsigned int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		u64 *rte = &ioapic->s.redirtbl[pin].bits;

		if ((u8)*rte != vector || !(*rte & RTE_LEVEL) || !(*rte & RTE_REMOTE_IRR))
			continue;
		*rte &= ~RTE_REMOTE_IRR;
		if (ioapic->s.irr & BIT(pin))
			pin_service(ioapic, pin);
	}
	spin_unlock_irqrestore(&ioapic->lock, flags);
}

u32 ioapic_read(struct ioapic *ioapic, u32 offset)
{
	unsigned long flags;
	u32 value = 0;

	spin_lock_irqsave(&ioapic->lock, flags);
	if (offset == REG_SELECT)
		value = ioapic->s.ioregsel;
	else if (offset == REG_WINDOW)
		value = index_read(ioapic);
	spin_unlock_irqrestore(&ioapic->lock, flags);
	return value;
}

void ioapic_write(struct ioapic *ioapic, u32 offset, u32 value)
{
	unsigned long flags;

	if (offset == REG_EOI) {
		ioapic_eoi(ioapic, value);
		return;
	}
	spin_lock_irqsave(&ioapic->lock, flags);
	if (offset == REG_SELECT)
		ioapic->s.ioregsel = value & 0xff;
	else if (offset == REG_WINDOW)
		index_write(ioapic, value);
	spin_unlock_irqrestore(&ioapic->lock, flags);
}

void ioapic_get(struct ioapic *ioapic, struct kvm_ioapic_state *ret)
{
	unsigned long flags;

	spin_lock_irqsave(&ioapic->lock, flags);
	*ret = ioapic->s;
	spin_unlock_irqrestore(&ioapic->lock, flags);
}

/* What waits is sent: a level, or an edge that came between the two. */
void ioapic_set(struct ioapic *ioapic, const struct kvm_ioapic_state *state)
{
	unsigned long flags;

	spin_lock_irqsave(&ioapic->lock, flags);
	ioapic->s = *state;
	ioapic->s.base_address = IOAPIC_BASE;
	ioapic->s.id &= 0xf;
	ioapic->s.irr &= BIT(KVM_IOAPIC_NUM_PINS) - 1;
	pit_pulse_lost(ioapic->vm);
	for (unsigned int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		ioapic->s.redirtbl[pin].bits &= RTE_WRITABLE | RTE_REMOTE_IRR;
		if (ioapic->s.irr & BIT(pin) && ioapic->s.redirtbl[pin].bits & RTE_LEVEL)
			pin_service(ioapic, pin);
	}
	spin_unlock_irqrestore(&ioapic->lock, flags);
}

void ioapic_init(struct ioapic *ioapic, struct vm *vm)
{
	spin_lock_init(&ioapic->lock);
	ioapic->vm = vm;
	ioapic->s.base_address = IOAPIC_BASE;
	for (unsigned int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		ioapic->s.redirtbl[pin].bits = RTE_MASKED;
}
