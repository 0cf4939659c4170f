// SPDX-License-Identifier: Apache-2.0
/*
 * hpet.c - IA-PC HPET 1.0a: a 64-bit counter of 10 ns, three comparators.
 *
 * Theory of operation. The counter is the machine's clock divided by ten, plus an offset. A
 * comparator whose interrupt is enabled has a timer for the moment the counter meets it. Hardware
 * compares for equality; a value that the counter has only just passed when it is written counts as
 * met, because a vCPU that is not running cannot help being late.
 *
 * One lock guards all; it is held while lines are set and messages are sent.
 */
#include "hpet.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define TICK_NS	      10u
#define TICK_FS	      10000000ull
#define TIMERS	      3u
#define REGION_SIZE   0x400u
#define MIN_PERIOD    2000u /* ticks: faster than 20 us a period is merged */
#define JUST_MISSED   0x3fffffffull /* ticks: 10 s, a quarter of the 32-bit range */

#define REG_CAPS      0x000
#define REG_CONFIG    0x010
#define REG_STATUS    0x020
#define REG_COUNTER   0x0f0
#define REG_TIMER     0x100
#define TIMER_STRIDE  0x20
#define TIMER_CONFIG  0x00
#define TIMER_COMPARE 0x08
#define TIMER_FSB     0x10

#define CAPS (0x8086ull << 16 | 1ull << 15 | 1ull << 13 | (TIMERS - 1) << 8 | 1 | TICK_FS << 32)

#define CONFIG_ENABLE 1u
#define CONFIG_LEGACY 2u

#define T_LEVEL	       (1ull << 1)
#define T_ENABLE       (1ull << 2)
#define T_PERIODIC     (1ull << 3)
#define T_CAP_PERIODIC (1ull << 4)
#define T_CAP_64BIT    (1ull << 5)
#define T_VAL_SET      (1ull << 6)
#define T_32BIT	       (1ull << 8)
#define T_ROUTE_SHIFT  9
#define T_ROUTE	       (0x1full << T_ROUTE_SHIFT)
#define T_FSB	       (1ull << 14)
#define T_CAP_FSB      (1ull << 15)
/* GSIs that no one else drives. */
#define T_CAP_ROUTES   (0x00f00000ull << 32)
#define T_CAPS	       (T_CAP_PERIODIC | T_CAP_64BIT | T_CAP_FSB | T_CAP_ROUTES)
#define T_WRITABLE     (T_LEVEL | T_ENABLE | T_PERIODIC | T_VAL_SET | T_32BIT | T_ROUTE | T_FSB)

struct hpet_timer {
	struct hpet *hpet;
	unsigned index;
	struct vtimer *timer;
	uint64_t config; /* T_WRITABLE bits */
	uint64_t compare;
	uint64_t period; /* what compare grows by */
	uint64_t fsb;	 /* address << 32 | data */
	bool line;	 /* asserted on its GSI */
	unsigned line_gsi;
};

struct hpet {
	struct hpet_config config;
	struct bus_region region;
	bool on_bus;

	pthread_mutex_t lock; /* what follows */
	struct hpet_timer timers[TIMERS];
	uint64_t flags;	 /* general configuration */
	uint64_t status; /* level-triggered timers that fired */
	uint64_t counter; /* while halted; else what the clock is off by */
};

static bool hpet_is_running(const struct hpet *hpet)
{
	return hpet->flags & CONFIG_ENABLE;
}

static uint64_t clock_ticks(struct hpet *hpet)
{
	return vclock_now_ns(hpet->config.clock) / TICK_NS;
}

static uint64_t counter_now(struct hpet *hpet)
{
	return hpet_is_running(hpet) ? clock_ticks(hpet) + hpet->counter : hpet->counter;
}

static uint64_t timer_mask(const struct hpet_timer *t)
{
	return t->config & T_32BIT ? 0xffffffffull : ~0ull;
}

/* lock held. */
static void timer_line(struct hpet_timer *t, unsigned gsi, bool level)
{
	t->line = level;
	t->line_gsi = gsi;
	irq_set_line(t->hpet->config.irq, gsi, level);
}

/* 1.0a section 2.3.9.1, 2.4.5: legacy replacement beats routing. */
static unsigned timer_gsi(const struct hpet_timer *t)
{
	if ((t->hpet->flags & CONFIG_LEGACY) && t->index < 2)
		return t->index == 0 ? IRQ_GSI_PIT : IRQ_GSI_RTC;
	return (unsigned)((t->config & T_ROUTE) >> T_ROUTE_SHIFT);
}

