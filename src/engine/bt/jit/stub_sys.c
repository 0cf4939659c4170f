// SPDX-License-Identifier: Apache-2.0
/*
 * stub_sys.c - the stubs that SYSCALL and SYSRET jump to: into the kernel and back without a handler.
 *
 * What privilege changes but the instructions do not name (fetch context, table of the TLB) was noted
 * when the loop last went that way (struct bt_way). SDM vol. 2, SYSCALL and SYSRET; AMD APM vol. 3.
 */
#include "engine/bt/jit/tr.h"

#define CODE_ATTR (X86_SEG_P | X86_SEG_S | X86_SEG_G | X86_SEG_L | 0xbu)
#define DATA_ATTR (X86_SEG_P | X86_SEG_S | X86_SEG_G | X86_SEG_DB | 0x3u)

#define GS_CPU(field) ((int32_t)offsetof(struct x86_cpu, field))
#define GS_SEG(which, field)                                                                       \
	((int32_t)(offsetof(struct x86_cpu, s.seg) + (which) * sizeof(struct x86_segment) +        \
		   offsetof(struct x86_segment, field)))

static void store16(struct emit *e, int32_t off, unsigned reg)
{
	EMIT(e, .opcode = 0x89, .p66 = true, .kind = EMIT_GS, .reg = (uint8_t)reg, .rm = H_NONE,
	     .disp = off);
}

static void store_imm(struct emit *e, int32_t off, unsigned len, uint32_t v)
{
	EMIT(e, .opcode = len == 1 ? 0xc6 : 0xc7, .p66 = len == 2, .w = len == 8, .kind = EMIT_GS,
	     .rm = H_NONE, .disp = off, .imm = v, .imm_len = len == 8 ? 4 : (uint8_t)len);
}

static void shift_left(struct emit *e, unsigned reg, uint8_t n)
{
	EMIT(e, .opcode = 0xc1, .kind = EMIT_REG, .reg = 4, .rm = (uint8_t)reg, .imm = n,
	     .imm_len = 1);
}

static void alu(struct emit *e, uint8_t opcode, unsigned to, unsigned from)
{
	EMIT(e, .opcode = opcode, .w = true, .kind = EMIT_REG, .reg = (uint8_t)from,
	     .rm = (uint8_t)to);
}

/* A flat segment, selector @reg. */
static void flat(struct emit *e, unsigned seg, unsigned reg, unsigned attr)
{
	store_imm(e, GS_SEG(seg, base), 8, 0);
	store_imm(e, GS_SEG(seg, limit), 4, 0xffffffff);
	store16(e, GS_SEG(seg, selector), reg);
	store_imm(e, GS_SEG(seg, attr), 2, attr);
}

/* @to = RFLAGS, with the status flags of jit.flags. Spoils T_2. */
static void flags_image(struct emit *e, unsigned to)
{
	EMIT(e, .map = 1, .opcode = 0xb7, .kind = EMIT_GS, .reg = (uint8_t)to, .rm = H_NONE,
	     .disp = GS_VCPU(jit.flags));
	emit_mov_rr(e, T_2, to);
	tr_alu_imm(e, ALU_AND, false, T_2, 1);
	shift_left(e, T_2, 11);
	tr_shr(e, false, to, 8);
	tr_alu_imm(e, ALU_AND, false, to, X86_FL_STATUS & 0xff);
	alu(e, 0x09, to, T_2);
	emit_load_gs(e, T_2, GS_CPU(s.rflags));
	tr_alu_imm(e, ALU_AND, true, T_2, (int32_t)~(uint32_t)(X86_FL_STATUS | X86_FL_RF));
	alu(e, 0x09, to, T_2);
}

/* RFLAGS = @from, which is spoilt, and so is T_2. */
static void flags_set(struct emit *e, unsigned from)
{
	emit_store_gs(e, GS_CPU(s.rflags), from);
	emit_mov_rr(e, T_2, from);
	tr_shr(e, false, T_2, 11);
	tr_alu_imm(e, ALU_AND, false, T_2, 1);
	tr_alu_imm(e, ALU_AND, false, from, X86_FL_STATUS & 0xff);
	tr_alu_imm(e, ALU_OR, false, from, X86_FL_ONE);
	shift_left(e, from, 8);
	alu(e, 0x09, T_2, from);
	store16(e, GS_VCPU(jit.flags), T_2);
}

/* Take on what the way says, and another privilege. */
static void change(struct emit *e, unsigned cpl, unsigned mode, unsigned size, int32_t way)
{
	store_imm(e, GS_CPU(cpl), 1, cpl);
	store_imm(e, GS_CPU(tlb_mode), 1, mode);
	store_imm(e, GS_CPU(tlb_mask), 8, (size - 1) * (uint32_t)sizeof(struct x86_tlb_entry));
	emit_load_gs(e, T_1, way + (int32_t)offsetof(struct bt_way, tlb_table));
	emit_store_gs(e, GS_CPU(tlb_table), T_1);
	emit_load_gs(e, T_1, way + (int32_t)offsetof(struct bt_way, context));
	emit_store_gs(e, GS_VCPU(jit.context), T_1);
	emit_load_gs32(e, T_1, way + (int32_t)offsetof(struct bt_way, epoch));
	EMIT(e, .opcode = 0x89, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE, .disp = GS_VCPU(epoch));
	emit_load_gs(e, H_RSP, GS_VCPU(jit.stack)); /* what is there was of the other context */
}

