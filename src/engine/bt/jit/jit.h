// SPDX-License-Identifier: Apache-2.0
/*
 * jit.h - the translator: hot blocks of 64-bit code as native code.
 *
 * Theory of operation
 *
 * A block that was interpreted a few times is translated, instruction by instruction. Each one is
 * either emitted with its operands renamed, or becomes a call of its handler in the x86 core; the
 * same call is the slow path of every emitted one, so that faults, MMIO, page crossings and
 * all modes of a processor are in one place, the interpreter.
 *
 * Memory. Operands go by the TLB, inline (tr_memory.c). What misses it calls for its page to be filled in
 * and tries again; what that does not help goes to the handler. Slow paths are one call each, behind which lies what
 * its stub has to know (stub_slow()): code is more than a host's caches hold, and most of that never runs.
 * Accesses near each other share one look (tr_run.c).
 *
 * Registers. Host RAX RCX RDX RBX RBP RSI RDI R8-R11 are the guest's; host R12 is guest RSP; guest
 * R12-R15 stay in cpu->s; R13-R15 are scratch. GS points at struct x86_cpu. RSP is the host's.
 * Vector registers are either all in the host's registers or all in cpu->s (jit.vec_loaded); x87 state
 * likewise, in the host's unit (jit.x87_loaded, x87.c).
 *
 * Flags. The status flags are in the host's flags, in jit.flags (as LAHF and SETO give them), or both.
 * Code of ours that spoils the host's saves them first when an instruction that follows can read
 * them. Those that are overwritten before any does are still exact at a fault in between: they are made again
 * from the operands of what made them (tr_replay.c), or else saved as well.
 *
 * RIP. Only the page of the instruction being executed is kept (jit.rip_page), the rest is a constant
 * of the code; so code does not depend on where its page is mapped. Exits to other pages, and indirect
 * ones, go by tables of the vCPU that hold for a fetch context.
 *
 * Requests and overwritten code. Native code that may run is code of which jit.h says "open": nobody has
 * stored to its page since it was last compared with it. Whoever makes a page's word change posts a
 * request to every vCPU, his own included, before his store is complete (bt_page_uncode()). So one
 * comparison at the entry of a block tells that no request is pending, and thereby that all open code
 * is good. Requests are taken outside native code, and before a vCPU goes on the entries of what is not good
 * any more are closed: overwritten with a jump that leads out. A block has these entries:
 *
 *	full     code	the comparison. The only one that is ever closed. Indirect branches, returns that
 *			were not foreseen, other pages, and whatever comes from the loop arrive here.
 *	back     code_back	the comparison. From a branch of the same page that may close a loop, or a call.
 *	forward  code_next	nothing. From a branch of the same page further down, or where a call has
 *			returned to: no loop closes without passing another entry, as each return that
 *			was foreseen takes back one call.
 *
 * Back and forward have forms for flags that are in the host's only. They are linked from a block with
 * the same stamp (so that both are good, or neither), and unlinked before a block that is trusted again is
 * opened. A store by this vCPU into the page of the running block leaves the block.
 *
 * Code is shared by the vCPUs (cache.h). Entries are opened and closed, and exits linked, under the cache's lock,
 * in code that others may be executing:
 *  - Each of these changes is one store to an aligned quadword (emit.h, emit_live()): who executes it gets
 *    what was there or what is there now. Instructions behind the changed one never change.
 *  - What was there is right for a vCPU until it has taken the request that made it wrong. It may have come
 *    past a closed entry, or by a link that is gone, before that, and goes on to the next comparison.
 *  - Nothing is opened stale for who has taken its request. Opening is one step under the lock: the page's
 *    word is read, bytes are compared, the entry is opened. Who takes a request closes under the same
 *    lock: before that step, and then the word that is read is the new one and what is compared are the
 *    new bytes; or behind it, and then he closes what was opened. Translating, and linking by an
 *    unchecked entry, look at the word under the lock in the same way.
 *  - A vCPU that has not taken its request yet may come to code which another one has compared meanwhile:
 *    new code, sooner than it must be seen. What leads on from there is a link made since, or looks for
 *    requests: and the request was set before the bytes were written that were compared, so it is found.
 *
 * Why a vCPU never runs stale code after it has seen that there is other code (SDM vol. 3, 9.1.3). The
 * writer's request is set before anything that it stores later. A pointer that it publishes is followed
 * by an indirect branch, whose full entry looks for requests after the pointer was read. A jump that it
 * rewrites is code itself: its block is closed with the page's word as it was when the jump was compared,
 * which is later than the code that it leads to. What remains is a flag in data, tested by a direct
 * branch down the same page without a serializing instruction in between: the manual allows the old code
 * there. With one in between (they end a block, and the exit behind them is a full one) it is new.
 * A call may take as long as it likes, and its own page be changed meanwhile. When that request is taken,
 * native code is left, and the return is not foreseen any more. Before it is taken the old code may run as
 * said above, but not where it is this vCPU that changed it: a handler that leaves a request behind it leaves
 * native code, too.
 * An entry of which the comparison finds a request when the flags are in the host's and dead has lost
 * them: the block is then interpreted once (BT_JIT_ENTERED), as it was decoded, which is what would
 * have run had the request come a little later.
 *
 * Requests are noticed through one word, jit.limit, which is compared with the stack pointer: it is
 * all ones while one is pending, and else the end of the native stack.
 *
 * Returns. Calls of native code are calls on the host's stack, below the guest's return address: what is
 * returned to is compared with it, and taken by RET, so that the host predicts it. What does not match
 * drops one such pair and looks in the table. The pairs hold for one fetch context and are dropped with
 * it, and whenever native code is left.
 *
 * Code is dropped with the blocks it is of, a region at a time (cache.h). It is written through one mapping
 * and executed through another.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bt_cache;
struct bt_region;
struct bt_vcpu;
struct bt_block;
struct x86_insn;

#define BT_JIT_BACK_BITS 8
#define BT_JIT_MAP_BITS	 15
#define BT_JIT_SLOTS	 (1u << 16)
#define BT_JIT_PAGE_BITS 12
#define BT_JIT_STUBS_BYTES 12288u
/* No block's code needs more, slow paths included. */
#define BT_JIT_BLOCK_MAX (16u << 10)
#define BT_JIT_RUNS	 8u /* in a block */
#define BT_JIT_FALLBACKS 8u /* times that one is left to handlers before it has a copy, about */
/* What calls put on the stack; those that look for no request (see above) put less than as much again. */
#define BT_JIT_STACK (16u << 10)

