// SPDX-License-Identifier: Apache-2.0
/*
 * pv.c - what the guest is told of its place: topology, hypervisor leaves, the paravirtual clock.
 *
 * The interface is KVM's (Linux, Documentation/virt/kvm/x86/cpuid.rst and msr.rst), which guests know.
 */
#include "engine/bt/bt_int.h"

#include <string.h>

#include "base/bits.h"

enum bt_pv_msr {
	BT_MSR_WALL_CLOCK_OLD = 0x11,
	BT_MSR_SYSTEM_TIME_OLD = 0x12,
	BT_MSR_WALL_CLOCK = 0x4b564d00,
	BT_MSR_SYSTEM_TIME = 0x4b564d01,
};

/* CPUID 0x40000001 EAX. */
#define BT_KVM_FEATURE_CLOCKSOURCE	      (1u << 0)
#define BT_KVM_FEATURE_NOP_IO_DELAY	      (1u << 1)
#define BT_KVM_FEATURE_CLOCKSOURCE2	      (1u << 3)
#define BT_KVM_FEATURE_PV_UNHALT	      (1u << 7)
#define BT_KVM_FEATURE_CLOCKSOURCE_STABLE_BIT (1u << 24)

/* Hypercalls, Linux Documentation/virt/kvm/x86/hypercalls.rst: number in RAX, answer there too. */
#define BT_HC_KICK_CPU 5u
#define BT_HC_ENOSYS   1000u
#define BT_HC_EPERM    1u

/* struct pvclock_vcpu_time_info */
enum bt_pvclock_layout {
	BT_PVCLOCK_VERSION = 0,
	BT_PVCLOCK_TSC = 8,
	BT_PVCLOCK_NS = 16,
	BT_PVCLOCK_MUL = 24,
	BT_PVCLOCK_SHIFT = 28,
	BT_PVCLOCK_FLAGS = 29,
	BT_PVCLOCK_SIZE = 32,
};
#define BT_PVCLOCK_TSC_STABLE 1u

/* The local APIC timer's input clock: one tick a nanosecond. */
#define BT_APIC_KHZ 1000000u

static void bt_cpuid_hypervisor(struct bt_vcpu *vcpu, uint32_t leaf, uint32_t regs[4])
{
	struct bt_engine *engine = bt_engine_of(vcpu);

	memset(regs, 0, 4 * sizeof(regs[0]));
	if (leaf == 0x40000000u) {
		regs[0] = 0x40000010u;
		memcpy(&regs[1], "KVMKVMKVM\0\0\0", 12);
	} else if (leaf == 0x40000001u) {
		regs[0] = BT_KVM_FEATURE_CLOCKSOURCE | BT_KVM_FEATURE_NOP_IO_DELAY |
			  BT_KVM_FEATURE_CLOCKSOURCE2 | BT_KVM_FEATURE_PV_UNHALT |
			  BT_KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;
	} else if (leaf == 0x40000010u) {
		regs[0] = (uint32_t)(bt_clock_hz(&engine->clock) / 1000);
		regs[1] = BT_APIC_KHZ;
	}
}

void bt_pv_cpuid(struct bt_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	x86_cpuid_topology(leaf, subleaf, vcpu->base.index, bt_engine_of(vcpu)->vcpu_count, regs);
	if (leaf >= 0x40000000u && leaf <= 0x400000ffu)
		bt_cpuid_hypervisor(vcpu, leaf, regs);
}

/* ns = (ticks << shift) * mul >> 32, with mul as large as fits: the guest's formula. */
static void bt_pvclock_scale(uint64_t hz, uint32_t *ret_mul, int8_t *ret_shift)
{
	int shift = 0;
	unsigned __int128 mul = ((unsigned __int128)1000000000u << 32) / hz;

	while (mul >> 32) {
		shift++;
		mul = ((unsigned __int128)1000000000u << (32 - shift)) / hz;
	}
	while (!(mul >> 31)) {
		shift--;
		mul = ((unsigned __int128)1000000000u << (32 - shift)) / hz;
	}
	*ret_mul = (uint32_t)mul;
	*ret_shift = (int8_t)shift;
}

/*
 * The page says: nanoseconds since the machine was opened, as a function of this vCPU's TSC. It
 * changes only when the guest sets its TSC, and where the machine goes on that was saved elsewhere.
 * The version is odd while the rest is being written.
 */
