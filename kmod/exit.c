// SPDX-License-Identifier: GPL-2.0-only
/* exit.c - exits that both vendors have; how those to user space are finished when it comes back. */
#include "trace.h"
#include "vm.h"
#include "x86_int.h"

/* ---- ports, one access at a time ---- */

/* KVM's place for it: the page behind struct kvm_run. */
static u8 *port_data(struct vcpu *vcpu)
{
	vcpu->run->io.data_offset = PAGE_SIZE;
	return vcpu->run_data;
}

static u64 linear_rip(struct vcpu *vcpu)
{
	const struct x86_state *s = vcpu_peek(vcpu);

	return s->seg[X86_CS].base + s->rip;
}

/* User space may have put the vCPU elsewhere: a reset, by the very port. Then there is nothing to finish. */
static bool is_elsewhere(struct vcpu *vcpu)
{
	return linear_rip(vcpu) != vcpu->port_rip;
}

static int finish_out(struct vcpu *vcpu)
{
	return is_elsewhere(vcpu) ? 1 : vcpu_skip(vcpu);
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

	if (is_elsewhere(vcpu))
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
	struct kvm_run *run = vcpu->run;
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
	vcpu->port_rip = linear_rip(vcpu);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = size;
	run->io.port = port;
	run->io.count = 1;
	if (!in)
		memcpy(port_data(vcpu), &value, size);
	else
		(void)port_data(vcpu);
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

int exit_memory(struct vcpu *vcpu, u64 gpa, bool write, bool exec)
{
	int r;

	trace_kvm_page_fault(vcpu, gpa, (write ? X86_PF_W : 0) | (exec ? X86_PF_FETCH : 0));
	r = page_fault(vcpu, gpa, write, exec);
	vcpu->stats.pf_taken++;
	if (r) {
		vcpu->stats.pf_fixed += r > 0;
		return r;
	}
	vcpu->stats.pf_emulate++;
	return emulate(vcpu);
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
		vcpu_state(vcpu)->activity = X86_HALTED;
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
