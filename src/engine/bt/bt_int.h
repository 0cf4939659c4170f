// SPDX-License-Identifier: Apache-2.0
/*
 * bt_int.h - what the files of the bt engine share.
 *
 * Theory of operation
 *
 * A vCPU is a struct x86_cpu run by one thread. Guest code is decoded once into blocks: up to
 * BT_BLOCK_INSNS instructions that lie in one page and end at a branch. Blocks belong to the machine
 * (cache.h) and are named by guest-physical address and code size, so that vCPUs, processes and
 * mappings share them. The loop (run.c) goes from block to block by a map of the vCPU's own, which holds
 * for one fetch context (see epoch below), and only falls back on a hash table of all vCPUs when a RIP
 * is not there.
 *
 *	map (rip -> block)  --miss-->  hash (gpa -> block)  --miss-->  lock, decode
 *
 * Fetch context: two instruction fetches from the same RIP give the same bytes when privilege (user or
 * not), code size, CS base and limit, and all translations are the same. The context has a
 * number, vcpu->epoch; map entries carry it. A TLB flush starts a new series of numbers. Each
 * address space that the TLB holds has one for user code; the kernel's goes on over a write to CR3 while
 * all its code lies in global pages.
 *
 * User code that computes is not run from blocks but by the host itself: user.h.
 *
 * Code that is overwritten
 *
 * One word per page of RAM, shared by all vCPUs (pages.c):
 *
 *	bit 0     CODE: there are blocks of this page, stores to it must be reported
 *	bit 1     WRITTEN: a TLB may hold a write entry for it, made since CODE was last set
 *	bits 2-7  heat: how often it went from CODE to written, lately
 *	bits 8-31 generation: how often in all
 *
 * A block is trusted, by all vCPUs, while its stamp equals its page's word; that is one load at block entry.
 * A reported store takes CODE away and starts the next generation: every block of the page is
 * stale then, the page is ordinary data and stores to it are fast. Each vCPU is sent a request, by which
 * native code knows without that load (jit.h). When it is executed again, its
 * blocks are compared with memory byte by byte and trusted again where they are unchanged. A page
 * whose heat is high mixes code and data; it stays ordinary and its instructions are compared one by one
 * as they execute, until it has cooled down.
 *
 * vCPUs may hold write entries in their TLBs when a page becomes code. They are told (a
 * request, no waiting), and until each has acknowledged at one of its block boundaries, or is outside the
 * guest, blocks of that page are compared at every entry. A store that was under way is thus
 * always seen: it either precedes a comparison or is reported. That a page becomes code, its word that is
 * looked at, and the number to be acknowledged that is noted with it, are one step, under the lock of
 * the cache: else who sees the word might not yet see the number.
 *
 * A store into the very block being executed poisons the rest of that block, see bt_block_poison(). Other
 * vCPUs that execute it go back to before the instruction that they reach, and find another block.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "engine/bt/cache.h"
#include "engine/bt/direct.h"
#include "engine/bt/jit/host_insn.h"
#include "engine/bt/jit/jit.h"
#include "engine/bt/stats.h"
#include "engine/bt/user.h"
#include "engine/engine.h"
#include "x86/x86.h"

#define BT_BLOCK_INSNS 32u
#define BT_BLOCK_BYTES 192u
#define BT_BLOCK_MAX   2048u /* bytes of a struct bt_block */
#define BT_MAP_BITS    15
#define BT_CROSS_BITS  12
#define BT_HANDLED_BITS  6
#define BT_DECODED_BITS 4
#define BT_SYNC_RING   64u
#define BT_FETCHED_WORDS 64u

_Static_assert(BT_JIT_HANDLER < BT_STATS_EXITS, "each reason has its counter");

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Bits of struct bt_vcpu.request. */
enum bt_request {
	BT_REQ_KICK = 1u << 0,
	BT_REQ_IRQ = 1u << 1,
	BT_REQ_NMI = 1u << 2,
	BT_REQ_INIT = 1u << 3,
	BT_REQ_SIPI = 1u << 4,
	BT_REQ_SYNC = 1u << 5,	    /* pages became code or ceased to be, or the dirty log went on */
	BT_REQ_UNHALT = 1u << 6,    /* end the HLT under way, or the next one */
	BT_REQ_USER = 1u << 7,	    /* user code goes on in a runner: user.h */
	BT_REQ_SLEEPING = 1u << 31, /* the vCPU's thread waits on the word */
};

