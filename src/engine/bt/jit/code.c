// SPDX-License-Identifier: Apache-2.0
/* code.c - the code cache, and the stubs at its start by which native code is entered and left. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "engine/bt/jit/host_insn.h"
#include "engine/bt/jit/jit_int.h"

#define BT_JIT_THRESHOLD 16

void jit_emit_flags_save(struct emit *e)
{
	emit_mov_rr(e, T_2, H_RAX);
	emit_byte(e, 0x9f); /* lahf */
	EMIT(e, .map = 1, .opcode = 0x90 | CC_O, .kind = EMIT_REG, .rm = H_RAX);
	EMIT(e, .opcode = 0x89, .p66 = true, .kind = EMIT_GS, .reg = H_RAX, .rm = H_NONE,
	     .disp = GS_VCPU(jit.flags));
	emit_mov_rr(e, H_RAX, T_2);
}

/* AX to flags: what jit.flags held. */
static void emit_flags_load(struct emit *e)
{
	EMIT(e, .map = 1, .opcode = 0xb7, .kind = EMIT_GS, .reg = H_RAX, .rm = H_NONE,
	     .disp = GS_VCPU(jit.flags));
	EMIT(e, .opcode = 0x04, .kind = EMIT_NO_MODRM, .imm = 0x7f, .imm_len = 1);
	emit_byte(e, 0x9e); /* sahf */
}

void jit_emit_flags_restore(struct emit *e)
{
	emit_mov_rr(e, T_2, H_RAX);
	emit_flags_load(e);
	emit_mov_rr(e, H_RAX, T_2);
}

static void emit_push(struct emit *e, unsigned reg)
{
	EMIT(e, .opcode = (uint8_t)(0x50 | (reg & 7)), .kind = EMIT_NO_MODRM, .rm = (uint8_t)reg);
}

static void emit_pop(struct emit *e, unsigned reg)
{
	EMIT(e, .opcode = (uint8_t)(0x58 | (reg & 7)), .kind = EMIT_NO_MODRM, .rm = (uint8_t)reg);
}

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

static void emit_gprs(struct emit *e, bool store)
{
	for (unsigned g = 0; g < 16; g++) {
		unsigned h = host_of(g);

		if (h == H_NONE)
			continue;
		if (store)
			emit_store_gs(e, GS_GPR(g), h);
		else
			emit_load_gs(e, h, GS_GPR(g));
	}
}

static void emit_vec_move(struct emit *e, bool store)
{
	for (unsigned i = 0; i < 16; i++)
		EMIT(e, .vex = true, .map = 1, .opcode = store ? 0x11 : 0x10, .l256 = true,
		     .kind = EMIT_GS, .reg = (uint8_t)i, .rm = H_NONE, .disp = GS_VEC(i));
}

/*
 * From memory. SSE instructions keep the upper half of what they write, and so wait for what was there before,
 * unless the processor knows it to be zero: of a register that was loaded whole it does not. AMD's does so
 * by the register (2 to 4 times the time of SSE and AES loops, measured), Intel's for all at once. Code
 * that uses AVX ends with VZEROUPPER for the same reason, so nearly always they are zero.
 */
static void emit_vec_load(struct emit *e)
{
	uint8_t *whole, *done;

	for (unsigned i = 0; i < 16; i++) /* vmovdqu, vpor */
		EMIT(e, .vex = true, .map = 1, .opcode = i ? 0xeb : 0x6f, .rep = i ? 0 : 0xf3, .p66 = i != 0,
		     .kind = EMIT_GS, .rm = H_NONE, .disp = GS_VEC(i) + 16);
	EMIT(e, .vex = true, .map = 2, .opcode = 0x17, .p66 = true, .kind = EMIT_REG); /* vptest */
	whole = emit_jcc(e, CC_NE);
	EMIT(e, .vex = true, .map = 1, .opcode = 0x77); /* vzeroupper */
	for (unsigned i = 0; i < 16; i++)
		EMIT(e, .vex = true, .map = 1, .opcode = 0x10, .kind = EMIT_GS, .reg = (uint8_t)i,
		     .rm = H_NONE, .disp = GS_VEC(i));
	done = emit_jmp(e);
	emit_patch_here(e, whole);
	emit_vec_move(e, false);
	emit_patch_here(e, done);
}

