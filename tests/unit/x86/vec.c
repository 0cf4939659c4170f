// SPDX-License-Identifier: Apache-2.0
/*
 * vec.c - every row of the SIMD and x87 instruction table against the host's own CPU.
 *
 * For each row: encodings with register and memory operands, both vector lengths, random immediates
 * and edge values, rounding modes, FTZ, DAZ and exception masks. Vector registers, x87 state, MXCSR,
 * flags, general registers and memory must agree to the bit. In the environment, ROW=ADDPS asks for
 * one mnemonic, TRIES=n for more cases of each row.
 */
#include "rows.h"
#include "vec_native.h"
#include "x86_int.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TRIES 400
#define MEM_BYTES 128
#define GUEST_BASE 0x10000000ul

static uint64_t seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dull;
}

/* ---- the guest side: identity-mapped memory ---- */

static uint8_t *ram_page(struct x86_cpu *cpu, uint64_t gpa, bool write, bool *ret_direct)
{
	*ret_direct = true;
	if (gpa < GUEST_BASE || gpa >= GUEST_BASE + 0x2000)
		return NULL;
	return (uint8_t *)(uintptr_t)(gpa & ~0xfffull);
}

static uint64_t mmio_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size)
{
	return ~0ull;
}

static void mmio_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
}

static const struct x86_cpu_ops ops = { .ram_page = ram_page, .mmio_read = mmio_read,
					.mmio_write = mmio_write };

static struct x86_cpu *cpu_new(void)
{
	struct x86_cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) / 64 * 64);

	memset(cpu, 0, sizeof(*cpu));
	cpu->ops = &ops;
	cpu->tlb = calloc(1, sizeof(*cpu->tlb));
	cpu->s.cr0 = X86_CR0_PE | X86_CR0_NE | X86_CR0_ET;
	cpu->s.cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	cpu->s.xcr0 = 7;
	cpu->s.efer = X86_EFER_LME | X86_EFER_LMA;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		cpu->s.seg[i] = (struct x86_segment){ .limit = ~0u, .attr = 0xc93 };
	cpu->s.seg[X86_CS].attr = 0xa9b;
	x86_update_mode(cpu);
	ck_assert_uint_eq(cpu->code_bytes, 8);
	cpu->features = ~0ull;
	return cpu;
}

/* ---- values ---- */

static uint32_t edge32(void)
{
	static const uint32_t v[] = { 0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
				      0x7fc00000, 0x7f800001, 0xffc12345, 1, 0x80000001, 0x007fffff,
				      0x00800000, 0x7f7fffff, 0xff7fffff, 0x4f000000, 0xcf000000,
				      0x5f000000, 0x3effffff, 0x33800000, 0x7fffffff, 0xffffffff };

	return v[rnd() % (sizeof(v) / sizeof(v[0]))];
}

static uint64_t edge64(void)
{
	static const uint64_t v[] = {
		0, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000,
		0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 0xfff8123456789abc, 1,
		0x8000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
		0x41dfffffffc00000, 0x43e0000000000000, 0xc3e0000000000000, 0x36a0000000000000,
		0x380fffffffffffff, 0x47efffffffffffff, ~0ull };

	return v[rnd() % (sizeof(v) / sizeof(v[0]))];
}

/* Sixteen bytes: random, single, double or integer edge values; few kinds per register. */
static void fill16(uint8_t *p)
{
	unsigned kind = rnd() % 6, i;

	for (i = 0; i < 16; i += 8) {
		uint64_t v = rnd();

		if (kind == 1)
			v = edge32() | (uint64_t)edge32() << 32;
		else if (kind == 2)
			v = edge64();
		else if (kind == 3) /* close to each other: sums and rounding */
			v = (v & 0x007fffff007fffffull) | 0x3f0000003f800000ull;
		else if (kind == 4)
			v = (v & 0x800fffffffffffffull) | (0x3f0ull + rnd() % 40) << 52;
		else if (kind == 5)
			v &= 0x3f3f3f3f3f3f3f3full;
		memcpy(p + i, &v, 8);
	}
}

