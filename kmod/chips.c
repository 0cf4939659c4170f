// SPDX-License-Identifier: GPL-2.0-only
/*
 * chips.c - from interrupt lines (GSIs) and messages to the controllers: routes, KVM_IRQ_LINE, KVM_SIGNAL_MSI,
 * and the controllers' gets and sets. Documentation/virt/kvm/api.rst, 4.24 to 4.27, 4.52, 4.70.
 */
#include <linux/eventfd.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include "chips.h"
#include "irq.h"

#define ROUTES_MAX 4096u

/* Ascending by GSI; replaced as a whole. */
struct irq_routes {
	u32 count;
	struct kvm_irq_routing_entry entry[];
};

/* ---- messages: SDM vol. 3, 11.11 ---- */

static bool send_msi(struct vm *vm, u32 address, u32 data)
{
	u8 dest = address >> 12;
	struct apic_msg msg = {
		.dest = dest == 0xff ? APIC_BROADCAST : dest,
		.logical = address & 4,
		.level = data >> 15 & 1,
		.mode = data >> 8 & 7,
		.vector = data,
	};

	return apic_deliver(vm, &msg);
}

/* ---- lines ---- */

/* Of the pair. */
static unsigned int pic_input(const struct kvm_irq_routing_irqchip *to)
{
	return to->pin + (to->irqchip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0);
}

static bool set_pin(struct vm *vm, const struct kvm_irq_routing_irqchip *to, bool level)
{
	if (to->irqchip == KVM_IRQCHIP_IOAPIC)
		ioapic_set_line(&vm->chips->ioapic, to->pin, level);
	else
		pic_set_line(&vm->chips->pic, pic_input(to), level);
	return true;
}

