// SPDX-License-Identifier: Apache-2.0
/*
 * kernel.c - a guest that times what a kernel does all day: entries, returns, address spaces, interrupts.
 *
 * Prints "K NAME NANOSECONDS" for each. As in an operating system, the kernel's half lies in the upper
 * half of the address space, in global pages that user mode may not touch: an alias of all memory.
 */
#include "guest.h"

#define STAR   0xc0000081u
#define LSTAR  0xc0000082u
#define SFMASK 0xc0000084u
#define HIGH   0xffff800000000000ul
#define ROUNDS 20000ul
#define FEW    500ul
#define TRIES  20 /* the best counts */

#define VECTOR_INT   0x82
#define VECTOR_IPI   0x83
#define VECTOR_TIMER 0x84

extern uint64_t boot_pml4[512];
extern char syscall_bare[], syscall_stack[], fault_skip[], int_back[], ipi_back[];
extern char loop_syscall[], loop_int[], loop_fault[], loop_int3[], loop_cr3[], loop_cr3_two[];
extern char loop_invlpg[], loop_swapgs[], loop_rdmsr[], loop_wrmsr[], loop_wrfsbase[], loop_out[];
extern char loop_xsave[], loop_self_ipi[], loop_apic_read[], loop_clisti[], loop_iretq[];
extern char loop_cpuid[], loop_in_pic[], loop_mmio[];
word bench_gs[8], bench_arg[4], bench_area[256] __attribute__((aligned(64)));
volatile word bench_hits;

/* All loops: RDI rounds. They may not name memory but by RIP: they run at an alias. */
asm(".text\n.balign 64\n"
    "syscall_bare:\n"
    "	sysretq\n"
    /* As Linux begins and ends one. */
    "syscall_stack:\n"
    "	swapgs\n"
    "	mov %rsp, %gs:8\n"
    "	mov %gs:0, %rsp\n"
    "	push $0x2b\n"
    "	push %gs:8\n"
    "	push %r11\n"
    "	push $0x33\n"
    "	push %rcx\n"
    "	push %rax\n"
    "	push %rdi\n"
    "	sti\n"
    "	call 1f\n"
    "	cli\n"
    "	pop %rdi\n"
    "	pop %rax\n"
    "	pop %rcx\n"
    "	pop %r11\n"
    "	pop %r11\n"
    "	mov %gs:8, %rsp\n"
    "	swapgs\n"
    "	sysretq\n"
    "1:	ret\n"
    ".balign 64\n"
    "fault_skip:\n"
    "	add $8, %rsp\n"
    "	addq $3, (%rsp)\n"
    "	iretq\n"
    "int_back:\n"
    "	iretq\n"
    "ipi_back:\n"
    "	push %rax\n"
    "	incq bench_hits(%rip)\n"
    "	mov $0xfee000b0, %eax\n"
    "	movl $0, (%rax)\n"
    "	pop %rax\n"
    "	iretq\n"
    ".balign 64\n"
    "loop_syscall:\n"
    "	syscall\n"
    "	dec %rdi\n"
    "	jnz loop_syscall\n"
    "	ret\n"
    "loop_int:\n"
    "	int $0x82\n"
    "	dec %rdi\n"
    "	jnz loop_int\n"
    "	ret\n"
    "loop_fault:\n"
    "	mov $0x8000000000, %rax\n"
    "1:	mov (%rax), %rcx\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_int3:\n"
    "	int3\n"
    "	dec %rdi\n"
    "	jnz loop_int3\n"
    "	ret\n"
    "loop_iretq:\n" /* to itself, in ring 0 */
    "	mov %ss, %ecx\n"
    "	mov %cs, %edx\n"
    "	lea 2f(%rip), %rsi\n"
    "1:	mov %rsp, %rax\n"
    "	push %rcx\n"
    "	push %rax\n"
    "	pushf\n"
    "	push %rdx\n"
    "	push %rsi\n"
    "	iretq\n"
    "2:	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_cr3:\n" /* one address space, flushed each time */
    "	mov bench_arg(%rip), %rax\n"
    "1:	mov %rax, %cr3\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_cr3_two:\n" /* two, nothing is flushed */
    "	mov bench_arg(%rip), %rax\n"
    "	mov bench_arg+8(%rip), %rcx\n"
    "1:	mov %rcx, %cr3\n"
    "	mov %rax, %cr3\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_invlpg:\n"
    "	mov $0x8000000000, %rax\n"
    "1:	invlpg (%rax)\n"
    "	add $4096, %rax\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_swapgs:\n"
    "	swapgs\n"
    "	dec %rdi\n"
    "	jnz loop_swapgs\n"
    "	ret\n"
    "loop_rdmsr:\n"
    "	mov $0xc0000100, %ecx\n"
    "1:	rdmsr\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_wrmsr:\n"
    "	mov $0xc0000100, %ecx\n"
    "	xor %eax, %eax\n"
    "	xor %edx, %edx\n"
    "1:	wrmsr\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_wrfsbase:\n"
    "	xor %eax, %eax\n"
    "1:	wrfsbase %rax\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_clisti:\n"
    "	sti\n"
    "	nop\n"
    "	cli\n"
    "	dec %rdi\n"
    "	jnz loop_clisti\n"
    "	ret\n"
    "loop_in_pic:\n"
    "	in $0x21, %al\n"
    "	dec %rdi\n"
    "	jnz loop_in_pic\n"
    "	ret\n"
    "loop_mmio:\n"
    "	mov $0xd0000000, %eax\n"
    "1:	mov (%rax), %ecx\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_out:\n"
    "	mov $0x5f0, %edx\n"
    "1:	out %al, %dx\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_cpuid:\n"
    "	push %rbx\n"
    "1:	xor %eax, %eax\n"
    "	cpuid\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	pop %rbx\n"
    "	ret\n"
    "loop_xsave:\n"
    "	lea bench_area(%rip), %rsi\n"
    "	mov $7, %eax\n"
    "	xor %edx, %edx\n"
    "1:	xsave64 (%rsi)\n"
    "	xrstor64 (%rsi)\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_apic_read:\n"
    "	mov $0xfee00020, %eax\n"
    "1:	mov (%rax), %ecx\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n"
    "loop_self_ipi:\n"
    "	mov $0xfee00300, %eax\n"
    "1:	mov bench_hits(%rip), %rcx\n"
    "	movl $0x44083, (%rax)\n" /* to self, vector 0x83 */
    "	sti\n"
    "2:	cmp %rcx, bench_hits(%rip)\n"
    "	je 2b\n"
    "	cli\n"
    "	dec %rdi\n"
    "	jnz 1b\n"
    "	ret\n");

