// SPDX-License-Identifier: Apache-2.0
/* translate.c - from a decoded block to native code, in one pass. See jit.h for how it works. */
#include <string.h>

#include "engine/bt/describe.h"
#include "engine/bt/jit_int.h"

#define BT_JIT_SLOW 160u
/* No block needs more, slow paths included. */
#define BT_JIT_BLOCK_MAX (16u << 10)

struct slow_path {
	uint8_t *site;
	uint8_t insn;
};

struct tr {
	struct emit e;
	struct bt_vcpu *vcpu;
	struct bt_block *block;
	struct jit_desc desc[BT_BLOCK_INSNS];
	uint32_t live[BT_BLOCK_INSNS + 1]; /* flags that matter before each instruction */
	uint32_t next_off[BT_BLOCK_INSNS]; /* of the next instruction, in the page of RIP */
	uint8_t *resume[BT_BLOCK_INSNS];   /* NULL: nothing is to follow */
	bool in_host, in_mem;		   /* where the flags are */
	bool failed;
	unsigned slow_count;
	struct slow_path slow[BT_JIT_SLOW];
	struct {
		uint8_t *site;
		int64_t off;
		bool used, save;
	} exit[2];
	uint8_t *request, *stale, *vector, *vector_back;
};

/* ---- flags ---- */

/* Code that follows changes the host's flags. */
static void flags_spoil(struct tr *t, unsigned i)
{
	if (t->in_host && !t->in_mem && t->live[i]) {
		jit_emit_flags_save(&t->e);
		t->in_mem = true;
	}
	t->in_host = false;
}

/* The instruction reads flags, or leaves some as they were. */
static void flags_want(struct tr *t, unsigned i)
{
	const struct jit_desc *d = &t->desc[i];

	uint32_t need = d->fr | (d->fm ? t->live[i + 1] & ~d->fw : 0);

	if (!need || t->in_host)
		return;
	jit_emit_flags_restore(&t->e);
	t->in_host = true;
}

static void flags_written(struct tr *t, unsigned i)
{
	if (t->desc[i].fm) {
		t->in_host = true;
		t->in_mem = false;
	}
}

/* ---- slow paths ---- */

static void slow_at(struct tr *t, unsigned i, uint8_t *site)
{
	if (t->slow_count == BT_JIT_SLOW) {
		t->failed = true;
		return;
	}
	t->slow[t->slow_count++] = (struct slow_path){ .site = site, .insn = (uint8_t)i };
}

static void slow_if(struct tr *t, unsigned i, unsigned cc)
{
	slow_at(t, i, emit_jcc(&t->e, cc));
}

static void emit_handler(struct tr *t, unsigned i)
{
	emit_lea_rip(&t->e, T_ADDR, &t->block->insn[i]);
	emit_lea_rip(&t->e, T_1, t->block);
	emit_mov_imm32(&t->e, T_2, t->next_off[i]);
	emit_call_to(&t->e, t->vcpu->jit.call);
}

static void tr_handler(struct tr *t, unsigned i)
{
	flags_spoil(t, i);
	emit_handler(t, i);
	t->in_host = t->in_mem = true;
}

/* ---- memory ---- */

/* T_ADDR = @guest register, or a host register that holds it already. */
static unsigned address_reg(struct tr *t, unsigned guest, unsigned scratch)
{
	unsigned h = host_of(guest);

	if (h != H_NONE)
		return h;
	emit_load_gs(&t->e, scratch, GS_GPR(guest));
	return scratch;
}

/* LEA @to with the operand's address, segment left out. Spoils T_ADDR and T_1. */
static void emit_ea(struct tr *t, unsigned i, unsigned to, bool wide)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned base = H_NONE, index = H_NONE;
	int64_t disp = insn->disp;

	if (insn->base == X86_REG_RIP) {
		base = T_ADDR;
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.rip_page));
		disp += t->next_off[i];
		if (disp != (int32_t)disp)
			t->failed = true;
	} else if (insn->base != X86_NO_REG) {
		base = address_reg(t, insn->base, T_ADDR);
	}
	if (insn->index != X86_NO_REG)
		index = address_reg(t, insn->index, T_1);
	if (wide && index == H_NONE && !disp && base != H_NONE) {
		emit_mov_rr(&t->e, to, base);
		return;
	}
	EMIT(&t->e, .opcode = 0x8d, .w = wide, .kind = EMIT_MEM, .reg = (uint8_t)to,
	     .rm = (uint8_t)base, .index = (uint8_t)index, .scale = insn->scale,
	     .disp = (int32_t)disp);
}

