// SPDX-License-Identifier: Apache-2.0
/* flow.c - branches, calls and returns done so often that they are translated and linked, and then changed. */
#include "guest.h"

typedef unsigned (*code_fn)(unsigned);

#define HOT 60 /* as many executions have been translated and linked */
#define CHANGES 8 /* of a page: more, and it is taken for data */

static uint8_t *put(uint8_t *at, const void *code, size_t len)
{
	memcpy(at, code, len);
	return at + len;
}
#define PUT(at, ...) put(at, (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static uint8_t *put32(uint8_t *at, uint32_t v)
{
	return put(at, &v, 4);
}

/* mov $value, %eax; ret */
static void put_return(uint8_t *at, uint32_t value)
{
	put32(PUT(at, 0xb8), value)[0] = 0xc3;
}

/* opcode rel32 */
static uint8_t *put_branch(uint8_t *at, uint8_t opcode, const uint8_t *to)
{
	return put32(PUT(at, opcode), (uint32_t)(to - (at + 5)));
}

static unsigned hot_call(const void *fn, unsigned arg)
{
	unsigned r = 0;

	for (unsigned i = 0; i < HOT; i++)
		r = ((code_fn)(uintptr_t)fn)(arg);
	return r;
}

/* ---- flags from block to block ---- */

/* CF lives over the loop's end, and over a jump. */
static void carry_over_loop(void)
{
	static uint64_t a[600], b[600], sum[600];
	unsigned carry = 0;
	uint64_t n = 600;
	const uint64_t *pa = a, *pb = b;
	uint64_t *ps = sum;

	for (unsigned i = 0; i < 600; i++) {
		a[i] = i % 3 ? ~0ull : i;
		b[i] = i % 5 ? 1 : ~0ull - i;
	}
	asm volatile("clc; 1: mov (%1), %%rax; jmp 2f; .byte 0x0f, 0x0b; 2: adc (%2), %%rax;"
		     "mov %%rax, (%3); lea 8(%1), %1; lea 8(%2), %2; lea 8(%3), %3; dec %0; jnz 1b"
		     : "+r"(n), "+r"(pa), "+r"(pb), "+r"(ps)
		     :
		     : "rax", "memory", "cc");
	for (unsigned i = 0; i < 600; i++) {
		uint64_t want = a[i] + b[i], full = want + carry;

		carry = want < a[i] || full < want;
		if (sum[i] != full) {
			check_equal(sum[i], full);
			return;
		}
	}
}

/* Each flag is made in one block and read two blocks later, ways apart. */
static void flags_by_jumps(void)
{
	for (unsigned i = 0; i < 400; i++) {
		uint32_t x = i * 0x01234567u, y = i * 0x89abcdefu, got = 0, want;

		asm volatile("cmp %2, %1; jo 1f; js 2f; jc 3f; jp 4f; mov $1, %0; jmp 9f;"
			     "4: jbe 5f; mov $2, %0; jmp 9f; 5: mov $3, %0; jmp 9f;"
			     "3: mov $4, %0; jnp 9f; mov $5, %0; jmp 9f;"
			     "2: mov $6, %0; jnc 9f; mov $7, %0; jmp 9f;"
			     "1: mov $8, %0; jns 9f; mov $9, %0; 9: adc $0, %0"
			     : "+r"(got)
			     : "r"(x), "r"(y)
			     : "cc");
		uint32_t d = x - y, low = d & 0xff;
		bool o = ((x ^ y) & (x ^ d)) >> 31, s = d >> 31, c = x < y, p;

		low ^= low >> 4;
		p = !((0x6996 >> (low & 15)) & 1);
		want = o ? (s ? 9 : 8) : s ? (c ? 7 : 6) : c ? (p ? 5 : 4) : p ? (d ? 2 : 3) : 1;
		check_equal(got, want + c);
	}
}

/* ---- calls and returns ---- */

