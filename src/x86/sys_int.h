// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_int.h - what the system half of the core shares: descriptors, events, task switches. */
#pragma once

#include "x86_int.h"

#define X86_DR6_FIXED 0xffff0ff0ull
#define X86_DR6_BD    (1u << 13)
#define X86_DR6_BS    (1u << 14)
#define X86_DR6_BT    (1u << 15)
#define X86_DR7_FIXED 0x400ull
#define X86_DR7_GD    (1u << 13)

#define X86_MISC_ENABLE_RESET 1ull /* fast strings */

/* Selector fields. */
#define X86_SEL_TI   4u
#define X86_SEL_RPL  3u
#define X86_SEL_MASK 0xfffcu /* what an error code names */
/* Error code bits besides the selector, SDM vol. 3 figure "Error Code". */
#define X86_ERR_EXT 1u
#define X86_ERR_IDT 2u

/* System segment types, SDM vol. 3 table "System-Segment and Gate-Descriptor Types". */
enum x86_desc_type {
	X86_DESC_TSS16 = 1, X86_DESC_LDT = 2, X86_DESC_TSS16_BUSY = 3, X86_DESC_CALL16 = 4,
	X86_DESC_TASK = 5, X86_DESC_INT16 = 6, X86_DESC_TRAP16 = 7, X86_DESC_TSS32 = 9,
	X86_DESC_TSS32_BUSY = 11, X86_DESC_CALL32 = 12, X86_DESC_INT32 = 14, X86_DESC_TRAP32 = 15,
};

/* An eight-byte descriptor as it lies in memory; the upper half of a 16-byte one is read apart. */
struct x86_desc {
	uint32_t lo, hi;
};

static inline unsigned x86_desc_attr(const struct x86_desc *d)
{
	return ((d->hi >> 8) & 0xffu) | ((d->hi >> 12) & 0xf00u);
}

static inline unsigned x86_desc_type(const struct x86_desc *d)
{
	return (d->hi >> 8) & 0xfu;
}

static inline bool x86_desc_is_segment(const struct x86_desc *d)
{
	return d->hi & (1u << 12);
}

static inline bool x86_desc_is_code(const struct x86_desc *d)
{
	return (d->hi & (3u << 11)) == (3u << 11);
}

/* Of a code segment. */
static inline bool x86_desc_is_conforming(const struct x86_desc *d)
{
	return d->hi & (1u << 10);
}

static inline bool x86_desc_is_writable_data(const struct x86_desc *d)
{
	return (d->hi & ((3u << 11) | (1u << 9))) == ((1u << 12) | (1u << 9));
}

static inline unsigned x86_desc_dpl(const struct x86_desc *d)
{
	return (d->hi >> 13) & 3u;
}

static inline bool x86_desc_is_present(const struct x86_desc *d)
{
	return d->hi & (1u << 15);
}

static inline uint32_t x86_desc_base(const struct x86_desc *d)
{
	return (d->lo >> 16) | ((d->hi & 0xffu) << 16) | (d->hi & 0xff000000u);
}

static inline uint32_t x86_desc_limit(const struct x86_desc *d)
{
	uint32_t limit = (d->lo & 0xffffu) | (d->hi & 0xf0000u);

	return (d->hi & (1u << 23)) ? (limit << 12) | 0xfffu : limit;
}

static inline bool x86_is_real(const struct x86_cpu *cpu)
{
	return !(cpu->s.cr0 & X86_CR0_PE);
}

static inline bool x86_is_v86(const struct x86_cpu *cpu)
{
	return cpu->s.rflags & X86_FL_VM;
}

static inline bool x86_is_protected(const struct x86_cpu *cpu)
{
	return (cpu->s.cr0 & X86_CR0_PE) && !(cpu->s.rflags & X86_FL_VM);
}

static inline unsigned x86_iopl(const struct x86_cpu *cpu)
{
	return (cpu->s.rflags >> 12) & 3u;
}

/* 48 bits: five-level paging is not offered. */
static inline uint64_t x86_size_mask(unsigned bytes)
{
	return bytes >= 8 ? ~0ull : (1ull << (bytes * 8)) - 1;
}

/* ---- seg.c ---- */
/* Read the descriptor @selector names. A selector outside its table, or in an unusable LDT, raises
 * @vector with the selector and @ext as error code. */
int x86_read_desc(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *ret, uint8_t vector,
		  unsigned ext);
/* Bits 32..63 of the base of a 16-byte descriptor; checks the type bits of its upper half. */
int x86_read_desc_high(struct x86_cpu *cpu, uint16_t selector, uint32_t *ret_base_high,
		       uint8_t vector, unsigned ext);
/* Write byte 5 (type, S, DPL, P) back when @byte5 differs. */
int x86_write_desc_access(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *d,
			  uint32_t hi);
static inline int x86_set_accessed(struct x86_cpu *cpu, uint16_t selector, struct x86_desc *d)
{
	if (d->hi & (1u << 8))
		return X86_NEXT;
	return x86_write_desc_access(cpu, selector, d, d->hi | (1u << 8));
}

