// SPDX-License-Identifier: Apache-2.0
/* glue.c - between the loop of a vCPU and native code. */
#include <asm/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/bt/jit/jit_int.h"

#define BT_MXCSR_FLAGS	 0x3fu
#define BT_MXCSR_DEFAULT 0x1f80u

void bt_jit_thread(struct bt_vcpu *vcpu)
{
	/* Nothing else in a 64-bit process uses GS. */
	if (vcpu->jit.on && syscall(SYS_arch_prctl, ARCH_SET_GS, &vcpu->cpu) != 0)
		vcpu->jit.on = false;
}

static void flags_to_jit(struct bt_vcpu *vcpu)
{
	uint64_t fl = vcpu->cpu.s.rflags;

	vcpu->jit.flags = (uint16_t)((fl & 0xff) << 8 | (fl >> 11 & 1));
}

static void flags_from_jit(struct bt_vcpu *vcpu)
{
	uint16_t ax = vcpu->jit.flags;

	vcpu->cpu.s.rflags = (vcpu->cpu.s.rflags & ~(uint64_t)X86_FL_STATUS) |
			     (ax >> 8 & X86_FL_STATUS) | (uint64_t)(ax & 1) << 11;
}

/* Vector registers that were in the host's may not go back there. */
static bool vector_changed(const struct bt_vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;

	return vcpu->jit.vec_loaded &&
	       ((s->fpu.mxcsr & ~BT_MXCSR_FLAGS) != BT_MXCSR_DEFAULT ||
		s->cr0 & (X86_CR0_EM | X86_CR0_TS));
}

uintptr_t bt_jit_exec(void *self, const struct x86_insn *insn, struct bt_block *block, uint32_t off)
{
	struct x86_cpu *cpu = self;
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct bt_jit *jit = &vcpu->jit;
	const struct bt_block *next;
	bool x87 = jit->x87_loaded;
	int r;

	cpu->s.rip = jit->rip_page + off;
	jit->next = cpu->s.rip;
	vcpu->current = block;
	flags_from_jit(vcpu);
	cpu->stop_requested = false;
	bt_count(&vcpu->stats.handlers);
	bt_count_row(&vcpu->stats, insn->row);
	bt_doing_set(&vcpu->stats, BT_DOING_HANDLER);
	if (unlikely(x87) && bt_jit_x87_concerns(insn))
		bt_jit_x87_save(vcpu);
	r = insn->exec(cpu, insn);
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	if (likely(r == X86_NEXT && !cpu->stop_requested && !vector_changed(vcpu) &&
		   jit->x87_loaded == x87)) {
		flags_to_jit(vcpu);
		return 0;
	}
	if (jit->x87_loaded)
		bt_jit_x87_save(vcpu);
	jit->insn = insn;
	jit->result = r;
	next = jit->single ? NULL : bt_native_next(vcpu);
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	flags_to_jit(vcpu);
	if (!next)
		return BT_JIT_OUT;
	jit->rip_page = cpu->s.rip & ~0xfffull;
	return (uintptr_t)jit->exec + next->code;
}

enum bt_jit_exit bt_jit_run(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	typedef void (*enter_fn)(struct x86_cpu *cpu, const void *code);
	struct bt_jit *jit = &vcpu->jit;
	enter_fn enter = (enter_fn)(uintptr_t)(jit->exec + (jit->enter - jit->code));

	flags_to_jit(vcpu);
	jit->rip_page = vcpu->cpu.s.rip & ~0xfffull;
	enter(&vcpu->cpu, jit->exec + block->code);
	if (jit->x87_loaded)
		bt_jit_x87_save(vcpu);
	flags_from_jit(vcpu);
	switch ((enum bt_jit_exit)jit->exit_reason) {
	case BT_JIT_LINK:
		vcpu->cpu.s.rip =
			jit->rip_page + (uint64_t)((const struct bt_exit *)jit->exit_ptr)->off;
		break;
	case BT_JIT_REQUEST:
	case BT_JIT_STALE:
	case BT_JIT_VECTOR:
		vcpu->cpu.s.rip = jit->rip_page |
				  (((const struct bt_block *)jit->exit_ptr)->gpa & 0xfff);
		break;
	case BT_JIT_HANDLER: /* set by it, or by bt_jit_exec() */
		break;
	}
	return (enum bt_jit_exit)jit->exit_reason;
}

void bt_jit_link(struct bt_vcpu *vcpu, struct bt_exit *exit, const struct bt_block *to)
{
	uint8_t *code = vcpu->jit.code;

	if (!exit->site || !to->code)
		return;
	if (exit->cross) {
		exit->from_page = vcpu->cpu.s.rip - (uint64_t)exit->off;
		exit->epoch = vcpu->epoch;
	}
	emit_patch(code + exit->site, code + (exit->host_flags ? to->code_host : to->code));
}

void bt_jit_replace(struct bt_vcpu *vcpu, const struct bt_block *dead, const struct bt_block *by)
{
	struct emit e = { .p = vcpu->jit.code + dead->code, .to_exec = 0 };

	if (dead == by || dead->gpa != by->gpa || !by->code)
		return;
	e.end = e.p + 64; /* the jump takes 5 bytes, and no entry is shorter */
	emit_jmp_to(&e, vcpu->jit.code + by->code);
}

void bt_jit_note_target(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	uint64_t rip = vcpu->cpu.s.rip;
	uint32_t slot = (uint32_t)(rip ^ rip >> 12) & ((1u << BT_JIT_MAP_BITS) - 1);

	vcpu->jit.map[slot] = (struct bt_jit_target){
		.rip = rip,
		.epoch = vcpu->epoch,
		.code = block->code,
	};
}
