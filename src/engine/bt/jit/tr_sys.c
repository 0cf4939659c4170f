// SPDX-License-Identifier: Apache-2.0
/*
 * tr_sys.c - system instructions that are emitted: what a kernel does often and what needs no more than
 * a look at privilege. Whatever is unusual goes to the handler.
 */
#include "engine/bt/jit/tr.h"

#include "x86/insns.h"

#define GS_CPU(field) ((int32_t)offsetof(struct x86_cpu, field))
#define GS_SEG(which, field)                                                                       \
	((int32_t)(offsetof(struct x86_cpu, s.seg) + (which) * sizeof(struct x86_segment) +        \
		   offsetof(struct x86_segment, field)))

/* Flags that POPF may change here; with a change of any other it is the handler's. */
#define POPF_OTHERS                                                                                \
	(X86_FL_TF | X86_FL_IOPL | X86_FL_NT | X86_FL_RF | X86_FL_VM | X86_FL_AC | X86_FL_VIF |    \
	 X86_FL_VIP | X86_FL_ID)

/* What SYSRET of 64-bit mode may set, as syscall.c has it. */
#define SYSRET_FLAGS 0x3c7fd7

/* Group 1 on 32 bits of the state. */
static void alu_gs(struct tr *t, unsigned op, int32_t off, uint32_t imm)
{
	EMIT(&t->e, .opcode = 0x81, .kind = EMIT_GS, .reg = (uint8_t)op, .rm = H_NONE, .disp = off,
	     .imm = imm, .imm_len = 4);
}

static void test_gs(struct tr *t, int32_t off, uint32_t mask)
{
	EMIT(&t->e, .opcode = 0xf7, .kind = EMIT_GS, .rm = H_NONE, .disp = off, .imm = mask,
	     .imm_len = 4);
}

static void compare_byte_gs(struct tr *t, int32_t off, uint8_t with)
{
	EMIT(&t->e, .opcode = 0x80, .kind = EMIT_GS, .reg = ALU_CMP, .rm = H_NONE, .disp = off,
	     .imm = with, .imm_len = 1);
}

static void alu_rr(struct emit *e, uint8_t opcode, bool wide, unsigned to, unsigned from)
{
	EMIT(e, .opcode = opcode, .w = wide, .kind = EMIT_REG, .reg = (uint8_t)from,
	     .rm = (uint8_t)to);
}

static void shl(struct emit *e, bool wide, unsigned reg, uint8_t n)
{
	EMIT(e, .opcode = 0xc1, .w = wide, .kind = EMIT_REG, .reg = 4, .rm = (uint8_t)reg, .imm = n,
	     .imm_len = 1);
}

/* Spoils the host's flags. */
static void privileged(struct tr *t, unsigned i)
{
	tr_flags_spoil(t, i);
	compare_byte_gs(t, GS_CPU(cpl), 0);
	tr_slow_if(t, i, CC_NE);
}

static void to_guest(struct tr *t, unsigned guest, unsigned reg)
{
	unsigned host = host_of(guest);

	if (host == H_NONE)
		emit_store_gs(&t->e, GS_GPR(guest), reg);
	else
		emit_mov_rr(&t->e, host, reg);
}

static void swapgs(struct tr *t, unsigned i)
{
	privileged(t, i);
	emit_load_gs(&t->e, T_1, GS_SEG(X86_GS, base));
	emit_load_gs(&t->e, T_2, GS_CPU(s.kernel_gs_base));
	emit_store_gs(&t->e, GS_SEG(X86_GS, base), T_2);
	emit_store_gs(&t->e, GS_CPU(s.kernel_gs_base), T_1);
}

static void cli(struct tr *t, unsigned i)
{
	privileged(t, i);
	alu_gs(t, ALU_AND, GS_CPU(s.rflags), ~(uint32_t)X86_FL_IF);
}

/* In front of what sets IF: to the handler, which lets it be delivered, when an interrupt waits. One
 * that comes later is noticed at the next block. */
static void nothing_waits(struct tr *t, unsigned i)
{
	compare_byte_gs(t, GS_VCPU(irq_waiting), 0);
	tr_slow_if(t, i, CC_NE);
	EMIT(&t->e, .opcode = 0x83, .kind = EMIT_GS, .reg = ALU_CMP, .rm = H_NONE,
	     .disp = GS_VCPU(request), .imm_len = 1);
	tr_slow_if(t, i, CC_NE);
}

/* Requests are looked at between blocks, hence behind the instruction that follows: that is all the
 * shadow STI casts. */
