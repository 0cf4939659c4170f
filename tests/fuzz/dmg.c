// SPDX-License-Identifier: Apache-2.0
/* dmg.c - fuzz target: a DMG image with bytes of the fuzzer's choice in its trailer, resources and
 * pieces. */
#include <bzlib.h>
#if __has_include(<lzma.h>)
#include <lzma.h>
#endif
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "disk/formats/dmg.h"
#include "form.h"

#define PIECES	  12u
#define SECTORS	  8u /* of a piece */
#define RESOURCES 0x8000u
#define TABLE	  (RESOURCES + 256 + 4)
#define TRAILER	  0x9000u

/* A byte, and copies of it: of either kind in turn. */
static uint64_t pack_adc(uint8_t *to, uint8_t byte)
{
	uint64_t at = 0;

	to[at++] = 0x80;
	to[at++] = byte;
	for (unsigned left = SECTORS * 512 - 1; left > 0;) {
		bool is_long = left % 2;
		unsigned most = is_long ? 67 : 18, n = MIN(left, most);

		/* No rest that is too short for a copy. */
		if (left > n && left - n < 4)
			n -= 4;
		to[at++] = (uint8_t)(is_long ? 0x40 | (n - 4) : (n - 3) << 2);
		if (is_long)
			to[at++] = 0;
		to[at++] = 0;
		left -= n;
	}
	return at;
}

static uint64_t pack_lzma(uint8_t *to, const uint8_t *block, size_t len)
{
	size_t done = 0;

#if __has_include(<lzma.h>)
	(void)lzma_easy_buffer_encode(0, LZMA_CHECK_NONE, NULL, block, len, to, &done, len + 1024);
#endif
	return done;
}

static uint64_t pack(uint8_t *to, unsigned i, uint32_t *ret_kind)
{
	uint8_t block[SECTORS * 512];
	uLongf len = sizeof(block) + 1024;
	unsigned small = sizeof(block) + 1024;

	memset(block, (int)i, sizeof(block));
	switch (i % 6) {
	case 0:
		*ret_kind = DMG_NOTHING;
		return 0;
	case 1:
		*ret_kind = DMG_RAW;
		memcpy(to, block, sizeof(block));
		return sizeof(block);
	case 2:
		*ret_kind = DMG_ZLIB;
		(void)compress(to, &len, block, sizeof(block));
		return len;
	case 3:
		*ret_kind = DMG_ADC;
		return pack_adc(to, (uint8_t)i);
	case 4:
		small = (unsigned)pack_lzma(to, block, sizeof(block));
		*ret_kind = small ? DMG_LZMA : DMG_NOTHING;
		return small;
	default:
		*ret_kind = DMG_BZIP2;
		(void)BZ2_bzBuffToBuffCompress((char *)to, &small, (char *)block, sizeof(block), 1, 0,
					       0);
		return small;
	}
}

static void build(uint8_t *bytes)
{
	uint8_t *table = bytes + TABLE, *trailer = bytes + TRAILER;
	uint64_t at = 0;

	memcpy(table, "mish", 4);
	store_be32(table + DMG_AT_T_COUNT, PIECES);
	for (unsigned i = 0; i < PIECES; i++) {
		uint8_t *e = table + DMG_TABLE + (size_t)i * DMG_PIECE;
		uint32_t kind;
		uint64_t len = pack(bytes + at, i, &kind);

		store_be32(e, kind);
		store_be64(e + 8, i * SECTORS);
		store_be64(e + 16, SECTORS);
		store_be64(e + 24, at);
		store_be64(e + 32, len);
		at += len;
	}
	store_be32(bytes + RESOURCES, 256);
	store_be32(bytes + RESOURCES + 8, 4 + DMG_TABLE + PIECES * DMG_PIECE);
	store_be32(bytes + RESOURCES + 256, DMG_TABLE + PIECES * DMG_PIECE);
	memcpy(trailer, "koly", 4);
	store_be32(trailer + DMG_AT_BYTES, DMG_TRAILER);
	store_be64(trailer + DMG_AT_RESOURCES, RESOURCES);
	store_be64(trailer + DMG_AT_RESOURCES + 8, TRAILER - RESOURCES);
	store_be64(trailer + DMG_AT_SECTORS, PIECES * SECTORS);
}

/* Packed once for all inputs. */
static void make(uint8_t *bytes, uint64_t *ret_bytes)
{
	static uint8_t image[TRAILER + DMG_TRAILER];

	if (!image[TRAILER])
		build(image);
	memcpy(bytes, image, sizeof(image));
	*ret_bytes = sizeof(image);
}

/* Where a property list is asked for there is one. */
static void mend(uint8_t *bytes, uint64_t room)
{
	uint8_t *trailer = bytes + TRAILER;
	static const char list[] = "<data>bWlzaAAAAAE=</data><data>";

	(void)room;
	if (trailer[DMG_AT_RESOURCES + 15] % 8)
		return;
	store_be64(trailer + DMG_AT_RESOURCES + 8, 0);
	store_be64(trailer + DMG_AT_LIST, RESOURCES);
	store_be64(trailer + DMG_AT_LIST + 8, 4096);
	memcpy(bytes + RESOURCES, list, sizeof(list) - 1);
	for (unsigned i = 0; i < 1000; i++)
		bytes[RESOURCES + sizeof(list) - 1 + i] &= 0x7f;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const uint64_t places[] = { TRAILER, TRAILER + 0xc0, TRAILER + 0x1c0, RESOURCES, TABLE,
					   TABLE + 100, TABLE + 200, TABLE + 300, 0x1000, 0x2000 };
	static const struct form_fuzz fuzz = { .name = "dmg", .room = 256u << 10, .make = make,
					       .mend = mend, .places = places,
					       .place_count = ARRAY_SIZE(places) };

	return form_fuzz(&fuzz, bytes, size);
}
