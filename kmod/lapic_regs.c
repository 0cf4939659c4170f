// SPDX-License-Identifier: GPL-2.0-only
/*
 * lapic_regs.c - the local APIC's registers, as a page of memory and as x2APIC MSRs.
 *
 * One set of registers: bits 4 to 9 of the page's offset are also the MSR minus 0x800 (SDM vol. 3, table
 * 11-6). The faces differ in what faults: the page ignores, or notes in ESR, what the MSRs refuse
 * with #GP.
 */
#include <linux/nospec.h>

#include "chips.h"

#define MSR_APIC_BASE	 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC	 0x800u
#define MSR_X2APIC_LAST	 0x8ffu

#define SVR_WRITABLE 0x3ffu
#define ICR_WRITABLE 0x000ccfffu

enum icr_shorthand { ICR_DEST, ICR_SELF, ICR_ALL, ICR_OTHERS };

/* By (offset - LAPIC_TIMER) / 16. */
static const u32 lvt_writable[] = { 0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff };

static bool is_lvt(u32 offset)
{
	return offset >= LAPIC_TIMER && offset <= LAPIC_ERROR;
}

/* @offset: of an LVT entry. */
static u32 lvt_mask(u32 offset)
{
	return lvt_writable[array_index_nospec((offset - LAPIC_TIMER) / 0x10, ARRAY_SIZE(lvt_writable))];
}

/* ---- reading ---- */

/* False: no such register, or it cannot be read. */
static bool reg_read(struct lapic *lapic, u32 offset, u32 *ret)
{
	bool x2 = lapic_is_x2(lapic);

	*ret = lapic_get(lapic, offset);
	if (is_lvt(offset) || (offset >= LAPIC_ISR && offset < LAPIC_ESR))
		return true;
	switch (offset) {
	case LAPIC_ID:
	case LAPIC_VERSION:
	case LAPIC_TPR:
	case LAPIC_PPR:
	case LAPIC_LDR:
	case LAPIC_SVR:
	case LAPIC_ESR:
	case LAPIC_ICR_LOW:
	case LAPIC_INITIAL:
	case LAPIC_DIVIDE:
		return true;
	case LAPIC_CURRENT:
		*ret = lapic_timer_current(lapic);
		return true;
	case LAPIC_APR:
	case LAPIC_RRD:
	case LAPIC_EOI:
		*ret = 0;
		return !x2;
	case LAPIC_DFR:
	case LAPIC_ICR_HIGH:
		return !x2;
	default:
		return false;
	}
}

/* ---- writing ---- */

static void send_shorthand(struct lapic *lapic, unsigned int shorthand, const struct apic_msg *msg)
{
	struct vm *vm = lapic->vcpu->vm;

	if (shorthand == ICR_SELF) {
		/* SDM vol. 3, table 11-3: the self shorthand knows fixed interrupts only. */
		if (msg->mode == APIC_FIXED)
			apic_deliver_to(lapic->vcpu, msg);
		return;
	}
	for (unsigned int i = 0; i < smp_load_acquire(&vm->vcpu_count); i++) {
		if (shorthand == ICR_ALL || vm->vcpu[i] != lapic->vcpu)
			apic_deliver_to(vm->vcpu[i], msg);
	}
}

/* SDM vol. 3, 11.6.1. */
static void icr_send(struct lapic *lapic, u32 low, u32 dest)
{
	unsigned int shorthand = low >> 18 & 3;
	struct apic_msg msg = {
		.dest = dest, .logical = low & ICR_LOGICAL, .mode = ICR_MODE(low), .vector = low,
	};

	if (!lapic_is_x2(lapic))
		msg.dest = dest >> 24 == 0xff ? APIC_BROADCAST : dest >> 24;
	if (icr_is_idle(low))
		return;
	if ((msg.mode == APIC_FIXED || msg.mode == APIC_LOWEST) && msg.vector < 16) {
		lapic_error(lapic, ESR_SEND_ILLEGAL);
		return;
	}
	if (shorthand == ICR_DEST)
		apic_deliver(lapic->vcpu->vm, &msg);
	else
		send_shorthand(lapic, shorthand, &msg);
}