static void emit_mxcsr(struct emit *e, bool store)
{
	EMIT(e, .map = 1, .opcode = 0xae, .kind = EMIT_GS, .reg = store ? 3 : 2, .rm = H_NONE,
	     .disp = (int32_t)offsetof(struct x86_cpu, s.fpu.mxcsr));
}

/* VMOVUPS of ZMM registers. */
static void emit_wide_move(struct emit *e, unsigned first, unsigned last, bool store)
{
	for (unsigned i = first; i <= last; i++)
		EMIT(e, .evex = true, .z_ll_b_aaa = 2u << X86_EVEX_LL_SHIFT, .map = 1,
		     .opcode = store ? 0x11 : 0x10, .kind = EMIT_GS, .reg = (uint8_t)i, .rm = H_NONE,
		     .disp = GS_VEC(i));
}

/* KMOVQ of all opmasks. */
static void emit_opmasks(struct emit *e, bool store)
{
	for (unsigned i = 0; i < 8; i++)
		EMIT(e, .vex = true, .w = true, .map = 1, .opcode = store ? 0x91 : 0x90,
		     .kind = EMIT_GS, .reg = (uint8_t)i, .rm = H_NONE,
		     .disp = (int32_t)(offsetof(struct x86_cpu, s.fpu.opmask) + i * 8));
}

static uint8_t *stub_wide_save(struct emit *e)
{
	uint8_t *start = e->p;

	emit_wide_move(e, 0, 31, true);
	emit_opmasks(e, true);
	emit_byte(e, 0xc3);
	return start;
}

/* As emit_vec_load(). Spoils T_2 and flags. */
static uint8_t *stub_wide_load(struct emit *e)
{
	uint8_t *start = e->p, *whole, *done;

	for (unsigned i = 0; i < 16; i++) /* vmovdqu64, vporq */
		EMIT(e, .evex = true, .z_ll_b_aaa = 2u << X86_EVEX_LL_SHIFT, .w = true, .map = 1,
		     .opcode = i ? 0xeb : 0x6f, .rep = i ? 0 : 0xf3, .p66 = i != 0, .kind = EMIT_GS,
		     .rm = H_NONE, .disp = GS_VEC(i));
	EMIT(e, .evex = true, .z_ll_b_aaa = 2u << X86_EVEX_LL_SHIFT, .w = true, .map = 2,
	     .opcode = 0x27, .p66 = true, .kind = EMIT_REG); /* vptestmq k0, zmm0, zmm0 */
	EMIT(e, .vex = true, .p66 = true, .map = 1, .opcode = 0x93, .kind = EMIT_REG, .reg = T_2); /* kmovb */
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_2, .imm = 0xfc, .imm_len = 4);
	whole = emit_jcc(e, CC_NE);
	EMIT(e, .vex = true, .map = 1, .opcode = 0x77); /* vzeroupper */
	for (unsigned i = 0; i < 16; i++)
		EMIT(e, .vex = true, .map = 1, .opcode = 0x10, .kind = EMIT_GS, .reg = (uint8_t)i,
		     .rm = H_NONE, .disp = GS_VEC(i));
	done = emit_jmp(e);
	emit_patch_here(e, whole);
	emit_wide_move(e, 0, 15, false);
	emit_patch_here(e, done);
	emit_wide_move(e, 16, 31, false);
	emit_opmasks(e, false);
	emit_byte(e, 0xc3);
	return start;
}

/* cmp byte gs:[jit.vec_loaded], @what */
static void emit_vec_is(struct emit *e, uint8_t what)
{
	EMIT(e, .opcode = 0x80, .kind = EMIT_GS, .reg = 7, .rm = H_NONE,
	     .disp = GS_VCPU(jit.vec_loaded), .imm = what, .imm_len = 1);
}

static void emit_vec_test(struct emit *e)
{
	emit_vec_is(e, 0);
}

/* All that is loaded. Spoils flags. */
static void emit_vec_move_loaded(const struct bt_jit *jit, struct emit *e, bool store)
{
	uint8_t *wide = NULL, *done;

	if (bt_host_insn_is_fit()) {
		emit_vec_is(e, BT_JIT_WIDE);
		wide = emit_jcc(e, CC_E);
	}
	if (store)
		emit_vec_move(e, true);
	else
		emit_vec_load(e);
	if (!wide)
		return;
	done = emit_jmp(e);
	emit_patch_here(e, wide);
	emit_call_to(e, store ? jit->wide_save : jit->wide_load);
	emit_patch_here(e, done);
}

