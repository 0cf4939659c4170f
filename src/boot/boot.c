// SPDX-License-Identifier: Apache-2.0
/* boot.c - recognize a kernel and hand it to the loader of its kind. */
#include "boot/boot.h"

#include <gio/gio.h>

#include "boot/layout.h"

bool boot_load(const struct boot_config *config, struct mem *mem, struct x86_state *bsp,
	       GError **err)
{
	g_set_error(err, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
		    "kernel '%s': not a kernel: neither bzImage, PVH ELF nor multiboot",
		    config->kernel);
	return false;
}
