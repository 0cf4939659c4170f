// SPDX-License-Identifier: Apache-2.0
/* loaders.c - bzImage, PVH and multiboot images, whole, cut short and hostile. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/units.h"
#include "boot/layout.h"
#include "image.h"

static struct mem *mem;
static struct x86_state state;
static char *message;

static void setup(void)
{
	mem = image_mem(64 * MIB);
}

static void teardown(void)
{
	mem_free(mem);
	g_clear_pointer(&message, g_free);
	image_cleanup();
}

static uint32_t read32(gpa_t gpa)
{
	uint8_t b[4];

	ck_assert_int_eq(mem_read(mem, gpa, b, sizeof(b)), 0);
	return load_le32(b);
}

static uint64_t read64(gpa_t gpa)
{
	return read32(gpa) | (uint64_t)read32(gpa + 4) << 32;
}

static const char *text_at(gpa_t gpa)
{
	return mem_ptr(mem, gpa, 1);
}

START_TEST(linux_64bit_entry)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);
	char *initrd = image_sparse(3 * MIB + 5);
	gpa_t params;

	ck_assert_msg(image_boot(image, initrd, "root=/dev/vda", mem, &state, &message), "%s",
		      message);
	ck_assert_uint_eq(state.rip, 0x1000200);
	ck_assert_uint_eq(state.efer, X86_EFER_LME | X86_EFER_LMA);
	ck_assert_uint_eq(state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE | X86_CR0_PG);
	ck_assert(state.seg[X86_CS].attr & X86_SEG_L);
	ck_assert_uint_eq(state.rflags & X86_FL_IF, 0);
	/* The page tables map the entry one to one. */
	ck_assert_uint_eq(read64((read64((read64(state.cr3) & ~0xfffull)) & ~0xfffull) + 8 * 8) &
				  ~0xfffull,
			  0x1000000);
	params = state.gpr[X86_RSI];
	ck_assert_uint_eq(read32(params + 0x202), 0x53726448);
	ck_assert_str_eq(text_at(read32(params + 0x228)), "root=/dev/vda");
	ck_assert_uint_eq(read32(params + 0x21c), 3 * MIB + 5);
	ck_assert_uint_eq(read32(params + 0x218), 61 * MIB - 4096);
	ck_assert_uint_eq(read64(params + 0x70), LAYOUT_ACPI_BASE);
	ck_assert_uint_eq(read32(0x1000000), 0x90909090);
}
END_TEST

START_TEST(linux_32bit_entry)
{
	g_autoptr(GByteArray) image = image_linux(5000, FALSE);

	ck_assert_msg(image_boot(image, NULL, NULL, mem, &state, &message), "%s", message);
	ck_assert_uint_eq(state.rip, 0x1000000);
	ck_assert_uint_eq(state.efer, 0);
	ck_assert_uint_eq(state.cr0 & X86_CR0_PG, 0);
	ck_assert(state.seg[X86_CS].attr & X86_SEG_DB);
	ck_assert_uint_eq(state.seg[X86_CS].selector, 0x10);
	ck_assert_uint_eq(state.seg[X86_SS].selector, 0x18);
}
END_TEST

START_TEST(linux_memory_map_has_the_hole)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);
	gpa_t params;
	bool high = false;
	unsigned n;

	mem_free(mem);
	mem = image_mem(5 * GIB);
	ck_assert_msg(image_boot(image, NULL, NULL, mem, &state, &message), "%s", message);
	params = state.gpr[X86_RSI];
	n = *(uint8_t *)mem_ptr(mem, params + 0x1e8, 1);
	for (unsigned i = 0; i < n; i++) {
		gpa_t e = params + 0x2d0 + i * 20;

		if (read32(e + 16) != 1)
			continue;
		ck_assert(mem_ptr(mem, read64(e), read64(e + 8)) != NULL);
		high |= read64(e) == MEM_HIGH_START && read64(e + 8) == 2 * GIB;
	}
	ck_assert(high);
}
END_TEST

