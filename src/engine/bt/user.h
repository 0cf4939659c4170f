// SPDX-License-Identifier: Apache-2.0
/*
 * user.h - user code that the host's processor executes as it is.
 *
 * Theory of operation
 *
 * Guest and host have the same instructions, so a program of the guest that computes needs no translation:
 * what it may not do (privileged instructions, pages that it does not have) faults on the host too. It runs
 * in a runner, a process of the host that has nothing: its address space holds the pages that the guest's
 * tables give to user code, at the guest's own addresses, mapped from the file behind guest RAM, and two
 * pages of ours. The vCPU's thread is its tracer (ptrace(2)): it sets the registers, lets it go, and waits
 * until it stops. While it runs the thread sleeps, and both are bound to one processor of the host, as a
 * switch on the spot is a tenth of the price of waking another one.
 *
 *	vCPU's thread				runner
 *	registers, PTRACE_CONT		-->	what is to be mapped, user code, natively
 *	waitpid()			<--	stops: system call, fault, trap, signal (a request)
 *
 * What is done by the book. Whatever stopped it, the instruction at RIP has not been executed: the vCPU takes
 * the registers and executes it by the x86 core (bt_step()): the guest's system call, its page fault, an
 * instruction that a user may not execute, one that reaches a device. So there is no second
 * implementation of anything, and each state is exact: it is the processor's own. (One that faults between several
 * stores, which of 64-bit instructions ENTER with nested frames alone does, is thus begun once more than needed.)
 *
 * Pages. A page is mapped when it was touched and the guest's tables have it: present for users, accessed
 * bits set, writable only where the dirty bit is set and no store needs to be reported. What a runner has
 * mapped is thus what a TLB may hold, and it is treated as one (user_map.c). All pages of the same 2 MiB that
 * the tables have by then are mapped along, as one list of system calls that the runner executes itself, at our stub
 * (user_stub.S), on its way back to user code: a stop costs more than the calls.
 *
 * Why a guest cannot get out. A filter (seccomp(2)) stops each system call, by whatever instruction, before it is
 * executed, and it never is; but mmap(2) and munmap(2) at the stub's one place, and those only with a key of 32 bits
 * where the kernel does not look, in the upper half of what is a file's number. The key is in a register while the stub
 * works on a list of ours, has gone when user code begins, and is nowhere in memory; a call at that place without it ends
 * the runner, so that nobody tries twice. The list is wiped before user code begins, which could read it, and write
 * to the page: nothing that is there is believed. It has no file but guest RAM's, no memory but user pages of one
 * address space, and is gone with its tracer (PTRACE_O_EXITKILL). It tells us nothing but its registers, which the
 * kernel reads for us, and is stopped whenever the vCPU's thread is not waiting for it: so no page is taken away, and
 * none is changed behind a translation, while it still could be used.
 *
 * What would not fault but give other results must not be executed: CPUID, which can be made to fault where the host's
 * processor offers that (ARCH_SET_CPUID of arch_prctl(2)), RDPID, LSL, XSAVE, which saves what the host's
 * XCR0 says, and RDTSC, unless the guest's counter is the host's, as it is of a machine that began here. A page
 * that has one is looked for before it is executed (user_scan.c), and the host's debug registers stop the runner in front
 * of it. Where there are more of them than debug registers the page is not executable: its instructions are
 * done by the book one by one, or by the translator where there are many. Instructions that the guest's processor does not have, but
 * the host's does, are executed: as under any hypervisor.
 * A call of the vsyscall page, which the host may have and the guest not, or the other way round, is a fault of fetching
 * its first instruction.
 *
 * When it pays. A stop costs some 10 us, a list of mappings as much, a process of the guest some
 * milliseconds until its pages are there; a system call in translated code costs 10 ns. So only an address
 * space that timer interrupts found computing several times in a row gets a runner. Where it stops often the
 * translator and the runner are given trials in turn, and the faster of the two goes on (user_worth.c): code that is a
 * small loop is as fast in the translator, and system calls are not stops; code that is large is many times slower. A program whose pages with
 * too many places to stop at are executed all the time loses its runner, too (the dynamic linker's, where each access
 * to a thread's variable calls what lies beside a dozen CPUIDs): both by turns took three times as long as the translator
 * alone. Who has lost it gets none for some time, each time for longer.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/xsave.h"

struct bt_vcpu;
struct bt_engine;
struct user_regs_struct;

#define BT_USER_RUNNERS	    6u /* as many address spaces as the TLB has */
#define BT_USER_REGION_BITS 21
#define BT_USER_REGION	    (UINT64_C(1) << BT_USER_REGION_BITS)
#define BT_USER_PAGES	    512u /* of a region */
#define BT_USER_REGIONS	    2048u /* of a runner */