/* Group 1 with an immediate of 32 bits. */
static void emit_alu_imm(struct emit *e, unsigned op, bool wide, unsigned reg, int32_t v)
{
	bool byte = v == (int8_t)v;

	EMIT(e, .opcode = byte ? 0x83 : 0x81, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)op,
	     .rm = (uint8_t)reg, .imm = (uint32_t)v, .imm_len = byte ? 1 : 4);
}

static void emit_shr(struct emit *e, bool wide, unsigned reg, uint8_t n)
{
	EMIT(e, .opcode = 0xc1, .w = wide, .kind = EMIT_REG, .reg = 5, .rm = (uint8_t)reg, .imm = n,
	     .imm_len = 1);
}

#define ALU_ADD 0u
#define ALU_AND 4u
#define ALU_CMP 7u

_Static_assert(sizeof(struct x86_tlb_entry) == 32, "the shift below");

/*
 * T_ADDR: linear address on entry, host address behind. The tag is made by adding the TLB's generation,
 * so that low bits left in by @align can never come out as a valid tag. Spoils T_1, T_2 and flags.
 */
static void emit_tlb(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	struct emit *e = &t->e;

	emit_mov_rr(e, T_1, T_ADDR);
	emit_shr(e, false, T_1, 7);
	emit_alu_imm(e, ALU_AND, false, T_1, (X86_TLB_SIZE - 1) << 5);
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = (int32_t)offsetof(struct x86_cpu, tlb_table));
	if (align > 1 || len == 1)
		emit_mov_rr(e, T_2, T_ADDR);
	else
		emit_lea(e, T_2, T_ADDR, (int32_t)len - 1);
	emit_alu_imm(e, ALU_AND, true, T_2, (int32_t)(0xfffff000u | (align - 1)));
	EMIT(e, .opcode = 0x03, .p66 = true, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE,
	     .disp = (int32_t)offsetof(struct x86_cpu, tlb_gen));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_MEM, .reg = T_2, .rm = T_1, .index = H_NONE,
	     .disp = write ? (int32_t)offsetof(struct x86_tlb_entry, write_tag) :
			     (int32_t)offsetof(struct x86_tlb_entry, read_tag));
	slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_MEM, .reg = T_ADDR, .rm = T_1,
	     .index = H_NONE, .disp = (int32_t)offsetof(struct x86_tlb_entry, addend));
}

/* T_ADDR = host address of the memory operand. */
static void emit_operand(struct tr *t, unsigned i, unsigned len, unsigned align, bool write)
{
	const struct x86_insn *insn = &t->block->insn[i];

	flags_spoil(t, i);
	emit_ea(t, i, T_ADDR, true);
	if (insn->seg >= X86_FS)
		EMIT(&t->e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = H_NONE,
		     .disp = (int32_t)(offsetof(struct x86_cpu, s.seg) +
				       insn->seg * sizeof(struct x86_segment) +
				       offsetof(struct x86_segment, base)));
	emit_tlb(t, i, len, align, write);
}

/* T_ADDR = host address of @disp from the stack pointer, or from @base. */
static void emit_stack(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write)
{
	flags_spoil(t, i);
	if (disp)
		emit_lea(&t->e, T_ADDR, base, disp);
	else
		emit_mov_rr(&t->e, T_ADDR, base);
	emit_tlb(t, i, 8, 1, write);
}

static void emit_load_mem(struct emit *e, unsigned reg, unsigned base)
{
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = (uint8_t)base,
	     .index = H_NONE);
}

static void emit_store_mem(struct emit *e, unsigned base, unsigned reg)
{
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = (uint8_t)base,
	     .index = H_NONE);
}

/* A general register of the guest, in a host register. */
static unsigned value_reg(struct tr *t, unsigned guest, unsigned scratch)
{
	return address_reg(t, guest, scratch);
}

/* ---- instructions whose operands are renamed ---- */

static bool is_high(unsigned reg8)
{
	return reg8 & 7;
}

