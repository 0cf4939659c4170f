// SPDX-License-Identifier: Apache-2.0
/*
 * seq.h - short programs: by the host CPU, by the x86 core step by step, and by the bt engine.
 *
 * A program is a page or two of code that branches, loops a bounded number of times, calls, overwrites
 * its own instructions, and ends at INT3 or in a fault. What it leaves behind, registers, data and
 * code, has to be the same for all.
 */
#pragma once

#include "oracle.h"

#define SEQ_ITEMS 192u
#define SEQ_STEPS 4000u

enum seq_reloc { SEQ_NONE, SEQ_REL8, SEQ_REL32, SEQ_ABS32 };

/* One instruction of a program. */
struct seq_item {
	uint8_t bytes[15];
	uint8_t len;
	uint8_t reloc;	  /* enum seq_reloc */
	uint8_t reloc_at; /* where in bytes */
	int16_t target;	  /* an item, for the relocation */
	int16_t addend;
	bool patchable; /* an arithmetic instruction with an immediate at offset 2, free to be overwritten */
	uint32_t at;	/* offset in the code: seq_layout() */
};

struct seq_program {
	uint64_t number;
	uint8_t bits; /* 64 or 32 */
	struct oracle_regs in;
	uint32_t window_at;
	uint8_t window[WINDOW];
	unsigned n_items;
	uint32_t start; /* offset of the first item */
	struct seq_item item[SEQ_ITEMS];
	uint8_t code[CODE_SIZE];
};

struct seq_result {
	bool valid;
	bool ended;
	bool sees_flags; /* all of them: has PUSHF or POPF; of the core alone */
	int vector;
	uint32_t error;
	uint64_t cr2;
	struct oracle_regs out;
	uint8_t data[DATA_SIZE];
	uint8_t code[CODE_SIZE];
};

/* ---- seq_gen.c ---- */
struct seq_rows {
	uint16_t all[X86_ROW_COUNT], integer[X86_ROW_COUNT], branch[X86_ROW_COUNT];
	unsigned n_all, n_integer, n_branch;
};
void seq_rows_init(struct seq_rows *rows, const struct oracle_guest *guest,
		   const struct oracle_options *options);
void seq_generate(struct seq_program *p, uint64_t number, const struct oracle_options *options,
		  const struct seq_rows *rows);
/* Items to code. */
void seq_layout(struct seq_program *p);
/* The item that contains @rip as laid out, or -1. */
int seq_item_at(const struct seq_program *p, uint64_t rip);
void seq_remove(struct seq_program *p, unsigned item); /* NOPs in its place; call seq_layout() */

/* ---- native.c ---- */
void seq_native_run(const struct seq_program *programs, struct seq_result *results, unsigned n,
		    volatile unsigned *progress) __attribute__((noreturn));

/* ---- guest.c: False: it does not end within SEQ_STEPS, or runs what only the host can tell. ---- */
bool seq_step_run(struct oracle_guest *guest, const struct seq_program *p, struct seq_result *result);

/* ---- seq_engine.c ---- */
struct seq_engine;
#define SEQ_OFF_DIRECT_WAIT (1u << 9) /* BT_OFF_DIRECT_WAIT: on the host's MMU from the start */
#define SEQ_OFF_USER_WAIT (1u << 16) /* BT_OFF_USER_WAIT: as it is, from the start */
struct seq_engine_kind {
	bool interpret;
	uint32_t threshold; /* executions before a block is translated */
	uint32_t cache_bytes;
	uint32_t off;	  /* optimizations: enum bt_off */
	bool off_in_turn; /* and one more, another for each machine */
	bool kicked; /* taken out of the guest every few microseconds */
	bool stepped; /* single-stepped for a while, with breakpoints on code and data */
};
struct seq_engine *seq_engine_new(const struct seq_engine_kind *kind);
void seq_engine_free(struct seq_engine *e);
/* Of user code that were executed by the host as they are. */
uint64_t seq_engine_stretches(const struct seq_engine *e);
void seq_engine_run(struct seq_engine *e, const struct seq_program *p, struct seq_result *result);
