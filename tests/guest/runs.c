// SPDX-License-Identifier: Apache-2.0
/*
 * runs.c - random code whose accesses lie near each other, over pages that are there, read-only or absent,
 * run again and again: each time with the same outcome, to the accessed and dirty bits. An engine
 * that translates does so after a few times, so that it is compared with itself.
 */
#include "guest.h"

#define CASES	  3000u
#define CODE_MAX  256u
#define TIMES	  24u
#define WINDOW	  3u /* pages, with one that is never there on either side */
#define DATA_VIRT (FREE_VIRT + 0x100000)

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

struct outcome {
	uint64_t reg[16], flags;
	uint64_t xmm[2];
	uint64_t fault, error, cr2, ip;
	uint64_t used[WINDOW]; /* accessed and dirty */
	uint64_t sum;
};

/* Named by the assembler below. */
uint64_t case_in[16], case_out[17], case_xmm[2], case_code, case_stack;
void case_enter(void);
void case_exit(void);
void case_leave(void);

#define EACH(R)                                                                                     \
	R(ax, 0) R(cx, 1) R(dx, 2) R(bx, 3) R(sp, 4) R(bp, 5) R(si, 6) R(di, 7)
#define EACH_NEW(R)                                                                                 \
	R(8, 8) R(9, 9) R(10, 10) R(11, 11) R(12, 12) R(13, 13) R(14, 14) R(15, 15)
#define LOAD(r, n)  "mov case_in+8*" #n "(%rip), %r" #r "\n"
#define STORE(r, n) "mov %r" #r ", case_out+8*" #n "(%rip)\n"

asm(".globl case_enter, case_exit, case_leave\n"
    "case_enter: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "mov %rsp, case_stack(%rip); movups case_xmm(%rip), %xmm1\n" EACH(LOAD) EACH_NEW(LOAD)
    "cmp %rsp, %rsp; jmp *case_code(%rip)\n"
    "case_exit:\n" EACH(STORE) EACH_NEW(STORE)
    "lahf; seto %al; mov %rax, case_out+128(%rip); movups %xmm1, case_xmm(%rip)\n"
    "case_leave: mov case_stack(%rip), %rsp\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");

static struct outcome now;
static uint8_t *page[WINDOW];
static uint64_t *pte[WINDOW], entry[WINDOW];
static uint8_t *out;
static uint64_t seed = 88172645463325252ull;

static unsigned rnd(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (unsigned)(seed >> 24) % n;
}

/* ---- code ---- */

static void byte(unsigned v)
{
	*out++ = (uint8_t)v;
}

static void put32(uint32_t v)
{
	memcpy(out, &v, 4);
	out += 4;
}

static int32_t near(void)
{
	return (int32_t)(rnd(4) ? rnd(96) : rnd(400)) - 40;
}

static unsigned pick(const uint8_t *of, unsigned n)
{
	return of[rnd(n)];
}

static unsigned base_reg(void)
{
	static const uint8_t of[] = { RBX, RSP, RSP, RBP, R12, R8 };

	return pick(of, sizeof(of));
}

static unsigned data_reg(void)
{
	static const uint8_t of[] = { RAX, RDX, RSI, RDI, R9, R10, R11, R13, R14, R15 };

	return pick(of, sizeof(of));
}

/* Bases hold what they began with and constants, so that no case reaches beyond its pages.
 * [base + disp], or [base + RCX << n + disp]. */
static void memory(unsigned prefix, bool wide, unsigned map, unsigned opcode, unsigned reg)
{
	unsigned base = base_reg();
	bool index = !rnd(5);

	if (prefix)
		byte(prefix);
	byte(0x40 | wide << 3 | (reg >> 3) << 2 | base >> 3);
	if (map)
		byte(0x0f);
	byte(opcode);
	byte(0x80 | (reg & 7) << 3 | (index || (base & 7) == RSP ? 4 : base & 7));
	if (index)
		byte(rnd(4) << 6 | RCX << 3 | (base & 7));
	else if ((base & 7) == RSP)
		byte(4 << 3 | (base & 7));
	put32((uint32_t)near());
}

