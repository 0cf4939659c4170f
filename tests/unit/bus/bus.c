// SPDX-License-Identifier: Apache-2.0
/* bus.c - tests of dispatch: lookup, straddling, changes under readers, ioeventfds, shared
 * lines. */
#include "bus/bus.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "bus/irq.h"

/* Reads give 0x10 * id + offset in each byte; the last write is kept. */
struct dev {
	struct bus_region region;
	uint8_t id;
	atomic_int reads;
	uint64_t off, value;
	unsigned size;
	int writes;
};

static uint64_t dev_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct dev *dev = container_of(region, struct dev, region);
	uint64_t v = 0;

	atomic_fetch_add(&dev->reads, 1);
	for (unsigned i = 0; i < size; i++)
		v |= (uint64_t)((dev->id * 0x10 + off + i) & 0xff) << (8 * i);
	return v;
}

static void dev_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct dev *dev = container_of(region, struct dev, region);

	dev->off = off;
	dev->size = size;
	dev->value = value;
	dev->writes++;
}

static const struct bus_region_ops dev_ops = {.read = dev_read, .write = dev_write};
static const struct bus_region_ops byte_ops = {
	.read = dev_read, .write = dev_write, .max_size = 1};

static struct dev dev_at(enum bus_space space, uint64_t base, uint64_t size, uint8_t id)
{
	return (struct dev){.region = {.name = "dev", .space = space, .base = base, .size = size,
				       .ops = &dev_ops},
			    .id = id};
}

START_TEST(finds_regions_and_misses)
{
	struct bus *bus = bus_new();
	struct dev a = dev_at(BUS_PIO, 0x100, 8, 1), b = dev_at(BUS_PIO, 0x108, 8, 2);
	struct dev m = dev_at(BUS_MMIO, 0x100, 0x1000, 3), top = dev_at(BUS_MMIO, -16ull, 16, 4);

	ck_assert_int_eq(bus_add(bus, &b.region), 0);
	ck_assert_int_eq(bus_add(bus, &a.region), 0);
	ck_assert_int_eq(bus_add(bus, &m.region), 0);
	ck_assert_int_eq(bus_add(bus, &top.region), 0);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x102, 2), 0x1312);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x108, 1), 0x20);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0x108, 8), 0x3f3e3d3c3b3a3938);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x0ff, 1), 0xff);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x110, 4), 0xffffffff);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0, 8), ~0ull);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, -8ull, 8), 0x4f4e4d4c4b4a4948);
	bus_write(bus, BUS_PIO, 0x104, 2, 0x12345678);
	ck_assert_uint_eq(a.value, 0x5678); /* cut to size */
	ck_assert_uint_eq(a.off, 4);
	ck_assert_uint_eq(a.size, 2);
	bus_write(bus, BUS_PIO, 0x200, 4, 1);
	bus_free(bus);
}
END_TEST

START_TEST(splits_what_straddles)
{
	struct bus *bus = bus_new();
	struct dev a = dev_at(BUS_PIO, 0x100, 2, 1), b = dev_at(BUS_PIO, 0x103, 2, 2);
	struct dev end = dev_at(BUS_PIO, 0xffff, 1, 3), c = dev_at(BUS_PIO, 0x200, 8, 4);

	c.region.ops = &byte_ops;
	bus_add(bus, &a.region);
	bus_add(bus, &b.region);
	bus_add(bus, &end.region);
	bus_add(bus, &c.region);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x100, 4), 0x20ff1110);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x101, 3), 0x20ff11);
	/* Ports wrap at 64 Ki. */
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0xffff, 2), 0xff30);
	bus_write(bus, BUS_PIO, 0x101, 4, 0xddccbbaa);
	ck_assert_uint_eq(a.value, 0xaa);
	ck_assert_int_eq(b.writes, 2);
	ck_assert_uint_eq(b.value, 0xdd);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x200, 4), 0x43424140);
	ck_assert_int_eq(atomic_load(&c.reads), 4);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, -2ull, 8), ~0ull);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x100, 0), ~0ull);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x100, 9), ~0ull);
	bus_free(bus);
}
END_TEST

