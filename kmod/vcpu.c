// SPDX-License-Identifier: GPL-2.0-only
/* vcpu.c - a vCPU: its file descriptor, and the loop that runs it. */
#include <linux/anon_inodes.h>
#include <linux/context_tracking.h>
#include <linux/entry-kvm.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/sched/signal.h>
#include <linux/sched/stat.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/vtime.h>
#include <asm/debugreg.h>
#include <asm/fpu/xcr.h>

#include "chips.h"
#include "compat.h"
#include "shadow.h"
#include "trace.h"
#include "work.h"

/* How long a halted vCPU looks for what wakes it before it sleeps, at most; the factors that the time grows and shrinks
 * by, and where it starts: Documentation/virt/kvm/halt-polling.rst. */
unsigned int halt_poll_ns = 200000;
static unsigned int halt_poll_ns_grow = 2, halt_poll_ns_grow_start = 10000, halt_poll_ns_shrink;
module_param(halt_poll_ns, uint, 0644);
module_param(halt_poll_ns_grow, uint, 0644);
module_param(halt_poll_ns_grow_start, uint, 0644);
module_param(halt_poll_ns_shrink, uint, 0644);

/* ---- the state, in two forms ---- */

const struct x86_state *vcpu_peek(struct vcpu *vcpu)
{
	if (vcpu->in_hardware) {
		hw->pull(vcpu);
		vcpu->in_hardware = false;
		x86_update_mode(&vcpu->cpu);
	}
	return &vcpu->cpu.s;
}

struct x86_state *vcpu_state(struct vcpu *vcpu)
{
	(void)vcpu_peek(vcpu);
	vcpu->changed = true;
	return &vcpu->cpu.s;
}

int vcpu_advance(struct vcpu *vcpu)
{
	u64 next = vcpu->emu.alone ? 0 : hw->next_rip(vcpu);
	unsigned int length;

	if (!next) {
		length = emulate_length(vcpu);
		if (!length)
			return exit_failure(vcpu);
		next = fetch_next(vcpu, length);
	}
	/* The trap of a single step: SDM vol. 3, 17.3.1.4. */
	if (hw->rflags(vcpu) & X86_FL_TF && !debug_has_db(vcpu)) {
		vcpu_state(vcpu)->dr[6] |= DR_STEP;
		event_raise(vcpu, X86_DB, false, 0);
	}
	hw->set_rip(vcpu, next);
	return 1;
}

int vcpu_skip(struct vcpu *vcpu)
{
	int r = vcpu_advance(vcpu);

	return r > 0 ? debug_trap(vcpu) : r;
}

/* ---- which CPU ---- */

static void on_sched_in(struct preempt_notifier *notifier, int cpu)
{
	struct vcpu *vcpu = container_of(notifier, struct vcpu, preempt);

	if (vcpu->last_cpu != cpu && !clock_is_stable())
		set_bit(REQ_CLOCK, &vcpu->requests);
	hw->load(vcpu, vcpu->last_cpu != cpu);
	host_load(vcpu);
	host_part_guests(vcpu);
	vcpu->last_cpu = cpu;
	steal_came(vcpu);
}

static void on_sched_out(struct preempt_notifier *notifier, struct task_struct *next)
{
	struct vcpu *vcpu = container_of(notifier, struct vcpu, preempt);

	steal_left(vcpu);
	host_put();
	if (hw->put)
		hw->put(vcpu);
}

static struct preempt_ops preempt_ops = { .sched_in = on_sched_in, .sched_out = on_sched_out };

void vcpu_load(struct vcpu *vcpu)
{
	preempt_disable();
	preempt_notifier_register(&vcpu->preempt);
	on_sched_in(&vcpu->preempt, smp_processor_id());
	preempt_enable();
}

void vcpu_put(struct vcpu *vcpu)
{
	preempt_disable();
	on_sched_out(&vcpu->preempt, NULL);
	preempt_notifier_unregister(&vcpu->preempt);
	preempt_enable();
}

void vcpu_flush_tlb(struct vcpu *vcpu)
{
	set_bit(REQ_FLUSH, &vcpu->requests);
	if (vcpu->shadow)
		shadow_reload(vcpu);
}