/* 2 MiB of linear addresses. A page's word: page number of its RAM, and what it is mapped for. 0: not. */
struct bt_user_region {
	uint64_t linear;
	uint32_t page[BT_USER_PAGES];
};

#define BT_USER_IN	  (1u << 0)
#define BT_USER_WRITE	  (1u << 1)
#define BT_USER_EXEC	  (1u << 2)
#define BT_USER_HIDDEN	  (1u << 3) /* has instructions to be stopped at, or is written: with EXEC only if
				     * they are, and it is not */
#define BT_USER_LARGE	  (1u << 4) /* part of a page of 2 MiB */
#define BT_USER_GPA_SHIFT 5

/* A system call for the stub. */
struct bt_user_call {
	uint64_t number, arg[6];
};

/* With what user code goes on behind a list, in the order in which the stub takes them. */
struct bt_user_frame {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, r8, r9, r10, r11, r12;
	uint64_t rip, cs, rflags, rsp, ss;
};

#define BT_USER_WATCHES	   4u /* debug registers */
#define BT_USER_CROWDED	   16u
#define BT_USER_AREA_BYTES 65536u
#define BT_USER_CALLS	   ((BT_USER_AREA_BYTES - 256u) / sizeof(struct bt_user_call) - 1)

/* The page that a runner shares with us. It may hold anything when the runner comes back. */
struct bt_user_area {
	struct bt_user_frame frame;
	uint64_t stop; /* behind the list */
	uint8_t other[120];
	struct bt_user_call call[BT_USER_CALLS + 1];
};

/* Whether a runner pays; user_worth.c. Times are of processors, in nanoseconds. */
struct bt_worth {
	uint64_t ran;	     /* the runner's when that was looked at */
	uint32_t stops, bad; /* since, and how often in a row it was little */
	uint64_t since;	     /* time of both when the window began */
	uint32_t entries;    /* of user code since */
	bool translator;     /* has it, but for trials */
	bool trial;	     /* the other one has this window */
	uint32_t left, pause; /* windows until the next trial; and between the next two */
	uint64_t each;	     /* time from one entry to the next in the last window that was not a trial */
	uint64_t tick;	     /* when a timer interrupt last found user code, while the translator has it, */
	uint32_t ticks_entries, calm; /* entries since, and how many in a row found few */
	uint32_t paused;     /* how often the translator was found at work instead, of late */
};

struct bt_runner {
	pid_t pid; /* 0: none */
	int cpu;   /* of the host, to which it is bound; -1: to none */
	struct bt_user_area *area; /* as we have it mapped; BT_USER_AREA_BYTES */
	unsigned calls;		   /* of the list, which is to be done before user code goes on */
	uint64_t key;		   /* with which it is; in the upper half */
	uint64_t watch[BT_USER_WATCHES]; /* linear addresses at which it stops; 0: none */
	unsigned next_watch;		 /* to be used again */
	struct user_regs_struct *regs; /* while it is stopped; ptrace(2) */
	uint8_t *xstate; /* XSAVE area: as it was read */
	size_t xstate_bytes;
	struct x86_fpu *fpu; /* what it has */

	/* The address space. */
	uint64_t cr3;
	uint8_t space; /* of the TLB, as it was when the runner was last used */
	bool ready;    /* it holds pages of that, or none */
	bool stale;    /* and they must be looked at before it runs */
	struct bt_user_region **region; /* ascending */
	unsigned count;
	uint64_t used; /* TSC when it was */
	struct bt_worth worth;
	uint64_t id; /* X86_FL_ID, as user code has left it */
	uint32_t hidden; /* stops in hidden pages, since the last timer interrupt or so */
	/* Some of those that have too many places to stop at, as they were looked at since then; 0: none.
	 * One that has fewer by now is executed by others a little longer. */
	uint64_t crowded[BT_USER_CROWDED];
};

