// SPDX-License-Identifier: Apache-2.0
/* tr.h - a block on its way to native code: what the files that emit it (tr_*.c) share. */
#pragma once

#include "engine/bt/jit/describe.h"
#include "engine/bt/jit/jit_int.h"

#define BT_JIT_SLOW 160u

struct tr_slow {
	uint8_t *site;
	uint8_t *retry;	 /* where the TLB is looked at, or NULL */
	uint8_t *resume; /* behind the instruction; NULL: nothing is to follow */
	uint8_t insn, run;
	uint8_t replay; /* flags are to be made again first: t->replay */
	bool write;
};

#define TR_NO_MAKER  0xffu

#define TR_NO_RUN    0xffu
#define TR_NOT_PLAIN 0xffu

/* Accesses with one look at the TLB, see tr_run.c. Offsets are from what base and index hold. */
struct tr_run {
	bool open, write, first_write; /* write: any of them; first_write: the first */
	bool in_mem;		       /* where the flags are behind the look */
	uint8_t replay;		       /* likewise */
	uint8_t first, last, end;      /* instructions: with accesses; the end of the copy */
	uint8_t count, align, scale, seg;
	unsigned base, index;
	int64_t lo, hi, align_off;
	uint8_t *code; /* of the copy */
};

/* An access of a direct block: what has to be looked up of its address, see tr_direct.c. */
struct tr_place {
	uint8_t class; /* enum bt_direct_class, or TR_NO_CLASS */
	uint8_t group; /* what it looks up together with */
	bool looks;    /* the first of them */
};

#define TR_NO_CLASS 0xffu
#define TR_GROUPS   32u

/* What is looked up: @off is from what base and index hold. */
struct tr_address {
	unsigned base, index, scale, seg;
	int64_t off;
	uint64_t guess; /* its value, perhaps */
};

/* Where a copy goes on, and how the flags have to be there. */
struct tr_join {
	uint8_t *at;
	bool in_host, in_mem;
};

struct tr {
	struct emit e;
	struct bt_vcpu *vcpu;
	struct bt_region *region;
	const struct bt_block *block;
	struct bt_block *to; /* what it becomes */
	uint32_t code; /* the full entry: to->code once it may be used */
	/* With the one behind the block that tr_cross() emits, if any; what of it lies in the next page, as the
	 * upper bytes of a word. */
	unsigned count;
	uint32_t cross_len;
	uint64_t cross_rest;
	struct jit_desc desc[BT_BLOCK_INSNS];
	/* Flags before each instruction: that matter, if only for a fault; the same where no access is
	 * part of a run; that are read. */
	uint32_t live[BT_BLOCK_INSNS + 1], live_plain[BT_BLOCK_INSNS + 1], read[BT_BLOCK_INSNS + 1];
	uint32_t next_off[BT_BLOCK_INSNS]; /* of the next instruction, in the page of RIP */
	/* The memory operand, behind tr_operand(). */
	uint8_t mem_base, mem_index;
	int32_t mem_disp;
	bool no_runs;
	bool copies; /* of runs are wanted */
	uint8_t plain, plain_end; /* the copy being emitted: its first and last instruction */
	uint8_t addr_run;	  /* T_ADDR is what is kept of this run */
	unsigned run_count;
	struct tr_run run[BT_JIT_RUNS];
	uint8_t run_of[BT_BLOCK_INSNS];
	int64_t run_off[BT_BLOCK_INSNS];
	struct tr_join join[BT_BLOCK_INSNS];
	bool in_host, in_mem;		   /* where the flags are */
	uint8_t maker;	/* while they are in the host's: the instruction they are all of, or TR_NO_MAKER */
	uint8_t replay; /* while they are nowhere: the same, when that can be done again */
	bool failed;
	int last_vec, last_wide; /* the last instruction with vector registers, those of AVX-512; or -1 */
	unsigned first_unit; /* the first one with those or the x87's */
	unsigned slow_count;
	struct tr_slow slow[BT_JIT_SLOW];
	struct {
		uint8_t *site, *miss;
		int64_t off;
		uint16_t slot;
		bool used, save, forward, full;
	} exit[2];
	uint8_t *return_point; /* of a call */
	/* Of a direct block: where an instruction may fault, and then goes on. */
	struct {
		bool used, save; /* save: the flags, first */
		uint8_t replay;
		bool in_host, in_mem; /* at start */
		uint8_t maker, replay_before;
		uint8_t class_behind; /* what class_now has to be at resume */
		uint32_t groups;
		uint8_t *start, *end, *slow, *resume; /* resume: NULL where nothing follows */
		uint8_t *other, *other_end;
	} access[BT_BLOCK_INSNS];
	struct tr_place place[BT_BLOCK_INSNS][2]; /* the operand, and on the stack */
	struct tr_address group[TR_GROUPS];
	uint8_t group_class[TR_GROUPS];
	unsigned group_count, group_first; /* those from group_first on hold */
	uint8_t class_now; /* T_2 is the base of this class */
	bool other;	   /* the other form is being emitted */
	uint8_t *back; /* the entry, to be native.back */
	uint8_t *request, *lost, *due, *vector, *vector_back;
	uint8_t *x87, *x87_back;
	union {
		struct bt_block block;
		uint8_t room[BT_BLOCK_MAX];
	} with_cross; /* the block, its end mark being that instruction */
};

