// SPDX-License-Identifier: Apache-2.0
/* vec_native.h - run one instruction on the host with a given vector and x87 state. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NATIVE_XSAVE_BYTES 1024 /* x87, SSE and AVX: 832 used */

/* What goes in and comes out. rbx points at the memory operand and is not changed. */
struct native_state {
	uint8_t xsave[NATIVE_XSAVE_BYTES] __attribute__((aligned(64)));
	uint64_t rax, rcx, rdx, rsi, rdi, rbx;
	uint64_t flags;
	bool raised; /* #XM or #MF, seen as SIGFPE */
	bool invalid; /* #UD, seen as SIGILL */
};

bool native_init(void); /* false: the host has no AVX state, nothing can be compared */
/* The instruction may name rax, rcx, rdx, rsi, rdi and memory through rbx. */
void native_run(const uint8_t *bytes, unsigned len, struct native_state *s);
