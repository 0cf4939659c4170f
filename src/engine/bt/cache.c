// SPDX-License-Identifier: Apache-2.0
/* cache.c - decoded blocks: made, found, checked against memory, dropped. */
#include "engine/bt/bt_int.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"

/* Over all vCPUs. A decoded instruction takes 48 bytes; booting Debian touches some 300 000. Code takes
 * half as much again, other tables BT_VCPU_TABLES each, and all together keep within 60 MiB what a machine
 * needs beyond its guest's RAM. */
#define BT_ARENA_TOTAL (33u << 20)
#define BT_VCPU_TABLES (4u << 20)
#define BT_ARENA_MIN   (2u << 20)
/* A waiting guest gives its place away after so many. */
#define BT_PAUSES 64u
/* An instruction of a hot page cools it by one step in so many executions. */
#define BT_COOL_STEPS 256u

int bt_cache_init(struct bt_vcpu *vcpu, unsigned vcpu_count, uint32_t bytes)
{
	struct bt_cache *cache = &vcpu->cache;
	uint32_t tables = (vcpu_count - 1) * BT_VCPU_TABLES;
	uint32_t size = BT_ARENA_MIN;

	if (tables < BT_ARENA_TOTAL && (BT_ARENA_TOTAL - tables) / vcpu_count > size)
		size = align_down((BT_ARENA_TOTAL - tables) / vcpu_count, 4096);
	if (bytes)
		size = align_up(bytes, 4096);
	if (bt_jit_init(vcpu, size, &cache->arena) < 0)
		return -ENOMEM;
	cache->size = size;
	cache->used = 64; /* offset 0 says "none" */
	return 0;
}

void bt_cache_fini(struct bt_vcpu *vcpu)
{
	bt_jit_fini(vcpu, vcpu->cache.arena, vcpu->cache.size);
}

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
			bt_cache_flush(vcpu);
			vcpu->epoch_series = 0;
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