static uint64_t tsc_khz;

static void *high(void *p)
{
	return (void *)((word)p + HIGH);
}

static void report(const char *name, uint64_t ticks, word rounds)
{
	/* In tenths of a nanosecond. */
	uint64_t tenths = ticks * 10000000u / (tsc_khz * rounds);

	print("K %s %lu.%lu\n", name, (word)(tenths / 10), (word)(tenths % 10));
}

static uint64_t timed(void (*loop)(word), word rounds)
{
	uint64_t best = ~0ull;

	loop(rounds / 10 + 1);
	for (int i = 0; i < TRIES; i++) {
		uint64_t start = rdtsc();

		loop(rounds);
		start = rdtsc() - start;
		best = start < best ? start : best;
	}
	return best;
}

static void kernel(const char *name, char *loop, word rounds)
{
	report(name, timed((void (*)(word))high(loop), rounds), rounds);
}

static word user_rounds;

static word user_timed(word loop)
{
	return timed((void (*)(word))loop, user_rounds);
}

static void user(const char *name, char *loop, word rounds)
{
	user_rounds = rounds;
	report(name, user_call(user_timed, (word)loop), rounds);
}

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_mid;
	uint32_t offset_high, reserved;
} __attribute__((packed));
extern struct gate idt[256];

static void gate_set(unsigned vector, void *to)
{
	word at = (word)high(to);

	idt[vector].offset_low = (uint16_t)at;
	idt[vector].offset_mid = (uint16_t)(at >> 16);
	idt[vector].offset_high = (uint32_t)(at >> 32);
}

/* The first 4 GiB once more, in large global pages of the kernel's own. */
static void alias_open(void)
{
	uint64_t *pdpt = page_alloc();

	for (unsigned i = 0; i < 4; i++) {
		uint64_t *pd = page_alloc();

		for (unsigned j = 0; j < 512; j++)
			pd[j] = ((uint64_t)i << 30 | (uint64_t)j << 21) | PTE_P | PTE_W | PTE_PS | PTE_G |
				PTE_A | PTE_D;
		pdpt[i] = (uintptr_t)pd | PTE_P | PTE_W;
	}
	boot_pml4[256] = (uintptr_t)pdpt | PTE_P | PTE_W;
	write_cr4(read_cr4() | 1u << 7);
}

/* Descriptor tables and the TSS by the alias. */
static void tables_high(void)
{
	struct {
		uint16_t limit;
		word base;
	} __attribute__((packed)) gdt_at = { sizeof(gdt) - 1, (word)high(gdt) },
				  idt_at = { 256 * 16 - 1, (word)high(idt) };

	gdt[SEL_TSS / 8] &= ~(2ull << 40); /* not busy */
	gdt[SEL_TSS / 8 + 1] = HIGH >> 32;
	asm volatile("lgdt %0; lidt %1; ltr %w2" : : "m"(gdt_at), "m"(idt_at), "r"(SEL_TSS) : "memory");
}

/* A delay that the host interrupted is longer than it should be: the shortest counts. */
static void calibrate(void)
{
	for (int i = 0; i < TRIES; i++) {
		uint64_t start = rdtsc();

		delay_us(2500);
		start = (rdtsc() - start) * 2 / 5;
		if (!tsc_khz || start < tsc_khz)
			tsc_khz = start;
	}
}

