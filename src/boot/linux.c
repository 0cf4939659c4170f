// SPDX-License-Identifier: Apache-2.0
/*
 * linux.c - the Linux/x86 boot protocol: bzImage with its 64-bit entry, or the 32-bit one.
 *
 * Linux, Documentation/arch/x86/boot.rst and zero-page.rst. The kernel goes to the address it
 * prefers, so that it need not move itself before it unpacks; the initrd as high as allowed.
 */
#include "boot/boot_int.h"

#include <string.h>

#include "base/bits.h"
#include "base/units.h"

/* Offsets in the file's first sectors, equal to those in struct boot_params. */
#define HDR_SETUP_SECTS	   0x1f1u
#define HDR_SYSSIZE	   0x1f4u /* in 16-byte paragraphs */
#define HDR_VID_MODE	   0x1fau
#define HDR_BOOT_FLAG	   0x1feu
#define HDR_JUMP	   0x200u /* short jump over the header: its length is in the operand */
#define HDR_MAGIC	   0x202u
#define HDR_VERSION	   0x206u
#define HDR_LOADER_TYPE	   0x210u
#define HDR_LOADFLAGS	   0x211u
#define HDR_CODE32_START   0x214u
#define HDR_RAMDISK_IMAGE  0x218u
#define HDR_RAMDISK_SIZE   0x21cu
#define HDR_CMD_LINE_PTR   0x228u
#define HDR_INITRD_MAX	   0x22cu
#define HDR_XLOADFLAGS	   0x236u
#define HDR_CMDLINE_SIZE   0x238u
#define HDR_PREF_ADDRESS   0x258u
#define HDR_INIT_SIZE	   0x260u
#define HDR_END		   0x290u /* next field of struct boot_params */

#define PARAMS_SIZE	   4096u
#define PARAMS_RSDP	   0x070u
#define PARAMS_E820_COUNT  0x1e8u
#define PARAMS_E820	   0x2d0u
#define E820_ENTRY	   20u

#define LINUX_MAGIC	   0x53726448u /* "HdrS" */
#define LINUX_BOOT_FLAG	   0xaa55u
#define LINUX_LOADER_OTHER 0xffu
#define LINUX_VID_NORMAL   0xffffu
#define LOADFLAG_HIGH	   0x01u
#define XLOAD_KERNEL_64	   0x01u
#define XLOAD_ABOVE_4G	   0x02u
#define ENTRY64_OFFSET	   0x200u
#define SECTOR		   512u
#define LINUX_LOAD_HIGH	   0x100000u
#define LINUX_OLD_CMDLINE  255u
#define LINUX_CMDLINE_MAX  65536u

/* What the loader needs of the setup header, checked. */
struct linux_image {
	unsigned version;
	uint64_t offset; /* of the protected-mode part in the file */
	uint64_t size;	 /* of that part */
	gpa_t load;
	uint64_t memory; /* bytes from load on that the kernel uses before it reads the map */
	bool entry64;
	uint64_t cmdline_max; /* with the final zero */
	gpa_t initrd_limit;
};

bool boot_is_linux(const struct boot *boot)
{
	return boot->head_len >= HDR_END && load_le32(boot->head + HDR_MAGIC) == LINUX_MAGIC &&
	       load_le16(boot->head + HDR_BOOT_FLAG) == LINUX_BOOT_FLAG;
}

static bool linux_sizes(const struct boot *boot, struct linux_image *img, GError **err)
{
	const uint8_t *h = boot->head;
	unsigned setup_sects = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4;
	uint64_t said;

	img->offset = (setup_sects + 1) * SECTOR;
	if (img->offset >= boot->kernel.size)
		return boot_file_fail(&boot->kernel, err, "is a bzImage cut short in its setup part");
	img->size = boot->kernel.size - img->offset;
	said = (uint64_t)load_le32(h + HDR_SYSSIZE) * 16;
	/* syssize is rounded up to its unit. */
	if (said > img->size + 15)
		return boot_file_fail(&boot->kernel, err,
				      "is a bzImage cut short: %" PRIu64 " of %" PRIu64
				      " bytes are there",
				      img->size, said);
	return true;
}

