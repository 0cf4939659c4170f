// SPDX-License-Identifier: Apache-2.0
/* timers.c - tests of the 8254, the CMOS clock and the HPET, on a clock moved by hand. */
#include <check.h>
#include <stdlib.h>

#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "dev/timer/hpet.h"
#include "dev/timer/pit.h"
#include "dev/timer/rtc.h"
#include "../fake_irq.h"

#define S_NS  1000000000ull
#define MS_NS 1000000ull
/* Nanoseconds of @n ticks of 1.193182 MHz, rounded up. */
#define PIT_NS(n) (((n) * S_NS + 1193181) / 1193182)
#define HPET_BASE 0xfed00000u

static struct bus *bus;
static struct vclock *vclk;
static struct fake_irq irq;
static struct pit *pit;
static struct rtc *rtc;
static struct hpet *hpet;
/* Sunday 2023-12-31 23:59:58 UTC, and as much on as the clock. */
static int64_t utc_start = 1704067198ll * 1000000000ll;

static int64_t utc(void *arg)
{
	return utc_start + (int64_t)vclock_now_ns(vclk);
}

static void legacy(void *arg, bool on)
{
	pit_connect_irq(pit, !on);
	rtc_connect_irq(rtc, !on);
}

static void setup(void)
{
	struct rtc_config rc = {.utc_ns = utc, .ram_low = 0xc0000000u, .ram_high = 5ull << 30};
	struct hpet_config hc = {.base = HPET_BASE, .legacy = legacy};

	irq = (struct fake_irq){.chip.ops = &fake_irq_ops};
	rc.bus = hc.bus = bus = bus_new();
	rc.clock = hc.clock = vclk = vclock_new_manual();
	rc.irq = hc.irq = &irq.chip;
	pit = pit_new(bus, &irq.chip, vclk);
	rtc = rtc_new(&rc);
	hpet = hpet_new(&hc);
	ck_assert(pit && rtc && hpet);
}

static void teardown(void)
{
	hpet_free(hpet);
	rtc_free(rtc);
	pit_free(pit);
	vclock_free(vclk);
	bus_free(bus);
}

static void out(uint16_t port, uint8_t value)
{
	bus_write(bus, BUS_PIO, port, 1, value);
}

static uint8_t in(uint16_t port)
{
	return (uint8_t)bus_read(bus, BUS_PIO, port, 1);
}

/* 8254. */

