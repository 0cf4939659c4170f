/* SPDX-License-Identifier: GPL-2.0-only */
/* irq.h - interrupt lines, and the eventfds that raise them. */
#pragma once

#include "vm.h"

#define GSI_MAX 4096u /* lines are numbered below it */

/* chips.c. Any context. False: nobody is there to take it. */
bool irq_set(struct vm *vm, u32 gsi, bool level);

/* irqfd.c */
long irqfd_set(struct vm *vm, const void __user *arg);
/* Nobody signals the machine any more. Sleeps. */
void irqfds_free(struct vm *vm);
/* With the module. */
int irqfd_init(void);
void irqfd_exit(void);
