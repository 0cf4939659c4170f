// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * cpuid.c - which processor the guest sees: the host's vendor, family and name with just the
 * features that the core implements.
 *
 * The arithmetic runs on the host's units, so that features of it are dropped where the host lacks
 * them. What the core does by itself (system instructions) is offered everywhere.
 *
 * Speculation: the guest's indirect branches are no branches of the host, so the immunity bits a
 * kernel looks for before it turns mitigations on are set.
 */
#include "sys_int.h"
#include "x86_int.h"

#include <string.h>

#undef BIT /* the kernel's is of unsigned long */
#define BIT(n) (1u << (n))
enum { EAX, EBX, ECX, EDX };

/* Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX
 * FXSR SSE SSE2. */
#define F1_EDX                                                                                     \
	(BIT(0) | BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(9) | \
	 BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(19) | BIT(23) | \
	 BIT(24) | BIT(25) | BIT(26))
/* Leaf 1 ECX, from the host: SSE3 PCLMULQDQ SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES AVX F16C
 * RDRAND. By ourselves: PCID x2APIC TSC-deadline XSAVE hypervisor. */
#define F1_ECX_HOST                                                                                \
	(BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |    \
	 BIT(25) | BIT(28) | BIT(29) | BIT(30))
#define F1_ECX_OWN (BIT(17) | BIT(21) | BIT(24) | BIT(26) | BIT(31))
#define F1_ECX_AVX  (BIT(12) | BIT(28) | BIT(29))
#define F1_OSXSAVE  BIT(27)
/* Leaf 7 EBX, from the host: BMI1 AVX2 BMI2 RDSEED ADX SHA. By ourselves: FSGSBASE SMEP ERMS
 * INVPCID SMAP CLFLUSHOPT, and no FCS and FDS. ECX: UMIP, RDPID. */
#define F7_EBX_HOST (BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(29))
#define F7_EBX_OWN  (BIT(0) | BIT(7) | BIT(9) | BIT(10) | BIT(13) | BIT(20) | BIT(23))
#define F7_EBX_AVX    BIT(5)
#define F7_EBX_AVX512 (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31))
#define F7_ECX_OWN  (BIT(2) | BIT(22))
/* What the holder lets the host execute: AVX-512 F, DQ, IFMA, CD, BW, VL; in ECX VBMI, VBMI2, VNNI, BITALG,
 * VPOPCNTDQ, and GFNI, VAES, VPCLMULQDQ; in EAX of subleaf 1 BF16. */
#define F7_EBX_RUN (BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31))
#define F7_ECX_RUN (BIT(1) | BIT(6) | BIT(8) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14))
#define F7_1_EAX_RUN BIT(5)
/* Intel's speculation controls: IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD. */
#define F7_EDX_INTEL (BIT(26) | BIT(27) | BIT(29) | BIT(31))
/* Leaf 8000_0001: LAHF, LZCNT, 3DNow! prefetch; AMD's topology extensions. */
#define EXT1_ECX_OWN  (BIT(0) | BIT(8))
#define EXT1_ECX_HOST BIT(5)
#define EXT1_ECX_AMD  BIT(22)
/* SYSCALL NX 1GB RDTSCP LM; AMD repeats leaf 1 and has the MMX extensions. */
#define EXT1_EDX      (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
#define EXT1_EDX_AMD  BIT(22)
/* Leaf 8000_0008: error pointers are always saved and restored; immune to speculative store bypass and branch type confusion. 8000_0021: LFENCE
 * serializes, null selectors clear the base, automatic IBRS, immune to speculative return stack
 * overflow. */
#define EXT8_EBX_AMD  (BIT(2) | BIT(26) | BIT(29))
#define EXT21_EAX_AMD (BIT(2) | BIT(6) | BIT(8) | BIT(29))
/* Leaf 0xd subleaf 1: XSAVEOPT, XSAVEC, XGETBV(1). */
#define FD1_EAX (BIT(0) | BIT(1) | BIT(2))

#define XSTATE_LEGACY 576u /* x87, SSE and the header */
#define XSTATE_AVX    256u

#define MAX_BASIC	0x16u
#define MAX_EXT_INTEL	0x80000008u
#define MAX_EXT_AMD	0x80000021u
#define CACHE_LINE	64u

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[EAX]), "=b"(r[EBX]), "=c"(r[ECX]), "=d"(r[EDX])
			 : "a"(leaf), "c"(subleaf));
}

