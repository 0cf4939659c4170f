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

uintptr_t bt_jit_exec(void *self, const struct x86_insn *insn, struct bt_block *block, uint32_t off)
{
	struct x86_cpu *cpu = self;
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct bt_jit *jit = &vcpu->jit;
	const struct bt_block *next;
	bool x87 = jit->x87_loaded;
	uint32_t epoch = vcpu->epoch;
	uint64_t fault = BT_DIRECT_NOWHERE;
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
	if (unlikely(vcpu->direct.faulted))
		fault = bt_direct_fault(vcpu, insn);
	vcpu->count.block = block;
	vcpu->count.at = BT_COUNT_NATIVE;
	/* It may be poisoned by another vCPU. */
	r = __atomic_load_n(&insn->exec, __ATOMIC_RELAXED)(cpu, insn);
	vcpu->count.at = BT_COUNT_BETWEEN;
	if (unlikely(fault != BT_DIRECT_NOWHERE) && (r == X86_NEXT || r == X86_JUMP))
		bt_direct_done(vcpu, fault);
	bt_doing_set(&vcpu->stats, BT_DOING_NATIVE);
	/* Return addresses on the stack hold for one context, and as long as no code that this vCPU knows of
	 * has changed: it may just have done that itself. */
	if (likely(r == X86_NEXT && !cpu->stop_requested && epoch == vcpu->epoch &&
		   atomic_load_explicit(&jit->limit, memory_order_relaxed) != UINT64_MAX &&
		   !vector_changed(vcpu) && jit->x87_loaded == x87)) {
		flags_to_jit(vcpu);
		return 0;
	}
	if (jit->x87_loaded)
		bt_jit_x87_save(vcpu);
	/* The rest of the block is not executed. What bt_exec_cross() did it has counted. */
	if (unlikely(bt_engine_of(vcpu)->count_insns))
		bt_count_add(&vcpu->stats.insns,
			     MIN((uint64_t)(insn - block->insn) + bt_is_retired(cpu, r),
				 block->count) - block->count);
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
	(void)atomic_load_explicit(&bt_engine_of(vcpu)->cache->linked, memory_order_acquire);
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

/* ---- entries and links: all this is code that other vCPUs may be executing ---- */

static void set_exit(struct bt_cache *cache, struct bt_exit *exit, uint32_t to)
{
	exit->to = to;
	atomic_fetch_add_explicit(&cache->linked, 1, memory_order_release);
	emit_patch_live(cache->code + exit->site, cache->code + (to ? to : exit->stub));
}

static void link_near(struct bt_cache *cache, struct bt_exit *exit, const struct bt_block *from,
		      const struct bt_block *to)
{
	uint32_t entry = to->code;

	/* Unchecked entries are good while that of @from is. */
	if (from->gpa >> 12 != to->gpa >> 12 || !bt_region_of(cache, to)->live)
		return;
	if (!exit->full) {
		if (from->stamp != to->stamp || !bt_block_is_trusted(from))
			return;
		if (exit->forward)
			entry = exit->host_flags ? to->code_next_host : to->code_next;
		else if (exit->host_flags)
			entry = to->code_back;
	}
	set_exit(cache, exit, entry);
}

static void link_cross(struct bt_vcpu *vcpu, const struct bt_exit *exit, const struct bt_block *to)
{
	struct bt_jit *jit = &vcpu->jit;

	if (exit->slot) {
		jit->slot[exit->slot] = (struct bt_jit_slot){
			.key = (vcpu->cpu.s.rip & ~0xfffull) + jit->context,
			.code = (uintptr_t)jit->exec + to->code,
		};
		if (jit->slots_end <= exit->slot)
			jit->slots_end = exit->slot + 1u;
	}
	bt_jit_note_target(vcpu, to);
}

void bt_jit_link(struct bt_vcpu *vcpu, struct bt_exit *exit, const struct bt_block *to)
{
	const struct bt_block *from = (const struct bt_block *)((uint8_t *)(exit - exit->number) -
								offsetof(struct bt_block, exit));
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;
	uint32_t off = vcpu->jit.off;

	if (!to->code || off & BT_OFF_LINKS)
		return;
	if (exit->cross) {
		if (!(off & BT_OFF_CROSS))
			link_cross(vcpu, exit, to);
	} else if (exit->site) {
		pthread_mutex_lock(&cache->lock);
		link_near(cache, exit, from, to);
		pthread_mutex_unlock(&cache->lock);
	}
}

void bt_jit_forget_slots(struct bt_vcpu *vcpu)
{
	struct bt_jit *jit = &vcpu->jit;

	memset(jit->slot, 0, jit->slots_end * sizeof(jit->slot[0]));
	jit->slots_end = 0;
}

static void close_entry(struct bt_cache *cache, struct bt_block *block, uint32_t to)
{
	int32_t rel = (int32_t)(to - (block->code + 5));
	uint8_t jump[5] = { 0xe9 };

	memcpy(jump + 1, &rel, 4);
	emit_live(cache->code + block->code, jump, sizeof(jump));
	block->closed = to;
}

void bt_jit_reopen(struct bt_cache *cache, struct bt_block *block)
{
	if (!block->code || !block->closed)
		return;
	block->closed = 0;
	emit_live(cache->code + block->code, jit_entry_bytes, sizeof(jit_entry_bytes));
}

void bt_jit_open(struct bt_cache *cache, struct bt_block *block)
{
	/* First: who enters must not come to what went with the other stamp. */
	for (unsigned i = 0; block->code && i < 2; i++)
		if (block->exit[i].to)
			set_exit(cache, &block->exit[i], 0);
	bt_jit_reopen(cache, block);
}

void bt_jit_unlink(struct bt_cache *cache, struct bt_block *block, uint32_t first, uint32_t end)
{
	for (unsigned i = 0; i < 2; i++)
		if (block->exit[i].to >= first && block->exit[i].to < end)
			set_exit(cache, &block->exit[i], 0);
	if (block->closed >= first && block->closed < end)
		close_entry(cache, block, block->code_stale);
}

static uint32_t *page_list(struct bt_cache *cache, uint64_t gpa)
{
	return &cache->page_blocks[gpa >> 12 & ((1u << BT_JIT_PAGE_BITS) - 1)];
}

void bt_jit_list_block(struct bt_cache *cache, struct bt_block *block)
{
	uint32_t *head = page_list(cache, block->gpa);

	block->next_in_page = *head;
	*head = bt_block_offset(cache, block);
}

static void close_list(struct bt_cache *cache, uint32_t first)
{
	for (uint32_t i = first; i;) {
		struct bt_block *block = (struct bt_block *)(cache->arena + i);

		if (!block->closed && !bt_block_is_trusted(block))
			close_entry(cache, block, block->code_stale);
		i = block->next_in_page;
	}
}

void bt_jit_close_page(struct bt_cache *cache, uint64_t gpa)
{
	pthread_mutex_lock(&cache->lock);
	close_list(cache, *page_list(cache, gpa));
	pthread_mutex_unlock(&cache->lock);
}

void bt_jit_close_all(struct bt_cache *cache)
{
	pthread_mutex_lock(&cache->lock);
	for (unsigned i = 0; i < 1u << BT_JIT_PAGE_BITS; i++)
		close_list(cache, cache->page_blocks[i]);
	pthread_mutex_unlock(&cache->lock);
}

void bt_jit_replace(struct bt_vcpu *vcpu, struct bt_block *left, const struct bt_block *by)
{
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;

	pthread_mutex_lock(&cache->lock);
	if (left == by) {
		if (bt_block_is_trusted(left))
			bt_jit_reopen(cache, left);
	} else if (left->gpa == by->gpa && left->direct == by->direct && by->code && left->closed &&
		   !bt_block_is_trusted(left) && bt_region_of(cache, by)->live) {
		close_entry(cache, left, by->code);
	}
	pthread_mutex_unlock(&cache->lock);
}

static void note(const struct bt_vcpu *vcpu, struct bt_jit_target *at, const struct bt_block *block)
{
	if (vcpu->jit.off & BT_OFF_MAP)
		return;
	*at = (struct bt_jit_target){
		.rip = vcpu->cpu.s.rip,
		.epoch = vcpu->epoch,
		.code = (uintptr_t)vcpu->jit.exec + block->code,
	};
}

void bt_jit_note_target(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	note(vcpu, &vcpu->jit.map[jit_map_index(vcpu->cpu.s.rip)], block);
}

void bt_jit_note_back(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	note(vcpu, &vcpu->jit.back[jit_back_index(vcpu->cpu.s.rip, vcpu->cpu.space_now)], block);
}