/* Deeper than what is kept of return addresses. */
static void deep_recursion(uint8_t *stack, unsigned depth)
{
	uint64_t n = depth, count = 0;

	asm volatile("mov %%rsp, %%rbx; mov %2, %%rsp; call 1f; jmp 2f;"
		     "1: dec %0; jz 3f; call 1b; inc %1; 3: ret; 2: mov %%rbx, %%rsp"
		     : "+r"(n), "+r"(count)
		     : "r"(stack)
		     : "rbx", "memory", "cc");
	check_equal(count, depth - 1);
}

/* Returns that no call made, calls that never return, and a frame that is left from below. */
static void unpaired(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < 500; i++) {
		asm volatile("lea 1f(%%rip), %%rax; push %%rax; ret; .byte 0x0f, 0x0b;"
			     "1: call 2f; .byte 0x0f, 0x0b; 2: lea 3f(%%rip), %%rax; mov %%rax, (%%rsp);"
			     "inc %0; ret; .byte 0x0f, 0x0b;"
			     "3: call 4f; 4: call 5f; 5: lea 16(%%rsp), %%rsp;"
			     "call 6f; jmp 8f; 6: call 7f; .byte 0x0f, 0x0b;"
			     "7: lea 8(%%rsp), %%rsp; inc %0; ret; 8: push %0; push %0; call 9f; jmp 10f;"
			     "9: ret $16; 10:"
			     : "+r"(n)
			     :
			     : "rax", "memory", "cc");
	}
	check_equal(n, 1000);
}

/* The address is not canonical: RET itself faults, and has not moved the stack pointer. */
static void return_to_nowhere(void)
{
	for (unsigned i = 0; i < 100; i++) {
		word moved = 0;
		word at = 0;

		TRY("mov %%rsp, %%rbx; movabs $0x8000000000001000, %%rax; push %%rax;"
		    "lea 1f(%%rip), %1; 1: ret; 9: mov %%rbx, %0; sub %%rsp, %0; mov %%rbx, %%rsp;",
		    : "=&r"(moved), "=&r"(at)
		    :
		    : "rax", "rbx", "memory");
		check_equal(moved, 8);
		check_fault(13, 0);
		check_equal(fault.ip, at);
	}
}

/* ---- code that is changed after it was linked ---- */

/* f: mov $a, %eax; jmp g. g: add $b, %eax; ret. Either may change, g lies before or behind f. */
static void linked_in_page(bool forward)
{
	for (unsigned p = 0; p < 12; p++) {
		uint8_t *page = page_alloc(), *f = page + (forward ? 0 : 256), *g = page + 128, *at;
		uint32_t a = 1, b = 2;

		at = put_branch(put32(PUT(f, 0xb8), a), 0xe9, g);
		at = put32(PUT(g, 0x05), b);
		PUT(at, 0xc3);
		for (unsigned i = 0; i < CHANGES; i++) {
			check_equal(hot_call(f, 0), a + b);
			check_equal(hot_call(g + 5, 0) * 0, 0);
			if ((i + p) & 1)
				put32(f + 1, a = i * 1000);
			else
				put32(g + 1, b = i * 77 + p);
		}
		check_equal(hot_call(f, 0), a + b);
	}
}

/* The successor kills the flags at first, and reads them when it was changed. */
static void flags_become_live(bool forward)
{
	for (unsigned p = 0; p < 12; p++) {
		uint8_t *page = page_alloc(), *f = page + (forward ? 0 : 256), *g = page + 128;

		/* f: cmp $5, %edi; jmp g. g: xor %eax, %eax; ret */
		put_branch(PUT(f, 0x83, 0xff, 0x05), 0xe9, g);
		PUT(g, 0x31, 0xc0, 0xc3);
		check_equal(hot_call(f, 4), 0);
		/* g: sbb %eax, %eax; ret */
		PUT(g, 0x19, 0xc0, 0xc3);
		check_equal(((code_fn)f)(4), ~0u);
		check_equal(((code_fn)f)(6), 0);
		check_equal(hot_call(f, 4), ~0u);
		PUT(g, 0x31, 0xc0, 0xc3);
		check_equal(hot_call(f, 4), 0);
	}
}

