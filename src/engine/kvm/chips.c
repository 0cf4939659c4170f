// SPDX-License-Identifier: Apache-2.0
/* chips.c - interrupt chips, timer and clock in the host's kernel, out of it and into it. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"

#define MSR_TSC_DEADLINE 0x6e0u

_Static_assert(ENGINE_APIC_BYTES == KVM_APIC_REG_SIZE, "one register page");
_Static_assert(ENGINE_IOAPIC_PINS == KVM_IOAPIC_NUM_PINS, "one I/O APIC");

/* ---- local APIC ---- */

int kvm_vcpu_get_apic(struct engine_vcpu *base, struct engine_apic *apic)
{
	const struct kvm_vcpu *vcpu = (const struct kvm_vcpu *)base;
	struct kvm_lapic_state regs;
	struct kvm_sregs sregs;
	int r;

	if (!kvm_has_irqchip(kvm_of(base)))
		return -ENOTSUP;
	r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (r >= 0)
		r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &regs);
	if (r < 0)
		return r;
	apic->base = sregs.apic_base;
	memcpy(apic->regs, regs.regs, sizeof(apic->regs));
	/* A host without the timer mode has no such MSR. */
	if (kvm_msr_get(vcpu, MSR_TSC_DEADLINE, &apic->tsc_deadline) < 0)
		apic->tsc_deadline = 0;
	return 0;
}

/* The mode before the registers, whose layout it decides; the deadline last, since the timer's mode
 * is one of them. */
int kvm_vcpu_set_apic(struct engine_vcpu *base, const struct engine_apic *apic)
{
	const struct kvm_vcpu *vcpu = (const struct kvm_vcpu *)base;
	struct kvm_lapic_state regs;
	struct kvm_sregs sregs;
	int r;

	if (!kvm_has_irqchip(kvm_of(base)))
		return -ENOTSUP;
	r = kvm_ioctl(vcpu->fd, KVM_GET_SREGS, &sregs);
	if (r < 0)
		return r;
	sregs.apic_base = apic->base;
	r = kvm_ioctl(vcpu->fd, KVM_SET_SREGS, &sregs);
	if (r < 0)
		return r;
	memcpy(regs.regs, apic->regs, sizeof(regs.regs));
	r = kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &regs);
	if (r >= 0 && apic->tsc_deadline)
		r = kvm_msr_set(vcpu, MSR_TSC_DEADLINE, apic->tsc_deadline);
	return r < 0 ? r : 0;
}

/* ---- 8259 pair ---- */

static void pic_out(const struct kvm_pic_state *k, struct engine_pic *p)
{
	*p = (struct engine_pic){
		.irr = k->irr,
		.imr = k->imr,
		.isr = k->isr,
		.lines = k->last_irr,
		.vector_base = k->irq_base,
		.lowest = k->priority_add,
		.elcr = k->elcr,
		.elcr_mask = k->elcr_mask,
		.init_state = k->init_state,
		.init4 = k->init4,
		.read_isr = k->read_reg_select,
		.poll = k->poll,
		.special_mask = k->special_mask,
		.auto_eoi = k->auto_eoi,
		.rotate_on_auto_eoi = k->rotate_on_auto_eoi,
		.special_fully_nested = k->special_fully_nested_mode,
	};
}

static void pic_in(const struct engine_pic *p, struct kvm_pic_state *k)
{
	*k = (struct kvm_pic_state){
		.irr = p->irr,
		.imr = p->imr,
		.isr = p->isr,
		.last_irr = p->lines,
		.irq_base = p->vector_base,
		.priority_add = p->lowest & 7,
		.elcr = p->elcr & p->elcr_mask,
		.elcr_mask = p->elcr_mask,
		.init_state = p->init_state & 3,
		.init4 = p->init4,
		.read_reg_select = p->read_isr,
		.poll = p->poll,
		.special_mask = p->special_mask,
		.auto_eoi = p->auto_eoi,
		.rotate_on_auto_eoi = p->rotate_on_auto_eoi,
		.special_fully_nested_mode = p->special_fully_nested,
	};
}

/* ---- I/O APIC ---- */

static void ioapic_out(const struct kvm_ioapic_state *k, struct engine_ioapic *io)
{
	*io = (struct engine_ioapic){
		.base = k->base_address, .select = k->ioregsel, .id = k->id, .irr = k->irr
	};
	for (unsigned i = 0; i < ENGINE_IOAPIC_PINS; i++)
		io->redirection[i] = k->redirtbl[i].bits;
}

static void ioapic_in(const struct engine_ioapic *io, struct kvm_ioapic_state *k)
{
	*k = (struct kvm_ioapic_state){
		.base_address = io->base, .ioregsel = io->select, .id = io->id, .irr = io->irr
	};
	for (unsigned i = 0; i < ENGINE_IOAPIC_PINS; i++)
		k->redirtbl[i].bits = io->redirection[i];
}