/* The first that is not below @gsi. */
static u32 first_route(const struct irq_routes *routes, u32 gsi)
{
	u32 low = 0, high = routes->count;

	while (low < high) {
		u32 mid = (low + high) / 2;

		if (routes->entry[mid].gsi < gsi)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

#define for_each_route(e, routes, of_gsi)                                                           \
	for ((e) = &(routes)->entry[first_route(routes, of_gsi)];                                   \
	     (e) < &(routes)->entry[(routes)->count] && (e)->gsi == (of_gsi); (e)++)

bool irq_set(struct vm *vm, u32 gsi, bool level)
{
	int at = srcu_read_lock(&vm->srcu);
	const struct irq_routes *routes = srcu_dereference(vm->chips->routes, &vm->srcu);
	const struct kvm_irq_routing_entry *e;
	bool any = false;

	for_each_route(e, routes, gsi) {
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			any |= set_pin(vm, &e->u.irqchip, level);
		else if (level)
			any |= send_msi(vm, e->u.msi.address_lo, e->u.msi.data);
	}
	srcu_read_unlock(&vm->srcu, at);
	return any;
}

static bool is_open(const struct chips *chips, const struct kvm_irq_routing_irqchip *to)
{
	if (to->irqchip == KVM_IRQCHIP_IOAPIC)
		return ioapic_is_open(&chips->ioapic, to->pin);
	return pic_is_open(&chips->pic, pic_input(to));
}

bool irq_is_open(struct vm *vm, u32 gsi)
{
	int at = srcu_read_lock(&vm->srcu);
	const struct irq_routes *routes = srcu_dereference(vm->chips->routes, &vm->srcu);
	const struct kvm_irq_routing_entry *e;
	bool any = false;

	for_each_route(e, routes, gsi) {
		any |= e->type == KVM_IRQ_ROUTING_IRQCHIP && is_open(vm->chips, &e->u.irqchip);
	}
	srcu_read_unlock(&vm->srcu, at);
	return any;
}

void irq_pulse(struct vm *vm, u32 gsi)
{
	irq_set(vm, gsi, true);
	if (gsi >= GSI_MAX || !test_bit(gsi, vm->chips->held))
		irq_set(vm, gsi, false);
}

bool acks_matter(const struct vm *vm)
{
	return irqfds_sample(vm) || pit_waits(vm);
}

void irq_acked(struct vm *vm, u32 irqchip, u32 pin)
{
	if (irqfds_sample(vm))
		irqfds_acked(vm, irqchip, pin);
	pit_acked(vm, irqchip, pin);
}

/* @mine is by_user or held. */
static void set_line(struct vm *vm, unsigned long *mine, u32 gsi, bool level)
{
	struct chips *chips = vm->chips;
	unsigned long flags;

	spin_lock_irqsave(&chips->line_lock, flags);
	assign_bit(gsi, mine, level);
	irq_set(vm, gsi, test_bit(gsi, chips->by_user) || test_bit(gsi, chips->held));
	spin_unlock_irqrestore(&chips->line_lock, flags);
}

void irq_hold(struct vm *vm, u32 gsi, bool held)
{
	set_line(vm, vm->chips->held, gsi, held);
}

bool irq_leads_to(struct vm *vm, u32 gsi, u32 irqchip, u32 pin)
{
	const struct irq_routes *routes = srcu_dereference(vm->chips->routes, &vm->srcu);
	const struct kvm_irq_routing_entry *e;

	for_each_route(e, routes, gsi) {
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP && e->u.irqchip.irqchip == irqchip &&
		    e->u.irqchip.pin == pin)
			return true;
	}
	return false;
}

/* ---- routes ---- */

static int compare(const void *a, const void *b)
{
	const struct kvm_irq_routing_entry *x = a, *y = b;

	return x->gsi < y->gsi ? -1 : x->gsi > y->gsi;
}

static bool is_valid(const struct vm *vm, const struct kvm_irq_routing_entry *e)
{
	if (e->gsi >= GSI_MAX || e->flags)
		return false;
	switch (e->type) {
	case KVM_IRQ_ROUTING_MSI:
		return true; /* the high half means something with KVM_CAP_X2APIC_API only */
	case KVM_IRQ_ROUTING_IRQCHIP:
		if (vm->chips->split)
			return false;
		if (e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC)
			return e->u.irqchip.pin < KVM_IOAPIC_NUM_PINS;
		return e->u.irqchip.irqchip <= KVM_IRQCHIP_PIC_SLAVE && e->u.irqchip.pin < 8;
	default:
		return false;
	}
}

/* Under vm->lock, or before anybody knows the chips. */
static void publish(struct vm *vm, struct chips *chips, struct irq_routes *routes)
{
	struct irq_routes *old = rcu_replace_pointer(chips->routes, routes,
						     lockdep_is_held(&vm->lock));

	if (!old)
		return;
	synchronize_srcu_expedited(&vm->srcu);
	kvfree(old);
}

static struct irq_routes *routes_new(u32 count)
{
	struct irq_routes *routes = kvzalloc(struct_size(routes, entry, count), GFP_KERNEL_ACCOUNT);

	if (routes)
		routes->count = count;
	return routes;
}

static long set_routes(struct vm *vm, const struct kvm_irq_routing __user *arg)
{
	struct kvm_irq_routing head;
	struct irq_routes *routes;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.flags || head.nr > ROUTES_MAX)
		return -EINVAL;
	routes = routes_new(head.nr);
	if (!routes)
		return -ENOMEM;
	if (copy_from_user(routes->entry, arg->entries, array_size(head.nr, sizeof(routes->entry[0])))) {
		kvfree(routes);
		return -EFAULT;
	}
	for (u32 i = 0; i < head.nr; i++) {
		if (is_valid(vm, &routes->entry[i]))
			continue;
		kvfree(routes);
		return -EINVAL;
	}
	sort(routes->entry, head.nr, sizeof(routes->entry[0]), compare, NULL);
	mutex_lock(&vm->lock);
	publish(vm, vm->chips, routes);
	mutex_unlock(&vm->lock);
	return 0;
}

/* As a PC is wired: the 8259 pair on 0 to 15, the I/O APIC's pins by the same numbers. */
static struct irq_routes *default_routes(void)
{
	struct irq_routes *routes = routes_new(16 + KVM_IOAPIC_NUM_PINS);
	struct kvm_irq_routing_entry *e;

	if (!routes)
		return NULL;
	e = routes->entry;
	for (u32 gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		*e++ = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi } };
		if (gsi < 16)
			*e++ = (struct kvm_irq_routing_entry){ .gsi = gsi,
				.type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = { .irqchip = gsi < 8 ? KVM_IRQCHIP_PIC_MASTER :
								    KVM_IRQCHIP_PIC_SLAVE,
					       .pin = gsi & 7 } };
	}
	return routes;
}

/* ---- gets and sets ---- */

