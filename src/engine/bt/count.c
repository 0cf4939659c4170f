// SPDX-License-Identifier: Apache-2.0
/*
 * count.c - time that is the number of instructions retired (--engine bt,deterministic).
 *
 * One instruction takes one nanosecond, by every clock that the guest has: the TSC, at 1 GHz, is the
 * count; the machine's clock, which all timers follow, is moved by the vCPU's thread. While the guest
 * halts, time goes on to the next timer's deadline at once.
 *
 * A deadline is a number of instructions, and its timer's interrupt is delivered behind exactly so
 * many, however they are executed: no block is entered that goes beyond it (native code compares at the
 * entries of its blocks, all of which are full ones), and what is left is executed one by one. An access
 * to a device may bring the next deadline nearer, from the middle of a block; such a one is put off until
 * the block is surely over.
 */
#include <string.h>

#include "engine/bt/bt_int.h"

/* More than a block and what follows it in the same breath. */
#define COUNT_NEAREST (2 * BT_BLOCK_INSNS)

/* How many instructions of its block RIP is behind, less the one being executed. */
static unsigned count_in_block(const struct bt_vcpu *vcpu)
{
	const struct bt_block *block = vcpu->count.block;
	uint64_t off = (vcpu->cpu.s.rip - block->gpa) & 0xfff, sum = 0;
	struct x86_insn insn;
	unsigned n = 0;

	for (; n < block->count; n++) {
		if (block->translated)
			(void)x86_decode(bt_block_bytes(block) + sum, block->len - sum, 8, &insn);
		else
			insn.len = block->insn[n].len;
		sum += insn.len;
		if (sum >= off)
			break;
	}
	return n;
}

uint64_t bt_count_ns(const struct bt_vcpu *vcpu)
{
	uint64_t insns = vcpu->stats.insns;

	switch (vcpu->count.at) {
	case BT_COUNT_BETWEEN:
		break;
	case BT_COUNT_INTERPRETING: /* a block is counted when it is left */
		insns += count_in_block(vcpu);
		break;
	case BT_COUNT_NATIVE: /* or entered */
		insns += count_in_block(vcpu) - (uint64_t)vcpu->count.block->count;
		break;
	}
	return insns + vcpu->count.skipped_ns;
}

static void set_deadline(struct bt_vcpu *vcpu, uint64_t ns)
{
	vcpu->count.deadline_ns = ns;
	vcpu->count.limit = ns - vcpu->count.skipped_ns;
}

void bt_count_device(struct bt_vcpu *vcpu)
{
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint64_t now, next;

	if (!vcpu->count.on)
		return;
	now = bt_count_ns(vcpu);
	next = host->ops->time_to(host, now, false);
	if (next == vcpu->count.timer_ns)
		return;
	vcpu->count.timer_ns = next;
	set_deadline(vcpu, next > now + COUNT_NEAREST ? next : now + COUNT_NEAREST);
}

/* Timers fire whose time has come. */
static void fire(struct bt_vcpu *vcpu, uint64_t now)
{
	struct engine_host *host = bt_engine_of(vcpu)->host;

	vcpu->count.timer_ns = host->ops->time_to(host, now, true);
	set_deadline(vcpu, vcpu->count.timer_ns);
}

bool bt_count_is_near(struct bt_vcpu *vcpu)
{
	uint64_t now = bt_count_ns(vcpu);

	if (now >= vcpu->count.deadline_ns)
		fire(vcpu, now);
	return vcpu->count.deadline_ns - now <= COUNT_NEAREST;
}

void bt_count_renew(struct bt_vcpu *vcpu)
{
	if (vcpu->count.on)
		set_deadline(vcpu, bt_count_ns(vcpu));
}

bool bt_count_skip(struct bt_vcpu *vcpu)
{
	uint64_t now = bt_count_ns(vcpu);

	if (!vcpu->count.on || vcpu->count.deadline_ns == UINT64_MAX)
		return false;
	if (vcpu->count.deadline_ns > now)
		vcpu->count.skipped_ns += vcpu->count.deadline_ns - now;
	fire(vcpu, bt_count_ns(vcpu));
	return true;
}

void bt_count_restrict(struct x86_cpuid_model *model)
{
	static const char *const names[] = { "rdrand", "rdseed" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const struct x86_cpu_flag *flag = x86_cpu_flag_find(names[i], strlen(names[i]));

		if (flag)
			model->word[flag->word] &= ~(1u << flag->bit);
	}
}

void bt_count_init(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);

	vcpu->count.limit = vcpu->count.deadline_ns = vcpu->count.timer_ns = UINT64_MAX;
	vcpu->count.on = engine->deterministic;
	if (vcpu->count.on)
		engine->clock.counted = vcpu;
}
