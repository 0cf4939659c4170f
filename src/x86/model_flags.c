// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * model_flags.c - the names of CPUID's feature bits, as /proc/cpuinfo has them.
 *
 * Places: Intel SDM vol. 2 "CPUID", AMD APM vol. 3 appendix E. Left out are bits that no engine could ever
 * show (power management, tracing, nested virtualization) and those that the topology sets.
 */
#include "model.h"

#include <string.h>

const struct x86_cpuid_place x86_cpuid_places[X86_CPUID_WORDS] = {
	[X86_CPUID_1_EDX] = { 1, 0, X86_CPUID_EDX },
	[X86_CPUID_1_ECX] = { 1, 0, X86_CPUID_ECX },
	[X86_CPUID_7_EBX] = { 7, 0, X86_CPUID_EBX },
	[X86_CPUID_7_ECX] = { 7, 0, X86_CPUID_ECX },
	[X86_CPUID_7_EDX] = { 7, 0, X86_CPUID_EDX },
	[X86_CPUID_7_1_EAX] = { 7, 1, X86_CPUID_EAX },
	[X86_CPUID_D_1_EAX] = { 0xd, 1, X86_CPUID_EAX },
	[X86_CPUID_EXT1_EDX] = { 0x80000001u, 0, X86_CPUID_EDX },
	[X86_CPUID_EXT1_ECX] = { 0x80000001u, 0, X86_CPUID_ECX },
	[X86_CPUID_EXT8_EBX] = { 0x80000008u, 0, X86_CPUID_EBX },
	[X86_CPUID_EXT21_EAX] = { 0x80000021u, 0, X86_CPUID_EAX },
};

