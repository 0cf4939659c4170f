// SPDX-License-Identifier: Apache-2.0
/*
 * vmdk_stream.c - compressed grains (vmdk.h; section "Stream-Optimized Compressed Sparse Extents").
 *
 * A grain is a marker (its first sector, the bytes that follow) and a zlib stream (RFC 1950),
 * padded to a sector. It is written once.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "disk/formats/vmdk.h"

int vmdk_unpack(struct blocks *b, uint64_t block, uint64_t host)
{
	g_autofree uint8_t *bytes = NULL;
	uLongf len = b->block_bytes;
	uint8_t marker[VMDK_MARKER];
	uint32_t packed;
	int r = blocks_file_read(b, marker, sizeof(marker), host);

	(void)block;
	if (r < 0)
		return r;
	packed = load_le32(marker + 8);
	/* What does not get smaller becomes a little larger. */
	if (packed == 0 || packed > 2 * b->block_bytes)
		return blocks_damaged(b, "a compressed grain of an impossible size", host);
	bytes = g_try_malloc(packed);
	if (!bytes)
		return -ENOMEM;
	r = blocks_file_read(b, bytes, packed, host + VMDK_MARKER);
	if (r < 0)
		return r;
	if (uncompress(b->unpacked, &len, bytes, packed) != Z_OK)
		return blocks_damaged(b, "a compressed grain that cannot be read", host);
	memset(b->unpacked + len, 0, b->block_bytes - len);
	return 0;
}

int vmdk_pack(struct blocks *b, uint64_t block, const uint8_t *bytes, uint64_t *ret_host)
{
	uLongf len = compressBound(b->block_bytes);
	g_autofree uint8_t *packed = g_try_malloc0(align_up(VMDK_MARKER + len, DISK_SECTOR_SIZE));
	uint64_t host = align_up(b->end, DISK_SECTOR_SIZE), all;

	if (!packed)
		return -ENOMEM;
	if (host / DISK_SECTOR_SIZE > UINT32_MAX)
		return -EFBIG;
	if (compress2(packed + VMDK_MARKER, &len, bytes, b->block_bytes, Z_DEFAULT_COMPRESSION) !=
	    Z_OK)
		return -EIO;
	store_le64(packed, block * (b->block_bytes / DISK_SECTOR_SIZE));
	store_le32(packed + 8, (uint32_t)len);
	all = align_up(VMDK_MARKER + len, DISK_SECTOR_SIZE);
	memset(packed + VMDK_MARKER + len, 0, all - VMDK_MARKER - len);
	b->end = host + all;
	*ret_host = host;
	return blocks_file_write(b, packed, all, host);
}