/* Vector registers count when the host's system keeps them: XCR0. */
static uint32_t host_xcr0(void)
{
	uint32_t r[4], lo, hi;

	host_cpuid(1, 0, r);
	if (!(r[ECX] & F1_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo;
}

void x86_cpuid_host_words(uint32_t ret_word[X86_CPUID_WORDS])
{
	uint32_t r[4], max, max_ext, xcr0 = host_xcr0();

	host_cpuid(0, 0, r);
	max = r[EAX];
	host_cpuid(0x80000000u, 0, r);
	max_ext = r[EAX];
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		const struct x86_cpuid_place *p = &x86_cpuid_places[i];

		ret_word[i] = 0;
		if (p->leaf > (p->leaf & BIT(31) ? max_ext : max))
			continue;
		host_cpuid(p->leaf, p->subleaf, r);
		ret_word[i] = r[p->reg];
	}
	if ((xcr0 & 6) != 6) {
		ret_word[X86_CPUID_1_ECX] &= ~F1_ECX_AVX;
		ret_word[X86_CPUID_7_EBX] &= ~F7_EBX_AVX;
	}
	if ((xcr0 & 0xe6) != 0xe6)
		ret_word[X86_CPUID_7_EBX] &= ~F7_EBX_AVX512;
}

/* Vendor, family and name. */
static void host_identity(struct x86_cpuid_model *m)
{
	uint32_t r[4];

	host_cpuid(0, 0, r);
	m->vendor[0] = r[EBX];
	m->vendor[1] = r[EDX];
	m->vendor[2] = r[ECX];
	m->amd = !memcmp(m->vendor, "AuthenticAMD", 12) || !memcmp(m->vendor, "HygonGenuine", 12);
	host_cpuid(1, 0, r);
	m->signature = r[EAX];
	host_cpuid(0x80000000u, 0, r);
	if (r[EAX] >= 0x80000004u) {
		for (unsigned i = 0; i < 3; i++)
			host_cpuid(0x80000002u + i, 0, &m->brand[i * 4]);
	}
}

void x86_cpuid_model_max(struct x86_cpuid_model *ret)
{
	uint32_t host[X86_CPUID_WORDS], *w = ret->word;

	memset(ret, 0, sizeof(*ret));
	host_identity(ret);
	x86_cpuid_host_words(host);
	w[X86_CPUID_1_EDX] = F1_EDX;
	w[X86_CPUID_1_ECX] = (host[X86_CPUID_1_ECX] & F1_ECX_HOST) | F1_ECX_OWN;
	w[X86_CPUID_7_EBX] = (host[X86_CPUID_7_EBX] & F7_EBX_HOST) | F7_EBX_OWN;
	w[X86_CPUID_7_ECX] = F7_ECX_OWN;
	w[X86_CPUID_D_1_EAX] = FD1_EAX;
	w[X86_CPUID_EXT1_EDX] = EXT1_EDX;
	w[X86_CPUID_EXT1_ECX] = (host[X86_CPUID_EXT1_ECX] & EXT1_ECX_HOST) | EXT1_ECX_OWN;
	if (ret->amd) {
		w[X86_CPUID_EXT1_EDX] |= EXT1_EDX_AMD;
		w[X86_CPUID_EXT1_ECX] |= EXT1_ECX_AMD;
		w[X86_CPUID_EXT8_EBX] = EXT8_EBX_AMD;
		w[X86_CPUID_EXT21_EAX] = EXT21_EAX_AMD;
	} else {
		w[X86_CPUID_7_EDX] = F7_EDX_INTEL;
	}
	ret->xcr0 = host[X86_CPUID_1_ECX] & BIT(28) ? 7 : 3;
}

void x86_cpuid_model_add_host(struct x86_cpuid_model *model)
{
	uint32_t host[X86_CPUID_WORDS];

	x86_cpuid_host_words(host);
	if (!(host[X86_CPUID_7_EBX] & BIT(16)))
		return;
	model->word[X86_CPUID_7_EBX] |= host[X86_CPUID_7_EBX] & F7_EBX_RUN;
	model->word[X86_CPUID_7_ECX] |= host[X86_CPUID_7_ECX] & F7_ECX_RUN;
	model->word[X86_CPUID_7_1_EAX] |= host[X86_CPUID_7_1_EAX] & F7_1_EAX_RUN;
	model->xcr0 |= 0xe0;
}

bool x86_model_is_amd(const struct x86_cpuid_model *model)
{
	return model && model->amd;
}

/* A cache in the form of leaf 4 and 8000_001D. */
static bool cache_leaf(uint32_t index, uint32_t r[4])
{
	static const struct {
		uint8_t type, level, ways;
		uint32_t sets;
	} cache[] = {
		{ 1, 1, 8, 64 },     /* 32 KiB data */
		{ 2, 1, 8, 64 },     /* 32 KiB code */
		{ 3, 2, 8, 1024 },   /* 512 KiB */
		{ 3, 3, 16, 16384 }, /* 16 MiB */
	};

	if (index >= sizeof(cache) / sizeof(cache[0]))
		return false;
	r[EAX] = cache[index].type | (uint32_t)cache[index].level << 5 | BIT(8);
	r[EBX] = (CACHE_LINE - 1) | (uint32_t)(cache[index].ways - 1) << 22;
	r[ECX] = cache[index].sets - 1;
	return true;
}

unsigned x86_xsave_bytes(unsigned i)
{
	static const uint16_t bytes[] = { 0, 0, XSTATE_AVX, 0, 0, 64, 512, 1024 };

	return i < sizeof(bytes) / sizeof(bytes[0]) ? bytes[i] : 0;
}

/* Intel's processors leave room for the components of MPX, AMD's do not. */
unsigned x86_xsave_offset(const struct x86_cpuid_model *model, unsigned i)
{
	static const uint16_t intel[] = { 1088, 1152, 1664 }, amd[] = { 832, 896, 1408 };

	if (i < 5)
		return XSTATE_LEGACY;
	return x86_model_is_amd(model) ? amd[i - 5] : intel[i - 5];
}

/* What the components of @xcr0 take, in the standard or the compacted format. */
static uint32_t xsave_size(const struct x86_cpuid_model *m, uint64_t xcr0, bool compact)
{
	uint32_t size = XSTATE_LEGACY;

	for (unsigned i = 2; i < 8; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		size = (compact ? size : x86_xsave_offset(m, i)) + x86_xsave_bytes(i);
	}
	return size;
}

static void xsave_leaf(const struct x86_cpuid_model *m, uint32_t subleaf, uint32_t r[4])
{
	uint32_t xcr0 = (uint32_t)m->xcr0;

	if (!xcr0)
		return; /* no XSAVE */
	if (subleaf == 0) {
		r[EAX] = xcr0;
		r[EBX] = r[ECX] = xsave_size(m, xcr0, false);
	} else if (subleaf == 1) {
		r[EBX] = xsave_size(m, xcr0, true);
	} else if (subleaf < 8 && xcr0 >> subleaf & 1) {
		r[EAX] = x86_xsave_bytes(subleaf);
		r[EBX] = x86_xsave_offset(m, subleaf);
	}
}

static void basic_leaf(const struct x86_cpuid_model *m, uint32_t leaf, uint32_t subleaf,
		       uint32_t r[4])
{
	switch (leaf) {
	case 0:
		r[EAX] = MAX_BASIC;
		r[EBX] = m->vendor[0];
		r[EDX] = m->vendor[1];
		r[ECX] = m->vendor[2];
		break;
	case 1:
		r[EAX] = m->signature;
		r[EBX] = (CACHE_LINE / 8) << 8 | BIT(16);
		break;
	case 2:
		if (!m->amd)
			r[EAX] = 0x00feff01; /* ask leaf 4; 64-byte prefetch */
		break;
	case 4:
		if (!m->amd)
			(void)cache_leaf(subleaf, r); /* all zero: no more caches */
		break;
	case 6:
		r[EAX] = BIT(2); /* the APIC timer always runs */
		break;
	case 7:
		if (subleaf == 0 && m->word[X86_CPUID_7_1_EAX])
			r[EAX] = 1; /* the last subleaf */
		break;
	case 0xd:
		xsave_leaf(m, subleaf, r);
		break;
	}
}

static void extended_leaf(const struct x86_cpuid_model *m, uint32_t leaf, uint32_t subleaf,
			  uint32_t r[4])
{
	switch (leaf) {
	case 0x80000000u:
		r[EAX] = m->amd ? MAX_EXT_AMD : MAX_EXT_INTEL;
		if (m->amd) {
			r[EBX] = m->vendor[0];
			r[EDX] = m->vendor[1];
			r[ECX] = m->vendor[2];
		}
		break;
	case 0x80000001u:
		r[EAX] = m->amd ? m->signature : 0;
		r[EDX] = m->amd ? m->word[X86_CPUID_1_EDX] & X86_CPUID_REPEATED : 0;
		break;
	case 0x80000002u:
	case 0x80000003u:
	case 0x80000004u:
		memcpy(r, &m->brand[(leaf - 0x80000002u) * 4], 16);
		break;
	case 0x80000005u:
		if (m->amd) { /* TLBs, and both L1 caches: 32 KiB, 8 ways, 64-byte lines */
			r[EAX] = r[EBX] = 0xff40ff40;
			r[ECX] = r[EDX] = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
		}
		break;
	case 0x80000006u:
		r[ECX] = 512u << 16 | 6u << 12 | 1u << 8 | CACHE_LINE;
		if (m->amd) {
			r[EAX] = r[EBX] = 0x48002200;
			r[EDX] = (16384u / 512) << 18 | 8u << 12 | 1u << 8 | CACHE_LINE;
		}
		break;
	case 0x80000007u:
		r[EDX] = BIT(8); /* the TSC never changes its pace */
		break;
	case 0x80000008u:
		r[EAX] = X86_PHYS_BITS | 48u << 8;
		break;
	case 0x8000001du:
		if (m->amd)
			(void)cache_leaf(subleaf, r);
		break;
	case 0x80000021u:
		if (m->amd)
			r[ECX] = BIT(1) | BIT(2); /* immune to transient scheduler attacks */
		break;
	}
}

void x86_cpuid_plain(const struct x86_cpuid_model *model, uint32_t leaf, uint32_t subleaf,
		     uint32_t r[4])
{
	memset(r, 0, 16);
	if (!model)
		return;
	if (leaf <= MAX_BASIC)
		basic_leaf(model, leaf, subleaf, r);
	else if (leaf >= 0x80000000u)
		extended_leaf(model, leaf, subleaf, r);
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		const struct x86_cpuid_place *p = &x86_cpuid_places[i];

		if (p->leaf == leaf && (p->subleaf == subleaf || (leaf != 7 && leaf != 0xd)))
			r[p->reg] |= model->word[i];
	}
}

