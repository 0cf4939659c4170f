// SPDX-License-Identifier: Apache-2.0
/* cache.c - blocks: found, and checked against memory. See cache.h for who may do what. */
#include "engine/bt/bt_int.h"

#include <sched.h>
#include <string.h>

/* An instruction of a hot page cools it by one step in so many executions. */
#define BT_COOL_STEPS 256u

/* ---- fetch context ---- */

void bt_ways_close(struct bt_vcpu *vcpu)
{
	vcpu->to_kernel.open = vcpu->to_user.open = false;
	for (unsigned i = 0; i < X86_TLB_SPACES; i++)
		vcpu->way[i].to_user.open = false;
}

static uint32_t bt_next_series(struct bt_vcpu *vcpu)
{
	vcpu->epoch_series++;
	bt_ways_close(vcpu);
	/* Numbers begin again, in full or as bt_jit_context() cuts them: nothing old may match. */
	if (unlikely(vcpu->epoch_series % BT_JIT_SERIES == 0)) {
		if (vcpu->epoch_series >> 27) {
			memset(vcpu->maps.map, 0, sizeof(vcpu->maps.map));
			memset(vcpu->jit.map, 0, sizeof(vcpu->jit.map));
			memset(vcpu->jit.back, 0, sizeof(vcpu->jit.back));
			vcpu->epoch_series = vcpu->maps.since = 0;
		}
		bt_jit_forget_slots(vcpu);
		vcpu->series_kernel = ++vcpu->epoch_series;
		for (unsigned i = 0; i < X86_TLB_SPACES; i++)
			vcpu->series_user[i] = ++vcpu->epoch_series;
		vcpu->epoch_series++;
	}
	return vcpu->epoch_series;
}

/* User and kernel are told apart by a bit of the epoch: they may share a number. */
static void bt_all_series(struct bt_vcpu *vcpu)
{
	for (unsigned i = 0; i < X86_TLB_SPACES; i++)
		vcpu->series_user[i] = bt_next_series(vcpu);
	vcpu->series_kernel = bt_next_series(vcpu);
}

/* Direct code has series of its own. */
static void bt_context_direct(struct bt_vcpu *vcpu)
{
	unsigned space = vcpu->cpu.space_now;
	bool live = bt_direct_resume(vcpu);

	if (live == vcpu->direct.live[space])
		return;
	vcpu->direct.live[space] = live;
	vcpu->series_user[space] = bt_next_series(vcpu);
}

uint16_t bt_context_direct_of(const struct bt_vcpu *vcpu)
{
	bool direct = vcpu->direct.live[vcpu->cpu.space_now] && vcpu->cpu.cpl == 3;

	return direct ? (uint16_t)(vcpu->base.index + 1) : 0;
}

/* SYSCALL goes by the way only where no TF and no AC can be left behind it. */
static void bt_note_way(struct bt_vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	bool user = cpu->cpl == 3;

	if (cpu->code_bytes != 8)
		return;
	*(user ? &vcpu->to_user : &vcpu->to_kernel) = (struct bt_way){
		.tlb_table = &vcpu->tlb.entry[user ? X86_TLB_USER_AT + cpu->space_now *
								       X86_TLB_USER_SIZE : 0],
		.context = vcpu->jit.context,
		.epoch = vcpu->epoch,
		.open = user ? !vcpu->user.now : (cpu->s.efer & X86_EFER_SCE &&
				 !(~cpu->s.sfmask & (X86_FL_TF | X86_FL_AC))),
	};
	if (user) {
		vcpu->way[cpu->space_now].to_user = vcpu->to_user;
		vcpu->way[cpu->space_now].cr3 = cpu->s.cr3;
	}
}

void bt_context_update(struct bt_vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	bool flat = cpu->code_bytes == 8;
	uint64_t base = flat ? 0 : cpu->s.seg[X86_CS].base;
	uint32_t limit = flat ? UINT32_MAX : cpu->s.seg[X86_CS].limit;

	if (unlikely(base != vcpu->context_base || limit != vcpu->context_limit)) {
		vcpu->context_base = base;
		vcpu->context_limit = limit;
		bt_all_series(vcpu);
	}
	if (vcpu->user.able)
		bt_user_resume(vcpu);
	if (cpu->cpl == 3)
		bt_context_direct(vcpu);
	/* Bits: user, code size 2, 4, 8 as 0, 1, 2; and one that keeps 0 free. */
	vcpu->epoch = (cpu->cpl == 3 ? vcpu->series_user[cpu->space_now] : vcpu->series_kernel)
			      << 4 |
		      8 | (cpu->code_bytes / 4u) << 1 | (cpu->cpl == 3);
	vcpu->jit.context = bt_jit_context(vcpu->epoch);
	bt_note_way(vcpu);
}