#define BT_PAGE_CODE	  (1u << 0)
#define BT_PAGE_WRITTEN	  (1u << 1)
#define BT_PAGE_HEAT	  (1u << 2)
#define BT_PAGE_HEAT_MASK (63u << 2)
#define BT_PAGE_HOT	  (16u << 2)
#define BT_PAGE_GEN	  (1u << 8)
#define BT_PAGE_GEN_MASK  (~0u << 8)

/* An instruction that is not in a block (it crosses a page, or its page is hot) and the bytes it was
 * decoded from: good as long as a fetch gives the same bytes. */
struct bt_cross {
	uint64_t rip;
	uint32_t epoch; /* in which it is known where its bytes lie; 0: it is not */
	uint8_t code_bytes;
	uint8_t bytes[15];
	const uint8_t *host[2]; /* its bytes, and those in the next page */
	struct x86_insn insn;
};

/* Which block is at RIP. */
struct bt_map {
	uint64_t rip;
	uint32_t epoch; /* 0: empty */
	uint32_t block; /* offset in the arena */
};

/* A translated block that is to be interpreted. */
struct bt_decoded {
	uint32_t block; /* offset in the arena; 0: none */
	struct x86_insn insn[BT_BLOCK_INSNS + 1];
};

/* An instruction of a translated block that does not keep it: see bt_block_insn(). */
struct bt_handled {
	uint32_t block; /* offset in the arena; 0: none */
	uint8_t index;
	struct x86_insn insn;
};

/* What a vCPU knows of the cache. */
struct bt_maps {
	uint8_t *arena; /* of the cache */
	uint32_t evictions; /* how many it knows of */
	uint32_t since;	    /* what is of earlier series may have been evicted */
	struct bt_map map[1u << BT_MAP_BITS];
	struct bt_cross cross[1u << BT_CROSS_BITS];
	struct bt_decoded decoded[1u << BT_DECODED_BITS];
	struct bt_handled handled[1u << BT_HANDLED_BITS];
};

/* How long HLT looks for a request before the thread sleeps, and what that is learned from: run.c. */
struct bt_poll {
	uint64_t ns, not_before;
	uint64_t woke, woke_cpu; /* when it last slept: time, and the thread's own */
};

/*
 * Into the kernel or out of it without bt_context_update(): what that found the last time, in 64-bit code.
 * Whatever may let it find something else closes the way.
 */
struct bt_way {
	const struct x86_tlb_entry *tlb_table;
	uint64_t context; /* jit.context */
	uint32_t epoch;
	bool open;
};

/* What the number of retired instructions is, where time goes by it: count.c. */
enum bt_count_at {
	BT_COUNT_BETWEEN, /* stats.insns */
	BT_COUNT_INTERPRETING, BT_COUNT_NATIVE, /* in a block: more, or less */
};

struct bt_count {
	bool on;
	uint8_t at;	     /* enum bt_count_at */
	const struct bt_block *block; /* which it is at */
	uint64_t limit;	     /* stats.insns at the deadline; all ones: there is none */
	uint64_t deadline_ns, timer_ns; /* put off; as the machine's clock has it */
	uint64_t skipped_ns; /* while halted */
};

/* Two pages of RAM side by side: see ram_pair() in x86.h. */
struct bt_pair {
	uint8_t *pages; /* or NULL */
	uint64_t gpa[2];
};

struct bt_vcpu;
/* Tracing: called before each instruction, which makes the vCPU run one at a time. */
typedef void (*bt_trace_fn)(struct bt_vcpu *vcpu, void *arg);

struct bt_vcpu {
	struct engine_vcpu base;
	/* Everything below belongs to the thread in vcpu_run(), save the atomics. */
	_Atomic uint32_t request;   /* enum bt_request; any thread sets, the vCPU takes */
	_Atomic uint32_t sipi_vector;
	_Atomic uint64_t sync_acked; /* written by the vCPU, read by others */
	_Atomic bool in_guest;	     /* may touch guest memory; pairs with sync_seq, see pages.c */
	_Atomic uint64_t tsc_offset; /* guest TSC = host TSC + offset */

