// SPDX-License-Identifier: Apache-2.0
/*
 * irqchip.c - tests of the interrupt controllers through the faces that guests and engines use:
 * ports, MMIO, MSRs, lines, and the calls towards vCPUs.
 */
#include "bus/irqchip.h"

#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"

#define VCPUS 4u
#define PAGE  IRQ_LAPIC_BASE

#define APIC_ID	     0x020
#define APIC_VERSION 0x030
#define APIC_TPR     0x080
#define APIC_PPR     0x0a0
#define APIC_EOI     0x0b0
#define APIC_LDR     0x0d0
#define APIC_DFR     0x0e0
#define APIC_SVR     0x0f0
#define APIC_ISR     0x100
#define APIC_TMR     0x180
#define APIC_IRR     0x200
#define APIC_ESR     0x280
#define APIC_ICR     0x300
#define APIC_ICR2    0x310
#define APIC_TIMER   0x320
#define APIC_LINT0   0x350
#define APIC_LINT1   0x360
#define APIC_ERROR   0x370
#define APIC_TMICT   0x380
#define APIC_TMCCT   0x390
#define APIC_TDCR    0x3e0

static struct bus *bus;
static struct vclock *vclk;
static struct irqchip *chip;
static struct irq_chip *face;
static atomic_int irqs[VCPUS], nmis[VCPUS], inits[VCPUS], sipis[VCPUS];
static _Atomic uint64_t tsc;

static void on_irq(void *arg, unsigned vcpu)
{
	atomic_fetch_add(&irqs[vcpu], 1);
}

static void on_nmi(void *arg, unsigned vcpu)
{
	atomic_fetch_add(&nmis[vcpu], 1);
}

static void on_init(void *arg, unsigned vcpu)
{
	atomic_fetch_add(&inits[vcpu], 1);
}

static void on_sipi(void *arg, unsigned vcpu, uint8_t vector)
{
	atomic_store(&sipis[vcpu], vector);
}

static uint64_t on_tsc(void *arg, unsigned vcpu)
{
	return atomic_load(&tsc);
}

static uint64_t on_tsc_hz(void *arg)
{
	return 2000000000;
}

static const struct irqchip_vcpu_ops ops = { on_irq, on_nmi, on_init, on_sipi, on_tsc, on_tsc_hz };

static uint32_t rd(unsigned vcpu, uint32_t reg)
{
	uint64_t value = 0;

	ck_assert(irqchip_vcpu_mmio_read(chip, vcpu, PAGE + reg, 4, &value));
	return (uint32_t)value;
}

static void wr(unsigned vcpu, uint32_t reg, uint32_t value)
{
	ck_assert(irqchip_vcpu_mmio_write(chip, vcpu, PAGE + reg, 4, value));
}

static void out(uint16_t port, uint8_t value)
{
	bus_write(bus, BUS_PIO, port, 1, value);
}

static uint8_t in(uint16_t port)
{
	return (uint8_t)bus_read(bus, BUS_PIO, port, 1);
}

static void io_wr(uint8_t index, uint32_t value)
{
	bus_write(bus, BUS_MMIO, IRQ_IOAPIC_BASE, 4, index);
	bus_write(bus, BUS_MMIO, IRQ_IOAPIC_BASE + 0x10, 4, value);
}

static uint32_t io_rd(uint8_t index)
{
	bus_write(bus, BUS_MMIO, IRQ_IOAPIC_BASE, 4, index);
	return (uint32_t)bus_read(bus, BUS_MMIO, IRQ_IOAPIC_BASE + 0x10, 4);
}

static void setup(void)
{
	struct irqchip_config config = { .vcpus = VCPUS, .ops = &ops };

	config.bus = bus = bus_new();
	config.clock = vclk = vclock_new_manual();
	chip = irqchip_new(&config, NULL);
	ck_assert_ptr_nonnull(chip);
	face = irqchip_face(chip);
	for (unsigned i = 0; i < VCPUS; i++) {
		wr(i, APIC_SVR, 0x1ff);
		atomic_store(&irqs[i], 0);
	}
}

static void teardown(void)
{
	irqchip_free(chip);
	vclock_free(vclk);
	bus_free(bus);
}

