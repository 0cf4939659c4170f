// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* sys_step.c - system instructions and debugging, as code bytes run by x86_step(). */
#include "sys_machine.h"

#define HANDLER 0x9000u

static void code(struct env *e, uint64_t at, const char *bytes, unsigned n)
{
	memcpy(e->ram + at, bytes, n);
}
#define CODE_AT(e, at, s) code(e, at, s, sizeof(s) - 1)

START_TEST(single_step_traps_behind_each_instruction)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x90\x90");
	s->rflags |= X86_FL_TF;
	x86_update_mode(&e->cpu);
	ck_assert(e->cpu.debug_armed);
	ck_assert_int_eq(x86_step(&e->cpu), X86_STOP);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE + 1);
	ck_assert_uint_eq(stack_at(e, 2, 8), X86_FL_ONE | X86_FL_IF | X86_FL_TF);
	ck_assert_uint_eq(s->dr[6], X86_DR6_FIXED | X86_DR6_BS);
	ck_assert(!e->cpu.debug_armed);
	env_free(e);
}
END_TEST

START_TEST(interrupts_clear_tf_without_a_trap)
{
	struct env *e = machine64(0);

	put_gate64(e, 0x80, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\xcd\x80");
	e->cpu.s.rflags |= X86_FL_TF;
	x86_update_mode(&e->cpu);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(e->cpu.s.rip, HANDLER);
	ck_assert_uint_eq(e->cpu.s.dr[6], X86_DR6_FIXED);
	env_free(e);
}
END_TEST

START_TEST(mov_ss_holds_the_trap_back)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x8e\xd0\x90"); /* mov %eax, %ss; nop */
	s->gpr[X86_RAX] = SEL_DATA0;
	s->rflags |= X86_FL_TF;
	s->dr[0] = CODE + 2; /* its breakpoint does not hit either */
	s->dr[7] |= 1;
	x86_update_mode(&e->cpu);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, CODE + 2);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE + 3);
	env_free(e);
}
END_TEST

START_TEST(code_breakpoint_is_a_fault_and_rf_passes_it)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x90\x90");
	CODE_AT(e, HANDLER, "\x48\xcf"); /* iretq */
	s->dr[2] = CODE + 1;
	s->dr[7] |= 1u << 5;
	x86_update_mode(&e->cpu);
	ck_assert_int_eq(x86_step(&e->cpu), X86_NEXT);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(s->dr[6], X86_DR6_FIXED | 4);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE + 1);
	ck_assert(!(stack_at(e, 2, 8) & X86_FL_RF));
	env_put(e, s->gpr[X86_RSP] + 16, stack_at(e, 2, 8) | X86_FL_RF, 8);
	(void)x86_step(&e->cpu);
	ck_assert(s->rflags & X86_FL_RF);
	ck_assert_int_eq(x86_step(&e->cpu), X86_NEXT);
	ck_assert_uint_eq(s->rip, CODE + 2);
	ck_assert(!(s->rflags & X86_FL_RF));
	env_free(e);
}
END_TEST

START_TEST(data_breakpoint_traps_behind_the_store)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x8b\x03\x89\x03"); /* mov (%rbx), %eax; mov %eax, (%rbx) */
	s->gpr[X86_RBX] = 0x40002;
	s->dr[1] = 0x40004;
	s->dr[7] |= (1u << 3) | (0xdu << 20); /* four bytes, writes */
	x86_update_mode(&e->cpu);
	ck_assert_int_eq(x86_step(&e->cpu), X86_NEXT);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(s->dr[6], X86_DR6_FIXED | 2);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE + 4);
	env_free(e);
}
END_TEST

START_TEST(general_detect_guards_debug_registers)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x0f\x21\xc0"); /* mov %dr0, %rax */
	s->dr[7] |= X86_DR7_GD;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE);
	ck_assert_uint_eq(s->dr[6], X86_DR6_FIXED | X86_DR6_BD);
	ck_assert(!(s->dr[7] & X86_DR7_GD));
	env_free(e);
}
END_TEST

