// SPDX-License-Identifier: Apache-2.0
/*
 * user.c - a program's accesses to its pages, each often enough to be translated, while a kernel
 * changes what lies under them: rights, frames, large pages, code, what is not an address at all.
 */
#include "guest.h"

#define OFTEN 60u
#define VIRT  (FREE_VIRT + 0x20000000) /* where no large page of low memory looks alike */
#define LARGE 0x200000ull
#define EDGE  0x10000000000ull /* of 512 GiB */

typedef word (*op_fn)(word addr, word value);

struct job {
	op_fn op;
	word addr, value, result;
};

static volatile struct {
	unsigned count;
	word vector, error, cr2;
} seen;

extern uint64_t boot_pml4[512];

/* R8: where to go on after a fault. The result is 0x5eed where the access did not happen. */
#define OP(name, text)                                                                             \
	static __attribute__((noinline)) word name(word addr, word value)                         \
	{                                                                                          \
		word r;                                                                            \
                                                                                                   \
		asm volatile("lea 9f(%%rip), %%r8; mov %%rsp, %%r9; mov %%rbp, %%r10;" text        \
			     "\n9: mov %%r9, %%rsp; mov %%r10, %%rbp"                              \
			     : "=a"(r)                                                             \
			     : "D"(addr), "S"(value), "0"(0x5eedul)                                \
			     : "rcx", "rdx", "rbx", "r8", "r9", "r10", "memory", "cc");    \
		return r;                                                                          \
	}
OP(load, "mov (%%rdi), %%rax;")
OP(load_byte, "movzbl (%%rdi), %%eax;")
OP(load_indexed, "mov $3, %%ecx; sub $24, %%rdi; mov (%%rdi, %%rcx, 8), %%rax;")
OP(load_far, "sub $0x7ffffff0, %%rdi; mov 0x7ffffff0(%%rdi), %%rax;")
OP(load_bp, "mov %%rdi, %%rbp; mov (%%rbp), %%rax;")
OP(load_aligned, "movaps (%%rdi), %%xmm0; movq %%xmm0, %%rax;")
OP(load_unaligned, "movups (%%rdi), %%xmm0; movq %%xmm0, %%rax;")
OP(add_from, "stc; adc (%%rdi), %%rax;")
OP(store, "mov %%rsi, (%%rdi); xor %%eax, %%eax;")
OP(store_immediate, "movq $77, (%%rdi); xor %%eax, %%eax;")
OP(store_byte, "mov %%sil, (%%rdi); xor %%eax, %%eax;")
OP(add_locked, "lock; addq $1, (%%rdi); xor %%eax, %%eax;")
OP(exchange, "xchg %%rsi, (%%rdi); mov %%rsi, %%rax;")
OP(push, "lea 8(%%rdi), %%rsp; push %%rsi; xor %%eax, %%eax;")
OP(pop, "mov %%rdi, %%rsp; pop %%rax;")
OP(leave, "mov %%rdi, %%rbp; leave; mov %%rbp, %%rax;")
OP(divide, "xor %%edx, %%edx; mov $1000, %%eax; divq (%%rdi);")
/* Both pointers, each more than once and moved in between. */
OP(two, "mov (%%rdi), %%rax; mov (%%rsi), %%rcx; add $8, %%rdi; add (%%rdi), %%rax; add 8(%%rsi), %%rax;"
	"add %%rcx, -8(%%rdi); sub %%rcx, -8(%%rdi);")
OP(two_pushed, "mov %%rdi, %%rsp; mov (%%rsp), %%rax; push (%%rsi); add (%%rsp), %%rax; pop %%rcx;"
	       "add %%rcx, %%rax;")
OP(step_on, "mov (%%rdi), %%rcx; add %%rsi, %%rdi; mov (%%rdi), %%rax;")
OP(step_known, "mov (%%rdi), %%rcx; add $0x3fffffff, %%rdi; mov 0x7ffff001(%%rdi), %%rax;")
/* A return address at @addr leads on. */
OP(call_on, "lea 8(%%rdi), %%rsp; call 1f; 1: mov $1, %%eax;")
OP(call_code, "call *%%rdi;")
/* Flags that come before an access are still there behind it. */
OP(keep_flags, "cmp %%rsi, %%rsi; mov (%%rdi), %%rcx; sete %%al; movzbl %%al, %%eax;")
OP(load_checked, "pushfq; orq $0x40000, (%%rsp); popfq; mov (%%rdi), %%rax;"
		 "\n9: mov %%r9, %%rsp; pushfq; andq $~0x40000, (%%rsp); popfq; jmp 8f; 8:")

