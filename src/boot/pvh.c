// SPDX-License-Identifier: Apache-2.0
/*
 * pvh.c - ELF kernels entered through PVH: flat 32-bit mode, EBX points to struct hvm_start_info.
 *
 * Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h, version 1.
 */
#include "boot/boot_int.h"

#include <string.h>

#include "base/bits.h"

#define PVH_MAGIC     0x336ec578u
#define PVH_VERSION   1u
#define PVH_INFO_SIZE 56u
#define PVH_MODULE_SIZE 32u
#define PVH_MAP_ENTRY 24u
/* hvm_start_info names no length for the command line. */
#define PVH_CMDLINE_MAX 4096u

static gpa_t put_map(struct boot *boot, unsigned *ret_count, GError **err)
{
	struct boot_region map[BOOT_MAP_MAX];
	uint8_t out[BOOT_MAP_MAX * PVH_MAP_ENTRY] = { 0 };

	*ret_count = boot_memory_map(boot->mem, map);
	for (unsigned i = 0; i < *ret_count; i++) {
		store_le64(out + i * PVH_MAP_ENTRY, map[i].base);
		store_le64(out + i * PVH_MAP_ENTRY + 8, map[i].size);
		store_le32(out + i * PVH_MAP_ENTRY + 16, map[i].type);
	}
	return boot_put(boot, out, *ret_count * PVH_MAP_ENTRY, err);
}

static bool put_module(struct boot *boot, gpa_t *ret_list, GError **err)
{
	uint8_t module[PVH_MODULE_SIZE] = { 0 };
	uint64_t size;
	gpa_t at;

	*ret_list = 0;
	if (!boot_put_initrd(boot, boot->low_end, &at, &size, err))
		return false;
	if (!at)
		return true;
	store_le64(module, at);
	store_le64(module + 8, size);
	*ret_list = boot_put(boot, module, sizeof(module), err);
	return *ret_list != 0;
}

bool boot_load_pvh(struct boot *boot, const struct boot_elf *parsed, GError **err)
{
	uint8_t info[PVH_INFO_SIZE] = { 0 };
	struct boot_elf elf = *parsed;
	gpa_t modules, cmdline, map, at;
	unsigned map_count;

	if (!boot_elf_load(boot, &elf, err))
		return false;
	if (!mem_ptr(boot->mem, elf.pvh_entry, 1) || elf.pvh_entry > UINT32_MAX)
		return boot_file_fail(&boot->kernel, err,
				      "has a PVH entry at 0x%" PRIx64 ", which is not memory",
				      elf.pvh_entry);
	if (!put_module(boot, &modules, err) ||
	    !boot_put_cmdline(boot, PVH_CMDLINE_MAX, &cmdline, err))
		return false;
	map = put_map(boot, &map_count, err);
	if (!map)
		return false;
	store_le32(info, PVH_MAGIC);
	store_le32(info + 4, PVH_VERSION);
	store_le32(info + 12, modules ? 1 : 0);
	store_le64(info + 16, modules);
	store_le64(info + 24, cmdline);
	store_le64(info + 32, boot->rsdp);
	store_le64(info + 40, map);
	store_le32(info + 48, map_count);
	at = boot_put(boot, info, sizeof(info), err);
	if (!at || !boot_enter_flat32(boot, (uint32_t)elf.pvh_entry, err))
		return false;
	boot->bsp->gpr[X86_RBX] = at;
	return true;
}