static bool bt_context_is_direct(const struct bt_vcpu *vcpu)
{
	return vcpu->direct.live[vcpu->cpu.space_now] && vcpu->cpu.cpl == 3;
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
		.open = user || (cpu->s.efer & X86_EFER_SCE &&
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
	if (cpu->cpl == 3)
		bt_context_direct(vcpu);
	/* Bits: user, code size 2, 4, 8 as 0, 1, 2; and one that keeps 0 free. */
	vcpu->epoch = (cpu->cpl == 3 ? vcpu->series_user[cpu->space_now] : vcpu->series_kernel)
			      << 4 |
		      8 | (cpu->code_bytes / 4u) << 1 | (cpu->cpl == 3);
	vcpu->jit.context = bt_jit_context(vcpu->epoch);
	bt_note_way(vcpu);
}

void bt_context_flush(struct bt_vcpu *vcpu)
{
	bt_count(&vcpu->stats.contexts);
	bt_direct_flush(vcpu);
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

static uint64_t bt_block_key(uint64_t gpa, unsigned code_bytes, bool direct)
{
	return (gpa ^ (uint64_t)code_bytes << 56 ^ (uint64_t)direct << 60) * 0x9e3779b97f4a7c15ull;
}

static struct bt_hash_set *bt_hash_set_of(struct bt_vcpu *vcpu, uint64_t key)
{
	return &vcpu->cache.hash[key >> (64 - BT_HASH_BITS)];
}

static uint32_t bt_block_offset(const struct bt_vcpu *vcpu, const struct bt_block *block)
{
	return (uint32_t)((const uint8_t *)block - vcpu->cache.arena);
}

static void bt_hash_insert(struct bt_vcpu *vcpu, const struct bt_block *block)
{
	uint64_t key = bt_block_key(block->gpa, block->code_bytes, block->direct);
	struct bt_hash_set *set = bt_hash_set_of(vcpu, key);
	unsigned way = vcpu->cache.next_way++ % BT_HASH_WAYS;

	for (unsigned i = 0; i < BT_HASH_WAYS; i++) {
		if (!set->way[i].block || set->way[i].tag == (uint32_t)key) {
			way = i;
			break;
		}
	}
	set->way[way].tag = (uint32_t)key;
	set->way[way].block = bt_block_offset(vcpu, block);
}

/* Processes of one program have the same addresses: their contexts take turns in places of their own. */
static struct bt_link *bt_map_slot(struct bt_vcpu *vcpu, uint64_t rip)
{
	unsigned space = vcpu->cpu.cpl == 3 ? vcpu->cpu.space_now : 0;
	uint64_t i = rip ^ rip >> BT_MAP_BITS ^ (uint64_t)space << (BT_MAP_BITS - 3);

	return &vcpu->cache.map[i & ((1u << BT_MAP_BITS) - 1)];
}

void bt_cache_flush(struct bt_vcpu *vcpu)
{
	struct bt_cache *cache = &vcpu->cache;

	memset(cache->hash, 0, sizeof(cache->hash));
	memset(cache->map, 0, sizeof(cache->map));
	cache->used = 64;
	cache->flushes++;
	bt_jit_flush(vcpu);
	vcpu->current = NULL;
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

/* Links and map entries may still lead to it. */
static void bt_block_kill(struct bt_block *block)
{
	block->stamp = BT_NO_STAMP;
	block->code_bytes = 0;
}

void bt_block_poison(struct bt_vcpu *vcpu)
{
	struct bt_block *block = vcpu->current;

	/* The whole block: the running instruction needs its own entry no more than the loop
	 * needs its length, which stays. */
	for (unsigned i = 0; i < block->count; i++)
		block->insn[i].exec = bt_exec_stale;
	bt_block_kill(block);
}

static struct bt_block *bt_block_lookup(struct bt_vcpu *vcpu, uint64_t gpa)
{
	unsigned code_bytes = vcpu->cpu.code_bytes;
	bool direct = bt_context_is_direct(vcpu);
	uint64_t key = bt_block_key(gpa, code_bytes, direct);
	const struct bt_hash_set *set = bt_hash_set_of(vcpu, key);

	for (unsigned i = 0; i < BT_HASH_WAYS && set->way[i].block; i++) {
		struct bt_block *block = bt_block_at(vcpu, set->way[i].block);

		if (set->way[i].tag == (uint32_t)key && block->gpa == gpa &&
		    block->code_bytes == code_bytes && block->direct == direct)
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

/* Decode at most @avail bytes into @insn. Returns instructions, *ret_len bytes. */
static unsigned bt_block_decode(const struct x86_cpu *cpu, const uint8_t *bytes, unsigned avail,
				struct x86_insn *insn, unsigned *ret_len)
{
	unsigned count = 0, len = 0;

	while (count < BT_BLOCK_INSNS) {
		int r = x86_decode(bytes + len, avail - len, cpu->code_bytes, &insn[count]);

		/* Cut off by the end of the page, or undefined: whoever gets there runs it alone. */
		if (r <= 0)
			break;
		x86_insn_restrict(cpu, &insn[count]);
		if (bt_insn_is_pause(&insn[count]))
			insn[count].exec = bt_exec_pause;
		len += (unsigned)r;
		if (insn[count++].flags & X86_INSN_ENDS)
			break;
	}
	*ret_len = len;
	return count;
}

/* Behind it lies an instruction that may cross into the next page. */
static bool bt_block_goes_on(const struct bt_block *block)
{
	unsigned left = 4096 - (block->gpa & 4095) - block->len;

	return left && left < 15 && block->count < BT_BLOCK_INSNS &&
	       (!block->count || !(block->insn[block->count - 1].flags & X86_INSN_ENDS));
}

/* The page ends within the first instruction of 64-bit code: its block has nothing but the end mark, which
 * executes it (cross.c). */
static bool bt_is_cut_off(const struct bt_vcpu *vcpu, const uint8_t *bytes, unsigned avail)
{
	struct x86_insn insn;

	return vcpu->cpu.code_bytes == 8 && avail < 15 && x86_decode(bytes, avail, 8, &insn) == 0;
}

/* NULL when the first instruction is undefined, or does not fit the page in code that is not 64-bit. */
static struct bt_block *bt_block_new(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host)
{
	struct bt_cache *cache = &vcpu->cache;
	struct x86_insn insn[BT_BLOCK_INSNS];
	uint8_t bytes[BT_BLOCK_BYTES];
	unsigned avail = 4096 - (gpa & 4095);
	unsigned count, len;
	struct bt_block *block;
	size_t need;

	/* Copied once: other vCPUs may be writing. */
	avail = avail < sizeof(bytes) ? avail : sizeof(bytes);
	memcpy(bytes, host, avail);
	count = bt_block_decode(&vcpu->cpu, bytes, avail, insn, &len);
	if (!count && !bt_is_cut_off(vcpu, bytes, avail))
		return NULL;
	need = align_up(sizeof(*block) + (count + 1) * sizeof(insn[0]) + len, 64);
	if (need > cache->size - cache->used)
		bt_cache_flush(vcpu);
	block = bt_block_at(vcpu, cache->used);
	*block = (struct bt_block){
		.page = bt_page_word(bt_engine_of(vcpu), gpa),
		.stamp = BT_NO_STAMP,
		.code_bytes = vcpu->cpu.code_bytes,
		.direct = bt_context_is_direct(vcpu),
		.count = (uint8_t)count,
		.len = (uint16_t)len,
		.gpa = gpa,
		.host = host,
		.bytes = (uint8_t *)&block->insn[count + 1],
	};
	memcpy(block->insn, insn, count * sizeof(insn[0]));
	block->insn[count] = (struct x86_insn){
		.exec = bt_block_goes_on(block) ? bt_exec_cross : bt_exec_end
	};
	memcpy((uint8_t *)&block->insn[count + 1], bytes, len);
	bt_hash_insert(vcpu, block);
	cache->used += (uint32_t)need;
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

/* @block, or a new one in its place, compared with memory and trusted where that is allowed. */
static struct bt_block *bt_block_check(struct bt_vcpu *vcpu, struct bt_block *block, uint64_t gpa,
				       const uint8_t *host)
{
	_Atomic uint32_t *page = bt_page_word(bt_engine_of(vcpu), gpa);
	uint32_t word = atomic_load(page);

	if (!(word & BT_PAGE_CODE) || word & BT_PAGE_WRITTEN) {
		if (bt_page_is_hot(vcpu, page))
			return NULL;
		word = bt_page_make_code(vcpu, gpa);
	}
	/* The page's word was read before its bytes: a store in between changes the word. */
	bt_count(&vcpu->stats.compared);
	if (block && memcmp(block->bytes, host, block->len) != 0) {
		bt_block_kill(block);
		block = NULL;
	}
	if (!block) {
		block = bt_block_new(vcpu, gpa, host);
		if (!block)
			return NULL;
	}
	if (block->trust_word != word) {
		block->trust_word = word;
		block->trust_seq = atomic_load(&bt_engine_of(vcpu)->sync_seq);
	}
	/* Acknowledged, and only then compared once more: a store that was under way is seen. */
	if (bt_sync_all_acked(vcpu, block->trust_seq) &&
	    memcmp(block->bytes, host, block->len) == 0) {
		if (block->stamp != word) {
			block->stamp = word;
			bt_jit_open(vcpu, block);
		}
	} else {
		block->stamp = BT_NO_STAMP;
	}
	return block;
}

static bool bt_block_is_at(const struct bt_vcpu *vcpu, const struct bt_block *block, uint64_t gpa)
{
	return block->gpa == gpa && block->code_bytes == vcpu->cpu.code_bytes &&
	       block->direct == bt_context_is_direct(vcpu) && bt_block_is_trusted(block);
}

/* The slow way: translate RIP, look up by physical address. @hint: see bt_block_find(). */
static struct bt_block *bt_block_find_gpa(struct bt_vcpu *vcpu, uint32_t hint, bool *ret_again)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	uint64_t linear, gpa;
	struct bt_block *block;
	struct bt_link *slot;
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
	if (!hint && slot->rip == cpu->s.rip)
		hint = slot->block;
	block = bt_block_at(vcpu, hint);
	if (!hint || !bt_block_is_at(vcpu, block, gpa)) {
		block = bt_block_lookup(vcpu, gpa);
		if (!block || !bt_block_is_trusted(block))
			block = bt_block_check(vcpu, block, gpa, host);
	}
	if (!block)
		return NULL;
	/* All of it must be inside the code segment; the instruction that is not runs alone. */
	if (cpu->code_bytes != 8 && block->len - 1u > vcpu->context_limit - (uint32_t)cpu->s.rip)
		return NULL;
	*slot = (struct bt_link){
		.rip = cpu->s.rip,
		.epoch = vcpu->epoch,
		.block = bt_block_offset(vcpu, block),
	};
	return block;
}

struct bt_block *bt_block_find(struct bt_vcpu *vcpu, uint32_t hint, bool *ret_again)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	const struct bt_link *slot;
	struct bt_block *found;
	uint8_t doing;

	bt_count(&vcpu->stats.finds);
	*ret_again = false;
	if (unlikely(cpu->code_bytes != 8))
		cpu->s.rip = (uint32_t)cpu->s.rip; /* EIP wraps */
	slot = bt_map_slot(vcpu, cpu->s.rip);
	if (slot->rip == cpu->s.rip && slot->epoch == vcpu->epoch) {
		struct bt_block *block = bt_block_at(vcpu, slot->block);

		if (likely(bt_block_is_trusted(block)))
			return block;
	}
	bt_count(&vcpu->stats.map_misses);
	doing = bt_doing_set(&vcpu->stats, BT_DOING_FIND);
	found = bt_block_find_gpa(vcpu, hint, ret_again);
	bt_doing_set(&vcpu->stats, doing);
	return found;
}
