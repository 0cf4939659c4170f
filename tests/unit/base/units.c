// SPDX-License-Identifier: Apache-2.0
/* units.c - tests of sizes as people write them. */
#include "base/units.h"

#include <check.h>
#include <stdlib.h>

static const struct {
	const char *text;
	uint64_t plain_unit, bytes;
} good[] = {
	{"0", 1, 0},
	{"512M", 1, 512 * MIB},
	{"1G", 1, GIB},
	{"4096k", 1, 4 * MIB},
	{"1.5G", 1, 3 * GIB / 2},
	{"1GiB", 1, GIB},
	{"1gb", 1, GIB},
	{"17B", MIB, 17},
	{"64", MIB, 64 * MIB},
	{"0.25K", 1, 256},
	{"7.9999999999999999999999K", 1, 8191},
	{"9223372036854775807", 1, INT64_MAX},
};

static const char *const bad[] = {
	"",   " 1G", "-1", "G", "1X", "1.G", "1.", ".5G", "1G ", "1GG", "0x10", "1e3",
	"9223372036854775808", "8388608T", "99999999999999999999999", "1.5.5G",
};

START_TEST(parses)
{
	g_autoptr(GError) err = NULL;
	uint64_t bytes = 1;

	ck_assert(size_parse(good[_i].text, good[_i].plain_unit, &bytes, &err));
	ck_assert_uint_eq(bytes, good[_i].bytes);
	ck_assert_ptr_null(err);
}
END_TEST

START_TEST(refuses_and_names_the_text)
{
	g_autoptr(GError) err = NULL;
	uint64_t bytes = 42;

	ck_assert(!size_parse(bad[_i], 1, &bytes, &err));
	ck_assert_ptr_nonnull(err);
	ck_assert_ptr_nonnull(g_strstr_len(err->message, -1, bad[_i]));
	ck_assert_uint_eq(bytes, 42);
}
END_TEST

START_TEST(formats)
{
	g_autofree char *a = size_format(0), *b = size_format(GIB), *c = size_format(3 * GIB / 2);

	ck_assert_str_eq(a, "0 bytes");
	ck_assert_str_eq(b, "1 GiB");
	ck_assert_str_eq(c, "1.5 GiB");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("units");
	TCase *t = tcase_create("size");
	SRunner *r;
	int failed;

	tcase_add_loop_test(t, parses, 0, G_N_ELEMENTS(good));
	tcase_add_loop_test(t, refuses_and_names_the_text, 0, G_N_ELEMENTS(bad));
	tcase_add_test(t, formats);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
