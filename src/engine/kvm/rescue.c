// SPDX-License-Identifier: Apache-2.0
/*
 * rescue.c - finish with the x86 core an instruction that the host's KVM cannot emulate.
 *
 * The whole state is read, one instruction (a few, when every device the guest can reach is ours)
 * runs in software over the same memory and the same devices, and the state goes back. Interrupt
 * chips in the host's kernel are out of its reach: such an instruction does not touch them.
 */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"

/* Such instructions come in runs (copies with SSE registers); each rescue costs a dozen system
 * calls. Not with chips in the host's kernel: the core could not reach those. */
#define RESCUE_BATCH 32u

/* What the core's callbacks need; the allocated when first needed. */
struct rescue {
	struct x86_cpu cpu;
	struct x86_tlb tlb;
	struct x86_cpuid_model model; /* whose vendor counts; the rest is rescue_cpuid()'s */
	struct kvm_vcpu *vcpu; /* owner */
};

static struct kvm_vcpu *vcpu_of(struct x86_cpu *cpu)
{
	return container_of(cpu, struct rescue, cpu)->vcpu;
}

static struct kvm *kvm_of_cpu(struct x86_cpu *cpu)
{
	return kvm_of(&vcpu_of(cpu)->vcpu);
}

static uint8_t *rescue_ram_page(struct x86_cpu *cpu, uint64_t gpa, bool write, bool *ret_direct)
{
	*ret_direct = !write;
	return mem_ptr(kvm_of_cpu(cpu)->mem, gpa & ~(uint64_t)(MEM_PAGE_SIZE - 1), MEM_PAGE_SIZE);
}

static bool rescue_ram_written(struct x86_cpu *cpu, uint64_t gpa, unsigned len)
{
	mem_written(kvm_of_cpu(cpu)->mem, gpa, len);
	return false;
}

static uint64_t rescue_mmio_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size)
{
	uint8_t data[8] = { 0 };

	kvm_mmio_read(vcpu_of(cpu), gpa, data, size);
	return load_le64(data);
}

static void rescue_mmio_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
	uint8_t data[8];

	store_le64(data, value);
	kvm_mmio_write(vcpu_of(cpu), gpa, data, size);
}

static uint64_t rescue_pio_read(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	return host->ops->pio_read(host, vcpu->vcpu.index, port, size);
}

static void rescue_pio_write(struct x86_cpu *cpu, uint16_t port, unsigned size, uint64_t value)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	host->ops->pio_write(host, vcpu->vcpu.index, port, size, value);
}

static uint64_t rescue_rdtsc(struct x86_cpu *cpu)
{
	return kvm_vcpu_tsc(&vcpu_of(cpu)->vcpu);
}

static void rescue_set_tsc(struct x86_cpu *cpu, uint64_t value)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);

	(void)kvm_msr_set(vcpu, 0x10, value); /* a refusal leaves the counter as it is */
	kvm_vcpu_note_tsc(vcpu);
}

static bool rescue_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret_value)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	if (!kvm_has_irqchip(kvm_of_cpu(cpu)) &&
	    host->ops->apic_read_msr(host, vcpu->vcpu.index, msr, ret_value))
		return true;
	return kvm_msr_get(vcpu, msr, ret_value) == 0;
}

static bool rescue_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	if (!kvm_has_irqchip(kvm_of_cpu(cpu)) &&
	    host->ops->apic_write_msr(host, vcpu->vcpu.index, msr, value))
		return true;
	if (kvm_msr_set(vcpu, msr, value) < 0)
		return false;
	/* The state goes back whole when the instruction is done, with this in it. */
	kvm_msr_note(&cpu->s, msr, value);
	return true;
}

static uint8_t rescue_get_cr8(struct x86_cpu *cpu)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	if (!kvm_has_irqchip(kvm_of_cpu(cpu)))
		return host->ops->apic_get_cr8(host, vcpu->vcpu.index);
	return (uint8_t)vcpu->run->cr8;
}