static long irqchip_io(struct vm *vm, struct kvm_irqchip __user *arg, bool set)
{
	struct kvm_irqchip *chip;
	long r = 0;

	if (vm->chips->split)
		return -ENXIO;
	chip = memdup_user(arg, sizeof(*chip));
	if (IS_ERR(chip))
		return PTR_ERR(chip);
	if (chip->chip_id > KVM_IRQCHIP_IOAPIC)
		r = -EINVAL;
	else if (chip->chip_id == KVM_IRQCHIP_IOAPIC && set)
		ioapic_set(&vm->chips->ioapic, &chip->chip.ioapic);
	else if (chip->chip_id == KVM_IRQCHIP_IOAPIC)
		ioapic_get(&vm->chips->ioapic, &chip->chip.ioapic);
	else if (set)
		pic_set(&vm->chips->pic, chip->chip_id, &chip->chip.pic);
	else
		pic_get(&vm->chips->pic, chip->chip_id, &chip->chip.pic);
	if (!r && !set && copy_to_user(arg, chip, sizeof(*chip)))
		r = -EFAULT;
	kfree(chip);
	return r;
}

static long irq_line(struct vm *vm, const void __user *arg)
{
	struct kvm_irq_level line;

	if (copy_from_user(&line, arg, sizeof(line)))
		return -EFAULT;
	if (line.irq < GSI_MAX) /* routes are only for these */
		set_line(vm, vm->chips->by_user, line.irq, line.level);
	return 0;
}

static long signal_msi(struct vm *vm, const void __user *arg)
{
	struct kvm_msi msi;

	if (copy_from_user(&msi, arg, sizeof(msi)))
		return -EFAULT;
	if (msi.flags)
		return -EINVAL;
	return send_msi(vm, msi.address_lo, msi.data);
}

long chips_ioctl(struct vm *vm, unsigned int number, void __user *arg)
{
	if (!smp_load_acquire(&vm->chips))
		return number == KVM_IRQFD ? -EINVAL : number == KVM_CREATE_PIT2 ? -ENOENT : -ENXIO;
	switch (number) {
	case KVM_IRQ_LINE:
		return irq_line(vm, arg);
	case KVM_GET_IRQCHIP:
		return irqchip_io(vm, arg, false);
	case KVM_SET_IRQCHIP:
		return irqchip_io(vm, arg, true);
	case KVM_SET_GSI_ROUTING:
		return set_routes(vm, arg);
	case KVM_SIGNAL_MSI:
		return signal_msi(vm, arg);
	case KVM_IRQFD:
		return irqfd_set(vm, arg);
	case KVM_CREATE_PIT2:
		return vm->chips->split ? -ENOENT : pit_create(vm, arg);
	case KVM_GET_PIT2:
	case KVM_SET_PIT2:
		return pit_state(vm, arg, number == KVM_SET_PIT2);
	case KVM_REINJECT_CONTROL:
		return pit_reinject(vm, arg);
	default:
		return -ENOTTY;
	}
}

/* ---- life ---- */

int chips_create(struct vm *vm, bool split)
{
	struct chips *chips;
	int r = -EEXIST;

	mutex_lock(&vm->lock);
	if (vm->chips)
		goto out;
	r = -EINVAL;
	if (vm->vcpu_count) /* they have none of their own */
		goto out;
	r = -ENOMEM;
	chips = kzalloc(sizeof(*chips), GFP_KERNEL_ACCOUNT);
	if (!chips)
		goto out;
	INIT_LIST_HEAD(&chips->irqfds);
	INIT_LIST_HEAD(&chips->sampled);
	spin_lock_init(&chips->line_lock);
	chips->split = split;
	pic_init(&chips->pic, vm);
	ioapic_init(&chips->ioapic, vm);
	publish(vm, chips, split ? routes_new(0) : default_routes());
	if (!rcu_access_pointer(chips->routes)) {
		kfree(chips);
		goto out;
	}
	smp_store_release(&vm->chips, chips);
	r = 0;
out:
	mutex_unlock(&vm->lock);
	return r;
}

void chips_stop(struct vm *vm)
{
	if (!vm->chips)
		return;
	irqfds_free(vm);
	pit_free(vm->chips->pit);
}

void chips_free(struct vm *vm)
{
	if (!vm->chips)
		return;
	kvfree(rcu_dereference_protected(vm->chips->routes, 1));
	kfree(vm->chips);
}