/* AH CH DH BH can be named only without REX: by registers that need none. */
static bool high_bytes_fit(const struct x86_insn *insn, const struct jit_desc *d)
{
	bool high_reg = d->reg_use && d->byte_reg && is_high(insn->reg8);
	bool high_rm = !(insn->flags & X86_INSN_MEM) && d->byte_rm && is_high(insn->rm8);
	unsigned reg = d->byte_reg ? insn->reg8 >> 3 : insn->reg;
	unsigned rm = d->byte_rm ? insn->rm8 >> 3 : insn->rm;

	if (!high_reg && !high_rm)
		return true;
	if (insn->flags & X86_INSN_MEM || insn->opsize == 8)
		return false;
	if (d->reg_use && (reg >= (d->byte_reg ? 4 : 8) || reg == X86_RSP))
		return false;
	return rm < (d->byte_rm ? 4 : 8) && rm != X86_RSP;
}

/* A byte register that needs REX to be named. */
static bool needs_rex(unsigned host)
{
	return host >= 4;
}

static bool copies_from_cpu(const struct x86_insn *insn, const struct jit_desc *d)
{
	/* XCHG would lock; BT and its kin address beyond the operand. */
	if (insn->map == 0 && (insn->opcode & 0xfe) == 0x86)
		return false;
	if (insn->map == 1 && (insn->opcode & 0xe7) == 0xa3)
		return false;
	if (d->reg_use & JIT_W && d->rm_use & JIT_W) /* XADD: the order of results matters */
		return false;
	return !(d->rm_use & JIT_W) || (insn->opsize == 8 && !d->vec);
}

static void name_opcode(const struct x86_insn *insn, const struct jit_desc *d, struct emit_op *op)
{
	op->map = insn->map;
	op->opcode = insn->opcode;
	op->imm = insn->imm;
	op->imm_len = d->imm_len;
	op->lock = insn->flags & X86_INSN_LOCK;
	if (insn->flags & X86_INSN_VEX) {
		op->vex = true;
		op->w = insn->flags & X86_INSN_W;
		op->l256 = insn->vl == 32;
		op->p66 = d->vex_pp == 1;
		op->rep = d->vex_pp == 2 ? 0xf3 : d->vex_pp == 3 ? 0xf2 : 0;
		op->vvvv = insn->vvvv;
		return;
	}
	op->w = insn->opsize == 8;
	op->p66 = insn->opsize == 2;
	if (d->prefix) {
		op->w = insn->flags & X86_INSN_W;
		op->p66 = insn->flags & X86_INSN_OPSIZE;
		/* F2 and F3 outrank 66; where both count the operand size is 2. */
		if (d->vec && insn->flags & (X86_INSN_REP | X86_INSN_REPNE))
			op->p66 = false;
		op->rep = insn->flags & X86_INSN_REP ? 0xf3 : insn->flags & X86_INSN_REPNE ? 0xf2 : 0;
	}
}

/* The register in ModRM.reg. Returns the guest register to be stored behind, or H_NONE. */
static unsigned name_reg(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned guest = d->byte_reg ? insn->reg8 >> 3 : insn->reg;
	unsigned host = host_of(guest);

	if (!d->reg_use) {
		op->reg = insn->reg;
		return H_NONE;
	}
	if (d->byte_reg && is_high(insn->reg8)) {
		op->reg = (uint8_t)(guest + 4);
		return H_NONE;
	}
	if (host == H_NONE) {
		host = T_1;
		if (d->reg_use & JIT_R || insn->opsize < 4)
			emit_load_gs(&t->e, T_1, GS_GPR(guest));
	} else {
		guest = H_NONE;
	}
	op->reg = (uint8_t)host;
	op->rex |= d->byte_reg && needs_rex(host);
	return d->reg_use & JIT_W ? guest : H_NONE;
}

static unsigned name_rm(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned guest = d->byte_rm ? insn->rm8 >> 3 : insn->rm;
	unsigned host = host_of(guest);

	if (insn->flags & X86_INSN_MEM) {
		op->kind = EMIT_MEM;
		op->rm = T_ADDR;
		op->index = H_NONE;
		return H_NONE;
	}
	op->kind = EMIT_REG;
	if (!d->rm_use || d->vec_rm) { /* no general register */
		op->rm = insn->rm;
		return H_NONE;
	}
	if (d->byte_rm && is_high(insn->rm8)) {
		op->rm = (uint8_t)(guest + 4);
		return H_NONE;
	}
	if (host == H_NONE && copies_from_cpu(insn, d)) {
		op->kind = EMIT_GS;
		op->rm = H_NONE;
		op->disp = GS_GPR(guest);
		return H_NONE;
	}
	if (host == H_NONE) {
		host = T_2;
		if (d->rm_use & JIT_R || insn->opsize < 4 || d->byte_rm)
			emit_load_gs(&t->e, T_2, GS_GPR(guest));
	} else {
		guest = H_NONE;
	}
	op->rm = (uint8_t)host;
	op->rex |= d->byte_rm && needs_rex(host);
	return d->rm_use & JIT_W ? guest : H_NONE;
}

