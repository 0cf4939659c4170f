// SPDX-License-Identifier: GPL-2.0-only
/*
 * ram.c - the few bytes of a guest's RAM that the driver itself reads and writes, since the guest told it where.
 *
 * By the program's own mapping, so all are for the vCPU's thread. Where there is no RAM nothing is done: the guest
 * asked for it.
 */
#include <linux/mm.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include "vm.h"

#define TRIES 16u

typedef bool (*access_fn)(void __user *at, void *data, unsigned int len);

static bool copy_in(void __user *at, void *data, unsigned int len)
{
	return !copy_to_user(at, data, len);
}

static bool copy_in_now(void __user *at, void *data, unsigned int len)
{
	return !copy_to_user_nofault(at, data, len);
}

static bool copy_out(void __user *at, void *data, unsigned int len)
{
	return !copy_from_user(data, at, len);
}

/* A byte, for another. Who changes it all the time has it left as it is. */
static bool exchange(void __user *at, void *data, unsigned int len)
{
	u8 __user *byte = at;
	u8 old;

	if (!user_access_begin(byte, sizeof(*byte)))
		return false;
	unsafe_get_user(old, byte, fault);
	for (unsigned int i = 0; i < TRIES; i++) {
		if (!unsafe_try_cmpxchg_user(byte, &old, *(u8 *)data, fault))
			continue;
		user_access_end();
		*(u8 *)data = old;
		return true;
	}
fault:
	user_access_end();
	return false;
}

/* Page by page. False: not all of it is there. */
static bool each_page(struct vcpu *vcpu, u64 gpa, void *data, unsigned int len, access_fn access, bool write)
{
	struct vm *vm = vcpu->vm;
	int lock = srcu_read_lock(&vm->srcu);
	bool done = true;

	while (len) {
		unsigned int n = min_t(unsigned int, len, PAGE_SIZE - offset_in_page(gpa));
		const struct slot *slot = slot_of(vm, gpa >> PAGE_SHIFT);

		if (slot && !(write && slot->flags & KVM_MEM_READONLY) &&
		    access((void __user *)(slot_hva(slot, gpa >> PAGE_SHIFT) + offset_in_page(gpa)), data, n)) {
			if (write)
				slot_mark_dirty(vcpu, slot, gpa >> PAGE_SHIFT);
		} else {
			done = false;
		}
		data += n;
		gpa += n;
		len -= n;
	}
	srcu_read_unlock(&vm->srcu, lock);
	return done;
}

bool ram_is_there(struct vcpu *vcpu, u64 gpa)
{
	struct vm *vm = vcpu->vm;
	int lock = srcu_read_lock(&vm->srcu);
	bool found = slot_of(vm, gpa >> PAGE_SHIFT);

	srcu_read_unlock(&vm->srcu, lock);
	return found;
}

bool ram_read(struct vcpu *vcpu, u64 gpa, void *data, unsigned int len)
{
	return each_page(vcpu, gpa, data, len, copy_out, false);
}

bool ram_write(struct vcpu *vcpu, u64 gpa, const void *data, unsigned int len)
{
	return each_page(vcpu, gpa, (void *)data, len, copy_in, true);
}

bool ram_write_now(struct vcpu *vcpu, u64 gpa, const void *data, unsigned int len)
{
	return each_page(vcpu, gpa, (void *)data, len, copy_in_now, true);
}

bool ram_exchange(struct vcpu *vcpu, u64 gpa, u8 *byte)
{
	return each_page(vcpu, gpa, byte, 1, exchange, true);
}