/* f calls g in the page behind it, jumps back to that one, and one of them is changed. */
static void linked_over_pages(void)
{
	for (unsigned p = 0; p < 12; p++) {
		uint8_t *pages = pages_alloc(2), *f = pages + 64, *g = pages + 4096 + 64, *at;

		/* f: call g; jmp h. h, in the page of g: inc %eax; ret */
		at = put_branch(f, 0xe8, g);
		put_branch(at, 0xe9, g + 64);
		put_return(g, 5);
		PUT(g + 64, 0xff, 0xc0, 0xc3);
		for (unsigned i = 0; i < CHANGES; i++) {
			check_equal(hot_call(f, 0), 6 + i * (p + 1));
			put32(g + 1, 5 + (i + 1) * (p + 1));
			check_equal(((code_fn)f)(0), 6 + (i + 1) * (p + 1));
		}
	}
}

/* One page of code at two addresses, with other pages behind it; and those exchanged. */
static void linked_by_address(void)
{
	uint8_t *code = page_alloc(), *one = page_alloc(), *two = page_alloc();
	uint8_t *a = (uint8_t *)FREE_VIRT, *b = a + 0x40000, *at;

	at = put_branch(code + 8, 0xe8, code + 4096 + 8);
	PUT(at, 0xff, 0xc0, 0xc3);
	put_return(one + 8, 100);
	put_return(two + 8, 200);
	page_map((uintptr_t)a, (uintptr_t)code, PTE_P | PTE_W);
	page_map((uintptr_t)b, (uintptr_t)code, PTE_P | PTE_W);
	for (unsigned i = 0; i < 20; i++) {
		page_map((uintptr_t)a + 4096, (uintptr_t)(i & 1 ? two : one), PTE_P | PTE_W);
		page_map((uintptr_t)b + 4096, (uintptr_t)(i & 1 ? one : two), PTE_P | PTE_W);
		if (i % 3) {
			write_cr3(read_cr3());
		} else {
			invlpg(a + 4096);
			invlpg(b + 4096);
		}
		for (unsigned j = 0; j < HOT; j++) {
			check_equal(((code_fn)(a + 8))(0), i & 1 ? 201 : 101);
			check_equal(((code_fn)(b + 8))(0), i & 1 ? 101 : 201);
		}
	}
}