/* An x87 register: common numbers, and each special class. */
static void fill80(uint8_t *p)
{
	static const uint16_t exp[] = { 0, 1, 0x3fff, 0x4000, 0x3ffe, 0x7ffe, 0x7fff, 0x403e, 0x3fbf,
					0x3f80, 0x43fe, 0x3c01, 0x4008, 0x3ffd };
	uint64_t m = rnd();
	uint16_t e = exp[rnd() % (sizeof(exp) / sizeof(exp[0]))];

	if (rnd() % 4 == 0)
		e = 0x3fff + rnd() % 70 - 35;
	if (rnd() % 3 == 0)
		m = 0;
	if (rnd() % 4 == 0)
		m &= 0xfffffull << 44;
	if (rnd() % 16) /* else an unnormal, pseudo-denormal or plain denormal */
		m |= e ? 1ull << 63 : 0;
	if (e == 0 && rnd() % 2)
		m = rnd() % 2 ? 0 : m & ~(1ull << 63);
	memset(p, 0, 16);
	memcpy(p, &m, 8);
	e |= rnd() % 2 << 15;
	memcpy(p + 8, &e, 2);
}

static uint32_t random_mxcsr(void)
{
	uint32_t v = 0x1f80 | (rnd() % 4) << 13;

	if (rnd() % 4 == 0)
		v |= rnd() % 2 ? 0x8000 : 0x40;
	if (rnd() % 4 == 0)
		v |= rnd() & 0x3f;
	if (rnd() % 4 == 0)
		v &= ~((rnd() & rnd() & 0x3f) << 7);
	return v;
}

static void put(uint8_t *p, uint64_t v, unsigned len)
{
	memcpy(p, &v, len);
}

static uint16_t random_fsw(uint16_t fcw)
{
	uint16_t v = rnd() & 0x7f00; /* condition codes and TOP */

	if (rnd() % 4)
		v &= ~0x3800;
	/* No pending exception: only flags that are masked. */
	if (rnd() % 4 == 0)
		v |= rnd() & fcw & 0x3f;
	return v;
}

static void random_state(struct native_state *n, uint8_t *mem)
{
	uint16_t fcw = 0x37f;
	unsigned i;

	memset(n, 0, sizeof(*n));
	if (rnd() % 2)
		fcw = 0x7f | (rnd() & 0xc00) | (uint16_t[]){ 0, 0x200, 0x300 }[rnd() % 3];
	if (rnd() % 4 == 0)
		fcw &= ~(rnd() & rnd() & 0x3f);
	put(n->xsave, fcw, 2);
	put(n->xsave + 2, random_fsw(fcw), 2);
	put(n->xsave + 4, rnd() % 4 ? 0xff : rnd() & 0xff, 2);
	put(n->xsave + 24, random_mxcsr(), 4);
	put(n->xsave + 28, 0xffff, 4);
	for (i = 0; i < 8; i++)
		fill80(n->xsave + 32 + i * 16);
	for (i = 0; i < 16; i++) {
		fill16(n->xsave + 160 + i * 16);
		fill16(n->xsave + 576 + i * 16);
	}
	put(n->xsave + 512, 7, 8);
	n->rax = rnd();
	n->rcx = rnd() % 3 ? rnd() : edge64();
	n->rdx = rnd();
	n->rsi = rnd() % 3 ? rnd() : rnd() % 40;
	n->rbx = (uintptr_t)mem;
	n->rdi = n->rbx;
	n->flags = 0x202 | (rnd() & 0x8d5);
	for (i = 0; i < MEM_BYTES; i += 16)
		fill16(mem + i);
	if (rnd() % 3 == 0)
		fill80(mem);
}

static void to_cpu(struct x86_cpu *cpu, const struct native_state *n)
{
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned i;

	memset(f, 0, sizeof(*f));
	for (i = 0; i < 16; i++) {
		memcpy(f->vec[i], n->xsave + 160 + i * 16, 16);
		memcpy(f->vec[i] + 16, n->xsave + 576 + i * 16, 16);
	}
	for (i = 0; i < 8; i++)
		memcpy(f->st[i], n->xsave + 32 + i * 16, 10);
	memcpy(&f->fcw, n->xsave, 2);
	memcpy(&f->fsw, n->xsave + 2, 2);
	f->ftw = n->xsave[4];
	memcpy(&f->mxcsr, n->xsave + 24, 4);
	cpu->s.gpr[X86_RAX] = n->rax;
	cpu->s.gpr[X86_RCX] = n->rcx;
	cpu->s.gpr[X86_RDX] = n->rdx;
	cpu->s.gpr[X86_RSI] = n->rsi;
	cpu->s.gpr[X86_RDI] = n->rdi;
	cpu->s.gpr[X86_RBX] = n->rbx;
	cpu->s.rflags = n->flags;
}

/* ---- encoding ---- */

