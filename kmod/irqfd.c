// SPDX-License-Identifier: GPL-2.0-only
/*
 * irqfd.c - eventfds that raise an interrupt line: KVM_IRQFD, Documentation/virt/kvm/api.rst, 4.75.
 *
 * An irqfd waits on its eventfd's queue. Who signals the eventfd raises the interrupt on the spot, with the
 * queue's lock held and interrupts off. When the other side closes the eventfd (EPOLLHUP, under the same
 * lock) the irqfd goes by a work item: it may not be taken off the queue from there. A machine waits for its
 * work items before it goes.
 *
 * An irqfd that samples again (KVM_IRQFD_FLAG_RESAMPLE) raises the line and leaves it up. When the guest has seen to the
 * interrupt the line falls, and who owns the device hears by a second eventfd that he may raise it again.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/list.h>
#include <linux/poll.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "chips.h"
#include "compat.h"
#include "irq.h"

static struct workqueue_struct *queue;

struct irqfd {
	struct list_head list; /* vm->lock; empty: being taken down */
	struct vm *vm;
	struct eventfd_ctx *ctx;
	struct eventfd_ctx *again; /* NULL: does not sample again */
	struct list_head sampled;  /* where it does: chips->sampled */
	u32 gsi;
	wait_queue_entry_t wait;
	poll_table table;
	struct work_struct gone;
};

static void raise(struct irqfd *irqfd)
{
	if (irqfd->again)
		irq_hold(irqfd->vm, irqfd->gsi, true);
	else
		irq_pulse(irqfd->vm, irqfd->gsi);
}

/* All let go before any is told: one may raise it again at once, and another has the same line. */
void irqfds_acked(struct vm *vm, u32 irqchip, u32 pin)
{
	int at = srcu_read_lock(&vm->srcu);
	struct irqfd *irqfd;

	list_for_each_entry_srcu(irqfd, &vm->chips->sampled, sampled, srcu_read_lock_held(&vm->srcu)) {
		if (irq_leads_to(vm, irqfd->gsi, irqchip, pin))
			irq_hold(vm, irqfd->gsi, false);
	}
	list_for_each_entry_srcu(irqfd, &vm->chips->sampled, sampled, srcu_read_lock_held(&vm->srcu)) {
		if (irq_leads_to(vm, irqfd->gsi, irqchip, pin))
			compat_eventfd_signal(irqfd->again);
	}
	srcu_read_unlock(&vm->srcu, at);
}

/* Under vm->lock: off all lists. */
static void take_out(struct irqfd *irqfd)
{
	list_del_init(&irqfd->list);
	if (irqfd->again)
		list_del_rcu(&irqfd->sampled);
}

/* The last one of a line lets it fall. */
static void let_fall(struct irqfd *irqfd)
{
	struct irqfd *other;
	bool last = true;

	mutex_lock(&irqfd->vm->lock);
	list_for_each_entry(other, &irqfd->vm->chips->sampled, sampled)
		last &= other->gsi != irqfd->gsi;
	if (last)
		irq_hold(irqfd->vm, irqfd->gsi, false);
	mutex_unlock(&irqfd->vm->lock);
}

/* Nobody signals it any more. Sleeps. */
static void irqfd_free(struct irqfd *irqfd)
{
	if (irqfd->again) {
		let_fall(irqfd);
		synchronize_srcu(&irqfd->vm->srcu);
		eventfd_ctx_put(irqfd->again);
	}
	eventfd_ctx_put(irqfd->ctx);
	kfree(irqfd);
}

static void on_gone(struct work_struct *work)
{
	struct irqfd *irqfd = container_of(work, struct irqfd, gone);
	struct vm *vm = irqfd->vm;
	bool mine;
	u64 count;

	mutex_lock(&vm->lock);
	mine = !list_empty(&irqfd->list);
	if (mine)
		take_out(irqfd);
	mutex_unlock(&vm->lock);
	if (!mine) /* take_down() waits for us */
		return;
	eventfd_ctx_remove_wait_queue(irqfd->ctx, &irqfd->wait, &count);
	irqfd_free(irqfd);
}

static int on_signal(wait_queue_entry_t *wait, unsigned int mode, int sync, void *key)
{
	struct irqfd *irqfd = container_of(wait, struct irqfd, wait);
	__poll_t flags = key_to_poll(key);
	u64 count;

	if (flags & EPOLLIN) {
		eventfd_ctx_do_read(irqfd->ctx, &count);
		raise(irqfd);
	}
	if (flags & EPOLLHUP)
		queue_work(queue, &irqfd->gone);
	return 0;
}

static void on_poll(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	add_wait_queue(head, &container_of(table, struct irqfd, table)->wait);
}

