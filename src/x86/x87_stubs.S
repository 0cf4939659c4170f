/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * x87_stubs.S - one x87 instruction each, run with the guest's operands and control word.
 *
 * void x87_NAME(struct x87_io *io), see x87_int.h. The unit is initialised, ST(1) and ST(0) are
 * loaded (which raises nothing), and empty or full registers are made as io->tags asks, so that stack
 * faults are the host's own. TOP is 6 when the instruction runs. Whatever it raises is read with
 * FNSTSW and cleared with FNCLEX, neither of which waits: an unmasked exception is left pending for
 * a moment and never signalled. A result register that is empty is stored as the default NaN.
 */
#include "stubs.h"

#define A	 0(%rdi)
#define B	 16(%rdi)
#define R	 32(%rdi)
#define R2	 48(%rdi)
#define MEM	 64(%rdi)
#define CW	 80(%rdi)
#define SW	 82(%rdi)
#define HOST_CW	 84(%rdi)
#define TAGS	 86(%rdi)
#define EFLAGS	 88(%rdi)
#define HOST_SW	 96(%rdi)

	.section .rodata
x87_default_cw:
	.short	0x37f

	.text	/* what is called is a function by its type, too: objtool of Linux asks */

/*
 * Initialising the unit, clearing flags and changing the control word are slow. With all exceptions
 * masked and no empty or full register in play (TAGS is 0) none is needed: flags are sticky in host
 * and guest alike, so it is enough that the host begins with none that the guest does not have.
 */
	.type	x87_begin, @function
x87_begin:
	fnstcw	HOST_CW
	cmpw	$0, TAGS
	jne	1f
	fnstsw	HOST_SW
	movzwl	HOST_SW, %eax
	movzwl	SW, %ecx
	test	$0x3800, %eax
	jnz	3f		/* somebody left the stack turned */
	not	%ecx
	and	$0x7f, %ecx
	test	%ecx, %eax
	jnz	4f
2:	fldt	B
	fldt	A
	movzwl	CW, %eax
	cmp	%ax, HOST_CW
	je	5f
	fldcw	CW
5:	STUB_RET
3:	fninit
	movw	$0, HOST_SW
	jmp	2b
4:	fnclex
	jmp	2b

1:	fninit
	fldt	B
	fldt	A
	movzwl	TAGS, %eax
	test	$4, %eax	/* X87_FULL: the register that a push would take */
	jz	6f
	fldz
	fincstp
6:	test	$1, %eax	/* X87_A_EMPTY */
	jz	7f
	ffree	%st(0)
7:	test	$2, %eax	/* X87_B_EMPTY */
	jz	8f
	ffree	%st(1)
8:	fldcw	CW
	STUB_RET
	.size	x87_begin, . - x87_begin

	.type	x87_end, @function
x87_end:
	fnstsw	SW
	cmpw	$0, TAGS
	jne	1f
	movzwl	SW, %eax
	and	$0x3800, %eax
	fstpt	R
	cmp	$0x3800, %eax	/* one popped: nothing is left */
	je	3f
	cmp	$0x3000, %eax
	je	2f
	fstpt	R2		/* one pushed */
2:	fstp	%st(0)
3:	movzwl	CW, %eax
	cmp	%ax, HOST_CW
	je	4f
	fldcw	HOST_CW
4:	STUB_RET

1:	fnclex
	fldcw	x87_default_cw(%rip)
	fstpt	R
	fstpt	R2
	fninit
	fldcw	HOST_CW
	STUB_RET
	.size	x87_end, . - x87_end

	.macro	stub name:req, op:vararg
	.globl	x87_\name
	.hidden	x87_\name
	.type	x87_\name, @function
	.balign	16
x87_\name:
	STUB_BEGIN
	call	x87_begin
	\op
	jmp	x87_end
	.size	x87_\name, . - x87_\name
	.endm

/* For what leaves condition codes alone in some cases: begin with the guest's, found in SW. DX: those
 * that matter. */
	.type	x87_begin_cc, @function
