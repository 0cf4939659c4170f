// SPDX-License-Identifier: Apache-2.0
/* vhdx.c - fuzz target: a VHDX image with bytes of the fuzzer's choice in its headers, tables and
 * log. */
#include <string.h>

#include "base/bits.h"
#include "disk/formats/vhdx.h"
#include "form.h"

#define LOG	 0x100000u
#define METADATA 0x300000u
#define ROOM	 (6u << 20)
#define TABLE	 0x200000u
#define LOCATOR	 (METADATA + VHDX_METADATA_BYTES + 0x1000)
/* Of the header, where nobody reads: what else the image is. GUIDs, which are random, do not say
 * that. */
#define AT_WISH	     96u
#define WISH_PARENT  1u
#define WISH_LOCATOR 2u
#define WISH_PARTIAL 4u

/* One more item, which says where the parent is, but for a byte. */
static void put_locator(uint8_t *bytes, uint8_t at, uint8_t change)
{
	static const struct vhdx parent;
	uint16_t count = load_le16(bytes + METADATA + 10);
	uint8_t *item = bytes + METADATA + 32 + (count % 16) * 32ul;
	uint32_t len = vhdx_make_locator(&parent, "parent.vhdx", bytes + LOCATOR, 4096);

	store_le16(bytes + METADATA + 10, count % 16 + 1);
	memcpy(item, vhdx_guid_parent, 16);
	store_le32(item + 16, LOCATOR - METADATA);
	store_le32(item + 20, len);
	bytes[LOCATOR + at] ^= change;
}

/* Checksums as they should be, and often an entry in the log that is right as far as can be. */
static void mend(uint8_t *bytes, uint64_t room)
{
	uint8_t *header = bytes + VHDX_HEADER_1, *entry = bytes + LOG;
	uint32_t len = load_le32(entry + 8);

	(void)room;
	/* This is the header that is valid. */
	if (load_le64(header + VHDX_AT_SEQUENCE) == 1)
		store_le64(header + VHDX_AT_SEQUENCE, 3);
	/* Has a parent; the parameters are the first item. */
	if (header[AT_WISH] & (WISH_PARENT | WISH_LOCATOR))
		bytes[METADATA + VHDX_METADATA_BYTES + 4] |= 2;
	/* Of the first block a part is here, as what lies 5 MiB into the file says. */
	if (header[AT_WISH] & WISH_PARTIAL) {
		bytes[METADATA + VHDX_METADATA_BYTES + 4] |= 2;
		store_le64(bytes + TABLE, 4u << 20 | VHDX_PARTIAL);
		store_le64(bytes + TABLE + 4096 * 8, 5u << 20 | VHDX_PRESENT);
	}
	if (header[AT_WISH] & WISH_LOCATOR)
		put_locator(bytes, header[AT_WISH + 1], header[AT_WISH + 2]);
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
	static const uint64_t places[] = {
		VHDX_HEADER_1, VHDX_REGIONS_1,	   LOG,	       TABLE,		METADATA,
		0x310000,      VHDX_HEADER_1 + 40, LOG + 4096, TABLE + 4096 * 8
	};
	static const struct form_fuzz fuzz = { .name = "vhdx",
					       .options = options,
					       .option_count = 2,
					       .room = ROOM,
					       .places = places,
					       .place_count = ARRAY_SIZE(places),
					       .mend = mend };

	return form_fuzz(&fuzz, bytes, size);
}
