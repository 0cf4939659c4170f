// SPDX-License-Identifier: GPL-2.0-only
/* cpuid.c - which processor can be shown, and which one is. */
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <uapi/asm/kvm_para.h>

#include "vm.h"

#define MAX_ENTRIES 256u

/* ---- what can be shown ---- */

/* Flags that need nothing of the host: x2APIC, and a mark of the hypervisor's presence. */
#define ECX1_OWN (1u << 21 | 1u << 31)

/* The x86 core emulates what exits, so what it does not know is not shown either. */
static void supported_model(struct x86_cpuid_model *model)
{
	u32 host[X86_CPUID_WORDS];

	x86_cpuid_model_max(model);
	x86_cpuid_host_words(host);
	for (unsigned int i = 0; i < X86_CPUID_WORDS; i++)
		model->word[i] &= host[i] | (i == X86_CPUID_1_ECX ? ECX1_OWN : 0);
	/* Shadow tables are not told apart by address space. */
	if (!nested_paging) {
		model->word[X86_CPUID_1_ECX] &= ~(1u << 17);  /* PCID */
		model->word[X86_CPUID_7_EBX] &= ~(1u << 10); /* INVPCID */
	}
}

/* Leaves of which the subleaf counts, and how many of them there are. */
static unsigned int subleaves(u32 leaf)
{
	switch (leaf) {
	case 4:
		return 5;
	case 7:
		return 2;
	case 0xb:
		return 1; /* user space makes the topology */
	case 0xd:
		return 10; /* all the states there are in XCR0 */
	case 0x8000001d:
		return 5;
	default:
		return 0;
	}
}

struct list {
	struct kvm_cpuid_entry2 *entry;
	unsigned int count, room;
};

static void list_leaf(struct list *list, struct x86_cpu *cpu, u32 leaf)
{
	unsigned int n = subleaves(leaf);

	for (unsigned int i = 0; i < max(n, 1u); i++) {
		struct kvm_cpuid_entry2 *e = &list->entry[list->count];
		u32 r[4];

		if (list->count++ >= list->room)
			continue;
		x86_cpuid(cpu, leaf, i, r);
		*e = (struct kvm_cpuid_entry2){
			.function = leaf, .index = i,
			.flags = n ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = r[0], .ebx = r[1], .ecx = r[2], .edx = r[3],
		};
	}
}

/* What a hypervisor says of itself: Documentation/virt/kvm/x86/cpuid.rst. */
static void list_own(struct list *list)
{
	static const struct kvm_cpuid_entry2 own[] = {
		{ .function = KVM_CPUID_SIGNATURE, .eax = KVM_CPUID_FEATURES,
		  .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d }, /* KVMKVMKVM */
		{ .function = KVM_CPUID_FEATURES,
		  .eax = BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |
			 BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT) |
			 BIT(KVM_FEATURE_PV_EOI) | BIT(KVM_FEATURE_PV_UNHALT) | BIT(KVM_FEATURE_PV_SEND_IPI) |
			 BIT(KVM_FEATURE_PV_SCHED_YIELD) | BIT(KVM_FEATURE_ASYNC_PF) |
			 BIT(KVM_FEATURE_ASYNC_PF_VMEXIT) | BIT(KVM_FEATURE_ASYNC_PF_INT) |
			 (IS_ENABLED(CONFIG_SCHED_INFO) ?
				  BIT(KVM_FEATURE_STEAL_TIME) | BIT(KVM_FEATURE_PV_TLB_FLUSH) : 0) },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(own); i++) {
		if (list->count++ < list->room)
			list->entry[list->count - 1] = own[i];
	}
}

static const struct x86_cpu_ops no_ops;

/* Fill the list, as far as there is room; count tells how much is wanted. */
static int list_all(struct list *list)
{
	static const u32 ranges[] = { 0, 0x80000000 };
	struct x86_cpuid_model model;
	struct x86_cpu *cpu = kvzalloc(sizeof(*cpu), GFP_KERNEL);

	if (!cpu)
		return -ENOMEM;
	supported_model(&model);
	cpu->model = &model;
	cpu->ops = &no_ops;
	cpu->s.xcr0 = model.xcr0;
	for (unsigned int i = 0; i < ARRAY_SIZE(ranges); i++) {
		u32 r[4];

		x86_cpuid(cpu, ranges[i], 0, r);
		for (u32 leaf = ranges[i]; leaf <= r[0]; leaf++)
			list_leaf(list, cpu, leaf);
	}
	list_own(list);
	kvfree(cpu);
	return 0;
}

/* What the x86 core executes where the processor answers #UD: exit_invalid(). */
static int list_emulated(struct list *list)
{
	static const struct kvm_cpuid_entry2 emulated[] = {
		{ .function = 0, .eax = 7 },
		{ .function = 1, .ecx = 1u << 22 }, /* MOVBE */
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(emulated); i++) {
		if (list->count++ < list->room)
			list->entry[i] = emulated[i];
	}
	return 0;
}

