// SPDX-License-Identifier: GPL-2.0-only
/* vm.c - a machine: its file descriptor, and what the host's memory management tells it. */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>

#include "chips.h"
#include "irq.h"
#include "shadow.h"

DEFINE_MUTEX(vms_lock);
LIST_HEAD(vms);

/* ---- what the host does with the program's memory (mm/mmu_notifier.c) ---- */

static struct vm *vm_of(struct mmu_notifier *notifier)
{
	return container_of(notifier, struct vm, notifier);
}

typedef bool (*range_fn)(struct vm *vm, gpn_t first, gpn_t last, bool arg);

/* Call @fn for what of the guest lies in [start, end) of the program's memory. */
static bool each_range(struct vm *vm, unsigned long start, unsigned long end, range_fn fn, bool arg)
{
	const struct slots *slots = srcu_dereference(vm->slots, &vm->srcu);
	bool any = false;

	for (unsigned int i = 0; i < slots->count; i++) {
		const struct slot *slot = &slots->slot[i];
		unsigned long from = max(start, slot->hva);
		unsigned long to = min(end, slot->hva + (slot->pages << PAGE_SHIFT));

		if (from < to)
			any |= fn(vm, slot->gpn + ((from - slot->hva) >> PAGE_SHIFT),
				  slot->gpn + ((to - slot->hva + PAGE_SIZE - 1) >> PAGE_SHIFT), arg);
	}
	return any;
}

static bool range_zap(struct vm *vm, gpn_t first, gpn_t last, bool unused)
{
	return page_zap(vm, first, last);
}

static int on_invalidate_start(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct vm *vm = vm_of(notifier);
	int at = srcu_read_lock(&vm->srcu);

	write_lock(&vm->page_lock);
	vm->invalidating++;
	if (each_range(vm, range->start, range->end, range_zap, false))
		vm_flush_tlbs(vm);
	write_unlock(&vm->page_lock);
	srcu_read_unlock(&vm->srcu, at);
	return 0;
}

static void on_invalidate_end(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct vm *vm = vm_of(notifier);

	write_lock(&vm->page_lock);
	vm->invalidated++;
	vm->invalidating--;
	write_unlock(&vm->page_lock);
}

static int age(struct vm *vm, unsigned long start, unsigned long end, bool clear, bool flush)
{
	int at = srcu_read_lock(&vm->srcu);
	bool young;

	write_lock(&vm->page_lock);
	young = each_range(vm, start, end, page_age, clear);
	if (young && flush)
		vm_flush_tlbs(vm);
	write_unlock(&vm->page_lock);
	srcu_read_unlock(&vm->srcu, at);
	return young;
}

static int on_clear_flush_young(struct mmu_notifier *notifier, struct mm_struct *mm,
				unsigned long start, unsigned long end)
{
	return age(vm_of(notifier), start, end, true, true);
}

static int on_clear_young(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
			  unsigned long end)
{
	return age(vm_of(notifier), start, end, true, false);
}

static int on_test_young(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long address)
{
	return age(vm_of(notifier), address, address + PAGE_SIZE, false, false);
}

/* The program's memory is about to be gone, all of it. */
static void on_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct vm *vm = vm_of(notifier);

	write_lock(&vm->page_lock);
	vm->invalidated++;
	if (page_zap(vm, 0, ~0ull))
		vm_flush_tlbs(vm);
	write_unlock(&vm->page_lock);
}

static const struct mmu_notifier_ops notifier_ops = {
	.invalidate_range_start = on_invalidate_start,
	.invalidate_range_end = on_invalidate_end,
	.clear_flush_young = on_clear_flush_young,
	.clear_young = on_clear_young,
	.test_young = on_test_young,
	.release = on_release,
};

/* ---- TLBs ---- */

static void nothing(void *unused)
{
}

void vm_flush_tlbs(struct vm *vm)
{
	unsigned int count = smp_load_acquire(&vm->vcpu_count);
	cpumask_var_t cpus;
	bool have = zalloc_cpumask_var(&cpus, GFP_ATOMIC);

	for (unsigned int i = 0; i < count; i++) {
		struct vcpu *vcpu = vm->vcpu[i];

		/* Ordered against the vCPU, which says that it is in the guest before it looks at
		 * requests: one of us sees the other's word. */
		set_bit(REQ_FLUSH, &vcpu->requests);
		smp_mb__after_atomic();
		if (have && READ_ONCE(vcpu->mode) == VCPU_GUEST)
			cpumask_set_cpu(READ_ONCE(vcpu->on_cpu), cpus);
	}
	preempt_disable();
	smp_call_function_many(have ? cpus : cpu_online_mask, nothing, NULL, true);
	preempt_enable();
	free_cpumask_var(cpus);
	vm->stats.remote_tlb_flush++;
	if (vm->shadow)
		vm->shadow->stale = vm->shadow->pieces = false;
}