/* As Linux does it: edge, master at 0x30, slave at 0x38, cascade on 2. */
static void pic_setup(uint8_t icw4)
{
	out(0x20, 0x11);
	out(0x21, 0x30);
	out(0x21, 0x04);
	out(0x21, icw4);
	out(0xa0, 0x11);
	out(0xa1, 0x38);
	out(0xa1, 0x02);
	out(0xa1, icw4);
	out(0x21, 0);
	out(0xa1, 0);
}

static void pulse(unsigned gsi)
{
	irq_set_line(face, gsi, true);
	irq_set_line(face, gsi, false);
}

/* 8259. */

START_TEST(pic_delivers_by_priority_and_nests)
{
	pic_setup(0x01);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	pulse(4);
	ck_assert_int_ge(atomic_load(&irqs[0]), 1);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 1), -1); /* only the first has virtual wire */
	pulse(3);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x33);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1); /* 4 waits behind 3 */
	pulse(1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x31);
	out(0x20, 0x0b);
	ck_assert_uint_eq(in(0x20), 0x0a); /* ISR */
	out(0x20, 0x0a);
	ck_assert_uint_eq(in(0x20), 0x10); /* IRR */
	out(0x20, 0x20);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	out(0x20, 0x20);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
	out(0x20, 0x64); /* specific EOI */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
}
END_TEST

START_TEST(pic_cascades)
{
	pic_setup(0x01);
	pulse(12);
	pulse(8);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x38);
	out(0x20, 0x20);
	/* 12 waits for the slave's EOI. */
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	out(0xa0, 0x20);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x3c);
	out(0xa0, 0x20);
	out(0x20, 0x20);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
}
END_TEST

START_TEST(pic_level_lines_follow_elcr)
{
	pic_setup(0x01);
	bus_write(bus, BUS_PIO, 0x4d0, 2, 0xffff);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x4d0, 2), 0xdef8);
	irq_set_line(face, 10, true);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x3a);
	out(0xa0, 0x20);
	out(0x20, 0x20);
	/* Still up: again. */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x3a);
	irq_set_line(face, 10, false);
	out(0xa0, 0x20);
	out(0x20, 0x20);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	/* Gone before it was acknowledged: the slave's spurious vector, or nothing at all. */
	irq_set_line(face, 10, true);
	irq_set_line(face, 10, false);
	ck_assert(irqchip_vcpu_ack(chip, 0) == 0x3f);
	out(0xa0, 0x0b);
	ck_assert_uint_eq(in(0xa0), 0);
}
END_TEST

START_TEST(pic_masks_rotates_and_polls)
{
	pic_setup(0x01);
	out(0x21, 0x10);
	ck_assert_uint_eq(in(0x21), 0x10);
	pulse(4);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	out(0x21, 0);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
	out(0x20, 0xa0); /* rotate on non-specific EOI: 5 is highest */
	pulse(1);
	pulse(6);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x36);
	out(0x20, 0x20);
	out(0x20, 0x0c); /* poll */
	ck_assert_uint_eq(in(0x20), 0x81);
	out(0x20, 0x0c);
	ck_assert_uint_eq(in(0x20), 0x00);
	out(0x20, 0x20);
	out(0x20, 0xc7); /* lowest is 7 again */
	/* Special mask: while 1 is in service and masked, 4 comes through. */
	pulse(1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x31);
	pulse(4);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	out(0x21, 0x02);
	out(0x20, 0x68);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
}
END_TEST

START_TEST(pic_ends_interrupts_automatically)
{
	pic_setup(0x03);
	for (int i = 0; i < 3; i++) {
		pulse(5);
		ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x35);
	}
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	out(0x20, 0x0b);
	ck_assert_uint_eq(in(0x20), 0);
}
END_TEST

START_TEST(pic_waits_for_lint0)
{
	pic_setup(0x01);
	wr(0, APIC_LINT0, 0x10700);
	pulse(4);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	atomic_store(&irqs[0], 0);
	wr(0, APIC_LINT0, 0x700);
	ck_assert_int_ge(atomic_load(&irqs[0]), 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
	out(0x20, 0x20);
	/* LINT0 as a plain vector: Linux' "virtual wire" test. */
	wr(0, APIC_LINT0, 0x51);
	pulse(4);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x51);
	wr(0, APIC_EOI, 0);
	/* With the APIC off, LINT0 is the INTR pin. */
	out(0x20, 0x0c);
	ck_assert_uint_eq(in(0x20), 0x84);
	out(0x20, 0x20);
	ck_assert(irqchip_vcpu_write_msr(chip, 0, 0x1b, 0xfee00100));
	pulse(4);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
}
END_TEST

