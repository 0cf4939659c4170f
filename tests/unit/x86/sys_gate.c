// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_gate.c - interrupts and exceptions through the IDT, IRET back, double and triple faults. */
#include "sys_machine.h"

#define HANDLER 0x9000u

START_TEST(real_mode_frame_and_back)
{
	struct env *e = env_new();
	struct x86_state *s = &e->cpu.s;

	s->idtr = (struct x86_table){ 0, 0x3ff };
	s->seg[X86_CS] = x86_segment_real(&e->cpu, X86_CS, 0x100);
	s->seg[X86_SS] = x86_segment_real(&e->cpu, X86_SS, 0x2000);
	s->gpr[X86_RSP] = 0x1234fffe;
	s->rip = 0x55;
	s->rflags = X86_FL_ONE | X86_FL_IF | X86_FL_TF | X86_FL_CF;
	x86_cpu_sync(&e->cpu);
	env_put(e, 0x21 * 4, 0x80000010, 4);
	ck_assert_int_eq(x86_software_interrupt(&e->cpu, 0x21), X86_STOP);
	ck_assert_uint_eq(s->seg[X86_CS].selector, 0x8000);
	ck_assert_uint_eq(s->seg[X86_CS].base, 0x80000);
	ck_assert_uint_eq(s->rip, 0x10);
	ck_assert_uint_eq(s->gpr[X86_RSP], 0x1234fff8);
	ck_assert_uint_eq(env_get(e, 0x2fff8, 2), 0x55);
	ck_assert_uint_eq(env_get(e, 0x2fffa, 2), 0x100);
	ck_assert_uint_eq(env_get(e, 0x2fffc, 2), 0x303);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_CF);
	ck_assert_int_eq(x86_iret(&e->cpu, 2), X86_STOP);
	ck_assert_uint_eq(s->rip, 0x55);
	ck_assert_uint_eq(s->seg[X86_CS].selector, 0x100);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_IF | X86_FL_TF | X86_FL_CF);
	ck_assert_uint_eq(s->gpr[X86_RSP], 0x1234fffe);
	env_free(e);
}
END_TEST

START_TEST(real_mode_vector_beyond_the_table_shuts_down)
{
	struct env *e = env_new();

	e->cpu.s.idtr = (struct x86_table){ 0, 3 };
	raise_plain(e, X86_UD);
	ck_assert_uint_eq(e->cpu.s.activity, X86_SHUTDOWN);
	env_free(e);
}
END_TEST

START_TEST(protected_same_level_with_error_code)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;

	put_gate32(e, X86_GP, X86_DESC_TRAP32, 0, SEL_CODE0, HANDLER);
	x86_gp(&e->cpu, 0xabc8);
	x86_deliver_fault(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 16);
	ck_assert_uint_eq(stack_at(e, 0, 4), 0xabc8);
	ck_assert_uint_eq(stack_at(e, 1, 4), CODE);
	ck_assert_uint_eq(stack_at(e, 2, 4), SEL_CODE0);
	ck_assert_uint_eq(stack_at(e, 3, 4), X86_FL_ONE | X86_FL_IF | X86_FL_RF);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_IF); /* a trap gate */
	env_free(e);
}
END_TEST

START_TEST(protected_inner_level_and_back)
{
	struct env *e = machine32(3);
	struct x86_state *s = &e->cpu.s;

	s->seg[X86_FS] = x86_segment_null(0, 0);
	put_gate32(e, 0x80, X86_DESC_INT32, 3, SEL_CODE0, HANDLER);
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x80), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert_uint_eq(s->seg[X86_SS].selector, SEL_DATA0);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 20);
	ck_assert_uint_eq(stack_at(e, 0, 4), CODE);
	ck_assert_uint_eq(stack_at(e, 1, 4), SEL_CODE3);
	ck_assert_uint_eq(stack_at(e, 2, 4), X86_FL_ONE | X86_FL_IF);
	ck_assert_uint_eq(stack_at(e, 3, 4), USTACK);
	ck_assert_uint_eq(stack_at(e, 4, 4), SEL_DATA3);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE);
	load_seg(e, X86_DS, SEL_DATA0); /* must not leak outwards */
	s->nmi_masked = true;
	ck_assert_int_eq(x86_iret(&e->cpu, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(s->gpr[X86_RSP], USTACK);
	ck_assert_uint_eq(s->seg[X86_SS].selector, SEL_DATA3);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_IF);
	ck_assert_uint_eq(s->seg[X86_DS].selector, 0);
	ck_assert(s->seg[X86_DS].attr & X86_SEG_UNUSABLE);
	ck_assert_uint_eq(s->seg[X86_ES].selector, SEL_DATA3);
	ck_assert(!s->nmi_masked);
	env_free(e);
}
END_TEST

