// SPDX-License-Identifier: Apache-2.0
/*
 * pic.c - the 8259A pair of a PC, with edge/level control registers (Intel 231468, 82371SB 4.3).
 *
 * The slave's INT is shown to the master's input 2 as a fresh edge each time something about the
 * slave changes while it has a request: an edge-triggered master keeps it latched until its own
 * INTA cycle, as with the real chips, whose INT drops between two acknowledged requests.
 */
#include "irqchip_int.h"

#include <errno.h>

#include "base/bits.h"

#define MASTER 0
#define SLAVE  1
#define CASCADE 2u

#define ICW1_IC4  0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW1      0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3      0x08
#define OCW3_RIS  0x01
#define OCW3_RR   0x02
#define OCW3_POLL 0x04
#define OCW3_SMM  0x20
#define OCW3_ESMM 0x40

/* The first input set in @mask, counted from the one of highest priority; -1 for none. */
static int highest(const struct pic_unit *u, uint8_t mask)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned irq = (u->lowest + i) & 7;

		if (mask & (1u << irq))
			return (int)irq;
	}
	return -1;
}

static unsigned rank(const struct pic_unit *u, int irq)
{
	return irq < 0 ? 8 : ((unsigned)irq - u->lowest - 1) & 7;
}

/* The input whose request INT stands for, or -1. */
static int unit_request(const struct pic_unit *u, bool is_master)
{
	int irq = highest(u, u->irr & (uint8_t)~u->imr);
	uint8_t in_service = u->isr;

	if (u->special_mask)
		in_service &= (uint8_t)~u->imr;
	/* The slave may interrupt itself through the master: 231468 "special fully nested mode". */
	if (is_master && u->special_fully_nested)
		in_service &= (uint8_t)~(1u << CASCADE);
	return rank(u, irq) < rank(u, highest(u, in_service)) ? irq : -1;
}

static bool unit_is_level(const struct pic_unit *u, unsigned irq)
{
	return u->ltim || (u->elcr & (1u << irq));
}

static void unit_set_line(struct pic_unit *u, unsigned irq, bool level)
{
	uint8_t bit = (uint8_t)(1u << irq);

	if (unit_is_level(u, irq)) {
		if (level)
			u->irr |= bit;
		else
			u->irr &= (uint8_t)~bit;
	} else if (level && !(u->lines & bit)) {
		u->irr |= bit;
	}
	if (level)
		u->lines |= bit;
	else
		u->lines &= (uint8_t)~bit;
}

static void unit_ack(struct pic_unit *u, unsigned irq)
{
	uint8_t bit = (uint8_t)(1u << irq);

	if (!u->auto_eoi)
		u->isr |= bit;
	else if (u->rotate_on_aeoi)
		u->lowest = (uint8_t)irq;
	if (!unit_is_level(u, irq))
		u->irr &= (uint8_t)~bit;
}

/* lock held. */
static void pic_update(struct pic *pic)
{
	struct pic_unit *master = &pic->units[MASTER], *slave = &pic->units[SLAVE];
	int slave_irq = unit_request(slave, false);
	int irq, out = -1, before;

	if (slave_irq >= 0) {
		unit_set_line(master, CASCADE, true);
		unit_set_line(master, CASCADE, false);
	}
	irq = unit_request(master, true);
	if (irq == (int)CASCADE)
		out = slave->vector_base + (slave_irq < 0 ? 7 : slave_irq);
	else if (irq >= 0)
		out = master->vector_base + irq;
	before = atomic_exchange(&pic->out, out);
	if (before < 0 && out >= 0)
		pic->output(pic->arg);
}

void pic_set_line(struct pic *pic, unsigned irq, bool level)
{
	pthread_mutex_lock(&pic->lock);
	unit_set_line(&pic->units[irq / 8], irq & 7, level);
	pic_update(pic);
	pthread_mutex_unlock(&pic->lock);
}

