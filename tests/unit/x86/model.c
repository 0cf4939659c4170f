// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* model.c - tests of processor models: levels, flags that need each other, the leaves they give. */
#include "sys_env.h"

#include "x86/insns.h"

static const struct x86_cpu_flag *flag(const char *name)
{
	const struct x86_cpu_flag *f = x86_cpu_flag_find(name, strlen(name));

	ck_assert_msg(f != NULL, "no flag %s", name);
	return f;
}

static struct x86_cpu_spec spec_of(const char *base)
{
	int row = x86_cpu_base_find(base, strlen(base));

	ck_assert_msg(row >= 0, "no model %s", base);
	return (struct x86_cpu_spec){ .base = (uint8_t)row };
}

/* An engine that can show everything. */
static struct x86_cpuid_model everything(void)
{
	struct x86_cpuid_model m;

	x86_cpuid_model_max(&m);
	memset(m.word, 0xff, sizeof(m.word));
	m.xcr0 = ~0ull;
	return m;
}

static struct x86_cpuid_model make(const struct x86_cpu_spec *spec)
{
	struct x86_cpuid_model max = everything(), m;
	const char *missing;

	ck_assert(x86_cpuid_model_make(&m, &max, spec, &missing));
	ck_assert_ptr_null(missing);
	return m;
}

static bool has_all(const struct x86_cpuid_model *m, const char *names)
{
	for (const char *p = names; *p;) {
		size_t len = strcspn(p, " ");
		const struct x86_cpu_flag *f = x86_cpu_flag_find(p, len);

		ck_assert_msg(f != NULL, "no flag %.*s", (int)len, p);
		if (!x86_cpuid_model_has(m, f))
			return false;
		p += len + (p[len] == ' ');
	}
	return true;
}

static unsigned flag_count(const struct x86_cpuid_model *m)
{
	const struct x86_cpu_flag *f;
	unsigned n = 0;

	for (size_t i = 0; (f = x86_cpu_flag(i)); i++)
		n += x86_cpuid_model_has(m, f);
	return n;
}

START_TEST(flags_are_one_bit_each)
{
	const struct x86_cpu_flag *a, *b;

	for (size_t i = 0; (a = x86_cpu_flag(i)); i++) {
		ck_assert_uint_lt(a->word, X86_CPUID_WORDS);
		ck_assert_uint_lt(a->bit, 32);
		ck_assert_ptr_eq(x86_cpu_flag_find(a->name, strlen(a->name)), a);
		for (size_t j = 0; j < i; j++) {
			b = x86_cpu_flag(j);
			ck_assert_str_ne(a->name, b->name);
			ck_assert(a->word != b->word || a->bit != b->bit);
		}
	}
	ck_assert_ptr_null(x86_cpu_flag_find("", 0));
	ck_assert_ptr_null(x86_cpu_flag_find("av", 2));
	ck_assert_ptr_null(x86_cpu_flag_find("avx22", 5));
}
END_TEST

/* The table of the ABI, and nothing of the next level. */
START_TEST(levels_are_those_of_the_abi)
{
	static const struct {
		const char *name, *has, *lacks;
		unsigned flags; /* with what is always kept */
	} level[] = {
		{ "x86-64-v1", "cmov cx8 fpu fxsr mmx syscall sse sse2 lm nx pae apic", "pni", 32 },
		{ "x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 rdtscp", "avx", 40 },
		{ "x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave smep fsgsbase",
		  "avx512f", 55 },
		{ "x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl smap", "avx512vbmi", 66 },
	};

	for (unsigned i = 0; i < 4; i++) {
		struct x86_cpu_spec spec = spec_of(level[i].name);
		struct x86_cpuid_model m = make(&spec);

		for (unsigned j = 0; j <= i; j++)
			ck_assert_msg(has_all(&m, level[j].has), "%s", level[i].name);
		ck_assert(!has_all(&m, level[i].lacks));
		ck_assert_uint_eq(flag_count(&m), level[i].flags);
		ck_assert(strstr((const char *)m.brand, level[i].name) != NULL);
		ck_assert(m.neutral);
		ck_assert_uint_eq(m.xcr0, i < 2 ? 0 : i == 2 ? 7 : 0xe7);
	}
}
END_TEST

