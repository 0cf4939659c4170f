// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * mem_int.c - what the oracle cannot reach of memory operands and integer instructions: segment
 * limits, stores that are reported, MMIO, TLB maintenance, REP that gives way, privilege of flags.
 */
#include "sys_machine.h"

#define DATA 0x100000u

static int run(struct env *e, const char *code, size_t n)
{
	memcpy(e->ram + CODE, code, n);
	e->cpu.s.rip = CODE;
	return x86_step(&e->cpu);
}

/* The vector that is delivered goes to a handler of its own. */
static void install_handlers(struct env *e, bool wide)
{
	for (unsigned v = 0; v < 32; v++) {
		if (wide)
			put_gate64(e, v, 14, 3, SEL_CODE64, 0x9000 + v * 16, 0);
		else
			put_gate32(e, v, 14, 3, SEL_CODE0, 0x9000 + v * 16);
	}
}

static unsigned vector_of(const struct env *e)
{
	ck_assert_uint_ge(e->cpu.s.rip, 0x9000);
	return (unsigned)(e->cpu.s.rip - 0x9000) / 16;
}

#define RUN(code)	run(e, code, sizeof(code) - 1)
#define RUN_OK(code)	ck_assert_int_eq(RUN(code), X86_NEXT)
#define RUN_FAULT(code, vector)                                                                    \
	do {                                                                                       \
		RUN(code);                                                                         \
		ck_assert_uint_eq(vector_of(e), vector);                                           \
	} while (0)

START_TEST(segment_limits)
{
	struct env *e = machine32(0);
	struct x86_segment *ds = &e->cpu.s.seg[X86_DS];

	install_handlers(e, false);
	ds->base = DATA;
	ds->limit = 0xfff;
	x86_update_mode(&e->cpu);
	env_put(e, DATA + 0xffc, 0x12345678, 4);
	RUN_OK("\xa1\xfc\x0f\x00\x00"); /* mov eax, [0xffc] */
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 0x12345678);
	RUN_FAULT("\xa1\xfd\x0f\x00\x00", X86_GP);
	/* Expand-down: the limit is the last offset that is not there. */
	ds->attr |= 4;
	RUN_FAULT("\xa1\xff\x0f\x00\x00", X86_GP);
	RUN_OK("\xa1\x00\x10\x00\x00");
	/* Read-only. */
	ds->attr = (uint16_t)(ds->attr & ~6u);
	RUN_OK("\xa1\xfc\x0f\x00\x00");
	RUN_FAULT("\xa3\xfc\x0f\x00\x00", X86_GP);
	/* Through EBP it is the stack segment's fault. */
	e->cpu.s.seg[X86_SS].limit = 0xffff;
	x86_update_mode(&e->cpu);
	e->cpu.s.gpr[X86_RSP] = 0x8000;
	e->cpu.s.gpr[X86_RBP] = 0x10000;
	RUN_FAULT("\x8b\x45\x00", X86_SS_FAULT);
	env_free(e);
}
END_TEST

START_TEST(not_canonical_is_gp_or_ss)
{
	struct env *e = machine64(0);

	install_handlers(e, true);
	e->cpu.s.gpr[X86_RBX] = 0x800000000000;
	e->cpu.s.gpr[X86_RBP] = 0x800000000000;
	RUN_FAULT("\x8b\x03", X86_GP);
	RUN_FAULT("\x8b\x45\x00", X86_SS_FAULT);
	env_free(e);
}
END_TEST

/* A page that is not there behind a page that is. */
static void unmap_second_2m(struct env *e)
{
	env_put(e, PML4 + 0x2008, 0, 8);
	x86_tlb_flush(&e->cpu);
}

START_TEST(a_fault_on_the_second_page_writes_nothing)
{
	struct env *e = machine64(0);

	install_handlers(e, true);
	unmap_second_2m(e);
	e->cpu.s.gpr[X86_RBX] = 0x1ffffc;
	e->cpu.s.gpr[X86_RAX] = ~0ull;
	RUN_FAULT("\x48\x89\x03", X86_PF); /* mov [rbx], rax */
	ck_assert_uint_eq(e->cpu.s.cr2, 0x200000);
	ck_assert_uint_eq(env_get(e, 0x1ffffc, 4), 0);
	env_free(e);
}
END_TEST

