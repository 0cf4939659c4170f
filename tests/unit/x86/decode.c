// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * decode.c - the decoder against Zydis, on random bytes, for the three code sizes; and the rules
 * that random bytes seldom meet.
 */
#include "x86/rows.h"
#include "x86/x86.h"

#include <Zydis/Zydis.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRINGS 300000u

static uint64_t rng = 0x1234567887654321;

static uint64_t rnd(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

/* Instruction sets that the core does not have, or that Zydis knows under processor makes. */
static bool is_beyond_us(const char *isa)
{
	static const char *const sets[] = {
		"AVX512_FP16", "AVX512_VP2INTERSECT", "AVX512_4", "AVX512PF", "AVX512ER", "AVX_VNNI", "AMX", "AMD3DNOW", "AMD_INVLPGB", "CET", "CLZERO",
		"ENQCMD", "FMA4", "KEYLOCKER", "KNC", "MCOMMIT", "MONITORX", "MOVDIR", "PADLOCK",
		"PCONFIG", "PKU", "PREFETCH_NOP", "PT", "RDPRU", "RTM", "SERIALIZE", "SGX", "SMX", "SNP",
		"SSE4A", "SVM", "TBM", "TDX", "TSX", "UINTR", "VMFUNC", "VTX",
		"WAITPKG", "XOP", "XSAVES", "HRESET", "RAO", "CMPCCXADD", "AVX_NE", "AVX_IFMA", "MPX",
		"ICACHE", "LWP", "PBNDKB", "RDPID", "AMD",
	};

	for (unsigned i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		if (strncmp(isa, sets[i], strlen(sets[i])) == 0)
			return true;
	return false;
}

/* What Zydis refuses in the decoder and the core when it executes: registers that do not exist
 * (MOV to and from control and segment registers), gathers whose registers coincide. */
static bool is_refused_later(const struct x86_insn *insn)
{
	const char *name = x86_rows[insn->row].name;

	return strcmp(name, "MOV") == 0 || strstr(name, "GATHER") != NULL;
}

static void random_bytes(uint8_t *b)
{
	static const uint8_t starts[][2] = { { 0x0f }, { 0xc4 }, { 0xc5 }, { 0x66, 0x0f },
					     { 0xf3, 0x0f }, { 0xf2, 0x0f }, { 0xf0 }, { 0x67 },
					     { 0x62 }, { 0x62 } };
	unsigned start = rnd() % 18;

	for (unsigned i = 0; i < 16; i++)
		b[i] = (uint8_t)(rnd() >> 24);
	if (start >= sizeof(starts) / sizeof(starts[0]))
		return;
	b[0] = starts[start][0];
	if (starts[start][1])
		b[1] = starts[start][1];
	if (b[0] == 0xc4)
		b[1] = (uint8_t)((b[1] & 0xe0) | (1 + b[2] % 3));
	if (b[0] == 0x62 && b[4] & 1) {
		b[1] = (uint8_t)((b[1] & 0xf0) | (1 + b[2] % 3));
		b[2] |= b[4] & 2 ? 0x7c : 4;
		b[3] |= b[4] & 2 ? 8 : 0;
		b[3] = b[4] & 4 ? b[3] & 0x6f : b[3];
		b[4] = (uint8_t)(b[5] ^ b[6]);
	}
}

static void describe(char *text, size_t size, const uint8_t *b)
{
	for (unsigned i = 0; i < 15; i++)
		snprintf(text + i * 3, size - i * 3, "%02x ", b[i]);
}

/* VPINSRD and VPEXTRD with W set outside 64-bit mode: Zydis ignores W there, the manual's tables call the
 * encoding VPINSRQ and invalid, and so does the processor (the oracle runs it). */
static bool has_stray_w(const ZydisDecodedInstruction *z, unsigned code_bytes)
{
	return code_bytes != 8 && z->raw.vex.W &&
	       (z->mnemonic == ZYDIS_MNEMONIC_VPINSRD || z->mnemonic == ZYDIS_MNEMONIC_VPEXTRD);
}

static void compare(ZydisDecoder *zydis, unsigned code_bytes, const uint8_t *b)
{
	ZydisDecodedInstruction z;
	struct x86_insn insn;
	char text[64];
	int ours = x86_decode(b, 15, code_bytes, &insn), theirs = -1;

	if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(zydis, NULL, b, 15, &z)))
		theirs = z.length;
	describe(text, sizeof(text), b);
	if (ours > 0 && theirs > 0)
		ck_assert_msg(ours == theirs, "%s: %d, not %d (code size %u)", text, ours, theirs,
			      code_bytes);
	else if (ours > 0)
		ck_assert_msg(is_refused_later(&insn), "%s: is %s, not invalid (code size %u)", text,
			      x86_rows[insn.row].name, code_bytes);
	else if (theirs > 0 && !has_stray_w(&z, code_bytes))
		ck_assert_msg(is_beyond_us(ZydisISASetGetString(z.meta.isa_set)),
			      "%s: invalid, not %s of %s (code size %u)", text,
			      ZydisMnemonicGetString(z.mnemonic), ZydisISASetGetString(z.meta.isa_set),
			      code_bytes);
}

