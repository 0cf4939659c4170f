// SPDX-License-Identifier: Apache-2.0
/* json.c - tests of flat objects in and strings out. */
#include "base/json.h"

#include <check.h>
#include <stdlib.h>

static void expect(const char *line, const char *key, const char *value)
{
	g_autoptr(GHashTable) found = json_parse_flat(line);

	ck_assert_msg(found != NULL, "refused: %s", line);
	ck_assert_str_eq(g_hash_table_lookup(found, key), value);
}

START_TEST(reads_flat_objects)
{
	expect("{\"a\":\"b\"}", "a", "b");
	expect(" { \"a\" : 12 , \"b\" : true } \n", "a", "12");
	expect("{\"a\":12,\"b\":null}", "b", "null");
	expect("{\"a\":-1.5e3}", "a", "-1.5e3");
	expect("{\"a\":\"x\\n\\t\\\"\\\\\\/\\u00e9\"}", "a", "x\n\t\"\\/\xc3\xa9");
	expect("{\"a\":1,\"a\":2}", "a", "2");
	expect("{\"\":\"\"}", "", "");
	g_autoptr(GHashTable) empty = json_parse_flat("{}");
	ck_assert(empty != NULL && g_hash_table_size(empty) == 0);
}
END_TEST

START_TEST(refuses_anything_else)
{
	static const char *const lines[] = {
		"", "x", "[]", "{", "}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\":1}x",
		"{\"a\":{}}", "{\"a\":[1]}", "{a:1}", "{\"a\":'b'}", "{\"a\":\"b}", "{\"a\":\"\\x\"}",
		"{\"a\":\"\\u12\"}", "{\"a\":\"\\u0000\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\n\"}",
		"{\"a\":1 2}", "{\"a\":--1}", "{\"a\":nul}", "{\"a\":\"\\", "{\"a\":1e}", "{\"a\":infinity}",
	};

	for (size_t i = 0; i < G_N_ELEMENTS(lines); i++)
		ck_assert_msg(json_parse_flat(lines[i]) == NULL, "taken: %s", lines[i]);
}
END_TEST

START_TEST(what_is_written_is_read_again)
{
	static const char *const texts[] = { "", "plain", "a\"b\\c\n1\t2\x7f", "h\xc3\xa9" };

	for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
		g_autoptr(GString) line = g_string_new("{\"a\":");

		json_append_string(line, texts[i]);
		g_string_append_c(line, '}');
		expect(line->str, "a", texts[i]);
	}
	g_autoptr(GString) line = g_string_new(NULL);
	json_append_string(line, "\xff");
	ck_assert_str_eq(line->str, "\"\xef\xbf\xbd\"");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("base json");
	TCase *tc = tcase_create("json");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, reads_flat_objects);
	tcase_add_test(tc, refuses_anything_else);
	tcase_add_test(tc, what_is_written_is_read_again);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
