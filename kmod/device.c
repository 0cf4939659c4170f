// SPDX-License-Identifier: GPL-2.0-only
/*
 * device.c - device registers that are answered here: the interrupt controllers', and writes that only signal an
 * eventfd (KVM_IOEVENTFD, Documentation/virt/kvm/api.rst, 4.59).
 */
#include <linux/eventfd.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "chips.h"
#include "compat.h"

#define IOEVENTS_MAX 1000u

struct ioevent {
	struct list_head list; /* vm->ioevents */
	struct eventfd_ctx *ctx;
	u64 addr, match;
	u32 len; /* 0: any */
	bool port, matches;
};

/* ---- eventfds ---- */

static bool is_meant(const struct ioevent *event, const struct device_access *a)
{
	return event->addr == a->addr && event->port == a->port &&
	       (!event->len || event->len == a->size) &&
	       (!event->matches || event->match == a->value);
}

static bool signal(struct vm *vm, const struct device_access *a)
{
	int at = srcu_read_lock(&vm->srcu);
	struct ioevent *event;
	bool found = false;

	list_for_each_entry_srcu(event, &vm->ioevents, list, srcu_read_lock_held(&vm->srcu)) {
		found = is_meant(event, a);
		if (!found)
			continue;
		compat_eventfd_signal(event->ctx);
		break;
	}
	srcu_read_unlock(&vm->srcu, at);
	return found;
}

static bool collides(const struct ioevent *a, const struct ioevent *b)
{
	return a->addr == b->addr && a->port == b->port &&
	       (!a->len || !b->len || (a->len == b->len && (!a->matches || !b->matches ||
							    a->match == b->match)));
}

/* Takes @event when it goes well. */
static int add(struct vm *vm, struct ioevent *event)
{
	struct ioevent *other;
	unsigned int count = 0;

	list_for_each_entry(other, &vm->ioevents, list) {
		if (collides(event, other))
			return -EEXIST;
		count++;
	}
	if (count >= IOEVENTS_MAX)
		return -ENOSPC;
	list_add_tail_rcu(&event->list, &vm->ioevents);
	return 0;
}

static struct ioevent *take_out(struct vm *vm, const struct ioevent *like)
{
	struct ioevent *event;

	list_for_each_entry(event, &vm->ioevents, list) {
		if (event->ctx != like->ctx || event->addr != like->addr || event->len != like->len ||
		    event->port != like->port || event->matches != like->matches ||
		    (event->matches && event->match != like->match))
			continue;
		list_del_rcu(&event->list);
		return event;
	}
	return NULL;
}

static void ioevent_free(struct ioevent *event)
{
	eventfd_ctx_put(event->ctx);
	kfree(event);
}

static int check(const struct kvm_ioeventfd *args)
{
	u32 known = KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO |
		    KVM_IOEVENTFD_FLAG_DEASSIGN;

	if (args->flags & ~known || (args->len & (args->len - 1) && args->len) || args->len > 8 ||
	    args->addr + args->len < args->addr)
		return -EINVAL;
	/* Without a length there is nothing to compare with. */
	return !args->len && args->flags & KVM_IOEVENTFD_FLAG_DATAMATCH ? -EINVAL : 0;
}

long ioevent_set(struct vm *vm, const void __user *arg)
{
	struct kvm_ioeventfd args;
	struct ioevent *event, *old = NULL;
	int r;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	r = check(&args);
	if (r)
		return r;
	event = kzalloc(sizeof(*event), GFP_KERNEL_ACCOUNT);
	if (!event)
		return -ENOMEM;
	event->ctx = eventfd_ctx_fdget(args.fd);
	if (IS_ERR(event->ctx)) {
		r = PTR_ERR(event->ctx);
		kfree(event);
		return r;
	}
	event->addr = args.addr;
	event->len = args.len;
	event->match = args.datamatch;
	event->port = args.flags & KVM_IOEVENTFD_FLAG_PIO;
	event->matches = args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
	mutex_lock(&vm->lock);
	if (args.flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		old = take_out(vm, event);
		r = old ? 0 : -ENOENT;
	} else {
		r = add(vm, event);
	}
	mutex_unlock(&vm->lock);
	if (r || old)
		ioevent_free(event);
	if (old) {
		synchronize_srcu(&vm->srcu);
		ioevent_free(old);
	}
	return r;
}

void ioevents_free(struct vm *vm)
{
	struct ioevent *event, *next;

	list_for_each_entry_safe(event, next, &vm->ioevents, list)
		ioevent_free(event);
}

/* ---- controllers ---- */

/* The offset into the local APIC's page, or -1. There is none in x2APIC mode. */
static s64 lapic_offset(const struct vcpu *vcpu, const struct device_access *a)
{
	u64 offset;

	if (!vcpu->lapic || !lapic_is_on(vcpu->lapic) || lapic_is_x2(vcpu->lapic))
		return -1;
	offset = a->addr - (vcpu->apic_base & APIC_BASE_ADDR);
	return offset < PAGE_SIZE ? offset : -1;
}

static bool port_write(struct chips *chips, u16 port, u8 value)
{
	struct pit *pit = smp_load_acquire(&chips->pit);

	return (!chips->split && pic_write(&chips->pic, port, value)) ||
	       (pit && pit_write(pit, port, value));
}

static bool port_read(struct chips *chips, u16 port, u8 *ret)
{
	struct pit *pit = smp_load_acquire(&chips->pit);

	return (!chips->split && pic_read(&chips->pic, port, ret)) ||
	       (pit && pit_read(pit, port, ret));
}

static bool chips_write(struct vcpu *vcpu, const struct device_access *a)
{
	struct chips *chips = vcpu->vm->chips;
	s64 offset;

	if (!chips)
		return false;
	if (a->port)
		return a->size == 1 && port_write(chips, a->addr, a->value);
	if (!chips->split && a->addr - IOAPIC_BASE < IOAPIC_SIZE) {
		if (a->size >= 4)
			ioapic_write(&chips->ioapic, a->addr - IOAPIC_BASE, a->value);
		return true;
	}
	offset = lapic_offset(vcpu, a);
	if (offset >= 0 && a->size >= 4)
		lapic_mmio_write(vcpu->lapic, offset, a->value);
	return offset >= 0;
}

bool device_write_here(struct vcpu *vcpu, const struct device_access *a)
{
	return signal(vcpu->vm, a) || chips_write(vcpu, a) || coalesced_write(vcpu->vm, a);
}

bool device_read_here(struct vcpu *vcpu, const struct device_access *a, u64 *ret)
{
	struct chips *chips = vcpu->vm->chips;
	s64 offset;
	u8 byte;

	if (!chips)
		return false;
	if (a->port) {
		if (a->size != 1 || !port_read(chips, a->addr, &byte))
			return false;
		*ret = byte;
		return true;
	}
	if (!chips->split && a->addr - IOAPIC_BASE < IOAPIC_SIZE) {
		*ret = ioapic_read(&chips->ioapic, a->addr - IOAPIC_BASE);
		return true;
	}
	offset = lapic_offset(vcpu, a);
	if (offset >= 0)
		*ret = lapic_mmio_read(vcpu->lapic, offset);
	return offset >= 0;
}
