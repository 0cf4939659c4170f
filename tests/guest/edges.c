// SPDX-License-Identifier: Apache-2.0
/*
 * edges.c - instructions that lie over the end of a page, executed often enough to be remembered and
 * called by translated code: every split, changed, mapped elsewhere, gone, faulting.
 */
#include "guest.h"

#define OFTEN 40u
#define VIRT  ((uint8_t *)FREE_VIRT + 0xa00000)

typedef unsigned (*code_fn)(unsigned);
typedef uint64_t (*xadd_fn)(volatile uint64_t *);

static uint8_t *first, *second; /* where VIRT and the page behind are mapped */
static volatile uint32_t data = 1000, *stored;

/* mov %edi, %eax; @insn with @in bytes in the first page; ret. In pages of its own: those that were
 * written often may be treated otherwise. */
static code_fn put(const uint8_t *insn, unsigned len, unsigned in)
{
	first = page_alloc();
	second = page_alloc();
	page_map((uintptr_t)VIRT, (uintptr_t)first, PTE_P | PTE_W);
	page_map((uintptr_t)VIRT + 4096, (uintptr_t)second, PTE_P | PTE_W);
	memset(first, 0xcc, 4096);
	memset(second, 0xcc, 4096);
	memcpy(first + 4096 - in - 2, "\x89\xf8", 2);
	memcpy(first + 4096 - in, insn, in);
	memcpy(second, insn + in, len - in);
	second[len - in] = 0xc3;
	return (code_fn)(VIRT + 4096 - in - 2);
}

static void check_often(code_fn fn, unsigned add)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < OFTEN; i++)
		sum += fn(i);
	check_equal(sum, OFTEN * (OFTEN - 1) / 2 + OFTEN * add);
}

static void put_address(uint8_t *at, const volatile void *p)
{
	uint32_t address = (uint32_t)(uintptr_t)p;

	memcpy(at, &address, 4);
}

static void every_split(const uint8_t *insn, unsigned len, unsigned add)
{
	for (unsigned in = 1; in < len; in++)
		check_often(put(insn, len, in), add);
}

static void splits(void)
{
	uint8_t load[] = { 0x03, 0x04, 0x25, 0, 0, 0, 0 };	 /* add data, %eax */
	uint8_t store[] = { 0x89, 0x04, 0x25, 0, 0, 0, 0 };	 /* mov %eax, *stored */
	static const uint8_t add[] = { 0x05, 0x39, 0x30, 0, 0 }; /* add $12345, %eax */
	/* jmp over ud2 */
	static const uint8_t jump[] = { 0xe9, 2, 0, 0, 0, 0x0f, 0x0b };
	static const uint8_t lock[] = { 0xf0, 0x48, 0x0f, 0xc1, 0x07 };

	put_address(load + 3, &data);
	put_address(store + 3, stored);
	every_split(add, sizeof(add), 12345);
	every_split(load, sizeof(load), 1000);
	every_split(store, sizeof(store), 0);
	check_equal(*stored, OFTEN - 1);
	for (unsigned in = 1; in < 5; in++)
		check_often(put(jump, sizeof(jump), in), 0);
	/* lock xadd %rax, (%rdi) */
	for (unsigned in = 1; in < sizeof(lock); in++) {
		xadd_fn fn = (xadd_fn)(uintptr_t)put(lock, sizeof(lock), in);
		volatile uint64_t word = 5;

		for (unsigned i = 0; i < OFTEN; i++)
			(void)fn(&word);
		check_equal(word, 5 + OFTEN * (uint64_t)(uint32_t)(uintptr_t)&word);
	}
}

/* fld1; fiaddl data; fistpl *stored: whoever holds the x87 state when the one in the middle comes. */
static void x87(void)
{
	uint8_t insn[] = { 0xda, 0x04, 0x25, 0, 0, 0, 0, 0xdb, 0x1c, 0x25, 0, 0, 0, 0 };

	put_address(insn + 3, &data);
	put_address(insn + 10, stored);
	asm volatile("fninit");
	for (unsigned in = 1; in < 7; in++) {
		code_fn fn = put(insn, sizeof(insn), in);

		memcpy(first + 4096 - in - 2, "\xd9\xe8", 2);
		for (unsigned i = 0; i < OFTEN; i++) {
			*stored = 0;
			(void)fn(0);
			check_equal(*stored, 1001);
		}
	}
}

static void rep(void)
{
	static const uint8_t insn[] = { 0xf3, 0xaa };
	code_fn fn = put(insn, 2, 1);
	uint8_t *to = pages_alloc(3);

	for (unsigned i = 0; i < OFTEN; i++) {
		uint8_t *start = to + i;
		uint64_t rdi = (uintptr_t)start, rcx = 9000;

		/* The function takes AL from RDI, which is where it stores to. */
		asm volatile("call *%2" : "+D"(rdi), "+c"(rcx) : "r"(fn) : "rax", "memory");
		check_equal(rcx, 0);
		check_equal(rdi, (uintptr_t)start + 9000);
		check_equal(start[0], (uint8_t)(uintptr_t)start);
		check_equal(start[8999], (uint8_t)(uintptr_t)start);
	}
}

static unsigned traps;
static word trap_ip;

static void on_trap(struct frame *f)
{
	traps++;
	trap_ip = f->ip;
}