START_TEST(sixteen_bit_gate_pushes_words)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;

	put_gate32(e, 3, X86_DESC_INT16, 0, SEL_CODE16, 0xffff1234);
	ck_assert_int_eq(x86_software_interrupt(&e->cpu, 3), X86_STOP);
	ck_assert_uint_eq(s->rip, 0x1234);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 6);
	ck_assert_uint_eq(stack_at(e, 1, 2), SEL_CODE0);
	ck_assert_uint_eq(e->cpu.code_bytes, 2);
	/* the accessed bit went to the table */
	ck_assert_uint_eq(env_get(e, GDT + SEL_CODE16 + 5, 1), 0x9b);
	env_free(e);
}
END_TEST

START_TEST(gate_errors_and_their_codes)
{
	struct env *e = machine32(3);

	put_gate32(e, 0x30, X86_DESC_INT32, 0, SEL_CODE0, HANDLER);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x30), X86_GP, 0x30 * 8 + 2);
	put_gate32(e, 0x31, X86_DESC_INT32, 3, 0, HANDLER);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x31), X86_GP, 0);
	put_gate32(e, 0x32, X86_DESC_INT32, 3, SEL_DATA0, HANDLER);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x32), X86_GP, SEL_DATA0);
	put_gate32(e, 0x33, X86_DESC_INT32, 3, 0x1000, HANDLER);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x33), X86_GP, 0x1000);
	put_gate32(e, 0x34, X86_DESC_CALL32, 3, SEL_CODE0, HANDLER);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x34), X86_GP, 0x34 * 8 + 2);
	put_gate32(e, 0x35, X86_DESC_INT32, 3, SEL_CODE0, HANDLER);
	env_put(e, IDT + 0x35 * 8 + 5, 0x6e, 1);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x35), X86_NP, 0x35 * 8 + 2);
	e->cpu.s.idtr.limit = 0x36 * 8 + 6;
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x36), X86_GP, 0x36 * 8 + 2);
	ck_assert_uint_eq(e->cpu.s.rip, CODE);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], USTACK);

	/* from outside: the EXT bit */
	struct x86_event event = { .vector = 0x34 };

	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_GP, 0x34 * 8 + 3);
	env_free(e);
}
END_TEST

START_TEST(handler_stack_errors)
{
	struct env *e = machine32(3);
	struct x86_event event = { .vector = 0x40 };

	put_gate32(e, 0x40, X86_DESC_INT32, 0, SEL_CODE0, HANDLER);
	env_put(e, TSS + 8, 0, 4);
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_TS, 1);
	env_put(e, TSS + 8, SEL_DATA3, 4);
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_TS, (SEL_DATA3 & ~3) | 1);
	env_put(e, TSS + 8, SEL_ABSENT, 4);
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_SS_FAULT, SEL_ABSENT | 1);
	env_put(e, TSS + 8, SEL_SMALL, 4); /* ESP0 lies beyond its limit */
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_SS_FAULT, SEL_SMALL | 1);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], USTACK);
	ck_assert_uint_eq(e->cpu.s.seg[X86_CS].selector, SEL_CODE3);
	e->cpu.s.tr.limit = 8;
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_TS, SEL_TSS | 1);
	env_free(e);
}
END_TEST