/* ---- 8254 ---- */

static void pit_out(const struct kvm_pit_channel_state *k, struct engine_pit_channel *c)
{
	*c = (struct engine_pit_channel){
		.count = k->count,
		.latched_count = k->latched_count,
		.count_latched = k->count_latched,
		.status_latched = k->status_latched,
		.status = k->status,
		.read_state = k->read_state,
		.write_state = k->write_state,
		.write_latch = k->write_latch,
		.rw_mode = k->rw_mode,
		.mode = k->mode,
		.bcd = k->bcd,
		.gate = k->gate,
	};
}

/* KVM starts the count anew from when it is set: a periodic interrupt comes late by less than a
 * period once. */
static void pit_in(const struct engine_pit_channel *c, struct kvm_pit_channel_state *k)
{
	*k = (struct kvm_pit_channel_state){
		.count = c->count,
		.latched_count = c->latched_count,
		.count_latched = c->count_latched,
		.status_latched = c->status_latched,
		.status = c->status,
		.read_state = c->read_state,
		.write_state = c->write_state,
		.write_latch = c->write_latch,
		.rw_mode = c->rw_mode,
		.mode = c->mode,
		.bcd = c->bcd,
		.gate = c->gate,
	};
}

/* ---- all of them ---- */

/* The pair, then the I/O APIC. */
static const uint32_t chip_ids[] = { KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
				     KVM_IRQCHIP_IOAPIC };

int kvm_chips_get(struct engine *engine, struct engine_chips *chips)
{
	const struct kvm *kvm = (const struct kvm *)engine;
	struct kvm_pit_state2 pit;
	int r;

	if (!kvm_has_irqchip(kvm))
		return -ENOTSUP;
	*chips = (struct engine_chips){ .has_pit = kvm->caps & ENGINE_CAP_PIT };
	for (unsigned i = 0; i < ARRAY_SIZE(chip_ids); i++) {
		struct kvm_irqchip k = { .chip_id = chip_ids[i] };

		r = kvm_ioctl(kvm->vm_fd, KVM_GET_IRQCHIP, &k);
		if (r < 0)
			return r;
		if (k.chip_id == KVM_IRQCHIP_IOAPIC)
			ioapic_out(&k.chip.ioapic, &chips->ioapic);
		else
			pic_out(&k.chip.pic, &chips->pic[i]);
	}
	if (!chips->has_pit)
		return 0;
	r = kvm_ioctl(kvm->vm_fd, KVM_GET_PIT2, &pit);
	for (unsigned i = 0; r >= 0 && i < ARRAY_SIZE(chips->pit); i++)
		pit_out(&pit.channels[i], &chips->pit[i]);
	chips->speaker = r >= 0 && pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	return r < 0 ? r : 0;
}

int kvm_chips_set(struct engine *engine, const struct engine_chips *chips)
{
	const struct kvm *kvm = (const struct kvm *)engine;
	struct kvm_pit_state2 pit = { .flags = chips->speaker ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0 };
	int r;

	if (!kvm_has_irqchip(kvm) || chips->has_pit != !!(kvm->caps & ENGINE_CAP_PIT))
		return -ENOTSUP;
	for (unsigned i = 0; i < ARRAY_SIZE(chip_ids); i++) {
		struct kvm_irqchip k = { .chip_id = chip_ids[i] };

		if (k.chip_id == KVM_IRQCHIP_IOAPIC)
			ioapic_in(&chips->ioapic, &k.chip.ioapic);
		else
			pic_in(&chips->pic[i], &k.chip.pic);
		r = kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &k);
		if (r < 0)
			return r;
	}
	if (!chips->has_pit)
		return 0;
	for (unsigned i = 0; i < ARRAY_SIZE(chips->pit); i++)
		pit_in(&chips->pit[i], &pit.channels[i]);
	r = kvm_ioctl(kvm->vm_fd, KVM_SET_PIT2, &pit);
	return r < 0 ? r : 0;
}

/* ---- the paravirtual clock ---- */

int kvm_clock_get(struct engine *engine, uint64_t *ret_ns)
{
	struct kvm_clock_data data = { .flags = 0 };
	int r = kvm_ioctl(((const struct kvm *)engine)->vm_fd, KVM_GET_CLOCK, &data);

	if (r < 0)
		return r;
	*ret_ns = data.clock;
	return 0;
}

int kvm_clock_set(struct engine *engine, uint64_t ns)
{
	struct kvm_clock_data data = { .clock = ns };
	int r = kvm_ioctl(((const struct kvm *)engine)->vm_fd, KVM_SET_CLOCK, &data);

	return r < 0 ? r : 0;
}
