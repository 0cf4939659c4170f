// SPDX-License-Identifier: Apache-2.0
/* cache.c - decoded blocks: made, found, checked against memory. See cache.h for who may do what. */
#include "engine/bt/bt_int.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"

_Static_assert(sizeof(struct bt_block) + (BT_BLOCK_INSNS + 1) * sizeof(struct x86_insn) +
		       BT_BLOCK_BYTES + BT_BLOCK_ALIGN - 1 <= BT_BLOCK_MAX, "the largest fits");
_Static_assert(offsetof(struct bt_block, native) % _Alignof(struct x86_insn) == 0 &&
		       sizeof(struct bt_native) % _Alignof(struct x86_insn) == 0,
	       "instructions may follow");
_Static_assert(BT_BLOCK_INSNS <= 32 && BT_BLOCK_BYTES <= UINT8_MAX, "bt_native.kept, bt_block.len");

/* A waiting guest gives its place away after so many. */
#define BT_PAUSES 64u
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

/* What bt_block.direct has to be. */
static uint16_t bt_context_direct_of(const struct bt_vcpu *vcpu)
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

/* In place of a dead one of its kind, or where nothing is. The cache is locked. */
static void bt_hash_insert(struct bt_cache *cache, const struct bt_block *block)
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

/* Behind the last instruction of every block. */
static int bt_exec_end(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return X86_JUMP;
}

/* In place of what was overwritten: go back to before it, and fetch again. */
static int bt_exec_stale(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	return X86_REPEAT;
}

/* Maps may still lead to it, and vCPUs be in it. The cache is locked. */
static void bt_block_kill(struct bt_block *block)
{
	atomic_store(&block->dead, true);
	atomic_store(&block->stamp, BT_NO_STAMP);
}

static struct bt_decoded *bt_decoded_slot(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	uint32_t offset = bt_block_offset(bt_engine_of(vcpu)->cache, block);

	return &vcpu->maps.decoded[offset / BT_BLOCK_ALIGN % (1u << BT_DECODED_BITS)];
}

void bt_block_poison(struct bt_vcpu *vcpu)
{
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;
	struct bt_block *block = vcpu->current;
	struct x86_insn *insn;

	pthread_mutex_lock(&cache->lock);
	/* The whole block: the running instruction needs its own entry no more than the loop
	 * needs its length, which stays. Others may be executing it. */
	insn = block->translated ? bt_decoded_slot(vcpu, block)->insn : block->insn;
	for (unsigned i = 0; i < block->count; i++)
		__atomic_store_n(&insn[i].exec, bt_exec_stale, __ATOMIC_RELAXED);
	if (block->translated)
		bt_decoded_slot(vcpu, block)->block = 0;
	bt_block_kill(block);
	pthread_mutex_unlock(&cache->lock);
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

/*
 * PAUSE says that the guest waits for another of its CPUs, whose thread may be waiting for this one's
 * place on the host.
 */
static int bt_exec_pause(struct x86_cpu *cpu, const struct x86_insn *insn)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);

	if (++vcpu->pauses % BT_PAUSES == 0)
		sched_yield();
	return X86_NEXT;
}

static bool bt_insn_is_pause(const struct x86_insn *insn)
{
	return insn->map == 0 && insn->opcode == 0x90 && insn->flags & X86_INSN_REP &&
	       !(insn->flags & (X86_INSN_REX | X86_INSN_VEX));
}

/* One instruction. Returns what x86_decode() does. */
static int bt_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned avail,
		     unsigned code_bytes, struct x86_insn *insn)
{
	int r = x86_decode(bytes, avail, code_bytes, insn);

	if (r <= 0)
		return r;
	x86_insn_restrict(cpu, insn);
	if (bt_insn_is_pause(insn))
		insn->exec = bt_exec_pause;
	return r;
}

/* Decode at most @avail bytes into @insn. Returns instructions, *ret_len bytes. */
static unsigned bt_block_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned avail,
				struct x86_insn *insn, unsigned *ret_len)
{
	unsigned count = 0, len = 0;