/* Local APIC. */

START_TEST(lapic_orders_by_priority)
{
	for (unsigned v = 0x20; v <= 0xe0; v += 0x10)
		wr(0, APIC_ICR, 0x40000 | v); /* self */
	for (unsigned v = 0xe0; v >= 0x20; v -= 0x10) {
		ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), (int)v);
		ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), (int)v);
		ck_assert_uint_eq(rd(0, APIC_PPR), v);
		ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
		ck_assert_uint_eq(rd(0, APIC_ISR + v / 32 * 16), 1u << (v % 32));
		wr(0, APIC_EOI, 0);
	}
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	wr(0, APIC_EOI, 0); /* nothing in service */
}
END_TEST

START_TEST(lapic_holds_back_below_tpr_and_announces_later)
{
	irqchip_vcpu_set_cr8(chip, 1, 5);
	ck_assert_uint_eq(rd(1, APIC_TPR), 0x50);
	wr(0, APIC_ICR2, 1u << 24);
	wr(0, APIC_ICR, 0x5f);
	ck_assert_int_eq(atomic_load(&irqs[1]), 0); /* same class: not above */
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 1), -1);
	wr(0, APIC_ICR, 0x60);
	ck_assert_int_eq(atomic_load(&irqs[1]), 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), 0x60);
	wr(1, APIC_EOI, 0);
	atomic_store(&irqs[1], 0);
	irqchip_vcpu_set_cr8(chip, 1, 4);
	ck_assert_int_eq(atomic_load(&irqs[1]), 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), 0x5f);
	ck_assert_uint_eq(irqchip_vcpu_get_cr8(chip, 1), 4);
	ck_assert_uint_eq(rd(1, APIC_PPR), 0x50);
}
END_TEST

START_TEST(lapic_eoi_announces_what_waits)
{
	wr(0, APIC_ICR, 0x40051);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x51);
	wr(0, APIC_ICR, 0x40050);
	wr(0, APIC_ICR, 0x40051); /* again while in service */
	atomic_store(&irqs[0], 0);
	wr(0, APIC_EOI, 0);
	ck_assert_int_eq(atomic_load(&irqs[0]), 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x51);
	wr(0, APIC_EOI, 0);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x50);
}
END_TEST

/* Who gets a fixed IPI: bits of vCPUs. */
static unsigned ipi_reach(uint32_t icr2, uint32_t icr)
{
	unsigned reached = 0;

	wr(0, APIC_ICR2, icr2);
	wr(0, APIC_ICR, icr);
	for (unsigned i = 0; i < VCPUS; i++) {
		if (irqchip_vcpu_ack(chip, i) == (int)(icr & 0xff)) {
			reached |= 1u << i;
			wr(i, APIC_EOI, 0);
		}
	}
	return reached;
}

START_TEST(ipis_reach_their_destinations)
{
	for (unsigned i = 0; i < VCPUS; i++)
		wr(i, APIC_LDR, 1u << (24 + i));
	ck_assert_uint_eq(ipi_reach(2u << 24, 0x40), 0x4);
	ck_assert_uint_eq(ipi_reach(9u << 24, 0x40), 0x0);
	ck_assert_uint_eq(ipi_reach(0xffu << 24, 0x40), 0xf);
	ck_assert_uint_eq(ipi_reach(0x05u << 24, 0x840), 0x5); /* flat logical */
	ck_assert_uint_eq(ipi_reach(0, 0x40040), 0x1);
	ck_assert_uint_eq(ipi_reach(0, 0x80040), 0xf);
	ck_assert_uint_eq(ipi_reach(0, 0xc0040), 0xe);
	/* Lowest priority: one of them, and not the busy one. */
	irqchip_vcpu_set_cr8(chip, 1, 3);
	ck_assert_uint_eq(ipi_reach(0x06u << 24, 0x940), 0x4);
	/* Cluster model. */
	for (unsigned i = 0; i < VCPUS; i++) {
		wr(i, APIC_DFR, 0x0fffffff);
		wr(i, APIC_LDR, (i / 2 << 4 | 1u << (i % 2)) << 24);
	}
	ck_assert_uint_eq(ipi_reach(0x13u << 24, 0x840), 0xc);
	ck_assert_uint_eq(ipi_reach(0x02u << 24, 0x840), 0x2);
	ck_assert_uint_eq(ipi_reach(0xf1u << 24, 0x840), 0x5);
}
END_TEST

