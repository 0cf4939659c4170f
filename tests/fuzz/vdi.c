// SPDX-License-Identifier: Apache-2.0
/* vdi.c - fuzz target: a VDI image with bytes of the fuzzer's choice in its header and table. */
#include "form.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { NULL, "static=on" };

	return form_fuzz("vdi", options, 2, 1u << 20, bytes, size);
}
