// SPDX-License-Identifier: Apache-2.0
/* gates.c - segments and gates of 32-bit protected mode: limits, call gates, tasks, conforming code. */
#include "guest.h"

static uint64_t segment(uint32_t base, uint32_t limit, uint8_t access, uint8_t flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
	       (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 |
	       (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(uint16_t sel, void *at, uint8_t access, uint8_t count)
{
	uint32_t a = (uint32_t)at;

	return (a & 0xffff) | (uint64_t)sel << 16 | (uint64_t)count << 32 | (uint64_t)access << 40 |
	       (uint64_t)(a >> 16) << 48;
}

#define SLOT(n)	 (SEL_FREE + 8 * (n))
#define SET(n, v) (gdt[SEL_FREE / 8 + (n)] = (v))

static uint32_t cells[8] = { 10, 11, 12, 13, 14, 15, 16, 17 };

static void limits(void)
{
	uint32_t v;

	SET(0, segment((uint32_t)cells, 7, 0x92, 4)); /* two cells */
	asm volatile("mov %0, %%fs" : : "r"(SLOT(0)) : "memory");
	asm volatile("mov %%fs:4, %0" : "=r"(v));
	check_equal(v, 11);
	TRY("mov %%fs:5, %%eax;", : : : "eax");
	check_fault(13, 0);
	TRY("movb %%fs:8, %%al;", : : : "eax");
	check_fault(13, 0);
	SET(0, segment((uint32_t)cells, 7, 0x90, 4)); /* read only */
	asm volatile("mov %0, %%fs" : : "r"(SLOT(0)) : "memory");
	TRY("movl $1, %%fs:0;", : : : "memory");
	check_fault(13, 0);
	SET(0, segment((uint32_t)cells, 7, 0x96, 4)); /* expand-down: from 8 on */
	asm volatile("mov %0, %%fs" : : "r"(SLOT(0)) : "memory");
	asm volatile("mov %%fs:8, %0" : "=r"(v));
	check_equal(v, 12);
	TRY("mov %%fs:4, %%eax;", : : : "eax");
	check_fault(13, 0);
	asm volatile("mov %0, %%fs" : : "r"(0) : "memory");
	SET(0, segment(0, 0xfffff, 0x98, 0xc)); /* execute only */

	TRY("mov %0, %%fs;", : : "r"(SLOT(0)));
	check_fault(13, SLOT(0));
	TRY("mov %0, %%fs;", : : "r"(SLOT(5))); /* empty descriptor */
	check_fault(13, SLOT(5));
	asm volatile("mov %0, %%fs" : : "r"(0) : "memory");
	TRY("mov %%fs:0, %%eax;", : : : "eax");
	check_fault(13, 0);
	check_equal(gdt[SEL_FREE / 8] >> 40 & 1, 0);
	SET(0, segment(0, 0xfffff, 0x92, 0xc));
	asm volatile("mov %0, %%fs" : : "r"(SLOT(0)) : "memory");
	check_equal(gdt[SEL_FREE / 8] >> 40 & 1, 1); /* accessed */
	/* LAR, LSL, VERR, VERW, ARPL */
	uint8_t z;
	asm volatile("lsl %2, %0; setz %1" : "=r"(v), "=q"(z) : "r"(SLOT(0)) : "cc");
	check(z && v == 0xffffffff);
	asm volatile("lar %2, %0; setz %1" : "=r"(v), "=q"(z) : "r"(SLOT(0)) : "cc");
	check(z && (v & 0xff00) == 0x9300);
	asm volatile("verw %w1; setz %0" : "=q"(z) : "r"(SEL_CODE32) : "cc");
	check(!z);
	asm volatile("verr %w1; setz %0" : "=q"(z) : "r"(SEL_CODE32) : "cc");
	check(z);
	v = SEL_DATA;
	asm volatile("arpl %w2, %w0; setz %1" : "+r"(v), "=q"(z) : "r"(3) : "cc");
	check(z && v == (SEL_DATA | 3));
}

/* Called through a gate from ring 3 with two parameters: returns their sum and notes where it ran. */
uint32_t gate_cs, gate_ss;
extern char gate_entry[], conforming_entry[];
asm("gate_entry:\n"
    "	mov %cs, gate_cs\n"
    "	mov %ss, gate_ss\n"
    "	mov 8(%esp), %eax\n"
    "	add 12(%esp), %eax\n"
    "	lret $8\n"
    "conforming_entry:\n"
    "	mov %cs, %eax\n"
    "	lret\n");

static word call_gate(word sel)
{
	word r;

	(void)sel;
	asm volatile("pushl $30; pushl $12; lcall %1, $0" : "=a"(r) : "i"(SLOT(1) | 3) : "memory", "cc");
	return r;
}

static word call_conforming(word arg)
{
	word r;

	asm volatile("lcall %1, $conforming_entry" : "=a"(r) : "i"(SLOT(2) | 3) : "memory", "cc");
	return r;
}

static void call_gates(void)
{
	SET(1, gate(SEL_CODE32, gate_entry, 0xec, 2)); /* 32-bit call gate, DPL 3, two parameters */
	check_equal(user_call(call_gate, 0), 42);
	check_equal(gate_cs, SEL_CODE32);
	check_equal(gate_ss & 3, 0);
	SET(2, segment(0, 0xfffff, 0x9e, 0xc)); /* conforming, DPL 0: runs at the caller's level */
	check_equal(user_call(call_conforming, 0), SLOT(2) | 3);
	/* The same gate from ring 0: no stack switch. */
	word r;
	asm volatile("pushl $1; pushl $2; lcall %1, $0" : "=a"(r) : "i"(SLOT(1)) : "memory", "cc");
	check_equal(r, 3);
	SET(1, gate(SEL_CODE32, gate_entry, 0x6c, 2)); /* not present */
	TRY("lcall %0, $0;", : : "i"(SLOT(1)) : "memory");
	check_fault(11, SLOT(1));
	SET(1, gate(SEL_DATA, gate_entry, 0x8c, 0)); /* to data */
	TRY("lcall %0, $0;", : : "i"(SLOT(1)) : "memory");
	check_fault(13, SEL_DATA);
}

/* ---- tasks ---- */

static struct {
	uint32_t link, esp0, ss0, unused[4], cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es,
		cs, ss, ds, fs, gs, ldt, map;
} task __attribute__((aligned(128)));
static uint8_t task_stack[1024];
volatile uint32_t task_runs, task_eax, task_flags;
extern char task_code[];
asm("task_code:\n"
    "	mov %eax, task_eax\n"
    "	pushf\n"
    "	pop task_flags\n"
    "	incl task_runs\n"
    "	inc %eax\n"
    "	iret\n"
    "	jmp task_code\n");

static void tasks(void)
{
	task.eip = (uint32_t)task_code;
	task.eflags = 2;
	task.eax = 77;
	task.esp = (uint32_t)task_stack + sizeof(task_stack);
	task.cs = SEL_CODE32;
	task.ss = task.ds = task.es = SEL_DATA;
	task.map = 104u << 16;
	SET(3, segment((uint32_t)&task, 103, 0x89, 0));
	asm volatile("lcall %0, $0" : : "i"(SLOT(3)) : "memory", "cc");
	check_equal(task_runs, 1);
	check_equal(task_eax, 77);
	check_equal(task_flags & FL_NT, FL_NT);
	check_equal(task.link, SEL_TSS);
	check_equal(gdt[SEL_FREE / 8 + 3] >> 40 & 0xff, 0x89); /* not busy again */
	check_equal(gdt[SEL_TSS / 8] >> 40 & 0xff, 0x8b);
	check_equal(read_cr0() & CR0_TS, CR0_TS);
	asm volatile("clts");
	/* It goes on where it was. */
	asm volatile("lcall %0, $0" : : "i"(SLOT(3)) : "memory", "cc");
	check_equal(task_runs, 2);
	check_equal(task_eax, 78);
	check_equal(read_flags() & FL_NT, 0);
	/* Through a task gate in the IDT. */
	extern struct {
		uint16_t lo, sel;
		uint8_t ist, type;
		uint16_t mid;
	} idt[256];
	idt[0x46].sel = SLOT(3);
	idt[0x46].type = 0x85;
	asm volatile("int $0x46" : : : "memory", "cc");
	check_equal(task_runs, 3);
	/* A busy task cannot be called. */
	TRY("lcall %0, $0;", : : "i"(SEL_TSS) : "memory");
	check_fault(13, SEL_TSS);
	/* Its TSS too short: #TS. */
	SET(3, segment((uint32_t)&task, 100, 0x89, 0));
	TRY("lcall %0, $0;", : : "i"(SLOT(3)) : "memory");
	check_fault(10, SLOT(3));
	asm volatile("clts");
}

static void interrupt_gates(void)
{
	uint8_t z;
	/* BOUND, INTO: only here. */
	static const int32_t range[2] = { 3, 9 };
	TRY("bound %0, %1;", : : "r"(5), "m"(range));
	check_no_fault();
	TRY("bound %0, %1;", : : "r"(10), "m"(range));
	check_fault(5, 0);
	TRY("mov $0x7f, %%al; add $1, %%al; into;", : : : "eax", "cc");
	check_fault(4, 0);
	asm volatile("xor %%eax, %%eax; into; setz %0" : "=q"(z) : : "eax", "cc");
	check(z);
	/* BCD */
	uint32_t v = 0x0035;
	asm volatile("add $0x38, %%al; daa" : "+a"(v) : : "cc");
	check_equal(v & 0xff, 0x73);
	v = 0x0109;
	asm volatile("add $8, %%al; aaa" : "+a"(v) : : "cc");
	check_equal(v & 0xffff, 0x0207);
	TRY("aam $0;", : : : "eax");
	check_fault(0, 0);
	/* PUSHA, POPA, ENTER, LEAVE */
	uint32_t sp0, sp1;
	asm volatile("mov %%esp, %0; pusha; popa; enter $16, $2; leave; mov %%esp, %1"
		     : "=&r"(sp0), "=&r"(sp1));
	check_equal(sp0, sp1);
}

int main(void)
{
	limits();
	call_gates();
	tasks();
	interrupt_gates();
	return 0;
}