enum bt_runner_stop {
	BT_RUNNER_REQUEST, /* a signal of ours */
	BT_RUNNER_SYSCALL, /* behind an instruction that calls the system */
	BT_RUNNER_FAULT,   /* at an instruction */
	BT_RUNNER_WATCH,   /* at an instruction that is watched */
	BT_RUNNER_INT3,	   /* behind it */
	BT_RUNNER_INT1,	   /* behind it, or at it: some hypervisors below leave RIP there */
	BT_RUNNER_STEP,	   /* behind any other one, with TF */
	BT_RUNNER_STRAY,   /* somewhere in the stub: nobody is to let it go again */
	BT_RUNNER_FULL,	   /* nowhere: the host will not map what it needs; registers are as they were */
	BT_RUNNER_LOST,	   /* it is no more */
};

struct bt_user {
	bool able;	/* this host and this machine can */
	bool force;	/* from the first instruction on, whatever it costs */
	bool wanted;	/* user code is to go on in @now */
	bool paused;	/* by the translator, until the kernel was entered */
	struct bt_runner *now; /* of the address space in use, or NULL */
	_Atomic pid_t running; /* which is not stopped: whoever posts a request sends it a signal */
	struct bt_runner runner[BT_USER_RUNNERS];
	struct xsave_layout layout;
	pid_t thread; /* the tracer of all */
	unsigned telling; /* BT_SCAN_*: what pages were looked at for */
	uint64_t host_xcr0;
	bool cpuid_faults; /* in runners */
	uint64_t fault; /* a page that is to be mapped once the guest has it; or BT_USER_NOWHERE */

	/* Where the thread is; user_place.c. */
	bool bound, claimed; /* no other vCPU's, @bound_cpu is */
	int bound_cpu;
	uint64_t bound_since, ran_last;
	unsigned char *mask; /* what it was before: a cpu_set_t of mask_bytes */
	size_t mask_bytes;

	/* When it pays: in ticks of the host's TSC. */
	uint64_t seen_cr3;
	uint32_t seen, hold; /* samples in a row; wanted before it begins */
	uint64_t calm;	     /* when hold may become less */
};

#define BT_USER_NOWHERE (~0ull)

void bt_user_init(struct bt_vcpu *vcpu);
void bt_user_fini(struct bt_vcpu *vcpu);

/* Privilege 3 was entered, or something changed there. Sets user.wanted. */
void bt_user_resume(struct bt_vcpu *vcpu);
/* Run user code until something has to be done for it, or a request came. False: it cannot be run. */
bool bt_user_run(struct bt_vcpu *vcpu);
/* Let it come to the end that a request asks for. Any thread, behind the request. */
void bt_user_interrupt(struct bt_user *user);
/* Dropped from the TLB: as in direct.h. */
void bt_user_flush(struct bt_vcpu *vcpu);
void bt_user_flush_space(struct bt_vcpu *vcpu, unsigned space);
void bt_user_flush_page(struct bt_vcpu *vcpu, uint64_t linear);
void bt_user_protect(struct bt_vcpu *vcpu, uint64_t gpa);
/* An interrupt is about to be delivered. True: this is an address space with a runner. */
bool bt_user_sample(struct bt_vcpu *vcpu);

/* ---- user_place.c: on which processor of the host; by the vCPU's thread ---- */
#define BT_USER_HOST_CPUS 1024 /* with a higher number none is bound */

bool bt_user_place_init(struct bt_user *user);
void bt_user_place_fini(struct bt_vcpu *vcpu); /* any thread */
/* The runner comes to where the thread is, or is to be. */
void bt_user_bind(struct bt_vcpu *vcpu, struct bt_runner *r);
/* The thread is about to sleep: it may wake up on any processor. */
void bt_user_unbind(struct bt_vcpu *vcpu);
/* Now and then: unbind a thread that has had no runner for some time. */
void bt_user_place_tick(struct bt_vcpu *vcpu);

/* ---- user_worth.c: whether it pays ---- */
void bt_worth_begin(struct bt_runner *r);
/* User code is entered: whether the runner is to execute it, or else the translator. */
bool bt_worth_entered(struct bt_runner *r, bool from_kernel);
/* A timer interrupt finds it computing; @paused: by the translator. False: that does so nearly always. */
bool bt_worth_tick(struct bt_runner *r, bool paused);
/* It has stopped. False: it does so far too often, and the translator goes on. */
bool bt_worth_stopped(struct bt_runner *r);

