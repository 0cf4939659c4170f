// SPDX-License-Identifier: Apache-2.0
/*
 * clock.c - the counter behind the guest's TSC: the host's, where that runs at one rate for ever.
 *
 * Its rate is measured against CLOCK_MONOTONIC_RAW, from the opening of the machine to the moment the guest
 * first asks. A guest kernel asks late enough that this costs no waiting.
 */
#include "engine/bt/bt_int.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#define BT_CLOCK_MIN_NS 10000000ull
#define BT_CLOCK_TRIES	8

static uint64_t bt_clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool bt_clock_host_is_invariant(void)
{
	unsigned eax, ebx, ecx, edx;

	/* SDM vol. 3 "Invariant TSC". */
	return __get_cpuid(0x80000007u, &eax, &ebx, &ecx, &edx) && edx & (1u << 8);
}

uint64_t bt_clock_counter(const struct bt_clock *clock)
{
	if (clock->counted)
		return bt_count_ns(clock->counted);
	return clock->host_tsc ? __rdtsc() : bt_clock_ns(CLOCK_MONOTONIC_RAW);
}

/* Counter and time at one moment: the closest of a few pairs. */
static void bt_clock_sample(const struct bt_clock *clock, uint64_t *ret_tsc, uint64_t *ret_ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < BT_CLOCK_TRIES; i++) {
		uint64_t before = bt_clock_counter(clock);
		uint64_t ns = bt_clock_ns(CLOCK_MONOTONIC_RAW);
		uint64_t after = bt_clock_counter(clock);

		if (after - before < best) {
			best = after - before;
			*ret_tsc = before + (after - before) / 2;
			*ret_ns = ns;
		}
	}
}

/* 2026-01-01. */
#define BT_CLOCK_COUNTED_START_NS (1767225600ull * 1000000000u)

void bt_clock_init_counted(struct bt_clock *clock)
{
	clock->wall_start_ns = BT_CLOCK_COUNTED_START_NS;
	atomic_store(&clock->hz, 1000000000ull);
}

void bt_clock_init(struct bt_clock *clock)
{
	clock->host_tsc = bt_clock_host_is_invariant();
	bt_clock_sample(clock, &clock->tsc_start, &clock->ns_start);
	clock->wall_start_ns = bt_clock_ns(CLOCK_REALTIME);
	if (!clock->host_tsc)
		atomic_store(&clock->hz, 1000000000ull);
}

uint64_t bt_clock_hz(struct bt_clock *clock)
{
	uint64_t hz = atomic_load(&clock->hz);
	uint64_t elapsed = bt_clock_ns(CLOCK_MONOTONIC_RAW) - clock->ns_start;
	uint64_t tsc = 0, ns = 0, expected = 0;

	if (hz)
		return hz;
	if (elapsed < BT_CLOCK_MIN_NS) {
		struct timespec rest = { .tv_nsec = (long)(BT_CLOCK_MIN_NS - elapsed) };

		nanosleep(&rest, NULL);
	}
	bt_clock_sample(clock, &tsc, &ns);
	hz = (uint64_t)((unsigned __int128)(tsc - clock->tsc_start) * 1000000000u /
			(ns - clock->ns_start));
	hz = (hz + 500) / 1000 * 1000; /* guests are told kHz: all see the same number */
	if (!atomic_compare_exchange_strong(&clock->hz, &expected, hz))
		hz = expected;
	return hz;
}

/* Not by the counter, whose rate would have to be known: the two keep pace, and a reading is needed
 * only to the microsecond. */
static uint64_t bt_clock_elapsed_ns(const struct bt_clock *clock)
{
	if (clock->counted)
		return bt_count_ns(clock->counted);
	return bt_clock_ns(CLOCK_MONOTONIC_RAW) - clock->ns_start;
}

uint64_t bt_clock_guest_ns(const struct bt_clock *clock)
{
	return atomic_load(&clock->guest_start_ns) + bt_clock_elapsed_ns(clock);
}

void bt_clock_set_guest_ns(struct bt_clock *clock, uint64_t ns)
{
	atomic_store(&clock->guest_start_ns, ns - bt_clock_elapsed_ns(clock));
}