START_TEST(init_and_sipi_reach_the_vcpu)
{
	wr(1, APIC_TPR, 0x20);
	wr(0, APIC_ICR2, 1u << 24);
	wr(0, APIC_ICR, 0x4500);
	ck_assert_int_eq(atomic_load(&inits[1]), 1);
	wr(0, APIC_ICR, 0x8500); /* de-assert: nothing */
	ck_assert_int_eq(atomic_load(&inits[1]), 1);
	wr(0, APIC_ICR, 0x4699);
	ck_assert_int_eq(atomic_load(&sipis[1]), 0x99);
	wr(0, APIC_ICR, 0x41); /* not before it has enabled its APIC */
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 1), -1);
	ck_assert_uint_eq(rd(1, APIC_TPR), 0);
	ck_assert_uint_eq(rd(1, APIC_SVR), 0xff);
	ck_assert_uint_eq(rd(1, APIC_ID), 1u << 24);
	wr(0, APIC_ICR, 0x4400);
	ck_assert_int_eq(atomic_load(&nmis[1]), 1);
}
END_TEST

START_TEST(errors_are_latched)
{
	wr(0, APIC_ERROR, 0xfe);
	wr(0, APIC_ICR, 0x40005); /* vectors below 16 are illegal */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0xfe);
	wr(0, APIC_EOI, 0);
	ck_assert_uint_eq(rd(0, APIC_ESR), 0);
	wr(0, APIC_ESR, 0);
	ck_assert_uint_eq(rd(0, APIC_ESR), 0x20);
	irq_send_msi(face, 0xfee00000, 0x0005);
	wr(0, APIC_ESR, 0);
	ck_assert_uint_eq(rd(0, APIC_ESR), 0x40);
	(void)rd(0, 0x3f0);
	wr(0, APIC_ESR, 0);
	ck_assert_uint_eq(rd(0, APIC_ESR), 0x80);
	/* An error entry with an illegal vector must not run in circles. */
	wr(0, APIC_ERROR, 0x02);
	wr(0, APIC_ICR, 0x40005);
	ck_assert_uint_eq(rd(0, APIC_VERSION), 0x50014);
}
END_TEST

START_TEST(software_disable_masks)
{
	wr(0, APIC_TIMER, 0x40);
	wr(0, APIC_SVR, 0xff);
	ck_assert_uint_eq(rd(0, APIC_TIMER), 0x10040);
	wr(0, APIC_TIMER, 0x40);
	ck_assert_uint_eq(rd(0, APIC_TIMER), 0x10040);
	irq_send_msi(face, 0xfee00000, 0x0050);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	wr(0, APIC_SVR, 0x1ff);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
}
END_TEST

START_TEST(nmi_button_follows_lint1)
{
	wr(0, APIC_LINT1, 0x400);
	irqchip_nmi(chip);
	ck_assert_int_eq(atomic_load(&nmis[0]), 1);
	ck_assert_int_eq(atomic_load(&nmis[1]), 0);
}
END_TEST

/* x2APIC and MSRs. */

static bool wrmsr(unsigned vcpu, uint32_t msr, uint64_t value)
{
	return irqchip_vcpu_write_msr(chip, vcpu, msr, value);
}

static uint64_t rdmsr(unsigned vcpu, uint32_t msr)
{
	uint64_t value = 0;

	ck_assert(irqchip_vcpu_read_msr(chip, vcpu, msr, &value));
	return value;
}

