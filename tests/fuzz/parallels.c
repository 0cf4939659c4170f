// SPDX-License-Identifier: Apache-2.0
/* parallels.c - fuzz target: a Parallels image with bytes of the fuzzer's choice. */
#include <string.h>

#include "base/bits.h"
#include "form.h"

static void make(uint8_t *bytes, uint64_t *ret_bytes)
{
	memcpy(bytes, "WithouFreSpacExt", 16);
	store_le32(bytes + 16, 2);
	store_le32(bytes + 28, 8);
	store_le32(bytes + 32, 64);
	store_le64(bytes + 36, 500);
	for (unsigned i = 0; i < 64; i++)
		store_le32(bytes + 64 + i * 4, i % 3 ? i : 0);
	*ret_bytes = 300000;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct form_fuzz fuzz = { .name = "parallels",
					       .room = 1u << 20,
					       .make = make };

	return form_fuzz(&fuzz, bytes, size);
}
