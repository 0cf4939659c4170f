// SPDX-License-Identifier: Apache-2.0
/*
 * emit.h - an encoder of x86-64 instructions into a buffer.
 *
 * Writing stops at the end of the buffer and sets full; the caller looks once, at the end. Encodings:
 * Intel SDM vol. 2, chapter 2.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum host_reg {
	H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI,
	H_R8, H_R9, H_R10, H_R11, H_R12, H_R13, H_R14, H_R15,
};
#define H_NONE 0xffu

struct emit {
	uint8_t *p, *end;  /* through the writable mapping */
	int64_t to_exec;   /* what to add for the address it runs at */
	bool full;
};

/* What the ModRM byte's r/m part names. */
enum emit_rm {
	EMIT_NO_MODRM,
	EMIT_REG,  /* register rm */
	EMIT_MEM,  /* [rm + index << scale + disp]; rm and index may be H_NONE */
	EMIT_GS,   /* gs:[rm + disp]; rm may be H_NONE */
	EMIT_GS_INDEX, /* gs:[index << scale + disp] */
	EMIT_RIP,  /* the object at target, relative to RIP */
};

struct emit_op {
	uint8_t map; /* 0: one byte, 1: 0F, 2: 0F 38, 3: 0F 3A */
	uint8_t opcode;
	uint8_t rep; /* 0, F2 or F3 */
	bool p66, lock, w, rex; /* rex: even when it would be empty */
	bool vex, l256;
	bool evex;    /* reg, rm and vvvv may be 16 to 31 then */
	uint8_t z_ll_b_aaa; /* EVEX: its last byte, V' left out */
	uint8_t vvvv;
	uint8_t kind; /* enum emit_rm */
	uint8_t reg, rm, index, scale;
	uint8_t imm_len;
	int32_t disp;
	uint64_t imm;
	const void *target;
};

void emit_op(struct emit *e, const struct emit_op *op);
void emit_byte(struct emit *e, uint8_t v);
void emit_u32(struct emit *e, uint32_t v);

#define EMIT(e, ...) emit_op(e, &(struct emit_op){ __VA_ARGS__ })

/* Jumps: the position of the 32-bit displacement is returned, to be set by emit_patch(). */
uint8_t *emit_jcc(struct emit *e, unsigned cc);
uint8_t *emit_jmp(struct emit *e);
/* The next jump or call, of @opcode bytes before its displacement, may be patched by emit_patch_live(): prefixes
 * that mean nothing push the displacement into one aligned quadword. */
void emit_align_site(struct emit *e, unsigned opcode);
/* Let the displacement at @site lead to @to (both in the writable mapping). */
void emit_patch(uint8_t *site, const uint8_t *to);
/*
 * The same, and @len bytes at @at, while other processors may be executing them: one store to the aligned
 * quadword in which all of them lie. Who fetches instructions gets it as a whole (AMD APM vol. 2, 7.6.1;
 * Intel's manual promises it for data, vol. 3, 9.1.1, and wants more for code, 9.1.3, but translators have
 * always relied on it). Bytes beside them may be written by others.
 */
void emit_patch_live(uint8_t *site, const uint8_t *to);
void emit_live(uint8_t *at, const void *bytes, unsigned len);
static inline void emit_patch_here(struct emit *e, uint8_t *site)
{
	if (!e->full)
		emit_patch(site, e->p);
}
void emit_jmp_to(struct emit *e, const uint8_t *to);
void emit_jcc_to(struct emit *e, unsigned cc, const uint8_t *to);
void emit_call_to(struct emit *e, const uint8_t *to);
uint8_t *emit_call(struct emit *e);

/* Often used; 64-bit unless the name says 32. */
void emit_mov_rr(struct emit *e, unsigned to, unsigned from);
void emit_load_gs(struct emit *e, unsigned reg, int32_t off);
void emit_load_gs32(struct emit *e, unsigned reg, int32_t off);
void emit_store_gs(struct emit *e, int32_t off, unsigned reg);
void emit_lea(struct emit *e, unsigned to, unsigned base, int32_t disp);
void emit_lea_rip(struct emit *e, unsigned to, const void *target);
void emit_mov_imm32(struct emit *e, unsigned reg, uint32_t v); /* zero-extended */
void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t v);

#define CC_O  0u
#define CC_B  2u
#define CC_AE 3u
#define CC_E  4u
#define CC_NE 5u
#define CC_BE 6u
#define CC_A  7u
