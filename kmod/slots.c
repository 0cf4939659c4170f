// SPDX-License-Identifier: GPL-2.0-only
/* slots.c - memory slots: which of the program's memory is the guest's RAM, and which of it was written. */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "shadow.h"

const struct slot *slot_of(const struct vm *vm, gpn_t gpn)
{
	const struct slots *slots = srcu_dereference(vm->slots, &((struct vm *)vm)->srcu);
	unsigned int low = 0, high = slots->count;

	while (low < high) {
		unsigned int mid = (low + high) / 2;
		const struct slot *slot = &slots->slot[mid];

		if (gpn < slot->gpn)
			high = mid;
		else if (gpn - slot->gpn >= slot->pages)
			low = mid + 1;
		else
			return slot;
	}
	return NULL;
}

void slot_mark_dirty(struct vcpu *vcpu, const struct slot *slot, gpn_t gpn)
{
	if (vcpu->ring.entry && slot_is_logged(slot))
		ring_push(vcpu, slot->id, gpn - slot->gpn);
	else if (slot->dirty)
		set_bit(gpn - slot->gpn, slot->dirty);
}

/* ---- changing them ---- */

static const struct slots *current_slots(const struct vm *vm)
{
	return rcu_dereference_protected(vm->slots, lockdep_is_held(&vm->lock));
}

static const struct slot *slot_by_id(const struct slots *slots, unsigned int id)
{
	for (unsigned int i = 0; i < slots->count; i++) {
		if (slots->slot[i].id == id)
			return &slots->slot[i];
	}
	return NULL;
}

/* A copy without @old and with @slot. */
static struct slots *slots_with(const struct slots *from, const struct slot *old,
				const struct slot *slot)
{
	struct slots *to = kvzalloc(struct_size(to, slot, from->count + 1), GFP_KERNEL_ACCOUNT);
	bool placed = !slot->pages;

	if (!to)
		return NULL;
	for (unsigned int i = 0; i < from->count; i++) {
		if (!placed && slot->gpn < from->slot[i].gpn) {
			to->slot[to->count++] = *slot;
			placed = true;
		}
		if (&from->slot[i] != old)
			to->slot[to->count++] = from->slot[i];
	}
	if (!placed)
		to->slot[to->count++] = *slot;
	return to;
}

/* Readers see @to; none sees what was there before. */
static void publish(struct vm *vm, struct slots *to)
{
	const struct slots *from = current_slots(vm);

	u64 pages = 0;

	for (unsigned int i = 0; i < to->count; i++)
		pages += to->slot[i].pages;
	if (vm->shadow)
		shadow_set_limit(vm, pages);
	rcu_assign_pointer(vm->slots, to);
	synchronize_srcu_expedited(&vm->srcu);
	kvfree(from);
}

static bool overlaps(const struct slots *slots, const struct slot *old, const struct slot *slot)
{
	for (unsigned int i = 0; i < slots->count; i++) {
		const struct slot *s = &slots->slot[i];

		if (s != old && slot->gpn < s->gpn + s->pages && s->gpn < slot->gpn + slot->pages)
			return true;
	}
	return false;
}

