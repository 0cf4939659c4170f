// SPDX-License-Identifier: GPL-2.0-only
/*
 * coalesced.c - writes to devices of user space that may wait until it is back for another reason: a ring in a page
 * that all vCPUs of a machine show. KVM_REGISTER_COALESCED_MMIO, Documentation/virt/kvm/api.rst, 4.116.
 *
 * User space owns "first" and may write anything anywhere in the page: nothing read from it is trusted to be in range.
 */
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "vm.h"

#define ZONES_MAX 1000u

struct coalesced_zone {
	struct list_head list; /* vm->zones */
	u64 addr;
	u32 size;
	bool port;
};

static bool is_inside(const struct coalesced_zone *zone, u64 addr, u32 size, bool port)
{
	return port == zone->port && addr >= zone->addr && size <= zone->size &&
	       addr - zone->addr <= zone->size - size;
}

/* ---- a write ---- */

/* False: there is no room. */
static bool put(struct vm *vm, const struct device_access *a)
{
	struct kvm_coalesced_mmio_ring *ring = vm->ring;
	struct kvm_coalesced_mmio *to;
	bool done = false;
	u32 at, next;

	spin_lock(&vm->ring_lock);
	at = READ_ONCE(ring->last);
	next = at + 1 >= KVM_COALESCED_MMIO_MAX ? 0 : at + 1;
	if (at < KVM_COALESCED_MMIO_MAX && next != READ_ONCE(ring->first)) {
		to = &ring->coalesced_mmio[at];
		to->phys_addr = a->addr;
		to->len = a->size;
		to->pio = a->port;
		memcpy(to->data, &a->value, sizeof(to->data));
		/* The entry before it is told of. */
		smp_store_release(&ring->last, next);
		done = true;
	}
	spin_unlock(&vm->ring_lock);
	return done;
}

bool coalesced_write(struct vm *vm, const struct device_access *a)
{
	int at = srcu_read_lock(&vm->srcu);
	struct coalesced_zone *zone;
	bool found = false;

	list_for_each_entry_srcu(zone, &vm->zones, list, srcu_read_lock_held(&vm->srcu)) {
		found = is_inside(zone, a->addr, a->size, a->port);
		if (found)
			break;
	}
	srcu_read_unlock(&vm->srcu, at);
	return found && put(vm, a);
}

/* ---- zones ---- */

static long zone_add(struct vm *vm, const struct kvm_coalesced_mmio_zone *args)
{
	struct coalesced_zone *zone = kzalloc(sizeof(*zone), GFP_KERNEL_ACCOUNT);
	long r = -ENOSPC;

	if (!zone)
		return -ENOMEM;
	zone->addr = args->addr;
	zone->size = args->size;
	zone->port = args->pio;
	mutex_lock(&vm->lock);
	if (vm->zone_count < ZONES_MAX) {
		list_add_tail_rcu(&zone->list, &vm->zones);
		vm->zone_count++;
		r = 0;
	}
	mutex_unlock(&vm->lock);
	if (r)
		kfree(zone);
	return r;
}

/* All that the given range lies in. */
static void zones_remove(struct vm *vm, const struct kvm_coalesced_mmio_zone *args)
{
	struct coalesced_zone *zone, *next;

	mutex_lock(&vm->lock);
	list_for_each_entry_safe(zone, next, &vm->zones, list) {
		if (!is_inside(zone, args->addr, args->size, args->pio))
			continue;
		list_del_rcu(&zone->list);
		vm->zone_count--;
		/* Readers may be on it still. */
		synchronize_srcu_expedited(&vm->srcu);
		kfree(zone);
	}
	mutex_unlock(&vm->lock);
}

long coalesced_set(struct vm *vm, const void __user *arg, bool add)
{
	struct kvm_coalesced_mmio_zone zone;

	if (copy_from_user(&zone, arg, sizeof(zone)))
		return -EFAULT;
	if (zone.pio > 1)
		return -EINVAL;
	if (add)
		return zone_add(vm, &zone);
	zones_remove(vm, &zone);
	return 0;
}

/* ---- life ---- */

int coalesced_init(struct vm *vm)
{
	INIT_LIST_HEAD(&vm->zones);
	spin_lock_init(&vm->ring_lock);
	vm->ring = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	return vm->ring ? 0 : -ENOMEM;
}

void coalesced_free(struct vm *vm)
{
	struct coalesced_zone *zone, *next;

	list_for_each_entry_safe(zone, next, &vm->zones, list)
		kfree(zone);
	free_page((unsigned long)vm->ring);
}
