// SPDX-License-Identifier: Apache-2.0
/*
 * cpuid.c - the processor the guest sees: what the host's KVM supports, with our topology.
 *
 * One socket, one thread a core, APIC id = index of the vCPU. SDM vol. 2 "CPUID", AMD APM vol. 3
 * appendix E; paravirtual leaves: Linux, Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/error.h"

#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR   (1u << 31)
#define LEAF1_ECX_VMX	       (1u << 5)
#define LEAF81_ECX_SVM	       (1u << 2)

#define LEAF_KVM_FEATURES 0x40000001u
/* Features that need the local APIC in the host's kernel: asynchronous page faults, PV EOI, PV
 * unhalt, PV send IPI, async PF by interrupt, extended destination ids in MSIs. */
#define KVM_FEATURES_OF_LAPIC                                                                      \
	((1u << 4) | (1u << 6) | (1u << 7) | (1u << 10) | (1u << 11) | (1u << 14) | (1u << 15))

int kvm_cpuid_read(struct kvm *kvm, GError **err)
{
	struct kvm_cpuid2 *cpuid = g_malloc0(sizeof(*cpuid) +
					     KVM_CPUID_MAX * sizeof(cpuid->entries[0]));
	int r;

	cpuid->nent = KVM_CPUID_MAX;
	r = kvm_ioctl(kvm->dev_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (r < 0) {
		g_set_error(err, BASE_ERROR, -r,
			    "engine 'kvm': cannot learn which CPU the host offers: %s",
			    g_strerror(-r));
		g_free(cpuid);
		return r;
	}
	kvm->cpuid = cpuid;
	return 0;
}

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

static void set_field(uint32_t *reg, unsigned first, unsigned bits, uint32_t value)
{
	uint32_t mask = ((1u << bits) - 1) << first;

	*reg = (*reg & ~mask) | ((value << first) & mask);
}

static void fix_leaf1(const struct kvm *kvm, unsigned index, struct kvm_cpuid_entry2 *e)
{
	set_field(&e->ebx, 24, 8, index);
	set_field(&e->ebx, 16, 8, kvm->vcpus);
	set_field(&e->edx, 28, 1, kvm->vcpus > 1);
	e->ecx |= LEAF1_ECX_HYPERVISOR;
	/* Nested guests are no part of the state that the engine saves. */
	e->ecx &= ~LEAF1_ECX_VMX;
	if (!kvm_has_irqchip(kvm)) {
		/* KVM drops writes to IA32_TSC_DEADLINE without telling when it has no local
		 * APIC, on VMX even those that a filter should hand to us. */
		e->ecx &= ~LEAF1_ECX_TSC_DEADLINE;
		set_field(&e->ecx, 21, 1, kvm->user_msr); /* x2APIC */
	} else if (kvm_ioctl_long(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
		e->ecx |= LEAF1_ECX_TSC_DEADLINE;
	}
}

/* Caches, leaves 4 and 0x8000001d: level 3 is shared by all, the others by none. */
static void fix_cache(const struct kvm *kvm, struct kvm_cpuid_entry2 *e)
{
	unsigned level = (e->eax >> 5) & 7;

	if (!(e->eax & 0x1f))
		return;
	set_field(&e->eax, 14, 12, level >= 3 ? (1u << bits_for(kvm->vcpus)) - 1 : 0);
	if (e->function == 4)
		set_field(&e->eax, 26, 6, (1u << bits_for(kvm->vcpus)) - 1);
}

/* Extended topology, leaves 0xb and 0x1f: subleaf 0 threads, 1 cores, then the end. */
static void fix_topology(const struct kvm *kvm, unsigned index, struct kvm_cpuid_entry2 *e)
{
	static const uint8_t kind[] = { 1, 2, 0 }; /* SMT, core, invalid */
	unsigned sub = MIN(e->index, 2u);

	e->eax = sub == 1 ? bits_for(kvm->vcpus) : 0;
	e->ebx = sub == 0 ? 1 : sub == 1 ? kvm->vcpus : 0;
	e->ecx = (e->index & 0xff) | (uint32_t)kind[sub] << 8;
	e->edx = index;
}

static void fix_entry(const struct kvm *kvm, unsigned index, struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 1:
		fix_leaf1(kvm, index, e);
		break;
	case 4:
	case 0x8000001d:
		fix_cache(kvm, e);
		break;
	case 0xb:
	case 0x1f:
		fix_topology(kvm, index, e);
		break;
	case LEAF_KVM_FEATURES:
		if (!kvm_has_irqchip(kvm))
			e->eax &= ~KVM_FEATURES_OF_LAPIC;
		break;
	case 0x80000001:
		e->ecx &= ~LEAF81_ECX_SVM;
		set_field(&e->ecx, 1, 1, kvm->vcpus > 1); /* CmpLegacy */
		break;
	case 0x80000008:
		set_field(&e->ecx, 0, 8, kvm->vcpus - 1);
		set_field(&e->ecx, 12, 4, bits_for(kvm->vcpus));
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index; /* core id, one thread */
		e->ecx = 0;	/* node */
		break;
	default:
		break;
	}
}

static bool has_entry(const struct kvm_cpuid2 *c, uint32_t function, uint32_t sub)
{
	for (unsigned i = 0; i < c->nent; i++) {
		if (c->entries[i].function == function && c->entries[i].index == sub)
			return true;
	}
	return false;
}

static void add_topology(struct kvm_cpuid2 *c, uint32_t sub)
{
	if (has_entry(c, 0xb, sub))
		return;
	c->entries[c->nent++] = (struct kvm_cpuid_entry2){
		.function = 0xb, .index = sub, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX
	};
}

struct kvm_cpuid2 *kvm_cpuid_for(const struct kvm *kvm, unsigned index)
{
	const struct kvm_cpuid2 *from = kvm->cpuid;
	/* Room for the topology leaves that AMD hosts may lack. */
	struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + (from->nent + 3) * sizeof(c->entries[0]));

	c->nent = from->nent;
	memcpy(c->entries, from->entries, from->nent * sizeof(c->entries[0]));
	if (c->nent && c->entries[0].function == 0 && c->entries[0].eax >= 0xb) {
		for (uint32_t sub = 0; sub < 3; sub++)
			add_topology(c, sub);
	}
	for (unsigned i = 0; i < c->nent; i++)
		fix_entry(kvm, index, &c->entries[i]);
	return c;
}