/* Documentation/virt/kvm/api.rst, 4.35. */
static int check(const struct kvm_userspace_memory_region *r)
{
	if (r->slot >= VM_SLOTS || r->flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
		return -EINVAL;
	if (!PAGE_ALIGNED(r->memory_size) || !PAGE_ALIGNED(r->guest_phys_addr) ||
	    !PAGE_ALIGNED(r->userspace_addr))
		return -EINVAL;
	if (r->guest_phys_addr + r->memory_size < r->guest_phys_addr ||
	    (r->guest_phys_addr + r->memory_size) >> min_t(u8, boot_cpu_data.x86_phys_bits, 48) ||
	    r->memory_size >> PAGE_SHIFT > INT_MAX)
		return -EINVAL;
	if (r->memory_size &&
	    !access_ok((void __user *)(unsigned long)r->userspace_addr, r->memory_size))
		return -EINVAL;
	return 0;
}

static void unmap(struct vm *vm, const struct slot *slot)
{
	bool flush;

	write_lock(&vm->page_lock);
	flush = page_zap(vm, slot->gpn, slot->gpn + slot->pages);
	if (vm->shadow)
		shadow_forget(vm, slot->gpn, slot->gpn + slot->pages);
	if (flush)
		vm_flush_tlbs(vm);
	write_unlock(&vm->page_lock);
}

/* @old, in the list, becomes @slot; either may be missing. */
static int replace(struct vm *vm, const struct slot *old, const struct slot *slot)
{
	const struct slot gone = old ? *old : (struct slot){ 0 };
	bool kept = old && slot->pages && old->gpn == slot->gpn && old->hva == slot->hva &&
		    !((old->flags ^ slot->flags) & KVM_MEM_READONLY);
	struct slots *to;

	/* What is neither here nor there any more must not be reached through old translations when
	 * the new place is: first it is nowhere. */
	if (old && !kept) {
		static const struct slot none;

		to = slots_with(current_slots(vm), old, &none);
		if (!to)
			return -ENOMEM;
		publish(vm, to);
		unmap(vm, &gone);
		old = NULL;
	}
	if (slot->pages) {
		to = slots_with(current_slots(vm), old, slot);
		if (!to)
			return -ENOMEM;
		publish(vm, to);
		/* Writes are noticed where they fault. */
		if (kept && slot_is_logged(slot) && !slot_is_logged(&gone))
			unmap(vm, slot);
	}
	if (gone.dirty != slot->dirty)
		kvfree(gone.dirty);
	return 0;
}

int slots_set(struct vm *vm, const struct kvm_userspace_memory_region *r)
{
	struct slot slot = {
		.id = r->slot,
		.flags = r->flags,
		.gpn = r->guest_phys_addr >> PAGE_SHIFT,
		.pages = r->memory_size >> PAGE_SHIFT,
		.hva = r->userspace_addr,
	};
	unsigned long *old_dirty = NULL;
	const struct slot *old;
	int result = check(r);

	if (result)
		return result;
	mutex_lock(&vm->lock);
	old = slot_by_id(current_slots(vm), r->slot);
	result = -EINVAL;
	if (!slot.pages ? !old : old && old->pages != slot.pages)
		goto out;
	if (old && slot.pages &&
	    (old->hva != slot.hva || (old->flags ^ slot.flags) & KVM_MEM_READONLY))
		goto out;
	result = -EEXIST;
	if (slot.pages && overlaps(current_slots(vm), old, &slot))
		goto out;
	result = -ENOMEM;
	if (slot.pages && slot_is_logged(&slot) && !vm->ring_bytes) {
		old_dirty = old ? old->dirty : NULL;
		slot.dirty = old_dirty;
		if (!slot.dirty)
			slot.dirty = kvcalloc(BITS_TO_LONGS(slot.pages), sizeof(long),
					      GFP_KERNEL_ACCOUNT);
		if (!slot.dirty)
			goto out;
	}
	result = replace(vm, old, &slot);
	if (result && slot.dirty != old_dirty)
		kvfree(slot.dirty);
out:
	mutex_unlock(&vm->lock);
	return result;
}

/* ---- the dirty log ---- */

/* Take the bits of @slot into @copy; what they name faults at its next write. */
static void take(struct vm *vm, const struct slot *slot, unsigned long *copy)
{
	bool flush = false;

	write_lock(&vm->page_lock);
	for (unsigned long i = 0; i < BITS_TO_LONGS(slot->pages); i++) {
		if (!slot->dirty[i])
			continue;
		copy[i] = xchg(&slot->dirty[i], 0);
		flush |= page_protect(vm, slot->gpn + i * BITS_PER_LONG, copy[i]);
	}
	if (flush)
		vm_flush_tlbs(vm);
	write_unlock(&vm->page_lock);
}

bool slots_protect(struct vm *vm, u32 id, u64 offset)
{
	const struct slot *slot = slot_by_id(current_slots(vm), id);

	return slot && offset < slot->pages && page_protect(vm, slot->gpn + offset, 1);
}

int slots_dirty_log(struct vm *vm, const struct kvm_dirty_log *log)
{
	const struct slot *slot;
	unsigned long *copy;
	size_t bytes;
	int r = -EINVAL;

	if (log->slot >= VM_SLOTS)
		return -EINVAL;
	mutex_lock(&vm->lock);
	if (vm->ring_bytes) {
		r = -ENXIO;
		goto out;
	}
	slot = slot_by_id(current_slots(vm), log->slot);
	if (!slot || !slot->dirty) {
		r = slot ? -ENOENT : -EINVAL;
		goto out;
	}
	bytes = BITS_TO_LONGS(slot->pages) * sizeof(long);
	r = -ENOMEM;
	copy = kvzalloc(bytes, GFP_KERNEL_ACCOUNT);
	if (!copy)
		goto out;
	take(vm, slot, copy);
	r = copy_to_user(log->dirty_bitmap, copy, bytes) ? -EFAULT : 0;
	kvfree(copy);
out:
	mutex_unlock(&vm->lock);
	return r;
}

void slots_free(struct vm *vm)
{
	struct slots *slots = rcu_dereference_protected(vm->slots, 1);

	for (unsigned int i = 0; slots && i < slots->count; i++)
		kvfree(slots->slot[i].dirty);
	kvfree(slots);
}
