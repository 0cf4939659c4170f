// SPDX-License-Identifier: Apache-2.0
/* cloop.c - fuzz target: a cloop image with bytes of the fuzzer's choice. */
#include <string.h>
#include <zlib.h>

#include "base/bits.h"
#include "disk/formats/formats_int.h"
#include "form.h"

#define BLOCK 4096u
#define COUNT 16u

static uint64_t pack(uint8_t *bytes)
{
	uint64_t at = 136 + (COUNT + 1) * 8;
	uint8_t block[BLOCK];

	memcpy(bytes, DISK_CLOOP_MARK, sizeof(DISK_CLOOP_MARK));
	store_be32(bytes + 128, BLOCK);
	store_be32(bytes + 132, COUNT);
	for (unsigned i = 0; i < COUNT; i++) {
		uLongf len = compressBound(BLOCK);

		memset(block, (int)i, BLOCK);
		store_be64(bytes + 136 + i * 8ul, at);
		(void)compress(bytes + at, &len, block, BLOCK);
		at += len;
	}
	store_be64(bytes + 136 + COUNT * 8, at);
	return at;
}

/* Packed once for all inputs. */
static void make(uint8_t *bytes, uint64_t *ret_bytes)
{
	static uint8_t image[COUNT * BLOCK];
	static uint64_t len;

	if (!len)
		len = pack(image);
	memcpy(bytes, image, len);
	*ret_bytes = len;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct form_fuzz fuzz = { .name = "cloop", .room = 1u << 20, .make = make };

	return form_fuzz(&fuzz, bytes, size);
}