START_TEST(linux_refuses_long_command_line)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);
	g_autofree char *cmdline = g_strnfill(2048, 'x');

	ck_assert(!image_boot(image, NULL, cmdline, mem, &state, &message));
	ck_assert_msg(strstr(message, "takes 2047"), "%s", message);
}
END_TEST

START_TEST(linux_refuses_big_initrd)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);
	char *initrd = image_sparse(900 * MIB);

	ck_assert(!image_boot(image, initrd, NULL, mem, &state, &message));
	ck_assert_msg(strstr(message, initrd) && strstr(message, "(900 MiB) does not fit"), "%s",
		      message);
	ck_assert_msg(strstr(message, "64 MiB of memory"), "%s", message);
}
END_TEST

START_TEST(linux_refuses_small_memory)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);

	mem_free(mem);
	mem = image_mem(8 * MIB);
	ck_assert(!image_boot(image, NULL, NULL, mem, &state, &message));
	ck_assert_msg(strstr(message, "does not fit"), "%s", message);
}
END_TEST

START_TEST(linux_refuses_cut_file)
{
	g_autoptr(GByteArray) image = image_linux(5000, TRUE);

	g_byte_array_set_size(image, 3000);
	ck_assert(!image_boot(image, NULL, NULL, mem, &state, &message));
	ck_assert_msg(strstr(message, "cut short"), "%s", message);
}
END_TEST

START_TEST(linux_refuses_hostile_addresses)
{
	static const uint64_t bad[] = { 0, 0xfff, 0xa0000, 0xc0000000, 0xfffffffff000, ~0ull,
					~0ull - 0x1fffff };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		g_autoptr(GByteArray) image = image_linux(5000, TRUE);

		store_le64(image->data + 0x258, bad[i]);
		ck_assert(!image_boot(image, NULL, NULL, mem, &state, &message));
		g_clear_pointer(&message, g_free);
	}
}
END_TEST

static const uint8_t code[] = { 0xf4, 0xeb, 0xfd, 0x90 };

