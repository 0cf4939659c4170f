// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_far.c - segment loads, far transfers, call gates, task switches, questions about
 * descriptors. */
#include "sys_machine.h"

#include "insns.h"

#define TARGET 0x9000u

static void put_call_gate32(struct env *e, unsigned selector, unsigned type, unsigned dpl,
			    uint16_t target, uint32_t offset, unsigned params)
{
	uint64_t at = GDT + (selector & ~7u);

	env_put(e, at, (offset & 0xffff) | (uint32_t)target << 16, 4);
	env_put(e, at + 4, (offset & 0xffff0000) | ATTR(type, dpl) | params, 4);
}

START_TEST(data_segment_rules)
{
	struct env *e = machine32(3);
	struct x86_state *s = &e->cpu.s;

	ck_assert_int_eq(x86_load_segment(&e->cpu, X86_DS, SEL_DATA3), X86_NEXT);
	ck_assert_int_eq(x86_load_segment(&e->cpu, X86_DS, SEL_CONFORMING | 3), X86_NEXT);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_DS, SEL_DATA0 | 3), X86_GP, SEL_DATA0);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_DS, SEL_EXEC_ONLY | 3), X86_GP,
		     SEL_EXEC_ONLY);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_DS, SEL_TSS), X86_GP, SEL_TSS);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_DS, GDT_BYTES), X86_GP, GDT_BYTES);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_DS, 0x0c), X86_GP, 0x0c); /* no LDT */
	ck_assert_int_eq(x86_load_segment(&e->cpu, X86_DS, 3), X86_NEXT);
	ck_assert(s->seg[X86_DS].attr & X86_SEG_UNUSABLE);
	ck_assert(!e->cpu.flat);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_SS, 0), X86_GP, 0);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_SS, SEL_DATA0 | 3), X86_GP, SEL_DATA0);
	env_free(e);

	e = machine32(0);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_ES, SEL_ABSENT), X86_NP, SEL_ABSENT);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_SS, SEL_ABSENT), X86_SS_FAULT, SEL_ABSENT);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_SS, SEL_CODE0), X86_GP, SEL_CODE0);
	env_free(e);
}
END_TEST

START_TEST(null_stack_in_64_bit_kernels_only)
{
	struct env *e = machine64(0);

	ck_assert_int_eq(x86_load_segment(&e->cpu, X86_SS, 0), X86_NEXT);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_SS, 3), X86_GP, 0);
	env_free(e);
}
END_TEST

START_TEST(far_jump_checks)
{
	struct env *e = machine32(3);

	ASSERT_FAULT(e, x86_far_jump(&e->cpu, 0, 0, 4), X86_GP, 0);
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_CODE0, 0, 4), X86_GP, SEL_CODE0);
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_DATA3, 0, 4), X86_GP, SEL_DATA3 & ~3);
	ck_assert_int_eq(x86_far_jump(&e->cpu, SEL_CONFORMING, TARGET, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(e->cpu.s.seg[X86_CS].selector, SEL_CONFORMING | 3);
	ck_assert_int_eq(x86_far_jump(&e->cpu, SEL_CODE3, 0x1234567, 2), X86_STOP);
	ck_assert_uint_eq(e->cpu.s.rip, 0x4567);
	env_free(e);

	e = machine32(0);
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_CODE16, 0x12345, 4), X86_GP, 0);
	env_free(e);
}
END_TEST

