// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* i8254.c - the counters of an 8254 interval timer (Intel 231164): modes, latches, gates. */
#include "i8254.h"

#define READBACK 3u /* the channel bits of a read-back command */

#define STATUS_OUT  0x80
#define STATUS_NULL 0x40

bool i8254_is_periodic(const struct i8254_channel *ch)
{
	return ch->mode == 2 || ch->mode == 3;
}

bool i8254_is_triggered(const struct i8254_channel *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

/* ---- counts ---- */

uint32_t i8254_count(const struct i8254_channel *ch)
{
	uint32_t v = ch->written;

	if (!ch->bcd)
		return v ? v : 0x10000;
	v = (v & 0xf) + ((v >> 4) & 0xf) * 10 + ((v >> 8) & 0xf) * 100 + (v >> 12) * 1000;
	return v ? v : 10000;
}

static uint16_t count_encode(const struct i8254_channel *ch, uint32_t v)
{
	if (!ch->bcd)
		return (uint16_t)v;
	v %= 10000;
	return (uint16_t)((v % 10) | (v / 10 % 10) << 4 | (v / 100 % 10) << 8 | (v / 1000) << 12);
}

static void load(struct i8254_channel *ch, uint64_t now)
{
	ch->count = i8254_count(ch);
	ch->is_null = false;
	ch->loaded = true;
	ch->start = ch->halted ? 0 : now;
}

uint64_t i8254_elapsed(const struct i8254_channel *ch, uint64_t now)
{
	return ch->halted ? ch->start : now - ch->start;
}

bool i8254_is_out(const struct i8254_channel *ch, uint64_t now)
{
	return ch->loaded && !ch->halted && i8254_elapsed(ch, now) >= ch->count;
}

void i8254_sync(struct i8254_channel *ch, uint64_t now)
{
	uint64_t gone = i8254_elapsed(ch, now);

	if (!i8254_is_periodic(ch) || !ch->is_null || !ch->loaded || ch->halted)
		return;
	if (ch->high_next_write || gone < ch->count)
		return;
	load(ch, ch->start + ch->count);
}

static uint16_t count_now(const struct i8254_channel *ch, uint64_t now)
{
	uint64_t gone = i8254_elapsed(ch, now);
	uint32_t wrap = ch->bcd ? 10000 : 0x10000;

	if (!ch->loaded)
		return ch->written;
	if (ch->mode == 2)
		return count_encode(ch, ch->count - (uint32_t)(gone % ch->count));
	/* Counts down by two, twice a period; always even. */
	if (ch->mode == 3)
		return count_encode(
			ch, (ch->count - (uint32_t)(2 * gone % ch->count)) & ~(uint32_t)1);
	return count_encode(ch, (ch->count + wrap - (uint32_t)(gone % wrap)) % wrap);
}

/* ---- the output ---- */

bool i8254_out(const struct i8254_channel *ch, uint64_t now)
{
	uint64_t gone = i8254_elapsed(ch, now);

	/* Before the first count, or in modes 2 and 3 with the gate low. */
	if (!ch->loaded || (i8254_is_periodic(ch) && ch->halted))
		return ch->mode != 0;
	switch (ch->mode) {
	case 0:
	case 1:
		return gone >= ch->count;
	case 2:
		return gone % ch->count != ch->count - 1;
	case 3:
		return gone % ch->count < (ch->count + 1) / 2;
	default: /* one clock low when the count is out */
		return gone != ch->count;
	}
}

uint64_t i8254_next_rise(const struct i8254_channel *ch, uint64_t now)
{
	uint64_t rise = ch->start + ch->count;

	if (!ch->loaded || ch->halted)
		return I8254_NEVER;
	if (i8254_is_periodic(ch) && now >= ch->start)
		return rise + (now - ch->start) / ch->count * ch->count;
	if (ch->mode >= 4)
		rise++;
	return rise > now ? rise : I8254_NEVER;
}

/* ---- commands ---- */

void i8254_reset(struct i8254_channel *ch, bool gate)
{
	*ch = (struct i8254_channel){ .gate = gate, .halted = !gate };
}

static void set_mode(struct i8254_channel *ch, uint8_t value)
{
	uint8_t mode = (value >> 1) & 7;

	*ch = (struct i8254_channel){
		.mode = mode > 5 ? mode - 4 : mode, /* 6 and 7 are 2 and 3 */
		.access = (value >> 4) & 3,
		.bcd = value & 1,
		.gate = ch->gate,
		.is_null = true,
	};
	ch->halted = !ch->gate && !i8254_is_triggered(ch);
}

static void latch_status(struct i8254_channel *ch, uint64_t now)
{
	if (ch->status_latched)
		return;
	ch->status_latched = true;
	ch->latched_status = (uint8_t)((i8254_out(ch, now) ? STATUS_OUT : 0) |
				       (ch->is_null ? STATUS_NULL : 0) | ch->access << 4 |
				       ch->mode << 1 | ch->bcd);
}

/* A second latch before the first was read is ignored. */
static void latch_count(struct i8254_channel *ch, uint64_t now)
{
	if (ch->count_latched)
		return;
	ch->count_latched = true;
	ch->latched_count = count_now(ch, now);
}

unsigned i8254_command(struct i8254_channel ch[I8254_CHANNELS], uint8_t value, uint64_t now)
{
	unsigned index = value >> 6;

	if (index != READBACK && ((value >> 4) & 3) == 0) {
		latch_count(&ch[index], now);
		return 0;
	}
	if (index != READBACK) {
		set_mode(&ch[index], value);
		return 1u << index;
	}
	for (unsigned i = 0; i < I8254_CHANNELS; i++) {
		if (!(value & (2u << i)))
			continue;
		/* Active low: bit 5 count, bit 4 status. */
		if (!(value & 0x20))
			latch_count(&ch[i], now);
		if (!(value & 0x10))
			latch_status(&ch[i], now);
	}
	return 0;
}

/* ---- a channel's port ---- */

/* A whole count is in the register: 231164 "Mode Definitions" for when it is loaded. */
static bool count_written(struct i8254_channel *ch, uint64_t now)
{
	ch->is_null = true;
	if (i8254_is_triggered(ch))
		return false;
	if (i8254_is_periodic(ch) && ch->loaded && !ch->halted) {
		/* i8254_sync() looks for the end of the period in which this happened. */
		ch->start += i8254_elapsed(ch, now) / ch->count * ch->count;
		return false;
	}
	ch->halted = !ch->gate;
	load(ch, now);
	return true;
}

bool i8254_write(struct i8254_channel *ch, uint8_t value, uint64_t now)
{
	switch (ch->access) {
	case I8254_LOW:
		ch->written = value;
		break;
	case I8254_HIGH:
		ch->written = (uint16_t)(value << 8);
		break;
	case I8254_WORD:
		ch->high_next_write = !ch->high_next_write;
		if (ch->high_next_write) {
			ch->low_written = value;
			/* Mode 0 stops between the two bytes. */
			if (ch->mode == 0 && ch->loaded && !ch->halted) {
				ch->start = i8254_elapsed(ch, now);
				ch->halted = true;
			}
			return false;
		}
		ch->written = (uint16_t)(value << 8 | ch->low_written);
		break;
	default: /* no control word yet */
		return false;
	}
	return count_written(ch, now);
}

static uint8_t count_read(struct i8254_channel *ch, uint64_t now)
{
	uint16_t count = ch->count_latched ? ch->latched_count : count_now(ch, now);
	bool high = ch->access == I8254_HIGH;

	if (ch->access == I8254_WORD) {
		high = ch->high_next_read;
		ch->high_next_read = !high;
	}
	/* A latch is spent with its last byte. */
	if (ch->access != I8254_WORD || high)
		ch->count_latched = false;
	return (uint8_t)(high ? count >> 8 : count);
}

uint8_t i8254_read(struct i8254_channel *ch, uint64_t now)
{
	if (!ch->status_latched)
		return count_read(ch, now);
	ch->status_latched = false;
	return ch->latched_status;
}

/* 231164 "Gate Pin Operations". */
void i8254_set_gate(struct i8254_channel *ch, bool gate, uint64_t now)
{
	if (gate == ch->gate)
		return;
	ch->gate = gate;
	if (i8254_is_triggered(ch)) {
		if (gate)
			load(ch, now);
	} else if (!gate) {
		if (ch->loaded && !ch->halted)
			ch->start = i8254_elapsed(ch, now);
		ch->halted = true;
	} else {
		ch->halted = false;
		if (i8254_is_periodic(ch) && ch->loaded)
			load(ch, now);
		else if (ch->loaded)
			ch->start = now - ch->start;
	}
}