void bt_context_turn(struct bt_vcpu *vcpu)
{
	const struct x86_cpu *cpu = &vcpu->cpu;
	bool user = cpu->cpl == 3;
	const struct bt_way *way = user ? &vcpu->to_user : &vcpu->to_kernel;

	/* bt_user_resume() wants to know that the kernel was entered. */
	if (unlikely(cpu->code_bytes != 8 || !way->open || vcpu->user.paused || vcpu->user.wanted ||
		     (user && cpu->tlb_mode != X86_TLB_USER))) {
		bt_context_update(vcpu);
		return;
	}
	vcpu->epoch = way->epoch;
	vcpu->jit.context = way->context;
}

void bt_context_flush(struct bt_vcpu *vcpu)
{
	bt_count(&vcpu->stats.contexts);
	bt_direct_flush(vcpu);
	bt_user_flush(vcpu);
	bt_all_series(vcpu);
	vcpu->kernel_local = false;
	memset(vcpu->fetched, 0, sizeof(vcpu->fetched));
	bt_context_update(vcpu);
}

void bt_context_switch(struct bt_vcpu *vcpu, unsigned changed, bool kept)
{
	unsigned space = vcpu->cpu.space_now;

	if (vcpu->kernel_local) {
		bt_context_flush(vcpu);
		return;
	}
	vcpu->to_user = vcpu->way[space].to_user;
	vcpu->to_user.open &= vcpu->way[space].cr3 == vcpu->cpu.s.cr3;
	if (!kept) {
		bt_direct_flush_space(vcpu, changed);
		bt_user_flush_space(vcpu, changed);
		vcpu->series_user[changed] = bt_next_series(vcpu);
		memset(vcpu->fetched[changed], 0, sizeof(vcpu->fetched[0]));
	}
	bt_context_update(vcpu);
}

static uint64_t *bt_fetched_word(struct bt_vcpu *vcpu, uint64_t linear)
{
	unsigned space = linear >> 63 ? X86_TLB_SPACES : vcpu->cpu.space_now;

	return &vcpu->fetched[space][(linear >> 18) % BT_FETCHED_WORDS];
}

void bt_context_note_fetch(struct bt_vcpu *vcpu, uint64_t linear)
{
	if (vcpu->cpu.cpl < 3 && !vcpu->cpu.fetch_global)
		vcpu->kernel_local = true;
	*bt_fetched_word(vcpu, linear) |= 1ull << (linear >> 12 & 63);
}

/* Most pages that are unmapped hold data: nothing was fetched from them in this series. Global pages
 * of the lower half would be of all spaces. */
void bt_context_flush_page(struct bt_vcpu *vcpu, uint64_t linear)
{
	if (!(*bt_fetched_word(vcpu, linear) >> (linear >> 12 & 63) & 1) && !vcpu->cpu.tlb_foreign)
		return;
	if (linear >> 63 || vcpu->kernel_local || vcpu->cpu.tlb_foreign)
		bt_context_flush(vcpu);
	else
		bt_context_switch(vcpu, vcpu->cpu.space_now, false);
}

/* ---- blocks ---- */

static uint64_t bt_block_key(uint64_t gpa, unsigned code_bytes, unsigned direct)
{
	return (gpa ^ (uint64_t)code_bytes << 60 ^ (uint64_t)direct << 48) * 0x9e3779b97f4a7c15ull;
}

static struct bt_hash_set *bt_hash_set_of(struct bt_cache *cache, uint64_t key)
{
	return &cache->hash[key >> (64 - BT_HASH_BITS)];
}

static uint64_t bt_hash_way(uint64_t key, uint32_t offset)
{
	return key << 32 | offset;
}

