// SPDX-License-Identifier: Apache-2.0
/*
 * multiboot.c - multiboot 1 images: ELF, or raw with the address fields of the header.
 *
 * GNU Multiboot Specification 0.6.96. The initrd is the only module. Flat 32-bit mode, EAX holds
 * the loader's magic, EBX points to the information structure.
 */
#include "boot/boot_int.h"

#include <string.h>

#include "base/bits.h"
#include "base/units.h"

#define MB_HEADER_MAGIC 0x1badb002u
#define MB_LOADER_MAGIC 0x2badb002u
#define MB_HEADER_SIZE	12u
#define MB_ADDRESS_SIZE 32u /* with the five address fields */
#define MB_MUST_KNOW	0xffffu
#define MB_ALIGN	(1u << 0)
#define MB_MEMORY	(1u << 1)
#define MB_VIDEO	(1u << 2) /* a wish: there is no screen to set a mode on */
#define MB_ADDRESSES	(1u << 16)

#define MB_INFO_SIZE	88u
#define MB_INFO_MEMORY	(1u << 0)
#define MB_INFO_CMDLINE (1u << 2)
#define MB_INFO_MODULES (1u << 3)
#define MB_INFO_MAP	(1u << 6)
#define MB_INFO_LOADER	(1u << 9)
#define MB_MAP_ENTRY	24u /* the size field counts the 20 bytes behind it */
#define MB_MODULE_SIZE	16u
#define MB_CMDLINE_MAX	4096u

static const char mb_loader_name[] = "sika";

int boot_find_multiboot(const struct boot *boot)
{
	for (size_t at = 0; at + MB_HEADER_SIZE <= boot->head_len; at += 4) {
		uint32_t flags = load_le32(boot->head + at + 4);

		if (load_le32(boot->head + at) == MB_HEADER_MAGIC &&
		    MB_HEADER_MAGIC + flags + load_le32(boot->head + at + 8) == 0)
			return (int)at;
	}
	return -1;
}

static bool out_of_memory(struct boot *boot, uint64_t size, uint64_t at, GError **err)
{
	g_autofree char *memory = size_format(mem_size(boot->mem));

	return boot_file_fail(&boot->kernel, err,
			      "does not fit: 0x%" PRIx64 " bytes at 0x%" PRIx64
			      " lie outside %s of memory, or on the machine's tables",
			      size, at, memory);
}

/* Raw image: the header itself says what goes where (specification 3.1.3). */
static bool load_raw(struct boot *boot, unsigned header, uint32_t *ret_entry, GError **err)
{
	const uint8_t *h = boot->head + header;
	uint32_t header_addr, load, load_end, bss_end;
	uint64_t offset, file_len, mem_len;
	uint8_t *to;

	if (boot->head_len - header < MB_ADDRESS_SIZE)
		return boot_file_fail(&boot->kernel, err, "has a multiboot header cut short");
	header_addr = load_le32(h + 12);
	load = load_le32(h + 16);
	load_end = load_le32(h + 20);
	bss_end = load_le32(h + 24);
	*ret_entry = load_le32(h + 28);
	if (load > header_addr || header_addr - load > header)
		return boot_file_fail(&boot->kernel, err,
				      "has a multiboot header that loads before the file's start");
	offset = header - (header_addr - load);
	file_len = boot->kernel.size - offset;
	if (load_end != 0) {
		if (load_end < load || load_end - load > file_len)
			return boot_file_fail(&boot->kernel, err,
					      "is shorter than its multiboot header says");
		file_len = load_end - load;
	}
	mem_len = file_len;
	if (bss_end != 0) {
		if (bss_end < load || bss_end - load < file_len)
			return boot_file_fail(&boot->kernel, err,
					      "has a multiboot header whose bss ends before its data");
		mem_len = bss_end - load;
	}
	to = mem_ptr(boot->mem, load, mem_len);
	if (!to || boot_is_taken(boot, load, mem_len))
		return out_of_memory(boot, mem_len, load, err);
	if (!boot_file_load(&boot->kernel, boot->mem, offset, load, file_len, err))
		return false;
	memset(to + file_len, 0, mem_len - file_len);
	mem_written(boot->mem, load + file_len, mem_len - file_len);
	boot_take(boot, load, mem_len);
	return true;
}

