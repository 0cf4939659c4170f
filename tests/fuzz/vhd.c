// SPDX-License-Identifier: Apache-2.0
/* vhd.c - fuzz target: a VHD image with bytes of the fuzzer's choice in its footer, header and
 * table. */
#include <string.h>

#include "base/bits.h"
#include "disk/formats/vhd.h"
#include "form.h"

#define AT_WISH 100u

static void mend(uint8_t *bytes, uint64_t room)
{
	uint64_t header = load_be64(bytes + VHD_AT_HEADER);

	/* On top of another one, where the input says so in a byte that nobody reads: a UUID is
	 * random. */
	if (load_be32(bytes + VHD_AT_TYPE) == VHD_DYNAMIC && bytes[AT_WISH] & 1)
		store_be32(bytes + VHD_AT_TYPE, VHD_DIFFERENCING);
	store_be32(bytes + VHD_AT_SUM, vhd_sum(bytes, VHD_FOOTER, VHD_AT_SUM));
	if (header < room - VHD_HEADER)
		store_be32(bytes + header + VHD_AT_H_SUM,
			   vhd_sum(bytes + header, VHD_HEADER, VHD_AT_H_SUM));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { NULL, NULL, "subformat=fixed" };
	static const struct form_fuzz fuzz = {
		.name = "vhd", .options = options, .option_count = 3, .room = 1u << 20, .mend = mend
	};

	return form_fuzz(&fuzz, bytes, size);
}
