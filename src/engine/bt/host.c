// SPDX-License-Identifier: Apache-2.0
/* host.c - what the x86 core asks for: memory, ports, clock, MSRs, the local APIC. */
#include "engine/bt/bt_int.h"

#include <sys/mman.h>
#include <x86intrin.h>

#define BT_MSR_TSC_ADJUST   0x3bu
#define BT_MSR_APIC_BASE    0x1bu
#define BT_MSR_TSC_DEADLINE 0x6e0u
#define BT_MSR_X2APIC	    0x800u
#define BT_MSR_X2APIC_LAST  0x8ffu

static uint8_t *bt_op_ram_page(struct x86_cpu *cpu, uint64_t gpa, bool write, bool *ret_direct)
{
	struct bt_engine *engine = bt_engine_of(bt_vcpu_of(cpu));
	uint8_t *host = bt_ram_host(engine, gpa & ~0xfffull);

	bt_count(&bt_vcpu_of(cpu)->stats.tlb_fills);
	*ret_direct = true;
	if (!host || !write)
		return host;
	if (atomic_load_explicit(&engine->dirty_on, memory_order_relaxed)) {
		*ret_direct = false;
	} else {
		_Atomic uint32_t *page = bt_page_word(engine, gpa);
		uint32_t word = atomic_load_explicit(page, memory_order_relaxed);

		/* The locked update orders our entry against bt_page_make_code(): it either
		 * shows us CODE or sees WRITTEN. */
		if (!(word & (BT_PAGE_CODE | BT_PAGE_WRITTEN)))
			word = atomic_fetch_or(page, BT_PAGE_WRITTEN);
		*ret_direct = !(word & BT_PAGE_CODE);
	}
	return host;
}

/* Mapped until others are wanted. */
static uint8_t *bt_op_ram_pair(struct x86_cpu *cpu, const uint64_t gpa[2])
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct bt_pair *pair = &vcpu->pair;

	if (pair->pages && pair->gpa[0] == gpa[0] && pair->gpa[1] == gpa[1])
		return pair->pages;
	bt_pair_drop(vcpu);
	pair->pages = mmap(NULL, 0x2000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pair->pages == MAP_FAILED) {
		pair->pages = NULL;
		return NULL;
	}
	for (unsigned i = 0; i < 2; i++) {
		const struct bt_ram *ram = bt_ram_of(bt_engine_of(vcpu), gpa[i]);

		pair->gpa[i] = gpa[i];
		if (!ram || ram->fd < 0 ||
		    mmap(pair->pages + i * 0x1000, 0x1000, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, ram->fd,
			 (off_t)(ram->fd_offset + gpa[i] - ram->gpa)) == MAP_FAILED) {
			bt_pair_drop(vcpu);
			return NULL;
		}
	}
	return pair->pages;
}

void bt_pair_drop(struct bt_vcpu *vcpu)
{
	if (vcpu->pair.pages)
		munmap(vcpu->pair.pages, 0x2000);
	vcpu->pair.pages = NULL;
}

static bool bt_op_ram_written(struct x86_cpu *cpu, uint64_t gpa, unsigned len)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t current;

	if (!len || !bt_ram_host(engine, gpa) || !bt_ram_host(engine, gpa + len - 1))
		return false;
	bt_count(&vcpu->stats.stores);
	bt_page_stored(engine, gpa, len);
	if (!vcpu->current)
		return false;
	current = vcpu->current->gpa >> 12;
	if (gpa >> 12 != current && (gpa + len - 1) >> 12 != current)
		return false;
	bt_block_poison(vcpu);
	return true;
}

static uint64_t bt_op_mmio_read(struct x86_cpu *cpu, uint64_t gpa, unsigned size)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint8_t old = bt_doing_set(&vcpu->stats, BT_DOING_DEVICE);
	uint64_t value;

	bt_count_device(vcpu);
	value = host->ops->mmio_read(host, vcpu->base.index, gpa, size);
	bt_count_device(vcpu);
	bt_count(&vcpu->stats.mmio);
	bt_doing_set(&vcpu->stats, old);
	return value;
}

static void bt_op_mmio_write(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint8_t old = bt_doing_set(&vcpu->stats, BT_DOING_DEVICE);

	bt_count_device(vcpu);
	host->ops->mmio_write(host, vcpu->base.index, gpa, size, value);
	bt_count_device(vcpu);
	bt_count(&vcpu->stats.mmio);
	bt_doing_set(&vcpu->stats, old);
}

static uint64_t bt_op_pio_read(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint8_t old = bt_doing_set(&vcpu->stats, BT_DOING_DEVICE);
	uint64_t value;

	bt_count_device(vcpu);
	value = host->ops->pio_read(host, vcpu->base.index, port, size);
	bt_count_device(vcpu);
	bt_count(&vcpu->stats.ports);
	bt_doing_set(&vcpu->stats, old);
	return value;
}

static void bt_op_pio_write(struct x86_cpu *cpu, uint16_t port, unsigned size, uint64_t value)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;
	uint8_t old = bt_doing_set(&vcpu->stats, BT_DOING_DEVICE);

	bt_count_device(vcpu);
	host->ops->pio_write(host, vcpu->base.index, port, size, value);
	bt_count_device(vcpu);
	bt_count(&vcpu->stats.ports);
	bt_doing_set(&vcpu->stats, old);
}

