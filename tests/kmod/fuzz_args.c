// SPDX-License-Identifier: Apache-2.0
/* fuzz_args.c - the numbers of /dev/kvm's ABI, and structures for them that are half right. */
#include "fuzz.h"

#include <string.h>
#include <sys/ioctl.h>

struct number {
	uint32_t number;
	uint8_t kind;
};

/* clang-format off */
static const struct number numbers[] = {
	{ KVM_GET_API_VERSION, DEV }, { KVM_CREATE_VM, DEV }, { KVM_GET_MSR_INDEX_LIST, DEV },
	{ KVM_CHECK_EXTENSION, DEV }, { KVM_GET_VCPU_MMAP_SIZE, DEV },
	{ KVM_GET_SUPPORTED_CPUID, DEV }, { KVM_GET_EMULATED_CPUID, DEV },
	{ KVM_GET_MSR_FEATURE_INDEX_LIST, DEV }, { KVM_GET_MSRS, DEV },
	{ KVM_X86_GET_MCE_CAP_SUPPORTED, DEV }, { KVM_CREATE_VCPU, VM }, { KVM_GET_DIRTY_LOG, VM },
	{ KVM_SET_NR_MMU_PAGES, VM }, { KVM_GET_NR_MMU_PAGES, VM },
	{ KVM_SET_USER_MEMORY_REGION, VM }, { KVM_SET_TSS_ADDR, VM },
	{ KVM_SET_IDENTITY_MAP_ADDR, VM }, { KVM_CREATE_IRQCHIP, VM }, { KVM_IRQ_LINE, VM },
	{ KVM_GET_IRQCHIP, VM }, { KVM_SET_IRQCHIP, VM }, { KVM_CREATE_PIT, VM },
	{ KVM_GET_PIT, VM }, { KVM_SET_PIT, VM }, { KVM_IRQ_LINE_STATUS, VM },
	{ KVM_REGISTER_COALESCED_MMIO, VM }, { KVM_UNREGISTER_COALESCED_MMIO, VM },
	{ KVM_SET_GSI_ROUTING, VM }, { KVM_REINJECT_CONTROL, VM }, { KVM_IRQFD, VM },
	{ KVM_CREATE_PIT2, VM }, { KVM_SET_BOOT_CPU_ID, VM }, { KVM_IOEVENTFD, VM },
	{ KVM_SET_CLOCK, VM }, { KVM_GET_CLOCK, VM }, { KVM_GET_PIT2, VM }, { KVM_SET_PIT2, VM },
	{ KVM_SIGNAL_MSI, VM }, { KVM_ENABLE_CAP, VM }, { KVM_CHECK_EXTENSION, VM },
	{ KVM_X86_SET_MSR_FILTER, VM }, { KVM_CREATE_DEVICE, VM }, { KVM_CLEAR_DIRTY_LOG, VM },
	{ KVM_RESET_DIRTY_RINGS, VM }, { KVM_GET_STATS_FD, VM }, { KVM_SET_TSC_KHZ, VM },
	{ KVM_GET_TSC_KHZ, VM }, { KVM_RUN, VCPU }, { KVM_GET_REGS, VCPU }, { KVM_SET_REGS, VCPU },
	{ KVM_GET_SREGS, VCPU }, { KVM_SET_SREGS, VCPU }, { KVM_TRANSLATE, VCPU },
	{ KVM_INTERRUPT, VCPU }, { KVM_GET_MSRS, VCPU }, { KVM_SET_MSRS, VCPU },
	{ KVM_SET_CPUID, VCPU }, { KVM_SET_SIGNAL_MASK, VCPU }, { KVM_GET_FPU, VCPU },
	{ KVM_SET_FPU, VCPU }, { KVM_GET_LAPIC, VCPU }, { KVM_SET_LAPIC, VCPU },
	{ KVM_SET_CPUID2, VCPU }, { KVM_GET_CPUID2, VCPU }, { KVM_TPR_ACCESS_REPORTING, VCPU },
	{ KVM_SET_VAPIC_ADDR, VCPU }, { KVM_GET_MP_STATE, VCPU }, { KVM_SET_MP_STATE, VCPU },
	{ KVM_NMI, VCPU }, { KVM_SET_GUEST_DEBUG, VCPU }, { KVM_X86_SETUP_MCE, VCPU },
	{ KVM_X86_SET_MCE, VCPU }, { KVM_GET_VCPU_EVENTS, VCPU }, { KVM_SET_VCPU_EVENTS, VCPU },
	{ KVM_GET_DEBUGREGS, VCPU }, { KVM_SET_DEBUGREGS, VCPU }, { KVM_ENABLE_CAP, VCPU },
	{ KVM_GET_XSAVE, VCPU }, { KVM_SET_XSAVE, VCPU }, { KVM_GET_XCRS, VCPU },
	{ KVM_SET_XCRS, VCPU }, { KVM_KVMCLOCK_CTRL, VCPU }, { KVM_SMI, VCPU },
	{ KVM_GET_TSC_KHZ, VCPU }, { KVM_SET_TSC_KHZ, VCPU }, { KVM_GET_ONE_REG, VCPU },
	{ KVM_SET_ONE_REG, VCPU }, { KVM_GET_NESTED_STATE, VCPU }, { KVM_SET_NESTED_STATE, VCPU },
	{ KVM_GET_STATS_FD, VCPU }, { KVM_GET_SREGS2, VCPU }, { KVM_SET_SREGS2, VCPU },
	{ KVM_GET_XSAVE2, VCPU },
};
/* clang-format on */