static void emit_vec_save(const struct bt_jit *jit, struct emit *e)
{
	emit_vec_move_loaded(jit, e, true);
	EMIT(e, .vex = true, .map = 1, .opcode = 0x77); /* vzeroupper */
	emit_mxcsr(e, true);
}

static void emit_vec_set_loaded(struct emit *e, uint8_t v)
{
	EMIT(e, .opcode = 0xc6, .kind = EMIT_GS, .rm = H_NONE, .disp = GS_VCPU(jit.vec_loaded),
	     .imm = v, .imm_len = 1);
}

/* As much as there is. Spoils flags. */
static void emit_vec_restore(const struct bt_jit *jit, struct emit *e)
{
	uint8_t *narrow;

	emit_vec_set_loaded(e, BT_JIT_YMM);
	if (bt_host_insn_is_fit()) {
		EMIT(e, .opcode = 0x80, .kind = EMIT_GS, .reg = 7, .rm = H_NONE,
		     .disp = (int32_t)offsetof(struct x86_cpu, wide), .imm_len = 1);
		narrow = emit_jcc(e, CC_E);
		emit_vec_set_loaded(e, BT_JIT_WIDE);
		emit_patch_here(e, narrow);
	}
	emit_vec_move_loaded(jit, e, false);
	emit_mxcsr(e, false);
}

static void emit_vec_save_if_loaded(const struct bt_jit *jit, struct emit *e)
{
	uint8_t *skip;

	emit_vec_test(e);
	skip = emit_jcc(e, CC_E);
	emit_vec_save(jit, e);
	emit_patch_here(e, skip);
}

static void emit_set_wide(struct emit *e)
{
	EMIT(e, .opcode = 0xc6, .kind = EMIT_GS, .rm = H_NONE,
	     .disp = (int32_t)offsetof(struct x86_cpu, wide), .imm = 1, .imm_len = 1);
}

static void emit_return(struct emit *e)
{
	emit_load_gs(e, H_RSP, GS_VCPU(jit.host_stack));
	for (unsigned i = sizeof(callee_saved); i-- > 0;)
		emit_pop(e, callee_saved[i]);
	emit_byte(e, 0xc3);
}

/* void enter(struct x86_cpu *cpu, void *code) */
static void stub_enter(struct bt_jit *jit, struct emit *e)
{
	jit->enter = e->p;
	for (unsigned i = 0; i < sizeof(callee_saved); i++)
		emit_push(e, callee_saved[i]);
	emit_store_gs(e, GS_VCPU(jit.host_stack), H_RSP);
	emit_load_gs(e, H_RSP, GS_VCPU(jit.stack));
	emit_mov_rr(e, T_1, H_RSI);
	emit_lea_rip(e, T_2, jit->leave_rip + e->to_exec);
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = T_2, .rm = H_RSP,
	     .index = H_NONE);
	emit_load_gs(e, T_2, GS_VCPU(jit.no_return));
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = T_2, .rm = H_RSP,
	     .index = H_NONE, .disp = 8);
	emit_gprs(e, false);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
}

/* To here with T_1: pointer, T_2: reason, flags saved. */
static void stub_leave(struct bt_jit *jit, struct emit *e)
{
	jit->leave_link = e->p;
	emit_mov_imm32(e, T_2, BT_JIT_LINK);
	jit->leave = e->p;
	emit_store_gs(e, GS_VCPU(jit.exit_ptr), T_1);
	EMIT(e, .opcode = 0x89, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE,
	     .disp = GS_VCPU(jit.exit_reason));
	emit_gprs(e, true);
	emit_vec_save_if_loaded(jit, e);
	emit_vec_set_loaded(e, 0);
	emit_return(e);
	/* A return to jit.no_return, which a guest may guess, and which is no address of code. */
	jit->leave_rip = e->p;
	emit_mov_rr(e, T_1, T_ADDR);
	emit_mov_imm32(e, T_2, BT_JIT_RIP);
	emit_jmp_to(e, jit->leave);
}

/*
 * The handler of an instruction. T_1: its block, T_2: BT_JIT_WHICH(). Flags are in jit.flags before, and
 * in both places behind. Vector registers are in memory behind it, unless @vec: instructions of the same block
 * that follow want them, BT_JIT_YMM or BT_JIT_WIDE.
 */
