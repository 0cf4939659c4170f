// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_machine.h - a protected-mode or long-mode machine with tables, for tests of transfers. */
#pragma once

#include "sys_env.h"

#define GDT   0x1000u
#define IDT   0x2000u
#define TSS   0x3000u
#define TSS_B 0x3100u
#define LDT   0x3400u
#define CODE  0x8000u  /* where RIP starts */
#define STACK 0x20000u /* of privilege 0 */
#define USTACK 0x30000u
#define PML4  0x200000u

/* Selectors. Code and data of each privilege, 32-bit, flat, unless said otherwise. */
enum {
	SEL_CODE0 = 0x08, SEL_DATA0 = 0x10, SEL_CODE3 = 0x1b, SEL_DATA3 = 0x23,
	SEL_CODE64 = 0x28, SEL_CODE64_3 = 0x33, SEL_TSS = 0x38, SEL_TSS_HIGH = 0x40,
	SEL_TSS_B = 0x48,
	SEL_LDT = 0x50, SEL_CONFORMING = 0x58, SEL_ABSENT = 0x60, SEL_GATE = 0x68,
	SEL_GATE_HIGH = 0x70, SEL_CODE1 = 0x79, SEL_DATA1 = 0x81, SEL_CODE16 = 0x88,
	SEL_SMALL = 0x90, SEL_TASKGATE = 0x98, SEL_TSS16 = 0xa0, SEL_EXEC_ONLY = 0xa8,
	GDT_BYTES = 0x100
};

#define ATTR(type, dpl) (0x8000u | (dpl) << 13 | (type) << 8)
#define SEG(type, dpl)	ATTR((type) | 0x10u, dpl)
#define BIG		0xc00000u /* G, D */

static inline void put_desc(struct env *e, unsigned selector, uint32_t base, uint32_t limit,
			    uint32_t hi)
{
	uint64_t at = GDT + (selector & ~7u);

	env_put(e, at, (limit & 0xffff) | base << 16, 4);
	env_put(e, at + 4, hi | (limit & 0xf0000) | (base >> 16 & 0xff) | (base & 0xff000000), 4);
}

static inline void put_gate32(struct env *e, unsigned vector, unsigned type, unsigned dpl,
			      uint16_t selector, uint32_t offset)
{
	env_put(e, IDT + vector * 8, (offset & 0xffff) | (uint32_t)selector << 16, 4);
	env_put(e, IDT + vector * 8 + 4, (offset & 0xffff0000) | ATTR(type, dpl), 4);
}

static inline void put_gate64(struct env *e, unsigned vector, unsigned type, unsigned dpl,
			      uint16_t selector, uint64_t offset, unsigned ist)
{
	uint64_t at = IDT + vector * 16;

	env_put(e, at, (offset & 0xffff) | (uint32_t)selector << 16, 4);
	env_put(e, at + 4, (offset & 0xffff0000) | ATTR(type, dpl) | ist, 4);
	env_put(e, at + 8, offset >> 32, 8);
}

static inline void put_gdt(struct env *e)
{
	put_desc(e, SEL_CODE0, 0, 0xfffff, SEG(0xb, 0) | BIG);
	put_desc(e, SEL_DATA0, 0, 0xfffff, SEG(3, 0) | BIG);
	put_desc(e, SEL_CODE3, 0, 0xfffff, SEG(0xb, 3) | BIG);
	put_desc(e, SEL_DATA3, 0, 0xfffff, SEG(3, 3) | BIG);
	put_desc(e, SEL_CODE64, 0, 0xfffff, SEG(0xb, 0) | 0xa00000);
	put_desc(e, SEL_CODE64_3, 0, 0xfffff, SEG(0xb, 3) | 0xa00000);
	put_desc(e, SEL_TSS, TSS, 0xff, ATTR(11, 0));
	put_desc(e, SEL_TSS_B, TSS_B, 0x67, ATTR(9, 0));
	put_desc(e, SEL_LDT, LDT, 0xff, ATTR(2, 0));
	put_desc(e, SEL_CONFORMING, 0, 0xfffff, SEG(0xf, 0) | BIG);
	put_desc(e, SEL_ABSENT, 0, 0xfffff, (SEG(3, 0) | BIG) & ~0x8000u);
	put_desc(e, SEL_CODE1, 0, 0xfffff, SEG(0xb, 1) | BIG);
	put_desc(e, SEL_DATA1, 0, 0xfffff, SEG(3, 1) | BIG);
	put_desc(e, SEL_CODE16, 0, 0xffff, SEG(0xa, 0)); /* not accessed yet */
	put_desc(e, SEL_SMALL, 0, 0x1fff, SEG(3, 0) | 0x400000);
	put_desc(e, SEL_EXEC_ONLY, 0, 0xfffff, SEG(9, 3) | BIG);
}