static void sti(struct tr *t, unsigned i)
{
	if (i + 1u == t->block->count) {
		tr_handler(t, i);
		return;
	}
	privileged(t, i);
	nothing_waits(t, i);
	alu_gs(t, ALU_OR, GS_CPU(s.rflags), X86_FL_IF);
}

_Static_assert(sizeof(struct x86_tlb_entry) == 32 && X86_TLB_AC_SIZE == 1 << 10, "the shift below");

/* With EFLAGS.AC another table of the TLB counts, as x86_tlb_select() has it. */
static void smap(struct tr *t, unsigned i)
{
	bool lift = t->block->insn[i].exec == x86_op_stac;
	struct emit *e = &t->e;

	privileged(t, i);
	compare_byte_gs(t, GS_CPU(tlb_mode), X86_TLB_SLOW);
	tr_slow_if(t, i, CC_E);
	alu_gs(t, lift ? ALU_OR : ALU_AND, GS_CPU(s.rflags),
	       lift ? X86_FL_AC : ~(uint32_t)X86_FL_AC);
	EMIT(e, .opcode = 0xc6, .kind = EMIT_GS, .rm = H_NONE, .disp = GS_CPU(tlb_mode),
	     .imm = lift ? X86_TLB_KERNEL_AC : X86_TLB_KERNEL, .imm_len = 1);
	emit_load_gs(e, T_1, GS_CPU(tlb));
	if (lift) {
		EMIT(e, .map = 1, .opcode = 0xb6, .kind = EMIT_GS, .reg = T_2, .rm = H_NONE,
		     .disp = GS_CPU(space_now));
		shl(e, true, T_2, 10 + 5);
		alu_rr(e, 0x01, true, T_1, T_2);
	}
	emit_lea(e, T_1, T_1,
		 (int32_t)(offsetof(struct x86_tlb, entry) +
			   (lift ? X86_TLB_AC_AT * sizeof(struct x86_tlb_entry) : 0)));
	emit_store_gs(e, GS_CPU(tlb_table), T_1);
	EMIT(e, .opcode = 0xc7, .w = true, .kind = EMIT_GS, .rm = H_NONE, .disp = GS_CPU(tlb_mask),
	     .imm = ((lift ? X86_TLB_AC_SIZE : X86_TLB_KERNEL_SIZE) - 1) *
		    sizeof(struct x86_tlb_entry), .imm_len = 4);
}

static void direction(struct tr *t, unsigned i)
{
	bool set = t->block->insn[i].exec == x86_op_std;

	tr_flags_spoil(t, i);
	alu_gs(t, set ? ALU_OR : ALU_AND, GS_CPU(s.rflags),
	       set ? X86_FL_DF : ~(uint32_t)X86_FL_DF);
}

static void pushf(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;

	tr_stack(t, i, HOST_SP, -8, true);
	EMIT(e, .map = 1, .opcode = 0xb7, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_VCPU(jit.flags));
	emit_mov_rr(e, T_2, T_1);
	tr_shr(e, false, T_1, 8);
	tr_alu_imm(e, ALU_AND, false, T_2, 1);
	shl(e, false, T_2, 11);
	alu_rr(e, 0x09, false, T_1, T_2);
	emit_load_gs32(e, T_2, GS_CPU(s.rflags));
	tr_alu_imm(e, ALU_AND, false, T_2,
		   (int32_t)~(uint32_t)(X86_FL_STATUS | X86_FL_RF | X86_FL_VM));
	alu_rr(e, 0x09, false, T_1, T_2);
	tr_store_mem(e, T_ADDR, T_1);
	emit_lea(e, HOST_SP, HOST_SP, -8);
}

/* With privilege, and where nothing but status, direction and interrupt flag changes. */
static void popf(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;
	uint8_t *shut;

	privileged(t, i);
	tr_stack(t, i, HOST_SP, 0, false);
	tr_load_mem(e, T_ADDR, T_ADDR);
	emit_load_gs32(e, T_1, GS_CPU(s.rflags));
	alu_rr(e, 0x31, false, T_1, T_ADDR);
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_1, .imm = POPF_OTHERS, .imm_len = 4);
	tr_slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_ADDR, .imm = X86_FL_IF, .imm_len = 4);
	shut = emit_jcc(e, CC_E);
	nothing_waits(t, i);
	emit_patch_here(e, shut);
	/* The changes that are left, to RFLAGS. */
	tr_alu_imm(e, ALU_AND, false, T_1, X86_FL_IF | X86_FL_DF);
	EMIT(e, .opcode = 0x31, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE, .disp = GS_CPU(s.rflags));
	emit_mov_rr(e, T_1, T_ADDR);
	tr_alu_imm(e, ALU_AND, false, T_1, X86_FL_STATUS & 0xff);
	tr_alu_imm(e, ALU_OR, false, T_1, X86_FL_ONE);
	shl(e, false, T_1, 8);
	tr_shr(e, false, T_ADDR, 11);
	tr_alu_imm(e, ALU_AND, false, T_ADDR, 1);
	alu_rr(e, 0x09, false, T_1, T_ADDR);
	EMIT(e, .opcode = 0x89, .p66 = true, .kind = EMIT_GS, .reg = T_1, .rm = H_NONE,
	     .disp = GS_VCPU(jit.flags));
	emit_lea(e, HOST_SP, HOST_SP, 8);
	t->in_host = false;
	t->in_mem = true;
}

