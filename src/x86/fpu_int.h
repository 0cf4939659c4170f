// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * fpu_int.h - what the floating-point and vector files of the x86 core share.
 *
 * Theory of operation. Arithmetic is done by the host's own instructions, so that results and status
 * flags are the host's to the bit. Each operation has a stub in vec_stubs.S (made by
 * tools/gen_vec_stubs.py) or x87_stubs.S: it loads 16-byte operands from memory, runs the very
 * instruction, stores the result. A 32-byte AVX operation whose two 128-bit lanes do not mix is two
 * calls of the 16-byte stub: by definition of these instructions the result is the same, and the
 * status flags are sticky.
 *
 * The host's MXCSR and x87 control word hold the guest's value only between fpu_begin() and fpu_end()
 * and inside the x87 stubs. The host never runs with an exception unmasked in MXCSR; x87 stubs may, but clear the
 * status word with FNCLEX before the next waiting instruction, so no signal can arise.
 */
#pragma once

#include "softmmu.h"
#include "vec_stubs.h"
#include "x86_int.h"

#include <string.h>

#define FPU_ALWAYS_INLINE static inline __attribute__((__always_inline__))

#define MXCSR_FLAGS    0x003fu
#define MXCSR_IE       0x0001u
#define MXCSR_DE       0x0002u
#define MXCSR_ZE       0x0004u
#define MXCSR_OE       0x0008u
#define MXCSR_UE       0x0010u
#define MXCSR_PE       0x0020u
#define MXCSR_DAZ      0x0040u
#define MXCSR_MASKS    0x1f80u
#define MXCSR_FTZ      0x8000u
#define MXCSR_DEFAULT  0x1f80u
#define MXCSR_VALID    0xffffu /* MXCSR_MASK of FXSAVE */

#define FPU_FCW_DEFAULT 0x037fu
#define FPU_FSW_ES	0x0080u
#define FPU_FSW_B	0x8000u

typedef uint8_t v16u8 __attribute__((vector_size(16)));
typedef int8_t v16i8 __attribute__((vector_size(16)));
typedef char v16char __attribute__((vector_size(16))); /* what the compiler builtins take */
typedef uint16_t v8u16 __attribute__((vector_size(16)));
typedef int16_t v8i16 __attribute__((vector_size(16)));
typedef uint32_t v4u32 __attribute__((vector_size(16)));
typedef int32_t v4i32 __attribute__((vector_size(16)));
typedef uint64_t v2u64 __attribute__((vector_size(16)));
typedef int64_t v2i64 __attribute__((vector_size(16)));

/* One vector register's worth of operand, addressed by lane or element. */
union vec {
	uint8_t u8[32];
	int8_t i8[32];
	uint16_t u16[16];
	int16_t i16[16];
	uint32_t u32[8];
	int32_t i32[8];
	uint64_t u64[4];
	int64_t i64[4];
	v2u64 lane[2];
} __attribute__((aligned(16)));

/* ---- checks ---- (fpu.c) */
int fpu_check_x87_nowait(struct x86_cpu *cpu); /* #NM only: FNINIT, FNSTSW... */

/* FSW.ES and B follow from the exception flags and their masks (SDM vol. 1, 8.1.3.3). */
FPU_ALWAYS_INLINE void fpu_update_es(struct x86_fpu *f)
{
	f->fsw &= ~(FPU_FSW_ES | FPU_FSW_B);
	if (f->fsw & ~f->fcw & 0x3f)
		f->fsw |= FPU_FSW_ES | FPU_FSW_B;
}

/* SSE or AVX by the instruction's encoding. */
FPU_ALWAYS_INLINE int vec_check(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	if (insn->flags & X86_INSN_VEX)
		return x86_check_avx(cpu);
	if ((cpu->s.cr0 & (X86_CR0_EM | X86_CR0_TS)) == 0 && (cpu->s.cr4 & X86_CR4_OSFXSR))
		return X86_NEXT;
	return x86_check_sse(cpu);
}

