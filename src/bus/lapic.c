// SPDX-License-Identifier: Apache-2.0
/*
 * lapic.c - local APIC: acceptance, priorities, acknowledge and EOI (SDM vol. 3 chapter 11).
 *
 * Who may do what without a lock. A sender sets TMR, then IRR (atomic OR), then looks at PPR and
 * calls ops->irq when the vector is above it. The vCPU's thread lowers PPR (EOI, TPR write), then
 * looks at IRR. Both orders are sequentially consistent, so at least one of the two sees the other:
 * an interrupt that becomes deliverable is always announced.
 */
#include "irqchip_int.h"

#include "base/bits.h"

static int bitmap_highest(_Atomic uint64_t map[4])
{
	for (int i = 3; i >= 0; i--) {
		uint64_t word = atomic_load(&map[i]);

		if (word)
			return i * 64 + 63 - __builtin_clzll(word);
	}
	return -1;
}

static bool bitmap_test(_Atomic uint64_t map[4], uint8_t bit)
{
	return atomic_load(&map[bit / 64]) & (1ull << (bit % 64));
}

static void bitmap_clear(_Atomic uint64_t map[4], uint8_t bit)
{
	atomic_fetch_and(&map[bit / 64], ~(1ull << (bit % 64)));
}

/* Returns whether it was clear. */
static bool bitmap_set(_Atomic uint64_t map[4], uint8_t bit)
{
	uint64_t mask = 1ull << (bit % 64);

	return !(atomic_fetch_or(&map[bit / 64], mask) & mask);
}

static bool lapic_is_listening(struct lapic *lapic)
{
	return lapic_is_on(lapic) && (atomic_load(&lapic->svr) & SVR_ENABLED) &&
	       !atomic_load(&lapic->init_pending);
}

/* SDM vol. 3 "Task and Processor Priorities". */
static void ppr_update(struct lapic *lapic)
{
	int in_service = bitmap_highest(lapic->isr);
	uint32_t isrv = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;
	uint32_t tpr = atomic_load_explicit(&lapic->tpr, memory_order_relaxed);

	atomic_store(&lapic->ppr, (tpr & 0xf0) >= isrv ? tpr : isrv);
}

static bool vector_beats_ppr(struct lapic *lapic, int vector)
{
	return vector >= 0 && ((uint32_t)vector & 0xf0) > (atomic_load(&lapic->ppr) & 0xf0);
}

static void lapic_announce(struct lapic *lapic)
{
	lapic->chip->ops->irq(lapic->chip->arg, lapic->index);
}

bool lapic_accept(struct lapic *lapic, uint8_t vector, bool level)
{
	if (!lapic_is_listening(lapic))
		return false;
	if (vector < 16) {
		lapic_error(lapic, ESR_RECEIVE_ILLEGAL);
		return false;
	}
	if (level != bitmap_test(lapic->tmr, vector)) {
		if (level)
			bitmap_set(lapic->tmr, vector);
		else
			bitmap_clear(lapic->tmr, vector);
	}
	if (bitmap_set(lapic->irr, vector) && vector_beats_ppr(lapic, vector))
		lapic_announce(lapic);
	return true;
}

