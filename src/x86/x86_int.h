// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* x86_int.h - what the files of the x86 core share among themselves. */
#pragma once

#include "x86.h"

/* ---- raising: each fills cpu->fault and returns X86_FAULT ---- (fault.c) */
int x86_raise(struct x86_cpu *cpu, uint8_t vector);			  /* no error code */
int x86_raise_error(struct x86_cpu *cpu, uint8_t vector, uint32_t error); /* with one */
int x86_raise_pf(struct x86_cpu *cpu, uint64_t linear, uint32_t error);
#define x86_ud(cpu)	 x86_raise(cpu, X86_UD)
#define x86_gp(cpu, err) x86_raise_error(cpu, X86_GP, err)

static inline bool x86_is_canonical(uint64_t linear)
{
	return (uint64_t)((int64_t)(linear << 16) >> 16) == linear;
}

/* ---- memory operands ---- (mem.c)
 * Offsets are within segment @seg: limits, canonical form, paging and rights of the current CPL are
 * checked; page crossings and MMIO handled. All return X86_NEXT or X86_FAULT. @len 1..64. */
uint64_t x86_ea(const struct x86_cpu *cpu, const struct x86_insn *insn);
int x86_read(struct x86_cpu *cpu, unsigned seg, uint64_t off, void *buf, unsigned len);
int x86_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, const void *buf, unsigned len);
/* Check that all of it could be written, without writing (read-modify-write, FXSAVE...). */
int x86_probe_write(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len);
/* Segment base and checks applied: the linear address. */
int x86_linear(struct x86_cpu *cpu, unsigned seg, uint64_t off, unsigned len, bool write,
	       uint64_t *ret_linear);
/* The r/m memory operand of @insn. */
static inline int x86_load_rm(struct x86_cpu *cpu, const struct x86_insn *insn, void *buf,
			      unsigned len)
{
	return x86_read(cpu, insn->seg, x86_ea(cpu, insn), buf, len);
}

static inline int x86_store_rm(struct x86_cpu *cpu, const struct x86_insn *insn, const void *buf,
			       unsigned len)
{
	return x86_write(cpu, insn->seg, x86_ea(cpu, insn), buf, len);
}

/* Implicit supervisor accesses to linear addresses: descriptor tables, TSS, IDT, gates' stacks when
 * @user is false. */
int x86_read_sys(struct x86_cpu *cpu, uint64_t linear, void *buf, unsigned len);
int x86_write_sys(struct x86_cpu *cpu, uint64_t linear, const void *buf, unsigned len);

/* Fetch and decode the instruction at RIP, features of the model regarded (x86_insn_restrict()). Its
 * length, or 0 with cpu->fault set. */
int x86_fetch_insn(struct x86_cpu *cpu, struct x86_insn *insn);

/* ---- paging ---- (mmu.c) */
struct x86_walk {
	uint64_t gpa;	    /* of the byte asked for */
	unsigned page_bits; /* 12, 21, 22 or 30 */
	bool writable;	    /* a store with the same privilege may pass without another walk
			     * (permission granted and dirty bit set) */
	bool user, executable, global;
};
/* @access: X86_PF_W, X86_PF_U, X86_PF_FETCH. Without paging: identity. A SMAP check applies to
 * supervisor data accesses unless @smap_lifted. */
int x86_walk(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
	     struct x86_walk *ret);
/* The entries that a walk went through, from the root's on; none without paging. */
struct x86_path {
	unsigned steps;
	uint64_t gpa[4];
	uint64_t entry[4]; /* accessed and dirty bits as they are now */
};
/* As x86_walk(), for who mirrors the guest's tables. */
int x86_walk_path(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
		  struct x86_walk *ret, struct x86_path *ret_path);
/* As x86_walk() where it succeeds and no store has to be reported; false: nothing was done. */
bool x86_walk_quietly(struct x86_cpu *cpu, uint64_t linear, unsigned access, bool smap_lifted,
		      struct x86_walk *ret);
/* Guest-physical access by the walker; false when it is not RAM (reads give all ones). */
bool x86_phys_read(struct x86_cpu *cpu, uint64_t gpa, void *buf, unsigned len);

/* ---- derived state ---- (state.c) */
uint64_t x86_features(struct x86_cpu *cpu); /* features.c; for cpu->features, on reset and sync */
/* @feature: enum x86_feature of insns.h. */
static inline bool x86_has_feature(const struct x86_cpu *cpu, unsigned feature)
{
	return cpu->features >> feature & 1;
}

