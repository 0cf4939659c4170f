// SPDX-License-Identifier: Apache-2.0
/*
 * xsave.h - x87, SSE, AVX and AVX-512 out of and into an XSAVE area of the host.
 *
 * The area is of the standard format (SDM vol. 1, 13.4.2): what KVM_GET_XSAVE and PTRACE_GETREGSET give.
 * Where its components lie is the host processor's own affair (CPUID leaf 0DH).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "x86/state.h"

#define XSAVE_COMPONENTS 10u /* as many as are known here: up to PKRU */

struct xsave_layout {
	uint32_t at[XSAVE_COMPONENTS]; /* offset in the area; 0: the host has no such component */
};

/* Asks CPUID, which takes long in a virtual machine: once is enough. @bytes: of the areas to come. */
void xsave_layout(struct xsave_layout *ret, size_t bytes);
/* What the area does not hold is in its initial configuration then. */
void xsave_load(const struct xsave_layout *layout, const uint8_t *area, struct x86_fpu *ret);
/* Into an area that was read before: what is not in @offered (bits of XCR0) stays as it is. */
void xsave_store(const struct xsave_layout *layout, uint8_t *area, uint64_t offered,
		 const struct x86_fpu *fpu);