/* Offset in the code cache. */
static inline uint32_t tr_offset(const struct tr *t, const uint8_t *p)
{
	return (uint32_t)(p - t->vcpu->jit.code);
}

/* From the full entry on, which is emitted. */
static inline int16_t tr_from_code(const struct tr *t, const uint8_t *p)
{
	return (int16_t)(tr_offset(t, p) - t->code);
}

/* Unless said otherwise, @i is the number of the instruction in its block. */

/* ---- tr_flags.c ---- */
/* Code that follows changes the host's flags. */
void tr_flags_spoil(struct tr *t, unsigned i);
/* The instruction reads flags, or leaves some as they were. */
void tr_flags_want(struct tr *t, unsigned i);
void tr_flags_written(struct tr *t, unsigned i);
/* To the slow path of @i, which is its handler. Flags are saved. */
void tr_slow_if(struct tr *t, unsigned i, unsigned cc);
/* Where the TLB has missed: @retry when it has been filled. T_ADDR: the address, T_2: the tag. */
void tr_miss_if(struct tr *t, unsigned i, unsigned cc, uint8_t *retry, bool write);
/* The same for all of run @n: what does not help leads to its copy. */
void tr_miss_run_if(struct tr *t, unsigned n, unsigned cc, uint8_t *retry);
void tr_slow_finish(struct tr *t);
void tr_handler(struct tr *t, unsigned i);
/* The call that tr_handler() and slow paths make. */
void tr_handler_call(struct tr *t, unsigned i);

/* ---- tr_memory.c ---- */
/* Group 1 of the opcode map. */
#define ALU_ADD 0u
#define ALU_OR	1u
#define ALU_AND 4u
#define ALU_SUB 5u
#define ALU_CMP 7u
void tr_alu_imm(struct emit *e, unsigned op, bool wide, unsigned reg, int32_t v);
void tr_shr(struct emit *e, bool wide, unsigned reg, uint8_t n);
void tr_load_mem(struct emit *e, unsigned reg, unsigned base);
void tr_store_mem(struct emit *e, unsigned base, unsigned reg);
/* Between @reg and [mem_base + mem_index + mem_disp]. */
void tr_load_near(struct tr *t, unsigned reg);
void tr_store_near(struct tr *t, unsigned reg);
/* A general register of the guest, in a host register: @scratch where it has none. */
unsigned tr_value_reg(struct tr *t, unsigned guest, unsigned scratch);
/* LEA @to with the operand's address, segment left out. Spoils T_ADDR and T_1. */
void tr_ea(struct tr *t, unsigned i, unsigned to, bool wide);
/* [mem_base + mem_index + mem_disp] is the memory operand: for tr_copy() any of it, else T_ADDR alone.
 * Spoils T_1, T_2 and flags. */
void tr_operand(struct tr *t, unsigned i, unsigned len, unsigned align, bool write);
/* T_ADDR = host address of 8 bytes at @disp from host register @base. Spoils T_1, T_2 and flags. */
void tr_stack(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write);
/* The same, or [mem_base + mem_index + mem_disp]. */
void tr_stack_near(struct tr *t, unsigned i, unsigned base, int32_t disp, bool write);

