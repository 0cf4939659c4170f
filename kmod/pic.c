// SPDX-License-Identifier: GPL-2.0-only
/*
 * pic.c - the 8259A pair of a PC, with edge/level control registers (Intel 231468, 82371SB 4.3).
 *
 * The slave's INT is shown to the master's input 2 as a fresh edge each time something about the slave changes
 * while it has a request: an edge-triggered master keeps it latched until its own INTA cycle, as with
 * the real chips, whose INT drops between two acknowledged requests.
 */
#include "chips.h"

#define MASTER	0
#define SLAVE	1
#define CASCADE 2

#define ICW1_IC4  0x01
#define ICW1	  0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3	  0x08
#define OCW3_RIS  0x01
#define OCW3_RR	  0x02
#define OCW3_POLL 0x04
#define OCW3_SMM  0x20
#define OCW3_ESMM 0x40

/* ---- one of them ---- */

/* The first input set in @mask, counted from the one of highest priority; -1 for none. */
static int highest(const struct kvm_pic_state *u, u8 mask)
{
	for (unsigned int i = 0; i < 8; i++) {
		unsigned int irq = (u->priority_add + i) & 7;

		if (mask & BIT(irq))
			return irq;
	}
	return -1;
}

static unsigned int rank(const struct kvm_pic_state *u, int irq)
{
	return irq < 0 ? 8 : (irq - u->priority_add) & 7;
}

/* The input whose request INT stands for, or -1. */
static int unit_request(const struct kvm_pic_state *u, bool is_master)
{
	int irq = highest(u, u->irr & ~u->imr);
	u8 in_service = u->isr;

	if (u->special_mask)
		in_service &= ~u->imr;
	/* The slave may interrupt itself through the master: 231468, "special fully nested mode". */
	if (is_master && u->special_fully_nested_mode)
		in_service &= ~BIT(CASCADE);
	return rank(u, irq) < rank(u, highest(u, in_service)) ? irq : -1;
}

static void unit_set_line(struct kvm_pic_state *u, unsigned int irq, bool level)
{
	u8 bit = BIT(irq);

	if (u->elcr & bit)
		u->irr = level ? u->irr | bit : u->irr & ~bit;
	else if (level && !(u->last_irr & bit))
		u->irr |= bit;
	u->last_irr = level ? u->last_irr | bit : u->last_irr & ~bit;
}

static void unit_ack(struct kvm_pic_state *u, unsigned int irq)
{
	if (!u->auto_eoi)
		u->isr |= BIT(irq);
	else if (u->rotate_on_auto_eoi)
		u->priority_add = (irq + 1) & 7;
	if (!(u->elcr & BIT(irq)))
		u->irr &= ~BIT(irq);
}

/* ---- both: pic->lock held ---- */

static void update(struct pic *pic)
{
	struct kvm_pic_state *master = &pic->unit[MASTER], *slave = &pic->unit[SLAVE];
	int slave_irq = unit_request(slave, false);
	int irq, out = -1, before = pic->out;

	if (slave_irq >= 0) {
		unit_set_line(master, CASCADE, true);
		unit_set_line(master, CASCADE, false);
	}
	irq = unit_request(master, true);
	if (irq == CASCADE)
		out = slave->irq_base + (slave_irq < 0 ? 7 : slave_irq);
	else if (irq >= 0)
		out = master->irq_base + irq;
	WRITE_ONCE(pic->out, out);
	if (before >= 0 || out < 0)
		return;
	for (unsigned int i = 0; i < smp_load_acquire(&pic->vm->vcpu_count); i++) {
		struct vcpu *vcpu = pic->vm->vcpu[i];

		if (lapic_takes_extint(vcpu->lapic))
			vcpu_request(vcpu, REQ_EVENT);
	}
}

void pic_set_line(struct pic *pic, unsigned int irq, bool level)
{
	unsigned long flags;

	spin_lock_irqsave(&pic->lock, flags);
	unit_set_line(&pic->unit[irq / 8], irq & 7, level);
	update(pic);
	spin_unlock_irqrestore(&pic->lock, flags);
}

/* @acked: inputs of both units that are no longer in service. Who holds their lines up lets go before these are looked
 * at again: the master would keep a request that is not there any more. Drops the lock meanwhile. */
