// SPDX-License-Identifier: Apache-2.0
/* uart.c - tests of the 16550A in front of a character device that the test plays. */
#include "dev/serial/uart.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "char/char.h"
#include "../fake_irq.h"

#define BASE 0x3f8

static struct bus *bus;
static struct fake_irq irq;
static struct uart *uart;

/* The character device: takes @room bytes more. */
static char sent[256];
static size_t sent_len, room, ready_calls;
static const struct char_client *client;
static void *client_arg;

void char_set_client(struct chardev *chr, const struct char_client *c, void *arg)
{
	client = c;
	client_arg = arg;
}

size_t char_write(struct chardev *chr, const void *buf, size_t len)
{
	if (len > room)
		len = room;
	memcpy(sent + sent_len, buf, len);
	sent_len += len;
	room -= len;
	return len;
}

void char_input_ready(struct chardev *chr)
{
	ready_calls++;
}

static void out(unsigned reg, uint8_t value)
{
	bus_write(bus, BUS_PIO, BASE + reg, 1, value);
}

static uint8_t in(unsigned reg)
{
	return (uint8_t)bus_read(bus, BUS_PIO, BASE + reg, 1);
}

static void type(const char *text)
{
	client->input(client_arg, (const uint8_t *)text, strlen(text));
}

static void setup(void)
{
	struct uart_config config = {.chr = (struct chardev *)&sent, .base = BASE, .gsi = 4};

	irq = (struct fake_irq){.chip.ops = &fake_irq_ops};
	room = sizeof(sent);
	config.bus = bus = bus_new();
	config.irq = &irq.chip;
	uart = uart_new(&config);
	ck_assert_ptr_nonnull(uart);
	out(4, 0x0b); /* DTR, RTS, and OUT2: as every driver does */
}

static void teardown(void)
{
	uart_free(uart);
	ck_assert_ptr_null(client);
	bus_free(bus);
}

START_TEST(sends_at_once)
{
	ck_assert_uint_eq(in(5), 0x60);
	out(0, 'h');
	out(0, 'i');
	ck_assert_uint_eq(in(5), 0x60);
	ck_assert_mem_eq(sent, "hi", 2);
	ck_assert_uint_eq(irq.rises[4], 0);
}
END_TEST

START_TEST(looks_like_a_16550a)
{
	out(2, 0x01);
	ck_assert_uint_eq(in(2), 0xc1);
	out(2, 0x00);
	ck_assert_uint_eq(in(2), 0x01);
	out(7, 0x5a);
	ck_assert_uint_eq(in(7), 0x5a);
	out(1, 0xff);
	ck_assert_uint_eq(in(1), 0x0f);
	out(1, 0);
	out(3, 0x83); /* divisor latch */
	out(0, 0x34);
	out(1, 0x12);
	ck_assert_uint_eq(in(0), 0x34);
	ck_assert_uint_eq(in(1), 0x12);
	out(3, 0x03);
	ck_assert_uint_eq(in(1), 0x00);
	ck_assert_uint_eq(sent_len, 0);
	ck_assert_uint_eq(in(6), 0xb0);
}
END_TEST

START_TEST(thr_interrupt_is_an_edge_for_each_burst)
{
	out(2, 0x01);
	out(1, 0x02); /* enabled while empty: at once */
	ck_assert_uint_eq(irq.rises[4], 1);
	ck_assert_uint_eq(in(2), 0xc2);
	ck_assert(!irq.level[4]); /* reading IIR acknowledges */
	ck_assert_uint_eq(in(2), 0xc1);
	out(1, 0x00);
	out(1, 0x02); /* again: Linux' test for a buggy chip */
	ck_assert_uint_eq(in(2), 0xc2);
	for (int i = 0; i < 16; i++)
		out(0, 'x');
	ck_assert(irq.level[4]);
	ck_assert_uint_eq(irq.rises[4], 3);
	ck_assert_uint_eq(in(2), 0xc2);
	ck_assert_uint_eq(sent_len, 16);
}
END_TEST

