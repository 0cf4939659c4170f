// SPDX-License-Identifier: Apache-2.0
/*
 * link.c - where native code leads: entries that are opened and closed, links, tables of the vCPUs.
 *
 * What is linked is in a list of the block that it leads to, so that giving up blocks takes time in proportion to
 * them and to what leads there. Entries and near links are code that other vCPUs may be executing.
 */
#include <string.h>

#include "engine/bt/jit/jit_int.h"

/* What a link is in lists: the block that it is of, and its number there. */
static uint32_t link_ref(const struct bt_cache *cache, const struct bt_block *block, unsigned n)
{
	return bt_block_offset(cache, block) | n;
}

static struct bt_block *block_at(const struct bt_cache *cache, uint32_t ref)
{
	return (struct bt_block *)(cache->arena + (ref & ~(BT_BLOCK_ALIGN - 1u)));
}

static struct bt_link *link_at(const struct bt_cache *cache, uint32_t ref)
{
	return &block_at(cache, ref)->native.link[ref & (BT_BLOCK_ALIGN - 1u)];
}

/* Link @n of @block leads to @to from now on, or nowhere, as far as lists are concerned. */
static void set_link(struct bt_cache *cache, struct bt_block *block, unsigned n, struct bt_block *to)
{
	struct bt_link *link = &block->native.link[n];
	uint32_t ref = link_ref(cache, block, n), *at;

	if (link->to) {
		at = &block_at(cache, link->to)->native.linked;
		while (*at != ref)
			at = &link_at(cache, *at)->next;
		*at = link->next;
	}
	*link = (struct bt_link){ 0 };
	if (to) {
		*link = (struct bt_link){ bt_block_offset(cache, to), to->native.linked };
		to->native.linked = ref;
	}
}

/* To @entry of @to; or @to is NULL. */
static void set_exit(struct bt_cache *cache, struct bt_block *from, unsigned n, struct bt_block *to,
		     uint32_t entry)
{
	const struct bt_exit *exit = &from->native.exit[n];
	uint8_t *code = cache->code + from->code;

	set_link(cache, from, n, to);
	atomic_fetch_add_explicit(&cache->links_made, 1, memory_order_release);
	emit_patch_live(code + exit->site, to ? cache->code + entry : code + exit->stub);
}

static bool is_live(struct bt_cache *cache, const struct bt_block *block)
{
	return bt_region_of(cache, block)->live;
}

static void link_near(struct bt_cache *cache, struct bt_block *from, unsigned n, struct bt_block *to)
{
	const struct bt_exit *exit = &from->native.exit[n];
	uint32_t entry = to->code;

	/* Unchecked entries are good while that of @from is. */
	if (from->gpa >> 12 != to->gpa >> 12 || !is_live(cache, from) || !is_live(cache, to))
		return;
	if (!exit->full) {
		if (from->stamp != to->stamp || !bt_block_is_trusted(from))
			return;
		if (exit->forward)
			entry += (uint32_t)(exit->host_flags ? to->native.next_host : to->native.next);
		else if (exit->host_flags)
			entry += (uint32_t)to->native.back;
	}
	set_exit(cache, from, n, to, entry);
}

void bt_jit_note_slot(struct bt_vcpu *vcpu, uint16_t slot, uint64_t value)
{
	struct bt_jit *jit = &vcpu->jit;

	jit->slot[slot] = (struct bt_jit_slot){
		.key = (vcpu->cpu.s.rip & ~0xfffull) + jit->context,
		.code = value,
	};
	if (jit->slots_end <= slot)
		jit->slots_end = slot + 1u;
}

static void link_cross(struct bt_vcpu *vcpu, const struct bt_exit *exit, const struct bt_block *to)
{
	if (exit->slot)
		bt_jit_note_slot(vcpu, exit->slot, (uintptr_t)vcpu->jit.exec + to->code);
	bt_jit_note_target(vcpu, to);
}

void *bt_jit_left(struct bt_block *block, unsigned n)
{
	return (uint8_t *)block + n;
}

static struct bt_block *left_block(const void *left, unsigned *ret_n)
{
	*ret_n = (uintptr_t)left & (BT_BLOCK_ALIGN - 1);
	return (struct bt_block *)((uintptr_t)left - *ret_n);
}

int64_t bt_jit_left_to(const void *left)
{
	unsigned n;
	const struct bt_block *block = left_block(left, &n);

	return block->native.exit[n].off;
}

void bt_jit_link(struct bt_vcpu *vcpu, void *left, struct bt_block *to)
{
	unsigned n;
	struct bt_block *from = left_block(left, &n);
	const struct bt_exit *exit = &from->native.exit[n];
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;
	uint32_t off = vcpu->jit.off;

	if (!to->code || off & BT_OFF_LINKS)
		return;
	if (exit->cross) {
		if (!(off & BT_OFF_CROSS))
			link_cross(vcpu, exit, to);
	} else if (exit->site) {
		pthread_mutex_lock(&cache->lock);
		link_near(cache, from, n, to);
		pthread_mutex_unlock(&cache->lock);
	}
}