static void svr_write(struct lapic *lapic, u32 value)
{
	bool was_on = lapic_get(lapic, LAPIC_SVR) & SVR_ENABLED;

	lapic_put(lapic, LAPIC_SVR, value & SVR_WRITABLE);
	if (value & SVR_ENABLED && !was_on)
		set_bit(REQ_APF, &lapic->vcpu->requests); /* what waits for that */
	/* SDM vol. 3, 11.4.7.2: while disabled by software all LVT entries are masked. */
	if (value & SVR_ENABLED || !was_on)
		return;
	for (u32 at = LAPIC_TIMER; at <= LAPIC_ERROR; at += 0x10)
		lapic_put(lapic, at, lapic_get(lapic, at) | LVT_MASKED);
}

static void lvt_write(struct lapic *lapic, u32 offset, u32 value)
{
	u32 before = lapic_get(lapic, offset);

	value &= lvt_mask(offset);
	if (!(lapic_get(lapic, LAPIC_SVR) & SVR_ENABLED))
		value |= LVT_MASKED;
	lapic_put(lapic, offset, value);
	if (offset != LAPIC_TIMER || !((before ^ value) & LVT_TIMER_MODE))
		return;
	/* To or from the deadline mode the timer is disarmed: SDM vol. 3, 11.5.4.1. */
	if ((before ^ value) & LVT_TIMER_TSC) {
		lapic_timer_stop(lapic);
		lapic_put(lapic, LAPIC_INITIAL, 0);
	} else {
		lapic_timer_resume(lapic, lapic_timer_current(lapic));
	}
}

/* Registers that only one of the faces can write. */
static bool xapic_write(struct lapic *lapic, u32 offset, u32 value)
{
	if (lapic_is_x2(lapic))
		return false;
	switch (offset) {
	case LAPIC_ID: /* read-only, as on all recent processors */
		break;
	case LAPIC_LDR:
		lapic_put(lapic, offset, value & 0xff000000);
		break;
	case LAPIC_DFR:
		lapic_put(lapic, offset, value | 0x0fffffff);
		break;
	case LAPIC_ICR_HIGH:
		lapic_put(lapic, offset, value & 0xff000000);
		break;
	default:
		return false;
	}
	return true;
}

/* False: no such register, or it cannot be written. */
static bool reg_write(struct lapic *lapic, u32 offset, u32 value)
{
	if (is_lvt(offset)) {
		lvt_write(lapic, offset, value);
		return true;
	}
	switch (offset) {
	case LAPIC_TPR:
		lapic_put(lapic, offset, value & 0xff);
		lapic_update_ppr(lapic);
		return true;
	case LAPIC_EOI:
		lapic_eoi(lapic);
		return true;
	case LAPIC_SVR:
		svr_write(lapic, value);
		return true;
	case LAPIC_ESR:
		lapic_put(lapic, offset, xchg(&lapic->errors, 0));
		return true;
	case LAPIC_ICR_LOW:
		lapic_put(lapic, offset, value & ICR_WRITABLE);
		icr_send(lapic, value, lapic_get(lapic, LAPIC_ICR_HIGH));
		return true;
	case LAPIC_INITIAL:
		/* SDM vol. 3, 11.5.4.1: ignored in the deadline mode. */
		if ((lapic_get(lapic, LAPIC_TIMER) & LVT_TIMER_MODE) == LVT_TIMER_TSC)
			return true;
		lapic_put(lapic, offset, value);
		lapic_timer_start(lapic);
		return true;
	case LAPIC_DIVIDE: {
		u32 left = lapic_timer_current(lapic);

		lapic_put(lapic, offset, value & 0xb);
		lapic_timer_resume(lapic, left);
		return true;
	}
	default:
		return xapic_write(lapic, offset, value);
	}
}

