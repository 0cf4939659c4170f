// SPDX-License-Identifier: Apache-2.0
/*
 * user_worth.c - whether it pays that user code runs as it is. See user.h.
 *
 * What the translator would take is not known but by trying: some code is as fast there, some takes ten times as long.
 * The measure of how far a program comes is how often its user code is entered, from the kernel, which is the
 * same whoever executes it. So the time from one entry to the next is taken, of the vCPU's thread and the runner's
 * together, over a window of some hundred entries; then the translator has one such window; and if it took
 * less it goes on. Otherwise it is asked again, each time later. Where entries are far apart there is nothing to
 * ask: what stops take does not count.
 */
#include "engine/bt/user.h"

#include <time.h>

#include "engine/bt/bt_int.h"

#define WINDOW	  256u
#define ASK_NS	  300000u /* entries that are closer to each other than this */
#define PAUSE	  4u	  /* windows between trials, */
#define PAUSE_MAX 256u	  /* each time twice as many */
#define LONGER	  4u	  /* a trial ends when it takes so many times as long */

/* A stop takes some 6 us of the runner's own time, and twice as much in all. Where a runner does not compute for longer
 * than this on average, so often in a row, no trial is needed. */
#define JUDGE_STOPS 128u
#define STOP_RAN_NS 6000u
#define WORTH_NS    8000u
#define BAD_TIMES   3u

/* What a timer interrupt counts for that finds the translator at work for a runner, one that does not being -1; and when
 * it is enough: where it is more than a third of them, within some 16. */
#define PAUSED	   2u
#define PAUSED_MAX 32u

static uint64_t spent(const struct bt_runner *r)
{
	struct timespec ts = { 0 };

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec + bt_runner_ran(r);
}

static void begin_window(struct bt_worth *w, uint64_t now)
{
	w->since = now;
	w->entries = 0;
}

void bt_worth_begin(struct bt_runner *r)
{
	/* The first window is one of page faults. */
	r->worth = (struct bt_worth){ .ran = bt_runner_ran(r), .left = 2, .pause = PAUSE };
	begin_window(&r->worth, spent(r));
}

static void end_trial(struct bt_worth *w)
{
	w->trial = false;
	w->left = w->pause;
	w->pause = MIN(w->pause * 2, PAUSE_MAX);
}

enum bt_worth_who bt_worth_entered(struct bt_runner *r, bool from_kernel)
{
	struct bt_worth *w = &r->worth;
	uint64_t now, each;

	w->entries += from_kernel;
	if (w->entries < WINDOW)
		return w->trial ? BT_WORTH_TRIAL : BT_WORTH_RUNNER;
	now = spent(r);
	each = (now - w->since) / WINDOW;
	begin_window(w, now);
	if (w->trial) {
		/* A tenth is noise. */
		if (each < w->each - w->each / 10)
			return BT_WORTH_TRANSLATOR;
		end_trial(w);
		return BT_WORTH_RUNNER;
	}
	w->each = each;
	w->trial = each < ASK_NS && --w->left == 0;
	return w->trial ? BT_WORTH_TRIAL : BT_WORTH_RUNNER;
}

bool bt_worth_tick(struct bt_runner *r, bool paused)
{
	struct bt_worth *w = &r->worth;
	uint64_t now;

	if (paused)
		w->paused += PAUSED;
	else if (w->paused)
		w->paused--;
	if (w->paused >= PAUSED_MAX)
		return false;
	if (!w->trial)
		return true;
	now = spent(r);
	if (now - w->since > LONGER * WINDOW * w->each) {
		end_trial(w);
		begin_window(w, now);
	}
	return true;
}

bool bt_worth_stopped(struct bt_runner *r)
{
	struct bt_worth *w = &r->worth;
	uint64_t total, ran;

	if (++w->stops < JUDGE_STOPS)
		return true;
	total = bt_runner_ran(r);
	ran = total - w->ran;
	w->ran = total;
	w->stops = 0;
	w->bad = ran > JUDGE_STOPS * (STOP_RAN_NS + WORTH_NS) ? 0 : w->bad + 1;
	return w->bad < BAD_TIMES;
}
