// SPDX-License-Identifier: Apache-2.0
/*
 * loop.h - the event loop of an I/O thread: file descriptors, precise timers, messages.
 *
 * GLib's main loop serves control; its poll has millisecond timers and a lock per iteration, which
 * guest timers and disk completions cannot afford. This one is epoll plus a deadline heap.
 *
 * Threading: loop_run() is called by one thread, the loop's owner. loop_post(), loop_stop() and
 * the loop_timer calls may come from any thread; fd watches only from the owner, or from anyone
 * before loop_run() starts. Callbacks run in the owner and never block. A watch or timer may be
 * removed inside any callback, its own included.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_fd;
struct loop_timer;

typedef void (*loop_fd_fn)(void *arg, uint32_t epoll_events);
typedef void (*loop_fn)(void *arg);

/* Something to do behind the callback that is under way, once, however often it is asked for.
 * The asker's storage. */
struct loop_task {
	loop_fn fn;
	void *arg;
	bool queued;
	struct loop_task *next;
};

/* NULL only when the kernel refuses an epoll or timer descriptor. */
struct loop *loop_new(void);
void loop_free(struct loop *loop);
/* Run until loop_stop(). */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* @events: EPOLLIN, EPOLLOUT... Level-triggered. NULL when epoll refuses the descriptor. */
struct loop_fd *loop_fd_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *arg);
void loop_fd_modify(struct loop_fd *watch, uint32_t events);
void loop_fd_remove(struct loop_fd *watch);

/* Run fn(arg) once in the owner's thread, in order of posting. */
void loop_post(struct loop *loop, loop_fn fn, void *arg);
/* Like loop_post(), and wait until it has run. Runs at once when called by the owner, or when no
 * thread runs the loop. Never call it while holding a lock that fn takes. */
void loop_call(struct loop *loop, loop_fn fn, void *arg);

/* Owner only: run task->fn(task->arg) once the callback under way has returned, before any other.
 * Where no thread runs the loop, behind that of loop_call(), or else when one does. */
void loop_soon(struct loop *loop, struct loop_task *task);
/* Not any more. */
void loop_soon_cancel(struct loop *loop, struct loop_task *task);

/* Timers count CLOCK_MONOTONIC nanoseconds. A timer fires once per arming. */
/* NULL only without memory. */
struct loop_timer *loop_timer_new(struct loop *loop, loop_fn fn, void *arg);
/* From another thread than the owner it waits for a callback under way: hold no lock that the
 * callback takes. */
void loop_timer_free(struct loop_timer *timer);
void loop_timer_arm(struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_disarm(struct loop_timer *timer);

/* CLOCK_MONOTONIC now, in nanoseconds. */
uint64_t loop_now_ns(void);