static void pit_program(unsigned channel, unsigned mode, unsigned count)
{
	out(0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	out((uint16_t)(0x40 + channel), (uint8_t)count);
	out((uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static unsigned pit_count(unsigned channel)
{
	unsigned low;

	out(0x43, (uint8_t)(channel << 6));
	low = in((uint16_t)(0x40 + channel));
	return low | (unsigned)in((uint16_t)(0x40 + channel)) << 8;
}

START_TEST(pit_rate_generator_interrupts_each_period)
{
	pit_program(0, 2 + (unsigned)_i, 11932); /* modes 2 and 3: 100 Hz */
	vclock_advance(vclk, S_NS);
	ck_assert_uint_ge(irq.rises[0], 99);
	ck_assert_uint_le(irq.rises[0], 101);
}
END_TEST

START_TEST(pit_mode_2_counts_down_and_reloads)
{
	pit_program(0, 2, 1000);
	ck_assert_uint_eq(pit_count(0), 1000);
	vclock_advance(vclk, PIT_NS(400));
	ck_assert_uint_eq(pit_count(0), 600);
	vclock_advance(vclk, PIT_NS(700) - 1000);
	ck_assert_uint_ge(pit_count(0), 899);
	/* A new count takes over at the end of the period. */
	out(0x40, 0x88);
	out(0x40, 0x13); /* 5000 */
	ck_assert_uint_le(pit_count(0), 1000);
	vclock_advance(vclk, PIT_NS(1000));
	ck_assert_uint_gt(pit_count(0), 4000);
	ck_assert_uint_eq(irq.rises[0], 3); /* the line's own rise from reset, two periods */
}
END_TEST

START_TEST(pit_mode_0_interrupts_once)
{
	pit_program(0, 0, 1000);
	irq.rises[0] = 0;
	ck_assert(!irq.level[0]);
	vclock_advance(vclk, PIT_NS(999) - 100);
	ck_assert(!irq.level[0]);
	vclock_advance(vclk, PIT_NS(2));
	ck_assert(irq.level[0]);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.rises[0], 1);
	/* The first byte of the next count stops it. */
	out(0x40, 0x10);
	out(0x40, 0x00);
	ck_assert(!irq.level[0]);
}
END_TEST

START_TEST(pit_gate_holds_channel_2)
{
	/* As Linux calibrates: gate up, mode 0, wait for OUT in port 0x61. */
	out(0x61, 0x01);
	pit_program(2, 0, 0xffff);
	vclock_advance(vclk, PIT_NS(1000));
	ck_assert_uint_eq(in(0x61) & 0x21, 0x01);
	out(0x61, 0x00);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(pit_count(2), 0xffff - 1000);
	out(0x61, 0x01);
	vclock_advance(vclk, PIT_NS(0xffff - 1000 + 1));
	ck_assert_uint_eq(in(0x61) & 0x21, 0x21);
	/* Mode 1: a rising gate starts the pulse. */
	out(0x61, 0x00);
	pit_program(2, 1, 100);
	ck_assert_uint_eq(in(0x61) & 0x20, 0x20);
	out(0x61, 0x01);
	ck_assert_uint_eq(in(0x61) & 0x20, 0x00);
	vclock_advance(vclk, PIT_NS(101));
	ck_assert_uint_eq(in(0x61) & 0x20, 0x20);
}
END_TEST

START_TEST(pit_latches_and_reads_back)
{
	unsigned low;

	pit_program(2, 3, 0);
	out(0x61, 0x01);
	out(0x43, 0xc8); /* count and status of channel 2 */
	ck_assert_uint_eq(in(0x42), 0xb6); /* OUT, word, mode 3 */
	low = in(0x42);
	vclock_advance(vclk, PIT_NS(5000));
	ck_assert_uint_eq(low | (unsigned)in(0x42) << 8, 0);
	/* A latch that was not read stays. */
	out(0x43, 0x80);
	vclock_advance(vclk, PIT_NS(5000));
	out(0x43, 0x80);
	low = in(0x42);
	ck_assert_uint_eq((low | (unsigned)in(0x42) << 8), 0x10000 - 10000);
	/* Null count until the high byte is there. */
	out(0x43, 0xb0);
	out(0x43, 0xe8);
	ck_assert_uint_eq(in(0x42) & 0x40, 0x40);
}
END_TEST

START_TEST(pit_counts_in_bcd)
{
	out(0x61, 0x01);
	out(0x43, 0xb5); /* channel 2, word, mode 2, BCD */
	out(0x42, 0x00);
	out(0x42, 0x10); /* 1000 */
	vclock_advance(vclk, PIT_NS(1));
	ck_assert_uint_eq(pit_count(2), 0x0999);
	out(0x43, 0xb1); /* mode 0: wraps to 9999 */
	out(0x42, 0x05);
	out(0x42, 0x00);
	vclock_advance(vclk, PIT_NS(6));
	ck_assert_uint_eq(pit_count(2), 0x9999);
}
END_TEST

START_TEST(pit_survives_the_shortest_count)
{
	pit_program(0, 2, 1);
	vclock_advance(vclk, 10 * MS_NS);
	ck_assert_uint_gt(irq.rises[0], 10);
	ck_assert_uint_lt(irq.rises[0], 1000);
}
END_TEST

/* CMOS. */

static uint8_t cmos(uint8_t reg)
{
	out(0x70, reg);
	return in(0x71);
}

static void cmos_set(uint8_t reg, uint8_t value)
{
	out(0x70, reg);
	out(0x71, value);
}

START_TEST(rtc_tells_the_time)
{
	ck_assert_uint_eq(cmos(0x00), 0x58);
	ck_assert_uint_eq(cmos(0x02), 0x59);
	ck_assert_uint_eq(cmos(0x04), 0x23);
	ck_assert_uint_eq(cmos(0x06), 1); /* Sunday */
	ck_assert_uint_eq(cmos(0x07), 0x31);
	ck_assert_uint_eq(cmos(0x08), 0x12);
	ck_assert_uint_eq(cmos(0x09), 0x23);
	ck_assert_uint_eq(cmos(0x32), 0x20);
	ck_assert_uint_eq(cmos(0x0d), 0x80);
	vclock_advance(vclk, 2 * S_NS);
	ck_assert_uint_eq(cmos(0x00), 0x00);
	ck_assert_uint_eq(cmos(0x04), 0x00);
	ck_assert_uint_eq(cmos(0x07), 0x01);
	ck_assert_uint_eq(cmos(0x09), 0x24);
	/* Binary, twelve hours: midnight is 12 AM, then 12 PM. */
	cmos_set(0x0b, 0x04);
	ck_assert_uint_eq(cmos(0x04), 12);
	vclock_advance(vclk, 12 * 3600 * S_NS);
	ck_assert_uint_eq(cmos(0x04), 12 | 0x80);
}
END_TEST

START_TEST(rtc_is_set)
{
	cmos_set(0x0b, 0x82);
	cmos_set(0x00, 0x30);
	cmos_set(0x02, 0x15);
	cmos_set(0x04, 0x08);
	cmos_set(0x07, 0x28);
	cmos_set(0x08, 0x02);
	cmos_set(0x09, 0x00);
	cmos_set(0x32, 0x20);
	vclock_advance(vclk, 5 * S_NS);
	ck_assert_uint_eq(cmos(0x00), 0x30); /* stopped */
	ck_assert_uint_eq(cmos(0x0a) & 0x80, 0);
	cmos_set(0x0b, 0x02);
	vclock_advance(vclk, 24 * 3600 * S_NS);
	ck_assert_uint_eq(cmos(0x00), 0x30);
	ck_assert_uint_eq(cmos(0x07), 0x29); /* 2000 was a leap year */
	/* One register of the running clock. */
	cmos_set(0x04, 0x20);
	ck_assert_uint_eq(cmos(0x04), 0x20);
	ck_assert_uint_eq(cmos(0x02), 0x15);
}
END_TEST

START_TEST(rtc_says_when_it_updates)
{
	ck_assert_uint_eq(cmos(0x0a) & 0x80, 0);
	vclock_advance(vclk, S_NS - 200000);
	ck_assert_uint_eq(cmos(0x0a) & 0x80, 0x80);
	vclock_advance(vclk, 200000);
	ck_assert_uint_eq(cmos(0x0a) & 0x80, 0);
	ck_assert_uint_eq(cmos(0x0c) & 0x90, 0x10); /* UF without IRQF */
	ck_assert_uint_eq(irq.rises[8], 0);
}
END_TEST

START_TEST(rtc_interrupts)
{
	cmos_set(0x0b, 0x12); /* update ended */
	vclock_advance(vclk, S_NS);
	ck_assert(irq.level[8]);
	ck_assert_uint_eq(cmos(0x0c) & 0x90, 0x90);
	ck_assert(!irq.level[8]);
	ck_assert_uint_eq(cmos(0x0c), 0);
	/* Alarm at 00:00:10, hours do not matter. */
	cmos_set(0x01, 0x10);
	cmos_set(0x03, 0x00);
	cmos_set(0x05, 0xc0);
	cmos_set(0x0b, 0x22);
	vclock_advance(vclk, 10 * S_NS);
	ck_assert(!irq.level[8]);
	vclock_advance(vclk, 1 * S_NS);
	ck_assert(irq.level[8]);
	ck_assert_uint_eq(cmos(0x0c) & 0xb0, 0xb0);
	vclock_advance(vclk, 3600 * S_NS);
	ck_assert_uint_eq(cmos(0x0c) & 0xa0, 0xa0);
	/* Never: 61 seconds. */
	cmos_set(0x01, 0x61);
	vclock_advance(vclk, 2 * 3600 * S_NS);
	ck_assert_uint_eq(cmos(0x0c) & 0xa0, 0);
	/* Periodic at 1024 Hz, acknowledged each time. */
	cmos_set(0x0b, 0x42);
	irq.rises[8] = 0;
	for (int i = 0; i < 1024; i++) {
		vclock_advance(vclk, S_NS / 1024);
		(void)cmos(0x0c);
	}
	ck_assert_uint_ge(irq.rises[8], 1022);
	ck_assert_uint_le(irq.rises[8], 1025);
}
END_TEST

START_TEST(cmos_tells_memory_and_remembers)
{
	ck_assert_uint_eq(cmos(0x15) | cmos(0x16) << 8, 640);
	ck_assert_uint_eq(cmos(0x34) | cmos(0x35) << 8, (0xc0000000u - (16u << 20)) >> 16);
	ck_assert_uint_eq(cmos(0x5b) | cmos(0x5c) << 8 | cmos(0x5d) << 16, (5ull << 30) >> 16);
	cmos_set(0x0f, 0x0a);
	rtc_reset(rtc);
	ck_assert_uint_eq(cmos(0x0f), 0x0a);
	out(0x72, 0x8f);
	out(0x73, 0x55);
	ck_assert_uint_eq(in(0x73), 0x55);
	ck_assert_uint_eq(cmos(0x0f), 0x0a);
}
END_TEST

/* HPET. */

static uint64_t hr(uint32_t reg)
{
	return bus_read(bus, BUS_MMIO, HPET_BASE + reg, 8);
}

static void hw(uint32_t reg, uint64_t value)
{
	bus_write(bus, BUS_MMIO, HPET_BASE + reg, 8, value);
}

static void hw32(uint32_t reg, uint32_t value)
{
	bus_write(bus, BUS_MMIO, HPET_BASE + reg, 4, value);
}

START_TEST(hpet_counts_when_enabled)
{
	ck_assert_uint_eq(hr(0) >> 32, 10000000);
	ck_assert_uint_eq((hr(0) >> 8) & 0x1f, 2);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(hr(0xf0), 0);
	hw(0x10, 1);
	vclock_advance(vclk, 1000);
	ck_assert_uint_eq(hr(0xf0), 100);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, HPET_BASE + 0xf4, 4), 0);
	hw(0x10, 0);
	hw(0xf0, 0x1ffffffffull);
	ck_assert_uint_eq(bus_read(bus, BUS_MMIO, HPET_BASE + 0xf4, 4), 1);
	hw(0x10, 1);
	vclock_advance(vclk, 10);
	ck_assert_uint_eq(hr(0xf0), 0x200000000ull);
}
END_TEST

START_TEST(hpet_legacy_replaces_pit_and_rtc)
{
	pit_program(0, 2, 11932);
	hw(0x10, 3);
	irq.rises[0] = 0;
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.rises[0], 0);
	/* As Linux sets its periodic tick: SETVAL, 32 bits, comparator, then period. */
	hw32(0x100, 0x14c);
	hw32(0x108, (uint32_t)hr(0xf0) + 1000000);
	hw32(0x108, 1000000); /* 10 ms */
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.rises[0], 100);
	/* Timer 1 once, on GSI 8. */
	hw(0x120, 0x4);
	hw(0x128, hr(0xf0) + 500);
	vclock_advance(vclk, 4999);
	ck_assert_uint_eq(irq.rises[8], 0);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.rises[8], 1);
	hw(0x100, 0);
	hw(0x10, 1);
	irq.rises[0] = 0;
	vclock_advance(vclk, S_NS);
	ck_assert_uint_ge(irq.rises[0], 99); /* the 8254 is back */
}
END_TEST