static int list_out(struct kvm_cpuid2 __user *arg, int (*fill)(struct list *list))
{
	struct list list = { 0 };
	u32 room;
	int r;

	if (get_user(room, &arg->nent))
		return -EFAULT;
	list.room = min(room, MAX_ENTRIES);
	list.entry = kvcalloc(max(list.room, 1u), sizeof(*list.entry), GFP_KERNEL);
	if (!list.entry)
		return -ENOMEM;
	r = fill(&list);
	if (!r && list.count > list.room)
		r = -E2BIG;
	if (!r && (put_user(list.count, &arg->nent) ||
		   copy_to_user(arg->entries, list.entry, list.count * sizeof(*list.entry))))
		r = -EFAULT;
	kvfree(list.entry);
	return r;
}

int cpuid_supported(struct kvm_cpuid2 __user *arg)
{
	return list_out(arg, list_all);
}

int cpuid_emulated(struct kvm_cpuid2 __user *arg)
{
	return list_out(arg, list_emulated);
}

/* ---- what is shown ---- */

int cpuid_set(struct vcpu *vcpu, struct kvm_cpuid2 __user *arg)
{
	struct kvm_cpuid_entry2 *entries = NULL;
	u32 count;

	if (get_user(count, &arg->nent))
		return -EFAULT;
	if (count > MAX_ENTRIES)
		return -E2BIG;
	if (count) {
		entries = vmemdup_user(arg->entries, array_size(count, sizeof(*entries)));
		if (IS_ERR(entries))
			return PTR_ERR(entries);
	}
	kvfree(vcpu->cpuid);
	vcpu->cpuid = entries;
	vcpu->cpuid_count = count;
	(void)vcpu_state(vcpu);
	x86_cpu_sync(&vcpu->cpu); /* what may be executed */
	return 0;
}

int cpuid_get(struct vcpu *vcpu, struct kvm_cpuid2 __user *arg)
{
	u32 room;

	if (get_user(room, &arg->nent))
		return -EFAULT;
	if (room < vcpu->cpuid_count)
		return -E2BIG;
	if (put_user(vcpu->cpuid_count, &arg->nent) ||
	    copy_to_user(arg->entries, vcpu->cpuid, vcpu->cpuid_count * sizeof(*vcpu->cpuid)))
		return -EFAULT;
	return 0;
}

static const struct kvm_cpuid_entry2 *find(const struct vcpu *vcpu, u32 leaf, u32 subleaf)
{
	for (unsigned int i = 0; i < vcpu->cpuid_count; i++) {
		const struct kvm_cpuid_entry2 *e = &vcpu->cpuid[i];

		if (e->function == leaf && (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
					    e->index == subleaf))
			return e;
	}
	return NULL;
}

/* Intel answers what is above the range with the highest basic leaf; AMD with zeros: SDM vol. 2,
 * CPUID; APM vol. 3, CPUID. */
static const struct kvm_cpuid_entry2 *out_of_range(const struct vcpu *vcpu, u32 leaf, u32 subleaf)
{
	const struct kvm_cpuid_entry2 *max = find(vcpu, leaf & 0x80000000, 0), *basic;

	basic = find(vcpu, 0, 0);
	if (!basic || basic->ebx != 0x756e6547 /* Genu */ || (max && leaf <= max->eax))
		return NULL;
	return find(vcpu, basic->eax, subleaf);
}

/* The size of the area for what is enabled: SDM vol. 1, 13.4.2 and 13.4.3. */
static u32 xsave_bytes(const struct vcpu *vcpu, u64 xcr0, bool compact)
{
	u32 bytes = 576;

	for (unsigned int i = 2; i < 63; i++) {
		const struct kvm_cpuid_entry2 *e = xcr0 >> i & 1 ? find(vcpu, 0xd, i) : NULL;

		if (!e)
			continue;
		if (compact)
			bytes = (e->ecx & 2 ? ALIGN(bytes, 64) : bytes) + e->eax;
		else
			bytes = max(bytes, e->ebx + e->eax);
	}
	return bytes;
}

void cpuid_query(struct vcpu *vcpu, u32 leaf, u32 subleaf, u32 ret[4])
{
	const struct kvm_cpuid_entry2 *e = find(vcpu, leaf, subleaf);
	const struct x86_state *s = &vcpu->cpu.s; /* what counts of CR4 and XCR0 does not change without an exit */

	if (!e)
		e = out_of_range(vcpu, leaf, subleaf);
	ret[0] = e ? e->eax : 0;
	ret[1] = e ? e->ebx : 0;
	ret[2] = e ? e->ecx : 0;
	ret[3] = e ? e->edx : 0;
	if (e && leaf == 1) /* OSXSAVE */
		ret[2] = (ret[2] & ~(1u << 27)) | (s->cr4 & X86_CR4_OSXSAVE ? 1u << 27 : 0);
	if (e && leaf == 0xd && subleaf <= 1 && ret[1])
		ret[1] = xsave_bytes(vcpu, s->xcr0, subleaf == 1);
}