void bt_hash_insert(struct bt_cache *cache, const struct bt_block *block)
{
	uint64_t key = bt_block_key(block->gpa, block->code_bytes, block->direct);
	struct bt_hash_set *set = bt_hash_set_of(cache, key);
	unsigned way = BT_HASH_WAYS;

	for (unsigned i = 0; i < BT_HASH_WAYS; i++) {
		uint64_t at = atomic_load_explicit(&set->way[i], memory_order_relaxed);

		if (at >> 32 == (uint32_t)key && at) {
			way = i;
			break;
		}
		if (!at && way == BT_HASH_WAYS)
			way = i;
	}
	if (way == BT_HASH_WAYS)
		way = cache->next_way++ % BT_HASH_WAYS;
	/* What was written to the block is seen by who finds it. */
	atomic_store_explicit(&set->way[way], bt_hash_way(key, bt_block_offset(cache, block)),
			      memory_order_release);
}

void bt_hash_remove(struct bt_cache *cache, const struct bt_block *block)
{
	uint64_t key = bt_block_key(block->gpa, block->code_bytes, block->direct);
	struct bt_hash_set *set = bt_hash_set_of(cache, key);
	uint64_t way = bt_hash_way(key, bt_block_offset(cache, block));

	for (unsigned i = 0; i < BT_HASH_WAYS; i++)
		if (atomic_load_explicit(&set->way[i], memory_order_relaxed) == way)
			atomic_store(&set->way[i], 0);
}

/* All tables go by numbers of contexts: with other numbers nothing in them matches. */
void bt_maps_renew(struct bt_vcpu *vcpu)
{
	vcpu->maps.since = vcpu->epoch_series + 1;
	bt_all_series(vcpu);
	bt_context_update(vcpu);
	for (unsigned i = 0; i < 1u << BT_DECODED_BITS; i++)
		vcpu->maps.decoded[i].block = 0;
	for (unsigned i = 0; i < 1u << BT_HANDLED_BITS; i++)
		vcpu->maps.handled[i].block = 0;
}

/* With or without the lock. */
static struct bt_block *bt_block_lookup(struct bt_vcpu *vcpu, uint64_t gpa)
{
	unsigned code_bytes = vcpu->cpu.code_bytes;
	unsigned direct = bt_context_direct_of(vcpu);
	uint64_t key = bt_block_key(gpa, code_bytes, direct);
	struct bt_hash_set *set = bt_hash_set_of(bt_engine_of(vcpu)->cache, key);

	for (unsigned i = 0; i < BT_HASH_WAYS; i++) {
		uint64_t at = atomic_load_explicit(&set->way[i], memory_order_acquire);
		struct bt_block *block = bt_block_at(vcpu, (uint32_t)at);

		if (at && at >> 32 == (uint32_t)key && block->gpa == gpa &&
		    block->code_bytes == code_bytes && block->direct == direct &&
		    !atomic_load_explicit(&block->dead, memory_order_relaxed))
			return block;
	}
	return NULL;
}

/* Mixed code and data; or written so often that its generations are used up. */
static bool bt_page_is_hot(struct bt_vcpu *vcpu, _Atomic uint32_t *page)
{
	uint32_t word = atomic_load(page);

	if ((word & BT_PAGE_GEN_MASK) == BT_PAGE_GEN_MASK)
		return true;
	if ((word & BT_PAGE_HEAT_MASK) < BT_PAGE_HOT)
		return false;
	if (++vcpu->hot_steps % BT_COOL_STEPS == 0)
		atomic_fetch_sub(page, BT_PAGE_HEAT);
	return true;
}

/* Compare @block with memory, and trust it where that is allowed. @host: of its bytes; @word: of its page, read
 * before. */
static void bt_block_compare(struct bt_vcpu *vcpu, struct bt_block *block, const uint8_t *host,
			     uint32_t word)
{
	struct bt_engine *engine = bt_engine_of(vcpu);

	if (block->trust_word != word) {
		block->trust_word = word;
		block->trust_seq = engine->code_seq;
	}
	/* Acknowledged, and only then compared: a store that was under way is seen. */
	if (bt_sync_all_acked(vcpu, block->trust_seq) &&
	    memcmp(bt_block_bytes(block), host, block->len + block->tail) == 0) {
		atomic_store(&block->stamp, word);
		bt_jit_open(engine->cache, block);
	} else {
		atomic_store(&block->stamp, BT_NO_STAMP);
	}
}

/* The block at @gpa, made where there is none; trusted where that is allowed. The cache is locked. */
static struct bt_block *bt_block_check(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host)
{
	struct bt_block *block = bt_block_lookup(vcpu, gpa);
	uint32_t word = atomic_load(bt_page_word(bt_engine_of(vcpu), gpa));

