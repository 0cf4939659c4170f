// SPDX-License-Identifier: Apache-2.0
/*
 * lapic_regs.c - the local APIC's registers, as a page of memory and as x2APIC MSRs.
 *
 * One set of registers, indexed by bits 4..9 of the page offset, which is also the MSR minus 0x800
 * (SDM vol. 3 table 11-6). The faces differ in what faults: the page ignores or notes in ESR
 * what the MSRs refuse with #GP.
 */
#include "irqchip_int.h"

#include "base/bits.h"

enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR_LOW = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT = 0x32,
	REG_INITIAL = 0x38,
	REG_CURRENT = 0x39,
	REG_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
};

/* An integrated APIC with six LVT entries, without EOI broadcast suppression. */
#define VERSION (0x14u | ((LVT_COUNT - 1) << 16))

#define MSR_APIC_BASE	 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC	 0x800u
#define MSR_X2APIC_LAST	 0x8ffu

#define SVR_WRITABLE 0x3ffu
#define ICR_WRITABLE 0x000ccfffu
#define ICR_LOGICAL  (1u << 11)
#define ICR_ASSERT   (1u << 14)
#define ICR_LEVEL    (1u << 15)

enum icr_shorthand { ICR_DEST, ICR_SELF, ICR_ALL, ICR_OTHERS };

static const uint32_t lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERF] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,	[LVT_ERROR] = 0x100ff,
};

static uint32_t bitmap_part(_Atomic uint64_t map[4], unsigned part)
{
	return (uint32_t)(atomic_load(&map[part / 2]) >> (part & 1 ? 32 : 0));
}

/* False: no such register, or it cannot be read. */
static bool reg_read(struct lapic *lapic, unsigned reg, uint32_t *ret)
{
	bool x2 = lapic_is_x2(lapic);

	if (reg >= REG_ISR && reg < REG_TMR)
		*ret = bitmap_part(lapic->isr, reg - REG_ISR);
	else if (reg >= REG_TMR && reg < REG_IRR)
		*ret = bitmap_part(lapic->tmr, reg - REG_TMR);
	else if (reg >= REG_IRR && reg < REG_ESR)
		*ret = bitmap_part(lapic->irr, reg - REG_IRR);
	else if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
		*ret = atomic_load(&lapic->lvt[reg - REG_LVT]);
	else
		switch (reg) {
		case REG_ID:
			*ret = x2 ? lapic->index : lapic->index << 24;
			break;
		case REG_VERSION:
			*ret = VERSION;
			break;
		case REG_TPR:
			*ret = atomic_load(&lapic->tpr);
			break;
		case REG_PPR:
			*ret = atomic_load(&lapic->ppr);
			break;
		case REG_APR:
		case REG_RRD:
		case REG_EOI:
			*ret = 0;
			return !x2;
		case REG_LDR:
			*ret = atomic_load(&lapic->ldr);
			break;
		case REG_DFR:
			*ret = atomic_load(&lapic->dfr);
			return !x2;
		case REG_SVR:
			*ret = atomic_load(&lapic->svr);
			break;
		case REG_ESR:
			*ret = lapic->esr;
			break;
		case REG_ICR_LOW:
			*ret = lapic->icr_low;
			break;
		case REG_ICR_HIGH:
			*ret = lapic->icr_high;
			return !x2;
		case REG_INITIAL:
			*ret = lapic_timer_read(lapic).initial;
			break;
		case REG_CURRENT:
			*ret = lapic_timer_read(lapic).current;
			break;
		case REG_DIVIDE:
			*ret = lapic_timer_read(lapic).divide;
			break;
		default:
			return false;
		}
	return true;
}

static void send_shorthand(struct lapic *lapic, unsigned shorthand, const struct apic_msg *msg)
{
	struct irqchip *chip = lapic->chip;

	if (shorthand == ICR_SELF) {
		/* SDM table 11-3: the self shorthand knows fixed interrupts only. */
		if (msg->mode == APIC_FIXED)
			(void)irqchip_deliver_to(lapic, msg);
		return;
	}
	for (unsigned i = 0; i < chip->lapic_count; i++) {
		if (shorthand == ICR_ALL || &chip->lapics[i] != lapic)
			(void)irqchip_deliver_to(&chip->lapics[i], msg);
	}
}

