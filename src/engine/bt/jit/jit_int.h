// SPDX-License-Identifier: Apache-2.0
/* jit_int.h - what the files of the translator share. */
#pragma once

#include <stddef.h>

#include "engine/bt/bt_int.h"
#include "engine/bt/jit/emit.h"

/* Displacements from GS. */
#define GS_VCPU(field) \
	((int32_t)((int64_t)offsetof(struct bt_vcpu, field) - (int64_t)offsetof(struct bt_vcpu, cpu)))
#define GS_GPR(guest) ((int32_t)(8 * (guest)))
#define GS_VEC(i)     ((int32_t)(offsetof(struct x86_cpu, s.fpu.vec) + 64u * (i)))

#define HOST_SP H_R12
#define T_ADDR	H_R13
#define T_1	H_R14
#define T_2	H_R15

/* Where a general register of the guest lives; H_NONE: in cpu->s. */
static inline unsigned host_of(unsigned guest)
{
	return guest == X86_RSP ? HOST_SP : guest < X86_R12 ? guest : H_NONE;
}

void jit_emit_flags_save(struct emit *e);    /* to jit.flags; spoils T_2 */
void jit_emit_flags_restore(struct emit *e); /* from jit.flags; spoils T_2 */