static void registers(bool wide, unsigned opcode, unsigned reg, unsigned rm)
{
	byte(0x40 | wide << 3 | (reg >> 3) << 2 | rm >> 3);
	byte(opcode);
	byte(0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void access_insn(void)
{
	static const uint8_t plain[] = { 0x8b, 0x8b, 0x8b, 0x89, 0x89, 0x89, 0x03, 0x01, 0x13, 0x2b,
					 0x31, 0x3b, 0x39, 0x85, 0x88, 0x8a, 0x87 };

	switch (rnd(12)) {
	case 0:
		memory(0, false, 1, pick((const uint8_t[]){ 0x10, 0x11, 0x28, 0x29, 0x58 }, 5), 1);
		break;
	case 1:
		memory(0x66, false, 1, pick((const uint8_t[]){ 0x6f, 0x7f, 0xfe }, 3), 1);
		break;
	case 2:
		memory(0, false, 1, pick((const uint8_t[]){ 0xb6, 0xb7, 0xbe, 0x44, 0xc1 }, 5),
		       data_reg());
		break;
	case 3: { /* ADD m, imm8; INC m; MOV m, imm32 */
		unsigned what = rnd(3);

		memory(0, rnd(2), 0, what == 0 ? 0x83 : what == 1 ? 0xff : 0xc7, 0);
		if (what == 0)
			byte(rnd(256));
		if (what == 2)
			put32(rnd(1u << 24));
		break;
	}
	default:
		memory(0, rnd(2), 0, pick(plain, sizeof(plain)), data_reg());
	}
}

static void push_pop(void)
{
	bool push = rnd(2);
	unsigned reg = push && !rnd(6) ? RBP : data_reg();

	if (reg >= 8)
		byte(0x41);
	byte((push ? 0x50 : 0x58) | (reg & 7));
}

static void other_insn(void)
{
	unsigned base = base_reg();

	switch (rnd(8)) {
	case 0: /* ADD or SUB base, imm8 */
		registers(true, 0x83, rnd(2) ? 0 : 5, base);
		byte(rnd(64));
		break;
	case 1: { /* LEA base, [other + disp] */
		unsigned other = rnd(2) ? RBX : RBP;

		byte(0x48 | (base >> 3) << 2);
		byte(0x8d);
		byte(0x80 | (base & 7) << 3 | other);
		put32((uint32_t)near());
		break;
	}
	case 2:
		registers(true, rnd(2) ? 0x89 : 0x8b, base_reg(), base);
		break;
	case 3:
		registers(rnd(2), 0x01, data_reg(), data_reg());
		break;
	case 4: /* SETC, ADC: flags live over accesses */
		registers(true, 0x11, data_reg(), data_reg());
		break;
	case 5:
		registers(true, 0x87, data_reg(), data_reg());
		break;
	case 6: /* CALL to behind itself */
		byte(0xe8);
		put32(0);
		break;
	default: /* PUSH imm8; LEAVE, and a good base again */
		if (rnd(3)) {
			byte(0x6a);
			byte(rnd(256));
		} else {
			byte(0xc9);
			registers(true, 0x89, RBX, RBP);
		}
	}
}

static void make_code(uint8_t *at)
{
	out = at;
	for (unsigned n = 3 + rnd(14); n; n--) {
		unsigned what = rnd(10);

		if (what < 6)
			access_insn();
		else if (what < 8)
			push_pop();
		else
			other_insn();
	}
	byte(0xff); /* JMP [rip] */
	byte(0x25);
	put32(0);
	uint64_t leave = (uintptr_t)case_exit;

	memcpy(out, &leave, 8);
}

/* ---- running it ---- */

static void page_fault(struct frame *f)
{
	const word reg[16] = { f->ax, f->cx, f->dx, f->bx, f->sp, f->bp, f->si, f->di,
			       f->r8, f->r9, f->r10, f->r11, f->r12, f->r13, f->r14, f->r15 };

	memcpy(case_out, reg, sizeof(reg));
	case_out[16] = 0; /* not every flag is known here */
	asm volatile("movups %%xmm1, %0" : "=m"(case_xmm));
	now.fault = f->vector;
	now.error = f->error;
	now.cr2 = f->vector == 14 ? read_cr2() : 0;
	now.ip = f->ip;
	f->ip = (word)case_leave;
}

static word enter(word unused)
{
	case_enter();
	return unused;
}

static void prepare(bool flush)
{
	for (unsigned p = 0; p < WINDOW; p++) {
		for (unsigned i = 0; i < 4096; i += 8)
			*(uint64_t *)(page[p] + i) = i * 0x9e3779b97f4a7c15ull + p;
		if (!flush)
			continue;
		*pte[p] = entry[p];
		invlpg((void *)(DATA_VIRT + p * 4096));
	}
	memset(&now, 0, sizeof(now));
	case_xmm[0] = 0x123456789abcdef;
	case_xmm[1] = 0xfedcba987654321;
}

static void run_once(const uint64_t *in, bool flush)
{
	prepare(flush);
	memcpy(case_in, in, sizeof(case_in));
	user_call(enter, 0);
	memcpy(now.reg, case_out, sizeof(now.reg));
	now.flags = case_out[16];
	memcpy(now.xmm, case_xmm, sizeof(now.xmm));
	for (unsigned p = 0; p < WINDOW; p++) {
		now.used[p] = *pte[p] & (PTE_A | PTE_D);
		for (unsigned i = 0; i < 4096; i += 8)
			now.sum = (now.sum ^ *(uint64_t *)(page[p] + i)) * 0x100000001b3ull;
	}
}

static void check_case(unsigned n, uint8_t *code)
{
	const uint8_t *first = (uint8_t *)&now;
	static struct outcome want;
	uint64_t in[16];
	bool same = true;

	for (unsigned i = 0; i < 16; i++)
		in[i] = i * 0x1111111111111111ull;
	in[RCX] = rnd(16);
	for (unsigned i = 0; i < 5; i++) {
		static const uint8_t of[] = { RBX, RBP, RSP, R8, R12 };

		/* Mostly near where two pages meet. */
		in[of[i]] = DATA_VIRT + (rnd(3) ? 4096 + rnd(2) * 4096 - 200 + rnd(300) :
						  rnd(WINDOW * 4096));
		if (rnd(2))
			in[of[i]] &= ~15ull;
	}
	for (unsigned p = 0; p < WINDOW; p++) {
		static const uint8_t rights[] = { 7, 7, 7, 7, 5, 0, 0x67, 0x27 };

		entry[p] = (uintptr_t)page[p] | pick(rights, sizeof(rights));
	}
	case_code = (uintptr_t)code;
	for (unsigned i = 0; i < TIMES && same; i++) {
		run_once(in, i < 2 || i % 3);
		if (i == 0)
			want = now;
		/* Bits that were set the last time stay. */
		for (unsigned p = 0; p < WINDOW; p++)
			if (i >= 2 && i % 3 == 0)
				now.used[p] = want.used[p];
		if (memcmp(&want, &now, sizeof(now)) != 0) {
			print("case %u, time %u:", n, i);
			for (unsigned w = 0; w < sizeof(now) / 8; w++)
				if (memcmp((uint8_t *)&want + w * 8, first + w * 8, 8) != 0)
					print(" word %u is %lx, was %lx", w, ((uint64_t *)&now)[w],
					      ((uint64_t *)&want)[w]);
			print("\n");
			same = false;
		}
	}
	check(same);
}

static void vectors_on(void)
{
	write_cr0((read_cr0() & ~(word)(CR0_TS | CR0_EM)) | CR0_MP);
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
	if (!(cpuid(1, 0).c & 1u << 26) || !(cpuid(1, 0).c & 1u << 28))
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
}

int main(void)
{
	uint8_t *code = pages_alloc(CASES * CODE_MAX / 4096 + 1);

	vectors_on();
	user_open();
	for (unsigned p = 0; p < WINDOW; p++) {
		page[p] = page_alloc();
		pte[p] = page_map(DATA_VIRT + p * 4096, (uintptr_t)page[p], PTE_P | PTE_W | PTE_U);
	}
	for (unsigned n = 0; n < CASES; n++)
		make_code(code + n * CODE_MAX);
	for (unsigned v = 0; v < 20; v++)
		trap_set(v, page_fault);
	for (unsigned n = 0; n < CASES && check_failures < 5; n++)
		check_case(n, code + n * CODE_MAX);
	return 0;
}