struct code {
	uint8_t b[16];
	unsigned n;
	bool mem;
};

static bool operand_is(const struct x86_row_info *row, unsigned i, const char *first)
{
	return row->operand[i] && strchr(first, row->operand[i][0]);
}

/* The registers that native_run() knows, for an operand in a general register. */
static unsigned random_gpr(void)
{
	return (unsigned[]){ X86_RAX, X86_RCX, X86_RDX, X86_RSI }[rnd() % 4];
}

static void encode_modrm(const struct x86_row_info *row, struct code *c, unsigned reg, unsigned rm)
{
	if (!row->modrm)
		return;
	if (row->modrm_mask >= 0xf8)
		c->b[c->n++] = row->modrm_value | (row->modrm_mask == 0xff ? 0 : rm & 7);
	else if (row->modrm_mask)
		c->b[c->n++] = (c->mem ? 0x03 : 0xc0 | (rm & 7)) | row->modrm_value;
	else
		c->b[c->n++] = (c->mem ? 0x03 : 0xc0 | (rm & 7)) | (reg & 7) << 3;
}

static void encode_vex(const struct x86_row_info *row, struct code *c, unsigned reg, unsigned rm,
		       bool w, bool l, unsigned vvvv)
{
	unsigned pp = !(row->forbid & X86_SEL_PP_66) ? 1 : !(row->forbid & X86_SEL_PP_F3) ? 2 :
		      !(row->forbid & X86_SEL_PP_F2) ? 3 : 0;

	if (!(row->forbid & X86_SEL_PP_NONE))
		pp = 0;
	c->b[c->n++] = 0xc4;
	c->b[c->n++] = (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | row->map;
	c->b[c->n++] = (w ? 0x80 : 0) | (~vvvv & 15) << 3 | (l ? 4 : 0) | pp;
}

static void encode_legacy(const struct x86_row_info *row, struct code *c, unsigned reg, unsigned rm,
			  bool w)
{
	if (row->forbid & X86_SEL_PP_NONE) {
		if (!(row->forbid & X86_SEL_PP_66))
			c->b[c->n++] = 0x66;
		else
			c->b[c->n++] = row->forbid & X86_SEL_PP_F3 ? 0xf2 : 0xf3;
	}
	if (w || ((reg | rm) & 8))
		c->b[c->n++] = 0x40 | (w ? 8 : 0) | (reg & 8 ? 4 : 0) | (rm & 8 ? 1 : 0);
	if (row->map)
		c->b[c->n++] = 0x0f;
	if (row->map >= 2)
		c->b[c->n++] = row->map == 2 ? 0x38 : 0x3a;
}

static bool random_bit(uint32_t forbid, uint32_t zero, uint32_t one)
{
	if (forbid & one)
		return false;
	return (forbid & zero) || rnd() % 2;
}

static void encode(const struct x86_row_info *row, struct code *c)
{
	bool w = random_bit(row->forbid, X86_SEL_W0, X86_SEL_W1);
	bool l = random_bit(row->forbid, X86_SEL_L0, X86_SEL_L1);
	unsigned reg = rnd() % 16, rm = rnd() % 16, vvvv = rnd() % 16, i;

	c->n = 0;
	c->mem = row->modrm && random_bit(row->forbid, X86_SEL_MOD_REG, X86_SEL_MOD_MEM);
	if (row->forbid & X86_SEL_VVVV_N)
		vvvv = 0;
	for (i = 0; i < 4; i++) {
		if (operand_is(row, i, "G"))
			reg = random_gpr();
		if (operand_is(row, i, "ER"))
			rm = random_gpr();
		if (operand_is(row, i, "P"))
			reg &= 7;
		if (operand_is(row, i, "QN"))
			rm &= 7;
	}
	if (c->mem)
		rm = X86_RBX;
	if (!strncmp(row->exec, "x87_", 4) && rnd() % 4 == 0)
		c->b[c->n++] = 0x66; /* 16-bit environments */
	if (row->vex)
		encode_vex(row, c, reg, rm, w, l, vvvv);
	else
		encode_legacy(row, c, reg, rm, w && (operand_is(row, 0, "EG") ||
						     operand_is(row, 1, "EG")));
	c->b[c->n++] = row->opcode;
	encode_modrm(row, c, reg, rm);
	if (row->imm == X86_IMM_IB)
		c->b[c->n++] = rnd();
}

/* ---- comparison ---- */

/* Beside an unmasked overflow or underflow the core reports precision as with the exception masked. */
static uint32_t ignored_mxcsr(bool raised, uint32_t mxcsr)
{
	if (!raised)
		return 0;
	return ~(mxcsr >> 7) & mxcsr & 0x18 ? 0x20 : 0;
}

static const char *differs(const struct x86_row_info *row, const struct x86_cpu *cpu,
			   const struct native_state *n, bool raised)
{
	const struct x86_fpu *f = &cpu->s.fpu;
	uint32_t flags = X86_FL_STATUS & ~row->undef, mxcsr;
	unsigned i;

	memcpy(&mxcsr, n->xsave + 24, 4);
	/* A dot product is three operations, and the core does not stop behind the first. */
	if (strstr(row->name, "DPP") && (mxcsr & 0x1f80) != 0x1f80)
		return NULL;
	if (raised != n->raised)
		return n->raised ? "host raised an exception" : "core raised an exception";
	for (i = 0; i < 16; i++)
		if (memcmp(f->vec[i], n->xsave + 160 + i * 16, 16) ||
		    memcmp(f->vec[i] + 16, n->xsave + 576 + i * 16, 16))
			return "vector register";
	if ((f->mxcsr ^ mxcsr) & ~ignored_mxcsr(raised, mxcsr))
		return "MXCSR";
	for (i = 0; i < 8; i++)
		if (memcmp(f->st[i], n->xsave + 32 + i * 16, 10))
			return "x87 register";
	if (memcmp(&f->fcw, n->xsave, 2))
		return "FCW";
	if (memcmp(&f->fsw, n->xsave + 2, 2))
		return "FSW";
	if (f->ftw != n->xsave[4])
		return "FTW";
	if ((cpu->s.rflags ^ n->flags) & flags)
		return "flags";
	if (cpu->s.gpr[X86_RAX] != n->rax || cpu->s.gpr[X86_RCX] != n->rcx ||
	    cpu->s.gpr[X86_RDX] != n->rdx || cpu->s.gpr[X86_RSI] != n->rsi)
		return "general register";
	return NULL;
}

static void dump(const char *name, const uint8_t *p, unsigned len)
{
	fprintf(stderr, "  %s", name);
	while (len--)
		fprintf(stderr, "%02x", p[len]);
	fprintf(stderr, "\n");
}

static void explain(const struct x86_cpu *cpu, const struct native_state *before,
		    const struct native_state *n, const struct code *c)
{
	unsigned i;

	fprintf(stderr, "  bytes:");
	for (i = 0; i < c->n; i++)
		fprintf(stderr, " %02x", c->b[i]);
	fprintf(stderr, "\n  mxcsr %08x: host %08x core %08x; fcw %04x fsw %04x: host %04x core %04x; "
			"ftw %02x: host %02x core %02x; flags host %lx core %lx\n",
		*(const uint32_t *)(before->xsave + 24), *(const uint32_t *)(n->xsave + 24),
		cpu->s.fpu.mxcsr, *(const uint16_t *)before->xsave,
		*(const uint16_t *)(before->xsave + 2), *(const uint16_t *)(n->xsave + 2),
		cpu->s.fpu.fsw, before->xsave[4], n->xsave[4], cpu->s.fpu.ftw, n->flags,
		cpu->s.rflags);
	fprintf(stderr, "  rax %lx %lx rcx %lx %lx rdx %lx %lx\n", n->rax, cpu->s.gpr[0], n->rcx,
		cpu->s.gpr[1], n->rdx, cpu->s.gpr[2]);
	for (i = 0; i < 16; i++) {
		if (!memcmp(cpu->s.fpu.vec[i], n->xsave + 160 + i * 16, 16) &&
		    !memcmp(cpu->s.fpu.vec[i] + 16, n->xsave + 576 + i * 16, 16))
			continue;
		fprintf(stderr, "  vec%u\n", i);
		dump("before ", before->xsave + 160 + i * 16, 16);
		dump("host   ", n->xsave + 160 + i * 16, 16);
		dump("core   ", cpu->s.fpu.vec[i], 16);
		dump("host high ", n->xsave + 576 + i * 16, 16);
		dump("core high ", cpu->s.fpu.vec[i] + 16, 16);
	}
	for (i = 0; i < 8; i++) {
		if (i > 1 && !memcmp(cpu->s.fpu.st[i], n->xsave + 32 + i * 16, 10))
			continue;
		fprintf(stderr, "  st%u\n", i);
		dump("before ", before->xsave + 32 + i * 16, 10);
		dump("host   ", n->xsave + 32 + i * 16, 10);
		dump("core   ", cpu->s.fpu.st[i], 10);
	}
}

/* Pointers to the last x87 instruction and operand, and selectors, differ by processor. */
static void forget_pointers(const struct x86_row_info *row, bool opsize, uint8_t *mem)
{
	if (!strcmp(row->exec, "x87_fnstenv") || !strcmp(row->exec, "x87_fnsave"))
		memset(mem + (opsize ? 6 : 12), 0, opsize ? 8 : 16);
}

/* A row whose instruction this test cannot set up: state images, gathers. */
static bool is_left_out(const struct x86_row_info *row)
{
	static const char *const families[] = { "vec_", "fp_", "mmx_", "x87_", "ldmxcsr",
						"stmxcsr" };
	unsigned i;

	if (row->attrs & X86_ROW_ATTR_VSIB)
		return true;
	if (!strcmp(row->exec, "ldmxcsr"))
		return true;
	for (i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		if (!strncmp(row->exec, families[i], strlen(families[i])))
			return false;
	return true;
}

/* One random case. False when they disagree. */
static bool one_case(struct x86_cpu *cpu, const struct x86_row_info *row, uint8_t *mem, bool loud)
{
	uint8_t mem_before[MEM_BYTES], mem_host[MEM_BYTES];
	struct native_state before, n;
	struct x86_insn insn;
	const char *what;
	struct code c;
	int r;

	encode(row, &c);
	random_state(&n, mem);
	before = n;
	memcpy(mem_before, mem, MEM_BYTES);
	native_run(c.b, c.n, &n);
	if (n.invalid)
		return true; /* the host lacks it */
	memcpy(mem_host, mem, MEM_BYTES);
	memcpy(mem, mem_before, MEM_BYTES);

	to_cpu(cpu, &before);
	r = x86_decode(c.b, c.n, 8, &insn);
	if (r != (int)c.n || &x86_rows[insn.row] != row) {
		if (loud)
			fprintf(stderr, "%s | %s: decoded as %s, %d of %u bytes\n", row->name,
				row->opcode_text, r > 0 ? x86_rows[insn.row].opcode_text : "-", r,
				c.n);
		return false;
	}
	r = insn.exec(cpu, &insn);
	what = differs(row, cpu, &n, r == X86_FAULT);
	forget_pointers(row, insn.opsize == 2, mem);
	forget_pointers(row, insn.opsize == 2, mem_host);
	if (!what && memcmp(mem, mem_host, MEM_BYTES))
		what = "memory";
	if (what && loud) {
		fprintf(stderr, "%s | %s (%s): %s, vector %d\n", row->name, row->opcode_text,
			c.mem ? "memory" : "register", what, r == X86_FAULT ? cpu->fault.vector : -1);
		explain(cpu, &before, &n, &c);
		dump("mem before ", mem_before, 32);
		dump("mem host   ", mem_host, 32);
		dump("mem core   ", mem, 32);
	}
	return !what;
}

START_TEST(agrees_with_host)
{
	const char *only = getenv("ROW"), *more = getenv("TRIES");
	unsigned tries = more ? strtoul(more, NULL, 0) : TRIES;
	unsigned i, k, bad_rows = 0, rows = 0;
	struct x86_cpu *cpu = cpu_new();
	uint8_t *mem = mmap((void *)GUEST_BASE, 0x2000, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	ck_assert_ptr_ne(mem, MAP_FAILED);
	if (!native_init())
		return;
	for (i = 0; i < X86_ROW_COUNT; i++) {
		const struct x86_row_info *row = &x86_rows[i];
		unsigned bad = 0;

		if (is_left_out(row) || (only && strcmp(only, row->name)))
			continue;
		rows++;
		seed = 0x9e3779b97f4a7c15ull + i;
		for (k = 0; k < tries; k++)
			if (!one_case(cpu, row, mem + 0x1000, bad == 0))
				bad++;
		if (bad)
			fprintf(stderr, "==> %s | %s: %u of %u cases differ\n", row->name,
				row->opcode_text, bad, tries);
		bad_rows += bad != 0;
	}
	fprintf(stderr, "%u rows, %u of them differ\n", rows, bad_rows);
	ck_assert_uint_eq(bad_rows, 0);
	munmap(mem, 0x2000);
	free(cpu->tlb);
	free(cpu);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("x86 vec");
	TCase *tc = tcase_create("native");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 50);
	tcase_add_test(tc, agrees_with_host);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