static unsigned name_vvvv(struct tr *t, unsigned i, struct emit_op *op)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned host = host_of(insn->vvvv);
	/* T_ADDR is in use by a memory operand, T_2 by a register one. */
	unsigned scratch = insn->flags & X86_INSN_MEM ? T_2 : T_ADDR;

	if (!d->vvvv_use)
		return H_NONE;
	op->vvvv = (uint8_t)(host == H_NONE ? scratch : host);
	if (host == H_NONE && d->vvvv_use & JIT_R)
		emit_load_gs(&t->e, scratch, GS_GPR(insn->vvvv));
	return host == H_NONE && d->vvvv_use & JIT_W ? insn->vvvv : H_NONE;
}

static void tr_copy(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	unsigned store_reg = H_NONE, store_rm = H_NONE, store_vvvv = H_NONE;
	struct emit_op op = { 0 };

	if (insn->flags & X86_INSN_MEM)
		emit_operand(t, i, d->mem_len, d->mem_align, d->rm_use & JIT_W);
	flags_want(t, i);
	name_opcode(insn, d, &op);
	if (insn->flags & X86_INSN_MODRM) {
		store_rm = name_rm(t, i, &op);
		store_reg = name_reg(t, i, &op);
		store_vvvv = name_vvvv(t, i, &op);
	}
	emit_op(&t->e, &op);
	if (store_vvvv != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_vvvv), op.vvvv);
	/* Where two results go to one register, MULX leaves the upper half and XADD the sum. */
	if (store_reg != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_reg), T_1);
	if (store_rm != H_NONE)
		emit_store_gs(&t->e, GS_GPR(store_rm), T_2);
	flags_written(t, i);
}

/* ---- the others ---- */

static void tr_lea(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned to = host_of(insn->reg);

	emit_ea(t, i, to == H_NONE ? T_ADDR : to, insn->opsize == 8);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->reg), T_ADDR);
}

static void tr_mov_imm(struct tr *t, const struct x86_insn *insn)
{
	unsigned to = host_of(insn->rm), reg = to == H_NONE ? T_1 : to;

	emit_mov_imm64(&t->e, reg, insn->opsize == 8 ? insn->imm : (uint32_t)insn->imm);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->rm), reg);
}

static void tr_xchg_ax(struct tr *t, const struct x86_insn *insn)
{
	unsigned reg = value_reg(t, insn->rm, T_1);

	EMIT(&t->e, .opcode = 0x87, .w = insn->opsize == 8, .p66 = insn->opsize == 2,
	     .kind = EMIT_REG, .reg = H_RAX, .rm = (uint8_t)reg);
	if (reg == T_1)
		emit_store_gs(&t->e, GS_GPR(insn->rm), T_1);
}

static void tr_bswap(struct tr *t, const struct x86_insn *insn)
{
	unsigned reg = value_reg(t, insn->rm, T_1);

	EMIT(&t->e, .map = 1, .opcode = (uint8_t)(0xc8 | (reg & 7)), .w = insn->opsize == 8,
	     .kind = EMIT_NO_MODRM, .rm = (uint8_t)reg);
	if (reg == T_1)
		emit_store_gs(&t->e, GS_GPR(insn->rm), T_1);
}

