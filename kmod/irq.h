/* SPDX-License-Identifier: GPL-2.0-only */
/* irq.h - interrupt lines, and the eventfds that raise them. */
#pragma once

#include "vm.h"

/* chips.c. Any context. False: nobody is there to take it. */
bool irq_set(struct vm *vm, u32 gsi, bool level);
/* Up, and down again where nobody holds it. */
void irq_pulse(struct vm *vm, u32 gsi);
/* An eventfd that samples again keeps the line up until the guest has seen to it; @gsi is below GSI_MAX. */
void irq_hold(struct vm *vm, u32 gsi, bool held);
/* Some controller takes it: it is not masked there. Any context. */
bool irq_is_open(struct vm *vm, u32 gsi);
/* Under vm->srcu: @gsi leads to that pin. */
bool irq_leads_to(struct vm *vm, u32 gsi, u32 irqchip, u32 pin);

/* irqfd.c */
long irqfd_set(struct vm *vm, const void __user *arg);
/* Nobody signals the machine any more. Sleeps. */
void irqfds_free(struct vm *vm);
/* With the module. */
int irqfd_init(void);
void irqfd_exit(void);
