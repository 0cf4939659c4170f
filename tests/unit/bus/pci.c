// SPDX-License-Identifier: Apache-2.0
/* pci.c - tests of the PCI bus: configuration space, BARs, MSI-X, INTx. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/pci.h"

static struct {
	struct irq_chip chip;
	unsigned raised[IRQ_GSI_COUNT];
	bool level[IRQ_GSI_COUNT];
	unsigned msis;
	uint64_t address;
	uint32_t data;
} irq;

static void set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	if (level && !irq.level[gsi])
		irq.raised[gsi]++;
	irq.level[gsi] = level;
}

static void send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
	irq.msis++;
	irq.address = address;
	irq.data = data;
}

static const struct irq_chip_ops irq_ops = { .set_line = set_line, .send_msi = send_msi };

static struct {
	uint64_t off, value, mapped_at;
	unsigned maps, unmaps;
} seen;

static uint64_t bar_read(struct pci_dev *dev, unsigned bar, uint64_t off, unsigned size)
{
	return 0x1122334455667788ull + off;
}

static void bar_write(struct pci_dev *dev, unsigned bar, uint64_t off, unsigned size,
		      uint64_t value)
{
	seen.off = off;
	seen.value = value;
}

static void bar_mapped(struct pci_dev *dev, unsigned bar, uint64_t base, bool mapped)
{
	seen.maps += mapped;
	seen.unmaps += !mapped;
	if (mapped)
		seen.mapped_at = base;
}

static const struct pci_dev_ops dev_ops = { .bar_read = bar_read, .bar_write = bar_write,
					    .bar_mapped = bar_mapped };
static const struct pci_id dev_id = { .vendor = 0x1234, .device = 0x5678,
				      .class_code = 0x020000 };

static struct bus *bus;
static struct pci_bus *pci;
static struct pci_dev dev, dev2;

static void make_dev(struct pci_dev *d, enum pci_bar_kind kind)
{
	pci_dev_init(d, "test", &dev_ops, &dev_id);
	pci_dev_set_bar(d, 0, kind, kind == PCI_BAR_IO ? 0x20 : 0x4000);
	pci_dev_add_intx(d);
	ck_assert_int_eq(pci_dev_add_msix(d, 3, 0, 0x1000, 0x1800), 0);
}

static void setup(void)
{
	memset(&irq, 0, sizeof(irq));
	memset(&seen, 0, sizeof(seen));
	irq.chip.ops = &irq_ops;
	bus = bus_new();
	pci = pci_bus_new(bus, &irq.chip);
	ck_assert_ptr_nonnull(pci);
	make_dev(&dev, PCI_BAR_MEM32);
	ck_assert_int_eq(pci_bus_add(pci, &dev, 5), 0);
}

static void teardown(void)
{
	pci_bus_remove(pci, &dev);
	pci_dev_fini(&dev);
	pci_bus_free(pci);
	bus_free(bus);
}

static uint32_t in(unsigned slot, unsigned off, unsigned size)
{
	bus_write(bus, BUS_PIO, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	return (uint32_t)bus_read(bus, BUS_PIO, 0xcfc + (off & 3), size);
}

static void out(unsigned slot, unsigned off, unsigned size, uint32_t value)
{
	bus_write(bus, BUS_PIO, 0xcf8, 4, 0x80000000u | slot << 11 | (off & 0xfc));
	bus_write(bus, BUS_PIO, 0xcfc + (off & 3), size, value);
}

START_TEST(both_ways_reach_the_same_registers)
{
	ck_assert_uint_eq(in(5, 0, 4), 0x56781234);
	ck_assert_uint_eq(in(5, 2, 2), 0x5678);
	ck_assert_uint_eq(in(5, 3, 1), 0x56);
	ck_assert_uint_eq(in(0, 0, 2), 0x1b36);
	ck_assert_uint_eq(in(6, 0, 4), 0xffffffff);
	for (unsigned off = 0; off < 256; off += 4)
		ck_assert_uint_eq(in(5, off, 4),
				  bus_read(bus, BUS_MMIO, PCI_ECAM_BASE + (5 << 15) + off, 4));
	/* Other functions, other buses, extended space. */
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, PCI_ECAM_BASE + (5 << 15) + 0x1000, 4),
			  0xffffffff);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, PCI_ECAM_BASE + (1 << 20), 4), 0xffffffff);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, PCI_ECAM_BASE + (5 << 15) + 0x100, 4),
			  0xffffffff);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, PCI_ECAM_BASE + PCI_ECAM_SIZE - 4, 4),
			  0xffffffff);
	bus_write(bus, BUS_PIO, 0xcf8, 4, 5 << 11); /* enable bit off */
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0xcfc, 4), 0xffffffff);
	out(5, 0, 4, 0);
	ck_assert_uint_eq(in(5, 0, 4), 0x56781234);
}
END_TEST