OP(step, "pushfq; orq $0x100, (%%rsp); popfq; mov %%rsi, %%rax;")
OP(int3, "int3;")
OP(int3_long, ".byte 0xcd, 3;")
OP(int1, ".byte 0xf1;")
OP(step_int3, "pushfq; orq $0x100, (%%rsp); popfq; int3;")

static void on_fault(struct frame *f)
{
	f->flags &= ~(word)FL_TF;
	seen.count++;
	seen.vector = f->vector;
	seen.error = f->error;
	seen.cr2 = read_cr2();
	if (f->vector != 1) /* a data breakpoint comes behind the access */
		f->ip = f->r8;
	else
		write_dr6(0);
}

static word run_job(word p)
{
	struct job *job = (struct job *)p;

	for (unsigned i = 0; i < OFTEN; i++)
		job->result = job->op(job->addr, job->value);
	return 0;
}

static word run(op_fn op, word addr, word value)
{
	static struct job job;

	seen.count = 0;
	seen.vector = seen.error = seen.cr2 = ~0ul;
	job = (struct job){ op, addr, value, 0 };
	user_call(run_job, (word)&job);
	return job.result;
}

#define check_works(op, addr, value, want)                                                         \
	do {                                                                                       \
		check_equal(run(op, addr, value), want);                                           \
		check_equal(seen.count, 0);                                                        \
	} while (0)
#define check_faults(op, addr, v, e)                                                               \
	do {                                                                                       \
		check_equal(run(op, addr, 1), 0x5eed);                                             \
		check_equal(seen.count, OFTEN);                                                    \
		check_equal(seen.vector, v);                                                       \
		check_equal(seen.error, e);                                                        \
	} while (0)
#define check_page_fault(op, addr, e)                                                              \
	do {                                                                                       \
		check_faults(op, addr, 14, e);                                                     \
		check_equal(seen.cr2, addr);                                                       \
	} while (0)

#define RW (PTE_P | PTE_U | PTE_W)
#define RO (PTE_P | PTE_U)

static void loads_and_stores(void)
{
	word *phys = page_alloc();

	page_map(VIRT, (word)phys, RW);
	phys[0] = 5;
	phys[1] = 6;
	check_works(load, VIRT, 0, 5);
	check_works(load_byte, VIRT + 8, 0, 6);
	check_works(load_indexed, VIRT + 8, 0, 6);
	check_works(load_far, VIRT, 0, 5);
	check_works(load_bp, VIRT, 0, 5);
	check_works(load_aligned, VIRT, 0, 5);
	check_works(load_unaligned, VIRT + 8, 0, 6);
	check_works(add_from, VIRT, 0, 0x5eed + 6);
	check_works(pop, VIRT + 8, 0, 6);
	check_works(leave, VIRT, 0, 5);
	check_works(divide, VIRT, 0, 200);
	check_works(keep_flags, VIRT, 3, 1);
	check_works(store, VIRT, 0x1122334455667788, 0);
	check_equal(phys[0], 0x1122334455667788);
	check_works(store_byte, VIRT + 1, 0x99, 0);
	check_equal(phys[0], 0x1122334455669988);
	check_works(store_immediate, VIRT, 0, 0);
	check_equal(phys[0], 77);
	check_works(add_locked, VIRT, 0, 0);
	check_equal(phys[0], 77 + OFTEN);
	check_works(exchange, VIRT, 9, 9);
	check_works(push, VIRT, 0x77, 0);
	check_equal(phys[0], 0x77);
	check_works(call_on, VIRT, 0, 1);
	check(phys[0] != 0x77);
}

static const op_fn reads[] = { load, load_indexed, load_far, load_bp, load_aligned, add_from,
			       pop, leave };
static const op_fn writes[] = { store, store_immediate, add_locked, exchange, push };

#define EACH(fn, ops) for (const op_fn *fn = ops; fn < ops + sizeof(ops) / sizeof(ops[0]); fn++)