int pic_ack(struct pic *pic)
{
	struct pic_unit *master = &pic->units[MASTER], *slave = &pic->units[SLAVE];
	int irq, vector = -1;

	pthread_mutex_lock(&pic->lock);
	irq = unit_request(master, true);
	if (irq == (int)CASCADE) {
		int slave_irq = unit_request(slave, false);

		/* Gone before it was acknowledged: input 7, not in service. */
		if (slave_irq >= 0)
			unit_ack(slave, (unsigned)slave_irq);
		vector = slave->vector_base + (slave_irq < 0 ? 7 : slave_irq);
		unit_ack(master, CASCADE);
	} else if (irq >= 0) {
		vector = master->vector_base + irq;
		unit_ack(master, (unsigned)irq);
	}
	/* INT drops during INTA: what is left shows as a new request. */
	atomic_store(&pic->out, -1);
	pic_update(pic);
	pthread_mutex_unlock(&pic->lock);
	return vector;
}

static void icw1_write(struct pic_unit *u, uint8_t value)
{
	u->imr = 0;
	u->isr = 0;
	u->lowest = 7;
	u->special_mask = false;
	u->read_isr = false;
	u->poll = false;
	u->rotate_on_aeoi = false;
	u->ltim = value & ICW1_LTIM;
	/* The edge sense circuit is reset: a line must go low and high again. */
	u->irr = u->lines & (u->ltim ? 0xff : u->elcr);
	u->single = value & ICW1_SNGL;
	u->wants_icw4 = value & ICW1_IC4;
	u->auto_eoi = false;
	u->special_fully_nested = false;
	u->init_step = 2;
}

static void icw_write(struct pic_unit *u, uint8_t value)
{
	switch (u->init_step) {
	case 2:
		u->vector_base = value & 0xf8;
		u->init_step = u->single ? (u->wants_icw4 ? 4 : 0) : 3;
		break;
	case 3: /* the cascade is wired as it is */
		u->init_step = u->wants_icw4 ? 4 : 0;
		break;
	default:
		u->auto_eoi = value & ICW4_AEOI;
		u->special_fully_nested = value & ICW4_SFNM;
		u->init_step = 0;
		break;
	}
}

static void ocw2_write(struct pic_unit *u, uint8_t value)
{
	unsigned command = value >> 5;
	int irq = value & 7;

	switch (command) {
	case 0: /* rotate in automatic EOI mode: clear, set */
	case 4:
		u->rotate_on_aeoi = command == 4;
		break;
	case 1: /* non-specific EOI; with rotation */
	case 5:
		/* In special mask mode masked bits are left alone. */
		irq = highest(u, u->special_mask ? u->isr & (uint8_t)~u->imr : u->isr);
		if (irq < 0)
			break;
		u->isr &= (uint8_t)~(1u << irq);
		if (command == 5)
			u->lowest = (uint8_t)irq;
		break;
	case 3: /* specific EOI; with rotation */
	case 7:
		u->isr &= (uint8_t)~(1u << irq);
		if (command == 7)
			u->lowest = (uint8_t)irq;
		break;
	case 6: /* set priority */
		u->lowest = (uint8_t)irq;
		break;
	default:
		break;
	}
}

static void ocw3_write(struct pic_unit *u, uint8_t value)
{
	if (value & OCW3_POLL)
		u->poll = true;
	if (value & OCW3_RR)
		u->read_isr = value & OCW3_RIS;
	if (value & OCW3_ESMM)
		u->special_mask = value & OCW3_SMM;
}

static void command_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	unsigned which = region->base == 0xa0 ? SLAVE : MASTER;
	struct pic *pic = container_of(region - which, struct pic, command[0]);
	struct pic_unit *u = &pic->units[which];
	uint8_t byte = (uint8_t)value;

	pthread_mutex_lock(&pic->lock);
	if (off == 0 && (byte & ICW1))
		icw1_write(u, byte);
	else if (off == 0 && (byte & OCW3))
		ocw3_write(u, byte);
	else if (off == 0)
		ocw2_write(u, byte);
	else if (u->init_step)
		icw_write(u, byte);
	else
		u->imr = byte;
	pic_update(pic);
	pthread_mutex_unlock(&pic->lock);
}