/* ---- operands ---- */
FPU_ALWAYS_INLINE union vec *vec_reg(struct x86_cpu *cpu, unsigned i)
{
	return (union vec *)cpu->s.fpu.vec[i];
}

/* First source: VEX.vvvv, or the destination itself in legacy encodings. */
FPU_ALWAYS_INLINE union vec *vec_src1(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return vec_reg(cpu, insn->flags & X86_INSN_VEX ? insn->vvvv : insn->reg);
}

FPU_ALWAYS_INLINE bool vec_is_mem(const struct x86_insn *insn)
{
	return insn->flags & X86_INSN_MEM;
}

/* VEX encodings clear the destination above the vector length; legacy ones keep it. */
FPU_ALWAYS_INLINE void vec_clear_upper(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned i)
{
	v2u64 *lane = (v2u64 *)cpu->s.fpu.vec[i];

	if (!(insn->flags & X86_INSN_VEX))
		return;
	if (insn->vl <= 16)
		lane[1] = (v2u64){ 0, 0 };
	lane[2] = (v2u64){ 0, 0 };
	lane[3] = (v2u64){ 0, 0 };
}

/* The same for scalar operations, which ignore VEX.L (LIG): all above 128 bits is cleared. */
FPU_ALWAYS_INLINE void vec_clear_upper_scalar(struct x86_cpu *cpu, const struct x86_insn *insn,
					      unsigned i)
{
	if (insn->flags & X86_INSN_VEX)
		memset(cpu->s.fpu.vec[i] + 16, 0, 48);
}

/* Offset of the memory operand; #GP(0) when its linear address is not a multiple of @align. */
int vec_ea_aligned(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned align,
		   uint64_t *ret_off);
/* Alignment checking of MASKMOVQ and MASKMOVDQU looks at the address alone, to @len bytes. */
int vec_check_mask_store(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned len);
/* By the book, for what the inlined paths below leave over. */
int vec_read_slow(struct x86_cpu *cpu, const struct x86_insn *insn, void *buf, unsigned len,
		  unsigned align);
int vec_write_slow(struct x86_cpu *cpu, const struct x86_insn *insn, const void *buf, unsigned len,
		   unsigned align);

/* The memory operand, @len bytes; #GP(0) when it is not aligned to @align. */
FPU_ALWAYS_INLINE int vec_read(struct x86_cpu *cpu, const struct x86_insn *insn, void *buf,
			       unsigned len, unsigned align)
{
	if (likely(insn->flags & X86_INSN_A64)) {
		uint64_t linear = x86_linear64(cpu, insn);
		const uint8_t *p = x86_host_read(cpu, linear, len);

		if (likely(p && !(linear & (align - 1)))) {
			memcpy(buf, p, len);
			return X86_NEXT;
		}
	}
	return vec_read_slow(cpu, insn, buf, len, align);
}

FPU_ALWAYS_INLINE int vec_write(struct x86_cpu *cpu, const struct x86_insn *insn, const void *buf,
				unsigned len, unsigned align)
{
	if (likely(insn->flags & X86_INSN_A64)) {
		uint64_t linear = x86_linear64(cpu, insn);
		uint8_t *p = x86_host_write(cpu, linear, len);

		if (likely(p && !(linear & (align - 1)))) {
			memcpy(p, buf, len);
			return X86_NEXT;
		}
	}
	return vec_write_slow(cpu, insn, buf, len, align);
}

/* The r/m operand, @len bytes: where it lies is returned. @buf is used for memory only. Legacy SSE
 * operands of 16 bytes must be aligned, VEX ones need not (SDM vol. 2, table "Exceptions Type 4"). */