/* For RDTSC and RDTSCP; the latter waits for what precedes it (SDM vol. 2). */
static uint64_t bt_op_rdtsc(struct x86_cpu *cpu)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);

	_mm_lfence();
	return bt_clock_counter(&bt_engine_of(vcpu)->clock) +
	       atomic_load_explicit(&vcpu->tsc_offset, memory_order_relaxed);
}

static void bt_op_set_tsc(struct x86_cpu *cpu, uint64_t value)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	uint64_t offset = value - bt_clock_counter(&bt_engine_of(vcpu)->clock);

	/* SDM vol. 3, "Time-Stamp Counter Adjustment": a write to the counter moves the
	 * adjustment by as much. */
	vcpu->cpu.s.tsc_adjust +=
		offset - atomic_load_explicit(&vcpu->tsc_offset, memory_order_relaxed);
	atomic_store_explicit(&vcpu->tsc_offset, offset, memory_order_relaxed);
	bt_pv_clock_write(vcpu);
}

static void bt_set_tsc_adjust(struct bt_vcpu *vcpu, uint64_t value)
{
	uint64_t offset = atomic_load_explicit(&vcpu->tsc_offset, memory_order_relaxed);

	offset += value - vcpu->cpu.s.tsc_adjust;
	vcpu->cpu.s.tsc_adjust = value;
	atomic_store_explicit(&vcpu->tsc_offset, offset, memory_order_relaxed);
	bt_pv_clock_write(vcpu);
}

static bool bt_msr_is_apic(uint32_t msr)
{
	return msr == BT_MSR_APIC_BASE || msr == BT_MSR_TSC_DEADLINE ||
	       (msr >= BT_MSR_X2APIC && msr <= BT_MSR_X2APIC_LAST);
}

static bool bt_op_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret_value)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;

	if (bt_msr_is_apic(msr)) {
		bt_count_device(vcpu);
		return host->ops->apic_read_msr(host, vcpu->base.index, msr, ret_value);
	}
	if (msr == BT_MSR_TSC_ADJUST) {
		*ret_value = vcpu->cpu.s.tsc_adjust;
		return true;
	}
	return bt_pv_rdmsr(vcpu, msr, ret_value);
}

static bool bt_op_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;

	if (bt_msr_is_apic(msr)) {
		bool ok;

		bt_count_device(vcpu);
		ok = host->ops->apic_write_msr(host, vcpu->base.index, msr, value);
		bt_count_device(vcpu);
		return ok;
	}
	if (msr == BT_MSR_TSC_ADJUST) {
		bt_set_tsc_adjust(vcpu, value);
		return true;
	}
	return bt_pv_wrmsr(vcpu, msr, value);
}

static uint8_t bt_op_get_cr8(struct x86_cpu *cpu)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;

	return host->ops->apic_get_cr8(host, vcpu->base.index);
}

static void bt_op_set_cr8(struct x86_cpu *cpu, uint8_t cr8)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);
	struct engine_host *host = bt_engine_of(vcpu)->host;

	host->ops->apic_set_cr8(host, vcpu->base.index, cr8);
	bt_request(vcpu, BT_REQ_IRQ, false); /* a lower priority may let something through */
}

static void bt_op_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	bt_pv_cpuid(bt_vcpu_of(cpu), leaf, subleaf, regs);
}

static bool bt_op_should_stop(struct x86_cpu *cpu)
{
	struct bt_vcpu *vcpu = bt_vcpu_of(cpu);

	return vcpu->stepping || atomic_load_explicit(&vcpu->request, memory_order_relaxed);
}

static bool bt_op_hypercall(struct x86_cpu *cpu)
{
	bt_pv_hypercall(bt_vcpu_of(cpu));
	return true;
}

static void bt_op_host_insn(struct x86_cpu *cpu, const struct x86_insn *insn, struct x86_host_op *op)
{
	bt_host_insn_run(&bt_vcpu_of(cpu)->host_insn, cpu, insn, op);
}

static void bt_op_tlb_flushed(struct x86_cpu *cpu)
{
	bt_context_flush(bt_vcpu_of(cpu));
}

static void bt_op_tlb_switched(struct x86_cpu *cpu, unsigned space, unsigned changed, bool kept)
{
	bt_context_switch(bt_vcpu_of(cpu), changed, kept);
}

static void bt_op_tlb_flushed_page(struct x86_cpu *cpu, uint64_t linear)
{
	bt_direct_flush_page(bt_vcpu_of(cpu), linear);
	bt_user_flush_page(bt_vcpu_of(cpu), linear);
	bt_context_flush_page(bt_vcpu_of(cpu), linear);
}

const struct x86_cpu_ops bt_cpu_ops = {
	.ram_page = bt_op_ram_page,
	.ram_pair = bt_op_ram_pair,
	.ram_written = bt_op_ram_written,
	.mmio_read = bt_op_mmio_read,
	.mmio_write = bt_op_mmio_write,
	.pio_read = bt_op_pio_read,
	.pio_write = bt_op_pio_write,
	.rdtsc = bt_op_rdtsc,
	.set_tsc = bt_op_set_tsc,
	.rdmsr = bt_op_rdmsr,
	.wrmsr = bt_op_wrmsr,
	.get_cr8 = bt_op_get_cr8,
	.set_cr8 = bt_op_set_cr8,
	.cpuid = bt_op_cpuid,
	.should_stop = bt_op_should_stop,
	.hypercall = bt_op_hypercall,
	.host_insn = bt_op_host_insn,
	.tlb_flushed = bt_op_tlb_flushed,
	.tlb_switched = bt_op_tlb_switched,
	.tlb_flushed_page = bt_op_tlb_flushed_page,
};