void lapic_error(struct lapic *lapic, uint32_t bit)
{
	uint32_t before = atomic_fetch_or(&lapic->esr_next, bit);
	uint32_t lvt = atomic_load(&lapic->lvt[LVT_ERROR]);

	/* One interrupt until the guest reads the register; a bad vector in the LVT entry itself
	 * must not come back here for ever. */
	if (!(before & bit) && !(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
		(void)lapic_accept(lapic, (uint8_t)lvt, false);
}

static void pin_deliver(struct lapic *lapic, uint32_t lvt)
{
	const struct irqchip_vcpu_ops *ops = lapic->chip->ops;

	if (lvt & LVT_MASKED)
		return;
	switch (LVT_MODE(lvt)) {
	case APIC_FIXED:
		(void)lapic_accept(lapic, (uint8_t)lvt, false);
		break;
	case APIC_NMI:
		ops->nmi(lapic->chip->arg, lapic->index);
		break;
	case APIC_EXTINT:
		ops->irq(lapic->chip->arg, lapic->index);
		break;
	default:
		break;
	}
}

void lapic_lint0_raise(struct lapic *lapic)
{
	/* A disabled APIC's LINT0 is the processor's INTR pin; the 8259 is wired to the first. */
	if (!lapic_is_on(lapic)) {
		if (lapic->index == 0)
			lapic_announce(lapic);
		return;
	}
	pin_deliver(lapic, atomic_load(&lapic->lvt[LVT_LINT0]));
}

bool lapic_takes_extint(struct lapic *lapic)
{
	uint32_t lvt = atomic_load_explicit(&lapic->lvt[LVT_LINT0], memory_order_relaxed);

	if (!lapic_is_on(lapic))
		return lapic->index == 0;
	return !(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT;
}

void lapic_nmi_pin(struct lapic *lapic)
{
	if (!lapic_is_on(lapic))
		lapic->chip->ops->nmi(lapic->chip->arg, lapic->index);
	else
		pin_deliver(lapic, atomic_load(&lapic->lvt[LVT_LINT1]));
}

void lapic_sync(struct lapic *lapic)
{
	if (!atomic_load_explicit(&lapic->init_pending, memory_order_relaxed))
		return;
	lapic_reset_registers(lapic);
	atomic_store(&lapic->init_pending, false);
}

static int highest_deliverable(struct lapic *lapic)
{
	int vector = bitmap_highest(lapic->irr);

	return vector_beats_ppr(lapic, vector) ? vector : -1;
}

int lapic_pending(struct lapic *lapic)
{
	int vector;

	lapic_sync(lapic);
	vector = atomic_load(&lapic->chip->pic.out);
	if (vector >= 0 && lapic_takes_extint(lapic))
		return vector;
	return lapic_is_listening(lapic) ? highest_deliverable(lapic) : -1;
}

/* After PPR went down, or one of several was taken. */
static void announce_waiting(struct lapic *lapic)
{
	if (lapic_pending(lapic) >= 0)
		lapic_announce(lapic);
}

static int ack_fixed(struct lapic *lapic)
{
	int vector = lapic_is_listening(lapic) ? highest_deliverable(lapic) : -1;

	if (vector < 0)
		return -1;
	/* Into service before out of request, so that a look from outside never misses it. */
	bitmap_set(lapic->isr, (uint8_t)vector);
	bitmap_clear(lapic->irr, (uint8_t)vector);
	ppr_update(lapic);
	return vector;
}

int lapic_ack(struct lapic *lapic)
{
	int vector = -1;

	lapic_sync(lapic);
	/* An external interrupt has no priority class: it passes the APIC by. */
	if (atomic_load(&lapic->chip->pic.out) >= 0 && lapic_takes_extint(lapic))
		vector = pic_ack(&lapic->chip->pic);
	if (vector < 0)
		vector = ack_fixed(lapic);
	announce_waiting(lapic);
	return vector;
}

void lapic_eoi(struct lapic *lapic)
{
	int vector = bitmap_highest(lapic->isr);
	bool level;

	if (vector < 0)
		return;
	level = bitmap_test(lapic->tmr, (uint8_t)vector);
	bitmap_clear(lapic->isr, (uint8_t)vector);
	ppr_update(lapic);
	if (level)
		ioapic_eoi(&lapic->chip->ioapic, (uint8_t)vector);
	announce_waiting(lapic);
}

void lapic_set_tpr(struct lapic *lapic, uint8_t tpr)
{
	uint32_t before = atomic_exchange(&lapic->tpr, tpr);

	ppr_update(lapic);
	if (tpr < before)
		announce_waiting(lapic);
}

void lapic_reset_registers(struct lapic *lapic)
{
	for (unsigned i = 0; i < 4; i++) {
		atomic_store(&lapic->irr[i], 0);
		atomic_store(&lapic->tmr[i], 0);
		atomic_store(&lapic->isr[i], 0);
	}
	atomic_store(&lapic->tpr, 0);
	atomic_store(&lapic->ppr, 0);
	atomic_store(&lapic->svr, 0xff);
	atomic_store(&lapic->dfr, 0xffffffffu);
	atomic_store(&lapic->ldr, 0);
	for (unsigned i = 0; i < LVT_COUNT; i++)
		atomic_store(&lapic->lvt[i], LVT_MASKED);
	/* Virtual wire, as firmware would have set it up for the bootstrap processor. */
	if (lapic->index == 0)
		atomic_store(&lapic->lvt[LVT_LINT0], APIC_EXTINT << 8);
	atomic_store(&lapic->esr_next, 0);
	lapic->esr = 0;
	lapic->icr_low = 0;
	lapic->icr_high = 0;
	lapic_timer_reset(lapic);
}

void lapic_reset(struct lapic *lapic)
{
	atomic_store(&lapic->base,
		     IRQ_LAPIC_BASE | APIC_BASE_ENABLE | (lapic->index == 0 ? APIC_BASE_BSP : 0));
	atomic_store(&lapic->init_pending, false);
	lapic_reset_registers(lapic);
}

/* What the registers' write rules would never have let in is cut off. */
void lapic_loaded(struct lapic *lapic)
{
	uint64_t base = atomic_load(&lapic->base);

	base &= APIC_BASE_ADDR | APIC_BASE_ENABLE | APIC_BASE_X2;
	if (!(base & APIC_BASE_ENABLE))
		base &= ~APIC_BASE_X2;
	atomic_store(&lapic->base, base | (lapic->index == 0 ? APIC_BASE_BSP : 0));
	/* Vectors below 16 are never accepted. */
	atomic_fetch_and(&lapic->irr[0], ~0xffffull);
	atomic_fetch_and(&lapic->isr[0], ~0xffffull);
	atomic_fetch_and(&lapic->tpr, 0xffu);
	lapic_mask_registers(lapic);
	ppr_update(lapic);
	lapic_timer_loaded(lapic);
	announce_waiting(lapic);
}

int lapic_init(struct lapic *lapic, struct irqchip *chip, unsigned index)
{
	lapic->chip = chip;
	lapic->index = index;
	return lapic_timer_init(lapic);
}

void lapic_fini(struct lapic *lapic)
{
	lapic_timer_fini(lapic);
}
