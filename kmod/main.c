// SPDX-License-Identifier: GPL-2.0-only
/* main.c - the driver's life: which hardware, on every CPU, and /dev/kvm. */
#define pr_fmt(fmt) "sika-kvm: " fmt

#include <linux/cpuhotplug.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/fs.h>
#include <linux/reboot.h>
#include <linux/uaccess.h>
#include <asm/processor.h>
#include <asm/tsc.h>

#include "chips.h"
#include "compat.h"
#include "irq.h"
#include "shadow.h"

const struct hw *hw;
static enum cpuhp_state hotplug;

/* ---- every CPU ---- */

static int cpu_starts(unsigned int cpu)
{
	unsigned long flags;
	int r;

	local_irq_save(flags);
	r = hw->enable();
	local_irq_restore(flags);
	if (r)
		pr_err("CPU %u refuses %s: error %d\n", cpu, hw->name, -r);
	return r;
}

static int cpu_stops(unsigned int cpu)
{
	unsigned long flags;

	local_irq_save(flags);
	hw->disable();
	local_irq_restore(flags);
	return 0;
}

static void disable_here(void *unused)
{
	hw->disable();
}

/* A kernel that follows this one (kexec, or firmware on reboot) finds the CPUs as they were. */
static int on_reboot(struct notifier_block *block, unsigned long what, void *unused)
{
	on_each_cpu(disable_here, NULL, 1);
	return NOTIFY_OK;
}

static struct notifier_block reboot_block = { .notifier_call = on_reboot };

/* The CPU that sleeps last is not unplugged for it. */
static int on_suspend(COMPAT_SYSCORE_ARG)
{
	hw->disable();
	return 0;
}

static void on_resume(COMPAT_SYSCORE_ARG)
{
	if (hw->enable())
		pr_err("the first CPU refuses %s after sleep\n", hw->name);
}

COMPAT_SYSCORE(sleep_core, on_suspend, on_resume);

/* ---- /dev/kvm ---- */

/* What is here is there whole: vm.c, vcpu.c and state.c. */
long system_check_extension(unsigned long cap)
{
	switch (cap) {
	case KVM_CAP_USER_MEMORY:
	case KVM_CAP_DESTROY_MEMORY_REGION_WORKS:
	case KVM_CAP_JOIN_MEMORY_REGIONS_WORKS:
	case KVM_CAP_EXT_CPUID:
	case KVM_CAP_EXT_EMUL_CPUID:
	case KVM_CAP_SET_TSS_ADDR:
	case KVM_CAP_SET_IDENTITY_MAP_ADDR:
	case KVM_CAP_MP_STATE:
	case KVM_CAP_NOP_IO_DELAY:
	case KVM_CAP_SYNC_MMU:
	case KVM_CAP_USER_NMI:
	case KVM_CAP_VCPU_EVENTS:
	case KVM_CAP_XCRS:
	case KVM_CAP_DEBUGREGS:
	case KVM_CAP_XSAVE:
	case KVM_CAP_GET_TSC_KHZ:
	case KVM_CAP_READONLY_MEM:
	case KVM_CAP_IMMEDIATE_EXIT:
	case KVM_CAP_GET_MSR_FEATURES:
	case KVM_CAP_X86_MSR_FILTER:
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
	case KVM_CAP_ENABLE_CAP_VM:
	case KVM_CAP_CHECK_EXTENSION_VM:
	case KVM_CAP_IOEVENTFD:
	case KVM_CAP_IOEVENTFD_ANY_LENGTH:
	case KVM_CAP_IRQCHIP:
	case KVM_CAP_IRQFD:
	case KVM_CAP_IRQFD_RESAMPLE:
	case KVM_CAP_SIGNAL_MSI:
	case KVM_CAP_SPLIT_IRQCHIP:
	case KVM_CAP_PIT2:
	case KVM_CAP_REINJECT_CONTROL:
	case KVM_CAP_PIT_STATE2:
	case KVM_CAP_TSC_DEADLINE_TIMER:
	case KVM_CAP_SET_GUEST_DEBUG:
	case KVM_CAP_COALESCED_PIO:
	case KVM_CAP_HALT_POLL:
	case KVM_CAP_ASYNC_PF:
	case KVM_CAP_ASYNC_PF_INT:
	case KVM_CAP_BINARY_STATS_FD:
		return 1;
	case KVM_CAP_COALESCED_MMIO:
		return KVM_COALESCED_MMIO_PAGE_OFFSET;
	case KVM_CAP_SET_GUEST_DEBUG2:
		return DEBUG_FLAGS;
	case KVM_CAP_ADJUST_CLOCK:
		return KVM_CLOCK_TSC_STABLE;
	case KVM_CAP_MCE:
		return MCE_BANKS;
	case KVM_CAP_IRQ_ROUTING:
		return GSI_MAX;
	case KVM_CAP_X86_USER_SPACE_MSR:
		return KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
		       KVM_MSR_EXIT_REASON_FILTER;
	case KVM_CAP_NR_VCPUS:
		return min(num_online_cpus(), VM_VCPUS);
	case KVM_CAP_MAX_VCPUS:
		return VM_VCPUS;
	case KVM_CAP_MAX_VCPU_ID:
		return 256;
	case KVM_CAP_DIRTY_LOG_RING:
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return ring_bytes_max();
	case KVM_CAP_NR_MEMSLOTS:
		return VM_SLOTS;
	default:
		return 0;
	}
}