START_TEST(bar_tells_its_size_and_moves)
{
	uint32_t first = in(5, 0x10, 4);

	ck_assert_uint_ge(first, PCI_MMIO32_BASE);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, first + 8, 4), 0xffffffff); /* decoding off */
	out(5, 4, 2, 2);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, first + 8, 8), 0x1122334455667790ull);
	out(5, 0x10, 4, 0xffffffff);
	ck_assert_uint_eq(in(5, 0x10, 4), 0xffffc000);
	out(5, 0x10, 4, 0xd0000000);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, first + 8, 4), 0xffffffff);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0xd0000008, 4), 0x55667790);
	ck_assert_uint_eq(seen.mapped_at, 0xd0000000);
	bus_write(bus, BUS_MMIO, 0xd0000010, 2, 0xabcd);
	ck_assert_uint_eq(seen.off, 0x10);
	ck_assert_uint_eq(seen.value, 0xabcd);
	/* On top of ECAM it cannot be, and comes back afterwards. */
	out(5, 0x10, 4, PCI_ECAM_BASE);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, PCI_ECAM_BASE, 2), 0x1b36);
	out(5, 0x10, 4, 0xd0000000);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0xd0000008, 4), 0x55667790);
	out(5, 4, 2, 0);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0xd0000008, 4), 0xffffffff);
	ck_assert_uint_eq(seen.maps, seen.unmaps);
}
END_TEST

START_TEST(wide_and_port_bars)
{
	struct pci_dev io;

	make_dev(&dev2, PCI_BAR_MEM64);
	ck_assert_int_eq(pci_bus_add(pci, &dev2, 5), -EBUSY);
	ck_assert_int_eq(pci_bus_add(pci, &dev2, PCI_SLOT_ANY), 0);
	ck_assert_uint_eq(dev2.slot, 1);
	ck_assert_uint_eq(in(1, 0x10, 4) & 15, 4);
	out(1, 0x10, 4, ~0u);
	out(1, 0x14, 4, ~0u);
	ck_assert_uint_eq(in(1, 0x10, 4), 0xffffc004);
	ck_assert_uint_eq(in(1, 0x14, 4), 0xffffffff);
	out(1, 4, 2, 2);
	out(1, 0x10, 4, 0x10000);
	out(1, 0x14, 4, 0x20);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0x2000010000ull, 4), 0x55667788);
	pci_bus_remove(pci, &dev2);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0x2000010000ull, 4), 0xffffffff);
	pci_dev_fini(&dev2);

	pci_dev_init(&io, "io", &dev_ops, &dev_id);
	pci_dev_set_bar(&io, 2, PCI_BAR_IO, 0x20);
	ck_assert_int_eq(pci_bus_add(pci, &io, 9), 0);
	out(9, 0x18, 4, ~0u);
	ck_assert_uint_eq(in(9, 0x18, 4), 0xffffffe1);
	out(9, 4, 2, 1);
	out(9, 0x18, 4, 0xc100);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0xc104, 1), 0x8c);
	pci_bus_remove(pci, &io);
	pci_dev_fini(&io);
}
END_TEST

static unsigned msix_cap(void)
{
	unsigned at = in(5, 0x34, 1);

	while (in(5, at, 1) != PCI_CAP_MSIX)
		at = in(5, at + 1, 1);
	return at;
}