START_TEST(a_flag_brings_what_it_needs)
{
	struct x86_cpu_spec spec = spec_of("x86-64-v1");
	struct x86_cpuid_model m;

	x86_cpu_spec_set(&spec, flag("avx512_vbmi2"), true);
	m = make(&spec);
	ck_assert(has_all(&m, "avx512bw avx512f avx2 avx fma f16c xsave sse4_2 sse4_1 ssse3 pni"));
	ck_assert(!has_all(&m, "avx512vl") && !has_all(&m, "popcnt"));
	ck_assert_uint_eq(m.xcr0, 0xe7);
}
END_TEST

START_TEST(a_flag_takes_along_what_needs_it)
{
	struct x86_cpu_spec spec = spec_of("max");
	struct x86_cpuid_model m;

	x86_cpu_spec_set(&spec, flag("xsave"), false);
	m = make(&spec);
	ck_assert(!has_all(&m, "avx") && !has_all(&m, "avx2") && !has_all(&m, "avx512vl"));
	ck_assert(!has_all(&m, "xsaveopt") && !has_all(&m, "pku") && !has_all(&m, "amx_int8"));
	ck_assert(has_all(&m, "sse4_2 aes popcnt bmi2"));
	ck_assert_uint_eq(m.xcr0, 0);
}
END_TEST

START_TEST(the_last_word_counts)
{
	struct x86_cpu_spec spec = spec_of("x86-64-v2");
	struct x86_cpuid_model m;

	x86_cpu_spec_set(&spec, flag("avx2"), true);
	x86_cpu_spec_set(&spec, flag("avx"), false);
	m = make(&spec);
	ck_assert(!has_all(&m, "avx") && !has_all(&m, "avx2"));
	ck_assert(has_all(&m, "xsave"));
	x86_cpu_spec_set(&spec, flag("avx2"), true);
	m = make(&spec);
	ck_assert(has_all(&m, "avx avx2"));
	for (unsigned i = 0; i < X86_CPUID_WORDS; i++)
		ck_assert_uint_eq(spec.add[i] & spec.drop[i], 0);
}
END_TEST

/* Add and drop are two sides of one table. */
START_TEST(needing_goes_both_ways)
{
	const struct x86_cpu_flag *a, *b;

	for (size_t i = 0; (a = x86_cpu_flag(i)); i++) {
		struct x86_cpu_spec up = { 0 };

		x86_cpu_spec_set(&up, a, true);
		ck_assert(up.add[a->word] >> a->bit & 1);
		for (size_t j = 0; (b = x86_cpu_flag(j)); j++) {
			struct x86_cpu_spec down = { 0 };

			x86_cpu_spec_set(&down, b, false);
			ck_assert_msg((up.add[b->word] >> b->bit & 1) ==
					      (down.drop[a->word] >> a->bit & 1),
				      "%s and %s", a->name, b->name);
		}
	}
}
END_TEST

START_TEST(what_is_missing_is_named)
{
	struct x86_cpuid_model max = everything(), m;
	struct x86_cpu_spec spec = spec_of("x86-64-v3");
	const char *missing = NULL;

	max.word[X86_CPUID_7_EBX] &= ~(1u << 8);
	ck_assert(!x86_cpuid_model_make(&m, &max, &spec, &missing));
	ck_assert_str_eq(missing, "bmi2");
	x86_cpu_spec_set(&spec, flag("bmi2"), false);
	ck_assert(x86_cpuid_model_make(&m, &max, &spec, &missing));
	x86_cpu_spec_set(&spec, flag("bmi2"), true);
	ck_assert(!x86_cpuid_model_make(&m, &max, &spec, &missing));
	ck_assert_str_eq(missing, "bmi2");
}
END_TEST