START_TEST(base_msr_transitions)
{
	uint64_t value;

	ck_assert_uint_eq(rdmsr(0, 0x1b), 0xfee00900);
	ck_assert_uint_eq(rdmsr(1, 0x1b), 0xfee00800);
	ck_assert(!wrmsr(0, 0x1b, 0xfee00500));	       /* x2APIC without enable */
	ck_assert(!wrmsr(0, 0x1b, 0xfee00901));	       /* reserved bits */
	ck_assert(!wrmsr(0, 0x1b, 1ull << 52 | 0x900));
	ck_assert(!irqchip_vcpu_read_msr(chip, 0, 0x802, &value));
	ck_assert(wrmsr(0, 0x1b, 0xfee00d00));
	ck_assert_uint_eq(rdmsr(0, 0x802), 0);
	ck_assert(!irqchip_vcpu_mmio_read(chip, 0, PAGE + APIC_ID, 4, &value));
	ck_assert(!wrmsr(0, 0x1b, 0xfee00900)); /* straight back */
	ck_assert(wrmsr(0, 0x1b, 0xfee00100));
	ck_assert(!irqchip_vcpu_apic_is_enabled(chip, 0));
	ck_assert(!wrmsr(0, 0x1b, 0xfee00d00)); /* off to x2APIC */
	ck_assert(wrmsr(0, 0x1b, 0xfee00900));
	/* Another page. */
	ck_assert(wrmsr(0, 0x1b, 0xd0000900));
	ck_assert(irqchip_vcpu_mmio_read(chip, 0, 0xd0000030, 4, &value));
	ck_assert_uint_eq(value, 0x50014);
	ck_assert(!irqchip_vcpu_mmio_read(chip, 0, PAGE + 0x30, 4, &value));
}
END_TEST

START_TEST(x2apic_registers_fault_by_the_book)
{
	uint64_t value;

	for (unsigned i = 0; i < VCPUS; i++)
		ck_assert(wrmsr(i, 0x1b, rdmsr(i, 0x1b) | 0xc00));
	ck_assert_uint_eq(rdmsr(3, 0x802), 3);
	ck_assert_uint_eq(rdmsr(3, 0x80d), 8); /* cluster 0, bit 3 */
	ck_assert(!wrmsr(3, 0x80d, 1));
	ck_assert(!wrmsr(3, 0x802, 1));
	ck_assert(!irqchip_vcpu_read_msr(chip, 3, 0x80e, &value));
	ck_assert(!irqchip_vcpu_read_msr(chip, 3, 0x80b, &value));
	ck_assert(!irqchip_vcpu_read_msr(chip, 3, 0x831, &value));
	ck_assert(!irqchip_vcpu_read_msr(chip, 3, 0x83f, &value));
	ck_assert(!irqchip_vcpu_read_msr(chip, 3, 0x8ff, &value));
	ck_assert(!wrmsr(3, 0x80b, 1));
	ck_assert(wrmsr(3, 0x80b, 0));
	ck_assert(!wrmsr(3, 0x808, 0x100));
	ck_assert(!wrmsr(3, 0x832, 1ull << 32));
	ck_assert(!wrmsr(3, 0x80f, 0x1000));
	/* Self IPI, and one with a 32-bit logical destination. */
	ck_assert(wrmsr(3, 0x83f, 0x77));
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 3), 0x77);
	ck_assert(wrmsr(3, 0x80b, 0));
	ck_assert(wrmsr(3, 0x830, 6ull << 32 | 0x841));
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), 0x41);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), 0x41);
	ck_assert_uint_eq(rdmsr(3, 0x830), 6ull << 32 | 0x841);
	ck_assert(wrmsr(0, 0x830, 0xffffffffull << 32 | 0x42));
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 3), 0x42);
}
END_TEST

/* Timer. */

START_TEST(timer_one_shot_and_periodic)
{
	wr(0, APIC_TDCR, 0x3); /* 16 */
	wr(0, APIC_TIMER, 0x40);
	wr(0, APIC_TMICT, 1000);
	ck_assert_uint_eq(rd(0, APIC_TMCCT), 1000);
	vclock_advance(vclk, 8000);
	ck_assert_uint_eq(rd(0, APIC_TMCCT), 500);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	vclock_advance(vclk, 8000);
	ck_assert_uint_eq(rd(0, APIC_TMCCT), 0);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x40);
	wr(0, APIC_EOI, 0);
	vclock_advance(vclk, 1000000);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);

	wr(0, APIC_TIMER, 0x20041);
	wr(0, APIC_TMICT, 10000); /* 160 us */
	for (int i = 0; i < 5; i++) {
		vclock_advance(vclk, 160000);
		ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x41);
		wr(0, APIC_EOI, 0);
	}
	wr(0, APIC_TIMER, 0x30041); /* masked: runs, says nothing */
	vclock_advance(vclk, 160000);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	wr(0, APIC_TMICT, 0);
	ck_assert_uint_eq(rd(0, APIC_TMCCT), 0);
}
END_TEST

