// SPDX-License-Identifier: Apache-2.0
/*
 * user_worth.c - whether it pays that user code runs as it is. See user.h.
 *
 * What the translator would take is not known but by trying: some code is as fast there, some takes ten times as long.
 * The measure of how far a program comes is how often its user code is entered, from the kernel, which is the
 * same whoever executes it. So the time from one entry to the next is taken, of the vCPU's thread and the runner's
 * together, over a window of some hundred entries; then the other of the two has a shorter window, its trial; and if it took
 * less it goes on. Otherwise it is asked again, each time later. Programs change: what copies a file now
 * computes in a moment. So nobody has it for good, and where entries are far apart there is nothing to
 * ask: what stops take does not count there, and the runner has it.
 */
#include "engine/bt/user.h"

#include <time.h>

#include "engine/bt/bt_int.h"

#define WINDOW	  256u
#define TRIAL	  64u	  /* entries */
#define ASK_NS	  300000u /* entries that are closer to each other than this */
#define PAUSE	  4u	  /* windows between trials, */
#define PAUSE_MAX 256u	  /* each time twice as many */
#define LONGER	  2u	  /* a trial ends when it takes so many times as long */
#define CALM_TICKS 2u	  /* timer interrupts in a row that find entries to be far apart */

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

/* From now on @translator has it, or not, trials apart. */
static void hand_over(struct bt_worth *w, bool translator)
{
	w->translator = translator;
	w->trial = false;
	w->left = w->pause = PAUSE;
	w->calm = 0;
	w->bad = 0;
}

void bt_worth_begin(struct bt_runner *r)
{
	r->worth = (struct bt_worth){ .ran = bt_runner_ran(r) };
	hand_over(&r->worth, false);
	/* The first window is one of page faults. */
	r->worth.left = 2;
	r->worth.tick = spent(r);
	begin_window(&r->worth, r->worth.tick);
}

static bool is_runners(const struct bt_worth *w)
{
	return w->translator == w->trial;
}

static void lose_trial(struct bt_worth *w)
{
	w->trial = false;
	w->pause = MIN(w->pause * 2, PAUSE_MAX);
	w->left = w->pause;
}

bool bt_worth_entered(struct bt_runner *r, bool from_kernel)
{
	struct bt_worth *w = &r->worth;
	uint64_t now, each;

	w->entries += from_kernel;
	w->ticks_entries += from_kernel;
	if (w->entries < (w->trial ? TRIAL : WINDOW))
		return is_runners(w);
	now = spent(r);
	each = (now - w->since) / w->entries;
	begin_window(w, now);
	if (!w->trial) {
		w->each = each;
		w->trial = each < ASK_NS && --w->left == 0;
	} else if (each < w->each - w->each / 10) { /* a tenth is noise */
		hand_over(w, !w->translator);
	} else {
		lose_trial(w);
	}
	return is_runners(w);
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
	if (!w->trial && !w->translator)
		return true;
	now = spent(r);
	if (w->trial && now - w->since > LONGER * TRIAL * w->each) {
		lose_trial(w);
		begin_window(w, now);
	}
	w->calm = now - w->tick > ASK_NS * (w->ticks_entries + 1) ? w->calm + 1 : 0;
	w->tick = now;
	w->ticks_entries = 0;
	if (w->translator && w->calm >= CALM_TICKS) {
		hand_over(w, false);
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
	if (w->bad < BAD_TIMES)
		return true;
	hand_over(w, true);
	begin_window(w, spent(r));
	return false;
}
