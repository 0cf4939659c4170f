// SPDX-License-Identifier: Apache-2.0
/* trap.c - the IDT, faults that tests provoke, and calls into ring 3. */
#include "guest.h"

#define GATE_INTERRUPT 0x8e
#define GATE_DPL3      0x60
#define VECTOR_RETURN  0x81

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
#ifdef __x86_64__
	uint32_t offset_high, reserved;
#endif
} __attribute__((packed));

struct table {
	uint16_t limit;
	word base;
} __attribute__((packed));

struct gate idt[256];
struct fault fault;
word trap_resume;
static trap_fn handlers[256];
static word user_sp, user_result;

void trap_set(unsigned vector, trap_fn fn)
{
	handlers[vector] = fn;
}

void trap_allow_user(unsigned vector)
{
	idt[vector].type |= GATE_DPL3;
}

void trap_load_idt(void)
{
	struct table t = { sizeof(idt) - 1, (word)idt };

	asm volatile("lidt %0" : : "m"(t));
}

void trap_init(void)
{
	for (unsigned i = 0; i < 256; i++) {
		word at = trap_stubs[i];
		uint16_t cs;

		asm("mov %%cs, %0" : "=r"(cs));
		idt[i] = (struct gate){ .offset_low = (uint16_t)at,
					.selector = cs,
					.type = GATE_INTERRUPT,
					.offset_mid = (uint16_t)(at >> 16) };
	}
	trap_load_idt();
}

void trap_c(struct frame *f); /* from the stubs */

void trap_c(struct frame *f)
{
	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return;
	}
	fault = (struct fault){ true, f->vector, f->error, f->ip, read_cr2(), f->flags, f->cs };
	if (!trap_resume) {
		print("unexpected vector %lu error %lx at %lx:%lx cr2 %lx\n", f->vector, f->error,
		      f->cs, f->ip, read_cr2());
		finish(2);
	}
	f->ip = trap_resume;
	trap_resume = 0;
}

word user_flags = 0x202; /* IF */

/* The function in ring 3 ends with INT 0x81: go back to the stack of user_call(). */
word user_enter(word (*fn)(word), word arg, word stack, word *save_sp);
void user_leave(word sp) __attribute__((noreturn));

static void user_return(struct frame *f)
{
	user_result = f->ax;
	user_leave(user_sp);
}

word user_call(word (*fn)(word), word arg)
{
	static char stack[8192] __attribute__((aligned(4096)));

	trap_set(VECTOR_RETURN, user_return);
	trap_allow_user(VECTOR_RETURN);
	user_enter(fn, arg, (word)stack + sizeof(stack) - 64, &user_sp);
	return user_result;
}
