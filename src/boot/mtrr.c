// SPDX-License-Identifier: Apache-2.0
/*
 * mtrr.c - memory types as a PC's firmware leaves them: SDM vol. 3, "Memory Type Range Registers".
 *
 * Write-back is the default; the hole below 4 GiB, where devices are, is uncacheable, as is the
 * window of a VGA adapter; the firmware's own area is write-protected. A kernel that finds the
 * registers off does without them, and without PAT, and says so.
 */
#include "boot/boot.h"

#include "boot/layout.h"
#include "x86/state.h"

#define TYPE_UC 0x00u
#define TYPE_WP 0x05u
#define TYPE_WB 0x06u

#define DEF_TYPE_FIXED	(1u << 10)
#define DEF_TYPE_ENABLE (1u << 11)
#define MASK_VALID	(1u << 11)

/* A fixed register holds the types of eight ranges. */
#define EIGHT(type) (0x0101010101010101ull * (type))

/* Indices of mtrr_fixed: 64 KiB from 0, 16 KiB from 80000 and a0000, 4 KiB from c0000 on. */
enum { FIXED_00000, FIXED_80000, FIXED_A0000, FIXED_C0000, FIXED_COUNT = 11 };

void boot_set_memory_types(struct x86_state *state, unsigned phys_bits)
{
	uint64_t hole = (1ull << 32) - LAYOUT_PCI_LOW_BASE;

	state->mtrr_fixed[FIXED_00000] = EIGHT(TYPE_WB);
	state->mtrr_fixed[FIXED_80000] = EIGHT(TYPE_WB);
	state->mtrr_fixed[FIXED_A0000] = EIGHT(TYPE_UC);
	for (unsigned i = FIXED_C0000; i < FIXED_COUNT; i++)
		state->mtrr_fixed[i] = EIGHT(TYPE_WP);
	state->mtrr_var[0] = LAYOUT_PCI_LOW_BASE | TYPE_UC;
	state->mtrr_var[1] = (((1ull << phys_bits) - 1) & ~(hole - 1)) | MASK_VALID;
	state->mtrr_def_type = DEF_TYPE_ENABLE | DEF_TYPE_FIXED | TYPE_WB;
}
