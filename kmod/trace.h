/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * trace.h - tracepoints by the names and fields that perf kvm stat and trace-cmd look for: those of the stock driver.
 * Included with CREATE_TRACE_POINTS by trace.c alone.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

#if !defined(SIKA_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define SIKA_TRACE_H

#include <linux/tracepoint.h>
#include <asm/svm.h>
#include <asm/vmx.h>

#ifndef SIKA_TRACE_ONCE
#define SIKA_TRACE_ONCE
#include "vm.h" /* by another path the second time, which to sparse is another file */

/* Whose numbers an exit's reason is of. */
#define TRACE_ISA_VMX 1
#define TRACE_ISA_SVM 2

#define TRACE_MMIO_READ	 1
#define TRACE_MMIO_WRITE 2
#endif

TRACE_EVENT(kvm_entry,
	TP_PROTO(struct vcpu *vcpu),
	TP_ARGS(vcpu),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(unsigned long, rip)
		__field(bool, immediate_exit)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu->id;
		__entry->rip = hw->rip(vcpu);
		__entry->immediate_exit = false;
	),
	TP_printk("vcpu %u, rip 0x%lx", __entry->vcpu_id, __entry->rip)
);

TRACE_EVENT(kvm_exit,
	TP_PROTO(struct vcpu *vcpu),
	TP_ARGS(vcpu),
	TP_STRUCT__entry(
		__field(unsigned int, exit_reason)
		__field(unsigned long, guest_rip)
		__field(u32, isa)
		__field(u64, info1)
		__field(u64, info2)
		__field(u32, intr_info)
		__field(u32, error_code)
		__field(unsigned int, vcpu_id)
	),
	TP_fast_assign(
		struct exit_info info;

		hw->exit_info(vcpu, &info);
		__entry->exit_reason = info.reason;
		__entry->guest_rip = hw->rip(vcpu);
		__entry->isa = hw == &hw_vmx ? TRACE_ISA_VMX : TRACE_ISA_SVM;
		__entry->info1 = info.info1;
		__entry->info2 = info.info2;
		__entry->intr_info = info.event;
		__entry->error_code = info.error;
		__entry->vcpu_id = vcpu->id;
	),
	TP_printk("vcpu %u reason %s rip 0x%lx info1 0x%016llx info2 0x%016llx intr_info 0x%08x error_code 0x%08x",
		  __entry->vcpu_id,
		  __entry->isa == TRACE_ISA_VMX ?
			  __print_symbolic(__entry->exit_reason & 0xffff, VMX_EXIT_REASONS) :
			  __print_symbolic(__entry->exit_reason, SVM_EXIT_REASONS),
		  __entry->guest_rip, __entry->info1, __entry->info2, __entry->intr_info,
		  __entry->error_code)
);

TRACE_EVENT(kvm_pio,
	TP_PROTO(bool write, unsigned int port, unsigned int size, u32 value),
	TP_ARGS(write, port, size, value),
	TP_STRUCT__entry(
		__field(unsigned int, rw)
		__field(unsigned int, port)
		__field(unsigned int, size)
		__field(unsigned int, count)
		__field(unsigned int, val)
	),
	TP_fast_assign(
		__entry->rw = write;
		__entry->port = port;
		__entry->size = size;
		__entry->count = 1;
		__entry->val = value;
	),
	TP_printk("pio_%s at 0x%x size %d count %d val 0x%x", __entry->rw ? "write" : "read",
		  __entry->port, __entry->size, __entry->count, __entry->val)
);

TRACE_EVENT(kvm_mmio,
	TP_PROTO(unsigned int type, unsigned int len, u64 gpa, u64 value),
	TP_ARGS(type, len, gpa, value),
	TP_STRUCT__entry(
		__field(u32, type)
		__field(u32, len)
		__field(u64, gpa)
		__field(u64, val)
	),
	TP_fast_assign(
		__entry->type = type;
		__entry->len = len;
		__entry->gpa = gpa;
		__entry->val = value;
	),
	TP_printk("mmio %s len %u gpa 0x%llx val 0x%llx",
		  __print_symbolic(__entry->type, { TRACE_MMIO_READ, "read" }, { TRACE_MMIO_WRITE, "write" }),
		  __entry->len, __entry->gpa, __entry->val)
);

TRACE_EVENT(kvm_msr,
	TP_PROTO(bool write, u32 msr, u64 value, bool exception),
	TP_ARGS(write, msr, value, exception),
	TP_STRUCT__entry(
		__field(unsigned int, write)
		__field(u32, ecx)
		__field(u64, data)
		__field(u8, exception)
	),
	TP_fast_assign(
		__entry->write = write;
		__entry->ecx = msr;
		__entry->data = value;
		__entry->exception = exception;
	),
	TP_printk("msr_%s %x = 0x%llx%s", __entry->write ? "write" : "read", __entry->ecx, __entry->data,
		  __entry->exception ? " (#GP)" : "")
);

TRACE_EVENT(kvm_hypercall,
	TP_PROTO(u64 nr, const u64 *arg),
	TP_ARGS(nr, arg),
	TP_STRUCT__entry(
		__field(unsigned long, nr)
		__field(unsigned long, a0)
		__field(unsigned long, a1)
		__field(unsigned long, a2)
		__field(unsigned long, a3)
	),
	TP_fast_assign(
		__entry->nr = nr;
		__entry->a0 = arg[0];
		__entry->a1 = arg[1];
		__entry->a2 = arg[2];
		__entry->a3 = arg[3];
	),
	TP_printk("nr 0x%lx a0 0x%lx a1 0x%lx a2 0x%lx a3 0x%lx", __entry->nr, __entry->a0, __entry->a1, __entry->a2,
		  __entry->a3)
);

TRACE_EVENT(kvm_inj_virq,
	TP_PROTO(unsigned int vector, bool reinjected),
	TP_ARGS(vector, reinjected),
	TP_STRUCT__entry(
		__field(unsigned int, vector)
		__field(bool, soft)
		__field(bool, reinjected)
	),
	TP_fast_assign(
		__entry->vector = vector;
		__entry->soft = false;
		__entry->reinjected = reinjected;
	),
	TP_printk("%s 0x%x%s", __entry->soft ? "Soft/INTn" : "IRQ", __entry->vector,
		  __entry->reinjected ? " [reinjected]" : "")
);

TRACE_EVENT(kvm_page_fault,
	TP_PROTO(struct vcpu *vcpu, u64 address, u64 error),
	TP_ARGS(vcpu, address, error),
	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(unsigned long, guest_rip)
		__field(u64, fault_address)
		__field(u64, error_code)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu->id;
		__entry->guest_rip = hw->rip(vcpu);
		__entry->fault_address = address;
		__entry->error_code = error;
	),
	TP_printk("vcpu %u rip 0x%lx address 0x%016llx error_code 0x%llx", __entry->vcpu_id,
		  __entry->guest_rip, __entry->fault_address, __entry->error_code)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

#include <trace/define_trace.h>