	struct bt_block *current; /* being executed, or NULL */
	uint32_t epoch;
	uint32_t epoch_series; /* the last number given to a series */
	/* In use at privilege 3, by address space (x86.h), and below. */
	uint32_t series_user[X86_TLB_SPACES], series_kernel;
	struct bt_way to_kernel, to_user; /* to_user: of the address space in use */
	struct {
		struct bt_way to_user;
		uint64_t cr3;
	} way[X86_TLB_SPACES];
	bool kernel_local; /* code below privilege 3 was fetched from a page that is not global */
	uint64_t context_base; /* CS base and limit the series holds for */
	uint32_t context_limit;
	/* Pages that the series were used for: a bit per page number modulo 4096. Of the lower half by
	 * address space; the last are those of the upper half. */
	uint64_t fetched[X86_TLB_SPACES + 1][BT_FETCHED_WORDS];
	uint32_t hot_steps;
	uint32_t pauses;
	struct bt_poll poll;
	bool unhalted;	  /* BT_REQ_UNHALT was taken, no HLT has ended by it */
	bool irq_waiting; /* the local APIC may have something for us */
	bool stepping;	  /* one instruction at a time */
	bool crowded;	  /* the cache had no room */
	uint64_t all_acked; /* every vCPU has acknowledged this sync */
	bt_trace_fn trace;
	void *trace_arg;
	char error[128];

	struct bt_stats stats;
	struct bt_count count;
	struct bt_pair pair;
	struct bt_jit jit;
	struct bt_host_insn host_insn; /* where the host has AVX-512 */
	struct bt_direct direct;
	struct bt_user user;
	struct x86_cpu cpu;
	struct x86_tlb tlb;
	struct bt_maps maps;
};

/* In whole pages: tables of direct.h lie around it. */
#define BT_VCPU_BYTES ((sizeof(struct bt_vcpu) + 4095) & ~(size_t)4095)

struct bt_ram {
	gpa_t gpa;
	uint64_t size;
	uint8_t *hva;
	int fd; /* -1: none */
	uint64_t fd_offset;
};

/* Guest TSC and kvmclock. Fixed after the first bt_clock_hz(). */
struct bt_clock {
	const struct bt_vcpu *counted; /* time is what it has executed; or NULL */
	bool host_tsc;	   /* the host's counter is invariant; else nanoseconds count */
	uint64_t tsc_start; /* counter and monotonic time when the machine was opened */
	uint64_t ns_start;
	uint64_t wall_start_ns;
	/* What the guest's clock showed, or would have shown, at tsc_start. */
	_Atomic uint64_t guest_start_ns;
	_Atomic uint64_t hz;
};

struct bt_engine {
	struct engine base;
	struct mem *mem;
	struct engine_host *host;
	unsigned vcpu_count; /* configured */
	uint32_t off;	     /* enum bt_off */
	uint32_t cache_bytes; /* for blocks; 0: as cache.h has it */
	struct bt_cache *cache;
	struct bt_perf_map *perf_map; /* NULL: none is asked for */
	bool count_insns;
	bool deterministic; /* count.c */
	struct x86_cpuid_model model; /* the processor shown, fixed from bt_open() on */
	_Atomic(struct bt_vcpu *) vcpu[ENGINE_MAX_VCPUS];
	struct bt_ram ram[2];
	unsigned ram_count;
	struct mem_observer observer;

	_Atomic uint32_t *page; /* by guest page number */
	uint64_t page_count;

	pthread_mutex_t sync_lock; /* guards sync_ring, and sync_seq against other writers */
	_Atomic uint64_t sync_seq;
	gpa_t sync_ring[BT_SYNC_RING];
	uint64_t code_seq; /* of the last page that became code, under the lock of the cache */
	_Atomic bool dirty_on;

	struct bt_clock clock;
	_Atomic uint64_t user_cpus[BT_USER_HOST_CPUS / 64]; /* bits: a vCPU is bound there; user_place.c */
};

