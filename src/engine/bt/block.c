// SPDX-License-Identifier: Apache-2.0
/* block.c - what blocks are made of: decoded, to be interpreted, and translated. See cache.h. */
#include "engine/bt/bt_int.h"

#include <sched.h>
#include <string.h>

_Static_assert(sizeof(struct bt_block) + (BT_BLOCK_INSNS + 1) * sizeof(struct x86_insn) +
		       BT_BLOCK_BYTES + BT_BLOCK_ALIGN - 1 <= BT_BLOCK_MAX, "the largest fits");
_Static_assert(offsetof(struct bt_block, native) % _Alignof(struct x86_insn) == 0 &&
		       sizeof(struct bt_native) % _Alignof(struct x86_insn) == 0,
	       "instructions may follow");
_Static_assert(BT_BLOCK_INSNS <= 32 && BT_BLOCK_BYTES <= UINT8_MAX, "bt_native.kept, bt_block.len");

/* A waiting guest gives its place away after so many. */
#define BT_PAUSES 64u
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

void bt_block_kill(struct bt_block *block)
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

/* ---- decoding ---- */

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

struct bt_block *bt_block_new(struct bt_vcpu *vcpu, uint64_t gpa, const uint8_t *host)
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
