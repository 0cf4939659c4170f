// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * x87_int.h - what the x87 files share: the register stack, and the host stubs.
 *
 * Theory of operation. The stack (TOP, tags, order of st[]) is kept here in C; values are computed by
 * the stubs of x87_stubs.S. An instruction that meets an unmasked invalid, denormal or
 * divide-by-zero exception changes nothing but the status word; with an unmasked overflow or
 * underflow a register gets the scaled result that the host delivers, and memory is not written
 * (SDM vol. 1, 8.5). FSW.ES then makes the next waiting instruction raise #MF.
 */
#pragma once

#include "fpu_int.h"

#include <stddef.h>

#define X87_IE 0x01u
#define X87_DE 0x02u
#define X87_ZE 0x04u
#define X87_OE 0x08u
#define X87_UE 0x10u
#define X87_PE 0x20u
#define X87_SF 0x40u
#define X87_C0 0x0100u
#define X87_C1 0x0200u
#define X87_C2 0x0400u
#define X87_C3 0x4000u
#define X87_CC (X87_C0 | X87_C1 | X87_C2 | X87_C3)

/* Exceptions found before the result exists: the instruction is abandoned when one is unmasked. */
#define X87_BEFORE (X87_IE | X87_DE | X87_ZE)

/* What a stub has to imitate, or which operands matter. X87_UNMASKED: not all exceptions are masked. */
enum x87_tags { X87_A_EMPTY = 1, X87_B_EMPTY = 2, X87_FULL = 4, X87_UNMASKED = 8 };

/* Operands and results of a stub; the offsets are known to x87_stubs.S. */
struct x87_io {
	uint8_t a[16], b[16];	/* ST(0), ST(1) */
	uint8_t r[16], r2[16];	/* the two topmost registers behind the instruction */
	uint8_t mem[16];
	uint16_t cw, sw, host_cw;
	uint16_t tags; /* enum x87_tags */
	uint64_t eflags;
	uint16_t host_sw;
};

_Static_assert(offsetof(struct x87_io, mem) == 64 && offsetof(struct x87_io, cw) == 80 &&
		       offsetof(struct x87_io, tags) == 86 && offsetof(struct x87_io, eflags) == 88 &&
		       offsetof(struct x87_io, host_sw) == 96,
	       "x87_stubs.S has these offsets");

/* The stubs: NAME_{st,m32,m64,i16,i32} by kind of the second operand. */
typedef void x87_stub(struct x87_io *io);
extern x87_stub x87_fadd_st, x87_fadd_m32, x87_fadd_m64, x87_fadd_i16, x87_fadd_i32,
	x87_fmul_st, x87_fmul_m32, x87_fmul_m64, x87_fmul_i16, x87_fmul_i32, x87_fcom_st, x87_fcom_m32,
	x87_fcom_m64, x87_fcom_i16, x87_fcom_i32, x87_fsub_st, x87_fsub_m32, x87_fsub_m64,
	x87_fsub_i16, x87_fsub_i32, x87_fsubr_st, x87_fsubr_m32, x87_fsubr_m64, x87_fsubr_i16,
	x87_fsubr_i32, x87_fdiv_st, x87_fdiv_m32, x87_fdiv_m64, x87_fdiv_i16, x87_fdiv_i32,
	x87_fdivr_st, x87_fdivr_m32, x87_fdivr_m64, x87_fdivr_i16, x87_fdivr_i32;
extern x87_stub x87_fucom_st, x87_ftst, x87_fxam, x87_fcomi, x87_fucomi, x87_fchs, x87_fabs,
	x87_fsqrt, x87_fsin, x87_fcos, x87_f2xm1, x87_frndint, x87_fprem, x87_fprem1, x87_fscale,
	x87_fyl2x, x87_fyl2xp1, x87_fpatan, x87_fptan, x87_fsincos, x87_fxtract, x87_fld_st,
	x87_fld_m32, x87_fld_m64, x87_fld_m80, x87_fild_i16, x87_fild_i32, x87_fild_i64, x87_fbld,
	x87_fld1, x87_fldl2t, x87_fldl2e, x87_fldpi, x87_fldlg2, x87_fldln2, x87_fldz, x87_fst_m32,
	x87_fst_m64, x87_fstp_m80, x87_fist_i16, x87_fist_i32, x87_fistp_i64, x87_fisttp_i16,
	x87_fisttp_i32, x87_fisttp_i64, x87_fbstp;

FPU_ALWAYS_INLINE unsigned x87_top(const struct x86_fpu *f)
{
	return f->fsw >> 11 & 7;
}

FPU_ALWAYS_INLINE unsigned x87_tag_bit(const struct x86_fpu *f, unsigned i)
{
	return 1u << ((x87_top(f) + i) & 7);
}

FPU_ALWAYS_INLINE bool x87_is_empty(const struct x86_fpu *f, unsigned i)
{
	return !(f->ftw & x87_tag_bit(f, i));
}

FPU_ALWAYS_INLINE void x87_set(struct x86_fpu *f, unsigned i, const uint8_t *value)
{
	memcpy(f->st[i], value, 10);
	f->ftw |= x87_tag_bit(f, i);
}

/* Change TOP; physical registers keep their contents and tags. */
void x87_set_top(struct x86_fpu *f, unsigned top);
void x87_pop(struct x86_fpu *f);
/* The default NaN, "real indefinite". */
extern const uint8_t x87_indefinite[16];

/* Run a stub on ST(@a) and ST(@b), of which those in @uses (enum x87_tags) matter to the operation. The
 * status word of the guest is not touched yet. */
void x87_run(const struct x86_fpu *f, x87_stub *fn, struct x87_io *io, unsigned a, unsigned b,
	     unsigned uses);
/* Take over flags and C1, and the other condition codes in @cc. Returns true when the instruction is
 * to be abandoned because of an unmasked exception among @stop. */
bool x87_flags(struct x86_fpu *f, uint16_t sw, uint16_t cc, uint16_t stop);
/* Stack underflow found without a stub. True: masked, go on with the default NaN. */
bool x87_underflow(struct x86_fpu *f);
/* FIP, FOP, and FDP when there is a memory operand (SDM vol. 1, 8.1.8). */
void x87_note(struct x86_cpu *cpu, const struct x86_insn *insn);