static inline struct bt_engine *bt_engine_of(const struct bt_vcpu *vcpu)
{
	return (struct bt_engine *)vcpu->base.engine;
}

static inline struct bt_vcpu *bt_vcpu_of(struct x86_cpu *cpu)
{
	return (struct bt_vcpu *)((char *)cpu - offsetof(struct bt_vcpu, cpu));
}

/* The part of RAM that @gpa lies in, or NULL. */
static inline const struct bt_ram *bt_ram_of(const struct bt_engine *engine, gpa_t gpa)
{
	for (unsigned i = 0; i < engine->ram_count; i++)
		if (gpa - engine->ram[i].gpa < engine->ram[i].size)
			return &engine->ram[i];
	return NULL;
}

/* Host address of the RAM page that holds @gpa (of the byte itself), or NULL. */
static inline uint8_t *bt_ram_host(const struct bt_engine *engine, gpa_t gpa)
{
	const struct bt_ram *ram = bt_ram_of(engine, gpa);

	return ram ? ram->hva + (gpa - ram->gpa) : NULL;
}

/* @gpa is RAM. */
static inline _Atomic uint32_t *bt_page_word(const struct bt_engine *engine, gpa_t gpa)
{
	return &engine->page[gpa >> 12];
}

/* ---- pages.c: which pages are code, and who was told ---- */
int bt_pages_init(struct bt_engine *engine);
void bt_pages_fini(struct bt_engine *engine);
/* RAM is a file of small pages: it can be mapped again, a page at a time. */
bool bt_ram_is_file(const struct bt_engine *engine);
/* Whether stores of this vCPU to the page may go unreported. Then it is noted as written. */
bool bt_may_write(struct bt_vcpu *vcpu, gpa_t gpa);
/* Make the page of @gpa report its stores. Returns its word. The cache is locked. */
uint32_t bt_page_make_code(struct bt_vcpu *vcpu, gpa_t gpa);
/* Bytes of RAM were stored without a write entry of a TLB, by anyone. */
void bt_page_stored(struct bt_engine *engine, gpa_t gpa, uint64_t len);
/* @vcpu has acknowledged @seq, and every other one has or is outside the guest. */
bool bt_sync_all_acked(struct bt_vcpu *vcpu, uint64_t seq);
/* Every vCPU has acknowledged @seq or is outside the guest. */
bool bt_sync_done(struct bt_engine *engine, uint64_t seq);
/* Blocks were evicted: ask all to forget them. Returns the number to be acknowledged. */
uint64_t bt_sync_forget(struct bt_engine *engine);
/* Do what other threads posted; in the vCPU's thread, between instructions. */
void bt_sync_drain(struct bt_vcpu *vcpu);
/* From here on memory may be touched / is not touched until the next enter. */
void bt_guest_enter(struct bt_vcpu *vcpu);
void bt_guest_leave(struct bt_vcpu *vcpu);
int bt_dirty_start(struct engine *engine);
int bt_dirty_sync(struct engine *engine);
void bt_dirty_stop(struct engine *engine);

/* ---- cache.c: blocks. See cache.h ---- */
/* The tables of the vCPU name no block any more. */
void bt_maps_renew(struct bt_vcpu *vcpu);

/* The block at RIP, decoded and checked; NULL when the instruction there must run alone (bt_step).
 * May leave a fault delivered, in which case *ret_again is set. */
struct bt_block *bt_block_find(struct bt_vcpu *vcpu, bool *ret_again);
/* What bt_block.direct has to be. */
uint16_t bt_context_direct_of(const struct bt_vcpu *vcpu);
/* Code of the page of @linear was fetched in this context, behind x86_fetch_address() or the like. */
void bt_context_note_fetch(struct bt_vcpu *vcpu, uint64_t linear);
/* Recompute the fetch context after anything that may have changed it. */
void bt_context_update(struct bt_vcpu *vcpu);
/* The same where nothing but privilege can have changed it: IRET, an event delivered. */
void bt_context_turn(struct bt_vcpu *vcpu);
void bt_context_flush(struct bt_vcpu *vcpu);
/* No struct bt_way holds any more. */
void bt_ways_close(struct bt_vcpu *vcpu);
/* See tlb_switched() in struct x86_cpu_ops. */
void bt_context_switch(struct bt_vcpu *vcpu, unsigned changed, bool kept);
void bt_context_flush_page(struct bt_vcpu *vcpu, uint64_t linear);