static bool gsi_is_allowed(const struct hpet_timer *t, unsigned gsi)
{
	if ((t->hpet->flags & CONFIG_LEGACY) && t->index < 2)
		return true;
	return (T_CAP_ROUTES >> 32) & (1ull << gsi);
}

/* lock held. */
static void timer_interrupt(struct hpet_timer *t)
{
	struct hpet *hpet = t->hpet;
	unsigned gsi = timer_gsi(t);
	bool level = t->config & T_LEVEL;

	if (level)
		hpet->status |= 1u << t->index;
	if (!(t->config & T_ENABLE))
		return;
	if (t->config & T_FSB) {
		irq_send_msi(hpet->config.irq, t->fsb >> 32, (uint32_t)t->fsb);
		return;
	}
	if (!gsi_is_allowed(t, gsi))
		return;
	timer_line(t, gsi, true);
	if (!level)
		timer_line(t, gsi, false);
}

/* lock held. Line down where its reason has gone. */
static void timer_line_sync(struct hpet_timer *t)
{
	bool level = (t->config & T_LEVEL) && (t->config & T_ENABLE) && !(t->config & T_FSB) &&
		     (t->hpet->status & (1u << t->index));

	if (t->line && (!level || t->line_gsi != timer_gsi(t)))
		timer_line(t, t->line_gsi, false);
}

/* lock held. */
static void timer_arm_in(struct hpet_timer *t, uint64_t ticks)
{
	uint64_t now = vclock_now_ns(t->hpet->config.clock);
	uint64_t ns = ticks > UINT64_MAX / TICK_NS ? UINT64_MAX : ticks * TICK_NS;

	/* Rounded up to a whole tick of the counter. */
	now = (now + TICK_NS - 1) / TICK_NS * TICK_NS;
	vtimer_arm(t->timer, ns > INT64_MAX - now ? INT64_MAX : now + ns);
}

/* lock held. @written: compare was just written, so it may have been missed by a little. */
static void timer_update(struct hpet_timer *t, bool written)
{
	uint64_t left = (t->compare - counter_now(t->hpet)) & timer_mask(t);

	if (!hpet_is_running(t->hpet) || !(t->config & (T_ENABLE | T_LEVEL))) {
		vtimer_disarm(t->timer);
		return;
	}
	if (left == 0 && !written)
		left = timer_mask(t);
	if (written && ((0 - left) & timer_mask(t)) <= JUST_MISSED)
		left = 0;
	timer_arm_in(t, left);
}

/* lock held. The counter has met compare: the next one, keeping the phase over missed ones. */
static void period_advance(struct hpet_timer *t)
{
	uint64_t late = (counter_now(t->hpet) - t->compare) & timer_mask(t);
	uint64_t next;

	t->compare = (t->compare + (late / t->period + 1) * t->period) & timer_mask(t);
	next = t->period - late % t->period;
	timer_arm_in(t, next < MIN_PERIOD ? MIN_PERIOD : next);
}

static void timer_fired(void *arg)
{
	struct hpet_timer *t = arg;
	struct hpet *hpet = t->hpet;

	pthread_mutex_lock(&hpet->lock);
	if (hpet_is_running(hpet) && (t->config & (T_ENABLE | T_LEVEL))) {
		uint64_t late = (counter_now(hpet) - t->compare) & timer_mask(t);

		/* Overtaken by a write that moved compare ahead? */
		if (late > timer_mask(t) / 2) {
			timer_update(t, false);
		} else {
			timer_interrupt(t);
			if ((t->config & T_PERIODIC) && t->period)
				period_advance(t);
			else
				timer_update(t, false);
		}
	}
	pthread_mutex_unlock(&hpet->lock);
}

/* lock held. */
static uint64_t register_read(struct hpet *hpet, uint64_t off)
{
	unsigned index = (unsigned)((off - REG_TIMER) / TIMER_STRIDE);
	const struct hpet_timer *t = &hpet->timers[index < TIMERS ? index : 0];

	switch (off) {
	case REG_CAPS:
		return CAPS;
	case REG_CONFIG:
		return hpet->flags;
	case REG_STATUS:
		return hpet->status;
	case REG_COUNTER:
		return counter_now(hpet);
	default:
		break;
	}
	if (off < REG_TIMER || index >= TIMERS)
		return 0;
	switch (off % TIMER_STRIDE) {
	case TIMER_CONFIG:
		return t->config | T_CAPS;
	case TIMER_COMPARE:
		return t->compare;
	case TIMER_FSB:
		return t->fsb;
	default:
		return 0;
	}
}