START_TEST(call_gate_copies_parameters_and_ret_drops_them)
{
	struct env *e = machine32(3);
	struct x86_state *s = &e->cpu.s;

	put_call_gate32(e, SEL_GATE, X86_DESC_CALL32, 3, SEL_CODE0, TARGET, 3);
	s->gpr[X86_RSP] = USTACK - 12;
	for (unsigned i = 0; i < 3; i++)
		env_put(e, USTACK - 12 + i * 4, 0x11110000 + i, 4);
	ck_assert_int_eq(x86_far_call(&e->cpu, SEL_GATE | 3, 0xdead, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert_uint_eq(s->rip, TARGET);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 7 * 4);
	ck_assert_uint_eq(stack_at(e, 0, 4), CODE);
	ck_assert_uint_eq(stack_at(e, 1, 4), SEL_CODE3);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(stack_at(e, 2 + i, 4), 0x11110000 + i);
	ck_assert_uint_eq(stack_at(e, 5, 4), USTACK - 12);
	ck_assert_uint_eq(stack_at(e, 6, 4), SEL_DATA3);
	ck_assert_int_eq(x86_far_return(&e->cpu, 4, 12), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(s->rip, CODE);
	ck_assert_uint_eq(s->gpr[X86_RSP], USTACK);
	env_free(e);
}
END_TEST

START_TEST(call_gate_privilege)
{
	struct env *e = machine32(3);

	put_call_gate32(e, SEL_GATE, X86_DESC_CALL32, 2, SEL_CODE0, TARGET, 0);
	ASSERT_FAULT(e, x86_far_call(&e->cpu, SEL_GATE | 3, 0, 4), X86_GP, SEL_GATE);
	put_call_gate32(e, SEL_GATE, X86_DESC_CALL32, 3, SEL_CODE0, TARGET, 0);
	/* a jump cannot change privilege */
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_GATE | 3, 0, 4), X86_GP, SEL_CODE0);
	put_call_gate32(e, SEL_GATE, X86_DESC_CALL16, 3, SEL_CODE1, 0x12345678, 0);
	ck_assert_int_eq(x86_far_call(&e->cpu, SEL_GATE | 3, 0, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 1);
	ck_assert_uint_eq(e->cpu.s.rip, 0x5678);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], STACK - 0x8000 - 8);
	ck_assert_uint_eq(stack_at(e, 1, 2), SEL_CODE3);
	env_free(e);
}
END_TEST

START_TEST(call_gate_of_64_bits)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	put_call_gate32(e, SEL_GATE, X86_DESC_CALL32, 3, SEL_CODE64, TARGET, 0);
	env_put(e, GDT + SEL_GATE_HIGH, 0xffff8000, 8);
	ck_assert_int_eq(x86_far_call(&e->cpu, SEL_GATE | 3, 0, 4), X86_STOP);
	ck_assert_uint_eq(s->rip, 0xffff800000000000 | TARGET);
	ck_assert_uint_eq(s->gpr[X86_RSP], STACK - 32);
	ck_assert_uint_eq(stack_at(e, 1, 8), SEL_CODE64_3);
	ck_assert_uint_eq(stack_at(e, 2, 8), USTACK);
	ck_assert_uint_eq(s->seg[X86_SS].selector, 0);
	ck_assert_int_eq(x86_far_return(&e->cpu, 8, 0), X86_STOP);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(s->gpr[X86_RSP], USTACK);
	/* a task in long mode */
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_TSS_B | 3, 0, 4), X86_GP, SEL_TSS_B);
	env_put(e, GDT + SEL_GATE_HIGH + 4, 0x0100, 4); /* looks like a descriptor */
	ASSERT_FAULT(e, x86_far_call(&e->cpu, SEL_GATE | 3, 0, 4), X86_GP, SEL_GATE);
	env_free(e);
}
END_TEST

START_TEST(far_return_cannot_go_inwards)
{
	struct env *e = machine32(3);
	const uint32_t frame[2] = { TARGET, SEL_CODE0 };

	e->cpu.s.gpr[X86_RSP] = USTACK - 8;
	memcpy(e->ram + USTACK - 8, frame, 8);
	ASSERT_FAULT(e, x86_far_return(&e->cpu, 4, 0), X86_GP, SEL_CODE0);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], USTACK - 8);
	env_free(e);
}
END_TEST

/* ---- tasks ---- */

static void put_task_b(struct env *e)
{
	static const uint16_t segs[6] = { SEL_DATA0, SEL_CODE0, SEL_DATA0, SEL_DATA0, 0, 0 };

	env_put(e, TSS_B + 32, TARGET, 4);
	env_put(e, TSS_B + 36, X86_FL_ONE, 4);
	for (unsigned i = 0; i < 8; i++)
		env_put(e, TSS_B + 40 + i * 4, 0xb0 + i, 4);
	env_put(e, TSS_B + 40 + 16, STACK - 0x1000, 4);
	for (unsigned i = 0; i < 6; i++)
		env_put(e, TSS_B + 72 + i * 4, segs[i], 4);
	env_put(e, TSS_B + 96, 0, 4);
}

