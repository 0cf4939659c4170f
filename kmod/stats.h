/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * stats.h - what is counted, of a vCPU and of a machine; by the names that the stock driver has for it.
 *
 * A vCPU's counters have one writer, who holds its lock; a machine's are written under page_lock. Who reads takes no
 * lock: each is a word.
 */
#pragma once

#include <linux/types.h>

/* Name, and kind: COUNT, NS (nanoseconds in all), FLAG. */
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

#define VM_STATS(X) \
	X(remote_tlb_flush, COUNT)

#define STATS_FIELD(name, kind) u64 name;

struct vcpu_stats {
	VCPU_STATS(STATS_FIELD)
};

struct vm_stats {
	VM_STATS(STATS_FIELD)
};

struct vm;
struct vcpu;

/* KVM_GET_STATS_FD: a descriptor of their own, which keeps the machine. */
long stats_open_vm(struct vm *vm);
long stats_open_vcpu(struct vcpu *vcpu);
