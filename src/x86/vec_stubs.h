// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* vec_stubs.h - where the host stub of each SIMD row is; made by tools/gen_vec_stubs.py. */
#pragma once

#include <stdint.h>

#define X86_VEC_STUB_STRIDE 32u

struct x86_vec_stub {
	uint16_t first; /* in units of the stride */
	uint8_t mask;	/* bits of the immediate that choose among the stubs behind it */
};

extern const struct x86_vec_stub x86_vec_stub_of_row[];
extern const uint8_t x86_vec_stubs[];