START_TEST(task_call_and_return)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;

	put_task_b(e);
	s->gpr[X86_RAX] = 0xaaaa;
	s->rip = CODE + 7;
	ck_assert_int_eq(x86_far_call(&e->cpu, SEL_TSS_B, 0, 4), X86_STOP);
	ck_assert_uint_eq(s->rip, TARGET);
	ck_assert_uint_eq(s->gpr[X86_RAX], 0xb0);
	ck_assert_uint_eq(s->tr.selector, SEL_TSS_B);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_NT);
	ck_assert(s->cr0 & X86_CR0_TS);
	ck_assert_uint_eq(env_get(e, TSS_B, 2), SEL_TSS);
	ck_assert_uint_eq(env_get(e, TSS + 32, 4), CODE + 7);
	ck_assert_uint_eq(env_get(e, TSS + 40, 4), 0xaaaa);
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS + 5, 1), 0x8b); /* both stay busy */
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS_B + 5, 1), 0x8b);

	ck_assert_int_eq(x86_iret(&e->cpu, 4), X86_STOP);
	ck_assert_uint_eq(s->rip, CODE + 7);
	ck_assert_uint_eq(s->gpr[X86_RAX], 0xaaaa);
	ck_assert_uint_eq(s->tr.selector, SEL_TSS);
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS_B + 5, 1), 0x89);
	ck_assert_uint_eq(env_get(e, TSS_B + 36, 4), X86_FL_ONE); /* NT is gone */
	env_free(e);
}
END_TEST

START_TEST(task_jump_moves_busy_and_needs_an_idle_target)
{
	struct env *e = machine32(0);

	put_task_b(e);
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_TSS, 0, 4), X86_GP, SEL_TSS);
	ck_assert_int_eq(x86_far_jump(&e->cpu, SEL_TSS_B, 0, 4), X86_STOP);
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS + 5, 1), 0x89);
	ck_assert_uint_eq(e->cpu.s.rflags, X86_FL_ONE);
	env_free(e);
}
END_TEST

START_TEST(task_gate_takes_the_error_code)
{
	struct env *e = machine32(3);

	put_task_b(e);
	put_gate32(e, X86_GP, X86_DESC_TASK, 0, SEL_TSS_B, 0);
	x86_gp(&e->cpu, 0x55 << 3);
	x86_deliver_fault(&e->cpu);
	ck_assert_uint_eq(e->cpu.s.rip, TARGET);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], STACK - 0x1000 - 4);
	ck_assert_uint_eq(stack_at(e, 0, 4), 0x55 << 3);
	ck_assert(env_get(e, TSS + 36, 4) & X86_FL_RF);
	env_free(e);
}
END_TEST

START_TEST(bad_segment_faults_in_the_new_task)
{
	struct env *e = machine32(0);

	put_task_b(e);
	put_gate32(e, X86_TS, X86_DESC_INT32, 0, SEL_CODE0, TARGET + 0x100);
	env_put(e, TSS_B + 72 + 12, SEL_CODE0, 4); /* DS is fine so */
	env_put(e, TSS_B + 72, SEL_TSS, 4);	   /* ES is not */
	ck_assert_int_eq(x86_far_jump(&e->cpu, SEL_TSS_B, 0, 4), X86_STOP);
	ck_assert_uint_eq(e->cpu.s.rip, TARGET + 0x100);
	ck_assert_uint_eq(e->cpu.s.tr.selector, SEL_TSS_B);
	ck_assert_uint_eq(stack_at(e, 0, 4), SEL_TSS);
	ck_assert_uint_eq(stack_at(e, 1, 4), TARGET);
	env_free(e);
}
END_TEST

START_TEST(short_tss_is_the_old_tasks_fault)
{
	struct env *e = machine32(0);

	put_task_b(e);
	put_desc(e, SEL_TSS_B, TSS_B, 0x66, ATTR(9, 0));
	ASSERT_FAULT(e, x86_far_jump(&e->cpu, SEL_TSS_B, 0, 4), X86_TS, SEL_TSS_B);
	ck_assert_uint_eq(e->cpu.s.tr.selector, SEL_TSS);
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS + 5, 1), 0x8b);
	env_free(e);
}
END_TEST