x87_begin_cc:
	call	x87_begin
	cmpw	$0, TAGS
	jne	1f
	movzwl	HOST_SW, %eax	/* the loads have cleared C1 since */
	and	$~0x200, %eax
	xor	SW, %ax
	test	%dx, %ax
	jz	2f
1:	sub	$32, %rsp
	fnstenv	(%rsp)
	movzwl	SW, %eax
	and	$0x4700, %eax
	andw	$~0x4700, 4(%rsp)
	or	%ax, 4(%rsp)
	fldenv	(%rsp)
	add	$32, %rsp
2:	STUB_RET
	.size	x87_begin_cc, . - x87_begin_cc

	.macro	stub_cc name:req, op:vararg
	.globl	x87_\name
	.hidden	x87_\name
	.type	x87_\name, @function
	.balign	16
x87_\name:
	STUB_BEGIN
	mov	$0x4700, %edx
	call	x87_begin_cc
	\op
	jmp	x87_end
	.size	x87_\name, . - x87_\name
	.endm

	.macro	stub_flags name:req, op:vararg
	.globl	x87_\name
	.hidden	x87_\name
	.type	x87_\name, @function
	.balign	16
x87_\name:
	STUB_BEGIN
	mov	$0x200, %edx
	call	x87_begin_cc
	pushf
	orl	$0x8d5, (%rsp)
	popf
	\op
	pushf
	pop	EFLAGS
	jmp	x87_end
	.size	x87_\name, . - x87_\name
	.endm

	.macro	arith name:req, int:req, regs:vararg
	stub	\name\()_st, \name \regs
	stub	\name\()_m32, \name\()s MEM
	stub	\name\()_m64, \name\()l MEM
	stub	\name\()_i16, \int\()s MEM
	stub	\name\()_i32, \int\()l MEM
	.endm

	arith	fadd, fiadd, %st(1), %st
	arith	fmul, fimul, %st(1), %st
	arith	fcom, ficom, %st(1)
	arith	fsub, fisub, %st(1), %st
	arith	fsubr, fisubr, %st(1), %st
	arith	fdiv, fidiv, %st(1), %st
	arith	fdivr, fidivr, %st(1), %st

	stub	fucom_st, fucom %st(1)
	stub	ftst, ftst
	stub	fxam, fxam
	stub_flags fcomi, fcomi %st(1), %st
	stub_flags fucomi, fucomi %st(1), %st

	stub	fchs, fchs
	stub	fabs, fabs
	stub	fsqrt, fsqrt
	stub	fsin, fsin
	stub	fcos, fcos
	stub	f2xm1, f2xm1
	stub	frndint, frndint
	stub_cc	fprem, fprem
	stub_cc	fprem1, fprem1
	stub	fscale, fscale
	stub	fyl2x, fyl2x
	stub	fyl2xp1, fyl2xp1
	stub	fpatan, fpatan
	stub	fptan, fptan
	stub	fsincos, fsincos
	stub	fxtract, fxtract

	stub	fld_st, fld %st(0)
	stub	fld_m32, flds MEM
	stub	fld_m64, fldl MEM
	stub	fld_m80, fldt MEM
	stub	fild_i16, filds MEM
	stub	fild_i32, fildl MEM
	stub	fild_i64, fildll MEM
	stub	fbld, fbld MEM
	stub	fld1, fld1
	stub	fldl2t, fldl2t
	stub	fldl2e, fldl2e
	stub	fldpi, fldpi
	stub	fldlg2, fldlg2
	stub	fldln2, fldln2
	stub	fldz, fldz

	stub	fst_m32, fsts MEM
	stub	fst_m64, fstl MEM
	stub	fstp_m80, fstpt MEM
	stub	fist_i16, fists MEM
	stub	fist_i32, fistl MEM
	stub	fistp_i64, fistpll MEM
	stub	fisttp_i16, fisttps MEM
	stub	fisttp_i32, fisttpl MEM
	stub	fisttp_i64, fisttpll MEM
	stub	fbstp, fbstp MEM

	.section .note.GNU-stack, "", @progbits