/* SDM vol. 3 11.6 "Issuing Interprocessor Interrupts". */
static void icr_send(struct lapic *lapic, uint32_t low, uint32_t dest)
{
	unsigned shorthand = (low >> 18) & 3;
	struct apic_msg msg = {
		.dest = dest,
		.logical = low & ICR_LOGICAL,
		.mode = (low >> 8) & 7,
		.vector = (uint8_t)low,
	};

	if (!lapic_is_x2(lapic))
		msg.dest = dest >> 24 == 0xff ? APIC_BROADCAST : dest >> 24;
	/* INIT level de-assert synchronised arbitration ids of the Pentium; it does nothing
	 * since. */
	if (msg.mode == APIC_INIT && (low & ICR_LEVEL) && !(low & ICR_ASSERT))
		return;
	if ((msg.mode == APIC_FIXED || msg.mode == APIC_LOWEST) && msg.vector < 16) {
		lapic_error(lapic, ESR_SEND_ILLEGAL);
		return;
	}
	if (shorthand == ICR_DEST)
		(void)irqchip_deliver(lapic->chip, &msg);
	else
		send_shorthand(lapic, shorthand, &msg);
}

static void svr_write(struct lapic *lapic, uint32_t value)
{
	uint32_t before = atomic_exchange(&lapic->svr, value & SVR_WRITABLE);

	/* SDM vol. 3 11.4.7.2: while disabled by software all LVT entries are masked. */
	if (!(value & SVR_ENABLED) && (before & SVR_ENABLED)) {
		for (unsigned i = 0; i < LVT_COUNT; i++)
			atomic_fetch_or(&lapic->lvt[i], LVT_MASKED);
	}
	if ((value & SVR_ENABLED) && lapic_pending(lapic) >= 0)
		lapic->chip->ops->irq(lapic->chip->arg, lapic->index);
}

static void lvt_write(struct lapic *lapic, unsigned index, uint32_t value)
{
	uint32_t before;

	value &= lvt_writable[index];
	if (!(atomic_load(&lapic->svr) & SVR_ENABLED))
		value |= LVT_MASKED;
	before = atomic_exchange(&lapic->lvt[index], value);
	if (index == LVT_TIMER)
		lapic_timer_mode_changed(lapic, before);
	/* The 8259 may have been waiting for this. */
	if (index == LVT_LINT0 && atomic_load(&lapic->chip->pic.out) >= 0 &&
	    lapic_takes_extint(lapic))
		lapic->chip->ops->irq(lapic->chip->arg, lapic->index);
}

/* False: no such register, or it cannot be written. */
static bool reg_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
	bool x2 = lapic_is_x2(lapic);

	if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
		lvt_write(lapic, reg - REG_LVT, value);
		return true;
	}
	switch (reg) {
	case REG_ID: /* read-only, as on all recent processors */
		return !x2;
	case REG_TPR:
		lapic_set_tpr(lapic, (uint8_t)value);
		return true;
	case REG_EOI:
		lapic_eoi(lapic);
		return true;
	case REG_LDR:
		if (!x2)
			atomic_store(&lapic->ldr, value & 0xff000000u);
		return !x2;
	case REG_DFR:
		if (!x2)
			atomic_store(&lapic->dfr, value | 0x0fffffffu);
		return !x2;
	case REG_SVR:
		svr_write(lapic, value);
		return true;
	case REG_ESR:
		lapic->esr = atomic_exchange(&lapic->esr_next, 0);
		return true;
	case REG_ICR_LOW:
		lapic->icr_low = value & ICR_WRITABLE;
		icr_send(lapic, value, lapic->icr_high);
		return true;
	case REG_ICR_HIGH:
		if (!x2)
			lapic->icr_high = value & 0xff000000u;
		return !x2;
	case REG_INITIAL:
		lapic_timer_set_initial(lapic, value);
		return true;
	case REG_DIVIDE:
		lapic_timer_set_divide(lapic, value);
		return true;
	default:
		return false;
	}
}

void lapic_mask_registers(struct lapic *lapic)
{
	for (unsigned i = 0; i < LVT_COUNT; i++)
		atomic_fetch_and(&lapic->lvt[i], lvt_writable[i]);
	atomic_fetch_and(&lapic->svr, SVR_WRITABLE);
	lapic->icr_low &= ICR_WRITABLE;
}

/* The page: 32-bit registers, one every 16 bytes. */

uint32_t lapic_mmio_read(struct lapic *lapic, uint32_t off, unsigned size)
{
	uint32_t value = 0;

	lapic_sync(lapic);
	/* Parts of a register may be read; the bytes between two registers are nothing. */
	if ((off & 0xf) >= 4)
		return 0;
	if (off >= 0x400 || !reg_read(lapic, off >> 4, &value)) {
		lapic_error(lapic, ESR_ILLEGAL_REGISTER);
		return 0;
	}
	return value >> (8 * (off & 3));
}

