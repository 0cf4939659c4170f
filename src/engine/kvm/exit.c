// SPDX-License-Identifier: Apache-2.0
/* exit.c - what KVM_RUN hands out: port and memory-mapped I/O, MSRs, failures. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"

static uint64_t load(const uint8_t *data, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, data, size);
	return v;
}

/* One instruction may stand for many accesses (INS, OUTS with REP). */
static void handle_io(struct kvm_vcpu *vcpu)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	unsigned size = run->io.size, index = vcpu->vcpu.index;
	uint16_t port = run->io.port;

	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			host->ops->pio_write(host, index, port, size, load(data, size));
		} else {
			uint64_t v = host->ops->pio_read(host, index, port, size);

			memcpy(data, &v, size);
		}
	}
}

/* The largest power of two that is no more than @len. KVM splits accesses at page ends, which
 * leaves odd lengths. */
static unsigned piece(unsigned len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

void kvm_mmio_read(struct kvm_vcpu *vcpu, gpa_t gpa, uint8_t *data, unsigned len)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;

	while (len > 0) {
		unsigned n = piece(len);
		uint64_t v = host->ops->mmio_read(host, vcpu->vcpu.index, gpa, n);

		memcpy(data, &v, n);
		data += n;
		gpa += n;
		len -= n;
	}
}

void kvm_mmio_write(struct kvm_vcpu *vcpu, gpa_t gpa, const uint8_t *data, unsigned len)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;

	while (len > 0) {
		unsigned n = piece(len);

		host->ops->mmio_write(host, vcpu->vcpu.index, gpa, n, load(data, n));
		data += n;
		gpa += n;
		len -= n;
	}
}

static void handle_mmio(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned len = MIN(run->mmio.len, sizeof(run->mmio.data));

	if (run->mmio.is_write)
		kvm_mmio_write(vcpu, run->mmio.phys_addr, run->mmio.data, len);
	else
		kvm_mmio_read(vcpu, run->mmio.phys_addr, run->mmio.data, len);
}

/* MSRs of the local APIC, when it is ours; everything else that comes here is refused. */
static void handle_msr(struct kvm_vcpu *vcpu)
{
	struct engine_host *host = kvm_of(&vcpu->vcpu)->host;
	struct kvm_run *run = vcpu->run;
	uint64_t value = run->msr.data;
	bool ok;

	kvm_vcpu_note_tsc(vcpu);
	if (run->exit_reason == KVM_EXIT_X86_RDMSR)
		ok = host->ops->apic_read_msr(host, vcpu->vcpu.index, run->msr.index, &value);
	else
		ok = host->ops->apic_write_msr(host, vcpu->vcpu.index, run->msr.index, value);
	run->msr.data = value;
	run->msr.error = !ok;
	/* KVM derives CPUID's APIC bit from its own copy. */
	if (ok && run->exit_reason == KVM_EXIT_X86_WRMSR && run->msr.index == 0x1b)
		(void)kvm_msr_set(vcpu, 0x1b, value);
}

static enum kvm_handled failed(struct kvm_vcpu *vcpu, const char *what, uint64_t code)
{
	struct kvm_regs regs = { 0 };

	(void)kvm_ioctl(vcpu->fd, KVM_GET_REGS, &regs);
	snprintf(vcpu->error, sizeof(vcpu->error), "%s (code 0x%llx) at rip 0x%llx", what,
		 (unsigned long long)code, (unsigned long long)regs.rip);
	return KVM_FAILED;
}

static enum kvm_handled handle_internal_error(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	int r;

	if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION)
		return failed(vcpu, "the host's KVM gave up on the guest", run->internal.suberror);
	r = kvm_rescue(vcpu);
	if (r < 0)
		return failed(vcpu, "neither the host's KVM nor the x86 core got past an instruction",
			      (uint64_t)-r);
	return vcpu->activity == X86_SHUTDOWN ? KVM_SHUTDOWN : KVM_GO_ON;
}

static enum kvm_handled handle_hlt(struct kvm_vcpu *vcpu)
{
	/* Only without an in-kernel local APIC; that one would have slept in the kernel. */
	vcpu->activity = X86_HALTED;
	return KVM_GO_ON;
}

enum kvm_handled kvm_handle_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	vcpu->incomplete = false;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		vcpu->incomplete = true;
		return KVM_GO_ON;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		vcpu->incomplete = true;
		return KVM_GO_ON;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		handle_msr(vcpu);
		vcpu->incomplete = true;
		return KVM_GO_ON;
	case KVM_EXIT_HLT:
		return handle_hlt(vcpu);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
		return KVM_GO_ON;
	case KVM_EXIT_SHUTDOWN:
		return KVM_SHUTDOWN;
	case KVM_EXIT_INTERNAL_ERROR:
		return handle_internal_error(vcpu);
	case KVM_EXIT_FAIL_ENTRY:
		return failed(vcpu, "the host's CPU refuses the guest's state",
			      run->fail_entry.hardware_entry_failure_reason);
	default:
		return failed(vcpu, "the host's KVM left the guest for an unknown reason",
			      run->exit_reason);
	}
}