void vcpu_request(struct vcpu *vcpu, enum vcpu_request request)
{
	set_bit(request, &vcpu->requests);
	/* Before the mode: see run_once(). */
	smp_mb__after_atomic();
	wake_up(&vcpu->wait);
	preempt_disable();
	if (READ_ONCE(vcpu->mode) == VCPU_GUEST && READ_ONCE(vcpu->on_cpu) != smp_processor_id())
		smp_send_reschedule(READ_ONCE(vcpu->on_cpu));
	preempt_enable();
}

/* ---- the loop ---- */

/* The guest's XCR0 is loaded only around its code: the kernel saves its own state with its own. */
static void load_xcr0(struct vcpu *vcpu)
{
	if (!cpu_feature_enabled(X86_FEATURE_OSXSAVE))
		return;
	vcpu->xcr0_host = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	/* Not what this processor lacks, whatever CPUID user space showed to the guest. */
	vcpu->xcr0_loaded = vcpu->xcr0_host;
	if (vcpu->cpu.s.cr4 & X86_CR4_OSXSAVE)
		vcpu->xcr0_loaded &= vcpu->cpu.s.xcr0 | 1;
	if (vcpu->xcr0_loaded != vcpu->xcr0_host)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, vcpu->xcr0_loaded);
}

static void restore_xcr0(struct vcpu *vcpu)
{
	if (vcpu->xcr0_loaded != vcpu->xcr0_host)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, vcpu->xcr0_host);
}

static void load_breakpoints(struct vcpu *vcpu)
{
	bool debugged = vcpu->debug.control & KVM_GUESTDBG_USE_HW_BP;
	const u64 *dr = debugged ? vcpu->debug.dr : vcpu->cpu.s.dr;

	/* A debugger that steps has them too: DR6 may tell of what is not armed (SDM vol. 3, 17.2.3), and is not to tell of
	 * another guest's. */
	if (!((debugged ? vcpu->debug.dr7 : vcpu->cpu.s.dr[7]) & 0xff) && !vcpu->debug_open && !debug_has_db(vcpu))
		return;
	set_debugreg(0, 7);
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
}

/* While the registers were the guest's own it may have written them. */
static void save_breakpoints(struct vcpu *vcpu)
{
	if (!vcpu->debug_open)
		return;
	get_debugreg(vcpu->cpu.s.dr[0], 0);
	get_debugreg(vcpu->cpu.s.dr[1], 1);
	get_debugreg(vcpu->cpu.s.dr[2], 2);
	get_debugreg(vcpu->cpu.s.dr[3], 3);
	(void)vcpu_peek(vcpu); /* DR7 is in the hardware's form */
	vcpu->debug_open = false;
	hw->debug_window(vcpu, false);
}

/* Interrupts and preemption are off. */
static void enter_guest(struct vcpu *vcpu)
{
	bool flush = test_and_clear_bit(REQ_FLUSH, &vcpu->requests);

	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
	load_breakpoints(vcpu);
	load_xcr0(vcpu);
	vcpu->emu.alone = false;
	hw->enter(vcpu, flush);
	vcpu->in_hardware = true;
	restore_xcr0(vcpu);
	save_breakpoints(vcpu);
	if (hw_breakpoint_active())
		hw_breakpoint_restore();
	vcpu->stats.tlb_flush += flush;
}

/* Signals, and what else is done on the way to user space. */
static bool has_work(void)
{
	return READ_ONCE(current_thread_info()->flags) &
	       (XFER_TO_GUEST_MODE_WORK & ~_TIF_NEED_RESCHED);
}

/* #BP that a debugger gives back to the guest: its frame points behind the INT3, which has not been executed. */
static bool is_breakpoint(struct vcpu *vcpu)
{
	const struct x86_state *s = &vcpu->cpu.s;

	return s->exception_pending && s->exception_vector == X86_BP && emulate_length(vcpu) &&
	       vcpu->emu.breakpoint;
}

