// SPDX-License-Identifier: Apache-2.0
/* dev_platform.c - a guest that programs timers, UART and platform ports at random. */
#include "input.h"

#include <stdlib.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "char/char.h"
#include "dev/misc/acpi_pm.h"
#include "dev/misc/debug_exit.h"
#include "dev/misc/legacy.h"
#include "dev/serial/uart.h"
#include "dev/timer/hpet.h"
#include "dev/timer/pit.h"
#include "dev/timer/rtc.h"

#define HPET_BASE 0xfed00000u

struct board {
	struct irq_chip irq;
	struct bus *bus;
	struct vclock *clock;
	struct pit *pit;
	struct rtc *rtc;
	struct hpet *hpet;
	struct acpi_pm *pm;
	struct uart *uart;
	struct legacy *legacy;
	struct debug_exit *debug_exit;
};

/* The character device, played here. */
static const struct char_client *client;
static void *client_arg;
static size_t room;

void char_set_client(struct chardev *chr, const struct char_client *c, void *arg)
{
	client = c;
	client_arg = arg;
}

size_t char_write(struct chardev *chr, const void *buf, size_t len)
{
	if (len > room)
		len = room;
	room -= len;
	return len;
}

void char_input_ready(struct chardev *chr)
{
}

static void set_line(struct irq_chip *chip, unsigned gsi, bool level)
{
	if (gsi >= IRQ_GSI_COUNT)
		abort();
}

static void send_msi(struct irq_chip *chip, uint64_t address, uint32_t data)
{
}

static const struct irq_chip_ops irq_ops = {set_line, send_msi};

static int64_t utc(void *arg)
{
	return 1700000000ll * 1000000000ll + (int64_t)vclock_now_ns(((struct board *)arg)->clock);
}

static void on_legacy(void *arg, bool on)
{
	struct board *b = arg;

	pit_connect_irq(b->pit, !on);
	rtc_connect_irq(b->rtc, !on);
}

static void on_event(void *arg)
{
}

static void on_status(void *arg, uint32_t status)
{
}

static void board_build(struct board *b)
{
	struct rtc_config rtc = {.utc_ns = utc, .utc_arg = b, .ram_low = 1u << 30};
	struct hpet_config hpet = {.base = HPET_BASE, .legacy = on_legacy, .arg = b};
	struct acpi_pm_config pm = {.base = 0x600, .sci_gsi = 9, .s5_type = 5,
				    .power_off = on_event};
	struct uart_config uart = {.chr = (struct chardev *)b, .base = 0x3f8, .gsi = 4};

	b->irq.ops = &irq_ops;
	rtc.bus = hpet.bus = pm.bus = uart.bus = b->bus = bus_new();
	rtc.clock = hpet.clock = pm.clock = b->clock = vclock_new_manual();
	rtc.irq = hpet.irq = pm.irq = uart.irq = &b->irq;
	b->pit = pit_new(b->bus, &b->irq, b->clock);
	b->rtc = rtc_new(&rtc);
	b->hpet = hpet_new(&hpet);
	b->pm = acpi_pm_new(&pm);
	b->uart = uart_new(&uart);
	b->legacy = legacy_new(b->bus, on_event, NULL);
	b->debug_exit = debug_exit_new(b->bus, 0xf4, on_status, NULL);
}

static void board_free(struct board *b)
{
	debug_exit_free(b->debug_exit);
	legacy_free(b->legacy);
	uart_free(b->uart);
	acpi_pm_free(b->pm);
	hpet_free(b->hpet);
	rtc_free(b->rtc);
	pit_free(b->pit);
	vclock_free(b->clock);
	bus_free(b->bus);
}

static void access_at(struct board *b, struct input *in, enum bus_space space, uint64_t addr,
		      uint8_t what)
{
	unsigned size = 1u << (what >> 5 & 3);

	if (what & 0x80)
		bus_write(b->bus, space, addr, size, input_take(in, size));
	else
		(void)bus_read(b->bus, space, addr, size);
}

/* Port ranges with what they need to be hit often. */
static const struct {
	uint16_t base;
	uint8_t count;
} port_ranges[] = {
	{0x40, 4}, {0x61, 1}, {0x64, 1}, {0x70, 4}, {0x80, 1}, {0x92, 1}, {0xf4, 4}, {0x3f8, 8},
	{0x600, 16},
};

static void char_event(struct input *in)
{
	uint8_t bytes[20] = {0};
	size_t len = input_byte(in) % sizeof(bytes);

	room += len;
	client->writable(client_arg);
	/* Sometimes more than was offered. */
	if (len > client->input_room(client_arg) && (len & 1))
		len = client->input_room(client_arg);
	client->input(client_arg, bytes, len);
}

/* Saved state with a few bytes changed: loaded or refused, but never a danger. */
static void state_damage(struct board *b, struct input *in)
{
	g_autoptr(GByteArray) bytes = g_byte_array_new();
	struct state_reader reader;

	pit_save(b->pit, bytes);
	rtc_save(b->rtc, bytes);
	hpet_save(b->hpet, bytes);
	acpi_pm_save(b->pm, bytes);
	uart_save(b->uart, bytes);
	for (unsigned n = input_byte(in) & 3; n > 0; n--) {
		unsigned at = (unsigned)input_take(in, 2) % bytes->len;

		bytes->data[at] = input_byte(in);
	}
	reader = (struct state_reader){bytes->data, bytes->len};
	(void)(pit_load(b->pit, &reader, NULL) && rtc_load(b->rtc, &reader, NULL) &&
	       hpet_load(b->hpet, &reader, NULL) && acpi_pm_load(b->pm, &reader, NULL) &&
	       uart_load(b->uart, &reader, NULL));
}

static void step(struct board *b, struct input *in)
{
	uint8_t op = input_byte(in), what = input_byte(in);
	unsigned range = (op >> 4) % ARRAY_SIZE(port_ranges);

	switch (op & 0xf) {
	case 0:
		vclock_advance(b->clock, input_take(in, 3));
		break;
	case 1:
		if (what < 4)
			vclock_advance(b->clock, what * 100000000ull);
		break;
	case 2:
		char_event(in);
		break;
	case 3:
		acpi_pm_press_power_button(b->pm);
		state_damage(b, in);
		break;
	case 4:
	case 5:
	case 6:
		access_at(b, in, BUS_MMIO, HPET_BASE + (input_take(in, 2) & 0x1ff), what);
		break;
	case 7: /* a CMOS register the way software does it */
		bus_write(b->bus, BUS_PIO, 0x70, 1, input_byte(in) & 0x3f);
		access_at(b, in, BUS_PIO, 0x71, what & 0x9f);
		break;
	default:
		access_at(b, in, BUS_PIO,
			  port_ranges[range].base + what % port_ranges[range].count, what);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct board b = {.bus = NULL};
	struct input in = {data, size};

	room = 64;
	board_build(&b);
	while (!input_is_empty(&in))
		step(&b, &in);
	board_free(&b);
	return 0;
}
