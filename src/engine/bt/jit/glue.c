// SPDX-License-Identifier: Apache-2.0
/* glue.c - between the loop of a vCPU and native code. */
#include <asm/prctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/bt/jit/jit_int.h"

/* Room for the frames between the place of native code's stack and where it is entered from. */
#define JIT_STACK_GAP (16u << 10)

#define BT_MXCSR_FLAGS	 0x3fu
#define BT_MXCSR_DEFAULT 0x1f80u

void bt_jit_thread(struct bt_vcpu *vcpu)
{
	bt_direct_thread(vcpu);
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

/* The instruction at @at of @block. False: native code cannot go on behind it. */
static bool exec_insn(struct bt_vcpu *vcpu, struct bt_block *block, const struct x86_insn *insn,
		      unsigned at)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct bt_jit *jit = &vcpu->jit;
	uint32_t epoch = vcpu->epoch;
	uint64_t fault = BT_DIRECT_NOWHERE;
	bool x87 = jit->x87_loaded;
	int r;

	cpu->s.rip = jit->rip_page + (block->gpa & 0xfff) + at + insn->len;
	jit->next = cpu->s.rip;
	jit->insn = insn;
	cpu->stop_requested = false;
	bt_count(&vcpu->stats.handlers);
	bt_count_row(&vcpu->stats, insn->row);
	if (unlikely(x87) && bt_jit_x87_concerns(insn))
		bt_jit_x87_save(vcpu);
	if (unlikely(vcpu->direct.faulted))
		fault = bt_direct_fault(vcpu, insn);
	/* It may be poisoned by another vCPU. */
	r = __atomic_load_n(&insn->exec, __ATOMIC_RELAXED)(cpu, insn);
	if (unlikely(fault != BT_DIRECT_NOWHERE) && (r == X86_NEXT || r == X86_JUMP))
		bt_direct_done(vcpu, fault);
	jit->result = r;
	/* Return addresses on the stack hold for one context, and as long as no code that this vCPU knows of
	 * has changed: it may just have done that itself. */
	return likely(r == X86_NEXT && !cpu->stop_requested && epoch == vcpu->epoch &&
		      atomic_load_explicit(&jit->limit, memory_order_relaxed) != UINT64_MAX &&
		      !vector_changed(vcpu) && jit->x87_loaded == x87);
}

/* The rest of the block is not executed. */
static uintptr_t leave_behind(struct bt_vcpu *vcpu, struct bt_block *block)
{
	struct bt_jit *jit = &vcpu->jit;
	uintptr_t next;

	if (jit->x87_loaded)
		bt_jit_x87_save(vcpu);
	/* What bt_exec_cross() did it has counted. */
	if (unlikely(bt_engine_of(vcpu)->count_insns))
		bt_count_add(&vcpu->stats.insns,
			     MIN((uint64_t)jit->index + bt_is_retired(&vcpu->cpu, jit->result),
				 block->count) - block->count);
	next = jit->single ? 0 : bt_native_next(vcpu);
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	flags_to_jit(vcpu);
	if (!next)
		return BT_JIT_OUT;
	jit->rip_page = vcpu->cpu.s.rip & ~0xfffull;
	return next;
}

/* Behind native code: what others wrote of the blocks it came to. See bt_cache.links_made. */
static void see_blocks(const struct bt_vcpu *vcpu)
{
	(void)atomic_load_explicit(&bt_engine_of(vcpu)->cache->links_made, memory_order_acquire);
}

uintptr_t bt_jit_exec(void *self, struct bt_block *block, uint32_t which)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(self);
	struct bt_jit *jit = &vcpu->jit;
	unsigned at = which & 0xff, last = which >> 16;
	const struct x86_insn *insn;
	bool good;

	see_blocks(vcpu);
	jit->index = which >> 8 & 0xff;
	/* Those of a run: its copy is faster, and many never need one. */
	if (unlikely(jit->index != last) &&
	    atomic_fetch_add_explicit(&block->native.fallbacks, 1, memory_order_relaxed) ==
		    BT_JIT_FALLBACKS)
		bt_block_again(vcpu, block);
	vcpu->current = block;
	flags_from_jit(vcpu);
	bt_doing_set(&vcpu->stats, BT_DOING_HANDLER);
	vcpu->count.block = block;
	vcpu->count.at = BT_COUNT_NATIVE;
	for (;;) {
		insn = bt_block_insn(vcpu, block, jit->index, at);
		good = exec_insn(vcpu, block, insn, at);
		if (!good || jit->index == last)
			break;
		at += insn->len;
		jit->index++;
	}
	vcpu->count.at = BT_COUNT_BETWEEN;
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	if (!good)
		return leave_behind(vcpu, block);
	flags_to_jit(vcpu);
	return 0;
}

/* The stack of native code has a fixed place some way below here, so that its limit is a constant. */
static void place_stack(struct bt_vcpu *vcpu, uint64_t here)
{
	struct bt_jit *jit = &vcpu->jit;

	jit->stack = (here - JIT_STACK_GAP) & ~15ull;
	jit->stack_limit = jit->stack - BT_JIT_STACK;
	/* As in bt_request(): the limit first, then a look for requests. */
	atomic_store(&jit->limit, jit->stack_limit);
	if (atomic_load(&vcpu->request))
		atomic_store(&jit->limit, UINT64_MAX);
}

enum bt_jit_exit bt_jit_run(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	typedef void (*enter_fn)(struct x86_cpu *cpu, const void *code);
	struct bt_jit *jit = &vcpu->jit;
	enter_fn enter = (enter_fn)(uintptr_t)(jit->exec + (jit->enter - jit->code));
	uint64_t here = (uintptr_t)__builtin_frame_address(0);

	if (unlikely(here - jit->stack < JIT_STACK_GAP / 2 || here - jit->stack > 2 * JIT_STACK_GAP))
		place_stack(vcpu, here);
	flags_to_jit(vcpu);
	jit->rip_page = vcpu->cpu.s.rip & ~0xfffull;
	enter(&vcpu->cpu, jit->exec + block->code);
	see_blocks(vcpu);
	if (jit->x87_loaded)
		bt_jit_x87_save(vcpu);
	flags_from_jit(vcpu);
	switch ((enum bt_jit_exit)jit->exit_reason) {
	case BT_JIT_LINK:
		vcpu->cpu.s.rip =
			jit->rip_page + (uint64_t)bt_jit_left_to(jit->exit_ptr);
		break;
	case BT_JIT_REQUEST:
	case BT_JIT_STALE:
	case BT_JIT_ENTERED:
		vcpu->cpu.s.rip = jit->rip_page |
				  (((const struct bt_block *)jit->exit_ptr)->gpa & 0xfff);
		break;
	case BT_JIT_RIP:
		vcpu->cpu.s.rip = (uintptr_t)jit->exit_ptr;
		break;
	case BT_JIT_HANDLER: /* set by it, or by bt_jit_exec() */
		break;
	}
	return (enum bt_jit_exit)jit->exit_reason;
}