/* ---- system calls ---- */

static long enable_cap(struct vm *vm, const void __user *arg)
{
	struct kvm_enable_cap cap;

	if (copy_from_user(&cap, arg, sizeof(cap)))
		return -EFAULT;
	if (cap.flags)
		return -EINVAL;
	switch (cap.cap) {
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (cap.args[0] & ~(u64)(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
					 KVM_MSR_EXIT_REASON_FILTER))
			return -EINVAL;
		vm->msr_exits_invalid = cap.args[0] & KVM_MSR_EXIT_REASON_INVAL;
		vm->msr_exits_unknown = cap.args[0] & KVM_MSR_EXIT_REASON_UNKNOWN;
		vm->msr_exits_filter = cap.args[0] & KVM_MSR_EXIT_REASON_FILTER;
		return 0;
	case KVM_CAP_SPLIT_IRQCHIP: /* its argument, the number of pins, says nothing that routes do not */
		return cap.args[0] > GSI_MAX ? -EINVAL : chips_create(vm, true);
	case KVM_CAP_HALT_POLL:
		if (cap.args[0] > UINT_MAX)
			return -EINVAL;
		WRITE_ONCE(vm->poll_ns_max, cap.args[0]);
		return 0;
	case KVM_CAP_DIRTY_LOG_RING:
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return ring_enable(vm, cap.args[0]);
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		vm->exit_on_failure = cap.args[0];
		return 0;
	default:
		return -EINVAL;
	}
}

static long set_region(struct vm *vm, const void __user *arg)
{
	struct kvm_userspace_memory_region region;

	if (copy_from_user(&region, arg, sizeof(region)))
		return -EFAULT;
	return slots_set(vm, &region);
}

static long dirty_log(struct vm *vm, const void __user *arg)
{
	struct kvm_dirty_log log;

	if (copy_from_user(&log, arg, sizeof(log)))
		return -EFAULT;
	return slots_dirty_log(vm, &log);
}

/* Documentation/virt/kvm/api.rst, 4.38: 0 is the default. */
static long set_identity(struct vm *vm, const void __user *arg)
{
	u64 addr;
	long r = 0;

	if (copy_from_user(&addr, arg, sizeof(addr)))
		return -EFAULT;
	if (addr > U32_MAX || !PAGE_ALIGNED(addr)) /* it is in CR3 */
		return -EINVAL;
	mutex_lock(&vm->lock);
	if (vm->vcpu_count)
		r = -EINVAL;
	else
		vm->identity_addr = addr ?: IDENTITY_DEFAULT;
	mutex_unlock(&vm->lock);
	return r;
}

static long vm_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	struct vm *vm = file->private_data;
	void __user *user = (void __user *)arg;

	/* Its memory is that of the process that made it: Documentation/virt/kvm/api.rst, 2. */
	if (vm->mm != current->mm)
		return -EIO;
	switch (number) {
	case KVM_CREATE_VCPU:
		return vcpu_create(vm, arg);
	case KVM_SET_USER_MEMORY_REGION:
		return set_region(vm, user);
	case KVM_RESET_DIRTY_RINGS:
		return rings_reset(vm);
	case KVM_GET_DIRTY_LOG:
		return dirty_log(vm, user);
	case KVM_GET_STATS_FD:
		return stats_open_vm(vm);
	case KVM_CHECK_EXTENSION:
		return system_check_extension(arg);
	case KVM_ENABLE_CAP:
		return enable_cap(vm, user);
	case KVM_X86_SET_MSR_FILTER:
		return msr_filter_set(vm, user);
	case KVM_SET_CLOCK:
		return clock_set(vm, user);
	case KVM_GET_CLOCK:
		return clock_get(vm, user);
	case KVM_SET_TSS_ADDR: /* of what is there for real mode nothing has to be in the guest's memory: vmx_real.c */
		return arg > U32_MAX - 3 * PAGE_SIZE ? -EINVAL : 0;
	case KVM_SET_IDENTITY_MAP_ADDR:
		return set_identity(vm, user);
	case KVM_GET_TSC_KHZ:
		return tsc_khz;
	case KVM_IOEVENTFD:
		return ioevent_set(vm, user);
	case KVM_REGISTER_COALESCED_MMIO:
	case KVM_UNREGISTER_COALESCED_MMIO:
		return coalesced_set(vm, user, number == KVM_REGISTER_COALESCED_MMIO);
	case KVM_CREATE_IRQCHIP:
		return chips_create(vm, false);
	case KVM_IRQ_LINE:
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
	case KVM_SET_GSI_ROUTING:
	case KVM_SIGNAL_MSI:
	case KVM_IRQFD:
	case KVM_CREATE_PIT2:
	case KVM_REINJECT_CONTROL:
	case KVM_GET_PIT2:
	case KVM_SET_PIT2:
		return chips_ioctl(vm, number, user);
	default:
		return -ENOTTY;
	}
}

