// SPDX-License-Identifier: Apache-2.0
/* vdi.c - fuzz target: a VDI image with bytes of the fuzzer's choice in its header and table. */
#include "form.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { NULL, "static=on" };
	static const struct form_fuzz fuzz = {
		.name = "vdi", .options = options, .option_count = 2, .room = 1u << 20
	};

	return form_fuzz(&fuzz, bytes, size);
}