/* ---- the page: 32-bit registers, one every 16 bytes ---- */

u32 lapic_mmio_read(struct lapic *lapic, u32 offset)
{
	u32 value;

	/* Parts of a register may be read; the bytes between two registers are nothing. */
	if ((offset & 0xf) >= 4)
		return 0;
	if (offset >= LAPIC_SIZE || !reg_read(lapic, offset & ~0xfu, &value)) {
		lapic_error(lapic, ESR_ILLEGAL_REGISTER);
		return 0;
	}
	return value >> (8 * (offset & 3));
}

void lapic_mmio_write(struct lapic *lapic, u32 offset, u32 value)
{
	if (offset & 0xf)
		return;
	if (offset >= LAPIC_SIZE || !reg_write(lapic, offset, value))
		lapic_error(lapic, ESR_ILLEGAL_REGISTER);
}

/* ---- MSRs ---- */

/* Bits that must be written as zero; a wider mistake is a #GP as well. */
static bool x2_value_is_valid(u32 offset, u64 value)
{
	if (offset == LAPIC_ICR_LOW)
		return !((u32)value & ~ICR_WRITABLE);
	if (value >> 32)
		return false;
	switch (offset) {
	case LAPIC_EOI:
	case LAPIC_ESR:
		return value == 0;
	case LAPIC_TPR:
	case LAPIC_SELF_IPI:
		return value <= 0xff;
	case LAPIC_SVR:
		return !(value & ~(u64)SVR_WRITABLE);
	case LAPIC_DIVIDE:
		return !(value & ~0xbull);
	default:
		/* Delivery status and remote IRR are read-only and may be written back. */
		if (is_lvt(offset))
			return !(value & ~(u64)(lvt_mask(offset) | 0x5000));
		return true;
	}
}

static bool x2_read(struct lapic *lapic, u32 offset, u64 *ret)
{
	u32 value;

	if (!lapic_is_on(lapic) || !lapic_is_x2(lapic) || offset >= LAPIC_SIZE ||
	    !reg_read(lapic, offset, &value))
		return false;
	*ret = value;
	if (offset == LAPIC_ICR_LOW)
		*ret |= (u64)lapic_get(lapic, LAPIC_ICR_HIGH) << 32;
	return true;
}

static bool x2_write(struct lapic *lapic, u32 offset, u64 value)
{
	if (!lapic_is_on(lapic) || !lapic_is_x2(lapic) || offset >= LAPIC_SIZE ||
	    !x2_value_is_valid(offset, value))
		return false;
	if (offset == LAPIC_SELF_IPI) {
		icr_send(lapic, (u32)value | ICR_SELF << 18, 0);
		return true;
	}
	if (offset == LAPIC_ICR_LOW)
		lapic_put(lapic, LAPIC_ICR_HIGH, value >> 32);
	return reg_write(lapic, offset, value);
}

/* SDM vol. 3, 11.12.5. */
static bool is_transition(u64 old_mode, u64 mode)
{
	if (mode == APIC_BASE_X2 || (mode == (APIC_BASE_ENABLE | APIC_BASE_X2) && old_mode == 0))
		return false;
	return !(mode == APIC_BASE_ENABLE && old_mode & APIC_BASE_X2);
}

/* User space may go from any mode to any that there is. */
int lapic_set_base(struct lapic *lapic, u64 value, bool host)
{
	u64 before = lapic->vcpu->apic_base, modes = APIC_BASE_ENABLE | APIC_BASE_X2;
	u32 id = lapic->vcpu->id;

	if (value & ~(APIC_BASE_ADDR | modes | APIC_BASE_BSP) ||
	    !is_transition(host ? value & modes : before & modes, value & modes))
		return -EINVAL;
	/* Which processor is the bootstrap one is not the guest's to say. */
	value = (value & ~APIC_BASE_BSP) | (before & APIC_BASE_BSP);
	WRITE_ONCE(lapic->vcpu->apic_base, value);
	if (!((before ^ value) & modes))
		return 0;
	if (!(value & modes)) {
		lapic_reset(lapic);
		return 0;
	}
	lapic_put(lapic, LAPIC_ID, value & APIC_BASE_X2 ? id : id << 24);
	if (value & APIC_BASE_X2) {
		lapic_put(lapic, LAPIC_LDR, (id >> 4) << 16 | 1u << (id & 0xf));
		lapic_put(lapic, LAPIC_ICR_HIGH, 0);
	}
	return 0;
}