static void software_interrupt(void)
{
	static const uint8_t insn[] = { 0xcd, 0x90 };
	code_fn fn = put(insn, 2, 1);

	trap_set(0x90, on_trap);
	check_often(fn, 0);
	check_equal(traps, OFTEN);
	check_equal(trap_ip, (uintptr_t)VIRT + 4097);
}

static void changed(void)
{
	uint8_t insn[] = { 0x05, 1, 2, 3, 4 };
	code_fn fn = put(insn, sizeof(insn), 3);

	check_often(fn, 0x04030201);
	first[4096 - 1] = 9;
	check_often(fn, 0x04030901);
	second[0] = 7;
	check_often(fn, 0x04070901);
	VIRT[4097] = 8;
	check_often(fn, 0x08070901);
	/* With a prefix in front it is shorter: add $0x11, %ax. */
	memcpy(first + 4096 - 3, "\x66\x05\x11", 3);
	second[0] = 0;
	second[1] = 0xc3;
	check_often(fn, 0x11);
}

/* One of the pages from somewhere else. */
static void mapped_elsewhere(void)
{
	static const uint8_t insn[] = { 0x05, 1, 0, 0, 0 };
	uint8_t *other = page_alloc();
	code_fn fn = put(insn, sizeof(insn), 2);
	uint64_t *pte;

	memcpy(other, second, 4096);
	other[1] = 5;
	check_often(fn, 1);
	pte = page_map((uintptr_t)VIRT + 4096, (uintptr_t)other, PTE_P | PTE_W);
	check_often(fn, 0x50001);
	*pte = (uintptr_t)second | PTE_P | PTE_W;
	invlpg(VIRT + 4096);
	check_often(fn, 1);
	*pte = (uintptr_t)other | PTE_P | PTE_W;
	write_cr3(read_cr3());
	check_often(fn, 0x50001);
	*pte = (uintptr_t)second | PTE_P | PTE_W;
	write_cr3(read_cr3());
	check_often(fn, 1);
}

/* A jump back to the first page: nothing is fetched from the second one but its end. */
static void end_elsewhere(void)
{
	static const uint8_t insn[] = { 0xe9, 0xfd, 0xfe, 0xff, 0xff }; /* to 4099 - 0x103 */
	uint8_t *other = page_alloc();
	code_fn fn = put(insn, sizeof(insn), 2);
	uint8_t *one = second;

	memcpy(first + 4099 - 0x103, "\x83\xc0\x07\xc3", 4); /* add $7, %eax; ret */
	memcpy(first + 4099 - 0x203, "\x83\xc0\x09\xc3", 4);
	memcpy(other, "\xfd\xff\xff", 3);
	for (unsigned i = 0; i < 4; i++) {
		page_map((uintptr_t)VIRT + 4096, (uintptr_t)one, PTE_P | PTE_W);
		check_often(fn, 7);
		page_map((uintptr_t)VIRT + 4096, (uintptr_t)other, PTE_P | PTE_W);
		check_often(fn, 9);
	}
}

/* What it has pushed stays behind. */
static void call_faulting(code_fn fn, const void *arg)
{
	TRY("mov %%rsp, %%rbx; call *%0;", "mov %%rbx, %%rsp" : : "r"(fn), "D"(arg) :
	    "rax", "rbx", "memory");
}

static void gone(void)
{
	static const uint8_t insn[] = { 0x05, 1, 0, 0, 0 };
	code_fn fn = put(insn, sizeof(insn), 2);
	uint64_t *pte = page_map((uintptr_t)VIRT + 4096, (uintptr_t)second, PTE_P | PTE_W);

	check_often(fn, 1);
	*pte = 0;
	invlpg(VIRT + 4096);
	for (unsigned i = 0; i < 3; i++) {
		call_faulting(fn, NULL);
		check(fault.happened);
		check_equal(fault.vector, 14);
		check_equal(fault.cr2, (uintptr_t)VIRT + 4096);
		check_equal(fault.ip, (uintptr_t)VIRT + 4094);
	}
	*pte = (uintptr_t)second | PTE_P | PTE_W;
	check_often(fn, 1);
}

static void faulting(void)
{
	uint8_t insn[] = { 0x48, 0x03, 0x07 }; /* add (%rdi), %rax */
	uint8_t *page = VIRT + 0x10000;
	code_fn fn = put(insn, sizeof(insn), 2);
	uint64_t *pte = page_map((uintptr_t)page, (uintptr_t)page_alloc(), PTE_P | PTE_W);

	for (unsigned i = 0; i < OFTEN; i++) {
		unsigned got;

		asm volatile("call *%1" : "=a"(got) : "r"(fn), "D"(page) : "memory");
		check_equal(got, (uint32_t)(uintptr_t)page);
	}
	*pte &= ~PTE_P;
	invlpg(page);
	for (unsigned i = 0; i < OFTEN; i++) {
		call_faulting(fn, page + 8);
		check_fault(14, 0);
		check_equal(fault.cr2, (uintptr_t)page + 8);
		check_equal(fault.ip, (uintptr_t)VIRT + 4094);
	}
}

int main(void)
{
	stored = page_alloc();
	splits();
	x87();
	rep();
	software_interrupt();
	changed();
	mapped_elsewhere();
	end_elsewhere();
	gone();
	faulting();
	return 0;
}
