// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * msr.c - model-specific registers: a table of those that are words of the state, a switch for the
 * few that do something, the holder's hook for what is not the core's, and the ones that read as
 * zero.
 */
#include "insns.h"
#include "sys_int.h"
#include "x86_int.h"

#include <stddef.h>

#define EFER_AUTOIBRS (1ull << 21) /* nothing to do: guest branches are not the host's */

enum {
	MSR_TSC = 0x10,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_UCODE_REV = 0x8b,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_MCG_CAP = 0x179,
	MSR_MTRR_VAR = 0x200,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_EFER = 0xc0000080u,
	MSR_FS_BASE = 0xc0000100u,
	MSR_GS_BASE = 0xc0000101u,
	MSR_HWCR = 0xc0010015u,
	MSR_DE_CFG = 0xc0011029u,
};

#define MTRR_CAP     0x508ull /* eight variable ranges, fixed ranges, write combining */
#define MTRR_VARS    16u
#define HWCR_TSC_P0  (1ull << 24) /* the TSC counts at the P0 frequency */
#define DE_CFG_LFENCE (1ull << 1)
#define UCODE_INTEL  (1ull << 32)
#define UCODE_AMD    0x01000065ull
/* RDCL_NO, IBRS_ALL, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO,
 * PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO. */
#define ARCH_CAPABILITIES 0x400000000d10e17bull

enum msr_kind { KIND_PLAIN, KIND_CANONICAL };

struct msr_word {
	uint32_t msr;
	uint16_t offset;   /* into struct x86_state */
	uint8_t kind;	   /* enum msr_kind */
	uint64_t writable; /* other bits set: #GP */
};

#define WORD(msr_, field, kind_, mask) { msr_, offsetof(struct x86_state, field), kind_, mask }
#define ALL ~0ull

/* Sorted by number. */
static const struct msr_word words[] = {
	WORD(0x174, sysenter_cs, KIND_PLAIN, ALL),
	WORD(0x175, sysenter_esp, KIND_CANONICAL, ALL),
	WORD(0x176, sysenter_eip, KIND_CANONICAL, ALL),
	WORD(0x17a, mcg_status, KIND_PLAIN, 7),
	WORD(0x1a0, misc_enable, KIND_PLAIN, ALL),
	WORD(0x1d9, debugctl, KIND_PLAIN, 3),
	WORD(0x250, mtrr_fixed[0], KIND_PLAIN, ALL),
	WORD(0x258, mtrr_fixed[1], KIND_PLAIN, ALL),
	WORD(0x259, mtrr_fixed[2], KIND_PLAIN, ALL),
	WORD(0x268, mtrr_fixed[3], KIND_PLAIN, ALL),
	WORD(0x269, mtrr_fixed[4], KIND_PLAIN, ALL),
	WORD(0x26a, mtrr_fixed[5], KIND_PLAIN, ALL),
	WORD(0x26b, mtrr_fixed[6], KIND_PLAIN, ALL),
	WORD(0x26c, mtrr_fixed[7], KIND_PLAIN, ALL),
	WORD(0x26d, mtrr_fixed[8], KIND_PLAIN, ALL),
	WORD(0x26e, mtrr_fixed[9], KIND_PLAIN, ALL),
	WORD(0x26f, mtrr_fixed[10], KIND_PLAIN, ALL),
	WORD(MSR_MTRR_DEF_TYPE, mtrr_def_type, KIND_PLAIN, 0xcff),
	WORD(0xc0000081u, star, KIND_PLAIN, ALL),
	WORD(0xc0000082u, lstar, KIND_CANONICAL, ALL),
	WORD(0xc0000083u, cstar, KIND_CANONICAL, ALL),
	WORD(0xc0000084u, sfmask, KIND_PLAIN, ALL),
	WORD(0xc0000102u, kernel_gs_base, KIND_CANONICAL, ALL),
	WORD(0xc0000103u, tsc_aux, KIND_PLAIN, 0xffffffffull),
};

/* Read as zero, writes are dropped: what system software touches on CPUs of this vendor without
 * asking CPUID first. */
struct msr_range {
	uint32_t first, last;
	bool amd, intel;
};

