// SPDX-License-Identifier: Apache-2.0
/* probe.c - the marks by which image formats other than raw are known. */
#include <string.h>

#include "base/bits.h"
#include "disk/disk_int.h"
#include "disk/formats/formats_int.h"

struct mark {
	const char *format;
	unsigned offset;
	unsigned len;
	const char *bytes;
};

static const struct mark marks[] = {
	{ "qcow2", 0, 4, "QFI\xfb" },
	{ "vmdk", 0, 4, "KDMV" },
	{ "VMDK (COWD)", 0, 4, "COWD" },
	{ "vmdk", 0, 21, "# Disk DescriptorFile" },
	{ "vdi", 0x40, 4, "\x7f\x10\xda\xbe" },
	{ "vhdx", 0, 8, "vhdxfile" },
	{ "vhd", 0, 8, "conectix" },
	{ "cloop", 0, sizeof(DISK_CLOOP_MARK) - 1, DISK_CLOOP_MARK },
	{ "QED", 0, 4, "QED\0" },
	{ "parallels", 0, 16, "WithoutFreeSpace" },
	{ "parallels", 0, 16, "WithouFreSpacExt" },
};

const char *disk_probe(const void *head, size_t bytes)
{
	for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
		const struct mark *m = &marks[i];

		if (bytes >= m->offset + m->len &&
		    memcmp((const char *)head + m->offset, m->bytes, m->len) == 0)
			return m->format;
	}
	return NULL;
}