/* T_1 = where T_ADDR has its place in jit.back: as jit_back_index(). Spoils T_2. */
static void back_place(struct emit *e)
{
	emit_mov_rr(e, T_1, T_ADDR);
	tr_shr(e, true, T_1, BT_JIT_BACK_BITS);
	alu(e, 0x31, T_1, T_ADDR);
	EMIT(e, .map = 1, .opcode = 0xb6, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE,
	     .disp = GS_CPU(space_now));
	EMIT(e, .opcode = 0x6b, .kind = EMIT_REG, .reg = T_2, .rm = T_2, .imm = JIT_BACK_SPACE,
	     .imm_len = 1);
	alu(e, 0x01, T_1, T_2);
	tr_alu_imm(e, ALU_AND, false, T_1, (1 << BT_JIT_BACK_BITS) - 1);
	shift_left(e, T_1, JIT_TARGET_SHIFT);
}

/* T_ADDR: RIP behind the instruction. Flags are in jit.flags. */
static void stub_syscall(struct bt_jit *jit, struct emit *e)
{
	jit->syscall = e->p;
	emit_mov_rr(e, H_RCX, T_ADDR);
	flags_image(e, H_R11);
	emit_load_gs(e, T_1, GS_CPU(s.sfmask));
	EMIT(e, .opcode = 0xf7, .w = true, .kind = EMIT_REG, .reg = 2, .rm = T_1); /* NOT */
	alu(e, 0x21, T_1, H_R11);
	tr_alu_imm(e, ALU_OR, false, T_1, X86_FL_ONE);
	flags_set(e, T_1);
	emit_load_gs32(e, T_1, GS_CPU(s.star) + 4);
	tr_alu_imm(e, ALU_AND, false, T_1, 0xfffc);
	flat(e, X86_CS, T_1, CODE_ATTR);
	emit_lea(e, T_1, T_1, 8);
	flat(e, X86_SS, T_1, DATA_ATTR);
	emit_load_gs(e, T_ADDR, GS_CPU(s.lstar));
	change(e, 0, X86_TLB_KERNEL, X86_TLB_KERNEL_SIZE, GS_VCPU(to_kernel));
	emit_call_to(e, jit->lookup);
	emit_jcc_to(e, CC_NE, jit->leave_rip);
	jit_emit_set_page(e);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
}

/* T_1: the new flags. RCX is canonical. */
static void stub_sysret(struct bt_jit *jit, struct emit *e, bool amd)
{
	jit->sysret = e->p;
	flags_set(e, T_1);
	emit_load_gs32(e, T_1, GS_CPU(s.star) + 4);
	tr_shr(e, false, T_1, 16);
	emit_lea(e, T_1, T_1, 16);
	tr_alu_imm(e, ALU_OR, false, T_1, 3);
	flat(e, X86_CS, T_1, CODE_ATTR | X86_SEG_DPL);
	emit_load_gs32(e, T_1, GS_CPU(s.star) + 4);
	tr_shr(e, false, T_1, 16);
	emit_lea(e, T_1, T_1, 8);
	tr_alu_imm(e, ALU_OR, false, T_1, 3);
	if (amd) { /* CPL lives in the attributes; the rest stays */
		store16(e, GS_SEG(X86_SS, selector), T_1);
		EMIT(e, .opcode = 0x81, .p66 = true, .kind = EMIT_GS, .reg = ALU_OR, .rm = H_NONE,
		     .disp = GS_SEG(X86_SS, attr), .imm = X86_SEG_DPL, .imm_len = 2);
	} else {
		flat(e, X86_SS, T_1, DATA_ATTR | X86_SEG_DPL);
	}
	emit_mov_rr(e, T_ADDR, H_RCX);
	change(e, 3, X86_TLB_USER, X86_TLB_USER_SIZE, GS_VCPU(to_user));
	back_place(e);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = T_1,
	     .disp = GS_VCPU(jit.back[0].rip));
	emit_jcc_to(e, CC_NE, jit->leave_rip);
	emit_load_gs32(e, T_2, GS_VCPU(epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_GS, .reg = T_2, .rm = T_1,
	     .disp = GS_VCPU(jit.back[0].epoch));
	emit_jcc_to(e, CC_NE, jit->leave_rip);
	jit_emit_set_page(e);
	EMIT(e, .opcode = 0xff, .kind = EMIT_GS, .reg = 4, .rm = T_1,
	     .disp = GS_VCPU(jit.back[0].code));
}

void jit_stubs_system(struct bt_vcpu *vcpu, struct emit *e)
{
	stub_syscall(&vcpu->jit, e);
	stub_sysret(&vcpu->jit, e, bt_engine_of(vcpu)->model.amd);
}
