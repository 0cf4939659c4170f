// SPDX-License-Identifier: GPL-2.0-only
/* lapic.c - local APIC: acceptance, priorities, acknowledge and EOI (SDM vol. 3, chapter 11), and the bus. */
#include <linux/slab.h>

#include "chips.h"
#include "x86_int.h"

/* ---- 256 bits, as eight registers ---- */

static unsigned long *word_of(struct lapic *lapic, u32 offset, u8 vector)
{
	return (unsigned long *)&lapic->regs[(offset + vector / 32 * 0x10) / 4];
}

static int highest(const struct lapic *lapic, u32 offset)
{
	for (int i = 7; i >= 0; i--) {
		u32 word = lapic_get(lapic, offset + i * 0x10);

		if (word)
			return i * 32 + fls(word) - 1;
	}
	return -1;
}

/* ---- in ---- */

bool lapic_is_listening(const struct lapic *lapic)
{
	return lapic_is_on(lapic) && lapic_get(lapic, LAPIC_SVR) & SVR_ENABLED;
}

bool lapic_accept(struct lapic *lapic, u8 vector, bool level)
{
	if (!lapic_is_listening(lapic))
		return false;
	if (vector < 16) {
		lapic_error(lapic, ESR_RECEIVE_ILLEGAL);
		return false;
	}
	if (level)
		set_bit(vector & 31, word_of(lapic, LAPIC_TMR, vector));
	else
		clear_bit(vector & 31, word_of(lapic, LAPIC_TMR, vector));
	set_bit(vector & 31, word_of(lapic, LAPIC_IRR, vector));
	vcpu_request(lapic->vcpu, REQ_EVENT);
	return true;
}