void bt_jit_forget_slots(struct bt_vcpu *vcpu)
{
	struct bt_jit *jit = &vcpu->jit;

	memset(jit->slot, 0, jit->slots_end * sizeof(jit->slot[0]));
	jit->slots_end = 0;
}

/* @by: what it leads to, or NULL: the way out. */
static void close_entry(struct bt_cache *cache, struct bt_block *block, struct bt_block *by)
{
	uint32_t to = by ? by->code : block->code + (uint32_t)block->native.stale;
	int32_t rel = (int32_t)(to - (block->code + 5));
	uint8_t jump[5] = { 0xe9 };

	memcpy(jump + 1, &rel, 4);
	emit_live(cache->code + block->code, jump, sizeof(jump));
	set_link(cache, block, BT_LINK_BY, by);
	block->native.closed = true;
}

void bt_jit_reopen(struct bt_cache *cache, struct bt_block *block)
{
	if (!block->code || !block->native.closed)
		return;
	block->native.closed = false;
	set_link(cache, block, BT_LINK_BY, NULL);
	emit_live(cache->code + block->code, jit_entry_bytes, sizeof(jit_entry_bytes));
}

void bt_jit_open(struct bt_cache *cache, struct bt_block *block)
{
	/* First: who enters must not come to what went with the other stamp. */
	for (unsigned i = 0; block->code && i < 2; i++)
		if (block->native.link[i].to)
			set_exit(cache, block, i, NULL, 0);
	bt_jit_reopen(cache, block);
}

/* What leads to @block leads out. */
static void unlink_all(struct bt_cache *cache, struct bt_block *block)
{
	while (block->native.linked) {
		uint32_t n = block->native.linked & (BT_BLOCK_ALIGN - 1u);
		struct bt_block *from = block_at(cache, block->native.linked);

		if (n == BT_LINK_BY)
			close_entry(cache, from, NULL);
		else
			set_exit(cache, from, n, NULL, 0);
	}
}

void bt_jit_supersede(struct bt_cache *cache, struct bt_block *block, struct bt_block *by)
{
	unlink_all(cache, block);
	close_entry(cache, block, by);
}

void bt_jit_forget(struct bt_cache *cache, struct bt_block *block)
{
	unlink_all(cache, block);
	for (unsigned n = 0; n < BT_LINKS; n++)
		set_link(cache, block, n, NULL);
}

static unsigned page_list(uint64_t gpa)
{
	return gpa >> 12 & ((1u << BT_JIT_PAGE_BITS) - 1);
}

void bt_jit_list_block(struct bt_cache *cache, struct bt_block *block)
{
	size_t region = (size_t)(bt_region_of(cache, block) - cache->ring[BT_TRANSLATED].region);
	uint32_t *head = &cache->page_blocks[region][page_list(block->gpa)];

	block->native.next_in_page = *head;
	*head = bt_block_offset(cache, block);
}

static void close_list(struct bt_cache *cache, unsigned list)
{
	for (unsigned r = 0; r < cache->ring[BT_TRANSLATED].regions; r++) {
		for (uint32_t i = cache->page_blocks[r][list]; i;) {
			struct bt_block *block = block_at(cache, i);

			if (!block->native.closed && !bt_block_is_trusted(block))
				close_entry(cache, block, NULL);
			i = block->native.next_in_page;
		}
	}
}

void bt_jit_close_page(struct bt_cache *cache, uint64_t gpa)
{
	pthread_mutex_lock(&cache->lock);
	close_list(cache, page_list(gpa));
	pthread_mutex_unlock(&cache->lock);
}

void bt_jit_close_all(struct bt_cache *cache)
{
	pthread_mutex_lock(&cache->lock);
	for (unsigned i = 0; i < 1u << BT_JIT_PAGE_BITS; i++)
		close_list(cache, i);
	pthread_mutex_unlock(&cache->lock);
}

void bt_jit_replace(struct bt_vcpu *vcpu, struct bt_block *left, struct bt_block *by)
{
	struct bt_cache *cache = bt_engine_of(vcpu)->cache;

	pthread_mutex_lock(&cache->lock);
	if (left == by) {
		if (bt_block_is_trusted(left))
			bt_jit_reopen(cache, left);
	} else if (left->gpa == by->gpa && left->direct == by->direct && by->code && left->native.closed &&
		   !bt_block_is_trusted(left) && is_live(cache, left) && is_live(cache, by)) {
		close_entry(cache, left, by);
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