/* What changes state that is read by another number: read, change a little, write. */
static const struct {
	uint32_t get, set;
	uint8_t kind;
} pairs[] = {
	{ KVM_GET_REGS, KVM_SET_REGS, VCPU },
	{ KVM_GET_SREGS, KVM_SET_SREGS, VCPU },
	{ KVM_GET_SREGS, KVM_SET_SREGS, VCPU },
	{ KVM_GET_SREGS2, KVM_SET_SREGS2, VCPU },
	{ KVM_GET_FPU, KVM_SET_FPU, VCPU },
	{ KVM_GET_XSAVE, KVM_SET_XSAVE, VCPU },
	{ KVM_GET_XCRS, KVM_SET_XCRS, VCPU },
	{ KVM_GET_LAPIC, KVM_SET_LAPIC, VCPU },
	{ KVM_GET_MP_STATE, KVM_SET_MP_STATE, VCPU },
	{ KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, VCPU },
	{ KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, VCPU },
	{ KVM_GET_CLOCK, KVM_SET_CLOCK, VM },
	{ KVM_GET_PIT2, KVM_SET_PIT2, VM },
	{ KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, VM },
	{ KVM_GET_MSRS, KVM_SET_MSRS, VCPU },
	{ KVM_GET_CPUID2, KVM_SET_CPUID2, VCPU },
};

static const uint32_t msrs[] = {
	0x10,	    0x11,	0x12,	    0x1b,	0x3a,	    0x3b,	0x79,
	0x8b,	    0x174,	0x175,	    0x176,	0x179,	    0x17a,	0x17b,
	0x1a0,	    0x1d9,	0x200,	    0x20f,	0x250,	    0x26f,	0x277,
	0x2ff,	    0x400,	0x401,	    0x402,	0x47f,	    0x6e0,	0x802,
	0x808,	    0x80b,	0x80f,	    0x830,	0x832,	    0x838,	0x83e,
	0x83f,	    0xda0,	0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d06, 0x4b564d07,
	0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101,
	0xc0000102, 0xc0000103, 0xc0010015, 0xc001001f, 0xc0010114, 0xc0010117, 0xc0011029,
};

uint32_t any_number(struct fuzzer *f, enum kind *ret_kind)
{
	const struct number *n = &numbers[below(f, ARRAY_SIZE(numbers))];

	*ret_kind = n->kind;
	return n->number;
}

enum kind any_pair(struct fuzzer *f, uint32_t *ret_get, uint32_t *ret_set)
{
	unsigned i = below(f, ARRAY_SIZE(pairs));

	*ret_get = pairs[i].get;
	*ret_set = pairs[i].set;
	return pairs[i].kind;
}

uint32_t any_msr(struct fuzzer *f)
{
	return msrs[below(f, ARRAY_SIZE(msrs))];
}