static const struct msr_range zero[] = {
	{ 0x17, 0x17, false, true },		  /* platform id */
	{ 0x79, 0x79, true, true },		  /* microcode update */
	{ 0x17b, 0x17b, true, true },		  /* machine check control */
	{ 0x198, 0x19c, true, true },		  /* performance and thermal status */
	{ 0x1db, 0x1de, true, true },		  /* last branch */
	{ 0xc0010000u, 0xc0010007u, true, false }, /* legacy counters */
	{ 0xc0010010u, 0xc0010010u, true, false }, /* SYSCFG */
	{ 0xc001001au, 0xc001001fu, true, false }, /* top of memory, northbridge */
	{ 0xc0010055u, 0xc0010058u, true, false }, /* interrupt pending, MMIO configuration */
	{ 0xc0010061u, 0xc0010070u, true, false }, /* P-states */
	{ 0xc0010111u, 0xc0010113u, true, false }, /* SMM */
	{ 0xc0010131u, 0xc0010131u, true, false }, /* SEV status */
	{ 0xc0010140u, 0xc0010141u, true, false }, /* OS visible workarounds */
	{ 0xc0011020u, 0xc001102fu, true, false }, /* load-store, instruction, data cache set-up */
	{ 0xc00110e3u, 0xc00110e3u, true, false }, /* speculation chicken bits */
};