/* A vCPU that halts waits for its timer itself: time passes and the clock's thread does nothing. */
START_TEST(timer_of_the_vcpus_own)
{
	ck_assert(irqchip_vcpu_timer(chip, 0) == UINT64_MAX);
	wr(0, APIC_TDCR, 0xb); /* 1 */
	wr(0, APIC_TIMER, 0x40);
	wr(0, APIC_TMICT, 1000);
	ck_assert_uint_eq(irqchip_vcpu_timer(chip, 0), 1000);
	vclock_set(vclk, vclock_now_ns(vclk) + 999);
	ck_assert_uint_eq(irqchip_vcpu_timer(chip, 0), 1);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	vclock_set(vclk, vclock_now_ns(vclk) + 1);
	ck_assert(irqchip_vcpu_timer(chip, 0) == UINT64_MAX);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x40);
	wr(0, APIC_EOI, 0);
	vclock_advance(vclk, 1000000); /* the clock's thread comes second */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);

	wr(0, APIC_TIMER, 0x20041);
	wr(0, APIC_TMICT, 100000);
	for (int i = 0; i < 3; i++) {
		vclock_set(vclk, vclock_now_ns(vclk) + 100000);
		(void)irqchip_vcpu_timer(chip, 0);
		ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x41);
		wr(0, APIC_EOI, 0);
		ck_assert_uint_eq(irqchip_vcpu_timer(chip, 0), 100000);
	}
	wr(0, APIC_TMICT, 0);
	ck_assert(irqchip_vcpu_timer(chip, 0) == UINT64_MAX);
}
END_TEST

START_TEST(timer_survives_absurd_periods)
{
	wr(0, APIC_TDCR, 0xb); /* 1 */
	wr(0, APIC_TIMER, 0x20041);
	wr(0, APIC_TMICT, 1);
	vclock_advance(vclk, 1000000);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x41);
	wr(0, APIC_TDCR, 0xa); /* 128 */
	wr(0, APIC_TMICT, 0xffffffff);
	vclock_advance(vclk, 1000000);
	ck_assert_uint_gt(rd(0, APIC_TMCCT), 0xfff00000);
}
END_TEST

START_TEST(timer_tsc_deadline)
{
	atomic_store(&tsc, 1000000);
	ck_assert(wrmsr(0, 0x6e0, 3000000)); /* not in that mode: ignored */
	ck_assert_uint_eq(rdmsr(0, 0x6e0), 0);
	wr(0, APIC_TIMER, 0x40042);
	ck_assert(wrmsr(0, 0x6e0, 3000000)); /* 1 ms at 2 GHz */
	ck_assert_uint_eq(rdmsr(0, 0x6e0), 3000000);
	vclock_advance(vclk, 999999);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	vclock_advance(vclk, 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x42);
	ck_assert_uint_eq(rdmsr(0, 0x6e0), 0);
	wr(0, APIC_EOI, 0);
	/* In the past: at once. */
	ck_assert(wrmsr(0, 0x6e0, 5));
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x42);
	wr(0, APIC_EOI, 0);
	/* Zero disarms; so does a change of mode. */
	ck_assert(wrmsr(0, 0x6e0, 3000000));
	ck_assert(wrmsr(0, 0x6e0, 0));
	vclock_advance(vclk, 10000000);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), -1);
	ck_assert(wrmsr(0, 0x6e0, ~0ull));
	wr(0, APIC_TIMER, 0x42);
	ck_assert_uint_eq(rdmsr(0, 0x6e0), 0);
}
END_TEST

/* MSI and I/O APIC. */

