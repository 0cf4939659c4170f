// SPDX-License-Identifier: Apache-2.0
/*
 * vclock.h - the machine's clock: nanoseconds that stand still while the machine is paused.
 *
 * Timer devices count this clock, never the host's, so that pausing, saving and resuming a machine
 * loses no tick. Timers run in the thread of the loop behind the clock. A manual clock has no
 * loop and moves only when told: tests need no sleeping.
 *
 * Threading: all calls from any thread, but vclock_advance() from one at a time. A callback may
 * arm, disarm or free any timer. vtimer_free() from another thread waits for a callback under
 * way: hold no lock that the callback takes. vclock_pause() and vclock_resume() belong to one
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct vclock;
struct vtimer;

typedef void (*vtimer_fn)(void *arg);

/* Starts at zero, running. The loop is borrowed. */
struct vclock *vclock_new(struct loop *loop);
struct vclock *vclock_new_manual(void);
/* Its timers must have been freed. */
void vclock_free(struct vclock *clock);

uint64_t vclock_now_ns(struct vclock *clock);
void vclock_pause(struct vclock *clock);
void vclock_resume(struct vclock *clock);
/* Of a paused machine that takes over another one's time; or of a manual clock, and no timer fires. */
void vclock_set(struct vclock *clock, uint64_t now_ns);
/* Manual clock only: let @ns pass, timers firing in order of their deadlines. */
void vclock_advance(struct vclock *clock, uint64_t ns);

/* The earliest deadline of an armed timer; all ones: none is. */
uint64_t vclock_next_ns(struct vclock *clock);

/* NULL only without memory. */
struct vtimer *vtimer_new(struct vclock *clock, vtimer_fn fn, void *arg);
/*
 * The same for one that is armed often, by threads that are not to wait for each other: it takes no lock that
 * another timer has, and has a descriptor of its own, where the host has one left. It is made and freed where
 * loop_fd_add() may be called, and then nobody waits for its callback.
 */
struct vtimer *vtimer_new_own(struct vclock *clock, vtimer_fn fn, void *arg);
void vtimer_free(struct vtimer *timer);
/* Fire once when the clock reaches @deadline_ns; at once when it has. */
void vtimer_arm(struct vtimer *timer, uint64_t deadline_ns);
void vtimer_disarm(struct vtimer *timer);