/* Switches of struct bt_engine.off: each takes one optimization away, for tests. Names: off.c. */
enum bt_off {
	BT_OFF_JIT = 1u << 0,	  /* nothing is translated */
	BT_OFF_LINKS = 1u << 1,	  /* each direct branch goes by the loop */
	BT_OFF_CROSS = 1u << 2,	  /* so do those to another page */
	BT_OFF_ENTRIES = 1u << 3, /* links within a page check all that others check */
	BT_OFF_FLAGS = 1u << 4,	  /* flags are in memory from one block to the next */
	BT_OFF_RETURNS = 1u << 5, /* returns are indirect branches like others */
	BT_OFF_MAP = 1u << 6,	  /* each indirect branch goes by the loop */
	BT_OFF_SYSTEM = 1u << 7,  /* system instructions are left to their handlers */
	BT_OFF_DIRECT = 1u << 8,  /* nothing runs on the host's MMU: direct.h */
	BT_OFF_DIRECT_WAIT = 1u << 9, /* all user code does, from the first block on */
	BT_OFF_DIRECT_CLASSES = 1u << 12, /* there each access looks up its window */
	BT_OFF_RUNS = 1u << 10,  /* each access looks at the TLB */
	BT_OFF_GATES = 1u << 13, /* events and IRET go by the book */
	BT_OFF_FALLBACKS = 1u << 14, /* runs have their copies from the start: tr_run.c */
	BT_OFF_USER = 1u << 15,	   /* no user code runs as it is: user.h */
	BT_OFF_USER_WAIT = 1u << 16, /* all user code does, from the first instruction on */
	BT_OFF_COUNTER = 1u << 17, /* the guest's time stamp counter is none of the host's */
	BT_OFF_RETURN_ENTRY = 1u << 11, /* returns that were foreseen check all that others check */
};

/*
 * Where vector registers are, jit.vec_loaded: not in the host's; as far as AVX has them; with all of ZMM and the
 * opmasks. The last as long as cpu->wide says that there is more than zeros in these, and on hosts that have them.
 */
#define BT_JIT_YMM  1u
#define BT_JIT_WIDE 2u