static void rights(void)
{
	word *phys = page_alloc();
	uint64_t *pte = page_map(VIRT, (word)phys, 0);

	EACH(op, reads)
		check_page_fault(*op, VIRT, 4);
	EACH(op, writes)
		check_page_fault(*op, VIRT, 6);
	page_map(VIRT, (word)phys, PTE_P | PTE_W); /* the kernel's */
	EACH(op, reads)
		check_page_fault(*op, VIRT, 5);
	page_map(VIRT, (word)phys, RO);
	phys[0] = 41;
	check_works(load, VIRT, 0, 41);
	EACH(op, writes)
		check_page_fault(*op, VIRT, 7);
	check_equal(phys[0], 41);
	check_equal(*pte & PTE_D, 0);
	page_map(VIRT, (word)phys, RW);
	check_works(load, VIRT, 0, 41);
	check_equal(*pte & PTE_D, 0);
	check_works(store, VIRT, 42, 0);
	check_equal(phys[0], 42);
	check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D);
	page_map(VIRT, (word)phys, RO | PTE_A | PTE_D);
	check_page_fault(store, VIRT, 7);
	check_works(load, VIRT, 0, 42);
	page_map(VIRT, 0, 0);
	check_page_fault(load, VIRT, 4);
}

/* A copy made at a write, and a frame given to another. */
static void frames(void)
{
	word *one = page_alloc(), *two = page_alloc();

	one[0] = 1;
	two[0] = 2;
	for (unsigned i = 0; i < 3; i++) {
		page_map(VIRT, (word)one, RO);
		check_works(load, VIRT, 0, 1);
		page_map(VIRT, (word)two, RW);
		check_works(load, VIRT, 0, 2);
		check_works(store, VIRT, 3, 0);
		check_equal(one[0], 1);
		check_equal(two[0], 3);
		two[0] = 2;
	}
	/* Without INVLPG, by a write to CR3. */
	*page_map(VIRT, (word)two, RW) = (word)one | RO;
	write_cr3(read_cr3());
	check_works(load, VIRT, 0, 1);
	check_page_fault(store, VIRT, 7);
	check_equal(one[0], 1);
}

static void crossings(void)
{
	word *a = page_alloc(), *gap = page_alloc(), *b = page_alloc();

	page_map(VIRT, (word)a, RW);
	page_map(VIRT + 4096, (word)b, RW);
	a[511] = 0x1111111111111111;
	b[0] = 0x2222222222222222;
	check_works(load, VIRT + 4092, 0, 0x2222222211111111);
	check_works(store, VIRT + 4092, 0x4444444433333333, 0);
	check_equal(a[511], 0x3333333311111111);
	check_equal(b[0], 0x2222222244444444);
	check_equal(gap[0], 0);
	page_map(VIRT + 4096, (word)b, RO);
	check_faults(store, VIRT + 4092, 14, 7);
	check_equal(seen.cr2, VIRT + 4096);
	page_map(VIRT + 4096, 0, 0);
	check_faults(store, VIRT + 4092, 14, 6);
	check_equal(seen.cr2, VIRT + 4096);
	check_equal(a[511], 0x3333333311111111);
	page_map(EDGE - 4096, (word)a, RW);
	page_map(EDGE, (word)b, RW);
	check_works(load, EDGE - 4, 0, 0x4444444433333333);
	check_works(store, EDGE - 4, 0x6666666655555555, 0);
	check_equal(a[511], 0x5555555511111111);
	check_equal(b[0], 0x2222222266666666);
	check_works(load_far, EDGE, 0, 0x2222222266666666);
}

static void not_addresses(void)
{
	word *phys = page_alloc();

	page_map(VIRT, (word)phys, RW);
	phys[0] = 8;
	check_works(load, VIRT, 0, 8);
	check_page_fault(load, 0xffff800000000000, 4);
	check_page_fault(load, 0xffff800000000000 | VIRT, 4);
	check_page_fault(store, 0xfffffffffffff000, 6);
	check_page_fault(load, 0x00007ffffffff000, 4);
	for (unsigned bit = 47; bit < 64; bit++) {
		check_faults(load, VIRT | 1ull << bit, 13, 0);
		check_faults(store, VIRT | 1ull << bit, 13, 0);
	}
	check_faults(load, VIRT | 0xffffull << 48, 13, 0);
	check_faults(load_indexed, 0x0000800000000000, 13, 0);
	check_faults(load, 0x00007ffffffffffc, 13, 0);
	check_faults(load_bp, 0x8000000000000000 | VIRT, 12, 0);
	check_faults(push, 0x0001000000000000 | VIRT, 12, 0);
	check_faults(pop, 0x0001000000000000 | VIRT, 12, 0);
	check_works(load, VIRT, 0, 8);
}

/* Behind CPUID, which no processor does for a guest as it is. */
#define BASE(name, wr, rd)                                                                         \
	static __attribute__((noinline)) word name(word addr, word value)                         \
	{                                                                                          \
		word r, was, a = 0, c = 0;                                                         \
                                                                                                   \
		(void)addr;                                                                        \
		asm volatile(rd " %1; " wr " %4; cpuid; " rd " %0; " wr " %1"                      \
			     : "=&S"(r), "=&D"(was), "+a"(a), "+c"(c)                              \
			     : "r"(value)                                                          \
			     : "rbx", "rdx", "memory");                                            \
		return r;                                                                          \
	}