START_TEST(sixteen_bit_task)
{
	struct env *e = machine32(0);
	struct x86_state *s = &e->cpu.s;
	static const uint16_t regs[15] = { TARGET, X86_FL_ONE, 1, 2, 3, 4, 0xf000, 6, 7, 8,
					   SEL_DATA0, SEL_CODE0, SEL_DATA0, SEL_DATA0, 0 };

	put_desc(e, SEL_TSS16, TSS_B, 0x2b, ATTR(1, 0));
	memcpy(e->ram + TSS_B + 14, regs, sizeof(regs));
	load_seg(e, X86_FS, SEL_DATA0);
	ck_assert_int_eq(x86_far_call(&e->cpu, SEL_TSS16, 0, 4), X86_STOP);
	ck_assert_uint_eq(s->rip, TARGET);
	ck_assert_uint_eq(s->gpr[X86_RCX] & 0xffff, 2);
	ck_assert_uint_eq(s->seg[X86_FS].selector, 0);
	ck_assert_int_eq(x86_iret(&e->cpu, 2), X86_STOP);
	ck_assert_uint_eq(s->tr.selector, SEL_TSS);
	ck_assert_uint_eq(s->seg[X86_FS].selector, SEL_DATA0);
	env_free(e);
}
END_TEST

/* ---- LAR, LSL, VERR, VERW, LLDT, LTR, ports ---- */

static bool zf_after(struct env *e, int (*op)(struct x86_cpu *, const struct x86_insn *),
		     unsigned selector)
{
	struct x86_insn insn = { .opsize = 4, .reg = X86_RDX, .rm = X86_RAX };

	e->cpu.s.gpr[X86_RAX] = selector;
	ck_assert_int_eq(op(&e->cpu, &insn), X86_NEXT);
	return e->cpu.s.rflags & X86_FL_ZF;
}

START_TEST(questions_about_descriptors)
{
	struct env *e = machine32(3);
	uint64_t *rdx = &e->cpu.s.gpr[X86_RDX];

	*rdx = 0x77;
	ck_assert(!zf_after(e, x86_op_lar, 0));
	ck_assert(!zf_after(e, x86_op_lar, SEL_DATA0));
	ck_assert(!zf_after(e, x86_op_lar, SEL_TSS));
	ck_assert(!zf_after(e, x86_op_lar, 0xfff8));
	ck_assert_uint_eq(*rdx, 0x77);
	ck_assert(zf_after(e, x86_op_lar, SEL_DATA3));
	ck_assert_uint_eq(*rdx, 0xcff300);
	ck_assert(zf_after(e, x86_op_lsl, SEL_DATA3));
	ck_assert_uint_eq(*rdx, 0xffffffff);
	ck_assert(zf_after(e, x86_op_lar, SEL_CONFORMING));
	ck_assert(zf_after(e, x86_op_verr, SEL_DATA3));
	ck_assert(zf_after(e, x86_op_verw, SEL_DATA3));
	ck_assert(!zf_after(e, x86_op_verw, SEL_CODE3));
	ck_assert(zf_after(e, x86_op_verr, SEL_CODE3));
	ck_assert(!zf_after(e, x86_op_verr, SEL_EXEC_ONLY));
	ck_assert(!zf_after(e, x86_op_verr, SEL_DATA0));
	env_free(e);

	e = machine64(0);
	rdx = &e->cpu.s.gpr[X86_RDX];
	ck_assert(zf_after(e, x86_op_lsl, SEL_TSS_B));
	ck_assert_uint_eq(*rdx, 0x67);
	put_desc(e, SEL_TSS16, TSS_B, 0x2b, ATTR(1, 0));
	ck_assert(!zf_after(e, x86_op_lsl, SEL_TSS16)); /* no such type in long mode */
	put_call_gate32(e, SEL_GATE, X86_DESC_CALL32, 3, SEL_CODE0, TARGET, 0);
	ck_assert(zf_after(e, x86_op_lar, SEL_GATE));
	ck_assert(!zf_after(e, x86_op_lsl, SEL_GATE));
	env_free(e);
}
END_TEST

