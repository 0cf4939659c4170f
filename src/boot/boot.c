// SPDX-License-Identifier: Apache-2.0
/* boot.c - recognize a kernel and hand it to the loader of its kind. */
#include "boot/boot.h"

#include "boot/boot_int.h"

static bool boot_kernel(struct boot *boot, GError **err)
{
	int multiboot = boot_find_multiboot(boot);
	struct boot_elf elf = { 0 };

	if (boot_is_linux(boot))
		return boot_load_linux(boot, err);
	if (boot_is_elf(boot)) {
		if (!boot_elf_parse(boot, &elf, err))
			return false;
		if (elf.has_pvh)
			return boot_load_pvh(boot, &elf, err);
	}
	if (multiboot >= 0)
		return boot_load_multiboot(boot, (unsigned)multiboot, err);
	return boot_file_fail(&boot->kernel, err,
			      "not a kernel: neither bzImage, PVH ELF nor multiboot");
}

bool boot_load(const struct boot_config *config, struct mem *mem, struct x86_state *bsp,
	       GError **err)
{
	const struct mem_slot *low = mem_slots(mem, &(size_t){ 0 });
	g_autofree struct boot *boot = g_new0(struct boot, 1);
	bool ok;

	boot->config = config;
	boot->mem = mem;
	boot->bsp = bsp;
	boot->cmdline = config->cmdline ? config->cmdline : "";
	boot->low_end = low->gpa + low->size;
	boot->taken = g_array_new(FALSE, FALSE, sizeof(struct boot_range));
	boot_take(boot, LAYOUT_LOW_RAM_END, LAYOUT_RESERVED_END - LAYOUT_LOW_RAM_END);

	ok = boot_file_open(&boot->kernel, "kernel", config->kernel, err);
	if (ok) {
		boot->head_len = MIN(boot->kernel.size, sizeof(boot->head));
		ok = boot_file_read(&boot->kernel, 0, boot->head, boot->head_len, err);
	}
	ok = ok && boot_write_acpi(config, mem, &boot->rsdp, err) &&
	     boot_write_smbios(config, mem, err) && boot_kernel(boot, err);

	boot_file_close(&boot->kernel);
	g_array_free(boot->taken, TRUE);
	return ok;
}
