// SPDX-License-Identifier: Apache-2.0
/* vhdx.c - fuzz target: a VHDX image with bytes of the fuzzer's choice in its headers, tables and
 * log. */
#include <string.h>

#include "base/bits.h"
#include "disk/formats/vhdx.h"
#include "form.h"

#define LOG	 0x100000u
#define METADATA 0x300000u
#define ROOM (6u << 20)

/* Checksums as they should be, and often an entry in the log that is right as far as can be. */
static void mend(uint8_t *bytes, uint64_t room)
{
	uint8_t *header = bytes + VHDX_HEADER_1, *entry = bytes + LOG;
	uint32_t len = load_le32(entry + 8);

	(void)room;
	/* Has a parent; the parameters are the first item. */
	if (header[VHDX_AT_FILE_GUID] & 1)
		bytes[METADATA + VHDX_METADATA_BYTES + 4] |= 2;
	if (header[VHDX_AT_LOG_GUID]) {
		store_le32(entry, 0x65676f6c);
		memcpy(entry + 32, header + VHDX_AT_LOG_GUID, 16);
		if (len == 0 || len > 0x100000 || len % 4096)
			len = 8192;
		store_le32(entry + 8, len);
		store_le32(entry + 12, 0);
		store_le64(entry + 16, 1);
		if (load_le32(entry + 24) > 16)
			store_le32(entry + 24, 1);
		store_le64(entry + 48, 0);
		for (uint32_t i = 0; i < load_le32(entry + 24); i++) {
			uint8_t *d = entry + 64 + i * 32ul;

			store_le32(d, d[0] & 1 ? 0x6f72657a : 0x63736564);
			store_le64(d + 16, load_le64(d + 16) & 0x3ff000);
			store_le64(d + 24, 1);
		}
		store_le32(entry + 4096, 0x61746164);
		store_le32(entry + 4100, 0);
		store_le32(entry + 8188, 1);
		store_le32(entry + 4, vhdx_sum(entry, len, 4));
	}
	store_le32(header + VHDX_AT_SUM, vhdx_sum(header, VHDX_HEADER_BYTES, VHDX_AT_SUM));
	store_le32(bytes + VHDX_REGIONS_1 + 4,
		   vhdx_sum(bytes + VHDX_REGIONS_1, VHDX_REGIONS_BYTES, 4));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const char *const options[] = { "block_size=1M",
					       "block_size=1M,block_state_zero=on" };
	static const uint64_t places[] = { VHDX_HEADER_1,      VHDX_REGIONS_1, LOG,
					   0x200000,	       0x300000,       0x310000,
					   VHDX_HEADER_1 + 40, LOG + 4096 };
	static const struct form_fuzz fuzz = { .name = "vhdx",
					       .options = options,
					       .option_count = 2,
					       .room = ROOM,
					       .places = places,
					       .place_count = ARRAY_SIZE(places),
					       .mend = mend };

	return form_fuzz(&fuzz, bytes, size);
}
