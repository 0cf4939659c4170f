// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * operand.h - register operands and status flags for the integer handlers.
 *
 * Handlers are written once as a macro and made for each size: S is the size in bytes (the suffix of
 * the handler's name), X86_T(S) the type.
 *
 * Flags come from the host's own instructions: LAHF and SETO right behind the operation, and where
 * the operation reads flags or leaves some alone (or undefined), ADD and SAHF right before it set
 * them to the guest's. That is cheaper than PUSHF and POPF, and needs no stack.
 */
#pragma once

#include "softmmu.h"

#define X86_T_1	 uint8_t
#define X86_T_2	 uint16_t
#define X86_T_4	 uint32_t
#define X86_T_8	 uint64_t
#define X86_T(S) X86_T_##S

/* The same, to reach guest memory at any alignment. */
#define X86_M_1	 uint8_t
#define X86_M_2	 x86_u16u
#define X86_M_4	 x86_u32u
#define X86_M_8	 x86_u64u
#define X86_M(S) X86_M_##S

#define X86_BITS_1 8
#define X86_BITS_2 16
#define X86_BITS_4 32
#define X86_BITS_8 64

/* Suffix of the assembler mnemonic. */
#define X86_SFX_1 "b"
#define X86_SFX_2 "w"
#define X86_SFX_4 "l"
#define X86_SFX_8 "q"

/* One handler per size. */
#define X86_EACH_SIZE(M, ...) M(1, __VA_ARGS__) M(2, __VA_ARGS__) M(4, __VA_ARGS__) M(8, __VA_ARGS__)
#define X86_EACH_WIDE(M, ...) M(2, __VA_ARGS__) M(4, __VA_ARGS__) M(8, __VA_ARGS__)

#define X86_HANDLER(name) int x86_op_##name(struct x86_cpu *cpu, const struct x86_insn *insn)

/* ---- memory by size in bytes ---- */
#define x86_load_1 x86_ld8
#define x86_load_2 x86_ld16
#define x86_load_4 x86_ld32
#define x86_load_8 x86_ld64
#define x86_store_1 x86_st8
#define x86_store_2 x86_st16
#define x86_store_4 x86_st32
#define x86_store_8 x86_st64

/* ---- registers ---- */
static inline uint64_t x86_get_8(const struct x86_cpu *cpu, unsigned reg)
{
	return cpu->s.gpr[reg];
}

static inline uint32_t x86_get_4(const struct x86_cpu *cpu, unsigned reg)
{
	return (uint32_t)cpu->s.gpr[reg];
}

static inline uint16_t x86_get_2(const struct x86_cpu *cpu, unsigned reg)
{
	return (uint16_t)cpu->s.gpr[reg];
}

static inline void x86_set_8(struct x86_cpu *cpu, unsigned reg, uint64_t v)
{
	cpu->s.gpr[reg] = v;
}

static inline void x86_set_4(struct x86_cpu *cpu, unsigned reg, uint32_t v)
{
	cpu->s.gpr[reg] = v;
}

/* Merged in a register, because a narrow store stalls the wide load that follows. */
static inline void x86_set_2(struct x86_cpu *cpu, unsigned reg, uint16_t v)
{
	cpu->s.gpr[reg] = (cpu->s.gpr[reg] & ~(uint64_t)0xffff) | v;
}

/* @off: reg8 or rm8 of the instruction. */
static inline uint8_t x86_get_byte(const struct x86_cpu *cpu, unsigned off)
{
	return ((const uint8_t *)cpu->s.gpr)[off];
}

static inline void x86_set_byte(struct x86_cpu *cpu, unsigned off, uint8_t v)
{
	((uint8_t *)cpu->s.gpr)[off] = v;
}

/* RAX, RCX, RDX: low byte. */
static inline uint8_t x86_get_1(const struct x86_cpu *cpu, unsigned reg)
{
	return (uint8_t)cpu->s.gpr[reg];
}

static inline void x86_set_1(struct x86_cpu *cpu, unsigned reg, uint8_t v)
{
	x86_set_byte(cpu, reg * 8, v);
}

/* The operands that ModRM names; rm also the register in an opcode. */
#define x86_reg_1(cpu, insn) x86_get_byte(cpu, (insn)->reg8)
#define x86_reg_2(cpu, insn) x86_get_2(cpu, (insn)->reg)
#define x86_reg_4(cpu, insn) x86_get_4(cpu, (insn)->reg)
#define x86_reg_8(cpu, insn) x86_get_8(cpu, (insn)->reg)
#define x86_rm_1(cpu, insn)  x86_get_byte(cpu, (insn)->rm8)
#define x86_rm_2(cpu, insn)  x86_get_2(cpu, (insn)->rm)
#define x86_rm_4(cpu, insn)  x86_get_4(cpu, (insn)->rm)
#define x86_rm_8(cpu, insn)  x86_get_8(cpu, (insn)->rm)

#define x86_set_reg_1(cpu, insn, v) x86_set_byte(cpu, (insn)->reg8, v)
#define x86_set_reg_2(cpu, insn, v) x86_set_2(cpu, (insn)->reg, v)
#define x86_set_reg_4(cpu, insn, v) x86_set_4(cpu, (insn)->reg, v)
#define x86_set_reg_8(cpu, insn, v) x86_set_8(cpu, (insn)->reg, v)
#define x86_set_rm_1(cpu, insn, v)  x86_set_byte(cpu, (insn)->rm8, v)
#define x86_set_rm_2(cpu, insn, v)  x86_set_2(cpu, (insn)->rm, v)
#define x86_set_rm_4(cpu, insn, v)  x86_set_4(cpu, (insn)->rm, v)
#define x86_set_rm_8(cpu, insn, v)  x86_set_8(cpu, (insn)->rm, v)

/* A general register by run-time size; 4 bytes zero-extend. */
static inline uint64_t x86_get_sized(const struct x86_cpu *cpu, unsigned reg, unsigned size)
{
	uint64_t v = cpu->s.gpr[reg];

	return size == 8 ? v : size == 4 ? (uint32_t)v : size == 2 ? (uint16_t)v : (uint8_t)v;
}

static inline void x86_set_sized(struct x86_cpu *cpu, unsigned reg, unsigned size, uint64_t v)
{
	uint64_t keep = size == 2 ? ~(uint64_t)0xffff : size == 1 ? ~(uint64_t)0xff : 0;

	cpu->s.gpr[reg] = (cpu->s.gpr[reg] & keep) | (size == 4 ? (uint32_t)v : v & ~keep);
}

/* ---- status flags ----
 * Packed as LAHF and SETO leave them in AX: SF ZF AF PF CF in AH, OF in AL. */
#define X86_FL_SAVE "lahf\n\tseto %%al"
#define X86_FL_LOAD "addb $0x7f, %%al\n\tsahf\n\t" /* 1 + 0x7f overflows */

#define X86_FL_LOW (X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF)

static inline uint32_t x86_flags_pack(const struct x86_cpu *cpu)
{
	uint32_t fl = (uint32_t)cpu->s.rflags;

	return (fl & 0xff) << 8 | (fl >> 11 & 1);
}

/* LAHF sets bit 1, which RFLAGS has set as well. What is above AX is of no account. */
static inline void x86_flags_unpack(struct x86_cpu *cpu, uint32_t ax)
{
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_FL_STATUS) | (ax >> 8 & 0xff) |
			(uint64_t)(ax & 1) << 11;
}

