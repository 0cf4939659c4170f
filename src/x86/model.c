// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * model.c - processor models by name: what each level has, which flag needs which, and the
 * model made of what a user asked for.
 */
#include "model.h"

#include <string.h>

enum { BASE_MAX, BASE_HOST, BASE_LEVELS };

static const struct x86_cpu_base bases[] = {
	{ "max", "all that the engine can show here" },
	{ "host", "what the host has of it" },
	{ "x86-64-v1", "the baseline: SSE2" },
	{ "x86-64-v2", "and SSE4.2, POPCNT: as of 2009" },
	{ "x86-64-v3", "and AVX2, BMI2, FMA: as of 2013" },
	{ "x86-64-v4", "and AVX-512: as of 2017" },
};
#define LEVELS (sizeof(bases) / sizeof(bases[0]) - BASE_LEVELS)

/*
 * What a level adds to the one before. The first line is the ABI's; the second one system flags that
 * every processor of that level has, so that a kernel need not do without.
 */
static const char *const levels[LEVELS] = {
	"cmov cx8 fpu fxsr mmx syscall sse sse2 "
	"de pse tsc msr pae mce apic sep mtrr pge mca pat pse36 clflush nx lm",
	"cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 "
	"rdtscp",
	"avx avx2 bmi1 bmi2 f16c fma abm movbe xsave "
	"xsaveopt fsgsbase smep pclmulqdq aes rdrand",
	"avx512f avx512bw avx512cd avx512dq avx512vl "
	"xsavec xgetbv1 smap clflushopt adx rdseed",
};

/* The first flag of a row makes no sense without the others. */
static const char *const needs[] = {
	"sse fxsr", "sse2 sse", "pni sse2", "ssse3 pni", "sse4_1 ssse3", "sse4_2 sse4_1",
	"sse4a pni", "aes sse2", "pclmulqdq sse2", "sha_ni ssse3", "gfni sse2", "mmxext mmx",
	"lm pae syscall", "nx pae", "pdpe1gb lm", "pcid lm", "fsgsbase lm", "x2apic apic",
	"rdtscp tsc", "tsc_adjust tsc", "lahf_lm lm", "cx16 cx8", "tsc_deadline_timer apic tsc",
	"xsaveopt xsave", "xsavec xsave", "xgetbv1 xsave", "xsaves xsavec", "xsaveerptr xsave",
	"pku xsave", "avx xsave sse4_2", "avx2 avx", "fma avx", "f16c avx", "vaes avx aes",
	"vpclmulqdq avx pclmulqdq", "xop avx", "fma4 avx", "avx_vnni avx2", "avx_ifma avx2",
	"avx512f avx2 fma f16c", "avx512dq avx512f", "avx512ifma avx512f", "avx512cd avx512f",
	"avx512bw avx512f", "avx512vl avx512f", "avx512vbmi avx512bw", "avx512_vbmi2 avx512bw",
	"avx512_vnni avx512f", "avx512_bitalg avx512bw", "avx512_vpopcntdq avx512f",
	"avx512_vp2intersect avx512f", "avx512_bf16 avx512bw", "avx512_fp16 avx512bw",
	"amx_tile xsave", "amx_int8 amx_tile", "amx_bf16 amx_tile", "amx_fp16 amx_tile",
};

/*
 * Kept in every model, unless dropped by name: what speaks of the engine (hypervisor, x2APIC,
 * TSC-deadline), of immunity to and control of speculation, which a guest must know of the processor
 * below it, and of segments in the x87 state.
 */
static const uint32_t kept[X86_CPUID_WORDS] = {
	[X86_CPUID_1_ECX] = 1u << 31 | 1u << 21 | 1u << 24,
	[X86_CPUID_7_EBX] = 1u << 6 | 1u << 13,
	[X86_CPUID_7_EDX] = 1u << 10 | 0xfc000000u,
	[X86_CPUID_EXT1_ECX] = 1u << 22,
	[X86_CPUID_EXT8_EBX] = 0x7ffff000u,
	[X86_CPUID_EXT21_EAX] = ~0u,
};

/* Neutral family, model and stepping: old enough to be known to all systems, young enough that PAT and
 * the TSC are trusted. Intel: 6, 15, 11; AMD: 15, 107, 1. */
#define SIGNATURE_INTEL 0x000006fbu
#define SIGNATURE_AMD	0x00060fb1u

const struct x86_cpu_base *x86_cpu_base(size_t i)
{
	return i < sizeof(bases) / sizeof(bases[0]) ? &bases[i] : NULL;
}

static size_t length(const char *text)
{
	size_t n = 0;

	while (text[n])
		n++;
	return n;
}

int x86_cpu_base_find(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++)
		if (length(bases[i].name) == len && !memcmp(bases[i].name, name, len))
			return (int)i;
	return -1;
}

/* The next word of a list with single spaces, or NULL at its end. */
static const struct x86_cpu_flag *next_flag(const char **list)
{
	const char *name = *list;
	size_t len = 0;

	while (name[len] && name[len] != ' ')
		len++;
	*list = name + len + (name[len] == ' ');
	return len ? x86_cpu_flag_find(name, len) : NULL;
}