/* The event that was to be injected, else the next instruction. */
static int leave_to_core(struct vcpu *vcpu)
{
	vcpu->taken_back = vcpu->has_injected;
	event_cancel(vcpu);
	return emulate_any(vcpu);
}

/* One stay in the guest. As handle_exit(). */
static int run_once(struct vcpu *vcpu)
{
	int r;

	if (is_breakpoint(vcpu)) {
		vcpu_state(vcpu)->exception_pending = false;
		return emulate(vcpu);
	}
	r = vcpu->shadow ? shadow_load(vcpu) : 0;
	if (r)
		return r;
	event_inject(vcpu);
	if (hw->needs_core && hw->needs_core(vcpu))
		return leave_to_core(vcpu);
	if (vcpu->changed && hw->prepare)
		hw->prepare(vcpu);
	if (vcpu->has_injected && vcpu->injected.kind == EVENT_INTERRUPT)
		eoi_offer(vcpu);
	preempt_disable();
	if (vcpu->changed) {
		hw->push(vcpu);
		host_push(vcpu);
		vcpu->changed = false;
	}
	local_irq_disable();
	vcpu->on_cpu = smp_processor_id();
	/* Full barrier: see vm_flush_tlbs() and vcpu_request(). */
	smp_store_mb(vcpu->mode, VCPU_GUEST);
	if (has_work() || need_resched() || compat_immediate_exit(vcpu->run) ||
	    READ_ONCE(vcpu->requests) & REQ_BEFORE_ENTRY) {
		smp_store_release(&vcpu->mode, VCPU_OUTSIDE);
		local_irq_enable();
		preempt_enable();
		event_cancel(vcpu);
		eoi_collect(vcpu);
		return 1;
	}
	vtime_account_guest_enter();
	trace_kvm_entry(vcpu);
	enter_guest(vcpu);
	trace_kvm_exit(vcpu);
	smp_store_release(&vcpu->mode, VCPU_OUTSIDE);
	/* What made it exit is taken here, and a tick accounted to the guest: not directly behind STI, which keeps
	 * interrupts out of the next instruction (SDM vol. 2, STI). */
	local_irq_enable();
	vcpu->stats.exits++;
	local_irq_disable();
	vtime_account_guest_exit();
	local_irq_enable();
	steal_open(vcpu);
	preempt_enable();
	steal_close(vcpu);
	eoi_collect(vcpu);
	return hw->handle_exit(vcpu);
}

static int interrupted(struct vcpu *vcpu)
{
	vcpu->stats.signal_exits += signal_pending(current);
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return -EINTR;
}

/* User space has the 8259 pair, and it is wired through to this vCPU. */
static bool user_has_line(const struct vcpu *vcpu)
{
	return !vcpu->lapic || (vcpu->vm->chips->split && vcpu->extint < 0 &&
				lapic_takes_extint(vcpu->lapic));
}

bool vcpu_user_waits(struct vcpu *vcpu)
{
	return READ_ONCE(vcpu->run->request_interrupt_window) && user_has_line(vcpu);
}

static bool user_can_inject(struct vcpu *vcpu)
{
	return user_has_line(vcpu) && event_can_interrupt(vcpu);
}

static bool window_is_open(struct vcpu *vcpu)
{
	return vcpu_user_waits(vcpu) && event_can_interrupt(vcpu);
}

static bool is_called(struct vcpu *vcpu)
{
	return READ_ONCE(vcpu->requests) & (REQ_WAKES | BIT(REQ_UNHALT)) || compat_immediate_exit(vcpu->run);
}

/* What wakes a halted vCPU is often near, and to look for it is cheaper than to sleep and be woken: as long as nobody
 * else wants this CPU. How long grows while it helps and the sleep is short, and is nothing when it is long. */
