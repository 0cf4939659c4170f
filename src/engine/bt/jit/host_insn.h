// SPDX-License-Identifier: Apache-2.0
/*
 * host_insn.h - one instruction of the guest executed as the host's own: struct x86_cpu_ops.host_insn.
 *
 * For instructions of which the x86 core has no code (AVX-512 and its kin, see x86/vec_host.c), where they
 * are not in translated code. Each is written once, with registers in its fields as they are, RAX for a
 * general register and [RCX] for memory, behind a table of 16 bytes for each, by a hash of its bytes.
 * Registers are loaded and stored around it (host_run.S).
 *
 * One per vCPU, used by its thread. Sources: Intel SDM vol. 2, chapter 2.
 */
#pragma once

#include "x86/x86.h"

struct bt_host_insn {
	uint8_t *code, *exec; /* two mappings of the same memory; NULL: not there */
};

/* The host's processor and system have all that host_run.S uses: AVX-512 F, BW, DQ and VL. */
bool bt_host_insn_is_fit(void);
/* 0 or -errno: then @h is empty, and bt_host_insn_run() must not be called. */
int bt_host_insn_init(struct bt_host_insn *h);
void bt_host_insn_fini(struct bt_host_insn *h);
void bt_host_insn_run(struct bt_host_insn *h, struct x86_cpu *cpu, const struct x86_insn *insn,
		      struct x86_host_op *op);