static void tell_acked(struct pic *pic, u16 acked, unsigned long *flags) __must_hold(&pic->lock)
{
	if (!acked || !acks_matter(pic->vm))
		return;
	spin_unlock_irqrestore(&pic->lock, *flags);
	for (; acked; acked &= acked - 1) {
		unsigned int irq = __ffs(acked);

		irq_acked(pic->vm, irq / 8 ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, irq & 7);
	}
	spin_lock_irqsave(&pic->lock, *flags);
}

static u16 in_service(const struct pic *pic)
{
	return pic->unit[MASTER].isr | pic->unit[SLAVE].isr << 8;
}

int pic_ack(struct pic *pic)
{
	u16 acked = 0; /* at once: automatic EOI */
	struct kvm_pic_state *master = &pic->unit[MASTER], *slave = &pic->unit[SLAVE];
	int irq, slave_irq, vector = -1;
	unsigned long flags;

	spin_lock_irqsave(&pic->lock, flags);
	irq = unit_request(master, true);
	if (irq == CASCADE) {
		slave_irq = unit_request(slave, false);
		/* Gone before it was acknowledged: input 7, not in service. */
		if (slave_irq >= 0) {
			unit_ack(slave, slave_irq);
			acked = slave->auto_eoi ? BIT(8 + slave_irq) : 0;
		}
		vector = slave->irq_base + (slave_irq < 0 ? 7 : slave_irq);
		unit_ack(master, CASCADE);
	} else if (irq >= 0) {
		vector = master->irq_base + irq;
		unit_ack(master, irq);
		acked = master->auto_eoi ? BIT(irq) : 0;
	}
	tell_acked(pic, acked, &flags);
	/* INT drops during INTA: what is left shows as a new request. */
	WRITE_ONCE(pic->out, -1);
	update(pic);
	spin_unlock_irqrestore(&pic->lock, flags);
	return vector;
}

/* ---- command words ---- */

static void icw1_write(struct pic *pic, struct kvm_pic_state *u, u8 value)
{
	pit_pulse_lost(pic->vm);
	/* The edge sense circuit is reset: a line must go low and high again. */
	*u = (struct kvm_pic_state){
		.last_irr = u->last_irr, .irr = u->last_irr & u->elcr, .elcr = u->elcr,
		.elcr_mask = u->elcr_mask, .irq_base = u->irq_base, .init_state = 1,
		.init4 = value & ICW1_IC4,
	};
}

static void icw_write(struct kvm_pic_state *u, u8 value)
{
	switch (u->init_state) {
	case 1:
		u->irq_base = value & 0xf8;
		u->init_state = 2;
		break;
	case 2: /* the cascade is wired as it is */
		u->init_state = u->init4 ? 3 : 0;
		break;
	default:
		u->auto_eoi = !!(value & ICW4_AEOI);
		u->special_fully_nested_mode = !!(value & ICW4_SFNM);
		u->init_state = 0;
	}
}

static void ocw2_write(struct kvm_pic_state *u, u8 value)
{
	unsigned int command = value >> 5;
	int irq = value & 7;

	switch (command) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		u->rotate_on_auto_eoi = command == 4;
		break;
	case 1: /* non-specific EOI; with rotation */
	case 5:
		/* In special mask mode masked bits are left alone. */
		irq = highest(u, u->special_mask ? u->isr & ~u->imr : u->isr);
		if (irq < 0)
			break;
		u->isr &= ~BIT(irq);
		if (command == 5)
			u->priority_add = (irq + 1) & 7;
		break;
	case 3: /* specific EOI; with rotation */
	case 7:
		u->isr &= ~BIT(irq);
		if (command == 7)
			u->priority_add = (irq + 1) & 7;
		break;
	case 6: /* set priority */
		u->priority_add = (irq + 1) & 7;
		break;
	}
}

static void ocw3_write(struct kvm_pic_state *u, u8 value)
{
	if (value & OCW3_POLL)
		u->poll = 1;
	if (value & OCW3_RR)
		u->read_reg_select = value & OCW3_RIS;
	if (value & OCW3_ESMM)
		u->special_mask = !!(value & OCW3_SMM);
}

