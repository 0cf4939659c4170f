// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * i8254.h - the counters of an 8254 interval timer (Intel 231164), without clock, lock, or line: who plays the chip
 * gives the time with each call, and sees to what the output of a counter is wired to.
 *
 * Nothing counts: a channel remembers the tick at which its counting element was last loaded, and count and
 * output follow from the ticks gone by. Before anything else is done to a channel at a time, i8254_sync() is called.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define I8254_HZ       1193182u
#define I8254_CHANNELS 3u
#define I8254_NEVER    UINT64_MAX

enum i8254_access { I8254_LOW = 1, I8254_HIGH, I8254_WORD };

struct i8254_channel {
	uint8_t mode;	/* 0..5 */
	uint8_t access; /* enum i8254_access */
	bool bcd;
	bool gate;

	bool high_next_write, high_next_read; /* of I8254_WORD */
	uint8_t low_written;
	uint16_t written; /* count register */
	bool is_null;	  /* written is not in the counting element yet */

	bool loaded;	/* the counting element has a count */
	uint32_t count; /* 1..65536 */
	uint64_t start; /* tick of the load; while halted, ticks counted before */
	bool halted;	/* gate low in modes 0, 2, 3, 4, or a half-written count */

	bool count_latched, status_latched;
	uint16_t latched_count;
	uint8_t latched_status;
};

/* As after power-on, with the gate as it is wired. */
void i8254_reset(struct i8254_channel *ch, bool gate);
/* A count written while a period runs takes over when it ends. */
void i8254_sync(struct i8254_channel *ch, uint64_t now);
/* The control register of all three. Bits of channels whose mode is set anew: their output is the mode's. */
unsigned i8254_command(struct i8254_channel ch[I8254_CHANNELS], uint8_t value, uint64_t now);
/* A byte of the count. True: it is complete, and counted from now on. */
bool i8254_write(struct i8254_channel *ch, uint8_t value, uint64_t now);
uint8_t i8254_read(struct i8254_channel *ch, uint64_t now);
void i8254_set_gate(struct i8254_channel *ch, bool gate, uint64_t now);
bool i8254_out(const struct i8254_channel *ch, uint64_t now);
bool i8254_is_periodic(const struct i8254_channel *ch);
/* Counts from an edge of its gate on. */
bool i8254_is_triggered(const struct i8254_channel *ch);
/* The written count as a number: zero is the largest. */
uint32_t i8254_count(const struct i8254_channel *ch);
/* Ticks since the load. */
uint64_t i8254_elapsed(const struct i8254_channel *ch, uint64_t now);
/* It counts, and its count has run out since the load. */
bool i8254_is_out(const struct i8254_channel *ch, uint64_t now);
/* The first tick after @now at which the output rises, or I8254_NEVER. */
uint64_t i8254_next_rise(const struct i8254_channel *ch, uint64_t now);
