// SPDX-License-Identifier: Apache-2.0
/* tables.c - ACPI and SMBIOS tables: reachable, summed right, and readable by ACPICA's compiler. */
#include <check.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/units.h"
#include "boot/layout.h"
#include "image.h"

static struct mem *mem;
static struct boot_config config;

static void setup(void)
{
	mem = image_mem(64 * MIB);
	config = (struct boot_config){ .name = "deer", .cpus = 64, .has_hpet = true, .srat = true };
}

static void teardown(void)
{
	mem_free(mem);
	image_cleanup();
}

static uint8_t *at(gpa_t gpa, uint64_t len)
{
	uint8_t *p = mem_ptr(mem, gpa, len);

	ck_assert_ptr_nonnull(p);
	return p;
}

static void check_sum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	ck_assert_uint_eq(sum, 0);
}

static uint8_t *table(gpa_t gpa, uint32_t *ret_len)
{
	*ret_len = load_le32(at(gpa, 36) + 4);
	ck_assert_uint_ge(*ret_len, 36);
	check_sum(at(gpa, *ret_len), *ret_len);
	return at(gpa, *ret_len);
}

/* The table of this name through RSDP and XSDT. */
static uint8_t *find(const char *signature, uint32_t *ret_len)
{
	const uint8_t *rsdp = at(LAYOUT_ACPI_BASE, 36);
	const uint8_t *xsdt;
	uint32_t len;

	ck_assert_int_eq(memcmp(rsdp, "RSD PTR ", 8), 0);
	check_sum(rsdp, 20);
	check_sum(rsdp, 36);
	xsdt = table(load_le64(rsdp + 24), &len);
	for (uint32_t i = 36; i + 8 <= len; i += 8) {
		uint8_t *t = table(load_le64(xsdt + i), ret_len);

		if (memcmp(t, signature, 4) == 0)
			return t;
	}
	return NULL;
}

static void write_acpi(void)
{
	uint64_t rsdp;

	ck_assert(boot_write_acpi(&config, mem, &rsdp, NULL));
	ck_assert_uint_eq(rsdp, LAYOUT_ACPI_BASE);
}

START_TEST(acpi_is_linked_and_summed)
{
	uint32_t len;
	uint8_t *fadt;

	write_acpi();
	fadt = find("FACP", &len);
	ck_assert_ptr_nonnull(fadt);
	ck_assert_uint_eq(len, 276);
	ck_assert_int_eq(memcmp(table(load_le64(fadt + 140), &len), "DSDT", 4), 0);
	ck_assert_int_eq(memcmp(at(load_le32(fadt + 36), 64), "FACS", 4), 0);
	ck_assert_uint_eq(load_le32(fadt + 36) % 64, 0);
	ck_assert_ptr_nonnull(find("APIC", &len));
	ck_assert_ptr_nonnull(find("MCFG", &len));
	ck_assert_ptr_nonnull(find("HPET", &len));
	ck_assert_ptr_nonnull(find("SRAT", &len));
}
END_TEST

START_TEST(acpi_leaves_out_what_is_absent)
{
	uint32_t len;

	config.has_hpet = config.srat = false;
	write_acpi();
	ck_assert_ptr_null(find("HPET", &len));
	ck_assert_ptr_null(find("SRAT", &len));
}
END_TEST

START_TEST(madt_counts_the_processors)
{
	uint32_t len, cpus = 0;
	uint8_t *madt;

	write_acpi();
	madt = find("APIC", &len);
	for (uint32_t i = 44; i < len; i += madt[i + 1]) {
		ck_assert_uint_ge(madt[i + 1], 2);
		if (madt[i] == 0)
			ck_assert_uint_eq(madt[i + 3], cpus++);
	}
	ck_assert_uint_eq(cpus, 64);
}
END_TEST

/* Disassemble one table and compile it again: both without an error or a warning. */
static void check_iasl(const uint8_t *bytes, uint32_t len, bool compile)
{
	g_autofree char *dir = g_dir_make_tmp("iasl-XXXXXX", NULL);
	g_autofree char *aml = g_build_filename(dir, "t.aml", NULL);
	g_autofree char *command = g_strdup_printf(
		"cd '%s' && iasl -d t.aml >log 2>&1 && ! grep -iE 'error|warning|invalid' log && "
		"%s; r=$?; [ $r = 0 ] || cat log; rm -rf '%s'; exit $r",
		dir,
		compile ? "iasl -we -p u t.dsl >log 2>&1"
			: "! grep -iE 'warning|error|unknown' t.dsl",
		dir);

	ck_assert(g_file_set_contents(aml, (const char *)bytes, (gssize)len, NULL));
	ck_assert_int_eq(system(command), 0);
}