	while (count < BT_BLOCK_INSNS) {
		int r = bt_decode(cpu, bytes + len, avail - len, cpu->code_bytes, &insn[count]);

		/* Cut off by the end of the page, or undefined: whoever gets there runs it alone. */
		if (r <= 0)
			break;
		len += (unsigned)r;
		if (insn[count++].flags & X86_INSN_ENDS)
			break;
	}
	*ret_len = len;
	return count;
}

/* Behind it lies an instruction that may cross into the next page. @insn: its own. */
static bool bt_block_goes_on(const struct bt_block *block, const struct x86_insn *insn)
{
	unsigned left = 4096 - (block->gpa & 4095) - block->len;

	return left && left < 15 && block->count < BT_BLOCK_INSNS &&
	       (!block->count || !(insn[block->count - 1].flags & X86_INSN_ENDS));
}

/* What is behind @insn, the instructions of @block. */
static struct x86_insn bt_end_mark(const struct bt_block *block, const struct x86_insn *insn)
{
	return (struct x86_insn){ .exec = bt_block_goes_on(block, insn) ? bt_exec_cross : bt_exec_end };
}

const struct x86_insn *bt_block_decoded(struct bt_vcpu *vcpu, struct bt_block *block)
{
	struct bt_decoded *slot;
	unsigned len;

	if (likely(!block->translated))
		return block->insn;
	slot = bt_decoded_slot(vcpu, block);
	if (slot->block == bt_block_offset(bt_engine_of(vcpu)->cache, block))
		return slot->insn;
	(void)bt_block_decode(&vcpu->cpu, bt_block_bytes(block), block->len, slot->insn, &len);
	slot->insn[block->count] = bt_end_mark(block, slot->insn);
	slot->block = bt_block_offset(bt_engine_of(vcpu)->cache, block);
	return slot->insn;
}

/* Where there is native code the host has POPCNT (code.c); without it this is a call. */
__attribute__((target("popcnt"))) const struct x86_insn *
bt_block_insn(struct bt_vcpu *vcpu, struct bt_block *block, unsigned i, unsigned at)
{
	uint32_t kept = block->native.kept, offset;
	struct bt_handled *slot;

	if (kept >> i & 1)
		return &bt_block_insns(block)[__builtin_popcount(kept & ((1u << i) - 1))];
	/* Faults, and accesses to devices, come again. */
	offset = (uint32_t)((uint8_t *)block - vcpu->maps.arena);
	slot = &vcpu->maps.handled[(offset / BT_BLOCK_ALIGN + i) % (1u << BT_HANDLED_BITS)];
	if (slot->block == offset && slot->index == i)
		return &slot->insn;
	(void)bt_decode(&vcpu->cpu, bt_block_bytes(block) + at, block->len - at, 8, &slot->insn);
	slot->block = offset;
	slot->index = (uint8_t)i;
	return &slot->insn;
}

/* The page ends within the first instruction of 64-bit code: its block has nothing but the end mark, which
 * executes it (cross.c). */
static bool bt_is_cut_off(const struct bt_vcpu *vcpu, const uint8_t *bytes, unsigned avail)
{
	struct x86_insn insn;

	return vcpu->cpu.code_bytes == 8 && avail < 15 && x86_decode(bytes, avail, 8, &insn) == 0;
}

/* NULL when the first instruction is undefined, or does not fit the page in code that is not 64-bit; or
 * when there is no room now. */
