/* SPDX-License-Identifier: GPL-2.0-only */
/* work.h - what the kernel has a thread do before it goes back to user space: done from within KVM_RUN. */
#pragma once

struct kvm_run;
struct work;

/* NULL: no memory. */
struct work *work_new(struct kvm_run *run);
void work_free(struct work *work);
/* May sleep, and give the CPU away. -EINTR: it is a signal, which user space is to see first. */
int work_do(struct work *work);