START_TEST(acpica_understands_them)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG", "HPET", "SRAT" };
	g_autofree char *iasl = g_find_program_in_path("iasl");
	uint32_t len;
	uint8_t *t;

	if (!iasl) {
		printf("skipped: iasl (package acpica-tools) is not installed\n");
		return;
	}
	write_acpi();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		t = find(names[i], &len);
		check_iasl(t, len, false);
	}
	t = find("FACP", &len);
	t = table(load_le64(t + 140), &len);
	check_iasl(t, len, true);
}
END_TEST

/* SDM vol. 3, "MTRR Precedences", as far as our registers go: one variable range, no overlap. */
static unsigned memory_type(const struct x86_state *s, unsigned phys_bits, uint64_t gpa)
{
	uint64_t width = (1ull << phys_bits) - 1, base = s->mtrr_var[0], mask = s->mtrr_var[1];

	ck_assert(s->mtrr_def_type & 1u << 11);
	if (gpa < 0x80000)
		return s->mtrr_fixed[0] >> (gpa >> 16) * 8 & 0xff;
	if (gpa < 0xc0000)
		return s->mtrr_fixed[1 + (gpa >> 17 & 1)] >> (gpa >> 14 & 7) * 8 & 0xff;
	if (gpa < 0x100000)
		return s->mtrr_fixed[3 + (gpa >> 15 & 7)] >> (gpa >> 12 & 7) * 8 & 0xff;
	ck_assert(mask & 1u << 11);
	ck_assert_uint_eq((mask | base) & ~width, 0);
	mask &= ~0xfffull;
	return (gpa & mask) == (base & mask) ? base & 0xff : s->mtrr_def_type & 0xff;
}

START_TEST(memory_types_are_those_of_a_pc)
{
	static const struct {
		uint64_t gpa;
		unsigned type; /* 0 uncacheable, 5 write-protected, 6 write-back */
	} wanted[] = {
		{ 0, 6 },	    { 0x7ffff, 6 },	{ 0x9ffff, 6 },	    { 0xa0000, 0 },
		{ 0xbffff, 0 },	    { 0xc0000, 5 },	{ 0xfffff, 5 },	    { 0x100000, 6 },
		{ 0xbfffffff, 6 },  { 0xc0000000, 0 },	{ 0xfee00000, 0 },  { 0xffffffff, 0 },
		{ 0x100000000, 6 }, { 0x1c0000000, 6 }, { 0xfc0000000, 6 },
	};
	static const unsigned widths[] = { 36, 40, 46, 52 };

	for (size_t w = 0; w < G_N_ELEMENTS(widths); w++) {
		struct x86_state s = { 0 };

		boot_set_memory_types(&s, widths[w]);
		for (size_t i = 0; i < G_N_ELEMENTS(wanted); i++)
			ck_assert_msg(memory_type(&s, widths[w], wanted[i].gpa) == wanted[i].type,
				      "%#" PRIx64, wanted[i].gpa);
	}
}
END_TEST

START_TEST(smbios_walks_to_its_end)
{
	const uint8_t *e, *p, *end;
	uint64_t seen = 0;
	bool named = false;

	ck_assert(boot_write_smbios(&config, mem, NULL));
	e = at(LAYOUT_SMBIOS_BASE, 24);
	ck_assert_int_eq(memcmp(e, "_SM3_", 5), 0);
	check_sum(e, 24);
	p = at(load_le64(e + 16), load_le32(e + 12));
	end = p + load_le32(e + 12);
	while (p < end && p[0] != 127) {
		if (p[0] < 64)
			seen |= 1ull << p[0];
		p += p[1];
		do {
			named |= strcmp((const char *)p, "deer") == 0;
			p += strlen((const char *)p) + 1;
		} while (*p);
		p++;
	}
	ck_assert_uint_eq(p[0], 127);
	ck_assert_ptr_eq(p + 6, end);
	ck_assert(named);
	ck_assert_uint_eq(seen, 1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 4 | 1ull << 16 |
					1ull << 17 | 1ull << 19 | 1ull << 32);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("boot tables");
	TCase *tc = tcase_create("tables");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, acpi_is_linked_and_summed);
	tcase_add_test(tc, acpi_leaves_out_what_is_absent);
	tcase_add_test(tc, madt_counts_the_processors);
	tcase_add_test(tc, acpica_understands_them);
	tcase_add_test(tc, smbios_walks_to_its_end);
	tcase_add_test(tc, memory_types_are_those_of_a_pc);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