START_TEST(waits_for_a_slow_reader)
{
	room = 3;
	out(2, 0x01);
	out(1, 0x02);
	(void)in(2);
	for (int i = 0; i < 16 + 3; i++)
		out(0, (uint8_t)('a' + i));
	ck_assert_uint_eq(in(5), 0); /* not empty */
	ck_assert(!irq.level[4]);
	room = 5;
	client->writable(client_arg);
	ck_assert_uint_eq(in(5), 0);
	room = 100;
	client->writable(client_arg);
	ck_assert_uint_eq(in(5), 0x60);
	ck_assert(irq.level[4]);
	ck_assert_uint_eq(sent_len, 19);
	ck_assert_mem_eq(sent, "abcdefghijklmnopqrs", 19);
}
END_TEST

START_TEST(receives_with_trigger_and_timeout)
{
	out(2, 0x41); /* FIFO, trigger 4 */
	out(1, 0x01);
	ck_assert_uint_eq(client->input_room(client_arg), 16);
	type("ab");
	ck_assert(irq.level[4]);
	ck_assert_uint_eq(in(2), 0xcc);
	type("cd");
	ck_assert_uint_eq(in(2), 0xc4);
	ck_assert_uint_eq(in(5), 0x61);
	ck_assert_uint_eq(in(0), 'a');
	ck_assert_uint_eq(in(2), 0xcc);
	type("0123456789abc");
	ck_assert_uint_eq(client->input_room(client_arg), 0);
	ready_calls = 0;
	ck_assert_uint_eq(in(0), 'b');
	ck_assert_uint_eq(ready_calls, 1);
	type("!?"); /* one more than fits */
	ck_assert_uint_eq(in(2), 0xc4);
	out(1, 0x05);
	ck_assert_uint_eq(in(2), 0xc6); /* overrun comes first */
	ck_assert_uint_eq(in(5), 0x63);
	ck_assert_uint_eq(in(2), 0xc4);
	for (int i = 0; i < 16; i++)
		(void)in(0);
	ck_assert(!irq.level[4]);
	ck_assert_uint_eq(in(0), 0);
	ck_assert_uint_eq(in(5), 0x60);
}
END_TEST

START_TEST(without_fifo_holds_one_byte)
{
	ck_assert_uint_eq(client->input_room(client_arg), 1);
	type("a");
	ck_assert_uint_eq(client->input_room(client_arg), 0);
	ck_assert_uint_eq(in(0), 'a');
	ck_assert_uint_eq(client->input_room(client_arg), 1);
	type("b");
	out(2, 0x01); /* switching clears */
	ck_assert_uint_eq(in(5), 0x60);
}
END_TEST

START_TEST(loops_back)
{
	out(4, 0x1a); /* RTS, OUT2 */
	ck_assert_uint_eq(in(6) & 0xf0, 0x90);
	ck_assert_uint_eq(client->input_room(client_arg), 0);
	out(0, 'z');
	ck_assert_uint_eq(in(5), 0x61);
	ck_assert_uint_eq(in(0), 'z');
	ck_assert_uint_eq(sent_len, 0);
	out(1, 0x08);
	out(4, 0x15); /* DTR, OUT1 */
	ck_assert(!irq.level[4]); /* OUT2's pin is inactive */
	ck_assert_uint_eq(in(2), 0x00);
	ck_assert_uint_eq(in(6), 0x6b); /* DSR, RI; CTS, DSR and DCD changed */
	ck_assert(!irq.level[4]);
	out(4, 0x11);
	ck_assert_uint_eq(in(6), 0x24); /* ring ended */
}
END_TEST

START_TEST(out2_is_the_gate_of_the_line)
{
	out(1, 0x01);
	out(4, 0x03);
	type("a");
	ck_assert(!irq.level[4]);
	ck_assert_uint_eq(in(2), 0x04); /* the chip has it all the same */
	out(4, 0x0b);
	ck_assert(irq.level[4]);
	out(4, 0x03);
	ck_assert(!irq.level[4]);
	out(4, 0x0b);
	ck_assert_uint_eq(in(0), 'a');
	ck_assert(!irq.level[4]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("uart");
	TCase *t = tcase_create("uart");
	SRunner *r;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, sends_at_once);
	tcase_add_test(t, looks_like_a_16550a);
	tcase_add_test(t, thr_interrupt_is_an_edge_for_each_burst);
	tcase_add_test(t, waits_for_a_slow_reader);
	tcase_add_test(t, receives_with_trigger_and_timeout);
	tcase_add_test(t, without_fifo_holds_one_byte);
	tcase_add_test(t, loops_back);
	tcase_add_test(t, out2_is_the_gate_of_the_line);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
