// SPDX-License-Identifier: Apache-2.0
/*
 * pit.c - 8254 programmable interval timer (Intel 231164), three channels at 1.193182 MHz.
 *
 * Theory of operation. Nothing counts: a channel remembers the tick at which its counting element
 * was last loaded, and count and output follow from the ticks gone by. Only channel 0 has a timer,
 * for the rising edges of its output. In the periodic modes the output is shown to the interrupt
 * controllers as one pulse per period, because they look at edges only.
 *
 * One lock guards all; it is held while the interrupt line is set.
 */
#include "pit.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define PIT_HZ	 1193182u
#define CHANNELS 3u

/* Faster edges than this are merged: a guest may not keep the clock's thread from other work. */
#define MIN_PERIOD_NS 20000u

#define PORT_CONTROL 3u
#define READBACK     3u /* the channel bits of a read-back command */

#define STATUS_OUT  0x80
#define STATUS_NULL 0x40

#define SPEAKER_GATE	0x01
#define SPEAKER_DATA	0x02
#define SPEAKER_REFRESH 0x10
#define SPEAKER_OUT	0x20
/* The refresh request toggles every 15 microseconds; old software measures time with it. */
#define REFRESH_NS 15085u

enum pit_access { ACCESS_LOW = 1, ACCESS_HIGH, ACCESS_WORD };

struct pit_channel {
	uint8_t mode;	/* 0..5 */
	uint8_t access; /* enum pit_access */
	bool bcd;
	bool gate;

	bool high_next_write, high_next_read; /* of ACCESS_WORD */
	uint8_t low_written;
	uint16_t written; /* count register */
	bool is_null;	  /* written is not in the counting element yet */

	bool loaded;	 /* the counting element has a count */
	uint32_t count;	 /* 1..65536 */
	uint64_t start;	 /* tick of the load; while halted, ticks counted before */
	bool halted;	 /* gate low in modes 0, 2, 3, 4, or a half-written count */

	bool count_latched, status_latched;
	uint16_t latched_count;
	uint8_t latched_status;
};

struct pit {
	struct bus_region region, speaker;
	struct bus *bus;
	struct irq_chip *irq;
	struct vclock *clock;
	struct vtimer *timer;

	pthread_mutex_t lock; /* what follows */
	struct pit_channel channels[CHANNELS];
	bool speaker_data;
	bool irq_connected;
	bool line; /* channel 0's output as last shown */
};

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

/* Rounded up, so that the tick has come when the timer fires. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * 1000000000u + PIT_HZ - 1) / PIT_HZ);
}

static uint64_t ticks_now(struct pit *pit)
{
	return ns_to_ticks(vclock_now_ns(pit->clock));
}

static bool mode_is_periodic(const struct pit_channel *ch)
{
	return ch->mode == 2 || ch->mode == 3;
}

static bool mode_is_triggered(const struct pit_channel *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

/* The written count as a number: zero is the largest. */
static uint32_t count_decode(const struct pit_channel *ch)
{
	uint32_t v = ch->written;

	if (!ch->bcd)
		return v ? v : 0x10000;
	v = (v & 0xf) + ((v >> 4) & 0xf) * 10 + ((v >> 8) & 0xf) * 100 + (v >> 12) * 1000;
	return v ? v : 10000;
}

static uint16_t count_encode(const struct pit_channel *ch, uint32_t v)
{
	if (!ch->bcd)
		return (uint16_t)v;
	v %= 10000;
	return (uint16_t)((v % 10) | (v / 10 % 10) << 4 | (v / 100 % 10) << 8 | (v / 1000) << 12);
}

static void channel_load(struct pit_channel *ch, uint64_t now)
{
	ch->count = count_decode(ch);
	ch->is_null = false;
	ch->loaded = true;
	ch->start = ch->halted ? 0 : now;
}

static uint64_t elapsed(const struct pit_channel *ch, uint64_t now)
{
	return ch->halted ? ch->start : now - ch->start;
}

/* A count written while a period runs takes over when it ends. */
static void channel_sync(struct pit_channel *ch, uint64_t now)
{
	uint64_t gone = elapsed(ch, now);

	if (!mode_is_periodic(ch) || !ch->is_null || !ch->loaded || ch->halted)
		return;
	if (ch->high_next_write || gone < ch->count)
		return;
	channel_load(ch, ch->start + ch->count);
}

