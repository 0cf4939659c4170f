// SPDX-License-Identifier: Apache-2.0
/*
 * uart.c - 16550A serial port (TI TL16C550C data sheet, register for register).
 *
 * One lock guards the registers and both FIFOs; it is held while the interrupt line is set and
 * while bytes are given to the character device, whose functions allow that.
 */
#include "uart.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/state.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "char/char.h"

#define FIFO_BYTES 16u

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };
#define REG_FCR REG_IIR /* on write */

#define IER_RX	0x01
#define IER_THR 0x02
#define IER_LSR 0x04
#define IER_MSR 0x08

#define IIR_NONE    0x01
#define IIR_MSR	    0x00
#define IIR_THR	    0x02
#define IIR_RX	    0x04
#define IIR_LSR	    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04

#define LCR_DLAB 0x80

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_BITS 0x1f

#define LSR_DR	 0x01
#define LSR_OE	 0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_CTS	  0x10
#define MSR_DSR	  0x20
#define MSR_RI	  0x40
#define MSR_DCD	  0x80
#define MSR_LINES 0xf0
#define MSR_DELTA 0x0f
#define MSR_TERI  0x04

struct fifo {
	uint8_t bytes[FIFO_BYTES];
	unsigned head, len;
};

struct uart {
	struct uart_config config;
	struct bus_region region;
	bool on_bus;

	pthread_mutex_t lock; /* what follows */
	uint8_t ier, lcr, mcr, msr, scr, fcr;
	uint16_t divisor;
	bool overrun;
	bool thr_pending; /* the THR-empty interrupt has not been seen yet */
	bool line;
	struct fifo rx, tx; /* tx: bytes the character device did not take yet */
};

static bool fifo_put(struct fifo *f, uint8_t byte, unsigned room)
{
	if (f->len >= room)
		return false;
	f->bytes[(f->head + f->len++) % FIFO_BYTES] = byte;
	return true;
}

static uint8_t fifo_get(struct fifo *f)
{
	uint8_t byte = f->bytes[f->head];

	f->head = (f->head + 1) % FIFO_BYTES;
	f->len--;
	return byte;
}

