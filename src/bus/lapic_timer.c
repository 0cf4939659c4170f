// SPDX-License-Identifier: Apache-2.0
/*
 * lapic_timer.c - the local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3 11.5.4).
 *
 * A vCPU that arms its timer takes no lock that another one takes: each has its own, and its own timer
 * of the host's, which the clock's thread watches.
 *
 * The bus clock is 1 GHz, so a count divided by 1 is nanoseconds of the machine's clock.
 */
#include "irqchip_int.h"

#include <errno.h>

#include "base/vclock.h"

/* A period the guest cannot mean: it would keep the loop's thread from everything else. */
#define MIN_PERIOD_NS 20000u

/* DIVIDE 0b000 is 2, 0b110 is 128, 0b111 is 1. */
static unsigned divide_shift(uint32_t divide)
{
	return (((divide & 3) | ((divide >> 1) & 4)) + 1) & 7;
}

static uint32_t timer_mode(struct lapic *lapic)
{
	return atomic_load(&lapic->lvt[LVT_TIMER]) & LVT_TIMER_MODE;
}

static void timer_signal(struct lapic *lapic)
{
	uint32_t lvt = atomic_load(&lapic->lvt[LVT_TIMER]);

	if (!(lvt & LVT_MASKED))
		(void)lapic_accept(lapic, (uint8_t)lvt, false);
}

/* The clock's thread, or the vCPU's own: whoever comes second finds another deadline, or none. */
static void timer_fired(void *arg)
{
	struct lapic *lapic = arg;
	uint64_t now = vclock_now_ns(lapic->chip->clock);
	bool fire;

	pthread_mutex_lock(&lapic->timer_lock);
	fire = lapic->timer_armed && lapic->deadline_ns <= now;
	if (fire && timer_mode(lapic) == LVT_TIMER_PERIODIC) {
		/* Ticks missed while we were late are gone, the phase is kept. */
		lapic->deadline_ns += lapic->period_ns;
		if (lapic->deadline_ns <= now)
			lapic->deadline_ns = now + lapic->period_ns -
					     (now - lapic->deadline_ns) % lapic->period_ns;
		vtimer_arm(lapic->timer, lapic->deadline_ns);
	} else if (fire) {
		lapic->timer_armed = false;
		lapic->tsc_deadline = 0;
	}
	pthread_mutex_unlock(&lapic->timer_lock);
	if (fire)
		timer_signal(lapic);
}

uint64_t lapic_timer_look(struct lapic *lapic)
{
	uint64_t left = UINT64_MAX, now = vclock_now_ns(lapic->chip->clock);

	pthread_mutex_lock(&lapic->timer_lock);
	if (lapic->timer_armed)
		left = lapic->deadline_ns > now ? lapic->deadline_ns - now : 0;
	pthread_mutex_unlock(&lapic->timer_lock);
	if (left)
		return left;
	timer_fired(lapic);
	return UINT64_MAX; /* a period begins anew: soon enough for the next look */
}

/* timer_lock held. */
static void timer_stop(struct lapic *lapic)
{
	if (lapic->timer_armed)
		vtimer_disarm(lapic->timer);
	lapic->timer_armed = false;
	lapic->tsc_deadline = 0;
}

/* timer_lock held. */
static void timer_start(struct lapic *lapic, uint64_t in_ns)
{
	lapic->deadline_ns = vclock_now_ns(lapic->chip->clock) + in_ns;
	lapic->timer_armed = true;
	vtimer_arm(lapic->timer, lapic->deadline_ns);
}

/* timer_lock held. */
static void period_update(struct lapic *lapic)
{
	lapic->period_ns = (uint64_t)lapic->initial_count << divide_shift(lapic->divide);
	if (lapic->period_ns < MIN_PERIOD_NS)
		lapic->period_ns = MIN_PERIOD_NS;
}

void lapic_timer_set_initial(struct lapic *lapic, uint32_t count)
{
	uint32_t mode = timer_mode(lapic);

	/* SDM: writes are ignored in TSC-deadline mode. */
	if (mode == LVT_TIMER_TSC)
		return;
	pthread_mutex_lock(&lapic->timer_lock);
	timer_stop(lapic);
	lapic->initial_count = count;
	period_update(lapic);
	if (count && mode == LVT_TIMER_PERIODIC)
		timer_start(lapic, lapic->period_ns);
	else if (count)
		timer_start(lapic, (uint64_t)count << divide_shift(lapic->divide));
	pthread_mutex_unlock(&lapic->timer_lock);
}

