// SPDX-License-Identifier: Apache-2.0
/* exceptions.c - each exception with its error code, saved RIP and privilege. */
#include "guest.h"

extern char insn_here[];

static void divide(void)
{
	TRY("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; insn_here: div %%ecx;",
	    :
	    :
	    : "rax", "rcx", "rdx", "memory");
	check_fault(0, 0);
	check_equal(fault.ip, (word)insn_here);
	TRY("mov $0x80000000, %%eax; cdq; mov $-1, %%ecx; idiv %%ecx;", : : : "rax", "rcx", "rdx");
	check_fault(0, 0);
}

static void undefined(void)
{
	TRY("ud2;", : : :);
	check_fault(6, 0);
	TRY("lock; nop;", : : :);
	check_fault(6, 0);
	TRY(".byte 0x06;", : : :); /* PUSH ES is not there in 64-bit mode */
	check_fault(6, 0);
	TRY(".byte 0xf0, 0x01, 0xc0;", : : :); /* LOCK on a register */
	check_fault(6, 0);
}

static void breakpoints(void)
{
	TRY("int3;", : : :);
	check_fault(3, 0);
	TRY("int $0x42;", : : :);
	check_fault(0x42, 0);
	TRY(".byte 0xf1;", : : :); /* ICEBP */
	check_fault(1, 0);
}

static void protection(void)
{
	TRY("mov %0, %%rax; mov (%%rax), %%rax;", : : "i"(0x800000000000ull) : "rax");
	check_fault(13, 0);
	TRY("mov %0, %%rax; push %%rbp; mov %%rax, %%rbp; mov (%%rbp), %%rax; pop %%rbp;",
	    :
	    : "i"(0x800000000000ull)
	    : "rax");
	check(fault.happened && fault.vector == 12); /* through SS; RBP was left on the stack */
	asm volatile("pop %%rbp" : : :);
	TRY("mov $0x1234, %%ecx; mov %%ecx, %%ds;", : : : "rcx");
	check_fault(13, 0x1234);
	TRY("mov $0xfff0, %%ecx; mov %%ecx, %%es;", : : : "rcx");
	check_fault(13, 0xfff0);
	TRY("mov %%cr0, %%rax; bts $29, %%rax; mov %%rax, %%cr0;", : : : "rax"); /* NW without CD */
	check_fault(13, 0);
	TRY("mov $0xdeadbeef, %%ecx; rdmsr;", : : : "rax", "rcx", "rdx");
	check_fault(13, 0);
}

static void segment_not_present(void)
{
	gdt[SEL_FREE / 8] = 0x00cf13000000ffff; /* data, not present */
	TRY("mov %0, %%ecx; mov %%ecx, %%ds;", : : "i"(SEL_FREE) : "rcx");
	check_fault(11, SEL_FREE);
	TRY("mov %0, %%ecx; mov %%ecx, %%ss;", : : "i"(SEL_FREE) : "rcx");
	check_fault(12, SEL_FREE);
	TRY("mov %0, %%ecx; ltr %%cx;", : : "i"(SEL_DATA) : "rcx");
	check_fault(13, SEL_DATA);
}

static void page(void)
{
	volatile char *p = (char *)FREE_VIRT;

	TRY("movb $1, (%0);", : : "r"(p) : "memory");
	check_fault(14, 2);
	check_equal(fault.cr2, FREE_VIRT);
	TRY("mov (%0), %%al;", : : "r"(p) : "rax");
	check_fault(14, 0);
}

static word touch_privileged(word what)
{
	if (what == 0)
		asm volatile("cli; hlt");
	else if (what == 1)
		asm volatile("mov %%cr0, %%rax" : : : "rax");
	else if (what == 2)
		asm volatile("int $0x42");
	else if (what == 3)
		asm volatile("mov %0, %%eax; mov %%eax, %%ds" : : "i"(SEL_DATA) : "rax");
	return 7;
}

/* A fault in ring 3 ends the call with its vector. */
static word user_vector, user_error;