/* 231468, "poll command": the read is the acknowledge. */
static u8 poll_read(struct pic *pic, unsigned int which)
{
	struct kvm_pic_state *u = &pic->unit[which];
	int irq = unit_request(u, which == MASTER);

	u->poll = 0;
	if (irq < 0)
		return 0;
	unit_ack(u, irq);
	/* A polled slave answers for the master's input as well. */
	if (which == SLAVE)
		pic->unit[MASTER].irr &= ~BIT(CASCADE);
	update(pic);
	return 0x80 | irq;
}

/* ---- ports ---- */

static bool is_port(u16 port)
{
	return (port & ~1) == 0x20 || (port & ~1) == 0xa0 || (port & ~1) == 0x4d0;
}

bool pic_read(struct pic *pic, u16 port, u8 *ret)
{
	unsigned int which = (port & ~1) == 0xa0 ? SLAVE : MASTER;
	struct kvm_pic_state *u = &pic->unit[which];
	unsigned long flags;

	if (!is_port(port))
		return false;
	spin_lock_irqsave(&pic->lock, flags);
	if ((port & ~1) == 0x4d0)
		*ret = pic->unit[port & 1].elcr;
	else if (u->poll)
		*ret = poll_read(pic, which);
	else if (port & 1)
		*ret = u->imr;
	else
		*ret = u->read_reg_select ? u->isr : u->irr;
	spin_unlock_irqrestore(&pic->lock, flags);
	return true;
}

static void elcr_write(struct kvm_pic_state *u, u8 value)
{
	u->elcr = value & u->elcr_mask;
	/* A level-triggered request is the line itself. */
	u->irr = (u->irr & ~u->elcr) | (u->last_irr & u->elcr);
}

bool pic_write(struct pic *pic, u16 port, u8 value)
{
	struct kvm_pic_state *u = &pic->unit[(port & ~1) == 0xa0 ? SLAVE : MASTER];
	unsigned long flags;
	u16 acked;

	if (!is_port(port))
		return false;
	spin_lock_irqsave(&pic->lock, flags);
	acked = in_service(pic);
	if ((port & ~1) == 0x4d0)
		elcr_write(&pic->unit[port & 1], value);
	else if (!(port & 1) && value & ICW1)
		icw1_write(pic, u, value);
	else if (!(port & 1) && value & OCW3)
		ocw3_write(u, value);
	else if (!(port & 1))
		ocw2_write(u, value);
	else if (u->init_state)
		icw_write(u, value);
	else
		u->imr = value;
	tell_acked(pic, acked & ~in_service(pic), &flags);
	update(pic);
	spin_unlock_irqrestore(&pic->lock, flags);
	return true;
}

/* ---- life, gets and sets ---- */

void pic_get(struct pic *pic, unsigned int unit, struct kvm_pic_state *ret)
{
	unsigned long flags;

	spin_lock_irqsave(&pic->lock, flags);
	*ret = pic->unit[unit];
	spin_unlock_irqrestore(&pic->lock, flags);
}

void pic_set(struct pic *pic, unsigned int unit, const struct kvm_pic_state *state)
{
	struct kvm_pic_state *u = &pic->unit[unit];
	unsigned long flags;
	u8 mask;

	spin_lock_irqsave(&pic->lock, flags);
	mask = u->elcr_mask;
	*u = *state;
	u->elcr_mask = mask;
	u->elcr &= mask;
	u->irq_base &= 0xf8;
	u->priority_add &= 7;
	WRITE_ONCE(pic->out, -1);
	pit_pulse_lost(pic->vm);
	update(pic);
	spin_unlock_irqrestore(&pic->lock, flags);
}

bool pic_is_open(const struct pic *pic, unsigned int irq)
{
	return !(READ_ONCE(pic->unit[irq / 8].imr) >> (irq & 7) & 1);
}

void pic_init(struct pic *pic, struct vm *vm)
{
	spin_lock_init(&pic->lock);
	pic->vm = vm;
	pic->out = -1;
	pic->unit[MASTER].elcr_mask = 0xf8; /* never 0, 1, 2 */
	pic->unit[SLAVE].elcr_mask = 0xde;  /* nor 8, 13 */
}
