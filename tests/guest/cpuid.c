// SPDX-License-Identifier: Apache-2.0
/*
 * cpuid.c - the processor does what CPUID says, and nothing else: instructions of a feature raise #UD
 * without it, bits of CR4 and EFER #GP. Prints the leaves, for whoever asked for a certain model.
 *
 * With "hw=1" an instruction may work without its flag: hardware lets few of them be refused.
 */
#include "guest.h"

#define UD 6
#define GP 13

static bool hardware;
static struct cpuid f1, f7, fd1, fe1;

static void print_leaf(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r = cpuid(leaf, subleaf);

	print("leaf %x.%x: %x %x %x %x\n", leaf, subleaf, r.a, r.b, r.c, r.d);
}

static void print_leaves(void)
{
	static const uint32_t leaves[][2] = {
		{ 0, 0 },	   { 1, 0 },	      { 7, 0 },		 { 7, 1 },
		{ 0xd, 0 },	   { 0xd, 1 },	      { 0x80000001u, 0 }, { 0x80000002u, 0 },
		{ 0x80000003u, 0 }, { 0x80000004u, 0 }, { 0x80000008u, 0 }, { 0x80000021u, 0 },
	};

	for (unsigned i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++)
		print_leaf(leaves[i][0], leaves[i][1]);
}

/* The instruction was tried: #UD exactly where the feature is missing. */
static void judge(const char *name, bool offered)
{
	bool undefined = fault.happened && fault.vector == UD;

	if (fault.happened && fault.vector != UD)
		print("%s: vector %d\n", name, (int)fault.vector);
	else if (undefined == offered && !(hardware && !offered))
		print("%s: %s\n", name, offered ? "offered, but undefined" : "works without its flag");
	check(!(fault.happened && fault.vector != UD) &&
	      (undefined != offered || (hardware && !offered)));
}

#define INSN(name, offered, text)                                                                  \
	do {                                                                                       \
		TRY(text, : : "S"(buffer) : "rax", "rcx", "rdx", "rbx", "memory", "cc");           \
		judge(name, offered);                                                              \
	} while (0)
#define BIT(reg, n) ((reg) >> (n) & 1)

static uint8_t buffer[1024] __attribute__((aligned(64)));

static void integer_insns(void)
{
	INSN("popcnt", BIT(f1.c, 23), "popcnt %%eax, %%eax");
	INSN("movbe", BIT(f1.c, 22), "movbe (%%rsi), %%eax");
	INSN("cx16", BIT(f1.c, 13),
	     "xor %%eax, %%eax; xor %%edx, %%edx; lock cmpxchg16b (%%rsi)");
	INSN("rdrand", BIT(f1.c, 30), "rdrand %%eax");
	INSN("rdseed", BIT(f7.b, 18), "rdseed %%eax");
	INSN("bmi1", BIT(f7.b, 3), "andn %%eax, %%eax, %%eax");
	INSN("bmi2", BIT(f7.b, 8), "rorx $1, %%eax, %%eax");
	INSN("adx", BIT(f7.b, 19), "adcx %%eax, %%eax");
	INSN("clflushopt", BIT(f7.b, 23), "clflushopt (%%rsi)");
	INSN("rdpid", BIT(f7.c, 22), "rdpid %%rax");
	INSN("rdtscp", BIT(fe1.d, 27), "rdtscp");
	INSN("lahf", BIT(fe1.c, 0), "lahf");
	INSN("cmov", BIT(f1.d, 15), "cmovz %%eax, %%eax");
	INSN("invpcid", BIT(f7.b, 10), "mov $2, %%eax; invpcid (%%rsi), %%rax");
}