static int vm_release(struct inode *inode, struct file *file)
{
	vm_put(file->private_data);
	return 0;
}

static const struct file_operations vm_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = vm_ioctl,
	.release = vm_release,
	.llseek = noop_llseek,
};

/* ---- life ---- */

static int vm_init(struct vm *vm)
{
	struct slots *slots;
	int r;

	refcount_set(&vm->users, 1);
	mutex_init(&vm->lock);
	INIT_LIST_HEAD(&vm->ioevents);
	vm->poll_ns_max = READ_ONCE(halt_poll_ns);
	clock_init(vm);
	vm->mm = current->mm;
	mmgrab(vm->mm);
	r = init_srcu_struct(&vm->srcu);
	if (r)
		goto drop;
	r = coalesced_init(vm);
	if (r)
		goto srcu;
	r = page_table_init(vm);
	if (r)
		goto ring;
	r = -ENOMEM;
	slots = kvzalloc(sizeof(*slots), GFP_KERNEL_ACCOUNT);
	if (!slots)
		goto table;
	rcu_assign_pointer(vm->slots, slots);
	vm->notifier.ops = &notifier_ops;
	r = mmu_notifier_register(&vm->notifier, vm->mm);
	if (r)
		goto slots;
	preempt_notifier_inc();
	return 0;
slots:
	slots_free(vm);
table:
	page_table_free(vm);
ring:
	coalesced_free(vm);
srcu:
	cleanup_srcu_struct(&vm->srcu);
drop:
	mmdrop(vm->mm);
	return r;
}

long vm_create(void)
{
	int r, fd = get_unused_fd_flags(O_CLOEXEC);
	struct file *file;
	struct vm *vm;

	if (fd < 0)
		return fd;
	vm = kvzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	r = vm ? vm_init(vm) : -ENOMEM;
	if (r) {
		kvfree(vm);
		goto drop;
	}
	mutex_lock(&vms_lock);
	list_add_tail(&vm->list, &vms);
	mutex_unlock(&vms_lock);
	debugfs_add(vm, fd);
	file = anon_inode_getfile("kvm-vm", &vm_ops, vm, O_RDWR);
	if (IS_ERR(file)) {
		vm_put(vm);
		r = PTR_ERR(file);
		goto drop;
	}
	fd_install(fd, file);
	return fd;
drop:
	put_unused_fd(fd);
	return r;
}

void vm_get(struct vm *vm)
{
	refcount_inc(&vm->users);
}

void vm_put(struct vm *vm)
{
	if (!refcount_dec_and_test(&vm->users))
		return;
	debugfs_remove_vm(vm);
	mutex_lock(&vms_lock);
	list_del(&vm->list);
	mutex_unlock(&vms_lock);
	mmu_notifier_unregister(&vm->notifier, vm->mm);
	chips_stop(vm);
	for (unsigned int i = 0; i < vm->vcpu_count; i++)
		vcpu_destroy(vm->vcpu[i]);
	chips_free(vm);
	ioevents_free(vm);
	coalesced_free(vm);
	slots_free(vm);
	page_table_free(vm);
	msr_filter_free(rcu_dereference_protected(vm->filter, 1)); /* nobody else is left */
	cleanup_srcu_struct(&vm->srcu);
	preempt_notifier_dec();
	mmdrop(vm->mm);
	kvfree(vm);
}