static uint16_t channel_count(const struct pit_channel *ch, uint64_t now)
{
	uint64_t gone = elapsed(ch, now);
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

static bool channel_out(const struct pit_channel *ch, uint64_t now)
{
	uint64_t gone = elapsed(ch, now);

	/* Before the first count, or in modes 2 and 3 with the gate low. */
	if (!ch->loaded || (mode_is_periodic(ch) && ch->halted))
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

/* The first tick after @now at which the output rises; UINT64_MAX for never. */
static uint64_t channel_next_rise(const struct pit_channel *ch, uint64_t now)
{
	uint64_t rise = ch->start + ch->count;

	if (!ch->loaded || ch->halted)
		return UINT64_MAX;
	if (mode_is_periodic(ch) && now >= ch->start)
		return rise + (now - ch->start) / ch->count * ch->count;
	if (ch->mode >= 4)
		rise++;
	return rise > now ? rise : UINT64_MAX;
}

/* lock held. */
static void line_set(struct pit *pit, bool level)
{
	pit->line = level;
	if (pit->irq_connected)
		irq_set_line(pit->irq, IRQ_GSI_PIT, level);
}

/* lock held. */
static void timer_update(struct pit *pit, uint64_t now)
{
	uint64_t rise = channel_next_rise(&pit->channels[0], now);
	uint64_t now_ns = vclock_now_ns(pit->clock);
	uint64_t deadline;

	if (rise == UINT64_MAX) {
		vtimer_disarm(pit->timer);
		return;
	}
	deadline = ticks_to_ns(rise);
	if (mode_is_periodic(&pit->channels[0]) && deadline < now_ns + MIN_PERIOD_NS)
		deadline = now_ns + MIN_PERIOD_NS;
	vtimer_arm(pit->timer, deadline);
}

/* The clock's thread: channel 0 rises. */
static void timer_fired(void *arg)
{
	struct pit *pit = arg;
	struct pit_channel *ch = &pit->channels[0];
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	/* A mode change may have overtaken the timer. */
	if (ch->loaded && !ch->halted && elapsed(ch, now) >= ch->count) {
		channel_sync(ch, now);
		if (pit->line)
			line_set(pit, false);
		line_set(pit, true);
	}
	timer_update(pit, now);
	pthread_mutex_unlock(&pit->lock);
}

static void control_write(struct pit *pit, unsigned index, uint8_t value, uint64_t now)
{
	struct pit_channel *ch = &pit->channels[index];
	bool gate = ch->gate;
	uint8_t mode = (value >> 1) & 7;

	*ch = (struct pit_channel){
		.mode = mode > 5 ? mode - 4 : mode, /* 6 and 7 are 2 and 3 */
		.access = (value >> 4) & 3,
		.bcd = value & 1,
		.gate = gate,
		.is_null = true,
	};
	ch->halted = !gate && !mode_is_triggered(ch);
	if (index == 0) {
		if (pit->line != channel_out(ch, now))
			line_set(pit, !pit->line);
		timer_update(pit, now);
	}
}

static void status_latch(struct pit_channel *ch, uint64_t now)
{
	if (ch->status_latched)
		return;
	ch->status_latched = true;
	ch->latched_status = (uint8_t)((channel_out(ch, now) ? STATUS_OUT : 0) |
				       (ch->is_null ? STATUS_NULL : 0) | ch->access << 4 |
				       ch->mode << 1 | ch->bcd);
}

/* A second latch before the first was read is ignored. */
static void count_latch(struct pit_channel *ch, uint64_t now)
{
	if (ch->count_latched)
		return;
	ch->count_latched = true;
	ch->latched_count = channel_count(ch, now);
}

static void command_write(struct pit *pit, uint8_t value, uint64_t now)
{
	unsigned index = value >> 6;

	if (index != READBACK) {
		if (((value >> 4) & 3) == 0)
			count_latch(&pit->channels[index], now);
		else
			control_write(pit, index, value, now);
		return;
	}
	for (unsigned i = 0; i < CHANNELS; i++) {
		if (!(value & (2u << i)))
			continue;
		/* Active low: bit 5 count, bit 4 status. */
		if (!(value & 0x20))
			count_latch(&pit->channels[i], now);
		if (!(value & 0x10))
			status_latch(&pit->channels[i], now);
	}
}

/* A whole count is in the register: 231164 "Mode Definitions" for when it is loaded. */
static void count_written(struct pit *pit, unsigned index, uint64_t now)
{
	struct pit_channel *ch = &pit->channels[index];

	ch->is_null = true;
	if (mode_is_triggered(ch))
		return;
	if (mode_is_periodic(ch) && ch->loaded && !ch->halted) {
		/* channel_sync() looks for the end of the period in which this happened. */
		ch->start += elapsed(ch, now) / ch->count * ch->count;
		return;
	}
	ch->halted = !ch->gate;
	channel_load(ch, now);
	if (index)
		return;
	if (ch->mode == 0 && pit->line)
		line_set(pit, false);
	timer_update(pit, now);
}

static void count_write(struct pit *pit, unsigned index, uint8_t value, uint64_t now)
{
	struct pit_channel *ch = &pit->channels[index];

	switch (ch->access) {
	case ACCESS_LOW:
		ch->written = value;
		break;
	case ACCESS_HIGH:
		ch->written = (uint16_t)(value << 8);
		break;
	case ACCESS_WORD:
		ch->high_next_write = !ch->high_next_write;
		if (ch->high_next_write) {
			ch->low_written = value;
			/* Mode 0 stops between the two bytes. */
			if (ch->mode == 0 && ch->loaded && !ch->halted) {
				ch->start = elapsed(ch, now);
				ch->halted = true;
			}
			return;
		}
		ch->written = (uint16_t)(value << 8 | ch->low_written);
		break;
	default: /* no control word yet */
		return;
	}
	count_written(pit, index, now);
}

static void port_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *pit = container_of(region, struct pit, region);
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	for (unsigned i = 0; i < CHANNELS; i++)
		channel_sync(&pit->channels[i], now);
	if (off == PORT_CONTROL)
		command_write(pit, (uint8_t)value, now);
	else
		count_write(pit, (unsigned)off, (uint8_t)value, now);
	pthread_mutex_unlock(&pit->lock);
}

static uint8_t count_read(struct pit_channel *ch, uint64_t now)
{
	uint16_t count = ch->count_latched ? ch->latched_count : channel_count(ch, now);
	bool high = ch->access == ACCESS_HIGH;

	if (ch->access == ACCESS_WORD) {
		high = ch->high_next_read;
		ch->high_next_read = !high;
	}
	/* A latch is spent with its last byte. */
	if (ch->access != ACCESS_WORD || high)
		ch->count_latched = false;
	return (uint8_t)(high ? count >> 8 : count);
}

static uint64_t port_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pit *pit = container_of(region, struct pit, region);
	struct pit_channel *ch;
	uint64_t value, now;

	if (off == PORT_CONTROL) /* write-only */
		return 0xff;
	pthread_mutex_lock(&pit->lock);
	ch = &pit->channels[off];
	now = ticks_now(pit);
	channel_sync(ch, now);
	if (ch->status_latched) {
		ch->status_latched = false;
		value = ch->latched_status;
	} else {
		value = count_read(ch, now);
	}
	pthread_mutex_unlock(&pit->lock);
	return value;
}