BASE(base_of_fs, "wrfsbase", "rdfsbase")
BASE(base_of_gs, "wrgsbase", "rdgsbase")

/* TF of its own making. */
static void steps(void)
{
	write_dr6(0);
	check_equal(run(step, 0, 77), 77);
	check_equal(seen.count, OFTEN);
	check_equal(seen.vector, 1);
	/* Its handler is entered without TF, and no step is left behind it. */
	check_faults(step_int3, 0, 3, 0);
	check_faults(int3, 0, 3, 0);
	check_faults(int3_long, 0, 3, 0);
	/* It goes on behind INT1, as behind a step. */
	check_equal(run(int1, 0, 0), 0x5eed);
	check_equal(seen.count, OFTEN);
	check_equal(seen.vector, 1);
}

/* A program may set them to what is no address of its own. */
static void bases(void)
{
	static const word values[] = { 0, 0x1234567, 0x7fffffffefff, 0x7ffffffff000, 0x7fffffffffff,
				       0xffff800000000000, 0xffffffffffff0000, ~0ul };

	if (!(cpuid(7, 0).b & 1))
		return;
	write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		check_works(base_of_fs, 0, values[i], values[i]);
		check_works(base_of_gs, 0, values[i], values[i]);
	}
	write_cr4(read_cr4() & ~(word)CR4_FSGSBASE);
}

/* Slots that Linux gives to programs and those beside them: code that was made for one kind meets all. */
static void far_apart(void)
{
	static const unsigned slots[] = { 0xaa, 0xa9, 0xac, 0xad, 0xfc, 0xfd, 0xff, 1, 0x80 };
	word *low = page_alloc();
	word low_virt = VIRT + 0x900000;

	page_map(low_virt, (word)low, RW);
	low[0] = 100;
	low[1] = 200;
	low[4] = 400;
	for (unsigned i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		word at = ((word)slots[i] << 39) + 0x7ffff000, *phys = page_alloc();

		page_map(at, (word)phys, RW);
		phys[0] = i + 5;
		phys[1] = i + 7;
		phys[511] = 9;
		check_works(load, at, 0, i + 5);
		check_works(load_indexed, at, 0, i + 5);
		check_works(load_far, at, 0, i + 5);
		check_works(load_bp, at, 0, i + 5);
		check_works(pop, at + 8, 0, i + 7);
		check_works(leave, at, 0, i + 5);
		check_works(divide, at, 0, 1000 / (i + 5));
		check_works(keep_flags, at, 3, 1);
		check_works(two, at, low_virt, 2 * i + 12 + 200);
		check_works(two, low_virt, at, 300 + i + 7);
		check_works(two_pushed, at + 4088, low_virt, 209);
		check_works(two_pushed, low_virt + 32, at, 400 + 2 * (i + 5));
		check_works(store, at + 16, 0x1234, 0);
		check_equal(phys[2], 0x1234);
		check_works(push, at + 24, 0x4321, 0);
		check_equal(phys[3], 0x4321);
		check_works(add_locked, at + 16, 0, 0);
		check_equal(phys[2], 0x1234 + OFTEN);
		/* From one slot to another, by what is known when the code is made and by what is not. */
		check_works(step_on, low_virt, at - low_virt, i + 5);
		check_works(step_on, at, low_virt - at, 100);
		check_faults(step_known, at, 14, 4);
		check_page_fault(load, at + 4096, 4);
		check_page_fault(store, at - 8, 6);
		check_page_fault(load_far, at + 0x10000000, 4);
		check_faults(load, at | 1ul << 62, 13, 0);
	}
}

/* Neighbours of one kind follow each other. */
static void slots_join(void)
{
	static const unsigned slots[] = { 0xab, 0xac, 0xfe, 0xff };

	for (unsigned i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		word at = (word)slots[i] << 39, *a = page_alloc(), *b = page_alloc();

		page_map(at - 4096, (word)a, RW);
		page_map(at, (word)b, RW);
		a[511] = 0x4444444422222222;
		b[0] = 0x1111111166666666;
		check_works(load, at - 4, 0, 0x6666666644444444);
		check_works(load_far, at, 0, 0x1111111166666666);
		check_works(load_indexed, at, 0, 0x1111111166666666);
		check_works(store, at - 4, 0x7777777755555555, 0);
		check_equal(a[511], 0x5555555522222222);
		check_equal(b[0], 0x1111111177777777);
		check_page_fault(load, at + 4096, 4);
	}
}