START_TEST(repeated_strings_trap_each_time)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_DB, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\xf3\xaa"); /* rep stosb */
	s->gpr[X86_RDI] = 0x40000;
	s->gpr[X86_RCX] = 3;
	s->rflags |= X86_FL_TF;
	x86_update_mode(&e->cpu);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(s->gpr[X86_RCX], 2);
	ck_assert_uint_eq(stack_at(e, 0, 8), CODE);
	env_free(e);
}
END_TEST

START_TEST(alignment_is_checked_for_users_that_ask)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_AC, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x8b\x03"); /* mov (%rbx), %eax */
	s->gpr[X86_RBX] = 0x40002;
	s->cr0 |= X86_CR0_AM;
	s->rflags |= X86_FL_AC;
	x86_cpu_sync(&e->cpu);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(stack_at(e, 0, 8), 0);
	env_free(e);
}
END_TEST

START_TEST(syscall_and_sysret)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	CODE_AT(e, CODE, "\x0f\x05");
	CODE_AT(e, HANDLER, "\x48\x0f\x07");
	s->star = (uint64_t)SEL_CODE64 << 32 | 0x23ull << 48;
	s->lstar = HANDLER;
	s->sfmask = X86_FL_IF | X86_FL_TF;
	s->rflags |= X86_FL_CF;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	ck_assert_uint_eq(s->gpr[X86_RCX], CODE + 2);
	ck_assert_uint_eq(s->gpr[X86_R11], X86_FL_ONE | X86_FL_IF | X86_FL_CF);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_CF);
	ck_assert_uint_eq(e->cpu.cpl, 0);
	ck_assert_uint_eq(s->seg[X86_SS].selector, SEL_CODE64 + 8);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(e->cpu.cpl, 3);
	ck_assert_uint_eq(e->cpu.code_bytes, 8);
	ck_assert_uint_eq(s->rip, CODE + 2);
	ck_assert_uint_eq(s->seg[X86_CS].selector, 0x33);
	ck_assert_uint_eq(s->seg[X86_SS].selector, 0x2b);
	ck_assert_uint_eq(s->rflags, X86_FL_ONE | X86_FL_IF | X86_FL_CF);
	env_free(e);
}
END_TEST

START_TEST(bases_and_their_checks)
{
	struct env *e = machine64(0);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_UD, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	put_gate64(e, X86_GP, X86_DESC_INT32, 0, SEL_CODE64, HANDLER + 0x10, 0);
	CODE_AT(e, CODE, "\xf3\x48\x0f\xae\xd0"); /* wrfsbase %rax */
	s->gpr[X86_RAX] = 0xffff888000001000;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	s->cr4 |= X86_CR4_FSGSBASE;
	s->rip = CODE;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->seg[X86_FS].base, 0xffff888000001000);
	s->gpr[X86_RAX] = 0x1234000000000000;
	s->rip = CODE;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER + 0x10);
	CODE_AT(e, CODE, "\x0f\x01\xf8"); /* swapgs */
	s->kernel_gs_base = 0x5000;
	s->rip = CODE;
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->seg[X86_GS].base, 0x5000);
	ck_assert_uint_eq(s->kernel_gs_base, 0);
	env_free(e);
}
END_TEST

