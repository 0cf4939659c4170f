// SPDX-License-Identifier: Apache-2.0
/*
 * pit.c - 8254 programmable interval timer (Intel 231164), three channels at 1.193182 MHz.
 *
 * Theory of operation. The channels are chip/i8254.c, in ticks of the machine's clock. Only channel 0 has
 * a timer, for the rising edges of its output. In the periodic modes the output is shown to the interrupt
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
#include "chip/i8254.h"

/* Faster edges than this are merged: a guest may not keep the clock's thread from other work. */
#define MIN_PERIOD_NS 20000u

#define PORT_CONTROL 3u

#define SPEAKER_GATE	0x01
#define SPEAKER_DATA	0x02
#define SPEAKER_REFRESH 0x10
#define SPEAKER_OUT	0x20
/* The refresh request toggles every 15 microseconds; old software measures time with it. */
#define REFRESH_NS 15085u

struct pit {
	struct bus_region region, speaker;
	struct bus *bus;
	struct irq_chip *irq;
	struct vclock *clock;
	struct vtimer *timer;

	pthread_mutex_t lock; /* what follows */
	struct i8254_channel channels[I8254_CHANNELS];
	bool speaker_data;
	bool irq_connected;
	bool line; /* channel 0's output as last shown */
};

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * I8254_HZ / 1000000000u);
}

/* Rounded up, so that the tick has come when the timer fires. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return (uint64_t)(((unsigned __int128)ticks * 1000000000u + I8254_HZ - 1) / I8254_HZ);
}

static uint64_t ticks_now(struct pit *pit)
{
	return ns_to_ticks(vclock_now_ns(pit->clock));
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
	uint64_t rise = i8254_next_rise(&pit->channels[0], now);
	uint64_t now_ns = vclock_now_ns(pit->clock);
	uint64_t deadline;

	if (rise == I8254_NEVER) {
		vtimer_disarm(pit->timer);
		return;
	}
	deadline = ticks_to_ns(rise);
	if (i8254_is_periodic(&pit->channels[0]) && deadline < now_ns + MIN_PERIOD_NS)
		deadline = now_ns + MIN_PERIOD_NS;
	vtimer_arm(pit->timer, deadline);
}

/* The clock's thread: channel 0 rises. */
static void timer_fired(void *arg)
{
	struct pit *pit = arg;
	struct i8254_channel *ch = &pit->channels[0];
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	/* A mode change may have overtaken the timer. */
	if (i8254_is_out(ch, now)) {
		i8254_sync(ch, now);
		if (pit->line)
			line_set(pit, false);
		line_set(pit, true);
	}
	timer_update(pit, now);
	pthread_mutex_unlock(&pit->lock);
}

/* lock held. Its mode or its count was set. */
static void channel0_changed(struct pit *pit, bool out, uint64_t now)
{
	if (pit->line != out)
		line_set(pit, out);
	timer_update(pit, now);
}

static void port_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *pit = container_of(region, struct pit, region);
	struct i8254_channel *ch = &pit->channels[0];
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	for (unsigned i = 0; i < I8254_CHANNELS; i++)
		i8254_sync(&pit->channels[i], now);
	if (off == PORT_CONTROL) {
		if (i8254_command(pit->channels, (uint8_t)value, now) & 1)
			channel0_changed(pit, i8254_out(ch, now), now);
	} else if (i8254_write(&pit->channels[off], (uint8_t)value, now) && off == 0) {
		channel0_changed(pit, pit->line && ch->mode != 0, now);
	}
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t port_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pit *pit = container_of(region, struct pit, region);
	struct i8254_channel *ch;
	uint64_t value, now;

	if (off == PORT_CONTROL) /* write-only */
		return 0xff;
	pthread_mutex_lock(&pit->lock);
	ch = &pit->channels[off];
	now = ticks_now(pit);
	i8254_sync(ch, now);
	value = i8254_read(ch, now);
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void speaker_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct pit *pit = container_of(region, struct pit, speaker);
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	pit->speaker_data = value & SPEAKER_DATA;
	i8254_sync(&pit->channels[2], now);
	i8254_set_gate(&pit->channels[2], value & SPEAKER_GATE, now);
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t speaker_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct pit *pit = container_of(region, struct pit, speaker);
	struct i8254_channel *ch = &pit->channels[2];
	uint64_t value = 0, now;

	pthread_mutex_lock(&pit->lock);
	now = ticks_now(pit);
	i8254_sync(ch, now);
	value |= ch->gate ? SPEAKER_GATE : 0;
	value |= pit->speaker_data ? SPEAKER_DATA : 0;
	value |= i8254_out(ch, now) ? SPEAKER_OUT : 0;
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
	for (unsigned i = 0; i < I8254_CHANNELS; i++)
		i8254_reset(&pit->channels[i], i != 2);
	pit->speaker_data = false;
	pit->irq_connected = true;
	line_set(pit, false);
	vtimer_disarm(pit->timer);
	pthread_mutex_unlock(&pit->lock);
}

static const struct state_field channel_fields[] = {
	STATE_UINT_MAX(struct i8254_channel, mode, 5),
	STATE_UINT_MAX(struct i8254_channel, access, I8254_WORD),
	STATE_BOOL(struct i8254_channel, bcd),
	STATE_BOOL(struct i8254_channel, gate),
	STATE_BOOL(struct i8254_channel, high_next_write),
	STATE_BOOL(struct i8254_channel, high_next_read),
	STATE_UINT(struct i8254_channel, low_written),
	STATE_UINT(struct i8254_channel, written),
	STATE_BOOL(struct i8254_channel, is_null),
	STATE_BOOL(struct i8254_channel, loaded),
	STATE_UINT_MAX(struct i8254_channel, count, 0x10000),
	STATE_UINT_MAX(struct i8254_channel, start, INT64_MAX),
	STATE_BOOL(struct i8254_channel, halted),
	STATE_BOOL(struct i8254_channel, count_latched),
	STATE_BOOL(struct i8254_channel, status_latched),
	STATE_UINT(struct i8254_channel, latched_count),
	STATE_UINT(struct i8254_channel, latched_status),
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
	for (unsigned i = 0; i < I8254_CHANNELS; i++)
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