START_TEST(contributory_faults_double)
{
	struct env *e = machine32(0);

	/* #GP's gate is empty, #DF's works. */
	put_gate32(e, X86_DF, X86_DESC_INT32, 0, SEL_CODE0, HANDLER);
	x86_gp(&e->cpu, 0x10);
	x86_deliver_fault(&e->cpu);
	ck_assert_uint_eq(e->cpu.s.rip, HANDLER);
	ck_assert_uint_eq(stack_at(e, 0, 4), 0);
	ck_assert_uint_eq(stack_at(e, 1, 4), CODE);

	/* #UD is benign: the #GP of its empty gate is delivered in its stead. */
	put_gate32(e, X86_GP, X86_DESC_INT32, 0, SEL_CODE0, HANDLER + 0x100);
	raise_plain(e, X86_UD);
	ck_assert_uint_eq(e->cpu.s.rip, HANDLER + 0x100);
	ck_assert_uint_eq(stack_at(e, 0, 4), X86_UD * 8 + 3);
	ck_assert_uint_eq(e->cpu.s.activity, X86_RUNNING);
	env_free(e);
}
END_TEST

START_TEST(fault_in_a_double_fault_shuts_down)
{
	struct env *e = machine32(0);

	x86_raise_pf(&e->cpu, 0x1234, 2);
	x86_deliver_fault(&e->cpu);
	ck_assert_uint_eq(e->cpu.s.activity, X86_SHUTDOWN);
	ck_assert_uint_eq(e->cpu.s.cr2, 0x1234);
	env_free(e);
}
END_TEST

START_TEST(v86_interrupt_and_return)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;
	const uint32_t frame[9] = { 0x100, 0x700, X86_FL_VM | X86_FL_IF | X86_FL_IOPL | 2, 0xfff0,
				    0x3000, 0x1111, 0x2222, 0x3333, 0x4444 };

	memcpy(e->ram + STACK - 36, frame, 36);
	s->gpr[X86_RSP] = STACK - 36;
	ck_assert_int_eq(x86_iret(&e->cpu, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(e->cpu.code_bytes, 2);
	ck_assert_uint_eq(s->seg[X86_SS].base, 0x30000);
	ck_assert_uint_eq(s->seg[X86_GS].selector, 0x4444);
	put_gate32(e, 0x21, X86_DESC_INT32, 3, SEL_CODE0, HANDLER);
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x21), X86_STOP);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 36);
	ck_assert_mem_eq(e->ram + STACK - 36, frame, 36);
	ck_assert_uint_eq(s->seg[X86_DS].selector, 0);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert(!(s->rflags & X86_FL_VM));

	/* IOPL below 3: INT n is a #GP, INT3 is not. */
	ck_assert_int_eq(x86_iret(&e->cpu, 4), X86_STOP);
	s->rflags &= ~(uint64_t)X86_FL_IOPL;
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x21), X86_GP, 0);
	put_gate32(e, 3, X86_DESC_INT32, 3, SEL_CODE0, HANDLER);
	ck_assert_int_eq(x86_software_interrupt(&e->cpu, 3), X86_STOP);
	env_free(e);
}
END_TEST

START_TEST(vme_redirects_by_the_bitmap)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;

	s->cr4 = X86_CR4_VME;
	env_put(e, TSS + 0x66, 0x88, 2); /* the map of 32 bytes starts at 0x68, all clear */
	env_put(e, 0x21 * 4, 0x09000042, 4);
	s->rflags = X86_FL_ONE | X86_FL_VM | X86_FL_IF | X86_FL_VIF;
	for (unsigned i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = x86_segment_v86(0x3000);
	s->gpr[X86_RSP] = 0x100;
	s->rip = 0x77;
	x86_cpu_sync(&e->cpu);
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x21), X86_STOP);
	ck_assert_uint_eq(s->rip, 0x42);
	ck_assert_uint_eq(s->seg[X86_CS].base, 0x9000);
	ck_assert(s->rflags & X86_FL_VM);
	ck_assert(s->rflags & X86_FL_IF);
	ck_assert(!(s->rflags & X86_FL_VIF));
	ck_assert_uint_eq(env_get(e, 0x300fe, 2), X86_FL_ONE | X86_FL_IF | X86_FL_IOPL);
	ck_assert_int_eq(x86_iret(&e->cpu, 2), X86_STOP);
	ck_assert_uint_eq(s->rip, 0x77);
	ck_assert(s->rflags & X86_FL_VIF);
	ck_assert_uint_eq(s->rflags & X86_FL_IOPL, 0);

	env_put(e, TSS + 0x68 + 4, 2, 1); /* 0x21 goes to the monitor */
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x21), X86_GP, 0);
	env_free(e);
}
END_TEST

