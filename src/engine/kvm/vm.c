// SPDX-License-Identifier: Apache-2.0
/* vm.c - one machine in the host's KVM: its memory slots and their dirty log. */
#include "engine/kvm/kvm_int.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"

static int map_slot(const struct kvm *kvm, size_t index, bool log_dirty)
{
	size_t count;
	const struct mem_slot *slot = &mem_slots(kvm->mem, &count)[index];
	struct kvm_userspace_memory_region region = {
		.slot = (uint32_t)index,
		.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = slot->gpa,
		.memory_size = slot->size,
		.userspace_addr = (uintptr_t)slot->hva,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int map_slots(const struct kvm *kvm, bool log_dirty)
{
	size_t count;
	int r = 0;

	(void)mem_slots(kvm->mem, &count);
	for (size_t i = 0; i < count && r >= 0; i++)
		r = map_slot(kvm, i, log_dirty);
	return r;
}

/* MSRs that KVM leaves to us when the local APIC is ours: everything it refuses, and
 * IA32_APIC_BASE, which it would otherwise keep to itself. */
static void setup_user_msrs(struct kvm *kvm)
{
	static uint8_t deny_all[1];
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL |
			  KVM_MSR_EXIT_REASON_FILTER },
	};
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges = { { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			      .base = 0x1b, .nmsrs = 1, .bitmap = deny_all } },
	};

	if (kvm_ioctl_long(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_MSR_FILTER) <= 0)
		return;
	kvm->user_msr = kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) >= 0 &&
			kvm_ioctl(kvm->vm_fd, KVM_X86_SET_MSR_FILTER, &filter) >= 0;
}

static bool fail(GError **err, int error, const char *what)
{
	g_set_error(err, BASE_ERROR, -error, "engine 'kvm': cannot %s: %s", what,
		    g_strerror(-error));
	return false;
}

static bool setup_vm(struct kvm *kvm, GError **err)
{
	uint64_t identity = KVM_IDENTITY_MAP_ADDR;
	struct kvm_enable_cap on_failure = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE,
					     .args = { 1 } };
	int r;

	kvm->vm_fd = kvm_ioctl_long(kvm->dev_fd, KVM_CREATE_VM, 0);
	if (kvm->vm_fd < 0) {
		r = kvm->vm_fd;
		return fail(err, r, r == -EBUSY ? "create a machine (does another hypervisor hold "
						  "the CPU?)" : "create a machine");
	}
	r = kvm_ioctl_long(kvm->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (r < (int)sizeof(struct kvm_run))
		return fail(err, r < 0 ? r : -EINVAL, "learn the size of a vCPU's shared page");
	kvm->run_bytes = (size_t)r;
	kvm->stats_fd = kvm_stats_open(kvm->vm_fd);
	r = kvm_ioctl_long(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	if (r <= 0 && kvm_ioctl_long(kvm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) > 0)
		r = sizeof(struct kvm_xsave);
	kvm->xsave_bytes = r > 0 ? MAX((size_t)r, sizeof(struct kvm_xsave)) : 0;
	xsave_layout(&kvm->xsave, kvm->xsave_bytes);
	/* Only VMX without unrestricted guest uses these; elsewhere a refusal means nothing. */
	(void)kvm_ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	(void)kvm_ioctl_long(kvm->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR);
	/* Without it a program in the guest gets #UD for what KVM cannot emulate, and we no exit. */
	(void)kvm_ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &on_failure);
	r = map_slots(kvm, false);
	if (r < 0)
		return fail(err, r, "map guest memory");
	return true;
}

struct engine *kvm_open(const struct engine_config *config, GError **err)
{
	struct kvm *kvm = g_new0(struct kvm, 1);
	char text[256];
	int r;

	kvm->engine.ops = &engine_kvm;
	kvm->mem = config->mem;
	kvm->host = config->host;
	kvm->vcpus = config->vcpus;
	kvm->vm_fd = kvm->stats_fd = -1;
	for (size_t i = 0; i < ARRAY_SIZE(kvm->vcpu_stats_fd); i++)
		kvm->vcpu_stats_fd[i] = -1;
	pthread_mutex_init(&kvm->route_lock, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(kvm->routes); i++)
		kvm->routes[i].fd = -1;

