// SPDX-License-Identifier: Apache-2.0
/*
 * fiber.c - stacks, and the switch between them.
 *
 * A switch saves what the System V ABI says a function keeps (its section 3.2.1) on the stack that
 * is left. The sanitizers are told, for they keep books about stacks.
 */
#include "disk/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/sanitizer.h"

#if WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#if WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define GUARD_BYTES 4096u
#define STACK_BYTES (256u << 10) /* address space; memory is taken as it is touched */

struct fiber {
	struct fiber_pool *pool;
	struct fiber *next; /* spare, or in a queue */
	void *sp, *caller_sp;
	uint8_t *map; /* guard page, then the stack */
	void (*fn)(void *arg);
	void *arg;
	bool ended;
	/* The sanitizers': */
	void *fake_stack, *caller_fake_stack, *tsan, *caller_tsan;
	const void *caller_bottom;
	size_t caller_size;
};

/* Push what a function must keep, leave the stack pointer at *save, go on from @sp. */
void disk_fiber_switch(void **save, void *sp);
void disk_fiber_entry(void);
void disk_fiber_main(struct fiber *f);

__asm__(".text\n"
	".type disk_fiber_switch, @function\n"
	"disk_fiber_switch:\n"
	"	push %rbp\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rsp, (%rdi)\n"
	"	mov %rsi, %rsp\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbx\n"
	"	pop %rbp\n"
	"	ret\n"
	".size disk_fiber_switch, . - disk_fiber_switch\n"
	".type disk_fiber_entry, @function\n"
	"disk_fiber_entry:\n"
	"	mov %r12, %rdi\n"
	"	call disk_fiber_main\n"
	"	ud2\n"
	".size disk_fiber_entry, . - disk_fiber_entry\n");

static void leave(struct fiber *f)
{
#if WITH_TSAN
	__tsan_switch_to_fiber(f->caller_tsan, 0);
#endif
#if WITH_ASAN
	__sanitizer_start_switch_fiber(&f->fake_stack, f->caller_bottom, f->caller_size);
#endif
	disk_fiber_switch(&f->sp, f->caller_sp);
#if WITH_ASAN
	__sanitizer_finish_switch_fiber(f->fake_stack, &f->caller_bottom, &f->caller_size);
#endif
}

static void enter(struct fiber *f)
{
	struct fiber_pool *pool = f->pool;
	struct fiber *before = pool->current;

	pool->current = f;
#if WITH_TSAN
	f->caller_tsan = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(f->tsan, 0);
#endif
#if WITH_ASAN
	__sanitizer_start_switch_fiber(&f->caller_fake_stack, f->map + GUARD_BYTES, STACK_BYTES);
#endif
	disk_fiber_switch(&f->caller_sp, f->sp);
#if WITH_ASAN
	__sanitizer_finish_switch_fiber(f->caller_fake_stack, NULL, NULL);
#endif
	pool->current = before;
	if (f->ended) {
		f->next = pool->spare;
		pool->spare = f;
	}
}

/* The first thing on a new stack; it serves one function after another. */
__attribute__((used)) void disk_fiber_main(struct fiber *f)
{
#if WITH_ASAN
	__sanitizer_finish_switch_fiber(NULL, &f->caller_bottom, &f->caller_size);
#endif
	for (;;) {
		f->fn(f->arg);
		f->ended = true;
		leave(f);
	}
}

static struct fiber *fiber_new(struct fiber_pool *pool)
{
	struct fiber *f = calloc(1, sizeof(*f));
	uint64_t *top;

	if (!f)
		return NULL;
	f->map = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (f->map == MAP_FAILED) {
		free(f);
		return NULL;
	}
	(void)mprotect(f->map, GUARD_BYTES, PROT_NONE); /* at worst an overflow goes unnoticed */
	f->pool = pool;
#if WITH_TSAN
	f->tsan = __tsan_create_fiber(0);
#endif
	/* What disk_fiber_switch() pops: r15, r14, r13, r12, rbx, rbp, where to go. The stack is
	 * then 16-byte aligned, as it must be at the call in disk_fiber_entry. */
	top = (uint64_t *)(void *)(f->map + GUARD_BYTES + STACK_BYTES) - 9;
	top[3] = (uint64_t)(uintptr_t)f;
	top[6] = (uint64_t)(uintptr_t)disk_fiber_entry;
	f->sp = top;
	return f;
}

void fiber_pool_fini(struct fiber_pool *pool)
{
	struct fiber *f;

	while ((f = pool->spare)) {
		pool->spare = f->next;
#if WITH_TSAN
		__tsan_destroy_fiber(f->tsan);
#endif
		munmap(f->map, GUARD_BYTES + STACK_BYTES);
		free(f);
	}
}

int fiber_start(struct fiber_pool *pool, void (*fn)(void *arg), void *arg)
{
	struct fiber *f = pool->spare;

	if (f)
		pool->spare = f->next;
	else
		f = fiber_new(pool);
	if (!f)
		return -ENOMEM;
	f->fn = fn;
	f->arg = arg;
	f->ended = false;
	enter(f);
	return 0;
}

void fiber_yield(struct fiber_pool *pool)
{
	leave(pool->current);
}

void fiber_wake(struct fiber *fiber)
{
	enter(fiber);
}

void fiber_queue_wait(struct fiber_pool *pool, struct fiber_queue *queue)
{
	struct fiber *f = pool->current;

	f->next = NULL;
	if (queue->tail)
		queue->tail->next = f;
	else
		queue->head = f;
	queue->tail = f;
	fiber_yield(pool);
}

bool fiber_queue_wake(struct fiber_queue *queue)
{
	struct fiber *f = queue->head;

	if (!f)
		return false;
	queue->head = f->next;
	if (!queue->head)
		queue->tail = NULL;
	fiber_wake(f);
	return true;
}

void fiber_lock(struct fiber_pool *pool, struct fiber_lock *lock)
{
	if (!lock->held) {
		lock->held = true;
		return;
	}
	assert(pool->current);
	fiber_queue_wait(pool, &lock->waiting); /* it is handed over held */
}

void fiber_unlock(struct fiber_lock *lock)
{
	if (!fiber_queue_wake(&lock->waiting))
		lock->held = false;
}