/* What a boot loader does: PAE, CR3, EFER.LME, paging, far jump. */
START_TEST(long_mode_is_entered_step_by_step)
{
	struct env *e = machine64(0), *src = machine32(0);
	struct x86_state *s = &e->cpu.s;

	*s = src->cpu.s;
	env_free(src);
	x86_cpu_sync(&e->cpu);
	put_gate32(e, X86_GP, X86_DESC_INT32, 0, SEL_CODE0, HANDLER);
	CODE_AT(e, CODE,
		"\xb9\x80\x00\x00\xc0" /* mov $0xc0000080, %ecx */
		"\x0f\x32"	       /* rdmsr */
		"\x0d\x00\x01\x00\x00" /* or $0x100, %eax */
		"\x0f\x30"	       /* wrmsr */
		"\xb8\x00\x00\x20\x00" /* mov $PML4, %eax */
		"\x0f\x22\xd8"	       /* mov %eax, %cr3 */
		"\x0f\x20\xc2"	       /* mov %cr0, %edx */
		"\x81\xca\x00\x00\x00\x80" /* or $PG, %edx */
		"\x0f\x22\xc2"	       /* mov %edx, %cr0: #GP, PAE is off */
		"\xb8\x20\x00\x00\x00" /* mov $PAE, %eax */
		"\x0f\x22\xe0"	       /* mov %eax, %cr4 */
		"\x0f\x22\xc2"	       /* mov %edx, %cr0 */
		"\xea\x00\xa0\x00\x00\x28\x00"); /* ljmp $SEL_CODE64, $0xa000 */
	for (unsigned i = 0; i < 9; i++)
		(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	s->rip = stack_at(e, 1, 4) + 3;
	s->gpr[X86_RSP] = STACK;
	for (unsigned i = 0; i < 3; i++)
		(void)x86_step(&e->cpu);
	ck_assert(s->efer & X86_EFER_LMA);
	ck_assert_uint_eq(e->cpu.code_bytes, 4);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(e->cpu.code_bytes, 8);
	ck_assert_uint_eq(s->rip, 0xa000);

	/* and out of it only by way of compatibility mode */
	put_gate64(e, X86_GP, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, 0xa000, "\x31\xc0\x0f\x22\xc0"); /* xor %eax, %eax; mov %rax, %cr0 */
	(void)x86_step(&e->cpu);
	(void)x86_step(&e->cpu);
	ck_assert_uint_eq(s->rip, HANDLER);
	env_free(e);
}
END_TEST

START_TEST(umip_and_tsd)
{
	struct env *e = machine64(3);
	struct x86_state *s = &e->cpu.s;

	put_gate64(e, X86_GP, X86_DESC_INT32, 0, SEL_CODE64, HANDLER, 0);
	CODE_AT(e, CODE, "\x0f\x01\xe0\x0f\x31"); /* smsw %eax; rdtsc */
	ck_assert_int_eq(x86_step(&e->cpu), X86_NEXT);
	ck_assert_uint_eq(s->gpr[X86_RAX], (uint32_t)s->cr0);
	ck_assert_int_eq(x86_step(&e->cpu), X86_NEXT);
	ck_assert_uint_eq(s->gpr[X86_RAX], 1000);
	s->cr4 |= X86_CR4_UMIP | X86_CR4_TSD;
	for (unsigned i = 0; i < 4; i += 3) {
		struct x86_frame_save save;

		s->rip = CODE + i;
		x86_frame_save(&e->cpu, &save);
		(void)x86_step(&e->cpu);
		ck_assert_uint_eq(s->rip, HANDLER);
		x86_frame_restore(&e->cpu, &save);
	}
	env_free(e);
}
END_TEST

START_TEST(msr_rules)
{
	struct env *e = machine64(0);
	struct x86_cpu *cpu = &e->cpu;
	uint64_t v;

	ck_assert(x86_wrmsr(cpu, 0xc0000082, 0xffffffff81000000));
	ck_assert(!x86_wrmsr(cpu, 0xc0000082, 0x8000000000000000));
	ck_assert(x86_rdmsr(cpu, 0xc0000082, &v) && v == 0xffffffff81000000);
	ck_assert(!x86_wrmsr(cpu, 0xc0000080, 0)); /* LME while paging */
	ck_assert(!x86_wrmsr(cpu, 0xc0000080, cpu->s.efer | 1u << 12)); /* no SVM */
	ck_assert(x86_wrmsr(cpu, 0xc0000080, cpu->s.efer));
	ck_assert(!x86_wrmsr(cpu, 0x277, 2));
	ck_assert(x86_wrmsr(cpu, 0x277, 0x0407050600070106));
	ck_assert(!x86_rdmsr(cpu, 0x12345, &v));
	ck_assert(!x86_wrmsr(cpu, 0xc0000103, 1ull << 32));
	env_free(e);
}
END_TEST

START_TEST(cpuid_offers_what_the_rows_need)
{
	struct env *e = machine64(0);
	uint32_t r[4];

	x86_cpuid(&e->cpu, 1, 0, r);
	ck_assert((r[3] & 0x07880001u) == 0x07880001u); /* FPU, CLFSH, MMX, FXSR, SSE, SSE2 */
	ck_assert(r[2] >> 31);				/* a hypervisor is at work */
	ck_assert(!(r[2] >> 27 & 1));
	e->cpu.s.cr4 |= X86_CR4_OSXSAVE;
	x86_cpuid(&e->cpu, 1, 0, r);
	ck_assert(r[2] >> 27 & 1);
	x86_cpuid(&e->cpu, 7, 0, r);
	ck_assert_uint_eq(r[1] & (1u << 16 | 1u << 17 | 1u << 30 | 1u << 31), 0); /* no AVX-512 */
	x86_cpuid(&e->cpu, 0xd, 0, r);
	ck_assert_uint_eq(r[1], 576); /* AVX is not enabled */
	if (r[0] & 4) {
		e->cpu.s.xcr0 = 7;
		x86_cpuid(&e->cpu, 0xd, 0, r);
		ck_assert_uint_eq(r[1], 832);
		x86_cpuid(&e->cpu, 0xd, 2, r);
		ck_assert_uint_eq(r[0], 256);
		ck_assert_uint_eq(r[1], 576);
	}
	x86_cpuid(&e->cpu, 0x80000008, 0, r);
	ck_assert_uint_eq(r[0] & 0xff, x86_phys_bits(&e->cpu));
	x86_cpuid(&e->cpu, 0x12345678, 0, r);
	ck_assert_uint_eq(r[0] | r[1] | r[2] | r[3], 0);
	env_free(e);
}
END_TEST

START_TEST(reset_and_init)
{
	struct env *e = env_new();
	struct x86_state *s = &e->cpu.s;

	ck_assert_uint_eq(s->seg[X86_CS].base + s->rip, 0xfffffff0);
	ck_assert_uint_eq(s->cr0, 0x60000010);
	ck_assert_uint_eq(s->rflags, 2);
	s->cr0 = 0x80000011;
	s->fpu.mxcsr = 0x1fa0;
	s->mtrr_def_type = 0x806;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	x86_state_init(s);
	ck_assert_uint_eq(s->cr0, 0x10);
	ck_assert_uint_eq(s->fpu.mxcsr, 0x1fa0);
	ck_assert_uint_eq(s->mtrr_def_type, 0x806);
	ck_assert_uint_eq(s->efer, 0);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("x86 step");
	TCase *tc = tcase_create("system");

	tcase_add_test(tc, single_step_traps_behind_each_instruction);
	tcase_add_test(tc, interrupts_clear_tf_without_a_trap);
	tcase_add_test(tc, mov_ss_holds_the_trap_back);
	tcase_add_test(tc, code_breakpoint_is_a_fault_and_rf_passes_it);
	tcase_add_test(tc, data_breakpoint_traps_behind_the_store);
	tcase_add_test(tc, general_detect_guards_debug_registers);
	tcase_add_test(tc, repeated_strings_trap_each_time);
	tcase_add_test(tc, alignment_is_checked_for_users_that_ask);
	tcase_add_test(tc, syscall_and_sysret);
	tcase_add_test(tc, bases_and_their_checks);
	tcase_add_test(tc, long_mode_is_entered_step_by_step);
	tcase_add_test(tc, umip_and_tsd);
	tcase_add_test(tc, msr_rules);
	tcase_add_test(tc, cpuid_offers_what_the_rows_need);
	tcase_add_test(tc, reset_and_init);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