START_TEST(hpet_routes_levels_and_messages)
{
	hw(0x10, 1);
	hw(0x148, 1000);
	hw(0x140, 0x6 | 20 << 9); /* level, enabled, GSI 20 */
	vclock_advance(vclk, 10000);
	ck_assert(irq.level[20]);
	ck_assert_uint_eq(hr(0x20), 4);
	hw(0x20, 4);
	ck_assert(!irq.level[20]);
	ck_assert_uint_eq(hr(0x20), 0);
	/* A GSI that it may not drive. */
	hw(0x140, 0x4 | 5 << 9);
	hw(0x148, hr(0xf0) + 10);
	vclock_advance(vclk, 1000);
	ck_assert_uint_eq(irq.rises[5], 0);
	/* Message. */
	hw(0x150, 0xfee01000ull << 32 | 0x41);
	hw(0x140, 0x4004);
	hw(0x148, hr(0xf0) + 10);
	vclock_advance(vclk, 1000);
	ck_assert_uint_eq(irq.msis, 1);
	ck_assert_uint_eq(irq.msi_address, 0xfee01000);
	ck_assert_uint_eq(irq.msi_data, 0x41);
	/* Just missed counts as met; enabling an old comparator does not. */
	hw(0x148, hr(0xf0) - 5);
	vclock_advance(vclk, 100);
	ck_assert_uint_eq(irq.msis, 2);
	hw(0x140, 0);
	hw(0x140, 0x4004);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.msis, 2);
}
END_TEST

