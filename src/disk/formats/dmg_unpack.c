// SPDX-License-Identifier: Apache-2.0
/*
 * dmg_unpack.c - how the pieces of a DMG image are compressed, and what of that can be read (dmg.h).
 *
 * ADC, "Apple Data Compression", is a row of codes, each of which gives some bytes:
 *
 *	1nnnnnnn			n + 1 bytes that follow
 *	00nnnnoo oooooooo		n + 3 bytes from o + 1 bytes back
 *	01nnnnnn oooooooo oooooooo	n + 4 bytes from o + 1 bytes back
 *
 * A copy may reach into what it gives itself.
 */
#include <bzlib.h>
#ifdef SIKA_LZMA
#include <lzma.h>
#endif
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "disk/formats/dmg.h"

/* A dictionary as large as the largest piece, and what goes with it. */
#define LZMA_MEMORY (DMG_MAX_PIECE + (16u << 20))

/* False: that gives anything else than @room bytes. */
typedef bool (*unpack_fn)(const uint8_t *from, size_t len, uint8_t *to, size_t room);

static bool unpack_adc(const uint8_t *from, size_t len, uint8_t *to, size_t room)
{
	size_t at = 0, done = 0, n, back;

	while (at < len && done < room) {
		const uint8_t *code = from + at;

		if (code[0] & 0x80) {
			n = (code[0] & 0x7f) + 1u;
			if (n > len - at - 1 || n > room - done)
				return false;
			memcpy(to + done, code + 1, n);
			done += n;
			at += 1 + n;
			continue;
		}
		if (len - at < (code[0] & 0x40 ? 3 : 2))
			return false;
		if (code[0] & 0x40) {
			n = (code[0] & 0x3f) + 4u;
			back = load_be16(code + 1) + 1u;
			at += 3;
		} else {
			n = (code[0] >> 2) + 3u;
			back = (load_be16(code) & 0x3ff) + 1u;
			at += 2;
		}
		if (back > done || n > room - done)
			return false;
		for (; n > 0; n--, done++)
			to[done] = to[done - back];
	}
	return done == room;
}

static bool unpack_zlib(const uint8_t *from, size_t len, uint8_t *to, size_t room)
{
	uLongf done = room;

	return uncompress(to, &done, from, len) == Z_OK && done == room;
}

static bool unpack_bzip2(const uint8_t *from, size_t len, uint8_t *to, size_t room)
{
	unsigned done = (unsigned)room;

	return BZ2_bzBuffToBuffDecompress((char *)to, &done, (char *)from, (unsigned)len, 0, 0) ==
		       BZ_OK &&
	       done == room;
}

/* A whole .xz file in each. */
#ifdef SIKA_LZMA
static bool unpack_lzma(const uint8_t *from, size_t len, uint8_t *to, size_t room)
{
	uint64_t memory = LZMA_MEMORY;
	size_t at = 0, done = 0;

	return lzma_stream_buffer_decode(&memory, 0, NULL, from, &at, len, to, &done, room) ==
		       LZMA_OK &&
	       done == room;
}
#else
#define unpack_lzma NULL
#endif

static const struct {
	enum dmg_kind kind;
	const char *name;
	unpack_fn unpack; /* NULL: not here */
} ways[] = {
	{ DMG_ADC, "ADC", unpack_adc },	      { DMG_ZLIB, "zlib", unpack_zlib },
	{ DMG_BZIP2, "bzip2", unpack_bzip2 }, { DMG_LZFSE, "LZFSE", NULL },
	{ DMG_LZMA, "LZMA", unpack_lzma },
};

static unsigned find(uint32_t kind)
{
	unsigned i = 0;

	while (i < ARRAY_SIZE(ways) && ways[i].kind != kind)
		i++;
	return i;
}

bool dmg_is_packed(uint32_t kind)
{
	return find(kind) < ARRAY_SIZE(ways);
}

const char *dmg_missing(uint32_t kind)
{
	unsigned i = find(kind);

	return i < ARRAY_SIZE(ways) && !ways[i].unpack ? ways[i].name : NULL;
}

bool dmg_unpack_piece(const struct dmg_piece *p, const uint8_t *packed, uint8_t *to)
{
	return ways[find(p->kind)].unpack(packed, p->len, to, p->count * DISK_SECTOR_SIZE);
}
