// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* fpu.c - when x87, MMX, SSE and AVX instructions may run, and unmasked SIMD exceptions. */
#include "fpu_int.h"

int fpu_check_x87_nowait(struct x86_cpu *cpu)
{
	if (cpu->s.cr0 & (X86_CR0_EM | X86_CR0_TS))
		return x86_raise(cpu, X86_NM);
	return X86_NEXT;
}

/*
 * A pending unmasked x87 exception is #MF with CR0.NE. Without it a PC of old routed FERR# to IRQ 13
 * and the processor waited unless IGNNE# was asserted; no such wiring exists here, and the
 * instruction goes on as with IGNNE# asserted.
 */
static int check_pending(struct x86_cpu *cpu)
{
	if ((cpu->s.fpu.fsw & FPU_FSW_ES) && (cpu->s.cr0 & X86_CR0_NE))
		return x86_raise(cpu, X86_MF);
	return X86_NEXT;
}

int x86_check_x87(struct x86_cpu *cpu)
{
	if (cpu->s.cr0 & (X86_CR0_EM | X86_CR0_TS))
		return x86_raise(cpu, X86_NM);
	return check_pending(cpu);
}

int x86_check_mmx(struct x86_cpu *cpu)
{
	if (cpu->s.cr0 & X86_CR0_EM)
		return x86_ud(cpu);
	if (cpu->s.cr0 & X86_CR0_TS)
		return x86_raise(cpu, X86_NM);
	return check_pending(cpu);
}

int x86_check_sse(struct x86_cpu *cpu)
{
	if ((cpu->s.cr0 & X86_CR0_EM) || !(cpu->s.cr4 & X86_CR4_OSFXSR))
		return x86_ud(cpu);
	if (cpu->s.cr0 & X86_CR0_TS)
		return x86_raise(cpu, X86_NM);
	return X86_NEXT;
}

int x86_check_avx(struct x86_cpu *cpu)
{
	if (!(cpu->s.cr4 & X86_CR4_OSXSAVE) || (cpu->s.xcr0 & 6) != 6 ||
	    !(cpu->s.cr0 & X86_CR0_PE) || (cpu->s.rflags & X86_FL_VM))
		return x86_ud(cpu);
	if (cpu->s.cr0 & X86_CR0_TS)
		return x86_raise(cpu, X86_NM);
	return X86_NEXT;
}

int vec_ea_aligned(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned align,
		   uint64_t *ret_off)
{
	uint64_t off = x86_ea(cpu, insn);
	uint64_t base = cpu->s.seg[insn->seg].base;

	if (cpu->code_bytes == 8 && insn->seg < X86_FS)
		base = 0;
	*ret_off = off;
	if ((off + base) & (align - 1))
		return x86_gp(cpu, 0);
	return X86_NEXT;
}

int vec_check_mask_store(struct x86_cpu *cpu, const struct x86_insn *insn, unsigned len)
{
	uint64_t off = cpu->s.gpr[X86_RDI];

	if (!x86_checks_alignment(cpu))
		return X86_NEXT;
	if (cpu->code_bytes != 8 || insn->seg >= X86_FS)
		off += cpu->s.seg[insn->seg].base;
	return off & (len - 1) ? x86_raise_error(cpu, X86_AC, 0) : X86_NEXT;
}

int vec_read_slow(struct x86_cpu *cpu, const struct x86_insn *insn, void *buf, unsigned len,
		  unsigned align)
{
	uint64_t off;

	if (vec_ea_aligned(cpu, insn, align, &off))
		return X86_FAULT;
	return x86_read(cpu, insn->seg, off, buf, len);
}

int vec_write_slow(struct x86_cpu *cpu, const struct x86_insn *insn, const void *buf, unsigned len,
		   unsigned align)
{
	uint64_t off;

	if (vec_ea_aligned(cpu, insn, align, &off))
		return X86_FAULT;
	return x86_write(cpu, insn->seg, off, buf, len);
}

/*
 * The operation ran with everything masked and raised @flags. SDM vol. 1, 11.5.2 and 11.5.3: an
 * unmasked invalid, denormal or divide-by-zero exception of any element ends the instruction before
 * computing, so the other three flags are not raised. An unmasked underflow needs only a tiny
 * result, a masked one an inexact result as well; the caller reports denormal results in op->tiny.
 */
int fpu_end_unmasked(struct x86_cpu *cpu, struct fpu_op *op, uint32_t flags)
{
	uint32_t unmasked = ~(cpu->s.fpu.mxcsr >> 7) & MXCSR_FLAGS;
	const uint32_t before = MXCSR_IE | MXCSR_DE | MXCSR_ZE;

	if (flags & unmasked & before)
		flags &= before;
	else if (op->tiny && (unmasked & MXCSR_UE))
		flags |= MXCSR_UE;
	cpu->s.fpu.mxcsr |= flags;
	if (!(flags & unmasked))
		return X86_NEXT;
	if (!(cpu->s.cr4 & X86_CR4_OSXMMEXCPT))
		return x86_ud(cpu);
	return x86_raise(cpu, X86_XM);
}
