// SPDX-License-Identifier: Apache-2.0
/*
 * vhdx.h - what the files of the VHDX format share: "[MS-VHDX]: Virtual Hard Disk v2 (VHDX) File
 *Format", of which the sections are cited.
 *
 *	vhdx.c		opening, and blocks
 *	vhdx_header.c	the two headers, the regions, the metadata
 *	vhdx_parent.c	what an image stands on
 *	vhdx_log.c	replay of a log that was not emptied
 *	vhdx_create.c	making an image
 *
 * Numbers are little-endian. What is found through the table of regions lies at multiples of 1 MiB.
 */
#pragma once

#include "disk/formats/blocks.h"

#define VHDX_ALIGN	    (1u << 20)
#define VHDX_HEADER_1	    0x10000u
#define VHDX_HEADER_2	    0x20000u
#define VHDX_HEADER_BYTES   4096u
#define VHDX_REGIONS_1	    0x30000u
#define VHDX_REGIONS_2	    0x40000u
#define VHDX_REGIONS_BYTES  0x10000u
#define VHDX_MAX_REGIONS    2047u
#define VHDX_METADATA_BYTES 0x10000u /* of its table, in front of the items */
#define VHDX_MAX_ITEMS	    2047u
#define VHDX_MAX_LOG	    (64u << 20)
#define VHDX_MAX_BYTES	    (64ull << 40)
#define VHDX_LOG_SECTOR	    4096u

#define VHDX_HEADER_MARK  0x64616568u /* "head" */
#define VHDX_REGIONS_MARK 0x69676572u /* "regi" */

/* 2.2.2, Headers */
enum vhdx_header_field {
	VHDX_AT_MARK = 0,
	VHDX_AT_SUM = 4,
	VHDX_AT_SEQUENCE = 8,
	VHDX_AT_FILE_GUID = 16,
	VHDX_AT_DATA_GUID = 32,
	VHDX_AT_LOG_GUID = 48,
	VHDX_AT_LOG_VERSION = 64,
	VHDX_AT_VERSION = 66,
	VHDX_AT_LOG_BYTES = 68,
	VHDX_AT_LOG = 72,
};

/* 2.5.1.1, the state of a payload block */
enum vhdx_state {
	VHDX_NOT_PRESENT = 0,
	VHDX_UNDEFINED = 1,
	VHDX_ZERO = 2,
	VHDX_UNMAPPED = 3,
	VHDX_PRESENT = 6,
	VHDX_PARTIAL = 7,
};

extern const uint8_t vhdx_guid_table[16], vhdx_guid_metadata[16]; /* regions */
/* items of metadata */
extern const uint8_t vhdx_guid_parameters[16], vhdx_guid_size[16], vhdx_guid_page83[16],
	vhdx_guid_logical[16], vhdx_guid_physical[16], vhdx_guid_parent[16];
extern const uint8_t vhdx_guid_locator[16]; /* of the kind of parent's locator that there is */

struct vhdx {
	struct blocks b;
	uint8_t header[VHDX_HEADER_BYTES]; /* that is valid */
	unsigned header_number; /* 1 or 2: where it lies */
	uint64_t log_at, metadata_at;
	uint32_t log_bytes, metadata_bytes, table_bytes;
	uint32_t chunk; /* blocks; behind each so many in the table lies the entry of a bitmap */
	uint32_t logical_sector, physical_sector;
	bool fixed, has_parent;
	char *parent_name; /* owned; NULL: not told */
	uint8_t parent_guid[16]; /* DataWriteGuid of the parent as it must be */
};

/* CRC-32C (2.2, Castagnoli's polynomial), the four bytes at @sum_at taken as zeros. */
uint32_t vhdx_sum(const uint8_t *bytes, size_t len, size_t sum_at);
/* A step of it where the processor has no instruction for it (SSE4.2). */
uint32_t vhdx_sum_plain(uint32_t sum, const uint8_t *bytes, size_t len);

/* ---- vhdx_header.c ---- */
bool vhdx_load_header(struct vhdx *v, GError **err);
bool vhdx_load_regions(struct vhdx *v, GError **err);
bool vhdx_load_metadata(struct vhdx *v, GError **err);
/* Write v->header, as the valid one from now on, durably. */
int vhdx_write_header(struct vhdx *v);

/* ---- vhdx_parent.c ---- */
/* 2.6.2.6: the item that says where the parent is, of @len bytes. */
bool vhdx_load_locator(struct vhdx *v, const uint8_t *item, uint32_t len, GError **err);
/* The other way round: bytes of it, or 0: the name is no UTF-8, or too long. */
uint32_t vhdx_make_locator(const struct vhdx *parent, const char *name, uint8_t *to, uint32_t room);
bool vhdx_open_parent(struct vhdx *v, const struct disk_options *o, struct loop *loop,
		      const struct disk_chain *chain, GError **err);

/* ---- vhdx_log.c ---- */
bool vhdx_log_is_empty(const struct vhdx *v);
/* Do what the log says and empty it. */
bool vhdx_log_replay(struct vhdx *v, GError **err);
