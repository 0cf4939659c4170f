// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* rows.h - a description of each row of the instruction tables, for tests and traces. */
#pragma once

#include "decode_int.h"
#include "insns.h"
#include "state.h"

#define X86_ROW_ATTR_I64    (1u << 0)
#define X86_ROW_ATTR_O64    (1u << 1)
#define X86_ROW_ATTR_D64    (1u << 2)
#define X86_ROW_ATTR_F64    (1u << 3)
#define X86_ROW_ATTR_Y	    (1u << 4)
#define X86_ROW_ATTR_LOCK   (1u << 5)
#define X86_ROW_ATTR_ENDS   (1u << 6)
#define X86_ROW_ATTR_MEM    (1u << 7)
#define X86_ROW_ATTR_REG    (1u << 8)
#define X86_ROW_ATTR_PRIV   (1u << 9)
#define X86_ROW_ATTR_VSIB   (1u << 10)
#define X86_ROW_ATTR_BYTE   (1u << 11)
#define X86_ROW_ATTR_B0	    (1u << 12)
#define X86_ROW_ATTR_B1	    (1u << 13)
#define X86_ROW_ATTR_O2	    (1u << 14)
#define X86_ROW_ATTR_O4	    (1u << 15)
#define X86_ROW_ATTR_O8	    (1u << 16)
#define X86_ROW_ATTR_A2	    (1u << 17)
#define X86_ROW_ATTR_A4	    (1u << 18)
#define X86_ROW_ATTR_A8	    (1u << 19)
#define X86_ROW_ATTR_NOHOST (1u << 20) /* its result is not the host's to tell */
#define X86_ROW_ATTR_REP    (1u << 21)

enum x86_plus { X86_PLUS_NONE, X86_PLUS_REG, X86_PLUS_CC };

struct x86_row_info {
	const char *name, *opcode_text, *exec;
	const char *operand[4]; /* NULL beyond the last */
	uint32_t forbid;	/* what no form of the row can stand, see decode_int.h */
	uint32_t attrs;		/* X86_ROW_ATTR_* */
	uint32_t undef;		/* X86_FL_* left undefined by the manual */
	uint8_t vex; /* 1: VEX, 2: EVEX */
	uint8_t map, opcode;
	uint8_t plus; /* enum x86_plus: register or condition in the opcode */
	bool modrm;
	uint8_t modrm_mask, modrm_value;
	uint8_t imm;  /* enum x86_imm */
	uint8_t size; /* X86_SIZE_* */
	bool byte;
	uint8_t align; /* #GP on a memory operand not aligned to this */
	uint8_t feature;
};

extern const struct x86_row_info x86_rows[X86_ROW_COUNT];