/* lock held. */
static void config_write(struct hpet *hpet, uint64_t value)
{
	uint64_t before = hpet->flags;

	value &= CONFIG_ENABLE | CONFIG_LEGACY;
	if ((value ^ before) & CONFIG_ENABLE) {
		uint64_t counter = counter_now(hpet);

		hpet->counter = value & CONFIG_ENABLE ? counter - clock_ticks(hpet) : counter;
	}
	hpet->flags = value;
	for (unsigned i = 0; i < TIMERS; i++) {
		timer_line_sync(&hpet->timers[i]);
		if ((value ^ before) & CONFIG_ENABLE)
			timer_update(&hpet->timers[i], false);
	}
	if (((value ^ before) & CONFIG_LEGACY) && hpet->config.legacy)
		hpet->config.legacy(hpet->config.arg, value & CONFIG_LEGACY);
}

/* lock held. 1.0a section 2.3.8: in 32-bit mode the upper half reads as zero. */
static void timer_config_write(struct hpet_timer *t, uint64_t value)
{
	t->config = value & T_WRITABLE;
	if (t->config & T_32BIT) {
		t->compare = (uint32_t)t->compare;
		t->period = (uint32_t)t->period;
	}
	timer_line_sync(t);
	timer_update(t, false);
}

/* lock held. 1.0a section 2.3.9.2.2: without VAL_SET a write sets the period of a periodic
 * timer. */
static void compare_write(struct hpet_timer *t, uint64_t value, bool last_half)
{
	value &= timer_mask(t);
	if (!(t->config & T_PERIODIC) || (t->config & T_VAL_SET))
		t->compare = value;
	if (t->config & T_PERIODIC)
		t->period = value;
	/* A 64-bit value may come in two halves. */
	if (last_half)
		t->config &= ~T_VAL_SET;
	timer_update(t, true);
}

/* lock held. */
static void counter_write(struct hpet *hpet, uint64_t value)
{
	hpet->counter = hpet_is_running(hpet) ? value - clock_ticks(hpet) : value;
	for (unsigned i = 0; i < TIMERS; i++)
		timer_update(&hpet->timers[i], false);
}

/* lock held. The register as it is to be; @mask: the bits that were written. */
static void register_write(struct hpet *hpet, uint64_t off, uint64_t value, uint64_t mask)
{
	unsigned index = (unsigned)((off - REG_TIMER) / TIMER_STRIDE);
	struct hpet_timer *t = &hpet->timers[index < TIMERS ? index : 0];

	if (off == REG_CONFIG) {
		config_write(hpet, value);
	} else if (off == REG_STATUS) {
		hpet->status &= ~(value & mask); /* write one to clear */
		for (unsigned i = 0; i < TIMERS; i++)
			timer_line_sync(&hpet->timers[i]);
	} else if (off == REG_COUNTER) {
		counter_write(hpet, value);
	} else if (off >= REG_TIMER && index < TIMERS) {
		if (off % TIMER_STRIDE == TIMER_CONFIG)
			timer_config_write(t, value);
		else if (off % TIMER_STRIDE == TIMER_COMPARE)
			compare_write(t, value, mask >> 32 || (t->config & T_32BIT));
		else if (off % TIMER_STRIDE == TIMER_FSB)
			t->fsb = value;
	}
}

/* 1.0a section 2.3: aligned 32-bit and 64-bit accesses. Others are cut out of the register. */
static uint64_t region_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct hpet *hpet = container_of(region, struct hpet, region);
	uint64_t value;

	pthread_mutex_lock(&hpet->lock);
	value = register_read(hpet, off & ~7ull);
	pthread_mutex_unlock(&hpet->lock);
	return value >> (8 * (off & 7));
}