static unsigned fifo_room(const struct uart *uart)
{
	return uart->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned rx_trigger(const struct uart *uart)
{
	static const uint8_t levels[4] = {1, 4, 8, 14};

	return uart->fcr & FCR_ENABLE ? levels[uart->fcr >> 6] : 1;
}

/* Highest priority first, data sheet table "Interrupt Control Functions". */
static uint8_t iir_source(const struct uart *uart)
{
	if ((uart->ier & IER_LSR) && uart->overrun)
		return IIR_LSR;
	if ((uart->ier & IER_RX) && uart->rx.len >= rx_trigger(uart))
		return IIR_RX;
	/* The timeout that reports a few waiting bytes has always just passed. */
	if ((uart->ier & IER_RX) && uart->rx.len > 0)
		return IIR_TIMEOUT;
	if ((uart->ier & IER_THR) && uart->thr_pending)
		return IIR_THR;
	if ((uart->ier & IER_MSR) && (uart->msr & MSR_DELTA))
		return IIR_MSR;
	return IIR_NONE;
}

/* On a PC the OUT2 pin opens the gate between the chip and the interrupt line; in loopback the pins
 * of the outputs are inactive. */
static bool gate_is_open(const struct uart *uart)
{
	return (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
}

/* lock held. */
static void line_update(struct uart *uart)
{
	bool level = gate_is_open(uart) && iir_source(uart) != IIR_NONE;

	if (level == uart->line)
		return;
	uart->line = level;
	irq_set_line(uart->config.irq, uart->config.gsi, level);
}

/* lock held. Give the character device what it takes. */
static void tx_flush(struct uart *uart)
{
	bool was_waiting = uart->tx.len > 0;

	while (uart->tx.len > 0) {
		uint8_t byte = uart->tx.bytes[uart->tx.head];

		if (uart->config.chr && char_write(uart->config.chr, &byte, 1) == 0)
			break;
		(void)fifo_get(&uart->tx);
	}
	if (was_waiting && uart->tx.len == 0)
		uart->thr_pending = true;
}

/* lock held. */
static void loop_receive(struct uart *uart, uint8_t byte)
{
	if (!fifo_put(&uart->rx, byte, fifo_room(uart)))
		uart->overrun = true;
	uart->thr_pending = true;
}

/* lock held. */
static void thr_write(struct uart *uart, uint8_t byte)
{
	if (uart->mcr & MCR_LOOP) {
		loop_receive(uart, byte);
		return;
	}
	/* A full FIFO loses the byte, as the chip does. While the interrupt for the last byte has
	 * not been looked at, the line stays up; else an edge-triggered controller sees a new
	 * edge. */
	uart->thr_pending = false;
	(void)fifo_put(&uart->tx, byte, fifo_room(uart));
	tx_flush(uart);
}

/* lock held. The modem lines: our peer is always there; in loopback they are our own outputs. */
static void msr_update(struct uart *uart)
{
	uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

	if (uart->mcr & MCR_LOOP) {
		lines = 0;
		lines |= uart->mcr & MCR_RTS ? MSR_CTS : 0;
		lines |= uart->mcr & MCR_DTR ? MSR_DSR : 0;
		lines |= uart->mcr & MCR_OUT1 ? MSR_RI : 0;
		lines |= uart->mcr & MCR_OUT2 ? MSR_DCD : 0;
	}
	changed = (uart->msr ^ lines) & MSR_LINES;
	/* Ring indicator counts on its trailing edge only. */
	if (lines & MSR_RI)
		changed &= (uint8_t)~MSR_RI;
	uart->msr = (uint8_t)((uart->msr & MSR_DELTA) | changed >> 4 | lines);
}

/* lock held. */
static void fcr_write(struct uart *uart, uint8_t value)
{
	bool toggled = (uart->fcr ^ value) & FCR_ENABLE;

	if (toggled || (value & FCR_CLEAR_RX)) {
		uart->rx.len = 0;
		uart->overrun = false;
	}
	if ((toggled || (value & FCR_CLEAR_TX)) && uart->tx.len > 0) {
		uart->tx.len = 0;
		uart->thr_pending = true;
	}
	/* The other bits cannot be set while the FIFOs are off. */
	uart->fcr = value & FCR_ENABLE ? value & 0xc1 : 0;
}

/* lock held. Returns whether input may have room again. */
static bool reg_write(struct uart *uart, unsigned reg, uint8_t value)
{
	bool dlab = uart->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			uart->divisor = (uint16_t)((uart->divisor & 0xff00) | value);
		else
			thr_write(uart, value);
		return false;
	case REG_IER:
		if (dlab) {
			uart->divisor = (uint16_t)((uart->divisor & 0xff) | value << 8);
			return false;
		}
		/* Enabling it while THR is empty raises it, seen or not: Linux tests for that. */
		if ((value & IER_THR) && !(uart->ier & IER_THR) && uart->tx.len == 0)
			uart->thr_pending = true;
		uart->ier = value & 0x0f;
		return false;
	case REG_FCR:
		fcr_write(uart, value);
		return true;
	case REG_LCR:
		uart->lcr = value;
		return false;
	case REG_MCR:
		uart->mcr = value & MCR_BITS;
		msr_update(uart);
		return true;
	case REG_SCR:
		uart->scr = value;
		return false;
	default: /* LSR and MSR are read-only */
		return false;
	}
}

static void port_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct uart *uart = container_of(region, struct uart, region);

	pthread_mutex_lock(&uart->lock);
	if (reg_write(uart, (unsigned)off, (uint8_t)value) && uart->config.chr)
		char_input_ready(uart->config.chr);
	line_update(uart);
	pthread_mutex_unlock(&uart->lock);
}

/* lock held. */
static uint8_t rbr_read(struct uart *uart)
{
	unsigned before = uart->rx.len;
	uint8_t byte;

	if (before == 0)
		return 0;
	byte = fifo_get(&uart->rx);
	if (before >= fifo_room(uart) && uart->config.chr && !(uart->mcr & MCR_LOOP))
		char_input_ready(uart->config.chr);
	return byte;
}

