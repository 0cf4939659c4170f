// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * model.h - which processor the guest sees: models, their feature flags, and how they are asked for.
 *
 * A struct x86_cpuid_model is plain data in its holder's storage. An engine describes the most it can
 * show (for the x86 core: x86_cpuid_model_max()), and x86_cpuid_model_make() makes of it what the
 * user asked for, a struct x86_cpu_spec. Pure functions; no threads, no allocation.
 *
 * Flags have the names that Linux prints in /proc/cpuinfo. Levels are those of the System V
 * application binary interface for AMD64, "Low Level System Information", table "Micro-Architecture
 * Levels", with the system flags that every processor of the level has.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The words of CPUID that are feature bits. Where they lie: x86_cpuid_places. */
enum x86_cpuid_word {
	X86_CPUID_1_EDX,
	X86_CPUID_1_ECX,
	X86_CPUID_7_EBX,
	X86_CPUID_7_ECX,
	X86_CPUID_7_EDX,
	X86_CPUID_7_1_EAX,
	X86_CPUID_D_1_EAX,
	X86_CPUID_EXT1_EDX, /* 8000_0001, without X86_CPUID_REPEATED */
	X86_CPUID_EXT1_ECX,
	X86_CPUID_EXT8_EBX,  /* 8000_0008 */
	X86_CPUID_EXT21_EAX, /* 8000_0021 */
	X86_CPUID_WORDS
};

/* What AMD's 8000_0001 EDX repeats of leaf 1 EDX. */
#define X86_CPUID_REPEATED 0x0183f3ffu

enum x86_cpuid_reg { X86_CPUID_EAX, X86_CPUID_EBX, X86_CPUID_ECX, X86_CPUID_EDX };

struct x86_cpuid_place {
	uint32_t leaf;
	uint8_t subleaf;
	uint8_t reg; /* enum x86_cpuid_reg */
};

extern const struct x86_cpuid_place x86_cpuid_places[X86_CPUID_WORDS];

struct x86_cpuid_model {
	uint32_t vendor[3]; /* EBX, EDX, ECX of leaf 0 */
	bool amd;	    /* or Hygon: the rules of that house apply */
	bool neutral;	    /* a level, not a processor: no feature leaves but the words below */
	uint32_t signature; /* family, model, stepping: EAX of leaf 1 */
	uint32_t word[X86_CPUID_WORDS];
	uint64_t xcr0; /* what the guest may enable */
	uint32_t brand[12]; /* EAX, EBX, ECX, EDX of 8000_0002 to 8000_0004 */
};

/* A flag: a bit with a name. */
struct x86_cpu_flag {
	const char *name;
	uint8_t word; /* enum x86_cpuid_word */
	uint8_t bit;
};

/* Row @i of all known flags, or NULL behind the last. */
const struct x86_cpu_flag *x86_cpu_flag(size_t i);
/* By name, of @len characters; NULL: no such flag. */
const struct x86_cpu_flag *x86_cpu_flag_find(const char *name, size_t len);
bool x86_cpuid_model_has(const struct x86_cpuid_model *model, const struct x86_cpu_flag *flag);

/* What the user may ask for. "max" is row 0, so that a spec of zeros is the default. */
struct x86_cpu_base {
	const char *name; /* "max", "host", "x86-64-v2" */
	const char *text; /* what it is, a few words */
};

const struct x86_cpu_base *x86_cpu_base(size_t i);
/* Its row, or -1. */
int x86_cpu_base_find(const char *name, size_t len);

struct x86_cpu_spec {
	uint8_t base; /* row of x86_cpu_base() */
	uint32_t add[X86_CPUID_WORDS], drop[X86_CPUID_WORDS]; /* no bit is in both */
};

/* Switch a flag on, with all that it needs, or off, with all that needs it. The last word counts. */
void x86_cpu_spec_set(struct x86_cpu_spec *spec, const struct x86_cpu_flag *flag, bool on);

/*
 * The model for @spec (NULL: the default) out of @max, the most an engine can show. False: something
 * was asked for that @max lacks, the flag *ret_missing (never NULL then).
 */
bool x86_cpuid_model_make(struct x86_cpuid_model *ret, const struct x86_cpuid_model *max,
			  const struct x86_cpu_spec *spec, const char **ret_missing);

/* The most the x86 core can show on this host. Features of arithmetic (AVX2 and so on) are dropped
 * where the host lacks them, because it runs on the host's own units. */
void x86_cpuid_model_max(struct x86_cpuid_model *ret);

/* Add what a holder with struct x86_cpu_ops.host_insn can show besides: AVX-512, and GFNI, VAES and VPCLMULQDQ
 * with it. Nothing where the host has no AVX-512. */
void x86_cpuid_model_add_host(struct x86_cpuid_model *model);

/* The feature words of the host's own CPUID, XCR0 regarded. */
void x86_cpuid_host_words(uint32_t ret_word[X86_CPUID_WORDS]);
