// SPDX-License-Identifier: Apache-2.0
/*
 * uart.h - 16550A serial port with 16-byte FIFOs.
 *
 * The line has no speed: bytes leave for the character device as they are written, and the
 * transmitter reads as busy only while that device takes no more.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct bus;
struct chardev;
struct irq_chip;
struct uart;
struct state_reader;

struct uart_config {
	struct bus *bus;      /* borrowed, as all pointers here */
	struct irq_chip *irq;
	struct chardev *chr;  /* NULL: output vanishes */
	uint16_t base;	      /* COM1: 0x3f8 */
	unsigned gsi;	      /* COM1: 4 */
};

/* Becomes the client of @chr. NULL when the ports are taken. In the loop's thread, or before
 * the loop runs; uart_free() too. */
struct uart *uart_new(const struct uart_config *config);
void uart_free(struct uart *uart);
void uart_reset(struct uart *uart);

/* Machine state (base/state.h). Loading is for a machine that does not run yet; its clock has been
 * set, and the interrupt controllers have their own state. */
void uart_save(struct uart *uart, GByteArray *out);
bool uart_load(struct uart *uart, struct state_reader *in, GError **err);