static void poll(struct vcpu *vcpu, ktime_t begun)
{
	u64 limit = min(vcpu->poll_ns, READ_ONCE(vcpu->vm->poll_ns_max));
	ktime_t end = ktime_add_ns(begun, limit);
	u64 took;

	if (!limit)
		return;
	while (!is_called(vcpu) && !has_work() && !need_resched() &&
	       single_task_running() && ktime_before(ktime_get(), end))
		cpu_relax();
	took = ktime_to_ns(ktime_sub(ktime_get(), begun));
	vcpu->stats.halt_attempted_poll++;
	if (is_called(vcpu)) {
		vcpu->stats.halt_successful_poll++;
		vcpu->stats.halt_poll_success_ns += took;
		stats_add(vcpu->stats.halt_poll_success_hist, took);
	} else {
		vcpu->stats.halt_poll_fail_ns += took;
		stats_add(vcpu->stats.halt_poll_fail_hist, took);
	}
}

/* Until it is called, or a signal comes. */
static int block(struct vcpu *vcpu)
{
	ktime_t begun = ktime_get();
	u64 took;
	int r;

	if (is_called(vcpu))
		return 0;
	WRITE_ONCE(vcpu->stats.blocking, 1);
	r = wait_event_interruptible(vcpu->wait, is_called(vcpu));
	WRITE_ONCE(vcpu->stats.blocking, 0);
	took = ktime_to_ns(ktime_sub(ktime_get(), begun));
	vcpu->stats.halt_wait_ns += took;
	stats_add(vcpu->stats.halt_wait_hist, took);
	return r;
}

static void poll_adapt(struct vcpu *vcpu, ktime_t begun)
{
	u64 max = READ_ONCE(vcpu->vm->poll_ns_max), took = ktime_to_ns(ktime_sub(ktime_get(), begun));
	unsigned int shrink = READ_ONCE(halt_poll_ns_shrink);

	if (took <= vcpu->poll_ns)
		return;
	if (took > max)
		vcpu->poll_ns = shrink ? vcpu->poll_ns / shrink : 0;
	else
		vcpu->poll_ns = min_t(u64, max, max_t(u64, vcpu->poll_ns * halt_poll_ns_grow,
						     halt_poll_ns_grow_start));
}

/* Halted, or waiting to be started, with its local APIC in here. As handle_exit(). */
static int sleep(struct vcpu *vcpu)
{
	/* Who waits to be started does not hear it. */
	bool kicked = vcpu_take_request(vcpu, REQ_UNHALT);
	ktime_t begun;
	int r;

	(void)vcpu_take_request(vcpu, REQ_EVENT); /* before the look: see chips.h */
	if (vcpu->cpu.s.activity == X86_HALTED && (kicked || event_wakes(vcpu))) {
		vcpu->cpu.s.activity = X86_RUNNING;
		return 1;
	}
	begun = ktime_get();
	if (vcpu->cpu.s.activity == X86_HALTED)
		poll(vcpu, begun);
	r = block(vcpu);
	poll_adapt(vcpu, begun);
	vcpu->stats.halt_wakeup += !r;
	return r ? interrupted(vcpu) : 1;
}

static int loop(struct vcpu *vcpu)
{
	bool signal;
	int r = 1;

	while (r > 0) {
		if (vcpu->eoi_vector >= 0) {
			vcpu->run->exit_reason = KVM_EXIT_IOAPIC_EOI;
			vcpu->run->eoi.vector = vcpu->eoi_vector;
			vcpu->eoi_vector = -1;
			return 0;
		}
		if (window_is_open(vcpu)) {
			vcpu->stats.request_irq_exits++;
			vcpu->run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
			return 0;
		}
		steal_open(vcpu);
		cond_resched();
		signal = has_work() && work_do(vcpu->work);
		steal_close(vcpu);
		if (ring_is_full(vcpu)) {
			vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
			return 0;
		}
		if (vcpu->cpu.s.activity == X86_SHUTDOWN) {
			vcpu_state(vcpu)->activity = X86_RUNNING;
			return exit_shutdown(vcpu);
		}
		if (compat_immediate_exit(vcpu->run) || signal)
			return interrupted(vcpu);
		if (vcpu_take_request(vcpu, REQ_CLOCK))
			clock_update(vcpu);
		if (vcpu_take_request(vcpu, REQ_APF))
			apf_update(vcpu);
		if (vcpu->lapic)
			lapic_take_requests(vcpu);
		if (vcpu->cpu.s.activity == X86_RUNNING)
			r = run_once(vcpu);
		else
			r = sleep(vcpu);
	}
	return r;
}