START_TEST(table_registers)
{
	struct env *e = machine64(0);
	struct x86_insn insn = { .opsize = 4, .rm = X86_RAX };
	uint64_t *rax = &e->cpu.s.gpr[X86_RAX];

	*rax = SEL_TSS_B;
	env_put(e, GDT + SEL_TSS_B + 8, 0xffff8000, 8);
	ck_assert_int_eq(x86_op_ltr(&e->cpu, &insn), X86_NEXT);
	ck_assert_uint_eq(e->cpu.s.tr.base, 0xffff800000000000 | TSS_B);
	ck_assert_uint_eq(env_get(e, GDT + SEL_TSS_B + 5, 1), 0x8b);
	ASSERT_FAULT(e, x86_op_ltr(&e->cpu, &insn), X86_GP, SEL_TSS_B); /* busy */
	*rax = SEL_LDT; /* the upper half of the TSS's descriptor was here */
	put_desc(e, SEL_LDT, LDT, 0xff, ATTR(2, 0));
	env_put(e, GDT + SEL_LDT + 8, 0, 8);
	ck_assert_int_eq(x86_op_lldt(&e->cpu, &insn), X86_NEXT);
	env_put(e, LDT + 8, env_get(e, GDT + SEL_DATA0, 8), 8);
	ck_assert_int_eq(x86_load_segment(&e->cpu, X86_ES, 0x0c), X86_NEXT);
	*rax = 0;
	ck_assert_int_eq(x86_op_lldt(&e->cpu, &insn), X86_NEXT);
	ASSERT_FAULT(e, x86_load_segment(&e->cpu, X86_ES, 0x0c), X86_GP, 0x0c);
	ASSERT_FAULT(e, x86_op_ltr(&e->cpu, &insn), X86_GP, 0);
	env_free(e);
}
END_TEST

START_TEST(ports_by_the_permission_map)
{
	struct env *e = machine32(3);

	env_put(e, TSS + 0x68, 0xffffffff, 4);
	env_put(e, TSS + 0x68 + 2, 0xf0ff, 2); /* ports 0x18..0x1b are open */
	ck_assert_int_eq(x86_io_check(&e->cpu, 0x18, 4), X86_NEXT);
	ASSERT_FAULT(e, x86_io_check(&e->cpu, 0x1a, 4), X86_GP, 0);
	ASSERT_FAULT(e, x86_io_check(&e->cpu, 0x17, 2), X86_GP, 0);
	ASSERT_FAULT(e, x86_io_check(&e->cpu, 0xfff0, 1), X86_GP, 0);
	e->cpu.s.rflags |= X86_FL_IOPL;
	ck_assert_int_eq(x86_io_check(&e->cpu, 0xfff0, 1), X86_NEXT);
	e->cpu.s.rflags |= X86_FL_VM; /* IOPL does not count there */
	x86_update_mode(&e->cpu);
	ASSERT_FAULT(e, x86_io_check(&e->cpu, 0xfff0, 1), X86_GP, 0);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 far");
	TCase *tc = tcase_create("transfers");

	tcase_add_test(tc, data_segment_rules);
	tcase_add_test(tc, null_stack_in_64_bit_kernels_only);
	tcase_add_test(tc, far_jump_checks);
	tcase_add_test(tc, call_gate_copies_parameters_and_ret_drops_them);
	tcase_add_test(tc, call_gate_privilege);
	tcase_add_test(tc, call_gate_of_64_bits);
	tcase_add_test(tc, far_return_cannot_go_inwards);
	tcase_add_test(tc, task_call_and_return);
	tcase_add_test(tc, task_jump_moves_busy_and_needs_an_idle_target);
	tcase_add_test(tc, task_gate_takes_the_error_code);
	tcase_add_test(tc, bad_segment_faults_in_the_new_task);
	tcase_add_test(tc, short_tss_is_the_old_tasks_fault);
	tcase_add_test(tc, sixteen_bit_task);
	tcase_add_test(tc, questions_about_descriptors);
	tcase_add_test(tc, table_registers);
	tcase_add_test(tc, ports_by_the_permission_map);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
