// SPDX-License-Identifier: Apache-2.0
/*
 * cpuid.c - the processor the guest sees: what the host's KVM supports of the model asked for, with
 * our topology.
 *
 * One socket, one thread a core, APIC id = index of the vCPU. SDM vol. 2 "CPUID", AMD APM vol. 3
 * appendix E; paravirtual leaves: Linux, Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

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

/* Leaves that hold features which no word of a model names: PMU, SGX, tracing, key locker, AMX, AVX10. */
static const uint8_t unnamed_leaves[] = { 0xa, 0x12, 0x14, 0x19, 0x1d, 0x1e, 0x24 };

/* XCR0 bits that struct x86_state has: x87, SSE, AVX, the three of AVX-512, PKRU. */
#define XCR0_KNOWN 0x2e7u

/*
 * What the host may offer and struct x86_state has no place for: a guest that used it would come
 * out of a saved machine without it. Bits to clear in EAX, EBX, ECX, EDX.
 */
static const struct {
	uint32_t function, index;
	uint32_t clear[4];
} not_in_state[] = {
	/* SGX, MPX, processor trace; CET shadow stacks; user interrupts, architectural LBR, AMX,
	 * CET indirect branch tracking */
	{ 7, 0,
	  { 0, 1u << 2 | 1u << 14 | 1u << 25, 1u << 7,
	    1u << 5 | 1u << 19 | 1u << 20 | 1u << 22 | 1u << 24 | 1u << 25 } },
	/* FRED and LKGS, AMX; AMX, CET for supervisors, AVX10, APX */
	{ 7, 1,
	  { 1u << 17 | 1u << 18 | 1u << 21, 0, 0, 1u << 8 | 1u << 18 | 1u << 19 | 1u << 21 } },
	{ 0xa, 0, { ~0u, ~0u, ~0u, ~0u } }, /* performance counters */
	{ 0xd, 0, { ~XCR0_KNOWN, 0, 0, ~0u } }, /* other states of XSAVE */
	{ 0xd, 1, { 1u << 4, 0, ~0u, ~0u } }, /* XFD, states of supervisors */
	{ 0x14, 0, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x19, 0, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1c, 0, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1d, 0, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x1e, 0, { ~0u, ~0u, ~0u, ~0u } },
	{ 0x80000001, 0, { 0, 0, 1u << 23, 0 } }, /* extended performance counters */
	{ 0x80000022, 0, { ~0u, ~0u, ~0u, ~0u } },
};

static void hide_what_is_not_in_state(struct kvm_cpuid_entry2 *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(not_in_state); i++) {
		const uint32_t *clear = not_in_state[i].clear;

		if (not_in_state[i].function != e->function || not_in_state[i].index != e->index)
			continue;
		e->eax &= ~clear[0];
		e->ebx &= ~clear[1];
		e->ecx &= ~clear[2];
		e->edx &= ~clear[3];
	}
	/* One subleaf of 0xd for each state. */
	if (e->function == 0xd && e->index > 1 && (e->index > 31 || !(XCR0_KNOWN & 1u << e->index)))
		e->eax = e->ebx = e->ecx = e->edx = 0;
}

static struct kvm_cpuid2 *cpuid_read(int dev_fd, GError **err)
{
	struct kvm_cpuid2 *cpuid = g_malloc0(sizeof(*cpuid) +
					     KVM_CPUID_MAX * sizeof(cpuid->entries[0]));
	int r;

