// SPDX-License-Identifier: Apache-2.0
/*
 * guest.h - what tiny guests stand on: output, checks, traps, page tables, the local APIC, other CPUs.
 *
 * A guest is one C file with main(); it runs on the bare machine, identity mapped, interrupts off.
 * Returning from main() ends the machine through the debug exit port: 0 when every check() held.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned long word; /* 32 or 64 bits, as the guest */

/* ---- ports, output, end ---- */

static inline void outb(uint16_t port, uint8_t v)
{
	asm volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t v)
{
	asm volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
	asm volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	asm volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	asm volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

void put_string(const char *s);
/* %s %d %u %x %lx %c only. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void finish(unsigned status) __attribute__((noreturn));

/* Count; tell the failed ones. */
void check_at(bool held, const char *what, const char *file, int line);
#define check(cond) check_at((cond), #cond, __FILE__, __LINE__)
/* Both values are told when they differ. */
void check_equal_at(uint64_t a, uint64_t b, const char *what, const char *file, int line);
#define check_equal(a, b)                                                                          \
	check_equal_at((uint64_t)(a), (uint64_t)(b), #a " == " #b, __FILE__, __LINE__)
extern unsigned check_failures;
/* End at once, counted as passed with a line that says why nothing could be tested. */
void skip(const char *why) __attribute__((noreturn));

void *memset(void *to, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* ---- processor registers ---- */

#define READ_CR(n)                                                                                 \
	static inline word read_cr##n(void)                                                        \
	{                                                                                          \
		word v;                                                                            \
                                                                                                   \
		asm volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                         \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_cr##n(word v)                                                     \
	{                                                                                          \
		asm volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                             \
	}
READ_CR(0)
READ_CR(2)
READ_CR(3)
READ_CR(4)

#define DR(n)                                                                                      \
	static inline word read_dr##n(void)                                                        \
	{                                                                                          \
		word v;                                                                            \
                                                                                                   \
		asm volatile("mov %%dr" #n ", %0" : "=r"(v));                                      \
		return v;                                                                          \
	}                                                                                          \
	static inline void write_dr##n(word v)                                                     \
	{                                                                                          \
		asm volatile("mov %0, %%dr" #n : : "r"(v));                                        \
	}
DR(0)
DR(1)
DR(6)
DR(7)

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
	return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(subleaf));
	return r;
}

static inline void invlpg(const void *p)
{
	asm volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline word read_flags(void)
{
	word v;

	asm volatile("pushf; pop %0" : "=r"(v) : : "memory");
	return v;
}

static inline void cli(void)
{
	asm volatile("cli" : : : "memory");
}

static inline void sti(void)
{
	asm volatile("sti" : : : "memory");
}

static inline void pause(void)
{
	asm volatile("pause" : : : "memory");
}

#define EFER	       0xc0000080u
#define EFER_SCE       (1u << 0)
#define EFER_LME       (1u << 8)
#define EFER_LMA       (1u << 10)
#define EFER_NXE       (1u << 11)
#define CR0_WP	       (1u << 16)
#define CR0_TS	       (1u << 3)
#define CR0_EM	       (1u << 2)
#define CR0_MP	       (1u << 1)
#define CR0_NE	       (1u << 5)
#define CR0_AM	       (1u << 18)
#define CR0_PG	       (1u << 31)
#define CR4_DE	       (1u << 3)
#define CR4_PSE	       (1u << 4)
#define CR4_PAE	       (1u << 5)
#define CR4_PGE	       (1u << 7)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)
#define FL_CF	       (1u << 0)
#define FL_ZF	       (1u << 6)
#define FL_TF	       (1u << 8)
#define FL_IF	       (1u << 9)
#define FL_DF	       (1u << 10)
#define FL_IOPL	       (3u << 12)
#define FL_NT	       (1u << 14)
#define FL_RF	       (1u << 16)
#define FL_VM	       (1u << 17)
#define FL_AC	       (1u << 18)

/* ---- segments ---- */
#define SEL_CODE32 0x08 /* flat ring 0 */
#define SEL_DATA   0x10
#define SEL_CODE64 0x18
/* SYSCALL's order: user 32-bit code, user data, user 64-bit code. */
#define SEL_USER32   0x23
#define SEL_USERDATA 0x2b
#define SEL_USER64   0x33
#define SEL_TSS	     0x40 /* two slots in 64-bit mode */
#define SEL_FREE     0x50 /* this and what follows: for the guest */
#define GDT_SLOTS    32
extern uint64_t gdt[GDT_SLOTS];

/* ---- traps ---- */
#ifdef __x86_64__
struct frame {
	word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
	word vector, error, ip, cs, flags, sp, ss;
};
#else
struct frame {
	word gs, fs, es, ds;
	word di, si, bp, unused_sp, bx, dx, cx, ax;
	word vector, error, ip, cs, flags;
	word sp, ss;		     /* from another ring only */
	word v_es, v_ds, v_fs, v_gs; /* from virtual-8086 mode only */
};
#endif

typedef void (*trap_fn)(struct frame *f);
/* The handler of a vector; NULL: the last fault is noted and the guest goes on at trap_resume, or
 * the test ends when that is not set. Interrupts acknowledge by themselves (apic_eoi()). */
void trap_set(unsigned vector, trap_fn fn);
/* A gate that user mode may call by INT. */
void trap_allow_user(unsigned vector);
void trap_init(void);
/* As lidt: for guests that change it and want it back. */
void trap_load_idt(void);
extern word trap_stubs[256];

struct fault {
	bool happened;
	word vector, error, ip, cr2, flags, cs;
};
extern struct fault fault;
extern word trap_resume;
/* One fault expected: run asm text @insn with operands; `fault` tells what came. */
#ifdef __x86_64__
#define TRAP_ARM "movq $0, fault(%%rip); movq $-1, fault+8(%%rip); movq $9f, trap_resume(%%rip);"
#define TRAP_END "\n9: movq $0, trap_resume(%%rip)\n"
#else
#define TRAP_ARM "movl $0, fault; movl $-1, fault+4; movl $9f, trap_resume;"
#define TRAP_END "\n9: movl $0, trap_resume\n"
#endif
#define TRY(insn, ...) asm volatile(TRAP_ARM insn TRAP_END __VA_ARGS__)
#define check_fault(v, e)                                                                          \
	do {                                                                                       \
		check(fault.happened);                                                             \
		check_equal(fault.vector, v);                                                      \
		check_equal(fault.error, e);                                                       \
	} while (0)
#define check_no_fault() check_equal(fault.happened ? fault.vector + 1 : 0, 0)

/* Run @fn(arg) in ring 3 on a stack of its own; returns what it returns. Vector 0x81 is taken. All of
 * memory has to be open to user mode: user_open(). */
word user_call(word (*fn)(word), word arg);
extern word user_flags; /* with which it begins: IF at first */
void user_open(void);
extern word tss_stack0; /* where a trap from ring 3 starts, in the TSS */

/* ---- memory ---- */
/* The number behind "@key=" on the command line, or 0. */
unsigned argument(const char *key);
/* Zeroed pages, identity mapped, below 4 GiB. Never given back. */
void *page_alloc(void);
void *pages_alloc(unsigned count);
#define PTE_P  (1ull << 0)
#define PTE_W  (1ull << 1)
#define PTE_U  (1ull << 2)
#define PTE_A  (1ull << 5)
#define PTE_D  (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G  (1ull << 8)
#define PTE_NX (1ull << 63)
/* 64-bit guests: map one 4 KiB page; returns the entry. Virtual addresses from 4 GiB on are free. */
uint64_t *page_map(uint64_t virt, uint64_t phys, uint64_t flags);
#define FREE_VIRT 0x8000000000ull

/* ---- local APIC ---- */
#define APIC_ID	     0x20
#define APIC_TPR     0x80
#define APIC_PPR     0xa0
#define APIC_EOI     0xb0
#define APIC_LDR     0xd0
#define APIC_DFR     0xe0
#define APIC_SVR     0xf0
#define APIC_ISR     0x100
#define APIC_IRR     0x200
#define APIC_ESR     0x280
#define APIC_ICR     0x300
#define APIC_ICR2    0x310
#define APIC_TIMER   0x320
#define APIC_LINT0   0x350
#define APIC_LINT1   0x360
#define APIC_INITIAL 0x380
#define APIC_CURRENT 0x390
#define APIC_DIVIDE  0x3e0
#define APIC_BASE    0xfee00000ul
static inline uint32_t apic_read(unsigned reg)
{
	return *(volatile uint32_t *)(APIC_BASE + reg);
}

static inline void apic_write(unsigned reg, uint32_t v)
{
	*(volatile uint32_t *)(APIC_BASE + reg) = v;
}

/* Software enable, spurious vector 0xff, LINT0 masked, 8259 masked. */
void apic_init(void);
void apic_eoi(void);
void apic_send(uint32_t id, uint32_t icr);
/* Spin with interrupts on until *counter reaches @value; false after about @ms. */
bool wait_for(volatile unsigned *counter, unsigned value, unsigned ms);
void delay_us(unsigned us); /* by the PIT */
void pic_mask_all(void);

/* ---- other CPUs (64-bit guests) ---- */
/* Start them all, "cpus=N" of the command line or as many as answer; returns how many run, this one
 * included. They wait for work. */
unsigned smp_start(void);
void smp_call(unsigned cpu, void (*fn)(void *), void *arg); /* asynchronous */
void smp_wait(unsigned cpu);				       /* until it is done */
unsigned smp_index(void);

int main(void);