/* ---- user_runner.c: the process; all in the thread that began it ---- */
int bt_runner_begin(struct bt_runner *r, const struct bt_engine *engine);
void bt_runner_end(struct bt_runner *r); /* any thread */
/* Whether user code's CPUID faults in a runner: arch_prctl(2). */
bool bt_runner_cpuid_can_fault(void);
/* Queue a change of what is mapped. Done by bt_runner_go(), or sooner. False: it is lost. */
bool bt_runner_call(struct bt_runner *r, const struct bt_user_call *call);
/* Do what is queued, and let it go with *r->regs until it stops; then they are new, and *ret_address that of a fault
 * that has one, or BT_USER_NOWHERE. @running: user.running. */
enum bt_runner_stop bt_runner_go(struct bt_runner *r, const struct bt_vcpu *vcpu,
				 _Atomic pid_t *running, uint64_t *ret_address);
/* Processor time that it has had, in nanoseconds. */
uint64_t bt_runner_ran(const struct bt_runner *r);
bool bt_runner_get_fpu(struct bt_runner *r, const struct xsave_layout *layout, struct x86_fpu *ret);
bool bt_runner_set_fpu(struct bt_runner *r, const struct xsave_layout *layout,
		       const struct x86_fpu *fpu);
/* Stop at r->watch from now on. */
bool bt_runner_watch(struct bt_runner *r);
void bt_runner_interrupt(pid_t pid); /* any thread */
/* Another address space is to find nothing of the last one's in the page that is shared; the list goes, too. */
void bt_runner_wipe(struct bt_runner *r);
/* Linux' selectors of 64-bit users, which user code sees in a runner, and of 32-bit code; where its addresses end with
 * four levels (arch/x86/include/asm/segment.h, page_64_types.h). */
#define BT_USER_CS     0x33u
#define BT_USER_SS     0x2bu
#define BT_USER_CODE32 0x23u
#define BT_USER_END    UINT64_C(0x7ffffffff000)
/* The guest's own pages must not be there: where the stub lies. */
#define BT_USER_STUB_LINEAR UINT64_C(0x6f5e00000000)

/* ---- user_map.c: what is mapped there ---- */
/* The page of @linear, and those around it. False: nothing new was. */
bool bt_user_map(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear);
/* The word of a page, 0 where it is not mapped. */
uint32_t bt_user_word(const struct bt_runner *r, uint64_t linear);
/* It is to be written: no longer executable, if it was looked at for that. */
void bt_user_hide(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear);
/* Make the page of @linear, which is hidden, executable, and no longer writable. False: there are too many places to stop at. */
bool bt_user_unhide(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear);
/* It stopped at the instruction at @linear, which it watches. True: no more, as that goes on in a page that was not there
 * when it was looked at, and is none to be stopped at. */
bool bt_user_unwatch(struct bt_vcpu *vcpu, struct bt_runner *r, uint64_t linear);
/* Drop whatever is not what the guest's tables say now. */
void bt_user_revalidate(struct bt_vcpu *vcpu, struct bt_runner *r);
/* Forget all, and unmap it where the runner goes on. */
void bt_user_drop(struct bt_runner *r);

/* ---- user_scan.c ---- */
#define BT_SCAN_XSAVE (1u << 0) /* those that depend on XCR0 */
#define BT_SCAN_CPUID (1u << 1)
#define BT_SCAN_TSC   (1u << 2) /* those that read the counter, and nothing else */

/* Where in a page of code instructions begin that must not be executed as they are; @what is among them. One may go on
 * in the page behind it, @next, which may be NULL. Returns how many there are, of which the first @max are told. */
unsigned bt_user_scan(const uint8_t *page, const uint8_t *next, unsigned what, unsigned max, uint16_t ret_at[]);

/* user_stub.S */
extern const uint8_t bt_user_stub[];
extern const uint32_t bt_user_stub_list_at, bt_user_stub_called_at, bt_user_stub_asked_at, bt_user_stub_iret_at,
	bt_user_stub_bytes;