START_TEST(watched_pages_report_every_store)
{
	struct env *e = machine64(0);

	e->indirect = true;
	e->cpu.s.gpr[X86_RBX] = DATA;
	e->cpu.s.gpr[X86_RAX] = 5;
	RUN_OK("\x48\x89\x03"); /* mov [rbx], rax */
	e->written = 0;		/* accessed and dirty bits are behind us */
	RUN_OK("\x48\x89\x03");
	RUN_OK("\x48\xff\x03"); /* inc qword [rbx] */
	RUN_OK("\xf0\x48\x01\x03"); /* lock add [rbx], rax */
	ck_assert_uint_eq(e->written, 3);
	ck_assert_uint_eq(env_get(e, DATA, 8), 11);
	/* From a direct page to a watched one. */
	e->indirect = false;
	RUN_OK("\x48\x89\x03");
	e->written = 0;
	RUN_OK("\x48\x89\x03");
	ck_assert_uint_eq(e->written, 0);
	e->indirect = true;
	x86_tlb_protect(&e->cpu, DATA);
	RUN_OK("\x48\x89\x03");
	ck_assert_uint_eq(e->written, 1);
	env_free(e);
}
END_TEST

START_TEST(tlb_keeps_until_flushed)
{
	struct env *e = machine64(0);

	/* 4 KiB pages for the second 2 MiB, at 0x240000. */
	env_put(e, PML4 + 0x2008, 0x240000 | 7, 8);
	for (unsigned i = 0; i < 512; i++)
		env_put(e, 0x240000 + i * 8, (0x200000 + i * 0x1000u) | 7, 8);
	x86_tlb_flush(&e->cpu);
	e->cpu.s.gpr[X86_RBX] = 0x300000;
	env_put(e, 0x300000, 1, 8);
	env_put(e, 0x301000, 2, 8);
	RUN_OK("\x48\x8b\x03"); /* mov rax, [rbx] */
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 1);
	env_put(e, 0x240000 + 0x100 * 8, 0x301000 | 7, 8);
	x86_tlb_flush_page(&e->cpu, 0x300000);
	RUN_OK("\x48\x8b\x03");
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 2);
	/* Thousands of flushes wrap the generation; nothing old may come back. */
	for (unsigned i = 0; i < 9000; i++) {
		env_put(e, 0x240000 + 0x100 * 8, (i & 1 ? 0x300000 : 0x301000) | 7, 8);
		x86_tlb_flush(&e->cpu);
		RUN_OK("\x48\x8b\x03");
		ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], i & 1 ? 1 : 2);
	}
	env_free(e);
}
END_TEST

START_TEST(rep_moves_overlapping_as_elements_do)
{
	struct env *e = machine64(0);

	for (unsigned distance = 0; distance < 20; distance++) {
		uint8_t want[64];

		for (unsigned i = 0; i < 64; i++)
			want[i] = e->ram[DATA + i] = (uint8_t)(i + 1);
		for (unsigned i = 0; i < 8; i++) {
			uint32_t v;

			memcpy(&v, want + i * 4, 4);
			memcpy(want + distance + i * 4, &v, 4);
		}
		e->cpu.s.gpr[X86_RSI] = DATA;
		e->cpu.s.gpr[X86_RDI] = DATA + distance;
		e->cpu.s.gpr[X86_RCX] = 8;
		RUN_OK("\xf3\xa5");
		ck_assert_mem_eq(want, e->ram + DATA, 64);
		ck_assert_uint_eq(e->cpu.s.gpr[X86_RCX], 0);
	}
	env_free(e);
}
END_TEST

static bool stop_at_once(struct x86_cpu *cpu)
{
	return true;
}

START_TEST(rep_gives_way_and_goes_on)
{
	struct env *e = machine64(0);
	struct x86_cpu_ops ops = env_ops;
	unsigned rounds = 0;

	ops.should_stop = stop_at_once;
	e->cpu.ops = &ops;
	e->cpu.s.gpr[X86_RDI] = DATA;
	e->cpu.s.gpr[X86_RCX] = 0x4000;
	e->cpu.s.gpr[X86_RAX] = 0x55;
	while (RUN("\xf3\xaa") == X86_REPEAT) { /* rep stosb */
		ck_assert_uint_eq(e->cpu.s.rip, CODE);
		rounds++;
	}
	ck_assert_uint_gt(rounds, 1);
	for (unsigned i = 0; i < 0x4000; i++)
		ck_assert_uint_eq(e->ram[DATA + i], 0x55);
	ck_assert_uint_eq(e->ram[DATA + 0x4000], 0);
	env_free(e);
}
END_TEST