static void region_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct hpet *hpet = container_of(region, struct hpet, region);
	unsigned shift = 8 * (off & 7);
	uint64_t mask = (size == 8 ? ~0ull : (1ull << (8 * size)) - 1) << shift;
	uint64_t old;

	if (size < 4 || (off & (size - 1)))
		return;
	off &= ~7ull;
	pthread_mutex_lock(&hpet->lock);
	old = register_read(hpet, off);
	/* Halves of the period are joined with the period, not with the moving comparator. */
	if (off >= REG_TIMER && off % TIMER_STRIDE == TIMER_COMPARE &&
	    (off - REG_TIMER) / TIMER_STRIDE < TIMERS) {
		struct hpet_timer *t = &hpet->timers[(off - REG_TIMER) / TIMER_STRIDE];

		if ((t->config & T_PERIODIC) && !(t->config & T_VAL_SET))
			old = t->period;
	}
	register_write(hpet, off, (old & ~mask) | ((value << shift) & mask), mask);
	pthread_mutex_unlock(&hpet->lock);
}

static const struct bus_region_ops region_ops = {.read = region_read, .write = region_write};

void hpet_reset(struct hpet *hpet)
{
	pthread_mutex_lock(&hpet->lock);
	config_write(hpet, 0);
	hpet->counter = 0;
	hpet->status = 0;
	for (unsigned i = 0; i < TIMERS; i++) {
		struct hpet_timer *t = &hpet->timers[i];

		timer_config_write(t, 0);
		t->compare = ~0ull;
		t->period = 0;
		t->fsb = 0;
	}
	pthread_mutex_unlock(&hpet->lock);
}

static const struct state_field timer_fields[] = {
	STATE_UINT(struct hpet_timer, config),
	STATE_UINT(struct hpet_timer, compare),
	STATE_UINT(struct hpet_timer, period),
	STATE_UINT(struct hpet_timer, fsb),
	STATE_BOOL(struct hpet_timer, line),
	STATE_UINT_MAX(struct hpet_timer, line_gsi, IRQ_GSI_COUNT - 1),
	STATE_END,
};

static const struct state_field hpet_fields[] = {
	STATE_GROUPS(struct hpet, timers, timer_fields),
	STATE_UINT_MAX(struct hpet, flags, CONFIG_ENABLE | CONFIG_LEGACY),
	STATE_UINT_MAX(struct hpet, status, (1u << TIMERS) - 1),
	STATE_UINT(struct hpet, counter),
	STATE_END,
};

static const struct state_desc hpet_desc = {"hpet", 1, hpet_fields};

void hpet_save(struct hpet *hpet, GByteArray *out)
{
	pthread_mutex_lock(&hpet->lock);
	state_save(&hpet_desc, hpet, out);
	pthread_mutex_unlock(&hpet->lock);
}

bool hpet_load(struct hpet *hpet, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&hpet->lock);
	ok = state_load(&hpet_desc, hpet, in, err);
	for (unsigned i = 0; i < TIMERS; i++) {
		struct hpet_timer *t = &hpet->timers[i];

		t->config &= T_WRITABLE;
		t->compare &= timer_mask(t);
		t->period &= timer_mask(t);
		/* A merged short period may lie in the past. */
		if (ok)
			timer_update(t, t->config & T_PERIODIC);
	}
	pthread_mutex_unlock(&hpet->lock);
	return ok;
}

struct hpet *hpet_new(const struct hpet_config *config)
{
	struct hpet *hpet = calloc(1, sizeof(*hpet));

	if (!hpet)
		return NULL;
	hpet->config = *config;
	hpet->region = (struct bus_region){.name = "hpet", .space = BUS_MMIO, .base = config->base,
					   .size = REGION_SIZE, .ops = &region_ops};
	pthread_mutex_init(&hpet->lock, NULL);
	for (unsigned i = 0; i < TIMERS; i++) {
		struct hpet_timer *t = &hpet->timers[i];

		t->hpet = hpet;
		t->index = i;
		t->timer = vtimer_new(config->clock, timer_fired, t);
		if (!t->timer)
			goto err;
	}
	hpet_reset(hpet);
	hpet->on_bus = bus_add(config->bus, &hpet->region) == 0;
	if (!hpet->on_bus)
		goto err;
	return hpet;
err:
	hpet_free(hpet);
	return NULL;
}

void hpet_free(struct hpet *hpet)
{
	if (!hpet)
		return;
	if (hpet->on_bus)
		bus_remove(hpet->config.bus, &hpet->region);
	for (unsigned i = 0; i < TIMERS; i++)
		vtimer_free(hpet->timers[i].timer);
	pthread_mutex_destroy(&hpet->lock);
	free(hpet);
}