START_TEST(pvh_entry)
{
	g_autoptr(GByteArray) image = image_elf(_i ? 64 : 32, 0x200000, 0x3000, code, sizeof(code),
						0x200002);
	char *initrd = image_file("initrd!", 7);
	gpa_t info, module;

	memset(mem_ptr(mem, 0x200000, 0x3000), 0xcc, 0x3000);
	ck_assert_msg(image_boot(image, initrd, "quiet", mem, &state, &message), "%s", message);
	ck_assert_uint_eq(state.rip, 0x200002);
	ck_assert_uint_eq(state.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
	ck_assert_uint_eq(read32(0x200000), load_le32(code));
	ck_assert_uint_eq(read32(0x202ffc), 0);
	info = state.gpr[X86_RBX];
	ck_assert_uint_eq(read32(info), 0x336ec578);
	ck_assert_uint_eq(read32(info + 4), 1);
	ck_assert_uint_eq(read32(info + 12), 1);
	module = read64(info + 16);
	ck_assert_uint_eq(read64(module + 8), 7);
	ck_assert_int_eq(memcmp(text_at(read64(module)), "initrd!", 7), 0);
	ck_assert_str_eq(text_at(read64(info + 24)), "quiet");
	ck_assert_uint_eq(read64(info + 32), LAYOUT_ACPI_BASE);
	ck_assert_uint_ge(read32(info + 48), 3);
}
END_TEST

static void put_multiboot(uint8_t *at, uint32_t flags)
{
	store_le32(at, 0x1badb002);
	store_le32(at + 4, flags);
	store_le32(at + 8, -(0x1badb002 + flags));
}

START_TEST(multiboot_elf)
{
	uint8_t body[64] = { 0 };
	g_autoptr(GByteArray) image = NULL;
	char *initrd = image_file("module", 6);
	gpa_t info, module;

	put_multiboot(body, 3);
	image = image_elf(32, 0x100000, 0x1000, body, sizeof(body), 0);
	ck_assert_msg(image_boot(image, initrd, "a b", mem, &state, &message), "%s", message);
	ck_assert_uint_eq(state.rip, 0x100000);
	ck_assert_uint_eq(state.gpr[X86_RAX], 0x2badb002);
	info = state.gpr[X86_RBX];
	ck_assert_uint_eq(read32(info) & 0x4d, 0x4d);
	ck_assert_uint_eq(read32(info + 8), 63 * 1024);
	ck_assert_str_eq(text_at(read32(info + 16)), "a b");
	ck_assert_uint_eq(read32(info + 20), 1);
	module = read32(info + 24);
	ck_assert_uint_eq(read32(module + 4) - read32(module), 6);
	ck_assert_uint_eq(read32(read32(info + 48)), 20);
}
END_TEST

START_TEST(multiboot_raw)
{
	g_autoptr(GByteArray) image = g_byte_array_new();

	g_byte_array_set_size(image, 0x300);
	memset(image->data, 0x11, image->len);
	put_multiboot(image->data + 0x20, 0x10000);
	store_le32(image->data + 0x2c, 0x300020); /* header address */
	store_le32(image->data + 0x30, 0x300010); /* load: from file offset 0x10 on */
	store_le32(image->data + 0x34, 0x300110);
	store_le32(image->data + 0x38, 0x302000);
	store_le32(image->data + 0x3c, 0x300080);
	memset(mem_ptr(mem, 0x300000, 0x3000), 0xcc, 0x3000);
	ck_assert_msg(image_boot(image, NULL, NULL, mem, &state, &message), "%s", message);
	ck_assert_uint_eq(state.rip, 0x300080);
	ck_assert_uint_eq(read32(0x300020), 0x1badb002);
	ck_assert_uint_eq(read32(0x30010c), 0x11111111);
	ck_assert_uint_eq(read32(0x300110), 0);
	ck_assert_uint_eq(read32(0x301ffc), 0);
	ck_assert_uint_eq(read32(0x302000), 0xcccccccc);
}
END_TEST

START_TEST(multiboot_refuses_hostile_addresses)
{
	static const uint32_t bad[][4] = {
		/* header, load, load_end, bss_end */
		{ 0x200000, 0x300000, 0, 0 },	       { 0x200000, 0x1ff000, 0, 0 },
		{ 0x200000, 0x200000, 0x1fffff, 0 },   { 0x200000, 0x200000, 0xffffffff, 0 },
		{ 0x200000, 0x200000, 0, 0x200001 },   { 0x200000, 0x200000, 0, 0xfffffff0 },
		{ 0xfffffff0, 0xfffffff0, 0, 0 },      { 0xe0000, 0xe0000, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		g_autoptr(GByteArray) image = g_byte_array_new();

		g_byte_array_set_size(image, 0x300);
		memset(image->data, 0, image->len);
		put_multiboot(image->data, 0x10000);
		for (unsigned f = 0; f < 4; f++)
			store_le32(image->data + 12 + 4 * f, bad[i][f]);
		ck_assert_msg(!image_boot(image, NULL, NULL, mem, &state, &message), "case %zu", i);
		g_clear_pointer(&message, g_free);
	}
}
END_TEST

START_TEST(elf_refuses_segment_outside_memory)
{
	static const uint64_t bad[] = { 0x3fff000, 0xc0000000, 0xfffff000, 0xe0000 };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		g_autoptr(GByteArray) image = image_elf(64, bad[i], 0x2000, code, sizeof(code),
							bad[i]);

		ck_assert(!image_boot(image, NULL, NULL, mem, &state, &message));
		g_clear_pointer(&message, g_free);
	}
}
END_TEST

START_TEST(names_what_is_not_a_kernel)
{
	struct boot_config config = { .kernel = "/nonexistent/vmlinuz", .cpus = 1 };
	g_autoptr(GByteArray) text = g_byte_array_new();
	g_autoptr(GError) err = NULL;

	g_byte_array_append(text, (const uint8_t *)"#!/bin/sh\n", 10);
	ck_assert(!image_boot(text, NULL, NULL, mem, &state, &message));
	ck_assert_msg(g_str_has_suffix(message,
				       ": not a kernel: neither bzImage, PVH ELF nor multiboot"),
		      "%s", message);
	ck_assert(!boot_load(&config, mem, &state, &err));
	ck_assert_str_eq(err->message, "kernel '/nonexistent/vmlinuz': cannot open: No such file "
				       "or directory");
	g_clear_error(&err);
	config.kernel = "/";
	ck_assert(!boot_load(&config, mem, &state, &err));
	ck_assert_str_eq(err->message, "kernel '/': is a directory");
	g_clear_error(&err);
	config.kernel = "/dev/null";
	ck_assert(!boot_load(&config, mem, &state, &err));
	ck_assert_str_eq(err->message, "kernel '/dev/null': is not a regular file");
}
END_TEST

/* Every truncation, and every byte of the headers set to all ones or flipped: whatever comes out,
 * it must not crash (sanitizers watch). */
static void torture(GByteArray *image, size_t header)
{
	for (size_t i = 0; i < MIN(image->len, header); i++) {
		static const uint8_t masks[] = { 0xff, 0x80, 0x01 };

		for (size_t m = 0; m < ARRAY_SIZE(masks); m++) {
			image->data[i] ^= masks[m];
			(void)image_boot(image, NULL, NULL, mem, &state, &message);
			g_clear_pointer(&message, g_free);
			image->data[i] ^= masks[m];
		}
	}
	for (guint len = image->len - 1; len > 0; len -= MIN(len, 97)) {
		g_byte_array_set_size(image, len);
		(void)image_boot(image, NULL, NULL, mem, &state, &message);
		g_clear_pointer(&message, g_free);
	}
	image_cleanup();
}

START_TEST(survives_damaged_images)
{
	uint8_t body[64] = { 0 };
	g_autoptr(GByteArray) pvh64 = image_elf(64, 0x200000, 4096, code, sizeof(code), 0x200000);
	g_autoptr(GByteArray) pvh32 = image_elf(32, 0x200000, 4096, code, sizeof(code), 0x200000);
	g_autoptr(GByteArray) multiboot = NULL;
	g_autoptr(GByteArray) bzimage = image_linux(600, TRUE);

	put_multiboot(body, 3);
	multiboot = image_elf(32, 0x100000, 0x1000, body, sizeof(body), 0);
	mem_free(mem);
	mem = image_mem(20 * MIB);
	torture(pvh64, 200);
	torture(pvh32, 140);
	torture(multiboot, 140);
	torture(bzimage, 0); /* truncations */
	g_byte_array_unref(g_steal_pointer(&bzimage));
	bzimage = image_linux(600, TRUE);
	for (guint i = 0x1f0; i < 0x270; i++) {
		bzimage->data[i] ^= 0xff;
		(void)image_boot(bzimage, NULL, NULL, mem, &state, &message);
		g_clear_pointer(&message, g_free);
		bzimage->data[i] ^= 0xff;
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("boot loaders");
	TCase *tc = tcase_create("loaders");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 50);
	tcase_add_test(tc, linux_64bit_entry);
	tcase_add_test(tc, linux_32bit_entry);
	tcase_add_test(tc, linux_memory_map_has_the_hole);
	tcase_add_test(tc, linux_refuses_long_command_line);
	tcase_add_test(tc, linux_refuses_big_initrd);
	tcase_add_test(tc, linux_refuses_small_memory);
	tcase_add_test(tc, linux_refuses_cut_file);
	tcase_add_test(tc, linux_refuses_hostile_addresses);
	tcase_add_loop_test(tc, pvh_entry, 0, 2);
	tcase_add_test(tc, multiboot_elf);
	tcase_add_test(tc, multiboot_raw);
	tcase_add_test(tc, multiboot_refuses_hostile_addresses);
	tcase_add_test(tc, elf_refuses_segment_outside_memory);
	tcase_add_test(tc, names_what_is_not_a_kernel);
	tcase_add_test(tc, survives_damaged_images);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
