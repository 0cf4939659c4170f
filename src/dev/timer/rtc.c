// SPDX-License-Identifier: Apache-2.0
/*
 * rtc.c - MC146818 real-time clock with 256 bytes of CMOS memory.
 *
 * Theory of operation. Time of day is not counted: it is the host's UTC plus offset_s, taken when
 * the guest looks. While SET stops the clock, the time registers are plain bytes; when it is
 * cleared they are turned into a new offset. Flags that a ticking chip would have set (update
 * ended, alarm, periodic) are derived from the time that went by since the guest last read register
 * C; a timer exists only for those that may interrupt.
 */
#include "rtc.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/bits.h"
#include "base/state.h"
#include "base/units.h"
#include "base/vclock.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define BANK_BYTES 128u

enum {
	REG_SECOND = 0x00,
	REG_SECOND_ALARM = 0x01,
	REG_MINUTE = 0x02,
	REG_MINUTE_ALARM = 0x03,
	REG_HOUR = 0x04,
	REG_HOUR_ALARM = 0x05,
	REG_WEEKDAY = 0x06,
	REG_DAY = 0x07,
	REG_MONTH = 0x08,
	REG_YEAR = 0x09,
	REG_A = 0x0a,
	REG_B = 0x0b,
	REG_C = 0x0c,
	REG_D = 0x0d,
	REG_CENTURY = 0x32,
};

#define A_UIP	     0x80
#define A_RATE	     0x0f
#define A_DIVIDER    0x70
#define A_RESET_MASK 0x60 /* dividers held in reset */
#define B_SET	     0x80
#define B_PIE	     0x40
#define B_AIE	     0x20
#define B_UIE	     0x10
#define B_BINARY     0x04
#define B_24H	     0x02
#define C_IRQF	     0x80
#define C_PF	     0x40
#define C_AF	     0x20
#define C_UF	     0x10
#define D_VRT	     0x80

#define HOUR_PM	      0x80
#define ALARM_ANY     0xc0 /* both top bits set: matches always */
#define NS_PER_S      1000000000ll
#define UIP_NS	      244000 /* data sheet: UIP rises 244 us before the update */
#define PERIODIC_HZ   32768u
#define SECONDS_A_DAY 86400
#define OFFSET_LIMIT  (1ll << 40) /* seconds: what all the registers can hold is less */

struct rtc {
	struct rtc_config config;
	struct bus_region region;
	bool on_bus;
	struct vtimer *second_timer, *periodic_timer;

	pthread_mutex_t lock; /* what follows; held while the line is set */
	uint8_t index[2];     /* of each bank */
	uint8_t cmos[2 * BANK_BYTES];
	int64_t offset_s;    /* guest's time minus host's UTC */
	int64_t seen_second; /* up to here UF and AF are in register C */
	uint64_t seen_ticks; /* up to here PF is, in 32768ths of a second */
	bool irq_connected;
	bool line;
};

static int64_t host_utc_ns(void *arg)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

/* lock held for the rest of the file, up to the port handlers. */

static int64_t utc_ns(struct rtc *rtc)
{
	return rtc->config.utc_ns(rtc->config.utc_arg);
}

static int64_t guest_second(struct rtc *rtc)
{
	return utc_ns(rtc) / NS_PER_S + rtc->offset_s;
}

static bool clock_is_stopped(const struct rtc *rtc)
{
	return (rtc->cmos[REG_B] & B_SET) ||
	       (rtc->cmos[REG_A] & A_RESET_MASK) == A_RESET_MASK;
}

static uint8_t encode(const struct rtc *rtc, int v)
{
	return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static int decode(const struct rtc *rtc, uint8_t v)
{
	return rtc->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 0xf);
}

