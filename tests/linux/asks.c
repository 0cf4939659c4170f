// SPDX-License-Identifier: Apache-2.0
/*
 * asks.c - the init of a Linux guest that asks its processor what a program can be told of the host instead: CPUID,
 * the counter, its number. By code that lies as compilers and linkers leave it: alone in a page, crowded, over a page's end, behind
 * other instructions of a large function. Prints what was said, for asks.py to compare; and looks itself whether
 * time goes on, whoever is asked.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 40u
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* void NAME(uint32_t regs[4]): EAX and ECX, then what CPUID says. */
#define CPUID(name)                                                                      \
	#name ": push %rbx; mov (%rdi), %eax; mov 8(%rdi), %ecx; cpuid; mov %eax, (%rdi);" \
	"mov %ebx, 4(%rdi); mov %ecx, 8(%rdi); mov %edx, 12(%rdi); pop %rbx; ret;\n"
/* uint64_t NAME(void) */
#define RDTSC(name)  #name ": rdtsc; shl $32, %rdx; or %rdx, %rax; ret;\n"
#define RDTSCP(name) #name ": rdtscp; shl $32, %rdx; or %rdx, %rax; ret;\n"
/* Bytes before the end of its page. */
#define BEFORE_END(n) ".balign 4096, 0x90; .skip 4096 - " #n ", 0x90;\n"

__asm__(".text\n.balign 4096, 0x90;\n"
	CPUID(alone)
	".balign 4096, 0x90;\n"
	CPUID(few0) RDTSC(few1) RDTSCP(few2)
	/* uint32_t few3(void): who asks for the processor's number by RDTSCP */
	"few3: rdtscp; mov %ecx, %eax; ret;\n"
	".balign 4096, 0x90;\n"
	CPUID(crowd0) CPUID(crowd1) CPUID(crowd2) CPUID(crowd3) CPUID(crowd4) CPUID(crowd5) CPUID(crowd6)
	RDTSC(crowd7) RDTSC(crowd8) RDTSCP(crowd9) RDTSC(crowd10) RDTSCP(crowd11)
	"idle: lea 1(%rdi), %rax; ret;\n"
	/* uint64_t large(uint32_t regs[10][4]): ten, one behind the other, and over branches. */
	".balign 4096, 0x90;\n"
	"large: push %rbx; push %r12; lea 160(%rdi), %r12; jmp 2f;\n"
	".rept 4; 1: mov (%rdi), %eax; mov 8(%rdi), %ecx; cpuid; mov %eax, (%rdi); mov %ebx, 4(%rdi);"
	"mov %ecx, 8(%rdi); mov %edx, 12(%rdi); add $16, %rdi; 2: cmp %r12, %rdi; jb 1b; .endr\n"
	"rdtsc; shl $32, %rdx; or %rdx, %rax; pop %r12; pop %rbx; ret;\n"
	BEFORE_END(1) RDTSC(end1)
	BEFORE_END(1) RDTSCP(end2)
	BEFORE_END(2) RDTSCP(end3)
	".balign 4096, 0x90;\n");

typedef void (*cpuid_fn)(uint32_t regs[4]);
typedef uint64_t (*tsc_fn)(void);
void alone(uint32_t *), few0(uint32_t *), crowd0(uint32_t *), crowd1(uint32_t *), crowd2(uint32_t *), crowd3(uint32_t *),
	crowd4(uint32_t *), crowd5(uint32_t *), crowd6(uint32_t *);
uint64_t few1(void), few2(void), crowd7(void), crowd8(void), crowd9(void), crowd10(void), crowd11(void), end1(void),
	end2(void), end3(void), idle(uint64_t), large(uint32_t regs[10][4]);
uint32_t few3(void);

static const cpuid_fn cpuids[] = { alone, few0, crowd0, crowd1, crowd2, crowd3, crowd4, crowd5, crowd6 };
static const tsc_fn tscs[] = { few1, crowd7, end1, few2, crowd8, end2, crowd9, end3, crowd10, crowd11 };
/* Feature bits, the processor's number and name, and the hypervisor's, by which two hosts are told apart. */
static const uint32_t leaves[] = { 0, 1, 2, 4, 7, 0xb, 0xd, 0x40000000, 0x80000001, 0x80000002, 0x80000008 };

static int64_t ns(const struct timespec *ts)
{
	return ts->tv_sec * 1000000000ll + ts->tv_nsec;
}

/* Computes until the timer has found it at that, twice or so: what is asked too often is done by the book until then. */
static void compute(void)
{
	struct timespec since, now;
	uint64_t n = 0;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &since);
	do {
		for (unsigned i = 0; i < 100000; i++)
			n = idle(n);
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	} while (ns(&now) - ns(&since) < 10000000);
}

static void say_cpuids(void)
{
	for (size_t l = 0; l < COUNT(leaves); l++) {
		uint32_t first[4] = { leaves[l] };

		alone(first);
		printf("A %x: %x %x %x %x\n", leaves[l], first[0], first[1], first[2], first[3]);
		for (size_t i = 0; i < COUNT(cpuids) * ROUNDS; i++) {
			uint32_t r[4] = { leaves[l] };

			if (i % 60 == 0)
				compute();
			cpuids[i % COUNT(cpuids)](r);
			for (unsigned k = 0; k < 4; k++)
				if (r[k] != first[k])
					printf("A %x by %zu: %x %x %x %x\n", leaves[l], i, r[0], r[1], r[2], r[3]);
		}
	}
}

static void say_large(void)
{
	uint64_t last = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		uint32_t r[10][4] = { { 0 } };
		uint64_t now;

		for (unsigned i = 0; i < 10; i++)
			r[i][0] = leaves[i];
		if (round % 4 == 0)
			compute();
		now = large(r);
		if (now <= last)
			printf("T large %lx behind %lx\n", now, last);
		last = now;
		for (unsigned i = 0; i < 10 && round % (ROUNDS / 2) == 0; i++)
			printf("L %u: %x %x %x %x\n", i, r[i][0], r[i][1], r[i][2], r[i][3]);
	}
}

/* Each reading is later than the one before, whoever reads; and so is what the kernel says, and what libc does by
 * itself. */
static void say_times(void)
{
	uint64_t last = few1(), apart = 0;
	struct timespec kernels, own;
	int64_t then = 0;

	for (size_t i = 0; i < COUNT(tscs) * ROUNDS; i++) {
		uint64_t now;

		if (i % 10 == 0)
			compute();
		now = tscs[i % COUNT(tscs)]();

		if (now <= last)
			printf("T %zu: %lx behind %lx\n", i, now, last);
		if (now - last > apart)
			apart = now - last;
		last = now;
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &kernels);
		clock_gettime(CLOCK_MONOTONIC, &own);
		if (ns(&kernels) < then || ns(&own) < ns(&kernels))
			printf("T %zu: %ld, %ld, %ld\n", i, then, ns(&kernels), ns(&own));
		then = ns(&own);
	}
	/* A host is up for longer than a minute. */
	printf("T apart %s\n", apart < 60000000000u ? "little" : "much");
}

int main(void)
{
	uint64_t n = 0;

	say_cpuids();
	say_large();
	say_times();
	printf("N %u\n", few3());
	/* Computing beside those that ask. */
	for (unsigned i = 0; i < 1000; i++)
		n = idle(n);
	printf("I %lu\nEND\n", n);
	fflush(stdout);
	reboot(RB_POWER_OFF);
	return 0;
}