START_TEST(msix_masks_and_remembers)
{
	uint64_t base = in(5, 0x10, 4), table = base + 0x1000, pba = base + 0x1800;
	unsigned cap = msix_cap();

	out(5, 4, 2, 2);
	ck_assert_uint_eq(in(5, cap + 2, 2), 2); /* three vectors */
	bus_write(bus, BUS_MMIO, table + 16, 4, 0xfee01000);
	bus_write(bus, BUS_MMIO, table + 20, 4, 1);
	bus_write(bus, BUS_MMIO, table + 24, 4, 0x4041);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, table + 16, 8), 0x1fee01000ull);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, table + 28, 4), 1);
	pci_msix_notify(&dev, 1); /* off: nothing, and nothing remembered */
	out(5, cap + 2, 2, 0x8000);
	ck_assert(pci_msix_is_enabled(&dev));
	ck_assert_uint_eq(irq.msis, 0);
	pci_msix_notify(&dev, 1); /* the vector is masked */
	ck_assert_uint_eq(irq.msis, 0);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, pba, 8), 2);
	bus_write(bus, BUS_MMIO, pba, 8, 0); /* read-only */
	bus_write(bus, BUS_MMIO, table + 28, 4, 0);
	ck_assert_uint_eq(irq.msis, 1);
	ck_assert_uint_eq(irq.address, 0x1fee01000ull);
	ck_assert_uint_eq(irq.data, 0x4041);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, pba, 4), 0);
	out(5, cap + 2, 2, 0xc000); /* function mask */
	pci_msix_notify(&dev, 1);
	pci_msix_notify(&dev, 3);
	pci_msix_notify(&dev, PCI_MSIX_NO_VECTOR);
	ck_assert_uint_eq(irq.msis, 1);
	out(5, cap + 2, 2, 0x8000);
	ck_assert_uint_eq(irq.msis, 2);
	/* Odd accesses do nothing. */
	bus_write(bus, BUS_MMIO, table + 30, 2, 1);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, table + 28, 4), 0);
	/* Behind the table, the device's own registers. */
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, table + 48, 4), 0x55667788 + 0x1030);
}
END_TEST

START_TEST(intx_is_shared_and_swizzled)
{
	make_dev(&dev2, PCI_BAR_MEM32);
	ck_assert_int_eq(pci_bus_add(pci, &dev2, 9), 0); /* 9 and 5: the same line */
	ck_assert_uint_eq(pci_slot_gsi(5), 17);
	ck_assert_uint_eq(in(9, PCI_INT_LINE, 1), 17);
	pci_set_intx(&dev, true);
	pci_set_intx(&dev2, true);
	pci_set_intx(&dev2, true);
	ck_assert(irq.level[17]);
	pci_set_intx(&dev, false);
	ck_assert(irq.level[17]);
	out(9, 4, 2, PCI_COMMAND_NOINTX);
	ck_assert(!irq.level[17]);
	ck_assert_uint_eq(in(9, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	out(9, 4, 2, 0);
	ck_assert(irq.level[17]);
	pci_bus_remove(pci, &dev2);
	ck_assert(!irq.level[17]);
	pci_dev_fini(&dev2);
	/* MSI-X takes the line away. */
	pci_set_intx(&dev, true);
	out(5, msix_cap() + 2, 2, 0x8000);
	ck_assert(!irq.level[17]);
}
END_TEST

static void count_reset(void *arg)
{
	(*(unsigned *)arg)++;
}

START_TEST(reset_port_lies_inside)
{
	unsigned resets = 0;

	pci_bus_set_reset(pci, count_reset, &resets);
	bus_write(bus, BUS_PIO, 0xcf9, 1, 0x02);
	ck_assert_uint_eq(resets, 0);
	bus_write(bus, BUS_PIO, 0xcf9, 1, 0x06);
	ck_assert_uint_eq(resets, 1);
	bus_write(bus, BUS_PIO, 0xcf8, 4, 0x80000600);
	ck_assert_uint_eq(resets, 1);
}
END_TEST

START_TEST(random_configuration_is_harmless)
{
	srand(3);
	for (unsigned i = 0; i < 30000; i++) {
		unsigned size = 1u << (rand() % 3), off = (unsigned)rand() % 256;
		uint32_t value = (uint32_t)rand() * 3u;

		if (rand() & 1)
			bus_write(bus, BUS_MMIO, PCI_ECAM_BASE + ((unsigned)rand() % 0x40000), size,
				  value);
		else
			out((unsigned)rand() % 8, off, size, value);
		if (i % 16 == 0)
			pci_msix_notify(&dev, (unsigned)rand() % 4);
		bus_read(bus, BUS_MMIO, in(5, 0x10, 4) + (unsigned)rand() % 0x4000, size);
	}
	ck_assert_uint_eq(in(5, 0, 4), 0x56781234);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pci");
	TCase *t = tcase_create("pci");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, both_ways_reach_the_same_registers);
	tcase_add_test(t, bar_tells_its_size_and_moves);
	tcase_add_test(t, wide_and_port_bars);
	tcase_add_test(t, msix_masks_and_remembers);
	tcase_add_test(t, intx_is_shared_and_swizzled);
	tcase_add_test(t, reset_port_lies_inside);
	tcase_add_test(t, random_configuration_is_harmless);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