static struct bt_block *bt_block_new(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	struct x86_insn insn[BT_BLOCK_INSNS];
	uint8_t bytes[BT_BLOCK_BYTES];
	unsigned avail = 4096 - (gpa & 4095);
	struct bt_region *region;
	struct bt_block *block;
	unsigned count, len;

	/* Before anything else: who waits for it asks often. */
	region = bt_cache_room(engine, BT_DECODED, BT_BLOCK_MAX, 0);
	if (!region) {
		vcpu->crowded = true;
		return NULL;
	}
	/* Copied once: other vCPUs may be writing. */
	avail = avail < sizeof(bytes) ? avail : sizeof(bytes);
	memcpy(bytes, host, avail);
	count = bt_block_decode(&vcpu->cpu, bytes, avail, insn, &len);
	if (!count && !bt_is_cut_off(vcpu, bytes, avail))
		return NULL;
	block = bt_block_at(vcpu, region->used);
	*block = (struct bt_block){
		.page = bt_page_word(engine, gpa),
		.stamp = BT_NO_STAMP,
		.code_bytes = vcpu->cpu.code_bytes,
		.direct = bt_context_direct_of(vcpu),
		.count = (uint8_t)count,
		.len = (uint8_t)len,
		.gpa = gpa,
	};
	memcpy(block->insn, insn, count * sizeof(insn[0]));
	block->insn[count] = bt_end_mark(block, insn);
	if (block->insn[count].exec == bt_exec_cross)
		block->tail = (uint8_t)(avail - len);
	memcpy((uint8_t *)&block->insn[count + 1], bytes, len + block->tail);
	bt_hash_insert(engine->cache, block);
	region->used += (uint32_t)bt_block_size(block);
	bt_count(&vcpu->stats.hash_misses);
	bt_count_add(&vcpu->stats.decoded_insns, count);
	return block;
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

/* ---- translation ---- */

/* The header of what @block becomes, at @to. */
static void bt_block_prepare(const struct bt_block *block, struct bt_block *to)
{
	*to = (struct bt_block){
		.page = block->page,
		.stamp = block->stamp,
		.code_bytes = block->code_bytes,
		.translated = true,
		.direct = block->direct,
		.count = block->count,
		.len = block->len,
		.tail = block->tail,
		.gpa = block->gpa,
		.trust_seq = block->trust_seq,
		.trust_word = block->trust_word,
	};
}

static struct bt_block *bt_block_translate_locked(struct bt_vcpu *vcpu, struct bt_block *block)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	struct bt_region *region;
	struct bt_block *to;

	/* Another vCPU may have done it. */
	if (block->translated || block->code_bytes != 8 || !bt_block_is_trusted(block))
		return block;
	region = bt_cache_room(engine, BT_TRANSLATED, BT_BLOCK_MAX, BT_JIT_BLOCK_MAX);
	if (!region) { /* next time */
		atomic_store_explicit(&block->runs, vcpu->jit.threshold, memory_order_relaxed);
		return block;
	}
	to = bt_block_at(vcpu, region->used);
	bt_block_prepare(block, to);
	if (!bt_jit_translate(vcpu, region, block, to, false))
		return block;
	bt_block_kill(block);
	bt_hash_insert(engine->cache, to);
	return to;
}

/* From @block as it would be had it been interpreted until now. */
static void bt_block_again_locked(struct bt_vcpu *vcpu, struct bt_block *block)
{
	union {
		struct bt_block block;
		uint8_t room[BT_BLOCK_MAX];
	} from;
	struct bt_engine *engine = bt_engine_of(vcpu);
	struct bt_region *region;
	struct bt_block *to;
	unsigned len;

	if (!bt_block_is_trusted(block))
		return;
	region = bt_cache_room(engine, BT_TRANSLATED, BT_BLOCK_MAX, BT_JIT_BLOCK_MAX);
	if (!region || !bt_region_of(engine->cache, block)->live)
		return;
	bt_block_prepare(block, &from.block);
	from.block.translated = false;
	(void)bt_block_decode(&vcpu->cpu, bt_block_bytes(block), block->len, from.block.insn, &len);
	from.block.insn[block->count] = bt_end_mark(block, from.block.insn);
	memcpy(&from.block.insn[block->count + 1], bt_block_bytes(block), block->len + block->tail);
	to = bt_block_at(vcpu, region->used);
	bt_block_prepare(block, to);
	if (!bt_jit_translate(vcpu, region, &from.block, to, true))
		return;
	bt_block_kill(block);
	bt_hash_insert(engine->cache, to);
	bt_jit_supersede(engine->cache, block, to);
}

void bt_block_again(struct bt_vcpu *vcpu, struct bt_block *block)
{
	pthread_mutex_t *lock = &bt_engine_of(vcpu)->cache->lock;

	pthread_mutex_lock(lock);
	bt_block_again_locked(vcpu, block);
	pthread_mutex_unlock(lock);
}

struct bt_block *bt_block_translate(struct bt_vcpu *vcpu, struct bt_block *block)
{
	pthread_mutex_t *lock = &bt_engine_of(vcpu)->cache->lock;

	pthread_mutex_lock(lock);
	block = bt_block_translate_locked(vcpu, block);
	pthread_mutex_unlock(lock);
	return block;
}