START_TEST(refuses_overlap_and_nonsense)
{
	struct bus *bus = bus_new();
	struct dev a = dev_at(BUS_PIO, 0x100, 8, 1), b = dev_at(BUS_PIO, 0x107, 1, 2);
	struct dev none = dev_at(BUS_PIO, 0x300, 0, 3), wide = dev_at(BUS_PIO, 0xfff0, 0x11, 4);
	struct dev wrap = dev_at(BUS_MMIO, -8ull, 9, 5);

	ck_assert_int_eq(bus_add(bus, &a.region), 0);
	ck_assert_int_eq(bus_add(bus, &a.region), -EEXIST);
	ck_assert_int_eq(bus_add(bus, &b.region), -EEXIST);
	ck_assert_int_eq(bus_add(bus, &none.region), -EINVAL);
	ck_assert_int_eq(bus_add(bus, &wide.region), -EINVAL);
	ck_assert_int_eq(bus_add(bus, &wrap.region), -EINVAL);
	bus_remove(bus, &b.region); /* never added */
	bus_remove(bus, &a.region);
	ck_assert_int_eq(bus_add(bus, &b.region), 0);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x107, 1), 0x20);
	/* Moving. */
	ck_assert_int_eq(bus_add(bus, &none.region), -EINVAL);
	ck_assert_int_eq(bus_move(bus, &a.region, 0x400), -ENOENT);
	a.region.base = 0x400;
	ck_assert_int_eq(bus_add(bus, &a.region), 0);
	ck_assert_int_eq(bus_move(bus, &a.region, 0x100), -EEXIST);
	ck_assert_uint_eq(a.region.base, 0x400);
	ck_assert_int_eq(bus_move(bus, &a.region, 0x404), 0); /* over its own old place */
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x403, 1), 0xff);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x40b, 1), 0x17);
	bus_free(bus);
}
END_TEST

/* A device that moves itself when written, and removes another. */
struct mover {
	struct bus_region region;
	struct bus *bus;
	struct dev *victim;
};

static void mover_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct mover *m = container_of(region, struct mover, region);

	ck_assert_int_eq(bus_move(m->bus, region, value), 0);
	if (m->victim) {
		bus_remove(m->bus, &m->victim->region);
		m->victim = NULL;
	}
	/* Nested access in the middle of a change. */
	ck_assert_uint_eq(bus_read(m->bus, BUS_MMIO, value, 1), 0x42);
}

static uint64_t mover_read(struct bus_region *region, uint64_t off, unsigned size)
{
	return 0x42;
}

static const struct bus_region_ops mover_ops = {.read = mover_read, .write = mover_write};

START_TEST(changes_from_inside_a_handler)
{
	struct bus *bus = bus_new();
	struct dev victim = dev_at(BUS_MMIO, 0x5000, 0x10, 1);
	struct mover m = {.region = {.space = BUS_MMIO, .base = 0x1000, .size = 0x1000,
				     .ops = &mover_ops},
			  .bus = bus,
			  .victim = &victim};

	bus_add(bus, &victim.region);
	bus_add(bus, &m.region);
	/* Many times: retired tables must not pile up (the leak checker and valgrind look). */
	for (int i = 0; i < 1000; i++)
		bus_write(bus, BUS_MMIO, m.region.base, 4, i & 1 ? 0x1000 : 0x8000);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0x5000, 1), 0xff);
	bus_quiesce(bus);
	bus_free(bus);
}
END_TEST

static atomic_bool done;

static void *reader_main(void *arg)
{
	struct bus *bus = arg;

	while (!atomic_load(&done)) {
		uint64_t fixed = bus_read(bus, BUS_MMIO, 0x100, 1);
		uint64_t moving = bus_read(bus, BUS_MMIO, 0x5000, 1);

		if (fixed != 0x10 || (moving != 0x20 && moving != 0xff))
			return (void *)1;
	}
	return NULL;
}