static inline struct bt_block *bt_block_at(const struct bt_vcpu *vcpu, uint32_t offset)
{
	return (struct bt_block *)(vcpu->maps.arena + offset);
}

static inline bool bt_block_is_trusted(const struct bt_block *block)
{
	/* Acquire pairs with the locked update in bt_page_stored(): who sees the new generation
	 * sees the new bytes. */
	return atomic_load_explicit(&block->stamp, memory_order_relaxed) ==
	       atomic_load_explicit(block->page, memory_order_acquire);
}

/* Processes of one program have the same addresses: their contexts take turns in places of their own. */
static inline struct bt_map *bt_map_slot(struct bt_vcpu *vcpu, uint64_t rip)
{
	unsigned space = vcpu->cpu.cpl == 3 ? vcpu->cpu.space_now : 0;
	uint64_t i = rip ^ rip >> BT_MAP_BITS ^ (uint64_t)space << (BT_MAP_BITS - 3);

	return &vcpu->maps.map[i & ((1u << BT_MAP_BITS) - 1)];
}

/* The block at RIP by the map alone, trusted, or NULL. */
static inline struct bt_block *bt_map_find(struct bt_vcpu *vcpu)
{
	const struct bt_map *slot = bt_map_slot(vcpu, vcpu->cpu.s.rip);
	struct bt_block *block;

	if (slot->rip != vcpu->cpu.s.rip || slot->epoch != vcpu->epoch)
		return NULL;
	block = bt_block_at(vcpu, slot->block);
	return likely(bt_block_is_trusted(block)) ? block : NULL;
}

/* ---- block.c ---- */
/* The decoded instructions of @block, and the end mark, to be executed by this vCPU. */
const struct x86_insn *bt_block_decoded(struct bt_vcpu *vcpu, struct bt_block *block);
/* Instruction @i of a translated block, which has @at bytes before it. Good until this is asked again. */
const struct x86_insn *bt_block_insn(struct bt_vcpu *vcpu, struct bt_block *block, unsigned i,
				     unsigned at);
/* The rest of the block being executed was overwritten: leave it behind this instruction. */
void bt_block_poison(struct bt_vcpu *vcpu);
/* Translate @block, or a copy that takes its place: that is returned. Or @block as it is. */
struct bt_block *bt_block_translate(struct bt_vcpu *vcpu, struct bt_block *block);
/* @block falls back too often: make it anew, with copies of its runs. */
void bt_block_again(struct bt_vcpu *vcpu, struct bt_block *block);

/* ---- region.c ---- */
/* The vCPU, which has acknowledged @acked, forgets what was retired since. */
void bt_maps_forget(struct bt_vcpu *vcpu, uint64_t acked);

/* ---- cross.c: instructions that no block holds ---- */
/* At RIP, where it crosses a page, was executed in this context and has not changed; else NULL. */
const struct x86_insn *bt_cross_find(struct bt_vcpu *vcpu);
/* The one at @rip, executed in this context, or NULL. */
const struct bt_cross *bt_cross_known(struct bt_vcpu *vcpu, uint64_t rip);
/* Behind the last instruction of a block that one follows which crosses the page: execute that one too, if
 * it is found. */
int bt_exec_cross(struct x86_cpu *cpu, const struct x86_insn *insn);
/* At RIP, fetched. NULL: it cannot be, or is undefined. */
const struct x86_insn *bt_cross_fetch(struct bt_vcpu *vcpu);

/* ---- stats.c: see engine_ops ---- */
struct engine_stats *bt_stats_begin(struct engine *engine);
void bt_stats_sample(struct engine_stats *stats);
char *bt_stats_end(struct engine_stats *stats, bool json, unsigned top);

