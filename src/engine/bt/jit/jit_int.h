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

/* Of the first instruction of an entry, CMP RSP, gs:[]: what a closed one lacks. They lie in one aligned
 * quadword. */
extern const uint8_t jit_entry_bytes[5];
/* stub_sys.c: jit.syscall and jit.sysret. */
void jit_stubs_system(struct bt_vcpu *vcpu, struct emit *e);

#define JIT_TARGET_SHIFT 5
_Static_assert(sizeof(struct bt_jit_target) == 1 << JIT_TARGET_SHIFT, "jit_emit_lookup()");

#define JIT_BACK_SPACE 37
/* The same in jit.back, where address spaces are apart. */
static inline uint32_t jit_back_index(uint64_t rip, unsigned space)
{
	return (uint32_t)((rip ^ rip >> BT_JIT_BACK_BITS) + space * JIT_BACK_SPACE) &
	       ((1u << BT_JIT_BACK_BITS) - 1);
}

/* In two halves, each of which leaves ZF set when it holds: the target RIP, T_ADDR, is in jit.map, T_1 bytes
 * from its start; for this context. Both spoil T_2. */
void jit_emit_lookup(struct emit *e);
void jit_emit_lookup_epoch(struct emit *e);
/* Go on in the page of RIP T_ADDR, which is spoilt. */
void jit_emit_set_page(struct emit *e);
void jit_emit_flags_save(struct emit *e);    /* to jit.flags; spoils T_2 */
void jit_emit_flags_restore(struct emit *e); /* from jit.flags; spoils T_2 */