void half_valid(struct fuzzer *f, uint32_t number)
{
	void *at = f->data;

	switch (number) {
	case KVM_SET_USER_MEMORY_REGION: {
		unsigned first = below(f, RAM_PAGES), pages = below(f, RAM_PAGES - first + 1);

		*(struct kvm_userspace_memory_region *)at = (struct kvm_userspace_memory_region){
			.slot = below(f, 5),
			.flags = below(f, 4),
			.guest_phys_addr = below(f, 2) ? (uint64_t)first * PAGE
						       : (uint64_t)below(f, 0x200) * PAGE,
			.memory_size = below(f, 4) ? (uint64_t)pages * PAGE : 0,
			.userspace_addr = (uintptr_t)all.ram + (uint64_t)first * PAGE,
		};
		break;
	}
	case KVM_IRQFD:
		*(struct kvm_irqfd *)at = (struct kvm_irqfd){ .fd = fd_of(f, EVENT),
							      .gsi = below(f, 30),
							      .flags = below(f, 4),
							      .resamplefd = fd_of(f, EVENT) };
		break;
	case KVM_IOEVENTFD:
		*(struct kvm_ioeventfd *)at =
			(struct kvm_ioeventfd){ .addr = below(f, 2) ? 0x40 + below(f, 8) : 0x200000,
						.len = below(f, 2) ? 0 : 1u << below(f, 4),
						.fd = fd_of(f, EVENT),
						.flags = below(f, 8),
						.datamatch = below(f, 2) };
		break;
	case KVM_SET_GSI_ROUTING: {
		struct kvm_irq_routing *r = at;

		r->nr = below(f, 40);
		r->flags = 0;
		for (unsigned i = 0; i < r->nr; i++) {
			r->entries[i] = (struct kvm_irq_routing_entry){ .gsi = below(f, 30),
									.type = 1 + below(f, 2) };
			if (r->entries[i].type == KVM_IRQ_ROUTING_MSI)
				r->entries[i].u.msi = (struct kvm_irq_routing_msi){
					.address_lo = 0xfee00000 | below(f, 0x100000),
					.data = below(f, 0x10000)
				};
			else
				r->entries[i].u.irqchip =
					(struct kvm_irq_routing_irqchip){ below(f, 3),
									  below(f, 24) };
		}
		break;
	}
	case KVM_IRQ_LINE:
	case KVM_IRQ_LINE_STATUS:
		*(struct kvm_irq_level *)at =
			(struct kvm_irq_level){ .irq = below(f, 30), .level = below(f, 2) };
		break;
	case KVM_SIGNAL_MSI:
		*(struct kvm_msi *)at =
			(struct kvm_msi){ .address_lo = 0xfee00000 | below(f, 0x100000),
					  .data = below(f, 0x10000) };
		break;
	case KVM_GET_DIRTY_LOG:
		*(struct kvm_dirty_log *)at =
			(struct kvm_dirty_log){ .slot = below(f, 5),
						.dirty_bitmap = f->data + 1024 };
		break;
	case KVM_GET_MSRS:
	case KVM_SET_MSRS: {
		struct kvm_msrs *m = at;

		m->nmsrs = below(f, 40);
		for (unsigned i = 0; i < m->nmsrs; i++)
			m->entries[i] = (struct kvm_msr_entry){ .index = any_msr(f) + below(f, 2),
								.data = some(f) };
		break;
	}
	case KVM_SET_CPUID2:
	case KVM_GET_CPUID2:
	case KVM_GET_SUPPORTED_CPUID:
		((struct kvm_cpuid2 *)at)->nent = below(f, 80);
		break;
	case KVM_GET_MSR_INDEX_LIST:
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		((struct kvm_msr_list *)at)->nmsrs = below(f, 100);
		break;
	case KVM_ENABLE_CAP: {
		static const uint32_t caps[] = { KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_SPLIT_IRQCHIP,
						 KVM_CAP_HALT_POLL,
						 KVM_CAP_EXIT_ON_EMULATION_FAILURE,
						 KVM_CAP_DIRTY_LOG_RING };

		*(struct kvm_enable_cap *)at = (struct kvm_enable_cap){
			.cap = below(f, 3) ? caps[below(f, ARRAY_SIZE(caps))] : below(f, 256),
			.args = { below(f, 32), below(f, 4) * PAGE }
		};
		break;
	}
	case KVM_X86_SET_MSR_FILTER: {
		struct kvm_msr_filter *m = at;

		m->flags = below(f, 2);
		for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
			m->ranges[i] = (struct kvm_msr_filter_range){
				.flags = below(f, 4),
				.nmsrs = below(f, 3) ? 0 : below(f, 4096),
				.base = below(f, 2) ? 0xc0000000 : 0,
				.bitmap = f->data + 1024
			};
		break;
	}
	case KVM_SET_SIGNAL_MASK:
		((struct kvm_signal_mask *)at)->len = below(f, 8) ? 8 : below(f, 20);
		if (below(f, 2))
			memset(((struct kvm_signal_mask *)at)->sigset, 0, 8);
		break;
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		((struct kvm_irqchip *)at)->chip_id = below(f, 4);
		break;
	case KVM_SET_GUEST_DEBUG:
		((struct kvm_guest_debug *)at)->control =
			below(f, 4) ? 1 | below(f, 4) << 16 : (uint32_t)next(f) & 0x3f0003;
		break;
	case KVM_SET_MP_STATE:
		((struct kvm_mp_state *)at)->mp_state = below(f, 6);
		break;
	case KVM_CREATE_PIT2:
		((struct kvm_pit_config *)at)->flags = below(f, 2);
		break;
	case KVM_X86_SETUP_MCE:
		*(uint64_t *)at = below(f, 34) | (uint64_t)below(f, 2) << 8;
		break;
	case KVM_X86_SET_MCE:
		((struct kvm_x86_mce *)at)->bank = below(f, 34);
		((struct kvm_x86_mce *)at)->status |= (uint64_t)below(f, 8) << 61;
		break;
	case KVM_REGISTER_COALESCED_MMIO:
	case KVM_UNREGISTER_COALESCED_MMIO:
		*(struct kvm_coalesced_mmio_zone *)at =
			(struct kvm_coalesced_mmio_zone){ .addr = below(f, 2) ? 0x200000
									      : below(f, 256),
							  .size = below(f, 16),
							  .pio = below(f, 2) };
		break;
	}
}
