// SPDX-License-Identifier: GPL-2.0-only
/*
 * lapic_timer.c - the local APIC's timer: once, periodic, or at a value of the time stamp counter (SDM vol. 3,
 * 11.5.4), on a high-resolution timer of the host.
 *
 * The bus clock is 1 GHz: a count is a nanosecond times the divisor, as guests of KVM have it.
 */
#include <linux/math64.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "chips.h"

/* A period below it would keep the host's CPU busy with nothing else. */
#define SHORTEST_PERIOD_NS 200000u

/* SDM vol. 3, figure 11-10. */
static unsigned int divisor(const struct lapic *lapic)
{
	u32 value = lapic_get(lapic, LAPIC_DIVIDE);

	return 1u << ((((value & 3) | (value & 8) >> 1) + 1) & 7);
}

static bool is_deadline(const struct lapic *lapic)
{
	return (lapic_get(lapic, LAPIC_TIMER) & LVT_TIMER_MODE) == LVT_TIMER_TSC;
}

static void fire(struct lapic *lapic)
{
	u32 lvt = lapic_get(lapic, LAPIC_TIMER);

	if (!(lvt & LVT_MASKED))
		lapic_accept(lapic, lvt, false);
}

static enum hrtimer_restart on_timer(struct hrtimer *timer)
{
	struct lapic *lapic = container_of(timer, struct lapic, timer);

	fire(lapic);
	if (!READ_ONCE(lapic->period_ns))
		return HRTIMER_NORESTART;
	hrtimer_forward_now(timer, ns_to_ktime(lapic->period_ns));
	return HRTIMER_RESTART;
}

void lapic_timer_init(struct lapic *lapic)
{
	hrtimer_init(&lapic->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	lapic->timer.function = on_timer;
}

void lapic_timer_stop(struct lapic *lapic)
{
	hrtimer_cancel(&lapic->timer);
	lapic->period_ns = 0;
	lapic->tsc_deadline = 0;
}

static void start(struct lapic *lapic, u64 ns)
{
	hrtimer_start(&lapic->timer, ktime_add_ns(ktime_get(), ns), HRTIMER_MODE_ABS);
}

void lapic_timer_resume(struct lapic *lapic, u32 count)
{
	u64 initial_ns = (u64)lapic_get(lapic, LAPIC_INITIAL) * divisor(lapic);
	bool periodic = (lapic_get(lapic, LAPIC_TIMER) & LVT_TIMER_MODE) == LVT_TIMER_PERIODIC;

	if (is_deadline(lapic))
		return;
	lapic_timer_stop(lapic);
	if (!initial_ns || (!count && !periodic))
		return;
	if (periodic)
		lapic->period_ns = max_t(u64, initial_ns, SHORTEST_PERIOD_NS);
	start(lapic, (u64)count * divisor(lapic));
}

void lapic_timer_start(struct lapic *lapic)
{
	lapic_timer_resume(lapic, lapic_get(lapic, LAPIC_INITIAL));
}

u32 lapic_timer_current(struct lapic *lapic)
{
	s64 left;

	if (is_deadline(lapic) || !hrtimer_active(&lapic->timer))
		return 0;
	left = ktime_to_ns(hrtimer_get_remaining(&lapic->timer));
	return left <= 0 ? 0 : div_u64(left, divisor(lapic));
}

/* SDM vol. 3, 11.5.4.1: 0 disarms; a value that has passed fires at once. */
void lapic_timer_set_deadline(struct lapic *lapic, u64 deadline)
{
	u64 now = rdtsc() + lapic->vcpu->tsc_offset, ticks;

	if (!is_deadline(lapic))
		return;
	lapic_timer_stop(lapic);
	if (!deadline)
		return;
	if (deadline <= now) {
		fire(lapic);
		return;
	}
	lapic->tsc_deadline = deadline;
	/* Seven weeks at most: what is further away would overflow below. */
	ticks = min(deadline - now, (u64)U32_MAX * tsc_khz);
	start(lapic, mul_u64_u64_div_u64(ticks, 1000000, tsc_khz));
}
