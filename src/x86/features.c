// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* features.c - which rows of the instruction tables the CPUID model offers. */
#include "decode_int.h"
#include "insns.h"
#include "x86_int.h"

_Static_assert(X86_FEATURE_COUNT <= 64, "cpu->features is one word");

uint64_t x86_features(struct x86_cpu *cpu)
{
	uint64_t features = 1u << X86_FEATURE_NONE;
	uint32_t leaf = ~0u, subleaf = ~0u, regs[4] = { 0 };

	for (unsigned i = X86_FEATURE_NONE + 1; i < X86_FEATURE_COUNT; i++) {
		const struct x86_feature_bit *f = &x86_feature_bits[i];

		if (f->leaf != leaf || f->subleaf != subleaf) {
			leaf = f->leaf;
			subleaf = f->subleaf;
			x86_cpuid(cpu, leaf, subleaf, regs);
		}
		features |= (uint64_t)(regs[f->reg] >> f->bit & 1) << i;
	}
	return features;
}

void x86_insn_restrict(const struct x86_cpu *cpu, struct x86_insn *insn)
{
	const struct x86_host_info *info = x86_host_info(insn);

	if (!(cpu->features >> insn->feature & 1))
		insn->exec = x86_op_ud;
	/* GFNI and such are flags of their own. */
	if (insn->flags & X86_INSN_EVEX &&
	    (!x86_has_feature(cpu, X86_FEATURE_AVX512F) ||
	     (info->flags & X86_HOST_VL && insn->vl < 64 && !x86_has_feature(cpu, X86_FEATURE_AVX512VL))))
		insn->exec = x86_op_ud;
	if (info && !cpu->ops->host_insn)
		insn->exec = x86_op_ud;
}

const struct x86_host_info *x86_host_info(const struct x86_insn *insn)
{
	return insn->row < X86_ROW_HOST_FIRST ? NULL : &x86_host_infos[insn->row - X86_ROW_HOST_FIRST];
}

unsigned x86_host_mem_len(const struct x86_insn *insn, const struct x86_host_info *info)
{
	if (insn->evex & X86_EVEX_B)
		return info->bcast;
	return info->mem & 0x80 ? insn->vl / (info->mem & 0x7fu) : info->mem;
}

#define F(name) (1ull << X86_FEATURE_##name)
static const uint64_t floating =
	F(AES) | F(AVX) | F(AVX2) | F(AVX512BF16) | F(AVX512BITALG) | F(AVX512BW) | F(AVX512CD) |
	F(AVX512DQ) | F(AVX512F) | F(AVX512IFMA) | F(AVX512VBMI) | F(AVX512VBMI2) | F(AVX512VL) |
	F(AVX512VNNI) | F(AVX512VPOPC) | F(F16C) | F(FMA) | F(FXSR) | F(GFNI) | F(MMX) |
	F(PCLMUL) | F(SHA) | F(SSE) | F(SSE2) | F(SSE3) | F(SSE41) | F(SSE42) | F(SSSE3) |
	F(VAES) | F(VPCLMUL) | F(X87) | F(XSAVE) | F(XSAVEC) | F(XSAVEOPT) | F(XSAVES);
#undef F

bool x86_insn_is_floating(const struct x86_insn *insn)
{
	return insn->exec != x86_op_xgetbv && insn->exec != x86_op_xsetbv &&
	       floating >> insn->feature & 1;
}