static bool linux_header(const struct boot *boot, struct linux_image *img, GError **err)
{
	const uint8_t *h = boot->head;

	*img = (struct linux_image){ .version = load_le16(h + HDR_VERSION) };
	if (img->version < 0x0200 || !(h[HDR_LOADFLAGS] & LOADFLAG_HIGH))
		return boot_file_fail(&boot->kernel, err,
				      "is a zImage (boot protocol %x.%02x): only bzImages are loaded",
				      img->version >> 8, img->version & 0xff);
	if (!linux_sizes(boot, img, err))
		return false;

	img->load = LINUX_LOAD_HIGH;
	img->memory = img->size;
	img->cmdline_max = LINUX_OLD_CMDLINE + 1;
	img->initrd_limit = 0x38000000; /* boot.rst, initrd_addr_max, for protocols before 2.03 */
	if (img->version >= 0x0203)
		img->initrd_limit = (gpa_t)load_le32(h + HDR_INITRD_MAX) + 1;
	if (img->version >= 0x0206)
		img->cmdline_max = MIN((uint64_t)load_le32(h + HDR_CMDLINE_SIZE) + 1,
				       LINUX_CMDLINE_MAX);
	if (img->version >= 0x020a) {
		img->load = load_le64(h + HDR_PREF_ADDRESS);
		img->memory = MAX(img->size, load_le32(h + HDR_INIT_SIZE));
	}
	if (img->version >= 0x020c) {
		unsigned flags = load_le16(h + HDR_XLOADFLAGS);

		img->entry64 = flags & XLOAD_KERNEL_64;
		if (flags & XLOAD_ABOVE_4G)
			img->initrd_limit = MEM_HOLE_START;
	}
	return true;
}

static bool linux_load_image(struct boot *boot, const struct linux_image *img, GError **err)
{
	g_autofree char *memory = size_format(mem_size(boot->mem));
	g_autofree char *need = NULL;

	if (img->load < LINUX_LOAD_HIGH || img->load > UINT32_MAX ||
	    !mem_ptr(boot->mem, img->load, img->memory)) {
		need = size_format(img->memory);
		return boot_file_fail(&boot->kernel, err,
				      "does not fit: it needs %s from 0x%" PRIx64
				      " on, the machine has %s of memory",
				      need, img->load, memory);
	}
	if (!boot_file_load(&boot->kernel, boot->mem, img->offset, img->load, img->size, err))
		return false;
	boot_take(boot, img->load, img->memory);
	return true;
}

static void linux_memory_map(const struct boot *boot, uint8_t *params)
{
	struct boot_region map[BOOT_MAP_MAX];
	unsigned count = boot_memory_map(boot->mem, map);

	for (unsigned i = 0; i < count; i++) {
		uint8_t *e = params + PARAMS_E820 + i * E820_ENTRY;

		store_le64(e, map[i].base);
		store_le64(e + 8, map[i].size);
		store_le32(e + 16, map[i].type);
	}
	params[PARAMS_E820_COUNT] = (uint8_t)count;
}

/* struct boot_params: the setup header as it came, our answers written over it. */
static gpa_t linux_params(struct boot *boot, const struct linux_image *img, gpa_t cmdline,
			  gpa_t initrd, uint64_t initrd_size, GError **err)
{
	g_autofree uint8_t *p = g_malloc0(PARAMS_SIZE);
	unsigned end = MIN(HDR_MAGIC + boot->head[HDR_JUMP + 1], HDR_END);

	memcpy(p + HDR_SETUP_SECTS, boot->head + HDR_SETUP_SECTS, end - HDR_SETUP_SECTS);
	store_le16(p + HDR_VID_MODE, LINUX_VID_NORMAL);
	p[HDR_LOADER_TYPE] = LINUX_LOADER_OTHER;
	store_le32(p + HDR_CODE32_START, (uint32_t)img->load);
	store_le32(p + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
	store_le32(p + HDR_RAMDISK_SIZE, (uint32_t)initrd_size);
	store_le32(p + HDR_CMD_LINE_PTR, (uint32_t)cmdline);
	store_le64(p + PARAMS_RSDP, boot->rsdp);
	linux_memory_map(boot, p);
	return boot_put(boot, p, PARAMS_SIZE, err);
}

bool boot_load_linux(struct boot *boot, GError **err)
{
	struct linux_image img;
	gpa_t initrd, cmdline, params;
	uint64_t initrd_size;
	bool ok;

	if (!linux_header(boot, &img, err) || !linux_load_image(boot, &img, err) ||
	    !boot_put_initrd(boot, img.initrd_limit, &initrd, &initrd_size, err) ||
	    !boot_put_cmdline(boot, img.cmdline_max, &cmdline, err))
		return false;
	params = linux_params(boot, &img, cmdline, initrd, initrd_size, err);
	if (!params)
		return false;
	ok = img.entry64 ? boot_enter_flat64(boot, img.load + ENTRY64_OFFSET, err)
			 : boot_enter_flat32(boot, (uint32_t)img.load, err);
	boot->bsp->gpr[X86_RSI] = params;
	return ok;
}