START_TEST(msi_is_decoded)
{
	irq_send_msi(face, 0xfee02000, 0x4051);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), 0x51);
	wr(2, APIC_EOI, 0);
	irq_send_msi(face, 0xfee02010, 0x4051);	    /* remappable */
	irq_send_msi(face, 0xfed02000, 0x4051);	    /* not the APIC range */
	irq_send_msi(face, 0x1fee02000ull, 0x4051);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), -1);
	for (unsigned i = 0; i < VCPUS; i++)
		wr(i, APIC_LDR, 1u << (24 + i));
	irq_send_msi(face, 0xfee0c00c, 0x4152); /* logical, lowest priority of 2 and 3 */
	ck_assert_int_eq((irqchip_vcpu_ack(chip, 2) == 0x52) + (irqchip_vcpu_ack(chip, 3) == 0x52),
			 1);
	irq_send_msi(face, 0xfee01000, 0x0400);
	ck_assert_int_eq(atomic_load(&nmis[1]), 1);
}
END_TEST

START_TEST(ioapic_registers)
{
	ck_assert_uint_eq(io_rd(1), 0x170020);
	io_wr(0, 0xffffffff);
	ck_assert_uint_eq(io_rd(0), 0x0f000000);
	ck_assert_uint_eq(io_rd(0x10), 0x10000);
	io_wr(0x3e, 0xffffffff);
	io_wr(0x3f, 0xffffffff);
	ck_assert_uint_eq(io_rd(0x3e), 0x1afff);
	ck_assert_uint_eq(io_rd(0x3f), 0xff000000);
	io_wr(0x40, 1); /* beyond the last pin */
	ck_assert_uint_eq(io_rd(0x40), 0);
	ck_assert_uint_eq(io_rd(0xff), 0);
}
END_TEST

START_TEST(ioapic_edge)
{
	out(0x21, 0xff);
	out(0xa1, 0xff);
	io_wr(0x10 + 2 * 2 + 1, 1u << 24);
	io_wr(0x10 + 2 * 2, 0x60);
	irq_set_line(face, IRQ_GSI_PIT, true); /* arrives at pin 2 */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), 0x60);
	wr(1, APIC_EOI, 0);
	irq_set_line(face, IRQ_GSI_PIT, true);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), -1);
	irq_set_line(face, IRQ_GSI_PIT, false);
	irq_set_line(face, IRQ_GSI_PIT, true);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 1), 0x60);
	irq_set_line(face, 24, true); /* no such line */
	irq_set_line(face, 1000, true);
}
END_TEST

START_TEST(ioapic_level_waits_for_eoi)
{
	unsigned reg = 0x10 + 2 * 17;

	io_wr(reg + 1, 2u << 24);
	io_wr(reg, 0x8061);
	irq_set_line(face, 17, true);
	ck_assert_uint_eq(io_rd(reg), 0xc061); /* remote IRR */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), 0x61);
	ck_assert_uint_eq(rd(2, APIC_TMR + 0x61 / 32 * 16), 1u << 1);
	irq_set_line(face, 17, true);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), -1);
	wr(2, APIC_EOI, 0); /* still up: again */
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), 0x61);
	irq_set_line(face, 17, false);
	wr(2, APIC_EOI, 0);
	ck_assert_uint_eq(io_rd(reg), 0x8061);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), -1);
	/* Up while masked; delivered when unmasked. */
	io_wr(reg, 0x18061);
	irq_set_line(face, 17, true);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), -1);
	io_wr(reg, 0x8061);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 2), 0x61);
	/* The EOI register, and clearing remote IRR by way of edge mode. */
	irq_set_line(face, 17, false);
	bus_write(bus, BUS_MMIO, IRQ_IOAPIC_BASE + 0x40, 4, 0x61);
	ck_assert_uint_eq(io_rd(reg), 0x8061);
	wr(2, APIC_EOI, 0);
	irq_set_line(face, 17, true);
	io_wr(reg, 0x10061);
	ck_assert_uint_eq(io_rd(reg), 0x10061);
}
END_TEST

/* State. */