int lapic_read_msr(struct lapic *lapic, u32 msr, u64 *ret)
{
	if (msr == MSR_TSC_DEADLINE) {
		/* It is gone when it has fired. */
		*ret = hrtimer_active(&lapic->timer) ? lapic->tsc_deadline : 0;
		return 0;
	}
	if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	return x2_read(lapic, (msr - MSR_X2APIC) << 4, ret) ? 0 : -EINVAL;
}

int lapic_write_msr(struct lapic *lapic, u32 msr, u64 value)
{
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_set_deadline(lapic, value);
		return 0;
	}
	if (msr < MSR_X2APIC || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	return x2_write(lapic, (msr - MSR_X2APIC) << 4, value) ? 0 : -EINVAL;
}

/* ---- gets and sets ---- */

/* The ABI has the ID in the xAPIC's place in either mode (KVM_CAP_X2APIC_API is another one). */
void lapic_get_state(struct lapic *lapic, struct kvm_lapic_state *ret)
{
	u32 id = lapic->vcpu->id << 24, current_count = lapic_timer_current(lapic);

	BUILD_BUG_ON(sizeof(lapic->regs) != sizeof(ret->regs));
	memcpy(ret->regs, lapic->regs, sizeof(ret->regs));
	memcpy(ret->regs + LAPIC_ID, &id, sizeof(id));
	memcpy(ret->regs + LAPIC_CURRENT, &current_count, sizeof(current_count));
}

void lapic_set_state(struct lapic *lapic, const struct kvm_lapic_state *state)
{
	u32 id = lapic_get(lapic, LAPIC_ID), ldr = lapic_get(lapic, LAPIC_LDR), left;

	lapic_timer_stop(lapic);
	memcpy(lapic->regs, state->regs, sizeof(lapic->regs));
	left = lapic_get(lapic, LAPIC_CURRENT);
	lapic_put(lapic, LAPIC_ID, id);
	lapic_put(lapic, LAPIC_VERSION, 0x14 | 5 << 16);
	if (lapic_is_x2(lapic))
		lapic_put(lapic, LAPIC_LDR, ldr);
	lapic_put(lapic, LAPIC_TPR, lapic_get(lapic, LAPIC_TPR) & 0xff);
	lapic_put(lapic, LAPIC_SVR, lapic_get(lapic, LAPIC_SVR) & SVR_WRITABLE);
	lapic_put(lapic, LAPIC_ICR_LOW, lapic_get(lapic, LAPIC_ICR_LOW) & ICR_WRITABLE);
	lapic_put(lapic, LAPIC_DIVIDE, lapic_get(lapic, LAPIC_DIVIDE) & 0xb);
	for (u32 at = LAPIC_TIMER; at <= LAPIC_ERROR; at += 0x10)
		lapic_put(lapic, at, lapic_get(lapic, at) & lvt_mask(at));
	/* Vectors below 16 are never accepted. */
	lapic_put(lapic, LAPIC_IRR, lapic_get(lapic, LAPIC_IRR) & ~0xffffu);
	lapic_put(lapic, LAPIC_ISR, lapic_get(lapic, LAPIC_ISR) & ~0xffffu);
	lapic_update_ppr(lapic);
	lapic_timer_resume(lapic, left);
	vcpu_request(lapic->vcpu, REQ_EVENT);
}