START_TEST(hpet_survives_the_shortest_period)
{
	hw(0x10, 3);
	hw(0x100, 0x4c);
	hw(0x108, hr(0xf0) + 1);
	hw(0x108, 1);
	vclock_advance(vclk, 10 * MS_NS);
	ck_assert_uint_gt(irq.rises[0], 10);
	ck_assert_uint_lt(irq.rises[0], 1000);
	hw(0x108, 0);
	vclock_advance(vclk, 10 * MS_NS);
}
END_TEST

static void all_save(GByteArray *out_bytes)
{
	pit_save(pit, out_bytes);
	rtc_save(rtc, out_bytes);
	hpet_save(hpet, out_bytes);
}

START_TEST(state_comes_back)
{
	g_autoptr(GByteArray) saved = g_byte_array_new(), again = g_byte_array_new();
	struct state_reader reader;
	uint64_t counter;

	pit_program(0, 2, 11932);
	cmos_set(0x04, 0x10);
	cmos_set(0x0b, 0x12);
	hw(0x10, 1);
	hw(0x140, 0x4 | 20 << 9);
	hw(0x148, 1000000);
	vclock_advance(vclk, 5 * MS_NS);
	counter = hr(0xf0);
	all_save(saved);

	pit_reset(pit);
	rtc_reset(rtc);
	cmos_set(0x04, 0x11);
	hpet_reset(hpet);
	reader = (struct state_reader){saved->data, saved->len};
	ck_assert(pit_load(pit, &reader, NULL));
	ck_assert(rtc_load(rtc, &reader, NULL));
	ck_assert(hpet_load(hpet, &reader, NULL));
	ck_assert_uint_eq(reader.left, 0);
	all_save(again);
	ck_assert_mem_eq(again->data, saved->data, saved->len);
	/* And they go on from there. */
	ck_assert_uint_eq(cmos(0x04), 0x10);
	ck_assert_uint_eq(hr(0xf0), counter);
	irq.rises[0] = irq.rises[8] = irq.rises[20] = 0;
	vclock_advance(vclk, 100 * MS_NS);
	ck_assert_uint_ge(irq.rises[0], 9);
	ck_assert_uint_eq(irq.rises[20], 1);
	vclock_advance(vclk, S_NS);
	ck_assert_uint_eq(irq.rises[8], 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("timers");
	TCase *t = tcase_create("timers");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, pit_rate_generator_interrupts_each_period, 0, 2);
	tcase_add_test(t, pit_mode_2_counts_down_and_reloads);
	tcase_add_test(t, pit_mode_0_interrupts_once);
	tcase_add_test(t, pit_gate_holds_channel_2);
	tcase_add_test(t, pit_latches_and_reads_back);
	tcase_add_test(t, pit_counts_in_bcd);
	tcase_add_test(t, pit_survives_the_shortest_count);
	tcase_add_test(t, rtc_tells_the_time);
	tcase_add_test(t, rtc_is_set);
	tcase_add_test(t, rtc_says_when_it_updates);
	tcase_add_test(t, rtc_interrupts);
	tcase_add_test(t, cmos_tells_memory_and_remembers);
	tcase_add_test(t, hpet_counts_when_enabled);
	tcase_add_test(t, hpet_legacy_replaces_pit_and_rtc);
	tcase_add_test(t, hpet_routes_levels_and_messages);
	tcase_add_test(t, hpet_survives_the_shortest_period);
	tcase_add_test(t, state_comes_back);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
