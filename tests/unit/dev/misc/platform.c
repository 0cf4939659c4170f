// SPDX-License-Identifier: Apache-2.0
/* platform.c - tests of ACPI fixed hardware, the exit port and the legacy ports. */
#include <check.h>
#include <stdlib.h>

#include "base/vclock.h"
#include "bus/bus.h"
#include "dev/misc/acpi_pm.h"
#include "dev/misc/debug_exit.h"
#include "dev/misc/legacy.h"
#include "../fake_irq.h"

static struct bus *bus;
static struct vclock *vclk;
static struct fake_irq irq;
static int offs, resets;
static uint32_t status;

static void on_off(void *arg)
{
	offs++;
}

static void on_reset(void *arg)
{
	resets++;
}

static void on_exit_port(void *arg, uint32_t value)
{
	status = value;
}

static void setup(void)
{
	irq = (struct fake_irq){.chip.ops = &fake_irq_ops};
	bus = bus_new();
	vclk = vclock_new_manual();
}

static void teardown(void)
{
	vclock_free(vclk);
	bus_free(bus);
}

static void out16(uint16_t port, uint16_t value)
{
	bus_write(bus, BUS_PIO, port, 2, value);
}

static uint16_t in16(uint16_t port)
{
	return (uint16_t)bus_read(bus, BUS_PIO, port, 2);
}

static struct acpi_pm *pm_new(void)
{
	struct acpi_pm_config config = {
		.base = 0x600, .sci_gsi = 9, .s5_type = 5, .power_off = on_off};

	config.bus = bus;
	config.irq = &irq.chip;
	config.clock = vclk;
	return acpi_pm_new(&config);
}

START_TEST(power_button_raises_sci)
{
	struct acpi_pm *pm = pm_new();

	acpi_pm_press_power_button(pm);
	ck_assert(!irq.level[9]);
	ck_assert_uint_eq(in16(0x600), 0x100);
	out16(0x602, 0x100);
	ck_assert(irq.level[9]);
	out16(0x600, 0x001);
	ck_assert(irq.level[9]);
	bus_write(bus, BUS_PIO, 0x601, 1, 0x01); /* by bytes */
	ck_assert(!irq.level[9]);
	ck_assert_uint_eq(in16(0x600), 0);
	acpi_pm_free(pm);
}
END_TEST

START_TEST(sleep_s5_is_power_off)
{
	struct acpi_pm *pm = pm_new();

	ck_assert_uint_eq(in16(0x604) & 1, 1); /* ACPI mode */
	out16(0x604, 5 << 10);
	out16(0x604, 1 << 13 | 1 << 10); /* S-something else */
	ck_assert_int_eq(offs, 0);
	out16(0x604, 1 << 13 | 5 << 10);
	ck_assert_int_eq(offs, 1);
	ck_assert_uint_eq(in16(0x604), 5 << 10 | 1); /* SLP_EN reads as zero */
	acpi_pm_free(pm);
}
END_TEST

START_TEST(pm_timer_runs_and_overflows)
{
	struct acpi_pm *pm = pm_new();

	vclock_advance(vclk, 1000000000);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x608, 4), 3579545);
	out16(0x602, 1);
	vclock_advance(vclk, 599ull * 1000000000);
	ck_assert(irq.level[9]);
	ck_assert_uint_eq(in16(0x600), 1);
	out16(0x600, 1);
	ck_assert(!irq.level[9]);
	vclock_advance(vclk, 600ull * 1000000000);
	ck_assert(irq.level[9]);
	acpi_pm_free(pm);
}
END_TEST

START_TEST(exit_port_takes_three_sizes)
{
	struct debug_exit *dev = debug_exit_new(bus, 0xf4, on_exit_port, NULL);

	bus_write(bus, BUS_PIO, 0xf4, 1, 0x110);
	ck_assert_uint_eq(status, 0x21);
	bus_write(bus, BUS_PIO, 0xf4, 2, 0x110);
	ck_assert_uint_eq(status, 0x221);
	bus_write(bus, BUS_PIO, 0xf4, 4, 0x80000001);
	ck_assert_uint_eq(status, 3);
	status = 0;
	bus_write(bus, BUS_PIO, 0xf5, 1, 7);
	ck_assert_uint_eq(status, 0);
	ck_assert_ptr_null(debug_exit_new(bus, 0xf6, on_exit_port, NULL));
	debug_exit_free(dev);
}
END_TEST

START_TEST(legacy_ports_reset)
{
	struct legacy *legacy = legacy_new(bus, on_reset, NULL);

	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x64, 1), 0xff);
	bus_write(bus, BUS_PIO, 0x64, 1, 0xaa);
	bus_write(bus, BUS_PIO, 0x64, 1, 0xff);
	bus_write(bus, BUS_PIO, 0x92, 1, 0x02);
	ck_assert_int_eq(resets, 0);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x92, 1), 2);
	bus_write(bus, BUS_PIO, 0x64, 1, 0xfe);
	bus_write(bus, BUS_PIO, 0x92, 1, 0x03);
	ck_assert_int_eq(resets, 2);
	bus_write(bus, BUS_PIO, 0x80, 1, 0x5a);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x80, 1), 0x5a);
	legacy_free(legacy);
	ck_assert_uint_eq(bus_read(bus, BUS_PIO, 0x80, 1), 0xff);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("platform");
	TCase *t = tcase_create("platform");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, power_button_raises_sci);
	tcase_add_test(t, sleep_s5_is_power_off);
	tcase_add_test(t, pm_timer_runs_and_overflows);
	tcase_add_test(t, exit_port_takes_three_sizes);
	tcase_add_test(t, legacy_ports_reset);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