void bt_pv_clock_write(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t msr = vcpu->cpu.s.pv_system_time;
	gpa_t gpa = msr & ~1ull;
	uint8_t page[BT_PVCLOCK_SIZE] = { 0 };
	uint32_t mul, version;
	int8_t shift;

	if (!(msr & 1) || mem_read(engine->mem, gpa, page, sizeof(page)) < 0)
		return;
	version = (load_le32(page + BT_PVCLOCK_VERSION) | 1) + 2; /* odd, and another one */
	store_le32(page + BT_PVCLOCK_VERSION, version);
	(void)mem_write(engine->mem, gpa, page, 4); /* read above: it is RAM */
	bt_pvclock_scale(bt_clock_hz(&engine->clock), &mul, &shift);
	store_le64(page + BT_PVCLOCK_TSC,
		   engine->clock.tsc_start + atomic_load(&vcpu->tsc_offset));
	store_le64(page + BT_PVCLOCK_NS, atomic_load(&engine->clock.guest_start_ns));
	store_le32(page + BT_PVCLOCK_MUL, mul);
	page[BT_PVCLOCK_SHIFT] = (uint8_t)shift;
	page[BT_PVCLOCK_FLAGS] = BT_PVCLOCK_TSC_STABLE;
	atomic_thread_fence(memory_order_seq_cst);
	(void)mem_write(engine->mem, gpa, page, sizeof(page));
	atomic_thread_fence(memory_order_seq_cst);
	store_le32(page + BT_PVCLOCK_VERSION, version + 1);
	(void)mem_write(engine->mem, gpa, page, 4);
}

/* struct pvclock_wall_clock: version, seconds, nanoseconds when the clock above read zero. */
static void bt_wall_clock_write(struct bt_vcpu *vcpu, gpa_t gpa)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t ns = engine->clock.wall_start_ns - atomic_load(&engine->clock.guest_start_ns);
	uint8_t page[12];

	store_le32(page, 2);
	store_le32(page + 4, (uint32_t)(ns / 1000000000u));
	store_le32(page + 8, (uint32_t)(ns % 1000000000u));
	(void)mem_write(engine->mem, gpa, page, sizeof(page)); /* not RAM: the guest's loss */
}

/* A waiter for a lock halts; whoever frees the lock wakes it, with interrupts off as they may be. */
void bt_pv_hypercall(struct bt_vcpu *vcpu)
{
	struct bt_engine *engine = bt_engine_of(vcpu);
	uint64_t *gpr = vcpu->cpu.s.gpr;
	uint64_t number = vcpu->cpu.long_mode ? gpr[X86_RAX] : (uint32_t)gpr[X86_RAX];
	uint32_t apic_id = (uint32_t)gpr[X86_RCX];

	if (vcpu->cpu.cpl) {
		gpr[X86_RAX] = -(uint64_t)BT_HC_EPERM;
		return;
	}
	gpr[X86_RAX] = -(uint64_t)BT_HC_ENOSYS;
	if (number != BT_HC_KICK_CPU)
		return;
	gpr[X86_RAX] = 0;
	if (apic_id < engine->vcpu_count) {
		struct bt_vcpu *other = atomic_load(&engine->vcpu[apic_id]);

		if (other)
			bt_request(other, BT_REQ_UNHALT, true);
	}
}

bool bt_pv_rdmsr(struct bt_vcpu *vcpu, uint32_t msr, uint64_t *ret_value)
{
	switch (msr) {
	case BT_MSR_WALL_CLOCK_OLD:
	case BT_MSR_WALL_CLOCK:
		*ret_value = vcpu->cpu.s.pv_wall_clock;
		return true;
	case BT_MSR_SYSTEM_TIME_OLD:
	case BT_MSR_SYSTEM_TIME:
		*ret_value = vcpu->cpu.s.pv_system_time;
		return true;
	default:
		return false;
	}
}

bool bt_pv_wrmsr(struct bt_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case BT_MSR_WALL_CLOCK_OLD:
	case BT_MSR_WALL_CLOCK:
		vcpu->cpu.s.pv_wall_clock = value;
		bt_wall_clock_write(vcpu, value);
		return true;
	case BT_MSR_SYSTEM_TIME_OLD:
	case BT_MSR_SYSTEM_TIME:
		vcpu->cpu.s.pv_system_time = value;
		bt_pv_clock_write(vcpu);
		return true;
	default:
		return false;
	}
}
