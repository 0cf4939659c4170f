// SPDX-License-Identifier: Apache-2.0
/* vhd.c - fuzz target: a VHD image with bytes of the fuzzer's choice in its footer, header and table. */
#include "form.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { NULL, NULL, "subformat=fixed" };

	return form_fuzz("vhd", options, 3, 1u << 20, bytes, size);
}
