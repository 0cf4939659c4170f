// SPDX-License-Identifier: Apache-2.0
/*
 * cross.c - single instructions that no block holds, remembered.
 *
 * Mostly those that cross a page, about one per page of code, so that it matters what they cost. Where one
 * was fetched from RAM, the place of its bytes is known as long as the fetch context lasts (bt_int.h: both
 * pages are noted as fetched), and to compare them there is all that executing it again takes. Behind translated
 * blocks most are native code: jit/tr_cross.c.
 */
#include <string.h>

#include "engine/bt/bt_int.h"

static struct bt_cross *cross_of(struct bt_vcpu *vcpu, uint64_t rip)
{
	/* The low bits of all of them are much the same. */
	uint64_t hash = rip * 0x9e3779b97f4a7c15ull;

	return &vcpu->maps.cross[hash >> (64 - BT_CROSS_BITS)];
}

static struct bt_cross *cross_at(struct bt_vcpu *vcpu)
{
	return cross_of(vcpu, vcpu->cpu.s.rip);
}

const struct bt_cross *bt_cross_known(struct bt_vcpu *vcpu, uint64_t rip)
{
	const struct bt_cross *cross = cross_of(vcpu, rip);

	return cross->rip == rip && cross->epoch == vcpu->epoch ? cross : NULL;
}

/* memcmp() of at most 15 bytes. */
static bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned n)
{
	uint64_t x[2], y[2];
	uint32_t v[2], w[2];

	if (n >= 8) {
		memcpy(&x[0], a, 8);
		memcpy(&y[0], b, 8);
		memcpy(&x[1], a + n - 8, 8);
		memcpy(&y[1], b + n - 8, 8);
		return x[0] == y[0] && x[1] == y[1];
	}
	if (n >= 4) {
		memcpy(&v[0], a, 4);
		memcpy(&w[0], b, 4);
		memcpy(&v[1], a + n - 4, 4);
		memcpy(&w[1], b + n - 4, 4);
		return v[0] == w[0] && v[1] == w[1];
	}
	for (unsigned i = 0; i < n; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

const struct x86_insn *bt_cross_find(struct bt_vcpu *vcpu)
{
	const struct bt_cross *cross = cross_at(vcpu);
	unsigned room;

	if (cross->rip != vcpu->cpu.s.rip || cross->epoch != vcpu->epoch)
		return NULL;
	room = 4096 - ((uintptr_t)cross->host[0] & 4095);
	if (!same_bytes(cross->bytes, cross->host[0], room) ||
	    !same_bytes(cross->bytes + room, cross->host[1], cross->insn.len - room))
		return NULL;
	return &cross->insn;
}

/* It lies in @host, and goes on in the next page. */
static void cross_note(struct bt_vcpu *vcpu, struct bt_cross *cross, const uint8_t *const host[2])
{
	struct x86_cpu *cpu = &vcpu->cpu;
	uint64_t linear, gpa;

	cross->epoch = 0;
	if (cpu->code_bytes != 8 || !host[0] || !host[1] ||
	    cross->insn.len <= 4096 - ((uintptr_t)host[0] & 4095))
		return;
	/* Each behind its fetch; the second page was the last. */
	bt_context_note_fetch(vcpu, cpu->s.rip + 15);
	if (x86_fetch_address(cpu, &linear, &gpa) == X86_FAULT)
		return;
	bt_context_note_fetch(vcpu, linear);
	cross->host[0] = host[0];
	cross->host[1] = host[1];
	cross->epoch = vcpu->epoch;
}

const struct x86_insn *bt_cross_fetch(struct bt_vcpu *vcpu)
{
	struct x86_cpu *cpu = &vcpu->cpu;
	struct bt_cross *cross = cross_at(vcpu);
	const uint8_t *host[2];
	uint8_t bytes[15];
	int avail, r;

	avail = x86_fetch_bytes(cpu, bytes, sizeof(bytes), host);
	if (avail <= 0)
		return NULL;
	if (cross->code_bytes != cpu->code_bytes || cross->rip != cpu->s.rip ||
	    cross->insn.len > avail || memcmp(cross->bytes, bytes, cross->insn.len) != 0) {
		cross->code_bytes = 0;
		cross->epoch = 0;
		r = x86_decode(bytes, (size_t)avail, cpu->code_bytes, &cross->insn);
		if (r <= 0)
			return NULL;
		x86_insn_restrict(cpu, &cross->insn);
		cross->code_bytes = cpu->code_bytes;
		cross->rip = cpu->s.rip;
		memcpy(cross->bytes, bytes, (size_t)r);
	}
	cross_note(vcpu, cross, host);
	return &cross->insn;
}

/* Where native code of the block behind which it lies looks for the rest of it from now on. */
static void note_slot(struct bt_vcpu *vcpu)
{
	const struct bt_block *block = vcpu->current;
	const struct bt_cross *cross = bt_cross_known(vcpu, vcpu->cpu.s.rip);

	if (cross && block->translated && block->native.cross_slot)
		bt_jit_note_slot(vcpu, block->native.cross_slot, (uintptr_t)cross->host[1]);
}

int bt_exec_cross(struct x86_cpu *cpu, const struct x86_insn *end)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	const struct x86_insn *insn = bt_cross_find(vcpu);
	uint64_t rip = cpu->s.rip;
	int result;

	/* The loop has to look, unless this is what it finds: a block of the one instruction. */
	if (!insn && vcpu->current->count)
		return X86_JUMP;
	if (!insn)
		insn = bt_cross_fetch(vcpu);
	bt_count(&vcpu->stats.steps);
	if (!insn) {
		(void)x86_step(cpu); /* finds out which fault it is, and delivers it */
		bt_count_add(&vcpu->stats.insns, cpu->retired);
		return X86_STOP;
	}
	note_slot(vcpu);
	vcpu->current = NULL; /* it is not of the block */
	cpu->s.interrupt_shadow = 0;
	cpu->s.rip = rip + insn->len;
	result = insn->exec(cpu, insn);
	bt_count_add(&vcpu->stats.insns, bt_is_retired(cpu, result));
	if (result == X86_NEXT || result == X86_JUMP)
		return cpu->s.interrupt_shadow ? X86_STOP : X86_JUMP;
	if (result == X86_FAULT)
		bt_deliver(vcpu, rip, rip + insn->len);
	else if (result == X86_REPEAT)
		cpu->s.rip = rip;
	return X86_STOP;
}
