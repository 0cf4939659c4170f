// SPDX-License-Identifier: Apache-2.0
/* vhdx.c - the sum that VHDX images carry, with the processor's instruction for it and without. */
#include <check.h>
#include <stdlib.h>

#include "disk/formats/vhdx.h"

#define NOWHERE 1000u

START_TEST(sum_is_castagnolis)
{
	/* The check value that catalogues of CRCs give. */
	ck_assert_uint_eq(vhdx_sum((const uint8_t *)"123456789", 9, NOWHERE), 0xe3069283);
	ck_assert_uint_eq(~vhdx_sum_plain(UINT32_MAX, (const uint8_t *)"123456789", 9), 0xe3069283);
}
END_TEST

/* Wherever it lies, also across an end. */
START_TEST(sum_takes_itself_as_zeros)
{
	uint8_t bytes[64], blank[64];

	for (size_t at = 0; at < 80; at++) {
		size_t len = 30 + at % 35;

		for (size_t i = 0; i < sizeof(bytes); i++) {
			bytes[i] = (uint8_t)(i * 7 + at);
			blank[i] = i >= at && i < at + 4 ? 0 : bytes[i];
		}
		ck_assert_uint_eq(vhdx_sum(bytes, len, at), ~vhdx_sum_plain(UINT32_MAX, blank, len));
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vhdx");
	TCase *t = tcase_create("vhdx");
	SRunner *r = srunner_create(s);

	tcase_add_test(t, sum_is_castagnolis);
	tcase_add_test(t, sum_takes_itself_as_zeros);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