static const struct x86_cpu_flag flags[] = {
	{ "fpu", X86_CPUID_1_EDX, 0 },
	{ "vme", X86_CPUID_1_EDX, 1 },
	{ "de", X86_CPUID_1_EDX, 2 },
	{ "pse", X86_CPUID_1_EDX, 3 },
	{ "tsc", X86_CPUID_1_EDX, 4 },
	{ "msr", X86_CPUID_1_EDX, 5 },
	{ "pae", X86_CPUID_1_EDX, 6 },
	{ "mce", X86_CPUID_1_EDX, 7 },
	{ "cx8", X86_CPUID_1_EDX, 8 },
	{ "apic", X86_CPUID_1_EDX, 9 },
	{ "sep", X86_CPUID_1_EDX, 11 },
	{ "mtrr", X86_CPUID_1_EDX, 12 },
	{ "pge", X86_CPUID_1_EDX, 13 },
	{ "mca", X86_CPUID_1_EDX, 14 },
	{ "cmov", X86_CPUID_1_EDX, 15 },
	{ "pat", X86_CPUID_1_EDX, 16 },
	{ "pse36", X86_CPUID_1_EDX, 17 },
	{ "clflush", X86_CPUID_1_EDX, 19 },
	{ "mmx", X86_CPUID_1_EDX, 23 },
	{ "fxsr", X86_CPUID_1_EDX, 24 },
	{ "sse", X86_CPUID_1_EDX, 25 },
	{ "sse2", X86_CPUID_1_EDX, 26 },
	{ "ss", X86_CPUID_1_EDX, 27 },

	{ "pni", X86_CPUID_1_ECX, 0 },
	{ "pclmulqdq", X86_CPUID_1_ECX, 1 },
	{ "monitor", X86_CPUID_1_ECX, 3 },
	{ "ssse3", X86_CPUID_1_ECX, 9 },
	{ "fma", X86_CPUID_1_ECX, 12 },
	{ "cx16", X86_CPUID_1_ECX, 13 },
	{ "pcid", X86_CPUID_1_ECX, 17 },
	{ "sse4_1", X86_CPUID_1_ECX, 19 },
	{ "sse4_2", X86_CPUID_1_ECX, 20 },
	{ "x2apic", X86_CPUID_1_ECX, 21 },
	{ "movbe", X86_CPUID_1_ECX, 22 },
	{ "popcnt", X86_CPUID_1_ECX, 23 },
	{ "tsc_deadline_timer", X86_CPUID_1_ECX, 24 },
	{ "aes", X86_CPUID_1_ECX, 25 },
	{ "xsave", X86_CPUID_1_ECX, 26 },
	{ "avx", X86_CPUID_1_ECX, 28 },
	{ "f16c", X86_CPUID_1_ECX, 29 },
	{ "rdrand", X86_CPUID_1_ECX, 30 },
	{ "hypervisor", X86_CPUID_1_ECX, 31 },

	{ "fsgsbase", X86_CPUID_7_EBX, 0 },
	{ "tsc_adjust", X86_CPUID_7_EBX, 1 },
	{ "bmi1", X86_CPUID_7_EBX, 3 },
	{ "hle", X86_CPUID_7_EBX, 4 },
	{ "avx2", X86_CPUID_7_EBX, 5 },
	{ "smep", X86_CPUID_7_EBX, 7 },
	{ "bmi2", X86_CPUID_7_EBX, 8 },
	{ "erms", X86_CPUID_7_EBX, 9 },
	{ "invpcid", X86_CPUID_7_EBX, 10 },
	{ "rtm", X86_CPUID_7_EBX, 11 },
	{ "mpx", X86_CPUID_7_EBX, 14 },
	{ "avx512f", X86_CPUID_7_EBX, 16 },
	{ "avx512dq", X86_CPUID_7_EBX, 17 },
	{ "rdseed", X86_CPUID_7_EBX, 18 },
	{ "adx", X86_CPUID_7_EBX, 19 },
	{ "smap", X86_CPUID_7_EBX, 20 },
	{ "avx512ifma", X86_CPUID_7_EBX, 21 },
	{ "clflushopt", X86_CPUID_7_EBX, 23 },
	{ "clwb", X86_CPUID_7_EBX, 24 },
	{ "avx512cd", X86_CPUID_7_EBX, 28 },
	{ "sha_ni", X86_CPUID_7_EBX, 29 },
	{ "avx512bw", X86_CPUID_7_EBX, 30 },
	{ "avx512vl", X86_CPUID_7_EBX, 31 },

	{ "avx512vbmi", X86_CPUID_7_ECX, 1 },
	{ "umip", X86_CPUID_7_ECX, 2 },
	{ "pku", X86_CPUID_7_ECX, 3 },
	{ "waitpkg", X86_CPUID_7_ECX, 5 },
	{ "avx512_vbmi2", X86_CPUID_7_ECX, 6 },
	{ "gfni", X86_CPUID_7_ECX, 8 },
	{ "vaes", X86_CPUID_7_ECX, 9 },
	{ "vpclmulqdq", X86_CPUID_7_ECX, 10 },
	{ "avx512_vnni", X86_CPUID_7_ECX, 11 },
	{ "avx512_bitalg", X86_CPUID_7_ECX, 12 },
	{ "avx512_vpopcntdq", X86_CPUID_7_ECX, 14 },
	{ "la57", X86_CPUID_7_ECX, 16 },
	{ "rdpid", X86_CPUID_7_ECX, 22 },
	{ "cldemote", X86_CPUID_7_ECX, 25 },
	{ "movdiri", X86_CPUID_7_ECX, 27 },
	{ "movdir64b", X86_CPUID_7_ECX, 28 },

	{ "fsrm", X86_CPUID_7_EDX, 4 },
	{ "avx512_vp2intersect", X86_CPUID_7_EDX, 8 },
	{ "md_clear", X86_CPUID_7_EDX, 10 },
	{ "serialize", X86_CPUID_7_EDX, 14 },
	{ "tsxldtrk", X86_CPUID_7_EDX, 16 },
	{ "amx_bf16", X86_CPUID_7_EDX, 22 },
	{ "avx512_fp16", X86_CPUID_7_EDX, 23 },
	{ "amx_tile", X86_CPUID_7_EDX, 24 },
	{ "amx_int8", X86_CPUID_7_EDX, 25 },
	{ "flush_l1d", X86_CPUID_7_EDX, 28 },
	{ "arch_capabilities", X86_CPUID_7_EDX, 29 },

	{ "avx_vnni", X86_CPUID_7_1_EAX, 4 },
	{ "avx512_bf16", X86_CPUID_7_1_EAX, 5 },
	{ "fzrm", X86_CPUID_7_1_EAX, 10 },
	{ "fsrs", X86_CPUID_7_1_EAX, 11 },
	{ "fsrc", X86_CPUID_7_1_EAX, 12 },
	{ "amx_fp16", X86_CPUID_7_1_EAX, 21 },
	{ "avx_ifma", X86_CPUID_7_1_EAX, 23 },

	{ "xsaveopt", X86_CPUID_D_1_EAX, 0 },
	{ "xsavec", X86_CPUID_D_1_EAX, 1 },
	{ "xgetbv1", X86_CPUID_D_1_EAX, 2 },
	{ "xsaves", X86_CPUID_D_1_EAX, 3 },

	{ "syscall", X86_CPUID_EXT1_EDX, 11 },
	{ "nx", X86_CPUID_EXT1_EDX, 20 },
	{ "mmxext", X86_CPUID_EXT1_EDX, 22 },
	{ "fxsr_opt", X86_CPUID_EXT1_EDX, 25 },
	{ "pdpe1gb", X86_CPUID_EXT1_EDX, 26 },
	{ "rdtscp", X86_CPUID_EXT1_EDX, 27 },
	{ "lm", X86_CPUID_EXT1_EDX, 29 },
	{ "3dnowext", X86_CPUID_EXT1_EDX, 30 },
	{ "3dnow", X86_CPUID_EXT1_EDX, 31 },

	{ "lahf_lm", X86_CPUID_EXT1_ECX, 0 },
	{ "cr8_legacy", X86_CPUID_EXT1_ECX, 4 },
	{ "abm", X86_CPUID_EXT1_ECX, 5 },
	{ "sse4a", X86_CPUID_EXT1_ECX, 6 },
	{ "misalignsse", X86_CPUID_EXT1_ECX, 7 },
	{ "3dnowprefetch", X86_CPUID_EXT1_ECX, 8 },
	{ "osvw", X86_CPUID_EXT1_ECX, 9 },
	{ "xop", X86_CPUID_EXT1_ECX, 11 },
	{ "fma4", X86_CPUID_EXT1_ECX, 16 },
	{ "tbm", X86_CPUID_EXT1_ECX, 21 },
	{ "topoext", X86_CPUID_EXT1_ECX, 22 },
	{ "perfctr_core", X86_CPUID_EXT1_ECX, 23 },

	{ "clzero", X86_CPUID_EXT8_EBX, 0 },
	{ "xsaveerptr", X86_CPUID_EXT8_EBX, 2 },
	{ "wbnoinvd", X86_CPUID_EXT8_EBX, 9 },
	{ "virt_ssbd", X86_CPUID_EXT8_EBX, 25 },
};

const struct x86_cpu_flag *x86_cpu_flag(size_t i)
{
	return i < sizeof(flags) / sizeof(flags[0]) ? &flags[i] : NULL;
}

/* No strncmp(): the core is freestanding. */
static bool is_named(const struct x86_cpu_flag *flag, const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!flag->name[i] || flag->name[i] != name[i])
			return false;
	return !flag->name[len];
}

const struct x86_cpu_flag *x86_cpu_flag_find(const char *name, size_t len)
{
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (is_named(&flags[i], name, len))
			return &flags[i];
	return NULL;
}

bool x86_cpuid_model_has(const struct x86_cpuid_model *model, const struct x86_cpu_flag *flag)
{
	return model->word[flag->word] >> flag->bit & 1;
}