static void user_fault(struct frame *f)
{
	user_vector = f->vector;
	user_error = f->error;
	check_equal(f->cs, SEL_USER64);
	f->ax = ~0ul;
	/* On to INT 0x81. */
	static const uint8_t leave[] = { 0xcd, 0x81 };
	f->ip = (word)leave;
}

static void from_user(void)
{
	user_open();
	trap_set(13, user_fault);
	for (unsigned i = 0; i < 4; i++) {
		user_vector = 0;
		word r = user_call(touch_privileged, i);

		if (i == 0)
			continue; /* IOPL 3: CLI is allowed, HLT is not */
		check_equal(r, ~0ul);
		check_equal(user_vector, 13);
	}
	check_equal(user_error, SEL_DATA);
	trap_set(13, NULL);
}

/* #DF: a gate that is not present while a fault is delivered. */
static void double_fault(void)
{
	extern struct {
		uint16_t lo, sel;
		uint8_t ist, type;
		uint16_t mid;
		uint32_t hi, zero;
	} idt[256];

	idt[13].type &= 0x7f;
	TRY("mov %0, %%rax; mov (%%rax), %%rax;", : : "i"(0x800000000000ull) : "rax");
	check(fault.happened);
	/* #GP, then #NP for its gate: both contributory. */
	check_fault(8, 0);
	idt[13].type |= 0x80;

	/* A benign one first: #NP with the vector, IDT bit and EXT clear for INT n. */
	idt[0x42].type &= 0x7f;
	TRY("int $0x42;", : : :);
	check_fault(11, 0x42 * 8 + 2);
	idt[0x42].type |= 0x80;
}

/* ---- RF: what events find of it behind an IRETQ that sets it ---- */

extern char rf_nop[], rf_fault[];
void rf_iret(char *to, word flags); /* to what returns */
asm(".text\n"
    "rf_iret:\n"
    "	mov %ss, %eax\n"
    "	mov %rsp, %rdx\n"
    "	mov $0x8000001000, %r8\n"
    "	push %rax\n"
    "	push %rdx\n"
    "	push %rsi\n"
    "	mov %cs, %eax\n"
    "	push %rax\n"
    "	push %rdi\n"
    "	iretq\n"
    "rf_fault:\n"
    "	mov (%r8), %al\n" /* 3 bytes */
    "	mov (%r8), %al\n"
    "rf_nop:\n"
    "	nop\n"
    "	int3\n"
    "	ret\n");

#define RF_ROUNDS 60u /* it becomes hot */
#define RF_VECTOR 0x90u

static struct {
	word faults, fault_rf, int3_rf, ip, ip_rf;
} rf;

static void rf_event(struct frame *f)
{
	bool set = f->flags & FL_RF;

	if (f->vector == 14) {
		rf.faults++;
		rf.fault_rf += set;
		f->ip += 3;
	} else if (f->vector == 3) {
		rf.int3_rf += set;
	} else {
		rf.ip = f->ip;
		rf.ip_rf += set;
		apic_eoi();
	}
}

static void resume_flag(void)
{
	apic_init();
	trap_set(3, rf_event);
	trap_set(14, rf_event);
	trap_set(RF_VECTOR, rf_event);
	for (unsigned i = 0; i < RF_ROUNDS; i++)
		rf_iret(rf_fault, 2 | FL_RF);
	check_equal(rf.faults, 2 * RF_ROUNDS);
	check_equal(rf.fault_rf, rf.faults);
	check_equal(rf.int3_rf, 0);
	for (unsigned i = 0; i < 2 * RF_ROUNDS; i++) {
		rf.ip = 0;
		cli();
		apic_write(APIC_ICR, 0x44000 | RF_VECTOR); /* to itself: waits for IF */
		rf_iret(rf_nop, 2 | FL_IF | (i & 1 ? FL_RF : 0));
		check_equal(rf.ip, (word)rf_nop);
	}
	cli();
	check_equal(rf.ip_rf, RF_ROUNDS);
	check_equal(rf.int3_rf, 0);
	trap_set(3, NULL);
	trap_set(14, NULL);
}

int main(void)
{
	divide();
	undefined();
	breakpoints();
	protection();
	segment_not_present();
	page();
	double_fault();
	from_user();
	resume_flag();
	return 0;
}
