// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * x86.h - the x86 core: decode, execute, translate addresses, deliver exceptions.
 *
 * Freestanding: no libc beyond memcpy/memset/memcmp, no allocation, no globals, no threads of its
 * own. Memory, ports and the clock are reached through struct x86_cpu_ops. The bt engine runs
 * blocks of decoded instructions with it, the kvm engine finishes single instructions with it, and
 * the kernel module links it.
 *
 * One struct x86_cpu is used by one thread at a time. Atomicity of LOCK against other vCPUs comes
 * from the host's own locked instructions on host pointers to guest RAM.
 */
#pragma once

#include "insn.h"
#include "model.h"
#include "state.h"

#include <stddef.h>

struct x86_cpu;

enum x86_vector {
	X86_DE = 0, X86_DB = 1, X86_NMI = 2, X86_BP = 3, X86_OF = 4, X86_BR = 5, X86_UD = 6,
	X86_NM = 7, X86_DF = 8, X86_TS = 10, X86_NP = 11, X86_SS_FAULT = 12, X86_GP = 13,
	X86_PF = 14, X86_MF = 16, X86_AC = 17, X86_MC = 18, X86_XM = 19,
};

/* Page-fault error code and kind of access, SDM vol. 3 figure "Page-Fault Error Code". */
#define X86_PF_P     (1u << 0)
#define X86_PF_W     (1u << 1)
#define X86_PF_U     (1u << 2)
#define X86_PF_RSVD  (1u << 3)
#define X86_PF_FETCH (1u << 4)

struct x86_fault {
	uint8_t vector;
	bool has_error;
	bool trap;	/* #DB traps, INT3, INTO: RIP already points behind the instruction */
	bool software;	/* INT n, INT3, INTO: gate DPL is checked, error code's EXT is clear */
	uint32_t error;
	uint64_t payload; /* #PF: linear address for CR2; #DB: bits for DR6 */
};

/* An instruction for the host to execute: what of it is not in cpu->s.fpu. */
struct x86_host_op {
	uint8_t mem[64] __attribute__((aligned(64))); /* the memory operand */
	uint64_t gpr;	 /* the general register among the operands */
	uint64_t rflags; /* status flags alone count */
	uint32_t mxcsr;	 /* all exceptions masked */
};

