// SPDX-License-Identifier: GPL-2.0-only
/* exit.c - exits that both vendors have; how those to user space are finished when it comes back. */
#include "trace.h"
#include "vm.h"
#include "x86_int.h"

/* ---- devices that are in user space ---- */

/* The data of a port is in the page behind struct kvm_run. */
void exit_to_device(struct vcpu *vcpu, const struct device_access *a, bool write)
{
	struct kvm_run *run = vcpu->run;

	vcpu->asked_rip = fetch_linear(vcpu);
	if (a->port) {
		run->exit_reason = KVM_EXIT_IO;
		run->io.direction = write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
		run->io.size = a->size;
		run->io.port = a->addr;
		run->io.count = 1;
		run->io.data_offset = PAGE_SIZE;
		if (write)
			memcpy(vcpu->run_data, &a->value, a->size);
		return;
	}
	vcpu->stats.mmio_exits++;
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = a->addr;
	run->mmio.len = a->size;
	run->mmio.is_write = write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (write)
		memcpy(run->mmio.data, &a->value, a->size);
}

/* ---- ports, one access at a time ---- */

bool exit_is_elsewhere(struct vcpu *vcpu)
{
	return fetch_linear(vcpu) != vcpu->asked_rip;
}

static int finish_out(struct vcpu *vcpu)
{
	return exit_is_elsewhere(vcpu) ? 1 : vcpu_skip(vcpu);
}

/* AL, AX or EAX. */
static void set_al(struct vcpu *vcpu, u32 value, unsigned int size)
{
	u64 *rax = &vcpu->cpu.s.gpr[X86_RAX];

	switch (size) {
	case 1:
		*rax = (*rax & ~0xffull) | (u8)value;
		break;
	case 2:
		*rax = (*rax & ~0xffffull) | (u16)value;
		break;
	default:
		*rax = value;
	}
}

static int finish_in(struct vcpu *vcpu)
{
	u32 value = 0;

	if (exit_is_elsewhere(vcpu))
		return 1;
	/* Not the size in the shared page, which user space may have changed. */
	memcpy(&value, vcpu->run_data, vcpu->emu.want.size);
	vcpu->emu.want.value = value;
	trace_device(&vcpu->emu.want, false);
	set_al(vcpu, value, vcpu->emu.want.size);
	return vcpu_skip(vcpu);
}

int exit_port(struct vcpu *vcpu, u16 port, unsigned int size, bool in)
{
	u32 value = vcpu->cpu.s.gpr[X86_RAX];
	struct device_access a = {
		.addr = port, .size = size, .port = true,
		.value = size == 4 ? value : value & (BIT(size * 8) - 1),
	};

	if (!in)
		trace_device(&a, true);
	if (!in && device_write_here(vcpu, &a))
		return vcpu_skip(vcpu);
	if (in && device_read_here(vcpu, &a, &a.value)) {
		trace_device(&a, false);
		set_al(vcpu, a.value, size);
		return vcpu_skip(vcpu);
	}
	vcpu->emu.want = a;
	exit_to_device(vcpu, &a, !in);
	vcpu->finish = in ? finish_in : finish_out;
	return 0;
}

/* ---- the rest ---- */

int exit_nothing(struct vcpu *vcpu)
{
	return 1;
}

int exit_host_interrupt(struct vcpu *vcpu)
{
	vcpu->stats.irq_exits++;
	return 1;
}

/* Instructions that only tell the caches something. */
int exit_skip(struct vcpu *vcpu)
{
	return vcpu_skip(vcpu);
}

int exit_undefined(struct vcpu *vcpu)
{
	event_raise(vcpu, X86_UD, false, 0);
	return 1;
}

/* It may be what the guest was promised, and this processor lacks. The core raises #UD where it is not. */
int exit_invalid(struct vcpu *vcpu)
{
	return emulate_length(vcpu) && !vcpu->emu.floating ? emulate(vcpu) : exit_undefined(vcpu);
}

/* Whoever touches one touches several: all are the guest's until the next exit. */
int exit_debug_register(struct vcpu *vcpu)
{
	if (debug_has_db(vcpu))
		return emulate(vcpu);
	vcpu->debug_open = true;
	hw->debug_window(vcpu, true);
	return 1;
}

int exit_interrupt_window(struct vcpu *vcpu)
{
	vcpu->stats.irq_window_exits++;
	hw->interrupt_window(vcpu, false);
	return 1;
}

int exit_memory(struct vcpu *vcpu, const struct memory_access *a)
{
	int r;

	trace_kvm_page_fault(vcpu, a->gpa, (a->write ? X86_PF_W : 0) | (a->exec ? X86_PF_FETCH : 0));
	r = page_fault(vcpu, a->gpa, a->write, a->exec);
	vcpu->stats.pf_taken++;
	if (r) {
		vcpu->stats.pf_fixed += r > 0;
		return r;
	}
	vcpu->stats.pf_emulate++;
	return a->last && !a->exec && mmio_short(vcpu, a->gpa, a->write, &r) ? r : emulate(vcpu);
}

int exit_refused(struct vcpu *vcpu, u64 reason)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_FAIL_ENTRY;
	run->fail_entry.hardware_entry_failure_reason = reason;
	run->fail_entry.cpu = vcpu->last_cpu;
	return 0;
}

int exit_cpuid(struct vcpu *vcpu)
{
	struct x86_state *s = &vcpu->cpu.s;
	u32 r[4];

	cpuid_query(vcpu, s->gpr[X86_RAX], s->gpr[X86_RCX], r);
	s->gpr[X86_RAX] = r[0];
	s->gpr[X86_RBX] = r[1];
	s->gpr[X86_RCX] = r[2];
	s->gpr[X86_RDX] = r[3];
	return vcpu_skip(vcpu);
}

/* Without a local APIC in here it is user space that knows when to wake up. */
int exit_hlt(struct vcpu *vcpu)
{
	int r = vcpu_advance(vcpu);

	vcpu->stats.halt_exits++;
	if (r <= 0)
		return r;
	if (vcpu->lapic) {
		vcpu->cpu.s.activity = X86_HALTED; /* which is in no hardware's form */
		return debug_trap(vcpu);
	}
	vcpu->run->exit_reason = KVM_EXIT_HLT;
	return 0;
}

int exit_shutdown(struct vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

/* Of a program in the guest it stays between the two, unless user space asked to hear of it. */
int exit_failure(struct vcpu *vcpu)
{
	vcpu->stats.insn_emulation_fail++;
	if (!vcpu->vm->exit_on_failure && x86_state_cpl(vcpu_peek(vcpu)) == 3) {
		event_raise(vcpu, X86_UD, false, 0);
		return 1;
	}
	vcpu->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	vcpu->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	vcpu->run->internal.ndata = 0;
	return 0;
}