START_TEST(host_is_no_more_than_the_host_has)
{
	struct x86_cpu_spec spec = spec_of("host");
	uint32_t host[X86_CPUID_WORDS];
	struct x86_cpuid_model m = make(&spec);
	const struct x86_cpu_flag *f;

	x86_cpuid_host_words(host);
	for (size_t i = 0; (f = x86_cpu_flag(i)); i++)
		if (f->word != X86_CPUID_EXT8_EBX && strcmp(f->name, "hypervisor") &&
		    strcmp(f->name, "x2apic") && strcmp(f->name, "tsc_deadline_timer") &&
		    f->word != X86_CPUID_7_EDX && strcmp(f->name, "topoext"))
			ck_assert_msg(x86_cpuid_model_has(&m, f) == (host[f->word] >> f->bit & 1),
				      "%s", f->name);
}
END_TEST

static void show(struct env *e, const struct x86_cpu_spec *spec)
{
	struct x86_cpuid_model max;
	const char *missing;

	x86_cpuid_model_max(&max);
	ck_assert(x86_cpuid_model_make(&e->model, &max, spec, &missing));
	x86_cpu_reset(&e->cpu);
}

START_TEST(leaves_follow_the_model)
{
	struct x86_cpu_spec spec = spec_of("x86-64-v2");
	struct env *e = env_new();
	uint32_t r[4];

	show(e, &spec);
	x86_cpuid(&e->cpu, 1, 0, r);
	ck_assert_uint_eq(r[0], e->model.amd ? 0x60fb1 : 0x6fb);
	ck_assert_uint_eq(r[2] & (1u << 26 | 1u << 28), 0); /* XSAVE, AVX */
	ck_assert_uint_ne(r[2] & 1u << 20, 0);		     /* SSE4.2 */
	x86_cpuid(&e->cpu, 1, 7, r);			     /* has no subleaves */
	ck_assert_uint_ne(r[2] & 1u << 20, 0);
	x86_cpuid(&e->cpu, 7, 1, r);
	ck_assert_uint_eq(r[0] | r[1] | r[2] | r[3], 0);
	for (unsigned i = 0; i < 3; i++) {
		x86_cpuid(&e->cpu, 0xd, i, r);
		ck_assert_uint_eq(r[0] | r[1] | r[2] | r[3], 0);
	}
	x86_cpuid(&e->cpu, 0x80000002, 0, r);
	ck_assert_int_eq(memcmp(r, "Virtual CPU x86-", 16), 0);

	x86_cpu_spec_set(&spec, flag("xsave"), true);
	show(e, &spec);
	x86_cpuid(&e->cpu, 0xd, 0, r);
	ck_assert_uint_eq(r[0], 3);
	ck_assert_uint_eq(r[2], 576);
	x86_cpuid(&e->cpu, 0xd, 1, r);
	ck_assert_uint_eq(r[0], 0); /* no XSAVEOPT */
	x86_cpuid(&e->cpu, 0xd, 2, r);
	ck_assert_uint_eq(r[0], 0);
	env_free(e);
}
END_TEST

START_TEST(rows_without_their_flag_are_undefined)
{
	static const uint8_t popcnt[] = { 0xf3, 0x0f, 0xb8, 0xc0 };
	struct x86_cpu_spec spec = spec_of("max");
	struct env *e = env_new();
	struct x86_insn insn;

	show(e, &spec);
	ck_assert_int_eq(x86_decode(popcnt, sizeof(popcnt), 8, &insn), 4);
	x86_insn_restrict(&e->cpu, &insn);
	ck_assert(insn.exec != x86_op_ud);
	x86_cpu_spec_set(&spec, flag("popcnt"), false);
	show(e, &spec);
	x86_insn_restrict(&e->cpu, &insn);
	ck_assert(insn.exec == x86_op_ud);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("x86 model");
	TCase *tc = tcase_create("model");
	SRunner *sr;
	int failed;

	tcase_add_test(tc, flags_are_one_bit_each);
	tcase_add_test(tc, levels_are_those_of_the_abi);
	tcase_add_test(tc, a_flag_brings_what_it_needs);
	tcase_add_test(tc, a_flag_takes_along_what_needs_it);
	tcase_add_test(tc, the_last_word_counts);
	tcase_add_test(tc, needing_goes_both_ways);
	tcase_add_test(tc, what_is_missing_is_named);
	tcase_add_test(tc, host_is_no_more_than_the_host_has);
	tcase_add_test(tc, leaves_follow_the_model);
	tcase_add_test(tc, rows_without_their_flag_are_undefined);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed != 0;
}