/* Why native code was left. */
enum bt_jit_exit {
	BT_JIT_LINK,	 /* end of a block, not linked yet: exit_ptr is bt_jit_left() */
	BT_JIT_REQUEST,	 /* before the block exit_ptr: the request word is set */
	BT_JIT_STALE,	 /* before the block exit_ptr: its entry is closed */
	BT_JIT_ENTERED,	 /* before the block exit_ptr, which is to be interpreted: a request is
			  * pending, or vector registers cannot be native now */
	BT_JIT_RIP,	 /* to RIP exit_ptr */
	BT_JIT_HANDLER,	 /* insn returned result; found and more tell what bt_native_next() found */
};

/* A direct way out of a block. */
struct bt_exit {
	int32_t off;   /* target relative to the page of RIP */
	int16_t site;  /* of the jump, from the full entry on; 0: none */
	int16_t stub;  /* likewise: where it leads while it is not linked */
	uint16_t slot; /* where it crosses: of jit.slot; 0: none was left */
	uint8_t host_flags : 1; /* flags are in the host's only */
	uint8_t cross : 1, forward : 1;
	uint8_t full : 1; /* only to a full entry */
};

/* Where a direct branch to another page goes; each has a slot of its own. The key is the page and the
 * context (jit.context), 0: empty. */
struct bt_jit_slot {
	uint64_t key;
	uint64_t code;
};

/* Where an indirect branch goes: valid while the epoch is the same. */
struct bt_jit_target {
	uint64_t rip;
	uint64_t code;
	uint32_t epoch;
	uint32_t unused[3];
};

/* Pieces of code that all blocks use, in the writable mapping. */
#define BT_JIT_STUBS                                                                                 \
	uint8_t *enter, *leave, *leave_link, *leave_rip, *vec_load, *fill_read, *fill_write;         \
	uint8_t *vec_load_wide, *wide_save, *wide_load;                                              \
	uint8_t *lookup, *cross, *ret_pop, *syscall, *sysret;                                        \
	const uint8_t *call, *call_vec, *call_wide, *x87_load, *slow[3], *miss[3][2];       \
	const uint8_t *leave_entered, *leave_request, *leave_stale, *leave_exit, *leave_exit_flags

struct bt_jit_stubs {
	BT_JIT_STUBS;
};

struct bt_jit {
	/* Used by native code. */
	void *self, *self_vcpu; /* struct x86_cpu, struct bt_vcpu */
	uint64_t rip_page;
	uint64_t context; /* of keys: changes with the epoch, 1..0xfff */
	_Atomic uint64_t limit; /* of the stack; all ones: a request is pending */
	uint64_t stack, host_stack;
	uint64_t no_return; /* never returned to: above the first pair of the stack */
	uint64_t tmp, tmp_host;
	uint64_t run[BT_JIT_RUNS]; /* host addresses: tr_run.c */
	void *exit_ptr;
	uint32_t exit_reason;
	uint16_t flags; /* AH: LAHF, AL: SETO */
	uint8_t vec_loaded; /* BT_JIT_YMM, BT_JIT_WIDE or 0 */
	uint8_t x87_loaded;

	/* Of BT_JIT_HANDLER. */
	const struct x86_insn *insn;
	unsigned index; /* in its block */
	uint64_t next; /* RIP behind it */
	int result;
	struct bt_block *found; /* behind it, with @more of bt_native_next() */
	bool more;
	bool single; /* for tests: leave behind every handler that does not say X86_NEXT */

	bool on;
	uint32_t off;	      /* enum bt_off */
	uint64_t stack_limit; /* what limit is without a request */
	uint32_t threshold; /* executions before a block is translated */
	/* Of the machine's cache, which see. */
	uint8_t *code, *exec;
	uint32_t size;
	union {
		struct bt_jit_stubs stubs;
		struct {
			BT_JIT_STUBS;
		};
	};
	uint64_t translated, translated_insns, handler_insns; /* statistics */
	uint32_t slots_end; /* those from here on are empty */
	struct bt_jit_slot slot[BT_JIT_SLOTS];
	struct bt_jit_target map[1u << BT_JIT_MAP_BITS];
	/* Where SYSRET goes. Processes of one program make their system calls in the same places: by address
	 * space, too. */
	struct bt_jit_target back[1u << BT_JIT_BACK_BITS];
};

/* What of an epoch is in keys: series modulo BT_JIT_SERIES, and the bit that says user mode. Native code is
 * 64-bit code. Each time that series come around the slots are forgotten. */
#define BT_JIT_SERIES 2000u

static inline uint64_t bt_jit_context(uint32_t epoch)
{
	return ((epoch >> 4) % BT_JIT_SERIES + 1) << 1 | (epoch & 1);
}