/* What user space reads beside the reason: Documentation/virt/kvm/api.rst, 5. */
static void tell(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	run->if_flag = !!(hw->rflags(vcpu) & X86_FL_IF);
	run->ready_for_interrupt_injection = (vcpu->lapic && !vcpu->vm->chips->split) ||
					     user_can_inject(vcpu);
	run->apic_base = vcpu->apic_base;
	if (vcpu->lapic)
		run->cr8 = lapic_get(vcpu->lapic, LAPIC_TPR) >> 4;
	run->flags = 0;
}

static long run(struct vcpu *vcpu)
{
	int (*finish)(struct vcpu *vcpu) = vcpu->finish;
	int r = 1;

	vcpu_load(vcpu);
	rcu_assign_pointer(vcpu->runner, current);
	fpu_swap_kvm_fpstate(&vcpu->fpu, true);
	vcpu->finish = NULL;
	if (finish)
		r = finish(vcpu);
	if (r > 0)
		r = loop(vcpu);
	if (hw->form_is_cpus)
		(void)vcpu_peek(vcpu);
	tell(vcpu);
	fpu_swap_kvm_fpstate(&vcpu->fpu, false);
	RCU_INIT_POINTER(vcpu->runner, NULL);
	vcpu_put(vcpu);
	return r;
}

/* ---- system calls ---- */

/* KVM_SET_SIGNAL_MASK: what is blocked while KVM_RUN lasts. Documentation/virt/kvm/api.rst, 4.21. */
static long set_signals(struct vcpu *vcpu, const void __user *arg)
{
	const struct kvm_signal_mask __user *mask = arg;
	sigset_t signals;
	u32 len;

	if (!mask) {
		vcpu->has_signals = false;
		return 0;
	}
	if (get_user(len, &mask->len))
		return -EFAULT;
	if (len != sizeof(signals))
		return -EINVAL;
	if (copy_from_user(&signals, mask->sigset, sizeof(signals)))
		return -EFAULT;
	sigdelsetmask(&signals, sigmask(SIGKILL) | sigmask(SIGSTOP));
	vcpu->signals = signals;
	vcpu->has_signals = true;
	return 0;
}

static long run_with_signals(struct vcpu *vcpu)
{
	sigset_t before;
	long r;

	if (!vcpu->has_signals)
		return run(vcpu);
	sigprocmask(SIG_SETMASK, &vcpu->signals, &before);
	r = run(vcpu);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return r;
}

static long inject_interrupt(struct vcpu *vcpu, const void __user *arg)
{
	struct kvm_interrupt irq;

	if (copy_from_user(&irq, arg, sizeof(irq)))
		return -EFAULT;
	if (irq.irq > 255)
		return -EINVAL;
	if (vcpu->lapic) {
		if (!vcpu->vm->chips->split)
			return -ENXIO;
		if (vcpu->extint >= 0)
			return -EEXIST;
		vcpu->extint = irq.irq;
		return 0;
	}
	if (vcpu_peek(vcpu)->interrupt_pending)
		return -EEXIST;
	vcpu_state(vcpu)->interrupt_pending = true;
	vcpu->cpu.s.interrupt_vector = irq.irq;
	return 0;
}

static long lapic_state(struct vcpu *vcpu, void __user *arg, bool set)
{
	struct kvm_lapic_state *state;
	long r = 0;

	if (!vcpu->lapic)
		return -EINVAL;
	state = set ? memdup_user(arg, sizeof(*state)) : kzalloc(sizeof(*state), GFP_KERNEL_ACCOUNT);
	if (IS_ERR_OR_NULL(state))
		return state ? PTR_ERR(state) : -ENOMEM;
	if (set)
		lapic_set_state(vcpu->lapic, state);
	else
		lapic_get_state(vcpu->lapic, state);
	if (!set && copy_to_user(arg, state, sizeof(*state)))
		r = -EFAULT;
	kfree(state);
	return r;
}