/* The page that is returned to is another one meanwhile. */
static void return_elsewhere(void)
{
	uint8_t *one = page_alloc(), *two = page_alloc(), *fn = page_alloc(), *v = (uint8_t *)FREE_VIRT;
	uint64_t *pte = page_map((uintptr_t)v + 0x80000, (uintptr_t)one, PTE_P | PTE_W);
	uint8_t *at;

	v += 0x80000;
	/* call *%rsi; mov $n, %eax; ret */
	put_return(PUT(one, 0xff, 0xd6), 1);
	put_return(PUT(two, 0xff, 0xd6), 2);
	/* mov %rdx, (%rcx); invlpg (%r8); ret */
	at = PUT(fn, 0x48, 0x89, 0x11, 0x41, 0x0f, 0x01, 0x38);
	PUT(at, 0xc3);
	for (unsigned i = 0; i < 3 * HOT; i++) {
		uint64_t next = (i / 5 & 1 ? (uintptr_t)two : (uintptr_t)one) | PTE_P | PTE_W;
		unsigned r = 0;

		asm volatile("mov %3, %%rsi; mov %4, %%rdx; mov %5, %%rcx; mov %2, %%r8; call *%2"
			     : "=a"(r)
			     : "0"(0), "r"(v), "r"(fn), "r"(next), "r"(pte)
			     : "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
		check_equal(r, i / 5 & 1 ? 2 : 1);
	}
}

/* ---- code that another CPU changes ---- */

static struct {
	uint8_t *page;
	volatile unsigned seq, seen;
} other;

#define PAGES 24

/* A loop that only the other's store ends. */
static void patch_loop(void *arg)
{
	while (!other.seq)
		pause();
	delay_us(200);
	*(volatile uint8_t *)other.page = 0xc3;
}

static void loop_is_ended(void)
{
	for (unsigned i = 0; i < PAGES; i++) {
		other.page = page_alloc();
		other.seq = 0;
		/* 0: nop; movl $1, seq by %rsi; dec %edi; jmp 0 */
		put_branch(PUT(other.page, 0x90, 0xc7, 0x06, 1, 0, 0, 0, 0xff, 0xcf), 0xe9, other.page);
		smp_call(1, patch_loop, NULL);
		asm volatile("call *%0"
			     :
			     : "r"(other.page), "S"(&other.seq)
			     : "rdi", "rax", "memory", "cc");
		smp_wait(1);
		check(other.seq);
	}
}

/* What was written before seq is what is called after it was read. */
static void publish(void *arg)
{
	for (unsigned i = 1; i <= CHANGES; i++) {
		while (other.seen < i)
			pause();
		if (i & 1)
			put_return(other.page + 512 * (i / 2 + 1), 1000 + i);
		else
			put32(other.page + 512 * ((i - 1) / 2 + 1) + 1, 1000 + i);
		/* The jump at the page's start leads there. */
		*(volatile uint32_t *)(other.page + 4) =
			(uint32_t)(512 * ((i - 1) / 2 + 1) - 8);
		other.seq = i;
	}
}

static void published_is_run(void)
{
	for (unsigned p = 0; p < PAGES; p++) {
		unsigned last = 0;

		other.seq = other.seen = 0;
		other.page = page_alloc();
		put_return(other.page + 512, 7);
		put_branch(other.page + 3, 0xe9, other.page + 512);
		hot_call(other.page + 3, 0);
		smp_call(1, publish, NULL);
		while (last < CHANGES) {
			unsigned seq = other.seq, r;

			r = ((code_fn)(other.page + 3))(0);
			if (seq && r < 1000 + seq)
				check_equal(r, 1000 + seq);
			if (seq != last) {
				last = seq;
				hot_call(other.page + 3, 0);
			}
			if (other.seen == last)
				other.seen = last + 1;
		}
		smp_wait(1);
	}
}

/* A flag tells of new code further down the page, and CPUID serializes in between. */
static void publish_flag(void *arg)
{
	for (unsigned i = 1; i <= CHANGES; i++) {
		while (other.seen < i)
			pause();
		put32(other.page + 129, i * 3);
		other.seq = i;
	}
}

static void serialized_is_run(void)
{
	for (unsigned p = 0; p < PAGES; p++) {
		uint8_t *at;

		other.seq = other.seen = 0;
		other.page = page_alloc();
		/* 0: cmp %edi, (%rsi); jb 0; xor %eax, %eax; push %rbx; cpuid; pop %rbx; jmp 128 */
		at = PUT(other.page, 0x39, 0x3e, 0x72, 0xfc, 0x31, 0xc0, 0x53, 0x0f, 0xa2, 0x5b);
		put_branch(at, 0xe9, other.page + 128);
		put_return(other.page + 128, 0);
		smp_call(1, publish_flag, NULL);
		for (unsigned i = 0; i <= CHANGES; i++) {
			unsigned r = 0;

			other.seen = i;
			for (unsigned j = 0; j < HOT; j++) {
				asm volatile("call *%2"
					     : "=a"(r)
					     : "D"(i), "r"(other.page), "S"(&other.seq)
					     : "rcx", "rdx", "memory", "cc");
				check_equal(r, i * 3);
			}
		}
		smp_wait(1);
	}
}

int main(void)
{
	uint8_t *stack = (uint8_t *)pages_alloc(256) + 256 * 4096;

	carry_over_loop();
	flags_by_jumps();
	for (unsigned i = 0; i < 8; i++) {
		deep_recursion(stack, 100);
		deep_recursion(stack, 100000);
	}
	unpaired();
	return_to_nowhere();
	linked_in_page(false);
	linked_in_page(true);
	flags_become_live(false);
	flags_become_live(true);
	linked_over_pages();
	linked_by_address();
	return_elsewhere();
	if (smp_start() > 1) {
		loop_is_ended();
		published_is_run();
		serialized_is_run();
	}
	return 0;
}