static const uint8_t *stub_call(const struct bt_jit *jit, struct emit *e, unsigned vec)
{
	const uint8_t *start = e->p;
	uint8_t *gone, *out, *skip;

	emit_lea(e, H_RSP, H_RSP, -8);
	emit_gprs(e, true);
	emit_vec_test(e);
	skip = emit_jcc(e, CC_E);
	emit_vec_save(jit, e);
	if (!vec)
		emit_vec_set_loaded(e, 0);
	emit_patch_here(e, skip);
	emit_load_gs(e, H_RDI, GS_VCPU(jit.self));
	emit_mov_rr(e, H_RSI, T_1);
	emit_mov_rr(e, H_RDX, T_2);
	emit_mov_imm64(e, H_RAX, (uintptr_t)bt_jit_exec);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 2, .rm = H_RAX);
	EMIT(e, .opcode = 0x85, .w = true, .kind = EMIT_REG, .reg = H_RAX, .rm = H_RAX);
	gone = emit_jcc(e, CC_NE);
	if (vec) {
		emit_vec_test(e);
		skip = emit_jcc(e, CC_E);
		if (vec == BT_JIT_WIDE)
			emit_set_wide(e);
		emit_vec_restore(jit, e);
		emit_patch_here(e, skip);
	}
	emit_flags_load(e);
	emit_gprs(e, false);
	emit_lea(e, H_RSP, H_RSP, 8);
	emit_byte(e, 0xc3);

	/* All is in memory. RAX: where to go on, or BT_JIT_OUT. */
	emit_patch_here(e, gone);
	emit_vec_set_loaded(e, 0);
	EMIT(e, .opcode = 0x83, .w = true, .kind = EMIT_REG, .reg = 7, .rm = H_RAX,
	     .imm = BT_JIT_OUT, .imm_len = 1);
	out = emit_jcc(e, CC_E);
	emit_mov_rr(e, T_1, H_RAX);
	emit_gprs(e, false);
	emit_load_gs(e, H_RSP, GS_VCPU(jit.stack)); /* the context may be another one */
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
	emit_patch_here(e, out);
	EMIT(e, .opcode = 0xc7, .kind = EMIT_GS, .rm = H_NONE, .disp = GS_VCPU(jit.exit_reason),
	     .imm = BT_JIT_HANDLER, .imm_len = 4);
	emit_return(e);
	return start;
}

/* What a call of C may spoil, to cpu->s or back. */
static void emit_spoiled(const struct bt_jit *jit, struct emit *e, bool store)
{
	static const uint8_t regs[] = { H_RAX, H_RCX, H_RDX, H_RSI, H_RDI, H_R8, H_R9, H_R10, H_R11 };
	uint8_t *skip;

	for (unsigned i = 0; i < sizeof(regs); i++) {
		if (store)
			emit_store_gs(e, GS_GPR(regs[i]), regs[i]);
		else
			emit_load_gs(e, regs[i], GS_GPR(regs[i]));
	}
	emit_vec_test(e);
	skip = emit_jcc(e, CC_E);
	emit_vec_move_loaded(jit, e, store);
	if (store)
		EMIT(e, .vex = true, .map = 1, .opcode = 0x77); /* vzeroupper */
	emit_patch_here(e, skip);
}

/* The TLB has missed T_ADDR, whose tag would be T_2. Back with ZF clear when it now hits. Flags are
 * saved or of no use. */
static uint8_t *stub_fill(const struct bt_jit *jit, struct emit *e, bool write)
{
	uint8_t *stub = e->p;

	emit_lea(e, H_RSP, H_RSP, -8);
	emit_spoiled(jit, e, true);
	emit_load_gs(e, H_RDI, GS_VCPU(jit.self));
	emit_mov_rr(e, H_RSI, T_ADDR);
	emit_mov_rr(e, H_RDX, T_2);
	emit_mov_imm32(e, H_RCX, write);
	emit_mov_imm64(e, H_RAX, (uintptr_t)x86_tlb_fill);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 2, .rm = H_RAX);
	EMIT(e, .map = 1, .opcode = 0xb6, .kind = EMIT_REG, .reg = T_1, .rm = H_RAX);
	emit_spoiled(jit, e, false);
	emit_lea(e, H_RSP, H_RSP, 8);
	EMIT(e, .opcode = 0x85, .kind = EMIT_REG, .reg = T_1, .rm = T_1);
	emit_byte(e, 0xc3);
	return stub;
}