START_TEST(readers_see_whole_tables)
{
	struct bus *bus = bus_new();
	struct dev fixed = dev_at(BUS_MMIO, 0x100, 0x10, 1);
	pthread_t readers[3];
	void *failed;

	bus_add(bus, &fixed.region);
	for (int i = 0; i < 3; i++)
		pthread_create(&readers[i], NULL, reader_main, bus);
	for (int i = 0; i < 300; i++) {
		struct dev *dev = malloc(sizeof(*dev));

		*dev = dev_at(BUS_MMIO, 0x5000, 0x10, 2);
		ck_assert_int_eq(bus_add(bus, &dev->region), 0);
		bus_remove(bus, &dev->region);
		bus_quiesce(bus);
		free(dev); /* nobody may be inside */
	}
	atomic_store(&done, true);
	for (int i = 0; i < 3; i++) {
		pthread_join(readers[i], &failed);
		ck_assert_ptr_null(failed);
	}
	bus_free(bus);
}
END_TEST

static int engine_adds;

static int engine_add(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd)
{
	engine_adds++;
	return -ENOSYS;
}

static void engine_remove(void *arg, enum bus_space space, uint64_t addr, unsigned len, int fd)
{
	engine_adds--;
}

START_TEST(signals_ioeventfds)
{
	static const struct bus_ioeventfd_ops ops = {engine_add, engine_remove};
	struct bus *bus = bus_new();
	struct dev dev = dev_at(BUS_MMIO, 0x1000, 0x100, 1);
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t count = 0;

	bus_set_ioeventfd_ops(bus, &ops, NULL);
	bus_add(bus, &dev.region);
	ck_assert_int_eq(bus_ioeventfd_add(bus, BUS_MMIO, 0x1010, 4, fd), 0);
	ck_assert_int_eq(bus_ioeventfd_add(bus, BUS_MMIO, 0x1012, 2, fd), -EEXIST);
	ck_assert_int_eq(bus_ioeventfd_add(bus, BUS_MMIO, 0x1020, 0, fd), -EINVAL);
	ck_assert_int_eq(engine_adds, 1);
	bus_write(bus, BUS_MMIO, 0x1010, 2, 7);
	bus_write(bus, BUS_MMIO, 0x1012, 1, 7);
	bus_write(bus, BUS_MMIO, 0x1014, 4, 9);
	ck_assert_int_eq(dev.writes, 1);
	ck_assert_int_eq(read(fd, &count, 8), 8);
	ck_assert_uint_eq(count, 2);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, 0x1010, 1), 0x20);
	bus_ioeventfd_remove(bus, BUS_MMIO, 0x1010, 4, fd);
	bus_ioeventfd_remove(bus, BUS_MMIO, 0x1010, 4, fd);
	ck_assert_int_eq(engine_adds, 0);
	bus_write(bus, BUS_MMIO, 0x1010, 4, 7);
	ck_assert_int_eq(dev.writes, 2);
	close(fd);
	bus_free(bus);
}
END_TEST

struct fake_chip {
	struct irq_chip chip;
	int changes;
	bool level;
};

static void fake_set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	struct fake_chip *fake = container_of(chip, struct fake_chip, chip);

	ck_assert_uint_eq(gsi, 17);
	fake->changes++;
	fake->level = level;
}

START_TEST(shared_line_is_the_or_of_its_holders)
{
	static const struct irq_chip_ops ops = {.set_line = fake_set_line};
	struct fake_chip fake = {.chip.ops = &ops};
	struct irq_line line;
	struct irq_holder a = {.line = &line}, b = {.line = &line};

	irq_line_init(&line, &fake.chip, 17);
	irq_holder_set(&a, false);
	ck_assert_int_eq(fake.changes, 0);
	irq_holder_set(&a, true);
	irq_holder_set(&a, true);
	irq_holder_set(&b, true);
	irq_holder_set(&a, false);
	ck_assert(fake.level);
	ck_assert_int_eq(fake.changes, 1);
	irq_holder_set(&b, false);
	ck_assert(!fake.level);
	ck_assert_int_eq(fake.changes, 2);
	irq_line_fini(&line);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bus");
	TCase *t = tcase_create("bus");
	SRunner *r;
	int failed;

	tcase_add_test(t, finds_regions_and_misses);
	tcase_add_test(t, splits_what_straddles);
	tcase_add_test(t, refuses_overlap_and_nonsense);
	tcase_add_test(t, changes_from_inside_a_handler);
	tcase_add_test(t, readers_see_whole_tables);
	tcase_add_test(t, signals_ioeventfds);
	tcase_add_test(t, shared_line_is_the_or_of_its_holders);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