/* lock held. 231164 "Gate Pin Operations". */
static void gate_set(struct pit *pit, unsigned index, bool gate)
{
	struct pit_channel *ch = &pit->channels[index];
	uint64_t now = ticks_now(pit);

	channel_sync(ch, now);
	if (gate == ch->gate)
		return;
	ch->gate = gate;
	if (mode_is_triggered(ch)) {
		if (gate)
			channel_load(ch, now);
	} else if (!gate) {
		if (ch->loaded && !ch->halted)
			ch->start = elapsed(ch, now);
		ch->halted = true;
	} else {
		ch->halted = false;
		if (mode_is_periodic(ch) && ch->loaded)
			channel_load(ch, now);
		else if (ch->loaded)
			ch->start = now - ch->start;
	}
}

static void speaker_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *pit = container_of(region, struct pit, speaker);

	pthread_mutex_lock(&pit->lock);
	pit->speaker_data = value & SPEAKER_DATA;
	gate_set(pit, 2, value & SPEAKER_GATE);
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t speaker_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pit *pit = container_of(region, struct pit, speaker);
	struct pit_channel *ch = &pit->channels[2];
	uint64_t value = 0, now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	channel_sync(ch, now);
	value |= ch->gate ? SPEAKER_GATE : 0;
	value |= pit->speaker_data ? SPEAKER_DATA : 0;
	value |= channel_out(ch, now) ? SPEAKER_OUT : 0;
	value |= vclock_now_ns(pit->clock) / REFRESH_NS % 2 ? SPEAKER_REFRESH : 0;
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static const struct bus_region_ops port_ops = {
	.read = port_read, .write = port_write, .max_size = 1};