/* Reg = what is at @disp from @base: 32 bits, or 16 bits with their sign. */
static void emit_load_near(struct emit *e, unsigned reg, unsigned base, int32_t disp, bool half)
{
	EMIT(e, .map = half, .opcode = half ? 0xbf : 0x8b, .w = half, .kind = EMIT_MEM,
	     .reg = (uint8_t)reg, .rm = (uint8_t)base, .index = H_NONE, .disp = disp);
}

static void emit_load_stack(struct emit *e, unsigned reg, int32_t disp)
{
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_MEM, .reg = (uint8_t)reg, .rm = H_RSP,
	     .index = H_NONE, .disp = disp);
}

/*
 * A slow path. Behind the call are: the block's offset in the arena, BT_JIT_WHICH() of instructions to be left to
 * their handlers by @call, and, from there on, where to go on behind them, and where to try again when @fill (or
 * NULL) has filled the TLB. It gets there by RET, which keeps the host's predictor in step.
 */
static const uint8_t *stub_slow(struct emit *e, const uint8_t *arena, const uint8_t *call,
				const uint8_t *fill)
{
	const uint8_t *start = e->p;
	uint8_t *filled = NULL, *out = NULL;

	emit_lea(e, H_RSP, H_RSP, -8);
	if (fill) {
		emit_call_to(e, fill);
		filled = emit_jcc(e, CC_NE);
	}
	emit_load_stack(e, T_2, 8);
	emit_load_near(e, T_1, T_2, 0, false);
	emit_lea_rip(e, T_ADDR, arena);
	EMIT(e, .opcode = 0x01, .w = true, .kind = EMIT_REG, .reg = T_ADDR, .rm = T_1);
	emit_load_near(e, T_2, T_2, 4, false);
	emit_call_to(e, call);
	emit_load_stack(e, T_2, 8);
	emit_load_near(e, T_1, T_2, 8, true);
	if (fill) {
		out = emit_jmp(e);
		emit_patch_here(e, filled);
		emit_load_stack(e, T_2, 8);
		emit_load_near(e, T_1, T_2, 10, true);
		emit_patch_here(e, out);
	}
	EMIT(e, .opcode = 0x8d, .w = true, .kind = EMIT_MEM, .reg = T_1, .rm = T_1, .index = T_2);
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = T_1, .rm = H_RSP, .index = H_NONE,
	     .disp = 8);
	emit_lea(e, H_RSP, H_RSP, 8);
	emit_byte(e, 0xc3);
	return start;
}

/* Leave. So many bytes behind the call is the block's offset in the arena, or that and the number of an exit.
 * @save: the flags. */
static const uint8_t *stub_leave_call(struct bt_vcpu *vcpu, struct emit *e, int32_t behind,
				      enum bt_jit_exit why, bool save)
{
	const uint8_t *start = e->p;

	if (save)
		jit_emit_flags_save(e);
	emit_pop(e, T_1);
	emit_load_near(e, T_1, T_1, behind, false);
	emit_lea_rip(e, T_2, bt_engine_of(vcpu)->cache->arena);
	EMIT(e, .opcode = 0x01, .w = true, .kind = EMIT_REG, .reg = T_2, .rm = T_1);
	emit_mov_imm32(e, T_2, why);
	emit_jmp_to(e, vcpu->jit.leave);
	return start;
}

#define CALL_BYTES 5

static void stubs_leave_call(struct bt_vcpu *vcpu, struct emit *e)
{
	struct bt_jit *jit = &vcpu->jit;

	jit->leave_entered = stub_leave_call(vcpu, e, 2 * CALL_BYTES, BT_JIT_ENTERED, false);
	jit->leave_request = stub_leave_call(vcpu, e, CALL_BYTES, BT_JIT_REQUEST, false);
	jit->leave_stale = stub_leave_call(vcpu, e, 0, BT_JIT_STALE, false);
	jit->leave_exit = stub_leave_call(vcpu, e, 0, BT_JIT_LINK, false);
	jit->leave_exit_flags = stub_leave_call(vcpu, e, 0, BT_JIT_LINK, true);
}