static void tr_push(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned kind = t->desc[i].kind;

	if (kind == JIT_PUSH_MEM) {
		emit_operand(t, i, 8, 1, false);
		emit_load_mem(&t->e, T_ADDR, T_ADDR);
		emit_store_gs(&t->e, GS_VCPU(jit.tmp), T_ADDR);
	}
	emit_stack(t, i, HOST_SP, -8, true);
	if (kind == JIT_PUSH_IMM) {
		EMIT(&t->e, .opcode = 0xc7, .w = true, .kind = EMIT_MEM, .rm = T_ADDR,
		     .index = H_NONE, .imm = insn->imm, .imm_len = 4);
	} else if (kind == JIT_PUSH_MEM) {
		emit_load_gs(&t->e, T_1, GS_VCPU(jit.tmp));
		emit_store_mem(&t->e, T_ADDR, T_1);
	} else {
		emit_store_mem(&t->e, T_ADDR, value_reg(t, insn->rm, T_1));
	}
	emit_lea(&t->e, HOST_SP, HOST_SP, -8);
}

static void tr_pop(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned to = host_of(insn->rm), reg = to == H_NONE ? T_1 : to;

	emit_stack(t, i, HOST_SP, 0, false);
	emit_load_mem(&t->e, reg, T_ADDR);
	if (reg != HOST_SP) /* POP RSP keeps what was popped */
		emit_lea(&t->e, HOST_SP, HOST_SP, 8);
	if (to == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->rm), reg);
}

static void tr_leave(struct tr *t, unsigned i)
{
	emit_stack(t, i, H_RBP, 0, false);
	emit_lea(&t->e, HOST_SP, H_RBP, 8);
	emit_load_mem(&t->e, H_RBP, T_ADDR);
}

/*
 * The host must not raise #DE. DIV does not when the upper half is below the divisor; IDIV does not when
 * the dividend fits its lower half and the divisor is neither 0 nor -1. The handler does the rest.
 */
static void tr_div(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	bool w = insn->opsize == 8;
	struct emit *e = &t->e;
	unsigned by;

	if (insn->flags & X86_INSN_MEM) {
		emit_operand(t, i, insn->opsize, 1, false);
		by = T_2;
		EMIT(e, .opcode = 0x8b, .w = w, .kind = EMIT_MEM, .reg = T_2, .rm = T_ADDR,
		     .index = H_NONE);
	} else {
		flags_spoil(t, i);
		by = value_reg(t, insn->rm, T_2);
	}
	if (t->desc[i].kind == JIT_DIV) {
		EMIT(e, .opcode = 0x39, .w = w, .kind = EMIT_REG, .reg = (uint8_t)by, .rm = H_RDX);
		slow_if(t, i, CC_AE);
	} else {
		EMIT(e, .opcode = 0x89, .w = w, .kind = EMIT_REG, .reg = H_RAX, .rm = T_1);
		EMIT(e, .opcode = 0xc1, .w = w, .kind = EMIT_REG, .reg = 7, .rm = T_1,
		     .imm = w ? 63 : 31, .imm_len = 1);
		EMIT(e, .opcode = 0x39, .w = w, .kind = EMIT_REG, .reg = T_1, .rm = H_RDX);
		slow_if(t, i, CC_NE);
		EMIT(e, .opcode = 0x8d, .w = w, .kind = EMIT_MEM, .reg = T_1, .rm = (uint8_t)by,
		     .index = H_NONE, .disp = 1);
		EMIT(e, .opcode = 0x83, .w = w, .kind = EMIT_REG, .reg = 7, .rm = T_1, .imm = 1,
		     .imm_len = 1);
		slow_if(t, i, CC_BE);
	}
	EMIT(e, .opcode = 0xf7, .w = w, .kind = EMIT_REG, .reg = t->desc[i].kind == JIT_DIV ? 6 : 7,
	     .rm = (uint8_t)by);
	flags_written(t, i);
}

/* ---- ways out ---- */

/* The exit's jump is emitted here, or was at @site; what it leads to follows in finish_exit(). */
static void exit_at(struct tr *t, unsigned n, uint8_t *site, int64_t off)
{
	t->exit[n].site = site;
	t->exit[n].off = off;
	t->exit[n].used = true;
	t->exit[n].save = t->in_host && !t->in_mem;
}

static uint32_t code_offset(const struct tr *t, const uint8_t *p)
{
	return (uint32_t)(p - t->vcpu->jit.code);
}

/* In front of a link to another page: it must be the same page of RIP and the same context as when
 * it was made. Returns the jump to be linked. */
