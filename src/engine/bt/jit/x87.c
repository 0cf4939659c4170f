// SPDX-License-Identifier: Apache-2.0
/*
 * x87.c - the guest's x87 state in the host's unit, and back.
 *
 * It goes there when a block with x87 instructions is entered, and stays while native code runs and
 * calls handlers that have nothing to do with it (C code of ours uses the unit nowhere else). Only
 * with all exceptions masked and none pending, so that the host never raises one. Instruction and data
 * pointers and the opcode are the guest's own, which native code keeps in cpu->s.
 */
#include <string.h>

#include "engine/bt/jit/jit_int.h"

#define MASKS 0x3fu /* of exceptions, in the control word */

/* XSAVE area with the x87 component only: SDM vol. 1, 13.4. */
struct area {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t rest[352];
	uint64_t bv, header[7];
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct area) == 576, "legacy area and header");

/* "memory": a part of it only. */
#define XSAVE_X87(op, area) __asm__ volatile(op " %0" : "+m"(*(area)) : "a"(1), "d"(0) : "memory")

bool bt_jit_x87_load(struct bt_vcpu *vcpu)
{
	const struct x86_fpu *f = &vcpu->cpu.s.fpu;
	struct area a;

	if (vcpu->cpu.s.cr0 & (X86_CR0_EM | X86_CR0_TS) || (f->fcw & MASKS) != MASKS)
		return false;
	memset(&a, 0, sizeof(a));
	a.fcw = f->fcw;
	a.fsw = f->fsw;
	a.ftw = f->ftw;
	memcpy(a.st, f->st, sizeof(a.st));
	a.bv = 1;
	XSAVE_X87("xrstor64", &a);
	vcpu->jit.x87_loaded = 1;
	return true;
}

void bt_jit_x87_save(struct bt_vcpu *vcpu)
{
	struct x86_fpu *f = &vcpu->cpu.s.fpu;
	struct area a;

	a.bv = 0;
	memset(a.header, 0, sizeof(a.header));
	XSAVE_X87("xsave64", &a);
	__asm__ volatile("fninit");
	vcpu->jit.x87_loaded = 0;
	f->fcw = a.fcw;
	f->fsw = a.fsw;
	f->ftw = a.ftw;
	for (unsigned i = 0; i < 8; i++)
		memcpy(f->st[i], a.st[i], 10);
}

bool bt_jit_x87_concerns(const struct x86_insn *insn)
{
	uint8_t op = insn->opcode;

	if (insn->exec == bt_exec_cross) /* any instruction */
		return true;
	if (insn->flags & (X86_INSN_VEX | X86_INSN_EVEX))
		return false;
	if (insn->map == 0)
		return (op & 0xf8) == 0xd8 || op == 0x9b;
	/* What certainly has neither MMX operands nor the whole state for one. */
	if (insn->map == 1)
		return !(op == 0x05 || op == 0x07 || (op >= 0x20 && op <= 0x23) ||
			 (op >= 0x30 && op <= 0x35) || (op >= 0x40 && op <= 0x4f) ||
			 (op >= 0x80 && op <= 0xc1 && op != 0xae));
	return true;
}