/* What the core asks of whoever holds it. Called in the thread that runs the CPU. */
struct x86_cpu_ops {
	/*
	 * Host address of the 4 KiB page of guest RAM at @gpa, or NULL when it is not RAM.
	 * With @write the page is about to be made writable in the TLB; *ret_direct is set false
	 * when stores to it must be reported one by one through ram_written() (translated code, dirty
	 * log), in which case the TLB must not let them by.
	 */
	uint8_t *(*ram_page)(struct x86_cpu *cpu, uint64_t gpa, bool write, bool *ret_direct);
	/* Optional. The two pages of RAM at @gpa, as the same memory again, one behind the other: for a locked
	 * access that lies on both. Good until the next call. NULL: cannot be had. */
	uint8_t *(*ram_pair)(struct x86_cpu *cpu, const uint64_t gpa[2]);
	/* After a store to a page that is not direct. Returns true when the block being executed may
	 * be stale and must end behind this instruction. */
	bool (*ram_written)(struct x86_cpu *cpu, uint64_t gpa, unsigned len);
	/* @size 1, 2, 4, 8. */
	uint64_t (*mmio_read)(struct x86_cpu *cpu, uint64_t gpa, unsigned size);
	void (*mmio_write)(struct x86_cpu *cpu, uint64_t gpa, unsigned size, uint64_t value);
	uint64_t (*pio_read)(struct x86_cpu *cpu, uint16_t port, unsigned size);
	void (*pio_write)(struct x86_cpu *cpu, uint16_t port, unsigned size, uint64_t value);
	/* Guest TSC, offset applied. set_tsc: WRMSR 0x10 and IA32_TSC_ADJUST. */
	uint64_t (*rdtsc)(struct x86_cpu *cpu);
	void (*set_tsc)(struct x86_cpu *cpu, uint64_t value);
	/* MSRs that the core does not hold itself (local APIC, paravirtual). False: #GP(0). */
	bool (*rdmsr)(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret_value);
	bool (*wrmsr)(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
	uint8_t (*get_cr8)(struct x86_cpu *cpu);
	void (*set_cr8)(struct x86_cpu *cpu, uint8_t cr8);
	/* A look at a CPUID leaf after the model has filled it (eax, ebx, ecx, edx): APIC id,
	 * topology, paravirtual leaves. */
	void (*cpuid)(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);
	/* True when a REP instruction should give way (an interrupt or kick waits). */
	bool (*should_stop)(struct x86_cpu *cpu);
	/* The linear address space changed under the fetch path (CR3, INVLPG, mode...). */
	void (*tlb_flushed)(struct x86_cpu *cpu);
	/* CR3 was written, or the space of a PCID flushed: the one in use is @space (below
	 * X86_TLB_SPACES), and unless @kept, @changed has lost all but global pages of the upper half.
	 * Optional: absent means tlb_flushed(). */
	void (*tlb_switched)(struct x86_cpu *cpu, unsigned space, unsigned changed, bool kept);
	/* Only the page of @linear. Optional: absent means tlb_flushed(). */
	void (*tlb_flushed_page)(struct x86_cpu *cpu, uint64_t linear);
	/* VMCALL or VMMCALL: registers in the state. May be NULL; false: #UD. */
	bool (*hypercall)(struct x86_cpu *cpu);
	/*
	 * Run @insn (for which there is x86_host_info()) on the host, which has it: vector registers and
	 * opmasks are those of cpu->s.fpu, before and behind; the rest is in @op, whichever register or
	 * address the instruction names. It cannot fault. Optional: absent, they raise #UD, and the holder
	 * shows no feature of theirs.
	 */
	void (*host_insn)(struct x86_cpu *cpu, const struct x86_insn *insn, struct x86_host_op *op);
};

/*
 * Softmmu TLB, see x86/tlb.c: a table per kind of access rights, and for all but the kernel's one per
 * address space. A tag is the address of a linear page; one that is not that of a page never matches, nor
 * does 0 but in the first and last slot. host = addend + linear address.
 *
 * A space is what goes by one PCID. Numbers of spaces are reused, the least recent first.
 */
#define X86_TLB_SPACES	    6u /* as many as Linux uses PCIDs at a time */
#define X86_TLB_KERNEL_SIZE 16384u
#define X86_TLB_AC_SIZE	    1024u
#define X86_TLB_USER_SIZE   4096u
#define X86_TLB_LOCAL	    64u
#define X86_TLB_BACK_SETS   4096u
#define X86_TLB_BACK_WAYS   4u

enum x86_tlb_mode {
	X86_TLB_KERNEL,
	X86_TLB_KERNEL_AC,   /* EFLAGS.AC set: SMAP is lifted */
	X86_TLB_USER,
	X86_TLB_SLOW, /* alignment is checked, or DR7 watches data: stays empty, so that each
		       * access takes the slow path with its checks */
	X86_TLB_MODES
};

struct x86_tlb_entry {
	uint64_t read_tag;
	uint64_t write_tag;
	uint64_t addend;
	uint64_t gpa; /* of the page; low bits are private to mem.c */
};

/* All tables, one behind the other; that of X86_TLB_SLOW is one entry. */
#define X86_TLB_TABLES	(2u + 2u * X86_TLB_SPACES)
#define X86_TLB_AC_AT	X86_TLB_KERNEL_SIZE
#define X86_TLB_USER_AT (X86_TLB_AC_AT + X86_TLB_SPACES * X86_TLB_AC_SIZE)
#define X86_TLB_SLOW_AT (X86_TLB_USER_AT + X86_TLB_SPACES * X86_TLB_USER_SIZE)

/* Memory that is zeroed will do: x86_cpu_reset() makes it empty. */
struct x86_tlb {
	struct x86_tlb_entry entry[X86_TLB_SLOW_AT + 1];
	/* Which 64th parts of each table hold anything. */
	uint64_t touched[X86_TLB_TABLES];
	/* Entries that may write, by guest-physical page: for x86_tlb_protect(). */
	uint32_t back[X86_TLB_BACK_SETS][X86_TLB_BACK_WAYS];
};

struct x86_tlb_space {
	uint16_t pcid;
	bool used;
	uint32_t last; /* when it was switched to */
	/* 2 MiB pages it holds pieces of: a bit per page number modulo 1024. */
	uint64_t large[16];
};

/* Width of physical addresses, as CPUID leaf 0x80000008 says it. */
#define X86_PHYS_BITS 46u

struct x86_cpu {
	struct x86_state s; /* first: a translator addresses it from here */

