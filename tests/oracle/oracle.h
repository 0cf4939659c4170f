// SPDX-License-Identifier: Apache-2.0
/*
 * oracle.h - one instruction, run by the host CPU and by the x86 core, from the same state.
 *
 * Both see the same user-mode address space: a page of code, two pages of data with nothing behind
 * them, a page that may only be read. A case is written by gen.c from a seed and its number alone, so
 * that any of them can be had again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "x86/rows.h"

#define CODE_BASE  0x10000000ull
#define CODE_SIZE  0x2000u
#define DATA_BASE  0x20000000ull
#define DATA_SIZE  0x2000u
#define CONST_BASE 0x20010000ull /* read-only */
#define CONST_SIZE 0x1000u
#define GS_BASE	   0x3000ull
#define WINDOW	   256u /* bytes of data that are fresh in each case */

struct oracle_regs {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	uint8_t vec[32][64];
	uint64_t opmask[8];
	uint8_t st[8][16];
	uint16_t fcw, fsw;
	uint8_t ftw; /* abridged */
	uint32_t mxcsr;
};

struct oracle_case {
	uint64_t number;
	uint16_t row;
	uint8_t bits; /* 64, 32 or 16 */
	uint8_t len;
	bool string; /* a REP instruction is single-stepped more than once */
	uint8_t code[32];
	struct oracle_regs in;
	uint32_t window_at; /* offset in the data */
	uint8_t window[WINDOW];
};

/* 16-bit code has its segment at CODE_BASE, its data at DATA_BASE, with a limit of 64 KiB. */
static inline uint64_t oracle_code_at(const struct oracle_case *c)
{
	return c->bits == 16 ? CODE_BASE + c->in.rip : c->in.rip;
}

struct oracle_result {
	bool valid;
	int vector; /* -1: ran through */
	uint32_t error;
	uint64_t cr2;
	uint32_t hits; /* of watchpoints: the low bits of DR6 */
	struct oracle_regs out;
	uint8_t data[DATA_SIZE];
};

struct oracle_options {
	uint64_t seed;
	const char *row; /* only rows of this mnemonic or enum index, or NULL */
	bool strict;	 /* undefined flags count as well */
	unsigned bits;	 /* 64, 32, 16, or 0 for all */
	bool no_16;	 /* the host has no such code segments */
	bool wide;	 /* AVX-512 is there */
	bool watch;	 /* watchpoints */
};

/* What lies in data and constants before a case's window is laid over it. */
void oracle_pristine(uint8_t *data, uint8_t *constants);

/* gen.c */
bool oracle_row_is_wanted(unsigned row, const struct oracle_options *options);
void oracle_generate(struct oracle_case *c, uint64_t number, const struct oracle_options *options,
		     const uint16_t *rows, unsigned n_rows);

#define LDT_CODE 0x07u
#define LDT_DATA 0x0fu
/* native.c: whether processor, system and x86 core have the state of AVX-512. */
bool oracle_native_has_wide(void);
/* native.c: make the segments of 16-bit code, for this process and its children. */
bool oracle_native_has_16(void);
/* Run all in this process, which it ends. The results lie in shared memory. @watch: its parent traces it by
 * oracle_watch_trace(). */
void oracle_native_run(const struct oracle_case *cases, struct oracle_result *results, unsigned n,
		       volatile unsigned *progress, bool watch) __attribute__((noreturn));

/* watch.c */
struct oracle_watch {
	uint64_t at[4];
	uint32_t dr7;
};

void oracle_watch_choose(const struct oracle_case *c, uint64_t seed, struct oracle_watch *ret);
/* Let a child run through its cases, and tell how it ended as waitpid(2) does. False: the host has no debug registers for
 * us. */
bool oracle_watch_trace(pid_t pid, const struct oracle_case *cases, struct oracle_result *results,
			const volatile unsigned *progress, uint64_t seed, int *ret_status);

/* guest.c */
struct oracle_guest;
struct oracle_guest *oracle_guest_new(void);
bool oracle_guest_has(const struct oracle_guest *guest, unsigned feature);
void oracle_guest_free(struct oracle_guest *guest);
/* @watch: or NULL. */
void oracle_guest_run(struct oracle_guest *guest, const struct oracle_case *c,
		      const struct oracle_watch *watch, struct oracle_result *result);