/* Fill the hidden part from a descriptor. */
struct x86_segment x86_segment_from_desc(uint16_t selector, const struct x86_desc *d);
struct x86_segment x86_segment_null(uint16_t selector, unsigned dpl);
struct x86_segment x86_segment_real(const struct x86_cpu *cpu, unsigned seg, uint16_t selector);
struct x86_segment x86_segment_v86(uint16_t selector);
/* The checks of a load of SS with privilege @cpl; @vector and @ext tell what a failure raises (#SS
 * for a segment that is not present). Null selectors are the caller's. */
int x86_check_stack_desc(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
			 unsigned ext, struct x86_desc *ret);
/* A data segment (DS, ES, FS, GS): checks and load into *@ret. */
int x86_check_data_segment(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
			   struct x86_segment *ret);
int x86_load_ldtr(struct x86_cpu *cpu, uint16_t selector, uint8_t vector);

/* What counts in the second word of the usual descriptors, once they were used: present, accessed, of 64-bit
 * code that does not conform, or of data that is writable. */
enum x86_desc_usual { X86_DESC_CODE64, X86_DESC_DATA };

/* The descriptor of @selector, where that takes a look at the TLB and no more, and it is this one with a DPL
 * of @dpl. False: find out by the book. */
bool x86_desc_quickly(const struct x86_cpu *cpu, uint16_t selector, enum x86_desc_usual usual,
		      unsigned dpl, struct x86_desc *ret);

/* What x86_update_mode() finds in 64-bit code at privilege @cpl while no debug register and no TF is armed. */
void x86_turn_mode(struct x86_cpu *cpu, unsigned cpl);

/* ---- gate.c ---- */
struct x86_event {
	uint8_t vector;
	bool has_error;
	bool software; /* INT n, INT3, INTO */
	uint32_t error;
};
int x86_deliver_event(struct x86_cpu *cpu, const struct x86_event *event);
/* Stack pointer of the privilege level @cpl from the TSS. */
int x86_tss_stack(struct x86_cpu *cpu, unsigned cpl, unsigned ext, uint16_t *ret_ss,
		  uint64_t *ret_sp);
/* RFLAGS from a stack image by the rules of IRET and POPF. */
uint64_t x86_flags_from_image(const struct x86_cpu *cpu, uint64_t image, unsigned opsize);

/* Where a far return or IRET goes in protected mode, as popped and not yet checked. */
struct x86_return_to {
	uint64_t rip, rsp;
	uint16_t cs, ss;
	bool pops_stack;      /* rsp and ss are valid */
	unsigned drop_bytes;  /* off the old stack, when it stays */
	unsigned extra_bytes; /* off the new one: RET n */
};
int x86_return_protected(struct x86_cpu *cpu, const struct x86_return_to *to);

/* What a transfer of control changes, so that it can be taken back when a push faults. */
struct x86_frame_save {
	struct x86_segment cs, ss;
	uint64_t rsp, rip, rflags;
};
void x86_frame_save(const struct x86_cpu *cpu, struct x86_frame_save *save);
void x86_frame_restore(struct x86_cpu *cpu, const struct x86_frame_save *save);
/* Push @n values of @size bytes, the first one highest. RSP moves only when all of it went well. */
int x86_push_values(struct x86_cpu *cpu, const uint64_t *values, unsigned n, unsigned size);
/* Read the @n-th value of @size bytes from the top of the stack, without popping. */
int x86_peek(struct x86_cpu *cpu, uint64_t offset, unsigned size, uint64_t *ret);
void x86_set_sp(struct x86_cpu *cpu, uint64_t sp);

/* ---- task.c ---- */
enum x86_task_source { X86_TASK_JUMP, X86_TASK_CALL, X86_TASK_INT, X86_TASK_IRET };
/* Switch to the task of the TSS @selector, whose descriptor was read and checked for presence and
 * type by the caller. From the point on where the new task is current, *@ret_committed is true: a
 * fault belongs to it. */
int x86_task_switch(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *desc,
		    enum x86_task_source source, unsigned ext, bool *ret_committed);
/* As x86_task_switch(), from an instruction: a fault in the new task is delivered at once. */
int x86_task_transfer(struct x86_cpu *cpu, uint16_t selector, const struct x86_desc *desc,
		      enum x86_task_source source);

/* ---- cpuid.c ---- */
/* What the model says, without the state of a CPU and the holder's hook. */
void x86_cpuid_plain(const struct x86_cpuid_model *model, uint32_t leaf, uint32_t subleaf,
		     uint32_t r[4]);
bool x86_model_is_amd(const struct x86_cpuid_model *model);

/* ---- mmu.c ---- */
/* MAXPHYADDR, as CPUID 8000_0008 tells it. */
static inline unsigned x86_phys_bits(const struct x86_cpu *cpu)
{
	return X86_PHYS_BITS;
}

/* The reserved bits of the page-directory-pointer entries CR3 would give: false means #GP(0). */
bool x86_pdptes_valid(struct x86_cpu *cpu, uint64_t cr3);