START_TEST(state_comes_back)
{
	g_autoptr(GByteArray) out_bytes = g_byte_array_new(), again = g_byte_array_new();
	struct irqchip_config config = { .vcpus = VCPUS, .ops = &ops };
	struct irqchip *first = chip;
	struct state_reader in_bytes;

	pic_setup(0x01);
	pulse(4);
	io_wr(0x10 + 2 * 17, 0x8061);
	irq_set_line(face, 17, true);
	irqchip_vcpu_set_cr8(chip, 0, 7);
	wr(0, APIC_TIMER, 0x40);
	wr(0, APIC_TMICT, 1000);
	ck_assert(wrmsr(1, 0x1b, 0xfee00c00));
	irqchip_save(chip, out_bytes);

	config.bus = bus_new();
	config.clock = vclk;
	chip = irqchip_new(&config, NULL);
	in_bytes = (struct state_reader){out_bytes->data, out_bytes->len};
	atomic_store(&irqs[0], 0);
	ck_assert(irqchip_load(chip, &in_bytes, NULL));
	ck_assert_uint_eq(in_bytes.left, 0);
	irqchip_save(chip, again);
	ck_assert_uint_eq(again->len, out_bytes->len);
	ck_assert_mem_eq(again->data, out_bytes->data, again->len);
	ck_assert_int_ge(atomic_load(&irqs[0]), 1);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x34);
	ck_assert_int_eq(irqchip_vcpu_pending(chip, 0), -1);
	vclock_advance(vclk, 2000);
	irqchip_vcpu_set_cr8(chip, 0, 0);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x61);
	ck_assert_uint_eq(rdmsr(1, 0x802), 1);
	wr(0, APIC_EOI, 0);
	ck_assert_int_eq(irqchip_vcpu_ack(chip, 0), 0x61); /* the line is still up */
	wr(0, APIC_EOI, 0);
	irqchip_free(chip);
	bus_free(config.bus);
	chip = first;
}
END_TEST

/* Threads: an interrupt that a sender has sent never goes unannounced. A miss is a hang here. */

#define SENDERS 2
#define ROUNDS	5000

static atomic_int taken[SENDERS], finished;

static void *sender_main(void *arg)
{
	unsigned from = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		int before = atomic_load(&taken[from]);

		irq_send_msi(face, 0xfee00000, 0x50 + 0x10 * from);
		while (atomic_load(&taken[from]) == before)
			sched_yield();
	}
	atomic_fetch_add(&finished, 1);
	return NULL;
}

START_TEST(senders_and_vcpu_never_miss_each_other)
{
	pthread_t senders[SENDERS];
	int vector;

	for (uintptr_t i = 0; i < SENDERS; i++)
		pthread_create(&senders[i], NULL, sender_main, (void *)i);
	while (atomic_load(&finished) < SENDERS) {
		/* An engine looks only when it was told to. */
		if (!atomic_exchange(&irqs[0], 0)) {
			sched_yield();
			continue;
		}
		vector = irqchip_vcpu_ack(chip, 0);
		if (vector < 0)
			continue;
		atomic_fetch_add(&taken[(vector - 0x50) / 0x10], 1);
		wr(0, APIC_EOI, 0);
	}
	for (int i = 0; i < SENDERS; i++)
		pthread_join(senders[i], NULL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("irqchip");
	TCase *t = tcase_create("irqchip");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 30);
	tcase_add_test(t, pic_delivers_by_priority_and_nests);
	tcase_add_test(t, pic_cascades);
	tcase_add_test(t, pic_level_lines_follow_elcr);
	tcase_add_test(t, pic_masks_rotates_and_polls);
	tcase_add_test(t, pic_ends_interrupts_automatically);
	tcase_add_test(t, pic_waits_for_lint0);
	tcase_add_test(t, lapic_orders_by_priority);
	tcase_add_test(t, lapic_holds_back_below_tpr_and_announces_later);
	tcase_add_test(t, lapic_eoi_announces_what_waits);
	tcase_add_test(t, ipis_reach_their_destinations);
	tcase_add_test(t, init_and_sipi_reach_the_vcpu);
	tcase_add_test(t, errors_are_latched);
	tcase_add_test(t, software_disable_masks);
	tcase_add_test(t, nmi_button_follows_lint1);
	tcase_add_test(t, base_msr_transitions);
	tcase_add_test(t, x2apic_registers_fault_by_the_book);
	tcase_add_test(t, timer_one_shot_and_periodic);
	tcase_add_test(t, timer_of_the_vcpus_own);
	tcase_add_test(t, timer_survives_absurd_periods);
	tcase_add_test(t, timer_tsc_deadline);
	tcase_add_test(t, msi_is_decoded);
	tcase_add_test(t, ioapic_registers);
	tcase_add_test(t, ioapic_edge);
	tcase_add_test(t, ioapic_level_waits_for_eoi);
	tcase_add_test(t, state_comes_back);
	tcase_add_test(t, senders_and_vcpu_never_miss_each_other);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
