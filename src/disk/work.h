// SPDX-License-Identifier: Apache-2.0
/*
 * work.h - what takes a processor's time, such as compression: done by threads while a fiber waits.
 *
 * A pool belongs to a loop, and all calls to the loop's thread; what it runs must touch nothing that
 * anyone else does.
 */
#pragma once

#include <stdbool.h>

#include "disk/fiber.h"

struct loop;
struct work_pool;

/* NULL: no memory, or no descriptor. As many threads as there are processors, up to 8; they start
 * with the first work. */
struct work_pool *work_pool_new(struct loop *loop);
/* Nothing may be under way. */
void work_pool_free(struct work_pool *pool);
/* Run fn(arg): in a thread while the current fiber is left; outside of fibers here. @pool: NULL: here. */
void work_run(struct work_pool *pool, struct fiber_pool *fibers, void (*fn)(void *arg), void *arg);
/* Wait until something is done and its fiber has gone on, unless nothing is under way. */
void work_drain(struct work_pool *pool);