FPU_ALWAYS_INLINE int vec_load(struct x86_cpu *cpu, const struct x86_insn *insn, union vec *buf,
			       unsigned len, const union vec **ret)
{
	if (!vec_is_mem(insn)) {
		*ret = vec_reg(cpu, insn->rm);
		return X86_NEXT;
	}
	*ret = buf;
	if (len == 32)
		return vec_read(cpu, insn, buf, 32, 1);
	if (len == 16)
		return vec_read(cpu, insn, buf, 16, insn->flags & X86_INSN_VEX ? 1 : 16);
	return vec_read(cpu, insn, buf, len, 1);
}

/* ---- host stubs ---- */
typedef uint64_t (*vec_stub_fn)(void *dst, const void *a, const void *b, uint64_t extra);

/* The stub of the row's operation, variant @imm of it. */
FPU_ALWAYS_INLINE vec_stub_fn vec_stub(const struct x86_insn *insn, uint64_t imm)
{
	const struct x86_vec_stub *stub = &x86_vec_stub_of_row[insn->row];

	return (vec_stub_fn)(uintptr_t)&x86_vec_stubs[(stub->first + (imm & stub->mask)) *
						      X86_VEC_STUB_STRIDE];
}

/* Variant @n of an operation without immediate. */
FPU_ALWAYS_INLINE vec_stub_fn vec_stub_variant(const struct x86_insn *insn, unsigned n)
{
	const struct x86_vec_stub *stub = &x86_vec_stub_of_row[insn->row];

	return (vec_stub_fn)(uintptr_t)&x86_vec_stubs[(stub->first + n) * X86_VEC_STUB_STRIDE];
}

FPU_ALWAYS_INLINE void mxcsr_load(uint32_t v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v) : "memory");
}

FPU_ALWAYS_INLINE uint32_t mxcsr_store(void)
{
	uint32_t v;

	__asm__ volatile("stmxcsr %0" : "=m"(v) : : "memory");
	return v;
}

/*
 * A floating-point operation in progress: between fpu_begin() and fpu_end() the host's MXCSR is as the
 * guest's, with all exceptions masked. fpu_end() returns X86_FAULT when an exception that the guest
 * has not masked was raised; the caller then leaves the destination alone.
 *
 * Loading MXCSR is dear. It is left out where both have the same controls and the host has no
 * flag that the guest does not have: flags are sticky, so that what the guest finds is the same.
 */
struct fpu_op {
	uint32_t host;
	bool loaded; /* the host's own value must come back */
	bool tiny;   /* set by the caller when a result is denormal: see fpu_end_unmasked() */
};

FPU_ALWAYS_INLINE void fpu_begin(struct x86_cpu *cpu, struct fpu_op *op)
{
	uint32_t guest = cpu->s.fpu.mxcsr;

	op->host = mxcsr_store();
	op->tiny = false;
	op->loaded = false;
	if (likely(!((op->host ^ guest) & ~MXCSR_FLAGS) && !(op->host & ~guest & MXCSR_FLAGS) &&
		   (guest & MXCSR_MASKS) == MXCSR_MASKS))
		return;
	if ((guest & MXCSR_MASKS) != MXCSR_MASKS) {
		/* Flush-to-zero works only while underflow is masked (SDM vol. 1, 10.2.3.3). */
		if (!(guest & (MXCSR_UE << 7)))
			guest &= ~MXCSR_FTZ;
		guest = (guest | MXCSR_MASKS) & ~MXCSR_FLAGS;
	}
	op->loaded = true;
	mxcsr_load(guest);
}

int fpu_end_unmasked(struct x86_cpu *cpu, struct fpu_op *op, uint32_t flags);

FPU_ALWAYS_INLINE int fpu_end(struct x86_cpu *cpu, struct fpu_op *op)
{
	uint32_t now = mxcsr_store();

	if (op->loaded) {
		mxcsr_load(op->host & ~MXCSR_FLAGS);
		if ((cpu->s.fpu.mxcsr & MXCSR_MASKS) != MXCSR_MASKS)
			return fpu_end_unmasked(cpu, op, now & MXCSR_FLAGS);
	}
	cpu->s.fpu.mxcsr |= now & MXCSR_FLAGS;
	return X86_NEXT;
}