static inline void load_seg(struct env *e, unsigned seg, unsigned selector)
{
	struct x86_desc d;

	memcpy(&d, e->ram + GDT + (selector & ~7u), 8);
	e->cpu.s.seg[seg] = x86_segment_from_desc((uint16_t)selector, &d);
}

/* Protected mode without paging at privilege @cpl (0 or 3). */
static inline struct env *machine32(unsigned cpl)
{
	struct env *e = env_new();
	struct x86_state *s = &e->cpu.s;

	put_gdt(e);
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
	s->gdtr = (struct x86_table){ GDT, GDT_BYTES - 1 };
	s->idtr = (struct x86_table){ IDT, 0x7ff };
	s->tr = (struct x86_segment){ TSS, 0xff, SEL_TSS, 0x8b };
	env_put(e, TSS + 4, STACK, 4);
	env_put(e, TSS + 8, SEL_DATA0, 4);
	env_put(e, TSS + 12, STACK - 0x8000, 4);
	env_put(e, TSS + 16, SEL_DATA1, 4);
	env_put(e, TSS + 0x66, 0x68, 2);
	load_seg(e, X86_CS, cpl ? SEL_CODE3 : SEL_CODE0);
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		if (i != X86_CS)
			load_seg(e, i, cpl ? SEL_DATA3 : SEL_DATA0);
	s->rip = CODE;
	s->gpr[X86_RSP] = cpl ? USTACK : STACK;
	s->rflags = X86_FL_ONE | X86_FL_IF;
	x86_cpu_sync(&e->cpu);
	return e;
}

/* 64-bit code at privilege @cpl; everything is mapped one to one, for everybody. */
static inline struct env *machine64(unsigned cpl)
{
	struct env *e = machine32(cpl);
	struct x86_state *s = &e->cpu.s;

	env_put(e, PML4, (PML4 + 0x1000) | 7, 8);
	env_put(e, PML4 + 0x1000, (PML4 + 0x2000) | 7, 8);
	for (unsigned i = 0; i < 2; i++)
		env_put(e, PML4 + 0x2000 + i * 8, i * 0x200000u | 0x87, 8);
	memset(e->ram + TSS, 0, 0x100);
	env_put(e, TSS + 4, STACK, 8);
	env_put(e, TSS + 36, STACK + 0x1008, 8); /* IST1, not aligned */
	s->cr3 = PML4;
	s->cr4 = X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
	s->cr0 |= X86_CR0_PG | X86_CR0_WP;
	s->idtr.limit = 0xfff;
	load_seg(e, X86_CS, cpl ? SEL_CODE64_3 : SEL_CODE64);
	x86_cpu_sync(&e->cpu);
	return e;
}

static inline uint64_t stack_at(struct env *e, unsigned i, unsigned size)
{
	return env_get(e, e->cpu.s.gpr[X86_RSP] + i * size, size);
}

static inline void raise_plain(struct env *e, unsigned vector)
{
	x86_raise(&e->cpu, (uint8_t)vector);
	x86_deliver_fault(&e->cpu);
}

#define ASSERT_FAULT(e, r, vec, err)                                                               \
	do {                                                                                       \
		ck_assert_int_eq(r, X86_FAULT);                                                    \
		ck_assert_uint_eq((e)->cpu.fault.vector, vec);                                     \
		ck_assert_uint_eq((e)->cpu.fault.error, err);                                      \
	} while (0)

static inline int run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed != 0;
}