static uint8_t *emit_cross(struct tr *t, struct bt_exit *exit, uint8_t *miss[2])
{
	struct emit *e = &t->e;
	uint8_t *site;

	emit_load_gs(e, T_ADDR, GS_VCPU(jit.rip_page));
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_RIP, .reg = T_ADDR, .target = &exit->from_page);
	miss[0] = emit_jcc(e, CC_NE);
	emit_load_gs32(e, T_1, GS_VCPU(epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_RIP, .reg = T_1, .target = &exit->epoch);
	miss[1] = emit_jcc(e, CC_NE);
	emit_lea(e, T_ADDR, T_ADDR, (int32_t)(exit->off & ~(int64_t)0xfff));
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
	site = emit_jmp(e);
	return site;
}

static void finish_exit(struct tr *t, unsigned n)
{
	struct bt_exit *exit = &t->block->exit[n];
	int64_t off = t->exit[n].off;
	uint8_t *miss[2];

	*exit = (struct bt_exit){ .off = off };
	if (!t->exit[n].used)
		return;
	exit->cross = (uint64_t)off > 0xfff;
	exit->host_flags = t->exit[n].save && !exit->cross;
	emit_patch_here(&t->e, t->exit[n].site);
	if (t->exit[n].save)
		jit_emit_flags_save(&t->e);
	if (!exit->cross) {
		exit->site = code_offset(t, t->exit[n].site);
	} else if (off == (int32_t)off) {
		uint8_t *site = emit_cross(t, exit, miss);

		exit->site = code_offset(t, site);
		emit_patch_here(&t->e, site);
		emit_patch_here(&t->e, miss[0]);
		emit_patch_here(&t->e, miss[1]);
	}
	emit_lea_rip(&t->e, T_1, exit);
	emit_jmp_to(&t->e, t->vcpu->jit.leave_link);
}

/* To @off, which ends the block. */
static void tr_exit(struct tr *t, unsigned n, int64_t off)
{
	exit_at(t, n, emit_jmp(&t->e), off);
}

static int64_t target_of(const struct tr *t, unsigned i)
{
	return (int64_t)t->next_off[i] + (int64_t)t->block->insn[i].imm;
}

static void tr_jcc(struct tr *t, unsigned i)
{
	flags_want(t, i);
	exit_at(t, 0, emit_jcc(&t->e, t->block->insn[i].opcode & 15), target_of(t, i));
	tr_exit(t, 1, t->next_off[i]);
}

/* T_ADDR: where to. On a hit the stack pointer moves by @pop, and a call writes its return address to
 * jit.tmp_host; else the handler does it all. */
static void emit_indirect(struct tr *t, unsigned i, int32_t pop, bool call)
{
	const int32_t map = GS_VCPU(jit.map);
	struct emit *e = &t->e;

	emit_mov_rr(e, T_1, T_ADDR);
	emit_shr(e, true, T_1, 12);
	EMIT(e, .opcode = 0x31, .kind = EMIT_REG, .reg = T_ADDR, .rm = T_1);
	emit_alu_imm(e, ALU_AND, false, T_1, (1 << BT_JIT_MAP_BITS) - 1);
	EMIT(e, .opcode = 0xc1, .kind = EMIT_REG, .reg = 4, .rm = T_1, .imm = 4, .imm_len = 1);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, rip));
	slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0x8b, .kind = EMIT_GS, .reg = T_2, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE, .disp = GS_VCPU(epoch));
	slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0x8b, .kind = EMIT_GS, .reg = T_1, .rm = T_1,
	     .disp = map + (int32_t)offsetof(struct bt_jit_target, code));
	if (call) {
		emit_load_gs(e, T_ADDR, GS_VCPU(jit.tmp_host));
		emit_load_gs(e, T_2, GS_VCPU(jit.rip_page));
		emit_lea(e, T_2, T_2, (int32_t)t->next_off[i]);
		emit_store_mem(e, T_ADDR, T_2);
		emit_load_gs(e, T_ADDR, GS_VCPU(jit.tmp));
	}
	if (pop)
		emit_lea(e, HOST_SP, HOST_SP, pop);
	emit_alu_imm(e, ALU_AND, true, T_ADDR, -4096);
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
	emit_lea_rip(e, T_2, t->vcpu->jit.exec);
	EMIT(e, .opcode = 0x01, .w = true, .kind = EMIT_REG, .reg = T_2, .rm = T_1);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
}