void lapic_error(struct lapic *lapic, u32 bit)
{
	u32 lvt = lapic_get(lapic, LAPIC_ERROR);

	/* One interrupt until the guest reads the register; a bad vector in the LVT entry itself must not
	 * come back here for ever. */
	if (!test_and_set_bit(__ffs(bit), &lapic->errors) && !(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
		lapic_accept(lapic, lvt, false);
}

bool lapic_takes_extint(const struct lapic *lapic)
{
	u32 lvt = lapic_get(lapic, LAPIC_LINT0);

	/* LINT0 of a disabled APIC is the processor's INTR pin; the 8259 is wired to the first. */
	if (!lapic_is_on(lapic))
		return lapic->vcpu->id == 0;
	return !(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT;
}

/* ---- out ---- */

void lapic_update_ppr(struct lapic *lapic)
{
	int in_service = highest(lapic, LAPIC_ISR);
	u32 tpr = lapic_get(lapic, LAPIC_TPR), isrv = in_service < 0 ? 0 : in_service & 0xf0;

	lapic_put(lapic, LAPIC_PPR, (tpr & 0xf0) >= isrv ? tpr : isrv);
}

static int highest_deliverable(const struct lapic *lapic)
{
	int vector = lapic_is_listening(lapic) ? highest(lapic, LAPIC_IRR) : -1;

	return vector >= 0 && (vector & 0xf0) > (lapic_get(lapic, LAPIC_PPR) & 0xf0) ? vector : -1;
}

int lapic_pending(struct vcpu *vcpu)
{
	const struct chips *chips = vcpu->vm->chips;
	int out = chips->split ? vcpu->extint : READ_ONCE(chips->pic.out);

	/* An external interrupt has no priority class: it passes the APIC by. */
	if (out >= 0 && lapic_takes_extint(vcpu->lapic))
		return out;
	return highest_deliverable(vcpu->lapic);
}

int lapic_ack(struct vcpu *vcpu)
{
	struct chips *chips = vcpu->vm->chips;
	struct lapic *lapic = vcpu->lapic;
	int vector = -1;

	if (lapic_takes_extint(lapic) && chips->split) {
		vector = vcpu->extint;
		vcpu->extint = -1;
	} else if (lapic_takes_extint(lapic) && READ_ONCE(chips->pic.out) >= 0) {
		vector = pic_ack(&chips->pic);
	}
	if (vector >= 0)
		return vector;
	vector = highest_deliverable(lapic);
	if (vector < 0)
		return -1;
	/* Into service before out of request, so that a look from outside never misses it. */
	set_bit(vector & 31, word_of(lapic, LAPIC_ISR, vector));
	clear_bit(vector & 31, word_of(lapic, LAPIC_IRR, vector));
	lapic_update_ppr(lapic);
	return vector;
}

void lapic_eoi(struct lapic *lapic)
{
	int vector = highest(lapic, LAPIC_ISR);

	if (vector < 0)
		return;
	clear_bit(vector & 31, word_of(lapic, LAPIC_ISR, vector));
	lapic_update_ppr(lapic);
	if (!test_bit(vector & 31, word_of(lapic, LAPIC_TMR, vector))) {
		ioapic_acked(&lapic->vcpu->vm->chips->ioapic, vector);
		return;
	}
	if (lapic->vcpu->vm->chips->split)
		lapic->vcpu->eoi_vector = vector;
	else
		ioapic_eoi(&lapic->vcpu->vm->chips->ioapic, vector);
}

bool lapic_ends_alone(struct lapic *lapic)
{
	int vector = highest(lapic, LAPIC_ISR);

	return vector >= 0 && highest(lapic, LAPIC_IRR) < 0 &&
	       !test_bit(vector & 31, word_of(lapic, LAPIC_TMR, vector)) &&
	       !ioapic_tells(&lapic->vcpu->vm->chips->ioapic, vector);
}

/* ---- the bus ---- */

static bool is_meant(struct lapic *lapic, const struct apic_msg *msg)
{
	u32 ldr = lapic_get(lapic, LAPIC_LDR), id = lapic->vcpu->id;

	if (msg->dest == APIC_BROADCAST)
		return true;
	if (!msg->logical)
		return msg->dest == id;
	if (lapic_is_x2(lapic)) /* SDM vol. 3, 11.12.10.2 */
		return msg->dest >> 16 == ldr >> 16 && msg->dest & ldr & 0xffff;
	ldr >>= 24;
	if (lapic_get(lapic, LAPIC_DFR) >> 28 == 0xf) /* flat model */
		return msg->dest & ldr & 0xff;
	return (msg->dest & 0xf0) == (ldr & 0xf0) && msg->dest & ldr & 0xf;
}

bool apic_deliver_to(struct vcpu *vcpu, const struct apic_msg *msg)
{
	switch (msg->mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return lapic_accept(vcpu->lapic, msg->vector, msg->level);
	case APIC_NMI:
		vcpu_request(vcpu, REQ_NMI);
		return true;
	case APIC_INIT:
		vcpu_request(vcpu, REQ_INIT);
		return true;
	case APIC_SIPI:
		WRITE_ONCE(vcpu->lapic->sipi_vector, msg->vector);
		vcpu_request(vcpu, REQ_SIPI);
		return true;
	default: /* there is no SMM; ExtINT comes by LINT0 */
		return false;
	}
}

/* Those who are meant take turns, from the one behind the last on; a real bus may choose so, too. */
static bool deliver_lowest(struct vm *vm, const struct apic_msg *msg)
{
	unsigned int count = smp_load_acquire(&vm->vcpu_count);
	u32 turn = READ_ONCE(vm->chips->turn);

	for (unsigned int i = 1; i <= count; i++) {
		struct vcpu *vcpu = vm->vcpu[(turn + i) % count];

		if (!is_meant(vcpu->lapic, msg) || !apic_deliver_to(vcpu, msg))
			continue;
		WRITE_ONCE(vm->chips->turn, (turn + i) % count);
		return true;
	}
	return false;
}

bool apic_deliver(struct vm *vm, const struct apic_msg *msg)
{
	bool any = false;

	if (msg->mode == APIC_LOWEST)
		return deliver_lowest(vm, msg);
	for (unsigned int i = 0; i < smp_load_acquire(&vm->vcpu_count); i++) {
		if (is_meant(vm->vcpu[i]->lapic, msg))
			any |= apic_deliver_to(vm->vcpu[i], msg);
	}
	return any;
}

/* ---- what others asked of the vCPU ---- */

static void take_init(struct vcpu *vcpu)
{
	struct x86_state *s = vcpu_state(vcpu);

	x86_state_init(s);
	x86_cpu_sync(&vcpu->cpu);
	s->activity = vcpu->id == 0 ? X86_RUNNING : X86_WAIT_SIPI;
	vcpu->nmi_injected = false;
	hw->nmi_window(vcpu, false);
	lapic_reset(vcpu->lapic);
	steal_reset(vcpu);
	vcpu->eoi_msr = 0;
	apf_reset(vcpu);
}

/* SDM vol. 3, 8.4.4.1: a page number below 1 MiB. */
static void take_sipi(struct vcpu *vcpu)
{
	u8 vector = READ_ONCE(vcpu->lapic->sipi_vector);
	struct x86_state *s;

	if (vcpu->cpu.s.activity != X86_WAIT_SIPI)
		return;
	s = vcpu_state(vcpu);
	s->seg[X86_CS].selector = vector << 8;
	s->seg[X86_CS].base = vector << 12;
	s->rip = 0;
	s->activity = X86_RUNNING;
	x86_update_mode(&vcpu->cpu);
}

void lapic_take_requests(struct vcpu *vcpu)
{
	if (vcpu_take_request(vcpu, REQ_INIT))
		take_init(vcpu);
	if (vcpu_take_request(vcpu, REQ_SIPI))
		take_sipi(vcpu);
	if (vcpu_take_request(vcpu, REQ_NMI))
		vcpu_state(vcpu)->nmi_pending = true;
}

/* ---- life ---- */

void lapic_reset(struct lapic *lapic)
{
	bool x2 = lapic_is_x2(lapic);
	u32 id = lapic->vcpu->id;

	lapic_timer_stop(lapic);
	memset(lapic->regs, 0, sizeof(lapic->regs));
	lapic->errors = 0;
	lapic_put(lapic, LAPIC_ID, x2 ? id : id << 24);
	lapic_put(lapic, LAPIC_VERSION, 0x14 | 5 << 16); /* six LVT entries */
	lapic_put(lapic, LAPIC_DFR, 0xffffffff);
	lapic_put(lapic, LAPIC_SVR, 0xff);
	if (x2)
		lapic_put(lapic, LAPIC_LDR, (id >> 4) << 16 | 1u << (id & 0xf));
	for (u32 at = LAPIC_TIMER; at <= LAPIC_ERROR; at += 0x10)
		lapic_put(lapic, at, LVT_MASKED);
	/* Virtual wire, as firmware would have set it up for the bootstrap processor. */
	if (id == 0)
		lapic_put(lapic, LAPIC_LINT0, APIC_EXTINT << 8);
}

int lapic_create(struct vcpu *vcpu)
{
	struct lapic *lapic = kzalloc(sizeof(*lapic), GFP_KERNEL_ACCOUNT);

	if (!lapic)
		return -ENOMEM;
	lapic->vcpu = vcpu;
	vcpu->lapic = lapic;
	lapic_timer_init(lapic);
	lapic_reset(lapic);
	return 0;
}

void lapic_free(struct vcpu *vcpu)
{
	if (vcpu->lapic)
		lapic_timer_stop(vcpu->lapic);
	kfree(vcpu->lapic);
}
