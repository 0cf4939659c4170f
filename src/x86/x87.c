// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* x87.c - x87 arithmetic, compares, loads and stores, on the host's unit. */
#include "x87_int.h"
#include "insns.h"

#define BOTH (X87_A_EMPTY | X87_B_EMPTY)

enum source { FROM_ST, FROM_M32, FROM_M64, FROM_I16, FROM_I32 };

static unsigned source_bytes(enum source from)
{
	return from == FROM_I16 ? 2 : from == FROM_M64 ? 8 : 4;
}

/* By the reg field of D8..DF; 2 and 3 compare. */
static x87_stub *arith_stub(unsigned op, enum source from)
{
#define KINDS(op) { op##_st, op##_m32, op##_m64, op##_i16, op##_i32 }
	static x87_stub *const stubs[8][5] = {
		KINDS(x87_fadd), KINDS(x87_fmul),  KINDS(x87_fcom), KINDS(x87_fcom),
		KINDS(x87_fsub), KINDS(x87_fsubr), KINDS(x87_fdiv), KINDS(x87_fdivr),
	};
#undef KINDS

	return stubs[op][from];
}

/* Check, and fetch the memory operand, if there is one, before anything changes. */
FPU_ALWAYS_INLINE int begin(struct x86_cpu *cpu, const struct x86_insn *insn, struct x87_io *io,
			    unsigned bytes)
{
	if (x86_check_x87(cpu) || (bytes && vec_read(cpu, insn, io->mem, bytes, 1)))
		return X86_FAULT;
	x87_note(cpu, insn);
	return X86_NEXT;
}

/* ST(0) = ST(0) op source */
FPU_ALWAYS_INLINE int arith(struct x86_cpu *cpu, const struct x86_insn *insn, enum source from)
{
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, from == FROM_ST ? 0 : source_bytes(from)))
		return X86_FAULT;
	x87_run(f, arith_stub(insn->modrm >> 3 & 7, from), &io, 0,
		from == FROM_ST ? insn->modrm & 7 : 1,
		from == FROM_ST ? BOTH : X87_A_EMPTY);
	if (!x87_flags(f, io.sw, 0, X87_BEFORE))
		x87_set(f, 0, io.r);
	return X86_NEXT;
}

int x86_op_x87_arith_st0(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith(cpu, insn, FROM_ST);
}

int x86_op_x87_arith_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith(cpu, insn, FROM_M32);
}

int x86_op_x87_arith_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith(cpu, insn, FROM_M64);
}

int x86_op_x87_arith_i16(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith(cpu, insn, FROM_I16);
}

int x86_op_x87_arith_i32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith(cpu, insn, FROM_I32);
}

/*
 * ST(i) = ST(i) op ST(0), DC and DE. The stub computes ST(0) op ST(1) for its own ST(0), so the two
 * change places; the encoding has FSUB and FSUBR, FDIV and FDIVR exchanged against D8 and so do we:
 * what counts here is the destination's role.
 */
FPU_ALWAYS_INLINE int arith_sti(struct x86_cpu *cpu, const struct x86_insn *insn, bool pop)
{
	unsigned op = insn->modrm >> 3 & 7, i = insn->modrm & 7;
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, 0))
		return X86_FAULT;
	x87_run(f, arith_stub(op >= 4 ? op ^ 1 : op, FROM_ST), &io, i, 0, BOTH);
	if (x87_flags(f, io.sw, 0, X87_BEFORE))
		return X86_NEXT;
	x87_set(f, i, io.r);
	if (pop)
		x87_pop(f);
	return X86_NEXT;
}

int x86_op_x87_arith_sti(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith_sti(cpu, insn, false);
}

int x86_op_x87_arith_sti_pop(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return arith_sti(cpu, insn, true);
}

/* ---- compares ---- */

FPU_ALWAYS_INLINE int compare(struct x86_cpu *cpu, const struct x86_insn *insn, x87_stub *stub,
			      unsigned bytes, unsigned pops, unsigned uses)
{
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, bytes))
		return X86_FAULT;
	x87_run(f, stub, &io, 0, bytes ? 1 : insn->modrm & 7, uses);
	if (x87_flags(f, io.sw, X87_CC, X87_BEFORE))
		return X86_NEXT;
	while (pops--)
		x87_pop(f);
	return X86_NEXT;
}

/* FCOM is /2, FCOMP /3. */
static unsigned pops_of(const struct x86_insn *insn)
{
	return insn->modrm >> 3 & 1;
}