static const struct bus_region_ops speaker_ops = {
	.read = speaker_read, .write = speaker_write, .max_size = 1};

void pit_connect_irq(struct pit *pit, bool connected)
{
	pthread_mutex_lock(&pit->lock);
	/* The line is the HPET's from here on, or was until here: show our side of it. */
	if (pit->irq_connected != connected) {
		irq_set_line(pit->irq, IRQ_GSI_PIT, connected && pit->line);
		pit->irq_connected = connected;
	}
	pthread_mutex_unlock(&pit->lock);
}

void pit_reset(struct pit *pit)
{
	pthread_mutex_lock(&pit->lock);
	for (unsigned i = 0; i < CHANNELS; i++)
		pit->channels[i] = (struct pit_channel){.gate = i != 2, .halted = i == 2};
	pit->speaker_data = false;
	pit->irq_connected = true;
	line_set(pit, false);
	vtimer_disarm(pit->timer);
	pthread_mutex_unlock(&pit->lock);
}

static const struct state_field channel_fields[] = {
	STATE_UINT_MAX(struct pit_channel, mode, 5),
	STATE_UINT_MAX(struct pit_channel, access, ACCESS_WORD),
	STATE_BOOL(struct pit_channel, bcd),
	STATE_BOOL(struct pit_channel, gate),
	STATE_BOOL(struct pit_channel, high_next_write),
	STATE_BOOL(struct pit_channel, high_next_read),
	STATE_UINT(struct pit_channel, low_written),
	STATE_UINT(struct pit_channel, written),
	STATE_BOOL(struct pit_channel, is_null),
	STATE_BOOL(struct pit_channel, loaded),
	STATE_UINT_MAX(struct pit_channel, count, 0x10000),
	STATE_UINT_MAX(struct pit_channel, start, INT64_MAX),
	STATE_BOOL(struct pit_channel, halted),
	STATE_BOOL(struct pit_channel, count_latched),
	STATE_BOOL(struct pit_channel, status_latched),
	STATE_UINT(struct pit_channel, latched_count),
	STATE_UINT(struct pit_channel, latched_status),
	STATE_END,
};

static const struct state_field pit_fields[] = {
	STATE_GROUPS(struct pit, channels, channel_fields),
	STATE_BOOL(struct pit, speaker_data),
	STATE_BOOL(struct pit, irq_connected),
	STATE_BOOL(struct pit, line),
	STATE_END,
};

static const struct state_desc pit_desc = {"pit", 1, pit_fields};

void pit_save(struct pit *pit, GByteArray *out)
{
	pthread_mutex_lock(&pit->lock);
	state_save(&pit_desc, pit, out);
	pthread_mutex_unlock(&pit->lock);
}

bool pit_load(struct pit *pit, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&pit->lock);
	ok = state_load(&pit_desc, pit, in, err);
	/* A loaded count divides. */
	for (unsigned i = 0; i < CHANNELS; i++)
		pit->channels[i].loaded &= pit->channels[i].count > 0;
	if (ok)
		timer_update(pit, ticks_now(pit));
	pthread_mutex_unlock(&pit->lock);
	return ok;
}

struct pit *pit_new(struct bus *bus, struct irq_chip *irq, struct vclock *clock)
{
	struct pit *pit = calloc(1, sizeof(*pit));

	if (!pit)
		return NULL;
	pit->irq = irq;
	pit->clock = clock;
	pit->region = (struct bus_region){
		.name = "pit", .space = BUS_PIO, .base = 0x40, .size = 4, .ops = &port_ops};
	pit->speaker = (struct bus_region){
		.name = "speaker", .space = BUS_PIO, .base = 0x61, .size = 1, .ops = &speaker_ops};
	pthread_mutex_init(&pit->lock, NULL);
	pit->timer = vtimer_new(clock, timer_fired, pit);
	if (!pit->timer)
		goto err;
	pit_reset(pit);
	if (bus_add(bus, &pit->region) < 0)
		goto err;
	pit->bus = bus;
	if (bus_add(bus, &pit->speaker) < 0)
		goto err;
	return pit;
err:
	pit_free(pit);
	return NULL;
}

void pit_free(struct pit *pit)
{
	if (!pit)
		return;
	if (pit->bus) {
		bus_remove(pit->bus, &pit->speaker);
		bus_remove(pit->bus, &pit->region);
	}
	vtimer_free(pit->timer);
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}
