// SPDX-License-Identifier: GPL-2.0-only
/*
 * ring.c - which pages were written, told one by one: KVM_CAP_DIRTY_LOG_RING, Documentation/virt/kvm/api.rst, 8.29.
 *
 * Each vCPU has a ring that user space sees, and writes down what it dirties; an entry goes from empty to dirty (here), to
 * harvested (user space), to empty (KVM_RESET_DIRTY_RINGS, which takes write access from its page). Indices are here
 * alone, so that user space can only harm what it is told. A vCPU whose ring is nearly full does not enter the guest; the
 * room that is left is for what one instruction that is emulated may write.
 */
#include <linux/mm.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "vm.h"

#define RING_ROOM 64u /* entries that are kept free; stock's number */
#define ENTRY_BYTES sizeof(struct kvm_dirty_gfn)

u32 ring_bytes_max(void)
{
	return 65536 * ENTRY_BYTES;
}

long ring_enable(struct vm *vm, u64 bytes)
{
	long r = -EINVAL;

	if (!bytes || bytes & (bytes - 1) || bytes < PAGE_SIZE || bytes < RING_ROOM * ENTRY_BYTES)
		return -EINVAL;
	if (bytes > ring_bytes_max())
		return -E2BIG;
	mutex_lock(&vm->lock);
	/* Once, and before there is anybody who would have none, or anything that is noted elsewhere. */
	if (!vm->ring_bytes && !vm->vcpu_count) {
		WRITE_ONCE(vm->ring_bytes, bytes);
		r = 0;
	}
	mutex_unlock(&vm->lock);
	return r;
}

int ring_create(struct vcpu *vcpu)
{
	u32 bytes = READ_ONCE(vcpu->vm->ring_bytes);

	if (!bytes)
		return 0;
	vcpu->ring.entry = __vmalloc(bytes, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	vcpu->ring.count = bytes / ENTRY_BYTES;
	return vcpu->ring.entry ? 0 : -ENOMEM;
}

void ring_free(struct vcpu *vcpu)
{
	vfree(vcpu->ring.entry);
}

struct page *ring_page(struct vcpu *vcpu, unsigned long index)
{
	return index < vcpu->ring.count * ENTRY_BYTES / PAGE_SIZE ?
		       vmalloc_to_page((u8 *)vcpu->ring.entry + index * PAGE_SIZE) : NULL;
}

static u32 ring_used(const struct dirty_ring *ring)
{
	return ring->next - READ_ONCE(ring->oldest);
}

bool ring_is_full(const struct vcpu *vcpu)
{
	return vcpu->ring.entry && ring_used(&vcpu->ring) >= vcpu->ring.count - RING_ROOM;
}

void ring_push(struct vcpu *vcpu, u16 slot, u64 offset)
{
	struct dirty_ring *ring = &vcpu->ring;
	struct kvm_dirty_gfn *entry = &ring->entry[ring->next & (ring->count - 1)];

	if (WARN_ON_ONCE(ring_used(ring) >= ring->count))
		return;
	WRITE_ONCE(entry->slot, slot);
	WRITE_ONCE(entry->offset, offset);
	smp_store_release(&entry->flags, KVM_DIRTY_GFN_F_DIRTY); /* user space looks at this first */
	ring->next++;
}

/* Under vm->lock and page_lock. What user space has harvested; returns how many. */
static unsigned int ring_reset(struct vcpu *vcpu, bool *flush)
{
	struct dirty_ring *ring = &vcpu->ring;
	unsigned int n;

	for (n = 0; n < ring->count; n++) {
		struct kvm_dirty_gfn *entry = &ring->entry[ring->oldest & (ring->count - 1)];

		if (!(smp_load_acquire(&entry->flags) & KVM_DIRTY_GFN_F_RESET))
			break;
		*flush |= slots_protect(vcpu->vm, READ_ONCE(entry->slot), READ_ONCE(entry->offset));
		smp_store_release(&entry->flags, 0);
		WRITE_ONCE(ring->oldest, ring->oldest + 1);
	}
	return n;
}

long rings_reset(struct vm *vm)
{
	bool flush = false;
	long count = 0;

	if (!READ_ONCE(vm->ring_bytes))
		return -EINVAL;
	mutex_lock(&vm->lock);
	for (unsigned int i = 0; i < vm->vcpu_count; i++) {
		write_lock(&vm->page_lock);
		count += ring_reset(vm->vcpu[i], &flush);
		if (flush && i == vm->vcpu_count - 1)
			vm_flush_tlbs(vm);
		write_unlock(&vm->page_lock);
		cond_resched();
	}
	mutex_unlock(&vm->lock);
	return count;
}