	/* Derived from s; recomputed by x86_cpu_sync() and by every instruction that changes them. */
	uint8_t code_bytes;  /* 2, 4 or 8: default operand size, 8 in 64-bit mode */
	uint8_t stack_bytes; /* 2, 4 or 8 */
	uint8_t cpl;
	uint8_t tlb_mode; /* enum x86_tlb_mode of explicit data accesses */
	bool long_mode;	  /* EFER.LMA */
	bool flat;	  /* DS, ES, SS have base 0 and need no limit check */
	/* A processor that shares the guest's page tables marks PDPTEs of PAE paging accessed, which the
	 * manual does not know (QEMU's does, under nested paging). Set by the holder. */
	bool pdptes_accessed;

	struct x86_fault fault; /* valid after X86_FAULT */
	/* ram_written() asked for the end of the block. A REP instruction takes it, and gives way; a
	 * run loop that does not make ram_written() itself end the block looks at it behind each
	 * instruction, and clears it. */
	bool stop_requested;

	/* Slots of the kernel's table with pages that are not global: what a write to CR3 drops. */
	uint16_t tlb_local[X86_TLB_LOCAL];
	uint16_t tlb_local_count; /* above X86_TLB_LOCAL: too many, drop all */
	bool fetch_global; /* x86_fetch_address(): in a global page of the upper half */
	struct x86_tlb_space space[X86_TLB_SPACES];
	uint8_t space_now;
	uint32_t space_clock;
	bool tlb_foreign;	/* global pages of the lower half are in */
	uint64_t tlb_large[16]; /* as space.large, of the upper half in all spaces */
	/* Linear ranges that hold all other pages that are not of 4 KiB, lower and upper half. */
	struct {
		uint64_t first, last; /* first > last: none */
	} tlb_huge[2];

	/* Some opmask, ZMM16 to 31, or a byte of another register above the 32nd may not be zero: what runs
	 * instructions of AVX-512 sets it first. */
	bool wide;

	uint64_t features; /* bit per enum x86_feature that the model offers: x86_features() */

	/* Debug registers, see debug.c. Run loops test debug_armed once a block: while it is set they go
	 * by x86_step(), which finds breakpoints and TF. */
	bool debug_armed;
	bool debug_data;	/* DR7 watches data or ports: mem.c calls x86_debug_data() */
	uint32_t debug_pending; /* DR6 bits of traps that wait for the end of the instruction */

	/* A read of a device has no answer yet: its holder sets it in mmio_read() or pio_read(). The
	 * instruction then ends as if it had faulted, x86_step() returns X86_REPEAT with it set, and the
	 * holder clears it, and starts the instruction anew when it can answer. */
	bool device_waits;

	bool retired; /* x86_step(): its instruction completed, traps included */
	bool by_the_book; /* events and IRET take no short way. For tests: the holder's to set */

	/* MONITOR: armed address, or ~0. */
	uint64_t monitor_gpa;

