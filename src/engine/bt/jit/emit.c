// SPDX-License-Identifier: Apache-2.0
/* emit.c - the encoder. */
#include "engine/bt/jit/emit.h"

#include <string.h>

#define EMIT_MAX 32 /* no instruction is longer */

static bool emit_room(struct emit *e)
{
	if (e->end - e->p < EMIT_MAX)
		e->full = true;
	return !e->full;
}

void emit_byte(struct emit *e, uint8_t v)
{
	if (emit_room(e))
		*e->p++ = v;
}

static void emit_n(struct emit *e, uint64_t v, unsigned n)
{
	memcpy(e->p, &v, n);
	e->p += n;
}

void emit_u32(struct emit *e, uint32_t v)
{
	if (emit_room(e))
		emit_n(e, v, 4);
}

static void emit_vex(struct emit *e, const struct emit_op *op, unsigned r, unsigned x, unsigned b)
{
	unsigned pp = op->p66 ? 1 : op->rep == 0xf3 ? 2 : op->rep ? 3 : 0;

	*e->p++ = 0xc4;
	*e->p++ = (uint8_t)(!r << 7 | !x << 6 | !b << 5 | op->map);
	*e->p++ = (uint8_t)(op->w << 7 | (~op->vvvv & 15) << 3 | op->l256 << 2 | pp);
	*e->p++ = op->opcode;
}

/* SDM vol. 2, 2.7.1. */
static void emit_evex(struct emit *e, const struct emit_op *op, unsigned r, unsigned x, unsigned b)
{
	unsigned pp = op->p66 ? 1 : op->rep == 0xf3 ? 2 : op->rep ? 3 : 0;

	if (op->kind == EMIT_REG)
		x = op->rm >> 4 & 1;
	*e->p++ = 0x62;
	*e->p++ = (uint8_t)(!r << 7 | !x << 6 | !b << 5 | !(op->reg >> 4 & 1) << 4 | op->map);
	*e->p++ = (uint8_t)(op->w << 7 | (~op->vvvv & 15) << 3 | 4 | pp);
	*e->p++ = (uint8_t)(op->z_ll_b_aaa | !(op->vvvv >> 4 & 1) << 3);
	*e->p++ = op->opcode;
}

static void emit_legacy(struct emit *e, const struct emit_op *op, unsigned r, unsigned x,
			unsigned b)
{
	unsigned rex = (unsigned)op->w << 3 | r << 2 | x << 1 | b;

	if (op->lock)
		*e->p++ = 0xf0;
	if (op->p66)
		*e->p++ = 0x66;
	if (op->rep)
		*e->p++ = op->rep;
	if (rex || op->rex)
		*e->p++ = (uint8_t)(0x40 | rex);
	if (op->map)
		*e->p++ = 0x0f;
	if (op->map > 1)
		*e->p++ = op->map == 2 ? 0x38 : 0x3a;
	*e->p++ = op->opcode;
}

/* [base + index << scale + disp], SDM vol. 2, tables 2-2 and 2-3. */
static void emit_address(struct emit *e, const struct emit_op *op, unsigned index)
{
	unsigned reg = (op->reg & 7u) << 3;
	/* A displacement of one byte would count in sizes of the operand with EVEX. */
	unsigned mod = op->disp == (int8_t)op->disp && !op->evex ? 1 : 2;

	if (op->rm == H_NONE) {
		*e->p++ = (uint8_t)(reg | 4);
		*e->p++ = (uint8_t)(op->scale << 6 | (index == H_NONE ? 4 : index & 7) << 3 | 5);
		emit_n(e, (uint32_t)op->disp, 4);
		return;
	}
	if (!op->disp && (op->rm & 7) != 5)
		mod = 0;
	if (index != H_NONE || (op->rm & 7) == 4) {
		*e->p++ = (uint8_t)(mod << 6 | reg | 4);
		*e->p++ = (uint8_t)(op->scale << 6 | (index == H_NONE ? 4 : index & 7) << 3 |
				    (op->rm & 7));
	} else {
		*e->p++ = (uint8_t)(mod << 6 | reg | (op->rm & 7));
	}
	if (mod)
		emit_n(e, (uint32_t)op->disp, mod == 1 ? 1 : 4);
}