static void stubs_slow(struct bt_vcpu *vcpu, struct emit *e)
{
	const uint8_t *arena = bt_engine_of(vcpu)->cache->arena;
	struct bt_jit *jit = &vcpu->jit;
	const uint8_t *call[] = { jit->call, jit->call_vec, jit->call_wide };

	for (unsigned i = 0; i < 3; i++) {
		jit->slow[i] = stub_slow(e, arena, call[i], NULL);
		jit->miss[i][0] = stub_slow(e, arena, call[i], jit->fill_read);
		jit->miss[i][1] = stub_slow(e, arena, call[i], jit->fill_write);
	}
}

static void emit_test_gs32(struct emit *e, size_t off, uint32_t mask)
{
	EMIT(e, .opcode = 0xf7, .kind = EMIT_GS, .rm = H_NONE, .disp = (int32_t)off, .imm = mask,
	     .imm_len = 4);
}

/* Called at the begin of a block, which is not to go on as code. */
static void emit_leave_entered(const struct bt_jit *jit, struct emit *e)
{
	emit_lea(e, H_RSP, H_RSP, 8);
	emit_mov_imm32(e, T_2, BT_JIT_ENTERED);
	emit_jmp_to(e, jit->leave);
}

/*
 * Vector registers from memory. Called with T_1: the block; leaves when the guest's must not be
 * used, or when its MXCSR differs from the host's in more than the sticky flags. Spoils T_2 and flags. With
 * @wide those of AVX-512 as well.
 */
static uint8_t *stub_vec_load(const struct bt_jit *jit, struct emit *e, bool wide)
{
	uint8_t *no[4], *start = e->p;
	uint8_t xcr0 = wide ? 0xe6 : 6;

	if (wide) { /* some may be there already */
		emit_vec_save_if_loaded(jit, e);
		emit_vec_set_loaded(e, 0);
	}
	if (wide && !bt_host_insn_is_fit()) {
		emit_leave_entered(jit, e);
		return start;
	}
	emit_test_gs32(e, offsetof(struct x86_cpu, s.cr0), X86_CR0_EM | X86_CR0_TS);
	no[0] = emit_jcc(e, CC_NE);
	emit_load_gs32(e, T_2, (int32_t)offsetof(struct x86_cpu, s.cr4));
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 4, .rm = T_2,
	     .imm = X86_CR4_OSFXSR | X86_CR4_OSXSAVE, .imm_len = 4);
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 7, .rm = T_2,
	     .imm = X86_CR4_OSFXSR | X86_CR4_OSXSAVE, .imm_len = 4);
	no[1] = emit_jcc(e, CC_NE);
	emit_load_gs32(e, T_2, (int32_t)offsetof(struct x86_cpu, s.xcr0));
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 4, .rm = T_2, .imm = xcr0,
	     .imm_len = 4);
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 7, .rm = T_2, .imm = xcr0, .imm_len = 4);
	no[2] = emit_jcc(e, CC_NE);
	emit_load_gs32(e, T_2, (int32_t)offsetof(struct x86_cpu, s.fpu.mxcsr));
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 4, .rm = T_2, .imm = 0xffffffc0u,
	     .imm_len = 4);
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 7, .rm = T_2, .imm = 0x1f80, .imm_len = 4);
	no[3] = emit_jcc(e, CC_NE);
	if (wide)
		emit_set_wide(e);
	emit_vec_restore(jit, e);
	emit_byte(e, 0xc3);
	for (unsigned i = 0; i < 4; i++)
		emit_patch_here(e, no[i]);
	emit_leave_entered(jit, e);
	return start;
}

/* The guest's x87 state into the host's unit. Called with T_1: the block; leaves when it must not go
 * there. Vector registers are in memory behind it. Flags are saved. */
static const uint8_t *stub_x87_load(struct bt_jit *jit, struct emit *e)
{
	const uint8_t *start = e->p;
	uint8_t *skip, *no;

	emit_lea(e, H_RSP, H_RSP, -8);
	emit_gprs(e, true);
	emit_vec_test(e);
	skip = emit_jcc(e, CC_E);
	emit_vec_save(jit, e);
	emit_vec_set_loaded(e, 0);
	emit_patch_here(e, skip);
	emit_load_gs(e, H_RDI, GS_VCPU(jit.self_vcpu));
	emit_mov_imm64(e, H_RAX, (uintptr_t)bt_jit_x87_load);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 2, .rm = H_RAX);
	EMIT(e, .map = 1, .opcode = 0xb6, .kind = EMIT_REG, .reg = T_2, .rm = H_RAX);
	emit_gprs(e, false);
	emit_lea(e, H_RSP, H_RSP, 8);
	EMIT(e, .opcode = 0x85, .kind = EMIT_REG, .reg = T_2, .rm = T_2);
	no = emit_jcc(e, CC_E);
	emit_byte(e, 0xc3);
	emit_patch_here(e, no);
	emit_lea(e, H_RSP, H_RSP, 8);
	emit_mov_imm32(e, T_2, BT_JIT_ENTERED);
	emit_jmp_to(e, jit->leave);
	return start;
}

