// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* vec_host.h - what the files share that let the host execute an instruction (vec_host.c, vec_evex.c). */
#pragma once

#include "fpu_int.h"

/* #UD, #NM: AVX-512 has state of its own in XCR0. Sets cpu->wide. */
int x86_check_avx512(struct x86_cpu *cpu);

/* The opmask of @insn: all ones where it has none. */
static inline uint64_t evex_mask(const struct x86_cpu *cpu, const struct x86_insn *insn)
{
	unsigned k = insn->evex & X86_EVEX_AAA;

	return k ? cpu->s.fpu.opmask[k] : ~0ull;
}

/* @op->mem holds the memory operand, if that is a source. Fills in the rest of @op, lets the host execute
 * it and takes over the results but for @op->mem. X86_FAULT: nothing has changed. */
int host_execute(struct x86_cpu *cpu, const struct x86_insn *insn, const struct x86_host_info *info,
		 struct x86_host_op *op);
