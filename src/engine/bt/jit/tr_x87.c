// SPDX-License-Identifier: Apache-2.0
/*
 * tr_x87.c - x87 instructions, emitted as they are while the guest's state is in the host's unit (x87.c).
 *
 * FIP, FOP and, with a memory operand, FDP are written behind what may fault: SDM vol. 1, 8.1.8.
 */
#include "engine/bt/jit/tr.h"

#include "x86/insns.h"

#define GS_FPU(field) ((int32_t)offsetof(struct x86_cpu, s.fpu.field))

void tr_x87_entry(struct tr *t)
{
	struct emit *e = &t->e;
	bool any = false;

	for (unsigned i = 0; i < t->block->count; i++)
		any |= t->desc[i].x87;
	if (!any)
		return;
	EMIT(e, .opcode = 0x80, .kind = EMIT_GS, .reg = ALU_CMP, .rm = H_NONE,
	     .disp = GS_VCPU(jit.x87_loaded), .imm_len = 1);
	t->x87 = emit_jcc(e, CC_E);
	t->x87_back = e->p;
}

void tr_x87_finish(struct tr *t)
{
	if (!t->x87)
		return;
	emit_patch_here(&t->e, t->x87);
	emit_lea_rip(&t->e, T_1, t->to);
	emit_call_to(&t->e, t->vcpu->jit.x87_load);
	emit_jmp_to(&t->e, t->x87_back);
}

/* FNSTCW, FNSTSW, FLDCW, FNCLEX, EMMS: no pointers. */
static bool is_control(x86_exec_fn exec)
{
	return exec == x86_op_x87_fnstcw || exec == x86_op_x87_fnstsw ||
	       exec == x86_op_x87_fnstsw_ax || exec == x86_op_x87_fldcw ||
	       exec == x86_op_x87_fnclex || exec == x86_op_mmx_emms;
}

static void note(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit *e = &t->e;

	emit_load_gs(e, T_1, GS_VCPU(jit.rip_page));
	emit_lea(e, T_1, T_1, (int32_t)(t->next_off[i] - insn->len));
	emit_store_gs(e, GS_FPU(fip), T_1);
	EMIT(e, .opcode = 0xc7, .p66 = true, .kind = EMIT_GS, .rm = H_NONE, .disp = GS_FPU(fop),
	     .imm = (insn->opcode & 7u) << 8 | insn->modrm, .imm_len = 2);
	if (insn->flags & X86_INSN_MEM) {
		emit_load_gs(e, T_1, GS_VCPU(jit.tmp));
		emit_store_gs(e, GS_FPU(fdp), T_1);
	}
}

/* A copy is loaded, which no other vCPU can change behind the look at its masks. */
static void fldcw(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;

	EMIT(e, .map = 1, .opcode = 0xb7, .kind = EMIT_MEM, .reg = T_1, .rm = T_ADDR,
	     .index = H_NONE);
	emit_mov_rr(e, T_2, T_1);
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .reg = 2, .rm = T_2); /* not */
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_2, .imm = 0x3f, .imm_len = 4);
	tr_slow_if(t, i, CC_NE);
	emit_store_gs(e, GS_VCPU(jit.tmp), T_1);
	EMIT(e, .opcode = 0xd9, .kind = EMIT_GS, .reg = 5, .rm = H_NONE, .disp = GS_VCPU(jit.tmp));
}

void tr_x87(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	const struct jit_desc *d = &t->desc[i];
	bool mem = insn->flags & X86_INSN_MEM, control = is_control(insn->exec);
	struct emit *e = &t->e;

	if (insn->exec == x86_op_x87_wait)
		return; /* nothing is pending */
	if (mem && !control) {
		tr_ea(t, i, T_2, true);
		emit_store_gs(e, GS_VCPU(jit.tmp), T_2);
	}
	if (mem)
		tr_operand(t, i, d->mem_len, 1, d->rm_use & JIT_W);
	if (insn->exec == x86_op_x87_fldcw) {
		fldcw(t, i);
		return;
	}
	tr_flags_want(t, i);
	if (!control)
		note(t, i);
	if (insn->map == 1)
		EMIT(e, .map = 1, .opcode = insn->opcode);
	else
		EMIT(e, .opcode = insn->opcode, .kind = mem ? EMIT_MEM : EMIT_REG,
		     .reg = insn->modrm >> 3 & 7, .rm = mem ? T_ADDR : insn->modrm & 7,
		     .index = H_NONE);
	tr_flags_written(t, i);
}