static void emit_rorx(struct emit *e, unsigned to, unsigned from, uint8_t n)
{
	EMIT(e, .vex = true, .map = 3, .opcode = 0xf0, .rep = 0xf2, .kind = EMIT_REG,
	     .reg = (uint8_t)to, .rm = (uint8_t)from, .imm = n, .imm_len = 1);
}

/* As jit_map_index(). An indirect branch that is mispredicted waits for this. */
void jit_emit_lookup(struct emit *e)
{
	const uint32_t mask = ((1u << BT_JIT_MAP_BITS) - 1) * sizeof(struct bt_jit_target);

	emit_rorx(e, T_1, T_ADDR, 32 - JIT_TARGET_SHIFT);
	emit_rorx(e, T_2, T_ADDR, BT_JIT_MAP_BITS - JIT_TARGET_SHIFT);
	EMIT(e, .opcode = 0x31, .kind = EMIT_REG, .reg = T_2, .rm = T_1);
	EMIT(e, .opcode = 0x81, .kind = EMIT_REG, .reg = 4, .rm = T_1, .imm = mask, .imm_len = 4);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = T_ADDR, .rm = T_1,
	     .disp = GS_VCPU(jit.map[0].rip));
}

void jit_emit_lookup_epoch(struct emit *e)
{
	emit_load_gs32(e, T_2, GS_VCPU(epoch));
	EMIT(e, .opcode = 0x3b, .kind = EMIT_GS, .reg = T_2, .rm = T_1,
	     .disp = GS_VCPU(jit.map[0].epoch));
}

void jit_emit_set_page(struct emit *e)
{
	EMIT(e, .opcode = 0x81, .w = true, .kind = EMIT_REG, .reg = 4, .rm = T_ADDR,
	     .imm = (uint32_t)-4096, .imm_len = 4);
	emit_store_gs(e, GS_VCPU(jit.rip_page), T_ADDR);
}

/* T_ADDR: a RIP. Returns with ZF and T_1, the code there; or without ZF. Spoils T_2. */
static void stub_lookup(struct bt_jit *jit, struct emit *e)
{
	uint8_t *no;

	jit->lookup = e->p;
	jit_emit_lookup(e);
	no = emit_jcc(e, CC_NE);
	jit_emit_lookup_epoch(e);
	EMIT(e, .opcode = 0x8b, .w = true, .kind = EMIT_GS, .reg = T_1, .rm = T_1,
	     .disp = GS_VCPU(jit.map[0].code));
	emit_patch_here(e, no);
	emit_byte(e, 0xc3);
}

/* A direct branch to another page, T_ADDR, does not find it in its slot. T_1: its exit. */
static void stub_cross(struct bt_jit *jit, struct emit *e)
{
	uint8_t *no;

	jit->cross = e->p;
	emit_store_gs(e, GS_VCPU(jit.tmp), T_1);
	emit_call_to(e, jit->lookup);
	no = emit_jcc(e, CC_NE);
	jit_emit_set_page(e);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
	emit_patch_here(e, no);
	emit_load_gs(e, T_1, GS_VCPU(jit.tmp));
	emit_jmp_to(e, jit->leave_link);
}

/* A return to T_ADDR, whose code is T_1, that was not foreseen. The pair is dropped by RET too, which
 * keeps the host's own predictor in step. */
static void stub_ret_pop(struct bt_jit *jit, struct emit *e)
{
	uint8_t *none;

	jit->ret_pop = e->p;
	jit_emit_set_page(e);
	EMIT(e, .opcode = 0x3b, .w = true, .kind = EMIT_GS, .reg = H_RSP, .rm = H_NONE,
	     .disp = GS_VCPU(jit.stack));
	none = emit_jcc(e, CC_AE);
	EMIT(e, .opcode = 0x89, .w = true, .kind = EMIT_MEM, .reg = T_1, .rm = H_RSP,
	     .index = H_NONE);
	EMIT(e, .opcode = 0xc2, .kind = EMIT_NO_MODRM, .imm = 8, .imm_len = 2);
	emit_patch_here(e, none);
	EMIT(e, .opcode = 0xff, .kind = EMIT_REG, .reg = 4, .rm = T_1);
}