/* [T_ADDR] = RIP of the next instruction. */
static void emit_return_address(struct tr *t, unsigned i)
{
	emit_load_gs(&t->e, T_1, GS_VCPU(jit.rip_page));
	emit_lea(&t->e, T_1, T_1, (int32_t)t->next_off[i]);
	emit_store_mem(&t->e, T_ADDR, T_1);
}

static void tr_call(struct tr *t, unsigned i)
{
	emit_stack(t, i, HOST_SP, -8, true);
	emit_return_address(t, i);
	emit_lea(&t->e, HOST_SP, HOST_SP, -8);
	tr_exit(t, 0, target_of(t, i));
}

static void tr_ret(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	emit_stack(t, i, HOST_SP, 0, false);
	emit_load_mem(&t->e, T_ADDR, T_ADDR);
	emit_indirect(t, i, 8 + (insn->opcode == 0xc2 ? (uint16_t)insn->imm : 0), false);
}

static void tr_indirect(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned kind = t->desc[i].kind;
	bool call = kind == JIT_CALL_REG || kind == JIT_CALL_MEM;

	flags_spoil(t, i);
	if (insn->flags & X86_INSN_MEM) {
		emit_operand(t, i, 8, 1, false);
		emit_load_mem(&t->e, T_ADDR, T_ADDR);
	} else {
		emit_mov_rr(&t->e, T_ADDR, value_reg(t, insn->rm, T_ADDR));
	}
	if (call) {
		emit_store_gs(&t->e, GS_VCPU(jit.tmp), T_ADDR);
		emit_stack(t, i, HOST_SP, -8, true);
		emit_store_gs(&t->e, GS_VCPU(jit.tmp_host), T_ADDR);
		emit_load_gs(&t->e, T_ADDR, GS_VCPU(jit.tmp));
	}
	emit_indirect(t, i, call ? -8 : 0, call);
}

/* ---- a block ---- */

static void analyse(struct tr *t)
{
	const struct bt_block *block = t->block;
	const uint8_t *bytes = block->bytes;
	uint32_t off = block->gpa & 0xfff, live = X86_FL_STATUS;

	for (unsigned i = 0; i < block->count; i++) {
		jit_describe(&block->insn[i], bytes, &t->desc[i]);
		if (t->desc[i].kind == JIT_COPY && !high_bytes_fit(&block->insn[i], &t->desc[i]))
			t->desc[i] = (struct jit_desc){ .kind = JIT_HANDLER, .fr = X86_FL_STATUS,
							.fm = X86_FL_STATUS };
		bytes += block->insn[i].len;
		off += block->insn[i].len;
		t->next_off[i] = off;
	}
	t->live[block->count] = live;
	for (unsigned i = block->count; i-- > 0;) {
		live = (live & ~t->desc[i].fw) | t->desc[i].fr;
		t->live[i] = live;
	}
}

static void emit_entry(struct tr *t)
{
	struct bt_block *block = t->block;
	struct emit *e = &t->e;
	bool vec = false;

	block->code_host = code_offset(t, e->p);
	if (t->live[0])
		jit_emit_flags_save(e);
	block->code = code_offset(t, e->p);
	EMIT(e, .opcode = 0x83, .kind = EMIT_GS, .reg = 7, .rm = H_NONE, .disp = GS_VCPU(request),
	     .imm_len = 1);
	t->request = emit_jcc(e, CC_NE);
	emit_mov_imm64(e, T_1, (uintptr_t)block->page);
	EMIT(e, .opcode = 0x8b, .kind = EMIT_MEM, .reg = T_2, .rm = T_1, .index = H_NONE);
	EMIT(e, .opcode = 0x3b, .kind = EMIT_RIP, .reg = T_2, .target = &block->stamp);
	t->stale = emit_jcc(e, CC_NE);
	for (unsigned i = 0; i < block->count; i++)
		vec |= t->desc[i].vec;
	if (vec) {
		EMIT(e, .opcode = 0x80, .kind = EMIT_GS, .reg = 7, .rm = H_NONE,
		     .disp = GS_VCPU(jit.vec_loaded), .imm_len = 1);
		t->vector = emit_jcc(e, CC_E);
		t->vector_back = e->p;
	}
	t->in_host = false;
	t->in_mem = true;
}

