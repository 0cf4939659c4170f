// SPDX-License-Identifier: Apache-2.0
/* dev_irqchip.c - a guest that programs the interrupt controllers at random. */
#include "input.h"

#include <stdlib.h>

#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irqchip.h"

#define VCPUS 3u

struct board {
	struct bus *bus;
	struct vclock *clock;
	struct irqchip *chip;
};

static void ignore(void *arg, unsigned vcpu)
{
}

static void ignore_sipi(void *arg, unsigned vcpu, uint8_t vector)
{
}

static uint64_t tsc(void *arg, unsigned vcpu)
{
	return vclock_now_ns(((struct board *)arg)->clock) * 2;
}

static uint64_t tsc_hz(void *arg)
{
	return 2000000000;
}

static const struct irqchip_vcpu_ops ops = { ignore, ignore, ignore, ignore_sipi, tsc, tsc_hz };

static void port_access(struct board *b, struct input *in)
{
	static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
	uint8_t what = input_byte(in);
	uint16_t port = ports[what % 6];
	unsigned size = 1u << (what >> 6 & 1);

	if (what & 0x80)
		bus_write(b->bus, BUS_PIO, port, size, input_take(in, size));
	else
		(void)bus_read(b->bus, BUS_PIO, port, size);
}

static void ioapic_access(struct board *b, struct input *in)
{
	uint8_t what = input_byte(in);
	uint64_t addr = IRQ_IOAPIC_BASE + (what & 0xf) * 0x10;
	unsigned size = 1u << (what >> 4 & 3);

	/* Mostly the way software does it. */
	if (what & 0x40) {
		bus_write(b->bus, BUS_MMIO, IRQ_IOAPIC_BASE, 4, input_byte(in) & 0x3f);
		bus_write(b->bus, BUS_MMIO, IRQ_IOAPIC_BASE + 0x10, 4, input_take(in, 4));
	} else if (what & 0x80) {
		bus_write(b->bus, BUS_MMIO, addr, size, input_take(in, size));
	} else {
		(void)bus_read(b->bus, BUS_MMIO, addr, size);
	}
}

static void lapic_access(struct board *b, struct input *in, unsigned vcpu)
{
	uint8_t what = input_byte(in);
	uint64_t gpa = IRQ_LAPIC_BASE + (uint64_t)(what & 0x3f) * 0x10, value;

	if (what & 0x80) {
		(void)irqchip_vcpu_mmio_write(b->chip, vcpu, gpa, 4, input_take(in, 4));
		return;
	}
	if (what & 0x40)
		gpa += input_byte(in);
	(void)irqchip_vcpu_mmio_read(b->chip, vcpu, gpa, 1u << (what & 3), &value);
}

static void msr_access(struct board *b, struct input *in, unsigned vcpu)
{
	uint8_t what = input_byte(in);
	uint32_t msr = 0x800 + (what & 0x3f);
	uint64_t value;

	if ((what & 0x3f) == 0)
		msr = 0x1b;
	else if ((what & 0x3f) == 1)
		msr = 0x6e0;
	if (what & 0x80)
		(void)irqchip_vcpu_write_msr(b->chip, vcpu, msr, input_take(in, 8));
	else
		(void)irqchip_vcpu_read_msr(b->chip, vcpu, msr, &value);
}

static void vcpu_look(struct board *b, unsigned vcpu)
{
	bool pending = irqchip_vcpu_pending(b->chip, vcpu) >= 0;
	int vector = irqchip_vcpu_ack(b->chip, vcpu);

	if (pending != (vector >= 0) || vector > 255)
		abort();
}

/* Saved state with a few bytes changed: loaded or refused, but never a danger. */
static void state_damage(struct board *b, struct input *in)
{
	g_autoptr(GByteArray) bytes = g_byte_array_new();
	struct state_reader reader;

	irqchip_save(b->chip, bytes);
	for (unsigned n = input_byte(in) & 3; n > 0; n--) {
		unsigned at = (unsigned)input_take(in, 2) % bytes->len;

		bytes->data[at] = input_byte(in);
	}
	reader = (struct state_reader){bytes->data, bytes->len};
	(void)irqchip_load(b->chip, &reader, NULL);
}

static void step(struct board *b, struct input *in)
{
	struct irq_chip *face = irqchip_face(b->chip);
	uint8_t op = input_byte(in);
	unsigned vcpu = (op >> 4) % VCPUS;
	uint8_t arg;

	switch (op & 0xf) {
	case 0:
	case 1:
		port_access(b, in);
		break;
	case 2:
	case 3:
		ioapic_access(b, in);
		break;
	case 4:
	case 5:
	case 6:
		lapic_access(b, in, vcpu);
		break;
	case 7:
	case 8:
		msr_access(b, in, vcpu);
		break;
	case 9:
		irqchip_vcpu_set_cr8(b->chip, vcpu, input_byte(in) & 0xf);
		break;
	case 10:
		arg = input_byte(in);
		irq_set_line(face, arg & 0x1f, arg & 0x80);
		break;
	case 11:
		irq_send_msi(face, 0xfee00000u | input_take(in, 3), (uint32_t)input_take(in, 2));
		break;
	case 12:
		vclock_advance(b->clock, input_take(in, 3));
		break;
	case 13:
		irqchip_nmi(b->chip);
		state_damage(b, in);
		break;
	default:
		vcpu_look(b, vcpu);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b = {.bus = bus_new(), .clock = vclock_new_manual()};
	struct irqchip_config config = {
		.vcpus = VCPUS, .bus = b.bus, .clock = b.clock, .ops = &ops, .arg = &b
	};
	struct input in = {data, size};

	b.chip = irqchip_new(&config, NULL);
	for (unsigned i = 0; i < VCPUS; i++)
		(void)irqchip_vcpu_mmio_write(b.chip, i, IRQ_LAPIC_BASE + 0xf0, 4, 0x1ff);
	while (!input_is_empty(&in))
		step(&b, &in);
	irqchip_free(b.chip);
	vclock_free(b.clock);
	bus_free(b.bus);
	return 0;
}