int x86_op_x87_com_st0(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	/* DE D0+i is an undocumented FCOMP. */
	return compare(cpu, insn, x87_fcom_st, 0, insn->opcode == 0xde ? 1 : pops_of(insn), BOTH);
}

int x86_op_x87_com_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fcom_m32, 4, pops_of(insn), X87_A_EMPTY);
}

int x86_op_x87_com_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fcom_m64, 8, pops_of(insn), X87_A_EMPTY);
}

int x86_op_x87_com_i16(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fcom_i16, 2, pops_of(insn), X87_A_EMPTY);
}

int x86_op_x87_com_i32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fcom_i32, 4, pops_of(insn), X87_A_EMPTY);
}

/* FUCOM DD E0+i, FUCOMP DD E8+i. */
int x86_op_x87_ucom_st0(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fucom_st, 0, pops_of(insn), BOTH);
}

/* FCOMPP DE D9, FUCOMPP DA E9: with ST(1). */
int x86_op_x87_compp(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, insn->opcode == 0xde ? x87_fcom_st : x87_fucom_st, 0, 2, BOTH);
}

/* FTST and FXAM. */
int x86_op_x87_ftst(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_ftst, 0, 0, X87_A_EMPTY);
}

int x86_op_x87_fxam(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return compare(cpu, insn, x87_fxam, 0, 0, X87_A_EMPTY);
}

/*
 * DB and DF (which pops); E8+i unordered, F0+i ordered. The stub begins with all status flags set,
 * which no comparison gives: so it tells whether the host wrote them, as AMD's do even when an
 * unmasked denormal operand stops the rest.
 */
int x86_op_x87_comi(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, 0))
		return X86_FAULT;
	x87_run(f, insn->modrm & 0x10 ? x87_fcomi : x87_fucomi, &io, 0, insn->modrm & 7, BOTH);
	io.eflags &= X86_FL_STATUS;
	if (io.eflags != X86_FL_STATUS)
		cpu->s.rflags = (cpu->s.rflags & ~(uint64_t)X86_FL_STATUS) | io.eflags;
	if (!x87_flags(f, io.sw, 0, X87_BEFORE) && insn->opcode == 0xdf)
		x87_pop(f);
	return X86_NEXT;
}

/* ---- D9 E0..FF: on ST(0) and ST(1); some pop, some push, and the host tells which happened ---- */

static x87_stub *transcendental_stub(unsigned modrm)
{
	static x87_stub *const stubs[16] = {
		x87_f2xm1, x87_fyl2x,	x87_fptan, x87_fpatan,	x87_fxtract, x87_fprem1, NULL,	   NULL,
		x87_fprem, x87_fyl2xp1, x87_fsqrt, x87_fsincos, x87_frndint, x87_fscale, x87_fsin, x87_fcos,
	};

	return stubs[modrm & 15];
}

/* TOP was 6 when the instruction began. */
static void apply_stack(struct x86_fpu *f, const struct x87_io *io)
{
	switch (io->sw >> 11 & 7) {
	case 5:
		x87_set_top(f, x87_top(f) - 1);
		x87_set(f, 1, io->r2);
		break;
	case 7:
		x87_pop(f);
		break;
	}
	x87_set(f, 0, io->r);
}

FPU_ALWAYS_INLINE int on_stack(struct x86_cpu *cpu, const struct x86_insn *insn, x87_stub *stub,
			       unsigned uses, uint16_t cc)
{
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, 0))
		return X86_FAULT;
	x87_run(f, stub, &io, 0, 1, uses);
	if (!x87_flags(f, io.sw, cc, X87_BEFORE))
		apply_stack(f, &io);
	return X86_NEXT;
}

int x86_op_x87_fchs(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return on_stack(cpu, insn, x87_fchs, X87_A_EMPTY, 0);
}

int x86_op_x87_fabs(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return on_stack(cpu, insn, x87_fabs, X87_A_EMPTY, 0);
}

/* F2XM1, FSQRT, FRNDINT */
static bool is_unary(unsigned modrm)
{
	return modrm == 0xf0 || modrm == 0xfa || modrm == 0xfc;
}

int x86_op_x87_compute(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return on_stack(cpu, insn, transcendental_stub(insn->modrm),
			insn->modrm == 0xf4 ? X87_A_EMPTY | X87_FULL : /* FXTRACT pushes */
			is_unary(insn->modrm) ? X87_A_EMPTY : BOTH, 0);
}

