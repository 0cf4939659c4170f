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
	X86_INSN_EVEX = 1u << 12,   /* (and not VEX) */
};

/* Bits of x86_insn.evex: the last byte of the prefix, V' left out. */
#define X86_EVEX_AAA 0x07u /* the opmask; 0: none */
#define X86_EVEX_B   0x10u /* broadcast, rounding or SAE */
#define X86_EVEX_LL  0x60u
#define X86_EVEX_LL_SHIFT 5
#define X86_EVEX_Z   0x80u

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
	uint8_t reg;	/* ModRM.reg with REX.R or VEX.R, and EVEX.R' for a vector register */
	uint8_t rm;	/* ModRM.rm with REX.B, when a register, and EVEX.X for a vector register */
	uint8_t base;	/* X86_NO_REG: none; X86_REG_RIP with X86_INSN_RIPREL */
	uint8_t index;	/* X86_NO_REG: none; a vector register 0..31 in gathers and scatters */
	uint8_t scale;	/* shift, 0..3 */
	uint8_t seg;	/* enum x86_seg_reg of the memory operand, override applied; DS or the
			 * override where there is no ModRM (strings, moffs, XLAT) */
	uint8_t vvvv;	/* VEX.vvvv, not inverted any more, with EVEX.V' */
	uint8_t vl;	/* vector length in bytes: 16, 32 or 64 */
	uint8_t imm2;	/* ENTER's nesting level */
	uint16_t sel;	/* selector of a far pointer */
	uint8_t opcode; /* last opcode byte: condition codes, register in opcode, x87 */
	uint8_t modrm;	/* raw */
	uint8_t reg8;	/* reg as a byte register: its offset in bytes from gpr[0] (AH is 1) */
	uint8_t rm8;	/* likewise rm */
	uint8_t feature; /* enum x86_feature the instruction belongs to */
	uint8_t map;	/* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t pp;	/* of VEX and EVEX: 0, 1: 66, 2: F3, 3: F2 */
	uint8_t evex;	/* X86_EVEX_* */
};

/* What the fields of an instruction name that only the host can execute (rows from X86_ROW_HOST_FIRST
 * on; insns_evex.tbl tells what the flags mean). */
enum x86_host_kind { X86_HOST_NONE, X86_HOST_VEC, X86_HOST_MASK, X86_HOST_GPR };

#define X86_HOST_BYTES(n) (n)		 /* a memory operand of so many bytes */
#define X86_HOST_PART(n)  (0x80u | (n))	 /* of the vector length divided by that */

#define X86_HOST_VL    (1u << 0)
#define X86_HOST_ER    (1u << 1)
#define X86_HOST_NF    (1u << 2)
#define X86_HOST_ANY   (1u << 3)
#define X86_HOST_CPR   (1u << 4)
#define X86_HOST_AL    (1u << 5)
#define X86_HOST_STORE (1u << 6) /* ModRM.rm is the destination */
#define X86_HOST_FOLD  (1u << 7)

struct x86_host_info {
	uint8_t reg, rm, vvvv; /* enum x86_host_kind; rm when it is no memory */
	uint8_t mem;	       /* X86_HOST_BYTES or X86_HOST_PART */
	uint8_t elem, bcast;
	uint8_t flags;
};

/* NULL: not such a row. */
const struct x86_host_info *x86_host_info(const struct x86_insn *insn);
/* Length of its memory operand in bytes, broadcast regarded; of cpr and vsib the whole vector's. */
unsigned x86_host_mem_len(const struct x86_insn *insn, const struct x86_host_info *info);