static uint8_t hour_encode(const struct rtc *rtc, int hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int hour_decode(const struct rtc *rtc, uint8_t v)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, v);
	return decode(rtc, v & (uint8_t)~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Time into the registers. */
static void registers_fill(struct rtc *rtc)
{
	time_t now = (time_t)guest_second(rtc);
	struct tm tm = {0};
	int year;

	if (!gmtime_r(&now, &tm))
		return;
	/* The registers hold four digits, a guest's offset may lead outside of them either way. */
	year = ((tm.tm_year + 1900) % 10000 + 10000) % 10000;
	rtc->cmos[REG_SECOND] = encode(rtc, tm.tm_sec);
	rtc->cmos[REG_MINUTE] = encode(rtc, tm.tm_min);
	rtc->cmos[REG_HOUR] = hour_encode(rtc, tm.tm_hour);
	rtc->cmos[REG_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
	rtc->cmos[REG_DAY] = encode(rtc, tm.tm_mday);
	rtc->cmos[REG_MONTH] = encode(rtc, tm.tm_mon + 1);
	rtc->cmos[REG_YEAR] = encode(rtc, year % 100);
	rtc->cmos[REG_CENTURY] = encode(rtc, year / 100);
}

/* Registers into the offset. timegm() normalises whatever nonsense they hold. */
static void registers_take(struct rtc *rtc)
{
	struct tm tm = {
		.tm_sec = decode(rtc, rtc->cmos[REG_SECOND]),
		.tm_min = decode(rtc, rtc->cmos[REG_MINUTE]),
		.tm_hour = hour_decode(rtc, rtc->cmos[REG_HOUR]),
		.tm_mday = decode(rtc, rtc->cmos[REG_DAY]),
		.tm_mon = decode(rtc, rtc->cmos[REG_MONTH]) - 1,
		.tm_year = decode(rtc, rtc->cmos[REG_CENTURY]) * 100 +
			   decode(rtc, rtc->cmos[REG_YEAR]) - 1900,
	};

	rtc->offset_s = (int64_t)timegm(&tm) - utc_ns(rtc) / NS_PER_S;
	rtc->seen_second = guest_second(rtc);
}

static bool field_matches(const struct rtc *rtc, uint8_t alarm, int alarm_value, int value)
{
	return (alarm & ALARM_ANY) == ALARM_ANY || alarm_value == value;
}

/* The first second after @from at which the alarm goes off; INT64_MAX if it never does. */
static int64_t next_alarm(const struct rtc *rtc, int64_t from)
{
	uint8_t s = rtc->cmos[REG_SECOND_ALARM], m = rtc->cmos[REG_MINUTE_ALARM];
	uint8_t h = rtc->cmos[REG_HOUR_ALARM];
	int64_t t = from + 1, end = from + 1 + SECONDS_A_DAY;

	/* Skips whole hours and minutes: at most 24 + 60 + 60 steps. */
	while (t < end) {
		int day_second = (int)(((t % SECONDS_A_DAY) + SECONDS_A_DAY) % SECONDS_A_DAY);

		if (!field_matches(rtc, h, hour_decode(rtc, h), day_second / 3600))
			t += 3600 - day_second % 3600;
		else if (!field_matches(rtc, m, decode(rtc, m), day_second / 60 % 60))
			t += 60 - day_second % 60;
		else if (!field_matches(rtc, s, decode(rtc, s), day_second % 60))
			t++;
		else
			return t;
	}
	return INT64_MAX;
}

/* Ticks of 1/32768 s between periodic interrupts, 0 for none. Data sheet table 5. */
static uint64_t periodic_ticks(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (rate == 0 || (rtc->cmos[REG_A] & A_RESET_MASK) == A_RESET_MASK)
		return 0;
	/* With a 32 kHz crystal rates 1 and 2 are those of 8 and 9. */
	return 1ull << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static uint64_t ticks_now(struct rtc *rtc)
{
	uint64_t ns = vclock_now_ns(rtc->config.clock);

	return (uint64_t)((unsigned __int128)ns * PERIODIC_HZ / NS_PER_S);
}

/* Bring the flags in register C up to now. */
static void flags_sync(struct rtc *rtc)
{
	int64_t second = guest_second(rtc);
	uint64_t ticks = ticks_now(rtc), period = periodic_ticks(rtc);

	if (!clock_is_stopped(rtc) && second > rtc->seen_second) {
		rtc->cmos[REG_C] |= C_UF;
		if (next_alarm(rtc, rtc->seen_second) <= second)
			rtc->cmos[REG_C] |= C_AF;
	}
	rtc->seen_second = second;
	if (period && ticks / period != rtc->seen_ticks / period)
		rtc->cmos[REG_C] |= C_PF;
	rtc->seen_ticks = ticks;
}

static void line_update(struct rtc *rtc)
{
	bool level = rtc->cmos[REG_C] & rtc->cmos[REG_B] & (C_PF | C_AF | C_UF);

	if (level)
		rtc->cmos[REG_C] |= C_IRQF;
	if (level == rtc->line)
		return;
	rtc->line = level;
	if (rtc->irq_connected)
		irq_set_line(rtc->config.irq, IRQ_GSI_RTC, level);
}

static void second_timer_arm(struct rtc *rtc)
{
	int64_t now = utc_ns(rtc), second = now / NS_PER_S + rtc->offset_s;
	int64_t next = second + 1;

	if (clock_is_stopped(rtc) || !(rtc->cmos[REG_B] & (B_UIE | B_AIE))) {
		vtimer_disarm(rtc->second_timer);
		return;
	}
	if (!(rtc->cmos[REG_B] & B_UIE))
		next = next_alarm(rtc, second);
	if (next == INT64_MAX) {
		vtimer_disarm(rtc->second_timer);
		return;
	}
	vtimer_arm(rtc->second_timer,
		   vclock_now_ns(rtc->config.clock) +
			   (uint64_t)((next - rtc->offset_s) * NS_PER_S - now));
}

static void periodic_timer_arm(struct rtc *rtc)
{
	uint64_t period = periodic_ticks(rtc);
	unsigned __int128 next;

	if (!period || !(rtc->cmos[REG_B] & B_PIE)) {
		vtimer_disarm(rtc->periodic_timer);
		return;
	}
	next = (ticks_now(rtc) / period + 1) * period;
	/* Rounded up, so that the tick has come when the timer fires. */
	next = (next * NS_PER_S + PERIODIC_HZ - 1) / PERIODIC_HZ;
	vtimer_arm(rtc->periodic_timer, (uint64_t)next);
}

static void second_fired(void *arg)
{
	struct rtc *rtc = arg;

	pthread_mutex_lock(&rtc->lock);
	flags_sync(rtc);
	line_update(rtc);
	second_timer_arm(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static void periodic_fired(void *arg)
{
	struct rtc *rtc = arg;

	pthread_mutex_lock(&rtc->lock);
	flags_sync(rtc);
	line_update(rtc);
	periodic_timer_arm(rtc);
	pthread_mutex_unlock(&rtc->lock);
}

static bool is_time_register(unsigned reg)
{
	return reg == REG_CENTURY || reg == REG_SECOND || reg == REG_MINUTE || reg == REG_HOUR ||
	       (reg >= REG_WEEKDAY && reg <= REG_YEAR);
}

static void control_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
	bool stopped = clock_is_stopped(rtc);

	flags_sync(rtc);
	if (reg == REG_B && (value & B_SET)) {
		/* The registers freeze at the time they show; UIE is cleared with SET. */
		if (!stopped)
			registers_fill(rtc);
		value &= (uint8_t)~B_UIE;
	} else if (!stopped) {
		registers_fill(rtc);
	}
	rtc->cmos[reg] = reg == REG_A ? value & (uint8_t)~A_UIP : value;
	if (stopped && !clock_is_stopped(rtc))
		registers_take(rtc);
	line_update(rtc);
	second_timer_arm(rtc);
	periodic_timer_arm(rtc);
}

static void cmos_write(struct rtc *rtc, unsigned reg, uint8_t value)
{
	if (reg == REG_A || reg == REG_B) {
		control_write(rtc, reg, value);
		return;
	}
	if (reg == REG_C || reg == REG_D)
		return;
	if (!is_time_register(reg)) {
		rtc->cmos[reg] = value;
		if (reg <= REG_HOUR_ALARM)
			second_timer_arm(rtc);
		return;
	}
	/* Setting one register of a running clock moves the clock by that much. */
	if (!clock_is_stopped(rtc)) {
		flags_sync(rtc);
		registers_fill(rtc);
		rtc->cmos[reg] = value;
		registers_take(rtc);
		second_timer_arm(rtc);
	} else {
		rtc->cmos[reg] = value;
	}
}

static uint8_t cmos_read(struct rtc *rtc, unsigned reg)
{
	uint8_t value;

	if (is_time_register(reg) && !clock_is_stopped(rtc))
		registers_fill(rtc);
	value = rtc->cmos[reg];
	switch (reg) {
	case REG_A:
		if (!clock_is_stopped(rtc) && utc_ns(rtc) % NS_PER_S >= NS_PER_S - UIP_NS)
			value |= A_UIP;
		break;
	case REG_C: /* reading acknowledges all */
		flags_sync(rtc);
		line_update(rtc);
		value = rtc->cmos[REG_C];
		rtc->cmos[REG_C] = 0;
		line_update(rtc);
		break;
	case REG_D:
		value = D_VRT;
		break;
	default:
		break;
	}
	return value;
}

static uint64_t port_read(struct bus_region *region, uint64_t off, unsigned size)
{
	struct rtc *rtc = container_of(region, struct rtc, region);
	unsigned bank = (unsigned)off / 2;
	uint64_t value = 0xff;

	if ((off & 1) == 0) /* the index registers are write-only */
		return 0xff;
	pthread_mutex_lock(&rtc->lock);
	value = cmos_read(rtc, bank * BANK_BYTES + rtc->index[bank]);
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void port_write(struct bus_region *region, uint64_t off, unsigned size, uint64_t value)
{
	struct rtc *rtc = container_of(region, struct rtc, region);
	unsigned bank = (unsigned)off / 2;

	pthread_mutex_lock(&rtc->lock);
	if (off & 1)
		cmos_write(rtc, bank * BANK_BYTES + rtc->index[bank], (uint8_t)value);
	else
		rtc->index[bank] = value & 0x7f; /* bit 7 would mask NMIs */
	pthread_mutex_unlock(&rtc->lock);
}

static const struct bus_region_ops port_ops = {
	.read = port_read, .write = port_write, .max_size = 1};

/* Where firmware looks for the size of memory. */
static void memory_size_fill(struct rtc *rtc)
{
	uint64_t low = rtc->config.ram_low;
	uint64_t extended_kib = low > MIB ? (low - MIB) / KIB : 0;
	uint64_t above_16m = low > 16 * MIB ? (low - 16 * MIB) / (64 * KIB) : 0;
	uint64_t high = rtc->config.ram_high / (64 * KIB);

	if (extended_kib > 0xffff)
		extended_kib = 0xffff;
	if (above_16m > 0xffff)
		above_16m = 0xffff;
	store_le16(&rtc->cmos[0x15], 640);
	store_le16(&rtc->cmos[0x17], (uint16_t)extended_kib);
	store_le16(&rtc->cmos[0x30], (uint16_t)extended_kib);
	store_le16(&rtc->cmos[0x34], (uint16_t)above_16m);
	rtc->cmos[0x5b] = (uint8_t)high;
	rtc->cmos[0x5c] = (uint8_t)(high >> 8);
	rtc->cmos[0x5d] = (uint8_t)(high >> 16);
	rtc->cmos[0x14] = 0x02; /* equipment: a floating-point unit */
}

void rtc_connect_irq(struct rtc *rtc, bool connected)
{
	pthread_mutex_lock(&rtc->lock);
	if (rtc->irq_connected != connected) {
		irq_set_line(rtc->config.irq, IRQ_GSI_RTC, connected && rtc->line);
		rtc->irq_connected = connected;
	}
	pthread_mutex_unlock(&rtc->lock);
}

void rtc_reset(struct rtc *rtc)
{
	pthread_mutex_lock(&rtc->lock);
	control_write(rtc, REG_B, rtc->cmos[REG_B] & (B_BINARY | B_24H));
	rtc->cmos[REG_C] = 0;
	rtc->index[0] = rtc->index[1] = 0;
	line_update(rtc);
	rtc->irq_connected = true;
	pthread_mutex_unlock(&rtc->lock);
}

static const struct state_field rtc_fields[] = {
	STATE_ARRAY(struct rtc, index),
	STATE_ARRAY(struct rtc, cmos),
	STATE_UINT(struct rtc, offset_s),
	STATE_UINT(struct rtc, seen_second),
	STATE_UINT_MAX(struct rtc, seen_ticks, INT64_MAX),
	STATE_BOOL(struct rtc, irq_connected),
	STATE_BOOL(struct rtc, line),
	STATE_END,
};

static const struct state_desc rtc_desc = {"rtc", 1, rtc_fields};

void rtc_save(struct rtc *rtc, GByteArray *out)
{
	pthread_mutex_lock(&rtc->lock);
	if (!clock_is_stopped(rtc))
		registers_fill(rtc);
	state_save(&rtc_desc, rtc, out);
	pthread_mutex_unlock(&rtc->lock);
}

bool rtc_load(struct rtc *rtc, struct state_reader *in, GError **err)
{
	bool ok;

	pthread_mutex_lock(&rtc->lock);
	ok = state_load(&rtc_desc, rtc, in, err);
	rtc->index[0] &= 0x7f;
	rtc->index[1] &= 0x7f;
	/* No guest can set the clock further off than its registers reach. */
	if (rtc->offset_s > OFFSET_LIMIT || rtc->offset_s < -OFFSET_LIMIT)
		rtc->offset_s = 0;
	if (rtc->seen_second > 2 * OFFSET_LIMIT || rtc->seen_second < -2 * OFFSET_LIMIT)
		rtc->seen_second = guest_second(rtc);
	if (ok) {
		second_timer_arm(rtc);
		periodic_timer_arm(rtc);
	}
	pthread_mutex_unlock(&rtc->lock);
	return ok;
}

struct rtc *rtc_new(const struct rtc_config *config)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return NULL;
	rtc->config = *config;
	if (!config->utc_ns)
		rtc->config.utc_ns = host_utc_ns;
	rtc->region = (struct bus_region){
		.name = "rtc", .space = BUS_PIO, .base = 0x70, .size = 4, .ops = &port_ops};
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->cmos[REG_A] = 0x26; /* 32 kHz crystal, 1024 Hz */
	rtc->cmos[REG_B] = B_24H;
	rtc->irq_connected = true;
	rtc->seen_second = guest_second(rtc);
	memory_size_fill(rtc);
	rtc->second_timer = vtimer_new(config->clock, second_fired, rtc);
	rtc->periodic_timer = vtimer_new(config->clock, periodic_fired, rtc);
	if (!rtc->second_timer || !rtc->periodic_timer)
		goto err;
	rtc->on_bus = bus_add(config->bus, &rtc->region) == 0;
	if (!rtc->on_bus)
		goto err;
	return rtc;
err:
	rtc_free(rtc);
	return NULL;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	if (rtc->on_bus)
		bus_remove(rtc->config.bus, &rtc->region);
	vtimer_free(rtc->periodic_timer);
	vtimer_free(rtc->second_timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}