/* ---- tr_run.c ---- */
/* Find runs, before anything is emitted. */
void tr_runs(struct tr *t);
/* What the access of @i is part of; NULL: it stands alone. */
const struct tr_run *tr_run_at(const struct tr *t, unsigned i);
/* Emit @i. Returns whether it ends the block. */
bool tr_insn_joined(struct tr *t, unsigned i);
/* Behind the accesses of an instruction that ends the block: true when a copy goes over to it. */
bool tr_joins(struct tr *t, unsigned i);
/* The copies, behind the block. */
void tr_runs_finish(struct tr *t);

/* Bits of general registers that @i may change. */
uint32_t tr_changed(const struct tr *t, unsigned i);

/* ---- tr_replay.c ---- */
/* What t->maker did can be done again by whatever may fault from @i on before flags are overwritten. */
bool tr_replay_holds(const struct tr *t, unsigned i);
/* Do it, and save the flags. Spoils T_1 and T_2. */
void tr_replay(struct tr *t, unsigned maker);

/* ---- translate.c ---- */
/* Emit one instruction. True: the block ends with it, and its exits are emitted. */
bool tr_insn(struct tr *t, unsigned i);

/* ---- tr_direct.c: the same in a direct block. Spoils T_1. ---- */
/* Whether accesses of @i go by the host's MMU. */
bool tr_direct_is_for(const struct tr *t, unsigned i);
/* Before anything is emitted, for each access in turn: number @n of @i (see tr.place). */
void tr_direct_place(struct tr *t, unsigned i, unsigned n, const struct tr_address *a);
/* All may have changed that was looked up. */
void tr_direct_forget(struct tr *t);
/* The other form of each access that guesses its class. */
void tr_direct_others(struct tr *t);
void tr_direct_operand(struct tr *t, unsigned i);
void tr_direct_stack(struct tr *t, unsigned i, unsigned base, int32_t disp);
/* Around what is emitted for @i. */
void tr_direct_begin(struct tr *t, unsigned i);
void tr_direct_end(struct tr *t, unsigned i, bool ended);
/* Slow paths of all accesses. */
void tr_direct_finish(struct tr *t);
/* Where the handler of the signal finds them. False: no room. */
bool tr_direct_sites(struct tr *t);

/* ---- tr_cross.c ---- */
/* Sets t->count: whether what follows the block and crosses the page can be emitted. Behind tr_runs(). */
void tr_cross_take(struct tr *t);
/* Emit it. True: it ends in branches. */
bool tr_cross(struct tr *t);

/* ---- tr_copy.c ---- */
/* AH CH DH BH can be named only without REX: by registers that need none. */
bool tr_high_bytes_fit(const struct x86_insn *insn, const struct jit_desc *d);
void tr_copy(struct tr *t, unsigned i);
/* One that changes nothing but flags, which are of no use, and has no operand in memory. */
void tr_copy_registers(struct tr *t, unsigned i);

/* ---- tr_insn.c ---- */
void tr_lea(struct tr *t, unsigned i);
void tr_mov_imm(struct tr *t, const struct x86_insn *insn);
void tr_xchg_ax(struct tr *t, const struct x86_insn *insn);
void tr_bswap(struct tr *t, const struct x86_insn *insn);
void tr_push(struct tr *t, unsigned i);
void tr_pop(struct tr *t, unsigned i);
void tr_leave(struct tr *t, unsigned i);
void tr_div(struct tr *t, unsigned i);

/* ---- tr_sys.c ---- */
void tr_sys(struct tr *t, unsigned i);
void tr_syscall(struct tr *t, unsigned i);
void tr_sysret(struct tr *t, unsigned i);

/* ---- tr_x87.c ---- */
void tr_x87(struct tr *t, unsigned i);
/* Part of the block's entry, and what it leads to, which is out of line. */
void tr_x87_entry(struct tr *t);
void tr_x87_finish(struct tr *t);

/* ---- tr_bit.c ---- */
void tr_bit(struct tr *t, unsigned i);

/* ---- tr_string.c ---- */
void tr_string(struct tr *t, unsigned i);

/* ---- tr_flow.c ---- */
void tr_jcc(struct tr *t, unsigned i);
void tr_jmp(struct tr *t, unsigned i);
void tr_call(struct tr *t, unsigned i);
void tr_ret(struct tr *t, unsigned i);
void tr_jmp_indirect(struct tr *t, unsigned i);
void tr_call_indirect(struct tr *t, unsigned i);
/* The block ends with its last instruction, which is no branch. */
void tr_end(struct tr *t);
/* What the exits lead to while they are not linked. */
void tr_exit_finish(struct tr *t, unsigned n);
