// SPDX-License-Identifier: Apache-2.0
/* describe.h - what the translator has to know of an instruction. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "x86/x86.h"

enum jit_kind {
	JIT_HANDLER, /* not emitted: its handler is called */
	JIT_COPY,    /* the same instruction, operands renamed */
	JIT_NOTHING,
	JIT_LEA,
	JIT_MOV_IMM,
	JIT_XCHG_AX,
	JIT_BSWAP,
	JIT_PUSH_REG, JIT_PUSH_IMM, JIT_PUSH_MEM,
	JIT_POP_REG,
	JIT_LEAVE,
	JIT_DIV, JIT_IDIV,
	JIT_SYS, /* tr_sys.c */
	JIT_X87, /* tr_x87.c */
	JIT_STRING, /* tr_string.c */
	JIT_BIT, /* tr_bit.c */
	/* These end a block. */
	JIT_JCC, JIT_JMP, JIT_CALL, JIT_RET,
	JIT_JMP_REG, JIT_JMP_MEM, JIT_CALL_REG, JIT_CALL_MEM,
	JIT_SYSCALL, JIT_SYSRET,
};

#define JIT_R 1u
#define JIT_W 2u
#define JIT_RW 3u

struct jit_desc {
	uint8_t kind;	  /* enum jit_kind */
	uint8_t reg_use;  /* JIT_R, JIT_W of ModRM.reg when it names a general register; else 0 */
	uint8_t rm_use;	  /* of a general register or memory operand */
	uint8_t vvvv_use; /* of a general register */
	bool byte_reg, byte_rm;
	bool prefix;	  /* F2, F3 or 66 are part of the opcode */
	uint8_t vex_pp;	  /* VEX.pp */
	bool vec;	  /* vector registers are involved */
	bool vec_rm;	  /* rm, when a register, is one */
	bool wide;	  /* opmasks or all of ZMM are */
	bool x87;	  /* the guest's x87 state has to be in the host's unit */
	uint8_t imm_len;
	uint8_t mem_len, mem_align;
	uint32_t fr, fw, fm; /* flags (X86_FL_*) read; surely written; perhaps written */
};

/* @bytes: what @insn was decoded from. */
void jit_describe(const struct x86_insn *insn, const uint8_t *bytes, struct jit_desc *ret);