/* ---- set up and taken down ---- */

/* Under vm->lock. */
static struct irqfd *find(struct vm *vm, const struct eventfd_ctx *ctx)
{
	struct irqfd *irqfd;

	list_for_each_entry(irqfd, &vm->chips->irqfds, list) {
		if (irqfd->ctx == ctx)
			return irqfd;
	}
	return NULL;
}

/* The irqfd's are the caller's references to @ctx and @again, when it goes well. @file is open meanwhile. */
static long assign(struct vm *vm, struct file *file, struct eventfd_ctx *ctx, struct eventfd_ctx *again, u32 gsi)
{
	struct irqfd *irqfd = kzalloc(sizeof(*irqfd), GFP_KERNEL_ACCOUNT);

	if (!irqfd)
		return -ENOMEM;
	irqfd->vm = vm;
	irqfd->ctx = ctx;
	irqfd->again = again;
	irqfd->gsi = gsi;
	INIT_WORK(&irqfd->gone, on_gone);
	init_waitqueue_func_entry(&irqfd->wait, on_signal);
	init_poll_funcptr(&irqfd->table, on_poll);
	mutex_lock(&vm->lock);
	if (find(vm, ctx)) {
		mutex_unlock(&vm->lock);
		kfree(irqfd);
		return -EBUSY;
	}
	list_add(&irqfd->list, &vm->chips->irqfds);
	if (again)
		list_add_tail_rcu(&irqfd->sampled, &vm->chips->sampled);
	/* What was signalled before it was heard counts. */
	if (vfs_poll(file, &irqfd->table) & EPOLLIN)
		raise(irqfd);
	mutex_unlock(&vm->lock);
	return 0;
}

/* Not under vm->lock, which on_gone() takes. */
static void take_down(struct irqfd *irqfd)
{
	u64 count;

	/* Nobody queues the work behind this. */
	eventfd_ctx_remove_wait_queue(irqfd->ctx, &irqfd->wait, &count);
	cancel_work_sync(&irqfd->gone);
	irqfd_free(irqfd);
}

static long deassign(struct vm *vm, const struct eventfd_ctx *ctx, u32 gsi)
{
	struct irqfd *irqfd;

	mutex_lock(&vm->lock);
	irqfd = find(vm, ctx);
	if (irqfd && irqfd->gsi == gsi)
		take_out(irqfd);
	else
		irqfd = NULL;
	mutex_unlock(&vm->lock);
	if (irqfd)
		take_down(irqfd);
	return 0;
}

/* @ctx becomes the irqfd's, when it goes well. */
static long assign_with(struct vm *vm, const struct kvm_irqfd *args, struct file *file, struct eventfd_ctx *ctx)
{
	struct eventfd_ctx *again = NULL;
	long r;

	if (args->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		/* With split chips the ends of interrupts are user space's to know. */
		if (vm->chips->split || args->gsi >= GSI_MAX)
			return -EINVAL;
		again = eventfd_ctx_fdget(args->resamplefd);
		if (IS_ERR(again))
			return PTR_ERR(again);
	}
	r = assign(vm, file, ctx, again, args->gsi);
	if (r && again)
		eventfd_ctx_put(again);
	return r;
}

long irqfd_set(struct vm *vm, const void __user *arg)
{
	struct eventfd_ctx *ctx;
	struct kvm_irqfd args;
	struct fd fd;
	long r;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags & ~(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	fd = fdget(args.fd);
	if (!fd_file(fd))
		return -EBADF;
	ctx = eventfd_ctx_fileget(fd_file(fd));
	if (IS_ERR(ctx)) {
		r = PTR_ERR(ctx);
	} else if (args.flags & KVM_IRQFD_FLAG_DEASSIGN) {
		r = deassign(vm, ctx, args.gsi);
		eventfd_ctx_put(ctx);
	} else {
		r = assign_with(vm, &args, fd_file(fd), ctx);
		if (r)
			eventfd_ctx_put(ctx);
	}
	fdput(fd);
	return r;
}

void irqfds_free(struct vm *vm)
{
	struct irqfd *irqfd;

	do {
		mutex_lock(&vm->lock);
		irqfd = list_first_entry_or_null(&vm->chips->irqfds, struct irqfd, list);
		if (irqfd)
			take_out(irqfd);
		mutex_unlock(&vm->lock);
		if (irqfd)
			take_down(irqfd);
	} while (irqfd);
	flush_workqueue(queue);
}

int irqfd_init(void)
{
	queue = alloc_workqueue("sika-kvm-irqfd", 0, 0);
	return queue ? 0 : -ENOMEM;
}

void irqfd_exit(void)
{
	destroy_workqueue(queue);
}