START_TEST(long_mode_frame_is_aligned_and_has_the_stack)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	s->gpr[X86_RSP] = STACK - 0x103;
	put_gate64(e, X86_PF, X86_DESC_INT32, 0, SEL_CODE64, 0xffff800000001234, 0);
	x86_raise_pf(&e->cpu, 0xffff888800000000, 3);
	x86_deliver_fault(&e->cpu);
	ck_assert_uint_eq(s->rip, 0xffff800000001234);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 0x110 - 48);
	ck_assert_uint_eq(stack_at(e, 0, 8), 3);
	ck_assert_uint_eq(stack_at(e, 1, 8), CODE);
	ck_assert_uint_eq(stack_at(e, 2, 8), SEL_CODE64);
	ck_assert_uint_eq(stack_at(e, 4, 8), STACK - 0x103);
	ck_assert_uint_eq(stack_at(e, 5, 8), SEL_DATA0);
	ck_assert_uint_eq(s->cr2, 0xffff888800000000);
	s->gpr[X86_RSP] += 8;
	ck_assert_int_eq(x86_iret(&e->cpu, 8), X86_STOP);
	ck_assert_uint_eq(s->rip, CODE);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 0x103);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_IF | X86_FL_RF);
	env_free(e);
}
END_TEST

START_TEST(long_mode_inner_level_and_ist)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, 0x80, X86_DESC_INT32, 3, SEL_CODE64, HANDLER, 0);
	put_gate64(e, 0x81, X86_DESC_INT32, 3, SEL_CODE64, HANDLER, 1);
	s->seg[X86_DS] = x86_segment_null(3, 3);
	s->seg[X86_FS] = x86_segment_null(2, 3);
	s->seg[X86_FS].base = 0x123456789a;
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x80), X86_STOP);
	ck_assert_uint_eq(s->seg[X86_DS].selector, 3);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert_uint_eq(s->seg[X86_SS].selector, 0);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 40);
	ck_assert_uint_eq(stack_at(e, 3, 8), USTACK);
	ck_assert_uint_eq(stack_at(e, 4, 8), SEL_DATA3);
	ck_assert_int_eq(x86_iret(&e->cpu, 8), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(s->seg[X86_DS].selector, 0); /* a null selector loses its RPL, and no base */
	ck_assert_uint_eq(s->seg[X86_FS].selector, 0);
	ck_assert_uint_eq(s->seg[X86_FS].base, 0x123456789a);
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x81), X86_STOP);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK + 0x1000 - 40);
	env_free(e);
}
END_TEST

START_TEST(compatibility_code_enters_64_bit_handlers)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	load_seg(e, X86_CS, SEL_CODE3);
	x86_update_mode(&e->cpu);
	ck_assert_uint_eq(e->cpu.code_bytes, 4);
	put_gate64(e, 0x80, X86_DESC_TRAP32, 3, SEL_CODE64, HANDLER, 0);
	ck_assert_int_eq(x86_int_n(&e->cpu, 0x80), X86_STOP);
	ck_assert_uint_eq(e->cpu.code_bytes, 8);
	ck_assert_uint_eq(stack_at(e, 1, 8), SEL_CODE3);
	ck_assert_int_eq(x86_iret(&e->cpu, 8), X86_STOP);
	ck_assert_uint_eq(e->cpu.code_bytes, 4);
	ck_assert_uint_eq(s->gpr[X86_RSP], USTACK);
	/* a gate to 32-bit code is none */
	put_gate64(e, 0x82, X86_DESC_TRAP32, 3, SEL_CODE0, HANDLER, 0);
	ASSERT_FAULT(e, x86_int_n(&e->cpu, 0x82), X86_GP, SEL_CODE0);
	env_free(e);
}
END_TEST

