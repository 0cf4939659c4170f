// SPDX-License-Identifier: Apache-2.0
/* state.c - tests of saving and loading by table. */
#include "base/state.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

struct part {
	uint16_t a;
	bool b;
};

struct thing {
	uint8_t small;
	int64_t big;
	uint32_t list[3];
	struct part parts[2];
	uint32_t added;
};

static const struct state_field part_fields[] = {
	STATE_UINT(struct part, a),
	STATE_BOOL(struct part, b),
	STATE_END,
};

static const struct state_field fields_v1[] = {
	STATE_UINT_MAX(struct thing, small, 5),
	STATE_UINT(struct thing, big),
	STATE_ARRAY(struct thing, list),
	STATE_GROUPS(struct thing, parts, part_fields),
	STATE_END,
};

static const struct state_field fields_v2[] = {
	STATE_UINT_MAX(struct thing, small, 5),
	{STATE_FIELD(struct thing, added, STATE_KIND_UINT), .since = 2},
	STATE_UINT(struct thing, big),
	STATE_ARRAY(struct thing, list),
	STATE_GROUPS(struct thing, parts, part_fields),
	STATE_END,
};

static const struct state_desc v1 = {"thing", 1, fields_v1};
static const struct state_desc v2 = {"thing", 2, fields_v2};
static const struct state_desc other = {"other", 1, fields_v1};

static const struct thing sample = {
	.small = 5, .big = -2, .list = {1, 2, 0xfffffffeu}, .parts = {{7, true}, {9, false}},
	.added = 42,
};

/* name 1 + 5, head 6, fields 1 + 8 + 12 + 2 * 3 */
#define RECORD_BYTES (6 + 6 + 27)

static GByteArray *saved(const struct state_desc *desc)
{
	GByteArray *out = g_byte_array_new();

	state_save(desc, &sample, out);
	return out;
}

START_TEST(comes_back_as_it_was)
{
	g_autoptr(GByteArray) out = saved(&v1);
	struct state_reader in = {out->data, out->len};
	struct thing t = {.added = 13};

	ck_assert_uint_eq(out->len, RECORD_BYTES);
	ck_assert(state_load(&v1, &t, &in, NULL));
	ck_assert_uint_eq(in.left, 0);
	ck_assert_uint_eq(t.small, 5);
	ck_assert_int_eq(t.big, -2);
	ck_assert_mem_eq(t.list, sample.list, sizeof(t.list));
	ck_assert_uint_eq(t.parts[1].a, 9);
	ck_assert(t.parts[0].b && !t.parts[1].b);
	ck_assert_uint_eq(t.added, 13);
}
END_TEST

START_TEST(knows_older_versions_and_refuses_newer)
{
	g_autoptr(GByteArray) old = saved(&v1), new = saved(&v2);
	struct state_reader in = {old->data, old->len};
	g_autoptr(GError) err = NULL;
	struct thing t = {.added = 13};

	ck_assert(state_load(&v2, &t, &in, NULL));
	ck_assert_uint_eq(t.added, 13);
	ck_assert_int_eq(t.big, -2);
	in = (struct state_reader){new->data, new->len};
	ck_assert(!state_load(&v1, &t, &in, &err));
	ck_assert_ptr_nonnull(strstr(err->message, "newer"));
	ck_assert_uint_eq(in.left, new->len);
	ck_assert(state_load(&v2, &t, &in, NULL));
	ck_assert_uint_eq(t.added, 42);
}
END_TEST

START_TEST(refuses_damage_and_touches_nothing)
{
	static const struct {
		unsigned at;
		uint8_t value;
	} damage[] = {
		{0, 4}, {1, 'T'}, {6, 0}, {6, 2}, {8, 26}, {8, 28}, {11, 1}, {12, 6}, {35, 2},
	};
	g_autoptr(GByteArray) out = saved(&v1);
	struct thing t = {.small = 1};

	for (unsigned i = 0; i < G_N_ELEMENTS(damage); i++) {
		struct state_reader in = {out->data, out->len};
		uint8_t before = out->data[damage[i].at];
		g_autoptr(GError) err = NULL;

		out->data[damage[i].at] = damage[i].value;
		ck_assert_msg(!state_load(&v1, &t, &in, &err), "damage %u", i);
		ck_assert_ptr_nonnull(err);
		ck_assert_int_eq(t.big, 0);
		out->data[damage[i].at] = before;
	}
	for (unsigned len = 0; len < out->len; len++) {
		struct state_reader in = {out->data, len};

		ck_assert(!state_load(&v1, &t, &in, NULL));
	}
	ck_assert(!state_load(&other, &t, &(struct state_reader){out->data, out->len}, NULL));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("state");
	TCase *t = tcase_create("state");
	SRunner *r;
	int failed;

	tcase_add_test(t, comes_back_as_it_was);
	tcase_add_test(t, knows_older_versions_and_refuses_newer);
	tcase_add_test(t, refuses_damage_and_touches_nothing);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