static void rescue_set_cr8(struct x86_cpu *cpu, uint8_t cr8)
{
	struct kvm_vcpu *vcpu = vcpu_of(cpu);
	struct engine_host *host = kvm_of_cpu(cpu)->host;

	if (!kvm_has_irqchip(kvm_of_cpu(cpu)))
		host->ops->apic_set_cr8(host, vcpu->vcpu.index, cr8);
	vcpu->run->cr8 = cr8;
}

/* The guest must see one processor, whoever runs its CPUID. */
static void rescue_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct kvm_cpuid2 *c = vcpu_of(cpu)->cpuid;

	memset(regs, 0, 4 * sizeof(regs[0]));
	for (unsigned i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function != leaf || ((e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) &&
					    e->index != subleaf))
			continue;
		regs[0] = e->eax;
		regs[1] = e->ebx;
		regs[2] = e->ecx;
		regs[3] = e->edx;
		return;
	}
}

static bool rescue_should_stop(struct x86_cpu *cpu)
{
	return atomic_load(&vcpu_of(cpu)->events) != 0;
}

static void rescue_tlb_flushed(struct x86_cpu *cpu)
{
}

static const struct x86_cpu_ops rescue_ops = {
	.ram_page = rescue_ram_page,
	.ram_written = rescue_ram_written,
	.mmio_read = rescue_mmio_read,
	.mmio_write = rescue_mmio_write,
	.pio_read = rescue_pio_read,
	.pio_write = rescue_pio_write,
	.rdtsc = rescue_rdtsc,
	.set_tsc = rescue_set_tsc,
	.rdmsr = rescue_rdmsr,
	.wrmsr = rescue_wrmsr,
	.get_cr8 = rescue_get_cr8,
	.set_cr8 = rescue_set_cr8,
	.cpuid = rescue_cpuid,
	.should_stop = rescue_should_stop,
	.tlb_flushed = rescue_tlb_flushed,
};

/* NULL without memory. */
static struct x86_cpu *rescue_cpu(struct kvm_vcpu *vcpu)
{
	struct rescue *rescue = vcpu->rescue;

	if (rescue)
		return &rescue->cpu;
	rescue = aligned_alloc(_Alignof(struct rescue), sizeof(*rescue));
	if (!rescue)
		return NULL;
	memset(rescue, 0, sizeof(*rescue));
	rescue->vcpu = vcpu;
	rescue->cpu.ops = &rescue_ops;
	rescue->cpu.tlb = &rescue->tlb;
	x86_cpuid_model_max(&rescue->model);
	rescue->cpu.model = &rescue->model;
	x86_cpu_reset(&rescue->cpu);
	vcpu->rescue = rescue;
	log_info("vcpu %u: the host's KVM cannot emulate an instruction; the x86 core runs such",
		 vcpu->vcpu.index);
	return &rescue->cpu;
}

void kvm_rescue_free(struct kvm_vcpu *vcpu)
{
	free(vcpu->rescue);
	vcpu->rescue = NULL;
}

int kvm_rescue(struct kvm_vcpu *vcpu)
{
	unsigned batch = kvm_has_irqchip(kvm_of(&vcpu->vcpu)) ? 1 : RESCUE_BATCH;
	struct x86_cpu *cpu = rescue_cpu(vcpu);
	int r;

	if (!cpu)
		return -ENOMEM;
	r = kvm_vcpu_get_state(&vcpu->vcpu, &cpu->s);
	if (r < 0)
		return r;
	x86_cpu_sync(cpu);
	for (unsigned i = 0; i < batch; i++) {
		if (x86_step(cpu) == X86_STOP || cpu->s.activity != X86_RUNNING ||
		    atomic_load(&vcpu->events))
			break;
	}
	return kvm_state_continue(vcpu, &cpu->s);
}