/* Without KVM_CAP_VAPIC there is nothing to set; QEMU says so, and does not go on when that is refused. */
static long set_vapic(struct vcpu *vcpu, const void __user *arg)
{
	struct kvm_vapic_addr vapic;

	if (copy_from_user(&vapic, arg, sizeof(vapic)))
		return -EFAULT;
	return !vcpu->lapic || vapic.vapic_addr ? -EINVAL : 0;
}

static long vcpu_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	struct vcpu *vcpu = file->private_data;
	void __user *user = (void __user *)arg;
	long r;

	if (vcpu->vm->mm != current->mm)
		return -EIO;
	if (number == KVM_GET_STATS_FD) /* of one that runs, too */
		return stats_open_vcpu(vcpu);
	if (mutex_lock_killable(&vcpu->lock))
		return -EINTR;
	switch (number) {
	case KVM_RUN:
		r = arg ? -EINVAL : run_with_signals(vcpu);
		break;
	case KVM_INTERRUPT:
		r = inject_interrupt(vcpu, user);
		break;
	case KVM_NMI:
		vcpu_state(vcpu)->nmi_pending = true;
		r = 0;
		break;
	case KVM_SET_CPUID2:
		r = cpuid_set(vcpu, user);
		break;
	case KVM_GET_CPUID2:
		r = cpuid_get(vcpu, user);
		break;
	case KVM_GET_MSRS:
		r = msr_io(vcpu, user, false);
		break;
	case KVM_SET_MSRS:
		r = msr_io(vcpu, user, true);
		break;
	case KVM_SET_GUEST_DEBUG:
		r = debug_set(vcpu, user);
		break;
	case KVM_SET_SIGNAL_MASK:
		r = set_signals(vcpu, user);
		break;
	case KVM_SET_VAPIC_ADDR:
		r = set_vapic(vcpu, user);
		break;
	case KVM_X86_SETUP_MCE:
		r = mce_enable(vcpu, user);
		break;
	case KVM_X86_SET_MCE:
		r = mce_inject(vcpu, user);
		break;
	case KVM_GET_TSC_KHZ:
		r = tsc_khz;
		break;
	case KVM_GET_LAPIC:
	case KVM_SET_LAPIC:
		r = lapic_state(vcpu, user, number == KVM_SET_LAPIC);
		break;
	default:
		r = state_ioctl(vcpu, number, user);
	}
	mutex_unlock(&vcpu->lock);
	return r;
}

static vm_fault_t vcpu_page_fault(struct vm_fault *fault)
{
	struct vcpu *vcpu = fault->vma->vm_file->private_data;
	void *at[VCPU_SHARED_PAGES] = { vcpu->run, vcpu->run_data, vcpu->vm->ring };

	BUILD_BUG_ON(KVM_COALESCED_MMIO_PAGE_OFFSET != VCPU_SHARED_PAGES - 1);
	if (fault->pgoff < ARRAY_SIZE(at))
		fault->page = virt_to_page(at[fault->pgoff]);
	else if (fault->pgoff >= KVM_DIRTY_LOG_PAGE_OFFSET)
		fault->page = ring_page(vcpu, fault->pgoff - KVM_DIRTY_LOG_PAGE_OFFSET);
	else
		fault->page = NULL;
	if (!fault->page)
		return VM_FAULT_SIGBUS;
	get_page(fault->page);
	return 0;
}

static const struct vm_operations_struct map_ops = { .fault = vcpu_page_fault };

static int vcpu_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vcpu *vcpu = file->private_data;
	unsigned long end = vma->vm_pgoff + vma_pages(vma);

	/* Who has a copy of the ring, or would execute it, is mistaken. */
	if (vcpu->ring.entry && end > KVM_DIRTY_LOG_PAGE_OFFSET &&
	    (vma->vm_flags & VM_EXEC || !(vma->vm_flags & VM_SHARED)))
		return -EINVAL;
	vma->vm_ops = &map_ops;
	return 0;
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	vm_put(((struct vcpu *)file->private_data)->vm);
	return 0;
}

static const struct file_operations vcpu_ops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = vcpu_ioctl,
	.mmap = vcpu_mmap,
	.release = vcpu_release,
	.llseek = noop_llseek,
};