/* INC and DEC leave CF alone. */
static inline void x86_flags_unpack_keep_cf(struct x86_cpu *cpu, uint32_t ax)
{
	cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)(X86_FL_STATUS & ~X86_FL_CF)) |
			(ax >> 8 & 0xfe) | (uint64_t)(ax & 1) << 11;
}

static inline void x86_flags_set(struct x86_cpu *cpu, uint64_t mask, uint64_t value)
{
	cpu->s.rflags = (cpu->s.rflags & ~mask) | (value & mask);
}

/* ---- conditions, SDM vol. 2 appendix B.1.4.7 ---- */
static inline bool x86_less(uint64_t fl)
{
	return (fl >> 7 ^ fl >> 11) & 1;
}

#define x86_cond_o(fl)	 (((fl)&X86_FL_OF) != 0)
#define x86_cond_no(fl)	 (!((fl)&X86_FL_OF))
#define x86_cond_b(fl)	 (((fl)&X86_FL_CF) != 0)
#define x86_cond_ae(fl)	 (!((fl)&X86_FL_CF))
#define x86_cond_e(fl)	 (((fl)&X86_FL_ZF) != 0)
#define x86_cond_ne(fl)	 (!((fl)&X86_FL_ZF))
#define x86_cond_be(fl)	 (((fl) & (X86_FL_CF | X86_FL_ZF)) != 0)
#define x86_cond_a(fl)	 (!((fl) & (X86_FL_CF | X86_FL_ZF)))
#define x86_cond_s(fl)	 (((fl)&X86_FL_SF) != 0)
#define x86_cond_ns(fl)	 (!((fl)&X86_FL_SF))
#define x86_cond_p(fl)	 (((fl)&X86_FL_PF) != 0)
#define x86_cond_np(fl)	 (!((fl)&X86_FL_PF))
#define x86_cond_l(fl)	 (x86_less(fl))
#define x86_cond_ge(fl)	 (!x86_less(fl))
#define x86_cond_le(fl)	 (((fl)&X86_FL_ZF) || x86_less(fl))
#define x86_cond_g(fl)	 (!((fl)&X86_FL_ZF) && !x86_less(fl))

#define X86_EACH_COND(M, ...)                                                                      \
	M(o, __VA_ARGS__) M(no, __VA_ARGS__) M(b, __VA_ARGS__) M(ae, __VA_ARGS__)                  \
	M(e, __VA_ARGS__) M(ne, __VA_ARGS__) M(be, __VA_ARGS__) M(a, __VA_ARGS__)                  \
	M(s, __VA_ARGS__) M(ns, __VA_ARGS__) M(p, __VA_ARGS__) M(np, __VA_ARGS__)                  \
	M(l, __VA_ARGS__) M(ge, __VA_ARGS__) M(le, __VA_ARGS__) M(g, __VA_ARGS__)