/* lock held. */
static uint8_t iir_read(struct uart *uart)
{
	uint8_t source = iir_source(uart);

	/* Reading it acknowledges this source alone. */
	if (source == IIR_THR)
		uart->thr_pending = false;
	return source | (uart->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

/* lock held. */
static uint8_t lsr_read(struct uart *uart)
{
	uint8_t value = 0;

	value |= uart->rx.len ? LSR_DR : 0;
	value |= uart->overrun ? LSR_OE : 0;
	value |= uart->tx.len ? 0 : LSR_THRE | LSR_TEMT;
	uart->overrun = false;
	return value;
}

/* lock held. */
static uint8_t reg_read(struct uart *uart, unsigned reg)
{
	bool dlab = uart->lcr & LCR_DLAB;
	uint8_t value;

	switch (reg) {
	case REG_DATA:
		return dlab ? (uint8_t)uart->divisor : rbr_read(uart);
	case REG_IER:
		return dlab ? (uint8_t)(uart->divisor >> 8) : uart->ier;
	case REG_IIR:
		return iir_read(uart);
	case REG_LCR:
		return uart->lcr;
	case REG_MCR:
		return uart->mcr;
	case REG_LSR:
		return lsr_read(uart);
	case REG_MSR:
		value = uart->msr;
		uart->msr &= MSR_LINES;
		return value;
	default:
		return uart->scr;
	}
}

static uint64_t port_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct uart *uart = container_of(region, struct uart, region);
	uint8_t value;

	pthread_mutex_lock(&uart->lock);
	value = reg_read(uart, (unsigned)off);
	line_update(uart);
	pthread_mutex_unlock(&uart->lock);
	return value;
}

static const struct bus_region_ops port_ops = {
	.read = port_read, .write = port_write, .max_size = 1};

/* The character device's side, in the loop's thread. */

static size_t client_room(void *arg)
{
	struct uart *uart = arg;
	size_t room = 0;

	pthread_mutex_lock(&uart->lock);
	/* In loopback the receiver is cut off from its pin. */
	if (!(uart->mcr & MCR_LOOP) && uart->rx.len < fifo_room(uart))
		room = fifo_room(uart) - uart->rx.len;
	pthread_mutex_unlock(&uart->lock);
	return room;
}

static void client_input(void *arg, const uint8_t *bytes, size_t len)
{
	struct uart *uart = arg;

	pthread_mutex_lock(&uart->lock);
	for (size_t i = 0; i < len; i++) {
		if (!fifo_put(&uart->rx, bytes[i], fifo_room(uart)))
			uart->overrun = true;
	}
	line_update(uart);
	pthread_mutex_unlock(&uart->lock);
}

static void client_writable(void *arg)
{
	struct uart *uart = arg;

	pthread_mutex_lock(&uart->lock);
	tx_flush(uart);
	line_update(uart);
	pthread_mutex_unlock(&uart->lock);
}

static const struct char_client client = {
	.input_room = client_room,
	.input = client_input,
	.writable = client_writable,
};

void uart_reset(struct uart *uart)
{
	pthread_mutex_lock(&uart->lock);
	uart->ier = uart->lcr = uart->mcr = uart->scr = uart->fcr = 0;
	uart->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	uart->divisor = 12; /* 9600 */
	uart->overrun = false;
	uart->thr_pending = false;
	uart->rx = (struct fifo){0};
	uart->tx = (struct fifo){0};
	line_update(uart);
	pthread_mutex_unlock(&uart->lock);
}

static const struct state_field fifo_fields[] = {
	STATE_ARRAY(struct fifo, bytes),
	STATE_UINT_MAX(struct fifo, head, FIFO_BYTES - 1),
	STATE_UINT_MAX(struct fifo, len, FIFO_BYTES),
	STATE_END,
};

static const struct state_field uart_fields[] = {
	STATE_UINT(struct uart, ier),
	STATE_UINT(struct uart, lcr),
	STATE_UINT_MAX(struct uart, mcr, MCR_BITS),
	STATE_UINT(struct uart, msr),
	STATE_UINT(struct uart, scr),
	STATE_UINT(struct uart, fcr),
	STATE_UINT(struct uart, divisor),
	STATE_BOOL(struct uart, overrun),
	STATE_BOOL(struct uart, thr_pending),
	STATE_BOOL(struct uart, line),
	STATE_GROUP(struct uart, rx, fifo_fields),
	STATE_GROUP(struct uart, tx, fifo_fields),
	STATE_END,
};

static const struct state_desc uart_desc = {"uart", 1, uart_fields};

void uart_save(struct uart *uart, GByteArray *out)
{
	pthread_mutex_lock(&uart->lock);
	state_save(&uart_desc, uart, out);
	pthread_mutex_unlock(&uart->lock);
}

bool uart_load(struct uart *uart, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&uart->lock);
	ok = state_load(&uart_desc, uart, in, err);
	if (ok) {
		tx_flush(uart);
		line_update(uart);
	}
	pthread_mutex_unlock(&uart->lock);
	return ok;
}

struct uart *uart_new(const struct uart_config *config)
{
	struct uart *uart = calloc(1, sizeof(*uart));

	if (!uart)
		return NULL;
	uart->config = *config;
	uart->region = (struct bus_region){.name = "uart", .space = BUS_PIO, .base = config->base,
					   .size = 8, .ops = &port_ops};
	pthread_mutex_init(&uart->lock, NULL);
	uart_reset(uart);
	uart->on_bus = bus_add(config->bus, &uart->region) == 0;
	if (!uart->on_bus) {
		uart_free(uart);
		return NULL;
	}
	if (config->chr)
		char_set_client(config->chr, &client, uart);
	return uart;
}

void uart_free(struct uart *uart)
{
	if (!uart)
		return;
	if (uart->on_bus) {
		if (uart->config.chr)
			char_set_client(uart->config.chr, NULL, NULL);
		bus_remove(uart->config.bus, &uart->region);
	}
	pthread_mutex_destroy(&uart->lock);
	free(uart);
}
