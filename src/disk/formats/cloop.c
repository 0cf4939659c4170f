// SPDX-License-Identifier: Apache-2.0
/*
 * cloop.c - compressed loop devices (Knoppix), read.
 *
 * Version 2 of the format, as its kernel module's cloop.h has it: 128 bytes that begin a shell
 * script, the bytes of a block and the number of blocks (32 bits, big-endian), where each block
 * begins and where the last one ends (64 bits), and the blocks, a zlib stream each (RFC 1950).
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "disk/formats/blocks.h"
#include "disk/formats/formats_int.h"

#define AT_BLOCK  128u
#define AT_COUNT  132u
#define AT_TABLE  136u
#define MAX_BLOCK (64u << 20)

static struct blocks_place cloop_decode(const struct blocks *b, uint64_t block,
					const uint8_t *entry)
{
	(void)b;
	(void)block;
	return (struct blocks_place){ BLOCKS_PACKED, load_be64(entry) };
}

static int cloop_unpack(struct blocks *b, uint64_t block, uint64_t host)
{
	g_autofree uint8_t *packed = NULL;
	uLongf len = b->block_bytes;
	uint64_t end;
	uint8_t next[8];
	int r = blocks_file_read(b, next, sizeof(next), AT_TABLE + (block + 1) * 8);

	if (r < 0)
		return r;
	end = load_be64(next);
	if (end <= host || end > b->file->size_bytes || end - host > 2 * b->block_bytes)
		return blocks_damaged(b, "a compressed block of an impossible size", host);
	packed = g_try_malloc(end - host);
	r = packed ? blocks_file_read(b, packed, end - host, host) : -ENOMEM;
	if (r < 0)
		return r;
	if (uncompress(b->unpacked, &len, packed, end - host) != Z_OK)
		return blocks_damaged(b, "a compressed block that cannot be read", host);
	memset(b->unpacked + len, 0, b->block_bytes - len);
	return 0;
}

static const struct blocks_ops cloop_ops = {
	.decode = cloop_decode,
	.unpack = cloop_unpack,
};

static bool load(struct blocks *b, GError **err)
{
	uint8_t h[AT_TABLE];
	uint32_t block, count;

	if (!blocks_file_load(b, h, sizeof(h), 0, err))
		return false;
	if (memcmp(h, DISK_CLOOP_MARK, sizeof(DISK_CLOOP_MARK) - 1))
		return blocks_refuse(b, err, "is not a cloop image of version 2");
	block = load_be32(h + AT_BLOCK);
	count = load_be32(h + AT_COUNT);
	if (block == 0 || block > MAX_BLOCK || block % DISK_SECTOR_SIZE)
		return blocks_refuse(b, err, "has blocks of %u bytes", block);
	if (count == 0)
		return blocks_refuse(b, err, "has no blocks");
	/* The block behind the last one is where that ends. */
	if (b->file->size_bytes < AT_TABLE + (count + 1ull) * 8)
		return blocks_refuse(b, err, "has a table of blocks that reaches behind its end");
	b->disk.size_bytes = (uint64_t)block * count;
	b->block_bytes = block;
	b->table_at = AT_TABLE;
	b->data_at = AT_TABLE + (count + 1ull) * 8;
	b->entry_bytes = 8;
	b->page_entries = BLOCKS_PAGE / 8;
	b->pack_only = true;
	return true;
}

struct disk *cloop_open_take(struct disk *file, const struct disk_options *o, struct loop *loop,
			     const struct disk_chain *chain, GError **err)
{
	struct blocks *b = blocks_new(sizeof(*b), file, "cloop", &cloop_ops);

	(void)o;
	(void)loop;
	(void)chain;
	if (!load(b, err))
		return blocks_fail_take(b);
	if (!file->readonly) {
		blocks_refuse(b, err,
			      "is a cloop image, which can only be read; add 'readonly', or "
			      "convert it");
		return blocks_fail_take(b);
	}
	b->about =
		g_strdup_printf("compressed, blocks of %u KiB", (unsigned)(b->block_bytes / 1024));
	return blocks_open_take(b, err);
}
