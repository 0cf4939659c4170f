// SPDX-License-Identifier: Apache-2.0
/*
 * dmg.h - what the files of the DMG format share: Apple's UDIF, "Universal Disk Image Format".
 *
 * There is no specification of Apple's; the layout is the one that several descriptions of it
 * agree on. A trailer ends the file and says where two others lie: data, and a property list (XML)
 * or, in old images, a resource fork, with tables of pieces ("mish", one for each partition). A
 * piece is a run of sectors: data as it is, compressed, or nothing.
 *
 * Numbers are big-endian.
 */
#pragma once

#include "disk/formats/blocks.h"

#define DMG_TRAILER    512u
#define DMG_TABLE      204u /* in front of its pieces */
#define DMG_PIECE      40u
#define DMG_MAX_TABLES (32u << 20) /* bytes of the property list or the resources */
#define DMG_MAX_PIECE  (64u << 20) /* bytes of one that is compressed */

enum dmg_trailer_field {
	DMG_AT_MARK = 0, /* "koly" */
	DMG_AT_BYTES = 8,
	DMG_AT_DATA = 24,
	DMG_AT_RESOURCES = 40, /* offset, length */
	DMG_AT_LIST = 216, /* offset, length */
	DMG_AT_SECTORS = 492,
};

enum dmg_table_field {
	DMG_AT_T_SECTOR = 8, /* that its pieces count from */
	DMG_AT_T_DATA = 24, /* in the data */
	DMG_AT_T_COUNT = 200,
};

enum dmg_kind {
	DMG_ZEROS = 0,
	DMG_RAW = 1,
	DMG_NOTHING = 2,
	DMG_ADC = 0x80000004u,
	DMG_ZLIB = 0x80000005u,
	DMG_BZIP2 = 0x80000006u,
	DMG_LZFSE = 0x80000007u,
	DMG_LZMA = 0x80000008u,
	DMG_COMMENT = 0x7ffffffeu,
	DMG_END = 0xffffffffu,
};

struct dmg_piece {
	uint64_t sector, count; /* of the disk */
	uint64_t at, len; /* in the file */
	enum dmg_kind kind;
};

struct dmg {
	struct blocks b;
	uint64_t data_at;
	GArray *pieces; /* struct dmg_piece; by their sectors */
};

/* ---- dmg_unpack.c ---- */
bool dmg_is_packed(uint32_t kind);
/* The name of a way of compressing that cannot be read here. */
const char *dmg_missing(uint32_t kind);
/* One that is packed, and can be read. False: it is damaged. @packed: p->len bytes. */
bool dmg_unpack_piece(const struct dmg_piece *p, const uint8_t *packed, uint8_t *to);

/* ---- dmg_pieces.c ---- */
/* Finds d->pieces. False: a refusal in @err. @trailer: DMG_TRAILER bytes. */
bool dmg_load_pieces(struct dmg *d, const uint8_t *trailer, GError **err);
