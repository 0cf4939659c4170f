// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * decode_int.h - the decoder's tables, as tools/gen_insns.py writes them.
 *
 * An opcode of a map has a few forms. The decoder describes what it has seen in a selector word, a
 * row of one-hot groups; a form lists the bits it cannot stand. The first form with
 * (selector & forbid) == 0 and matching ModRM bits is the instruction; none is #UD.
 */
#pragma once

#include "insn.h"

#define X86_SEL_PP_NONE	   (1u << 0) /* mandatory prefix: the last F2 or F3, else 66 */
#define X86_SEL_PP_66	   (1u << 1)
#define X86_SEL_PP_F3	   (1u << 2)
#define X86_SEL_PP_F2	   (1u << 3)
#define X86_SEL_W0	   (1u << 4) /* REX.W or VEX.W as encoded */
#define X86_SEL_W1	   (1u << 5)
#define X86_SEL_L0	   (1u << 6) /* VEX.L; without VEX neither is set */
#define X86_SEL_L1	   (1u << 7)
#define X86_SEL_MODE_OTHER (1u << 8) /* 16- and 32-bit code */
#define X86_SEL_MODE_64	   (1u << 9)
#define X86_SEL_MOD_MEM	   (1u << 10)
#define X86_SEL_MOD_REG	   (1u << 11)
#define X86_SEL_OP_SHIFT   12 /* three bits: operand size 2, 4, 8 by the usual rule */
#define X86_SEL_AD_SHIFT   15 /* address size 2, 4, 8 */
#define X86_SEL_NOLOCK	   (1u << 18)
#define X86_SEL_LOCK	   (1u << 19)
#define X86_SEL_B0	   (1u << 20) /* REX.B */
#define X86_SEL_B1	   (1u << 21)
#define X86_SEL_VVVV_0	   (1u << 22) /* VEX.vvvv is 1111b */
#define X86_SEL_VVVV_N	   (1u << 23)
#define X86_SEL_D64_SHIFT  24 /* operand size where 64 is the default in 64-bit mode */
#define X86_SEL_F64_SHIFT  27 /* and where it is the only one */
#define X86_SEL_Y_SHIFT	   30 /* two bits, 4 and 8: 66 does not matter */
/* EVEX forms have these in the place of operand sizes. */
#define X86_SEL_L2	(1u << 12)
#define X86_SEL_EVEX_RC (1u << 13) /* EVEX.b with a register: rounding in L'L, which counts as none */
#define X86_SEL_EVEX_BC (1u << 14) /* EVEX.b with memory: broadcast */
#define X86_SEL_EVEX_K	(1u << 24) /* an opmask other than k0, merging */
#define X86_SEL_EVEX_KZ (1u << 25) /* zeroing */

/* Which immediate follows. */
enum x86_imm {
	X86_IMM_NONE,
	X86_IMM_IB,
	X86_IMM_IW,
	X86_IMM_IZ,   /* 2 or 4 bytes by operand size */
	X86_IMM_IV,   /* 2, 4 or 8 */
	X86_IMM_MO,   /* an offset of address size */
	X86_IMM_CP,   /* far pointer: IZ and a selector */
	X86_IMM_IWIB, /* ENTER */
};

#define X86_SIZE_V    0u
#define X86_SIZE_D64  1u
#define X86_SIZE_F64  2u
#define X86_SIZE_Y    3u
#define X86_HOW_SIZE  3u
#define X86_HOW_BYTE  (1u << 2)
#define X86_HOW_ENDS  (1u << 3)
#define X86_HOW_VSIB  (1u << 4)

struct x86_form {
	x86_exec_fn exec;
	uint32_t forbid;
	uint16_t row;
	uint8_t modrm_mask, modrm_value;
	uint8_t imm; /* enum x86_imm */
	uint8_t how;
	uint8_t feature; /* enum x86_feature */
};

struct x86_map_entry {
	uint16_t first;
	uint8_t count;
	uint8_t modrm;
};

/* Where CPUID tells of a feature. */
struct x86_feature_bit {
	uint32_t leaf, subleaf;
	uint8_t reg; /* 0..3: EAX, EBX, ECX, EDX */
	uint8_t bit;
};

/* By enum x86_feature; entry 0 unused. */
extern const struct x86_feature_bit x86_feature_bits[];
extern const struct x86_form x86_forms[];
/* [0: legacy, 1: VEX, 2: EVEX][map][opcode]; map 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A. */
extern const struct x86_map_entry x86_maps[3][4][256];
/* Of rows from X86_ROW_HOST_FIRST on; see x86_host_info(). */
extern const struct x86_host_info x86_host_infos[];