static void rdtsc(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;

	if (!bt_engine_of(t->vcpu)->clock.host_tsc) {
		tr_handler(t, i);
		return;
	}
	tr_flags_spoil(t, i);
	test_gs(t, GS_CPU(s.cr4), X86_CR4_TSD);
	tr_slow_if(t, i, CC_NE);
	/* RDTSCP waits for what precedes it, or CPUs that compare their counters see them go back. */
	if (t->block->insn[i].exec == x86_op_rdtscp)
		EMIT(e, .map = 1, .opcode = 0xae, .kind = EMIT_REG, .reg = 5); /* LFENCE */
	EMIT(e, .map = 1, .opcode = 0x31);
	shl(e, true, H_RDX, 32);
	alu_rr(e, 0x09, true, H_RAX, H_RDX);
	EMIT(e, .opcode = 0x03, .w = true, .kind = EMIT_GS, .reg = H_RAX, .rm = H_NONE,
	     .disp = GS_VCPU(tsc_offset));
	emit_mov_rr(e, H_RDX, H_RAX);
	tr_shr(e, true, H_RDX, 32);
	EMIT(e, .opcode = 0x89, .kind = EMIT_REG, .reg = H_RAX, .rm = H_RAX);
	if (t->block->insn[i].exec == x86_op_rdtscp)
		emit_load_gs32(e, H_RCX, GS_CPU(s.tsc_aux));
}

/* MOV to a register from a segment register: zero-extended, but in 16 bits. */
static void mov_from_seg(struct tr *t, unsigned i)
{
	const struct x86_insn *insn = &t->block->insn[i];
	unsigned host = host_of(insn->rm), reg = host == H_NONE ? T_1 : host;

	if (insn->opsize == 2) {
		EMIT(&t->e, .opcode = 0x8b, .p66 = true, .kind = EMIT_GS, .reg = (uint8_t)reg,
		     .rm = H_NONE, .disp = GS_SEG(insn->reg, selector));
		if (host == H_NONE)
			EMIT(&t->e, .opcode = 0x89, .p66 = true, .kind = EMIT_GS, .reg = T_1,
			     .rm = H_NONE, .disp = GS_GPR(insn->rm));
		return;
	}
	EMIT(&t->e, .map = 1, .opcode = 0xb7, .kind = EMIT_GS, .reg = (uint8_t)reg, .rm = H_NONE,
	     .disp = GS_SEG(insn->reg, selector));
	if (host == H_NONE)
		emit_store_gs(&t->e, GS_GPR(insn->rm), reg);
}

static void mov_from_cr(struct tr *t, unsigned i)
{
	static const int32_t at[] = {
		[0] = GS_CPU(s.cr0), [2] = GS_CPU(s.cr2), [3] = GS_CPU(s.cr3), [4] = GS_CPU(s.cr4),
	};
	const struct x86_insn *insn = &t->block->insn[i];

	privileged(t, i);
	emit_load_gs(&t->e, T_1, at[insn->reg]);
	to_guest(t, insn->rm, T_1);
}

static void read_base(struct tr *t, unsigned i, unsigned seg)
{
	const struct x86_insn *insn = &t->block->insn[i];

	tr_flags_spoil(t, i);
	test_gs(t, GS_CPU(s.cr4), X86_CR4_FSGSBASE);
	tr_slow_if(t, i, CC_E);
	if (insn->opsize == 8)
		emit_load_gs(&t->e, T_1, GS_SEG(seg, base));
	else
		emit_load_gs32(&t->e, T_1, GS_SEG(seg, base));
	to_guest(t, insn->rm, T_1);
}

/* Or to the handler: bits 47 to 63 of @reg are alike. Spoils T_2. */
static void canonical(struct tr *t, unsigned i, unsigned reg)
{
	struct emit *e = &t->e;

	emit_mov_rr(e, T_2, reg);
	shl(e, true, T_2, 16);
	EMIT(e, .opcode = 0xc1, .w = true, .kind = EMIT_REG, .reg = 7, .rm = T_2, .imm = 16,
	     .imm_len = 1);
	alu_rr(e, 0x39, true, T_2, reg);
	tr_slow_if(t, i, CC_NE);
}