static void calls(void)
{
	static word stack[512];

	wrmsr(EFER, rdmsr(EFER) | EFER_SCE);
	wrmsr(STAR, 0x18ull << 32 | 0x23ull << 48);
	wrmsr(LSTAR, (word)high(syscall_bare));
	wrmsr(SFMASK, FL_IF | FL_TF | FL_DF | FL_AC);
	user("syscall", loop_syscall, ROUNDS);
	wrmsr(LSTAR, (word)high(syscall_stack));
	bench_gs[0] = (word)high(&stack[500]);
	wrmsr(0xc0000102u, (word)high(bench_gs));
	user("syscall-with-stack", loop_syscall, ROUNDS);
	gate_set(VECTOR_INT, int_back);
	trap_allow_user(VECTOR_INT);
	user("int-from-user", loop_int, ROUNDS);
	gate_set(14, fault_skip);
	user("page-fault-from-user", loop_fault, ROUNDS);
	kernel("page-fault-from-kernel", loop_fault, ROUNDS);
	gate_set(3, int_back);
	kernel("int3-from-kernel", loop_int3, ROUNDS);
	kernel("iretq-to-kernel", loop_iretq, ROUNDS);
}

static void instructions(void)
{
	kernel("cli-sti", loop_clisti, ROUNDS);
	kernel("swapgs", loop_swapgs, ROUNDS);
	kernel("rdmsr-fs-base", loop_rdmsr, ROUNDS);
	kernel("wrmsr-fs-base", loop_wrmsr, ROUNDS);
	if (cpuid(7, 0).b & 1) {
		write_cr4(read_cr4() | CR4_FSGSBASE);
		kernel("wrfsbase", loop_wrfsbase, ROUNDS);
	}
	kernel("invlpg", loop_invlpg, ROUNDS);
	bench_arg[0] = read_cr3();
	kernel("mov-cr3-flush", loop_cr3, ROUNDS);
	if (cpuid(1, 0).c & 1u << 17) {
		write_cr4(read_cr4() | CR4_PCIDE);
		bench_arg[0] = read_cr3() | 1ull << 63 | 1;
		bench_arg[1] = read_cr3() | 1ull << 63 | 2;
		kernel("mov-cr3-pcid-two", loop_cr3_two, ROUNDS);
	}
	kernel("cpuid", loop_cpuid, FEW);
	kernel("out", loop_out, FEW);
	kernel("in-from-8259", loop_in_pic, FEW);
	kernel("load-from-nowhere", loop_mmio, FEW);
}

/* ---- interrupts ---- */

static void wait_hit(word seen)
{
	while (bench_hits == seen)
		asm volatile("sti; hlt; cli" : : : "memory");
}

static void timer_waited_for(word rounds)
{
	for (word i = 0; i < rounds; i++) {
		word seen = bench_hits;

		apic_write(APIC_INITIAL, 100000);
		wait_hit(seen);
	}
}

static void timer_armed(word rounds)
{
	for (word i = 0; i < rounds; i++)
		apic_write(APIC_INITIAL, 1000000000);
}

static void timer(void)
{
	gate_set(VECTOR_TIMER, ipi_back);
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_TIMER, VECTOR_TIMER);
	report("timer-armed", timed(timer_armed, FEW), FEW);
	report("timer-of-100us-and-halt", timed(timer_waited_for, FEW / 50), FEW / 50);
	apic_write(APIC_INITIAL, 0);
}

static volatile word turn;

/* The other CPU answers each interrupt with one, until the machine ends. */
static void answer(void *arg)
{
	for (;;) {
		while (!(turn & 1))
			asm volatile("sti; hlt; cli" : : : "memory");
		turn += 1;
		apic_send(0, VECTOR_IPI);
	}
}

static void ping(word rounds)
{
	for (word i = 0; i < rounds; i++) {
		turn += 1;
		apic_send(1, VECTOR_IPI);
		while (turn & 1)
			asm volatile("sti; hlt; cli" : : : "memory");
	}
}

/* Last: QEMU's SVM knows no XSETBV of a guest's, which ends it. */
static void vectors(void)
{
	if (cpuid(1, 0).c & 1u << 26) {
		write_cr4(read_cr4() | CR4_OSXSAVE);
		asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
		kernel("xsave-xrstor", loop_xsave, ROUNDS);
	}
}

int main(void)
{
	/* Some loaders leave the command line where pages are allocated. */
	unsigned cpus = argument("cpus");

	alias_open();
	user_open();
	tables_high();
	apic_init(); /* firmware may have left the 8259 on */
	calibrate();
	calls();
	instructions();
	gate_set(VECTOR_IPI, ipi_back);
	kernel("apic-read", loop_apic_read, FEW);
	kernel("self-ipi", loop_self_ipi, FEW);
	timer();
	if (cpus > 1 && smp_start() > 1) {
		smp_call(1, answer, NULL);
		report("ipi-halt-there-and-back", timed(ping, FEW), FEW);
	}
	vectors();
	return 0;
}