static const struct {
	unsigned code_bytes;
	ZydisMachineMode mode;
	ZydisStackWidth stack;
} sizes[] = {
	{ 2, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
	{ 4, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
	{ 8, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
};

START_TEST(agrees_with_zydis)
{
	static const ZydisDecoderMode off[] = {
		ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_KNC,
		ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE,
	};
	ZydisDecoder zydis;
	uint8_t b[16];

	ZydisDecoderInit(&zydis, sizes[_i].mode, sizes[_i].stack);
	for (unsigned i = 0; i < sizeof(off) / sizeof(off[0]); i++)
		ZydisDecoderEnableMode(&zydis, off[i], ZYAN_FALSE);
	for (unsigned i = 0; i < STRINGS; i++) {
		random_bytes(b);
		compare(&zydis, sizes[_i].code_bytes, b);
	}
}
END_TEST

/* Cut anywhere, an instruction asks for more bytes and is not taken for another. */
START_TEST(asks_for_missing_bytes)
{
	uint8_t b[16];

	for (unsigned i = 0; i < 100000; i++) {
		struct x86_insn insn, part;
		int len;

		random_bytes(b);
		len = x86_decode(b, 15, sizes[_i].code_bytes, &insn);
		for (int cut = 0; cut < len; cut++)
			ck_assert_int_eq(x86_decode(b, (size_t)cut, sizes[_i].code_bytes, &part), 0);
	}
}
END_TEST

static int decode(const char *bytes, size_t n, unsigned code_bytes, struct x86_insn *insn)
{
	return x86_decode((const uint8_t *)bytes, n, code_bytes, insn);
}

#define DECODE(bytes, code_bytes) decode(bytes, sizeof(bytes) - 1, code_bytes, &insn)

START_TEST(limits_length_to_15)
{
	struct x86_insn insn;

	ck_assert_int_eq(DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", 8), 15);
	ck_assert_int_eq(DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90", 8),
			 -X86_GP);
	ck_assert_int_eq(DECODE("\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66", 8), -X86_GP);
}
END_TEST

START_TEST(lock_needs_memory_and_permission)
{
	struct x86_insn insn;

	ck_assert_int_eq(DECODE("\xf0\x01\x00", 8), 3);
	ck_assert(insn.flags & X86_INSN_LOCK);
	ck_assert_int_eq(DECODE("\xf0\x01\xc0", 8), -X86_UD);
	ck_assert_int_eq(DECODE("\xf0\x39\x00", 8), -X86_UD);
	ck_assert_int_eq(DECODE("\xf0\x90", 8), -X86_UD);
}
END_TEST

START_TEST(finds_operands)
{
	struct x86_insn insn;

	/* mov rax, gs:[rsp + r12*8 - 0x80] */
	ck_assert_int_eq(DECODE("\x65\x4a\x8b\x44\xe4\x80", 8), 6);
	ck_assert_uint_eq(insn.base, X86_RSP);
	ck_assert_uint_eq(insn.index, X86_R12);
	ck_assert_uint_eq(insn.scale, 3);
	ck_assert_int_eq(insn.disp, -0x80);
	ck_assert_uint_eq(insn.seg, X86_GS);
	ck_assert_uint_eq(insn.opsize, 8);
	/* [rbp] is in the stack segment, [r13] is not. */
	ck_assert_int_eq(DECODE("\x8b\x45\x00", 8), 3);
	ck_assert_uint_eq(insn.seg, X86_SS);
	ck_assert_int_eq(DECODE("\x41\x8b\x45\x00", 8), 4);
	ck_assert_uint_eq(insn.seg, X86_DS);
	/* Relative to RIP in 64-bit code, absolute elsewhere. */
	ck_assert_int_eq(DECODE("\x8b\x05\x10\x00\x00\x00", 8), 6);
	ck_assert_uint_eq(insn.base, X86_REG_RIP);
	ck_assert_int_eq(DECODE("\x8b\x05\x10\x00\x00\x00", 4), 6);
	ck_assert_uint_eq(insn.base, X86_NO_REG);
	/* REX counts only right before the opcode. */
	ck_assert_int_eq(DECODE("\x48\x66\x89\xc8", 8), 4);
	ck_assert_uint_eq(insn.opsize, 2);
	/* AH without REX, SPL with. */
	ck_assert_int_eq(DECODE("\x88\xe0", 8), 2);
	ck_assert_uint_eq(insn.reg8, 1);
	ck_assert_int_eq(DECODE("\x40\x88\xe0", 8), 3);
	ck_assert_uint_eq(insn.reg8, X86_RSP * 8);
}
END_TEST

START_TEST(tells_nop_from_exchange)
{
	struct x86_insn insn;

	ck_assert_int_eq(DECODE("\x48\x90", 8), 2);
	ck_assert_str_eq(x86_rows[insn.row].name, "NOP");
	ck_assert_int_eq(DECODE("\x41\x90", 8), 2);
	ck_assert_str_eq(x86_rows[insn.row].name, "XCHG");
	ck_assert_int_eq(DECODE("\xf3\x90", 8), 2);
	ck_assert_str_eq(x86_rows[insn.row].name, "PAUSE");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("x86 decode");
	TCase *tc = tcase_create("decode");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 50);
	tcase_add_loop_test(tc, agrees_with_zydis, 0, 3);
	tcase_add_loop_test(tc, asks_for_missing_bytes, 0, 3);
	tcase_add_test(tc, limits_length_to_15);
	tcase_add_test(tc, lock_needs_memory_and_permission);
	tcase_add_test(tc, finds_operands);
	tcase_add_test(tc, tells_nop_from_exchange);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