static void write_base(struct tr *t, unsigned i, unsigned seg)
{
	const struct x86_insn *insn = &t->block->insn[i];
	struct emit *e = &t->e;
	unsigned reg;

	tr_flags_spoil(t, i);
	test_gs(t, GS_CPU(s.cr4), X86_CR4_FSGSBASE);
	tr_slow_if(t, i, CC_E);
	reg = tr_value_reg(t, insn->rm, T_1);
	if (insn->opsize == 8) {
		canonical(t, i, reg);
	} else {
		EMIT(e, .opcode = 0x89, .kind = EMIT_REG, .reg = (uint8_t)reg, .rm = T_1);
		reg = T_1;
	}
	emit_store_gs(e, GS_SEG(seg, base), reg);
}

/* The handler does not come back. */
static void handler_leaves(struct tr *t, unsigned i)
{
	tr_handler(t, i);
	EMIT(&t->e, .map = 1, .opcode = 0x0b); /* UD2 */
}

void tr_syscall(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;

	if (bt_engine_of(t->vcpu)->off & BT_OFF_SYSTEM) {
		handler_leaves(t, i);
		return;
	}
	tr_flags_spoil(t, i);
	compare_byte_gs(t, GS_VCPU(to_kernel.open), 1);
	tr_slow_if(t, i, CC_NE);
	emit_load_gs(e, T_ADDR, GS_VCPU(jit.rip_page));
	emit_lea(e, T_ADDR, T_ADDR, (int32_t)t->next_off[i]);
	emit_jmp_to(e, t->vcpu->jit.syscall);
}

/* To 64-bit code, with what lets an interrupt in or makes accesses slow left to the handler. */
void tr_sysret(struct tr *t, unsigned i)
{
	struct emit *e = &t->e;
	uint8_t *shut;

	if (bt_engine_of(t->vcpu)->off & BT_OFF_SYSTEM) {
		handler_leaves(t, i);
		return;
	}
	privileged(t, i);
	compare_byte_gs(t, GS_VCPU(to_kernel.open), 1); /* EFER.SCE */
	tr_slow_if(t, i, CC_NE);
	compare_byte_gs(t, GS_VCPU(to_user.open), 1);
	tr_slow_if(t, i, CC_NE);
	emit_mov_rr(e, T_1, H_R11);
	tr_alu_imm(e, ALU_AND, false, T_1, SYSRET_FLAGS);
	tr_alu_imm(e, ALU_OR, false, T_1, X86_FL_ONE);
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_1, .imm = X86_FL_TF | X86_FL_AC, .imm_len = 4);
	tr_slow_if(t, i, CC_NE);
	EMIT(e, .opcode = 0xf7, .kind = EMIT_REG, .rm = T_1, .imm = X86_FL_IF, .imm_len = 4);
	shut = emit_jcc(e, CC_E);
	nothing_waits(t, i);
	emit_patch_here(e, shut);
	canonical(t, i, H_RCX);
	emit_jmp_to(e, t->vcpu->jit.sysret);
}

void tr_sys(struct tr *t, unsigned i)
{
	x86_exec_fn exec = t->block->insn[i].exec;

	if (bt_engine_of(t->vcpu)->off & BT_OFF_SYSTEM)
		tr_handler(t, i);
	else if (exec == x86_op_swapgs)
		swapgs(t, i);
	else if (exec == x86_op_cli)
		cli(t, i);
	else if (exec == x86_op_sti)
		sti(t, i);
	else if (exec == x86_op_stac || exec == x86_op_clac)
		smap(t, i);
	else if (exec == x86_op_cld || exec == x86_op_std)
		direction(t, i);
	else if (exec == x86_op_pushf8)
		pushf(t, i);
	else if (exec == x86_op_popf8)
		popf(t, i);
	else if (exec == x86_op_rdtsc || exec == x86_op_rdtscp)
		rdtsc(t, i);
	else if (exec == x86_op_mov_r_cr)
		mov_from_cr(t, i);
	else if (exec == x86_op_rdfsbase || exec == x86_op_rdgsbase)
		read_base(t, i, exec == x86_op_rdfsbase ? X86_FS : X86_GS);
	else if (exec == x86_op_wrfsbase || exec == x86_op_wrgsbase)
		write_base(t, i, exec == x86_op_wrfsbase ? X86_FS : X86_GS);
	else
		mov_from_seg(t, i);
}
