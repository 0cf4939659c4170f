// SPDX-License-Identifier: GPL-2.0-only
/*
 * work.c - what the kernel has a thread do before it goes back to user space, done without going there
 * (Documentation/core-api/entry.rst, "KVM").
 *
 * The kernel's function for it takes a vCPU of the stock driver's, to which it writes why it was left. So it is given a
 * stand-in, of which nothing else is ever looked at. Nothing of vm.h may be included beside that one's header.
 */
#include <linux/entry-kvm.h>
#include <linux/kvm_host.h>
#include <linux/slab.h>

#include "work.h"

struct work {
	struct kvm_vcpu stand_in;
};

struct work *work_new(struct kvm_run *run)
{
	struct work *work = kvzalloc(sizeof(*work), GFP_KERNEL_ACCOUNT);

	if (work)
		work->stand_in.run = run;
	return work;
}

void work_free(struct work *work)
{
	kvfree(work);
}

int work_do(struct work *work)
{
	return xfer_to_guest_mode_handle_work(&work->stand_in);
}