START_TEST(popf_keeps_what_the_privilege_forbids)
{
	struct env *e = machine32(3);

	install_handlers(e, false);
	env_put(e, USTACK - 4, 0x3000 | X86_FL_NT, 4); /* IOPL 3, IF clear */
	e->cpu.s.gpr[X86_RSP] = USTACK - 4;
	RUN("\x9d");
	ck_assert_uint_eq(e->cpu.s.rflags & (X86_FL_IOPL | X86_FL_IF | X86_FL_NT),
			  X86_FL_IF | X86_FL_NT);
	e->cpu.s.rflags &= ~(uint64_t)X86_FL_NT;
	RUN_FAULT("\xfa", X86_GP); /* cli */
	env_free(e);
}
END_TEST

START_TEST(sti_holds_interrupts_for_one_instruction)
{
	struct env *e = machine64(0);

	e->cpu.s.rflags &= ~(uint64_t)X86_FL_IF;
	ck_assert_int_eq(RUN("\xfb"), X86_STOP);
	ck_assert_uint_eq(e->cpu.s.interrupt_shadow, 1);
	ck_assert_int_eq(RUN("\xfb"), X86_STOP); /* IF was set: no new shadow */
	ck_assert_uint_eq(e->cpu.s.interrupt_shadow, 0);
	env_free(e);
}
END_TEST

START_TEST(sixteen_bit_addresses_and_stacks_wrap)
{
	struct env *e = env_new(); /* reset state: real mode */

	e->cpu.s.seg[X86_CS].base = 0;
	e->cpu.s.gpr[X86_RSP] = 0x10002;
	x86_cpu_sync(&e->cpu);
	env_put(e, 0x1234, 0xabcd, 2);
	e->cpu.s.gpr[X86_RBX] = 0x1235;
	e->cpu.s.gpr[X86_RSI] = 0xffff;
	RUN_OK("\x8b\x00"); /* mov ax, [bx + si] */
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 0xabcd);
	RUN_OK("\x50"); /* push ax at 2 - 2 */
	ck_assert_uint_eq(env_get(e, 0, 2), 0xabcd);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], 0x10000);
	RUN_OK("\x50");
	ck_assert_uint_eq(env_get(e, 0xfffe, 2), 0xabcd);
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RSP], 0x1fffe);
	env_free(e);
}
END_TEST

START_TEST(locked_and_plain_work_across_pages)
{
	struct env *e = machine64(0);

	e->cpu.s.gpr[X86_RBX] = DATA + 0xffd;
	e->cpu.s.gpr[X86_RAX] = 0x0102030405060708;
	RUN_OK("\x48\x89\x03");	    /* mov [rbx], rax */
	RUN_OK("\xf0\x48\x01\x03"); /* lock add [rbx], rax */
	ck_assert_uint_eq(env_get(e, DATA + 0xffd, 8), 0x020406080a0c0e10);
	RUN_OK("\x48\x87\x03"); /* xchg */
	ck_assert_uint_eq(e->cpu.s.gpr[X86_RAX], 0x020406080a0c0e10);
	ck_assert_uint_eq(env_get(e, DATA + 0xffd, 8), 0x0102030405060708);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("x86 memory and integer");
	TCase *tc = tcase_create("mem_int");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, segment_limits);
	tcase_add_test(tc, not_canonical_is_gp_or_ss);
	tcase_add_test(tc, a_fault_on_the_second_page_writes_nothing);
	tcase_add_test(tc, watched_pages_report_every_store);
	tcase_add_test(tc, tlb_keeps_until_flushed);
	tcase_add_test(tc, rep_moves_overlapping_as_elements_do);
	tcase_add_test(tc, rep_gives_way_and_goes_on);
	tcase_add_test(tc, popf_keeps_what_the_privilege_forbids);
	tcase_add_test(tc, sti_holds_interrupts_for_one_instruction);
	tcase_add_test(tc, sixteen_bit_addresses_and_stacks_wrap);
	tcase_add_test(tc, locked_and_plain_work_across_pages);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
