// SPDX-License-Identifier: Apache-2.0
/*
 * boot.c - fuzz the loaders with damaged kernels.
 *
 * The first byte picks what to damage: nothing (the input is the file), or a small bzImage, PVH or
 * multiboot image. Then come its length and pairs of offset and byte to write.
 */
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/units.h"
#include "boot/boot.h"
#include "image.h"
#include "x86/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t multiboot[32] = {
	0x02, 0xb0, 0xad, 0x1b, 0x03, 0x00, 0x00, 0x00, 0xfb, 0x4f, 0x52, 0xe4,
};
static const uint8_t multiboot_raw[64] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00, 0x20,
	0x00, 0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00,
	0x20, 0x00,
};

static GByteArray *skeleton(unsigned kind)
{
	GByteArray *raw;

	switch (kind % 6) {
	case 1:
		return image_linux(700, TRUE);
	case 2:
		return image_elf(64, 0x200000, 0x2000, "\xf4", 1, 0x200000);
	case 3:
		return image_elf(32, 0x200000, 0x2000, "\xf4", 1, 0x200000);
	case 4:
		return image_elf(32, 0x200000, 0x2000, multiboot, sizeof(multiboot), 0);
	case 5:
		raw = g_byte_array_new();
		return g_byte_array_append(raw, multiboot_raw, sizeof(multiboot_raw));
	default:
		return g_byte_array_new();
	}
}

/* The interesting offsets lie in the first KiB: most pairs aim there. */
static GByteArray *damaged(const uint8_t *data, size_t size)
{
	GByteArray *image = skeleton(data[0]);
	uint16_t len;

	if (image->len == 0)
		return g_byte_array_append(image, data + 1, (guint)size - 1);
	if (size < 3)
		return image;
	len = load_le16(data + 1);
	if (len < image->len)
		g_byte_array_set_size(image, len);
	for (size_t i = 3; i + 3 <= size && image->len; i += 3) {
		uint16_t at = load_le16(data + i);

		at = at & 0x8000 ? at & 0x7fff : at & 0x3ff;
		image->data[at % image->len] = data[i + 2];
	}
	return image;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem *mem;
	static int fd = -1;
	static char path[32];
	struct boot_config config = { .kernel = path, .cmdline = "quiet", .cpus = 2 };
	g_autoptr(GByteArray) image = NULL;
	g_autoptr(GError) err = NULL;
	struct x86_state state = { 0 };

	if (size < 1)
		return 0;
	if (!mem) {
		mem = image_mem(24 * MIB);
		fd = memfd_create("kernel", MFD_CLOEXEC);
		g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	image = damaged(data, size);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, image->data, image->len, 0) < 0)
		return 0;
	if (boot_load(&config, mem, &state, &err))
		g_assert(mem_ptr(mem, state.gdtr.base, state.gdtr.limit));
	else
		g_assert(err);
	return 0;
}