	cpuid->nent = KVM_CPUID_MAX;
	r = kvm_ioctl(dev_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	for (unsigned i = 0; r >= 0 && i < cpuid->nent; i++)
		hide_what_is_not_in_state(&cpuid->entries[i]);
	if (r >= 0)
		return cpuid;
	g_set_error(err, BASE_ERROR, -r,
		    "engine 'kvm': cannot learn which CPU the host offers: %s", g_strerror(-r));
	g_free(cpuid);
	return NULL;
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *c, uint32_t function, uint32_t sub)
{
	for (unsigned i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == function &&
		    (e->index == sub || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

/* The register of @e by enum x86_cpuid_reg. */
static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
	uint32_t *const regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return regs[reg];
}

unsigned kvm_cpuid_phys_bits(const struct engine *engine)
{
	struct kvm_cpuid_entry2 *e = find(((const struct kvm *)engine)->cpuid, 0x80000008u, 0);

	return e ? e->eax & 0xff : 36; /* SDM vol. 2, CPUID: what it is without that leaf */
}

uint32_t kvm_cpuid_xcr0(const struct kvm *kvm)
{
	struct kvm_cpuid_entry2 *e = find(kvm->cpuid, 0xd, 0);

	return e ? e->eax : 0;
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

/* What we and not the host's KVM decide of leaf 1. */
static void own_flags(struct kvm_cpuid2 *c, bool irqchip, bool deadline, bool user_msr)
{
	struct kvm_cpuid_entry2 *e = find(c, 1, 0);

	if (!e)
		return;
	e->ecx |= LEAF1_ECX_HYPERVISOR;
	/* Nested guests are no part of the state that the engine saves. */
	e->ecx &= ~LEAF1_ECX_VMX;
	if (!irqchip) {
		/* KVM drops writes to IA32_TSC_DEADLINE without telling when it has no local
		 * APIC, on VMX even those that a filter should hand to us. */
		e->ecx &= ~LEAF1_ECX_TSC_DEADLINE;
		set_field(&e->ecx, 21, 1, user_msr); /* x2APIC */
	} else if (deadline) {
		e->ecx |= LEAF1_ECX_TSC_DEADLINE;
	}
}

/* What the table can show, as a model. */
static void model_of(struct kvm_cpuid2 *c, struct x86_cpuid_model *m)
{
	struct kvm_cpuid_entry2 *e;

	memset(m, 0, sizeof(*m));
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		e = find(c, x86_cpuid_places[i].leaf, x86_cpuid_places[i].subleaf);
		if (e)
			m->word[i] = *reg_of(e, x86_cpuid_places[i].reg);
	}
	if ((e = find(c, 0, 0))) {
		m->vendor[0] = e->ebx;
		m->vendor[1] = e->edx;
		m->vendor[2] = e->ecx;
	}
	m->amd = !memcmp(m->vendor, "AuthenticAMD", 12) || !memcmp(m->vendor, "HygonGenuine", 12);
	m->word[X86_CPUID_EXT1_EDX] &= ~X86_CPUID_REPEATED;
	if ((e = find(c, 1, 0)))
		m->signature = e->eax;
	if ((e = find(c, 0xd, 0)))
		m->xcr0 = e->eax | (uint64_t)e->edx << 32;
	for (unsigned i = 0; i < 3; i++) {
		if ((e = find(c, 0x80000002u + i, 0)))
			memcpy(&m->brand[4 * i], &e->eax, 16);
	}
}

/* Leaf 0xd: only what the model's XCR0 allows. SDM vol. 1, 13.2. */
static void apply_xsave(struct kvm_cpuid2 *c, const struct x86_cpuid_model *m)
{
	bool xsaves = m->word[X86_CPUID_D_1_EAX] & 8;
	uint32_t size = 576; /* x87, SSE and the header */
	struct kvm_cpuid_entry2 *e;

	for (unsigned i = 0; i < c->nent; i++) {
		e = &c->entries[i];
		if (e->function != 0xd || e->index == 0)
			continue;
		if (e->index == 1 && !xsaves)
			e->ecx = e->edx = 0;
		if (e->index < 2)
			continue;
		if (e->index > 63 || ((e->ecx & 1) ? !xsaves : !(m->xcr0 >> e->index & 1)))
			e->eax = e->ebx = e->ecx = e->edx = 0;
		else if (!(e->ecx & 1))
			size = MAX(size, e->eax + e->ebx);
	}
	if ((e = find(c, 0xd, 0))) {
		e->eax &= (uint32_t)m->xcr0;
		e->edx &= (uint32_t)(m->xcr0 >> 32);
		e->ebx = e->ecx = m->xcr0 ? size : 0;
	}
}

/* Show @m, which model_of() and x86_cpuid_model_make() gave. */
static void apply_model(struct kvm_cpuid2 *c, const struct x86_cpuid_model *m)
{
	struct kvm_cpuid_entry2 *e;

	for (unsigned i = 0; i < X86_CPUID_WORDS; i++) {
		e = find(c, x86_cpuid_places[i].leaf, x86_cpuid_places[i].subleaf);
		if (e)
			*reg_of(e, x86_cpuid_places[i].reg) = m->word[i];
	}
	if ((e = find(c, 1, 0)))
		e->eax = m->signature;
	if ((e = find(c, 0x80000001u, 0)) && m->amd) {
		e->eax = m->signature;
		e->edx |= m->word[X86_CPUID_1_EDX] & X86_CPUID_REPEATED;
	}
	for (unsigned i = 0; i < 3; i++) {
		if ((e = find(c, 0x80000002u + i, 0)))
			memcpy(&e->eax, &m->brand[4 * i], 16);
	}
	apply_xsave(c, m);
	for (unsigned i = 0; m->neutral && i < c->nent; i++) {
		e = &c->entries[i];
		if (e->function == 7 && e->index == 1)
			e->ebx = e->ecx = e->edx = 0;
		else if ((e->function == 7 && e->index > 1) ||
			 (e->function < 256 &&
			  memchr(unnamed_leaves, (int)e->function, sizeof(unnamed_leaves))))
			e->eax = e->ebx = e->ecx = e->edx = 0;
	}
}

int kvm_cpuid_setup(struct kvm *kvm, const struct x86_cpu_spec *spec, GError **err)
{
	struct x86_cpuid_model max, model;
	const char *missing;

	kvm->cpuid = cpuid_read(kvm->dev_fd, err);
	if (!kvm->cpuid)
		return -EIO;
	own_flags(kvm->cpuid, kvm_has_irqchip(kvm),
		  kvm_ioctl_long(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
		  kvm->user_msr);
	model_of(kvm->cpuid, &max);
	if (!x86_cpuid_model_make(&model, &max, spec, &missing)) {
		g_set_error(err, BASE_ERROR, ENOTSUP,
			    "--cpu: engine 'kvm' does not offer '%s' here; 'sika run --cpu help' "
			    "shows what it does", missing);
		return -ENOTSUP;
	}
	apply_model(kvm->cpuid, &model);
	return 0;
}

bool kvm_cpu_max(struct x86_cpuid_model *ret, GError **err)
{
	struct kvm_cpuid2 *c = NULL;
	uint32_t caps;
	char text[256];
	int fd = kvm_open_device(text, sizeof(text), &caps);

	if (fd < 0) {
		g_set_error(err, BASE_ERROR, ENOTSUP, "%s", text);
		return false;
	}
	c = cpuid_read(fd, err);
	if (c) {
		own_flags(c, caps & ENGINE_CAP_IRQCHIP,
			  kvm_ioctl_long(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
			  false);
		model_of(c, ret);
	}
	g_free(c);
	close(fd);
	return c != NULL;
}

static void fix_leaf1(const struct kvm *kvm, unsigned index, struct kvm_cpuid_entry2 *e)
{
	set_field(&e->ebx, 24, 8, index);
	set_field(&e->ebx, 16, 8, kvm->vcpus);
	set_field(&e->edx, 28, 1, kvm->vcpus > 1);
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
