// SPDX-License-Identifier: Apache-2.0
/* debug.c - single step, instruction and data breakpoints, DR6, RF, what suppresses them. */
#include "guest.h"

#define BS (1u << 14)

static volatile word hits, hit_ip[64], hit_dr6[64];
static volatile bool stop_at_once;

static void on_debug(struct frame *f)
{
	unsigned i = hits++ & 63;

	hit_ip[i] = f->ip;
	hit_dr6[i] = read_dr6();
	write_dr6(0);
	if (stop_at_once)
		f->flags &= ~(word)FL_TF;
	else if (!(hit_dr6[i] & BS))
		f->flags |= FL_RF; /* on past an instruction breakpoint */
}

extern char step0[], step1[], step2[], step3[], step4[], step5[], step6[], break_here[];

static void single_step(void)
{
	hits = 0;
	asm volatile("pushf; orl $0x100, (%%rsp); popf;"
		     "step0: nop; step1: mov $5, %%ecx; step2: xor %%eax, %%eax;"
		     "step3: pushf; step4: andl $~0x100, (%%rsp); step5: popf; step6: nop"
		     :
		     :
		     : "rax", "rcx", "memory", "cc");
	/* POPF itself does not trap; the one that clears TF does. */
	check_equal(hits, 6);
	check_equal(hit_ip[0], (word)step1);
	check_equal(hit_ip[1], (word)step2);
	check_equal(hit_ip[2], (word)step3);
	check_equal(hit_ip[5], (word)step6);
	check_equal(hit_dr6[0] & 0xe00f, BS);
}

extern char rep_at[], rep_behind[];

static void step_rep(void)
{
	static uint8_t to[8], from[8] = { 1, 2, 3 };
	word n = 3, d = (word)to, s = (word)from;

	hits = 0;
	asm volatile("pushf; pushf; orl $0x100, (%%rsp); popf; rep_at: rep movsb; rep_behind: popf; nop"
		     : "+c"(n), "+D"(d), "+S"(s)
		     :
		     : "memory", "cc");
	check_equal(n, 0);
	check(hits >= 4);
	check_equal(hit_ip[0], (word)rep_at);
	check_equal(hit_ip[1], (word)rep_at);
	check_equal(hit_ip[2], (word)rep_behind);
}

extern char shadow_at[], shadow_behind[];

static void step_mov_ss(void)
{
	hits = 0;
	asm volatile("mov %%ss, %%ecx; pushf; pushf; orl $0x100, (%%rsp); popf;"
		     "mov %%ecx, %%ss; shadow_at: nop; shadow_behind: popf; nop"
		     :
		     :
		     : "rcx", "memory", "cc");
	/* The trap of MOV SS is lost; the next one comes behind the instruction in its shadow. */
	check_equal(hit_ip[0], (word)shadow_behind);
}

static void step_call_int(void)
{
	/* INT enters the handler with TF clear; the step after it is the instruction behind. */
	extern char int_behind[];

	trap_set(0x44, (trap_fn)on_debug);
	hits = 0;
	write_dr6(0);
	asm volatile("pushf; pushf; orl $0x100, (%%rsp); popf; int $0x44; int_behind: nop; popf; nop"
		     :
		     :
		     : "memory", "cc");
	check_equal(hit_ip[0], (word)int_behind); /* the INT handler itself */
	check_equal(hit_ip[1], (word)int_behind + 1);
	trap_set(0x44, NULL);
}

static void instruction_breakpoint(void)
{
	hits = 0;
	write_dr6(0);
	write_dr0((word)break_here);
	write_dr7(0x401 | 2);
	unsigned ran = 0;
	asm volatile("mov $3, %%ecx; 1: break_here: incl %0; loop 1b" : "+r"(ran) : : "rcx", "cc");
	write_dr7(0x400);
	check_equal(ran, 3);
	check_equal(hits, 3);
	check_equal(hit_ip[0], (word)break_here); /* a fault: before the instruction */
	check_equal(hit_dr6[0] & 0xf, 1);
	asm volatile("nop");
}

static uint32_t watched[4] __attribute__((aligned(16)));

static void data_breakpoint(void)
{
	extern char store_behind[];

	hits = 0;
	write_dr6(0);
	write_dr1((word)&watched[1]);
	write_dr7(0x400 | 1u << 2 | 0xdu << 20); /* four bytes, writes */
	asm volatile("movl $1, %0" : "=m"(watched[0]));
	check_equal(hits, 0);
	asm volatile("movl $7, %0; store_behind: nop" : "=m"(watched[1]));
	check_equal(hits, 1);
	check_equal(hit_ip[0], (word)store_behind); /* a trap: the store is done */
	check_equal(hit_dr6[0] & 0xf, 2);
	check_equal(watched[1], 7);
	asm volatile("movl %0, %%eax" : : "m"(watched[1]) : "rax");
	check_equal(hits, 1);
	/* One byte of it counts, and so does a wide access that includes it. */
	asm volatile("movb $1, %0; nop" : "=m"(*((uint8_t *)watched + 7)));
	check_equal(hits, 2);
	asm volatile("movq $1, %0; nop" : "=m"(*(uint64_t *)watched));
	check_equal(hits, 3);
	write_dr7(0x400 | 1u << 2 | 0xfu << 20); /* reads and writes */
	hits = 0;
	asm volatile("movl %0, %%eax; nop" : : "m"(watched[1]) : "rax");
	check_equal(hits, 1);
	word n = 4, to = (word)watched;
	asm volatile("rep stosl" : "+c"(n), "+D"(to) : "a"(0) : "memory");
	check(hits >= 2);
	write_dr7(0x400);
}

static void registers(void)
{
	write_dr6(0);
	check_equal(read_dr6() & 0xffff0ff0, 0xffff0ff0);
	write_dr7(0);
	check_equal(read_dr7(), 0x400);
	TRY("mov %0, %%dr7;", : : "r"(1ul << 32));
	check_fault(13, 0);
	write_cr4(read_cr4() | CR4_DE);
	TRY("mov %%dr4, %%rax;", : : : "rax");
	check_fault(6, 0);
	write_cr4(read_cr4() & ~(word)CR4_DE);
	/* General detect. */
	stop_at_once = true;
	hits = 0;
	write_dr7(0x400 | 1u << 13);
	asm volatile("mov %%dr0, %%rax" : : : "rax");
	check_equal(hits, 1);
	check_equal(hit_dr6[0] & (1u << 13), 1u << 13);
	check_equal(read_dr7(), 0x400); /* entering the handler cleared GD */
	stop_at_once = false;
}

int main(void)
{
	trap_set(1, on_debug);
	write_dr7(0x400);
	single_step();
	step_rep();
	step_mov_ss();
	step_call_int();
	instruction_breakpoint();
	data_breakpoint();
	registers();
	return 0;
}