/* Where in jit.map a RIP has its place. Low bits tell the cases of a switch apart, the next ones functions,
 * which are aligned. */
static inline uint32_t jit_map_index(uint64_t rip)
{
	return (uint32_t)(rip ^ rip >> BT_JIT_MAP_BITS) & ((1u << BT_JIT_MAP_BITS) - 1);
}

/* ---- code.c: the memory of code, and the stubs in it ---- */
/* Map the arena of @cache and, behind it, room for code, so that each reaches the other. No room for code
 * (an old host, or no memory) leaves cache->code NULL. */
int bt_jit_map(struct bt_cache *cache);
void bt_jit_unmap(struct bt_cache *cache);
/* With the cache locked. The first vCPU makes the stubs. */
void bt_jit_init(struct bt_vcpu *vcpu);

/* ---- translate.c ---- */
/* @block as @to, which has its header and is where @region, which has room, is free; with @copies of runs
 * (tr_run.c). The cache is locked. False: it cannot be done. */
bool bt_jit_translate(struct bt_vcpu *vcpu, struct bt_region *region, const struct bt_block *block,
		      struct bt_block *to, bool copies);

/* ---- x87.c ---- */
/* Between cpu->s and the host's unit. False: not with these exception masks, or not now. */
bool bt_jit_x87_load(struct bt_vcpu *vcpu);
void bt_jit_x87_save(struct bt_vcpu *vcpu);
/* The handler of @insn uses the unit, or the guest's state of it; perhaps. */
bool bt_jit_x87_concerns(const struct x86_insn *insn);

/* ---- glue.c ---- */
/* In the thread that will run the vCPU. */
void bt_jit_thread(struct bt_vcpu *vcpu);
/* From @block, which has code and is trusted. RIP and all state are valid on return. */
enum bt_jit_exit bt_jit_run(struct bt_vcpu *vcpu, const struct bt_block *block);
/* Called by native code: execute instructions of @block, @which says. Returns 0: go on behind them;
 * BT_JIT_OUT; or the code to go on at. */
#define BT_JIT_OUT 1u
uintptr_t bt_jit_exec(void *cpu, struct bt_block *block, uint32_t which);
/* The numbers of the first and the last, and how many bytes of the block are before the first. */
#define BT_JIT_WHICH(i, last, at) ((uint32_t)((last) << 16 | (i) << 8 | (at)))

/* ---- link.c ---- */
/* Exit @n of @block in one word, in which native code says where it was left. */
void *bt_jit_left(struct bt_block *block, unsigned n);
/* Native code was @left so, to @to: let it lead there. */
void bt_jit_link(struct bt_vcpu *vcpu, void *left, struct bt_block *to);
/* Where it leads, relative to the page of RIP. */
int64_t bt_jit_left_to(const void *left);
/* No slot and no key of the table for direct branches holds any more. */
void bt_jit_forget_slots(struct bt_vcpu *vcpu);
/* Native code led to @left, whose entry is closed, and @by is there now: let it lead to that. */
void bt_jit_replace(struct bt_vcpu *vcpu, struct bt_block *left, struct bt_block *by);
/* With the cache locked: @block was given another stamp, for which it is trusted: it may be entered, and
 * is linked anew. Or it had it already. */
void bt_jit_open(struct bt_cache *cache, struct bt_block *block);
void bt_jit_reopen(struct bt_cache *cache, struct bt_block *block);
/* With the cache locked: @block is given up. No jump of another block leads to it, and none of its own is in
 * anybody's list. */
void bt_jit_forget(struct bt_cache *cache, struct bt_block *block);
/* With the cache locked: what led to @block leads to @by from now on, or will. */
void bt_jit_supersede(struct bt_cache *cache, struct bt_block *block, struct bt_block *by);
/* @block has code. */
void bt_jit_list_block(struct bt_cache *cache, struct bt_block *block);
/* These take the lock. The word of the page of @gpa has changed: close what is not trusted. Or of any. */
void bt_jit_close_page(struct bt_cache *cache, uint64_t gpa);
void bt_jit_close_all(struct bt_cache *cache);
/* For the page of RIP in this context @slot holds @value. */
void bt_jit_note_slot(struct bt_vcpu *vcpu, uint16_t slot, uint64_t value);
/* An indirect branch went to @block at RIP. */
void bt_jit_note_target(struct bt_vcpu *vcpu, const struct bt_block *block);
/* So did SYSRET. */
void bt_jit_note_back(struct bt_vcpu *vcpu, const struct bt_block *block);