/* FPREM and FPREM1 give bits of the quotient. */
int x86_op_x87_remainder(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return on_stack(cpu, insn, transcendental_stub(insn->modrm), BOTH, X87_CC);
}

/* C2: operand out of range, nothing done. */
int x86_op_x87_trigonometric(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return on_stack(cpu, insn, transcendental_stub(insn->modrm), X87_A_EMPTY | X87_FULL,
			X87_C2);
}

/* ---- loads ---- */

/* Whether the host pushed: AMD's does in spite of an unmasked denormal operand. */
static void push_result(struct x86_fpu *f, const struct x87_io *io)
{
	x87_flags(f, io->sw, 0, 0);
	if ((io->sw >> 11 & 7) != 5)
		return;
	x87_set_top(f, x87_top(f) - 1);
	x87_set(f, 0, io->r);
}

FPU_ALWAYS_INLINE int load(struct x86_cpu *cpu, const struct x86_insn *insn, x87_stub *stub,
			   unsigned bytes)
{
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (begin(cpu, insn, &io, bytes))
		return X86_FAULT;
	x87_run(f, stub, &io, 0, 1, X87_FULL);
	push_result(f, &io);
	return X86_NEXT;
}

int x86_op_x87_fld_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fld_m32, 4);
}

int x86_op_x87_fld_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fld_m64, 8);
}

int x86_op_x87_fld_m80(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fld_m80, 10);
}

int x86_op_x87_fild_m16(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fild_i16, 2);
}

int x86_op_x87_fild_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fild_i32, 4);
}

int x86_op_x87_fild_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fild_i64, 8);
}

int x86_op_x87_fbld(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return load(cpu, insn, x87_fbld, 10);
}

/* D9 E8..EE */
int x86_op_x87_fldc(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	static x87_stub *const stubs[8] = { x87_fld1,	x87_fldl2t, x87_fldl2e, x87_fldpi,
					    x87_fldlg2, x87_fldln2, x87_fldz,	x87_fldz };

	return load(cpu, insn, stubs[insn->modrm & 7], 0);
}

int x86_op_x87_fld_sti(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct x86_fpu *f = &cpu->s.fpu;
	unsigned i = insn->modrm & 7;
	struct x87_io io;

	if (begin(cpu, insn, &io, 0))
		return X86_FAULT;
	x87_run(f, x87_fld_st, &io, i, i, X87_A_EMPTY | X87_FULL);
	push_result(f, &io);
	return X86_NEXT;
}

/* ---- stores: memory is written before the status word changes, because it may fault ---- */

FPU_ALWAYS_INLINE int store(struct x86_cpu *cpu, const struct x86_insn *insn, x87_stub *stub,
			    unsigned bytes, bool pop)
{
	const uint16_t stop = X87_BEFORE | X87_OE | X87_UE;
	struct x86_fpu *f = &cpu->s.fpu;
	struct x87_io io;

	if (x86_check_x87(cpu))
		return X86_FAULT;
	x87_run(f, stub, &io, 0, 1, X87_A_EMPTY);
	if (io.sw & ~f->fcw & stop) {
		if (x86_probe_write(cpu, insn->seg, x86_ea(cpu, insn), bytes))
			return X86_FAULT;
	} else if (vec_write(cpu, insn, io.mem, bytes, 1)) {
		return X86_FAULT;
	}
	x87_note(cpu, insn);
	if (!x87_flags(f, io.sw, 0, stop) && pop)
		x87_pop(f);
	return X86_NEXT;
}

/* FST is /2, FSTP /3. */
int x86_op_x87_fst_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, x87_fst_m32, 4, pops_of(insn));
}

int x86_op_x87_fst_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, x87_fst_m64, 8, pops_of(insn));
}

int x86_op_x87_fst_m80(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, x87_fstp_m80, 10, true);
}

/* FISTTP is /1, FIST /2, FISTP /3 (and /7 with 64 bits): the odd ones pop. */
static bool truncates(const struct x86_insn *insn)
{
	return (insn->modrm >> 3 & 7) == 1;
}

int x86_op_x87_fist_m16(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, truncates(insn) ? x87_fisttp_i16 : x87_fist_i16, 2, pops_of(insn));
}

int x86_op_x87_fist_m32(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, truncates(insn) ? x87_fisttp_i32 : x87_fist_i32, 4, pops_of(insn));
}

int x86_op_x87_fist_m64(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, truncates(insn) ? x87_fisttp_i64 : x87_fistp_i64, 8, true);
}

int x86_op_x87_fbstp(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return store(cpu, insn, x87_fbstp, 10, true);
}