static long system_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	switch (number) {
	case KVM_GET_API_VERSION:
		return arg ? -EINVAL : KVM_API_VERSION;
	case KVM_CREATE_VM:
		return arg ? -EINVAL : vm_create();
	case KVM_CHECK_EXTENSION:
		return system_check_extension(arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return arg ? -EINVAL : VCPU_SHARED_PAGES * PAGE_SIZE;
	case KVM_GET_SUPPORTED_CPUID:
		return cpuid_supported((void __user *)arg);
	case KVM_GET_EMULATED_CPUID:
		return cpuid_emulated((void __user *)arg);
	case KVM_GET_MSR_INDEX_LIST:
		return msr_list((void __user *)arg, false);
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		return msr_list((void __user *)arg, true);
	case KVM_GET_MSRS:
		return msr_feature_io((void __user *)arg);
	case KVM_X86_GET_MCE_CAP_SUPPORTED:
		return put_user(mce_supported(), (u64 __user *)arg);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations device_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = system_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = KVM_MINOR,
	.name = "kvm",
	.fops = &device_ops,
	.mode = 0660,
};

/* ---- the module ---- */

#define VMX_OFFERED BIT(5) /* CPUID leaf 1, ECX: whatever the firmware says of it */

static int __init sika_init(void)
{
	int r;

	/* Guests are told time by it. */
	if (!tsc_khz) {
		pr_err("the frequency of the time stamp counter is not known\n");
		return -EOPNOTSUPP;
	}
	hw = cpuid_ecx(1) & VMX_OFFERED ? &hw_vmx : &hw_svm;
	r = hw->probe();
	if (r)
		return r;
	r = irqfd_init();
	if (r)
		return r;
	r = apf_start();
	if (r)
		goto irqfd;
	r = hw->setup();
	if (r)
		goto apf;
	r = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "sika/kvm:online", cpu_starts, cpu_stops);
	if (r < 0)
		goto teardown;
	hotplug = r;
	register_reboot_notifier(&reboot_block);
	compat_syscore_register(&sleep_core);
	r = shadow_start();
	if (r)
		goto stop;
	debugfs_start();
	r = misc_register(&device);
	if (r) {
		pr_err("/dev/kvm is taken: is another driver loaded?\n");
		goto debugfs;
	}
	pr_info("%s, %s page tables\n", hw->name, nested_paging ? "nested" : "shadow");
	return 0;
debugfs:
	debugfs_stop();
	shadow_stop();
stop:
	compat_syscore_unregister(&sleep_core);
	unregister_reboot_notifier(&reboot_block);
	cpuhp_remove_state(hotplug);
teardown:
	hw->teardown();
apf:
	apf_stop();
irqfd:
	irqfd_exit();
	return r;
}

static void __exit sika_exit(void)
{
	misc_deregister(&device);
	debugfs_stop();
	shadow_stop();
	compat_syscore_unregister(&sleep_core);
	unregister_reboot_notifier(&reboot_block);
	cpuhp_remove_state(hotplug);
	hw->teardown();
	apf_stop();
	irqfd_exit();
}

module_init(sika_init);
module_exit(sika_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sika's hypervisor behind /dev/kvm");
MODULE_ALIAS_MISCDEV(KVM_MINOR);
MODULE_ALIAS("devname:kvm");