	if (!(word & BT_PAGE_CODE) || word & BT_PAGE_WRITTEN)
		word = bt_page_make_code(vcpu, gpa);
	if (block && atomic_load(&block->stamp) == word) {
		bt_jit_reopen(bt_engine_of(vcpu)->cache, block);
		return block;
	}
	/* The page's word was read before its bytes: a store in between changes the word. */
	bt_count(&vcpu->stats.compared);
	if (block && memcmp(bt_block_bytes(block), host, block->len + block->tail) != 0) {
		bt_block_kill(block);
		block = NULL;
	}
	if (!block)
		block = bt_block_new(vcpu, gpa, host);
	if (block)
		bt_block_compare(vcpu, block, host, word);
	return block;
}

/* There is no room until another vCPU has forgotten what was evicted: its thread may be waiting for this one's
 * place on the host. */
static void bt_yield(struct bt_vcpu *vcpu)
{
	vcpu->crowded = false;
	sched_yield();
}

/* The same for who has not locked the cache. NULL, too, for a page that mixes code and data. */
static struct bt_block *bt_block_get(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host)
{
	_Atomic uint32_t *page = bt_page_word(bt_engine_of(vcpu), gpa);
	pthread_mutex_t *lock = &bt_engine_of(vcpu)->cache->lock;
	struct bt_block *block = bt_block_lookup(vcpu, gpa);
	uint32_t word;

	if (block && bt_block_is_trusted(block))
		return block;
	word = atomic_load(page);
	if ((!(word & BT_PAGE_CODE) || word & BT_PAGE_WRITTEN) && bt_page_is_hot(vcpu, page))
		return NULL;
	pthread_mutex_lock(lock);
	block = bt_block_check(vcpu, gpa, host);
	pthread_mutex_unlock(lock);
	if (unlikely(vcpu->crowded))
		bt_yield(vcpu);
	return block;
}

static bool bt_block_is_at(const struct bt_vcpu *vcpu, const struct bt_block *block, uint64_t gpa)
{
	return block->gpa == gpa && block->code_bytes == vcpu->cpu.code_bytes &&
	       block->direct == bt_context_direct_of(vcpu) && bt_block_is_trusted(block);
}

/* The slow way: translate RIP, look up by physical address. */
static struct bt_block *bt_block_find_gpa(struct bt_vcpu *vcpu, bool *ret_again)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	uint64_t linear, gpa;
	struct bt_block *block;
	struct bt_map *slot;
	const uint8_t *host;

	if (x86_fetch_address(cpu, &linear, &gpa) == X86_FAULT) {
		bt_deliver(vcpu, cpu->s.rip, cpu->s.rip);
		*ret_again = true;
		return NULL;
	}
	host = bt_ram_host(bt_engine_of(vcpu), gpa);
	if (!host)
		return NULL;
	bt_context_note_fetch(vcpu, linear);
	/* What was there before the context changed is mostly there still. */
	slot = bt_map_slot(vcpu, cpu->s.rip);
	block = bt_block_at(vcpu, slot->block);
	if (slot->rip != cpu->s.rip || !slot->block || slot->epoch >> 4 < vcpu->maps.since ||
	    !bt_block_is_at(vcpu, block, gpa))
		block = bt_block_get(vcpu, gpa, host);
	if (!block)
		return NULL;
	/* All of it must be inside the code segment; the instruction that is not runs alone. */
	if (cpu->code_bytes != 8 && block->len - 1u > vcpu->context_limit - (uint32_t)cpu->s.rip)
		return NULL;
	*slot = (struct bt_map){
		.rip = cpu->s.rip,
		.epoch = vcpu->epoch,
		.block = bt_block_offset(bt_engine_of(vcpu)->cache, block),
	};
	return block;
}

struct bt_block *bt_block_find(struct bt_vcpu *vcpu, bool *ret_again)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct bt_block *found;
	uint8_t doing;

	bt_count(&vcpu->stats.finds);
	*ret_again = false;
	if (unlikely(cpu->code_bytes != 8))
		cpu->s.rip = (uint32_t)cpu->s.rip; /* EIP wraps */
	found = bt_map_find(vcpu);
	if (found)
		return found;
	bt_count(&vcpu->stats.map_misses);
	doing = bt_doing_set(&vcpu->stats, BT_DOING_FIND);
	found = bt_block_find_gpa(vcpu, ret_again);
	bt_doing_set(&vcpu->stats, doing);
	return found;
}
