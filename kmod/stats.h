/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * stats.h - what is counted, of a vCPU and of a machine; by the names that the stock driver has for it.
 *
 * A vCPU's counters have one writer, who holds its lock; a machine's are written under page_lock. Who reads takes no
 * lock: each is a word.
 */
#pragma once

#include <linux/types.h>

/* Name, and kind: COUNT, NS (nanoseconds in all), FLAG, NOW (how many there are). */
#define VCPU_STATS(X) \
	X(exits, COUNT) \
	X(io_exits, COUNT) \
	X(mmio_exits, COUNT) \
	X(halt_exits, COUNT) \
	X(irq_exits, COUNT) \
	X(irq_window_exits, COUNT) \
	X(nmi_window_exits, COUNT) \
	X(request_irq_exits, COUNT) \
	X(signal_exits, COUNT) \
	X(insn_emulation, COUNT) \
	X(insn_emulation_fail, COUNT) \
	X(irq_injections, COUNT) \
	X(nmi_injections, COUNT) \
	X(preemption_reported, COUNT) \
	X(hypercalls, COUNT) \
	X(directed_yield_attempted, COUNT) \
	X(directed_yield_successful, COUNT) \
	X(pf_taken, COUNT) \
	X(pf_fixed, COUNT) \
	X(pf_emulate, COUNT) \
	X(pf_guest, COUNT) \
	X(tlb_flush, COUNT) \
	X(invlpg, COUNT) \
	X(halt_attempted_poll, COUNT) \
	X(halt_successful_poll, COUNT) \
	X(halt_wakeup, COUNT) \
	X(halt_poll_success_ns, NS) \
	X(halt_poll_fail_ns, NS) \
	X(halt_wait_ns, NS) \
	X(blocking, FLAG)

/* Of nanoseconds: how often from 2 to the power of i - 1 on, below 2 to the power of i. */
#define VCPU_HISTOGRAMS(X) \
	X(halt_poll_success_hist) \
	X(halt_poll_fail_hist) \
	X(halt_wait_hist)

#define VM_STATS(X) \
	X(remote_tlb_flush, COUNT) \
	X(mmu_shadow_zapped, COUNT) \
	X(mmu_flooded, COUNT) \
	X(mmu_recycled, COUNT) \
	X(mmu_cache_miss, COUNT) \
	X(mmu_unsync, NOW) \
	X(pages_4k, NOW) \
	X(pages_2m, NOW) \
	X(pages_1g, NOW)

#define STATS_BUCKETS		 32u
#define STATS_FIELD(name, kind)	 u64 name;
#define STATS_HISTOGRAM(name)	 u64 name[STATS_BUCKETS];

struct vcpu_stats {
	VCPU_STATS(STATS_FIELD)
	VCPU_HISTOGRAMS(STATS_HISTOGRAM)
};

struct vm_stats {
	VM_STATS(STATS_FIELD)
};

struct vm;
struct vcpu;

/* A row of these structures, which are words and nothing else. */
struct counter {
	const char *name;
	u32 flags; /* KVM_STATS_* */
	s16 exponent;
	u16 words; /* more than one: a histogram */
	u32 at;	   /* the first of them */
};

struct counters {
	const struct counter *row;
	unsigned int count, words;
};

extern const struct counters stats_of_vm, stats_of_vcpu;

/* To a histogram. */
void stats_add(u64 bucket[STATS_BUCKETS], u64 ns);

/* KVM_GET_STATS_FD: a descriptor of their own, which keeps the machine. */
long stats_open_vm(struct vm *vm);
long stats_open_vcpu(struct vcpu *vcpu);

/* ---- debugfs.c: the same as files of debugfs, of each machine and of all. What fails there is only not seen ---- */
void debugfs_start(void);
void debugfs_stop(void);
/* Of a machine whose descriptor is @fd. */
void debugfs_add(struct vm *vm, int fd);
void debugfs_remove_vm(struct vm *vm);
