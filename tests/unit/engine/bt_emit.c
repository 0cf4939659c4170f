// SPDX-License-Identifier: Apache-2.0
/* bt_emit.c - tests of the translator's encoder against its own decoder, and of what it is told of
 * instructions. */
#include <check.h>
#include <string.h>

#include "engine/bt/jit/describe.h"
#include "engine/bt/jit/emit.h"

static uint8_t buf[256];
static struct emit e;

static void begin(void)
{
	memset(buf, 0x90, sizeof(buf));
	e = (struct emit){ .p = buf, .end = buf + sizeof(buf) };
}

/* What was emitted, decoded: it must be one instruction of just that length. */
static struct x86_insn decoded(void)
{
	struct x86_insn insn;
	int len = x86_decode(buf, sizeof(buf), 8, &insn);

	ck_assert(!e.full);
	ck_assert_int_eq(len, (int)(e.p - buf));
	return insn;
}

START_TEST(addresses_are_what_was_asked_for)
{
	static const int32_t disps[] = { 0, 1, -128, 127, 128, -129, 0x12345678 };

	for (unsigned base = 0; base < 16; base++) {
		for (unsigned index = 0; index < 17; index++) {
			for (unsigned i = 0; i < sizeof(disps) / sizeof(disps[0]); i++) {
				unsigned x = index == 16 || index == H_RSP ? H_NONE : index;
				struct x86_insn insn;

				begin();
				EMIT(&e, .opcode = 0x8b, .w = true, .kind = EMIT_MEM, .reg = H_R9,
				     .rm = (uint8_t)base, .index = (uint8_t)x, .scale = x != H_NONE,
				     .disp = disps[i]);
				insn = decoded();
				ck_assert_uint_eq(insn.reg, H_R9);
				ck_assert_uint_eq(insn.base, base);
				ck_assert_uint_eq(insn.index, x == H_NONE ? X86_NO_REG : x);
				ck_assert_int_eq(insn.disp, disps[i]);
			}
		}
	}
}
END_TEST

START_TEST(vector_encodings_name_their_registers)
{
	begin();
	EMIT(&e, .vex = true, .map = 1, .opcode = 0x58, .p66 = true, .l256 = true, .vvvv = 11,
	     .kind = EMIT_REG, .reg = 9, .rm = 14); /* VADDPD ymm9, ymm11, ymm14 */
	struct x86_insn insn = decoded();

	ck_assert_uint_eq(insn.reg, 9);
	ck_assert_uint_eq(insn.vvvv, 11);
	ck_assert_uint_eq(insn.rm, 14);
	ck_assert_uint_eq(insn.vl, 32);
}
END_TEST

START_TEST(jumps_lead_where_they_are_patched_to)
{
	uint8_t *site;
	struct x86_insn insn;

	begin();
	site = emit_jcc(&e, CC_NE);
	emit_patch(site, buf + 100);
	insn = decoded();
	ck_assert_uint_eq(insn.len + insn.imm, 100);
	begin();
	emit_jmp_to(&e, buf + 50);
	insn = decoded();
	ck_assert_uint_eq(insn.len + insn.imm, 50);
}
END_TEST

START_TEST(a_full_buffer_is_noticed_and_not_overrun)
{
	uint8_t small[64];

	memset(small, 0xaa, sizeof(small));
	e = (struct emit){ .p = small, .end = small + 40 };
	for (unsigned i = 0; i < 20; i++)
		emit_mov_imm64(&e, H_R15, ~0ull);
	ck_assert(e.full);
	ck_assert_uint_eq(small[40], 0xaa);
}
END_TEST

static struct jit_desc describe(const char *bytes, unsigned len)
{
	uint8_t code[15] = { 0 };
	struct x86_insn insn;
	struct jit_desc d;

	memcpy(code, bytes, len);
	ck_assert_int_eq(x86_decode(code, sizeof(code), 8, &insn), (int)len);
	jit_describe(&insn, code, &d);
	return d;
}

START_TEST(instructions_are_described)
{
	struct jit_desc d = describe("\x01\x18", 2); /* ADD [rax], ebx */

	ck_assert_uint_eq(d.kind, JIT_COPY);
	ck_assert_uint_eq(d.rm_use, JIT_RW);
	ck_assert_uint_eq(d.reg_use, JIT_R);
	ck_assert_uint_eq(d.mem_len, 4);
	d = describe("\xd3\xe0", 2); /* SHL eax, cl: may leave the flags alone */
	ck_assert_uint_eq(d.fw, 0);
	ck_assert_uint_eq(d.fm, X86_FL_STATUS);
	d = describe("\xff\xc0", 2); /* INC eax keeps CF */
	ck_assert_uint_eq(d.fw, X86_FL_STATUS & ~X86_FL_CF);
	d = describe("\x0f\x28\x00", 3); /* MOVAPS xmm0, [rax] must be aligned */
	ck_assert_uint_eq(d.mem_align, 16);
	d = describe("\x0f\x10\x00", 3); /* MOVUPS need not */
	ck_assert_uint_eq(d.mem_align, 1);
	d = describe("\xf3\x90", 2); /* PAUSE is the engine's */
	ck_assert_uint_eq(d.kind == JIT_XCHG_AX, false);
	d = describe("\x0f\xa2", 2); /* CPUID */
	ck_assert_uint_eq(d.kind, JIT_HANDLER);
	ck_assert_uint_eq(d.fr, X86_FL_STATUS);
	d = describe("\x67\x8b\x00", 3); /* 32-bit address */
	ck_assert_uint_eq(d.kind, JIT_HANDLER);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("engine bt emit");
	TCase *t = tcase_create("emit");
	SRunner *r;
	int failed;

	tcase_add_test(t, addresses_are_what_was_asked_for);
	tcase_add_test(t, vector_encodings_name_their_registers);
	tcase_add_test(t, jumps_lead_where_they_are_patched_to);
	tcase_add_test(t, a_full_buffer_is_noticed_and_not_overrun);
	tcase_add_test(t, instructions_are_described);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