/* 231468 "poll command": the read is the acknowledge. lock held. */
static uint8_t poll_read(struct pic *pic, unsigned which)
{
	struct pic_unit *u = &pic->units[which];
	int irq = unit_request(u, which == MASTER);

	u->poll = false;
	if (irq < 0)
		return 0;
	unit_ack(u, (unsigned)irq);
	/* A polled slave answers for the master's input as well. */
	if (which == SLAVE)
		pic->units[MASTER].irr &= (uint8_t)~(1u << CASCADE);
	pic_update(pic);
	return (uint8_t)(0x80 | irq);
}

static uint64_t command_read(struct bus_region *region, uint64_t off, unsigned size)
{
	unsigned which = region->base == 0xa0 ? SLAVE : MASTER;
	struct pic *pic = container_of(region - which, struct pic, command[0]);
	struct pic_unit *u = &pic->units[which];
	uint64_t value;

	pthread_mutex_lock(&pic->lock);
	if (u->poll)
		value = poll_read(pic, which);
	else if (off == 0)
		value = u->read_isr ? u->isr : u->irr;
	else
		value = u->imr;
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static uint64_t elcr_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pic *pic = container_of(region, struct pic, elcr[0]);
	uint64_t value;

	pthread_mutex_lock(&pic->lock);
	value = pic->units[off].elcr;
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void elcr_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pic *pic = container_of(region, struct pic, elcr[0]);

	struct pic_unit *u = &pic->units[off];

	pthread_mutex_lock(&pic->lock);
	u->elcr = (uint8_t)value & u->elcr_mask;
	/* A level-triggered request is the line itself. */
	u->irr = (uint8_t)((u->irr & ~u->elcr) | (u->lines & u->elcr));
	pic_update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static const struct bus_region_ops command_ops = {
	.read = command_read, .write = command_write, .max_size = 1};
static const struct bus_region_ops elcr_ops = {
	.read = elcr_read, .write = elcr_write, .max_size = 1};

void pic_reset(struct pic *pic)
{
	static const uint8_t elcr_masks[2] = {0xf8, 0xde}; /* never 0, 1, 2, 8, 13 */

	pthread_mutex_lock(&pic->lock);
	for (unsigned i = 0; i < 2; i++) {
		struct pic_unit *u = &pic->units[i];

		/* Lines stay what the devices make them. */
		*u = (struct pic_unit){.lines = u->lines, .lowest = 7, .elcr_mask = elcr_masks[i]};
	}
	atomic_store(&pic->out, -1);
	pthread_mutex_unlock(&pic->lock);
}

void pic_loaded(struct pic *pic)
{
	pthread_mutex_lock(&pic->lock);
	for (unsigned i = 0; i < 2; i++) {
		struct pic_unit *u = &pic->units[i];

		u->elcr &= u->elcr_mask;
		u->vector_base &= 0xf8;
	}
	atomic_store(&pic->out, -1);
	pic_update(pic);
	pthread_mutex_unlock(&pic->lock);
}

void pic_init(struct pic *pic, void (*output)(void *arg), void *arg)
{
	static const struct bus_region regions[2] = {
		{.name = "pic master", .base = 0x20, .size = 2, .ops = &command_ops},
		{.name = "pic slave", .base = 0xa0, .size = 2, .ops = &command_ops},
	};

	*pic = (struct pic){.output = output, .arg = arg};
	for (unsigned i = 0; i < 2; i++) {
		pic->command[i] = regions[i];
		pic->command[i].space = BUS_PIO;
	}
	pic->elcr[0] = (struct bus_region){
		.name = "elcr", .space = BUS_PIO, .base = 0x4d0, .size = 2, .ops = &elcr_ops};
	pthread_mutex_init(&pic->lock, NULL);
	pic_reset(pic);
}

void pic_fini(struct pic *pic)
{
	pthread_mutex_destroy(&pic->lock);
}

int pic_attach(struct pic *pic, struct bus *bus)
{
	int r = bus_add(bus, &pic->command[0]);

	if (r == 0)
		r = bus_add(bus, &pic->command[1]);
	if (r == 0)
		r = bus_add(bus, &pic->elcr[0]);
	if (r < 0)
		pic_detach(pic, bus);
	return r;
}

void pic_detach(struct pic *pic, struct bus *bus)
{
	bus_remove(bus, &pic->elcr[0]);
	bus_remove(bus, &pic->command[1]);
	bus_remove(bus, &pic->command[0]);
}