/* timer_lock held. */
static uint32_t current_count(struct lapic *lapic)
{
	uint64_t now = vclock_now_ns(lapic->chip->clock);
	uint64_t left, count;

	if (!lapic->timer_armed || timer_mode(lapic) == LVT_TIMER_TSC || lapic->deadline_ns <= now)
		return 0;
	left = lapic->deadline_ns - now;
	/* Rounded up: it reads as the initial count right after the start, as zero when done. */
	count = (left + (1ull << divide_shift(lapic->divide)) - 1) >> divide_shift(lapic->divide);
	return count < lapic->initial_count ? (uint32_t)count : lapic->initial_count;
}

void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide)
{
	uint32_t left;

	pthread_mutex_lock(&lapic->timer_lock);
	left = current_count(lapic);
	lapic->divide = divide & 0xb;
	period_update(lapic);
	if (left)
		timer_start(lapic, (uint64_t)left << divide_shift(lapic->divide));
	pthread_mutex_unlock(&lapic->timer_lock);
}

/* Nanoseconds until the guest's TSC reaches @deadline, rounded up; 0 when it has. */
static uint64_t tsc_left_ns(struct lapic *lapic, uint64_t deadline, uint64_t hz)
{
	const struct irqchip *chip = lapic->chip;
	uint64_t tsc = chip->ops->tsc(chip->arg, lapic->index);
	unsigned __int128 ns;

	if (deadline <= tsc)
		return 0;
	ns = ((unsigned __int128)(deadline - tsc) * 1000000000u + hz - 1) / hz;
	return ns > INT64_MAX / 2 ? INT64_MAX / 2 : (uint64_t)ns;
}

void lapic_timer_set_tsc_deadline(struct lapic *lapic, uint64_t deadline)
{
	uint64_t left = 1, hz;

	if (timer_mode(lapic) != LVT_TIMER_TSC || (hz = irqchip_tsc_hz(lapic->chip)) == 0)
		return;
	if (deadline)
		left = tsc_left_ns(lapic, deadline, hz);
	pthread_mutex_lock(&lapic->timer_lock);
	/* Not timer_stop(): the usual next step is to arm it again. */
	lapic->timer_armed = false;
	lapic->tsc_deadline = 0;
	if (deadline && left) {
		lapic->tsc_deadline = deadline;
		timer_start(lapic, left);
	} else {
		vtimer_disarm(lapic->timer);
	}
	pthread_mutex_unlock(&lapic->timer_lock);
	if (left == 0)
		timer_signal(lapic);
}

void lapic_timer_mode_changed(struct lapic *lapic, uint32_t old)
{
	uint32_t now = timer_mode(lapic);

	old &= LVT_TIMER_MODE;
	/* SDM vol. 3 11.5.4.1: a change to or from TSC-deadline mode disarms the timer. */
	if (old == now || (old != LVT_TIMER_TSC && now != LVT_TIMER_TSC))
		return;
	pthread_mutex_lock(&lapic->timer_lock);
	timer_stop(lapic);
	lapic->initial_count = 0;
	pthread_mutex_unlock(&lapic->timer_lock);
}

struct lapic_timer_regs lapic_timer_read(struct lapic *lapic)
{
	struct lapic_timer_regs regs;

	pthread_mutex_lock(&lapic->timer_lock);
	regs = (struct lapic_timer_regs){
		.initial = lapic->initial_count,
		.current = current_count(lapic),
		.divide = lapic->divide,
		.tsc_deadline = lapic->tsc_deadline,
	};
	pthread_mutex_unlock(&lapic->timer_lock);
	return regs;
}

void lapic_timer_reset(struct lapic *lapic)
{
	pthread_mutex_lock(&lapic->timer_lock);
	timer_stop(lapic);
	lapic->initial_count = 0;
	lapic->divide = 0;
	period_update(lapic);
	pthread_mutex_unlock(&lapic->timer_lock);
}

void lapic_timer_loaded(struct lapic *lapic)
{
	pthread_mutex_lock(&lapic->timer_lock);
	lapic->divide &= 0xb;
	period_update(lapic);
	if (lapic->timer_armed)
		vtimer_arm(lapic->timer, lapic->deadline_ns);
	pthread_mutex_unlock(&lapic->timer_lock);
}

int lapic_timer_init(struct lapic *lapic)
{
	pthread_mutex_init(&lapic->timer_lock, NULL);
	lapic->timer = vtimer_new_own(lapic->chip->clock, timer_fired, lapic);
	return lapic->timer ? 0 : -ENOMEM;
}

void lapic_timer_fini(struct lapic *lapic)
{
	vtimer_free(lapic->timer);
	pthread_mutex_destroy(&lapic->timer_lock);
}
