// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* insn.h - a decoded instruction, in the form that executes fast and that a translator can read. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct x86_cpu;
struct x86_insn;

/* What an instruction did. On X86_FAULT nothing architectural has changed, save what the manual
 * says (REP progress, accessed and dirty bits), and cpu->fault tells the exception. */
enum x86_result {
	X86_NEXT,   /* go on with the next instruction of the block */
	X86_JUMP,   /* RIP was set; the block ends here */
	X86_STOP,   /* done, and something changed that the run loop must look at before it goes on:
		     * mode, interrupt flag, TLB, code that was overwritten, activity */
	X86_REPEAT, /* a REP instruction gives way to interrupts; RIP still points at it */
	X86_FAULT,
};

/* While it runs, cpu->s.rip already points behind the instruction; on X86_FAULT and X86_REPEAT the
 * caller puts it back (rip -= insn->len). A handler sets RIP only when it can no longer fault. */
typedef int (*x86_exec_fn)(struct x86_cpu *cpu, const struct x86_insn *insn);

enum x86_insn_flag {
	X86_INSN_LOCK = 1u << 0,
	X86_INSN_REP = 1u << 1,	   /* F3 */
	X86_INSN_REPNE = 1u << 2,  /* F2 */
	X86_INSN_REX = 1u << 3,	   /* any REX: byte registers 4..7 are SPL..DIL */
	X86_INSN_MEM = 1u << 4,	   /* the r/m operand is memory */
	X86_INSN_RIPREL = 1u << 5, /* its address is relative to the next instruction */
	X86_INSN_VEX = 1u << 6,
	X86_INSN_W = 1u << 7, /* REX.W or VEX.W */
	X86_INSN_MODRM = 1u << 8,
	X86_INSN_ENDS = 1u << 9,   /* a block must end behind it: branches, mode changes... */
	X86_INSN_OPSIZE = 1u << 10, /* 66 prefix seen */
	X86_INSN_A64 = 1u << 11,    /* 64-bit addressing: no limits, bases only of FS and GS */
};

/* Base and index count in the words at the start of struct x86_state: the general registers, then
 * RIP and a word that is always zero. An address is a sum without a branch. */
#define X86_REG_RIP 16u
#define X86_NO_REG  17u

struct x86_insn {
	x86_exec_fn exec;
	uint64_t imm;	/* immediate, sign-extended to 64 bits; far pointer: offset */
	int32_t disp;	/* displacement of the memory operand */
	uint16_t flags; /* enum x86_insn_flag */
	uint16_t row;	/* row of the instruction table: enum x86_row */
	uint8_t len;	/* bytes, 1..15 */
	uint8_t opsize; /* operand size in bytes: 1, 2, 4, 8 */
	uint8_t adsize; /* address size in bytes: 2, 4, 8 */
	uint8_t reg;	/* ModRM.reg with REX.R or VEX.R */
	uint8_t rm;	/* ModRM.rm with REX.B, when a register */
	uint8_t base;	/* X86_NO_REG: none; X86_REG_RIP with X86_INSN_RIPREL */
	uint8_t index;	/* X86_NO_REG: none */
	uint8_t scale;	/* shift, 0..3 */
	uint8_t seg;	/* enum x86_seg_reg of the memory operand, override applied; DS or the
			 * override where there is no ModRM (strings, moffs, XLAT) */
	uint8_t vvvv;	/* VEX.vvvv, not inverted any more */
	uint8_t vl;	/* vector length in bytes: 16 or 32 */
	uint8_t imm2;	/* ENTER's nesting level */
	uint16_t sel;	/* selector of a far pointer */
	uint8_t opcode; /* last opcode byte: condition codes, register in opcode, x87 */
	uint8_t modrm;	/* raw */
	uint8_t reg8;	/* reg as a byte register: its offset in bytes from gpr[0] (AH is 1) */
	uint8_t rm8;	/* likewise rm */
	uint8_t feature; /* enum x86_feature the instruction belongs to */
	uint8_t map;	/* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
};