/* LAHF in 64-bit mode and all that is emitted or copied through. */
static bool host_is_fit(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
	       __builtin_cpu_supports("popcnt");
}

/* @size bytes of address space where a large page begins, or NULL. */
static uint8_t *reserve(size_t size)
{
	uint8_t *p = mmap(NULL, size + BT_LARGE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = align_up((uintptr_t)p, BT_LARGE_PAGE) - (uintptr_t)p;
	if (before)
		munmap(p, before);
	if (before < BT_LARGE_PAGE)
		munmap(p + before + align_up(size, 4096), BT_LARGE_PAGE - before);
	return p + before;
}

/* One piece of memory in two places: mremap() of nothing of a shared mapping gives another one of it. No
 * memfd, because profilers look up the code of programs that make it only where no file is mapped. */
static int map_code(struct bt_cache *cache, uint8_t *at)
{
	uint8_t *code = reserve(cache->code_size);

	if (!code)
		return -ENOMEM;
	if (mmap(code, cache->code_size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED ||
	    mremap(code, 0, cache->code_size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED ||
	    mprotect(at, cache->code_size, PROT_READ | PROT_EXEC) < 0) {
		munmap(code, cache->code_size);
		return -errno;
	}
	cache->code = code;
	cache->exec = at;
	return 0;
}

int bt_jit_map(struct bt_cache *cache)
{
	size_t arena = align_up(cache->size, BT_LARGE_PAGE);

	cache->mapped = arena + cache->code_size;
	cache->arena = reserve(cache->mapped);
	if (!cache->arena)
		return -ENOMEM;
	if (host_is_fit())
		(void)map_code(cache, cache->arena + arena);
	return 0;
}

void bt_jit_unmap(struct bt_cache *cache)
{
	if (cache->code)
		munmap(cache->code, cache->code_size);
	if (cache->arena)
		munmap(cache->arena, cache->mapped);
}

static bool make_stubs(struct bt_vcpu *vcpu)
{
	struct bt_jit *jit = &vcpu->jit;
	struct emit e = { .p = jit->code + 64, .end = jit->code + BT_JIT_STUBS_BYTES,
			  .to_exec = jit->exec - jit->code };

	jit->wide_save = stub_wide_save(&e);
	jit->wide_load = stub_wide_load(&e);
	stub_leave(jit, &e);
	stub_enter(jit, &e);
	jit->call = stub_call(jit, &e, 0);
	jit->call_vec = stub_call(jit, &e, BT_JIT_YMM);
	jit->call_wide = stub_call(jit, &e, BT_JIT_WIDE);
	jit->vec_load = stub_vec_load(jit, &e, false);
	jit->vec_load_wide = stub_vec_load(jit, &e, true);
	jit->x87_load = stub_x87_load(jit, &e);
	jit->fill_read = stub_fill(jit, &e, false);
	jit->fill_write = stub_fill(jit, &e, true);
	stubs_slow(vcpu, &e);
	stubs_leave_call(vcpu, &e);
	stub_lookup(jit, &e);
	stub_cross(jit, &e);
	stub_ret_pop(jit, &e);
	jit_stubs_system(vcpu, &e);
	return !e.full;
}

void bt_jit_init(struct bt_vcpu *vcpu)
{
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;
	struct bt_jit *jit = &vcpu->jit;

	jit->threshold = BT_JIT_THRESHOLD;
	jit->self = &vcpu->cpu;
	jit->self_vcpu = vcpu;
	jit->off = bt_engine_of(vcpu)->off;
	jit->no_return = 0x5bd1e9959e3779b9ull ^ (uintptr_t)vcpu << 3;
	jit->code = cache->code;
	jit->exec = cache->exec;
	jit->size = cache->code_size;
	if (!jit->code)
		return;
	if (cache->stubs.enter) {
		jit->stubs = cache->stubs;
	} else {
		cache->on = make_stubs(vcpu);
		cache->stubs = jit->stubs;
	}
	jit->on = cache->on;
}
