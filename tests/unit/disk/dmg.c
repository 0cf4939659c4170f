// SPDX-License-Identifier: Apache-2.0
/* dmg.c - tests of pieces of DMG images that are packed by ADC: each code, and what is none. */
#include <check.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "disk/formats/dmg.h"

/* In memory of their exact sizes, so that sanitizers see a byte too much. */
static bool unpack(const uint8_t *packed, size_t len, uint8_t *to)
{
	const struct dmg_piece p = { .kind = DMG_ADC, .count = 1, .len = len };
	g_autofree uint8_t *from = g_memdup2(packed, len);
	g_autofree uint8_t *room = g_malloc0(DISK_SECTOR_SIZE);
	bool ok = dmg_unpack_piece(&p, from, room);

	memcpy(to, room, DISK_SECTOR_SIZE);
	return ok;
}

/* 128 and 64 bytes as they are, both kinds of copies, one of what it gives itself. */
static size_t sector(uint8_t *packed, uint8_t *wanted)
{
	static const uint8_t copies[] = {
		0x3c, 0x00,	  /* 18 from 1 back */
		0x00, 209,	  /* 3 from 210 back, the first bytes */
		0x7f, 0x00, 0x40, /* 67 from 65 back */
		0x40, 0x00, 0x00, /* 4 from 1 back */
	};
	size_t at = 0, done = 0;

	packed[at++] = 0xff;
	for (unsigned i = 0; i < 128; i++)
		wanted[done++] = packed[at++] = (uint8_t)(i * 7 + 1);
	packed[at++] = 0x80 | 63;
	for (unsigned i = 0; i < 64; i++)
		wanted[done++] = packed[at++] = (uint8_t)(200 - i);
	memcpy(packed + at, copies, sizeof(copies));
	at += sizeof(copies);
	for (unsigned i = 0; i < 18; i++, done++)
		wanted[done] = wanted[done - 1];
	for (unsigned i = 0; i < 3; i++, done++)
		wanted[done] = wanted[done - 210];
	for (unsigned i = 0; i < 67; i++, done++)
		wanted[done] = wanted[done - 65];
	for (unsigned i = 0; i < 4; i++, done++)
		wanted[done] = wanted[done - 1];
	/* The rest from the start, 57 at a time. */
	while (done < DISK_SECTOR_SIZE) {
		size_t n = MIN(DISK_SECTOR_SIZE - done, 57u), back = done;

		packed[at++] = (uint8_t)(0x40 | (n - 4));
		packed[at++] = (uint8_t)((back - 1) >> 8);
		packed[at++] = (uint8_t)(back - 1);
		for (; n > 0; n--, done++)
			wanted[done] = wanted[done - back];
	}
	return at;
}

START_TEST(each_code_gives_its_bytes)
{
	uint8_t packed[1024], wanted[DISK_SECTOR_SIZE], is[DISK_SECTOR_SIZE];
	size_t len = sector(packed, wanted);

	ck_assert(unpack(packed, len, is));
	ck_assert_mem_eq(is, wanted, sizeof(is));
	/* What follows a whole piece is nobody's. */
	ck_assert(unpack(packed, len + 5, is));
}
END_TEST

START_TEST(what_is_cut_short_is_refused)
{
	uint8_t packed[1024], wanted[DISK_SECTOR_SIZE], is[DISK_SECTOR_SIZE];
	size_t len = sector(packed, wanted);

	for (size_t n = 0; n < len; n++)
		ck_assert(!unpack(packed, n, is));
}
END_TEST

START_TEST(no_code_leaves_its_piece)
{
	static const struct {
		size_t len;
		uint8_t bytes[8];
	} bad[] = {
		{ 2, { 0x00, 0x00 } },		    /* from in front of the first byte */
		{ 3, { 0x40, 0x00, 0x00 } },
		{ 4, { 0x80, 1, 0x00, 0x01 } },	    /* two back, where there is one */
		{ 5, { 0x80, 1, 0x40, 0x00, 0x01 } },
		{ 5, { 0x80, 1, 0x7f, 0xff, 0xff } },
	};
	uint8_t packed[1024], wanted[DISK_SECTOR_SIZE], is[DISK_SECTOR_SIZE];

	for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
		size_t n;

		/* They are wrong where more than a piece follows as well. */
		memset(packed, 0xff, sizeof(packed));
		memcpy(packed, bad[i].bytes, bad[i].len);
		ck_assert(!unpack(packed, sizeof(packed), is));
		/* The last code gives a byte more than there is room for. */
		n = sector(packed, wanted);
		packed[n - 3]++;
		ck_assert(!unpack(packed, n, is));
	}
	/* Three times 128 bytes as they are, 127, and two or one. */
	for (unsigned i = 0; i < 3; i++)
		packed[i * 129] = 0xff;
	packed[3 * 129] = 0x80 | 126;
	packed[3 * 129 + 128] = 0x80 | 1;
	ck_assert(!unpack(packed, 3 * 129 + 128 + 3, is));
	packed[3 * 129 + 128] = 0x80;
	ck_assert(unpack(packed, 3 * 129 + 128 + 2, is));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dmg");
	TCase *c = tcase_create("adc");
	SRunner *runner;
	int failed;

	tcase_add_test(c, each_code_gives_its_bytes);
	tcase_add_test(c, what_is_cut_short_is_refused);
	tcase_add_test(c, no_code_leaves_its_piece);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