void x86_wide_sync(struct x86_cpu *cpu); /* cpu->wide, after the registers were written: xsave.c */
/* Extended component @i of XSAVE, 2 or 5 to 7: its size, and its place in the standard format (cpuid.c). */
unsigned x86_xsave_bytes(unsigned i);
unsigned x86_xsave_offset(const struct x86_cpuid_model *model, unsigned i);
void x86_update_mode(struct x86_cpu *cpu); /* after CS, SS, CR0, CR4, EFER, RFLAGS.AC/VM, CPL */

/* CR0.AM, EFLAGS.AC and privilege 3 together make unaligned accesses raise #AC. */
static inline bool x86_checks_alignment(const struct x86_cpu *cpu)
{
	return cpu->cpl == 3 && (cpu->s.cr0 & X86_CR0_AM) && (cpu->s.rflags & X86_FL_AC);
}

/* The rights of an explicit data access, where cpu->tlb_mode may say X86_TLB_SLOW. */
static inline unsigned x86_rights_mode(const struct x86_cpu *cpu)
{
	if (cpu->cpl == 3)
		return X86_TLB_USER;
	return (cpu->s.rflags & X86_FL_AC) ? X86_TLB_KERNEL_AC : X86_TLB_KERNEL;
}

/* ---- TLB ---- (tlb.c) */
/* CR3 was written with @pcid, 0 where there are none; @keep: what the TLB knows of it is still good. */
void x86_tlb_switch(struct x86_cpu *cpu, uint16_t pcid, bool keep);
/* INVPCID: one address of @pcid, all of @pcid, all but global pages. */
void x86_tlb_flush_pcid_page(struct x86_cpu *cpu, uint16_t pcid, uint64_t linear);
void x86_tlb_flush_pcid(struct x86_cpu *cpu, uint16_t pcid);
void x86_tlb_flush_local(struct x86_cpu *cpu);
/* cpu->tlb_table, after tlb_mode or the space changed. */
void x86_tlb_select(struct x86_cpu *cpu);

/* ---- debug registers, single step ---- (debug.c) */
void x86_debug_update(struct x86_cpu *cpu); /* after DR7 or RFLAGS.TF */
/* Instruction breakpoint at RIP: X86_NEXT, or X86_FAULT with a #DB. */
int x86_debug_fetch(struct x86_cpu *cpu, uint64_t linear);
/* A data access went through; notes what it hit. Only needed while cpu->debug_data. */
void x86_debug_data(struct x86_cpu *cpu, uint64_t linear, unsigned len, bool write);
void x86_debug_port(struct x86_cpu *cpu, uint16_t port, unsigned len);
/* Behind an instruction that has completed: deliver its traps (data breakpoints, TF as it was
 * before the instruction). True when one was delivered. */
bool x86_debug_trap(struct x86_cpu *cpu, bool single_step);

/* ---- privileged bits shared by several files ---- */
int x86_load_segment(struct x86_cpu *cpu, unsigned seg, uint16_t selector); /* seg.c: MOV/POP Sreg */
int x86_far_jump(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize);
int x86_far_call(struct x86_cpu *cpu, uint16_t selector, uint64_t offset, unsigned opsize);
int x86_far_return(struct x86_cpu *cpu, unsigned opsize, unsigned pop_bytes);
int x86_iret(struct x86_cpu *cpu, unsigned opsize);
/* INT3 and INTO: vectors 3 and 4 through the IDT, with the check of the gate's DPL (gate.c). */
int x86_software_interrupt(struct x86_cpu *cpu, uint8_t vector);
/* INT n: the same, with the rules of virtual-8086 mode before. */
int x86_int_n(struct x86_cpu *cpu, uint8_t vector);
/* RFLAGS by POPF/IRET rules: only the bits the CPL and IOPL allow. */
int x86_io_check(struct x86_cpu *cpu, uint16_t port, unsigned size); /* IOPL, TSS I/O bitmap */
/* #NM, #UD, #MF rules before x87/MMX/SSE/AVX instructions (fpu.c). */
int x86_check_x87(struct x86_cpu *cpu);
int x86_check_mmx(struct x86_cpu *cpu);
int x86_check_sse(struct x86_cpu *cpu);
int x86_check_avx(struct x86_cpu *cpu);
