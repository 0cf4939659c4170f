/* SPDX-License-Identifier: GPL-2.0-only */
/* svm.h - what the files of AMD's virtualization share. Sections are of the APM, volume 2. */
#pragma once

#include <asm/svm.h>

#include "tag.h"
#include "vm.h"

struct svm_vcpu {
	struct vmcb *vmcb; /* a page */
	u64 vmcb_pa;
	bool host_saved; /* VMSAVE's part of the host's state, since the vCPU came to this CPU */
	struct tag asid;
};

static inline struct svm_vcpu *svm_of(struct vcpu *vcpu)
{
	return vcpu->hw;
}

static inline void svm_intercept(struct vmcb *vmcb, unsigned int bit, bool on)
{
	if (on)
		__set_bit(bit, (unsigned long *)vmcb->control.intercepts);
	else
		__clear_bit(bit, (unsigned long *)vmcb->control.intercepts);
}

/* The host's interrupts are the host's, whatever RFLAGS.IF of the guest is: 15.21.1. To be said again when an entry was
 * refused: QEMU 7.2 has then written back what it had not read yet, 0. A window is opened before each entry. */
static inline void svm_masks_interrupts(struct vcpu *vcpu)
{
	svm_of(vcpu)->vmcb->control.int_ctl |= V_INTR_MASKING_MASK;
}

/* svm_enter.S: run the guest of the VMCB at @vmcb_pa until it exits, with its general registers but RAX and
 * RSP from @gpr (enum x86_gpr), and back. The host's FS, GS, TR, ... come back from @host_pa. */
void svm_run(u64 vmcb_pa, u64 *gpr, u64 host_pa);

/* svm_exit.c */
int svm_handle_exit(struct vcpu *vcpu);
void svm_exit_info(struct vcpu *vcpu, struct exit_info *ret);