void x86_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4])
{
	uint32_t *r = ret_regs;

	x86_cpuid_plain(cpu->model, leaf, subleaf, r);
	if (leaf == 1 && (cpu->s.cr4 & X86_CR4_OSXSAVE))
		r[ECX] |= F1_OSXSAVE;
	/* The size for what is enabled just now. */
	if (leaf == 0xd && subleaf <= 1 && r[EBX])
		r[EBX] = xsave_size(cpu->model, cpu->s.xcr0, subleaf == 1);
	if (cpu->ops && cpu->ops->cpuid)
		cpu->ops->cpuid(cpu, leaf, subleaf, r);
}

static unsigned bits_for(uint32_t count)
{
	unsigned bits = 0;

	while (bits < 31 && (1u << bits) < count)
		bits++;
	return bits;
}

void x86_cpuid_topology(uint32_t leaf, uint32_t subleaf, uint32_t apic_id, uint32_t cpus,
			uint32_t r[4])
{
	unsigned bits = bits_for(cpus);
	uint32_t count = cpus < 255 ? cpus : 255;

	switch (leaf) {
	case 1:
		r[EBX] = (r[EBX] & 0xff00u) | count << 16 | (apic_id & 0xff) << 24;
		if (cpus > 1)
			r[EDX] |= BIT(28);
		break;
	case 4:
		/* The last level is shared by all, the others belong to a core. */
		if (r[EAX])
			r[EAX] |= ((1u << (bits < 6 ? bits : 6)) - 1) << 26;
		__attribute__((__fallthrough__));
	case 0x8000001du:
		if ((r[EAX] >> 5 & 7) == 3)
			r[EAX] |= (cpus - 1) << 14;
		break;
	case 0xb:
		r[ECX] = subleaf & 0xff;
		r[EDX] = apic_id;
		r[EAX] = r[EBX] = 0;
		if (subleaf == 0) { /* one thread a core */
			r[EBX] = 1;
			r[ECX] |= 1u << 8;
		} else if (subleaf == 1) {
			r[EAX] = bits;
			r[EBX] = cpus;
			r[ECX] |= 2u << 8;
		}
		break;
	case 0x80000001u:
		if (cpus > 1 && (r[ECX] & EXT1_ECX_AMD))
			r[ECX] |= BIT(1);
		break;
	case 0x80000008u:
		if (r[EBX] & EXT8_EBX_AMD) /* AMD: cores, and bits of the APIC id */
			r[ECX] = (count - 1) | bits << 12;
		break;
	case 0x8000001eu:
		r[EAX] = apic_id;
		r[EBX] = apic_id & 0xff; /* one thread of this core */
		break;
	}
}