	kvm->dev_fd = kvm_open_device(text, sizeof(text), &kvm->caps);
	if (kvm->dev_fd < 0) {
		g_set_error(err, BASE_ERROR, ENOTSUP, "engine 'kvm' is not available here: %s",
			    text);
		goto fail;
	}
	if (!config->want_irqchip)
		kvm->caps &= ENGINE_CAP_IOEVENTFD;
	if (!config->want_pit)
		kvm->caps &= ~(uint32_t)ENGINE_CAP_PIT;
	r = kvm_signal_setup();
	if (r < 0) {
		fail(err, r, "set up its signal");
		goto fail;
	}
	if (!setup_vm(kvm, err) || kvm_irq_setup(kvm, err) < 0)
		goto fail;
	if (!kvm_has_irqchip(kvm))
		setup_user_msrs(kvm);
	if (kvm_cpuid_setup(kvm, config->cpu, err) < 0)
		goto fail;
	return &kvm->engine;
fail:
	kvm_close(&kvm->engine);
	return NULL;
}

void kvm_close(struct engine *engine)
{
	struct kvm *kvm = (struct kvm *)engine;

	if (!kvm)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(kvm->vcpu_stats_fd); i++)
		if (kvm->vcpu_stats_fd[i] >= 0)
			close(kvm->vcpu_stats_fd[i]);
	if (kvm->stats_fd >= 0)
		close(kvm->stats_fd);
	if (kvm->vm_fd >= 0)
		close(kvm->vm_fd);
	if (kvm->dev_fd >= 0)
		close(kvm->dev_fd);
	pthread_mutex_destroy(&kvm->route_lock);
	g_free(kvm->cpuid);
	g_free(kvm);
}

uint32_t kvm_caps(const struct engine *engine)
{
	return ((const struct kvm *)engine)->caps;
}

int kvm_dirty_start(struct engine *engine)
{
	struct kvm *kvm = (struct kvm *)engine;
	int r;

	if (kvm->dirty_on)
		return 0;
	if (!mem_dirty_is_on(kvm->mem)) {
		r = mem_dirty_start(kvm->mem);
		if (r < 0)
			return r;
		kvm->dirty_log_is_ours = true;
	}
	r = map_slots(kvm, true);
	kvm->dirty_on = true;
	if (r < 0)
		kvm_dirty_stop(engine);
	return r < 0 ? r : 0;
}

/* Hand runs of set bits to mem's log. */
static void fold(struct mem *mem, const struct mem_slot *slot, const uint64_t *bitmap)
{
	uint64_t pages = slot->size / MEM_PAGE_SIZE;

	for (uint64_t page = 0; page < pages;) {
		uint64_t word = bitmap[page / 64] >> (page % 64);
		uint64_t first;

		if (!word) {
			page = (page / 64 + 1) * 64;
			continue;
		}
		page += (unsigned)__builtin_ctzll(word);
		first = page;
		while (page < pages && (bitmap[page / 64] >> (page % 64) & 1))
			page++;
		mem_dirty_mark(mem, slot->gpa + first * MEM_PAGE_SIZE,
			       (page - first) * MEM_PAGE_SIZE);
	}
}

int kvm_dirty_sync(struct engine *engine)
{
	struct kvm *kvm = (struct kvm *)engine;
	size_t count;
	const struct mem_slot *slots = mem_slots(kvm->mem, &count);

	for (size_t i = 0; kvm->dirty_on && i < count; i++) {
		uint64_t words = (slots[i].size / MEM_PAGE_SIZE + 63) / 64;
		g_autofree uint64_t *bitmap = g_try_new0(uint64_t, words);
		struct kvm_dirty_log log = { .slot = (uint32_t)i, .dirty_bitmap = bitmap };
		int r;

		if (!bitmap)
			return -ENOMEM;
		r = kvm_ioctl(kvm->vm_fd, KVM_GET_DIRTY_LOG, &log);
		if (r < 0)
			return r;
		fold(kvm->mem, &slots[i], bitmap);
	}
	return 0;
}

void kvm_dirty_stop(struct engine *engine)
{
	struct kvm *kvm = (struct kvm *)engine;

	if (!kvm->dirty_on)
		return;
	if (map_slots(kvm, false) < 0)
		log_debug("engine kvm: the host keeps logging dirty pages");
	kvm->dirty_on = false;
	if (kvm->dirty_log_is_ours)
		mem_dirty_stop(kvm->mem);
	kvm->dirty_log_is_ours = false;
}
