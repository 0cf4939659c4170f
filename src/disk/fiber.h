// SPDX-License-Identifier: Apache-2.0
/*
 * fiber.h - functions that wait without a thread: each has a stack of its own and is left and
 * entered again by hand.
 *
 * An image format has to read a table before it knows where to read data. In a fiber it says so in
 * that order, and while the table is on its way the loop's thread does something else.
 *
 * A pool belongs to one thread, and so do its fibers. fiber_wake() runs the fiber at once, on the
 * caller's time, until it yields or ends; fibers may wake and start others, of other pools as
 * well. Between two waits a fiber is alone: what it does there needs no lock. What must hold
 * across a wait is kept by a fiber_lock.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct fiber;

/* All zeros to begin with. */
struct fiber_pool {
	struct fiber *current; /* that runs; NULL outside */
	struct fiber *spare;   /* ended, their stacks to be used again */
};

/* No fiber may be left waiting. */
void fiber_pool_fini(struct fiber_pool *pool);

/* Run fn(arg) in a fiber until it first yields, or ends. 0 or -ENOMEM. */
int fiber_start(struct fiber_pool *pool, void (*fn)(void *arg), void *arg);
/* Leave the current fiber until it is woken. */
void fiber_yield(struct fiber_pool *pool);
void fiber_wake(struct fiber *fiber);

/* Those that wait, first come, first served. All zeros to begin with. */
struct fiber_queue {
	struct fiber *head, *tail;
};

void fiber_queue_wait(struct fiber_pool *pool, struct fiber_queue *queue);
/* False: nobody waits. */
bool fiber_queue_wake(struct fiber_queue *queue);

/* Outside of fibers it must be free. All zeros to begin with. */
struct fiber_lock {
	bool held;
	struct fiber_queue waiting;
};

void fiber_lock(struct fiber_pool *pool, struct fiber_lock *lock);
void fiber_unlock(struct fiber_lock *lock);