	const struct x86_cpu_ops *ops; /* borrowed */
	/* Of the holder: what of guest RAM lies at 0 and in one piece, page tables are read there without
	 * ram_page(). Whole pages; no bytes where there is no such. */
	const uint8_t *ram;
	uint64_t ram_bytes;
	struct x86_tlb *tlb;	       /* borrowed, given by the holder */
	const struct x86_tlb_entry *tlb_table; /* of tlb_mode and space_now */
	uint64_t tlb_mask; /* bytes: what of a page number * sizeof entry counts in tlb_table */
	const struct x86_cpuid_model *model; /* borrowed */
};

/* Reset state, empty TLB, derived fields set. ops, tlb and model are the caller's, set before. */
void x86_cpu_reset(struct x86_cpu *cpu);
/* After cpu->s was written from outside: derived fields, TLB. */
void x86_cpu_sync(struct x86_cpu *cpu);

/*
 * Decode one instruction from @bytes (@avail of them, more than 15 never needed) for a CPU whose code
 * size is @code_bytes (2, 4, 8). Returns its length, 0 when @avail is too short, or a negative
 * enum x86_vector: -X86_UD, or -X86_GP when longer than 15 bytes.
 */
int x86_decode(const uint8_t *bytes, size_t avail, unsigned code_bytes, struct x86_insn *ret);

/* Let @insn raise #UD where the model lacks its feature. After each x86_decode(). */
void x86_insn_restrict(const struct x86_cpu *cpu, struct x86_insn *insn);
/* It reads or writes struct x86_fpu. */
bool x86_insn_is_floating(const struct x86_insn *insn);

/* Fetch, decode and execute one instruction, deliver what it raises. Returns X86_NEXT, X86_JUMP or
 * X86_STOP; X86_REPEAT when a REP gave way; activity X86_SHUTDOWN after a triple fault. */
int x86_step(struct x86_cpu *cpu);

/* Deliver cpu->fault through the IDT, double and triple faults included. Always leaves the CPU at an
 * instruction boundary or in X86_SHUTDOWN. RIP must be that of the faulting instruction (of the next
 * one for traps). */
void x86_deliver_fault(struct x86_cpu *cpu);
/* Deliver an external interrupt or NMI. The caller has checked IF, shadow and masks. */
void x86_deliver_interrupt(struct x86_cpu *cpu, uint8_t vector);
void x86_deliver_nmi(struct x86_cpu *cpu);

/* Linear to physical with the rights of @access (X86_PF_W, X86_PF_U, X86_PF_FETCH). X86_NEXT, or
 * X86_FAULT with cpu->fault set. Sets accessed and dirty bits. */
int x86_translate(struct x86_cpu *cpu, uint64_t linear, unsigned access, uint64_t *ret_gpa);

/*
 * Where the next instruction lies: linear address, and GPA of it through the TLB. X86_FAULT for a
 * fetch fault (#PF, #GP for a non-canonical or out-of-limit RIP).
 */
int x86_fetch_address(struct x86_cpu *cpu, uint64_t *ret_linear, uint64_t *ret_gpa);
/* Copy up to @max (<= 15) code bytes at RIP, as far as they can be fetched without fault. Returns
 * how many; 0 with cpu->fault set when not even the first can. *ret_host: where they lie, and where those
 * of the next page do; NULL: not in RAM, or not touched. */
int x86_fetch_bytes(struct x86_cpu *cpu, uint8_t *buf, unsigned max, const uint8_t *ret_host[2]);

/* Must follow each change of translation from outside. */
void x86_tlb_flush(struct x86_cpu *cpu);
void x86_tlb_flush_page(struct x86_cpu *cpu, uint64_t linear);
/*
 * Let the TLB know the page of an explicit data access that has missed, where that takes neither a
 * fault nor anything a device would see. @tag: what the entry's tag must be for the access, as in
 * softmmu.h. True: it is now.
 */
bool x86_tlb_fill(struct x86_cpu *cpu, uint64_t linear, uint64_t tag, bool write);
/* Drop write rights to one guest-physical page: its stores have to be reported from now on. */
void x86_tlb_protect(struct x86_cpu *cpu, uint64_t gpa);

/* CPUID by cpu->model, which model.h describes. */
void x86_cpuid(struct x86_cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4]);
/* For a holder's cpuid hook: APIC id and topology of one package of @cpus single-threaded cores into
 * what the model filled (leaves 1, 4, 0xb, 8000_0001, 8000_0008, 8000_001D, 8000_001E). */
void x86_cpuid_topology(uint32_t leaf, uint32_t subleaf, uint32_t apic_id, uint32_t cpus,
			uint32_t regs[4]);
/* RDMSR/WRMSR without the privilege check. False: #GP(0). */
bool x86_rdmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t *ret_value);
bool x86_wrmsr(struct x86_cpu *cpu, uint32_t msr, uint64_t value);