static const struct msr_word *find_word(uint32_t msr)
{
	unsigned lo = 0, hi = sizeof(words) / sizeof(words[0]);

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (words[mid].msr == msr)
			return &words[mid];
		if (words[mid].msr < msr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

static bool reads_zero(const struct x86_cpu *cpu, uint32_t msr)
{
	bool amd = x86_model_is_amd(cpu->model);

	for (unsigned i = 0; i < sizeof(zero) / sizeof(zero[0]); i++)
		if (msr >= zero[i].first && msr <= zero[i].last)
			return amd ? zero[i].amd : zero[i].intel;
	return false;
}

static uint64_t *word_of(struct x86_state *s, const struct msr_word *w)
{
	return (uint64_t *)(void *)((char *)s + w->offset);
}

/* The bits of CPUID leaf 7 EDX that bring their own MSRs on Intel. */
static bool has_spec_ctrl(const struct x86_cpu *cpu)
{
	return cpu->model && !x86_model_is_amd(cpu->model);
}

static bool rdmsr_special(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret)
{
	const struct x86_state *s = &cpu->s;
	bool amd = x86_model_is_amd(cpu->model);

	switch (msr) {
	case MSR_TSC:
		*ret = cpu->ops->rdtsc ? cpu->ops->rdtsc(cpu) : 0;
		return true;
	case MSR_FEATURE_CONTROL:
		*ret = 1; /* locked, nothing enabled */
		return !amd;
	case MSR_SPEC_CTRL:
		*ret = s->spec_ctrl;
		return has_spec_ctrl(cpu);
	case MSR_UCODE_REV:
		*ret = amd ? UCODE_AMD : UCODE_INTEL;
		return true;
	case MSR_MTRR_CAP:
		*ret = MTRR_CAP;
		return true;
	case MSR_ARCH_CAPABILITIES:
		*ret = ARCH_CAPABILITIES;
		return has_spec_ctrl(cpu);
	case MSR_MCG_CAP:
		*ret = 0; /* no banks */
		return true;
	case MSR_PAT:
		*ret = s->pat;
		return true;
	case MSR_EFER:
		*ret = s->efer;
		return true;
	case MSR_FS_BASE:
		*ret = s->seg[X86_FS].base;
		return true;
	case MSR_GS_BASE:
		*ret = s->seg[X86_GS].base;
		return true;
	case MSR_HWCR:
		*ret = HWCR_TSC_P0;
		return amd;
	case MSR_DE_CFG:
		*ret = DE_CFG_LFENCE;
		return amd;
	}
	if (msr >= MSR_MTRR_VAR && msr < MSR_MTRR_VAR + MTRR_VARS) {
		*ret = s->mtrr_var[msr - MSR_MTRR_VAR];
		return true;
	}
	return false;
}

bool x86_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret_value)
{
	const struct msr_word *w = find_word(msr);

	if (w) {
		*ret_value = *word_of(&cpu->s, w);
		return true;
	}
	if (rdmsr_special(cpu, msr, ret_value))
		return true;
	if (cpu->ops->rdmsr && cpu->ops->rdmsr(cpu, msr, ret_value))
		return true;
	*ret_value = 0;
	return reads_zero(cpu, msr);
}

static bool write_efer(struct x86_cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t known = X86_EFER_LMA, change;

	if (x86_model_is_amd(cpu->model))
		known |= EFER_AUTOIBRS;
	if (x86_has_feature(cpu, X86_FEATURE_SYSCALL))
		known |= X86_EFER_SCE;
	if (x86_has_feature(cpu, X86_FEATURE_LM))
		known |= X86_EFER_LME;
	if (x86_has_feature(cpu, X86_FEATURE_NX))
		known |= X86_EFER_NXE;
	if (value & ~known)
		return false;
	/* LMA follows LME and paging, whatever is written. */
	value = (value & ~(uint64_t)X86_EFER_LMA) | (s->efer & X86_EFER_LMA);
	change = value ^ s->efer;
	if ((change & X86_EFER_LME) && (s->cr0 & X86_CR0_PG))
		return false;
	s->efer = value;
	x86_update_mode(cpu);
	if (change & X86_EFER_NXE)
		x86_tlb_flush(cpu);
	return true;
}

/* UC, WC, WT, WP, WB, UC-. */
static bool pat_is_valid(uint64_t value)
{
	for (unsigned i = 0; i < 64; i += 8) {
		unsigned type = (value >> i) & 0xff;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

static bool wrmsr_special(struct x86_cpu *cpu, uint32_t msr, uint64_t value, bool *ret_ok)
{
	struct x86_state *s = &cpu->s;
	bool amd = x86_model_is_amd(cpu->model);

	*ret_ok = true;
	switch (msr) {
	case MSR_TSC:
		if (cpu->ops->set_tsc)
			cpu->ops->set_tsc(cpu, value);
		return true;
	case MSR_SPEC_CTRL:
		*ret_ok = has_spec_ctrl(cpu) && value <= 7;
		if (*ret_ok)
			s->spec_ctrl = value;
		return true;
	case MSR_PRED_CMD:
		*ret_ok = has_spec_ctrl(cpu) && value <= 1;
		return true;
	case MSR_UCODE_REV:
		return true; /* written with 0 before it is read */
	case MSR_MTRR_CAP:
	case MSR_ARCH_CAPABILITIES:
	case MSR_MCG_CAP:
	case MSR_FEATURE_CONTROL:
		*ret_ok = false;
		return true;
	case MSR_PAT:
		*ret_ok = pat_is_valid(value);
		if (*ret_ok)
			s->pat = value;
		return true;
	case MSR_EFER:
		*ret_ok = write_efer(cpu, value);
		return true;
	case MSR_FS_BASE:
	case MSR_GS_BASE:
		*ret_ok = x86_is_canonical(value);
		if (*ret_ok)
			s->seg[msr == MSR_FS_BASE ? X86_FS : X86_GS].base = value;
		return true;
	case MSR_HWCR:
	case MSR_DE_CFG:
		*ret_ok = amd;
		return true;
	}
	if (msr >= MSR_MTRR_VAR && msr < MSR_MTRR_VAR + MTRR_VARS) {
		s->mtrr_var[msr - MSR_MTRR_VAR] = value;
		return true;
	}
	return false;
}

bool x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
	const struct msr_word *w = find_word(msr);
	bool ok;

	if (w) {
		if ((value & ~w->writable) ||
		    (w->kind == KIND_CANONICAL && !x86_is_canonical(value)))
			return false;
		*word_of(&cpu->s, w) = value;
		return true;
	}
	if (wrmsr_special(cpu, msr, value, &ok))
		return ok;
	if (cpu->ops->wrmsr && cpu->ops->wrmsr(cpu, msr, value))
		return true;
	return reads_zero(cpu, msr);
}