static void vector_insns(void)
{
	bool xsave = BIT(f1.c, 26), avx = BIT(f1.c, 28);
	uint32_t components = xsave ? cpuid(0xd, 0).a : 0;

	write_cr0((read_cr0() & ~(word)(CR0_EM | CR0_TS)) | CR0_MP);
	if (BIT(f1.d, 24))
		write_cr4(read_cr4() | CR4_OSFXSR);
	INSN("mmx", BIT(f1.d, 23), "pxor %%mm0, %%mm0");
	INSN("sse", BIT(f1.d, 25), "xorps %%xmm0, %%xmm0");
	INSN("sse2", BIT(f1.d, 26), "pxor %%xmm0, %%xmm0");
	INSN("pni", BIT(f1.c, 0), "haddps %%xmm0, %%xmm0");
	INSN("ssse3", BIT(f1.c, 9), "pshufb %%xmm0, %%xmm0");
	INSN("sse4_1", BIT(f1.c, 19), "pmulld %%xmm0, %%xmm0");
	INSN("sse4_2", BIT(f1.c, 20), "pcmpgtq %%xmm0, %%xmm0");
	INSN("pclmulqdq", BIT(f1.c, 1), "pclmulqdq $0, %%xmm0, %%xmm0");
	INSN("aes", BIT(f1.c, 25), "aesenc %%xmm0, %%xmm0");
	INSN("sha_ni", BIT(f7.b, 29), "sha256msg1 %%xmm0, %%xmm0");
	check_equal(components, xsave ? (avx ? components | 7 : components & ~4u) : 0);
	if (!xsave)
		return;
	write_cr4(read_cr4() | CR4_OSXSAVE);
	TRY("xsetbv", : : "a"(avx ? 7 : 3), "d"(0), "c"(0) : "memory");
	check_no_fault();
	if (!avx) {
		TRY("xsetbv", : : "a"(7), "d"(0), "c"(0) : "memory");
		check_fault(GP, 0);
	}
	INSN("avx", avx, "vpxor %%xmm0, %%xmm0, %%xmm0");
	INSN("avx2", BIT(f7.b, 5), "vpxor %%ymm0, %%ymm0, %%ymm0");
	INSN("fma", BIT(f1.c, 12), "vfmadd132ps %%xmm0, %%xmm0, %%xmm0");
	INSN("f16c", BIT(f1.c, 29), "vcvtph2ps %%xmm0, %%xmm0");
	INSN("xsaveopt", BIT(fd1.a, 0), "mov $3, %%eax; xor %%edx, %%edx; xsaveopt (%%rsi)");
	INSN("xsavec", BIT(fd1.a, 1), "mov $3, %%eax; xor %%edx, %%edx; xsavec (%%rsi)");
}

static void cr4_bit(const char *name, word bit, bool offered)
{
	word old = read_cr4();

	TRY("mov %0, %%cr4", : : "r"(old | bit) : "memory");
	if (fault.happened == offered)
		print("CR4.%s: %s\n", name, offered ? "refused" : "taken without its flag");
	check(fault.happened != offered);
	if (!fault.happened)
		write_cr4(old);
}

static void control_bits(void)
{
	uint64_t efer = rdmsr(EFER);

	cr4_bit("UMIP", CR4_UMIP, BIT(f7.c, 2));
	cr4_bit("FSGSBASE", CR4_FSGSBASE, BIT(f7.b, 0));
	cr4_bit("PCIDE", CR4_PCIDE, BIT(f1.c, 17));
	cr4_bit("OSXSAVE", CR4_OSXSAVE, BIT(f1.c, 26));
	cr4_bit("SMEP", CR4_SMEP, BIT(f7.b, 7));
	cr4_bit("SMAP", CR4_SMAP, BIT(f7.b, 20));
	cr4_bit("DE", CR4_DE, BIT(f1.d, 2));
	TRY("wrmsr", : : "c"(EFER), "a"((uint32_t)efer | EFER_NXE), "d"(0) : "memory");
	check_equal(fault.happened, !BIT(fe1.d, 20));
	TRY("wrmsr", : : "c"(EFER), "a"((uint32_t)efer | EFER_SCE), "d"(0) : "memory");
	check_equal(fault.happened, !BIT(fe1.d, 11));
}

int main(void)
{
	hardware = argument("hw");
	f1 = cpuid(1, 0);
	f7 = cpuid(7, 0);
	fd1 = BIT(f1.c, 26) ? cpuid(0xd, 1) : (struct cpuid){ 0 };
	fe1 = cpuid(0x80000001u, 0);
	print_leaves();
	/* Each instruction twice: interpreted and, in a loop long enough, translated. */
	for (unsigned i = 0; i < 40; i++)
		integer_insns();
	control_bits();
	for (unsigned i = 0; i < 40; i++)
		vector_insns();
	return 0;
}
