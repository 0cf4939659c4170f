// SPDX-License-Identifier: Apache-2.0
/*
 * vhd.h - where the fields of a VHD image lie: "Virtual Hard Disk Image Format Specification",
 * version 1.0 of October 2006, sections "Hard Disk Footer Format" and "Dynamic Disk Header Format".
 *
 * Numbers are big-endian.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct disk;

#define VHD_FOOTER	 512u
#define VHD_HEADER	 1024u
#define VHD_FIXED	 2u
#define VHD_DYNAMIC	 3u
#define VHD_DIFFERENCING 4u
#define VHD_ABSENT	 0xffffffffu
#define VHD_NONE	 UINT64_MAX /* as an offset */
#define VHD_LOCATORS	 8u
#define VHD_NAME	 512u /* bytes of the parent's, UTF-16, big-endian */
#define VHD_RELATIVE	 0x57327275u /* "W2ru": a path from the image on, UTF-16, little-endian */
#define VHD_MAX_BYTES	 (2040ull << 30)
/* The largest geometry: for disks that are larger, it tells nothing. */
#define VHD_MAX_CHS_SECTORS (65535ull * 16 * 255)

enum vhd_footer_field {
	VHD_AT_COOKIE = 0,
	VHD_AT_FEATURES = 8,
	VHD_AT_VERSION = 12,
	VHD_AT_HEADER = 16,
	VHD_AT_TIME = 24,
	VHD_AT_CREATOR = 28,
	VHD_AT_CREATOR_VERSION = 32,
	VHD_AT_HOST = 36,
	VHD_AT_ORIGINAL_SIZE = 40,
	VHD_AT_SIZE = 48,
	VHD_AT_CYLINDERS = 56,
	VHD_AT_HEADS = 58,
	VHD_AT_SECTORS = 59,
	VHD_AT_TYPE = 60,
	VHD_AT_SUM = 64,
	VHD_AT_UUID = 68,
};

enum vhd_header_field {
	VHD_AT_H_NEXT = 8,
	VHD_AT_H_TABLE = 16,
	VHD_AT_H_VERSION = 24,
	VHD_AT_H_BLOCKS = 28,
	VHD_AT_H_BLOCK = 32,
	VHD_AT_H_SUM = 36,
	VHD_AT_H_PARENT = 40, /* its UUID */
	VHD_AT_H_PARENT_TIME = 56,
	VHD_AT_H_NAME = 64,
	VHD_AT_H_LOCATORS = 576,
};

/* Of VHD_LOCATORS where the parent may lie, 24 bytes each. */
enum vhd_locator_field {
	VHD_AT_L_CODE = 0,
	VHD_AT_L_SPACE = 4, /* bytes that are kept for it */
	VHD_AT_L_BYTES = 8,
	VHD_AT_L_OFFSET = 16,
};

/* The footer of an open image. */
const uint8_t *vhd_footer(const struct disk *disk);
/* One's complement of the sum of all bytes but the four at @sum_at. */
uint32_t vhd_sum(const uint8_t *bytes, unsigned len, unsigned sum_at);
bool vhd_is_footer(const uint8_t *footer);
/* Bytes of the bitmap of sectors in front of each block. */
uint64_t vhd_bitmap_bytes(uint64_t block_bytes);
