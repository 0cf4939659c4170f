// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * vec_host.c - instructions that the host itself executes, one at a time.
 *
 * The core has no code for what they compute: its holder runs the very instruction, its registers
 * loaded from the state (struct x86_cpu_ops.host_insn). What is left here is what an instruction
 * does around that: checks, the memory operand, which is staged in a buffer, and exceptions.
 */
#include "vec_host.h"
#include "insns.h"

#define XCR0_AVX512 0xe6u /* SSE, AVX, opmasks, both kinds of ZMM state: SDM vol. 1, 15.2 */

/* #UD comes before #NM. */
int x86_check_avx512(struct x86_cpu *cpu)
{
	if ((cpu->s.xcr0 & XCR0_AVX512) != XCR0_AVX512)
		return x86_ud(cpu);
	if (x86_check_avx(cpu))
		return X86_FAULT;
	cpu->wide = true;
	return X86_NEXT;
}

/* Whether a result too small to be normal raises the underflow exception also where it is exact. */
static bool may_underflow(const struct x86_insn *insn)
{
	unsigned op = insn->opcode;

	switch (insn->map) {
	case 1:
		return op == 0x58 || op == 0x59 || op == 0x5c || op == 0x5e ||
		       (op == 0x5a && insn->flags & X86_INSN_W); /* to single precision */
	case 2:
		return op == 0x2c || op == 0x2d || (op >= 0x96 && op <= 0xbf && (op & 0xfe) != 0xb4);
	default:
		return op == 0x1d;
	}
}

static bool is_scalar(const struct x86_insn *insn, const struct x86_host_info *info)
{
	return !(info->flags & X86_HOST_VL) && info->elem;
}

/* Some element of the result is denormal. */
static bool is_tiny(const struct x86_insn *insn, const struct x86_host_info *info, uint64_t mask,
		    const uint8_t *result)
{
	bool narrow = insn->map == 1 && insn->opcode == 0x5a;
	bool half = insn->map == 3 && insn->opcode == 0x1d;
	unsigned size = half ? 2 : insn->flags & X86_INSN_W && !narrow ? 8 : 4, i;
	unsigned count = narrow || half ? insn->vl / (size * 2) : insn->vl / size;

	for (i = 0; i < (is_scalar(insn, info) ? 1 : count); i++) {
		uint64_t v = 0, low = size == 8 ? (1ull << 52) - 1 : size == 4 ? (1u << 23) - 1 : 0x3ff;
		uint64_t top = size == 8 ? 1ull << 63 : size == 4 ? 1u << 31 : 1u << 15;

		if (!(mask >> i & 1))
			continue;
		memcpy(&v, result + i * size, size);
		v &= ~top;
		if (v && v <= low)
			return true;
	}
	return false;
}

/* The vector register that is the destination, and the opmask. */
struct kept {
	unsigned reg;
	uint8_t vec[64];
	uint64_t opmask;
};

static void keep(const struct x86_cpu *cpu, const struct x86_insn *insn,
		 const struct x86_host_info *info, struct kept *k)
{
	k->reg = info->flags & X86_HOST_STORE && info->rm == X86_HOST_VEC ? insn->rm : insn->reg;
	memcpy(k->vec, cpu->s.fpu.vec[k->reg], 64);
	k->opmask = cpu->s.fpu.opmask[insn->reg & 7];
}

static void put_back(struct x86_cpu *cpu, const struct x86_insn *insn,
		     const struct x86_host_info *info, const struct kept *k)
{
	memcpy(cpu->s.fpu.vec[k->reg], k->vec, 64);
	if (info->reg == X86_HOST_MASK)
		cpu->s.fpu.opmask[insn->reg & 7] = k->opmask;
}

/* As fpu_begin() and fpu_end() have it: some exception is not masked. */
static int execute_unmasked(struct x86_cpu *cpu, const struct x86_insn *insn,
			    const struct x86_host_info *info, struct x86_host_op *op)
{
	/* Embedded rounding suppresses all exceptions. */
	bool tiny = insn->flags & X86_INSN_EVEX && may_underflow(insn) &&
		    !(insn->evex & X86_EVEX_B && !(insn->flags & X86_INSN_MEM));
	uint64_t mask = evex_mask(cpu, insn);
	struct fpu_op state = { 0 };
	struct kept kept;

	/* Flush-to-zero works only while underflow, if it can be raised, is masked. */
	if (tiny && !(op->mxcsr & MXCSR_UE << 7))
		op->mxcsr &= ~MXCSR_FTZ;
	op->mxcsr = (op->mxcsr | MXCSR_MASKS) & ~MXCSR_FLAGS;
	keep(cpu, insn, info, &kept);
	cpu->ops->host_insn(cpu, insn, op);
	if (tiny)
		state.tiny = is_tiny(insn, info, mask,
				     info->flags & X86_HOST_STORE && insn->flags & X86_INSN_MEM ?
					     op->mem :
					     cpu->s.fpu.vec[kept.reg]);
	if (fpu_end_unmasked(cpu, &state, op->mxcsr & MXCSR_FLAGS) == X86_NEXT)
		return X86_NEXT;
	put_back(cpu, insn, info, &kept);
	return X86_FAULT;
}

int host_execute(struct x86_cpu *cpu, const struct x86_insn *insn, const struct x86_host_info *info,
		 struct x86_host_op *op)
{
	bool mem = insn->flags & X86_INSN_MEM;
	bool rm = info->rm == X86_HOST_GPR && !mem;

	op->gpr = 0;
	if (rm)
		op->gpr = cpu->s.gpr[insn->rm & 15];
	op->rflags = cpu->s.rflags;
	op->mxcsr = cpu->s.fpu.mxcsr;
	if ((op->mxcsr & MXCSR_MASKS) == MXCSR_MASKS) {
		cpu->ops->host_insn(cpu, insn, op);
		cpu->s.fpu.mxcsr = op->mxcsr;
	} else if (execute_unmasked(cpu, insn, info, op)) {
		return X86_FAULT;
	}
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_FL_STATUS) | (op->rflags & X86_FL_STATUS);
	if (info->reg == X86_HOST_GPR)
		cpu->s.gpr[insn->reg & 15] = op->gpr;
	else if (rm && info->flags & X86_HOST_STORE)
		cpu->s.gpr[insn->rm & 15] = op->gpr;
	return X86_NEXT;
}

/* What is neither EVEX nor opmask goes by the checks of its encoding. */
static int check(struct x86_cpu *cpu, const struct x86_insn *insn, const struct x86_host_info *info)
{
	if (info->reg == X86_HOST_MASK || info->rm == X86_HOST_MASK)
		return x86_check_avx512(cpu);
	return vec_check(cpu, insn);
}

/* Opmasks, GFNI, and what else has no opmask of its own. */
int x86_op_host(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	const struct x86_host_info *info = x86_host_info(insn);
	bool mem = insn->flags & X86_INSN_MEM, store = info->flags & X86_HOST_STORE;
	unsigned len = x86_host_mem_len(insn, info);
	struct x86_host_op op;

	if (check(cpu, insn, info))
		return X86_FAULT;
	if (mem && !store && vec_read(cpu, insn, op.mem, len, info->flags & X86_HOST_AL ? len : 1))
		return X86_FAULT;
	if (host_execute(cpu, insn, info, &op))
		return X86_FAULT;
	return mem && store ? vec_write(cpu, insn, op.mem, len, 1) : X86_NEXT;
}