static void alignment(void)
{
	word *phys = page_alloc();

	page_map(VIRT, (word)phys, RW);
	phys[1] = 12;
	check_works(load_aligned, VIRT, 0, 0);
	check_faults(load_aligned, VIRT + 8, 13, 0);
	check_works(load_unaligned, VIRT + 8, 0, 12);
	write_cr0(read_cr0() | CR0_AM);
	check_works(load_checked, VIRT + 8, 0, 12);
	check_faults(load_checked, VIRT + 4, 17, 0);
	check_works(load, VIRT + 4, 0, 12ull << 32);
	write_cr0(read_cr0() & ~(word)CR0_AM);
	check_works(load_checked, VIRT + 4, 0, 12ull << 32);
}

static void watched(void)
{
	word *phys = page_alloc();

	page_map(VIRT, (word)phys, RW);
	check_works(store, VIRT, 1, 0);
	write_dr0(VIRT);
	write_dr7(0x90001); /* eight bytes, written */
	check_equal(run(store, VIRT, 2), 0);
	check_equal(seen.count, OFTEN);
	check_equal(seen.vector, 1);
	check_works(load, VIRT, 0, 2);
	check_works(store, VIRT + 8, 2, 0);
	write_dr7(0x400);
	check_works(store, VIRT, 3, 0);
}

/* A 2 MiB page becomes small ones, and INVLPG of any address in it drops all of it. */
static void large(void)
{
	uint64_t *pdpt, *pd, small;
	char *p = pages_alloc(1024), *other = page_alloc();
	word base = ((word)p + LARGE - 1) & ~(LARGE - 1);

	page_map(VIRT + LARGE, (word)other, RW);
	pdpt = (uint64_t *)(boot_pml4[VIRT >> 39] & ~0xfffull);
	pd = (uint64_t *)(pdpt[0] & ~0xfffull) + (VIRT >> 21 & 511);
	small = pd[1];
	for (unsigned i = 0; i < 2; i++) {
		*(volatile word *)(base + 0x5000) = 50;
		pd[1] = base | RW | PTE_PS;
		invlpg((void *)(VIRT + LARGE));
		check_works(load, VIRT + LARGE + 0x5000, 0, 50);
		check_works(store, VIRT + LARGE + 0x5000, 51, 0);
		check_works(load, VIRT + LARGE + 0x1ff000, 0, 0);
		check_equal(*(volatile word *)(base + 0x5000), 51);
		write_cr3(read_cr3());
		check_works(store, VIRT + LARGE + 0x5000, 51, 0);
		pd[1] = base | RO | PTE_PS;
		invlpg((void *)(VIRT + LARGE + 0x1ff000));
		check_page_fault(store, VIRT + LARGE + 0x5000, 7);
		pd[1] = small;
		invlpg((void *)(VIRT + LARGE + 0x1fe000));
		check_page_fault(load, VIRT + LARGE + 0x5000, 4);
		check_works(store, VIRT + LARGE, 1, 0);
	}
}

/* A program that writes its own code, in the same page and by another mapping of it. */
static void code(void)
{
	uint8_t *phys = page_alloc();
	bool all = true;

	page_map(VIRT, (word)phys, RW);
	page_map(VIRT + 8 * 4096, (word)phys, RW);
	phys[0] = 0xb8; /* mov $..., %eax; ret */
	phys[5] = 0xc3;
	for (unsigned i = 1; i < 40; i++) {
		run(store_byte, VIRT + (i & 1 ? 8 * 4096 : 0) + 1, i);
		all &= !seen.count && run(call_code, VIRT, 0) == i && !seen.count;
		run(store_byte, VIRT + 0x800, i); /* beside it */
		all &= !seen.count && phys[0x800] == i && run(call_code, VIRT, 0) == i;
	}
	check(all);
}

int main(void)
{
	static const uint8_t vectors[] = { 1, 3, 6, 12, 13, 14, 17 };

	write_cr0((read_cr0() & ~(word)CR0_EM) | CR0_MP);
	user_open();
	for (unsigned i = 0; i < sizeof(vectors); i++)
		trap_set(vectors[i], on_fault);
	trap_allow_user(3);
	loads_and_stores();
	rights();
	frames();
	crossings();
	not_addresses();
	steps();
	bases();
	far_apart();
	slots_join();
	alignment();
	watched();
	large();
	code();
	return 0;
}