static bool has(const uint32_t set[X86_CPUID_WORDS], const struct x86_cpu_flag *flag)
{
	return set[flag->word] >> flag->bit & 1;
}

static void put(uint32_t set[X86_CPUID_WORDS], const struct x86_cpu_flag *flag)
{
	set[flag->word] |= 1u << flag->bit;
}

/* Add to @set what its flags need. True when that was something. */
static bool close_up(uint32_t set[X86_CPUID_WORDS])
{
	bool changed = false;

	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		const char *list = needs[i];
		const struct x86_cpu_flag *flag = next_flag(&list);

		if (!has(set, flag))
			continue;
		while ((flag = next_flag(&list))) {
			changed |= !has(set, flag);
			put(set, flag);
		}
	}
	return changed;
}

/* Add to @set what needs one of its flags. */
static bool close_down(uint32_t set[X86_CPUID_WORDS])
{
	bool changed = false;

	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		const char *list = needs[i];
		const struct x86_cpu_flag *flag = next_flag(&list), *needed;

		if (has(set, flag))
			continue;
		while ((needed = next_flag(&list))) {
			if (!has(set, needed))
				continue;
			put(set, flag);
			changed = true;
			break;
		}
	}
	return changed;
}

void x86_cpu_spec_set(struct x86_cpu_spec *spec, const struct x86_cpu_flag *flag, bool on)
{
	uint32_t set[X86_CPUID_WORDS] = { 0 };
	uint32_t *to = on ? spec->add : spec->drop, *from = on ? spec->drop : spec->add;

	put(set, flag);
	while (on ? close_up(set) : close_down(set))
		;
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		to[i] |= set[i];
		from[i] &= ~set[i];
	}
}

static void level_words(unsigned level, uint32_t word[X86_CPUID_WORDS])
{
	memset(word, 0, X86_CPUID_WORDS * sizeof(word[0]));
	for (unsigned i = 0; i <= level && i < LEVELS; i++) {
		const struct x86_cpu_flag *flag;
		const char *list = levels[i];

		while ((flag = next_flag(&list)))
			put(word, flag);
	}
}

/* A name of its own, and a signature that stands for no processor in particular. */
static void make_neutral(struct x86_cpuid_model *m, const char *name)
{
	static const char before[] = "Virtual CPU ";
	char brand[sizeof(m->brand)] = { 0 };

	memcpy(brand, before, sizeof(before));
	memcpy(brand + sizeof(before) - 1, name, length(name));
	memcpy(m->brand, brand, sizeof(brand));
	m->neutral = true;
	m->signature = m->amd ? SIGNATURE_AMD : SIGNATURE_INTEL;
}

static const char *first_flag(const uint32_t set[X86_CPUID_WORDS])
{
	const struct x86_cpu_flag *flag;

	for (size_t i = 0; (flag = x86_cpu_flag(i)); i++)
		if (has(set, flag))
			return flag->name;
	return NULL;
}

/* SDM vol. 1, 13.1: which components of XSAVE the flags bring. */
static uint64_t xcr0_of(const uint32_t word[X86_CPUID_WORDS])
{
	uint64_t v = 3;

	if (!(word[X86_CPUID_1_ECX] & 1u << 26))
		return 0;
	if (word[X86_CPUID_1_ECX] & 1u << 28)
		v |= 4;
	if (word[X86_CPUID_7_EBX] & 1u << 14)
		v |= 0x18; /* MPX */
	if (word[X86_CPUID_7_EBX] & 1u << 16)
		v |= 0xe0; /* AVX-512 */
	if (word[X86_CPUID_7_ECX] & 1u << 3)
		v |= 0x200; /* PKU */
	if (word[X86_CPUID_7_EDX] & 1u << 24)
		v |= 0x60000; /* AMX */
	return v;
}

bool x86_cpuid_model_make(struct x86_cpuid_model *ret, const struct x86_cpuid_model *max,
			  const struct x86_cpu_spec *spec, const char **ret_missing)
{
	static const struct x86_cpu_spec none = { 0 };
	uint32_t base[X86_CPUID_WORDS], missing[X86_CPUID_WORDS];
	bool lacks = false;

	if (!spec)
		spec = &none;
	*ret = *max;
	if (spec->base >= BASE_LEVELS) {
		level_words(spec->base - BASE_LEVELS, base);
		make_neutral(ret, bases[spec->base].name);
	} else if (spec->base == BASE_HOST) {
		x86_cpuid_host_words(base);
		for (unsigned i = 0; i < X86_CPUID_WORDS; i++)
			base[i] &= max->word[i];
	} else {
		memcpy(base, max->word, sizeof(base));
	}
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		uint32_t want = (base[i] & ~spec->drop[i]) | spec->add[i];

		missing[i] = want & ~max->word[i];
		lacks |= missing[i] != 0;
		ret->word[i] = want | (kept[i] & max->word[i] & ~spec->drop[i]);
	}
	ret->xcr0 = max->xcr0 & xcr0_of(ret->word);
	*ret_missing = lacks ? first_flag(missing) : NULL;
	return !lacks;
}