/* ---- life ---- */

static int vcpu_init(struct vcpu *vcpu)
{
	vcpu->run = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	vcpu->run_data = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	vcpu->work = work_new(vcpu->run);
	if (!vcpu->run || !vcpu->run_data || !vcpu->work || ring_create(vcpu) || emulate_init(vcpu) ||
	    !fpu_alloc_guest_fpstate(&vcpu->fpu))
		return -ENOMEM;
	host_name_guest(vcpu);
	mutex_init(&vcpu->lock);
	init_waitqueue_head(&vcpu->wait);
	preempt_notifier_init(&vcpu->preempt, &preempt_ops);
	vcpu->last_cpu = vcpu->extint = vcpu->eoi_vector = -1;
	x86_state_reset(&vcpu->cpu.s);
	vcpu->apic_base = 0xfee00000 | (vcpu->id == 0 ? APIC_BASE_BSP : 0);
	if (vcpu->vm->chips) {
		vcpu->apic_base |= APIC_BASE_ENABLE;
		if (vcpu->id)
			vcpu->cpu.s.activity = X86_WAIT_SIPI;
		if (lapic_create(vcpu))
			return -ENOMEM;
	}
	x86_update_mode(&vcpu->cpu);
	vcpu->changed = true;
	vcpu->tsc_offset = READ_ONCE(vcpu->vm->tsc_offset);
	if (vcpu->vm->shadow && shadow_vcpu_create(vcpu))
		return -ENOMEM;
	return hw->vcpu_create(vcpu);
}

void vcpu_destroy(struct vcpu *vcpu)
{
	apf_reset(vcpu);
	if (vcpu->hw)
		hw->vcpu_free(vcpu);
	if (vcpu->fpu.fpstate)
		fpu_free_guest_fpstate(&vcpu->fpu);
	lapic_free(vcpu);
	shadow_vcpu_free(vcpu);
	emulate_free(vcpu);
	ring_free(vcpu);
	page_cache_free(&vcpu->spare_tables);
	kvfree(vcpu->cpuid);
	work_free(vcpu->work);
	free_page((unsigned long)vcpu->run);
	free_page((unsigned long)vcpu->run_data);
	kvfree(vcpu);
}

/* Under vm->lock. */
static int check_id(const struct vm *vm, unsigned int id)
{
	if (vm->vcpu_count == VM_VCPUS)
		return -EINVAL;
	for (unsigned int i = 0; i < vm->vcpu_count; i++) {
		if (vm->vcpu[i]->id == id)
			return -EEXIST;
	}
	return 0;
}

/* Under vm->lock. The descriptor is the last to come: whoever runs the vCPU finds it in the list of those
 * that are told of changes. */
static int add(struct vm *vm, struct vcpu *vcpu)
{
	int fd, r = check_id(vm, vcpu->id);
	struct file *file;

	/* The chips, or rings, came in between. */
	if (!r && (!vcpu->lapic != !vm->chips || !vcpu->ring.entry != !vm->ring_bytes))
		r = -EAGAIN;
	if (r)
		return r;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = anon_inode_getfile("kvm-vcpu", &vcpu_ops, vcpu, O_RDWR);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	vm_get(vm); /* the file's */
	vm->vcpu[vm->vcpu_count] = vcpu;
	smp_store_release(&vm->vcpu_count, vm->vcpu_count + 1);
	fd_install(fd, file);
	return fd;
}

int vcpu_create(struct vm *vm, unsigned int id)
{
	struct vcpu *vcpu;
	int r;

	if (id > 255)
		return -EINVAL;
	vcpu = kvzalloc(sizeof(*vcpu), GFP_KERNEL_ACCOUNT);
	if (!vcpu)
		return -ENOMEM;
	vcpu->vm = vm;
	vcpu->id = id;
	apf_init(vcpu);
	r = vcpu_init(vcpu);
	if (!r) {
		mutex_lock(&vm->lock);
		r = add(vm, vcpu);
		mutex_unlock(&vm->lock);
	}
	if (r < 0)
		vcpu_destroy(vcpu);
	return r;
}