void emit_op(struct emit *e, const struct emit_op *op)
{
	bool table = op->kind == EMIT_GS_INDEX;
	unsigned index = op->kind == EMIT_MEM || table ? op->index : H_NONE;
	unsigned rm = op->kind == EMIT_NO_MODRM || op->kind == EMIT_RIP ? 0 : op->rm;
	unsigned r = op->reg >> 3 & 1, x = index != H_NONE ? index >> 3 & 1 : 0;
	unsigned b = rm != H_NONE ? rm >> 3 & 1 : 0;

	/* Without ModRM, rm is the register in the opcode. */
	if (op->kind == EMIT_NO_MODRM) {
		r = 0;
		b = op->rm >> 3 & 1;
	}
	if (!emit_room(e))
		return;
	if (op->kind == EMIT_GS || table)
		*e->p++ = 0x65;
	if (op->evex)
		emit_evex(e, op, r, x, b);
	else if (op->vex)
		emit_vex(e, op, r, x, b);
	else
		emit_legacy(e, op, r, x, b);
	if (op->kind == EMIT_REG) {
		*e->p++ = (uint8_t)(0xc0 | (op->reg & 7) << 3 | (op->rm & 7));
	} else if (op->kind == EMIT_MEM || op->kind == EMIT_GS || table) {
		emit_address(e, op, index);
	} else if (op->kind == EMIT_RIP) {
		int64_t from;

		*e->p++ = (uint8_t)((op->reg & 7) << 3 | 5);
		from = (int64_t)(uintptr_t)e->p + e->to_exec + 4 + op->imm_len;
		emit_n(e, (uint32_t)((int64_t)(uintptr_t)op->target - from), 4);
	}
	emit_n(e, op->imm, op->imm_len);
}

static uint8_t *emit_rel32(struct emit *e)
{
	uint8_t *site = e->p;

	emit_n(e, 0, 4);
	return site;
}

uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
	if (!emit_room(e))
		return e->p;
	*e->p++ = 0x0f;
	*e->p++ = (uint8_t)(0x80 | cc);
	return emit_rel32(e);
}

uint8_t *emit_jmp(struct emit *e)
{
	if (!emit_room(e))
		return e->p;
	*e->p++ = 0xe9;
	return emit_rel32(e);
}

void emit_patch(uint8_t *site, const uint8_t *to)
{
	int32_t rel = (int32_t)(to - (site + 4));

	memcpy(site, &rel, 4);
}

void emit_align_site(struct emit *e, unsigned opcode)
{
	unsigned at = (unsigned)((uintptr_t)e->p + opcode) & 7;

	for (; at > 4 && at < 8; at++)
		emit_byte(e, 0x2e);
}

void emit_live(uint8_t *at, const void *bytes, unsigned len)
{
	unsigned off = (uintptr_t)at & 7;
	uint64_t *word = (uint64_t *)(void *)(at - off);
	uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED), v;

	do {
		v = old;
		memcpy((uint8_t *)&v + off, bytes, len);
	} while (!__atomic_compare_exchange_n(word, &old, v, false, __ATOMIC_RELEASE,
					      __ATOMIC_RELAXED));
}

void emit_patch_live(uint8_t *site, const uint8_t *to)
{
	int32_t rel = (int32_t)(to - (site + 4));

	emit_live(site, &rel, 4);
}

void emit_jmp_to(struct emit *e, const uint8_t *to)
{
	uint8_t *site = emit_jmp(e);

	if (!e->full)
		emit_patch(site, to);
}

void emit_jcc_to(struct emit *e, unsigned cc, const uint8_t *to)
{
	uint8_t *site = emit_jcc(e, cc);

	if (!e->full)
		emit_patch(site, to);
}

uint8_t *emit_call(struct emit *e)
{
	if (!emit_room(e))
		return e->p;
	*e->p++ = 0xe8;
	return emit_rel32(e);
}

void emit_call_to(struct emit *e, const uint8_t *to)
{
	uint8_t *site = emit_call(e);

	if (!e->full)
		emit_patch(site, to);
}

void emit_mov_rr(struct emit *e, unsigned to, unsigned from)
{
	if (to != from)
		EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_REG, .reg = (uint8_t)from,
		     .rm = (uint8_t)to);
}

void emit_load_gs(struct emit *e, unsigned reg, int32_t off)
{
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_GS, .reg = (uint8_t)reg, .rm = H_NONE,
	     .disp = off);
}

void emit_load_gs32(struct emit *e, unsigned reg, int32_t off)
{
	EMIT(e, .opcode = 0x8b, .kind = EMIT_GS, .reg = (uint8_t)reg, .rm = H_NONE, .disp = off);
}

void emit_store_gs(struct emit *e, int32_t off, unsigned reg)
{
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_GS, .reg = (uint8_t)reg, .rm = H_NONE,
	     .disp = off);
}

void emit_lea(struct emit *e, unsigned to, unsigned base, int32_t disp)
{
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)to,
	     .rm = (uint8_t)base, .index = H_NONE, .disp = disp);
}

void emit_lea_rip(struct emit *e, unsigned to, const void *target)
{
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_RIP, .reg = (uint8_t)to, .target = target);
}

void emit_mov_imm32(struct emit *e, unsigned reg, uint32_t v)
{
	EMIT(e, .opcode = (uint8_t)(0xb8 | (reg & 7)), .kind = EMIT_NO_MODRM, .rm = (uint8_t)reg,
	     .imm = v, .imm_len = 4);
}

void emit_mov_imm64(struct emit *e, unsigned reg, uint64_t v)
{
	if (v == (uint32_t)v)
		emit_mov_imm32(e, reg, (uint32_t)v);
	else
		EMIT(e, .opcode = (uint8_t)(0xb8 | (reg & 7)), .w = true, .kind = EMIT_NO_MODRM,
		     .rm = (uint8_t)reg, .imm = v, .imm_len = 8);
}