void lapic_mmio_write(struct lapic *lapic, uint32_t off, unsigned size, uint32_t value)
{
	lapic_sync(lapic);
	if ((off & 0xf) || size < 4)
		return;
	if (off >= 0x400 || !reg_write(lapic, off >> 4, value))
		lapic_error(lapic, ESR_ILLEGAL_REGISTER);
}

/* MSRs. */

/* Bits that must be written as zero; a wider mistake is a #GP as well. */
static bool x2_value_is_valid(unsigned reg, uint64_t value)
{
	if (reg == REG_ICR_LOW)
		return !((uint32_t)value & ~ICR_WRITABLE);
	if (value >> 32)
		return false;
	switch (reg) {
	case REG_EOI:
	case REG_ESR:
		return value == 0;
	case REG_TPR:
	case REG_SELF_IPI:
		return value <= 0xff;
	case REG_SVR:
		return !(value & ~(uint64_t)SVR_WRITABLE);
	case REG_DIVIDE:
		return !(value & ~0xbull);
	default:
		/* Delivery status and remote IRR are read-only and may be written back. */
		if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
			return !(value & ~(uint64_t)(lvt_writable[reg - REG_LVT] | 0x5000u));
		return true;
	}
}

static bool x2_read(struct lapic *lapic, unsigned reg, uint64_t *ret)
{
	uint32_t value = 0;

	if (!lapic_is_on(lapic) || !lapic_is_x2(lapic) || reg > REG_SELF_IPI)
		return false;
	if (!reg_read(lapic, reg, &value))
		return false;
	*ret = value;
	if (reg == REG_ICR_LOW)
		*ret |= (uint64_t)lapic->icr_high << 32;
	return true;
}

static bool x2_write(struct lapic *lapic, unsigned reg, uint64_t value)
{
	if (!lapic_is_on(lapic) || !lapic_is_x2(lapic) || reg > REG_SELF_IPI)
		return false;
	if (!x2_value_is_valid(reg, value))
		return false;
	if (reg == REG_SELF_IPI) {
		icr_send(lapic, (uint32_t)value | ICR_SELF << 18, 0);
		return true;
	}
	if (reg == REG_ICR_LOW)
		lapic->icr_high = (uint32_t)(value >> 32);
	return reg_write(lapic, reg, (uint32_t)value);
}

/* SDM vol. 3 11.12.5 "x2APIC State Transitions". */
static bool base_write(struct lapic *lapic, uint64_t value)
{
	uint64_t before = atomic_load(&lapic->base);
	uint64_t mode = value & (APIC_BASE_ENABLE | APIC_BASE_X2);
	uint64_t old_mode = before & (APIC_BASE_ENABLE | APIC_BASE_X2);

	if (value & ~(APIC_BASE_ADDR | APIC_BASE_ENABLE | APIC_BASE_X2 | APIC_BASE_BSP))
		return false;
	if (mode == APIC_BASE_X2)
		return false;
	if (mode == (APIC_BASE_ENABLE | APIC_BASE_X2) && old_mode == 0)
		return false;
	if (mode == APIC_BASE_ENABLE && (old_mode & APIC_BASE_X2))
		return false;
	/* Which processor is the bootstrap one is not the guest's to say. */
	value = (value & ~APIC_BASE_BSP) | (before & APIC_BASE_BSP);
	atomic_store(&lapic->base, value);
	if (mode == old_mode)
		return true;
	if (mode == 0) {
		lapic_reset_registers(lapic);
	} else if (mode & APIC_BASE_X2) {
		atomic_store(&lapic->ldr,
			     (lapic->index >> 4) << 16 | 1u << (lapic->index & 0xf));
		lapic->icr_high = 0;
	}
	if (lapic_pending(lapic) >= 0)
		lapic->chip->ops->irq(lapic->chip->arg, lapic->index);
	return true;
}

bool lapic_read_msr(struct lapic *lapic, uint32_t msr, uint64_t *ret)
{
	lapic_sync(lapic);
	if (msr == MSR_APIC_BASE) {
		*ret = atomic_load(&lapic->base);
		return true;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*ret = lapic_timer_read(lapic).tsc_deadline;
		return irqchip_tsc_hz(lapic->chip) != 0;
	}
	if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return false;
	return x2_read(lapic, msr - MSR_X2APIC, ret);
}

bool lapic_write_msr(struct lapic *lapic, uint32_t msr, uint64_t value)
{
	lapic_sync(lapic);
	if (msr == MSR_APIC_BASE)
		return base_write(lapic, value);
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_set_tsc_deadline(lapic, value);
		return irqchip_tsc_hz(lapic->chip) != 0;
	}
	if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return false;
	return x2_write(lapic, msr - MSR_X2APIC, value);
}