START_TEST(push_fault_takes_everything_back)
{
	struct env *e = machine64(3);
	struct x86_event event = { .vector = 0x80 };

	put_gate64(e, 0x80, X86_DESC_INT32, 3, SEL_CODE64, HANDLER, 0);
	env_put(e, TSS + 4, 0x10000000, 8); /* not mapped */
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_PF, 2);
	ck_assert_uint_eq(e->cpu.fault.payload, 0x10000000 - 40);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(e->cpu.s.rip, CODE);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], USTACK);
	ck_assert_uint_eq(e->cpu.tlb_mode, X86_TLB_USER);
	env_put(e, TSS + 4, 0x800000000000, 8); /* not canonical */
	ASSERT_FAULT(e, x86_deliver_event(&e->cpu, &event), X86_SS_FAULT, 1);
	env_free(e);
}
END_TEST

START_TEST(iret_in_long_mode_checks)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;
	uint64_t frame[5] = { 0x800000000000, SEL_CODE64_3, 2, USTACK, SEL_DATA3 };

	s->gpr[X86_RSP] = STACK - 40;
	memcpy(e->ram + STACK - 40, frame, 40);
	ASSERT_FAULT(e, x86_iret(&e->cpu, 8), X86_GP, 0);
	frame[0] = CODE;
	frame[4] = 0; /* null SS is for kernels */
	memcpy(e->ram + STACK - 40, frame, 40);
	ASSERT_FAULT(e, x86_iret(&e->cpu, 8), X86_GP, 0);
	frame[4] = SEL_DATA0;
	memcpy(e->ram + STACK - 40, frame, 40);
	ASSERT_FAULT(e, x86_iret(&e->cpu, 8), X86_GP, SEL_DATA0);
	s->rflags |= X86_FL_NT;
	ASSERT_FAULT(e, x86_iret(&e->cpu, 8), X86_GP, 0);
	s->rflags &= ~(uint64_t)X86_FL_NT;
	frame[1] = SEL_CODE64;
	frame[4] = 0;
	memcpy(e->ram + STACK - 40, frame, 40);
	ck_assert_int_eq(x86_iret(&e->cpu, 8), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert(s->seg[X86_SS].attr & X86_SEG_UNUSABLE);
	env_free(e);
}
END_TEST

START_TEST(flags_a_user_cannot_return_to)
{
	struct env *e = machine32(3);
	struct x86_state *s = &e->cpu.s;
	const uint32_t frame[3] = { CODE + 4, SEL_CODE3, 0x3f7fd7 };

	s->gpr[X86_RSP] = USTACK - 12;
	memcpy(e->ram + USTACK - 12, frame, 12);
	s->rflags = X86_FL_ONE | X86_FL_IF;
	ck_assert_int_eq(x86_iret(&e->cpu, 4), X86_STOP);
	ck_assert_uint_eq(s->rflags & (X86_FL_IOPL | X86_FL_VM | X86_FL_VIP | X86_FL_VIF), 0);
	ck_assert(s->rflags & X86_FL_IF);
	ck_assert(s->rflags & X86_FL_AC);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 gate");
	TCase *tc = tcase_create("delivery");

	tcase_add_test(tc, real_mode_frame_and_back);
	tcase_add_test(tc, real_mode_vector_beyond_the_table_shuts_down);
	tcase_add_test(tc, protected_same_level_with_error_code);
	tcase_add_test(tc, protected_inner_level_and_back);
	tcase_add_test(tc, sixteen_bit_gate_pushes_words);
	tcase_add_test(tc, gate_errors_and_their_codes);
	tcase_add_test(tc, handler_stack_errors);
	tcase_add_test(tc, contributory_faults_double);
	tcase_add_test(tc, fault_in_a_double_fault_shuts_down);
	tcase_add_test(tc, v86_interrupt_and_return);
	tcase_add_test(tc, vme_redirects_by_the_bitmap);
	tcase_add_test(tc, long_mode_frame_is_aligned_and_has_the_stack);
	tcase_add_test(tc, long_mode_inner_level_and_ist);
	tcase_add_test(tc, compatibility_code_enters_64_bit_handlers);
	tcase_add_test(tc, push_fault_takes_everything_back);
	tcase_add_test(tc, iret_in_long_mode_checks);
	tcase_add_test(tc, flags_a_user_cannot_return_to);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