static bool load_image(struct boot *boot, unsigned header, uint32_t *ret_entry, GError **err)
{
	uint32_t flags = load_le32(boot->head + header + 4);
	struct boot_elf elf;

	if (flags & MB_MUST_KNOW & ~(MB_ALIGN | MB_MEMORY | MB_VIDEO))
		return boot_file_fail(&boot->kernel, err,
				      "asks for unknown multiboot features (flags 0x%x)", flags);
	if (flags & MB_ADDRESSES)
		return load_raw(boot, header, ret_entry, err);
	if (!boot_is_elf(boot))
		return boot_file_fail(&boot->kernel, err,
				      "is a multiboot image, but neither ELF nor with addresses");
	if (!boot_elf_load(boot, &elf, err))
		return false;
	if (elf.entry > UINT32_MAX)
		return boot_file_fail(&boot->kernel, err,
				      "has its entry at 0x%" PRIx64 ", above 4 GiB", elf.entry);
	*ret_entry = (uint32_t)elf.entry;
	return true;
}

static bool put_modules(struct boot *boot, uint8_t *info, GError **err)
{
	uint8_t module[MB_MODULE_SIZE] = { 0 };
	uint64_t size;
	gpa_t at, name, list;

	if (!boot_put_initrd(boot, boot->low_end, &at, &size, err))
		return false;
	if (!at)
		return true;
	name = boot_put(boot, boot->config->initrd, strlen(boot->config->initrd) + 1, err);
	if (!name)
		return false;
	store_le32(module, (uint32_t)at);
	store_le32(module + 4, (uint32_t)(at + size));
	store_le32(module + 8, (uint32_t)name);
	list = boot_put(boot, module, sizeof(module), err);
	store_le32(info + 20, 1);
	store_le32(info + 24, (uint32_t)list);
	return list != 0;
}

static bool put_map(struct boot *boot, uint8_t *info, GError **err)
{
	struct boot_region map[BOOT_MAP_MAX];
	uint8_t out[BOOT_MAP_MAX * MB_MAP_ENTRY] = { 0 };
	unsigned count = boot_memory_map(boot->mem, map);
	gpa_t at;

	for (unsigned i = 0; i < count; i++) {
		uint8_t *e = out + i * MB_MAP_ENTRY;

		store_le32(e, MB_MAP_ENTRY - 4);
		store_le64(e + 4, map[i].base);
		store_le64(e + 12, map[i].size);
		store_le32(e + 20, map[i].type);
	}
	at = boot_put(boot, out, count * MB_MAP_ENTRY, err);
	store_le32(info + 44, count * MB_MAP_ENTRY);
	store_le32(info + 48, (uint32_t)at);
	return at != 0;
}

bool boot_load_multiboot(struct boot *boot, unsigned header, GError **err)
{
	uint8_t info[MB_INFO_SIZE] = { 0 };
	gpa_t cmdline, loader, at;
	uint32_t entry = 0;

	if (!load_image(boot, header, &entry, err) || !put_modules(boot, info, err) ||
	    !boot_put_cmdline(boot, MB_CMDLINE_MAX, &cmdline, err) || !put_map(boot, info, err))
		return false;
	loader = boot_put(boot, mb_loader_name, sizeof(mb_loader_name), err);
	if (!loader)
		return false;
	store_le32(info, MB_INFO_MEMORY | MB_INFO_CMDLINE | MB_INFO_MODULES | MB_INFO_MAP |
				 MB_INFO_LOADER);
	store_le32(info + 4, LAYOUT_LOW_RAM_END / KIB);
	store_le32(info + 8, (uint32_t)((boot->low_end - LAYOUT_RESERVED_END) / KIB));
	store_le32(info + 16, (uint32_t)cmdline);
	store_le32(info + 64, (uint32_t)loader);
	at = boot_put(boot, info, sizeof(info), err);
	if (!at || !boot_enter_flat32(boot, entry, err))
		return false;
	boot->bsp->gpr[X86_RAX] = MB_LOADER_MAGIC;
	boot->bsp->gpr[X86_RBX] = at;
	return true;
}