/* True: the block ends with it, and its exits are emitted. */
static bool tr_insn(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];

	switch ((enum jit_kind)t->desc[i].kind) {
	case JIT_HANDLER:
		tr_handler(t, i);
		t->vcpu->jit.handler_insns++;
		return false;
	case JIT_COPY:
		tr_copy(t, i);
		return false;
	case JIT_NOTHING:
		return false;
	case JIT_LEA:
		tr_lea(t, i);
		return false;
	case JIT_MOV_IMM:
		tr_mov_imm(t, insn);
		return false;
	case JIT_XCHG_AX:
		tr_xchg_ax(t, insn);
		return false;
	case JIT_BSWAP:
		tr_bswap(t, insn);
		return false;
	case JIT_PUSH_REG:
	case JIT_PUSH_IMM:
	case JIT_PUSH_MEM:
		tr_push(t, i);
		return false;
	case JIT_POP_REG:
		tr_pop(t, i);
		return false;
	case JIT_LEAVE:
		tr_leave(t, i);
		return false;
	case JIT_DIV:
	case JIT_IDIV:
		tr_div(t, i);
		return false;
	case JIT_JCC:
		tr_jcc(t, i);
		return true;
	case JIT_JMP:
		tr_exit(t, 0, target_of(t, i));
		return true;
	case JIT_CALL:
		tr_call(t, i);
		return true;
	case JIT_RET:
		tr_ret(t, i);
		return true;
	case JIT_JMP_REG:
	case JIT_JMP_MEM:
	case JIT_CALL_REG:
	case JIT_CALL_MEM:
		tr_indirect(t, i);
		return true;
	}
	return false;
}

static void emit_leave(struct tr *t, uint8_t *site, enum bt_jit_exit why)
{
	emit_patch_here(&t->e, site);
	emit_lea_rip(&t->e, T_1, t->block);
	emit_mov_imm32(&t->e, T_2, why);
	emit_jmp_to(&t->e, t->vcpu->jit.leave);
}

/* Slow paths of an instruction share one call. */
static void finish_slow(struct tr *t)
{
	for (unsigned n = 0; n < t->slow_count;) {
		unsigned i = t->slow[n].insn;

		for (; n < t->slow_count && t->slow[n].insn == i; n++)
			emit_patch_here(&t->e, t->slow[n].site);
		emit_handler(t, i);
		if (t->resume[i])
			emit_jmp_to(&t->e, t->resume[i]);
		else /* a branch: its handler does not come back */
			EMIT(&t->e, .map = 1, .opcode = 0x0b);
	}
}

static void tr_block(struct tr *t)
{
	struct bt_block *block = t->block;
	bool ended = false;

	analyse(t);
	emit_entry(t);
	for (unsigned i = 0; i < block->count && !ended; i++) {
		ended = tr_insn(t, i);
		t->resume[i] = ended ? NULL : t->e.p;
	}
	if (!ended)
		tr_exit(t, 0, t->next_off[block->count - 1]);
	finish_exit(t, 0);
	finish_exit(t, 1);
	emit_leave(t, t->request, BT_JIT_REQUEST);
	emit_leave(t, t->stale, BT_JIT_STALE);
	if (t->vector) {
		emit_patch_here(&t->e, t->vector);
		emit_lea_rip(&t->e, T_1, block);
		emit_call_to(&t->e, t->vcpu->jit.vec_load);
		emit_jmp_to(&t->e, t->vector_back);
	}
	finish_slow(t);
}

bool bt_jit_translate(struct bt_vcpu *vcpu, struct bt_block *block)
{
	struct bt_jit *jit = &vcpu->jit;
	struct tr t;

	if (block->code_bytes != 8)
		return false;
	if (jit->size - jit->used < BT_JIT_BLOCK_MAX) {
		bt_cache_flush(vcpu);
		return false;
	}
	memset(&t, 0, offsetof(struct tr, desc));
	memset(t.exit, 0, sizeof(t.exit));
	t.failed = false;
	t.slow_count = 0;
	t.vector = NULL;
	t.vcpu = vcpu;
	t.block = block;
	t.e.p = jit->code + jit->used;
	t.e.end = t.e.p + BT_JIT_BLOCK_MAX;
	t.e.to_exec = jit->exec - jit->code;
	tr_block(&t);
	if (t.e.full || t.failed) {
		block->code = 0;
		return false;
	}
	jit->used = (code_offset(&t, t.e.p) + 15) & ~15u;
	jit->translated++;
	jit->translated_insns += block->count;
	return true;
}