/* ---- perf_map.c: which native code is of what, for profilers ---- */
/* False: the file cannot be made; one sentence in @err. */
bool bt_perf_map_open(struct bt_engine *engine, GError **err);
void bt_perf_map_close(struct bt_engine *engine); /* the file stays */
/* Those of the machine, which the first vCPU has. */
void bt_perf_map_stubs(struct bt_vcpu *vcpu);
/* What lies in the code cache at @from was translated for RIP just now. */
void bt_perf_map_block(struct bt_vcpu *vcpu, uint32_t from, uint32_t size);

/* ---- count.c: time by instructions; in the vCPU's thread ---- */
/* No instruction that gives other results each time. */
void bt_count_restrict(struct x86_cpuid_model *model);
void bt_count_init(struct bt_vcpu *vcpu);
/* What all clocks of the guest show. */
uint64_t bt_count_ns(const struct bt_vcpu *vcpu);
/* In front of an access to a device, which then sees this time, and behind it: it may have set a timer. */
void bt_count_device(struct bt_vcpu *vcpu);
/* Between instructions: timers fire that are due. True: a deadline is so near that a block may go beyond. */
bool bt_count_is_near(struct bt_vcpu *vcpu);
/* Devices were set from outside, and the vCPU with them: they are asked for timers before it goes on. */
void bt_count_renew(struct bt_vcpu *vcpu);
/* The vCPU halts: let it be the time of the next timer. False: there is none. */
bool bt_count_skip(struct bt_vcpu *vcpu);

/* @n instructions more may go beyond the deadline. */
static inline bool bt_count_is_due(const struct bt_vcpu *vcpu, unsigned n)
{
	return unlikely(vcpu->stats.insns + n >= vcpu->count.limit);
}

/* ---- off.c ---- */
/* Add the bits of "NAME+NAME" (enum bt_off) to *ret_off. False: a sentence that lists the names. */
bool bt_off_parse(const char *text, uint32_t *ret_off, GError **err);

/* Of an instruction that returned @result: did it complete? */
static inline bool bt_is_retired(const struct x86_cpu *cpu, int result)
{
	return result == X86_FAULT ? cpu->fault.trap : result != X86_REPEAT;
}

/* ---- run.c: the loop ---- */
enum engine_exit bt_vcpu_run(struct engine_vcpu *vcpu);
/* Set bits of the request word and wake the vCPU where @wake. Any thread. */
void bt_request(struct bt_vcpu *vcpu, uint32_t bits, bool wake);

/* Behind an instruction of native code that was left to its handler, and native code cannot go on behind it
 * as if nothing had happened: where it can go on at once, or 0. */
uintptr_t bt_native_next(struct bt_vcpu *vcpu);

/* ---- step.c: one instruction with everything that may surround it ---- */
void bt_step(struct bt_vcpu *vcpu);
/* Deliver cpu->fault, raised by the instruction at @rip (or @next for traps). */
void bt_deliver(struct bt_vcpu *vcpu, uint64_t rip, uint64_t next);

/* ---- host.c: what the x86 core asks for ---- */
extern const struct x86_cpu_ops bt_cpu_ops;
void bt_pair_drop(struct bt_vcpu *vcpu);

/* ---- clock.c, pv.c: time, and what the guest is told of its hypervisor ---- */
void bt_clock_init(struct bt_clock *clock);
void bt_clock_init_counted(struct bt_clock *clock); /* by instructions, see counted */
/* Frequency of the counter; measured on first use. */
uint64_t bt_clock_hz(struct bt_clock *clock);
/* The paravirtual clock: nanoseconds since the machine was opened, or from where it was set to go
 * on. */
uint64_t bt_clock_guest_ns(const struct bt_clock *clock);
void bt_clock_set_guest_ns(struct bt_clock *clock, uint64_t ns);
uint64_t bt_clock_counter(const struct bt_clock *clock);
void bt_pv_cpuid(struct bt_vcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
void bt_pv_hypercall(struct bt_vcpu *vcpu);
bool bt_pv_rdmsr(struct bt_vcpu *vcpu, uint32_t msr, uint64_t *ret_value);
bool bt_pv_wrmsr(struct bt_vcpu *vcpu, uint32_t msr, uint64_t value);
/* Rewrite the vCPU's clock page, if it has one: its TSC was set. */
void bt_pv_clock_write(struct bt_vcpu *vcpu);
